//! Whatever rclone reaches, through a child `rclone serve s3` that lives as long as the store.
//!
//! The child listens on a free port of the loopback interface and takes one random pair of keys, which it is given in
//! its environment: arguments can be read by everybody on the host. It serves the directory above the repository's,
//! which so becomes a bucket. Nothing keeps two writers from one name there, so create-only is a look and no promise.
//! The child remembers the list of a directory for a moment only, since others write there, too, and no answer here
//! rests on what it remembers; and it computes no hash as ETag, for which some remotes would have to be read whole.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::address::{BucketAddress, RemoteAddress};
use super::s3::{Dialect, S3Storage};
use super::{Access, Credentials, Fault, Missing, Result, StorageError};
use crate::config::directories;
use crate::config::environment::Environment;
use crate::config::secret::Secret;
use crate::digest::random_hex;
use crate::error::{Doing as _, Error, Kind};
use crate::process::{Child, Program, find_program, shell_word};

/// The first version whose `serve s3` can be used.
const OLDEST: (u32, u32) = (1, 65);
/// How long the child remembers what is in a directory. Without a memory it would list a directory for every object in it.
const MEMORY: Duration = Duration::from_millis(300);
/// Lines of the child's standard error that an error repeats.
const REPEATED_LINES: usize = 5;
const OUTPUT_BYTES: u64 = 1 << 20;

/// A child that a store needs, and what it said last. It is killed when the last user of the store is gone, and by the
/// kernel when this process is.
#[derive(Debug)]
pub(super) struct Gateway {
    _child: Child,
    said: Arc<Mutex<VecDeque<String>>>,
    has_ended: Arc<AtomicBool>,
}

impl Gateway {
    /// The last words of the child, if it said anything.
    pub fn last_words(&self) -> Option<String> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let from = said.len().saturating_sub(REPEATED_LINES);
        (!said.is_empty()).then(|| said.range(from..).map(String::as_str).collect::<Vec<_>>().join("; "))
    }

    /// Nobody starts it again: what fails for want of it fails for good.
    pub fn has_ended(&self) -> bool {
        self.has_ended.load(Ordering::Relaxed)
    }
}

/// Opens the directory of a remote. [`Fault::NotFound`] if it is not there and [`Missing::Refuse`] is asked for.
pub(super) async fn open(remote: &RemoteAddress, access: &Access, missing: Missing) -> Result<S3Storage> {
    let failed = |error: Error| StorageError {
        fault: Fault::Other,
        action: "open the repository".to_owned(),
        address: remote.to_string(),
        source: error.into(),
    };
    let rclone = Rclone::find(&access.environment).map_err(&failed)?;
    rclone.must_be_new_enough().await.map_err(&failed)?;
    let (access_key_id, secret) = (random_hex(32), random_hex(32));
    let parent = remote.parent();
    let serving = rclone.serve(&parent, &access_key_id, &secret);
    let (gateway, port) = match tokio::time::timeout(access.patience.opening, serving).await {
        Ok(served) => served.map_err(&failed)?,
        Err(_) => {
            let what = format!("rclone did not begin to serve {parent} in time");
            return Err(failed(
                Error::new(Kind::Storage, what).hint(format!("try: rclone lsf {}", shell_word(parent.as_ref()))),
            ));
        }
    };
    let credentials = Credentials::Given { access_key_id, secret: Secret::new(secret), session_token: None };
    let bucket = BucketAddress::on_loopback(port, remote.directory(), credentials);
    let dialect = Dialect::of_rclone(MEMORY);
    let (storage, is_there) = S3Storage::of_gateway(&bucket, remote.to_string(), dialect, gateway, access).await?;
    match missing {
        _ if is_there => {}
        Missing::Refuse => {
            let hint = "check the path; the first backup creates the directory";
            let error = Error::new(Kind::Storage, "there is no such directory").hint(hint);
            return Err(StorageError { fault: Fault::NotFound, ..failed(error) });
        }
        Missing::CreateLast => {
            rclone.parent_must_exist(remote).await.map_err(&failed)?;
            storage.make_bucket().await?;
        }
    }
    Ok(storage)
}

/// The program and what it is started with.
struct Rclone {
    path: PathBuf,
    environment: Environment,
}

impl Rclone {
    fn find(environment: &Environment) -> crate::error::Result<Self> {
        let path = find_program("rclone", &directories::path(environment)).ok_or_else(|| {
            Error::new(Kind::MissingProgram, "Missing command: rclone")
                .hint("install rclone 1.65 or newer, or store in another kind of repository")
        })?;
        Ok(Self { path, environment: environment.clone() })
    }

    /// `rclone` with the caller's settings, except where it writes what it says: that is for us.
    fn program(&self, more: impl IntoIterator<Item = (OsString, OsString)>) -> Program {
        let mut environment = self.environment.of_others();
        let ours = ["LOG_FILE", "LOG_LEVEL", "LOG_FORMAT", "USE_JSON_LOG", "SYSLOG", "QUIET", "VERBOSE", "DRY_RUN"];
        environment.retain(|name, _| !ours.iter().any(|ours| name == format!("RCLONE_{ours}").as_str()));
        environment.extend(more);
        Program::new(&self.path, environment)
    }

    async fn must_be_new_enough(&self) -> crate::error::Result<()> {
        let (output, exit) = self.program([]).arg("version").output(OUTPUT_BYTES).await?;
        exit.check().doing(Kind::MissingProgram, || format!("ask {} for its version", self.path.display()))?;
        let text = String::from_utf8_lossy(&output);
        let line = text.lines().next().unwrap_or_default();
        match version(line) {
            Some(found) if found >= OLDEST => Ok(()),
            _ => {
                let what = format!("{} is {line:?}, and 1.65 is needed", self.path.display());
                Err(Error::new(Kind::MissingProgram, what).hint("install a newer rclone (https://rclone.org/install/)"))
            }
        }
    }

    async fn serve(&self, parent: &str, id: &str, secret: &str) -> crate::error::Result<(Gateway, u16)> {
        // A list of one pair, quoted because the pair has a comma.
        let keys = (OsString::from("RCLONE_AUTH_KEY"), OsString::from(format!("\"{id},{secret}\"")));
        let (audience, mut lines) = unbounded_channel();
        let program = self.program([keys]).args(["serve", "s3", "--addr", "127.0.0.1:0", "--etag-hash", ""]);
        let program = program.args(["--poll-interval", "0s", "--log-level", "NOTICE"]);
        let program = program.args(["--dir-cache-time".to_owned(), format!("{}ms", MEMORY.as_millis())]);
        let child = program.args(["--", parent]).heard_by(audience).spawn_quiet()?;
        let mut said = VecDeque::new();
        while let Some(line) = lines.recv().await {
            if let Some(port) = port(&line) {
                let (said, has_ended) = (Arc::default(), Arc::default());
                tokio::spawn(keep_last_words(lines, Arc::clone(&said), Arc::clone(&has_ended)));
                return Ok((Gateway { _child: child, said, has_ended }, port));
            }
            said.push_back(line);
        }
        let exit = child.wait().await?;
        let error = Error::new(Kind::Storage, format!("rclone ended with {}", exit.reason()));
        let complaint = complaint(said.make_contiguous());
        let is_unknown = complaint.contains("didn't find section in config file");
        let error = if complaint.is_empty() { error } else { error.because(complaint) };
        Err(match is_unknown {
            true => error.hint("is it a remote that rclone listremotes prints?"),
            false => error.hint(format!("try: rclone lsf {}", shell_word(parent.as_ref()))),
        })
    }

    /// Only the last component of a path is created: above it a disk may not be mounted. Where a remote has no empty
    /// directories, what holds nothing is not there, and nothing has to be.
    async fn parent_must_exist(&self, remote: &RemoteAddress) -> crate::error::Result<()> {
        let parent = remote.parent();
        let (features, exit) = self.program([]).args(["backend", "features", &parent]).output(OUTPUT_BYTES).await?;
        exit.check().doing(Kind::Storage, || format!("ask rclone about {parent}"))?;
        if !has_empty_directories(&features) {
            return Ok(());
        }
        let (_, exit) = self.program([]).args(["lsf", "--max-depth", "1", "--", &parent]).output(OUTPUT_BYTES).await?;
        if exit.status.code() == Some(DIRECTORY_NOT_FOUND) {
            let what = format!("{parent} does not exist, and only the last component of a path is created");
            let hint = "check the path, and whether its disk is mounted, or create the directory";
            return Err(Error::new(Kind::Storage, what).hint(hint));
        }
        exit.check().doing(Kind::Storage, || format!("list {parent}")).map(drop)
    }
}

/// What `rclone` ends with where a directory does not exist.
const DIRECTORY_NOT_FOUND: i32 = 3;

/// Keeps the memory of a long life small, and the child's standard error read. That is closed when the child is gone.
async fn keep_last_words(
    mut lines: UnboundedReceiver<String>,
    said: Arc<Mutex<VecDeque<String>>>,
    has_ended: Arc<AtomicBool>,
) {
    while let Some(line) = lines.recv().await {
        tracing::debug!(target: "pgkeep::child", "rclone: {line}");
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.push_back(line);
        if said.len() > REPEATED_LINES {
            said.pop_front();
        }
    }
    has_ended.store(true, Ordering::Relaxed);
}

/// What a child that ended complained of, without what it only noticed, and without times and levels. All it said, if
/// it did not complain.
fn complaint(said: &[String]) -> String {
    let complaints: Vec<&str> = said.iter().filter_map(|line| without_level(line)).collect();
    if complaints.is_empty() { said.join("; ") } else { complaints.join("; ") }
}

/// Of `2026/01/01 00:00:00 CRITICAL: words` the words. None of what is no error.
fn without_level(line: &str) -> Option<&str> {
    let (head, words) = line.split_once(": ")?;
    ["CRITICAL", "ERROR"].contains(&head.rsplit(' ').find(|word| !word.is_empty())?).then_some(words)
}

/// Of `rclone v1.60.1-DEV` the 1 and the 60.
fn version(line: &str) -> Option<(u32, u32)> {
    let mut numbers = line.strip_prefix("rclone v")?.split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Of `… Starting s3 server on [http://127.0.0.1:41309/]` the 41309.
fn port(line: &str) -> Option<u16> {
    let (_, rest) = line.split_once("http://127.0.0.1:")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn has_empty_directories(features: &[u8]) -> bool {
    let features: Option<serde_json::Value> = serde_json::from_slice(features).ok();
    features.is_some_and(|features| features["Features"]["CanHaveEmptyDirectories"] == true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_rclone_says_of_itself_is_understood() {
        assert_eq!(version("rclone v1.75.2"), Some((1, 75)));
        assert!(version("rclone v1.60.1-DEV").unwrap() < OLDEST);
        assert!(version("rclone v2.0.0").unwrap() >= OLDEST);
        assert_eq!(version("another program"), None);
        let line = "2026/01/01 00:00:00 NOTICE: sftp://u@h:22/x: Starting s3 server on [http://127.0.0.1:41309/]";
        assert_eq!(port(line), Some(41309));
        assert_eq!(port("NOTICE: Config file not found - using defaults"), None);
        assert!(has_empty_directories(br#"{"Features":{"CanHaveEmptyDirectories":true}}"#));
        assert!(!has_empty_directories(br#"{"Features":{"CanHaveEmptyDirectories":false}}"#));
    }

    #[test]
    fn of_what_a_child_said_the_complaints_are_repeated() {
        let said = [
            "2026/01/01 00:00:00 NOTICE: far: No host key validation is being performed.",
            "2026/01/01 00:00:11 CRITICAL: Failed to create file system for \"far:\": connection refused",
        ]
        .map(str::to_owned);
        assert_eq!(complaint(&said), "Failed to create file system for \"far:\": connection refused");
        assert_eq!(complaint(&said[..1]), said[0]);
        assert_eq!(complaint(&["2026/01/01 00:00:00 ERROR : x: no".to_owned()]), "x: no");
        assert_eq!(complaint(&[]), "");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Rclone::find(&Environment::from_pairs([("PATH", "/nowhere")])).err().unwrap();
        assert_eq!((error.kind, error.to_string().as_str()), (Kind::MissingProgram, "Missing command: rclone"));
    }

    #[tokio::test]
    async fn an_old_rclone_is_refused_with_the_version_found() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("rclone");
        std::fs::write(&program, "#!/bin/sh\necho rclone v1.60.1-DEV\n").unwrap();
        std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).unwrap();
        let path = folder.path().to_str().unwrap();
        let rclone = Rclone::find(&Environment::from_pairs([("PATH", path)])).unwrap();
        let error = rclone.must_be_new_enough().await.unwrap_err();
        assert_eq!(error.kind, Kind::MissingProgram);
        assert!(error.to_string().contains("\"rclone v1.60.1-DEV\", and 1.65 is needed"), "{error}");
    }
}
