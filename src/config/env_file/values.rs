//! The values of an env file under those of the environment, each with the place it comes from.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::assignments::{Assignment, assignments};
use crate::config::environment::Environment;
use crate::config::spelling::nearest;
use crate::error::{Error, Result};

pub(super) struct Values<'a> {
    path: &'a Path,
    process: &'a Environment,
    file: BTreeMap<String, Assignment>,
}

/// A value that is not empty.
#[derive(Clone, Copy)]
pub(super) struct Value<'a> {
    pub text: &'a str,
    place: Place<'a>,
}

/// Where a variable is set; prints as the end of "NAME is set …".
#[derive(Clone, Copy)]
struct Place<'a> {
    key: &'a str,
    /// None: in the environment.
    line: Option<(usize, &'a Path)>,
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            Some((line, path)) => write!(f, "{} on line {line} of {}", self.key, path.display()),
            None => write!(f, "{} of the environment", self.key),
        }
    }
}

impl Value<'_> {
    /// `what` goes on after the name and the place: "is not …". The value is not repeated.
    pub fn wrong(&self, what: &str) -> Error {
        Error::usage(format!("{} {what}", self.place))
    }
}

impl<'a> Values<'a> {
    pub fn parse(path: &'a Path, text: &str, process: &'a Environment) -> Result<Self> {
        let read = assignments(text, process).map_err(|objection| {
            let action = format!("line {} of {} {}", objection.line, path.display(), objection.what);
            Error::usage(action).hint(objection.instead)
        })?;
        // The last assignment counts.
        let file = read.into_iter().map(|assignment| (assignment.name.clone(), assignment)).collect();
        Ok(Self { path, process, file })
    }

    /// An error for the first variable of the file that begins with one of `prefixes` and is none of `known`.
    pub fn refuse_unknown(&self, known: &[&str], prefixes: &[&str], passes: &str) -> Result<()> {
        let is_ours = |name: &str| prefixes.iter().any(|prefix| name.starts_with(prefix)) && !name.starts_with(passes);
        let unknown = self.file.values().filter(|set| is_ours(&set.name) && !known.contains(&set.name.as_str()));
        let Some(unknown) = unknown.min_by_key(|set| set.line) else { return Ok(()) };
        let place = Place { key: &unknown.name, line: Some((unknown.line, self.path)) };
        let error = Error::usage(format!("{place} is not a setting"));
        Err(match nearest(&unknown.name, known.iter().copied()) {
            Some(nearest) => error.hint(format!("did you mean {nearest}?")),
            None => error.hint("see examples/legacy.env for every setting; remove this one"),
        })
    }

    /// The value in force: that of the environment, else that of the file.
    pub fn get<'v>(&'v self, key: &'v str) -> Result<Option<Value<'v>>> {
        if self.process.is_garbled(key) {
            return Err(Error::usage(format!("{key} of the environment is not UTF-8")));
        }
        if let Some(text) = self.process.get(key).filter(|text| !text.is_empty()) {
            return Ok(Some(Value { text, place: Place { key, line: None } }));
        }
        let set = self.file.get(key).filter(|set| !set.value.is_empty());
        Ok(set.map(|set| Value { text: &set.value, place: Place { key, line: Some((set.line, self.path)) } }))
    }

    /// An error that names all of `keys` that have no value; `why` goes on after them.
    pub fn require(&self, keys: &[&str], why: &str) -> Result<()> {
        let mut missing = Vec::new();
        for key in keys {
            if self.get(key)?.is_none() {
                missing.push(*key);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let error = Error::usage(format!("{} does not set {}{why}", self.path.display(), missing.join(", ")));
        let line = format!("add a line such as {}=…", missing[0]);
        Err(if why.is_empty() { error.hint(line) } else { error.hint(line + ", or set BACKUP_MODE=local") })
    }

    pub fn text(&self, key: &str, default: &str) -> Result<String> {
        self.checked(key, default, "free of control characters", |text| !text.contains(char::is_control))
    }

    /// `expected` goes on after "is not".
    pub fn checked(
        &self,
        key: &str,
        default: &str,
        expected: &str,
        is_right: impl FnOnce(&str) -> bool,
    ) -> Result<String> {
        match self.get(key)? {
            None => Ok(default.to_owned()),
            Some(value) if is_right(value.text) => Ok(value.text.to_owned()),
            Some(value) => Err(value.wrong(&format!("is not {expected}"))),
        }
    }

    pub fn number(&self, key: &str, default: u32, allowed: RangeInclusive<u32>) -> Result<u32> {
        let Some(value) = self.get(key)? else { return Ok(default) };
        let number = value.text.bytes().all(|b| b.is_ascii_digit()).then(|| value.text.parse().ok()).flatten();
        number
            .filter(|number| allowed.contains(number))
            .ok_or_else(|| value.wrong(&format!("is not a whole number from {} to {}", allowed.start(), allowed.end())))
    }

    pub fn one_of<T: Copy>(&self, key: &str, default: T, all: &[T], word: impl Fn(T) -> &'static str) -> Result<T> {
        let Some(value) = self.get(key)? else { return Ok(default) };
        let found = all.iter().copied().find(|one| word(*one) == value.text);
        found.ok_or_else(|| {
            let words: Vec<&str> = all.iter().copied().map(&word).collect();
            let (last, first) = words.split_last().map_or(("", &words[..]), |(last, first)| (*last, first));
            value.wrong(&format!("is not {} or {last}", first.join(", ")))
        })
    }

    /// An absolute path: a relative one would depend on the directory in which a timer starts.
    pub fn directory(&self, key: &str, default: &str) -> Result<PathBuf> {
        let is_path = |text: &str| text.starts_with('/') && !text.contains(char::is_control);
        self.checked(key, default, "an absolute path", is_path).map(|path| PathBuf::from(path).components().collect())
    }

    /// The environment of the process and, where that has nothing, the variables of the file.
    pub fn environment(&self) -> Environment {
        let pairs =
            self.file.values().filter(|set| self.process.get_os(&set.name).is_none_or(|value| value.is_empty()));
        let pairs = pairs.map(|set| (OsString::from(&set.name), OsString::from(&set.value)));
        self.process.clone().completed(pairs)
    }
}
