//! Every way in which a run fails is told to the platform, in the log and by the exit code.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use chrono::TimeDelta;
use pgkeep::clock::{Clock as _, SystemClock};
use rustix::process::{Pid, Signal, kill_process};

use crate::common::Outcome;
use crate::common::dumps::until;
use crate::common::pgkeep::{Pgkeep, tree};
use crate::world::{Local, World, shell};

/// Nothing was made, and everybody is told why.
#[track_caller]
fn fails(world: &World, pgkeep: Pgkeep, code: i32, why: &str) {
    is_told(world, pgkeep.run().exits(code), why);
}

#[track_caller]
fn is_told(world: &World, outcome: Outcome, why: &str) {
    assert!(outcome.stderr.contains(why), "{}", outcome.transcript());
    let report = world.only_failure();
    assert!(report.error_message.contains(why), "{report:?}");
    assert_eq!((report.database.as_str(), &report.local), ("shop", &Local::nothing()));
    assert!(report.remote.urls.is_empty());
    assert!(world.stems().is_empty());
    let log = world.log();
    let errors: Vec<&str> = log.lines().filter(|line| line.contains(" [ERROR] ")).collect();
    assert!(errors.iter().any(|line| line.contains(why)), "{log}");
}

/// A directory with the clients of the server and a `pg_dump` that does what `body` says.
fn client(world: &World, body: &str) -> PathBuf {
    let dir = world.path("clients");
    fs::create_dir(&dir).unwrap();
    let real = world.cluster.bin_dir().join("pg_dump").display().to_string();
    let text = format!("#!/bin/sh\nif [ \"$1\" = --version ]; then exec '{real}' --version; fi\n{body}\n");
    fs::write(dir.join("pg_dump"), text).unwrap();
    shell(&dir, &format!("chmod 755 pg_dump; ln -s '{}/pg_dumpall' .", world.cluster.bin_dir().display()));
    dir
}

#[test]
fn a_server_that_is_not_there() {
    let world = World::new(&["BACKUP_MODE=local", "PG_HOST=127.0.0.1", "PG_PORT=1"]);
    fails(&world, world.pgkeep("dump --connect-retry 0"), 3, "127.0.0.1");
    assert!(world.log().contains("(hint: check PG_HOST and PG_PORT, "), "{}", world.log());
    let report = world.only_failure();
    assert_eq!((report.host.as_str(), report.port.as_str(), report.mode.as_str()), ("127.0.0.1", "1", "local"));
}

#[test]
fn a_database_that_is_not_there() {
    let world = World::new(&["BACKUP_MODE=local", "PG_DATABASE=nosuch"]);
    world.pgkeep("dump").run().exits(3);
    let report = world.only_failure();
    assert_eq!(report.database, "nosuch");
    assert!(report.error_message.contains("nosuch"), "{report:?}");
    // The run is on record, too.
    let runs = world.pgkeep("report runs").run().succeeds();
    assert!(runs.stdout.contains("nosuch"), "{}", runs.transcript());
}

#[test]
fn a_plan_that_cannot_be_made() {
    let world = World::new(&["BACKUP_MODE=local", "PG_HOST=127.0.0.1", "PG_PORT=1"]);
    fails(&world, world.pgkeep("dump --all --connect-retry 0"), 3, "127.0.0.1");
}

#[test]
fn a_client_that_is_not_there() {
    let world = World::new(&["BACKUP_MODE=local"]);
    fs::create_dir(world.path("empty")).unwrap();
    fails(&world, world.pgkeep("dump --bin-dir ./empty"), 12, "Missing command: pg_dump");
}

#[test]
fn a_client_that_fails() {
    let world = World::new(&["BACKUP_MODE=local"]);
    let dir = client(&world, "echo 'pg_dump: error: the dog ate it' >&2; exit 1");
    fails(&world, world.pgkeep("dump").arg("--bin-dir").arg(dir), 4, "the dog ate it");
}

#[test]
fn a_run_beside_another_and_one_that_is_stopped() {
    let world = World::new(&["BACKUP_MODE=local"]);
    let started = world.path("started");
    let dir = client(&world, &format!("touch '{}'\nexec sleep 1000", started.display()));
    let running = world.pgkeep("dump").arg("--bin-dir").arg(&dir).spawn();
    until("pg_dump runs", || started.exists());
    fails(&world, world.pgkeep("dump"), 7, "is locked by process");
    let first = world.reports();

    let pid = Pid::from_raw(i32::try_from(running.id()).unwrap()).unwrap();
    kill_process(pid, Signal::TERM).unwrap();
    Outcome::wait_for(running).exits(143);
    let second: Vec<String> = world.reports().into_iter().filter(|name| !first.contains(name)).collect();
    let [second] = &second[..] else { panic!("{second:?}") };
    let report = world.report(second);
    assert_eq!(report.status, "FAILED");
    assert!(report.error_message.contains("SIGTERM"), "{report:?}");
    assert!(world.stems().is_empty());
    world.pgkeep("dump").run().succeeds();
}

/// A killed run can tell nothing; its record and the next run do.
#[test]
fn a_run_that_is_killed() {
    let world = World::new(&["BACKUP_MODE=local"]);
    let started = world.path("started");
    let dir = client(&world, &format!("touch '{}'\nexec sleep 1000", started.display()));
    let mut running = world.pgkeep("dump").arg("--bin-dir").arg(&dir).spawn();
    until("pg_dump runs", || started.exists());
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(!world.path("base/reports").exists());
    let runs = world.pgkeep("report runs").run().succeeds();
    assert!(runs.stdout.contains("INTERRUPTED"), "{}", runs.transcript());
    world.pgkeep("dump").run().succeeds();
    assert_eq!(world.stems().len(), 1);
    assert_eq!(tree(&world.path("base/intents")), [""; 0]);
}

/// An administrator tries it by hand before cron runs it by night.
#[test]
fn what_root_does_by_hand_belongs_to_whom_the_directories_belong() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let world = World::new(&["BACKUP_MODE=local"]);
    for name in ["base", "log"] {
        fs::create_dir(world.path(name)).unwrap();
        std::os::unix::fs::chown(world.path(name), Some(4321), Some(4321)).unwrap();
    }
    world.pgkeep("dump").run().succeeds();
    for name in ["base", "log"] {
        for below in tree(&world.path(name)) {
            let made = fs::metadata(world.path(name).join(&below)).unwrap();
            assert_eq!((made.uid(), made.gid()), (4321, 4321), "{name}/{below}");
        }
    }
}

#[test]
fn a_disk_that_is_not_mounted() {
    let world = World::new(&["BACKUP_MODE=local"]);
    world.pgkeep("dump").run().succeeds();
    fs::rename(world.path("base"), world.path("unmounted")).unwrap();
    fails(&world, world.pgkeep("dump"), 9, "has no pgkeep.json");
    // Its mount point is as good as nothing.
    fails_again(&world);
    fs::remove_dir_all(world.path("base")).unwrap();
    fs::rename(world.path("unmounted"), world.path("base")).unwrap();
    world.pgkeep("dump").run().succeeds();
}

#[track_caller]
fn fails_again(world: &World) {
    world.pgkeep("dump").run().exits(9);
    assert_eq!(world.reports().len(), 2);
    assert!(world.stems().is_empty());
}

#[test]
fn surroundings_that_are_not_there() {
    let world = World::new(&["BACKUP_MODE=local"]);
    fs::write(world.path("file"), "").unwrap();
    // The state of this host.
    let no_state = world.pgkeep("dump").env("PGKEEP_STATE_DIR", world.path("file/state"));
    fails(&world, no_state, 5, "create state directory");
    // The log: then only the report can tell.
    let world = World::new(&["BACKUP_MODE=local"]);
    fs::write(world.path("log"), "").unwrap();
    world.pgkeep("dump").run().exits(2);
    assert!(world.only_failure().error_message.contains("open log file"));
    // The directory of the dumps: whoever looks before the first night is told.
    let world = World::new(&["BACKUP_MODE=local"]);
    fs::create_dir(world.path("base")).unwrap();
    fs::write(world.path("base/data"), "").unwrap();
    let check = world.pgkeep("check").run().exits(13);
    let wanted = format!("fail  directory.writable  {}: it cannot be written to", world.path("base/data").display());
    assert!(check.stdout.contains(&wanted), "{}", check.transcript());
    // The reports: the dump is made, and nobody would know.
    let world = World::new(&["BACKUP_MODE=local"]);
    fs::create_dir(world.path("base")).unwrap();
    fs::write(world.path("base/reports"), "").unwrap();
    let outcome = world.pgkeep("dump").run().exits(10);
    assert!(outcome.stderr.contains("the platform has no report of this run"), "{}", outcome.transcript());
    assert_eq!(world.stems().len(), 1);
}

/// Two runs in one second, of which one finds the other: whoever writes last takes no report away.
#[test]
fn no_run_takes_the_place_of_another_ones_report() {
    let world = World::new(&["BACKUP_MODE=local"]);
    world.pgkeep("dump").run().succeeds();
    let name = world.only_stem();
    let host = name.rsplit_once('_').unwrap().1;
    let (reports, now) = (world.path("base/reports"), SystemClock.now());
    let theirs: Vec<PathBuf> = (1..40)
        .map(|seconds| (now + TimeDelta::seconds(seconds)).format("%Y%m%dT%H%M%SZ").to_string())
        .map(|at| reports.join(format!("shop_{at}_{host}.json")))
        .collect();
    theirs.iter().for_each(|path| fs::write(path, "theirs").unwrap());
    world.pgkeep("dump").run().succeeds();
    world.pgkeep("dump -d nowhere").run().exits(3);
    assert!(theirs.iter().all(|path| fs::read_to_string(path).unwrap() == "theirs"));
    assert_eq!(world.reports().len(), theirs.len() + 3);
    assert_eq!(world.stems().len(), 2);
}
