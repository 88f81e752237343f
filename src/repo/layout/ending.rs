//! What follows the stem in the name of an object of a dump: built here, and parsed here again.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{DumpStem, InstanceName, InvalidName, StoredName};
use crate::pg::archive::Member;
use crate::storage::Key;

/// What an object of a dump is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ObjectRole {
    /// What `pg_dump` wrote, or a part or a file of it.
    Archive,
    /// A line for `sha256sum -c` for each object of the archive.
    Checksum,
    /// Roles, memberships, tablespaces: SQL.
    Globals,
    /// What the dump depends on and holds, with names; JSON.
    Details,
    /// The presence of this object is the backup.
    Manifest,
}

/// What is around the bytes of PostgreSQL's own tool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Coding {
    /// Nothing: as the tool wrote it. An archive may be compressed inside.
    Plain,
    /// Frames of zstd, made by pgkeep.
    Zstd,
}

/// What stands around the bytes of an object, as the end of its name says: first the coding, then encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Packing {
    pub coding: Coding,
    /// One file of age, to the recipients that the manifest names.
    pub encrypted: bool,
}

impl Packing {
    pub const PLAIN: Self = Self { coding: Coding::Plain, encrypted: false };
    pub const ZSTD: Self = Self { coding: Coding::Zstd, encrypted: false };
    pub const ALL: [Self; 4] = [Self::PLAIN, Self::ZSTD, Self::PLAIN.encrypted(), Self::ZSTD.encrypted()];

    /// The same, encrypted.
    pub const fn encrypted(self) -> Self {
        Self { encrypted: true, ..self }
    }

    fn ending(self) -> &'static str {
        match (self.coding, self.encrypted) {
            (Coding::Plain, false) => "",
            (Coding::Zstd, false) => ".zst",
            (Coding::Plain, true) => ".age",
            (Coding::Zstd, true) => ".zst.age",
        }
    }

    fn strip(file: &str) -> (&str, Self) {
        let (file, encrypted) = file.strip_suffix(".age").map_or((file, false), |rest| (rest, true));
        let (file, coding) = file.strip_suffix(".zst").map_or((file, Coding::Plain), |rest| (rest, Coding::Zstd));
        (file, Self { coding, encrypted })
    }
}

/// Which part of a split archive, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartNumber(u16);

impl PartNumber {
    pub const FIRST: Self = Self(1);
    /// A name has four digits: then `cat *.part*` joins in the right order.
    pub const LAST: Self = Self(9999);

    /// The number after this one, if there is one.
    pub fn next(self) -> Option<Self> {
        (self < Self::LAST).then(|| Self(self.0 + 1))
    }

    pub fn get(self) -> u16 {
        self.0
    }
}

impl std::fmt::Display for PartNumber {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

impl FromStr for PartNumber {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let digits = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        let number = text.parse().ok().filter(|&number| digits && number > 0);
        number.map(Self).ok_or_else(|| InvalidName::new(text, "the number of a part (0001 to 9999)"))
    }
}

/// How `pg_dump` laid out what it wrote, as the names of its objects say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Form {
    Custom,
    Tar,
    /// SQL.
    Script,
    /// SQL in one stream of gzip, both by `pg_dump`.
    GzipScript,
    /// Files of their own for the table of contents, each table and each large object.
    Directory,
}

impl Form {
    pub const ALL: [Self; 5] = [Self::Custom, Self::Tar, Self::Script, Self::GzipScript, Self::Directory];

    fn ending(self) -> &'static str {
        match self {
            Self::Custom => ".dump",
            Self::Tar => ".tar",
            Self::Script => ".sql",
            Self::GzipScript => ".sql.gz",
            Self::Directory => ".dir",
        }
    }

    fn strip(file: &str) -> Option<(&str, Self)> {
        Self::ALL.into_iter().find_map(|form| Some((file.strip_suffix(form.ending())?, form)))
    }

    /// Whether an archive of this form can be packed like this: what is compressed is not compressed again.
    fn allows(self, packing: Packing) -> bool {
        self != Self::GzipScript || packing.coding == Coding::Plain
    }
}

/// What follows the stem in the name of an object: its role, how it is packed, which part it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Ending {
    /// Of any form but [`Form::Directory`]. Parts are whole frames where the packing has frames; one after the other
    /// they are the archive.
    Archive {
        form: Form,
        packing: Packing,
        part: Option<PartNumber>,
    },
    /// A file of an archive of [`Form::Directory`], in a folder `<stem>.dir`.
    Member {
        member: Member,
        packing: Packing,
    },
    /// The packing is that of the archive; beside a folder, whose members say it themselves, it is plain.
    Checksum {
        form: Form,
        packing: Packing,
    },
    Globals {
        packing: Packing,
    },
    /// Always of zstd.
    Details {
        packing: Packing,
    },
    Manifest,
}

const FOLDER: &str = ".dir/";
const PART: &str = ".part";
const CHECKSUM: &str = ".sha256";
const GLOBALS: &str = "_globals.sql";
const DETAILS: &str = ".details.json";
const MANIFEST: &str = ".manifest.json";

/// What no host in a stem ends in: a script of host `db1_globals` would be called like the globals of `db1`.
pub(super) const GLOBALS_OF_HOST: &str = "_globals";

// No ending is the end of another but `.sql` of the globals', which is looked for first, so a file name is parsed in one
// way whatever the stem holds.
impl Ending {
    /// The details of a dump that is not encrypted.
    pub const DETAILS: Self = Self::Details { packing: Packing::ZSTD };

    /// The details of a dump whose archive is packed like this: encrypted if it is.
    pub fn details_beside(archive: Packing) -> Self {
        Self::Details { packing: Packing { coding: Coding::Zstd, ..archive } }
    }

    /// An archive of the custom format in one piece.
    pub fn archive(packing: Packing) -> Self {
        Self::whole(Form::Custom, packing)
    }

    /// An archive in one piece.
    pub const fn whole(form: Form, packing: Packing) -> Self {
        Self::Archive { form, packing, part: None }
    }

    /// The checksums of an archive that is packed like this.
    pub fn checksum(form: Form, archive: Packing) -> Self {
        Self::Checksum { form, packing: if form == Form::Directory { Packing::PLAIN } else { archive } }
    }

    pub fn role(self) -> ObjectRole {
        match self {
            Self::Archive { .. } | Self::Member { .. } => ObjectRole::Archive,
            Self::Checksum { .. } => ObjectRole::Checksum,
            Self::Globals { .. } => ObjectRole::Globals,
            Self::Details { .. } => ObjectRole::Details,
            Self::Manifest => ObjectRole::Manifest,
        }
    }

    /// How an object of this name is packed.
    pub fn packing(self) -> Packing {
        match self {
            Self::Archive { packing, .. }
            | Self::Member { packing, .. }
            | Self::Globals { packing }
            | Self::Details { packing } => packing,
            Self::Checksum { .. } | Self::Manifest => Packing::PLAIN,
        }
    }

    /// Whether the script that pgkeep takes the place of (see [`super::FlatLayout`]) stores under this name, too.
    pub fn is_of_script(self) -> bool {
        let plain = Packing::PLAIN;
        let checksum = Self::checksum(Form::Custom, plain);
        [Self::archive(plain), checksum, Self::Globals { packing: plain }].contains(&self)
    }

    /// Splits a name into what may be a stem and the ending.
    fn split(file: &str) -> Option<(&str, Self)> {
        if let Some((stem, member)) = file.split_once(FOLDER) {
            let (member, packing) = Packing::strip(member);
            return Some((stem, Self::Member { member: member.parse().ok()?, packing }));
        }
        if let Some(stem) = file.strip_suffix(MANIFEST) {
            return Some((stem, Self::Manifest));
        }
        if let Some(archive) = file.strip_suffix(CHECKSUM) {
            let (archive, packing) = Packing::strip(archive);
            let (stem, form) = Form::strip(archive)?;
            let ending = Self::checksum(form, packing);
            return (form.allows(packing) && ending == Self::Checksum { form, packing }).then_some((stem, ending));
        }
        let (file, packing) = Packing::strip(file);
        if let Some(stem) = file.strip_suffix(DETAILS).filter(|_| packing.coding == Coding::Zstd) {
            return Some((stem, Self::Details { packing }));
        }
        if let Some(stem) = file.strip_suffix(GLOBALS) {
            return Some((stem, Self::Globals { packing }));
        }
        let whole = Form::strip(file).map(|(stem, form)| (stem, form, None));
        let (stem, form, part) = match whole {
            Some(whole) => whole,
            None => {
                let (archive, number) = file.rsplit_once(PART)?;
                let (stem, form) = Form::strip(archive)?;
                (stem, form, Some(number.parse().ok()?))
            }
        };
        let is_ours = form != Form::Directory && form.allows(packing);
        is_ours.then_some((stem, Self::Archive { form, packing, part }))
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Archive { form, packing, part: None } => write!(f, "{}{}", form.ending(), packing.ending()),
            Self::Archive { form, packing, part: Some(part) } => {
                write!(f, "{}{PART}{part}{}", form.ending(), packing.ending())
            }
            Self::Member { member, packing } => write!(f, "{FOLDER}{member}{}", packing.ending()),
            Self::Checksum { form, packing } => write!(f, "{}{}{CHECKSUM}", form.ending(), packing.ending()),
            Self::Globals { packing } => write!(f, "{GLOBALS}{}", packing.ending()),
            Self::Details { packing } => write!(f, "{DETAILS}{}", packing.ending()),
            Self::Manifest => f.write_str(MANIFEST),
        }
    }
}

/// The name of an object of a dump in its folder: stem and ending.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ObjectName {
    pub stem: DumpStem,
    pub ending: Ending,
}

impl ObjectName {
    /// Where the object lies, as an object of `instance`.
    pub fn key(&self, instance: &InstanceName) -> Key {
        StoredName::Dump { instance: instance.clone(), name: self.clone() }.key()
    }
}

impl FromStr for ObjectName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let parse = || {
            let (stem, ending) = Ending::split(text)?;
            Some(Self { stem: stem.parse().ok()?, ending })
        };
        parse().ok_or_else(|| InvalidName::new(text, "the name of an object of a dump"))
    }
}

impl std::fmt::Display for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}{}", self.stem, self.ending)
    }
}

impl std::fmt::Debug for ObjectName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(&self.to_string(), f)
    }
}

impl TryFrom<String> for ObjectName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl From<ObjectName> for String {
    fn from(name: ObjectName) -> Self {
        name.to_string()
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn ending() -> impl Strategy<Value = Ending> {
        let packing = || proptest::sample::select(&Packing::ALL);
        let form = || proptest::sample::select(&Form::ALL);
        let packed = || (form(), packing()).prop_filter("packed twice", |(form, packing)| form.allows(*packing));
        let member = prop_oneof![
            Just(Member::Toc),
            (1..=u32::MAX).prop_map(Member::Data),
            proptest::option::of(1..=u32::MAX).prop_map(Member::LargeObjects),
            (1..=u32::MAX).prop_map(Member::LargeObject),
        ];
        prop_oneof![
            (packed(), proptest::option::of((1..=9999u16).prop_map(PartNumber)))
                .prop_filter("a folder is no object", |((form, _), _)| *form != Form::Directory)
                .prop_map(|((form, packing), part)| Ending::Archive { form, packing, part }),
            (member, packing()).prop_map(|(member, packing)| Ending::Member { member, packing }),
            packed().prop_map(|(form, packing)| Ending::checksum(form, packing)),
            packing().prop_map(|packing| Ending::Globals { packing }),
            Just(Ending::DETAILS),
            Just(Ending::Manifest),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_ending_is_the_end_of_another_but_that_of_globals(a in ending(), b in ending()) {
            let is_script_of_globals = matches!(
                (a, b),
                (Ending::Globals { packing }, Ending::Archive { form: Form::Script, packing: script, part: None })
                    if packing == script
            );
            prop_assert_eq!(a == b || is_script_of_globals, a.to_string().ends_with(&b.to_string()));
        }
    }

    #[test]
    fn a_script_is_never_called_like_globals() {
        let at = "20250131T020304Z".parse().unwrap();
        for (database, host) in [("a", "h_globals"), ("a_globals", "_globals"), ("a", "h_globals.sql"), ("a", "h.dir")]
        {
            for packing in Packing::ALL {
                for ending in [Ending::whole(Form::Script, packing), Ending::Globals { packing }] {
                    let name = DumpStem::new(database, at, host).object(ending);
                    assert_eq!(name.to_string().parse::<ObjectName>().unwrap(), name);
                }
            }
        }
        let [long, short] = ["h_globals", "h"].map(|host| DumpStem::new("a", at, host));
        let script = long.object(Ending::whole(Form::Script, Packing::PLAIN));
        assert_ne!(script.to_string(), short.object(Ending::Globals { packing: Packing::PLAIN }).to_string());
        // What was stored before scripts were is still what it was.
        let old: ObjectName = "a_20250131T020304Z_h_globals_globals.sql.zst".parse().unwrap();
        assert_eq!(old.stem.to_string(), "a_20250131T020304Z_h_globals");
        assert_eq!(old.ending, Ending::Globals { packing: Packing::ZSTD });
    }

    #[test]
    fn an_object_is_called_as_the_format_says() {
        let stem: DumpStem = "shop_20250131T020304Z_db1".parse().unwrap();
        let part = PartNumber::FIRST.next();
        let (zstd, plain) = (Packing::ZSTD, Packing::PLAIN);
        for (ending, name) in [
            (Ending::archive(zstd), ".dump.zst"),
            (Ending::archive(plain), ".dump"),
            (Ending::Archive { form: Form::Custom, packing: zstd, part }, ".dump.part0002.zst"),
            (Ending::Archive { form: Form::Custom, packing: plain, part }, ".dump.part0002"),
            (Ending::checksum(Form::Custom, zstd), ".dump.zst.sha256"),
            (Ending::checksum(Form::Custom, plain), ".dump.sha256"),
            (Ending::whole(Form::Tar, zstd), ".tar.zst"),
            (Ending::whole(Form::Script, plain), ".sql"),
            (Ending::whole(Form::GzipScript, plain), ".sql.gz"),
            (Ending::Archive { form: Form::GzipScript, packing: plain, part }, ".sql.gz.part0002"),
            (Ending::checksum(Form::GzipScript, plain), ".sql.gz.sha256"),
            (Ending::Member { member: Member::Toc, packing: zstd }, ".dir/toc.dat.zst"),
            (Ending::Member { member: Member::Data(3356), packing: plain }, ".dir/3356.dat"),
            (Ending::checksum(Form::Directory, zstd), ".dir.sha256"),
            (Ending::Globals { packing: zstd }, "_globals.sql.zst"),
            (Ending::Globals { packing: plain }, "_globals.sql"),
            (Ending::DETAILS, ".details.json.zst"),
            (Ending::Manifest, ".manifest.json"),
        ] {
            assert_eq!(stem.object(ending).to_string(), format!("{stem}{name}"));
        }
        assert_eq!(PartNumber::LAST.next(), None);
        assert_eq!("9999".parse::<PartNumber>().unwrap(), PartNumber::LAST);
    }

    #[test]
    fn names_of_others_are_not_ours() {
        for foreign in [
            ".dir",
            ".dir.zst",
            ".dir.zst.sha256",
            ".dir.part0001",
            ".dir/",
            ".dir/x",
            ".dir/toc.dat/x",
            ".dir/toc.dat.gz",
            ".dir/toc.dat.part0001",
            ".dir/.dir/toc.dat",
            ".sql.gz.zst",
            ".sql.gz.zst.sha256",
            ".sql.part0001.gz",
            ".tar.gz",
            ".dump.age.zst",
            ".dump.part0001.sha256",
            ".dump.part0001.zst.sha256",
            ".dump.part0000.zst",
            ".dump.part001.zst",
            ".dump.part00001.zst",
            ".dump.part+001",
            ".part0001",
            ".dump.zst.zst",
            ".details.json",
            ".manifest.json.zst",
        ] {
            let name = format!("a_20250101T000000Z_h{foreign}");
            assert!(name.parse::<ObjectName>().is_err(), "{name}");
        }
    }
}
