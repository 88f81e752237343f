//! What is stored: keys, manifests, the catalogue, intents, records.
//!
//! The order in which things are stored and taken away is the whole point, and lies in two files that are each other's
//! halves: [`BackupWriter`] (intent, data, manifest, intent removed) and [`SweepPlan`] (manifests removed; data, then
//! intents, then manifests listed; what none of these names removed). `tests/interleaving` runs them against each
//! other in every order.

mod adoption;
pub mod archive;
mod backup;
mod catalogue;
mod details;
pub mod directory;
mod document;
mod filter;
mod flat;
mod intent;
mod keep;
mod layout;
mod leftovers;
mod lineage;
mod lock;
mod manifest;
mod name;
mod objects;
mod packed;
mod pause;
mod platform_report;
mod probe;
mod proof;
mod record;
mod repository;
pub mod retention;
mod runs;
mod selection;
mod series;
mod state;
mod sweep;
mod union;

pub use crate::storage::CreateOnly;
pub use adoption::Adoption;
pub use backup::BackupWriter;
pub use catalogue::{Backup, Catalogue, Defect, Entry, Unreadable};
pub use details::DumpDetails;
pub use document::FORMAT;
pub use filter::FilterDigest;
pub use flat::{FlatLayout, FlatStorage};
pub use intent::{
    Claim, Intent, IntentDocument, LIMIT as INTENT_LIMIT, Liveness, OWNER_LIMIT as INTENT_OWNER_LIMIT, SeenIntent,
    intents, judged_intents, liveness,
};
pub use keep::{Keep, KeepFor, Label};
pub use layout::{
    BackupId, Coding, DumpStem, Ending, Folder, Form, Level, ObjectName, ObjectRole, Packing, PartNumber, ProbeName,
    ProofName, RunName, StoredName, Verb, Verdict, instance_folder,
};
pub use leftovers::{remove_leftovers, remove_leftovers_but};
pub use lineage::{Kinship, Lineage, NewLineage};
pub use lock::{Holder, Lock, LockState};
pub use manifest::{
    ArchiveFormat, BackupKind, Checks, Client, CompressedBy, Compression, CompressionMethod, Counts, DumpManifest,
    Encryption, EncryptionMethod, Globals, GlobalsIncluded, ServerVersion, Source, StoredObject, checksum_lines,
};
pub use name::{InstanceName, InvalidName, Stamp, SystemIdentifier};
pub use objects::remove_backup;
pub use packed::{pack, unpack};
pub use pause::{HeldPause, PauseGate, PauseNote, SeenPause, ServerStart};
pub use platform_report::{LocalCopy, PlatformReport, PlatformStatus, RemoteCopy};
pub use probe::probe;
pub use proof::{Proof, Proofs, proofs};
pub use record::{Elsewhere, RecordPlace, Run, RunItem, RunOutcome, RunRecord, RunStatus, SeenRun, runs, status_seen};
pub use repository::{Marker, Repository};
pub use runs::told_once;
pub use selection::{Choice, Chosen, Which};
pub use series::Series;
pub use state::{HostId, RepositoryId, StateDirectory};
pub use sweep::{RUNS_KEPT, Sweep, SweepPlan, Swept};
pub use union::{HeldCopy, Holding, Union, disagreement};
