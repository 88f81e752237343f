//! `pgkeep dump` in the place of a backup script: the same env file, and everything around it stays as it was. What lies
//! there is looked at with the eyes of those who read it: `sha256sum`, `pg_restore`, `psql`, the platform.
#![allow(clippy::unwrap_used)]

mod common;
#[path = "env_file/failures.rs"]
mod failures;
#[path = "env_file/page.rs"]
mod page;
#[path = "env_file/remote.rs"]
mod remote;
#[path = "env_file/retention.rs"]
mod retention;
#[path = "env_file/world.rs"]
mod world;

use std::fs;
use std::process::Command;

use common::equality::{Snapshot, assert_equal};
use common::pgkeep::tree;
use world::{World, mode, shell};

#[test]
fn a_run_leaves_what_the_script_left() {
    let world = World::new(&["BACKUP_MODE=local"]);
    let outcome = world.pgkeep("dump").run().succeeds();
    assert_eq!(outcome.stderr, "", "{}", outcome.transcript());
    let stem = world.only_stem();
    assert!(stem.starts_with("shop_20"), "{stem}");

    let data = tree(&world.path("base/data"));
    let mut endings: Vec<&str> = data.iter().map(|name| name.strip_prefix(&stem).unwrap()).collect();
    endings.sort_unstable();
    assert_eq!(endings, [".details.json.zst", ".dump", ".dump.sha256", ".manifest.json", "_globals.sql"]);
    shell(&world.path("base/data"), "sha256sum --strict -c *.dump.sha256");
    let globals = fs::read_to_string(world.path("base/data").join(stem.clone() + "_globals.sql")).unwrap();
    assert!(globals.contains("CREATE ROLE postgres"), "{globals}");
    let mut list = world.cluster.client("pg_restore");
    let list = world.cluster.run(list.arg("--list").arg(world.path("base/data").join(stem.clone() + ".dump")));
    let list = String::from_utf8(list).unwrap();
    assert!(list.contains("Format: CUSTOM") && list.contains("Compression: 9"), "{list}");

    assert_eq!(mode(&world.path("base")), 0o755);
    assert_eq!(mode(&world.path("base/data")), 0o700);
    assert_eq!(mode(&world.path("base/data").join(stem.clone() + ".dump")), 0o600);
    assert_eq!(mode(&world.path("base/reports")), 0o755);
    assert_eq!(mode(&world.path("base/reports").join(stem.clone() + ".json")), 0o644);
    let folders: Vec<String> = tree(&world.path("base")).into_iter().filter(|name| !name.contains('/')).collect();
    assert_eq!(folders, ["pgkeep.json"]);

    let report = world.report(&stem);
    let dump = world.path("base/data").join(stem.clone() + ".dump");
    assert_eq!((report.database.as_str(), report.status.as_str()), ("shop", "SUCCESS"));
    assert_eq!(report.host, world.cluster.socket_dir().to_str().unwrap());
    assert_eq!(report.port, world.cluster.port().to_string());
    assert_eq!((report.mode.as_str(), report.tool.as_str(), report.error_message.as_str()), ("local", "ossutil", ""));
    assert_eq!(report.local.file, dump.display().to_string());
    assert_eq!(report.local.globals_file, dump.display().to_string().replace(".dump", "_globals.sql"));
    assert_eq!(report.local.checksum_sha256, common::dumps::sha256(&dump));
    assert_eq!(report.local.size_bytes, i64::try_from(fs::metadata(&dump).unwrap().len()).unwrap());
    assert!(report.remote.urls.is_empty());
    assert!(report.started_at <= report.finished_at && report.finished_at.len() == 20, "{report:?}");
    assert!((0..600).contains(&report.duration_seconds));

    let log = world.log();
    assert!(log.lines().all(|line| line[19..].starts_with(" [INFO] ")), "{log}");
    for told in
        ["mode local", "--compress=9", "is a backup", &format!("reports/{stem}.json"), "RETENTION_DAYS=7: 0 removed"]
    {
        assert!(log.contains(told), "{told}\n{log}");
    }
}

/// Word for word what the document says, beside what pgkeep does.
#[test]
fn it_is_restored_by_the_documents_commands_and_by_ours() {
    let world = World::new(&["BACKUP_MODE=local"]);
    world.pgkeep("dump").run().succeeds();
    let stem = world.only_stem();
    let (cluster, dump) = (world.cluster, world.path("base/data").join(&stem));
    let restored = world.database("by_hand");
    cluster.run(cluster.client("createdb").arg(&restored));
    let dump = dump.display().to_string();
    let psql = ["-X", "-q", "-f", &(dump.clone() + "_globals.sql"), "postgres"].map(str::to_owned);
    cluster.run(cluster.client("psql").args(psql));
    cluster.run(cluster.client("pg_restore").args(["-d", &restored, "-c", "--if-exists", &(dump.clone() + ".dump")]));
    let original = Snapshot::of(cluster, "shop");
    assert_equal(&original, &Snapshot::of(cluster, &restored));

    let ours = world.database("by_us");
    world.pgkeep(&format!("restore dump latest -d shop --into {ours}")).run().succeeds();
    assert_equal(&original, &Snapshot::of(cluster, &ours));
}

#[test]
fn every_verb_works_by_the_env_file() {
    let world = World::new(&["BACKUP_MODE=local"]);
    let checked = world.pgkeep("check").run().succeeds();
    assert!(checked.stdout.contains("named by BACKUP_ENV_FILE"), "{}", checked.transcript());
    assert!(!world.path("base").exists() && !world.path("log").exists());
    let previewed = world.pgkeep("dump --dry-run").run().succeeds();
    assert!(previewed.stdout.contains("--compress=9") && !world.path("log").exists(), "{}", previewed.transcript());

    world.pgkeep("dump").run().succeeds();
    let stem = world.only_stem();
    for words in ["report", "report list", "report runs", "report show latest -d shop", "verify --all --deep", "check"]
    {
        let outcome = world.pgkeep(words).run().succeeds();
        let warned = |text: &str| text.lines().any(|line| line.contains("warn") && !line.contains("tools.outdated"));
        assert!(!warned(&outcome.stdout) && !warned(&outcome.stderr), "{}", outcome.transcript());
    }
    assert!(world.pgkeep("report").run().stdout.contains(&stem));
    let archive = world.pgkeep("restore dump latest -d shop --to-file ./out.dump").run().succeeds();
    let stored = fs::read(world.path("base/data").join(stem + ".dump")).unwrap();
    assert!(fs::read(world.path("out.dump")).unwrap() == stored, "{}", archive.transcript());
    world.pgkeep("copy --missing --to ./second").run().succeeds();
    world.workspace.pgkeep(["verify", "--all", "--deep", "--repo", "./second"]).run().succeeds();
    // The log is of dumps, as it was.
    let log = world.log();
    world.pgkeep("verify").run().succeeds();
    assert_eq!(world.log(), log);
}

#[test]
fn the_command_line_is_nearer_and_contradictions_are_errors() {
    let world = World::new(&["BACKUP_MODE=local", "PG_HOST=nowhere.invalid", "INCLUDE_GLOBALS=false"]);
    let other = world.database("other");
    world.cluster.create_database(&other);
    let socket = world.cluster.socket_dir().display();
    world.pgkeep(&format!("dump -h {socket} -d {other}")).run().succeeds();
    let stem = world.only_stem();
    assert!(stem.starts_with(&other), "{stem}");
    let report = world.report(&stem);
    assert_eq!((report.database, report.host), (other, socket.to_string()));
    assert_eq!(report.local.globals_file, "");

    for (words, told) in [
        ("dump --compress zstd:3", "leave --compress out"),
        ("dump --split 5M", "leave --split out"),
        ("dump --instance other", "there is no instance other by BACKUP_ENV_FILE"),
        ("report --instance other", "there is no instance other by BACKUP_ENV_FILE"),
    ] {
        let outcome = world.pgkeep(words).run().exits(2);
        assert!(outcome.stderr.contains(told), "{}", outcome.transcript());
    }
    assert_eq!(world.reports().len(), 1);
    // A repository on the line switches it off, and says so.
    let outcome = world.pgkeep("report --repo ./elsewhere").run().exits(8);
    let notice = "BACKUP_ENV_FILE is set and not used: --repo takes its place\n";
    assert!(outcome.stderr.starts_with(notice), "{}", outcome.transcript());
}

#[test]
fn options_of_pg_dump_and_a_password_are_handed_on() {
    let password = common::Cluster::PASSWORD.replace('\'', "'\\''");
    let world = World::new(&[
        "BACKUP_MODE=local",
        "PG_HOST=127.0.0.1",
        &format!("PGPASSWORD='{password}'"),
        "PG_DUMP_EXTRA_OPTS=\"--exclude-table-data=orders -Z 1\"",
    ]);
    world.pgkeep("dump").run().succeeds();
    let stem = world.only_stem();
    let manifest = fs::read_to_string(world.path("base/data").join(stem.clone() + ".manifest.json")).unwrap();
    let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
    assert_eq!(manifest["filtered"], true);
    assert_eq!(manifest["compression"]["level"], 1);
    assert_eq!(world.report(&stem).host, "127.0.0.1");
    for text in [world.log(), fs::read_to_string(world.path("base/reports").join(stem + ".json")).unwrap()] {
        assert!(!text.contains(common::Cluster::PASSWORD), "{text}");
    }
    // A part of a database is no backup of it.
    let outcome = world.pgkeep("report").run().succeeds();
    assert!(
        outcome.stdout.contains("warn  only-parts  shop: there is no backup of the whole"),
        "{}",
        outcome.transcript()
    );
    assert!(outcome.stdout.contains("PG_DUMP_EXTRA_OPTS"), "{}", outcome.transcript());
    world.pgkeep("restore dump latest -d shop --to-file x.dump").run().exits(8);
}

#[test]
fn an_env_file_that_others_may_read_or_change_is_refused() {
    let world = World::new(&["BACKUP_MODE=local"]);
    for (mode, told) in [("644", "every user may read the keys in it"), ("660", "its group may change it")] {
        shell(&world.path(""), &format!("chmod {mode} db.env"));
        for words in ["dump", "report", "check"] {
            let outcome = world.pgkeep(words).run().exits(9);
            assert!(outcome.stderr.contains(told), "{}", outcome.transcript());
            assert!(outcome.stderr.contains("hint: chmod 0600 "), "{}", outcome.transcript());
            assert!(outcome.stderr.contains("defaultMode: 0400"), "{}", outcome.transcript());
        }
    }
    assert!(!world.path("base").exists());
    let status = Command::new("chmod").arg("400").arg(world.path("db.env")).status().unwrap();
    assert!(status.success());
    world.pgkeep("dump").run().succeeds();
}
