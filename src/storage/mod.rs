//! Objects: named, immutable byte strings in a directory, a bucket or memory.
//!
//! [`Storage`] is a contract that every backend keeps and one suite (`tests/storage.rs`) proves. What a backend cannot
//! promise it does not imitate: nothing above this module leans on more than is written here.

mod access;
mod address;
mod create_only;
mod credentials;
mod faulty;
mod key;
mod local;
mod memory;
mod rclone;
mod retry;
mod s3;

use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

pub use access::{Access, Patience};
pub use address::{Address, BucketAddress, Endpoint, Profile, RemoteAddress};
pub use create_only::CreateOnly;
pub use credentials::Credentials;
pub use faulty::{Call, Effect, FaultyStorage, Injection, Operation};
pub use key::{InvalidKey, Key, Prefix};
pub use local::{LocalStorage, Missing};
pub use memory::MemoryStorage;
pub use s3::S3Storage;

pub type Result<T, E = StorageError> = std::result::Result<T, E>;

/// What a listing says of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    pub key: Key,
    pub size_bytes: u64,
    /// When the object was stored, by the store's own clock.
    pub modified: DateTime<Utc>,
}

/// Why a store did not do what it was asked. "Not found" is only ever the store's own answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store answered that the object does not exist.
    NotFound,
    /// Create-only: an object of this name exists; it was not touched.
    Exists,
    /// Permission denied, wrong credentials, a file of another owner.
    Denied,
    /// No space, no inode, quota.
    Full,
    /// The store could not be asked, or its answer is unknown: the object may or may not have been changed.
    Unavailable,
    /// Any other answer that is an error.
    Other,
}

/// A failed call, with the key it was made for. Becomes [`crate::error::Error`] of kind `Storage`, or of the kind of
/// its cause where that is an [`crate::error::Error`] itself: a write that the owner rule refuses stays `Refused`.
#[derive(Debug, thiserror::Error)]
#[error("{action} in {address}: {source}")]
pub struct StorageError {
    pub fault: Fault,
    /// Verb and object: "create main/dumps/x.dump.zst".
    pub action: String,
    pub address: String,
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// The contract. Three things that a caller owes: no key is the folder of another key (`a` and `a/b`), because a file
/// system cannot hold both; an operation whose future was dropped may still take effect; and listing while others write
/// shows an object that appears meanwhile or not, but always one that was there before and is there after.
#[async_trait]
pub trait Storage: Send + Sync + Debug {
    /// Where this is, as a user would type it; never contains a secret.
    fn address(&self) -> &str;

    /// Stores a whole object if the name is free, else fails with [`Fault::Exists`] and changes nothing.
    /// When this returns `Ok` the object is durable under its final name; when it fails the object does not exist
    /// under that name, except after [`Fault::Unavailable`], where it may exist whole; asking again settles it: what
    /// [`Fault::Exists`] speaks of is durable. It never exists in part.
    async fn create(&self, key: &Key, body: Bytes) -> Result<()>;

    /// Stores a whole small object, replacing one of that name. Readers see the old or the new bytes, never a mix.
    /// Only for objects that are states of something (a run record, an intent), never for data.
    async fn replace(&self, key: &Key, body: Bytes) -> Result<()>;

    /// How the store keeps the promise of [`Storage::create`] between several writers, found out by a probe where it is
    /// not known. With [`CreateOnly::None`] an object that is there is never overwritten, but of two who create one
    /// name at the same time both may be told that they did, and either's bytes may be there.
    async fn prove_create_only(&self) -> Result<CreateOnly>;

    /// Begins a large create-only object. Nothing is visible under `key` before [`ObjectWriter::finish`].
    /// `expected_bytes` is what the caller thinks will come; a store that numbers the parts of an object makes them big
    /// enough for it. More may come, less may come.
    async fn writer(&self, key: &Key, expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>>;

    /// Opens an object, whole or a range of it. A range that does not lie in the object is an error; an empty one at or
    /// before its end reads nothing. An object that is replaced or deleted while it is read is read to its end as it
    /// was, or the reader fails.
    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Box<dyn ObjectReader>>;

    /// Size and time of an object; [`Fault::NotFound`] only if the store said so.
    async fn head(&self, key: &Key) -> Result<ObjectMeta>;

    /// Every object whose key starts with `prefix` (whole path components), in ascending byte order of keys.
    /// Complete or an error: a listing that broke off is never returned. A prefix without objects is an empty list.
    /// Unfinished writes are not listed.
    async fn list(&self, prefix: &Prefix) -> Result<Vec<ObjectMeta>>;

    /// Removes an object durably. Removing an object that does not exist succeeds. After [`Fault::Unavailable`] the
    /// object may exist or not; asking again settles it.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// Removes every one of the objects, in any order. After an error some may be removed and some not; asking again
    /// settles it.
    async fn delete_all(&self, keys: &[Key]) -> Result<()> {
        for key in keys {
            self.delete(key).await?;
        }
        Ok(())
    }

    /// The store's own clock, which ages objects of all hosts alike. May have to write to find out, and is then refused
    /// where writing is.
    async fn now(&self) -> Result<DateTime<Utc>>;

    /// Bytes that can still be stored, where the store can say.
    async fn free_bytes(&self) -> Result<Option<u64>>;

    /// Removes what interrupted writes of dead processes left behind under `prefix` and returns how many there were.
    /// Never touches what a live process is writing.
    async fn sweep_unfinished(&self, prefix: &Prefix) -> Result<usize>;

    /// Reads a whole small object. Refuses one that is larger than `limit_bytes`.
    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes> {
        let mut reader = self.read(key, None).await?;
        let mut body = Vec::new();
        while let Some(chunk) = reader.next().await? {
            if (body.len() + chunk.len()) as u64 > limit_bytes {
                return Err(StorageError {
                    fault: Fault::Other,
                    action: format!("read {key}"),
                    address: self.address().to_owned(),
                    source: format!("the object is larger than {limit_bytes} bytes").into(),
                });
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.into())
    }
}

/// A large object in the making. Dropping it unfinished leaves nothing under the key and frees its space.
#[async_trait]
pub trait ObjectWriter: Send {
    /// Takes the next bytes; returns when there is room for more, so the store may still be busy with them and their
    /// failure may be the answer to a later call. After an error, or when the future was dropped, every call fails.
    async fn write(&mut self, chunk: Bytes) -> Result<()>;

    /// Makes the object visible and durable, if the name is still free; promises what [`Storage::create`] promises.
    /// The size is what the store reports.
    async fn finish(self: Box<Self>) -> Result<ObjectMeta>;

    /// Gives up and removes what was written so far.
    async fn abort(self: Box<Self>);
}

/// The bytes of an object, in order. The end is only reported when the store delivered every byte it announced.
#[async_trait]
pub trait ObjectReader: Send {
    /// The next bytes, never an empty chunk; `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>>;
}

impl From<StorageError> for crate::error::Error {
    fn from(error: StorageError) -> Self {
        let cause = error.source.downcast_ref::<Self>();
        let hint = match error.fault {
            _ if cause.is_some_and(|cause| cause.next_step().is_some()) => None,
            Fault::Full => Some("free some space, or store elsewhere with --repo"),
            Fault::Denied if error.address.starts_with('/') => Some("check the owner and the rights of the repository"),
            Fault::Denied => Some("check the keys that are used there, and their rights"),
            _ => None,
        };
        // The first judgement of a cause stands, as it does in `Doing::doing`.
        let kind = cause.map_or(crate::error::Kind::Storage, |cause| cause.kind);
        let converted = Self::new(kind, format!("{} in {}", error.action, error.address)).because(error.source);
        match hint {
            Some(hint) => converted.hint(hint),
            None => converted,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    fn failed(fault: Fault, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        StorageError { fault, action: "create \"a\"".into(), address: "/backups".into(), source: source.into() }.into()
    }

    #[test]
    fn a_fault_brings_its_next_step() {
        let full = failed(Fault::Full, "no space left");
        assert_eq!(full.kind, Kind::Storage);
        assert_eq!(full.to_string(), "create \"a\" in /backups: no space left");
        assert!(full.next_step().unwrap().contains("free some space"));
    }

    #[test]
    fn who_owns_a_directory_is_not_asked_of_a_bucket() {
        let denied = |address: &str| {
            let error = StorageError {
                fault: Fault::Denied,
                action: "list main/".into(),
                address: address.into(),
                source: "no".into(),
            };
            Error::from(error).next_step().map(str::to_owned).unwrap_or_default()
        };
        assert!(denied("/backups").contains("owner"));
        assert!(denied("s3://backups/pg").contains("keys"));
    }

    #[test]
    fn the_kind_and_the_hint_of_the_cause_stand() {
        let refused = failed(Fault::Denied, Error::refused("it belongs to postgres").hint("sudo -u postgres pgkeep …"));
        assert_eq!(refused.kind, Kind::Refused);
        assert_eq!(refused.next_step(), Some("sudo -u postgres pgkeep …"));
        assert_eq!(refused.to_string(), "create \"a\" in /backups: it belongs to postgres");
    }
}
