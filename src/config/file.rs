//! `pgkeep.toml`: the repositories that have names.
//!
//! ```toml
//! [repository.site]
//! address = "s3://backups/site"
//! credentials_file = "/etc/pgkeep/site.keys"
//! ```
//!
//! A key that is not known is an error with its line that names the nearest known one: a mistyped setting must not be a
//! missing one. Keys that a later version will know are named as that.

use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::encryption::EncryptionSettings;
use super::private_file::{self, Readers};
use super::spelling::nearest;
use crate::error::{Error, Result};

/// A configuration file, read and understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFile {
    pub path: PathBuf,
    /// In the order in which they stand in the file.
    pub repositories: Vec<ConfiguredRepository>,
}

/// `[repository.NAME]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredRepository {
    pub name: String,
    /// As it is typed.
    pub address: String,
    /// What `pgkeep.json` has to say there: else a disk is not mounted.
    pub id: Option<String>,
    pub credentials: Credentials,
    /// How deep a dump is checked before it counts; by default as the store deserves.
    pub check: Option<CheckLevel>,
    pub encryption: EncryptionSettings,
}

/// Where the keys of a store come from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Credentials {
    /// The environment and what the client of the store looks for by itself.
    #[default]
    Chain,
    File(PathBuf),
    /// A program and its arguments.
    Command(Vec<String>),
}

/// `check`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckLevel {
    Decode,
    ReadBack,
}

const TABLES: [&str; 1] = ["repository"];
const LATER_TABLES: [&str; 3] = ["instance", "job", "retention"];
const KEYS: [&str; 10] = [
    "address",
    "id",
    "credentials_file",
    "credentials_command",
    "check",
    "recipients",
    "recipients_file",
    "identity_file",
    "identity_command",
    "passphrase_file",
];
const LATER_KEYS: [&str; 1] = ["required"];

impl ConfigFile {
    /// Reads `path`. [`crate::error::Kind::Refused`] if the group or others may write it, else every error is
    /// [`crate::error::Kind::Usage`].
    pub fn read(path: &Path) -> Result<Self> {
        let text = private_file::read(path, Readers::Everyone)?;
        Self::parse(path, &text)
    }

    /// `path` is for messages.
    pub fn parse(path: &Path, text: &str) -> Result<Self> {
        let reader = Reader { path, text };
        let root = DeTable::parse(text).map_err(|error| reader.unparsed(&error))?;
        let mut found = Vec::new();
        for (key, value) in root.get_ref().iter() {
            reader.expect_known(key, &TABLES, &LATER_TABLES, "a table of this file")?;
            for (name, value) in reader.table(key.get_ref(), value)?.iter() {
                found.push((name.span().start, reader.repository(name, value)?));
            }
        }
        found.sort_by_key(|(at, _)| *at);
        let repositories = found.into_iter().map(|(_, repository)| repository).collect();
        Ok(Self { path: path.to_owned(), repositories })
    }

    pub fn repository(&self, name: &str) -> Option<&ConfiguredRepository> {
        self.repositories.iter().find(|repository| repository.name == name)
    }
}

type Key<'t> = Spanned<std::borrow::Cow<'t, str>>;
type Node<'t> = Spanned<DeValue<'t>>;

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
}

impl Reader<'_> {
    /// `line 3 of /etc/pgkeep/pgkeep.toml`.
    fn place(&self, span: Range<usize>) -> String {
        let before = self.text.get(..span.start).unwrap_or(self.text);
        format!("line {} of {}", before.matches('\n').count() + 1, self.path.display())
    }

    fn unparsed(&self, error: &toml::de::Error) -> Error {
        let place = error.span().map_or_else(|| self.path.display().to_string(), |span| self.place(span));
        // The message of the parser says what it expected and does not repeat the file.
        Error::usage(format!("read {place}")).because(error.message().to_owned())
    }

    /// `what` is wrong with a value: "check on line 3 of … is not …".
    fn wrong(&self, key: &str, value: &Node<'_>, what: &str) -> Error {
        Error::usage(format!("{key} on {} {what}", self.place(value.span())))
    }

    fn expect_known(&self, key: &Key<'_>, known: &[&str], later: &[&str], what: &str) -> Result<()> {
        let name = key.get_ref().as_ref();
        if known.contains(&name) {
            return Ok(());
        }
        let place = self.place(key.span());
        if later.contains(&name) {
            return Err(Error::usage(format!("{name} on {place} is not supported by this version"))
                .hint(format!("leave it out; known are {}", known.join(", "))));
        }
        let hint = match nearest(name, known.iter().chain(later).copied()) {
            Some(near) if known.contains(&near) => format!("did you mean {near}?"),
            Some(near) => format!("did you mean {near}? It is not supported by this version"),
            None => format!("known are {}", known.join(", ")),
        };
        Err(Error::usage(format!("{name:?} on {place} is not {what}")).hint(hint))
    }

    fn table<'v, 't>(&self, key: &str, value: &'v Node<'t>) -> Result<&'v DeTable<'t>> {
        let hint = "write [repository.NAME] above address = \"…\"";
        value.get_ref().as_table().ok_or_else(|| self.wrong(key, value, "is not a table").hint(hint))
    }

    fn repository(&self, key: &Key<'_>, value: &Node<'_>) -> Result<ConfiguredRepository> {
        let name = key.get_ref().as_ref();
        let place = self.place(key.span());
        if !is_name(name) {
            return Err(Error::usage(format!("{name:?} on {place} is not the name of a repository"))
                .hint("use letters, digits, - and _, and a letter or digit first"));
        }
        let table = self.table(name, value)?;
        let mut repository = ConfiguredRepository {
            name: name.to_owned(),
            address: String::new(),
            id: None,
            credentials: Credentials::Chain,
            check: None,
            encryption: EncryptionSettings::default(),
        };
        for (key, value) in table.iter() {
            self.expect_known(key, &KEYS, &LATER_KEYS, &format!("a key of [repository.{name}]"))?;
            match key.get_ref().as_ref() {
                "address" => repository.address = self.address(value)?,
                "id" => repository.id = Some(self.text("id", value)?),
                "credentials_file" => repository.credentials = Credentials::File(self.path("credentials_file", value)?),
                "credentials_command" => {
                    repository.credentials = Credentials::Command(self.words("credentials_command", value)?);
                }
                "check" => repository.check = Some(self.check(value)?),
                key => self.encryption(key, value, &mut repository.encryption)?,
            }
        }
        if repository.address.is_empty() {
            return Err(Error::usage(format!("[repository.{name}] on {place} has no address"))
                .hint("add a line such as address = \"/backups\""));
        }
        if ["credentials_file", "credentials_command"].iter().all(|key| table.contains_key(*key)) {
            let what = "has both credentials_file and credentials_command";
            return Err(Error::usage(format!("[repository.{name}] on {place} {what}")).hint("leave one of them out"));
        }
        Ok(repository)
    }

    /// One of the keys that say to whom is encrypted and what opens it.
    fn encryption(&self, key: &str, value: &Node<'_>, settings: &mut EncryptionSettings) -> Result<()> {
        match key {
            "recipients" => settings.recipients = self.recipients(value)?,
            "recipients_file" => settings.recipients_file = Some(self.path(key, value)?),
            "identity_file" => settings.identity_files = vec![self.path(key, value)?],
            "identity_command" => settings.identity_command = Some(self.words(key, value)?),
            _ => settings.passphrase_file = Some(self.path(key, value)?),
        }
        Ok(())
    }

    fn recipients(&self, value: &Node<'_>) -> Result<Vec<String>> {
        let wrong = || {
            let what = "is not a list of public keys";
            self.wrong("recipients", value, what).hint("write recipients = [\"age1…\", \"ssh-ed25519 AAAA…\"]")
        };
        let array = value.get_ref().as_array().ok_or_else(wrong)?;
        let keys: Option<Vec<String>> = array.iter().map(|key| key.get_ref().as_str().map(str::to_owned)).collect();
        // An empty list would store in clear what was meant to be encrypted.
        keys.filter(|keys| !keys.is_empty()).ok_or_else(wrong)
    }

    fn text(&self, key: &str, value: &Node<'_>) -> Result<String> {
        match value.get_ref().as_str() {
            Some(text) if !text.is_empty() && !text.contains(char::is_control) => Ok(text.to_owned()),
            Some(_) => Err(self.wrong(key, value, "is empty or has control characters in it")),
            None => Err(self.wrong(key, value, "is not text").hint(format!("write {key} = \"…\""))),
        }
    }

    /// Where a command is started says nothing of where a configured repository lies.
    fn address(&self, value: &Node<'_>) -> Result<String> {
        let address = self.text("address", value)?;
        if address.contains('/') && !address.contains(':') && !address.starts_with('/') {
            return Err(self.wrong("address", value, "is not an absolute path").hint("begin it with a slash"));
        }
        Ok(address)
    }

    fn path(&self, key: &str, value: &Node<'_>) -> Result<PathBuf> {
        let path = PathBuf::from(self.text(key, value)?);
        if path.is_absolute() { Ok(path) } else { Err(self.wrong(key, value, "is not an absolute path")) }
    }

    fn words(&self, key: &str, value: &Node<'_>) -> Result<Vec<String>> {
        let wrong = || {
            let example = format!("write {key} = [\"/usr/local/bin/keys\", \"--of\", \"backups\"]: no shell reads it");
            self.wrong(key, value, "is not a list of words").hint(example)
        };
        let array = value.get_ref().as_array().ok_or_else(wrong)?;
        let words: Option<Vec<String>> = array.iter().map(|word| word.get_ref().as_str().map(str::to_owned)).collect();
        words.filter(|words| words.first().is_some_and(|program| !program.is_empty())).ok_or_else(wrong)
    }

    fn check(&self, value: &Node<'_>) -> Result<CheckLevel> {
        match value.get_ref().as_str() {
            Some("decode") => Ok(CheckLevel::Decode),
            Some("read-back") => Ok(CheckLevel::ReadBack),
            _ => Err(self.wrong("check", value, "is not \"decode\" or \"read-back\"")),
        }
    }
}

/// A word that cannot be taken for an address: those contain a `/` or a `:`.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    name.len() <= 63 && name.bytes().all(plain) && name.starts_with(|c: char| c.is_ascii_alphanumeric())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::error::Kind;

    fn parse(text: &str) -> Result<ConfigFile> {
        ConfigFile::parse(Path::new("/etc/pgkeep/pgkeep.toml"), text)
    }

    #[test]
    fn repositories_are_read_in_the_order_of_the_file() {
        let file = parse(
            "# two\n[repository.site]\naddress = \"s3://b/x\"\nid = \"0123\"\ncredentials_file = \"/k\"\n\
             [repository.away]\naddress = \"/mnt/b\"\ncheck = \"decode\"\n\
             [repository.cloud]\naddress = \"oss://b\"\ncheck = \"read-back\"\ncredentials_command = [\"keys\", \"b c\"]\n",
        )
        .unwrap();
        let names: Vec<&str> = file.repositories.iter().map(|repository| repository.name.as_str()).collect();
        assert_eq!(names, ["site", "away", "cloud"]);
        let [site, away, cloud] = &file.repositories[..] else { panic!("{file:?}") };
        assert_eq!((site.address.as_str(), site.id.as_deref(), site.check), ("s3://b/x", Some("0123"), None));
        assert_eq!(site.credentials, Credentials::File("/k".into()));
        assert_eq!((away.check, &away.credentials), (Some(CheckLevel::Decode), &Credentials::Chain));
        assert_eq!(cloud.check, Some(CheckLevel::ReadBack));
        assert_eq!(cloud.credentials, Credentials::Command(vec!["keys".into(), "b c".into()]));
        assert_eq!(file.repository("away"), Some(away));
        assert_eq!(file.repository("none"), None);
        assert_eq!(parse("").unwrap().repositories, []);
    }

    #[test]
    fn what_is_mistyped_names_line_and_neighbour() {
        for (text, message, hint) in [
            ("[repositry.a]", "\"repositry\" on line 1 of F is not a table of this file", "did you mean repository?"),
            ("x = 1", "\"x\" on line 1 of F is not a table of this file", "known are repository"),
            (
                "[repository.a]\naddress = \"/b\"\nadress = \"/c\"",
                "\"adress\" on line 3 of F is not a key of [repository.a]",
                "did you mean address?",
            ),
            (
                "[repository.a]\nrecipient = 1",
                "\"recipient\" on line 2 of F is not a key of [repository.a]",
                "did you mean recipients?",
            ),
            (
                "\n[instance.main]\nconninfo = \"\"",
                "instance on line 2 of F is not supported by this version",
                "leave it out; known are repository",
            ),
            (
                "[repository.a]\nrequired = true",
                "required on line 2 of F is not supported by this version",
                "leave it out; known are address, id, credentials_file, credentials_command, check, recipients, recipients_file, \
                 identity_file, identity_command, passphrase_file",
            ),
            (
                "repository = 1",
                "repository on line 1 of F is not a table",
                "write [repository.NAME] above address = \"…\"",
            ),
            (
                "[repository.a]",
                "[repository.a] on line 1 of F has no address",
                "add a line such as address = \"/backups\"",
            ),
            ("[repository.a]\naddress = 1", "address on line 2 of F is not text", "write address = \"…\""),
            (
                "[repository.a]\naddress = \"./b\"",
                "address on line 2 of F is not an absolute path",
                "begin it with a slash",
            ),
            (
                "[repository.\"a/b\"]\naddress = \"/b\"",
                "\"a/b\" on line 1 of F is not the name of a repository",
                "use letters, digits, - and _, and a letter or digit first",
            ),
            (
                "[repository.a]\naddress = \"/b\"\ncredentials_command = \"sh -c x\"",
                "credentials_command on line 3 of F is not a list of words",
                "write credentials_command = [\"/usr/local/bin/keys\", \"--of\", \"backups\"]: no shell reads it",
            ),
            (
                "[repository.a]\naddress = \"/b\"\ncredentials_command = [\"x\"]\ncredentials_file = \"/y\"",
                "[repository.a] on line 1 of F has both credentials_file and credentials_command",
                "leave one of them out",
            ),
        ] {
            let error = parse(text).expect_err(text);
            let told = error.to_string().replace("/etc/pgkeep/pgkeep.toml", "F");
            assert_eq!((error.kind, told.as_str(), error.next_step()), (Kind::Usage, message, Some(hint)), "{text}");
        }
        for (text, message) in [
            (
                "[repository.a]\naddress = \"/b\"\ncheck = \"deep\"",
                "check on line 3 of F is not \"decode\" or \"read-back\"",
            ),
            ("[repository.a]\naddress = \"\"", "address on line 2 of F is empty or has control characters in it"),
            (
                "[repository.a]\naddress = \"/b\"\ncredentials_file = \"k\"",
                "credentials_file on line 3 of F is not an absolute path",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err().to_string().replace("/etc/pgkeep/pgkeep.toml", "F"), message);
        }
    }

    #[test]
    fn what_is_no_toml_names_the_line_and_repeats_nothing() {
        for text in
            ["[repository.a]\naddress = hunter2", "[repository.a]\naddress \"hunter2\"", "[repository.a]\n\"hunter2"]
        {
            let error = parse(text).expect_err(text);
            assert!(error.to_string().starts_with("read line 2 of /etc/pgkeep/pgkeep.toml: "), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
        assert_eq!(parse("[repository.a]\naddress = \"/b\"\naddress = \"/c\"").unwrap_err().kind, Kind::Usage);
    }

    #[test]
    fn a_file_that_others_may_change_is_refused_and_one_that_they_may_read_is_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "[repository.a]\naddress = \"/b\"\n").unwrap();
        let with = |mode| {
            std::fs::set_permissions(file.path(), std::fs::Permissions::from_mode(mode)).unwrap();
            ConfigFile::read(file.path()).map_err(|error| error.kind)
        };
        assert!(with(0o644).is_ok());
        assert_eq!(with(0o664), Err(Kind::Refused));
        assert_eq!(with(0o666), Err(Kind::Refused));
    }
}
