//! What is said of a backup when it is made.

use clap::Args;
use pgkeep::repo::{KeepFor, Label};

/// For every verb that makes a backup.
#[derive(Debug, Args)]
pub struct PinArgs {
    /// Call the backup this, in reports: letters, digits, spaces, '.', '_' and '-'. It is stored in the clear
    #[arg(long, value_name = "TEXT")]
    pub label: Option<Label>,

    /// Keep the backup forever, or for a time such as 30d, 8w or 7y, whatever the rules of retention say
    #[arg(long, value_name = "TIME")]
    pub keep: Option<KeepFor>,
}
