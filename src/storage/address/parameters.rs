//! What stands behind the `?` of an address.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// Names and values, each known and given once.
#[derive(Debug, Default)]
pub struct Parameters(BTreeMap<&'static str, String>);

impl Parameters {
    /// Reads `name=value&name=value`; values may hold `%XX`. Of an unknown parameter at most the name is repeated, and
    /// only where it cannot be a secret.
    pub fn parse(text: &str, known: &'static [&'static str]) -> Result<Self> {
        let mut found = BTreeMap::new();
        for part in text.split('&').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or_else(|| {
                Error::usage("a parameter of the address has no value").hint(format!("known are {}", listed(known)))
            })?;
            let Some(name) = known.iter().find(|known| **known == name) else { return Err(unknown(name, known)) };
            if value.is_empty() {
                return Err(Error::usage(format!("the parameter {name} of the address has no value")));
            }
            if found.insert(*name, unescape(value)?).is_some() {
                return Err(Error::usage(format!("the address gives {name} twice")));
            }
        }
        Ok(Self(found))
    }

    pub fn take(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// `true` or `false`.
    pub fn take_flag(&mut self, name: &str) -> Result<Option<bool>> {
        match self.take(name).as_deref() {
            None => Ok(None),
            Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(_) => Err(Error::usage(format!("{name} of an address is true or false"))),
        }
    }
}

fn unknown(name: &str, known: &[&str]) -> Error {
    let lower = name.to_ascii_lowercase();
    if ["key", "secret", "passw", "token", "credential"].iter().any(|word| lower.contains(word)) {
        return keys_elsewhere();
    }
    let harmless = name.len() <= 20 && !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let what = if harmless { format!("{name} is not a parameter") } else { "there is an unknown parameter".to_owned() };
    Error::usage(format!("{what} of an address")).hint(format!("known are {}", listed(known)))
}

/// What is said wherever an address carries a key, without repeating it.
pub fn keys_elsewhere() -> Error {
    Error::usage("an address holds no key and no password").hint(
        "give them in the environment (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; for oss OSS_ACCESS_KEY_ID and \
         OSS_ACCESS_KEY_SECRET), in a profile of ~/.aws/credentials, or by a credentials file or command",
    )
}

fn listed(known: &[&str]) -> String {
    known.join(", ")
}

fn unescape(value: &str) -> Result<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = match (first, tail) {
            (b'%', [high, low, tail @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
                let (high, low) = digit(high).zip(digit(low)).ok_or_else(badly_escaped)?;
                bytes.push(high << 4 | low);
                tail
            }
            (b'%', _) => return Err(badly_escaped()),
            _ => {
                bytes.push(*first);
                tail
            }
        };
    }
    String::from_utf8(bytes).map_err(|_| badly_escaped())
}

fn badly_escaped() -> Error {
    Error::usage("a parameter of the address has a % that no two hexadecimal digits follow").hint("write % as %25")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KNOWN: &[&str] = &["endpoint", "path_style"];

    #[test]
    fn values_are_unescaped_and_each_is_given_once() {
        let mut found = Parameters::parse("endpoint=https%3A//h&path_style=true", KNOWN).unwrap();
        assert_eq!(found.take("endpoint").unwrap(), "https://h");
        assert_eq!(found.take_flag("path_style").unwrap(), Some(true));
        assert_eq!(found.take_flag("path_style").unwrap(), None);
        for bad in ["endpoint=a&endpoint=b", "endpoint=", "endpoint", "endpoint=%4", "endpoint=%zz", "endpoint=%ff"] {
            Parameters::parse(bad, KNOWN).unwrap_err();
        }
        Parameters::parse("path_style=yes", KNOWN).unwrap().take_flag("path_style").unwrap_err();
    }

    #[test]
    fn an_unknown_parameter_names_the_known_ones() {
        let error = Parameters::parse("endpiont=x", KNOWN).unwrap_err();
        assert_eq!(error.to_string(), "endpiont is not a parameter of an address");
        assert_eq!(error.next_step(), Some("known are endpoint, path_style"));
        let error = Parameters::parse("hunter2=x", KNOWN).unwrap_err();
        assert_eq!(error.to_string(), "there is an unknown parameter of an address");
    }
}
