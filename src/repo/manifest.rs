//! The manifest of a dump: the small object whose presence is the backup.
//!
//! It stays readable where data are encrypted, so it holds sizes, hashes, times and versions, never the name of a
//! user's table or role; those are in [`super::details`].

use std::collections::BTreeSet;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use super::document::{self, FORMAT};
use super::filter::FilterDigest;
use super::keep::Keep;
use super::layout::{BackupId, Coding, DumpStem, Ending, Form, ObjectName, ObjectRole, Packing, PartNumber};
use super::name::{InstanceName, SystemIdentifier};
use super::repository::Repository;
use crate::digest::{Fingerprint, Sha256};
use crate::error::{Error, Kind, Result};
use crate::pg::archive::{ArchiveCompression, Member};
use crate::storage::Key;

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
    #[serde(default, skip_serializing_if = "ArchiveFormat::is_custom")]
    pub archive_format: ArchiveFormat,
    /// As the head of the archive has it ("1.14"); a script has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub archive_version: Option<String>,
    pub compression: Compression,
    /// `None`: everybody who can read the repository can read the dump.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// The archive as `pg_dump` wrote it, before compression; of a directory see [`DumpManifest::of_directory`].
    pub plain: Fingerprint,
    pub objects: Vec<StoredObject>,
    pub globals: Globals,
    pub checks: Checks,
    /// Made with a choice of schemas, tables or sections: not a backup of the database.
    pub filtered: bool,
    /// Which choice: dumps of one choice are a group of their own. What was chosen is in the details, since it names
    /// tables.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filter: Option<FilterDigest>,
    /// What its user called it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// Kept by its user's word, whatever the rules of retention say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    pub counts: Counts,
    /// `pg_database_size` at the start.
    pub database_size_bytes: Option<u64>,
    pub pgkeep_version: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
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

/// What `pg_dump --format` was told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ArchiveFormat {
    #[default]
    Custom,
    Directory,
    /// A script of SQL.
    Plain,
    Tar,
}

impl ArchiveFormat {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "custom",
            Self::Directory => "directory",
            Self::Plain => "plain",
            Self::Tar => "tar",
        }
    }

    fn is_custom(&self) -> bool {
        *self == Self::Custom
    }
}

/// To whom everything but the manifest and the checksums is encrypted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    pub method: EncryptionMethod,
    /// Public keys, as they were configured.
    pub recipients: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EncryptionMethod {
    /// <https://age-encryption.org/v1>
    Age,
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

/// How the archive was compressed, and by whom: `{"method":"zstd","level":3}` for frames of zstd around an archive that
/// is not compressed inside, `{"method":"gzip","level":9,"by":"pg_dump"}` for an archive that is stored as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Compression {
    pub method: CompressionMethod,
    /// Where it is known: `pg_dump` of PostgreSQL 16 and newer has methods with a default of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub level: Option<i32>,
    #[serde(default, skip_serializing_if = "CompressedBy::is_pgkeep")]
    pub by: CompressedBy,
}

/// A method that is not here needs a higher format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CompressionMethod {
    None,
    Gzip,
    Lz4,
    Zstd,
}

impl CompressionMethod {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Gzip => "gzip",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl From<ArchiveCompression> for CompressionMethod {
    fn from(inside: ArchiveCompression) -> Self {
        match inside {
            ArchiveCompression::None => Self::None,
            ArchiveCompression::Gzip => Self::Gzip,
            ArchiveCompression::Lz4 => Self::Lz4,
            ArchiveCompression::Zstd => Self::Zstd,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CompressedBy {
    /// Around the archive.
    #[default]
    Pgkeep,
    /// Inside the archive.
    PgDump,
}

impl CompressedBy {
    fn is_pgkeep(&self) -> bool {
        *self == Self::Pgkeep
    }
}

impl Compression {
    /// Frames of zstd, made here.
    pub fn zstd(level: i32) -> Self {
        Self { method: CompressionMethod::Zstd, level: Some(level), by: CompressedBy::Pgkeep }
    }

    /// Left to `pg_dump`; the archive's header says what it did.
    pub fn by_pg_dump(inside: ArchiveCompression, level: Option<i32>) -> Self {
        Self { method: inside.into(), level, by: CompressedBy::PgDump }
    }

    /// What the archive's header says.
    pub fn inside(self) -> CompressionMethod {
        match self.by {
            CompressedBy::Pgkeep => CompressionMethod::None,
            CompressedBy::PgDump => self.method,
        }
    }

    /// What stands around the archive.
    pub fn coding(self) -> Coding {
        match self.by {
            CompressedBy::Pgkeep => Coding::Zstd,
            CompressedBy::PgDump => Coding::Plain,
        }
    }
}

/// "zstd:3", "gzip:9 by pg_dump".
impl std::fmt::Display for Compression {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.method.as_str())?;
        if let Some(level) = self.level {
            write!(f, ":{level}")?;
        }
        match self.by {
            CompressedBy::Pgkeep => Ok(()),
            CompressedBy::PgDump => f.write_str(" by pg_dump"),
        }
    }
}

/// An object of the backup other than the manifest itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoredObject {
    /// What the name says, for readers who do not take names apart.
    pub role: ObjectRole,
    /// Beside the manifest, without a folder.
    pub name: ObjectName,
    pub size_bytes: u64,
    pub sha256: Sha256,
}

impl StoredObject {
    pub fn new(stem: &DumpStem, ending: Ending, stored: Fingerprint) -> Self {
        let name = stem.object(ending);
        Self { role: ending.role(), name, size_bytes: stored.size_bytes, sha256: stored.sha256 }
    }

    /// Where it lies, as an object of `instance`.
    pub fn key(&self, instance: &InstanceName) -> Key {
        self.name.key(instance)
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
    /// Each block that was compressed here was decoded again and compared; of an archive that `pg_dump` compressed, the
    /// data of every table and large object were decoded to their end.
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
        let name = stem.object(Ending::Manifest).to_string();
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
        let key = stem.object(Ending::Manifest).key(instance);
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
        let foreign = |object: &&StoredObject| object.name.stem != *stem || object.role != object.name.ending.role();
        if let Some(object) = self.objects.iter().find(foreign) {
            return Some(format!("it names object {:?} as {:?}", object.name, object.role));
        }
        self.odd_archive().or_else(|| self.odd_companion())
    }

    /// An archive is one object, or parts numbered from 1 without a hole, or the members of a directory, packed as the
    /// manifest says.
    fn odd_archive(&self) -> Option<String> {
        let (form, packing) = (self.form(), self.packing());
        if form == Form::Directory {
            return self.odd_member();
        }
        let Some(first) = self.archive().next() else { return Some("it names no archive".to_owned()) };
        let mut expected = (first.name.ending != Ending::whole(form, packing)).then_some(PartNumber::FIRST);
        for (count, object) in self.archive().enumerate() {
            let is_next = object.name.ending == Ending::Archive { form, packing, part: expected };
            if !is_next || (expected.is_none() && count > 0) {
                return Some(format!("it names {:?} as object {} of the archive", object.name, count + 1));
            }
            expected = expected.and_then(PartNumber::next);
        }
        None
    }

    /// The table of contents is among the files, and each is named once.
    fn odd_member(&self) -> Option<String> {
        let mut seen = BTreeSet::new();
        for object in self.archive() {
            match object.name.ending {
                Ending::Member { member, packing } if packing == self.packing() && seen.insert(member) => {}
                _ => return Some(format!("it names {:?} among the files of a directory", object.name)),
            }
        }
        (!seen.contains(&Member::Toc)).then(|| format!("it names no {}", Member::Toc))
    }

    /// Beside the archive there is one object of a role at most, and the checksum is of this archive.
    fn odd_companion(&self) -> Option<String> {
        let checksum = Ending::checksum(self.form(), self.packing());
        let companions = || self.objects.iter().filter(|object| object.role != ObjectRole::Archive);
        let odd = companions().find(|object| match object.name.ending {
            Ending::Manifest => true,
            ending @ Ending::Checksum { .. } if ending != checksum => true,
            // In clear beside an encrypted archive would be a leak, or a swap.
            Ending::Globals { packing } | Ending::Details { packing }
                if packing.encrypted != self.packing().encrypted =>
            {
                true
            }
            _ => companions().filter(|other| other.role == object.role).count() > 1,
        });
        odd.map(|object| format!("it names {:?} beside the archive", object.name))
    }

    /// How the archive is laid out, as the names of its objects say.
    pub fn form(&self) -> Form {
        match self.archive_format {
            ArchiveFormat::Custom => Form::Custom,
            ArchiveFormat::Tar => Form::Tar,
            ArchiveFormat::Plain if self.compression.inside() == CompressionMethod::None => Form::Script,
            ArchiveFormat::Plain => Form::GzipScript,
            ArchiveFormat::Directory => Form::Directory,
        }
    }

    /// The files of a directory with the objects that hold them; of other archives there are none.
    pub fn members(&self) -> impl Iterator<Item = (Member, &StoredObject)> {
        self.archive().filter_map(|object| match object.name.ending {
            Ending::Member { member, .. } => Some((member, object)),
            _ => None,
        })
    }

    /// What `plain` is of a directory: the sum of the sizes, and the SHA-256 of a line `<name> <size> <SHA-256>` for each
    /// file as `pg_dump` wrote it, in the order of the names, byte by byte.
    pub fn of_directory<'a>(members: impl IntoIterator<Item = &'a (Member, Fingerprint)>) -> Fingerprint {
        let mut lines = Vec::new();
        let mut size_bytes = 0;
        for (member, plain) in members {
            size_bytes += plain.size_bytes;
            lines.push(format!("{member} {} {}\n", plain.size_bytes, plain.sha256));
        }
        // A space sorts before everything that a name has.
        lines.sort_unstable();
        Fingerprint { size_bytes, sha256: Sha256::of(lines.concat().as_bytes()) }
    }

    /// How the objects of the archive are packed.
    pub fn packing(&self) -> Packing {
        Packing { coding: self.compression.coding(), encrypted: self.encryption.is_some() }
    }

    /// The objects of the archive, in order: one, or the parts of it.
    pub fn archive(&self) -> impl Iterator<Item = &StoredObject> {
        self.objects.iter().filter(|object| object.role == ObjectRole::Archive)
    }

    /// The object of a role of which there is one: not that of the archive, which may have parts.
    pub fn object(&self, role: ObjectRole) -> Option<&StoredObject> {
        self.objects.iter().find(|object| object.role == role)
    }

    /// What `sha256sum -c` reads: `<64 hex>  <name>` for each object of the archive, without a folder, so that it holds
    /// wherever the files are.
    pub fn checksum_lines(&self) -> String {
        checksum_lines(self.archive())
    }

    /// Bytes of all its objects in the store.
    pub fn stored_bytes(&self) -> u64 {
        // What a manifest says was not checked by adding it up: one that was tampered with must not end a whole report.
        self.objects.iter().fold(0, |sum, object| sum.saturating_add(object.size_bytes))
    }

    /// The format that this version writes.
    pub const FORMAT: u32 = FORMAT;
}

/// As [`DumpManifest::checksum_lines`], for objects that no manifest names yet.
pub fn checksum_lines<'a>(archive: impl IntoIterator<Item = &'a StoredObject>) -> String {
    archive.into_iter().map(|object| format!("{}  {}\n", object.sha256, object.name)).collect()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::repo::Stamp;

    pub fn sample(instance: &InstanceName, database: &str, started_at: DateTime<Utc>) -> DumpManifest {
        let stem = DumpStem::new(database, Stamp::of(started_at), "db1");
        let object = |ending| StoredObject::new(&stem, ending, Fingerprint::of(b"x"));
        let packing = Packing::ZSTD;
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
            archive_format: ArchiveFormat::Custom,
            archive_version: Some("1.14".to_owned()),
            compression: Compression::zstd(3),
            encryption: None,
            plain: Fingerprint::of(b"plain"),
            objects: vec![
                object(Ending::archive(packing)),
                object(Ending::checksum(Form::Custom, packing)),
                object(Ending::DETAILS),
            ],
            globals: Globals {
                included: GlobalsIncluded::NotIncluded,
                reason: Some("permission denied for table pg_authid".to_owned()),
            },
            checks: Checks { decoded: true, read_back: false },
            filtered: false,
            filter: None,
            label: None,
            keep: None,
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
        foreign.objects[1].name.stem = "shop_20250131T020304Z_db1".parse().unwrap();
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
    fn an_archive_is_one_object_or_parts_without_a_hole_all_packed_alike() {
        const PLAIN: Packing = Packing::PLAIN;
        const ZSTD: Packing = Packing::ZSTD;
        let sample = sample(&"main".parse().unwrap(), "shop", "2025-01-31T02:03:04Z".parse().unwrap());
        let stem = DumpStem::new("shop", Stamp::of(sample.started_at), "db1");
        let whole = |packing| Ending::archive(packing);
        let form = Form::Custom;
        let part = |packing, number: &str| Ending::Archive { form, packing, part: Some(number.parse().unwrap()) };
        let checksum = |packing| Ending::checksum(form, packing);
        let with = |endings: &[Ending], compression| {
            let object = |ending: &Ending| StoredObject::new(&stem, *ending, Fingerprint::of(b"x"));
            let objects = endings.iter().map(object).collect();
            read(&DumpManifest { objects, compression, ..sample.clone() }, &stem.to_string())
        };
        let ours = Compression::zstd(3);
        let theirs = Compression::by_pg_dump(ArchiveCompression::Gzip, Some(9));
        let (one, two, three) = (part(ZSTD, "0001"), part(ZSTD, "0002"), part(ZSTD, "0003"));
        for (endings, compression) in [
            (&[whole(ZSTD), checksum(ZSTD)][..], ours),
            (&[whole(PLAIN), checksum(PLAIN), Ending::Globals { packing: PLAIN }, Ending::DETAILS], theirs),
            (&[one], ours),
            (&[one, two, three, checksum(ZSTD)], ours),
            (&[part(PLAIN, "0001"), part(PLAIN, "0002")], theirs),
        ] {
            let manifest = with(endings, compression).unwrap();
            let names = manifest.archive().map(|object| object.name.ending);
            let archive = endings.iter().filter(|ending| ending.role() == ObjectRole::Archive);
            assert!(names.eq(archive.copied()), "{endings:?}");
        }
        for (endings, compression) in [
            (&[][..], ours),
            (&[checksum(ZSTD)], ours),
            (&[whole(ZSTD), whole(ZSTD)], ours),
            (&[whole(ZSTD), one], ours),
            (&[one, whole(ZSTD)], ours),
            (&[two], ours),
            (&[one, three], ours),
            (&[two, one], ours),
            (&[one, one], ours),
            (&[one, part(PLAIN, "0002")], ours),
            (&[whole(PLAIN)], ours),
            (&[whole(ZSTD)], theirs),
            (&[one, two], theirs),
            (&[whole(ZSTD), checksum(PLAIN)], ours),
            (&[whole(ZSTD), checksum(ZSTD), checksum(ZSTD)], ours),
            (&[whole(ZSTD), Ending::Globals { packing: PLAIN }, Ending::Globals { packing: ZSTD }], ours),
            (&[whole(ZSTD), Ending::details_beside(ZSTD.encrypted())], ours),
            (&[whole(ZSTD.encrypted())], ours),
            (&[whole(ZSTD), Ending::Manifest], ours),
        ] {
            assert_eq!(with(endings, compression).unwrap_err().kind, Kind::Verification, "{endings:?} {compression}");
        }
    }

    #[test]
    fn a_manifest_of_as_many_parts_as_there_are_numbers_is_read() {
        let at = "2025-01-31T02:03:04Z".parse().unwrap();
        // Names as long as they come.
        let (main, database) = ("main".parse().unwrap(), "d".repeat(100));
        let mut manifest = sample(&main, &database, at);
        let stem = DumpStem::new(&database, Stamp::of(at), &"h".repeat(32));
        manifest.id = (&stem).into();
        let numbers = std::iter::successors(Some(PartNumber::FIRST), |number| number.next());
        let ending = |number| Ending::Archive { form: Form::Custom, packing: Packing::ZSTD, part: Some(number) };
        let stored = Fingerprint { size_bytes: 1 << 40, ..Fingerprint::of(b"x") };
        manifest.objects = numbers.map(|number| StoredObject::new(&stem, ending(number), stored)).collect();
        assert_eq!(manifest.objects.len(), 9999);
        let body = manifest.to_json().unwrap();
        assert!((body.len() as u64) < document::LIMIT_BYTES, "{}", body.len());
        assert_eq!(DumpManifest::from_json(&body, &main, &stem).unwrap(), manifest);

        // And one of a directory, encrypted, of as many files as a dump makes.
        let packing = Packing::ZSTD.encrypted();
        let large_objects = (0..9_000).map(|n| Member::LargeObject(u32::MAX - n));
        let ending = |member| Ending::Member { member, packing };
        let object = |member| StoredObject::new(&stem, ending(member), stored);
        manifest.objects = [Member::Toc].into_iter().chain(large_objects).map(object).collect();
        manifest.archive_format = ArchiveFormat::Directory;
        let recipients = vec!["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".to_owned()];
        manifest.encryption = Some(Encryption { method: EncryptionMethod::Age, recipients });
        let body = manifest.to_json().unwrap();
        assert!((body.len() as u64) < document::LIMIT_BYTES, "{}", body.len());
        assert_eq!(DumpManifest::from_json(&body, &main, &stem).unwrap(), manifest);
    }

    #[test]
    fn a_directory_is_its_members_each_once_with_a_table_of_contents() {
        let mut manifest = sample(&"main".parse().unwrap(), "shop", "2025-01-31T02:03:04Z".parse().unwrap());
        let stem = DumpStem::new("shop", Stamp::of(manifest.started_at), "db1");
        manifest.archive_format = ArchiveFormat::Directory;
        let member = |member| Ending::Member { member, packing: Packing::ZSTD };
        let (toc, one, two) = (member(Member::Toc), member(Member::Data(1)), member(Member::Data(2)));
        let checksum = Ending::checksum(Form::Directory, Packing::ZSTD);
        let with = |endings: &[Ending]| {
            let object = |ending: &Ending| StoredObject::new(&stem, *ending, Fingerprint::of(b"x"));
            let objects = endings.iter().map(object).collect();
            read(&DumpManifest { objects, ..manifest.clone() }, &stem.to_string())
        };
        for good in [&[toc][..], &[two, toc, one, checksum, Ending::DETAILS]] {
            assert_eq!(with(good).unwrap().form(), Form::Directory);
        }
        let plain = Ending::Member { member: Member::Data(3), packing: Packing::PLAIN };
        let foreign = Ending::checksum(Form::Custom, Packing::ZSTD);
        for wrong in [
            &[][..],
            &[checksum],
            &[one],
            &[toc, one, one],
            &[toc, plain],
            &[toc, Ending::archive(Packing::ZSTD)],
            &[toc, foreign],
        ] {
            assert_eq!(with(wrong).unwrap_err().kind, Kind::Verification, "{wrong:?}");
        }
    }

    #[test]
    fn the_digest_of_a_directory_does_not_depend_on_the_order_of_its_files() {
        let file = |member, content: &[u8]| (member, Fingerprint::of(content));
        let files = [file(Member::Data(10), b"ten"), file(Member::Data(9), b"nine"), file(Member::Toc, b"toc")];
        let lines = files.map(|(member, plain)| format!("{member} {} {}\n", plain.size_bytes, plain.sha256)).concat();
        let expected = Fingerprint { size_bytes: 10, sha256: Sha256::of(lines.as_bytes()) };
        assert_eq!(DumpManifest::of_directory(&files), expected);
        assert_eq!(DumpManifest::of_directory(files.iter().rev()), expected);
    }

    #[test]
    fn compression_says_who_did_it() {
        let json = |compression: Compression| serde_json::to_string(&compression).unwrap();
        assert_eq!(json(Compression::zstd(3)), r#"{"method":"zstd","level":3}"#);
        let theirs = Compression::by_pg_dump(ArchiveCompression::Gzip, Some(9));
        assert_eq!(json(theirs), r#"{"method":"gzip","level":9,"by":"pg_dump"}"#);
        assert_eq!(serde_json::from_str::<Compression>(&json(theirs)).unwrap(), theirs);
        let unlevelled = Compression::by_pg_dump(ArchiveCompression::Lz4, None);
        assert_eq!(serde_json::from_str::<Compression>(&json(unlevelled)).unwrap(), unlevelled);
        assert_eq!((theirs.to_string(), unlevelled.to_string()), ("gzip:9 by pg_dump".into(), "lz4 by pg_dump".into()));
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
