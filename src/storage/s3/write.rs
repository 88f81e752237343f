//! Storing small objects, and whose an object is.

use aws_sdk_s3::error::SdkError;
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use std::sync::atomic::Ordering;

use super::client::{Client, Guard};
use super::failure::{Answer, Refusal, Refused, refusal};
use crate::digest::{Sha256, random_hex};
use crate::storage::{Fault, Key, Result};

/// The user metadata that holds the token of the write: `x-amz-meta-pgkeep-write`.
pub(super) const TOKEN: &str = "pgkeep-write";
/// The user metadata that holds the SHA-256 of an object stored by one request: `x-amz-meta-pgkeep-sha256`.
pub(super) const DIGEST: &str = "pgkeep-sha256";
/// The header of OSS that keeps an object from being overwritten.
pub(super) const FORBID_OVERWRITE: &str = "x-oss-forbid-overwrite";
/// Up to this size objects are compared byte by byte where a store keeps no token.
const COMPARED_BYTES: u64 = 16 << 20;

/// A token that no other write has.
pub(super) fn new_token() -> String {
    random_hex(32)
}

/// Whose an object is that stands where we tried to store one and do not know whether we did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Ours,
    Theirs,
    /// It is gone, or it carries no token and is too large to be compared.
    Unknown,
}

impl Client {
    pub(super) async fn create(&self, key: &Key, body: Bytes) -> Result<()> {
        let action = || format!("create {key:?}");
        let token = new_token();
        let stored = self.ask(body.len(), || self.try_create(key, &body, &token)).await;
        let refused = match stored {
            Ok(()) => return Ok(()),
            Err(refused) => refused,
        };
        if !refused.may_be_ours() {
            return Err(refused.of_change(self, action()));
        }
        self.settle(refused, key, &token, Some(&body), &action()).await
    }

    /// Settles an attempt after which the name is taken, perhaps by us: its answer was lost on the way to us, or on the
    /// way to something between us and the store that then asked again. Only where we know of a lost answer equal bytes
    /// are ours.
    pub(super) async fn settle(
        &self,
        refused: Refused,
        key: &Key,
        token: &str,
        body: Option<&Bytes>,
        action: &str,
    ) -> Result<()> {
        match self.owner(key, token, body.filter(|_| refused.doubt)).await {
            Ok(Owner::Ours) => Ok(()),
            Ok(Owner::Unknown) if !refused.doubt => Err(refused.of_change(self, action)),
            Ok(Owner::Theirs) => Err(Refused { doubt: false, ..refused }.of_change(self, action)),
            Ok(Owner::Unknown) => {
                let cause = "an answer was lost, and the store does not tell whose the object is that is there now";
                Err(self.failed(Fault::Unavailable, action, cause))
            }
            Err(asked) => Err(Refused { doubt: true, ..asked }.of_change(self, action)),
        }
    }

    pub(super) async fn replace(&self, key: &Key, body: Bytes) -> Result<()> {
        let token = new_token();
        let stored = self.ask(body.len(), || self.put(key, &body, &token, None)).await;
        stored.map_err(|refused| refused.of_change(self, format!("replace {key:?}")))
    }

    async fn try_create(&self, key: &Key, body: &Bytes, token: &str) -> Answer<()> {
        if self.dialect.looks_first {
            self.must_be_free(key).await?;
        }
        self.guarded(|guard| self.put(key, body, token, Some(guard))).await
    }

    /// Runs a request under the guard of this store, and without it on one that does not know conditions.
    pub(super) async fn guarded<T, F>(&self, request: impl Fn(Guard) -> F) -> Answer<T>
    where
        F: Future<Output = Answer<T>>,
    {
        if self.dialect.guard != Guard::Precondition {
            return request(self.dialect.guard).await;
        }
        if self.conditions() {
            match request(Guard::Precondition).await {
                Err(refusal) if refusal.is_unknown_request() && self.dialect.looks_first => {
                    self.refuses_conditions.store(true, Ordering::Relaxed);
                }
                answer => return answer,
            }
        }
        request(Guard::Look).await
    }

    /// [`Refusal::Taken`] if an object of this name is there. Which 404 a HEAD means is left to the request after it.
    pub(super) async fn must_be_free(&self, key: &Key) -> Answer<()> {
        match self.sdk.head_object().bucket(&self.bucket).key(self.name(key)).send().await.map_err(refusal) {
            Ok(_) => Err(Refusal::Taken),
            Err(refusal) if refusal.status() == 404 => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    pub(super) async fn put(&self, key: &Key, body: &Bytes, token: &str, guard: Option<Guard>) -> Answer<()> {
        let request = self.sdk.put_object().bucket(&self.bucket).key(self.name(key)).metadata(TOKEN, token);
        let request = request.metadata(DIGEST, Sha256::of(body).to_string());
        // A body in memory is signed with its digest, which the store checks.
        let mut request = request.body(ByteStream::from(body.clone()));
        if guard == Some(Guard::Precondition) {
            request = request.if_none_match("*");
        }
        let mut request = request.customize();
        if guard == Some(Guard::OssHeader) {
            request = request.mutate_request(|request| {
                request.headers_mut().insert(FORBID_OVERWRITE, "true");
            });
        }
        request.send().await.map(drop).map_err(refusal)
    }

    async fn owner(&self, key: &Key, token: &str, body: Option<&Bytes>) -> std::result::Result<Owner, Refused> {
        let head = || async {
            let request = self.sdk.head_object().bucket(&self.bucket).key(self.name(key));
            match request.send().await {
                Ok(head) => Ok(Some(head)),
                Err(SdkError::ServiceError(context)) if context.raw().status().as_u16() == 404 => Ok(None),
                Err(error) => Err(refusal(error)),
            }
        };
        let Some(head) = self.ask(0, head).await? else { return Ok(Owner::Unknown) };
        if let Some(found) = head.metadata().and_then(|metadata| metadata.get(TOKEN)) {
            return Ok(if found == token { Owner::Ours } else { Owner::Theirs });
        }
        let Some(body) = body else { return Ok(Owner::Unknown) };
        let length = head.content_length().and_then(|length| u64::try_from(length).ok());
        if length.is_some_and(|length| length != body.len() as u64) {
            return Ok(Owner::Theirs);
        }
        if body.len() as u64 > COMPARED_BYTES {
            return Ok(Owner::Unknown);
        }
        let get = || async {
            let request = self.sdk.get_object().bucket(&self.bucket).key(self.name(key));
            let object = request.send().await.map_err(refusal)?;
            object.body.collect().await.map(|body| body.into_bytes()).map_err(|error| Refusal::Lost(error.to_string()))
        };
        let found = self.ask(body.len(), get).await?;
        Ok(if found == *body { Owner::Ours } else { Owner::Theirs })
    }
}
