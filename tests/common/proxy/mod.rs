//! A proxy before SeaweedFS that plays another store's dialect, lets requests meet faults, and keeps a record.
//!
//! It works on the rig's runtime, so it serves sync and async tests alike. What it passes on it does not change, the
//! `Host` included, so that signatures stay valid; a fault is one answer or one connection's end and touches no other
//! request. Requests are read whole before anything is done with them; answers pass as they come.

mod connection;
mod dialect;
mod fault;
mod http;
mod pace;
mod request;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

pub use dialect::Dialect;
pub use fault::{Fault, On};
pub use request::Kind;

use fault::Plan;
use pace::Pace;
use request::Request;

use super::kept::{runtime, wait_for};
use super::weed::{Bucket, Weed};

/// A request as the record tells of it, in the order of arrival.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub kind: Kind,
    pub bucket: String,
    /// Empty: the request is for the bucket.
    pub key: String,
    pub method: String,
    /// As it came: the path and what follows the question mark.
    pub target: String,
    pub fault: Option<Fault>,
    /// The code of the dialect's refusal.
    pub refusal: Option<&'static str>,
    /// What the client was answered. `None`: nothing so far.
    pub status: Option<u16>,
    /// A stall has begun; stays so after it was released.
    pub stalled: bool,
    /// The client has left while it was stalled.
    pub left: bool,
}

/// How many requests of each kind came, and how many met each fault.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    kinds: BTreeMap<Kind, usize>,
    faults: BTreeMap<Fault, usize>,
    refused: usize,
}

impl Counts {
    pub fn of(&self, kind: Kind) -> usize {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    pub fn total(&self) -> usize {
        self.kinds.values().sum()
    }

    pub fn met(&self, fault: Fault) -> usize {
        self.faults.get(&fault).copied().unwrap_or_default()
    }

    pub fn faulted(&self) -> usize {
        self.faults.values().sum()
    }

    /// By the dialect.
    pub fn refused(&self) -> usize {
        self.refused
    }
}

/// A proxy that listens until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    shared: Arc<Shared>,
    port: u16,
    /// Bound and not listening: while nobody listens clients are refused, and nobody else gets the port.
    _place: TcpSocket,
    listening: Mutex<Option<JoinHandle<()>>>,
}

/// What is still to be said before a proxy starts.
#[derive(Debug)]
pub struct Builder<'a> {
    weed: &'a Weed,
    dialect: Dialect,
}

impl Builder<'_> {
    pub fn dialect(mut self, dialect: Dialect) -> Self {
        self.dialect = dialect;
        self
    }

    pub fn start(self) -> Proxy {
        let (place, port) = {
            let _inside = runtime().enter();
            let place = bound(0);
            let port = place.local_addr().unwrap().port();
            (place, port)
        };
        let shared = Shared {
            backend_port: self.weed.port(),
            backend: self.weed.client(),
            dialect: self.dialect,
            state: Mutex::default(),
            changed: Condvar::new(),
            releases: watch::Sender::new(()),
            pace: Pace::unlimited(),
            creating: tokio::sync::Mutex::new(()),
        };
        let proxy = Proxy { shared: Arc::new(shared), port, _place: place, listening: Mutex::new(None) };
        proxy.listen();
        proxy
    }
}

impl Proxy {
    pub fn before(weed: &Weed) -> Builder<'_> {
        Builder { weed, dialect: Dialect::Plain }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What the program under test is told: a loopback address, or for OSS the host before which buckets stand.
    pub fn endpoint(&self) -> String {
        match self.shared.dialect {
            Dialect::Plain => format!("http://127.0.0.1:{}", self.port),
            Dialect::Oss => format!("http://localhost:{}", self.port),
        }
    }

    /// A repository's address in `bucket`, through this proxy.
    pub fn address(&self, bucket: &Bucket) -> String {
        let scheme = if self.shared.dialect == Dialect::Oss { "oss" } else { "s3" };
        format!("{scheme}://{}/backups?endpoint={}", bucket.name(), self.endpoint())
    }

    /// Plans a fault. Plans are asked in the order in which they were made; the first that matches a request decides.
    pub fn inject(&self, on: On, fault: Fault) {
        self.shared.state.lock().unwrap().plan.add(on, fault);
    }

    /// One request in so many meets a fault that passes when one asks again; the same request no more than twice running.
    pub fn random(&self, seed: u64, one_in: u32) {
        self.random_among(seed, one_in, &Fault::TRANSIENT);
    }

    /// As [`Proxy::random`], with these faults.
    pub fn random_among(&self, seed: u64, one_in: u32, faults: &[Fault]) {
        self.shared.state.lock().unwrap().plan.draw_from(seed, one_in, faults);
    }

    /// Slow, and healthy: so many bytes of bodies a second, all connections together.
    pub fn slow(&self, bytes_per_second: u64) {
        self.shared.pace.set(Some(bytes_per_second));
    }

    /// Cuts every connection and refuses new ones.
    pub fn refuse(&self) {
        if let Some(listening) = self.listening.lock().unwrap().take() {
            listening.abort();
            wait_for(async move { drop(listening.await) });
        }
    }

    /// Lets go on what stands still.
    pub fn release(&self) {
        self.shared.releases.send_replace(());
    }

    /// Nothing is wrong any more: no plan, no lot, no limit; what stands still goes on, and clients are welcome.
    pub fn heal(&self) {
        self.shared.state.lock().unwrap().plan = Plan::default();
        self.shared.pace.set(None);
        self.release();
        self.listen();
    }

    pub fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for seen in self.seen() {
            *counts.kinds.entry(seen.kind).or_default() += 1;
            if let Some(fault) = seen.fault {
                *counts.faults.entry(fault).or_default() += 1;
            }
            counts.refused += usize::from(seen.refusal.is_some());
        }
        counts
    }

    /// The requests so far.
    pub fn seen(&self) -> Vec<Seen> {
        self.shared.state.lock().unwrap().seen.clone()
    }

    /// Waits until the record satisfies `is_so`, which is asked whenever it has changed. The thread waits: a client in the
    /// same test needs another one, as on a runtime with several.
    #[track_caller]
    pub fn until(&self, what: &str, is_so: impl Fn(&[Seen]) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut state = self.shared.state.lock().unwrap();
        while !is_so(&state.seen) {
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{what}: not within 60 s\n{:#?}", state.seen);
            state = self.shared.changed.wait_timeout(state, left).unwrap().0;
        }
    }

    /// Waits until a request of this kind stands still.
    #[track_caller]
    pub fn until_stalled(&self, kind: Kind) {
        self.until(&format!("a {kind:?} stands still"), |seen| {
            seen.iter().any(|seen| seen.kind == kind && seen.stalled)
        });
    }

    fn listen(&self) {
        let mut listening = self.listening.lock().unwrap();
        if listening.is_some() {
            return;
        }
        let _inside = runtime().enter();
        let listener = bound(self.port).listen(1024).unwrap();
        *listening = Some(runtime().spawn(accept(listener, Arc::clone(&self.shared))));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.refuse();
    }
}

fn bound(port: u16) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseaddr(true).unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port))).unwrap();
    socket
}

/// Ends, when it is aborted, with every connection.
async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                if let Ok((stream, _)) = accepted {
                    connections.spawn(connection::serve(Arc::clone(&shared), stream));
                }
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

/// What connections and the test share.
#[derive(Debug)]
struct Shared {
    backend_port: u16,
    backend: Client,
    dialect: Dialect,
    state: Mutex<State>,
    changed: Condvar,
    releases: watch::Sender<()>,
    pace: Pace,
    /// Held from the look whether an object exists until it is written.
    creating: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
struct State {
    plan: Plan,
    seen: Vec<Seen>,
}

impl Shared {
    /// Records a request; its place in the record, and the fault it meets. What is refused at once meets none.
    fn meets(&self, request: &Request, is_refused: bool) -> (usize, Option<Fault>) {
        let mut state = self.state.lock().unwrap();
        let fault = if is_refused { None } else { state.plan.next(request) };
        state.seen.push(Seen {
            kind: request.kind,
            bucket: request.bucket.clone(),
            key: request.key.clone(),
            method: request.method.clone(),
            target: request.target.clone(),
            fault,
            refusal: None,
            status: None,
            stalled: false,
            left: false,
        });
        self.changed.notify_all();
        (state.seen.len() - 1, fault)
    }

    fn refused(&self, place: usize, code: &'static str) {
        self.state.lock().unwrap().seen[place].refusal = Some(code);
        self.changed.notify_all();
    }

    fn answered(&self, place: usize, status: u16) {
        self.state.lock().unwrap().seen[place].status = Some(status);
        self.changed.notify_all();
    }

    fn stalls(&self, place: usize) {
        self.state.lock().unwrap().seen[place].stalled = true;
        self.changed.notify_all();
    }

    fn leaves(&self, place: usize) {
        self.state.lock().unwrap().seen[place].left = true;
        self.changed.notify_all();
    }

    async fn exists(&self, request: &Request) -> bool {
        let answer = self.backend.head_object().bucket(&request.bucket).key(&request.key).send().await;
        match answer {
            Ok(_) => true,
            Err(error) if error.as_service_error().is_some_and(|error| error.is_not_found()) => false,
            Err(error) => panic!("look for {}: {error:?}", request.key),
        }
    }
}
