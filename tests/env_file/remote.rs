//! The modes that store elsewhere: OSS behind the proxy that speaks its dialect, and a remote of rclone.

use std::fs;

use crate::common::equality::{Snapshot, assert_equal};
use crate::common::pgkeep::{Pgkeep, tree};
use crate::common::proxy::{Dialect, Kind};
use crate::common::rclone::{self, Remotes};
use crate::common::{Bucket, Proxy, Weed};
use crate::world::{Local, World, read_report};

/// The lines of an env file that lead to `bucket` through `proxy`.
fn lines(proxy: &Proxy, bucket: &Bucket, mode: &str) -> Vec<String> {
    vec![
        format!("BACKUP_MODE={mode}"),
        format!("OSS_BUCKET={}", bucket.name()),
        "OSS_PREFIX=postgres/backups".to_owned(),
        format!("OSS_ENDPOINT={}", proxy.endpoint()),
        format!("OSS_ACCESS_KEY_ID={}", Weed::ACCESS_KEY),
        format!("OSS_ACCESS_KEY_SECRET={}", Weed::shared().secret_key()),
    ]
}

pub fn configure(world: &World, proxy: &Proxy, bucket: &Bucket, mode: &str, more: &[&str]) {
    let lines = lines(proxy, bucket, mode);
    let lines: Vec<&str> = lines.iter().map(String::as_str).chain(more.iter().copied()).collect();
    world.configure(&lines);
}

pub fn oss() -> (Proxy, Bucket) {
    let weed = Weed::shared();
    (Proxy::before(weed).dialect(Dialect::Oss).start(), weed.bucket("team"))
}

fn uploaded(bucket: &Bucket, folder: &str) -> Vec<String> {
    let prefix = format!("postgres/backups/{folder}");
    bucket.keys().into_iter().filter_map(|key| key.strip_prefix(&prefix).map(str::to_owned)).collect()
}

#[test]
fn both_means_here_and_in_the_bucket_and_every_verb_sees_both() {
    let (world, (proxy, bucket)) = (World::new(&[]), oss());
    configure(&world, &proxy, &bucket, "both", &[]);
    let secret = Weed::shared().secret_key();
    let outcome = world.pgkeep("dump -v").run().succeeds();
    let stem = world.only_stem();
    // Its dialect was kept to: what it refused was to overwrite what is there, when it was asked to prove that.
    let refusals: Vec<_> = proxy.seen().into_iter().filter_map(|seen| seen.refusal).collect();
    assert!(refusals.iter().all(|code| *code == "FileAlreadyExists"), "{refusals:?}");

    let here: Vec<String> = tree(&world.path("base/data"));
    assert_eq!(here.len(), 5, "{here:?}");
    for name in &here {
        let there = bucket.get(&format!("postgres/backups/{name}")).unwrap();
        // A manifest says what was proven in its own place.
        if !name.ends_with(".manifest.json") {
            assert!(there == fs::read(world.path("base/data").join(name)).unwrap(), "{name}");
        }
    }
    assert_eq!(uploaded(&bucket, "pgkeep"), [".json"]);
    let report = world.report(&stem);
    let there = read_report(&bucket.get(&format!("postgres/backups/reports/{stem}.json")).unwrap());
    assert_eq!(format!("{report:?}"), format!("{there:?}"));
    assert_eq!((report.status.as_str(), report.mode.as_str(), report.tool.as_str()), ("SUCCESS", "both", "ossutil"));
    let urls = [".dump", ".dump.sha256", "_globals.sql"]
        .map(|ending| format!("oss://{}/postgres/backups/{stem}{ending}", bucket.name()));
    assert_eq!(report.remote.urls, urls);
    assert!(report.local.size_bytes > 0);
    for text in [&world.log(), &outcome.stdout, &outcome.stderr] {
        assert!(!text.contains(secret), "{text}");
    }

    let shown = world.pgkeep("report show latest -d shop --json").run().succeeds().stdout;
    assert!(shown.contains(world.path("base").to_str().unwrap()) && shown.contains("oss://"), "{shown}");
    world.pgkeep("verify --all --deep").run().succeeds();
    world.pgkeep("check").run().succeeds();
    // A lost file here does not matter to a restore.
    fs::remove_file(world.path("base/data").join(stem.clone() + ".dump")).unwrap();
    let restored = world.database("from_the_bucket");
    world.pgkeep(&format!("restore dump {stem} --into {restored}")).run().succeeds();
    assert_equal(&Snapshot::of(world.cluster, "shop"), &Snapshot::of(world.cluster, &restored));
}

#[test]
fn oss_keeps_nothing_here_but_the_report_and_the_log() {
    let (world, (proxy, bucket)) = (World::new(&[]), oss());
    configure(&world, &proxy, &bucket, "oss", &["RETENTION_DAYS=0"]);
    world.pgkeep("dump").run().succeeds();
    let names = tree(&world.path("base"));
    let [folder, report] = &names[..] else { panic!("{names:?}") };
    assert_eq!(folder, "reports/");
    let stem = report.strip_prefix("reports/").and_then(|name| name.strip_suffix(".json")).unwrap();
    let report = world.report(stem);
    assert_eq!(report.status, "SUCCESS");
    assert_eq!((report.local.file.as_str(), report.local.globals_file.as_str()), ("", ""));
    let stored = bucket.get(&format!("postgres/backups/{stem}.dump")).unwrap();
    assert_eq!(report.local.size_bytes, i64::try_from(stored.len()).unwrap());
    assert_eq!(report.remote.urls.len(), 3);
    assert!(!world.log().contains("ERROR"), "{}", world.log());
    let restored = world.database("from_oss");
    world.pgkeep(&format!("restore dump latest -d shop --into {restored}")).run().succeeds();
}

#[test]
fn a_bucket_that_does_not_answer_costs_the_copy_in_it_and_no_other() {
    let (world, (proxy, bucket)) = (World::new(&[]), oss());
    configure(&world, &proxy, &bucket, "both", &["RETENTION_DAYS=0"]);
    proxy.refuse();
    let outcome = world.pgkeep("dump").run().exits(10);
    assert!(outcome.stderr.contains("is stored in 1 of 2 repositories"), "{}", outcome.transcript());
    assert!(outcome.stderr.contains("BACKUP_MODE=local stores on this host alone"), "{}", outcome.transcript());
    let stem = world.only_stem();
    let report = world.report(&stem);
    assert_eq!(report.status, "FAILED");
    assert!(report.error_message.contains("oss://"), "{report:?}");
    // What there is, is there.
    assert_eq!(report.local.file, world.path("base/data").join(stem.clone() + ".dump").display().to_string());
    assert_eq!(report.local.checksum_sha256.len(), 64);
    assert!(report.remote.urls.is_empty());
    let log = world.log();
    assert!(log.contains(" [ERROR] ") && !log.contains("RETENTION_DAYS"), "{log}");
    assert!(bucket.keys().is_empty());

    // Nothing is kept here, so nothing was made.
    configure(&world, &proxy, &bucket, "oss", &[]);
    world.pgkeep("dump").run().exits(5);
    let failures: Vec<_> =
        world.reports().iter().filter(|name| **name != stem).map(|name| world.report(name)).collect();
    let [failure] = &failures[..] else { panic!("{failures:?}") };
    assert_eq!((failure.status.as_str(), &failure.local), ("FAILED", &Local::nothing()));

    // And when it answers again, all is well again.
    proxy.heal();
    configure(&world, &proxy, &bucket, "both", &[]);
    world.pgkeep("dump").run().succeeds();
    assert_eq!(uploaded(&bucket, "reports/").len(), 1);
}

#[test]
fn bad_weather_on_the_way_to_the_bucket_changes_nothing() {
    let (world, (proxy, bucket)) = (World::new(&[]), oss());
    configure(&world, &proxy, &bucket, "both", &[]);
    proxy.random(20, 5);
    world.pgkeep("dump").run().succeeds();
    assert!(proxy.counts().faulted() > 0);
    let stem = world.only_stem();
    assert_eq!(world.report(&stem).status, "SUCCESS");
    proxy.heal();
    world.pgkeep("verify --all --deep").run().succeeds();
    let reports = uploaded(&bucket, "reports/");
    assert_eq!(reports, [stem + ".json"]);
}

#[test]
fn a_wrong_key_is_told_and_never_repeated() {
    let (world, (proxy, bucket)) = (World::new(&[]), oss());
    configure(&world, &proxy, &bucket, "oss", &["OSS_ACCESS_KEY_SECRET=hunter2hunter2"]);
    let outcome = world.pgkeep("dump -vv").run().exits(5);
    let report = world.only_failure();
    for text in [&outcome.stderr, &report.error_message, &world.log()] {
        assert!(!text.contains("hunter2") && text.contains(bucket.name()), "{text}");
    }
    assert!(proxy.counts().of(Kind::Put) == 0, "{:?}", proxy.counts());
}

#[test]
fn rclone_stores_where_its_remote_leads() {
    let world = World::new(&[]);
    let target = world.path("far");
    fs::create_dir_all(target.join("postgres")).unwrap();
    let path = format!("RCLONE_PATH={}/postgres/backups", target.display());
    world.configure(&["BACKUP_MODE=both", "BACKUP_UPLOAD_TOOL=rclone", "RCLONE_REMOTE=here", &path]);
    let remotes = Remotes::none().local("here");
    let with_rclone = |pgkeep: Pgkeep| {
        let tools = rclone::program().parent().unwrap().display().to_string();
        let path = format!("{}:{tools}:/usr/bin:/bin", world.cluster.bin_dir().display());
        remotes.environment().iter().fold(pgkeep.env("PATH", path), |pgkeep, (name, value)| pgkeep.env(name, value))
    };
    with_rclone(world.pgkeep("dump")).run().succeeds();
    let stem = world.only_stem();
    let report = world.report(&stem);
    assert_eq!((report.status.as_str(), report.tool.as_str()), ("SUCCESS", "rclone"));
    let far = target.join("postgres/backups");
    assert_eq!(report.remote.urls[0], format!("here:{}/{stem}.dump", far.display()));
    for name in tree(&world.path("base/data")).iter().filter(|name| !name.ends_with(".manifest.json")) {
        let (here, there) = (world.path("base/data").join(name), far.join(name));
        assert!(fs::read(here).unwrap() == fs::read(there).unwrap(), "{name}");
    }
    read_report(&fs::read(far.join(format!("reports/{stem}.json"))).unwrap());
    with_rclone(world.pgkeep("verify --all --deep")).run().succeeds();

    // Without the program: the copy here is made all the same; where it would be the only one, nothing is.
    for (mode, code) in [("both", 10), ("oss", 12)] {
        let mode = format!("BACKUP_MODE={mode}");
        world.configure(&[&mode, "BACKUP_UPLOAD_TOOL=rclone", "RCLONE_REMOTE=here", &path]);
        let before = world.reports();
        let outcome = world.pgkeep("dump").run().exits(code);
        assert!(outcome.stderr.contains("Missing command: rclone"), "{}", outcome.transcript());
        let new: Vec<String> = world.reports().into_iter().filter(|name| !before.contains(name)).collect();
        let [failed] = &new[..] else { panic!("{new:?}") };
        assert!(world.report(failed).error_message.contains("Missing command: rclone"));
    }
}
