//! From a name to an image on this node, and to a copy in the user's store.
//!
//! ```text
//! name ─► documents ─► for each layer, biggest first, as many at once as there are cores:
//!                        registry or store ─► sha256 ─► inflate ─► tar ─► files in a folder
//!                                         └─► blob in the store
//!                      the folders, in order, by rename ─► one tree ─► trees/DIGEST
//! ```
//!
//! One pass, bounded memory. Nothing has its final name before all of it is verified.

mod documents;
#[cfg(all(feature = "isal", target_arch = "x86_64"))]
mod gzip;
#[cfg(not(all(feature = "isal", target_arch = "x86_64")))]
mod gzip {
    pub(super) type Reader<R> = flate2::bufread::MultiGzDecoder<R>;
}
mod layers;
mod stream;

use std::{fs, path::PathBuf, thread};

use self::documents::Documents;
use crate::{
    config::Config,
    digest::Digest,
    image::Image,
    layer, oci,
    reference::Reference,
    registry,
    store::{self, Node, Store},
    sys::interrupt::Caught,
};

/// Where a pull puts the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum To {
    /// Into the user's store only.
    Store,
    /// Expanded on this node only.
    Node,
    /// Both, in one pass.
    Both,
}

/// What happens during a pull, told as it happens.
#[derive(Debug)]
pub enum Event {
    /// Another process on this node is making the same image.
    Waiting,
    /// The layers begin.
    Begin {
        /// How many.
        layers: usize,
        /// Their compressed size together, in bytes.
        bytes: u64,
    },
    /// Bytes of the layers read so far.
    Progress(u64),
    /// All layers are there and verified.
    End,
}

/// Why there is no image.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// The manifest or the configuration.
    #[error(transparent)]
    Document(#[from] oci::Error),
    /// The disk with the store.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The node directory.
    #[error(transparent)]
    Node(store::Error),
    /// A document of another length than its descriptor says.
    #[error("manifest {digest}: expected {expected} bytes, got {got}")]
    DocumentSize {
        /// Which.
        digest: Digest,
        /// Bytes by the descriptor.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// A layer that is no valid archive, or not a harmless one.
    #[error("layer {digest}")]
    Layer {
        /// Which.
        digest: Digest,
        /// What is wrong with it.
        source: layer::Error,
    },
    /// A layer that does not decompress.
    #[error("decompress layer {digest}")]
    Inflate {
        /// Which.
        digest: Digest,
        /// The decompressor's account.
        source: std::io::Error,
    },
    /// A layer in the store is not what its name says.
    #[error("stored layer {}: damaged: its content has digest {got}", path.display())]
    StoredBlob {
        /// Where it lies; its name is the digest that it should have.
        path: PathBuf,
        /// The digest of what is there.
        got: Digest,
    },
    /// A layer whose content is not what the configuration says.
    #[error("layer {digest}: uncompressed content: expected {expected}, got {got}")]
    DiffId {
        /// Which, by its compressed digest.
        digest: Digest,
        /// The configuration's diff_id.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// Space ran out, or would.
    #[error("{} is full: the image needs more than {}, {} are free", path.display(), bytes(*.needed), bytes(*.free))]
    NoSpace {
        /// The directory.
        path: PathBuf,
        /// Bytes that the image takes at least.
        needed: u64,
        /// Bytes that were free before.
        free: u64,
    },
    /// There is space, and a limit to the number of files is reached.
    #[error("{} is full: it takes no more files", path.display())]
    NoFiles {
        /// The directory.
        path: PathBuf,
    },
    /// SIGINT, SIGTERM or SIGHUP.
    #[error("interrupted by signal {0}")]
    Interrupted(i32),
    /// Given up because another layer failed, which is the error that is reported.
    #[error("cancelled")]
    Cancelled,
    /// The executor could not be started.
    #[error("start network threads")]
    Threads(#[source] std::io::Error),
}

/// A size as people read it; decimal, as registries and `docker images` count.
pub fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            let decimals = usize::from(unit != "B" && value < 100.0);
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.1} TB")
}

/// What a pull brought.
#[derive(Debug)]
pub struct Pulled {
    /// The digest of the manifest.
    pub digest: Digest,
    /// Whether everything was there before.
    pub unchanged: bool,
}

/// Brings an image from its registry, whatever is here under that name.
pub fn pull(
    reference: &Reference,
    to: To,
    config: &Config,
    tell: &mut dyn FnMut(Event),
) -> Result<Pulled, Error> {
    let store = match to {
        To::Node => Store::open(&config.store),
        To::Store | To::Both => Some(Store::create(&config.store)?),
    };
    let node = match to {
        To::Store => None,
        To::Node | To::Both => Some(Node::open(&config.node_dir)?),
    };
    let remote = Remote::new(reference, config);
    let pull = Pull { reference, config, remote: &remote, store, node, keep: to != To::Node };
    let documents = pull.documents(None)?;
    let unchanged = pull.bring(&documents, tell)?;
    pull.tag(&documents)?;
    Ok(Pulled { digest: documents.digest, unchanged })
}

/// Makes sure that an image is on this node, and returns it. What the user's store has under the
/// name is used without asking a registry: the user put it there.
pub fn ensure(
    reference: &Reference,
    config: &Config,
    tell: &mut dyn FnMut(Event),
) -> Result<Image, Error> {
    let store = Store::open(&config.store);
    let known = match &store {
        Some(store) => store.find(reference)?,
        None => None,
    };
    let remote = Remote::new(reference, config);
    let node = Node::open(&config.node_dir)?;
    let pull = Pull { reference, config, remote: &remote, store, node: Some(node), keep: false };
    let documents = pull.documents(known)?;
    pull.bring(&documents, tell)?;
    let node = pull.node.as_ref().expect("opened above");
    let rootfs = node.tree(&documents.digest).expect("brought above");
    Ok(Image {
        reference: reference.clone(),
        digest: documents.digest,
        config: documents.config,
        rootfs,
    })
}

/// The registry of the image, connected when it is first needed: an image that is here costs
/// neither threads nor a connection.
struct Remote<'a> {
    reference: &'a Reference,
    config: &'a Config,
    connected: std::cell::OnceCell<Connected>,
}

struct Connected {
    executor: tokio::runtime::Runtime,
    registry: std::sync::Arc<registry::Registry>,
}

impl<'a> Remote<'a> {
    fn new(reference: &'a Reference, config: &'a Config) -> Remote<'a> {
        Remote { reference, config, connected: std::cell::OnceCell::new() }
    }

    fn get(&self) -> Result<&Connected, Error> {
        if let Some(connected) = self.connected.get() {
            return Ok(connected);
        }
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores().min(4))
            .enable_all()
            .build()
            .map_err(Error::Threads)?;
        let registry =
            executor.block_on(registry::Registry::connect(self.reference, self.config))?;
        Ok(self.connected.get_or_init(|| Connected { executor, registry: registry.into() }))
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

struct Pull<'a> {
    reference: &'a Reference,
    config: &'a Config,
    remote: &'a Remote<'a>,
    store: Option<Store>,
    node: Option<Node>,
    /// Whether layers are also written to the store.
    keep: bool,
}

impl Pull<'_> {
    /// Finds the manifest and the configuration. `known` is the manifest's digest, if it is known
    /// without the registry.
    fn documents(&self, known: Option<Digest>) -> Result<Documents, Error> {
        let pinned = || self.reference.digest().cloned();
        let resolved = match known.or_else(pinned) {
            Some(digest) => digest,
            None => {
                let connected = self.remote.get()?;
                let tag = self.reference.tag().expect("a name has a tag or a digest");
                connected.executor.block_on(connected.registry.resolve(tag))?
            }
        };
        let blobs = self.store.iter().map(Store::blobs).chain(self.node.iter().map(Node::blobs));
        documents::find(resolved, &blobs.collect::<Vec<_>>(), self.remote)
    }

    /// Brings the layers to where they are missing. Returns whether none was.
    fn bring(&self, documents: &Documents, tell: &mut dyn FnMut(Event)) -> Result<bool, Error> {
        let missing_blobs = self.keep && !self.stored(documents);
        let Some(node) = &self.node else {
            if missing_blobs {
                self.layers(documents, None, &Caught::install(), tell)?;
            }
            return Ok(!missing_blobs);
        };
        if node.tree(&documents.digest).is_some() && !missing_blobs {
            return Ok(true);
        }
        let brought = match self.bring_to(node, documents, missing_blobs, tell) {
            // A layer of the store's that the disk has damaged is no layer: it comes from the
            // registry again.
            Err(Error::StoredBlob { path, .. }) if fs::remove_file(&path).is_ok() => {
                self.bring_to(node, documents, missing_blobs, tell)
            }
            brought => brought,
        };
        brought.map_err(|error| match error {
            Error::Store(error) if error.path.starts_with(node.path()) => Error::Node(error),
            error => error,
        })
    }

    fn bring_to(
        &self,
        node: &Node,
        documents: &Documents,
        missing_blobs: bool,
        tell: &mut dyn FnMut(Event),
    ) -> Result<bool, Error> {
        let lock = node.lock(&documents.digest, || tell(Event::Waiting))?;
        // Not before the wait for others, which any signal may end; but before anything is written.
        let caught = Caught::install();
        if node.tree(&documents.digest).is_some() {
            if missing_blobs {
                self.layers(documents, None, &caught, tell)?;
            }
            return Ok(!missing_blobs);
        }
        let (needed, free) = (documents.manifest.download_size(), node.free()?);
        let full = |needed| Error::NoSpace { path: node.path().to_owned(), needed, free };
        // Compressed sizes are all that is known before: less than that can never be enough.
        if free < needed {
            return Err(full(needed));
        }
        match self.expand(documents, node, &lock, &caught, tell) {
            // It was not enough, whatever the compressed sizes are.
            Err(error) if error.is_no_space_in(node) => Err(full(needed.max(free))),
            other => other.map(|()| false),
        }
    }

    /// Makes the image's tree on the node.
    fn expand(
        &self,
        documents: &Documents,
        node: &Node,
        lock: &store::Lock,
        caught: &Caught,
        tell: &mut dyn FnMut(Event),
    ) -> Result<(), Error> {
        // Asked while all that was made is still there.
        let no_files = |error: Error| match error.is_no_space_in(node) && node.is_out_of_files() {
            true => Error::NoFiles { path: node.path().to_owned() },
            false => error,
        };
        for (digest, document) in &documents.raw {
            node.blobs().put_document(digest, document).map_err(|e| no_files(e.into()))?;
        }
        let stage = node.stage(lock).map_err(|e| no_files(e.into()))?;
        self.layers(documents, Some(&stage), caught, tell).map_err(no_files)?;
        stage.commit()?;
        Ok(())
    }

    fn stored(&self, documents: &Documents) -> bool {
        let blobs = self.store.as_ref().map(Store::blobs);
        blobs.is_some_and(|blobs| documents.manifest.layers.iter().all(|l| blobs.find(l).is_some()))
    }

    /// Names the image in the store, whose blobs are all there by now.
    fn tag(&self, documents: &Documents) -> Result<(), Error> {
        let Some(store) = self.store.as_ref().filter(|_| self.keep) else { return Ok(()) };
        let caught = Caught::install();
        for (digest, document) in &documents.raw {
            store.blobs().put_document(digest, document)?;
        }
        store.tag(self.reference, documents.descriptor(), &documents.resolved)?;
        caught.signal().map_or(Ok(()), |signal| Err(Error::Interrupted(signal)))
    }
}

impl Error {
    /// Whether the space of the node directory ran out.
    fn is_no_space_in(&self, node: &Node) -> bool {
        match self {
            Error::Layer { source, .. } => source.is_no_space(),
            Error::Store(error) => error.is_no_space() && error.path.starts_with(node.path()),
            _ => false,
        }
    }
}
