//! The clap tree. Parsing does nothing; every flag listed here works.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::engine::ArgValueCompleter;

use super::completion::backup_ids;

const AFTER_HELP: &str = "\
Examples:
  pgkeep dump -d shop --repo /backups
  pgkeep report --repo /backups
  pgkeep verify --deep latest --repo /backups
  pgkeep restore dump latest -d shop --into shop_copy --repo /backups

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

    /// The repository: a directory path that contains a `/`
    #[arg(long, global = true, value_name = "ADDRESS", value_hint = clap::ValueHint::DirPath)]
    pub repo: Option<String>,

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
    Dump(DumpArgs),
    #[command(subcommand)]
    Restore(RestoreVerb),
    Verify(VerifyArgs),
    Report(ReportArgs),
    Check(CheckArgs),
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

/// Dump databases into a repository, proven before it counts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgkeep dump -d shop --repo /backups
  pgkeep dump -h db.example.com -U backup --all --repo /backups --instance site
  pgkeep dump -d 'postgresql://backup@db.example.com/shop?sslmode=verify-full' --repo /backups
  pgkeep dump -d shop --repo /backups --dry-run

The password comes from ~/.pgpass, PGPASSFILE, PGPASSWORD or a service file; there is no flag for it.")]
pub struct DumpArgs {
    /// A database (name, URI or keyword string); may be repeated. Without it: PGDATABASE
    #[arg(short, long, value_name = "DATABASE", conflicts_with = "all")]
    pub dbname: Vec<String>,

    /// Every database but postgres and the templates
    #[arg(long)]
    pub all: bool,

    /// Compression: zstd or zstd:LEVEL (1 to 19)
    #[arg(long, value_name = "METHOD", default_value = "zstd:3", value_parser = zstd_level)]
    pub compress: i32,

    /// Threads that compress (default: the processors of this machine, at most 8)
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// What must be proven before the backup counts
    #[arg(long, value_name = "LEVEL", default_value = "read-back")]
    pub check: CheckLevel,

    /// Leave out roles, memberships and tablespaces
    #[arg(long)]
    pub no_globals: bool,

    /// Give up if a table stays locked by others this long
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub lock_wait: Duration,

    /// Accept a PostgreSQL cluster that this instance has not held before
    #[arg(long)]
    pub new_lineage: bool,

    /// Print what would be done and store nothing
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub connection: ConnectionArgs,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckLevel {
    /// Every compressed block is decoded again and compared before it is stored
    Decode,
    /// And the stored archive is read again and decoded to its end
    ReadBack,
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
  pgkeep restore dump shop_20261120T020000Z_db1 --to postgresql://postgres@new.example.com --repo /backups --jobs 4
  pgkeep restore dump latest -d shop --to-file shop.dump --repo /backups
  pgkeep restore dump latest -d shop --into shop_copy --repo /backups --dry-run")]
pub struct RestoreDumpArgs {
    /// Id of the backup, a unique beginning of it, or latest
    #[arg(value_name = "ID", default_value = "latest", add = ArgValueCompleter::new(backup_ids))]
    pub id: String,

    /// The database that was dumped
    #[arg(short, long, value_name = "DATABASE")]
    pub dbname: Option<String>,

    /// The database to restore into (default: the name it had); it is created, or must be empty
    #[arg(long, value_name = "DATABASE")]
    pub into: Option<String>,

    /// The server to restore to, as a URI or keyword string (default: the one that -h, -p, -U and PG* name)
    #[arg(long, value_name = "URI")]
    pub to: Option<String>,

    /// Write the plain pg_dump archive to a file, or to standard output with `-`, and restore nothing
    #[arg(long, value_name = "PATH", conflicts_with_all = ["into", "to", "jobs", "analyze"])]
    pub to_file: Option<PathBuf>,

    /// Tables that are restored at the same time
    #[arg(short, long, value_name = "N", default_value = "1")]
    pub jobs: NonZeroUsize,

    /// Collect planner statistics afterwards
    #[arg(long, value_name = "HOW", default_value = "stages")]
    pub analyze: Analyze,

    /// Create missing roles without the passwords that the dump has for them
    #[arg(long)]
    pub no_role_passwords: bool,

    /// Go on after errors and count them (the exit code still says 10)
    #[arg(long)]
    pub keep_going: bool,

    /// Directory for the decoded archive while it is restored (default: TMPDIR or /tmp)
    #[arg(long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub scratch: Option<PathBuf>,

    /// Print what would be done and change nothing
    #[arg(long)]
    pub dry_run: bool,

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
  pgkeep verify --all --deep --repo /backups")]
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
}

/// Say what is stored, and whether it can be trusted
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgkeep report --repo /backups
  pgkeep report list -d shop --repo /backups
  pgkeep report show latest -d shop --repo /backups
  pgkeep report runs --repo /backups --json")]
pub struct ReportArgs {
    #[command(subcommand)]
    pub view: Option<ReportView>,
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
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgkeep check -d shop --repo /backups
  pgkeep check -h db.example.com -U backup --all --repo /backups")]
pub struct CheckArgs {
    /// A database (name, URI or keyword string); may be repeated. Without it: PGDATABASE
    #[arg(short, long, value_name = "DATABASE", conflicts_with = "all")]
    pub dbname: Vec<String>,

    /// Every database but postgres and the templates
    #[arg(long)]
    pub all: bool,

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

/// `zstd` or `zstd:LEVEL`.
fn zstd_level(text: &str) -> Result<i32, String> {
    let level = match text.split_once(':') {
        None if text == "zstd" => return Ok(3),
        Some(("zstd", level)) => level.parse().ok(),
        _ => None,
    };
    level.filter(|level| (1..=19).contains(level)).ok_or_else(|| format!("{text:?} is not zstd or zstd:1 to zstd:19"))
}
