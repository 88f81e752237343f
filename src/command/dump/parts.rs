//! The archive on its way into every copy: as one object, or as numbered parts of a size that was asked for.
//!
//! A part is whole in the store before the next one is begun, so that a copy that fails is given up with its part. Cut
//! is between frames, which are independent: the parts one after the other are the archive, for `zstd -d` and for us.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;

use super::Stage;
use super::copies::Copies;
use super::fan::Fan;
use crate::command::stage::{At as _, Failed};
use crate::digest::{Fingerprint, Fingerprinter};
use crate::error::{Error, Kind, Result};
use crate::repo::{Coding, Ending, Form, Packing, PartNumber};

/// Most bytes of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartSize(u64);

impl PartSize {
    /// A frame of 4 MiB that could not be compressed lies in one part.
    pub const SMALLEST: Self = Self(5 << 20);

    pub fn bytes(self) -> u64 {
        self.0
    }
}

/// What `split -b` takes: `2G` is 2 × 1024³ bytes, `2GB` is 2 × 1000³, `2GiB` is `2G`.
impl FromStr for PartSize {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::usage(format!("{text:?} is not a size of parts")).hint(
                "write 500M, 2G or a number of bytes; K, M, G and T are powers of 1024, KB, MB, GB and TB of 1000",
            )
        };
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let (number, unit) = text.split_at(digits);
        let powers = |base: u64| ["K", "M", "G", "T"].into_iter().zip(1..).map(move |(unit, n)| (unit, base.pow(n)));
        let factor = match unit.strip_suffix("iB") {
            Some(unit) => powers(1024).find(|(name, _)| *name == unit),
            None => match unit.strip_suffix('B') {
                Some("") => Some(("", 1)),
                Some(unit) => powers(1000).find(|(name, _)| *name == unit),
                None if unit.is_empty() => Some(("", 1)),
                None => powers(1024).find(|(name, _)| *name == unit),
            },
        };
        let (_, factor) = factor.ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        let size = Self(number.checked_mul(factor).ok_or_else(wrong)?);
        if size < Self::SMALLEST {
            return Err(Error::usage(format!("parts of {text} are too small")).hint("the smallest part has 5M"));
        }
        Ok(size)
    }
}

/// A number of bytes.
impl fmt::Display for PartSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What comes is written to the open part of every copy. Never without an open part.
pub struct Parts<'c, 'd> {
    copies: &'c mut Copies<'d>,
    form: Form,
    packing: Packing,
    /// What is written of a part at most; `None`: everything goes into one object.
    size: Option<PartSize>,
    expected_bytes: u64,
    open: Part,
    stored: usize,
}

/// The part that is being written.
struct Part {
    ending: Ending,
    fan: Fan,
    /// Of one object alone the whole stream tells.
    seen: Option<Fingerprinter>,
}

impl<'c, 'd> Parts<'c, 'd> {
    /// `expected_bytes` is a guess that stores prepare for.
    pub async fn open(
        copies: &'c mut Copies<'d>,
        form: Form,
        packing: Packing,
        size: Option<PartSize>,
        expected_bytes: u64,
    ) -> Result<Self> {
        // The parts are the same in every copy, and what is encrypted is larger.
        let rooms = copies.making().iter().filter_map(|making| Some(making.backup.room(size?.bytes())));
        let size = rooms.collect::<Result<Vec<_>>>()?.into_iter().min().map(PartSize);
        let number = size.map(|_| PartNumber::FIRST);
        let open = Part::open(copies, form, packing, number, size, expected_bytes).await;
        Ok(Self { copies, form, packing, size, expected_bytes, open, stored: 0 })
    }

    /// Whether any copy still takes what comes.
    pub fn is_open(&self) -> bool {
        self.open.fan.is_open()
    }

    /// Takes the next stored bytes, which are whole frames where the packing has frames. Fails when a part is whole in
    /// no copy.
    pub async fn write(&mut self, mut bytes: Bytes) -> Result<(), Failed<Stage>> {
        while let Some(room_bytes) = self.room_bytes().filter(|&room| bytes.len() as u64 > room) {
            // Frames stay whole; of anything else the part takes what it has room for.
            if self.packing.coding == Coding::Plain {
                let here = bytes.split_to(room_bytes as usize);
                self.open.write(&here).await;
            }
            self.next_part().await?;
        }
        self.open.write(&bytes).await;
        Ok(())
    }

    /// Bytes that the open part has room for; `None` if it has no limit.
    fn room_bytes(&self) -> Option<u64> {
        let seen = self.open.seen.as_ref().map_or(0, Fingerprinter::size_bytes);
        self.size.map(|size| size.bytes().saturating_sub(seen))
    }

    async fn next_part(&mut self) -> Result<(), Failed<Stage>> {
        let number = match self.open.ending {
            Ending::Archive { part: Some(number), .. } => number.next(),
            _ => None,
        };
        let Some(number) = number else { return Err(self.too_many()).at(Stage::Archive) };
        let next = Part::nothing(Ending::Archive { form: self.form, packing: self.packing, part: Some(number) });
        let done = std::mem::replace(&mut self.open, next);
        self.close(done, None).await?;
        self.open =
            Part::open(self.copies, self.form, self.packing, Some(number), self.size, self.expected_bytes).await;
        Ok(())
    }

    fn too_many(&self) -> Error {
        let size = self.size.map_or(0, PartSize::bytes);
        let action = format!("the archive has more than {} parts of {size} bytes", PartNumber::LAST.get());
        Error::new(Kind::Refused, action).hint("choose larger parts with --split")
    }

    /// Ends a part in every copy; those that do not have it are given up.
    async fn close(&mut self, part: Part, whole: Option<Fingerprint>) -> Result<(), Failed<Stage>> {
        let Part { fan, seen, .. } = part;
        let Some(written) = seen.map(Fingerprinter::finish).or(whole) else {
            return Err(Error::new(Kind::Unexpected, "end an object that nobody has hashed")).at(Stage::Archive);
        };
        self.copies.keep(Stage::Archive, fan.finish(written).await).await?;
        self.stored += 1;
        Ok(())
    }

    /// Gives up the copies when none is open any more, and says why.
    pub async fn nobody_left(self) -> Failed<Stage> {
        let closed = self.open.fan.abort().await.into_iter().map(|error| error.map_or(Ok(()), Err)).collect();
        match self.copies.keep(Stage::Archive, closed).await {
            Err(failed) => failed,
            Ok(_) => Failed {
                stage: Stage::Archive,
                error: Error::new(Kind::Unexpected, "store an archive that nothing took"),
            },
        }
    }

    /// Ends the last part, and says how many there are. `whole` is everything that was written.
    pub async fn finish(mut self, whole: Fingerprint) -> Result<usize, Failed<Stage>> {
        let last = std::mem::replace(&mut self.open, Part::nothing(Ending::whole(self.form, self.packing)));
        self.close(last, Some(whole)).await?;
        Ok(self.stored)
    }

    /// Gives up the open part; parts that are whole are removed with the backup.
    pub async fn abort(self) {
        self.open.fan.abort().await;
    }
}

impl Part {
    async fn open(
        copies: &Copies<'_>,
        form: Form,
        packing: Packing,
        part: Option<PartNumber>,
        size: Option<PartSize>,
        expected_bytes: u64,
    ) -> Self {
        let ending = Ending::Archive { form, packing, part };
        let expected_bytes = size.map_or(expected_bytes, |size| size.bytes().min(expected_bytes));
        let fan = Fan::open(copies, ending, expected_bytes).await;
        Self { ending, fan, seen: part.map(|_| Fingerprinter::new()) }
    }

    /// In the place of one that is being closed.
    fn nothing(ending: Ending) -> Self {
        Self { ending, fan: Fan::closed(), seen: None }
    }

    async fn write(&mut self, bytes: &Bytes) {
        if let Some(seen) = &mut self.seen {
            seen.update(bytes);
        }
        self.fan.write(bytes).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_split() {
        for (text, bytes) in [
            ("5M", 5 << 20),
            ("500M", 500 << 20),
            ("500MiB", 500 << 20),
            ("500MB", 500_000_000),
            ("2G", 2 << 30),
            ("2GB", 2_000_000_000),
            ("1T", 1 << 40),
            ("6000K", 6000 << 10),
            ("1073741824", 1 << 30),
            ("1073741824B", 1 << 30),
        ] {
            assert_eq!(text.parse::<PartSize>().unwrap().bytes(), bytes, "{text}");
        }
        for wrong in ["", "M", "2g", "2 G", "-2G", "2.5G", "2GG", "2iB", "G2", "99999999999T", "+2G", "2Gi"] {
            let error = wrong.parse::<PartSize>().unwrap_err();
            assert_eq!(error.kind, Kind::Usage, "{wrong}");
            assert!(error.to_string().ends_with("is not a size of parts"), "{wrong}: {error}");
        }
        for small in ["0", "1", "4M", "5MB", "5242879"] {
            let error = small.parse::<PartSize>().unwrap_err();
            assert_eq!((error.kind, error.to_string()), (Kind::Usage, format!("parts of {small} are too small")));
        }
    }
}
