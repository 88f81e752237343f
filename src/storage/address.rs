//! From an address, as a user types it, to a store.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Access, LocalStorage, Missing, Storage};
use crate::error::{Error, Result};

/// Where a repository is. Prints in one spelling, however it was typed and from wherever: repositories are remembered
/// by it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Address(PathBuf);

impl Address {
    /// Reads what a user types: a path contains a `/`. Everything else that pgkeep may come to speak is refused by
    /// name. What is not understood is not repeated in the error, since it may carry a password.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(scheme) = scheme(text) {
            return Err(Error::usage(format!("{scheme} repositories are not supported by this version"))
                .hint("give the path of a directory, such as --repo /backups"));
        }
        if !text.contains('/') {
            return Err(Error::usage(format!("{text:?} is not the address of a repository"))
                .hint(format!("a directory is written with a slash: ./{text}")));
        }
        let path = PathBuf::from(text);
        Ok(Self(std::path::absolute(&path).unwrap_or(path).components().collect()))
    }

    /// Whether the bytes lie on a disk of this host, as far as its file system tells.
    pub fn is_local(&self) -> bool {
        true
    }

    /// Opens the store. [`super::Fault::NotFound`] says that there is nothing at this address.
    pub async fn open(&self, _access: &Access, missing: Missing) -> super::Result<Arc<dyn Storage>> {
        Ok(Arc::new(LocalStorage::open(&self.0, missing).await?))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.display().fmt(f)
    }
}

/// `s3://`, `oss://`, `rclone:` or any other `word://` at the start.
fn scheme(address: &str) -> Option<String> {
    let (word, rest) = address.split_once(':')?;
    let is_word = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    match word {
        "rclone" => Some("rclone:".to_owned()),
        _ if is_word && rest.starts_with("//") => Some(format!("{word}://")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;
    use crate::error::Kind;
    use crate::storage::{Fault, Patience};

    fn access() -> Access {
        Access { environment: Environment::default(), uploads: "/nowhere".into(), patience: Patience::default() }
    }

    #[test]
    fn what_is_not_a_directory_is_a_usage_error_that_repeats_no_secret() {
        for address in ["s3://key:hunter2@bucket/x", "oss://bucket", "rclone:far:/x/hunter2", "https://u:hunter2@h/"] {
            let error = Address::parse(address).unwrap_err();
            assert_eq!(error.kind, Kind::Usage, "{address}");
            assert!(error.to_string().contains("not supported by this version"), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let error = Address::parse("backups").unwrap_err();
        assert_eq!(
            (error.kind, error.next_step()),
            (Kind::Usage, Some("a directory is written with a slash: ./backups"))
        );
    }

    #[tokio::test]
    async fn a_path_is_a_directory_in_one_spelling() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odd:name").to_str().unwrap().to_owned();
        for typed in [path.clone(), path.clone() + "/", path.replace("odd:name", "./odd:name")] {
            let address = Address::parse(&typed).unwrap();
            assert_eq!(address.to_string(), path);
            assert_eq!(address.open(&access(), Missing::CreateLast).await.unwrap().address(), path);
        }
        let here = Address::parse("./x").unwrap().to_string();
        assert!(here.starts_with('/') && here.ends_with("/x") && !here.contains("/./"), "{here}");
        let nothing = Address::parse(&(path + "/nothing")).unwrap();
        assert_eq!(nothing.open(&access(), Missing::Refuse).await.unwrap_err().fault, Fault::NotFound);
    }
}
