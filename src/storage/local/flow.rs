//! Bytes into and out of files. Each side keeps one piece of file work running in the background, so that the disk and
//! whoever makes or takes the bytes work at the same time; an idle stream occupies no thread.

use std::mem;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use rustix::buffer::spare_capacity;
use rustix::io::Errno;
use tokio::task::{JoinHandle, spawn_blocking};

use super::failure::{Failure, Result, Step};
use super::unfinished::{Temporary, Unfinished, modified};
use crate::storage::{self, Fault, Key, ObjectMeta, ObjectReader, ObjectWriter};

const READ_BYTES: u64 = 1 << 20;

pub(super) struct LocalWriter {
    key: Key,
    address: String,
    temporary: Option<Temporary>,
    state: State,
}

enum State {
    Idle(Unfinished),
    Writing(JoinHandle<Result<Unfinished>>),
    /// A write failed, or its future was dropped and its chunk with it: what comes next would leave a hole.
    Broken,
}

impl LocalWriter {
    pub fn new(key: Key, address: String, unfinished: Unfinished) -> Self {
        Self { key, address, temporary: Some(unfinished.temporary()), state: State::Idle(unfinished) }
    }

    /// Waits for the write that is under way. Until the file is put back, the writer is broken.
    async fn take(&mut self) -> Result<Unfinished> {
        match mem::replace(&mut self.state, State::Broken) {
            State::Idle(unfinished) => Ok(unfinished),
            State::Writing(work) => joined(work.await),
            State::Broken => Err(Failure::other("an earlier write failed or was interrupted")),
        }
    }

    fn failed(&self, failure: Failure) -> storage::StorageError {
        failure.at(format!("create {:?}", self.key), &self.address)
    }
}

#[async_trait]
impl ObjectWriter for LocalWriter {
    async fn write(&mut self, chunk: Bytes) -> storage::Result<()> {
        let mut unfinished = self.take().await.map_err(|failure| self.failed(failure))?;
        self.state = State::Writing(spawn_blocking(move || unfinished.write(&chunk).map(|()| unfinished)));
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> storage::Result<ObjectMeta> {
        let unfinished = self.take().await.map_err(|failure| self.failed(failure))?;
        // From here on the file removes itself, in the background if this future is dropped.
        self.temporary = None;
        let key = self.key.clone();
        let published = joined(spawn_blocking(move || publish(unfinished, key)).await);
        published.map_err(|failure| self.failed(failure))
    }

    async fn abort(mut self: Box<Self>) {
        // An error leaves nothing to remove: dropping the file did.
        if let Ok(unfinished) = self.take().await {
            let _ = spawn_blocking(move || drop(unfinished)).await;
        }
    }
}

impl Drop for LocalWriter {
    /// Takes the name away at once, also while a write is still under way; that write then frees the space.
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            temporary.unlink();
        }
    }
}

/// Stores what was written as the object `key`, if the name is free.
pub(super) fn publish(unfinished: Unfinished, key: Key) -> Result<ObjectMeta> {
    let stat = unfinished.publish(key.file_name())?;
    let modified = modified(&stat)?;
    Ok(ObjectMeta { key, size_bytes: u64::try_from(stat.st_size).unwrap_or(0), modified })
}

/// The answer of work on a blocking thread. A panic there is a defect, not an answer of the file system.
pub(super) fn joined<T>(answer: std::result::Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    answer.map_err(|error| Failure::new(Fault::Unavailable, error))?
}

pub(super) struct LocalReader {
    key: Key,
    address: String,
    file: Arc<OwnedFd>,
    next_offset: u64,
    end_offset: u64,
    ahead: Option<JoinHandle<Result<Bytes>>>,
}

impl LocalReader {
    pub fn new(key: Key, address: String, file: OwnedFd, range: std::ops::Range<u64>) -> Self {
        let (next_offset, end_offset) = (range.start, range.end);
        Self { key, address, file: Arc::new(file), next_offset, end_offset, ahead: None }
    }

    fn read_ahead(&mut self) {
        if self.ahead.is_none() && self.next_offset < self.end_offset {
            let (file, offset) = (Arc::clone(&self.file), self.next_offset);
            let length = READ_BYTES.min(self.end_offset - offset) as usize;
            self.ahead = Some(spawn_blocking(move || read_at(&file, offset, length)));
        }
    }
}

#[async_trait]
impl ObjectReader for LocalReader {
    async fn next(&mut self) -> storage::Result<Option<Bytes>> {
        self.read_ahead();
        // Kept in `self` while we wait: a dropped future loses no bytes.
        let Some(work) = &mut self.ahead else { return Ok(None) };
        let answer = joined(work.await);
        self.ahead = None;
        match answer {
            Ok(chunk) => {
                self.next_offset += chunk.len() as u64;
                self.read_ahead();
                Ok(Some(chunk))
            }
            Err(failure) => Err(failure.at(format!("read {:?}", self.key), &self.address)),
        }
    }
}

fn read_at(file: &OwnedFd, offset: u64, length: usize) -> Result<Bytes> {
    let mut chunk = Vec::with_capacity(length);
    loop {
        match rustix::io::pread(file, spare_capacity(&mut chunk), offset) {
            // The size was taken when the object was opened, and objects do not shrink.
            Ok(0) => return Err(Failure::other(format!("the file ends at byte {offset}, before its size said"))),
            Ok(_) => {
                chunk.truncate(length);
                return Ok(chunk.into());
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno).step(|| format!("at byte {offset}")),
        }
    }
}
