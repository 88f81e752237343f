//! Where the keys to a bucket come from.

use std::path::PathBuf;

use crate::config::secret::Secret;

/// The source of the access key of an S3 or OSS store. Keys that end are asked for again before they do, and once more
/// where the store refuses them.
#[derive(Clone, Debug, Default)]
pub enum Credentials {
    /// The environment, the profile files of AWS, a web identity, the role of the container or of the machine. OSS looks
    /// at `OSS_ACCESS_KEY_ID`, `OSS_ACCESS_KEY_SECRET` and `OSS_SESSION_TOKEN` first.
    #[default]
    Chain,
    /// A file of JSON as the `credential_process` of AWS prints it; read again when its keys have ended.
    File(PathBuf),
    /// A program and its arguments that print such JSON; run again when its keys have ended.
    Command(Vec<String>),
    /// Keys that were given as they are.
    Given { access_key_id: String, secret: Secret, session_token: Option<Secret> },
}
