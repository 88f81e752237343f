//! A signal ends a dump soon, wherever it is and though its store stands still; what it could not remove then, the next
//! one does.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::common::proxy::{Fault, Kind, On};
use crate::common::{Outcome, long};
use crate::world::{Place, World, signal};

const SIGNALS: [(&str, i32); 3] = [("TERM", 143), ("INT", 130), ("HUP", 143)];

/// The requests at which a dump is made to stand still, one for each of its phases.
const PHASES: [(&str, Kind, &str); 6] = [
    ("opening", Kind::List, ""),
    ("beginning", Kind::Initiate, ""),
    ("a part", Kind::Part, ""),
    ("completing", Kind::Complete, ""),
    ("read-back", Kind::Get, ".dump.zst"),
    ("the manifest", Kind::Put, ".manifest.json"),
];

/// Stops a dump that stands still at a request, and then at all.
fn stop(world: &World, place: &Place, phase: (&str, Kind, &str), (name, code): (&str, i32)) {
    let (phase, kind, key) = phase;
    let (proxy, before, ids) = (place.proxy(), place.proxy().seen().len(), place.ids());
    proxy.inject(On::kind(kind).key(key).always(), Fault::Stall);
    let dump = world.dump(&[&place.address()], &["--check", "read-back", "--compress", "zstd:1"]).spawn();
    proxy.until(&format!("{phase}: a {kind:?} stands still"), |seen| {
        seen[before..].iter().any(|seen| seen.kind == kind && seen.stalled)
    });
    proxy.inject(On::any().always(), Fault::Stall);
    let began = Instant::now();
    signal(name, dump.id());
    let outcome = Outcome::wait_for(dump).exits(code);
    // Without an end of its own patience it would take minutes.
    assert!(began.elapsed() < Duration::from_secs(30), "{phase}: {}", outcome.transcript());
    assert!(outcome.stderr.contains(&format!("stopped by SIG{name}")), "{phase}: {}", outcome.transcript());
    world.is_quiet();
    proxy.heal();
    assert_eq!(place.ids(), ids, "{phase}");
}

/// Stops dumps with one signal, in some phases.
fn stops(told: (&str, i32), phases: &[(&'static str, Kind, &'static str)]) {
    let (world, place) = (World::large(), Place::s3());
    world.dump(&[&place.address()], &[]).run().succeeds();
    phases.iter().for_each(|phase| stop(&world, &place, *phase, told));
    let runs = world.pgkeep(&["report", "runs", "--json"], &[&place.address()]).run().succeeds().json();
    let statuses = runs["items"].as_array().unwrap().iter().map(|run| run["status"].as_str().unwrap());
    let (good, bad): (Vec<&str>, Vec<&str>) = statuses.partition(|status| *status == "SUCCEEDED");
    assert!(good.len() == 1 && bad.iter().all(|status| ["FAILED", "INTERRUPTED"].contains(status)), "{runs:#}");

    world.dump(&[&place.address()], &[]).run().succeeds();
    place.is_tidy(&BTreeSet::new());
    world.restores(&place);
}

/// What stands still costs no processor: the signals go at the same time.
#[test]
fn it_stops_in_every_phase() {
    std::thread::scope(|scope| {
        for (number, told) in SIGNALS.into_iter().enumerate() {
            let of_each = PHASES.into_iter().enumerate().filter(|(at, _)| at % SIGNALS.len() == number);
            let phases = if long() { PHASES.to_vec() } else { of_each.map(|(_, phase)| phase).collect() };
            scope.spawn(move || stops(told, &phases));
        }
    });
}

/// A store that answers is left as it was found.
#[test]
fn a_store_that_answers_keeps_nothing_of_it() {
    let (world, place) = (World::large(), Place::oss());
    world.dump(&[&place.address()], &[]).run().succeeds();
    let ids = place.ids();
    for (name, code) in SIGNALS {
        let held = world.hold_in_copy();
        let before = place.proxy().seen().len();
        let dump = world.dump(&[&place.address()], &["--compress", "zstd:1"]).spawn();
        world.until_it_stands();
        place.proxy().until("a part is stored", |seen| {
            seen[before..].iter().any(|seen| seen.kind == Kind::Part && seen.status == Some(200))
        });
        signal(name, dump.id());
        Outcome::wait_for(dump).exits(code);
        drop(held);
        world.is_quiet();
        assert_eq!(place.ids(), ids);
        place.is_tidy(&BTreeSet::new());
    }
}
