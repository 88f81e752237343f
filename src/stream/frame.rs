//! Where zstd frames begin and end (RFC 8878, sections 3.1.1 and 3.1.2), found without decoding.
//!
//! The library's own function for this wants the whole frame in memory and walks it from its start each time; this
//! one goes on where it stopped and says which byte is wrong. Whether the frame is sound is for the decoder to say.

const MAGIC: u32 = 0xFD2F_B528;
const SKIPPABLE_MAGIC: u32 = 0x184D_2A50;

/// What the first bytes of a frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FrameHeader {
    /// Not data: tables of contents and the like. `size_bytes` counts header and content.
    Skippable { size_bytes: u64 },
    Data {
        header_bytes: usize,
        /// Plain bytes in the frame, if its maker knew.
        content_bytes: Option<u64>,
        checksum_bytes: usize,
    },
}

/// The bytes at this place are not what zstd writes there.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NotAFrame {
    #[error("no zstd frame begins here")]
    Magic,
    #[error("the frame header has a reserved bit set")]
    Reserved,
    #[error("block of a reserved type, {0} bytes into the frame")]
    Block(usize),
}

impl FrameHeader {
    /// Reads the header of the frame that `bytes` begins with; `None` if more bytes are needed.
    pub(super) fn parse(bytes: &[u8]) -> Result<Option<Self>, NotAFrame> {
        let Some(magic) = little_endian(bytes, 0, 4) else {
            // Fewer than four bytes: still wrong if they cannot become one of the magic numbers.
            let starts = |magic: u32| magic.to_le_bytes().starts_with(bytes);
            let possible = starts(MAGIC) || (0..16).any(|low| starts(SKIPPABLE_MAGIC | low));
            return if possible { Ok(None) } else { Err(NotAFrame::Magic) };
        };
        if magic & !0xF == u64::from(SKIPPABLE_MAGIC) {
            return Ok(little_endian(bytes, 4, 4).map(|content| Self::Skippable { size_bytes: 8 + content }));
        }
        if magic != u64::from(MAGIC) {
            return Err(NotAFrame::Magic);
        }
        let Some(&descriptor) = bytes.get(4) else { return Ok(None) };
        if descriptor & 0b1000 != 0 {
            return Err(NotAFrame::Reserved);
        }
        let single_segment = descriptor & 0b10_0000 != 0;
        let dictionary_bytes = [0, 1, 2, 4][usize::from(descriptor & 0b11)];
        let size_field_bytes = match descriptor >> 6 {
            0 => usize::from(single_segment),
            code => 1 << code,
        };
        let size_field_at = 5 + usize::from(!single_segment) + dictionary_bytes;
        let Some(size_field) = little_endian(bytes, size_field_at, size_field_bytes) else { return Ok(None) };
        let content_bytes = match size_field_bytes {
            0 => None,
            2 => Some(size_field + 256),
            _ => Some(size_field),
        };
        let checksum_bytes = if descriptor & 0b100 == 0 { 0 } else { 4 };
        Ok(Some(Self::Data { header_bytes: size_field_at + size_field_bytes, content_bytes, checksum_bytes }))
    }
}

/// Walks from block to block of one frame.
#[derive(Debug)]
pub(super) struct FrameWalk {
    /// Where the next block begins; the end of the frame once `complete`.
    at: usize,
    checksum_bytes: usize,
    complete: bool,
}

impl FrameWalk {
    pub(super) fn after_header(header_bytes: usize, checksum_bytes: usize) -> Self {
        Self { at: header_bytes, checksum_bytes, complete: false }
    }

    /// The size of the frame that `frame` begins with, once all of it is there. Call with the same bytes and more.
    pub(super) fn size(&mut self, frame: &[u8]) -> Result<Option<usize>, NotAFrame> {
        while !self.complete {
            let Some(header) = little_endian(frame, self.at, 3) else { return Ok(None) };
            let size = (header >> 3) as usize;
            let stored_bytes = match (header >> 1) & 0b11 {
                1 => 1, // one byte, repeated `size` times
                3 => return Err(NotAFrame::Block(self.at)),
                _ => size,
            };
            self.at += 3 + stored_bytes;
            if header & 1 == 1 {
                self.at += self.checksum_bytes;
                self.complete = true;
            }
        }
        Ok((frame.len() >= self.at).then_some(self.at))
    }
}

fn little_endian(bytes: &[u8], at: usize, count: usize) -> Option<u64> {
    let field = bytes.get(at..at.checked_add(count)?)?;
    Some(field.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use zstd::zstd_safe::find_frame_compressed_size;

    fn size_of(frame: &[u8]) -> Option<usize> {
        let Some(FrameHeader::Data { header_bytes, checksum_bytes, .. }) = FrameHeader::parse(frame).unwrap() else {
            return None;
        };
        FrameWalk::after_header(header_bytes, checksum_bytes).size(frame).unwrap()
    }

    #[test]
    fn sizes_agree_with_the_library_for_every_shape_of_frame() {
        let text: Vec<u8> = (0..400_000_u32).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
        for len in [0, 1, 200, 255, 256, 300, 65_535, 65_536, 66_000, 131_072, 140_000, 1_600_000] {
            for (pledged, checksum) in [(true, true), (true, false), (false, true), (false, false)] {
                for plain in [&text[..len], &vec![b'x'; len][..]] {
                    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 3).unwrap();
                    encoder.include_checksum(checksum).unwrap();
                    encoder.set_pledged_src_size(pledged.then_some(len as u64)).unwrap();
                    encoder.write_all(plain).unwrap();
                    let mut frame = encoder.finish().unwrap();
                    let size = frame.len();
                    assert_eq!(find_frame_compressed_size(&frame).unwrap(), size);
                    assert_eq!(size_of(&frame[..size - 1]), None);
                    frame.extend_from_slice(b"the next frame");
                    assert_eq!(size_of(&frame), Some(size), "{len} {pledged} {checksum}");
                    match FrameHeader::parse(&frame).unwrap() {
                        Some(FrameHeader::Data { content_bytes, .. }) if pledged => {
                            assert_eq!(content_bytes, Some(len as u64));
                        }
                        // Without a pledge a one-shot flush may still know the size.
                        Some(FrameHeader::Data { content_bytes, .. }) => {
                            assert!(content_bytes.is_none_or(|bytes| bytes == len as u64));
                        }
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_become_a_frame_is_refused_at_the_first_byte_that_says_so() {
        assert_eq!(FrameHeader::parse(b"--"), Err(NotAFrame::Magic));
        assert_eq!(FrameHeader::parse(b"\x28\xb5\x2f"), Ok(None));
        assert_eq!(FrameHeader::parse(b"\x28\xb5\x2f\xfe"), Err(NotAFrame::Magic));
        assert_eq!(FrameHeader::parse(b"\x28\xb5\x2f\xfd\x08"), Err(NotAFrame::Reserved));
        assert_eq!(
            FrameHeader::parse(b"\x5e\x2a\x4d\x18\x05\0\0\0"),
            Ok(Some(FrameHeader::Skippable { size_bytes: 13 }))
        );
        assert_eq!(FrameWalk::after_header(0, 0).size(&[0b110, 0, 0]), Err(NotAFrame::Block(0)));
    }
}
