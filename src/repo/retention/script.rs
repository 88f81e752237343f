//! Dumps of the script that an env file comes from: nobody knows that they are good before one is read.

use chrono::{DateTime, Utc};

use super::{Candidate, Decision, Dropped, Kept, Policy, Standing, decide};
use crate::digest::Sha256;

/// The unproven dump that is worth reading next: the newest one that would let an older one go if it were good. None:
/// reading more changes nothing.
pub fn next_to_prove<'a>(candidates: &'a [Candidate], policy: &Policy, now: DateTime<Utc>) -> Option<&'a Candidate> {
    let decisions = decide(candidates, policy, &Dropped::default(), now);
    // What is old and stays only for want of a newer good one.
    let wants = |reason: &Kept| matches!(reason, Kept::NewestGood | Kept::NothingBetter(_));
    let waits = |decision: &Decision| matches!(decision, Decision::Keep(reasons) if reasons.iter().all(wants));
    let waiting: Vec<&Candidate> =
        candidates.iter().zip(&decisions).filter(|(_, decision)| waits(decision)).map(|(one, _)| one).collect();
    let frees =
        |unproven: &&Candidate| waiting.iter().any(|old| old.group == unproven.group && old.order() < unproven.order());
    let unproven = candidates.iter().filter(|one| one.standing == Standing::Unproven && one.ahead(now).is_none());
    unproven.filter(frees).max_by_key(|candidate| candidate.order())
}

/// The digest in the `.sha256` file of a dump. An older script wrote the whole path behind it, which says nothing once
/// the file was moved; `sha256sum` puts a backslash before a digest whose path it had to escape.
pub fn digest_of_checksum_file(text: &str) -> Option<Sha256> {
    let first = text.lines().next()?.split_ascii_whitespace().next()?;
    first.strip_prefix('\\').unwrap_or(first).parse().ok()
}
