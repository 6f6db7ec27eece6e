//! Archives of `docker save`, `podman save` and skopeo's `docker-archive:`.
//!
//! `manifest.json` names the configurations, whose name is their digest, and the layers, whose
//! digests are in the configuration: of uncompressed layers, which most are, that is all there is
//! to check, and it is checked as they are read.

use std::{collections::HashMap, io::Read as _};

use serde::Deserialize;

use super::{
    Error,
    archive::Place,
    input::{Input, failed},
    layout::is_same,
    made, other_content,
    pack::Workshop,
};
use crate::{
    digest::Digest,
    oci::{self, Compression, Descriptor, ImageConfig, MAX_LAYERS},
    pull::{Extent, Local},
    source::Packing,
};

/// One image of `manifest.json`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Entry {
    fn tags(&self) -> &[String] {
        self.repo_tags.as_deref().unwrap_or_default()
    }
}

/// Finds the image, and where its layers are.
pub(super) fn open(input: &Input, place: &Place, workshop: &Workshop<'_>) -> Result<Local, Error> {
    let file = || input.shown.clone();
    let document = |source| Error::Document { file: file(), source };
    let missing = |what: String| Error::Missing { file: file(), what };
    let read = |name: &str| {
        place.read(name, input).and_then(|bytes| bytes.ok_or_else(|| missing(name.to_owned())))
    };
    let manifest = read("manifest.json")?;
    let images: Vec<Entry> = serde_json::from_slice(&manifest)
        .map_err(|source| document(oci::Error::Json { what: "manifest.json", source }))?;
    let image = choose(&images, input)?;
    let raw_config = read(&image.config)?;
    check_name(&image.config, &raw_config, input)?;

    let json = |source| document(oci::Error::Json { what: "configuration", source });
    let early: ImageConfig = serde_json::from_slice(&raw_config).map_err(json)?;
    let diff_ids = early.rootfs.diff_ids.clone();
    let (count, layers) = (diff_ids.len(), image.layers.len());
    if count != layers {
        return Err(document(oci::Error::LayerCount { diff_ids: count, layers }));
    }
    if layers > MAX_LAYERS {
        return Err(document(oci::Error::TooManyLayers(layers)));
    }
    let mut files = HashMap::new();
    let mut descriptors = Vec::new();
    for (name, diff_id) in image.layers.iter().zip(&diff_ids) {
        let found = place.find(name, input)?;
        let extent = found.ok_or_else(|| missing(format!("layer {name}")))?;
        let (layer, extent) = layer(name, diff_id, extent, input, workshop)?;
        files.insert(layer.digest.clone(), extent);
        descriptors.push(layer);
    }
    let mut documents = made::documents(raw_config, early, descriptors);
    // As strictly as any other is read.
    let (_, raw_config) = &documents.raw[1];
    documents.config = ImageConfig::parse(raw_config, &documents.manifest).map_err(document)?;
    Ok(Local { documents, files, check_diff_ids: true })
}

/// How a layer goes into a store.
fn layer(
    name: &str,
    diff_id: &Digest,
    extent: Extent,
    input: &Input,
    workshop: &Workshop<'_>,
) -> Result<(Descriptor, Extent), Error> {
    let mut head = Vec::new();
    let read = extent.open()?.take(6).read_to_end(&mut head);
    read.map_err(failed("read", &extent.path))?;
    match Packing::sniff(&head) {
        Packing::Oci(Compression::None) => {
            let layer = made::descriptor(Compression::None, diff_id.clone(), extent.size);
            Ok((layer, extent))
        }
        Packing::Oci(packing) => {
            let digest = workshop.digest(&extent)?;
            Ok((made::descriptor(packing, digest, extent.size), extent))
        }
        packing => {
            let made = workshop.repack(&extent, packing)?;
            if made.diff_id != *diff_id {
                let what = format!("layer {name}");
                return Err(other_content(&input.shown, what, diff_id, &made.diff_id));
            }
            Ok((made.layer, made.extent))
        }
    }
}

/// All tools name the configuration by its digest.
fn check_name(name: &str, bytes: &[u8], input: &Input) -> Result<(), Error> {
    let hex = name.rsplit('/').next().unwrap_or(name).trim_end_matches(".json");
    let Ok(expected) = Digest::parse(&format!("sha256:{hex}")) else { return Ok(()) };
    match Digest::of(bytes) {
        got if got == expected => Ok(()),
        got => Err(other_content(&input.shown, format!("configuration {name}"), &expected, &got)),
    }
}

fn choose<'a>(images: &'a [Entry], input: &Input) -> Result<&'a Entry, Error> {
    let file = || input.shown.clone();
    let names = || {
        let named = images.iter().map(|image| match image.tags() {
            [] => image.config.chars().take(12).collect(),
            tags => tags.join(" = "),
        });
        named.collect::<Vec<String>>()
    };
    let Some(name) = &input.name else {
        return match images {
            [only] => Ok(only),
            [] => Err(Error::Missing { file: file(), what: "any image".to_owned() }),
            _ => Err(Error::Several { file: file(), names: names() }),
        };
    };
    let is_meant = |image: &&Entry| {
        let by_digest = name.len() >= 12 && image.config.starts_with(name.as_str());
        by_digest || image.tags().iter().any(|tag| is_same(tag, name))
    };
    images.iter().find(is_meant).ok_or_else(|| Error::NoSuchName {
        file: file(),
        name: name.clone(),
        names: names(),
    })
}
