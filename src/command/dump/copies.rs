//! One backup in the making, in several repositories at once: one name, one stream, a manifest in each.
//!
//! A step is done for every copy. A copy for which it fails is given up, what was stored of it is removed, and the
//! others go on; the backup fails with the last of them.

use futures_util::future::join_all;

use super::destination::{Destination, Destinations, Refusal};
use super::{Context, Stage};
use crate::command::overall;
use crate::command::stage::{At as _, Failed};
use crate::error::{Error, Kind, Result};
use crate::repo::{BackupId, BackupWriter, DumpManifest, DumpStem};

/// The backup in one repository.
#[derive(Debug)]
pub struct Making<'a> {
    pub destination: &'a Destination,
    pub backup: BackupWriter,
}

/// A copy that was given up: in which repository, at which step, and why.
#[derive(Debug)]
pub struct GivenUp {
    pub repository: String,
    pub stage: Stage,
    pub error: Error,
}

/// Never without a copy: whoever loses the last one has an error.
#[derive(Debug)]
pub struct Copies<'a> {
    making: Vec<Making<'a>>,
    pub given_up: Vec<GivenUp>,
}

impl<'a> Copies<'a> {
    /// Claims one name in every repository.
    pub async fn begin(
        context: &Context,
        destinations: &'a Destinations,
        database: &str,
    ) -> Result<Self, Failed<Stage>> {
        let live: Vec<&Destination> = destinations.live().collect();
        let places: Vec<_> = live.iter().map(|destination| (&destination.repository, &destination.lock)).collect();
        let begin = BackupWriter::begin_in(&places, database, &context.host, &*context.clock);
        let claimed = context.interrupt.guard(begin).await.at(Stage::Claim)?;
        let mut copies = Self { making: Vec::new(), given_up: Vec::new() };
        for (destination, claimed) in live.into_iter().zip(claimed) {
            match claimed {
                Ok(backup) => copies.making.push(Making { destination, backup }),
                Err(error) => copies.give_up(destination, Stage::Claim, error),
            }
        }
        copies.some_left()?;
        Ok(copies)
    }

    pub fn making(&self) -> &[Making<'a>] {
        &self.making
    }

    pub fn id(&self) -> BackupId {
        BackupId::from(self.stem())
    }

    /// The name, which is one in all repositories.
    pub fn stem(&self) -> &DumpStem {
        self.making[0].backup.stem()
    }

    /// Does a step for every copy at once.
    pub async fn each<T>(
        &mut self,
        stage: Stage,
        step: impl AsyncFn(&Making<'a>) -> Result<T>,
    ) -> Result<Vec<T>, Failed<Stage>> {
        let done = join_all(self.making.iter().map(|making| step(making))).await;
        self.keep(stage, done).await
    }

    /// Keeps the copies for which a step was done, of which there must be one; `done` is in their order.
    pub async fn keep<T>(&mut self, stage: Stage, done: Vec<Result<T>>) -> Result<Vec<T>, Failed<Stage>> {
        let mut kept = Vec::new();
        for (making, done) in std::mem::take(&mut self.making).into_iter().zip(done) {
            match done {
                Ok(value) => {
                    self.making.push(making);
                    kept.push(value);
                }
                Err(error) => {
                    abandon(&making.backup).await;
                    self.give_up(making.destination, stage, error);
                }
            }
        }
        self.some_left()?;
        Ok(kept)
    }

    /// Makes the backup exist in every repository, each with its own manifest, since what is encrypted differs. Returns those in which it does.
    pub async fn commit(
        mut self,
        manifest_in: impl Fn(&Making<'_>) -> DumpManifest,
    ) -> Result<(Vec<(&'a Destination, DumpManifest)>, Vec<GivenUp>), Failed<Stage>> {
        let commits = std::mem::take(&mut self.making).into_iter().map(|making| {
            let manifest = manifest_in(&making);
            let Making { destination, backup } = making;
            async move {
                let done = backup.commit(&manifest).await;
                (destination, manifest, done)
            }
        });
        let mut committed = Vec::new();
        for (destination, manifest, done) in join_all(commits).await {
            match done {
                Ok(()) => committed.push((destination, manifest)),
                Err(error) => self.give_up(destination, Stage::Commit, error),
            }
        }
        if committed.is_empty() {
            return Err(self.lost());
        }
        Ok((committed, self.given_up))
    }

    /// Removes what was stored of every copy.
    pub async fn abandon(self) {
        join_all(self.making.iter().map(|making| abandon(&making.backup))).await;
    }

    fn give_up(&mut self, destination: &Destination, stage: Stage, error: Error) {
        let repository = destination.repository.name().to_owned();
        self.given_up.push(GivenUp { repository, stage, error });
    }

    fn some_left(&mut self) -> Result<(), Failed<Stage>> {
        if self.making.is_empty() { Err(self.lost()) } else { Ok(()) }
    }

    /// Every copy was given up: the error of the only one, or of all.
    fn lost(&mut self) -> Failed<Stage> {
        let mut given_up = std::mem::take(&mut self.given_up);
        let stage = given_up.last().map_or(Stage::Claim, |last| last.stage);
        if given_up.len() == 1
            && let Some(only) = given_up.pop()
        {
            return Failed { stage, error: only.error };
        }
        let refusals: Vec<_> = given_up.iter().map(|lost| Refusal(&lost.repository, &lost.error)).collect();
        let error = overall(&refusals);
        Failed { stage, error: error.unwrap_or_else(|| Error::new(Kind::Unexpected, "store in no repository")) }
    }
}

/// What cannot be removed is removed by the next run, or by a prune.
async fn abandon(backup: &BackupWriter) {
    if let Err(left) = backup.abandon().await {
        tracing::warn!("objects of {} could not be removed; the next prune does it: {left}", backup.id());
    }
}
