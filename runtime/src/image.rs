//! The one thing that the two halves of this library share.

use std::path::PathBuf;

use crate::{digest::Digest, oci::ImageConfig, reference::Reference};

/// An image that lies complete and verified on this node. Holding one is the proof: only
/// `pull::ensure` makes them.
#[derive(Debug, Clone)]
pub struct Image {
    /// The name that it was asked for by.
    pub reference: Reference,
    /// The digest of this platform's manifest.
    pub digest: Digest,
    /// How to run it.
    pub config: ImageConfig,
    /// The expanded tree: complete, owned by the caller, never written to again.
    pub rootfs: PathBuf,
}
