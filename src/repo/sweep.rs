//! Taking backups away: prune's half of the protocol that [`super::backup`] is the other half of.
//!
//! Only keys that the layout parses are ever deleted. Anything that cannot be listed or read stops the sweep; it can be
//! run again at any time, after a crash too.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::document;
use super::intent::{Liveness, READS_AT_ONCE, judged_intents};
use super::layout::{BackupId, DumpStem, Ending, Folder, ObjectName, StoredName, instance_folder};
use super::lock::Lock;
use super::manifest::DumpManifest;
use super::name::InstanceName;
use super::repository::Repository;
use super::state::StateDirectory;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::storage::{Fault, Key, ObjectMeta, Storage};

/// Which backups of an instance will go. Beside them goes what no backup owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepPlan {
    pub remove: BTreeSet<DumpStem>,
}

/// How long records of runs are kept.
pub const RUNS_KEPT: TimeDelta = TimeDelta::days(400);

/// What a sweep removed, and what it left for a reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    pub backups: Vec<BackupId>,
    /// Data and proofs that no manifest names any more, those of `backups` included.
    pub objects: Vec<Key>,
    pub freed_bytes: u64,
    /// Intents of runs that are dead.
    pub dead_intents: Vec<BackupId>,
    /// Backups in the making, and why they are believed to be.
    pub in_the_making: Vec<(BackupId, String)>,
    /// Records of runs that are older than [`RUNS_KEPT`].
    pub old_runs: usize,
    /// Interrupted writes that left no object.
    pub unfinished_writes: usize,
}

impl SweepPlan {
    /// Executes the plan in the instance whose prune lock is `lock`.
    pub async fn execute(&self, repository: &Repository, state: &StateDirectory, lock: &Lock) -> Result<Swept> {
        let instance = lock.instance();
        self.sweep(repository, state, instance).await.doing(Kind::Storage, || format!("prune instance {instance}"))
    }

    async fn sweep(&self, repository: &Repository, state: &StateDirectory, instance: &InstanceName) -> Result<Swept> {
        let mut swept = Swept::default();
        // A backup is its manifest: that goes first, so that a crash leaves data without a backup, never the reverse.
        self.delete_manifests(repository, instance, &mut swept).await?;

        // Data, then intents, then manifests, and never another order. Data listed here either has its manifest by the
        // time manifests are listed, or its intent was there when intents were: a writer stores its manifest before it
        // removes its intent. With manifests before intents, a backup that commits between the two is in neither list
        // and loses its data.
        let data = list_data(repository, instance).await?;
        let mut named = BTreeSet::new();
        let mut dead = Vec::new();
        for (intent, liveness) in judged_intents(repository, state, instance).await? {
            let id = intent.document.id;
            match liveness {
                Liveness::Alive(why) => {
                    named.insert(id.clone());
                    swept.in_the_making.push((id, why));
                }
                Liveness::Dead(_) => dead.push(id),
            }
        }
        named.extend(list_manifests(repository, instance).await?);

        // Dead intents before data: an owner that is not as dead as it seems finds its intent gone and gives up.
        for id in dead {
            let key = StoredName::Intent { instance: instance.clone(), id: id.clone() }.key();
            repository.storage().delete(&key).await?;
            swept.dead_intents.push(id);
        }
        for (id, meta) in data.into_iter().filter(|(id, _)| !named.contains(id)) {
            tracing::debug!(%id, key = %meta.key, "no manifest and no intent names this");
            repository.storage().delete(&meta.key).await?;
            swept.freed_bytes += meta.size_bytes;
            swept.objects.push(meta.key);
        }
        swept.old_runs = remove_old_runs(repository, instance).await?;
        swept.unfinished_writes = repository.storage().sweep_unfinished(&instance_folder(instance)).await?;
        Ok(swept)
    }

    async fn delete_manifests(
        &self,
        repository: &Repository,
        instance: &InstanceName,
        swept: &mut Swept,
    ) -> Result<()> {
        for stem in &self.remove {
            repository.storage().delete(&manifest_key(instance, stem)).await?;
            swept.backups.push(stem.into());
        }
        Ok(())
    }
}

fn manifest_key(instance: &InstanceName, stem: &DumpStem) -> Key {
    stem.object(Ending::Manifest).key(instance)
}

async fn remove_old_runs(repository: &Repository, instance: &InstanceName) -> Result<usize> {
    let oldest_kept = repository.storage().now().await? - RUNS_KEPT;
    let mut removed = 0;
    for meta in repository.storage().list(&Folder::Runs.of(instance)).await? {
        if let Some(StoredName::Run { run, .. }) = StoredName::parse(&meta.key)
            && run.started_at().time() < oldest_kept
        {
            repository.storage().delete(&meta.key).await?;
            removed += 1;
        }
    }
    Ok(removed)
}

/// Everything that has to be named by a manifest or an intent to stay, with the backup it belongs to.
async fn list_data(repository: &Repository, instance: &InstanceName) -> Result<Vec<(BackupId, ObjectMeta)>> {
    let mut data = Vec::new();
    for folder in [Folder::Dumps, Folder::Proofs] {
        for meta in repository.storage().list(&folder.of(instance)).await? {
            match StoredName::parse(&meta.key) {
                Some(StoredName::Dump { name: ObjectName { ending: Ending::Manifest, .. }, .. }) => {}
                Some(StoredName::Dump { name, .. }) => data.push((BackupId::from(&name.stem), meta)),
                Some(StoredName::Proof { id, .. }) => data.push((id, meta)),
                // Not ours to delete.
                _ => {}
            }
        }
    }
    if repository.is_beside_script() {
        spare_the_script(&mut data);
    }
    Ok(data)
}

/// Leaves out what may be dumps of the script: those of which nothing is there but what it stores, too.
fn spare_the_script(data: &mut Vec<(BackupId, ObjectMeta)>) {
    let is_of_script = |meta: &ObjectMeta| match StoredName::parse(&meta.key) {
        Some(StoredName::Dump { name, .. }) => name.ending.is_of_script(),
        _ => false,
    };
    let ours: BTreeSet<BackupId> =
        data.iter().filter(|(_, meta)| !is_of_script(meta)).map(|(id, _)| id.clone()).collect();
    data.retain(|(id, _)| ours.contains(id));
}

/// The ids of every backup that exists. Each manifest is read: one that cannot be stops the sweep, because what it
/// leans on is not known.
async fn list_manifests(repository: &Repository, instance: &InstanceName) -> Result<Vec<BackupId>> {
    let listed = repository.storage().list(&Folder::Dumps.of(instance)).await?;
    let reads = listed.into_iter().filter_map(|meta| match StoredName::parse(&meta.key)? {
        StoredName::Dump { name: ObjectName { stem, ending: Ending::Manifest }, .. } => Some(async move {
            check_manifest(repository.storage(), &meta.key, instance, &stem).await?;
            Ok::<_, Error>(BackupId::from(&stem))
        }),
        _ => None,
    });
    stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await
}

async fn check_manifest(storage: &dyn Storage, key: &Key, instance: &InstanceName, stem: &DumpStem) -> Result<()> {
    match storage.get(key, document::LIMIT_BYTES).await {
        Ok(body) => DumpManifest::from_json(&body, instance, stem).map(drop),
        // Another host removed it since the listing; its data stays until the next sweep.
        Err(error) if error.fault == Fault::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}
