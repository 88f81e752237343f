//! Running other programs.
//!
//! A child gets exactly the environment it is given, no open file of ours but one that it is to have, no secret in its
//! arguments, its own process group (a Ctrl-C at the
//! terminal reaches it through us, once) and a death signal: when this process is killed, the kernel ends the child.
//! Its standard error is read all the time, so that it can never block on it, and kept within a bound.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStderr, ChildStdin};
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;

use crate::error::{Doing, Error, Kind, Result};
use crate::interrupt::Interrupt;

/// Lines of standard error that are kept: the first and the last of them, since the cause is in one of the two.
const KEPT_LINES: usize = 200;
/// Bytes of one line that are kept.
const KEPT_LINE_BYTES: usize = 4096;
/// Characters of one line that an error repeats.
const SHOWN_LINE_CHARACTERS: usize = 1000;
/// How long a child may take to end after SIGTERM before it is killed.
const PATIENCE: Duration = Duration::from_secs(5);
/// A pipe of the size that an unprivileged process may ask for: fewer switches between the two ends.
const PIPE_BYTES: usize = 1 << 20;

/// What to run.
pub struct Program {
    path: PathBuf,
    /// What messages call it, where that is not the file that is started.
    called: Option<String>,
    arguments: Vec<OsString>,
    environment: BTreeMap<OsString, OsString>,
    audience: Option<UnboundedSender<String>>,
    inherited: Option<Arc<File>>,
    preamble: Option<Vec<u8>>,
    retelling: Option<Box<Retelling>>,
    kept: fn(&str) -> bool,
}

/// A line as it may be told on.
type Retelling = dyn Fn(&str) -> String + Send + Sync;

/// What a program reads after its preamble.
enum Input {
    Nothing,
    File(File),
}

impl Program {
    /// `environment` is the whole environment of the child; nothing is inherited.
    pub fn new(path: impl Into<PathBuf>, environment: BTreeMap<OsString, OsString>) -> Self {
        Self {
            path: path.into(),
            called: None,
            arguments: Vec::new(),
            environment,
            audience: None,
            inherited: None,
            preamble: None,
            retelling: None,
            kept: |_| true,
        }
    }

    /// What messages call it: what is started may only lead to it.
    pub fn called(mut self, name: &str) -> Self {
        self.called = Some(name.to_owned());
        self
    }

    /// Leaves `file` open in the child, under the number that it has here. Every other file of ours is closed there.
    pub fn inheriting(mut self, file: Option<Arc<File>>) -> Self {
        self.inherited = file;
        self
    }

    /// Writes `preamble` to the program's standard input, before what it reads otherwise. It may hold secrets.
    pub fn told_first(mut self, preamble: Vec<u8>) -> Self {
        self.preamble = Some(preamble);
        self
    }

    /// Sends every line of standard error to `audience` at once, besides keeping it within the bound. They are not logged
    /// then: the audience knows which may be.
    pub fn heard_by(mut self, audience: UnboundedSender<String>) -> Self {
        self.audience = Some(audience);
        self
    }

    /// Tells every line of standard error on as `retelling` has it, without a secret that what leads to the program
    /// may show.
    pub fn retold(mut self, retelling: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        self.retelling = Some(Box::new(retelling));
        self
    }

    /// Neither logs nor keeps a line of standard error. For programs that print a secret: a script that shows what it does
    /// shows that, too.
    pub fn unheard(mut self) -> Self {
        self.audience = Some(unbounded_channel().0);
        self.kept = |_| false;
        self
    }

    /// Keeps only these lines of standard error; all are logged.
    pub fn keeping(mut self, kept: fn(&str) -> bool) -> Self {
        self.kept = kept;
        self
    }

    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// The name without its directory, as messages say it.
    pub fn name(&self) -> String {
        let file = || self.path.file_name().unwrap_or(self.path.as_os_str()).to_string_lossy().into_owned();
        self.called.clone().unwrap_or_else(file)
    }

    /// The command as it could be typed, for logs and plans. Arguments never hold secrets.
    pub fn command_line(&self) -> String {
        let words = std::iter::once(self.path.as_os_str()).chain(self.arguments.iter().map(OsString::as_os_str));
        words.map(shell_word).collect::<Vec<_>>().join(" ")
    }

    /// Starts the program with its standard output on a pipe, whose reading end is returned for blocking reads.
    pub fn spawn_piped(self) -> Result<(Child, File)> {
        let (read_end, write_end) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
            .doing(Kind::Unexpected, || format!("open a pipe for {}", self.name()))?;
        // A smaller pipe is slower, nothing else: the limit of the user's pipes may be reached.
        let _ = rustix::pipe::fcntl_setpipe_size(&read_end, PIPE_BYTES);
        let child = self.spawn(Input::Nothing, Stdio::from(write_end))?;
        Ok((child, File::from(read_end)))
    }

    /// Starts the program without input and throws its standard output away.
    pub fn spawn_quiet(self) -> Result<Child> {
        self.spawn(Input::Nothing, Stdio::null())
    }

    /// Starts the program with an open file as its standard input and throws its standard output away.
    pub fn spawn_reading(self, input: File) -> Result<Child> {
        self.spawn(Input::File(input), Stdio::null())
    }

    /// Runs the program to its end and returns its standard output, at most `limit_bytes` of it.
    pub async fn output(self, limit_bytes: u64) -> Result<(Vec<u8>, Exit)> {
        self.output_unless(&Interrupt::default(), limit_bytes).await
    }

    /// As [`Program::output`], but terminates the program when a stop is asked for. Dropping the future instead would
    /// kill it, and a PostgreSQL tool that is killed leaves its backend waiting for a lock.
    pub async fn output_unless(self, interrupt: &Interrupt, limit_bytes: u64) -> Result<(Vec<u8>, Exit)> {
        let name = self.name();
        let (child, stdout) = self.spawn_piped()?;
        let mut stdout = tokio::fs::File::from_std(stdout).take(limit_bytes + 1);
        let mut output = Vec::new();
        let reading = async {
            stdout.read_to_end(&mut output).await.doing(Kind::Tool, || format!("read the output of {name}"))?;
            if output.len() as u64 > limit_bytes {
                return Err(Error::new(Kind::Tool, format!("{name} wrote more than {limit_bytes} bytes")));
            }
            Ok(())
        };
        if let Err(error) = interrupt.guard(reading).await {
            child.terminate().await;
            return Err(error);
        }
        Ok((output, child.wait_unless(interrupt.stopped()).await?))
    }

    /// The death signal follows the *thread* that spawns, so this is called from tasks of the runtime, whose threads
    /// live as long as the process, and never from a blocking thread.
    fn spawn(mut self, input: Input, stdout: Stdio) -> Result<Child> {
        let name = self.name();
        let ear = Ear { audience: self.audience.take(), retelling: self.retelling.take(), kept: self.kept };
        let (stdin, fed) = match (self.preamble.take(), input) {
            (None, Input::Nothing) => (Stdio::null(), None),
            (None, Input::File(file)) => (Stdio::from(file), None),
            (Some(preamble), input) => (Stdio::piped(), Some((preamble, input))),
        };
        let mut command = tokio::process::Command::new(&self.path);
        command.args(&self.arguments).env_clear().envs(&self.environment);
        command.stdin(stdin).stdout(stdout).stderr(Stdio::piped());
        command.process_group(0).kill_on_drop(true);
        prepare_child(&mut command, self.inherited.as_ref().map(|file| file.as_raw_fd()));
        let mut inner = command.spawn().map_err(|source| match source.kind() {
            std::io::ErrorKind::NotFound => Error::new(Kind::MissingProgram, format!("Missing command: {name}"))
                .because(format!("{} does not exist", self.path.display()))
                .hint("install the PostgreSQL client programs, or name their directory with --bin-dir"),
            _ => Error::new(Kind::MissingProgram, format!("start {}", self.path.display())).because(source),
        })?;
        let said = Arc::new(Mutex::new(Said::default()));
        let listener = inner.stderr.take().map(|stderr| tokio::spawn(listen(stderr, Arc::clone(&said), ear)));
        let feeder = match (fed, inner.stdin.take()) {
            (Some((preamble, input)), Some(stdin)) => Some(tokio::spawn(feed(stdin, preamble, input))),
            _ => None,
        };
        Ok(Child { name, inner, said, listener, feeder })
    }
}

/// Asks the kernel to send the child SIGTERM when its parent dies: the PostgreSQL tools then cancel their queries. And
/// leaves it the file that it is to inherit, which is closed in every other child.
#[allow(unsafe_code)]
fn prepare_child(command: &mut tokio::process::Command, inherited: Option<RawFd>) {
    let parent = rustix::process::getpid();
    // SAFETY: between fork and exec only prctl, getppid and fcntl are called, which are plain system calls: no allocation,
    // no lock, no memory shared with the parent is touched. The file is open: its owner lives until the child is started.
    unsafe {
        command.pre_exec(move || {
            if let Some(file) = inherited {
                rustix::io::fcntl_setfd(BorrowedFd::borrow_raw(file), rustix::io::FdFlags::empty())?;
            }
            rustix::process::set_parent_process_death_signal(Some(Signal::TERM))?;
            // The parent may have died before the request: then another process is the parent already. Which one is not
            // to be guessed: in a container we may be process 1 ourselves.
            if rustix::process::getppid() != Some(parent) {
                return Err(std::io::Error::other("the parent process is gone"));
            }
            Ok(())
        });
    }
}

/// A running program. Dropped before its end, it is killed with its process group.
#[derive(Debug)]
pub struct Child {
    name: String,
    inner: tokio::process::Child,
    said: Arc<Mutex<Said>>,
    listener: Option<JoinHandle<()>>,
    feeder: Option<JoinHandle<()>>,
}

impl Drop for Child {
    fn drop(&mut self) {
        if let Some(feeder) = &self.feeder {
            feeder.abort();
        }
        // Only one that was not waited for has an id. A wrapper script must not leave the program behind that it runs.
        if let Some(group) = self.group() {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
    }
}

impl Child {
    fn group(&self) -> Option<Pid> {
        self.inner.id().and_then(|id| Pid::from_raw(id.cast_signed()))
    }

    /// The id of the process, and of its group; 0 once it was waited for.
    pub fn id(&self) -> i32 {
        self.group().map_or(0, |group| group.as_raw_nonzero().get())
    }

    /// Whether the program has ended. Its status is kept for [`Child::wait`].
    pub fn has_ended(&mut self) -> Result<bool> {
        let status = self.inner.try_wait().doing(Kind::Unexpected, || format!("look after {}", self.name))?;
        Ok(status.is_some())
    }

    /// Waits for the end of the program and of its standard error.
    pub async fn wait(mut self) -> Result<Exit> {
        let status = self.inner.wait().await.doing(Kind::Unexpected, || format!("wait for {}", self.name))?;
        Ok(Exit { program: self.name.clone(), status, stderr: self.collected().await })
    }

    /// Waits for the end of the program, or ends it when `stop` comes first.
    pub async fn wait_unless(mut self, stop: impl Future<Output = Error>) -> Result<Exit> {
        let stopped = tokio::select! {
            biased;
            error = stop => Some(error),
            // Its status is kept for `wait`.
            _ = self.inner.wait() => None,
        };
        match stopped {
            None => self.wait().await,
            Some(error) => {
                self.terminate().await;
                Err(error)
            }
        }
    }

    /// Ends the program: SIGTERM to its process group, SIGKILL if that takes too long.
    pub async fn terminate(mut self) -> Vec<String> {
        if let Some(group) = self.group() {
            // A group that is gone already is what was wanted.
            let _ = rustix::process::kill_process_group(group, Signal::TERM);
            if tokio::time::timeout(PATIENCE, self.inner.wait()).await.is_err() {
                let _ = rustix::process::kill_process_group(group, Signal::KILL);
                let _ = self.inner.wait().await;
            }
        }
        self.collected().await
    }

    async fn collected(&mut self) -> Vec<String> {
        if let Some(mut listener) = self.listener.take()
            && tokio::time::timeout(PATIENCE, &mut listener).await.is_err()
        {
            // A grandchild holds the pipe open: what was said until then is enough.
            listener.abort();
        }
        std::mem::take(&mut *lock(&self.said)).lines()
    }
}

/// What a program has said so far.
#[derive(Debug, Default)]
struct Said {
    kept: Vec<String>,
    left_out: usize,
}

impl Said {
    fn add(&mut self, line: String) {
        if self.kept.len() == KEPT_LINES {
            self.kept.remove(KEPT_LINES / 2);
            self.left_out += 1;
        }
        self.kept.push(line);
    }

    fn lines(mut self) -> Vec<String> {
        if self.left_out > 0 {
            self.kept.insert(KEPT_LINES / 2, format!("({} more lines left out here)", self.left_out));
        }
        self.kept
    }
}

fn lock(said: &Mutex<Said>) -> MutexGuard<'_, Said> {
    said.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How a program ended.
#[derive(Debug)]
pub struct Exit {
    pub program: String,
    pub status: ExitStatus,
    /// What it said on standard error, line by line.
    pub stderr: Vec<String>,
}

impl Exit {
    pub fn success(&self) -> bool {
        self.status.success()
    }

    /// `exit code 1` or `signal 9`.
    pub fn reason(&self) -> String {
        match (self.status.code(), self.status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => "unknown status".to_owned(),
        }
    }

    /// The program's own words: its last lines, joined, none of them without end.
    pub fn words(&self) -> String {
        let tail = self.stderr.len().saturating_sub(12);
        let cut = |line: &String| match line.char_indices().nth(SHOWN_LINE_CHARACTERS) {
            Some((at, _)) => format!("{}…", &line[..at]),
            None => line.clone(),
        };
        self.stderr[tail..].iter().map(cut).collect::<Vec<_>>().join("; ")
    }

    /// `Ok` if the program ended with 0, else an error in its own words.
    pub fn check(self) -> Result<Vec<String>> {
        if self.success() {
            return Ok(self.stderr);
        }
        let error = Error::new(Kind::Tool, format!("{} ended with {}", self.program, self.reason()));
        Err(match self.words() {
            words if words.is_empty() => error,
            words => error.because(words),
        })
    }
}

/// What is not taken any more is not missed: how a program ended says whether it had all that it needed.
async fn feed(mut stdin: ChildStdin, preamble: Vec<u8>, input: Input) {
    if stdin.write_all(&preamble).await.is_err() {
        return;
    }
    if let Input::File(file) = input {
        let _ = tokio::io::copy(&mut tokio::fs::File::from_std(file), &mut stdin).await;
    }
}

/// Who hears what of a program's standard error.
struct Ear {
    audience: Option<UnboundedSender<String>>,
    retelling: Option<Box<Retelling>>,
    kept: fn(&str) -> bool,
}

async fn listen(stderr: ChildStderr, said: Arc<Mutex<Said>>, Ear { audience, retelling, kept }: Ear) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A line without an end is taken in pieces, so that a child cannot fill our memory.
        match (&mut reader).take(KEPT_LINE_BYTES as u64).read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let mut text = String::from_utf8_lossy(&line).trim_end().to_owned();
        if text.is_empty() {
            continue;
        }
        if let Some(retelling) = &retelling {
            text = retelling(&text);
        }
        match &audience {
            // It knows which lines may be logged. Nobody may be listening any more.
            Some(audience) => drop(audience.send(text.clone())),
            None => tracing::debug!(target: "pgkeep::child", "{text}"),
        }
        if kept(&text) {
            lock(&said).add(text);
        }
    }
}

/// `word` as a shell would have to be given it.
pub fn shell_word(word: &OsStr) -> String {
    let text = word.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    if text.contains(char::is_control) {
        // As bash reads it: a name with a line break must not forge a line of the log.
        let escaped = |c: char| match c {
            '\'' | '\\' => format!("\\{c}"),
            c if c.is_ascii_control() => format!("\\x{:02x}", u32::from(c)),
            c if c.is_control() => format!("\\u{:04x}", u32::from(c)),
            c => c.to_string(),
        };
        return format!("$'{}'", text.chars().map(escaped).collect::<String>());
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

/// The file of this name in one of `directories` that may be executed.
pub fn find_program(name: &str, directories: &[PathBuf]) -> Option<PathBuf> {
    let executable = |path: &Path| path.is_file() && rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    directories.iter().map(|directory| directory.join(name)).find(|path| executable(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program::new("/bin/sh", BTreeMap::new()).arg("-c").arg(script)
    }

    #[tokio::test]
    async fn what_is_not_kept_makes_no_room_for_itself() {
        let talk = shell("i=0; while [ $i -lt 500 ]; do echo step; i=$((i+1)); done >&2; echo cause >&2; exit 1");
        let (_, exit) = talk.keeping(|line| line != "step").output(100).await.unwrap();
        assert_eq!(exit.stderr, ["cause"]);
    }

    #[tokio::test]
    async fn output_and_words_of_a_program_are_kept_apart() {
        let (out, exit) = shell("echo answer; echo trouble >&2; exit 3").output(100).await.unwrap();
        assert_eq!(out, b"answer\n");
        let error = exit.check().unwrap_err();
        assert_eq!(error.kind, Kind::Tool);
        assert_eq!(error.to_string(), "sh ended with exit code 3: trouble");
    }

    #[tokio::test]
    async fn a_talkative_program_neither_blocks_nor_fills_memory() {
        let exit = shell("i=0; while [ $i -lt 3000 ]; do echo line $i >&2; i=$((i+1)); done")
            .spawn_quiet()
            .unwrap()
            .wait()
            .await
            .unwrap();
        assert_eq!(exit.stderr.first().unwrap(), "line 0");
        assert_eq!(exit.stderr.last().unwrap(), "line 2999");
        assert!(exit.stderr.len() <= KEPT_LINES + 1);
        assert!(exit.stderr.iter().any(|line| line.contains("left out")));
    }

    #[tokio::test]
    async fn a_secret_is_hidden_in_what_a_program_says_and_one_that_prints_secrets_is_not_heard() {
        let hidden = |line: &str| line.replace("hunter2", "…");
        let exit = shell("echo told hunter2 >&2; exit 1").retold(hidden).spawn_quiet().unwrap().wait().await.unwrap();
        assert_eq!(exit.stderr, ["told …"]);
        let (out, exit) = shell("echo hunter2; echo hunter2 >&2; exit 1").unheard().output(100).await.unwrap();
        assert_eq!((out.as_slice(), exit.stderr.len()), (&b"hunter2\n"[..], 0));
        assert_eq!(exit.check().unwrap_err().to_string(), "sh ended with exit code 1");
    }

    #[tokio::test]
    async fn a_listener_hears_every_line_and_a_stop_ends_the_program() {
        let mut input = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut input, b"one\ntwo\n").unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        let (sender, mut lines) = tokio::sync::mpsc::unbounded_channel();
        // The file has no name, and can be opened by the one of standard input all the same.
        let child = shell("cat /dev/stdin >&2; sleep 1000").heard_by(sender).spawn_reading(input).unwrap();
        let stop = async {
            let heard = [lines.recv().await.unwrap(), lines.recv().await.unwrap()];
            Error::new(Kind::Interrupted, heard.join(" "))
        };
        let error = child.wait_unless(stop).await.unwrap_err();
        assert_eq!(error.to_string(), "one two");
        let exit = shell("exit 3").spawn_quiet().unwrap().wait_unless(std::future::pending()).await.unwrap();
        assert_eq!(exit.status.code(), Some(3));
    }

    #[tokio::test]
    async fn the_words_are_kept_although_a_grandchild_holds_the_pipe() {
        let script = "sleep 1000 & echo $! 1>&2; echo trouble >&2; exit 3";
        let exit = shell(script).spawn_quiet().unwrap().wait().await.unwrap();
        let sleeper: i32 = exit.stderr[0].parse().unwrap();
        rustix::process::kill_process(Pid::from_raw(sleeper).unwrap(), Signal::KILL).unwrap();
        assert_eq!(exit.stderr[1..], ["trouble"]);
    }

    #[tokio::test]
    async fn a_stop_ends_a_program_in_good_order() {
        let interrupt = Interrupt::default();
        let script = "trap 'echo cancelled >&2; exit 1' TERM; echo ready; while :; do sleep 0.01; done";
        let (child, mut stdout) = shell(script).spawn_piped().unwrap();
        // It is ready to be stopped before it is.
        std::io::Read::read_exact(&mut stdout, &mut [0; 6]).unwrap();
        interrupt.request(crate::interrupt::Signal::Term);
        let error = child.wait_unless(interrupt.stopped()).await.unwrap_err();
        assert_eq!(error.kind, Kind::Terminated);
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut stdout, &mut rest).unwrap();
    }

    #[tokio::test]
    async fn an_error_repeats_no_line_without_end() {
        let exit =
            shell("head -c 100000 /dev/zero | tr '\\0' x >&2; exit 1").spawn_quiet().unwrap().wait().await.unwrap();
        let length = exit.check().unwrap_err().to_string().len();
        assert!((1000..13_000).contains(&length), "{length}");
    }

    #[tokio::test]
    async fn nothing_of_our_environment_reaches_a_child() {
        let (out, _) = Program::new("/usr/bin/env", BTreeMap::new()).output(10_000).await.unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "");
    }

    #[tokio::test]
    async fn a_preamble_comes_before_the_input_and_reaches_no_argument() {
        let mut input = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut input, b"rest\n").unwrap();
        std::io::Seek::rewind(&mut input).unwrap();
        let script = "read -r first; echo \"$first $(cat) $(tr '\\0' ' ' </proc/$$/cmdline | grep -c can[a]ry)\" >&2";
        let program = shell(script).told_first(b"canary\n".to_vec());
        let exit = program.spawn_reading(input).unwrap().wait().await.unwrap();
        assert_eq!(exit.stderr, ["canary rest 0"]);
        // One that does not read it ends all the same.
        let (out, _) = shell("echo done").told_first(vec![b'x'; 1 << 20]).output(100).await.unwrap();
        assert_eq!(out, b"done\n");
    }

    #[tokio::test]
    async fn a_file_is_inherited_by_the_child_that_it_is_given_to_and_by_no_other() {
        let mut file = tempfile::tempfile().unwrap();
        std::io::Write::write_all(&mut file, b"kept").unwrap();
        let file = Arc::new(file);
        let script = format!("cat /proc/self/fd/{} 2>&1 || echo none", file.as_raw_fd());
        let (out, _) = shell(&script).inheriting(Some(Arc::clone(&file))).output(1000).await.unwrap();
        assert_eq!(out, b"kept");
        let (out, _) = shell(&script).output(1000).await.unwrap();
        assert!(out.ends_with(b"none\n"), "{:?}", String::from_utf8_lossy(&out));
    }

    #[tokio::test]
    async fn a_missing_program_is_named() {
        let error = Program::new("/nowhere/pg_dump", BTreeMap::new()).spawn_quiet().unwrap_err();
        assert_eq!(error.kind, Kind::MissingProgram);
        assert!(error.to_string().starts_with("Missing command: pg_dump"));
    }

    #[tokio::test]
    async fn terminating_ends_the_whole_group() {
        let (child, mut stdout) = shell("sleep 1000 & echo started; wait").spawn_piped().unwrap();
        let mut line = [0; 1];
        std::io::Read::read_exact(&mut stdout, &mut line).unwrap();
        child.terminate().await;
        // The sleeper holds the writing end of the pipe for 1,000 seconds unless it is gone.
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut stdout, &mut rest).unwrap();
    }

    #[tokio::test]
    async fn dropping_ends_the_whole_group() {
        let (child, mut stdout) = shell("sleep 1000 & echo started; wait").spawn_piped().unwrap();
        let mut line = [0; 1];
        std::io::Read::read_exact(&mut stdout, &mut line).unwrap();
        drop(child);
        let mut rest = Vec::new();
        std::io::Read::read_to_end(&mut stdout, &mut rest).unwrap();
    }

    #[test]
    fn words_are_quoted_for_a_shell_only_when_they_must_be() {
        assert_eq!(shell_word(OsStr::new("--format=custom")), "--format=custom");
        assert_eq!(shell_word(OsStr::new("it's")), r"'it'\''s'");
        assert_eq!(shell_word(OsStr::new("")), "''");
        assert_eq!(shell_word(OsStr::new("it's\n\u{1b}[m\u{9b}")), r"$'it\'s\x0a\x1b[m\u009b'");
    }
}
