//! Password files: `host:port:database:user:password`, one per line.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::config::secret::Secret;
use crate::error::{Error, Result};

/// Who asks for a password. `host` is the word `localhost` for the default socket directory.
pub(super) struct Asker<'a> {
    pub host: &'a str,
    pub port: &'a str,
    pub database: &'a str,
    pub user: &'a str,
}

/// The text of a password file that may be used, and the warning why one may not. A missing file is neither.
pub(super) fn read(path: &Path) -> (Option<Vec<u8>>, Option<String>) {
    let Ok(metadata) = std::fs::metadata(path) else { return (None, None) };
    if !metadata.is_file() {
        return (None, Some(format!("password file {path:?} is not a plain file and is ignored")));
    }
    if metadata.mode() & 0o077 != 0 {
        let warning = format!(
            "password file {path:?} is ignored: group or others may access it (mode {:04o}); run chmod 0600 {path:?}",
            metadata.mode() & 0o7777
        );
        return (None, Some(warning));
    }
    match std::fs::read(path) {
        Ok(text) => (Some(text), None),
        Err(e) => (None, Some(format!("password file {path:?} is ignored: {e}"))),
    }
}

/// The password of the first line that matches. It may be empty, which hides later lines.
pub(super) fn find(text: &[u8], asker: &Asker<'_>) -> Option<Secret> {
    // A file in another encoding may hold lines that are not ours: they are passed over, not an error.
    text.split(|byte| *byte == b'\n').filter_map(|line| std::str::from_utf8(line).ok()).find_map(|line| {
        let line = line.trim_end_matches('\r');
        if line.starts_with('#') {
            return None;
        }
        let mut rest = line;
        for wanted in [asker.host, asker.port, asker.database, asker.user] {
            rest = take_field(rest, wanted)?;
        }
        Some(Secret::new(unescape(rest)))
    })
}

/// What follows the field, if the field is `*` or spells `wanted`.
fn take_field<'a>(line: &'a str, wanted: &str) -> Option<&'a str> {
    if let Some(rest) = line.strip_prefix("*:") {
        return Some(rest);
    }
    let mut wanted = wanted.chars();
    let mut characters = line.char_indices();
    while let Some((at, character)) = characters.next() {
        let spelled = match character {
            ':' => return wanted.next().is_none().then(|| &line[at + 1..]),
            '\\' => characters.next()?.1,
            other => other,
        };
        if wanted.next() != Some(spelled) {
            return None;
        }
    }
    None
}

/// A password ends at an unescaped colon; what follows is a comment to libpq.
fn unescape(field: &str) -> String {
    let mut text = String::new();
    let mut characters = field.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ':' => break,
            '\\' if characters.peek().is_some() => text.extend(characters.next()),
            other => text.push(other),
        }
    }
    text
}

fn escape(field: &str) -> String {
    field.replace('\\', "\\\\").replace(':', "\\:")
}

/// A line that gives `password` for every database of this host, port and user.
///
/// Fails for a value with a line break, which the format cannot hold.
pub(in crate::pg) fn line(host: &str, port: u16, user: &str, password: &Secret) -> Result<String> {
    for (what, value) in [("host", host), ("user", user), ("password", password.expose())] {
        if value.contains(['\n', '\r']) {
            return Err(Error::usage(format!("a {what} with a line break cannot be handed to PostgreSQL's tools"))
                .hint("change it, or use peer or certificate authentication"));
        }
    }
    Ok(format!("{}:{port}:*:{}:{}\n", escape(host), escape(user), escape(password.expose())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    fn ask(text: &str, host: &str, user: &str) -> Option<String> {
        let asker = Asker { host, port: "5432", database: "d", user };
        find(text.as_bytes(), &asker).map(|secret| secret.expose().to_owned())
    }

    #[test]
    fn the_first_matching_line_wins() {
        let text = "#*:*:*:*:comment\n\nh:1:*:*:port\r\nh:*:d:u\\:x:a\\:b\\\\c\r\n*:*:*:*:rest:ignored\n";
        assert_eq!(ask(text, "h", "u:x").unwrap(), r"a:b\c");
        assert_eq!(ask(text, "h", "other").unwrap(), "rest");
        assert_eq!(ask("h:5432:d:u:", "h", "u").unwrap(), "");
        for none in ["", "h", "h:5432:d:uu:p", "h:5432:d:*", "hh:5432:d:u:p", "h:54321:d:u:p", "\\"] {
            assert_eq!(ask(none, "h", "u"), None, "{none:?}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_ignored_with_a_warning() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (mode, usable) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false), (0o620, false)] {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            let (text, warning) = read(file.path());
            assert_eq!((text.is_some(), warning.is_none()), (usable, usable), "{mode:o}");
        }
        assert!(read(Path::new("/dev/null")).1.is_some());
        assert_eq!(read(Path::new("/nonexistent/pgpass")), (None, None));
    }

    proptest! {
        #[test]
        fn a_written_line_is_read_back(host in "[^\r\n\0#][^\r\n\0]*", user in "[^\r\n\0]+", password in "[^\r\n\0]*") {
            let text = line(&host, 5432, &user, &Secret::new(password.as_str())).unwrap();
            prop_assert_eq!(ask(&text, &host, &user), Some(password));
        }
    }

    #[test]
    fn a_line_break_is_refused() {
        assert!(line("h", 1, "u", &Secret::new("a\nb")).is_err());
    }
}
