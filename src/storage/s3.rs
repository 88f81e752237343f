//! Objects in a bucket: Amazon S3, what speaks its protocol, and Aliyun OSS.
//!
//! Every object carries a random token of the write that made it. Where an answer was lost and the next attempt finds
//! the name taken, the token tells whether it was taken by us. Multipart uploads are noted in a journal on this host
//! before they begin, so that what a killed run leaves in the bucket, where it costs money and is not listed, is found
//! and removed.

mod client;
mod delete;
mod failure;
mod interceptors;
mod journal;
mod keys;
mod list;
mod probe;
mod read;
mod resolver;
mod upload;
mod write;

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use chrono::{DateTime, Utc};
use tokio::task::JoinHandle;

use self::client::Client;
pub(super) use self::client::Dialect;
use self::journal::Journal;
use self::upload::S3Writer;
use super::rclone::Gateway;
use super::{
    Access, BucketAddress, CreateOnly, Fault, Key, ObjectMeta, ObjectReader, ObjectWriter, Prefix, Result, Storage,
};

/// A repository in a bucket. Clones share it.
#[derive(Clone, Debug)]
pub struct S3Storage {
    client: Arc<Client>,
    journal: Journal,
    endings: Endings,
}

impl S3Storage {
    /// Opens the bucket, which has then answered once. A bucket that does not exist is an error like any other: none is
    /// ever made here.
    pub async fn open(bucket: &BucketAddress, access: &Access) -> Result<Self> {
        let storage = Self::new(bucket, bucket.to_string(), None, access).await?;
        let looked = storage.client.look().await;
        looked.map_err(|refused| refused.at(&storage.client, "open the repository"))?;
        Ok(storage)
    }

    async fn new(
        bucket: &BucketAddress,
        address: String,
        gateway: Option<(Dialect, Gateway)>,
        access: &Access,
    ) -> Result<Self> {
        let client = Client::new(bucket, address, gateway, access).await?;
        let journal = Journal::new(access.uploads.clone(), &client.address);
        Ok(Self { client: Arc::new(client), journal, endings: Endings::default() })
    }

    /// A directory that a gateway serves as a bucket. False if it is not there.
    pub(super) async fn of_gateway(
        bucket: &BucketAddress,
        address: String,
        dialect: Dialect,
        gateway: Gateway,
        access: &Access,
    ) -> Result<(Self, bool)> {
        let storage = Self::new(bucket, address, Some((dialect, gateway)), access).await?;
        let is_there = match storage.client.look().await {
            Ok(()) => true,
            Err(refused) if refused.refusal.is_no_such_bucket() => false,
            Err(refused) => return Err(refused.at(&storage.client, "open the repository")),
        };
        Ok((storage, is_there))
    }

    /// Makes the directory that a gateway serves as a bucket.
    pub(super) async fn make_bucket(&self) -> Result<()> {
        let make = || async {
            let request = self.client.sdk.create_bucket().bucket(&self.client.bucket);
            request.send().await.map(drop).map_err(failure::refusal)
        };
        self.client.ask_soon(make).await.map_err(|refused| refused.of_change(&self.client, "create the directory"))
    }
}

#[async_trait]
impl Storage for S3Storage {
    fn address(&self) -> &str {
        &self.client.address
    }

    async fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        self.client.create(key, body).await
    }

    async fn prove_create_only(&self) -> Result<CreateOnly> {
        probe::prove(&self.client).await
    }

    async fn replace(&self, key: &Key, body: Bytes) -> Result<()> {
        self.client.replace(key, body).await
    }

    async fn writer(&self, key: &Key, expected_bytes: Option<u64>) -> Result<Box<dyn ObjectWriter>> {
        Ok(Box::new(S3Writer::new(self.clone(), key.clone(), expected_bytes)))
    }

    async fn read(&self, key: &Key, range: Option<Range<u64>>) -> Result<Box<dyn ObjectReader>> {
        read::open(&self.client, key, range).await
    }

    async fn get(&self, key: &Key, limit_bytes: u64) -> Result<Bytes> {
        read::get_small(&self.client, key, limit_bytes).await
    }

    async fn head(&self, key: &Key) -> Result<ObjectMeta> {
        read::head(&self.client, key).await
    }

    async fn list(&self, prefix: &Prefix) -> Result<Vec<ObjectMeta>> {
        list::list(&self.client, prefix).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        delete::delete(&self.client, key).await
    }

    async fn delete_all(&self, keys: &[Key]) -> Result<()> {
        delete::delete_all(&self.client, keys).await
    }

    async fn now(&self) -> Result<DateTime<Utc>> {
        let action = "ask for the time";
        let answered_at = interceptors::AnsweredAt::default();
        let ask = || async {
            let request = self.client.sdk.head_bucket().bucket(&self.client.bucket).customize();
            request.interceptor(answered_at.clone()).send().await.map(drop).map_err(failure::refusal)
        };
        self.client.ask(0, ask).await.map_err(|refused| refused.at(&self.client, action))?;
        answered_at.get().ok_or_else(|| self.client.failed(Fault::Other, action, "the answer of the store has no date"))
    }

    /// A bucket has no end that it would tell of.
    async fn free_bytes(&self) -> Result<Option<u64>> {
        Ok(None)
    }

    async fn sweep_unfinished(&self, prefix: &Prefix) -> Result<usize> {
        self.endings.all().await;
        upload::sweep(self, prefix).await
    }
}

/// Uploads that were given up and are being removed in the background: a dropped writer cannot wait.
#[derive(Clone, Debug, Default)]
struct Endings(Arc<Mutex<Vec<JoinHandle<()>>>>);

impl Endings {
    fn add(&self, ending: JoinHandle<()>) {
        let mut endings = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        endings.retain(|ending| !ending.is_finished());
        endings.push(ending);
    }

    async fn all(&self) {
        let endings = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        for ending in endings {
            // One that did not come to its end is in the journal still.
            let _ = ending.await;
        }
    }
}
