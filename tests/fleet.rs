//! A platform team's three servers from one file: tunnels, passwords, each instance by itself and all of them at once.
#![allow(clippy::unwrap_used)]

mod common;

#[path = "fleet/elsewhere.rs"]
mod elsewhere;
#[path = "fleet/world.rs"]
mod world;

use std::fs;
use std::path::Path;

use common::cluster::identifier;
use common::dumps::{dumps_of, runs_of, until};
use common::equality::{Snapshot, assert_equal};
use common::pgkeep::tree;
use common::{Cluster, Outcome, PgVersion};
use pgkeep::command::Place;
use pgkeep::config::file::ConfigFile;
use serde_json::Value;
use world::{Fleet, INSTANCES};

/// `instance/database status` of every item.
fn items(outcome: &Outcome) -> Vec<String> {
    let document = outcome.json();
    let told = |item: &Value| format!("{}/{} {}", item["instance"], item["database"], item["status"]).replace('"', "");
    document["items"].as_array().unwrap().iter().map(told).collect()
}

#[test]
fn the_team_of_the_example_dumps_all_and_restores_each() {
    let fleet = Fleet::new();
    // What is left over in the environment leads to no other server and to no other database.
    let stray = |call: common::pgkeep::Pgkeep| call.env("PGHOST", "nowhere.invalid").env("PGDATABASE", "nothing");
    let outcome = stray(fleet.pgkeep("dump --all-instances --json")).run().succeeds();
    let all = ["keycloak/apikey", "keycloak/root", "aistore/aistore", "aistore/lakefs", "cost-server/cost_server"];
    assert_eq!(items(&outcome), all.map(|name| format!("{name} ok")));

    // Three tunnels, each on a port of its own, and none is left.
    let ports = fleet.tunnel_ports();
    assert_eq!(ports.len(), 3);
    fleet.no_tunnel_is_left();
    for ((instance, databases), cluster) in INSTANCES.iter().zip(&fleet.clusters) {
        let runs = runs_of(&fleet.workspace, instance);
        assert_eq!((runs.len(), &runs[0]["status"]), (1, &"SUCCEEDED".into()), "{instance}");
        for dump in dumps_of(&fleet.workspace, instance) {
            // The server is called by its name, not by the end of a tunnel.
            assert_eq!(dump.manifest["source"]["host"], format!("{instance}-postgresql"));
            assert_eq!(dump.manifest["source"]["port"], 5432);
        }
        for database in *databases {
            let copy = format!("{database}_copy");
            let words = format!("restore dump latest --instance {instance} -d {database} --into {copy} --analyze none");
            let outcome = stray(fleet.pgkeep(&words)).run().succeeds();
            let told = format!("to {instance}-postgresql:5432 database \"{copy}\" as \"postgres\"");
            assert!(outcome.stderr.contains(&told), "{}", outcome.transcript());
            assert_equal(&Snapshot::of(cluster, database), &Snapshot::of(cluster, &copy));
        }
    }
    fleet.no_tunnel_is_left();
    let owner = "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'";
    assert_eq!(fleet.clusters[0].sql("apikey_copy", owner), "security_console");
    assert_eq!(fleet.clusters[0].sql("root_copy", owner), "keycloak");
    fleet.pgkeep("report").run().succeeds();
    fleet.pgkeep("verify --instance aistore").run().succeeds();
}

#[test]
fn a_restore_goes_to_the_server_of_another_instance_when_it_is_named() {
    let fleet = Fleet::small(&["keycloak", "cost-server"]);
    fleet.pgkeep("dump --instance keycloak -d apikey").run().succeeds();
    let restore = "restore dump latest --instance keycloak -d apikey --to-instance cost-server";
    let outcome = fleet.pgkeep(&format!("{restore} --dry-run")).run().succeeds();
    assert!(outcome.stdout.contains("to cost-server-postgresql:5432 database \"apikey\""), "{}", outcome.transcript());
    assert!(!fleet.clusters[1].databases().contains(&"apikey".to_owned()));
    fleet.pgkeep(restore).run().succeeds();
    assert_equal(&Snapshot::of(&fleet.clusters[0], "apikey"), &Snapshot::of(&fleet.clusters[1], "apikey"));

    let outcome = fleet.pgkeep("restore dump latest -d apikey --to-instance cost_server").run().exits(2);
    assert!(outcome.stderr.contains("did you mean cost-server?"), "{}", outcome.transcript());
}

#[test]
fn one_server_that_is_down_stops_no_other() {
    let fleet = Fleet::small(&["keycloak", "cost-server"]);
    let outcome = fleet.pgkeep("dump --all-instances --json --connect-retry 1s").run().exits(10);
    assert_eq!(items(&outcome), ["keycloak/apikey ok", "aistore/aistore failed", "cost-server/cost_server ok"]);
    let error = outcome.json()["items"][1]["error"]["message"].as_str().unwrap().to_owned();
    let said = "the tunnel of instance aistore ended with exit code 1: Error from server (NotFound): services \
                \"aistore-postgresql\" not found";
    assert_eq!(error, said);
    let runs = runs_of(&fleet.workspace, "aistore");
    assert_eq!(runs.len(), 1);
    assert!(runs[0]["error"].as_str().unwrap().contains("NotFound"), "{runs:?}");
    assert!(dumps_of(&fleet.workspace, "aistore").is_empty());
    fleet.no_tunnel_is_left();

    // What failed is a finding, with the instance that it belongs to.
    let report = fleet.pgkeep("report --json").run().exits(13);
    let instances = report.json()["items"].as_array().unwrap().clone();
    let aistore = instances.iter().find(|item| item["instance"] == "aistore").unwrap();
    let missing: Vec<&Value> =
        aistore["findings"].as_array().unwrap().iter().filter(|finding| finding["id"] == "backup-missing").collect();
    assert_eq!(missing.len(), 1, "{aistore}");
    let text = fleet.pgkeep("dump --all-instances --connect-retry 1s").run().exits(10);
    assert!(text.stdout.contains("instance aistore:\naistore: not dumped (stage connect)"), "{}", text.transcript());

    let check = fleet.pgkeep("check --all-instances --json").run().exits(13);
    let findings = check.json()["items"].as_array().unwrap().clone();
    let tunnel = findings.iter().find(|finding| finding["id"] == "postgres.tunnel").unwrap();
    assert_eq!((tunnel["subject"].as_str(), tunnel["severity"].as_str()), (Some("aistore"), Some("fail")));
    let reached = |subject: &str| findings.iter().any(|f| f["id"] == "postgres.connection" && f["subject"] == subject);
    assert!(reached("keycloak/apikey") && reached("cost-server/cost_server"), "{}", check.transcript());
}

#[test]
fn a_tunnel_that_drops_in_mid_dump_is_a_clean_failure_that_says_so() {
    let fleet = Fleet::small(&["keycloak"]);
    // More than login and catalogue take, less than the table.
    fleet.clusters[0]
        .sql("apikey", "CREATE TABLE big AS SELECT repeat(md5(n::text), 50) AS v FROM generate_series(1, 20000) n");
    fleet.drop_after("keycloak-postgresql", 3_000_000);
    let outcome = fleet.pgkeep("dump --instance keycloak -d apikey --json").run().exits(3);
    let item = &outcome.json()["items"][0];
    assert_eq!(item["stage"], "archive", "{}", outcome.transcript());
    let message = item["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("the tunnel of instance keycloak ended with exit code 1: error: lost connection to pod"),
        "{message}"
    );
    let runs = runs_of(&fleet.workspace, "keycloak");
    assert!(runs[0]["error"].as_str().unwrap().contains("lost connection to pod"), "{runs:?}");
    // No manifest, and nothing else of it.
    let left: Vec<String> = tree(&fleet.workspace.repository().join("keycloak"))
        .into_iter()
        .filter(|name| !name.contains("runs/"))
        .collect();
    assert!(left.iter().all(|name| name.ends_with('/') || name.starts_with("lineages/")), "{left:?}");
    assert!(tree(&fleet.workspace.path("tmp")).is_empty());
    fleet.no_tunnel_is_left();

    // In mid-restore, too: no database is left behind once the server can be reached.
    fs::remove_file(fleet.workspace.path("drop")).unwrap();
    fleet.pgkeep("dump --instance keycloak -d apikey").run().succeeds();
    fleet.drop_after("keycloak-postgresql", 60_000);
    let restore = "restore dump latest --instance keycloak -d apikey --into again --analyze none";
    let outcome = fleet.pgkeep(restore).run();
    assert!(outcome.stderr.contains("the tunnel of instance keycloak ended"), "{}", outcome.transcript());
    assert!(!fleet.clusters[0].databases().contains(&"again".to_owned()));
    fs::remove_file(fleet.workspace.path("drop")).unwrap();
    fleet.pgkeep(restore).run().succeeds();
    assert_equal(&Snapshot::of(&fleet.clusters[0], "apikey"), &Snapshot::of(&fleet.clusters[0], "again"));
}

#[test]
fn a_run_that_is_stopped_or_killed_leaves_no_tunnel() {
    let fleet = Fleet::small(&["cost-server"]);
    let server = &fleet.clusters[0];
    for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
        let held = common::dumps::Holder::of(server, "cost_server", "LOCK TABLE cost_daily");
        let child = fleet.pgkeep("dump --instance cost-server").spawn();
        let pid = rustix::process::Pid::from_child(&child);
        let waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted";
        until("pg_dump waits for the lock", || server.sql("postgres", waiting) != "0");
        assert_eq!(fleet.tunnels().len(), 1);
        rustix::process::kill_process(pid, signal).unwrap();
        let outcome = Outcome::wait_for(child);
        assert_ne!(outcome.exit_code, Some(0));
        fleet.no_tunnel_is_left();
        drop(held);
    }
    assert!(dumps_of(&fleet.workspace, "cost-server").is_empty());
}

#[test]
fn which_instance_is_meant_is_never_guessed() {
    let fleet = Fleet::small(&["aistore", "cost-server"]);
    for (words, code, told) in [
        ("dump", 2, "several instances are configured and none is named"),
        ("dump --instance keycloack", 2, "did you mean keycloak?"),
        ("dump --all-instances --instance keycloak", 2, "leave one of them out"),
        ("dump --instance cost-server -h elsewhere", 2, "is reached through its tunnel"),
        ("dump --instance cost-server -d postgresql://elsewhere/x", 2, "is reached through its tunnel"),
    ] {
        let outcome = fleet.pgkeep(words).run();
        assert_eq!(outcome.exit_code, Some(code), "{}", outcome.transcript());
        assert!(outcome.stderr.contains(told), "{}", outcome.transcript());
    }
    // Those that may not be dumped are passed over, and refused by name.
    fleet.edit(|text| text.replacen("methods = [\"dump\", \"base\"]", "methods = [\"base\"]", 1));
    let outcome = fleet.pgkeep("dump --instance keycloak").run().exits(2);
    assert!(outcome.stderr.contains("instance keycloak is not backed up by dump: its methods are base"));
    let outcome = fleet.pgkeep("dump --all-instances --json").run().succeeds();
    assert_eq!(items(&outcome), ["aistore/aistore ok", "cost-server/cost_server ok"]);
    assert!(outcome.stderr.contains("instance keycloak is passed over"), "{}", outcome.transcript());
    let outcome = fleet.workspace.pgkeep(["dump", "--all-instances", "--repo", "./x"]).run().exits(2);
    assert!(outcome.stderr.contains("no instance is configured"), "{}", outcome.transcript());
}

#[test]
fn databases_and_repositories_are_those_of_the_instance() {
    let cluster = Cluster::plain(PgVersion::V15);
    for name in ["shop", "scratch", "a=b"] {
        cluster.create_database(name);
    }
    let fleet = Fleet::of(vec![cluster], |world| {
        let [near, far] = ["near", "far"].map(|name| world.path(name).display().to_string());
        format!(
            "[repository.near]\naddress = \"{near}\"\n[repository.far]\naddress = \"{far}\"\n\
             [instance.site]\nconninfo = \"host={} port={} user=postgres\"\ndatabases = \"all\"\n\
             exclude = [\"scratch\"]\nrepositories = [\"far\"]\nmax_age = \"1h\"\n",
            world.host(),
            world.port()
        )
    });
    // The only one that is configured needs no name.
    let outcome = fleet.pgkeep("dump --json").run().succeeds();
    assert_eq!(items(&outcome), ["site/a=b ok", "site/shop ok"]);
    assert!(!fleet.workspace.path("near").exists());
    assert_eq!(items(&fleet.pgkeep("dump --all --json").run().succeeds()), ["site/a=b ok", "site/shop ok"]);
    assert_eq!(items(&fleet.pgkeep("dump -d scratch --json").run().succeeds()), ["site/scratch ok"]);
    fleet.edit(|text| text.replace("\"all\"\nexclude = [\"scratch\"]", "[\"a=b\", \"gone\"]"));
    let outcome = fleet.pgkeep("dump --json").run().exits(10);
    assert_eq!(items(&outcome), ["site/a=b ok", "site/gone failed"]);
    // What is listed and never was dumped is missed; what is not listed any more is not judged.
    let findings = fleet.findings("report --instance site --json");
    assert!(findings.contains(&"no-good-backup gone".to_owned()), "{findings:?}");
    fleet.edit(|text| text.replace("\"1h\"", "\"1s\"").replace(", \"gone\"", ""));
    until("the backup is older than a second", || {
        fleet.findings("report --json").contains(&"backup-stale a=b".to_owned())
    });
    assert!(!fleet.findings("report --json").contains(&"backup-stale shop".to_owned()));
}

#[test]
fn the_examples_are_configurations() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    for name in ["minimal.toml", "full.toml", "fleet.toml", "repositories.toml"] {
        let path = root.join(name);
        let file = ConfigFile::parse(&path, &fs::read_to_string(&path).unwrap()).unwrap_or_else(|e| panic!("{e}"));
        file.repositories.iter().for_each(|one| drop(Place::configured(one).unwrap()));
        let environment = pgkeep::config::environment::Environment::default();
        for instance in &file.instances {
            pgkeep::command::instance::Instance::configured(instance, &path, &environment).unwrap();
        }
    }
    // A name that PostgreSQL takes is one that the file can have.
    assert_eq!(identifier("a"), "\"a\"");
}
