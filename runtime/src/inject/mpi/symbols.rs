//! What a library has for others, and what it asks of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
};

use object::{
    Endianness, ReadCache, ReadRef,
    elf::{FileHeader64, SHN_UNDEF, SHT_DYNSYM, STB_LOCAL},
    read::elf::{FileHeader as _, Sym as _},
};

/// A name, and the version of it that is meant where names have versions.
pub(super) type Symbol = (String, Option<String>);

/// The dynamic symbols of a library.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// Those that it has.
    pub(super) provides: BTreeSet<Symbol>,
    /// Those that others must have.
    pub(super) needs: BTreeSet<Symbol>,
    /// Versions that it knows: `GLIBC_2.34`.
    pub(super) versions: BTreeSet<String>,
    /// Versions that it asks of a library: of `libc.so.6`, `GLIBC_2.34`.
    pub(super) version_needs: BTreeMap<String, BTreeSet<String>>,
}

impl Symbols {
    /// Reads those of a file; `None` if it is no library of 64 bits, or has no section headers.
    pub(super) fn read(file: File) -> Option<Symbols> {
        Symbols::parse(&ReadCache::new(file))
    }

    fn parse<'d, R: ReadRef<'d>>(data: R) -> Option<Symbols> {
        let header = FileHeader64::<Endianness>::parse(data).ok()?;
        let endian = header.endian().ok()?;
        let sections = header.sections(endian, data).ok()?;
        let table = sections.symbols(endian, data, SHT_DYNSYM).ok()?;
        let versions = sections.versions(endian, data).ok()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut all = Symbols::default();
        for (index, symbol) in table.enumerate() {
            let Ok(name) = table.symbol_name(endian, symbol) else { continue };
            if name.is_empty() || symbol.st_bind() == STB_LOCAL {
                continue;
            }
            let version = versions.as_ref().and_then(|table| {
                let index = table.version_index(endian, index).index();
                table.version(index).ok()?.map(|version| text(version.name()))
            });
            let is_needed = symbol.st_shndx(endian) == SHN_UNDEF;
            let list = if is_needed { &mut all.needs } else { &mut all.provides };
            list.insert((text(name), version));
        }
        if let Some((mut defs, strings)) =
            sections.gnu_verdef(endian, data).ok()?.and_then(|(d, s)| {
                let strings = sections.strings(endian, data, s).ok()?;
                Some((d, strings))
            })
        {
            while let Ok(Some((_, mut names))) = defs.next() {
                if let Ok(Some(name)) = names.next() {
                    all.versions.extend(name.name(endian, strings).ok().map(text));
                }
            }
        }
        if let Some((mut needs, strings)) =
            sections.gnu_verneed(endian, data).ok()?.and_then(|(n, s)| {
                let strings = sections.strings(endian, data, s).ok()?;
                Some((n, strings))
            })
        {
            while let Ok(Some((need, mut names))) = needs.next() {
                let Ok(file) = need.file(endian, strings) else { continue };
                let wanted = all.version_needs.entry(text(file)).or_default();
                while let Ok(Some(name)) = names.next() {
                    wanted.extend(name.name(endian, strings).ok().map(text));
                }
            }
        }
        Some(all)
    }

    /// The functions of MPI that it has, their profiling names left out.
    pub(super) fn mpi(&self) -> impl Iterator<Item = &str> {
        let names = self.provides.iter().map(|(name, _)| name.as_str());
        names.filter(|name| name.starts_with("MPI_"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_library_of_this_machine_is_read() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let Some(libc) = maps.split_whitespace().find(|word| word.contains("/libc.so.6")) else {
            return;
        };
        let symbols = Symbols::read(File::open(libc).unwrap()).unwrap();
        assert!(symbols.versions.contains("GLIBC_2.17"), "{:?}", symbols.versions);
        let has = |name: &str| symbols.provides.iter().any(|(other, _)| other == name);
        assert!(has("printf") && has("open") && !has("MPI_Init"));
        let own = Symbols::read(File::open("/proc/self/exe").unwrap()).unwrap();
        assert!(own.version_needs["libc.so.6"].iter().all(|version| version.starts_with("GLIBC_")));
        assert!(own.needs.iter().any(|(name, version)| name == "write" && version.is_some()));
    }
}
