//! `rclone:remote:path`.

use std::fmt;

use crate::error::{Error, Result};

/// A directory of a remote that rclone's own configuration describes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteAddress {
    remote: String,
    path: String,
}

impl RemoteAddress {
    /// Reads what stands behind `rclone:`.
    pub(super) fn parse(text: &str) -> Result<Self> {
        // A remote that is made up on the spot begins with a colon itself.
        let colon = text.char_indices().skip(1).find(|(_, c)| *c == ':').map(|(at, _)| at);
        let Some(colon) = colon else {
            return Err(Error::usage("an address of rclone is rclone:REMOTE:PATH")
                .hint("REMOTE is one of those that rclone listremotes prints"));
        };
        let (remote, path) = (&text[..colon], &text[colon + 1..]);
        if remote.contains(',') {
            return Err(Error::usage("a remote of rclone is named, its settings are no part of the address")
                .hint("settings may hold passwords: make the remote with rclone config and give its name"));
        }
        let named = |c: char| c.is_alphanumeric() || "_-.+@ ".contains(c);
        if !remote.strip_prefix(':').unwrap_or(remote).chars().all(named) {
            return Err(Error::usage("this is not the name of a remote of rclone")
                .hint("give one of those that rclone listremotes prints"));
        }
        let root = if path.starts_with('/') { "/" } else { "" };
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
        if parts.is_empty() {
            return Err(Error::usage(format!("rclone:{remote}: names no directory"))
                .hint(format!("a repository is a directory of its own: rclone:{remote}:backups")));
        }
        if parts.contains(&"..") {
            return Err(Error::usage("the path of an address of rclone has no .."));
        }
        Ok(Self { remote: remote.to_owned(), path: format!("{root}{}", parts.join("/")) })
    }

    /// `remote:` and the directory above the repository's.
    pub fn parent(&self) -> String {
        let parent = match self.path.rsplit_once('/') {
            Some(("", _)) => "/",
            Some((parent, _)) => parent,
            None => "",
        };
        format!("{}:{parent}", self.remote)
    }

    /// The last component of the path.
    pub fn directory(&self) -> &str {
        self.path.rsplit_once('/').map_or(self.path.as_str(), |(_, last)| last)
    }
}

impl fmt::Display for RemoteAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rclone:{}:{}", self.remote, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_remote_path_is_split_into_its_parent_and_its_last_component() {
        for (typed, printed, parent, directory) in [
            ("far:backups", "rclone:far:backups", "far:", "backups"),
            ("far:a//b/./c/", "rclone:far:a/b/c", "far:a/b", "c"),
            ("far:/srv/pg", "rclone:far:/srv/pg", "far:/srv", "pg"),
            (":local:/pg", "rclone::local:/pg", ":local:/", "pg"),
        ] {
            let remote = RemoteAddress::parse(typed).unwrap();
            assert_eq!((remote.to_string().as_str(), remote.parent().as_str()), (printed, parent));
            assert_eq!(remote.directory(), directory);
        }
    }

    #[test]
    fn what_names_no_directory_of_a_remote_is_refused() {
        for bad in ["", "far", "far:", "far:/", "far:a/../b", ":sftp,host=x,pass=y:/z", "a/b:c"] {
            RemoteAddress::parse(bad).unwrap_err();
        }
    }
}
