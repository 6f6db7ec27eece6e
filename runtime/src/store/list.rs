//! What is known of the images in a store, whatever state they are in.

use std::{fs, time::SystemTime};

use super::{Blobs, Entry, Error, Squashfs, Store};
use crate::{
    digest::Digest,
    oci::{self, Descriptor, Document, ImageConfig, Manifest, Platform},
};

/// Indexes within indexes that are looked into.
const MAX_NESTING: usize = 4;

/// Whether an image can be run as it lies there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// All of it is there.
    Complete,
    /// Something of it is not there.
    Incomplete,
    /// Something of it is not what its name says. The content of layers is not looked at.
    Damaged,
}

/// One name of an image in a store, and all that the store tells of it.
#[derive(Debug, Clone)]
pub struct Stored {
    /// The name, and what has it.
    pub entry: Entry,
    /// The manifest's digest.
    pub digest: Digest,
    /// The manifest, if it can be read.
    pub manifest: Option<Manifest>,
    /// The configuration, if it can be read.
    pub config: Option<ImageConfig>,
    /// Whether it can be run.
    pub state: State,
    /// The same as one file, if there is that.
    pub squashfs: Option<Squashfs>,
    /// When it was last used, or brought.
    pub used: Option<SystemTime>,
}

impl Store {
    /// All names of all images.
    pub fn images(&self) -> Result<Vec<Stored>, Error> {
        Ok(self.entries()?.into_iter().map(|entry| self.look_at(entry)).collect())
    }

    fn look_at(&self, entry: Entry) -> Stored {
        let mut digest = entry.target.digest.clone();
        let mut found = None;
        for _ in 0..MAX_NESTING {
            let bytes = self.blobs().document(&digest);
            match bytes.and_then(|bytes| Document::parse(&bytes, None).ok()) {
                Some(Document::Index(index)) => match oci::choose(&index, &Platform::host()) {
                    Ok(chosen) => digest = chosen.digest.clone(),
                    Err(_) => break,
                },
                Some(Document::Manifest(manifest)) => {
                    found = Some(manifest);
                    break;
                }
                None => break,
            }
        }
        let (used, squashfs) = (self.last_used(&digest), self.squashfs(&digest));
        let Some(manifest) = found else {
            let state = state_of(self.blobs(), &digest);
            return Stored { entry, digest, manifest: None, config: None, state, squashfs, used };
        };
        let config = self.blobs().document(&manifest.config.digest);
        let config = config.and_then(|bytes| ImageConfig::parse(&bytes, &manifest).ok());
        let mut states = vec![State::Complete];
        if config.is_none() {
            states.push(state_of(self.blobs(), &manifest.config.digest));
        }
        let missing = manifest.layers.iter().filter(|layer| self.blobs().find(layer).is_none());
        states.extend(missing.map(|layer: &Descriptor| state_of(self.blobs(), &layer.digest)));
        let state = match () {
            () if states.contains(&State::Damaged) => State::Damaged,
            () if states.contains(&State::Incomplete) => State::Incomplete,
            () => State::Complete,
        };
        Stored { entry, digest, manifest: Some(manifest), config, state, squashfs, used }
    }
}

/// What is wrong with a blob that is not as it should be.
fn state_of(blobs: &Blobs, digest: &Digest) -> State {
    match fs::symlink_metadata(blobs.path(digest)) {
        Ok(_) => State::Damaged,
        Err(_) => State::Incomplete,
    }
}
