//! What the configuration wants of an instance, held against what there is.

use std::time::Duration;

use super::overview::{DatabaseReport, Place};
use crate::command::finding::Finding;

/// What the configuration wants of one instance.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// An older newest backup is a finding.
    pub max_age: Option<Duration>,
    /// Databases that are to have a backup in the repositories that are looked into; empty: whichever there are, but
    /// one at least. `None`: what has none may have it elsewhere.
    pub databases: Option<Vec<String>>,
}

impl Expected {
    /// Databases whose newest good backup is too old, and those that have no backup at all.
    pub(super) fn findings(&self, place: Place<'_>, databases: &[DatabaseReport]) -> Vec<Finding> {
        let Some(max_age) = self.max_age else { return Vec::new() };
        let listed = self.databases.as_deref().unwrap_or_default();
        // One that is not listed any more is nobody's concern.
        let judged = databases.iter().filter(|one| listed.is_empty() || listed.contains(&one.database));
        let mut findings: Vec<Finding> = judged.filter_map(|one| stale(place, one, max_age)).collect();
        if !place.sees_all() {
            return findings;
        }
        let absent = listed.iter().filter(|name| databases.iter().all(|one| one.database != **name));
        findings.extend(absent.map(|name| {
            let fix = place.command(&["dump", "-d", name]);
            Finding::fail("backup-missing", name.as_str(), "there is no backup of it").fix(fix)
        }));
        if databases.is_empty() && listed.is_empty() && self.databases.is_some() {
            let missing =
                Finding::fail("backup-missing", place.instance.as_str(), "there is no backup of this instance");
            findings.push(missing.fix(place.command(&["dump"])));
        }
        findings
    }
}

/// One without any good backup is a finding already.
fn stale(place: Place<'_>, report: &DatabaseReport, max_age: Duration) -> Option<Finding> {
    let newest = report.newest.as_ref()?;
    let age = Duration::from_secs(u64::try_from(newest.age_seconds).unwrap_or_default());
    if age <= max_age {
        return None;
    }
    let evidence = format!("its newest good backup is {} old, max_age is {}", told(age), told(max_age));
    let fix = format!(
        "{} (if the database was dropped: list those that are left in databases of [instance.{}])",
        place.command(&["dump", "-d", &report.database]),
        place.instance
    );
    Some(Finding::fail("backup-stale", report.database.as_str(), evidence).fix(fix))
}

/// In the largest unit of which there are two.
fn told(length: Duration) -> String {
    let seconds = length.as_secs();
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / 60),
        7_200..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_is_told_in_a_unit_that_fits() {
        let told = |seconds| told(Duration::from_secs(seconds));
        assert_eq!(
            (told(90), told(150), told(93_600), told(200_000)),
            ("90 s".into(), "2 min".into(), "26 h".into(), "2 d".into())
        );
    }
}
