//! Backups sent from repository to repository: byte by byte, hash-checked on both ends, gone on with after a death, and
//! never over anything that is there.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Instant;

use common::equality::{Snapshot, assert_equal};
use common::pgkeep::{Pgkeep, tree};
use common::proxy::{Fault, Kind as Request, On, Proxy};
use common::stored::{copy_tree, flip, ids, item, shop_ids};
use common::{Outcome, Stored, Weed, Workspace, count};
use pgkeep::clock::{Clock as _, SystemClock};
use pgkeep::digest::Fingerprint;
use pgkeep::repo::{
    Adoption, BackupWriter, DumpManifest, DumpStem, Ending, Lock, Packing, Repository, StateDirectory, Verb,
};
use pgkeep::storage::{LocalStorage, Missing};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

const DATA: [&str; 4] = [".dump.zst", ".dump.zst.sha256", "_globals.sql.zst", ".details.json.zst"];
const MANIFEST: &str = ".manifest.json";

/// A workspace with a repository that holds two backups of `shop` and one of another database.
struct World {
    workspace: Workspace,
    shop: Vec<String>,
}

impl World {
    fn new() -> Self {
        let workspace = Stored::get().copy();
        let shop = shop_ids(&workspace);
        Self { workspace, shop }
    }

    fn first(&self) -> PathBuf {
        self.workspace.repository()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workspace.path(name)
    }

    /// A second repository that holds what the first one does, under an id of its own.
    fn twin(&self, name: &str) -> PathBuf {
        let twin = self.path(name);
        copy_tree(&self.first(), &twin);
        let path = twin.join("pgkeep.json");
        let mut marker: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        marker["repositoryId"] = json!(format!("{:0<32}", name.len()));
        fs::write(path, serde_json::to_vec(&marker).unwrap()).unwrap();
        twin
    }

    fn copying(&self, arguments: &[&str], from: &[&Path], to: &Path) -> Pgkeep {
        let call = self.workspace.pgkeep(["copy", "--json"]).arg("--to").arg(to);
        let call = arguments.iter().fold(call, Pgkeep::arg);
        from.iter().fold(call, |call, repository| call.arg("--repo").arg(repository))
    }

    fn copy(&self, arguments: &[&str], from: &[&Path], to: &Path) -> Outcome {
        self.copying(arguments, from, to).run()
    }

    fn on(&self, repository: &Path, arguments: &[&str]) -> Outcome {
        self.workspace.pgkeep(arguments).arg("--repo").arg(repository).run()
    }

    /// Every object of the backup is in `to` what it is in `from`, and nothing else of that name is there.
    #[track_caller]
    fn is_copied(&self, id: &str, from: &Path, to: &Path) {
        let (expected, found) = (objects(from, id), objects(to, id));
        assert_eq!(expected.keys().collect::<Vec<_>>(), found.keys().collect::<Vec<_>>());
        assert!(expected.len() >= 5);
        assert!(expected == found, "the bytes of {id} differ");
    }

    /// No data without a manifest, no intent, nothing unfinished; and whoever reads it all finds it right.
    #[track_caller]
    fn is_tidy(&self, repository: &Path) {
        assert_eq!(tree(&repository.join("main/intents")), [""; 0], "{}", repository.display());
        let manifests = manifests(repository);
        for name in tree(&repository.join("main/dumps")) {
            assert!(manifests.iter().any(|id| name.starts_with(id.as_str())), "{name} belongs to no backup");
        }
    }

    #[track_caller]
    fn verifies(&self, repository: &Path) {
        self.on(repository, &["verify", "--all", "--deep"]).succeeds();
    }

    async fn repository(&self, path: &Path) -> (Repository, StateDirectory) {
        let state = StateDirectory::open(self.workspace.state()).unwrap();
        let storage = LocalStorage::open(path, Missing::CreateLast).await.unwrap();
        (Repository::open_or_create(Arc::new(storage), &state).await.unwrap(), state)
    }

    /// What a copy leaves that dies after it has stored these objects of the backup, with these bytes.
    async fn die_copying(&self, id: &str, to: &Path, stored: &[(Ending, Vec<u8>)]) {
        let (repository, state) = self.repository(to).await;
        let lock = lock(&repository, &state);
        let host = rustix::system::uname().nodename().to_string_lossy().split('.').next().unwrap().to_owned();
        let stem: DumpStem = id.parse().unwrap();
        let adopted = BackupWriter::adopt(&repository, &state, &lock, stem, &host, &SystemClock).await.unwrap();
        let Adoption::New(writer) = adopted else { panic!("{id} is there") };
        for (ending, body) in stored {
            writer.put(*ending, body.clone().into()).await.unwrap();
        }
    }
}

fn lock(repository: &Repository, state: &StateDirectory) -> Lock {
    state.lock(repository.id(), &"main".parse().unwrap(), Verb::Copy, SystemClock.now()).unwrap()
}

fn object(repository: &Path, id: &str, ending: &str) -> PathBuf {
    repository.join(format!("main/dumps/{id}{ending}"))
}

fn objects(repository: &Path, id: &str) -> BTreeMap<String, Vec<u8>> {
    let folder = repository.join("main/dumps");
    let names = tree(&folder).into_iter().filter(|name| name.starts_with(id) && !name.ends_with('/'));
    names.map(|name| (name.clone(), fs::read(folder.join(name)).unwrap())).collect()
}

fn manifests(repository: &Path) -> Vec<String> {
    let names = tree(&repository.join("main/dumps"));
    names.iter().filter_map(|name| name.strip_suffix(MANIFEST)).map(str::to_owned).collect()
}

/// Every file with its content.
fn contents(repository: &Path) -> BTreeMap<String, Vec<u8>> {
    let names = tree(repository).into_iter().filter(|name| !name.ends_with('/'));
    names.map(|name| (name.clone(), fs::read(repository.join(name)).unwrap())).collect()
}

fn archive() -> Ending {
    Ending::archive(Packing::ZSTD)
}

#[test]
fn a_copy_is_the_backup_byte_by_byte_and_restores_alone() {
    let world = World::new();
    let (from, to, id) = (world.first(), world.path("second"), world.shop[1].clone());
    world.on(&from, &["verify", &id]).succeeds();
    let before = contents(&from);
    let outcome = world.copy(&[&id], &[&from], &to).succeeds();
    assert!(contents(&from) == before, "the source was changed");
    world.is_copied(&id, &from, &to);
    world.is_tidy(&to);
    assert_eq!(manifests(&to), [id.as_str()]);
    let data: u64 = DATA.iter().map(|ending| fs::metadata(object(&from, &id, ending)).unwrap().len()).sum();
    let document = outcome.json();
    let told = item(&document, &id);
    assert_eq!((&told["status"], &told["action"], &told["database"]), (&json!("ok"), &json!("copied"), &json!("shop")));
    assert_eq!((&told["sentBytes"], &told["keptBytes"]), (&json!(data), &json!(0)));
    assert_eq!(told["sources"], json!([from]));
    let copy = json!([{ "name": to, "status": "ok", "storedBytes": data, "error": null }]);
    assert_eq!(told["repositories"], copy);
    // Its lineage comes along, proofs do not: they are about a copy.
    let lineages = |repository: &Path| contents(&repository.join("main/lineages"));
    assert_eq!(lineages(&to), lineages(&from));
    assert!(!lineages(&to).is_empty() && !to.join("main/proofs").exists());
    let ids = |repository: &Path| fs::read(repository.join("pgkeep.json")).unwrap();
    assert_ne!(ids(&from), ids(&to));

    let runs = world.on(&to, &["report", "runs", "--json"]).succeeds().json();
    assert_eq!((&runs["items"][0]["verb"], &runs["items"][0]["status"]), (&json!("copy"), &json!("SUCCEEDED")));
    assert_eq!(runs["items"][0]["items"][0]["id"], id);
    world.verifies(&to);

    fs::rename(&from, world.path("away")).unwrap();
    let cluster = &Stored::get().cluster;
    let words = ["restore", "dump", "latest", "-d", "shop", "--into", "from_the_copy"];
    world.workspace.pgkeep(words).arg("--repo").arg(&to).connecting_to(cluster).run().succeeds();
    assert_equal(&Snapshot::of(cluster, "shop"), &Snapshot::of(cluster, "from_the_copy"));
}

#[test]
fn missing_is_what_is_lacking_and_the_rest_is_left_alone() {
    let world = World::new();
    let (from, to) = (world.first(), world.path("second"));
    world.copy(&["latest", "-d", "shop"], &[&from], &to).succeeds();
    let newest = world.shop[1].clone();
    assert_eq!(manifests(&to), [newest.as_str()]);
    let inode = fs::metadata(object(&to, &newest, ".dump.zst")).unwrap().ino();

    let document = world.copy(&["--missing", "-d", "shop"], &[&from], &to).succeeds().json();
    let actions = |document: &Value| {
        let items = document["items"].as_array().unwrap().iter();
        items.map(|item| item["action"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(actions(&document), ["copied", "skipped"]);
    assert_eq!(item(&document, &newest)["sentBytes"], 0);
    assert_eq!(manifests(&to), world.shop);

    let document = world.copy(&["--missing"], &[&from], &to).succeeds().json();
    assert_eq!(actions(&document).iter().filter(|action| *action == "copied").count(), 1);
    assert_eq!(manifests(&to), ids(&world.workspace));
    let before = contents(&to.join("main/dumps"));
    let words = ["copy", "--missing", "--to"];
    let again = world.workspace.pgkeep(words).arg(&to).arg("--repo").arg(&from).run().succeeds();
    assert!(again.stdout.contains("3 backups left alone"), "{}", again.transcript());
    let again = world.workspace.pgkeep(["copy", &newest, "--to"]).arg(&to).arg("--repo").arg(&from).run().succeeds();
    assert!(again.stdout.contains("left alone") && again.stdout.contains("has it already"), "{}", again.transcript());
    assert!(contents(&to.join("main/dumps")) == before);
    assert_eq!(fs::metadata(object(&to, &newest, ".dump.zst")).unwrap().ino(), inode);
    world.is_tidy(&to);
    world.verifies(&to);
}

#[test]
fn what_is_meant_is_said_as_everywhere() {
    let world = World::new();
    let (from, to) = (world.first(), world.path("second"));
    world.copy(&["latest"], &[&from], &to).exits(2);
    world.copy(&["shop_"], &[&from], &to).exits(2);
    world.copy(&["nothing_begins_so"], &[&from], &to).exits(8);
    world.copy(&["--missing", "-d", "nothing"], &[&from], &to).exits(8);
    world.copy(&["--missing", "--instance", "nothing"], &[&from], &to).exits(8);
    world.copy(&[], &[&from], &to).exits(2);
    world.copy(&["latest", "--missing"], &[&from], &to).exits(2);
    world.copy(&["--missing"], &[], &to).exits(2);
    world.copy(&["--missing"], &[&world.path("no/such/place")], &to).exits(8);
    assert!(!to.exists());
    let empty = world.path("third");
    fs::create_dir(&empty).unwrap();
    world.copy(&["--missing"], &[&empty], &to).exits(8);
}

#[test]
fn a_repository_is_not_copied_onto_itself() {
    let world = World::new();
    let (from, link) = (world.first(), world.path("link"));
    let before = contents(&from);
    std::os::unix::fs::symlink(&from, &link).unwrap();
    for to in [&from, &link] {
        let outcome = world.copy(&["--missing"], &[&world.twin(if to == &from { "twin" } else { "twins" }), &from], to);
        assert!(outcome.exits(2).stderr.contains("hint: copy to another repository"));
    }
    assert!(contents(&from) == before);
}

#[test]
fn a_dry_run_stores_nothing_and_tells_the_bytes() {
    let world = World::new();
    let (from, to) = (world.first(), world.path("second"));
    let document = world.copy(&["--missing", "--dry-run"], &[&from], &to).succeeds().json();
    assert!(!to.exists());
    let items = document["items"].as_array().unwrap();
    assert_eq!(items.len(), 3);
    for item in items {
        assert_eq!(item["action"], "copied");
        assert_eq!(item["repositories"][0]["exists"], false);
    }
    world.copy(&[&world.shop[0]], &[&from], &to).succeeds();
    let before = contents(&to);
    let document = world.copy(&["--missing", "--dry-run"], &[&from], &to).succeeds().json();
    let (there, lacking) = (item(&document, &world.shop[0]), item(&document, &world.shop[1]));
    assert_eq!((&there["action"], &there["bytes"]), (&json!("skipped"), &json!(0)));
    let sent = world.copy(&[&world.shop[1], "--dry-run"], &[&from], &to).succeeds().json();
    assert_eq!(lacking["bytes"], sent["items"][0]["bytes"]);
    assert!(contents(&to) == before);
    let sent = world.copy(&[&world.shop[1]], &[&from], &to).succeeds().json();
    assert_eq!(lacking["bytes"], sent["items"][0]["sentBytes"]);
}

#[test]
fn damage_in_a_source_is_made_up_for_by_the_next_and_else_nothing_is_stored() {
    for ending in DATA {
        let world = World::new();
        let (from, twin, id) = (world.first(), world.twin("twin"), world.shop[1].clone());
        flip(&object(&from, &id, ending));
        // Found while it streams: what a listing shows is right.
        let to = world.path("to");
        let outcome = world.copy(&[&id], &[&from], &to).exits(6);
        let document = outcome.json();
        let error = document["items"][0]["error"]["message"].as_str().unwrap();
        assert!(error.contains(&format!("{id}{ending}")) && error.contains("SHA-256"), "{error}");
        assert_eq!(document["items"][0]["stage"], "send");
        assert_eq!(tree(&to.join("main/dumps")), [""; 0], "{ending}");
        world.is_tidy(&to);
        // The others go on.
        let outcome = world.copy(&["--missing"], &[&from], &to).exits(10);
        assert_eq!(manifests(&to).len(), 2, "{}", outcome.transcript());
        world.is_tidy(&to);

        let outcome = world.copy(&[&id], &[&from, &twin], &to).succeeds();
        let document = outcome.json();
        let told = item(&document, &id);
        assert!(told["sources"].as_array().unwrap().contains(&json!(twin)), "{told:#}");
        let warning = told["warnings"][0].as_str().unwrap();
        assert!(warning.starts_with(&format!("{} was passed over: ", from.display())), "{warning}");
        world.is_copied(&id, &twin, &to);
        world.is_tidy(&to);
        world.verifies(&to);
    }
}

#[test]
fn what_a_source_lacks_is_made_up_for_by_the_next_and_is_else_not_copied() {
    for ending in DATA {
        let world = World::new();
        let (from, twin, to, id) = (world.first(), world.twin("twin"), world.path("to"), world.shop[1].clone());
        fs::remove_file(object(&from, &id, ending)).unwrap();
        world.copy(&[&id], &[&from], &to).exits(6);
        assert_eq!(tree(&to.join("main/dumps")), [""; 0], "{ending}");
        // It is not good, and none of those that are missing.
        let outcome = world.copy(&["--missing", "-d", "shop"], &[&from], &to).succeeds();
        assert!(outcome.stderr.contains("is not good and is not copied"), "{}", outcome.transcript());
        assert_eq!(manifests(&to), [world.shop[0].clone()]);
        world.copy(&["--missing", "-d", "shop"], &[&from, &twin], &to).succeeds();
        world.is_copied(&id, &twin, &to);
        world.verifies(&to);
    }
}

#[test]
fn a_manifest_that_is_damaged_in_one_source_is_read_from_the_next() {
    let world = World::new();
    let (from, twin, to, id) = (world.first(), world.twin("twin"), world.path("to"), world.shop[1].clone());
    flip(&object(&from, &id, MANIFEST));
    world.copy(&[&id], &[&from], &to).exits(6);
    assert!(!to.exists());
    world.copy(&[&id], &[&from, &twin], &to).succeeds();
    world.is_copied(&id, &twin, &to);
}

#[test]
fn a_damaged_copy_in_the_destination_is_named_and_not_touched() {
    for (damage, told) in [
        (Box::new(|path: &Path| fs::remove_file(path).unwrap()) as Box<dyn Fn(&Path)>, "is missing"),
        (Box::new(|path: &Path| fs::write(path, "short").unwrap()), "has 5 bytes in place of"),
    ] {
        let world = World::new();
        let (from, to, id) = (world.first(), world.twin("to"), world.shop[1].clone());
        damage(&object(&to, &id, ".dump.zst"));
        let before = contents(&to.join("main/dumps"));
        for arguments in [&[id.as_str()][..], &["--missing"], &["--missing", "--dry-run"]] {
            let code = if arguments.len() == 1 && arguments[0] == id { 9 } else { 10 };
            let outcome = world.copy(arguments, &[&from], &to).exits(code);
            assert!(
                outcome.stderr.contains("is damaged: ") && outcome.stderr.contains(told),
                "{}",
                outcome.transcript()
            );
            let document = outcome.json();
            let hint = item(&document, &id)["error"]["hint"].as_str().unwrap();
            assert!(hint.contains(&format!("remove main/dumps/{id}*")), "{hint}");
        }
        assert!(contents(&to.join("main/dumps")) == before);
        // Somebody did what the hint says.
        for name in objects(&to, &id).keys() {
            fs::remove_file(to.join("main/dumps").join(name)).unwrap();
        }
        world.copy(&[&id], &[&from], &to).succeeds();
        world.is_copied(&id, &from, &to);
    }
    // A manifest that cannot be read, and a verification that failed.
    let world = World::new();
    let (from, to, id) = (world.first(), world.twin("to"), world.shop[1].clone());
    let whole = fs::read(object(&to, &id, MANIFEST)).unwrap();
    flip(&object(&to, &id, MANIFEST));
    let outcome = world.copy(&[&id], &[&from], &to).exits(9);
    assert!(outcome.stderr.contains("has a manifest of"), "{}", outcome.transcript());
    fs::write(object(&to, &id, MANIFEST), whole).unwrap();
    flip(&object(&to, &id, ".dump.zst"));
    world.on(&to, &["verify", &id]).exits(6);
    let outcome = world.copy(&[&id], &[&from], &to).exits(9);
    assert!(outcome.stderr.contains("verification of"), "{}", outcome.transcript());
}

#[test]
fn other_data_under_the_same_id_are_refused_and_both_places_are_named() {
    let world = World::new();
    let (from, other, id) = (world.first(), world.twin("other"), world.shop[1].clone());
    let path = object(&other, &id, MANIFEST);
    let body = fs::read(&path).unwrap();
    let stem: DumpStem = id.parse().unwrap();
    let mut manifest = DumpManifest::from_json(&body, &"main".parse().unwrap(), &stem).unwrap();
    manifest.plain = Fingerprint::of(b"something else");
    fs::write(&path, manifest.to_json().unwrap()).unwrap();
    let before = contents(&other.join("main/dumps"));
    let outcome = world.copy(&[&id], &[&from], &other).exits(9);
    let (one, two) = (from.display().to_string(), other.display().to_string());
    assert!(outcome.stderr.contains(&one) && outcome.stderr.contains(&two), "{}", outcome.transcript());
    assert!(outcome.stderr.contains("different backups under the id"), "{}", outcome.transcript());
    assert!(contents(&other.join("main/dumps")) == before);
    // Two sources that contradict each other.
    let to = world.path("to");
    let outcome = world.copy(&[&id], &[&from, &other], &to).exits(9);
    assert!(outcome.stderr.contains(&one) && outcome.stderr.contains(&two), "{}", outcome.transcript());
    assert_eq!(tree(&to.join("main/dumps")), [""; 0]);
}

#[test]
fn backups_of_another_cluster_do_not_come_into_an_instance() {
    let world = World::new();
    let (from, to, id) = (world.first(), world.twin("to"), world.shop[1].clone());
    for name in objects(&to, &id).keys() {
        fs::remove_file(to.join("main/dumps").join(name)).unwrap();
    }
    let folder = to.join("main/lineages");
    let name = tree(&folder).remove(0);
    let text = fs::read_to_string(folder.join(&name)).unwrap();
    fs::remove_file(folder.join(&name)).unwrap();
    fs::write(folder.join("1234567890.json"), text.replace(name.strip_suffix(".json").unwrap(), "1234567890")).unwrap();
    let outcome = world.copy(&[&id], &[&from], &to).exits(9);
    assert!(outcome.stderr.contains("another cluster's"), "{}", outcome.transcript());
    assert!(objects(&to, &id).is_empty());
    world.is_tidy(&to);
}

#[test]
fn a_source_that_cannot_be_asked_is_named_and_the_others_are_copied() {
    let world = World::new();
    let (from, bad, to) = (world.first(), world.path("no/such/place"), world.path("to"));
    let outcome = world.copy(&["--missing"], &[&bad, &from], &to).exits(10);
    assert!(outcome.stderr.contains("no/such/place could not be read"), "{}", outcome.transcript());
    assert_eq!(manifests(&to), ids(&world.workspace));
    world.is_tidy(&to);
}

#[tokio::test]
async fn what_a_dead_copy_has_stored_is_not_sent_again() {
    let world = World::new();
    let (from, to, id) = (world.first(), world.path("to"), world.shop[1].clone());
    let body = |ending: &str| fs::read(object(&from, &id, ending)).unwrap();
    // One whole, one of the right size and wrong bytes, one too short.
    let mut wrong = body("_globals.sql.zst");
    wrong[10] ^= 1;
    let globals = Ending::Globals { packing: Packing::ZSTD };
    let stored = [(archive(), body(".dump.zst")), (globals, wrong), (Ending::DETAILS, b"short".to_vec())];
    world.die_copying(&id, &to, &stored).await;
    // It is shown nowhere.
    assert_eq!(world.on(&to, &["report", "list", "--json"]).succeeds().json()["items"], json!([]));
    world.on(&to, &["verify", "--all"]).exits(11);
    world.on(&to, &["verify", &id]).exits(8);
    let inode = |ending: &str| fs::metadata(object(&to, &id, ending)).unwrap().ino();
    let before = inode(".dump.zst");

    let document = world.copy(&[&id], &[&from], &to).succeeds().json();
    let told = item(&document, &id);
    let sent: usize = DATA[1..].iter().map(|ending| body(ending).len()).sum();
    assert_eq!((&told["keptBytes"], &told["sentBytes"]), (&json!(body(".dump.zst").len()), &json!(sent)));
    assert_eq!(inode(".dump.zst"), before);
    world.is_copied(&id, &from, &to);
    world.is_tidy(&to);
    world.verifies(&to);
}

#[tokio::test]
async fn what_a_dead_copy_has_left_of_what_nobody_wants_now_is_removed() {
    let world = World::new();
    let (from, to) = (world.first(), world.path("to"));
    world.die_copying(&world.shop[0], &to, &[(archive(), b"some bytes".to_vec())]).await;
    assert_eq!(tree(&to.join("main/dumps")).len(), 1);
    world.copy(&[&world.shop[1]], &[&from], &to).succeeds();
    assert_eq!(manifests(&to), [world.shop[1].clone()]);
    world.is_tidy(&to);
}

#[tokio::test]
async fn objects_without_a_manifest_that_nobody_accounts_for_are_refused() {
    let world = World::new();
    let (from, to, id) = (world.first(), world.path("to"), world.shop[1].clone());
    world.copy(&[&id], &[&from], &to).succeeds();
    fs::remove_file(object(&to, &id, MANIFEST)).unwrap();
    let before = contents(&to.join("main/dumps"));
    let outcome = world.copy(&[&id], &[&from], &to).exits(9);
    assert!(outcome.stderr.contains("without its manifest"), "{}", outcome.transcript());
    assert!(contents(&to.join("main/dumps")) == before);
    assert_eq!(tree(&to.join("main/intents")), [""; 0]);
}

#[tokio::test]
async fn one_copy_of_an_instance_into_a_repository_at_a_time() {
    let world = World::new();
    let (from, to) = (world.first(), world.path("to"));
    let (repository, state) = world.repository(&to).await;
    let held = lock(&repository, &state);
    let outcome = world.copy(&["--missing"], &[&from], &to).exits(7);
    assert!(outcome.stderr.contains("copy of instance main is locked by process"), "{}", outcome.transcript());
    drop(held);
    world.copy(&["--missing"], &[&from], &to).succeeds();
}

#[test]
fn a_split_archive_is_copied_part_by_part() {
    let world = World::new();
    let (from, to) = (world.path("split"), world.path("to"));
    let cluster = &Stored::get().cluster;
    cluster.create_database("parts");
    cluster.sql(
        "parts",
        "CREATE EXTENSION pgcrypto; CREATE TABLE noise AS SELECT gen_random_bytes(1000) FROM generate_series(1, 8000)",
    );
    let words = ["dump", "-d", "parts", "--split", "5M", "--json"];
    let dumped = world.workspace.pgkeep(words).arg("--repo").arg(&from).connecting_to(cluster).run().succeeds().json();
    let id = dumped["items"][0]["id"].as_str().unwrap();
    let parts = objects(&from, id).keys().filter(|name| name.contains(".part")).count();
    assert!(parts > 1, "{:?}", objects(&from, id).keys());
    world.copy(&[id], &[&from], &to).succeeds();
    assert!(objects(&from, id) == objects(&to, id));
    world.is_tidy(&to);
    world.verifies(&to);
}

/// Death at moments that nobody chose; which they were, the seed says. What is copied at last is what was to be copied,
/// whatever was left by how many deaths.
#[tokio::test]
async fn death_at_any_moment() {
    let world = World::new();
    let from = world.first();
    // Something to carry: backups of some size take longer than the program takes to start.
    let workspace = &world.workspace;
    let cluster = &Stored::get().cluster;
    cluster.create_database("noise");
    cluster.sql(
        "noise",
        "CREATE EXTENSION pgcrypto; CREATE TABLE noise AS SELECT gen_random_bytes(1000) FROM generate_series(1, 12000)",
    );
    workspace.pgkeep_on(cluster, ["dump", "-d", "noise"]).run().succeeds();
    workspace.pgkeep_on(cluster, ["dump", "-d", "noise", "--format", "directory"]).run().succeeds();
    let all = ids(workspace);
    let began = Instant::now();
    world.copy(&["--missing"], &[&from], &world.path("timed")).succeeds();
    let whole = began.elapsed();
    let seed: u64 = rand::random();
    println!("seed {seed}, a whole copy takes {whole:?}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let (mut killed, mut kept) = (0, 0);
    for round in 0..count(3, 40) {
        let to = world.path(&format!("to{round}"));
        for _ in 0..4 {
            let moment = whole.mul_f64(random.random_range(0.0..1.0));
            let mut child = world.copying(&["--missing"], &[&from], &to).spawn();
            tokio::time::sleep(moment).await;
            let _ = child.kill();
            killed += u32::from(!child.wait().unwrap().success());
            for id in manifests(&to) {
                world.is_copied(&id, &from, &to);
            }
            if to.join("pgkeep.json").exists() {
                let listed = world.on(&to, &["report", "list", "--json"]).succeeds().json();
                assert_eq!(listed["items"].as_array().unwrap().len(), manifests(&to).len(), "round {round}");
            }
        }
        let document = world.copy(&["--missing"], &[&from], &to).succeeds().json();
        let items = document["items"].as_array().unwrap();
        kept += items.iter().filter(|item| item["keptBytes"] != 0 || item["action"] == "skipped").count();
        assert_eq!(manifests(&to), all, "round {round}");
        for id in &all {
            world.is_copied(id, &from, &to);
        }
        world.is_tidy(&to);
        let main = tree(&to.join("main"));
        assert!(!main.iter().any(|name| name.contains("unfinished")), "{main:?}");
        world.verifies(&to);
    }
    assert!(killed > 0, "every copy was faster than its killer");
    assert!(kept > 0, "no copy went on with anything");
}

#[test]
fn a_full_disk_is_cleaned_up_and_gone_on_with_when_there_is_room() {
    let world = World::new();
    let (from, to) = (world.first(), world.path("full"));
    let cluster = &Stored::get().cluster;
    cluster.create_database("big");
    cluster.sql(
        "big",
        "CREATE EXTENSION pgcrypto; CREATE TABLE noise AS SELECT gen_random_bytes(1000) FROM generate_series(1, 6000)",
    );
    world.workspace.pgkeep_on(cluster, ["dump", "-d", "big"]).run().succeeds();
    let big = ids(&world.workspace).into_iter().find(|id| id.starts_with("big_")).unwrap();
    fs::create_dir(&to).unwrap();
    let script = "mount -t tmpfs -o size=2m none \"$0\" && \"$@\"; code=$?; cp -a \"$0\" \"$0.seen\"; exit $code";
    let full = to.display().to_string();
    let words = ["unshare", "-m", "sh", "-c", script, &full];
    // The small ones are copied; the big one does not fit.
    let outcome = world.copying(&["--missing"], &[&from], &to).under(&words).run().exits(10);
    let seen = world.path("full.seen");
    assert_eq!(manifests(&seen).len(), 3, "{}", outcome.transcript());
    world.is_tidy(&seen);
    let document = outcome.json();
    let told = item(&document, &big);
    assert_eq!((&told["status"], &told["stage"]), (&json!("failed"), &json!("send")));
    assert!(told["error"]["hint"].as_str().unwrap().contains("free some space"), "{told:#}");
    world.copy(&["--missing"], &[&from], &seen).succeeds();
    assert_eq!(manifests(&seen), ids(&world.workspace));
    world.verifies(&seen);
}

/// An address in a bucket, through `proxy`, and what is needed to be let in.
struct Remote {
    proxy: Proxy,
    address: String,
    bucket: common::Bucket,
}

impl Remote {
    fn new(name: &str) -> Self {
        let bucket = Weed::shared().bucket(name);
        let proxy = Proxy::before(Weed::shared()).start();
        let address = format!("s3://{}/site?endpoint={}", bucket.name(), proxy.endpoint());
        Self { proxy, address, bucket }
    }

    fn let_in(&self, call: Pgkeep) -> Pgkeep {
        Weed::shared().credentials().into_iter().fold(call, |call, (name, value)| call.env(name, value))
    }
}

#[test]
fn a_copy_goes_to_a_bucket_and_comes_back() {
    let world = World::new();
    let (from, back, remote) = (world.first(), world.path("back"), Remote::new("copies"));
    let address = Path::new(&remote.address);
    remote.let_in(world.copying(&["--missing"], &[&from], address)).run().succeeds();
    let again = remote.let_in(world.copying(&["--missing"], &[&from], address)).run().succeeds().json();
    assert!(again["items"].as_array().unwrap().iter().all(|item| item["action"] == "skipped"), "{again:#}");
    // One bit that a line turned over is not damage.
    remote.proxy.inject(On::kind(Request::Get).key(".dump.zst"), Fault::FlippedBit);
    remote.let_in(world.copying(&["--missing"], &[address], &back)).run().succeeds();
    assert_eq!(remote.proxy.counts().met(Fault::FlippedBit), 1);
    ids(&world.workspace).iter().for_each(|id| world.is_copied(id, &from, &back));
    world.is_tidy(&back);
    world.verifies(&back);
}

#[test]
fn a_copy_that_is_stopped_says_how_to_go_on() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let world = World::new();
        let (from, to, id) = (world.first(), world.path("to"), world.shop[1].clone());
        let remote = Remote::new("stopped");
        let address = Path::new(&remote.address);
        remote.let_in(world.copying(&[&id], &[&from], address)).run().succeeds();
        remote.proxy.inject(On::kind(Request::Get).key(".details.json.zst").always(), Fault::Stall);
        let child = remote.let_in(world.copying(&[&id], &[address], &to)).spawn();
        remote.proxy.until_stalled(Request::Get);
        let began = Instant::now();
        assert!(Command::new("kill").args(["-s", signal, &child.id().to_string()]).status().unwrap().success());
        let outcome = Outcome::wait_for(child).exits(code);
        assert!(began.elapsed().as_secs() < 10, "{}", outcome.transcript());
        assert!(outcome.stderr.contains("hint: give the same command again"), "{}", outcome.transcript());
        assert_eq!(manifests(&to), [""; 0]);
        assert_eq!(world.on(&to, &["report", "list", "--json"]).succeeds().json()["items"], json!([]));
        let runs = world.on(&to, &["report", "runs", "--json"]).succeeds().json();
        assert_eq!(runs["items"][0]["status"], "FAILED");
        remote.proxy.heal();
        let document = remote.let_in(world.copying(&[&id], &[address], &to)).run().succeeds().json();
        assert_ne!(document["items"][0]["keptBytes"], 0, "{document:#}");
        world.is_copied(&id, &from, &to);
        world.is_tidy(&to);
    }
}

#[test]
fn a_line_that_dies_costs_no_byte_that_went_over_it() {
    let world = World::new();
    let (from, remote, id) = (world.first(), Remote::new("dead"), world.shop[1].clone());
    let address = Path::new(&remote.address);
    remote.proxy.inject(On::kind(Request::Put).key(".details.json.zst"), Fault::Stall);
    let child = remote.let_in(world.copying(&[&id], &[&from], address)).spawn();
    remote.proxy.until_stalled(Request::Put);
    remote.proxy.refuse();
    let outcome = Outcome::wait_for(child).exits(5);
    remote.proxy.heal();
    let key = |ending: &str| format!("site/main/dumps/{id}{ending}");
    assert!(remote.bucket.get(&key(".dump.zst")).is_some(), "{}", outcome.transcript());
    assert!(remote.bucket.get(&key(MANIFEST)).is_none());
    let document = remote.let_in(world.copying(&[&id], &[&from], address)).run().succeeds().json();
    let archive = fs::metadata(object(&from, &id, ".dump.zst")).unwrap().len();
    assert!(document["items"][0]["keptBytes"].as_u64().unwrap() >= archive, "{document:#}");
    for (name, body) in objects(&from, &id) {
        assert!(remote.bucket.get(&format!("site/main/dumps/{name}")).unwrap() == body, "{name}");
    }
}
