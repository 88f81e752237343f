//! `pgkeep check`: what would fail is found before the night, and the fix it names is a fix.

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use common::pgkeep::tree;
use common::stored::on_repository;
use common::{Cluster, Options, Outcome, PgVersion, Stored, Workspace};
use serde_json::Value;

/// A server whose `postgres` database nobody changes.
fn cluster() -> &'static Cluster {
    &Stored::get().cluster
}

fn check(workspace: &Workspace, arguments: &[&str]) -> Outcome {
    workspace.pgkeep_on(cluster(), [&["check"], arguments].concat()).run()
}

/// The findings of this id.
fn of<'a>(document: &'a Value, id: &str) -> Vec<&'a Value> {
    document["items"].as_array().unwrap().iter().filter(|item| item["id"] == id).collect()
}

fn severities(document: &Value, id: &str) -> Vec<String> {
    of(document, id).iter().map(|finding| finding["severity"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn everything_in_order_says_so_and_leaves_nothing_behind() {
    let workspace = Stored::get().copy();
    let before = tree(&workspace.repository());
    let outcome = check(&workspace, &["-d", "shop"]).succeeds();
    for line in [
        "ok    tools.found  ",
        "ok    tools.chosen  shop: PostgreSQL 15 is dumped with pg_dump ",
        "ok    postgres.connection  shop: as \"postgres\" at ",
        "over its socket: PostgreSQL 15.",
        "ok    rights.relations  shop: 1 of 1 tables and sequences can be read by postgres",
        "ok    rights.large-objects  shop: 1 of 1 large objects",
        "ok    rights.globals  shop: postgres may read pg_authid",
        "ok    server.locks  shop: a dump locks 1 tables",
        "ok    repository.open  ",
        "ok    repository.probe  ",
        "ok    repository.space  ",
        "ok    repository.lock  ",
    ] {
        assert!(outcome.stdout.contains(line), "{line}: {}", outcome.stdout);
    }
    assert!(!outcome.stdout.contains("fail"), "{}", outcome.stdout);
    assert_eq!(tree(&workspace.repository()), before);

    let document = check(&workspace, &["--all", "--json"]).succeeds().json();
    assert_eq!(severities(&document, "postgres.connection").len(), 2);
    let first = &document["items"][0];
    let keys: Vec<&String> = first.as_object().unwrap().keys().collect();
    assert_eq!(keys, ["evidence", "fix", "id", "severity", "subject"]);
}

#[test]
fn an_outdated_client_is_a_warning_and_a_missing_one_a_failure() {
    let workspace = Workspace::new();
    let bin = workspace.path("bin");
    fs::create_dir(&bin).unwrap();
    let pg_dump = bin.join("pg_dump");
    common::executable(&pg_dump, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.3'\n");
    let bin = bin.to_str().unwrap();
    let document = check(&workspace, &["-d", "shop", "--bin-dir", bin, "--json"]).exits(13).json();
    let outdated = of(&document, "tools.outdated");
    assert_eq!((outdated.len(), &outdated[0]["severity"]), (1, &"warn".into()));
    assert!(outdated[0]["evidence"].as_str().unwrap().starts_with("15.3 is older than 15."), "{outdated:?}");
    let missing = of(&document, "tools.missing");
    let names: Vec<&Value> = missing.iter().map(|finding| &finding["subject"]).collect();
    assert_eq!(names, ["pg_dumpall", "pg_restore", "vacuumdb"]);
    assert_eq!(severities(&document, "tools.missing"), ["fail", "warn", "warn"]);

    fs::write(&pg_dump, "#!/bin/sh\necho 'pg_dump (PostgreSQL) 14.99'\n").unwrap();
    let document = check(&workspace, &["-d", "shop", "--bin-dir", bin, "--json"]).exits(13).json();
    assert_eq!(severities(&document, "tools.chosen"), ["fail"]);
    fs::remove_file(&pg_dump).unwrap();
    let document = check(&workspace, &["-d", "shop", "--bin-dir", bin, "--json"]).exits(13).json();
    assert_eq!(severities(&document, "tools.found"), ["fail"]);
}

#[test]
fn what_is_not_named_is_not_checked_and_that_is_said() {
    let workspace = Stored::get().copy();
    let document = on_repository(&workspace, &["check", "--json"]).succeeds().json();
    assert_eq!(severities(&document, "postgres.skipped"), ["warn"]);
    assert_eq!(severities(&document, "repository.probe"), ["ok"]);

    let document = workspace.pgkeep(["check", "--json"]).connecting_to(cluster()).env("PGDATABASE", "shop").run();
    let document = document.succeeds().json();
    assert_eq!(severities(&document, "repository.skipped"), ["warn"]);
    assert_eq!(severities(&document, "postgres.connection"), ["ok"]);

    workspace.pgkeep(["check"]).run().exits(2);
    workspace.pgkeep(["check", "--repo", "ftp://bucket"]).run().exits(2);
}

#[test]
fn a_server_that_does_not_let_us_in_is_a_finding_with_the_next_step() {
    let workspace = Stored::get().copy();
    let call = workspace.pgkeep_on(cluster(), ["check", "-d", "shop", "--connect-retry=0", "--json"]);
    let document = call.env("PGPORT", "1").run().exits(13).json();
    let finding = of(&document, "postgres.connection")[0];
    assert_eq!(finding["severity"], "fail");
    assert!(finding["fix"].as_str().unwrap().contains("PGPORT"), "{finding}");
    // The repository is looked at all the same.
    assert_eq!(severities(&document, "repository.probe"), ["ok"]);
    let document = check(&workspace, &["-d", "nosuch", "-d", "shop", "--json"]).exits(13).json();
    assert_eq!(severities(&document, "postgres.connection"), ["fail", "ok"]);
    // A connection string with a password is not repeated.
    let secret = "postgresql://postgres:hunter2@127.0.0.1:1/shop?connect_timeout=2";
    let outcome = check(&workspace, &["-d", secret, "--connect-retry=0"]).exits(13);
    assert!(!outcome.transcript().replace(secret, "").contains("hunter2"), "{}", outcome.transcript());
}

/// A database that belongs to others, and a role that may log in and nothing else.
fn shared_server(version: PgVersion) -> Cluster {
    let cluster = Cluster::plain(version);
    cluster.sql("postgres", "CREATE ROLE \"back up\" LOGIN; CREATE ROLE owner");
    cluster.create_database("erp");
    cluster.sql(
        "erp",
        "CREATE SCHEMA \"hr; secret\"; CREATE TABLE \"hr; secret\".\"pay roll\" (id serial, who text);
         CREATE TABLE open (id int); GRANT SELECT ON open TO \"back up\";
         CREATE TABLE closed (id int);
         CREATE TABLE guarded (id int, who name); ALTER TABLE guarded ENABLE ROW LEVEL SECURITY;
         GRANT SELECT ON guarded TO \"back up\"; CREATE POLICY own ON guarded USING (who = current_user);
         CREATE VIEW look AS SELECT * FROM closed;
         SELECT lo_from_bytea(4711, 'x')",
    );
    cluster
}

#[test]
fn every_relation_that_would_stop_a_dump_is_named_and_the_fixes_are_fixes() {
    for version in PgVersion::ALL {
        the_fixes_are_fixes(&shared_server(version));
    }
}

fn the_fixes_are_fixes(server: &Cluster) {
    let workspace = Workspace::new();
    let as_backup = |arguments: &[&str]| workspace.pgkeep_on(server, arguments).env("PGUSER", "back up");
    let document = as_backup(&["check", "-d", "erp", "--json"]).run().exits(13).json();
    let subjects: Vec<&str> =
        of(&document, "rights.select").iter().map(|finding| finding["subject"].as_str().unwrap()).collect();
    assert_eq!(subjects, ["erp.hr; secret.pay roll", "erp.hr; secret.pay roll_id_seq", "erp.public.closed"]);
    let fix = of(&document, "rights.select")[0]["fix"].as_str().unwrap();
    assert_eq!(
        fix,
        "GRANT USAGE ON SCHEMA \"hr; secret\" TO \"back up\"; \
         GRANT SELECT ON TABLE \"hr; secret\".\"pay roll\" TO \"back up\";"
    );
    let summary = of(&document, "rights.relations")[0];
    assert_eq!(summary["evidence"], "3 of 5 tables and sequences cannot be read by \"back up\": pg_dump will fail");
    assert_eq!(summary["fix"], "GRANT pg_read_all_data TO \"back up\";");
    assert_eq!(of(&document, "rights.row-security")[0]["subject"], "erp.public.guarded");
    assert_eq!(of(&document, "rights.row-security")[0]["fix"], "ALTER ROLE \"back up\" BYPASSRLS;");
    assert_eq!(severities(&document, "rights.large-objects"), ["fail"]);
    assert_eq!(severities(&document, "rights.globals"), ["warn"]);
    // It is true: a dump fails.
    as_backup(&["dump", "-d", "erp"]).run().exits(4);

    // Relation by relation, as on a server that has no pg_read_all_data.
    let items = document["items"].as_array().unwrap().iter();
    for finding in items.filter(|finding| finding["severity"] == "fail" && finding["id"] != "rights.relations") {
        let fix = finding["fix"].as_str().unwrap();
        server.sql("erp", fix.split(" and so for each").next().unwrap());
    }
    let document = as_backup(&["check", "-d", "erp", "--json"]).run().succeeds().json();
    assert_eq!(severities(&document, "rights.relations"), ["ok"]);
    assert_eq!(severities(&document, "rights.large-objects"), ["ok"]);
    let dumped = as_backup(&["dump", "-d", "erp", "--json"]).run().succeeds().json();
    assert_eq!(dumped["items"][0]["globals"], "without_passwords");

    let grant = of(&document, "rights.globals")[0]["fix"].as_str().unwrap();
    server.sql("erp", grant.split_once("in this database: ").unwrap().1);
    let document = as_backup(&["check", "-d", "erp", "--json"]).run().succeeds().json();
    assert_eq!(severities(&document, "rights.globals"), ["ok"]);
    let dumped = as_backup(&["dump", "-d", "erp", "--json"]).run().succeeds().json();
    assert_eq!(dumped["items"][0]["globals"], "with_passwords");
}

#[test]
fn many_tables_need_many_locks() {
    let options = Options::new().setting("max_locks_per_transaction", "10").setting("max_connections", "12");
    let cluster = Cluster::start(PgVersion::V15, options);
    let create = |from: usize, to: usize| {
        for n in from..to {
            cluster.sql("postgres", &format!("CREATE TABLE t{n} (id int)"));
        }
    };
    let workspace = Workspace::new();
    let look = || {
        let document = workspace.pgkeep_on(&cluster, ["check", "-d", "postgres", "--json"]).run().json();
        (severities(&document, "server.locks"), of(&document, "server.locks")[0]["fix"].clone())
    };
    workspace.pgkeep_on(&cluster, ["check", "--all"]).run().exits(13);
    create(0, 30);
    assert_eq!(look(), (vec!["ok".to_owned()], Value::Null));
    create(30, 70);
    let (severity, fix) = look();
    assert_eq!(severity, ["warn"]);
    assert!(fix.as_str().unwrap().starts_with("set max_locks_per_transaction = 12"), "{fix}");
    create(70, 130);
    assert_eq!(look().0, ["fail"]);
}

#[test]
fn a_repository_that_is_not_there_is_not_made() {
    let workspace = Workspace::new();
    let outcome = check(&workspace, &["-d", "shop"]).succeeds();
    assert!(outcome.stdout.contains("ok    repository.absent  "), "{}", outcome.stdout);
    assert!(!workspace.repository().exists());

    let far = workspace.path("not/mounted");
    let call = workspace.pgkeep(["check", "--json", "--repo"]).arg(&far).run().exits(13).json();
    assert_eq!(severities(&call, "repository.absent"), ["fail"]);
    assert!(of(&call, "repository.absent")[0]["fix"].as_str().unwrap().contains("mounted"));

    fs::create_dir(workspace.repository()).unwrap();
    let document = on_repository(&workspace, &["check", "--json"]).succeeds().json();
    assert_eq!(severities(&document, "repository.marker"), ["ok"]);
    fs::write(workspace.repository().join("notes.txt"), "mine").unwrap();
    let document = on_repository(&workspace, &["check", "--json"]).succeeds().json();
    assert_eq!(severities(&document, "repository.marker"), ["warn"]);
    assert_eq!(tree(&workspace.repository()), ["notes.txt"]);

    let file = workspace.path("file");
    fs::write(&file, "").unwrap();
    workspace.pgkeep(["check", "--repo"]).arg(&file).run().exits(13);
}

#[test]
fn the_repository_of_this_host_must_be_the_one_it_was() {
    let stored = Stored::get();
    let workspace = stored.copy();
    workspace.pgkeep_on(&stored.cluster, ["dump", "-d", "shop"]).run().succeeds();
    fs::remove_file(workspace.repository().join("pgkeep.json")).unwrap();
    let document = on_repository(&workspace, &["check", "--json"]).exits(13).json();
    let finding = of(&document, "repository.open")[0];
    assert_eq!(finding["severity"], "fail");
    assert!(finding["fix"].as_str().unwrap().contains("unmounted"), "{finding}");
    // Nothing at all is no place for a new repository either.
    fs::remove_dir_all(workspace.repository()).unwrap();
    let document = on_repository(&workspace, &["check", "--json"]).exits(13).json();
    assert_eq!(severities(&document, "repository.open"), ["fail"]);
    assert!(!workspace.repository().exists());
}

#[test]
fn what_would_stop_a_dump_in_the_repository_is_found() {
    let workspace = Stored::get().copy();
    fs::set_permissions(workspace.repository(), fs::Permissions::from_mode(0o755)).unwrap();
    let document = on_repository(&workspace, &["check", "--json"]).succeeds().json();
    assert_eq!(severities(&document, "repository.mode"), ["warn"]);
    let fix = of(&document, "repository.mode")[0]["fix"].as_str().unwrap().to_owned();
    assert_eq!(fix, format!("chmod 700 {}", workspace.repository().display()));

    // Another cluster under the name of this instance is refused by a dump.
    let call = workspace.pgkeep_on(cluster(), ["check", "-d", "shop", "--json"]).run().succeeds().json();
    assert_eq!(severities(&call, "repository.lineage"), Vec::<String>::new());
    pretend_another_cluster(&workspace);
    let call = workspace.pgkeep_on(cluster(), ["check", "-d", "shop", "--json"]).run().exits(13).json();
    assert_eq!(severities(&call, "repository.lineage"), ["fail"]);
    assert!(of(&call, "repository.lineage")[0]["fix"].as_str().unwrap().contains("--new-lineage"));

    // A run that is under way.
    on_repository(&workspace, &["verify"]).succeeds();
    let locks = workspace.state().join("locks");
    let name = tree(&locks).into_iter().find(|name| name.ends_with(".main.verify.lock")).unwrap();
    let lock = fs::File::open(locks.join(name)).unwrap();
    lock.lock().unwrap();
    let document = on_repository(&workspace, &["check", "--json"]).succeeds().json();
    assert_eq!(severities(&document, "repository.lock"), ["warn"]);
}

/// The lineage of the instance is that of another system identifier.
fn pretend_another_cluster(workspace: &Workspace) {
    let folder = workspace.repository().join("main/lineages");
    let name = tree(&folder).remove(0);
    let id = name.strip_suffix(".json").unwrap();
    let text = fs::read_to_string(folder.join(&name)).unwrap().replace(id, "4711");
    fs::remove_file(folder.join(&name)).unwrap();
    fs::write(folder.join("4711.json"), text).unwrap();
}

#[test]
fn a_store_that_cannot_be_written_to_is_a_failure() {
    let Some((uid, gid)) = common::cluster::server_user() else { return without_being_root() };
    use std::os::unix::process::CommandExt as _;
    // As another user than the owner: the repository may be read, and not written to.
    let workspace = Stored::get().copy();
    open_to_all(&workspace.path(""));
    let state = workspace.path("state-of-another");
    fs::create_dir(&state).unwrap();
    std::os::unix::fs::chown(&state, Some(uid), Some(gid)).unwrap();
    let program = workspace.path("pgkeep");
    // By another process: what we write ourselves cannot be started while another test starts something.
    let copied = std::process::Command::new("cp").arg(env!("CARGO_BIN_EXE_pgkeep")).arg(&program).status();
    assert!(copied.unwrap().success());
    let output = std::process::Command::new(&program)
        .args(["check", "--json", "--repo"])
        .arg(workspace.repository())
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("PGKEEP_STATE_DIR", &state)
        .current_dir("/")
        .uid(uid)
        .gid(gid)
        .output()
        .unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(13), "{document:#}");
    assert_eq!(severities(&document, "repository.probe"), ["fail"]);
    assert!(of(&document, "repository.probe")[0]["fix"].as_str().unwrap().contains("sudo -u"), "{document:#}");
}

fn open_to_all(dir: &Path) {
    let opened = std::process::Command::new("chmod").args(["-R", "a+rX"]).arg(dir).status().unwrap();
    assert!(opened.success());
}

/// One user has the same by rights.
fn without_being_root() {
    let workspace = Stored::get().copy();
    fs::set_permissions(workspace.repository(), fs::Permissions::from_mode(0o500)).unwrap();
    let document = on_repository(&workspace, &["check", "--json"]).exits(13).json();
    assert_eq!(severities(&document, "repository.probe"), ["fail"]);
    fs::set_permissions(workspace.repository(), fs::Permissions::from_mode(0o700)).unwrap();
}

#[test]
fn names_from_a_server_cannot_write_to_the_terminal() {
    let workspace = Workspace::new();
    let outcome = check(&workspace, &["-d", common::stored::NASTY]).succeeds();
    assert!(!outcome.transcript().contains('\u{1b}'), "{}", outcome.stdout);
}
