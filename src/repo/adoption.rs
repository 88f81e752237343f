//! Copies on their way in: the name of a backup that another repository has, claimed here.
//!
//! A dump takes a name that nothing has; a copy has its name given, and a copy of that name may have died here before.
//! What that one stored is gone on with, if its intent says that it was ours: the intent is taken over, not removed, so
//! that at no moment a prune may take the data for nobody's. Three things keep a prune from removing what it judged to be
//! dead before the intent was ours:
//!
//! * a prune of this host holds its lock from its judgement to its last removal, and we hold that lock while we take over
//!   (without that, `tests/interleaving` finds 76 of 5,794 states broken);
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use chrono::{DateTime, Utc};

    use super::*;
    use crate::clock::ManualClock;
    use crate::repo::manifest::tests::sample;
    use crate::repo::{DumpManifest, Form, Packing, Stamp, remove_leftovers, remove_leftovers_but};
    use crate::storage::{MemoryStorage, Prefix, Storage as _};

    struct World {
        _dir: tempfile::TempDir,
        state: StateDirectory,
        storage: MemoryStorage,
        clock: Arc<ManualClock>,
        repository: Repository,
        now: DateTime<Utc>,
    }

    const ARCHIVE: Ending = Ending::whole(Form::Custom, Packing::ZSTD);

    impl World {
        async fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let state = StateDirectory::open(dir.path()).unwrap();
            let now = "2026-11-20T02:00:00Z".parse().unwrap();
            let clock = Arc::new(ManualClock::at(now));
            let storage = MemoryStorage::with_clock(clock.clone());
            let repository = Repository::open_or_create(Arc::new(storage.clone()), &state).await.unwrap();
            Self { _dir: dir, state, storage, clock, repository, now }
        }

        fn lock(&self, verb: Verb) -> Lock {
            self.state.lock(self.repository.id(), &"main".parse().unwrap(), verb, self.now).unwrap()
        }

        fn stem(&self) -> DumpStem {
            DumpStem::new("shop", Stamp::of(self.now), "db1")
        }

        async fn adopt(&self, lock: &Lock, host: &str) -> Result<Adoption> {
            BackupWriter::adopt(&self.repository, &self.state, lock, self.stem(), host, &*self.clock).await
        }

        /// A copy that dies with an object stored; its lock dies with it.
        async fn die(&self, host: &str) {
            let Adoption::New(writer) = self.adopt(&self.lock(Verb::Copy), host).await.unwrap() else {
                panic!("nothing is there");
            };
            writer.put(ARCHIVE, Bytes::from_static(b"data")).await.unwrap();
        }

        async fn manifest(&self) -> (DumpManifest, Bytes) {
            let manifest = sample(&"main".parse().unwrap(), "shop", self.now);
            (manifest.clone(), manifest.to_json().unwrap())
        }

        fn key(&self, ending: Ending) -> Key {
            self.stem().object(ending).key(&"main".parse().unwrap())
        }

        async fn names(&self) -> Vec<String> {
            let listed = self.storage.list(&Prefix::root()).await.unwrap();
            let names = listed.into_iter().map(|meta| meta.key.to_string());
            names.filter(|name| name != "pgkeep.json").collect()
        }
    }

    #[tokio::test]
    async fn a_copy_that_died_is_gone_on_with_and_its_data_never_lacks_an_intent() {
        let world = World::new().await;
        world.die("db1").await;
        let before = world.names().await;
        let lock = world.lock(Verb::Copy);
        let wanted = [BackupId::from(&world.stem())].into();
        assert_eq!(remove_leftovers_but(&world.repository, &lock, "db1", &wanted).await.unwrap(), []);
        assert_eq!(world.names().await, before);
        let Adoption::Resumed(writer) = world.adopt(&lock, "db1").await.unwrap() else { panic!("it died here") };
        assert_eq!(world.names().await, before);
        writer.intent().still_ours().await.unwrap();
        let seen = intent_of(&world.repository, lock.instance(), writer.id()).await.unwrap().unwrap();
        assert_eq!(seen.document.lock_token, lock.holder().token);
        // Nobody wants it any more.
        drop((writer, lock));
        remove_leftovers(&world.repository, &world.lock(Verb::Copy), "db1").await.unwrap();
        assert_eq!(world.names().await, [""; 0]);
    }

    #[tokio::test]
    async fn the_manifest_is_stored_as_it_is_once_its_objects_are_there() {
        let world = World::new().await;
        let lock = world.lock(Verb::Copy);
        let (manifest, body) = world.manifest().await;
        let Adoption::New(writer) = world.adopt(&lock, "db1").await.unwrap() else { panic!("nothing is there") };
        for object in manifest.objects.iter().skip(1) {
            writer.put(object.name.ending, Bytes::from_static(b"x")).await.unwrap();
        }
        // One is missing: what is there stays for the next copy.
        writer.commit_copy(body.clone()).await.unwrap_err();
        assert_eq!(world.names().await.len(), manifest.objects.len());
        drop(lock);
        let lock = world.lock(Verb::Copy);
        let Adoption::Resumed(writer) = world.adopt(&lock, "db1").await.unwrap() else { panic!("it died here") };
        writer.put(manifest.objects[0].name.ending, Bytes::from_static(b"x")).await.unwrap();
        writer.commit_copy(body.clone()).await.unwrap();
        assert_eq!(world.storage.contents()[&world.key(Ending::Manifest)], body);
        assert!(!world.names().await.iter().any(|name| name.contains("intents")), "{:?}", world.names().await);
        assert!(matches!(world.adopt(&lock, "db1").await.unwrap(), Adoption::Backup));
    }

    #[tokio::test]
    async fn what_lives_or_belongs_to_another_host_is_left_alone() {
        let world = World::new().await;
        world.die("a-clone-of-db1").await;
        let error = world.adopt(&world.lock(Verb::Copy), "db1").await.unwrap_err();
        assert_eq!(error.kind, Kind::Locked);
        assert!(error.to_string().contains("host a-clone-of-db1 is storing"), "{error}");
        assert_eq!(world.names().await.len(), 2);
    }

    #[tokio::test]
    async fn a_prune_that_is_at_work_is_waited_for() {
        let world = World::new().await;
        world.die("db1").await;
        let prune = world.lock(Verb::Prune);
        let lock = world.lock(Verb::Copy);
        let error = world.adopt(&lock, "db1").await.unwrap_err();
        assert_eq!(error.kind, Kind::Locked);
        assert!(error.to_string().starts_with("prune of instance main is locked"), "{error}");
        drop(prune);
        assert!(matches!(world.adopt(&lock, "db1").await.unwrap(), Adoption::Resumed(_)));
    }

    #[tokio::test]
    async fn objects_that_nobody_accounts_for_are_refused_and_stay() {
        let world = World::new().await;
        world.storage.create(&world.key(ARCHIVE), Bytes::from_static(b"?")).await.unwrap();
        let error = world.adopt(&world.lock(Verb::Copy), "db1").await.unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
        assert!(error.next_step().unwrap().contains("remove main/dumps/shop_20261120T020000Z_db1*"), "{error:?}");
        assert_eq!(world.names().await, [world.key(ARCHIVE).to_string()]);
    }

    #[tokio::test]
    async fn what_is_older_than_its_owner_would_trust_is_removed_and_begun_anew() {
        let world = World::new().await;
        world.die("db1").await;
        world.clock.set(world.now + OWNER_LIMIT);
        assert!(matches!(world.adopt(&world.lock(Verb::Copy), "db1").await.unwrap(), Adoption::New(_)));
        let names = world.names().await;
        assert_eq!(names.len(), 1, "{names:?}");
        assert!(names[0].starts_with("main/intents/"), "{names:?}");
    }
}
