//! What becomes of a backup, and why, in words.

use std::fmt;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};

use super::policy::{Period, length};
use crate::repo::keep::Keep;
use crate::repo::layout::DumpStem;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// For at least one reason.
    Keep(Vec<Kept>),
    Remove(Removed),
}

/// Why a backup stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    Pinned(Keep),
    /// The nth of the newest.
    Last {
        nth: u32,
    },
    /// The newest of a period of the calendar.
    Newest {
        period: Period,
        name: String,
    },
    Within(TimeDelta),
    /// No rule keeps it.
    NewestGood,
    /// It is not good, and why where that is known, but no newer one is, either.
    NothingBetter(Option<String>),
    /// It could not be asked for.
    Unknown(String),
    Future {
        started_at: DateTime<Utc>,
    },
    EndsInFuture {
        finished_at: DateTime<Utc>,
    },
    /// Its database is no longer backed up; `since` is the time of the newest backup.
    Dropped {
        since: DateTime<Utc>,
    },
}

/// Why a backup goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removed {
    /// No rule keeps it, and `newer` is good.
    Outlived { age_days: i64, newer: DumpStem },
    /// It is not good, and `newer` is.
    Bad { why: String, newer: DumpStem },
    /// Its user named it; with what is wrong with it, if anything is, or with another good one of its group.
    Named { why: Option<String>, other: Option<DumpStem> },
    /// Its database is no longer backed up, and its user named that.
    Dropped { since: DateTime<Utc> },
}

impl Decision {
    pub fn is_removal(&self) -> bool {
        matches!(self, Self::Remove(_))
    }

    /// The good backup without which this one would not go.
    pub fn leans_on(&self) -> Option<&DumpStem> {
        match self {
            Self::Remove(Removed::Outlived { newer, .. } | Removed::Bad { newer, .. }) => Some(newer),
            Self::Remove(Removed::Named { other, .. }) => other.as_ref(),
            _ => None,
        }
    }

    /// One phrase for each reason.
    pub fn reasons(&self) -> Vec<String> {
        match self {
            Self::Keep(reasons) => reasons.iter().map(Kept::to_string).collect(),
            Self::Remove(reason) => vec![reason.to_string()],
        }
    }
}

impl fmt::Display for Decision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.is_removal() { "removed" } else { "kept" };
        write!(f, "{verb}: {}", self.reasons().join(", "))
    }
}

impl fmt::Display for Kept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pinned(keep) => write!(f, "pinned {keep}"),
            Self::Last { nth } => write!(f, "last {nth}"),
            Self::Newest { period, name } => write!(f, "{} {name}", period.as_str()),
            Self::Within(within) => write!(f, "within {}", length(*within)),
            Self::NewestGood => f.write_str("it is the newest good one of its database"),
            Self::NothingBetter(None) => f.write_str("no newer one of its database is good"),
            Self::NothingBetter(Some(why)) => write!(f, "not good ({why}), but no newer one of its database is good"),
            Self::Unknown(why) => write!(f, "it could not be read: {why}"),
            Self::Future { started_at } => {
                write!(f, "it begins in the future, {}: is a clock wrong?", second(*started_at))
            }
            Self::EndsInFuture { finished_at } => {
                write!(f, "it ends in the future, {}: is a clock wrong?", second(*finished_at))
            }
            Self::Dropped { since } => write!(f, "its database is not backed up since {}", second(*since)),
        }
    }
}

impl fmt::Display for Removed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outlived { age_days, .. } => write!(f, "no rule keeps it, {age_days} days old"),
            Self::Bad { why, .. } => write!(f, "not good ({why}), and a newer one is"),
            Self::Named { why: None, .. } => f.write_str("named"),
            Self::Named { why: Some(why), .. } => write!(f, "named, and not good ({why})"),
            Self::Dropped { since } => {
                write!(f, "its database is not backed up since {}, and named", second(*since))
            }
        }
    }
}

fn second(at: DateTime<Utc>) -> String {
    at.to_rfc3339_opts(SecondsFormat::Secs, true)
}
