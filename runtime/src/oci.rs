//! The documents that describe an image (OCI image specification 1.1 and Docker schema 2).
//!
//! Only the fields that are used are read. What is ambiguous or of another kind is refused by
//! name (SECURITY R15): a document that two programs read differently is an attack on one of them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::digest::Digest;

/// Media types of the image index and Docker's manifest list.
pub const INDEX_TYPES: [&str; 2] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
];
/// Media types of the image manifest, OCI's and Docker's.
pub const MANIFEST_TYPES: [&str; 2] = [
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];
/// Largest manifest, index or configuration that is read, in bytes (SECURITY R16).
pub const MAX_DOCUMENT: u64 = 4 << 20;
/// Largest number of layers (SECURITY R9).
pub const MAX_LAYERS: usize = 1024;

/// Content by reference (descriptor.md).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    #[serde(default)]
    pub media_type: String,
    /// Its name.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// Which machine it is for, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// `org.opencontainers.image.ref.name` and its kin.
    #[serde(
        default,
        skip_serializing_if = "BTreeMap::is_empty",
        deserialize_with = "null_is_empty"
    )]
    pub annotations: BTreeMap<String, String>,
}

/// The machine that a manifest is for (image-index.md, "platform").
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// Go's name of the processor, e.g. `amd64`.
    pub architecture: String,
    /// Go's name of the operating system, e.g. `linux`.
    pub os: String,
    /// e.g. `v8` of `arm64`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The machine that this program runs on.
    pub fn host() -> Platform {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", None),
            "aarch64" => ("arm64", Some("v8")),
            "powerpc64" => ("ppc64le", None),
            "riscv64" => ("riscv64", None),
            other => (other, None),
        };
        Platform {
            architecture: architecture.to_owned(),
            os: "linux".to_owned(),
            variant: variant.map(str::to_owned),
        }
    }

    /// Reads `OS/ARCHITECTURE[/VARIANT]`, as docker writes it.
    pub fn parse(text: &str) -> Option<Platform> {
        let parts: Vec<_> = text.split('/').collect();
        let is_word = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
        };
        let (os, architecture, variant) = match parts[..] {
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant)),
            _ => return None,
        };
        parts.iter().all(is_word).then(|| Platform {
            architecture: architecture.to_owned(),
            os: os.to_owned(),
            variant: variant.map(str::to_owned),
        })
    }

    /// Whether an image for `self` runs on `host`. A variant that only one side names is no
    /// contradiction: `arm64` and `arm64/v8` are the same machine.
    pub fn runs_on(&self, host: &Platform) -> bool {
        self.os == host.os
            && self.architecture == host.architecture
            && match (&self.variant, &host.variant) {
                (Some(image), Some(host)) => image == host,
                _ => true,
            }
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

/// An image for one platform (manifest.md).
#[derive(Debug, Clone)]
pub struct Manifest {
    /// OCI's or Docker's.
    pub media_type: String,
    /// The image configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
}

impl Manifest {
    /// The sum of the layers' compressed sizes, in bytes.
    pub fn download_size(&self) -> u64 {
        self.layers.iter().fold(0, |sum, layer| sum.saturating_add(layer.size))
    }
}

/// What a manifest URL can answer.
#[derive(Debug, Clone)]
pub enum Document {
    /// One platform's image.
    Manifest(Manifest),
    /// A choice of images by platform (image-index.md).
    Index(Vec<Descriptor>),
}

/// Why a document is not an image's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not JSON of the expected shape.
    #[error("not a valid {what}")]
    Json {
        /// manifest or configuration.
        what: &'static str,
        /// serde's account.
        source: serde_json::Error,
    },
    /// A kind of document or layer that is no container image's.
    #[error("{what} type {media_type:?} is not supported")]
    Type {
        /// manifest or layer.
        what: &'static str,
        /// As the document says.
        media_type: String,
    },
    /// Docker's format of before 2016.
    #[error(
        "Docker schema 1 manifests are not supported; push the image again with a current tool"
    )]
    SchemaOne,
    /// A key that other readers take for one that is known.
    #[error("ambiguous {what}: {key:?} is {meant:?} to other tools")]
    Spelling {
        /// manifest or configuration.
        what: &'static str,
        /// As the document writes it.
        key: String,
        /// As it should.
        meant: &'static str,
    },
    /// Readable in two ways (CVE-2021-41190).
    #[error("ambiguous manifest: {0}")]
    Ambiguous(&'static str),
    /// A document of another length than its descriptor says.
    #[error("manifest {digest}: expected {expected} bytes, got {got}")]
    Size {
        /// Which.
        digest: Digest,
        /// Bytes by the descriptor.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// No image for this machine.
    #[error("no image for {wanted}; {}", offers(offered))]
    NoPlatform {
        /// This machine, or what was asked for.
        wanted: Platform,
        /// What the index lists.
        offered: Vec<String>,
    },
    /// The configuration and the manifest contradict each other.
    #[error("configuration lists {diff_ids} layers, manifest {layers}")]
    LayerCount {
        /// rootfs.diff_ids in the configuration.
        diff_ids: usize,
        /// layers in the manifest.
        layers: usize,
    },
    /// Beyond [`MAX_LAYERS`].
    #[error("{0} layers; at most {MAX_LAYERS} are read")]
    TooManyLayers(usize),
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    schema_version: u32,
    media_type: Option<String>,
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    manifests: Option<Vec<Descriptor>>,
    #[serde(rename = "fsLayers")]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index. `content_type` is what the transport called it, if anything.
    pub fn parse(bytes: &[u8], content_type: Option<&str>) -> Result<Document, Error> {
        let raw: RawDocument = read(bytes, "manifest", |document| {
            let entries = ["layers", "manifests"].into_iter().flat_map(|key| each(&document[key]));
            let descriptors: Vec<_> = entries.chain([&document["config"]]).collect();
            let platforms =
                descriptors.iter().map(|descriptor| (&descriptor["platform"], PLATFORM));
            let descriptors = descriptors.iter().map(|descriptor| (*descriptor, DESCRIPTOR));
            descriptors.chain(platforms).chain([(document, DOCUMENT)]).collect()
        })?;
        if raw.schema_version == 1 || raw.fs_layers.is_some() {
            return Err(Error::SchemaOne);
        }
        let known = |t: &&str| INDEX_TYPES.contains(t) || MANIFEST_TYPES.contains(t);
        let said = raw.media_type.as_deref();
        if let Some(media_type) = said.filter(|t| !known(t)) {
            return Err(Error::Type { what: "manifest", media_type: media_type.to_owned() });
        }
        if let (Some(said), Some(sent)) = (said, content_type.filter(known))
            && said != sent
        {
            return Err(Error::Ambiguous("its mediaType is not its Content-Type"));
        }
        let kind = said.or(content_type.filter(known));
        match (raw.manifests, raw.config, raw.layers) {
            (Some(_), _, Some(_)) | (Some(_), Some(_), _) => {
                Err(Error::Ambiguous("it has both manifests and layers"))
            }
            (Some(manifests), None, None) => match kind {
                Some(kind) if !INDEX_TYPES.contains(&kind) => {
                    Err(Error::Ambiguous("it calls itself a manifest and is an index"))
                }
                _ => Ok(Document::Index(manifests)),
            },
            (None, Some(config), Some(layers)) => {
                if kind.is_some_and(|kind| !MANIFEST_TYPES.contains(&kind)) {
                    return Err(Error::Ambiguous("it calls itself an index and is a manifest"));
                }
                if layers.len() > MAX_LAYERS {
                    return Err(Error::TooManyLayers(layers.len()));
                }
                for layer in &layers {
                    Compression::of(&layer.media_type)?;
                }
                let media_type = kind.unwrap_or(MANIFEST_TYPES[0]).to_owned();
                Ok(Document::Manifest(Manifest { media_type, config, layers }))
            }
            _ => Err(Error::Type {
                what: "manifest",
                media_type: said.or(content_type).unwrap_or("unknown").to_owned(),
            }),
        }
    }
}

/// Chooses the manifest for `host` from an index. The first match wins, as in containerd.
pub fn choose<'a>(index: &'a [Descriptor], host: &Platform) -> Result<&'a Descriptor, Error> {
    // Build attestations are listed as unknown/unknown; they are no images.
    let images = || {
        index.iter().filter(|d| {
            d.platform.as_ref().is_none_or(|p| p.os != "unknown")
                && (d.media_type.is_empty()
                    || MANIFEST_TYPES.contains(&d.media_type.as_str())
                    || INDEX_TYPES.contains(&d.media_type.as_str()))
        })
    };
    let mut candidates = images();
    let only = (candidates.next(), candidates.next());
    if let (Some(only), None) = only
        && only.platform.is_none()
    {
        return Ok(only);
    }
    images().find(|d| d.platform.as_ref().is_some_and(|p| p.runs_on(host))).ok_or_else(|| {
        let offered = images().filter_map(|d| d.platform.as_ref().map(Platform::to_string));
        Error::NoPlatform { wanted: host.clone(), offered: offered.collect() }
    })
}

fn offers(offered: &[String]) -> String {
    match offered {
        [] => "its images are for no platform that is named".to_owned(),
        offered => format!("it has {}", offered.join(", ")),
    }
}

/// How a layer's tar stream is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// RFC 1952, possibly several members.
    Gzip,
    /// RFC 8878, possibly several frames.
    Zstd,
}

impl Compression {
    /// What a layer's media type promises. The bytes decide in the end: [`Compression::sniff`].
    pub fn of(media_type: &str) -> Result<Compression, Error> {
        match media_type {
            "application/vnd.oci.image.layer.v1.tar"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar"
            | "application/vnd.docker.image.rootfs.diff.tar" => Ok(Compression::None),
            "application/vnd.oci.image.layer.v1.tar+gzip"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
            | "application/vnd.docker.image.rootfs.diff.tar.gzip"
            | "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => Ok(Compression::Gzip),
            "application/vnd.oci.image.layer.v1.tar+zstd"
            | "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd" => {
                Ok(Compression::Zstd)
            }
            other => Err(Error::Type { what: "layer", media_type: other.to_owned() }),
        }
    }

    /// What the first bytes of a blob say. Registries hold layers whose media type lies, and every
    /// other tool goes by the magic numbers.
    pub fn sniff(head: &[u8]) -> Compression {
        match head {
            [0x1f, 0x8b, ..] => Compression::Gzip,
            // A zstd frame, or one of the skippable frames that zstd:chunked begins with.
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
            _ => Compression::None,
        }
    }
}

/// An image configuration (config.md): the part that a run needs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageConfig {
    /// Processor, Go's name.
    #[serde(default)]
    pub architecture: String,
    /// Operating system, Go's name.
    #[serde(default)]
    pub os: String,
    /// RFC 3339 time of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// How to run it.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub config: RunConfig,
    /// Of which layers it is made.
    #[serde(default)]
    pub rootfs: RootFs,
}

/// The execution parameters of an image (config.md, "config"). `User` is not among them: the
/// process is always the caller's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct RunConfig {
    /// `NAME=VALUE` each.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub env: Vec<String>,
    /// Put in front of the command.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub entrypoint: Vec<String>,
    /// The command, where the user names none.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub cmd: Vec<String>,
    /// Where it starts.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub working_dir: String,
    /// Free annotations.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub labels: BTreeMap<String, String>,
}

impl RunConfig {
    /// The value of a variable; the last counts.
    pub fn variable(&self, name: &str) -> Option<&str> {
        let entries = self.env.iter().rev().filter_map(|entry| entry.split_once('='));
        entries.into_iter().find_map(|(other, value)| (other == name).then_some(value))
    }
}

/// The layers' uncompressed digests (config.md, "rootfs").
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Digests of the uncompressed layers, lowest first.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub diff_ids: Vec<Digest>,
}

impl ImageConfig {
    /// Reads a configuration and holds it against its manifest.
    pub fn parse(bytes: &[u8], manifest: &Manifest) -> Result<ImageConfig, Error> {
        let config: ImageConfig = read(bytes, "configuration", |document| {
            vec![
                (document, CONFIG),
                (&document["config"], RUN_CONFIG),
                (&document["rootfs"], &["diff_ids"]),
            ]
        })?;
        let (diff_ids, layers) = (config.rootfs.diff_ids.len(), manifest.layers.len());
        if diff_ids != layers {
            return Err(Error::LayerCount { diff_ids, layers });
        }
        Ok(config)
    }
}

/// The keys that are read, by what they are read of.
const DOCUMENT: &[&str] =
    &["schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers"];
const DESCRIPTOR: &[&str] = &["mediaType", "digest", "size", "platform", "annotations"];
const PLATFORM: &[&str] = &["architecture", "os", "variant"];
const CONFIG: &[&str] = &["architecture", "os", "created", "config", "rootfs"];
const RUN_CONFIG: &[&str] = &["Env", "Entrypoint", "Cmd", "WorkingDir", "Labels"];

/// Reads a document that has one reading. Go's readers, which all other tools use, take a key for one
/// of these in whatever case it is written, and of several the last one counts: `layers` and `Layers`
/// are two images in one document (SECURITY R15).
fn read<T: serde::de::DeserializeOwned>(
    bytes: &[u8],
    what: &'static str,
    objects: impl FnOnce(&Value) -> Vec<(&Value, &'static [&'static str])>,
) -> Result<T, Error> {
    let wrong = |source| Error::Json { what, source };
    let typed = serde_json::from_slice(bytes).map_err(wrong)?;
    let document: Value = serde_json::from_slice(bytes).map_err(wrong)?;
    for (object, known) in objects(&document) {
        for key in object.as_object().into_iter().flatten().map(|(key, _)| key.as_str()) {
            let meant = known.iter().find(|known| is_same_in_go(known, key));
            if let Some(meant) = meant.filter(|meant| **meant != key) {
                return Err(Error::Spelling { what, key: key.to_owned(), meant });
            }
        }
    }
    Ok(typed)
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

/// Whether Go's encoding/json takes two keys for the same: the long s and the sign of the unit kelvin
/// are letters s and k to it.
fn is_same_in_go(known: &str, key: &str) -> bool {
    let folded = |c| match c {
        '\u{17f}' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    known.chars().map(folded).eq(key.chars().map(folded))
}

/// Docker writes `null` where it means nothing.
fn null_is_empty<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn manifest(extra: &str, layer_type: &str) -> String {
        format!(
            r#"{{"schemaVersion":2{extra},"config":{{"digest":"{D}","size":2}},
               "layers":[{{"mediaType":"{layer_type}","digest":"{D}","size":1}}]}}"#
        )
    }

    #[test]
    fn both_dialects_are_read() {
        for (kind, layer) in [
            (MANIFEST_TYPES[0], "application/vnd.oci.image.layer.v1.tar+zstd"),
            (MANIFEST_TYPES[1], "application/vnd.docker.image.rootfs.diff.tar.gzip"),
        ] {
            let text = manifest(&format!(r#","mediaType":"{kind}""#), layer);
            assert!(matches!(
                Document::parse(text.as_bytes(), Some(kind)),
                Ok(Document::Manifest(m)) if m.layers.len() == 1
            ));
        }
    }

    /// SECURITY R15.
    #[test]
    fn what_is_not_an_image_is_refused_by_name() {
        let layer = "application/vnd.oci.image.layer.v1.tar";
        let index = format!(r#","manifests":[{{"digest":"{D}","size":1}}]"#);
        let oci = format!(r#","mediaType":"{}""#, MANIFEST_TYPES[0]);
        for (text, sent, problem) in [
            (r#"{"schemaVersion":1,"fsLayers":[]}"#.to_owned(), None, "schema 1"),
            (manifest(&index, layer), None, "both manifests and layers"),
            (manifest(&oci, layer), Some(INDEX_TYPES[0]), "mediaType is not its Content-Type"),
            (manifest("", layer), Some(INDEX_TYPES[0]), "calls itself an index"),
            (manifest("", "application/vnd.cncf.helm.chart.content.v1.tar+gzip"), None, "helm"),
            (manifest(r#","mediaType":"text/html""#, layer), None, "text/html"),
            ("{}".to_owned(), Some("text/html"), "text/html"),
            ("<html>".to_owned(), None, "not a valid manifest"),
            (manifest("", layer).replace(D, "sha256:../../etc"), None, "hexadecimal"),
            (manifest(r#","Layers":[]"#, layer), None, r#""Layers" is "layers""#),
            (manifest(r#","manife\u017ft\u017f":[]"#, layer), None, r#"is "manifests""#),
            (manifest("", layer).replace("digest", "DIGEST"), None, "missing field"),
            (
                manifest("", layer).replace(r#""size":1"#, r#""size":1,"Size":2"#),
                None,
                r#""Size" is "size""#,
            ),
        ] {
            let error = Document::parse(text.as_bytes(), sent).expect_err(&text);
            let error = crate::report::chain(&error);
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn an_index_is_searched_for_this_machine() {
        let entry = |os: &str, architecture: &str| Descriptor {
            media_type: MANIFEST_TYPES[0].to_owned(),
            digest: Digest::of(architecture.as_bytes()),
            size: 1,
            platform: Some(Platform {
                architecture: architecture.to_owned(),
                os: os.to_owned(),
                variant: None,
            }),
            annotations: BTreeMap::new(),
        };
        let index = [entry("unknown", "unknown"), entry("linux", "s390x"), entry("linux", "amd64")];
        let host = Platform { architecture: "amd64".into(), os: "linux".into(), variant: None };
        assert_eq!(choose(&index, &host).expect("amd64").digest, Digest::of(b"amd64"));
        let error = choose(&index[..2], &host).expect_err("no amd64").to_string();
        assert_eq!(error, "no image for linux/amd64; it has linux/s390x");
    }

    #[test]
    fn nulls_of_docker_are_empty() {
        let text = r#"{"config":{"Env":null,"Cmd":null,"Labels":null},"rootfs":{"diff_ids":[]}}"#;
        let manifest = Manifest {
            media_type: String::new(),
            config: Descriptor {
                media_type: String::new(),
                digest: Digest::of(b""),
                size: 0,
                platform: None,
                annotations: BTreeMap::new(),
            },
            layers: vec![],
        };
        let config = ImageConfig::parse(text.as_bytes(), &manifest).expect("valid");
        assert_eq!(config.config, RunConfig::default());
    }
}
