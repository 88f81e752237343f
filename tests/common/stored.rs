//! A repository with real dumps, made once in a test binary; each test gets a copy to do with as it likes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::{Cluster, Outcome, PgVersion, Workspace};

/// A database whose name would move the cursor and forge a line if it were printed as it is.
pub const NASTY: &str = "\u{1b}[31mred\u{7} 100% ok";

/// Two dumps of `shop` and one of [`NASTY`], in instance `main`.
#[derive(Debug)]
pub struct Stored {
    pub cluster: Cluster,
    workspace: Workspace,
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
        Self { cluster, workspace }
    }

    /// A workspace of its own with a copy of the repository; its state directory does not know the repository.
    pub fn copy(&self) -> Workspace {
        let workspace = Workspace::new();
        copy_tree(&self.workspace.repository(), &workspace.repository());
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
    let names = super::pgkeep::tree(&workspace.repository().join("main/dumps"));
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
