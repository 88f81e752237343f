//! `pgkeep restore dump`: a dump into a new or empty database, or as a plain file.
//!
//! The story: choose the backup → look at the target and refuse what cannot end well → read the whole archive, checked
//! to its end, into a file without a name → create the database under a name that says it is unfinished → create the
//! roles that are missing → `pg_restore` → planner statistics → owner, rights, settings, comment and the real name in
//! one transaction. So a database under its real name is whole; whatever fails before takes the unfinished one away.

mod body;
mod client;
mod contents;
mod database;
mod decode;
mod elsewhere;
mod file;
mod filtered;
mod folder;
mod from_file;
mod log;
mod needs;
mod options;
mod part;
mod plan;
mod roles;
mod server;
mod sources;
mod subject;
mod swap;
mod target;
mod way;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::command::stage::{At as _, Failed};
use crate::command::{Context, Copy, Outcome, Place, Reading, Status, finish_run};
use crate::error::{Error, Kind, Result};
use crate::pg::conninfo::ConnectionFlags;
use crate::pg::tools::Search;
use crate::repo::{
    BackupId, Choice, Chosen, DumpManifest, DumpStem, InstanceName, Run, RunItem, RunName, RunOutcome, Stamp, Union,
    Verb, Which,
};

pub use body::Form;
pub use contents::{contents, list};
pub use file::{to_file, to_stream};
pub use from_file::{Loaded, Origin, contents_of, load};
pub use options::{Analyze, Atomicity, Existing, OnError, Options, Ownership, Privileges, Sessions};
pub use part::{Part, UseList};
pub use plan::{Plan, Preview, plan, plan_of};
pub use roles::Passwords;
pub use sources::{SourceCopy, Sources};
pub use subject::{Subject, parse_role_map};

/// Which backup is meant, and where it lies.
#[derive(Clone, Debug)]
pub struct Source {
    pub repositories: Vec<Place>,
    /// `None`: all instances of the repositories.
    pub instance: Option<InstanceName>,
    pub which: Which,
    /// The database that was dumped.
    pub database: Option<String>,
    /// Threads that decode.
    pub threads: NonZeroUsize,
}

/// How to reach the server that is restored to.
#[derive(Clone, Debug)]
pub struct Server {
    /// A URI or keyword string, which says where, not which database.
    pub to: Option<String>,
    pub connection: ConnectionFlags,
    pub connect_retry: Duration,
    pub clients: Search,
}

/// The backup that was chosen.
#[derive(Debug)]
pub struct Selected {
    pub stem: DumpStem,
    /// What every copy says of the backup; where its objects lie each says for itself.
    pub manifest: DumpManifest,
    pub sources: Sources,
    /// What newer was passed over and why, and what could not be asked.
    warnings: Vec<String>,
}

impl Selected {
    /// What its user should know of the choice, and of copies that did not deliver.
    pub fn warnings(&self) -> Vec<String> {
        self.warnings.iter().cloned().chain(self.sources.warnings()).collect()
    }
}

/// Chooses the backup; reads manifests and nothing else.
pub async fn select(context: &Context, source: &Source) -> Result<Selected> {
    let reading = Reading::of(context, &source.repositories, source.instance.as_ref()).await?;
    if let Some(typed) = &source.database {
        refuse_connection_string(typed, &reading.union)?;
    }
    let choice = Choice {
        which: source.which.clone(),
        instance: source.instance.as_ref(),
        database: source.database.as_deref(),
    };
    let chosen = choice.among(&reading.union)?;
    if let Some(conflict) = chosen.holding.conflict() {
        return Err(Error::refused(format!("{} is not one backup: {conflict}", chosen.holding.id()))
            .hint("name the one repository to restore from with --repo"));
    }
    let mut warnings = reading.repositories.warnings();
    if !reading.repositories.unread.is_empty() && source.which == Which::Latest {
        let silent: Vec<&str> = reading.repositories.unread.iter().map(|unread| unread.name.as_str()).collect();
        let (id, names) = (chosen.backup.id(), silent.join(" and "));
        warnings.push(format!("{id} is the latest that could be seen: a newer backup may lie in {names}"));
    }
    warnings.extend(shortcomings(&chosen));
    Ok(Selected {
        stem: chosen.backup.stem.clone(),
        manifest: chosen.backup.manifest.clone(),
        sources: Sources::of(chosen.holding),
        warnings,
    })
}

fn shortcomings(chosen: &Chosen) -> Vec<String> {
    let passed_over = chosen.passed_over.iter().map(|(id, why)| format!("{id} is newer and was passed over: {why}"));
    let mut told: Vec<String> = passed_over.collect();
    let id = chosen.backup.id();
    if let Some(why) = chosen.holding.shortcoming() {
        told.push(format!("{id} is not a good backup: {why}"));
        return told;
    }
    for copy in chosen.holding.copies() {
        if let Some(why) = copy.shortcoming() {
            told.push(format!("the copy of {id} in {} is not good: {why}", copy.repository.name()));
        }
    }
    told
}

/// Databases may be called like connection strings; one that was dumped is meant by its name.
fn refuse_connection_string(typed: &str, union: &Union) -> Result<()> {
    let is_name = union.holdings.iter().any(|holding| holding.is_of_database(typed));
    let looks = typed.starts_with("postgresql://") || typed.starts_with("postgres://") || typed.contains('=');
    if is_name || !looks {
        return Ok(());
    }
    Err(Error::usage("-d names the database that was dumped, not a connection")
        .hint("name the server to restore to with --to, and the database there with --into"))
}

/// The steps, as a failure names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Plan,
    Claim,
    Archive,
    Create,
    Roles,
    Restore,
    Analyze,
    Finish,
    File,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Plan => "plan",
            Stage::Claim => "claim",
            Stage::Archive => "archive",
            Stage::Create => "create",
            Stage::Roles => "roles",
            Stage::Restore => "restore",
            Stage::Analyze => "analyze",
            Stage::Finish => "finish",
            Stage::File => "file",
        }
    }
}

/// What became of the backup.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    /// Of the backup; `None` for a file that lay outside a repository.
    pub id: Option<BackupId>,
    pub instance: Option<InstanceName>,
    /// The file that was restored, if it was one.
    pub from_file: Option<String>,
    /// What the database was called, where that is known.
    pub database: String,
    /// The database that was restored into, if it was one.
    pub into: Option<String>,
    /// `host:port`.
    pub server: Option<String>,
    /// The file that was written, if it was one.
    pub file: Option<PathBuf>,
    pub status: Status,
    /// The step that failed.
    pub stage: Option<&'static str>,
    pub duration_seconds: f64,
    pub roles_created: Vec<String>,
    /// What the database is called now whose place the restored one took.
    pub replaced: Option<String>,
    /// What the restored one is called, if it could not take that place.
    pub kept_as: Option<String>,
    /// The copies that were read from, and those that did not deliver.
    pub repositories: Vec<Copy>,
    pub warnings: Vec<String>,
    pub error: Option<Error>,
}

impl super::super::Item for Item {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        &self.database
    }
}

impl Item {
    fn of(selected: &Selected) -> Self {
        Self {
            id: Some(selected.manifest.id.clone()),
            instance: Some(selected.manifest.instance.clone()),
            ..Self::of_database(selected.manifest.database.clone())
        }
    }

    fn of_database(database: String) -> Self {
        Self {
            id: None,
            instance: None,
            from_file: None,
            database,
            into: None,
            server: None,
            file: None,
            status: Status::Ok,
            stage: None,
            duration_seconds: 0.0,
            roles_created: Vec::new(),
            replaced: None,
            kept_as: None,
            repositories: Vec::new(),
            warnings: Vec::new(),
            error: None,
        }
    }
}

impl Item {
    fn ended(&mut self, done: Result<(), Failed<Stage>>, started: Instant) {
        if let Err(Failed { stage, error }) = done {
            self.status = if error.kind == Kind::Partial { Status::Partial } else { Status::Failed };
            self.stage = Some(stage.as_str());
            self.error = Some(error);
        }
        self.duration_seconds = started.elapsed().as_secs_f64();
    }
}

/// Restores what was planned. A plan that could not be made is recorded as the failure that it is.
pub async fn execute(
    context: &Context,
    options: &Options,
    selected: &Selected,
    planned: Result<Plan>,
) -> Result<Outcome<Item>> {
    let log = log::Log::open(options.log.as_deref(), context.clock.clone())?;
    recorded(context, selected, async |item: &mut Item| {
        restore(context, options, planned, server::Archived::Backup(selected), &log, item).await
    })
    .await
}

/// Restores a file that was read. No repository is part of it, so it is recorded nowhere but in its log.
pub async fn execute_file(
    context: &Context,
    options: &Options,
    loaded: Loaded,
    planned: Result<Plan>,
) -> Result<Outcome<Item>> {
    let log = log::Log::open(options.log.as_deref(), context.clock.clone())?;
    let started = Instant::now();
    let Loaded { name, database, body } = loaded;
    let mut item = Item { from_file: Some(name), ..Item::of_database(database.unwrap_or_default()) };
    let done = restore(context, options, planned, server::Archived::AtHand(body), &log, &mut item).await;
    item.ended(done, started);
    let warnings = item.warnings.clone();
    Ok(Outcome::of(vec![item], warnings))
}

async fn restore(
    context: &Context,
    options: &Options,
    planned: Result<Plan>,
    archived: server::Archived<'_>,
    log: &log::Log,
    item: &mut Item,
) -> Result<(), Failed<Stage>> {
    let work = async |item: &mut Item| {
        let plan = planned.at(Stage::Plan)?;
        item.into = Some(plan.into.clone());
        item.server = Some(plan.target.address());
        let (name, address) = (&plan.subject.name, plan.target.address());
        log.line(&format!("restore {name} to {address} database {:?} as {:?}", plan.into, plan.target.user()));
        server::Restorer { context, options, plan: &plan, log }.restore(archived, item).await
    };
    let started = Instant::now();
    let done = work(item).await;
    item.warnings.iter().for_each(|warning| log.line(&format!("warning: {warning}")));
    let seconds = started.elapsed().as_secs_f64();
    log.line(&match &done {
        Ok(()) => format!("done in {seconds:.1} s"),
        Err(Failed { stage, error }) => format!("failed in stage {} after {seconds:.1} s: {error}", stage.as_str()),
    });
    item.warnings.extend(log.shortcoming());
    done
}

/// Does `work` as a run that is recorded, and judges it.
async fn recorded(
    context: &Context,
    selected: &Selected,
    work: impl AsyncFnOnce(&mut Item) -> Result<(), Failed<Stage>>,
) -> Result<Outcome<Item>> {
    let now = context.clock.now();
    let instance = &selected.manifest.instance;
    let repository = match selected.sources.first() {
        Some(copy) => &copy.repository,
        None => return Err(Error::new(Kind::NoSuchBackup, format!("there is no copy of {}", selected.stem))),
    };
    // Restores into different databases do not disturb each other; those into one are kept apart by its server.
    let lock = context.state.lock_beside(repository.id(), instance, Verb::Restore, now)?;
    let name = RunName::new(Stamp::of(now), Verb::Restore);
    let run = Run::begin(repository, &context.state, &lock, &context.host, name, now).await?;
    let started = Instant::now();
    let mut item = Item::of(selected);
    let done = match work(&mut item).await {
        Err(Failed { stage, error }) => Err(Failed { stage, error: context.interrupt.explain(error).await }),
        Ok(()) => Ok(()),
    };
    item.ended(done, started);
    item.repositories = selected.sources.asked();
    let mut warnings = selected.warnings();
    warnings.extend(item.warnings.iter().cloned());
    let mut outcome = Outcome::of(vec![item], warnings);
    finish_run(context, run, record(&outcome), &mut outcome.warnings).await;
    Ok(outcome)
}

/// What the run record says.
fn record(outcome: &Outcome<Item>) -> RunOutcome {
    let items: Vec<RunItem> = outcome.items.iter().map(run_item).collect();
    let Some(error) = &outcome.error else { return RunOutcome::succeeded(items) };
    let stage = outcome.items.iter().find_map(|item| item.stage).unwrap_or("restore");
    RunOutcome::failed(stage, error, items)
}

fn run_item(item: &Item) -> RunItem {
    RunItem::of(item.id.clone(), &item.database, item.stage, item.error.as_ref()).lasted(item.duration_seconds)
}
