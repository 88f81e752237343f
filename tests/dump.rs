//! What `pgkeep dump` stores and what it says, on real servers. How it fails is in `dump_failures.rs`.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use common::cluster::{conninfo_value, identifier, literal};
use common::dumps::{Holder, dumps_of, only_dump, runs_of, until};
use common::pgkeep::tree;
use common::shapes::{self, BREAKING_NAMES, NASTY_NAMES};
use common::{Cluster, Outcome, PgVersion, Workspace};
use serde_json::{Value, json};

fn shop(cluster: &Cluster) {
    cluster.sql("postgres", "CREATE ROLE keeper_of_shop LOGIN PASSWORD 'x'; CREATE DATABASE shop OWNER keeper_of_shop");
    cluster.sql(
        "shop",
        "CREATE TABLE orders_of_2026 (a int, b text); ALTER TABLE orders_of_2026 OWNER TO keeper_of_shop;
         INSERT INTO orders_of_2026 SELECT g, repeat(md5(g::text), 20) FROM generate_series(1, 2000) g",
    );
}

fn names(values: &Value, key: &str) -> Vec<String> {
    values.as_array().unwrap().iter().map(|value| value[key].as_str().unwrap().to_owned()).collect()
}

/// How the database's name stands in file names, computed from the words of `ops/docs/format.md`.
fn encoded(database: &str) -> String {
    let keep =
        |(at, c): (usize, char)| c.is_alphabetic() || c.is_ascii_digit() || "-_".contains(c) || c == '.' && at > 0;
    let percent = |c: char| c.to_string().bytes().map(|byte| format!("%{byte:02X}")).collect();
    database.char_indices().map(|(at, c)| if keep((at, c)) { c.to_string() } else { percent(c) }).collect()
}

#[test]
fn a_dump_is_what_the_format_says() {
    for version in PgVersion::ALL {
        let (cluster, workspace) = (Cluster::plain(version), Workspace::new());
        shop(&cluster);
        let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).run().succeeds();

        let dump = only_dump(&workspace);
        dump.holds(&cluster, &workspace);
        let id = dump.id();
        assert!(outcome.stdout.starts_with(&id), "{}", outcome.transcript());
        let host = rustix::system::uname().nodename().to_string_lossy().split('.').next().unwrap().to_owned();
        assert!(id.starts_with("shop_20") && id.ends_with(&format!("Z_{host}")), "{id}");
        let endings = [".details.json.zst", ".dump.zst", ".dump.zst.sha256", ".manifest.json", "_globals.sql.zst"];
        let files: Vec<String> = endings.iter().map(|ending| id.clone() + ending).collect();
        assert_eq!(tree(dump.stem.parent().unwrap()), files);

        let manifest = &dump.manifest;
        assert_eq!(manifest["database"], "shop");
        assert_eq!(manifest["id"], id);
        assert_eq!(manifest["checks"], json!({"decoded": true, "readBack": true}));
        assert_eq!(manifest["globals"]["included"], "with_passwords");
        assert_eq!(manifest["compression"], json!({"method": "zstd", "level": 3}));
        let system = cluster.sql("postgres", "SELECT system_identifier FROM pg_control_system()");
        assert_eq!(manifest["systemIdentifier"], system);
        let number: u64 = cluster.sql("postgres", "SHOW server_version_num").parse().unwrap();
        assert_eq!(manifest["server"]["number"], number);
        assert_eq!(manifest["counts"]["tables"], 1);

        let globals = dump.globals();
        assert!(globals.contains("CREATE ROLE keeper_of_shop;") && globals.contains("SCRAM-SHA-256"), "{globals}");

        // Names of users' tables and roles are nowhere but in the archive, the globals and the details.
        let manifest_text = fs::read_to_string(dump.file(".manifest.json")).unwrap();
        for name in ["orders_of_2026", "keeper_of_shop"] {
            assert!(!manifest_text.contains(name), "{manifest_text}");
        }
        assert_eq!(tree(&workspace.repository().join("main/intents")), [""; 0]);
        assert_eq!(tree(&workspace.repository().join("main/lineages")), [format!("{system}.json")]);
        let runs = runs_of(&workspace, "main");
        assert_eq!((runs.len(), &runs[0]["status"]), (1, &json!("SUCCEEDED")), "{runs:#?}");
        assert_eq!(runs[0]["items"][0]["id"], id);
        assert!(cluster.sql("postgres", OURS).is_empty());
        assert_eq!(tree(&workspace.path("tmp")), [""; 0]);
    }
}

/// Backends of ours that are still there.
const OURS: &str = "SELECT pid, query FROM pg_stat_activity WHERE application_name IN ('pgkeep', 'pg_dump')";

#[test]
fn details_name_what_a_restore_needs() {
    for version in PgVersion::ALL {
        let (cluster, workspace) = (Cluster::plain(version), Workspace::new());
        shapes::torture(&cluster, "torture");
        workspace.pgkeep_on(&cluster, ["dump", "-d", "torture"]).run().succeeds();
        let dump = only_dump(&workspace);
        dump.holds(&cluster, &workspace);
        let details = dump.details();

        let roles: BTreeSet<&str> = details["roles"].as_array().unwrap().iter().map(|r| r.as_str().unwrap()).collect();
        // The owner of the database, of a table, grantees of a policy, of rights and of default rights, a role with a
        // setting in this database; not one that nothing refers to.
        for role in ["torture_owner", "a=b", "quo\"te'", "-rf; $(x)", "Größe 🐘", "torture_member"] {
            assert!(roles.contains(role), "{role}: {roles:?}");
        }
        assert!(!roles.contains("unused by any object"), "{roles:?}");

        let database = &details["database"];
        assert_eq!(database["owner"], "torture_owner");
        assert_eq!(database["encoding"], "UTF8");
        assert_eq!(database["collate"], "C.UTF-8");
        assert_eq!(database["comment"], "the database's\ncomment");
        assert!(database["acl"].as_array().unwrap().len() > 1, "{database}");
        let settings = details["settings"].as_array().unwrap();
        let setting = |role: Value, name: &str| {
            let found = settings.iter().find(|setting| setting["role"] == role && setting["name"] == name);
            found.map(|setting| setting["value"].as_str().unwrap())
        };
        assert_eq!(setting(Value::Null, "work_mem"), Some("7MB"), "{settings:?}");
        assert_eq!(setting(json!("torture_member"), "statement_timeout"), Some("61s"));
        assert_eq!(setting(json!("Größe 🐘"), "torture.custom"), Some("it's; \"x\""));

        let relations = details["relations"].as_array().unwrap();
        let owner = |schema: &str, name: &str| {
            let found = relations.iter().find(|relation| relation["schema"] == schema && relation["name"] == name);
            found.map(|relation| (relation["owner"].as_str().unwrap(), relation["kind"].as_str().unwrap()))
        };
        assert_eq!(owner("torture", "everything"), Some(("torture_owner", "table")));
        assert_eq!(owner("UPPER=lower", "Case").map(|found| found.0), Some("a=b"));
        let counted: usize = cluster
            .sql(
                "torture",
                "SELECT count(*) FROM pg_class c WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
                 AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)'",
            )
            .parse()
            .unwrap();
        assert_eq!(relations.len(), counted);
        let large: u64 = cluster.sql("torture", "SELECT count(*) FROM pg_largeobject_metadata").parse().unwrap();
        assert_eq!(dump.manifest["counts"]["largeObjects"], large);
        let manifest = dump.manifest.to_string();
        assert!(!manifest.contains("torture_owner") && !manifest.contains("everything"), "{manifest}");
    }
}

#[test]
fn extensions_are_named_with_their_versions() {
    for version in PgVersion::ALL {
        let (cluster, workspace) = (Cluster::plain(version), Workspace::new());
        let used = shapes::extensions(&cluster, "ext");
        workspace.pgkeep_on(&cluster, ["dump", "-d", "ext"]).run().succeeds();
        let details = only_dump(&workspace).details();
        let named = names(&details["extensions"], "name");
        for name in used {
            assert!(named.contains(&name.to_owned()), "{name}: {named:?}");
            let stored = details["extensions"].as_array().unwrap().iter().find(|e| e["name"] == name).unwrap();
            let query = format!("SELECT extversion FROM pg_extension WHERE extname = {}", literal(name));
            assert_eq!(stored["version"], cluster.sql("ext", &query));
            assert_eq!(stored["schema"], "ext; schema");
        }
    }
}

#[test]
fn all_databases_but_postgres_and_the_templates() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "--all", "--json"]).run().exits(11);
    assert_eq!(outcome.json()["status"], "not_verified");

    shapes::platform(&cluster);
    shapes::empty(&cluster, "empty");
    cluster.sql("postgres", "CREATE DATABASE closed ALLOW_CONNECTIONS false; CREATE DATABASE tpl IS_TEMPLATE true");
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "--all", "--json"]).run().succeeds();
    let mut dumped: Vec<&str> = Vec::from(shapes::PLATFORM);
    dumped.push("empty");
    dumped.sort_unstable();
    assert_eq!(names(&outcome.json()["items"], "database"), dumped);
    let stored = dumps_of(&workspace, "main");
    assert_eq!(stored.len(), dumped.len());
    for dump in &stored {
        dump.holds(&cluster, &workspace);
        // Objects whose owner is not the database's bring their role along.
        let details = dump.details();
        for relation in details["relations"].as_array().unwrap() {
            assert!(details["roles"].as_array().unwrap().contains(&relation["owner"]), "{}: {relation}", dump.id());
        }
        let owners: BTreeSet<String> = names(&details["relations"], "owner").into_iter().collect();
        match dump.manifest["database"].as_str().unwrap() {
            "apikey" => assert!(owners.contains("security_console"), "{owners:?}"),
            "root" => assert!(owners.contains("keycloak") && details["relations"].as_array().unwrap().len() >= 92),
            _ => {}
        }
    }
    // Both attempts are on record, the one that found nothing, too.
    let statuses: Vec<Value> = runs_of(&workspace, "main").into_iter().map(|run| run["status"].clone()).collect();
    assert_eq!(statuses, ["FAILED", "SUCCEEDED"]);
}

/// The arguments that name a database whatever its name is.
fn named(database: &str) -> String {
    format!("dbname={}", conninfo_value(database))
}

#[test]
fn any_name_that_a_database_can_have() {
    for version in PgVersion::ALL {
        let (cluster, workspace) = (Cluster::plain(version), Workspace::new());
        let mut wanted = BTreeSet::new();
        let step = if version == PgVersion::V15 { 1 } else { 7 };
        for name in NASTY_NAMES.into_iter().step_by(step).chain(BREAKING_NAMES).chain(["\u{1b}[31mred"]) {
            if wanted.contains(name) {
                continue;
            }
            // A server may refuse the name itself; then there is nothing to dump.
            match cluster.try_sql("postgres", &format!("CREATE DATABASE {}", identifier(name))) {
                Ok(_) => wanted.insert(name),
                Err(error) => {
                    assert!(BREAKING_NAMES.contains(&name), "{name:?}: {error}");
                    false
                }
            };
        }
        assert!(version != PgVersion::V15 || wanted.len() == NASTY_NAMES.len() + BREAKING_NAMES.len());
        let outcome = workspace.pgkeep_on(&cluster, ["dump", "--all", "--json", "--check", "decode"]).run().succeeds();
        let listed = names(&outcome.json()["items"], "database");
        assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), wanted, "{}", outcome.transcript());

        let stored = dumps_of(&workspace, "main");
        let manifests: BTreeSet<&str> = stored.iter().map(|dump| dump.manifest["database"].as_str().unwrap()).collect();
        assert_eq!(manifests, wanted);
        for dump in &stored {
            dump.holds(&cluster, &workspace);
            let name = dump.manifest["database"].as_str().unwrap();
            let (id, encoded) = (dump.id(), encoded(name));
            assert!(
                id.starts_with(&format!("{encoded}_20")) || id.contains('~') && encoded.len() > 100,
                "{name:?}: {id}"
            );
        }
        if wanted.contains("line\nbreak") {
            let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", &named("line\nbreak"), "-v"]).run().succeeds();
            let text = outcome.stderr.lines().chain(outcome.stdout.lines());
            assert!(
                text.clone().count() > 3 && !text.clone().any(|line| line.starts_with("break")),
                "{}",
                outcome.transcript()
            );
        }
        // The text of a dump cannot be forged by a name, and cannot move the cursor.
        let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", &named("\u{1b}[31mred"), "-v"]).run().succeeds();
        for text in [&outcome.stdout, &outcome.stderr] {
            assert!(!text.contains('\u{1b}'), "{}", outcome.transcript());
        }
        let args = ["dump", "-d", &named("\u{1b}[31mred"), "--dry-run"];
        let outcome = workspace.pgkeep_on(&cluster, args).run().succeeds();
        assert!(!outcome.stdout.contains('\u{1b}'), "{}", outcome.transcript());
        let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", &named("no\u{1b}[1m\nhint: run rm")]).run().exits(3);
        for text in [&outcome.stdout, &outcome.stderr] {
            assert!(!text.contains('\u{1b}') && !text.contains("\nhint: run rm"), "{}", outcome.transcript());
        }
    }
}

#[test]
fn an_empty_database_is_a_database() {
    for version in PgVersion::ALL {
        let (cluster, workspace) = (Cluster::plain(version), Workspace::new());
        shapes::empty(&cluster, "nothing");
        workspace.pgkeep_on(&cluster, ["dump", "-d", "nothing"]).run().succeeds();
        let dump = only_dump(&workspace);
        dump.holds(&cluster, &workspace);
        assert_eq!(dump.manifest["counts"]["tables"], 0);
    }
}

#[test]
fn a_dry_run_stores_nothing() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "--dry-run"]).run().succeeds();
    assert!(!workspace.repository().exists());
    let bin = cluster.bin_dir();
    for said in ["would dump shop (", "it would be created", "zstd:3", "read the stored archive again"] {
        assert!(outcome.stdout.contains(said), "{said}: {}", outcome.transcript());
    }
    for program in ["pg_dump", "pg_dumpall"] {
        let path = bin.join(program).display().to_string();
        assert!(outcome.stdout.contains(&path), "{path}: {}", outcome.transcript());
    }
    workspace.pgkeep_on(&cluster, ["dump", "-d", "nosuch", "--dry-run"]).run().exits(3);
    workspace
        .pgkeep_on(&cluster, ["dump", "-d", "shop", "--dry-run", "-p", "1", "--connect-retry", "0"])
        .run()
        .exits(3);
    workspace.pgkeep_on(&cluster, ["dump", "--all", "--dry-run", "-p", "1", "--connect-retry", "0"]).run().exits(3);
    assert!(!workspace.repository().exists());

    workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).run().succeeds();
    let before = tree(&workspace.repository());
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "--dry-run", "--json"]).run().succeeds();
    let item = &outcome.json()["items"][0];
    assert_eq!((&item["database"], &item["error"]), (&json!("shop"), &Value::Null));
    assert!(item["repositories"][0]["freeBytes"].as_u64().unwrap() > 0);
    assert_eq!(tree(&workspace.repository()), before);
}

/// The keys that every document has, whatever happened.
#[track_caller]
fn document(outcome: &Outcome) -> Value {
    let document = outcome.json();
    let keys: Vec<&String> = document.as_object().unwrap().keys().collect();
    let expected =
        ["command", "durationSeconds", "error", "exitCode", "items", "pgkeepJson", "startedAt", "status", "warnings"];
    assert_eq!(keys.into_iter().collect::<BTreeSet<_>>(), expected.map(str::to_owned).iter().collect());
    assert_eq!(document["pgkeepJson"], 1);
    assert_eq!(document["exitCode"], outcome.exit_code.unwrap());
    let started = document["startedAt"].as_str().unwrap();
    assert!(started.len() == 20 && started.ends_with('Z'), "{started}");
    document
}

#[test]
fn one_json_document_however_it_ends() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "--json"]).run().succeeds();
    let document_ok = document(&outcome);
    assert_eq!(document_ok["status"], "ok");
    assert_eq!(document_ok["error"], Value::Null);
    let dump = only_dump(&workspace);
    let item = &document_ok["items"][0];
    assert_eq!(item["id"], dump.id());
    assert_eq!(item["instance"], "main");
    assert_eq!(item["status"], "ok");
    assert_eq!(item["plainBytes"], dump.manifest["plain"]["sizeBytes"]);
    let objects = dump.manifest["objects"].as_array().unwrap();
    let stored: u64 = objects.iter().map(|object| object["sizeBytes"].as_u64().unwrap()).sum();
    let repository = workspace.repository().display().to_string();
    assert_eq!(
        item["repositories"],
        json!([{"name": repository, "status": "ok", "storedBytes": stored, "error": null}])
    );

    // One of two.
    let args = ["dump", "-d", "nosuch", "-d", "shop", "--json"];
    let partial = document(&workspace.pgkeep_on(&cluster, args).run().exits(10));
    assert_eq!((&partial["status"], &partial["error"]["kind"]), (&json!("partial"), &json!("partial")));
    assert_eq!(partial["items"][0]["stage"], "connect");
    assert!(partial["items"][0]["error"]["message"].as_str().unwrap().contains("nosuch"), "{partial}");
    assert_eq!(partial["items"][1]["status"], "ok");
    assert_eq!(runs_of(&workspace, "main").last().unwrap()["status"], "PARTIAL");
    // Both, and each says what to do.
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "no1", "-d", "no2"]).run().exits(3);
    assert_eq!(outcome.stdout.matches("hint: ").count(), 2, "{}", outcome.transcript());

    // Usage, before and after parsing.
    let unknown = document(&workspace.pgkeep(["dump", "--json", "--nonsense"]).run().exits(2));
    assert!(unknown["error"]["message"].as_str().unwrap().contains("--nonsense"), "{unknown}");
    let outcome = workspace.pgkeep(["dump", "--json", "-d", "shop"]).run().exits(2);
    let nowhere = document(&outcome);
    assert_eq!((&nowhere["command"], &nowhere["error"]["kind"]), (&json!("dump"), &json!("usage")));
    assert!(nowhere["error"]["hint"].as_str().unwrap().contains("--repo"), "{nowhere}");
    let nothing = document(&workspace.pgkeep_on(&cluster, ["dump", "--json"]).run().exits(2));
    assert!(nothing["error"]["hint"].as_str().unwrap().contains("-d"), "{nothing}");
    // A mistyped command is not a run.
    assert_eq!(runs_of(&workspace, "main").len(), 3);
}

#[test]
fn the_database_of_the_environment() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    workspace.pgkeep_on(&cluster, ["dump"]).env("PGDATABASE", "shop").run().succeeds();
    assert_eq!(only_dump(&workspace).manifest["database"], "shop");
    let outcome = workspace.pgkeep_on(&cluster, ["dump"]).env("PGDATABASE", "").run().exits(2);
    assert!(outcome.stderr.contains("no database is named"), "{}", outcome.transcript());
}

#[test]
fn quiet_says_nothing_and_verbose_says_what_is_run() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    let quiet = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "-q"]).run().succeeds();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let plain = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).run().succeeds();
    assert_eq!(plain.stderr, "", "{}", plain.transcript());
    let verbose = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "-v"]).run().succeeds();
    let steps = [
        "\"shop\": PostgreSQL 15.",
        "pg_dumpall --no-password --globals-only",
        "pg_dump --no-password --format=custom",
        "INFO stored shop_",
        " is a backup\n",
    ];
    let places =
        steps.map(|step| verbose.stderr.find(step).unwrap_or_else(|| panic!("{step}: {}", verbose.transcript())));
    assert!(places.is_sorted(), "{}", verbose.transcript());
    let failed = workspace.pgkeep_on(&cluster, ["dump", "-d", "nosuch", "-q"]).run().exits(3);
    assert!(failed.stderr.starts_with("pgkeep: failed to dump: "), "{}", failed.transcript());
    assert!(failed.stderr.contains("\nhint: "), "{}", failed.transcript());
}

#[test]
fn nobody_has_to_listen() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    // A disk under the log that is full, a reader that is gone.
    for (number, to) in [">/dev/full 2>&1", "2>/dev/full", ">&- 2>&-", "2>&1 | true"].into_iter().enumerate() {
        let script = format!("{{ \"$0\" \"$@\"; echo $? >code; }} {to}");
        for how in ["line", "bar"] {
            let arguments = ["dump", "-d", "shop", "-vvv", "--progress", how];
            workspace.pgkeep_on(&cluster, arguments).under(&["sh", "-c", &script]).run().succeeds();
            assert_eq!(fs::read_to_string(workspace.path("code")).unwrap(), "0\n", "{to}");
            fs::remove_file(workspace.path("code")).unwrap();
        }
        assert_eq!(dumps_of(&workspace, "main").len(), 2 * (number + 1));
    }
}

#[test]
fn settings_of_a_database_do_not_end_its_dump() {
    for version in PgVersion::ALL {
        let (cluster, workspace) = (Cluster::plain(version), Workspace::new());
        shop(&cluster);
        let mut hostile = vec![
            "statement_timeout = '300ms'",
            "lock_timeout = '300ms'",
            "idle_in_transaction_session_timeout = '300ms'",
            "idle_session_timeout = '300ms'",
            "default_transaction_isolation = 'serializable'",
            "default_transaction_deferrable = on",
            "search_path = 'nowhere'",
            "row_security = on",
            "client_encoding = 'SQL_ASCII'",
            "datestyle = 'German'",
            "extra_float_digits = -15",
            "bytea_output = 'escape'",
        ];
        if version == PgVersion::V18 {
            hostile.push("transaction_timeout = '300ms'");
        }
        let lock = Holder::of(&cluster, "shop", "LOCK orders_of_2026");
        for setting in hostile {
            cluster.sql("postgres", &format!("ALTER DATABASE shop SET {setting}"));
        }
        let dump = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).spawn();
        // Longer than all of the times above, with a statement that runs and a session that is idle in a transaction.
        let both = "SELECT count(*) FROM pg_stat_activity
                     WHERE now() - state_change > '700ms' AND application_name = 'pgkeep' AND datname = 'shop'
                       AND (wait_event_type = 'Lock' OR state = 'idle in transaction')";
        until("the dump waits", || cluster.sql("postgres", both) == "2");
        drop(lock);
        Outcome::wait_for(dump).succeeds();
        only_dump(&workspace).holds(&cluster, &workspace);
    }
}

#[test]
fn nothing_is_open_to_others_whatever_the_umask() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    fs::remove_dir(workspace.state()).unwrap();
    let open = ["sh", "-c", "umask 000; exec \"$0\" \"$@\""];
    workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).under(&open).run().succeeds();
    only_dump(&workspace);
    for root in [workspace.repository(), workspace.state()] {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(&root), 0o700, "{}", root.display());
        let found = tree(&root);
        assert!(found.len() > 2);
        for name in found {
            let expected = if name.ends_with('/') { 0o700 } else { 0o600 };
            assert_eq!(mode(&root.join(&name)), expected, "{name}");
        }
    }
}

#[test]
fn a_role_that_may_not_read_passwords() {
    for version in PgVersion::ALL {
        let (cluster, workspace) = (Cluster::plain(version), Workspace::new());
        shop(&cluster);
        cluster.sql("postgres", "CREATE ROLE backup LOGIN BYPASSRLS");
        cluster.sql("shop", "GRANT SELECT ON orders_of_2026 TO backup");
        let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "-U", "backup"]).run().succeeds();
        assert!(outcome.stderr.contains("warning: shop: globals are without passwords"), "{}", outcome.transcript());
        assert!(outcome.stdout.contains("without passwords"), "{}", outcome.transcript());
        let dump = only_dump(&workspace);
        dump.holds(&cluster, &workspace);
        assert_eq!(dump.manifest["globals"]["included"], "without_passwords");
        assert!(dump.manifest["globals"]["reason"].as_str().unwrap().contains("pg_authid"), "{}", dump.manifest);
        let globals = dump.globals();
        assert!(globals.contains("CREATE ROLE keeper_of_shop;") && !globals.contains("PASSWORD"), "{globals}");

        // pg_read_all_data reads pg_authid, too.
        cluster.sql("postgres", "GRANT pg_read_all_data TO backup");
        let args = ["dump", "-d", "shop", "-U", "backup", "--instance", "all"];
        workspace.pgkeep_on(&cluster, args).run().succeeds();
        let dump = &dumps_of(&workspace, "all")[0];
        assert_eq!(dump.manifest["globals"]["included"], "with_passwords");
        assert!(dump.globals().contains("SCRAM-SHA-256"));
    }
}

#[test]
fn globals_can_be_left_out() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "--no-globals", "--compress", "zstd:9"]).run().succeeds();
    let dump = only_dump(&workspace);
    dump.holds(&cluster, &workspace);
    assert_eq!(dump.manifest["globals"]["included"], "not_included");
    assert_eq!(dump.manifest["compression"]["level"], 9);
    assert!(!dump.file("_globals.sql.zst").exists());
}

#[test]
fn a_missing_right_is_said_in_pg_dumps_words() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    cluster.sql("shop", "CREATE TABLE of_another (a int)");
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "-U", "keeper_of_shop"]).run().exits(4);
    let words = "permission denied for table of_another";
    assert!(outcome.stderr.contains(words) && outcome.stderr.contains("stage archive"), "{}", outcome.transcript());
    assert!(outcome.stderr.contains("hint: grant ") && !outcome.stderr.contains("   "), "{}", outcome.transcript());
    assert!(dumps_of(&workspace, "main").is_empty());
    let runs = runs_of(&workspace, "main");
    assert_eq!(runs[0]["status"], "FAILED");
    assert_eq!((&runs[0]["stage"], &runs[0]["exitCode"]), (&json!("archive"), &json!(4)));
    assert!(runs[0]["error"].as_str().unwrap().contains(words), "{runs:#?}");
}

#[test]
fn a_locked_table_is_waited_for_and_then_named() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    let _holder = Holder::of(&cluster, "shop", "LOCK orders_of_2026");
    let once = ["dump", "-d", "shop", "--lock-retry", "0", "--lock-wait"];
    let outcome = workspace.pgkeep_on(&cluster, once.iter().chain(&["100ms"])).run().exits(4);
    assert!(outcome.stderr.contains("LOCK TABLE public.orders_of_2026"), "{}", outcome.transcript());
    let named = " of role postgres by holder holds public.orders_of_2026 (idle in transaction, ";
    assert!(outcome.stderr.contains(named), "{}", outcome.transcript());
    let hint = outcome.stderr.split_once("hint: ").unwrap().1;
    assert!(hint.contains("--lock-wait") && !hint.contains("  "), "{hint}");
    // No time at all is no time, and not for ever.
    workspace.pgkeep_on(&cluster, once.iter().chain(&["0"])).run().exits(4);
    // The query that is offered works when it is pasted.
    let query = &hint[hint.find("SELECT").unwrap()..hint.find("; or").unwrap()];
    assert!(cluster.sql("shop", query).contains("orders_of_2026"), "{query}");
}

#[test]
fn two_dumps_of_one_instance_do_not_meet() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    cluster.create_database("other");
    let holder = Holder::of(&cluster, "shop", "LOCK orders_of_2026");
    let first = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).spawn();
    let waits = "SELECT 1 FROM pg_locks WHERE NOT granted";
    until("the first dump waits for the table", || !cluster.sql("postgres", waits).is_empty());

    let second = workspace.pgkeep_on(&cluster, ["dump", "-d", "other"]).run().exits(7);
    let said = format!("dump of instance main is locked by process {} since 20", first.id());
    assert!(second.stderr.contains(&said), "{}", second.transcript());
    workspace.pgkeep_on(&cluster, ["dump", "-d", "other", "--instance", "site2"]).run().succeeds();
    drop(holder);
    Outcome::wait_for(first).succeeds();
    assert_eq!(dumps_of(&workspace, "main").len(), 1);
    assert_eq!(dumps_of(&workspace, "site2").len(), 1);
}

#[test]
fn two_histories_are_not_mixed() {
    let (one, two, workspace) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V15), Workspace::new());
    // Copies of one template have one identifier; a cluster of its own is what pg_resetwal makes of it.
    let newer = Cluster::plain(PgVersion::V18);
    let id = |cluster: &Cluster| cluster.sql("postgres", "SELECT system_identifier FROM pg_control_system()");
    assert_eq!(id(&one), id(&two));
    drop(two);
    for cluster in [&one, &newer] {
        shop(cluster);
    }
    workspace.pgkeep_on(&newer, ["dump", "-d", "shop"]).run().succeeds();

    // From 18 to 15 is no upgrade.
    let refused = workspace.pgkeep_on(&one, ["dump", "-d", "shop"]).run().exits(9);
    for said in [id(&one), id(&newer), "--new-lineage".to_owned(), "--instance".to_owned(), "stage lineage".to_owned()]
    {
        assert!(refused.stderr.contains(&said), "{said}: {}", refused.transcript());
    }
    assert_eq!(dumps_of(&workspace, "main").len(), 1);

    workspace.pgkeep_on(&one, ["dump", "-d", "shop", "--instance", "old"]).run().succeeds();
    let accepted = workspace.pgkeep_on(&one, ["dump", "-d", "shop", "--new-lineage"]).run().succeeds();
    assert!(accepted.stderr.contains("a new lineage begins"), "{}", accepted.transcript());
    // From then on it is known, and so is the other.
    for cluster in [&one, &newer] {
        let outcome = workspace.pgkeep_on(cluster, ["dump", "-d", "shop"]).run().succeeds();
        assert_eq!(outcome.stderr, "", "{}", outcome.transcript());
    }
    // From 15 to 18 is one: it opens a lineage and says so.
    let upgraded = workspace.pgkeep_on(&newer, ["dump", "-d", "shop", "--instance", "old"]).run().succeeds();
    assert!(upgraded.stderr.contains("from PostgreSQL 15 to 18"), "{}", upgraded.transcript());
    assert_eq!(tree(&workspace.repository().join("old/lineages")).len(), 2);
}

#[test]
fn a_cluster_that_does_not_say_who_it_is() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    cluster.sql("shop", "CREATE ROLE backup LOGIN; GRANT pg_read_all_data TO backup");
    cluster.sql("shop", "REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC");
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop", "-U", "backup"]).run().succeeds();
    assert!(
        outcome.stderr.contains("warning: shop: the role may not execute pg_control_system()"),
        "{}",
        outcome.stderr
    );
    let dump = only_dump(&workspace);
    dump.holds(&cluster, &workspace);
    assert_eq!(dump.manifest["systemIdentifier"], Value::Null);
}

#[test]
fn a_disk_that_is_not_mounted_is_not_written_to() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).run().succeeds();
    fs::rename(workspace.repository(), workspace.path("elsewhere")).unwrap();
    // The mount point without the disk.
    fs::create_dir(workspace.repository()).unwrap();
    let outcome = workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).run().exits(9);
    assert!(outcome.stderr.contains("pgkeep.json"), "{}", outcome.transcript());
    assert!(outcome.stderr.contains("\nhint: "), "{}", outcome.transcript());
    assert_eq!(tree(&workspace.repository()), [""; 0]);
    // Nor is it made again where even the mount point is gone.
    fs::remove_dir(workspace.repository()).unwrap();
    workspace.pgkeep_on(&cluster, ["dump", "-d", "shop"]).run().exits(9);
    let found = workspace.repository().exists().then(|| tree(&workspace.repository()));
    assert!(found.is_none_or(|names| names.is_empty()));
    let deep = workspace.path("no/such/place");
    let outcome = workspace.pgkeep(["dump", "-d", "shop", "--repo"]).arg(&deep).connecting_to(&cluster).run();
    let outcome = outcome.exits(5);
    assert!(outcome.stderr.contains("no/such"), "{}", outcome.transcript());
    assert!(!workspace.path("no").exists());
}

#[test]
fn the_manifest_says_what_was_checked() {
    let (cluster, workspace) = (Cluster::plain(PgVersion::V15), Workspace::new());
    shop(&cluster);
    for (level, read_back) in [("decode", false), ("read-back", true)] {
        let args = ["dump", "-d", "shop", "--check", level, "--instance", level];
        let outcome = workspace.pgkeep_on(&cluster, args).run().succeeds();
        let dumps = dumps_of(&workspace, level);
        assert_eq!(dumps[0].manifest["checks"], json!({"decoded": true, "readBack": read_back}));
        assert_eq!(outcome.stdout.contains("read back"), read_back, "{}", outcome.transcript());
    }
}

/// A directory with the client programs of a version and nothing else.
fn clients_of(workspace: &Workspace, version: PgVersion) -> std::path::PathBuf {
    let dir = workspace.path(&format!("clients-{version:?}"));
    fs::create_dir(&dir).unwrap();
    for program in ["pg_dump", "pg_dumpall", "pg_restore"] {
        symlink(version.bin_dir().join(program), dir.join(program)).unwrap();
    }
    dir
}

#[test]
fn the_client_that_fits_is_used_and_recorded() {
    let (old, new) = (Cluster::plain(PgVersion::V15), Cluster::plain(PgVersion::V18));
    let workspace = Workspace::new();
    let (clients_15, clients_18) = (clients_of(&workspace, PgVersion::V15), clients_of(&workspace, PgVersion::V18));
    for cluster in [&old, &new] {
        shop(cluster);
    }
    let path = |first: &Path, then: &Path| format!("{}:{}:/usr/bin:/bin", first.display(), then.display());
    let program = |instance: &str| {
        let manifest = &dumps_of(&workspace, instance)[0].manifest;
        let (client, server) = (&manifest["client"], &manifest["server"]);
        (client["program"].as_str().unwrap().to_owned(), client["version"].clone(), server["text"].clone())
    };

    // An older one first in PATH does not count, the newest does; 18 dumps 15.
    for (instance, cluster) in [("new", &new), ("old", &old)] {
        let dump = workspace.pgkeep_on(cluster, ["dump", "-d", "shop", "--instance", instance]);
        dump.env("PATH", path(&clients_15, &clients_18)).run().succeeds();
        let (used, version, _) = program(instance);
        assert_eq!(used, clients_18.join("pg_dump").display().to_string());
        assert!(version.as_str().unwrap().starts_with("18."), "{version}");
    }
    // --bin-dir names the one, whatever PATH has.
    let dump = workspace.pgkeep_on(&old, ["dump", "-d", "shop", "--instance", "named"]);
    dump.arg(format!("--bin-dir={}", clients_15.display()))
        .env("PATH", path(&clients_18, &clients_15))
        .run()
        .succeeds();
    let (used, version, server) = program("named");
    assert_eq!(used, clients_15.join("pg_dump").display().to_string());
    assert!(version.as_str().unwrap().starts_with("15.") && server.as_str().unwrap().starts_with("15."));

    // A server that is newer than every client.
    let dump = workspace.pgkeep_on(&new, ["dump", "-d", "shop", "--instance", "refused"]);
    let outcome = dump.arg(format!("--bin-dir={}", clients_15.display())).run().exits(12);
    for said in ["pg_dump found is 15.", "PostgreSQL 18", "install postgresql-client-18"] {
        assert!(outcome.stderr.contains(said), "{said}: {}", outcome.transcript());
    }
    assert!(dumps_of(&workspace, "refused").is_empty());
    assert_eq!(runs_of(&workspace, "refused")[0]["status"], "FAILED");
    // No client at all.
    let dump = workspace.pgkeep_on(&old, ["dump", "-d", "shop", "--instance", "refused", "--bin-dir", "/nonexistent"]);
    let outcome = dump.run().exits(12);
    assert!(outcome.stderr.contains("Missing command: pg_dump"), "{}", outcome.transcript());
}
