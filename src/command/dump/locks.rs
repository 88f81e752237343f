//! Tables that others hold locked: who that is, and whether it is worth another try.
//!
//! `pg_dump` locks every table before it reads the first. While it waits for one it holds all the others, and whoever
//! wants to change those waits behind it, with everybody else behind him. So it waits for a bounded time, gives
//! everything back, and begins anew after a pause in which the queue can clear.

use std::time::Duration;

use super::source::Source;
use crate::error::{Doing, Error, Kind, Result};

/// How often, and for how long, a locked table is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LockWait {
    /// How long one attempt waits.
    pub limit: Duration,
    /// Further attempts after the first.
    pub retries: u32,
}

impl LockWait {
    /// Between two attempts: as long as one waits, and never much longer than a queue takes to clear.
    pub fn pause(&self) -> Duration {
        self.limit.min(Duration::from_secs(15))
    }
}

/// How long the server may take to name them.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many holders are named.
const NAMED: i64 = 3;

/// Whether `pg_dump` gave up because of a lock: its own wait ended, or a worker of it met somebody in the queue.
pub fn is_locked_out(error: &Error) -> bool {
    let words = error.to_string();
    let waited = words.contains("LOCK TABLE") && words.contains("statement timeout");
    waited || words.contains("could not obtain lock on relation")
}

/// Who holds or wants tables for himself alone: what stood in the way a moment ago stands there still, most of the time.
/// Empty where it has gone.
pub async fn holders(source: &Source) -> Result<Vec<String>> {
    // Whoever waits is named with whom he waits for: that one is the cause.
    let query = "
        SELECT l.relation::pg_catalog.regclass::pg_catalog.text, l.granted, l.pid,
               coalesce(a.usename::pg_catalog.text, '?'), coalesce(a.application_name, ''), coalesce(a.state, '?'),
               coalesce(extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start), 0)::pg_catalog.int8,
               pg_catalog.array_to_string(pg_catalog.pg_blocking_pids(l.pid), ', ')
          FROM pg_catalog.pg_locks l
          JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
          JOIN pg_catalog.pg_class c ON c.oid = l.relation AND c.relkind IN ('r', 'p', 'v', 'm', 'S', 'f')
          JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace AND n.nspname !~ '^pg_'
          LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
         WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_catalog.pg_backend_pid()
         ORDER BY l.granted DESC, a.xact_start, l.relation LIMIT $1";
    let rows = source.session().client().query(query, &[&NAMED]).await;
    let rows = rows.doing(Kind::Tool, || "ask who holds locks")?;
    let told = |row: &tokio_postgres::Row| {
        let (table, granted, pid): (String, bool, i32) = (row.get(0), row.get(1), row.get(2));
        let (role, application, state): (String, String, String) = (row.get(3), row.get(4), row.get(5));
        let (seconds, blockers): (i64, String) = (row.get(6), row.get(7));
        let program = if application.is_empty() { String::new() } else { format!(" by {application}") };
        let does = if granted { "holds".to_owned() } else { format!("waits for pid {blockers}, and wants") };
        format!("pid {pid} of role {role}{program} {does} {table} ({state}, its transaction is {seconds} s old)")
    };
    Ok(rows.iter().map(told).collect())
}

/// The error that says who stood in the way.
pub async fn explain(error: Error, source: &Source) -> Error {
    if !is_locked_out(&error) {
        return error;
    }
    // What cannot be asked is not the news.
    let asked = tokio::time::timeout(PATIENCE, holders(source)).await;
    let holders = asked.ok().and_then(Result::ok).unwrap_or_default();
    if holders.is_empty() {
        return error;
    }
    let (kind, hint) = (error.kind, error.next_step().map(str::to_owned));
    Error::new(kind, format!("{error}; {}", holders.join("; "))).hinted(hint.as_deref())
}
