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
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let home = std::env::home_dir().map(|home| home.to_string_lossy().into_owned());
    repository_in(&words).map(|typed| as_the_shell_reads(typed, home.as_deref()))
}

fn repository_in(words: &[String]) -> Option<&str> {
    words.iter().enumerate().find_map(|(at, word)| match word.strip_prefix("--repo")? {
        "" => words.get(at + 1).map(String::as_str),
        value => value.strip_prefix('='),
    })
}

/// Shells hand over words as they were typed: quoted, and with their `~`.
fn as_the_shell_reads(typed: &str, home: Option<&str>) -> String {
    for quote in ['"', '\''] {
        if let Some(inner) = typed.strip_prefix(quote).map(|rest| rest.strip_suffix(quote).unwrap_or(rest)) {
            return inner.to_owned();
        }
    }
    match (typed.strip_prefix("~/"), home) {
        (Some(rest), Some(home)) => format!("{home}/{rest}"),
        _ => typed.replace('\\', ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_repository_is_found_as_shells_hand_it_over() {
        let found = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            repository_in(&words).map(str::to_owned)
        };
        assert_eq!(found("pgkeep verify --repo /b x"), Some("/b".to_owned()));
        assert_eq!(found("pgkeep verify --repo=/b x"), Some("/b".to_owned()));
        assert_eq!(found("pgkeep verify --repo"), None);
        assert_eq!(found("pgkeep verify --repository /b"), None);
    }

    #[test]
    fn quotes_and_tilde_are_read_as_the_shell_does() {
        let read = |typed| as_the_shell_reads(typed, Some("/home/a"));
        assert_eq!(read("~/b"), "/home/a/b");
        assert_eq!(read("'/b c'"), "/b c");
        assert_eq!(read("\"/b c"), "/b c");
        assert_eq!(read("/b\\ c"), "/b c");
    }
}
