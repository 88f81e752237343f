//! The backups of one database of one instance: what "the latest" is of.

use std::collections::BTreeMap;

use super::catalogue::Backup;
use super::name::InstanceName;
use super::selection::{Choice, Chosen, Which};
use super::union::{Holding, Union};
use crate::error::{Error, Result};

/// Every backup of one database, oldest first. Never empty.
#[derive(Debug)]
pub struct Series<'a> {
    union: &'a Union,
    pub instance: &'a InstanceName,
    pub holdings: Vec<&'a Holding>,
}

impl Union {
    /// The backups by instance and database, in the order of their names.
    pub fn series(&self) -> Vec<Series<'_>> {
        let mut by_name: BTreeMap<(&InstanceName, &str), Vec<&Holding>> = BTreeMap::new();
        for holding in &self.holdings {
            // The stem, because a manifest that cannot be read does not tell the full name.
            by_name.entry((holding.instance(), holding.stem().encoded_database())).or_default().push(holding);
        }
        let series = |((instance, _), holdings)| Series { union: self, instance, holdings };
        by_name.into_iter().map(series).collect()
    }
}

impl<'a> Series<'a> {
    /// The name of the database; as it stands in keys, where no manifest that could be read tells it.
    pub fn database(&self) -> &'a str {
        let full = self.backups().next().map(|(_, backup)| backup.manifest.database.as_str());
        full.or_else(|| self.holdings.first().map(|holding| holding.stem().encoded_database())).unwrap_or_default()
    }

    pub fn is_of_database(&self, database: &str) -> bool {
        self.holdings.iter().any(|holding| holding.is_of_database(database))
    }

    /// Those of which a manifest can be read, with the copy that speaks for them.
    pub fn backups(&self) -> impl Iterator<Item = (&'a Holding, &'a Backup)> {
        self.holdings.iter().filter_map(|holding| Some((*holding, holding.backup()?)))
    }

    /// The latest good backup, as [`Choice`] chooses it, and why newer ones are not.
    pub fn latest(&self) -> Result<Chosen<'a>> {
        if self.backups().next().is_none()
            && let Some(newest) = self.newest().and_then(Holding::unreadable)
        {
            // Nothing tells the full name that a choice would need.
            let error = Error::new(newest.error.kind, format!("read backup {}", newest.stem));
            return Err(error.because(newest.error.to_string()).hint("make a new backup"));
        }
        let database = Some(self.database());
        Choice { which: Which::Latest, instance: Some(self.instance), database }.among(self.union)
    }

    /// The backup that began last, good or not.
    pub fn newest(&self) -> Option<&'a Holding> {
        self.holdings.last().copied()
    }
}
