//! Which choice of a database a dump holds, without the names that were chosen.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::name::{InvalidName, is_lower_hex, text_name};
use crate::digest::Sha256;

/// The first 8 hex digits of a digest of what was chosen.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FilterDigest(String);

impl FilterDigest {
    /// Of the options that make the choice, in an order of their own.
    pub fn of<'a>(words: impl IntoIterator<Item = &'a str>) -> Self {
        let mut joined = String::new();
        words.into_iter().for_each(|word| joined += &format!("{}:{word}", word.len()));
        Self(Sha256::of(joined.as_bytes()).to_string()[..8].to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for FilterDigest {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        if text.len() == 8 && text.bytes().all(is_lower_hex) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidName::new(text, "the digest of a filter (8 hex digits)"))
    }
}

text_name!(FilterDigest);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_choice_has_a_digest_of_its_own() {
        let digest = FilterDigest::of(["--schema=a", "--schema=b"]);
        assert_eq!(digest.as_str().parse::<FilterDigest>().unwrap(), digest);
        assert_ne!(digest, FilterDigest::of(["--schema=a--schema=b"]));
        assert_ne!(digest, FilterDigest::of(["--schema=a"]));
        for bad in ["", "0123456", "0123456G", "012345678"] {
            assert!(bad.parse::<FilterDigest>().is_err(), "{bad}");
        }
    }
}
