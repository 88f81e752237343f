//! The manifest of a dump: the small object whose presence is the backup.
//!
//! It stays readable where data are encrypted, so it holds sizes, hashes, times and versions, never the name of a
//! user's table or role; those are in [`super::details`].

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::archive::object_key;
use super::document::{self, FORMAT};
use super::layout::{BackupId, DumpStem, ObjectRole};
use super::name::{InstanceName, SystemIdentifier};
use super::repository::Repository;
use crate::digest::{Fingerprint, Sha256};
use crate::error::{Error, Kind, Result};

/// `<stem>.manifest.json`, format 1. Keys that a newer version adds are let pass.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpManifest {
    pub format: u32,
    pub kind: BackupKind,
    pub id: BackupId,
    pub instance: InstanceName,
    /// The full name, as the server has it.
    pub database: String,
    /// Unknown where the role may not read it.
    pub system_identifier: Option<SystemIdentifier>,
    pub server: ServerVersion,
    pub source: Source,
    /// Where `pgkeep dump` ran.
    pub backup_host: String,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    /// By a clock that does not jump.
    pub duration_seconds: f64,
    pub client: Client,
    /// As the head of the archive has it ("1.14").
    pub archive_version: String,
    pub compression: Compression,
    /// The archive as `pg_dump` wrote it, before compression.
    pub plain: Fingerprint,
    pub objects: Vec<StoredObject>,
    pub globals: Globals,
    pub checks: Checks,
    /// Made with a choice of schemas, tables or sections: not a backup of the database.
    pub filtered: bool,
    pub counts: Counts,
    /// `pg_database_size` at the start.
    pub database_size_bytes: Option<u64>,
    pub pgkeep_version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    Dump,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ServerVersion {
    /// `server_version_num`: 150008.
    pub number: u32,
    /// `server_version`: "15.8 (Debian 15.8-0+deb12u1)".
    pub text: String,
}

/// What was asked for, not what answered: a host name, a tunnel's end, a socket directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Source {
    pub host: String,
    pub port: u16,
}

/// The `pg_dump` that was run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Client {
    pub program: String,
    pub version: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    /// "zstd".
    pub method: String,
    pub level: i32,
}

/// An object of the backup other than the manifest itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredObject {
    pub role: ObjectRole,
    /// Beside the manifest, without a folder.
    pub name: String,
    pub size_bytes: u64,
    pub sha256: Sha256,
}

impl StoredObject {
    pub fn new(stem: &DumpStem, role: ObjectRole, stored: Fingerprint) -> Self {
        Self { role, name: stem.file_name(role), size_bytes: stored.size_bytes, sha256: stored.sha256 }
    }

    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint { size_bytes: self.size_bytes, sha256: self.sha256 }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Globals {
    pub included: GlobalsIncluded,
    /// Why not, or why without passwords.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GlobalsIncluded {
    WithPasswords,
    WithoutPasswords,
    NotIncluded,
}

/// What was checked before the manifest was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Checks {
    /// Each compressed block was decoded again and compared.
    pub decoded: bool,
    /// The stored archive was read and decoded to its end.
    pub read_back: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    pub tables: u64,
    /// The planner's estimate, summed.
    pub rows_estimate: u64,
    pub large_objects: u64,
    /// Lines that `pg_dump` wrote to stderr.
    pub warnings: u64,
}

impl DumpManifest {
    pub fn to_json(&self) -> Result<Bytes> {
        document::to_sealed_json(self)
    }

    /// Reads the manifest of `stem`, which has to be about that dump and about nothing but its own objects.
    pub fn from_json(body: &[u8], instance: &InstanceName, stem: &DumpStem) -> Result<Self> {
        let name = stem.file_name(ObjectRole::Manifest);
        let manifest: Self = document::from_sealed_json(body, &name)?;
        match manifest.stranger(instance, stem) {
            None => Ok(manifest),
            Some(what) => Err(Error::new(Kind::Verification, format!("read {name}"))
                .because(what)
                .hint("the object was swapped or changed; use another backup")),
        }
    }

    /// Reads the manifest of `stem` in a repository, with its bytes as they are.
    pub async fn fetch(repository: &Repository, instance: &InstanceName, stem: &DumpStem) -> Result<(Bytes, Self)> {
        let key = object_key(instance, stem, ObjectRole::Manifest);
        let body = repository.storage().get(&key, document::LIMIT_BYTES).await?;
        let manifest = Self::from_json(&body, instance, stem)?;
        Ok((body, manifest))
    }

    /// What in it does not belong to this dump.
    fn stranger(&self, instance: &InstanceName, stem: &DumpStem) -> Option<String> {
        if self.id.as_str() != stem.to_string() || &self.instance != instance {
            return Some(format!("it is the manifest of {} in instance {}", self.id, self.instance));
        }
        if !stem.is_of_database(&self.database) {
            return Some(format!("it names database {:?}", self.database));
        }
        if let Some(object) = self.objects.iter().find(|object| object.name != stem.file_name(object.role)) {
            return Some(format!("it names object {:?}", object.name));
        }
        let archives = self.objects.iter().filter(|object| object.role == ObjectRole::Archive).count();
        (archives != 1).then(|| format!("it names {archives} archives"))
    }

    pub fn object(&self, role: ObjectRole) -> Option<&StoredObject> {
        self.objects.iter().find(|object| object.role == role)
    }

    /// Bytes of all its objects in the store.
    pub fn stored_bytes(&self) -> u64 {
        // What a manifest says was not checked by adding it up: one that was tampered with must not end a whole report.
        self.objects.iter().fold(0, |sum, object| sum.saturating_add(object.size_bytes))
    }

    /// The format that this version writes.
    pub const FORMAT: u32 = FORMAT;
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::repo::Stamp;

    pub fn sample(instance: &InstanceName, database: &str, started_at: DateTime<Utc>) -> DumpManifest {
        let stem = DumpStem::new(database, Stamp::of(started_at), "db1");
        let object = |role| StoredObject::new(&stem, role, Fingerprint::of(b"x"));
        DumpManifest {
            format: FORMAT,
            kind: BackupKind::Dump,
            id: (&stem).into(),
            instance: instance.clone(),
            database: database.to_owned(),
            system_identifier: Some(SystemIdentifier(7_412_345_678_901_234_567)),
            server: ServerVersion { number: 150_008, text: "15.8".to_owned() },
            source: Source { host: "/run/postgresql".to_owned(), port: 5432 },
            backup_host: "db1".to_owned(),
            started_at,
            finished_at: started_at + chrono::TimeDelta::seconds(90),
            duration_seconds: 90.5,
            client: Client { program: "/usr/lib/postgresql/15/bin/pg_dump".to_owned(), version: "15.8".to_owned() },
            archive_version: "1.14".to_owned(),
            compression: Compression { method: "zstd".to_owned(), level: 3 },
            plain: Fingerprint::of(b"plain"),
            objects: vec![object(ObjectRole::Archive), object(ObjectRole::Checksum), object(ObjectRole::Details)],
            globals: Globals {
                included: GlobalsIncluded::NotIncluded,
                reason: Some("permission denied for table pg_authid".to_owned()),
            },
            checks: Checks { decoded: true, read_back: false },
            filtered: false,
            counts: Counts { tables: 92, rows_estimate: 1000, large_objects: 0, warnings: 0 },
            database_size_bytes: Some(8_000_000),
            pgkeep_version: "0.1.0".to_owned(),
        }
    }

    fn read(manifest: &DumpManifest, stem: &str) -> Result<DumpManifest> {
        DumpManifest::from_json(&manifest.to_json()?, &"main".parse()?, &stem.parse()?)
    }

    #[test]
    fn a_manifest_survives_json_and_belongs_to_its_key() {
        let main: InstanceName = "main".parse().unwrap();
        let manifest = sample(&main, "shop \"x\"", "2025-01-31T02:03:04.000005Z".parse().unwrap());
        let stem = "shop%20%22x%22_20250131T020304Z_db1";
        assert_eq!(read(&manifest, stem).unwrap(), manifest);

        let mut foreign = manifest.clone();
        foreign.objects[1].name = "../../etc/passwd".to_owned();
        let swapped = [
            (manifest.clone(), "shop_20250131T020304Z_db1"),
            (DumpManifest { instance: "other".parse().unwrap(), ..manifest.clone() }, stem),
            (DumpManifest { database: "shop".to_owned(), ..manifest.clone() }, stem),
            (DumpManifest { objects: Vec::new(), ..manifest.clone() }, stem),
            (foreign, stem),
        ];
        for (manifest, stem) in swapped {
            assert_eq!(read(&manifest, stem).unwrap_err().kind, Kind::Verification, "{manifest:?}");
        }
    }

    #[test]
    fn sizes_that_no_store_can_hold_are_added_up_without_a_panic() {
        let mut manifest = sample(&"main".parse().unwrap(), "shop", "2025-01-31T02:03:04Z".parse().unwrap());
        manifest.objects.iter_mut().for_each(|object| object.size_bytes = u64::MAX);
        assert_eq!(manifest.stored_bytes(), u64::MAX);
    }

    #[test]
    fn numbers_that_javascript_would_round_are_text() {
        let manifest = sample(&"main".parse().unwrap(), "shop", "2025-01-31T02:03:04Z".parse().unwrap());
        let json: serde_json::Value = serde_json::from_slice(&manifest.to_json().unwrap()).unwrap();
        assert_eq!(json["systemIdentifier"], "7412345678901234567");
        assert_eq!(json["kind"], "dump");
        assert_eq!(json["startedAt"], "2025-01-31T02:03:04Z");
        assert_eq!(json["globals"]["included"], "not_included");
        assert_eq!(json["objects"][0]["role"], "archive");
    }

    #[test]
    fn a_flipped_bit_anywhere_is_seen() {
        let main: InstanceName = "main".parse().unwrap();
        let manifest = sample(&main, "shop", "2025-01-31T02:03:04Z".parse().unwrap());
        let stem = "shop_20250131T020304Z_db1".parse().unwrap();
        let body = manifest.to_json().unwrap();
        for at in 0..body.len() {
            for bit in [0, 3, 5] {
                let mut flipped = body.to_vec();
                flipped[at] ^= 1 << bit;
                assert!(DumpManifest::from_json(&flipped, &main, &stem).is_err(), "byte {at} bit {bit}");
            }
        }
        let unsealed = document::to_json(&manifest).unwrap();
        let error = DumpManifest::from_json(&unsealed, &main, &stem).unwrap_err();
        assert!(error.to_string().ends_with("it has no seal"), "{error}");
    }
}
