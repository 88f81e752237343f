//! The life of backups in a repository: stored, listed, damaged, interrupted, taken away.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use pgkeep::clock::{Clock, ManualClock, SystemClock};
use pgkeep::digest::Fingerprint;
use pgkeep::error::{Error, Kind};
use pgkeep::interrupt::Interrupt;
use pgkeep::repo::{
    ArchiveFormat, BackupKind, BackupWriter, Catalogue, Checks, Client, Compression, Counts, Defect, DumpManifest,
    DumpStem, Ending, Entry, Form, Globals, GlobalsIncluded, InstanceName, Lock, Packing, RecordPlace, Repository, Run,
    RunName, RunOutcome, RunStatus, ServerVersion, Source, Stamp, StateDirectory, StoredObject, Sweep, SweepPlan,
    Swept, Verb, runs,
};
use pgkeep::storage::{Effect, Fault, FaultyStorage, Injection, Key, LocalStorage, MemoryStorage, Missing, Operation};

/// A repository in memory whose calls can be made to fail, seen from one host.
struct House {
    store: MemoryStorage,
    faulty: FaultyStorage,
    clock: Arc<ManualClock>,
    repository: Repository,
    state: StateDirectory,
    directory: tempfile::TempDir,
}

fn start() -> DateTime<Utc> {
    "2025-01-31T02:00:00Z".parse().unwrap()
}

fn main_instance() -> InstanceName {
    "main".parse().unwrap()
}

impl House {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDirectory::open(directory.path().join("here")).unwrap();
        let clock = Arc::new(ManualClock::at(start()));
        let store = MemoryStorage::with_clock(clock.clone());
        let faulty = FaultyStorage::over(Arc::new(store.clone()));
        let repository = Repository::open_or_create(Arc::new(faulty.clone()), &state).await.unwrap();
        Self { store, faulty, clock, repository, state, directory }
    }

    fn elsewhere(&self) -> StateDirectory {
        StateDirectory::open(self.directory.path().join("elsewhere")).unwrap()
    }

    fn lock(&self, verb: Verb) -> Lock {
        lock(&self.repository, &self.state, verb)
    }

    async fn begin(&self, lock: &Lock, database: &str) -> BackupWriter {
        BackupWriter::begin(&self.repository, lock, database, "db1", &*self.clock).await.unwrap()
    }

    async fn backup(&self, database: &str) -> DumpStem {
        let lock = self.lock(Verb::Dump);
        let writer = self.begin(&lock, database).await;
        let stem = writer.stem().clone();
        let objects = store_data(&writer).await;
        writer.commit(&manifest(&stem, database, objects)).await.unwrap();
        stem
    }

    async fn catalogue(&self) -> Catalogue {
        Catalogue::read(&self.repository, None).await.unwrap()
    }

    async fn prune(&self, remove: &[&DumpStem]) -> pgkeep::error::Result<Swept> {
        let plan = SweepPlan { remove: remove.iter().map(|stem| ((*stem).clone(), None)).collect() };
        sweep(&plan, &self.repository, &self.state, &self.lock(Verb::Prune)).await
    }

    fn keys(&self) -> Vec<String> {
        self.store.contents().keys().map(Key::to_string).collect()
    }

    fn later(&self, by: TimeDelta) {
        self.clock.set(self.clock.now() + by);
    }
}

async fn sweep(
    plan: &SweepPlan,
    repository: &Repository,
    state: &StateDirectory,
    lock: &Lock,
) -> pgkeep::error::Result<Swept> {
    let (mut swept, interrupt) = (Swept::default(), Interrupt::default());
    plan.execute(Sweep { repository, state, lock, host: "db1", interrupt: &interrupt }, &mut swept)
        .await
        .map(|()| swept)
}

fn lock(repository: &Repository, state: &StateDirectory, verb: Verb) -> Lock {
    state.lock(repository.id(), &main_instance(), verb, start()).unwrap()
}

const ARCHIVE: Ending = Ending::whole(Form::Custom, Packing::ZSTD);

async fn store_data(writer: &BackupWriter) -> Vec<StoredObject> {
    let mut archive = writer.writer(ARCHIVE, None).await.unwrap();
    archive.write(Bytes::from_static(b"archive")).await.unwrap();
    archive.finish().await.unwrap();
    vec![
        StoredObject::new(writer.stem(), ARCHIVE, Fingerprint::of(b"archive")),
        writer.put(Ending::checksum(Form::Custom, Packing::ZSTD), Bytes::from_static(b"sum")).await.unwrap(),
    ]
}

fn manifest(stem: &DumpStem, database: &str, objects: Vec<StoredObject>) -> DumpManifest {
    let at = stem.started_at().time();
    DumpManifest {
        format: DumpManifest::FORMAT,
        kind: BackupKind::Dump,
        id: stem.into(),
        instance: main_instance(),
        database: database.to_owned(),
        system_identifier: None,
        server: ServerVersion { number: 150_008, text: "15.8".to_owned() },
        source: Source { host: "localhost".to_owned(), port: 5432 },
        backup_host: "db1".to_owned(),
        started_at: at,
        finished_at: at,
        duration_seconds: 0.0,
        client: Client { program: "pg_dump".to_owned(), version: "15.8".to_owned() },
        archive_format: ArchiveFormat::Custom,
        archive_version: Some("1.14".to_owned()),
        compression: Compression::zstd(3),
        encryption: None,
        plain: Fingerprint::of(b"plain"),
        objects,
        globals: Globals { included: GlobalsIncluded::NotIncluded, reason: None },
        checks: Checks { decoded: true, read_back: false },
        filtered: false,
        filter: None,
        label: None,
        keep: None,
        counts: Counts::default(),
        database_size_bytes: None,
        pgkeep_version: "0.1.0".to_owned(),
    }
}

fn key(stem: &DumpStem, ending: Ending) -> Key {
    stem.object(ending).key(&main_instance())
}

fn run_name(lock: &Lock) -> RunName {
    RunName::new(Stamp::of(start()), lock.holder().verb)
}

#[tokio::test]
async fn what_is_committed_is_listed_and_nothing_else_is_left() {
    let house = House::new().await;
    let stem = house.backup("shop").await;
    let catalogue = house.catalogue().await;
    let ids: Vec<_> = catalogue.backups().map(|b| b.id().to_string()).collect();
    assert_eq!(ids, ["shop_20250131T020000Z_db1"]);
    assert_eq!(catalogue.backups().next().unwrap().shortcoming(), None);
    assert_eq!(
        house.keys(),
        [
            "main/dumps/shop_20250131T020000Z_db1.dump.zst",
            "main/dumps/shop_20250131T020000Z_db1.dump.zst.sha256",
            "main/dumps/shop_20250131T020000Z_db1.manifest.json",
            "pgkeep.json",
        ]
    );
    assert!(house.prune(&[]).await.unwrap().objects.is_empty());
    assert_eq!(house.prune(&[&stem]).await.unwrap().freed_bytes, 10);
    assert_eq!(house.keys(), ["pgkeep.json"]);
}

#[tokio::test]
async fn the_same_life_on_a_disk() {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDirectory::open(directory.path().join("state")).unwrap();
    let place = directory.path().join("backups");
    let storage = Arc::new(LocalStorage::open(&place, Missing::CreateLast).await.unwrap());
    let repository = Repository::open_or_create(storage, &state).await.unwrap();
    let held = lock(&repository, &state, Verb::Dump);
    let run = Run::begin(&repository, &state, &held, "db1", run_name(&held), SystemClock.now()).await.unwrap();
    let mut stems = Vec::new();
    for database in ["we ird/..;$(x)\"'", ".pgkeep-unfinished-1", "-rf", "订单\n", &"x".repeat(63)] {
        let writer = BackupWriter::begin(&repository, &held, database, "db_1.example", &SystemClock).await.unwrap();
        let objects = store_data(&writer).await;
        let stem = writer.stem().clone();
        writer.intent().refresh().await.unwrap();
        writer.commit(&manifest(&stem, database, objects)).await.unwrap();
        stems.push((stem, database.to_owned()));
    }
    run.finish(RunOutcome::succeeded(Vec::new()), SystemClock.now()).await.unwrap();
    for instance in [None, Some(&main_instance())] {
        let catalogue = Catalogue::read(&repository, instance).await.unwrap();
        assert_eq!(catalogue.entries.len(), stems.len());
        for (stem, database) in &stems {
            let backup = catalogue.backups().find(|backup| backup.stem == *stem).unwrap();
            assert_eq!((backup.manifest.database.as_str(), backup.shortcoming()), (database.as_str(), None));
        }
    }
    let prune = lock(&repository, &state, Verb::Prune);
    let plan = SweepPlan { remove: stems.into_iter().map(|(stem, _)| (stem, None)).collect() };
    assert_eq!(sweep(&plan, &repository, &state, &prune).await.unwrap().objects.len(), 10);
    assert!(Catalogue::read(&repository, None).await.unwrap().entries.is_empty());
    assert_eq!(std::fs::read_dir(place.join("main/dumps")).unwrap().count(), 0);
}

/// The store fails at its nth call, in each of two ways, for every n until the backup gets through.
#[tokio::test]
async fn a_failure_anywhere_leaves_a_whole_backup_or_none() {
    for effect in [Effect::FailBefore(Fault::Full), Effect::FailBefore(Fault::Unavailable), Effect::FailAfter] {
        for nth in 1.. {
            let house = House::new().await;
            house.faulty.inject(Injection::anywhere(effect).nth(nth));
            let outcome = try_backup(&house).await;
            let fell = house.faulty.calls().iter().any(|call| call.effect.is_some());
            house.faulty.heal();
            let catalogue = house.catalogue().await;
            for entry in &catalogue.entries {
                assert_eq!(entry.backup().unwrap().shortcoming(), None, "{effect:?} {nth}");
            }
            if outcome.is_ok() {
                assert_eq!(catalogue.entries.len(), 1, "{effect:?} {nth}");
            }
            house.prune(&[]).await.unwrap();
            let expected = if catalogue.entries.is_empty() { 1 } else { 4 };
            assert_eq!(house.keys().len(), expected, "{effect:?} {nth}: {:?}", house.keys());
            if !fell {
                assert!(nth > 10 && outcome.is_ok());
                break;
            }
        }
    }
}

/// A manifest that can be seen may be one that a crash takes away: only an answer says that it lasts.
#[tokio::test]
async fn a_manifest_whose_answer_is_lost_counts_once_the_store_confirms_it() {
    for confirmed in [true, false] {
        let house = House::new().await;
        let manifest = |effect| Injection::at(Operation::Create, effect).on("*.manifest.json");
        house.faulty.inject(manifest(Effect::FailAfter).nth(1));
        if !confirmed {
            house.faulty.inject(manifest(Effect::FailBefore(Fault::Unavailable)).nth(2));
        }
        let outcome = try_backup(&house).await;
        assert_eq!(outcome.is_ok(), confirmed, "{outcome:?}");
        house.faulty.heal();
        let catalogue = house.catalogue().await;
        assert_eq!(catalogue.entries[0].backup().unwrap().shortcoming(), None);
    }
}

async fn try_backup(house: &House) -> Result<(), Error> {
    let lock = house.lock(Verb::Dump);
    let writer = BackupWriter::begin(&house.repository, &lock, "shop", "db1", &*house.clock).await?;
    let stem = writer.stem().clone();
    let stored = async {
        let mut archive = writer.writer(ARCHIVE, None).await?;
        archive.write(Bytes::from_static(b"archive")).await?;
        archive.finish().await?;
        let archive = StoredObject::new(&stem, ARCHIVE, Fingerprint::of(b"archive"));
        Ok::<_, Error>(vec![
            archive,
            writer.put(Ending::checksum(Form::Custom, Packing::ZSTD), Bytes::from_static(b"sum")).await?,
        ])
    };
    match stored.await {
        Ok(objects) => writer.commit(&manifest(&stem, "shop", objects)).await,
        Err(error) => {
            let _ = writer.abandon().await;
            Err(error)
        }
    }
}

#[tokio::test]
async fn a_manifest_is_not_written_for_what_the_store_does_not_have() {
    let house = House::new().await;
    let lock = house.lock(Verb::Dump);
    let writer = house.begin(&lock, "shop").await;
    let stem = writer.stem().clone();
    let mut objects = store_data(&writer).await;
    objects[0].size_bytes += 1;
    let error = writer.commit(&manifest(&stem, "shop", objects)).await.unwrap_err();
    assert_eq!(error.kind, Kind::Verification);
    let expected = format!("confirm {}: 8 bytes were sent, the store has 7", key(&stem, ARCHIVE));
    assert_eq!(error.to_string(), expected);
    assert_eq!(house.keys(), ["pgkeep.json"]);
}

#[tokio::test]
async fn a_taken_name_waits_for_the_next_second() {
    let house = House::new().await;
    let lock = house.lock(Verb::Dump);
    let begin = || BackupWriter::begin(&house.repository, &lock, "shop", "db1", &SystemClock);
    let first = begin().await.unwrap();
    let second = begin().await.unwrap();
    assert!(second.stem().started_at() > first.stem().started_at());
    drop(lock);
    // The name of finished work is as taken as that of work in the making.
    let stem = house.backup("shop").await;
    let claimed = BackupWriter::claim(&house.repository, &lock2(&house), stem, "db1", &*house.clock).await.unwrap();
    assert!(claimed.is_none());
}

fn lock2(house: &House) -> Lock {
    lock(&house.repository, &house.elsewhere(), Verb::Dump)
}

#[tokio::test]
async fn an_owner_that_was_away_for_twelve_hours_gives_up() {
    let house = House::new().await;
    let lock = house.lock(Verb::Dump);
    let writer = house.begin(&lock, "shop").await;
    let stem = writer.stem().clone();
    let objects = store_data(&writer).await;
    house.later(TimeDelta::hours(11));
    writer.intent().refresh().await.unwrap();
    house.later(TimeDelta::hours(11));
    writer.intent().still_ours().await.unwrap();
    house.later(TimeDelta::hours(1));
    // It may not make itself young again either.
    let error = writer.intent().refresh().await.unwrap_err();
    assert!(error.to_string().contains("over 12 h ago"), "{error}");
    assert!(writer.commit(&manifest(&stem, "shop", objects)).await.is_err());
    assert_eq!(house.keys(), ["pgkeep.json"]);
}

#[tokio::test]
async fn the_intent_of_another_host_lives_for_a_day_and_of_this_one_while_its_lock_is_held() {
    let house = House::new().await;
    let elsewhere = lock2(&house);
    let foreign = BackupWriter::begin(&house.repository, &elsewhere, "foreign", "db2", &*house.clock).await.unwrap();
    store_data(&foreign).await;
    drop((foreign, elsewhere));
    let here = house.lock(Verb::Dump);
    let local = house.begin(&here, "local").await;
    store_data(&local).await;

    house.later(TimeDelta::hours(23));
    let swept = house.prune(&[]).await.unwrap();
    assert_eq!((swept.objects.len(), swept.in_the_making.len()), (0, 2));
    drop((local, here));
    let swept = house.prune(&[]).await.unwrap();
    assert_eq!((swept.objects.len(), swept.dead_intents.len()), (2, 1));
    house.later(TimeDelta::hours(1));
    let swept = house.prune(&[]).await.unwrap();
    assert_eq!((swept.objects.len(), swept.dead_intents.len()), (2, 1));
    assert_eq!(house.keys(), ["pgkeep.json"]);
}

#[tokio::test]
async fn whatever_cannot_be_read_stops_a_prune() {
    let house = House::new().await;
    let stem = house.backup("shop").await;
    let orphan = Key::new("main/dumps/gone_20250101T000000Z_db1.dump.zst").unwrap();
    let mut contents = house.store.contents();
    contents.insert(orphan.clone(), Bytes::from_static(b"x"));

    let intent = Key::new("main/intents/gone_20250101T000000Z_db1.json").unwrap();
    let unknown = Key::new("main/intents/20250101T000000Z-full-abcdef.json").unwrap();
    let manifest = key(&stem, Ending::Manifest);
    for (damaged, body) in
        [(&intent, "{"), (&unknown, "{}"), (&manifest, "{\"format\":1}"), (&manifest, "{\"format\":2}")]
    {
        let mut contents = contents.clone();
        contents.insert(damaged.clone(), Bytes::from_static(body.as_bytes()));
        house.store.restore(contents);
        let error = house.prune(&[]).await.unwrap_err();
        assert!(error.to_string().contains(damaged.file_name()), "{error}");
        assert!(house.store.contents().contains_key(&orphan), "{damaged}");
    }
    house.store.restore(contents);
    for nth in 1..=5 {
        house.faulty.inject(Injection::at(Operation::List, Effect::FailBefore(Fault::Unavailable)).nth(nth));
        assert_eq!(house.prune(&[]).await.unwrap_err().kind, Kind::Storage);
        house.faulty.heal();
        // The last listing is that of the runs, after the data have gone.
        assert_eq!(house.store.contents().contains_key(&orphan), nth < 5, "listing {nth}");
    }
    house.prune(&[]).await.unwrap();
}

#[tokio::test]
async fn a_list_is_one_listing_and_one_read_for_each_backup() {
    let house = House::new().await;
    for database in ["shop", "keycloak", "wiki"] {
        house.backup(database).await;
    }
    let before = house.faulty.calls().len();
    assert_eq!(house.catalogue().await.entries.len(), 3);
    let mut calls: Vec<Operation> = house.faulty.calls()[before..].iter().map(|call| call.operation).collect();
    calls.sort_by_key(|operation| format!("{operation:?}"));
    assert_eq!(calls, [Operation::List, Operation::Read, Operation::Read, Operation::Read]);
}

#[tokio::test]
async fn runs_go_after_400_days() {
    let house = House::new().await;
    for _ in 0..2 {
        let lock = house.lock(Verb::Dump);
        let now = house.clock.now();
        let name = RunName::new(Stamp::of(now), Verb::Dump);
        let run = Run::begin(&house.repository, &house.state, &lock, "db1", name, now).await.unwrap();
        run.finish(RunOutcome::succeeded(Vec::new()), now).await.unwrap();
        house.later(TimeDelta::days(200));
    }
    assert_eq!(house.prune(&[]).await.unwrap().old_runs, 0);
    house.later(TimeDelta::seconds(1));
    assert_eq!(house.prune(&[]).await.unwrap().old_runs, 1);
    assert_eq!(house.keys().len(), 2);
}

#[tokio::test]
async fn names_of_others_survive_every_prune() {
    let house = House::new().await;
    let foreign = ["main/dumps/notes.txt", "main/dumps/x.dump.zst", "main/proofs/x/y.json", "main/x", "x.dump.zst"];
    let mut contents = house.store.contents();
    contents.extend(foreign.map(|name| (Key::new(name).unwrap(), Bytes::new())));
    house.store.restore(contents.clone());
    house.prune(&[]).await.unwrap();
    assert_eq!(house.store.contents(), contents);
}

#[tokio::test]
async fn damage_is_shown_and_never_left_out() {
    let house = House::new().await;
    let stem = house.backup("shop").await;
    let (manifest, archive) = (key(&stem, Ending::Manifest), key(&stem, ARCHIVE));
    let whole = house.store.contents();

    let mut contents = whole.clone();
    contents.remove(&archive);
    house.store.restore(contents);
    let missing = Defect::Missing { name: archive.file_name().to_owned() };
    assert_eq!(house.catalogue().await.backups().next().unwrap().defects, [missing]);

    let mut contents = whole.clone();
    contents.insert(archive, Bytes::from_static(b"arch"));
    house.store.restore(contents);
    let shortcoming = house.catalogue().await.backups().next().unwrap().shortcoming().unwrap();
    assert_eq!(shortcoming, format!("{stem}.dump.zst has 4 bytes in place of 7"));

    let text = whole[&manifest].clone();
    for at in 0..text.len() {
        let mut contents = whole.clone();
        contents.insert(manifest.clone(), text.slice(..at));
        house.store.restore(contents);
        let catalogue = house.catalogue().await;
        match &catalogue.entries[..] {
            [Entry::Unreadable(u)] => assert_eq!(u.error.kind, Kind::Verification),
            other => panic!("cut at {at}: {other:?}"),
        }
    }

    house.store.restore(whole);
    house.faulty.inject(Injection::at(Operation::Read, Effect::FailBefore(Fault::Unavailable)));
    let catalogue = house.catalogue().await;
    assert!(matches!(&catalogue.entries[..], [Entry::Unreadable(u)] if u.error.kind == Kind::Storage));
    house.faulty.inject(Injection::at(Operation::List, Effect::FailBefore(Fault::Unavailable)));
    assert_eq!(Catalogue::read(&house.repository, None).await.unwrap_err().kind, Kind::Storage);
}

async fn statuses(house: &House, state: &StateDirectory) -> Vec<RunStatus> {
    let runs = runs(&house.repository, state, None).await.unwrap();
    runs.into_iter().map(|run| run.record.unwrap().status).collect()
}

#[tokio::test]
async fn a_killed_run_reads_interrupted() {
    let house = House::new().await;
    let elsewhere = house.elsewhere();
    let lock = house.lock(Verb::Dump);
    let run = Run::begin(&house.repository, &house.state, &lock, "db1", run_name(&lock), start()).await.unwrap();
    let writer = house.begin(&lock, "shop").await;
    assert_eq!(statuses(&house, &house.state).await, [RunStatus::Running]);
    assert_eq!(statuses(&house, &elsewhere).await, [RunStatus::Running]);
    drop((run, writer, lock));
    assert_eq!(statuses(&house, &house.state).await, [RunStatus::Interrupted]);
    // The other host learns it when the intent is a day old; this one also while the next run holds the lock.
    assert_eq!(statuses(&house, &elsewhere).await, [RunStatus::Running]);
    let _next = house.lock(Verb::Dump);
    assert_eq!(statuses(&house, &house.state).await, [RunStatus::Interrupted]);
    house.later(TimeDelta::hours(24));
    assert_eq!(statuses(&house, &elsewhere).await, [RunStatus::Interrupted]);
}

#[tokio::test]
async fn a_run_says_how_it_ended() {
    let house = House::new().await;
    let lock = house.lock(Verb::Dump);
    let run = Run::begin(&house.repository, &house.state, &lock, "db1", run_name(&lock), start()).await.unwrap();
    let error = Error::new(Kind::Connect, "connect to db1").because("connection refused").hint("start it");
    let place = run.finish(RunOutcome::failed("connect", &error, Vec::new()), start()).await.unwrap();
    assert!(matches!(place, RecordPlace::Repository));
    let seen = runs(&house.repository, &house.state, Some(&main_instance())).await.unwrap();
    let record = seen[0].record.as_ref().unwrap();
    assert_eq!(
        (record.status, record.exit_code, record.stage.as_deref()),
        (RunStatus::Failed, Some(3), Some("connect"))
    );
    assert_eq!(record.error.as_deref(), Some("connect to db1: connection refused"));
    assert_eq!(record.hint.as_deref(), Some("start it"));
}

#[tokio::test]
async fn a_repository_that_refuses_a_record_stops_a_dump_and_not_a_restore() {
    let house = House::new().await;
    house.faulty.inject(Injection::at(Operation::Create, Effect::FailBefore(Fault::Denied)).from_nth(1));
    house.faulty.inject(Injection::at(Operation::Replace, Effect::FailBefore(Fault::Denied)).from_nth(1));
    let lock = house.lock(Verb::Dump);
    assert!(Run::begin(&house.repository, &house.state, &lock, "db1", run_name(&lock), start()).await.is_err());

    let lock = house.lock(Verb::Restore);
    let run = Run::begin(&house.repository, &house.state, &lock, "db1", run_name(&lock), start()).await.unwrap();
    assert!(matches!(run.place(), RecordPlace::StateDirectory { .. }));
    assert_eq!(statuses(&house, &house.state).await, [RunStatus::Running]);
    run.finish(RunOutcome::succeeded(Vec::new()), start()).await.unwrap();
    assert_eq!(statuses(&house, &house.state).await, [RunStatus::Succeeded]);
    assert_eq!(statuses(&house, &house.elsewhere()).await, []);
}

#[tokio::test]
async fn the_end_of_a_dump_is_kept_when_its_repository_is_gone_by_then() {
    let house = House::new().await;
    let lock = house.lock(Verb::Dump);
    let run = Run::begin(&house.repository, &house.state, &lock, "db1", run_name(&lock), start()).await.unwrap();
    house.faulty.inject(Injection::at(Operation::Replace, Effect::FailBefore(Fault::Unavailable)));
    let place = run.finish(RunOutcome::succeeded(Vec::new()), start()).await.unwrap();
    assert!(matches!(place, RecordPlace::StateDirectory { .. }));
    assert_eq!(statuses(&house, &house.state).await, [RunStatus::Succeeded]);
}
