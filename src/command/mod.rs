//! One module per verb. A verb is a short story of named steps: typed arguments become `Options`, then a `Plan` (reads
//! only, printable, the dry run), then an [`Outcome`].

pub mod check;
pub mod copy;
pub mod databases;
pub mod drop_in;
pub mod dump;
pub mod finding;
pub mod instance;
mod place;
pub mod prune;
mod reading;
mod replay;
pub mod report;
pub mod restore;
mod stage;
mod staging;
pub mod verify;

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::clock::Clock;
use crate::config::environment::Environment;
use crate::error::{Error, Kind};
use crate::interrupt::Interrupt;
use crate::progress::Monitor;
use crate::repo::{Folder, InstanceName, RecordPlace, Repository, Run, RunOutcome, StateDirectory};

use crate::storage::{Access, Patience};
pub use place::Place;
use place::repo_flags;
use reading::{Reading, Repositories, Unread};

/// What every verb is given by its caller.
#[derive(Clone, Debug)]
pub struct Context {
    pub clock: Arc<dyn Clock>,
    pub monitor: Arc<dyn Monitor>,
    pub interrupt: Interrupt,
    pub environment: Environment,
    pub state: StateDirectory,
    /// The name of this host, as it goes into names of backups.
    pub host: String,
    /// How long stores are waited for.
    pub patience: Patience,
}

impl Context {
    /// What stores are opened with.
    pub fn access(&self) -> Access {
        let uploads = self.state.root().join("uploads");
        Access { environment: self.environment.clone(), uploads, patience: self.patience }
    }

    /// Where temporary files go unless a command has a flag for it: `TMPDIR`, else `/tmp`.
    pub fn scratch(&self) -> PathBuf {
        self.environment.get_os("TMPDIR").filter(|dir| !dir.is_empty()).map_or("/tmp".into(), PathBuf::from)
    }
}

/// Removes what writers that are gone left unfinished, wherever a dump writes. It takes space and nothing else, so a
/// failure only is noted.
async fn sweep_unfinished(repository: &Repository, instance: &InstanceName) {
    for folder in [Folder::Dumps, Folder::Intents, Folder::Lineages, Folder::Runs] {
        match repository.storage().sweep_unfinished(&folder.of(instance)).await {
            Ok(0) => {}
            Ok(count) => tracing::info!("removed {count} unfinished objects of runs that are gone"),
            Err(error) => tracing::warn!("remove unfinished objects of runs that are gone: {error}"),
        }
    }
}

/// Records the end of a run. What was done is done: a record that could not be stored is a warning.
async fn finish_run(context: &Context, run: Run, outcome: RunOutcome, warnings: &mut Vec<String>) {
    match run.finish(outcome, context.clock.now()).await {
        Ok(RecordPlace::Repository) => {}
        Ok(RecordPlace::StateDirectory { because }) => {
            warnings.push(format!("the record of this run lies in {}: {because}", context.state.root().display()));
        }
        Err(error) => warnings.push(format!("the end of this run could not be recorded: {error}")),
    }
}

/// How one item, or a whole command, ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    Ok,
    Partial,
    Failed,
    NotVerified,
}

/// What became of an item in one repository.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Copy {
    /// What the user calls the repository.
    pub name: String,
    pub status: Status,
    pub stored_bytes: Option<u64>,
    pub error: Option<Error>,
}

/// What a command did: its items, what its user should know, and the error that decides the exit code.
#[derive(Debug)]
pub struct Outcome<I> {
    pub items: Vec<I>,
    pub warnings: Vec<String>,
    pub error: Option<Error>,
}

/// An item of an outcome that may have failed on its own.
pub trait Item {
    fn error(&self) -> Option<&Error>;
    /// The id or name of the item, for the sentence that counts failures.
    fn name(&self) -> &str;
}

impl<I: Item> Item for &I {
    fn error(&self) -> Option<&Error> {
        I::error(self)
    }

    fn name(&self) -> &str {
        I::name(self)
    }
}

impl<I: Item> Outcome<I> {
    /// Judges a command by its items: the common kind if all failed alike, `Partial` if any succeeded.
    pub fn of(items: Vec<I>, warnings: Vec<String>) -> Self {
        let error = overall(&items);
        Self { items, warnings, error }
    }
}

/// How many failures the sentence that counts them tells. All are in the items; a store that lost a folder would make a
/// line of hundreds of kilobytes, which the record of the run and every report of it would repeat.
const TOLD: usize = 5;

fn overall<I: Item>(items: &[I]) -> Option<Error> {
    let failed: Vec<(&str, &Error)> = items.iter().filter_map(|item| Some((item.name(), item.error()?))).collect();
    let (_, first) = failed.first()?;
    let stopped =
        failed.iter().map(|(_, error)| error.kind).find(|kind| matches!(kind, Kind::Interrupted | Kind::Terminated));
    let kind = match stopped {
        Some(kind) => kind,
        None if failed.len() < items.len() => Kind::Partial,
        None if failed.iter().any(|(_, error)| error.kind == Kind::Partial) => Kind::Partial,
        None if failed.iter().all(|(_, error)| error.kind == first.kind) => first.kind,
        None => Kind::Unexpected,
    };
    if let ([_], [(_, only)]) = (items, failed.as_slice()) {
        return Some(only.repeated());
    }
    let mut told: Vec<(String, String)> = Vec::new();
    for (name, error) in failed.iter().take(TOLD) {
        let said = error.to_string();
        // What one cause did to several items is said once.
        match told.last_mut() {
            Some((names, before)) if *before == said => *names += &format!(", {name}"),
            _ => told.push(((*name).to_owned(), said)),
        }
    }
    let is_one_cause = told.len() == 1;
    let mut told: Vec<String> = told.into_iter().map(|(names, said)| format!("{names}: {said}")).collect();
    if failed.len() > TOLD {
        told.push(format!("and {} more", failed.len() - TOLD));
    }
    let error = Error::new(kind, format!("{} of {} failed ({})", failed.len(), items.len(), told.join("; ")));
    Some(error.hinted(first.next_step().filter(|_| is_one_cause)))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Case(Option<Error>);

    impl Item for Case {
        fn error(&self) -> Option<&Error> {
            self.0.as_ref()
        }
        fn name(&self) -> &str {
            "case"
        }
    }

    fn kind_of(cases: &[Option<Kind>]) -> Option<Kind> {
        let items: Vec<Case> = cases.iter().map(|kind| Case(kind.map(|kind| Error::new(kind, "fails")))).collect();
        overall(&items).map(|error| error.kind)
    }

    #[test]
    fn the_exit_code_of_several_items() {
        use Kind::{Connect, Partial, Terminated, Tool, Unexpected};
        assert_eq!(kind_of(&[None, None]), None);
        assert_eq!(kind_of(&[Some(Tool)]), Some(Tool));
        assert_eq!(kind_of(&[Some(Tool), Some(Tool)]), Some(Tool));
        assert_eq!(kind_of(&[Some(Tool), Some(Connect)]), Some(Unexpected));
        assert_eq!(kind_of(&[Some(Tool), None]), Some(Partial));
        assert_eq!(kind_of(&[Some(Tool), Some(Partial)]), Some(Partial));
        assert_eq!(kind_of(&[None, Some(Terminated)]), Some(Terminated));
    }

    #[test]
    fn what_failed_alike_is_told_once_with_its_next_step() {
        let fails = |why: &str| Case(Some(Error::new(Kind::Storage, why).hint("try again")));
        let error = overall(&[fails("x"), fails("x"), Case(None)]).unwrap();
        assert_eq!(error.to_string(), "2 of 3 failed (case, case: x)");
        assert_eq!(error.next_step(), Some("try again"));
        let error = overall(&[fails("x"), fails("y")]).unwrap();
        assert_eq!((error.to_string().as_str(), error.next_step()), ("2 of 2 failed (case: x; case: y)", None));
    }

    #[test]
    fn a_thousand_failures_make_a_short_sentence() {
        let items: Vec<Case> = (0..1000).map(|_| Case(Some(Error::new(Kind::Verification, "fails")))).collect();
        let sentence = overall(&items).unwrap().to_string();
        assert!(sentence.ends_with("; and 995 more)") && sentence.len() < 100, "{sentence}");
    }
}
