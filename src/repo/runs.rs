//! One run that several repositories recorded: it has one name in all of them, and is told once.

use std::collections::BTreeMap;

use super::layout::RunName;
use super::name::InstanceName;
use super::record::{RunItem, RunRecord, RunStatus, SeenRun};
use crate::error::Kind;

/// The runs that repositories tell of, each once, oldest first.
///
/// A record that has an end speaks before one that has none: a repository that went away keeps what it had. Where a run
/// ended well in one repository and not in another it is PARTIAL, and the reason names the repository.
pub fn told_once(told: impl IntoIterator<Item = SeenRun>) -> Vec<SeenRun> {
    let mut by_name: BTreeMap<(RunName, InstanceName), SeenRun> = BTreeMap::new();
    for run in told {
        let name = (run.run.clone(), run.instance.clone());
        let run = match by_name.remove(&name) {
            Some(known) => joined(known, run),
            None => run,
        };
        by_name.insert(name, run);
    }
    by_name.into_values().collect()
}

fn joined(one: SeenRun, two: SeenRun) -> SeenRun {
    let record = match (one.record, two.record) {
        (Ok(first), Ok(second)) => {
            Ok(joined_records((one.repositories.as_slice(), first), (two.repositories.as_slice(), second)))
        }
        // What one repository cannot tell another can.
        (Ok(record), Err(_)) | (Err(_), Ok(record)) => Ok(record),
        (Err(error), Err(_)) => Err(error),
    };
    let repositories = one.repositories.into_iter().chain(two.repositories).collect();
    SeenRun { instance: one.instance, run: one.run, repositories, record }
}

fn joined_records(one: (&[String], RunRecord), two: (&[String], RunRecord)) -> RunRecord {
    if rank(one.1.status) == rank(two.1.status) {
        let items = joined_items(one.1.items, two.1.items, &two.0.join(", "));
        return RunRecord { items, ..one.1 };
    }
    let (better, worse) = if rank(one.1.status) < rank(two.1.status) { (one, two) } else { (two, one) };
    if better.1.finished_at.is_none() || worse.1.finished_at.is_none() {
        return if worse.1.finished_at.is_some() { worse.1 } else { better.1 };
    }
    let place = worse.0.join(", ");
    RunRecord {
        status: RunStatus::Partial,
        stage: worse.1.stage,
        exit_code: Some(Kind::Partial.exit_code()),
        error: worse.1.error.map(|error| format!("repository {place}: {error}")),
        hint: worse.1.hint,
        finished_at: better.1.finished_at.max(worse.1.finished_at),
        duration_seconds: better.1.duration_seconds.into_iter().chain(worse.1.duration_seconds).reduce(f64::max),
        items: joined_items(better.1.items, worse.1.items, &place),
        ..better.1
    }
}

/// The items of both; one that both have is PARTIAL where they differ, for the reason that `place` gives or has.
fn joined_items(mut items: Vec<RunItem>, others: Vec<RunItem>, place: &str) -> Vec<RunItem> {
    for other in others {
        let known = items.iter_mut().find(|item| item.id == other.id && item.database == other.database);
        let Some(known) = known else {
            items.push(other);
            continue;
        };
        if rank(other.status) > rank(known.status) {
            let (id, database) = (known.id.take(), known.database.take());
            let (stored_bytes, duration_seconds) = (known.stored_bytes, known.duration_seconds);
            let error = other.error.map(|error| format!("repository {place}: {error}"));
            *known = RunItem { id, database, stored_bytes, duration_seconds, error, ..other };
            known.status = RunStatus::Partial;
            known.exit_code = Kind::Partial.exit_code();
        } else if rank(other.status) < rank(known.status) {
            known.status = RunStatus::Partial;
            known.exit_code = Kind::Partial.exit_code();
        }
    }
    items
}

/// From well to badly; what has no end is at the end.
fn rank(status: RunStatus) -> u8 {
    match status {
        RunStatus::Succeeded => 0,
        RunStatus::Partial => 1,
        RunStatus::Failed => 2,
        RunStatus::Running => 3,
        RunStatus::Interrupted => 4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::repo::{HostId, Verb};

    fn name(text: &str) -> RunName {
        text.parse().unwrap()
    }

    fn item(database: &str, status: RunStatus) -> RunItem {
        let error = (status != RunStatus::Succeeded).then(|| format!("{database} failed"));
        RunItem {
            id: None,
            database: Some(database.to_owned()),
            status,
            stage: None,
            exit_code: 5,
            error,
            hint: None,
            stored_bytes: None,
            duration_seconds: 1.0,
            filter: None,
            replay_paused_seconds: None,
        }
    }

    fn seen(repository: &str, run: &str, status: RunStatus, items: Vec<RunItem>) -> SeenRun {
        let ended = !matches!(status, RunStatus::Running | RunStatus::Interrupted);
        let record = RunRecord {
            format: 1,
            run: name(run),
            verb: Verb::Dump,
            instance: "main".parse().unwrap(),
            status,
            stage: None,
            host_id: HostId::random(),
            host: "db1".to_owned(),
            pid: 1,
            lock_token: repository.to_owned(),
            started_at: chrono::DateTime::UNIX_EPOCH,
            finished_at: ended.then_some(chrono::DateTime::UNIX_EPOCH),
            duration_seconds: ended.then_some(1.0),
            exit_code: ended.then_some(0),
            error: (status == RunStatus::Failed).then(|| "no space".to_owned()),
            hint: None,
            items,
            pgkeep_version: String::new(),
        };
        let repositories = vec![repository.to_owned()];
        SeenRun { instance: "main".parse().unwrap(), run: name(run), repositories, record: Ok(record) }
    }

    const RUN: &str = "20250101T000000Z-dump-00000000";

    #[test]
    fn a_run_is_told_once_and_names_the_repositories_that_recorded_it() {
        let other = "20250101T000000Z-dump-00000001";
        let runs = told_once([
            seen("a", other, RunStatus::Succeeded, Vec::new()),
            seen("a", RUN, RunStatus::Succeeded, vec![item("shop", RunStatus::Succeeded)]),
            seen("b", RUN, RunStatus::Succeeded, vec![item("shop", RunStatus::Succeeded)]),
        ]);
        let told: Vec<_> = runs.iter().map(|run| (run.run.to_string(), run.repositories.join(" "))).collect();
        assert_eq!(told, [(RUN.to_owned(), "a b".to_owned()), (other.to_owned(), "a".to_owned())]);
        assert_eq!(runs[0].record.as_ref().unwrap().items.len(), 1);
    }

    #[test]
    fn it_is_partial_where_one_repository_failed_and_says_which() {
        for turn in [false, true] {
            let mut told = vec![
                seen("a", RUN, RunStatus::Succeeded, vec![item("shop", RunStatus::Succeeded)]),
                seen("b", RUN, RunStatus::Failed, vec![item("shop", RunStatus::Failed)]),
            ];
            if turn {
                told.reverse();
            }
            let runs = told_once(told);
            let record = runs[0].record.as_ref().unwrap();
            assert_eq!((record.status, record.exit_code), (RunStatus::Partial, Some(10)));
            assert_eq!(record.error.as_deref(), Some("repository b: no space"));
            assert_eq!(record.items.len(), 1);
            assert_eq!(record.items[0].status, RunStatus::Partial);
            assert_eq!(record.items[0].error.as_deref(), Some("repository b: shop failed"));
        }
    }

    #[test]
    fn a_record_with_an_end_speaks_before_one_without() {
        for without in [RunStatus::Running, RunStatus::Interrupted] {
            for with in [RunStatus::Succeeded, RunStatus::Failed] {
                let runs = told_once([seen("a", RUN, without, Vec::new()), seen("b", RUN, with, Vec::new())]);
                assert_eq!(runs[0].record.as_ref().unwrap().status, with);
            }
        }
        let both = [seen("a", RUN, RunStatus::Interrupted, Vec::new()), seen("b", RUN, RunStatus::Running, Vec::new())];
        assert_eq!(told_once(both)[0].record.as_ref().unwrap().status, RunStatus::Running);
    }

    #[test]
    fn a_record_that_cannot_be_read_does_not_hide_one_that_can() {
        let mut damaged = seen("a", RUN, RunStatus::Succeeded, Vec::new());
        damaged.record = Err(Error::new(Kind::Verification, "read it"));
        let runs = told_once([damaged, seen("b", RUN, RunStatus::Succeeded, Vec::new())]);
        assert!(runs[0].record.is_ok());
    }
}
