//! From a layer's tar stream to files under a directory.
//!
//! Layers are expanded side by side, each into a staging directory of its own, without a look at
//! the others. Then they are merged into one tree, in order, by rename: what a layer takes away is
//! taken away when it is merged. The tree is the one that applying the layers one after the other
//! would give, and merging costs what they overlap, not what they hold: of the first layer, one
//! rename per name in its root.
//!
//! ```text
//! stream 0 ─ expand ─► staging 0 + Expanded ─┐ merge
//! stream 1 ─ expand ─► staging 1 + Expanded ─┼─ merge ─► Tree ─ finish ─► rootfs, Summary
//! stream 2 ─ expand ─► staging 2 + Expanded ─┘ merge            modes and times of directories
//!
//! merging one layer:  1  hard links to files of lower layers are made in the staging
//!                     2  whiteouts and opaque directories are carried out on the tree
//!                     3  staging is moved into the tree, name by name; what leads through links
//!                        of lower layers comes last
//!                     4  hard links that lead through the merged tree are made
//! ```
//!
//! ```
//! use std::{fs::{self, File}, os::fd::AsFd};
//! use runtime::layer::{Limits, Tree, expand};
//!
//! # let dir = tempfile::tempdir()?;
//! # let (root, staging) = (dir.path().join("root"), dir.path().join("staging"));
//! # let stream = std::io::empty();
//! fs::create_dir(&root)?;
//! fs::create_dir(&staging)?;
//! let mut tree = Tree::new(File::open(&root)?.into());
//! let staging = File::open(&staging)?;
//! let layer = expand(stream, staging.as_fd(), &Limits::default())?;
//! tree.merge(staging, layer)?;
//! let summary = tree.finish()?;
//! # assert_eq!(summary.files, 0);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! An archive is hostile input, so:
//!
//! - A name is bytes. It is cleaned by its letters, `..` ends at the root. Its directory is found
//!   by descriptor, links followed inside the tree only; its last component is never followed
//!   (SECURITY R1, R2).
//! - The last entry of a name wins. A whiteout removes what lower layers hold, never what its own
//!   layer brings, be it before or after (image-spec, layer.md, "Whiteouts").
//! - Directories stay readable and writable by their owner until [`Tree::finish`]; so whoever is
//!   not root can move them. Then they get their own mode, even 0000: [`remove_tree`] copes.
//! - Owners are not kept: all is the caller's. Set-user-ID bits are kept; it is the directory
//!   above that must be closed to others (SECURITY R22).
//! - Devices are not made. Of extended attributes only `user.*` are set, without overlayfs' own
//!   (SECURITY R6, R7).
//! - Nothing is allocated by a size that the archive claims (SECURITY R9).
//!
//! What a layer says does not hang on the order of its entries, but for names that come twice and
//! links that it makes itself. So some layers mean something else here than to who applies entry
//! after entry; no tool writes them:
//!
//! - Whiteouts go first, the upper ones before those below them; hard links to lower files are made
//!   even before, so that they have their target although it goes.
//! - A directory that is declared is one from the start, for what comes before its entry as well: it
//!   takes the place of a lower link, and nothing goes through that.
//! - Of what is given up again, nothing remains: `d/f`, then a file `d`, leave no `f`, even if `d` is
//!   a link of a lower layer.
//! - Two names of one layer that are the same only by a link of a lower one (`lib/f` and
//!   `usr/lib/f` over `lib -> usr/lib`) have no order. Directories become one, described by the later
//!   entry; anything else is refused, never silently lost.
//! - So is an entry that lies below a link of its own layer that leads, by `..`, out of a link of a
//!   lower one: where that is, is known too late.

#![forbid(unsafe_code)]

mod expand;
mod list;
mod measure;
mod merge;
mod name;
mod remove;
mod resolve;
mod shadow;
mod sparse;
mod tar;
#[cfg(test)]
mod tests;

use std::{io, ops::AddAssign};

use nix::errno::Errno;

pub use expand::{Expanded, expand};
pub(crate) use list::{Item, list};
pub use measure::measure_tree;
pub use merge::Tree;
pub use name::Name;
pub use remove::remove_tree;

/// How much one layer may bring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive: content, headers, and what is read only to be passed over. The holes of
    /// sparse files are none.
    pub bytes: u64,
    /// Entries of all kinds, directories that are made on the way included. Each costs about a
    /// kilobyte of a tmpfs.
    pub entries: u64,
}

/// 1 TiB in ten million entries: beyond any image, and short of what a small archive can claim. Who
/// knows how much space there is, passes that.
impl Default for Limits {
    fn default() -> Limits {
        Limits { bytes: 1 << 40, entries: 10_000_000 }
    }
}

/// What was expanded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Regular files, and fifos.
    pub files: u64,
    /// Directories, declared or not.
    pub directories: u64,
    /// Symbolic links.
    pub symlinks: u64,
    /// Hard links.
    pub hard_links: u64,
    /// Bytes of file content, without holes.
    pub bytes: u64,
    /// Devices and entries of unknown types, which are not made.
    pub skipped: u64,
    /// Extended attributes that are not allowed or that the file system does not take.
    pub dropped_xattrs: u64,
}

impl Summary {
    fn entries(&self) -> u64 {
        self.files + self.directories + self.symlinks + self.hard_links + self.skipped
    }
}

impl AddAssign for Summary {
    fn add_assign(&mut self, other: Summary) {
        self.files += other.files;
        self.directories += other.directories;
        self.symlinks += other.symlinks;
        self.hard_links += other.hard_links;
        self.bytes += other.bytes;
        self.skipped += other.skipped;
        self.dropped_xattrs += other.dropped_xattrs;
    }
}

/// Why a layer cannot be expanded or merged.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream failed: network, decompression, digest.
    #[error("read layer")]
    Read(#[source] io::Error),
    /// Not a tar archive, or one that readers disagree about.
    #[error("malformed tar archive at {entry}: {problem}")]
    Malformed {
        /// The entry, or the last one before.
        entry: Name,
        /// What is wrong.
        problem: &'static str,
    },
    /// An entry that cannot be carried out.
    #[error("{entry}: {problem}")]
    Refused {
        /// The entry.
        entry: Name,
        /// Why not.
        problem: &'static str,
    },
    /// More bytes than [`Limits`] allow.
    #[error("{entry}: the uncompressed layer has more than {limit} bytes")]
    TooBig {
        /// The entry that is too much.
        entry: Name,
        /// The limit.
        limit: u64,
    },
    /// More entries than [`Limits`] allow.
    #[error("{entry}: the layer has more than {limit} entries")]
    TooMany {
        /// The entry that is too much.
        entry: Name,
        /// The limit.
        limit: u64,
    },
    /// The file system's answer.
    #[error("{op} {entry}")]
    System {
        /// What was tried.
        op: &'static str,
        /// On which entry.
        entry: Name,
        /// Its answer.
        source: io::Error,
    },
}

impl Error {
    /// Whether the file system, or the caller's quota on it, is full.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Error::System { source, .. } if crate::sys::is_full(source))
    }
}

/// Wraps a system call's answer.
fn failed<E: Into<io::Error>>(op: &'static str, entry: &[u8]) -> impl FnOnce(E) -> Error {
    let entry = Name::new(entry);
    move |source| Error::System { op, entry, source: source.into() }
}

/// What a hard link with no target is refused for.
const NO_TARGET: &str = "a hard link to a file that does not exist";

/// Words what [`resolve`] answers about an entry's directory.
fn unreachable(entry: &[u8]) -> impl FnOnce(Errno) -> Error {
    let entry = Name::new(entry);
    move |errno| {
        let problem = match errno {
            Errno::ENOTDIR => "lies below something that is not a directory",
            Errno::ELOOP => "its directory leads through too many symbolic links",
            Errno::ENAMETOOLONG => "its path is too long",
            _ => return Error::System { op: "open directory of", entry, source: errno.into() },
        };
        Error::Refused { entry, problem }
    }
}
