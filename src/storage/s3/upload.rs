//! Storing large objects, in parts.
//!
//! All parts but the last have one size, because some stores insist on it: 8 MiB, or more where the caller expects an
//! object that 10,000 such parts cannot hold. An object that becomes larger than was expected gets larger parts in its
//! second half. While a part is filled others are under way, as many as fit into 24 MiB, at least one. So a writer holds
//! at most 36 MiB, or twice the size of a part where parts are larger than 12 MiB.
//! An object that fits into one part is stored by one request.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::{ByteStream, DateTime as AwsTime};
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use bytes::{Bytes, BytesMut};
use tokio::task::{JoinHandle, JoinSet};

use super::S3Storage;
use super::client::{Client, Guard};
use super::failure::{Answer, Refusal, Refused, refusal};
use super::journal::Entry;
use super::write::{FORBID_OVERWRITE, TOKEN, new_token};
use crate::storage::{Fault, Key, ObjectMeta, ObjectWriter, Prefix, Result, StorageError};

const MIB: u64 = 1 << 20;
/// The size of a part where nothing asks for more.
const PART_BYTES: u64 = 8 * MIB;
/// What the protocol takes.
const MOST_PARTS: u64 = 10_000;
/// How many parts have the size that the expectation asks for; after them parts grow.
const EQUAL_PARTS: u64 = 8_000;
/// How far the clocks of a store and of its client may be apart: a store refuses the signature of one that is further.
const CLOCKS_DIFFER: Duration = Duration::from_secs(15 * 60);
/// What may be under way at a time, in parts of the usual size.
const UNDER_WAY_BYTES: u64 = 3 * PART_BYTES;

/// The sizes of the parts of one object.
#[derive(Clone, Copy, Debug)]
struct Parts {
    base_bytes: u64,
}

impl Parts {
    fn for_about(expected_bytes: Option<u64>) -> Self {
        let needed = expected_bytes.unwrap_or(0).div_ceil(EQUAL_PARTS).div_ceil(MIB) * MIB;
        Self { base_bytes: needed.max(PART_BYTES) }
    }

    /// The size of the part of this number, counted from 1.
    fn size_bytes(self, number: u64) -> u64 {
        let beyond = number.saturating_sub(EQUAL_PARTS + 1);
        match number {
            0..=EQUAL_PARTS => self.base_bytes,
            _ => self.base_bytes << (1 + beyond / 500).min(4),
        }
    }

    fn under_way(size_bytes: u64) -> usize {
        usize::try_from(UNDER_WAY_BYTES / size_bytes).unwrap_or(1).max(1)
    }
}

/// A large object in the making. Nothing is asked of the store before the first part is full.
pub(super) struct S3Writer {
    storage: S3Storage,
    key: Key,
    token: String,
    sizes: Parts,
    filling: BytesMut,
    upload: Option<Upload>,
    /// The beginning of the upload, which goes on if whoever waits for it is dropped: else nobody would know its id.
    beginning: Option<JoinHandle<Result<Upload>>>,
    broken: bool,
}

/// A multipart upload that has begun.
struct Upload {
    id: String,
    entry: Entry,
    next_number: u64,
    under_way: JoinSet<std::result::Result<CompletedPart, Refused>>,
    stored: Vec<CompletedPart>,
    /// The store was asked to make the object of the parts.
    is_completing: bool,
}

impl S3Writer {
    pub fn new(storage: S3Storage, key: Key, expected_bytes: Option<u64>) -> Self {
        let (sizes, filling) = (Parts::for_about(expected_bytes), BytesMut::new());
        Self { storage, key, token: new_token(), sizes, filling, upload: None, beginning: None, broken: false }
    }

    fn client(&self) -> &Arc<Client> {
        &self.storage.client
    }

    fn action(&self) -> String {
        format!("create {:?}", self.key)
    }

    /// How much more fits into the part that is being filled.
    fn room(&self) -> usize {
        let number = self.upload.as_ref().map_or(1, |upload| upload.next_number);
        let size_bytes = self.sizes.size_bytes(number);
        usize::try_from(size_bytes).unwrap_or(usize::MAX).saturating_sub(self.filling.len())
    }

    /// Sends the part that was filled, when there is room for another one under way.
    async fn send_part(&mut self) -> Result<()> {
        if self.upload.is_none() {
            let (storage, key, token) = (self.storage.clone(), self.key.clone(), self.token.clone());
            let begin = async move { begin(&storage, &key, &token).await };
            let begun = self.beginning.insert(tokio::spawn(begin)).await;
            self.beginning = None;
            let ended = |error| self.client().failed(Fault::Other, self.action(), error);
            self.upload = Some(begun.unwrap_or_else(|error| Err(ended(error)))?);
        }
        let (client, key, action) = (Arc::clone(self.client()), self.key.clone(), self.action());
        let in_order = client.dialect.parts_in_order;
        let Some(upload) = &mut self.upload else { return Ok(()) };
        let number = upload.next_number;
        if number > MOST_PARTS {
            let cause = format!("it is larger than {MOST_PARTS} parts can hold");
            return Err(client.failed(Fault::Other, action, cause));
        }
        let most = if in_order { 1 } else { Parts::under_way(self.filling.len() as u64) };
        while upload.under_way.len() >= most {
            upload.collect_one().await.map_err(|refused| refused.at(&client, action.as_str()))?;
        }
        let body = std::mem::take(&mut self.filling).freeze();
        let id = upload.id.clone();
        upload.next_number += 1;
        upload.under_way.spawn(async move { client.send_part(&key, &id, number, body).await });
        Ok(())
    }

    /// Waits for all parts and makes the object visible.
    async fn complete(&mut self) -> Result<()> {
        let (client, action) = (Arc::clone(self.client()), self.action());
        let Some(upload) = &mut self.upload else { return Ok(()) };
        while !upload.under_way.is_empty() {
            upload.collect_one().await.map_err(|refused| refused.at(&client, action.as_str()))?;
        }
        upload.is_completing = true;
        upload.stored.sort_unstable_by_key(CompletedPart::part_number);
        let parts = CompletedMultipartUpload::builder().set_parts(Some(upload.stored.clone())).build();
        let (key, id) = (&self.key, upload.id.as_str());
        let complete = || async {
            if client.dialect.looks_first {
                client.must_be_free(key).await?;
            }
            client.guarded(|guard| client.complete(key, id, parts.clone(), guard)).await
        };
        match client.ask(0, complete).await {
            Ok(()) => Ok(()),
            // An attempt whose answer was lost may have done it: then the name is taken, and the upload is gone.
            Err(refused) if refused.may_be_ours() || (refused.doubt && refused.refusal.is_no_such_upload()) => {
                client.settle(refused, key, &self.token, None, &action).await
            }
            Err(refused) => Err(refused.of_change(&client, action)),
        }
    }
}

/// Begins an upload, which is noted before.
async fn begin(storage: &S3Storage, key: &Key, token: &str) -> Result<Upload> {
    let (client, action) = (&storage.client, format!("create {key:?}"));
    let noted = |error| client.failed(Fault::Other, action.as_str(), error);
    let mut entry = storage.journal.begin(key).map_err(noted)?;
    let (id, doubt) = match client.ask_noting_doubt(key, token, client.dialect.guard).await {
        Ok(begun) => begun,
        Err(refused) => {
            // Where an attempt may have begun one, the entry stays for the next sweep.
            if !refused.doubt {
                entry.remove();
            }
            // Nothing is stored under the name by an upload that only began.
            return Err(refused.at(client, action));
        }
    };
    if doubt {
        entry.doubt().map_err(noted)?;
    }
    entry.begun(&id).map_err(noted)?;
    Ok(Upload { id, entry, next_number: 1, under_way: JoinSet::new(), stored: Vec::new(), is_completing: false })
}

impl Upload {
    async fn collect_one(&mut self) -> std::result::Result<(), Refused> {
        match self.under_way.join_next().await {
            Some(Ok(part)) => self.stored.push(part?),
            // A task that panicked or was ended: its part is not known to be stored.
            Some(Err(error)) => {
                let refusal = Refusal::Unsent(error.to_string());
                return Err(Refused { refusal, doubt: false, attempts: 1 });
            }
            None => {}
        }
        Ok(())
    }

    /// Gives the upload up: no part is under way any more, and the store frees what it has.
    async fn give_up(mut self, storage: &S3Storage, key: &Key) {
        self.under_way.shutdown().await;
        if let Err(error) = clean(storage, key, self.entry).await {
            tracing::warn!("remove an unfinished upload; the next run tries again: {error}");
        }
    }

    /// The object is there; what an attempt of unknown outcome may have begun beside it is not needed.
    async fn settle(self, storage: &S3Storage, key: &Key) {
        if !self.entry.left().doubtful {
            return self.entry.remove();
        }
        if let Err(error) = clean(storage, key, self.entry).await {
            tracing::warn!("remove an unfinished upload; the next run tries again: {error}");
        }
    }
}

#[async_trait]
impl ObjectWriter for S3Writer {
    async fn write(&mut self, mut chunk: Bytes) -> Result<()> {
        if self.broken {
            return Err(self.client().failed(Fault::Other, self.action(), "an earlier write failed"));
        }
        // Stands if this fails, or is dropped while it waits.
        self.broken = true;
        while !chunk.is_empty() {
            let piece = chunk.split_to(self.room().min(chunk.len()));
            if self.filling.is_empty() {
                // As large as the part at once: a buffer that grows doubles, beyond what a writer may hold.
                self.filling = BytesMut::with_capacity(self.room());
            }
            self.filling.extend_from_slice(&piece);
            if self.room() == 0 {
                self.send_part().await?;
            }
        }
        self.broken = false;
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<ObjectMeta> {
        if self.broken {
            return Err(self.client().failed(Fault::Other, self.action(), "an earlier write failed"));
        }
        if self.upload.is_none() {
            let body = std::mem::take(&mut self.filling).freeze();
            self.client().create(&self.key, body).await?;
        } else {
            let stored = async {
                if !self.filling.is_empty() {
                    self.send_part().await?;
                }
                self.complete().await
            };
            let stored = stored.await;
            if let Some(upload) = self.upload.take() {
                match &stored {
                    Ok(()) => upload.settle(&self.storage, &self.key).await,
                    // It may be completed yet: to remove it now could tear at the object. The next sweep will know.
                    Err(error) if error.fault == Fault::Unavailable && upload.is_completing => drop(upload),
                    Err(_) => upload.give_up(&self.storage, &self.key).await,
                }
            }
            stored?;
        }
        let confirmed = super::read::head(self.client(), &self.key).await;
        // What was stored is stored: that it could not be looked at leaves the caller in doubt and nothing else.
        confirmed.map_err(|error| StorageError { fault: Fault::Unavailable, ..error })
    }

    async fn abort(mut self: Box<Self>) {
        if let Some(upload) = self.upload.take() {
            upload.give_up(&self.storage, &self.key).await;
        }
    }
}

/// Nobody can wait for a drop: the upload is removed in the background. A sweep waits for that; if the process ends
/// before, the journal knows of it.
impl Drop for S3Writer {
    fn drop(&mut self) {
        let (upload, beginning) = (self.upload.take(), self.beginning.take());
        if upload.is_none() && beginning.is_none() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (storage, key) = (self.storage.clone(), self.key.clone());
        self.storage.endings.add(runtime.spawn(async move {
            let begun = match (upload, beginning) {
                (None, Some(beginning)) => beginning.await.ok().and_then(Result::ok),
                (upload, _) => upload,
            };
            if let Some(upload) = begun {
                upload.give_up(&storage, &key).await;
            }
        }));
    }
}

/// Removes the uploads that dead writers left below `prefix` and returns how many there were.
pub(super) async fn sweep(storage: &S3Storage, prefix: &Prefix) -> Result<usize> {
    let action = || format!("sweep {prefix:?}");
    let abandoned = storage.journal.abandoned(prefix);
    let abandoned = abandoned.map_err(|error| storage.client.failed(Fault::Other, action(), error))?;
    let mut removed = 0;
    for (key, entry) in abandoned {
        removed += clean(storage, &key, entry).await?;
    }
    Ok(removed)
}

/// Removes what an entry tells of, then the entry. Returns how many uploads there were.
async fn clean(storage: &S3Storage, key: &Key, entry: Entry) -> Result<usize> {
    let (client, left) = (&storage.client, entry.left());
    let action = || format!("remove an unfinished upload of {key:?}");
    let mut removed = 0;
    if let Some(id) = &left.upload_id {
        let was_there = client.ask(0, || client.forget(key, id)).await;
        removed += usize::from(was_there.map_err(|refused| refused.of_change(client, action()))?);
    }
    if left.doubtful {
        let known = storage.journal.known_ids();
        let forgotten = client.forget_unknown(key, &known, left.noted_at).await;
        removed += forgotten.map_err(|refused| refused.of_change(client, action()))?;
    }
    entry.remove();
    Ok(removed)
}

/// The id in an answer that says `InitiateMultipartUpload` where the protocol says `InitiateMultipartUploadResult`.
fn upload_id_in(answer: &[u8]) -> Option<String> {
    let (_, rest) = std::str::from_utf8(answer).ok()?.split_once("<UploadId>")?;
    rest.split_once("</UploadId>").map(|(id, _)| id.to_owned())
}

impl Client {
    /// Begins an upload. True with its id if an attempt whose answer was lost may have begun another one.
    async fn ask_noting_doubt(
        &self,
        key: &Key,
        token: &str,
        guard: Guard,
    ) -> std::result::Result<(String, bool), Refused> {
        let attempts = std::sync::atomic::AtomicU32::new(0);
        let initiate = || {
            attempts.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.initiate(key, token, guard)
        };
        let id = self.ask(0, initiate).await?;
        Ok((id, attempts.into_inner() > 1))
    }

    pub(super) async fn initiate(&self, key: &Key, token: &str, guard: Guard) -> Answer<String> {
        let request = self.sdk.create_multipart_upload().bucket(&self.bucket).key(self.name(key));
        let mut request = request.metadata(TOKEN, token).customize();
        if guard == Guard::OssHeader {
            request = request.mutate_request(|request| {
                request.headers_mut().insert(FORBID_OVERWRITE, "true");
            });
        }
        let id = match request.send().await {
            Ok(answer) => answer.upload_id().map(str::to_owned),
            // The SDK minds what the answer is called.
            Err(SdkError::ServiceError(context))
                if self.dialect.misnames_uploads && context.raw().status().is_success() =>
            {
                context.raw().body().bytes().and_then(upload_id_in)
            }
            Err(error) => return Err(refusal(error)),
        };
        id.filter(|id| !id.is_empty())
            .ok_or_else(|| Refusal::Lost("the store began an upload without an id".to_owned()))
    }

    async fn send_part(
        &self,
        key: &Key,
        id: &str,
        number: u64,
        body: Bytes,
    ) -> std::result::Result<CompletedPart, Refused> {
        let number = i32::try_from(number).unwrap_or(i32::MAX);
        let send = || async {
            let request = self.sdk.upload_part().bucket(&self.bucket).key(self.name(key)).upload_id(id);
            let answer = request.part_number(number).body(ByteStream::from(body.clone())).send().await;
            let etag = answer.map_err(refusal)?.e_tag().map(str::to_owned);
            Ok(CompletedPart::builder().part_number(number).set_e_tag(etag).build())
        };
        self.ask(body.len(), send).await
    }

    pub(super) async fn complete(
        &self,
        key: &Key,
        id: &str,
        parts: CompletedMultipartUpload,
        guard: Guard,
    ) -> Answer<()> {
        let request = self.sdk.complete_multipart_upload().bucket(&self.bucket).key(self.name(key));
        let mut request = request.upload_id(id).multipart_upload(parts);
        if guard == Guard::Precondition {
            request = request.if_none_match("*");
        }
        let mut request = request.customize();
        if guard == Guard::OssHeader {
            request = request.mutate_request(|request| {
                request.headers_mut().insert(FORBID_OVERWRITE, "true");
            });
        }
        request.send().await.map(drop).map_err(refusal)
    }

    /// Removes an upload. False if there is none of this id any more.
    pub(super) async fn forget(&self, key: &Key, id: &str) -> Answer<bool> {
        let request = self.sdk.abort_multipart_upload().bucket(&self.bucket).key(self.name(key)).upload_id(id);
        match request.send().await.map_err(refusal) {
            Ok(_) => Ok(true),
            Err(refusal) if refusal.is_no_such_upload() => Ok(false),
            Err(refusal) => Err(refusal),
        }
    }

    /// Removes the uploads of this very key that began by the time of our note and whose ids this host has not noted.
    /// One that began later is another host's, which may be alive. A store that does not tell its uploads, or not when
    /// they began, keeps them until its own rules remove them.
    async fn forget_unknown(
        &self,
        key: &Key,
        known: &BTreeSet<String>,
        noted_at: SystemTime,
    ) -> std::result::Result<usize, Refused> {
        let latest = AwsTime::from(noted_at + CLOCKS_DIFFER);
        let name = self.name(key);
        let list = || async {
            let request = self.sdk.list_multipart_uploads().bucket(&self.bucket).prefix(&name);
            request.send().await.map_err(refusal)
        };
        let listed = match self.ask(0, list).await {
            Ok(listed) => listed,
            Err(refused) if refused.refusal.is_unknown_request() || refused.refusal.status() == 400 => {
                tracing::debug!("{} does not list uploads", self.place);
                return Ok(0);
            }
            // rclone's way to say that there are none.
            Err(refused) if refused.refusal.is_no_such_upload() => return Ok(0),
            Err(refused) => return Err(refused),
        };
        let of_the_key = listed.uploads().iter().filter(|upload| upload.key() == Some(name.as_str()));
        let ours = of_the_key.filter(|upload| upload.initiated().is_some_and(|begun| *begun <= latest));
        let mut removed = 0;
        for id in ours.filter_map(|upload| upload.upload_id()).filter(|id| !known.contains(*id)) {
            removed += usize::from(self.ask(0, || self.forget(key, id)).await?);
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held_bytes(parts: Parts) -> u64 {
        (1..=10_000).map(|number| parts.size_bytes(number)).sum()
    }

    #[test]
    fn the_id_of_an_upload_is_found_in_what_rclone_answers() {
        let answer =
            b"<InitiateMultipartUpload><Bucket>b</Bucket><Key>k</Key><UploadId>17</UploadId></InitiateMultipartUpload>";
        assert_eq!(upload_id_in(answer).as_deref(), Some("17"));
        assert_eq!(upload_id_in(b"<Error/>"), None);
    }

    #[test]
    fn parts_are_equal_and_as_large_as_the_expectation_needs() {
        assert_eq!(Parts::for_about(None).size_bytes(1), 8 * MIB);
        assert_eq!(Parts::for_about(Some(1 << 30)).size_bytes(8_000), 8 * MIB);
        let terabyte = Parts::for_about(Some(1 << 40));
        assert_eq!(terabyte.size_bytes(1), 132 * MIB);
        assert_eq!(terabyte.size_bytes(1), terabyte.size_bytes(8_000));
        assert!(terabyte.size_bytes(1) * 8_000 >= 1 << 40);
    }

    #[test]
    fn what_grows_beyond_the_expectation_gets_larger_parts() {
        let parts = Parts::for_about(None);
        assert!(parts.size_bytes(8_001) > parts.size_bytes(8_000));
        assert!(held_bytes(parts) > 170 << 30, "{}", held_bytes(parts) >> 30);
        // No part is larger than the protocol takes, whatever is expected.
        assert!(Parts::for_about(Some(5 << 40)).size_bytes(8_000) < 5 << 30);
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        assert_eq!(Parts::under_way(8 * MIB), 3);
        assert_eq!(Parts::under_way(16 * MIB), 1);
        assert_eq!(Parts::under_way(132 * MIB), 1);
    }
}
