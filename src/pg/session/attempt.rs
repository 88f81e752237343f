//! One attempt: a socket, TLS or not, a login.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio_postgres::config;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{APPLICATION_NAME, Cause, Failure, unsuitable};
use crate::pg::conninfo::{
    ChannelBinding, ConnectTarget, HostTarget, Keepalive, Negotiation, Probing, SessionAttributes, SslMode,
};
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

trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Wire for T {}
type BoxedWire = Box<dyn Wire>;

/// Where a host is: `None` for a Unix socket, else each of its addresses.
pub(super) async fn addresses(host: &HostTarget) -> Result<Vec<Option<SocketAddr>>, Failure> {
    if host.is_socket() {
        return Ok(vec![None]);
    }
    let name = host.address.as_deref().unwrap_or(&host.host);
    let unknown = |text: String| Failure::new(host, None, Cause::NameLookup, text);
    let found: Vec<_> = tokio::net::lookup_host((name, host.port))
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
    let attempt = async {
        let login = log_in_by_mode(target, host, address).await?;
        match unsuitable(&login.client, wanted).await {
            Ok(None) => Ok(login),
            Ok(Some(why)) => Err(Failure::new(host, address, Cause::Attributes, why)),
            Err(e) => Err(Failure::of_server(host, address, e)),
        }
    };
    match target.connect_timeout {
        None => attempt.await,
        Some(limit) => tokio::time::timeout(limit, attempt).await.unwrap_or_else(|_| {
            Err(Failure::new(host, address, Cause::Timeout, format!("no answer within {} s", limit.as_secs())))
        }),
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
    let once = |mode| log_in_once(target, host, address, mode);
    match target.tls.mode {
        _ if address.is_none() => once(Disable).await,
        SslMode::Disable => once(Disable).await,
        SslMode::Allow => match once(Disable).await {
            Err(first) if first.cause.depends_on_encryption() => once(Require).await.map_err(|e| e.after(first)),
            done => done,
        },
        SslMode::Prefer => match once(Prefer).await {
            Err(first) if first.with_tls && first.cause.depends_on_encryption() => {
                once(Disable).await.map_err(|e| e.after(first))
            }
            done => done,
        },
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => once(Require).await,
    }
}

async fn log_in_once(
    target: &ConnectTarget,
    host: &HostTarget,
    address: Option<SocketAddr>,
    mode: config::SslMode,
) -> Result<Login, Failure> {
    let config = configuration(target, host, mode);
    let wire = open(target, host, address).await?;
    if mode == config::SslMode::Disable {
        let (client, connection) =
            config.connect_raw(wire, NoTls).await.map_err(|e| Failure::of_server(host, address, e))?;
        return Ok(Login { client, background: Background::spawn(connection), encryption: Encryption::None });
    }
    let handshake = Handshake::default();
    let broken = |text: String| Failure::new(host, address, Cause::Tls, text).with_tls();
    let mut connector = tls::connector(&target.tls, &host.host)
        .map_err(|e| Failure::new(host, address, Cause::Tls, e.to_string()).with_tls().hint(e.next_step()))?;
    // Only for telling the server the name: whether it is the right one is checked against `host` itself.
    let name = if host.host.is_empty() { host.address.as_deref().unwrap_or_default() } else { &host.host };
    let Ok(tls) = MakeTlsConnect::<BoxedWire>::make_tls_connect(&mut connector, name);
    match config.connect_raw(wire, Watched { inner: tls, handshake: handshake.clone() }).await {
        Ok((client, connection)) => {
            let encryption = if handshake.is(DONE) { Encryption::Tls } else { Encryption::None };
            Ok(Login { client, background: Background::spawn(connection), encryption })
        }
        Err(e) if handshake.is(BEGUN) => Err(broken(format!("TLS: {}", super::failure::text_of(e)))),
        Err(e) => {
            let failure = Failure::of_server(host, address, e);
            Err(if handshake.is(DONE) { failure.with_tls() } else { failure })
        }
    }
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

async fn open(target: &ConnectTarget, host: &HostTarget, address: Option<SocketAddr>) -> Result<BoxedWire, Failure> {
    let Some(tcp) = address else { return open_socket(target, host).await };
    let failed = |e| Failure::of_socket(host, address, e);
    let stream = TcpStream::connect(tcp).await.map_err(failed)?;
    tune(&stream, &target.keepalive).map_err(failed)?;
    Ok(Box::new(stream))
}

fn tune(stream: &TcpStream, keepalive: &Keepalive) -> io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, keepalive.probing == Probing::On)?;
    if keepalive.probing == Probing::On {
        keepalive.idle.map_or(Ok(()), |idle| sockopt::set_tcp_keepidle(stream, idle))?;
        keepalive.interval.map_or(Ok(()), |interval| sockopt::set_tcp_keepintvl(stream, interval))?;
        keepalive.count.map_or(Ok(()), |count| sockopt::set_tcp_keepcnt(stream, count))?;
    }
    if let Some(limit) = keepalive.user_timeout {
        sockopt::set_tcp_user_timeout(stream, u32::try_from(limit.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

async fn open_socket(target: &ConnectTarget, host: &HostTarget) -> Result<BoxedWire, Failure> {
    let path = format!("{}/.s.PGSQL.{}", host.host, host.port);
    // Linux spells an abstract name with a leading NUL.
    let path = match path.strip_prefix('@') {
        Some(name) => format!("\0{name}"),
        None => path,
    };
    let failed = |e| Failure::of_socket(host, None, e);
    let stream = UnixStream::connect(path).await.map_err(failed)?;
    if let Some(wanted) = &target.require_peer {
        let uid = stream.peer_cred().map_err(failed)?.uid();
        let account = account_name(uid).map_err(failed)?;
        if account.as_deref() != Some(wanted) {
            let account = account.unwrap_or_else(|| format!("number {uid}"));
            let text = format!("requirepeer wants account {wanted:?}, the server runs as {account:?}");
            return Err(Failure::new(host, None, Cause::Peer, text));
        }
    }
    Ok(Box::new(stream))
}

/// Local accounts only: an account of a directory service has no name here, and the peer is refused.
fn account_name(uid: u32) -> io::Result<Option<String>> {
    let accounts = std::fs::read_to_string("/etc/passwd")?;
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)?.parse() == Ok(uid)).then(|| name.to_owned())
    });
    Ok(name)
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
