//! Which dumps a limit in days lets go. A pure function of what is stored and of now, which gives its reasons.
//!
//! One rule: a dump goes when it is older than the limit *and* a newer good one of the same database is there. So the
//! newest good one of each database is never removed, however old; where none is good, none is removed; and what is
//! newer than the last good one stays, to be looked at. Dumps that hold a part of a database are a series of their own:
//! they never take the place of a whole one, and the newest of them stays, too.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::layout::DumpStem;
use super::name::Stamp;
use crate::digest::Sha256;

/// A dump in the listing: one of ours with its manifest, or one of an older script, whose files have the same names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    pub stem: DumpStem,
    /// It holds a part of the database.
    pub filtered: bool,
    pub standing: Standing,
}

/// What is known of a dump's goodness.
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

/// What becomes of one dump, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    pub stem: DumpStem,
    pub verdict: Keep,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Keep {
    /// It is not older than the limit.
    Young,
    /// It is the newest good one of its database.
    LastGood,
    /// It is not known to be good, but no newer one is, either.
    NothingBetter,
    /// It could not be asked for.
    Unknown,
    /// To be removed: `age_days` old, and `newer` is good.
    Remove { age_days: i64, newer: DumpStem },
}

impl std::fmt::Display for Keep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Young => f.write_str("kept: it is not older than the limit"),
            Self::LastGood => f.write_str("kept: it is the newest good one of its database"),
            Self::NothingBetter => f.write_str("kept: no newer one of its database is good"),
            Self::Unknown => f.write_str("kept: it could not be read"),
            Self::Remove { age_days, newer } => write!(f, "removed: {age_days} days old, and {newer} is good"),
        }
    }
}

/// `RETENTION_DAYS`. Counted as `find -mtime +N` counts: whole days of 24 hours, of which there must be more than N.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days(pub u32);

impl Days {
    /// The whole days of its age where they exceed the limit. The time is that of the name, since the time of a file
    /// changes when it is copied.
    fn exceeded_by(self, started_at: Stamp, now: DateTime<Utc>) -> Option<i64> {
        let age_days = (now - started_at.time()).num_days();
        (age_days > i64::from(self.0)).then_some(age_days)
    }
}

/// What becomes of each candidate, oldest first.
pub fn decide(candidates: &[Candidate], days: Days, now: DateTime<Utc>) -> Vec<Decision> {
    let last_good = newest_good(candidates);
    let mut sorted: Vec<&Candidate> = candidates.iter().collect();
    sorted.sort_by_key(|candidate| candidate.order());
    let verdict = |candidate: &Candidate| {
        let Some(age_days) = days.exceeded_by(candidate.stem.started_at(), now) else { return Keep::Young };
        if matches!(candidate.standing, Standing::Unknown(_)) {
            return Keep::Unknown;
        }
        match last_good.get(&candidate.series()) {
            Some(good) if good.order() > candidate.order() => Keep::Remove { age_days, newer: good.stem.clone() },
            Some(good) if good.order() == candidate.order() => Keep::LastGood,
            _ => Keep::NothingBetter,
        }
    };
    sorted.into_iter().map(|candidate| Decision { stem: candidate.stem.clone(), verdict: verdict(candidate) }).collect()
}

/// The unproven dump that is worth reading next: the newest one that would let an older one go if it were good. None:
/// reading more changes nothing.
pub fn next_to_prove(candidates: &[Candidate], days: Days, now: DateTime<Utc>) -> Option<&Candidate> {
    let kept = decide(candidates, days, now).into_iter().filter(|decision| {
        // What is old and stays only for want of a newer good one.
        matches!(decision.verdict, Keep::LastGood | Keep::NothingBetter)
    });
    let kept: Vec<DumpStem> = kept.map(|decision| decision.stem).collect();
    let waiting: Vec<&Candidate> = candidates.iter().filter(|candidate| kept.contains(&candidate.stem)).collect();
    let frees = |unproven: &&Candidate| {
        waiting.iter().any(|old| old.series() == unproven.series() && old.order() < unproven.order())
    };
    let unproven = candidates.iter().filter(|candidate| candidate.standing == Standing::Unproven);
    unproven.filter(frees).max_by_key(|candidate| candidate.order())
}

/// The digest in the `.sha256` file of a dump. An older script wrote the whole path behind it, which says nothing once
/// the file was moved; `sha256sum` puts a backslash before a digest whose path it had to escape.
pub fn digest_of_checksum_file(text: &str) -> Option<Sha256> {
    let first = text.lines().next()?.split_ascii_whitespace().next()?;
    first.strip_prefix('\\').unwrap_or(first).parse().ok()
}

impl Candidate {
    /// The dumps that can take each other's place. Not by host: the name of a container changes with every run.
    fn series(&self) -> (&str, bool) {
        (self.stem.encoded_database(), self.filtered)
    }

    fn order(&self) -> (Stamp, &DumpStem) {
        (self.stem.started_at(), &self.stem)
    }
}

fn newest_good(candidates: &[Candidate]) -> BTreeMap<(&str, bool), &Candidate> {
    let mut newest: BTreeMap<(&str, bool), &Candidate> = BTreeMap::new();
    for candidate in candidates.iter().filter(|candidate| candidate.standing == Standing::Good) {
        let known = newest.entry(candidate.series()).or_insert(candidate);
        if candidate.order() > known.order() {
            *known = candidate;
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn now() -> DateTime<Utc> {
        "2025-03-01T02:00:00Z".parse().unwrap()
    }

    fn at(database: &str, age_hours: i64, standing: Standing) -> Candidate {
        let stem = DumpStem::new(database, Stamp::of(now() - TimeDelta::hours(age_hours)), "db1");
        Candidate { stem, filtered: false, standing }
    }

    fn days_old(days: i64, standing: Standing) -> Candidate {
        at("shop", days * 24, standing)
    }

    /// Oldest first.
    fn verdicts(candidates: &[Candidate], days: u32) -> Vec<Keep> {
        decide(candidates, Days(days), now()).into_iter().map(|decision| decision.verdict).collect()
    }

    fn removed_for(candidate: &Candidate, age_days: i64) -> Keep {
        Keep::Remove { age_days, newer: candidate.stem.clone() }
    }

    #[test]
    fn what_is_older_than_the_limit_goes_when_a_newer_good_one_is_there() {
        let today = days_old(0, Standing::Good);
        let candidates =
            [today.clone(), days_old(7, Standing::Good), days_old(8, Standing::Good), days_old(9, Standing::Unproven)];
        let expected = [removed_for(&today, 9), removed_for(&today, 8), Keep::Young, Keep::Young];
        assert_eq!(verdicts(&candidates, 7), expected);
    }

    #[test]
    fn days_are_counted_as_find_counts_them() {
        let fresh = at("shop", 0, Standing::Good);
        let kept =
            |age_hours, days| verdicts(&[fresh.clone(), at("shop", age_hours, Standing::Good)], days)[0] == Keep::Young;
        assert!(kept(7 * 24 + 23, 7) && !kept(8 * 24, 7));
        assert!(kept(23, 0) && !kept(24, 0));
        // A clock that was wrong makes nothing old.
        assert!(kept(-48, 0));
    }

    #[test]
    fn the_newest_good_one_stays_however_old() {
        let candidates = [days_old(400, Standing::Good), days_old(500, Standing::Good)];
        assert_eq!(verdicts(&candidates, 7), [removed_for(&candidates[0], 500), Keep::LastGood]);
    }

    #[test]
    fn what_is_not_good_takes_no_place_and_stays_while_nothing_newer_is_good() {
        let bad = |days| days_old(days, Standing::Bad("its checksum does not match".to_owned()));
        let candidates = [bad(1), bad(20), days_old(30, Standing::Good), bad(40)];
        let expected = [removed_for(&candidates[2], 40), Keep::LastGood, Keep::NothingBetter, Keep::Young];
        assert_eq!(verdicts(&candidates, 7), expected);
        let unknown = days_old(50, Standing::Unknown("timeout".to_owned()));
        assert_eq!(verdicts(&[days_old(0, Standing::Good), unknown], 7), [Keep::Unknown, Keep::Young]);
    }

    #[test]
    fn another_database_and_a_part_of_this_one_are_series_of_their_own() {
        let part = Candidate { filtered: true, ..days_old(0, Standing::Good) };
        let old_part = Candidate { filtered: true, ..days_old(11, Standing::Good) };
        let candidates = [part.clone(), at("other", 0, Standing::Good), days_old(10, Standing::Good), old_part];
        let expected = [removed_for(&part, 11), Keep::LastGood, Keep::Young, Keep::Young];
        assert_eq!(verdicts(&candidates, 7), expected);
    }

    #[test]
    fn hosts_share_a_series() {
        let stem = DumpStem::new("shop", Stamp::of(now() - TimeDelta::days(9)), "pod-x7f2");
        let candidates =
            [days_old(0, Standing::Good), Candidate { stem, filtered: false, standing: Standing::Unproven }];
        assert_eq!(verdicts(&candidates, 7), [removed_for(&candidates[0], 9), Keep::Young]);
    }

    #[test]
    fn dumps_of_an_older_script_are_read_only_where_that_lets_something_go() {
        let next = |candidates: &[Candidate]| next_to_prove(candidates, Days(7), now()).map(|one| one.stem.clone());
        let mut candidates =
            [days_old(1, Standing::Unproven), days_old(2, Standing::Unproven), days_old(9, Standing::Unproven)];
        assert_eq!(next(&candidates), Some(candidates[0].stem.clone()));
        candidates[0].standing = Standing::Bad("empty".to_owned());
        assert_eq!(next(&candidates), Some(candidates[1].stem.clone()));
        candidates[1].standing = Standing::Good;
        assert_eq!(next(&candidates), None);
        assert_eq!(verdicts(&candidates, 7)[0], removed_for(&candidates[1], 9));
        // Nothing is old; or only the unproven one is; or the dump of today is good.
        assert_eq!(next(&[days_old(1, Standing::Unproven), days_old(2, Standing::Good)]), None);
        assert_eq!(next(&[days_old(9, Standing::Unproven)]), None);
        assert_eq!(
            next(&[days_old(0, Standing::Good), days_old(1, Standing::Unproven), days_old(9, Standing::Unproven)]),
            None
        );
    }

    #[test]
    fn the_digest_of_a_checksum_file_is_its_first_word() {
        let digest = Sha256::of(b"x");
        for text in [
            format!("{digest}  /data/db-backups/data/a.dump\n"),
            format!("\\{digest}  a\\n.dump\n"),
            format!("{digest} *a"),
        ] {
            assert_eq!(digest_of_checksum_file(&text), Some(digest), "{text}");
        }
        for text in ["", "\n", "a.dump", "\\"] {
            assert_eq!(digest_of_checksum_file(text), None, "{text}");
        }
    }

    fn candidate() -> impl Strategy<Value = Candidate> {
        let standing = prop_oneof![
            2 => Just(Standing::Good),
            1 => Just(Standing::Bad(String::new())),
            1 => Just(Standing::Unproven),
            1 => Just(Standing::Unknown(String::new())),
        ];
        ("[ab]", -50..2000_i64, any::<bool>(), "[hk]", standing).prop_map(
            |(database, hours, filtered, host, standing)| {
                let stem = DumpStem::new(&database, Stamp::of(now() - TimeDelta::hours(hours)), &host);
                Candidate { stem, filtered, standing }
            },
        )
    }

    proptest! {
        #[test]
        fn no_good_backup_is_lost_and_nothing_young_goes(
            candidates in prop::collection::vec(candidate(), 0..12),
            days in 0..40_u32,
        ) {
            let mut candidates = candidates;
            candidates.sort_by(|a, b| a.stem.cmp(&b.stem));
            candidates.dedup_by(|a, b| a.stem == b.stem);
            let decisions = decide(&candidates, Days(days), now());
            prop_assert_eq!(decisions.len(), candidates.len());
            let goes = |candidate: &Candidate| {
                decisions.iter().any(|one| one.stem == candidate.stem && matches!(one.verdict, Keep::Remove { .. }))
            };
            for candidate in &candidates {
                let series: Vec<&Candidate> = candidates.iter().filter(|one| one.series() == candidate.series()).collect();
                let good = |one: &&&Candidate| one.standing == Standing::Good;
                // Whoever has a good one before has the same newest good one after.
                let before = series.iter().filter(good).map(|one| &one.stem).max_by_key(|stem| stem.started_at());
                let after = series.iter().filter(good).filter(|one| !goes(one)).map(|one| &one.stem);
                let after = after.max_by_key(|stem| stem.started_at());
                prop_assert_eq!(before.map(|stem| stem.started_at()), after.map(|stem| stem.started_at()));
                if goes(candidate) {
                    prop_assert!(now() - candidate.stem.started_at().time() > TimeDelta::days(i64::from(days)));
                    prop_assert!(series.iter().filter(good).any(|one| one.order() > candidate.order()));
                    prop_assert!(!matches!(candidate.standing, Standing::Unknown(_)));
                }
            }
        }

        /// Doing it twice removes nothing more.
        #[test]
        fn what_is_left_is_left_alone(candidates in prop::collection::vec(candidate(), 0..12), days in 0..40_u32) {
            let decisions = decide(&candidates, Days(days), now());
            let stays = |candidate: &Candidate| {
                !decisions.iter().any(|one| one.stem == candidate.stem && matches!(one.verdict, Keep::Remove { .. }))
            };
            let left: Vec<Candidate> = candidates.into_iter().filter(stays).collect();
            for decision in decide(&left, Days(days), now()) {
                let goes = matches!(decision.verdict, Keep::Remove { .. });
                prop_assert!(!goes, "{:?}", decision);
            }
        }
    }
}
