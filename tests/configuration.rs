//! The configuration file: repositories that have names, which of several files is in force, and what it refuses.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use common::pgkeep::{Pgkeep, tree};
use common::{Cluster, PgVersion, Weed, Workspace};
use pgkeep::command::Place;
use pgkeep::config::file::ConfigFile;
use serde_json::Value;

/// A workspace with `pgkeep.toml`.
struct World {
    workspace: Workspace,
}

impl World {
    /// `{}` in the text is the workspace.
    fn new(toml: &str) -> Self {
        let world = Self { workspace: Workspace::new() };
        world.write("pgkeep.toml", toml);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.workspace.path(name)
    }

    fn write(&self, name: &str, text: &str) {
        let root = self.workspace.path("");
        let text = text.replace("{}", root.to_str().unwrap().trim_end_matches('/'));
        fs::write(self.path(name), text).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// `--config pgkeep.toml` and these words.
    fn pgkeep(&self, words: &str) -> Pgkeep {
        self.workspace.pgkeep(words.split_whitespace()).arg("--config").arg(self.path("pgkeep.toml"))
    }

    /// How many backups lie in a directory.
    fn backups(&self, directory: &str) -> usize {
        let names = tree(&self.path(directory).join("main/dumps"));
        names.iter().filter(|name| name.ends_with(".manifest.json")).count()
    }

    fn id(&self, directory: &str) -> String {
        let marker: Value =
            serde_json::from_slice(&fs::read(self.path(directory).join("pgkeep.json")).unwrap()).unwrap();
        marker["repositoryId"].as_str().unwrap().to_owned()
    }
}

const TWO: &str =
    "[repository.near]\naddress = \"{}/near\"\n[repository.far]\naddress = \"{}/far\"\ncheck = \"decode\"\n";

fn shop() -> Cluster {
    let cluster = Cluster::plain(PgVersion::V15);
    cluster.create_database("shop");
    cluster.sql("shop", "CREATE TABLE t AS SELECT generate_series(1, 100)");
    cluster
}

#[test]
fn without_repo_a_command_works_on_all_that_are_configured_and_by_its_name_on_one() {
    let (cluster, world) = (shop(), World::new(TWO));
    let outcome = world.pgkeep("dump -d shop --json").connecting_to(&cluster).run().succeeds();
    let item = &outcome.json()["items"][0];
    let names: Vec<&str> =
        item["repositories"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["near", "far"]);
    assert_eq!((world.backups("near"), world.backups("far")), (1, 1));
    // Each is proven as its settings want it.
    let manifest = |directory: &str| {
        let name = tree(&world.path(directory).join("main/dumps"));
        let name = name.iter().find(|name| name.ends_with(".manifest.json")).unwrap();
        let text = fs::read(world.path(directory).join("main/dumps").join(name)).unwrap();
        serde_json::from_slice::<Value>(&text).unwrap()
    };
    assert_eq!(manifest("near")["checks"]["readBack"], true);
    assert_eq!(manifest("far")["checks"]["readBack"], false);

    world.pgkeep("dump -d shop --repo far").connecting_to(&cluster).run().succeeds();
    assert_eq!((world.backups("near"), world.backups("far")), (1, 2));
    for words in ["verify --repo near --all --deep", "report --repo far", "restore dump --repo near --to-file ./x"] {
        world.pgkeep(words).run().succeeds();
    }
    assert!(fs::read(world.path("x")).unwrap().starts_with(b"PGDMP"));
    // From all that are configured to the one that is named.
    let outcome = world.pgkeep("copy --missing --to near").run().succeeds();
    assert_eq!((world.backups("near"), world.backups("far")), (2, 2), "{}", outcome.transcript());
    world.pgkeep("copy --missing --to nowhere").run().exits(2);
}

#[test]
fn the_file_is_found_by_flag_by_variable_and_a_name_only_in_it() {
    let (world, cluster) = (World::new(TWO), shop());
    let named = |pgkeep: Pgkeep| pgkeep.env("PGKEEP_CONFIG", world.path("pgkeep.toml"));
    named(world.workspace.pgkeep(["dump", "-d", "shop"])).connecting_to(&cluster).run().succeeds();
    assert_eq!(world.backups("near"), 1);
    // The flag is nearer than the variable, and a configured name is one of its file.
    let outcome = world.pgkeep("report --repo site").env("PGKEEP_CONFIG", world.path("none")).run().exits(2);
    assert!(outcome.stderr.contains("\"site\" is not the name of a configured repository"), "{}", outcome.transcript());
    assert!(outcome.stderr.contains("configured are near, far"), "{}", outcome.transcript());
    let outcome = world.workspace.pgkeep(["report"]).env("PGKEEP_CONFIG", world.path("none")).run().exits(2);
    assert!(outcome.stderr.contains("none: No such file"), "{}", outcome.transcript());
    // Nothing configured and nothing named.
    let outcome = world.workspace.pgkeep(["report"]).run().exits(2);
    assert!(outcome.stderr.contains("no repository is named"), "{}", outcome.transcript());
}

#[test]
fn keys_come_from_where_the_file_says() {
    let (cluster, weed, world) = (shop(), Weed::shared(), World::new(""));
    let keys = format!(
        r#"{{"Version": 1, "AccessKeyId": "{}", "SecretAccessKey": "{}"}}"#,
        Weed::ACCESS_KEY,
        weed.secret_key()
    );
    world.write("keys.json", &keys);
    for source in ["credentials_file = \"{}/keys.json\"", "credentials_command = [\"cat\", \"{}/keys.json\"]"] {
        let bucket = weed.bucket("configured");
        let address = weed.address(&bucket);
        world.write("pgkeep.toml", &format!("[repository.site]\naddress = \"{address}\"\n{source}\n"));
        world.pgkeep("dump -d shop").connecting_to(&cluster).run().succeeds();
        world.pgkeep("verify --repo site").run().succeeds();
        assert!(bucket.keys().iter().any(|key| key.ends_with(".manifest.json")), "{:?}", bucket.keys());
        // The address alone has none.
        world.workspace.pgkeep(["report", "--repo", &address]).env("AWS_EC2_METADATA_DISABLED", "true").run().exits(5);
    }
}

#[test]
fn an_env_file_that_is_switched_off_is_told_once() {
    let world = World::new(TWO);
    fs::create_dir(world.path("near")).unwrap();
    for words in ["check --repo near", "check", "check --json"] {
        let outcome = world.pgkeep(words).env("BACKUP_ENV_FILE", world.path("db.env")).run();
        let told = outcome.stderr.matches("BACKUP_ENV_FILE is set and not used: --config takes its place\n").count();
        assert_eq!(told, 1, "{}", outcome.transcript());
    }
    let quiet = world.pgkeep("check -q").env("BACKUP_ENV_FILE", world.path("db.env")).run();
    assert!(!quiet.stderr.contains("BACKUP_ENV_FILE"), "{}", quiet.transcript());
}

#[test]
fn check_says_which_configuration_is_in_force() {
    let world = World::new(TWO);
    let told = |pgkeep: Pgkeep| {
        let findings = pgkeep.run().json()["items"].clone();
        let found = findings.as_array().unwrap().iter().find(|finding| finding["id"] == "configuration").cloned();
        let found = found.unwrap();
        (found["subject"].as_str().unwrap().to_owned(), found["evidence"].as_str().unwrap().to_owned())
    };
    let file = world.path("pgkeep.toml").display().to_string();
    assert_eq!(
        told(world.pgkeep("check --json --repo near")),
        (file.clone(), "in force, named by --config".to_owned())
    );
    let by_variable = world.workspace.pgkeep(["check", "--json", "--repo", "near"]).env("PGKEEP_CONFIG", &file);
    assert_eq!(told(by_variable), (file, "in force, named by PGKEEP_CONFIG".to_owned()));
    let without = world.workspace.pgkeep(["check", "--json", "--repo", "./near"]);
    assert_eq!(told(without), ("none".to_owned(), "no configuration file is in force".to_owned()));
}

#[test]
fn another_repository_than_the_configured_one_is_refused_and_none_is_made() {
    let (cluster, world) = (shop(), World::new(TWO));
    world.pgkeep("dump -d shop").connecting_to(&cluster).run().succeeds();
    let (near, far) = (world.id("near"), world.id("far"));
    // A host that has stored nowhere yet: only the configuration knows better.
    fs::remove_dir_all(world.workspace.state()).unwrap();
    fs::create_dir(world.workspace.state()).unwrap();
    let with =
        |id: &str| world.write("pgkeep.toml", &format!("[repository.near]\naddress = \"{{}}/near\"\nid = \"{id}\"\n"));

    with(&near);
    world.pgkeep("dump -d shop").connecting_to(&cluster).run().succeeds();
    with(&far);
    for words in ["dump -d shop", "report", "verify", "restore dump -d shop --to-file ./x"] {
        let outcome = world.pgkeep(words).connecting_to(&cluster).run().exits(9);
        assert!(
            outcome.stderr.contains(&format!("holds repository {near}, near is to be {far}")),
            "{}",
            outcome.transcript()
        );
        assert!(outcome.stderr.contains("an unmounted disk?"), "{}", outcome.transcript());
    }
    let outcome = world.pgkeep("check").run().exits(13);
    assert!(outcome.stdout.contains(&format!("near is to be {far}")), "{}", outcome.transcript());
    assert_eq!(world.backups("near"), 2);

    // The disk is not mounted: what is there is its mount point, or not even that.
    fs::remove_dir_all(world.workspace.state()).unwrap();
    fs::create_dir(world.workspace.state()).unwrap();
    with(&near);
    fs::rename(world.path("near"), world.path("elsewhere")).unwrap();
    for mounted in [false, true] {
        if mounted {
            fs::create_dir(world.path("near")).unwrap();
        }
        for words in ["dump -d shop", "report"] {
            let outcome = world.pgkeep(words).connecting_to(&cluster).run().exits(9);
            let what = format!("has no pgkeep.json, near is to be repository {near}");
            assert!(outcome.stderr.contains(&what), "{}", outcome.transcript());
        }
        assert_eq!(tree(&world.path("near")), [""; 0]);
    }
    with("mistyped");
    let outcome = world.pgkeep("report").run().exits(2);
    assert!(outcome.stderr.contains("read id of repository near"), "{}", outcome.transcript());
}

#[test]
fn what_cannot_be_used_is_refused_before_anything_is_asked() {
    let world = World::new("");
    for (toml, code, told) in [
        ("[repository.a]\naddress = \"/b\"\nadress = \"/c\"", 2, "did you mean address?"),
        ("[repository.a]\naddress = \"/b\"\ncredentials_file = \"/k\"", 2, "use repository a: /b takes no credentials"),
        ("[repository.a]\naddress = \"s3://k:hunter2@b\"", 2, "use repository a: "),
        ("[repository.a]\naddress = \"/b\"\n[repository.c]\naddress = \"/b/\"", 2, "a and c are one repository"),
        ("", 2, "pgkeep.toml configures none"),
    ] {
        world.write("pgkeep.toml", toml);
        let outcome = world.pgkeep("report").run().exits(code);
        assert!(outcome.stderr.contains(told), "{}", outcome.transcript());
        assert!(!outcome.stderr.contains("hunter2"), "{}", outcome.transcript());
    }
    world.write("pgkeep.toml", TWO);
    fs::set_permissions(world.path("pgkeep.toml"), fs::Permissions::from_mode(0o666)).unwrap();
    let outcome = world.pgkeep("report").run().exits(9);
    assert!(outcome.stderr.contains("chmod 0644"), "{}", outcome.transcript());
}

#[test]
fn the_example_is_a_configuration() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("examples/repositories.toml");
    let text = fs::read_to_string(&path).unwrap();
    let names = |text: &str| {
        let file = ConfigFile::parse(&path, text).unwrap();
        let places: Vec<Place> = file.repositories.iter().map(|one| Place::configured(one).unwrap()).collect();
        places.into_iter().map(|place| place.name).collect::<Vec<_>>()
    };
    assert_eq!(names(&text), ["disk", "site", "cloud"]);
    // What is commented out is right, too.
    assert_eq!(names(&text.replace("# id =", "id =").replace("# check =", "check =")), ["disk", "site", "cloud"]);
}
