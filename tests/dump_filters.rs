//! Dumps of a part of a database, and what is said of a backup when it is made: what `pg_dump` was told, what counts as
//! the whole, and what is refused before anything starts.

mod common;

use common::dumps::{Dump, dumps_of, only_dump, runs_of};
use common::{Cluster, Outcome, PgVersion, Workspace};
use serde_json::{Value, json};

const SHOP: &str = r#"
    CREATE SCHEMA sales;
    CREATE TABLE sales.orders (a int); INSERT INTO sales.orders SELECT generate_series(1, 10);
    CREATE TABLE sales.lines (a int); INSERT INTO sales.lines VALUES (1);
    CREATE TABLE audit (a int); INSERT INTO audit SELECT generate_series(1, 100);
    CREATE TABLE "Audit Log" (a int); INSERT INTO "Audit Log" VALUES (1);
    CREATE TABLE plain (a int); INSERT INTO plain VALUES (7);
    GRANT SELECT ON plain TO PUBLIC;
    SELECT lo_from_bytea(0, 'x')"#;

struct World {
    cluster: Cluster,
    workspace: Workspace,
}

impl World {
    fn new() -> Self {
        let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
        cluster.create_database("shop");
        cluster.sql("shop", SHOP);
        Self { cluster, workspace }
    }

    fn dump(&self, more: &[&str]) -> Outcome {
        self.workspace.pgkeep_on(&self.cluster, ["dump", "-d", "shop"].iter().chain(more)).run()
    }

    fn pgkeep(&self, arguments: &[&str]) -> Outcome {
        self.workspace.pgkeep_on(&self.cluster, arguments).run()
    }

    /// Dumps, and returns the newest dump.
    #[track_caller]
    fn dumped(&self, more: &[&str]) -> Dump {
        self.dump(more).succeeds();
        dumps_of(&self.workspace, "main").pop().unwrap()
    }

    /// `pg_restore --list` of a dump: kind, schema and name.
    fn list(&self, dump: &Dump) -> Vec<String> {
        let plain = self.workspace.path("plain.dump");
        dump.unpack(&plain);
        let list = self.cluster.run(self.cluster.client("pg_restore").arg("--list").arg(&plain));
        let text = String::from_utf8(list).unwrap();
        let entry = |line: &str| line.split_once(' ').unwrap().1.splitn(3, ' ').nth(2).unwrap().to_owned();
        text.lines().filter(|line| !line.starts_with(';')).map(entry).collect()
    }
}

#[test]
fn a_part_is_what_was_chosen_and_not_a_backup_of_the_whole() {
    let world = World::new();
    let whole = world.dumped(&[]);
    assert_eq!((&whole.manifest["filtered"], &whole.manifest["filter"]), (&json!(false), &Value::Null));
    assert_eq!(whole.details().get("choice"), None);

    type Words = &'static [&'static str];
    let cases: [(Words, Words, Words, Words); 8] = [
        (
            &["-n", "sales"],
            &["--schema=sales"],
            &["TABLE DATA sales orders postgres"],
            &["TABLE public plain postgres"],
        ),
        (&["-N", "sales"], &["--exclude-schema=sales"], &["TABLE public plain postgres"], &["SCHEMA - sales postgres"]),
        (
            &["-t", "sales.*", "-t", "plain"],
            &["--table=plain", "--table=sales.*"],
            &["TABLE sales lines postgres", "TABLE public plain postgres"],
            &["SCHEMA - sales postgres", "TABLE public audit postgres"],
        ),
        (
            &["-T", "audit"],
            &["--exclude-table=audit"],
            &["TABLE sales lines postgres"],
            &["TABLE public audit postgres"],
        ),
        (
            &["--exclude-table-data", "audit"],
            &["--exclude-table-data=audit"],
            &["TABLE public audit postgres"],
            &["TABLE DATA public audit postgres"],
        ),
        (&["--data-only"], &["--data-only"], &["TABLE DATA public audit postgres"], &["TABLE public audit postgres"]),
        (
            &["--schema-only"],
            &["--schema-only"],
            &["TABLE public audit postgres"],
            &["TABLE DATA public audit postgres"],
        ),
        (
            &["--no-privileges", "--no-large-objects"],
            &["--no-blobs", "--no-privileges"],
            &["TABLE public plain postgres"],
            &["ACL public TABLE plain postgres", "BLOBS - BLOBS "],
        ),
    ];
    let mut digests = Vec::new();
    for (arguments, choice, holds, lacks) in cases {
        let dump = world.dumped(arguments);
        dump.holds(&world.cluster, &world.workspace);
        let list = world.list(&dump);
        assert!(holds.iter().all(|entry| list.contains(&(*entry).to_owned())), "{arguments:?}: {list:#?}");
        assert!(lacks.iter().all(|entry| !list.contains(&(*entry).to_owned())), "{arguments:?}: {list:#?}");
        assert_eq!(dump.manifest["filtered"], true, "{arguments:?}");
        assert_eq!(dump.details()["choice"], json!(choice), "{arguments:?}");
        assert!(!dump.manifest.to_string().contains("audit"), "{:#}", dump.manifest);
        digests.push(dump.manifest["filter"].as_str().unwrap().to_owned());
    }
    assert_eq!(world.dumped(&["-t", "plain", "-t", "sales.*"]).manifest["filter"], digests[2]);
    digests.sort();
    digests.dedup();
    assert_eq!(digests.len(), 8);

    // How rows are written leaves nothing out.
    let inserts = world.dumped(&["--column-inserts"]);
    assert_eq!(inserts.manifest["filtered"], false);
    let latest = world.pgkeep(&["report", "latest", "-d", "shop", "--json"]).succeeds().json();
    assert_eq!(latest["items"][0]["id"], json!(inserts.id()));
}

#[test]
fn parts_do_not_hide_what_became_of_the_whole() {
    let world = World::new();
    world.dump(&["-t", "plain"]).succeeds();
    // The only dump is one of a part.
    let report = world.pgkeep(&["report", "--json"]).succeeds().json();
    assert_eq!(report["items"][0]["databases"][0]["newest"], Value::Null);
    assert_eq!(report["items"][0]["findings"][0]["id"], "only-parts");
    world.dump(&[]).succeeds();
    world.dump(&["-n", "nowhere"]).exits(4);
    world.pgkeep(&["report"]).succeeds();
    assert!(runs_of(&world.workspace, "main")[2]["items"][0]["filter"].is_string());

    world.dump(&["--bin-dir", "/nonexistent"]).exits(12);
    world.dump(&["-t", "plain"]).succeeds();
    let report = world.pgkeep(&["report"]).exits(13);
    assert!(report.stdout.contains("/nonexistent"), "{}", report.transcript());

    let list = world.pgkeep(&["report", "list"]).succeeds().stdout;
    assert!(list.lines().next().unwrap().contains("  choice    state"), "{list}");
}

#[test]
fn a_name_that_matches_nothing_is_an_error_beside_one_that_does() {
    let world = World::new();
    for arguments in [&["-t", "plain", "-t", "ordres"][..], &["-n", "sales", "-n", "ordres"], &["-e", "ordres"]] {
        let typed: Vec<String> = match arguments[0] {
            "-e" => vec!["--extra-opts=-e ordres".to_owned()],
            _ => arguments.iter().map(|word| (*word).to_owned()).collect(),
        };
        let outcome = world.dump(&typed.iter().map(String::as_str).collect::<Vec<_>>()).exits(4);
        assert!(outcome.stderr.contains("\"ordres\""), "{}", outcome.transcript());
        assert!(outcome.stderr.contains("hint: patterns are those of psql"), "{}", outcome.transcript());
    }
    assert!(dumps_of(&world.workspace, "main").is_empty());
    // An exclusion may be one for other databases of the server.
    let outcome = world.dump(&["-T", "ordres", "--exclude-table-data=Sales.l*", "-N", "sale?", "-T", "sales.?rders"]);
    let outcome = outcome.succeeds();
    let warned: Vec<&str> = outcome.stderr.lines().filter(|line| line.starts_with("warning: ")).collect();
    assert_eq!(warned, ["warning: shop: --exclude-table=ordres matches nothing, so it leaves nothing out"]);
    // Outside the search path a bare name is nobody's.
    let outcome = world.dump(&["--exclude-table-data", "lines"]).succeeds();
    assert!(outcome.stderr.contains("--exclude-table-data=lines matches nothing"), "{}", outcome.transcript());
}

#[test]
fn options_are_added_to_pg_dump_without_a_shell() {
    let world = World::new();
    let dump = world.dumped(&[
        "--extra-opts",
        r#"--no-comments --exclude-table-data='"Audit Log"' -T $(touch\ x)"#,
        "--extra-opts=-v",
    ]);
    assert_eq!(dump.details()["choice"], json!(["--exclude-table-data=\"Audit Log\"", "--exclude-table=$(touch x)"]));
    let list = world.list(&dump);
    assert!(!list.iter().any(|entry| entry.starts_with("TABLE DATA public Audit Log")), "{list:#?}");
    // What -v tells is no warning.
    assert_eq!((&dump.details()["warnings"], &dump.manifest["counts"]["warnings"]), (&json!([]), &json!(0)));
    let verbose = world.dump(&["--extra-opts=-v", "-vv"]).succeeds();
    assert!(verbose.stderr.contains("reading schemas"), "{}", verbose.transcript());
    // Its errors are.
    let failed = world.dump(&["--extra-opts=-v", "-t", "ordres"]).exits(4);
    assert!(failed.stderr.contains("no matching tables were found"), "{}", failed.transcript());
    assert!(!failed.stderr.contains("reading schemas"), "{}", failed.transcript());
}

#[test]
fn what_cannot_be_is_refused_by_name_before_anything_starts() {
    let world = World::new();
    let cases: [(&[&str], &str, &str); 13] = [
        (&["--data-only", "--schema-only"], "--data-only and --schema-only do not go together", "take one of them"),
        (&["--data-only", "--extra-opts=-s"], "--data-only and --schema-only do not go together", "take one of them"),
        (&["-t", "a", "-n", "b"], "--table and --schema do not go together", "--table 'sales.*'"),
        (&["-t", "a", "--extra-opts=-N b"], "--table and --exclude-schema do not go together", "--exclude-table"),
        (&["--large-objects", "--no-large-objects"], "--large-objects and --no-large-objects", "take one of them"),
        (&["-t", ""], "--table has an empty pattern", "leave --table out"),
        (&["--extra-opts=-f /tmp/x"], "--extra-opts: -f cannot be used", "options of its own"),
        (&["--extra-opts=--format=plain"], "--extra-opts: --format cannot be used", "options of its own"),
        (&["--extra-opts=-j 4"], "--extra-opts: -j cannot be used", "options of its own"),
        (&["--extra-opts=-Z 6"], "--extra-opts: -Z cannot be used", "--compress gzip:6"),
        (&["--extra-opts=-h db2"], "--extra-opts: -h cannot be used", "of pgkeep say where"),
        (&["--extra-opts=--role=x"], "--extra-opts: --role cannot be used", "-U"),
        (&["--extra-opts='"], "--extra-opts: a quote is not closed", "close it"),
    ];
    for (arguments, words, hint) in cases {
        let outcome = world.dump(arguments).exits(2);
        assert!(outcome.stderr.contains(words), "{words}\n{}", outcome.transcript());
        let told = outcome.stderr.split_once("hint: ").unwrap_or_else(|| panic!("{}", outcome.transcript())).1;
        assert!(told.contains(hint), "{hint}\n{}", outcome.transcript());
    }
    for arguments in [["--label", "a/b"], ["--label", " x"], ["--keep", "30"], ["--keep", "1m"]] {
        world.dump(&arguments).exits(2);
    }
    assert!(!world.workspace.repository().exists());
}

#[test]
fn rows_alone_are_not_restored_into_a_new_database() {
    let world = World::new();
    let dump = world.dumped(&["--data-only"]);
    let restore = ["restore", "dump", &dump.id(), "--into", "copy"];
    let outcome = world.pgkeep(&restore).exits(9);
    assert!(outcome.stderr.contains("the tables for them are missing"), "{}", outcome.transcript());
    // The next step works.
    world.cluster.create_database("copy");
    world.cluster.sql(
        "copy",
        "CREATE SCHEMA sales; CREATE TABLE sales.orders (a int); CREATE TABLE sales.lines (a int);
        CREATE TABLE audit (a int); CREATE TABLE \"Audit Log\" (a int); CREATE TABLE plain (a int)",
    );
    assert!(outcome.stderr.contains("--into-existing"), "{}", outcome.transcript());
    world.pgkeep(&["restore", "dump", &dump.id(), "--into", "copy", "--into-existing"]).succeeds();
    assert_eq!(world.cluster.sql("copy", "SELECT count(*) FROM audit"), "100");
}

#[test]
fn a_part_is_restored_and_called_a_part() {
    let world = World::new();
    let dump = world.dumped(&["-n", "sales"]);
    let outcome = world.pgkeep(&["restore", "dump", &dump.id(), "--into", "copy"]).succeeds();
    assert!(outcome.stderr.contains("holds a choice of the database (--schema=sales)"), "{}", outcome.transcript());
    assert_eq!(world.cluster.sql("copy", "SELECT count(*) FROM sales.orders"), "10");
}

#[test]
fn a_label_and_a_pin_are_stored_and_told() {
    let world = World::new();
    world.dump(&["--label", "before 4.2", "--keep", "30d"]).succeeds();
    let dump = only_dump(&world.workspace);
    assert_eq!(dump.manifest["label"], "before 4.2");
    let time = |key: &str| dump.manifest[key].as_str().unwrap().parse::<chrono::DateTime<chrono::Utc>>().unwrap();
    assert_eq!((time("keep") - time("startedAt")).num_days(), 30);
    let list = world.pgkeep(&["report", "list"]).succeeds().stdout;
    assert!(list.contains("label") && list.contains("before 4.2") && list.contains("until 20"), "{list}");
    let show = world.pgkeep(&["report", "show"]).succeeds().stdout;
    assert!(show.contains("  label               before 4.2\n"), "{show}");
    let list = world.pgkeep(&["report", "list", "--json"]).succeeds().json();
    assert_eq!((&list["items"][0]["label"], &list["items"][0]["keep"]), (&json!("before 4.2"), &dump.manifest["keep"]));

    let forever = world.dumped(&["--keep", "forever"]);
    assert_eq!((&forever.manifest["keep"], &forever.manifest["label"]), (&json!("forever"), &Value::Null));
}
