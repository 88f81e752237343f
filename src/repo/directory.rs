//! A dump in the directory format on its way into a repository and out of it: each file is an object of its own. Both
//! ways read all of them to their end, and prove that every file is there which the table of contents names.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use super::archive::{EncryptedReader, decoder, expect, push_part};
use super::layout::{DumpStem, Ending};
use super::manifest::{DumpManifest, StoredObject};
use super::repository::Repository;
use crate::digest::Fingerprint;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::pg::archive::{Archive, LargeObjectList, Member, Members, TocFile, TocFileReader};
use crate::progress::Task;
use crate::stream::{Decompressor, Observer};

/// Reads a file of an archive that passes by, for what it says of the others.
#[derive(Debug)]
pub enum MemberWatcher {
    Toc(Box<TocFileReader>),
    List(LargeObjectList),
    Passing,
}

impl MemberWatcher {
    pub fn new(member: Member) -> Self {
        match member {
            Member::Toc => Self::Toc(Box::default()),
            Member::LargeObjects(_) => Self::List(LargeObjectList::default()),
            Member::Data(_) | Member::LargeObject(_) => Self::Passing,
        }
    }
}

impl Observer for MemberWatcher {
    fn observe(&mut self, bytes: &[u8]) -> Result<()> {
        match self {
            Self::Toc(reader) => reader.push(bytes),
            Self::List(list) => list.push(bytes),
            Self::Passing => Ok(()),
        }
    }
}

/// The files that were read, in any order.
#[derive(Debug, Default)]
pub struct DirectoryWatcher {
    front: Option<TocFile>,
    members: Members,
    plain: Vec<(Member, Fingerprint)>,
}

impl DirectoryWatcher {
    /// A file was read to its end.
    pub fn took(&mut self, member: Member, watcher: MemberWatcher, plain: Fingerprint) -> Result<()> {
        self.members.saw(member, plain.size_bytes)?;
        self.plain.push((member, plain));
        match watcher {
            MemberWatcher::Toc(reader) => self.front = Some(reader.finish()?),
            MemberWatcher::List(list) => self.members.listed(list)?,
            MemberWatcher::Passing => {}
        }
        Ok(())
    }

    /// Proves that the archive was complete. Its fingerprint is [`DumpManifest::of_directory`].
    pub fn finish(self) -> Result<(Archive, Fingerprint)> {
        let Some(front) = self.front else {
            return Err(Error::new(Kind::Verification, "read the archive: it has no toc.dat")
                .hint("this archive cannot be restored whole: make a new dump, or use another copy"));
        };
        Ok((self.members.finish(front)?, DumpManifest::of_directory(&self.plain)))
    }
}

/// What comes out of an object: watched, and written where it is wanted.
struct Unpacked {
    watcher: MemberWatcher,
    file: Option<File>,
    left_bytes: u64,
}

impl Write for Unpacked {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.left_bytes = less(self.left_bytes, bytes)?;
        if let Some(file) = &mut self.file {
            file.write_all(bytes)?;
        }
        self.watcher.observe(bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Reads the stored directory of a backup to its end, as [`super::archive::read_dump`] does with archives in one
/// stream: size and SHA-256 of each object, every frame decoded, the table of contents and the lists of large objects
/// against the files that are there. The files go into the empty directory `into`, where that is wanted; nothing of them
/// may be *used* before this returns.
pub async fn read_directory(
    repository: &Repository,
    stem: &DumpStem,
    manifest: &DumpManifest,
    into: Option<&Path>,
    threads: NonZeroUsize,
    task: Arc<dyn Task>,
) -> Result<Archive> {
    let mut directory = DirectoryWatcher::default();
    let mut left_bytes = manifest.plain.size_bytes;
    for (member, object) in manifest.members() {
        let file = into.map(|folder| create(folder, member)).transpose()?;
        let unpacked = Unpacked { watcher: MemberWatcher::new(member), file, left_bytes };
        let (unpacked, plain) = read_member(repository, manifest, object, unpacked, threads, task.clone()).await?;
        left_bytes = unpacked.left_bytes;
        directory.took(member, unpacked.watcher, plain)?;
    }
    let (archive, plain) = directory.finish()?;
    expect(&stem.object(Ending::Manifest).key(&manifest.instance), "decoded files", manifest.plain, plain)?;
    Ok(archive)
}

/// The table of contents of a stored directory, and nothing else of it.
pub async fn read_contents(
    repository: &Repository,
    manifest: &DumpManifest,
    threads: NonZeroUsize,
    task: Arc<dyn Task>,
) -> Result<Vec<u8>> {
    let toc = manifest.members().find(|(member, _)| *member == Member::Toc);
    let no_toc = || Error::new(Kind::Verification, format!("{} names no table of contents", manifest.id));
    let (_, object) = toc.ok_or_else(no_toc)?;
    let output = Contents { bytes: Vec::new(), left_bytes: manifest.plain.size_bytes };
    let mut decoder = decoder(object.name.ending.packing(), output, None, threads, task)?;
    push_member(repository, manifest, object, &mut decoder).await?;
    let key = object.key(&manifest.instance);
    Ok(decoder.finish().await.doing(Kind::Verification, || format!("read {key}"))?.output.bytes)
}

/// A file that is held in memory, and is no larger than all files together.
struct Contents {
    bytes: Vec<u8>,
    left_bytes: u64,
}

impl Write for Contents {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.left_bytes = less(self.left_bytes, bytes)?;
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// What one object holds is not in the manifest, what all hold is.
fn less(left_bytes: u64, bytes: &[u8]) -> std::io::Result<u64> {
    left_bytes.checked_sub(bytes.len() as u64).ok_or_else(|| {
        std::io::Error::other(Error::new(Kind::Verification, "the directory is larger than its manifest says"))
    })
}

fn create(folder: &Path, member: Member) -> Result<File> {
    let path = folder.join(member.to_string());
    let created = File::options().write(true).create_new(true).mode(0o600).open(&path);
    created.doing(Kind::Storage, || format!("create {}", path.display()))
}

async fn read_member(
    repository: &Repository,
    manifest: &DumpManifest,
    object: &StoredObject,
    output: Unpacked,
    threads: NonZeroUsize,
    task: Arc<dyn Task>,
) -> Result<(Unpacked, Fingerprint)> {
    let key = object.key(&manifest.instance);
    task.note(&object.name.to_string());
    let mut decoder = decoder(object.name.ending.packing(), output, None, threads, task)?;
    push_member(repository, manifest, object, &mut decoder).await?;
    let decoded = decoder.finish().await.doing(Kind::Verification, || format!("read {key}"))?;
    Ok((decoded.output, decoded.plain))
}

/// A stored file, as it was before it was encrypted.
async fn push_member<W>(
    repository: &Repository,
    manifest: &DumpManifest,
    object: &StoredObject,
    decoder: &mut Decompressor<W>,
) -> Result<()> {
    if object.name.ending.packing().encrypted {
        return EncryptedReader::new(repository, manifest).await?.push(object, decoder).await;
    }
    push_part(repository, &object.key(&manifest.instance), object.fingerprint(), decoder).await
}
