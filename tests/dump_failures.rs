//! Every way for a dump to fail, by doing it. Afterwards nothing counts that is not whole, nothing runs on, the record
//! says what happened, and the next dump succeeds without help.

mod common;

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use common::dumps::{Holder, dumps_of, only_dump, runs_of, until, within};
use common::pgkeep::{Pgkeep, tree};
use common::{Cluster, Outcome, PgVersion, Workspace, count};
use pgkeep::progress::{Monitor as _, Silent, Unit};
use pgkeep::repo::archive::read_archive;
use pgkeep::repo::{Catalogue, Repository, RunStatus, StateDirectory, runs};
use pgkeep::storage::{Effect, FaultyStorage, Injection, LocalStorage, Missing, Operation};
use rand::{RngExt as _, SeedableRng as _};

/// Some megabytes of rows, and then one that lies apart, in the TOAST table.
const BIG: &str = "
    CREATE TABLE big (a int, b text);
    ALTER TABLE big ALTER b SET STORAGE EXTERNAL;
    INSERT INTO big SELECT g, (SELECT string_agg(md5(g::text || n), '') FROM generate_series(1, 40) n)
      FROM generate_series(1, 6000) g;
    INSERT INTO big SELECT 0, string_agg(md5(n::text), '') FROM generate_series(1, 4000) n";

struct World {
    cluster: Cluster,
    workspace: Workspace,
}

impl World {
    fn new() -> Self {
        let cluster = Cluster::plain(PgVersion::V15);
        cluster.create_database("shop");
        cluster.sql("shop", BIG);
        Self { cluster, workspace: Workspace::new() }
    }

    fn dump(&self, more: &[&str]) -> Pgkeep {
        let arguments = ["dump", "-d", "shop"].iter().chain(more);
        self.workspace.pgkeep_on(&self.cluster, arguments)
    }

    /// Makes a dump stand still in the middle of the rows: the last row cannot be fetched while its index is rebuilt.
    fn hold_in_copy(&self) -> Holder {
        let toast = self.cluster.sql("shop", "SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'big'");
        Holder::of(&self.cluster, "shop", &format!("REINDEX TABLE {toast}"))
    }

    fn until_it_stands(&self, query: &str) {
        let stands = format!("SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '{query}'");
        until(query, || !self.cluster.sql("postgres", &stands).is_empty());
    }

    /// Programs that pgkeep has started in this world; they are told apart by their home directory.
    fn children(&self) -> Vec<String> {
        let home = format!("HOME={}", self.workspace.path("home").display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes()) {
                let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                found.push(format!("{}: {}", entry.file_name().display(), words.replace('\0', " ")));
            }
        }
        found
    }

    /// Within 5 s after a failure nothing runs on, here or on the server, and no file is left outside the repository.
    #[track_caller]
    fn is_quiet(&self) {
        let limit = Duration::from_secs(5);
        within(limit, "children end", &mut || self.children().is_empty());
        let ours = "SELECT 1 FROM pg_stat_activity WHERE application_name IN ('pgkeep', 'pg_dump', 'pg_dumpall')";
        within(limit, "backends end", &mut || self.cluster.sql("postgres", ours).is_empty());
        assert_eq!(tree(&self.workspace.path("tmp")), [""; 0]);
    }

    /// The files of instance main that a dump can leave.
    fn files(&self, folder: &str) -> Vec<String> {
        tree(&self.workspace.repository().join("main").join(folder))
    }

    /// What must be true after a failure that pgkeep lived to see.
    #[track_caller]
    fn failed(&self, outcome: &Outcome, stage: &str, words: &str) {
        assert!(outcome.stderr.contains(words), "{words}\n{}", outcome.transcript());
        assert!(outcome.stderr.contains(&format!("stage {stage}")), "{stage}\n{}", outcome.transcript());
        self.is_quiet();
        assert_eq!(self.files("dumps"), [""; 0]);
        assert_eq!(self.files("intents"), [""; 0]);
        let run = runs_of(&self.workspace, "main").pop().unwrap();
        assert_eq!((&run["status"], &run["stage"]), (&"FAILED".into(), &stage.into()), "{run:#}");
        assert_eq!(run["exitCode"], outcome.exit_code.unwrap());
        assert!(run["error"].as_str().unwrap().contains(words), "{run:#}");
    }

    /// The next dump needs no help, and what it stores holds.
    #[track_caller]
    fn recovers(&self) {
        self.dump(&[]).run().succeeds();
        let dumps = dumps_of(&self.workspace, "main");
        dumps.last().unwrap().holds(&self.cluster, &self.workspace);
        assert_eq!(self.files("dumps").len(), 5 * dumps.len(), "{:?}", self.files("dumps"));
        assert_eq!(self.files("intents"), [""; 0]);
        for folder in ["lineages", "runs"] {
            assert!(self.files(folder).iter().all(|name| !name.starts_with('.')), "{:?}", self.files(folder));
        }
        self.is_quiet();
    }
}

#[test]
fn a_backend_that_is_ended_in_the_middle_of_the_rows() {
    let world = World::new();
    let held = world.hold_in_copy();
    let dump = world.dump(&[]).spawn();
    world.until_it_stands("^COPY");
    // It did not stop before the rows: most of them are here already.
    until("rows arrive", || {
        let written =
            world.files("dumps").into_iter().map(|name| world.workspace.repository().join("main/dumps").join(name));
        written.map(|path| fs::metadata(path).map_or(0, |meta| meta.len())).sum::<u64>() > 1 << 20
    });
    world.cluster.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^COPY'");
    let outcome = Outcome::wait_for(dump).exits(4);
    world.failed(&outcome, "archive", "terminating connection due to administrator command");
    drop(held);
    world.recovers();
}

#[test]
fn a_table_that_is_locked_for_a_while() {
    let world = World::new();
    let held = Holder::of(&world.cluster, "shop", "LOCK big");
    // Somebody waits for the table behind the one who has it.
    let mut second = world.cluster.client("psql");
    second.args(["-X", "-q", "-c", "SET application_name = 'second'; LOCK big", "-d", &world.cluster.conninfo("shop")]);
    second.args(["-1"]);
    let mut second = second.spawn().unwrap();
    world.until_it_stands("^SET application_name|^LOCK big");
    // Also where several sessions read.
    let parallel = world.dump(&["--format", "directory", "--jobs", "2", "--lock-wait", "100ms", "--lock-retry", "1"]);
    let outcome = parallel.run().exits(4);
    assert!(outcome.stderr.contains("attempt 1 of 2 met a locked table"), "{}", outcome.transcript());
    assert!(outcome.stderr.contains("by holder holds public.big"), "{}", outcome.transcript());
    let dump = world.dump(&["--lock-wait", "300ms", "--lock-retry", "100"]).spawn();
    let mut attempts = std::collections::BTreeSet::new();
    let waiting = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '^LOCK TABLE'";
    until("three attempts are made", || {
        attempts.extend(world.cluster.sql("postgres", waiting).lines().map(str::to_owned));
        attempts.len() >= 3
    });
    // Of an attempt that failed nothing is left, and it does not stand in the queue.
    until("an attempt has ended", || world.cluster.sql("postgres", waiting).is_empty());
    drop(held);
    assert!(second.wait().unwrap().success());
    let outcome = Outcome::wait_for(dump).succeeds();
    let said = [" of 101 met a locked table: pg_dump ended with exit code 1", "LOCK TABLE public.big"];
    said.into_iter().for_each(|said| assert!(outcome.stderr.contains(said), "{said}\n{}", outcome.transcript()));
    assert_eq!(world.files("dumps").len(), 5, "{:?}", world.files("dumps"));
    world.recovers();
}

#[test]
fn a_server_that_is_not_there_or_says_no() {
    let world = World::new();
    let retry = ["--connect-retry", "0", "-h", "127.0.0.1"];
    let outcome = world.dump(&retry).env("PGPASSWORD", "not the password").run().exits(3);
    world.failed(&outcome, "connect", "password authentication failed");
    let outcome = world.workspace.pgkeep_on(&world.cluster, ["dump", "-d", "no such"]).run().exits(3);
    world.failed(&outcome, "connect", "database \"no such\" does not exist");
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string();
    let nobody = [&retry[..], &["-p", &free]].concat();
    let outcome = world.dump(&nobody).run().exits(3);
    world.failed(&outcome, "connect", "Connection refused");
    // It is on record also where not even the databases could be listed.
    let all = world.workspace.pgkeep_on(&world.cluster, ["dump", "--all"].iter().chain(&nobody));
    world.failed(&all.run().exits(3), "connect", "Connection refused");
    assert_eq!(runs_of(&world.workspace, "main").len(), 4);
    world.recovers();
}

/// Passes TCP connections on until it is told to cut them.
struct Forwarder {
    port: u16,
    open: Arc<Mutex<Vec<TcpStream>>>,
}

impl Forwarder {
    fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let forwarder = Self { port: listener.local_addr().unwrap().port(), open: Arc::default() };
        let open = Arc::clone(&forwarder.open);
        std::thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else { return };
                for (from, to) in [(&near, &far), (&far, &near)] {
                    let (mut from, mut to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    open.lock().unwrap().push(from.try_clone().unwrap());
                    std::thread::spawn(move || {
                        let mut chunk = [0; 8192];
                        while let Ok(count @ 1..) = from.read(&mut chunk) {
                            if to.write_all(&chunk[..count]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(Shutdown::Both);
                    });
                }
            }
        });
        forwarder
    }

    fn cut(&self) {
        for stream in self.open.lock().unwrap().drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

#[test]
fn a_connection_that_is_cut() {
    let world = World::new();
    let forwarder = Forwarder::to(world.cluster.port());
    let held = world.hold_in_copy();
    let dump = world.dump(&["-h", "127.0.0.1", "-p", &forwarder.port.to_string()]);
    let dump = dump.env("PGPASSWORD", Cluster::PASSWORD).spawn();
    world.until_it_stands("^COPY");
    forwarder.cut();
    let outcome = Outcome::wait_for(dump).exits(4);
    // The server notices when it next has something to send.
    drop(held);
    world.failed(&outcome, "archive", "server closed the connection unexpectedly");
    world.recovers();
}

#[test]
fn a_session_that_keeps_the_snapshot_and_ends_too() {
    let world = World::new();
    let held = world.hold_in_copy();
    let dump = world.dump(&[]).spawn();
    world.until_it_stands("^COPY");
    let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'pgkeep'";
    assert_eq!(world.cluster.sql("postgres", all), "t\nt");
    let outcome = Outcome::wait_for(dump).exits(4);
    world.failed(&outcome, "archive", "terminating connection due to administrator command");
    drop(held);
    world.recovers();
}

#[test]
fn a_server_that_stops() {
    let world = World::new();
    let held = world.hold_in_copy();
    let dump = world.dump(&[]).spawn();
    world.until_it_stands("^COPY");
    signal("QUIT", world.cluster.server_pid());
    let outcome = Outcome::wait_for(dump).exits(4);
    assert!(outcome.stderr.contains("stage archive: pg_dump ended with exit code 1: "), "{}", outcome.transcript());
    within(Duration::from_secs(5), "children end", &mut || world.children().is_empty());
    assert_eq!((world.files("dumps"), world.files("intents")), (vec![], vec![]));
    assert_eq!(runs_of(&world.workspace, "main")[0]["status"], "FAILED");
    drop(held);
}

#[test]
fn a_disk_that_is_full() {
    let world = World::new();
    let repository = world.workspace.repository();
    fs::create_dir(&repository).unwrap();
    // A small disk that nobody else sees, on which the dump fails; then it grows, and the next one succeeds.
    let script = "repo=$1 copy=$2; shift 2
        mount -t tmpfs -o size=2m,mode=0700 tmpfs \"$repo\"
        code=0; \"$@\" || code=$?
        echo \"code $code\"; find \"$repo\" -type f | grep -v /runs/ || true; cat \"$repo\"/main/runs/*
        mount -o remount,size=100m \"$repo\"
        \"$@\"
        cp -a \"$repo\" \"$copy\"";
    let copy = world.workspace.path("copy");
    let mut words = vec!["unshare", "--mount"];
    if !rustix::process::getuid().is_root() {
        words.push("--map-root-user");
    }
    let (repository_text, copy_text) = (repository.to_str().unwrap(), copy.to_str().unwrap());
    words.extend(["sh", "-ec", script, "sh", repository_text, copy_text]);
    let outcome = world.dump(&[]).under(&words).run().succeeds();
    assert!(outcome.stdout.contains("\ncode 5\n"), "{}", outcome.transcript());
    for said in ["stage archive", "No space left on device", "\nhint: free some space"] {
        assert!(outcome.stderr.contains(said), "{said}\n{}", outcome.transcript());
    }
    let after = outcome.stdout.split_once("code 5\n").unwrap().1;
    assert!(!after[..after.find("{").unwrap()].contains("/dumps/"), "{}", outcome.transcript());
    assert!(after.contains("\"status\": \"FAILED\"") || after.contains("\"status\":\"FAILED\""), "{after}");
    fs::remove_dir(&repository).unwrap();
    fs::rename(copy, &repository).unwrap();
    only_dump(&world.workspace).holds(&world.cluster, &world.workspace);
    world.is_quiet();
}

#[test]
fn a_limit_on_the_size_of_files() {
    let world = World::new();
    let outcome = world.dump(&[]).under(&["prlimit", "--fsize=1000000"]).run().exits(5);
    world.failed(&outcome, "archive", "File too large");
    assert!(outcome.stderr.contains("\nhint: "), "{}", outcome.transcript());
    world.recovers();
}

const SIGNALS: [(&str, i32); 3] = [("TERM", 143), ("INT", 130), ("HUP", 143)];

fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}

/// A place where a dump can be made to stand still: its stage, what is locked, and the query that then waits.
const PLACES: [(&str, &str, &str); 3] = [
    ("describe", "LOCK pg_catalog.pg_extension", "pg_extension"),
    ("globals", "LOCK pg_catalog.pg_parameter_acl", "pg_parameter_acl"),
    ("archive", "LOCK big", "^LOCK TABLE public.big"),
];

#[test]
fn a_signal_stops_it_wherever_it_is() {
    let world = World::new();
    for (name, code) in SIGNALS {
        for (stage, lock, query) in PLACES {
            let held = Holder::of(&world.cluster, "shop", lock);
            let dump = world.dump(&[]).spawn();
            world.until_it_stands(query);
            signal(name, dump.id());
            let outcome = Outcome::wait_for(dump).exits(code);
            if stage == "globals" {
                // pg_dumpall dies of the signal without cancelling its query; the backend sees that when it goes on.
                drop(held);
                world.failed(&outcome, stage, "stopped by ");
            } else {
                // The lock is still held: nobody of ours waits for it any more.
                world.failed(&outcome, stage, "stopped by ");
                drop(held);
            }
        }
        let held = world.hold_in_copy();
        let dump = world.dump(&[]).spawn();
        world.until_it_stands("^COPY");
        signal(name, dump.id());
        world.failed(&Outcome::wait_for(dump).exits(code), "archive", "stopped by ");
        drop(held);
        // While it waits for a server.
        let dump = world.dump(&["-h", "127.0.0.1", "-p", "1", "--connect-retry", "10m"]).spawn();
        until("the run is recorded", || {
            runs_of(&world.workspace, "main").last().is_some_and(|run| run["status"] == "RUNNING")
        });
        signal(name, dump.id());
        world.failed(&Outcome::wait_for(dump).exits(code), "connect", "stopped by ");
    }
    world.recovers();
}

#[test]
fn one_signal_stops_all_databases() {
    let world = World::new();
    world.cluster.sql("postgres", "CREATE DATABASE a; CREATE DATABASE z");
    let held = Holder::of(&world.cluster, "shop", "LOCK big");
    let dump = world.workspace.pgkeep_on(&world.cluster, ["dump", "--all", "--json"]).spawn();
    world.until_it_stands("^LOCK TABLE");
    signal("TERM", dump.id());
    let document = Outcome::wait_for(dump).exits(143).json();
    let statuses: Vec<_> = document["items"].as_array().unwrap().iter().map(|item| &item["status"]).collect();
    assert_eq!(statuses, ["ok", "failed", "failed"]);
    assert_eq!(only_dump(&world.workspace).manifest["database"], "a");
    world.is_quiet();
    drop(held);
}

fn dump_with(world: &World, name: &str, body: &str) -> Pgkeep {
    let dir = world.workspace.client(&world.cluster, name, body);
    world.dump(&["--bin-dir", dir.to_str().unwrap()])
}

#[test]
fn a_pg_dump_that_lies() {
    let world = World::new();
    let cases: [(&str, &str, i32, &str); 8] = [
        (
            "fails-late",
            "\"$real\" \"$@\"; echo 'pg_dump: error: at the end' >&2; exit 1",
            4,
            "exit code 1: pg_dump: error: at the end",
        ),
        ("half", "\"$real\" \"$@\" | head -c 1000000; exit 0", 6, "archive"),
        ("almost", "\"$real\" \"$@\" | head -c -1; exit 0", 6, "archive"),
        ("nothing", "exit 0", 6, "archive"),
        ("rubbish", "echo 'Dear customer'; echo 'I am no pg_dump' >&2; exit 0", 6, "I am no pg_dump"),
        ("killed", "\"$real\" \"$@\" | head -c 1000000; kill -KILL $$", 4, "pg_dump ended with signal 9"),
        ("crashed", "kill -SEGV $$", 4, "pg_dump ended with signal 11"),
        ("too-much", "\"$real\" \"$@\"; echo and one more thing; exit 0", 6, "archive"),
    ];
    for (name, body, code, words) in cases {
        let outcome = dump_with(&world, name, body).run().exits(code);
        world.failed(&outcome, "archive", words);
    }
    world.recovers();
}

#[test]
fn a_pg_dump_that_says_no_version_is_none() {
    let world = World::new();
    let dir = world.workspace.client(&world.cluster, "mute", "");
    for (version, why) in [
        ("echo rubbish", "\"rubbish\" is not a version"),
        ("echo 'pg_dump (PostgreSQL) 15.0'; exit 1", "ended with exit code 1"),
        ("kill -KILL $$", "ended with signal 9"),
        ("exit 0", "\"\" is not a version"),
    ] {
        fs::write(dir.join("pg_dump"), format!("#!/bin/sh\n{version}\n")).unwrap();
        let outcome = world.dump(&["--bin-dir", dir.to_str().unwrap()]).run().exits(12);
        world.failed(&outcome, "connect", why);
    }
}

#[test]
fn a_pg_dump_that_talks_without_end() {
    let world = World::new();
    // One line without an end, and very many lines.
    let body = "head -c 5000000 /dev/zero | tr '\\0' x >&2; echo >&2
        yes 'pg_dump: warning: something' | head -n 200000 >&2
        exec \"$real\" \"$@\"";
    let outcome = dump_with(&world, "talks", body).arg("-q").run().succeeds();
    assert!(outcome.stderr.len() < 2_000_000, "{}", outcome.stderr.len());
    let dump = only_dump(&world.workspace);
    dump.holds(&world.cluster, &world.workspace);
    let details = dump.details();
    let warnings = details["warnings"].as_array().unwrap();
    assert!((100..1000).contains(&warnings.len()), "{}", warnings.len());
    assert!(warnings.iter().any(|line| line.as_str().unwrap().contains("left out")));
    // Some words of a success are shown.
    let outcome = dump_with(&world, "warns", "echo 'pg_dump: warning: beware' >&2; exec \"$real\" \"$@\"").run();
    let outcome = outcome.succeeds();
    assert!(outcome.stderr.contains("warning: shop: pg_dump: warning: beware"), "{}", outcome.transcript());
}

#[test]
fn a_pg_dump_that_does_not_listen_is_killed() {
    let world = World::new();
    let mark = world.workspace.path("stands");
    let body = format!("trap '' TERM; \"$real\" \"$@\" | head -c 100000; : >'{}'; exec sleep 1000", mark.display());
    let dump = dump_with(&world, "deaf", &body).spawn();
    until("it stands", || mark.exists());
    signal("TERM", dump.id());
    let outcome = Outcome::wait_for(dump).exits(143);
    world.failed(&outcome, "archive", "stopped by ");
    world.recovers();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let world = World::new();
    let (mark, gate) = (world.workspace.path("stands"), world.workspace.path("gate"));
    assert!(Command::new("mkfifo").arg(&gate).status().unwrap().success());
    let body = format!("trap '' TERM; : >'{}'; exec cat '{}' >/dev/null", mark.display(), gate.display());
    let began = Instant::now();
    let mut dump = dump_with(&world, "deaf", &body).spawn();
    until("it stands", || mark.exists());
    // The first is being answered, for 5 s at most, when the second comes; signals of one kind may merge into one.
    while dump.try_wait().unwrap().is_none() {
        signal("TERM", dump.id());
        signal("HUP", dump.id());
    }
    assert!(began.elapsed() < Duration::from_secs(5), "it took its time");
    Outcome::wait_for(dump).exits(143);
    assert_eq!(world.children().len(), 1, "{:?}", world.children());
    fs::write(&gate, "").unwrap();
    world.is_quiet();
    world.recovers();
}

async fn open(workspace: &Workspace) -> (Repository, StateDirectory) {
    let state = StateDirectory::open(workspace.state()).unwrap();
    let storage = LocalStorage::open(workspace.repository(), Missing::Refuse).await.unwrap();
    (Repository::open(Arc::new(storage), &state).await.unwrap(), state)
}

#[tokio::test]
async fn a_killed_run_is_seen_as_interrupted_and_cleaned_up_after() {
    let world = World::new();
    let held = world.hold_in_copy();
    let mut dump = world.dump(&["-h", "127.0.0.1"]).env("PGPASSWORD", Cluster::PASSWORD).spawn();
    world.until_it_stands("^COPY");
    let (repository, state) = open(&world.workspace).await;
    let status = |runs: Vec<pgkeep::repo::SeenRun>| runs.last().unwrap().record.as_ref().unwrap().status;
    assert_eq!(status(runs(&repository, &state, None).await.unwrap()), RunStatus::Running);
    dump.kill().unwrap();
    dump.wait().unwrap();
    world.is_quiet();
    drop(held);
    assert_eq!(status(runs(&repository, &state, None).await.unwrap()), RunStatus::Interrupted);
    assert!(Catalogue::read(&repository, None).await.unwrap().entries.is_empty());
    assert_eq!(world.files("intents").len(), 1);
    world.recovers();
}

/// Death at moments that nobody chose; which they were, the seed says.
#[tokio::test]
async fn death_at_any_moment() {
    let world = World::new();
    let dump = || world.dump(&["-h", "127.0.0.1"]).env("PGPASSWORD", Cluster::PASSWORD);
    dump().run().succeeds();
    let began = Instant::now();
    dump().run().succeeds();
    let whole = began.elapsed();
    let (repository, state) = open(&world.workspace).await;
    let seed: u64 = rand::random();
    println!("seed {seed}, a whole dump takes {whole:?}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let (mut killed, mut whole_dumps) = (0, 2);
    for round in 0..count(12, 200) {
        let moment = whole.mul_f64(random.random_range(0.0..1.1));
        let mut child = dump().spawn();
        tokio::time::sleep(moment).await;
        let _ = child.kill();
        let status = child.wait().unwrap();
        world.is_quiet();
        killed += u32::from(!status.success());

        let catalogue = Catalogue::read(&repository, None).await.unwrap();
        assert!(catalogue.entries.iter().all(|entry| entry.backup().is_some()), "round {round}: {catalogue:#?}");
        let dumps = dumps_of(&world.workspace, "main");
        assert_eq!(catalogue.entries.len(), dumps.len());
        assert!(dumps.len() == whole_dumps || dumps.len() == whole_dumps + 1, "round {round}");
        // Whoever was told so has a backup; one that was killed after its manifest is one, too.
        assert!(!status.success() || dumps.len() == whole_dumps + 1, "round {round}");
        whole_dumps = dumps.len();
        dumps.last().unwrap().holds(&world.cluster, &world.workspace);
        for run in runs(&repository, &state, None).await.unwrap() {
            let status = run.record.unwrap().status;
            assert!(matches!(status, RunStatus::Succeeded | RunStatus::Interrupted), "round {round}: {status:?}");
        }
    }
    assert!(killed > 0, "every dump was faster than its killer");
    world.recovers();
}

/// A disk that gives back other bytes than it took: the read-back decodes what is stored, so no flipped bit passes.
#[tokio::test]
async fn a_flipped_bit_is_read_back_as_damage() {
    let world = World::new();
    world.dump(&["--check", "decode"]).run().succeeds();
    let dump = only_dump(&world.workspace);
    let state = StateDirectory::open(world.workspace.state()).unwrap();
    let disk = LocalStorage::open(world.workspace.repository(), Missing::Refuse).await.unwrap();
    let storage = FaultyStorage::over(Arc::new(disk));
    let repository = Repository::open(Arc::new(storage.clone()), &state).await.unwrap();
    let catalogue = Catalogue::read(&repository, None).await.unwrap();
    let backup = catalogue.backups().next().unwrap();
    let read = || async {
        let task = Silent.task("read back", Unit::Bytes, None);
        read_archive(&repository, &dump.id().parse().unwrap(), &backup.manifest, std::io::sink(), TWO, task).await
    };
    const TWO: std::num::NonZeroUsize = std::num::NonZeroUsize::new(2).unwrap();
    read().await.unwrap();
    let bits = fs::metadata(dump.file(".dump.zst")).unwrap().len() * 8;
    let mut random = rand::rngs::StdRng::seed_from_u64(7);
    let mut places = vec![0, 7, 8 * 4, 8 * 17, bits / 2, bits - 1];
    places.extend((0..count(20, 500)).map(|_| random.random_range(0..bits)));
    for bit in places {
        storage.inject(Injection::at(Operation::Read, Effect::FlipBit { bit }).on("*.dump.zst"));
        let error = read().await.err().unwrap_or_else(|| panic!("bit {bit} of {bits} was not missed"));
        assert_eq!(error.kind, pgkeep::error::Kind::Verification, "bit {bit}: {error}");
        storage.heal();
    }
    read().await.unwrap();
    // The same with the tool that is there when pgkeep is not.
    let archive = dump.file(".dump.zst");
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&archive, bytes).unwrap();
    let mut sha256sum = Command::new("sha256sum");
    sha256sum.arg("-c").arg(dump.file(".dump.zst.sha256")).current_dir(dump.stem.parent().unwrap());
    assert!(!sha256sum.output().unwrap().status.success());
}

#[test]
fn a_database_that_vanishes_or_refuses() {
    let world = World::new();
    world.cluster.sql(
        "postgres",
        "CREATE DATABASE broken; UPDATE pg_database SET datallowconn = false WHERE datname = 'broken'",
    );
    let outcome = world.workspace.pgkeep_on(&world.cluster, ["dump", "-d", "broken"]).run().exits(3);
    world.failed(&outcome, "connect", "not currently accepting connections");
    // The table goes between the look and the lock.
    let held = Holder::of(&world.cluster, "shop", "DROP TABLE big");
    let dump = world.dump(&[]).spawn();
    world.until_it_stands("^LOCK TABLE public.big");
    world.cluster.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^LOCK TABLE'");
    world.failed(&Outcome::wait_for(dump).exits(4), "archive", "terminating connection");
    drop(held);
    world.recovers();
}

#[test]
fn too_many_connections() {
    let world = World::new();
    world.cluster.sql("postgres", "CREATE ROLE one LOGIN CONNECTION LIMIT 1; GRANT pg_read_all_data TO one");
    // pgkeep's own session is the one; those of the tools are refused.
    let outcome = world.dump(&["-U", "one"]).run().exits(4);
    world.failed(&outcome, "globals", "could not connect to database");
    assert!(
        outcome.stderr.contains("\nhint: ") && outcome.stderr.contains("connection limit"),
        "{}",
        outcome.transcript()
    );
    let outcome = world.dump(&["-U", "one", "--no-globals"]).run().exits(4);
    world.failed(&outcome, "archive", "too many connections for role \"one\"");
    world.recovers();
}
