//! `pgkeep prune`: removes what rules let go, or what is named, and says why.
//!
//! The story: what each repository holds is read → each backup of it is kept or let go, for a reason
//! ([`crate::repo::retention`]) → that is the plan, and the dry run → with the lock of prune, repository by repository:
//! manifests, then what no manifest and no backup in the making names ([`crate::repo::SweepPlan`]).
//!
//! Each repository decides by what it holds itself: a backup that is damaged here and good elsewhere counts as damaged
//! here. One that cannot be read keeps the others from nothing.

mod execute;
mod named;
mod plan;

use serde::Serialize;

use super::{Context, Copy, Outcome, Place, Status};
use crate::error::{Error, Result};
use crate::repo::retention::Policy;
use crate::repo::{BackupId, BackupKind, InstanceName, Keep};

pub use execute::execute;
pub use plan::{Part, Plan, Planned, plan};

/// What to remove, and from where.
#[derive(Clone, Debug)]
pub struct Options {
    pub repositories: Vec<Place>,
    pub instance: InstanceName,
    /// Only backups of these; none: of all.
    pub databases: Vec<String>,
    pub wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// What no rule keeps.
    Rules(Policy),
    /// These, by their ids or unique beginnings of them.
    Named { ids: Vec<String>, pins: Pins },
    /// Everything of the databases, which are no longer backed up.
    Dropped,
}

/// What becomes of a pinned backup that is named.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pins {
    Hold,
    Released,
}

/// What is done about a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    Keep,
    /// To be removed, and still there.
    Remove,
    Removed,
}

/// One backup in one repository.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Item {
    pub id: BackupId,
    pub instance: InstanceName,
    pub database: String,
    pub kind: BackupKind,
    /// It holds a part of the database.
    pub filtered: bool,
    pub label: Option<String>,
    /// Until when its user pinned it.
    pub keep: Option<Keep>,
    pub action: Action,
    /// Why, a phrase for each reason.
    pub reasons: Vec<String>,
    /// What its removal frees, or has freed.
    pub freed_bytes: u64,
    pub status: Status,
    /// The one that it lies in.
    pub repositories: Vec<Copy>,
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

/// What decides the exit code: a removal, or a repository in which nothing could be done.
struct Unit<'a> {
    name: &'a str,
    error: Option<&'a Error>,
}

impl super::Item for Unit<'_> {
    fn error(&self) -> Option<&Error> {
        self.error
    }

    fn name(&self) -> &str {
        self.name
    }
}

/// What came of one repository.
struct Done {
    repository: String,
    items: Vec<Item>,
    /// Why nothing was done there, or not everything.
    error: Option<Error>,
}

/// The answer of a whole command. What is kept succeeded at nothing, and does not make a failure a partial one.
fn told(done: Vec<Done>, unread: &[super::Unread], mut warnings: Vec<String>) -> Outcome<Item> {
    let mut units = Vec::new();
    for Done { repository, items, error } in &done {
        let removals = items.iter().filter(|item| item.action != Action::Keep || item.error.is_some());
        let before = units.len();
        units.extend(removals.map(|item| Unit { name: item.id.as_str(), error: item.error.as_ref() }));
        if error.is_some() || units.len() == before {
            units.push(Unit { name: repository, error: error.as_ref() });
        }
        if let Some(error) = error {
            let hint = error.next_step().map_or(String::new(), |hint| format!(" ({hint})"));
            warnings.push(format!("{repository}: {}{hint}", error.said_of(repository)));
        }
    }
    units.extend(unread.iter().map(|unread| Unit { name: &unread.name, error: Some(&unread.error) }));
    let error = super::overall(&units);
    Outcome { items: done.into_iter().flat_map(|done| done.items).collect(), warnings, error }
}

/// What the plan comes to; nothing is removed.
pub fn preview(options: &Options, plan: Plan) -> Outcome<Item> {
    let Plan { parts, unread, warnings } = plan;
    let done = parts.into_iter().map(|part| {
        let repository = part.repository.name().to_owned();
        match part.decided {
            Ok(planned) => {
                let items = planned.iter().map(|one| one.item(&options.instance, &repository)).collect();
                Done { repository, items, error: None }
            }
            Err(error) => Done { repository, items: Vec::new(), error: Some(error) },
        }
    });
    told(done.collect(), &unread, warnings)
}

/// Plans and executes.
pub async fn run(context: &Context, options: &Options) -> Result<Outcome<Item>> {
    let plan = plan(context, options).await?;
    Ok(execute(context, options, plan).await)
}
