//! A slow store is waited for and a dead one is given up, in the middle of a dump. Here with little patience, so that the
//! difference shows soon.

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgkeep::clock::SystemClock;
use pgkeep::command::databases::Databases;
use pgkeep::command::{self, Context, Outcome, Status, dump};
use pgkeep::config::environment::Environment;
use pgkeep::error::Kind as ErrorKind;
use pgkeep::interrupt::Interrupt;
use pgkeep::pg::conninfo::ConnectionFlags;
use pgkeep::pg::tools::Search;
use pgkeep::progress::Silent;
use pgkeep::repo::{NewLineage, StateDirectory};
use pgkeep::storage::Patience;

use crate::common::Weed;
use crate::common::proxy::{Fault, Kind, On};
use crate::world::{Place, World, cluster};

fn context(world: &World, patience: Patience) -> Context {
    let connection = [
        ("PGHOST", cluster().socket_dir().display().to_string()),
        ("PGPORT", cluster().port().to_string()),
        ("PGUSER", "postgres".to_owned()),
        ("HOME", world.workspace.path("home").display().to_string()),
        ("TMPDIR", world.workspace.path("tmp").display().to_string()),
    ];
    Context {
        clock: Arc::new(SystemClock),
        monitor: Arc::new(Silent),
        interrupt: Interrupt::default(),
        environment: Environment::from_pairs(connection.into_iter().chain(Weed::shared().credentials())),
        state: StateDirectory::open(world.workspace.state()).unwrap(),
        host: "here".to_owned(),
        patience,
    }
}

async fn dump(context: &Context, world: &World, places: &[&Place]) -> Outcome<dump::Item> {
    let options = dump::Options {
        instance: "main".parse().unwrap(),
        repositories: places.iter().map(|place| command::Place::at(&place.address()).unwrap()).collect(),
        connection: ConnectionFlags::default(),
        connect_retry: Duration::ZERO,
        databases: Databases::Named(vec![world.database.clone()]),
        clients: Search { bin_dir: Some(cluster().bin_dir()), ..Search::default() },
        format: pgkeep::repo::ArchiveFormat::Custom,
        jobs: None,
        compress: dump::Compress::Zstd { level: 1 },
        threads: NonZeroUsize::MIN,
        split: None,
        filter: dump::Filter::default(),
        pin: dump::Pin::default(),
        check: Some(dump::Check::Decode),
        globals: dump::WantedGlobals::LeaveOut,
        lock_wait: dump::LockWait { limit: Duration::from_secs(60), retries: 0 },
        lineage: NewLineage::Refused,
        replay: dump::Replay::Pause,
    };
    let plan = dump::plan(context, &options).await.unwrap();
    dump::execute(context, &options, plan).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_slow_and_healthy() {
    let (world, place) = (World::large(), Place::s3());
    // Three parts at a time share the line: none arrives within the patience for an answer, and all do within what their
    // bytes take on the slowest healthy line.
    let answer = Duration::from_secs(2);
    let patience = Patience { answer, stall: answer, slowest_bytes_per_second: 256 << 10, ..Patience::default() };
    let context = context(&world, patience);
    place.proxy().slow(3 << 20);
    let began = Instant::now();
    let outcome = dump(&context, &world, &[&place]).await;
    assert!(outcome.error.is_none(), "{:?}", outcome.error);
    assert!(began.elapsed() > 2 * answer, "the line was not slow");
    let seen = place.proxy().seen();
    let parts: Vec<_> = seen.iter().filter(|seen| seen.kind == Kind::Part && seen.key.contains("/dumps/")).collect();
    assert_eq!(parts.len(), 3, "no part was sent twice: {parts:#?}");
    place.proxy().heal();
    place.is_tidy(&BTreeSet::new());
    world.restores(&place);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_is_dead_and_the_other_has_its_copy() {
    let world = World::large();
    let (alive, dead) = (Place::s3(), Arc::new(Place::s3()));
    let patience = Patience {
        answer: Duration::from_secs(2),
        stall: Duration::from_secs(2),
        slowest_bytes_per_second: 8 << 20,
        attempts: 2,
        pause: Duration::from_millis(5),
        longest_pause: Duration::from_millis(50),
        ..Patience::default()
    };
    let context = context(&world, patience);
    assert!(dump(&context, &world, &[&alive, &*dead]).await.error.is_none());
    dead.proxy().inject(On::kind(Kind::Part).nth(2).always(), Fault::Stall);
    let dying = Arc::clone(&dead);
    let dies = tokio::task::spawn_blocking(move || {
        dying
            .proxy()
            .until("a part stands still", |seen| seen.iter().any(|seen| seen.kind == Kind::Part && seen.stalled));
        dying.proxy().inject(On::any().always(), Fault::Stall);
    });
    let places = [&alive, &*dead];
    let outcome = dump(&context, &world, &places).await;
    dies.await.unwrap();
    let error = outcome.error.unwrap();
    assert_eq!(error.kind, ErrorKind::Partial, "{error}");
    assert!(error.to_string().contains(&dead.address()) && error.to_string().contains("no answer within"), "{error}");
    let copies = &outcome.items[0].repositories;
    let told: Vec<_> = copies.iter().map(|copy| (copy.name.clone(), copy.status)).collect();
    assert_eq!(told, [(alive.address(), Status::Ok), (dead.address(), Status::Failed)]);
    assert_eq!((alive.ids().len(), dead.ids().len()), (2, 1));
    alive.is_tidy(&BTreeSet::new());
    world.restores(&alive);

    dead.proxy().heal();
    assert!(dump(&context, &world, &places).await.error.is_none());
    dead.is_tidy(&BTreeSet::new());
    world.restores(&dead);
}
