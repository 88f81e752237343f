//! The rules: how many of which period stay.

use std::fmt;

use chrono::{DateTime, Datelike as _, TimeDelta, Timelike as _, Utc};

use crate::config::file::Retention;

/// What is kept beside what always is. A backup stays if any rule keeps it; zero is as good as no rule.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policy {
    /// So many of the newest.
    pub last: Option<u32>,
    /// The newest of each of so many hours, and so on. Periods in which there is no good backup do not count.
    pub hourly: Option<u32>,
    pub daily: Option<u32>,
    pub weekly: Option<u32>,
    pub monthly: Option<u32>,
    pub yearly: Option<u32>,
    /// Everything that is younger.
    pub within: Option<TimeDelta>,
}

impl From<&Retention> for Policy {
    fn from(configured: &Retention) -> Self {
        let Retention { last, hourly, daily, weekly, monthly, yearly, within } = *configured;
        let within = within.map(|within| TimeDelta::from_std(within).unwrap_or(TimeDelta::MAX));
        Self { last, hourly, daily, weekly, monthly, yearly, within }
    }
}

/// A stretch of the calendar, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Period {
    Hourly,
    Daily,
    /// From Monday on, as ISO 8601 numbers weeks.
    Weekly,
    Monthly,
    Yearly,
}

impl Policy {
    /// `RETENTION_DAYS`. Counted as `find -mtime +N` counts: whole days of 24 hours, of which there must be more than N.
    pub fn of_days(days: u32) -> Self {
        Self { within: Some(TimeDelta::days(i64::from(days) + 1)), ..Self::default() }
    }

    /// There is no rule: nothing can be decided by it.
    pub fn is_empty(&self) -> bool {
        let counts = Period::ALL.iter().map(|period| self.count(*period)).chain(self.last);
        counts.sum::<u32>() == 0 && self.within.is_none_or(|within| within <= TimeDelta::zero())
    }

    pub fn count(&self, period: Period) -> u32 {
        let count = match period {
            Period::Hourly => self.hourly,
            Period::Daily => self.daily,
            Period::Weekly => self.weekly,
            Period::Monthly => self.monthly,
            Period::Yearly => self.yearly,
        };
        count.unwrap_or(0)
    }
}

/// "keep-last 3, keep-daily 7, keep-within 14d", as it is typed.
impl fmt::Display for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last.iter().map(|count| format!("keep-last {count}"));
        let periods = Period::ALL.into_iter().map(|period| (period, self.count(period)));
        let periods =
            periods.filter(|(_, count)| *count > 0).map(|(period, n)| format!("keep-{} {n}", period.as_str()));
        let within = self.within.iter().map(|within| format!("keep-within {}", length(*within)));
        let rules: Vec<String> = last.chain(periods).chain(within).collect();
        f.write_str(if rules.is_empty() { "none" } else { "" })?;
        f.write_str(&rules.join(", "))
    }
}

/// `14d`, `36h`, `90s`: in the largest unit that divides it.
pub(super) fn length(length: TimeDelta) -> String {
    let seconds = length.num_seconds();
    for (unit, of) in [("d", 86_400), ("h", 3_600), ("m", 60)] {
        if seconds % of == 0 {
            return format!("{}{unit}", seconds / of);
        }
    }
    format!("{seconds}s")
}

impl Period {
    pub const ALL: [Self; 5] = [Self::Hourly, Self::Daily, Self::Weekly, Self::Monthly, Self::Yearly];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Hourly => "hourly",
            Self::Daily => "daily",
            Self::Weekly => "weekly",
            Self::Monthly => "monthly",
            Self::Yearly => "yearly",
        }
    }

    /// The name of the one in which `at` lies: "2026-11-20T02", "2026-11-20", "2026-W47", "2026-11", "2026".
    pub fn of(self, at: DateTime<Utc>) -> String {
        let (year, month, day) = (at.year(), at.month(), at.day());
        match self {
            Self::Hourly => format!("{year}-{month:02}-{day:02}T{:02}", at.hour()),
            Self::Daily => format!("{year}-{month:02}-{day:02}"),
            Self::Weekly => {
                // The days around New Year belong to a week of the other year.
                let week = at.iso_week();
                format!("{}-W{:02}", week.year(), week.week())
            }
            Self::Monthly => format!("{year}-{month:02}"),
            Self::Yearly => format!("{year}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn periods_are_those_of_utc_and_weeks_those_of_iso() {
        let of = |at: &str| Period::ALL.map(|period| period.of(at.parse().unwrap())).join(" ");
        assert_eq!(of("2026-11-20T02:59:59Z"), "2026-11-20T02 2026-11-20 2026-W47 2026-11 2026");
        assert_eq!(of("2026-11-20T00:30:00+02:00"), "2026-11-19T22 2026-11-19 2026-W47 2026-11 2026");
        assert_eq!(of("2027-01-03T23:00:00Z"), "2027-01-03T23 2027-01-03 2026-W53 2027-01 2027");
        assert_eq!(of("2024-12-30T00:00:00Z"), "2024-12-30T00 2024-12-30 2025-W01 2024-12 2024");
    }

    #[test]
    fn a_policy_reads_as_it_is_typed() {
        let policy = Policy { last: Some(3), daily: Some(7), weekly: Some(0), ..Policy::of_days(13) };
        assert_eq!(policy.to_string(), "keep-last 3, keep-daily 7, keep-within 14d");
        assert_eq!(Policy::default().to_string(), "none");
        let within = |seconds| Policy { within: Some(TimeDelta::seconds(seconds)), ..Policy::default() };
        assert_eq!(within(36 * 3_600).to_string(), "keep-within 36h");
        assert_eq!(within(90).to_string(), "keep-within 90s");
    }

    #[test]
    fn a_policy_of_nothing_is_seen() {
        assert!(Policy::default().is_empty());
        assert!(Policy { daily: Some(0), within: Some(TimeDelta::zero()), ..Policy::default() }.is_empty());
        assert!(!Policy { yearly: Some(1), ..Policy::default() }.is_empty());
        assert!(!Policy::of_days(0).is_empty());
    }
}
