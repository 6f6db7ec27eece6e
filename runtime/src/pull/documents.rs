//! From a digest to the manifest and the configuration for this machine.

use std::collections::BTreeMap;

use super::{Error, Event, Remote};
use crate::{
    digest::Digest,
    oci::{self, Descriptor, Document, ImageConfig, Manifest, Platform},
    store::Blobs,
};

/// How many indexes may stand between a name and its manifest (SECURITY R9).
const MAX_NESTING: usize = 4;

/// What describes one image, verified.
#[derive(Debug)]
pub(crate) struct Documents {
    /// What the name stood for: the digest of an index or of the manifest itself.
    pub(crate) resolved: Digest,
    /// The digest of the manifest.
    pub(crate) digest: Digest,
    pub(crate) manifest: Manifest,
    pub(crate) config: ImageConfig,
    /// All of them as they came: indexes, manifest, configuration.
    pub(crate) raw: Vec<(Digest, Vec<u8>)>,
}

impl Documents {
    /// All that the image consists of.
    pub(super) fn parts(&self) -> Vec<&Digest> {
        let layers = self.manifest.layers.iter().map(|layer| &layer.digest);
        self.raw.iter().map(|(digest, _)| digest).chain(layers).collect()
    }

    /// The manifest's own descriptor.
    pub(super) fn descriptor(&self) -> Descriptor {
        let size = self.raw.iter().find(|(digest, _)| *digest == self.digest);
        Descriptor {
            media_type: self.manifest.media_type.clone(),
            digest: self.digest.clone(),
            size: size.map_or(0, |(_, bytes)| bytes.len() as u64),
            platform: None,
            annotations: BTreeMap::new(),
        }
    }
}

/// Where a document may lie on this machine.
pub(crate) type Here<'a> = dyn Fn(&Digest) -> Result<Option<Vec<u8>>, Error> + 'a;

/// Looks for documents in stores, one after the other.
pub(super) fn found_in<'a>(
    local: &'a [&'a Blobs],
) -> impl Fn(&Digest) -> Result<Option<Vec<u8>>, Error> + 'a {
    |digest| Ok(local.iter().find_map(|blobs| blobs.document(digest)))
}

/// Reads the documents, from `here` where they are there, else from the registry.
pub(super) fn find(
    resolved: Digest,
    here: &Here<'_>,
    platform: &Platform,
    remote: &Remote<'_>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Documents, Error> {
    let mut raw = Vec::new();
    let mut digest = resolved.clone();
    let mut expected_size = None;
    for _ in 0..MAX_NESTING {
        let (bytes, content_type) = match here(&digest)? {
            Some(bytes) => (bytes, None),
            None => {
                let connected = remote.get()?;
                let fetched = connected.registry.manifest(digest.as_str());
                let fetched = remote.wait(connected, fetched, tell)?;
                (fetched.bytes, fetched.content_type)
            }
        };
        let got = bytes.len() as u64;
        if let Some(expected) = expected_size.filter(|expected| *expected != got) {
            return Err(Error::DocumentSize { digest, expected, got });
        }
        let document = Document::parse(&bytes, content_type.as_deref())?;
        raw.push((digest.clone(), bytes));
        match document {
            Document::Index(index) => {
                let chosen = oci::choose(&index, platform)?;
                digest = chosen.digest.clone();
                expected_size = Some(chosen.size);
            }
            Document::Manifest(manifest) => {
                let bytes = match here(&manifest.config.digest)? {
                    Some(bytes) => bytes,
                    None => {
                        let connected = remote.get()?;
                        let fetched = connected.registry.document(&manifest.config);
                        remote.wait(connected, fetched, tell)?
                    }
                };
                let config = ImageConfig::parse(&bytes, &manifest)?;
                raw.push((manifest.config.digest.clone(), bytes));
                return Ok(Documents { resolved, digest, manifest, config, raw });
            }
        }
    }
    Err(oci::Error::Ambiguous("indexes within indexes").into())
}
