//! The repositories that a command is told of.

use std::path::PathBuf;
use std::sync::Arc;

use super::Context;
use crate::config::encryption::EncryptionSettings;
use crate::config::file::{self, ConfiguredRepository};
use crate::error::{Doing as _, Error, Kind, Result};
use crate::process::shell_word;
use crate::repo::{Ask, FlatLayout, FlatStorage, Keyring, Repository, RepositoryId};
use crate::storage::{self, Access, Address, Credentials, Fault, Missing, Storage};
use crate::stream::Recipients;

/// What must be proven before the manifest is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Check {
    /// Every compressed block was decoded again and compared before it was stored.
    Decode,
    /// And the stored archive was read again and decoded to its end.
    ReadBack,
}

/// One repository, as a command is told of it.
#[derive(Clone, Debug)]
pub struct Place {
    /// What its user calls it: a configured name, else the address.
    pub name: String,
    pub address: Address,
    /// `None`: as every repository has it.
    pub layout: Option<FlatLayout>,
    /// Which repository has to be there, where the configuration says so: anything else is a disk that is not mounted.
    pub id: Option<RepositoryId>,
    /// What the configuration wants proven there.
    pub check: Option<Check>,
    /// To whom is encrypted there, and what opens it.
    pub encryption: EncryptionSettings,
    /// Files of secret keys that were typed: then no others count.
    pub identity_files: Vec<PathBuf>,
    /// Who is asked for the passphrase of one; `None`: nobody is there.
    pub ask: Option<Ask>,
}

impl Place {
    /// A repository that is named by its address alone.
    pub fn at(address: &str) -> Result<Self> {
        let address = Address::parse(address)?;
        let (encryption, identity_files) = (EncryptionSettings::default(), Vec::new());
        Ok(Self {
            name: address.to_string(),
            address,
            layout: None,
            id: None,
            check: None,
            encryption,
            identity_files,
            ask: None,
        })
    }

    /// A repository of `pgkeep.toml`, or one of `--repo` that has no settings but its address.
    pub fn configured(repository: &ConfiguredRepository) -> Result<Self> {
        let ConfiguredRepository { name, address, id, credentials, check, encryption } = repository;
        if name == address {
            return Self::at(address);
        }
        let doing = || format!("use repository {name}");
        let credentials = match credentials {
            file::Credentials::Chain => None,
            file::Credentials::File(path) => Some(Credentials::File(path.clone())),
            file::Credentials::Command(words) => Some(Credentials::Command(words.clone())),
        };
        let address = Address::parse(address).doing(Kind::Usage, doing)?;
        let address = match credentials {
            Some(credentials) => address.with_credentials(credentials).doing(Kind::Usage, doing)?,
            None => address,
        };
        let id =
            id.as_deref().map(str::parse).transpose().doing(Kind::Usage, || format!("read id of repository {name}"))?;
        let check = check.map(|level| match level {
            file::CheckLevel::Decode => Check::Decode,
            file::CheckLevel::ReadBack => Check::ReadBack,
        });
        let (encryption, identity_files) = (encryption.clone(), Vec::new());
        Ok(Self { name: name.clone(), address, layout: None, id, check, encryption, identity_files, ask: None })
    }

    /// The store, in which every object has the key that it has everywhere.
    pub async fn store(&self, access: &Access, missing: Missing) -> storage::Result<Arc<dyn Storage>> {
        let storage = self.address.open(access, missing).await?;
        Ok(match self.layout {
            Some(layout) => Arc::new(FlatStorage::over(storage, layout)),
            None => storage,
        })
    }

    /// The repository, for a command that reads it.
    pub async fn open(&self, context: &Context) -> Result<Repository> {
        match self.store(&context.access(), Missing::Refuse).await {
            Ok(storage) => self.open_in(storage, context).await,
            // Nothing is there. Whether a disk is not mounted or a name mistyped depends on our having stored there before.
            Err(error) if error.fault == Fault::NotFound => Err(self.absent(context)),
            Err(error) => Err(error.into()),
        }
    }

    /// The repository in a store that is open.
    pub async fn open_in(&self, storage: Arc<dyn Storage>, context: &Context) -> Result<Repository> {
        let found = match Repository::open(storage, &context.state).await {
            Err(error) if error.kind == Kind::NoSuchBackup => return Err(self.absent(context)),
            opened => opened?,
        };
        // Who only reads encrypts nothing but words of a record, and those to whom the repository is encrypted.
        let recipients = self.recipients().unwrap_or_else(|error| {
            tracing::warn!("{error}");
            None
        });
        self.expected(found, recipients, context)
    }

    /// The repository, for a command that stores something: the first one creates it, but not where the configuration
    /// says which one is there.
    pub async fn open_or_create(&self, context: &Context) -> Result<Repository> {
        let storage = match self.store(&context.access(), Missing::Refuse).await {
            Err(error) if error.fault == Fault::NotFound => {
                // Where this host has stored before, a disk is not mounted: what would be made is on another one.
                let absent = self.absent(context);
                if absent.kind != Kind::NoSuchBackup {
                    return Err(absent);
                }
                self.store(&context.access(), Missing::CreateLast).await
            }
            opened => opened,
        }?;
        if self.id.is_some() {
            self.open_in(Arc::clone(&storage), context).await?;
        }
        // Keys that cannot be read are an error before anything is made there.
        let recipients = self.recipients()?;
        self.expected(Repository::open_or_create(storage, &context.state).await?, recipients, context)
    }

    /// To whom everything is encrypted that is stored there; `None`: it is stored in clear.
    pub fn recipients(&self) -> Result<Option<Arc<Recipients>>> {
        if !self.encryption.names_recipients() {
            return Ok(None);
        }
        let text = self.encryption.recipients_text()?.unwrap_or_default();
        let keys = self.encryption.recipients.iter().map(String::as_str).chain(Recipients::lines(&text));
        let doing = || format!("read the recipients of {}", self.name);
        Recipients::parse(keys).doing(Kind::Usage, doing).map(|recipients| Some(Arc::new(recipients)))
    }

    /// What opens what is stored there.
    pub fn keyring(&self, context: &Context) -> Keyring {
        let source = self.encryption.typed_identities(&self.identity_files, &context.environment);
        Keyring::new(source, context.environment.clone(), self.ask.clone())
    }

    fn expected(
        &self,
        found: Repository,
        recipients: Option<Arc<Recipients>>,
        context: &Context,
    ) -> Result<Repository> {
        let found = found.encrypted(recipients, Arc::new(self.keyring(context)));

        match &self.id {
            Some(id) if id != found.id() => {
                let (address, found) = (found.address(), found.id());
                let action = format!("{address} holds repository {found}, {} is to be {id}", self.name);
                Err(Error::refused(action).hint(format!("{ANOTHER_DISK} write id = \"{found}\" for {}", self.name)))
            }
            _ if self.layout.is_some() => Ok(found.named(&self.name).beside_script()),
            _ => Ok(found.named(&self.name)),
        }
    }

    /// What a dump proves there unless it is told otherwise: reading again is cheap where the bytes lie at hand.
    pub fn default_check(&self) -> Check {
        let by_nature = if self.address.is_local() { Check::ReadBack } else { Check::Decode };
        self.check.unwrap_or(by_nature)
    }

    /// What it means that nothing is there.
    pub fn absent(&self, context: &Context) -> Error {
        match &self.id {
            Some(id) => {
                let action = format!("{} has no pgkeep.json, {} is to be repository {id}", self.address, self.name);
                Error::refused(action).hint(format!("{ANOTHER_DISK} remove the id of {}", self.name))
            }
            None => Repository::absent(&self.address.to_string(), &context.state),
        }
    }
}

const ANOTHER_DISK: &str = "an unmounted disk? Mount it; if the repository was replaced on purpose,";

/// `--repo A --repo B`: what a proposed command has to say so that it looks in the same places. Those of the env file are
/// found by it alone.
pub fn repo_flags(places: &[Place]) -> String {
    let flag = |place: &Place| format!(" --repo {}", shell_word(place.name.as_ref()));
    places.iter().filter(|place| place.layout.is_none()).map(flag).collect()
}
