//! Passwords and keys in memory.

use std::fmt;

/// Text that no log, error or debug print may show. It leaves only through [`Secret::expose`], which is easy to find.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Do not print it, do not put it into arguments, environments or errors.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

const REDACTED: &str = "**redacted**";

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "**redacted** **redacted** Some(**redacted**)");
        assert_eq!(secret.expose(), "hunter2");
    }
}
