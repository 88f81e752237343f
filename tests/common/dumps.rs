//! What dumps have left in a repository, seen with the eyes of a user: files, JSON, `zstd`, `sha256sum`, `pg_restore`.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::cluster::Cluster;
use super::pgkeep::{Workspace, tree};

/// A dump that has a manifest.
#[derive(Debug)]
pub struct Dump {
    /// `<repository>/<instance>/dumps/<id>`: every file of the dump begins with it.
    pub stem: PathBuf,
    pub manifest: Value,
}

impl Dump {
    pub fn id(&self) -> String {
        self.stem.file_name().unwrap().to_string_lossy().into_owned()
    }

    pub fn file(&self, ending: &str) -> PathBuf {
        let mut path = self.stem.clone().into_os_string();
        path.push(ending);
        path.into()
    }

    /// The archive as `pg_dump` wrote it, into a file beside nothing else.
    pub fn unpack(&self, to: &Path) {
        run(Command::new("zstd").arg("-dqf").arg(self.file(".dump.zst")).arg("-o").arg(to));
    }

    pub fn globals(&self) -> String {
        decoded(&self.file("_globals.sql.zst"))
    }

    pub fn details(&self) -> Value {
        serde_json::from_str(&decoded(&self.file(".details.json.zst"))).unwrap()
    }

    /// What anybody without pgkeep can hold against it: its checksum file, its manifest, `pg_restore -l`.
    #[track_caller]
    pub fn holds(&self, cluster: &Cluster, workspace: &Workspace) {
        run(Command::new("sha256sum")
            .args(["--strict", "-c"])
            .arg(self.file(".dump.zst.sha256"))
            .current_dir(self.stem.parent().unwrap()));
        for object in self.manifest["objects"].as_array().unwrap() {
            let path = self.stem.with_file_name(object["name"].as_str().unwrap());
            assert_eq!(fs::metadata(&path).unwrap().len(), object["sizeBytes"].as_u64().unwrap(), "{}", path.display());
            assert_eq!(sha256(&path), object["sha256"], "{}", path.display());
        }
        let plain = workspace.path("plain.dump");
        self.unpack(&plain);
        assert_eq!(sha256(&plain), self.manifest["plain"]["sha256"]);
        assert_eq!(fs::metadata(&plain).unwrap().len(), self.manifest["plain"]["sizeBytes"].as_u64().unwrap());
        cluster.run(cluster.client("pg_restore").arg("--list").arg(&plain));
        fs::remove_file(plain).unwrap();
    }
}

/// Every dump of an instance that counts, oldest first.
pub fn dumps_of(workspace: &Workspace, instance: &str) -> Vec<Dump> {
    let folder = workspace.repository().join(instance).join("dumps");
    let mut found = Vec::new();
    for name in tree(&folder) {
        if let Some(stem) = name.strip_suffix(".manifest.json") {
            let text = fs::read_to_string(folder.join(&name)).unwrap();
            found.push(Dump { stem: folder.join(stem), manifest: serde_json::from_str(&text).unwrap() });
        }
    }
    found.sort_by_key(|dump| dump.manifest["startedAt"].as_str().unwrap().to_owned());
    found
}

/// The one dump of instance main.
#[track_caller]
pub fn only_dump(workspace: &Workspace) -> Dump {
    let mut dumps = dumps_of(workspace, "main");
    assert_eq!(dumps.len(), 1, "{dumps:#?}");
    dumps.remove(0)
}

/// The run records of an instance, oldest first.
pub fn runs_of(workspace: &Workspace, instance: &str) -> Vec<Value> {
    let folder = workspace.repository().join(instance).join("runs");
    let read = |name: String| serde_json::from_str::<Value>(&fs::read_to_string(folder.join(name)).unwrap()).unwrap();
    // One that is just being written has a temporary name.
    let names = tree(&folder).into_iter().filter(|name| !name.starts_with('.'));
    let mut runs: Vec<Value> = names.map(read).collect();
    runs.sort_by_key(|run| run["startedAt"].as_str().unwrap().to_owned());
    runs
}

pub fn sha256(path: &Path) -> String {
    let output = run(Command::new("sha256sum").arg("-b").arg(path));
    // A name with a backslash is marked by one before the digest.
    output.trim_start_matches('\\').split_whitespace().next().unwrap().to_owned()
}

fn decoded(path: &Path) -> String {
    run(Command::new("zstd").arg("-dqc").arg(path))
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Looks until it is so; half a minute without it is a failure. The looking yields the processor, it measures nothing.
#[track_caller]
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    within(Duration::from_secs(30), what, &mut is_so);
}

#[track_caller]
pub fn within(limit: Duration, what: &str, is_so: &mut dyn FnMut() -> bool) {
    let began = Instant::now();
    while !is_so() {
        assert!(began.elapsed() < limit, "{what}: not within {} s", limit.as_secs());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// A session that has run something in a transaction, which stays open until this is dropped.
#[derive(Debug)]
pub struct Holder(Child);

impl Holder {
    pub fn of(cluster: &Cluster, database: &str, statement: &str) -> Self {
        let mut psql = cluster.client("psql");
        psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "-d", &cluster.conninfo(database)]).env("PGAPPNAME", "holder");
        let mut child = psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        writeln!(child.stdin.as_mut().unwrap(), "BEGIN; {statement}; SELECT 'held';").unwrap();
        let mut answer = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        while !answer.contains("held") {
            assert!(stdout.read_line(&mut answer).unwrap() > 0, "{statement}: {answer}");
        }
        Self(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}
