//! Reading the tar format, as Go's archive/tar reads it.
//!
//! Peers and scanners use that reader; one that finds other entries in the same bytes shows another
//! image than the one that was checked (CVE-2025-62518; SECURITY R10). Where even they disagree
//! with one another the archive is refused. So:
//!
//! - PAX `size` wins over the header's, always; links, directories, fifos and devices carry no
//!   data, whatever size they claim;
//! - `x`, `L` and `K` wait for the next real entry; two of a kind, or two different names for one
//!   entry, are refused; `g` is ignored;
//! - a malformed record, number or checksum is an error;
//! - entries end at two blocks of zeros or at the end of the stream.
//!
//! Only header fields come from the `tar` crate: its PAX parser breaks records at line ends, which
//! a binary value may hold.

use std::{
    io::{self, BufRead},
    mem,
};

use nix::sys::time::TimeSpec;
use tar::Header;

use super::{
    Error, Limits, Name, name,
    sparse::{Records, Sparse},
};

const BLOCK: usize = 512;
/// The least that a part of a sparse file takes of a tmpfs: of one byte each, an archive's few
/// thousand would take 400 times what it holds.
const PAGE: u64 = 4096;
/// Most bytes of one extended header, or of one map of a sparse file. Go's limit.
pub(super) const MAX_EXTENDED: u64 = 1 << 20;

/// What is wrong with an archive.
pub(super) type Refusal = &'static str;

/// One entry's header.
#[derive(Debug)]
pub(super) struct Entry {
    /// As in the archive.
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) kind: Kind,
    /// Permission bits, with set-user-ID, set-group-ID and sticky.
    pub(super) mode: u32,
    pub(super) mtime: TimeSpec,
    /// Bytes of data that follow.
    pub(super) size: u64,
    /// Where they belong, if they are not all of a file.
    pub(super) sparse: Option<Sparse>,
    /// `SCHILY.xattr.*`, without that prefix.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    HardLink,
    Symlink,
    Directory,
    Fifo,
    Device,
    /// Volume labels and what vendors thought of.
    Other,
}

/// Reads entries from a stream.
#[derive(Debug)]
pub(super) struct Reader<R> {
    stream: R,
    /// Of the current entry's data: still to come.
    left: u64,
    /// Zeros up to the next block, after the data.
    padding: u64,
    /// Bytes of the archive that may still come.
    allowed: u64,
    limit: u64,
    /// For messages.
    current: Vec<u8>,
}

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extended {
    pax: Option<Vec<u8>>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: BufRead> Reader<R> {
    pub(super) fn new(stream: R, limits: &Limits) -> Reader<R> {
        let limit = limits.bytes;
        Reader { stream, left: 0, padding: 0, allowed: limit, limit, current: Vec::new() }
    }

    /// Goes to the next entry; what is left of the last one's data is skipped. None: the end.
    pub(super) fn next(&mut self) -> Result<Option<Entry>, Error> {
        let mut extended = Extended::default();
        loop {
            self.skip_data()?;
            let Some(block) = self.block()? else {
                return if extended.is_empty() {
                    Ok(None)
                } else {
                    Err(self.malformed("an extended header without an entry"))
                };
            };
            let header = Header::from_byte_slice(&block);
            self.check_sum(header)?;
            let size = number(&header.as_old().size).ok_or_else(|| self.malformed("size"))?;
            let slot = match header.as_old().linkflag[0] {
                b'x' => &mut extended.pax,
                b'L' => &mut extended.long_name,
                b'K' => &mut extended.long_link,
                b'g' => {
                    if !extended.is_empty() {
                        return Err(
                            self.malformed("a global header between a header and its entry")
                        );
                    }
                    self.expect_data(size)?;
                    continue;
                }
                _ => return self.entry(header, size, extended).map(Some),
            };
            if slot.is_some() {
                return Err(self.malformed("two extended headers of a kind for one entry"));
            }
            if size > MAX_EXTENDED as i64 {
                return Err(self.malformed("an extended header of more than 1 MiB"));
            }
            self.expect_data(size)?;
            *slot = Some(self.extended()?);
        }
    }

    /// The next bytes of the current entry's data, straight from the stream's buffer; empty at the
    /// end. [`Reader::consume`] goes on.
    pub(super) fn data(&mut self) -> Result<&[u8], Error> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let (left, current) = (self.left, &self.current);
        let bytes = fill(&mut self.stream)?;
        if bytes.is_empty() {
            return Err(truncated(current));
        }
        Ok(&bytes[..bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX))])
    }

    /// Marks bytes that [`Reader::data`] returned as used.
    pub(super) fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.left -= count as u64;
    }

    /// Bytes of the current entry's data that were not used yet.
    pub(super) fn left(&self) -> u64 {
        self.left
    }

    /// The next block of the current entry's data. None: there is less than that.
    pub(super) fn data_block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        if self.left < BLOCK as u64 {
            return Ok(None);
        }
        self.left -= BLOCK as u64;
        self.allowed += BLOCK as u64; // which the data has been counted into
        self.more_header().map(Some)
    }

    /// A block that belongs to the last header.
    pub(super) fn more_header(&mut self) -> Result<[u8; BLOCK], Error> {
        self.read_block()?.ok_or_else(|| truncated(&self.current))
    }

    /// Reads the stream to its end: what lies behind the last entry is covered by the digest too.
    pub(super) fn finish(mut self) -> Result<(), Error> {
        loop {
            match fill(&mut self.stream)?.len() {
                0 => return Ok(()),
                count => {
                    self.allow(count as u64)?;
                    self.stream.consume(count);
                }
            }
        }
    }

    fn entry(&mut self, header: &Header, size: i64, extended: Extended) -> Result<Entry, Error> {
        let old = header.as_old();
        let mut entry = Entry {
            name: header.path_bytes().into_owned(),
            link: until_nul(&old.linkname).to_vec(),
            kind: Kind::Other,
            mode: 0,
            mtime: TimeSpec::new(0, 0),
            size: 0,
            sparse: None,
            xattrs: Vec::new(),
        };
        let mut over = Overrides::default();
        if let Some(pax) = &extended.pax {
            over.read(pax, &mut entry.xattrs).map_err(|problem| self.malformed(problem))?;
        }
        let name = one_of(over.path, extended.long_name);
        let link = one_of(over.link, extended.long_link);
        let (Ok(name), Ok(link)) = (name, link) else {
            return Err(self.malformed("two different names for one entry"));
        };
        let sparse_name = over.sparse.name().map(<[u8]>::to_vec);
        entry.name = sparse_name.or(name).unwrap_or(entry.name);
        entry.link = link.unwrap_or(entry.link);
        self.current.clone_from(&entry.name);
        if [&entry.name, &entry.link].iter().any(|name| name.contains(&0)) {
            return Err(self.malformed("a NUL in a name"));
        }
        if entry.name.len().max(entry.link.len()) > name::MAX_PATH {
            return Err(self.malformed("a name that is too long"));
        }

        let mode = number(&old.mode).ok_or_else(|| self.malformed("mode"))?;
        entry.mode = (mode & 0o7777) as u32;
        let mtime = number(&old.mtime).ok_or_else(|| self.malformed("mtime"))?;
        entry.mtime = over.mtime.unwrap_or(TimeSpec::new(mtime, 0));
        let flag = old.linkflag[0];
        entry.kind = match flag {
            // Before 1988 a directory was a file whose name ends in a slash.
            0 if entry.name.ends_with(b"/") => Kind::Directory,
            b'0' | b'7' | b'S' | 0 => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' => Kind::Device,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            _ => Kind::Other,
        };
        let carries_data = !matches!(
            entry.kind,
            Kind::HardLink | Kind::Symlink | Kind::Device | Kind::Directory | Kind::Fifo
        );
        if carries_data {
            self.expect_data(over.size.unwrap_or(size))?;
        }
        entry.sparse = match (flag, over.sparse.is_empty()) {
            (b'S', true) => Some(Sparse::of_gnu(header, self)?),
            (_, true) => None,
            (b'0' | b'7' | 0, false) if entry.kind == Kind::File => Some(over.sparse.map(self)?),
            _ => return Err(self.malformed("an entry with the map of a sparse file, and is none")),
        };
        if let Some(sparse) = &entry.sparse {
            self.allow(sparse.extents.len() as u64 * PAGE)?;
        }
        entry.size = self.left;
        Ok(entry)
    }

    fn expect_data(&mut self, size: i64) -> Result<(), Error> {
        let left = u64::try_from(size).map_err(|_| self.malformed("a negative size"))?;
        let padding = left.wrapping_neg() % BLOCK as u64;
        self.allow(left.saturating_add(padding))?;
        (self.left, self.padding) = (left, padding);
        Ok(())
    }

    /// Counts bytes of the archive before they are read.
    fn allow(&mut self, bytes: u64) -> Result<(), Error> {
        self.allowed = self
            .allowed
            .checked_sub(bytes)
            .ok_or_else(|| Error::TooBig { entry: Name::new(&self.current), limit: self.limit })?;
        Ok(())
    }

    fn skip_data(&mut self) -> Result<(), Error> {
        loop {
            match self.data()?.len() {
                0 if self.padding == 0 => return Ok(()),
                0 => self.left = mem::take(&mut self.padding),
                count => self.consume(count),
            }
        }
    }

    /// Reads the next header. None: the archive ends here.
    fn block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let Some(block) = self.read_block()? else { return Ok(None) };
        if block != [0; BLOCK] {
            return Ok(Some(block));
        }
        match self.read_block()? {
            Some(block) if block != [0; BLOCK] => {
                Err(self.malformed("a header after a zero block"))
            }
            _ => Ok(None),
        }
    }

    fn read_block(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        self.allow(BLOCK as u64)?;
        let mut block = [0; BLOCK];
        let mut have = 0;
        while have < BLOCK {
            let bytes = fill(&mut self.stream)?;
            if bytes.is_empty() {
                return if have == 0 { Ok(None) } else { Err(truncated(&self.current)) };
            }
            let count = bytes.len().min(BLOCK - have);
            block[have..have + count].copy_from_slice(&bytes[..count]);
            self.stream.consume(count);
            have += count;
        }
        Ok(Some(block))
    }

    /// The data of an extended header.
    fn extended(&mut self) -> Result<Vec<u8>, Error> {
        let mut all = Vec::new();
        loop {
            let bytes = self.data()?;
            let count = bytes.len();
            if count == 0 {
                return Ok(all);
            }
            all.extend_from_slice(bytes);
            self.consume(count);
        }
    }

    /// The sum of all bytes with the checksum's own taken for blanks; some old programs added
    /// signed bytes.
    fn check_sum(&self, header: &Header) -> Result<(), Error> {
        let (all, field) = (header.as_bytes(), &header.as_old().cksum);
        let with_blanks = |sum: fn(&[u8]) -> i64| sum(all) - sum(field) + sum(&[b' '; 8]);
        let unsigned = |bytes: &[u8]| bytes.iter().map(|b| i64::from(*b)).sum();
        let signed = |bytes: &[u8]| bytes.iter().map(|b| i64::from(b.cast_signed())).sum();
        let claimed = number(field);
        if claimed == Some(with_blanks(unsigned)) || claimed == Some(with_blanks(signed)) {
            Ok(())
        } else {
            Err(self.malformed("a header whose checksum is wrong"))
        }
    }

    pub(super) fn malformed(&self, problem: Refusal) -> Error {
        Error::Malformed { entry: Name::new(&self.current), problem }
    }
}

impl Extended {
    fn is_empty(&self) -> bool {
        self.pax.is_none() && self.long_name.is_none() && self.long_link.is_none()
    }
}

/// What PAX records override.
#[derive(Default)]
struct Overrides {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<i64>,
    mtime: Option<TimeSpec>,
    sparse: Records,
}

impl Overrides {
    /// Reads `LENGTH KEY=VALUE\n` records (pax, "Extended Header"). An empty value leaves the
    /// header's in force.
    fn read(
        &mut self,
        mut pax: &[u8],
        xattrs: &mut Vec<(Vec<u8>, Vec<u8>)>,
    ) -> Result<(), Refusal> {
        while !pax.is_empty() {
            let (key, value, rest) = record(pax).ok_or("a malformed PAX record")?;
            pax = rest;
            let some = (!value.is_empty()).then_some(value);
            match key {
                b"path" => self.path = some.map(<[u8]>::to_vec),
                b"linkpath" => self.link = some.map(<[u8]>::to_vec),
                b"size" => self.size = some.map(|v| decimal(v).ok_or("PAX size")).transpose()?,
                b"mtime" => self.mtime = some.map(|v| time(v).ok_or("PAX mtime")).transpose()?,
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        xattrs.push((name.to_vec(), value.to_vec()));
                    } else if let Some(name) = key.strip_prefix(b"GNU.sparse.") {
                        self.sparse.push(name, value);
                    }
                }
            }
        }
        Ok(())
    }
}

/// The first record's key and value, and what follows it.
fn record(pax: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let blank = pax.iter().position(|b| *b == b' ')?;
    let length = usize::try_from(decimal(&pax[..blank])?).ok()?;
    let (record, rest) = pax.split_at_checked(length)?;
    let pair = record.get(blank + 1..)?.strip_suffix(b"\n")?;
    let equals = pair.iter().position(|b| *b == b'=')?;
    let (key, value) = (&pair[..equals], &pair[equals + 1..]);
    (!key.is_empty() && !key.contains(&0)).then_some((key, value, rest))
}

/// Two sources of one name may both speak if they say the same. An empty name says nothing.
fn one_of(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, ()> {
    let gnu = gnu.map(|name| until_nul(&name).to_vec()).filter(|name| !name.is_empty());
    match (pax, gnu) {
        (Some(a), Some(b)) if a != b => Err(()),
        (a, b) => Ok(a.or(b)),
    }
}

/// A number in a header: octal digits, or big-endian two's complement if the first bit is set.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    let first = *field.first()?;
    if first & 0x80 == 0 {
        // Writers fill up with blanks or NULs, on either side.
        let start = field.iter().position(|b| !matches!(b, 0 | b' ')).unwrap_or(field.len());
        let text = until_nul(&field[start..]).trim_ascii_end();
        return text.iter().try_fold(0_i64, |sum, digit| match digit {
            b'0'..=b'7' => sum.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        });
    }
    // The flag bit itself is replaced by a copy of the sign, the bit below it.
    let negative = first & 0x40 != 0;
    let first = if negative { first } else { first & 0x7f };
    let start = if negative { -1_i64 } else { 0 };
    std::iter::once(&first)
        .chain(&field[1..])
        .try_fold(start, |sum, byte| sum.checked_mul(256).map(|sum| sum | i64::from(*byte)))
}

/// A decimal number: an optional minus, digits.
pub(super) fn decimal(text: &[u8]) -> Option<i64> {
    if !text.iter().skip_while(|b| **b == b'-').all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds since 1970 with an optional fraction; what is finer than a nanosecond is cut.
fn time(text: &[u8]) -> Option<TimeSpec> {
    let (seconds, fraction) = match text.iter().position(|b| *b == b'.') {
        Some(point) => (&text[..point], &text[point + 1..]),
        None => (text, &[][..]),
    };
    let negative = seconds.starts_with(b"-");
    let seconds = decimal(seconds)?;
    if !fraction.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let digits = fraction.iter().chain(std::iter::repeat(&b'0')).take(9);
    let nanos = digits.fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    if negative && nanos > 0 {
        return Some(TimeSpec::new(seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some(TimeSpec::new(seconds, nanos))
}

fn until_nul(bytes: &[u8]) -> &[u8] {
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

fn fill(stream: &mut impl BufRead) -> Result<&[u8], Error> {
    loop {
        match stream.fill_buf() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::Read(error)),
            Ok(_) => break,
        }
    }
    // Asked again: it returns the same buffer, but the borrow checker does not follow it out of
    // the loop.
    stream.fill_buf().map_err(Error::Read)
}

fn truncated(entry: &[u8]) -> Error {
    Error::Malformed { entry: Name::new(entry), problem: "the archive ends in the middle" }
}
