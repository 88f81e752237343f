//! A standby as the source of dumps: what becomes of replay meanwhile, and of replay that a killed run left standing.

use crate::command::finding::Finding;
use crate::command::{Context, replay};
use crate::pg::replay::may_pause;
use crate::pg::session::Session;

/// Whether a dump can keep replay out of its way; nothing of a primary.
pub async fn look(session: &Session) -> Option<Finding> {
    if !session.in_recovery() {
        return None;
    }
    let (id, subject) = ("postgres.standby", session.endpoint().dbname.as_str());
    Some(match may_pause(session.client()).await {
        Ok(true) => Finding::ok(id, subject, "replay is paused while it is dumped"),
        Ok(false) => {
            let evidence = "the role may not pause replay, which cancels long dumps that stand in its way";
            Finding::warn(id, subject, evidence).fix(
                "on the primary, GRANT EXECUTE ON FUNCTION pg_catalog.pg_wal_replay_pause(), \
                 pg_catalog.pg_wal_replay_resume() TO the role; or set max_standby_streaming_delay = -1 on the standby",
            )
        }
        Err(error) => Finding::of_error(id, subject, &error),
    })
}

/// Replay of standbys that runs of this host have left standing still when they were killed: it goes on now.
pub async fn left_standing(context: &Context) -> Vec<Finding> {
    let id = "standby.replay";
    let left = match replay::recover_all(context).await {
        Ok(left) => left,
        Err(error) => return vec![Finding::of_error(id, "standby", &error)],
    };
    let finding = |left: replay::Left| match left.done {
        Ok(done) => Finding::warn(id, left.server, done),
        Err(error) => Finding::of_error(id, left.server, &error),
    };
    left.into_iter().map(finding).collect()
}
