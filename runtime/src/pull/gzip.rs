//! Gzip layers: one member after the other, each with its checksum (RFC 1952).

use std::io::{self, BufRead, Read};

use crate::sys::isal::Inflate;

/// Reads the content of all members. What follows the last one and is none is an error.
pub(super) struct Reader<R> {
    packed: R,
    inflate: Inflate,
    /// In the middle of a member; else one may begin, or the input may end.
    inside: bool,
    /// At least one member has begun.
    begun: bool,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(packed: R) -> Reader<R> {
        Reader { packed, inflate: Inflate::new(), inside: false, begun: false }
    }
}

impl<R: BufRead> Read for Reader<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        while !out.is_empty() {
            let input = self.packed.fill_buf()?;
            let at_end = input.is_empty();
            if !self.inside {
                if at_end && self.begun {
                    return Ok(0);
                }
                self.inflate.reset();
                (self.inside, self.begun) = (true, true);
            }
            let step = self.inflate.run(input, out);
            let step = step.map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
            self.packed.consume(step.consumed);
            self.inside = !step.finished;
            if step.produced > 0 {
                return Ok(step.produced);
            }
            if at_end && self.inside {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(0)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufReader, Write as _};

    use super::*;

    fn pack(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(content).expect("memory");
        encoder.finish().expect("memory")
    }

    fn noise(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let step = |_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Some repetition, so that there is something to compress.
            (state >> 24) as u8 & if state & 0x10000 == 0 { 0xff } else { 3 }
        };
        (0..length).map(step).collect()
    }

    /// Unpacks with input in pieces of `piece` bytes and output in pieces of `room`.
    fn unpack(packed: &[u8], piece: usize, room: usize) -> io::Result<Vec<u8>> {
        let mut reader = Reader::new(BufReader::with_capacity(piece, packed));
        let (mut content, mut buffer) = (Vec::new(), vec![0; room]);
        loop {
            match reader.read(&mut buffer)? {
                0 => return Ok(content),
                n => content.extend_from_slice(&buffer[..n]),
            }
        }
    }

    /// SECURITY R12: several members are one content.
    #[test]
    fn members_are_read_wherever_they_are_cut() {
        let parts = [noise(70_000), Vec::new(), noise(5), vec![0; 100_000], noise(1000)];
        let packed: Vec<u8> = parts.iter().flat_map(|part| pack(part)).collect();
        let content = parts.concat();
        for piece in (1..60).chain([1000, 4096, 65_536, packed.len()]) {
            for room in [1000, 65_536, 300_000] {
                let unpacked = unpack(&packed, piece, room).expect("valid");
                assert!(unpacked == content, "wrong content with pieces of {piece} and {room}");
            }
        }
    }

    #[test]
    fn small_rooms_lose_nothing() {
        let content = noise(3000);
        let packed = [pack(&content), pack(b"x")].concat();
        for room in 1..20 {
            let unpacked = unpack(&packed, 7, room).expect("valid");
            assert!(unpacked == [&content[..], b"x"].concat(), "wrong content in rooms of {room}");
        }
    }

    /// SECURITY R12: the trailer is missing.
    #[test]
    fn every_cut_is_noticed() {
        let packed = pack(&noise(500));
        for length in 0..packed.len() {
            let error = unpack(&packed[..length], 64, 64).expect_err("cut");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut to {length}");
        }
    }

    /// SECURITY R12: the trailer is checked.
    #[test]
    fn a_changed_byte_never_changes_the_content() {
        let content = noise(500);
        let packed = pack(&content);
        for at in 0..packed.len() {
            let mut changed = packed.clone();
            changed[at] ^= 0x40;
            // The header's time and the bits that fill the last byte say nothing about it.
            if let Ok(unpacked) = unpack(&changed, 64, 64) {
                assert!(unpacked == content, "byte {at} is not checked");
            }
        }
    }

    /// ISA-L then claims that more is left than there was, which a build with overflow checks notices.
    #[test]
    fn a_copy_from_before_the_beginning_is_an_error() {
        let header = b"\x1f\x8b\x08\0\0\0\0\0\0\xff";
        let packed = [&header[..], &b"\x1a\x02\xa3\x21\x30".repeat(8)].concat();
        for piece in 1..packed.len() {
            let error = unpack(&packed, piece, 1000).expect_err("there is nothing to copy");
            assert_eq!(error.to_string(), "corrupt deflate stream", "in pieces of {piece}");
        }
    }

    /// SECURITY R11.
    #[test]
    fn what_follows_the_members_is_an_error() {
        let packed = [pack(b"content"), b"trailing garbage".to_vec()].concat();
        assert_eq!(unpack(&packed, 64, 64).expect_err("garbage").to_string(), "not a gzip header");
    }
}
