//! What a dump depends on and holds, by name: stored compressed beside it, encrypted where dumps are.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use std::collections::BTreeSet;

use super::document;
use super::layout::Ending;
use super::packed::{pack, unpack};
use crate::error::Result;
use crate::pg::database::Description;

/// `<stem>.details.json.zst`, format 1: zstd-compressed JSON.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpDetails {
    pub format: u32,
    /// What the database said of itself in the snapshot of the dump.
    #[serde(flatten)]
    pub description: Description,
    /// The options that chose what is dumped, where that is not the whole database.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub choice: Vec<String>,
    /// What `pg_dump` wrote to stderr, line by line.
    pub warnings: Vec<String>,
}

impl DumpDetails {
    pub const FORMAT: u32 = document::FORMAT;

    /// `owners` are those that the archive names: a role that owns only parts of an extension's object is not among the
    /// uses that the server records.
    pub fn new(
        mut description: Description,
        owners: BTreeSet<&str>,
        choice: Vec<String>,
        warnings: Vec<String>,
    ) -> Self {
        description.roles.extend(owners.into_iter().map(str::to_owned));
        Self { format: Self::FORMAT, description, choice, warnings }
    }

    /// Compressed bytes larger than this are refused.
    pub const LIMIT_BYTES: u64 = 64 << 20;

    /// What decodes to more than this is refused.
    const DECODED_LIMIT_BYTES: u64 = 512 << 20;

    pub fn to_stored(&self) -> Result<Bytes> {
        pack(document::to_json(self)?, Ending::DETAILS.packing(), "details")
    }

    /// `name` is for the error.
    pub fn from_stored(stored: &[u8], name: &str) -> Result<Self> {
        let json = unpack(stored, Ending::DETAILS.packing(), Self::DECODED_LIMIT_BYTES, name)?;
        document::from_json(&json, name)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::pg::database::{Database, Relation, Setting};

    pub fn sample() -> DumpDetails {
        let database = Database {
            name: "shop".to_owned(),
            owner: "shop".to_owned(),
            encoding: "UTF8".to_owned(),
            locale_provider: "c".to_owned(),
            collate: "en_US.utf8".to_owned(),
            ctype: "en_US.utf8".to_owned(),
            locale: None,
            icu_rules: None,
            collation_version: Some("2.36".to_owned()),
            collation_actual_version: Some("2.36".to_owned()),
            tablespace: "pg_default".to_owned(),
            connection_limit: -1,
            comment: Some("the shop".to_owned()),
            acl: None,
            is_template: false,
            lacks_public: false,
            size_bytes: 8_000_000,
        };
        let relation = Relation {
            schema: "public".to_owned(),
            name: "订单".to_owned(),
            kind: "table".to_owned(),
            owner: "shop".to_owned(),
            row_estimate: None,
            size_bytes: 8192,
        };
        let setting = Setting { role: None, name: "search_path".to_owned(), value: "\"$user\", a".to_owned() };
        let description = Description {
            database,
            roles: BTreeSet::from(["security_console".to_owned(), "O'Neil \"x\"\n".to_owned()]),
            bootstrap_role: Some("postgres".to_owned()),
            settings: vec![setting],
            extensions: Vec::new(),
            relations: vec![relation],
            large_objects: 0,
        };
        DumpDetails::new(description, BTreeSet::from(["shop"]), Vec::new(), Vec::new())
    }

    #[test]
    fn details_survive_storage() {
        let details = sample();
        let stored = details.to_stored().unwrap();
        assert_eq!(DumpDetails::from_stored(&stored, "d").unwrap(), details);
        for bad in [&stored[..stored.len() - 1], b"", b"{}"] {
            assert_eq!(DumpDetails::from_stored(bad, "d").unwrap_err().kind, Kind::Verification);
        }
    }
}
