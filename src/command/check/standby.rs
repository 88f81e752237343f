//! A standby as the source of dumps: what becomes of replay meanwhile, and of replay that a killed run left standing.

use crate::command::finding::Finding;
use crate::command::{Context, replay};
use crate::pg::replay::may_pause;
use crate::pg::session::Session;
use crate::repo::InstanceName;

const LEFT: &str = "standby.replay";

/// Whether a dump can keep replay out of its way, and whether a killed one has left it standing still here: then it goes
/// on. Nothing of a primary.
pub async fn look(context: &Context, session: &Session) -> Vec<Finding> {
    if !session.in_recovery() {
        return Vec::new();
    }
    let subject = session.endpoint().dbname.as_str();
    let left = match replay::recover(context, session).await {
        Ok(done) => done.map(|done| Finding::warn(LEFT, subject, done)),
        Err(error) => Some(Finding::of_error(LEFT, subject, &error)),
    };
    left.into_iter().chain([right(session, subject).await]).collect()
}

async fn right(session: &Session, subject: &str) -> Finding {
    let id = "postgres.standby";
    match may_pause(session.client()).await {
        Ok(true) => Finding::ok(id, subject, "replay is paused while it is dumped"),
        Ok(false) => {
            let evidence = "the role may not pause replay, which cancels long dumps that stand in its way";
            Finding::warn(id, subject, evidence).fix(
                "on the primary, GRANT EXECUTE ON FUNCTION pg_catalog.pg_wal_replay_pause(), \
                 pg_catalog.pg_wal_replay_resume() TO the role; or set max_standby_streaming_delay = -1 on the standby",
            )
        }
        Err(error) => Finding::of_error(id, subject, &error),
    }
}

/// Replay of standbys that dumps of an instance have left standing still when they were killed: it goes on now.
pub async fn left_standing(context: &Context, instance: &InstanceName) -> Vec<Finding> {
    let left = match replay::recover_all(context, instance).await {
        Ok(left) => left,
        Err(error) => return vec![Finding::of_error(LEFT, "standby", &error)],
    };
    let finding = |left: replay::Left| match left.done {
        Ok(done) => Finding::warn(LEFT, left.server, done),
        Err(error) => Finding::of_error(LEFT, left.server, &error),
    };
    left.into_iter().map(finding).collect()
}
