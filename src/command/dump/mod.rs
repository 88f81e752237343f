//! `pgkeep dump`: databases into a repository, proven before they count.
//!
//! The story of one database: connect → the lineage is ours → a snapshot, described → roles and tablespaces → an intent
//! → `pg_dump`, compressed, stored → read back → manifest. Until the last step nothing of it is a backup, and a failure
//! anywhere removes what was stored. Several databases are dumped one after the other; one that fails does not stop the
//! rest.

mod archive;
mod globals;
mod plan;
mod source;

use std::time::{Duration, Instant};

use serde::Serialize;

use super::databases::Databases;
use super::stage::{At as _, Failed};
use super::{Context, Copy, Outcome, Place, Status};
use crate::error::{Error, Kind, Result};
use crate::pg::conninfo::ConnectionFlags;
use crate::pg::tools::Search;
use crate::progress::Unit;
use crate::repo::archive::{expect, fingerprint, read_archive};
use crate::repo::{
    BackupId, BackupWriter, Checks, Client, Counts, DumpDetails, DumpManifest, DumpStem, Ending, Globals,
    GlobalsIncluded, InstanceName, Kinship, Lineage, Lock, NewLineage, ObjectRole, Packing, Repository, Run, RunItem,
    RunOutcome, RunStatus, ServerVersion, Source, StoredObject, Verb, checksum_lines, remove_leftovers,
};
use crate::stream::Compression;

pub use plan::{Plan, PlannedItem, Preview, plan, preview};

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
    pub compression: Compression,
    pub check: Check,
    pub globals: WantedGlobals,
    /// How long `pg_dump` waits for a table that others have locked.
    pub lock_wait: Duration,
    pub lineage: NewLineage,
}

/// What must be proven before the manifest is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Every compressed block was decoded again and compared before it was stored.
    Decode,
    /// And the stored archive was read again and decoded to its end.
    ReadBack,
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
    pub repositories: Vec<Copy>,
    pub warnings: Vec<String>,
    pub error: Option<Error>,
}

impl super::Item for Item {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        &self.database
    }
}

/// Dumps what the plan names.
pub async fn execute(context: &Context, options: &Options, plan: Plan) -> Result<Outcome<Item>> {
    let repository = super::only(&options.repositories)?.open_or_create(context).await?;
    let now = context.clock.now();
    let lock = context.state.lock(repository.id(), &options.instance, Verb::Dump, now)?;
    let run = Run::begin(&repository, &context.state, &lock, &context.host, now).await?;
    tidy(context, &repository, &lock).await;

    let dumper = Dumper { context, options, repository: &repository, lock: &lock };
    let mut items = Vec::new();
    for planned in plan.items {
        items.push(dumper.dump(planned).await);
    }
    let mut outcome = Outcome::of(items, plan.warnings);
    super::finish_run(context, run, record(&outcome), &mut outcome.warnings).await;
    Ok(outcome)
}

/// Removes what runs that were killed left behind. It takes space and nothing else, so a failure only is noted.
async fn tidy(context: &Context, repository: &Repository, lock: &Lock) {
    match remove_leftovers(repository, lock, &context.host).await {
        Ok(removed) => removed.iter().for_each(|id| tracing::info!("removed what a killed run had stored of {id}")),
        Err(error) => tracing::warn!("{error}"),
    }
    super::sweep_unfinished(repository, lock.instance()).await;
}

/// Records a run that ended before it knew its databases, so that a night on which the server was down does not look
/// like a night without a run. A mistyped command is not a run.
pub async fn record_unplanned(context: &Context, options: &Options, error: &Error) {
    if error.kind == Kind::Usage {
        return;
    }
    let record = async {
        let repository = super::only(&options.repositories)?.open_or_create(context).await?;
        let now = context.clock.now();
        let lock = context.state.lock(repository.id(), &options.instance, Verb::Dump, now)?;
        let run = Run::begin(&repository, &context.state, &lock, &context.host, now).await?;
        let outcome = RunOutcome::failed(Stage::Connect.as_str(), error, Vec::new());
        run.finish(outcome, context.clock.now()).await
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
    let failed = RunOutcome::failed(stage, error, items);
    if error.kind == Kind::Partial { RunOutcome { status: RunStatus::Partial, ..failed } } else { failed }
}

fn run_item(item: &Item) -> RunItem {
    RunItem {
        id: item.id.clone(),
        database: Some(item.database.clone()),
        status: if item.error.is_none() { RunStatus::Succeeded } else { RunStatus::Failed },
        stage: item.stage.map(str::to_owned),
        exit_code: item.error.as_ref().map_or(0, |error| error.kind.exit_code()),
        error: item.error.as_ref().map(Error::to_string),
        hint: item.error.as_ref().and_then(|error| error.next_step().map(str::to_owned)),
        stored_bytes: item.repositories.iter().find_map(|copy| copy.stored_bytes),
        duration_seconds: item.duration_seconds,
    }
}

struct Dumper<'a> {
    context: &'a Context,
    options: &'a Options,
    repository: &'a Repository,
    lock: &'a Lock,
}

impl Dumper<'_> {
    async fn dump(&self, planned: PlannedItem) -> Item {
        let started = Instant::now();
        let database = planned.name.clone();
        let mut warnings = Vec::new();
        let done = self.dump_database(&planned, &mut warnings).await;
        let duration_seconds = started.elapsed().as_secs_f64();
        let copy = |status, stored_bytes| Copy { name: self.repository.address().to_owned(), status, stored_bytes };
        let item = Item {
            // What failed is not a backup and has no id that anything could be done with.
            id: None,
            instance: self.options.instance.clone(),
            database,
            status: Status::Ok,
            stage: None,
            duration_seconds,
            plain_bytes: None,
            globals: None,
            checks: None,
            repositories: Vec::new(),
            warnings,
            error: None,
        };
        match done {
            Ok(manifest) => Item {
                id: Some(manifest.id.clone()),
                database: manifest.database.clone(),
                plain_bytes: Some(manifest.plain.size_bytes),
                globals: Some(manifest.globals.included),
                checks: Some(manifest.checks),
                repositories: vec![copy(Status::Ok, Some(manifest.stored_bytes()))],
                ..item
            },
            Err(Failed { stage, error }) => Item {
                status: Status::Failed,
                stage: Some(stage.as_str()),
                repositories: vec![copy(Status::Failed, None)],
                error: Some(in_stage(&item.database, stage, error)),
                ..item
            },
        }
    }

    /// Refuses a cluster that is not this instance's. Returns the lineage if it is a new one, and the warning that says
    /// so.
    async fn judge_lineage(&self, source: &source::Source) -> Result<(Option<Lineage>, Option<String>)> {
        let instance = &self.options.instance;
        // A role that may not read the identifier can still dump; its backups tell no lineage.
        let Some(seen) = source.system_identifier() else {
            let warning = format!(
                "the role may not execute pg_control_system(), so nothing tells whether this is the cluster that \
                 instance {instance} holds"
            );
            return Ok((None, Some(warning)));
        };
        let known = Lineage::all(self.repository, instance).await?;
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
            Kinship::Known => return Ok((None, None)),
            Kinship::First if known.is_empty() => None,
            Kinship::First => Some(format!("a new lineage begins in instance {instance}: system identifier {seen}")),
            Kinship::Upgrade { from } => Some(format!(
                "instance {instance} went from PostgreSQL {} to {major}: a new lineage begins, system identifier {seen}",
                from.major_version
            )),
        };
        Ok((Some(lineage), warning))
    }

    /// Before the manifest: a backup whose cluster is not among the lineages would be a stranger to the next one.
    async fn begin_lineage(&self, lineage: Option<Lineage>, first_backup: &BackupId) -> Result<()> {
        let Some(lineage) = lineage else { return Ok(()) };
        let lineage = Lineage { first_backup: Some(first_backup.clone()), ..lineage };
        lineage.store(self.repository, &self.options.instance).await
    }

    async fn dump_database(
        &self,
        planned: &PlannedItem,
        warnings: &mut Vec<String>,
    ) -> Result<DumpManifest, Failed<Stage>> {
        let interrupt = &self.context.interrupt;
        let source = interrupt.guard(source::Source::connect(self.context, self.options, planned)).await;
        let source = source.at(Stage::Connect)?;
        warnings.extend(source.warnings.iter().cloned());
        tracing::info!("{:?}: {}, by clients {}", source.database(), source.describe_server(), source.clients.version);
        let (new_lineage, warning) = self.judge_lineage(&source).await.at(Stage::Lineage)?;
        warnings.extend(warning);
        let snapshot = interrupt.guard(source.snapshot()).await.at(Stage::Describe)?;
        let globals = globals::take(interrupt, &source, self.options.globals).await.at(Stage::Globals)?;
        warnings.extend(globals.warning.clone());

        let clock = &*self.context.clock;
        let begin = BackupWriter::begin(self.repository, self.lock, source.database(), &self.context.host, clock);
        let backup = interrupt.guard(begin).await.at(Stage::Claim)?;
        let stored = match self.store(&source, snapshot, globals, &backup, warnings).await {
            Ok(manifest) => self.begin_lineage(new_lineage, backup.id()).await.at(Stage::Commit).map(|()| manifest),
            Err(failed) => Err(failed),
        };
        match stored {
            Ok(manifest) => {
                backup.commit(&manifest).await.at(Stage::Commit)?;
                tracing::info!("{} is a backup", manifest.id);
                Ok(manifest)
            }
            Err(failed) => {
                if let Err(left) = backup.abandon().await {
                    tracing::warn!("objects of {} could not be removed; the next prune does it: {left}", backup.id());
                }
                Err(failed)
            }
        }
    }

    /// Stores everything but the manifest, which it returns.
    async fn store(
        &self,
        source: &source::Source,
        snapshot: source::Snapshot,
        globals: globals::Globals,
        backup: &BackupWriter,
        warnings: &mut Vec<String>,
    ) -> Result<DumpManifest, Failed<Stage>> {
        let started = Instant::now();
        let started_at = backup.stem().started_at().time();
        let stored = archive::store(self.context, self.options, source, &snapshot, backup).await.at(Stage::Archive)?;
        warnings.extend(stored.warnings.iter().cloned());

        let details = DumpDetails::new(snapshot.description, stored.archive.toc.owners(), stored.warnings);
        let packing = Packing::Zstd;
        let mut objects = vec![StoredObject::new(backup.stem(), Ending::archive(packing), stored.stored)];
        let lines = checksum_lines(&objects);
        objects.push(backup.put(Ending::Checksum { packing }, lines.into()).await.at(Stage::Commit)?);
        if let Some(body) = globals.compressed {
            objects.push(backup.put(Ending::Globals { packing }, body).await.at(Stage::Commit)?);
        }
        let body = details.to_stored().at(Stage::Commit)?;
        objects.push(backup.put(Ending::Details, body).await.at(Stage::Commit)?);
        let mut manifest = DumpManifest {
            format: DumpManifest::FORMAT,
            kind: crate::repo::BackupKind::Dump,
            id: backup.id().clone(),
            instance: backup.instance().clone(),
            database: source.database().to_owned(),
            system_identifier: source.system_identifier(),
            server: ServerVersion {
                number: source.server_version(),
                text: stored.archive.header.server_version.clone(),
            },
            source: Source { host: source.host(), port: source.port() },
            backup_host: self.context.host.clone(),
            started_at,
            finished_at: self.context.clock.now(),
            duration_seconds: started.elapsed().as_secs_f64(),
            client: Client {
                program: stored.program.display().to_string(),
                version: source.clients.version.text.clone(),
            },
            archive_version: stored.archive.header.version.to_string(),
            compression: crate::repo::Compression::zstd(self.options.compression.level),
            plain: stored.plain,
            objects,
            globals: Globals { included: globals.included, reason: globals.reason },
            checks: Checks { decoded: true, read_back: false },
            filtered: false,
            counts: counts(&details),
            database_size_bytes: Some(details.description.database.size_bytes),
            pgkeep_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        if self.options.check == Check::ReadBack {
            self.read_back(backup.stem(), &manifest).await.at(Stage::ReadBack)?;
            manifest.checks.read_back = true;
        }
        manifest.finished_at = self.context.clock.now();
        manifest.duration_seconds = started.elapsed().as_secs_f64();
        Ok(manifest)
    }

    /// Reads the stored archive as a restore would, and every object beside it.
    async fn read_back(&self, stem: &DumpStem, manifest: &DumpManifest) -> Result<()> {
        let task = self.context.monitor.task("read back", Unit::Bytes, Some(manifest.plain.size_bytes));
        let threads = self.options.compression.threads;
        let read = async {
            read_archive(self.repository, stem, manifest, std::io::sink(), threads, task.clone()).await?;
            for object in manifest.objects.iter().filter(|object| object.role != ObjectRole::Archive) {
                let key = object.key(&manifest.instance);
                let reader = self.repository.storage().read(&key, None).await?;
                expect(&key, "stored bytes", object.fingerprint(), fingerprint(reader, &*task).await?)?;
            }
            Ok(())
        };
        self.context.interrupt.guard(read).await
    }
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
