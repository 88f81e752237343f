//! The files of an archive of several files, as the directory and the tar format call them.
//!
//! PostgreSQL sources: `pg_backup_directory.c`, `pg_backup_tar.c`. One list of large objects was `blobs.toc` up to
//! version 16; since 17 there may be several, each called after its entry.

use std::fmt;
use std::str::FromStr;

/// A file of an archive. Compressed by `pg_dump` it would end in `.gz`, `.lz4` or `.zst`, too, which this is not about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// `toc.dat`: the header and the table of contents.
    Toc,
    /// `<dump id>.dat`: the rows of a table.
    Data(u32),
    /// `blobs.toc` or `blobs_<dump id>.toc`: a line for each large object.
    LargeObjects(Option<u32>),
    /// `blob_<oid>.dat`
    LargeObject(u32),
}

impl Member {
    /// No name is longer: `blob_4294967295.dat`.
    pub const LONGEST_NAME_BYTES: usize = 19;
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Toc => f.write_str("toc.dat"),
            Self::Data(id) => write!(f, "{id}.dat"),
            Self::LargeObjects(None) => f.write_str("blobs.toc"),
            Self::LargeObjects(Some(id)) => write!(f, "blobs_{id}.toc"),
            Self::LargeObject(oid) => write!(f, "blob_{oid}.dat"),
        }
    }
}

/// This is not the name of a file of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoMember;

impl FromStr for Member {
    type Err = NoMember;

    fn from_str(name: &str) -> Result<Self, NoMember> {
        let parse = || match name {
            "toc.dat" => Some(Self::Toc),
            "blobs.toc" => Some(Self::LargeObjects(None)),
            _ => match name.strip_suffix(".dat") {
                Some(rest) => match rest.strip_prefix("blob_") {
                    Some(oid) => number(oid).map(Self::LargeObject),
                    None => number(rest).map(Self::Data),
                },
                None => {
                    number(name.strip_prefix("blobs_")?.strip_suffix(".toc")?).map(|id| Self::LargeObjects(Some(id)))
                }
            },
        };
        parse().ok_or(NoMember)
    }
}

/// As it is written: one way for each number.
fn number(text: &str) -> Option<u32> {
    let number: u32 = text.parse().ok().filter(|&number| number > 0)?;
    (number.to_string() == text).then_some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_pg_dump_and_nothing_else() {
        for (name, member) in [
            ("toc.dat", Member::Toc),
            ("3356.dat", Member::Data(3356)),
            ("blobs.toc", Member::LargeObjects(None)),
            ("blobs_2588.toc", Member::LargeObjects(Some(2588))),
            ("blob_4294967295.dat", Member::LargeObject(u32::MAX)),
        ] {
            assert_eq!((name.parse(), member.to_string()), (Ok(member), name.to_owned()));
            assert!(name.len() <= Member::LONGEST_NAME_BYTES);
        }
        for foreign in [
            "",
            ".dat",
            "0.dat",
            "01.dat",
            "+1.dat",
            "4294967296.dat",
            "1.dat.gz",
            "blob_.dat",
            "blobs_.toc",
            "restore.sql",
            "../toc.dat",
            "toc.dat/",
            "blob_1.toc",
            "blobs_1.dat",
        ] {
            assert_eq!(foreign.parse::<Member>(), Err(NoMember), "{foreign}");
        }
    }
}
