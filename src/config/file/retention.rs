//! `[instance.NAME.retention]`.

use std::time::Duration;

use super::reader::{Key, Keys, Node, Reader};
use crate::error::Result;

/// Which backups an instance keeps. Nothing set: the file says nothing of it, and all are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub last: Option<u32>,
    pub hourly: Option<u32>,
    pub daily: Option<u32>,
    pub weekly: Option<u32>,
    pub monthly: Option<u32>,
    pub yearly: Option<u32>,
    pub within: Option<Duration>,
}

impl Retention {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

const KEYS: Keys = Keys {
    known: &["keep_last", "keep_hourly", "keep_daily", "keep_weekly", "keep_monthly", "keep_yearly", "keep_within"],
    later: &["wal_keep_window"],
};

impl Reader<'_> {
    /// `instance` is the key of the table above.
    pub fn retention(&self, instance: &Key<'_>, value: &Node<'_>) -> Result<Retention> {
        let name = instance.get_ref();
        let hint = format!("write [instance.{name}.retention] above keep_daily = 7");
        let table = self.table("retention", value, &hint)?;
        let mut retention = Retention::default();
        for (key, value) in table.iter() {
            self.expect_known(key, &KEYS, &format!("a key of [instance.{name}.retention]"))?;
            let count = |key| self.count(key, value).map(Some);
            match key.get_ref().as_ref() {
                "keep_last" => retention.last = count("keep_last")?,
                "keep_hourly" => retention.hourly = count("keep_hourly")?,
                "keep_daily" => retention.daily = count("keep_daily")?,
                "keep_weekly" => retention.weekly = count("keep_weekly")?,
                "keep_monthly" => retention.monthly = count("keep_monthly")?,
                "keep_yearly" => retention.yearly = count("keep_yearly")?,
                _ => retention.within = Some(self.duration("keep_within", value)?),
            }
        }
        // An empty table, or one of zeros alone, would keep nothing or everything: whoever wrote it meant something.
        let counts =
            [retention.last, retention.hourly, retention.daily, retention.weekly, retention.monthly, retention.yearly];
        if retention.within.is_none() && counts.iter().flatten().all(|count| *count == 0) {
            let what = "retention keeps nothing";
            return Err(self
                .wrong_table("instance", instance, &format!("is wrong: its {what}"))
                .hint("add a line such as keep_daily = 7, or leave the table out to keep every backup"));
        }
        Ok(retention)
    }
}
