//! How fast bodies may pass: as fast as they can, or so many bytes a second, both directions and all connections together.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

#[derive(Debug)]
pub struct Pace(Mutex<State>);

#[derive(Debug)]
struct State {
    bytes_per_second: Option<u64>,
    /// When what has passed so far has taken its time.
    free: Instant,
}

impl Pace {
    pub fn unlimited() -> Self {
        Self(Mutex::new(State { bytes_per_second: None, free: Instant::now() }))
    }

    pub fn set(&self, bytes_per_second: Option<u64>) {
        *self.0.lock().unwrap() = State { bytes_per_second, free: Instant::now() };
    }

    /// How much to pass at once, so that a slow stream is an even one.
    pub fn piece_bytes(&self) -> u64 {
        self.0.lock().unwrap().bytes_per_second.map_or(u64::MAX, |rate| (rate / 20).max(1))
    }

    /// Waits for as long as these bytes take.
    pub async fn passed(&self, bytes: u64) {
        let free = {
            let mut state = self.0.lock().unwrap();
            let Some(rate) = state.bytes_per_second else { return };
            let duration = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / rate.max(1));
            state.free = state.free.max(Instant::now()) + duration;
            state.free
        };
        tokio::time::sleep_until(free).await;
    }
}
