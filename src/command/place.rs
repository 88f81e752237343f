//! The repositories that a command is told of.

use super::Context;
use crate::error::{Error, Kind, Result};
use crate::process::shell_word;
use crate::repo::Repository;
use crate::storage::{Address, Fault, Missing};

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
}

impl Place {
    /// A repository that is named by its address alone.
    pub fn at(address: &str) -> Result<Self> {
        let address = Address::parse(address)?;
        Ok(Self { name: address.to_string(), address })
    }

    /// The repository, for a command that reads it.
    pub async fn open(&self, context: &Context) -> Result<Repository> {
        match self.address.open(&context.access(), Missing::Refuse).await {
            Ok(storage) => Ok(Repository::open(storage, &context.state).await?.named(&self.name)),
            // Nothing is there. Whether a disk is not mounted or a name mistyped depends on our having stored there before.
            Err(error) if error.fault == Fault::NotFound => Err(self.absent(context)),
            Err(error) => Err(error.into()),
        }
    }

    /// The repository, for a command that stores something: the first one creates it.
    pub async fn open_or_create(&self, context: &Context) -> Result<Repository> {
        let storage = match self.address.open(&context.access(), Missing::Refuse).await {
            Err(error) if error.fault == Fault::NotFound => {
                // Where this host has stored before, a disk is not mounted: what would be made is on another one.
                let absent = self.absent(context);
                if absent.kind != Kind::NoSuchBackup {
                    return Err(absent);
                }
                self.address.open(&context.access(), Missing::CreateLast).await
            }
            opened => opened,
        }?;
        let repository = Repository::open_or_create(storage, &context.state).await?;
        Ok(repository.named(&self.name))
    }

    /// What a dump proves there unless it is told otherwise: reading again is cheap where the bytes lie at hand.
    pub fn default_check(&self) -> Check {
        if self.address.is_local() { Check::ReadBack } else { Check::Decode }
    }

    /// What it means that nothing is there.
    pub fn absent(&self, context: &Context) -> Error {
        Repository::absent(&self.address.to_string(), &context.state)
    }
}

/// `--repo A --repo B`: what a proposed command has to say so that it looks in the same places.
pub fn repo_flags(places: &[Place]) -> String {
    let flag = |place: &Place| format!("--repo {}", shell_word(place.name.as_ref()));
    places.iter().map(flag).collect::<Vec<_>>().join(" ")
}
