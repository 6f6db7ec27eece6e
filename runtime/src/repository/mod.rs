//! All images that a user has: in the own store, in the site's, expanded on this node.
//!
//! ```text
//! images   every name in the stores, sorted         find     by name, digest, or its beginning
//! remove   a name, and what only it needed          prune    what nobody needs or has used for long
//! ```
//!
//! The site's stores are only read. What is damaged is listed as damaged; it never hides the rest.

mod filter;
mod find;
mod prune;
mod remove;

use std::path::{Path, PathBuf};

use jiff::Timestamp;

pub use self::{
    filter::{Filter, FilterError},
    find::Found,
    prune::{Containers, Criteria, Pruned, Scope, age, size},
    remove::{Names, Removed},
};
use crate::{
    config::Config,
    digest::Digest,
    reference::{DEFAULT_REGISTRY, Reference},
    store::{self, Node, State, Store, Stored, Tree},
};

/// Docker Hub's own name of itself.
const HUB: &str = "index.docker.io";

/// Why images are not found or not removed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither a name nor a digest.
    #[error(transparent)]
    Name(#[from] crate::reference::ParseError),
    /// There is none.
    #[error("image {text}: neither in {place} nor on this node")]
    Unknown {
        /// As it was typed.
        text: String,
        /// The stores that were searched.
        place: String,
        /// A name that is there and nearly the same.
        meant: Option<String>,
        /// The same as a name, which can be pulled.
        name: Option<String>,
    },
    /// The same, for who wants to read of it.
    #[error("image {text}: neither in {place} nor on this node")]
    Absent {
        /// As it was typed.
        text: String,
        /// The stores that were searched.
        place: String,
        /// As it can be pulled, if it can.
        name: Option<String>,
    },
    /// It has its name, and is incomplete.
    #[error("image {text}: its {what} {digest} is missing or damaged")]
    NoDocument {
        /// As it was typed.
        text: String,
        /// index, manifest or configuration.
        what: &'static str,
        /// Which.
        digest: Digest,
    },
    /// Several images begin so.
    #[error("image {text}: several digests begin so: {}", digests.join(", "))]
    Ambiguous {
        /// As it was typed.
        text: String,
        /// What it could mean.
        digests: Vec<String>,
    },
    /// An image has more names than one, and is to go by its digest.
    #[error("image {text}: it has several names: {}", names.join(", "))]
    Several {
        /// As it was typed.
        text: String,
        /// Its names.
        names: Vec<String>,
    },
    /// Only the site can remove it.
    #[error("image {name}: it is the site's, in {}", path.display())]
    Site {
        /// Which.
        name: String,
        /// Where.
        path: PathBuf,
    },
    /// The disk.
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Error {
    /// The same error, where an image that is not here was not to be removed but to be read.
    pub fn to_read(self) -> Error {
        match self {
            Error::Unknown { text, place, meant: None, name } => {
                Error::Absent { text, place, name }
            }
            other => other,
        }
    }
}

/// To whom a store belongs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// To the user.
    Own,
    /// To the site: it is only read.
    Site,
}

/// One name of an image.
#[derive(Debug, Clone)]
pub struct Listed {
    /// What the store knows of it.
    pub stored: Stored,
    /// Where the store is.
    pub store: PathBuf,
    /// Whose the store is.
    pub whose: Whose,
}

impl Listed {
    /// The name in its parts.
    pub fn name(&self) -> Name {
        match &self.stored.entry.name {
            Some(name) => Name::of(name),
            None => Name { server: None, repository: None, tag: None },
        }
    }

    /// When the image was built.
    pub fn created(&self) -> Option<Timestamp> {
        self.stored.config.as_ref()?.created.as_ref()?.parse().ok()
    }

    /// The sum of its compressed layers, in bytes; `None` if not all of them are known to be here.
    pub fn size(&self) -> Option<u64> {
        let is_whole = self.stored.state == State::Complete;
        self.stored.manifest.as_ref().filter(|_| is_whole).map(|manifest| manifest.download_size())
    }
}

/// A name as it is shown: each part only if there is one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    /// The registry, as it calls itself.
    pub server: Option<String>,
    /// The repository, or a name that another tool has given.
    pub repository: Option<String>,
    /// The tag.
    pub tag: Option<String>,
}

impl Name {
    /// Takes a name from a store apart.
    pub fn of(name: &str) -> Name {
        let Some(reference) = canonical(name) else {
            return Name { server: None, repository: Some(name.to_owned()), tag: None };
        };
        Name {
            server: Some(server(&reference).to_owned()),
            repository: Some(reference.repository().to_owned()),
            tag: reference.tag().map(str::to_owned),
        }
    }
}

/// A name that Shifter has given.
fn canonical(name: &str) -> Option<Reference> {
    name.parse().ok().filter(|reference: &Reference| reference.to_string() == name)
}

fn server(reference: &Reference) -> &str {
    match reference.registry() {
        DEFAULT_REGISTRY => HUB,
        other => other,
    }
}

/// The images of the calling user.
#[derive(Debug)]
pub struct Repository {
    /// `None`: nothing was ever put there.
    own: Option<Store>,
    own_path: PathBuf,
    shared: Vec<Store>,
    node: Option<Node>,
}

impl Repository {
    /// Opens what there is. Nothing is made.
    pub fn open(config: &Config) -> Result<Repository, store::Error> {
        Ok(Repository {
            own: Store::open(&config.store),
            own_path: config.store.clone(),
            shared: config.shared_stores.iter().filter_map(|path| Store::open(path)).collect(),
            node: Node::existing(&config.node_dir)?,
        })
    }

    /// All images in all stores, sorted by server, repository and tag; and the stores that cannot be
    /// read.
    pub fn images(&self) -> (Vec<Listed>, Vec<store::Error>) {
        let (mut images, mut troubles) = (Vec::new(), Vec::new());
        let shared = self.shared.iter().map(|store| (store, Whose::Site));
        for (store, whose) in self.own.iter().map(|store| (store, Whose::Own)).chain(shared) {
            match store.images() {
                Ok(stored) => images.extend(stored.into_iter().map(|stored| {
                    let path = store.path().to_owned();
                    Listed { stored, store: path, whose }
                })),
                Err(error) => troubles.push(error),
            }
        }
        images.sort_by_cached_key(|image| {
            (image.name(), image.whose == Whose::Site, image.store.clone())
        });
        (images, troubles)
    }

    /// The images that are expanded on this node.
    pub fn trees(&self) -> Result<Vec<Tree>, store::Error> {
        self.node.as_ref().map_or(Ok(Vec::new()), Node::trees)
    }

    /// Who uses each of these trees.
    pub fn users(&self, trees: &[Tree]) -> Result<Vec<Option<store::User>>, store::Error> {
        match &self.node {
            Some(node) => node.users(trees),
            None => Ok(Vec::new()),
        }
    }

    /// The user's own store, whether there is one yet or not.
    pub fn own_path(&self) -> &Path {
        &self.own_path
    }

    /// The node directory, if there is one.
    pub fn node_path(&self) -> Option<&Path> {
        self.node.as_ref().map(Node::path)
    }

    /// A document of an image, byte for byte.
    pub fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        let stores = self.shared.iter().chain(&self.own).map(Store::blobs);
        let mut blobs = stores.chain(self.node.iter().map(Node::blobs));
        blobs.find_map(|blobs| blobs.document(digest))
    }
}
