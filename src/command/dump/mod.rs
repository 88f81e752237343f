//! `pgkeep dump`: databases into a repository, proven before they count.
//!
//! The story of one database: connect → the lineage is ours → replay of a standby stands still → a snapshot, described → roles and tablespaces → an intent
//! → `pg_dump`, compressed, stored → read back → manifest. Until the last step nothing of it is a backup, and a failure
//! anywhere removes what was stored. Several databases are dumped one after the other; one that fails does not stop the
//! rest.

mod archive;
mod arrivals;
mod copies;
mod destination;
mod directory;
mod fan;
mod filter;
mod format;
mod globals;
mod locks;
mod parts;
mod plan;
mod source;
mod standby;
mod to_file;

use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use serde::Serialize;

use super::databases::Databases;
use super::replay::Pause;
use super::stage::{At as _, Failed};
use super::{Context, Copy, Outcome, Place, Status};
use crate::error::{Error, Kind, Result};
use crate::pg::conninfo::ConnectionFlags;
use crate::pg::tools::Search;
use crate::progress::Unit;
use crate::repo::archive::{expect, fingerprint, read_dump};
use crate::repo::directory::read_directory;
use crate::repo::{
    ArchiveFormat, BackupId, Checks, Client, Counts, DumpDetails, DumpManifest, Ending, FilterDigest, Form, Globals,
    GlobalsIncluded, InstanceName, KeepFor, Kinship, Label, Lineage, NewLineage, ObjectRole, RunItem, RunOutcome,
    ServerVersion, Source, checksum_lines,
};
use copies::{Copies, GivenUp, Making};
use destination::{Destination, Destinations};

pub use super::place::Check;
pub use filter::{Choice, Filter, Switch};
pub use format::Compress;
pub use locks::LockWait;
pub use parts::PartSize;
pub use plan::{Plan, PlannedItem, Preview, PreviewedPlace, plan, preview};
pub use standby::Replay;
pub use to_file::{FileItem, Output, to_file};

/// What to dump, whence and whereto.
#[derive(Clone, Debug)]
pub struct Options {
    pub instance: InstanceName,
    pub repositories: Vec<Place>,
    /// Flags of the connection; its database is chosen by `databases`.
    pub connection: ConnectionFlags,
    pub connect_retry: Duration,
    pub databases: Databases,
    pub clients: Search,
    pub format: ArchiveFormat,
    /// Tables that are dumped at the same time; only into a directory.
    pub jobs: Option<NonZeroUsize>,
    pub compress: Compress,
    /// Threads that compress, and that decode where the archive is read again.
    pub threads: NonZeroUsize,
    /// Stores the archive in parts of at most this size.
    pub split: Option<PartSize>,
    /// What of each database.
    pub filter: Filter,
    pub pin: Pin,
    /// `None`: each repository its own.
    pub check: Option<Check>,
    pub globals: WantedGlobals,
    /// For tables that others have locked.
    pub lock_wait: LockWait,
    pub lineage: NewLineage,
    /// Of a standby that is dumped.
    pub replay: Replay,
}

/// What the user says of the backup that is about to be made.
#[derive(Clone, Debug, Default)]
pub struct Pin {
    pub label: Option<Label>,
    pub keep: Option<KeepFor>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WantedGlobals {
    Include,
    LeaveOut,
}

/// The steps of one database, as a failure names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Connect,
    Lineage,
    Standby,
    Describe,
    Globals,
    Claim,
    Archive,
    ReadBack,
    Commit,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Connect => "connect",
            Stage::Lineage => "lineage",
            Stage::Standby => "standby",
            Stage::Describe => "describe",
            Stage::Globals => "globals",
            Stage::Claim => "claim",
            Stage::Archive => "archive",
            Stage::ReadBack => "read-back",
            Stage::Commit => "commit",
        }
    }
}

/// One database, dumped or not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// `None` where it failed before it had one.
    pub id: Option<BackupId>,
    pub instance: InstanceName,
    pub database: String,
    pub status: Status,
    /// The step that failed.
    pub stage: Option<&'static str>,
    pub duration_seconds: f64,
    /// Size of the archive as `pg_dump` wrote it.
    pub plain_bytes: Option<u64>,
    pub globals: Option<GlobalsIncluded>,
    pub checks: Option<Checks>,
    /// Which choice of the database it is, where it is not the whole.
    pub filter: Option<FilterDigest>,
    /// For how long replay stood still on the standby; `None` where it was not paused.
    pub replay_paused_seconds: Option<f64>,
    pub repositories: Vec<Copy>,
    pub warnings: Vec<String>,
    pub error: Option<Error>,
    /// What the backup is, where it became one.
    #[serde(skip)]
    pub manifest: Option<Box<DumpManifest>>,
}

impl super::Item for Item {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        &self.database
    }
}

impl Item {
    /// A database of several instances' that its own did not come to.
    pub fn unbegun(instance: &InstanceName, database: &str, error: Error) -> Self {
        Self {
            status: Status::Failed,
            stage: Some(Stage::Connect.as_str()),
            error: Some(error),
            ..Self::begun(instance, database)
        }
    }

    /// Nothing is known of it yet. What fails is not a backup and has no id that anything could be done with.
    fn begun(instance: &InstanceName, database: &str) -> Self {
        Self {
            id: None,
            instance: instance.clone(),
            database: database.to_owned(),
            status: Status::Ok,
            stage: None,
            duration_seconds: 0.0,
            plain_bytes: None,
            globals: None,
            checks: None,
            filter: None,
            replay_paused_seconds: None,
            repositories: Vec::new(),
            warnings: Vec::new(),
            error: None,
            manifest: None,
        }
    }
}

/// Plans and executes; a run that could not be planned is recorded.
pub async fn run(context: &Context, options: &Options) -> Result<Outcome<Item>> {
    match plan(context, options).await {
        Ok(plan) => execute(context, options, plan).await,
        Err(error) => {
            let error = context.interrupt.explain(error).await;
            record_unplanned(context, options, &error).await;
            Err(error)
        }
    }
}

/// Dumps what the plan names.
pub async fn execute(context: &Context, options: &Options, plan: Plan) -> Result<Outcome<Item>> {
    let destinations = Destinations::open(context, options).await?;
    let mut dumper = Dumper { context, options, destinations };
    let mut items = Vec::new();
    for planned in plan.items {
        items.push(dumper.dump(planned).await);
    }
    let mut outcome = Outcome::of(items, plan.warnings);
    let record = record(&outcome);
    dumper.destinations.finish(context, &record, &mut outcome.warnings).await;
    Ok(outcome)
}

/// Records a run that ended before it knew its databases, so that a night on which the server was down does not look
/// like a night without a run. A mistyped command is not a run.
pub async fn record_unplanned(context: &Context, options: &Options, error: &Error) {
    if error.kind == Kind::Usage {
        return;
    }
    let record = async {
        let destinations = Destinations::open(context, options).await?;
        let outcome = RunOutcome::failed(Stage::Connect.as_str(), error, Vec::new());
        let mut unrecorded = Vec::new();
        destinations.finish(context, &outcome, &mut unrecorded).await;
        unrecorded.iter().for_each(|warning| tracing::warn!("{warning}"));
        Ok::<_, Error>(())
    };
    if let Err(unrecorded) = record.await {
        tracing::warn!("this run could not be recorded: {unrecorded}");
    }
}

/// What the run record says of the items.
fn record(outcome: &Outcome<Item>) -> RunOutcome {
    let items: Vec<RunItem> = outcome.items.iter().map(run_item).collect();
    let Some(error) = &outcome.error else { return RunOutcome::succeeded(items) };
    let stage = outcome.items.iter().find_map(|item| item.stage).unwrap_or("dump");
    RunOutcome::failed(stage, error, items)
}

fn run_item(item: &Item) -> RunItem {
    let of = RunItem::of(item.id.clone(), &item.database, item.stage, item.error.as_ref())
        .stored(item.repositories.iter().find_map(|copy| copy.stored_bytes))
        .lasted(item.duration_seconds);
    RunItem { filter: item.filter.clone(), replay_paused_seconds: item.replay_paused_seconds, ..of }
}

struct Dumper<'a> {
    context: &'a Context,
    options: &'a Options,
    destinations: Destinations,
}

/// A database that was dumped.
struct Dumped {
    manifest: DumpManifest,
    /// Where it is a backup now, with the bytes stored there.
    stored_in: Vec<(String, u64)>,
    given_up: Vec<GivenUp>,
}

/// What a copy is made of, but for its manifest.
struct Contents {
    manifest: DumpManifest,
    /// Repositories whose stored archive was read again.
    read_back: Vec<String>,
}

impl Dumper<'_> {
    async fn dump(&mut self, planned: PlannedItem) -> Item {
        let started = Instant::now();
        let mut warnings = Vec::new();
        let mut pause = Pause::new(&self.options.instance);
        let done = self.dump_with_patience(&planned, &mut pause, &mut warnings).await;
        let duration_seconds = started.elapsed().as_secs_f64();
        let begun = Item::begun(&self.options.instance, &planned.name);
        let (filter, replay_paused_seconds) = (self.options.filter.digest(), pause.seconds());
        let item = Item { duration_seconds, warnings, filter, replay_paused_seconds, ..begun };
        match done {
            Ok(dumped) => self.dumped(item, dumped),
            Err(Failed { stage, error }) => {
                let error = self.context.interrupt.explain(error).await;
                Item {
                    status: Status::Failed,
                    stage: Some(stage.as_str()),
                    repositories: self.options.repositories.iter().map(|place| not_stored(&place.name, None)).collect(),
                    error: Some(in_stage(&item.database, stage, error)),
                    ..item
                }
            }
        }
    }

    /// As often as it takes until no table is locked by others, within reason. Each attempt has a snapshot of its own,
    /// and of one that failed nothing is left.
    async fn dump_with_patience(
        &mut self,
        planned: &PlannedItem,
        pause: &mut Pause,
        warnings: &mut Vec<String>,
    ) -> Result<Dumped, Failed<Stage>> {
        let LockWait { retries, .. } = self.options.lock_wait;
        let (mut attempt, mut last) = (0, None);
        loop {
            attempt += 1;
            warnings.clear();
            let done = self.dump_or_panic(planned, pause, warnings).await;
            let locked = match &done {
                Err(failed) if attempt <= retries && locks::is_locked_out(&failed.error) => failed.error.to_string(),
                _ => {
                    warnings.extend(last);
                    return done;
                }
            };
            let gave_up = format!("attempt {attempt} of {} met a locked table: {locked}", u64::from(retries) + 1);
            tracing::info!("{gave_up}");
            last = Some(gave_up);
            let interrupt = &self.context.interrupt;
            let pause = tokio::time::sleep(self.options.lock_wait.pause());
            interrupt.guard(async { Ok(pause.await) }).await.at(Stage::Archive)?;
        }
    }

    /// However it ends, replay of a standby goes on: after a panic, too, which goes on after that.
    async fn dump_or_panic(
        &mut self,
        planned: &PlannedItem,
        pause: &mut Pause,
        warnings: &mut Vec<String>,
    ) -> Result<Dumped, Failed<Stage>> {
        let done = AssertUnwindSafe(self.dump_database(planned, pause, warnings)).catch_unwind().await;
        warnings.extend(pause.end(self.context).await);
        done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// The database is backed up, in every repository or in some.
    fn dumped(&mut self, item: Item, dumped: Dumped) -> Item {
        let Dumped { manifest, stored_in, given_up } = dumped;
        let stored = stored_in.iter().map(|(name, stored_bytes)| Copy {
            name: name.clone(),
            status: Status::Ok,
            stored_bytes: Some(*stored_bytes),
            error: None,
        });
        let mut repositories: Vec<Copy> = stored.collect();
        let stage = given_up.first().map(|lost| lost.stage.as_str());
        repositories.extend(self.destinations.dropped().map(|(name, error)| not_stored(name, Some(error.repeated()))));
        for GivenUp { repository, stage, error } in given_up {
            self.destinations.leave_out(&repository, &error);
            repositories.push(not_stored(&repository, Some(in_stage(&item.database, stage, error))));
        }
        let place = |copy: &Copy| self.options.repositories.iter().position(|place| place.name == copy.name);
        repositories.sort_by_key(place);
        let error = partial(&item.database, &repositories);
        Item {
            id: Some(manifest.id.clone()),
            database: manifest.database.clone(),
            status: if error.is_some() { Status::Partial } else { Status::Ok },
            stage,
            plain_bytes: Some(manifest.plain.size_bytes),
            globals: Some(manifest.globals.included),
            checks: Some(manifest.checks),
            repositories,
            error,
            manifest: Some(Box::new(manifest)),
            ..item
        }
    }

    /// Refuses a cluster that is not this instance's. Returns the lineage if it is a new one, and the warning that says
    /// so.
    async fn judge_lineage(&mut self, source: &source::Source) -> Result<(Option<Lineage>, Option<String>)> {
        let instance = &self.options.instance;
        // A role that may not read the identifier can still dump; its backups tell no lineage.
        let Some(seen) = source.system_identifier() else {
            let warning = format!(
                "the role may not execute pg_control_system(), so nothing tells whether this is the cluster that \
                 instance {instance} holds"
            );
            return Ok((None, Some(warning)));
        };
        let known = self.destinations.lineages(self.options).await?;
        let lineage = Lineage {
            format: Lineage::FORMAT,
            system_identifier: seen,
            major_version: source.server_version() / 10_000,
            first_seen: self.context.clock.now(),
            server_host: source.host(),
            first_backup: None,
        };
        let major = lineage.major_version;
        let warning = match lineage.judge(instance, &known, self.options.lineage)? {
            Kinship::Known => None,
            Kinship::First if known.is_empty() => None,
            Kinship::First => Some(format!("a new lineage begins in instance {instance}: system identifier {seen}")),
            Kinship::Upgrade { from } => Some(format!(
                "instance {instance} went from PostgreSQL {} to {major}: a new lineage begins, system identifier {seen}",
                from.major_version
            )),
        };
        // Where it is known already it stays as it is; a repository that came later has yet to hear of it.
        let first = known.into_iter().find(|known| known.system_identifier == seen);
        Ok((Some(first.unwrap_or(lineage)), warning))
    }

    async fn dump_database(
        &mut self,
        planned: &PlannedItem,
        pause: &mut Pause,
        warnings: &mut Vec<String>,
    ) -> Result<Dumped, Failed<Stage>> {
        let interrupt = &self.context.interrupt;
        let source = interrupt.guard(source::Source::connect(self.context, self.options, planned)).await;
        let source = source.at(Stage::Connect)?;
        warnings.extend(source.warnings.iter().cloned());
        tracing::info!("{:?}: {}, by clients {}", source.database(), source.describe_server(), source.clients.version);
        let (lineage, warning) = self.judge_lineage(&source).await.at(Stage::Lineage)?;
        warnings.extend(warning);
        let standby = interrupt.guard(standby::begin(self.context, self.options, &source, pause)).await;
        warnings.extend(standby.at(Stage::Standby)?);
        let snapshot = interrupt.guard(source.snapshot()).await.at(Stage::Describe)?;
        let idle = interrupt.guard(source.idle_exclusions(&self.options.filter)).await;
        warnings.extend(idle.at(Stage::Describe)?);
        let packing = self.options.compress.packing();
        let globals = globals::take(interrupt, &source, self.options.globals, packing).await.at(Stage::Globals)?;
        warnings.extend(globals.warning.clone());

        let mut copies = Copies::begin(self.context, &self.destinations, source.database()).await?;
        let stored = async {
            let contents = self.store(&source, snapshot, globals, &mut copies, pause, warnings).await?;
            self.begin_lineage(lineage, &mut copies).await?;
            Ok(contents)
        };
        let Contents { manifest, read_back } = match stored.await {
            Ok(contents) => contents,
            Err(failed) => {
                copies.abandon().await;
                return Err(failed);
            }
        };
        let manifest_in = |destination: &Destination| {
            let mut manifest = manifest.clone();
            manifest.checks.read_back = read_back.iter().any(|name| name == destination.repository.name());
            manifest
        };
        let (committed, given_up) = copies.commit(manifest_in).await?;
        tracing::info!("{} is a backup", manifest.id);
        let stored_in = committed
            .iter()
            .map(|(destination, manifest)| (destination.repository.name().to_owned(), manifest.stored_bytes()));
        let stored_in = stored_in.collect();
        // What is told is what holds in every one of them.
        let read_back = committed.iter().all(|(_, manifest)| manifest.checks.read_back);
        let manifest = DumpManifest { checks: Checks { read_back, ..manifest.checks }, ..manifest };
        Ok(Dumped { manifest, stored_in, given_up })
    }

    /// Before the manifest: a backup whose cluster is not among the lineages would be a stranger to the next one.
    async fn begin_lineage(&self, lineage: Option<Lineage>, copies: &mut Copies<'_>) -> Result<(), Failed<Stage>> {
        let Some(lineage) = lineage else { return Ok(()) };
        let first_backup = lineage.first_backup.clone().or_else(|| Some(copies.id()));
        let lineage = Lineage { first_backup, ..lineage };
        let instance = &self.options.instance;
        let store = async |making: &Making<'_>| lineage.store(&making.destination.repository, instance).await;
        copies.each(Stage::Commit, store).await.map(drop)
    }

    /// Stores everything but the manifest, which it returns.
    async fn store(
        &self,
        source: &source::Source,
        snapshot: source::Snapshot,
        globals: globals::Globals,
        copies: &mut Copies<'_>,
        pause: &mut Pause,
        warnings: &mut Vec<String>,
    ) -> Result<Contents, Failed<Stage>> {
        let started = Instant::now();
        let started_at = copies.stem().started_at().time();
        let form = self.options.form();
        let stored = match form {
            Form::Directory => directory::store(self.context, self.options, source, &snapshot, copies).await?,
            _ => archive::store(self.context, self.options, source, &snapshot, copies).await?,
        };
        // What comes now is between us and the repository.
        warnings.extend(pause.end(self.context).await);
        warnings.extend(stored.warnings.iter().cloned());

        let details = DumpDetails::new(
            snapshot.description,
            stored.content.owners(),
            self.options.filter.choice(),
            stored.warnings,
        );
        let packing = self.options.compress.packing();
        let inside = stored.content.compression();
        let mut objects = stored.objects;
        let mut small = vec![(Ending::checksum(form, packing), checksum_lines(&objects).into())];
        small.extend(globals.body.map(|body| (Ending::Globals { packing }, body)));
        small.push((Ending::DETAILS, details.to_stored().at(Stage::Commit)?));
        for (ending, body) in small {
            let put = async |making: &Making<'_>| making.backup.put(ending, body.clone()).await;
            objects.extend(copies.each(Stage::Commit, put).await?.into_iter().next());
        }
        let mut manifest = DumpManifest {
            format: DumpManifest::FORMAT,
            kind: crate::repo::BackupKind::Dump,
            id: copies.id(),
            instance: self.options.instance.clone(),
            database: source.database().to_owned(),
            system_identifier: source.system_identifier(),
            server: ServerVersion { number: source.server_version(), text: stored.content.server_version().to_owned() },
            source: Source { host: source.host(), port: source.port() },
            backup_host: self.context.host.clone(),
            started_at,
            finished_at: self.context.clock.now(),
            duration_seconds: started.elapsed().as_secs_f64(),
            client: Client {
                program: stored.program.display().to_string(),
                version: source.clients.version.text.clone(),
            },
            archive_format: self.options.format,
            archive_version: stored.content.header().map(|header| header.version.to_string()),
            encryption: None,
            compression: self.options.compress.recorded(inside),
            plain: stored.plain,
            objects,
            globals: Globals { included: globals.included, reason: globals.reason },
            checks: Checks { decoded: inside.is_decoded(), read_back: false },
            filtered: self.options.filter.is_filtered(),
            filter: self.options.filter.digest(),
            label: self.options.pin.label.as_ref().map(|label| label.as_str().to_owned()),
            keep: self.options.pin.keep.map(|keep| keep.from(started_at)),
            counts: counts(&details),
            database_size_bytes: Some(details.description.database.size_bytes),
            pgkeep_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let read_back = copies.each(Stage::ReadBack, async |making| self.read_back(making, &manifest).await).await?;
        manifest.finished_at = self.context.clock.now();
        manifest.duration_seconds = started.elapsed().as_secs_f64();
        Ok(Contents { manifest, read_back: read_back.into_iter().flatten().collect() })
    }

    /// Reads the stored archive as a restore would, and every object beside it, where that is wanted; then it is the
    /// name of the repository.
    async fn read_back(&self, making: &Making<'_>, manifest: &DumpManifest) -> Result<Option<String>> {
        let Making { destination, backup } = making;
        if destination.check == Check::Decode {
            return Ok(None);
        }
        let (repository, stem) = (&destination.repository, backup.stem());
        let task = self.context.monitor.task("read back", Unit::Bytes, Some(manifest.plain.size_bytes));
        let threads = self.options.threads;
        let read = async {
            if manifest.form() == Form::Directory {
                read_directory(repository, stem, manifest, None, threads, task.clone()).await?;
            } else {
                read_dump(repository, stem, manifest, std::io::sink(), threads, task.clone()).await?;
            }
            for object in manifest.objects.iter().filter(|object| object.role != ObjectRole::Archive) {
                let key = object.key(&manifest.instance);
                let reader = repository.storage().read(&key, None).await?;
                expect(&key, "stored bytes", object.fingerprint(), fingerprint(reader, &*task).await?)?;
            }
            Ok(Some(repository.name().to_owned()))
        };
        self.context.interrupt.guard(read).await
    }
}

fn not_stored(name: &str, error: Option<Error>) -> Copy {
    Copy { name: name.to_owned(), status: Status::Failed, stored_bytes: None, error }
}

/// What is wrong with a backup that some of the repositories do not hold.
fn partial(database: &str, repositories: &[Copy]) -> Option<Error> {
    let missing: Vec<(&Copy, &Error)> = repositories.iter().filter_map(|c| Some((c, c.error.as_ref()?))).collect();
    let (_, first) = missing.first()?;
    let told: Vec<String> =
        missing.iter().map(|(copy, error)| format!("{}: {}", copy.name, error.said_of(&copy.name))).collect();
    let sentence = format!(
        "database {database:?} is stored in {} of {} repositories ({})",
        repositories.len() - missing.len(),
        repositories.len(),
        told.join("; ")
    );
    let error = Error::new(Kind::Partial, sentence);
    Some(match first.next_step() {
        Some(hint) => error.hint(hint),
        None => error,
    })
}

fn in_stage(database: &str, stage: Stage, error: Error) -> Error {
    let kind = error.kind;
    Error::new(kind, format!("dump database {database:?}, stage {}", stage.as_str())).because(error)
}

fn counts(details: &DumpDetails) -> Counts {
    let relations = &details.description.relations;
    Counts {
        tables: relations.iter().filter(|relation| relation.kind == "table").count() as u64,
        rows_estimate: relations.iter().filter_map(|relation| relation.row_estimate).sum(),
        large_objects: details.description.large_objects,
        warnings: details.warnings.len() as u64,
    }
}
