//! The identities of a repository: read when the first encrypted byte is, and once.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::OnceCell;

use crate::config::directories;
use crate::config::encryption::{IdentityPlace, IdentitySource, Passphrase, read_identity_file};
use crate::config::environment::Environment;
use crate::config::secret::Secret;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::process::{Program, find_program};
use crate::stream::Identities;

/// Asks whoever sits at the terminal for the passphrase of what is named.
#[derive(Clone)]
pub struct Ask(Arc<Asking>);

type Asking = dyn Fn(&str) -> Result<Secret> + Send + Sync;

impl Ask {
    pub fn new(ask: impl Fn(&str) -> Result<Secret> + Send + Sync + 'static) -> Self {
        Self(Arc::new(ask))
    }
}

impl fmt::Debug for Ask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ask")
    }
}

/// More than anybody has of keys.
const LIMIT_BYTES: u64 = 1 << 20;

pub struct Keyring {
    source: IdentitySource,
    environment: Environment,
    /// `None`: nobody is there to be asked.
    ask: Option<Ask>,
    read: OnceCell<Arc<Identities>>,
}

impl Keyring {
    pub fn new(source: IdentitySource, environment: Environment, ask: Option<Ask>) -> Self {
        Self { source, environment, ask, read: OnceCell::new() }
    }

    /// Without a key.
    pub fn empty() -> Self {
        Self::new(IdentitySource::default(), Environment::default(), None)
    }

    pub fn is_empty(&self) -> bool {
        self.source.places.is_empty()
    }

    /// The files that the keys are in.
    pub fn files(&self) -> impl Iterator<Item = &PathBuf> {
        self.source.places.iter().filter_map(|place| match place {
            IdentityPlace::File(path) => Some(path),
            _ => None,
        })
    }

    /// The keys; `None` if none is named. [`Kind::Usage`] if one that is named cannot be read.
    pub async fn identities(&self) -> Result<Option<Arc<Identities>>> {
        if self.is_empty() {
            return Ok(None);
        }
        self.read.get_or_try_init(|| self.read()).await.map(|read| Some(Arc::clone(read)))
    }

    async fn read(&self) -> Result<Arc<Identities>> {
        let mut found = Vec::new();
        for place in &self.source.places {
            let (name, text) = match place {
                IdentityPlace::File(path) => (path.display().to_string(), read_identity_file(path)?),
                IdentityPlace::Given { name, text } => ((*name).to_owned(), text.expose().as_bytes().to_vec()),
                IdentityPlace::Command(words) => {
                    ("the output of the identity command".to_owned(), self.run(words).await?)
                }
            };
            let (passphrase, ask) = (self.source.passphrase.clone(), self.ask.clone());
            let parse = move || Identities::parse(&text, &name, || secret(passphrase, ask, &name));
            // Of a passphrase scrypt makes a second of work, and a terminal may be waited for.
            let parsed = tokio::task::spawn_blocking(parse).await;
            found.push(parsed.doing(Kind::Unexpected, || "read the identities")??);
        }
        Ok(Arc::new(Identities::joined(found)))
    }

    async fn run(&self, words: &[String]) -> Result<Vec<u8>> {
        let Some((name, arguments)) = words.split_first() else {
            return Err(Error::usage("the identity command is empty"));
        };
        let path = match name.contains('/') {
            true => PathBuf::from(name),
            false => find_program(name, &directories::path(&self.environment)).ok_or_else(|| {
                Error::new(Kind::MissingProgram, format!("Missing command: {name}"))
                    .hint("it is the identity command of the repository; install it, or give its path")
            })?,
        };
        let program = Program::new(path, self.environment.of_others()).args(arguments).unheard();
        let (output, exit) = program.output(LIMIT_BYTES).await?;
        exit.check().map_err(|error| {
            Error::usage("run the identity command")
                .because(error.to_string())
                .hint("run it by hand, as the user and in the environment of this run")
        })?;
        Ok(output)
    }
}

/// The passphrase of what is named.
fn secret(passphrase: Option<Passphrase>, ask: Option<Ask>, name: &str) -> Result<Secret> {
    match (passphrase, ask) {
        (Some(passphrase), _) => passphrase.read(),
        (None, Some(Ask(ask))) => ask(name),
        (None, None) => Err(Error::usage(format!("{name} is protected by a passphrase, and none is given")).hint(
            "write it into a file of mode 0600, and name that file in PGKEEP_PASSPHRASE_FILE or passphrase_file",
        )),
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring").field("source", &self.source).finish_non_exhaustive()
    }
}
