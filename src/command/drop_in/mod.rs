//! `pgkeep dump` in the place of a backup script: the env file says everything, and what the script's surroundings rely
//! on stays as it was.
//!
//! The story of a run: directories → the dump, as everywhere → one report for the platform, on success and on every
//! failure → after a success, what `RETENTION_DAYS` lets go. The dump decides how the run ended; a report that could not
//! be put down makes it incomplete, and nothing that comes later takes a backup away from whoever has one.

mod report;
mod retention;

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use super::databases::Databases;
use super::dump::{self, Compress, Item, Options, Plan, PlannedItem, WantedGlobals};
use super::{Context, Copy, Outcome, Place, Status};
use crate::config::directories::make_readable;
use crate::config::env_file::{Bucket, Directories, EnvFile, Remote};
use crate::config::secret::Secret;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::pg::conninfo::{ConnectTarget, ConnectionFlags};
use crate::repo::{FlatLayout, InstanceName};
use crate::storage::{Address, Credentials};
use report::{Attempt, End, Reporter};

/// The env file, and the repositories that it describes.
#[derive(Clone, Debug)]
pub struct DropIn {
    env_file: EnvFile,
    local: Option<Place>,
    remote: Option<Place>,
}

/// `-Z` of the script.
const LEVEL: u8 = 9;

impl DropIn {
    pub fn new(env_file: EnvFile) -> Result<Self> {
        let local = env_file.mode.keeps_locally().then(|| {
            let address = Address::Local(env_file.directories.base.clone());
            place(address, FlatLayout::Directory)
        });
        let remote = match &env_file.remote {
            Some(remote) => Some(place(address_of(remote)?, FlatLayout::Prefix)),
            None => None,
        };
        Ok(Self { env_file, local, remote })
    }

    pub fn env_file(&self) -> &EnvFile {
        &self.env_file
    }

    /// Everything belongs to one instance.
    pub fn instance() -> InstanceName {
        FlatLayout::instance()
    }

    /// The repositories, that of this host first: bytes are read from there if they can be.
    pub fn places(&self) -> Vec<Place> {
        self.local.iter().chain(&self.remote).cloned().collect()
    }

    /// Where a dump writes beside its repositories.
    pub fn directories(&self) -> Vec<PathBuf> {
        let Directories { base, reports, log } = &self.env_file.directories;
        let data = base.join(FlatLayout::DUMPS);
        let local = [base, &data].into_iter().filter(|_| self.local.is_some());
        local.chain([reports, log]).cloned().collect()
    }

    /// Who compresses, and how much.
    pub fn compress(&self) -> Compress {
        Compress::ByPgDump { level: self.env_file.extra_options.level.unwrap_or(LEVEL) }
    }

    pub fn globals(&self) -> WantedGlobals {
        if self.env_file.includes_globals { WantedGlobals::Include } else { WantedGlobals::LeaveOut }
    }

    /// The connection: what the command line says, and for the rest the env file.
    pub fn connection(&self, typed: ConnectionFlags) -> ConnectionFlags {
        let server = &self.env_file.server;
        ConnectionFlags {
            host: typed.host.or_else(|| Some(server.host.clone())),
            port: typed.port.or_else(|| Some(server.port.to_string())),
            user: typed.user.or_else(|| Some(server.user.clone())),
            ..typed
        }
    }

    /// The databases: those of the command line, else that of the env file.
    pub fn databases(&self, typed: Databases) -> Databases {
        match typed {
            Databases::Named(names) if names.is_empty() => {
                Databases::Exactly(vec![self.env_file.server.database.clone()])
            }
            typed => typed,
        }
    }

    /// Dumps, reports, and lets go what is old. Hints name the settings of the env file.
    pub async fn dump(&self, context: &Context, options: &Options) -> Result<Outcome<Item>> {
        let mut outcome = self.run(context, options).await.map_err(advised)?;
        for item in &mut outcome.items {
            item.error = item.error.take().map(advised);
        }
        let error = outcome.error.take().map(advised);
        outcome.error = error.map(|error| if self.has_lost_the_bucket(&outcome) { meanwhile(error) } else { error });
        Ok(outcome)
    }

    /// Whether something is stored, and not in the bucket.
    fn has_lost_the_bucket(&self, outcome: &Outcome<Item>) -> bool {
        let is_lost = |copy: &Copy| copy.error.is_some() && self.remote.as_ref().is_some_and(|it| it.name == copy.name);
        outcome.items.iter().any(|item| item.status == Status::Partial && item.repositories.iter().any(is_lost))
    }

    async fn run(&self, context: &Context, options: &Options) -> Result<Outcome<Item>> {
        let reporter = Reporter::new(self, &context.host);
        let begun = context.clock.now();
        let plan = match self.plan(context, options).await {
            Ok(plan) => plan,
            Err(error) => {
                dump::record_unplanned(context, options, &error).await;
                reporter.tell(Some(context), &self.attempt(begun), End::Failed(&error)).await;
                return Err(error);
            }
        };
        let (mut items, mut warnings) = (Vec::new(), plan.warnings);
        let mut unreported = None;
        for planned in plan.items {
            let attempt = self.attempt_of(context, &planned);
            let Attempt { database, host, port, .. } = &attempt;
            let mode = self.env_file.mode.as_str();
            tracing::info!("backup of database {database:?} of {host}:{port} begins, mode {mode}");
            let one = Plan { items: vec![planned], warnings: Vec::new() };
            let done = dump::execute(context, options, one).await;
            let end = match &done {
                Ok(outcome) => outcome.items.first().map(End::Dumped),
                Err(error) => Some(End::Failed(error)),
            };
            if let Some(end) = end {
                unreported = unreported.or(reporter.tell(Some(context), &attempt, end).await);
            }
            let outcome = done?;
            items.extend(outcome.items);
            warnings.extend(outcome.warnings);
        }
        let mut outcome = Outcome::of(items, warnings);
        outcome.error = outcome.error.or(unreported);
        if outcome.error.is_none() {
            self.let_go(context, &mut outcome.warnings).await;
        }
        Ok(outcome)
    }

    /// Tells the platform of a run that failed before it could begin.
    pub async fn report_unbegun(&self, host: &str, begun: DateTime<Utc>, error: &Error) {
        Reporter::new(self, host).tell(None, &self.attempt(begun), End::Failed(error)).await;
    }

    async fn plan(&self, context: &Context, options: &Options) -> Result<Plan> {
        self.make_base(context)?;
        dump::plan(context, options).await
    }

    /// The base directory is for other readers, too, because the reports lie in it. Where this host has stored before and
    /// nothing is there, a disk is not mounted.
    fn make_base(&self, context: &Context) -> Result<()> {
        let (Some(local), base) = (&self.local, &self.env_file.directories.base) else { return Ok(()) };
        if base.exists() || local.absent(context).kind != Kind::NoSuchBackup {
            return Ok(());
        }
        make_readable(base).doing(Kind::Storage, || format!("make directory {}", base.display()))
    }

    /// Removes what is old on this host. That it could not be done is a warning: the backup is made.
    async fn let_go(&self, context: &Context, warnings: &mut Vec<String>) {
        let Some(local) = &self.local else { return };
        let removed = context.interrupt.guard(retention::apply(context, local, &self.env_file)).await;
        match removed {
            Ok(count) => tracing::info!("RETENTION_DAYS={}: {count} removed", self.env_file.retention_days),
            Err(error) => warnings.push(format!("nothing more was removed for RETENTION_DAYS: {error}")),
        }
    }

    /// What the env file wants.
    fn attempt(&self, started_at: DateTime<Utc>) -> Attempt {
        let server = &self.env_file.server;
        Attempt { database: server.database.clone(), host: server.host.clone(), port: server.port, started_at }
    }

    /// What the command line and the env file want together.
    fn attempt_of(&self, context: &Context, planned: &PlannedItem) -> Attempt {
        let attempt = Attempt { database: planned.name.clone(), ..self.attempt(context.clock.now()) };
        let target = ConnectTarget::resolve(&planned.flags, &context.environment);
        match target.ok().and_then(|target| target.hosts.into_iter().next()) {
            Some(first) => Attempt { host: first.host, port: first.port, ..attempt },
            None => attempt,
        }
    }

    fn secrets(&self) -> Vec<Secret> {
        self.env_file.secrets()
    }
}

/// The next step after a failure, in the words of the env file.
fn advised(error: Error) -> Error {
    let settings = [("PGHOST", "PG_HOST"), ("PGPORT", "PG_PORT"), ("PGUSER", "PG_USER"), ("PGDATABASE", "PG_DATABASE")];
    let hint = error.next_step().map(|hint| settings.iter().fold(hint.to_owned(), |hint, (a, b)| hint.replace(a, b)));
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

fn meanwhile(error: Error) -> Error {
    let mode = "BACKUP_MODE=local stores on this host alone until the bucket is well";
    let hint = error.next_step().map_or(mode.to_owned(), |hint| format!("{hint}; {mode}"));
    error.hint(hint)
}

fn place(address: Address, layout: FlatLayout) -> Place {
    Place { name: address.to_string(), address, layout: Some(layout), id: None, check: None }
}

fn address_of(remote: &Remote) -> Result<Address> {
    match remote {
        Remote::Oss(bucket) => address_of_bucket(bucket),
        Remote::Rclone { remote, path } => Address::parse(&format!("rclone:{remote}:{path}")),
    }
}

fn address_of_bucket(bucket: &Bucket) -> Result<Address> {
    let Bucket { name, prefix, endpoint, access_key_id, access_key_secret, session_token } = bucket;
    let region = endpoint.region.iter().map(|region| format!("&region={region}")).collect::<String>();
    let address = Address::parse(&format!("oss://{name}/{prefix}?endpoint={}{region}", endpoint.url))?;
    address.with_credentials(Credentials::Given {
        access_key_id: access_key_id.clone(),
        secret: access_key_secret.clone(),
        session_token: session_token.clone(),
    })
}
