//! Backups that outlive the rules.

use std::fmt;

use chrono::{DateTime, SecondsFormat, Utc};
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
}
