//! What a sweep does where the store, another host or its own user stands in its way.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::*;
use crate::clock::ManualClock;
use crate::digest::Fingerprint;
use crate::interrupt::Signal;
use crate::repo::manifest::tests::sample;
use crate::repo::{BackupWriter, Form, Packing, RecordPlace, Run, RunName, Stamp, StoredObject, Verb};
use crate::storage::{Effect, FaultyStorage, Injection, MemoryStorage, Operation};

struct World {
    _directory: tempfile::TempDir,
    state: StateDirectory,
    clock: Arc<ManualClock>,
    storage: FaultyStorage,
    repository: Repository,
    interrupt: Interrupt,
}

const ARCHIVE: Ending = Ending::whole(Form::Custom, Packing::ZSTD);

fn start() -> DateTime<Utc> {
    "2026-11-20T02:00:00Z".parse().unwrap()
}

fn main_instance() -> InstanceName {
    "main".parse().unwrap()
}

fn stem(database: &str) -> DumpStem {
    DumpStem::new(database, Stamp::of(start()), "db1")
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path()).unwrap();
        let clock = Arc::new(ManualClock::at(start()));
        let storage = FaultyStorage::over(Arc::new(MemoryStorage::with_clock(clock.clone())));
        let repository = Repository::open_or_create(Arc::new(storage.clone()), &state).await.unwrap();
        Self { _directory: directory, state, clock, storage, repository, interrupt: Interrupt::default() }
    }

    fn lock(&self, verb: Verb) -> Lock {
        self.state.lock(self.repository.id(), &main_instance(), verb, start()).unwrap()
    }

    async fn begin(&self, lock: &Lock, database: &str) -> BackupWriter {
        let claimed = BackupWriter::claim(&self.repository, lock, stem(database), "db1", &*self.clock).await;
        let writer = claimed.unwrap().unwrap();
        writer.put(ARCHIVE, Bytes::from_static(b"archive")).await.unwrap();
        writer
    }

    async fn backups(&self, databases: &[&str]) {
        let lock = self.lock(Verb::Dump);
        for database in databases {
            let mut manifest = sample(&main_instance(), database, start());
            manifest.objects = vec![StoredObject::new(&stem(database), ARCHIVE, Fingerprint::of(b"archive"))];
            self.begin(&lock, database).await.commit(&manifest).await.unwrap();
        }
    }

    async fn sweep_on(&self, host: &str, remove: &[(&str, Option<&str>)]) -> (Swept, Result<()>) {
        let remove = remove.iter().map(|(database, newer)| (stem(database), newer.map(stem))).collect();
        let (lock, mut swept) = (self.lock(Verb::Prune), Swept::default());
        let (repository, state, interrupt) = (&self.repository, &self.state, &self.interrupt);
        let sweep = Sweep { repository, state, lock: &lock, host, interrupt };
        let ended = SweepPlan { remove }.execute(sweep, &mut swept).await;
        (swept, ended)
    }

    async fn sweep(&self, remove: &[(&str, Option<&str>)]) -> Swept {
        let (swept, ended) = self.sweep_on("db1", remove).await;
        ended.unwrap();
        swept
    }

    async fn names(&self) -> Vec<String> {
        let listed = self.repository.storage().list(&instance_folder(&main_instance())).await.unwrap();
        listed.into_iter().map(|meta| meta.key.file_name().to_owned()).collect()
    }

    fn refuse(&self, pattern: &str) {
        // All at once, and then one by one.
        let denied = Injection::at(Operation::Delete, Effect::FailBefore(Fault::Denied)).from_nth(1).on(pattern);
        self.storage.inject(denied);
    }
}

fn name(database: &str, ending: Ending) -> String {
    stem(database).object(ending).to_string()
}

#[tokio::test]
async fn what_the_store_keeps_is_named_and_goes_with_the_next_sweep() {
    let world = World::new().await;
    world.backups(&["a", "b"]).await;
    world.refuse("*/a_*.dump.zst");
    let swept = world.sweep(&[("a", None), ("b", None)]).await;
    assert_eq!(swept.backups.len(), 2);
    assert_eq!(swept.freed.keys().map(BackupId::as_str).collect::<Vec<_>>(), [stem("b").to_string()]);
    let [(key, error)] = &swept.unremoved[..] else { panic!("{swept:?}") };
    assert_eq!((key.file_name(), error.kind), (name("a", ARCHIVE).as_str(), Kind::Storage));
    assert_eq!(world.names().await, [name("a", ARCHIVE)]);
    world.storage.heal();
    assert_eq!(world.sweep(&[]).await.freed_bytes, 7);
    assert_eq!(world.names().await, [""; 0]);
}

#[tokio::test]
async fn a_backup_whose_manifest_stays_is_whole() {
    let world = World::new().await;
    world.backups(&["a"]).await;
    world.refuse("*.manifest.json");
    let swept = world.sweep(&[("a", None)]).await;
    assert_eq!((swept.backups.len(), swept.unremoved.len()), (0, 1));
    assert_eq!(world.names().await, [name("a", ARCHIVE), name("a", Ending::Manifest)]);
}

#[tokio::test]
async fn a_store_that_does_not_answer_ends_it_and_what_was_done_is_told() {
    let world = World::new().await;
    world.backups(&["a", "b"]).await;
    let silent = Injection::at(Operation::Delete, Effect::FailBefore(Fault::Unavailable)).on("*.dump.zst");
    world.storage.inject(silent);
    let (swept, ended) = world.sweep_on("db1", &[("a", None), ("b", None)]).await;
    assert_eq!((swept.backups.len(), ended.unwrap_err().kind), (2, Kind::Storage));
    world.storage.heal();
    world.sweep(&[]).await;
    assert_eq!(world.names().await, [""; 0]);
}

#[tokio::test]
async fn a_request_to_stop_ends_it_before_the_next_backup() {
    let world = World::new().await;
    world.backups(&["a"]).await;
    world.interrupt.request(Signal::Term);
    let (swept, ended) = world.sweep_on("db1", &[("a", None)]).await;
    assert_eq!((swept.backups.len(), ended.unwrap_err().kind), (0, Kind::Terminated));
    assert_eq!(world.names().await.len(), 2);
}

#[tokio::test]
async fn one_goes_only_while_what_it_gives_way_to_is_there() {
    let world = World::new().await;
    world.backups(&["a", "b"]).await;
    let swept = world.sweep(&[("a", Some("gone")), ("b", Some("a"))]).await;
    assert_eq!(swept.backups, [BackupId::from(&stem("b"))]);
    let [(spared, why)] = &swept.spared[..] else { panic!("{swept:?}") };
    assert_eq!(*spared, BackupId::from(&stem("a")));
    assert!(why.ends_with("which it was to give way to, is gone"), "{why}");
}

#[tokio::test]
async fn a_backup_that_a_run_is_at_work_on_is_spared() {
    let world = World::new().await;
    world.backups(&["a"]).await;
    // As a copy of the same id looks, between its claim and its look at what is there.
    let lock = world.lock(Verb::Copy);
    let id = BackupId::from(&stem("a"));
    let intent = super::super::Intent::begin(&world.repository, &lock, id, "db1", start()).await.unwrap();
    let swept = world.sweep(&[("a", None)]).await;
    let [(_, why)] = &swept.spared[..] else { panic!("{swept:?}") };
    assert!(why.starts_with("a copy is at work on it: process "), "{why}");
    assert_eq!(world.names().await.len(), 3);
    drop((intent, lock));
    assert_eq!(world.sweep(&[("a", None)]).await.backups.len(), 1);
    assert_eq!(world.names().await, [""; 0]);
}

#[tokio::test]
async fn the_clone_of_a_machine_takes_the_work_of_the_original_for_living() {
    let world = World::new().await;
    let lock = world.lock(Verb::Dump);
    drop(world.begin(&lock, "a").await);
    drop(lock);
    let (swept, ended) = world.sweep_on("a-clone-of-db1", &[]).await;
    ended.unwrap();
    assert_eq!((swept.in_the_making.len(), swept.objects.len()), (1, 0));
    world.clock.set(start() + LIMIT);
    assert_eq!(world.sweep_on("a-clone-of-db1", &[]).await.0.objects.len(), 1);
}

/// A prune is what makes room.
#[tokio::test]
async fn a_full_store_has_no_room_for_its_record_and_is_pruned() {
    let world = World::new().await;
    for (verb, begins) in [(Verb::Prune, true), (Verb::Copy, false)] {
        world.storage.inject(Injection::at(Operation::Create, Effect::FailBefore(Fault::Full)));
        let lock = world.lock(verb);
        let name = RunName::new(Stamp::of(start()), verb);
        let run = Run::begin(&world.repository, &world.state, &lock, "db1", name, start()).await;
        assert_eq!(run.is_ok(), begins, "{verb}");
        if let Ok(run) = run {
            assert!(matches!(run.place(), RecordPlace::StateDirectory { .. }));
        }
    }
}
