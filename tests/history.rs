//! Every format that was ever written stays readable. The fixtures of a format are never changed, only added to.

use std::path::Path;

use pgkeep::pg::archive::ArchiveCompression;
use pgkeep::repo::{
    Compression, DumpDetails, DumpManifest, GlobalsIncluded, IntentDocument, Marker, ObjectRole, Proof, RunRecord,
    RunStatus, SystemIdentifier, Verb, Verdict,
};
use serde::de::DeserializeOwned;

const STEM: &str = "sh%20op_20250131T020304Z_db1";

fn fixture(name: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/format-1").join(name);
    std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn json<T: DeserializeOwned>(name: &str) -> T {
    serde_json::from_slice(&fixture(name)).unwrap()
}

#[test]
fn a_manifest_of_format_1() {
    let body = fixture(&format!("{STEM}.manifest.json"));
    let manifest = DumpManifest::from_json(&body, &"main".parse().unwrap(), &STEM.parse().unwrap()).unwrap();
    assert_eq!(manifest.database, "sh op");
    assert_eq!(manifest.system_identifier, Some(SystemIdentifier(7_412_345_678_901_234_567)));
    assert_eq!(manifest.server.number, 150_008);
    assert_eq!(manifest.globals.included, GlobalsIncluded::WithoutPasswords);
    assert_eq!(manifest.object(ObjectRole::Globals).unwrap().size_bytes, 512);
    assert_eq!(manifest.stored_bytes(), 1024 + 104 + 512 + 256);
    assert_eq!((manifest.counts.tables, manifest.counts.warnings), (92, 1));
    assert!(manifest.checks.read_back && !manifest.filtered);

    // What we write of it today is what was written then, but for the key that we do not know.
    let mut then: serde_json::Value = serde_json::from_slice(&body).unwrap();
    then.as_object_mut().unwrap().remove("aKeyOfALaterVersion").unwrap();
    then.as_object_mut().unwrap().remove("seal").unwrap();
    then["startedAt"] = "2025-01-31T02:03:04.250Z".into();
    then["finishedAt"] = "2025-01-31T02:04:34.750Z".into();
    let mut now: serde_json::Value = serde_json::from_slice(&manifest.to_json().unwrap()).unwrap();
    now.as_object_mut().unwrap().remove("seal").unwrap();
    assert_eq!(now, then);
}

/// An archive that `pg_dump` compressed, in parts.
#[test]
fn a_manifest_of_parts_of_format_1() {
    let body = fixture("parts.manifest.json");
    let manifest = DumpManifest::from_json(&body, &"main".parse().unwrap(), &STEM.parse().unwrap()).unwrap();
    assert_eq!(manifest.compression, Compression::by_pg_dump(ArchiveCompression::Gzip, Some(9)));
    let parts: Vec<String> = manifest.archive().map(|object| object.name.to_string()).collect();
    assert_eq!(parts, [format!("{STEM}.dump.part0001"), format!("{STEM}.dump.part0002")]);
    let then: serde_json::Value = serde_json::from_slice(&body).unwrap();
    let now: serde_json::Value = serde_json::from_slice(&manifest.to_json().unwrap()).unwrap();
    assert_eq!((&now["objects"], &now["compression"]), (&then["objects"], &then["compression"]));
}

#[test]
fn details_of_format_1() {
    let stored = zstd::encode_all(&fixture("details.json")[..], 1).unwrap();
    let details = DumpDetails::from_stored(&stored, "details.json").unwrap();
    assert_eq!(details.description.database.collation_actual_version.as_deref(), Some("153.121"));
    assert_eq!(details.description.settings[1].role.as_deref(), Some("shop"));
    assert_eq!(details.description.relations[0].kind, "table");
    let then: serde_json::Value = json("details.json");
    assert_eq!(serde_json::to_value(&details).unwrap(), then);
}

#[test]
fn the_marker_intent_run_and_proof_of_format_1() {
    let marker: Marker = json("pgkeep.json");
    assert_eq!(marker.repository_id.as_str(), "0123456789abcdef0123456789abcdef");
    let intent: IntentDocument = json("intent.json");
    assert_eq!((intent.id.as_str(), intent.verb), (STEM, Verb::Dump));
    let run: RunRecord = json("20250131T020304Z-dump-1a2b3c4d.json");
    assert_eq!((run.status, run.items[1].status), (RunStatus::Partial, RunStatus::Failed));
    let proof: Proof = json("20250131T030000Z-L2-failed.json");
    assert_eq!(proof.verdict, Verdict::Failed);
}
