//! A bucket as it is spoken to: the SDK's client, set up as stores need it, and the one way in which requests are made
//! and made again.
//!
//! The SDK's own retries, time limits and checksums are off. Its retries do not know what an uncertain answer means for
//! create-only; its limit for an answer counts the time that the request's own bytes take, and it has none by default;
//! its checksums make many stores refuse a request and one store damage an object. What is sent is signed with its
//! SHA-256 instead, which every store checks, and for that it is in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use aws_config::profile::region::ProfileFileRegionProvider;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, IdentityCache, Region, RequestChecksumCalculation, ResponseChecksumValidation, SharedHttpClient,
    StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{Provider, TlsContext, TrustStore};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use tokio::time::Instant;

use super::failure::{Answer, Refusal, Refused, refusal};
use super::keys::Keys;
use super::resolver::Resolver;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::storage::rclone::Gateway;
use crate::storage::retry::pause;
use crate::storage::{Access, BucketAddress, Fault, Key, Patience, Prefix, Profile, StorageError};

/// How often an opening asks before a failure stands: who mistyped a name should not wait for it.
const OPENING_ATTEMPTS: u32 = 3;

/// How an object is kept from being overwritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Guard {
    /// `If-None-Match: *`.
    Precondition,
    /// `x-oss-forbid-overwrite: true`.
    OssHeader,
    /// Nothing but a look before.
    Look,
}

/// What a store takes and what it does not.
#[derive(Clone, Debug)]
pub(in crate::storage) struct Dialect {
    pub(super) guard: Guard,
    /// Look whether the name is free before storing: the guard is not proved to hold.
    pub(super) looks_first: bool,
    /// Parts are stored one after another: a gateway keeps in memory what comes too early.
    pub(super) parts_in_order: bool,
    /// The root of an answer has another name than the protocol gives it.
    pub(super) misnames_uploads: bool,
    /// How old what a gateway tells of names may be: what others stored since then it may not see.
    pub(super) memory: Option<Duration>,
}

impl Dialect {
    fn of(bucket: &BucketAddress) -> Self {
        let guard = if bucket.profile == Profile::Oss { Guard::OssHeader } else { Guard::Precondition };
        Self { guard, looks_first: !bucket.is_amazon(), parts_in_order: false, misnames_uploads: false, memory: None }
    }

    pub(in crate::storage) fn of_rclone(memory: Duration) -> Self {
        let (guard, memory) = (Guard::Look, Some(memory));
        Self { guard, looks_first: true, parts_in_order: true, misnames_uploads: true, memory }
    }
}

#[derive(Debug)]
pub(super) struct Client {
    pub sdk: aws_sdk_s3::Client,
    /// As a user would type it.
    pub address: Arc<str>,
    /// Where requests go, for messages.
    pub place: String,
    pub bucket: String,
    /// What stands before every key: empty, or it ends in a slash.
    prefix: String,
    pub dialect: Dialect,
    pub patience: Patience,
    keys: Keys,
    /// The child that stands between us and the store, where there is one.
    pub gateway: Option<Gateway>,
    /// The store said that it does not know conditional requests.
    pub refuses_conditions: AtomicBool,
    /// The last request was made in vain as often as patience allows, and nothing was answered since.
    is_silent: AtomicBool,
    /// The store said that it does not delete several objects by one request.
    pub refuses_bulk: AtomicBool,
}

impl Client {
    /// Sets everything up and asks nothing yet.
    pub async fn new(
        bucket: &BucketAddress,
        address: String,
        gateway: Option<(Dialect, Gateway)>,
        access: &Access,
    ) -> std::result::Result<Self, StorageError> {
        let opened = |error: Error| StorageError {
            fault: Fault::Other,
            action: "open the repository".to_owned(),
            address: address.clone(),
            source: error.into(),
        };
        let region = match &bucket.region {
            Some(region) => region.clone(),
            None => region_of(access).await,
        };
        let place = bucket.endpoint.as_ref().map_or_else(|| format!("Amazon S3 ({region})"), ToString::to_string);
        let limit = access.patience.opening.mul_f32(0.7);
        let keys = Keys::from(&bucket.credentials, bucket.is_oss(), &region, &access.environment, limit).await;
        let http = http_client(bucket).map_err(&opened)?;
        let mut config = aws_sdk_s3::config::Builder::new()
            .behavior_version(BehaviorVersion::v2026_01_12())
            .region(Region::new(region))
            .credentials_provider(keys.clone())
            .identity_cache(IdentityCache::no_cache())
            .http_client(http)
            .force_path_style(bucket.path_style)
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().connect_timeout(access.patience.connect).build())
            .stalled_stream_protection(StalledStreamProtectionConfig::disabled());
        config.set_endpoint_url(bucket.endpoint.as_ref().map(ToString::to_string));
        let (dialect, gateway) = match gateway {
            Some((dialect, gateway)) => (dialect, Some(gateway)),
            None => (Dialect::of(bucket), None),
        };
        let prefix = if bucket.prefix.is_empty() { String::new() } else { format!("{}/", bucket.prefix) };
        Ok(Self {
            sdk: aws_sdk_s3::Client::from_conf(config.build()),
            address: address.into(),
            place,
            bucket: bucket.bucket.clone(),
            prefix,
            dialect,
            gateway,
            patience: access.patience,
            keys,
            refuses_conditions: AtomicBool::default(),
            is_silent: AtomicBool::default(),
            refuses_bulk: AtomicBool::default(),
        })
    }

    /// The name of an object in the bucket.
    pub fn name(&self, key: &Key) -> String {
        format!("{}{key}", self.prefix)
    }

    pub fn prefix(&self, prefix: &Prefix) -> String {
        format!("{}{prefix}", self.prefix)
    }

    /// The key of an object of the bucket, if it is one of ours.
    pub fn key(&self, name: &str) -> Option<Key> {
        Key::new(name.strip_prefix(&self.prefix)?).ok()
    }

    pub fn conditions(&self) -> bool {
        self.dialect.guard == Guard::Precondition && !self.refuses_conditions.load(Ordering::Relaxed)
    }

    /// Makes a request whose body has `body_bytes`, and makes it again while its failure may pass.
    pub async fn ask<T, F>(&self, body_bytes: usize, attempt: impl Fn() -> F) -> std::result::Result<T, Refused>
    where
        F: Future<Output = Answer<T>>,
    {
        self.ask_until(None, body_bytes, attempt).await
    }

    /// The first request of a store: what is wrong with it is said soon.
    pub async fn ask_soon<T, F>(&self, attempt: impl Fn() -> F) -> std::result::Result<T, Refused>
    where
        F: Future<Output = Answer<T>>,
    {
        self.ask_until(Some(Instant::now() + self.patience.opening), 0, attempt).await
    }

    async fn ask_until<T, F>(
        &self,
        deadline: Option<Instant>,
        body_bytes: usize,
        attempt: impl Fn() -> F,
    ) -> std::result::Result<T, Refused>
    where
        F: Future<Output = Answer<T>>,
    {
        // A store that was asked in vain is asked once until it answers: whoever cleans up after it must not wait anew.
        let was_silent = self.is_silent.load(Ordering::Relaxed);
        let most = match deadline {
            _ if was_silent => 1,
            Some(_) => self.patience.attempts.clamp(1, OPENING_ATTEMPTS),
            None => self.patience.attempts.max(1),
        };
        let (mut doubt, mut renewed, mut attempts) = (false, false, 0);
        loop {
            let keys = self.keys.current().await;
            let keys = keys.map_err(|error| Refused { refusal: Refusal::Keys(error), doubt, attempts })?;
            attempts += 1;
            let limit =
                self.limit(body_bytes).min(deadline.map_or(Duration::MAX, |deadline| deadline - Instant::now()));
            let answer = tokio::time::timeout(limit, attempt()).await;
            let refusal = match answer.unwrap_or_else(|_| Err(Refusal::silence(limit))) {
                Ok(value) => {
                    self.is_silent.store(false, Ordering::Relaxed);
                    return Ok(value);
                }
                Err(refusal) => refusal,
            };
            doubt |= refusal.leaves_doubt();
            if refusal.is_about_keys() && !renewed {
                renewed = true;
                match self.keys.renew(&keys).await {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => tracing::debug!("renew the credentials that the store refused: {error}"),
                }
            }
            let pause = pause(&self.patience, attempts);
            let over = deadline.is_some_and(|deadline| Instant::now() + pause >= deadline);
            let is_gone = self.gateway.as_ref().is_some_and(Gateway::has_ended);
            if !refusal.may_pass() || is_gone || attempts >= most || over {
                self.is_silent.store(refusal.may_pass(), Ordering::Relaxed);
                return Err(Refused { refusal, doubt, attempts });
            }
            tracing::debug!("attempt {attempts} at {} is repeated: {refusal:?}", self.place);
            tokio::time::sleep(pause).await;
        }
    }

    /// How long a request may take until the head of its answer: long enough for its body on the slowest healthy line.
    fn limit(&self, body_bytes: usize) -> Duration {
        let speed = f64::from(self.patience.slowest_bytes_per_second.max(1));
        self.patience.answer + Duration::from_secs_f64(body_bytes as f64 / speed)
    }

    /// Waits until what a gateway remembers of names was learned after this call.
    pub async fn forgotten(&self) {
        if let Some(memory) = self.dialect.memory {
            tokio::time::sleep(memory + memory / 4).await;
        }
    }

    /// Asks once more where "no such object" may be an old memory.
    pub async fn ask_surely<T, F>(&self, attempt: impl Fn() -> F) -> std::result::Result<T, Refused>
    where
        F: Future<Output = Answer<T>>,
    {
        match self.ask(0, &attempt).await {
            Err(refused) if refused.refusal.is_no_such_key() && self.dialect.memory.is_some() => {
                self.forgotten().await;
                self.ask(0, &attempt).await
            }
            answer => answer,
        }
    }

    /// Whether the bucket can be listed, which is what every command needs.
    pub async fn look(&self) -> std::result::Result<(), Refused> {
        let look = || async {
            let request = self.sdk.list_objects_v2().bucket(&self.bucket).prefix(&self.prefix).max_keys(1);
            request.send().await.map(drop).map_err(refusal)
        };
        self.ask_soon(look).await
    }

    pub fn failed(
        &self,
        fault: Fault,
        action: impl Into<String>,
        cause: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> StorageError {
        StorageError { fault, action: action.into(), address: self.address.to_string(), source: cause.into() }
    }
}

/// Where no address and no variable tells the region, a profile may; else the one that knows all buckets' names.
async fn region_of(access: &Access) -> String {
    let set = |name: &str| access.environment.get(name).filter(|value| !value.is_empty()).map(str::to_owned);
    if let Some(region) = set("AWS_REGION").or_else(|| set("AWS_DEFAULT_REGION")) {
        return region;
    }
    use aws_config::meta::region::ProvideRegion as _;
    let profile = ProfileFileRegionProvider::builder().build();
    profile.region().await.map_or_else(|| "us-east-1".to_owned(), |region| region.to_string())
}

fn http_client(bucket: &BucketAddress) -> Result<SharedHttpClient> {
    let is_plain = bucket.endpoint.as_ref().is_some_and(|endpoint| !endpoint.is_encrypted());
    // Reading the certificates of this host takes time, which plain HTTP need not spend.
    let mut trusted = TrustStore::empty().with_native_roots(!is_plain && host_has_roots());
    if let Some(path) = &bucket.ca {
        let certificates = std::fs::read(path).doing(Kind::Usage, || format!("read the CA file {}", path.display()))?;
        usable(&certificates).map_err(|cause| {
            Error::usage(format!("{} holds no usable certificate: {cause}", path.display()))
                .hint("ca=FILE names certificates in PEM form")
        })?;
        trusted = trusted.with_pem_certificate(certificates);
    }
    let context = TlsContext::builder().with_trust_store(trusted).build();
    let context = context.doing(Kind::Unexpected, || "set TLS up")?;
    let builder = aws_smithy_http_client::Builder::new().tls_provider(Provider::Rustls(CryptoMode::AwsLc));
    Ok(builder.tls_context(context).build_with_resolver(Resolver))
}

/// The client panics on a host without certificates; a store with `ca=` works there all the same.
fn host_has_roots() -> bool {
    !rustls_native_certs::load_native_certs().certs.is_empty()
}

/// The client panics on a certificate that it cannot use.
fn usable(pem: &[u8]) -> std::result::Result<(), String> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        roots.add(certificate.map_err(|error| error.to_string())?).map_err(|error| error.to_string())?;
    }
    if roots.is_empty() { Err("there is none in it".to_owned()) } else { Ok(()) }
}
