//! Programs that end with the test, however it ends, and the one runtime on which the rig itself works.
//!
//! As with clusters, a program is a child of a keeper, a small shell that holds a pipe to the test. When the pipe closes,
//! because the [`Kept`] was dropped or because the test process ended by any means, the keeper kills the program and
//! removes its directory. (A death signal would come too early: it follows the thread, and every test has its own.)

use std::fs;
use std::future::Future;
use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{LazyLock, mpsc};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use tokio::runtime::Runtime;

/// The program that `ops/test.sh` unpacked, or the one that `variable` names.
pub fn program(variable: &str, place: &str) -> PathBuf {
    if let Some(path) = super::environment(variable) {
        return path.into();
    }
    let caches = ["/var/cache/pgkeep-test".to_owned(), format!("{}/target/pg-tools", env!("CARGO_MANIFEST_DIR"))];
    let found = caches.iter().map(|cache| Path::new(cache).join(place)).find(|path| path.exists());
    found.unwrap_or_else(|| panic!("{place} is not installed: run ops/test.sh, or set {variable}"))
}

/// A running program with a directory of its own.
#[derive(Debug)]
pub struct Kept {
    dir: PathBuf,
    pid: u32,
    keeper: Child,
}

impl Kept {
    /// Starts `command`, whose output goes to `log` in `dir`. `traces` are files elsewhere that the program leaves.
    pub fn start(command: &Command, dir: PathBuf, traces: &[String]) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", KEEPER, "keeper"]).arg(&dir).arg(traces.join(" "));
        shell.arg(command.get_program()).args(command.get_args()).env_clear().current_dir(&dir);
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        // An interrupt at the terminal is for the test; the keeper then sees the pipe close.
        let shell = shell.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut keeper = shell.spawn().unwrap();
        let mut answer = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut answer).unwrap();
        Self { dir, pid: answer.trim().parse().unwrap(), keeper }
    }

    /// An empty directory for a program to come.
    pub fn dir(name: &str) -> PathBuf {
        tempfile::Builder::new().prefix(&format!("pgkeep-{name}-")).tempdir().unwrap().keep()
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What the program has said so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("log")).unwrap_or_default()).into_owned()
    }

    /// Asks until there is an answer. The program's log is the error when it ends before.
    pub fn until<T>(&self, what: &str, mut ask: impl FnMut() -> Option<T>) -> Result<T, String> {
        let began = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return Ok(answer);
            }
            if !is_running(self.pid) || began.elapsed() > Duration::from_secs(60) {
                return Err(format!("{what}: pid {} after {:?}\n{}", self.pid, began.elapsed(), self.log()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let stopped = self.keeper.wait();
        if !std::thread::panicking() {
            assert!(stopped.is_ok_and(|status| status.success()), "the keeper of {} failed", self.dir.display());
        }
    }
}

/// `keeper DIR TRACES PROGRAM …`: says the program's pid, then waits for the end of stdin.
///
/// The program stays a child of the keeper, so its pid is nobody else's when it is killed.
const KEEPER: &str = r#"
dir=$1 traces=$2
shift 2
"$@" </dev/null >"$dir/log" 2>&1 &
program=$!
echo "$program"
exec >&-
cat >/dev/null
kill -KILL "$program" 2>/dev/null
wait "$program" 2>/dev/null
cd /
rm -f -- $traces
rm -rf -- "$dir"
[ ! -e "$dir" ]
"#;

/// A process that has ended and was not waited for is not running any more.
pub fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// Ports nobody listens on, below those that the kernel gives to outgoing connections: a server that binds them a moment
/// later finds them free but for a race with another of its kind.
pub fn free_ports<const N: usize>() -> [u16; N] {
    let mut held = Vec::new();
    while held.len() < N {
        held.extend(TcpListener::bind(("127.0.0.1", rand::rng().random_range(10_000..32_000))));
    }
    std::array::from_fn(|i| held[i].local_addr().unwrap().port())
}

/// The rig works on a runtime of its own, so that it serves tests that have none and is not stopped by one that blocks.
pub fn runtime() -> &'static Runtime {
    static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("rig").enable_all().build().unwrap()
    });
    &RUNTIME
}

/// Does `work` on the rig's runtime and waits for it, from a test with or without a runtime.
pub fn wait_for<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    runtime().spawn(async move {
        let _ = sender.send(work.await);
    });
    receiver.recv().expect("the rig's work panicked")
}
