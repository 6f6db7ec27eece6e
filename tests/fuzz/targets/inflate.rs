//! Gzip by ISA-L, held against zlib-rs.
//!
//! ISA-L is assembler and C. What it reads ends at a page that cannot be read, and so does what it
//! writes, or they begin after one: a byte beyond is the end of the program.

#![no_main]

use std::{
    io::{self, BufRead, Read, Write},
    num::NonZeroUsize,
    slice,
    sync::{Mutex, OnceLock},
};

use flate2::{
    Compression, Crc, Decompress, FlushDecompress, GzBuilder,
    bufread::MultiGzDecoder,
    write::{DeflateEncoder, GzEncoder},
};
use fuzz::{Dice, Seed, offer};
use libfuzzer_sys::fuzz_target;
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, mprotect};
use runtime::pull::gunzip;

fuzz_target!(init: offer(seeds(), &WORDS, take), |data: &[u8]| {
    take(data);
});

const WORDS: [&[u8]; 6] = [
    b"\x1f\x8b\x08\0\0\0\0\0\0\xff",
    b"\x1f\x8b\x08\x1f",
    b"\x03\0\0\0\0\0\0\0\0\0",
    b"\0\x01\0\xfe\xff",
    b"\0\0\0\xff\xff",
    b"\x01\0\0\xff\xff",
];
/// Most that is unpacked.
const ENOUGH: usize = 512 << 10;
const PAGE: usize = 4096;
/// Longest piece that is read or written at once.
const LONGEST: usize = 64 * PAGE;

/// Bytes between two pages that cannot be touched.
struct Fenced(usize);

impl Fenced {
    fn new() -> Fenced {
        let length = NonZeroUsize::new(LONGEST + 2 * PAGE).expect("not zero");
        // SAFETY: new memory, wherever the kernel wants.
        let start =
            unsafe { mmap_anonymous(None, length, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }
                .expect("memory");
        // SAFETY: it lies in the memory that was just mapped, and nobody has it yet.
        unsafe {
            let inner = start.byte_add(PAGE);
            mprotect(inner, LONGEST, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE).expect("memory");
            Fenced(inner.as_ptr() as usize)
        }
    }

    /// So many bytes, right after the first fence or right before the last.
    fn part(&mut self, length: usize, at_start: bool) -> &mut [u8] {
        assert!(length <= LONGEST);
        let start = if at_start { self.0 } else { self.0 + LONGEST - length };
        // SAFETY: it lies between the fences, is there for ever, and is borrowed as this is.
        unsafe { slice::from_raw_parts_mut(start as *mut u8, length) }
    }
}

/// What is unpacked, in pieces.
struct Pieces<'a> {
    rest: &'a [u8],
    buffer: Fenced,
    /// Of the current piece: its length, and how much of it is used.
    piece: usize,
    used: usize,
    at_start: bool,
    dice: Dice,
}

fn length(dice: &mut Dice) -> usize {
    let most = *dice.choose(&[4, 20, 300, 5000, 40_000, LONGEST]);
    1 + dice.below(most)
}

impl BufRead for Pieces<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.used == self.piece {
            self.piece = length(&mut self.dice).min(self.rest.len());
            self.used = 0;
            self.at_start = self.dice.below(4) == 0;
            let (piece, rest) = self.rest.split_at(self.piece);
            self.buffer.part(self.piece, self.at_start).copy_from_slice(piece);
            self.rest = rest;
        }
        Ok(&self.buffer.part(self.piece, self.at_start)[self.used..])
    }

    fn consume(&mut self, count: usize) {
        self.used += count;
        assert!(self.used <= self.piece, "it has taken what it was not given");
    }
}

impl Read for Pieces<'_> {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        unreachable!("it is read by its buffer")
    }
}

/// What came out, and whether that was all.
type Unpacked = (Vec<u8>, io::Result<()>);

fn unpack(packed: &[u8], dice: Dice) -> Unpacked {
    static BUFFERS: OnceLock<Mutex<(Fenced, Fenced)>> = OnceLock::new();
    let buffers = BUFFERS.get_or_init(|| Mutex::new((Fenced::new(), Fenced::new())));
    let mut buffers = buffers.lock().expect("one thread");
    let (input, output) = &mut *buffers;
    let mut rooms = dice.clone();
    let buffer = Fenced(input.0);
    let pieces = Pieces { rest: packed, buffer, piece: 0, used: 0, at_start: false, dice };
    let mut reader = gunzip(pieces);
    let mut content = Vec::new();
    while content.len() < ENOUGH {
        let room = output.part(length(&mut rooms), rooms.below(4) == 0);
        match reader.read(room) {
            Ok(0) => return (content, Ok(())),
            Ok(count) => content.extend_from_slice(&room[..count]),
            Err(error) => return (content, Err(error)),
        }
    }
    (content, Ok(()))
}

fn unpack_with_zlib(packed: &[u8]) -> Unpacked {
    let mut content = Vec::new();
    let all = MultiGzDecoder::new(packed).take(ENOUGH as u64).read_to_end(&mut content);
    (content, all.map(|_| ()))
}

/// A member around each deflate stream, with the checksum that it should have: else next to nothing
/// would come through to the end.
fn wrap(mut streams: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    for _ in 0..4 {
        let (mut inflate, mut crc) = (Decompress::new(false), Crc::new());
        let mut content = Vec::with_capacity(ENOUGH);
        // What is no stream gets a trailer, too.
        let _ = inflate.decompress_vec(streams, &mut content, FlushDecompress::Finish);
        let (stream, rest) = streams.split_at(inflate.total_in() as usize);
        crc.update(&content);
        packed.extend_from_slice(WORDS[0]);
        packed.extend_from_slice(stream);
        packed.extend_from_slice(&crc.sum().to_le_bytes());
        packed.extend_from_slice(&crc.amount().to_le_bytes());
        streams = rest;
        if rest.is_empty() || stream.is_empty() {
            break;
        }
    }
    packed.extend_from_slice(streams);
    packed
}

/// Two bytes for the dice, the first of them odd if deflate streams follow, else gzip members.
fn take(data: &[u8]) -> bool {
    let Some((&[first, second], rest)) = data.split_first_chunk() else { return false };
    let packed = if first & 1 == 0 { rest.to_vec() } else { wrap(rest) };
    let dice = Dice::new(u64::from(first) << 8 | u64::from(second));
    let (ours, theirs) = (unpack(&packed, dice), unpack_with_zlib(&packed));
    let length = ours.0.len().min(theirs.0.len()).min(ENOUGH);
    assert!(ours.0[..length] == theirs.0[..length], "other content");
    // Neither has stopped for having enough. What zlib refuses of a code's description ISA-L may take:
    // the checksum has then to be that of the content all the same.
    if ours.0.len().max(theirs.0.len()) < ENOUGH && theirs.1.is_ok() {
        assert!(ours.1.is_ok(), "zlib takes it: {:?}", ours.1);
        assert_eq!(ours.0.len(), theirs.0.len(), "other lengths");
    }
    ours.1.is_ok()
}

fn seeds() -> Vec<Seed> {
    let mut dice = Dice::new(1);
    let noise = (0..3000).map(|_| dice.below(256) as u8).collect::<Vec<_>>();
    let text = "a text that says little, and says it again: ".repeat(100).into_bytes();
    let contents = [Vec::new(), b"x".to_vec(), text.clone(), noise, vec![0; 70_000]];
    let mut seeds = Vec::new();
    let mut add = |first: u8, bytes: &[u8], good| {
        seeds.push(([&[first, seeds.len() as u8], bytes].concat(), good));
    };
    for (content, level) in contents.iter().flat_map(|c| [0, 1, 6, 9].map(|level| (c, level))) {
        let level = Compression::new(level);
        let mut gzip = GzEncoder::new(Vec::new(), level);
        gzip.write_all(content).expect("memory");
        let gzip = gzip.finish().expect("memory");
        add(0, &gzip, true);
        add(2, &[&gzip[..], &gzip].concat(), true);
        add(4, &[&gzip[..], b"garbage"].concat(), false);
        let mut deflate = DeflateEncoder::new(Vec::new(), level);
        deflate.write_all(content).expect("memory");
        let deflate = deflate.finish().expect("memory");
        add(1, &deflate, true);
        add(3, &[&deflate[..], &deflate].concat(), true);
    }
    let named = GzBuilder::new().filename("layer.tar").comment("c").extra(b"ab\x02\0xy".to_vec());
    let mut named = named.mtime(1).write(Vec::new(), Compression::best());
    named.write_all(&text).expect("memory");
    add(0, &named.finish().expect("memory"), true);
    seeds
}
