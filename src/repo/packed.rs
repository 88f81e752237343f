//! Small objects, packed and unpacked in memory.

use std::io::Read as _;

use bytes::Bytes;

use super::layout::{Coding, Packing};
use crate::error::{Doing as _, Error, Kind, Result};

/// `plain` as an object of this packing holds it. `what` is for the error.
pub fn pack(plain: Bytes, packing: Packing, what: &str) -> Result<Bytes> {
    match packing.coding {
        Coding::Plain => Ok(plain),
        Coding::Zstd => {
            zstd::encode_all(&plain[..], 3).map(Bytes::from).doing(Kind::Unexpected, || format!("compress {what}"))
        }
    }
}

/// What was packed. More than `limit_bytes` of it is refused: a few bytes of zstd can name terabytes. `name` is for the
/// error.
pub fn unpack(stored: &[u8], packing: Packing, limit_bytes: u64, name: &str) -> Result<Vec<u8>> {
    if packing.encrypted {
        return Err(Error::refused(format!("{name} is encrypted, and no key was given")));
    }
    let mut plain = Vec::new();
    match packing.coding {
        Coding::Plain => stored.take(limit_bytes + 1).read_to_end(&mut plain),
        Coding::Zstd => {
            zstd::Decoder::new(stored).and_then(|decoder| decoder.take(limit_bytes + 1).read_to_end(&mut plain))
        }
    }
    .doing(Kind::Verification, || format!("decode {name}"))?;
    if plain.len() as u64 > limit_bytes {
        return Err(Error::new(Kind::Verification, format!("{name} decodes to more than {limit_bytes} bytes")));
    }
    Ok(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked_and_has_a_ceiling() {
        let plain = Bytes::from(vec![b' '; 1 << 20]);
        for packing in [Packing::PLAIN, Packing::ZSTD] {
            let stored = pack(plain.clone(), packing, "x").unwrap();
            assert_eq!(stored == plain, packing == Packing::PLAIN);
            assert_eq!(unpack(&stored, packing, 1 << 20, "x").unwrap(), plain);
            let error = unpack(&stored, packing, 1 << 19, "x").unwrap_err();
            assert_eq!(error.to_string(), "x decodes to more than 524288 bytes");
        }
        let stored = pack(plain, Packing::ZSTD, "x").unwrap();
        assert_eq!(unpack(&stored[1..], Packing::ZSTD, 1 << 20, "x").unwrap_err().kind, Kind::Verification);
    }
}
