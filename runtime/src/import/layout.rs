//! OCI image layouts, as directories and in archives (image-layout.md).

use std::collections::HashMap;

use super::{Error, archive::Place, input::Input, other_content, pack::Workshop};
use crate::{
    digest::Digest,
    documents::{self, Part},
    oci::{self, Descriptor, Document},
    pull::Local,
};

/// Annotations that name an image, by OCI and by containerd, whose `ctr export` docker uses.
const NAMES: [&str; 2] = ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// Finds the image, and where its layers are.
pub(super) fn open(input: &Input, place: &Place, workshop: &Workshop<'_>) -> Result<Local, Error> {
    let file = || input.shown.clone();
    let document = |source| Error::Document { file: file(), source };
    let missing = |what: String| Error::Missing { file: file(), what };
    let index = place.read("index.json", input)?.ok_or_else(|| missing("index.json".into()))?;
    let Document::Index(images) = Document::parse(&index, None).map_err(document)? else {
        let source = oci::Error::Ambiguous("index.json is no index");
        return Err(document(source));
    };
    let image = choose(&images, input, workshop)?;
    let blob = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let mut read = |part: Part<'_>| {
        let (digest, name) = (part.digest(), blob(part.digest()));
        let bytes = place.read(&name, input)?.ok_or_else(|| missing(name.clone()))?;
        match Digest::of(&bytes) {
            got if got == *digest => Ok((bytes, None)),
            got => Err(other_content(&input.shown, name, digest, &got)),
        }
    };
    let platform = &workshop.options.platform;
    let documents = documents::find(image.digest.clone(), platform, &mut read, &document)?;
    let size = documents.raw.first().map_or(0, |(_, bytes)| bytes.len() as u64);
    if size != image.size {
        return Err(other_size(input, blob(&image.digest), image.size, size));
    }
    let mut files = HashMap::new();
    for layer in &documents.manifest.layers {
        let name = blob(&layer.digest);
        let found = place.find(&name, input)?;
        let extent = found.ok_or_else(|| missing(format!("layer {name}")))?;
        if extent.size != layer.size {
            return Err(other_size(input, format!("layer {name}"), layer.size, extent.size));
        }
        files.insert(layer.digest.clone(), extent);
    }
    Ok(Local { documents, files, check_diff_ids: false })
}

fn other_size(input: &Input, what: String, expected: u64, got: u64) -> Error {
    let problem = format!("expected {expected} bytes, got {got}");
    Error::Damaged { file: input.shown.clone(), what, problem }
}

/// Of several images the one that was named; of one image for several machines, the one for this.
fn choose<'a>(
    images: &'a [Descriptor],
    input: &Input,
    workshop: &Workshop<'_>,
) -> Result<&'a Descriptor, Error> {
    let named = |image: &Descriptor, name: &str| {
        NAMES.iter().filter_map(|key| image.annotations.get(*key)).any(|other| is_same(other, name))
    };
    let names = || {
        let mut names: Vec<_> = images.iter().filter_map(name_of).cloned().collect();
        names.dedup();
        names
    };
    let file = || input.shown.clone();
    let candidates: Vec<Descriptor> = match &input.name {
        Some(name) => images.iter().filter(|image| named(image, name)).cloned().collect(),
        None => images.to_vec(),
    };
    if candidates.is_empty() {
        return Err(match &input.name {
            Some(name) => Error::NoSuchName { file: file(), name: name.clone(), names: names() },
            None => Error::Missing { file: file(), what: "any image".to_owned() },
        });
    }
    if candidates.iter().any(|image| name_of(image) != name_of(&candidates[0])) {
        return Err(Error::Several { file: file(), names: names() });
    }
    let chosen = match &candidates[..] {
        [only] => only,
        several => oci::choose(several, &workshop.options.platform)
            .map_err(|source| Error::Document { file: file(), source })?,
    };
    Ok(images.iter().find(|image| *image == chosen).expect("it was cloned from there"))
}

fn name_of(image: &Descriptor) -> Option<&String> {
    NAMES.iter().find_map(|key| image.annotations.get(*key))
}

/// Whether two names mean the same image: `alpine` is `docker.io/library/alpine:latest`.
pub(super) fn is_same(one: &str, other: &str) -> bool {
    let canonical = |name: &str| name.parse::<crate::Reference>().ok();
    one == other || canonical(one).is_some_and(|one| canonical(other) == Some(one))
}
