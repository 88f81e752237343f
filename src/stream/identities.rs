//! What opens encrypted bytes: secret keys, as `age-keygen` and `ssh-keygen` write them.

use std::fmt;
use std::io::Read as _;

use age::secrecy::SecretString;

use crate::config::secret::Secret;
use crate::error::{Error, Kind, Result};

/// Secret keys. Never empty.
pub struct Identities(Vec<Key>);

enum Key {
    X25519(age::x25519::Identity),
    Ssh(Box<age::ssh::Identity>),
}

/// 2^22 of scrypt takes 4 GiB; what `age -p` writes has 2^18.
const MOST_WORK: u8 = 20;

/// A file of keys with more than this in it is none.
const LIMIT_BYTES: u64 = 1 << 20;

const BINARY: &[u8] = b"age-encryption.org/v1\n";
const ARMORED: &[u8] = b"-----BEGIN AGE ENCRYPTED FILE-----";
const PEM: &[u8] = b"-----BEGIN ";

const KINDS: &str =
    "it is a file that age-keygen has written (which age -p may have protected), or a private key of SSH";

impl Identities {
    /// The keys in `text`; `name` says where it is from. `passphrase` is asked for where it is protected by one.
    pub fn parse(text: &[u8], name: &str, passphrase: impl FnOnce() -> Result<Secret>) -> Result<Self> {
        if text.starts_with(BINARY) || text.starts_with(ARMORED) {
            let plain = unprotected(text, name, passphrase()?)?;
            return Self::listed(&plain, name);
        }
        if text.trim_ascii_start().starts_with(PEM) {
            return Self::ssh(text.trim_ascii_start(), name, passphrase);
        }
        Self::listed(text, name)
    }

    /// All keys of several places.
    pub fn joined(several: impl IntoIterator<Item = Self>) -> Self {
        Self(several.into_iter().flat_map(|identities| identities.0).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// One key on each line, but for empty lines and those that begin with `#`.
    fn listed(text: &[u8], name: &str) -> Result<Self> {
        let wrong = |line: usize, why: &str| {
            Error::usage(format!("read the identity in {name}, line {line}")).because(why.to_owned()).hint(KINDS)
        };
        let text = std::str::from_utf8(text).map_err(|_| wrong(1, "it is no text"))?;
        let mut keys = Vec::new();
        for (line, number) in text.lines().map(str::trim).zip(1..) {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if let Some(plugin) = line.strip_prefix("AGE-PLUGIN-") {
                let plugin = plugin.split('-').next().unwrap_or_default().to_lowercase();
                return Err(wrong(number, &format!("it is of the plugin {plugin:?}, and pgkeep runs no plugins")));
            }
            // What stands there may be a secret with a letter too many: it is never repeated.
            keys.push(Key::X25519(line.parse().map_err(|_| wrong(number, "no secret key is there"))?));
        }
        if keys.is_empty() { Err(wrong(1, "it has no key in it")) } else { Ok(Self(keys)) }
    }

    fn ssh(text: &[u8], name: &str, passphrase: impl FnOnce() -> Result<Secret>) -> Result<Self> {
        use age::ssh::Identity;
        let wrong = |why: &str| {
            Error::usage(format!("read the private key of SSH in {name}")).because(why.to_owned()).hint(KINDS)
        };
        let key = match Identity::from_buffer(text, None).map_err(|_| wrong("it cannot be read"))? {
            Identity::Unencrypted(key) => Identity::Unencrypted(key),
            Identity::Encrypted(key) => {
                let key = key.decrypt(secret(&passphrase()?)).map_err(|_| wrong("the passphrase is not its own"))?;
                Identity::Unencrypted(key)
            }
            Identity::Unsupported(_) => return Err(wrong("keys of this kind cannot decrypt")),
        };
        Ok(Self(vec![Key::Ssh(Box::new(key))]))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &dyn age::Identity> {
        self.0.iter().map(|key| match key {
            Key::X25519(key) => key as &dyn age::Identity,
            Key::Ssh(key) => &**key as &dyn age::Identity,
        })
    }
}

impl fmt::Debug for Identities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} identities", self.0.len())
    }
}

fn secret(passphrase: &Secret) -> SecretString {
    SecretString::from(passphrase.expose().to_owned())
}

/// What `age -p` has protected.
fn unprotected(text: &[u8], name: &str, passphrase: Secret) -> Result<Vec<u8>> {
    let wrong = |why: String| Error::usage(format!("read the identity in {name}")).because(why);
    let reader = age::armor::ArmoredReader::new(text);
    let decryptor = age::Decryptor::new_buffered(reader).map_err(|error| wrong(error.to_string()))?;
    if !decryptor.is_scrypt() {
        return Err(wrong("it is encrypted to a key, not by a passphrase".to_owned()).hint(KINDS));
    }
    let mut identity = age::scrypt::Identity::new(secret(&passphrase));
    identity.set_max_work_factor(MOST_WORK);
    let opened = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity));
    let reader = opened.map_err(|error| match error {
        age::DecryptError::ExcessiveWork { .. } => wrong("its passphrase takes too much work to check".to_owned()),
        _ => wrong("the passphrase is not its own".to_owned()).hint("try again"),
    })?;
    let mut plain = Vec::new();
    reader
        .take(LIMIT_BYTES)
        .read_to_end(&mut plain)
        .map_err(|error| Error::new(Kind::Usage, format!("read the identity in {name}")).because(error))?;
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use age::secrecy::ExposeSecret as _;

    use super::*;

    fn unasked() -> Result<Secret> {
        panic!("nothing is protected")
    }

    fn protected(text: &str, passphrase: &str) -> Vec<u8> {
        let mut recipient = age::scrypt::Recipient::new(SecretString::from(passphrase.to_owned()));
        recipient.set_work_factor(2);
        let encryptor = age::Encryptor::with_recipients(std::iter::once(&recipient as &dyn age::Recipient)).unwrap();
        let mut writer = encryptor.wrap_output(Vec::new()).unwrap();
        writer.write_all(text.as_bytes()).unwrap();
        writer.finish().unwrap()
    }

    #[test]
    fn a_file_of_age_keygen_is_read_with_a_passphrase_or_without() {
        let key = age::x25519::Identity::generate().to_string();
        let text = format!("# created: 2026\n# public key: age1x\n{}\n", key.expose_secret());
        let identities = Identities::parse(text.as_bytes(), "k", unasked).unwrap();
        assert_eq!(format!("{identities:?}"), "1 identities");
        let protected = protected(&text, "hunter2");
        assert!(Identities::parse(&protected, "k", || Ok(Secret::new("hunter2"))).is_ok());
        let error = Identities::parse(&protected, "k", || Ok(Secret::new("hunter3"))).unwrap_err();
        assert_eq!(
            (error.kind, error.to_string().as_str()),
            (Kind::Usage, "read the identity in k: the passphrase is not its own")
        );
    }

    #[test]
    fn what_is_no_key_is_told_by_its_line_and_never_repeated() {
        for (text, why) in [
            ("", "it has no key in it"),
            ("# only\n\n", "it has no key in it"),
            ("\nAGE-SECRET-KEY-1QQQQQQQQ", "line 2: no secret key is there"),
            ("AGE-PLUGIN-YUBIKEY-1QQQQQQQQ", "it is of the plugin \"yubikey\""),
            ("-----BEGIN OPENSSH PRIVATE KEY-----\nQQQQQQQQ\n", "it cannot be read"),
        ] {
            let error = Identities::parse(text.as_bytes(), "k", unasked).unwrap_err();
            let told = error.to_string();
            assert!(error.kind == Kind::Usage && told.contains(why) && !told.contains("QQQQ"), "{text:?}: {told}");
        }
    }
}
