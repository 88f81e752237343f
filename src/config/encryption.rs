//! To whom a repository is encrypted, and what opens it, as a caller says it: keys are read elsewhere.

use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::private_file::{self, Readers};
use super::secret::Secret;
use crate::error::Result;

/// What the configuration, or the flags in its place, say of one repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EncryptionSettings {
    /// Public keys.
    pub recipients: Vec<String>,
    /// A file with one public key on each line. Whoever can change it can read the next backup.
    pub recipients_file: Option<PathBuf>,
    /// Files of secret keys.
    pub identity_files: Vec<PathBuf>,
    /// A program and its arguments that print secret keys.
    pub identity_command: Option<Vec<String>>,
    /// What protects the files of secret keys.
    pub passphrase_file: Option<PathBuf>,
}

impl EncryptionSettings {
    /// Whether everything is to be encrypted.
    pub fn names_recipients(&self) -> bool {
        !self.recipients.is_empty() || self.recipients_file.is_some()
    }

    /// The text of the file of recipients, which nobody else may change.
    pub fn recipients_text(&self) -> Result<Option<String>> {
        self.recipients_file.as_deref().map(|path| private_file::read(path, Readers::Everyone)).transpose()
    }

    /// Where secret keys come from: from the environment before the configuration.
    pub fn identity_source(&self, environment: &Environment) -> IdentitySource {
        let path = |name: &str| environment.get_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
        let text = |name: &str| environment.get(name).filter(|text| !text.is_empty()).map(Secret::new);
        let passphrase = match (text("PGKEEP_PASSPHRASE"), path("PGKEEP_PASSPHRASE_FILE")) {
            (Some(text), _) => Some(Passphrase::Given(text)),
            (None, Some(path)) => Some(Passphrase::File(path)),
            (None, None) => self.passphrase_file.clone().map(Passphrase::File),
        };
        let mut places = Vec::new();
        places.extend(text(IDENTITY).map(|text| IdentityPlace::Given { name: IDENTITY, text }));
        places.extend(path("PGKEEP_IDENTITY_FILE").map(IdentityPlace::File));
        if places.is_empty() {
            places.extend(self.identity_files.iter().cloned().map(IdentityPlace::File));
            places.extend(self.identity_command.clone().map(IdentityPlace::Command));
        }
        IdentitySource { places, passphrase }
    }

    /// As [`Self::identity_source`], but what was typed comes before everything.
    pub fn typed_identities(&self, files: &[PathBuf], environment: &Environment) -> IdentitySource {
        let source = self.identity_source(environment);
        if files.is_empty() {
            return source;
        }
        IdentitySource { places: files.iter().cloned().map(IdentityPlace::File).collect(), ..source }
    }
}

const IDENTITY: &str = "PGKEEP_IDENTITY";

/// Where secret keys come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdentitySource {
    pub places: Vec<IdentityPlace>,
    pub passphrase: Option<Passphrase>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentityPlace {
    File(PathBuf),
    /// The text of the keys; the name is that of the variable.
    Given {
        name: &'static str,
        text: Secret,
    },
    Command(Vec<String>),
}

/// What protects a file of secret keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passphrase {
    /// The first line of it.
    File(PathBuf),
    Given(Secret),
}

impl Passphrase {
    pub fn read(&self) -> Result<Secret> {
        match self {
            Self::Given(secret) => Ok(secret.clone()),
            Self::File(path) => {
                let text = private_file::read(path, Readers::Group)?;
                Ok(Secret::new(text.lines().next().unwrap_or_default()))
            }
        }
    }
}

/// The bytes of a file of secret keys, which only its owner may read.
pub fn read_identity_file(path: &Path) -> Result<Vec<u8>> {
    private_file::read_bytes(path, Readers::Group)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str) -> IdentityPlace {
        IdentityPlace::File(path.into())
    }

    #[test]
    fn the_nearer_word_wins() {
        let configured = EncryptionSettings {
            identity_files: vec!["/c".into()],
            passphrase_file: Some("/p".into()),
            ..Default::default()
        };
        let none = Environment::default();
        let set = Environment::from_pairs([("PGKEEP_IDENTITY_FILE", "/e"), ("PGKEEP_PASSPHRASE", "x")]);
        let source = configured.identity_source(&none);
        assert_eq!((source.places, source.passphrase), (vec![file("/c")], Some(Passphrase::File("/p".into()))));
        let source = configured.identity_source(&set);
        assert_eq!((source.places, source.passphrase), (vec![file("/e")], Some(Passphrase::Given(Secret::new("x")))));
        let source = configured.typed_identities(&["/f".into(), "/g".into()], &set);
        assert_eq!(source.places, [file("/f"), file("/g")]);
    }

    #[test]
    fn keys_in_the_environment_are_not_shown() {
        let set = Environment::from_pairs([("PGKEEP_IDENTITY", "AGE-SECRET-KEY-1X")]);
        let source = EncryptionSettings::default().identity_source(&set);
        assert_eq!(source.places.len(), 1);
        assert!(!format!("{source:?}").contains("SECRET-KEY"));
    }
}
