//! The harness itself: servers come and go without a trace, the shapes build, and equality tells databases apart.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};

use common::equality::{Differences, Snapshot, assert_equal, roles};
use common::pgkeep::tree;
use common::shapes::{self, BREAKING_NAMES, NASTY_NAMES, PLATFORM};
use common::{Cluster, Options, PgVersion, Workspace, count};

/// Copies a database with the stock tools, so that what equality says of the copy is known to be right.
fn copy_with_stock_tools(cluster: &Cluster, database: &str, copy: &str) {
    let archive = tempfile::NamedTempFile::new().unwrap();
    cluster.run(cluster.client("pg_dump").args(["-Fc", "-d", &cluster.conninfo(database), "-f"]).arg(archive.path()));
    cluster.sql("postgres", &format!("CREATE DATABASE {} TEMPLATE template0", common::cluster::identifier(copy)));
    cluster.run(cluster.client("pg_restore").args(["-e", "-d", &cluster.conninfo(copy)]).arg(archive.path()));
}

/// `pg_dump` without `-C` leaves out the settings, the rights and the comment of the database itself.
fn only_the_database_itself_differs(found: Option<Differences>) {
    let text = found.expect("the stock tools carried the database's settings").to_string();
    let own = |line: &&str| !line.starts_with("database: ") && !line.starts_with("setting of ");
    let unexpected: Vec<&str> = text.lines().skip(1).filter(own).collect();
    assert!(unexpected.is_empty(), "{text}");
}

fn exists(pid: u32) -> bool {
    // A process that has ended and was not waited for is not running any more.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn a_dropped_cluster_leaves_no_process_and_no_file() {
    for version in PgVersion::ALL {
        let cluster = Cluster::start(version, Options::new().setting("application_name", "it's"));
        assert_eq!(cluster.sql("postgres", "SHOW application_name"), "psql");
        let (pid, dir) = (cluster.server_pid(), cluster.socket_dir().to_owned());
        assert!(exists(pid) && dir.exists());
        drop(cluster);
        assert!(!exists(pid) && !dir.exists());
    }
}

#[test]
fn a_stopped_server_is_killed_in_the_end() {
    let cluster = Cluster::plain(PgVersion::V15);
    let (pid, dir) = (cluster.server_pid(), cluster.socket_dir().to_owned());
    assert!(Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap().success());
    drop(cluster);
    assert!(!exists(pid) && !dir.exists());
}

#[test]
fn a_killed_test_takes_its_server_along() {
    // This test starts itself once more, and there holds a server until it is killed.
    if common::environment("PGKEEP_TEST_HOLD").is_some() {
        let cluster = Cluster::plain(PgVersion::V15);
        eprintln!("holding {} {}", cluster.server_pid(), cluster.socket_dir().display());
        std::io::stdin().read_line(&mut String::new()).unwrap();
        return;
    }
    let mut test = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_killed_test_takes_its_server_along", "--nocapture"])
        .env("PGKEEP_TEST_HOLD", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stderr = std::io::BufReader::new(test.stderr.take().unwrap());
    let mut lines = std::io::BufRead::lines(stderr).map(Result::unwrap);
    let line = lines.find(|line| line.starts_with("holding ")).unwrap();
    let words: Vec<&str> = line.split(' ').collect();
    let (pid, dir) = (words[1], Path::new(words[2]));
    assert!(dir.join("data").exists());

    test.kill().unwrap();
    assert_eq!(test.wait().unwrap().signal(), Some(9));
    // Ends when the server has; the keeper then needs a moment for the directory.
    let gone = format!("tail --pid={pid} -f /dev/null; until [ ! -e {} ]; do sleep 0.05; done", dir.display());
    assert!(Command::new("timeout").args(["30", "sh", "-c", &gone]).status().unwrap().success());
}

#[test]
fn tcp_asks_for_the_password_and_own_rules_come_first() {
    let cluster = Cluster::start(PgVersion::V15, Options::new().hba("local shut all reject"));
    let over_tcp = |password: &str| {
        let mut psql = cluster.client("psql");
        psql.env("PGHOST", "127.0.0.1").env("PGPASSWORD", password);
        psql.args(["-X", "-d", "postgres", "-c", "SELECT 1"]).output().unwrap().status.success()
    };
    assert!(over_tcp(Cluster::PASSWORD));
    assert!(!over_tcp("wrong"));
    cluster.create_database("shut");
    assert!(cluster.try_sql("shut", "SELECT 1").unwrap_err().contains("pg_hba.conf rejects"));
}

#[test]
fn the_program_runs_in_a_world_of_its_own() {
    let workspace = Workspace::new();
    let mut call = workspace.pgkeep(["--version"]);
    let environment: Vec<_> = call.command().get_envs().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    assert_eq!(environment, ["HOME", "LC_ALL", "PATH", "PGKEEP_STATE_DIR", "TMPDIR"]);
    call.run().succeeds();
    assert_eq!(tree(&workspace.path("")), ["home/", "state/", "tmp/"]);
}

#[test]
fn the_platform_is_as_deployed_and_copies_are_equal() {
    for version in PgVersion::ALL {
        let cluster = Cluster::plain(version);
        shapes::platform(&cluster);
        let tables = |database: &str, kinds: &str, owner: &str| {
            cluster.sql(
                database,
                &format!(
                    "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace
                     AND relkind IN ({kinds}) AND pg_get_userbyid(relowner) = '{owner}'"
                ),
            )
        };
        assert_eq!(tables("apikey", "'r'", "security_console"), "3");
        assert_eq!(tables("root", "'r'", "keycloak"), "92");
        assert_eq!(tables("aistore", "'r'", "postgres"), "8");
        assert_eq!(tables("lakefs", "'r','p','v'", "postgres"), "102");
        assert_eq!(tables("cost_server", "'r','S'", "postgres"), "4");
        for database in PLATFORM {
            let copy = format!("{database}_copy");
            copy_with_stock_tools(&cluster, database, &copy);
            let source = Snapshot::of(&cluster, database);
            assert!(source.rows() > 200, "{database} has {} rows", source.rows());
            assert_equal(&source, &Snapshot::of(&cluster, &copy));
        }
    }
}

#[test]
fn the_torture_survives_the_stock_tools() {
    for version in PgVersion::ALL {
        let cluster = Cluster::plain(version);
        shapes::torture(&cluster, "torture");
        copy_with_stock_tools(&cluster, "torture", "copy");
        let source = Snapshot::of(&cluster, "torture");
        only_the_database_itself_differs(source.differences(&Snapshot::of(&cluster, "copy")));
    }
}

#[test]
fn a_newer_server_takes_the_torture_of_an_older_one() {
    let (old, new) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V18));
    shapes::torture(&old, "torture");
    new.sql("postgres", include_str!("common/shapes/torture_roles.sql"));
    let archive = tempfile::NamedTempFile::new().unwrap();
    let mut pg_dump = new.client("pg_dump");
    old.run(pg_dump.args(["-Fc", "-d", &old.conninfo("torture"), "-f"]).arg(archive.path()));
    new.create_database("torture");
    new.run(new.client("pg_restore").args(["-e", "-d", &new.conninfo("torture")]).arg(archive.path()));
    let source = Snapshot::of(&old, "torture");
    only_the_database_itself_differs(source.content_differences(&Snapshot::of(&new, "torture")));
}

#[test]
fn roles_are_equal_when_the_globals_were_replayed_and_not_before() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    source.sql("postgres", include_str!("common/shapes/torture_roles.sql"));
    assert_ne!(roles(&source), roles(&target));
    let globals = tempfile::NamedTempFile::new().unwrap();
    source.run(source.client("pg_dumpall").arg("-g").arg("-f").arg(globals.path()));
    // Not stopping at errors: the superuser exists already.
    target.run(target.client("psql").args(["-X", "-q", "-d", "postgres", "-f"]).arg(globals.path()));
    assert_eq!(roles(&source), roles(&target));
}

#[test]
fn extensions_survive_the_stock_tools() {
    for version in PgVersion::ALL {
        let cluster = Cluster::plain(version);
        assert!(!shapes::extensions(&cluster, "extended").is_empty());
        copy_with_stock_tools(&cluster, "extended", "copy");
        assert_equal(&Snapshot::of(&cluster, "extended"), &Snapshot::of(&cluster, "copy"));
    }
}

#[test]
fn equality_sees_every_kind_of_difference() {
    let cluster = Cluster::plain(PgVersion::V15);
    shapes::torture(&cluster, "torture");
    let source = Snapshot::of(&cluster, "torture");
    // What is done to the database, and a word of what must be reported.
    let damages = [
        ("UPDATE torture.child SET b = 'd'", "rows of torture.child"),
        ("DELETE FROM torture.no_columns WHERE ctid = '(0,1)'", "rows of torture.no_columns"),
        ("UPDATE torture.secured SET secret = 'c' WHERE secret = 'b'", "rows of torture.secured"),
        ("SELECT nextval('torture.untouched')", "sequence torture.untouched"),
        ("SELECT lo_put(424242, 7, 'X')", "large object 424242"),
        ("COMMENT ON LARGE OBJECT 424242 IS NULL", "large object 424242"),
        ("GRANT SELECT ON LARGE OBJECT 424243 TO PUBLIC", "large object 424243"),
        ("ALTER DATABASE torture SET work_mem = '8MB'", "setting of the database"),
        ("ALTER ROLE torture_member IN DATABASE torture RESET ALL", "setting of role torture_member"),
        ("ALTER DATABASE torture OWNER TO postgres", "database: "),
        ("REVOKE SELECT ON SEQUENCE torture.counter FROM PUBLIC", "schema - GRANT SELECT ON SEQUENCE torture.counter"),
        ("ALTER POLICY writing ON torture.secured USING (false)", "schema + CREATE POLICY writing"),
        ("ALTER TABLE torture.audited ENABLE TRIGGER late", "DISABLE TRIGGER late"),
        ("DROP PUBLICATION everything_in_schema", "everything_in_schema"),
        ("REFRESH MATERIALIZED VIEW torture.not_yet", "rows of torture.not_yet: missing"),
    ];
    for (damage, word) in damages {
        let before = Snapshot::of(&cluster, "torture");
        cluster.sql("torture", damage);
        let found = before.differences(&Snapshot::of(&cluster, "torture")).map(|found| found.to_string());
        assert!(found.as_ref().is_some_and(|found| found.contains(word)), "{damage}: {found:?}");
    }
    assert!(source.differences(&source.clone()).is_none());
}

/// What the stock tools do with names, so that what ours do can be measured by it. Two things may surprise: servers
/// take a newline in a database's name, and `pg_dump -Fc` dumps it; only what would write the name into a script or a
/// shell command (`-C` to a script, `pg_dumpall` of everything) refuses.
#[test]
fn the_stock_tools_dump_every_name_and_refuse_scripts_with_a_line_break() {
    for &version in &PgVersion::ALL[..count(1, 2)] {
        let cluster = Cluster::plain(version);
        let dumps = |database: &str, format: &str| {
            let conninfo = cluster.conninfo(database);
            cluster.client("pg_dump").args([format, "-C", "-d", &conninfo]).output().unwrap().status.success()
        };
        for name in NASTY_NAMES {
            cluster.create_database(name);
            assert!(dumps(name, "-Fc"), "{version:?} {name:?}");
        }
        for name in BREAKING_NAMES {
            cluster.create_database(name);
            assert!(dumps(name, "-Fc"), "{version:?} {name:?}");
            assert!(!dumps(name, "-Fp"), "{version:?} {name:?}");
        }
        for name in NASTY_NAMES.into_iter().chain(BREAKING_NAMES) {
            assert!(cluster.databases().contains(&name.to_owned()), "{version:?} {name:?}");
        }
        assert!(cluster.client("pg_dumpall").arg("-g").output().unwrap().status.success());
        let all = cluster.client("pg_dumpall").arg("-s").output().unwrap();
        assert!(!all.status.success());
        let complaint = String::from_utf8_lossy(&all.stderr).into_owned();
        assert!(complaint.contains("contains a newline or carriage return"), "{complaint}");
    }
}
