//! Which databases are meant, and what dumping them would do.

use futures_util::future::join_all;
use serde::Serialize;

use super::source::Source;
use super::{Check, Compress, Context, Options, Replay, WantedGlobals};
use crate::command::Place;
use crate::command::databases::{self, Databases};
use crate::config::environment::Environment;
use crate::error::{Error, Result};
use crate::pg::conninfo::{ConnectTarget, ConnectionFlags};
use crate::repo::{ArchiveFormat, InstanceName};
use crate::storage::{Fault, Missing};

/// What will be dumped.
#[derive(Debug)]
pub struct Plan {
    pub items: Vec<PlannedItem>,
    pub warnings: Vec<String>,
}

/// One database: how to reach it. Whether it can be reached is known when it is dumped.
#[derive(Clone, Debug)]
pub struct PlannedItem {
    /// For messages: the name, or what was typed where that names a whole connection.
    pub name: String,
    pub flags: ConnectionFlags,
}

/// Finds out which databases are meant; asks the server only for `--all`.
pub async fn plan(context: &Context, options: &Options) -> Result<Plan> {
    options.check_format()?;
    let items = match &options.databases {
        Databases::Named(names) if names.is_empty() => vec![item(context, options.connection.clone())?],
        Databases::Named(names) => {
            let once = names.iter().enumerate().filter(|(at, name)| !names[..*at].contains(name));
            once.map(|(_, name)| named(context, options, name)).collect::<Result<_>>()?
        }
        Databases::Exactly(names) => {
            let by_name = |name: &String| item(context, databases::by_name(&options.connection, name));
            names.iter().map(by_name).collect::<Result<_>>()?
        }
        Databases::All { but } => context.interrupt.guard(all(context, options, but)).await?,
    };
    let warnings = match &options.databases {
        Databases::Named(names) if names.iter().any(|typed| holds_password(typed)) => vec![PASSWORD.to_owned()],
        Databases::Named(_) | Databases::Exactly(_) => Vec::new(),
        Databases::All { .. } => items.iter().filter_map(unspeakable).collect(),
    };
    Ok(Plan { items, warnings })
}

/// Its item fails for its own reason, which does not say the cause.
fn unspeakable(item: &PlannedItem) -> Option<String> {
    item.name.contains(char::REPLACEMENT_CHARACTER).then(|| {
        format!(
            "the name of database {:?} is not UTF-8, so it cannot be asked for: rename it from a database of its encoding",
            item.name
        )
    })
}

fn named(context: &Context, options: &Options, typed: &str) -> Result<PlannedItem> {
    let flags = ConnectionFlags { dbname: Some(typed.to_owned()), ..options.connection.clone() };
    item(context, flags)
}

/// Resolved once here so that a mistyped keyword or service stops everything before anything is stored.
fn item(context: &Context, flags: ConnectionFlags) -> Result<PlannedItem> {
    let target = ConnectTarget::resolve(&flags, &context.environment)?.of_named_database()?;
    Ok(PlannedItem { name: target.dbname, flags })
}

const PASSWORD: &str =
    "the password given to -d can be read by every user of this host while pgkeep runs: put it into ~/.pgpass";

/// Whether what was typed holds a password itself, whatever the environment or a service file adds.
fn holds_password(typed: &str) -> bool {
    let nothing_else = Environment::from_pairs([("PGPASSFILE", "/dev/null")]).with_account("nobody");
    let flags = ConnectionFlags { dbname: Some(typed.to_owned()), ..ConnectionFlags::default() };
    let target = ConnectTarget::resolve(&flags, &nothing_else);
    target.is_ok_and(|target| target.hosts.iter().any(|host| host.password.is_some()))
}

async fn all(context: &Context, options: &Options, but: &[String]) -> Result<Vec<PlannedItem>> {
    let names = databases::all(context, &options.connection, but, options.connect_retry).await?;
    let item = |name: String| PlannedItem { flags: databases::by_name(&options.connection, &name), name };
    Ok(names.into_iter().map(item).collect())
}

/// One line of a dry run.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Preview {
    pub instance: String,
    pub database: String,
    pub server: String,
    pub client: String,
    pub database_size_bytes: u64,
    pub relations: usize,
    pub repositories: Vec<PreviewedPlace>,
    pub steps: Vec<String>,
    pub error: Option<Error>,
}

/// A repository that would be stored in.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PreviewedPlace {
    pub name: String,
    pub exists: bool,
    /// `None` where the store cannot say.
    pub free_bytes: Option<u64>,
    /// Why it would be left out.
    pub error: Option<Error>,
}

impl crate::command::Item for Preview {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        &self.database
    }
}

impl Preview {
    /// A database that cannot be looked at.
    pub fn unseen(instance: &InstanceName, database: &str, error: Error) -> Self {
        Self {
            instance: instance.to_string(),
            database: database.to_owned(),
            server: String::new(),
            client: String::new(),
            database_size_bytes: 0,
            relations: 0,
            repositories: Vec::new(),
            steps: Vec::new(),
            error: Some(error),
        }
    }
}

/// Connects and looks, stores nothing.
pub async fn preview(context: &Context, options: &Options, plan: &Plan) -> Vec<Preview> {
    let mut previews = Vec::new();
    for planned in &plan.items {
        let found = context.interrupt.guard(preview_one(context, options, planned)).await;
        previews.push(found.unwrap_or_else(|error| Preview::unseen(&options.instance, &planned.name, error)));
    }
    previews
}

async fn preview_one(context: &Context, options: &Options, planned: &PlannedItem) -> Result<Preview> {
    let source = Source::connect(context, options, planned).await?;
    let snapshot = source.snapshot().await?;
    let repositories = join_all(options.repositories.iter().map(|place| previewed(context, place))).await;
    let mut program = super::archive::command(options, &source, &snapshot)?;
    if options.format == ArchiveFormat::Directory {
        program = program.arg(format!("--file={}", context.scratch().join("pgkeep-staging-XXXXXXXX/dump").display()));
    }
    let mut steps = vec![program.command_line()];
    if source.session().in_recovery() && options.replay == Replay::Pause {
        steps.insert(0, "pause replay on the standby until pg_dump has ended".to_owned());
    }
    if options.globals == WantedGlobals::Include {
        steps.push(super::globals::command(&source, super::globals::Passwords::Include)?.command_line());
    }
    steps.push(match options.compress {
        Compress::Zstd { level } => {
            format!("compress with zstd:{level} on {} threads, decode and compare", options.threads)
        }
        Compress::ByPgDump { level: 0 } => "store it as it comes".to_owned(),
        Compress::ByPgDump { .. } => "store it as it comes, and decode what pg_dump compressed".to_owned(),
        Compress::Lz4 { .. } => "store it as it comes; what pg_dump compresses with lz4 is not decoded".to_owned(),
    });
    if let Some(size) = options.split {
        steps.push(format!("cut it into parts of at most {size} bytes"));
    }
    for place in &options.repositories {
        let recipients = place.recipients().ok().flatten();
        if let Some(recipients) = &recipients {
            steps.push(format!("encrypt everything to {recipients} ({})", place.name));
        }
        if options.check.unwrap_or(place.default_check()) == Check::ReadBack {
            let decode = if recipients.is_some() { "compare its SHA-256" } else { "decode it to its end" };
            steps.push(format!("read the stored archive again and {decode} ({})", place.name));
        }
    }
    Ok(Preview {
        instance: options.instance.to_string(),
        database: source.database().to_owned(),
        server: source.describe_server(),
        client: source.clients.version.text.clone(),
        database_size_bytes: snapshot.description.database.size_bytes,
        relations: snapshot.description.relations.len(),
        error: left_out(&repositories),
        repositories,
        steps,
    })
}

/// Why it could not be stored as it has to be there.
async fn cannot_encrypt(context: &Context, place: &Place) -> Option<Error> {
    let judge = async {
        place.recipients()?;
        match place.open(context).await {
            Ok(repository) => repository.judge_encryption().await,
            // What else is wrong there is told when it is stored in.
            Err(_) => Ok(()),
        }
    };
    judge.await.err()
}

/// The error of the first repository that would be left out.
fn left_out(places: &[PreviewedPlace]) -> Option<Error> {
    places.iter().find_map(|place| place.error.as_ref()).map(Error::repeated)
}

async fn previewed(context: &Context, place: &Place) -> PreviewedPlace {
    let seen = PreviewedPlace { name: place.name.clone(), exists: true, free_bytes: None, error: None };
    let free_bytes = async { place.store(&context.access(), Missing::Refuse).await?.free_bytes().await };
    match free_bytes.await {
        Ok(free_bytes) => PreviewedPlace { free_bytes, error: cannot_encrypt(context, place).await, ..seen },
        Err(error) if error.fault == Fault::NotFound => {
            PreviewedPlace { exists: false, error: place.recipients().err(), ..seen }
        }
        Err(error) => PreviewedPlace { error: Some(error.into()), ..seen },
    }
}
