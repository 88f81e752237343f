//! One attempt: TLS or not, a login.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_postgres::config;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::failure::{self, text_of};
use super::wire::Wire;
use super::{APPLICATION_NAME, Cause, Failure, unsuitable, within};
use crate::pg::conninfo::{ChannelBinding, ConnectTarget, HostTarget, Negotiation, SessionAttributes, SslMode};
use crate::pg::tls;

/// How long a connection may take to say good-bye once nobody uses it.
const FAREWELL: Duration = Duration::from_secs(2);

/// Whether others on the way can read a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encryption {
    None,
    Tls,
}

pub(super) struct Login {
    pub client: Client,
    pub background: Background,
    pub encryption: Encryption,
}

/// The task that moves a connection's bytes. It ends with this value, or before when the server goes away.
#[derive(Debug)]
pub(super) struct Background {
    stop: DropGuard,
    task: JoinHandle<()>,
}

impl Background {
    fn spawn(connection: impl Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static) -> Self {
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let mut connection = Box::pin(connection);
            // What ends a connection also fails the query that waits on it: the error is reported there.
            tokio::select! {
                _ = &mut connection => {}
                () = stopped.cancelled() => drop(tokio::time::timeout(FAREWELL, connection).await),
            }
        });
        Self { stop: stop.drop_guard(), task }
    }

    pub(super) async fn finish(self) {
        drop(self.stop);
        // A panic inside has already been reported by the runtime; the connection is closed either way.
        drop(self.task.await);
    }
}

/// Where a host is: `None` for a Unix socket, else each of its addresses.
pub(super) async fn addresses(host: &HostTarget) -> Result<Vec<Option<SocketAddr>>, Failure> {
    if host.is_socket() {
        return Ok(vec![None]);
    }
    let (name, port) = host.dialled();
    let unknown = |text: String| Failure::new(host, None, Cause::NameLookup, text);
    let found: Vec<_> = tokio::net::lookup_host((name, port))
        .await
        .map_err(|e| unknown(format!("look up the name: {e}")))?
        .map(Some)
        .collect();
    if found.is_empty() { Err(unknown("the name has no address".into())) } else { Ok(found) }
}

/// Connects and logs in at one address, within the connect timeout, and asks whether the server will do.
pub(super) async fn log_in(
    target: &ConnectTarget,
    host: &HostTarget,
    address: Option<SocketAddr>,
    wanted: SessionAttributes,
) -> Result<Login, Failure> {
    let limit = target.connect_timeout;
    within(limit, log_in_and_ask(target, host, address, wanted))
        .await
        .unwrap_or_else(|| Err(Failure::new(host, address, Cause::Timeout, failure::no_answer(limit))))
}

async fn log_in_and_ask(
    target: &ConnectTarget,
    host: &HostTarget,
    address: Option<SocketAddr>,
    wanted: SessionAttributes,
) -> Result<Login, Failure> {
    let login = log_in_by_mode(target, host, address).await?;
    match unsuitable(&login.client, wanted).await {
        Ok(None) => Ok(login),
        Ok(Some(why)) => Err(Failure::new(host, address, Cause::Attributes, why)),
        Err(e) => Err(Failure::of_server(host, address, e)),
    }
}

/// libpq's order: `allow` begins without TLS, `prefer` with it, and each tries the other way when the server refuses
/// the login (pg_hba.conf may demand one) or the handshake fails.
async fn log_in_by_mode(
    target: &ConnectTarget,
    host: &HostTarget,
    address: Option<SocketAddr>,
) -> Result<Login, Failure> {
    use config::SslMode::{Disable, Prefer, Require};
    match target.tls.mode {
        _ if address.is_none() => log_in_once(target, host, address, Disable).await,
        SslMode::Disable => log_in_once(target, host, address, Disable).await,
        SslMode::Allow => match log_in_once(target, host, address, Disable).await {
            Err(first) if first.cause.depends_on_encryption() => {
                log_in_once(target, host, address, Require).await.map_err(|e| e.after(first))
            }
            done => done,
        },
        SslMode::Prefer => match log_in_once(target, host, address, Prefer).await {
            Err(first) if first.with_tls && first.cause.depends_on_encryption() => {
                log_in_once(target, host, address, Disable).await.map_err(|e| e.after(first))
            }
            done => done,
        },
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => log_in_once(target, host, address, Require).await,
    }
}

async fn log_in_once(
    target: &ConnectTarget,
    host: &HostTarget,
    address: Option<SocketAddr>,
    mode: config::SslMode,
) -> Result<Login, Failure> {
    let config = configuration(target, host, mode);
    let wire = Wire::open(target, host, address).await?;
    if mode == config::SslMode::Disable {
        return talk(config, wire, NoTls, Handshake::default()).await.map_err(|e| Failure::of_server(host, address, e));
    }
    let mut connector = tls::connector(&target.tls, &host.host)
        .map_err(|e| Failure::new(host, address, Cause::Tls, e.to_string()).with_tls().hint(e.next_step()))?;
    // Only for telling the server the name: whether it is the right one is checked against `host` itself.
    let name = if host.host.is_empty() { host.address.as_deref().unwrap_or_default() } else { &host.host };
    let Ok(tls) = MakeTlsConnect::<Wire>::make_tls_connect(&mut connector, name);
    let handshake = Handshake::default();
    let watched = Watched { inner: tls, handshake: handshake.clone() };
    talk(config, wire, watched, handshake.clone()).await.map_err(|e| {
        if handshake.is(BEGUN) {
            return Failure::new(host, address, Cause::Tls, format!("TLS: {}", text_of(e))).with_tls();
        }
        let failure = Failure::of_server(host, address, e);
        if handshake.is(DONE) { failure.with_tls() } else { failure }
    })
}

async fn talk<T>(
    config: config::Config,
    wire: Wire,
    tls: T,
    handshake: Handshake,
) -> Result<Login, tokio_postgres::Error>
where
    T: TlsConnect<Wire>,
    T::Stream: Send + 'static,
{
    let (client, connection) = config.connect_raw(wire, tls).await?;
    let encryption = if handshake.is(DONE) { Encryption::Tls } else { Encryption::None };
    Ok(Login { client, background: Background::spawn(connection), encryption })
}

fn configuration(target: &ConnectTarget, host: &HostTarget, mode: config::SslMode) -> config::Config {
    let mut config = config::Config::new();
    config
        .user(target.user.as_str())
        .dbname(target.dbname.as_str())
        .application_name(target.application_name.as_deref().unwrap_or(APPLICATION_NAME))
        .ssl_mode(mode)
        .channel_binding(match target.channel_binding {
            ChannelBinding::Disable => config::ChannelBinding::Disable,
            ChannelBinding::Prefer => config::ChannelBinding::Prefer,
            ChannelBinding::Require => config::ChannelBinding::Require,
        });
    if target.tls.negotiation == Negotiation::Direct {
        config.ssl_negotiation(config::SslNegotiation::Direct);
    }
    if let Some(password) = &host.password {
        config.password(password.expose());
    }
    if let Some(options) = &target.options {
        config.options(options.as_str());
    }
    config
}

const BEGUN: u8 = 1;
const DONE: u8 = 2;

/// How far TLS came: tokio-postgres does not say whether an error is the handshake's or the login's.
#[derive(Clone, Default)]
struct Handshake(Arc<AtomicU8>);

impl Handshake {
    fn reach(&self, state: u8) {
        self.0.store(state, Ordering::Relaxed);
    }

    fn is(&self, state: u8) -> bool {
        self.0.load(Ordering::Relaxed) == state
    }
}

struct Watched<T> {
    inner: T,
    handshake: Handshake,
}

impl<S, T: TlsConnect<S>> TlsConnect<S> for Watched<T>
where
    T::Future: Unpin,
{
    type Stream = T::Stream;
    type Error = T::Error;
    type Future = Watched<T::Future>;

    fn connect(self, stream: S) -> Self::Future {
        self.handshake.reach(BEGUN);
        Watched { inner: self.inner.connect(stream), handshake: self.handshake }
    }
}

impl<T, E, F: Future<Output = Result<T, E>> + Unpin> Future for Watched<F> {
    type Output = Result<T, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let result = Pin::new(&mut self.inner).poll(context);
        if let Poll::Ready(Ok(_)) = &result {
            self.handshake.reach(DONE);
        }
        result
    }
}
