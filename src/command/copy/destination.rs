//! The repository that is copied to: opened or made, locked for one instance, with a record of the run.

use std::collections::BTreeSet;

use super::plan::PlannedItem;
use super::{Context, Place};
use crate::command::{finish_run, sweep_unfinished};
use crate::error::Result;
use crate::repo::{
    InstanceName, Lineage, Lock, Repository, Run, RunName, RunOutcome, Stamp, Verb, remove_leftovers_but,
};

#[derive(Debug)]
pub struct Destination {
    pub repository: Repository,
    pub lock: Lock,
    /// What the destination knows of the instance.
    pub lineages: Vec<Lineage>,
    run: Run,
}

impl Destination {
    /// What copies that died have left of other backups than the planned ones is removed; of these it is gone on with.
    pub async fn open(context: &Context, to: &Place, instance: &InstanceName, planned: &[PlannedItem]) -> Result<Self> {
        let repository = context.interrupt.guard(to.open_or_create(context)).await?;
        let now = context.clock.now();
        if repository.recipients().is_some() {
            context.interrupt.guard(repository.begin_encryption(now)).await?;
        }
        let lock = context.state.lock(repository.id(), instance, Verb::Copy, now)?;
        let name = RunName::new(Stamp::of(now), Verb::Copy);
        let run = Run::begin(&repository, &context.state, &lock, &context.host, name, now).await?;
        let wanted: BTreeSet<_> = planned.iter().filter(|item| item.is_lacking()).map(PlannedItem::id).collect();
        match remove_leftovers_but(&repository, &lock, &context.host, &wanted).await {
            Ok(removed) => {
                removed.iter().for_each(|id| tracing::info!("removed what a killed copy had stored of {id}"))
            }
            Err(error) => tracing::warn!("{error}"),
        }
        sweep_unfinished(&repository, instance).await;
        match Lineage::all(&repository, instance).await {
            Ok(lineages) => Ok(Self { repository, lock, lineages, run }),
            Err(error) => {
                let outcome = RunOutcome::failed("lineage", &error, Vec::new());
                finish_run(context, run, outcome, &mut Vec::new()).await;
                Err(error)
            }
        }
    }

    /// Records the end of the run.
    pub async fn finish(self, context: &Context, outcome: RunOutcome, warnings: &mut Vec<String>) {
        finish_run(context, self.run, outcome, warnings).await;
    }
}
