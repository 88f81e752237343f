//! Whether a repository can be stored in, read and tidied, found out by doing it.

use bytes::Bytes;

use super::layout::{ProbeName, StoredName};
use super::repository::Repository;
use crate::error::{Doing as _, Error, Kind, Result};

/// Stores a small object, reads it, compares it, and removes it again. The object is no part of any backup and lies at
/// the top under a name of its own, so that one which a crash leaves behind is seen for what it is.
///
/// The error says which of the four steps failed.
pub async fn probe(repository: &Repository) -> Result<()> {
    let name = ProbeName::random();
    let key = StoredName::Probe(name.clone()).key();
    let body = Bytes::from(format!("{name}: stored by pgkeep check, and removed by it\n"));
    let storage = repository.storage();
    storage.create(&key, body.clone()).await.map_err(Error::from).doing(Kind::Storage, || "store a probe")?;
    let read = storage.get(&key, body.len() as u64).await.map_err(Error::from);
    let removed = storage.delete(&key).await.map_err(Error::from);
    let read = read.doing(Kind::Storage, || "read the probe that was stored")?;
    if read != body {
        return Err(Error::new(Kind::Storage, format!("{key} reads otherwise than it was stored"))
            .hint("the disk or what stands before it changes bytes: store elsewhere"));
    }
    removed.doing(Kind::Storage, || format!("remove the probe {key}"))
}
