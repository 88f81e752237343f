//! The order in which a backup is stored: intent, data, manifest, intent removed.
//!
//! Whoever makes a backup goes through [`BackupWriter`]; there is no other way to a manifest. A crash anywhere leaves
//! either a whole backup or data that no listing shows and the next prune removes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::Timelike as _;

use super::document;
use super::intent::{Claim, Intent};
use super::layout::{BackupId, DumpStem, Ending};
use super::lock::Lock;
use super::manifest::{DumpManifest, StoredObject};
use super::name::{InstanceName, Stamp};
use super::objects;
use super::repository::Repository;
use crate::clock::Clock;
use crate::digest::Fingerprint;
use crate::error::{Error, Kind, Result};
use crate::storage::{Fault, Key, ObjectWriter};

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
        for _ in 0..CLAIMS {
            let now = clock.now();
            let stem = DumpStem::new(database, Stamp::of(now), host);
            if let Some(writer) = Self::claim(repository, lock, stem, host, clock).await? {
                return Ok(writer);
            }
            tokio::time::sleep(Duration::from_nanos(1_000_000_000 - u64::from(now.nanosecond() % 1_000_000_000))).await;
        }
        let action = format!("find a free name for a dump of database {database:?} in {}", repository.address());
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
        let writer = Self { repository: repository.clone(), intent, stem };
        // After the claim, so that from here on every object of this name is ours, to be removed if we fail.
        if !objects::stored(repository, writer.instance(), &writer.stem).await?.is_empty() {
            writer.intent.finish().await?;
            return Ok(None);
        }
        Ok(Some(writer))
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

    /// Begins a large object. The manifest is not stored through this.
    pub async fn writer(&self, ending: Ending) -> Result<Box<dyn ObjectWriter>> {
        Ok(self.repository.storage().writer(&self.key(self.data(ending)?)).await?)
    }

    /// Stores a small object. The manifest is not stored through this.
    pub async fn put(&self, ending: Ending, body: Bytes) -> Result<StoredObject> {
        let stored = StoredObject::new(&self.stem, self.data(ending)?, Fingerprint::of(&body));
        self.repository.storage().create(&self.key(ending), body).await?;
        Ok(stored)
    }

    fn data(&self, ending: Ending) -> Result<Ending> {
        if ending == Ending::Manifest {
            return Err(Error::new(Kind::Unexpected, format!("store the manifest of {} before its commit", self.id())));
        }
        Ok(ending)
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
        DumpManifest::from_json(&body, self.instance(), &self.stem)?;
        self.confirm_objects(manifest).await?;
        // Last before the manifest: a prune that took us for dead has removed the intent or found it too old.
        self.intent.still_ours().await?;
        Ok(body)
    }

    async fn give_up(self, error: Error) -> Result<()> {
        // The first error tells what happened. Should removal fail too, the next prune does it.
        let _ = self.abandon().await;
        Err(error)
    }

    /// The store's own word for every object and its size.
    async fn confirm_objects(&self, manifest: &DumpManifest) -> Result<()> {
        for object in &manifest.objects {
            let key = object.key(self.instance());
            let head = self.repository.storage().head(&key).await?;
            if head.size_bytes != object.size_bytes {
                let cause = format!("{} bytes were sent, the store has {}", object.size_bytes, head.size_bytes);
                return Err(Error::new(Kind::Verification, format!("confirm {key}")).because(cause));
            }
        }
        Ok(())
    }

    /// Removes what was stored of a backup that will not be: data, then the intent that names them. There is no
    /// manifest: only [`BackupWriter::commit`] stores one, and that ends the writer. A failure leaves the rest to the
    /// next prune.
    pub async fn abandon(&self) -> Result<()> {
        objects::remove_data(&self.repository, self.instance(), &self.stem).await?;
        self.intent.finish().await
    }
}
