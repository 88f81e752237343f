//! The layout of the env file: what the storage contract promises holds through it, a repository lives in it, and what
//! others have in the same place is neither seen nor touched.

#[path = "storage/contract.rs"]
#[allow(dead_code)]
mod contract;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use pgkeep::clock::{Clock as _, SystemClock};
use pgkeep::error::Kind;
use pgkeep::interrupt::Interrupt;
use pgkeep::repo::{
    BackupWriter, Ending, FlatLayout, FlatStorage, Form, Packing, Repository, StateDirectory, StoredName, Sweep,
    SweepPlan, Swept, Verb, remove_leftovers,
};
use pgkeep::storage::{
    CreateOnly, Fault, Key, LocalStorage, MemoryStorage, Missing, ObjectMeta, ObjectReader, ObjectWriter, Prefix,
    Result, Storage,
};

/// Any short key as the name of a dump, so that the suite for stores can speak to a layout that knows no other names.
#[derive(Clone, Debug)]
struct Spelled(FlatStorage);

const START: &str = "_20250131T020304Z_db1.dump";

fn spell(key: &Key) -> Key {
    let hex: String = key.as_str().bytes().map(|byte| format!("{byte:02x}")).collect();
    Key::new(format!("main/dumps/{hex}{START}")).unwrap()
}

fn read(spelled: &Key) -> Key {
    let hex = spelled.file_name().strip_suffix(START).unwrap();
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    Key::new(String::from_utf8((0..hex.len()).step_by(2).map(byte).collect()).unwrap()).unwrap()
}

fn read_meta(meta: ObjectMeta) -> ObjectMeta {
    ObjectMeta { key: read(&meta.key), ..meta }
}

/// Errors name the object as it lies there, and the suite looks for the name that it gave.
fn reworded<T>(key: &Key, answer: Result<T>) -> Result<T> {
    answer.map_err(|mut error| {
        assert!(error.action.contains(spell(key).file_name()), "{error}");
        error.action = format!("{} ({key})", error.action);
        error
    })
}

#[async_trait]
impl Storage for Spelled {
    fn address(&self) -> &str {
        self.0.address()
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        reworded(key, self.0.create(&spell(key), body).await)
    }

    async fn replace(&self, key: &Key, body: Bytes) -> Result<()> {
        reworded(key, self.0.replace(&spell(key), body).await)
    }

    async fn prove_create_only(&self) -> Result<CreateOnly> {
        self.0.prove_create_only().await
    }

    async fn writer(&self, key: &Key, expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(SpelledWriter(self.0.writer(&spell(key), expected_bytes).await?)))
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Box<dyn ObjectReader>> {
        reworded(key, self.0.read(&spell(key), range).await)
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        reworded(key, self.0.head(&spell(key)).await).map(read_meta)
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<ObjectMeta>> {
        let listed = self.0.list(&Prefix::folder("main/dumps").unwrap()).await?;
        assert!(listed.is_sorted_by_key(|meta| meta.key.clone()));
        let read: BTreeMap<Key, ObjectMeta> = listed.into_iter().map(read_meta).map(|m| (m.key.clone(), m)).collect();
        Ok(read.into_values().filter(|meta| prefix.contains(&meta.key)).collect())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        reworded(key, self.0.delete(&spell(key)).await)
    }

    async fn delete_all(&self, keys: &[Key]) -> Result<()> {
        self.0.delete_all(&keys.iter().map(spell).collect::<Vec<_>>()).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.0.now().await
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.0.free_bytes().await
    }

    async fn sweep_unfinished(&self, _prefix: &Prefix) -> Result<usize> {
        self.0.sweep_unfinished(&Prefix::root()).await
    }
}

struct SpelledWriter(Box<dyn ObjectWriter>);

#[async_trait]
impl ObjectWriter for SpelledWriter {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.0.write(chunk).await
    }

    async fn finish(self: Box<Self>) -> Result<ObjectMeta> {
        self.0.finish().await.map(read_meta)
    }

    async fn abort(self: Box<Self>) {
        self.0.abort().await;
    }
}

macro_rules! both_layouts_keep {
    ($($promise:ident)*) => {
        mod in_a_directory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let folder = tempfile::tempdir().unwrap();
                let storage = super::LocalStorage::open(folder.path().join("base"), super::Missing::CreateLast);
                let inner = super::Arc::new(storage.await.unwrap());
                let flat = super::FlatStorage::over(inner, super::FlatLayout::Directory);
                super::contract::$promise(super::Arc::new(super::Spelled(flat))).await;
            })*
        }
        mod under_a_prefix {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                let inner = super::Arc::new(super::MemoryStorage::new());
                let flat = super::FlatStorage::over(inner, super::FlatLayout::Prefix);
                super::contract::$promise(super::Arc::new(super::Spelled(flat))).await;
            })*
        }
    };
}

// Not the names that are longer than a database's may be.
both_layouts_keep! {
    what_is_created_is_read_back_and_never_overwritten
    of_racing_creators_exactly_one_wins
    of_racing_writers_exactly_one_wins
    a_replaced_object_is_old_or_new_and_never_a_mix
    replace_makes_what_is_missing
    a_writer_stores_only_when_it_finishes
    a_finished_writer_does_not_overwrite
    a_dropped_write_breaks_its_writer_or_is_kept
    ranges_lie_in_the_object_or_are_errors
    an_empty_object_is_an_object
    a_big_object_comes_back_byte_for_byte
    an_open_reader_survives_a_delete_or_fails
    a_listing_is_sorted_and_covers_whole_components
    a_listing_of_more_than_a_thousand_is_complete
    what_is_missing_is_said_to_be_missing
    get_refuses_what_is_too_large
    the_clock_of_the_store_dates_its_objects
    free_space_is_plausible_or_unknown
    a_sweep_leaves_live_writers_alone
}

/// What a place may hold when we come: reports, logs, what the script stored, somebody's notes.
const FOREIGN: [&str; 6] = [
    "reports/shop_20250131T020304Z_db1.json",
    "backup_20250131.log",
    "data/notes.txt",
    "data/old/shop_20240131T020304Z_db1.dump",
    "main/dumps/shop_20230131T020304Z_db1.dump",
    "somewhere/else.txt",
];

async fn strangers(inner: &dyn Storage) -> BTreeMap<String, Bytes> {
    let mut found = BTreeMap::new();
    for name in FOREIGN {
        found.insert(name.to_owned(), inner.get(&Key::new(name).unwrap(), 100).await.unwrap());
    }
    found
}

async fn stores() -> (tempfile::TempDir, Vec<(Arc<dyn Storage>, FlatLayout)>) {
    let folder = tempfile::tempdir().unwrap();
    let local = LocalStorage::open(folder.path().join("base"), Missing::CreateLast).await.unwrap();
    let memory: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    (folder, vec![(Arc::new(local), FlatLayout::Directory), (memory, FlatLayout::Prefix)])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repository_lives_among_others_and_leaves_them_alone() {
    let (folder, stores) = stores().await;
    for (inner, layout) in stores {
        for name in FOREIGN {
            inner.create(&Key::new(name).unwrap(), name.into()).await.unwrap();
        }
        let before = strangers(&*inner).await;
        let flat = Arc::new(FlatStorage::over(inner.clone(), layout));
        assert_eq!(flat.list(&Prefix::root()).await.unwrap(), []);

        let state = StateDirectory::open(folder.path().join(format!("state-{layout:?}"))).unwrap();
        let repository = Repository::open_or_create(flat.clone(), &state).await.unwrap();
        let instance = FlatLayout::instance();
        let lock = state.lock(repository.id(), &instance, Verb::Dump, SystemClock.now()).unwrap();
        let backup = BackupWriter::begin(&repository, &lock, "shop", "db1", &SystemClock).await.unwrap();
        let mut archive = backup.writer(Ending::archive(Packing::PLAIN), None).await.unwrap();
        archive.write("archive".into()).await.unwrap();
        let meta = archive.finish().await.unwrap();
        assert_eq!(meta.key, backup.key(Ending::archive(Packing::PLAIN)), "as the caller calls it");
        backup.put(Ending::checksum(Form::Custom, Packing::PLAIN), "sum".into()).await.unwrap();

        let stem = backup.stem().clone();
        let dumps = if layout == FlatLayout::Directory { "data/" } else { "" };
        let real = [
            "pgkeep.json".to_owned(),
            format!("intents/{stem}.json"),
            format!("{dumps}{stem}.dump"),
            format!("{dumps}{stem}.dump.sha256"),
        ];
        for name in &real {
            inner.head(&Key::new(name.as_str()).unwrap()).await.unwrap();
        }
        let everything = inner.list(&Prefix::root()).await.unwrap();
        assert_eq!(everything.len(), real.len() + FOREIGN.len());
        let listed = flat.list(&Prefix::root()).await.unwrap();
        assert_eq!(listed.len(), real.len());
        assert!(listed.is_sorted_by_key(|meta| meta.key.clone()));
        assert!(listed.iter().all(|meta| StoredName::parse(&meta.key).is_some()));

        // The next run of a host whose run died.
        drop((backup, lock));
        let lock = state.lock(repository.id(), &instance, Verb::Dump, SystemClock.now()).unwrap();
        assert_eq!(remove_leftovers(&repository, &lock, "db1").await.unwrap().len(), 1);
        assert_eq!(flat.list(&Prefix::root()).await.unwrap().len(), 1);
        assert_eq!(strangers(&*inner).await, before);
    }
}

/// Whoever comes from the script has its dumps in the place; they are no sign of a repository that lost its marker.
#[tokio::test]
async fn dumps_of_the_script_do_not_keep_a_repository_from_being_made() {
    let (folder, stores) = stores().await;
    for (inner, layout) in stores {
        let flat = Arc::new(FlatStorage::over(inner, layout));
        let script = ["shop_20250131T020304Z_db1.dump", "shop_20250131T020304Z_db1.dump.sha256"];
        for name in script.into_iter().chain(["shop_20250131T020304Z_db1_globals.sql"]) {
            flat.create(&Key::new(format!("main/dumps/{name}")).unwrap(), "x".into()).await.unwrap();
        }
        let state = StateDirectory::open(folder.path().join(format!("state-{layout:?}"))).unwrap();
        Repository::open_or_create(flat.clone(), &state).await.unwrap();
        assert_eq!(flat.list(&Prefix::root()).await.unwrap().len(), 4);

        // One that pgkeep stored is.
        flat.delete(&StoredName::Marker.key()).await.unwrap();
        let details = Key::new("main/dumps/shop_20250131T020304Z_db1.details.json.zst").unwrap();
        flat.create(&details, "x".into()).await.unwrap();
        let elsewhere = StateDirectory::open(folder.path().join(format!("elsewhere-{layout:?}"))).unwrap();
        let error = Repository::open_or_create(flat, &elsewhere).await.unwrap_err();
        assert_eq!(error.kind, Kind::Refused);
    }
}

/// What no manifest names is garbage elsewhere; here it may be all that a team has.
#[tokio::test]
async fn a_prune_spares_the_dumps_of_the_script() {
    let (folder, stores) = stores().await;
    for (inner, layout) in stores {
        let flat = Arc::new(FlatStorage::over(inner, layout));
        let script = ["shop_20250131T020304Z_db1.dump", "shop_20250131T020304Z_db1.dump.sha256"];
        let killed = ["shop_20250201T020304Z_db1.dump", "shop_20250201T020304Z_db1.details.json.zst"];
        let dump = |name: &str| Key::new(format!("main/dumps/{name}")).unwrap();
        let state = StateDirectory::open(folder.path().join(format!("state-{layout:?}"))).unwrap();
        let repository = Repository::open_or_create(flat.clone(), &state).await.unwrap().beside_script();
        for name in script.into_iter().chain(killed) {
            flat.create(&dump(name), "x".into()).await.unwrap();
        }
        let lock = state.lock(repository.id(), &FlatLayout::instance(), Verb::Prune, SystemClock.now()).unwrap();
        let (mut swept, interrupt) = (Swept::default(), Interrupt::default());
        let sweep = Sweep { repository: &repository, state: &state, lock: &lock, host: "db1", interrupt: &interrupt };
        SweepPlan::default().execute(sweep, &mut swept).await.unwrap();
        let mut gone: Vec<String> = swept.objects.iter().map(|key| key.file_name().to_owned()).collect();
        gone.sort_unstable();
        assert_eq!(gone, ["shop_20250201T020304Z_db1.details.json.zst", "shop_20250201T020304Z_db1.dump"]);
        for name in script {
            flat.head(&dump(name)).await.unwrap();
        }
    }
}

#[tokio::test]
async fn what_has_no_place_is_not_there_and_cannot_be_made() {
    let inner: Arc<dyn Storage> = Arc::new(MemoryStorage::new());
    let foreign = Key::new("reports/x.json").unwrap();
    inner.create(&foreign, "theirs".into()).await.unwrap();
    let flat = FlatStorage::over(inner.clone(), FlatLayout::Prefix);
    for key in ["reports/x.json", "other/dumps/shop_20250131T020304Z_db1.dump", "main/reports/x.json"] {
        let key = Key::new(key).unwrap();
        assert_eq!(flat.head(&key).await.unwrap_err().fault, Fault::NotFound);
        assert_eq!(flat.get(&key, 10).await.unwrap_err().fault, Fault::NotFound);
        assert_eq!(flat.read(&key, None).await.err().unwrap().fault, Fault::NotFound);
        for refused in [flat.create(&key, "x".into()).await, flat.replace(&key, "x".into()).await] {
            let error = refused.unwrap_err();
            assert_eq!(error.fault, Fault::Other);
            assert!(error.to_string().ends_with("the layout of the env file has no place for it"), "{error}");
        }
        assert_eq!(flat.writer(&key, None).await.err().unwrap().fault, Fault::Other);
        flat.delete(&key).await.unwrap();
        flat.delete_all(&[key]).await.unwrap();
    }
    assert_eq!(inner.get(&foreign, 10).await.unwrap(), "theirs");
}

/// The platform reads the base directory; nobody but the owner reads what lies in it.
#[tokio::test]
async fn the_base_directory_stays_as_it_is_and_what_we_make_in_it_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let base = folder.path().join("base");
    fs::create_dir(&base).unwrap();
    fs::set_permissions(&base, fs::Permissions::from_mode(0o755)).unwrap();
    let local = Arc::new(LocalStorage::open(&base, Missing::Refuse).await.unwrap());
    let flat = FlatStorage::over(local, FlatLayout::Directory);
    let dump = Key::new("main/dumps/shop_20250131T020304Z_db1.dump").unwrap();
    flat.create(&dump, "x".into()).await.unwrap();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(&base), 0o755);
    assert_eq!(mode(&base.join("data")), 0o700);
    assert_eq!(mode(&base.join("data/shop_20250131T020304Z_db1.dump")), 0o600);
}
