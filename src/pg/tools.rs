//! The PostgreSQL client programs: which are installed, which fits a server.
//!
//! A client older than the server refuses to dump, or worse; a newer one always can. So the newest `pg_dump` at or
//! above the server's major version is used, of `bin_dir`, `PATH` and Debian's `/usr/lib/postgresql/*/bin`. Where a prefix
//! runs them in other surroundings, those there are used.

mod elsewhere;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use super::conninfo::ConnectTarget;
use super::session::{ChildConnection, Endpoint};
use crate::config::environment::Environment;
use crate::error::{Error, Kind, Result};
use crate::process::{Program, find_program};
pub use elsewhere::Prefix;

/// Where Debian and Ubuntu install the real programs; `/usr/bin/pg_dump` there is a wrapper with rules of its own.
const DEBIAN: &str = "/usr/lib/postgresql";

/// A version as the programs print it: `15.18`, `19devel`, `18beta1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolVersion {
    pub major: u32,
    /// `None` for a development version or a beta.
    pub minor: Option<u32>,
    /// As printed, without the program's name: `15.18 (Debian 15.18-0+deb12u1)`.
    pub text: String,
}

impl ToolVersion {
    /// Reads the line that `pg_dump --version` prints: `pg_dump (PostgreSQL) 15.18 (Debian …)`.
    pub fn parse(line: &str) -> Option<Self> {
        let text = line.trim().split_once(") ")?.1.trim();
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        let major = digits(text);
        let minor = text[major.len()..].strip_prefix('.').and_then(|rest| digits(rest).parse().ok());
        Some(Self { major: major.parse().ok()?, minor, text: text.to_owned() })
    }

    /// The first minor version of this major that is safe to read foreign archives with, if this one is older.
    ///
    /// The fixed problems let the owner of an object in the *dumped* database run commands where the dump is made or
    /// restored: CVE-2025-8714, CVE-2025-8715, CVE-2026-18408 and CVE-2026-116314 (postgresql.org/support/security).
    pub fn outdated(&self) -> Option<String> {
        let safe = match self.major {
            18 => 7,
            17 => 12,
            16 => 16,
            15 => 20,
            14 => 25,
            _ => return None,
        };
        (self.minor? < safe).then(|| format!("{}.{safe}", self.major))
    }
}

impl fmt::Display for ToolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Client programs of one version.
#[derive(Clone, Debug)]
pub struct Tools {
    place: Place,
    pub version: ToolVersion,
}

/// Where client programs are run.
#[derive(Clone, Debug)]
enum Place {
    /// In a directory of this host.
    Here(PathBuf),
    /// Behind a prefix, in a directory that is there or by `PATH`.
    Elsewhere { prefix: Prefix, directory: Option<PathBuf> },
}

impl Tools {
    /// The path of one of the programs, or the error that names it. What is elsewhere is not looked for.
    pub fn program(&self, name: &str) -> Result<PathBuf> {
        match &self.place {
            Place::Here(directory) => find_program(name, std::slice::from_ref(directory))
                .ok_or_else(|| missing(name).because(format!("{} does not have it", directory.display()))),
            Place::Elsewhere { directory, .. } => Ok(elsewhere::path(directory.as_deref(), name)),
        }
    }

    /// Whether the programs see other files than we do, so that they can be told of none.
    pub fn are_elsewhere(&self) -> bool {
        matches!(self.place, Place::Elsewhere { .. })
    }

    /// What they need to reach the server that a session has reached.
    pub fn connection(&self, target: &ConnectTarget, endpoint: &Endpoint, scratch: &Path) -> Result<ChildConnection> {
        match self.place {
            Place::Here(_) => ChildConnection::new(target, endpoint, scratch),
            Place::Elsewhere { .. } => Ok(ChildConnection::elsewhere(target, endpoint)),
        }
    }

    /// One of the programs with a connection, and with `more` in its environment.
    pub fn client(
        &self,
        name: &str,
        ours: &Environment,
        connection: &ChildConnection,
        more: &[(&str, &str)],
    ) -> Result<Program> {
        let program = self.program(name)?;
        let more = more.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        match &self.place {
            Place::Here(_) => {
                let mut environment = environment(ours, connection);
                environment.extend(more.map(|(name, value)| (name.into(), value.into())));
                Ok(Program::new(program, environment).inheriting(connection.password_file()))
            }
            Place::Elsewhere { prefix, .. } => prefix.client(&program, connection, more),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Here(directory) => directory.display().fmt(f),
            Self::Elsewhere { prefix, .. } => prefix.fmt(f),
        }
    }
}

/// Where to look for client programs.
#[derive(Clone, Debug, Default)]
pub struct Search {
    /// `--bin-dir`: this directory and no other.
    pub bin_dir: Option<PathBuf>,
    /// The directories of `PATH`.
    pub path: Vec<PathBuf>,
    /// Runs the programs elsewhere; then `path` says nothing.
    pub prefix: Option<Prefix>,
}

impl Search {
    fn directories(&self) -> Vec<PathBuf> {
        if let Some(directory) = &self.bin_dir {
            return vec![directory.clone()];
        }
        let mut directories: Vec<PathBuf> = self.path.iter().filter(|dir| !is_wrapped(dir)).cloned().collect();
        if let Ok(versions) = std::fs::read_dir(DEBIAN) {
            directories.extend(versions.flatten().map(|version| version.path().join("bin")));
        }
        directories
    }

    /// Every place that has a `pg_dump`, with the program.
    fn places(&self) -> Vec<(Place, PathBuf)> {
        if let Some(prefix) = &self.prefix {
            let program = elsewhere::path(self.bin_dir.as_deref(), "pg_dump");
            return vec![(Place::Elsewhere { prefix: prefix.clone(), directory: self.bin_dir.clone() }, program)];
        }
        let found = self.directories().into_iter().filter_map(|directory| {
            find_program("pg_dump", std::slice::from_ref(&directory)).map(|pg_dump| (Place::Here(directory), pg_dump))
        });
        found.collect()
    }

    /// Every installed set of client programs, newest first.
    pub async fn installed(&self) -> Vec<Tools> {
        let mut found: Vec<Tools> = Vec::new();
        for (place, pg_dump) in self.places() {
            if let Ok(version) = version_of(&place, &pg_dump).await {
                found.push(Tools { place, version });
            }
        }
        // Stable: of two sets of one version the one that PATH names first stays first.
        found.sort_by_key(|tools| std::cmp::Reverse((tools.version.major, tools.version.minor)));
        found
    }

    /// Fails with the words of the first `pg_dump` that is there and does not say its version: it is not missing.
    pub async fn hear_all(&self) -> Result<()> {
        for (place, pg_dump) in self.places() {
            version_of(&place, &pg_dump).await.map_err(|error| {
                let (whence, hint) = match &place {
                    Place::Here(_) => {
                        (String::new(), "name the directory of PostgreSQL client programs that work with --bin-dir")
                    }
                    Place::Elsewhere { prefix, .. } => (
                        format!(" behind {prefix}"),
                        "try it by hand: bin_prefix of the instance, then pg_dump --version; bin_dir names its directory there",
                    ),
                };
                // Whatever stops it, there is no program here to work with.
                Error::new(Kind::MissingProgram, format!("ask {} for its version{whence}", pg_dump.display()))
                    .because(error)
                    .hint(hint)
            })?;
        }
        Ok(())
    }

    /// The newest client that may dump or restore a server of this major version.
    pub async fn for_server(&self, server_major: u32) -> Result<Tools> {
        let installed = self.installed().await;
        let Some(newest) = installed.first() else {
            self.hear_all().await?;
            return Err(missing("pg_dump").because(match &self.bin_dir {
                Some(directory) => format!("{} has no pg_dump that answers --version", directory.display()),
                None => "neither PATH nor /usr/lib/postgresql/*/bin has it".to_owned(),
            }));
        };
        if newest.version.major < server_major {
            return Err(Error::new(
                Kind::MissingProgram,
                format!(
                    "the newest pg_dump found is {} ({}), the server is PostgreSQL {server_major}",
                    newest.version, newest.place
                ),
            )
            .hint(format!("install postgresql-client-{server_major} or newer, or name its directory with --bin-dir")));
        }
        Ok(newest.clone())
    }
}

/// The environment of a client program: nothing but what finding libraries, speaking the user's language and logging in
/// take, and the connection. A stray PGOPTIONS or PGSERVICE of ours never reaches it.
fn environment(ours: &Environment, connection: &ChildConnection) -> BTreeMap<OsString, OsString> {
    let passes = |name: &str| {
        matches!(name, "PATH" | "HOME" | "LANG" | "TZ") || name.starts_with("LC_") || name.starts_with("KRB5")
    };
    let inherited = ours.iter().filter(|(name, _)| name.to_str().is_some_and(passes));
    let connection = connection.variables().map(|(name, value)| (OsString::from(name), OsString::from(value)));
    inherited.map(|(name, value)| (name.to_owned(), value.to_owned())).chain(connection).collect()
}

fn missing(name: &str) -> Error {
    Error::new(Kind::MissingProgram, format!("Missing command: {name}"))
        .hint("install the PostgreSQL client programs (apt-get install postgresql-client), or use --bin-dir")
}

/// Debian's wrapper picks a version by the user's own settings and needs Perl; the real programs are found beside it.
fn is_wrapped(directory: &Path) -> bool {
    std::fs::canonicalize(directory.join("pg_dump")).is_ok_and(|real| real.ends_with("pg_wrapper"))
}

async fn version_of(place: &Place, program: &Path) -> Result<ToolVersion> {
    let program = match place {
        Place::Here(_) => {
            let environment = BTreeMap::from([(OsString::from("LC_ALL"), OsString::from("C"))]);
            Program::new(program, environment)
        }
        Place::Elsewhere { prefix, .. } => prefix.program(program)?,
    };
    let (output, exit) = program.arg("--version").output(4096).await?;
    exit.check()?;
    let line = String::from_utf8_lossy(&output);
    ToolVersion::parse(&line)
        .ok_or_else(|| Error::new(Kind::MissingProgram, format!("{:?} is not a version", line.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_as_programs_print_them() {
        let debian = ToolVersion::parse("pg_dump (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").unwrap();
        assert_eq!((debian.major, debian.minor), (15, Some(18)));
        assert_eq!(debian.to_string(), "15.18 (Debian 15.18-0+deb12u1)");
        assert_eq!(debian.outdated(), Some("15.20".to_owned()));
        let devel = ToolVersion::parse("pg_dump (PostgreSQL) 19devel").unwrap();
        assert_eq!((devel.major, devel.minor), (19, None));
        assert_eq!(devel.outdated(), None);
        assert_eq!(ToolVersion::parse("something else"), None);
        assert_eq!(ToolVersion::parse("x (y) z"), None);
    }

    #[tokio::test]
    async fn a_server_newer_than_every_client_is_refused_by_name() {
        let error = Search::default().for_server(9_999).await.unwrap_err();
        assert_eq!(error.kind, Kind::MissingProgram);
        let text = error.to_string();
        assert!(text.contains("9999") || text.contains("Missing command: pg_dump"), "{text}");
    }

    #[tokio::test]
    async fn a_program_that_cannot_run_is_not_a_missing_one() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("pg_dump");
        std::fs::write(&program, "#!/bin/sh\necho no library >&2\nexit 127\n").unwrap();
        std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        let search = Search { bin_dir: Some(directory.path().to_owned()), ..Search::default() };
        let text = search.for_server(15).await.unwrap_err().to_string();
        assert!(text.contains("for its version: pg_dump ended with exit code 127: no library"), "{text}");
    }

    #[tokio::test]
    async fn a_bin_dir_without_programs_is_named() {
        let empty = tempfile::tempdir().unwrap();
        let search = Search { bin_dir: Some(empty.path().to_owned()), path: vec!["/usr/bin".into()], prefix: None };
        let text = search.for_server(15).await.unwrap_err().to_string();
        assert!(text.contains(&empty.path().display().to_string()), "{text}");
    }
}
