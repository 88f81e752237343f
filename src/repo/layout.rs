//! Every name in a repository: built here, and parsed here again.
//!
//! ```text
//! pgkeep.json
//! pgkeep-probe-<8 hex>                     for moments, while `check` finds out what may be done here
//! <instance>/lineages/<system-id>.json
//! <instance>/intents/<id>.json
//! <instance>/dumps/<stem>.dump[.part0001][.zst][.age]  .dump[.zst][.age].sha256  _globals.sql[.zst][.age]
//!                 <stem>.tar, .sql, .sql.gz in the place of .dump; <stem>.dir/<member>[.zst][.age]  .dir.sha256
//!                 <stem>.details.json.zst[.age]  .manifest.json
//! <instance>/proofs/<id>/<UTC>-<L1|L2|L3>-<passed|failed|not_verified>.json
//! <instance>/runs/<UTC>-<verb>-<8 hex>.json
//! ```
//!
//! A key that [`StoredName::parse`] does not know is somebody else's: nothing lists it as ours and nothing deletes it.

mod ending;

use std::str::FromStr;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::name::{
    InstanceName, InvalidName, Stamp, SystemIdentifier, encode, hashed, is_encoded, is_lower_hex, text_name,
};
use crate::digest::random_hex;
use crate::storage::{Key, Prefix};
use ending::GLOBALS_OF_HOST;
pub use ending::{Coding, Ending, Form, ObjectName, ObjectRole, Packing, PartNumber};

/// The stem of a dump's objects, which is the dump's id: `<database>_<UTC start>_<host>`, names encoded.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DumpStem {
    database: String,
    started_at: Stamp,
    host: String,
}

const DATABASE_LIMIT: usize = 100;
const HOST_LIMIT: usize = 32;

impl DumpStem {
    /// `database` and `host` as they are; both are encoded here, and cut where they are long.
    pub fn new(database: &str, started_at: Stamp, host: &str) -> Self {
        let mut encoded_host = encode(host, HOST_LIMIT);
        // Parsing takes the last `_<UTC>_`. A host that contains one itself is only its hash, else the pairs
        // ("a", "b_20250102T000000Z_h") and ("a_20250101T000000Z_b", "h") could meet in one name.
        // Nor does a host end like the name of an object (see GLOBALS_OF_HOST).
        if last_stamp(&format!("_{encoded_host}")).is_some() || encoded_host.ends_with(GLOBALS_OF_HOST) {
            encoded_host = hashed(host);
        }
        Self { database: encode(database, DATABASE_LIMIT), started_at, host: encoded_host }
    }

    /// The database's name as it stands in keys: encoded, perhaps cut. Manifests hold full names.
    pub fn encoded_database(&self) -> &str {
        &self.database
    }

    pub fn started_at(&self) -> Stamp {
        self.started_at
    }

    /// The same at another time.
    pub fn later_by(&self, delay: TimeDelta) -> Self {
        Self { started_at: Stamp::of(self.started_at.time() + delay), ..self.clone() }
    }

    /// Whether this can be a dump of `database`.
    pub fn is_of_database(&self, database: &str) -> bool {
        self.database == encode(database, DATABASE_LIMIT)
    }

    /// The name of one of the dump's objects.
    pub fn object(&self, ending: Ending) -> ObjectName {
        ObjectName { stem: self.clone(), ending }
    }
}

impl std::fmt::Display for DumpStem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}_{}_{}", self.database, self.started_at, self.host)
    }
}

impl std::fmt::Debug for DumpStem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.to_string(), f)
    }
}

/// Where the last `_<UTC>_` of `text` begins, and the moment in it.
fn last_stamp(text: &str) -> Option<(usize, Stamp)> {
    text.rmatch_indices('_').find_map(|(at, _)| {
        let stamp = text.get(at + 1..at + 1 + Stamp::LENGTH)?.parse().ok()?;
        text[at + 1 + Stamp::LENGTH..].starts_with('_').then_some((at, stamp))
    })
}

impl FromStr for DumpStem {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let wrong = || InvalidName::new(text, "the id of a dump (<database>_<YYYYmmddTHHMMSSZ>_<host>)");
        let (at, started_at) = last_stamp(text).ok_or_else(wrong)?;
        let (database, host) = (&text[..at], &text[at + Stamp::LENGTH + 2..]);
        if !is_encoded(database, DATABASE_LIMIT) || !is_encoded(host, HOST_LIMIT) {
            return Err(wrong());
        }
        Ok(Self { database: database.to_owned(), started_at, host: host.to_owned() })
    }
}

/// The id of a backup. A dump's id is its stem.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct BackupId(String);

impl BackupId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&DumpStem> for BackupId {
    fn from(stem: &DumpStem) -> Self {
        Self(stem.to_string())
    }
}

impl FromStr for BackupId {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        text.parse::<DumpStem>().map(|stem| Self::from(&stem))
    }
}

text_name!(BackupId);

/// How deep a verification went. L1: stored bytes; L2: decoded to the end; L3: restored into a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Level {
    L1,
    L2,
    L3,
}

impl Level {
    pub const ALL: [Self; 3] = [Self::L1, Self::L2, Self::L3];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::L1 => "L1",
            Self::L2 => "L2",
            Self::L3 => "L3",
        }
    }
}

/// What a verification found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Passed,
    Failed,
    /// There was nothing to check, or it could not be checked.
    NotVerified,
}

impl Verdict {
    pub const ALL: [Self; 3] = [Self::Passed, Self::Failed, Self::NotVerified];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::NotVerified => "not_verified",
        }
    }
}

/// The name of a proof says what it says: a listing needs no reading. Orders by time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProofName {
    pub at: Stamp,
    pub level: Level,
    pub verdict: Verdict,
}

impl std::fmt::Display for ProofName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}-{}-{}", self.at, self.level.as_str(), self.verdict.as_str())
    }
}

impl FromStr for ProofName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let parse = || {
            let mut parts = text.splitn(3, '-');
            let (at, level, verdict) = (parts.next()?, parts.next()?, parts.next()?);
            Some(Self {
                at: at.parse().ok()?,
                level: Level::ALL.into_iter().find(|l| l.as_str() == level)?,
                verdict: Verdict::ALL.into_iter().find(|v| v.as_str() == verdict)?,
            })
        };
        parse().ok_or_else(|| InvalidName::new(text, "the name of a proof"))
    }
}

/// The verbs whose runs are recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verb {
    Dump,
    Basebackup,
    Restore,
    Verify,
    Prune,
    Copy,
}

impl Verb {
    pub const ALL: [Self; 6] = [Self::Dump, Self::Basebackup, Self::Restore, Self::Verify, Self::Prune, Self::Copy];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dump => "dump",
            Self::Basebackup => "basebackup",
            Self::Restore => "restore",
            Self::Verify => "verify",
            Self::Prune => "prune",
            Self::Copy => "copy",
        }
    }

    /// Whether its runs make backups, each under an intent.
    pub fn has_intents(self) -> bool {
        matches!(self, Self::Dump | Self::Basebackup | Self::Copy)
    }
}

impl std::fmt::Display for Verb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of one attempt: `<UTC start>-<verb>-<8 hex>`. Orders by time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RunName {
    text: String,
    started_at: Stamp,
    verb: Verb,
}

impl RunName {
    /// A new name; the hex digits are random.
    pub fn new(started_at: Stamp, verb: Verb) -> Self {
        Self { text: format!("{started_at}-{verb}-{}", random_hex(8)), started_at, verb }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn started_at(&self) -> Stamp {
        self.started_at
    }

    pub fn verb(&self) -> Verb {
        self.verb
    }
}

impl FromStr for RunName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let parse = || {
            let mut parts = text.splitn(3, '-');
            let (at, verb, hex) = (parts.next()?, parts.next()?, parts.next()?);
            let started_at = at.parse().ok()?;
            let verb = Verb::ALL.into_iter().find(|v| v.as_str() == verb)?;
            (hex.len() == 8 && hex.bytes().all(is_lower_hex)).then(|| Self { text: text.to_owned(), started_at, verb })
        };
        parse().ok_or_else(|| InvalidName::new(text, "the name of a run (<UTC>-<verb>-<8 hex>)"))
    }
}

text_name!(RunName);

/// What tells one probe from another: 8 hex digits.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ProbeName(String);

impl ProbeName {
    pub fn random() -> Self {
        Self(random_hex(8))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ProbeName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let is_hex = text.len() == 8 && text.bytes().all(is_lower_hex);
        is_hex.then(|| Self(text.to_owned())).ok_or_else(|| InvalidName::new(text, "the name of a probe (8 hex)"))
    }
}

text_name!(ProbeName);

/// Any object of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum StoredName {
    /// `pgkeep.json`: what makes a place a repository.
    Marker,
    /// What a check stores, reads and removes again.
    Probe(ProbeName),
    Lineage {
        instance: InstanceName,
        system_identifier: SystemIdentifier,
    },
    Intent {
        instance: InstanceName,
        id: BackupId,
    },
    Dump {
        instance: InstanceName,
        name: ObjectName,
    },
    Proof {
        instance: InstanceName,
        id: BackupId,
        proof: ProofName,
    },
    Run {
        instance: InstanceName,
        run: RunName,
    },
}

const MARKER: &str = "pgkeep.json";
const PROBE: &str = "pgkeep-probe-";
const JSON: &str = ".json";

impl StoredName {
    pub fn key(&self) -> Key {
        let name = match self {
            Self::Marker => MARKER.to_owned(),
            Self::Probe(probe) => format!("{PROBE}{probe}"),
            Self::Lineage { instance, system_identifier } => {
                Folder::Lineages.path(instance) + &format!("/{system_identifier}{JSON}")
            }
            Self::Intent { instance, id } => Folder::Intents.path(instance) + &format!("/{id}{JSON}"),
            Self::Dump { instance, name } => format!("{}/{name}", Folder::Dumps.path(instance)),
            Self::Proof { instance, id, proof } => Folder::Proofs.path(instance) + &format!("/{id}/{proof}{JSON}"),
            Self::Run { instance, run } => Folder::Runs.path(instance) + &format!("/{run}{JSON}"),
        };
        // Every part is short and free of separators, dots alone and control characters; the property test below asks.
        Key::new(name).unwrap_or_else(|invalid| unreachable!("a built name is a key: {invalid}"))
    }

    /// The name behind a key, if this program could have written it.
    pub fn parse(key: &Key) -> Option<Self> {
        if key.as_str() == MARKER {
            return Some(Self::Marker);
        }
        if let Some(probe) = key.as_str().strip_prefix(PROBE) {
            return probe.parse().ok().map(Self::Probe);
        }
        let mut parts = key.as_str().split('/');
        let instance: InstanceName = parts.next()?.parse().ok()?;
        let folder = Folder::from_name(parts.next()?)?;
        let parts: Vec<&str> = parts.collect();
        match (folder, parts.as_slice()) {
            (Folder::Lineages, [file]) => {
                let system_identifier = file.strip_suffix(JSON)?.parse().ok()?;
                Some(Self::Lineage { instance, system_identifier })
            }
            (Folder::Intents, [file]) => Some(Self::Intent { instance, id: file.strip_suffix(JSON)?.parse().ok()? }),
            (Folder::Dumps, [file]) => Some(Self::Dump { instance, name: file.parse().ok()? }),
            (Folder::Dumps, [folder, file]) => {
                Some(Self::Dump { instance, name: format!("{folder}/{file}").parse().ok()? })
            }
            (Folder::Proofs, [id, file]) => {
                Some(Self::Proof { instance, id: id.parse().ok()?, proof: file.strip_suffix(JSON)?.parse().ok()? })
            }
            (Folder::Runs, [file]) => Some(Self::Run { instance, run: file.strip_suffix(JSON)?.parse().ok()? }),
            _ => None,
        }
    }

    /// The instance it belongs to; the marker and probes belong to none.
    pub fn instance(&self) -> Option<&InstanceName> {
        match self {
            Self::Marker | Self::Probe(_) => None,
            Self::Lineage { instance, .. }
            | Self::Intent { instance, .. }
            | Self::Dump { instance, .. }
            | Self::Proof { instance, .. }
            | Self::Run { instance, .. } => Some(instance),
        }
    }
}

/// The folders of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    Lineages,
    Intents,
    Dumps,
    Proofs,
    Runs,
}

impl Folder {
    pub(super) const ALL: [Self; 5] = [Self::Lineages, Self::Intents, Self::Dumps, Self::Proofs, Self::Runs];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Lineages => "lineages",
            Self::Intents => "intents",
            Self::Dumps => "dumps",
            Self::Proofs => "proofs",
            Self::Runs => "runs",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|folder| folder.name() == name)
    }

    fn path(self, instance: &InstanceName) -> String {
        format!("{instance}/{}", self.name())
    }

    /// Everything of `instance` in this folder.
    pub fn of(self, instance: &InstanceName) -> Prefix {
        prefix(self.path(instance))
    }
}

/// Everything of `instance`.
pub fn instance_folder(instance: &InstanceName) -> Prefix {
    prefix(instance.to_string())
}

fn prefix(folder: String) -> Prefix {
    Prefix::folder(folder).unwrap_or_else(|invalid| unreachable!("a built folder is a prefix: {invalid}"))
}

#[cfg(test)]
pub(super) mod tests {
    use super::ending::tests::ending;
    use super::*;
    use proptest::prelude::*;

    fn stamp() -> impl Strategy<Value = Stamp> {
        (0i64..4_102_444_800).prop_map(|s| Stamp::of(chrono::DateTime::from_timestamp(s, 0).unwrap()))
    }

    /// Names that people and attackers give: any characters, and pieces of our own grammar.
    pub fn nasty() -> impl Strategy<Value = String> {
        let piece = prop_oneof![
            any::<char>().prop_map(String::from),
            "[a-zA-Z0-9 _.~%/=-]{0,12}",
            Just("_20250101T000000Z_".to_owned()),
            Just("20250101T000000Z".to_owned()),
            Just("_globals.sql".to_owned()),
            Just("_globals".to_owned()),
            Just(".sql".to_owned()),
            Just(".dir".to_owned()),
            Just("toc.dat".to_owned()),
            Just(".manifest.json".to_owned()),
            Just(".dump".to_owned()),
            Just(".part0001".to_owned()),
            Just(".zst".to_owned()),
            Just(".sha256".to_owned()),
            Just(".pgkeep-unfinished-".to_owned()),
            Just("..".to_owned()),
            Just("你好".to_owned()),
        ];
        proptest::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
    }

    pub fn stored_name() -> impl Strategy<Value = StoredName> {
        let instance = || "[a-z0-9][a-z0-9_-]{0,62}".prop_map(|s| s.parse::<InstanceName>().unwrap());
        let stem = || (nasty(), stamp(), nasty()).prop_map(|(db, at, host)| DumpStem::new(&db, at, &host));
        let proof = (stamp(), proptest::sample::select(&Level::ALL), proptest::sample::select(&Verdict::ALL))
            .prop_map(|(at, level, verdict)| ProofName { at, level, verdict });
        let run = (stamp(), proptest::sample::select(&Verb::ALL)).prop_map(|(at, verb)| RunName::new(at, verb));
        prop_oneof![
            Just(StoredName::Marker),
            Just(()).prop_map(|()| StoredName::Probe(ProbeName::random())),
            (instance(), any::<u64>())
                .prop_map(|(instance, id)| StoredName::Lineage { instance, system_identifier: SystemIdentifier(id) }),
            (instance(), stem()).prop_map(|(instance, stem)| StoredName::Intent { instance, id: (&stem).into() }),
            (instance(), stem(), ending())
                .prop_map(|(instance, stem, ending)| StoredName::Dump { instance, name: stem.object(ending) }),
            (instance(), stem(), proof).prop_map(|(instance, stem, proof)| StoredName::Proof {
                instance,
                id: (&stem).into(),
                proof
            }),
            (instance(), run).prop_map(|(instance, run)| StoredName::Run { instance, run }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn what_is_built_is_parsed(name in stored_name()) {
            prop_assert_eq!(StoredName::parse(&name.key()), Some(name));
        }

        #[test]
        fn what_is_parsed_is_built(text in nasty(), folder in "(dumps|intents|runs|proofs|lineages)") {
            if let Ok(key) = Key::new(format!("main/{folder}/{text}"))
                && let Some(name) = StoredName::parse(&key)
            {
                prop_assert_eq!(name.key(), key);
            }
        }

        #[test]
        fn distinct_names_give_distinct_stems(a in (nasty(), nasty()), b in (nasty(), nasty()), s in stamp(), t in stamp()) {
            let same_source = a == b && s == t;
            let same_stem = DumpStem::new(&a.0, s, &a.1).to_string() == DumpStem::new(&b.0, t, &b.1).to_string();
            prop_assert_eq!(same_source, same_stem);
        }

        #[test]
        fn a_stem_reads_back_its_parts(database in nasty(), host in nasty(), at in stamp()) {
            let stem = DumpStem::new(&database, at, &host);
            let parsed: DumpStem = stem.to_string().parse().unwrap();
            prop_assert!(parsed.is_of_database(&database));
            prop_assert_eq!(parsed, stem);
        }
    }

    #[test]
    fn a_stamp_inside_a_name_does_not_shift_the_parts() {
        let at = |text: &str| text.parse::<Stamp>().unwrap();
        let (one, two) = (at("20250101T000000Z"), at("20250102T000000Z"));
        let left = DumpStem::new("a", one, "b_20250102T000000Z_h");
        let right = DumpStem::new("a_20250101T000000Z_b", two, "h");
        assert_ne!(left.to_string(), right.to_string());
        let edge = DumpStem::new("a", one, "20250102T000000Z_h");
        assert_eq!(edge.to_string().parse::<DumpStem>().unwrap(), edge);
        assert_eq!(DumpStem::new("a_b", one, "web_1").to_string(), "a_b_20250101T000000Z_web_1");
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for foreign in [
            "pgkeep.json.bak",
            "pgkeep-probe-",
            "pgkeep-probe-ABCDEF01",
            "pgkeep-probe-abcdef012",
            "pgkeep-probe-abcdef01/x",
            "notes.txt",
            "main/notes.txt",
            "main/dumps/shop.dump.zst",
            "Main/runs/x.json",
            "main/dumps/x/a_20250101T000000Z_h.dump.zst",
            "main/runs/20250101T000000Z-dump-ABCDEF01.json",
            "main/proofs/a_20250101T000000Z_h/20250101T000000Z-L4-passed.json",
            "main/lineages/007.json",
            "main/base/20250101T000000Z-full-abcdef/manifest.json",
            "main/dumps/_20250101T000000Z_h.dump.zst",
        ] {
            assert_eq!(StoredName::parse(&Key::new(foreign).unwrap()), None, "{foreign}");
        }
    }
}
