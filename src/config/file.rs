//! `pgkeep.toml`: the repositories and instances that have names.
//!
//! ```toml
//! [repository.site]
//! address = "s3://backups/site"
//! credentials_file = "/etc/pgkeep/site.keys"
//!
//! [instance.shop]
//! conninfo = "host=db.example.com user=backup"
//! databases = "all"
//! ```
//!
//! A key that is not known is an error with its line that names the nearest known one: a mistyped setting must not be a
//! missing one. Keys that a later version will know are named as that.

mod instance;
mod reader;
mod repository;
mod retention;

use std::path::{Path, PathBuf};

use toml::de::DeTable;

use super::private_file::{self, Readers};
use crate::error::{Error, Result};
pub use instance::{ConfiguredInstance, Databases, Method, PORT, Password};
use reader::{Key, Keys, Node, Reader};
pub use repository::{CheckLevel, ConfiguredRepository, Credentials};
pub use retention::Retention;

/// A configuration file, read and understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// In the order in which they stand in the file, as the instances.
    pub repositories: Vec<ConfiguredRepository>,
    pub instances: Vec<ConfiguredInstance>,
}

const TABLES: Keys = Keys { known: &["repository", "instance"], later: &["job"] };

impl ConfigFile {
    /// Reads `path`. [`crate::error::Kind::Refused`] if the group or others may write it, else every error is
    /// [`crate::error::Kind::Usage`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = private_file::read(path, Readers::Everyone)?;
        Self::parse(path, &text)
    }

    /// `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let reader = Reader { path, text };
        let root = DeTable::parse(text).map_err(|error| reader.unparsed(&error))?;
        let (mut repositories, mut instances) = (Vec::new(), Vec::new());
        for (key, value) in root.get_ref().iter() {
            reader.expect_known(key, &TABLES, "a table of this file")?;
            let kind = key.get_ref().as_ref();
            let hint = match kind {
                "instance" => "write [instance.NAME] above conninfo = \"…\"",
                _ => "write [repository.NAME] above address = \"…\"",
            };
            for (name, value) in reader.table(kind, value, hint)?.iter() {
                match kind {
                    "instance" => instances.push((name, reader.instance(name, value)?)),
                    _ => repositories.push((name, reader.repository(name, value)?)),
                }
            }
        }
        let file = Self { path: path.to_owned(), repositories: in_order(repositories), instances: in_order(instances) };
        reader.expect_named(&file, root.get_ref())?;
        Ok(file)
    }

    pub fn repository(&self, name: &str) -> Option<&ConfiguredRepository> {
        self.repositories.iter().find(|repository| repository.name == name)
    }
}

/// As they stand in the file.
fn in_order<T>(mut found: Vec<(&Key<'_>, T)>) -> Vec<T> {
    found.sort_by_key(|(key, _)| key.span().start);
    found.into_iter().map(|(_, value)| value).collect()
}

impl Reader<'_> {
    /// The repositories that instances name must be there.
    fn expect_named(&self, file: &ConfigFile, root: &DeTable<'_>) -> Result<()> {
        for instance in &file.instances {
            let names = instance.repositories.iter().flatten();
            let Some(unknown) = names.into_iter().find(|name| file.repository(name).is_none()) else { continue };
            let known: Vec<&str> = file.repositories.iter().map(|repository| repository.name.as_str()).collect();
            let hint = match known.as_slice() {
                [] => format!("add [repository.{unknown}] with its address"),
                known => format!("configured are {}", known.join(", ")),
            };
            let table = root.get("instance").and_then(|table| table.get_ref().get(instance.name.as_str()));
            let value: Option<&Node<'_>> = table.and_then(|table| table.get_ref().get("repositories"));
            let what = format!("{unknown:?} is not the name of a configured repository");
            return Err(match value {
                Some(value) => Error::usage(format!("repositories on {}", self.place(value.span()))).because(what),
                None => Error::usage(what),
            }
            .hint(hint));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
