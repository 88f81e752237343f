//! The multipart uploads of this host, on this host.
//!
//! What an unfinished upload holds is paid for and in no listing, and not every store tells which there are. So each is
//! noted in a file before it begins; the file goes when the upload is known to be over. While the upload lives the file
//! is locked: what can be locked was left by a process that is gone, or by a writer that could not find out how its
//! upload ended. The files are small, and reading and writing them is not worth another thread.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::digest::random_hex;
use crate::error::{Doing as _, Kind, Result};
use crate::storage::{Key, Prefix};

#[derive(Clone, Debug)]
pub(super) struct Journal {
    folder: Arc<Path>,
    store: Arc<str>,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Note {
    store: String,
    key: String,
    /// None from before the upload is begun until its id is known.
    upload_id: Option<String>,
    /// An answer was lost with which another upload of this key may have begun.
    #[serde(default)]
    doubtful: bool,
}

/// The entry of one upload, which is ours while this lives.
#[derive(Debug)]
pub(super) struct Entry {
    path: PathBuf,
    file: File,
    note: Note,
}

/// What is to be cleaned up for an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Left {
    pub upload_id: Option<String>,
    pub doubtful: bool,
    /// By the clock of this host. What the entry tells of began before.
    pub noted_at: SystemTime,
}

impl Journal {
    /// `store` is the address; of several stores' entries in one folder only its own are seen.
    pub fn new(folder: PathBuf, store: &Arc<str>) -> Self {
        Self { folder: folder.into(), store: Arc::clone(store) }
    }

    /// Notes an upload that is about to begin.
    pub fn begin(&self, key: &Key) -> Result<Entry> {
        let action = || format!("note an upload in {}", self.folder.display());
        let folder = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder);
        folder.doing(Kind::Storage, action)?;
        let note = Note { store: self.store.to_string(), key: key.to_string(), upload_id: None, doubtful: false };
        loop {
            let path = self.folder.join(format!("{}.json", random_hex(32)));
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).mode(0o600).open(&path);
            let file = file.doing(Kind::Storage, action)?;
            // A sweep that met the file before it was locked has removed it, or is about to.
            if lock(&file).doing(Kind::Storage, action)? && file.metadata().doing(Kind::Storage, action)?.nlink() > 0 {
                let mut entry = Entry { path, file, note: note.clone() };
                entry.write()?;
                return Ok(entry);
            }
        }
    }

    /// The ids of all uploads of this host that are noted, whoever holds them.
    pub fn known_ids(&self) -> BTreeSet<String> {
        let files = std::fs::read_dir(&self.folder).into_iter().flatten().flatten();
        let notes = files.filter_map(|file| serde_json::from_slice::<Note>(&std::fs::read(file.path()).ok()?).ok());
        notes.filter_map(|note| note.upload_id).collect()
    }

    /// The entries below `prefix` that no living writer holds, with their keys. Each is ours from here on.
    pub fn abandoned(&self, prefix: &Prefix) -> Result<Vec<(Key, Entry)>> {
        let action = || format!("read the uploads in {}", self.folder.display());
        let files = match std::fs::read_dir(&self.folder) {
            Ok(files) => files,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).doing(Kind::Storage, action),
        };
        let mut abandoned = Vec::new();
        for file in files {
            let path = file.doing(Kind::Storage, action)?.path();
            if path.extension().is_none_or(|extension| extension != "json") {
                continue;
            }
            if let Some(entry) = take(&path).doing(Kind::Storage, action)?
                && entry.note.store == *self.store
                && let Ok(key) = Key::new(entry.note.key.as_str())
                && prefix.contains(&key)
            {
                abandoned.push((key, entry));
            }
        }
        Ok(abandoned)
    }
}

impl Entry {
    /// Notes the id under which the upload can be removed.
    pub fn begun(&mut self, upload_id: &str) -> Result<()> {
        self.note.upload_id = Some(upload_id.to_owned());
        self.write()
    }

    /// Notes that another upload of the key may have begun, whose id nobody knows.
    pub fn doubt(&mut self) -> Result<()> {
        self.note.doubtful = true;
        self.write()
    }

    pub fn left(&self) -> Left {
        let upload_id = self.note.upload_id.clone();
        // One that died while it asked does not know whether it was answered.
        let doubtful = self.note.doubtful || upload_id.is_none();
        // Without a time nothing is known to be ours.
        let noted_at = self.file.metadata().and_then(|about| about.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        Left { upload_id, doubtful, noted_at }
    }

    /// The upload is over, and nothing of it is left.
    pub fn remove(self) {
        // A file that stays is found by the next sweep, which finds nothing behind it.
        if let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!("remove {}: {error}", self.path.display());
        }
    }

    fn write(&mut self) -> Result<()> {
        let path = self.path.display().to_string();
        let write = || -> std::io::Result<()> {
            let mut body = serde_json::to_vec(&self.note)?;
            // One write over what stood there, and never shorter. Were the file emptied first, a process that is killed
            // just then would leave no id, and nobody would ever remove its upload.
            let before = usize::try_from(self.file.metadata()?.len()).unwrap_or(0);
            body.resize(body.len().max(before), b' ');
            self.file.write_all_at(&body, 0)?;
            self.file.sync_data()
        };
        write().doing(Kind::Storage, || format!("write {path}"))
    }
}

/// The entry in the file, if no process holds it. A file without sense is what a host that crashed left: it is removed.
fn take(path: &Path) -> std::io::Result<Option<Entry>> {
    let mut file = match OpenOptions::new().read(true).write(true).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    if !lock(&file)? || file.metadata()?.nlink() == 0 {
        return Ok(None);
    }
    let mut body = Vec::new();
    file.read_to_end(&mut body)?;
    match serde_json::from_slice(&body) {
        Ok(note) => Ok(Some(Entry { path: path.to_owned(), file, note })),
        Err(_) => {
            std::fs::remove_file(path)?;
            Ok(None)
        }
    }
}

/// False if somebody else holds it, or if it cannot be told.
fn lock(file: &File) -> std::io::Result<bool> {
    match rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(true),
        Err(Errno::WOULDBLOCK) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    #[test]
    fn a_living_writer_keeps_its_entry_and_a_dead_one_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().join("uploads"), &"s3://backups".into());
        assert!(journal.abandoned(&Prefix::root()).unwrap().is_empty(), "there is no folder yet");
        let mut entry = journal.begin(&key("main/x")).unwrap();
        entry.begun("id-1").unwrap();
        assert!(journal.abandoned(&Prefix::root()).unwrap().is_empty());
        // Shorter words do not leave the end of longer ones behind.
        entry.doubt().unwrap();
        drop(entry);
        assert!(journal.abandoned(&Prefix::folder("other").unwrap()).unwrap().is_empty());
        let elsewhere = Journal::new(folder.path().join("uploads"), &"s3://others".into());
        assert!(elsewhere.abandoned(&Prefix::root()).unwrap().is_empty());

        let mut found = journal.abandoned(&Prefix::root()).unwrap();
        assert_eq!(found.len(), 1);
        let (found_key, entry) = found.pop().unwrap();
        assert_eq!(found_key, key("main/x"));
        let Left { upload_id, doubtful, .. } = entry.left();
        assert_eq!((upload_id.as_deref(), doubtful), (Some("id-1"), true));
        assert!(journal.abandoned(&Prefix::root()).unwrap().is_empty(), "it is held by its finder");
        entry.remove();
        assert_eq!(std::fs::read_dir(folder.path().join("uploads")).unwrap().count(), 0);
    }

    #[test]
    fn who_died_while_it_asked_leaves_a_doubt() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().to_owned(), &"s3://backups".into());
        drop(journal.begin(&key("x")).unwrap());
        let (_, entry) = journal.abandoned(&Prefix::root()).unwrap().pop().unwrap();
        let Left { upload_id, doubtful, .. } = entry.left();
        assert_eq!((upload_id, doubtful), (None, true));
    }

    #[test]
    fn what_a_crash_left_without_sense_is_removed_and_strangers_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let journal = Journal::new(folder.path().to_owned(), &"s3://backups".into());
        std::fs::write(folder.path().join("0.json"), "").unwrap();
        std::fs::write(folder.path().join("notes.txt"), "").unwrap();
        assert!(journal.abandoned(&Prefix::root()).unwrap().is_empty());
        let left: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
    }
}
