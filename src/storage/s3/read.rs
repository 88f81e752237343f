//! Reading objects. A body that breaks off is read on from where it broke, by range, if it is still the same object.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime as AwsTime};
use bytes::Bytes;
use chrono::{DateTime, Utc};

use super::client::Client;
use super::failure::{Answer, Refusal, Refused, innermost, refusal};
use super::write::DIGEST;
use crate::digest::Sha256;
use crate::storage::retry::pause;
use crate::storage::{Fault, Key, ObjectMeta, ObjectReader, Result};

/// A break after which so much has arrived is the first one again: a line that carries something is worth staying on.
const PROGRESS_BYTES: u64 = 64 << 10;
/// No store holds larger objects, and some stumble over larger numbers.
const LARGEST_OBJECT_BYTES: u64 = 1 << 50;

/// A time as stores tell it, to the second: headers know no more, and listings would differ from them.
pub(super) fn stored_at(time: Option<&AwsTime>) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(time?.secs(), 0)
}

pub(super) async fn head(client: &Client, key: &Key) -> Result<ObjectMeta> {
    let action = || format!("look at {key:?}");
    let head = || async {
        let request = client.sdk.head_object().bucket(&client.bucket).key(client.name(key));
        match request.send().await.map_err(refusal) {
            // The answer to a HEAD has no body: a missing bucket looks like a missing object.
            Err(Refusal::Answered { status: 404, .. }) => {
                let bucket = client.sdk.head_bucket().bucket(&client.bucket).send().await.map_err(refusal);
                let code = match &bucket {
                    Ok(_) => "NoSuchKey",
                    Err(Refusal::Answered { status: 404, .. }) => "NoSuchBucket",
                    Err(_) => return Err(bucket.err().unwrap_or(Refusal::Taken)),
                };
                let (code, message) = (code.to_owned(), "no such object".to_owned());
                Err(Refusal::Answered { status: 404, code, message, region: None })
            }
            answer => answer,
        }
    };
    let head = client.ask_surely(head).await.map_err(|refused| refused.at(client, action()))?;
    let size_bytes = head.content_length().and_then(|length| u64::try_from(length).ok());
    match (size_bytes, stored_at(head.last_modified())) {
        (Some(size_bytes), Some(modified)) => Ok(ObjectMeta { key: key.clone(), size_bytes, modified }),
        _ => Err(client.failed(Fault::Other, action(), "the store does not tell its size and time")),
    }
}

pub(super) async fn open(client: &Arc<Client>, key: &Key, range: Option<Range<u64>>) -> Result<Box<dyn ObjectReader>> {
    let (reader, _) = begin(client, key, range).await?;
    Ok(Box::new(reader))
}

/// Opens an object; also the digest that it was stored with, where the store has kept it.
async fn begin(client: &Arc<Client>, key: &Key, range: Option<Range<u64>>) -> Result<(S3Reader, Option<String>)> {
    let action = || format!("read {key:?}");
    let outside = |range: &Range<u64>, size: Option<u64>| {
        let Range { start, end } = range;
        let size = size.map_or_else(|| "the object".to_owned(), |size| format!("its {size} bytes"));
        client.failed(Fault::Other, action(), format!("bytes {start} to {end} do not lie in {size}"))
    };
    let wanted = match range {
        Some(range) if range.is_empty() || range.end > LARGEST_OBJECT_BYTES => {
            let size_bytes = head(client, key)
                .await
                .map_err(|error| crate::storage::StorageError { action: action(), ..error })?
                .size_bytes;
            if range.start > range.end || range.end > size_bytes {
                return Err(outside(&range, Some(size_bytes)));
            }
            let (range, version) = (range.start..range.start, Version::default());
            return Ok((S3Reader::new(client, key, range, version, None), None));
        }
        wanted => wanted,
    };
    let begun = Version::default();
    let got = client.ask_surely(|| get(client, key, wanted.clone(), &begun)).await;
    let got = got.map_err(|refused| match &wanted {
        Some(range) if refused.refusal.status() == 416 => outside(range, None),
        _ => refused.at(client, action()),
    })?;
    if let Some(range) = &wanted
        && got.range.end < range.end
    {
        return Err(outside(range, Some(got.range.end)));
    }
    Ok((S3Reader::new(client, key, got.range, got.version, Some(got.body)), got.digest))
}

/// Reads a whole small object. One that was damaged on its way is read again; one that is stored damaged is returned as
/// it is, since whoever reads it knows better what it should be.
pub(super) async fn get_small(client: &Arc<Client>, key: &Key, limit_bytes: u64) -> Result<Bytes> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let (mut reader, digest) = begin(client, key, None).await?;
        let mut body = Vec::new();
        while let Some(chunk) = reader.next().await? {
            if (body.len() + chunk.len()) as u64 > limit_bytes {
                let cause = format!("the object is larger than {limit_bytes} bytes");
                return Err(client.failed(Fault::Other, format!("read {key}"), cause));
            }
            body.extend_from_slice(&chunk);
        }
        let is_sound = digest.is_none_or(|digest| digest == Sha256::of(&body).to_string());
        if is_sound || attempts >= client.patience.attempts.min(3) {
            return Ok(body.into());
        }
        tracing::debug!("{key} arrived with another digest than it was stored with, and is read again");
    }
}

/// What tells one object of a name from the next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Version {
    etag: Option<String>,
    modified: Option<DateTime<Utc>>,
}

impl Version {
    /// Whether what is read now is what was read before, as far as the store tells.
    fn is_still(&self, now: &Self) -> bool {
        match (&self.etag, &now.etag) {
            (Some(before), Some(now)) => before == now,
            _ => self.modified == now.modified,
        }
    }
}

struct Got {
    range: Range<u64>,
    version: Version,
    digest: Option<String>,
    body: ByteStream,
}

/// Asks for a range, or for all, of an object; of one that was begun, only while it is the same.
async fn get(client: &Client, key: &Key, wanted: Option<Range<u64>>, begun: &Version) -> Answer<Got> {
    let mut request = client.sdk.get_object().bucket(&client.bucket).key(client.name(key));
    if let Some(range) = &wanted {
        request = request.range(format!("bytes={}-{}", range.start, range.end - 1));
    }
    if let Some(etag) = &begun.etag {
        request = request.if_match(etag);
    }
    let answer = request.send().await.map_err(refusal)?;
    let range = range_of(&answer, wanted.as_ref()).map_err(Refusal::Lost)?;
    let etag = answer.e_tag().filter(|etag| !etag.trim_matches('"').is_empty()).map(str::to_owned);
    let version = Version { etag, modified: stored_at(answer.last_modified()) };
    let digest = answer.metadata().and_then(|metadata| metadata.get(DIGEST).cloned());
    Ok(Got { range, version, digest, body: answer.body })
}

/// Which bytes of the object an answer brings.
fn range_of(answer: &GetObjectOutput, wanted: Option<&Range<u64>>) -> std::result::Result<Range<u64>, String> {
    let length = answer.content_length().and_then(|length| u64::try_from(length).ok());
    let length = length.ok_or("the answer does not tell its length")?;
    let Some(wanted) = wanted else { return Ok(0..length) };
    let start = match answer.content_range() {
        Some(text) => start_of(text).ok_or_else(|| format!("the answer brings {text:?}"))?,
        // The whole object, which is what was asked for or is not.
        None => 0,
    };
    if start != wanted.start || length > wanted.end - wanted.start {
        return Err(format!("bytes {} to {} were asked for and others came", wanted.start, wanted.end));
    }
    Ok(start..start + length)
}

/// The first byte of `bytes 5-9/100`.
fn start_of(content_range: &str) -> Option<u64> {
    content_range.strip_prefix("bytes")?.trim_start_matches([' ', '=']).split_once('-')?.0.parse().ok()
}

struct S3Reader {
    client: Arc<Client>,
    key: Key,
    rest: Range<u64>,
    version: Version,
    body: Option<ByteStream>,
    breaks: u32,
    since_break_bytes: u64,
}

impl S3Reader {
    fn new(client: &Arc<Client>, key: &Key, rest: Range<u64>, version: Version, body: Option<ByteStream>) -> Self {
        let (client, key) = (Arc::clone(client), key.clone());
        Self { client, key, rest, version, body, breaks: 0, since_break_bytes: 0 }
    }

    fn action(&self) -> String {
        format!("read {:?}", self.key)
    }

    /// The next piece of what the store is sending, or why it stopped.
    async fn receive(&mut self, body: &mut ByteStream) -> std::result::Result<Bytes, String> {
        match tokio::time::timeout(self.client.patience.stall, body.next()).await {
            Ok(Some(Ok(chunk))) => Ok(chunk),
            Ok(Some(Err(error))) => Err(innermost(&error)),
            Ok(None) => Err(format!("it ended {} bytes early", self.rest.end - self.rest.start)),
            Err(_) => Err(format!("nothing came for {} s", self.client.patience.stall.as_secs_f32().ceil())),
        }
    }

    /// Asks for the rest of an object that broke off.
    async fn go_on(&mut self, why: String) -> Result<ByteStream> {
        self.breaks = if self.since_break_bytes >= PROGRESS_BYTES { 1 } else { self.breaks + 1 };
        self.since_break_bytes = 0;
        if self.breaks >= self.client.patience.attempts {
            let refused = Refused { refusal: Refusal::Lost(why), doubt: true, attempts: self.breaks };
            return Err(refused.at(&self.client, self.action()));
        }
        tracing::debug!("{} broke off at byte {}: {why}", self.key, self.rest.start);
        tokio::time::sleep(pause(&self.client.patience, self.breaks)).await;
        let again = self.client.ask(0, || get(&self.client, &self.key, Some(self.rest.clone()), &self.version)).await;
        let replaced = "it was replaced while it was read";
        match again {
            Ok(got) if self.version.is_still(&got.version) && got.range == self.rest => Ok(got.body),
            Ok(_) => Err(self.client.failed(Fault::Other, self.action(), replaced)),
            Err(refused) if matches!(refused.refusal.status(), 412 | 416) => {
                Err(self.client.failed(Fault::Other, self.action(), replaced))
            }
            Err(refused) => Err(refused.at(&self.client, self.action())),
        }
    }
}

#[async_trait]
impl ObjectReader for S3Reader {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        let mut why = "its connection was given up".to_owned();
        while !self.rest.is_empty() {
            // Taken out: a call that is dropped in the middle leaves nothing half-read.
            let mut body = match self.body.take() {
                Some(body) => body,
                None => self.go_on(std::mem::take(&mut why)).await?,
            };
            match self.receive(&mut body).await {
                Ok(chunk) if chunk.is_empty() => self.body = Some(body),
                Ok(chunk) if chunk.len() as u64 > self.rest.end - self.rest.start => {
                    return Err(self.client.failed(
                        Fault::Other,
                        self.action(),
                        "the store sends more than it announced",
                    ));
                }
                Ok(chunk) => {
                    self.rest.start += chunk.len() as u64;
                    self.since_break_bytes += chunk.len() as u64;
                    self.body = Some(body);
                    return Ok(Some(chunk));
                }
                Err(broken) => why = broken,
            }
        }
        self.body = None;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_content_range_tells_where_it_begins() {
        assert_eq!(start_of("bytes 5-9/100"), Some(5));
        assert_eq!(start_of("bytes=0-9/*"), Some(0));
        for bad in ["", "bytes", "bytes */100", "5-9/100"] {
            assert_eq!(start_of(bad), None, "{bad}");
        }
    }

    #[test]
    fn an_answer_that_brings_other_bytes_is_none() {
        let answer = |length: i64, range: Option<&str>| {
            GetObjectOutput::builder().content_length(length).set_content_range(range.map(str::to_owned)).build()
        };
        assert_eq!(range_of(&answer(10, None), None), Ok(0..10));
        assert_eq!(range_of(&answer(5, Some("bytes 5-9/100")), Some(&(5..10))), Ok(5..10));
        assert_eq!(range_of(&answer(3, Some("bytes 5-7/8")), Some(&(5..10))), Ok(5..8), "the object ends there");
        assert_eq!(range_of(&answer(5, None), Some(&(0..10))), Ok(0..5), "all of a shorter object");
        assert!(range_of(&answer(100, None), Some(&(5..10))).is_err(), "the store does not know ranges");
        assert!(range_of(&answer(5, Some("bytes 6-10/100")), Some(&(5..10))).is_err());
        assert!(range_of(&answer(6, Some("bytes 5-10/100")), Some(&(5..10))).is_err());
    }

    #[test]
    fn an_object_is_the_same_while_its_etag_or_else_its_time_is() {
        let version = |etag: Option<&str>, seconds| Version {
            etag: etag.map(str::to_owned),
            modified: DateTime::from_timestamp(seconds, 0),
        };
        assert!(version(Some("a"), 1).is_still(&version(Some("a"), 2)));
        assert!(!version(Some("a"), 1).is_still(&version(Some("b"), 1)));
        assert!(version(None, 1).is_still(&version(None, 1)));
        assert!(!version(None, 1).is_still(&version(None, 2)));
    }
}
