//! Backups that are named to be removed: which they are, and whether they may go.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};

use super::plan::{Held, described};
use super::{Options, Pins};
use crate::error::{Error, Kind, Result};
use crate::process::shell_word;
use crate::repo::retention::{Candidate, Standing};
use crate::repo::{Backup, DumpStem, Entry};

/// The backups that are meant, in every repository that holds them.
pub struct Named {
    pub stems: BTreeSet<DumpStem>,
}

/// How many ids an error lists.
const LISTED: usize = 10;

/// All or nothing: one that must stay in one repository keeps all of them.
pub(super) fn choose(
    options: &Options,
    ids: &[String],
    pins: Pins,
    held: &[Held],
    now: DateTime<Utc>,
) -> Result<Named> {
    let stems = ids.iter().map(|id| meant(options, id, held)).collect::<Result<BTreeSet<_>>>()?;
    for held in held {
        for entry in held.catalogue.entries.iter().filter(|entry| stems.contains(entry.stem())) {
            if let Entry::Unreadable(unreadable) = entry
                && unreadable.error.kind != Kind::Verification
            {
                // It may be good: only bytes that are wrong are damage.
                return Err(unreadable.error.repeated());
            }
        }
        for (backup, candidate) in held.backups().filter(|(backup, _)| stems.contains(&backup.stem)) {
            if pins == Pins::Hold {
                refuse_pinned(backup, now)?;
            }
            refuse_last_good(held, backup, candidate, &stems, now)?;
        }
    }
    Ok(Named { stems })
}

/// The one backup that an id means.
fn meant(options: &Options, id: &str, held: &[Held]) -> Result<DumpStem> {
    let of_database = |entry: &&Entry| {
        options.databases.is_empty() || options.databases.iter().any(|database| entry.is_of_database(database))
    };
    let entries = || held.iter().flat_map(|held| &held.catalogue.entries).filter(of_database);
    let named = |is_it: &dyn Fn(&str) -> bool| -> BTreeSet<&DumpStem> {
        entries().map(Entry::stem).filter(|stem| is_it(&stem.to_string())).collect()
    };
    let mut found = named(&|name| name == id);
    if found.is_empty() && !id.is_empty() {
        found = named(&|name| name.starts_with(id));
    }
    let instance = &options.instance;
    let mut found = found.into_iter();
    match (found.next(), found.len()) {
        (None, _) => Err(Error::new(
            Kind::NoSuchBackup,
            format!("no backup of instance {instance} has an id that begins with {id:?}"),
        )
        .hint(format!("pgkeep report list --instance {instance} shows what there is"))),
        (Some(stem), 0) => Ok(stem.clone()),
        (Some(first), more) => {
            let mut told: Vec<String> =
                std::iter::once(first).chain(found).take(LISTED).map(DumpStem::to_string).collect();
            if more >= LISTED {
                told.push(format!("{} more", more + 1 - LISTED));
            }
            Err(Error::usage(format!("{id:?} means {}", told.join(", "))).hint("give more of the id"))
        }
    }
}

fn refuse_pinned(backup: &Backup, now: DateTime<Utc>) -> Result<()> {
    let Some(keep) = backup.manifest.keep.filter(|keep| keep.holds(now)) else { return Ok(()) };
    let label = backup.manifest.label.as_ref().map_or(String::new(), |label| format!(" ({label:?})"));
    Err(Error::refused(format!("{}{label} is pinned {keep}", backup.id()))
        .hint("if it is no longer needed, add --unpin to the command"))
}

/// The newest good backup of the same group that stays.
pub(super) fn another_good<'a>(
    held: &'a Held,
    backup: &Backup,
    going: &BTreeSet<DumpStem>,
    now: DateTime<Utc>,
) -> Option<&'a Candidate> {
    let group = Candidate::of(backup).group;
    let others = held.candidates.iter().filter(|one| one.group == group && !going.contains(&one.stem));
    others.filter(|one| one.counts(now)).max_by_key(|one| one.finished_at)
}

/// A good backup goes only where another good one of its group stays.
fn refuse_last_good(
    held: &Held,
    backup: &Backup,
    candidate: &Candidate,
    going: &BTreeSet<DumpStem>,
    now: DateTime<Utc>,
) -> Result<()> {
    if candidate.standing != Standing::Good || another_good(held, backup, going, now).is_some() {
        return Ok(());
    }
    let (id, of) = (backup.id(), described(&backup.manifest.database, &candidate.group.extent));
    let database = shell_word(backup.manifest.database.as_ref());
    Err(Error::refused(format!("{id} is the last good backup of {of} in {}", held.repository.name())).hint(format!(
        "make a new backup first; of a database that is no longer backed up everything goes with -d {database} --dropped"
    )))
}
