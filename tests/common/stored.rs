//! A repository with real dumps, made once in a test binary; each test gets a copy to do with as it likes.

use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::pgkeep::tree;
use super::{Cluster, Outcome, PgVersion, Workspace};

/// A database whose name would move the cursor and forge a line if it were printed as it is.
pub const NASTY: &str = "\u{1b}[31mred\u{7} 100% ok";

/// Two dumps of `shop` and one of [`NASTY`], in instance `main`.
#[derive(Debug)]
pub struct Stored {
    pub cluster: Cluster,
    /// Path and content of every file. In memory, because nothing is dropped that lives as long as a test binary: a
    /// directory would stay behind.
    files: Vec<(String, Vec<u8>)>,
}

impl Stored {
    /// The server lives as long as the test binary.
    pub fn get() -> &'static Self {
        static STORED: OnceLock<Stored> = OnceLock::new();
        STORED.get_or_init(Self::make)
    }

    fn make() -> Self {
        let cluster = Cluster::plain(PgVersion::V15);
        for database in ["shop", NASTY] {
            cluster.create_database(database);
            cluster.sql(
                database,
                "CREATE TABLE orders (id int PRIMARY KEY, what text);
                 INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(1, 5000) n;
                 SELECT lo_from_bytea(0, 'a large object');
                 ANALYZE",
            );
        }
        let workspace = Workspace::new();
        let dump = |database: &str| workspace.pgkeep_on(&cluster, ["dump", "-d", database]).run().succeeds();
        dump("shop");
        dump(NASTY);
        // Roles are part of a dump: the second one differs in every object.
        cluster.sql("shop", "CREATE ROLE between_the_dumps; UPDATE orders SET what = md5(what)");
        dump("shop");
        let names = tree(&workspace.repository()).into_iter().filter(|name| !name.ends_with('/'));
        let read = |name: String| (std::fs::read(workspace.repository().join(&name)).unwrap(), name);
        let files = names.map(read).map(|(content, name)| (name, content)).collect();
        Self { cluster, files }
    }

    /// A workspace of its own with a copy of the repository; its state directory does not know the repository.
    pub fn copy(&self) -> Workspace {
        let workspace = Workspace::new();
        for (name, content) in &self.files {
            let path = workspace.repository().join(name);
            DirBuilder::new().recursive(true).mode(0o700).create(path.parent().unwrap()).unwrap();
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(path).unwrap();
            file.write_all(content).unwrap();
        }
        workspace
    }
}

pub fn copy_tree(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg("--").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "copy {} to {}", from.display(), to.display());
}

/// The ids of the backups of `shop`, oldest first.
pub fn shop_ids(workspace: &Workspace) -> Vec<String> {
    ids(workspace).into_iter().filter(|id| id.starts_with("shop_")).collect()
}

/// The ids of all backups, in the order of their names.
pub fn ids(workspace: &Workspace) -> Vec<String> {
    let names = tree(&workspace.repository().join("main/dumps"));
    names.iter().filter_map(|name| name.strip_suffix(".manifest.json")).map(str::to_owned).collect()
}

/// An object of a backup of instance `main`.
pub fn object(workspace: &Workspace, id: &str, ending: &str) -> PathBuf {
    workspace.repository().join(format!("main/dumps/{id}{ending}"))
}

/// pgkeep on the repository of the workspace, with no server to talk to.
pub fn on_repository(workspace: &Workspace, arguments: &[&str]) -> Outcome {
    workspace.pgkeep(arguments).arg("--repo").arg(workspace.repository()).run()
}

/// Damage that a listing does not show: one bit in the middle of a file.
pub fn flip(path: &Path) {
    let mut bytes = std::fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

/// The item of a document that is about the backup `id`.
#[track_caller]
pub fn item<'a>(document: &'a serde_json::Value, id: &str) -> &'a serde_json::Value {
    let items = document["items"].as_array().unwrap();
    items.iter().find(|item| item["id"] == id).unwrap_or_else(|| panic!("no item {id} in {document:#}"))
}
