//! Small JSON objects: versioned, bounded, tolerant of keys that a newer version adds.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;
use crate::error::{Doing, Error, Kind, Result};
use crate::storage::{Key, ObjectMeta, Storage};

/// The version of everything written. A version is raised when a reader that ignores what it does not know would err.
pub const FORMAT: u32 = 1;

/// No small object is larger; what is, is damage or an attack.
pub(super) const LIMIT_BYTES: u64 = 4 << 20;

#[derive(Deserialize)]
struct Versioned {
    format: u32,
}

pub(super) fn to_json<T: Serialize>(document: &T) -> Result<Bytes> {
    let mut text = serde_json::to_vec_pretty(document).doing(Kind::Unexpected, || "write JSON")?;
    text.push(b'\n');
    Ok(text.into())
}

/// Between a sealed document and its seal. JSON text of ours has it nowhere else: a newline in a string is escaped.
const SEAL: &str = ",\n  \"seal\": \"";
const AFTER_SEAL: &str = "\"\n}\n";

/// As [`to_json`], with a last key `seal`: the SHA-256 of everything before the comma of its own line. What has no
/// digest elsewhere carries its own, so that one flipped bit in a time or a host name is seen, too.
pub(super) fn to_sealed_json<T: Serialize>(document: &T) -> Result<Bytes> {
    let mut text = to_json(document)?.to_vec();
    let end = text.len().saturating_sub("\n}\n".len());
    text.truncate(end);
    let seal = Sha256::of(&text);
    text.extend_from_slice(format!("{SEAL}{seal}{AFTER_SEAL}").as_bytes());
    Ok(text.into())
}

/// As [`from_json`], for what [`to_sealed_json`] wrote.
pub(super) fn from_sealed_json<T: DeserializeOwned>(body: &[u8], name: &str) -> Result<T> {
    let changed = |why: &str| {
        Error::new(Kind::Verification, format!("read {name}"))
            .because(why)
            .hint("the object was changed after it was written; use another backup")
    };
    let text = std::str::from_utf8(body).map_err(|_| changed("it is not UTF-8"))?;
    let sealed = text.rsplit_once(SEAL).and_then(|(head, tail)| Some((head, tail.strip_suffix(AFTER_SEAL)?)));
    match sealed {
        Some((head, seal)) if Sha256::of(head.as_bytes()).to_string() == seal => from_json(body, name),
        Some(_) => Err(changed("its seal is not that of its content")),
        // The format of a newer version may be sealed in another way: that is not damage.
        None => from_json::<serde_json::Value>(body, name).and(Err(changed("it has no seal"))),
    }
}

/// `name` says what is being read, for the error: a key or a path.
///
/// A newer format is [`Kind::Usage`]; anything else that does not parse is [`Kind::Verification`].
pub(super) fn from_json<T: DeserializeOwned>(body: &[u8], name: &str) -> Result<T> {
    let reading = || format!("read {name}");
    let version: Versioned = serde_json::from_slice(body).doing(Kind::Verification, reading)?;
    if version.format > FORMAT {
        let action = format!("{name} has format {}, this pgkeep reads up to {FORMAT}", version.format);
        return Err(Error::usage(action).hint("use a newer pgkeep"));
    }
    serde_json::from_slice(body).doing(Kind::Verification, reading)
}

pub(super) async fn read<T: DeserializeOwned>(storage: &dyn Storage, key: &Key) -> Result<T> {
    let body = storage.get(key, LIMIT_BYTES).await?;
    from_json(&body, key.as_str())
}

/// As [`read`], but `None` where the store answered that there is no such object.
pub(super) async fn read_if_there<T: DeserializeOwned>(storage: &dyn Storage, key: &Key) -> Result<Option<T>> {
    match storage.get(key, LIMIT_BYTES).await {
        Ok(body) => from_json(&body, key.as_str()).map(Some),
        Err(error) if error.fault == crate::storage::Fault::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

pub(super) async fn head_if_there(storage: &dyn Storage, key: &Key) -> Result<Option<ObjectMeta>> {
    match storage.head(key).await {
        Ok(meta) => Ok(Some(meta)),
        Err(error) if error.fault == crate::storage::Fault::NotFound => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Small {
        word: String,
    }

    #[test]
    fn newer_is_told_from_damaged_and_unknown_keys_are_let_pass() {
        let read = |text: &str| from_json::<Small>(text.as_bytes(), "main/x.json");
        assert_eq!(read(r#"{"format":1,"word":"a","new":[1]}"#).unwrap().word, "a");
        let newer = read(r#"{"format":2}"#).unwrap_err();
        assert_eq!(newer.kind, Kind::Usage);
        assert_eq!(newer.to_string(), "main/x.json has format 2, this pgkeep reads up to 1");
        for damaged in ["", "{", r#"{"format":1}"#, r#"{"word":"a"}"#, r#"{"format":-1,"word":"a"}"#] {
            assert_eq!(read(damaged).unwrap_err().kind, Kind::Verification, "{damaged}");
        }
    }
}
