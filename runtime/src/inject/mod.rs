//! What a container gets of its host beyond a tree: GPUs, fabric, and the libraries that go with them.
//!
//! Whatever the vendor, and whoever describes it, comes out as one value, [`Edits`]; whoever puts it
//! into a container does not ask where it comes from.
//!
//! ```text
//! CDI files ──────── cdi ─┐
//! the driver's tree ─ gpu ┴─► Edits ─ apply, with the image's tree ─► mounts of the Plan
//!                               ▲                    │
//!      elf: names of libraries ─┴─ ldcache: where the image's linker looks ─┘
//! ```
//!
//! - What is found is read as data, on the host by its paths, in the image beneath its root. Nothing
//!   of either is run: what other runtimes' hooks do is done here (SECURITY R18, R20; CVE-2025-23266
//!   was a hook that ran with the image's variables).
//! - The devices are those of the step: all that the node has are mounted, and the step's device
//!   cgroup says which of them open. `CUDA_VISIBLE_DEVICES` and its kin stay as Slurm has set them,
//!   for each task; the numbers in them are those that the driver counts, inside as outside.
//! - Devices at their own place need no mount: a container has the host's `/dev`.
//! - Where nobody has asked, nothing is an error: what is missing is left out, and said.

#![forbid(unsafe_code)]

pub(crate) mod access;
mod apply;
pub mod cdi;
pub mod elf;
pub mod gpu;
pub mod ldcache;
pub mod mpi;

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use crate::{
    options::{Access, CdiName, Tmpfs},
    report::printable,
};

pub(crate) use self::apply::{Applied, Tree, apply};
pub use self::gpu::find;

/// What is done to a container for the sake of some devices.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Edits {
    /// Files and directories of the host.
    pub mounts: Vec<Bind>,
    /// Memory, empty at first.
    pub tmpfs: Vec<Tmpfs>,
    /// Devices of the host.
    pub devices: Vec<Device>,
    /// Variables; of one name, the last counts.
    pub env: Vec<(String, String)>,
    /// Links that are made inside.
    pub symlinks: Vec<Link>,
    /// Directories inside whose mounted libraries the image's linker is to find, before its own.
    pub ld_dirs: Vec<PathBuf>,
    /// Files that are shown with another content.
    pub masks: Vec<Mask>,
    /// The driver's version, where a newer libcuda of the image's goes before the driver's if it can.
    pub cuda_compat: Option<String>,
}

/// A file or directory of the host, and what is mounted in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind {
    /// On the host.
    pub source: PathBuf,
    /// Inside.
    pub target: PathBuf,
    /// Whether it can be written to.
    pub access: Access,
}

/// A device of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// On the host.
    pub source: PathBuf,
    /// Inside.
    pub target: PathBuf,
}

/// A symbolic link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Where it is, inside.
    pub path: PathBuf,
    /// What it says.
    pub target: PathBuf,
}

/// A file of the host's with another content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mask {
    /// Where it is, inside.
    pub path: PathBuf,
    /// What is read there.
    pub content: Vec<u8>,
}

impl Edits {
    /// Adds others: where two mount at one place, the later does.
    pub fn add(&mut self, more: Edits) {
        let mounted = |target: &Path| {
            more.mounts.iter().any(|new| new.target == target)
                || more.tmpfs.iter().any(|new| Path::new(&new.target) == target)
        };
        self.mounts.retain(|old| !mounted(&old.target));
        self.tmpfs.retain(|old| !mounted(Path::new(&old.target)));
        self.devices.retain(|old| !more.devices.iter().any(|new| new.target == old.target));
        self.symlinks.retain(|old| !more.symlinks.iter().any(|new| new.path == old.path));
        self.masks.retain(|old| !more.masks.iter().any(|new| new.path == old.path));
        self.mounts.extend(more.mounts);
        self.tmpfs.extend(more.tmpfs);
        self.devices.extend(more.devices);
        self.symlinks.extend(more.symlinks);
        self.masks.extend(more.masks);
        self.env.extend(more.env);
        for dir in more.ld_dirs {
            if !self.ld_dirs.contains(&dir) {
                self.ld_dirs.push(dir);
            }
        }
        self.cuda_compat = more.cuda_compat.or(self.cuda_compat.take());
    }
}

/// What was found for a container, and what there is to say about it.
#[derive(Debug, Clone, Default)]
pub struct Injection {
    /// What is done.
    pub edits: Edits,
    /// Which devices these are and who describes them, a line each.
    pub told: Vec<String>,
    /// What is missing where nobody had asked for it.
    pub warnings: Vec<String>,
}

impl Injection {
    /// Adds what was found besides.
    pub(crate) fn add(&mut self, more: Injection) {
        self.edits.add(more.edits);
        self.told.extend(more.told);
        self.warnings.extend(more.warnings);
    }
}

/// Devices that somebody describes: what they need, and what stands against it.
#[derive(Debug, Default)]
pub(crate) struct Found {
    edits: Edits,
    /// Those devices that one job has and another has not; on the host.
    gates: Vec<PathBuf>,
    /// What is wrong with the description.
    problems: Vec<Error>,
    told: Vec<String>,
}

/// Why devices cannot be had.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A CDI file is not what it should be.
    #[error("read CDI file {}{}: {problem}", Plain(path), Line(*line))]
    File {
        /// Which.
        path: PathBuf,
        /// Where in it, if that is known.
        line: Option<u64>,
        /// What is wrong.
        problem: String,
    },
    /// A CDI file, or a directory of some, cannot be read.
    #[error("read CDI file {}", Plain(path))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Nobody knows a device of this name.
    #[error("find device {name}: {}{}", Known(known, dirs), Broken(broken))]
    Unknown {
        /// Which.
        name: CdiName,
        /// Those of its kind that are known.
        known: Vec<String>,
        /// Where it was searched for.
        dirs: Vec<PathBuf>,
        /// The first file that could not be read: it may be there.
        broken: Option<String>,
    },
    /// Two files of one directory describe the same device.
    #[error("find device {name}: both {} and {} describe it", Plain(one), Plain(other))]
    Conflict {
        /// Which.
        name: CdiName,
        /// A file.
        one: PathBuf,
        /// Another.
        other: PathBuf,
    },
    /// What a description names is not on this node.
    #[error("mount {} (named in {}){}", Plain(path), Plain(by), More(*more))]
    Missing {
        /// On the host.
        path: PathBuf,
        /// The file that names it.
        by: PathBuf,
        /// How many others are missing as well.
        more: usize,
        /// Why.
        source: io::Error,
    },
    /// A device's node is none.
    #[error("use {} (named in {}): it is not a device", Plain(path), Plain(by))]
    NoDevice {
        /// On the host.
        path: PathBuf,
        /// The file that names it.
        by: PathBuf,
    },
    /// A program that is to be run for a device.
    #[error("use CDI file {}: its hook {hook:?} is not supported", Plain(by))]
    Hook {
        /// As the settings would name it.
        hook: String,
        /// The file that names it.
        by: PathBuf,
    },
    /// Something else that a file may ask for.
    #[error("use CDI file {}: {what} cannot be had without privileges", Plain(by))]
    Unsupported {
        /// What.
        what: String,
        /// The file that asks for it.
        by: PathBuf,
    },
    /// There is nothing to give.
    #[error(
        "give the container GPUs: this node has none that is known: no device of NVIDIA or AMD, and no CDI file in {}",
        List(dirs)
    )]
    NoGpu {
        /// Where it was searched for files.
        dirs: Vec<PathBuf>,
    },
    /// NVIDIA's devices are there, but no library of its driver.
    #[error(
        "give the container GPUs: NVIDIA's devices are here, but no libcuda.so in {}",
        Plain(root)
    )]
    NoDriver {
        /// The tree in which it was searched for.
        root: PathBuf,
    },
    /// There are some, for others.
    #[error(
        "give the container GPUs: none is allocated to this job: the device cgroup denies {}",
        Several(devices)
    )]
    NotGranted {
        /// Which.
        devices: Vec<PathBuf>,
    },
    /// There are some, and their modes speak against the caller.
    #[error("give the container GPUs: {} may not be opened", Several(devices))]
    Denied {
        /// Which.
        devices: Vec<PathBuf>,
        /// Why.
        source: io::Error,
    },
    /// A device on a file system without devices.
    #[error("use device {}: it is on a file system that is mounted with nodev", Plain(path))]
    NoDev {
        /// Which.
        path: PathBuf,
    },
}

/// A path or a name as a word: escaped if it is more than that (SECURITY R17).
struct Plain<'a>(&'a Path);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.to_str() {
            Some(text) if !text.contains([' ', '"', '\\']) => f.write_str(&printable(text)),
            _ => write!(f, "{:?}", self.0),
        }
    }
}

struct Line(Option<u64>);

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.map_or(Ok(()), |line| write!(f, ", line {line}"))
    }
}

struct List<'a>(&'a [PathBuf]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<_> = self.0.iter().map(|path| Plain(path).to_string()).collect();
        f.write_str(&all.join(", "))
    }
}

/// The first, and how many more.
struct Several<'a>(&'a [PathBuf]);

impl fmt::Display for Several<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        List(&self.0[..self.0.len().min(1)]).fmt(f)?;
        match self.0.len() {
            0 | 1 => Ok(()),
            more => write!(f, " and {} more", more - 1),
        }
    }
}

struct More(usize);

impl fmt::Display for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

struct Known<'a>(&'a [String], &'a [PathBuf]);

impl fmt::Display for Known<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => write!(f, "no file in {} describes one of its kind", List(self.1)),
            known => write!(f, "not known; of its kind, there are {}", known.join(", ")),
        }
    }
}

struct Broken<'a>(&'a Option<String>);

impl fmt::Display for Broken<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().map_or(Ok(()), |broken| write!(f, " ({broken})"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_two_at_one_place_the_later_counts() {
        let bind = |source: &str, target: &str| Bind {
            source: source.into(),
            target: target.into(),
            access: Access::ReadOnly,
        };
        let mut edits = Edits {
            mounts: vec![bind("/a", "/x"), bind("/b", "/y")],
            ld_dirs: vec!["/l".into()],
            cuda_compat: Some("535".into()),
            ..Edits::default()
        };
        edits.add(Edits {
            mounts: vec![bind("/c", "/x")],
            ld_dirs: vec!["/l".into(), "/m".into()],
            ..Edits::default()
        });
        assert_eq!(edits.mounts, [bind("/b", "/y"), bind("/c", "/x")]);
        assert_eq!(edits.ld_dirs, [Path::new("/l"), Path::new("/m")]);
        assert_eq!(edits.cuda_compat.as_deref(), Some("535"));
    }
}
