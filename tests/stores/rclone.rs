//! Repositories behind rclone: everything works, no rclone is left, and one that dies in the middle is an honest failure.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::dumps::within;
use crate::common::pgkeep::{Pgkeep, tree};
use crate::common::rclone::{Remotes, SftpServer};
use crate::common::{Outcome, Weed};
use crate::world::{Place, World, cluster, signal};

fn call(world: &World, remotes: &Remotes, words: &[&str], repositories: &[&str]) -> Pgkeep {
    let path = format!("{}:{}", cluster().bin_dir().display(), Remotes::path());
    let call = world.stranger(words, repositories).env("PATH", path);
    remotes.environment().iter().fold(call, |call, (name, value)| call.env(name, value))
}

fn dump(world: &World, remotes: &Remotes, repository: &str) -> Pgkeep {
    call(world, remotes, &["dump", "-d", &world.database, "--compress", "zstd:1"], &[repository])
}

fn commands(remotes: &Remotes, repository: &str, served: &Path) {
    let world = World::large();
    let run = |words: &[&str], repositories: &[&str]| {
        let outcome = call(&world, remotes, words, repositories).run().succeeds();
        within(Duration::from_secs(5), "rclone ends", &mut || world.children().is_empty());
        outcome
    };
    let place = Place::Folder(served.to_owned());
    run(&["dump", "-d", &world.database, "--compress", "zstd:1"], &[repository]);
    run(&["dump", "-d", &world.database, "--compress", "zstd:1", "--split", "5M"], &[repository]);
    assert_eq!(place.ids().len(), 2);
    run(&["verify", "--all"], &[repository]);
    let listed = run(&["report", "list", "--json"], &[repository]).json();
    assert_eq!(listed["items"].as_array().unwrap().len(), 2);
    run(&["check", "-d", &world.database], &[repository]);
    let file = world.workspace.path("restored.dump");
    run(&["restore", "dump", "latest", "-d", &world.database, "--to-file", file.to_str().unwrap()], &[repository]);
    fs::remove_file(file).unwrap();

    // There and back again.
    let (near, back) = (world.workspace.path("near"), world.workspace.path("back"));
    run(&["copy", "--missing", "--to", near.to_str().unwrap()], &[repository]);
    let far = format!("{repository}-copy");
    run(&["copy", "--missing", "--to", &far], &[near.to_str().unwrap()]);
    run(&["copy", "--missing", "--to", back.to_str().unwrap()], &[&far]);
    run(&["verify", "--all"], &[back.to_str().unwrap()]);
    assert_eq!(Place::Folder(back).ids(), place.ids());
    place.is_tidy(&Default::default());
    world.restores_into_a_database(&[near.to_str().unwrap()]);
}

#[test]
fn every_command_on_a_remote_of_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let repository = format!("rclone:disk:{}/repo", folder.path().display());
    commands(&Remotes::none().local("disk"), &repository, &folder.path().join("repo"));
}

#[test]
fn every_command_on_a_remote_beyond_sftp() {
    let server = SftpServer::start();
    commands(&Remotes::none().sftp("far", &server), "rclone:far:repo", &server.files().join("repo"));
}

/// The names under which rclone kept the parts of an upload when it died. Its lists hide them, and its documentation
/// leaves it to the user to remove them.
fn remove_what_rclone_left(place: &Place) {
    let Place::Folder(folder) = place else { return };
    let left: Vec<String> = place.keys().into_iter().filter(|key| key.contains("/.rclone_temp_multipart_")).collect();
    assert!(left.len() <= 1, "{left:?}");
    left.iter().for_each(|key| fs::remove_file(folder.join(key)).unwrap());
}

#[test]
fn one_that_dies_in_the_middle() {
    let (world, folder) = (World::large(), tempfile::tempdir().unwrap());
    let (remotes, repository) =
        (Remotes::none().local("disk"), format!("rclone:disk:{}/repo", folder.path().display()));
    let place = Place::Folder(folder.path().join("repo"));
    dump(&world, &remotes, &repository).run().succeeds();
    let ids = place.ids();

    let held = world.hold_in_copy();
    let dumping = dump(&world, &remotes, &repository).spawn();
    world.until_it_stands();
    let children = world.children();
    let rclone: Vec<_> = children.iter().filter(|(_, words)| words.contains("serve s3")).collect();
    assert_eq!(rclone.len(), 1, "{children:?}");
    signal("KILL", rclone[0].0);
    drop(held);
    let began = Instant::now();
    let outcome = Outcome::wait_for(dumping).exits(5);
    // Nobody starts it again: to ask it with all our patience would take minutes.
    assert!(began.elapsed() < Duration::from_secs(30), "{}", outcome.transcript());
    assert!(outcome.stderr.contains("rclone, which stands between"), "{}", outcome.transcript());
    assert!(outcome.stderr.contains(&repository), "{}", outcome.transcript());
    world.is_quiet();
    assert_eq!(place.ids(), ids);

    dump(&world, &remotes, &repository).run().succeeds();
    assert_eq!(place.ids().len(), 2);
    remove_what_rclone_left(&place);
    place.is_tidy(&Default::default());
}

#[test]
fn one_that_dies_costs_the_other_repository_nothing() {
    let (world, folder) = (World::large(), tempfile::tempdir().unwrap());
    let (remotes, repository) =
        (Remotes::none().local("disk"), format!("rclone:disk:{}/repo", folder.path().display()));
    let alive = Place::s3();
    let words = ["dump", "-d", &world.database, "--compress", "zstd:1"];
    let dump = || {
        let call = call(&world, &remotes, &words, &[&repository, &alive.address()]);
        Weed::shared().credentials().into_iter().fold(call, |call, (name, value)| call.env(name, value))
    };
    let held = world.hold_in_copy();
    let dumping = dump().spawn();
    world.until_it_stands();
    let rclone = world.children().into_iter().find(|(_, words)| words.contains("serve s3")).unwrap();
    signal("KILL", rclone.0);
    drop(held);
    let outcome = Outcome::wait_for(dumping).exits(10);
    assert!(outcome.stderr.contains(&repository), "{}", outcome.transcript());
    assert_eq!(alive.ids().len(), 1);
    alive.is_tidy(&Default::default());
    dump().run().succeeds();
    let far = Place::Folder(folder.path().join("repo"));
    assert_eq!((alive.ids().len(), far.ids().len()), (2, 1));
    remove_what_rclone_left(&far);
    far.is_tidy(&Default::default());
}

#[test]
fn one_that_is_too_old_is_refused_with_its_version() {
    let world = World::small();
    let folder = world.workspace.path("old");
    fs::create_dir(&folder).unwrap();
    let program = folder.join("rclone");
    crate::common::executable(&program, "#!/bin/sh\necho rclone v1.60.1\n");
    let path = format!("{}:{}:/usr/bin:/bin", folder.display(), cluster().bin_dir().display());
    for words in [&["dump", "-d", &world.database][..], &["report", "list"], &["verify"]] {
        let outcome = world.stranger(words, &["rclone:disk:/nowhere/repo"]).env("PATH", &path).run().exits(12);
        assert!(outcome.stderr.contains("v1.60.1") && outcome.stderr.contains("1.65"), "{}", outcome.transcript());
    }
    assert_eq!(tree(&world.workspace.path("tmp")), [""; 0]);
}
