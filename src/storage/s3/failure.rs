//! What a store answered, or that it did not, judged once.

use std::error::Error as StdError;
use std::time::Duration;

use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use super::client::Client;
use crate::error::{Error, Kind};
use crate::process::shell_word;
use crate::storage::rclone::Gateway;
use crate::storage::{Fault, StorageError};

/// Why one attempt did not bring what was asked for.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The store answered, and it is an error.
    Answered { status: u16, code: String, message: String, region: Option<String> },
    /// No connection was made, so nothing was asked.
    Unconnected(String),
    /// It was asked, and no answer came that could be understood: it may have been done.
    Lost(String),
    /// The request could not be made at all.
    Unsent(String),
    /// There are no keys to ask with.
    Keys(Error),
    /// Create-only: the name is taken.
    Taken,
}

pub(super) type Answer<T> = std::result::Result<T, Refusal>;

impl Refusal {
    pub fn silence(limit: Duration) -> Self {
        Self::Lost(format!("no answer within {} s", limit.as_secs_f32().ceil()))
    }

    fn code(&self) -> &str {
        match self {
            Self::Answered { code, .. } => code,
            _ => "",
        }
    }

    pub fn status(&self) -> u16 {
        match self {
            Self::Answered { status, .. } => *status,
            _ => 0,
        }
    }

    /// The store itself said that there is no such object.
    pub fn is_no_such_key(&self) -> bool {
        self.status() == 404 && self.code() == "NoSuchKey"
    }

    pub fn is_no_such_bucket(&self) -> bool {
        self.status() == 404 && self.code() == "NoSuchBucket"
    }

    pub fn is_no_such_upload(&self) -> bool {
        self.status() == 404 && self.code() == "NoSuchUpload"
    }

    /// A precondition did not hold, or an object of the name exists.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Taken)
            || self.status() == 412
            // In the body of what began as a success, too.
            || matches!(self.code(), "PreconditionFailed" | "FileAlreadyExists")
    }

    /// The store does not know what was asked of it.
    pub fn is_unknown_request(&self) -> bool {
        matches!(self.status(), 501 | 405) || self.code() == "NotImplemented"
    }

    /// Other keys may help: these have ended, or were taken back.
    pub fn is_about_keys(&self) -> bool {
        let ended = ["ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "SecurityTokenExpired"];
        matches!(self.status(), 401 | 403) || ended.contains(&self.code())
    }

    /// The same request may succeed a moment later.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unconnected(_) | Self::Lost(_) => true,
            _ if self.is_taken() => false,
            Self::Answered { status, code, .. } => {
                let busy = ["SlowDown", "RequestTimeout", "InternalError", "ServiceUnavailable", "Busy"];
                let race = ["ConditionalRequestConflict", "OperationAborted"];
                matches!(status, 408 | 429 | 500 | 502..=599)
                    || busy.contains(&code.as_str())
                    || race.contains(&code.as_str())
                    // An error in the body of what began as a success.
                    || (*status == 200 && code != "NotImplemented")
            }
            Self::Unsent(_) | Self::Keys(_) | Self::Taken => false,
        }
    }

    /// What was asked may have been done all the same.
    pub fn leaves_doubt(&self) -> bool {
        match self {
            Self::Lost(_) => true,
            _ if self.is_taken() => false,
            Self::Answered { status, .. } => *status >= 500 && *status != 501 || *status == 408 || *status == 200,
            _ => false,
        }
    }

    fn fault(&self) -> Fault {
        match self {
            Self::Keys(_) => Fault::Denied,
            Self::Taken => Fault::Exists,
            Self::Unsent(_) => Fault::Other,
            _ if self.is_taken() => Fault::Exists,
            _ if self.is_no_such_key() => Fault::NotFound,
            Self::Answered { status: 507, .. } => Fault::Full,
            Self::Answered { code, .. } if code.contains("Quota") || code.ends_with("StorageFull") => Fault::Full,
            Self::Answered { .. } if self.is_about_keys() => Fault::Denied,
            _ if self.may_pass() => Fault::Unavailable,
            _ => Fault::Other,
        }
    }

    /// A sentence and the next step, for the client that asked.
    fn into_error(self, client: &Client) -> Error {
        let place = &client.place;
        let stored = |text: String| Error::new(Kind::Storage, text);
        let last_words = client.gateway.as_ref().and_then(Gateway::last_words);
        let with_last_words = |cause: String| match &last_words {
            Some(words) => format!("{cause} (rclone said: {words})"),
            None => cause,
        };
        let is_gone = client.gateway.as_ref().is_some_and(Gateway::has_ended);
        match self {
            Self::Keys(error) => error,
            Self::Lost(_) | Self::Unconnected(_) if is_gone => {
                stored(with_last_words("rclone, which stands between this host and the store, has ended".to_owned()))
                    .hint("start again; if it ends once more, see whether this host is short of memory")
            }
            Self::Taken => stored("an object of this name exists".to_owned()),
            Self::Unsent(cause) => stored(cause),
            Self::Lost(cause) => {
                stored(format!("{place} was asked and did not answer as it should: {}", with_last_words(cause)))
                    .hint("is the store overloaded, or is something between it and this host? Try again")
            }
            Self::Unconnected(cause) => {
                let hint = if cause.contains("not valid for name") {
                    "the certificate is that of another host: check the endpoint"
                } else if cause.contains("certificate") {
                    "where the certificate is of a private authority, add ca=FILE to the address"
                } else if cause.contains("InvalidContentType") {
                    "no TLS is spoken there: check the port, or write http:// for a store on this host"
                } else {
                    "check the address, and whether the store runs and can be reached from here"
                };
                stored(format!("connect to {place}: {}", with_last_words(cause))).hint(hint)
            }
            Self::Answered { status, code, message, region } => {
                let (sentence, hint) = explained(client, status, &code, region.as_deref());
                // A sentence of ours stands before it, and speaks of the store.
                let who = if sentence.is_some() { "the store" } else { place.as_str() };
                let said = match (code.as_str(), message.as_str()) {
                    ("", "") => format!("{who} answered {status}"),
                    (code, "") => format!("{who} answered {status} {code}"),
                    (code, message) => format!("{who} answered {status} {code}: {message}"),
                };
                let said = if status >= 500 { with_last_words(said) } else { said };
                let error = match sentence {
                    Some(sentence) => stored(sentence).because(said),
                    None => stored(said),
                };
                match hint {
                    Some(hint) => error.hint(hint),
                    None => error,
                }
            }
        }
    }
}

/// What the codes mean that a user can do something about, and what.
fn explained(client: &Client, status: u16, code: &str, region: Option<&str>) -> (Option<String>, Option<String>) {
    let (bucket, place) = (&client.bucket, &client.place);
    let (sentence, hint) = match code {
        "NoSuchBucket" => (
            format!("bucket {bucket} does not exist at {place}"),
            "check the address, or create the bucket: pgkeep makes none".to_owned(),
        ),
        "InvalidAccessKeyId" => (
            "the store does not know the access key".to_owned(),
            format!("check the access key that is used for {place}"),
        ),
        "SignatureDoesNotMatch" => (
            "the secret key does not belong to the access key".to_owned(),
            format!("check the secret key that is used for {place}"),
        ),
        "ExpiredToken" | "ExpiredTokenException" | "TokenRefreshRequired" | "SecurityTokenExpired" => (
            "the credentials have ended".to_owned(),
            "renew them; a credentials file or command is asked again by itself".to_owned(),
        ),
        "AccessDenied" | "Forbidden" | "AllAccessDisabled" => (
            format!("the key may not do this in bucket {bucket}"),
            "the key needs the right to list the bucket, and to read, write and delete its objects".to_owned(),
        ),
        // The answer to a HEAD has no body.
        "" if status == 403 => (
            "the store refuses it and does not tell why".to_owned(),
            "check the keys, their rights and the clock of this host".to_owned(),
        ),
        // Only the directory of a gateway is ever made by us, and by the rules for buckets.
        "InvalidBucketName" if client.gateway.is_some() => (
            format!("rclone does not make a directory of the name {bucket:?} for us"),
            format!("rclone mkdir {}", shell_word(client.address.trim_start_matches("rclone:").as_ref())),
        ),
        "RequestTimeTooSkewed" => {
            ("the clocks of this host and of the store differ".to_owned(), "set the clock of this host".to_owned())
        }
        "SecondLevelDomainForbidden" => (
            "the store wants the bucket in the name of its host".to_owned(),
            "use oss://, or add path_style=false to the address".to_owned(),
        ),
        "PublicEndpointForbidden" => (
            "the account may not use the public endpoint".to_owned(),
            "name the internal one: endpoint=oss-REGION-internal.aliyuncs.com".to_owned(),
        ),
        "PermanentRedirect"
        | "TemporaryRedirect"
        | "AuthorizationHeaderMalformed"
        | "IllegalLocationConstraintException" => (
            format!("bucket {bucket} is in another region"),
            match region {
                Some(region) => format!("add region={region} to the address"),
                None => "add region=… to the address".to_owned(),
            },
        ),
        _ => return (None, None),
    };
    (Some(sentence), Some(hint))
}

/// A refusal that stands, after all attempts.
#[derive(Debug)]
pub(super) struct Refused {
    pub refusal: Refusal,
    /// Some attempt may have done what was asked.
    pub doubt: bool,
    pub attempts: u32,
}

impl Refused {
    /// The name is taken, and what took it may have been this very request. What we saw there before we asked is not.
    pub fn may_be_ours(&self) -> bool {
        self.refusal.is_taken() && (self.doubt || !matches!(self.refusal, Refusal::Taken))
    }

    /// For the caller of the storage layer.
    pub fn at(self, client: &Client, action: impl Into<String>) -> StorageError {
        let fault = self.refusal.fault();
        self.with_fault(client, action, fault)
    }

    /// For a call that changes something: while there is doubt, its failure says nothing of the object.
    pub fn of_change(self, client: &Client, action: impl Into<String>) -> StorageError {
        let fault = if self.doubt { Fault::Unavailable } else { self.refusal.fault() };
        self.with_fault(client, action, fault)
    }

    fn with_fault(self, client: &Client, action: impl Into<String>, fault: Fault) -> StorageError {
        let attempts = self.attempts;
        let error = self.refusal.into_error(client);
        let source = match attempts {
            0 | 1 => error,
            _ => Error::new(error.kind, format!("after {attempts} attempts")).because(error),
        };
        StorageError { fault, action: action.into(), address: client.address.to_string(), source: source.into() }
    }
}

/// What the SDK says of a failed attempt.
pub(super) fn refusal<E>(error: SdkError<E, HttpResponse>) -> Refusal
where
    E: ProvideErrorMetadata + StdError + Send + Sync + 'static,
{
    match error {
        SdkError::ServiceError(context) => {
            let (raw, error) = (context.raw(), context.err());
            let region = raw.headers().get("x-amz-bucket-region").map(str::to_owned);
            // The answer to a HEAD has no body, so it has no code.
            Refusal::Answered {
                status: raw.status().as_u16(),
                code: error.code().unwrap_or_default().to_owned(),
                message: error.message().unwrap_or_default().to_owned(),
                region,
            }
        }
        SdkError::ConstructionFailure(context) => {
            Refusal::Unsent(innermost(&SdkError::<E, HttpResponse>::ConstructionFailure(context)))
        }
        SdkError::DispatchFailure(context) => {
            let Some(error) = context.as_connector_error() else {
                return Refusal::Lost("the request was not sent".to_owned());
            };
            let told = innermost(error);
            // The only limit of time that the SDK was given is that for connecting.
            if error.is_timeout() {
                Refusal::Unconnected("no connection within the time limit".to_owned())
            } else if chain(error).any(|cause| cause.to_string().contains("(Connect)")) {
                Refusal::Unconnected(told)
            } else if error.is_user() {
                Refusal::Unsent(told)
            } else {
                Refusal::Lost(told)
            }
        }
        SdkError::ResponseError(context) => {
            let status = context.raw().status().as_u16();
            let told = innermost(&SdkError::<E, HttpResponse>::ResponseError(context));
            // An answer that is no XML at all, such as that of a proxy: its status still says something.
            match status {
                400..=599 => Refusal::Answered { status, code: String::new(), message: told, region: None },
                _ => Refusal::Lost(told),
            }
        }
        other => Refusal::Lost(innermost(&other)),
    }
}

/// An error and its causes. Those inside an I/O error are causes, too, which `source` passes over.
fn chain<'a>(error: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&error| match error.downcast_ref::<std::io::Error>() {
        Some(error) => error.get_ref().map(|inner| inner as &(dyn StdError + 'static)),
        None => error.source(),
    })
}

/// The words of the innermost cause that has some.
pub(super) fn innermost(error: &(dyn StdError + 'static)) -> String {
    let words: Vec<String> = chain(error).map(ToString::to_string).filter(|words| !words.is_empty()).collect();
    words.last().cloned().unwrap_or_else(|| "no reason was given".to_owned())
}
