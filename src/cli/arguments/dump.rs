//! The arguments of `pgkeep dump`.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use pgkeep::command::dump::{Compress, PartSize};
use pgkeep::error::Error;
use pgkeep::repo::ArchiveFormat;

use super::{ChoiceArgs, ConnectionArgs, PinArgs, RecipientArgs, duration};

/// Dump databases into a repository, proven before it counts
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgkeep dump -d shop --repo /backups
  pgkeep dump -h db.example.com -U backup --all --repo /backups --instance site
  pgkeep dump --repo /backups \\
    -d 'postgresql://backup@db.example.com/shop?sslmode=verify-full'
  pgkeep dump -d shop --repo /backups --repo s3://offsite/pgkeep
  pgkeep dump -d shop --repo 'oss://backups/pg?region=cn-hangzhou'
  pgkeep dump --all --config /etc/pgkeep/site.toml
  pgkeep dump --all-instances --config /etc/pgkeep/fleet.toml
  pgkeep dump -d shop --repo /backups --format directory --jobs 4
  pgkeep dump -d shop --repo /backups --split 2G
  pgkeep dump -d shop --repo /backups --label 'before 4.2' --keep 30d
  pgkeep dump -d shop --repo /backups -t 'sales.*' --exclude-table-data audit
  pgkeep dump -d shop --repo /backups --recipients-file /etc/pgkeep/recipients
  pgkeep dump -d shop --repo /backups --dry-run
  pgkeep dump -d shop --to-file shop.dump

The password comes from ~/.pgpass, PGPASSFILE, PGPASSWORD or a service file; there is no flag for it.")]
pub struct DumpArgs {
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

    /// Write an archive of pg_dump to a new file, or to standard output with `-`, and store nothing in a repository
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::FilePath,
          conflicts_with_all = ["all", "all_instances", "repo", "format", "jobs", "split", "check", "threads",
                                "no_globals", "new_lineage", "label", "keep", "lock_retry", "dry_run"])]
    pub to_file: Option<PathBuf>,

    /// Form of the dump: custom, directory, plain or tar, also c, d, p, t (default: custom)
    #[arg(short = 'F', long, value_name = "FORMAT", value_parser = format)]
    pub format: Option<ArchiveFormat>,

    /// Tables that are dumped at the same time, with --format directory (default: 1)
    #[arg(short, long, value_name = "N")]
    pub jobs: Option<NonZeroUsize>,

    /// Compression: zstd[:1-19] around the dump, none, or by pg_dump gzip[:0-9], lz4[:1-12] (default: zstd:3)
    #[arg(long, value_name = "METHOD", value_parser = compress)]
    pub compress: Option<Compress>,

    /// Store the archive in numbered parts of at most this size: 500M, 2G (powers of 1024), 2GB (of 1000)
    #[arg(long, value_name = "SIZE", value_parser = part_size)]
    pub split: Option<PartSize>,

    /// Threads that compress (default: the processors of this machine, at most 8)
    #[arg(long, value_name = "N")]
    pub threads: Option<NonZeroUsize>,

    /// What must be proven before the backup counts (default: read-back in a directory, decode elsewhere)
    #[arg(long, value_name = "LEVEL")]
    pub check: Option<CheckLevel>,

    /// Leave out roles, memberships and tablespaces
    #[arg(long)]
    pub no_globals: bool,

    /// Give up an attempt if a table stays locked by others this long (0: at once)
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub lock_wait: Duration,

    /// After that begin anew up to this often, with a pause between
    #[arg(long, value_name = "N", default_value = "2")]
    pub lock_retry: u32,

    /// Accept a PostgreSQL cluster that this instance has not held before
    #[arg(long)]
    pub new_lineage: bool,

    /// Of a standby: let replay go on while it is dumped (it may cancel the dump)
    #[arg(long)]
    pub no_pause_replay: bool,

    /// Print what would be done and store nothing
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    pub pin: PinArgs,

    #[command(flatten)]
    pub choice: ChoiceArgs,

    #[command(flatten)]
    pub encryption: RecipientArgs,

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

/// As `pg_dump --format` takes it.
fn format(text: &str) -> Result<ArchiveFormat, String> {
    match text.to_ascii_lowercase().as_str() {
        "c" | "custom" => Ok(ArchiveFormat::Custom),
        "d" | "directory" => Ok(ArchiveFormat::Directory),
        "p" | "plain" => Ok(ArchiveFormat::Plain),
        "t" | "tar" => Ok(ArchiveFormat::Tar),
        _ => Err(format!("{text:?} is not custom, directory, plain or tar")),
    }
}

/// A method, and perhaps its level; without one that of the tool.
fn compress(text: &str) -> Result<Compress, String> {
    let (method, level) = match text.split_once(':') {
        None => (text, None),
        Some((method, level)) => (method, Some(level.parse::<u8>().ok())),
    };
    match (method, level) {
        ("zstd", None) => Ok(Compress::Zstd { level: 3 }),
        ("zstd", Some(Some(level @ 1..=19))) => Ok(Compress::Zstd { level: level.into() }),
        ("gzip", None) => Ok(Compress::ByPgDump { level: 6 }),
        ("gzip", Some(Some(level @ 0..=9))) => Ok(Compress::ByPgDump { level }),
        ("none", None) => Ok(Compress::ByPgDump { level: 0 }),
        ("lz4", None) => Ok(Compress::Lz4 { level: None }),
        ("lz4", Some(Some(level @ 1..=12))) => Ok(Compress::Lz4 { level: Some(level) }),
        _ => Err(format!(
            "{text:?} is not zstd, zstd:1 to zstd:19, none, gzip, gzip:0 to gzip:9, lz4 or lz4:1 to lz4:12"
        )),
    }
}

fn part_size(text: &str) -> Result<PartSize, String> {
    text.parse().map_err(|error: Error| match error.next_step() {
        Some(hint) => format!("{error}: {hint}"),
        None => error.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_and_levels_are_read() {
        let zstd = |level| Ok(Compress::Zstd { level });
        assert_eq!((compress("zstd"), compress("zstd:19")), (zstd(3), zstd(19)));
        let gzip = |level| Ok(Compress::ByPgDump { level });
        assert_eq!((compress("gzip"), compress("gzip:0"), compress("gzip:9")), (gzip(6), gzip(0), gzip(9)));
        for wrong in [
            "", "zstd:", "zstd:0", "zstd:20", "zstd:-1", "3", "gzip:", "gzip:10", "gzip:-1", "lz4:0", "lz4:13",
            "none:1",
        ] {
            assert!(compress(wrong).is_err(), "{wrong:?}");
        }
        assert_eq!(compress("none"), gzip(0));
        let lz4 = |level| Ok(Compress::Lz4 { level });
        assert_eq!((compress("lz4"), compress("lz4:9")), (lz4(None), lz4(Some(9))));
    }

    #[test]
    fn formats_are_called_as_pg_dump_calls_them() {
        for (words, meant) in [
            (["c", "custom", "C"], ArchiveFormat::Custom),
            (["d", "directory", "Directory"], ArchiveFormat::Directory),
            (["p", "plain", "P"], ArchiveFormat::Plain),
            (["t", "tar", "TAR"], ArchiveFormat::Tar),
        ] {
            assert_eq!(words.map(format), [Ok(meant), Ok(meant), Ok(meant)]);
        }
        assert!(format("x").is_err() && format("").is_err());
    }
}
