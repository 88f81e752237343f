//! What is said of a line that cannot be parsed: never a password, which may stand where no password belongs.

use std::io::Write as _;

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use pgkeep::error::Error;

use super::arguments::Cli;

/// The command that was meant, as far as it was typed: `restore dump`, or nothing.
pub fn command_of(words: &[String]) -> String {
    let mut command = Cli::command();
    let mut names = Vec::new();
    for word in words.iter().skip(1) {
        let Some(found) = command.find_subcommand(word).cloned() else { continue };
        names.push(word.as_str());
        command = found;
    }
    names.join(" ")
}

/// clap's complaint as an error of ours.
pub fn error_of(error: &clap::Error, command: &str, words: &[String]) -> Error {
    let help = format!("pgkeep {command} --help").replace("  ", " ");
    let message = match error.kind() {
        ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
            "no command is named".into()
        }
        _ => first_paragraph(&without_secrets(&error.to_string(), words)),
    };
    Error::usage(message).hint(help)
}

/// Prints what clap has to say, on the stream that clap has chosen.
pub fn print(error: &clap::Error, words: &[String]) {
    let text = error.to_string();
    let harmless = without_secrets(&text, words);
    if harmless == text {
        // In colours, on a terminal.
        let _ = error.print();
    } else {
        let _ = write!(std::io::stderr().lock(), "{harmless}");
    }
}

/// What is wrong, without the usage and the tips that follow.
fn first_paragraph(text: &str) -> String {
    let lines = text.strip_prefix("error: ").unwrap_or(text).lines();
    lines.take_while(|line| !line.trim().is_empty()).map(str::trim).collect::<Vec<_>>().join(" ")
}

/// The text without those of the typed words, and of the values in `--flag=value`, that may hold a password.
fn without_secrets(text: &str, words: &[String]) -> String {
    let values = words.iter().filter_map(|word| word.split_once('=').map(|(_, value)| value));
    let secrets = words.iter().map(String::as_str).chain(values).filter(|word| may_hold_secret(word));
    secrets.fold(text.to_owned(), |text, secret| text.replace(secret, "(a connection string)"))
}

fn may_hold_secret(word: &str) -> bool {
    !word.starts_with("--") && (word.contains("://") || word.contains("password"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    fn complaint(line: &str) -> (String, String) {
        let words = words(line);
        let error = Cli::command().try_get_matches_from(&words).unwrap_err();
        let command = command_of(&words);
        let error = error_of(&error, &command, &words);
        (error.to_string(), error.next_step().unwrap().to_owned())
    }

    #[test]
    fn a_complaint_names_the_command_and_what_is_missing() {
        let cases = [
            ("pgkeep --json", "no command is named", "pgkeep --help"),
            ("pgkeep --json restore", "no command is named", "pgkeep restore --help"),
            ("pgkeep --json dump --nope", "unexpected argument '--nope' found", "pgkeep dump --help"),
            (
                "pgkeep --json completions",
                "the following required arguments were not provided: <SHELL>",
                "pgkeep completions --help",
            ),
        ];
        for (line, message, hint) in cases {
            assert_eq!(complaint(line), (message.to_owned(), hint.to_owned()), "{line}");
        }
    }

    #[test]
    fn a_complaint_does_not_repeat_a_password() {
        for line in [
            "pgkeep dump postgresql://u:hunter2@h/db",
            "pgkeep dump --progress=postgresql://u:hunter2@h/db",
            "pgkeep dump --compress postgresql://u:hunter2@h/db",
            "pgkeep dump host=h:password=hunter2",
            "pgkeep postgres://u:hunter2@h/db",
        ] {
            let words = words(line);
            let error = Cli::command().try_get_matches_from(&words).unwrap_err();
            assert!(error.to_string().contains("hunter2"), "{line}: {error}");
            let text = without_secrets(&error.to_string(), &words);
            assert!(!text.contains("hunter2") && text.contains("(a connection string)"), "{line}: {text}");
        }
    }
}
