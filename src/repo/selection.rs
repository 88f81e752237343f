//! Which backup is meant: an id, a unique beginning of one, or `latest`. Pure functions of the union.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::catalogue::{Backup, Unreadable};
use super::layout::{BackupId, DumpStem};
use super::name::InstanceName;
use super::union::{Holding, Union};
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
    pub holding: &'a Holding,
    /// The copy that speaks for it.
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
    pub fn among<'c>(&self, union: &'c Union) -> Result<Chosen<'c>> {
        let candidates: Vec<&Holding> = union.holdings.iter().filter(|holding| self.admits(holding)).collect();
        match &self.which {
            Which::Latest => self.latest(&candidates, union),
            Which::Id(text) => self.named(text, &candidates, union),
        }
    }

    fn admits(&self, holding: &Holding) -> bool {
        self.instance.is_none_or(|instance| holding.instance() == instance)
            && self.database.is_none_or(|database| holding.is_of_database(database))
    }

    fn named<'c>(&self, text: &str, candidates: &[&'c Holding], union: &Union) -> Result<Chosen<'c>> {
        let exact = |holding: &&Holding| holding.id().as_str() == text;
        let begins = |holding: &&Holding| holding.id().as_str().starts_with(text);
        let mut meant: Vec<&Holding> = candidates.iter().copied().filter(exact).collect();
        if meant.is_empty() && !text.is_empty() {
            meant = candidates.iter().copied().filter(begins).collect();
        }
        match meant.as_slice() {
            [] => Err(self.none(format!("no backup has an id that begins with {text:?}"), union)),
            [holding] => match (holding.backup(), holding.unreadable()) {
                (None, Some(unreadable)) => Err(cannot_read(unreadable)),
                (Some(backup), _) => Ok(Chosen { holding, backup, passed_over: Vec::new() }),
                (None, None) => Err(Error::new(Kind::NoSuchBackup, format!("there is no copy of {}", holding.id()))),
            },
            several => Err(Error::usage(format!(
                "{text:?} means {}",
                listed(several.iter().map(|holding| described(holding)))
            ))
            .hint("give more of the id, or name one instance with --instance")),
        }
    }

    fn latest<'c>(&self, candidates: &[&'c Holding], union: &Union) -> Result<Chosen<'c>> {
        one_database(candidates)?;
        let good = candidates.iter().filter(|holding| holding.shortcoming().is_none());
        let readable = good.filter_map(|holding| Some((*holding, holding.backup()?)));
        let chosen = readable.max_by_key(|(holding, backup)| (backup.manifest.finished_at, holding.stem()));
        // A manifest that was not delivered may be the latest of all. One that is damaged is no backup.
        let unasked = candidates.iter().filter_map(|holding| holding.unreadable());
        for unreadable in unasked.filter(|unreadable| unreadable.error.kind != Kind::Verification) {
            let later = |backup: &Backup| unreadable.stem.started_at().time() > backup.manifest.started_at;
            if chosen.is_none_or(|(_, backup)| later(backup)) {
                return Err(cannot_read(unreadable));
            }
        }
        let (holding, backup) = chosen.ok_or_else(|| {
            let why = newer_than(None, candidates).into_iter().map(|(id, why)| format!("{id}: {why}"));
            let why: Vec<_> = why.collect();
            match why.is_empty() {
                true => self.none("there is no backup".to_owned(), union),
                // Those of other databases are no help.
                false => self
                    .none(format!("there is no good backup ({})", listed(why.into_iter())), union)
                    .hint("one that is named by its id is taken even so"),
            }
        })?;
        Ok(Chosen { holding, backup, passed_over: newer_than(Some(backup), candidates) })
    }

    fn none(&self, sentence: String, union: &Union) -> Error {
        let mut sentence = sentence;
        if let Some(instance) = self.instance {
            let _ = write!(sentence, " in instance {instance}");
        }
        if let Some(database) = self.database {
            let _ = write!(sentence, " of database {database:?}");
        }
        let there = listed(union.holdings.iter().rev().map(described));
        let hint = match union.holdings.is_empty() {
            true => "the repository holds no backups yet".to_owned(),
            false => format!("there is {there}"),
        };
        Error::new(Kind::NoSuchBackup, sentence).hint(hint)
    }
}

/// `latest` has a meaning for one database of one instance only.
fn one_database(candidates: &[&Holding]) -> Result<()> {
    // A damaged manifest does not tell the full name; it counts with the database whose stem it has.
    let of = |holding: &&Holding| (holding.instance().clone(), holding.stem().encoded_database().to_owned());
    let mut databases: BTreeMap<_, &str> = BTreeMap::new();
    for holding in candidates {
        // What is named is what -d takes.
        let named = databases.entry(of(holding)).or_insert(holding.database());
        if holding.backup().is_some() {
            *named = holding.database();
        }
    }
    if databases.len() < 2 {
        return Ok(());
    }
    let named = databases.iter().map(|((instance, _), database)| format!("{database} of instance {instance}"));
    Err(Error::usage(format!("\"latest\" could be of {}", listed(named)))
        .hint("name the database with -d and the instance with --instance, or give an id"))
}

/// What ends (or, if unreadable, starts) later than `chosen` and is not good.
fn newer_than(chosen: Option<&Backup>, candidates: &[&Holding]) -> Vec<(BackupId, String)> {
    let mut newer: Vec<(&DumpStem, String)> = Vec::new();
    for holding in candidates {
        let later = match holding.backup() {
            Some(backup) => chosen.is_none_or(|chosen| backup.manifest.finished_at > chosen.manifest.finished_at),
            None => chosen.is_none_or(|chosen| holding.stem().started_at() > chosen.stem.started_at()),
        };
        if let (true, Some(why)) = (later, holding.shortcoming()) {
            newer.push((holding.stem(), why));
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

fn described(holding: &Holding) -> String {
    format!("{} (instance {})", holding.stem(), holding.instance())
}

fn listed(items: impl Iterator<Item = String>) -> String {
    let items: Vec<String> = items.collect();
    let shown = items.iter().take(LISTED).cloned().collect::<Vec<_>>().join(", ");
    match items.len().saturating_sub(LISTED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::manifest::tests::sample;
    use crate::repo::union::tests::union;
    use crate::repo::{Defect, Entry, ProofName, Stamp};

    fn backup(instance: &str, database: &str, day: u32, change: impl FnOnce(&mut Backup)) -> Entry {
        let started_at = format!("2025-01-{day:02}T02:00:00Z").parse().unwrap();
        let manifest = sample(&instance.parse().unwrap(), database, started_at);
        let stem = DumpStem::new(database, Stamp::of(started_at), "db1");
        let mut backup = Backup { stem, manifest, proofs: Default::default(), defects: Vec::new() };
        change(&mut backup);
        Entry::Backup(Box::new(backup))
    }

    fn good(instance: &str, database: &str, day: u32) -> Entry {
        backup(instance, database, day, |_| {})
    }

    fn unreadable(database: &str, day: u32, kind: Kind) -> Entry {
        let at = format!("202501{day:02}T020000Z").parse().unwrap();
        let stem = DumpStem::new(database, at, "db1");
        Entry::Unreadable(Unreadable { instance: "main".parse().unwrap(), stem, error: Error::new(kind, "read it") })
    }

    fn failed(backup: &mut Backup) {
        backup.proofs = ["20250201T000000Z-L1-failed".parse::<ProofName>().unwrap()].into_iter().collect();
    }

    fn choose(entries: Vec<Entry>, which: &str, instance: Option<&str>, database: Option<&str>) -> Result<String> {
        let instance = instance.map(|name| name.parse::<InstanceName>().unwrap());
        let choice = Choice { which: which.into(), instance: instance.as_ref(), database };
        choice.among(&union(vec![entries])).map(|chosen| chosen.backup.id().to_string())
    }

    const DAY2: &str = "shop_20250102T020000Z_db1";

    #[test]
    fn latest_is_the_newest_good_one_and_says_what_it_passed_over() {
        let entries = vec![
            good("main", "shop", 1),
            good("main", "shop", 2),
            backup("main", "shop", 3, |b| b.manifest.filtered = true),
            backup("main", "shop", 4, failed),
            backup("main", "shop", 5, |b| b.defects = vec![Defect::Missing { name: "a.dump.zst".to_owned() }]),
            unreadable("shop", 6, Kind::Verification),
        ];
        let choice = Choice { which: Which::Latest, instance: None, database: None };
        let union = union(vec![entries]);
        let chosen = choice.among(&union).unwrap();
        assert_eq!(chosen.backup.id().as_str(), DAY2);
        let why: Vec<_> = chosen.passed_over.iter().map(|(_, why)| why.as_str()).collect();
        let failed = "its L1 verification of 20250201T000000Z failed";
        assert_eq!(why, ["read it", "a.dump.zst is missing", failed, "it holds a part of the database"]);
    }

    #[test]
    fn latest_by_the_time_it_ended() {
        let long = backup("main", "shop", 1, |b| b.manifest.finished_at = "2025-01-09T00:00:00Z".parse().unwrap());
        let id = choose(vec![long, good("main", "shop", 2)], "latest", None, None).unwrap();
        assert_eq!(id, "shop_20250101T020000Z_db1");
    }

    #[test]
    fn latest_never_guesses_past_what_could_not_be_read() {
        let entries = || vec![good("main", "shop", 2), unreadable("shop", 3, Kind::Storage)];
        let error = choose(entries(), "latest", None, None).unwrap_err();
        assert_eq!(error.kind, Kind::Storage);
        assert_eq!(choose(entries(), DAY2, None, None).unwrap(), DAY2);
        let older = vec![unreadable("shop", 1, Kind::Storage), good("main", "shop", 2)];
        assert_eq!(choose(older, "latest", None, None).unwrap(), DAY2);
    }

    #[test]
    fn latest_is_of_one_database_of_one_instance() {
        let entries = || vec![good("main", "shop", 2), good("main", "keycloak", 3), good("other", "shop", 4)];
        let error = choose(entries(), "latest", None, None).unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        let expected =
            "\"latest\" could be of keycloak of instance main, shop of instance main, shop of instance other";
        assert_eq!(error.to_string(), expected);
        assert_eq!(choose(entries(), "latest", None, Some("shop")).unwrap_err().kind, Kind::Usage);
        let odd = choose(vec![good("main", "my db", 2), good("main", "50%", 3)], "latest", None, None).unwrap_err();
        assert_eq!(odd.to_string(), "\"latest\" could be of 50% of instance main, my db of instance main");
        assert_eq!(choose(entries(), "latest", Some("main"), Some("shop")).unwrap(), DAY2);
    }

    #[test]
    fn an_id_may_be_cut_short_while_it_is_unique() {
        let entries = || vec![good("main", "shop", 1), good("main", "shop", 2), good("main", "shop_2", 3)];
        assert_eq!(choose(entries(), "shop_20250102", None, None).unwrap(), DAY2);
        assert_eq!(choose(entries(), DAY2, None, None).unwrap(), DAY2);
        let error = choose(entries(), "shop_2025", None, None).unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        assert!(error.to_string().contains(DAY2), "{error}");
        assert_eq!(choose(entries(), "shop_2025", None, Some("shop_2")).unwrap_err().kind, Kind::NoSuchBackup);
        assert_eq!(choose(entries(), "", None, None).unwrap_err().kind, Kind::NoSuchBackup);
    }

    #[test]
    fn a_named_backup_is_taken_even_if_it_is_not_good_but_not_if_it_cannot_be_read() {
        let filtered = vec![backup("main", "shop", 2, |b| b.manifest.filtered = true)];
        assert_eq!(choose(filtered, "shop", None, None).unwrap(), DAY2);
        let error = choose(vec![unreadable("shop", 2, Kind::Verification)], "shop", None, None).unwrap_err();
        assert_eq!(error.kind, Kind::Verification);
        assert_eq!(error.to_string(), format!("read backup {DAY2} of instance main: read it"));
    }

    #[test]
    fn none_says_what_there_is() {
        let error = choose(vec![good("main", "shop", 2)], "latest", None, Some("shopp")).unwrap_err();
        assert_eq!(error.kind, Kind::NoSuchBackup);
        assert_eq!(error.to_string(), "there is no backup of database \"shopp\"");
        assert_eq!(error.next_step(), Some("there is shop_20250102T020000Z_db1 (instance main)"));
        let error = choose(vec![backup("main", "shop", 2, failed)], "latest", None, None).unwrap_err();
        assert!(error.to_string().starts_with("there is no good backup (shop_20250102T020000Z_db1: its L1"), "{error}");
        assert_eq!(error.next_step(), Some("one that is named by its id is taken even so"));
        let error = choose(Vec::new(), "latest", None, None).unwrap_err();
        assert_eq!(error.next_step(), Some("the repository holds no backups yet"));
    }

    #[test]
    fn latest_is_chosen_among_all_repositories() {
        let choose = |held: Vec<Vec<Entry>>| {
            let choice = Choice { which: Which::Latest, instance: None, database: None };
            let union = union(held);
            choice.among(&union).map(|chosen| (chosen.backup.id().to_string(), chosen.passed_over.len()))
        };
        let newer_in_b = vec![vec![good("main", "shop", 1)], vec![good("main", "shop", 2)]];
        assert_eq!(choose(newer_in_b).unwrap(), (DAY2.to_owned(), 0));
        // A copy that is not good does not matter where another one is.
        let refuted = vec![vec![backup("main", "shop", 2, failed)], vec![good("main", "shop", 2)]];
        assert_eq!(choose(refuted).unwrap(), (DAY2.to_owned(), 0));
        let undelivered = vec![vec![unreadable("shop", 2, Kind::Storage)], vec![good("main", "shop", 2)]];
        assert_eq!(choose(undelivered).unwrap(), (DAY2.to_owned(), 0));
        let other = backup("main", "shop", 3, |b| b.manifest.plain.size_bytes += 1);
        let conflict = vec![vec![good("main", "shop", 2), good("main", "shop", 3)], vec![other]];
        assert_eq!(choose(conflict).unwrap(), (DAY2.to_owned(), 1));
    }
}
