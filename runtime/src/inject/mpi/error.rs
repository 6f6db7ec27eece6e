//! Why the host's MPI cannot take the place of an image's.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::Family;
use crate::inject::Plain;

/// Why the host's MPI cannot take the place of the image's.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The settings know no such stack.
    #[error("use the host's MPI {name:?}: not known; {}", Stacks(known))]
    UnknownStack {
        /// Which.
        name: String,
        /// Those that are known.
        known: Vec<String>,
    },
    /// A stack's library is not there, or is none.
    #[error("read MPI library {}: it is missing, or no library of this machine", Plain(path))]
    NoLibrary {
        /// On the host.
        path: PathBuf,
    },
    /// A stack's library has none of the names of MPIs.
    #[error("use the host's MPI {stack:?}: {} is of no ABI that is known", Plain(path))]
    NoFamily {
        /// Which stack.
        stack: String,
        /// On the host.
        path: PathBuf,
    },
    /// What a stack's library asks for is not on this node.
    #[error("use the host's MPI {stack:?}: {name}, which {} needs, is not on this node", Plain(by))]
    MissingLibrary {
        /// Which stack.
        stack: String,
        /// The library.
        name: String,
        /// Who needs it.
        by: PathBuf,
    },
    /// The image has no MPI.
    #[error("use the host's MPI {stack:?}: no MPI library is found in the image")]
    NoneInImage {
        /// Which stack.
        stack: String,
    },
    /// The image has an MPI of another family.
    #[error(
        "use the host's MPI {stack:?}: it has {own}, and the image's {} has {image}",
        Plain(path)
    )]
    OtherFamily {
        /// Which stack.
        stack: String,
        /// Its family.
        own: Family,
        /// The image's.
        image: Family,
        /// In the image.
        path: PathBuf,
    },
    /// The host's MPI lacks functions, and the settings are strict.
    #[error("use the host's MPI {stack:?}: {}", Lacking { path, missing: *missing, total: *total, some })]
    Functions {
        /// Which stack.
        stack: String,
        /// In the image.
        path: PathBuf,
        /// How many functions of the image's MPI the host's has not.
        missing: usize,
        /// Of how many.
        total: usize,
        /// Some of them.
        some: String,
    },
    /// The image's C library is older than that which the host's MPI was built for.
    #[error(
        "use the host's MPI {stack:?}: {} needs {version} of {library}, which the image's C library is too old for",
        Plain(by)
    )]
    Glibc {
        /// Which stack.
        stack: String,
        /// Who needs it.
        by: PathBuf,
        /// A part of the C library.
        library: String,
        /// `GLIBC_2.34`
        version: String,
    },
    /// The image's C library is another one, or it has none.
    #[error("use the host's MPI {stack:?}: {} needs glibc, and the image has none", Plain(by))]
    OtherLibc {
        /// Which stack.
        stack: String,
        /// Who needs it.
        by: PathBuf,
    },
    /// The host's C library cannot take the place of the image's.
    #[error("use the host's MPI {stack:?}: its C library cannot replace the image's: {problem}")]
    NoGlibc {
        /// Which stack.
        stack: String,
        /// What stands against it.
        problem: String,
    },
    /// No shim can be written for this machine.
    #[error(
        "use the host's MPI {stack:?}: this is not known how to be done on {}",
        std::env::consts::ARCH
    )]
    Machine {
        /// Which stack.
        stack: String,
    },
}

struct Stacks<'a>(&'a [String]);

impl fmt::Display for Stacks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            [] => f.write_str("the settings describe none ([[mpi.stack]])"),
            known => write!(f, "there are {}", known.join(", ")),
        }
    }
}

/// Functions that the host's MPI has not.
pub(super) struct Lacking<'a> {
    pub(super) path: &'a Path,
    pub(super) missing: usize,
    pub(super) total: usize,
    pub(super) some: &'a str,
}

impl fmt::Display for Lacking<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lacking { path, missing, total, some } = self;
        write!(f, "it lacks {missing} of the {total} functions of the image's {}", Plain(path))?;
        write!(f, " ({some})")
    }
}
