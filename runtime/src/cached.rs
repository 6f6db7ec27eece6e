//! Images that are here already. A program that does no more than run these needs none of the network
//! half's registries and decompressors, and starts in half the time of one that has them.

use std::path::PathBuf;

use crate::{
    config::{Config, SquashfsRun},
    digest::Digest,
    documents::{self, Documents},
    image::{Form, Hold, Image},
    import,
    oci::{ImageConfig, Platform},
    options::Tag,
    reference::Reference,
    source::Source,
    store::{self, Blobs, Node, Store},
};

/// Finds an image that a pull or an import would have nothing to do for. `known` is the digest that it was
/// found to have before, if it shall be the same one; `may_mount` tells whether a squashfs can be
/// mounted for the container, where the site leaves that open.
///
/// Whatever is missing, in doubt or damaged is for the pull to find out, and to tell: `None`.
pub fn find(
    source: &Source,
    known: Option<&Digest>,
    tag: Tag,
    config: &Config,
    may_mount: &dyn Fn() -> bool,
) -> Option<Image> {
    let node = Node::existing(&config.node_dir).ok()??;
    match source {
        Source::Registry(reference) => {
            let reference = match known {
                Some(digest) => reference.pinned(digest.clone()),
                None => reference.clone(),
            };
            let image = of_registry(&reference, tag, &node, config, may_mount)?;
            // Messages name it as the user did.
            Some(Image { source: source.clone(), ..image })
        }
        Source::OnDisk(place) => import::find(place, known, &node),
    }
}

fn of_registry(
    reference: &Reference,
    tag: Tag,
    node: &Node,
    config: &Config,
    may_mount: &dyn Fn() -> bool,
) -> Option<Image> {
    let shared: Vec<_> = config.shared_stores.iter().filter_map(|path| Store::open(path)).collect();
    let own = Store::open(&config.store);
    let stores = || shared.iter().chain(&own);
    let named = match tag {
        Tag::Stored => stores().find_map(|store| store.find(reference).transpose()),
        Tag::Fresh => None,
    };
    let named = named.transpose().ok()?;
    let resolved = named.as_ref().or(reference.digest())?;
    let places: Vec<&Blobs> =
        [node.blobs()].into_iter().chain(stores().map(Store::blobs)).collect();
    let Documents { digest, config: image, .. } =
        documents::stored(resolved, &Platform::host(), &places)?;
    let (source, run) = (reference.clone().into(), config.squashfs.run);
    let tree = || held(node, &source, digest.clone(), &image).ok().flatten();
    let mounted = |rootfs| {
        let (source, digest, config) = (source.clone(), digest.clone(), image.clone());
        Image { source, digest, config, rootfs, form: Form::Squashfs, hold: Hold::default() }
    };
    let file = || mountable(stores(), &digest, run);
    let found = match run {
        SquashfsRun::Expand => tree(),
        // An image that is expanded already is quicker from there.
        SquashfsRun::Auto => match tree() {
            None if may_mount() => file().ok()?.map(mounted),
            tree => tree,
        },
        SquashfsRun::Mount => file().ok()?.map(mounted).or_else(tree),
    };
    if let (Some(_), Some(store)) = (&found, &own) {
        store.touch(&digest);
    }
    found
}

/// The image as one file, if one of the stores has it as that, and it is to be mounted. It has to be the
/// caller's own: `Err` is the path of one that is not, where the site insists.
pub(crate) fn mountable<'a>(
    stores: impl Iterator<Item = &'a Store>,
    image: &Digest,
    run: SquashfsRun,
) -> Result<Option<PathBuf>, PathBuf> {
    if run == SquashfsRun::Expand {
        return Ok(None);
    }
    let found: Vec<_> = stores.filter_map(|store| store.squashfs(image)).collect();
    match (found.iter().find(|squashfs| squashfs.is_own), found.first()) {
        (Some(own), _) => Ok(Some(own.path.clone())),
        (None, Some(foreign)) if run == SquashfsRun::Mount => Err(foreign.path.clone()),
        (None, _) => Ok(None),
    }
}

/// The image of which this is the manifest's digest, if it is expanded on this node.
pub(crate) fn on_node(
    node: &Node,
    source: &Source,
    digest: &Digest,
) -> Result<Option<Image>, store::Error> {
    match documents::stored(digest, &Platform::host(), &[node.blobs()]) {
        Some(documents) => held(node, source, documents.digest, &documents.config),
        None => Ok(None),
    }
}

/// The same of an image whose documents are known.
pub(crate) fn held(
    node: &Node,
    source: &Source,
    digest: Digest,
    config: &ImageConfig,
) -> Result<Option<Image>, store::Error> {
    Ok(node.hold(&digest)?.map(|(rootfs, hold)| {
        node.note(&digest, source);
        let (source, config) = (source.clone(), config.clone());
        Image { source, digest, config, rootfs, form: Form::Tree, hold }
    }))
}
