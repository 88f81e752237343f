//! A store whose every call waits for its turn, so that a test decides who goes next.

use std::collections::BTreeSet;
use std::future::poll_fn;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Poll, Waker};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use pgkeep::repo::StoredName;
use pgkeep::storage::{
    CreateOnly, Key, MemoryStorage, ObjectMeta, ObjectReader, ObjectWriter, Prefix, Result, Storage,
};

/// One process, as far as its calls go: it does one for each turn it is given.
#[derive(Debug, Default)]
pub struct Actor(Mutex<Turns>);

#[derive(Debug, Default)]
struct Turns {
    free: bool,
    granted: bool,
    locks: u64,
    waiting: Vec<Waker>,
    /// Everything it was ever told: what it does next depends on nothing else.
    heard: DefaultHasher,
    last: String,
    owned: BTreeSet<Key>,
}

impl Actor {
    fn turns(&self) -> MutexGuard<'_, Turns> {
        self.0.lock().unwrap()
    }

    /// While it is free its calls do not wait: for setting up.
    pub fn set_free(&self, free: bool) {
        self.turns().free = free;
    }

    /// Gives it one turn. `locks` is who holds one at this moment: what can be seen without asking the store.
    pub fn grant(&self, locks: u64) {
        let waiting = {
            let mut turns = self.turns();
            turns.granted = true;
            turns.locks = locks;
            std::mem::take(&mut turns.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    pub fn has_unused_turn(&self) -> bool {
        self.turns().granted
    }

    pub async fn turn(&self, what: impl Into<String>) {
        let mut what = Some(what.into());
        poll_fn(|context| {
            let turns = &mut *self.turns();
            if turns.free || std::mem::take(&mut turns.granted) {
                turns.last = what.take().unwrap_or_default();
                // Locks are looked at right after these calls, and at no other time.
                if turns.last == "now" || turns.last == "look at locks" {
                    turns.locks.hash(&mut turns.heard);
                }
                return Poll::Ready(());
            }
            turns.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// A digest of all it has heard so far.
    pub fn heard(&self) -> u64 {
        self.turns().heard.finish()
    }

    /// Its last call, for people.
    pub fn last(&self) -> String {
        self.turns().last.clone()
    }

    /// The data that it has stored and not removed itself.
    pub fn owned(&self) -> BTreeSet<Key> {
        self.turns().owned.clone()
    }

    fn hear<T>(&self, answer: &Result<T>, shown: impl FnOnce(&T) -> String) {
        let text = match answer {
            Ok(value) => shown(value),
            Err(error) => format!("{:?}", error.fault),
        };
        text.hash(&mut self.turns().heard);
    }

    fn stored(&self, key: &Key) {
        if matches!(StoredName::parse(key), Some(StoredName::Dump { .. })) {
            self.turns().owned.insert(key.clone());
        }
    }
}

/// A key without what is random in it.
pub fn steady(key: &Key) -> String {
    match StoredName::parse(key) {
        Some(StoredName::Run { run, .. }) => format!("run of {} at {}", run.verb(), run.started_at()),
        _ => key.to_string(),
    }
}

#[derive(Clone, Debug)]
pub struct Stepped {
    pub inner: MemoryStorage,
    pub actor: Arc<Actor>,
}

fn shown_meta(meta: &ObjectMeta) -> String {
    format!("{} {} {}", steady(&meta.key), meta.size_bytes, meta.modified)
}

#[async_trait]
impl Storage for Stepped {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.actor.turn(format!("create {key}")).await;
        let answer = self.inner.create(key, body).await;
        self.actor.hear(&answer, |()| String::new());
        if answer.is_ok() {
            self.actor.stored(key);
        }
        answer
    }

    async fn replace(&self, key: &Key, body: Bytes) -> Result<()> {
        self.actor.turn(format!("replace {key}")).await;
        let answer = self.inner.replace(key, body).await;
        self.actor.hear(&answer, |()| String::new());
        answer
    }

    // Beginning and filling a large object changes nothing that anybody sees; its finish is the step.
    async fn prove_create_only(&self) -> Result<CreateOnly> {
        self.inner.prove_create_only().await
    }

    async fn writer(&self, key: &Key, expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let inner = self.inner.writer(key, expected_bytes).await?;
        Ok(Box::new(SteppedWriter { inner, key: key.clone(), actor: Arc::clone(&self.actor) }))
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Box<dyn ObjectReader>> {
        self.actor.turn(format!("read {key}")).await;
        let answer = self.inner.read(key, range).await;
        self.actor.hear(&answer, |_| String::new());
        answer
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        self.actor.turn(format!("head {key}")).await;
        let answer = self.inner.head(key).await;
        self.actor.hear(&answer, shown_meta);
        answer
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<ObjectMeta>> {
        self.actor.turn(format!("list {prefix}")).await;
        let answer = self.inner.list(prefix).await;
        self.actor.hear(&answer, |metas| metas.iter().map(shown_meta).collect());
        answer
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.actor.turn(format!("delete {key}")).await;
        let answer = self.inner.delete(key).await;
        self.actor.hear(&answer, |()| String::new());
        self.actor.turns().owned.remove(key);
        answer
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        self.actor.turn("now").await;
        let answer = self.inner.now().await;
        self.actor.hear(&answer, DateTime::to_string);
        answer
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        self.inner.free_bytes().await
    }

    async fn sweep_unfinished(&self, prefix: &Prefix) -> Result<usize> {
        self.actor.turn(format!("sweep {prefix}")).await;
        let answer = self.inner.sweep_unfinished(prefix).await;
        self.actor.hear(&answer, usize::to_string);
        answer
    }
}

struct SteppedWriter {
    inner: Box<dyn ObjectWriter>,
    key: Key,
    actor: Arc<Actor>,
}

#[async_trait]
impl ObjectWriter for SteppedWriter {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        self.inner.write(chunk).await
    }

    async fn finish(self: Box<Self>) -> Result<ObjectMeta> {
        self.actor.turn(format!("finish {}", self.key)).await;
        let answer = self.inner.finish().await;
        self.actor.hear(&answer, shown_meta);
        if answer.is_ok() {
            self.actor.stored(&self.key);
        }
        answer
    }

    async fn abort(self: Box<Self>) {
        self.inner.abort().await;
    }
}
