//! A database of one's own on a shared server, a workspace, and repositories of every kind, seen past every proxy.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use pgkeep::repo::{BackupId, StoredName};
use pgkeep::storage::Key;
use serde_json::Value;

use crate::common::dumps::{Holder, sha256, until, within};
use crate::common::pgkeep::{Pgkeep, tree};
use crate::common::proxy::Dialect;
use crate::common::{Bucket, Cluster, PgVersion, Proxy, Weed, Workspace};

/// What does not compress, so that an archive has three parts of 8 MiB, and a last row that can be kept from a reader.
const LARGE: &str = "
    CREATE EXTENSION pgcrypto;
    CREATE TABLE noise (n int, b bytea);
    ALTER TABLE noise ALTER b SET STORAGE EXTERNAL;
    INSERT INTO noise SELECT n, gen_random_bytes(1000) FROM generate_series(1, 18000) n;
    INSERT INTO noise SELECT 0, string_agg(gen_random_bytes(1000), '') FROM generate_series(1, 20)";

const SMALL: &str = "
    CREATE TABLE noise (n int, b bytea);
    ALTER TABLE noise ALTER b SET STORAGE EXTERNAL;
    INSERT INTO noise SELECT n, decode(md5(n::text), 'hex') FROM generate_series(1, 500) n;
    INSERT INTO noise SELECT 0, decode(string_agg(md5(n::text), ''), 'hex') FROM generate_series(1, 1000) n";

/// The server lives as long as the test binary.
pub fn cluster() -> &'static Cluster {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let cluster = Cluster::plain(PgVersion::V15);
        for (name, content) in [("large", LARGE), ("small", SMALL)] {
            cluster.create_database(name);
            cluster.sql(name, content);
        }
        cluster
    })
}

pub struct World {
    pub database: String,
    pub workspace: Workspace,
}

impl World {
    /// An archive of three parts of a multipart upload.
    pub fn large() -> Self {
        Self::like("large")
    }

    /// An archive of some kilobytes.
    pub fn small() -> Self {
        Self::like("small")
    }

    fn like(template: &str) -> Self {
        static MADE: Mutex<usize> = Mutex::new(0);
        let mut made = MADE.lock().unwrap();
        *made += 1;
        let database = format!("shop{made}");
        cluster().sql("postgres", &format!("CREATE DATABASE {database} TEMPLATE {template}"));
        Self { database, workspace: Workspace::new() }
    }

    /// pgkeep on these repositories, let into the buckets by the environment.
    pub fn pgkeep(&self, words: &[&str], repositories: &[&str]) -> Pgkeep {
        let call = self.stranger(words, repositories);
        Weed::shared().credentials().into_iter().fold(call, |call, (name, value)| call.env(name, value))
    }

    /// pgkeep on these repositories, with nothing that lets it into a bucket.
    pub fn stranger(&self, words: &[&str], repositories: &[&str]) -> Pgkeep {
        let repositories = repositories.iter().flat_map(|repository| ["--repo", repository]);
        let call = self.workspace.pgkeep(words.iter().copied().chain(repositories));
        // Nothing is to be found on the machine itself.
        call.connecting_to(cluster()).env("AWS_EC2_METADATA_DISABLED", "true")
    }

    pub fn dump(&self, repositories: &[&str], more: &[&str]) -> Pgkeep {
        self.pgkeep(&[&["dump", "-d", &self.database], more].concat(), repositories)
    }

    pub fn sql(&self, text: &str) -> String {
        cluster().sql(&self.database, text)
    }

    /// Makes a dump stand still in the middle of the rows: the last row cannot be fetched while its index is rebuilt.
    pub fn hold_in_copy(&self) -> Holder {
        let toast = self.sql("SELECT reltoastrelid::regclass FROM pg_class WHERE relname = 'noise'");
        Holder::of(cluster(), &self.database, &format!("REINDEX TABLE {toast}"))
    }

    /// Waits until a dump stands where [`World::hold_in_copy`] holds it.
    pub fn until_it_stands(&self) {
        let stands = format!(
            "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query ~ '^COPY' AND datname = '{}'",
            self.database
        );
        until("the dump stands in the rows", || !cluster().sql("postgres", &stands).is_empty());
    }

    /// The programs that pgkeep has started in this world, by pid and words; they are told apart by their home directory.
    pub fn children(&self) -> Vec<(u32, String)> {
        let home = format!("HOME={}", self.workspace.path("home").display());
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if environment.split(|byte| *byte == 0).any(|variable| variable == home.as_bytes())
                && let Ok(pid) = entry.file_name().to_string_lossy().parse()
            {
                let words = fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
                found.push((pid, words.replace('\0', " ")));
            }
        }
        found
    }

    /// Nothing runs on, here or on the server, and no file is left outside the repositories.
    #[track_caller]
    pub fn is_quiet(&self) {
        let limit = Duration::from_secs(10);
        within(limit, "children end", &mut || self.children().is_empty());
        let ours = format!("SELECT 1 FROM pg_stat_activity WHERE datname = '{}'", self.database);
        within(limit, "backends end", &mut || cluster().sql("postgres", &ours).is_empty());
        assert_eq!(tree(&self.workspace.path("tmp")), [""; 0]);
    }

    /// The newest backup comes back as the archive that was dumped. Returns its id.
    #[track_caller]
    pub fn restores(&self, place: &Place) -> String {
        let file = self.workspace.path("restored.dump");
        let words = ["restore", "dump", "latest", "-d", &self.database, "--json", "--to-file", file.to_str().unwrap()];
        let document = self.pgkeep(&words, &[&place.address()]).run().succeeds().json();
        let id = document["items"][0]["id"].as_str().unwrap().to_owned();
        assert_eq!(place.manifest(&id)["plain"]["sha256"], sha256(&file));
        fs::remove_file(file).unwrap();
        id
    }

    /// The newest backup is a database again, with every row.
    #[track_caller]
    pub fn restores_into_a_database(&self, repositories: &[&str]) {
        let copy = format!("{}_copy", self.database);
        let words = ["restore", "dump", "latest", "-d", &self.database, "--into", &copy, "--analyze", "none"];
        self.pgkeep(&words, repositories).run().succeeds();
        let rows = "SELECT count(*), md5(string_agg(md5(b), '' ORDER BY n)) FROM noise";
        assert_eq!(cluster().sql(&copy, rows), self.sql(rows));
        cluster().sql("postgres", &format!("DROP DATABASE {copy}"));
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            cluster().sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.database));
        }
    }
}

/// A repository, and the test's own way to look into it.
pub enum Place {
    Folder(PathBuf),
    Bucket { bucket: Bucket, proxy: Proxy, dialect: Dialect },
}

impl Place {
    pub fn s3() -> Self {
        Self::behind(Dialect::Plain)
    }

    pub fn oss() -> Self {
        Self::behind(Dialect::Oss)
    }

    fn behind(dialect: Dialect) -> Self {
        let weed = Weed::shared();
        Self::Bucket { bucket: weed.bucket("stores"), proxy: Proxy::before(weed).dialect(dialect).start(), dialect }
    }

    pub fn folder(world: &World, name: &str) -> Self {
        Self::Folder(world.workspace.path(name))
    }

    pub fn address(&self) -> String {
        match self {
            Self::Folder(path) => path.display().to_string(),
            Self::Bucket { bucket, proxy, .. } => proxy.address(bucket),
        }
    }

    pub fn proxy(&self) -> &Proxy {
        match self {
            Self::Folder(path) => panic!("{} is behind no proxy", path.display()),
            Self::Bucket { proxy, .. } => proxy,
        }
    }

    pub fn bucket(&self) -> &Bucket {
        match self {
            Self::Folder(path) => panic!("{} is no bucket", path.display()),
            Self::Bucket { bucket, .. } => bucket,
        }
    }

    /// The names of all objects, relative to the repository.
    pub fn keys(&self) -> Vec<String> {
        match self {
            Self::Folder(path) => tree(path).into_iter().filter(|name| !name.ends_with('/')).collect(),
            Self::Bucket { bucket, .. } => {
                bucket.keys().iter().map(|key| key.strip_prefix("backups/").unwrap().to_owned()).collect()
            }
        }
    }

    pub fn get(&self, key: &str) -> Vec<u8> {
        match self {
            Self::Folder(path) => fs::read(path.join(key)).unwrap(),
            Self::Bucket { bucket, .. } => bucket.get(&format!("backups/{key}")).unwrap().to_vec(),
        }
    }

    /// The backups that count.
    pub fn ids(&self) -> BTreeSet<String> {
        let ids = self
            .keys()
            .into_iter()
            .filter_map(|key| Some(key.strip_prefix("main/dumps/")?.strip_suffix(".manifest.json")?.to_owned()));
        ids.collect()
    }

    pub fn manifest(&self, id: &str) -> Value {
        serde_json::from_slice(&self.get(&format!("main/dumps/{id}.manifest.json"))).unwrap()
    }

    /// Every object belongs to a backup that counts, or is a record; nothing is in the making, but for uploads of which
    /// nobody can know: see [`unknown_uploads`].
    #[track_caller]
    pub fn is_tidy(&self, unknown_uploads: &BTreeSet<String>) {
        let ids = self.ids();
        for key in self.keys() {
            let name = Key::new(key.as_str()).ok().and_then(|key| StoredName::parse(&key));
            match name.unwrap_or_else(|| panic!("{key} is no name of ours")) {
                StoredName::Dump { name, .. } => {
                    let id = BackupId::from(&name.stem);
                    assert!(ids.contains(id.as_str()), "{key} belongs to no backup");
                }
                StoredName::Intent { .. } | StoredName::Probe(_) => panic!("{key} is left over"),
                StoredName::Marker
                | StoredName::Encryption
                | StoredName::Lineage { .. }
                | StoredName::Proof { .. }
                | StoredName::Run { .. } => {}
            }
        }
        if let Self::Bucket { bucket, proxy, dialect } = self {
            let mut uploads = bucket.uploads();
            uploads.retain(|upload| *dialect == Dialect::Plain || !unknown_uploads.contains(&upload.key));
            let asked = || proxy.seen().into_iter().filter(|seen| uploads.iter().any(|upload| upload.key == seen.key));
            assert!(uploads.is_empty(), "{uploads:#?} {:#?}", asked().collect::<Vec<_>>());
        }
    }
}

/// Keys of uploads that had begun, perhaps, when their process died before it was told an id. Where a store lists
/// uploads they are found; OSS does not, so that only a lifecycle rule of the bucket ends them.
pub fn unknown_uploads(world: &World) -> BTreeSet<String> {
    let folder = world.workspace.state().join("uploads");
    let files = fs::read_dir(folder).into_iter().flatten().flatten();
    let notes = files.map(|file| serde_json::from_slice::<Value>(&fs::read(file.path()).unwrap()).unwrap_or_default());
    let unknown = notes.filter(|note| note["uploadId"].is_null());
    unknown.filter_map(|note| Some(format!("backups/{}", note["key"].as_str()?))).collect()
}

pub fn signal(name: &str, pid: u32) {
    assert!(Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap().success());
}
