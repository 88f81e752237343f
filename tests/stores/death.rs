//! Death at moments that nobody chose; which they were, the seed says.

use std::collections::BTreeSet;
use std::time::Instant;

use rand::{RngExt as _, SeedableRng as _};

use crate::common::count;
use crate::common::dumps::until;
use crate::world::{Place, World, unknown_uploads};

fn dies(world: &World, places: &[Place]) {
    let addresses: Vec<String> = places.iter().map(Place::address).collect();
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let dump = || world.dump(&addresses, &["--compress", "zstd:1"]);
    dump().run().succeeds();
    let began = Instant::now();
    dump().run().succeeds();
    let whole = began.elapsed();
    let seed: u64 = rand::random();
    println!("seed {seed}, a whole dump takes {whole:?}");
    let mut random = rand::rngs::StdRng::seed_from_u64(seed);
    let (mut killed, mut unknown) = (0, BTreeSet::new());
    for round in 0..count(3, 34) {
        let before: Vec<BTreeSet<String>> = places.iter().map(Place::ids).collect();
        let moment = whole.mul_f64(random.random_range(0.05..1.05));
        let (mut child, began) = (dump().spawn(), Instant::now());
        until("the moment comes", || began.elapsed() >= moment);
        let _ = child.kill();
        let status = child.wait().unwrap();
        world.is_quiet();
        killed += u32::from(!status.success());
        unknown.extend(unknown_uploads(world));

        // Whoever was told so has a backup; one that was killed after its manifest is one, too.
        let after: Vec<BTreeSet<String>> = places.iter().map(Place::ids).collect();
        let mut new = BTreeSet::new();
        for (before, after) in before.iter().zip(&after) {
            assert!(before.is_subset(after), "round {round}: {before:?} {after:?}");
            assert!(!status.success() || after.len() == before.len() + 1, "round {round}: {after:?}");
            new.extend(after.difference(before).cloned());
        }
        assert!(new.len() <= 1, "round {round}: one backup has two names: {new:?}");
        // What is listed is whole where it is.
        let listed = world.pgkeep(&["report", "list", "--json"], &addresses).run().succeeds().json();
        let all: BTreeSet<&String> = after.iter().flatten().collect();
        let items = listed["items"].as_array().unwrap();
        assert_eq!(items.len(), all.len(), "round {round}: {listed:#}");
        for item in items {
            assert_eq!(item["state"], "good", "round {round}: {item:#}");
            let copies = item["repositories"].as_array().unwrap();
            assert!(copies.iter().all(|copy| copy["status"] == "ok"), "round {round}: {item:#}");
        }

        // The next one needs no help, and cleans up.
        dump().run().succeeds();
        let newest: BTreeSet<String> = places.iter().map(|place| world.restores(place)).collect();
        assert_eq!(newest.len(), 1, "round {round}: {newest:?}");
        places.iter().for_each(|place| place.is_tidy(&unknown));
    }
    assert!(killed > 0, "every dump was faster than its killer");
    world.restores_into_a_database(&addresses[addresses.len() - 1..]);
    world.pgkeep(&["verify", "--all"], &addresses[addresses.len() - 1..]).run().succeeds();
}

#[test]
fn at_any_moment_over_s3() {
    dies(&World::large(), &[Place::s3()]);
}

#[test]
fn at_any_moment_over_oss() {
    dies(&World::large(), &[Place::oss()]);
}

#[test]
fn at_any_moment_over_a_directory_and_a_bucket() {
    let world = World::large();
    let places = [Place::folder(&world, "repository"), Place::s3()];
    dies(&world, &places);
}
