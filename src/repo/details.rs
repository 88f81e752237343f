//! What a dump depends on and holds, by name: stored compressed beside it, encrypted where dumps are.

use std::io::Read as _;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::document;
use crate::error::{Doing as _, Error, Kind, Result};

/// `<stem>.details.json.zst`, format 1: zstd-compressed JSON.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DumpDetails {
    pub format: u32,
    /// Owners, grantees, roles of policies, default rights and user mappings: what must exist before a restore.
    pub roles_referred: Vec<String>,
    pub owner: String,
    pub encoding: String,
    pub locale: Locale,
    pub tablespace: String,
    /// -1: none.
    pub connection_limit: i32,
    pub comment: Option<String>,
    /// `datacl`, one item as the server writes it each. None: the built-in default.
    pub acl: Option<Vec<String>>,
    pub settings: Vec<DatabaseSettings>,
    pub extensions: Vec<Extension>,
    pub relations: Vec<Relation>,
    pub large_objects: u64,
    /// What `pg_dump` wrote to stderr, line by line.
    pub warnings: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Locale {
    /// "libc", "icu", "builtin".
    pub provider: String,
    pub collate: String,
    pub ctype: String,
    /// The locale of ICU or of the built-in provider.
    pub locale: Option<String>,
    pub icu_rules: Option<String>,
    /// Recorded when the database was made, and what the library of the server has now.
    pub collation_version: Option<String>,
    pub actual_collation_version: Option<String>,
}

/// One row of `pg_db_role_setting` for this database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DatabaseSettings {
    /// None: for every role.
    pub role: Option<String>,
    /// `name=value`, as the server stores it.
    pub settings: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Extension {
    pub name: String,
    pub version: String,
    pub schema: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Relation {
    pub schema: String,
    pub name: String,
    /// `relkind`.
    pub kind: char,
    pub owner: String,
    /// None: never analysed.
    pub row_estimate: Option<u64>,
    pub size_bytes: u64,
}

impl DumpDetails {
    pub const FORMAT: u32 = document::FORMAT;

    /// Compressed bytes larger than this are refused.
    pub const LIMIT_BYTES: u64 = 64 << 20;

    /// What decodes to more than this is refused: a few bytes of zstd can name terabytes.
    const DECODED_LIMIT_BYTES: u64 = 512 << 20;

    pub fn to_stored(&self) -> Result<Bytes> {
        let json = document::to_json(self)?;
        let stored = zstd::encode_all(&json[..], 3).doing(Kind::Unexpected, || "compress details")?;
        Ok(stored.into())
    }

    /// `name` is for the error.
    pub fn from_stored(stored: &[u8], name: &str) -> Result<Self> {
        Self::from_stored_within(stored, name, Self::DECODED_LIMIT_BYTES)
    }

    fn from_stored_within(stored: &[u8], name: &str, limit_bytes: u64) -> Result<Self> {
        let mut json = Vec::new();
        zstd::Decoder::new(stored)
            .and_then(|decoder| decoder.take(limit_bytes + 1).read_to_end(&mut json))
            .doing(Kind::Verification, || format!("decode {name}"))?;
        if json.len() as u64 > limit_bytes {
            return Err(Error::new(Kind::Verification, format!("{name} decodes to more than {limit_bytes} bytes")));
        }
        document::from_json(&json, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_survive_storage_and_have_a_ceiling() {
        let details = DumpDetails {
            format: DumpDetails::FORMAT,
            roles_referred: vec!["security_console".to_owned(), "O'Neil \"x\"\n".to_owned()],
            owner: "shop".to_owned(),
            settings: vec![DatabaseSettings { role: None, settings: vec!["search_path=\"$user\", a".to_owned()] }],
            relations: vec![Relation {
                schema: "public".to_owned(),
                name: "订单".to_owned(),
                kind: 'r',
                owner: "shop".to_owned(),
                row_estimate: None,
                size_bytes: 8192,
            }],
            ..DumpDetails::default()
        };
        let stored = details.to_stored().unwrap();
        assert_eq!(DumpDetails::from_stored(&stored, "d").unwrap(), details);
        for bad in [&stored[..stored.len() - 1], b"", b"{}"] {
            assert_eq!(DumpDetails::from_stored(bad, "d").unwrap_err().kind, Kind::Verification);
        }
        let bomb = zstd::encode_all(&vec![b' '; 1 << 20][..], 3).unwrap();
        let error = DumpDetails::from_stored_within(&bomb, "d", 1 << 19).unwrap_err();
        assert_eq!(error.to_string(), "d decodes to more than 524288 bytes");
    }
}
