//! Which files an archive of several files has to have: those that its table of contents names, and those that its
//! lists of large objects name, and no other.

use std::collections::BTreeSet;

use super::member::Member;
use super::{Archive, TocFile, damaged};
use crate::error::Result;

/// The files of an archive, as they come.
#[derive(Debug, Default)]
pub struct Members {
    seen: BTreeSet<Member>,
    listed: BTreeSet<Member>,
    size_bytes: u64,
}

impl Members {
    /// A file of this size, which was read to its end.
    pub fn saw(&mut self, member: Member, size_bytes: u64) -> Result<()> {
        self.size_bytes = self.size_bytes.saturating_add(size_bytes);
        if self.seen.insert(member) { Ok(()) } else { Err(damaged(0, format!("there are two files {member}"))) }
    }

    /// What a list of large objects names.
    pub fn listed(&mut self, list: LargeObjectList) -> Result<()> {
        self.listed.extend(list.finish()?);
        Ok(())
    }

    pub fn count(&self) -> usize {
        self.seen.len()
    }

    /// Proves that every file was there which belongs to the archive.
    pub fn finish(self, front: TocFile) -> Result<Archive> {
        let TocFile { header, toc } = front;
        let with_data = toc.entries().iter().filter_map(|entry| Some((toc.file(entry.dump_id)?, entry)));
        let mut needed = BTreeSet::from([Member::Toc]);
        for (member, entry) in with_data {
            if !self.seen.contains(&member) {
                return Err(damaged(self.size_bytes, format!("data of {entry} are missing: there is no {member}")));
            }
            needed.insert(member);
        }
        if let Some(missing) = self.listed.difference(&self.seen).next() {
            return Err(damaged(self.size_bytes, format!("a large object is missing: there is no {missing}")));
        }
        needed.extend(self.listed);
        if let Some(surplus) = self.seen.difference(&needed).next() {
            return Err(damaged(self.size_bytes, format!("{surplus} belongs to no entry of the table of contents")));
        }
        Ok(Archive { header, toc, blocks: Vec::new(), size_bytes: self.size_bytes })
    }
}

/// A list of large objects: `<oid> blob_<oid>.dat` in lines.
#[derive(Debug, Default)]
pub struct LargeObjectList {
    line: Vec<u8>,
    offset: u64,
    members: Vec<Member>,
}

/// Longer than any line that `pg_dump` writes.
const LONGEST_LINE_BYTES: usize = 64;

impl LargeObjectList {
    /// Takes the next bytes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        for &byte in bytes {
            self.offset += 1;
            if byte == b'\n' {
                self.end_line()?;
            } else if self.line.len() < LONGEST_LINE_BYTES {
                self.line.push(byte);
            } else {
                return Err(self.wrong());
            }
        }
        Ok(())
    }

    fn end_line(&mut self) -> Result<()> {
        let line = std::mem::take(&mut self.line);
        let parse = || {
            let (oid, name) = std::str::from_utf8(&line).ok()?.split_once(' ')?;
            let member = Member::LargeObject(oid.parse().ok()?);
            (name.parse() == Ok(member)).then_some(member)
        };
        self.members.push(parse().ok_or_else(|| self.wrong())?);
        Ok(())
    }

    fn wrong(&self) -> crate::error::Error {
        damaged(self.offset, "a line of the list of large objects is not what pg_dump writes")
    }

    fn finish(self) -> Result<Vec<Member>> {
        if self.line.is_empty() {
            Ok(self.members)
        } else {
            Err(damaged(self.offset, "the list of large objects ends early"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(list: &[u8]) -> Result<Vec<Member>> {
        let mut reader = LargeObjectList::default();
        list.chunks(3).try_for_each(|slice| reader.push(slice))?;
        reader.finish()
    }

    #[test]
    fn a_list_names_large_objects_line_by_line() {
        assert_eq!(read(b"").unwrap(), []);
        let members = read(b"16403 blob_16403.dat\n4294967295 blob_4294967295.dat\n").unwrap();
        assert_eq!(members, [Member::LargeObject(16403), Member::LargeObject(u32::MAX)]);
        for wrong in ["1 blob_2.dat\n", "1 blob_1.dat", "blob_1.dat\n", "\n", "1 ../x\n", &"1".repeat(100)] {
            assert!(read(wrong.as_bytes()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_file_comes_once() {
        let mut members = Members::default();
        members.saw(Member::Data(1), 5).unwrap();
        assert!(members.saw(Member::Data(1), 5).is_err());
        assert_eq!(members.count(), 1);
    }
}
