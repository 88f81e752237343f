//! `[repository.NAME]`.

use std::path::PathBuf;

use super::reader::{Key, Keys, Node, Reader};
use crate::error::{Error, Result};

/// `[repository.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredRepository {
    pub name: String,
    /// As it is typed.
    pub address: String,
    /// What `pgkeep.json` has to say there: else a disk is not mounted.
    pub id: Option<String>,
    pub credentials: Credentials,
    /// How deep a dump is checked before it counts; by default as the store deserves.
    pub check: Option<CheckLevel>,
}

/// Where the keys of a store come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// The environment and what the client of the store looks for by itself.
    #[default]
    Chain,
    File(PathBuf),
    /// A program and its arguments.
    Command(Vec<String>),
}

/// `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckLevel {
    Decode,
    ReadBack,
}

const KEYS: Keys = Keys {
    known: &["address", "id", "credentials_file", "credentials_command", "check"],
    later: &["required", "recipients", "passphrase_file"],
};

impl Reader<'_> {
    pub fn repository(&self, key: &Key<'_>, value: &Node<'_>) -> Result<ConfiguredRepository> {
        let name = key.get_ref().as_ref();
        let place = self.place(key.span());
        if !is_name(name) {
            return Err(Error::usage(format!("{name:?} on {place} is not the name of a repository"))
                .hint("use letters, digits, - and _, and a letter or digit first"));
        }
        let table = self.table(name, value, "write [repository.NAME] above address = \"…\"")?;
        let mut repository = ConfiguredRepository {
            name: name.to_owned(),
            address: String::new(),
            id: None,
            credentials: Credentials::Chain,
            check: None,
        };
        for (key, value) in table.iter() {
            self.expect_known(key, &KEYS, &format!("a key of [repository.{name}]"))?;
            match key.get_ref().as_ref() {
                "address" => repository.address = self.address(value)?,
                "id" => repository.id = Some(self.text("id", value)?),
                "credentials_file" => repository.credentials = Credentials::File(self.path("credentials_file", value)?),
                "credentials_command" => {
                    let example = "\"/usr/local/bin/keys\", \"--of\", \"backups\"";
                    let words = self.command("credentials_command", value, example)?;
                    repository.credentials = Credentials::Command(words);
                }
                _ => repository.check = Some(self.check(value)?),
            }
        }
        if repository.address.is_empty() {
            return Err(self
                .wrong_table("repository", key, "has no address")
                .hint("add a line such as address = \"/backups\""));
        }
        if ["credentials_file", "credentials_command"].iter().all(|key| table.contains_key(*key)) {
            let what = "has both credentials_file and credentials_command";
            return Err(self.wrong_table("repository", key, what).hint("leave one of them out"));
        }
        Ok(repository)
    }

    /// Where a command is started says nothing of where a configured repository lies.
    fn address(&self, value: &Node<'_>) -> Result<String> {
        let address = self.text("address", value)?;
        if address.contains('/') && !address.contains(':') && !address.starts_with('/') {
            return Err(self.wrong("address", value, "is not an absolute path").hint("begin it with a slash"));
        }
        Ok(address)
    }

    fn check(&self, value: &Node<'_>) -> Result<CheckLevel> {
        match value.get_ref().as_str() {
            Some("decode") => Ok(CheckLevel::Decode),
            Some("read-back") => Ok(CheckLevel::ReadBack),
            _ => Err(self.wrong("check", value, "is not \"decode\" or \"read-back\"")),
        }
    }
}

/// A word that cannot be taken for an address: those contain a `/` or a `:`.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    name.len() <= 63 && name.bytes().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}
