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

mod chunks;
mod error;
mod event;
mod fan;
#[cfg(all(feature = "isal", target_arch = "x86_64"))]
mod gzip;
#[cfg(not(all(feature = "isal", target_arch = "x86_64")))]
mod gzip {
    pub(super) type Reader<R> = flate2::bufread::MultiGzDecoder<R>;
}
mod layers;
mod local;
mod squash;
mod stream;

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::Duration,
};

use nix::sys::signal::Signal;

pub use self::{
    error::Error,
    event::{Event, Flight, Layer, Span, Summary},
    fan::{Failure, Fleet, tidy},
};
use self::{error::no_files, event::Troubles, fan::Feed};
pub(crate) use self::{
    error::no_space,
    layers::limits,
    local::{Extent, Local, bring, ensure_local},
    stream::decoder,
};
use crate::{
    cached,
    config::{Config, SquashfsRun},
    digest::Digest,
    documents::{self, Documents, Found, Part, document_in},
    image::{Form, Hold, Image},
    oci::{Descriptor, Platform},
    options::Tag,
    reference::Reference,
    registry,
    store::{self, Blobs, Lease, Node, Store},
    sys::interrupt::{Caught, is_orphan},
};

/// How often progress is told and interruption looked for.
const TICK: Duration = Duration::from_millis(100);
/// How often an image is brought of which others remove parts meanwhile.
pub(crate) const MAX_BRINGS: usize = 5;

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

/// The content of a gzip layer, for tests/fuzz.
#[cfg(fuzzing)]
#[doc(hidden)]
pub fn gunzip(packed: impl std::io::BufRead) -> impl std::io::Read {
    gzip::Reader::new(packed)
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

/// Brings an image from its registry, whatever is here under that name; of several, the one for
/// `platform`.
///
/// When it fails, layers that have come are kept in the store, where the next pull finds them;
/// without a store nothing is kept: a node's memory is no place for what may never be needed.
pub fn pull(
    reference: &Reference,
    to: To,
    platform: &Platform,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Pulled, Error> {
    let store = match to {
        To::Node => Store::open(&config.store),
        To::Store | To::Both => Some(Store::create(&config.store)?),
    };
    let node = match to {
        To::Store => None,
        To::Node | To::Both => Some(Node::open(&config.node_dir)?),
    };
    let remote = Remote::new(Some(reference), config);
    let mut pull = Pull::new(config, &remote, store, node);
    pull.keep = to != To::Node;
    let documents = pull.documents(None, platform, tell)?;
    let unchanged = pull.bring_as_wanted(&documents, tell)?;
    Ok(Pulled { digest: documents.digest, unchanged })
}

/// Finds out what a name stands for: in a store, else, or for [`Tag::Fresh`], by asking the registry.
/// Nothing is pulled.
pub fn resolve(reference: &Reference, tag: Tag, config: &Config) -> Result<Digest, Error> {
    let remote = Remote::new(Some(reference), config);
    let pull = Pull::new(config, &remote, Store::open(&config.store), None);
    let known = match tag {
        Tag::Stored => pull.known()?,
        Tag::Fresh => None,
    };
    pull.resolve(known, &mut |_| {})
}

/// Makes sure that an image is on this node, and returns it. What the user's store has under the
/// name is used without asking a registry: the user put it there.
pub fn ensure(
    reference: &Reference,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Image, Error> {
    ensure_in(None, reference, Tag::Stored, config, tell)
}

/// The same in a task of Slurm's, together with the other nodes of its step. [`Tag::Fresh`] means the
/// image that the registry has under the name now, whatever a store has.
pub fn ensure_in(
    fleet: Option<&Fleet>,
    reference: &Reference,
    tag: Tag,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Image, Error> {
    let remote = Remote::new(Some(reference), config);
    let (store, node) = (Store::open(&config.store), Node::open(&config.node_dir)?);
    let mut pull = Pull::new(config, &remote, store, Some(node));
    let known = match tag {
        Tag::Stored => pull.known()?,
        Tag::Fresh => None,
    };
    let known = match fleet {
        Some(fleet) => {
            let known = fan::bring(reference, known, fleet, config, tell)?;
            // There may have been none before.
            pull.store = Store::open(&config.store);
            known
        }
        None => known,
    };
    let documents = pull.documents(known, &Platform::host(), tell)?;
    if let Some(squashfs) = pull.mountable(&documents)? {
        pull.note(&documents);
        return Ok(Image {
            source: reference.clone().into(),
            digest: documents.digest,
            config: documents.config,
            rootfs: squashfs,
            form: Form::Squashfs,
            hold: Hold::default(),
        });
    }
    let node = pull.node.as_ref().expect("opened above");
    for _ in 0..MAX_BRINGS {
        pull.bring(&documents, tell)?;
        // Between the two, another process may have removed it.
        let (source, digest) = (reference.clone().into(), documents.digest.clone());
        let held = cached::held(node, &source, digest, &documents.config).map_err(Error::Node)?;
        if let Some(image) = held {
            pull.store.iter().for_each(|store| store.touch(&image.digest));
            return Ok(image);
        }
    }
    Err(Error::Removed { digest: documents.digest })
}

/// The registry of the image, connected when it is first needed: an image that is here costs
/// neither threads nor a connection.
struct Remote<'a> {
    /// None: the image is in files, and no registry has it.
    reference: Option<&'a Reference>,
    config: &'a Config,
    connected: std::cell::OnceCell<Connected>,
    /// What the network has to tell.
    troubles: Troubles,
}

struct Connected {
    executor: tokio::runtime::Runtime,
    registry: Arc<registry::Registry>,
}

impl<'a> Remote<'a> {
    fn new(reference: Option<&'a Reference>, config: &'a Config) -> Remote<'a> {
        let (connected, troubles) = (std::cell::OnceCell::new(), Troubles::default());
        Remote { reference, config, connected, troubles }
    }

    fn get(&self) -> Result<&Connected, Error> {
        if let Some(connected) = self.connected.get() {
            return Ok(connected);
        }
        let reference = self.reference.ok_or(Error::Nowhere)?;
        let executor = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(cores().min(4))
            .enable_all()
            .build()
            .map_err(Error::Threads)?;
        let troubles = self.troubles.clone();
        let tell = Arc::new(move |trouble: &str| troubles.add(trouble.to_owned()));
        let registry = registry::Registry::connect(reference, self.config).telling(tell);
        Ok(self.connected.get_or_init(|| Connected { executor, registry: registry.into() }))
    }

    /// Asks the registry for a document.
    fn fetch(&self, part: Part<'_>, tell: &mut dyn FnMut(Event<'_>)) -> Result<Found, Error> {
        let connected = self.get()?;
        let registry = &connected.registry;
        match part {
            Part::Manifest(digest) => {
                let fetched = self.wait(connected, registry.manifest(digest.as_str()), tell)?;
                Ok((fetched.bytes, fetched.content_type))
            }
            Part::Config(config) => {
                Ok((self.wait(connected, registry.document(config), tell)?, None))
            }
        }
    }

    /// Waits for an answer, and tells what happens meanwhile.
    fn wait<T>(
        &self,
        connected: &Connected,
        answer: impl Future<Output = Result<T, registry::Error>>,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<T, Error> {
        let mut answer = std::pin::pin!(answer);
        connected.executor.block_on(async {
            loop {
                let answered = tokio::time::timeout(TICK, &mut answer).await;
                self.troubles.tell(tell);
                if let Ok(answer) = answered {
                    return Ok(answer?);
                }
                if is_orphan() {
                    return Err(Error::Interrupted(Signal::SIGHUP as i32));
                }
            }
        })
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

struct Pull<'a> {
    /// The name that the image has in the stores, if any.
    reference: Option<&'a Reference>,
    config: &'a Config,
    remote: &'a Remote<'a>,
    store: Option<Store>,
    /// The site's, in the order in which they are searched.
    shared: Vec<Store>,
    /// One of those has turned out to be damaged: none is asked any more.
    distrusted: std::cell::Cell<bool>,
    node: Option<Node>,
    /// Whether layers are also written to the store.
    keep: bool,
    /// Layers that another node brings.
    feed: Option<Arc<Feed>>,
    /// Where layers are kept to be sent to other nodes.
    outbox: Option<Blobs>,
    /// Layers that lie in files of the user's.
    files: HashMap<Digest, Extent>,
    /// Whether the content of layers is held against the configuration.
    check_diff_ids: bool,
    /// Whether layers are read as archives even where they are only stored.
    check_archives: bool,
}

impl<'a> Pull<'a> {
    fn new(
        config: &'a Config,
        remote: &'a Remote<'a>,
        store: Option<Store>,
        node: Option<Node>,
    ) -> Pull<'a> {
        let shared = config.shared_stores.iter().filter_map(|path| Store::open(path)).collect();
        Pull {
            reference: remote.reference,
            config,
            remote,
            store,
            shared,
            distrusted: std::cell::Cell::new(false),
            node,
            keep: false,
            feed: None,
            outbox: None,
            files: HashMap::new(),
            check_diff_ids: config.check_diff_ids,
            check_archives: false,
        }
    }

    /// The site's stores.
    fn shared(&self) -> impl Iterator<Item = &Store> {
        self.shared.iter().filter(|_| !self.distrusted.get())
    }

    /// What the stores have under the name: the site's first.
    fn known(&self) -> Result<Option<Digest>, Error> {
        let Some(reference) = self.reference else { return Ok(None) };
        for store in self.shared() {
            match store.find(reference) {
                Ok(None) => {}
                Ok(found) => return Ok(found),
                // The site's trouble need not be the user's.
                Err(error) => self.remote.troubles.add(crate::report::chain(&error)),
            }
        }
        match &self.store {
            Some(store) => Ok(store.find(reference)?),
            None => Ok(None),
        }
    }

    /// The image as one file, if a store has that and it is to be mounted. An image that is expanded
    /// on this node already is quicker from there.
    fn mountable(&self, documents: &Documents) -> Result<Option<PathBuf>, Error> {
        let (run, image) = (self.config.squashfs.run, &documents.digest);
        let is_expanded = || self.node.as_ref().is_some_and(|node| node.tree(image).is_some());
        if run == SquashfsRun::Auto && is_expanded() {
            return Ok(None);
        }
        let stores = self.shared().chain(&self.store);
        cached::mountable(stores, image, run).map_err(|path| Error::Foreign { path })
    }

    /// Finds out what the name stands for, if that is not `known`.
    fn resolve(
        &self,
        known: Option<Digest>,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<Digest, Error> {
        let pinned = || self.reference.and_then(Reference::digest).cloned();
        if let Some(digest) = known.or_else(pinned) {
            return Ok(digest);
        }
        let connected = self.remote.get()?;
        let tag = self.reference.and_then(Reference::tag);
        let tag = tag.expect("a name has a tag or a digest");
        self.remote.wait(connected, connected.registry.resolve(tag), tell)
    }

    /// Finds the manifest and the configuration. `known` is the manifest's digest, if it is known
    /// without the registry.
    fn documents(
        &self,
        known: Option<Digest>,
        platform: &Platform,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<Documents, Error> {
        let resolved = self.resolve(known, tell)?;
        let stores = self.shared().chain(&self.store).map(Store::blobs);
        let local: Vec<_> = stores.chain(self.node.iter().map(Node::blobs)).collect();
        let find = |resolved: Digest, tell: &mut dyn FnMut(Event<'_>)| {
            let mut fetch = |part: Part<'_>| match document_in(&local, part.digest()) {
                Some(bytes) => Ok((bytes, None)),
                None => self.remote.fetch(part, tell),
            };
            documents::find(resolved, platform, &mut fetch, &Error::Document)
        };
        let is_here = document_in(&local, &resolved).is_some();
        let Some(node) = self.node.as_ref().filter(|_| !is_here) else {
            return find(resolved, tell);
        };
        // One process asks for all that are at it on this node.
        let _lock = node.lock(&resolved, || tell(Event::Waiting)).map_err(Error::Node)?;
        let documents = find(resolved, tell)?;
        for (digest, document) in &documents.raw {
            let put = node.blobs().put_document(digest, document);
            put.map_err(|error| no_files(Error::Node(error), node))?;
        }
        Ok(documents)
    }

    /// Brings the image to where it is wanted, in all forms that are wanted. Returns whether nothing was
    /// missing.
    fn bring_as_wanted(
        &mut self,
        documents: &Documents,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, Error> {
        let mut unchanged = true;
        for _ in 0..MAX_BRINGS {
            // A squashfs is made of the tree, which need not stay.
            let mut passing = None;
            if self.node.is_none() && self.lacks_squashfs(documents).is_some() {
                let node = Node::open(&self.config.node_dir).map_err(Error::Node)?;
                passing = node.tree(&documents.digest).is_none().then(|| node.clone());
                self.node = Some(node);
            }
            unchanged &= self.bring(documents, tell)?;
            let squashed = match self.lacks_squashfs(documents) {
                Some(_) => {
                    unchanged = false;
                    self.squash(documents, tell)
                }
                None => Ok(true),
            };
            if let Some(node) = passing {
                // Who has begun to use it keeps it.
                node.remove_image(&documents.digest).map_err(Error::Node)?;
                self.node = None;
            }
            if squashed? {
                self.note(documents);
                return Ok(unchanged);
            }
        }
        Err(Error::Removed { digest: documents.digest.clone() })
    }

    /// Brings the layers to where they are missing, and gives the image its name in the store.
    /// Returns whether nothing was missing.
    fn bring(&self, documents: &Documents, tell: &mut dyn FnMut(Event<'_>)) -> Result<bool, Error> {
        let mut unchanged = true;
        for _ in 0..MAX_BRINGS {
            let lease = match self.is_complete(documents) {
                true => None,
                false => {
                    unchanged = false;
                    self.bring_whole(documents, tell)?
                }
            };
            let is_there = self.tag(documents)?;
            drop(lease);
            if is_there {
                return Ok(unchanged);
            }
        }
        Err(Error::Removed { digest: documents.digest.clone() })
    }

    /// Brings what is missing, though what is here is damaged, or goes meanwhile.
    fn bring_whole(
        &self,
        documents: &Documents,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Lease>, Error> {
        let is_shared = |path: &Path| self.shared().any(|store| path.starts_with(store.path()));
        let brought = match self.bring_alone(documents, tell) {
            // A layer of the store's that the disk has damaged is no layer: it comes from the
            // registry again.
            Err(Error::StoredBlob { path, .. }) if is_shared(&path) => {
                let text = format!("{} is damaged; tell the administrator", path.display());
                self.remote.troubles.add(text);
                self.distrusted.set(true);
                self.bring_alone(documents, tell)
            }
            Err(Error::StoredBlob { path, .. }) if fs::remove_file(&path).is_ok() => {
                self.bring_alone(documents, tell)
            }
            // A layer of the store's that somebody has removed since it was found.
            Err(Error::Store(error)) if error.is_absent() && !error.path.exists() => {
                self.bring_alone(documents, tell)
            }
            brought => brought,
        };
        brought.map_err(|error| match (error, &self.node) {
            (Error::Store(error), Some(node)) if error.path.starts_with(node.path()) => {
                Error::Node(error)
            }
            (error, _) => error,
        })
    }

    /// The store, if the image is wanted there. What the site has for all need not be kept twice.
    fn kept(&self, documents: &Documents) -> Option<&Store> {
        let has = |store: &Store| {
            let blobs = store.blobs();
            let named = self.reference.map(|reference| store.find(reference));
            matches!(named, Some(Ok(Some(digest))) if digest == documents.digest)
                && (!self.config.squashfs.write || store.squashfs(&documents.digest).is_some())
                && documents.manifest.layers.iter().all(|layer| blobs.find(layer).is_some())
        };
        self.store.as_ref().filter(|_| self.keep && !self.shared().any(has))
    }

    /// Whether the image is wherever it is wanted.
    fn is_complete(&self, documents: &Documents) -> bool {
        let expanded = |node: &Node| node.tree(&documents.digest).is_some();
        self.node.as_ref().is_none_or(expanded) && self.missing(documents).next().is_none()
    }

    /// The layers that the store lacks, if they are wanted there.
    fn missing<'b>(&'b self, documents: &'b Documents) -> impl Iterator<Item = &'b Descriptor> {
        self.kept(documents).into_iter().flat_map(|store| {
            let layers = documents.manifest.layers.iter();
            layers.filter(|layer| store.blobs().find(layer).is_none())
        })
    }

    /// Does what is to be done by one process at a time. What came into the store stays there as long
    /// as the lease that is returned.
    fn bring_alone(
        &self,
        documents: &Documents,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<Option<Lease>, Error> {
        let image = &documents.digest;
        let (node, kept) = (self.node.as_ref(), self.kept(documents));
        let lock = node.map(|node| node.lock(image, || tell(Event::Waiting))).transpose()?;
        let pins = documents.parts();
        let in_store = kept.map(|store| store.lock_image(image, &pins, || tell(Event::Waiting)));
        let in_store = in_store.transpose()?;
        // Not before the wait for others, which any signal may end; but before anything is written.
        let caught = Caught::install();
        let needed = self.missing(documents).map(|layer| layer.size).sum();
        if let Some(store) = kept {
            let room = store.room()?;
            if room.free < needed {
                return Err(no_space(store.path(), "SHIFTER_STORE", needed, room));
            }
        }
        let brought = match (node, &lock) {
            (Some(node), Some(lock)) if node.tree(image).is_none() => {
                self.expand(documents, node, lock, &caught, tell)
            }
            _ if needed > 0 => self.layers(documents, None, &caught, tell),
            _ => Ok(()),
        };
        if let (Err(error), Some(store)) = (&brought, kept)
            && !(error.may_pass() && self.files.is_empty())
        {
            store.blobs().forget(&documents.manifest.layers);
        }
        brought.map(|()| in_store)
    }

    /// Makes the image's tree on the node.
    fn expand(
        &self,
        documents: &Documents,
        node: &Node,
        lock: &store::Lock,
        caught: &Caught,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let (size, room) = (documents.manifest.download_size(), node.room()?);
        // Compressed sizes are all that is known before: less than that is never enough.
        if room.free < size {
            return Err(no_space(node.path(), "SHIFTER_NODE_DIR", size, room));
        }
        let stage = node.stage(lock).map_err(|error| no_files(error.into(), node))?;
        let mut read = 0;
        let brought = self.layers(documents, Some(&stage), caught, &mut |event| {
            if let Event::Progress { bytes, .. } = event {
                read = bytes;
            }
            tell(event);
        });
        // Asked while all that was made is still there.
        match brought.map_err(|error| no_files(error, node)) {
            Err(error) if error.is_no_space_in(node) => {
                // All that was free went into the part that was read.
                let share = (read.max(1) as f64 / size.max(1) as f64).min(1.0);
                let needed = (room.free as f64 / share) as u64;
                Err(no_space(node.path(), "SHIFTER_NODE_DIR", needed, room))
            }
            Err(error) => Err(error),
            Ok(()) => Ok(stage.commit().map(|_| ())?),
        }
    }

    /// Names the image in the store, whose layers are all there by now. Returns false if one of them
    /// is not any more.
    fn tag(&self, documents: &Documents) -> Result<bool, Error> {
        let (Some(store), Some(reference)) = (self.kept(documents), self.reference) else {
            return Ok(true);
        };
        let (manifest, blobs) = (documents.descriptor(), store.blobs());
        let layers = &documents.manifest.layers;
        if store.has(reference, &manifest, &documents.resolved)?
            && layers.iter().all(|layer| blobs.is_published(layer))
            && documents.raw.iter().all(|(digest, _)| blobs.document(digest).is_some())
        {
            return Ok(true);
        }
        let (resolved, raw) = (&documents.resolved, &documents.raw);
        // As above: a wait that any signal may end, then one that must not be cut short.
        let lease = store.lock()?;
        let caught = Caught::install();
        let admitted = store.admit(lease, reference, &manifest, resolved, raw, layers)?;
        caught.signal().map_or(Ok(admitted), |signal| Err(Error::Interrupted(signal)))
    }

    /// Takes note that the image is used, and by which name.
    fn note(&self, documents: &Documents) {
        if let Some(node) = self.node.as_ref().filter(|node| node.tree(&documents.digest).is_some())
            && let Some(reference) = self.reference
        {
            node.note(&documents.digest, &reference.clone().into());
        }
        if let Some(store) = &self.store {
            store.touch(&documents.digest);
        }
    }
}
