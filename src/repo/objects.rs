//! What a repository holds of one dump, whatever its objects are called.

use super::layout::{BackupId, DumpStem, Ending, Folder, StoredName};
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

/// Takes a backup away: first its manifest, which is the backup, so that a crash leaves data without one and never the
/// reverse; then its data and its proofs. One that has no manifest is taken away alike.
pub async fn remove_backup(repository: &Repository, instance: &InstanceName, stem: &DumpStem) -> Result<()> {
    let storage = repository.storage();
    storage.delete(&stem.object(Ending::Manifest).key(instance)).await?;
    remove_data(repository, instance, stem).await?;
    let proofs = Folder::Proofs.of(instance);
    for meta in storage.list(&proofs).await? {
        if matches!(StoredName::parse(&meta.key), Some(StoredName::Proof { id, .. }) if id == BackupId::from(stem)) {
            storage.delete(&meta.key).await?;
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
