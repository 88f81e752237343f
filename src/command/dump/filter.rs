//! What of a database is dumped, and how its rows are written.
//!
//! What leaves out objects, rows or rights is a choice: such a dump is no backup of the database, and dumps of one choice
//! are a group of their own. The options may stand in any order, and twice; the digest of the choice is the same.

use std::collections::BTreeSet;

use crate::config::env_file::ExtraOptions;
use crate::error::{Error, Result};
use crate::pg::pattern::Named;
use crate::repo::FilterDigest;

/// As it was typed; by default the whole database. Patterns are those of `pg_dump`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    pub schemas: Vec<String>,
    pub exclude_schemas: Vec<String>,
    pub tables: Vec<String>,
    pub exclude_tables: Vec<String>,
    pub exclude_table_data: Vec<String>,
    /// Long names of options of `pg_dump` without a value.
    pub switches: Vec<Switch>,
}

/// An option of `pg_dump` without a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    DataOnly,
    SchemaOnly,
    NoPrivileges,
    NoLargeObjects,
    LargeObjects,
    Inserts,
    ColumnInserts,
}

impl Switch {
    /// The spelling that every version of `pg_dump` knows.
    fn word(self) -> &'static str {
        match self {
            Self::DataOnly => "--data-only",
            Self::SchemaOnly => "--schema-only",
            Self::NoPrivileges => "--no-privileges",
            Self::NoLargeObjects => "--no-blobs",
            Self::LargeObjects => "--blobs",
            Self::Inserts => "--inserts",
            Self::ColumnInserts => "--column-inserts",
        }
    }

    fn leaves_out(self) -> bool {
        matches!(self, Self::DataOnly | Self::SchemaOnly | Self::NoPrivileges | Self::NoLargeObjects)
    }
}

/// What `pg_dump` is told of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    /// Complete words; none is a dump of the whole database.
    choosing: BTreeSet<String>,
    /// In the order in which they were written.
    rest: Vec<String>,
}

/// Names of one option; the first stands for all in the digest.
const ALIASES: [(&str, &[&str]); 4] = [
    ("--data-only", &["--no-schema"]),
    ("--schema-only", &["--no-data"]),
    ("--no-privileges", &["--no-acl"]),
    ("--no-blobs", &["--no-large-objects"]),
];

/// Those with which a large object is dumped though a choice would leave it out.
const LARGE_OBJECTS: [&str; 2] = ["--blobs", "--large-objects"];

/// Options that do not go together, and what to do: what `pg_dump` would refuse later, or pass over in silence.
const IMPOSSIBLE: [(&str, &str, &str); 8] = [
    ("--data-only", "--schema-only", "take one of them; without either a dump holds both"),
    ("--data-only", "--clean", "leave --clean out: a dump without tables has nothing to drop"),
    ("--schema-only", "--exclude-table-data", "leave one of them out: --schema-only holds no rows of any table"),
    ("--table", "--schema", TABLE_AND_SCHEMA),
    ("--table", "--exclude-schema", TABLE_AND_SCHEMA),
    ("--blobs", "--no-blobs", "take one of them"),
    ("--large-objects", "--no-blobs", "take one of them"),
    ("--blobs", "--schema-only", "leave one of them out: large objects are rows"),
];

const EXCLUSIONS: [(&str, Named); 5] = [
    ("--exclude-schema", Named::Schema),
    ("--exclude-table", Named::Relation),
    ("--exclude-table-and-children", Named::Relation),
    ("--exclude-table-data", Named::Relation),
    ("--exclude-table-data-and-children", Named::Relation),
];

const TABLE_AND_SCHEMA: &str = "where tables are named pg_dump does not look at schemas: write both into one pattern, \
    such as --table 'sales.*', and leave tables out with --exclude-table 'sales.old_*'";

impl Filter {
    /// Refuses what does not go together.
    pub fn new(choice: &Choice, extra: &ExtraOptions) -> Result<Self> {
        let patterns = [
            ("--schema", &choice.schemas),
            ("--exclude-schema", &choice.exclude_schemas),
            ("--table", &choice.tables),
            ("--exclude-table", &choice.exclude_tables),
            ("--exclude-table-data", &choice.exclude_table_data),
        ];
        let mut choosing: BTreeSet<String> = extra.choosing.iter().map(|word| canonical(word)).collect();
        for (option, patterns) in patterns {
            if patterns.iter().any(String::is_empty) {
                return Err(Error::usage(format!("{option} has an empty pattern"))
                    .hint(format!("name what is meant, or leave {option} out")));
            }
            choosing.extend(patterns.iter().map(|pattern| format!("{option}={pattern}")));
        }
        let mut rest = extra.words.clone();
        for switch in &choice.switches {
            let word = switch.word().to_owned();
            match switch.leaves_out() {
                true => drop(choosing.insert(word)),
                false if rest.contains(&word) => {}
                false => rest.push(word),
            }
        }
        if !choosing.is_empty() && rest.iter().any(|word| LARGE_OBJECTS.contains(&word.as_str())) {
            rest.retain(|word| !LARGE_OBJECTS.contains(&word.as_str()));
            choosing.insert(LARGE_OBJECTS[0].to_owned());
        }
        let filter = Self { choosing, rest };
        filter.refuse_impossible()?;
        Ok(filter)
    }

    fn refuse_impossible(&self) -> Result<()> {
        let clash = IMPOSSIBLE.iter().find(|(one, other, _)| self.has(one) && self.has(other));
        match clash {
            None => Ok(()),
            Some((one, other, instead)) => {
                Err(Error::usage(format!("{} and {} do not go together", typed(one), typed(other))).hint(*instead))
            }
        }
    }

    fn has(&self, option: &str) -> bool {
        let is_it = |word: &String| word.split_once('=').map_or(word.as_str(), |(name, _)| name) == option;
        self.choosing.iter().chain(&self.rest).any(is_it)
    }

    /// Whether the dump will be less than the whole database.
    pub fn is_filtered(&self) -> bool {
        !self.choosing.is_empty()
    }

    /// Whether names of objects are among it, so that what is needed beside them is not in the dump.
    fn names_objects(&self) -> bool {
        ["--schema", "--table", "--table-and-children", "--extension"].iter().any(|option| self.has(option))
    }

    /// Which choice it is; `None` for the whole database.
    pub fn digest(&self) -> Option<FilterDigest> {
        self.is_filtered().then(|| FilterDigest::of(self.choosing.iter().map(String::as_str)))
    }

    /// The choice in words of `pg_dump`. They name tables.
    pub fn choice(&self) -> Vec<String> {
        self.choosing.iter().cloned().collect()
    }

    /// Options that leave out what a pattern matches, and their patterns: where nothing does, `pg_dump` says nothing.
    pub fn exclusions(&self) -> impl Iterator<Item = (&str, &str, Named)> {
        self.choosing.iter().filter_map(|word| {
            let (option, pattern) = word.split_once('=')?;
            let named = EXCLUSIONS.iter().find(|(name, _)| *name == option)?.1;
            Some((option, pattern, named))
        })
    }

    /// Everything that `pg_dump` is told.
    pub fn words(&self) -> Vec<String> {
        let mut words = self.rest.clone();
        words.extend(self.choosing.iter().cloned());
        // Else a mistyped name among right ones would be missing in silence.
        if self.names_objects() && !self.has("--strict-names") {
            words.push("--strict-names".to_owned());
        }
        words
    }

    /// Whether `pg_dump` will tell each step.
    pub fn is_verbose(&self) -> bool {
        self.has("--verbose")
    }
}

fn canonical(word: &str) -> String {
    let alias = ALIASES.iter().find(|(_, others)| others.contains(&word));
    alias.map_or(word, |(first, _)| first).to_owned()
}

/// As our own option is called.
fn typed(word: &str) -> &str {
    match word {
        "--blobs" => "--large-objects",
        "--no-blobs" => "--no-large-objects",
        word => word,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::env_file::extra_options::{Place, parse};

    fn extra(text: &str) -> ExtraOptions {
        parse(text, Place::CommandLine).unwrap()
    }

    fn only_extra(text: &str) -> Filter {
        Filter::new(&Choice::default(), &extra(text)).unwrap()
    }

    fn tables(patterns: &[&str]) -> Choice {
        Choice { tables: patterns.iter().map(|pattern| (*pattern).to_owned()).collect(), ..Choice::default() }
    }

    #[test]
    fn a_choice_is_the_same_in_any_order_and_any_spelling() {
        let typed = Filter::new(&tables(&["a", "b"]), &ExtraOptions::default()).unwrap();
        let turned = Filter::new(&tables(&["b", "a", "b"]), &ExtraOptions::default()).unwrap();
        assert_eq!(typed.digest(), turned.digest());
        assert_eq!(typed.digest(), only_extra("-t b --table=a").digest());
        assert_eq!(typed.words(), ["--table=a", "--table=b", "--strict-names"]);
        assert_eq!(only_extra("--no-acl").digest(), only_extra("-x").digest());
        assert_eq!(only_extra("-t a --large-objects").digest(), only_extra("-b -t a").digest());
        assert_ne!(only_extra("-t a -b").digest(), only_extra("-t a").digest());
        let inserts = Choice { switches: vec![Switch::Inserts], ..tables(&["b", "a"]) };
        let inserts = Filter::new(&inserts, &ExtraOptions::default()).unwrap();
        assert_eq!(inserts.digest(), typed.digest());
    }

    #[test]
    fn only_what_leaves_something_out_makes_a_choice() {
        for whole in ["", "--inserts", "--column-inserts -b", "-v --no-comments", "-O"] {
            let filter = only_extra(whole);
            assert!(!filter.is_filtered() && filter.digest().is_none(), "{whole}");
            assert!(!filter.words().contains(&"--strict-names".to_owned()));
        }
        for part in ["-s", "-x", "-B", "-T x", "--exclude-table-data=x", "-n x", "-N x", "-e x"] {
            let filter = only_extra(part);
            assert!(filter.is_filtered() && filter.digest().is_some(), "{part}");
        }
        let data = Choice { switches: vec![Switch::DataOnly], ..Choice::default() };
        assert!(Filter::new(&data, &ExtraOptions::default()).unwrap().is_filtered());
    }

    #[test]
    fn what_does_not_go_together_is_refused_by_name_with_the_next_step() {
        let both = Choice { switches: vec![Switch::DataOnly, Switch::SchemaOnly], ..Choice::default() };
        let error = Filter::new(&both, &ExtraOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "--data-only and --schema-only do not go together");
        assert!(error.next_step().unwrap().starts_with("take one of them"));
        let data = Choice { switches: vec![Switch::DataOnly], ..Choice::default() };
        let error = Filter::new(&data, &extra("--clean")).unwrap_err();
        assert_eq!(error.to_string(), "--data-only and --clean do not go together");
        let schema = Choice { schemas: vec!["s".to_owned()], ..tables(&["a"]) };
        let error = Filter::new(&schema, &ExtraOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "--table and --schema do not go together");
        let large = Choice { switches: vec![Switch::LargeObjects, Switch::NoLargeObjects], ..Choice::default() };
        let error = Filter::new(&large, &ExtraOptions::default()).unwrap_err();
        assert_eq!(error.to_string(), "--large-objects and --no-large-objects do not go together");
        assert!(Filter::new(&tables(&[""]), &ExtraOptions::default()).is_err());
    }
}
