//! The archive of a dump on its way into a repository and out of it. Both ways read it to its end: what is stored is
//! complete, and so is what comes back. An archive that is a directory is for [`super::directory`].

use std::io::Write;
use std::num::NonZeroUsize;
use std::sync::Arc;

use super::encryption::foreign_key;
use super::layout::{Coding, DumpStem, Ending, Form, Packing};
use super::manifest::{DumpManifest, StoredObject};
use super::repository::Repository;
use crate::digest::{Fingerprint, Fingerprinter};
use crate::error::{Doing, Error, Kind, Result};
use crate::pg::archive::{Archive, Content, DumpId, StreamReader};
use crate::progress::{Silent, Task};
use crate::storage::{Key, ObjectReader};
use crate::stream::{Decompressor, Identities, Observer, decompress, decrypt, pass};

/// Reads an archive that passes by, and says which table is under way.
#[derive(Debug)]
pub struct ArchiveWatcher {
    reader: StreamReader,
    current: Option<DumpId>,
    task: Arc<dyn Task>,
}

impl ArchiveWatcher {
    /// Of an archive in one stream: a directory is none.
    pub fn new(form: Form, task: Arc<dyn Task>) -> Result<Self> {
        let reader = match form {
            Form::Custom => StreamReader::custom(),
            Form::Tar => StreamReader::tar(),
            Form::Script => StreamReader::script(),
            Form::GzipScript => StreamReader::gzip_script(),
            Form::Directory => return Err(Error::new(Kind::Unexpected, "read a directory as one stream")),
        };
        Ok(Self { reader, current: None, task })
    }

    /// Proves that the archive was complete.
    pub fn finish(self) -> Result<Content> {
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

/// As [`read_dump`], for an archive of the custom format.
pub async fn read_archive<W: Write + Send + 'static>(
    repository: &Repository,
    stem: &DumpStem,
    manifest: &DumpManifest,
    output: W,
    threads: NonZeroUsize,
    task: Arc<dyn Task>,
) -> Result<(Archive, W)> {
    match read_dump(repository, stem, manifest, output, threads, task).await? {
        (Content::Archive(archive), output) => Ok((*archive, output)),
        (Content::Script(_), _) => Err(Error::refused(format!("{stem} is a script, which is not for pg_restore"))),
    }
}

/// Reads the stored archive of a backup to its end: size and SHA-256 of each object it is stored in, every frame
/// decoded, size and SHA-256 of the archive as `pg_dump` wrote it, its structure entry by entry, and what `pg_dump`
/// compressed inside (all but lz4). The archive goes to `output` as it comes, so nothing of it may be *used*
/// before this returns. Of any format but a directory.
pub async fn read_dump<W: Write + Send + 'static>(
    repository: &Repository,
    stem: &DumpStem,
    manifest: &DumpManifest,
    output: W,
    threads: NonZeroUsize,
    task: Arc<dyn Task>,
) -> Result<(Content, W)> {
    let no_archive = || Error::new(Kind::Verification, format!("{} names no archive", stem.object(Ending::Manifest)));
    let first = manifest.archive().next().ok_or_else(no_archive)?;
    let form = manifest.form();
    let output = Watched { watcher: ArchiveWatcher::new(form, task.clone())?, output };
    let expected_bytes = manifest.plain.size_bytes;
    let mut decoder = decoder(first.name.ending.packing(), output, Some(expected_bytes), threads, task)?;
    let key = first.key(&manifest.instance);
    if manifest.encryption.is_some() {
        let reader = EncryptedReader::new(repository, manifest).await?;
        for object in manifest.archive() {
            reader.push(object, &mut decoder).await?;
        }
        return finish(&key, None, manifest.plain, decoder).await;
    }
    if first.name.ending == Ending::whole(form, first.name.ending.packing()) {
        push_whole(repository, &key, &mut decoder).await?;
        return finish(&key, Some(first.fingerprint()), manifest.plain, decoder).await;
    }
    for part in manifest.archive() {
        push_part(repository, &part.key(&manifest.instance), part.fingerprint(), &mut decoder).await?;
    }
    finish(&key, None, manifest.plain, decoder).await
}

/// Undoes what stands around an object. Without `expected_bytes` the output has to have a limit of its own.
pub(super) fn decoder<W: Write + Send + 'static>(
    packing: Packing,
    output: W,
    expected_bytes: Option<u64>,
    threads: NonZeroUsize,
    task: Arc<dyn Task>,
) -> Result<Decompressor<W>> {
    match packing.coding {
        Coding::Zstd => decompress(output, threads, expected_bytes, task),
        Coding::Plain => pass(output, expected_bytes.unwrap_or(u64::MAX), task),
    }
}

async fn push_whole<W>(repository: &Repository, key: &Key, decoder: &mut Decompressor<W>) -> Result<()> {
    let mut reader = repository.storage().read(key, None).await?;
    while let Some(chunk) = reader.next().await? {
        decoder.push(chunk).await.doing(Kind::Verification, || format!("read {key}"))?;
    }
    Ok(())
}

/// A part is compared with the manifest before the next one is begun, also when the decoder has already stumbled: so an
/// error names the part that is damaged, missing or in the place of another.
pub(super) async fn push_part<W>(
    repository: &Repository,
    key: &Key,
    written: Fingerprint,
    decoder: &mut Decompressor<W>,
) -> Result<()> {
    let mut reader = repository.storage().read(key, None).await?;
    let mut seen = Fingerprinter::new();
    let mut pushed = Ok(());
    while let Some(chunk) = reader.next().await? {
        seen.update(&chunk);
        if pushed.is_ok() {
            pushed = decoder.push(chunk).await.doing(Kind::Verification, || format!("read {key}"));
        }
    }
    expect(key, "stored bytes", written, seen.finish())?;
    pushed
}

/// Reads objects that are encrypted, each for itself.
pub(super) struct EncryptedReader<'a> {
    repository: &'a Repository,
    manifest: &'a DumpManifest,
    identities: Arc<Identities>,
}

impl<'a> EncryptedReader<'a> {
    pub async fn new(repository: &'a Repository, manifest: &'a DumpManifest) -> Result<Self> {
        Ok(Self { repository, manifest, identities: repository.identities(manifest).await? })
    }

    /// Pushes what the object was before it was encrypted.
    pub async fn push<W>(&self, object: &StoredObject, decoder: &mut Decompressor<W>) -> Result<()> {
        let key = object.key(&self.manifest.instance);
        let pushed = self.decrypt(&key, object, decoder).await.doing(Kind::Verification, || format!("read {key}"));
        let Err(error) = pushed else { return Ok(()) };
        if matches!(error.kind, Kind::Usage | Kind::Verification) {
            // Damage in the header looks as if no key fitted, and damage elsewhere tells less than what it does to the
            // hash: what is stored is looked at whole.
            let reader = self.repository.storage().read(&key, None).await?;
            expect(&key, "stored bytes", object.fingerprint(), fingerprint(reader, &Silent).await?)?;
        }
        Err(error)
    }

    async fn decrypt<W>(&self, key: &Key, object: &StoredObject, decoder: &mut Decompressor<W>) -> Result<()> {
        let mut reader = self.repository.storage().read(key, None).await?;
        let mut cipher = decrypt(Arc::clone(&self.identities))?;
        while let Some(chunk) = reader.next().await? {
            let mut pending = Some(chunk);
            while pending.is_some() {
                let piece = cipher.push(&mut pending).await.map_err(|error| foreign_key(error, self.manifest))?;
                if let Some(piece) = piece {
                    decoder.push(piece).await?;
                }
            }
        }
        cipher.end();
        while let Some(piece) = cipher.rest().await {
            decoder.push(piece).await?;
        }
        let seen = cipher.finish().await.map_err(|error| foreign_key(error, self.manifest))?;
        expect(key, "stored bytes", object.fingerprint(), seen)
    }
}

async fn finish<W>(
    key: &Key,
    whole: Option<Fingerprint>,
    plain: Fingerprint,
    decoder: Decompressor<Watched<W>>,
) -> Result<(Content, W)> {
    let doing = || format!("read {key}");
    let decoded = decoder.finish().await.doing(Kind::Verification, doing)?;
    if let Some(whole) = whole {
        expect(key, "stored bytes", whole, decoded.stored)?;
    }
    expect(key, "decoded archive", plain, decoded.plain)?;
    let Watched { watcher, output } = decoded.output;
    Ok((watcher.finish().doing(Kind::Verification, doing)?, output))
}

/// Size and SHA-256 of an object, as the store delivers it.
pub async fn fingerprint(reader: Box<dyn ObjectReader>, task: &dyn Task) -> Result<Fingerprint> {
    fingerprint_and_head(reader, 0, task).await.map(|(seen, _)| seen)
}

/// As [`fingerprint`], with the first bytes of the object.
pub async fn fingerprint_and_head(
    mut reader: Box<dyn ObjectReader>,
    head_bytes: usize,
    task: &dyn Task,
) -> Result<(Fingerprint, Vec<u8>)> {
    let (mut seen, mut head) = (Fingerprinter::new(), Vec::new());
    while let Some(chunk) = reader.next().await? {
        task.advance(chunk.len() as u64);
        seen.update(&chunk);
        head.extend_from_slice(&chunk[..chunk.len().min(head_bytes - head.len())]);
    }
    Ok((seen.finish(), head))
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
