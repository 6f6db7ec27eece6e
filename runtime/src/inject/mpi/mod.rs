//! The host's MPI in the place of the image's, where the two are one to a program.
//!
//! An image's MPI runs anywhere, over what it knows of the network; the host's knows its fabric. MPIs
//! of one family have the same binary interface, so a program that was built with one runs with the
//! other: MPICH, Intel MPI, Cray MPICH and MVAPICH ([MPICH ABI Compatibility
//! Initiative](https://www.mpich.org/abi/)), and all that have MPI 5.0's own (`libmpi_abi.so.1`).
//!
//! ```text
//! [[mpi.stack]] of the settings ─ closure: its libraries and all that they ask for ─┐
//! the image's tree ─ image: which MPIs, where; what else its programs may load ─────┴─► decide
//!                                  shims over the image's copies, mounts, warnings ◄──────┘
//! ```
//!
//! - Which it is, is told by names that libraries go by (Debian's MPICH is `libmpich.so.12`); whether
//!   it fits, by the functions that they have. Numbers of files mean nothing across vendors.
//! - Whatever way a program finds its MPI, it finds a [shim](mod@shim) there, which leads to the host's.
//! - What the host's MPI asks for comes with it, before the image's of that name: its fabric is the
//!   reason for all this. Only of what lies among the host's system libraries, and has all in the
//!   image that it has on the host, the image's is taken, as it is newer: libstdc++, zlib.
//! - The C library is the image's: if it is too old for the host's MPI, the MPI is refused. Whoever
//!   asks for it has the host's (`glibc`) mounted over it.
//! - Whether a program's ranks find one another is another question (`wireup`).
//! - Where nobody has asked, a reason against it is said, and the image's own MPI runs.

mod closure;
mod error;
mod explain;
mod glibc;
mod image;
pub mod shim;
mod symbols;
mod wireup;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    fs::File,
    path::{Path, PathBuf},
};

use self::{
    closure::{Dependency, Linker},
    error::Lacking,
    image::{Copy, Image},
    shim::{Machine, shim},
    symbols::Symbols,
};
pub use self::{
    error::Error,
    explain::{Explanation, InImage, OnHost, Verdict},
    wireup::Unwired,
};
pub(crate) use self::{explain::explain, wireup::check as unwired};
use super::{Bind, Injection, Mask, Plain, apply::Tree};
use crate::{
    config::{Stack, Strictness},
    options::{self, Access, CLibrary, Mpi},
    report::chain,
};

/// Where libraries are mounted that lie among the host's own, inside: in their place are the image's.
const PRIVATE_DIR: &str = "/run/shifter/mpi";
/// How many functions a message names.
const NAMED: usize = 3;

/// MPIs with one binary interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// MPICH and its kin, since 3.1.
    Mpich,
    /// MPI 5.0, chapter 20.
    Standard,
    /// Open MPI, since 3.0.
    OpenMpi,
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Family::Mpich => "MPICH's ABI",
            Family::Standard => "the standard ABI",
            Family::OpenMpi => "Open MPI's ABI",
        })
    }
}

/// For which language a library is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Language {
    C,
    Cxx,
    Fortran,
    /// The module `mpi` (`use mpi`).
    FortranMpi,
    /// The module `mpi_f08`.
    FortranF08,
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Language::C => "C",
            Language::Cxx => "C++",
            Language::Fortran => "Fortran",
            Language::FortranMpi => "Fortran (use mpi)",
            Language::FortranF08 => "Fortran (use mpi_f08)",
        }
    }
}

/// A name that programs ask for an MPI by.
#[derive(Debug)]
struct Name {
    soname: &'static str,
    family: Family,
    language: Language,
}

impl Name {
    fn is_for_c(&self) -> bool {
        self.language == Language::C
    }
}

const fn name(soname: &'static str, family: Family, language: Language) -> Name {
    Name { soname, family, language }
}

/// Debian has names of its own for MPICH, since its `libmpi.so` is Open MPI.
static NAMES: [Name; 14] = [
    name("libmpi.so.12", Family::Mpich, Language::C),
    name("libmpich.so.12", Family::Mpich, Language::C),
    name("libmpicxx.so.12", Family::Mpich, Language::Cxx),
    name("libmpichcxx.so.12", Family::Mpich, Language::Cxx),
    name("libmpifort.so.12", Family::Mpich, Language::Fortran),
    name("libmpichfort.so.12", Family::Mpich, Language::Fortran),
    name("libmpi_abi.so.1", Family::Standard, Language::C),
    name("libmpifort_abi.so.1", Family::Standard, Language::Fortran),
    name("libmpi.so.40", Family::OpenMpi, Language::C),
    name("libmpi_cxx.so.40", Family::OpenMpi, Language::Cxx),
    name("libmpi_mpifh.so.40", Family::OpenMpi, Language::Fortran),
    name("libmpi_usempi_ignore_tkr.so.40", Family::OpenMpi, Language::FortranMpi),
    // Of compilers that do not know how to ignore types.
    name("libmpi_usempi.so.40", Family::OpenMpi, Language::FortranMpi),
    name("libmpi_usempif08.so.40", Family::OpenMpi, Language::FortranF08),
];

/// What there is to know of an image besides its tree.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// What was asked for.
    pub mpi: &'a Mpi,
    /// The image's `LD_LIBRARY_PATH`.
    pub library_path: &'a str,
}

/// Decides which of the site's MPIs takes the place of the image's, and how.
pub(crate) fn find(
    wanted: Wanted<'_>,
    config: &crate::config::Mpi,
    tree: &Tree<'_>,
) -> Result<Injection, Error> {
    let stack = match &wanted.mpi.stack {
        options::Stack::Off => return Ok(Injection::default()),
        options::Stack::Auto if config.stacks.is_empty() => return Ok(Injection::default()),
        options::Stack::Auto => None,
        options::Stack::Named(name) => Some(named(name, config)?),
    };
    let image = Image::new(tree, wanted.library_path);
    let copies = image.copies(&config.search);
    let c_library = wanted.mpi.c_library;
    match stack {
        Some(stack) => decide(stack, c_library, &image, &copies),
        None => Ok(automatic(&config.stacks, c_library, &image, &copies)),
    }
}

fn named<'c>(name: &str, config: &'c crate::config::Mpi) -> Result<&'c Stack, Error> {
    let known = || config.stacks.iter().map(|stack| stack.name.clone()).collect();
    let found = config.stacks.iter().find(|stack| stack.name == name);
    found.ok_or_else(|| Error::UnknownStack { name: name.to_owned(), known: known() })
}

/// The first stack of the image's family that fits; what stands against those before it is said.
fn automatic(
    stacks: &[Stack],
    c_library: CLibrary,
    image: &Image<'_>,
    copies: &[Copy],
) -> Injection {
    let mut injection = Injection::default();
    for stack in stacks {
        match decide(stack, c_library, image, copies) {
            Ok(mut found) => {
                found.warnings.splice(..0, injection.warnings);
                return found;
            }
            // A program without MPI is no reason to say anything.
            Err(Error::NoneInImage { .. }) => return injection,
            Err(error @ Error::OtherFamily { .. }) => injection.told.push(chain(&error)),
            Err(error) => {
                injection.warnings.push(format!("{}; the image's own runs", chain(&error)))
            }
        }
    }
    injection
}

fn decide(
    stack: &Stack,
    c_library: CLibrary,
    image: &Image<'_>,
    copies: &[Copy],
) -> Result<Injection, Error> {
    let named = || stack.name.clone();
    let machine = Machine::own().ok_or_else(|| Error::Machine { stack: named() })?;
    let mut for_c = copies.iter().filter(|copy| copy.name.language == Language::C);
    let first = for_c.next().ok_or_else(|| Error::NoneInImage { stack: named() })?;
    let closure = Linker::of_host().closure(&stack.name, &stack.libs)?;
    let front_ends = front_ends(stack, &closure)?;
    let families: BTreeSet<Family> = front_ends.iter().map(|(name, _)| name.family).collect();
    let flags = front_ends.first().map(|(_, own)| own.library.flags).unwrap_or_default();
    let fits = |copy: &&Copy| families.contains(&copy.name.family) && copy.flags == flags;
    let replaced: Vec<&Copy> = copies.iter().filter(fits).collect();
    if !replaced.iter().any(|copy| copy.name.language == Language::C) {
        let own = *families.first().unwrap_or(&Family::Mpich);
        let (image, path) = (first.name.family, first.path.clone());
        return Err(Error::OtherFamily { stack: named(), own, image, path });
    }

    let mut decision = Decision { stack, image, injection: Injection::default() };
    let used = decision.dependencies(&closure);
    match glibc::check(&stack.name, image, &used) {
        Err(Error::Glibc { .. }) if c_library == CLibrary::Host => {
            let brought = glibc::bring(&stack.name, image, flags)?;
            decision.injection.add(brought);
        }
        checked => checked?,
    }
    decision.functions(&front_ends, &replaced)?;
    let places = decision.place(&used);
    for copy in replaced {
        decision.replace(copy, machine, &front_ends, &used, &places);
    }
    let env = stack.env.iter().map(|(name, value)| (name.clone(), value.clone()));
    decision.injection.edits.env.extend(env);
    Ok(decision.injection)
}

/// The libraries of a stack that programs ask for, with what they are.
fn front_ends<'c>(
    stack: &Stack,
    closure: &'c [Dependency],
) -> Result<Vec<(&'static Name, &'c Dependency)>, Error> {
    let mut found = Vec::new();
    for path in &stack.libs {
        let Some(own) = closure.iter().find(|own| own.path == *path) else { continue };
        // Cray's libmpi.so.12 calls itself libmpich_gnu_123.so.12.
        let file = path.file_name().unwrap_or_default();
        let name = NAMES.iter().find(|name| name.soname == own.name || file == name.soname);
        found.extend(name.map(|name| (name, own)));
    }
    let first = || stack.libs.first().cloned().unwrap_or_default();
    match found.is_empty() {
        true => Err(Error::NoFamily { stack: stack.name.clone(), path: first() }),
        false => Ok(found),
    }
}

/// What is found out on the way to it.
struct Decision<'a> {
    stack: &'a Stack,
    image: &'a Image<'a>,
    injection: Injection,
}

impl Decision<'_> {
    fn stack(&self) -> String {
        self.stack.name.clone()
    }

    /// Compares what the image's MPIs have with what the host's has. Of several of the image's, the
    /// first is what its linker finds.
    fn functions(
        &mut self,
        front_ends: &[(&Name, &Dependency)],
        replaced: &[&Copy],
    ) -> Result<(), Error> {
        let c = Language::C;
        let host = front_ends.iter().find(|(name, _)| name.language == c);
        let Some(host) = host.and_then(|(_, own)| read(own)) else { return Ok(()) };
        let has: BTreeSet<&str> = host.mpi().collect();
        let mut copies = replaced.iter().filter(|copy| copy.name.language == c);
        let read = |copy: &&&Copy| Some((copy.path.clone(), self.image.symbols(&copy.path)?));
        let Some((path, own)) = copies.find_map(|copy| read(&copy)) else { return Ok(()) };

        let all: Vec<&str> = own.mpi().collect();
        let missing: Vec<&str> = all.iter().copied().filter(|name| !has.contains(name)).collect();
        if !missing.is_empty() {
            let some = some(&missing);
            let (missing, total) = (missing.len(), all.len());
            match self.stack.check {
                Strictness::Warn => {
                    let name = &self.stack.name;
                    let lacking = Lacking { path: &path, missing, total, some: &some };
                    self.injection.warnings.push(format!(
                        "use the host's MPI {name:?}: {lacking}; a program that calls one of them \
                         ends there: --mpi=off"
                    ));
                }
                Strictness::Strict => {
                    return Err(Error::Functions {
                        stack: self.stack(),
                        path,
                        missing,
                        total,
                        some,
                    });
                }
                Strictness::Ignore => {}
            }
            // Nor has it then what the image's other libraries need.
            return Ok(());
        }
        // The image's Fortran library stays where the host has none. It may ask for what only its
        // own C library has.
        for copy in replaced.iter().filter(|copy| counterpart(copy, front_ends).is_none()) {
            let (name, path) = (&self.stack.name, Plain(&copy.path));
            let stays = format!("it has nothing like the image's {path}, which stays");
            self.injection.told.push(format!("MPI {name:?}: {stays}"));
            let Some(symbols) = self.image.symbols(&copy.path) else { continue };
            let needs = symbols.needs.iter().filter(|need| own.provides.contains(need));
            let lacks = needs.filter(|need| !host.provides.contains(need));
            let lacks: Vec<&str> = lacks.map(|(name, _)| name.as_str()).collect();
            if copy.name.language == Language::Fortran && !lacks.is_empty() {
                self.injection.warnings.push(format!(
                    "use the host's MPI {name:?}: {stays} and needs {} of its own MPI; if a Fortran \
                     program does not start, use --mpi=off",
                    some(&lacks)
                ));
            }
        }
        Ok(())
    }

    /// Which of the host's libraries are used: all but those of the system that the image has newer.
    fn dependencies<'c>(&self, closure: &'c [Dependency]) -> Vec<&'c Dependency> {
        let is_newer_inside = |own: &Dependency| {
            let is_systems = own.path.parent().is_some_and(|dir| self.image.has(dir));
            if !is_systems || self.stack.libs.contains(&own.path) {
                return false;
            }
            let inside = self.image.find(&own.name, own.library.flags);
            let inside = inside.and_then(|path| self.image.symbols(&path));
            let both = inside.zip(read(own));
            both.is_some_and(|(inside, own)| inside.provides.is_superset(&own.provides))
        };
        closure.iter().filter(|own| !is_newer_inside(own)).collect()
    }

    /// Mounts what is used, and says where each is inside.
    fn place(&mut self, used: &[&Dependency]) -> BTreeMap<PathBuf, PathBuf> {
        let bind = |source: &Path, target: &Path| Bind {
            source: source.into(),
            target: target.into(),
            access: Access::ReadOnly,
        };
        let mut mounts: Vec<Bind> = self.stack.mounts.iter().map(|dir| bind(dir, dir)).collect();
        let mut places = BTreeMap::new();
        for own in used {
            let is_there = |mounts: &[Bind]| mounts.iter().any(|m| own.path.starts_with(&m.target));
            // A prefix of the MPI's own is mounted as it is, with what lies beside its libraries.
            let dir = own.path.parent().filter(|dir| !self.image.has(dir));
            if let Some(dir) = dir.filter(|_| !is_there(&mounts)) {
                mounts.retain(|mount| !mount.target.starts_with(dir));
                mounts.push(bind(dir, dir));
            }
            let place = match is_there(&mounts) {
                true => own.path.clone(),
                false => {
                    let place = Path::new(PRIVATE_DIR).join(&self.stack.name).join(&own.name);
                    mounts.push(bind(&own.path, &place));
                    place
                }
            };
            places.insert(own.path.clone(), place);
        }
        self.injection.edits.mounts.extend(mounts);
        places
    }

    /// Puts a shim in the place of one of the image's libraries.
    fn replace(
        &mut self,
        copy: &Copy,
        machine: Machine,
        front_ends: &[(&Name, &Dependency)],
        used: &[&Dependency],
        places: &BTreeMap<PathBuf, PathBuf>,
    ) {
        let stack = &self.stack.name;
        let Some(own) = counterpart(copy, front_ends) else { return };
        // What comes after it does not ask for it, nor for what it asks for.
        let end = used.iter().position(|other| other.path == own.path).map_or(0, |at| at + 1);
        let needed = used[..end].iter().filter_map(|own| places.get(&own.path));
        let needed: Vec<String> = needed.map(|path| path.to_string_lossy().into_owned()).collect();
        let content = shim(machine, copy.name.soname, &needed);
        self.injection.told.push(format!(
            "MPI {stack:?}: {} in the place of the image's {}",
            Plain(&own.path),
            Plain(&copy.path)
        ));
        self.injection.edits.masks.push(Mask { path: copy.path.clone(), content });
    }
}

/// The host's library for an image's.
fn counterpart<'c>(copy: &Copy, front_ends: &[(&Name, &'c Dependency)]) -> Option<&'c Dependency> {
    let kind = |name: &Name| (name.family, name.language);
    let found = front_ends.iter().find(|(name, _)| kind(name) == kind(copy.name));
    found.map(|(_, own)| *own)
}

fn read(own: &Dependency) -> Option<Symbols> {
    Symbols::read(File::open(&own.path).ok()?)
}

/// The first of many names.
fn some(names: &[&str]) -> String {
    let first = names.iter().take(NAMED).copied().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{first}, …") } else { first }
}
