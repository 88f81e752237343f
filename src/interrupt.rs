//! The request to stop: a signal to the process, seen by everything that waits.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

/// Asked for once, seen by all clones. Work that sees it stops where nothing is lost and returns [`Interrupt::error`].
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    token: CancellationToken,
    signal: Arc<OnceLock<Signal>>,
}

/// What asks for a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    Int,
    Term,
    Hup,
}

impl Signal {
    pub fn kind(self) -> Kind {
        match self {
            Self::Int => Kind::Interrupted,
            Self::Term | Self::Hup => Kind::Terminated,
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Int => "SIGINT",
            Self::Term => "SIGTERM",
            Self::Hup => "SIGHUP",
        }
    }
}

impl Interrupt {
    /// The first request stands.
    pub fn request(&self, signal: Signal) {
        let _ = self.signal.set(signal);
        self.token.cancel();
    }

    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Ends when a stop is asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// As [`Interrupt::requested`], with the error that says by what.
    pub async fn stopped(&self) -> Error {
        self.requested().await;
        self.error()
    }

    pub fn error(&self) -> Error {
        let signal = self.signal.get().copied().unwrap_or(Signal::Int);
        Error::new(signal.kind(), format!("stopped by {}", signal.name()))
    }

    /// Runs `work` until it ends or a stop is asked for; then `work` is dropped where it stands.
    pub async fn guard<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.requested() => Err(self.error()),
            done = work => done,
        }
    }
}
