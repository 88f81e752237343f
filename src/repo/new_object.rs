//! An object of a backup on its way into the store: every byte of data passes here, and is encrypted here where the
//! repository is.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::layout::{DumpStem, Ending};
use super::manifest::StoredObject;
use crate::digest::Fingerprint;
use crate::error::{Error, Kind, Result};
use crate::storage::ObjectWriter;
use crate::stream::{Cipher, Recipients, encrypt};

/// What a backup has stored so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Contents(Arc<Mutex<Vec<StoredObject>>>);

impl Contents {
    pub fn add(&self, object: StoredObject) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(object);
    }

    /// In the order of a manifest.
    pub fn all(&self) -> Vec<StoredObject> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        all.sort_by_key(|object| object.name.ending);
        all
    }
}

/// Dropping it unfinished leaves nothing.
pub struct NewObject {
    stem: DumpStem,
    ending: Ending,
    writer: Box<dyn ObjectWriter>,
    cipher: Option<Cipher>,
    contents: Contents,
}

impl NewObject {
    /// `ending` is that of the object as it is stored.
    pub(super) fn new(
        stem: &DumpStem,
        ending: Ending,
        writer: Box<dyn ObjectWriter>,
        recipients: Option<&Recipients>,
        contents: &Contents,
    ) -> Result<Self> {
        let recipients = recipients.filter(|_| ending.packing().encrypted);
        let cipher = recipients.map(encrypt).transpose()?;
        Ok(Self { stem: stem.clone(), ending, writer, cipher, contents: contents.clone() })
    }

    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        let Some(cipher) = &mut self.cipher else { return Ok(self.writer.write(bytes).await?) };
        let mut pending = Some(bytes);
        while pending.is_some() {
            if let Some(piece) = cipher.push(&mut pending).await? {
                self.writer.write(piece).await?;
            }
        }
        Ok(())
    }

    /// Makes the object visible and durable, with the size that the store confirms. `written` is what was written: of an
    /// encrypted object another fingerprint is stored. After an error nothing of it is left.
    pub async fn finish(mut self, written: Fingerprint) -> Result<StoredObject> {
        let stored = match self.cipher.take() {
            None => written,
            Some(cipher) => match self.rest(cipher).await {
                Ok(stored) => stored,
                Err(error) => {
                    self.writer.abort().await;
                    return Err(error);
                }
            },
        };
        let meta = self.writer.finish().await?;
        if meta.size_bytes != stored.size_bytes {
            let cause = format!("{} bytes were sent, the store has {}", stored.size_bytes, meta.size_bytes);
            return Err(Error::new(Kind::Verification, format!("confirm {}", meta.key)).because(cause));
        }
        let object = StoredObject::new(&self.stem, self.ending, stored);
        self.contents.add(object.clone());
        Ok(object)
    }

    async fn rest(&mut self, mut cipher: Cipher) -> Result<Fingerprint> {
        cipher.end();
        while let Some(piece) = cipher.rest().await {
            self.writer.write(piece).await?;
        }
        cipher.finish().await
    }

    /// Gives up and removes what was written so far.
    pub async fn abort(self) {
        self.writer.abort().await;
    }
}
