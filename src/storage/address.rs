//! From an address, as a user types it, to a store.

mod bucket;
mod endpoint;
mod parameters;
mod remote;

use std::fmt;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::future::BoxFuture;

pub use bucket::{BucketAddress, Profile};
pub use endpoint::Endpoint;
pub(super) use endpoint::is_localhost;
pub use remote::RemoteAddress;

use super::{Access, Credentials, LocalStorage, Missing, S3Storage, Storage, rclone};
use crate::error::{Error, Result};

type Opened<'a> = BoxFuture<'a, super::Result<S3Storage>>;

/// Where a repository is. Prints in one spelling, however it was typed and from wherever: repositories are remembered
/// by it. The spelling holds what tells one store from another and no more: how a store is reached (credentials, a CA
/// file, the style of its URLs) may change without making it another one. Two addresses are equal where it is.
#[derive(Clone, Debug)]
pub enum Address {
    /// A directory of this host.
    Local(PathBuf),
    /// A bucket of Amazon S3 or of what speaks its protocol.
    S3(BucketAddress),
    /// A bucket of Aliyun OSS.
    Oss(BucketAddress),
    /// Whatever rclone reaches.
    Rclone(RemoteAddress),
}

impl Address {
    /// Reads what a user types: a path contains a `/`, everything else begins with what it is. What is not understood is
    /// not repeated in the error, since it may carry a password.
    pub fn parse(text: &str) -> Result<Self> {
        if let Some(rest) = text.strip_prefix("s3://") {
            return BucketAddress::parse("s3", rest).map(Self::S3);
        }
        if let Some(rest) = text.strip_prefix("oss://") {
            return BucketAddress::parse("oss", rest).map(Self::Oss);
        }
        if let Some(rest) = text.strip_prefix("rclone:") {
            return RemoteAddress::parse(rest).map(Self::Rclone);
        }
        if let Some(scheme) = scheme(text) {
            return Err(Error::usage(format!("{scheme} is not a kind of repository"))
                .hint("give the path of a directory, s3://BUCKET/PREFIX, oss://BUCKET/PREFIX or rclone:REMOTE:PATH"));
        }
        if !text.contains('/') {
            return Err(Error::usage(format!("{text:?} is not the address of a repository"))
                .hint(format!("a directory is written with a slash: ./{text}")));
        }
        let path = PathBuf::from(text);
        Ok(Self::Local(std::path::absolute(&path).unwrap_or(path).components().collect()))
    }

    /// Whether the bytes lie in a directory of this host.
    pub fn is_local(&self) -> bool {
        matches!(self, Self::Local(_))
    }

    /// The same address, reached with keys from elsewhere than the usual places. A directory and what rclone reaches
    /// need none of ours: naming them there is a mistake of the configuration.
    pub fn with_credentials(self, credentials: Credentials) -> Result<Self> {
        match self {
            Self::S3(bucket) => Ok(Self::S3(bucket.with_credentials(credentials))),
            Self::Oss(bucket) => Ok(Self::Oss(bucket.with_credentials(credentials))),
            Self::Local(_) | Self::Rclone(_) => Err(Error::usage(format!("{self} takes no credentials"))
                .hint("credentials belong to s3:// and oss:// repositories; those of rclone lie in its configuration")),
        }
    }

    /// Opens the store, which has then answered once. [`super::Fault::NotFound`] says that there is nothing at this
    /// address and that [`Missing::CreateLast`] could make it; a bucket is never made.
    pub async fn open(&self, access: &Access, missing: Missing) -> super::Result<Arc<dyn Storage>> {
        // In boxes: the compiler would carry the depth of the SDK's futures into every command otherwise.
        let opened: Opened<'_> = match self {
            Self::Local(path) => return Ok(Arc::new(LocalStorage::open(path, missing).await?)),
            Self::S3(bucket) | Self::Oss(bucket) => Box::pin(S3Storage::open(bucket, access)),
            Self::Rclone(remote) => Box::pin(rclone::open(remote, access, missing)),
        };
        Ok(Arc::new(opened.await?))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local(path) => path.display().fmt(f),
            Self::S3(bucket) | Self::Oss(bucket) => bucket.fmt(f),
            Self::Rclone(remote) => remote.fmt(f),
        }
    }
}

impl PartialEq for Address {
    fn eq(&self, other: &Self) -> bool {
        self.to_string() == other.to_string()
    }
}

impl Eq for Address {}

impl Hash for Address {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.to_string().hash(state);
    }
}

/// Any `word://` at the start.
fn scheme(address: &str) -> Option<String> {
    let (word, rest) = address.split_once(':')?;
    let is_word = !word.is_empty() && word.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b));
    (is_word && rest.starts_with("//")).then(|| format!("{word}://"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::environment::Environment;
    use crate::config::secret::Secret;
    use crate::error::Kind;
    use crate::storage::{Fault, Patience};

    fn access() -> Access {
        Access { environment: Environment::default(), uploads: "/nowhere".into(), patience: Patience::default() }
    }

    #[test]
    fn what_is_no_address_is_a_usage_error_that_repeats_no_secret() {
        for address in [
            "s3://key:hunter2@bucket/x",
            "oss://key:hunter2@bucket?region=cn-hangzhou",
            "s3://bucket?secret_access_key=hunter2",
            "s3://bucket?hunter2",
            "s3://bucket?endpoint=https://key:hunter2@host",
            "rclone::sftp,pass=hunter2:/x",
            "https://u:hunter2@h/",
        ] {
            let error = Address::parse(address).unwrap_err();
            assert_eq!(error.kind, Kind::Usage, "{address}");
            assert!(!format!("{error} {:?}", error.next_step()).contains("hunter2"), "{error:?}");
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

    #[test]
    fn credentials_belong_to_buckets_and_are_no_part_of_the_spelling() {
        let given = || Credentials::Given {
            access_key_id: "AK".to_owned(),
            secret: Secret::new("hunter2"),
            session_token: None,
        };
        let plain = Address::parse("s3://bucket/x").unwrap();
        let with = plain.clone().with_credentials(given()).unwrap();
        assert_eq!(plain, with);
        assert!(!format!("{with:?}").contains("hunter2"));
        let error = Address::parse("/backups").unwrap().with_credentials(given()).unwrap_err();
        assert_eq!((error.kind, error.to_string().as_str()), (Kind::Usage, "/backups takes no credentials"));
    }
}
