//! What an ELF file says of itself, read as the dynamic linker reads it: by its segments, since
//! sections may be stripped. Files of images are hostile input: nothing here panics, and nothing is
//! read but headers and the dynamic section.

use std::{
    fs::{self, File},
    path::Path,
};

use object::{
    Endianness, ReadCache, ReadRef,
    elf::{
        DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, DT_STRSZ, DT_STRTAB, EM_386, EM_AARCH64,
        EM_PPC64, EM_RISCV, EM_S390, EM_X86_64, FileHeader32, FileHeader64, PT_LOAD,
    },
    read::elf::{Dyn as _, FileHeader, ProgramHeader as _, SectionHeader as _},
};
use serde::Deserialize;

/// The longest string table that is read, in bytes. libcuda's has some 100 KB.
const MAX_STRINGS: u64 = 16 << 20;
/// The largest dynamic section. A file of an image may have holes, and say that it is all of them.
const MAX_DYNAMIC: u64 = 1 << 20;
/// The section in which NVIDIA says with which drivers a libcuda works that is newer than they.
const COMPATIBILITY: &[u8] = b".note.cuda.fwd_compatibility";
/// The largest such note.
const MAX_NOTE: u64 = 64 << 10;

/// What [`Library::flags`] are for programs of this machine.
pub const NATIVE: i32 = if cfg!(target_arch = "x86_64") {
    0x0303
} else if cfg!(target_arch = "aarch64") {
    0x0a03
} else if cfg!(target_arch = "powerpc64") {
    0x0503
} else if cfg!(target_arch = "riscv64") {
    0x1003
} else {
    3
};

/// A shared library, or a program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// The name by which others ask for it.
    pub soname: Option<String>,
    /// What it asks for.
    pub needed: Vec<String>,
    /// Where it says that this is to be searched for.
    pub runpath: Option<String>,
    /// The same, for all below it: an older way, which goes before `LD_LIBRARY_PATH`.
    pub rpath: Option<String>,
    /// For which machine it is, as `ld.so.cache` has it (glibc, `sysdeps/generic/ldconfig.h`).
    pub flags: i32,
    /// The major numbers of the drivers that this libcuda works with, if it says so.
    pub drivers: Vec<u32>,
}

impl Library {
    /// Reads a file; `None` if it is no library for a machine that is known.
    pub fn open(path: &Path) -> Option<Library> {
        // Opened without a look before, a fifo would wait for ever.
        fs::metadata(path).ok().filter(fs::Metadata::is_file)?;
        Library::read(File::open(path).ok()?)
    }

    /// The same of an open file.
    pub fn read(file: File) -> Option<Library> {
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        Library::parse(&ReadCache::new(file))
    }

    /// The same of anything that can be read in parts.
    pub(crate) fn parse<'d, R: ReadRef<'d>>(data: R) -> Option<Library> {
        let ident = data.read_bytes_at(0, 5).ok()?;
        if &ident[..4] != b"\x7fELF" {
            return None;
        }
        match ident[4] {
            1 => parse(FileHeader32::<Endianness>::parse(data).ok()?, data),
            2 => parse(FileHeader64::<Endianness>::parse(data).ok()?, data),
            _ => None,
        }
    }
}

fn parse<'d, Elf, R>(header: &Elf, data: R) -> Option<Library>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'d>,
{
    let endian = header.endian().ok()?;
    // PN_XNUM: the count stands elsewhere, and may be any. No library has so many.
    if header.e_phnum(endian) == u16::MAX {
        return None;
    }
    let segments = header.program_headers(endian, data).ok()?;
    let mut readable = segments.iter().filter(|s| s.p_filesz(endian).into() <= MAX_DYNAMIC);
    let dynamic = readable.find_map(|s| s.dynamic(endian, data).ok().flatten())?;
    let end = dynamic.iter().position(|entry| entry.d_tag(endian).0 == 0);
    let dynamic = &dynamic[..end.unwrap_or(dynamic.len())];
    let value = |tag| {
        let entry = dynamic.iter().find(|entry| entry.d_tag(endian) == tag)?;
        Some(entry.d_val(endian).into())
    };
    // An address, as the file is laid out in memory.
    let (address, size): (u64, u64) = (value(DT_STRTAB)?, value(DT_STRSZ)?);
    let start = segments.iter().filter(|s| s.p_type(endian) == PT_LOAD).find_map(|segment| {
        let within = address.checked_sub(segment.p_vaddr(endian).into())?;
        (within < segment.p_filesz(endian).into())
            .then(|| segment.p_offset(endian).into().checked_add(within))?
    })?;
    let strings = data.read_bytes_at(start, size.min(MAX_STRINGS)).ok()?;
    let text = |at: u64| {
        let rest = strings.get(usize::try_from(at).ok()?..)?;
        let end = rest.iter().position(|byte| *byte == 0)?;
        String::from_utf8(rest[..end].to_vec()).ok().filter(|text| !text.is_empty())
    };
    let needed = dynamic.iter().filter(|entry| entry.d_tag(endian) == DT_NEEDED);
    Some(Library {
        soname: value(DT_SONAME).and_then(text),
        needed: needed.filter_map(|entry| text(entry.d_val(endian).into())).collect(),
        runpath: value(DT_RUNPATH).and_then(text),
        rpath: value(DT_RPATH).and_then(text),
        flags: flags(header, endian)?,
        drivers: drivers(header, endian, data).unwrap_or_default(),
    })
}

/// `FLAG_ELF_LIBC6`, and which ABI of the machine.
fn flags<Elf: FileHeader<Endian = Endianness>>(header: &Elf, endian: Endianness) -> Option<i32> {
    const LIBC6: i32 = 3;
    let abi = match (header.e_machine(endian), header.is_class_64()) {
        (EM_X86_64, true) => 0x0300,
        // x32.
        (EM_X86_64, false) => 0x0800,
        (EM_386, false) => 0,
        (EM_AARCH64, true) => 0x0a00,
        (EM_PPC64, true) => 0x0500,
        (EM_S390, true) => 0x0400,
        // Double floats in registers.
        (EM_RISCV, true) => 0x1000,
        _ => return None,
    };
    Some(LIBC6 | abi)
}

/// The note is a JSON document: `{"Driver": [535, 550], …}`.
fn drivers<'d, Elf, R>(header: &Elf, endian: Endianness, data: R) -> Option<Vec<u32>>
where
    Elf: FileHeader<Endian = Endianness>,
    R: ReadRef<'d>,
{
    #[derive(Deserialize)]
    struct Note {
        #[serde(rename = "Driver", default)]
        drivers: Vec<u32>,
    }
    // The same.
    if header.e_shnum(endian) == 0 {
        return None;
    }
    let sections = header.sections(endian, data).ok()?;
    let (_, section) = sections.section_by_name(endian, COMPATIBILITY)?;
    if section.sh_size(endian).into() > MAX_NOTE {
        return None;
    }
    let bytes = section.data(endian, data).ok()?;
    // elf(5), "Notes": lengths of name and description, a type, the name, the description.
    let start = bytes.iter().position(|byte| *byte == b'{')?;
    let end = bytes.iter().rposition(|byte| *byte == b'}')?;
    Some(serde_json::from_slice::<Note>(bytes.get(start..=end)?).ok()?.drivers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_of_this_machine_are_read() {
        // What the test itself was linked with.
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let libc = maps.split_whitespace().find(|word| word.contains("/libc.so.6"));
        let Some(libc) = libc else { return };
        let library = Library::open(Path::new(libc)).unwrap();
        assert_eq!(library.soname.as_deref(), Some("libc.so.6"));
        assert_eq!(library.flags, NATIVE);
        assert!(library.needed.iter().all(|name| name.starts_with("ld-linux")), "{library:?}");
        let own = Library::open(Path::new("/proc/self/exe")).unwrap();
        assert!(own.soname.is_none() && own.needed.contains(&"libc.so.6".to_owned()), "{own:?}");
    }

    #[test]
    fn what_is_no_library_is_none() {
        let own = std::fs::read("/proc/self/exe").unwrap();
        for bytes in [&b""[..], b"\x7fEL", b"\x7fELF\x02\x01", b"#!/bin/sh\n", &own[..64]] {
            assert_eq!(Library::parse(bytes), None, "{} bytes", bytes.len());
        }
        // Wherever it is cut, and whatever its headers say.
        for length in (0..4096).step_by(7) {
            let _ = Library::parse(&own[..length]);
            let mut odd = own[..8192].to_vec();
            odd[length % 2048] ^= 0xff;
            let _ = Library::parse(&odd[..]);
        }
    }
}
