//! A library without code that stands in another's place.
//!
//! The host's MPI cannot simply be mounted over the image's: in another directory its `$ORIGIN` is
//! another, so that it finds the image's libfabric, and by another name it is not found at all. A
//! shim has the name that the image's programs ask for, and asks by absolute path for the host's
//! library, which so has its own directory, and before it for all that the host's library asks for:
//! the linker (ld.so(8)) takes no second library of a name that it has (glibc, `elf/dl-load.c`,
//! `_dl_map_object`). This holds whether a program finds its MPI by cache, `RUNPATH` or `RPATH`, or
//! by dlopen(3), as mpi4py does.
//!
//! ```text
//! program ─ NEEDED libmpi.so.12 ─► shim ─┬─ NEEDED /opt/host/lib/libfabric.so.1
//!                                        └─ NEEDED /opt/host/lib/libmpi.so.12
//! ```
//!
//! The file is as small as the System V ABI (gabi, chapter 5) and glibc allow: one segment, which
//! holds all of it, a hash table of no symbols, and the dynamic section.

use object::elf::{
    DT_HASH, DT_NEEDED, DT_NULL, DT_SONAME, DT_STRSZ, DT_STRTAB, DT_SYMENT, DT_SYMTAB, EM_AARCH64,
    EM_X86_64, ET_DYN, PF_R, PF_W, PT_DYNAMIC, PT_GNU_STACK, PT_LOAD,
};

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const PROGRAM_HEADERS: usize = 3;
const SYMBOL: usize = 24;
const HASH: usize = 16;

/// Machines whose shims can be written: little-endian ones of 64 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// x86-64.
    X86_64,
    /// 64-bit Arm.
    Aarch64,
}

impl Machine {
    /// This one, if shims can be written for it.
    pub fn own() -> Option<Machine> {
        match std::env::consts::ARCH {
            "x86_64" => Some(Machine::X86_64),
            "aarch64" => Some(Machine::Aarch64),
            _ => None,
        }
    }

    fn number(self) -> u16 {
        match self {
            Machine::X86_64 => EM_X86_64.0,
            Machine::Aarch64 => EM_AARCH64.0,
        }
    }

    /// The largest page that a kernel for it may have.
    fn page(self) -> u64 {
        match self {
            Machine::X86_64 => 4 << 10,
            Machine::Aarch64 => 64 << 10,
        }
    }
}

/// Writes a library of the name `soname` that asks for `needed`, in this order.
pub fn shim(machine: Machine, soname: &str, needed: &[String]) -> Vec<u8> {
    let mut strings = vec![0];
    let mut string = |text: &str| {
        let at = strings.len() as u64;
        strings.extend(text.as_bytes());
        strings.push(0);
        at
    };
    let soname = string(soname);
    let needed: Vec<u64> = needed.iter().map(|path| string(path)).collect();
    strings.resize(strings.len().next_multiple_of(8), 0);

    let symbols = HEADER + PROGRAM_HEADERS * PROGRAM_HEADER;
    let hash = symbols + SYMBOL;
    let text = hash + HASH;
    let dynamic = text + strings.len();
    let mut entries: Vec<(i64, u64)> = needed.iter().map(|at| (DT_NEEDED.0, *at)).collect();
    entries.extend([
        (DT_SONAME.0, soname),
        (DT_HASH.0, hash as u64),
        (DT_STRTAB.0, text as u64),
        (DT_SYMTAB.0, symbols as u64),
        (DT_STRSZ.0, strings.len() as u64),
        (DT_SYMENT.0, SYMBOL as u64),
        (DT_NULL.0, 0),
    ]);
    let length = entries.len() * 16;
    let size = (dynamic + length) as u64;

    // Class, byte order and version; the ABI is System V's.
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [ET_DYN.0, machine.number()] {
        file.extend(half.to_le_bytes());
    }
    file.extend(1u32.to_le_bytes());
    for word in [0, HEADER as u64, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(0u32.to_le_bytes());
    // No sections.
    for half in [HEADER as u16, PROGRAM_HEADER as u16, PROGRAM_HEADERS as u16, 64, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    // The linker writes into the dynamic section (DT_DEBUG, and addresses on some machines).
    let flags = PF_R.0 | PF_W.0;
    for (kind, at, size, align) in [
        (PT_LOAD.0, 0, size, machine.page()),
        (PT_DYNAMIC.0, dynamic as u64, length as u64, 8),
        // Without this one the stack would become executable.
        (PT_GNU_STACK.0, 0, 0, 16),
    ] {
        file.extend(kind.to_le_bytes());
        file.extend(flags.to_le_bytes());
        for word in [at, at, at, size, size, align] {
            file.extend(word.to_le_bytes());
        }
    }
    // The one symbol that every table has, and one bucket with nothing but it.
    file.resize(hash, 0);
    for word in [1u32, 1, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend(strings);
    for (tag, value) in entries {
        file.extend(tag.to_le_bytes());
        file.extend(value.to_le_bytes());
    }
    file
}

#[cfg(test)]
mod tests {
    use std::{fs, process::Command};

    use super::*;
    use crate::inject::elf::Library;

    #[test]
    fn it_says_what_it_was_told() {
        let needed = ["/opt/a/libfabric.so.1".to_owned(), "/opt/a/libmpi.so.12".to_owned()];
        for machine in [Machine::X86_64, Machine::Aarch64] {
            let file = shim(machine, "libmpich.so.12", &needed);
            let library = Library::parse(&file[..]).unwrap();
            assert_eq!(library.soname.as_deref(), Some("libmpich.so.12"), "{machine:?}");
            assert_eq!(library.needed, needed);
            assert!(library.runpath.is_none() && file.len() < 1024);
        }
    }

    #[test]
    fn binutils_finds_nothing_wrong_with_it() {
        let dir = tempfile::tempdir().unwrap();
        for (machine, name) in
            [(Machine::X86_64, "Advanced Micro Devices X86-64"), (Machine::Aarch64, "AArch64")]
        {
            let path = dir.path().join("shim");
            fs::write(&path, shim(machine, "libmpi.so.12", &["/x/libmpi.so.12".into()])).unwrap();
            // It is there where a linker is, and so where this was built.
            let Ok(said) = Command::new("readelf").args(["-W", "-a"]).arg(&path).output() else {
                return;
            };
            let (out, err) =
                (String::from_utf8_lossy(&said.stdout), String::from_utf8_lossy(&said.stderr));
            assert!(err.is_empty(), "{err}");
            for part in [name, "Shared library: [/x/libmpi.so.12]", "soname: [libmpi.so.12]"] {
                assert!(out.contains(part), "{part}:\n{out}");
            }
        }
    }

    /// The linker of this machine takes it, and finds through it what it asks for.
    #[test]
    fn the_linker_finds_libraries_through_it() {
        let Some(machine) = Machine::own() else { return };
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let Some(libc) = maps.split_whitespace().find(|word| word.contains("/libc.so.6")) else {
            return;
        };
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("libshim.so");
        fs::write(&path, shim(machine, "libshim.so", &[libc.to_owned()])).unwrap();
        let said =
            Command::new("/bin/cat").arg("/proc/self/maps").env("LD_PRELOAD", &path).output();
        let said = String::from_utf8(said.unwrap().stdout).unwrap();
        assert!(said.contains("libshim.so") && said.matches("r-xp").count() >= 2, "{said}");
        assert!(!said.contains("rwxp"), "{said}");
    }
}
