//! The repositories of a run: opened, locked, with a record each. One that fails is dropped, and the others go on.

use futures_util::future::join_all;

use super::{Check, Context, Options, Place};
use crate::command::{finish_run, overall, sweep_unfinished};
use crate::error::{Error, Result};
use crate::repo::{Lineage, Lock, Repository, Run, RunName, RunOutcome, Stamp, Verb, remove_leftovers};

/// A repository that is stored in, under the lock of this run.
#[derive(Debug)]
pub struct Destination {
    pub repository: Repository,
    pub lock: Lock,
    /// What is proven there before a manifest is written.
    pub check: Check,
    run: Run,
    dropped: Option<Error>,
}

/// The repositories of one run, in the order in which they were named.
#[derive(Debug)]
pub struct Destinations {
    /// One name for the run in every repository.
    run: RunName,
    pub opened: Vec<Destination>,
    /// Those that were never part of the run, by name.
    pub refused: Vec<(String, Error)>,
}

/// What stood in the way of one repository, as an item of a command.
pub(super) struct Refusal<'a>(pub &'a str, pub &'a Error);

impl crate::command::Item for Refusal<'_> {
    fn error(&self) -> Option<&Error> {
        Some(self.1)
    }

    fn name(&self) -> &str {
        self.0
    }
}

impl Destinations {
    /// Opens every repository, or makes it. An error only where none could be opened.
    pub async fn open(context: &Context, options: &Options) -> Result<Self> {
        let run = RunName::new(Stamp::of(context.clock.now()), Verb::Dump);
        let mut destinations = Self { run, opened: Vec::new(), refused: Vec::new() };
        for place in &options.repositories {
            match destinations.open_one(context, options, place).await {
                Ok(destination) => destinations.opened.push(destination),
                Err(error) => destinations.refused.push((place.name.clone(), error)),
            }
        }
        if destinations.opened.is_empty() {
            return Err(destinations.none());
        }
        for (name, error) in &destinations.refused {
            tracing::info!("{name} is left out: {}", error.said_of(name));
        }
        Ok(destinations)
    }

    async fn open_one(&self, context: &Context, options: &Options, place: &Place) -> Result<Destination> {
        let repository = context.interrupt.guard(place.open_or_create(context)).await?;
        if let Some(same) = self.opened.iter().find(|other| other.repository.id() == repository.id()) {
            let error = Error::usage(format!("{} and {} are one repository", same.repository.name(), place.name));
            return Err(error.hint("name it once"));
        }
        let now = context.clock.now();
        let lock = context.state.lock(repository.id(), &options.instance, Verb::Dump, now)?;
        let name = self.run.clone();
        let run = Run::begin(&repository, &context.state, &lock, &context.host, name, now).await?;
        if let Err(error) = context.interrupt.guard(repository.begin_encryption(now)).await {
            // A configuration that lost its recipients must not look like a night without a run.
            let outcome = RunOutcome::failed("encrypt", &error, Vec::new());
            finish_run(context, run, outcome, &mut Vec::new()).await;
            return Err(error);
        }
        tidy(context, &repository, &lock).await;
        let check = options.check.unwrap_or(place.default_check());
        Ok(Destination { repository, lock, check, run, dropped: None })
    }

    fn none(self) -> Error {
        match <[_; 1]>::try_from(self.refused) {
            Ok([(_, only)]) => only,
            Err(several) => {
                let items: Vec<Refusal> = several.iter().map(|(name, error)| Refusal(name, error)).collect();
                overall(&items).unwrap_or_else(|| Error::usage("no repository is named"))
            }
        }
    }

    /// Those that nothing was wrong with so far.
    pub fn live(&self) -> impl Iterator<Item = &Destination> {
        self.opened.iter().filter(|destination| destination.dropped.is_none())
    }

    /// Those that are not part of the run any more, and why.
    pub fn dropped(&self) -> impl Iterator<Item = (&str, &Error)> {
        let refused = self.refused.iter().map(|(name, error)| (name.as_str(), error));
        let dropped = self.opened.iter().filter_map(|d| Some((d.repository.name(), d.dropped.as_ref()?)));
        refused.chain(dropped)
    }

    /// Leaves a repository out from here on. The last one never is: whatever comes next is tried there again.
    pub fn leave_out(&mut self, name: &str, because: &Error) {
        if self.live().count() < 2 {
            return;
        }
        for destination in self.opened.iter_mut().filter(|destination| destination.repository.name() == name) {
            destination.dropped = Some(Error::new(because.kind, format!("it was left out after: {because}")));
        }
    }

    /// Every lineage that one of the repositories knows of the instance. One that cannot be asked is left out.
    pub async fn lineages(&mut self, options: &Options) -> Result<Vec<Lineage>> {
        let read = join_all(self.live().map(async |destination| {
            let lineages = Lineage::all(&destination.repository, &options.instance).await;
            (destination.repository.name().to_owned(), lineages)
        }));
        let mut known = Vec::new();
        for (name, lineages) in read.await {
            match lineages {
                Ok(lineages) => known.extend(lineages),
                // The last one is not left out, and what it cannot tell is not known.
                Err(error) if self.live().count() < 2 => return Err(error),
                Err(error) => self.leave_out(&name, &error),
            }
        }
        Ok(known)
    }

    /// Records the end of the run in every repository that it began in.
    pub async fn finish(self, context: &Context, outcome: &RunOutcome, warnings: &mut Vec<String>) {
        for destination in self.opened {
            finish_run(context, destination.run, outcome.clone(), warnings).await;
        }
    }
}

/// Removes what runs that were killed left behind. It takes space and nothing else, so a failure only is noted.
async fn tidy(context: &Context, repository: &Repository, lock: &Lock) {
    match remove_leftovers(repository, lock, &context.host).await {
        Ok(removed) => removed.iter().for_each(|id| tracing::info!("removed what a killed run had stored of {id}")),
        Err(error) => tracing::warn!("{error}"),
    }
    sweep_unfinished(repository, lock.instance()).await;
}
