//! Tables, keys and values of the file, with the line that an error names.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use crate::config::duration;
use crate::config::spelling::nearest;
use crate::error::{Error, Result};

pub type Key<'t> = Spanned<std::borrow::Cow<'t, str>>;
pub type Node<'t> = Spanned<DeValue<'t>>;

/// Knows the file, for messages.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    pub path: &'a Path,
    pub text: &'a str,
}

/// The keys of a table: those that are understood, and those that a later version will understand.
pub struct Keys {
    pub known: &'static [&'static str],
    pub later: &'static [&'static str],
}

impl Reader<'_> {
    /// `line 3 of /etc/pgkeep/pgkeep.toml`.
    pub fn place(&self, span: Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        format!("line {} of {}", before.matches('\n').count() + 1, self.path.display())
    }

    pub fn unparsed(&self, error: &toml::de::Error) -> Error {
        let place = error.span().map_or_else(|| self.path.display().to_string(), |span| self.place(span));
        // The message of the parser says what it expected and does not repeat the file.
        Error::usage(format!("read {place}")).because(error.message().to_owned())
    }

    /// `what` is wrong with a value: "check on line 3 of … is not …".
    pub fn wrong(&self, key: &str, value: &Node<'_>, what: &str) -> Error {
        Error::usage(format!("{key} on {} {what}", self.place(value.span())))
    }

    /// `what` is wrong with a table: "[repository.a] on line 3 of … has …".
    pub fn wrong_table(&self, kind: &str, key: &Key<'_>, what: &str) -> Error {
        Error::usage(format!("[{kind}.{}] on {} {what}", key.get_ref(), self.place(key.span())))
    }

    pub fn expect_known(&self, key: &Key<'_>, keys: &Keys, what: &str) -> Result<()> {
        let name = key.get_ref().as_ref();
        let Keys { known, later } = keys;
        if known.contains(&name) {
            return Ok(());
        }
        let place = self.place(key.span());
        if later.contains(&name) {
            return Err(Error::usage(format!("{name} on {place} is not supported by this version"))
                .hint(format!("leave it out; known are {}", known.join(", "))));
        }
        let hint = match nearest(name, known.iter().chain(*later).copied()) {
            Some(near) if known.contains(&near) => format!("did you mean {near}?"),
            Some(near) => format!("did you mean {near}? It is not supported by this version"),
            None => format!("known are {}", known.join(", ")),
        };
        Err(Error::usage(format!("{name:?} on {place} is not {what}")).hint(hint))
    }

    pub fn table<'v, 't>(&self, key: &str, value: &'v Node<'t>, hint: &str) -> Result<&'v DeTable<'t>> {
        value.get_ref().as_table().ok_or_else(|| self.wrong(key, value, "is not a table").hint(hint))
    }

    pub fn text(&self, key: &str, value: &Node<'_>) -> Result<String> {
        match value.get_ref().as_str() {
            Some(text) if !text.is_empty() && !text.contains(char::is_control) => Ok(text.to_owned()),
            Some(_) => Err(self.wrong(key, value, "is empty or has control characters in it")),
            None => Err(self.wrong(key, value, "is not text").hint(format!("write {key} = \"…\""))),
        }
    }

    pub fn path(&self, key: &str, value: &Node<'_>) -> Result<PathBuf> {
        let path = PathBuf::from(self.text(key, value)?);
        if path.is_absolute() { Ok(path) } else { Err(self.wrong(key, value, "is not an absolute path")) }
    }

    /// A program and its arguments.
    pub fn command(&self, key: &str, value: &Node<'_>, example: &str) -> Result<Vec<String>> {
        let wrong =
            |what: &str| self.wrong(key, value, what).hint(format!("write {key} = [{example}]: no shell reads it"));
        let words = strings(value).ok_or_else(|| wrong("is not a list of words"))?;
        match words.first() {
            Some(program) if !program.is_empty() => {}
            _ => return Err(wrong("is not a list of words")),
        }
        if words.iter().any(|word| word.contains('\0')) { Err(wrong("has a NUL in it")) } else { Ok(words) }
    }

    /// Names, each once.
    pub fn names(&self, key: &str, value: &Node<'_>, example: &str) -> Result<Vec<String>> {
        let hint = format!("write {key} = [{example}]");
        let names = strings(value).filter(|names| !names.is_empty() && names.iter().all(|name| !name.is_empty()));
        let names = names.ok_or_else(|| self.wrong(key, value, "is not a list of names").hint(hint))?;
        match names.iter().enumerate().find(|(at, name)| names[..*at].contains(name)) {
            Some((_, twice)) => Err(self.wrong(key, value, &format!("names {twice:?} twice")).hint("name it once")),
            None => Ok(names),
        }
    }

    pub fn count(&self, key: &str, value: &Node<'_>) -> Result<u32> {
        let number = value.get_ref().as_integer().filter(|number| number.radix() == 10);
        number
            .and_then(|number| number.as_str().parse().ok())
            .ok_or_else(|| self.wrong(key, value, "is not a whole number").hint(format!("write {key} = 7")))
    }

    pub fn duration(&self, key: &str, value: &Node<'_>) -> Result<Duration> {
        let length = value.get_ref().as_str().and_then(duration::parse).filter(|length| !length.is_zero());
        length.ok_or_else(|| {
            let hint = format!("write {key} = \"7d\", with s, m, h, d or w behind the number");
            self.wrong(key, value, "is not a length of time").hint(hint)
        })
    }
}

fn strings(value: &Node<'_>) -> Option<Vec<String>> {
    value.get_ref().as_array()?.iter().map(|word| word.get_ref().as_str().map(str::to_owned)).collect()
}
