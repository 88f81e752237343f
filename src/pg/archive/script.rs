//! The plain format of `pg_dump` (`-Fp`): a script for `psql`, read while it passes by.
//!
//! A script has no table of contents. What tells that it is whole is its last line, which `pg_dump` writes when
//! everything else was written; releases since August 2025 put a random key into the first and the last line
//! (`\restrict`, `\unrestrict`), so that nothing which a table holds can look like the end.

use super::head::ArchiveCompression;
use super::{damaged, failed_before};
use crate::error::{Doing as _, Error, Kind, Result};

const FIRST: &str = "--\n-- PostgreSQL database dump\n--\n\n";
const LAST: &str = "\n--\n-- PostgreSQL database dump complete\n--\n\n";
const RESTRICT: &str = "\\restrict ";
const SERVER: &str = "-- Dumped from database version ";
const CLIENT: &str = "-- Dumped by pg_dump version ";

/// More than the first lines and the last lines have.
const EDGE_BYTES: usize = 4 << 10;

/// A script that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// As the server calls it: "15.20 (Debian 15.20-0+deb12u1)".
    pub server_version: String,
    pub pg_dump_version: String,
    /// Around the whole of it.
    pub compression: ArchiveCompression,
    /// Of the SQL.
    pub size_bytes: u64,
}

/// Reads a script that is pushed through it.
#[derive(Debug, Default)]
pub struct ScriptReader {
    head: Vec<u8>,
    tail: Vec<u8>,
    size_bytes: u64,
    failed: bool,
}

impl ScriptReader {
    /// Takes the next bytes. An error is final.
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        if self.failed {
            return Err(failed_before());
        }
        self.size_bytes += bytes.len() as u64;
        let room = EDGE_BYTES - self.head.len();
        self.head.extend_from_slice(&bytes[..bytes.len().min(room)]);
        let seen = self.head.len().min(FIRST.len());
        if self.head[..seen] != FIRST.as_bytes()[..seen] {
            self.failed = true;
            return Err(damaged(0, "this is not a script of pg_dump"));
        }
        let last = &bytes[bytes.len().saturating_sub(EDGE_BYTES)..];
        let surplus = (self.tail.len() + last.len()).saturating_sub(EDGE_BYTES);
        self.tail.drain(..surplus);
        self.tail.extend_from_slice(last);
        Ok(())
    }

    /// Proves that the script was complete.
    pub fn finish(self) -> Result<Script> {
        if self.failed {
            return Err(failed_before());
        }
        let head = String::from_utf8_lossy(&self.head);
        let after = |words: &str| head.lines().find_map(|line| line.strip_prefix(words)).map(str::to_owned);
        let last = match after(RESTRICT) {
            Some(key) => format!("{LAST}\\unrestrict {key}\n\n"),
            None => LAST.to_owned(),
        };
        if self.head.len() < FIRST.len() || !self.tail.ends_with(last.as_bytes()) {
            return Err(damaged(self.size_bytes, "the script does not end as pg_dump ends it"));
        }
        let (Some(server_version), Some(pg_dump_version)) = (after(SERVER), after(CLIENT)) else {
            return Err(damaged(0, "the script does not say which version it was dumped from"));
        };
        let compression = ArchiveCompression::None;
        Ok(Script { server_version, pg_dump_version, compression, size_bytes: self.size_bytes })
    }
}

/// Reads a script in one stream of gzip.
#[derive(Debug)]
pub struct GzipScriptReader {
    decoder: flate2::write::GzDecoder<Sink>,
}

/// Hands on what was decoded, and keeps the error of the script beside that of the stream.
#[derive(Debug, Default)]
struct Sink(ScriptReader);

impl std::io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.push(bytes).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Default for GzipScriptReader {
    fn default() -> Self {
        Self { decoder: flate2::write::GzDecoder::new(Sink::default()) }
    }
}

impl GzipScriptReader {
    pub fn push(&mut self, bytes: &[u8]) -> Result<()> {
        std::io::Write::write_all(&mut self.decoder, bytes).map_err(broken)
    }

    pub fn finish(self) -> Result<Script> {
        let Sink(reader) = self.decoder.finish().map_err(broken)?;
        Ok(Script { compression: ArchiveCompression::Gzip, ..reader.finish()? })
    }
}

fn broken(error: std::io::Error) -> Error {
    match error.downcast::<Error>() {
        Ok(own) => own,
        Err(foreign) => match Err::<(), _>(foreign).doing(Kind::Verification, || "decode the script") {
            Err(error) => error.hint("this script cannot be restored whole: make a new dump, or use another copy"),
            Ok(()) => failed_before(),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const KEY: &str = "JoohfZUC3FQcElZ0bzH8QblTjmH93rbRQBQsNx2WTd5aKqFZghqhyFrav7NrhrT";

    fn script(restricted: bool) -> String {
        let (first, last) = if restricted {
            (format!("{RESTRICT}{KEY}\n\n"), format!("\\unrestrict {KEY}\n\n"))
        } else {
            Default::default()
        };
        let rows = "1\tone\n".repeat(2000);
        format!(
            "{FIRST}{first}{SERVER}15.18 (Debian 15.18-0+deb12u1)\n{CLIENT}15.18\n\nSET statement_timeout = 0;\n\
             COPY public.t (a, b) FROM stdin;\n{rows}\\.\n\n{LAST}{last}"
        )
    }

    fn read(script: &[u8], slice: usize) -> Result<Script> {
        let mut reader = ScriptReader::default();
        script.chunks(slice).try_for_each(|slice| reader.push(slice))?;
        reader.finish()
    }

    fn gzip(plain: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::new(6));
        encoder.write_all(plain).unwrap();
        encoder.finish().unwrap()
    }

    fn read_gzip(stream: &[u8], slice: usize) -> Result<Script> {
        let mut reader = GzipScriptReader::default();
        stream.chunks(slice).try_for_each(|slice| reader.push(slice))?;
        reader.finish()
    }

    #[test]
    fn a_script_is_whole_with_its_last_line() {
        for restricted in [true, false] {
            let script = script(restricted);
            for slice in [1, 7, 5000, 1 << 20] {
                let read = read(script.as_bytes(), slice).unwrap();
                assert_eq!(read.server_version, "15.18 (Debian 15.18-0+deb12u1)");
                assert_eq!((read.pg_dump_version.as_str(), read.size_bytes), ("15.18", script.len() as u64));
                let packed = read_gzip(&gzip(script.as_bytes()), slice).unwrap();
                assert_eq!(packed, Script { compression: ArchiveCompression::Gzip, ..read });
            }
        }
    }

    #[test]
    fn a_script_that_is_cut_or_longer_is_refused() {
        for restricted in [true, false] {
            let script = script(restricted);
            for cut in (0..script.len()).step_by(501).chain(script.len() - 80..script.len()) {
                assert_eq!(read(&script.as_bytes()[..cut], 4096).unwrap_err().kind, Kind::Verification, "{cut}");
            }
            assert!(read(format!("{script}\n").as_bytes(), 4096).is_err());
        }
        // The last line of another script is not the last of this one.
        let fake = script(true).replace(&format!("unrestrict {KEY}"), "unrestrict x");
        assert!(read(fake.as_bytes(), 4096).is_err());
        assert!(read(b"SELECT 1;\n", 4096).unwrap_err().to_string().contains("not a script of pg_dump"));
    }

    #[test]
    fn a_stream_of_gzip_that_is_cut_flipped_or_followed_by_something_is_refused() {
        let stream = gzip(script(true).as_bytes());
        for cut in 0..stream.len() {
            assert!(read_gzip(&stream[..cut], 4096).is_err(), "{cut}");
        }
        for at in [0, 20, stream.len() / 2, stream.len() - 8, stream.len() - 1] {
            let mut flipped = stream.clone();
            flipped[at] ^= 4;
            assert_eq!(read_gzip(&flipped, 4096).unwrap_err().kind, Kind::Verification, "{at}");
        }
        for more in [&b"x"[..], &stream] {
            assert!(read_gzip(&[&stream[..], more].concat(), 4096).is_err(), "{}", more.len());
        }
    }
}
