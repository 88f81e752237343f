//! Pauses between attempts.

use std::time::Duration;

use super::Patience;

/// The pause after the attempt of this number, counted from 1. It doubles from one attempt to the next and is spread by
/// half to each side, so that those whom one moment of a store stopped do not come back in one moment.
pub(super) fn pause(patience: &Patience, attempt: u32) -> Duration {
    let doubled = patience.pause.saturating_mul(1_u32 << attempt.saturating_sub(1).min(16));
    doubled.min(patience.longest_pause).mul_f64(rand::random_range(0.5..1.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let patience = Patience::default();
        let around = |attempt: u32, expected: Duration| {
            let pauses: Vec<_> = (0..50).map(|_| pause(&patience, attempt)).collect();
            assert!(
                pauses.iter().all(|pause| (expected / 2..=expected * 3 / 2).contains(pause)),
                "{attempt}: {pauses:?}"
            );
            assert!(pauses.iter().any(|pause| pause != &pauses[0]));
        };
        around(1, patience.pause);
        around(3, patience.pause * 4);
        around(1_000, patience.longest_pause);
    }
}
