//! `pgkeep copy`: sends backups that a repository lacks, from those that have them.
//!
//! The story of one backup: its name is claimed in the destination → every object is read from a source, hashed against
//! the manifest as it passes, and stored → what was stored is read again and hashed → the manifest, byte by byte as the
//! source has it. Until the last step the destination does not have the backup. A source whose object is damaged or
//! cannot be read is left for the next one that has the backup. What a copy that died has stored and is whole is not sent
//! again; nothing is ever overwritten. A destination with other recipients gets what was decrypted and encrypted to them. Several backups are copied one after the other; one that fails does not stop the
//! rest.

mod destination;
mod plan;
mod recode;
mod transfer;

use std::time::Instant;

use serde::Serialize;

use super::stage::{At as _, Failed};
use super::{Context, Copy, Outcome, Place, Status};
use crate::error::{Error, Kind, Result};
use crate::repo::{BackupId, InstanceName, RunItem, RunOutcome, Which};
use destination::Destination;
use transfer::{Sent, Transfer};

pub use plan::{Plan, PlannedItem, Preview, PreviewedPlace, plan, preview};

/// What to copy, whence and whereto.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where backups are copied from.
    pub repositories: Vec<Place>,
    pub to: Place,
    pub instance: Option<InstanceName>,
    pub database: Option<String>,
    pub wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    One(Which),
    /// Every good backup that the destination does not have.
    Missing,
}

/// The steps of one backup, as a failure names them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Compare,
    Open,
    Lineage,
    Claim,
    Send,
    ReadBack,
    Commit,
}

impl Stage {
    pub fn as_str(self) -> &'static str {
        match self {
            Stage::Compare => "compare",
            Stage::Open => "open",
            Stage::Lineage => "lineage",
            Stage::Claim => "claim",
            Stage::Send => "send",
            Stage::ReadBack => "read-back",
            Stage::Commit => "commit",
        }
    }
}

/// What was done about a backup that the destination has now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Copied,
    /// The destination had it already.
    Skipped,
}

/// One backup, copied or not.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    pub id: BackupId,
    pub instance: InstanceName,
    pub database: String,
    pub status: Status,
    /// `None` where it failed.
    pub action: Option<Action>,
    /// The step that failed.
    pub stage: Option<&'static str>,
    /// What went over to the destination in this run.
    pub sent_bytes: u64,
    /// What an earlier copy that did not finish had stored, and was found whole.
    pub kept_bytes: u64,
    /// The repositories that the bytes came from.
    pub sources: Vec<String>,
    pub duration_seconds: f64,
    /// The destination.
    pub repositories: Vec<Copy>,
    pub warnings: Vec<String>,
    pub error: Option<Error>,
}

impl super::Item for Item {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        self.id.as_str()
    }
}

/// Copies what the plan names, instance by instance.
pub async fn execute(context: &Context, options: &Options, plan: Plan) -> Result<Outcome<Item>> {
    let Plan { items: planned, mut warnings, unread, .. } = plan;
    let mut items = Vec::new();
    for of_instance in planned.chunk_by(|a, b| a.instance == b.instance) {
        items.extend(copy_instance(context, options, of_instance, &mut warnings).await);
    }
    let mut outcome = Outcome::of(items, warnings);
    if outcome.error.is_none() {
        outcome.error = unread;
    }
    Ok(outcome)
}

/// One run of one instance: lock, record, the backups one after the other.
async fn copy_instance(
    context: &Context,
    options: &Options,
    planned: &[PlannedItem],
    warnings: &mut Vec<String>,
) -> Vec<Item> {
    let Some(first) = planned.first() else { return Vec::new() };
    let destination = match Destination::open(context, &options.to, &first.instance, planned).await {
        Ok(destination) => destination,
        Err(error) => {
            let failed = |planned: &PlannedItem| {
                failed(options, planned, Failed { stage: Stage::Open, error: error.repeated() }, Vec::new())
            };
            return planned.iter().map(failed).collect();
        }
    };
    let mut items = Vec::new();
    for planned in planned {
        items.push(copy_one(context, options, &destination, planned).await);
    }
    destination.finish(context, record(&items), warnings).await;
    items
}

async fn copy_one(context: &Context, options: &Options, destination: &Destination, planned: &PlannedItem) -> Item {
    let started = Instant::now();
    let mut warnings = Vec::new();
    let done = match planned.standing() {
        Err(error) => Err(error).at(Stage::Compare),
        Ok(plan::Standing::There) => Ok(Sent::nothing()),
        Ok(plan::Standing::Lacking) => {
            Transfer::new(context, destination, planned).run(&mut warnings).await.map_err(on_interrupt)
        }
    };
    let item = match done {
        Ok(sent) => copied(options, planned, sent, warnings),
        Err(lost) => failed(options, planned, lost, warnings),
    };
    Item { duration_seconds: started.elapsed().as_secs_f64(), ..item }
}

/// What was stored so far stays where it is.
fn on_interrupt(failed: Failed<Stage>) -> Failed<Stage> {
    match failed.error.kind {
        Kind::Interrupted | Kind::Terminated => Failed {
            error: failed.error.hint("give the same command again: it goes on where it was stopped"),
            ..failed
        },
        _ => failed,
    }
}

fn copied(options: &Options, planned: &PlannedItem, sent: Sent, warnings: Vec<String>) -> Item {
    Item {
        status: Status::Ok,
        action: Some(if sent.is_new { Action::Copied } else { Action::Skipped }),
        sent_bytes: sent.sent_bytes,
        kept_bytes: sent.kept_bytes,
        sources: sent.sources,
        repositories: vec![Copy {
            name: options.to.name.clone(),
            status: Status::Ok,
            // What was encrypted on the way has sizes of its own.
            stored_bytes: Some(match sent.is_new {
                true => sent.sent_bytes + sent.kept_bytes,
                false => planned.stored_bytes(),
            }),
            error: None,
        }],
        ..blank(planned, warnings)
    }
}

fn failed(options: &Options, planned: &PlannedItem, failed: Failed<Stage>, warnings: Vec<String>) -> Item {
    let Failed { stage, error } = failed;
    let kind = error.kind;
    let error = Error::new(kind, format!("copy {}, stage {}", planned.id(), stage.as_str())).because(error);
    Item {
        status: Status::Failed,
        stage: Some(stage.as_str()),
        repositories: vec![Copy {
            name: options.to.name.clone(),
            status: Status::Failed,
            stored_bytes: None,
            error: Some(error.repeated()),
        }],
        error: Some(error),
        ..blank(planned, warnings)
    }
}

fn blank(planned: &PlannedItem, warnings: Vec<String>) -> Item {
    Item {
        id: planned.id(),
        instance: planned.instance.clone(),
        database: planned.database.clone(),
        status: Status::Ok,
        action: None,
        stage: None,
        sent_bytes: 0,
        kept_bytes: 0,
        sources: Vec::new(),
        duration_seconds: 0.0,
        repositories: Vec::new(),
        warnings,
        error: None,
    }
}

/// What the run record says. Backups that were there already are no part of the work.
fn record(items: &[Item]) -> RunOutcome {
    let of_items: Vec<RunItem> =
        items.iter().filter(|item| item.action != Some(Action::Skipped)).map(run_item).collect();
    let Some(error) = super::overall(items) else { return RunOutcome::succeeded(of_items) };
    let stage = items.iter().find_map(|item| item.stage).unwrap_or("copy");
    RunOutcome::failed(stage, &error, of_items)
}

fn run_item(item: &Item) -> RunItem {
    RunItem::of(Some(item.id.clone()), &item.database, item.stage, item.error.as_ref())
        .stored(item.repositories.iter().find_map(|copy| copy.stored_bytes))
        .lasted(item.duration_seconds)
}
