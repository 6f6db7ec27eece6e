//! Compressed bytes whose digest is right, and that are wrong.

use super::*;
use fixtures::image::{gzip, zstd};

/// SECURITY R11, R12.
#[test]
fn gzip_is_right_to_the_last_byte() {
    check("gzip", |_| {
        let archive = Layer::new().file("a", 0o644, "A").to_tar();
        let (half, rest) = archive.split_at(700);
        let (one, first) = (gzip(&archive), gzip(half));
        let two = [first.clone(), gzip(rest)].concat();
        let end = one.len();
        let behind = |tail: &[u8]| of_bytes([&one[..], tail].concat());
        let (good, cut, sum, header) = ("f a=A", "end of file", "checksum", "gzip header");
        vec![
            Case("one member", of_bytes(&*one), Gives(good)),
            Case("two members", of_bytes(&*two), Gives(good)),
            Case(
                "an empty member",
                of_bytes([gzip(b""), one.clone(), gzip(b"")].concat()),
                Gives(good),
            ),
            Case("name, comment, extra field", of_bytes(talkative(&one)), Gives(good)),
            Case("cut in its header", of_bytes(&one[..5]), Refused(0, cut)),
            Case("cut in the middle", of_bytes(&one[..end / 2]), Refused(0, cut)),
            Case("cut in its trailer", of_bytes(&one[..end - 3]), Refused(0, cut)),
            Case("the second member cut", of_bytes(&two[..two.len() - 9]), Refused(0, cut)),
            Case("the second member's header cut", behind(&one[..6]), Refused(0, cut)),
            Case("CRC-32", flipped(&one, end - 8), Refused(0, sum)),
            Case("length", flipped(&one, end - 1), Refused(0, sum)),
            Case("CRC-32 of the first member", flipped(&two, first.len() - 8), Refused(0, sum)),
            Case("length of the first member", flipped(&two, first.len() - 1), Refused(0, sum)),
            Case("another method", flipped(&one, 2), Refused(0, header)),
            Case("zeros behind", behind(&[0; 512]), Refused(0, header)),
            Case("garbage behind", behind(b"trailing garbage"), Refused(0, header)),
            Case("a plain archive behind", behind(&archive), Refused(0, header)),
            Case("zstd behind", behind(&zstd(&archive)), Refused(0, header)),
        ]
    });
}

/// SECURITY R9, R11, R12.
#[test]
fn zstd_is_right_to_the_last_byte() {
    check("zstd", |_| {
        let archive = Layer::new().file("a", 0o644, "A").to_tar();
        let (half, rest) = archive.split_at(700);
        let (one, summed) = (zstd(&archive), with_checksum(&archive));
        let two = [zstd(half), zstd(rest)].concat();
        let skips = [skippable(b"1"), zstd(half), skippable(b""), zstd(rest), skippable(&[7; 999])];
        let behind = |tail: &[u8]| of_bytes([&one[..], tail].concat());
        let (good, cut, memory) = ("f a=A", "incomplete frame", "too much memory");
        vec![
            Case("one frame", of_bytes(&*one), Gives(good)),
            Case("two frames", of_bytes(&*two), Gives(good)),
            Case(
                "an empty frame",
                of_bytes([zstd(b""), one.clone(), zstd(b"")].concat()),
                Gives(good),
            ),
            Case("skippable frames", of_bytes(skips.concat()), Gives(good)),
            Case("checksum", of_bytes(&*summed), Gives(good)),
            Case("checksum, wrong", flipped(&summed, summed.len() - 1), Refused(0, "checksum")),
            Case("cut in its header", of_bytes(&one[..5]), Refused(0, cut)),
            Case("cut", of_bytes(&one[..one.len() - 2]), Refused(0, cut)),
            Case("the second frame cut", of_bytes(&two[..two.len() - 2]), Refused(0, cut)),
            Case("a skippable frame cut", behind(&skippable(b"12345")[..9]), Refused(0, cut)),
            Case("garbage behind", behind(b"trailing garbage"), Refused(0, "Unknown frame")),
            Case("zeros behind", behind(&[0; 512]), Refused(0, "Unknown frame")),
            Case("gzip behind", behind(&gzip(&archive)), Refused(0, "Unknown frame")),
            Case("a window of 128 MiB", of_bytes(with_window(&archive, 27)), Gives(good)),
            Case("a window of 256 MiB", of_bytes(with_window(&archive, 28)), Refused(0, memory)),
            Case("a window of 2 GiB", of_bytes(with_window(&archive, 31)), Refused(0, memory)),
            Case("a window of 2 TiB", of_bytes(with_window(&archive, 41)), Refused(0, memory)),
            Case("a window of 2 GiB, later", behind(&with_window(b"", 31)), Refused(0, memory)),
            Case("a dictionary", of_bytes(with_dictionary(&archive)), Refused(0, "Dictionary")),
        ]
    });
}

/// An image of these bytes, one bit of the byte `at` changed.
fn flipped(bytes: &[u8], at: usize) -> Image {
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    of_bytes(bytes)
}

/// The same member with all that its header may hold (RFC 1952, 2.3): FEXTRA, FNAME, FCOMMENT.
fn talkative(member: &[u8]) -> Vec<u8> {
    let mut head = member[..10].to_vec();
    head[3] = 4 | 8 | 16;
    [&head[..], b"\x06\0XX\x02\0??name\0comment\0", &member[10..]].concat()
}

fn with_checksum(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("memory");
    encoder.include_checksum(true).expect("a setting that it has");
    std::io::Write::write_all(&mut encoder, content).expect("memory can be written");
    encoder.finish().expect("memory can be written")
}

/// A frame that decoders pass over (RFC 8878, 3.1.2).
fn skippable(content: &[u8]) -> Vec<u8> {
    let length = u32::try_from(content.len()).expect("it is short");
    [&[0x53, 0x2a, 0x4d, 0x18], &length.to_le_bytes()[..], content].concat()
}

/// A frame that wants a window of 2^`log` bytes (RFC 8878, 3.1.1.1.2).
fn with_window(content: &[u8], log: u8) -> Vec<u8> {
    frame(&[0, (log - 10) << 3], content)
}

/// A frame that wants dictionary 7 (RFC 8878, 3.1.1.1.3).
fn with_dictionary(content: &[u8]) -> Vec<u8> {
    frame(&[1, (20 - 10) << 3, 7], content)
}

/// A frame of one raw block.
fn frame(header: &[u8], content: &[u8]) -> Vec<u8> {
    const LAST: u32 = 1;
    let block = u32::try_from(content.len()).expect("it is short") << 3 | LAST;
    let magic = [0x28, 0xb5, 0x2f, 0xfd];
    [&magic[..], header, &block.to_le_bytes()[..3], content].concat()
}
