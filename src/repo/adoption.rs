//! Copies on their way in: the name of a backup that another repository has, claimed here.
//!
//! A dump takes a name that nothing has; a copy has its name given, and a copy of that name may have died here before.
//! What that one stored is gone on with, if its intent says that it was ours: the intent is taken over, not removed, so
//! that at no moment a prune may take the data for nobody's. Three things keep a prune from removing what it judged to be
//! dead before the intent was ours:
//!
//! * a prune of this host holds its lock from its judgement to its last removal, and we hold that lock while we take over;
//! * a prune of another host takes an intent for dead after 24 h, and we go on with none that is older than 12 h;
//! * objects of the name without an intent of ours are nobody's, perhaps about to be removed: they are refused.

use chrono::TimeDelta;

use super::backup::BackupWriter;
use super::document;
use super::intent::{Claim, Intent, OWNER_LIMIT, SeenIntent, intent_of};
use super::layout::{BackupId, DumpStem, Ending, StoredName, Verb};
use super::leftovers::is_dead;
use super::lock::Lock;
use super::objects::remove_data;
use super::repository::Repository;
use super::state::StateDirectory;
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::storage::Key;

/// What came of the wish to store a copy of a backup.
#[derive(Debug)]
pub enum Adoption {
    /// The name is ours, and nothing has it yet.
    New(BackupWriter),
    /// The name is ours, and so is what a copy that died has stored under it.
    Resumed(BackupWriter),
    /// The manifest is there: it is a backup already, whole or not.
    Backup,
}

impl BackupWriter {
    /// Claims the name of a backup that another repository has. Must be called within a tokio runtime.
    ///
    /// [`Kind::Locked`] if another run is storing it; [`Kind::Refused`] if objects of the name are there that no run of
    /// this host accounts for.
    pub async fn adopt(
        repository: &Repository,
        state: &StateDirectory,
        lock: &Lock,
        stem: DumpStem,
        host: &str,
        clock: &dyn Clock,
    ) -> Result<Adoption> {
        let adopter = Adopter { repository, state, lock, stem: &stem, host, clock };
        let (intent, resumed) = match adopter.begin().await? {
            Claim::Ours(intent) => (intent, false),
            Claim::Taken => adopter.take_over().await?,
        };
        let writer = Self::of(repository, intent, stem.clone());
        match adopter.judge(&writer, resumed).await {
            Ok(Adopted::Ours) if resumed => Ok(Adoption::Resumed(writer)),
            Ok(Adopted::Ours) => Ok(Adoption::New(writer)),
            Ok(Adopted::Backup) => writer.intent().finish().await.map(|()| Adoption::Backup),
            Err(error) => {
                if !resumed {
                    // The error tells what happened; an intent that stays dies with the lock.
                    let _ = writer.intent().finish().await;
                }
                Err(error)
            }
        }
    }
}

enum Adopted {
    Ours,
    Backup,
}

struct Adopter<'a> {
    repository: &'a Repository,
    state: &'a StateDirectory,
    lock: &'a Lock,
    stem: &'a DumpStem,
    host: &'a str,
    clock: &'a dyn Clock,
}

impl Adopter<'_> {
    fn id(&self) -> BackupId {
        BackupId::from(self.stem)
    }

    async fn begin(&self) -> Result<Claim> {
        Intent::begin(self.repository, self.lock, self.id(), self.host, self.clock.now()).await
    }

    /// Takes the intent that is there, and says whether what it names can be gone on with.
    async fn take_over(&self) -> Result<(std::sync::Arc<Intent>, bool)> {
        let (repository, instance, now) = (self.repository, self.lock.instance(), self.clock.now());
        let _no_prune = self.state.lock(repository.id(), instance, Verb::Prune, now)?;
        if let Some(seen) = intent_of(repository, instance, &self.id()).await? {
            if !is_dead(&seen, self.lock, self.host) {
                return Err(self.taken(&seen));
            }
            if self.age(&seen).await? < OWNER_LIMIT {
                let intent = Intent::take_over(repository, self.lock, self.id(), self.host, now).await?;
                return Ok((intent, true));
            }
            if !self.is_backup().await? {
                remove_data(repository, instance, self.stem).await?;
            }
            repository.storage().delete(&self.intent_key()).await?;
        }
        match self.begin().await? {
            Claim::Ours(intent) => Ok((intent, false)),
            Claim::Taken => Err(Error::new(Kind::Locked, format!("another run began to store {} just now", self.id()))
                .hint("wait until it has ended, and copy again")),
        }
    }

    async fn age(&self, seen: &SeenIntent) -> Result<TimeDelta> {
        Ok(self.repository.storage().now().await? - seen.modified)
    }

    fn taken(&self, seen: &SeenIntent) -> Error {
        let by = &seen.document;
        let what = format!("process {} of host {} is storing {} in {}", by.pid, by.host, by.id, self.repository.name());
        let intent = self.intent_key();
        Error::new(Kind::Locked, format!("{what} ({} of {})", by.verb, by.started_at))
            .hint(format!("wait until it has ended; if that host is gone for good, remove {intent}"))
    }

    async fn is_backup(&self) -> Result<bool> {
        let key = self.stem.object(Ending::Manifest).key(self.lock.instance());
        Ok(document::head_if_there(self.repository.storage(), &key).await?.is_some())
    }

    fn intent_key(&self) -> Key {
        StoredName::Intent { instance: self.lock.instance().clone(), id: self.id() }.key()
    }

    async fn judge(&self, writer: &BackupWriter, resumed: bool) -> Result<Adopted> {
        if self.is_backup().await? {
            return Ok(Adopted::Backup);
        }
        // After the claim, so that from here on every object of this name is ours, to be removed if we fail.
        if resumed || writer.is_free().await? {
            return Ok(Adopted::Ours);
        }
        let (id, name) = (self.id(), self.repository.name());
        Err(Error::refused(format!("{name} holds objects of {id} without its manifest, and no copy left them"))
            .hint(format!("they are no backup: remove {}/dumps/{id}* there, and copy again", self.lock.instance())))
    }
}
