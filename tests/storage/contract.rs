//! What the documentation of [`Storage`] promises, for any store that is empty at the start.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::join_all;
use pgkeep::digest::{Fingerprint, Fingerprinter};
use pgkeep::storage::{CreateOnly, Fault, Key, ObjectMeta, Prefix, Storage};

type Store = Arc<dyn Storage>;

const MIB: usize = 1 << 20;

pub fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

/// Bytes that differ from place to place and from seed to seed.
pub fn noise(seed: u64, length: usize) -> Bytes {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    let mut words = Vec::with_capacity(length + 8);
    while words.len() < length {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        words.extend_from_slice(&(state ^ (state >> 33)).to_le_bytes());
    }
    words.truncate(length);
    words.into()
}

async fn names(store: &Store, prefix: Prefix) -> Vec<String> {
    store.list(&prefix).await.unwrap().into_iter().map(|object| object.key.into()).collect()
}

async fn put(store: &Store, name: &str, body: impl Into<Bytes>) {
    store.create(&key(name), body.into()).await.unwrap();
}

async fn get(store: &Store, name: &str) -> Bytes {
    store.get(&key(name), u64::MAX).await.unwrap()
}

/// Nothing is stored, and nothing half-stored lies about.
async fn assert_empty(store: &Store) {
    assert_eq!(names(store, Prefix::root()).await, [""; 0]);
    assert_eq!(store.sweep_unfinished(&Prefix::root()).await.unwrap(), 0, "unfinished writes were left");
}

pub async fn what_is_created_is_read_back_and_never_overwritten(store: Store) {
    put(&store, "main/dumps/x", "first").await;
    let error = store.create(&key("main/dumps/x"), "second".into()).await.unwrap_err();
    assert_eq!(error.fault, Fault::Exists);
    assert!(error.to_string().contains("main/dumps/x") && error.to_string().contains(store.address()), "{error}");
    assert_eq!(get(&store, "main/dumps/x").await, "first");
    assert_eq!(store.sweep_unfinished(&Prefix::root()).await.unwrap(), 0);
}

pub async fn of_racing_creators_exactly_one_wins(store: Store) {
    let racers = (0..16).map(|racer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move { store.create(&key("race/x"), noise(racer, 10_000)).await })
    });
    let answers: Vec<_> = join_all(racers).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<_> = (0..16).filter(|racer| answers[*racer].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert!(answers.iter().flat_map(|answer| answer.as_ref().err()).all(|error| error.fault == Fault::Exists));
    assert_eq!(get(&store, "race/x").await, noise(winners[0] as u64, 10_000));
}

pub async fn of_racing_writers_exactly_one_wins(store: Store) {
    let racers = (0..16).map(|racer| {
        let store = Arc::clone(&store);
        tokio::spawn(async move {
            let mut writer = store.writer(&key("race/x"), None).await.unwrap();
            for part in 0..3 {
                writer.write(noise(racer * 3 + part, 10_000)).await.unwrap();
            }
            writer.finish().await
        })
    });
    let answers: Vec<_> = join_all(racers).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<_> = (0..16).filter(|racer| answers[*racer].is_ok()).collect();
    assert_eq!(winners.len(), 1, "{answers:?}");
    assert!(answers.iter().flat_map(|answer| answer.as_ref().err()).all(|error| error.fault == Fault::Exists));
    let winner = winners[0] as u64;
    let expected: Vec<u8> = (0..3).flat_map(|part| noise(winner * 3 + part, 10_000)).collect();
    assert_eq!(get(&store, "race/x").await, expected);
}

pub async fn a_replaced_object_is_old_or_new_and_never_a_mix(store: Store) {
    const LENGTH: usize = 150_000;
    store.replace(&key("state"), noise(0, LENGTH)).await.unwrap();
    let versions: Vec<_> = (0..60).map(|version| Fingerprint::of(&noise(version, LENGTH))).collect();
    let versions = Arc::new(versions);
    let over = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = (0..3)
        .map(|_| {
            let (store, versions, over) = (Arc::clone(&store), Arc::clone(&versions), Arc::clone(&over));
            tokio::spawn(async move {
                let mut reads = 0;
                while !over.load(Ordering::Relaxed) || reads == 0 {
                    let seen = get(&store, "state").await;
                    assert!(versions.contains(&Fingerprint::of(&seen)), "a mix of {} bytes", seen.len());
                    assert_eq!(names(&store, Prefix::root()).await, ["state"]);
                    reads += 1;
                }
            })
        })
        .collect();
    for version in 1..60 {
        store.replace(&key("state"), noise(version, LENGTH)).await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.await.unwrap();
    }
    assert_eq!(get(&store, "state").await, noise(59, LENGTH));
}

pub async fn replace_makes_what_is_missing(store: Store) {
    store.replace(&key("runs/1.json"), "RUNNING".into()).await.unwrap();
    assert_eq!(get(&store, "runs/1.json").await, "RUNNING");
    store.replace(&key("runs/1.json"), "OK".into()).await.unwrap();
    assert_eq!(get(&store, "runs/1.json").await, "OK");
    assert_eq!(store.head(&key("runs/1.json")).await.unwrap().size_bytes, 2);
}

pub async fn a_writer_stores_only_when_it_finishes(store: Store) {
    let mut dropped = store.writer(&key("d/x"), None).await.unwrap();
    dropped.write(noise(1, MIB)).await.unwrap();
    assert_eq!(names(&store, Prefix::root()).await, [""; 0]);
    assert_eq!(store.head(&key("d/x")).await.unwrap_err().fault, Fault::NotFound);
    drop(dropped);
    assert_empty(&store).await;

    let mut aborted = store.writer(&key("d/x"), None).await.unwrap();
    aborted.write(noise(1, MIB)).await.unwrap();
    aborted.abort().await;
    assert_empty(&store).await;

    drop(store.writer(&key("d/x"), None).await.unwrap());
    assert_empty(&store).await;

    let mut finished = store.writer(&key("d/x"), None).await.unwrap();
    finished.write("one ".into()).await.unwrap();
    finished.write(Bytes::new()).await.unwrap();
    finished.write("two".into()).await.unwrap();
    let meta = finished.finish().await.unwrap();
    assert_eq!((meta.key.as_str(), meta.size_bytes), ("d/x", 7));
    assert_eq!(get(&store, "d/x").await, "one two");
    assert_eq!(store.head(&key("d/x")).await.unwrap(), meta);
    assert_eq!(store.sweep_unfinished(&Prefix::root()).await.unwrap(), 0);
}

pub async fn a_finished_writer_does_not_overwrite(store: Store) {
    let mut late = store.writer(&key("x"), None).await.unwrap();
    late.write("late".into()).await.unwrap();
    put(&store, "x", "first").await;
    assert_eq!(late.finish().await.unwrap_err().fault, Fault::Exists);
    assert_eq!(get(&store, "x").await, "first");
    assert_eq!(store.sweep_unfinished(&Prefix::root()).await.unwrap(), 0);
}

/// A future that is dropped takes its chunk with it; the writer must not store an object with a hole.
pub async fn a_dropped_write_breaks_its_writer_or_is_kept(store: Store) {
    let mut writer = store.writer(&key("x"), None).await.unwrap();
    let mut expected = Vec::new();
    let mut broken = false;
    for part in 0..8 {
        let chunk = noise(part, MIB);
        expected.extend_from_slice(&chunk);
        match writer.write(chunk).now_or_never() {
            Some(answer) => broken |= answer.is_err(),
            None => broken = true,
        }
    }
    let answer = writer.finish().await;
    assert_eq!(answer.is_err(), broken, "{answer:?}");
    if broken {
        assert_empty(&store).await;
    } else {
        assert!(get(&store, "x").await == expected);
    }
}

pub async fn ranges_lie_in_the_object_or_are_errors(store: Store) {
    let body = noise(7, 3 * MIB + 17);
    put(&store, "x", body.clone()).await;
    let size = body.len() as u64;
    for range in [0..0, 0..1, 0..size, 5..5, size..size, size - 1..size, 1_000_000..2_200_000] {
        let mut reader = store.read(&key("x"), Some(range.clone())).await.unwrap();
        let mut seen = Vec::new();
        while let Some(chunk) = reader.next().await.unwrap() {
            assert!(!chunk.is_empty());
            seen.extend_from_slice(&chunk);
        }
        assert!(reader.next().await.unwrap().is_none(), "the end stays the end");
        assert!(seen == body[range.start as usize..range.end as usize], "{range:?}");
    }
    #[allow(clippy::reversed_empty_ranges)]
    for range in [0..size + 1, size..size + 1, size + 1..size + 1, 9..3, u64::MAX - 1..u64::MAX] {
        let error = store.read(&key("x"), Some(range.clone())).await.err().unwrap();
        assert_eq!(error.fault, Fault::Other, "{range:?}");
    }
}

pub async fn an_empty_object_is_an_object(store: Store) {
    put(&store, "created", "").await;
    assert_eq!(store.writer(&key("written"), None).await.unwrap().finish().await.unwrap().size_bytes, 0);
    for name in ["created", "written"] {
        assert_eq!(store.head(&key(name)).await.unwrap().size_bytes, 0);
        assert!(store.read(&key(name), None).await.unwrap().next().await.unwrap().is_none());
        assert_eq!(store.create(&key(name), "x".into()).await.unwrap_err().fault, Fault::Exists);
    }
    assert_eq!(names(&store, Prefix::root()).await, ["created", "written"]);
}

pub async fn a_big_object_comes_back_byte_for_byte(store: Store) {
    let mut written = Fingerprinter::new();
    let mut writer = store.writer(&key("big"), None).await.unwrap();
    for part in 0..40 {
        let chunk = noise(part, 300_000 + (part as usize * 7_919_111) % (3 * MIB));
        written.update(&chunk);
        writer.write(chunk).await.unwrap();
    }
    let meta = writer.finish().await.unwrap();
    let mut read = Fingerprinter::new();
    let mut reader = store.read(&key("big"), None).await.unwrap();
    while let Some(chunk) = reader.next().await.unwrap() {
        read.update(&chunk);
    }
    let (written, read) = (written.finish(), read.finish());
    assert!(written.size_bytes > 32 << 20);
    assert_eq!(written, read);
    assert_eq!(meta.size_bytes, written.size_bytes);
}

pub async fn an_open_reader_survives_a_delete_or_fails(store: Store) {
    let body = noise(3, 5 * MIB);
    put(&store, "x", body.clone()).await;
    let mut reader = store.read(&key("x"), None).await.unwrap();
    let mut seen = reader.next().await.unwrap().unwrap().to_vec();
    store.delete(&key("x")).await.unwrap();
    loop {
        match reader.next().await {
            Ok(Some(chunk)) => seen.extend_from_slice(&chunk),
            Ok(None) => break assert!(seen == body, "an early end without an error"),
            Err(_) => break,
        }
    }
}

pub async fn odd_names_are_names(store: Store) {
    let longest = "l".repeat(255);
    let umlauts = format!("{}x", "ü".repeat(127));
    let odd = [
        "ü x+y%20&=~(1)*",
        "-rf/--help",
        ".hidden/..x/...",
        "we ird/..;$(x)\"'`|<>",
        "slash/%2F/ %00/\u{202e}rtl",
        "你好/🐘",
        " leading and trailing ",
        &longest,
        &umlauts,
        "case/A",
        "case/a",
    ];
    for name in odd {
        put(&store, name, name.to_owned()).await;
    }
    let mut expected: Vec<_> = odd.iter().map(|name| (*name).to_owned()).collect();
    expected.sort_unstable();
    assert_eq!(names(&store, Prefix::root()).await, expected);
    for name in odd {
        assert_eq!(get(&store, name).await, name);
        assert_eq!(store.head(&key(name)).await.unwrap().size_bytes, name.len() as u64);
        store.delete(&key(name)).await.unwrap();
    }
    assert_empty(&store).await;
}

pub async fn a_backslash_is_a_character(store: Store) {
    put(&store, "back\\slash", "x").await;
    assert_eq!(names(&store, Prefix::root()).await, ["back\\slash"]);
    assert_eq!(store.head(&key("back/slash")).await.unwrap_err().fault, Fault::NotFound);
}

pub async fn a_listing_is_sorted_and_covers_whole_components(store: Store) {
    // Byte order of whole keys is not the order of a walk: "a-b" and "a.b" come before "a/b", "a0" after it.
    let sorted = ["a-b", "a.b", "a/b", "a/b2", "a/c/d", "a0/b", "ab/c", "b", "ä"];
    for name in ["b", "a/c/d", "a0/b", "ä", "a/b", "a.b", "ab/c", "a-b", "a/b2"] {
        put(&store, name, name.to_owned()).await;
    }
    assert_eq!(names(&store, Prefix::root()).await, sorted);
    assert_eq!(names(&store, Prefix::folder("a").unwrap()).await, ["a/b", "a/b2", "a/c/d"]);
    assert_eq!(names(&store, Prefix::folder("a/c").unwrap()).await, ["a/c/d"]);
    assert_eq!(names(&store, Prefix::folder("a/b").unwrap()).await, [""; 0], "an object is not a folder");
    assert_eq!(names(&store, Prefix::folder("nothing/here").unwrap()).await, [""; 0]);
    let listed: Vec<ObjectMeta> = store.list(&Prefix::folder("a").unwrap()).await.unwrap();
    for object in listed {
        assert_eq!(store.head(&object.key).await.unwrap(), object);
    }
}

pub async fn a_listing_of_more_than_a_thousand_is_complete(store: Store) {
    let expected: Vec<_> = (0..1_100).map(|n| format!("many/{n:05}")).collect();
    for some in expected.chunks(64) {
        join_all(some.iter().map(|name| put(&store, name, "x"))).await;
    }
    assert_eq!(names(&store, Prefix::folder("many").unwrap()).await, expected);
}

pub async fn what_is_missing_is_said_to_be_missing(store: Store) {
    for name in ["nothing", "no/such/folder/x"] {
        assert_eq!(store.head(&key(name)).await.unwrap_err().fault, Fault::NotFound);
        assert_eq!(store.get(&key(name), 10).await.unwrap_err().fault, Fault::NotFound);
        assert_eq!(store.read(&key(name), Some(0..1)).await.err().unwrap().fault, Fault::NotFound);
        store.delete(&key(name)).await.unwrap();
    }
    put(&store, "x", "1").await;
    store.delete(&key("x")).await.unwrap();
    assert_eq!(store.head(&key("x")).await.unwrap_err().fault, Fault::NotFound);
    store.delete(&key("x")).await.unwrap();
    put(&store, "x", "2").await;
    assert_eq!(get(&store, "x").await, "2");
}

pub async fn a_folder_is_not_an_object(store: Store) {
    put(&store, "a/b", "1").await;
    assert_eq!(store.head(&key("a")).await.unwrap_err().fault, Fault::NotFound);
    assert_eq!(store.get(&key("a"), 10).await.unwrap_err().fault, Fault::NotFound);
    assert_eq!(store.head(&key("a/b/c")).await.unwrap_err().fault, Fault::NotFound);
    store.delete(&key("a")).await.unwrap();
    assert_eq!(get(&store, "a/b").await, "1");
}

pub async fn get_refuses_what_is_too_large(store: Store) {
    put(&store, "x", noise(1, 200_000)).await;
    assert_eq!(store.get(&key("x"), 200_000).await.unwrap().len(), 200_000);
    let error = store.get(&key("x"), 199_999).await.unwrap_err();
    assert_eq!(error.fault, Fault::Other);
    assert!(error.to_string().contains("larger than 199999 bytes"), "{error}");
}

pub async fn the_clock_of_the_store_dates_its_objects(store: Store) {
    let before = store.now().await.unwrap();
    put(&store, "x", "1").await;
    let after = store.now().await.unwrap();
    let modified = store.head(&key("x")).await.unwrap().modified;
    assert!(before <= modified && modified <= after, "{before} {modified} {after}");
    assert_eq!(names(&store, Prefix::root()).await, ["x"], "asking for the time leaves nothing");
    assert_eq!(store.sweep_unfinished(&Prefix::root()).await.unwrap(), 0);
}

pub async fn free_space_is_plausible_or_unknown(store: Store) {
    if let Some(free_bytes) = store.free_bytes().await.unwrap() {
        assert!((1 << 20..1 << 60).contains(&free_bytes), "{free_bytes}");
    }
}

pub async fn create_only_is_proved(store: Store) {
    assert_ne!(store.prove_create_only().await.unwrap(), CreateOnly::None);
}

pub async fn a_probe_leaves_nothing(store: Store) {
    store.prove_create_only().await.unwrap();
    assert_empty(&store).await;
}

pub async fn many_are_deleted_at_once(store: Store) {
    let many: Vec<_> = (0..1_050).map(|n| format!("many/{n:05}")).collect();
    for some in many.chunks(64) {
        join_all(some.iter().map(|name| put(&store, name, "x"))).await;
    }
    put(&store, "other/x", "stays").await;
    let mut keys: Vec<Key> = many.iter().map(|name| key(name)).collect();
    keys.push(key("many/that-never-was"));
    store.delete_all(&keys).await.unwrap();
    store.delete_all(&keys[..2]).await.unwrap();
    store.delete_all(&[]).await.unwrap();
    assert_eq!(names(&store, Prefix::root()).await, ["other/x"]);
}

/// More may come than was expected, and less.
pub async fn what_is_expected_is_no_promise(store: Store) {
    let body = noise(5, 2 * MIB);
    for (name, expected_bytes) in [("none", 0), ("less", 10), ("more", 1 << 20), ("far-more", 100 << 30)] {
        let mut writer = store.writer(&key(name), Some(expected_bytes)).await.unwrap();
        writer.write(body.clone()).await.unwrap();
        assert_eq!(writer.finish().await.unwrap().size_bytes, body.len() as u64);
        assert!(get(&store, name).await == body, "{name}");
    }
}

pub async fn a_sweep_leaves_live_writers_alone(store: Store) {
    let mut writer = store.writer(&key("main/x"), None).await.unwrap();
    writer.write(noise(1, MIB)).await.unwrap();
    for prefix in [Prefix::root(), Prefix::folder("main").unwrap(), Prefix::folder("nothing").unwrap()] {
        assert_eq!(store.sweep_unfinished(&prefix).await.unwrap(), 0);
    }
    writer.write("end".into()).await.unwrap();
    assert_eq!(writer.finish().await.unwrap().size_bytes, MIB as u64 + 3);
}
