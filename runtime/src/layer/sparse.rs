//! Files with holes, in the four ways that GNU tar has written them (GNU tar manual, "Sparse
//! Formats"), read as Go's archive/tar reads them.
//!
//! ```text
//! old GNU   type S; the map in the header and in blocks that follow it
//! PAX 0.0   GNU.sparse.offset and .numbytes once per extent, in turn
//! PAX 0.1   GNU.sparse.map=offset,length,offset,length…
//! PAX 1.0   GNU.sparse.major=1, .minor=0; the map begins the data, in lines
//! ```
//!
//! A reader that knows none of this makes a file of the raw data, in 1.0 with the map in front and
//! under a wrong name. So whatever speaks of holes and is not exactly one of these is refused
//! (SECURITY R13). Memory is taken for extents that are there, not for those that are announced
//! (CVE-2025-58183), and for holes none at all.

use std::io::BufRead;

use tar::Header;

use super::tar::{MAX_EXTENDED, Reader, Refusal, decimal, number};

/// As much as a file on ext4 can hold. Holes cost nothing until somebody reads them: a file of 8 EiB
/// would keep whoever copies the tree busy for years.
const MAX_SIZE: u64 = 16 << 40;
const MALFORMED: Refusal = "a malformed map of a sparse file";
const TOO_MANY: Refusal = "a sparse file of too many parts";
const UNKNOWN: Refusal = "a sparse file of an unknown format";

/// Where the data of a file with holes lies.
#[derive(Debug)]
pub(super) struct Sparse {
    /// Bytes of the whole file, holes included.
    pub(super) size: u64,
    /// In ascending order, without overlaps; their lengths are the data's.
    pub(super) extents: Vec<Extent>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Extent {
    pub(super) offset: u64,
    pub(super) length: u64,
}

/// `GNU.sparse.*` records, without that prefix, in the archive's order.
#[derive(Default)]
pub(super) struct Records(Vec<(Vec<u8>, Vec<u8>)>);

impl Records {
    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        self.0.push((key.to_vec(), value.to_vec()));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The file's name: the header's is made up, for readers that know no holes.
    pub(super) fn name(&self) -> Option<&[u8]> {
        self.get(b"name")
    }

    /// The last one counts; an empty one says nothing.
    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        let (_, value) = self.0.iter().rfind(|(k, _)| k == key)?;
        (!value.is_empty()).then_some(value)
    }

    fn number(&self, key: &[u8]) -> Result<u64, Refusal> {
        self.get(key).and_then(unsigned).ok_or(MALFORMED)
    }

    /// The map of a PAX format. That of 1.0 is taken off the data.
    pub(super) fn map(&self, reader: &mut Reader<impl BufRead>) -> Result<Sparse, super::Error> {
        let parsed = match (self.get(b"major"), self.get(b"minor")) {
            (Some(b"1"), Some(b"0")) => {
                let numbers = map_in_data(reader)?;
                self.number(b"realsize").map(|size| (size, numbers))
            }
            (Some(b"0"), Some(b"0" | b"1")) | (None, None) => {
                self.number(b"size").and_then(|size| Ok((size, self.numbers()?)))
            }
            _ => Err(UNKNOWN),
        };
        parsed
            .and_then(|(size, numbers)| Sparse::new(size, &numbers, reader.left()))
            .map_err(|problem| reader.malformed(problem))
    }

    /// The numbers of the formats 0.0 and 0.1.
    fn numbers(&self) -> Result<Vec<u64>, Refusal> {
        let blocks = self.number(b"numblocks")?;
        let numbers: Option<Vec<u64>> = match self.get(b"map") {
            Some(map) => map.split(|b| *b == b',').map(unsigned).collect(),
            None => {
                let keys = [&b"offset"[..], b"numbytes"];
                let of_extents = self.0.iter().filter(|(key, _)| keys.contains(&&key[..]));
                let in_turn = of_extents.zip(keys.iter().cycle());
                in_turn.map(|((key, value), due)| (key == due).then(|| unsigned(value))?).collect()
            }
        };
        let numbers = numbers.ok_or(MALFORMED)?;
        if blocks.checked_mul(2) == Some(numbers.len() as u64) {
            Ok(numbers)
        } else {
            Err(MALFORMED)
        }
    }
}

impl Sparse {
    /// Takes offsets and lengths in turn. What the extents hold must be the data, all of it.
    fn new(size: u64, numbers: &[u64], data: u64) -> Result<Sparse, Refusal> {
        let pairs = numbers.chunks_exact(2);
        if !pairs.remainder().is_empty() {
            return Err(MALFORMED);
        }
        let extents: Vec<_> =
            pairs.map(|pair| Extent { offset: pair[0], length: pair[1] }).collect();
        let mut end = 0;
        let mut held = 0_u64;
        for extent in &extents {
            if extent.offset < end {
                return Err("a sparse file whose parts overlap");
            }
            end = extent.offset.checked_add(extent.length).ok_or(MALFORMED)?;
            held = held.checked_add(extent.length).ok_or(MALFORMED)?;
        }
        if end > size {
            return Err("a sparse file that is shorter than its parts");
        }
        if size > MAX_SIZE {
            return Err("a sparse file of more than 16 TiB");
        }
        if held != data {
            return Err("a sparse file whose map is not that of its data");
        }
        Ok(Sparse { size, extents })
    }

    /// The map of an entry of type `S`. Where the header does not hold all of it, blocks follow.
    pub(super) fn of_gnu(
        header: &Header,
        reader: &mut Reader<impl BufRead>,
    ) -> Result<Sparse, super::Error> {
        let Some(gnu) = header.as_gnu() else { return Err(reader.malformed(UNKNOWN)) };
        let mut map = gnu.sparse.iter().flat_map(|part| [part.offset, part.numbytes]).collect();
        let mut more = gnu.isextended[0] != 0;
        while more {
            let block = reader.more_header()?;
            let (numbers, rest) = block.split_at(21 * 24);
            push_numbers(&mut map, numbers);
            more = rest[0] != 0;
            if map.len() as u64 * 12 > MAX_EXTENDED {
                return Err(reader.malformed(TOO_MANY));
            }
        }
        let size = number(&gnu.realsize).and_then(|size| u64::try_from(size).ok());
        let sparse = gnu_numbers(&map).zip(size).ok_or(MALFORMED);
        let sparse = sparse.and_then(|(numbers, size)| Sparse::new(size, &numbers, reader.left()));
        sparse.map_err(|problem| reader.malformed(problem))
    }
}

fn push_numbers(map: &mut Vec<[u8; 12]>, numbers: &[u8]) {
    map.extend(numbers.chunks_exact(12).filter_map(|number| <[u8; 12]>::try_from(number).ok()));
}

/// Unused places are filled with zeros; nothing comes after them.
fn gnu_numbers(map: &[[u8; 12]]) -> Option<Vec<u64>> {
    let used = map.iter().position(|field| field[0] == 0).unwrap_or(map.len());
    let (used, unused) = map.split_at(used.next_multiple_of(2));
    if unused.iter().any(|field| field[0] != 0) {
        return None;
    }
    used.iter().map(|field| u64::try_from(number(field)?).ok()).collect()
}

/// The map of the format 1.0, which begins an entry's data and fills whole blocks: how many
/// extents, and then each one's offset and length, each number in a line of its own.
fn map_in_data(reader: &mut Reader<impl BufRead>) -> Result<Vec<u64>, super::Error> {
    let mut lines = Lines::default();
    while !lines.are_complete() {
        let Some(block) = reader.data_block()? else { return Err(reader.malformed(MALFORMED)) };
        lines.read(&block).map_err(|problem| reader.malformed(problem))?;
    }
    Ok(lines.numbers)
}

#[derive(Default)]
struct Lines {
    /// Numbers that are to come; none before the first line was read.
    expected: Option<u64>,
    numbers: Vec<u64>,
    line: Vec<u8>,
}

impl Lines {
    fn are_complete(&self) -> bool {
        self.expected == Some(self.numbers.len() as u64)
    }

    fn read(&mut self, block: &[u8]) -> Result<(), Refusal> {
        for byte in block {
            if self.are_complete() {
                return Ok(()); // the rest of the last block
            }
            if *byte != b'\n' {
                self.line.push(*byte);
                continue;
            }
            let number = unsigned(&self.line).ok_or(MALFORMED)?;
            self.line.clear();
            match self.expected {
                None => self.expected = Some(number.checked_mul(2).ok_or(MALFORMED)?),
                Some(_) => self.numbers.push(number),
            }
        }
        let taken = self.numbers.len() * size_of::<u64>() + self.line.len();
        if taken as u64 > MAX_EXTENDED { Err(TOO_MANY) } else { Ok(()) }
    }
}

fn unsigned(text: &[u8]) -> Option<u64> {
    decimal(text).and_then(|number| u64::try_from(number).ok())
}
