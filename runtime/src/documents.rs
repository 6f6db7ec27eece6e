//! From a digest to the manifest and the configuration for this machine.

use std::collections::BTreeMap;

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
    pub(crate) fn parts(&self) -> Vec<&Digest> {
        let layers = self.manifest.layers.iter().map(|layer| &layer.digest);
        self.raw.iter().map(|(digest, _)| digest).chain(layers).collect()
    }

    /// The manifest's own descriptor.
    pub(crate) fn descriptor(&self) -> Descriptor {
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

/// One of them, which is to be found by its digest.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Part<'a> {
    /// An index or a manifest: which of the two, it says itself, or who brings it.
    Manifest(&'a Digest),
    /// A configuration.
    Config(&'a Descriptor),
}

impl Part<'_> {
    pub(crate) fn digest(&self) -> &Digest {
        match self {
            Part::Manifest(digest) => digest,
            Part::Config(descriptor) => &descriptor.digest,
        }
    }
}

/// What was found: the document, and its media type if that was told beside it.
pub(crate) type Found = (Vec<u8>, Option<String>);

/// Finds all of them, from `resolved` on, by asking `fetch` for one after the other. `wrong` makes the
/// caller's error of what they say.
pub(crate) fn find<E>(
    resolved: Digest,
    platform: &Platform,
    fetch: &mut dyn FnMut(Part<'_>) -> Result<Found, E>,
    wrong: &dyn Fn(oci::Error) -> E,
) -> Result<Documents, E> {
    let mut raw = Vec::new();
    let mut digest = resolved.clone();
    let mut expected_size = None;
    for _ in 0..MAX_NESTING {
        let (bytes, content_type) = fetch(Part::Manifest(&digest))?;
        let got = bytes.len() as u64;
        if let Some(expected) = expected_size.filter(|expected| *expected != got) {
            return Err(wrong(oci::Error::Size { digest, expected, got }));
        }
        let document = Document::parse(&bytes, content_type.as_deref()).map_err(wrong)?;
        raw.push((digest.clone(), bytes));
        match document {
            Document::Index(index) => {
                let chosen = oci::choose(&index, platform).map_err(wrong)?;
                digest = chosen.digest.clone();
                expected_size = Some(chosen.size);
            }
            Document::Manifest(manifest) => {
                let (bytes, _) = fetch(Part::Config(&manifest.config))?;
                let config = ImageConfig::parse(&bytes, &manifest).map_err(wrong)?;
                raw.push((manifest.config.digest.clone(), bytes));
                return Ok(Documents { resolved, digest, manifest, config, raw });
            }
        }
    }
    Err(wrong(oci::Error::Ambiguous("indexes within indexes")))
}

/// Finds them in what is kept on this machine, which is searched in this order. Documents that are gone,
/// or damaged, are no trouble: the image is brought again.
pub(crate) fn stored(
    resolved: &Digest,
    platform: &Platform,
    places: &[&Blobs],
) -> Option<Documents> {
    let mut fetch = |part: Part<'_>| {
        let found = document_in(places, part.digest());
        found.map(|bytes| (bytes, None)).ok_or(())
    };
    find(resolved.clone(), platform, &mut fetch, &|_| ()).ok()
}

/// The first copy of a document.
pub(crate) fn document_in(places: &[&Blobs], digest: &Digest) -> Option<Vec<u8>> {
    places.iter().find_map(|blobs| blobs.document(digest))
}
