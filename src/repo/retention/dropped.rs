//! Databases that are no longer backed up: perhaps dropped, perhaps forgotten by a configuration. What there is of them
//! is all there will be, so rules that were made for living databases leave it alone until its user names them.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::{Candidate, Group};
use crate::repo::name::InstanceName;

/// For how long others of the instance are backed up without it until a database counts as dropped: longer than the
/// week between two runs of a weekly job.
pub const DROPPED_AFTER: TimeDelta = TimeDelta::days(8);

/// The groups of one repository that are no longer backed up, each with the time of its newest backup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Dropped(pub BTreeMap<Group, DateTime<Utc>>);

/// When a backup of a group was last tried in vain. What cannot be backed up is not dropped.
pub type LastFailures = BTreeMap<Group, DateTime<Utc>>;

impl Dropped {
    pub fn since(&self, group: &Group) -> Option<DateTime<Utc>> {
        self.0.get(group).copied()
    }
}

/// Whether a database is no longer backed up: `newest` is the time of its last backup or attempt, `instance_newest`
/// that of its instance. A night on which nothing ran drops nothing.
pub fn is_dropped(newest: DateTime<Utc>, instance_newest: DateTime<Utc>) -> bool {
    instance_newest - newest > DROPPED_AFTER
}

/// The groups that are no longer backed up. What begins in the future tells nothing of the present.
pub fn dropped(candidates: &[Candidate], failures: &LastFailures, now: DateTime<Utc>) -> Dropped {
    let mut newest: BTreeMap<&Group, DateTime<Utc>> = BTreeMap::new();
    let mut of_instance: BTreeMap<&InstanceName, DateTime<Utc>> = BTreeMap::new();
    for Candidate { group, started_at, .. } in candidates.iter().filter(|one| one.started_at <= now) {
        let known = newest.entry(group).or_insert(*started_at);
        *known = (*known).max(*started_at);
        let known = of_instance.entry(&group.instance).or_insert(*started_at);
        *known = (*known).max(*started_at);
    }
    let is_dropped = |(group, newest): &(&Group, DateTime<Utc>)| {
        let tried = failures.get(*group).map_or(*newest, |failed| *newest.max(failed));
        of_instance.get(&group.instance).is_some_and(|of_instance| is_dropped(tried, *of_instance))
    };
    Dropped(newest.into_iter().filter(is_dropped).map(|(group, since)| (group.clone(), since)).collect())
}
