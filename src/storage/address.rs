//! From an address, as a user types it, to a store.

use std::sync::Arc;

use super::{LocalStorage, Missing, Storage};
use crate::error::{Error, Result};

/// Opens the store at `address`: a path contains a `/`. Everything else that `pgkeep` may come to speak is refused by
/// name. An address that is not understood is not repeated in the error, since it may carry a password.
pub async fn open(address: &str, missing: Missing) -> Result<Arc<dyn Storage>> {
    if let Some(scheme) = scheme(address) {
        return Err(Error::usage(format!("{scheme} repositories are not supported by this version"))
            .hint("give the path of a directory, such as --repo /backups"));
    }
    if !address.contains('/') {
        return Err(Error::usage(format!("{address:?} is not the address of a repository"))
            .hint(format!("a directory is written with a slash: ./{address}")));
    }
    Ok(Arc::new(LocalStorage::open(address, missing).await?))
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
    use crate::error::Kind;

    #[tokio::test]
    async fn what_is_not_a_directory_is_a_usage_error_that_repeats_no_secret() {
        for address in ["s3://key:hunter2@bucket/x", "oss://bucket", "rclone:far:/x/hunter2", "https://u:hunter2@h/"] {
            let error = open(address, Missing::Refuse).await.unwrap_err();
            assert_eq!(error.kind, Kind::Usage, "{address}");
            assert!(error.to_string().contains("not supported by this version"), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        let error = open("backups", Missing::Refuse).await.unwrap_err();
        assert_eq!(
            (error.kind, error.next_step()),
            (Kind::Usage, Some("a directory is written with a slash: ./backups"))
        );
    }

    #[tokio::test]
    async fn a_path_is_a_directory() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("odd:name").to_str().unwrap().to_owned();
        assert_eq!(open(&path, Missing::CreateLast).await.unwrap().address(), path);
        assert_eq!(open(&(path + "/nothing"), Missing::Refuse).await.unwrap_err().kind, Kind::Storage);
    }
}
