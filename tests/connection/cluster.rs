//! A private PostgreSQL 15 in a temporary directory.

use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::certificates::Certificates;

pub const BIN: &str = "/usr/lib/postgresql/15/bin";

pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// PostgreSQL does not run as root: then it runs as the account `postgres`.
fn server_ids() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let accounts = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = accounts.lines().find(|line| line.starts_with("postgres:")).expect("an account postgres");
    let fields: Vec<&str> = line.split(':').collect();
    Some((fields[2].parse().unwrap(), fields[3].parse().unwrap()))
}

pub fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

/// Stopped and removed on drop.
pub struct Cluster {
    root: TempDir,
    port: u16,
}

impl Cluster {
    pub fn new(rules: &str) -> Self {
        let cluster = Self { root: tempfile::tempdir().unwrap(), port: free_port() };
        let root = cluster.root.path();
        std::fs::set_permissions(root, std::fs::Permissions::from_mode(0o755)).unwrap();
        if let Some((uid, gid)) = server_ids() {
            chown(root, Some(uid), Some(gid)).unwrap();
        }
        let data = cluster.data();
        run(cluster.command("initdb").args(["-D", &data, "-U", "postgres", "-A", "trust", "-N", "--locale=C.UTF-8"]));
        std::fs::write(format!("{data}/pg_hba.conf"), rules).unwrap();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{},{}'\nfsync = off\nssl = off\n\
             ssl_cert_file = '{data}/tls.crt'\nssl_key_file = '{data}/tls.key'\nssl_ca_file = '{data}/tls-ca.crt'\n\
             include_if_exists = 'tls.conf'\n",
            cluster.port,
            root.display(),
            cluster.abstract_socket()
        );
        std::fs::write(format!("{data}/postgresql.auto.conf"), settings).unwrap();
        cluster
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(format!("{BIN}/{program}"));
        command.current_dir(self.root.path()).env_clear().env("PATH", "/usr/bin:/bin");
        if let Some((uid, gid)) = server_ids() {
            command.uid(uid).gid(gid);
        }
        command
    }

    fn data(&self) -> String {
        format!("{}/data", self.root.path().display())
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn socket_dir(&self) -> &str {
        self.root.path().to_str().unwrap()
    }

    /// A socket that has a name and no file.
    pub fn abstract_socket(&self) -> String {
        format!("@pgkeep-test-{}", self.port)
    }

    /// The account that the server runs as.
    pub fn account(&self) -> String {
        if server_ids().is_some() { "postgres".to_owned() } else { super::oracle::account() }
    }

    pub fn start(&self) {
        let log = format!("{}/log", self.root.path().display());
        run(self.command("pg_ctl").args(["-D", &self.data(), "-w", "-s", "-l", &log, "start"]));
    }

    pub fn stop(&self) {
        run(self.command("pg_ctl").args(["-D", &self.data(), "-w", "-s", "-m", "fast", "stop"]));
    }

    pub fn restart_as_standby(&self) {
        self.stop();
        std::fs::write(format!("{}/standby.signal", self.data()), "").unwrap();
        self.start();
    }

    /// Runs SQL as superuser over the socket; the last column of the last row.
    pub fn admin(&self, sql: &str) -> String {
        let mut command = self.command("psql");
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h", self.socket_dir()]);
        command.args(["-p", &self.port.to_string(), "-d", "postgres"]);
        // One statement after the other: CREATE DATABASE refuses company.
        for statement in sql.split_inclusive(';').filter(|statement| !statement.trim().is_empty()) {
            command.args(["-c", statement]);
        }
        run(&mut command)
    }

    /// Makes the server show the certificate `name` from its next connection on.
    pub fn use_certificate(&self, certificates: &Certificates, name: &str) {
        let data = self.data();
        for (from, to, mode) in [
            (format!("{name}.crt"), "tls.crt", 0o644),
            (format!("{name}.key"), "tls.key", 0o600),
            ("ca.crt".to_owned(), "tls-ca.crt", 0o644),
        ] {
            let to = format!("{data}/{to}");
            std::fs::copy(certificates.path(&from), &to).unwrap();
            std::fs::set_permissions(&to, std::fs::Permissions::from_mode(mode)).unwrap();
            if let Some((uid, gid)) = server_ids() {
                chown(Path::new(&to), Some(uid), Some(gid)).unwrap();
            }
        }
        std::fs::write(format!("{data}/tls.conf"), "ssl = on\n").unwrap();
        // A new backend inherits the time from the postmaster, which sets it before it forks with the new certificate.
        let loaded = self.admin("SELECT pg_conf_load_time()");
        self.admin("SELECT pg_reload_conf()");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while self.admin("SELECT pg_conf_load_time()") == loaded {
            assert!(std::time::Instant::now() < deadline, "the server does not reload");
        }
        assert_eq!(self.admin("SHOW ssl"), "on");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if Path::new(&format!("{}/postmaster.pid", self.data())).exists() {
            let stopped =
                self.command("pg_ctl").args(["-D", &self.data(), "-w", "-s", "-m", "immediate", "stop"]).status();
            assert!(stopped.is_ok_and(|status| status.success()) || std::thread::panicking(), "a server is left over");
        }
    }
}
