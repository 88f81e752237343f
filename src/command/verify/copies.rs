//! From what was found in each copy to what is said of the backup.

use super::backup::Finding;
use super::{Copy, CopyItem, Item};
use crate::command::Status;
use crate::error::{Error, Kind};
use crate::repo::{BackupId, Holding, Level, RunItem};

/// One copy, after its verification.
#[derive(Debug)]
pub(super) struct Verified {
    pub id: BackupId,
    pub database: String,
    /// The name of the repository.
    pub repository: String,
    pub status: Status,
    pub stored_bytes: Option<u64>,
    pub read_bytes: u64,
    pub duration_seconds: f64,
    pub findings: Vec<Finding>,
    pub proof: Option<String>,
    pub error: Option<Error>,
}

impl super::super::Item for Verified {
    fn error(&self) -> Option<&Error> {
        self.error.as_ref()
    }

    fn name(&self) -> &str {
        self.id.as_str()
    }
}

impl Verified {
    /// A repository that could not be read: nobody knows whether it has a copy.
    pub fn unread(holding: &Holding, repository: &str, error: &Error) -> Self {
        Self {
            id: holding.id(),
            database: holding.database().to_owned(),
            repository: repository.to_owned(),
            status: Status::NotVerified,
            stored_bytes: None,
            read_bytes: 0,
            duration_seconds: 0.0,
            findings: Vec::new(),
            proof: None,
            error: Some(error.repeated()),
        }
    }

    pub fn run_item(&self, level: Level) -> RunItem {
        let (error, stage) = (self.error.as_ref(), self.error.as_ref().map(|_| level.as_str()));
        RunItem::of(Some(self.id.clone()), &self.database, stage, error)
            .stored(self.stored_bytes)
            .lasted(self.duration_seconds)
    }
}

impl Item {
    /// A backup with all its copies.
    pub(super) fn of(level: Level, holding: &Holding, mut verified: Vec<Verified>) -> Self {
        let mut findings: Vec<Finding> =
            verified.iter_mut().flat_map(|copy| std::mem::take(&mut copy.findings)).collect();
        let (status, error) = match holding.conflict() {
            None => judged(&verified),
            Some(conflict) => {
                findings.insert(0, Finding::conflict(holding.stem(), conflict.clone()));
                let error = Error::new(Kind::Verification, conflict);
                (Status::Failed, Some(error.hint("find out which of them is right: name one repository at a time")))
            }
        };
        Self {
            id: holding.id(),
            instance: holding.instance().clone(),
            database: holding.database().to_owned(),
            level,
            status,
            read_bytes: verified.iter().map(|copy| copy.read_bytes).sum(),
            duration_seconds: verified.iter().map(|copy| copy.duration_seconds).sum(),
            findings,
            repositories: verified.into_iter().map(CopyItem::from).collect(),
            error,
        }
    }
}

impl From<Verified> for CopyItem {
    fn from(verified: Verified) -> Self {
        let Verified { repository: name, status, stored_bytes, error, proof, .. } = verified;
        Self { copy: Copy { name, status, stored_bytes, error }, proof }
    }
}

/// Copies count as several items do, but for this: one that is damaged makes the whole damaged unless another passed,
/// whatever else could not be asked.
fn judged(verified: &[Verified]) -> (Status, Option<Error>) {
    let mut failed: Vec<(&Verified, &Error)> =
        verified.iter().filter_map(|copy| Some((copy, copy.error.as_ref()?))).collect();
    if let ([one], [(_, error)]) = (verified, failed.as_slice()) {
        return (one.status, Some(error.repeated()));
    }
    let stopped = |error: &Error| matches!(error.kind, Kind::Interrupted | Kind::Terminated);
    if let Some((_, error)) = failed.iter().find(|(_, error)| stopped(error)) {
        return (Status::NotVerified, Some(error.repeated()));
    }
    // Damage is told first.
    failed.sort_by_key(|(copy, _)| copy.status != Status::Failed);
    let Some((first_copy, first)) = failed.first().copied() else { return (Status::Ok, None) };
    let passed: Vec<&Verified> = verified.iter().filter(|copy| copy.error.is_none()).collect();
    let told = failed.iter().map(|(copy, error)| told(copy, error));
    let passed_too = passed.iter().map(|copy| format!("the copy in {} passed", copy.repository));
    let sentence = told.chain(passed_too).collect::<Vec<_>>().join("; ");
    let Some(good) = passed.first() else {
        let alike = failed.iter().all(|(_, error)| error.kind == first.kind);
        let kind = if alike || first.kind == Kind::Verification { first.kind } else { Kind::NotVerified };
        return (first_copy.status, Some(Error::new(kind, sentence).hinted(first.next_step())));
    };
    let error = Error::new(Kind::Partial, sentence);
    let error = match first_copy.status {
        Status::Failed => error.hint(format!("a restore reads the copy in {}; make a new backup", good.repository)),
        _ => error.hinted(first.next_step()),
    };
    (Status::Partial, Some(error))
}

fn told(copy: &Verified, error: &Error) -> String {
    let name = &copy.repository;
    let error = error.said_of(name);
    match copy.status {
        Status::Failed | Status::Partial => format!("the copy in {name} is damaged: {error}"),
        Status::NotVerified | Status::Ok => format!("a copy in {name} could not be verified: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(repository: &str, error: Option<Kind>) -> Verified {
        Verified {
            id: "shop_20250101T020000Z_db1".parse().unwrap(),
            database: "shop".to_owned(),
            repository: repository.to_owned(),
            status: match error {
                None => Status::Ok,
                Some(Kind::Verification) => Status::Failed,
                Some(_) => Status::NotVerified,
            },
            stored_bytes: None,
            read_bytes: 0,
            duration_seconds: 0.0,
            findings: Vec::new(),
            proof: None,
            error: error.map(|kind| Error::new(kind, "x")),
        }
    }

    fn judge(copies: &[Option<Kind>]) -> (Status, Option<Kind>, String) {
        let copies: Vec<Verified> = copies.iter().zip(["a", "b"]).map(|(kind, name)| verified(name, *kind)).collect();
        let (status, error) = judged(&copies);
        let sentence = error.as_ref().map(Error::to_string).unwrap_or_default();
        (status, error.map(|error| error.kind), sentence)
    }

    #[test]
    fn a_backup_is_as_good_as_its_copies() {
        use Kind::{Locked, NotVerified, Partial, Storage, Terminated, Verification};
        let of = |copies: &[Option<Kind>]| {
            let (status, kind, _) = judge(copies);
            (status, kind)
        };
        assert_eq!(of(&[None]), (Status::Ok, None));
        assert_eq!(of(&[None, None]), (Status::Ok, None));
        assert_eq!(of(&[Some(Verification)]), (Status::Failed, Some(Verification)));
        assert_eq!(of(&[Some(Verification), None]), (Status::Partial, Some(Partial)));
        assert_eq!(of(&[None, Some(Storage)]), (Status::Partial, Some(Partial)));
        assert_eq!(of(&[Some(Storage), Some(Verification)]), (Status::Failed, Some(Verification)));
        assert_eq!(of(&[Some(Storage), Some(Storage)]), (Status::NotVerified, Some(Storage)));
        assert_eq!(of(&[Some(Storage), Some(Locked)]), (Status::NotVerified, Some(NotVerified)));
        assert_eq!(of(&[None, Some(Terminated)]), (Status::NotVerified, Some(Terminated)));
    }

    #[test]
    fn the_damaged_copy_is_told_first() {
        let (_, _, sentence) = judge(&[None, Some(Kind::Verification)]);
        assert_eq!(sentence, "the copy in b is damaged: x; the copy in a passed");
        let (_, _, sentence) = judge(&[Some(Kind::Storage), Some(Kind::Verification)]);
        assert_eq!(sentence, "the copy in b is damaged: x; a copy in a could not be verified: x");
        let (_, _, sentence) = judge(&[Some(Kind::Verification)]);
        assert_eq!(sentence, "x");
    }
}
