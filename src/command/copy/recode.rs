//! A backup for other readers than those of its source: each object is decrypted, and encrypted to the recipients of the
//! destination. Its data stay what they are; objects, their hashes and so the manifest are its own.

use std::sync::Arc;

use bytes::Bytes;

use super::transfer::{Broken, Lost, Transfer, no_source, unread};
use super::{Destination, Stage};
use crate::digest::{Fingerprint, Fingerprinter};
use crate::error::{Doing as _, Error, Kind, Result};
use crate::process::shell_word;
use crate::progress::Task;
use crate::repo::archive::expect;
use crate::repo::{
    BackupWriter, DumpManifest, Encryption, NewObject, ObjectRole, Repository, StoredObject, checksum_lines,
};
use crate::stream::{Cipher, Identities, Recipients, decrypt};

/// How a backup gets into the destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Byte by byte: the destination has the same readers.
    AsItIs,
    Recoded,
}

impl Way {
    /// Nothing clear goes into a repository that is encrypted, and nothing that is encrypted becomes clear.
    pub async fn of(manifest: &DumpManifest, to: &Repository) -> Result<Self> {
        let id = &manifest.id;
        if to.recipients().is_some() {
            return Ok(Self::into_new(manifest, to.recipients().map(|recipients| &**recipients)));
        }
        let Some(readers) = to.readers().await? else { return Ok(Self::AsItIs) };
        if is_for(manifest, &readers) {
            return Ok(Self::AsItIs);
        }
        let what = match &manifest.encryption {
            None => "in clear",
            Some(_) => "encrypted to others",
        };
        let flags = readers.texts().into_iter().map(|text| format!(" --recipient {}", shell_word(text.as_ref())));
        Err(Error::refused(format!("{} is encrypted, and {id} is {what}", to.name())).hint(format!(
            "to encrypt it on the way, name whom to: if these are your keys,{}",
            flags.collect::<String>()
        )))
    }

    /// Into a repository that has no word of its own: as the run says.
    pub fn into_new(manifest: &DumpManifest, recipients: Option<&Recipients>) -> Self {
        match recipients {
            Some(recipients) if !is_for(manifest, recipients) => Self::Recoded,
            _ => Self::AsItIs,
        }
    }

    /// Before the first backup that is encrypted is stored as it is, the destination becomes an encrypted one.
    pub async fn prepare(
        manifest: &DumpManifest,
        destination: &Destination,
        now: chrono::DateTime<chrono::Utc>,
    ) -> Result<()> {
        let Some(encryption) = &manifest.encryption else { return Ok(()) };
        if destination.repository.readers().await?.is_some() {
            return Ok(());
        }
        let recipients = Recipients::parse(&encryption.recipients)?;
        destination.repository.note_recipients(&recipients, now).await
    }
}

fn is_for(manifest: &DumpManifest, recipients: &Recipients) -> bool {
    manifest.encryption == Some(Encryption::to(recipients))
}

impl Transfer<'_> {
    /// Stores everything but the manifest, which it returns.
    pub async fn recode(
        &mut self,
        writer: &BackupWriter,
        manifest: &DumpManifest,
        task: &Arc<dyn Task>,
        warnings: &mut Vec<String>,
    ) -> Result<DumpManifest, Lost> {
        // What an earlier try has encrypted is of another key, which nobody has.
        writer.clear().await.map_err(|error| Lost::at(Stage::Claim, error))?;
        for object in &manifest.objects {
            task.note(&object.name.to_string());
            if object.role == ObjectRole::Checksum {
                let archive: Vec<StoredObject> =
                    writer.stored().into_iter().filter(|object| object.role == ObjectRole::Archive).collect();
                let put = writer.put(object.name.ending.clear(), checksum_lines(&archive).into()).await;
                put.map_err(|error| Lost::at(Stage::Send, error))?;
                continue;
            }
            self.recode_object(writer, manifest, object, task, warnings).await?;
        }
        let objects = writer.stored();
        self.sent.sent_bytes += objects.iter().map(|object| object.size_bytes).sum::<u64>();
        Ok(DumpManifest { objects, encryption: writer.encryption(), ..manifest.clone() })
    }

    /// From the first source whose bytes are those of the manifest.
    async fn recode_object(
        &mut self,
        writer: &BackupWriter,
        manifest: &DumpManifest,
        object: &StoredObject,
        task: &Arc<dyn Task>,
        warnings: &mut Vec<String>,
    ) -> Result<(), Lost> {
        let mut failures = Vec::new();
        for source in self.sources.clone() {
            let begun = writer.object(object.name.ending.clear(), Some(object.size_bytes)).await;
            let mut sink = begun.map_err(|error| Lost::at(Stage::Send, error))?;
            match self.pour_decrypted(source, manifest, object, &mut sink, &**task).await {
                Ok(written) => {
                    sink.finish(written).await.map_err(|error| Lost::at(Stage::Send, error))?;
                    self.came_from(source, failures, warnings);
                    return Ok(());
                }
                Err(broken) => {
                    sink.abort().await;
                    match broken {
                        Broken::Source(error) => failures.push((source.name(), error)),
                        Broken::Destination(lost) => return Err(lost),
                    }
                }
            }
            self.sources.rotate_left(1);
        }
        Err(Lost::at(Stage::Send, no_source(&self.key(object), failures)))
    }

    /// Every byte of the object, as it was before it was encrypted; it has been compared with the manifest.
    async fn pour_decrypted(
        &self,
        source: &Repository,
        manifest: &DumpManifest,
        object: &StoredObject,
        sink: &mut NewObject,
        task: &dyn Task,
    ) -> Result<Fingerprint, Broken> {
        let key = self.key(object);
        let mut opening = match object.name.ending.packing().encrypted {
            false => None,
            true => Some(opened(source, manifest).await.map_err(Broken::Source)?),
        };
        let mut reader = source.storage().read(&key, None).await.map_err(|error| unread(&key, error))?;
        let (mut seen, mut written) = (Fingerprinter::new(), Fingerprinter::new());
        let store = async |sink: &mut NewObject, written: &mut Fingerprinter, piece: Bytes| {
            written.update(&piece);
            sink.write(piece).await.map_err(|error| Broken::Destination(Lost::at(Stage::Send, error)))
        };
        while let Some(chunk) = reader.next().await.map_err(|error| unread(&key, error))? {
            seen.update(&chunk);
            task.advance(chunk.len() as u64);
            let Some(cipher) = &mut opening else {
                store(sink, &mut written, chunk).await?;
                continue;
            };
            let mut pending = Some(chunk);
            while pending.is_some() {
                let pushed = cipher.push(&mut pending).await.doing(Kind::Verification, || format!("decrypt {key}"));
                if let Some(piece) = pushed.map_err(Broken::Source)? {
                    store(sink, &mut written, piece).await?;
                }
            }
        }
        expect(&key, "bytes", object.fingerprint(), seen.finish()).map_err(Broken::Source)?;
        if let Some(mut cipher) = opening {
            cipher.end();
            while let Some(piece) = cipher.rest().await {
                store(sink, &mut written, piece).await?;
            }
            cipher.finish().await.doing(Kind::Verification, || format!("decrypt {key}")).map_err(Broken::Source)?;
        }
        Ok(written.finish())
    }
}

async fn opened(source: &Repository, manifest: &DumpManifest) -> Result<Cipher> {
    let identities: Arc<Identities> = source.identities(manifest).await?;
    decrypt(identities)
}
