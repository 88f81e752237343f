//! The words that stored names are made of: instances, moments, system identifiers, names from a server or a host.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

use crate::digest::Sha256;

/// A text that is not the name it should be.
#[derive(Debug, thiserror::Error)]
#[error("{text:?} is not {expected}")]
pub struct InvalidName {
    text: String,
    expected: &'static str,
}

impl InvalidName {
    /// Keeps the first 300 characters of `text`: it may come from anywhere.
    pub(super) fn new(text: &str, expected: &'static str) -> Self {
        Self { text: text.chars().take(300).collect(), expected }
    }
}

impl From<InvalidName> for crate::error::Error {
    fn from(error: InvalidName) -> Self {
        Self::usage(error.to_string())
    }
}

/// Derives text form, serde and formatting for a name from `FromStr` and `as_str`.
macro_rules! text_name {
    ($name:ident) => {
        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                std::fmt::Debug::fmt(self.as_str(), f)
            }
        }

        impl TryFrom<String> for $name {
            type Error = $crate::repo::InvalidName;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.as_str().to_owned()
            }
        }
    };
}
pub(super) use text_name;

/// The name of one PostgreSQL cluster in our care: `[a-z0-9][a-z0-9_-]{0,62}`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct InstanceName(String);

impl InstanceName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InstanceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let first_ok = text.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        let rest_ok = text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
        if first_ok && rest_ok && text.len() <= 63 {
            Ok(Self(text.to_owned()))
        } else {
            Err(InvalidName::new(text, "an instance name (a-z, 0-9, - and _, at most 63, first a letter or digit)"))
        }
    }
}

text_name!(InstanceName);

/// What `initdb` gave a cluster to tell it from others. Text in JSON: it does not fit a JavaScript number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SystemIdentifier(pub u64);

impl FromStr for SystemIdentifier {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let number: Option<u64> = text.parse().ok();
        // One number has one name: "007" and "+7" are others' files.
        match number {
            Some(number) if number.to_string() == text => Ok(Self(number)),
            _ => Err(InvalidName::new(text, "a system identifier")),
        }
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl TryFrom<String> for SystemIdentifier {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<SystemIdentifier> for String {
    fn from(id: SystemIdentifier) -> Self {
        id.to_string()
    }
}

/// A moment as names have it: UTC, whole seconds, `YYYYmmddTHHMMSSZ`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp(DateTime<Utc>);

impl Stamp {
    const FORMAT: &'static str = "%Y%m%dT%H%M%SZ";
    /// Bytes of the text form.
    pub const LENGTH: usize = 16;

    /// Cuts `at` to its second; a leap second is the one before it.
    pub fn of(at: DateTime<Utc>) -> Self {
        Self(DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(at))
    }

    pub fn time(self) -> DateTime<Utc> {
        self.0
    }

    pub fn next_second(self) -> Self {
        Self(self.0 + TimeDelta::seconds(1))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.format(Self::FORMAT).fmt(f)
    }
}

impl fmt::Debug for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Stamp {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let parsed = NaiveDateTime::parse_from_str(text, Self::FORMAT).map(|time| Self::of(time.and_utc()));
        // The parser of chrono is lenient (signs, spaces, second 60); a name has one form.
        match parsed {
            Ok(stamp) if text.len() == Self::LENGTH && stamp.to_string() == text => Ok(stamp),
            _ => Err(InvalidName::new(text, "a moment (YYYYmmddTHHMMSSZ)")),
        }
    }
}

/// `text` with everything that is not a letter (of any script), a digit, `.`, `-` or `_` as `%XX` of its UTF-8 bytes.
/// A `.` at the beginning does not stay: the file would be hidden, and stores keep unfinished writes under such names.
/// Over `limit` bytes it is cut and ends in `~` and the first 8 hex digits of the SHA-256 of the whole text; `~` occurs
/// nowhere else, so different texts have different encodings (as far as 32 bits tell cut ones apart).
pub(super) fn encode(text: &str, limit: usize) -> String {
    let mut encoded = String::with_capacity(text.len());
    let mut cut = 0;
    let room = limit - HASH_LENGTH;
    for c in text.chars() {
        push_encoded(&mut encoded, c);
        if encoded.len() <= room {
            cut = encoded.len();
        }
    }
    if encoded.len() > limit || encoded.is_empty() {
        encoded.truncate(cut);
        encoded.push_str(&hashed(text));
    }
    encoded
}

/// `~` and the first 8 hex digits of the SHA-256 of `text`.
pub(super) fn hashed(text: &str) -> String {
    let mut hash = Sha256::of(text.as_bytes()).to_string();
    hash.truncate(HASH_LENGTH - 1);
    format!("~{hash}")
}

/// `~` and 8 hex digits.
const HASH_LENGTH: usize = 9;

fn push_encoded(encoded: &mut String, c: char) {
    use fmt::Write as _;
    if stays(c) && !(c == '.' && encoded.is_empty()) {
        encoded.push(c);
        return;
    }
    for byte in c.encode_utf8(&mut [0; 4]).bytes() {
        let _ = write!(encoded, "%{byte:02X}");
    }
}

fn stays(c: char) -> bool {
    c.is_alphabetic() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_')
}

/// Whether `encode` can have made this. Not whether it would today: what counts as a letter grows with Unicode, and old
/// names stay valid.
pub(super) fn is_encoded(text: &str, limit: usize) -> bool {
    let body = match text.split_once('~') {
        Some((body, hash)) if hash.len() == HASH_LENGTH - 1 && hash.bytes().all(is_lower_hex) => body,
        Some(_) => return false,
        None if text.is_empty() => return false,
        None => text,
    };
    if body.starts_with('.') {
        return false;
    }
    let mut rest = body.chars();
    while let Some(c) = rest.next() {
        let ok = match c {
            '%' => rest.next().is_some_and(is_upper_hex) && rest.next().is_some_and(is_upper_hex),
            c => stays(c),
        };
        if !ok {
            return false;
        }
    }
    text.len() <= limit
}

fn is_upper_hex(c: char) -> bool {
    c.is_ascii_digit() || ('A'..='F').contains(&c)
}

pub(super) fn is_lower_hex(b: u8) -> bool {
    b.is_ascii_digit() || (b'a'..=b'f').contains(&b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_names_are_plain() {
        for good in ["main", "0", "a_b-c", &"x".repeat(63)] {
            assert_eq!(good.parse::<InstanceName>().unwrap().as_str(), good);
        }
        for bad in ["", "_a", "-a", "A", "a.b", "a/b", "..", "ä", "a b", &"x".repeat(64)] {
            assert!(bad.parse::<InstanceName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn one_moment_has_one_name() {
        let stamp: Stamp = "20250131T020304Z".parse().unwrap();
        assert_eq!(stamp.to_string(), "20250131T020304Z");
        for bad in ["20250131T020304", "20250131T020360Z", "20251331T020304Z", "+2025131T020304Z", "2025131T0203 04Z"] {
            assert!(bad.parse::<Stamp>().is_err(), "{bad:?}");
        }
        assert!("007".parse::<SystemIdentifier>().is_err());
        assert!("+7".parse::<SystemIdentifier>().is_err());
        assert_eq!(u64::MAX.to_string().parse::<SystemIdentifier>().unwrap(), SystemIdentifier(u64::MAX));
    }

    #[test]
    fn encoding_keeps_letters_and_is_cut_between_characters() {
        assert_eq!(encode("shop_2.0-β你好", 100), "shop_2.0-β你好");
        assert_eq!(encode("we ird/..;$(x)\"'=\n", 100), "we%20ird%2F..%3B%24%28x%29%22%27%3D%0A");
        assert_eq!(encode("a%2Fb~", 100), "a%252Fb%7E");
        assert_eq!(encode("", 100), "~e3b0c442");
        assert_eq!(encode(".a.", 100), "%2Ea.");
        let long = encode(&"你".repeat(40), 100);
        assert_eq!(long.len(), 30 * 3 + 9);
        let spaces = encode(&" ".repeat(63), 100);
        assert!(spaces.starts_with("%20") && spaces[..90].ends_with("%20"), "{spaces}");
        assert!(is_encoded(&long, 100) && is_encoded(&spaces, 100));
        for not in ["", ".a", "a b", "%2f", "%2", "a~", "a~0123456", "a~01234567x", "a~0123456G", &"x".repeat(101)] {
            assert!(!is_encoded(not, 100), "{not:?}");
        }
    }
}
