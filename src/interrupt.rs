//! The request to stop: a signal to the process, or the loss of what the work leans on, seen by everything that waits.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::error::{Error, Kind, Result};

/// Asked for once, seen by all clones. Work that sees it stops where nothing is lost and returns [`Interrupt::error`].
#[derive(Clone, Debug, Default)]
pub struct Interrupt {
    token: CancellationToken,
    signal: Arc<OnceLock<Signal>>,
    support: Option<Support>,
}

/// What the work leans on, such as a tunnel, and why it is gone.
type Support = Arc<OnceLock<Error>>;

/// How long the end of a support may take to be noticed after the first failure that comes of it.
const TO_NOTICE: Duration = Duration::from_secs(1);

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

    /// For work that leans on something: it stops with this, and by [`Interrupt::lose`] alone.
    pub fn leaning(&self) -> Self {
        Self { token: self.token.child_token(), signal: Arc::clone(&self.signal), support: Some(Support::default()) }
    }

    /// Stops the work that leans on what is gone now, and no other.
    pub fn lose(&self, because: Error) {
        if let Some(support) = &self.support {
            let _ = support.set(because);
            self.token.cancel();
        }
    }

    /// Whether what the work leans on is gone.
    pub fn has_lost(&self) -> bool {
        self.support.as_ref().is_some_and(|support| support.get().is_some())
    }

    /// The error of a failure that may have come of the loss of a support: whoever meets the failure first may not know
    /// yet what is gone.
    pub async fn explain(&self, error: Error) -> Error {
        let Some(support) = &self.support else { return error };
        if !matches!(error.kind, Kind::Connect | Kind::Tool | Kind::Verification | Kind::Unexpected) {
            return error;
        }
        let _ = tokio::time::timeout(TO_NOTICE, self.requested()).await;
        match support.get() {
            Some(lost) if self.signal.get().is_none() && lost.to_string() != error.to_string() => {
                let hint = lost.next_step();
                Error::new(lost.kind, lost.to_string()).because(error).hinted(hint)
            }
            _ => error,
        }
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
        if let (None, Some(lost)) = (self.signal.get(), self.support.as_ref().and_then(|support| support.get())) {
            return lost.repeated();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn lost() -> Error {
        Error::new(Kind::Connect, "the tunnel ended").hint("try it by hand")
    }

    #[tokio::test]
    async fn what_leans_on_what_is_lost_stops_and_nothing_else() {
        let whole = Interrupt::default();
        let (one, other) = (whole.leaning(), whole.leaning());
        one.lose(lost());
        assert_eq!(one.stopped().await.to_string(), "the tunnel ended");
        assert!(!whole.is_requested() && !other.is_requested());
        whole.request(Signal::Term);
        assert_eq!(other.stopped().await.kind, Kind::Terminated);
        assert_eq!(one.error().kind, Kind::Terminated, "who asks for a stop is not told of a tunnel");
    }

    #[tokio::test]
    async fn a_failure_is_explained_by_the_loss_that_it_came_of() {
        let work = Interrupt::default().leaning();
        let failed = || Error::new(Kind::Tool, "pg_dump ended with exit code 1");
        assert_eq!(work.explain(failed()).await.to_string(), "pg_dump ended with exit code 1");
        work.lose(lost());
        let explained = work.explain(failed()).await;
        assert_eq!(explained.to_string(), "the tunnel ended: pg_dump ended with exit code 1");
        assert_eq!((explained.kind, explained.next_step()), (Kind::Connect, Some("try it by hand")));
        assert_eq!(work.explain(work.error()).await.to_string(), "the tunnel ended", "it is said once");
        let full = work.explain(Error::new(Kind::Storage, "the disk is full")).await;
        assert_eq!(full.to_string(), "the disk is full");
    }
}
