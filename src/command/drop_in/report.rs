//! The platform's report of a run: put down on this host, and beside the dump in the bucket.

use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};

use super::DropIn;
use crate::command::dump::Item;
use crate::command::{Context, Place, Status};
use crate::config::env_file::EnvFile;
use crate::error::{Error, Kind, Result};
use crate::repo::{
    DumpManifest, DumpStem, FlatLayout, LocalCopy, ObjectRole, PlatformReport, PlatformStatus, RemoteCopy, Stamp,
    StoredObject,
};
use crate::storage::{Key, Missing};

/// A database that was to be dumped.
#[derive(Clone, Debug)]
pub struct Attempt {
    pub database: String,
    pub host: String,
    pub port: u16,
    pub started_at: DateTime<Utc>,
}

/// How it ended.
#[derive(Clone, Copy)]
pub enum End<'a> {
    Dumped(&'a Item),
    Failed(&'a Error),
}

impl<'a> End<'a> {
    fn item(self) -> Option<&'a Item> {
        match self {
            Self::Dumped(item) => Some(item),
            Self::Failed(_) => None,
        }
    }

    fn error(self) -> Option<&'a Error> {
        match self {
            Self::Dumped(item) => item.error.as_ref(),
            Self::Failed(error) => Some(error),
        }
    }

    fn manifest(self) -> Option<&'a DumpManifest> {
        self.item()?.manifest.as_deref()
    }
}

pub struct Reporter<'a> {
    drop_in: &'a DropIn,
    /// Of the names of reports on runs that made no dump.
    host: &'a str,
}

/// How long the report's way into the bucket may take. It is a copy, and whoever stopped the run waits for it.
const UPLOAD_LIMIT: Duration = Duration::from_secs(20);

impl<'a> Reporter<'a> {
    pub fn new(drop_in: &'a DropIn, host: &'a str) -> Self {
        Self { drop_in, host }
    }

    /// Writes the report, and sends it after the dump. Returns the error of a run whose report is not there; with no
    /// surroundings to store with there is no second copy.
    pub async fn tell(&self, context: Option<&Context>, attempt: &Attempt, end: End<'_>) -> Option<Error> {
        let now = context.map_or_else(|| attempt.started_at, |context| context.clock.now());
        let stem = self.stem(attempt, end);
        let json = match self.report(attempt, end, now).to_json(&self.drop_in.secrets()) {
            Ok(json) => json,
            Err(error) => return Some(unreported(error)),
        };
        let written = PlatformReport::write(&json, &self.env_file().directories.reports, &stem);
        if let (Some(context), Some(remote)) = (context, self.reachable(end)) {
            match tokio::time::timeout(UPLOAD_LIMIT, upload(context, remote, &stem, json)).await {
                Ok(Ok(key)) => tracing::info!("report uploaded: {}", self.url_of(&key)),
                Ok(Err(error)) => tracing::warn!("the report was not uploaded: {error}"),
                Err(_) => tracing::warn!("the report was not uploaded within {} s", UPLOAD_LIMIT.as_secs()),
            }
        }
        match written {
            Ok(path) => {
                tracing::info!("report: {}", path.display());
                None
            }
            Err(error) => {
                tracing::error!("{error}");
                Some(unreported(error))
            }
        }
    }

    fn env_file(&self) -> &EnvFile {
        &self.drop_in.env_file
    }

    /// That of the dump, and where there is none, that it would have had; a second later where a run beside this one
    /// has a report of that name.
    fn stem(&self, attempt: &Attempt, end: End<'_>) -> DumpStem {
        let made = end.manifest().and_then(|manifest| manifest.id.as_str().parse().ok());
        let wanted = made.unwrap_or_else(|| DumpStem::new(&attempt.database, Stamp::of(attempt.started_at), self.host));
        let reports = &self.env_file().directories.reports;
        let is_free = |stem: &DumpStem| !PlatformReport::path(reports, stem).exists();
        (0..60).map(|seconds| wanted.later_by(TimeDelta::seconds(seconds))).find(is_free).unwrap_or(wanted)
    }

    fn report(&self, attempt: &Attempt, end: End<'_>, now: DateTime<Utc>) -> PlatformReport {
        let error = end.error();
        PlatformReport {
            database: end.manifest().map_or(&attempt.database, |manifest| &manifest.database).clone(),
            host: attempt.host.clone(),
            port: attempt.port,
            started_at: attempt.started_at,
            finished_at: now,
            // The difference of the two, as they are printed.
            duration_seconds: (now.timestamp() - attempt.started_at.timestamp()).try_into().unwrap_or(0),
            mode: self.env_file().mode.as_str(),
            tool: self.env_file().tool.as_str(),
            status: if error.is_some() { PlatformStatus::Failed } else { PlatformStatus::Success },
            error_message: error.map(Error::to_string).unwrap_or_default(),
            local: self.local(end).unwrap_or_default(),
            remote: RemoteCopy { urls: self.urls(end).unwrap_or_default() },
        }
    }

    /// What lies on this host; of a run that keeps nothing here the size and the digest of what it stored.
    fn local(&self, end: End<'_>) -> Option<LocalCopy> {
        let manifest = end.manifest()?;
        let archive = manifest.archive().next()?;
        let copy =
            LocalCopy { checksum_sha256: Some(archive.sha256), size_bytes: archive.size_bytes, ..LocalCopy::default() };
        let Some(local) = &self.drop_in.local else { return Some(copy) };
        let path = |object: &StoredObject| {
            let place = FlatLayout::Directory.place(&object.key(&manifest.instance))?;
            Some(self.env_file().directories.base.join(place.as_str()).display().to_string())
        };
        let globals = manifest.object(ObjectRole::Globals).and_then(path).unwrap_or_default();
        holds(end, local).then(|| LocalCopy { file: path(archive).unwrap_or_default(), globals_file: globals, ..copy })
    }

    /// Where a person fetches it: the dump, its checksum, the globals.
    fn urls(&self, end: End<'_>) -> Option<Vec<String>> {
        let (manifest, remote) = (end.manifest()?, self.drop_in.remote.as_ref()?);
        let told = [ObjectRole::Archive, ObjectRole::Checksum, ObjectRole::Globals];
        let objects = told.into_iter().filter_map(|role| manifest.object(role));
        let places = objects.filter_map(|object| FlatLayout::Prefix.place(&object.key(&manifest.instance)));
        holds(end, remote).then(|| places.map(|place| self.url_of(&place)).collect())
    }

    fn url_of(&self, place: &Key) -> String {
        self.env_file().remote.as_ref().map(|remote| remote.url_of(place.as_str())).unwrap_or_default()
    }

    /// The bucket, unless it has just been seen not to answer.
    fn reachable(&self, end: End<'_>) -> Option<&Place> {
        let remote = self.drop_in.remote.as_ref()?;
        let failed = match end {
            End::Dumped(item) => item.repositories.iter().any(|copy| copy.name == remote.name && copy.error.is_some()),
            End::Failed(error) => matches!(error.kind, Kind::Storage | Kind::MissingProgram),
        };
        (!failed).then_some(remote)
    }
}

fn holds(end: End<'_>, place: &Place) -> bool {
    end.item()
        .is_some_and(|item| item.repositories.iter().any(|copy| copy.name == place.name && copy.status == Status::Ok))
}

/// The report takes the place of the one that the same run has sent before, if it has.
async fn upload(context: &Context, remote: &Place, stem: &DumpStem, json: Bytes) -> Result<Key> {
    let key =
        PlatformReport::key(stem).map_err(|invalid| Error::new(Kind::Unexpected, "name a report").because(invalid))?;
    // Past the layout: a report is no object of a repository.
    let storage = remote.address.open(&context.access(), Missing::Refuse).await?;
    storage.replace(&key, json).await?;
    Ok(key)
}

fn unreported(error: Error) -> Error {
    let action = "the platform has no report of this run";
    let hint = "the directory of the reports must belong to the account that runs pgkeep, and have room";
    Error::new(Kind::Partial, action).because(error).hint(hint)
}
