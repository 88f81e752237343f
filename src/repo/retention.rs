//! Which backups rules let go. A pure function of what is stored, of the rules and of now, which gives its reasons.
//!
//! Backups that can take each other's place are a [`Group`]: those of one database, made in one way, with one choice of
//! tables. Groups know nothing of each other. Within a group, whatever the rules say:
//!
//! * only good backups fill a rule, and the newest good one stays;
//! * what is not good goes once a newer one is good; where none is good nothing goes, and what is newer than the newest
//!   good one stays, to be looked at;
//! * what its user pinned stays, and so does what could not be read;
//! * what begins or ends in the future stays and fills no rule: a clock was wrong, and nothing real gives way to it;
//! * what is no longer backed up ([`Dropped`]) stays whole.

mod dropped;
mod policy;
mod reason;
mod script;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};

use super::catalogue::Backup;
use super::filter::FilterDigest;
use super::keep::Keep;
use super::layout::DumpStem;
use super::manifest::{BackupKind, DumpManifest};
use super::name::InstanceName;

pub use dropped::{DROPPED_AFTER, Dropped, LastFailures, dropped, is_dropped};
pub use policy::{Period, Policy};
pub use reason::{Decision, Kept, Removed};
pub use script::{digest_of_checksum_file, next_to_prove};

/// A backup that may stay or go: one of ours with its manifest, or one of an older script, whose files have the same
/// names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub stem: DumpStem,
    pub group: Group,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    pub standing: Standing,
    /// Pinned by its user.
    pub keep: Option<Keep>,
}

/// The backups that can take each other's place. Not by host: the name of a container changes with every run.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group {
    pub instance: InstanceName,
    pub kind: BackupKind,
    /// As it stands in keys: older scripts tell no more.
    pub database: String,
    pub extent: Extent,
}

/// How much of a database a backup holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Extent {
    Whole,
    /// A choice of it, by the digest of what was chosen where that is known.
    Part(Option<FilterDigest>),
}

/// What is known of a backup's goodness.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// Complete, and nothing speaks against it.
    Good,
    /// It cannot be restored, and why: a missing object, a failed verification, a checksum that does not match.
    Bad(String),
    /// Nobody has looked yet: a dump without a manifest is good if it matches its checksum. Until then no other one is
    /// removed because of it.
    Unproven,
    /// It could not be asked for, and why. It is not removed.
    Unknown(String),
}

impl Extent {
    pub fn of(manifest: &DumpManifest) -> Self {
        if manifest.filtered { Self::Part(manifest.filter.clone()) } else { Self::Whole }
    }
}

impl Candidate {
    pub fn of(backup: &Backup) -> Self {
        let Backup { stem, manifest, .. } = backup;
        Self {
            stem: stem.clone(),
            group: Group {
                instance: manifest.instance.clone(),
                kind: manifest.kind,
                database: stem.encoded_database().to_owned(),
                extent: Extent::of(manifest),
            },
            started_at: manifest.started_at,
            finished_at: manifest.finished_at,
            standing: Standing::of(backup),
            keep: manifest.keep,
        }
    }

    /// By the end, as `latest` is chosen.
    fn order(&self) -> (DateTime<Utc>, DateTime<Utc>, &DumpStem) {
        (self.finished_at, self.started_at, &self.stem)
    }

    fn is_good(&self) -> bool {
        self.standing == Standing::Good
    }

    /// What is of the future at `now`. The end, too: a clock that was put right during a dump must not make it the newest
    /// one for years.
    pub fn ahead(&self, now: DateTime<Utc>) -> Option<Kept> {
        let Self { started_at, finished_at, .. } = *self;
        match (started_at > now, finished_at > now) {
            (true, _) => Some(Kept::Future { started_at }),
            (false, true) => Some(Kept::EndsInFuture { finished_at }),
            (false, false) => None,
        }
    }

    /// Whether another one may give way to it.
    pub fn counts(&self, now: DateTime<Utc>) -> bool {
        self.is_good() && self.ahead(now).is_none()
    }
}

impl Standing {
    /// A part of a database is good if it is whole as that.
    pub fn of(backup: &Backup) -> Self {
        match backup.is_damaged() {
            false => Self::Good,
            true => Self::Bad(backup.shortcoming().unwrap_or_else(|| "it is damaged".to_owned())),
        }
    }
}

/// What becomes of each candidate, in their order.
pub fn decide(candidates: &[Candidate], policy: &Policy, dropped: &Dropped, now: DateTime<Utc>) -> Vec<Decision> {
    let mut groups: BTreeMap<&Group, Vec<(usize, &Candidate)>> = BTreeMap::new();
    for (at, candidate) in candidates.iter().enumerate() {
        groups.entry(&candidate.group).or_default().push((at, candidate));
    }
    let mut decisions = vec![Decision::Keep(Vec::new()); candidates.len()];
    for (group, mut members) in groups {
        members.sort_by(|(_, a), (_, b)| b.order().cmp(&a.order()));
        let good = members.iter().map(|(_, member)| *member).find(|member| member.counts(now));
        let mut judge = Judge { policy, now, good, dropped: dropped.since(group), filled: Filled::default() };
        for (at, member) in members {
            decisions[at] = judge.decide(member);
        }
    }
    decisions
}

/// Decides about the members of one group, from the newest on.
struct Judge<'a> {
    policy: &'a Policy,
    now: DateTime<Utc>,
    /// The newest good one.
    good: Option<&'a Candidate>,
    /// Since when the group is no longer backed up.
    dropped: Option<DateTime<Utc>>,
    filled: Filled,
}

/// What the rules have kept so far.
#[derive(Default)]
struct Filled {
    last: u32,
    periods: BTreeMap<Period, BTreeSet<String>>,
}

impl Judge<'_> {
    fn decide(&mut self, candidate: &Candidate) -> Decision {
        if let Some(ahead) = candidate.ahead(self.now) {
            return Decision::Keep(vec![ahead]);
        }
        let mut reasons = Vec::new();
        reasons.extend(candidate.keep.filter(|keep| keep.holds(self.now)).map(Kept::Pinned));
        reasons.extend(self.dropped.map(|since| Kept::Dropped { since }));
        reasons.extend(self.within(candidate));
        if candidate.is_good() {
            reasons.extend(self.counted(candidate));
        }
        if reasons.is_empty() {
            return self.without_rule(candidate);
        }
        Decision::Keep(reasons)
    }

    fn within(&self, candidate: &Candidate) -> Option<Kept> {
        let within = self.policy.within?;
        (self.now - candidate.started_at < within).then_some(Kept::Within(within))
    }

    /// The rules that count. Each walks from the newest on, so the first of a period is the newest of it.
    fn counted(&mut self, candidate: &Candidate) -> Vec<Kept> {
        let mut reasons = Vec::new();
        if self.filled.last < self.policy.last.unwrap_or(0) {
            self.filled.last += 1;
            reasons.push(Kept::Last { nth: self.filled.last });
        }
        for period in Period::ALL {
            let filled = self.filled.periods.entry(period).or_default();
            let name = period.of(candidate.started_at);
            if (filled.len() as u64) < u64::from(self.policy.count(period)) && filled.insert(name.clone()) {
                reasons.push(Kept::Newest { period, name });
            }
        }
        reasons
    }

    fn without_rule(&self, candidate: &Candidate) -> Decision {
        let newer = self.good.filter(|good| good.order() > candidate.order()).map(|good| good.stem.clone());
        let is_newest = self.good.is_some_and(|good| good.stem == candidate.stem);
        match (&candidate.standing, newer) {
            (Standing::Unknown(why), _) => Decision::Keep(vec![Kept::Unknown(why.clone())]),
            _ if is_newest => Decision::Keep(vec![Kept::NewestGood]),
            (Standing::Bad(why), Some(newer)) => Decision::Remove(Removed::Bad { why: why.clone(), newer }),
            (_, Some(newer)) => {
                let age_days = (self.now - candidate.started_at).num_days();
                Decision::Remove(Removed::Outlived { age_days, newer })
            }
            (standing, None) => {
                let why = if let Standing::Bad(why) = standing { Some(why.clone()) } else { None };
                Decision::Keep(vec![Kept::NothingBetter(why)])
            }
        }
    }
}
