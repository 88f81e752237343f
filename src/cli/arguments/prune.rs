//! The arguments of `pgkeep prune`.

use chrono::TimeDelta;
use clap::Args;
use clap_complete::engine::ArgValueCompleter;
use pgkeep::config::duration;

use crate::cli::completion::backup_ids;

/// Remove backups that no rule keeps, or that are named
///
/// Without --apply it says what would go and why, and removes nothing. Rules are counted for each database and kind of
/// backup by itself, in each repository by itself; only good backups fill a rule. The newest good one always stays, and so
/// does what is pinned (dump --keep), what is newer than the newest good one, and everything of a database that is no
/// longer backed up. Rules that are typed replace those of the configuration.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  pgkeep prune --keep-daily 7 --keep-weekly 4 --repo /backups
  pgkeep prune --keep-daily 7 --keep-weekly 4 --keep-monthly 12 \\
    --repo /backups --apply
  pgkeep prune --keep-last 3 --keep-within 14d -d shop --repo /backups
  pgkeep prune --all-instances --config /etc/pgkeep/fleet.toml
  pgkeep prune --id shop_20261120T020000Z_db1 --repo /backups
  pgkeep prune -d old_shop --dropped --repo /backups")]
pub struct PruneArgs {
    /// Only backups of this database; may be repeated
    #[arg(short, long, value_name = "DATABASE")]
    pub dbname: Vec<String>,

    /// Remove this backup, by its id or a unique beginning of it; may be repeated. The last good one of its database
    /// stays
    #[arg(long, value_name = "ID", conflicts_with_all = ["rules", "dropped"], add = ArgValueCompleter::new(backup_ids))]
    pub id: Vec<String>,

    /// Also a backup of --id that is pinned
    #[arg(long)]
    pub unpin: bool,

    /// Remove everything of the databases of -d, the last good backup too, if they are no longer backed up
    #[arg(long, requires = "dbname", conflicts_with = "rules")]
    pub dropped: bool,

    /// Every configured instance, one after the other, each by its own rules
    #[arg(long, conflicts_with_all = ["dbname", "id", "dropped"])]
    pub all_instances: bool,

    /// Do it
    #[arg(long)]
    pub apply: bool,

    #[command(flatten)]
    pub rules: RuleArgs,
}

/// Which backups stay. A backup that any of them keeps stays. Periods are those of UTC; of each the newest stays.
#[derive(Debug, Args)]
#[group(id = "rules", multiple = true)]
#[command(next_help_heading = "Rules")]
pub struct RuleArgs {
    /// The newest N
    #[arg(long, value_name = "N")]
    pub keep_last: Option<u32>,

    /// One of each of the last N hours that have one
    #[arg(long, value_name = "N")]
    pub keep_hourly: Option<u32>,

    /// One of each of the last N days that have one
    #[arg(long, value_name = "N")]
    pub keep_daily: Option<u32>,

    /// One of each of the last N weeks, Monday to Sunday, that have one
    #[arg(long, value_name = "N")]
    pub keep_weekly: Option<u32>,

    /// One of each of the last N months that have one
    #[arg(long, value_name = "N")]
    pub keep_monthly: Option<u32>,

    /// One of each of the last N years that have one
    #[arg(long, value_name = "N")]
    pub keep_yearly: Option<u32>,

    /// Everything younger than this: 36h, 14d, 8w
    #[arg(long, value_name = "DURATION", value_parser = length)]
    pub keep_within: Option<TimeDelta>,
}

fn length(text: &str) -> Result<TimeDelta, String> {
    let wrong = || format!("{text:?} is not a length of time such as 36h, 14d or 8w");
    duration::parse(text).and_then(|length| TimeDelta::from_std(length).ok()).ok_or_else(wrong)
}
