//! The form of a file of age, seen without a key: <https://age-encryption.org/v1>.

use crate::error::{Error, Kind, Result};

const NONCE_BYTES: u64 = 16;
pub(super) const TAG_BYTES: u64 = 16;
/// As it is stored.
pub(super) const CHUNK_BYTES: u64 = (64 << 10) + TAG_BYTES;

/// Refuses what cannot be a file of age of `size_bytes` that begins with `head`: a header that is not whole or not one,
/// or a length that no chunks have. Whether a key opens it is not asked.
///
/// `head` is all of it, or enough for the header: that of a hundred recipients has 20 KiB.
pub fn check(head: &[u8], size_bytes: u64) -> Result<()> {
    let wrong = |why: &str| Error::new(Kind::Verification, "look at the file of age").because(why.to_owned());
    let header_bytes = header_bytes(head).ok_or_else(|| wrong("its header is not whole"))?;
    age::Decryptor::new_buffered(head).map_err(|error| wrong(&error.to_string()))?;
    let Some(chunks) = size_bytes.checked_sub(header_bytes + NONCE_BYTES) else {
        return Err(wrong("it breaks off before its first chunk"));
    };
    match (chunks / CHUNK_BYTES, chunks % CHUNK_BYTES) {
        // Of nothing there is one empty chunk; else the last one is not empty.
        (0, TAG_BYTES) => Ok(()),
        (1.., 0) => Ok(()),
        (_, last) if last > TAG_BYTES => Ok(()),
        _ => Err(wrong("its last chunk is not whole")),
    }
}

/// Up to the end of the line of the authentication code, which is the last of the header.
fn header_bytes(head: &[u8]) -> Option<u64> {
    let code = head.windows(5).position(|bytes| bytes == b"\n--- ")? + 5;
    let end = head[code..].iter().position(|&byte| byte == b'\n')?;
    Some((code + end + 1) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stream::{Recipients, seal};

    #[test]
    fn what_was_cut_within_a_chunk_or_the_header_is_seen() {
        let key = age::x25519::Identity::generate().to_public().to_string();
        let sealed = seal(&vec![1; 70_000], &Recipients::parse([key]).unwrap()).unwrap();
        let header = header_bytes(&sealed).unwrap() as usize;
        let cut = |len: usize| check(&sealed[..len.min(4096)], len as u64);
        cut(sealed.len()).unwrap();
        // As far as lengths can tell these are whole.
        cut(header + 16 + CHUNK_BYTES as usize).unwrap();
        for len in [0, 5, header - 1, header, header + 15, header + 31, header + 16 + CHUNK_BYTES as usize + 16] {
            assert_eq!(cut(len).unwrap_err().kind, Kind::Verification, "{len}");
        }
        assert!(check(b"\x28\xb5\x2f\xfd not of age \n--- x\n", 100).is_err());
    }
}
