//! The program under test, in a world of its own: state, home and repository lie in a temporary directory, and nothing
//! of the caller's environment reaches it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use super::cluster::Cluster;

/// Directories for one test; removed when dropped.
#[derive(Debug)]
pub struct Workspace {
    dir: TempDir,
}

impl Workspace {
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("pgkeep-test-").tempdir().unwrap();
        for name in ["home", "state", "tmp"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        Self { dir }
    }

    /// A path in the workspace.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Where the repository will be; not created.
    pub fn repository(&self) -> PathBuf {
        self.path("repository")
    }

    pub fn state(&self) -> PathBuf {
        self.path("state")
    }

    /// A new directory `name` with a `pg_dump` that does what the shell's `body` says, `$real` being the real one.
    pub fn client(&self, cluster: &Cluster, name: &str, body: &str) -> PathBuf {
        let dir = self.path(name);
        std::fs::create_dir(&dir).unwrap();
        let real = cluster.bin_dir();
        std::os::unix::fs::symlink(real.join("pg_dumpall"), dir.join("pg_dumpall")).unwrap();
        let head = format!("real='{}'; HOME='{}'", real.join("pg_dump").display(), self.path("home").display());
        let version = "if [ \"$1\" = --version ]; then exec \"$real\" --version; fi";
        executable(&dir.join("pg_dump"), &format!("#!/bin/sh\n{head}\n{version}\n{body}\n"));
        dir
    }

    /// pgkeep with these arguments and without a server to talk to.
    pub fn pgkeep<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Pgkeep {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgkeep"));
        command
            .args(arguments)
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("LC_ALL", "C.UTF-8")
            .env("HOME", self.path("home"))
            .env("TMPDIR", self.path("tmp"))
            .env("PGKEEP_STATE_DIR", self.state())
            .current_dir(self.dir.path())
            .stdin(Stdio::null());
        Pgkeep { command }
    }

    /// pgkeep with these arguments, then `--repo` with this workspace's repository, connecting to `cluster`.
    pub fn pgkeep_on<A: AsRef<OsStr>>(&self, cluster: &Cluster, arguments: impl IntoIterator<Item = A>) -> Pgkeep {
        self.pgkeep(arguments).arg("--repo").arg(self.repository()).connecting_to(cluster)
    }
}

impl Default for Workspace {
    fn default() -> Self {
        Self::new()
    }
}

/// A call of pgkeep that has not started yet.
#[derive(Debug)]
pub struct Pgkeep {
    command: Command,
}

impl Pgkeep {
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub fn env_remove(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    /// As a user of the server's host does it: by environment, with the client programs of the server's version first.
    pub fn connecting_to(self, cluster: &Cluster) -> Self {
        let mut path = OsString::from(cluster.bin_dir());
        path.push(":/usr/local/bin:/usr/bin:/bin");
        self.env("PGHOST", cluster.socket_dir())
            .env("PGPORT", cluster.port().to_string())
            .env("PGUSER", "postgres")
            .env("PATH", path)
    }

    /// By another program: `words`, then this call as its arguments, as in `prlimit --fsize=1000 pgkeep dump …`.
    pub fn under(self, words: &[&str]) -> Self {
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).arg(self.command.get_program()).args(self.command.get_args()).env_clear();
        for (name, value) in self.command.get_envs() {
            command.env(name, value.unwrap_or_default());
        }
        command.current_dir(self.command.get_current_dir().unwrap()).stdin(Stdio::null());
        Self { command }
    }

    /// For what this type does not offer.
    pub fn command(&mut self) -> &mut Command {
        &mut self.command
    }

    /// Runs it to its end.
    pub fn run(mut self) -> Outcome {
        let output = self.command.output().unwrap();
        Outcome::of(format!("{:?}", self.command), output)
    }

    /// Starts it with stdout and stderr piped: for tests that kill it. The caller waits for the child.
    pub fn spawn(mut self) -> Child {
        self.command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }
}

/// How a call of pgkeep ended.
#[derive(Debug)]
pub struct Outcome {
    pub stdout: String,
    pub stderr: String,
    /// `None`: ended by a signal.
    pub exit_code: Option<i32>,
    command: String,
}

impl Outcome {
    fn of(command: String, output: std::process::Output) -> Self {
        Self {
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            exit_code: output.status.code(),
            command,
        }
    }

    /// The outcome of a spawned child.
    pub fn wait_for(child: Child) -> Self {
        Self::of(format!("pid {}", child.id()), child.wait_with_output().unwrap())
    }

    /// Panics with everything that was said unless the exit code is this one.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.exit_code, Some(code), "exit code\n{}", self.transcript());
        self
    }

    #[track_caller]
    pub fn succeeds(self) -> Self {
        self.exits(0)
    }

    /// stdout as the one JSON document it must be.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("not JSON: {error}\n{}", self.transcript()))
    }

    pub fn transcript(&self) -> String {
        format!("{}\n-- stdout\n{}\n-- stderr\n{}", self.command, self.stdout, self.stderr)
    }
}

/// Every file below `dir`, relative, sorted; directories end in `/`.
pub fn tree(dir: &Path) -> Vec<String> {
    fn walk(dir: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            let path = entry.path();
            let relative = path.strip_prefix(root).unwrap().to_string_lossy().into_owned();
            if entry.file_type().unwrap().is_dir() {
                found.push(relative + "/");
                walk(&path, root, found);
            } else {
                found.push(relative);
            }
        }
    }
    let mut found = Vec::new();
    if dir.exists() {
        walk(dir, dir, &mut found);
    }
    found.sort();
    found
}

/// Writes a program. Another process does it: a test that starts one at this moment would hold the file open for
/// writing, and what is open for writing cannot be started.
pub fn executable(path: &Path, text: &str) {
    use std::io::Write as _;
    let mut install = Command::new("install");
    let mut install = install.args(["-m", "755", "/dev/stdin"]).arg(path).stdin(Stdio::piped()).spawn().unwrap();
    install.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(install.wait().unwrap().success());
}
