//! The words of run records and proofs. They repeat what servers and tools have said, with names of tables and roles in
//! it: where the repository is encrypted, so are they. Stage, status and exit code stay readable.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::proof::Proof;
use super::record::{RunRecord, RunStatus};
use super::repository::Repository;
use crate::error::{Doing as _, Kind, Result};
use crate::stream::{seal_text, unseal};

/// In place of words that no identity opens.
pub const ENCRYPTED: &str = "encrypted (--identity-file names the key that opens it)";

/// In place of words that could not be encrypted: nothing is stored in clear because of that.
const WITHHELD: &str = "not recorded: it could not be encrypted";

#[derive(Serialize, Deserialize)]
struct RunWords {
    error: Option<String>,
    hint: Option<String>,
    /// In the order of the items.
    items: Vec<ItemWords>,
}

#[derive(Serialize, Deserialize)]
struct ItemWords {
    error: Option<String>,
    hint: Option<String>,
}

#[derive(Serialize, Deserialize)]
struct ProofWords {
    reason: Option<String>,
    findings: Vec<String>,
}

/// `None`: they may be read by everybody who can read the repository.
async fn sealed<T: Serialize>(words: &T, repository: &Repository) -> Result<Option<String>> {
    let Some(readers) = repository.readers().await? else { return Ok(None) };
    let text = serde_json::to_string(words).doing(Kind::Unexpected, || "write JSON")?;
    seal_text(&text, &readers).map(Some)
}

async fn opened<T: DeserializeOwned>(sealed: &str, repository: &Repository) -> Option<T> {
    let identities = repository.keyring().identities().await.ok()??;
    let plain = unseal(sealed.as_bytes(), &identities).ok()?;
    serde_json::from_slice(&plain).ok()
}

impl RunRecord {
    /// As it is stored in the repository.
    pub(super) async fn sealed(mut self, repository: &Repository) -> Self {
        let is_silent = self.error.is_none() && self.items.iter().all(|item| item.error.is_none());
        if is_silent {
            return self;
        }
        let items = self.items.iter().map(|item| ItemWords { error: item.error.clone(), hint: item.hint.clone() });
        let words = RunWords { error: self.error.clone(), hint: self.hint.clone(), items: items.collect() };
        match sealed(&words, repository).await {
            Ok(None) => return self,
            Ok(sealed) => {
                self.replace_words(None);
                self.encrypted = sealed;
            }
            Err(error) => {
                tracing::warn!("the words of this run are not recorded in {}: {error}", repository.name());
                self.replace_words(Some(WITHHELD));
            }
        }
        self
    }

    /// As a reader who has a key sees it; to others it says that its words are encrypted.
    pub(super) async fn opened(mut self, repository: &Repository) -> Self {
        let Some(sealed) = self.encrypted.take() else { return self };
        match opened::<RunWords>(&sealed, repository).await {
            Some(words) => {
                (self.error, self.hint) = (words.error, words.hint);
                for (item, words) in self.items.iter_mut().zip(words.items) {
                    (item.error, item.hint) = (words.error, words.hint);
                }
            }
            None => self.replace_words(Some(ENCRYPTED)),
        }
        self
    }

    fn replace_words(&mut self, with: Option<&str>) {
        (self.error, self.hint) = (with.map(str::to_owned), None);
        for item in self.items.iter_mut().filter(|item| item.status != RunStatus::Succeeded) {
            (item.error, item.hint) = (with.map(str::to_owned), None);
        }
    }
}

impl Proof {
    pub(super) async fn sealed(&self, repository: &Repository) -> Result<Self> {
        let proof = self.clone();
        if proof.reason.is_none() && proof.findings.is_empty() {
            return Ok(proof);
        }
        let words = ProofWords { reason: proof.reason.clone(), findings: proof.findings.clone() };
        match sealed(&words, repository).await? {
            None => Ok(proof),
            encrypted => Ok(Self { reason: None, findings: Vec::new(), encrypted, ..proof }),
        }
    }

    pub(super) async fn opened(mut self, repository: &Repository) -> Self {
        let Some(sealed) = self.encrypted.take() else { return self };
        let unopened = || ProofWords { reason: Some(ENCRYPTED.to_owned()), findings: vec![ENCRYPTED.to_owned()] };
        let ProofWords { reason, findings } = opened(&sealed, repository).await.unwrap_or_else(unopened);
        Self { reason, findings, ..self }
    }
}
