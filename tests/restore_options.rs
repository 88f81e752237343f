//! `restore dump` into databases that are there, in part, and with other owners: what was asked for is changed, nothing
//! else, and what fails changes nothing.

mod common;

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use common::dumps::{Holder, until};
use common::equality::{Snapshot, assert_equal};
use common::pgkeep::tree;
use common::shapes;
use common::{Cluster, Outcome, PgVersion, Workspace};
use serde_json::Value;

/// A schema with tables that refer to each other, rights that differ, a view, and a table elsewhere.
const SHOP: &str = r#"
    CREATE SCHEMA sales AUTHORIZATION shop;
    SET ROLE shop;
    CREATE TABLE sales.orders (id serial PRIMARY KEY, body text);
    CREATE TABLE sales.items (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, order_id int REFERENCES sales.orders);
    RESET ROLE;
    CREATE INDEX ON sales.orders (body);
    GRANT SELECT ON sales.orders TO reader; GRANT UPDATE (body) ON sales.orders TO reader;
    COMMENT ON COLUMN sales.orders.body IS 'what was ordered';
    INSERT INTO sales.orders (body) SELECT 'order ' || n FROM generate_series(1, 100) n;
    INSERT INTO sales.items (order_id) SELECT n FROM generate_series(1, 50) n;
    CREATE VIEW sales.v AS SELECT * FROM sales.orders;
    CREATE TABLE public.other AS SELECT 1 AS a;
    ALTER TABLE sales.orders ENABLE ROW LEVEL SECURITY;
    CREATE POLICY mine ON sales.orders FOR SELECT TO reader, shop USING (body <> 'TO shop');
    ALTER DEFAULT PRIVILEGES FOR ROLE shop IN SCHEMA sales GRANT SELECT ON TABLES TO reader;
    ALTER DATABASE shop SET work_mem = '5MB';
    ALTER ROLE reader IN DATABASE shop SET work_mem = '6MB';
    COMMENT ON DATABASE shop IS 'the shop';
    GRANT CONNECT ON DATABASE shop TO reader;"#;

fn shop(cluster: &Cluster, workspace: &Workspace) {
    cluster.sql("postgres", "CREATE ROLE shop; CREATE ROLE reader");
    cluster.sql("postgres", "CREATE DATABASE shop OWNER shop");
    cluster.sql("shop", SHOP);
    workspace.pgkeep_on(cluster, ["dump", "-d", "shop", "--check", "decode"]).run().succeeds();
}

fn restore(workspace: &Workspace, cluster: &Cluster, arguments: &[&str]) -> Outcome {
    // Statistics of a whole database take as long as everything else.
    let quick: &[&str] = if arguments.contains(&"--log") { &[] } else { &["--analyze", "none"] };
    let all = ["restore", "dump", "-d", "shop"].into_iter().chain(arguments.iter().chain(quick).copied());
    workspace.pgkeep_on(cluster, all).arg("--json").run()
}

fn message(outcome: &Outcome) -> String {
    let error = &outcome.json()["error"];
    format!("{} | {}", error["message"].as_str().unwrap_or_default(), error["hint"].as_str().unwrap_or_default())
}

fn item(outcome: &Outcome) -> Value {
    outcome.json()["items"][0].clone()
}

#[test]
fn one_table_comes_back_into_the_live_database() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shop(&cluster, &workspace);
    let before = Snapshot::of(&cluster, "shop");
    cluster.sql("shop", "DROP TABLE sales.items");
    let refused = restore(&workspace, &cluster, &["-t", "sales.items"]).exits(9);
    assert!(message(&refused).contains("--into-existing"), "{}", refused.transcript());
    let log = workspace.path("restore.log");
    let table = ["-t", "sales.items", "--into-existing", "--log", log.to_str().unwrap()];
    restore(&workspace, &cluster, &table).succeeds();
    assert_equal(&before, &Snapshot::of(&cluster, "shop"));

    let text = std::fs::read_to_string(&log).unwrap();
    for told in [
        "restore shop_",
        "--single-transaction",
        "pg_restore: creating TABLE",
        "ANALYZE \"sales\".\"items\"",
        "done in",
    ] {
        assert!(text.contains(told), "{told}: {text}");
    }
    assert_eq!(std::fs::metadata(&log).unwrap().permissions().mode() & 0o777, 0o600);

    // What is there is in the way, and stays as it is.
    cluster.sql("shop", "DELETE FROM sales.items WHERE order_id > 10");
    let before = Snapshot::of(&cluster, "shop");
    let failed =
        restore(&workspace, &cluster, &["-t", "items", "--into-existing", "--log", log.to_str().unwrap()]).exits(4);
    assert!(message(&failed).contains("--clean --if-exists"), "{}", failed.transcript());
    assert_equal(&before, &Snapshot::of(&cluster, "shop"));
    assert!(std::fs::read_to_string(&log).unwrap().contains("failed in stage restore"));
    // Rows of a table that could not be made do not go into the one that is there.
    restore(&workspace, &cluster, &["-t", "items", "--into-existing", "--keep-going"]).exits(10);
    assert_eq!(cluster.sql("shop", "SELECT count(*) FROM sales.items"), "10");
    restore(&workspace, &cluster, &["-t", "items", "--clean", "--if-exists"]).succeeds();
    assert_eq!(cluster.sql("shop", "SELECT count(*) FROM sales.items"), "50");
    // A view hangs on this one: all or nothing.
    let before = Snapshot::of(&cluster, "shop");
    let failed = restore(&workspace, &cluster, &["-t", "orders", "--clean", "--if-exists"]).exits(4);
    assert!(message(&failed).contains("depend"), "{}", failed.transcript());
    assert_equal(&before, &Snapshot::of(&cluster, "shop"));
    let absent = restore(&workspace, &cluster, &["--into", "nowhere", "--into-existing"]).exits(9);
    assert!(message(&absent).contains("no database \"nowhere\""), "{}", absent.transcript());
    assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new());
}

#[test]
fn a_part_comes_into_a_new_database_with_what_it_needs() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shop(&cluster, &workspace);
    let whole = Snapshot::of(&cluster, "shop");
    restore(&workspace, &cluster, &["-n", "sales", "--into", "only_sales"]).succeeds();
    assert_eq!(cluster.sql("only_sales", "SELECT count(*) FROM sales.items"), "50");
    assert_eq!(cluster.sql("only_sales", "SELECT to_regclass('public.other') IS NULL"), "t");
    cluster.sql("only_sales", "CREATE TABLE public.other AS SELECT 1 AS a");
    assert_equal(&whole, &Snapshot::of(&cluster, "only_sales"));

    let outcome = restore(&workspace, &cluster, &["-t", "sales.items", "--into", "only_items"]).succeeds();
    let warnings = outcome.json()["warnings"].to_string();
    assert!(warnings.contains("FK CONSTRAINT sales.items items_order_id_fkey is left out"), "{warnings}");
    assert_eq!(cluster.sql("only_items", "SELECT count(*), max(id) FROM sales.items"), "50|50");
    let absent = restore(&workspace, &cluster, &["-t", "order", "--into", "x"]).exits(2);
    assert!(message(&absent).contains("sales.orders"), "{}", absent.transcript());
    assert!(!cluster.databases().iter().any(|name| name.starts_with('x')));
}

#[test]
fn a_list_is_printed_edited_and_restored_by() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shapes::torture(&cluster, "torture");
    shop(&cluster, &workspace);
    workspace.pgkeep_on(&cluster, ["dump", "-d", "torture"]).run().succeeds();
    let repository = workspace.repository();
    let list = |arguments: &[&str]| {
        let all = ["restore", "dump", "--list", "--repo", repository.to_str().unwrap()].into_iter();
        workspace.pgkeep(all.chain(arguments.iter().copied())).run().succeeds().stdout
    };
    // Without a server, and as pg_restore says it.
    let file = workspace.path("torture.dump");
    let to_file = ["restore", "dump", "-d", "torture", "--to-file", file.to_str().unwrap(), "--repo"];
    workspace.pgkeep(to_file).arg(&repository).run().succeeds();
    let theirs = Command::new(cluster.bin_dir().join("pg_restore")).arg("--list").arg(&file).output().unwrap();
    let entries =
        |text: &str| text.lines().filter(|line| !line.starts_with(';')).map(str::to_owned).collect::<Vec<_>>();
    let theirs = entries(&String::from_utf8_lossy(&theirs.stdout));
    assert!(theirs.len() > 50, "{theirs:#?}");
    assert_eq!(entries(&list(&["-d", "torture"])), theirs);
    let from_file = ["restore", "dump", "--list", "--from-file", file.to_str().unwrap()];
    assert_eq!(entries(&workspace.pgkeep(from_file).run().succeeds().stdout), theirs);
    let part = entries(&list(&["-d", "shop", "-t", "sales.items"]));
    assert!(part.iter().any(|line| line.contains(" CONSTRAINT sales items items_pkey")), "{part:#?}");
    assert!(!part.iter().any(|line| line.contains("orders_pkey")), "{part:#?}");
}

#[test]
fn an_edited_list_decides_what_is_restored() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shop(&cluster, &workspace);
    let repository = workspace.repository();
    let arguments = ["restore", "dump", "-d", "shop", "--list", "--repo", repository.to_str().unwrap()];
    let list = workspace.pgkeep(arguments).run().succeeds().stdout;
    let edited: String =
        list.lines()
            .map(|line| {
                if line.contains(" v ") || line.contains("other") { format!(";{line}\n") } else { format!("{line}\n") }
            })
            .collect();
    let path = workspace.path("list");
    std::fs::write(&path, &edited).unwrap();
    restore(&workspace, &cluster, &["--into", "a", "--use-list", path.to_str().unwrap(), "--jobs", "2"]).succeeds();
    let left_out = "SELECT to_regclass('sales.v') IS NULL AND to_regclass('public.other') IS NULL";
    assert_eq!(cluster.sql("a", left_out), "t");
    assert_eq!(cluster.sql("a", "SELECT count(*) FROM sales.orders"), "100");
    // From standard input.
    let mut call = workspace.pgkeep_on(&cluster, ["restore", "dump", "-d", "shop", "--into", "b", "--use-list", "-"]);
    let mut child = call.command().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(edited.as_bytes()).unwrap();
    Outcome::wait_for(child).succeeds();
    assert_equal(&Snapshot::of(&cluster, "a"), &Snapshot::of(&cluster, "b"));
    std::fs::write(&path, "99999; 0 0 TABLE x y z\n").unwrap();
    let unknown = restore(&workspace, &cluster, &["--into", "c", "--use-list", path.to_str().unwrap()]).exits(2);
    assert!(message(&unknown).contains("99999"), "{}", unknown.transcript());
    std::fs::write(&path, "TABLE x y z\n").unwrap();
    restore(&workspace, &cluster, &["--into", "c", "--use-list", path.to_str().unwrap()]).exits(2);
    assert_eq!(cluster.databases(), ["a", "b", "postgres", "shop"]);
}

/// Every place where a role stands in a database, the system's own and the superuser apart.
const ROLES_OF: &str = "
    SELECT 'table ' || relname || ' ' || relowner::regrole || ' ' || coalesce(relacl::text, '') FROM pg_class
     WHERE relnamespace = 'sales'::regnamespace AND relkind IN ('r', 'S')
    UNION ALL SELECT 'column ' || attacl::text FROM pg_attribute WHERE attacl IS NOT NULL AND attrelid > 16383
    UNION ALL SELECT 'schema ' || nspowner::regrole FROM pg_namespace WHERE nspname = 'sales'
    UNION ALL SELECT 'policy ' || array_to_string(ARRAY(SELECT r::regrole::text FROM unnest(polroles) r ORDER BY 1), ' ') || ' ' || pg_get_expr(polqual, polrelid) FROM pg_policy
    UNION ALL SELECT 'default ' || defaclrole::regrole || ' ' || defaclacl::text FROM pg_default_acl
    UNION ALL SELECT 'database ' || datdba::regrole || ' ' || datacl::text FROM pg_database WHERE datname = current_database()
    UNION ALL SELECT 'setting ' || setrole::regrole || ' ' || setconfig::text FROM pg_db_role_setting s
                JOIN pg_database d ON d.oid = s.setdatabase WHERE datname = current_database() AND setrole <> 0
     ORDER BY 1";

fn sorted(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

#[test]
fn other_roles_get_what_the_old_ones_had() {
    let source = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shop(&source, &workspace);
    let expected = source.sql("shop", ROLES_OF).replace("shop", "neu").replace("reader", "leser");
    // The text of a policy names no role.
    let expected = sorted(&expected.replace("TO neu", "TO shop"));
    assert!(expected.len() > 9, "{expected:#?}");
    for (version, jobs) in [(PgVersion::V15, "1"), (PgVersion::V18, "3")] {
        let target = Cluster::plain(version);
        let map = ["--role-map", "shop=neu", "--role-map", "reader=leser", "--jobs", jobs];
        let refused = restore(&workspace, &target, &map).exits(9);
        assert!(message(&refused).contains("CREATE ROLE \"leser\""), "{}", refused.transcript());
        target.sql("postgres", "CREATE ROLE neu; CREATE ROLE leser");
        let restored = restore(&workspace, &target, &map).succeeds();
        assert_eq!(item(&restored)["rolesCreated"], serde_json::json!([]));
        // MAINTAIN came with 17.
        assert_eq!(sorted(&target.sql("shop", ROLES_OF).replace("xtm", "xt")), expected);
        assert_eq!(target.sql("postgres", "SELECT count(*) FROM pg_roles WHERE rolname IN ('shop', 'reader')"), "0");
        assert_eq!(target.sql("shop", "SELECT count(*) FROM sales.orders"), "100");
        let unknown = restore(&workspace, &target, &["--into", "x", "--role-map", "shopp=neu"]).exits(2);
        assert!(message(&unknown).contains("\"reader\", \"shop\""), "{}", unknown.transcript());
    }
}

#[test]
fn owners_and_rights_are_left_out_with_the_roles_that_they_name() {
    let (source, target) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15));
    let workspace = Workspace::new();
    shop(&source, &workspace);
    let bare = ["-t", "sales.items", "-t", "sales.orders", "--no-owner", "--no-privileges", "--into", "bare"];
    let restored = restore(&workspace, &target, &bare).succeeds();
    // Policies and settings of the database name roles, too.
    assert_eq!(item(&restored)["rolesCreated"], serde_json::json!(["reader", "shop"]));
    let owners =
        "SELECT DISTINCT relowner::regrole, relacl IS NULL FROM pg_class WHERE relnamespace = 'sales'::regnamespace";
    assert_eq!(target.sql("bare", owners), "postgres|t");
    assert_eq!(
        target.sql("bare", "SELECT datdba::regrole, datacl IS NULL FROM pg_database WHERE datname = 'bare'"),
        "postgres|t"
    );
    let other = ["-t", "public.other", "--no-owner", "--no-privileges", "--into", "other"];
    target.sql("postgres", "DROP DATABASE bare");
    target.sql("postgres", "DROP ROLE shop");
    let restored = restore(&workspace, &target, &other).succeeds();
    assert_eq!(item(&restored)["rolesCreated"], serde_json::json!([]), "nobody needs role shop");
}

#[test]
fn a_database_in_use_is_replaced_in_one_step_or_not_at_all() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shop(&cluster, &workspace);
    let as_dumped = Snapshot::of(&cluster, "shop");
    cluster.sql("shop", "DROP TABLE public.other; CREATE TABLE public.newer AS SELECT 2 AS b");
    let changed = Snapshot::of(&cluster, "shop");
    let holder = Holder::of(&cluster, "shop", "SELECT 1");
    let refused = restore(&workspace, &cluster, &["--replace"]).exits(9);
    assert!(message(&refused).contains("postgres (holder, idle in transaction"), "{}", refused.transcript());
    assert!(message(&refused).contains("--disconnect"), "{}", refused.transcript());
    assert_eq!(cluster.databases(), ["postgres", "shop"]);

    let replaced = restore(&workspace, &cluster, &["--replace", "--disconnect"]).succeeds();
    drop(holder);
    let before = item(&replaced)["replaced"].as_str().unwrap().to_owned();
    assert!(before.starts_with("shop_before_20"), "{before}");
    assert_equal(&as_dumped, &Snapshot::of(&cluster, "shop"));
    assert_equal(&changed, &Snapshot::of(&cluster, &before));
    assert_eq!(cluster.databases(), ["postgres", "shop", before.as_str()]);

    // And back, as the page says.
    let back = format!(
        "BEGIN; ALTER DATABASE shop RENAME TO shop_restored; ALTER DATABASE \"{before}\" RENAME TO shop; COMMIT;"
    );
    cluster.sql("postgres", &back);
    assert_equal(&changed, &Snapshot::of(&cluster, "shop"));
    cluster.sql("postgres", "DROP DATABASE shop_restored");

    let partial = restore(&workspace, &cluster, &["--replace", "-t", "orders"]).exits(2);
    assert!(message(&partial).contains("do not go together"), "{}", partial.transcript());
    // One that is not there is made.
    let made = restore(&workspace, &cluster, &["--replace", "--into", "fresh"]).succeeds();
    assert_eq!(item(&made)["replaced"], Value::Null);
}

/// A database whose restore stands still in its last index as long as the server's directory has a file `gate`.
const GATED: &str = "
    CREATE TABLE t AS SELECT n FROM generate_series(1, 10) n;
    CREATE FUNCTION gated(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN
        WHILE (pg_stat_file('gate', true)).size IS NOT NULL LOOP PERFORM pg_sleep(0.02); END LOOP; RETURN n; END $$;
    CREATE INDEX ON t (gated(n));";

#[test]
fn whoever_comes_during_the_restore_keeps_the_database_and_the_restored_one_is_kept_beside() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    cluster.create_database("shop");
    cluster.sql("shop", GATED);
    workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).run().succeeds();
    let gate = cluster.data_dir().join("gate");
    let during = |arguments: &[&str]| {
        std::fs::write(&gate, "").unwrap();
        let all = ["restore", "dump", "-d", "shop", "--json", "--analyze", "none"]
            .into_iter()
            .chain(arguments.iter().copied());
        let child = workspace.pgkeep_on(&cluster, all).spawn();
        until("the restore stands still", || {
            cluster.sql("postgres", "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") != "0"
        });
        let holder = Holder::of(&cluster, "shop", "SELECT 1");
        std::fs::remove_file(&gate).unwrap();
        let outcome = Outcome::wait_for(child);
        drop(holder);
        outcome
    };
    let outcome = during(&["--replace"]).exits(9);
    let beside = item(&outcome)["keptAs"].as_str().unwrap().to_owned();
    assert!(message(&outcome).contains("holder"), "{}", outcome.transcript());
    assert_eq!(cluster.databases(), ["postgres", "shop", beside.as_str()]);
    assert_equal(&Snapshot::of(&cluster, "shop"), &Snapshot::of(&cluster, &beside));
    // What the hint says puts it in the place of the other.
    let hint = outcome.json()["error"]["hint"].as_str().unwrap().to_owned();
    cluster.sql("postgres", &hint[hint.find("BEGIN;").unwrap()..]);
    let after = cluster.databases();
    assert!(after.len() == 3 && after[2].starts_with("shop_before_"), "{after:?}");

    // With leave to do so, whoever came is sent away.
    let outcome = during(&["--replace", "--disconnect"]).succeeds();
    assert!(item(&outcome)["replaced"].as_str().unwrap().starts_with("shop_before_"));
    assert_eq!(cluster.sql("shop", "SELECT count(*) FROM t"), "10");
}

#[test]
fn every_stored_form_is_restored_whole_and_in_part() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shop(&cluster, &workspace);
    cluster.sql("postgres", "CREATE ROLE neu");
    let source = Snapshot::of(&cluster, "shop");
    let forms: [(&str, &[&str]); 4] = [
        ("directory", &["--format", "directory"]),
        ("tar", &["--format", "tar"]),
        ("plain", &["--format", "plain"]),
        ("gzipped", &["--format", "plain", "--compress", "gzip:6"]),
    ];
    for (instance, format) in forms {
        let dump = ["dump", "-d", "shop", "--check", "decode", "--instance", instance];
        workspace.pgkeep_on(&cluster, dump.iter().chain(format)).run().succeeds();
        let with = |arguments: &[&str]| {
            let all: Vec<&str> = arguments.iter().copied().chain(["--instance", instance]).collect();
            restore(&workspace, &cluster, &all)
        };
        with(&["--into", "whole"]).succeeds();
        assert_equal(&source, &Snapshot::of(&cluster, "whole"));
        cluster.sql("postgres", "DROP DATABASE whole");
        if matches!(instance, "plain" | "gzipped") {
            let refused = with(&["-t", "orders", "--into", "part"]).exits(2);
            assert!(message(&refused).contains("an SQL script do not go together"), "{}", refused.transcript());
            continue;
        }
        with(&["-t", "sales.items", "--into", "part"]).succeeds();
        assert_eq!(cluster.sql("part", "SELECT count(*) FROM sales.items"), "50");
        cluster.sql("postgres", "DROP DATABASE part");
        let mapped = with(&["--role-map", "shop=neu", "--into", "mapped"]);
        if instance == "tar" {
            assert!(message(&mapped.exits(2)).contains("a tar archive"));
            continue;
        }
        mapped.succeeds();
        let owner = "SELECT DISTINCT relowner::regrole FROM pg_class WHERE relnamespace = 'sales'::regnamespace AND relkind = 'r'";
        assert_eq!(cluster.sql("mapped", owner), "neu");
        with(&["--into", "jobs", "--jobs", "2"]).succeeds();
        assert_equal(&source, &Snapshot::of(&cluster, "jobs"));
    }
    assert_eq!(tree(&workspace.path("tmp")), Vec::<String>::new());
}

#[test]
fn pairs_that_contradict_each_other_are_refused_by_name_and_nothing_is_touched() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    shop(&cluster, &workspace);
    let before = (cluster.databases(), Snapshot::of(&cluster, "shop"));
    let list = workspace.path("list");
    std::fs::write(&list, "1;\n").unwrap();
    let list = list.to_str().unwrap();
    let cases: [(&[&str], &[&str]); 12] = [
        (&["--single-transaction", "--jobs", "2"], &["--single-transaction and --jobs", "leave one"]),
        (&["--single-transaction", "--keep-going"], &["--single-transaction and --keep-going", "leave one"]),
        (&["--clean", "--if-exists", "--jobs", "2"], &["--clean and --jobs", "--replace"]),
        (&["--clean", "--if-exists", "--keep-going"], &["--clean and --keep-going", "--replace"]),
        (&["--replace", "--keep-going"], &["--replace and --keep-going", "--into"]),
        (&["--use-list", list, "-t", "x"], &["--use-list and --schema or --table", "--list"]),
        (&["--clean"], &["--if-exists"]),
        (&["--if-exists"], &["--clean"]),
        (&["--disconnect"], &["--replace"]),
        (&["--replace", "--into-existing"], &["--replace", "--into-existing"]),
        (&["--role-map", "shop"], &["--role-map", "app=app_test"]),
        (&["--list", "--into", "x"], &["--list", "--into"]),
    ];
    for (arguments, named) in cases {
        let refused = restore(&workspace, &cluster, arguments).exits(2);
        for name in named {
            assert!(message(&refused).contains(name), "{arguments:?}: {}", message(&refused));
        }
    }
    assert_eq!(cluster.databases(), before.0);
    assert_equal(&before.1, &Snapshot::of(&cluster, "shop"));
}
