//! The backups of one database of one instance: what "the latest" is of.

use std::collections::BTreeMap;

use super::catalogue::{Backup, Catalogue, Entry};
use super::name::InstanceName;
use super::selection::{Choice, Chosen, Which};
use crate::error::{Error, Result};

/// Every backup of one database, oldest first. Never empty.
#[derive(Debug)]
pub struct Series<'a> {
    catalogue: &'a Catalogue,
    pub instance: &'a InstanceName,
    pub entries: Vec<&'a Entry>,
}

impl Catalogue {
    /// The entries by instance and database, in the order of their names.
    pub fn series(&self) -> Vec<Series<'_>> {
        let mut by_name: BTreeMap<(&InstanceName, &str), Vec<&Entry>> = BTreeMap::new();
        for entry in &self.entries {
            // The stem, because a manifest that cannot be read does not tell the full name.
            by_name.entry((entry.instance(), entry.stem().encoded_database())).or_default().push(entry);
        }
        let series = |((instance, _), entries)| Series { catalogue: self, instance, entries };
        by_name.into_iter().map(series).collect()
    }
}

impl<'a> Series<'a> {
    /// The name of the database; as it stands in keys, where no manifest that could be read tells it.
    pub fn database(&self) -> &str {
        let full = self.backups().next().map(|backup| backup.manifest.database.as_str());
        full.or_else(|| self.entries.first().map(|entry| entry.stem().encoded_database())).unwrap_or_default()
    }

    pub fn is_of_database(&self, database: &str) -> bool {
        self.entries.iter().any(|entry| entry.is_of_database(database))
    }

    pub fn backups(&self) -> impl Iterator<Item = &'a Backup> {
        self.entries.iter().filter_map(|entry| entry.backup())
    }

    /// The latest good backup, as [`Choice`] chooses it, and why newer ones are not.
    pub fn latest(&self) -> Result<Chosen<'a>> {
        if let (None, Some(Entry::Unreadable(newest))) = (self.backups().next(), self.newest()) {
            // Nothing tells the full name that a choice would need.
            let error = Error::new(newest.error.kind, format!("read backup {}", newest.stem));
            return Err(error.because(newest.error.to_string()).hint("make a new backup"));
        }
        let database = Some(self.database());
        Choice { which: Which::Latest, instance: Some(self.instance), database }.among(self.catalogue)
    }

    /// The entry that began last, good or not.
    pub fn newest(&self) -> Option<&'a Entry> {
        self.entries.last().copied()
    }
}
