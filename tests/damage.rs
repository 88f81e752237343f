//! Every object of a dump, damaged in every way: nothing that changes a stored byte passes a verification, no reader
//! of a restore takes it, and the backup beside it is not affected.

mod common;

use std::fs;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::pgkeep::tree;
use common::stored::{copy_tree, object, on_repository, shop_ids};
use common::{Stored, Workspace, count};
use pgkeep::error::Kind;
use pgkeep::progress::Silent;
use pgkeep::repo::archive::read_archive;
use pgkeep::repo::{Catalogue, Repository, StateDirectory};
use pgkeep::storage::{LocalStorage, Missing};
use serde_json::Value;

const DATA: [&str; 4] = [".dump.zst", ".dump.zst.sha256", "_globals.sql.zst", ".details.json.zst"];
const MANIFEST: &str = ".manifest.json";

/// A generator whose numbers are the same in every run.
struct Seeded(u64);

impl Seeded {
    fn below(&mut self, limit: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((z ^ (z >> 31)) % limit as u64).unwrap()
    }
}

#[derive(Clone, Copy, Debug)]
enum Damage {
    Delete,
    CutOne,
    CutHalf,
    Empty,
    Append,
    FlipBit {
        at: usize,
        bit: u8,
    },
    /// Both backups have the other's object.
    Swap,
    /// The object of the older backup, in place of the newer one's.
    Older,
}

/// Every damage once, and bits flipped at the edges and at seeded places.
fn damages(size: usize, seed: u64) -> Vec<Damage> {
    let mut random = Seeded(seed);
    let mut flips = vec![0, size / 2, size - 1];
    flips.extend((0..count(4, 150)).map(|_| random.below(size)));
    let flips = flips.into_iter().enumerate().map(|(n, at)| Damage::FlipBit { at, bit: u8::try_from(n % 8).unwrap() });
    let mut all: Vec<Damage> = flips.collect();
    use Damage::{Append, CutHalf, CutOne, Delete, Empty, Older, Swap};
    all.extend([Delete, CutOne, CutHalf, Empty, Append, Swap, Older]);
    all
}

/// Does the damage; false where it changes nothing, because both backups have the same bytes.
fn inflict(damage: Damage, victim: &Path, older: &Path) -> bool {
    let before = fs::read(victim).unwrap();
    let mut after = before.clone();
    match damage {
        Damage::Delete => {
            fs::remove_file(victim).unwrap();
            return true;
        }
        Damage::CutOne => after.truncate(before.len() - 1),
        Damage::CutHalf => after.truncate(before.len() / 2),
        Damage::Empty => after.clear(),
        Damage::Append => after.push(b'x'),
        Damage::FlipBit { at, bit } => after[at] ^= 1 << bit,
        Damage::Older => after = fs::read(older).unwrap(),
        Damage::Swap => {
            after = fs::read(older).unwrap();
            fs::write(older, &before).unwrap();
        }
    }
    fs::write(victim, &after).unwrap();
    after != before
}

/// A repository that is damaged and mended again.
struct Patient {
    workspace: Workspace,
    /// Of `shop`: the one that is damaged, and the one before it.
    newer: String,
    older: String,
}

impl Patient {
    fn new() -> Self {
        let workspace = Stored::get().copy();
        let [older, newer] = shop_ids(&workspace).try_into().unwrap();
        Self { workspace, newer, older }
    }

    fn object(&self, id: &str, ending: &str) -> PathBuf {
        object(&self.workspace, id, ending)
    }

    /// Runs `look` on the repository with one object damaged, then mends it.
    fn with(&self, ending: &str, damage: Damage, look: impl FnOnce(&Self)) {
        let (victim, other) = (self.object(&self.newer, ending), self.object(&self.older, ending));
        let (newer_bytes, older_bytes) = (fs::read(&victim).unwrap(), fs::read(&other).unwrap());
        if inflict(damage, &victim, &other) {
            look(self);
        }
        fs::write(victim, newer_bytes).unwrap();
        fs::write(other, older_bytes).unwrap();
        // What a verification found is no part of the next one.
        let _ = fs::remove_dir_all(self.workspace.repository().join("main/proofs"));
    }

    fn verify(&self, arguments: &[&str]) -> (Option<i32>, Value) {
        let outcome = on_repository(&self.workspace, &[&["verify", "--json"], arguments].concat());
        assert!(!outcome.stderr.contains("panicked"), "{}", outcome.transcript());
        (outcome.exit_code, outcome.json())
    }
}

fn status<'a>(document: &'a Value, id: &str) -> Option<&'a str> {
    let items = document["items"].as_array().unwrap();
    items.iter().find(|item| item["id"] == id)?["status"].as_str()
}

/// What the reader of a restore says of the archive.
async fn restores(workspace: &Workspace, id: &str) -> Result<(), Kind> {
    let state = StateDirectory::open(workspace.path("reader-state")).unwrap();
    let storage = LocalStorage::open(workspace.repository(), Missing::Refuse).await.unwrap();
    let repository = Repository::open(Arc::new(storage), &state).await.unwrap();
    let catalogue = Catalogue::read(&repository, None).await.unwrap();
    let backup = catalogue.backups().find(|backup| backup.id().as_str() == id).unwrap();
    let threads = NonZeroUsize::new(2).unwrap();
    let output = std::io::sink();
    let read = read_archive(&repository, &backup.stem, &backup.manifest, output, threads, Arc::new(Silent)).await;
    read.map(drop).map_err(|error| error.kind)
}

#[test]
fn every_changed_byte_of_every_object_is_found_and_the_other_backup_stays_good() {
    let patient = Patient::new();
    for (seed, ending) in DATA.into_iter().enumerate() {
        let size = fs::read(patient.object(&patient.newer, ending)).unwrap().len();
        for damage in damages(size, seed as u64) {
            patient.with(ending, damage, |patient| {
                let swapped = matches!(damage, Damage::Swap);
                for depth in [&["--all", "-d", "shop"][..], &["--all", "-d", "shop", "--deep"]] {
                    let (code, document) = patient.verify(depth);
                    let told = || format!("{ending} {damage:?} {depth:?}: {document:#}");
                    assert_eq!(code, Some(if swapped { 6 } else { 10 }), "{}", told());
                    assert_eq!(status(&document, &patient.newer), Some("failed"), "{}", told());
                    let older = if swapped { "failed" } else { "ok" };
                    assert_eq!(status(&document, &patient.older), Some(older), "{}", told());
                    // The finding names the object, and no other.
                    let damaged = document["items"].as_array().unwrap().iter().find(|i| i["id"] == patient.newer);
                    let findings = damaged.unwrap()["findings"].as_array().unwrap();
                    assert_eq!(findings.len(), 1, "{}", told());
                    assert_eq!(findings[0]["object"], format!("{}{ending}", patient.newer), "{}", told());
                }
            });
        }
    }
    assert_eq!(patient.verify(&["--all", "--deep"]).0, Some(0), "the repository was mended");
}

#[tokio::test]
async fn the_reader_of_a_restore_refuses_every_damaged_archive() {
    let patient = Patient::new();
    let ending = DATA[0];
    let size = fs::read(patient.object(&patient.newer, ending)).unwrap().len();
    for damage in damages(size, 99) {
        let workspace = Workspace::new();
        copy_tree(&patient.workspace.repository(), &workspace.repository());
        let (victim, other) = (object(&workspace, &patient.newer, ending), object(&workspace, &patient.older, ending));
        assert!(inflict(damage, &victim, &other), "{damage:?}");
        let expected = if matches!(damage, Damage::Delete) { Kind::Storage } else { Kind::Verification };
        assert_eq!(restores(&workspace, &patient.newer).await, Err(expected), "{damage:?}");
        if !matches!(damage, Damage::Swap) {
            assert_eq!(restores(&workspace, &patient.older).await, Ok(()), "{damage:?}");
        }
    }
}

#[test]
fn a_damaged_manifest_is_shown_and_latest_falls_back_and_says_so() {
    let patient = Patient::new();
    for damage in [Damage::CutHalf, Damage::Empty, Damage::Append, Damage::Older] {
        patient.with(MANIFEST, damage, |patient| {
            let listed = on_repository(&patient.workspace, &["report", "list", "-d", "shop", "--json"]).succeeds();
            let listed = listed.json();
            assert_eq!(listed["items"].as_array().unwrap().len(), 2, "{damage:?}: never left out");
            assert_eq!(listed["items"][0]["id"], patient.newer, "{damage:?}");
            assert_eq!(listed["items"][0]["state"], "unreadable", "{damage:?}");
            assert!(listed["items"][0]["reason"].as_str().unwrap().contains(MANIFEST), "{listed:#}");
            assert_eq!(listed["items"][1]["state"], "good", "{damage:?}");

            let latest = on_repository(&patient.workspace, &["report", "latest", "-d", "shop", "--json"]).succeeds();
            let latest = latest.json();
            assert_eq!(latest["items"][0]["id"], patient.older, "{damage:?}");
            assert_eq!(latest["items"][0]["passedOver"][0]["id"], patient.newer, "{damage:?}");
            assert!(latest["warnings"][0].as_str().unwrap().contains(&patient.newer), "{damage:?}");

            let (code, document) = patient.verify(&["--all", "-d", "shop"]);
            assert_eq!((code, status(&document, &patient.newer)), (Some(10), Some("failed")), "{damage:?}");
            let (code, document) = patient.verify(&[&patient.newer]);
            assert_eq!((code, status(&document, &patient.newer)), (Some(6), Some("failed")), "{damage:?}");
            on_repository(&patient.workspace, &["report", "show", &patient.newer]).exits(6);

            let report = on_repository(&patient.workspace, &["report", "--json"]).exits(13).json();
            let findings = report["items"][0]["findings"].to_string();
            assert!(findings.contains("manifest-unreadable") && findings.contains(&patient.newer), "{findings}");
        });
    }
    patient.with(MANIFEST, Damage::Swap, |patient| {
        let (code, document) = patient.verify(&["--all", "-d", "shop"]);
        assert_eq!(code, Some(6), "{document:#}");
        patient
            .workspace
            .pgkeep(["verify", "latest", "-d", "shop", "--repo"])
            .arg(patient.workspace.repository())
            .run()
            .exits(8);
    });
    // Without its manifest it is no backup.
    patient.with(MANIFEST, Damage::Delete, |patient| {
        assert_eq!(patient.verify(&[&patient.newer]).0, Some(8));
        assert_eq!(patient.verify(&["latest", "-d", "shop"]).0, Some(0));
    });
}

/// A manifest has no digest of its own: a flipped bit may spell another host name. What it says of the objects is
/// checked, and whatever was flipped, the backup stays listed and its neighbour good.
#[test]
fn a_flipped_bit_in_a_manifest_hides_nothing() {
    let patient = Patient::new();
    let manifest = fs::read(patient.object(&patient.newer, MANIFEST)).unwrap();
    let mut random = Seeded(7);
    for _ in 0..count(40, 1500) {
        let damage = Damage::FlipBit { at: random.below(manifest.len()), bit: u8::try_from(random.below(8)).unwrap() };
        patient.with(MANIFEST, damage, |patient| {
            let (code, document) = patient.verify(&["--all"]);
            assert!(matches!(code, Some(0 | 10)), "{damage:?} {code:?}: {document:#}");
            assert!(status(&document, &patient.newer).is_some(), "{damage:?}: {document:#}");
            assert_eq!(status(&document, &patient.older), Some("ok"), "{damage:?}: {document:#}");
        });
    }
    // Every digit that tells what an object is.
    let text = String::from_utf8(manifest).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    for object in document["objects"].as_array().unwrap() {
        let at = text.find(object["sha256"].as_str().unwrap()).unwrap() + random.below(64);
        patient.with(MANIFEST, Damage::FlipBit { at, bit: 0 }, |patient| {
            let (code, document) = patient.verify(&["--all", "-d", "shop"]);
            assert_eq!((code, status(&document, &patient.newer)), (Some(10), Some("failed")), "{object} {document:#}");
        });
    }
}

#[test]
fn a_verification_changes_nothing_but_proofs_and_records() {
    let patient = Patient::new();
    fs::write(patient.object(&patient.newer, DATA[0]), "short").unwrap();
    let others = |patient: &Patient| {
        let names = tree(&patient.workspace.repository()).into_iter();
        let names = names.filter(|name| !name.starts_with("main/proofs/") && !name.starts_with("main/runs/"));
        let body = |name: &String| fs::read(patient.workspace.repository().join(name)).unwrap_or_default();
        names.map(|name| (body(&name), name)).collect::<Vec<_>>()
    };
    let before = others(&patient);
    assert_eq!(patient.verify(&["--all", "--deep"]).0, Some(10));
    assert_eq!(others(&patient), before);
}
