//! Manifests, indexes and configurations, called what they are or something else.

#![no_main]

use std::ffi::OsString;

use fuzz::{Seed, assert_printable, offer};
use libfuzzer_sys::fuzz_target;
use runtime::{
    Digest, environment,
    oci::{
        Compression, Descriptor, Document, Error, INDEX_TYPES, ImageConfig, MANIFEST_TYPES,
        MAX_LAYERS, Manifest, Platform, choose,
    },
    pull,
    report::Report,
};
use serde_json::{Value, json};

fuzz_target!(init: offer(seeds(), &WORDS, take), |data: &[u8]| {
    take(data);
});

/// What the first byte says that the registry called it.
const SENT: [Option<&str>; 8] = [
    None,
    Some(INDEX_TYPES[0]),
    Some(INDEX_TYPES[1]),
    Some(MANIFEST_TYPES[0]),
    Some(MANIFEST_TYPES[1]),
    Some("application/json"),
    Some("application/vnd.docker.distribution.manifest.v1+prettyjws"),
    Some("\u{1b}[2J"),
];
const LAYER_TYPES: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar+gzip",
    "application/vnd.oci.image.layer.v1.tar+zstd",
    "application/vnd.docker.image.rootfs.diff.tar.gzip",
    "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
];
const WORDS: [&[u8]; 40] = [
    b"\"schemaVersion\":2",
    b"\"mediaType\":",
    b"\"config\":",
    b"\"layers\":[",
    b"\"Layers\":[",
    b"\"manifests\":[",
    b"\"fsLayers\":[]",
    b"\"digest\":",
    b"\"size\":",
    b"\"platform\":",
    b"\"architecture\":",
    b"\"os\":",
    b"\"variant\":",
    b"\"annotations\":null",
    b"\"urls\":[]",
    b"\"rootfs\":",
    b"\"diff_ids\":",
    b"\"Env\":",
    b"\"Entrypoint\":",
    b"\"Cmd\":",
    b"\"WorkingDir\":",
    b"\"Labels\":",
    b"null",
    b"linux",
    b"amd64",
    b"arm64",
    b"unknown",
    b"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    b"18446744073709551615",
    b"1e3",
    b"\\u0000",
    b"\\u001b",
    INDEX_TYPES[0].as_bytes(),
    INDEX_TYPES[1].as_bytes(),
    MANIFEST_TYPES[0].as_bytes(),
    MANIFEST_TYPES[1].as_bytes(),
    LAYER_TYPES[0].as_bytes(),
    LAYER_TYPES[1].as_bytes(),
    LAYER_TYPES[2].as_bytes(),
    LAYER_TYPES[3].as_bytes(),
];

fn seeds() -> Vec<Seed> {
    let digest = Digest::of(b"").to_string();
    let mut seeds = Vec::new();
    let mut add = |sent: u8, good, document: Value| {
        seeds.push(([&[sent], document.to_string().as_bytes()].concat(), good));
    };
    for (sent, layer) in [(3, 0), (3, 1), (4, 2), (4, 3)] {
        let layer = json!({"mediaType": LAYER_TYPES[layer], "digest": digest, "size": 32654});
        let config = json!({"mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest, "size": 7023});
        let kind = SENT[usize::from(sent)];
        for sent in [sent, 0] {
            add(
                sent,
                true,
                json!({"schemaVersion": 2, "mediaType": kind, "config": config,
                "layers": [layer, layer], "annotations": {"org.opencontainers.image.created": "x"}}),
            );
        }
        add(sent, true, json!({"schemaVersion": 2, "config": config, "layers": []}));
        add(0, false, json!({"config": config, "layers": [layer], "manifests": []}));
        add(1, false, json!({"config": config, "layers": [layer]}));
    }
    for sent in [1, 2] {
        let entry = |kind: &str, os: &str, architecture: &str| {
            json!({"mediaType": kind, "digest": digest, "size": 527,
                "platform": {"os": os, "architecture": architecture, "variant": "v8"}})
        };
        let kind = SENT[usize::from(sent)];
        add(
            sent,
            true,
            json!({"schemaVersion": 2, "mediaType": kind, "manifests": [
            entry(MANIFEST_TYPES[0], "linux", "amd64"), entry(MANIFEST_TYPES[1], "linux", "arm64"),
            entry(INDEX_TYPES[0], "windows", "amd64"), entry("", "unknown", "unknown")]}),
        );
    }
    add(
        0,
        true,
        json!({"architecture": "amd64", "os": "linux", "created": "2024-05-01T00:00:00Z",
        "config": {"Env": ["PATH=/bin", "A==", "=", "SLURM_PROCID=1", "LD_PRELOAD=x"], "Cmd": ["sh"],
            "Entrypoint": ["/entry"], "WorkingDir": "/w", "Labels": {"a": "b"}, "User": "0:0"},
        "rootfs": {"type": "layers", "diff_ids": [digest, digest]}, "history": [{"empty_layer": true}]}),
    );
    add(
        0,
        true,
        json!({"config": {"Env": null, "Cmd": null, "Labels": null}, "rootfs": {"diff_ids": null}}),
    );
    add(6, false, json!({"schemaVersion": 1, "fsLayers": [{"blobSum": digest}], "history": []}));
    seeds
}

fn take(data: &[u8]) -> bool {
    let Some((first, bytes)) = data.split_first() else { return false };
    let sent = SENT[usize::from(*first) % SENT.len()];
    let as_document = told(Document::parse(bytes, sent));
    let is_document = as_document.is_some();
    // Another reader may stumble over half a surrogate in what the first does not look at.
    let Ok(other) = serde_json::from_slice::<Value>(bytes) else { return is_document };
    match as_document {
        Some(Document::Manifest(manifest)) => manifest_holds(&manifest, bytes, &other, sent),
        Some(Document::Index(index)) => index_holds(&index, &other),
        None => {}
    }
    configuration(bytes, &other) || is_document
}

/// What came of it; an error can be shown.
fn told<T>(result: Result<T, Error>) -> Option<T> {
    let told = |error| assert_printable(&Report::from(&pull::Error::from(error)).line);
    result.map_err(told).ok()
}

/// `other` is the document as a reader sees it that takes everything.
fn manifest_holds(manifest: &Manifest, bytes: &[u8], other: &Value, sent: Option<&str>) {
    for odd in ["manifests", "fsLayers"] {
        assert!(other[odd].is_null(), "a manifest with {odd}");
    }
    assert_ne!(other["schemaVersion"], 1);
    assert_one_reading(other, &["schemaVersion", "mediaType", "config", "layers", "manifests"]);
    assert!(manifest.layers.len() <= MAX_LAYERS);
    let layers = other["layers"].as_array().expect("an array");
    let all = layers.iter().zip(&manifest.layers).chain([(&other["config"], &manifest.config)]);
    for (value, descriptor) in all {
        assert_one_reading(value, &["mediaType", "digest", "size"]);
        assert_eq!(value["digest"], descriptor.digest.as_str(), "another reader sees another one");
        assert_eq!(value["size"], descriptor.size);
    }
    assert_eq!(layers.len(), manifest.layers.len());
    for layer in &manifest.layers {
        Compression::of(&layer.media_type).expect("a manifest's layers can be read");
    }
    // It is of one kind, whoever says so.
    assert!(MANIFEST_TYPES.contains(&manifest.media_type.as_str()));
    for said in [other["mediaType"].as_str(), sent.filter(|sent| INDEX_TYPES.contains(sent))] {
        assert!(said.is_none_or(|said| said == manifest.media_type), "{said:?}");
    }
    let again = Document::parse(bytes, Some(&manifest.media_type));
    assert!(matches!(again, Ok(Document::Manifest(_))), "{again:?}");
    let _ = manifest.download_size();
}

fn index_holds(index: &[Descriptor], other: &Value) {
    for odd in ["layers", "config", "fsLayers"] {
        assert!(other[odd].is_null(), "an index with {odd}");
    }
    for entry in other["manifests"].as_array().expect("an array") {
        assert_one_reading(entry, &["mediaType", "digest", "size", "platform"]);
        assert_one_reading(&entry["platform"], &["os", "architecture", "variant"]);
    }
    for machine in ["linux/amd64", "linux/arm64/v8", "unknown/unknown"] {
        let machine = Platform::parse(machine).expect("a platform");
        let Some(chosen) = told(choose(index, &machine)) else { continue };
        assert!(index.contains(chosen));
        let platform = chosen.platform.as_ref();
        assert!(platform.is_none_or(|platform| platform.runs_on(&machine)), "{platform:?}");
    }
}

/// A reader that does not look at the case of keys, as Go's, sees nothing else.
fn assert_one_reading(object: &Value, known: &[&str]) {
    for key in object.as_object().into_iter().flatten().map(|(key, _)| key) {
        let folded = key.to_uppercase().to_lowercase();
        let meant = known.iter().find(|known| known.to_lowercase() == folded);
        assert!(meant.is_none_or(|meant| meant == key), "{key:?} is read as {meant:?} elsewhere");
    }
}

fn configuration(bytes: &[u8], other: &Value) -> bool {
    let layers = other["rootfs"]["diff_ids"].as_array().map_or(0, Vec::len).min(MAX_LAYERS);
    let layer = Descriptor {
        media_type: String::new(),
        digest: Digest::of(b""),
        size: 1,
        platform: None,
        annotations: Default::default(),
    };
    let manifest = Manifest {
        media_type: MANIFEST_TYPES[0].to_owned(),
        config: layer.clone(),
        layers: vec![layer; layers],
    };
    let Some(config) = told(ImageConfig::parse(bytes, &manifest)) else { return false };
    assert_one_reading(other, &["config", "rootfs"]);
    assert_one_reading(&other["config"], &["Env", "Entrypoint", "Cmd", "WorkingDir"]);
    let written = serde_json::to_vec(&config).expect("plain data");
    assert_eq!(ImageConfig::parse(&written, &manifest).ok().as_ref(), Some(&config));

    let job = [("SLURM_PROCID", "3"), ("LD_PRELOAD", "/host.so"), ("LANG", "C")];
    let job = job.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let request = environment::Request::Remove;
    let env = environment::compose(job.into_iter(), &config.config.env, request, |_| false, []);
    let get = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, value)| value);
    assert!(env.is_sorted_by(|a, b| a.0 < b.0), "a name stands twice: {env:?}");
    assert!(env.iter().all(|(name, _)| !name.is_empty() && !name.to_string_lossy().contains('=')));
    assert_eq!(get("SLURM_PROCID"), Some(&"3".into()), "an image is no scheduler");
    assert!(get("LD_PRELOAD").is_none_or(|value| value != "/host.so"), "it crossed");
    assert!(get("PATH").is_some());
    true
}
