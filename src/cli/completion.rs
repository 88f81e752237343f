//! Completion of backup ids: asks the repositories that are being typed, else those that are configured, and says nothing
//! of what it cannot ask.

use std::ffi::OsStr;
use std::path::PathBuf;

use clap_complete::CompletionCandidate;
use pgkeep::config::load::Flags;

/// Ids of the repositories that a command on the line would work on, newest first, that begin with what was typed.
pub fn backup_ids(current: &OsStr) -> Vec<CompletionCandidate> {
    let current = current.to_string_lossy();
    let mut candidates: Vec<CompletionCandidate> = super::run::ids_of(&typed_flags())
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
fn typed_flags() -> Flags {
    let words: Vec<String> = std::env::args_os().map(|word| word.to_string_lossy().into_owned()).collect();
    let home = std::env::home_dir().map(|home| home.to_string_lossy().into_owned());
    let values = |flag| values_of(flag, &words).map(|typed| as_the_shell_reads(typed, home.as_deref()));
    Flags { config: values("--config").next().map(PathBuf::from), repositories: values("--repo").collect() }
}

fn values_of<'w>(flag: &str, words: &'w [String]) -> impl Iterator<Item = &'w str> {
    words.iter().enumerate().filter_map(move |(at, word)| match word.strip_prefix(flag)? {
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
    fn repositories_are_found_as_shells_hand_them_over() {
        let found = |line: &str| {
            let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
            values_of("--repo", &words).map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(found("pgkeep verify --repo /b x"), ["/b"]);
        assert_eq!(found("pgkeep verify --repo=/b x"), ["/b"]);
        assert_eq!(found("pgkeep verify --repo /b --json --repo=/c x"), ["/b", "/c"]);
        assert!(found("pgkeep verify --repo").is_empty());
        assert!(found("pgkeep verify --repository /b").is_empty());
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
