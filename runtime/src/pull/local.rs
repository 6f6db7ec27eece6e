//! Images that lie in files of the user's, and not in a registry.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Seek as _, SeekFrom},
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
};

use super::{Error, Event, MAX_BRINGS, Pull, Pulled, Remote, To};
use crate::{
    cached,
    config::Config,
    digest::Digest,
    documents::Documents,
    image::Image,
    reference::Reference,
    source::Source,
    store::{self, Node, Store},
};

/// A part of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) path: PathBuf,
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

impl Extent {
    /// Opens it, and waits for nobody: the name may be a fifo's by now.
    pub(crate) fn open(&self) -> Result<io::Take<File>, store::Error> {
        let wrong = |error| store::Error::new("open", &self.path, error);
        let mut options = File::options();
        options.read(true).custom_flags(libc::O_NONBLOCK);
        let mut file = options.open(&self.path).map_err(wrong)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(wrong)?;
        Ok(file.take(self.size))
    }
}

/// An image whose documents are read and whose layers lie in files.
#[derive(Debug)]
pub(crate) struct Local {
    pub(crate) documents: Documents,
    pub(crate) files: HashMap<Digest, Extent>,
    /// Nothing but the configuration vouches for the content of the layers.
    pub(crate) check_diff_ids: bool,
}

/// Brings an image from files to where a pull would put it, under the name `reference`.
pub(crate) fn bring(
    local: Local,
    reference: &Reference,
    to: To,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Pulled, Error> {
    let store = match to {
        To::Node => Store::open(&config.store),
        To::Store | To::Both => Some(Store::create(&config.store)?),
    };
    let node = match to {
        To::Store => None,
        To::Node | To::Both => Some(Node::open(&config.node_dir).map_err(Error::Node)?),
    };
    let remote = Remote::new(None, config);
    let mut pull = Pull::new(config, &remote, store, node);
    pull.reference = Some(reference);
    pull.keep = to != To::Node;
    pull.check_archives = true;
    let documents = take(&mut pull, local)?;
    let unchanged = pull.bring_as_wanted(&documents, tell)?;
    Ok(Pulled { digest: documents.digest, unchanged })
}

/// Makes sure that an image that lies in files is on this node, and returns it. The store is not
/// filled, but what it has is not read again.
pub(crate) fn ensure_local(
    local: Local,
    source: &Source,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Image, Error> {
    let node = Node::open(&config.node_dir).map_err(Error::Node)?;
    let remote = Remote::new(None, config);
    let mut pull = Pull::new(config, &remote, Store::open(&config.store), Some(node.clone()));
    let documents = take(&mut pull, local)?;
    for _ in 0..MAX_BRINGS {
        pull.bring(&documents, tell)?;
        // Between the two, another process may have removed it.
        let digest = documents.digest.clone();
        let held = cached::held(&node, source, digest, &documents.config).map_err(Error::Node)?;
        if let Some(image) = held {
            return Ok(image);
        }
    }
    Err(Error::Removed { digest: documents.digest })
}

fn take(pull: &mut Pull<'_>, local: Local) -> Result<Documents, Error> {
    pull.files = local.files;
    pull.check_diff_ids |= local.check_diff_ids;
    if let Some(node) = &pull.node {
        for (digest, document) in &local.documents.raw {
            node.blobs().put_document(digest, document).map_err(Error::Node)?;
        }
    }
    Ok(local.documents)
}
