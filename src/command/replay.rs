//! Replay of a standby that stands still while it is read, and always goes on afterwards.
//!
//! A long query on a standby is cancelled when what replay wants to do stands in its way. So replay is paused: asked for,
//! confirmed, and looked at once more for locks that replay itself holds, which would now be held for ever. It goes on
//! when the last run of this host that needs the pause ends; after a run that was killed the next one, or `check`, sees
//! its note and does it. A pause that is not of our making is never touched.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Context;
use super::databases::by_name;
use crate::error::{Error, Kind, Result};
use crate::pg::conninfo::{ConnectTarget, ConnectionFlags, SessionAttributes};
use crate::pg::replay::{self, Replay, ReplayState};
use crate::pg::session::{Session, SessionOptions};
use crate::repo::{HeldPause, InstanceName, PauseGate, PauseNote, SeenPause, ServerStart, SystemIdentifier};

/// How long it may take until replay stands still: it may wait for a query that it must not cancel yet.
const PAUSE_LIMIT: Duration = Duration::from_secs(60);
/// How often is looked whether it does.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long replay goes on where it held a lock, before it is paused again.
const LET_GO: Duration = Duration::from_millis(500);
/// How long anything may take that lets replay go on, or that is done at the gate: a signal waits for it.
const RESUME_LIMIT: Duration = Duration::from_secs(10);
const RESUME_TRIES: usize = 3;
/// How long the gate is waited for: longer than anybody holds it whose standby does not answer, else replay of another
/// one would not be let go on.
const GATE_LIMIT: Duration = Duration::from_secs(10 * (2 * RESUME_TRIES as u64 + 1));

/// Servers of this version and newer tell a pause that was asked for from one that has begun.
const TELLS_WHETHER_PAUSED: u32 = 140_000;

/// What to run where replay cannot be let go on from here.
const RESUME_BY_HAND: &str = "let it go on there: SELECT pg_wal_replay_resume()";

/// Replay that stands still for this run, or does not.
pub(super) struct Pause {
    instance: InstanceName,
    held: Option<Held>,
    total: Option<Duration>,
}

struct Held {
    session: Session,
    target: ConnectTarget,
    server: ServerStart,
    note: HeldPause,
    /// Since when it is known to stand still.
    since: Option<Instant>,
}

impl Pause {
    pub fn new(instance: &InstanceName) -> Self {
        Self { instance: instance.clone(), held: None, total: None }
    }

    /// For how long replay stood still so far; `None` where it never did.
    pub fn seconds(&self) -> Option<f64> {
        self.total.map(|total| total.as_secs_f64())
    }

    /// Makes replay of the standby of `session` stand still. Returns what its user should know: a dump goes on without.
    pub async fn begin(&mut self, context: &Context, target: &ConnectTarget, session: &Session) -> Result<Vec<String>> {
        match self.try_begin(context, target, session).await {
            Ok(warnings) => Ok(warnings),
            Err(error) => {
                let mut warnings = vec![format!("replay on the standby is not paused: {error}")];
                warnings.extend(self.end(context).await);
                Ok(warnings)
            }
        }
    }

    async fn try_begin(&mut self, context: &Context, target: &ConnectTarget, seen: &Session) -> Result<Vec<String>> {
        let (mut session, target) = beside(target, seen).await?;
        let mut warnings: Vec<String> = recover(context, &session).await?.into_iter().collect();
        if !replay::may_pause(session.client()).await? {
            warnings.push(missing_right(&session.endpoint().user));
            return Ok(warnings);
        }
        let deadline = Instant::now() + PAUSE_LIMIT;
        loop {
            if let Err(why) = self.hold(context, session, &target).await? {
                warnings.push(why);
                return Ok(warnings);
            }
            let Some(held) = &mut self.held else { return Ok(warnings) };
            held.confirmed(context, deadline).await?;
            let Some(table) = replay::locked_table(held.session.client()).await? else { return Ok(warnings) };
            if Instant::now() > deadline {
                let why = format!("it holds {table} locked for a transaction of the primary that does not end");
                return Err(Error::new(Kind::Tool, why));
            }
            tracing::info!("replay holds {table} locked: it goes on for a moment");
            let (freed, told) = self.let_go(context).await;
            warnings.extend(told);
            let Some(freed) = freed else { return Ok(warnings) };
            session = freed;
            sleep(LET_GO).await;
        }
    }

    /// Writes the note and asks for the pause, or joins that of another run of this host. The inner error says why
    /// there is nothing to hold.
    async fn hold(
        &mut self,
        context: &Context,
        session: Session,
        target: &ConnectTarget,
    ) -> Result<std::result::Result<(), String>> {
        let gate = gate(context).await?;
        let server = answered(server_of(&session)).await?;
        let look = replay::look(session.client(), session.server_version_num());
        let Some(seen) = answered(look).await? else {
            return Ok(Err("the standby has become a primary".to_owned()));
        };
        let runs = seen.state == ReplayState::Runs;
        if !runs && gate.notes_of(server)?.is_empty() {
            return Ok(Err("replay on the standby was paused by others before: it is left so".to_owned()));
        }
        let endpoint = session.endpoint();
        let note = PauseNote {
            format: PauseNote::FORMAT,
            instance: self.instance.clone(),
            host: endpoint.called(),
            port: endpoint.port,
            user: endpoint.user.clone(),
            database: endpoint.dbname.clone(),
            pid: std::process::id(),
            since: context.clock.now(),
            lsn: None,
        };
        let note = gate.note(server, note)?;
        // Known before anything is asked: whoever drops this in the middle ends the pause, too.
        let held = self.held.insert(Held { session, target: target.clone(), server, note, since: None });
        if runs {
            tracing::info!("replay on the standby is asked to pause");
            answered(replay::pause(held.session.client())).await?;
        }
        Ok(Ok(()))
    }

    /// Lets replay go on, unless others need it to stand still. Returns what its user should know. Twice is once.
    pub async fn end(&mut self, context: &Context) -> Option<String> {
        let (session, told) = self.let_go(context).await;
        if let Some(session) = session {
            session.close().await;
        }
        told
    }

    /// As [`Pause::end`], with the session for another pause. It is held until all is done: who drops this in the middle
    /// can begin again.
    async fn let_go(&mut self, context: &Context) -> (Option<Session>, Option<String>) {
        let Some(held) = &mut self.held else { return (None, None) };
        let ended = held.end(context).await;
        let Some(Held { session, note, since, .. }) = self.held.take() else { return (None, None) };
        if let Some(since) = since {
            *self.total.get_or_insert_default() += since.elapsed();
        }
        let told = match ended {
            Ok(told) => note.remove().err().map(|error| error.to_string()).or(told),
            // Its note stays, and nobody holds it any more.
            Err(error) => Some(format!(
                "replay on the standby may still stand still: {error}; {RESUME_BY_HAND} (the next dump of it and pgkeep \
                 check do so, too)"
            )),
        };
        (Some(session), told)
    }
}

impl Held {
    /// Waits until replay stands still, and notes where.
    async fn confirmed(&mut self, context: &Context, deadline: Instant) -> Result<()> {
        let mut before: Option<Replay> = None;
        loop {
            let seen = self.look().await?;
            let Some(seen) = seen else {
                return Err(Error::new(Kind::Tool, "the standby has become a primary"));
            };
            // A server that does not tell has stopped where it does not move.
            let stands = match seen.state {
                ReplayState::Paused => true,
                ReplayState::Asked if self.session.server_version_num() < TELLS_WHETHER_PAUSED => {
                    before.as_ref() == Some(&seen)
                }
                ReplayState::Asked => false,
                ReplayState::Runs => return Err(Error::new(Kind::Tool, "others let it go on")),
            };
            if stands {
                self.since.get_or_insert_with(Instant::now);
                // What does not tell may still end the record that it is at: a place that it then leaves would make the
                // pause look like one of others, and nobody would end it.
                let lsn = seen.lsn.filter(|_| self.session.server_version_num() >= TELLS_WHETHER_PAUSED);
                return self.note.stands_at(&gate(context).await?, lsn);
            }
            if Instant::now() > deadline {
                let why = format!("it did not stand still within {} s", PAUSE_LIMIT.as_secs());
                return Err(Error::new(Kind::Tool, why));
            }
            before = Some(seen);
            sleep(LOOK_EVERY).await;
        }
    }

    async fn look(&self) -> Result<Option<Replay>> {
        replay::look(self.session.client(), self.session.server_version_num()).await
    }

    /// Lets replay go on if nobody else on this host needs it to stand still. The session may have been lost.
    async fn end(&mut self, context: &Context) -> Result<Option<String>> {
        let gate = gate(context).await?;
        let others = gate.notes_of(self.server)?;
        if others.iter().any(|other| other.is_live && other.path != self.note.path()) {
            tracing::info!("another run still needs replay to stand still");
            return Ok(None);
        }
        let mut tries = 0;
        loop {
            tries += 1;
            let error = match timeout(RESUME_LIMIT, self.resume()).await {
                Ok(Ok(told)) => return Ok(told),
                Ok(Err(error)) => error,
                Err(_) => silent(),
            };
            if tries == RESUME_TRIES {
                return Err(error);
            }
            tracing::info!("replay could not be let go on, which is tried again: {error}");
            match timeout(RESUME_LIMIT, connect(&self.target)).await {
                Ok(Ok(session)) => self.session = session,
                Ok(Err(error)) => tracing::info!("{error}"),
                Err(_) => tracing::info!("the standby does not answer"),
            }
        }
    }

    async fn resume(&self) -> Result<Option<String>> {
        if server_of(&self.session).await? != self.server {
            return Ok(Some("the standby was started again while it was dumped, which ended the pause".to_owned()));
        }
        let was_seen = self.since.is_some();
        match self.look().await? {
            None => Ok(was_seen.then(|| "the standby became a primary while it was dumped".to_owned())),
            Some(Replay { state: ReplayState::Runs, .. }) => {
                Ok(was_seen.then(|| "others let replay go on while the standby was dumped".to_owned()))
            }
            Some(seen) if self.note.lsn().is_some_and(|lsn| seen.lsn.as_deref() != Some(lsn)) => {
                Ok(Some("others paused replay anew while the standby was dumped: it is left so".to_owned()))
            }
            Some(_) => {
                replay::resume(self.session.client()).await?;
                tracing::info!("replay on the standby goes on");
                Ok(None)
            }
        }
    }
}

/// Lets replay go on that stands still for a run that was killed. Returns what was done.
pub(super) async fn recover(context: &Context, session: &Session) -> Result<Option<String>> {
    if !context.state.has_pauses()? {
        return Ok(None);
    }
    let server = server_of(session).await?;
    let gate = gate(context).await?;
    let notes = gate.notes_of(server)?;
    if notes.is_empty() || notes.iter().any(|note| note.is_live) {
        return Ok(None);
    }
    let seen = answered(replay::look(session.client(), session.server_version_num())).await?;
    let ours = seen.and_then(|seen| notes.iter().find(|note| is_ours(note, &seen)));
    let mut told = None;
    if let Some(note) = ours {
        answered(replay::resume(session.client())).await.map_err(|error| error.hint(RESUME_BY_HAND))?;
        told =
            Some(format!("replay on the standby had stood still since a run was killed ({}): it goes on", who(note)));
    }
    notes.iter().try_for_each(SeenPause::remove)?;
    Ok(told)
}

/// Whether the pause that is seen is that of a note: others may have let replay go on since, and paused it for
/// themselves.
fn is_ours(note: &SeenPause, seen: &Replay) -> bool {
    let stood_at = note.note.as_ref().ok().and_then(|note| note.lsn.as_ref());
    seen.state != ReplayState::Runs && stood_at.is_none_or(|lsn| seen.lsn.as_ref() == Some(lsn))
}

fn who(note: &SeenPause) -> String {
    match &note.note {
        Ok(note) => {
            format!("process {}, {}", note.pid, note.since.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
        }
        Err(error) => error.to_string(),
    }
}

/// A standby of which a note says that its replay may stand still for a run that was killed.
pub(super) struct Left {
    /// `db2 port 5432`
    pub server: String,
    /// What was done, or why nothing could be done.
    pub done: Result<String>,
}

/// Lets replay go on wherever it stands still for a run of `instance` that was killed. One whose note cannot be read may
/// be of any.
pub(super) async fn recover_all(context: &Context, instance: &InstanceName) -> Result<Vec<Left>> {
    if !context.state.has_pauses()? {
        return Ok(Vec::new());
    }
    // Looking holds no gate while servers are asked.
    let notes = gate(context).await?.notes()?;
    let mut left: Vec<Left> = Vec::new();
    for seen in notes.into_iter().filter(|seen| !seen.is_live) {
        let server = match &seen.note {
            Ok(note) if note.instance != *instance => continue,
            Ok(note) => format!("{} port {}", note.host, note.port),
            Err(_) => format!("the standby that {} names", seen.path.display()),
        };
        if left.iter().any(|other| other.server == server) {
            continue;
        }
        let hint = format!("{RESUME_BY_HAND}; then remove {}", seen.path.display());
        let done = recover_one(context, seen).await.map_err(|error| error.hint(hint));
        left.push(Left { server, done });
    }
    Ok(left)
}

async fn recover_one(context: &Context, seen: SeenPause) -> Result<String> {
    let note = seen.note?;
    let flags = ConnectionFlags {
        host: Some(note.host),
        port: Some(note.port.to_string()),
        user: Some(note.user),
        ..ConnectionFlags::default()
    };
    let target = ConnectTarget::resolve(&by_name(&flags, &note.database), &context.environment)?;
    let session = connect(&target).await?;
    let told = recover(context, &session).await?;
    let gate = gate(context).await?;
    // A server that was started again has another name since.
    let is_left = gate.notes()?.into_iter().any(|other| other.path == seen.path && !other.is_live);
    if is_left {
        if !is_same_cluster(&session, seen.server) {
            return Err(Error::new(Kind::Connect, "another server answers there now"));
        }
        std::fs::remove_file(&seen.path)
            .map_err(|error| Error::new(Kind::Storage, format!("remove {}", seen.path.display())).because(error))?;
    }
    session.close().await;
    Ok(told.unwrap_or_else(|| "a run was killed that had paused replay, which goes on since".to_owned()))
}

fn is_same_cluster(session: &Session, server: ServerStart) -> bool {
    session.system_identifier().is_none_or(|id| SystemIdentifier(id) == server.system_identifier)
}

async fn server_of(session: &Session) -> Result<ServerStart> {
    Ok(ServerStart {
        system_identifier: SystemIdentifier(session.system_identifier().unwrap_or(0)),
        micros: replay::started_micros(session.client()).await?,
    })
}

/// Waits for the gate, which others hold for moments.
async fn gate(context: &Context) -> Result<PauseGate> {
    let deadline = Instant::now() + GATE_LIMIT;
    loop {
        if let Some(gate) = context.state.pause_gate()? {
            return Ok(gate);
        }
        if Instant::now() > deadline {
            return Err(Error::new(Kind::Locked, "another run is busy with the replay of a standby for too long"));
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// What is done at the gate, where others wait.
async fn answered<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(RESUME_LIMIT, work).await.unwrap_or_else(|_| Err(silent()))
}

fn silent() -> Error {
    Error::new(Kind::Connect, "the standby does not answer")
}

async fn connect(target: &ConnectTarget) -> Result<Session> {
    let options = SessionOptions { retry_budget: Duration::ZERO, ..SessionOptions::default() };
    Session::connect(target, &options).await
}

/// A second session with the server of `seen`, and the way there.
async fn beside(target: &ConnectTarget, seen: &Session) -> Result<(Session, ConnectTarget)> {
    let endpoint = seen.endpoint();
    let mut target = target.clone();
    target.attributes = SessionAttributes::Any;
    target.hosts.retain(|host| host.host == endpoint.host && host.port == endpoint.port);
    let session = connect(&target).await?;
    if server_of(&session).await? != server_of(seen).await? {
        let why = format!("{} leads to several servers", endpoint.called());
        return Err(Error::new(Kind::Connect, why).hint("name the standby by its address"));
    }
    Ok((session, target))
}

fn missing_right(user: &str) -> String {
    format!(
        "role {user:?} may not pause replay on the standby, which may cancel the dump: on the primary, GRANT EXECUTE ON \
         FUNCTION pg_catalog.pg_wal_replay_pause(), pg_catalog.pg_wal_replay_resume() TO the role"
    )
}
