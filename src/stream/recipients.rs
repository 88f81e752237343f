//! To whom is encrypted: public keys, which are no secrets.

use std::fmt;

use age::ssh::ParseRecipientKeyError;

use crate::error::{Error, Result};

/// Public keys: X25519 keys of age (`age1…`) and SSH keys (`ssh-ed25519 …`, `ssh-rsa …`). Never empty. Each key of them
/// opens everything.
#[derive(Clone)]
pub struct Recipients(Vec<Recipient>);

#[derive(Clone)]
struct Recipient {
    /// Without the comment that an SSH key ends in: it names its owner.
    text: String,
    key: Key,
}

#[derive(Clone)]
enum Key {
    X25519(age::x25519::Recipient),
    Ssh(Box<age::ssh::Recipient>),
}

const KINDS: &str = "write a public key of age (age1…), or of SSH: ssh-ed25519 … or ssh-rsa …";

impl Recipients {
    /// Of keys as they are typed, one each.
    pub fn parse<T: AsRef<str>>(typed: impl IntoIterator<Item = T>) -> Result<Self> {
        let mut found = typed.into_iter().map(|text| Recipient::parse(text.as_ref())).collect::<Result<Vec<_>>>()?;
        // In an order of their own: the same keys are the same recipients.
        found.sort_by(|a, b| a.text.cmp(&b.text));
        found.dedup_by(|a, b| a.text == b.text);
        if found.is_empty() { Err(Error::usage("no recipient is named").hint(KINDS)) } else { Ok(Self(found)) }
    }

    /// The keys of a file: one on each line, but for empty lines and those that begin with `#`.
    pub fn lines(text: &str) -> impl Iterator<Item = &str> {
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'))
    }

    pub fn texts(&self) -> Vec<String> {
        self.0.iter().map(|recipient| recipient.text.clone()).collect()
    }

    pub(super) fn encryptor(&self) -> Result<age::Encryptor> {
        let keys = self.0.iter().map(|recipient| match &recipient.key {
            Key::X25519(key) => key as &dyn age::Recipient,
            Key::Ssh(key) => &**key as &dyn age::Recipient,
        });
        age::Encryptor::with_recipients(keys).map_err(|error| Error::usage("encrypt").because(error.to_string()))
    }
}

impl PartialEq for Recipients {
    fn eq(&self, other: &Self) -> bool {
        self.texts() == other.texts()
    }
}

impl Eq for Recipients {}

impl fmt::Debug for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|recipient| &recipient.text)).finish()
    }
}

/// `age1…, ssh-ed25519 …`.
impl fmt::Display for Recipients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.texts().join(", "))
    }
}

impl Recipient {
    fn parse(typed: &str) -> Result<Self> {
        let typed = typed.trim();
        if typed.starts_with("age1") { Self::age(typed) } else { Self::ssh(typed) }
    }

    fn age(typed: &str) -> Result<Self> {
        // What stands before the last 1 of a bech32 word is its type.
        let kind = typed.rsplit_once('1').map_or("age", |(kind, _)| kind);
        if kind != "age" && kind.starts_with("age1") {
            return Err(Error::usage(format!("recipient {typed:?} is of the plugin or type {:?}", &kind[4..]))
                .because("pgkeep runs no plugins of age")
                .hint(KINDS));
        }
        let key = typed.parse().map_err(|why: &str| unreadable(typed, why))?;
        Ok(Self { text: typed.to_owned(), key: Key::X25519(key) })
    }

    fn ssh(typed: &str) -> Result<Self> {
        let words: Vec<&str> = typed.split_whitespace().take(2).collect();
        let text = words.join(" ");
        let key = text.parse().map_err(|why| match why {
            _ if typed.starts_with("AGE-SECRET-KEY-") => {
                // Never repeated: it is the secret half.
                Error::usage("a recipient is a secret key").hint("the public key is told by age-keygen -y FILE")
            }
            ParseRecipientKeyError::RsaModulusTooLarge => unreadable(&text, "its RSA key has more than 4096 bits"),
            ParseRecipientKeyError::RsaModulusTooSmall => unreadable(&text, "its RSA key has less than 2048 bits"),
            ParseRecipientKeyError::Unsupported(kind) => unreadable(&text, &format!("{kind} cannot encrypt")),
            _ => unreadable(&text, "it is no public key"),
        })?;
        Ok(Self { text, key: Key::Ssh(Box::new(key)) })
    }
}

fn unreadable(typed: &str, why: &str) -> Error {
    Error::usage(format!("read recipient {typed:?}")).because(why.to_owned()).hint(KINDS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    const ED25519: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHsKLqeplhpW+uObz5dvMgjz1OxfM/XXUB+VHtZ6isGN";

    fn age() -> String {
        age::x25519::Identity::generate().to_public().to_string()
    }

    #[test]
    fn the_same_keys_are_the_same_recipients() {
        let key = age();
        let one = Recipients::parse([format!("{ED25519} alice@rust"), key.clone()]).unwrap();
        let two = Recipients::parse([key.as_str(), ED25519, &key]).unwrap();
        assert_eq!(one, two);
        assert_eq!(one.texts(), [key, ED25519.to_owned()]);
        assert_ne!(one, Recipients::parse([age()]).unwrap());
    }

    #[test]
    fn a_file_has_one_key_on_each_line() {
        let lines: Vec<&str> = Recipients::lines("# ours\n\n age1a \nssh-rsa b c\n").collect();
        assert_eq!(lines, ["age1a", "ssh-rsa b c"]);
    }

    #[test]
    fn what_is_no_public_key_is_named_and_a_secret_one_is_not_repeated() {
        let told = |typed: &str| {
            let error = Recipients::parse([typed]).unwrap_err();
            assert_eq!(error.kind, Kind::Usage);
            error.to_string()
        };
        assert!(told("age1yubikey1qwe").contains("is of the plugin or type \"yubikey\""));
        assert!(told("age1pq1qwe").contains("\"pq\""));
        assert!(told("age1nonsense").starts_with("read recipient \"age1nonsense\""));
        assert!(told("ssh-dss AAAA").starts_with("read recipient"));
        assert!(told("").contains("no public key"));
        assert!(!told("AGE-SECRET-KEY-1QQQQQQQQQQ").contains("QQQQ"));
        assert!(Recipients::parse([] as [&str; 0]).is_err());
    }
}
