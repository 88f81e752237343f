//! `RETENTION_DAYS`: what goes, and what never does; dumps of the script beside those of pgkeep.

use std::fs;
use std::path::Path;

use chrono::TimeDelta;
use pgkeep::clock::{Clock as _, SystemClock};

use crate::common::pgkeep::tree;
use crate::remote;
use crate::world::{World, shell};

/// A name as the script gives it.
fn stem_of(days_ago: i64, database: &str) -> String {
    let at = SystemClock.now() - TimeDelta::days(days_ago) - TimeDelta::minutes(1);
    format!("{database}_{}_oldhost", at.format("%Y%m%dT%H%M%SZ"))
}

/// What the script did on a day in the past: the same commands, into the same directory.
fn script(world: &World, days_ago: i64) -> String {
    let (stem, data) = (stem_of(days_ago, "shop"), world.path("base/data"));
    fs::create_dir_all(&data).unwrap();
    let dump = data.join(format!("{stem}.dump"));
    let cluster = world.cluster;
    cluster.run(cluster.client("pg_dump").args(["-Fc", "-Z", "9", "-d", "shop", "-f"]).arg(&dump));
    cluster.run(
        cluster.client("pg_dumpall").arg("--globals-only").arg("-f").arg(data.join(format!("{stem}_globals.sql"))),
    );
    // With its whole path, as the script wrote it.
    shell(&data, &format!("sha256sum '{}' > {stem}.dump.sha256", dump.display()));
    stem
}

/// A dump of pgkeep, made older than it is: a name is all that retention looks at.
fn aged(world: &World, days_ago: i64) -> String {
    let before = world.stems();
    world.pgkeep("dump").env("RETENTION_DAYS", "3650").run().succeeds();
    let new: Vec<String> = world.stems().into_iter().filter(|stem| !before.contains(stem)).collect();
    let [stem] = &new[..] else { panic!("{new:?}") };
    let aged = stem_of(days_ago, "shop");
    restamp(&world.path("base/data"), stem, &aged);
    aged
}

/// Gives a backup another name, in its files and in its manifest.
fn restamp(data: &Path, stem: &str, aged: &str) {
    let started = |stem: &str| stem.split('_').nth(1).unwrap().parse::<pgkeep::repo::Stamp>().unwrap().time();
    let manifest = data.join(format!("{stem}.manifest.json"));
    let parsed = pgkeep::repo::DumpManifest::from_json(
        &fs::read(&manifest).unwrap(),
        &"main".parse().unwrap(),
        &stem.parse().unwrap(),
    );
    let mut parsed = parsed.unwrap();
    let aged_stem: pgkeep::repo::DumpStem = aged.parse().unwrap();
    parsed.id = (&aged_stem).into();
    parsed.started_at = started(aged);
    parsed.finished_at = started(aged);
    for object in &mut parsed.objects {
        let ending = object.name.ending;
        let name = object.name.to_string();
        object.name = aged_stem.object(ending);
        fs::rename(data.join(name), data.join(object.name.to_string())).unwrap();
    }
    fs::remove_file(manifest).unwrap();
    fs::write(data.join(format!("{aged}.manifest.json")), parsed.to_json().unwrap()).unwrap();
}

fn all_of(world: &World, stem: &str) -> Vec<String> {
    tree(&world.path("base/data")).into_iter().filter(|name| name.starts_with(stem)).collect()
}

#[test]
fn what_is_old_goes_after_the_next_good_one_whoever_made_it() {
    let world = World::new(&["BACKUP_MODE=local", "RETENTION_DAYS=7"]);
    let (old, young) = (script(&world, 9), script(&world, 3));
    let mine = aged(&world, 8);
    fs::write(world.path("base/data/notes.txt"), "mine").unwrap();
    fs::write(world.path(&format!("base/data/{old}.txt")), "mine").unwrap();
    let elsewhere = stem_of(30, "crm");
    fs::write(world.path(&format!("base/data/{elsewhere}.dump")), "of another database").unwrap();
    world.pgkeep("dump").run().succeeds();
    assert_eq!(all_of(&world, &old), [format!("{old}.txt")]);
    assert_eq!(all_of(&world, &mine), [""; 0]);
    assert_eq!(all_of(&world, &young).len(), 3);
    assert_eq!(all_of(&world, &elsewhere).len(), 1);
    assert!(world.path("base/data/notes.txt").exists());
    assert_eq!(world.reports().len(), 2);
    let log = world.log();
    for gone in [&old, &mine] {
        assert!(log.contains(&format!("[INFO] {gone} removed: ")), "{log}");
    }
    assert!(log.contains("RETENTION_DAYS=7: 2 removed"), "{log}");
    // Dumps of the script are no backups to us, and no garbage.
    let report = world.pgkeep("report list --json").run().succeeds().stdout;
    assert!(!report.contains(&young) && report.contains("shop"), "{report}");
}

#[test]
fn the_newest_good_one_stays_however_old() {
    // After a success, there is a newer one; after a failure nothing goes.
    let world = World::new(&["BACKUP_MODE=local", "RETENTION_DAYS=0", "PG_DATABASE=nosuch"]);
    let (older, old) = (script(&world, 20), script(&world, 10));
    world.pgkeep("dump").run().exits(3);
    assert_eq!((all_of(&world, &older).len(), all_of(&world, &old).len()), (3, 3));
    // Success with another database: of shop the newest that matches its checksum stays.
    world.configure(&["BACKUP_MODE=local", "RETENTION_DAYS=0", "PG_DATABASE=postgres"]);
    let broken = script(&world, 5);
    fs::write(world.path(&format!("base/data/{broken}.dump")), b"PGDMP, and the disk was full").unwrap();
    world.pgkeep("dump").run().succeeds();
    assert_eq!(all_of(&world, &older), [""; 0]);
    assert_eq!((all_of(&world, &old).len(), all_of(&world, &broken).len()), (3, 3));
    let log = world.log();
    assert!(log.contains(&format!("{broken} was made without pgkeep: it does not match its checksum")), "{log}");
    assert!(log.contains(&format!("{old} kept: it is the newest good one of its database")), "{log}");
}

#[test]
fn a_dump_of_another_choice_takes_nobodys_place() {
    let world = World::new(&["BACKUP_MODE=local", "RETENTION_DAYS=7", "PG_DUMP_EXTRA_OPTS='-T orders'"]);
    let (older, old) = (aged(&world, 20), aged(&world, 10));
    world.configure(&["BACKUP_MODE=local", "RETENTION_DAYS=7", "PG_DUMP_EXTRA_OPTS=-s"]);
    world.pgkeep("dump").run().succeeds();
    // Of their own choice there is a newer one for the first alone.
    assert!(all_of(&world, &older).is_empty() && !all_of(&world, &old).is_empty(), "{}", world.log());
}

#[test]
fn objects_in_the_bucket_are_left_to_its_rules() {
    let (world, (proxy, bucket)) = (World::new(&[]), remote::oss());
    remote::configure(&world, &proxy, &bucket, "both", &["RETENTION_DAYS=7"]);
    let old = script(&world, 9);
    let key = format!("postgres/backups/{old}.dump");
    bucket.put(&key, &b"as the script uploaded it"[..]);
    world.pgkeep("dump").run().succeeds();
    assert_eq!(all_of(&world, &old), [""; 0]);
    assert!(bucket.get(&key).is_some());
}

#[test]
fn a_part_of_the_database_takes_the_place_of_no_whole_one() {
    let world = World::new(&["BACKUP_MODE=local", "RETENTION_DAYS=0"]);
    let whole = aged(&world, 9);
    world.configure(&["BACKUP_MODE=local", "RETENTION_DAYS=0", "PG_DUMP_EXTRA_OPTS='-T orders'"]);
    world.pgkeep("dump").run().succeeds();
    assert_eq!(all_of(&world, &whole).len(), 5);
}

/// What a person has packed by hand, or linked, stands in nobody's way.
#[test]
fn what_is_neither_ours_nor_the_scripts_is_left_alone() {
    let world = World::new(&["BACKUP_MODE=local", "RETENTION_DAYS=7"]);
    let (old, data) = (script(&world, 9), world.path("base/data"));
    let packed: Vec<String> =
        ["dump.gz", "dump.zst", "dump.age"].map(|end| format!("{}.{end}", stem_of(30, "shop"))).into();
    packed.iter().for_each(|name| fs::write(data.join(name), "packed").unwrap());
    std::os::unix::fs::symlink(format!("{old}.dump"), data.join("latest.dump")).unwrap();
    world.pgkeep("dump").run().succeeds();
    assert!(all_of(&world, &old).is_empty());
    assert!(packed.iter().all(|name| data.join(name).exists()));
    assert!(fs::symlink_metadata(data.join("latest.dump")).is_ok());
    // The repository is opened for the dump and for what goes after it.
    let log = world.log();
    assert!((1..=2).contains(&log.matches("passed over what is not a regular file").count()), "{log}");
}

#[test]
fn a_prune_goes_by_the_days_of_the_file_and_leaves_dumps_of_the_script_alone() {
    let world = World::new(&["BACKUP_MODE=local", "RETENTION_DAYS=7"]);
    let theirs = script(&world, 30);
    let (old, kept) = (aged(&world, 9), aged(&world, 1));
    let told = world.pgkeep("prune").run().succeeds();
    assert!(told.stdout.starts_with("rules of main: keep-within 8d\n"), "{}", told.transcript());
    assert!(!all_of(&world, &old).is_empty());
    world.pgkeep("prune").arg("--apply").run().succeeds();
    assert_eq!(all_of(&world, &old), [""; 0]);
    assert!(!all_of(&world, &kept).is_empty());
    assert_eq!(all_of(&world, &theirs).len(), 3);
}
