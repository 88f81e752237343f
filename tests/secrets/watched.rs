//! A command with a secret in every place that one can come from, and everything that can be seen of it: what it says and
//! stores, and what its children are told, who tell it themselves.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pgkeep::digest::random_hex;
use tempfile::TempDir;

use crate::common::pgkeep::{Pgkeep, tree};
use crate::common::{Cluster, Outcome, Workspace};

/// Directories of the workspace that the test has made.
const MADE: [&str; 4] = ["home/", "state/", "tmp/", "out/"];

pub struct Watched {
    pub workspace: Workspace,
    /// What the user wrote, and what the children saw. Not searched.
    aside: TempDir,
    /// Where each secret is from, and the secret.
    canaries: Vec<(&'static str, String)>,
}

impl Watched {
    pub fn new() -> Self {
        let watched = Self { workspace: Workspace::new(), aside: TempDir::new().unwrap(), canaries: Vec::new() };
        for name in ["tools", "seen", "home"] {
            fs::create_dir(watched.aside(name)).unwrap();
        }
        fs::create_dir(watched.workspace.path("out")).unwrap();
        watched
    }

    pub fn aside(&self, name: &str) -> PathBuf {
        self.aside.path().join(name)
    }

    /// A new secret.
    pub fn canary(&mut self, source: &'static str) -> String {
        self.search_for(source, format!("canary{}", random_hex(24)))
    }

    pub fn search_for(&mut self, source: &'static str, secret: String) -> String {
        self.canaries.push((source, secret.clone()));
        let patterns: String = self.canaries.iter().map(|(_, secret)| format!("{secret}\n")).collect();
        self.keep("patterns", &patterns);
        secret
    }

    /// A file of the user's own.
    pub fn keep(&self, name: &str, text: &str) -> PathBuf {
        let path = self.aside(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    /// A program that tells what can be seen of it, of pgkeep and of the files at that moment, then does `work`.
    pub fn tool(&self, name: &str, work: &str) -> PathBuf {
        let script = format!(
            "#!/bin/sh\n{{ /usr/bin/tr '\\0' '\\n' </proc/$$/cmdline; /usr/bin/tr '\\0' '\\n' </proc/$$/environ\n\
             /bin/grep -h 'core file' /proc/$$/limits /proc/$PPID/limits\n\
             /usr/bin/find '{root}' -mindepth 1 -printf 'MODE %y %m %P\\n'\n\
             /bin/grep -raFlf '{patterns}' '{root}' | /bin/sed 's/^/LEAK /'\n}} >'{seen}'/{name}.$$ 2>/dev/null\n{work}\n",
            root = self.workspace.path("").display(),
            patterns = self.aside("patterns").display(),
            seen = self.aside("seen").display(),
        );
        let path = self.keep(&format!("tools/{name}"), &script);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
        path
    }

    /// The client programs of the server's version, each of which tells.
    pub fn client_programs(&self, cluster: &Cluster) -> PathBuf {
        for name in ["pg_dump", "pg_dumpall", "pg_restore", "psql", "vacuumdb"] {
            self.tool(name, &format!("exec {} \"$@\"", cluster.bin_dir().join(name).display()));
        }
        self.aside("tools")
    }

    /// Prints the file, and shows on standard error what it prints, as `set -x` does.
    pub fn printing(&self, name: &str, file: &Path) -> PathBuf {
        self.tool(name, &format!("/bin/cat '{0}' >&2; exec /bin/cat '{0}'", file.display()))
    }

    /// Core dumps are not forbidden to it.
    pub fn pgkeep(&self, words: &[&str]) -> Pgkeep {
        let path = format!("{}:/usr/local/bin:/usr/bin:/bin", self.aside("tools").display());
        let call = self.workspace.pgkeep(words).env("HOME", self.aside("home")).env("PATH", path);
        call.under(&["/bin/sh", "-c", "ulimit -c 2048 2>/dev/null; exec \"$@\"", "sh"])
    }

    /// Runs it and looks at everything. `allowed` are the programs that may have secrets of these sources in their
    /// environment: their own.
    #[track_caller]
    pub fn run(&self, call: Pgkeep, code: i32, allowed: &[(&str, &str)]) -> Outcome {
        let outcome = self.run_to_any_end(call, allowed);
        assert_eq!(outcome.exit_code, Some(code), "{}", last_lines(&outcome));
        outcome
    }

    #[track_caller]
    pub fn run_to_any_end(&self, call: Pgkeep, allowed: &[(&str, &str)]) -> Outcome {
        let outcome = call.run();
        for text in [&outcome.stdout, &outcome.stderr] {
            let line = text.lines().find(|line| self.found_in(line.as_bytes()).is_some());
            assert!(line.is_none(), "{}: {}", self.found_in(text.as_bytes()).unwrap(), line.unwrap());
        }
        self.children_told_nothing(allowed);
        self.no_file_has_it();
        outcome
    }

    #[track_caller]
    pub fn is_not_in(&self, name: &str, bytes: &[u8]) {
        assert_eq!(self.found_in(bytes), None, "{name}");
    }

    /// The source of a secret that stands there.
    fn found_in(&self, bytes: &[u8]) -> Option<&'static str> {
        self.sources_in(bytes).next()
    }

    fn sources_in(&self, bytes: &[u8]) -> impl Iterator<Item = &'static str> {
        // The search of the standard library is fast, and only in text.
        let text = String::from_utf8_lossy(bytes).into_owned();
        self.canaries.iter().filter(move |(_, secret)| text.contains(secret)).map(|(source, _)| *source)
    }

    #[track_caller]
    fn children_told_nothing(&self, allowed: &[(&str, &str)]) {
        for (program, text) in self.told() {
            for source in self.sources_in(text.as_bytes()) {
                assert!(
                    allowed.contains(&(program.as_str(), source)),
                    "{program} sees the secret of {source}:\n{text}"
                );
            }
            let limits: Vec<&str> = text.lines().filter(|line| line.starts_with("Max core file size")).collect();
            let is_none = |line: &&str| line.split_whitespace().skip(4).take(2).eq(["0", "0"]);
            assert!(limits.len() == 2 && limits.iter().all(is_none), "{program}: {limits:?}");
            for line in text.lines() {
                assert!(!line.starts_with("LEAK "), "while {program} ran: {line}");
                if let Some(told) = line.strip_prefix("MODE ") {
                    let [kind, mode, name] = told.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
                    is_private(name, kind == "d", u32::from_str_radix(mode, 8).unwrap());
                }
            }
        }
    }

    /// What each child saw, by its name.
    fn told(&self) -> Vec<(String, String)> {
        let files = fs::read_dir(self.aside("seen")).unwrap().map(|entry| entry.unwrap().path());
        let read = |path: PathBuf| {
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (name, String::from_utf8_lossy(&fs::read(path).unwrap()).into_owned())
        };
        files.map(read).collect()
    }

    /// The programs that were started so far.
    pub fn started(&self) -> BTreeSet<String> {
        self.told().into_iter().map(|(name, _)| name).collect()
    }

    /// No file as it is, and none that others can read.
    #[track_caller]
    fn no_file_has_it(&self) {
        let root = self.workspace.path("");
        for name in tree(&root) {
            let path = root.join(&name);
            let mode = fs::symlink_metadata(&path).unwrap().permissions().mode();
            is_private(name.trim_end_matches('/'), name.ends_with('/'), mode & 0o7777);
            if !name.ends_with('/') {
                assert_eq!(self.found_in(&fs::read(&path).unwrap()), None, "{name}");
            }
        }
    }

    /// None of what is stored, decrypted and decompressed.
    #[track_caller]
    pub fn nothing_decodes_to_it(&self, identity: &Path) {
        let root = self.workspace.path("");
        let mut decoded = 0;
        for name in tree(&root).iter().filter(|name| name.contains(".zst") && !name.ends_with(".sha256")) {
            let script = match name.ends_with(".age") {
                true => "age -d -i \"$2\" \"$1\" | zstd -dqc",
                false => "zstd -dqc \"$1\"",
            };
            let mut command = Command::new("bash");
            command.args(["-o", "pipefail", "-c", script, "-"]).arg(root.join(name)).arg(identity);
            let output = command.stdin(Stdio::null()).output().unwrap();
            assert!(output.status.success(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
            assert_eq!(self.found_in(&output.stdout), None, "{name}");
            decoded += 1;
        }
        assert!(decoded > 0);
    }
}

#[test]
fn the_search_finds_what_it_looks_for() {
    let run = |watched: &Watched| {
        let run = || drop(watched.run(watched.pgkeep(&["--version"]), 0, &[]));
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_ok()
    };
    let watched = || {
        let mut watched = Watched::new();
        let secret = watched.canary("the test");
        (watched, secret)
    };
    let told = |variable: &str, name: &str, more: &str| {
        let (watched, secret) = watched();
        let out = watched.workspace.path("out").join(name);
        fs::write(&out, more.replace("SECRET", &secret)).unwrap();
        fs::set_permissions(&out, fs::Permissions::from_mode(0o600)).unwrap();
        let program = watched.tool("program", &format!("rm '{}'", out.display()));
        let words = "ulimit -c 0; \"$0\"; true";
        let mut ran = Command::new("sh");
        ran.args(["-c", words]).arg(program).env("VALUE", variable.replace("SECRET", &secret));
        assert!(ran.status().unwrap().success());
        run(&watched)
    };
    assert!(told("harmless", "file", "harmless"));
    assert!(!told("a SECRET", "file", "harmless"), "in the environment of a child");
    assert!(!told("harmless", "file", "a SECRET"), "in a file while a child runs");
    for (content, mode) in [("SECRET", 0o600), ("harmless", 0o640)] {
        let (watched, secret) = watched();
        let file = watched.workspace.path("out/file");
        fs::write(&file, content.replace("SECRET", &secret)).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
        assert!(!run(&watched), "{content} {mode:o}");
    }
}

/// Nobody but its owner can do anything with it. What the platform reads is meant for others.
#[track_caller]
fn is_private(name: &str, is_directory: bool, mode: u32) {
    if MADE.contains(&format!("{name}/").as_str()) {
        return;
    }
    let folder = name.split('/').next().unwrap_or_default();
    let for_others = folder == "log" || name.starts_with("base/reports") || name == "base";
    let wanted = match (is_directory, for_others) {
        (true, false) => 0o700,
        (false, false) => 0o600,
        (true, true) => 0o755,
        (false, true) => 0o644,
    };
    assert_eq!(mode, wanted, "mode {mode:o} of {name}");
}

fn last_lines(outcome: &Outcome) -> String {
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    format!("{}\n{}", lines[lines.len().saturating_sub(15)..].join("\n"), outcome.stdout)
}
