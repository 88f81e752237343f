//! One backup: what its manifest says of each object, against what the store delivers.

use std::io::Read as _;

use bytes::Bytes;
use serde::Serialize;

use super::{Context, Depth, Options};
use crate::digest::Fingerprint;
use crate::error::{Error, Kind};
use crate::pg::archive::Archive;
use crate::progress::{Task, Unit};
use crate::repo::archive::{fingerprint, object_key, read_archive};
use crate::repo::{Backup, DumpDetails, DumpManifest, DumpStem, GlobalsIncluded, ObjectRole, Repository, StoredObject};
use crate::storage::{Fault, Key, StorageError};

/// One thing that is not as it should be, or could not be asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// Stable: what monitoring may compare.
    pub id: &'static str,
    /// The repository of the copy that it was found in.
    pub repository: String,
    /// The name of the object, without its folder.
    pub object: String,
    /// What was expected and what was found.
    pub message: String,
}

impl Finding {
    fn new(id: &'static str, object: &str, what: impl std::fmt::Display) -> Self {
        Self { id, repository: String::new(), object: object.to_owned(), message: format!("{object} {what}") }
    }

    pub(super) fn in_repository(self, name: &str) -> Self {
        Self { repository: name.to_owned(), ..self }
    }

    /// Copies of one id that are not copies of each other.
    pub(super) fn conflict(stem: &DumpStem, message: String) -> Self {
        let object = stem.file_name(ObjectRole::Manifest);
        Self { id: "copies-differ", repository: String::new(), object, message }
    }

    /// A manifest that could not be read.
    pub(super) fn manifest(stem: &DumpStem, error: &Error) -> Self {
        let object = stem.file_name(ObjectRole::Manifest);
        let message = error.to_string();
        let message = if message.contains(&object) { message } else { format!("{object}: {message}") };
        Self { id: "manifest-unreadable", repository: String::new(), object, message }
    }
}

/// The id of the finding that there is no backup any more.
pub(super) const REMOVED: &str = "backup-removed";

/// What a verification saw.
#[derive(Debug, Default)]
pub(super) struct Seen {
    pub findings: Vec<Finding>,
    /// Why something could not be asked, where nothing was found to be damaged.
    pub unasked: Option<Kind>,
    pub read_bytes: u64,
}

/// Reads every object of the backup, each once.
pub(super) async fn verify(context: &Context, repository: &Repository, backup: &Backup, options: &Options) -> Seen {
    let manifest = &backup.manifest;
    let total = match options.depth {
        Depth::Stored => manifest.stored_bytes(),
        Depth::Decoded => manifest.plain.size_bytes,
    };
    let task = context.monitor.task(manifest.id.as_str(), Unit::Bytes, Some(total.max(1)));
    let mut reader = Reader { repository, backup, options, task, seen: Seen::default(), damaged: false };
    reader.what_the_manifest_lacks();
    for object in &manifest.objects {
        reader.object(object).await;
    }
    reader.finish().await
}

struct Reader<'a> {
    repository: &'a Repository,
    backup: &'a Backup,
    options: &'a Options,
    task: std::sync::Arc<dyn Task>,
    seen: Seen,
    damaged: bool,
}

impl Reader<'_> {
    fn manifest(&self) -> &DumpManifest {
        &self.backup.manifest
    }

    fn damage(&mut self, finding: Finding) {
        self.damaged = true;
        self.seen.findings.push(finding);
    }

    /// The store, or a version of us, stands in the way: nothing is said of the object.
    fn not_asked(&mut self, object: &StoredObject, kind: Kind, error: impl std::fmt::Display) {
        self.seen.unasked.get_or_insert(kind);
        self.seen.findings.push(Finding::new("object-not-read", &object.name, format!("could not be read: {error}")));
    }

    /// Every dump has a checksum and details, and globals if it says so.
    fn what_the_manifest_lacks(&mut self) {
        let mut needed = vec![ObjectRole::Checksum, ObjectRole::Details];
        if self.manifest().globals.included != GlobalsIncluded::NotIncluded {
            needed.push(ObjectRole::Globals);
        }
        for role in needed {
            if self.manifest().object(role).is_none() {
                let name = self.backup.stem.file_name(role);
                self.damage(Finding::new("manifest-incomplete", &name, "belongs to the backup, its manifest lacks it"));
            }
        }
    }

    async fn object(&mut self, object: &StoredObject) {
        let key = object_key(&self.manifest().instance, &self.backup.stem, object.role);
        self.task.note(&object.name);
        match self.repository.storage().head(&key).await {
            Ok(head) if head.size_bytes != object.size_bytes => {
                let what = format!("has {} bytes, the manifest says {}", head.size_bytes, object.size_bytes);
                return self.damage(Finding::new("object-size", &object.name, what));
            }
            Ok(_) => {}
            Err(error) => return self.unreadable(object, error),
        }
        match (object.role, self.options.depth) {
            (ObjectRole::Archive, Depth::Stored) => self.hash(object, &key).await,
            (ObjectRole::Archive, Depth::Decoded) => self.decode_archive(object).await,
            _ => self.small(object, &key).await,
        }
    }

    fn unreadable(&mut self, object: &StoredObject, error: StorageError) {
        if error.fault == Fault::NotFound {
            let what = format!("is missing, the manifest says it has {} bytes", object.size_bytes);
            return self.damage(Finding::new("object-missing", &object.name, what));
        }
        let error = Error::from(error);
        self.not_asked(object, error.kind, &error);
    }

    /// An object of any size, hashed as it passes.
    async fn hash(&mut self, object: &StoredObject, key: &Key) {
        let reader = match self.repository.storage().read(key, None).await {
            Ok(reader) => reader,
            Err(error) => return self.unreadable(object, error),
        };
        match fingerprint(reader, &*self.task).await {
            Ok(found) => self.compare(object, found),
            Err(error) => self.not_asked(object, error.kind, &error),
        }
    }

    fn compare(&mut self, object: &StoredObject, found: Fingerprint) {
        self.seen.read_bytes += found.size_bytes;
        if found.size_bytes != object.size_bytes {
            let what = format!("delivers {} bytes, the manifest says {}", found.size_bytes, object.size_bytes);
            self.damage(Finding::new("object-size", &object.name, what));
        } else if found.sha256 != object.sha256 {
            let what = format!("has SHA-256 {}, the manifest says {}", found.sha256, object.sha256);
            self.damage(Finding::new("object-hash", &object.name, what));
        }
    }

    /// An object that is held in memory: compared with the manifest, then read for what it says.
    async fn small(&mut self, object: &StoredObject, key: &Key) {
        let body = match self.repository.storage().get(key, limit_bytes(object.role)).await {
            Ok(body) => body,
            Err(error) => return self.unreadable(object, error),
        };
        self.task.advance(body.len() as u64);
        let before = self.seen.findings.len();
        self.compare(object, Fingerprint::of(&body));
        if self.seen.findings.len() == before
            && let Some(finding) = self.content(object, &body)
        {
            self.damage(finding);
        }
    }

    /// What is wrong with the content of an object whose bytes are those that were written.
    fn content(&self, object: &StoredObject, body: &Bytes) -> Option<Finding> {
        match (object.role, self.options.depth) {
            (ObjectRole::Checksum, _) => self.checksum(object, body),
            (ObjectRole::Globals, Depth::Decoded) => globals(object, body),
            (ObjectRole::Details, Depth::Decoded) => self.details(object, body),
            _ => None,
        }
    }

    fn checksum(&self, object: &StoredObject, body: &Bytes) -> Option<Finding> {
        let archive = self.manifest().object(ObjectRole::Archive)?;
        let expected = format!("{}  {}\n", archive.sha256, archive.name);
        let found = String::from_utf8_lossy(body);
        let what = || format!("says {:?}, the manifest says {:?}", found.trim_end(), expected.trim_end());
        (found != expected).then(|| Finding::new("checksum-differs", &object.name, what()))
    }

    fn details(&self, object: &StoredObject, body: &Bytes) -> Option<Finding> {
        let of = match DumpDetails::from_stored(body, &object.name) {
            Ok(details) => details.description.database.name,
            Err(error) => {
                return Some(Finding::new("details-unreadable", &object.name, format!("is not readable: {error}")));
            }
        };
        let what = || format!("is of database {of:?}, the manifest says {:?}", self.manifest().database);
        (of != self.manifest().database).then(|| Finding::new("details-differ", &object.name, what()))
    }

    /// One pass: stored bytes, every frame, the plain archive, its structure to the end.
    async fn decode_archive(&mut self, object: &StoredObject) {
        let task = std::sync::Arc::clone(&self.task);
        let (stem, threads) = (&self.backup.stem, self.options.threads);
        match read_archive(self.repository, stem, &self.backup.manifest, std::io::sink(), threads, task).await {
            Ok((archive, _)) => {
                self.seen.read_bytes += object.size_bytes;
                self.archive_header(object, &archive);
            }
            Err(error) if error.kind == Kind::Verification => {
                self.damage(Finding::new("archive-unreadable", &object.name, format!("is damaged: {error}")));
            }
            Err(error) => self.not_asked(object, error.kind, &error),
        }
    }

    fn archive_header(&mut self, object: &StoredObject, archive: &Archive) {
        let (manifest, header) = (&self.backup.manifest, &archive.header);
        let differences = [
            ("database", &header.database, &manifest.database),
            ("archive version", &header.version.to_string(), &manifest.archive_version),
            ("server version", &header.server_version, &manifest.server.text),
        ]
        .into_iter()
        .filter(|(_, found, expected)| found != expected)
        .map(|(what, found, expected)| format!("has {what} {found:?} in its header, the manifest says {expected:?}"))
        .collect::<Vec<_>>();
        for what in differences {
            self.damage(Finding::new("archive-differs", &object.name, what));
        }
    }

    async fn finish(mut self) -> Seen {
        if self.damaged && self.is_gone().await {
            // A prune has removed the backup while we read it: that is no damage.
            let name = self.backup.stem.file_name(ObjectRole::Manifest);
            let gone = Finding::new(REMOVED, &name, "was removed while the backup was verified");
            return Seen { findings: vec![gone], unasked: Some(Kind::NotVerified), ..self.seen };
        }
        if self.damaged {
            self.seen.unasked = None;
        }
        self.seen
    }

    async fn is_gone(&self) -> bool {
        let key = object_key(&self.manifest().instance, &self.backup.stem, ObjectRole::Manifest);
        let head = self.repository.storage().head(&key).await;
        head.is_err_and(|error| error.fault == Fault::NotFound)
    }
}

/// More than an object of this role has.
fn limit_bytes(role: ObjectRole) -> u64 {
    match role {
        ObjectRole::Details => DumpDetails::LIMIT_BYTES,
        ObjectRole::Checksum => 4096,
        _ => GLOBALS_LIMIT_BYTES,
    }
}

/// More than a cluster with a million roles has, decoded.
const GLOBALS_LIMIT_BYTES: u64 = 256 << 20;

fn globals(object: &StoredObject, body: &Bytes) -> Option<Finding> {
    let wrong = |what: String| Some(Finding::new("globals-unreadable", &object.name, what));
    let mut sql = Vec::new();
    let decoded =
        zstd::Decoder::new(&body[..]).and_then(|decoder| decoder.take(GLOBALS_LIMIT_BYTES + 1).read_to_end(&mut sql));
    if let Err(error) = decoded {
        return wrong(format!("is not readable: {error}"));
    }
    if sql.len() as u64 > GLOBALS_LIMIT_BYTES {
        return wrong(format!("decodes to more than {GLOBALS_LIMIT_BYTES} bytes"));
    }
    // The last line that pg_dumpall writes: an output that was cut does not have it.
    let tail = String::from_utf8_lossy(&sql[sql.len().saturating_sub(200)..]).into_owned();
    if tail.contains("dump complete") { None } else { wrong("breaks off before pg_dumpall's last line".to_owned()) }
}
