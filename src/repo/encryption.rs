//! What a repository holds encrypted: to whom, and how it is opened.
//!
//! A repository that was encrypted once stays so: `pgkeep-encryption.json` says to whom, and a run without recipients is
//! refused there. Its words count for what is refused and for the texts of run records and proofs, never for backups:
//! whoever can write to the repository could put a key of their own into it.

use std::sync::Arc;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::document::{self, FORMAT};
use super::layout::{ObjectName, Packing, StoredName};
use super::manifest::{DumpManifest, Encryption, EncryptionMethod};
use super::repository::Repository;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::process::shell_word;
use crate::stream::{Identities, Recipients, unseal};

/// `pgkeep-encryption.json`, format 1.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct NoteDocument {
    format: u32,
    method: EncryptionMethod,
    recipients: Vec<String>,
    /// Since when these are the recipients.
    since: DateTime<Utc>,
}

/// What the repository says of itself, asked once.
#[derive(Debug, Default)]
pub(super) struct Note(Mutex<Option<Option<Arc<Recipients>>>>);

impl Encryption {
    pub fn to(recipients: &Recipients) -> Self {
        Self { method: EncryptionMethod::Age, recipients: recipients.texts() }
    }
}

impl Repository {
    /// Who can read what is stored here: those that a run encrypts to, else those of an earlier run. `None`: everybody
    /// who can read the repository.
    pub async fn readers(&self) -> Result<Option<Arc<Recipients>>> {
        match self.recipients() {
            Some(recipients) => Ok(Some(Arc::clone(recipients))),
            None => self.noted().await,
        }
    }

    async fn noted(&self) -> Result<Option<Arc<Recipients>>> {
        // What others read there opens nothing of ours.
        if self.is_beside_script() {
            return Ok(None);
        }
        let mut known = self.note().0.lock().await;
        if let Some(known) = &*known {
            return Ok(known.clone());
        }
        let read = self.read_note().await?;
        *known = Some(read.clone());
        Ok(read)
    }

    async fn read_note(&self) -> Result<Option<Arc<Recipients>>> {
        let doing = || format!("ask {} whether it is encrypted", self.name());
        let key = StoredName::Encryption.key();
        let read: Option<NoteDocument> =
            document::read_if_there(self.storage(), &key).await.doing(Kind::Storage, doing)?;
        let recipients = read.map(|document| Recipients::parse(document.recipients).doing(Kind::Storage, doing));
        Ok(recipients.transpose()?.map(Arc::new))
    }

    /// Refuses to store in clear where it was encrypted before.
    pub async fn judge_encryption(&self) -> Result<()> {
        match (self.recipients(), self.noted().await?) {
            (None, Some(noted)) => Err(self.would_be_clear(&noted)),
            _ => Ok(()),
        }
    }

    /// Before anything is stored: [`Self::judge_encryption`], and notes to whom it is encrypted from now on.
    pub async fn begin_encryption(&self, now: DateTime<Utc>) -> Result<()> {
        self.judge_encryption().await?;
        let (Some(recipients), noted) = (self.recipients(), self.noted().await?) else { return Ok(()) };
        if noted.as_ref() == Some(recipients) {
            return Ok(());
        }
        match noted {
            Some(before) => tracing::info!("{} is encrypted to {recipients}, before to {before}", self.name()),
            None => tracing::info!("{} is encrypted to {recipients} from now on", self.name()),
        }
        self.note_recipients(recipients, now).await
    }

    /// From now on the repository is one that is encrypted.
    pub async fn note_recipients(&self, recipients: &Recipients, now: DateTime<Utc>) -> Result<()> {
        let (method, texts) = (EncryptionMethod::Age, recipients.texts());
        let note = NoteDocument { format: FORMAT, method, recipients: texts, since: now };
        self.storage().replace(&StoredName::Encryption.key(), document::to_json(&note)?).await?;
        *self.note().0.lock().await = Some(Some(Arc::new(recipients.clone())));
        Ok(())
    }

    fn would_be_clear(&self, noted: &Recipients) -> Error {
        let flags: Vec<String> =
            noted.texts().iter().map(|text| format!("--recipient {}", shell_word(text.as_ref()))).collect();
        let action = format!("{} is encrypted, and this run names no recipient", self.name());
        Error::refused(action).hint(format!(
            "if these are your keys: {}; or write them as recipients of the repository; in clear only into another one",
            flags.join(" ")
        ))
    }

    /// What opens a backup here. [`Kind::Usage`] if no identity is named, and then the hint says which would do.
    pub async fn identities(&self, manifest: &DumpManifest) -> Result<Arc<Identities>> {
        let named = self.keyring().identities().await?;
        named.ok_or_else(|| {
            let action = format!("{} is encrypted in {}, and no identity is named", manifest.id, self.name());
            let hint =
                format!("name the file of a key that opens it with --identity-file: that of {}", readers(manifest));
            Error::usage(action).hint(hint)
        })
    }

    /// A small object of a backup as it was before it was encrypted, and how that is packed.
    pub async fn decrypted(
        &self,
        stored: Bytes,
        object: &ObjectName,
        manifest: &DumpManifest,
    ) -> Result<(Bytes, Packing)> {
        let packing = object.ending.packing();
        if !packing.encrypted {
            return Ok((stored, packing));
        }
        let identities = self.identities(manifest).await?;
        let plain = unseal(&stored, &identities).map_err(|error| foreign_key(error, manifest));
        let plain = plain.doing(Kind::Verification, || format!("decrypt {object}"))?;
        Ok((plain.into(), Packing { encrypted: false, ..packing }))
    }
}

fn readers(manifest: &DumpManifest) -> String {
    let none = Vec::new();
    manifest.encryption.as_ref().map_or(&none, |encryption| &encryption.recipients).join(", or of ")
}

/// The error of a key that does not fit says which one would.
pub(super) fn foreign_key(error: Error, manifest: &DumpManifest) -> Error {
    match error.kind {
        Kind::Usage => error.hint(format!("it takes the key of {}", readers(manifest))),
        _ => error,
    }
}
