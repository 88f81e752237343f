//! Keys to sign requests with, fetched when they are needed and again before they end.

use std::fmt;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{ProvideCredentials, future};
use aws_types::region::Region;
use chrono::{DateTime, Utc};
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::clock::{Clock, SystemClock};
use crate::config::environment::Environment;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::process::{Program, find_program, shell_word};
use crate::storage::Credentials;

type AwsKeys = aws_credential_types::Credentials;

/// How long before their end keys are replaced, where they live twice as long.
const EARLY: Duration = Duration::from_secs(300);
/// What a file or the output of a command may hold.
const LIMIT_BYTES: u64 = 64 << 10;

/// One access key with what belongs to it. Clones share what was fetched.
#[derive(Clone)]
pub(super) struct Keys(Arc<Inner>);

struct Inner {
    source: Source,
    clock: Arc<dyn Clock>,
    patience: Duration,
    held: Mutex<Option<Held>>,
}

#[derive(Clone)]
struct Held {
    keys: AwsKeys,
    renew_at: Option<DateTime<Utc>>,
}

enum Source {
    Given(AwsKeys),
    File(PathBuf),
    Command { words: Vec<String>, environment: Environment },
    Chain(Box<DefaultCredentialsChain>),
}

// What is fetched is secret.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys")
    }
}

impl Keys {
    /// `patience` bounds one fetch.
    pub async fn from(
        credentials: &Credentials,
        is_oss: bool,
        region: &str,
        environment: &Environment,
        patience: Duration,
    ) -> Self {
        let source = match credentials {
            Credentials::Given { access_key_id, secret, session_token } => {
                let token = session_token.as_ref().map(|token| token.expose().to_owned());
                Source::Given(AwsKeys::new(access_key_id, secret.expose(), token, None, "given"))
            }
            Credentials::File(path) => Source::File(path.clone()),
            Credentials::Command(words) => Source::Command { words: words.clone(), environment: environment.clone() },
            Credentials::Chain => match in_environment(is_oss, environment) {
                Some(keys) => Source::Given(keys),
                None => {
                    let region = Region::new(region.to_owned());
                    Source::Chain(Box::new(DefaultCredentialsChain::builder().region(region).build().await))
                }
            },
        };
        Self::over(source, Arc::new(SystemClock), patience)
    }

    fn over(source: Source, clock: Arc<dyn Clock>, patience: Duration) -> Self {
        Self(Arc::new(Inner { source, clock, patience, held: Mutex::default() }))
    }

    /// Keys that have not ended. Where new ones cannot be had in time, those at hand are used to their end.
    pub async fn current(&self) -> Result<AwsKeys> {
        let mut held = self.0.held.lock().await;
        let now = self.0.clock.now();
        if let Some(held) = &*held
            && held.renew_at.is_none_or(|renew_at| now < renew_at)
        {
            return Ok(held.keys.clone());
        }
        match (self.fetch(now).await, &*held) {
            (Ok(fetched), _) => Ok(held.insert(fetched).keys.clone()),
            (Err(error), Some(old)) if old.keys.expiry().is_some_and(|end| now < DateTime::<Utc>::from(end)) => {
                tracing::warn!("renew the credentials, which have not ended yet: {error}");
                Ok(old.keys.clone())
            }
            (Err(error), _) => Err(error),
        }
    }

    /// Fetches other keys than `refused`. False if there are none.
    pub async fn renew(&self, refused: &AwsKeys) -> Result<bool> {
        let mut held = self.0.held.lock().await;
        let differs = |keys: &AwsKeys| {
            let parts = |keys: &AwsKeys| {
                let token = keys.session_token().map(str::to_owned);
                (keys.access_key_id().to_owned(), keys.secret_access_key().to_owned(), token)
            };
            parts(keys) != parts(refused)
        };
        // Another request was refused, too, and was faster.
        if held.as_ref().is_some_and(|held| differs(&held.keys)) {
            return Ok(true);
        }
        let fetched = self.fetch(self.0.clock.now()).await?;
        let renewed = differs(&fetched.keys);
        *held = Some(fetched);
        Ok(renewed)
    }

    async fn fetch(&self, now: DateTime<Utc>) -> Result<Held> {
        let fetching = async {
            match &self.0.source {
                Source::Given(keys) => Ok(keys.clone()),
                Source::File(path) => of_file(path),
                Source::Command { words, environment } => of_command(words, environment).await,
                Source::Chain(chain) => chain.provide_credentials().await.map_err(not_found),
            }
        };
        let keys = tokio::time::timeout(self.0.patience, fetching).await.unwrap_or_else(|_| {
            let what = format!("get credentials: nothing came within {} s", self.0.patience.as_secs_f32().ceil());
            Err(Error::new(Kind::Storage, what).hint("check the command or the service that gives the credentials"))
        })?;
        let renew_at = keys.expiry().map(|end| renewal(now, end.into()));
        Ok(Held { keys, renew_at })
    }
}

/// Early, but not so early that keys of a short life would be fetched for every request.
fn renewal(now: DateTime<Utc>, end: DateTime<Utc>) -> DateTime<Utc> {
    let life = (end - now).to_std().unwrap_or_default();
    let wait = life.saturating_sub(EARLY).max(life / 2);
    now + wait
}

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async { self.current().await.map_err(CredentialsError::provider_error) })
    }
}

fn in_environment(is_oss: bool, environment: &Environment) -> Option<AwsKeys> {
    let set = |name: &str| environment.get(name).filter(|value| !value.is_empty()).map(str::to_owned);
    let keys = |id: &str, secret: &str, token: &str| {
        Some(AwsKeys::new(set(id)?, set(secret)?, set(token), None, "environment"))
    };
    let oss = || keys("OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN");
    let aws = || keys("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN");
    is_oss.then(oss).flatten().or_else(aws)
}

fn not_found(error: CredentialsError) -> Error {
    let hint = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (for oss OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET), \
         or a profile in ~/.aws/credentials, or a credentials file or command";
    let sentence = "there are no credentials for the store";
    match error {
        CredentialsError::CredentialsNotLoaded(_) => Error::new(Kind::Storage, sentence).hint(hint),
        other => Error::new(Kind::Storage, "get credentials").because(super::failure::innermost(&other)).hint(hint),
    }
}

/// What `credential_process` of AWS prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Printed {
    version: u32,
    access_key_id: String,
    secret_access_key: String,
    session_token: Option<String>,
    expiration: Option<DateTime<Utc>>,
}

/// The error says where it is wrong, and nothing of what stands there.
fn printed(json: &[u8], whose: &str) -> Result<AwsKeys> {
    let hint = "it is JSON as the credential_process of AWS prints it: Version (1), AccessKeyId, SecretAccessKey, \
         and where they end SessionToken and Expiration";
    let malformed = |what: String| Error::usage(format!("{whose} holds no credentials: {what}")).hint(hint);
    let printed: Printed = serde_json::from_slice(json).map_err(|error| {
        let what = if error.is_data() { "a key is missing or of another kind" } else { "it is not JSON" };
        malformed(format!("{what} (line {}, column {})", error.line(), error.column()))
    })?;
    if printed.version != 1 {
        return Err(malformed("its Version is not 1".to_owned()));
    }
    let expiry = printed.expiration.map(Into::into);
    Ok(AwsKeys::new(printed.access_key_id, printed.secret_access_key, printed.session_token, expiry, "printed"))
}

fn of_file(path: &Path) -> Result<AwsKeys> {
    let whose = || format!("credentials file {}", path.display());
    let read = || -> std::io::Result<(u32, Vec<u8>)> {
        use std::io::Read as _;
        let file = std::fs::File::open(path)?;
        let mode = file.metadata()?.permissions().mode();
        let mut body = Vec::new();
        file.take(LIMIT_BYTES).read_to_end(&mut body)?;
        Ok((mode, body))
    };
    let (mode, body) = read().doing(Kind::Usage, || format!("read {}", whose()))?;
    if mode & 0o027 != 0 {
        let what = if mode & 0o007 != 0 { "can be read by others" } else { "can be written by its group" };
        return Err(Error::usage(format!("{} {what} (mode {:04o})", whose(), mode & 0o7777))
            .hint(format!("chmod 600 {}", shell_word(path.as_os_str()))));
    }
    printed(&body, &whose())
}

async fn of_command(words: &[String], environment: &Environment) -> Result<AwsKeys> {
    let Some((name, arguments)) = words.split_first() else {
        return Err(Error::usage("the credentials command is empty"));
    };
    let path = match name.contains('/') {
        true => PathBuf::from(name),
        false => find_program(name, &crate::config::directories::path(environment)).ok_or_else(|| {
            Error::new(Kind::MissingProgram, format!("Missing command: {name}"))
                .hint("it is the credentials command of the repository; install it, or give its path")
        })?,
    };
    let program = Program::new(path, environment.of_others()).args(arguments).unheard();
    let (output, exit) = program.output(LIMIT_BYTES).await?;
    let ended = exit.check().doing(Kind::Storage, || "run the credentials command");
    ended.map_err(|error| error.hint("run it by hand, as the user and in the environment of this run"))?;
    printed(&output, "the output of the credentials command")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    const PATIENCE: Duration = Duration::from_secs(10);

    fn json(id: &str, expiration: &str) -> String {
        format!(
            r#"{{"Version":1,"AccessKeyId":"{id}","SecretAccessKey":"hunter2","SessionToken":"t","Expiration":"{expiration}"}}"#
        )
    }

    fn write(path: &Path, text: &str, mode: u32) {
        std::fs::write(path, text).unwrap();
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[tokio::test]
    async fn keys_of_a_file_are_read_again_before_they_end_and_when_they_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        let clock = Arc::new(ManualClock::at("2030-01-01T00:00:00Z".parse().unwrap()));
        let keys = Keys::over(Source::File(path.clone()), clock.clone(), PATIENCE);
        write(&path, &json("one", "2030-01-01T01:00:00Z"), 0o600);
        assert_eq!(keys.current().await.unwrap().access_key_id(), "one");
        write(&path, &json("two", "2030-01-01T02:00:00Z"), 0o600);
        assert_eq!(keys.current().await.unwrap().access_key_id(), "one", "they have long to live");
        clock.set("2030-01-01T00:56:00Z".parse().unwrap());
        let two = keys.current().await.unwrap();
        assert_eq!(two.access_key_id(), "two", "they end within five minutes");
        assert!(!keys.renew(&two).await.unwrap(), "there are no others");
        write(&path, &json("three", "2030-01-01T02:00:00Z"), 0o600);
        assert!(keys.renew(&two).await.unwrap());
        assert_eq!(keys.current().await.unwrap().access_key_id(), "three");
        assert!(keys.renew(&two).await.unwrap(), "somebody else has renewed them");

        // The source is gone for a while: what has not ended is used.
        std::fs::remove_file(&path).unwrap();
        clock.set("2030-01-01T01:59:00Z".parse().unwrap());
        assert_eq!(keys.current().await.unwrap().access_key_id(), "three");
        clock.set("2030-01-01T02:00:00Z".parse().unwrap());
        assert_eq!(keys.current().await.unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn keys_of_a_short_life_are_not_fetched_for_every_request() {
        let now: DateTime<Utc> = "2030-01-01T00:00:00Z".parse().unwrap();
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(renewal(now, after(3_600)), after(3_300));
        assert_eq!(renewal(now, after(60)), after(30));
        assert_eq!(renewal(after(60), now), after(60));
    }

    #[tokio::test]
    async fn a_file_that_others_can_read_is_refused_with_the_command_that_closes_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.json");
        for (mode, refused) in [(0o644, true), (0o604, true), (0o620, true), (0o640, false), (0o400, false)] {
            write(&path, &json("one", "2030-01-01T01:00:00Z"), 0o600);
            write(&path, &json("one", "2030-01-01T01:00:00Z"), mode);
            let answer = of_file(&path);
            assert_eq!(answer.is_err(), refused, "{mode:o}");
            if let Err(error) = answer {
                assert_eq!(error.next_step().unwrap(), format!("chmod 600 {}", path.display()));
            }
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn what_is_no_credentials_is_said_without_repeating_it() {
        for bad in [
            r#"hunter2"#,
            r#"{"Version":"hunter2"}"#,
            r#"{"Version":1,"AccessKeyId":"a","SecretAccessKey":["hunter2"]}"#,
            r#"{"Version":2,"AccessKeyId":"a","SecretAccessKey":"hunter2"}"#,
            r#"{"Version":1,"AccessKeyId":"a","SecretAccessKey":"hunter2","Expiration":"hunter2"}"#,
        ] {
            let error = printed(bad.as_bytes(), "it").unwrap_err();
            assert_eq!(error.kind, Kind::Usage);
            assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
        }
    }

    #[tokio::test]
    async fn a_command_gets_our_environment_without_what_is_not_its_business() {
        let environment = Environment::from_pairs([
            ("PATH", "/usr/bin:/bin"),
            ("PGPASSWORD", "hunter2"),
            ("OSS_ACCESS_KEY_SECRET", "hunter2"),
            ("VAULT_ADDR", "vault"),
        ]);
        let script = r#"printf '{"Version":1,"AccessKeyId":"%s-%s-%s","SecretAccessKey":"s"}' "$VAULT_ADDR" "$PGPASSWORD" "$OSS_ACCESS_KEY_SECRET""#;
        let words = ["sh", "-c", script].map(str::to_owned);
        let keys = of_command(&words, &environment).await.unwrap();
        assert_eq!(keys.access_key_id(), "vault--");
        let error = of_command(&["no-such-helper".to_owned()], &environment).await.unwrap_err();
        assert_eq!((error.kind, error.to_string().as_str()), (Kind::MissingProgram, "Missing command: no-such-helper"));
        let words = ["sh", "-c", "echo hunter2 >&2; exit 1"].map(str::to_owned);
        let error = of_command(&words, &environment).await.unwrap_err();
        assert_eq!(error.to_string(), "run the credentials command: sh ended with exit code 1");
    }

    #[test]
    fn oss_looks_for_its_own_names_first() {
        let both = Environment::from_pairs([
            ("OSS_ACCESS_KEY_ID", "oss"),
            ("OSS_ACCESS_KEY_SECRET", "s"),
            ("AWS_ACCESS_KEY_ID", "aws"),
            ("AWS_SECRET_ACCESS_KEY", "s"),
        ]);
        assert_eq!(in_environment(true, &both).unwrap().access_key_id(), "oss");
        assert_eq!(in_environment(false, &both).unwrap().access_key_id(), "aws");
        let aws = Environment::from_pairs([("AWS_ACCESS_KEY_ID", "aws"), ("AWS_SECRET_ACCESS_KEY", "s")]);
        assert_eq!(in_environment(true, &aws).unwrap().access_key_id(), "aws");
        assert!(in_environment(true, &Environment::default()).is_none());
    }
}
