//! The archive of a dump on its way into a repository and out of it. Both ways read it to its end: what is stored is
//! complete, and so is what comes back.

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::layout::{DumpStem, ObjectRole, StoredName};
use super::manifest::DumpManifest;
use super::name::InstanceName;
use super::repository::Repository;
use crate::digest::Fingerprint;
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::archive::{Archive, ArchiveReader, DumpId};
use crate::progress::Task;
use crate::storage::{Key, ObjectReader};
use crate::stream::{Observer, decompress};

/// Reads an archive that passes by, and says which table is under way.
#[derive(Debug)]
pub struct ArchiveWatcher {
    reader: ArchiveReader,
    current: Option<DumpId>,
    task: Arc<dyn Task>,
}

impl ArchiveWatcher {
    pub fn new(task: Arc<dyn Task>) -> Self {
        Self { reader: ArchiveReader::new(), current: None, task }
    }

    /// Proves that the archive was complete.
    pub fn finish(self) -> Result<Archive> {
        self.reader.finish()
    }
}

impl Observer for ArchiveWatcher {
    fn observe(&mut self, bytes: &[u8]) -> Result<()> {
        self.reader.push(bytes)?;
        let entry = self.reader.current();
        let current = entry.map(|entry| entry.dump_id);
        if current != self.current {
            self.current = current;
            if let Some(entry) = entry {
                self.task.note(&entry.tag);
            }
        }
        Ok(())
    }
}

/// A writer whose bytes are watched on their way.
struct Watched<W> {
    watcher: ArchiveWatcher,
    output: W,
}

impl<W: Write> Write for Watched<W> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let written = self.output.write(bytes)?;
        self.watcher.observe(&bytes[..written]).map_err(std::io::Error::other)?;
        Ok(written)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.output.flush()
    }
}

/// Reads the stored archive of a backup to its end: size and SHA-256 of what is stored, every frame decoded, size and
/// SHA-256 of the plain archive, and its structure entry by entry. The plain bytes go to `output` as they are decoded,
/// so nothing of them may be *used* before this returns.
pub async fn read_archive<W: Write + Send + 'static>(
    repository: &Repository,
    stem: &DumpStem,
    manifest: &DumpManifest,
    output: W,
    threads: NonZeroUsize,
    task: Arc<dyn Task>,
) -> Result<(Archive, W)> {
    let object = manifest
        .object(ObjectRole::Archive)
        .ok_or_else(|| Error::new(Kind::Verification, format!("the manifest of {} names no archive", manifest.id)))?;
    let key = object_key(&manifest.instance, stem, ObjectRole::Archive);
    let doing = || format!("read {key}");
    let output = Watched { watcher: ArchiveWatcher::new(task.clone()), output };
    let mut decoder = decompress(output, threads, Some(manifest.plain.size_bytes), task)?;
    let mut reader = repository.storage().read(&key, None).await?;
    while let Some(chunk) = reader.next().await? {
        decoder.push(chunk).await.doing(Kind::Verification, doing)?;
    }
    let decoded = decoder.finish().await.doing(Kind::Verification, doing)?;
    expect(&key, "stored bytes", object.fingerprint(), decoded.stored)?;
    expect(&key, "decoded archive", manifest.plain, decoded.plain)?;
    let Watched { watcher, output } = decoded.output;
    Ok((watcher.finish().doing(Kind::Verification, doing)?, output))
}

/// The key of an object of a backup.
pub fn object_key(instance: &InstanceName, stem: &DumpStem, role: ObjectRole) -> Key {
    StoredName::Dump { instance: instance.clone(), stem: stem.clone(), role }.key()
}

/// Size and SHA-256 of an object, as the store delivers it.
pub async fn fingerprint(mut reader: Box<dyn ObjectReader>, task: &dyn Task) -> Result<Fingerprint> {
    let mut seen = crate::digest::Fingerprinter::new();
    while let Some(chunk) = reader.next().await? {
        task.advance(chunk.len() as u64);
        seen.update(&chunk);
    }
    Ok(seen.finish())
}

/// `Ok` if what was read is what was written.
pub fn expect(key: &Key, what: &str, written: Fingerprint, read: Fingerprint) -> Result<()> {
    if written == read {
        return Ok(());
    }
    let cause = if written.size_bytes == read.size_bytes {
        format!("its SHA-256 is {}, the manifest says {}", read.sha256, written.sha256)
    } else {
        format!("it has {} bytes, the manifest says {}", read.size_bytes, written.size_bytes)
    };
    Err(Error::new(Kind::Verification, format!("compare the {what} of {key} with the manifest"))
        .because(cause)
        .hint("this copy is damaged: use another backup, and make a new one"))
}
