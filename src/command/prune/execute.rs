//! Removes what the plan names, repository by repository, and with it what killed runs left.

use std::collections::BTreeMap;

use chrono::TimeDelta;

use super::plan::{Part, Plan, Planned};
use super::{Action, Done, Item, Options, Wanted, told};
use crate::command::{Context, Copy, Outcome, Status, finish_run, overall};
use crate::error::{Error, Kind, Result};
use crate::repo::{
    BackupId, BackupKind, DumpStem, Lock, Repository, Run, RunItem, RunName, RunOutcome, Stamp, StoredName, Sweep,
    SweepPlan, Swept, Verb,
};
use crate::storage::{Fault, Key};

/// A host whose clock is further from that of the store does not decide what is old.
const CLOCKS_APART: TimeDelta = TimeDelta::days(1);

/// More items than these are told together, by database: a record has a limit.
const ITEMS_RECORDED: usize = 5_000;

/// Removes. What could be removed is, whatever happens to the rest.
pub async fn execute(context: &Context, options: &Options, plan: Plan) -> Outcome<Item> {
    let Plan { parts, unread, mut warnings } = plan;
    // One name for the run in every repository.
    let name = RunName::new(Stamp::of(context.clock.now()), Verb::Prune);
    let mut done = Vec::new();
    for Part { repository, decided } in parts {
        let pruner = Pruner { context, options, repository: &repository, name: &name };
        done.push(match decided {
            Ok(planned) => pruner.prune(&planned, &mut warnings).await,
            Err(error) => pruner.nothing(error),
        });
    }
    told(done, &unread, warnings)
}

struct Pruner<'a> {
    context: &'a Context,
    options: &'a Options,
    repository: &'a Repository,
    name: &'a RunName,
}

impl Pruner<'_> {
    fn nothing(&self, error: Error) -> Done {
        Done { repository: self.repository.name().to_owned(), items: Vec::new(), error: Some(error) }
    }

    async fn prune(&self, planned: &[Planned], warnings: &mut Vec<String>) -> Done {
        let begun = self.context.interrupt.guard(self.begin()).await;
        let (lock, run) = match begun {
            Ok(begun) => begun,
            Err(error) => return self.nothing(error),
        };
        let mut swept = Swept::default();
        let remove = planned.iter().filter(|one| one.decision.is_removal());
        let remove = remove.map(|one| (one.stem.clone(), one.decision.leans_on().cloned())).collect();
        let ended = self.sweep(&lock, SweepPlan { remove }, &mut swept).await;
        let done = self.done(planned, swept, ended.err(), warnings);
        finish_run(self.context, run, record(&done), warnings).await;
        drop(lock);
        done
    }

    async fn begin(&self) -> Result<(Lock, Run)> {
        let Context { clock, state, host, .. } = self.context;
        let now = clock.now();
        let lock = state.lock(self.repository.id(), &self.options.instance, Verb::Prune, now)?;
        if matches!(self.options.wanted, Wanted::Rules(_)) {
            self.compare_clocks().await?;
        }
        let run = Run::begin(self.repository, state, &lock, host, self.name.clone(), now).await?;
        Ok((lock, run))
    }

    async fn compare_clocks(&self) -> Result<()> {
        let theirs = match self.repository.storage().now().await {
            Ok(theirs) => theirs,
            // To ask some stores is to write there, and a prune is what makes room.
            Err(error) if error.fault == Fault::Full => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let ours = self.context.clock.now();
        if (ours - theirs).abs() <= CLOCKS_APART {
            return Ok(());
        }
        let name = self.repository.name();
        let sentence = format!("it is {ours} on this host and {theirs} in {name}: what is old cannot be told");
        Err(Error::refused(sentence).hint("set the clock that is wrong, and prune again"))
    }

    async fn sweep(&self, lock: &Lock, plan: SweepPlan, swept: &mut Swept) -> Result<()> {
        let Context { state, host, interrupt, .. } = self.context;
        let sweep = Sweep { repository: self.repository, state, lock, host, interrupt };
        interrupt.guard(plan.execute(sweep, swept)).await
    }

    /// What came of it, backup by backup.
    fn done(&self, planned: &[Planned], swept: Swept, error: Option<Error>, warnings: &mut Vec<String>) -> Done {
        let (instance, name) = (&self.options.instance, self.repository.name());
        let Swept { backups, spared, freed, unremoved, dead_intents, in_the_making, old_runs, .. } = swept;
        let mut refused: BTreeMap<Option<BackupId>, Vec<(Key, Error)>> = BTreeMap::new();
        for (key, error) in unremoved {
            refused.entry(owner(&key)).or_default().push((key, error));
        }
        let mut items = Vec::new();
        for planned in planned {
            let mut item = planned.item(instance, name);
            if backups.contains(&item.id) {
                item.action = Action::Removed;
                item.freed_bytes = freed.get(&item.id).copied().unwrap_or(0);
                item.repositories.iter_mut().for_each(|copy| copy.stored_bytes = None);
            } else if let Some((_, why)) = spared.iter().find(|(id, _)| *id == item.id) {
                (item.action, item.reasons, item.freed_bytes) = (Action::Keep, vec![why.clone()], 0);
                if matches!(self.options.wanted, Wanted::Named { .. }) {
                    // It was asked for by name: that it stays is no success.
                    (item.status, item.error) = (Status::Failed, Some(stays(&item.id, why)));
                }
            } else if item.action == Action::Remove {
                item.freed_bytes = 0;
            }
            items.push(with_error(item, refused.remove(&Some(BackupId::from(&planned.stem)))));
        }
        let orphans: Vec<BackupId> = freed.keys().chain(refused.keys().flatten()).cloned().collect();
        for id in orphans {
            if !items.iter().any(|item| item.id == id) {
                let item = self.orphan(&id, freed.get(&id).copied());
                items.push(with_error(item, refused.remove(&Some(id))));
            }
        }
        for (id, why) in in_the_making {
            tracing::info!("{id} is in the making: {why}");
        }
        for id in dead_intents {
            tracing::info!("removed the intent of {id}, whose run is dead");
        }
        if old_runs > 0 {
            tracing::info!("removed {old_runs} records of runs");
        }
        let others = refused.remove(&None).map(|refused| unremoved_error(&refused));
        if let (Some(_), Some(others)) = (&error, &others) {
            warnings.push(format!("{name}: {others}"));
        }
        Done { repository: name.to_owned(), items, error: error.or(others) }
    }

    /// Data without a manifest: of a run that died, or of a prune that did.
    fn orphan(&self, id: &BackupId, freed_bytes: Option<u64>) -> Item {
        let database = id.as_str().parse::<DumpStem>().map(|stem| stem.encoded_database().to_owned());
        let copy =
            Copy { name: self.repository.name().to_owned(), status: Status::Ok, stored_bytes: None, error: None };
        Item {
            id: id.clone(),
            instance: self.options.instance.clone(),
            database: database.unwrap_or_default(),
            kind: BackupKind::Dump,
            filtered: false,
            filter: None,
            orphan: true,
            label: None,
            keep: None,
            action: Action::Removed,
            reasons: vec!["no backup: what a run that ended early had left".to_owned()],
            freed_bytes: freed_bytes.unwrap_or(0),
            status: Status::Ok,
            repositories: vec![copy],
            error: None,
        }
    }
}

/// The backup that an object was of.
fn owner(key: &Key) -> Option<BackupId> {
    match StoredName::parse(key)? {
        StoredName::Dump { name, .. } => Some(BackupId::from(&name.stem)),
        StoredName::Proof { id, .. } => Some(id),
        _ => None,
    }
}

fn stays(id: &BackupId, why: &str) -> Error {
    Error::refused(format!("{id} is not removed: {why}"))
        .hint("look at what there is now: pgkeep report list; then prune again if it is still to go")
}

fn with_error(item: Item, refused: Option<Vec<(Key, Error)>>) -> Item {
    let Some(refused) = refused else { return item };
    let error = unremoved_error(&refused);
    let repositories = item.repositories.into_iter();
    let repositories = repositories.map(|copy| Copy { status: Status::Failed, error: Some(error.repeated()), ..copy });
    Item { status: Status::Failed, repositories: repositories.collect(), error: Some(error), ..item }
}

/// Objects that the store keeps. Each is named: somebody has to look at them.
fn unremoved_error(refused: &[(Key, Error)]) -> Error {
    let keys: Vec<&str> = refused.iter().map(|(key, _)| key.as_str()).collect();
    let sentence = format!("{} could not be removed", keys.join(", "));
    let Some((_, first)) = refused.first() else { return Error::new(Kind::Storage, sentence) };
    let hint = "may this user delete there? A bucket with object lock or a retention rule says no until its time; the \
                next prune tries again";
    Error::new(first.kind, sentence).because(first.repeated()).hint(hint)
}

/// What the run record says: what was removed, and what could not be.
fn record(done: &Done) -> RunOutcome {
    let worked = || done.items.iter().filter(|item| item.action == Action::Removed || item.error.is_some());
    let mut items: Vec<RunItem> = worked().take(ITEMS_RECORDED).map(run_item).collect();
    let mut rest: BTreeMap<&str, u64> = BTreeMap::new();
    for item in worked().skip(ITEMS_RECORDED) {
        *rest.entry(&item.database).or_default() += item.freed_bytes;
    }
    items.extend(rest.into_iter().map(|(database, bytes)| RunItem::of(None, database, None, None).stored(Some(bytes))));
    let failed: Vec<&Item> = worked().collect();
    match done.error.as_ref().map(Error::repeated).or_else(|| overall(&failed)) {
        None => RunOutcome::succeeded(items),
        Some(error) => RunOutcome::failed("remove", &error, items),
    }
}

/// The bytes are those that became free.
fn run_item(item: &Item) -> RunItem {
    RunItem::of(Some(item.id.clone()), &item.database, item.error.as_ref().map(|_| "remove"), item.error.as_ref())
        .stored(Some(item.freed_bytes))
}
