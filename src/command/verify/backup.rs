//! One backup: what its manifest says of each object, against what the store delivers.

use bytes::Bytes;
use serde::Serialize;

use super::{Context, Depth, Options};
use crate::digest::Fingerprint;
use crate::error::{Error, Kind, Result};
use crate::pg::archive::Content;
use crate::progress::{Task, Unit};
use crate::repo::archive::{fingerprint_and_head, read_dump};
use crate::repo::directory::read_directory;
use crate::repo::{
    Backup, CompressionMethod, DumpDetails, DumpManifest, DumpStem, Ending, Form, GlobalsIncluded, ObjectName,
    ObjectRole, Packing, Repository, StoredObject, unpack,
};
use crate::storage::{Fault, StorageError};
use crate::stream::check_age_file;

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
    fn new(id: &'static str, object: &ObjectName, what: impl std::fmt::Display) -> Self {
        Self { id, repository: String::new(), object: object.to_string(), message: format!("{object} {what}") }
    }

    pub(super) fn in_repository(self, name: &str) -> Self {
        Self { repository: name.to_owned(), ..self }
    }

    /// Copies of one id that are not copies of each other.
    pub(super) fn conflict(stem: &DumpStem, message: String) -> Self {
        let object = stem.object(Ending::Manifest).to_string();
        Self { id: "copies-differ", repository: String::new(), object, message }
    }

    /// A manifest that could not be read.
    pub(super) fn manifest(stem: &DumpStem, error: &Error) -> Self {
        let object = stem.object(Ending::Manifest).to_string();
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
    /// What helps, where that is known.
    pub hint: Option<String>,
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
    let mut reader = Reader { repository, backup, options, task, seen: Seen::default(), damaged: false, closed: false };
    reader.what_the_manifest_lacks();
    reader.archive().await;
    for object in manifest.objects.iter().filter(|object| object.role != ObjectRole::Archive) {
        if reader.is_there(object).await {
            reader.small(object).await;
        }
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
    /// It is encrypted, and no key is at hand: what is stored is looked at, not what is in it.
    closed: bool,
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

    /// As [`Self::not_asked`], with the step that the error names.
    fn not_opened(&mut self, object: &StoredObject, error: &Error) {
        self.seen.hint = error.next_step().map(str::to_owned);
        self.not_asked(object, error.kind, error);
    }

    /// Every dump has a checksum and details, and globals if it says so.
    fn what_the_manifest_lacks(&mut self) {
        let packing = self.manifest().packing();
        let checksum = Ending::checksum(self.manifest().form(), packing);
        let mut needed = vec![checksum, Ending::details_beside(packing)];
        if self.manifest().globals.included != GlobalsIncluded::NotIncluded {
            needed.push(Ending::Globals { packing });
        }
        for ending in needed {
            if self.manifest().object(ending.role()).is_none() {
                let name = self.backup.stem.object(ending);
                self.damage(Finding::new("manifest-incomplete", &name, "belongs to the backup, its manifest lacks it"));
            }
        }
    }

    /// One object, or parts of it: each is hashed, or all are decoded one after the other. What cannot be decoded
    /// because something is missing is hashed.
    async fn archive(&mut self) {
        let objects: Vec<&StoredObject> = self.backup.manifest.archive().collect();
        let mut there = Vec::new();
        for &object in &objects {
            if self.is_there(object).await {
                there.push(object);
            }
        }
        let is_open = self.options.depth == Depth::Stored || self.is_open(&objects).await;
        match self.options.depth {
            Depth::Decoded if is_open && there.len() == objects.len() => self.decode_archive(&objects).await,
            _ => self.hash_each(&there).await,
        }
    }

    /// Whether what is encrypted can be decrypted; it has a finding where not.
    async fn is_open(&mut self, objects: &[&StoredObject]) -> bool {
        let (repository, manifest) = (self.repository, &self.backup.manifest);
        let (Some(_), Some(object)) = (&manifest.encryption, objects.first()) else { return true };
        let Err(error) = repository.identities(manifest).await else { return true };
        self.closed = true;
        // Of no key at all: the backup is as it was written, and what is in it is not verified.
        let kind = if repository.keyring().is_empty() { Kind::NotVerified } else { error.kind };
        let told = Error::new(kind, error.to_string()).hinted(error.next_step());
        self.not_opened(object, &told);
        false
    }

    /// Whether an object of this size is stored; it has a finding where not.
    async fn is_there(&mut self, object: &StoredObject) -> bool {
        self.task.note(&object.name.to_string());
        match self.repository.storage().head(&object.key(&self.manifest().instance)).await {
            Ok(head) if head.size_bytes != object.size_bytes => {
                let what = format!("has {} bytes, the manifest says {}", head.size_bytes, object.size_bytes);
                self.damage(Finding::new("object-size", &object.name, what));
                false
            }
            Ok(_) => true,
            Err(error) => {
                self.unreadable(object, error);
                false
            }
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

    async fn hash_each(&mut self, objects: &[&StoredObject]) {
        for object in objects {
            self.hash(object).await;
        }
    }

    /// An object of any size, hashed as it passes.
    async fn hash(&mut self, object: &StoredObject) {
        let reader = match self.repository.storage().read(&object.key(&self.manifest().instance), None).await {
            Ok(reader) => reader,
            Err(error) => return self.unreadable(object, error),
        };
        match fingerprint_and_head(reader, AGE_HEAD_BYTES, &*self.task).await {
            Ok((found, head)) => {
                if self.compare(object, found) {
                    self.form(object, &head);
                }
            }
            Err(error) => self.not_asked(object, error.kind, &error),
        }
    }

    /// What is encrypted is a file of age, as far as that can be seen without a key.
    fn form(&mut self, object: &StoredObject, head: &[u8]) {
        if object.name.ending.packing().encrypted
            && let Err(error) = check_age_file(head, object.size_bytes)
        {
            self.damage(Finding::new("object-form", &object.name, format!("is no file of age: {error}")));
        }
    }

    /// Whether what is stored is what was written; it has a finding where not.
    fn compare(&mut self, object: &StoredObject, found: Fingerprint) -> bool {
        self.seen.read_bytes += found.size_bytes;
        if found.size_bytes != object.size_bytes {
            let what = format!("delivers {} bytes, the manifest says {}", found.size_bytes, object.size_bytes);
            self.damage(Finding::new("object-size", &object.name, what));
        } else if found.sha256 != object.sha256 {
            let what = format!("has SHA-256 {}, the manifest says {}", found.sha256, object.sha256);
            self.damage(Finding::new("object-hash", &object.name, what));
        }
        found == object.fingerprint()
    }

    /// An object that is held in memory: compared with the manifest, then read for what it says.
    async fn small(&mut self, object: &StoredObject) {
        let key = object.key(&self.manifest().instance);
        let body = match self.repository.storage().get(&key, limit_bytes(object.role)).await {
            Ok(body) => body,
            Err(error) => return self.unreadable(object, error),
        };
        self.task.advance(body.len() as u64);
        if !self.compare(object, Fingerprint::of(&body)) {
            return;
        }
        self.form(object, &body);
        if self.closed && object.name.ending.packing().encrypted {
            return;
        }
        match self.content(object, body).await {
            Ok(None) => {}
            Ok(Some(finding)) => self.damage(finding),
            Err(error) => self.not_opened(object, &error),
        }
    }

    /// What is wrong with the content of an object whose bytes are those that were written.
    async fn content(&self, object: &StoredObject, body: Bytes) -> Result<Option<Finding>> {
        if object.role == ObjectRole::Checksum {
            return Ok(self.checksum(object, &body));
        }
        if self.options.depth != Depth::Decoded {
            return Ok(None);
        }
        let (body, packing) = match self.repository.decrypted(body, &object.name, self.manifest()).await {
            Ok(opened) => opened,
            Err(error) if error.kind == Kind::Verification => {
                return Ok(Some(Finding::new("object-unreadable", &object.name, format!("is damaged: {error}"))));
            }
            Err(error) => return Err(error),
        };
        Ok(match object.role {
            ObjectRole::Globals => globals(object, &body, packing),
            ObjectRole::Details => self.details(object, &body),
            _ => None,
        })
    }

    fn checksum(&self, object: &StoredObject, body: &Bytes) -> Option<Finding> {
        let expected = self.manifest().checksum_lines();
        let found = String::from_utf8_lossy(body);
        let what = || format!("says {:?}, the manifest says {:?}", found.trim_end(), expected.trim_end());
        (found != expected).then(|| Finding::new("checksum-differs", &object.name, what()))
    }

    fn details(&self, object: &StoredObject, body: &Bytes) -> Option<Finding> {
        let of = match DumpDetails::from_stored(body, &object.name.to_string()) {
            Ok(details) => details.description.database.name,
            Err(error) => {
                return Some(Finding::new("details-unreadable", &object.name, format!("is not readable: {error}")));
            }
        };
        let what = || format!("is of database {of:?}, the manifest says {:?}", self.manifest().database);
        (of != self.manifest().database).then(|| Finding::new("details-differ", &object.name, what()))
    }

    /// One pass: stored bytes, every frame, the plain archive, its structure to the end.
    async fn decode_archive(&mut self, objects: &[&StoredObject]) {
        let Some(&object) = objects.first() else { return };
        let task = std::sync::Arc::clone(&self.task);
        let (stem, threads) = (&self.backup.stem, self.options.threads);
        let manifest = &self.backup.manifest;
        let read = match manifest.form() {
            Form::Directory => {
                let read = read_directory(self.repository, stem, manifest, None, threads, task).await;
                read.map(|archive| Content::Archive(Box::new(archive)))
            }
            _ => {
                let read = read_dump(self.repository, stem, manifest, std::io::sink(), threads, task).await;
                read.map(|(content, _)| content)
            }
        };
        match read {
            Ok(content) => {
                self.seen.read_bytes += objects.iter().map(|object| object.size_bytes).sum::<u64>();
                self.archive_header(object, &content);
            }
            Err(error) if error.kind == Kind::Verification => {
                let before = self.seen.findings.len();
                // Damage may lie in several parts: each is named.
                if objects.len() > 1 {
                    self.hash_each(objects).await;
                }
                if self.seen.findings.len() > before {
                    return;
                }
                self.damage(Finding::new("archive-unreadable", &object.name, format!("is damaged: {error}")));
            }
            Err(error) if error.kind == Kind::Usage => {
                self.closed = true;
                self.hash_each(objects).await;
                self.not_opened(object, &error);
            }
            Err(error) => self.not_asked(object, error.kind, &error),
        }
    }

    /// What a dump says of itself; a script says less.
    fn archive_header(&mut self, object: &StoredObject, content: &Content) {
        let manifest = &self.backup.manifest;
        let inside = CompressionMethod::from(content.compression());
        let mut said = vec![
            ("server version", content.server_version().to_owned(), manifest.server.text.clone()),
            ("compression", inside.as_str().to_owned(), manifest.compression.inside().as_str().to_owned()),
        ];
        if let Some(header) = content.header() {
            let version = manifest.archive_version.clone().unwrap_or_default();
            said.push(("database", header.database.clone(), manifest.database.clone()));
            said.push(("archive version", header.version.to_string(), version));
        }
        for (what, found, expected) in said.into_iter().filter(|(_, found, expected)| found != expected) {
            let what = format!("has {what} {found:?} in its header, the manifest says {expected:?}");
            self.damage(Finding::new("archive-differs", &object.name, what));
        }
        if !content.compression().is_decoded() {
            let why = format!("pg_dump compressed it with {}, which pgkeep does not decode", inside.as_str());
            self.not_asked(object, Kind::NotVerified, why);
        }
    }

    async fn finish(mut self) -> Seen {
        if self.damaged && self.is_gone().await {
            // A prune has removed the backup while we read it: that is no damage.
            let name = self.backup.stem.object(Ending::Manifest);
            let gone = Finding::new(REMOVED, &name, "was removed while the backup was verified");
            return Seen { findings: vec![gone], unasked: Some(Kind::NotVerified), ..self.seen };
        }
        if self.damaged {
            // A key would not help.
            (self.seen.unasked, self.seen.hint) = (None, None);
        }
        self.seen
    }

    async fn is_gone(&self) -> bool {
        let key = self.backup.stem.object(Ending::Manifest).key(&self.manifest().instance);
        let head = self.repository.storage().head(&key).await;
        head.is_err_and(|error| error.fault == Fault::NotFound)
    }
}

/// More than an object of this role has.
fn limit_bytes(role: ObjectRole) -> u64 {
    match role {
        ObjectRole::Details => DumpDetails::LIMIT_BYTES,
        ObjectRole::Checksum => CHECKSUM_LIMIT_BYTES,
        _ => GLOBALS_LIMIT_BYTES,
    }
}

/// More than the header of a file of age for hundreds of recipients.
const AGE_HEAD_BYTES: usize = 256 << 10;

/// More than a line for each of 9,999 parts.
const CHECKSUM_LIMIT_BYTES: u64 = 4 << 20;

/// More than a cluster with a million roles has, decoded.
const GLOBALS_LIMIT_BYTES: u64 = 256 << 20;

fn globals(object: &StoredObject, body: &Bytes, packing: Packing) -> Option<Finding> {
    let wrong = |what: String| Some(Finding::new("globals-unreadable", &object.name, what));
    let sql = match unpack(body, packing, GLOBALS_LIMIT_BYTES, &object.name.to_string()) {
        Ok(sql) => sql,
        Err(error) => return wrong(format!("is not readable: {error}")),
    };
    // The last line that pg_dumpall writes: an output that was cut does not have it.
    let tail = String::from_utf8_lossy(&sql[sql.len().saturating_sub(200)..]).into_owned();
    if tail.contains("dump complete") { None } else { wrong("breaks off before pg_dumpall's last line".to_owned()) }
}
