//! Backups that outlive the rules, and the label that tells why.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde::{Deserialize, Serialize};

/// Until when a backup is kept by its user's word: `"forever"`, or a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Keep {
    Forever,
    #[serde(untagged)]
    Until(DateTime<Utc>),
}

impl Keep {
    /// Whether it still holds.
    pub fn holds(self, now: DateTime<Utc>) -> bool {
        match self {
            Self::Forever => true,
            Self::Until(end) => now < end,
        }
    }
}

/// "forever", "until 2026-12-20T02:00:00Z".
impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forever => f.write_str("forever"),
            Self::Until(end) => write!(f, "until {}", end.to_rfc3339_opts(SecondsFormat::Secs, true)),
        }
    }
}

/// How long a backup is to be kept, as it is asked for before there is one: `forever`, `36h`, `30d`, `8w`, `7y`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeepFor {
    Ever,
    Time(TimeDelta),
}

impl KeepFor {
    /// Of a backup that began at `start`.
    pub fn from(self, start: DateTime<Utc>) -> Keep {
        match self {
            Self::Ever => Keep::Forever,
            // What lies beyond the calendar never comes.
            Self::Time(time) => start.checked_add_signed(time).map_or(Keep::Forever, Keep::Until),
        }
    }
}

impl FromStr for KeepFor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "forever" {
            return Ok(Self::Ever);
        }
        let wrong = || format!("{text:?} is not forever, nor a time such as 36h, 30d, 8w or 7y");
        let unit = text.chars().last().ok_or_else(wrong)?;
        let hours = match unit {
            'h' => 1,
            'd' => 24,
            'w' => 7 * 24,
            'y' => 366 * 24,
            _ => return Err(wrong()),
        };
        let count: u32 =
            text[..text.len() - unit.len_utf8()].parse().ok().filter(|count| *count > 0).ok_or_else(wrong)?;
        // What no calendar reaches is for ever.
        Ok(TimeDelta::try_hours(i64::from(count) * hours).map_or(Self::Ever, Self::Time))
    }
}

/// What a user calls a backup: up to 64 letters without marks, digits, spaces, `.`, `_` and `-`, so that it can stand in
/// a table and in a file name of somebody else's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label(String);

impl Label {
    const LONGEST: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Label {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |c: char| c.is_ascii_alphanumeric() || " ._-".contains(c);
        if text.is_empty() || text.len() > Self::LONGEST || !text.chars().all(plain) || text.trim() != text {
            return Err(format!(
                "a label has 1 to {} letters (A to Z), digits, spaces, '.', '_' and '-', and no space at its ends",
                Self::LONGEST
            ));
        }
        Ok(Self(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_a_word_or_a_time() {
        let end: DateTime<Utc> = "2026-12-20T02:00:00Z".parse().unwrap();
        for (keep, json) in [(Keep::Forever, "\"forever\""), (Keep::Until(end), "\"2026-12-20T02:00:00Z\"")] {
            assert_eq!(serde_json::to_string(&keep).unwrap(), json);
            assert_eq!(serde_json::from_str::<Keep>(json).unwrap(), keep);
        }
        assert!(serde_json::from_str::<Keep>("\"for ever\"").is_err());
        assert!(!Keep::Until(end).holds(end) && Keep::Forever.holds(end));
    }

    #[test]
    fn how_long_is_counted_from_the_start() {
        let start: DateTime<Utc> = "2026-11-20T02:00:00Z".parse().unwrap();
        let keep = |text: &str| text.parse::<KeepFor>().unwrap().from(start);
        assert_eq!(keep("forever"), Keep::Forever);
        assert_eq!(keep("30d").to_string(), "until 2026-12-20T02:00:00Z");
        assert_eq!(keep("36h").to_string(), "until 2026-11-21T14:00:00Z");
        assert_eq!(keep("2w").to_string(), "until 2026-12-04T02:00:00Z");
        assert_eq!(keep("1y").to_string(), "until 2027-11-21T02:00:00Z");
        assert_eq!(keep("4294967295y"), Keep::Forever);
        for wrong in ["", "30", "d", "0d", "-1d", "1m", "1.5d", "ever", "30 d", "30é"] {
            assert!(wrong.parse::<KeepFor>().is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_label_is_plain_text() {
        for good in ["before upgrade 4.2", "x", "a_b-c.d", &"x".repeat(64)] {
            assert_eq!(good.parse::<Label>().unwrap().as_str(), good);
        }
        for wrong in ["", " x", "x ", "a/b", "a\nb", "é", &"x".repeat(65)] {
            assert!(wrong.parse::<Label>().is_err(), "{wrong:?}");
        }
    }
}
