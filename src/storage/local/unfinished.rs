//! The file behind an object that is being written.
//!
//! Created beside its final name, locked for as long as its process writes, then fsynced, linked to the final name,
//! unlinked, and the folder fsynced: in this order, so that a crash at any point leaves either no object or a whole
//! one. `link` because it fails where the name is taken; `rename` would replace silently.

use std::fs::File;
use std::io::Write;
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rustix::fs::{Advice, AtFlags, FileType, FlockOperation, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::failure::{Failure, Result, Step};
use super::tree::{FILE_MODE, Tree, is_unfinished, stat, sync_folder};
use crate::digest::random_hex;
use crate::storage::{Fault, Prefix};

/// The disk works while the stream is still coming, so that the fsync at the end finds little left to do.
const WRITEBACK_EVERY_BYTES: u64 = 8 << 20;

/// Most bytes of one write. The kernel takes 2 GB into its cache in 0.35 s in pieces of this size and in 0.7 to 3.3 s in
/// pieces of 1 MiB and more, for which it looks for large pages (ext4, Linux 6.18).
const WRITE_BYTES: usize = 256 << 10;

/// The name of a temporary file: unlinking it twice does no harm, because no name is ever given twice.
#[derive(Clone, Debug)]
pub(super) struct Temporary {
    folder: Arc<OwnedFd>,
    name: String,
}

impl Temporary {
    pub fn unlink(&self) {
        match rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => tracing::warn!(name = self.name, %errno, "a temporary file stays until the next sweep"),
        }
    }
}

/// Dropping it removes the file.
#[derive(Debug)]
pub(super) struct Unfinished {
    temporary: Temporary,
    file: File,
    written_bytes: u64,
    handed_to_disk_bytes: u64,
}

impl Unfinished {
    /// Creates and locks the temporary file in `folder`, which is made if missing.
    pub fn begin(tree: &Tree, folder: &str) -> Result<Self> {
        tree.may_write()?;
        Self::begin_in(tree, tree.make_folder(folder)?)
    }

    fn begin_in(tree: &Tree, folder: OwnedFd) -> Result<Self> {
        let folder = Arc::new(folder);
        // A second try is needed only if a sweep met the file before it was locked.
        for _ in 0..16 {
            let name = format!("{}{}-{}", super::UNFINISHED, std::process::id(), random_hex(16));
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = match rustix::fs::openat(&folder, &name, flags, FILE_MODE) {
                Ok(file) => File::from(file),
                Err(Errno::EXIST) => continue,
                Err(errno) => return Err(errno).step(|| "create a temporary file".to_owned()),
            };
            let temporary = Temporary { folder: Arc::clone(&folder), name };
            let unfinished = Self { temporary, file, written_bytes: 0, handed_to_disk_bytes: 0 };
            if unfinished.lock()? {
                tree.adopt(&unfinished.file, FILE_MODE)?;
                return Ok(unfinished);
            }
        }
        Err(Failure::new(Fault::Unavailable, "every temporary file was swept before it could be locked"))
    }

    /// Tells sweeps that a live process writes here. False if one was faster and the file is gone or about to be.
    fn lock(&self) -> Result<bool> {
        match rustix::fs::flock(&self.file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(rustix::fs::fstat(&self.file)?.st_nlink > 0),
            Err(Errno::WOULDBLOCK) => Ok(false),
            // Without locks here a sweep cannot lock either, and removes nothing.
            Err(Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(true),
            Err(errno) => Err(errno).step(|| "lock the temporary file".to_owned()),
        }
    }

    /// What removes the file from elsewhere.
    pub fn temporary(&self) -> Temporary {
        self.temporary.clone()
    }

    pub fn write(&mut self, chunk: &[u8]) -> Result<()> {
        for piece in chunk.chunks(WRITE_BYTES) {
            self.file.write_all(piece)?;
        }
        self.written_bytes += chunk.len() as u64;
        let waiting_bytes = self.written_bytes - self.handed_to_disk_bytes;
        if let Some(length) = NonZeroU64::new(waiting_bytes).filter(|_| waiting_bytes >= WRITEBACK_EVERY_BYTES) {
            // On Linux this advice starts writeback of the range and does not wait; being dirty, the pages stay cached.
            // It is advice: a file system that does not follow it only makes the fsync longer.
            let _ = rustix::fs::fadvise(&self.file, self.handed_to_disk_bytes, Some(length), Advice::DontNeed);
            self.handed_to_disk_bytes = self.written_bytes;
        }
        Ok(())
    }

    /// Stores the file durably under `name` in its folder if that is free. Returns what the file system says of it.
    pub fn publish(self, name: &str) -> Result<Stat> {
        self.sync()?;
        let folder = &self.temporary.folder;
        if let Err(errno) = rustix::fs::linkat(folder, &self.temporary.name, folder, name, AtFlags::empty())
            && let Err(failure) = self.judge_link(errno)
        {
            if failure.fault == Fault::Exists {
                // Who is told that it exists may build on it: it has to last, too.
                sync_folder(folder).map_err(Failure::unsettled).step(|| "fsync the folder".to_owned())?;
            }
            return Err(failure);
        }
        self.temporary.unlink();
        self.settle(name)
    }

    /// Stores the file durably under `name`, in place of what is there.
    pub fn replace(self, name: &str) -> Result<Stat> {
        self.sync()?;
        let folder = &self.temporary.folder;
        rustix::fs::renameat(folder, &self.temporary.name, folder, name).step(|| "rename".to_owned())?;
        self.settle(name)
    }

    /// After a failed fsync the kernel may have dropped the pages and marked them clean: a second one would succeed
    /// without the data. So there is none; the file is discarded. What close could report later, fsync has reported.
    fn sync(&self) -> Result<()> {
        rustix::fs::fsync(&self.file).step(|| "fsync".to_owned())?;
        let stored_bytes = rustix::fs::fstat(&self.file)?.st_size;
        if u64::try_from(stored_bytes).ok() != Some(self.written_bytes) {
            let written_bytes = self.written_bytes;
            return Err(Failure::other(format!(
                "the file has {stored_bytes} bytes after {written_bytes} were written"
            )));
        }
        Ok(())
    }

    fn judge_link(&self, errno: Errno) -> Result<()> {
        match errno {
            // NFS repeats a request whose answer was lost, and then finds the name that it made itself.
            Errno::EXIST if rustix::fs::fstat(&self.file)?.st_nlink > 1 => Ok(()),
            Errno::EXIST => Err(Failure::new(Fault::Exists, "an object of this name exists")),
            Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::MLINK => Err(Failure::other(format!(
                "this file system cannot make hard links ({}), without which no object is safe from being overwritten; \
                 use a directory on another one",
                std::io::Error::from(errno)
            ))),
            errno => Err(errno).step(|| "link".to_owned()),
        }
    }

    /// The name is there; whether it survives a crash is decided here.
    fn settle(self, name: &str) -> Result<Stat> {
        let settled = sync_folder(&self.temporary.folder).and_then(|()| Ok(stat(&self.temporary.folder, name)?));
        settled.map_err(Failure::unsettled).step(|| "fsync the folder".to_owned())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        self.temporary.unlink();
    }
}

/// The clock of the file system: the time it gives to a new file.
pub(super) fn clock(tree: &Tree) -> Result<DateTime<Utc>> {
    let probe = Unfinished::begin(tree, "")?;
    modified(&rustix::fs::fstat(&probe.file)?)
}

/// When the file was written, in UTC.
pub(super) fn modified(stat: &Stat) -> Result<DateTime<Utc>> {
    let nanoseconds = u32::try_from(stat.st_mtime_nsec).unwrap_or(0);
    DateTime::from_timestamp(stat.st_mtime, nanoseconds)
        .ok_or_else(|| Failure::other(format!("its time {} s is out of range", stat.st_mtime)))
}

/// Removes the temporary files below `prefix` that no process has locked and returns how many there were.
pub(super) fn sweep(tree: &Tree, prefix: &Prefix) -> Result<usize> {
    tree.may_write()?;
    let mut removed = 0;
    tree.walk(prefix, |folder, path, name| {
        if is_unfinished(name)
            && remove_if_dead(folder, name).step(|| format!("sweep {:?}", format!("{path}{name}")))?
        {
            removed += 1;
        }
        Ok(())
    })?;
    Ok(removed)
}

fn remove_if_dead(folder: &OwnedFd, name: &str) -> Result<bool> {
    let flags = OFlags::RDWR | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = match rustix::fs::openat(folder, name, flags, Mode::empty()) {
        Ok(file) => file,
        Err(Errno::NOENT) => return Ok(false),
        // A link or a socket of this name is not ours.
        Err(Errno::LOOP | Errno::NXIO) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    };
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Ok(false);
    }
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK | Errno::NOLCK | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => return Ok(false),
        Err(errno) => return Err(errno.into()),
    }
    // Its writer may have finished between the open and the lock. A published file has another name by now, and a name
    // is never given twice, so unlinking this one can only remove what is dead.
    match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOENT) => Ok(false),
        Err(errno) => Err(errno.into()),
    }
}
