//! `[instance.NAME]`.

use std::path::PathBuf;
use std::time::Duration;

use super::reader::{Key, Keys, Node, Reader};
use super::retention::Retention;
use crate::config::secret::Secret;
use crate::error::{Error, Result};

/// `[instance.NAME]`: one PostgreSQL cluster in our care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfiguredInstance {
    /// `[a-z0-9][a-z0-9_-]{0,62}`.
    pub name: String,
    /// A URI or keyword string. It may hold a password.
    pub conninfo: Option<Secret>,
    pub password: Password,
    pub databases: Databases,
    /// Left out where every database is meant.
    pub exclude: Vec<String>,
    /// Names of configured repositories; `None`: all of them.
    pub repositories: Option<Vec<String>>,
    pub methods: Vec<Method>,
    /// A program and its arguments, one of which names `{port}`.
    pub tunnel: Option<Vec<String>>,
    pub bin_dir: Option<PathBuf>,
    /// What runs the client programs elsewhere; they and their arguments follow.
    pub bin_prefix: Option<Vec<String>>,
    /// An older newest backup is a finding.
    pub max_age: Option<Duration>,
    pub retention: Retention,
}

/// Where the password of an instance comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Password {
    /// The connection string, `PGPASSWORD` or a password file of libpq's.
    #[default]
    Elsewhere,
    /// A file that holds it and nothing else.
    File(PathBuf),
    /// A program and its arguments, which print it.
    Command(Vec<String>),
}

/// Which databases of an instance are backed up where the command line names none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Databases {
    /// The file does not say.
    #[default]
    Unnamed,
    /// Every one but postgres and the templates.
    All,
    These(Vec<String>),
}

/// How an instance may be backed up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    Dump,
    Base,
}

impl Method {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Base => "base",
        }
    }
}

/// Stands in a tunnel's command for the port that is chosen.
pub const PORT: &str = "{port}";

const KEYS: Keys = Keys {
    known: &[
        "conninfo",
        "password_file",
        "password_command",
        "databases",
        "exclude",
        "repositories",
        "methods",
        "tunnel",
        "bin_dir",
        "bin_prefix",
        "max_age",
        "retention",
    ],
    later: &["rto", "rpo", "full_every"],
};

impl Reader<'_> {
    pub fn instance(&self, key: &Key<'_>, value: &Node<'_>) -> Result<ConfiguredInstance> {
        let name = key.get_ref().as_ref();
        if !is_name(name) {
            let place = self.place(key.span());
            return Err(Error::usage(format!("{name:?} on {place} is not the name of an instance"))
                .hint("use a-z, 0-9, - and _, at most 63, and a letter or digit first"));
        }
        let table = self.table(name, value, "write [instance.NAME] above conninfo = \"…\"")?;
        let mut instance = ConfiguredInstance {
            name: name.to_owned(),
            conninfo: None,
            password: Password::Elsewhere,
            databases: Databases::Unnamed,
            exclude: Vec::new(),
            repositories: None,
            methods: vec![Method::Dump, Method::Base],
            tunnel: None,
            bin_dir: None,
            bin_prefix: None,
            max_age: None,
            retention: Retention::default(),
        };
        for (inner, value) in table.iter() {
            self.expect_known(inner, &KEYS, &format!("a key of [instance.{name}]"))?;
            match inner.get_ref().as_ref() {
                "conninfo" => instance.conninfo = Some(Secret::new(self.text("conninfo", value)?)),
                "password_file" => instance.password = Password::File(self.path("password_file", value)?),
                "password_command" => {
                    let example = "\"/usr/local/bin/password\", \"--of\", \"site\"";
                    instance.password = Password::Command(self.command("password_command", value, example)?);
                }
                "databases" => instance.databases = self.databases(value)?,
                "exclude" => instance.exclude = self.names("exclude", value, "\"scratch\"")?,
                "repositories" => instance.repositories = Some(self.names("repositories", value, "\"site\"")?),
                "methods" => instance.methods = self.methods(value)?,
                "tunnel" => instance.tunnel = Some(self.tunnel(value)?),
                "bin_dir" => instance.bin_dir = Some(self.path("bin_dir", value)?),
                "bin_prefix" => {
                    let example = "\"kubectl\", \"exec\", \"-i\", \"pod\", \"--\"";
                    instance.bin_prefix = Some(self.command("bin_prefix", value, example)?);
                }
                "max_age" => instance.max_age = Some(self.duration("max_age", value)?),
                _ => instance.retention = self.retention(key, value)?,
            }
        }
        let wrong = |what: &str| self.wrong_table("instance", key, what);
        if ["password_file", "password_command"].iter().all(|key| table.contains_key(*key)) {
            return Err(wrong("has both password_file and password_command").hint("leave one of them out"));
        }
        if !instance.exclude.is_empty() && matches!(instance.databases, Databases::These(_)) {
            let hint = "leave exclude out: it takes databases away from databases = \"all\" and from --all";
            return Err(wrong("has both a list of databases and exclude").hint(hint));
        }
        Ok(instance)
    }

    fn databases(&self, value: &Node<'_>) -> Result<Databases> {
        match value.get_ref().as_str() {
            Some("all") => return Ok(Databases::All),
            Some(_) => {
                let hint = "write databases = \"all\" or databases = [\"shop\"]";
                return Err(self.wrong("databases", value, "is not \"all\" or a list of names").hint(hint));
            }
            None => {}
        }
        Ok(Databases::These(self.names("databases", value, "\"shop\"")?))
    }

    fn methods(&self, value: &Node<'_>) -> Result<Vec<Method>> {
        let example = "\"dump\", \"base\"";
        let known = [Method::Dump, Method::Base];
        let method = |name: &String| known.into_iter().find(|method| method.as_str() == name);
        let methods = self.names("methods", value, example)?.iter().map(method).collect::<Option<Vec<_>>>();
        methods.ok_or_else(|| {
            let hint = format!("write methods = [{example}], or one of them");
            self.wrong("methods", value, "names what is no method").hint(hint)
        })
    }

    fn tunnel(&self, value: &Node<'_>) -> Result<Vec<String>> {
        let example = "\"kubectl\", \"port-forward\", \"service/site\", \"{port}:5432\"";
        let words = self.command("tunnel", value, example)?;
        if words.iter().any(|word| word.contains(PORT)) {
            return Ok(words);
        }
        let hint = format!("write tunnel = [{example}]: pgkeep puts a free local port in the place of {PORT}");
        Err(self.wrong("tunnel", value, &format!("does not say where {PORT} goes")).hint(hint))
    }
}

/// As names of instances are in a repository, where each is a directory.
fn is_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    name.len() <= 63 && name.bytes().all(plain) && !name.is_empty() && !name.starts_with(['-', '_'])
}
