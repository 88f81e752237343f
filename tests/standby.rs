//! A standby as the source: replay stands still while it is dumped, and always goes on.

mod common;

use std::fs;
use std::num::NonZeroUsize;
use std::panic::AssertUnwindSafe;
use std::process::{Child, Command};
use std::sync::Arc;
use std::time::Duration;

use common::dumps::{Holder, only_dump, runs_of, until};
use common::pgkeep::{Pgkeep, tree};
use common::{Cluster, Options, Outcome, PgVersion, Workspace};
use futures_util::FutureExt as _;
use pgkeep::clock::SystemClock;
use pgkeep::command::databases::Databases;
use pgkeep::command::{Context, Place, dump};
use pgkeep::config::environment::Environment;
use pgkeep::interrupt::Interrupt;
use pgkeep::pg::conninfo::ConnectionFlags;
use pgkeep::pg::tools::Search;
use pgkeep::progress::{Monitor, Silent, Task, Unit};
use pgkeep::repo::{NewLineage, StateDirectory};
use pgkeep::storage::Patience;

const BIG: &str = "
    CREATE TABLE big (a int, b text);
    ALTER TABLE big ALTER b SET STORAGE EXTERNAL;
    INSERT INTO big SELECT g, (SELECT string_agg(md5(g::text || n), '') FROM generate_series(1, 40) n)
      FROM generate_series(1, 4000) g";

struct World {
    primary: Cluster,
    standby: Cluster,
    workspace: Workspace,
}

impl World {
    fn new() -> Self {
        let primary = Cluster::plain(PgVersion::V15);
        primary.create_database("shop");
        primary.sql("shop", BIG);
        primary.sql("postgres", "CREATE ROLE backup LOGIN; GRANT pg_read_all_data TO backup");
        // Conflicts do not wait: without a pause they end whoever is in the way.
        let options = Options::new().setting("max_standby_streaming_delay", "100ms");
        let standby = Cluster::standby_of(&primary, options);
        Self { primary, standby, workspace: Workspace::new() }
    }

    fn pgkeep(&self, arguments: &[&str]) -> Pgkeep {
        self.workspace.pgkeep_on(&self.standby, arguments)
    }

    fn dump(&self, more: &[&str]) -> Pgkeep {
        self.pgkeep(&[&["dump", "-d", "shop", "--no-globals"], more].concat())
    }

    fn replay(&self) -> String {
        self.standby.sql("postgres", "SELECT pg_get_wal_replay_pause_state()")
    }

    fn notes(&self) -> Vec<String> {
        let names = tree(&self.workspace.state().join("pauses"));
        names.into_iter().filter(|name| name.ends_with(".json")).collect()
    }

    /// What the first note says.
    fn note(&self) -> String {
        let pauses = self.workspace.state().join("pauses");
        self.notes().first().map_or(String::new(), |name| fs::read_to_string(pauses.join(name)).unwrap_or_default())
    }

    /// A dump that stands still after it has paused replay.
    fn held(&self, more: &[&str]) -> Held<'_> {
        let dump = self.dump(more).spawn();
        until("replay stands still, and it knows that", || {
            self.replay() == "paused" && self.note().contains("\"lsn\": \"")
        });
        // pg_dump fills the pipe, which nobody reads then, and waits.
        signal("STOP", dump.id());
        Held { world: self, dump: Some(dump) }
    }

    #[track_caller]
    fn goes_on(&self) {
        assert_eq!((self.replay().as_str(), self.notes()), ("not paused", vec![]));
        self.primary.sql("shop", "INSERT INTO big VALUES (-1, 'after')");
        self.standby.follows(&self.primary);
    }
}

/// A stopped pgkeep; it goes on when this is dropped.
struct Held<'a> {
    world: &'a World,
    dump: Option<Child>,
}

impl Held<'_> {
    fn pid(&self) -> u32 {
        self.dump.as_ref().unwrap().id()
    }

    fn let_go(mut self) -> Outcome {
        signal("CONT", self.pid());
        Outcome::wait_for(self.dump.take().unwrap())
    }

    /// It is killed, and leaves replay standing.
    fn kill(mut self) {
        signal("KILL", self.pid());
        let outcome = Outcome::wait_for(self.dump.take().unwrap());
        assert_eq!(outcome.exit_code, None);
        assert_eq!((self.world.replay().as_str(), self.world.notes().len()), ("paused", 1));
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        if let Some(mut dump) = self.dump.take() {
            let _ = dump.kill();
            let _ = dump.wait();
        }
    }
}

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

#[test]
fn replay_stands_still_while_it_is_dumped_and_goes_on_then() {
    let world = World::new();
    world.primary.sql("shop", "CREATE UNLOGGED TABLE quick (a int)");
    world.standby.follows(&world.primary);
    let held = world.held(&["--json"]);
    assert_eq!(world.notes().len(), 1);
    let note = world.note();
    assert!(note.contains(&format!("\"pid\": {}", held.pid())), "{note}");
    // What the primary does now would have cancelled the dump.
    world.primary.sql("shop", "TRUNCATE big");
    let outcome = held.let_go().succeeds();
    world.goes_on();
    let item = &outcome.json()["items"][0];
    assert!(item["replayPausedSeconds"].as_f64().unwrap() > 0.0, "{item:#}");
    assert_eq!(item["warnings"][0], "1 unlogged tables are dumped without rows: a standby does not have them");
    assert!(runs_of(&world.workspace, "main")[0]["items"][0]["replayPausedSeconds"].is_number());
    only_dump(&world.workspace).holds(&world.standby, &world.workspace);

    let outcome = world.dump(&[]).run().succeeds();
    assert!(outcome.stdout.contains("\n  replay on the standby stood still for "), "{}", outcome.transcript());
    // Of a primary nothing is said.
    let outcome = world.workspace.pgkeep_on(&world.primary, ["dump", "-d", "shop", "--json"]).run().succeeds();
    assert!(outcome.json()["items"][0]["replayPausedSeconds"].is_null(), "{}", outcome.transcript());
}

#[test]
fn replay_goes_on_after_a_failure_and_a_signal() {
    let world = World::new();
    let outcome = world.dump(&["-t", "nothing"]).run().exits(4);
    assert!(outcome.stderr.contains("no matching tables"), "{}", outcome.transcript());
    world.goes_on();
    for (name, code) in [("TERM", 143), ("INT", 130), ("HUP", 143)] {
        let held = world.held(&[]);
        signal(name, held.pid());
        held.let_go().exits(code);
        world.goes_on();
    }
    // Its sessions are ended by others, that of the pause, too.
    let held = world.held(&[]);
    world
        .standby
        .sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgkeep'");
    held.let_go().exits(4);
    world.goes_on();
}

#[test]
fn a_dump_into_a_file_pauses_replay_as_well() {
    let world = World::new();
    let dump = world.workspace.pgkeep(["dump", "-d", "shop", "--json", "--to-file"]);
    let outcome = dump.arg(world.workspace.path("shop.dump")).connecting_to(&world.standby).run().succeeds();
    let paused_seconds = &outcome.json()["items"][0]["replayPausedSeconds"];
    assert!(paused_seconds.as_f64().is_some_and(|seconds| seconds > 0.0), "{}", outcome.transcript());
    world.goes_on();
}

#[test]
fn after_a_kill_the_next_dump_lets_replay_go_on() {
    let world = World::new();
    world.held(&[]).kill();
    let outcome = world.dump(&[]).run().succeeds();
    assert!(outcome.stderr.contains("had stood still since a run was killed (process "), "{}", outcome.transcript());
    world.goes_on();
    // One that does not pause does it, too.
    world.held(&[]).kill();
    let outcome = world.dump(&["--no-pause-replay"]).run().succeeds();
    assert!(outcome.stderr.contains("had stood still"), "{}", outcome.transcript());
    assert!(!outcome.stdout.contains("stood still"), "{}", outcome.transcript());
    world.goes_on();
}

#[test]
fn after_a_kill_check_lets_replay_go_on() {
    let world = World::new();
    world.held(&[]).kill();
    // It is not even asked for this server.
    let check = world.workspace.pgkeep(["check", "--repo"]).arg(world.workspace.repository()).run();
    assert!(check.stdout.contains("warn  standby.replay"), "{}", check.transcript());
    assert!(check.stdout.contains("had stood still since a run was killed"), "{}", check.transcript());
    world.goes_on();
    let check = world.pgkeep(&["check", "-d", "shop"]).run();
    assert!(!check.stdout.contains("standby.replay"), "{}", check.transcript());
}

#[test]
fn a_pause_of_others_is_left_alone() {
    let world = World::new();
    let pause = "SELECT pg_wal_replay_pause()";
    world.standby.sql("postgres", pause);
    let outcome = world.dump(&[]).run().succeeds();
    assert!(outcome.stderr.contains("was paused by others before: it is left so"), "{}", outcome.transcript());
    assert_eq!((world.replay().as_str(), world.notes()), ("paused", vec![]));
    world.standby.sql("postgres", "SELECT pg_wal_replay_resume()");

    // After a kill somebody looked after it, and paused it later for reasons of his own.
    world.held(&[]).kill();
    world.standby.sql("postgres", "SELECT pg_wal_replay_resume()");
    world.primary.sql("shop", "INSERT INTO big VALUES (-2, 'x')");
    world.standby.follows(&world.primary);
    world.standby.sql("postgres", pause);
    until("replay stands still", || world.replay() == "paused");
    let check = world.pgkeep(&["check", "-d", "shop"]).run();
    assert_eq!((world.replay().as_str(), world.notes()), ("paused", vec![]), "{}", check.transcript());
    world.standby.sql("postgres", "SELECT pg_wal_replay_resume()");
    world.goes_on();
}

#[test]
fn a_pause_that_others_began_during_the_dump_is_left_alone() {
    let world = World::new();
    let held = world.held(&[]);
    world.standby.sql("postgres", "SELECT pg_wal_replay_resume()");
    world.primary.sql("shop", "INSERT INTO big VALUES (-3, 'x')");
    world.standby.follows(&world.primary);
    world.standby.sql("postgres", "SELECT pg_wal_replay_pause()");
    until("replay stands still", || world.replay() == "paused");
    let outcome = held.let_go().succeeds();
    assert!(outcome.stderr.contains("others paused replay anew"), "{}", outcome.transcript());
    assert_eq!((world.replay().as_str(), world.notes()), ("paused", vec![]));
    world.standby.sql("postgres", "SELECT pg_wal_replay_resume()");
    world.goes_on();
}

#[test]
fn of_two_runs_the_last_one_lets_replay_go_on() {
    let world = World::new();
    let first = world.held(&[]);
    let second = world.dump(&["--instance", "other"]).run().succeeds();
    assert!(second.stdout.contains("stood still"), "{}", second.transcript());
    assert_eq!((world.replay().as_str(), world.notes().len()), ("paused", 1));
    first.let_go().succeeds();
    world.goes_on();
}

#[test]
fn a_standby_that_is_promoted_meanwhile() {
    let world = World::new();
    let held = world.held(&[]);
    world.standby.sql("postgres", "SELECT pg_promote()");
    let outcome = held.let_go().succeeds();
    assert!(outcome.stderr.contains("became a primary while it was dumped"), "{}", outcome.transcript());
    assert_eq!(world.notes(), [""; 0]);
}

#[test]
fn without_the_right_the_dump_goes_on_and_says_what_is_missing() {
    let world = World::new();
    let outcome = world.dump(&["-U", "backup"]).run().succeeds();
    assert!(outcome.stderr.contains("may not pause replay on the standby"), "{}", outcome.transcript());
    assert!(!outcome.stdout.contains("stood still"), "{}", outcome.transcript());
    let grants = &outcome.stderr[outcome.stderr.find("GRANT EXECUTE").unwrap()..];
    let grants = grants[..grants.find("the role").unwrap()].to_owned() + "backup";
    world.primary.sql("shop", &grants);
    world.standby.follows(&world.primary);
    let outcome = world.dump(&["-U", "backup"]).run().succeeds();
    assert!(outcome.stdout.contains("stood still"), "{}", outcome.transcript());
    world.goes_on();
}

#[test]
fn a_lock_that_replay_holds_is_let_go_before_replay_stands_still() {
    let world = World::new();
    let holder = Holder::of(&world.primary, "shop", "LOCK big");
    world.standby.follows(&world.primary);
    until("replay holds the lock", || {
        let held = "SELECT 1 FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL";
        world.primary.sql("postgres", "SELECT pg_switch_wal()");
        !world.standby.sql("postgres", held).is_empty()
    });
    let dump = world.dump(&["-vv"]).spawn();
    until("replay is let go on", || world.replay() == "not paused" && world.notes().is_empty());
    drop(holder);
    let outcome = Outcome::wait_for(dump).succeeds();
    assert!(outcome.stdout.contains("stood still"), "{}", outcome.transcript());
    world.goes_on();
}

#[test]
fn a_conflict_is_explained() {
    let world = World::new();
    world.primary.sql("shop", "INSERT INTO big SELECT * FROM big; INSERT INTO big SELECT * FROM big");
    world.standby.follows(&world.primary);
    // Slow enough to be met while it reads.
    let dump = world.dump(&["--no-pause-replay", "--compress", "zstd:19", "--threads", "1"]).spawn();
    let copies = "SELECT 1 FROM pg_stat_activity WHERE query ~ '^COPY'";
    until("rows are read", || !world.standby.sql("postgres", copies).is_empty());
    signal("STOP", dump.id());
    world.primary.sql("shop", "TRUNCATE big");
    // A backend that waits for its client to read is cancelled when it goes on.
    let waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'";
    until("replay wants the table", || !world.standby.sql("postgres", waits).is_empty());
    signal("CONT", dump.id());
    let outcome = Outcome::wait_for(dump).exits(4);
    assert!(outcome.stderr.contains("conflict with recovery"), "{}", outcome.transcript());
    assert!(outcome.stderr.contains("hint: replay on the standby cancelled the dump"), "{}", outcome.transcript());
    assert_eq!(world.notes(), [""; 0]);
}

/// A listener with a defect: it panics when the archive begins.
#[derive(Debug)]
struct Defect;

impl Monitor for Defect {
    fn task(&self, label: &str, _unit: Unit, _total: Option<u64>) -> Arc<dyn Task> {
        assert_ne!(label, "shop", "a defect");
        Arc::new(Silent)
    }
}

#[tokio::test]
async fn replay_goes_on_after_a_panic() {
    let world = World::new();
    let connection = [
        ("PGHOST", world.standby.socket_dir().display().to_string()),
        ("PGPORT", world.standby.port().to_string()),
        ("PGUSER", "postgres".to_owned()),
        ("TMPDIR", world.workspace.path("tmp").display().to_string()),
    ];
    let context = Context {
        clock: Arc::new(SystemClock),
        monitor: Arc::new(Defect),
        interrupt: Interrupt::default(),
        environment: Environment::from_pairs(connection),
        state: StateDirectory::open(world.workspace.state()).unwrap(),
        host: "here".to_owned(),
        patience: Patience::default(),
    };
    let options = dump::Options {
        instance: "main".parse().unwrap(),
        repositories: vec![Place::at(&world.workspace.repository().display().to_string()).unwrap()],
        connection: ConnectionFlags::default(),
        connect_retry: Duration::ZERO,
        databases: Databases::Named(vec!["shop".to_owned()]),
        clients: Search { bin_dir: Some(world.standby.bin_dir()), ..Search::default() },
        compress: dump::Compress::Zstd { level: 1 },
        threads: NonZeroUsize::MIN,
        split: None,
        format: pgkeep::repo::ArchiveFormat::Custom,
        jobs: None,
        filter: dump::Filter::default(),
        pin: dump::Pin::default(),
        check: None,
        globals: dump::WantedGlobals::LeaveOut,
        lock_wait: dump::LockWait { limit: Duration::from_secs(60), retries: 0 },
        lineage: NewLineage::Refused,
        replay: dump::Replay::Pause,
    };
    let ended = AssertUnwindSafe(dump::run(&context, &options)).catch_unwind().await;
    assert!(ended.is_err(), "it did not panic");
    assert!(world.standby.log().contains("recovery has paused"), "{}", world.standby.log());
    world.goes_on();
}
