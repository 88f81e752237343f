//! The clap tree. Parsing does nothing; every flag listed here works.

mod choice;
mod dump;
mod encryption;
mod pin;
mod prune;
pub mod restore;

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::completion::backup_ids;
pub use choice::ChoiceArgs;
pub use dump::{CheckLevel, DumpArgs};
pub use encryption::{IdentityArgs, RecipientArgs};
pub use pin::PinArgs;
pub use prune::{PruneArgs, RuleArgs};
use restore::{ExistingArgs, PartArgs, RolesArgs};

const AFTER_HELP: &str = "\
Examples:
  pgkeep dump -d shop --repo /backups
  pgkeep report --repo /backups
  pgkeep verify --deep latest --repo /backups
  pgkeep copy --missing --to s3://offsite/pgkeep --repo /backups
  pgkeep restore dump latest -d shop --into shop_copy --repo /backups
  pgkeep prune --keep-daily 7 --keep-weekly 4 --repo /backups

Exit codes: 0 done, 1 unexpected, 2 usage, 3 cannot connect, 4 a PostgreSQL tool failed, 5 storage failed, \
6 verification failed, 7 locked, 8 no such backup, 9 refused for safety, 10 some items failed, 11 not verified, \
12 a program is missing, 13 a finding, 130/143 interrupted.";

/// PostgreSQL backups that are proven to restore.
#[derive(Debug, Parser)]
#[command(name = "pgkeep", version, disable_help_flag = true, disable_help_subcommand = true)]
#[command(after_help = AFTER_HELP, arg_required_else_help = true, max_term_width = 110)]
pub struct Cli {
    #[command(flatten)]
    pub common: Common,
    #[command(subcommand)]
    pub verb: Verb,
}

/// What every command takes.
#[derive(Debug, Args)]
#[command(next_help_heading = "Every command")]
pub struct Common {
    /// Print help
    #[arg(long, short = '?', global = true, action = clap::ArgAction::Help)]
    pub help: Option<bool>,

    /// The configuration file (default: $PGKEEP_CONFIG, else /etc/pgkeep/pgkeep.toml where it exists)
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// A repository: the path of a directory, which contains a `/`; s3://BUCKET/PREFIX, oss://BUCKET/PREFIX or
    /// rclone:REMOTE:PATH; or the name of a configured one. Several times to name several (default: all configured ones)
    #[arg(long, global = true, value_name = "ADDRESS", value_hint = clap::ValueHint::DirPath)]
    pub repo: Vec<String>,

    /// The instance (one PostgreSQL cluster in our care) that is meant
    #[arg(long, global = true, value_name = "NAME")]
    pub instance: Option<String>,

    /// Print one JSON document to standard output instead of text
    #[arg(long, global = true)]
    pub json: bool,

    /// How progress is shown on standard error
    #[arg(long, global = true, value_name = "HOW", default_value = "auto")]
    pub progress: Progress,

    /// Say only what went wrong
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Say more on standard error; twice for everything
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub verbose: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Progress {
    /// A bar on a terminal, else a line now and then
    Auto,
    Bar,
    Line,
    None,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    #[command(flatten)]
    Work(Box<Work>),
    /// Print the script that lets a shell complete commands, flags and backup ids
    #[command(after_help = "Examples:\n  pgkeep completions bash\n  pgkeep completions zsh")]
    Completions {
        #[arg(value_parser = ["bash", "zsh", "fish", "elvish", "powershell"])]
        shell: String,
    },
    /// Print the manual page (roff)
    #[command(after_help = "Examples:\n  pgkeep man")]
    Man,
}

/// The verbs that work on repositories and servers.
#[derive(Debug, Subcommand)]
pub enum Work {
    Dump(DumpArgs),
    #[command(subcommand)]
    Restore(RestoreVerb),
    Verify(VerifyArgs),
    Copy(CopyArgs),
    Prune(PruneArgs),
    Report(ReportArgs),
    Check(CheckArgs),
}

/// Where PostgreSQL is, as psql takes it; what is not given comes from the PG* variables, service files and ~/.pgpass.
#[derive(Debug, Args)]
#[command(next_help_heading = "Connection")]
pub struct ConnectionArgs {
    /// Host name, address or directory of the Unix socket
    #[arg(short = 'h', long, value_name = "HOST")]
    pub host: Option<String>,

    /// Port
    #[arg(short, long, value_name = "PORT")]
    pub port: Option<String>,

    /// Role to log in as
    #[arg(short = 'U', long, value_name = "ROLE")]
    pub username: Option<String>,

    /// Keep trying this long while the server is starting or refuses connections
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub connect_retry: Duration,

    /// Directory of the PostgreSQL client programs (default: the newest that fits, of PATH and /usr/lib/postgresql)
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub bin_dir: Option<PathBuf>,
}

/// Restore a backup
#[derive(Debug, Subcommand)]
pub enum RestoreVerb {
    Dump(RestoreDumpArgs),
}

/// Restore a dump into a new or empty database
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgkeep restore dump latest -d shop --into shop_copy --repo /backups
  pgkeep restore dump shop_20261120T020000Z_db1 --jobs 4 --repo /backups \\
    --to postgresql://postgres@new.example.com
  pgkeep restore dump latest -d shop --into shop_copy \\
    --repo /backups --repo s3://offsite/pgkeep
  pgkeep restore dump latest -d shop --to-file shop.dump --repo /backups
  pgkeep restore dump latest -d shop --into shop_copy \\
    --repo /backups --identity-file key.txt
  pgkeep restore dump latest --instance site -d shop --to-instance spare
  pgkeep restore dump latest -d shop --into shop_copy --repo /backups --dry-run
  pgkeep restore dump latest -d shop --list --repo /backups
  pgkeep restore dump latest -d shop -t public.orders \\
    --into-existing --repo /backups
  pgkeep restore dump latest -d shop --replace --repo /backups
  pgkeep restore dump --from-file old.sql.gz --into shop_2019
  pgkeep dump -d shop --to-file - | pgkeep restore dump --from-file - \\
    --to postgresql://postgres@new.example.com")]
pub struct RestoreDumpArgs {
    /// Id of the backup, a unique beginning of it, or latest
    #[arg(value_name = "ID", default_value = "latest", add = ArgValueCompleter::new(backup_ids))]
    pub id: String,

    /// The database that was dumped
    #[arg(short, long, value_name = "DATABASE")]
    pub dbname: Option<String>,

    /// Restore a dump that lies outside any repository: a file (custom, tar or SQL, also compressed by gzip or zstd), a
    /// directory of pg_dump, or standard input with `-`
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath, conflicts_with_all = ["id", "dbname", "to_file", "repo", "instance"])]
    pub from_file: Option<PathBuf>,

    /// The database to restore into (default: the name it had); it is created, or must be empty
    #[arg(long, value_name = "DATABASE")]
    pub into: Option<String>,

    /// The server to restore to, as a URI or keyword string (default: that of the configured instance that was dumped,
    /// else the one that -h, -p, -U and PG* name)
    #[arg(long, value_name = "URI")]
    pub to: Option<String>,

    /// The configured instance whose server to restore to
    #[arg(long, value_name = "NAME", conflicts_with_all = ["to", "to_file"])]
    pub to_instance: Option<String>,

    /// Write what pg_dump wrote to a file or directory, or to standard output with `-`, and restore nothing
    #[arg(long, value_name = "PATH", conflicts_with_all = ["into", "to", "jobs", "analyze"])]
    pub to_file: Option<PathBuf>,

    /// Tables that are restored at the same time
    #[arg(short, long, value_name = "N", default_value = "1")]
    pub jobs: NonZeroUsize,

    /// Collect planner statistics afterwards
    #[arg(long, value_name = "HOW", default_value = "stages")]
    pub analyze: Analyze,

    /// Go on after errors and count them (the exit code still says 10)
    #[arg(long)]
    pub keep_going: bool,

    /// Directory for the decoded archive while it is restored (default: TMPDIR or /tmp)
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub scratch: Option<PathBuf>,

    /// Add to this file what ran, what it said, how long it took and how it ended
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, conflicts_with_all = ["list", "to_file"])]
    pub log: Option<PathBuf>,

    /// Print what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub identity: IdentityArgs,

    #[command(flatten)]
    pub part: PartArgs,

    #[command(flatten)]
    pub roles: RolesArgs,

    #[command(flatten)]
    pub existing: ExistingArgs,

    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Analyze {
    None,
    /// Three passes of growing precision, so that the database is usable early
    Stages,
}

/// Prove that stored backups are what was written
///
/// Reads every object of a backup as the store delivers it and compares size and SHA-256 with the manifest (level L1);
/// --deep also decodes every byte and reads the archive to its end (L2). The result is stored as a proof beside the
/// backup, for report. Damage ends with exit code 6; a store that cannot be read says nothing of the backup: it is "not
/// verified", exit code 5 (or 11 where there is nothing to verify); 10 if some passed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgkeep verify --repo /backups
  pgkeep verify latest -d shop --deep --repo /backups
  pgkeep verify --all --deep --repo /backups
  pgkeep verify --all --repo /backups --repo s3://offsite/pgkeep")]
pub struct VerifyArgs {
    /// Id of the backup, a unique beginning of it, or latest. Without it: the latest of each database
    #[arg(value_name = "ID", add = ArgValueCompleter::new(backup_ids))]
    pub id: Option<String>,

    /// Every backup of the chosen instances
    #[arg(long, conflicts_with = "id")]
    pub all: bool,

    /// Only backups of this database
    #[arg(short, long, value_name = "DATABASE")]
    pub dbname: Option<String>,

    /// Also decode every byte and read the archive to its end (level L2)
    #[arg(long)]
    pub deep: bool,

    #[command(flatten)]
    pub identity: IdentityArgs,
}

/// Send backups that another repository lacks
///
/// Reads each object from a --repo that has the backup, compares it with the manifest on the way, stores it in the
/// repository of --to and reads it again there; the manifest comes last. What is there already is left alone; what a copy
/// that was interrupted has stored is not sent again. A repository of --to that does not exist is created.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgkeep copy --missing --to /mnt/second --repo /backups
  pgkeep copy --missing --to s3://offsite/pgkeep --repo /backups
  pgkeep copy latest -d shop --to /mnt/second --repo /backups
  pgkeep copy --missing --to /mnt/second --repo /backups --dry-run")]
pub struct CopyArgs {
    /// Id of the backup, a unique beginning of it, or latest
    #[arg(value_name = "ID", required_unless_present = "missing", add = ArgValueCompleter::new(backup_ids))]
    pub id: Option<String>,

    /// Every good backup that the repository of --to does not have
    #[arg(long, conflicts_with = "id")]
    pub missing: bool,

    /// The repository that is copied to: an address, or the name of a configured one
    #[arg(long, value_name = "ADDRESS", value_hint = clap::ValueHint::DirPath)]
    pub to: String,

    /// Only backups of this database
    #[arg(short, long, value_name = "DATABASE")]
    pub dbname: Option<String>,

    /// Print what would be copied and store nothing
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub encryption: RecipientArgs,

    #[command(flatten)]
    pub identity: IdentityArgs,
}

/// Say what is stored, and whether it can be trusted
///
/// Without a view: for each database the newest good backup, what proves it, the last attempt, and at the end what is
/// wrong. Ages are those of the data: they count from the start of a backup. Ends with exit code 13 if a database is not
/// protected (no good backup, a damaged one, the last dump failed); warnings alone end with 0.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgkeep report --repo /backups
  pgkeep report --repo /backups --repo s3://offsite/pgkeep
  pgkeep report list -d shop --repo /backups
  pgkeep report show latest -d shop --repo /backups
  pgkeep report runs --repo /backups --json")]
pub struct ReportArgs {
    #[command(subcommand)]
    pub view: Option<ReportView>,

    #[command(flatten)]
    pub identity: IdentityArgs,
}

#[derive(Debug, Subcommand)]
pub enum ReportView {
    /// Every backup, newest first
    #[command(
        after_help = "Examples:\n  pgkeep report list --repo /backups\n  pgkeep report list -d shop --repo /backups"
    )]
    List {
        /// Only backups of this database
        #[arg(short, long, value_name = "DATABASE")]
        dbname: Option<String>,
    },
    /// Everything that is known of one backup
    #[command(after_help = "Examples:\n  pgkeep report show latest -d shop --repo /backups")]
    Show {
        /// Id of the backup, a unique beginning of it, or latest
        #[arg(value_name = "ID", default_value = "latest", add = ArgValueCompleter::new(backup_ids))]
        id: String,
        /// Only backups of this database
        #[arg(short, long, value_name = "DATABASE")]
        dbname: Option<String>,
    },
    /// The newest good backup of each database, and its age
    #[command(after_help = "Examples:\n  pgkeep report latest --repo /backups")]
    Latest {
        /// Only backups of this database
        #[arg(short, long, value_name = "DATABASE")]
        dbname: Option<String>,
    },
    /// Every attempt, with its outcome and the reason of a failure
    #[command(after_help = "Examples:\n  pgkeep report runs --repo /backups")]
    Runs {
        /// At most this many, newest first
        #[arg(long, value_name = "N", default_value = "20")]
        most: usize,
    },
}

/// Find what would make a backup fail, with the fix
///
/// Looks at the client programs, the connection, the rights of the role relation by relation, and the repositories; in
/// each it stores a small object, reads it and removes it again. It creates no repository. Without a database only programs
/// and repositories are checked, without a repository only programs and PostgreSQL. Ends with exit code 13 if a dump would fail;
/// warnings alone end with 0.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgkeep check -d shop --repo /backups
  pgkeep check -h db.example.com -U backup --all --repo /backups
  pgkeep check --all-instances --config /etc/pgkeep/fleet.toml
  pgkeep check --repo s3://offsite/pgkeep")]
pub struct CheckArgs {
    /// A database (name, URI or keyword string); may be repeated. Without it: those that the configuration lists, else
    /// PGDATABASE
    #[arg(short, long, value_name = "DATABASE", conflicts_with = "all")]
    pub dbname: Vec<String>,

    /// Every database but postgres and the templates, and those that the configuration excludes
    #[arg(long)]
    pub all: bool,

    /// Every configured instance, one after the other, each with its configured databases
    #[arg(long, conflicts_with_all = ["dbname", "host", "port", "username"])]
    pub all_instances: bool,

    #[command(flatten)]
    pub encryption: RecipientArgs,

    #[command(flatten)]
    pub identity: IdentityArgs,

    #[command(flatten)]
    pub connection: ConnectionArgs,
}

/// `90s`, `15m`, `2h`, `500ms`; a bare number is seconds.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let count: u64 = digits.parse().map_err(|_| format!("{text:?} is not a duration such as 90s, 15m or 2h"))?;
    let milliseconds = match &text[digits.len()..] {
        "ms" => Some(count),
        "" | "s" => count.checked_mul(1_000),
        "m" | "min" => count.checked_mul(60_000),
        "h" => count.checked_mul(3_600_000),
        unit => return Err(format!("{unit:?} is not a unit of time: use ms, s, m or h")),
    };
    milliseconds.map(Duration::from_millis).ok_or_else(|| format!("{text:?} is too long"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::{Path, PathBuf};

    use clap::CommandFactory as _;

    use super::*;

    /// The words of the command in `line` that starts with `pgkeep`, as a shell splits them, up to whatever ends a
    /// command there. Variables stay as they are written.
    fn shell_words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        let mut word: Option<String> = None;
        let mut quote = None;
        for character in line.chars() {
            match (quote, character) {
                (Some(open), _) if character == open => quote = None,
                (None, '\'' | '"') => {
                    quote = Some(character);
                    word.get_or_insert_default();
                }
                (None, ' ' | '\t' | '\n') => words.extend(word.take()),
                (None, '|' | ';' | '&' | '>' | '<' | ')' | '`') => break,
                (None, '#') if word.is_none() => break,
                _ => word.get_or_insert_default().push(character),
            }
        }
        words.extend(word);
        words
    }

    /// What a script puts into its arrays, by name.
    fn arrays(text: &str) -> BTreeMap<&str, Vec<String>> {
        let mut found: BTreeMap<&str, Vec<String>> = BTreeMap::new();
        for (at, _) in text.match_indices("=(") {
            let before = text[..at].trim_end_matches('+');
            let name = before.rsplit(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
            found.entry(name).or_default().extend(shell_words(&text[at + "=(".len()..]));
        }
        found
    }

    /// Every command in a text: lines of help and scripts, with or without a prompt, and code within sentences. A whole
    /// array of a script stands for all that is ever put into it.
    fn commands(text: &str) -> Vec<Vec<String>> {
        let joined = text.replace("\\\n", " ");
        let arrays = arrays(&joined);
        let expanded = |word: String| {
            let name = word.strip_prefix("${").and_then(|word| word.strip_suffix("[@]}"));
            name.and_then(|name| arrays.get(name)).cloned().unwrap_or_else(|| vec![word])
        };
        let mut found: Vec<Vec<String>> = Vec::new();
        for line in joined.lines() {
            let starts = ["", "$ ", "run ", "exec ", "sudo -u postgres "].map(|before| format!("{before}pgkeep "));
            let bare = line.trim_start();
            if let Some(start) = starts.iter().find(|start| bare.starts_with(start.as_str())) {
                found.push(shell_words(&bare[start.len() - "pgkeep ".len()..]));
            }
            for before in ["`pgkeep ", " exec pgkeep ", "measure pgkeep "] {
                let skip = before.find("pgkeep").unwrap_or_default();
                found.extend(bare.match_indices(before).map(|(at, _)| shell_words(&bare[at + skip..])));
            }
        }
        found.into_iter().map(|words| words.into_iter().flat_map(&expanded).collect()).collect()
    }

    /// A variable of a script stands for something that fits its place.
    fn with_values(words: Vec<String>) -> Vec<String> {
        let mut filled: Vec<String> = Vec::new();
        // A list of words may be any, and none.
        for word in words.into_iter().filter(|word| !word.ends_with("[@]}")) {
            let variable = word.starts_with('$');
            filled.push(match filled.last().map(String::as_str) {
                Some("--check") if variable => "decode".to_owned(),
                Some("--progress") if variable => "none".to_owned(),
                Some("--jobs" | "-j") if variable => "2".to_owned(),
                _ if variable => "/value".to_owned(),
                _ => word,
            });
        }
        filled
    }

    fn parses(place: &str, words: Vec<String>) {
        let words = with_values(words);
        match Cli::try_parse_from(&words) {
            Ok(_) => {}
            // `--help` and `--version` end the parsing with what they print.
            Err(error) if !error.use_stderr() => {}
            Err(error) => panic!("{place}: {words:?}\n{error}"),
        }
    }

    fn files(directory: &Path, ending: &str, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                files(&path, ending, found);
            } else if path.extension().is_some_and(|extension| extension == ending) {
                found.push(path);
            }
        }
    }

    #[test]
    fn the_tree_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_example_of_every_help_is_parsed() {
        fn walk(command: &mut clap::Command, name: &str) {
            let examples = commands(&command.render_long_help().to_string());
            let verbs: Vec<String> = command.get_subcommands().map(|verb| verb.get_name().to_owned()).collect();
            assert!(!examples.is_empty() || name == "pgkeep restore", "{name} --help has no example");
            examples.into_iter().for_each(|words| parses(&format!("{name} --help"), words));
            for verb in verbs {
                let command = command.find_subcommand_mut(&verb).unwrap();
                walk(command, &format!("{name} {verb}"));
            }
        }
        // As on a narrow terminal: an example that is wrapped cannot be pasted.
        let mut tree = Cli::command().term_width(80);
        tree.build();
        walk(&mut tree, "pgkeep");
    }

    #[test]
    fn every_command_of_the_documents_and_scripts_is_parsed() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut texts = vec![root.join("README.md")];
        files(&root.join("ops"), "md", &mut texts);
        files(&root.join("ops"), "sh", &mut texts);
        let mut count = 0;
        for path in texts {
            for words in commands(&fs::read_to_string(&path).unwrap()) {
                parses(&path.display().to_string(), words);
                count += 1;
            }
        }
        assert!(count >= 20, "only {count} commands were found");
    }

    #[test]
    fn commands_are_found_where_they_stand() {
        let text = "$ pgkeep report # why\n  pgkeep dump -d 'a b' --repo \"$r\" | cat\nsee `pgkeep check -d x` and `pgkeep man`\n\
                    x() { exec pgkeep verify \\\n --deep; }\npgkeep.json is no command\n\
                    which=(-d \"$1\")\nfor r in a b; do which+=(--repo \"$r\"); done\npgkeep dump \"${which[@]}\" -q";
        let found: Vec<String> = commands(text).iter().map(|words| words.join("·")).collect();
        let expected = [
            "pgkeep·report",
            "pgkeep·dump·-d·a b·--repo·$r",
            "pgkeep·check·-d·x",
            "pgkeep·man",
            "pgkeep·verify·--deep",
            "pgkeep·dump·-d·$1·--repo·$r·-q",
        ];
        assert_eq!(found, expected);
        assert!(Cli::try_parse_from(["pgkeep", "dump", "--no-such-flag"]).is_err());
    }

    #[test]
    fn durations_are_read() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("0"), Ok(Duration::ZERO));
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("15m"), Ok(Duration::from_secs(900)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "s", "-1", "1.5s", "1d", "99999999999999999999", "18446744073709551615h", "1 s"] {
            assert!(duration(wrong).is_err(), "{wrong:?}");
        }
    }
}
