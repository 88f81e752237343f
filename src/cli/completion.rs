//! Completion of backup ids: asks the repository that is being typed, says nothing if it cannot.

use std::ffi::OsStr;

use clap_complete::CompletionCandidate;

/// Ids of the repository named by `--repo` on the line, newest first, that begin with what was typed.
pub fn backup_ids(current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let mut candidates: Vec<CompletionCandidate> = typed_repository()
        .map(|address| super::run::ids_of(&address))
        .unwrap_or_default()
        .into_iter()
        .filter(|(id, _)| id.starts_with(&*current))
        .map(|(id, help)| CompletionCandidate::new(id).help(Some(help.into())))
        .collect();
    if "latest".starts_with(&*current) {
        candidates.insert(0, CompletionCandidate::new("latest").help(Some("the newest good backup".into())));
    }
    candidates
}

/// The completion engine hands over the line after `--`: `pgkeep -- pgkeep verify --repo /backups …`.
fn typed_repository() -> Option<String> {
    let words: Vec<String> = std::env::args().collect();
    let flag = |word: &String| word.strip_prefix("--repo=").map(str::to_owned);
    words.iter().find_map(flag).or_else(|| words.iter().skip_while(|word| *word != "--repo").nth(1).cloned())
}
