//! Which backup is meant: an id, a unique beginning of one, or `latest`. Pure functions of the catalogue.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::catalogue::{Backup, Catalogue, Entry, Unreadable};
use super::layout::{BackupId, DumpStem};
use super::name::InstanceName;
use crate::error::{Error, Kind, Result};

/// What a user names. `latest` is reserved; everything else is an id or the beginning of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Which {
    Latest,
    Id(String),
}

impl From<&str> for Which {
    fn from(text: &str) -> Self {
        if text == "latest" { Self::Latest } else { Self::Id(text.to_owned()) }
    }
}

/// A choice among backups, within one instance and one database if they are given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Choice<'a> {
    pub which: Which,
    pub instance: Option<&'a InstanceName>,
    pub database: Option<&'a str>,
}

/// What was chosen, and what newer was not.
#[derive(Debug)]
pub struct Chosen<'a> {
    pub backup: &'a Backup,
    /// Backups that end later and are not good, with the reason; the newest first.
    pub passed_over: Vec<(BackupId, String)>,
}

/// How many candidates an error lists.
const LISTED: usize = 10;

impl Choice<'_> {
    /// Chooses one backup.
    ///
    /// [`Kind::Usage`] if several are meant, with the list; [`Kind::NoSuchBackup`] if none is, with what there is; the
    /// error of the manifest if it is one that could not be read.
    pub fn among<'c>(&self, catalogue: &'c Catalogue) -> Result<Chosen<'c>> {
        let candidates: Vec<&Entry> = catalogue.entries.iter().filter(|entry| self.admits(entry)).collect();
        match &self.which {
            Which::Latest => self.latest(&candidates, catalogue),
            Which::Id(text) => self.named(text, &candidates, catalogue),
        }
    }

    fn admits(&self, entry: &Entry) -> bool {
        self.instance.is_none_or(|instance| entry.instance() == instance)
            && self.database.is_none_or(|database| entry.is_of_database(database))
    }

    fn named<'c>(&self, text: &str, candidates: &[&'c Entry], catalogue: &Catalogue) -> Result<Chosen<'c>> {
        let exact = |entry: &&&Entry| entry.id().as_str() == text;
        let begins = |entry: &&&Entry| entry.id().as_str().starts_with(text);
        let mut meant: Vec<&&Entry> = candidates.iter().filter(exact).collect();
        if meant.is_empty() && !text.is_empty() {
            meant = candidates.iter().filter(begins).collect();
        }
        match meant.as_slice() {
            [] => Err(self.none(format!("no backup has an id that begins with {text:?}"), catalogue)),
            [Entry::Backup(backup)] => Ok(Chosen { backup, passed_over: Vec::new() }),
            [Entry::Unreadable(unreadable)] => Err(cannot_read(unreadable)),
            several => Err(Error::usage(format!("{text:?} means {}", listed(several.iter().map(|e| described(e)))))
                .hint("give more of the id, or name one instance with --instance")),
        }
    }

    fn latest<'c>(&self, candidates: &[&'c Entry], catalogue: &Catalogue) -> Result<Chosen<'c>> {
        one_database(candidates)?;
        let good = candidates.iter().filter_map(|entry| entry.backup()).filter(|b| b.shortcoming().is_none());
        let chosen = good.max_by_key(|backup| (backup.manifest.finished_at, &backup.stem));
        let unasked = candidates.iter().filter_map(|entry| match entry {
            Entry::Unreadable(unreadable) if unreadable.error.kind != Kind::Verification => Some(unreadable),
            _ => None,
        });
        // A manifest that was not delivered may be the latest of all. One that is damaged is no backup.
        for unreadable in unasked {
            let later = |backup: &Backup| unreadable.stem.started_at().time() > backup.manifest.started_at;
            if chosen.is_none_or(later) {
                return Err(cannot_read(unreadable));
            }
        }
        let backup = chosen.ok_or_else(|| {
            let why = newer_than(None, candidates).into_iter().map(|(id, why)| format!("{id}: {why}"));
            let why: Vec<_> = why.collect();
            match why.is_empty() {
                true => self.none("there is no backup".to_owned(), catalogue),
                false => self.none(format!("there is no good backup ({})", listed(why.into_iter())), catalogue),
            }
        })?;
        Ok(Chosen { backup, passed_over: newer_than(Some(backup), candidates) })
    }

    fn none(&self, sentence: String, catalogue: &Catalogue) -> Error {
        let mut sentence = sentence;
        if let Some(instance) = self.instance {
            let _ = write!(sentence, " in instance {instance}");
        }
        if let Some(database) = self.database {
            let _ = write!(sentence, " of database {database:?}");
        }
        let there = listed(catalogue.entries.iter().rev().map(described));
        let hint = match catalogue.entries.is_empty() {
            true => "the repository holds no backups yet".to_owned(),
            false => format!("there is {there}"),
        };
        Error::new(Kind::NoSuchBackup, sentence).hint(hint)
    }
}

/// `latest` has a meaning for one database of one instance only.
fn one_database(candidates: &[&Entry]) -> Result<()> {
    // A damaged manifest does not tell the full name; it counts with the database whose stem it has.
    let of = |entry: &&Entry| (entry.instance().clone(), entry.stem().encoded_database().to_owned());
    let databases: BTreeSet<_> = candidates.iter().map(of).collect();
    if databases.len() < 2 {
        return Ok(());
    }
    let named = databases.iter().map(|(instance, database)| format!("{database} of instance {instance}"));
    Err(Error::usage(format!("\"latest\" could be of {}", listed(named)))
        .hint("name the database with -d and the instance with --instance, or give an id"))
}

/// What ends (or, if unreadable, starts) later than `chosen` and is not good.
fn newer_than(chosen: Option<&Backup>, candidates: &[&Entry]) -> Vec<(BackupId, String)> {
    let mut newer: Vec<(&DumpStem, String)> = Vec::new();
    for entry in candidates {
        match entry {
            Entry::Backup(backup) => {
                let later = chosen.is_none_or(|chosen| backup.manifest.finished_at > chosen.manifest.finished_at);
                if let (true, Some(why)) = (later, backup.shortcoming()) {
                    newer.push((&backup.stem, why));
                }
            }
            Entry::Unreadable(unreadable) => {
                if chosen.is_none_or(|chosen| unreadable.stem.started_at() > chosen.stem.started_at()) {
                    newer.push((&unreadable.stem, unreadable.error.to_string()));
                }
            }
        }
    }
    newer.sort_by_key(|(stem, _)| std::cmp::Reverse(stem.started_at()));
    newer.into_iter().map(|(stem, why)| (stem.into(), why)).collect()
}

fn cannot_read(unreadable: &Unreadable) -> Error {
    let Unreadable { instance, stem, error } = unreadable;
    let hint = error.next_step().unwrap_or("choose another backup by its id").to_owned();
    Error::new(error.kind, format!("read backup {stem} of instance {instance}")).because(error.to_string()).hint(hint)
}

fn described(entry: &Entry) -> String {
    format!("{} (instance {})", entry.stem(), entry.instance())
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    let shown = items.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
