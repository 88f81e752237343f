//! A standby as the source of a dump.

use super::source::Source;
use super::{Context, Options};
use crate::command::replay::{Pause, recover};
use crate::error::Result;
use crate::pg::replay::unlogged_tables;

/// Whether replay on a standby is paused while it is dumped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    Pause,
    /// What replay needs to do may cancel the dump.
    LeaveAlone,
}

/// Prepares a standby for being dumped; nothing on a primary. Returns what its user should know.
pub async fn begin(context: &Context, options: &Options, source: &Source, pause: &mut Pause) -> Result<Vec<String>> {
    let session = source.session();
    if !session.in_recovery() {
        return Ok(Vec::new());
    }
    let mut warnings = match options.replay {
        Replay::Pause => pause.begin(context, source.target(), session).await?,
        Replay::LeaveAlone => {
            let recovered = recover(context, session).await;
            recovered.unwrap_or_else(|error| Some(error.to_string())).into_iter().collect()
        }
    };
    let count = unlogged_tables(session.client()).await?;
    if count > 0 {
        warnings.push(format!("{count} unlogged tables are dumped without rows: a standby does not have them"));
    }
    Ok(warnings)
}
