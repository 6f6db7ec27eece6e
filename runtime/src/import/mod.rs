//! Images that come from a file: into the user's store under a name, as a pull would bring them, or
//! onto this node, to be run without one ([`ensure()`]).
//!
//! ```text
//! archive of docker save, podman save, skopeo  ─┐ documents, and where in the file each layer is
//! OCI archive, OCI layout                      ─┤
//!                                               ├─► pull: sha256 ─► inflate ─► tar ─► files
//! tar archive of a root file system            ─┤                └─► blob in the store
//! directory, squashfs ─► tar ─► gzip ──────────┘
//!                          documents made up
//! ```
//!
//! What a file is, is told by its content. Layers go into the store as they are where OCI knows how
//! they are packed; only bzip2 and xz are packed anew. A name in an archive is looked up and never
//! becomes a path. Nothing is visible before all of it is verified; what is stopped leaves nothing.

#![forbid(unsafe_code)]

mod archive;
mod docker;
mod ensure;
mod input;
mod layout;
mod made;
mod pack;
mod squashfs;
mod tree;

use std::{
    io,
    path::{Path, PathBuf},
};

pub use self::ensure::ensure;
pub(crate) use self::ensure::find;
use self::{input::Input, made::Made, pack::Workshop};
use crate::{
    config::Config,
    digest::Digest,
    layer,
    oci::{self, Platform, RunConfig},
    pull::{self, Event, Local, Pulled, To},
    reference::Reference,
    source::{self, Foreign, Kind},
    store::{self, Store},
};

/// How an image is to be imported.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where it goes.
    pub to: To,
    /// Which of several, where they are for several machines.
    pub platform: Platform,
    /// How to run a root file system, of which nothing says that.
    pub run: RunConfig,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not there, or neither an image nor a root file system.
    #[error(transparent)]
    Source(#[from] source::Error),
    /// Settings for what has its own.
    #[error("{file}: {what} says itself how it is run")]
    HasConfig {
        /// The file.
        file: String,
        /// What it is.
        what: &'static str,
    },
    /// More than one image, and no word about which.
    #[error("{file}: it holds {} images: {}", names.len(), listed(names))]
    Several {
        /// The file.
        file: String,
        /// Their names.
        names: Vec<String>,
    },
    /// No image of the name that was given.
    #[error("{file}: no image {name:?} in it; it has {}", listed(names))]
    NoSuchName {
        /// The file.
        file: String,
        /// The name.
        name: String,
        /// The names that there are.
        names: Vec<String>,
    },
    /// Something that the image's documents name is not there.
    #[error("{file}: {what} is missing")]
    Missing {
        /// The file.
        file: String,
        /// What is not in it.
        what: String,
    },
    /// Something in it is not what it should be.
    #[error("{file}: {what}: {problem}")]
    Damaged {
        /// The file.
        file: String,
        /// What in it.
        what: String,
        /// What is wrong.
        problem: String,
    },
    /// No archive, or one that readers disagree about.
    #[error("{file}")]
    Archive {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: layer::Error,
    },
    /// It does not decompress.
    #[error("decompress {file}")]
    Inflate {
        /// The file.
        file: String,
        /// The decompressor's account.
        source: io::Error,
    },
    /// A document of the image's.
    #[error("{file}")]
    Document {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: oci::Error,
    },
    /// The system's answer.
    #[error("{op} {}", path.display())]
    System {
        /// What was tried.
        op: &'static str,
        /// On what.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
    /// Another program that is needed and not there.
    #[error("run {program}")]
    NoProgram {
        /// Its name.
        program: &'static str,
        /// Debian's package of it.
        package: &'static str,
        /// Why it does not run.
        source: io::Error,
    },
    /// Another program that failed.
    #[error("{program} {file}: {said}")]
    Program {
        /// Its name.
        program: &'static str,
        /// What it was given.
        file: String,
        /// The first line that it said.
        said: String,
    },
    /// The same trouble that a pull may have.
    #[error(transparent)]
    Pull(#[from] pull::Error),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Error {
        Error::Pull(error.into())
    }
}

impl Error {
    /// There is nothing in it.
    fn empty(file: &str) -> Error {
        Error::Source(source::Error::Foreign { file: file.to_owned(), what: Foreign::Empty })
    }
}

fn listed(names: &[String]) -> String {
    const SHOWN: usize = 12;
    let mut text = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
    if names.is_empty() {
        text.push_str("none with a name");
    } else if names.len() > SHOWN {
        text += &format!(" and {} more", names.len() - SHOWN);
    }
    text
}

/// Imports an image: `from` is a file or directory, `FILE:NAME` for one of several images in it, or
/// `-` for the standard input.
pub fn import(
    from: &Path,
    reference: &Reference,
    options: &Options,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Pulled, Error> {
    let input = Input::find(from)?;
    if options.to != To::Node {
        // A store that cannot be is told of before anything long.
        Store::create(&config.store)?;
    }
    let workshop = Workshop::open(&input, options, config, tell);
    let local = open(&input, None, &workshop)?;
    let (tell, _kept) = workshop.done();
    Ok(pull::bring(local, reference, options.to, config, tell)?)
}

/// Finds out what it is, and what there is to bring. An archive has to be what is `wanted`.
fn open(
    input: &Input,
    wanted: Option<source::Form>,
    workshop: &Workshop<'_>,
) -> Result<Local, Error> {
    let input = workshop.spool(input)?;
    let made = match source::of(&input.path)? {
        Kind::Layout => {
            workshop.refuse_settings("an OCI image layout")?;
            return layout::open(&input, &archive::Place::Dir(input.path.clone()), workshop);
        }
        Kind::Tar(packing) => {
            let scan = archive::scan(&input.whole()?, packing, workshop)?;
            let form = scan.form(&input)?;
            if let Some(wanted) = wanted.filter(|wanted| form != Some(*wanted)) {
                return Err(wanted.refuse(&input.path).into());
            }
            let Some(form) = form else {
                return Ok(made::image(scan.into_layer(&input, workshop)?, workshop));
            };
            workshop.refuse_settings("an image archive")?;
            let place = scan.into_place(&input, workshop)?;
            return match form {
                source::Form::DockerArchive => docker::open(&input, &place, workshop),
                source::Form::OciArchive | source::Form::Layout => {
                    layout::open(&input, &place, workshop)
                }
            };
        }
        Kind::Squashfs => squashfs::pack(&input, workshop)?,
        Kind::Tree => tree::pack_path(&input, workshop)?,
    };
    Ok(made::image(made, workshop))
}

/// Where content has another digest than it should have.
fn other_content(file: &str, what: String, expected: &Digest, got: &Digest) -> Error {
    let problem = format!("expected {expected}, got {got}");
    Error::Damaged { file: file.to_owned(), what, problem }
}
