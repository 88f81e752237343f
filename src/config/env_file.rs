//! `BACKUP_ENV_FILE`: the configuration of a backup script that pgkeep takes the place of.
//!
//! Every variable has the meaning and default that it has there; a variable of the environment has precedence over the
//! file, and one that is empty counts as not set. What is missing or wrong is an error before anything starts, which
//! names variable, file and line and never repeats a value: it may be a key.

mod assignments;
mod endpoint;
pub mod extra_options;
mod values;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::private_file::{self, Readers};
use super::secret::Secret;
use crate::error::{Error, Result};
use values::Values;

pub use endpoint::Endpoint;
pub use extra_options::ExtraOptions;

/// The variables that are ours, in the order of the document that describes them; then those of the platform that shows
/// the reports (`BACKUP_ENABLED` says whether it does, and nothing to us), and those that rule others' programs.
const SETTINGS: [&str; 25] = [
    "PG_HOST",
    "PG_PORT",
    "PG_DATABASE",
    "PG_USER",
    "BACKUP_MODE",
    "BACKUP_BASE_DIR",
    "BACKUP_LOG_DIR",
    "RETENTION_DAYS",
    "INCLUDE_GLOBALS",
    "PG_DUMP_EXTRA_OPTS",
    "BACKUP_UPLOAD_TOOL",
    "OSS_BUCKET",
    "OSS_PREFIX",
    "OSS_ENDPOINT",
    "OSS_ACCESS_KEY_ID",
    "OSS_ACCESS_KEY_SECRET",
    "OSS_SESSION_TOKEN",
    "RCLONE_REMOTE",
    "RCLONE_PATH",
    "BACKUP_ENV_FILE",
    "BACKUP_REPORTS_DIR",
    "BACKUP_ENABLED",
    "RCLONE_CONFIG",
    "PG_COLOR",
    "PG_COLORS",
];

/// What begins like this and is not known is mistyped; everything else in the file is somebody else's.
const OUR_PREFIXES: [&str; 4] = ["BACKUP_", "OSS_", "RCLONE_", "PG_"];

/// Backends of rclone are configured by variables of any name that begins so.
const OF_RCLONE: &str = "RCLONE_CONFIG";

/// What may stand in the environment and is for no reader of a log, ours or a program's that we start.
const SECRETS: [&str; 7] = [
    "PGPASSWORD",
    "OSS_ACCESS_KEY_SECRET",
    "OSS_SESSION_TOKEN",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "PGKEEP_IDENTITY",
    "PGKEEP_PASSPHRASE",
];

/// `RCLONE_CONFIG_PASS`, `RCLONE_CONFIG_OSS_SECRET_ACCESS_KEY` and what other backends have; a path is no secret.
fn is_secret_of_rclone(name: &str) -> bool {
    const ENDINGS: [&str; 7] = ["PASS", "PASS2", "PASSWORD", "SECRET", "TOKEN", "SECRET_ACCESS_KEY", "KEY_PEM"];
    let words = name.strip_prefix(OF_RCLONE).unwrap_or_default();
    ENDINGS.iter().any(|ending| words.strip_suffix(ending).is_some_and(|rest| rest.ends_with('_')))
}

/// A configuration that is complete and free of contradictions.
#[derive(Clone, Debug)]
pub struct EnvFile {
    pub path: PathBuf,
    /// The environment of the process, completed by what the file sets: `PGPASSWORD`, `PGSSLMODE`, `RCLONE_CONFIG` and
    /// the keys of the bucket reach whoever asks for them.
    pub environment: Environment,
    pub server: Server,
    pub mode: Mode,
    pub directories: Directories,
    /// Whole days; only local dumps are removed, those of the bucket are left to its lifecycle rules.
    pub retention_days: u32,
    pub includes_globals: bool,
    pub extra_options: ExtraOptions,
    /// Named in reports, whatever the mode.
    pub tool: UploadTool,
    /// Where dumps are uploaded to; none if the mode is `local`.
    pub remote: Option<Remote>,
}

/// What is dumped. The password comes from `PGPASSWORD` or a password file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    pub host: String,
    pub port: u16,
    pub database: String,
    pub user: String,
}

/// `BACKUP_MODE`: where dumps are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Local,
    Oss,
    Both,
}

impl Mode {
    const ALL: [Self; 3] = [Self::Local, Self::Oss, Self::Both];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Oss => "oss",
            Self::Both => "both",
        }
    }

    pub fn keeps_locally(self) -> bool {
        self != Self::Oss
    }

    pub fn uploads(self) -> bool {
        self != Self::Local
    }
}

/// `BACKUP_UPLOAD_TOOL`. `ossutil` is our own client of OSS: no program of that name is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadTool {
    Ossutil,
    Rclone,
}

impl UploadTool {
    const ALL: [Self; 2] = [Self::Ossutil, Self::Rclone];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ossutil => "ossutil",
            Self::Rclone => "rclone",
        }
    }
}

/// Absolute paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directories {
    pub base: PathBuf,
    /// One JSON file per run, for the platform.
    pub reports: PathBuf,
    pub log: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Remote {
    Oss(Bucket),
    Rclone { remote: String, path: String },
}

/// A bucket of OSS and who may write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bucket {
    pub name: String,
    /// Without slashes at its ends, and without two in a row.
    pub prefix: String,
    pub endpoint: Endpoint,
    pub access_key_id: String,
    pub access_key_secret: Secret,
    pub session_token: Option<Secret>,
}

impl Remote {
    /// The address of an object under the remote's folder, as reports have it: `oss://bucket/prefix/name` and
    /// `remote:path/name`.
    pub fn url_of(&self, name: &str) -> String {
        match self {
            Self::Oss(bucket) if bucket.prefix.is_empty() => format!("oss://{}/{name}", bucket.name),
            Self::Oss(bucket) => format!("oss://{}/{}/{name}", bucket.name, bucket.prefix),
            Self::Rclone { remote, path } => format!("{remote}:{path}/{name}"),
        }
    }
}

impl EnvFile {
    /// Reads `path`. [`crate::error::Kind::Refused`] if others may read the file or the group may write it, else every
    /// error is [`crate::error::Kind::Usage`].
    pub fn read(path: &Path, process: &Environment) -> Result<Self> {
        let text = private_file::read(path, Readers::Group).map_err(|error| match error.next_step() {
            Some(_) => error,
            None => error.hint("BACKUP_ENV_FILE names it: a file that the account of pgkeep can read"),
        })?;
        Self::parse(path, &text, process)
    }

    /// `path` is for messages.
    pub fn parse(path: &Path, text: &str, process: &Environment) -> Result<Self> {
        let values = Values::parse(path, text, process)?;
        values.refuse_unknown(&SETTINGS, &OUR_PREFIXES, OF_RCLONE)?;
        let mode = values.one_of("BACKUP_MODE", Mode::Both, &Mode::ALL, Mode::as_str)?;
        let tool = values.one_of("BACKUP_UPLOAD_TOOL", UploadTool::Ossutil, &UploadTool::ALL, UploadTool::as_str)?;
        values.require(&["PG_HOST", "PG_DATABASE", "PG_USER"], "")?;
        Ok(Self {
            path: path.to_owned(),
            environment: values.environment(),
            server: server(&values)?,
            mode,
            directories: directories(&values)?,
            retention_days: values.number("RETENTION_DAYS", 7, 0..=999_999)?,
            includes_globals: values.one_of("INCLUDE_GLOBALS", true, &[true, false], truth)?,
            extra_options: extra_options(&values)?,
            tool,
            remote: if mode.uploads() { Some(remote(&values, mode, tool)?) } else { None },
        })
    }

    /// What no log and no report may show, wherever a text comes from.
    pub fn secrets(&self) -> Vec<Secret> {
        let secret = |(name, value): (&OsStr, &OsStr)| {
            let (name, value) = (name.to_str()?, value.to_str()?);
            (SECRETS.contains(&name) || is_secret_of_rclone(name)).then(|| Secret::new(value))
        };
        self.environment.iter().filter_map(secret).collect()
    }
}

fn truth(truth: bool) -> &'static str {
    if truth { "true" } else { "false" }
}

fn server(values: &Values<'_>) -> Result<Server> {
    Ok(Server {
        host: values.text("PG_HOST", "")?,
        port: values.number("PG_PORT", 5432, 1..=65_535)?.try_into().unwrap_or(5432),
        database: values.text("PG_DATABASE", "")?,
        user: values.text("PG_USER", "")?,
    })
}

fn directories(values: &Values<'_>) -> Result<Directories> {
    let base = values.directory("BACKUP_BASE_DIR", "/data/db-backups")?;
    let reports = match values.get("BACKUP_REPORTS_DIR")? {
        Some(_) => values.directory("BACKUP_REPORTS_DIR", "")?,
        None => base.join("reports"),
    };
    Ok(Directories { base, reports, log: values.directory("BACKUP_LOG_DIR", "/var/log/db-backup")? })
}

fn extra_options(values: &Values<'_>) -> Result<ExtraOptions> {
    let Some(value) = values.get("PG_DUMP_EXTRA_OPTS")? else { return Ok(ExtraOptions::default()) };
    extra_options::parse(value.text, extra_options::Place::EnvFile)
        .map_err(|objection| value.wrong(&format!("cannot be used: {}", objection.what)).hint(objection.instead))
}

fn remote(values: &Values<'_>, mode: Mode, tool: UploadTool) -> Result<Remote> {
    if tool == UploadTool::Rclone {
        return rclone(values);
    }
    let needed = ["OSS_BUCKET", "OSS_ENDPOINT", "OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET"];
    values.require(&needed, &format!(", as BACKUP_MODE={} needs", mode.as_str()))?;
    let name = values.checked("OSS_BUCKET", "", "the name of a bucket", |name| {
        name.len() >= 3 && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-.".contains(&b))
    })?;
    Ok(Remote::Oss(Bucket {
        prefix: folder(values, "OSS_PREFIX")?,
        endpoint: endpoint(values, &name)?,
        access_key_id: values.text("OSS_ACCESS_KEY_ID", "")?,
        access_key_secret: Secret::new(values.text("OSS_ACCESS_KEY_SECRET", "")?),
        session_token: values.get("OSS_SESSION_TOKEN")?.map(|token| Secret::new(token.text)),
        name,
    }))
}

fn endpoint(values: &Values<'_>, bucket: &str) -> Result<Endpoint> {
    let Some(value) = values.get("OSS_ENDPOINT")? else {
        return Err(Error::usage("OSS_ENDPOINT is not set"));
    };
    let endpoint = Endpoint::parse(value.text);
    let wrong = |what: &str| value.wrong(what).hint("write it as oss-cn-hangzhou.aliyuncs.com");
    match endpoint {
        Some(endpoint) if endpoint.url.contains(&format!("://{bucket}.")) => Err(wrong("begins with the bucket")),
        Some(endpoint) => Ok(endpoint),
        None => Err(wrong("is not the name of a host")),
    }
}

fn rclone(values: &Values<'_>) -> Result<Remote> {
    let remote = values.checked("RCLONE_REMOTE", "oss", "the name of a remote, without a colon", |name| {
        let plain = |c: char| c.is_alphanumeric() || "_-. +@".contains(c);
        !name.starts_with(['-', ' ']) && name.chars().all(plain)
    })?;
    let path = values.checked("RCLONE_PATH", FOLDER, "a path", printable)?;
    // A slash at the beginning means something to a remote that is a file system.
    let path = path.trim_end_matches('/').to_owned();
    Ok(Remote::Rclone { remote, path })
}

/// The folder of the bucket where the script kept its dumps unless told otherwise.
const FOLDER: &str = "postgres/backups";

fn folder(values: &Values<'_>, key: &str) -> Result<String> {
    // A question mark begins the parameters of an address.
    let is_part = |part: &str| part != "." && part != ".." && !part.contains('?');
    let is_folder = |path: &str| printable(path) && path.split('/').all(is_part);
    let folder = values.checked(key, FOLDER, "a path of folders", is_folder)?;
    let parts: Vec<&str> = folder.split('/').filter(|part| !part.is_empty()).collect();
    Ok(parts.join("/"))
}

fn printable(text: &str) -> bool {
    !text.contains(char::is_control)
}

#[cfg(test)]
mod tests;
