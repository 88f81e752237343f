//! Examples first, then a hundred thousand histories that nobody thought of.

use chrono::TimeDelta;
use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::*;
use crate::digest::Sha256;
use crate::repo::name::Stamp;

fn now() -> DateTime<Utc> {
    "2025-03-01T02:00:00Z".parse().unwrap()
}

fn group(database: &str, extent: Extent) -> Group {
    Group { instance: "main".parse().unwrap(), kind: BackupKind::Dump, database: database.to_owned(), extent }
}

fn at(database: &str, started_at: DateTime<Utc>, standing: Standing) -> Candidate {
    Candidate {
        stem: DumpStem::new(database, Stamp::of(started_at), "db1"),
        group: group(database, Extent::Whole),
        started_at,
        finished_at: started_at,
        standing,
        keep: None,
    }
}

fn days_old(days: i64, standing: Standing) -> Candidate {
    at("shop", now() - TimeDelta::days(days), standing)
}

fn good(days: i64) -> Candidate {
    days_old(days, Standing::Good)
}

fn bad(days: i64) -> Candidate {
    days_old(days, Standing::Bad("its checksum does not match".to_owned()))
}

fn decided(candidates: &[Candidate], policy: &Policy) -> Vec<Decision> {
    decide(candidates, policy, &Dropped::default(), now())
}

/// Those that stay, by their age in days.
fn kept_days(candidates: &[Candidate], policy: &Policy) -> Vec<i64> {
    let decisions = decided(candidates, policy);
    let kept = candidates.iter().zip(&decisions).filter(|(_, decision)| !decision.is_removal());
    kept.map(|(candidate, _)| (now() - candidate.started_at).num_days()).collect()
}

fn reasons(candidates: &[Candidate], policy: &Policy) -> Vec<String> {
    decided(candidates, policy).iter().map(Decision::to_string).collect()
}

fn outlived(age_days: i64, newer: &Candidate) -> Decision {
    Decision::Remove(Removed::Outlived { age_days, newer: newer.stem.clone() })
}

const LAST_2: Policy = Policy { last: Some(2), ..EMPTY };
const EMPTY: Policy =
    Policy { last: None, hourly: None, daily: None, weekly: None, monthly: None, yearly: None, within: None };

#[test]
fn a_calendar_of_what_stays() {
    let nightly: Vec<Candidate> = (0..500).map(good).collect();
    let policy = Policy { daily: Some(3), weekly: Some(3), monthly: Some(3), yearly: Some(2), ..EMPTY };
    // 1 March 2025 is a Saturday: the newest of a finished week is its Sunday, that of a month its last day.
    assert_eq!(kept_days(&nightly, &policy), [0, 1, 2, 6, 13, 29, 60]);
    let told = reasons(&nightly[..2], &policy);
    assert_eq!(told[0], "kept: daily 2025-03-01, weekly 2025-W09, monthly 2025-03, yearly 2025");
    assert_eq!(told[1], "kept: daily 2025-02-28, monthly 2025-02");
}

#[test]
fn periods_without_a_backup_do_not_count() {
    let candidates = [good(0), good(100), good(101), good(400), good(800)];
    assert_eq!(kept_days(&candidates, &Policy { daily: Some(3), ..EMPTY }), [0, 100, 101]);
    assert_eq!(kept_days(&candidates, &Policy { yearly: Some(3), ..EMPTY }), [0, 100, 800]);
}

#[test]
fn of_two_in_an_hour_the_one_that_ended_later_stays() {
    let long = good(1);
    let long = Candidate { finished_at: long.started_at + TimeDelta::hours(3), ..long };
    let short = Candidate { stem: DumpStem::new("shop", Stamp::of(long.started_at), "db2"), ..good(1) };
    let decisions = decided(&[long.clone(), short], &Policy { hourly: Some(1), ..EMPTY });
    assert!(!decisions[0].is_removal());
    assert_eq!(decisions[1], outlived(1, &long));
}

#[test]
fn without_a_rule_the_newest_good_one_stays() {
    let candidates = [good(400), good(500), bad(300), bad(600)];
    let expected = [
        "kept: it is the newest good one of its database".to_owned(),
        "removed: no rule keeps it, 500 days old".to_owned(),
        "kept: not good (its checksum does not match), but no newer one of its database is good".to_owned(),
        "removed: not good (its checksum does not match), and a newer one is".to_owned(),
    ];
    assert_eq!(reasons(&candidates, &EMPTY), expected);
}

#[test]
fn what_is_not_good_fills_no_rule() {
    assert_eq!(kept_days(&[bad(0), good(1), bad(2), good(3), good(4)], &LAST_2), [0, 1, 3]);
    // Where none is good nothing goes.
    assert_eq!(kept_days(&[bad(0), bad(1), bad(2)], &LAST_2), [0, 1, 2]);
    let unknown = days_old(50, Standing::Unknown("timeout".to_owned()));
    assert_eq!(reasons(&[good(0), unknown], &EMPTY)[1], "kept: it could not be read: timeout");
}

#[test]
fn a_pin_holds_until_it_ends_and_its_backup_fills_a_rule_like_any_other() {
    let pinned = |days, keep| Candidate { keep: Some(keep), ..good(days) };
    let candidates = [
        good(0),
        pinned(1, Keep::Forever),
        good(2),
        pinned(3, Keep::Until(now() + TimeDelta::days(1))),
        pinned(4, Keep::Until(now())),
    ];
    assert_eq!(kept_days(&candidates, &LAST_2), [0, 1, 3]);
    assert_eq!(reasons(&candidates, &LAST_2)[1], "kept: pinned forever, last 2");
    assert_eq!(reasons(&candidates, &LAST_2)[3], "kept: pinned until 2025-03-02T02:00:00Z");
}

#[test]
fn a_part_of_a_database_is_a_group_for_each_choice() {
    let digest = |text: &str| Some(FilterDigest::of([text]));
    let part = |days, filter| Candidate { group: group("shop", Extent::Part(filter)), ..good(days) };
    let candidates =
        [part(0, digest("a")), part(1, digest("a")), part(2, digest("b")), good(3), good(4), part(5, None)];
    assert_eq!(kept_days(&candidates, &Policy { last: Some(1), ..EMPTY }), [0, 2, 3, 5]);
}

#[test]
fn what_begins_in_the_future_stays_and_nothing_gives_way_to_it() {
    let ahead = at("shop", now() + TimeDelta::days(3650), Standing::Good);
    let candidates = [ahead, good(0), good(1), good(2)];
    assert_eq!(kept_days(&candidates, &Policy { last: Some(1), ..EMPTY }), [-3650, 0]);
    let told = "kept: it begins in the future, 2035-02-27T02:00:00Z: is a clock wrong?";
    assert_eq!(reasons(&candidates, &EMPTY)[0], told);
    // A clock that jumped ahead leaves the newest good one, and what rules count.
    let jumped = decide(
        &candidates[1..],
        &Policy { daily: Some(2), ..EMPTY },
        &Dropped::default(),
        "2099-01-01T00:00:00Z".parse().unwrap(),
    );
    assert_eq!(jumped.iter().filter(|decision| !decision.is_removal()).count(), 2);
}

#[test]
fn what_ends_in_the_future_is_the_newest_of_nothing() {
    let jumped = Candidate { finished_at: now() + TimeDelta::days(3650), ..good(3) };
    let candidates = [good(0), good(1), good(2), jumped];
    assert_eq!(kept_days(&candidates, &Policy { last: Some(2), ..EMPTY }), [0, 1, 3]);
    let told = reasons(&candidates, &EMPTY);
    assert_eq!(told[3], "kept: it ends in the future, 2035-02-27T02:00:00Z: is a clock wrong?");
    assert!(told[0].starts_with("kept: it is the newest good one") && told[2].starts_with("removed"), "{told:?}");
}

#[test]
fn a_database_that_is_no_longer_backed_up_is_left_alone() {
    let other = |days: i64| at("other", now() - TimeDelta::days(days), Standing::Good);
    let candidates = [good(10), good(11), other(0), other(1)];
    let gone = dropped(&candidates, &LastFailures::new(), now());
    assert_eq!(gone.0.keys().map(|group| group.database.as_str()).collect::<Vec<_>>(), ["shop"]);
    let decisions = decide(&candidates, &Policy { last: Some(1), ..EMPTY }, &gone, now());
    let told = "kept: its database is not backed up since 2025-02-19T02:00:00Z";
    assert_eq!(decisions[1].to_string(), told);
    assert!(decisions[3].is_removal());

    let is_gone =
        |candidates: &[Candidate], failures: &LastFailures| !dropped(candidates, failures, now()).0.is_empty();
    // A week without it is a weekly job; a month in which nothing ran drops nothing; nor does a clock that was wrong.
    assert!(!is_gone(&[good(8), other(0)], &LastFailures::new()));
    assert!(!is_gone(&[good(30), other(29)], &LastFailures::new()));
    assert!(!is_gone(&[good(0), other(-300)], &LastFailures::new()));
    // One whose dumps fail is not dropped.
    let shop = group("shop", Extent::Whole);
    assert!(is_gone(&[good(10), other(0)], &[(group("shop", Extent::Part(None)), now())].into()));
    assert!(!is_gone(&[good(10), other(0)], &[(shop.clone(), now())].into()));
    assert!(is_gone(&[good(10), other(0)], &[(shop, now() - TimeDelta::days(9))].into()));
}

mod retention_days {
    use super::*;

    fn verdicts(candidates: &[Candidate], days: u32) -> Vec<Decision> {
        decided(candidates, &Policy::of_days(days))
    }

    #[test]
    fn what_is_older_than_the_limit_goes_when_a_newer_good_one_is_there() {
        let unproven = days_old(9, Standing::Unproven);
        let candidates = [good(0), good(7), good(8), unproven];
        let decisions = verdicts(&candidates, 7);
        assert!(!decisions[0].is_removal() && !decisions[1].is_removal());
        assert_eq!(decisions[2..], [outlived(8, &candidates[0]), outlived(9, &candidates[0])]);
    }

    #[test]
    fn days_are_counted_as_find_counts_them() {
        let hours = |hours| at("shop", now() - TimeDelta::hours(hours), Standing::Good);
        let kept = |age, days| !verdicts(&[good(0), hours(age)], days)[1].is_removal();
        assert!(kept(7 * 24 + 23, 7) && !kept(8 * 24, 7));
        assert!(kept(23, 0) && !kept(24, 0));
        // A clock that was wrong makes nothing old.
        assert!(kept(-48, 0));
    }

    #[test]
    fn hosts_share_a_group() {
        let stem = DumpStem::new("shop", Stamp::of(now() - TimeDelta::days(9)), "pod-x7f2");
        let candidates = [good(0), Candidate { stem, ..days_old(9, Standing::Unproven) }];
        assert_eq!(verdicts(&candidates, 7)[1], outlived(9, &candidates[0]));
    }

    #[test]
    fn dumps_of_an_older_script_are_read_only_where_that_lets_something_go() {
        let policy = Policy::of_days(7);
        let unproven = |days| days_old(days, Standing::Unproven);
        let next = |candidates: &[Candidate]| next_to_prove(candidates, &policy, now()).map(|one| one.stem.clone());
        let mut candidates = [unproven(1), unproven(2), unproven(9)];
        assert_eq!(next(&candidates), Some(candidates[0].stem.clone()));
        candidates[0].standing = Standing::Bad("empty".to_owned());
        assert_eq!(next(&candidates), Some(candidates[1].stem.clone()));
        candidates[1].standing = Standing::Good;
        assert_eq!(next(&candidates), None);
        assert_eq!(decided(&candidates, &policy)[2], outlived(9, &candidates[1]));
        // Nothing is old; or only the unproven one is; or the dump of today is good.
        assert_eq!(next(&[unproven(1), good(2)]), None);
        assert_eq!(next(&[unproven(9)]), None);
        assert_eq!(next(&[good(0), unproven(1), unproven(9)]), None);
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
}

/// A repository with a past, rules, a moment, and chance for what each invariant draws.
#[derive(Clone, Debug)]
struct Case {
    history: Vec<Candidate>,
    policy: Policy,
    dropped: Dropped,
    now: DateTime<Utc>,
    extra: Candidate,
    chance: u64,
}

impl Case {
    fn decide(&self) -> Vec<Decision> {
        decide(&self.history, &self.policy, &self.dropped, self.now)
    }

    fn with(&self, history: Vec<Candidate>) -> Self {
        Self { history, ..self.clone() }
    }

    /// The ids of those that stay.
    fn kept(&self) -> BTreeSet<DumpStem> {
        let decisions = self.decide();
        let kept = self.history.iter().zip(&decisions).filter(|(_, decision)| !decision.is_removal());
        kept.map(|(one, _)| one.stem.clone()).collect()
    }

    /// A bit of chance for each place.
    fn coin(&self, at: usize) -> bool {
        self.chance.rotate_left((at * 7 % 64) as u32).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 63 == 1
    }
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        5 => Just(Standing::Good),
        2 => Just(Standing::Bad("damaged".to_owned())),
        1 => Just(Standing::Unproven),
        1 => Just(Standing::Unknown("timeout".to_owned())),
    ]
}

fn extent() -> impl Strategy<Value = Extent> {
    let part = |text: &'static str| Just(Extent::Part(Some(FilterDigest::of([text]))));
    prop_oneof![5 => Just(Extent::Whole), 1 => part("a"), 1 => part("b"), 1 => Just(Extent::Part(None))]
}

fn pin() -> impl Strategy<Value = Option<Keep>> {
    let until = (-500..500_i64).prop_map(|hours| Some(Keep::Until(now() + TimeDelta::hours(hours))));
    prop_oneof![8 => Just(None), 1 => Just(Some(Keep::Forever)), 1 => until]
}

/// Minutes before now: some within hours, some within months, some over years, some ahead.
fn age() -> impl Strategy<Value = i64> {
    prop_oneof![3 => 0..3_000_i64, 3 => 0..200_000_i64, 1 => 0..2_500_000_i64, 1 => -5_000..0_i64, 1 => -6_000_000..0_i64]
}

fn candidate() -> impl Strategy<Value = Candidate> {
    ("[ab]", "[st]", extent(), age(), 0..300_i64, standing(), pin(), any::<u32>()).prop_map(
        |(database, instance, extent, age, length, standing, keep, host)| {
            let started_at = now() - TimeDelta::minutes(age);
            Candidate {
                stem: DumpStem::new(&database, Stamp::of(started_at), &format!("h{host:08x}")),
                group: Group { instance: instance.parse().unwrap(), ..group(&database, extent) },
                started_at,
                finished_at: started_at + TimeDelta::minutes(length),
                standing,
                keep,
            }
        },
    )
}

fn policy() -> impl Strategy<Value = Policy> {
    let count = || prop::option::of(0..6_u32);
    let within = prop::option::of((0..900_i64).prop_map(TimeDelta::hours));
    (count(), count(), count(), count(), count(), count(), within).prop_map(
        |(last, hourly, daily, weekly, monthly, yearly, within)| Policy {
            last,
            hourly,
            daily,
            weekly,
            monthly,
            yearly,
            within,
        },
    )
}

fn case() -> impl Strategy<Value = Case> {
    // Most decisions are made at the right time, some by a clock that jumped.
    let moment = prop_oneof![4 => Just(0_i64), 1 => -100_000..100_000_i64, 1 => -6_000_000..6_000_000_i64];
    (prop::collection::vec(candidate(), 0..30), policy(), candidate(), any::<u64>(), moment).prop_map(
        |(mut history, policy, extra, chance, minutes)| {
            history.sort_by(|a, b| a.stem.cmp(&b.stem));
            history.dedup_by(|a, b| a.stem == b.stem);
            history.retain(|one| one.stem != extra.stem);
            let groups = history.iter().enumerate().filter(|(at, _)| chance.rotate_right(*at as u32) & 7 == 0);
            let dropped = Dropped(groups.map(|(_, one)| (one.group.clone(), one.started_at)).collect());
            Case { history, policy, dropped, now: now() + TimeDelta::minutes(minutes), extra, chance }
        },
    )
}

type Tested = Result<(), TestCaseError>;

fn every_decision_has_a_reason_and_pins_hold(case: &Case) -> Tested {
    let decisions = case.decide();
    prop_assert_eq!(decisions.len(), case.history.len());
    for (one, decision) in case.history.iter().zip(&decisions) {
        prop_assert!(!decision.reasons().is_empty() && decision.reasons().iter().all(|reason| !reason.is_empty()));
        let held = one.keep.is_some_and(|keep| keep.holds(case.now))
            || one.ahead(case.now).is_some()
            || matches!(one.standing, Standing::Unknown(_))
            || case.dropped.since(&one.group).is_some()
            || case.policy.within.is_some_and(|within| case.now - one.started_at < within);
        prop_assert!(!(held && decision.is_removal()), "{one:?} {decision:?}");
        let Some(newer) = decision.leans_on() else { continue };
        // What it gives way to is a newer good one of its own group, which stays.
        let newer = case.history.iter().position(|other| other.stem == *newer).unwrap();
        let (other, fate) = (&case.history[newer], &decisions[newer]);
        prop_assert!(other.group == one.group && other.is_good() && other.order() > one.order());
        prop_assert!(!fate.is_removal());
    }
    Ok(())
}

fn the_newest_good_of_each_group_stays(case: &Case) -> Tested {
    let kept = case.kept();
    for group in case.history.iter().map(|one| &one.group).collect::<BTreeSet<_>>() {
        let members = || case.history.iter().filter(|one| one.group == *group);
        let good = || members().filter(|one| one.counts(case.now));
        match good().max_by_key(|one| one.order()) {
            Some(newest) => prop_assert!(kept.contains(&newest.stem)),
            // Nothing of it goes.
            None => prop_assert!(members().all(|one| kept.contains(&one.stem))),
        }
    }
    Ok(())
}

/// A bad backup more, wherever it is, changes nothing for good ones, and nothing of another group changes anything.
fn what_is_bad_or_of_another_group_decides_nothing(case: &Case) -> Tested {
    let more = |extra: Candidate| case.with(case.history.iter().cloned().chain([extra]).collect()).decide();
    let before = case.decide();
    for standing in [Standing::Bad("damaged".to_owned()), Standing::Unproven, Standing::Unknown(String::new())] {
        let after = more(Candidate { standing, ..case.extra.clone() });
        for ((one, before), after) in case.history.iter().zip(&before).zip(&after) {
            prop_assert!(!one.is_good() || before == after, "{one:?}: {before} {after}");
        }
    }
    let after = more(Candidate { standing: Standing::Good, ..case.extra.clone() });
    for ((one, before), after) in case.history.iter().zip(&before).zip(&after) {
        prop_assert!(one.group == case.extra.group || before == after);
    }
    Ok(())
}

fn a_larger_rule_keeps_a_superset(case: &Case) -> Tested {
    let kept = case.kept();
    let Policy { last, hourly, daily, weekly, monthly, yearly, within } = case.policy.clone();
    let grown = |at: usize, count: Option<u32>| if case.coin(at) { Some(count.unwrap_or(0) + 1) } else { count };
    let policy = Policy {
        last: grown(0, last),
        hourly: grown(1, hourly),
        daily: grown(2, daily),
        weekly: grown(3, weekly),
        monthly: grown(4, monthly),
        yearly: grown(5, yearly),
        within: within.map(|within| within + TimeDelta::hours(case.chance as i64 & 255)),
    };
    let larger = Case { policy, ..case.clone() }.kept();
    prop_assert!(kept.is_subset(&larger));
    Ok(())
}

fn pruning_twice_is_pruning_once(case: &Case) -> Tested {
    let kept = case.kept();
    let left = case.with(case.history.iter().filter(|one| kept.contains(&one.stem)).cloned().collect());
    prop_assert_eq!(left.kept(), kept);
    // And for the same reasons.
    let reason_of = |case: &Case| -> BTreeMap<DumpStem, Decision> {
        case.history.iter().map(|one| one.stem.clone()).zip(case.decide()).collect()
    };
    let (before, after) = (reason_of(case), reason_of(&left));
    prop_assert!(after.iter().all(|(stem, decision)| before[stem] == *decision));
    Ok(())
}

/// A prune that dies, or meets objects that it cannot remove, leaves any part of what was to go.
fn whatever_a_prune_leaves_the_next_one_keeps_what_it_kept(case: &Case) -> Tested {
    let kept = case.kept();
    let stays = |(at, one): &(usize, &Candidate)| kept.contains(&one.stem) || case.coin(*at);
    let left = case.history.iter().enumerate().filter(stays).map(|(_, one)| one.clone()).collect();
    prop_assert_eq!(case.with(left).kept(), kept);
    Ok(())
}

fn the_order_of_candidates_decides_nothing(case: &Case) -> Tested {
    let mut shuffled = case.history.clone();
    if !shuffled.is_empty() {
        let by = case.chance as usize % shuffled.len();
        shuffled.rotate_left(by);
        shuffled.reverse();
    }
    let decided = |case: &Case| -> BTreeMap<DumpStem, Decision> {
        case.history.iter().map(|one| one.stem.clone()).zip(case.decide()).collect()
    };
    prop_assert_eq!(decided(case), decided(&case.with(shuffled)));
    Ok(())
}

/// What one instance has, or one repository, decides nothing about another.
fn each_decides_by_its_own(case: &Case) -> Tested {
    let mine = |one: &&Candidate| one.group.instance.as_str() == "s";
    let alone = case.with(case.history.iter().filter(mine).cloned().collect()).decide();
    let together = case.history.iter().zip(case.decide()).filter(|(one, _)| mine(one)).map(|(_, decision)| decision);
    prop_assert_eq!(alone, together.collect::<Vec<_>>());
    Ok(())
}

/// At any time, what began later stays, and so does the newest good one of what began before.
fn a_clock_that_jumps_leaves_a_good_one(case: &Case) -> Tested {
    for days in [-3650, -400, -1, 1, 400, 3650] {
        let jumped = Case { now: case.now + TimeDelta::days(days), ..case.clone() };
        the_newest_good_of_each_group_stays(&jumped)?;
        let kept = jumped.kept();
        prop_assert!(case.history.iter().all(|one| one.ahead(jumped.now).is_none() || kept.contains(&one.stem)));
    }
    Ok(())
}

#[allow(clippy::disallowed_methods)]
fn cases() -> u32 {
    if std::env::var_os("PGKEEP_TEST_LONG").is_some_and(|value| value == "1") { 100_000 } else { 2_000 }
}

#[test]
fn histories_that_nobody_thought_of() {
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    // The same histories each time.
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &[20; 32]));
    let tested = runner.run(&case(), |case| {
        every_decision_has_a_reason_and_pins_hold(&case)?;
        the_newest_good_of_each_group_stays(&case)?;
        what_is_bad_or_of_another_group_decides_nothing(&case)?;
        a_larger_rule_keeps_a_superset(&case)?;
        pruning_twice_is_pruning_once(&case)?;
        whatever_a_prune_leaves_the_next_one_keeps_what_it_kept(&case)?;
        the_order_of_candidates_decides_nothing(&case)?;
        each_decides_by_its_own(&case)?;
        a_clock_that_jumps_leaves_a_good_one(&case)
    });
    tested.unwrap_or_else(|error| panic!("{error}"));
}
