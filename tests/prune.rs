//! Backups taken away: what rules keep, what is named, what never goes, and what a prune that was stopped leaves.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use common::dumps::runs_of;
use common::pgkeep::{Pgkeep, tree};
use common::proxy::{Fault, Kind as Request, On, Proxy};
use common::stored::{copy_tree, ids, item, object, on_repository, shop_ids};
use common::{Outcome, Stored, Weed, Workspace};
use pgkeep::clock::{Clock as _, SystemClock};
use pgkeep::command::{Context, Place, prune};
use pgkeep::config::environment::Environment;
use pgkeep::digest::Fingerprint;
use pgkeep::interrupt::Interrupt;
use pgkeep::progress::Silent;
use pgkeep::repo::{DumpManifest, DumpStem, FilterDigest, Keep, ObjectRole, Repository, Stamp, StateDirectory, Verb};
use pgkeep::storage::{LocalStorage, Missing, Patience};
use serde_json::{Value, json};

const MANIFEST: &str = ".manifest.json";

/// A repository whose backups are as old as a test wants them, each a whole one that verifies.
struct World {
    workspace: Workspace,
    /// A backup that the others are made of.
    template: String,
    now: DateTime<Utc>,
}

impl World {
    /// With no backup in it.
    fn new() -> Self {
        let workspace = Stored::get().copy();
        let template = shop_ids(&workspace)[0].clone();
        let aside = workspace.path("template");
        fs::create_dir(&aside).unwrap();
        for name in tree(&workspace.repository().join("main/dumps")) {
            let path = workspace.repository().join("main/dumps").join(&name);
            if name.starts_with(&template) {
                fs::copy(&path, aside.join(&name)).unwrap();
            }
            fs::remove_file(path).unwrap();
        }
        fs::remove_dir_all(workspace.repository().join("main/runs")).unwrap();
        Self { workspace, template, now: SystemClock.now() }
    }

    /// With a backup of shop for each of so many nights, the newest of an hour ago; returns their ids, newest first.
    fn nightly(count: i64) -> (Self, Vec<String>) {
        let world = Self::new();
        let ids = (0..count).map(|night| world.backup("shop", night * 24 + 1)).collect();
        (world, ids)
    }

    fn repository(&self) -> PathBuf {
        self.workspace.repository()
    }

    fn backup(&self, database: &str, hours: i64) -> String {
        self.backup_with(database, hours, |_| {})
    }

    /// A backup that began so many hours ago.
    fn backup_with(&self, database: &str, hours: i64, change: impl FnOnce(&mut DumpManifest)) -> String {
        let aside = self.workspace.path("template");
        let body = fs::read(aside.join(format!("{}{MANIFEST}", self.template))).unwrap();
        let main = "main".parse().unwrap();
        let mut manifest = DumpManifest::from_json(&body, &main, &self.template.parse().unwrap()).unwrap();
        let started_at = self.now - TimeDelta::hours(hours);
        let stem = DumpStem::new(database, Stamp::of(started_at), "db1");
        manifest.id = (&stem).into();
        manifest.database = database.to_owned();
        (manifest.started_at, manifest.finished_at) = (started_at, started_at + TimeDelta::seconds(20));
        let dumps = self.repository().join("main/dumps");
        for object in &mut manifest.objects {
            let from = aside.join(object.name.to_string());
            object.name = stem.object(object.name.ending);
            fs::copy(from, dumps.join(object.name.to_string())).unwrap();
        }
        // The checksum names the archive.
        let lines = manifest.checksum_lines();
        let checksum = manifest.objects.iter_mut().find(|object| object.role == ObjectRole::Checksum).unwrap();
        fs::write(dumps.join(checksum.name.to_string()), &lines).unwrap();
        let stored = Fingerprint::of(lines.as_bytes());
        (checksum.size_bytes, checksum.sha256) = (stored.size_bytes, stored.sha256);
        change(&mut manifest);
        fs::write(dumps.join(format!("{stem}{MANIFEST}")), manifest.to_json().unwrap()).unwrap();
        stem.to_string()
    }

    /// A second repository that holds what the first one does, under an id of its own.
    fn twin(&self, name: &str) -> PathBuf {
        let twin = self.workspace.path(name);
        copy_tree(&self.repository(), &twin);
        let path = twin.join("pgkeep.json");
        let mut marker: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        marker["repositoryId"] = json!(format!("{:0<32}", name.len()));
        fs::write(path, serde_json::to_vec(&marker).unwrap()).unwrap();
        twin
    }

    fn pruning(&self, arguments: &[&str], repositories: &[&Path]) -> Pgkeep {
        let call = arguments.iter().fold(self.workspace.pgkeep(["prune", "--json"]), Pgkeep::arg);
        repositories.iter().fold(call, |call, repository| call.arg("--repo").arg(repository))
    }

    fn prune(&self, arguments: &[&str]) -> Outcome {
        self.pruning(arguments, &[&self.repository()]).run()
    }

    fn ids(&self) -> BTreeSet<String> {
        ids(&self.workspace).into_iter().collect()
    }

    #[track_caller]
    fn holds(&self, expected: &[&String]) {
        assert_eq!(self.ids(), expected.iter().map(|id| (*id).clone()).collect());
        is_tidy(&self.repository());
    }

    fn report(&self, arguments: &[&str]) -> Outcome {
        on_repository(&self.workspace, arguments)
    }
}

/// No object without a manifest.
#[track_caller]
fn is_tidy(repository: &Path) {
    let names = tree(&repository.join("main/dumps"));
    let manifests: Vec<&str> = names.iter().filter_map(|name| name.strip_suffix(MANIFEST)).collect();
    // Folders are no objects.
    let proofs = tree(&repository.join("main/proofs")).into_iter().filter(|name| !name.ends_with('/'));
    for name in names.iter().cloned().chain(proofs) {
        assert!(manifests.iter().any(|id| name.starts_with(id)), "{name} belongs to no backup");
    }
    assert_eq!(tree(&repository.join("main/intents")), [""; 0]);
}

fn actions(document: &Value, action: &str) -> BTreeSet<String> {
    let items = document["items"].as_array().unwrap().iter().filter(|item| item["action"] == action);
    items.map(|item| item["id"].as_str().unwrap().to_owned()).collect()
}

fn set(ids: &[String]) -> BTreeSet<String> {
    ids.iter().cloned().collect()
}

fn hint(document: &Value) -> &str {
    document["error"]["hint"].as_str().unwrap_or_default()
}

#[test]
fn rules_are_told_and_nothing_goes_before_it_is_said() {
    let (world, ids) = World::nightly(10);
    let before = tree(&world.repository());
    let planned = world.prune(&["--keep-daily", "3"]).succeeds().json();
    assert_eq!(tree(&world.repository()), before);
    assert_eq!((actions(&planned, "keep"), actions(&planned, "remove")), (set(&ids[..3]), set(&ids[3..])));
    let day = |hours: i64| (world.now - TimeDelta::hours(hours)).format("daily %Y-%m-%d").to_string();
    assert_eq!(item(&planned, &ids[0])["reasons"], json!([day(1)]));
    assert_eq!(item(&planned, &ids[5])["reasons"], json!(["no rule keeps it, 5 days old"]));
    let told = world.report(&["prune", "--keep-daily", "3"]).succeeds().stdout;
    assert!(told.starts_with("rules of main: keep-daily 3\n"), "{told}");
    assert!(told.contains("would remove 7 of 10 backups, "), "{told}");
    assert!(told.trim_end().ends_with("nothing is removed without --apply"), "{told}");

    on_repository(&world.workspace, &["verify", &ids[0]]).succeeds();
    on_repository(&world.workspace, &["verify", &ids[9]]).succeeds();
    let done = world.prune(&["--keep-daily", "3", "--apply"]).succeeds().json();
    assert_eq!(actions(&done, "removed"), set(&ids[3..]));
    let stored: u64 = item(&planned, &ids[8])["repositories"][0]["storedBytes"].as_u64().unwrap();
    assert!(item(&done, &ids[8])["freedBytes"].as_u64().unwrap() == stored, "{done:#}");
    // The proof went, too.
    assert!(item(&done, &ids[9])["freedBytes"].as_u64().unwrap() > stored, "{done:#}");
    world.holds(&[&ids[0], &ids[1], &ids[2]]);
    on_repository(&world.workspace, &["verify", "--all", "--deep"]).succeeds();

    let again = world.prune(&["--keep-daily", "3", "--apply"]).succeeds().json();
    assert_eq!(actions(&again, "removed"), BTreeSet::new());
    world.holds(&[&ids[0], &ids[1], &ids[2]]);
    let runs = world.report(&["report", "runs"]).succeeds().stdout;
    assert!(runs.contains("7 backups removed, "), "{runs}");
    assert!(runs.contains(" (shop)"), "{runs}");
}

#[test]
fn without_a_rule_nothing_is_planned() {
    let (world, ids) = World::nightly(2);
    for none in [&["--apply"][..], &["--keep-daily", "0", "--apply"]] {
        let document = world.prune(none).exits(2).json();
        assert_eq!(document["items"], json!([]));
        assert!(hint(&document).contains("--keep-daily 7"), "{document:#}");
    }
    for wrong in
        [&["--keep-within", "14"][..], &["--keep-last", "-1"], &["--id", "x", "--keep-last", "1"], &["--dropped"]]
    {
        world.prune(wrong).exits(2);
    }
    world.prune(&["--unpin", "--keep-last", "1"]).exits(2);
    world.prune(&["--keep-within", "14d", "-d", "no_such"]).exits(8);
    world.prune(&["--keep-last", "5", "--apply"]).succeeds();
    world.holds(&[&ids[0], &ids[1]]);
}

#[test]
fn what_is_damaged_pushes_no_good_one_out() {
    let (world, ids) = World::nightly(6);
    for damaged in [&ids[0], &ids[2], &ids[4]] {
        fs::remove_file(object(&world.workspace, damaged, ".dump.zst")).unwrap();
    }
    let done = world.prune(&["--keep-last", "2", "--apply"]).succeeds().json();
    world.holds(&[&ids[0], &ids[1], &ids[3]]);
    let why = item(&done, &ids[0])["reasons"][0].as_str().unwrap();
    assert!(why.starts_with("not good (") && why.ends_with("but no newer one of its database is good"), "{why}");
    // Where none is good, none goes.
    for damaged in [&ids[1], &ids[3]] {
        fs::remove_file(object(&world.workspace, damaged, ".dump.zst")).unwrap();
    }
    let done = world.prune(&["--keep-last", "1", "--apply"]).succeeds();
    world.holds(&[&ids[0], &ids[1], &ids[3]]);
    assert!(done.json()["warnings"][0].as_str().unwrap().contains("no backup of it is good, so none of it goes"));
}

/// The way to keep what was before an upgrade.
#[test]
fn a_pin_outlives_rules_and_names() {
    let world = World::new();
    let stored = Stored::get();
    let pin = ["dump", "-d", "shop", "--keep", "forever", "--label", "before 4.2"];
    world.workspace.pgkeep_on(&stored.cluster, pin).run().succeeds();
    let pinned = shop_ids(&world.workspace)[0].clone();
    let ended = world.backup_with("shop", 48, |manifest| manifest.keep = Some(Keep::Until(world.now)));
    let told = world.prune(&["--keep-last", "1"]).succeeds().json();
    assert_eq!(item(&told, &pinned)["reasons"], json!(["pinned forever", "last 1"]));
    assert_eq!(
        (&item(&told, &pinned)["label"], &item(&told, &pinned)["keep"]),
        (&json!("before 4.2"), &json!("forever"))
    );
    assert_eq!(item(&told, &ended)["action"], "remove");

    // One that is good and newer would let it go, were it not pinned.
    let good = world.backup_with("shop", 0, |manifest| manifest.finished_at = SystemClock.now());
    let done = world.prune(&["--keep-last", "1", "--apply"]).succeeds().json();
    assert_eq!(actions(&done, "removed"), [ended].into());
    let refused = world.prune(&["--id", &pinned, "--apply"]).exits(9).json();
    assert!(
        refused["error"]["message"].as_str().unwrap().ends_with("(\"before 4.2\") is pinned forever"),
        "{refused:#}"
    );
    assert!(hint(&refused).contains("--unpin"), "{refused:#}");
    world.holds(&[&pinned, &good]);
    world.prune(&["--id", &pinned, "--unpin", "--apply"]).succeeds();
    world.holds(&[&good]);
}

#[test]
fn one_goes_by_its_name_and_the_last_good_one_does_not() {
    let (world, ids) = World::nightly(3);
    let other = world.backup("other", 1);
    let document = world.prune(&["--id", "shop_"]).exits(2).json();
    assert!(document["error"]["message"].as_str().unwrap().contains(&ids[2]), "{document:#}");
    world.prune(&["--id", "nothing"]).exits(8);
    let prefix = &ids[1][..20];
    assert_eq!(actions(&world.prune(&["--id", prefix]).succeeds().json(), "remove"), [ids[1].clone()].into());
    world.holds(&[&ids[0], &ids[1], &ids[2], &other]);
    world.prune(&["--id", prefix, "--apply"]).succeeds();
    // Not one after the other, and not both at once.
    let refused = world.prune(&["--id", &ids[0], "--id", &ids[2], "--apply"]).exits(9).json();
    assert!(
        refused["error"]["message"].as_str().unwrap().contains("is the last good backup of shop in "),
        "{refused:#}"
    );
    let refused = world.prune(&["--id", &other, "--apply"]).exits(9).json();
    assert!(hint(&refused).contains("make a new backup first"), "{refused:#}");
    world.prune(&["--id", &ids[0], "--apply"]).succeeds();
    world.prune(&["--id", &ids[2], "--apply"]).exits(9);
    world.holds(&[&ids[2], &other]);
    // What is damaged is nobody's last good one.
    fs::remove_file(object(&world.workspace, &other, ".dump.zst")).unwrap();
    world.prune(&["--id", &other, "--apply"]).succeeds();
    world.holds(&[&ids[2]]);
}

/// Two prunes may be planned at one time, each by what the other is about to remove.
#[tokio::test]
async fn what_is_named_stays_if_the_other_good_one_has_gone_since_the_plan() {
    let (world, ids) = World::nightly(2);
    let context = Context {
        clock: Arc::new(SystemClock),
        monitor: Arc::new(Silent),
        interrupt: Interrupt::default(),
        environment: Environment::from_pairs(std::iter::empty::<(String, String)>()),
        state: StateDirectory::open(world.workspace.state()).unwrap(),
        host: "here".to_owned(),
        patience: Patience::default(),
    };
    let naming = |id: &String| prune::Options {
        repositories: vec![Place::at(world.repository().to_str().unwrap()).unwrap()],
        instance: "main".parse().unwrap(),
        databases: Vec::new(),
        wanted: prune::Wanted::Named { ids: vec![id.clone()], pins: prune::Pins::Hold },
    };
    let [newer, older] = [naming(&ids[0]), naming(&ids[1])];
    let planned = [prune::plan(&context, &newer).await.unwrap(), prune::plan(&context, &older).await.unwrap()];
    let [first, second] = planned;
    let done = prune::execute(&context, &newer, first).await;
    assert!(done.error.is_none() && done.items[0].action == prune::Action::Removed);
    let done = prune::execute(&context, &older, second).await;
    let error = done.error.unwrap();
    assert_eq!(error.kind, pgkeep::error::Kind::Refused);
    assert!(error.to_string().contains(&format!("{} is not removed: {}", ids[1], ids[0])), "{error}");
    world.holds(&[&ids[1]]);
}

#[test]
fn a_manifest_that_cannot_be_read_stops_it_there_and_nowhere_else() {
    let (world, ids) = World::nightly(4);
    let second = world.twin("second");
    let damaged = object(&world.workspace, &ids[3], MANIFEST);
    fs::write(&damaged, "{").unwrap();
    let before = tree(&world.repository());
    let document = world.prune(&["--keep-last", "1", "--apply"]).exits(6).json();
    assert!(document["error"]["message"].as_str().unwrap().contains(&ids[3]), "{document:#}");
    let remove = format!("pgkeep prune --id {} --repo ", ids[3]);
    assert!(hint(&document).contains(&remove), "{document:#}");
    assert_eq!(tree(&world.repository()), before);

    let both = [world.repository(), second.clone()];
    let both: Vec<&Path> = both.iter().map(PathBuf::as_path).collect();
    world.pruning(&["--keep-last", "1", "--apply"], &both).run().exits(10);
    assert_eq!(tree(&world.repository()), before);
    assert_eq!(tree(&second.join("main/dumps")).len(), 5);
    is_tidy(&second);

    world.prune(&["--id", &ids[3], "--apply"]).succeeds();
    world.prune(&["--keep-last", "1", "--apply"]).succeeds();
    world.holds(&[&ids[0]]);
}

#[test]
fn a_database_that_is_no_longer_backed_up_stays_until_it_is_named() {
    let (world, ids) = World::nightly(2);
    let gone: Vec<String> = [10, 11, 12].map(|days| world.backup("crm", days * 24)).to_vec();
    let part = world.backup_with("shop", 20 * 24, |manifest| {
        (manifest.filtered, manifest.filter) = (true, Some(FilterDigest::of(["--table=a"])));
    });
    let told = world.prune(&["--keep-last", "1", "--apply"]).succeeds().json();
    assert_eq!(actions(&told, "removed"), [ids[1].clone()].into());
    assert!(item(&told, &gone[2])["reasons"][0].as_str().unwrap().starts_with("its database is not backed up since "));
    let warnings = told["warnings"].to_string();
    assert!(warnings.contains("remove it: pgkeep prune -d crm --dropped --repo "), "{warnings}");
    assert!(warnings.contains("a part of shop ("), "{warnings}");
    let report = world.report(&["report", "--json"]).succeeds().json();
    let findings = report["items"][0]["findings"].as_array().unwrap();
    let found: Vec<&Value> = findings.iter().filter(|finding| finding["id"] == "not-backed-up").collect();
    assert_eq!(found.iter().map(|finding| &finding["subject"]).collect::<Vec<_>>(), ["crm"], "{report:#}");

    // Rules decide about what is named; the last good one stays even so.
    world.prune(&["-d", "crm", "--keep-last", "2", "--apply"]).succeeds();
    world.holds(&[&ids[0], &part, &gone[0], &gone[1]]);
    // What is still backed up does not go as a whole, nor what is tried and fails.
    let refused = world.prune(&["-d", "shop", "-d", "crm", "--dropped", "--apply"]);
    assert_eq!(actions(&refused.succeeds().json(), "removed"), [part, gone[0].clone(), gone[1].clone()].into());
    world.holds(&[&ids[0]]);
    let refused = world.prune(&["-d", "shop", "--dropped", "--apply"]).exits(9).json();
    assert!(hint(&refused).contains("for 8 days without it"), "{refused:#}");
    world.holds(&[&ids[0]]);
}

#[test]
fn a_database_whose_dumps_fail_is_not_dropped() {
    let (world, ids) = World::nightly(1);
    let gone = world.backup("crm", 240);
    let dump = world.workspace.pgkeep_on(&Stored::get().cluster, ["dump", "-d", "crm"]).run();
    assert_ne!(dump.exit_code, Some(0));
    world.prune(&["-d", "crm", "--dropped", "--apply"]).exits(9);
    let told = world.prune(&["--keep-last", "1"]).succeeds().json();
    assert_eq!(item(&told, &gone)["reasons"], json!(["last 1"]));
    world.holds(&[&ids[0], &gone]);
}

#[test]
fn a_dump_of_a_part_never_takes_the_place_of_a_whole_one() {
    let world = World::new();
    let part = |hours: i64, word: &str| {
        let filter = FilterDigest::of([word]);
        world.backup_with("shop", hours, |manifest| (manifest.filtered, manifest.filter) = (true, Some(filter)))
    };
    let (a, old_a, b) = (part(1, "a"), part(25, "a"), part(49, "b"));
    let (whole, old) = (world.backup("shop", 73), world.backup("shop", 97));
    let told = world.prune(&["--keep-last", "1", "--apply"]).succeeds().json();
    assert_eq!(actions(&told, "removed"), [old_a, old].into());
    world.holds(&[&a, &b, &whole]);
}

#[test]
fn what_begins_in_the_future_is_kept_and_told() {
    let (world, ids) = World::nightly(3);
    let ahead = world.backup("shop", -24 * 3650);
    let told = world.prune(&["--keep-last", "1", "--apply"]).succeeds().json();
    assert_eq!(actions(&told, "removed"), set(&ids[1..]));
    assert!(told["warnings"].to_string().contains("is a clock wrong?"), "{told:#}");
    world.holds(&[&ids[0], &ahead]);
}

#[test]
fn each_repository_decides_by_what_it_holds() {
    let (world, ids) = World::nightly(4);
    let second = world.twin("second");
    // Damaged here and good there: here it counts as damaged.
    fs::remove_file(object(&world.workspace, &ids[0], ".dump.zst")).unwrap();
    let both = [world.repository(), second.clone()];
    let both: Vec<&Path> = both.iter().map(PathBuf::as_path).collect();
    world.pruning(&["--keep-last", "1", "--apply"], &both).run().succeeds();
    world.holds(&[&ids[0], &ids[1]]);
    assert_eq!(tree(&second.join("main/dumps")).iter().filter(|name| name.ends_with(MANIFEST)).count(), 1);
    assert_eq!(runs_of(&world.workspace, "main").len(), 1);

    // One that is not there keeps nobody from anything.
    let absent = world.workspace.path("absent");
    let world_two = [world.repository(), absent];
    let places: Vec<&Path> = world_two.iter().map(PathBuf::as_path).collect();
    let old = world.backup("shop", 2000);
    let document = world.pruning(&["--keep-last", "1", "--apply"], &places).run().exits(10).json();
    assert_eq!(actions(&document, "removed"), [old].into());
    assert!(document["warnings"].to_string().contains("absent"), "{document:#}");
}

#[test]
fn another_instance_is_not_touched_and_a_wrong_name_is_told() {
    let (world, ids) = World::nightly(3);
    let document = world.prune(&["--keep-last", "1", "--apply", "--instance", "site"]).succeeds().json();
    assert!(document["warnings"][0].as_str().unwrap().contains("--instance names another one: main"), "{document:#}");
    world.holds(&[&ids[0], &ids[1], &ids[2]]);
}

#[tokio::test]
async fn two_prunes_of_one_instance_do_not_meet() {
    let (world, ids) = World::nightly(2);
    let state = StateDirectory::open(world.workspace.state()).unwrap();
    let storage = LocalStorage::open(&world.repository(), Missing::Refuse).await.unwrap();
    let repository = Repository::open(Arc::new(storage), &state).await.unwrap();
    let lock = state.lock(repository.id(), &"main".parse().unwrap(), Verb::Prune, SystemClock.now()).unwrap();
    world.prune(&["--keep-last", "1"]).succeeds();
    world.prune(&["--keep-last", "1", "--apply"]).exits(7);
    world.holds(&[&ids[0], &ids[1]]);
    drop(lock);
    world.prune(&["--keep-last", "1", "--apply"]).succeeds();
}

/// What a prune that died has left, and what the store did not remove, goes with the next one.
#[test]
fn what_is_left_goes_with_the_next_one() {
    let (world, ids) = World::nightly(4);
    fs::remove_file(object(&world.workspace, &ids[3], MANIFEST)).unwrap();
    let held = object(&world.workspace, &ids[2], ".details.json.zst");
    // A file that is a mount point cannot be removed, whoever asks.
    let script = "mount --bind \"$0\" \"$0\" && exec \"$@\"";
    let words = ["unshare", "-m", "sh", "-c", script, held.to_str().unwrap()];
    let outcome = world.pruning(&["--keep-last", "1", "--apply"], &[&world.repository()]).under(&words).run();
    let document = outcome.exits(10).json();
    assert_eq!(actions(&document, "removed"), set(&ids[1..]));
    let told = item(&document, &ids[2]);
    let sentence = told["error"]["message"].as_str().unwrap();
    assert!(sentence.contains(&format!("main/dumps/{}.details.json.zst could not be removed", ids[2])), "{sentence}");
    assert_eq!(item(&document, &ids[3])["orphan"], json!(true));
    assert_eq!(world.ids(), set(&ids[..1]));
    assert!(held.exists());
    let report = world.report(&["report"]).stdout;
    assert!(report.contains("prune-failed"), "{report}");

    let document = world.prune(&["--keep-last", "1", "--apply"]).succeeds().json();
    assert_eq!(actions(&document, "removed"), [ids[2].clone()].into());
    world.holds(&[&ids[0]]);
}

#[test]
fn a_prune_that_is_stopped_leaves_nothing_half() {
    let (world, ids) = World::nightly(4);
    let (bucket, proxy) = (Weed::shared().bucket("pruned"), Proxy::before(Weed::shared()).start());
    let address = format!("s3://{}/site?endpoint={}", bucket.name(), proxy.endpoint());
    let let_in =
        |call: Pgkeep| Weed::shared().credentials().into_iter().fold(call, |call, (name, value)| call.env(name, value));
    let copy = world.workspace.pgkeep(["copy", "--missing", "--to", &address]).arg("--repo").arg(world.repository());
    let_in(copy).run().succeeds();
    let prune = || let_in(world.pruning(&["--keep-last", "1", "--apply"], &[Path::new(&address)]));

    proxy.inject(On::kind(Request::BulkDelete).always(), Fault::Stall);
    let child = prune().spawn();
    proxy.until_stalled(Request::BulkDelete);
    assert!(Command::new("kill").args(["-s", "TERM", &child.id().to_string()]).status().unwrap().success());
    let outcome = Outcome::wait_for(child).exits(143);
    proxy.heal();
    let document = outcome.json();
    assert_eq!(document["error"]["kind"], "terminated", "{document:#}");
    let listed = |arguments: &[&str]| {
        let_in(world.workspace.pgkeep(arguments).arg("--repo").arg(&address)).run().succeeds().json()
    };
    let there = listed(&["report", "list", "--json"]);
    let there: Vec<&str> = there["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap()).collect();
    assert_eq!(there, [&ids[0]]);
    listed(&["verify", "--all", "--deep", "--json"]);
    let runs = listed(&["report", "runs", "--json"]);
    let stopped = runs["items"].as_array().unwrap().iter().find(|run| run["verb"] == "prune").unwrap();
    assert_eq!((&stopped["status"], &stopped["exitCode"]), (&json!("FAILED"), &json!(143)));

    // Objects of a backup are removed in one request, and the rest is nobody's.
    let document = prune().run().succeeds().json();
    assert_eq!(actions(&document, "removed"), set(&ids[1..]));
    assert!(document["items"].as_array().unwrap().iter().any(|item| item["orphan"] == json!(true)));
    let names = bucket.keys().into_iter().filter(|key| key.contains("/dumps/")).collect::<Vec<_>>();
    assert!(names.iter().all(|name| name.contains(&ids[0])), "{names:?}");
}

#[test]
fn rules_of_the_configuration_are_in_force_until_others_are_typed() {
    let (world, ids) = World::nightly(5);
    let file = world.workspace.path("pgkeep.toml");
    let configured = |retention: &str| {
        let text = format!(
            "[repository.here]\naddress = {:?}\n[instance.main]\nconninfo = \"host=/nowhere\"\n{retention}\
             [instance.site]\nconninfo = \"host=/nowhere\"\n",
            world.repository().display().to_string()
        );
        fs::write(&file, text).unwrap();
    };
    let prune = |arguments: &[&str]| {
        let call = arguments.iter().fold(world.workspace.pgkeep(["prune"]), Pgkeep::arg);
        call.arg("--config").arg(&file).run()
    };
    configured("");
    prune(&["--instance", "main", "--apply"]).exits(2);
    prune(&["--all-instances", "--apply"]).exits(2);
    configured("[instance.main.retention]\nkeep_last = 2\nkeep_within = \"36h\"\n");
    let told = prune(&["--instance", "main"]).succeeds().stdout;
    assert!(told.starts_with("rules of main: keep-last 2, keep-within 36h\n"), "{told}");
    assert!(told.contains("would remove 3 of 5 backups, "), "{told}");
    let told = prune(&["--instance", "main", "--keep-daily", "4"]).succeeds().stdout;
    assert!(told.starts_with("rules of main: keep-daily 4\n"), "{told}");
    assert!(told.contains("would remove 1 of 5 backups, "), "{told}");

    let told = prune(&["--all-instances", "--apply"]).succeeds();
    assert!(told.stderr.contains("instance site has no rules, and everything of it stays"), "{}", told.transcript());
    world.holds(&[&ids[0], &ids[1]]);
}
