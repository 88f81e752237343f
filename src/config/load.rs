//! Which configuration is in force, and which repositories it names.
//!
//! `--config`, else `$BACKUP_ENV_FILE`, else `$PGKEEP_CONFIG`, else `/etc/pgkeep/pgkeep.toml` where it exists. `--repo`
//! replaces the configured repositories and adds none; with `--config` it switches the env file off, since a command
//! that names its repository must not store into two.

use std::fmt;
use std::path::{Path, PathBuf};

use super::env_file::EnvFile;
use super::environment::Environment;
use super::file::{ConfigFile, ConfiguredInstance, ConfiguredRepository, Credentials};
use crate::error::{Error, Result};

/// What the command line says of it.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    pub config: Option<PathBuf>,
    /// Addresses, or names of configured repositories.
    pub repositories: Vec<String>,
}

/// The configuration in force.
#[derive(Clone, Debug)]
pub struct Configuration {
    pub origin: Origin,
    pub source: Source,
    /// Every repository of the configuration file, in force or not: they have names.
    pub named: Vec<ConfiguredRepository>,
    pub instances: Vec<ConfiguredInstance>,
    /// What its user should know before anything starts, a line each.
    pub notices: Vec<String>,
}

#[derive(Clone, Debug)]
pub enum Source {
    /// The named repositories: those of `--repo`, else those of the file. None: nothing is configured.
    Repositories(Vec<ConfiguredRepository>),
    EnvFile(Box<EnvFile>),
}

/// The file that is in force, and by whose word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// No file is in force.
    Nothing,
    /// `--config`
    Flag(PathBuf),
    /// `$PGKEEP_CONFIG`
    Variable(PathBuf),
    /// [`DEFAULT_FILE`]
    Default(PathBuf),
    /// `$BACKUP_ENV_FILE`
    EnvFile(PathBuf),
}

impl Origin {
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Nothing => None,
            Self::Flag(path) | Self::Variable(path) | Self::Default(path) | Self::EnvFile(path) => Some(path),
        }
    }
}

impl Origin {
    /// The next step after a file could not be read, by who named it.
    fn advised(&self, error: Error) -> Error {
        let hint = match self {
            _ if error.next_step().is_some() => return error,
            Self::Flag(_) => "--config names it: correct its path, or leave --config out",
            Self::Variable(_) => "PGKEEP_CONFIG names it: correct its path, or unset it",
            Self::Nothing | Self::Default(_) | Self::EnvFile(_) => return error,
        };
        error.hint(hint)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Nothing => "no configuration file is in force",
            Self::Flag(_) => "in force, named by --config",
            Self::Variable(_) => "in force, named by PGKEEP_CONFIG",
            Self::Default(_) => "in force: nothing names another one",
            Self::EnvFile(_) => "in force, named by BACKUP_ENV_FILE",
        })
    }
}

/// The file that is read where nothing names another one.
pub const DEFAULT_FILE: &str = "/etc/pgkeep/pgkeep.toml";

/// Reads what is in force.
pub fn load(flags: &Flags, environment: &Environment) -> Result<Configuration> {
    load_with_default(flags, environment, Path::new(DEFAULT_FILE))
}

fn load_with_default(flags: &Flags, environment: &Environment, default_file: &Path) -> Result<Configuration> {
    let named = |name: &str| environment.get_os(name).filter(|path| !path.is_empty()).map(PathBuf::from);
    let mut notices = Vec::new();
    if let Some(env_file) = named("BACKUP_ENV_FILE") {
        let switched_off = match flags {
            Flags { config: Some(_), .. } => Some("--config"),
            Flags { repositories, .. } if !repositories.is_empty() => Some("--repo"),
            _ => None,
        };
        match switched_off {
            None => {
                let read = EnvFile::read(&env_file, environment)?;
                let (origin, source) = (Origin::EnvFile(env_file), Source::EnvFile(Box::new(read)));
                return Ok(Configuration { origin, source, named: Vec::new(), instances: Vec::new(), notices });
            }
            Some(flag) => notices.push(format!("BACKUP_ENV_FILE is set and not used: {flag} takes its place")),
        }
    }
    let origin = match (flags.config.clone(), named("PGKEEP_CONFIG")) {
        (Some(path), _) => Origin::Flag(path),
        (None, Some(path)) => Origin::Variable(path),
        // One that cannot be looked at is not one that is missing.
        (None, None) if default_file.try_exists().unwrap_or(true) => Origin::Default(default_file.to_owned()),
        (None, None) => Origin::Nothing,
    };
    let file = origin.path().map(ConfigFile::read).transpose().map_err(|error| origin.advised(error))?;
    let (named, instances) = file.map(|file| (file.repositories, file.instances)).unwrap_or_default();
    let repositories = if flags.repositories.is_empty() {
        named.clone()
    } else {
        flags.repositories.iter().map(|typed| repository(typed, &named)).collect::<Result<_>>()?
    };
    Ok(Configuration { origin, source: Source::Repositories(repositories), named, instances, notices })
}

/// What is typed for a repository: an address, or the name of one in `named`, which is a word without `/` and `:`.
pub fn repository(typed: &str, named: &[ConfiguredRepository]) -> Result<ConfiguredRepository> {
    if typed.contains(['/', ':']) {
        return Ok(ConfiguredRepository {
            name: typed.to_owned(),
            address: typed.to_owned(),
            id: None,
            credentials: Credentials::Chain,
            check: None,
        });
    }
    if let Some(repository) = named.iter().find(|repository| repository.name == typed) {
        return Ok(repository.clone());
    }
    let names: Vec<&str> = named.iter().map(|one| one.name.as_str()).collect();
    let known = match names.as_slice() {
        [] => String::new(),
        names => format!("configured are {}; ", names.join(", ")),
    };
    Err(Error::usage(format!("{typed:?} is not the name of a configured repository"))
        .hint(format!("{known}a directory is written with a slash: ./{typed}")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::error::Kind;

    /// A folder with two TOML files and an env file.
    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            let files = Self(tempfile::tempdir().unwrap());
            for name in ["flag", "default", "variable"] {
                let text = format!("[repository.{name}]\naddress = \"/backups/{name}\"\n");
                fs::write(files.path(name), text).unwrap();
            }
            let env = "PG_HOST=h\nPG_DATABASE=d\nPG_USER=u\nBACKUP_MODE=local\n";
            fs::write(files.path("env"), env).unwrap();
            for name in ["flag", "default", "variable", "env"] {
                fs::set_permissions(files.path(name), fs::Permissions::from_mode(0o600)).unwrap();
            }
            files
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        /// Names of the repositories, or "env file"; and how many notices.
        fn load(&self, config: bool, repo: &[&str], variables: &[&str], default: &str) -> Result<(Vec<String>, usize)> {
            let flags = Flags {
                config: config.then(|| self.path("flag")),
                repositories: repo.iter().map(|typed| (*typed).to_owned()).collect(),
            };
            let pairs = variables.iter().map(|name| match *name {
                "BACKUP_ENV_FILE" => (*name, self.path("env")),
                _ => (*name, self.path("variable")),
            });
            let loaded = load_with_default(&flags, &Environment::from_pairs(pairs), &self.path(default))?;
            assert_eq!(matches!(loaded.origin, Origin::EnvFile(_)), matches!(loaded.source, Source::EnvFile(_)));
            let names = match loaded.source {
                Source::EnvFile(_) => vec!["env file".to_owned()],
                Source::Repositories(repositories) => repositories.into_iter().map(|one| one.name).collect(),
            };
            Ok((names, loaded.notices.len()))
        }
    }

    #[test]
    fn the_nearer_word_wins() {
        let files = Files::new();
        let both = ["PGKEEP_CONFIG", "BACKUP_ENV_FILE"];
        for (config, repo, variables, default, expected, notices) in [
            (false, &[][..], &[][..], "none", &[][..], 0),
            (false, &[], &[], "default", &["default"], 0),
            (false, &[], &both[..1], "default", &["variable"], 0),
            (true, &[], &both[..1], "default", &["flag"], 0),
            (false, &[], &both, "default", &["env file"], 0),
            (true, &[], &both, "default", &["flag"], 1),
            (false, &["/x", "s3://b/y"], &both, "default", &["/x", "s3://b/y"], 1),
            (false, &["variable"], &both, "default", &["variable"], 1),
            (true, &["/x", "flag"], &[], "none", &["/x", "flag"], 0),
        ] {
            let (names, told) = files.load(config, repo, variables, default).unwrap();
            assert_eq!(
                (names.as_slice(), told),
                (&expected.iter().map(|s| s.to_string()).collect::<Vec<_>>()[..], notices)
            );
        }
    }

    #[test]
    fn a_configured_name_carries_its_address() {
        let files = Files::new();
        let flags = Flags { config: Some(files.path("flag")), repositories: vec!["flag".into()] };
        let loaded = load_with_default(&flags, &Environment::default(), &files.path("none")).unwrap();
        let Source::Repositories(repositories) = loaded.source else { panic!() };
        assert_eq!(repositories[0].address, "/backups/flag");
    }

    #[test]
    fn a_name_that_nothing_has_and_a_file_that_is_not_there_are_usage_errors() {
        let files = Files::new();
        let error = files.load(true, &["backups"], &[], "none").unwrap_err();
        assert_eq!(error.kind, Kind::Usage);
        assert_eq!(error.to_string(), "\"backups\" is not the name of a configured repository");
        assert_eq!(error.next_step(), Some("configured are flag; a directory is written with a slash: ./backups"));
        let flags = Flags { config: Some(files.path("none")), repositories: Vec::new() };
        assert_eq!(load(&flags, &Environment::default()).unwrap_err().kind, Kind::Usage);
        let gone = Environment::from_pairs([("BACKUP_ENV_FILE", files.path("none"))]);
        assert_eq!(load(&Flags::default(), &gone).unwrap_err().kind, Kind::Usage);
    }
}
