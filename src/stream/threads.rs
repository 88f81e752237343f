//! What the two pipelines share: threads that work on a common queue, and the verdict that the last stage gives.

use std::sync::mpsc::Receiver;
use std::sync::{Mutex, PoisonError};
use std::thread;

use tokio::sync::oneshot;

use crate::error::{Doing as _, Error, Kind, Result};

/// Starts a thread that nobody joins: it ends when one of its channels closes.
pub(super) fn start(name: String, work: impl FnOnce() + Send + 'static) -> Result<()> {
    let action = format!("start thread {name}");
    thread::Builder::new().name(name).spawn(work).map(drop).doing(Kind::Unexpected, || action)
}

/// The next job of a queue that several workers share; `None` when no more can come.
pub(super) fn next_job<T>(jobs: &Mutex<Receiver<T>>) -> Option<T> {
    jobs.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

/// How a pipeline ended, told once by its last stage. A stage that vanished (a panic) is an error too.
#[derive(Debug)]
pub(super) struct Verdict<T> {
    work: &'static str,
    told: Option<oneshot::Receiver<Result<T>>>,
}

impl<T> Verdict<T> {
    /// `work` is a verb and an object, for errors.
    pub(super) fn new(work: &'static str) -> (oneshot::Sender<Result<T>>, Self) {
        let (tell, told) = oneshot::channel();
        (tell, Self { work, told: Some(told) })
    }

    /// May be dropped and asked again.
    pub(super) async fn wait(&mut self) -> Result<T> {
        let Some(told) = &mut self.told else {
            return Err(Error::new(Kind::Unexpected, format!("{}: it has already ended", self.work)));
        };
        let verdict = told.await.unwrap_or_else(|_| Err(vanished(self.work)));
        self.told = None;
        verdict
    }

    /// The error of a pipeline that has already failed.
    pub(super) fn failed(&mut self) -> Result<()> {
        let told = match self.told.as_mut().map(oneshot::Receiver::try_recv) {
            None | Some(Err(oneshot::error::TryRecvError::Empty)) => return Ok(()),
            Some(told) => told,
        };
        self.told = None;
        match told {
            Ok(Err(error)) => Err(error),
            _ => Err(vanished(self.work)),
        }
    }
}

/// A stage went away without a word, which only a panic does.
pub(super) fn vanished(work: &str) -> Error {
    Error::new(Kind::Unexpected, format!("{work}: a thread ended unexpectedly"))
        .hint("this is a defect: please report it with the lines before this one")
}
