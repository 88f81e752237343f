//! The request to stop: a signal to the process, seen by everything that waits.

use std::future::Future;
use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

/// Asked for once, seen by all clones. Work that sees it stops where nothing is lost and returns [`Interrupt::error`].
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    token: CancellationToken,
    kind: Arc<OnceLock<Kind>>,
}

impl Interrupt {
    /// `kind` is `Interrupted` or `Terminated`; the first request stands.
    pub fn request(&self, kind: Kind) {
        let _ = self.kind.set(kind);
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
        let kind = self.kind.get().copied().unwrap_or(Kind::Interrupted);
        let signal = if kind == Kind::Terminated { "SIGTERM" } else { "SIGINT" };
        Error::new(kind, format!("stopped by {signal}"))
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
