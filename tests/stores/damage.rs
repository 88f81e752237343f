//! Damage in a bucket: every kind of object of a dump is changed, cut, removed, or exchanged for another dump's. A
//! verification names it, a restore refuses it, or reads another repository.

use std::fs;

use serde_json::Value;

use crate::common::Outcome;
use crate::world::{Place, World};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Damage {
    Flip,
    Cut,
    Remove,
    Exchange,
}

const DAMAGES: [Damage; 4] = [Damage::Flip, Damage::Cut, Damage::Remove, Damage::Exchange];

/// Two dumps in a bucket, and the same in a directory.
struct Patient {
    world: World,
    bucket: Place,
    folder: Place,
    older: String,
    newer: String,
}

impl Patient {
    fn new(world: World, more: &[&str]) -> Self {
        let (bucket, folder) = (Place::s3(), Place::folder(&world, "repository"));
        let dump = || {
            let document = world.dump(&[&bucket.address(), &folder.address()], &[more, &["--json"]].concat());
            document.run().succeeds().json()["items"][0]["id"].as_str().unwrap().to_owned()
        };
        let older = dump();
        // Every object of the second one differs, that of the roles, too.
        world.sql(&format!("UPDATE noise SET n = n + 1; CREATE ROLE of_{}", world.database));
        let newer = dump();
        world.sql(&format!("DROP ROLE of_{}", world.database));
        Self { world, bucket, folder, older, newer }
    }

    fn run(&self, words: &[&str], places: &[&Place]) -> Outcome {
        let addresses: Vec<String> = places.iter().map(|place| place.address()).collect();
        let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
        self.world.pgkeep(words, &addresses).run()
    }

    /// The objects of a dump by the ends of their names.
    fn endings(&self) -> Vec<String> {
        let prefix = format!("main/dumps/{}", self.newer);
        self.bucket.keys().iter().filter_map(|key| Some(key.strip_prefix(&prefix)?.to_owned())).collect()
    }

    /// Runs `look` while one object in the bucket is damaged.
    fn with(&self, ending: &str, damage: Damage, look: impl FnOnce(&str)) {
        let key = |id: &str| format!("main/dumps/{id}{ending}");
        let (whole, other) = (self.bucket.get(&key(&self.newer)), self.bucket.get(&key(&self.older)));
        let victim = format!("backups/{}", key(&self.newer));
        match damage {
            Damage::Flip => {
                let mut changed = whole.clone();
                changed[whole.len() / 2] ^= 1;
                self.bucket.bucket().put(&victim, changed);
            }
            Damage::Cut => self.bucket.bucket().put(&victim, whole[..whole.len() - 1].to_vec()),
            Damage::Remove => self.bucket.bucket().delete(&victim),
            Damage::Exchange => {
                assert_ne!(whole, other, "{ending}");
                self.bucket.bucket().put(&victim, other);
            }
        }
        look(&format!("{}{ending}", self.newer));
        self.bucket.bucket().put(&victim, whole);
        // What a verification found is no part of the next one.
        for key in self.bucket.bucket().keys().iter().filter(|key| key.contains("/proofs/")) {
            self.bucket.bucket().delete(key);
        }
    }

    fn to_file(&self, places: &[&Place], id: &str) -> (Outcome, Option<Vec<u8>>) {
        let file = self.world.workspace.path("restored.dump");
        let words = ["restore", "dump", id, "--json", "--to-file", file.to_str().unwrap()];
        let outcome = self.run(&words, places);
        let bytes = fs::read(&file).ok();
        let _ = fs::remove_file(file);
        (outcome, bytes)
    }

    fn findings(outcome: &Outcome) -> Vec<(String, String)> {
        let document = outcome.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let findings = document["items"][0]["findings"].as_array().unwrap().iter();
        findings.map(|finding| (text(&finding["id"]), text(&finding["object"]))).collect()
    }

    /// Verified, restored alone, and restored with another repository beside it.
    fn is_judged(&self, ending: &str, damage: Damage, whole: &[u8]) {
        let is_archive = ending.contains(".dump.zst") && !ending.ends_with(".sha256");
        self.with(ending, damage, |name| {
            let outcome = self.run(&["verify", &self.newer, "--json"], &[&self.bucket]).exits(6);
            let found = Self::findings(&outcome);
            assert_eq!(found.len(), 1, "{name} {damage:?}: {}", outcome.transcript());
            assert_eq!(found[0].1, name, "{damage:?}: {}", outcome.transcript());
            let expected = match damage {
                Damage::Remove => "object-missing",
                Damage::Cut => "object-size",
                Damage::Flip => "object-hash",
                Damage::Exchange => &found[0].0,
            };
            assert_eq!(found[0].0, expected, "{name} {damage:?}");

            // An archive needs nothing but itself to be restored to a file.
            if is_archive {
                let (outcome, bytes) = self.to_file(&[&self.bucket], &self.newer);
                assert!(matches!(outcome.exit_code, Some(5 | 6)), "{name} {damage:?}: {}", outcome.transcript());
                assert!(bytes.is_none(), "{name} {damage:?} was restored");
                assert!(outcome.stdout.contains(name), "{name} {damage:?}: {}", outcome.transcript());
            }
            let (outcome, bytes) = self.to_file(&[&self.bucket, &self.folder], &self.newer);
            let outcome = outcome.succeeds();
            assert!(bytes.is_some_and(|bytes| bytes == whole), "{name} {damage:?}: {}", outcome.transcript());
        });
    }
}

#[test]
fn every_object_of_a_dump() {
    let patient = Patient::new(World::small(), &[]);
    let (outcome, whole) = patient.to_file(&[&patient.bucket], &patient.newer);
    let whole = whole.unwrap_or_else(|| panic!("{}", outcome.transcript()));
    let endings = patient.endings();
    assert_eq!(endings.len(), 5, "{endings:?}");
    for ending in endings.iter().filter(|ending| *ending != ".manifest.json") {
        for damage in DAMAGES {
            patient.is_judged(ending, damage, &whole);
        }
    }
    patient.run(&["verify", "--all", "--deep"], &[&patient.bucket]).succeeds();
}

#[test]
fn a_part_of_a_split_dump() {
    let patient = Patient::new(World::large(), &["--split", "5M", "--check", "decode"]);
    let (outcome, whole) = patient.to_file(&[&patient.bucket], &patient.newer);
    let whole = whole.unwrap_or_else(|| panic!("{}", outcome.transcript()));
    let parts: Vec<String> = patient.endings().into_iter().filter(|ending| ending.contains("part")).collect();
    assert!(parts.len() >= 3, "{:?}", patient.endings());
    for (at, damage) in DAMAGES.into_iter().enumerate() {
        patient.is_judged(&parts[at % parts.len()], damage, &whole);
    }
}

#[test]
fn a_manifest() {
    let patient = Patient::new(World::small(), &[]);
    let both = [&patient.bucket, &patient.folder];
    let (_, whole) = patient.to_file(&[&patient.folder], &patient.newer);
    for damage in DAMAGES {
        patient.with(".manifest.json", damage, |_| {
            if damage == Damage::Remove {
                patient.run(&["verify", &patient.newer], &[&patient.bucket]).exits(8);
                assert_eq!(patient.to_file(&[&patient.bucket], &patient.newer).0.exit_code, Some(8));
            } else {
                let outcome = patient.run(&["verify", &patient.newer, "--json"], &[&patient.bucket]).exits(6);
                assert_eq!(Patient::findings(&outcome)[0].0, "manifest-unreadable", "{}", outcome.transcript());
                let (outcome, bytes) = patient.to_file(&[&patient.bucket], &patient.newer);
                assert_ne!(outcome.exit_code, Some(0), "{damage:?}: {}", outcome.transcript());
                assert!(bytes.is_none(), "{damage:?}");
            }
            let (outcome, bytes) = patient.to_file(&both, &patient.newer);
            assert_eq!((outcome.exit_code, bytes.is_some()), (Some(0), true), "{damage:?}: {}", outcome.transcript());
            assert_eq!(bytes, whole, "{damage:?}");
        });
    }
}
