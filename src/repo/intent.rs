//! The note that a backup is being made: what keeps a prune from taking its data for rubbish.
//!
//! An intent is stored before the first byte of data and removed after the manifest. Its owner stores it anew each
//! minute. It lives until [`LIMIT`] after that by the store's own clock; an owner that could not refresh it for
//! [`OWNER_LIMIT`] gives up before its manifest, and the hours between leave room for a slow last write. On its own host
//! it is dead as soon as the lock of its run is free, so a killed run does not block anything there for a day.

use std::sync::{Arc, Weak};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::document::{self, FORMAT};
use super::layout::{BackupId, Folder, StoredName, Verb};
use super::lock::{Lock, LockState};
use super::name::InstanceName;
use super::repository::Repository;
use super::state::{HostId, StateDirectory};
use crate::error::{Doing as _, Error, Kind, Result};
use crate::storage::{Fault, Key, Storage};

/// How long an intent lives after it was last stored.
pub const LIMIT: TimeDelta = TimeDelta::hours(24);

/// How long its owner trusts it.
pub const OWNER_LIMIT: TimeDelta = TimeDelta::hours(12);

const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// How many small objects are read at once.
pub(super) const READS_AT_ONCE: usize = 16;

/// `intents/<id>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IntentDocument {
    pub format: u32,
    pub id: BackupId,
    pub instance: InstanceName,
    pub verb: Verb,
    pub host_id: HostId,
    /// For people.
    pub host: String,
    pub pid: u32,
    /// Of the lock that the run holds.
    pub lock_token: String,
    pub started_at: DateTime<Utc>,
}

impl IntentDocument {
    fn of(lock: &Lock, id: BackupId, host: &str, started_at: DateTime<Utc>) -> Self {
        Self {
            format: FORMAT,
            id,
            instance: lock.instance().clone(),
            verb: lock.holder().verb,
            host_id: lock.host_id().clone(),
            host: host.to_owned(),
            pid: lock.holder().pid,
            lock_token: lock.holder().token.clone(),
            started_at,
        }
    }

    fn key(&self) -> Key {
        StoredName::Intent { instance: self.instance.clone(), id: self.id.clone() }.key()
    }
}

/// An intent of this process.
#[derive(Debug)]
pub struct Intent {
    storage: Arc<dyn Storage>,
    key: Key,
    document: IntentDocument,
    /// Held over each store of the object, so that no refresh can bring it back after its removal.
    phase: Mutex<Phase>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Ours,
    Lost,
    Ended,
}

/// What came of the wish to make a backup of this id.
#[derive(Debug)]
pub enum Claim {
    Ours(Arc<Intent>),
    /// Another run has an intent of this id.
    Taken,
}

impl Intent {
    /// Stores the intent, if nobody has one of this id, and refreshes it each minute until it is finished or dropped.
    /// Must be called within a tokio runtime.
    pub async fn begin(
        repository: &Repository,
        lock: &Lock,
        id: BackupId,
        host: &str,
        started_at: DateTime<Utc>,
    ) -> Result<Claim> {
        let document = IntentDocument::of(lock, id, host, started_at);
        match repository.storage().create(&document.key(), document::to_json(&document)?).await {
            Ok(()) => Ok(Claim::Ours(Self::kept(repository, document))),
            Err(error) if error.fault == Fault::Exists => Ok(Claim::Taken),
            Err(error) => Err(error.into()),
        }
    }

    /// Puts an intent of this run in the place of one that a dead run left. The caller has judged that one, and sees to
    /// it that nobody removes it meanwhile.
    pub(super) async fn take_over(
        repository: &Repository,
        lock: &Lock,
        id: BackupId,
        host: &str,
        started_at: DateTime<Utc>,
    ) -> Result<Arc<Self>> {
        let document = IntentDocument::of(lock, id, host, started_at);
        repository.storage().replace(&document.key(), document::to_json(&document)?).await?;
        Ok(Self::kept(repository, document))
    }

    fn kept(repository: &Repository, document: IntentDocument) -> Arc<Self> {
        let (storage, key) = (repository.shared_storage(), document.key());
        let intent = Arc::new(Self { storage, key, document, phase: Mutex::new(Phase::Ours) });
        tokio::spawn(keep_fresh(Arc::downgrade(&intent), REFRESH_EVERY));
        intent
    }

    pub fn id(&self) -> &BackupId {
        &self.document.id
    }

    pub fn instance(&self) -> &InstanceName {
        &self.document.instance
    }

    /// Stores the intent anew. Does nothing once it has been finished.
    pub async fn refresh(&self) -> Result<()> {
        let mut phase = self.phase.lock().await;
        if *phase == Phase::Ended {
            return Ok(());
        }
        // Asked before storing: one that comes late (a laptop that slept) must not raise what a prune has given up.
        self.check(&mut phase).await?;
        self.storage.replace(&self.key, document::to_json(&self.document)?).await?;
        Ok(())
    }

    /// Fails if a prune may have taken this backup for dead: what was stored may be gone, and no manifest may follow.
    pub async fn still_ours(&self) -> Result<()> {
        let mut phase = self.phase.lock().await;
        self.check(&mut phase).await
    }

    // The store is asked, not our clock: a monotonic clock stands still while the machine sleeps.
    async fn check(&self, phase: &mut Phase) -> Result<()> {
        if *phase != Phase::Ours {
            return Err(self.lost("it was lost before"));
        }
        let head = document::head_if_there(&*self.storage, &self.key).await?;
        let (Some(head), Some(stored)) = (head, self.stored().await?) else {
            *phase = Phase::Lost;
            return Err(self.lost("it was removed"));
        };
        if !self.is_ours(&stored) {
            *phase = Phase::Lost;
            return Err(self.lost(&format!("process {} of host {} has put its own there", stored.pid, stored.host)));
        }
        if self.storage.now().await? - head.modified >= OWNER_LIMIT {
            *phase = Phase::Lost;
            return Err(self.lost(&format!("it was last stored at {}, over 12 h ago", head.modified)));
        }
        Ok(())
    }

    /// Whether the name is another run's by now: where nothing proves create-only, of two who claim it at one time both
    /// are told that they did, and a clone of this host takes our intent for one of its own dead.
    pub(super) async fn is_anothers(&self) -> Result<bool> {
        Ok(self.stored().await?.is_some_and(|stored| !self.is_ours(&stored)))
    }

    async fn stored(&self) -> Result<Option<IntentDocument>> {
        document::read_if_there(&*self.storage, &self.key).await
    }

    fn is_ours(&self, stored: &IntentDocument) -> bool {
        stored.lock_token == self.document.lock_token
    }

    fn lost(&self, why: &str) -> Error {
        Error::new(Kind::Storage, format!("keep intent {}", self.key)).because(why).hint("make the backup again")
    }

    /// Removes the intent. It is over even if that fails; the object then dies with the lock or by its age.
    pub async fn finish(&self) -> Result<()> {
        let mut phase = self.phase.lock().await;
        *phase = Phase::Ended;
        self.storage.delete(&self.key).await?;
        Ok(())
    }
}

async fn keep_fresh(intent: Weak<Intent>, every: Duration) {
    loop {
        tokio::time::sleep(every).await;
        let Some(intent) = intent.upgrade() else { return };
        if *intent.phase.lock().await == Phase::Ended {
            return;
        }
        // A failed refresh is made up for by the next; `still_ours` judges whether there were too many.
        if let Err(error) = intent.refresh().await {
            tracing::warn!(%error, "refresh intent");
        }
    }
}

/// A stored intent.
#[derive(Clone, Debug, PartialEq)]
pub struct SeenIntent {
    pub document: IntentDocument,
    /// When it was last stored, by the store's own clock.
    pub modified: DateTime<Utc>,
}

/// Every intent of an instance. One that cannot be read, or whose name this version does not know, is an error:
/// whatever leans on the list must stop.
pub async fn intents(repository: &Repository, instance: &InstanceName) -> Result<Vec<SeenIntent>> {
    let listed = repository.storage().list(&Folder::Intents.of(instance)).await?;
    let reads = listed.into_iter().map(|meta| async move {
        let Some(StoredName::Intent { id, .. }) = StoredName::parse(&meta.key) else {
            return Err(Error::new(Kind::Storage, format!("{} is not an intent that this pgkeep knows", meta.key))
                .hint("use a newer pgkeep, or remove the object if it does not belong there"));
        };
        let document: Option<IntentDocument> = document::read_if_there(repository.storage(), &meta.key).await?;
        // Gone since the listing: its owner has finished, with its manifest before.
        let Some(document) = document else { return Ok(None) };
        if document.id != id || &document.instance != instance {
            return Err(Error::new(Kind::Verification, format!("read {}", meta.key))
                .because(format!("it is the intent of {} in instance {}", document.id, document.instance)));
        }
        Ok(Some(SeenIntent { document, modified: meta.modified }))
    });
    let seen: Vec<_> = stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?;
    Ok(seen.into_iter().flatten().collect())
}

/// The intent of one backup, if there is one.
pub(super) async fn intent_of(
    repository: &Repository,
    instance: &InstanceName,
    id: &BackupId,
) -> Result<Option<SeenIntent>> {
    let key = StoredName::Intent { instance: instance.clone(), id: id.clone() }.key();
    let Some(head) = document::head_if_there(repository.storage(), &key).await? else { return Ok(None) };
    let document = document::read_if_there(repository.storage(), &key).await?;
    Ok(document.map(|document| SeenIntent { document, modified: head.modified }))
}

/// Whether a backup is still being made, and why we think so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Liveness {
    Alive(String),
    Dead(String),
}

impl Liveness {
    pub fn is_alive(&self) -> bool {
        matches!(self, Self::Alive(_))
    }
}

/// Judges an intent. `store_now` is the store's own clock. `lock` is the lock of the intent's verb on this host,
/// looked at *after* the intent was read: looked at before, it can be free, then taken by the run whose intent we read.
pub fn liveness(intent: &SeenIntent, store_now: DateTime<Utc>, local: &HostId, lock: &LockState) -> Liveness {
    let IntentDocument { host_id, host, pid, lock_token, .. } = &intent.document;
    if host_id == local {
        return match lock.is_held_by(lock_token) {
            true => Liveness::Alive(format!("process {pid} of this host holds its lock")),
            false => Liveness::Dead(format!("process {pid} of this host no longer holds its lock")),
        };
    }
    let age = store_now - intent.modified;
    let said = format!("{host} refreshed it {} minutes ago", age.num_minutes());
    if age < LIMIT { Liveness::Alive(said) } else { Liveness::Dead(said) }
}

/// The intents of an instance with what is thought of each.
pub async fn judged_intents(
    repository: &Repository,
    state: &StateDirectory,
    instance: &InstanceName,
) -> Result<Vec<(SeenIntent, Liveness)>> {
    let intents = intents(repository, instance).await?;
    if intents.is_empty() {
        return Ok(Vec::new());
    }
    let store_now = repository.storage().now().await?;
    // Locks are looked at here, after the reading: see `liveness`.
    let judge = |intent: SeenIntent| {
        let lock = state.lock_state(repository.id(), instance, intent.document.verb)?;
        let liveness = liveness(&intent, store_now, state.host_id(), &lock);
        Ok((intent, liveness))
    };
    let judged: Result<Vec<_>> = intents.into_iter().map(judge).collect();
    judged.doing(Kind::Storage, || format!("judge the intents of instance {instance}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repo::{BackupWriter, DumpStem, Ending, Form, Packing, Stamp};
    use crate::storage::{Effect, FaultyStorage, Injection, MemoryStorage, Operation};

    #[tokio::test]
    async fn an_intent_is_kept_fresh_until_it_is_finished_and_never_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let store = MemoryStorage::new();
        let faulty = FaultyStorage::over(Arc::new(store.clone()));
        let repository = Repository::open_or_create(Arc::new(faulty.clone()), &state).await.unwrap();
        let now = DateTime::from_timestamp(1_738_288_800, 0).unwrap();
        let lock = state.lock(repository.id(), &"main".parse().unwrap(), Verb::Dump, now).unwrap();
        let id = BackupId::from(&DumpStem::new("shop", Stamp::of(now), "db1"));
        let Claim::Ours(intent) = Intent::begin(&repository, &lock, id.clone(), "db1", now).await.unwrap() else {
            panic!("nobody else is there");
        };
        let again = Intent::begin(&repository, &lock, id, "db1", now).await.unwrap();
        assert!(matches!(again, Claim::Taken));

        // One that fails is made up for.
        faulty.inject(Injection::at(Operation::Replace, Effect::FailBefore(Fault::Unavailable)));
        let refresher = tokio::spawn(keep_fresh(Arc::downgrade(&intent), Duration::from_millis(1)));
        while faulty.calls().iter().filter(|call| call.operation == Operation::Replace).count() < 3 {
            tokio::task::yield_now().await;
        }
        intent.still_ours().await.unwrap();
        intent.finish().await.unwrap();
        refresher.await.unwrap();
        intent.refresh().await.unwrap();
        assert!(!store.contents().contains_key(&intent.key));
    }

    #[tokio::test]
    async fn an_intent_that_was_removed_is_lost_for_good() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let store = MemoryStorage::new();
        let repository = Repository::open_or_create(Arc::new(store.clone()), &state).await.unwrap();
        let now = DateTime::from_timestamp(1_738_288_800, 0).unwrap();
        let lock = state.lock(repository.id(), &"main".parse().unwrap(), Verb::Dump, now).unwrap();
        let id = BackupId::from(&DumpStem::new("shop", Stamp::of(now), "db1"));
        let Claim::Ours(intent) = Intent::begin(&repository, &lock, id, "db1", now).await.unwrap() else {
            panic!("nobody else is there");
        };
        store.delete(&intent.key).await.unwrap();
        assert!(intent.refresh().await.is_err());
        assert!(!store.contents().contains_key(&intent.key));
        let error = intent.still_ours().await.unwrap_err();
        assert_eq!(error.to_string(), format!("keep intent {}: it was lost before", intent.key));
    }

    #[tokio::test]
    async fn an_intent_that_another_run_has_put_in_its_place_is_lost_and_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let store = MemoryStorage::new();
        let repository = Repository::open_or_create(Arc::new(store.clone()), &state).await.unwrap();
        let now = DateTime::from_timestamp(1_738_288_800, 0).unwrap();
        let lock = state.lock(repository.id(), &"main".parse().unwrap(), Verb::Dump, now).unwrap();
        let clock = crate::clock::ManualClock::at(now);
        let writer = BackupWriter::begin(&repository, &lock, "shop", "db1", &clock).await.unwrap();
        let data = Ending::whole(Form::Custom, Packing::ZSTD);
        writer.put(data, "of one of us".into()).await.unwrap();

        let key = &writer.intent().key;
        let theirs =
            IntentDocument { host: "db2".into(), lock_token: "other".into(), ..writer.intent().document.clone() };
        let theirs = document::to_json(&theirs).unwrap();
        store.replace(key, theirs.clone()).await.unwrap();
        let error = writer.intent().still_ours().await.unwrap_err();
        assert!(error.to_string().ends_with("of host db2 has put its own there"), "{error}");
        writer.intent().refresh().await.unwrap_err();
        writer.abandon().await.unwrap();
        assert_eq!(store.contents()[key], theirs);
        assert!(store.contents().contains_key(&writer.key(data)));
    }
}
