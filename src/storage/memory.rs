//! Objects in memory: the contract without a disk, for tests of everything above the storage layer.

use std::collections::BTreeMap;
use std::mem;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use chrono::{DateTime, Utc};

use super::{CreateOnly, Fault, Key, ObjectMeta, ObjectReader, ObjectWriter, Prefix, Result, Storage, StorageError};
use crate::clock::{Clock, SystemClock};

const ADDRESS: &str = "memory:";

/// Small enough that a test object of a megabyte arrives in several chunks, as it does from a real store.
const READ_BYTES: u64 = 64 << 10;

/// A repository in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryStorage {
    clock: Arc<dyn Clock>,
    objects: Arc<Mutex<BTreeMap<Key, Object>>>,
}

#[derive(Clone, Debug)]
struct Object {
    body: Bytes,
    modified: DateTime<Utc>,
}

impl Default for MemoryStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStorage {
    pub fn new() -> Self {
        Self::with_clock(Arc::new(SystemClock))
    }

    /// A store whose own clock is `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self { clock, objects: Arc::default() }
    }

    /// Every object as it is now: to compare, to damage, to go back to.
    pub fn contents(&self) -> BTreeMap<Key, Bytes> {
        self.objects().iter().map(|(key, object)| (key.clone(), object.body.clone())).collect()
    }

    /// Makes `contents` all that is stored, as of now.
    pub fn restore(&self, contents: BTreeMap<Key, Bytes>) {
        let modified = self.clock.now();
        *self.objects() = contents.into_iter().map(|(key, body)| (key, Object { body, modified })).collect();
    }

    fn objects(&self) -> MutexGuard<'_, BTreeMap<Key, Object>> {
        self.objects.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn insert_new(&self, key: &Key, body: Bytes) -> Result<ObjectMeta> {
        let object = Object { body, modified: self.clock.now() };
        let mut objects = self.objects();
        if objects.contains_key(key) {
            return Err(failed(Fault::Exists, format!("create {key:?}"), "an object of this name exists"));
        }
        let meta = object.meta(key);
        objects.insert(key.clone(), object);
        Ok(meta)
    }

    fn get_object(&self, verb: &str, key: &Key) -> Result<Object> {
        let found = self.objects().get(key).cloned();
        found.ok_or_else(|| failed(Fault::NotFound, format!("{verb} {key:?}"), "no such object"))
    }
}

impl Object {
    fn meta(&self, key: &Key) -> ObjectMeta {
        ObjectMeta { key: key.clone(), size_bytes: self.body.len() as u64, modified: self.modified }
    }
}

fn failed(fault: Fault, action: String, cause: impl Into<String>) -> StorageError {
    StorageError { fault, action, address: ADDRESS.to_owned(), source: cause.into().into() }
}

#[async_trait]
impl Storage for MemoryStorage {
    fn address(&self) -> &str {
        ADDRESS
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.insert_new(key, body).map(drop)
    }

    async fn replace(&self, key: &Key, body: Bytes) -> Result<()> {
        let object = Object { body, modified: self.clock.now() };
        self.objects().insert(key.clone(), object);
        Ok(())
    }

    /// Who creates holds the lock of the map.
    async fn prove_create_only(&self) -> Result<CreateOnly> {
        Ok(CreateOnly::IfNoneMatch)
    }

    async fn writer(&self, key: &Key, _expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(MemoryWriter { storage: self.clone(), key: key.clone(), body: BytesMut::new() }))
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Box<dyn ObjectReader>> {
        let Object { body, .. } = self.get_object("read", key)?;
        let size_bytes = body.len() as u64;
        let Range { start, end } = range.unwrap_or(0..size_bytes);
        if start > end || end > size_bytes {
            let cause = format!("bytes {start} to {end} do not lie in its {size_bytes} bytes");
            return Err(failed(Fault::Other, format!("read {key:?}"), cause));
        }
        Ok(Box::new(MemoryReader { rest: body.slice(start as usize..end as usize) }))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.get_object("look at", key).map(|object| object.meta(key))
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<ObjectMeta>> {
        let objects = self.objects();
        Ok(objects.iter().filter(|(key, _)| prefix.contains(key)).map(|(key, object)| object.meta(key)).collect())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.objects().remove(key);
        Ok(())
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        Ok(self.clock.now())
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    /// What a dead writer held is freed with it: there is never anything to sweep.
    async fn sweep_unfinished(&self, _prefix: &Prefix) -> Result<usize> {
        Ok(0)
    }
}

struct MemoryWriter {
    storage: MemoryStorage,
    key: Key,
    body: BytesMut,
}

#[async_trait]
impl ObjectWriter for MemoryWriter {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.body.extend_from_slice(&chunk);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<ObjectMeta> {
        let body = mem::take(&mut self.body).freeze();
        self.storage.insert_new(&self.key, body)
    }

    async fn abort(self: Box<Self>) {}
}

struct MemoryReader {
    rest: Bytes,
}

#[async_trait]
impl ObjectReader for MemoryReader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let length = READ_BYTES.min(self.rest.len() as u64) as usize;
        Ok(Some(self.rest.split_to(length)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    #[tokio::test]
    async fn clones_share_what_is_stored_and_contents_bring_it_back() {
        let storage = MemoryStorage::new();
        let key = Key::new("a/b").unwrap();
        storage.clone().create(&key, Bytes::from_static(b"one")).await.unwrap();
        let before = storage.contents();
        storage.delete(&key).await.unwrap();
        assert!(storage.contents().is_empty());
        storage.restore(before);
        assert_eq!(storage.get(&key, 3).await.unwrap(), "one");
    }

    #[tokio::test]
    async fn time_is_that_of_the_clock_it_was_given() {
        let clock = Arc::new(ManualClock::at(DateTime::UNIX_EPOCH));
        let storage = MemoryStorage::with_clock(clock.clone());
        let key = Key::new("a").unwrap();
        storage.create(&key, Bytes::new()).await.unwrap();
        clock.set(DateTime::from_timestamp(60, 0).unwrap());
        assert_eq!(storage.head(&key).await.unwrap().modified, DateTime::UNIX_EPOCH);
        assert_eq!(storage.now().await.unwrap().timestamp(), 60);
    }
}
