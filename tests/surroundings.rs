//! Dumps beside servers, roles and encodings that are not as tidy as the manual's.
#![allow(clippy::unwrap_used)]

mod common;

use std::os::unix::fs::symlink;
use std::path::PathBuf;

use common::pgkeep::tree;
use common::{Cluster, PgVersion, Workspace};

/// What lies in the one stored object whose name ends like this, decompressed.
fn stored(workspace: &Workspace, ending: &str) -> Vec<u8> {
    let names = tree(&workspace.repository());
    let found: Vec<&String> = names.iter().filter(|name| name.ends_with(ending)).collect();
    let [one] = found.as_slice() else { panic!("{ending} in {names:?}") };
    zstd::decode_all(&std::fs::read(workspace.repository().join(one)).unwrap()[..]).unwrap()
}

fn latin1_database(cluster: &Cluster, script: &str) {
    cluster.sql("postgres", "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'");
    cluster.sql("latin", &format!("SET client_encoding = 'UTF8'; {script}"));
}

#[test]
fn a_database_with_an_unreadable_name_stops_no_other() {
    let cluster = Cluster::plain(PgVersion::V15);
    cluster.create_database("shop");
    latin1_database(&cluster, "CREATE ROLE \"rôle\"");
    cluster.sql("latin", "SET client_encoding = 'UTF8'; CREATE DATABASE \"café\" TEMPLATE template0");
    let workspace = Workspace::new();
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "--all", "--no-globals", "--json"]).run().exits(10);
    let json = outcome.json();
    let told = |key: &str| -> Vec<String> {
        let items = json["items"].as_array().unwrap();
        items.iter().map(|item| item[key].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(told("database"), ["caf\u{fffd}", "latin", "shop"]);
    assert_eq!(told("status"), ["failed", "ok", "ok"]);
    assert!(json["warnings"][0].as_str().unwrap().contains("is not UTF-8"), "{json}");
}

#[test]
fn a_name_that_is_not_text_is_an_error_and_no_panic() {
    let cluster = Cluster::plain(PgVersion::V15);
    latin1_database(&cluster, "CREATE ROLE \"rôle\"");
    let oid = cluster.sql("latin", "SET client_encoding = 'UTF8'; SELECT oid FROM pg_roles WHERE rolname = 'rôle'");
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE TABLE t ()");
    // No statement can say the name here.
    cluster.sql("shop", &format!("UPDATE pg_class SET relowner = {oid} WHERE relname = 't'"));
    let workspace = Workspace::new();
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "--no-globals"]).run().exits(4);
    assert!(outcome.stderr.contains("read pg_class: "), "{}", outcome.transcript());
    assert!(outcome.stderr.contains("hint: a name or comment in it is not UTF-8"), "{}", outcome.transcript());
}

#[test]
fn the_encoding_of_a_role_does_not_narrow_a_dump() {
    let cluster = Cluster::plain(PgVersion::V15);
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE TABLE \"数据\" (a text); INSERT INTO \"数据\" VALUES ('价格')");
    cluster.sql("postgres", "CREATE ROLE \"角色\"; ALTER ROLE postgres SET client_encoding = 'LATIN1'");
    let workspace = Workspace::new();
    workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).run().succeeds();
    assert!(String::from_utf8(stored(&workspace, "_globals.sql.zst")).unwrap().contains("CREATE ROLE \"角色\";"));
    let archive = stored(&workspace, ".dump.zst");
    assert!(archive.windows(6).any(|six| six == "价格".as_bytes()));
}

#[test]
fn globals_are_utf8_beside_every_database() {
    let cluster = Cluster::plain(PgVersion::V15);
    latin1_database(&cluster, "CREATE ROLE \"rôle\"; CREATE TABLE t (a text); INSERT INTO t VALUES ('ü')");
    let workspace = Workspace::new();
    workspace.pgkeep_on(&cluster, ["dump", "-d", "latin"]).run().succeeds();
    let globals = String::from_utf8(stored(&workspace, "_globals.sql.zst")).expect("the globals are UTF-8");
    assert!(globals.contains("SET client_encoding = 'UTF8'") && globals.contains("CREATE ROLE \"rôle\";"), "{globals}");
    // The archive keeps the encoding of its database: converting there and back need not give the same.
    assert!(stored(&workspace, ".dump.zst").windows(2).any(|two| two == b"\xfc\n"));
}

/// A superuser's hashes are not left out because of a timeout, whose text repeats the query.
#[test]
fn only_missing_rights_leave_passwords_out() {
    let cluster = Cluster::plain(PgVersion::V15);
    cluster.create_database("shop");
    let workspace = Workspace::new();
    let programs: PathBuf = workspace.path("bin");
    std::fs::create_dir(&programs).unwrap();
    symlink(cluster.bin_dir().join("pg_dump"), programs.join("pg_dump")).unwrap();
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--no-role-passwords*) exec {:?} \"$@\" ;; esac\n\
         echo 'pg_dumpall: error: query failed: ERROR:  canceling statement due to statement timeout' >&2\n\
         echo 'pg_dumpall: detail: Query was: SELECT oid, rolpassword FROM pg_authid' >&2\nexit 1\n",
        cluster.bin_dir().join("pg_dumpall")
    );
    common::executable(&programs.join("pg_dumpall"), &script);
    let dump = |user: &str| {
        let dump = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "--json", "--bin-dir", "./bin", "-U", user]);
        dump.run()
    };
    let error = dump("postgres").exits(4).json()["error"]["message"].to_string();
    assert!(error.contains("stage globals") && error.contains("statement timeout"), "{error}");
    cluster.sql("postgres", "CREATE ROLE limited LOGIN");
    let json = dump("limited").succeeds().json();
    assert_eq!(json["items"][0]["globals"], "without_passwords", "{json}");
}

#[test]
fn a_server_without_a_name_is_called_by_its_address() {
    let cluster = Cluster::plain(PgVersion::V15);
    cluster.create_database("shop");
    let workspace = Workspace::new();
    let dump = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).env_remove("PGHOST");
    dump.env("PGHOSTADDR", "127.0.0.1").env("PGPASSWORD", Cluster::PASSWORD).run().succeeds();
    let names = tree(&workspace.repository());
    let name = names.iter().find(|name| name.ends_with(".manifest.json")).unwrap();
    let text = std::fs::read_to_string(workspace.repository().join(name)).unwrap();
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap()["source"]["host"], "127.0.0.1", "{text}");
}

/// `-d "$database"` of a script in which that is unset.
#[test]
fn a_database_that_nothing_names_is_not_the_roles_own() {
    let cluster = Cluster::plain(PgVersion::V15);
    let workspace = Workspace::new();
    for database in ["", "postgresql://", "user=postgres"] {
        let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", database]).run().exits(2);
        assert!(outcome.stderr.contains("no database is named"), "{}", outcome.transcript());
    }
    workspace.pgkeep_on(&cluster, ["dump"]).env("PGDATABASE", "").run().exits(2);
    let check = workspace.pgkeep_on(&cluster, ["check", "-d", ""]).run().exits(13);
    assert!(check.stdout.contains("no database is named"), "{}", check.transcript());
    workspace.pgkeep_on(&cluster, ["dump", "-d", ""]).env("PGDATABASE", "postgres").run().succeeds();
}
