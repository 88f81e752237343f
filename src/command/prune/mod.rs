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

use super::{Copy, Outcome, Place, Status};
use crate::error::{Error, Result};
use crate::repo::retention::Policy;
use crate::repo::{BackupId, BackupKind, FilterDigest, InstanceName, Keep};

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
    /// It holds a part of the database, by this choice where that is known.
    pub filtered: bool,
    pub filter: Option<FilterDigest>,
    /// It is no backup: data without a manifest, of a run that ended early.
    pub orphan: bool,
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
struct Unit {
    name: String,
    error: Option<Error>,
}

impl Unit {
    fn of(name: &str, error: Option<&Error>) -> Self {
        Self { name: name.to_owned(), error: error.map(Error::repeated) }
    }
}

impl super::Item for Unit {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        &self.name
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
        units.extend(removals.map(|item| Unit::of(item.id.as_str(), item.error.as_ref())));
        if error.is_some() || units.len() == before {
            units.push(Unit::of(repository, error.as_ref()));
        }
        if let Some(error) = error {
            let hint = error.next_step().map_or(String::new(), |hint| format!(" ({hint})"));
            warnings.push(format!("{repository}: {}{hint}", error.said_of(repository)));
        }
    }
    units.extend(unread.iter().map(|unread| Unit::of(&unread.name, Some(&unread.error))));
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

/// The answers of several instances as one. One that failed does not make failures of the others.
pub fn joined(answers: Vec<(InstanceName, Result<Outcome<Item>>)>) -> Outcome<Item> {
    let (mut items, mut warnings, mut errors) = (Vec::new(), Vec::new(), Vec::new());
    for (instance, answer) in answers {
        let error = match answer {
            Ok(outcome) => {
                warnings.extend(outcome.warnings.into_iter().map(|warning| format!("{instance}: {warning}")));
                items.extend(outcome.items);
                outcome.error
            }
            Err(error) => Some(error),
        };
        errors.push((instance, error));
    }
    let units: Vec<Unit> = errors.iter().map(|(instance, error)| Unit::of(instance.as_str(), error.as_ref())).collect();
    let error = super::overall(&units);
    Outcome { items, warnings, error }
}
