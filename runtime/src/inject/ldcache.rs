//! `ld.so.cache`: where the dynamic linker finds libraries outside of its two default directories.
//!
//! It is written here rather than by `ldconfig`: nothing of the image need be run, nor trusted to be
//! there (SECURITY R18), and an entry may lead a name to a file of any name.
//!
//! ```text
//! "glibc-ld.so.cache1.1"  entries  length of strings  byte order  extensions at
//! { machine, name, path, 0, hardware } × entries     sorted by name, the last first
//! strings
//! extensions: the names that `hardware` counts (glibc-hwcaps), since glibc 2.33
//! ```
//!
//! glibc, `sysdeps/generic/dl-cache.h`. Older caches begin with another table, which all of today's
//! linkers pass over. Numbers are of this machine's byte order.

use std::{
    cmp::Ordering,
    collections::HashMap,
    ffi::{OsStr, OsString, c_char},
    os::unix::ffi::{OsStrExt, OsStringExt},
    path::{Path, PathBuf},
};

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
const EXTENSIONS_MAGIC: u32 = 0xeaa4_2174;
/// The extension that lists glibc-hwcaps.
const HWCAPS_TAG: u32 = 1;
/// Such extensions as there can be; glibc knows two.
const MAX_EXTENSIONS: u32 = 16;
/// `hardware` counts the names in the extension; without this bit it is of an older kind.
const HWCAP_EXTENSION: u64 = 1 << 62;
/// `cache_file_new_flags_endian_*`.
const BYTE_ORDER: u8 = if cfg!(target_endian = "little") { 2 } else { 3 };

/// A library that has been found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// By which name it is asked for.
    pub name: OsString,
    /// Where it is.
    pub path: PathBuf,
    /// For which machine ([`super::elf::Library::flags`]).
    pub flags: i32,
    /// For which hardware; 0 for all.
    pub hwcap: u64,
}

/// All of a cache, in the order in which it is searched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cache {
    entries: Vec<Entry>,
    /// Subdirectories of `glibc-hwcaps`, as entries count them.
    hwcaps: Vec<OsString>,
}

impl Cache {
    /// Reads a cache; `None` if it is none.
    pub fn parse(file: &[u8]) -> Option<Cache> {
        let file = match file.starts_with(OLD_MAGIC) {
            false => file,
            true => {
                let libraries = usize::try_from(number(file, 12)?).ok()?;
                let end = OLD_HEADER.checked_add(libraries.checked_mul(OLD_ENTRY)?)?;
                file.get(end.checked_next_multiple_of(8)?..)?
            }
        };
        if !file.starts_with(MAGIC) {
            return None;
        }
        let count = usize::try_from(number(file, 20)?).ok()?;
        let table = file.get(HEADER..HEADER.checked_add(count.checked_mul(ENTRY)?)?)?;
        let entry = |bytes: &[u8]| {
            let hwcap = bytes.get(16..24)?.try_into().ok()?;
            Some(Entry {
                name: text(file, number(bytes, 4)?)?,
                path: text(file, number(bytes, 8)?)?.into(),
                flags: number(bytes, 0)?.cast_signed(),
                hwcap: u64::from_ne_bytes(hwcap),
            })
        };
        Some(Cache {
            entries: table.chunks_exact(ENTRY).map(entry).collect::<Option<_>>()?,
            hwcaps: hwcaps(file).unwrap_or_default(),
        })
    }

    /// What the linker of a machine takes for a name, on hardware without merits.
    pub fn find(&self, name: &OsStr, flags: i32) -> Option<&Path> {
        let mut all = self.entries.iter();
        let found = all.find(|e| e.name == name && e.flags == flags && e.hwcap == 0)?;
        Some(&found.path)
    }

    /// All entries.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Lets these be found instead of what has their names; the first of one name counts.
    pub fn put(&mut self, entries: impl IntoIterator<Item = Entry>) {
        let mut new: Vec<Entry> = Vec::new();
        for entry in entries {
            if !new.iter().any(|e| e.name == entry.name && e.flags == entry.flags) {
                new.push(entry);
            }
        }
        self.entries.retain(|old| !new.iter().any(|e| e.name == old.name && e.flags == old.flags));
        self.entries.extend(new);
    }

    /// The cache as a file.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut entries: Vec<&Entry> = self.entries.iter().collect();
        let is_plain = |entry: &Entry| entry.hwcap & HWCAP_EXTENSION == 0;
        // The linker wants those for special hardware first.
        entries.sort_by(|a, b| compare(&b.name, &a.name).then(is_plain(a).cmp(&is_plain(b))));

        let mut strings = Strings { base: HEADER + ENTRY * entries.len(), ..Strings::default() };
        let mut table = Vec::new();
        for entry in &entries {
            table.extend(entry.flags.to_ne_bytes());
            table.extend(strings.add(&entry.name).to_ne_bytes());
            table.extend(strings.add(entry.path.as_os_str()).to_ne_bytes());
            table.extend(0u32.to_ne_bytes());
            table.extend(entry.hwcap.to_ne_bytes());
        }
        let names: Vec<u32> = self.hwcaps.iter().map(|name| strings.add(name)).collect();
        let length = strings.bytes.len();
        // Extensions are aligned as their numbers are.
        let end = strings.base + length;
        let extensions = end.next_multiple_of(4);

        let mut file = MAGIC.to_vec();
        file.extend(offset(entries.len()).to_ne_bytes());
        file.extend(offset(length).to_ne_bytes());
        file.extend([BYTE_ORDER, 0, 0, 0]);
        file.extend(offset(if names.is_empty() { 0 } else { extensions }).to_ne_bytes());
        file.resize(HEADER, 0);
        file.extend(table);
        file.extend(strings.bytes);
        if !names.is_empty() {
            file.resize(extensions, 0);
            let section = [HWCAPS_TAG, 0, offset(extensions + 24), offset(4 * names.len())];
            let numbers = [EXTENSIONS_MAGIC, 1].into_iter().chain(section).chain(names);
            file.extend(numbers.flat_map(u32::to_ne_bytes));
        }
        file
    }
}

/// Strings of a file, each once.
#[derive(Default)]
struct Strings {
    base: usize,
    bytes: Vec<u8>,
    known: HashMap<OsString, u32>,
}

impl Strings {
    fn add(&mut self, text: &OsStr) -> u32 {
        if let Some(at) = self.known.get(text) {
            return *at;
        }
        let at = offset(self.base + self.bytes.len());
        self.bytes.extend(text.as_bytes());
        self.bytes.push(0);
        self.known.insert(text.to_owned(), at);
        at
    }
}

/// A place in a file. No cache comes near 4 GiB: all that is in one has been read from another, or
/// from the names of a driver's libraries.
fn offset(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}

fn number(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn text(file: &[u8], at: u32) -> Option<OsString> {
    let rest = file.get(usize::try_from(at).ok()?..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    Some(OsString::from_vec(rest[..end].to_vec()))
}

/// The names in the extension, if there is one.
fn hwcaps(file: &[u8]) -> Option<Vec<OsString>> {
    let start = usize::try_from(number(file, 32)?).ok().filter(|at| *at != 0)?;
    if number(file, start)? != EXTENSIONS_MAGIC {
        return None;
    }
    let count = number(file, start.checked_add(4)?)?.min(MAX_EXTENSIONS);
    let mut sections = (0..count as usize).map(|n| start + 8 + 16 * n);
    let section = sections.find(|at| number(file, *at) == Some(HWCAPS_TAG))?;
    let at = usize::try_from(number(file, section + 8)?).ok()?;
    let size = usize::try_from(number(file, section + 12)?).ok()?;
    let names = file.get(at..at.checked_add(size)?)?;
    names.chunks_exact(4).map(|bytes| text(file, number(bytes, 0)?)).collect()
}

/// `_dl_cache_libcmp`: as strings, but numbers in them as numbers. The linker searches by halving,
/// so that the order must be its own, to the overflow of an `int`.
fn compare(a: &OsStr, b: &OsStr) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    let digits = |bytes: &mut &[u8]| {
        let mut value = 0i32;
        while let Some(digit) = bytes.first().filter(|byte| byte.is_ascii_digit()) {
            value = value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
            *bytes = &bytes[1..];
        }
        value
    };
    let is_digit = |bytes: &[u8]| bytes.first().is_some_and(u8::is_ascii_digit);
    // `char` has a sign on some machines.
    let char_at = |bytes: &[u8]| bytes.first().map_or(0, |byte| i32::from(*byte as c_char));
    while !a.is_empty() {
        match (is_digit(a), is_digit(b)) {
            (true, true) => match digits(&mut a).cmp(&digits(&mut b)) {
                Ordering::Equal => {}
                other => return other,
            },
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) => match char_at(a).cmp(&char_at(b)) {
                Ordering::Equal => (a, b) = (&a[1..], &b[1..]),
                other => return other,
            },
        }
    }
    0.cmp(&char_at(b))
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;

    fn entry(name: &str, path: &str) -> Entry {
        Entry { name: name.into(), path: path.into(), flags: 0x303, hwcap: 0 }
    }

    #[test]
    fn what_is_written_is_read() {
        let mut cache = Cache { hwcaps: vec!["x86-64-v3".into()], ..Cache::default() };
        let special = Entry { hwcap: HWCAP_EXTENSION, ..entry("libz.so.1", "/h/libz.so.1") };
        cache.put([special.clone()]);
        cache.entries.push(entry("libz.so.1", "/l/libz.so.1"));
        let names = ["libcuda.so.1", "liba.so.9", "liba.so.10", "a", "libb.so"];
        cache.put(names.map(|name| entry(name, &format!("/d/{name}"))));
        let read = Cache::parse(&cache.to_bytes()).unwrap();
        assert_eq!(read.hwcaps, cache.hwcaps);
        let order: Vec<_> = read.entries.iter().map(|e| e.path.to_str().unwrap()).collect();
        let expected = ["/h/libz.so.1", "/l/libz.so.1", "/d/libcuda.so.1", "/d/libb.so"];
        assert_eq!(order[..4], expected);
        assert_eq!(order[4..], ["/d/liba.so.10", "/d/liba.so.9", "/d/a"]);
        assert_eq!(read.find("libz.so.1".as_ref(), 0x303), Some(Path::new("/l/libz.so.1")));
        assert_eq!(Cache::parse(&read.to_bytes()).unwrap(), read);
    }

    #[test]
    fn what_is_put_counts_and_the_first_of_it() {
        let mut cache = Cache::default();
        cache.put([entry("a", "/image"), entry("b", "/b")]);
        cache.put([entry("a", "/compat"), entry("a", "/driver")]);
        assert_eq!(cache.find("a".as_ref(), 0x303), Some(Path::new("/compat")));
        assert_eq!(cache.find("b".as_ref(), 0x303), Some(Path::new("/b")));
        assert_eq!((cache.find("a".as_ref(), 3), cache.entries.len()), (None, 2));
    }

    #[test]
    fn names_are_ordered_as_the_linker_does() {
        for (less, more) in [
            ("a", "b"),
            ("a", "aa"),
            ("lib.so.9", "lib.so.10"),
            ("lib-a", "lib1"),
            ("liba1b", "liba2a"),
            ("lib.so.2", "lib.so.2.1"),
            ("", "a"),
        ] {
            assert_eq!(compare(less.as_ref(), more.as_ref()), Ordering::Less, "{less} {more}");
            assert_eq!(compare(more.as_ref(), less.as_ref()), Ordering::Greater, "{less} {more}");
        }
        assert_eq!(compare("a01".as_ref(), "a1".as_ref()), Ordering::Equal);
    }

    #[test]
    fn nonsense_is_no_cache() {
        let mut good = Cache { hwcaps: vec!["x".into()], ..Cache::default() };
        good.put([entry("a", "/a")]);
        let good = good.to_bytes();
        for length in 0..good.len() {
            let cut = Cache::parse(&good[..length]);
            assert!(cut.is_none_or(|cache| cache.entries.len() == 1), "{length} bytes");
        }
        for at in 20..good.len() {
            for value in [0, 0x7f, 0xff] {
                let mut odd = good.clone();
                odd[at] = value;
                let _ = Cache::parse(&odd);
            }
        }
        let mut old = [OLD_MAGIC, &[0], &1u32.to_ne_bytes()].concat();
        old.resize(32, 0);
        assert!(Cache::parse(&[&old[..], &good].concat()).is_some(), "the older kind goes before");
    }

    /// This machine's own, and its own reader's opinion of ours.
    #[test]
    fn ldconfig_reads_it() {
        let Ok(own) = fs::read("/etc/ld.so.cache") else { return };
        let mut cache = Cache::parse(&own).unwrap();
        assert_eq!(Cache::parse(&cache.to_bytes()).unwrap().entries.len(), cache.entries.len());
        cache.put([entry("libshifter-test.so.1", "/nowhere/libshifter-test.so.1")]);
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), cache.to_bytes()).unwrap();
        let ldconfig = Command::new("/sbin/ldconfig").arg("-p").arg("-C").arg(file.path()).output();
        let Ok(said) = ldconfig else { return };
        let said = String::from_utf8(said.stdout).unwrap();
        assert!(said.starts_with(&format!("{} libs found", cache.entries.len())), "{said}");
        let line = "libshifter-test.so.1 (libc6,x86-64) => /nowhere/libshifter-test.so.1";
        assert!(said.contains(line) || cfg!(not(target_arch = "x86_64")), "{said}");
    }
}
