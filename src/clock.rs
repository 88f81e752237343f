//! The only source of "now". Durations are measured with [`std::time::Instant`], which no clock jump moves.

use std::fmt::Debug;

use chrono::{DateTime, SubsecRound, Utc};

/// Wall-clock time, injected so that decisions can be tested at any moment.
pub trait Clock: Send + Sync + Debug {
    /// Now, in UTC, cut to whole microseconds.
    fn now(&self) -> DateTime<Utc>;
}

/// The clock of the host.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods)]
    fn now(&self) -> DateTime<Utc> {
        Utc::now().trunc_subsecs(6)
    }
}

/// A clock that stands still until it is set: for tests of decisions in time.
#[derive(Debug)]
pub struct ManualClock(std::sync::Mutex<DateTime<Utc>>);

impl ManualClock {
    pub fn at(now: DateTime<Utc>) -> Self {
        Self(std::sync::Mutex::new(now))
    }

    pub fn set(&self, now: DateTime<Utc>) {
        *self.0.lock().unwrap_or_else(|e| e.into_inner()) = now;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> DateTime<Utc> {
        *self.0.lock().unwrap_or_else(|e| e.into_inner())
    }
}
