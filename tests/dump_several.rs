//! One dump into several repositories: read once, one name, a manifest in each; whatever fails in one of them does not
//! cost the others their copy.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::pgkeep::{Pgkeep, tree};
use common::{Cluster, Outcome, PgVersion, Workspace};
use pgkeep::repo::{RunStatus, StateDirectory};
use serde_json::{Value, json};

struct World {
    cluster: Cluster,
    workspace: Workspace,
}

impl World {
    fn new() -> Self {
        let cluster = Cluster::plain(PgVersion::V15);
        cluster.create_database("shop");
        cluster.sql("shop", "CREATE TABLE t AS SELECT g, md5(g::text) FROM generate_series(1, 20000) g");
        Self { cluster, workspace: Workspace::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workspace.path(name)
    }

    fn dump(&self, repositories: &[&Path], more: &[&str]) -> Pgkeep {
        let mut words: Vec<String> = ["dump", "-d", "shop"].iter().chain(more).map(|&word| word.to_owned()).collect();
        for repository in repositories {
            words.extend(["--repo".to_owned(), repository.display().to_string()]);
        }
        self.workspace.pgkeep(words).connecting_to(&self.cluster)
    }

    /// The ids of the backups in a repository, by their manifests.
    fn ids(&self, repository: &Path) -> Vec<String> {
        let names = tree(&repository.join("main/dumps"));
        names.iter().filter_map(|name| name.strip_suffix(".manifest.json")).map(str::to_owned).collect()
    }

    /// No data without a manifest, no intent, nothing unfinished.
    #[track_caller]
    fn is_tidy(&self, repository: &Path) {
        assert_eq!(tree(&repository.join("main/intents")), [""; 0], "{}", repository.display());
        let ids = self.ids(repository);
        for name in tree(&repository.join("main/dumps")) {
            assert!(ids.iter().any(|id| name.starts_with(id.as_str())), "{name} belongs to no backup");
        }
    }

    #[track_caller]
    fn verifies(&self, repository: &Path) {
        let repository = repository.display().to_string();
        self.workspace.pgkeep(["verify", "--all", "--deep", "--repo", &repository]).run().succeeds();
    }

    /// The record of the dump that began last.
    fn last_run(&self, repository: &Path) -> Value {
        let names = tree(&repository.join("main/runs"));
        let dumps = names.iter().filter(|name| name.contains("-dump-"));
        let read = |name: &String| fs::read(repository.join("main/runs").join(name)).unwrap();
        let runs = dumps.map(|name| serde_json::from_slice::<Value>(&read(name)).unwrap());
        runs.max_by_key(|run| run["startedAt"].as_str().unwrap().to_owned()).unwrap()
    }
}

#[track_caller]
fn copies(outcome: &Outcome) -> Vec<(String, String)> {
    let document = outcome.json();
    let copies = document["items"][0]["repositories"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    copies.iter().map(|copy| (text(&copy["name"]), text(&copy["status"]))).collect()
}

#[test]
fn one_dump_is_one_backup_in_each() {
    let world = World::new();
    let (a, b) = (world.path("a"), world.path("b"));
    let outcome = world.dump(&[&a, &b], &["--json"]).run().succeeds();
    let id = outcome.json()["items"][0]["id"].as_str().unwrap().to_owned();
    for repository in [&a, &b] {
        assert_eq!(world.ids(repository), std::slice::from_ref(&id));
        world.is_tidy(repository);
        world.verifies(repository);
    }
    let ok = |path: &Path| (path.display().to_string(), "ok".to_owned());
    assert_eq!(copies(&outcome), [ok(&a), ok(&b)]);
    let object =
        |repository: &Path, ending: &str| fs::read(repository.join("main/dumps").join(id.clone() + ending)).unwrap();
    for ending in [".dump.zst", ".dump.zst.sha256", "_globals.sql.zst", ".details.json.zst", ".manifest.json"] {
        assert!(object(&a, ending) == object(&b, ending), "{ending} differs");
    }
    let markers = [&a, &b].map(|repository| fs::read(repository.join("pgkeep.json")).unwrap());
    assert_ne!(markers[0], markers[1], "two repositories have one id");

    let text = world.dump(&[&a, &b], &[]).run().succeeds().stdout;
    assert!(text.contains(&a.display().to_string()) && text.contains(&b.display().to_string()), "{text}");
}

#[test]
fn one_that_cannot_be_opened_is_named_and_the_other_has_its_copy() {
    let world = World::new();
    let (good, bad) = (world.path("good"), world.path("no/such/parent"));
    for order in [[&good, &bad], [&bad, &good]] {
        let outcome = world.dump(&order.map(PathBuf::as_path), &["--json"]).run().exits(10);
        let document = outcome.json();
        assert_eq!(document["status"], "partial");
        assert_eq!(document["items"][0]["status"], "partial");
        let expected = order.map(|path| {
            let status = if path == &good { "ok" } else { "failed" };
            (path.display().to_string(), status.to_owned())
        });
        assert_eq!(copies(&outcome), expected);
        assert!(outcome.stderr.contains("no/such/parent"), "{}", outcome.transcript());
        assert!(outcome.stderr.contains("stored in 1 of 2 repositories"), "{}", outcome.transcript());
    }
    assert_eq!(world.ids(&good).len(), 2);
    world.is_tidy(&good);
    world.verifies(&good);
    let run = world.last_run(&good);
    assert_eq!((&run["status"], &run["exitCode"]), (&json!("PARTIAL"), &json!(10)));
    assert!(run["error"].as_str().unwrap().contains("no/such/parent"), "{run}");
    world.dump(&[&bad, &world.path("nor/this")], &[]).run().exits(5);
}

#[test]
fn one_that_is_full_in_the_middle_is_left_out_and_cleaned_up() {
    let world = World::new();
    world.cluster.create_database("second");
    // What does not compress, so that it does not fit.
    let noise = "CREATE TABLE noise AS SELECT gen_random_bytes(1000) FROM generate_series(1, 6000)";
    world.cluster.sql("shop", "CREATE EXTENSION pgcrypto");
    world.cluster.sql("shop", noise);
    let (good, full) = (world.path("good"), world.path("full"));
    fs::create_dir(&full).unwrap();
    let mounted = "mount -t tmpfs -o size=2m none \"$0\" && \"$@\"; code=$?; cp -a \"$0\" \"$0.seen\"; exit $code";
    let full_path = full.display().to_string();
    let words = ["unshare", "-m", "sh", "-c", mounted, &full_path];
    let outcome = world.dump(&[&full, &good], &["-d", "second", "--json"]).under(&words).run().exits(10);
    let seen = world.path("full.seen");
    assert_eq!(world.ids(&seen), [""; 0], "{}", outcome.transcript());
    world.is_tidy(&seen);
    assert_eq!(world.ids(&good).len(), 2);
    world.is_tidy(&good);
    world.verifies(&good);
    let items = outcome.json()["items"].clone();
    assert_eq!(items[0]["stage"], "archive");
    // Left out for the rest of the run, and said so.
    let left_out = items[1]["repositories"][0]["error"]["message"].as_str().unwrap();
    assert!(left_out.contains("left out after"), "{left_out}");
    let run = world.last_run(&seen);
    assert_eq!(run["status"], "PARTIAL", "{run}");
}

#[test]
fn one_place_named_twice_is_a_mistake() {
    let world = World::new();
    let a = world.path("a");
    world.dump(&[&a, &a], &[]).run().exits(2);
    assert!(!a.exists());
    world.dump(&[&a], &[]).run().succeeds();
    let link = world.path("link");
    std::os::unix::fs::symlink(&a, &link).unwrap();
    let outcome = world.dump(&[&a, &link], &[]).run().exits(10);
    assert!(outcome.stderr.contains("are one repository"), "{}", outcome.transcript());
    assert_eq!(world.ids(&a).len(), 2);
}

#[test]
fn a_stranger_in_one_repository_stops_the_database_in_all() {
    let world = World::new();
    let (a, b) = (world.path("a"), world.path("b"));
    world.dump(&[&a], &[]).run().succeeds();
    // Clusters of one test binary are copies of one; what is stored says that the instance is another's.
    let folder = a.join("main/lineages");
    let name = tree(&folder).remove(0);
    let text = fs::read_to_string(folder.join(&name)).unwrap();
    let ours = name.strip_suffix(".json").unwrap();
    fs::remove_file(folder.join(&name)).unwrap();
    fs::write(folder.join("1234567890.json"), text.replace(ours, "1234567890")).unwrap();
    let outcome = world.dump(&[&b, &a], &[]).run().exits(9);
    assert!(outcome.stderr.contains("system identifier"), "{}", outcome.transcript());
    assert_eq!((world.ids(&a).len(), world.ids(&b).len()), (1, 0));
    world.is_tidy(&b);
}

#[test]
fn a_repository_that_comes_later_learns_the_lineage() {
    let world = World::new();
    let (a, b) = (world.path("a"), world.path("b"));
    world.dump(&[&a], &[]).run().succeeds();
    world.dump(&[&a, &b], &[]).run().succeeds();
    let lineage = |repository: &Path| {
        let folder = repository.join("main/lineages");
        let names = tree(&folder);
        (names.clone(), fs::read(folder.join(&names[0])).unwrap())
    };
    assert_eq!(lineage(&a), lineage(&b));
}

#[test]
fn a_busy_repository_is_left_out() {
    let world = World::new();
    let (a, b) = (world.path("a"), world.path("b"));
    world.dump(&[&a, &b], &[]).run().succeeds();
    let marker: Value = serde_json::from_slice(&fs::read(a.join("pgkeep.json")).unwrap()).unwrap();
    let state = StateDirectory::open(world.workspace.state()).unwrap();
    let id = marker["repositoryId"].as_str().unwrap().parse().unwrap();
    let now = pgkeep::clock::Clock::now(&pgkeep::clock::SystemClock);
    let _held = state.lock(&id, &"main".parse().unwrap(), pgkeep::repo::Verb::Dump, now).unwrap();
    world.dump(&[&a, &b], &[]).run().exits(10);
    assert_eq!((world.ids(&a).len(), world.ids(&b).len()), (1, 2));
    let run: Value = world.last_run(&b);
    assert_eq!(run["status"], json!(RunStatus::Partial));
    // What was not reached is missed until a copy has reached it.
    let findings = |repositories: &[&Path]| {
        let named = repositories.iter().flat_map(|path| ["--repo".to_owned(), path.display().to_string()]);
        let words: Vec<String> = ["report", "--json"].map(str::to_owned).into_iter().chain(named).collect();
        let document = world.workspace.pgkeep(words).run().json();
        let findings = document["items"][0]["findings"].as_array().unwrap().clone();
        findings.iter().map(|finding| finding["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(findings(&[&b]), ["run-partial"]);
    assert_eq!(findings(&[&a, &b]), ["run-partial", "copy-missing"]);
    let (from, to) = (b.display().to_string(), a.display().to_string());
    world.workspace.pgkeep(["copy", "--missing", "--to", &to, "--repo", &from]).run().succeeds();
    assert_eq!(findings(&[&a, &b]), [""; 0]);
}
