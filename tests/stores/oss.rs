//! The dialect of OSS takes every request of every command, with no flag but the address.

use std::fs;

use crate::world::{Place, World};

#[test]
fn every_command_speaks_it() {
    let (world, place) = (World::large(), Place::oss());
    let (folder, second) = (Place::folder(&world, "repository"), Place::oss());
    let (near, far, home) = (place.address(), second.address(), folder.address());
    let database = world.database.as_str();
    let on_near = |words: &[&str]| world.pgkeep(words, &[&near]).run();

    world.dump(&[&near], &["--dry-run"]).run().succeeds();
    world.dump(&[&near], &[]).run().succeeds();
    // That create-only holds is proven once, by what has to be refused; from here on nothing is.
    let proven = place.proxy().counts().refused();
    assert_eq!(proven, 2, "{:#?}", place.proxy().seen());
    world.dump(&[&near], &["--split", "5M", "--check", "read-back"]).run().succeeds();
    world.dump(&[&near], &["--compress", "gzip:1"]).run().succeeds();
    assert_eq!(place.ids().len(), 3);
    for view in [&["report", "list"][..], &["report", "show", "latest"], &["report", "latest"], &["report", "runs"]] {
        on_near(view).succeeds();
    }
    let overview = on_near(&["report", "--json"]);
    assert!(matches!(overview.exit_code, Some(0 | 13)), "{}", overview.transcript());
    assert_eq!(overview.json()["error"]["kind"].as_str().unwrap_or("finding"), "finding", "{}", overview.transcript());
    on_near(&["verify", "--all", "--deep"]).succeeds();
    on_near(&["check", "-d", database]).succeeds();
    let ids = place.ids();
    for id in &ids {
        let file = world.workspace.path("restored.dump");
        on_near(&["restore", "dump", id, "--to-file", file.to_str().unwrap()]).succeeds();
        fs::remove_file(file).unwrap();
    }
    world.restores_into_a_database(&[&near]);
    on_near(&["copy", "--missing", "--to", &far]).succeeds();
    world.pgkeep(&["copy", "--missing", "--to", &home], &[&far]).run().succeeds();
    assert_eq!((second.ids(), folder.ids()), (ids.clone(), ids));
    world.pgkeep(&["verify", "--all"], &[&home]).run().succeeds();

    assert_eq!(place.proxy().counts().refused(), proven, "{:#?}", place.proxy().seen());
    assert_eq!(second.proxy().counts().refused(), 2);
    place.is_tidy(&Default::default());
    second.is_tidy(&Default::default());
}
