//! The order in which a backup is stored: intent, data, manifest, intent removed.
//!
//! Whoever makes a backup goes through [`BackupWriter`]; there is no other way to a manifest. A crash anywhere leaves
//! either a whole backup or data that no listing shows and the next prune removes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::Timelike as _;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::document;
use super::intent::{Claim, Intent};
use super::layout::{BackupId, DumpStem, Ending};
use super::lock::Lock;
use super::manifest::{DumpManifest, Encryption, StoredObject};
use super::name::{InstanceName, Stamp};
use super::new_object::{Contents, NewObject};
use super::objects;
use super::repository::Repository;
use crate::clock::Clock;
use crate::digest::Fingerprint;
use crate::error::{Error, Kind, Result};
use crate::storage::{Fault, Key, ObjectWriter};
use crate::stream::{room, seal};

/// Objects that a store is asked about at the same time.
const CONFIRMED_AT_ONCE: usize = 8;

/// How many seconds in a row may be taken before something is wrong.
const CLAIMS: usize = 10;

/// A backup in the making: its name is claimed, its intent stored and kept fresh.
///
/// Dropping it is a crash: what was stored stays until a prune. [`BackupWriter::abandon`] cleans up.
#[derive(Debug)]
pub struct BackupWriter {
    repository: Repository,
    intent: Arc<Intent>,
    stem: DumpStem,
    contents: Contents,
}

impl BackupWriter {
    /// Claims a name for a dump of `database` taken on `host`: that of the present second, or of the next one that is
    /// free. Must be called within a tokio runtime.
    pub async fn begin(
        repository: &Repository,
        lock: &Lock,
        database: &str,
        host: &str,
        clock: &dyn Clock,
    ) -> Result<Self> {
        let mut begun = Self::begin_in(&[(repository, lock)], database, host, clock).await?;
        begun.pop().unwrap_or_else(|| Err(Error::new(Kind::Unexpected, "claim a name in no repository")))
    }

    /// As [`BackupWriter::begin`], for a backup that is stored in several places under one name, which has to be free
    /// in all of them. The answers are in the order of the places; one that fails does not hold up the others.
    pub async fn begin_in(
        places: &[(&Repository, &Lock)],
        database: &str,
        host: &str,
        clock: &dyn Clock,
    ) -> Result<Vec<Result<Self>>> {
        for _ in 0..CLAIMS {
            let now = clock.now();
            let stem = DumpStem::new(database, Stamp::of(now), host);
            let claims =
                places.iter().map(|(repository, lock)| Self::claim(repository, lock, stem.clone(), host, clock));
            let claims = join_all(claims).await;
            if !claims.iter().any(|claim| matches!(claim, Ok(None))) {
                return Ok(claims.into_iter().filter_map(Result::transpose).collect());
            }
            for claimed in claims.into_iter().flatten().flatten() {
                // Nothing was stored under it: its intent is all there is. One place that fails holds up no other.
                if let Err(error) = claimed.intent.finish().await {
                    tracing::warn!(%error, "remove intent; it dies with this run's lock");
                }
            }
            tokio::time::sleep(Duration::from_nanos(1_000_000_000 - u64::from(now.nanosecond() % 1_000_000_000))).await;
        }
        let named: Vec<&str> = places.iter().map(|(repository, _)| repository.name()).collect();
        let action = format!("find a free name for a dump of database {database:?} in {}", named.join(" and "));
        Err(Error::new(Kind::Storage, action).because(format!("{CLAIMS} names in a row are taken")))
    }

    /// Claims a given name; None if any object of it exists. For a run that stores under one name in several places.
    pub async fn claim(
        repository: &Repository,
        lock: &Lock,
        stem: DumpStem,
        host: &str,
        clock: &dyn Clock,
    ) -> Result<Option<Self>> {
        let intent = match Intent::begin(repository, lock, BackupId::from(&stem), host, clock.now()).await? {
            Claim::Ours(intent) => intent,
            Claim::Taken => return Ok(None),
        };
        let writer = Self::of(repository, intent, stem);
        // After the claim, so that from here on every object of this name is ours, to be removed if we fail.
        match writer.is_free().await {
            Ok(true) => Ok(Some(writer)),
            Ok(false) => writer.intent.finish().await.map(|()| None),
            Err(error) => {
                // The error tells what happened; an intent that stays dies with the lock.
                let _ = writer.intent.finish().await;
                Err(error)
            }
        }
    }

    /// Whether no object of this name is there.
    pub(super) async fn is_free(&self) -> Result<bool> {
        Ok(objects::stored(&self.repository, self.instance(), &self.stem).await?.is_empty())
    }

    /// The writer of a backup whose name somebody else has claimed by `intent`.
    pub(super) fn of(repository: &Repository, intent: Arc<Intent>, stem: DumpStem) -> Self {
        Self { repository: repository.clone(), intent, stem, contents: Contents::default() }
    }

    pub fn id(&self) -> &BackupId {
        self.intent.id()
    }

    pub fn stem(&self) -> &DumpStem {
        &self.stem
    }

    pub fn instance(&self) -> &InstanceName {
        self.intent.instance()
    }

    /// The key of an object of this backup.
    pub fn key(&self, ending: Ending) -> Key {
        self.stem.object(ending).key(self.instance())
    }

    /// What it was told to store is stored under the name of an encrypted object where the repository is encrypted.
    fn stored_as(&self, ending: Ending) -> Ending {
        if self.repository.recipients().is_some() { ending.encrypted() } else { ending }
    }

    /// To whom the backup is encrypted, as its manifest has it.
    pub fn encryption(&self) -> Option<Encryption> {
        self.repository.recipients().map(|recipients| Encryption::to(recipients))
    }

    /// Bytes of which an object is made that has at most `most_bytes` in the store.
    pub fn room(&self, most_bytes: u64) -> Result<u64> {
        self.repository.recipients().map_or(Ok(most_bytes), |recipients| room(most_bytes, recipients))
    }

    /// What was stored so far, in the order of a manifest.
    pub fn stored(&self) -> Vec<StoredObject> {
        self.contents.all()
    }

    /// Begins a large object of about `expected_bytes`, as far as that is known; `ending` is what it would be in clear.
    /// The manifest is not stored through this.
    pub async fn object(&self, ending: Ending, expected_bytes: Option<u64>) -> Result<NewObject> {
        let ending = self.stored_as(ending);
        let writer = self.writer(ending, expected_bytes).await?;
        let recipients = self.repository.recipients().map(|recipients| &**recipients);
        NewObject::new(&self.stem, ending, writer, recipients, &self.contents)
    }

    /// As [`Self::object`], of bytes that are stored as they come, whatever `ending` says of them.
    pub async fn writer(&self, ending: Ending, expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        Ok(self.repository.storage().writer(&self.key(self.data(ending)?), expected_bytes).await?)
    }

    /// Stores a small object; `ending` is what it would be in clear. The manifest is not stored through this.
    pub async fn put(&self, ending: Ending, body: Bytes) -> Result<StoredObject> {
        let ending = self.stored_as(self.data(ending)?);
        let body = match self.repository.recipients().filter(|_| ending.packing().encrypted) {
            Some(recipients) => seal(&body, recipients)?,
            None => body,
        };
        let stored = StoredObject::new(&self.stem, ending, Fingerprint::of(&body));
        self.repository.storage().create(&self.key(ending), body).await?;
        self.contents.add(stored.clone());
        Ok(stored)
    }

    fn data(&self, ending: Ending) -> Result<Ending> {
        if ending == Ending::Manifest {
            return Err(Error::new(Kind::Unexpected, format!("store the manifest of {} before its commit", self.id())));
        }
        Ok(ending)
    }

    /// Removes what an earlier run has stored under the name, which is ours.
    pub async fn clear(&self) -> Result<()> {
        objects::remove_data(&self.repository, self.instance(), &self.stem).await
    }

    /// The intent, to be refreshed out of turn.
    pub fn intent(&self) -> &Intent {
        &self.intent
    }

    /// Makes the backup exist. When this fails, the backup does not exist and what was stored of it is removed, as far
    /// as the store lets us; except where the store's answer to the manifest was lost: then everything is left, and
    /// either the manifest is there and the backup whole, or the next prune removes the rest.
    pub async fn commit(self, manifest: &DumpManifest) -> Result<()> {
        let body = match self.prepare(manifest).await {
            Ok(body) => body,
            Err(error) => return self.give_up(error).await,
        };
        self.publish(body).await
    }

    /// As [`BackupWriter::commit`], with the manifest as another repository has it, byte by byte: it keeps its seal. Where
    /// the store could not be asked, what was stored stays: the next copy goes on with it.
    pub async fn commit_copy(self, body: Bytes) -> Result<()> {
        match self.confirm(&body).await {
            Ok(()) => self.publish(body).await,
            Err(error) if error.kind == Kind::Verification => self.give_up(error).await,
            Err(error) => Err(error),
        }
    }

    /// Stores the manifest, the last of all.
    async fn publish(self, body: Bytes) -> Result<()> {
        let key = self.key(Ending::Manifest);
        let mut stored = self.repository.storage().create(&key, body.clone()).await;
        let lost = matches!(&stored, Err(error) if error.fault == Fault::Unavailable);
        if lost {
            // Asked again, because to see it there is not enough: after a failed fsync it can be seen and may not last.
            stored = self.repository.storage().create(&key, body.clone()).await;
        }
        match stored {
            Ok(()) => {}
            // The name is ours: what is there is what we sent, perhaps twice.
            Err(error) if error.fault == Fault::Exists => {
                let stored = self.repository.storage().get(&key, document::LIMIT_BYTES).await;
                if !stored.is_ok_and(|stored| stored == body) {
                    return Err(error.into());
                }
            }
            // The request may have been carried out, or may be yet. Were the data removed now, a manifest that arrives
            // late would be a backup without data.
            Err(error) if lost => return Err(error.into()),
            Err(error) => return self.give_up(error.into()).await,
        }
        // After the manifest: until it is there the intent is what keeps a prune off the data.
        if let Err(error) = self.intent.finish().await {
            tracing::warn!(%error, "remove intent; it dies with this run's lock");
        }
        Ok(())
    }

    /// The manifest's bytes, once everything is in place for it.
    async fn prepare(&self, manifest: &DumpManifest) -> Result<Bytes> {
        let body = manifest.to_json()?;
        self.confirm(&body).await?;
        Ok(body)
    }

    /// Everything is in place for the manifest in `body`.
    async fn confirm(&self, body: &[u8]) -> Result<()> {
        let manifest = DumpManifest::from_json(body, self.instance(), &self.stem)?;
        self.confirm_objects(&manifest).await?;
        // Last before the manifest: a prune that took us for dead has removed the intent or found it too old.
        self.intent.still_ours().await
    }

    async fn give_up(self, error: Error) -> Result<()> {
        // The first error tells what happened. Should removal fail too, the next prune does it.
        let _ = self.abandon().await;
        Err(error)
    }

    /// The store's own word for every object and its size. A directory has thousands of them, and every answer takes its
    /// way: a few are asked for at once.
    async fn confirm_objects(&self, manifest: &DumpManifest) -> Result<()> {
        let confirmed = manifest.objects.iter().map(|object| self.confirm_object(object));
        stream::iter(confirmed).buffer_unordered(CONFIRMED_AT_ONCE).try_collect().await
    }

    async fn confirm_object(&self, object: &StoredObject) -> Result<()> {
        let key = object.key(self.instance());
        let head = self.repository.storage().head(&key).await?;
        if head.size_bytes != object.size_bytes {
            let cause = format!("{} bytes were sent, the store has {}", object.size_bytes, head.size_bytes);
            return Err(Error::new(Kind::Verification, format!("confirm {key}")).because(cause));
        }
        Ok(())
    }

    /// Removes what was stored of a backup that will not be: data, then the intent that names them. There is no
    /// manifest: only [`BackupWriter::commit`] stores one, and that ends the writer. A failure leaves the rest to the
    /// next prune. Where another run has claimed the name since, everything may be that one's, and is left.
    pub async fn abandon(&self) -> Result<()> {
        if self.intent.is_anothers().await? {
            return Ok(());
        }
        objects::remove_data(&self.repository, self.instance(), &self.stem).await?;
        self.intent.finish().await
    }
}
