//! What a repository holds of one dump, whatever its objects are called.

use super::layout::{DumpStem, Ending, Folder, StoredName};
use super::name::InstanceName;
use super::repository::Repository;
use crate::error::Result;
use crate::storage::Key;

/// The keys of every object of `stem` that is stored, its manifest among them, in ascending order.
pub(super) async fn stored(repository: &Repository, instance: &InstanceName, stem: &DumpStem) -> Result<Vec<Key>> {
    let listed = repository.storage().list(&Folder::Dumps.of(instance)).await?;
    let keys = listed.into_iter().map(|meta| meta.key);
    Ok(keys.filter(|key| ending_of(key, stem).is_some()).collect())
}

/// Removes every object of `stem` but its manifest. An archive may have any number of parts, so what is removed is what
/// is listed: a run that died does not tell how many it stored.
pub(super) async fn remove_data(repository: &Repository, instance: &InstanceName, stem: &DumpStem) -> Result<()> {
    for key in stored(repository, instance, stem).await? {
        if ending_of(&key, stem) != Some(Ending::Manifest) {
            repository.storage().delete(&key).await?;
        }
    }
    Ok(())
}

fn ending_of(key: &Key, stem: &DumpStem) -> Option<Ending> {
    match StoredName::parse(key)? {
        StoredName::Dump { name, .. } => (name.stem == *stem).then_some(name.ending),
        _ => None,
    }
}
