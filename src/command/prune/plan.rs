//! What would be removed from each repository. Reads only.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::named::{self, Named};
use super::{Action, Item, Options, Wanted};
use crate::command::{Context, Copy, Repositories, Status, Unread, repo_flags};
use crate::error::{Error, Kind, Result};
use crate::process::shell_word;
use crate::repo::retention::{
    Candidate, Decision, Dropped, Extent, Group, Kept, LastFailures, Policy, Removed, Standing, decide, dropped,
};
use crate::repo::{
    Backup, BackupKind, Catalogue, DumpStem, Entry, InstanceName, Keep, Repository, RunItem, RunStatus, Stamp,
    StoredName, Unreadable, Verb,
};
use crate::storage::Prefix;

/// What will be done in each repository.
#[derive(Debug)]
pub struct Plan {
    pub parts: Vec<Part>,
    /// Repositories of which nothing is known.
    pub unread: Vec<Unread>,
    pub warnings: Vec<String>,
}

/// What will be done in one.
#[derive(Debug)]
pub struct Part {
    pub repository: Repository,
    /// The backups that are meant, newest first within their groups; or why nothing is decided there.
    pub decided: Result<Vec<Planned>>,
}

/// One backup, and what becomes of it.
#[derive(Clone, Debug)]
pub struct Planned {
    pub stem: DumpStem,
    pub database: String,
    pub kind: BackupKind,
    pub extent: Extent,
    pub label: Option<String>,
    pub keep: Option<Keep>,
    pub stored_bytes: u64,
    pub decision: Decision,
}

impl Planned {
    fn of(backup: &Backup, decision: Decision) -> Self {
        let manifest = &backup.manifest;
        Self {
            stem: backup.stem.clone(),
            database: manifest.database.clone(),
            kind: manifest.kind,
            extent: Extent::of(manifest),
            label: manifest.label.clone(),
            keep: manifest.keep,
            stored_bytes: manifest.stored_bytes(),
            decision,
        }
    }

    /// One whose manifest cannot be read.
    fn unreadable(unreadable: &Unreadable) -> Self {
        Self {
            stem: unreadable.stem.clone(),
            database: unreadable.stem.encoded_database().to_owned(),
            kind: BackupKind::Dump,
            extent: Extent::Whole,
            label: None,
            keep: None,
            stored_bytes: 0,
            decision: Decision::Remove(Removed::Named { why: Some(unreadable.error.to_string()), other: None }),
        }
    }

    pub fn item(&self, instance: &InstanceName, repository: &str) -> Item {
        let is_removal = self.decision.is_removal();
        Item {
            id: (&self.stem).into(),
            instance: instance.clone(),
            database: self.database.clone(),
            kind: self.kind,
            filtered: self.extent != Extent::Whole,
            filter: if let Extent::Part(filter) = &self.extent { filter.clone() } else { None },
            orphan: false,
            label: self.label.clone(),
            keep: self.keep,
            action: if is_removal { Action::Remove } else { Action::Keep },
            reasons: self.decision.reasons(),
            freed_bytes: if is_removal { self.stored_bytes } else { 0 },
            status: Status::Ok,
            repositories: vec![Copy {
                name: repository.to_owned(),
                status: Status::Ok,
                stored_bytes: Some(self.stored_bytes),
                error: None,
            }],
            error: None,
        }
    }
}

/// What a repository holds of the instance.
pub(super) struct Held {
    pub repository: Repository,
    pub catalogue: Catalogue,
    /// Of every backup that could be read, in the order of the catalogue.
    pub candidates: Vec<Candidate>,
}

impl Held {
    pub fn backups(&self) -> impl Iterator<Item = (&Backup, &Candidate)> {
        self.catalogue.backups().zip(&self.candidates)
    }
}

/// Decides what goes. [`Kind::NoSuchBackup`] if what is named is nowhere; [`Kind::Refused`] if what is named must stay.
pub async fn plan(context: &Context, options: &Options) -> Result<Plan> {
    let instance = &options.instance;
    let mut repositories = Repositories::open(context, &options.repositories).await?;
    let read = async |repository: &Repository| Catalogue::read(repository, Some(instance)).await;
    let read = repositories.ask(context, read).await?;
    let held: Vec<Held> = read
        .into_iter()
        .map(|(repository, catalogue)| {
            let candidates = catalogue.backups().map(Candidate::of).collect();
            Held { repository, catalogue, candidates }
        })
        .collect();
    let failures = failures(context, options, &mut repositories, &held).await?;
    // One that was there and is not any more is told as unread.
    let answers = |held: &Held| repositories.answering.iter().any(|one| one.name() == held.repository.name());
    let held: Vec<Held> = held.into_iter().filter(answers).collect();

    let mut warnings = repositories.warnings();
    expect_databases(options, &held)?;
    if held.iter().all(|held| held.catalogue.entries.is_empty()) {
        warnings.extend(other_instances(context, options, &mut repositories).await?);
    }
    let named = match &options.wanted {
        Wanted::Named { ids, pins } => Some(named::choose(options, ids, *pins, &held, context.clock.now())?),
        Wanted::Rules(_) | Wanted::Dropped => None,
    };
    let planner = Planner { options, failures, named, now: context.clock.now() };
    let parts = held.into_iter().map(|held| planner.part(held, &mut warnings)).collect::<Vec<_>>();
    if options.wanted == Wanted::Dropped {
        planner.expect_dropped(&parts)?;
    }
    Ok(Plan { parts, unread: repositories.unread, warnings })
}

/// When dumps were last tried in vain, in any of the repositories. Asked for only where a database seems to be dropped.
async fn failures(
    context: &Context,
    options: &Options,
    repositories: &mut Repositories,
    held: &[Held],
) -> Result<LastFailures> {
    let now = context.clock.now();
    let mut failures = LastFailures::new();
    if held.iter().all(|held| dropped(&held.candidates, &failures, now).0.is_empty()) {
        return Ok(failures);
    }
    let (state, instance) = (&context.state, &options.instance);
    let runs = async |repository: &Repository| crate::repo::runs(repository, state, Some(instance)).await;
    for (_, runs) in repositories.ask(context, runs).await? {
        let records = runs.into_iter().filter_map(|run| run.record.ok()).filter(|record| record.verb == Verb::Dump);
        for record in records {
            let failed = record.items.iter().filter(|item| item.status != RunStatus::Succeeded);
            for group in failed.filter_map(|item| group_of(instance, item)) {
                let known = failures.entry(group).or_insert(record.started_at);
                *known = (*known).max(record.started_at);
            }
        }
    }
    Ok(failures)
}

/// What a dump would have been one of.
fn group_of(instance: &InstanceName, item: &RunItem) -> Option<Group> {
    // Names in keys are made here as for a backup: the time and the host play no part.
    let stem = DumpStem::new(item.database.as_deref()?, Stamp::of(DateTime::UNIX_EPOCH), "host");
    let extent = item.filter.clone().map_or(Extent::Whole, |filter| Extent::Part(Some(filter)));
    let database = stem.encoded_database().to_owned();
    Some(Group { instance: instance.clone(), kind: BackupKind::Dump, database, extent })
}

/// A name that is mistyped must not look like one of which nothing is old.
fn expect_databases(options: &Options, held: &[Held]) -> Result<()> {
    let entries = || held.iter().flat_map(|held| &held.catalogue.entries);
    for database in &options.databases {
        if !entries().any(|entry| entry.is_of_database(database)) {
            let there: BTreeSet<&str> = entries().map(Entry::database).collect();
            let there = there.into_iter().collect::<Vec<_>>().join(", ");
            let sentence = format!("there is no backup of database {database:?} of instance {}", options.instance);
            let hint =
                if there.is_empty() { "there is none of any".to_owned() } else { format!("there are of {there}") };
            return Err(Error::new(Kind::NoSuchBackup, sentence).hint(hint));
        }
    }
    Ok(())
}

/// That the repositories hold something, and nothing of this instance, is worth a word.
async fn other_instances(
    context: &Context,
    options: &Options,
    repositories: &mut Repositories,
) -> Result<Option<String>> {
    let list = async |repository: &Repository| Ok(repository.storage().list(&Prefix::root()).await?);
    let mut names = BTreeSet::new();
    for (_, listed) in repositories.ask(context, list).await? {
        names.extend(listed.iter().filter_map(|meta| StoredName::parse(&meta.key)?.instance().cloned()));
    }
    names.remove(&options.instance);
    let names: Vec<&str> = names.iter().map(InstanceName::as_str).collect();
    let there = match names.as_slice() {
        [] => return Ok(None),
        names => names.join(", "),
    };
    Ok(Some(format!("there is no backup of instance {}; --instance names another one: {there}", options.instance)))
}

struct Planner<'a> {
    options: &'a Options,
    failures: LastFailures,
    named: Option<Named>,
    now: DateTime<Utc>,
}

impl Planner<'_> {
    fn part(&self, held: Held, warnings: &mut Vec<String>) -> Part {
        let decided = self.unreadable(&held).map_or_else(|| Ok(self.decided(&held, warnings)), Err);
        Part { repository: held.repository, decided }
    }

    fn is_meant(&self, backup: &Backup) -> bool {
        let databases = &self.options.databases;
        databases.is_empty() || databases.contains(&backup.manifest.database)
    }

    /// A manifest that cannot be read may be of any backup, the newest good one too: nothing goes beside it.
    fn unreadable(&self, held: &Held) -> Option<Error> {
        let is_named = |stem: &DumpStem| self.named.as_ref().is_some_and(|named| named.stems.contains(stem));
        let mut unreadable = held.catalogue.entries.iter().filter_map(Entry::unreadable);
        let Unreadable { stem, error, .. } = unreadable.find(|unreadable| !is_named(&unreadable.stem))?;
        let name = held.repository.name();
        let stopped = Error::new(error.kind, format!("nothing is removed from {name} while a manifest cannot be read"));
        let stopped = stopped.because(error.said_of(name));
        if error.kind != Kind::Verification {
            return Some(stopped.hinted(error.next_step()));
        }
        let remove = self.command(&format!("--id {}", shell_word(stem.to_string().as_ref())));
        Some(stopped.hint(format!("a copy in another repository may be whole; this one goes by its name: {remove}")))
    }

    fn command(&self, words: &str) -> String {
        let flags = repo_flags(&self.options.repositories);
        format!("pgkeep prune {words}{flags} --instance {} --apply", self.options.instance)
    }

    fn decided(&self, held: &Held, warnings: &mut Vec<String>) -> Vec<Planned> {
        let dropped = dropped(&held.candidates, &self.failures, self.now);
        match &self.options.wanted {
            Wanted::Rules(policy) => self.by_rules(held, policy, dropped, warnings),
            Wanted::Dropped => self.by_drop(held, &dropped),
            Wanted::Named { .. } => self.by_name(held),
        }
    }

    fn by_rules(&self, held: &Held, policy: &Policy, mut dropped: Dropped, warnings: &mut Vec<String>) -> Vec<Planned> {
        // A database that is named is decided by rules whether it is dumped or not.
        let is_named = |group: &str| {
            held.backups().any(|(backup, one)| {
                one.group.database == group && self.options.databases.contains(&backup.manifest.database)
            })
        };
        dropped.0.retain(|group, _| !is_named(&group.database));
        let decisions = decide(&held.candidates, policy, &dropped, self.now);
        let mut planned: Vec<(&Candidate, Planned)> = Vec::new();
        for ((backup, candidate), decision) in held.backups().zip(decisions) {
            if self.is_meant(backup) {
                planned.push((candidate, Planned::of(backup, decision)));
            }
        }
        planned.sort_by(|(a, _), (b, _)| (&a.group, b.started_at, &b.stem).cmp(&(&b.group, a.started_at, &a.stem)));
        for group in planned.chunk_by(|(a, _), (b, _)| a.group == b.group) {
            warnings.extend(self.worth_a_word(held.repository.name(), group));
        }
        planned.into_iter().map(|(_, planned)| planned).collect()
    }

    /// What its user should know of a group that rules cannot decide about.
    fn worth_a_word(&self, repository: &str, group: &[(&Candidate, Planned)]) -> Vec<String> {
        let Some((first, newest)) = group.first() else { return Vec::new() };
        let of = described(&newest.database, &first.group.extent);
        let mut told = Vec::new();
        let kept = |planned: &Planned| match &planned.decision {
            Decision::Keep(reasons) => reasons.clone(),
            Decision::Remove(_) => Vec::new(),
        };
        let of_drop = group.iter().flat_map(|(_, planned)| kept(planned)).find(|r| matches!(r, Kept::Dropped { .. }));
        if let Some(why) = of_drop {
            let remove = self.command(&format!("-d {} --dropped", shell_word(newest.database.as_ref())));
            told.push(format!("{of} in {repository}: {why}, so what there is of it stays; remove it: {remove}"));
        }
        if !group.iter().any(|(one, _)| one.standing == Standing::Good) {
            told.push(format!("{of} in {repository}: no backup of it is good, so none of it goes"));
        }
        for (_, planned) in group {
            let is_ahead = |reason: &Kept| matches!(reason, Kept::Future { .. } | Kept::EndsInFuture { .. });
            let ahead = kept(planned).into_iter().find(is_ahead);
            told.extend(ahead.map(|why| format!("{} in {repository}: {why}", planned.stem)));
        }
        told
    }

    fn by_drop(&self, held: &Held, dropped: &Dropped) -> Vec<Planned> {
        // By the rules of nothing: what must stay for another reason than its age stays.
        let decisions = decide(&held.candidates, &Policy::default(), dropped, self.now);
        let meant = held.backups().zip(decisions).filter(|((backup, _), _)| self.is_meant(backup));
        let planned = meant.filter_map(|((backup, candidate), decision)| {
            let since = dropped.since(&candidate.group)?;
            let stays = match decision {
                Decision::Keep(reasons) => reasons
                    .into_iter()
                    .filter(|reason| {
                        matches!(reason, Kept::Pinned(_) | Kept::Future { .. } | Kept::EndsInFuture { .. })
                    })
                    .collect(),
                Decision::Remove(_) => Vec::new(),
            };
            let decision = match stays.is_empty() {
                true => Decision::Remove(Removed::Dropped { since }),
                false => Decision::Keep(stays),
            };
            Some(Planned::of(backup, decision))
        });
        planned.collect()
    }

    fn by_name(&self, held: &Held) -> Vec<Planned> {
        let Some(named) = &self.named else { return Vec::new() };
        let entries = held.catalogue.entries.iter().filter(|entry| named.stems.contains(entry.stem()));
        let planned = entries.map(|entry| match entry {
            Entry::Unreadable(unreadable) => Planned::unreadable(unreadable),
            Entry::Backup(backup) => {
                let why = backup.is_damaged().then(|| backup.shortcoming()).flatten();
                let other =
                    if why.is_none() { named::another_good(held, backup, &named.stems, self.now) } else { None };
                let other = other.map(|other| other.stem.clone());
                Planned::of(backup, Decision::Remove(Removed::Named { why, other }))
            }
        });
        planned.collect()
    }

    /// What is still backed up is not removed as a whole.
    fn expect_dropped(&self, parts: &[Part]) -> Result<()> {
        let decided = || parts.iter().filter_map(|part| part.decided.as_ref().ok()).flatten();
        // Where a repository could not be decided about, that is the answer.
        if parts.iter().any(|part| part.decided.is_err()) {
            return Ok(());
        }
        let alive = self.options.databases.iter().find(|name| !decided().any(|planned| planned.database == **name));
        let Some(database) = alive else { return Ok(()) };
        let sentence = format!("database {database:?} of instance {} is still backed up", self.options.instance);
        Err(Error::refused(sentence).hint(
            "a database counts as dropped when others of its instance were dumped for 8 days without it; until then \
             rules thin it out, such as --keep-last 1",
        ))
    }
}

/// "shop", "a part of shop (1a2b3c4d)".
pub(super) fn described(database: &str, extent: &Extent) -> String {
    match extent {
        Extent::Whole => database.to_owned(),
        Extent::Part(None) => format!("a part of {database}"),
        Extent::Part(Some(filter)) => format!("a part of {database} ({filter})"),
    }
}
