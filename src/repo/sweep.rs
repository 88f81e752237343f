//! Taking backups away: prune's half of the protocol that [`super::backup`] is the other half of.
//!
//! Only keys that the layout parses are ever deleted. Anything that cannot be listed or read stops the sweep; it can be
//! run again at any time, after a crash too.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use chrono::TimeDelta;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::catalogue::DOCUMENTS_AT_ONCE;
use super::document;
use super::intent::{LIMIT, Liveness, READS_AT_ONCE, SeenIntent, intent_of, judged_intents, liveness};
use super::layout::{BackupId, DumpStem, Ending, Folder, ObjectName, StoredName, instance_folder};
use super::lock::Lock;
use super::manifest::DumpManifest;
use super::name::InstanceName;
use super::repository::Repository;
use super::state::StateDirectory;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::interrupt::Interrupt;
use crate::storage::{Fault, Key, ObjectMeta, Storage};

/// Which backups of an instance will go. Beside them goes what no backup owns.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepPlan {
    /// Each with the good backup that it gives way to, where there is one: that is looked for before this one goes, since
    /// somebody else may have removed it after the plan was made.
    pub remove: BTreeMap<DumpStem, Option<DumpStem>>,
}

/// How long records of runs are kept.
pub const RUNS_KEPT: TimeDelta = TimeDelta::days(400);

/// How many objects are removed between two looks at whether to stop; what a store removes in one request at most is
/// more.
const REMOVED_AT_ONCE: usize = 200;

/// What a sweep removed, and what it left for a reason.
#[derive(Debug, Default)]
pub struct Swept {
    pub backups: Vec<BackupId>,
    /// Planned, and left because of what was seen when their turn came.
    pub spared: Vec<(BackupId, String)>,
    /// Data and proofs that no manifest names any more, those of `backups` included.
    pub objects: Vec<Key>,
    pub freed_bytes: u64,
    /// The same by the backup that they were of.
    pub freed: BTreeMap<BackupId, u64>,
    /// Objects that the store did not remove. The next sweep tries again.
    pub unremoved: Vec<(Key, Error)>,
    /// Intents of runs that are dead.
    pub dead_intents: Vec<BackupId>,
    /// Backups in the making, and why they are believed to be.
    pub in_the_making: Vec<(BackupId, String)>,
    /// Records of runs that are older than [`RUNS_KEPT`].
    pub old_runs: usize,
    /// Interrupted writes that left no object.
    pub unfinished_writes: usize,
}

/// What a sweep works on.
#[derive(Clone, Copy, Debug)]
pub struct Sweep<'a> {
    pub repository: &'a Repository,
    pub state: &'a StateDirectory,
    /// That of prune, of the instance that is swept.
    pub lock: &'a Lock,
    /// The name of this host: the clone of a machine has the id of the original, and not its locks.
    pub host: &'a str,
    pub interrupt: &'a Interrupt,
}

impl SweepPlan {
    /// Executes the plan. `swept` tells what was done before an error, too; a request to stop ends it between two
    /// removals. What the store refuses to remove is no error here: see [`Swept::unremoved`].
    pub async fn execute(&self, sweep: Sweep<'_>, swept: &mut Swept) -> Result<()> {
        sweep.run(self, swept).await.doing(Kind::Storage, || format!("prune instance {}", sweep.instance()))
    }
}

/// What came of one backup that was to go.
enum Gone {
    Yes,
    Spared(String),
    Refused(Key, Error),
}

impl Sweep<'_> {
    fn instance(&self) -> &InstanceName {
        self.lock.instance()
    }

    fn storage(&self) -> &dyn Storage {
        self.repository.storage()
    }

    async fn run(&self, plan: &SweepPlan, swept: &mut Swept) -> Result<()> {
        // A backup is its manifest: that goes first, so that a crash leaves data without a backup, never the reverse.
        self.delete_manifests(plan, swept).await?;

        // Data, then intents, then manifests, and never another order. Data listed here either has its manifest by the
        // time manifests are listed, or its intent was there when intents were: a writer stores its manifest before it
        // removes its intent. With manifests before intents, a backup that commits between the two is in neither list
        // and loses its data.
        let data = list_data(self.repository, self.instance()).await?;
        let mut named = BTreeSet::new();
        let mut dead = Vec::new();
        for (intent, liveness) in judged_intents(self.repository, self.state, self.instance()).await? {
            let id = intent.document.id.clone();
            match self.unless_cloned(&intent, liveness).await? {
                Liveness::Alive(why) => {
                    named.insert(id.clone());
                    swept.in_the_making.push((id, why));
                }
                Liveness::Dead(_) => dead.push(id),
            }
        }
        named.extend(list_manifests(self.repository, self.instance()).await?);

        // Dead intents before data: an owner that is not as dead as it seems finds its intent gone and gives up.
        for id in dead {
            let key = StoredName::Intent { instance: self.instance().clone(), id: id.clone() }.key();
            if self.delete(&key, swept).await? {
                swept.dead_intents.push(id);
            } else {
                named.insert(id);
            }
        }
        self.delete_data(data.into_iter().filter(|(id, _)| !named.contains(id)).collect(), swept).await?;
        self.delete_old_runs(swept).await?;
        swept.unfinished_writes = self.storage().sweep_unfinished(&instance_folder(self.instance())).await?;
        Ok(())
    }

    /// A machine that was cloned with its state directory may be at work under our id, and its locks are not here.
    async fn unless_cloned(&self, intent: &SeenIntent, judged: Liveness) -> Result<Liveness> {
        let document = &intent.document;
        let is_clone = document.host_id == *self.lock.host_id() && document.host != self.host;
        if !is_clone || judged.is_alive() || self.storage().now().await? - intent.modified >= LIMIT {
            return Ok(judged);
        }
        Ok(Liveness::Alive(format!("{} has the id of this host, and its locks cannot be seen here", document.host)))
    }

    async fn delete_manifests(&self, plan: &SweepPlan, swept: &mut Swept) -> Result<()> {
        let removals = plan.remove.iter().map(|(stem, newer)| async move {
            Ok::<_, Error>((BackupId::from(stem), self.delete_manifest(stem, newer.as_ref()).await?))
        });
        let mut removals = stream::iter(removals).buffered(READS_AT_ONCE);
        while let Some((id, gone)) = removals.try_next().await? {
            match gone {
                Gone::Yes => swept.backups.push(id),
                Gone::Spared(why) => swept.spared.push((id, why)),
                Gone::Refused(key, error) => swept.unremoved.push((key, error)),
            }
        }
        Ok(())
    }

    async fn delete_manifest(&self, stem: &DumpStem, newer: Option<&DumpStem>) -> Result<Gone> {
        self.go_on()?;
        if let Some(why) = self.in_use(stem).await? {
            return Ok(Gone::Spared(why));
        }
        if let Some(newer) = newer
            && document::head_if_there(self.storage(), &manifest_key(self.instance(), newer)).await?.is_none()
        {
            return Ok(Gone::Spared(format!("{newer}, which it was to give way to, is gone")));
        }
        let key = manifest_key(self.instance(), stem);
        match self.storage().delete(&key).await {
            Ok(()) => Ok(Gone::Yes),
            Err(error) if error.fault == Fault::Unavailable => Err(error.into()),
            Err(error) => Ok(Gone::Refused(key, error.into())),
        }
    }

    /// Why a backup that exists is still somebody's work: a run of another host is about to end with it.
    async fn in_use(&self, stem: &DumpStem) -> Result<Option<String>> {
        let Some(intent) = intent_of(self.repository, self.instance(), &stem.into()).await? else { return Ok(None) };
        let now = self.storage().now().await?;
        let lock = self.state.lock_state(self.repository.id(), self.instance(), intent.document.verb)?;
        let judged = liveness(&intent, now, self.lock.host_id(), &lock);
        Ok(match self.unless_cloned(&intent, judged).await? {
            Liveness::Alive(why) => Some(format!("a {} is at work on it: {why}", intent.document.verb)),
            Liveness::Dead(_) => None,
        })
    }

    async fn delete_data(&self, data: Vec<(BackupId, ObjectMeta)>, swept: &mut Swept) -> Result<()> {
        for some in data.chunks(REMOVED_AT_ONCE) {
            self.go_on()?;
            let keys: Vec<Key> = some.iter().map(|(_, meta)| meta.key.clone()).collect();
            let removed = match self.storage().delete_all(&keys).await {
                Ok(()) => vec![true; some.len()],
                Err(error) if error.fault == Fault::Unavailable => return Err(error.into()),
                // One of them; the others go.
                Err(_) => {
                    let mut removed = Vec::new();
                    for key in &keys {
                        removed.push(self.delete(key, swept).await?);
                    }
                    removed
                }
            };
            for ((id, meta), _) in some.iter().zip(removed).filter(|(_, removed)| *removed) {
                tracing::debug!(%id, key = %meta.key, "no manifest and no intent names this");
                swept.freed_bytes += meta.size_bytes;
                *swept.freed.entry(id.clone()).or_default() += meta.size_bytes;
                swept.objects.push(meta.key.clone());
            }
        }
        Ok(())
    }

    /// Whether the object is gone. One that the store keeps is noted; a store that does not answer ends the sweep.
    async fn delete(&self, key: &Key, swept: &mut Swept) -> Result<bool> {
        match self.storage().delete(key).await {
            Ok(()) => Ok(true),
            Err(error) if error.fault == Fault::Unavailable => Err(error.into()),
            Err(error) => {
                swept.unremoved.push((key.clone(), error.into()));
                Ok(false)
            }
        }
    }

    async fn delete_old_runs(&self, swept: &mut Swept) -> Result<()> {
        let oldest_kept = self.storage().now().await? - RUNS_KEPT;
        for meta in self.storage().list(&Folder::Runs.of(self.instance())).await? {
            if let Some(StoredName::Run { run, .. }) = StoredName::parse(&meta.key)
                && run.started_at().time() < oldest_kept
                && self.delete(&meta.key, swept).await?
            {
                swept.old_runs += 1;
            }
        }
        Ok(())
    }

    fn go_on(&self) -> Result<()> {
        if self.interrupt.is_requested() { Err(self.interrupt.error()) } else { Ok(()) }
    }
}

fn manifest_key(instance: &InstanceName, stem: &DumpStem) -> Key {
    stem.object(Ending::Manifest).key(instance)
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
    stream::iter(reads).buffered(DOCUMENTS_AT_ONCE).try_collect().await
}

async fn check_manifest(storage: &dyn Storage, key: &Key, instance: &InstanceName, stem: &DumpStem) -> Result<()> {
    match storage.get(key, document::LIMIT_BYTES).await {
        Ok(body) => DumpManifest::from_json(&body, instance, stem).map(drop),
        // Another host removed it since the listing; its data stays until the next sweep.
        Err(error) if error.fault == Fault::NotFound => Ok(()),
        Err(error) => Err(error.into()),
    }
}
