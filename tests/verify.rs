//! `pgkeep verify`, on real dumps.

mod common;

use std::fs;
use std::sync::Arc;

use common::stored::{ids, item, object, on_repository, shop_ids};
use common::{Outcome, Stored, Workspace};
use pgkeep::clock::{Clock as _, SystemClock};
use pgkeep::command::{self, Context, Place, Status, verify as verify_command};
use pgkeep::config::environment::Environment;
use pgkeep::error::Kind;
use pgkeep::interrupt::Interrupt;
use pgkeep::progress::{Monitor, Silent, Task, Unit};
use pgkeep::repo::StateDirectory;
use pgkeep::storage::Patience;
use serde_json::Value;

fn verify(workspace: &Workspace, arguments: &[&str]) -> Outcome {
    on_repository(workspace, &[&["verify"], arguments].concat())
}

fn proofs(workspace: &Workspace, id: &str) -> Vec<String> {
    common::pgkeep::tree(&workspace.repository().join("main/proofs").join(id))
}

fn flip(path: &std::path::Path, at: usize) {
    let mut bytes = fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_latest_of_each_database_is_verified_and_the_proof_is_stored() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    let outcome = verify(&workspace, &["--json"]).succeeds();
    let document = outcome.json();
    assert_eq!(document["command"], "verify");
    assert_eq!(document["status"], "ok");
    assert_eq!(document["items"].as_array().unwrap().len(), 2, "{document:#}");
    let newest = item(&document, &shop[1]);
    assert_eq!((&newest["level"], &newest["status"], &newest["error"]), (&"L1".into(), &"ok".into(), &Value::Null));
    assert_eq!(newest["readBytes"], newest["repositories"][0]["storedBytes"]);
    assert_eq!(newest["findings"], serde_json::json!([]));

    let stored = proofs(&workspace, &shop[1]);
    assert_eq!(stored.len(), 1);
    assert!(stored[0].ends_with("-L1-passed.json"), "{stored:?}");
    assert_eq!(newest["repositories"][0]["proof"].as_str().unwrap().to_owned() + ".json", stored[0]);
    assert!(proofs(&workspace, &shop[0]).is_empty());

    let runs = on_repository(&workspace, &["report", "runs", "--json"]).succeeds().json();
    assert_eq!((&runs["items"][0]["verb"], &runs["items"][0]["status"]), (&"verify".into(), &"SUCCEEDED".into()));
    assert_eq!(runs["items"][0]["items"].as_array().unwrap().len(), 2);
}

#[test]
fn deep_reads_every_backup_to_its_end() {
    let workspace = Stored::get().copy();
    let outcome = verify(&workspace, &["--all", "--deep"]).succeeds();
    assert_eq!(outcome.stdout.matches("  L2  passed  ").count(), 3, "{}", outcome.transcript());
    assert_eq!(outcome.stderr, "");
    for id in ids(&workspace) {
        assert!(proofs(&workspace, &id)[0].ends_with("-L2-passed.json"));
    }
    let document = verify(&workspace, &["--deep", "--all", "--json", "-d", "shop"]).succeeds().json();
    assert_eq!(document["items"].as_array().unwrap().len(), 2);
}

#[test]
fn an_id_a_beginning_of_one_and_latest() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    let verified = |arguments: &[&str]| {
        let document = verify(&workspace, &[arguments, &["--json"]].concat()).succeeds().json();
        document["items"].as_array().unwrap().iter().map(|i| i["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(verified(&[&shop[0]]), [shop[0].clone()]);
    assert_eq!(verified(&["latest", "-d", "shop"]), [shop[1].clone()]);
    let beginning = &shop[0]["shop_".len()..shop[0].len()];
    assert_eq!(verified(&[&format!("shop_{}", &beginning[..16])]), [shop[0].clone()]);

    let several = verify(&workspace, &["latest"]).exits(2);
    assert!(several.stderr.contains("shop of instance main"), "{}", several.stderr);
    let several = verify(&workspace, &["shop_"]).exits(2);
    assert!(shop.iter().all(|id| several.stderr.contains(id.as_str())), "{}", several.stderr);
    let unknown = verify(&workspace, &["nowhere", "--json"]).exits(8).json();
    assert_eq!(unknown["error"]["kind"], "no_such_backup");
    assert!(unknown["error"]["hint"].as_str().unwrap().contains(&shop[0]));
    verify(&workspace, &[&shop[0], "--all"]).exits(2);
}

#[test]
fn nothing_to_verify_is_not_a_success() {
    let workspace = Stored::get().copy();
    verify(&workspace, &["-d", "nosuch"]).exits(11);
    verify(&workspace, &["--all", "--instance", "other"]).exits(11);
    fs::remove_dir_all(workspace.repository().join("main")).unwrap();
    for arguments in [&["--json"][..], &["--all", "--json"], &["latest", "--json"]] {
        let document = verify(&workspace, arguments).exits(11).json();
        assert_eq!(document["status"], "not_verified");
        assert_eq!(document["items"], serde_json::json!([]));
    }
    fs::remove_file(workspace.repository().join("pgkeep.json")).unwrap();
    verify(&workspace, &[]).exits(8);
    fs::remove_dir(workspace.repository()).unwrap();
    verify(&workspace, &[]).exits(8);
}

#[test]
fn one_that_fails_does_not_keep_the_others_from_being_verified() {
    let workspace = Stored::get().copy();
    let all = ids(&workspace);
    let shop = shop_ids(&workspace);
    flip(&object(&workspace, &shop[1], ".dump.zst"), 100);
    let document = verify(&workspace, &["--all", "--json"]).exits(10).json();
    assert_eq!(document["status"], "partial");
    for id in &all {
        let expected = if *id == shop[1] { "failed" } else { "ok" };
        assert_eq!(item(&document, id)["status"], expected, "{id}");
    }
    let finding = &item(&document, &shop[1])["findings"][0];
    assert_eq!(finding["id"], "object-hash");
    assert_eq!(finding["object"], format!("{}.dump.zst", shop[1]));
    assert!(finding["message"].as_str().unwrap().contains(", the manifest says "), "{finding}");
    assert!(proofs(&workspace, &shop[1])[0].ends_with("-L1-failed.json"));

    let text = verify(&workspace, &["--all"]).exits(10);
    assert!(text.stdout.contains(&format!("{}  L1  FAILED  ", shop[1])), "{}", text.stdout);
    assert!(text.stdout.contains(&format!("\n  {}.dump.zst has SHA-256 ", shop[1])), "{}", text.stdout);

    for id in &all {
        fs::remove_file(object(&workspace, id, ".details.json.zst")).unwrap();
    }
    let document = verify(&workspace, &["--all", "--json"]).exits(6).json();
    assert_eq!((&document["status"], &document["error"]["kind"]), (&"failed".into(), &"verification".into()));
    let runs = on_repository(&workspace, &["report", "runs", "--json"]).succeeds().json();
    assert_eq!((&runs["items"][0]["status"], &runs["items"][0]["exitCode"]), (&"FAILED".into(), &6.into()));
    assert_eq!(runs["items"][1]["status"], "PARTIAL");
}

#[test]
fn latest_passes_over_what_is_damaged_and_says_so() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    fs::remove_file(object(&workspace, &shop[1], ".dump.zst")).unwrap();
    let document = verify(&workspace, &["latest", "-d", "shop", "--json"]).succeeds().json();
    assert_eq!(document["items"][0]["id"], shop[0]);
    let warning = document["warnings"][0].as_str().unwrap();
    assert!(warning.contains(&shop[1]) && warning.contains("is missing"), "{warning}");
    // Where none is good the newest is looked at again: only so can a failure be refuted.
    fs::remove_file(object(&workspace, &shop[0], ".dump.zst")).unwrap();
    let document = verify(&workspace, &["-d", "shop", "--json"]).exits(6).json();
    assert_eq!(document["items"][0]["id"], shop[1]);
    verify(&workspace, &["latest", "-d", "shop"]).exits(8);
}

#[test]
fn a_failure_is_refuted_by_a_proof_as_deep() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    let archive = object(&workspace, &shop[1], ".dump.zst");
    let state = || {
        let listed = on_repository(&workspace, &["report", "list", "-d", "shop", "--json"]).succeeds().json();
        item(&listed, &shop[1])["state"].as_str().unwrap().to_owned()
    };
    flip(&archive, 1000);
    let document = verify(&workspace, &[&shop[1], "--deep", "--json"]).exits(6).json();
    assert_eq!(document["items"][0]["findings"][0]["id"], "archive-unreadable");
    assert_eq!(state(), "damaged");
    flip(&archive, 1000);
    verify(&workspace, &[&shop[1]]).succeeds();
    assert_eq!(state(), "damaged", "L1 says nothing against a failed L2");
    wait_for_the_next_second();
    verify(&workspace, &[&shop[1], "--deep"]).succeeds();
    assert_eq!(state(), "good");
}

/// In one second the worse verdict stands.
fn wait_for_the_next_second() {
    let second = || SystemClock.now().timestamp();
    let begun = second();
    while second() == begun {
        std::thread::yield_now();
    }
}

#[test]
fn what_cannot_be_asked_is_neither_failed_nor_passed() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    // A link stands where the archive was. The store does not follow it, and does not say "not found" either.
    let archive = object(&workspace, &shop[1], ".dump.zst");
    let elsewhere = workspace.path("elsewhere");
    fs::rename(&archive, &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, &archive).unwrap();
    let document = verify(&workspace, &[&shop[1], "--json"]).exits(5).json();
    assert_eq!(document["items"][0]["status"], "not_verified");
    assert_eq!(document["error"]["kind"], "storage");
    assert!(proofs(&workspace, &shop[1])[0].ends_with("-L1-not_verified.json"));
    let document = verify(&workspace, &["--all", "--json"]).exits(10).json();
    assert_eq!(item(&document, &shop[0])["status"], "ok");
    assert_eq!(item(&document, &shop[1])["status"], "not_verified");
}

#[test]
fn a_repository_that_refuses_records_and_proofs_is_verified_all_the_same() {
    let workspace = Stored::get().copy();
    let shop = shop_ids(&workspace);
    for folder in ["runs", "proofs"] {
        let path = workspace.repository().join("main").join(folder);
        let _ = fs::remove_dir_all(&path);
        fs::write(&path, "not a folder").unwrap();
    }
    let document = verify(&workspace, &["-d", "shop", "--json"]).succeeds().json();
    assert_eq!(document["items"][0]["id"], shop[1]);
    assert_eq!(document["items"][0]["repositories"][0]["proof"], Value::Null);
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("the proof of") && warnings.contains("could not be stored"), "{warnings}");
    assert!(warnings.contains(workspace.state().to_str().unwrap()), "{warnings}");
    let runs = on_repository(&workspace, &["report", "runs", "--json"]).succeeds().json();
    assert_eq!((&runs["items"][0]["verb"], &runs["items"][0]["status"]), (&"verify".into(), &"SUCCEEDED".into()));
}

#[test]
fn two_verifications_of_one_instance_exclude_each_other() {
    let workspace = Stored::get().copy();
    verify(&workspace, &[]).succeeds();
    let locks = workspace.state().join("locks");
    let name = common::pgkeep::tree(&locks).into_iter().find(|name| name.ends_with(".main.verify.lock")).unwrap();
    let lock = fs::File::open(locks.join(name)).unwrap();
    lock.lock().unwrap();
    let document = verify(&workspace, &["--json"]).exits(7).json();
    assert_eq!(document["error"]["kind"], "locked");
    drop(lock);
    verify(&workspace, &[]).succeeds();
}

/// Does something when the reading of a backup begins.
struct AtTheStart<F>(F);

impl<F> std::fmt::Debug for AtTheStart<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("AtTheStart")
    }
}

impl<F: Fn(&str) + Send + Sync> Monitor for AtTheStart<F> {
    fn task(&self, label: &str, _: Unit, _: Option<u64>) -> Arc<dyn Task> {
        (self.0)(label);
        Arc::new(Silent)
    }
}

/// Verifies everything in this process, where a test can reach in.
async fn verify_here(
    workspace: &Workspace,
    interrupt: Interrupt,
    at_the_start: impl Fn(&str) + Send + Sync + 'static,
) -> command::Outcome<verify_command::Item> {
    let context = Context {
        clock: Arc::new(SystemClock),
        monitor: Arc::new(AtTheStart(at_the_start)),
        interrupt,
        environment: Environment::default(),
        state: StateDirectory::open(workspace.state()).unwrap(),
        host: "here".to_owned(),
        patience: Patience::default(),
    };
    let options = verify_command::Options {
        repositories: vec![Place::at(workspace.repository().to_str().unwrap()).unwrap()],
        instance: None,
        database: None,
        wanted: verify_command::Wanted::All,
        depth: verify_command::Depth::Decoded,
        threads: std::num::NonZeroUsize::MIN,
    };
    verify_command::run(&context, &options).await.unwrap()
}

#[tokio::test]
async fn one_that_is_stopped_proves_nothing_and_its_run_says_so() {
    let workspace = Stored::get().copy();
    let interrupt = Interrupt::default();
    let signal = interrupt.clone();
    let outcome = verify_here(&workspace, interrupt, move |_| signal.request(pgkeep::interrupt::Signal::Term)).await;
    assert_eq!(outcome.error.unwrap().kind, Kind::Terminated);
    assert!(
        outcome.items.iter().all(|item| item.status == Status::NotVerified && item.repositories[0].proof.is_none())
    );
    assert!(ids(&workspace).iter().all(|id| proofs(&workspace, id).is_empty()));
    let runs = on_repository(&workspace, &["report", "runs", "--json"]).succeeds().json();
    assert_eq!((&runs["items"][0]["status"], &runs["items"][0]["exitCode"]), (&"FAILED".into(), &143.into()));
}

#[tokio::test]
async fn a_backup_that_is_removed_meanwhile_is_not_called_damaged() {
    let workspace = Stored::get().copy();
    let [gone, stays] = shop_ids(&workspace).try_into().unwrap();
    // As a prune does it: the manifest first.
    let paths = [".manifest.json", ".dump.zst", ".details.json.zst"].map(|ending| object(&workspace, &gone, ending));
    let victim = gone.clone();
    let remove = move |id: &str| {
        if id == victim {
            paths.iter().for_each(|path| fs::remove_file(path).unwrap());
        }
    };
    let outcome = verify_here(&workspace, Interrupt::default(), remove).await;
    let of = |id: &str| outcome.items.iter().find(|item| item.id.as_str() == id).unwrap();
    assert_eq!((of(&gone).status, of(&gone).findings[0].id), (Status::NotVerified, "backup-removed"));
    assert_eq!(of(&stays).status, Status::Ok);
    assert!(proofs(&workspace, &gone).is_empty());
}

#[test]
fn names_from_a_server_cannot_write_to_the_terminal() {
    let workspace = Stored::get().copy();
    let outcome = verify(&workspace, &["--all", "--deep", "-v"]).succeeds();
    assert!(!outcome.stdout.contains('\u{1b}') && !outcome.stderr.contains('\u{1b}'), "{}", outcome.transcript());
    let document = verify(&workspace, &["-d", common::stored::NASTY, "--json"]).succeeds().json();
    assert_eq!(document["items"][0]["database"], common::stored::NASTY);
}
