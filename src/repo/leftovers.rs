//! What killed runs of this host left behind, removed by the next run of the same verb while it holds their lock.
//!
//! The lock proves that they are dead, so nothing has to age. Runs of other hosts are left to a prune.

use std::collections::BTreeSet;

use super::document;
use super::intent::{SeenIntent, intents};
use super::layout::{BackupId, DumpStem, Ending, StoredName};
use super::lock::Lock;
use super::objects::remove_data;
use super::repository::Repository;
use crate::error::{Doing as _, Kind, Result};

/// Removes the data and the intents of backups that runs of the verb and instance of `lock` were making on `host` when
/// they died, and returns the ids of those that never became backups. One that has its manifest is whole: only its
/// intent goes.
///
/// Can be run again after a crash: an intent goes after what it names.
pub async fn remove_leftovers(repository: &Repository, lock: &Lock, host: &str) -> Result<Vec<BackupId>> {
    remove_leftovers_but(repository, lock, host, &BTreeSet::new()).await
}

/// As [`remove_leftovers`], but for the backups that the run is about to go on with.
pub async fn remove_leftovers_but(
    repository: &Repository,
    lock: &Lock,
    host: &str,
    wanted: &BTreeSet<BackupId>,
) -> Result<Vec<BackupId>> {
    let instance = lock.instance();
    remove(repository, lock, host, wanted)
        .await
        .doing(Kind::Storage, || format!("remove what killed runs left in instance {instance}"))
}

async fn remove(
    repository: &Repository,
    lock: &Lock,
    host: &str,
    wanted: &BTreeSet<BackupId>,
) -> Result<Vec<BackupId>> {
    let mut removed = Vec::new();
    let intents = intents(repository, lock.instance()).await?;
    for intent in intents.into_iter().filter(|intent| !wanted.contains(&intent.document.id)) {
        if is_dead(&intent, lock, host)
            && let Ok(stem) = intent.document.id.as_str().parse::<DumpStem>()
        {
            let manifest = stem.object(Ending::Manifest).key(lock.instance());
            if document::head_if_there(repository.storage(), &manifest).await?.is_none() {
                remove_data(repository, lock.instance(), &stem).await?;
                removed.push(intent.document.id.clone());
            }
            let intent = StoredName::Intent { instance: lock.instance().clone(), id: intent.document.id };
            repository.storage().delete(&intent.key()).await?;
        }
    }
    Ok(removed)
}

/// The host's name counts beside its id: the clone of a machine has the id of the original, and not its locks.
pub(super) fn is_dead(intent: &SeenIntent, lock: &Lock, host: &str) -> bool {
    let seen = &intent.document;
    let ours = &seen.host_id == lock.host_id() && seen.host == host && seen.verb == lock.holder().verb;
    ours && seen.lock_token != lock.holder().token
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use chrono::{DateTime, TimeDelta, Utc};

    use super::*;
    use crate::clock::ManualClock;
    use crate::repo::manifest::tests::sample;
    use crate::repo::{BackupWriter, Form, Packing, StateDirectory, Verb};
    use crate::storage::{Effect, Fault, FaultyStorage, Injection, MemoryStorage, Operation, Prefix, Storage};

    struct World {
        _dir: tempfile::TempDir,
        state: StateDirectory,
        storage: FaultyStorage,
        repository: Repository,
        now: DateTime<Utc>,
    }

    impl World {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let state = StateDirectory::open(dir.path()).unwrap();
            let storage = FaultyStorage::over(Arc::new(MemoryStorage::new()));
            let repository = Repository::open_or_create(Arc::new(storage.clone()), &state).await.unwrap();
            Self { _dir: dir, state, storage, repository, now: "2026-11-20T02:00:00Z".parse().unwrap() }
        }

        fn lock(&self) -> Lock {
            self.state.lock(self.repository.id(), &"main".parse().unwrap(), Verb::Dump, self.now).unwrap()
        }

        /// A run that dies with its data stored; its lock dies with it.
        async fn die(&mut self, host: &str) -> DumpStem {
            self.now += TimeDelta::seconds(1);
            let (lock, clock) = (self.lock(), ManualClock::at(self.now));
            let writer = BackupWriter::begin(&self.repository, &lock, "shop", host, &clock).await.unwrap();
            for number in ["0001", "0002", "0003"] {
                let part = Some(number.parse().unwrap());
                let ending = Ending::Archive { form: Form::Custom, packing: Packing::ZSTD, part };
                writer.put(ending, Bytes::from_static(b"data")).await.unwrap();
            }
            writer.put(Ending::checksum(Form::Custom, Packing::ZSTD), Bytes::from_static(b"line")).await.unwrap();
            writer.stem().clone()
        }

        async fn names(&self) -> Vec<String> {
            let listed = self.storage.list(&Prefix::root()).await.unwrap();
            let names = listed.into_iter().map(|meta| meta.key.to_string());
            names.filter(|name| name != "pgkeep.json").collect()
        }
    }

    #[tokio::test]
    async fn a_killed_run_leaves_nothing_to_the_next() {
        let mut world = World::new().await;
        let stem = world.die("db1").await;
        assert_eq!(world.names().await.len(), 5);
        let removed = remove_leftovers(&world.repository, &world.lock(), "db1").await.unwrap();
        assert_eq!(removed, [BackupId::from(&stem)]);
        assert_eq!(world.names().await, [""; 0]);
    }

    #[tokio::test]
    async fn a_backup_that_lacks_only_the_end_of_its_intent_stays() {
        let mut world = World::new().await;
        let stem = world.die("db1").await;
        let manifest = sample(&"main".parse().unwrap(), "shop", stem.started_at().time());
        let lock = world.lock();
        let key = stem.object(Ending::Manifest).key(lock.instance());
        world.storage.create(&key, manifest.to_json().unwrap()).await.unwrap();
        assert_eq!(remove_leftovers(&world.repository, &lock, "db1").await.unwrap(), []);
        let names = world.names().await;
        assert_eq!(names.len(), 5, "{names:?}");
        assert!(names.iter().all(|name| name.starts_with("main/dumps/")), "{names:?}");
    }

    #[tokio::test]
    async fn what_lives_or_belongs_to_another_host_stays() {
        let mut world = World::new().await;
        world.die("a-clone-of-db1").await;
        let lock = world.lock();
        let clock = ManualClock::at(world.now + TimeDelta::seconds(9));
        let living = BackupWriter::begin(&world.repository, &lock, "shop", "db1", &clock).await.unwrap();
        assert_eq!(remove_leftovers(&world.repository, &lock, "db1").await.unwrap(), []);
        assert_eq!(world.names().await.len(), 6);
        living.intent().still_ours().await.unwrap();
    }

    #[tokio::test]
    async fn a_store_that_fails_anywhere_leaves_the_rest_to_the_next_time() {
        for nth in 1.. {
            let mut world = World::new().await;
            world.die("db1").await;
            world.storage.inject(Injection::at(Operation::Delete, Effect::FailBefore(Fault::Denied)).nth(nth));
            let first = remove_leftovers(&world.repository, &world.lock(), "db1").await;
            let names = world.names().await;
            assert!(names.is_empty() || names.iter().any(|name| name.starts_with("main/intents/")), "{names:?}");
            world.storage.heal();
            remove_leftovers(&world.repository, &world.lock(), "db1").await.unwrap();
            assert_eq!(world.names().await, [""; 0]);
            if first.is_ok() {
                assert_eq!(nth, 6, "three parts, a checksum and an intent");
                break;
            }
        }
    }
}
