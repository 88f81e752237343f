//! The files beside `toc.dat`: whether each was cut off, as far as its own bytes tell. `pg_restore` takes the end of a
//! file for the end of a table, and of zstd and LZ4 it misses the end of the frame: rows would be missing in silence.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

use super::not_whole;
use crate::error::{Doing as _, Error, Kind, Result};
use crate::pg::archive::Member;

/// What `pg_dump` writes behind the last row of a table: with COPY, with INSERT, and with INSERT where there is no row.
const ENDS_OF_ROWS: [&[u8]; 2] = [b"\\.\n\n\n", b";\n\n\n"];
const NO_INSERT: &[u8] = b"\n\n";

/// The mark that ends a frame of LZ4.
const END_OF_LZ4: [u8; 4] = [0; 4];

/// Looks at every file of the directory.
pub fn check(directory: &Path) -> Result<()> {
    for entry in std::fs::read_dir(directory).doing(Kind::Storage, || "list the directory")? {
        let path = entry.doing(Kind::Storage, || "list the directory")?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()) else { continue };
        let whole = is_whole(&path, name).doing(Kind::Storage, || format!("read {}", path.display()))?;
        if !whole {
            return Err(not_whole(Error::new(Kind::Verification, format!("{name} ends early"))));
        }
    }
    Ok(())
}

fn is_whole(path: &Path, name: &str) -> std::io::Result<bool> {
    let plain = name.strip_suffix(".zst").or_else(|| name.strip_suffix(".lz4")).unwrap_or(name);
    let Ok(member) = plain.parse::<Member>() else { return Ok(true) };
    let is_packed = plain != name;
    match std::fs::metadata(path)?.len() {
        // Of a large object without a byte pg_dump begins no frame.
        0 => Ok(matches!(member, Member::LargeObject(_) | Member::LargeObjects(_))),
        _ if is_packed && name.ends_with(".zst") => is_whole_zstd(path),
        _ if is_packed => ends(path, &[&END_OF_LZ4]),
        size_bytes if matches!(member, Member::Data(_)) => {
            Ok(ends(path, &ENDS_OF_ROWS)? || size_bytes == NO_INSERT.len() as u64)
        }
        // Of gzip pg_restore sees the end; a large object has none.
        _ => Ok(true),
    }
}

fn is_whole_zstd(path: &Path) -> std::io::Result<bool> {
    let decoded =
        zstd::Decoder::new(File::open(path)?).and_then(|mut file| std::io::copy(&mut file, &mut std::io::sink()));
    match decoded {
        Ok(_) => Ok(true),
        // What is wrong with the bytes, not with the disk.
        Err(error) if error.raw_os_error().is_none() => Ok(false),
        Err(error) => Err(error),
    }
}

fn ends(path: &Path, endings: &[&[u8]]) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    let longest = endings.iter().map(|ending| ending.len()).max().unwrap_or(0) as u64;
    file.seek(SeekFrom::Start(file.metadata()?.len().saturating_sub(longest)))?;
    let mut last = Vec::new();
    file.take(longest).read_to_end(&mut last)?;
    Ok(endings.iter().any(|ending| last.ends_with(ending)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_whole(name: &str, bytes: &[u8]) -> bool {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join(name), bytes).unwrap();
        match check(directory.path()) {
            Ok(()) => true,
            Err(error) => {
                assert_eq!(error.kind, Kind::Verification);
                assert!(error.to_string().contains(&format!("{name} ends early")), "{error}");
                false
            }
        }
    }

    #[test]
    fn rows_end_as_pg_dump_ends_them() {
        for rows in ["1\tone\n2\ttwo\n\\.\n\n\n", "\\.\n\n\n", "INSERT INTO t VALUES (1);\n\n\n", "\n\n"] {
            assert!(is_whole("3356.dat", rows.as_bytes()), "{rows}");
        }
        for rows in ["", "1\tone\n", "1\tone\n2\tt", "1\tone\n2\ttwo\n\\.\n", "\n\n\n", "INSERT INTO t VALUES (1);\n"] {
            assert!(!is_whole("3356.dat", rows.as_bytes()), "{rows}");
        }
        // A large object may end in anything, and what is none of pg_dump is nobody's.
        assert!(["blob_16403.dat", "blob_16403.dat.zst", "blob_16403.dat.lz4"].iter().all(|name| is_whole(name, b"")));
        assert!(is_whole("blob_16403.dat", b"x") && is_whole("notes.zst", b"x") && is_whole("notes.txt", b"x"));
    }

    #[test]
    fn frames_that_are_cut_are_seen() {
        let rows = "1\tone\n".repeat(5000) + "\\.\n\n\n";
        let whole = zstd::encode_all(rows.as_bytes(), 3).unwrap();
        assert!(is_whole("3356.dat.zst", &whole));
        for cut in [0, 1, whole.len() / 2, whole.len() - 1] {
            assert!(!is_whole("3356.dat.zst", &whole[..cut]), "{cut}");
        }
        assert!(
            is_whole("3356.dat.lz4", b"\x04\x22\x4d\x18xyz\0\0\0\0")
                && !is_whole("3356.dat.lz4", b"\x04\x22\x4d\x18xyz")
        );
    }
}
