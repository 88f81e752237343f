//! `pgkeep report` and its views, on real dumps.

mod common;

use std::fs;
use std::path::Path;

use common::stored::{NASTY, object, on_repository, shop_ids};
use common::{Outcome, Stored, Workspace};
use serde_json::Value;

fn report(workspace: &Workspace, arguments: &[&str]) -> Outcome {
    on_repository(workspace, &[&["report"], arguments].concat())
}

fn finding_ids(document: &Value) -> Vec<&str> {
    let items = document["items"].as_array().unwrap();
    let findings = items.iter().flat_map(|item| item["findings"].as_array().unwrap());
    findings.map(|finding| finding["id"].as_str().unwrap()).collect()
}

fn is_time(value: &Value) -> bool {
    let text = value.as_str().unwrap_or_default();
    text.len() == "2026-11-20T02:00:00Z".len() && text.ends_with('Z')
}

#[track_caller]
fn is_harmless(outcome: &Outcome) {
    let control = |c: char| c.is_control() && c != '\n';
    assert!(!outcome.stdout.contains(control) && !outcome.stderr.contains(control), "{}", outcome.transcript());
}

#[test]
fn the_overview_says_what_protects_each_database() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    let outcome = report(&workspace, &[]).succeeds();
    is_harmless(&outcome);
    for part in ["instance main", &shop[1], "read back when it was made", "2 backups", "SUCCEEDED", "no findings"] {
        assert!(outcome.stdout.contains(part), "{part}: {}", outcome.stdout);
    }
    let document = report(&workspace, &["--json"]).succeeds().json();
    let databases = document["items"][0]["databases"].as_array().unwrap();
    assert_eq!(databases.len(), 2);
    let of_shop = databases.iter().find(|database| database["database"] == "shop").unwrap();
    assert_eq!((&of_shop["newest"]["id"], &of_shop["backups"]), (&shop[1].as_str().into(), &2.into()));
    assert!(of_shop["newest"]["ageSeconds"].as_i64().unwrap() >= 0);
    assert!(is_time(&of_shop["newest"]["startedAt"]), "{of_shop}");
    assert_eq!(
        of_shop["newest"]["proven"],
        serde_json::json!({"readBack": true, "level": null, "at": null, "refuted": false})
    );
    assert_eq!(of_shop["lastAttempt"]["status"], "SUCCEEDED");
    assert!(of_shop["storedBytes"].as_u64() > of_shop["newest"]["storedBytes"].as_u64());
    assert!(of_shop["newest"]["plainBytes"].as_u64() > of_shop["newest"]["storedBytes"].as_u64());
    assert!(databases.iter().any(|database| database["database"] == NASTY));

    on_repository(&workspace, &["verify", "--deep"]).succeeds();
    assert!(report(&workspace, &[]).succeeds().stdout.contains("; L2 passed 2"));
}

#[test]
fn damage_is_a_finding_and_the_backup_before_it_is_shown() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    fs::remove_file(object(&workspace, &shop[1], "_globals.sql.zst")).unwrap();
    let outcome = report(&workspace, &[]).exits(13);
    assert!(outcome.stdout.contains(&format!("newest good   {}", shop[0])), "{}", outcome.stdout);
    assert!(outcome.stdout.contains(&format!("passed over   {}", shop[1])), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("fail  backup-damaged"), "{}", outcome.stdout);
    let fix = format!("pgkeep verify {} --deep --repo {} --instance main", shop[1], workspace.repository().display());
    assert!(outcome.stdout.contains(&fix), "{}", outcome.stdout);
    assert!(outcome.stderr.starts_with("pgkeep: report has a finding: "), "{}", outcome.stderr);
    let document = report(&workspace, &["--json"]).exits(13).json();
    assert_eq!(finding_ids(&document), ["backup-damaged"]);
    assert_eq!((&document["status"], &document["error"]["kind"]), (&"ok".into(), &"finding".into()));

    fs::remove_file(object(&workspace, &shop[0], "_globals.sql.zst")).unwrap();
    let document = report(&workspace, &["--json"]).exits(13).json();
    assert_eq!(finding_ids(&document), ["no-good-backup", "backup-damaged", "backup-damaged"]);
    let latest = report(&workspace, &["latest", "-d", "shop", "--json"]).exits(13).json();
    assert_eq!((&latest["items"][0]["database"], &latest["items"][0]["id"]), (&"shop".into(), &Value::Null));
    assert!(report(&workspace, &["latest"]).exits(13).stdout.contains("none"));
}

#[test]
fn a_database_that_lost_its_tables_is_a_warning() {
    let stored = Stored::get();
    let workspace = stored.copy();
    let database = "shrinking";
    stored.cluster.create_database(database);
    let dump = || workspace.pgkeep_on(&stored.cluster, ["dump", "-d", database]).run().succeeds();
    let sql = |script: &str| stored.cluster.sql(database, script);
    sql("CREATE TABLE t AS SELECT n, repeat('x', 100) FROM generate_series(1, 3000) n");
    dump();
    report(&workspace, &[]).succeeds();
    sql("DELETE FROM t WHERE n > 100");
    dump();
    let document = report(&workspace, &["--json"]).succeeds().json();
    assert_eq!(finding_ids(&document), ["backup-shrank"]);
    assert_eq!(document["items"][0]["findings"][0]["severity"], "warn");
    sql("DROP TABLE t");
    dump();
    assert_eq!(finding_ids(&report(&workspace, &["--json"]).succeeds().json()), ["database-empty"]);
    stored.cluster.sql("postgres", "DROP DATABASE shrinking");
}

#[test]
fn a_backup_that_nobody_has_read_is_a_warning() {
    let stored = Stored::get();
    let workspace = stored.copy();
    workspace.pgkeep_on(&stored.cluster, ["dump", "-d", "shop", "--check", "decode"]).run().succeeds();
    let document = report(&workspace, &["--json"]).succeeds().json();
    assert_eq!(finding_ids(&document), ["backup-unproven"]);
    let fix = document["items"][0]["findings"][0]["fix"].as_str().unwrap();
    let words: Vec<&str> = fix.strip_prefix("pgkeep ").unwrap().split(' ').collect();
    workspace.pgkeep(words).run().succeeds();
    assert_eq!(finding_ids(&report(&workspace, &["--json"]).succeeds().json()), [""; 0]);
}

#[test]
fn a_failed_dump_is_a_finding_until_one_succeeds() {
    let stored = Stored::get();
    let workspace = stored.copy();
    let dump = |database: &str| workspace.pgkeep_on(&stored.cluster, ["dump", "-d", database]);
    dump("shop").env("PGPORT", "1").arg("--connect-retry=0").run().exits(3);
    let outcome = report(&workspace, &[]).exits(13);
    assert!(outcome.stdout.contains("fail  run-failed  shop: its last dump, begun "), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("failed: connect: connect to PostgreSQL"), "{}", outcome.stdout);
    let runs = report(&workspace, &["runs"]).succeeds();
    let line = runs.stdout.lines().nth(1).unwrap();
    assert!(line.contains(" dump ") && line.contains(" FAILED ") && line.contains("shop"), "{}", runs.stdout);
    // Another database's success says nothing of this one.
    dump(NASTY).run().succeeds();
    assert_eq!(finding_ids(&report(&workspace, &["--json"]).exits(13).json()), ["run-failed"]);
    dump("shop").run().succeeds();
    report(&workspace, &[]).succeeds();

    // One that never was dumped.
    dump("no such\ndatabase").run();
    let outcome = report(&workspace, &[]).exits(13);
    is_harmless(&outcome);
    let document = report(&workspace, &["--json"]).exits(13).json();
    assert_eq!(finding_ids(&document), ["no-good-backup", "run-failed"]);
    assert_eq!(document["items"][0]["findings"][0]["subject"], "no such\ndatabase");
}

/// A dump that ended without a word: its record says RUNNING, and nobody holds its lock.
fn leave_a_run_behind(workspace: &Workspace, run: &str) {
    let folder = workspace.repository().join("main/runs");
    let any = fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    let mut record: Value = serde_json::from_slice(&fs::read(&any).unwrap()).unwrap();
    // The host is this one, or its record would be believed for a while.
    let state = fs::read_to_string(workspace.state().join("host-id")).unwrap();
    record["hostId"] = state.trim().into();
    record["run"] = run.into();
    record["startedAt"] = "2099-01-01T00:00:00Z".into();
    record["status"] = "RUNNING".into();
    record["items"] = serde_json::json!([]);
    for key in ["finishedAt", "durationSeconds", "exitCode", "error"] {
        record[key] = Value::Null;
    }
    fs::write(folder.join(format!("{run}.json")), record.to_string()).unwrap();
}

#[test]
fn a_run_that_was_killed_is_interrupted() {
    let workspace = Stored::get().copy();
    report(&workspace, &[]).succeeds();
    leave_a_run_behind(&workspace, "20990101T000000Z-dump-0123abcd");
    let document = report(&workspace, &["--json"]).exits(13).json();
    assert_eq!(finding_ids(&document), ["run-interrupted"]);
    let runs = report(&workspace, &["runs", "--json"]).succeeds().json();
    assert_eq!(runs["items"][0]["status"], "INTERRUPTED");
    assert_eq!(runs["items"][0]["run"], "20990101T000000Z-dump-0123abcd");
    let text = report(&workspace, &["runs"]).succeeds().stdout;
    assert!(text.lines().nth(1).unwrap().contains("INTERRUPTED"), "{text}");
    assert!(text.lines().nth(1).unwrap().contains("killed"), "{text}");
}

#[test]
fn runs_are_newest_first_and_as_many_as_asked_for() {
    let workspace = Stored::get().copy();
    on_repository(&workspace, &["verify"]).succeeds();
    let document = report(&workspace, &["runs", "--json"]).succeeds().json();
    let runs = document["items"].as_array().unwrap();
    assert_eq!(runs.len(), 4);
    assert_eq!(runs[0]["verb"], "verify");
    assert!(runs.windows(2).all(|pair| pair[0]["startedAt"].as_str() >= pair[1]["startedAt"].as_str()));
    assert!(runs.iter().all(|run| is_time(&run["startedAt"]) && is_time(&run["finishedAt"])));
    let one = report(&workspace, &["runs", "--most", "1", "--json"]).succeeds().json();
    assert_eq!(one["items"].as_array().unwrap().len(), 1);
    is_harmless(&report(&workspace, &["runs"]).succeeds());
    // A record that is damaged is shown as that.
    let name = format!("{}.json", runs[1]["run"].as_str().unwrap());
    fs::write(workspace.repository().join("main/runs").join(name), "{").unwrap();
    let text = report(&workspace, &["runs"]).succeeds().stdout;
    assert_eq!(text.matches("UNREADABLE").count(), 1, "{text}");
    assert_eq!(finding_ids(&report(&workspace, &["--json"]).json()), ["run-unreadable"]);
}

#[test]
fn the_list_is_newest_first_with_its_reasons() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    let document = report(&workspace, &["list", "--json"]).succeeds().json();
    let items = document["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    assert_eq!(items[0]["id"], shop[1]);
    assert!(items.iter().all(|item| item["state"] == "good" && item["reason"] == Value::Null));
    assert!(items.iter().all(|item| is_time(&item["startedAt"]) && item["storedBytes"].as_u64().unwrap() > 0));
    let outcome = report(&workspace, &["list"]).succeeds();
    is_harmless(&outcome);
    assert!(outcome.stdout.starts_with("id "), "{}", outcome.stdout);
    assert!(!outcome.stdout.contains("instance"), "{}", outcome.stdout);
    assert_eq!(outcome.stdout.lines().count(), 4, "{}", outcome.stdout);
    assert_eq!(report(&workspace, &["list", "-d", "shop"]).succeeds().stdout.lines().count(), 3);

    fs::write(object(&workspace, &shop[0], ".dump.zst"), "short").unwrap();
    let text = report(&workspace, &["list"]).succeeds().stdout;
    assert!(text.contains("damaged: ") && text.contains("has 5 bytes in place of"), "{text}");
}

#[test]
fn everything_of_one_backup() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    on_repository(&workspace, &["verify", &shop[1]]).succeeds();
    let outcome = report(&workspace, &["show", "latest", "-d", "shop"]).succeeds();
    is_harmless(&outcome);
    let key = format!("main/dumps/{}.dump.zst", shop[1]);
    for part in [&shop[1], &key, "UTF8", "C.UTF-8", "public.orders", "roles", "postgres", "L1 passed", "large object"] {
        assert!(outcome.stdout.contains(part), "{part}: {}", outcome.stdout);
    }
    let document = report(&workspace, &["show", &shop[1], "--json"]).succeeds().json();
    let item = &document["items"][0];
    assert_eq!((&item["id"], &item["state"]), (&shop[1].as_str().into(), &"good".into()));
    assert_eq!(item["manifest"]["objects"].as_array().unwrap().len(), 4);
    let copy = &item["repositories"][0];
    assert_eq!(copy["name"].as_str(), workspace.repository().to_str());
    assert_eq!(copy["keys"].as_array().unwrap().len(), 5);
    assert!(
        copy["keys"]
            .as_array()
            .unwrap()
            .iter()
            .all(|key| { workspace.repository().join(Path::new(key.as_str().unwrap())).is_file() })
    );
    assert_eq!(item["details"]["database"]["encoding"], "UTF8");
    assert_eq!(item["details"]["largeObjects"], 1);
    assert_eq!(copy["proofs"][0]["verdict"], "passed");
    is_harmless(&report(&workspace, &["show", "-d", NASTY]).succeeds());

    // What cannot be read of a damaged backup is left out with a warning.
    fs::write(object(&workspace, &shop[1], ".details.json.zst"), "x").unwrap();
    let document = report(&workspace, &["show", &shop[1], "--json"]).succeeds().json();
    assert_eq!((&document["items"][0]["state"], &document["items"][0]["details"]), (&"damaged".into(), &Value::Null));
    assert!(document["warnings"][0].as_str().unwrap().contains("details"), "{document:#}");
    report(&workspace, &["show", "nowhere"]).exits(8);
    report(&workspace, &["show"]).exits(2);
}

#[test]
fn latest_is_for_monitoring() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    let document = report(&workspace, &["latest", "--json"]).succeeds().json();
    assert_eq!(document["items"].as_array().unwrap().len(), 2);
    let document = report(&workspace, &["latest", "-d", "shop", "--json"]).succeeds().json();
    let item = &document["items"][0];
    assert_eq!(item["id"], shop[1]);
    assert!((0..3600).contains(&item["ageSeconds"].as_i64().unwrap()), "{item}");
    let text = report(&workspace, &["latest", "-d", "shop"]).succeeds().stdout;
    assert!(text.contains(&shop[1]) && text.contains("read back"), "{text}");
    report(&workspace, &["latest", "-d", "nosuch"]).exits(8);
}

#[test]
fn an_empty_repository_is_no_failure() {
    let workspace = Stored::get().copy();
    fs::remove_dir_all(workspace.repository().join("main")).unwrap();
    for view in [&[][..], &["list"], &["latest"], &["runs"]] {
        let document = report(&workspace, &[view, &["--json"]].concat()).succeeds().json();
        assert_eq!(document["items"], serde_json::json!([]), "{view:?}");
        assert!(report(&workspace, view).succeeds().stdout.contains(" yet"), "{view:?}");
    }
    report(&workspace, &["show"]).exits(8);
    workspace.pgkeep(["report"]).run().exits(2);
}

#[test]
fn of_an_empty_repository_beside_one_that_cannot_be_read_nothing_final_is_said() {
    let workspace = Stored::get().copy();
    fs::remove_dir_all(workspace.repository().join("main")).unwrap();
    let gone = workspace.path("gone/repository");
    let call =
        |view: &[&str]| workspace.pgkeep(view).arg("--repo").arg(workspace.repository()).arg("--repo").arg(&gone);
    for (view, code) in [(&["report"][..], 13), (&["report", "list"], 10), (&["report", "latest"], 10)] {
        let outcome = call(view).run().exits(code);
        assert!(!outcome.stdout.contains("no backups yet"), "{}", outcome.transcript());
    }
}

#[test]
fn several_instances_are_told_apart() {
    let stored = Stored::get();
    let workspace = stored.copy();
    workspace.pgkeep_on(&stored.cluster, ["dump", "-d", "shop", "--instance", "site2"]).run().succeeds();
    let text = report(&workspace, &["list"]).succeeds().stdout;
    assert!(text.lines().next().unwrap().contains("instance") && text.contains(" site2 "), "{text}");
    let document = report(&workspace, &["--json", "--instance", "site2"]).succeeds().json();
    assert_eq!(document["items"].as_array().unwrap().len(), 1);
    assert_eq!(document["items"][0]["instance"], "site2");
    let document = report(&workspace, &["--json"]).succeeds().json();
    assert_eq!(document["items"].as_array().unwrap().len(), 2);
    let latest = report(&workspace, &["show", "latest", "-d", "shop"]).exits(2);
    assert!(latest.stderr.contains("--instance"), "{}", latest.stderr);
}
