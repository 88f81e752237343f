//! Replay on a standby: whether it stands still, and what makes it stand still and go on.
//!
//! Before PostgreSQL 14 a server does not tell a pause that was asked for from one that has begun.

use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::error::{Doing, Kind, Result};

/// What a standby says of its replay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replay {
    pub state: ReplayState,
    /// Where it has come to; `None` before anything was replayed.
    pub lsn: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayState {
    Runs,
    /// It will stand still at its next record, or does already.
    Asked,
    Paused,
}

type Answer<T> = std::result::Result<T, tokio_postgres::Error>;

/// `None`: the server is no standby, or not any more.
pub async fn look(client: &Client, server_version: u32) -> Result<Option<Replay>> {
    let state = match server_version {
        140_000.. => "pg_catalog.pg_get_wal_replay_pause_state()",
        _ => "CASE WHEN pg_catalog.pg_is_wal_replay_paused() THEN 'pause requested' ELSE 'not paused' END",
    };
    let query = format!(
        "SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN {state} END, \
                pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text"
    );
    let row = match client.query_one(query.as_str(), &[]).await {
        Ok(row) => row,
        Err(error) if was_promoted(&error) => return Ok(None),
        Err(error) => return Err(error).doing(Kind::Tool, || "ask the standby for the state of its replay"),
    };
    let Some(state) = row.get::<_, Option<&str>>(0) else { return Ok(None) };
    let state = match state {
        "not paused" => ReplayState::Runs,
        "paused" => ReplayState::Paused,
        _ => ReplayState::Asked,
    };
    Ok(Some(Replay { state, lsn: row.get(1) }))
}

/// Whether the role may pause replay and let it go on.
pub async fn may_pause(client: &Client) -> Result<bool> {
    let query = "SELECT pg_catalog.has_function_privilege('pg_catalog.pg_wal_replay_pause()', 'EXECUTE') \
                    AND pg_catalog.has_function_privilege('pg_catalog.pg_wal_replay_resume()', 'EXECUTE')";
    let row = client.query_one(query, &[]).await;
    Ok(row.doing(Kind::Tool, || "ask for the right to pause replay")?.get(0))
}

/// Asks replay to stand still. Nothing where the server is no standby any more.
pub async fn pause(client: &Client) -> Result<()> {
    call(client, "pg_wal_replay_pause").await.doing(Kind::Tool, || "pause replay on the standby")
}

/// Lets replay go on. Nothing where the server is no standby any more.
pub async fn resume(client: &Client) -> Result<()> {
    call(client, "pg_wal_replay_resume").await.doing(Kind::Tool, || "resume replay on the standby")
}

async fn call(client: &Client, function: &str) -> Answer<()> {
    match client.query_one(format!("SELECT pg_catalog.{function}()").as_str(), &[]).await {
        Err(error) if !was_promoted(&error) => Err(error),
        _ => Ok(()),
    }
}

/// "recovery is not in progress"
fn was_promoted(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE)
}

/// When the server was started, in microseconds since 1970: of the servers that share a system identifier it is this
/// one, since this start. A pause does not outlive it.
pub async fn started_micros(client: &Client) -> Result<i64> {
    let query = "SELECT (extract(epoch FROM pg_catalog.pg_postmaster_start_time()) * 1000000)::pg_catalog.int8";
    let row = client.query_one(query, &[]).await;
    Ok(row.doing(Kind::Tool, || "ask the server since when it runs")?.get(0))
}

/// A table of this database that replay holds locked for a transaction of the primary: as long as replay stands still,
/// nobody can read it. No session of a standby can hold such a lock.
pub async fn locked_table(client: &Client) -> Result<Option<String>> {
    let query = "
        SELECT l.relation::pg_catalog.regclass::pg_catalog.text
          FROM pg_catalog.pg_locks l
          JOIN pg_catalog.pg_database d ON d.oid = l.database AND d.datname = pg_catalog.current_database()
         WHERE l.locktype = 'relation' AND l.mode = 'AccessExclusiveLock' AND l.granted
         ORDER BY l.relation LIMIT 1";
    let row = client.query_opt(query, &[]).await;
    Ok(row.doing(Kind::Tool, || "ask the standby for the locks of its replay")?.map(|row| row.get(0)))
}

/// How many tables of this database have rows on the primary alone.
pub async fn unlogged_tables(client: &Client) -> Result<i64> {
    let query = "SELECT count(*) FROM pg_catalog.pg_class WHERE relpersistence = 'u' AND relkind = 'r'";
    let row = client.query_one(query, &[]).await;
    Ok(row.doing(Kind::Tool, || "count unlogged tables")?.get(0))
}
