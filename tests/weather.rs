//! Bad weather: one request in five meets a fault while dumps, lists, restores, verifications and copies go on.
//!
//! What may fail says so. What says that it succeeded has: afterwards every backup that anybody was told of is there and
//! whole, every file that was restored is the archive that was dumped, and the next dump leaves nothing lying about.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use common::proxy::{Dialect, Fault, Kind};
use common::{Bucket, Cluster, PgVersion, Proxy, Weed, Workspace, count};
use pgkeep::clock::SystemClock;
use pgkeep::command::databases::Databases;
use pgkeep::command::{Context, Place, Status, copy, dump, report, restore, verify};
use pgkeep::config::environment::Environment;
use pgkeep::digest::Fingerprint;
use pgkeep::error::Error;
use pgkeep::interrupt::Interrupt;
use pgkeep::pg::conninfo::ConnectionFlags;
use pgkeep::pg::tools::Search;
use pgkeep::progress::Silent;
use pgkeep::repo::{BackupId, NewLineage, StateDirectory, StoredName, Which};
use pgkeep::storage::{Key, Patience};

const THREADS: NonZeroUsize = NonZeroUsize::MIN;

/// Faults are many and the store is near: ask again soon, and do not wait long for what does not come.
const SHORT: Patience = Patience {
    opening: Duration::from_secs(20),
    connect: Duration::from_secs(5),
    answer: Duration::from_secs(3),
    slowest_bytes_per_second: 1 << 20,
    stall: Duration::from_secs(3),
    attempts: 5,
    pause: Duration::from_millis(5),
    longest_pause: Duration::from_millis(50),
};

struct World {
    cluster: Cluster,
    workspace: Workspace,
    dialect: Dialect,
    proxy: Proxy,
    near: Bucket,
    far: Bucket,
    context: Context,
    /// The ids that somebody was told are stored, by repository.
    told: BTreeMap<String, BTreeSet<BackupId>>,
    restored: BTreeMap<BackupId, Fingerprint>,
    failures: Vec<Error>,
}

impl World {
    fn new(dialect: Dialect) -> Self {
        let cluster = Cluster::plain(PgVersion::V15);
        cluster.create_database("shop");
        // Some parts of a multipart upload, of what does not compress.
        cluster.sql(
            "shop",
            "CREATE EXTENSION pgcrypto;
             CREATE TABLE noise AS SELECT n, gen_random_bytes(1000) FROM generate_series(1, 9000) n",
        );
        let (weed, workspace) = (Weed::shared(), Workspace::new());
        let connection = [
            ("PGHOST", cluster.socket_dir().display().to_string()),
            ("PGPORT", cluster.port().to_string()),
            ("PGUSER", "postgres".to_owned()),
            ("HOME", workspace.path("home").display().to_string()),
            ("TMPDIR", workspace.path("tmp").display().to_string()),
        ];
        let context = Context {
            clock: Arc::new(SystemClock),
            monitor: Arc::new(Silent),
            interrupt: Interrupt::default(),
            environment: Environment::from_pairs(connection.into_iter().chain(weed.credentials())),
            state: StateDirectory::open(workspace.state()).unwrap(),
            host: "here".to_owned(),
            patience: SHORT,
        };
        Self {
            dialect,
            proxy: Proxy::before(weed).dialect(dialect).start(),
            near: weed.bucket("near"),
            far: weed.bucket("far"),
            cluster,
            workspace,
            context,
            told: BTreeMap::new(),
            restored: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    fn near(&self) -> Place {
        Place::at(&self.proxy.address(&self.near)).unwrap()
    }

    fn far(&self) -> Place {
        Place::at(&self.proxy.address(&self.far)).unwrap()
    }

    async fn dump(&mut self, repositories: Vec<Place>) -> bool {
        let options = dump::Options {
            instance: "main".parse().unwrap(),
            repositories,
            connection: ConnectionFlags::default(),
            connect_retry: Duration::ZERO,
            databases: Databases::Named(vec!["shop".to_owned()]),
            clients: Search { bin_dir: Some(self.cluster.bin_dir()), ..Search::default() },
            format: pgkeep::repo::ArchiveFormat::Custom,
            jobs: None,
            compress: dump::Compress::Zstd { level: 1 },
            threads: THREADS,
            split: None,
            filter: dump::Filter::default(),
            pin: dump::Pin::default(),
            check: None,
            globals: dump::WantedGlobals::Include,
            lock_wait: dump::LockWait { limit: Duration::from_secs(60), retries: 0 },
            lineage: NewLineage::Refused,
            replay: dump::Replay::Pause,
        };
        let plan = dump::plan(&self.context, &options).await.unwrap();
        match dump::execute(&self.context, &options, plan).await {
            Err(error) => {
                self.failures.push(error);
                false
            }
            Ok(outcome) => {
                for item in &outcome.items {
                    for copy in item.repositories.iter().filter(|copy| copy.status == Status::Ok) {
                        self.told.entry(copy.name.clone()).or_default().insert(item.id.clone().unwrap());
                    }
                }
                let whole = outcome.error.is_none();
                self.failures.extend(outcome.error);
                whole
            }
        }
    }

    async fn copy(&mut self) {
        let options = copy::Options {
            repositories: vec![self.near()],
            to: self.far(),
            instance: None,
            database: None,
            wanted: copy::Wanted::Missing,
        };
        let done = async {
            let plan = copy::plan(&self.context, &options).await?;
            copy::execute(&self.context, &options, plan).await
        };
        match done.await {
            Ok(outcome) => {
                for item in outcome.items.iter().filter(|item| item.error.is_none()) {
                    self.told.entry(self.far().name).or_default().insert(item.id.clone());
                }
                self.failures.extend(outcome.error);
            }
            Err(error) => self.failures.push(error),
        }
    }

    async fn list(&mut self) {
        let options = report::Options {
            repositories: vec![self.near(), self.far()],
            instance: None,
            database: None,
            expected: Default::default(),
        };
        match report::list(&self.context, &options).await {
            Ok(outcome) => self.failures.extend(outcome.error),
            Err(error) => self.failures.push(error),
        }
    }

    async fn restore(&mut self, round: usize) {
        let source = restore::dump::Source {
            repositories: vec![self.near(), self.far()],
            instance: None,
            which: Which::Latest,
            database: Some("shop".to_owned()),
            threads: THREADS,
        };
        let path = self.workspace.path(&format!("restored-{round}"));
        let done = async {
            let selected = restore::dump::select(&self.context, &source).await?;
            restore::dump::to_file(&self.context, &source, &selected, &path).await
        };
        match done.await {
            Ok(outcome) if outcome.error.is_none() => {
                let seen = Fingerprint::of(&std::fs::read(&path).unwrap());
                let id = outcome.items[0].id.clone().unwrap();
                let before = self.restored.insert(id.clone(), seen);
                assert!(before.is_none_or(|before| before == seen), "{id} was restored as two archives");
            }
            Ok(outcome) => self.failures.extend(outcome.error),
            Err(error) => self.failures.push(error),
        }
        // A file that has its name is whole; one that failed is not there.
        let _ = std::fs::remove_file(&path);
    }

    async fn verify(&mut self, repositories: Vec<Place>, wanted: verify::Wanted) -> Vec<verify::Item> {
        let depth = verify::Depth::Decoded;
        let options = verify::Options { repositories, instance: None, database: None, wanted, depth, threads: THREADS };
        match verify::run(&self.context, &options).await {
            Ok(outcome) => {
                self.failures.extend(outcome.error);
                outcome.items
            }
            Err(error) => {
                self.failures.push(error);
                Vec::new()
            }
        }
    }

    /// Uploads that began and whose id was lost on its way back. Where the store lists uploads they are found; OSS does
    /// not, so nobody but a lifecycle rule of the bucket can end them.
    fn unknown_uploads(&self) -> BTreeSet<String> {
        if self.dialect == Dialect::Plain {
            return BTreeSet::new();
        }
        let lost = [Fault::LostAnswer, Fault::CutResponse, Fault::Stall, Fault::StallInResponse];
        let seen = self.proxy.seen().into_iter().filter(|seen| seen.kind == Kind::Initiate);
        seen.filter(|seen| seen.fault.is_some_and(|fault| lost.contains(&fault))).map(|seen| seen.key).collect()
    }

    /// After the storm: what everybody was told is true, and nothing lies about.
    async fn judge(&mut self) {
        self.proxy.heal();
        self.failures.clear();
        let places = vec![self.near(), self.far()];
        assert!(self.dump(places.clone()).await, "the first dump after the storm: {:#?}", self.failures);
        // What a copy left it keeps for the next one, which goes on from there and removes the rest.
        self.copy().await;
        let items = self.verify(places, verify::Wanted::All).await;
        assert!(self.failures.is_empty(), "{:#?}", self.failures);
        for (place, bucket) in [(self.near(), &self.near), (self.far(), &self.far)] {
            let held = |item: &&verify::Item| item.repositories.iter().any(|copy| copy.copy.name == place.name);
            let there: BTreeSet<BackupId> = items.iter().filter(held).map(|item| item.id.clone()).collect();
            let told = self.told.remove(&place.name).unwrap_or_default();
            assert!(told.is_subset(&there), "told and not there in {}: {:?}", place.name, told.difference(&there));
            is_tidy(bucket, &there, &self.unknown_uploads());
        }
        for (id, restored) in &self.restored {
            let key = format!("backups/main/dumps/{id}.manifest.json");
            let manifest = self.near.get(&key).or_else(|| self.far.get(&key)).unwrap();
            let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
            assert_eq!(manifest["plain"]["sha256"], restored.sha256.to_string(), "{id}");
        }
    }
}

/// Every object belongs to a backup that is there, or is a record; nothing is in the making.
#[track_caller]
fn is_tidy(bucket: &Bucket, there: &BTreeSet<BackupId>, unknown_uploads: &BTreeSet<String>) {
    let known = bucket.uploads().into_iter().filter(|upload| !unknown_uploads.contains(&upload.key));
    assert_eq!(known.collect::<Vec<_>>(), []);
    for key in bucket.keys() {
        let name = StoredName::parse(&Key::new(key.strip_prefix("backups/").unwrap()).unwrap());
        match name.unwrap_or_else(|| panic!("{key} is no name of ours")) {
            StoredName::Dump { name, .. } => {
                let (stem, keys) = (name.stem.to_string(), bucket.keys());
                let like: Vec<_> = keys.iter().filter(|key| key.contains(&stem)).collect();
                assert!(there.contains(&BackupId::from(&name.stem)), "{key} belongs to no backup: {like:#?}");
            }
            StoredName::Intent { .. } => panic!("{key} is left over"),
            StoredName::Probe(_) => panic!("{key} is left over"),
            StoredName::Marker | StoredName::Lineage { .. } | StoredName::Proof { .. } | StoredName::Run { .. } => {}
        }
    }
    let manifests = bucket.keys().into_iter().filter(|key| key.ends_with(".manifest.json")).count();
    assert_eq!(manifests, there.len());
}

async fn storm(dialect: Dialect, seed: u64, requests: usize) {
    let mut world = World::new(dialect);
    assert!(world.dump(vec![world.near(), world.far()]).await, "before the storm: {:#?}", world.failures);
    world.proxy.random_among(seed, 5, &Fault::ALL);
    let before = world.proxy.counts();
    let mut round = 0;
    while world.proxy.counts().total() - before.total() < requests {
        round += 1;
        let places = if round % 3 == 0 { vec![world.near(), world.far()] } else { vec![world.near()] };
        world.dump(places).await;
        world.list().await;
        if round % 2 == 0 {
            world.copy().await;
        }
        world.restore(round).await;
        world.verify(vec![world.near(), world.far()], verify::Wanted::LatestOfEach).await;
    }
    let counts = world.proxy.counts();
    let (asked, faulted) = (counts.total() - before.total(), counts.faulted());
    println!(
        "seed {seed}: {asked} requests in {round} rounds, {faulted} met a fault, {} said that they failed",
        world.failures.len()
    );
    assert!(faulted * 8 > asked, "{faulted} of {asked} requests met a fault");
    world.judge().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_over_s3() {
    storm(Dialect::Plain, 20_261_120, count(250, 2000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_over_oss() {
    storm(Dialect::Oss, 4711, count(250, 2000)).await;
}
