//! A password shows up nowhere: not in the arguments and the environment of what pgkeep starts, not in a file that has a
//! name, not in what it says and stores.

mod common;

#[path = "secrets/commands.rs"]
mod commands;
#[path = "secrets/elsewhere.rs"]
mod elsewhere;
#[path = "secrets/remote.rs"]
mod remote;
#[path = "secrets/watched.rs"]
mod watched;

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use common::dumps::{Holder, until};
use common::pgkeep::{Pgkeep, tree};
use common::{Cluster, Outcome, PgVersion, Workspace};
use pgkeep::digest::random_hex;

struct World {
    cluster: Cluster,
    workspace: Workspace,
    /// The password of role `app`: a word that occurs nowhere else.
    canary: String,
}

/// A way to tell pgkeep the password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    PassFile,
    HomePassFile,
    Environment,
    ServiceFile,
    Uri,
    Keywords,
    /// Of the configured instance, as the two below.
    Conninfo,
    PasswordFile,
    PasswordCommand,
}

const WAYS: [Way; 9] = [
    Way::PassFile,
    Way::HomePassFile,
    Way::Environment,
    Way::ServiceFile,
    Way::Uri,
    Way::Keywords,
    Way::Conninfo,
    Way::PasswordFile,
    Way::PasswordCommand,
];

impl Way {
    /// The password stands in our own arguments because the user has put it there.
    fn is_typed(self) -> bool {
        matches!(self, Way::Uri | Way::Keywords)
    }
}

impl World {
    fn new() -> Self {
        let world = Self {
            cluster: Cluster::plain(PgVersion::V15),
            workspace: Workspace::new(),
            canary: format!("canary{}", random_hex(24)),
        };
        let sql = format!("CREATE ROLE app LOGIN SUPERUSER PASSWORD '{}'; CREATE DATABASE shop", world.canary);
        world.cluster.sql("postgres", &sql);
        world.cluster.sql("shop", "CREATE TABLE t AS SELECT g FROM generate_series(1, 100) g");
        world
    }

    fn secret_file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.workspace.path(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// `pgkeep dump` with `password`, told in one way, and the file that then holds it.
    fn dump(&self, way: Way, password: &str, more: &[&str]) -> (Pgkeep, Option<PathBuf>) {
        let port = self.cluster.port();
        let line = format!("127.0.0.1:{port}:*:app:{password}\n");
        let uri = format!("postgresql://app:{password}@127.0.0.1:{port}/shop");
        let keywords = format!("host=127.0.0.1 port={port} user=app password='{password}' dbname=shop");
        let database = match way {
            Way::Uri => uri.as_str(),
            Way::Keywords => keywords.as_str(),
            _ => "shop",
        };
        let arguments = ["dump", "-d", database].into_iter().chain(more.iter().copied());
        let dump = self.workspace.pgkeep_on(&self.cluster, arguments).env("PGHOST", "127.0.0.1").env("PGUSER", "app");
        match way {
            Way::PassFile => {
                let file = self.secret_file("pass", &line);
                (dump.env("PGPASSFILE", &file), Some(file))
            }
            Way::HomePassFile => (dump, Some(self.secret_file("home/.pgpass", &line))),
            Way::Environment => (dump.env("PGPASSWORD", password), None),
            Way::ServiceFile => {
                let file = self.secret_file("services", &format!("[ours]\npassword={password}\n"));
                (dump.env("PGSERVICEFILE", &file).env("PGSERVICE", "ours"), Some(file))
            }
            Way::Uri | Way::Keywords => (dump, None),
            Way::Conninfo | Way::PasswordFile | Way::PasswordCommand => {
                let file = self.secret_file("password", password);
                let (in_conninfo, key) = match way {
                    Way::Conninfo => (format!(" password='{password}'"), String::new()),
                    Way::PasswordFile => (String::new(), format!("password_file = \"{}\"", file.display())),
                    _ => (String::new(), format!("password_command = [\"cat\", \"{}\"]", file.display())),
                };
                let server = format!("host=127.0.0.1 port={port} user=app{in_conninfo}");
                let config = format!("[instance.main]\nconninfo = \"{server}\"\n{key}\n");
                let config = self.secret_file("pgkeep.toml", &config);
                let holder = if way == Way::Conninfo { config.clone() } else { file };
                if way == Way::Conninfo {
                    fs::remove_file(self.workspace.path("password")).unwrap();
                }
                (dump.arg("--config").arg(config), Some(holder))
            }
        }
    }

    fn has_canary(&self, bytes: &[u8]) -> bool {
        bytes.windows(self.canary.len()).any(|window| window == self.canary.as_bytes())
    }

    /// No file of the repository, the state, the temporary directory and the rest of the workspace, packed or not.
    #[track_caller]
    fn no_file_has_it(&self, except: Option<&Path>) {
        let root = self.workspace.path("");
        for name in tree(&root) {
            let path = root.join(&name);
            if name.ends_with('/') || except == Some(&path) {
                continue;
            }
            // A temporary file may go while we look.
            let Ok(bytes) = fs::read(&path) else { continue };
            assert!(!self.has_canary(&bytes), "{name}");
            if name.ends_with(".zst") {
                let decoded = Command::new("zstd").arg("-dqc").arg(&path).output().unwrap();
                assert!(decoded.status.success() && !decoded.stdout.is_empty(), "{name}");
                assert!(!self.has_canary(&decoded.stdout), "{name}");
            }
        }
    }

    /// Every process that descends from `pid`.
    fn descendants(&self, pid: u32) -> Vec<u32> {
        let mut found = vec![pid];
        let mut seen = 0;
        while seen < found.len() {
            for task in fs::read_dir(format!("/proc/{}/task", found[seen])).into_iter().flatten().flatten() {
                let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
                found.extend(children.split_whitespace().map(|pid| pid.parse::<u32>().unwrap()));
            }
            seen += 1;
        }
        found.split_off(1)
    }

    /// What others can see of the children while they stand still.
    #[track_caller]
    fn children_show_nothing(&self, pgkeep: u32, program: &str) {
        let children = self.descendants(pgkeep);
        let mut looked_at = 0;
        for child in children {
            let read = |name: &str| fs::read(format!("/proc/{child}/{name}")).unwrap();
            let (words, environment) = (read("cmdline"), read("environ"));
            assert!(!self.has_canary(&words), "arguments of {}", String::from_utf8_lossy(&words));
            assert!(!self.has_canary(&environment), "environment of {}", String::from_utf8_lossy(&words));
            let executable = String::from_utf8_lossy(words.split(|byte| *byte == 0).next().unwrap()).into_owned();
            if executable.ends_with(&format!("/{program}")) {
                self.password_has_no_name(child, &environment);
                looked_at += 1;
            }
        }
        assert_eq!(looked_at, 1, "{program} was not seen");
    }

    /// The password is in an open file of mode 0600 that no directory has.
    #[track_caller]
    fn password_has_no_name(&self, child: u32, environment: &[u8]) {
        let environment = String::from_utf8_lossy(environment);
        let file = environment.split('\0').find_map(|variable| variable.strip_prefix("PGPASSFILE=/proc/self/fd/"));
        let file = format!("/proc/{child}/fd/{}", file.unwrap_or_else(|| panic!("{environment}")));
        assert!(self.has_canary(&fs::read(&file).unwrap()));
        let meta = fs::metadata(&file).unwrap();
        assert_eq!((meta.mode() & 0o7777, meta.nlink()), (0o600, 0));
    }

    #[track_caller]
    fn says_nothing(&self, outcome: &Outcome) {
        for text in [&outcome.stdout, &outcome.stderr] {
            assert!(!self.has_canary(text.as_bytes()), "{text}");
        }
    }
}

#[test]
fn what_is_started_does_not_show_the_password() {
    let world = World::new();
    let waits = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    for way in WAYS {
        for (program, lock) in [("pg_dumpall", "LOCK pg_catalog.pg_parameter_acl"), ("pg_dump", "LOCK t")] {
            let held = Holder::of(&world.cluster, "shop", lock);
            let (dump, file) = world.dump(way, &world.canary, &["-vvv", "--json"]);
            let dump = dump.spawn();
            until("it waits for the lock", || !world.cluster.sql("postgres", waits).is_empty());
            world.children_show_nothing(dump.id(), program);
            world.no_file_has_it(file.as_deref());
            let ours = |name: &str| fs::read(format!("/proc/{}/{name}", dump.id())).unwrap();
            assert_eq!(world.has_canary(&ours("cmdline")), way.is_typed(), "{way:?}");
            assert_eq!(world.has_canary(&ours("environ")), way == Way::Environment, "{way:?}");
            drop(held);
            let outcome = Outcome::wait_for(dump).succeeds();
            world.says_nothing(&outcome);
            let warned = outcome.stderr.contains("can be read by every user of this host");
            assert_eq!(warned, way.is_typed(), "{way:?}: {}", outcome.transcript());
            world.no_file_has_it(file.as_deref());
            if let Some(file) = file {
                fs::remove_file(file).unwrap();
            }
        }
    }
    // The search finds what it looks for.
    fs::write(world.workspace.path("planted"), &world.canary).unwrap();
    assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| world.no_file_has_it(None))).is_err());
}

#[test]
fn a_failure_does_not_show_it_either() {
    let world = World::new();
    let other = world.cluster.sql("postgres", "ALTER ROLE app PASSWORD 'something else'; SELECT 'changed'");
    assert_eq!(other, "changed");
    for way in WAYS {
        for more in [&["-vvv"][..], &["--json", "-vvv"]] {
            let (dump, file) = world.dump(way, &world.canary, more);
            let outcome = dump.run().exits(3);
            assert!(outcome.stderr.contains("password authentication failed"), "{}", outcome.transcript());
            world.says_nothing(&outcome);
            world.no_file_has_it(file.as_deref());
            if let Some(file) = file {
                fs::remove_file(file).unwrap();
            }
        }
    }
    // Strings that cannot be understood are not repeated.
    let canary = &world.canary;
    for typed in [
        format!("postgresql://app:{canary}@127.0.0.1:99999999/shop"),
        format!("postgresql://app:{canary}%@127.0.0.1/shop"),
        format!("postgresql://app:{canary}@127.0.0.1/shop?nonsense=1"),
        format!("postgresql://app:{canary}@127.0.0.1/shop?sslmode=sometimes"),
        format!("password={canary} host"),
        format!("password='{canary}"),
        format!("password={canary} sslmode=sometimes"),
        format!("password={canary} passwort={canary}"),
    ] {
        for more in ["-vvv", "--json"] {
            let outcome = world.workspace.pgkeep_on(&world.cluster, ["dump", "-d", &typed, more]).run().exits(2);
            world.says_nothing(&outcome);
        }
    }
    // Nor those that stand in a wrong place.
    let uri = format!("postgresql://app:{canary}@127.0.0.1/shop");
    for wrong in [vec!["dump", &uri], vec!["dump", "--all", "-d", &uri], vec!["dump", "--repo", "/x", "--dbnam", &uri]]
    {
        for more in ["-v", "--json"] {
            let outcome = world.workspace.pgkeep(wrong.iter().chain([&more])).run().exits(2);
            world.says_nothing(&outcome);
        }
    }
    world.no_file_has_it(None);
}

#[test]
fn the_keys_of_a_store_are_in_no_log_however_much_is_asked_for() {
    let workspace = Workspace::new();
    let canary = format!("canary{}", random_hex(24));
    // Nobody listens there, which is found out after the request was made and signed.
    let report = workspace.pgkeep(["report", "list", "-vvv", "--repo", "s3://backups?endpoint=http://127.0.0.1:1"]);
    let report = report.env("AWS_ACCESS_KEY_ID", "AK").env("AWS_SECRET_ACCESS_KEY", &canary);
    let outcome = report.env("AWS_SESSION_TOKEN", &canary).run();
    let told = format!("{}{}", outcome.stdout, outcome.stderr);
    assert!(told.contains("connect to http://127.0.0.1:1"), "{told}");
    assert!(told.contains("is repeated"), "nothing below a warning is told: {told}");
    assert!(!told.contains(&canary), "{told}");
}
