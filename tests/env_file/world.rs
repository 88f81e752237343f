//! An env file, the directories that it names, and what the platform reads of them.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;

use crate::common::pgkeep::{Pgkeep, tree};
use crate::common::{Cluster, PgVersion, Workspace};

pub struct World {
    pub cluster: &'static Cluster,
    pub workspace: Workspace,
}

/// As the platform's classes are: a file with any other key is skipped whole.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Report {
    pub database: String,
    pub host: String,
    pub port: String,
    pub started_at: String,
    pub finished_at: String,
    pub duration_seconds: i64,
    pub mode: String,
    pub tool: String,
    pub status: String,
    pub error_message: String,
    pub local: Local,
    pub remote: Remote,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Local {
    pub file: String,
    pub globals_file: String,
    pub checksum_sha256: String,
    pub size_bytes: i64,
}

impl Local {
    pub fn nothing() -> Self {
        Self { file: String::new(), globals_file: String::new(), checksum_sha256: String::new(), size_bytes: 0 }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Remote {
    pub urls: Vec<String>,
}

impl World {
    /// An env file for database `shop`, with these lines in it; a later line has precedence over an earlier one.
    pub fn new(lines: &[&str]) -> Self {
        let world = Self { cluster: shop(), workspace: Workspace::new() };
        world.configure(lines);
        world
    }

    pub fn configure(&self, lines: &[&str]) {
        let (base, log) = (self.path("base"), self.path("log"));
        let mut text = format!(
            "PG_HOST={}\nPG_PORT={}\nPG_DATABASE=shop\nPG_USER=postgres\nBACKUP_BASE_DIR={}\nBACKUP_LOG_DIR={}\n",
            self.cluster.socket_dir().display(),
            self.cluster.port(),
            base.display(),
            log.display()
        );
        lines.iter().for_each(|line| text += &format!("{line}\n"));
        fs::write(self.path("db.env"), text).unwrap();
        fs::set_permissions(self.path("db.env"), fs::Permissions::from_mode(0o600)).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.workspace.path(name)
    }

    /// Nothing but the env file says where anything is.
    pub fn pgkeep(&self, words: &str) -> Pgkeep {
        let path = format!("{}:/usr/bin:/bin", self.cluster.bin_dir().display());
        self.workspace.pgkeep(words.split_whitespace()).env("BACKUP_ENV_FILE", self.path("db.env")).env("PATH", path)
    }

    /// A name that no other test of this binary takes.
    pub fn database(&self, name: &str) -> String {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        format!("{name}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Stems of the dumps on this host, ours and others'.
    pub fn stems(&self) -> Vec<String> {
        let names = tree(&self.path("base/data"));
        names.iter().filter_map(|name| name.strip_suffix(".dump")).map(str::to_owned).collect()
    }

    #[track_caller]
    pub fn only_stem(&self) -> String {
        let stems = self.stems();
        assert_eq!(stems.len(), 1, "{stems:?}");
        stems.into_iter().next().unwrap()
    }

    /// Names of the reports; whatever lies there is one.
    pub fn reports(&self) -> Vec<String> {
        let names = tree(&self.path("base/reports"));
        names.into_iter().map(|name| name.strip_suffix(".json").unwrap().to_owned()).collect()
    }

    pub fn report(&self, stem: &str) -> Report {
        read_report(&fs::read(self.path("base/reports").join(format!("{stem}.json"))).unwrap())
    }

    /// The only report, of a run that failed.
    #[track_caller]
    pub fn only_failure(&self) -> Report {
        let reports = self.reports();
        assert_eq!(reports.len(), 1, "{reports:?}");
        let report = self.report(&reports[0]);
        assert_eq!(report.status, "FAILED");
        assert!(!report.error_message.is_empty() && !report.error_message.contains('\n'), "{report:?}");
        report
    }

    /// Everything that was logged.
    pub fn log(&self) -> String {
        let names = tree(&self.path("log"));
        assert!(names.iter().all(|name| name.starts_with("backup_20") && name.len() == "backup_20250101.log".len()));
        names.iter().map(|name| fs::read_to_string(self.path("log").join(name)).unwrap()).collect()
    }
}

#[track_caller]
pub fn read_report(json: &[u8]) -> Report {
    serde_json::from_slice(json).unwrap_or_else(|error| panic!("{error}\n{}", String::from_utf8_lossy(json)))
}

pub fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

#[track_caller]
pub fn shell(directory: &Path, script: &str) {
    let output = Command::new("sh").args(["-euc", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}\n{}", String::from_utf8_lossy(&output.stderr));
}

/// The server lives as long as the test binary, and only new databases are made in it.
fn shop() -> &'static Cluster {
    static SHOP: OnceLock<Cluster> = OnceLock::new();
    SHOP.get_or_init(|| {
        let cluster = Cluster::plain(PgVersion::V15);
        cluster.create_database("shop");
        cluster.sql(
            "shop",
            "CREATE TABLE orders (id int PRIMARY KEY, what text);
             INSERT INTO orders SELECT n, md5(n::text) FROM generate_series(1, 3000) n;
             SELECT lo_from_bytea(0, 'a large object');
             ANALYZE",
        );
        cluster
    })
}
