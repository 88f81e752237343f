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

    /// `text` without the secret in it, for what others have written. A secret of three letters and less stays: it would
    /// take half of the text along, and show by the holes where it was.
    pub fn blot_out(&self, text: &str) -> String {
        if self.0.len() < 4 { text.to_owned() } else { text.replace(&self.0, REDACTED) }
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

    #[test]
    fn a_secret_is_blotted_out_of_what_others_say() {
        assert_eq!(Secret::new("p4ss").blot_out("is p4ssp4ss wrong?"), "is **redacted****redacted** wrong?");
        for short in ["", "n", "oth"] {
            assert_eq!(Secret::new(short).blot_out("nothing"), "nothing");
        }
    }
}
