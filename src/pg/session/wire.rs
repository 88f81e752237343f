//! The bytes of a connection, over TCP or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use super::{Cause, Failure};
use crate::pg::conninfo::{ConnectTarget, HostTarget, Keepalive, Probing};

/// An enum and not a trait object: with one, no future that holds a connection can be proven `Send`.
pub(super) enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    /// Connects to `address`, or to the Unix socket of `host` where there is none.
    pub(super) async fn open(
        target: &ConnectTarget,
        host: &HostTarget,
        address: Option<SocketAddr>,
    ) -> Result<Self, Failure> {
        let Some(tcp) = address else { return open_socket(target, host).await };
        let failed = |e| Failure::of_socket(host, address, e);
        let stream = TcpStream::connect(tcp).await.map_err(failed)?;
        tune(&stream, &target.keepalive).map_err(failed)?;
        Ok(Self::Tcp(stream))
    }
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

async fn open_socket(target: &ConnectTarget, host: &HostTarget) -> Result<Wire, Failure> {
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
    Ok(Wire::Unix(stream))
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

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Tcp(stream) => Pin::new(stream).poll_read(context, into),
            Wire::Unix(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Wire::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Wire::Unix(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Wire::Unix(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Wire::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Wire::Unix(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
