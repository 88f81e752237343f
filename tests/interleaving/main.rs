//! Every interleaving of backups in the making and a prune, with a death of any of them at any step, on the real code
//! over the store in memory.
//!
//! After every step: no listed backup lacks data, and nothing that a living run has stored is gone. At the end of every
//! schedule, after one more quiet prune: nothing lies about, what was kept is there, whoever did not die succeeded.
//!
//! `PGKEEP_TEST_LONG=1` explores the large worlds too.

mod explorer;
mod stepped;
mod world;

use explorer::{draw, explore};
use world::{House, PruneOrder, Writer, WriterOrder};

#[allow(clippy::disallowed_methods)]
fn long() -> bool {
    std::env::var_os("PGKEEP_TEST_LONG").is_some_and(|value| value == "1")
}

fn assert_sound(house: &House, what: &str) {
    let explored = explore(house);
    println!("{what}: {explored}");
    assert_eq!(explored.broken_states, 0, "{what}: {explored}\n{}", explored.broken.join("\n\n"));
}

fn assert_broken(house: &House, what: &str, expected: &str) {
    let explored = explore(house);
    println!("{what}: {explored}");
    let found = explored.broken.join("\n\n");
    assert!(explored.broken_states > 0, "{what}: {explored}");
    assert!(found.contains(expected), "{what} breaks in another way: {found}");
}

/// The small form leaves out only what changes nothing for others: more data of the same kind, a refresh, the record.
#[test]
fn one_write_and_one_prune_with_deaths_anywhere() {
    let size = |writer: Writer| if long() { writer } else { writer.small() };
    let here = House::new(&[size(Writer::here())], PruneOrder::Right, 2);
    assert_sound(&here, "write and prune on one host, both may die");
    let elsewhere = House::new(&[size(Writer::elsewhere())], PruneOrder::Right, 2);
    assert_sound(&elsewhere, "write on another host than prune, both may die");
}

/// Drawn schedules; in the long form also all of them, where nobody dies.
#[test]
fn two_writes_and_one_prune() {
    if long() {
        let writers = [Writer::here().small(), Writer::elsewhere().small()];
        assert_sound(&House::new(&writers, PruneOrder::Right, 0), "two small writes and a prune");
    }
    let house = House::new(&[Writer::here(), Writer::elsewhere()], PruneOrder::Right, 3);
    let count = if long() { 20_000 } else { 500 };
    let wrong = draw(&house, count, 20_250_131);
    println!("two writes and a prune, all may die: {count} schedules drawn, {} broken", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// What a copy has stored before it died is gone on with, while a prune looks for what nobody owns.
#[test]
fn a_copy_that_goes_on_and_one_prune_with_deaths_anywhere() {
    let here = House::new(&[Writer::here().resumes()], PruneOrder::Right, 2);
    assert_sound(&here, "a copy goes on and a prune on one host, both may die");
    let elsewhere = House::new(&[Writer::elsewhere().resumes()], PruneOrder::Right, 2);
    assert_sound(&elsewhere, "a copy goes on, on another host than prune, both may die");
}

/// A dump here, a copy that goes on elsewhere with what one of its host had begun, and a prune.
#[test]
fn a_dump_a_copy_and_one_prune() {
    let writers = |dump: Writer, copy: Writer| [dump, copy.resumes()];
    if long() {
        let small = writers(Writer::here().small(), Writer::elsewhere().small());
        assert_sound(&House::new(&small, PruneOrder::Right, 0), "a dump, a copy that goes on, and a prune");
    }
    for (dump, copy) in [(Writer::here(), Writer::elsewhere()), (Writer::elsewhere(), Writer::here())] {
        let house = House::new(&writers(dump, copy), PruneOrder::Right, 3);
        let count = if long() { 20_000 } else { 150 };
        let wrong = draw(&house, count, 20_261_120);
        println!("a dump, a copy and a prune, all may die: {count} schedules drawn, {} broken", wrong.len());
        assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
    }
}

/// The test can fail: each order that the format forbids is seen to break something.
#[test]
fn manifests_before_intents_is_seen_to_break() {
    let house = House::new(&[Writer::elsewhere().small()], PruneOrder::ManifestsBeforeIntents, 0);
    assert_broken(&house, "manifests listed before intents", "lacks");
}

#[test]
fn locks_before_data_is_seen_to_break() {
    let house = House::new(&[Writer::here().small()], PruneOrder::LockBeforeData, 0);
    assert_broken(&house, "locks looked at before data are listed", "living");
}

#[test]
fn a_write_without_intent_is_seen_to_break() {
    let writer = Writer { order: WriterOrder::NoIntent, ..Writer::here().small() };
    assert_broken(&House::new(&[writer], PruneOrder::Right, 0), "no intent", "living");
}

#[test]
fn a_manifest_before_its_data_is_seen_to_break() {
    let writer = Writer { order: WriterOrder::ManifestFirst, ..Writer::here().small() };
    assert_broken(&House::new(&[writer], PruneOrder::Right, 0), "manifest before data", "lacks");
}
