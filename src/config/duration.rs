//! Lengths of time as people write them.

use std::time::Duration;

const UNITS: [(&str, u64); 6] = [("s", 1), ("m", 60), ("min", 60), ("h", 3_600), ("d", 86_400), ("w", 7 * 86_400)];

/// `90s`, `15m`, `36h`, `7d`, `2w`. Months and years have no length, and a number without a unit could be anything.
pub fn parse(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let (_, seconds) = UNITS.into_iter().find(|(unit, _)| *unit == &text[digits.len()..])?;
    let count: u64 = digits.parse().ok().filter(|_| digits.bytes().all(|b| b.is_ascii_digit()))?;
    // Longer than a calendar can count.
    let total = count.checked_mul(seconds).filter(|total| *total <= 10_000 * 365 * 86_400)?;
    Some(Duration::from_secs(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_has_a_number_and_a_unit() {
        let seconds = |text| parse(text).map(|length| length.as_secs());
        assert_eq!((seconds("90s"), seconds("15m"), seconds("15min")), (Some(90), Some(900), Some(900)));
        assert_eq!((seconds("36h"), seconds("7d"), seconds("2w")), (Some(129_600), Some(604_800), Some(1_209_600)));
        for wrong in ["", "7", "d", "-1d", "+1d", "1.5h", "1 d", "1y", "1mo", "1D", "99999999999999d", "١d"] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}
