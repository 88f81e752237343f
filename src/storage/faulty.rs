//! A store that fails where a test says so, and records what it was asked.
//!
//! Stored here and not with the tests because the tests of every layer above use it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::{CreateOnly, Fault, Key, ObjectMeta, ObjectReader, ObjectWriter, Prefix, Result, Storage, StorageError};

/// What can be asked of a store. `Write` is one chunk, `Finish` and `Abort` the end, of what `Writer` began.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    Create,
    Prove,
    Replace,
    Writer,
    Write,
    Finish,
    Abort,
    Read,
    Head,
    List,
    Delete,
    Now,
    FreeBytes,
    Sweep,
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Nothing is done, and the answer is this fault. An abort has no answer; it leaves things to the drop.
    FailBefore(Fault),
    /// It is done, and the answer is lost: [`Fault::Unavailable`].
    FailAfter,
    /// A read delivers so many bytes and then fails with [`Fault::Unavailable`].
    CutRead { after_bytes: u64 },
    /// A read delivers everything, with one bit changed: that of this number, counted from the start of what is read,
    /// the lowest bit of a byte first. A number past the end changes nothing.
    FlipBit { bit: u64 },
}

/// One line of the script: which calls are hit, and how. By default the first call that matches.
#[derive(Clone, Debug)]
pub struct Injection {
    effect: Effect,
    operation: Option<Operation>,
    pattern: String,
    first: u64,
    last: u64,
    seen: u64,
}

impl Injection {
    pub fn at(operation: Operation, effect: Effect) -> Self {
        Self { operation: Some(operation), ..Self::anywhere(effect) }
    }

    /// Counts every operation: `Injection::anywhere(…).from_nth(n)` for all n is a death at every step.
    pub fn anywhere(effect: Effect) -> Self {
        Self { effect, operation: None, pattern: "*".to_owned(), first: 1, last: 1, seen: 0 }
    }

    /// Only calls for a key (or a prefix, as it is written) of this shape; `*` stands for anything, also for `/`.
    pub fn on(mut self, pattern: impl Into<String>) -> Self {
        self.pattern = pattern.into();
        self
    }

    /// Hits the nth matching call only, counted from 1.
    pub fn nth(mut self, nth: u64) -> Self {
        (self.first, self.last) = (nth, nth);
        self
    }

    /// Hits the nth matching call and all after it.
    pub fn from_nth(mut self, nth: u64) -> Self {
        (self.first, self.last) = (nth, u64::MAX);
        self
    }

    fn hits(&mut self, operation: Operation, name: &str) -> bool {
        if self.operation.is_some_and(|own| own != operation) || !matches_pattern(&self.pattern, name) {
            return false;
        }
        self.seen += 1;
        (self.first..=self.last).contains(&self.seen)
    }
}

fn matches_pattern(pattern: &str, name: &str) -> bool {
    let Some((head, tail)) = pattern.split_once('*') else { return pattern == name };
    let Some(rest) = name.strip_prefix(head) else { return false };
    (0..=rest.len()).any(|cut| rest.is_char_boundary(cut) && matches_pattern(tail, &rest[cut..]))
}

/// A call that was made, in order, with what went wrong with it by the script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub operation: Operation,
    /// The key, the prefix as it is written, or empty.
    pub name: String,
    pub effect: Option<Effect>,
}

/// A decorator over any store. Clones share the script and the record.
#[derive(Clone, Debug)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    script: Arc<Mutex<Script>>,
}

#[derive(Debug, Default)]
struct Script {
    injections: Vec<Injection>,
    calls: Vec<Call>,
}

impl FaultyStorage {
    pub fn over(inner: Arc<dyn Storage>) -> Self {
        Self { inner, script: Arc::default() }
    }

    /// Adds to the script. Where several injections hit one call the oldest acts; all of them count it.
    pub fn inject(&self, injection: Injection) {
        self.script().injections.push(injection);
    }

    /// From here on nothing goes wrong; the record stays.
    pub fn heal(&self) {
        self.script().injections.clear();
    }

    /// What was asked so far.
    pub fn calls(&self) -> Vec<Call> {
        self.script().calls.clone()
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(|e| e.into_inner())
    }

    fn consult(&self, operation: Operation, name: &str) -> Verdict {
        let mut script = self.script();
        let hits = script.injections.iter_mut().filter_map(|i| i.hits(operation, name).then_some(i.effect));
        let effect = hits.collect::<Vec<_>>().first().copied();
        script.calls.push(Call { operation, name: name.to_owned(), effect });
        let action = format!("{} {name:?}", format!("{operation:?}").to_lowercase());
        Verdict { effect, action, address: self.inner.address().to_owned() }
    }
}

/// What the script says about one call.
struct Verdict {
    effect: Option<Effect>,
    action: String,
    address: String,
}

impl Verdict {
    fn before(&self) -> Result<()> {
        match self.effect {
            Some(Effect::FailBefore(fault)) => Err(self.fail(fault, "injected: not done")),
            _ => Ok(()),
        }
    }

    /// The store's own failure stands; its success may get lost.
    fn after<T>(&self, answer: Result<T>) -> Result<T> {
        match self.effect {
            Some(Effect::FailAfter) => answer.and_then(|_| Err(self.fail(Fault::Unavailable, "injected: answer lost"))),
            _ => answer,
        }
    }

    fn fail(&self, fault: Fault, cause: &str) -> StorageError {
        StorageError { fault, action: self.action.clone(), address: self.address.clone(), source: cause.into() }
    }
}

#[async_trait]
impl Storage for FaultyStorage {
    fn address(&self) -> &str {
        self.inner.address()
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        let verdict = self.consult(Operation::Create, key.as_str());
        verdict.before()?;
        verdict.after(self.inner.create(key, body).await)
    }

    async fn prove_create_only(&self) -> Result<CreateOnly> {
        let verdict = self.consult(Operation::Prove, "");
        verdict.before()?;
        verdict.after(self.inner.prove_create_only().await)
    }

    async fn replace(&self, key: &Key, body: Bytes) -> Result<()> {
        let verdict = self.consult(Operation::Replace, key.as_str());
        verdict.before()?;
        verdict.after(self.inner.replace(key, body).await)
    }

    async fn writer(&self, key: &Key, expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        let verdict = self.consult(Operation::Writer, key.as_str());
        verdict.before()?;
        let inner = verdict.after(self.inner.writer(key, expected_bytes).await)?;
        Ok(Box::new(FaultyWriter { storage: self.clone(), key: key.clone(), inner, broken: false }))
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Box<dyn ObjectReader>> {
        let verdict = self.consult(Operation::Read, key.as_str());
        verdict.before()?;
        let inner = verdict.after(self.inner.read(key, range).await)?;
        Ok(Box::new(FaultyReader { inner, verdict, delivered_bytes: 0 }))
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        let verdict = self.consult(Operation::Head, key.as_str());
        verdict.before()?;
        verdict.after(self.inner.head(key).await)
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<ObjectMeta>> {
        let verdict = self.consult(Operation::List, prefix.as_str());
        verdict.before()?;
        verdict.after(self.inner.list(prefix).await)
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let verdict = self.consult(Operation::Delete, key.as_str());
        verdict.before()?;
        verdict.after(self.inner.delete(key).await)
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        let verdict = self.consult(Operation::Now, "");
        verdict.before()?;
        verdict.after(self.inner.now().await)
    }

    async fn free_bytes(&self) -> Result<Option<u64>> {
        let verdict = self.consult(Operation::FreeBytes, "");
        verdict.before()?;
        verdict.after(self.inner.free_bytes().await)
    }

    async fn sweep_unfinished(&self, prefix: &Prefix) -> Result<usize> {
        let verdict = self.consult(Operation::Sweep, prefix.as_str());
        verdict.before()?;
        verdict.after(self.inner.sweep_unfinished(prefix).await)
    }
}

struct FaultyWriter {
    storage: FaultyStorage,
    key: Key,
    inner: Box<dyn ObjectWriter>,
    broken: bool,
}

#[async_trait]
impl ObjectWriter for FaultyWriter {
    async fn write(&mut self, chunk: Bytes) -> Result<()> {
        let verdict = self.storage.consult(Operation::Write, self.key.as_str());
        if self.broken {
            return Err(verdict.fail(Fault::Other, "an earlier write failed"));
        }
        let answer = match verdict.before() {
            Ok(()) => verdict.after(self.inner.write(chunk).await),
            Err(error) => Err(error),
        };
        self.broken = answer.is_err();
        answer
    }

    async fn finish(self: Box<Self>) -> Result<ObjectMeta> {
        let verdict = self.storage.consult(Operation::Finish, self.key.as_str());
        if self.broken {
            return Err(verdict.fail(Fault::Other, "an earlier write failed"));
        }
        verdict.before()?;
        verdict.after(self.inner.finish().await)
    }

    async fn abort(self: Box<Self>) {
        let verdict = self.storage.consult(Operation::Abort, self.key.as_str());
        if verdict.before().is_ok() {
            self.inner.abort().await;
        }
    }
}

struct FaultyReader {
    inner: Box<dyn ObjectReader>,
    verdict: Verdict,
    delivered_bytes: u64,
}

#[async_trait]
impl ObjectReader for FaultyReader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        if let Some(Effect::CutRead { after_bytes }) = self.verdict.effect
            && self.delivered_bytes >= after_bytes
        {
            return Err(self.verdict.fail(Fault::Unavailable, "injected: connection lost"));
        }
        let Some(mut chunk) = self.inner.next().await? else { return Ok(None) };
        match self.verdict.effect {
            Some(Effect::CutRead { after_bytes }) => {
                let left_bytes = after_bytes - self.delivered_bytes;
                chunk.truncate(left_bytes.min(chunk.len() as u64) as usize);
            }
            Some(Effect::FlipBit { bit }) => chunk = flip(chunk, bit, self.delivered_bytes),
            _ => {}
        }
        self.delivered_bytes += chunk.len() as u64;
        Ok(Some(chunk))
    }
}

/// Changes the bit if it lies in `chunk`, which begins at byte `offset`.
fn flip(chunk: Bytes, bit: u64, offset: u64) -> Bytes {
    let place = (bit / 8).checked_sub(offset).and_then(|place| usize::try_from(place).ok());
    let Some(place) = place.filter(|place| *place < chunk.len()) else { return chunk };
    let mut changed = chunk.to_vec();
    changed[place] ^= 1 << (bit % 8);
    changed.into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn stores() -> (MemoryStorage, FaultyStorage) {
        let memory = MemoryStorage::new();
        (memory.clone(), FaultyStorage::over(Arc::new(memory)))
    }

    async fn put(storage: &dyn Storage, name: &str, body: &'static [u8]) -> Result<()> {
        storage.create(&key(name), Bytes::from_static(body)).await
    }

    #[test]
    fn a_pattern_stands_for_whole_names() {
        assert!(matches_pattern("*", ""));
        assert!(matches_pattern("*.json", "main/dumps/ü.json"));
        assert!(matches_pattern("main/*/x*", "main/dumps/x.dump"));
        assert!(!matches_pattern("main/*", "other/main/x"));
        assert!(!matches_pattern("*.json", "a.json.tmp"));
    }

    #[tokio::test]
    async fn fails_before_only_the_call_that_was_meant() {
        let (memory, faulty) = stores();
        faulty.inject(Injection::at(Operation::Create, Effect::FailBefore(Fault::Full)).on("*.json").nth(2));
        for name in ["a.json", "b.dump"] {
            put(&faulty, name, b"1").await.unwrap();
        }
        assert_eq!(put(&faulty, "c.json", b"1").await.unwrap_err().fault, Fault::Full);
        put(&faulty, "d.json", b"1").await.unwrap();
        let names: Vec<_> = memory.contents().into_keys().map(String::from).collect();
        assert_eq!(names, ["a.json", "b.dump", "d.json"]);
        let effects: Vec<_> = faulty.calls().into_iter().map(|call| call.effect.is_some()).collect();
        assert_eq!(effects, [false, false, true, false]);
    }

    #[tokio::test]
    async fn a_lost_answer_is_unknown_and_the_thing_is_done() {
        let (memory, faulty) = stores();
        faulty.inject(Injection::at(Operation::Finish, Effect::FailAfter));
        let mut writer = faulty.writer(&key("a"), None).await.unwrap();
        writer.write(Bytes::from_static(b"body")).await.unwrap();
        assert_eq!(writer.finish().await.unwrap_err().fault, Fault::Unavailable);
        assert_eq!(memory.contents()[&key("a")], "body");
    }

    #[tokio::test]
    async fn the_nth_chunk_fails_and_nothing_can_be_finished_after_it() {
        let (memory, faulty) = stores();
        faulty.inject(Injection::at(Operation::Write, Effect::FailBefore(Fault::Full)).nth(2));
        let mut writer = faulty.writer(&key("a"), None).await.unwrap();
        writer.write(Bytes::from_static(b"1")).await.unwrap();
        assert_eq!(writer.write(Bytes::from_static(b"2")).await.unwrap_err().fault, Fault::Full);
        assert!(writer.write(Bytes::from_static(b"3")).await.is_err());
        assert!(writer.finish().await.is_err());
        assert!(memory.contents().is_empty());
    }

    #[tokio::test]
    async fn a_read_is_cut_after_the_bytes_asked_for() {
        let (_, faulty) = stores();
        put(&faulty, "a", &[7; 200_000]).await.unwrap();
        faulty.inject(Injection::at(Operation::Read, Effect::CutRead { after_bytes: 70_000 }));
        let mut reader = faulty.read(&key("a"), None).await.unwrap();
        let mut delivered_bytes = 0;
        let error = loop {
            match reader.next().await {
                Ok(chunk) => delivered_bytes += chunk.unwrap().len(),
                Err(error) => break error,
            }
        };
        assert_eq!((delivered_bytes, error.fault), (70_000, Fault::Unavailable));
        assert_eq!(faulty.get(&key("a"), 200_000).await.unwrap().len(), 200_000);
    }

    #[tokio::test]
    async fn one_bit_is_flipped_wherever_it_lies() {
        let (_, faulty) = stores();
        put(&faulty, "a", &[0; 200_000]).await.unwrap();
        faulty.inject(Injection::at(Operation::Read, Effect::FlipBit { bit: 8 * 150_000 + 3 }));
        let body = faulty.get(&key("a"), 200_000).await.unwrap();
        assert_eq!(body.iter().position(|byte| *byte != 0), Some(150_000));
        assert_eq!((body[150_000], body.len()), (8, 200_000));
    }

    #[tokio::test]
    async fn a_death_at_step_n_stops_everything_after_it_until_healed() {
        let (memory, faulty) = stores();
        faulty.inject(Injection::anywhere(Effect::FailBefore(Fault::Unavailable)).from_nth(2));
        put(&faulty, "a", b"1").await.unwrap();
        assert!(faulty.list(&Prefix::root()).await.is_err());
        assert!(faulty.delete(&key("a")).await.is_err());
        faulty.heal();
        faulty.delete(&key("a")).await.unwrap();
        assert!(memory.contents().is_empty());
        assert_eq!(faulty.calls().len(), 4);
    }
}
