//! One run as the platform of the env-file layout shows it: `<reports>/<stem>.json`.
//!
//! Its reader refuses a file with any key that it does not know, and takes what ends in `.json` as soon as it is there.
//! So the keys are these and no others, on failure too; what is unknown is `""`, `0` or `[]`; and a file gets its name
//! when it is complete. The report is for other readers: 0644, and free of secrets. Everything else that is known of a
//! run is in its record.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Serialize, Serializer};

use super::document;
use super::layout::DumpStem;
use crate::config::directories::{make_readable, make_readable_by_all};
use crate::config::secret::Secret;
use crate::digest::Sha256;
use crate::error::{Doing as _, Kind, Result};
use crate::storage::{InvalidKey, Key};

/// The document, key for key. Nothing may be added.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PlatformReport {
    pub database: String,
    pub host: String,
    /// Text, to the platform.
    #[serde(serialize_with = "as_text")]
    pub port: u16,
    #[serde(serialize_with = "as_seconds")]
    pub started_at: DateTime<Utc>,
    /// The platform sorts by this as text.
    #[serde(serialize_with = "as_seconds")]
    pub finished_at: DateTime<Utc>,
    pub duration_seconds: u64,
    /// `local`, `oss` or `both`.
    pub mode: &'static str,
    /// `ossutil` or `rclone`, whether it was used or not.
    pub tool: &'static str,
    pub status: PlatformStatus,
    /// Empty on success.
    #[serde(serialize_with = "as_line")]
    pub error_message: String,
    pub local: LocalCopy,
    pub remote: RemoteCopy,
}

/// The only two words that the platform knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum PlatformStatus {
    Success,
    Failed,
}

/// What lies on this host. A run that keeps nothing here still tells size and digest of what it stored.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LocalCopy {
    /// The path of the dump.
    pub file: String,
    pub globals_file: String,
    #[serde(serialize_with = "as_digest")]
    pub checksum_sha256: Option<Sha256>,
    pub size_bytes: u64,
}

/// What was uploaded.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RemoteCopy {
    pub urls: Vec<String>,
}

impl PlatformReport {
    /// The text of the file; `secrets` do not stand in its message, whoever put them there.
    pub fn to_json(&self, secrets: &[Secret]) -> Result<Bytes> {
        let error_message = secrets.iter().fold(self.error_message.clone(), |text, secret| secret.blot_out(&text));
        document::to_json(&Self { error_message, ..self.clone() })
    }

    /// Where it lies in a bucket, beside the dumps.
    pub fn key(stem: &DumpStem) -> std::result::Result<Key, InvalidKey> {
        Key::new(format!("reports/{}", Self::file_name(stem)))
    }

    /// Where it lies on this host.
    pub fn path(directory: &Path, stem: &DumpStem) -> PathBuf {
        directory.join(Self::file_name(stem))
    }

    fn file_name(stem: &DumpStem) -> String {
        format!("{stem}.json")
    }

    /// Puts `json` into `directory` under the name of the run's dump and returns the path. The directory is made if it
    /// is missing, with those above it.
    pub fn write(json: &[u8], directory: &Path, stem: &DumpStem) -> Result<PathBuf> {
        let path = Self::path(directory, stem);
        let doing = || format!("write report {}", path.display());
        make_readable(directory).doing(Kind::Storage, || format!("make directory {}", directory.display()))?;
        // A name that the platform's pattern *.json does not take.
        let mut file =
            tempfile::Builder::new().prefix(".report-").tempfile_in(directory).doing(Kind::Storage, doing)?;
        file.write_all(json).doing(Kind::Storage, doing)?;
        make_readable_by_all(file.as_file(), 0o644, Some(directory)).doing(Kind::Storage, doing)?;
        file.as_file().sync_all().doing(Kind::Storage, doing)?;
        file.persist(&path).map_err(|error| error.error).doing(Kind::Storage, doing)?;
        fs::File::open(directory).and_then(|folder| folder.sync_all()).doing(Kind::Storage, doing)?;
        Ok(path)
    }
}

fn as_text<S: Serializer>(port: &u16, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.collect_str(port)
}

fn as_seconds<S: Serializer>(at: &DateTime<Utc>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&at.to_rfc3339_opts(SecondsFormat::Secs, true))
}

/// A list that shows one row per report has no place for a second line.
fn as_line<S: Serializer>(text: &str, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    let words: Vec<&str> =
        text.split(|c: char| c.is_control()).map(str::trim).filter(|part| !part.is_empty()).collect();
    serializer.serialize_str(&words.join(" "))
}

fn as_digest<S: Serializer>(digest: &Option<Sha256>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(&digest.map(|digest| digest.to_string()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use serde::Deserialize;

    use super::*;
    use crate::repo::Stamp;

    /// The platform's classes: anything else in the file, and the whole report is skipped.
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[allow(dead_code)]
    struct Reader {
        database: String,
        host: String,
        port: String,
        started_at: String,
        finished_at: String,
        duration_seconds: i64,
        mode: String,
        tool: String,
        status: String,
        error_message: String,
        local: ReaderLocal,
        remote: ReaderRemote,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", deny_unknown_fields)]
    #[allow(dead_code)]
    struct ReaderLocal {
        file: String,
        globals_file: String,
        checksum_sha256: String,
        size_bytes: i64,
    }

    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct ReaderRemote {
        urls: Vec<String>,
    }

    fn failure() -> PlatformReport {
        PlatformReport {
            database: "community".to_owned(),
            host: "127.0.0.1".to_owned(),
            port: 5432,
            started_at: "2025-10-11T18:00:00.123456Z".parse().unwrap(),
            finished_at: "2025-10-11T18:05:12Z".parse().unwrap(),
            duration_seconds: 312,
            mode: "both",
            tool: "ossutil",
            status: PlatformStatus::Failed,
            error_message: "connect: no \"route\"\n\tfor hunter2 to host\n".to_owned(),
            local: LocalCopy::default(),
            remote: RemoteCopy::default(),
        }
    }

    #[test]
    fn a_success_has_the_keys_of_the_document_in_their_order() {
        let report = PlatformReport {
            status: PlatformStatus::Success,
            error_message: String::new(),
            local: LocalCopy {
                file: "/data/db-backups/data/community_20251011T180000Z_host.dump".to_owned(),
                globals_file: "/data/db-backups/data/community_20251011T180000Z_host_globals.sql".to_owned(),
                checksum_sha256: Some(Sha256::of(b"x")),
                size_bytes: 123_456_789,
            },
            remote: RemoteCopy {
                urls: vec!["oss://b/postgres/backups/community_20251011T180000Z_host.dump".to_owned()],
            },
            ..failure()
        };
        let expected = format!(
            r#"{{
  "database": "community",
  "host": "127.0.0.1",
  "port": "5432",
  "startedAt": "2025-10-11T18:00:00Z",
  "finishedAt": "2025-10-11T18:05:12Z",
  "durationSeconds": 312,
  "mode": "both",
  "tool": "ossutil",
  "status": "SUCCESS",
  "errorMessage": "",
  "local": {{
    "file": "/data/db-backups/data/community_20251011T180000Z_host.dump",
    "globalsFile": "/data/db-backups/data/community_20251011T180000Z_host_globals.sql",
    "checksumSha256": "{}",
    "sizeBytes": 123456789
  }},
  "remote": {{
    "urls": [
      "oss://b/postgres/backups/community_20251011T180000Z_host.dump"
    ]
  }}
}}
"#,
            Sha256::of(b"x")
        );
        assert_eq!(report.to_json(&[]).unwrap(), expected);
    }

    #[test]
    fn a_failure_has_the_same_keys_and_one_line_without_secrets() {
        let json = failure().to_json(&[Secret::new("hunter2"), Secret::new("")]).unwrap();
        let reader: Reader = serde_json::from_slice(&json).unwrap();
        assert_eq!(reader.error_message, "connect: no \"route\" for **redacted** to host");
        assert_eq!((reader.status.as_str(), reader.port.as_str()), ("FAILED", "5432"));
        let ReaderLocal { file, globals_file, checksum_sha256, size_bytes } = reader.local;
        assert_eq!((file + &globals_file + &checksum_sha256, size_bytes), (String::new(), 0));
        assert!(reader.remote.urls.is_empty());
    }

    #[test]
    fn a_report_appears_whole_and_for_everybody() {
        let folder = tempfile::tempdir().unwrap();
        let directory = folder.path().join("base/reports");
        let stem = DumpStem::new("shop x", "20251011T180000Z".parse::<Stamp>().unwrap(), "host");
        let written = PlatformReport::write(b"{}\n", &directory, &stem).unwrap();
        assert_eq!(written, directory.join("shop%20x_20251011T180000Z_host.json"));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&written), mode(&directory), mode(&folder.path().join("base"))), (0o644, 0o755, 0o755));
        // The second report of a run takes the place of the first.
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o750)).unwrap();
        PlatformReport::write(b"{\"a\":1}\n", &directory, &stem).unwrap();
        assert_eq!(fs::read(&written).unwrap(), b"{\"a\":1}\n");
        assert_eq!(mode(&directory), 0o750);
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_an_error_of_storage() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let stem = DumpStem::new("shop", "20251011T180000Z".parse().unwrap(), "host");
        let error = PlatformReport::write(b"{}", &file.path().join("reports"), &stem).unwrap_err();
        assert_eq!(error.kind, Kind::Storage);
        assert!(error.to_string().starts_with("make directory "), "{error}");
    }
}
