//! What is stored: keys, manifests, the catalogue, intents, records.

mod document;
mod layout;
mod name;
mod repository;
mod state;

pub use document::FORMAT;
pub use layout::{
    BackupId, DumpStem, Folder, Level, ObjectRole, ProofName, RunName, StoredName, Verb, Verdict, instance_folder,
};
pub use name::{InstanceName, InvalidName, Stamp, SystemIdentifier};
pub use repository::{CreateOnly, Marker, Repository};
pub use state::{Holder, HostId, Lock, LockState, RepositoryId, StateDirectory};
