//! The test binary run again as a child: under another user, another umask, strace, a limit, or to be killed.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, LazyLock};

use pgkeep::error::Error;
use pgkeep::storage::{LocalStorage, Missing, Prefix, Storage, StorageError};
use rustix::fs::Mode;

use crate::contract::{key, noise};

const ROLE: &str = "PGKEEP_TEST_ROLE";
const REPO: &str = "PGKEEP_TEST_REPO";

/// The arguments that make the test binary run [`child_process`] only.
pub const ARGUMENTS: [&str; 4] = ["child::child_process", "--exact", "--nocapture", "--test-threads=1"];

/// This binary, also where the path to it is closed to the user that a child runs as.
pub const OURSELVES: &str = "/proc/self/exe";

pub fn command(program: &str, role: &str, repo: &Path) -> Command {
    let mut command = Command::new(program);
    command.env(ROLE, role).env(REPO, repo);
    command
}

/// `command` as `role`, by this binary itself.
pub fn ourselves(role: &str, repo: &Path) -> Command {
    let mut command = command(OURSELVES, role, repo);
    command.args(ARGUMENTS);
    command
}

/// Runs a child to its end and returns what it answered.
pub fn answer(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("run {:?}: {error}", command.get_program()));
    let text = String::from_utf8_lossy(&output.stdout);
    let answer = text.split_once("ANSWER ").and_then(|(_, rest)| rest.lines().next());
    answer.unwrap_or_else(|| panic!("no answer: {text}{}", String::from_utf8_lossy(&output.stderr))).to_owned()
}

#[allow(clippy::disallowed_methods, reason = "a re-run test binary can be told its part in no other way")]
fn told(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// How often what happens by chance is tried: often where PGKEEP_TEST_LONG is set.
pub fn rounds() -> u64 {
    if told("PGKEEP_TEST_LONG").is_some() { 300 } else { 12 }
}

/// Does nothing unless this process was started by [`ourselves`].
#[test]
fn child_process() {
    let (Some(role), Some(repo)) = (told(ROLE), told(REPO)) else { return };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let answer = match runtime.block_on(play(role.to_str().unwrap(), Path::new(&repo))) {
        Ok(answer) => answer,
        Err(error) => {
            let fault = error.fault;
            let error = Error::from(error);
            format!("{fault:?} kind={:?} {error} hint={}", error.kind, error.next_step().unwrap_or("none"))
        }
    };
    println!("ANSWER {answer}");
}

async fn play(role: &str, repo: &Path) -> Result<String, StorageError> {
    if let Some(octal) = role.strip_prefix("umask ") {
        rustix::process::umask(Mode::from_raw_mode(u32::from_str_radix(octal, 8).unwrap()));
    }
    let storage: Arc<dyn Storage> = Arc::new(LocalStorage::open(repo, Missing::CreateLast).await?);
    match role {
        "create" => storage.create(&key("x"), noise(1, 3_000_000)).await.map(|()| "done".to_owned()),
        "create deep" => storage.create(&key("main/dumps/x"), noise(1, 100)).await.map(|()| "done".to_owned()),
        "replace" => storage.replace(&key("x"), noise(2, 100_000)).await.map(|()| "done".to_owned()),
        "write" => {
            let mut writer = storage.writer(&key("x"), None).await?;
            for part in 0..30 {
                writer.write(noise(part, 100_000)).await?;
            }
            writer.finish().await.map(|meta| meta.size_bytes.to_string())
        }
        "delete" => storage.delete(&key("x")).await.map(|()| "done".to_owned()),
        "sweep" => storage.sweep_unfinished(&Prefix::root()).await.map(|swept| swept.to_string()),
        "now" => storage.now().await.map(|_| "done".to_owned()),
        "list" => storage
            .list(&Prefix::root())
            .await
            .map(|objects| objects.into_iter().map(|object| object.key.to_string()).collect::<Vec<_>>().join(" ")),
        "read" => storage.get(&key("x"), 10_000_000).await.map(|body| body.len().to_string()),
        "until killed" => write_until_killed(&*storage).await,
        _ if role.starts_with("umask ") => {
            storage.create(&key("main/dumps/x"), noise(1, 10)).await?;
            storage.replace(&key("main/runs/y"), noise(1, 10)).await?;
            storage.writer(&key("main/dumps/z"), None).await?.finish().await?;
            Ok("done".to_owned())
        }
        _ => panic!("unknown role {role:?}"),
    }
}

/// Objects of every size, by both ways of making them; each is announced when it is stored.
async fn write_until_killed(storage: &dyn Storage) -> Result<String, StorageError> {
    for number in 0.. {
        let (name, body) = numbered(number);
        if number % 2 == 0 {
            storage.create(&key(&name), body).await?;
        } else {
            let mut writer = storage.writer(&key(&name), None).await?;
            for start in (0..body.len()).step_by(50_000) {
                writer.write(body.slice(start..body.len().min(start + 50_000))).await?;
            }
            writer.finish().await?;
        }
        println!("STORED {number}");
        std::io::stdout().flush().unwrap();
    }
    Ok(String::new())
}

/// The name and the bytes of object `number`, known to the killer and to the killed. Making them takes no time, so that
/// nearly every moment to die at lies in the storing.
pub fn numbered(number: u64) -> (String, bytes::Bytes) {
    static NOISE: LazyLock<bytes::Bytes> = LazyLock::new(|| noise(1, 2_000_000));
    let (start, length) = (number as usize % 1_000, 1 + (number as usize * 104_729) % 1_900_000);
    (format!("kill/{}/{number:06}", number % 5), NOISE.slice(start..start + length))
}
