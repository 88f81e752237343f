//! Names of objects.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The name of an object: components joined by `/`, none of them empty, `.` or `..`, no NUL or control character, at
/// most 1,024 bytes (the limit of S3) with at most 255 in one component (the limit of Linux file systems). No component
/// begins with `.pgkeep-unfinished-`: a backend may keep what is being written under such names, beside the objects.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// How the names of unfinished writes begin. No key looks like this, so none is ever taken for an object.
pub(super) const UNFINISHED: &str = ".pgkeep-unfinished-";

#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an object name")]
pub struct InvalidKey(String);

impl Key {
    pub fn new(name: impl Into<String>) -> Result<Self, InvalidKey> {
        let name = name.into();
        let component_ok = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && part.len() <= 255 && !part.starts_with(UNFINISHED)
        };
        if name.len() <= 1024 && name.split('/').all(component_ok) && !name.chars().any(char::is_control) {
            Ok(Self(name))
        } else {
            Err(InvalidKey(name))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or(&self.0)
    }

    /// Everything before the last component, without the `/`; empty for an object at the top.
    pub fn folder(&self) -> &str {
        self.0.rsplit_once('/').map_or("", |(folder, _)| folder)
    }
}

impl TryFrom<String> for Key {
    type Error = InvalidKey;

    fn try_from(name: String) -> Result<Self, InvalidKey> {
        Self::new(name)
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Where a listing starts: nothing (the whole repository) or whole components, which end in `/` when written.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Prefix(String);

impl Prefix {
    pub fn root() -> Self {
        Self::default()
    }

    /// Everything below `folder`, which follows the rules of a [`Key`].
    pub fn folder(folder: impl Into<String>) -> Result<Self, InvalidKey> {
        Key::new(folder).map(|key| Self(key.0 + "/"))
    }

    /// Empty, or ends in `/`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn contains(&self, key: &Key) -> bool {
        key.0.starts_with(&self.0)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_cannot_leave_its_repository() {
        for bad in [
            "",
            "/",
            "/a",
            "a/",
            "a//b",
            ".",
            "..",
            "a/../b",
            "a/./b",
            "a\0b",
            "a\nb",
            &"x".repeat(256),
            "a/.pgkeep-unfinished-1",
        ] {
            assert!(Key::new(bad).is_err(), "{bad:?}");
        }
        for good in ["a", "a/b", ".a", "..a/b..", "-rf", "we%20ird", "你好"] {
            assert_eq!(Key::new(good).unwrap().as_str(), good);
        }
        let nested = Key::new("a/b/c").unwrap();
        assert_eq!((nested.folder(), nested.file_name()), ("a/b", "c"));
        assert_eq!(Key::new("c").unwrap().folder(), "");
    }

    #[test]
    fn a_prefix_covers_whole_components() {
        let prefix = Prefix::folder("main/dumps").unwrap();
        assert!(prefix.contains(&Key::new("main/dumps/x").unwrap()));
        assert!(!prefix.contains(&Key::new("main/dumps2/x").unwrap()));
        assert!(Prefix::root().contains(&Key::new("x").unwrap()));
    }
}
