//! `restore dump` on real servers: what was dumped comes back, whole and under its own name, or not at all.

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;

use common::cluster::identifier;
use common::dumps::until;
use common::equality::{Snapshot, assert_equal, roles};
use common::pgkeep::tree;
use common::shapes::{self, NASTY_NAMES, PLATFORM};
use common::{Cluster, Outcome, PgVersion, Workspace};
use pgkeep::digest::Fingerprint;
use pgkeep::repo::{DumpManifest, ObjectRole};
use serde_json::Value;

fn dump(workspace: &Workspace, cluster: &Cluster, databases: &[&str]) {
    let databases = databases.iter().flat_map(|database| ["-d".to_owned(), cluster.conninfo(database)]);
    workspace
        .pgkeep_on(cluster, ["dump", "--check", "decode"].map(str::to_owned).into_iter().chain(databases))
        .run()
        .succeeds();
}

fn restore<'a>(workspace: &Workspace, cluster: &Cluster, arguments: impl IntoIterator<Item = &'a str>) -> Outcome {
    let arguments = ["restore", "dump"].into_iter().chain(arguments);
    workspace.pgkeep_on(cluster, arguments).arg("--json").run()
}

fn item(outcome: &Outcome) -> Value {
    outcome.json()["items"][0].clone()
}

/// What a table named in a message would have to be called for the message to be wrong.
fn message(outcome: &Outcome) -> String {
    let error = &outcome.json()["error"];
    format!("{} | {}", error["message"].as_str().unwrap_or_default(), error["hint"].as_str().unwrap_or_default())
}

/// Every file of the repository whose name ends so.
fn stored(workspace: &Workspace, ending: &str) -> Vec<PathBuf> {
    let repository = workspace.repository();
    tree(&repository).iter().filter(|name| name.ends_with(ending)).map(|name| repository.join(name)).collect()
}

fn record(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn flip_a_bit(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(path, bytes).unwrap();
}

/// A connection string that names the server and no database.
fn uri(cluster: &Cluster, user: &str) -> String {
    let password: String = Cluster::PASSWORD.bytes().map(|byte| format!("%{byte:02X}")).collect();
    format!("postgresql://{user}:{password}@127.0.0.1:{}", cluster.port())
}

fn signal(child: &Child, name: &str) {
    let sent = std::process::Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status().unwrap();
    assert!(sent.success());
}

/// A database whose restore stands still, while the server says so, in the middle of its last index.
const SLOW: &str = "
    CREATE TABLE t AS SELECT n FROM generate_series(1, 10) n;
    CREATE FUNCTION slow(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
        IF current_setting('test.slow', true) = 'on' THEN PERFORM pg_sleep(600); END IF; RETURN n; END $$;
    CREATE INDEX ON t (slow(n));";

fn stands_still(cluster: &Cluster) {
    until("the restore stands still", || {
        cluster.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
    });
}

/// A database with a fault that only a restore shows: an index on a function that finds its helper by search path.
const FAULTY: &str = "
    CREATE TABLE good AS SELECT n FROM generate_series(1, 10) n;
    CREATE FUNCTION helper(n int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT n';
    CREATE FUNCTION careless(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS 'BEGIN RETURN helper(n); END';
    CREATE INDEX careless_index ON good (careless(n));";

#[test]
fn databases_come_back_beside_the_original() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shapes::platform(&cluster);
    shapes::torture(&cluster, "torture");
    shapes::extensions(&cluster, "extended");
    shapes::empty(&cluster, "empty");
    let databases: Vec<&str> = PLATFORM.into_iter().chain(["torture", "extended", "empty"]).collect();
    dump(&workspace, &cluster, &databases);
    for database in databases {
        let copy = format!("{database} copy");
        let jobs = if database == "torture" { "1" } else { "4" };
        let outcome = restore(&workspace, &cluster, ["-d", database, "--into", &copy, "--jobs", jobs]).succeeds();
        assert_eq!(item(&outcome)["rolesCreated"], serde_json::json!([]), "{}", outcome.transcript());
        assert_equal(&Snapshot::of(&cluster, database), &Snapshot::of(&cluster, &copy));
    }
    assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new());
}

#[test]
fn a_cluster_without_the_roles_gets_those_that_are_needed() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    let workspace = Workspace::new();
    shapes::torture(&source, "torture");
    shapes::platform(&source);
    dump(&workspace, &source, &["torture", "apikey"]);

    let to = uri(&target, "postgres");
    let outcome = restore(&workspace, &source, ["-d", "torture", "--to", &to, "--jobs", "2"]).succeeds();
    assert_equal(&Snapshot::of(&source, "torture"), &Snapshot::of(&target, "torture"));
    let created = item(&outcome)["rolesCreated"].clone();
    assert_eq!(
        created,
        serde_json::json!(["-rf; $(x)", "Größe 🐘", "a=b", "quo\"te'", "torture_member", "torture_owner"])
    );
    assert!(!outcome.transcript().contains("SCRAM-SHA-256"), "{}", outcome.transcript());

    restore(&workspace, &source, ["-d", "apikey", "--to", &to]).succeeds();
    assert_equal(&Snapshot::of(&source, "apikey"), &Snapshot::of(&target, "apikey"));
    // Everything that the two databases refer to came, with passwords, settings and memberships; nothing else did.
    let foreign = |line: &String| line.contains("unused by any object") || line.contains("keycloak");
    let expected: Vec<String> = roles(&source).into_iter().filter(|line| !foreign(line)).collect();
    assert_eq!(roles(&target), expected);
}

#[test]
fn a_newer_server_takes_what_an_older_one_held() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V18));
    let workspace = Workspace::new();
    shapes::torture(&source, "torture");
    dump(&workspace, &source, &["torture"]);
    let outcome = restore(&workspace, &target, ["-d", "torture", "--jobs", "2"]).succeeds();
    let differences = Snapshot::of(&source, "torture").content_differences(&Snapshot::of(&target, "torture"));
    assert!(differences.is_none(), "{}\n{}", differences.unwrap(), outcome.transcript());
}

#[test]
fn clients_newer_than_the_server_restore_to_it() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shapes::platform(&cluster);
    cluster.create_database("faulty");
    cluster.sql("faulty", FAULTY);
    let newer = PgVersion::V18.bin_dir();
    let newer = newer.to_str().unwrap();
    let with = |arguments: &[&str]| {
        let arguments = arguments.iter().copied().chain(["--bin-dir", newer, "--json"]);
        workspace.pgkeep_on(&cluster, arguments).run()
    };
    with(&["dump", "-d", "apikey", "-d", "faulty"]).succeeds();
    // pg_restore 18 sets transaction_timeout, which is news to this server, in every worker.
    for jobs in ["1", "3"] {
        let copy = format!("copy {jobs}");
        let restored = with(&["restore", "dump", "-d", "apikey", "--into", &copy, "--jobs", jobs]).succeeds();
        assert_eq!(restored.json()["warnings"], serde_json::json!([]));
        assert_equal(&Snapshot::of(&cluster, "apikey"), &Snapshot::of(&cluster, &copy));
    }
    let failed = with(&["restore", "dump", "-d", "faulty", "--into", "copy"]).exits(4);
    assert!(message(&failed).contains("helper"), "{}", failed.transcript());
    assert!(!cluster.databases().iter().any(|name| name.starts_with("copy.") || name == "copy"));
}

#[test]
fn a_database_that_holds_something_is_never_restored_over() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE TABLE t (a int)");
    dump(&workspace, &cluster, &["shop"]);
    let holders = [
        ("CREATE TABLE kept AS SELECT 1", "public.kept"),
        ("CREATE FUNCTION kept() RETURNS int LANGUAGE sql AS 'SELECT 1'", "public.kept"),
        ("CREATE TYPE kept AS ENUM ('a')", "1 type (\"public.kept\")"),
        ("CREATE DOMAIN kept AS int", "public.kept"),
        ("CREATE SCHEMA kept", "1 schema (\"kept\")"),
        ("SELECT lo_create(0)", "large object"),
        ("CREATE EXTENSION hstore", "1 extension (\"hstore\")"),
        ("CREATE PUBLICATION kept", "kept"),
        ("CREATE SEQUENCE kept", "public.kept"),
    ];
    for (sql, named) in holders {
        cluster.sql("postgres", "DROP DATABASE IF EXISTS copy");
        cluster.create_database("copy");
        cluster.sql("copy", sql);
        let before = Snapshot::of(&cluster, "copy");
        let refused = restore(&workspace, &cluster, ["-d", "shop", "--into", "copy"]).exits(9);
        assert!(message(&refused).contains(named), "{sql}: {}", message(&refused));
        assert!(message(&refused).contains("--into"), "{}", message(&refused));
        assert_equal(&before, &Snapshot::of(&cluster, "copy"));
    }
    let template = restore(&workspace, &cluster, ["-d", "shop", "--into", "template1"]).exits(9);
    assert!(message(&template).contains("template"), "{}", message(&template));
    // The original is no exception.
    restore(&workspace, &cluster, ["-d", "shop"]).exits(9);
}

#[test]
fn an_empty_database_is_restored_into_and_stays_empty_after_a_failure() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shapes::torture(&cluster, "torture");
    cluster.create_database("faulty");
    cluster.sql("faulty", FAULTY);
    dump(&workspace, &cluster, &["torture", "faulty"]);
    cluster.sql("postgres", "CREATE DATABASE ready TEMPLATE template0");
    restore(&workspace, &cluster, ["-d", "torture", "--into", "ready"]).succeeds();
    assert_equal(&Snapshot::of(&cluster, "torture"), &Snapshot::of(&cluster, "ready"));

    cluster.create_database("prepared");
    let before = Snapshot::of(&cluster, "prepared");
    let failed = restore(&workspace, &cluster, ["-d", "faulty", "--into", "prepared"]).exits(4);
    assert_equal(&before, &Snapshot::of(&cluster, "prepared"));
    assert_eq!(failed.json()["warnings"], serde_json::json!([]));
    // Workers cannot share a transaction; then what is left is said.
    let failed = restore(&workspace, &cluster, ["-d", "faulty", "--into", "prepared", "--jobs", "2"]).exits(4);
    assert!(failed.json()["warnings"].to_string().contains("may hold a part"), "{}", failed.transcript());
}

#[test]
fn a_failure_in_the_middle_leaves_nothing_unless_told_to_go_on() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.create_database("faulty");
    cluster.sql("faulty", FAULTY);
    dump(&workspace, &cluster, &["faulty"]);
    let before = cluster.databases();
    for jobs in ["1", "4"] {
        let failed = restore(&workspace, &cluster, ["-d", "faulty", "--into", "copy", "--jobs", jobs]).exits(4);
        let message = message(&failed);
        assert!(message.contains("helper(integer) does not exist"), "{message}");
        assert!(message.contains("INDEX careless_index"), "the entry is named: {message}");
        assert_eq!(item(&failed)["stage"], "restore");
        assert_eq!(cluster.databases(), before);
    }
    let partial = restore(&workspace, &cluster, ["-d", "faulty", "--into", "copy", "--keep-going"]).exits(10);
    assert_eq!(partial.json()["status"], "partial");
    assert!(partial.json()["warnings"].to_string().contains("careless_index"), "{}", partial.transcript());
    assert_eq!(cluster.sql("copy", "SELECT count(*) FROM good"), "10");
    assert_eq!(cluster.sql("copy", "SELECT count(*) FROM pg_class WHERE relname = 'careless_index'"), "0");
    assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new());
}

#[test]
fn what_cannot_end_well_is_refused_before_anything_is_made() {
    let source = Cluster::plain(PgVersion::V15);
    let target = Cluster::plain(PgVersion::V18);
    let workspace = Workspace::new();
    shapes::extensions(&source, "extended");
    source.sql("postgres", "CREATE ROLE owner_a; CREATE ROLE weak LOGIN");
    source.sql("postgres", "CREATE DATABASE owned OWNER owner_a");
    source.sql("owned", "CREATE TABLE t (a int); ALTER TABLE t OWNER TO owner_a");
    dump(&workspace, &source, &["extended", "owned"]);
    let before = (target.databases(), roles(&target));

    let refused = restore(&workspace, &target, ["-d", "extended"]).exits(9);
    for named in ["\"hstore\"", "\"citext\"", "postgresql-18"] {
        assert!(message(&refused).contains(named), "{}", message(&refused));
    }
    assert_eq!(item(&refused)["stage"], "plan");
    assert_eq!((target.databases(), roles(&target)), before);

    // A role that may create nothing, then one that may create databases but not give them away.
    let source_before = source.databases();
    let as_weak = |into| restore(&workspace, &source, ["-d", "owned", "--into", into, "-U", "weak"]);
    let refused = as_weak("copy").exits(9);
    assert!(message(&refused).contains("GRANT \"owner_a\" TO \"weak\""), "{}", message(&refused));
    source.sql("postgres", "GRANT owner_a TO weak");
    let refused = as_weak("copy").exits(9);
    assert!(message(&refused).contains("ALTER ROLE \"weak\" CREATEDB"), "{}", message(&refused));
    source.sql("postgres", "ALTER ROLE weak CREATEDB");
    as_weak("copy").succeeds();
    assert_equal(&Snapshot::of(&source, "owned"), &Snapshot::of(&source, "copy"));
    assert_eq!(source.databases().len(), source_before.len() + 1);

    // A superuser's objects are no reason to make an ordinary role a member of a superuser.
    shapes::empty(&source, "of_superuser");
    dump(&workspace, &source, &["of_superuser"]);
    let refused = restore(&workspace, &source, ["-d", "of_superuser", "--into", "x", "-U", "weak"]).exits(9);
    assert!(message(&refused).contains("restore as a superuser"), "{}", message(&refused));
    assert!(!message(&refused).contains("GRANT"), "{}", message(&refused));

    // Roles that nothing can create are named, with what to do.
    let arguments = ["dump", "--no-globals", "-d", "owned", "--instance", "bare"];
    workspace.pgkeep_on(&source, arguments).run().succeeds();
    let refused = restore(&workspace, &target, ["-d", "owned", "--instance", "bare"]).exits(9);
    assert!(message(&refused).contains("CREATE ROLE \"owner_a\" NOLOGIN;"), "{}", message(&refused));
    target.sql("postgres", "CREATE ROLE \"owner_a\" NOLOGIN;");
    restore(&workspace, &target, ["-d", "owned", "--instance", "bare"]).succeeds();

    let failed = restore(&workspace, &source, ["-d", "extended", "--into", "x", "--scratch", "/nowhere"]).exits(5);
    assert!(message(&failed).contains("/nowhere"));
}

#[test]
fn a_flipped_bit_is_found_before_anything_is_made() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    let workspace = Workspace::new();
    source.sql("postgres", "CREATE ROLE owner_a");
    source.create_database("shop");
    source.sql(
        "shop",
        "CREATE TABLE t AS SELECT n, md5(n::text) FROM generate_series(1, 1000) n; ALTER TABLE t OWNER TO owner_a",
    );
    dump(&workspace, &source, &["shop"]);
    let before = (target.databases(), roles(&target));
    for ending in [".dump.zst", "_globals.sql.zst", ".details.json.zst"] {
        let path = &stored(&workspace, ending)[0];
        let whole = std::fs::read(path).unwrap();
        flip_a_bit(path);
        let failed = restore(&workspace, &target, ["-d", "shop"]).exits(6);
        assert!(message(&failed).contains(ending), "{}", failed.transcript());
        assert_eq!((target.databases(), roles(&target)), before);
        let file = workspace.path("shop.dump");
        if ending == ".dump.zst" {
            restore(&workspace, &target, ["-d", "shop", "--to-file", file.to_str().unwrap()]).exits(6);
            assert!(!file.exists());
            let piped =
                workspace.pgkeep_on(&target, ["restore", "dump", "-d", "shop", "--to-file", "-"]).run().exits(6);
            assert_eq!(piped.stdout, "");
        }
        std::fs::write(path, whole).unwrap();
    }
    restore(&workspace, &target, ["-d", "shop"]).succeeds();
    assert_equal(&Snapshot::of(&source, "shop"), &Snapshot::of(&target, "shop"));
}

#[test]
fn what_newer_was_passed_over_is_said() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE TABLE t AS SELECT 1 AS first");
    dump(&workspace, &cluster, &["shop"]);
    cluster.sql("shop", "ALTER TABLE t RENAME first TO second");
    dump(&workspace, &cluster, &["shop"]);
    let newest = stored(&workspace, ".dump.zst").pop().unwrap();
    std::fs::remove_file(&newest).unwrap();
    let restored = restore(&workspace, &cluster, ["-d", "shop", "--into", "copy"]).succeeds();
    let warnings = restored.json()["warnings"].to_string();
    let id = newest.file_name().unwrap().to_str().unwrap().strip_suffix(".dump.zst").unwrap().to_owned();
    assert!(warnings.contains(&id) && warnings.contains("is missing"), "{warnings}");
    assert_eq!(cluster.sql("copy", "SELECT first FROM t"), "1");
    // By its id it can be tried, and fails before anything is made.
    let failed = restore(&workspace, &cluster, [id.as_str(), "--into", "other"]).exits(5);
    assert!(failed.json()["warnings"].to_string().contains("not a good backup"), "{}", failed.transcript());
    assert!(!cluster.databases().iter().any(|name| name.starts_with("other")));
}

#[test]
fn a_restore_that_is_killed_leaves_what_the_next_one_clears() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.create_database("shop");
    cluster.sql("shop", SLOW);
    dump(&workspace, &cluster, &["shop"]);
    cluster.sql("postgres", "ALTER ROLE postgres SET test.slow = 'on'");
    let before = cluster.databases();
    let start = || workspace.pgkeep_on(&cluster, ["restore", "dump", "-d", "shop", "--into", "copy", "--json"]).spawn();

    let mut killed = start();
    stands_still(&cluster);
    signal(&killed, "KILL");
    killed.wait().unwrap();
    assert!(cluster.databases().contains(&"copy.pgkeep-restoring".to_owned()));
    assert!(!cluster.databases().contains(&"copy".to_owned()), "a database under its real name is whole");
    // pg_restore was told by the kernel, cancels its statement and goes.
    until("the sessions of the killed restore end", || {
        cluster.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'copy.pgkeep-restoring'") == "0"
    });
    assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new(), "nothing decoded is left");

    // Interrupted, it clears up itself.
    for (name, code) in [("INT", 130), ("TERM", 143)] {
        let stopped = start();
        stands_still(&cluster);
        signal(&stopped, name);
        let outcome = Outcome::wait_for(stopped).exits(code);
        assert_eq!(item(&outcome)["stage"], "restore", "{}", outcome.transcript());
        assert_eq!(cluster.databases(), before);
        assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new());
    }

    // So does one whose server ends its session.
    let ended = start();
    stands_still(&cluster);
    cluster.sql("postgres", "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    let outcome = Outcome::wait_for(ended).exits(4);
    assert!(message(&outcome).contains("terminating connection"), "{}", message(&outcome));
    assert_eq!(cluster.databases(), before);

    // Two restores into one database exclude each other, two into different ones do not.
    let first = start();
    stands_still(&cluster);
    let second = restore(&workspace, &cluster, ["-d", "shop", "--into", "copy"]).exits(9);
    assert!(message(&second).contains("use it: another restore may be under way"), "{}", message(&second));
    let quick = ["restore", "dump", "-d", "shop", "--into", "other", "--json"];
    workspace.pgkeep_on(&cluster, quick).env("PGOPTIONS", "-c test.slow=off").run().succeeds();
    signal(&first, "KILL");
    Outcome::wait_for(first);
    until("the sessions of the killed restore end", || {
        cluster.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = 'copy.pgkeep-restoring'") == "0"
    });
    // In an empty database nothing shows that somebody is filling it, until he is done.
    cluster.create_database("prepared");
    let into = ["restore", "dump", "-d", "shop", "--into", "prepared", "--json"];
    let first = workspace.pgkeep_on(&cluster, into).spawn();
    stands_still(&cluster);
    let second = workspace.pgkeep_on(&cluster, into).run().exits(7);
    assert!(message(&second).contains("\"prepared\""), "{}", message(&second));
    signal(&first, "INT");
    Outcome::wait_for(first).exits(130);

    let records = stored(&workspace, ".json").into_iter().filter(|path| path.to_string_lossy().contains("-restore-"));
    let statuses: Vec<Value> = records.map(|path| record(&path)["status"].clone()).collect();
    let count = |status: &str| statuses.iter().filter(|found| *found == status).count();
    // What was killed could not say so; readers see that nobody holds its lock.
    assert_eq!((count("RUNNING"), count("FAILED"), count("SUCCEEDED")), (2, 6, 1), "{statuses:?}");

    cluster.sql("postgres", "ALTER ROLE postgres RESET test.slow");
    let restored = restore(&workspace, &cluster, ["-d", "shop", "--into", "copy"]).succeeds();
    assert!(restored.json()["warnings"].to_string().contains("did not end is dropped"), "{}", restored.transcript());
    assert_equal(&Snapshot::of(&cluster, "shop"), &Snapshot::of(&cluster, "copy"));
    assert!(!cluster.databases().contains(&"copy.pgkeep-restoring".to_owned()));
}

/// Whenever it is killed: there is no database under the real name, or a whole one; and the next restore works, after
/// what its message says if it says something.
#[test]
fn a_restore_killed_at_any_moment_leaves_all_or_nothing() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.create_database("shop");
    let tables = (1..20).map(|n| format!("CREATE TABLE t{n} AS SELECT n FROM generate_series(1, 100) n;"));
    cluster.sql("shop", &tables.collect::<String>());
    dump(&workspace, &cluster, &["shop"]);
    let source = Snapshot::of(&cluster, "shop");
    let exists = |name: &str| cluster.databases().iter().any(|database| database == name);
    for looks in 0..common::count(4, 40) {
        let arguments = ["restore", "dump", "-d", "shop", "--into", "copy", "--analyze", "none", "--jobs", "2"];
        let mut child = workspace.pgkeep_on(&cluster, arguments).spawn();
        // Later from time to time: each look takes a while.
        until("the restore begins", || exists("copy.pgkeep-restoring") || exists("copy"));
        (0..looks).for_each(|_| drop(cluster.databases()));
        signal(&child, "KILL");
        child.wait().unwrap();
        let busy = "SELECT count(*) FROM pg_stat_activity WHERE application_name <> 'psql' AND backend_type = 'client backend'";
        until("the sessions of the killed restore end", || cluster.sql("postgres", busy) == "0");

        if !exists("copy") {
            let mut outcome = restore(&workspace, &cluster, ["-d", "shop", "--into", "copy", "--analyze", "none"]);
            if outcome.exit_code == Some(9) {
                // Killed before it could write on the database whose it is.
                let hint = outcome.json()["error"]["hint"].as_str().unwrap().to_owned();
                cluster.sql("postgres", hint.split_once(": ").unwrap().1);
                outcome = restore(&workspace, &cluster, ["-d", "shop", "--into", "copy", "--analyze", "none"]);
            }
            outcome.succeeds();
        }
        assert_equal(&source, &Snapshot::of(&cluster, "copy"));
        assert!(!exists("copy.pgkeep-restoring"));
        assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new());
        cluster.sql("postgres", "DROP DATABASE copy");
    }
}

#[test]
fn a_database_that_only_has_the_name_of_a_leftover_is_not_dropped() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shapes::empty(&cluster, "shop");
    dump(&workspace, &cluster, &["shop"]);
    cluster.create_database("copy.pgkeep-restoring");
    let refused = restore(&workspace, &cluster, ["-d", "shop", "--into", "copy"]).exits(9);
    assert!(message(&refused).contains("DROP DATABASE \"copy.pgkeep-restoring\";"), "{}", message(&refused));
    assert!(cluster.databases().contains(&"copy.pgkeep-restoring".to_owned()));
}

#[test]
fn rights_settings_and_locale_of_the_database_are_kept() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.sql("postgres", "CREATE ROLE own; CREATE ROLE \"gr a\"; CREATE ROLE b; CREATE ROLE \"Größe\"");
    let databases = [
        ("c_locale", "ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"),
        ("latin", "ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'"),
        ("icu", "LOCALE_PROVIDER icu ICU_LOCALE 'de-u-co-phonebk'"),
    ];
    for (name, options) in databases {
        cluster.sql("postgres", &format!("CREATE DATABASE {name} TEMPLATE template0 {options} OWNER own"));
    }
    cluster.sql(
        "c_locale",
        "GRANT CREATE ON DATABASE c_locale TO \"gr a\" WITH GRANT OPTION; SET ROLE \"gr a\";
         GRANT CREATE ON DATABASE c_locale TO b, \"Größe\"; RESET ROLE;
         ALTER DATABASE c_locale SET \"DateStyle\" = 'SQL, DMY'; ALTER DATABASE c_locale SET search_path = '';
         ALTER DATABASE c_locale SET default_transaction_read_only = on;
         ALTER ROLE b IN DATABASE c_locale SET search_path = \"$user\", \"a, b\";",
    );
    cluster.sql("latin", "REVOKE ALL ON DATABASE latin FROM PUBLIC, own; CREATE TABLE t AS SELECT 'größe'::text AS g");
    dump(&workspace, &cluster, &["c_locale", "latin", "icu"]);
    for (name, _) in databases {
        let copy = format!("{name}_copy");
        restore(&workspace, &cluster, ["-d", name, "--into", &copy]).succeeds();
        assert_equal(&Snapshot::of(&cluster, name), &Snapshot::of(&cluster, &copy));
        let locale = |database: &str| {
            let columns = "encoding, datlocprovider, datcollate, datctype, daticulocale, datcollversion";
            cluster.sql("postgres", &format!("SELECT {columns} FROM pg_database WHERE datname = '{database}'"))
        };
        assert_eq!(locale(name), locale(&copy));
    }
}

#[test]
fn a_dropped_schema_public_stays_dropped_and_a_template_a_template() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shapes::empty(&cluster, "bare");
    cluster.sql("bare", "DROP SCHEMA public; CREATE SCHEMA own; CREATE TABLE own.t (a int)");
    shapes::empty(&cluster, "pattern");
    cluster.sql("postgres", "ALTER DATABASE pattern IS_TEMPLATE true");
    dump(&workspace, &cluster, &["bare", "pattern"]);
    for (name, schemas) in [("bare", "own"), ("pattern", "public")] {
        let copy = format!("{name}_copy");
        restore(&workspace, &cluster, ["-d", name, "--into", &copy]).succeeds();
        let query = "SELECT nspname FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'";
        assert_eq!(cluster.sql(&copy, query), schemas);
    }
    let query = "SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_database WHERE datistemplate";
    assert_eq!(cluster.sql("postgres", query), "pattern pattern_copy template0 template1");
}

#[test]
fn a_setting_that_cannot_be_made_is_found_first_and_its_value_not_told() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.sql("postgres", "CREATE ROLE own; CREATE ROLE mover LOGIN CREATEDB IN ROLE own");
    cluster.sql("postgres", "CREATE DATABASE faulty OWNER own");
    cluster.sql("faulty", &format!("SET ROLE own; {FAULTY}"));
    // A parameter that nobody was given rights on is a superuser's to set.
    cluster.sql("postgres", "ALTER DATABASE faulty SET app.secret = 'TOPSECRET'");
    dump(&workspace, &cluster, &["faulty"]);
    let before = cluster.databases();
    let failed = restore(&workspace, &cluster, ["-d", "faulty", "--into", "copy", "-U", "mover"]).exits(4);
    // Its index would fail, too: pg_restore was never called.
    assert!(message(&failed).contains("SET \"app.secret\": ERROR: permission denied"), "{}", message(&failed));
    assert!(message(&failed).contains("--keep-going"), "{}", message(&failed));
    assert!(!failed.transcript().contains("TOPSECRET"), "{}", failed.transcript());
    assert_eq!(item(&failed)["stage"], "finish");
    assert_eq!(cluster.databases(), before);
}

#[test]
fn the_statement_that_failed_is_not_logged() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    let workspace = Workspace::new();
    source.sql("postgres", "CREATE ROLE own; CREATE DATABASE linked OWNER own");
    let linked = "CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
                  ALTER SERVER far OWNER TO own;
                  CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'x',
                  password 'TOPSECRET')";
    source.sql("linked", linked);
    dump(&workspace, &source, &["linked"]);
    // Who may not create the wrapper fails at all that follows.
    target.sql("postgres", "CREATE ROLE own; CREATE ROLE weak LOGIN CREATEDB IN ROLE own");
    let arguments = ["restore", "dump", "-d", "linked", "-U", "weak", "--keep-going", "-vvv"];
    let partial = workspace.pgkeep_on(&target, arguments).run().exits(10);
    assert!(partial.stderr.contains("USER MAPPING"), "{}", partial.transcript());
    assert!(partial.stderr.contains("DEBUG pg_restore: creating SERVER"), "{}", partial.transcript());
    assert!(!partial.transcript().contains("TOPSECRET"), "{}", partial.transcript());
}

/// A restore into `copy` that waits in the middle until [`go_on`].
fn restore_that_stands_still(cluster: &Cluster, workspace: &Workspace) -> Child {
    cluster.create_database("shop");
    // What waits goes on when it is cancelled.
    let going_on = SLOW.replace("RETURN n;", "RETURN n; EXCEPTION WHEN query_canceled THEN RETURN n;");
    cluster.sql("shop", &going_on.replace("(1, 10)", "(1, 1)"));
    dump(workspace, cluster, &["shop"]);
    cluster.sql("postgres", "ALTER ROLE postgres SET test.slow = 'on'");
    let arguments = ["restore", "dump", "-d", "shop", "--into", "copy", "--analyze", "none", "--json"];
    let child = workspace.pgkeep_on(cluster, arguments).spawn();
    stands_still(cluster);
    child
}

fn go_on(cluster: &Cluster, child: Child) -> Outcome {
    cluster.sql("postgres", "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'PgSleep'");
    Outcome::wait_for(child)
}

#[test]
fn a_database_made_during_the_restore_is_not_touched() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    let child = restore_that_stands_still(&cluster, &workspace);
    cluster.create_database("copy");
    cluster.sql("copy", "CREATE TABLE theirs (a int)");
    let refused = go_on(&cluster, child).exits(9);
    assert!(message(&refused).contains("\"copy\" was created by somebody else"), "{}", message(&refused));
    assert_eq!(cluster.sql("copy", "SELECT count(*) FROM theirs"), "0");
    assert!(!cluster.databases().contains(&"copy.pgkeep-restoring".to_owned()));
}

#[test]
fn only_what_was_filled_gets_the_real_name() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    let child = restore_that_stands_still(&cluster, &workspace);
    // As two restores do that did not see each other's claim.
    cluster.sql("postgres", "UPDATE pg_database SET datname = 'filled' WHERE datname = 'copy.pgkeep-restoring'");
    cluster.create_database("copy.pgkeep-restoring");
    let refused = go_on(&cluster, child).exits(9);
    assert!(message(&refused).contains("is another one than the one that was filled"), "{}", message(&refused));
    assert_eq!(cluster.databases(), ["copy.pgkeep-restoring", "filled", "postgres", "shop"]);
}

#[test]
fn the_superuser_of_initdb_is_not_made_whatever_its_name() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    let workspace = Workspace::new();
    // A cluster of `initdb --username=dba`: the role that the server does not record uses of.
    source.sql("postgres", "CREATE ROLE helper SUPERUSER LOGIN");
    let sql = "ALTER ROLE postgres RENAME TO dba; CREATE ROLE postgres SUPERUSER LOGIN";
    source.run(source.client("psql").args(["--username=helper", "--dbname=postgres", "--command", sql]));
    source.sql("postgres", "CREATE ROLE own; CREATE DATABASE shop OWNER own; CREATE DATABASE other OWNER own");
    source.sql("shop", "SET ROLE own; CREATE TABLE t (a int); GRANT SELECT (a) ON t TO dba;");
    source.sql("other", "SET ROLE own; CREATE TABLE t (a int)");
    dump(&workspace, &source, &["shop", "other"]);
    let outcome = restore(&workspace, &target, ["-d", "other"]).succeeds();
    assert_eq!(item(&outcome)["rolesCreated"], serde_json::json!(["own"]));
    let refused = restore(&workspace, &target, ["-d", "shop"]).exits(9);
    assert!(message(&refused).contains("CREATE ROLE \"dba\" NOLOGIN;"), "{}", message(&refused));
    assert!(!roles(&target).iter().any(|role| role.contains("dba")), "{:?}", roles(&target));
    // What was given to it comes back once somebody has decided what it is here.
    target.sql("postgres", "CREATE ROLE dba NOLOGIN");
    restore(&workspace, &target, ["-d", "shop"]).succeeds();
    assert_equal(&Snapshot::of(&source, "shop"), &Snapshot::of(&target, "shop"));
}

#[test]
fn a_locale_that_the_server_lacks_is_named_and_leaves_nothing() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    let workspace = Workspace::new();
    source.sql("postgres", "CREATE ROLE own");
    source.create_database("shop");
    source.sql("shop", "CREATE TABLE t (a int); ALTER TABLE t OWNER TO own");
    dump(&workspace, &source, &["shop"]);
    // A host with other locales than this one, by its dump.
    let details = &stored(&workspace, ".details.json.zst")[0];
    let text = String::from_utf8(zstd::decode_all(&std::fs::read(details).unwrap()[..]).unwrap()).unwrap();
    let changed = zstd::encode_all(text.replace("\"C.UTF-8\"", "\"xx_XX.utf8\"").as_bytes(), 3).unwrap();
    std::fs::write(details, &changed).unwrap();
    let path = &stored(&workspace, ".manifest.json")[0];
    let stem = path.file_name().unwrap().to_str().unwrap().strip_suffix(".manifest.json").unwrap().parse().unwrap();
    let body = std::fs::read(path).unwrap();
    let mut manifest = DumpManifest::from_json(&body, &"main".parse().unwrap(), &stem).unwrap();
    for object in manifest.objects.iter_mut().filter(|object| object.role == ObjectRole::Details) {
        let Fingerprint { size_bytes, sha256 } = Fingerprint::of(&changed);
        (object.size_bytes, object.sha256) = (size_bytes, sha256);
    }
    std::fs::write(path, manifest.to_json().unwrap()).unwrap();

    let before = (target.databases(), roles(&target));
    let failed = restore(&workspace, &target, ["-d", "shop"]).exits(4);
    for named in ["xx_XX.utf8", "locale-gen", "CREATE DATABASE \"shop\" TEMPLATE template0"] {
        assert!(message(&failed).contains(named), "{}", message(&failed));
    }
    assert_eq!((target.databases(), roles(&target)), before);
    // The way out that the hint names.
    target.sql("postgres", "CREATE DATABASE \"shop\" TEMPLATE template0 ENCODING 'UTF8' LOCALE 'C.UTF-8';");
    restore(&workspace, &target, ["-d", "shop"]).succeeds();
    assert_equal(&Snapshot::of(&source, "shop"), &Snapshot::of(&target, "shop"));
}

#[test]
fn passwords_come_along_or_not_and_nobody_s_is_changed() {
    let source = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    source.sql(
        "postgres",
        "CREATE ROLE app LOGIN PASSWORD 'first'; CREATE ROLE other LOGIN PASSWORD 'second';
         CREATE ROLE boss SUPERUSER LOGIN PASSWORD 'third'; ALTER ROLE postgres PASSWORD 'fourth'",
    );
    source.create_database("shop");
    source.sql(
        "shop",
        "CREATE TABLE a (); ALTER TABLE a OWNER TO app; CREATE TABLE b (); ALTER TABLE b OWNER TO other;
                        CREATE TABLE c (); ALTER TABLE c OWNER TO boss",
    );
    dump(&workspace, &source, &["shop"]);
    let secret = |cluster: &Cluster, role: &str| {
        cluster
            .sql("postgres", &format!("SELECT coalesce(rolpassword, 'none') FROM pg_authid WHERE rolname = '{role}'"))
    };
    for flag in [None, Some("--no-role-passwords")] {
        let target = Cluster::plain(PgVersion::V15);
        target.sql("postgres", "CREATE ROLE other NOLOGIN PASSWORD 'here before'");
        let (other, postgres) = (secret(&target, "other"), secret(&target, "postgres"));
        let outcome = restore(&workspace, &target, ["-d", "shop"].into_iter().chain(flag)).succeeds();
        assert_eq!(item(&outcome)["rolesCreated"], serde_json::json!(["app", "boss"]));
        let expected = if flag.is_none() { secret(&source, "app") } else { "none".to_owned() };
        assert_eq!(secret(&target, "app"), expected);
        assert_eq!(secret(&target, "other"), other);
        assert_eq!(secret(&target, "postgres"), postgres);
        assert_eq!(target.sql("postgres", "SELECT rolcanlogin FROM pg_roles WHERE rolname = 'other'"), "f");
    }
    // Who is no superuser cannot make one, and says so.
    source.sql("postgres", "CREATE DATABASE office OWNER boss");
    source.sql("office", "CREATE TABLE t (); ALTER TABLE t OWNER TO boss");
    dump(&workspace, &source, &["office"]);
    for version in PgVersion::ALL {
        let target = Cluster::plain(version);
        target.sql("postgres", "CREATE ROLE maker LOGIN CREATEDB CREATEROLE");
        let outcome = restore(&workspace, &target, ["-d", "office", "-U", "maker"]).succeeds();
        assert!(outcome.json()["warnings"].to_string().contains("without SUPERUSER"), "{}", outcome.transcript());
        assert_eq!(target.sql("postgres", "SELECT rolsuper FROM pg_roles WHERE rolname = 'boss'"), "f");
        let differences = Snapshot::of(&source, "office").content_differences(&Snapshot::of(&target, "office"));
        assert!(differences.is_none(), "{}", differences.unwrap());
    }
}

#[test]
fn the_plain_archive_can_be_had() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shapes::platform(&cluster);
    dump(&workspace, &cluster, &["apikey"]);
    let file = workspace.path("out.dump");
    let name = file.to_str().unwrap();
    let outcome = restore(&workspace, &cluster, ["-d", "apikey", "--to-file", name]).succeeds();
    assert_eq!(item(&outcome)["file"], name);
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let manifest = record(&stored(&workspace, ".manifest.json")[0]);
    let written = std::fs::read(&file).unwrap();
    assert_eq!(pgkeep::digest::Sha256::of(&written).to_string(), manifest["plain"]["sha256"].as_str().unwrap());
    cluster.create_database("by_hand");
    cluster.run(cluster.client("pg_restore").args(["-e", "-d", "by_hand"]).arg(&file));

    // A file that is there is not written over; nothing else lies about.
    std::fs::write(&file, "mine").unwrap();
    restore(&workspace, &cluster, ["-d", "apikey", "--to-file", name]).exits(9);
    assert_eq!(std::fs::read(&file).unwrap(), b"mine");
    assert!(!tree(&workspace.path("")).iter().any(|name| name.starts_with(".pgkeep-")));

    let mut piped = workspace.pgkeep_on(&cluster, ["restore", "dump", "-d", "apikey", "--to-file", "-"]);
    let output = piped.command().output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, written);
    let refused = restore(&workspace, &cluster, ["-d", "apikey", "--to-file", "-"]).exits(2);
    assert!(message(&refused).contains("--json"));
}

#[test]
fn databases_of_any_name_come_back() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    let workspace = Workspace::new();
    let names: Vec<&str> = NASTY_NAMES.into_iter().chain(shapes::BREAKING_NAMES).collect();
    let names: Vec<&str> = names.iter().copied().step_by(common::count(4, 1)).collect();
    for name in &names {
        source.create_database(name);
        source.sql(name, &format!("CREATE TABLE {} (a int)", identifier(name)));
    }
    dump(&workspace, &source, &names);
    for name in &names {
        restore(&workspace, &target, [&format!("--dbname={name}"), "--analyze", "none"]).succeeds();
        assert_equal(&Snapshot::of(&source, name), &Snapshot::of(&target, name));
        // Beside itself, under a name of the full length.
        let copy = "é".repeat(31);
        restore(&workspace, &target, [&format!("--dbname={name}"), "--into", &copy, "--analyze", "none"]).succeeds();
        target.sql("postgres", &format!("DROP DATABASE {}", identifier(&copy)));
    }
    let mut expected: Vec<String> = names.iter().map(|&name| name.to_owned()).chain(["postgres".to_owned()]).collect();
    expected.sort();
    assert_eq!(target.databases(), expected);
}

#[test]
fn a_dry_run_and_a_mistake_change_nothing() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shapes::platform(&cluster);
    dump(&workspace, &cluster, &["apikey"]);
    let (databases, files) = (cluster.databases(), tree(&workspace.repository()));
    let preview =
        restore(&workspace, &cluster, ["-d", "apikey", "--into", "copy", "--dry-run", "--jobs", "2"]).succeeds();
    let preview = item(&preview);
    assert_eq!(preview["into"], "copy");
    assert!(preview["steps"].to_string().contains("pg_restore"), "{preview}");

    // A name cannot move the cursor or forge a line.
    let into = ["restore", "dump", "-d", "apikey", "--into", "a\u{1b}[2J\nb", "--dry-run"];
    let preview = workspace.pgkeep_on(&cluster, into).run().succeeds();
    assert!(preview.stdout.contains("RENAME TO \"a\\u{1b}[2J\\nb\""), "{}", preview.transcript());
    assert!(!preview.stdout.contains('\u{1b}'), "{}", preview.transcript());

    let server = cluster.conninfo("apikey");
    for (arguments, named) in [
        (vec!["-d", server.as_str(), "--into", "copy"], "--to"),
        (vec!["-d", "apikey", "--into", "copy", "--to", server.as_str()], "--into apikey"),
        (vec!["-d", "apikey", "--into", &"x".repeat(64)], "64 bytes"),
        (vec!["-d", "apikey", "--to-file", "x", "--into", "y"], "--into"),
    ] {
        let refused = restore(&workspace, &cluster, arguments).exits(2);
        assert!(message(&refused).contains(named), "{}", refused.transcript());
    }
    let none = restore(&workspace, &cluster, ["-d", "nothing"]).exits(8);
    assert!(message(&none).contains("apikey"), "{}", none.transcript());
    assert_eq!(cluster.databases(), databases);
    let ran = |name: &&String| !name.contains("/runs/");
    assert_eq!(
        tree(&workspace.repository()).iter().filter(ran).collect::<Vec<_>>(),
        files.iter().filter(ran).collect::<Vec<_>>()
    );
}

#[test]
fn a_person_is_told_what_happens_before_it_happens() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shapes::platform(&cluster);
    dump(&workspace, &cluster, &["apikey"]);
    let arguments = ["restore", "dump", "-d", "apikey", "--into", "copy", "--progress", "none"];
    let told = workspace.pgkeep_on(&cluster, arguments).run().succeeds();
    let place = format!("{}:{} database \"copy\" as \"postgres\"", cluster.socket_dir().display(), cluster.port());
    assert!(told.stderr.contains(&place), "{}", told.transcript());
    assert!(told.stdout.contains("restored to"), "{}", told.transcript());
    let runs = stored(&workspace, ".json");
    let run = runs.iter().find(|path| path.to_string_lossy().contains("-restore-")).unwrap();
    assert_eq!(record(run)["status"], "SUCCEEDED");
}

/// The runbook's section as it stands; only the places are this test's.
#[test]
fn what_the_runbook_says_works_when_pasted() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    let workspace = Workspace::new();
    source.sql("postgres", "CREATE ROLE clerk LOGIN PASSWORD 'x'");
    source.create_database("shop");
    source.sql("shop", "CREATE TABLE t AS SELECT n FROM generate_series(1, 100) n; ALTER TABLE t OWNER TO clerk");
    dump(&workspace, &source, &["shop"]);

    let page = include_str!("../ops/docs/dump.md");
    let section = page.split("## Without pgkeep").nth(1).unwrap();
    let blocks = section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap());
    let script: String = blocks.collect();
    let script = script
        .replace("/tmp/", &format!("{}/", workspace.path("tmp").display()))
        .replace("/backups", workspace.repository().to_str().unwrap());
    let mut bash = target.client("psql");
    let path = format!("{}:/usr/bin:/bin", target.bin_dir().display());
    let variables: Vec<_> = bash.get_envs().map(|(k, v)| (k.to_owned(), v.unwrap().to_owned())).collect();
    bash = std::process::Command::new("bash");
    bash.args(["-euo", "pipefail", "-c", &script]).env_clear().envs(variables).env("PATH", path);
    let said = String::from_utf8(target.run(&mut bash)).unwrap();
    assert!(said.contains(": OK") && said.contains("CREATE DATABASE shop"), "{said}");
    let (was, is) = (Snapshot::of(&source, "shop"), Snapshot::of(&target, "shop_by_hand"));
    assert_equal(&was, &is);
    assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new());
}

/// What a restore with several jobs writes into its copy of the archive is what pg_dump writes where it can.
#[test]
fn places_of_data_are_those_that_pg_dump_finds() {
    for version in PgVersion::ALL {
        let cluster = Cluster::plain(version);
        let workspace = Workspace::new();
        shapes::torture(&cluster, "torture");
        let file = workspace.path("seekable.dump");
        cluster.run(cluster.client("pg_dump").args(["-Fc", "-Z0", "-d", "torture", "-f"]).arg(&file));
        let bytes = std::fs::read(&file).unwrap();
        let mut reader = pgkeep::pg::archive::ArchiveReader::new();
        reader.push(&bytes).unwrap();
        let archive = reader.finish().unwrap();
        let places: Vec<_> = archive.places().collect();
        assert_eq!(places.len(), archive.blocks.len());
        assert!(places.len() > 5);
        for (place, known) in places {
            assert_eq!(bytes[place as usize..][..9], known);
        }
    }
}
