//! Several repositories, one answer: what is read is the union, each copy stands for itself, and one that fails is named
//! and stops nothing.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::pgkeep::tree;
use common::stored::{copy_tree, flip, ids, item, shop_ids};
use common::{Outcome, Stored, Workspace};
use pgkeep::digest::Fingerprint;
use pgkeep::repo::{DumpManifest, DumpStem};
use serde_json::{Value, json};

/// A workspace with two repositories that hold the same backups.
struct Two {
    workspace: Workspace,
    shop: Vec<String>,
}

impl Two {
    fn new() -> Self {
        let workspace = Stored::get().copy();
        let shop = shop_ids(&workspace);
        copy_tree(&workspace.repository(), &workspace.path("second"));
        let two = Self { workspace, shop };
        let path = two.second().join("pgkeep.json");
        let mut marker: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        marker["repositoryId"] = json!("0".repeat(32));
        fs::write(path, serde_json::to_vec(&marker).unwrap()).unwrap();
        two
    }

    fn first(&self) -> PathBuf {
        self.workspace.repository()
    }

    fn second(&self) -> PathBuf {
        self.workspace.path("second")
    }

    /// Changes what the manifest of a backup in the second repository says, as a writer would have written it.
    fn rewrite(&self, id: &str, change: impl FnOnce(&mut DumpManifest)) {
        let path = self.object(&self.second(), id, ".manifest.json");
        let body = fs::read(&path).unwrap();
        let mut manifest =
            DumpManifest::from_json(&body, &"main".parse().unwrap(), &id.parse::<DumpStem>().unwrap()).unwrap();
        change(&mut manifest);
        fs::write(path, manifest.to_json().unwrap()).unwrap();
    }

    /// An object of a backup in one of the repositories.
    fn object(&self, repository: &Path, id: &str, ending: &str) -> PathBuf {
        repository.join(format!("main/dumps/{id}{ending}"))
    }

    /// Takes a backup out of one of the repositories.
    fn remove(&self, repository: &Path, id: &str) {
        let folder = repository.join("main/dumps");
        for name in tree(&folder).into_iter().filter(|name| name.starts_with(id)) {
            fs::remove_file(folder.join(name)).unwrap();
        }
    }

    fn run(&self, arguments: &[&str]) -> Outcome {
        self.on(arguments, &[&self.first(), &self.second()])
    }

    fn on(&self, arguments: &[&str], repositories: &[&Path]) -> Outcome {
        let call = self.workspace.pgkeep(arguments);
        repositories.iter().fold(call, |call, repository| call.arg("--repo").arg(repository)).run()
    }

    fn proofs(&self, repository: &Path, id: &str) -> Vec<String> {
        tree(&repository.join("main/proofs").join(id))
    }
}

/// The repositories of an item, by name, with the status of its copy there.
fn copies(item: &Value) -> Vec<(PathBuf, String)> {
    let copies = item["repositories"].as_array().unwrap().iter();
    copies.map(|copy| (copy["name"].as_str().unwrap().into(), copy["status"].as_str().unwrap().to_owned())).collect()
}

/// The findings of the overview with this id.
fn findings(document: &Value, id: &str) -> Vec<Value> {
    let items = document["items"].as_array().unwrap().iter();
    let all = items.flat_map(|item| item["findings"].as_array().unwrap());
    all.filter(|finding| finding["id"] == id).cloned().collect()
}

#[test]
fn one_id_is_one_backup_and_each_says_where_its_copies_lie() {
    let two = Two::new();
    two.remove(&two.first(), &two.shop[1]);
    two.remove(&two.second(), &two.shop[0]);
    let document = two.run(&["report", "list", "--json"]).succeeds().json();
    assert_eq!(document["items"].as_array().unwrap().len(), 3);
    let (ok, first, second) = ("ok".to_owned(), two.first(), two.second());
    assert_eq!(copies(item(&document, &two.shop[0])), [(first.clone(), ok.clone())]);
    assert_eq!(copies(item(&document, &two.shop[1])), [(second.clone(), ok.clone())]);
    let nasty = ids(&two.workspace).into_iter().find(|id| !id.starts_with("shop_")).unwrap();
    let both = item(&document, &nasty);
    assert_eq!(copies(both), [(first.clone(), ok.clone()), (second.clone(), ok)]);
    assert_eq!(both["repositories"][0]["storedBytes"], both["storedBytes"]);
    assert_eq!(both["repositories"][0]["error"], Value::Null);

    let text = two.run(&["report", "list"]).succeeds().stdout;
    assert!(text.lines().next().unwrap().contains("copies"), "{text}");
    assert!(text.contains(&format!("{}, {}", first.display(), second.display())), "{text}");
    let of_one = two.on(&["report", "list"], &[&first]).succeeds().stdout;
    assert!(!of_one.contains("copies"), "{of_one}");
}

#[test]
fn latest_is_chosen_among_all_and_what_lacks_a_copy_is_a_warning_with_the_way_to_it() {
    let two = Two::new();
    two.remove(&two.first(), &two.shop[1]);
    let document = two.run(&["report", "latest", "-d", "shop", "--json"]).succeeds().json();
    assert_eq!(document["items"][0]["id"], two.shop[1].as_str());
    assert_eq!(copies(&document["items"][0]), [(two.second(), "ok".to_owned())]);

    let document = two.run(&["report", "--json"]).succeeds().json();
    let missing = findings(&document, "copy-missing");
    assert_eq!(missing.len(), 1, "{document:#}");
    assert_eq!((&missing[0]["subject"], &missing[0]["severity"]), (&two.shop[1].as_str().into(), &"warn".into()));
    let (first, second) = (two.first(), two.second());
    let fix =
        format!("pgkeep copy {} --to {} --repo {} --instance main", two.shop[1], first.display(), second.display());
    assert_eq!(missing[0]["fix"], fix);
    let databases = document["items"][0]["databases"].as_array().unwrap();
    let shop = databases.iter().find(|database| database["database"] == "shop").unwrap();
    assert_eq!(shop["backups"], 2);
    let kept: Vec<_> = shop["repositories"].as_array().unwrap().iter().map(|kept| kept["backups"].clone()).collect();
    assert_eq!(kept, [json!(1), json!(2)]);

    let file = two.workspace.path("latest.dump");
    two.run(&["restore", "dump", "latest", "-d", "shop", "--to-file", file.to_str().unwrap()]).succeeds();
    assert!(file.is_file());
}

#[test]
fn show_tells_of_each_copy() {
    let two = Two::new();
    two.on(&["verify", &two.shop[1]], &[&two.second()]).succeeds();
    fs::remove_file(two.object(&two.first(), &two.shop[1], ".dump.zst")).unwrap();
    let document = two.run(&["report", "show", &two.shop[1], "--json"]).succeeds().json();
    let shown = &document["items"][0];
    assert_eq!((&shown["state"], &shown["reason"]), (&"good".into(), &Value::Null));
    assert_eq!(copies(shown), [(two.first(), "failed".to_owned()), (two.second(), "ok".to_owned())]);
    let [first, second] = [0, 1].map(|at| &shown["repositories"][at]);
    assert!(first["error"]["message"].as_str().unwrap().ends_with(".dump.zst is missing"), "{first:#}");
    assert_eq!((first["proofs"].as_array().unwrap().len(), second["proofs"].as_array().unwrap().len()), (0, 1));
    assert_eq!(second["keys"].as_array().unwrap().len(), 5);
    let text = two.run(&["report", "show", &two.shop[1]]).succeeds().stdout;
    assert_eq!(text.matches("\ncopy\n").count(), 2, "{text}");
}

#[test]
fn damage_in_one_copy_leaves_the_backup_good_and_is_named() {
    let two = Two::new();
    flip(&two.object(&two.first(), &two.shop[1], ".dump.zst"));
    let document = two.run(&["verify", &two.shop[1], "--json"]).exits(10).json();
    let verified = &document["items"][0];
    assert_eq!((&document["status"], &verified["status"]), (&"partial".into(), &"partial".into()));
    assert_eq!(copies(verified), [(two.first(), "failed".to_owned()), (two.second(), "ok".to_owned())]);
    assert_eq!(verified["findings"][0]["repository"].as_str(), two.first().to_str());
    assert_eq!(verified["repositories"][0]["error"]["kind"], "verification");
    let said = document["error"]["message"].as_str().unwrap();
    assert!(said.starts_with(&format!("the copy in {} is damaged: ", two.first().display())), "{said}");
    assert!(said.ends_with(&format!("; the copy in {} passed", two.second().display())), "{said}");
    // Each proof lies beside the copy that it is of.
    assert!(two.proofs(&two.first(), &two.shop[1])[0].ends_with("-L1-failed.json"));
    assert!(two.proofs(&two.second(), &two.shop[1])[0].ends_with("-L1-passed.json"));

    // One run, recorded in both: told once.
    let runs = two.run(&["report", "runs", "--json"]).succeeds().json();
    let verifications: Vec<_> =
        runs["items"].as_array().unwrap().iter().filter(|run| run["verb"] == "verify").collect();
    assert_eq!(verifications.len(), 1, "{runs:#}");
    assert_eq!((&verifications[0]["status"], &verifications[0]["exitCode"]), (&"PARTIAL".into(), &10.into()));
    assert_eq!(verifications[0]["repositories"].as_array().unwrap().len(), 2);
    assert!(verifications[0]["error"].as_str().unwrap().contains(two.first().to_str().unwrap()));

    // The backup is good, the copy is not.
    let list = two.run(&["report", "list", "--json"]).succeeds().json();
    assert_eq!(item(&list, &two.shop[1])["state"], "good");
    assert_eq!(item(&list, &two.shop[1])["proven"]["level"], "L1");
    let text = two.run(&["report", "list"]).succeeds().stdout;
    assert!(text.contains(&format!("{} (damaged), {}", two.first().display(), two.second().display())), "{text}");
    let overview = two.run(&["report", "--json"]).exits(13).json();
    let damaged = findings(&overview, "copy-damaged");
    assert_eq!((damaged.len(), &damaged[0]["severity"]), (1, &"fail".into()), "{overview:#}");
    assert!(damaged[0]["evidence"].as_str().unwrap().contains(two.first().to_str().unwrap()));
    let fix = damaged[0]["fix"].as_str().unwrap();
    assert!(fix.contains(&format!("--repo {} --repo {}", two.first().display(), two.second().display())), "{fix}");

    flip(&two.object(&two.second(), &two.shop[1], ".dump.zst"));
    let document = two.run(&["verify", &two.shop[1], "--json"]).exits(6).json();
    assert_eq!(document["items"][0]["status"], "failed");
    let text = two.run(&["verify", &two.shop[1]]).exits(6);
    assert_eq!(text.stdout.matches(": FAILED\n").count(), 2, "{}", text.stdout);
}

#[test]
fn every_copy_of_everything_is_verified() {
    let two = Two::new();
    let outcome = two.run(&["verify", "--all", "--deep"]).succeeds();
    assert_eq!(outcome.stdout.matches(": passed\n").count(), 6, "{}", outcome.stdout);
    for id in ids(&two.workspace) {
        for repository in [two.first(), two.second()] {
            assert!(two.proofs(&repository, &id)[0].ends_with("-L2-passed.json"));
        }
    }
}

#[test]
fn the_lock_of_one_repository_keeps_nobody_out_of_another() {
    let two = Two::new();
    two.run(&["verify"]).succeeds();
    let locks = two.workspace.state().join("locks");
    let second = format!("{}.main.verify.lock", "0".repeat(32));
    let name = tree(&locks).into_iter().find(|name| *name == second).unwrap();
    let lock = fs::File::open(locks.join(name)).unwrap();
    lock.lock().unwrap();
    let document = two.run(&["verify", &two.shop[1], "--json"]).exits(10).json();
    let told = copies(&document["items"][0]);
    assert_eq!(told, [(two.first(), "ok".to_owned()), (two.second(), "not_verified".to_owned())]);
    assert_eq!(document["items"][0]["repositories"][1]["error"]["kind"], "locked");
}

#[test]
fn a_repository_that_cannot_be_asked_is_named_and_the_others_are_read() {
    type Break = fn(&Path);
    let ways: [(&str, Break); 3] = [
        ("nothing is there", |second| fs::remove_dir_all(second).unwrap()),
        ("its marker is gone", |second| fs::remove_file(second.join("pgkeep.json")).unwrap()),
        ("its marker is damaged", |second| fs::write(second.join("pgkeep.json"), "{\"form").unwrap()),
    ];
    for (way, broken) in ways {
        let two = Two::new();
        broken(&two.second());
        let second = two.second();
        let name = second.to_str().unwrap();

        for arguments in [&["report", "list"][..], &["report", "latest"], &["report", "runs"]] {
            let document = two.run(&[arguments, &["--json"]].concat()).exits(10).json();
            assert!(!document["items"].as_array().unwrap().is_empty(), "{way}: {document:#}");
            assert_eq!((&document["status"], &document["error"]["kind"]), (&"partial".into(), &"partial".into()));
            assert!(document["error"]["message"].as_str().unwrap().contains(name), "{way}: {document:#}");
            assert!(document["warnings"].to_string().contains(name), "{way}: {document:#}");
        }
        two.run(&["report", "show", &two.shop[1]]).exits(10);

        let overview = two.run(&["report", "--json"]).exits(13).json();
        let unread = findings(&overview, "repository-unread");
        assert_eq!((unread.len(), &unread[0]["subject"]), (1, &name.into()), "{way}: {overview:#}");
        assert!(unread[0]["fix"].as_str().is_some_and(|fix| !fix.is_empty()), "{way}: {overview:#}");

        let verified = two.run(&["verify", &two.shop[1], "--json"]).exits(10).json();
        let told = copies(&verified["items"][0]);
        assert_eq!(told, [(two.first(), "ok".to_owned()), (second.clone(), "not_verified".to_owned())], "{way}");

        let file = two.workspace.path("some.dump");
        let arguments = ["restore", "dump", "latest", "-d", "shop", "--to-file", file.to_str().unwrap()];
        let restored = two.run(&arguments).succeeds();
        assert!(restored.stderr.contains("a newer backup may lie in"), "{way}: {}", restored.transcript());
        assert!(restored.stderr.contains(name), "{way}: {}", restored.transcript());
    }
}

#[test]
fn if_no_repository_answers_the_first_error_names_the_others() {
    let two = Two::new();
    fs::remove_dir_all(two.first()).unwrap();
    fs::write(two.second().join("pgkeep.json"), "{\"form").unwrap();
    for arguments in [&["report"][..], &["report", "list"], &["report", "runs"], &["verify"], &["restore", "dump", "x"]]
    {
        let document = two.run(&[arguments, &["--json"]].concat()).exits(8).json();
        let message = document["error"]["message"].as_str().unwrap();
        assert!(message.starts_with("there is no repository at "), "{message}");
        assert!(message.contains(two.second().to_str().unwrap()), "{message}");
    }
    // And where nothing could be verified, that is said.
    let two = Two::new();
    fs::remove_dir_all(two.first().join("main")).unwrap();
    fs::remove_file(two.second().join("pgkeep.json")).unwrap();
    let document = two.run(&["verify", "--json"]).exits(11).json();
    assert!(document["error"]["message"].as_str().unwrap().contains(two.second().to_str().unwrap()));
    two.run(&["report"]).exits(13);
}

#[test]
fn a_restore_reads_the_next_copy_where_one_does_not_deliver() {
    let two = Two::new();
    let id = &two.shop[1];
    let whole = two.workspace.path("whole.dump");
    two.on(&["restore", "dump", id, "--to-file", whole.to_str().unwrap()], &[&two.second()]).succeeds();
    let whole = fs::read(whole).unwrap();
    let restore = |name: &str| {
        let file = two.workspace.path(name);
        let outcome = two.run(&["restore", "dump", id, "--json", "--to-file", file.to_str().unwrap()]);
        (outcome, file)
    };

    // In place of the archive there is something that can neither be read nor be taken for missing.
    flip(&two.object(&two.first(), id, ".dump.zst"));
    let (outcome, file) = restore("damaged.dump");
    let document = outcome.succeeds().json();
    assert_eq!(fs::read(file).unwrap(), whole);
    let told = copies(&document["items"][0]);
    assert_eq!(told, [(two.first(), "failed".to_owned()), (two.second(), "ok".to_owned())]);
    let warning = document["warnings"][0].as_str().unwrap();
    let expected = format!(
        "the archive could not be read from {}, and was read from {}: ",
        two.first().display(),
        two.second().display()
    );
    assert!(warning.starts_with(&expected), "{warning}");

    let piped = two.run(&["restore", "dump", id, "--to-file", "-"]).succeeds();
    assert_eq!(piped.stdout, String::from_utf8_lossy(&whole));

    // What a listing shows is known before anything is read.
    fs::remove_file(two.object(&two.first(), id, ".dump.zst")).unwrap();
    let (outcome, file) = restore("missing.dump");
    let document = outcome.succeeds().json();
    assert_eq!(fs::read(file).unwrap(), whole);
    assert_eq!(copies(&document["items"][0]), [(two.second(), "ok".to_owned())]);
    assert!(document["warnings"][0].as_str().unwrap().contains(two.first().to_str().unwrap()), "{document:#}");

    flip(&two.object(&two.second(), id, ".dump.zst"));
    let (outcome, file) = restore("neither.dump");
    let document = outcome.exits(5).json();
    assert!(!file.exists());
    let message = document["error"]["message"].as_str().unwrap();
    for repository in [two.first(), two.second()] {
        assert!(message.contains(repository.to_str().unwrap()), "{message}");
    }
    let left = tree(&two.workspace.path("")).into_iter().filter(|name| name.starts_with(".pgkeep-"));
    assert_eq!(left.count(), 0);
}

#[test]
fn a_database_is_restored_from_what_each_copy_still_has() {
    let two = Two::new();
    let cluster = &Stored::get().cluster;
    let id = &two.shop[1];
    // Neither copy is whole; together they have everything.
    flip(&two.object(&two.first(), id, ".details.json.zst"));
    flip(&two.object(&two.second(), id, ".dump.zst"));
    let into = ["restore", "dump", id, "--into", "from_both", "--analyze", "none", "--json"];
    let call = two.workspace.pgkeep_on(cluster, into).arg("--repo").arg(two.second());
    let document = call.run().succeeds().json();
    let told = copies(&document["items"][0]);
    assert_eq!(told[0].0, two.first());
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("the details could not be read from") && warnings.contains("the archive could not be"));
    assert_eq!(cluster.sql("from_both", "SELECT count(*) FROM orders").trim(), "5000");
    cluster.sql("postgres", "DROP DATABASE from_both");
}

#[test]
fn copies_of_different_data_are_never_taken_for_one_backup() {
    let two = Two::new();
    let id = &two.shop[1];
    two.rewrite(id, |manifest| manifest.plain = Fingerprint::of(b"something else"));
    let list = two.run(&["report", "list", "--json"]).succeeds().json();
    assert_eq!(item(&list, id)["state"], "conflict");
    let reason = item(&list, id)["reason"].as_str().unwrap();
    assert!(reason.contains("are of different data: bytes "), "{reason}");

    let latest = two.run(&["report", "latest", "-d", "shop", "--json"]).succeeds().json();
    assert_eq!(latest["items"][0]["id"], two.shop[0].as_str());
    let overview = two.run(&["report", "--json"]).exits(13).json();
    assert_eq!(findings(&overview, "copies-differ").len(), 1, "{overview:#}");

    let file = two.workspace.path("chosen.dump");
    let restore = ["restore", "dump", id, "--to-file", file.to_str().unwrap()];
    let refused = two.run(&restore).exits(9);
    assert!(refused.stderr.contains("are of different data"), "{}", refused.stderr);
    assert!(refused.stderr.contains("hint: name the one repository"), "{}", refused.stderr);
    two.on(&restore, &[&two.first()]).succeeds();

    let document = two.run(&["verify", id, "--json"]).exits(6).json();
    assert_eq!(document["items"][0]["findings"][0]["id"], "copies-differ");
    assert_eq!(document["items"][0]["status"], "failed");
}

#[test]
fn a_manifest_that_cannot_be_read_is_made_up_for_by_another_copy() {
    let two = Two::new();
    let id = &two.shop[1];
    flip(&two.object(&two.second(), id, ".manifest.json"));
    let list = two.run(&["report", "list", "--json"]).succeeds().json();
    assert_eq!(item(&list, id)["state"], "good");
    assert_eq!(copies(item(&list, id)), [(two.first(), "ok".to_owned()), (two.second(), "failed".to_owned())]);
    let overview = two.run(&["report", "--json"]).exits(13).json();
    assert_eq!(findings(&overview, "copy-unreadable").len(), 1, "{overview:#}");
    assert!(findings(&overview, "copy-missing").is_empty(), "{overview:#}");
    let document = two.run(&["verify", id, "--json"]).exits(10).json();
    assert_eq!(document["items"][0]["findings"][0]["id"], "manifest-unreadable");
}

#[test]
fn what_was_checked_may_differ_between_copies() {
    let two = Two::new();
    two.rewrite(&two.shop[1], |manifest| manifest.checks.read_back = false);
    let document = two.run(&["report", "show", &two.shop[1], "--json"]).succeeds().json();
    let shown = &document["items"][0];
    assert_eq!((&shown["state"], &shown["proven"]["readBack"]), (&"good".into(), &true.into()));
    assert_eq!(copies(shown), [(two.first(), "ok".to_owned()), (two.second(), "ok".to_owned())]);
    assert_eq!([0, 1].map(|at| shown["repositories"][at]["readBack"].clone()), [json!(true), json!(false)]);
}

#[test]
fn one_place_under_two_names_is_not_two_copies_without_a_word() {
    let two = Two::new();
    let link = two.workspace.path("link");
    std::os::unix::fs::symlink(two.first(), &link).unwrap();
    let outcome = two.on(&["report", "list"], &[&two.first(), &link]).succeeds();
    assert!(outcome.stderr.contains("have the same repository id"), "{}", outcome.transcript());
}

#[test]
fn check_looks_at_each_repository() {
    let two = Two::new();
    fs::write(two.second().join("pgkeep.json"), "{\"form").unwrap();
    let document = two.run(&["check", "--json"]).exits(13).json();
    let opened: Vec<_> =
        document["items"].as_array().unwrap().iter().filter(|item| item["id"] == "repository.open").collect();
    assert_eq!(opened.len(), 2, "{document:#}");
    assert_eq!((&opened[0]["severity"], opened[0]["subject"].as_str()), (&"ok".into(), two.first().to_str()));
    assert_eq!((&opened[1]["severity"], opened[1]["subject"].as_str()), (&"fail".into(), two.second().to_str()));
}

#[test]
fn a_dump_into_two_repositories_is_one_backup_and_one_run() {
    let two = Two::new();
    let cluster = &Stored::get().cluster;
    let dump = || {
        let call = two.workspace.pgkeep_on(cluster, ["dump", "-d", "shop", "--check", "decode", "--json"]);
        call.arg("--repo").arg(two.second()).run()
    };
    let runs = || two.run(&["report", "runs", "--json"]).succeeds().json()["items"].as_array().unwrap().clone();
    let (before, kept) = (runs().len(), ids(&two.workspace).len());
    let id = dump().succeeds().json()["items"][0]["id"].as_str().unwrap().to_owned();
    let after = runs();
    assert_eq!(after.len(), before + 1, "{after:#?}");
    assert_eq!((&after[0]["status"], after[0]["repositories"].as_array().unwrap().len()), (&"SUCCEEDED".into(), 2));
    let list = two.run(&["report", "list", "--json"]).succeeds().json();
    assert_eq!(list["items"].as_array().unwrap().len(), kept + 1);
    assert_eq!(copies(item(&list, &id)).len(), 2);

    // One that takes no part is no reason to think that the dump was not made.
    let marker = two.second().join("pgkeep.json");
    let whole = fs::read(&marker).unwrap();
    fs::write(&marker, "{\"form").unwrap();
    let id = dump().exits(10).json()["items"][0]["id"].as_str().unwrap().to_owned();
    fs::write(&marker, whole).unwrap();
    assert_eq!(runs()[0]["repositories"].as_array().unwrap().len(), 1);
    let overview = two.run(&["report", "--json"]).exits(13).json();
    assert_eq!(findings(&overview, "copy-missing")[0]["subject"], id);
    assert!(findings(&overview, "no-good-backup").is_empty(), "{overview:#}");
}
