//! Documents that are too big, too many or too deep: one line, soon, and nothing left behind.
//! SECURITY R9, R16.

use std::sync::LazyLock;

use fixtures::{
    Fault, Faulty, Place, Sandbox,
    image::{Blob, Image, Layer},
    place::assert_says,
    sample::{assert_arrived, image},
};
use serde_json::json;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

fn place(name: &str) -> Place {
    Place::new(&SANDBOX, name)
}

/// Pulls what cannot be pulled.
fn refused(place: &Place, registry: &Faulty, parts: &[&str]) {
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, parts);
    assert!(stderr.len() < 2000, "a flood: {} bytes", stderr.len());
    place.assert_clean();
}

/// A manifest that comes as an answer to requests for `name`.
fn answer(registry: &Faulty, name: &str, manifest: &Blob) {
    let headers = format!("Content-Type: {}\r\n", manifest.media_type());
    let part = format!("manifests/{name}");
    registry.fail(&part, 100, Fault::Answer(200, headers, manifest.bytes().to_vec()));
}

#[test]
fn a_manifest_has_at_most_4_mib() {
    let (place, image) = (place("manifest"), image());
    let mut big = image.root().bytes().to_vec();
    big.resize((4 << 20) + 1, b' ');
    let registry = Faulty::serve(&image);
    answer(&registry, "1", &Blob::new(image.root().media_type(), big));
    refused(&place, &registry, &["manifest is larger than 4194304 bytes"]);

    let registry = Faulty::serve(&image);
    registry.fail("GET /v2/x/manifests/", 100, Fault::Endless);
    refused(&place, &registry, &["manifest is larger than 4194304 bytes"]);
}

#[test]
fn a_configuration_has_at_most_4_mib() {
    let place = place("config");
    let layer = || Layer::new().file("f", 0o644, "f");
    let claims = Image::new().layer(layer()).build_with(|manifest| {
        manifest["config"]["size"] = ((4 << 20) + 1).into();
    });
    refused(&place, &Faulty::serve(&claims), &["configuration is larger than 4194304 bytes"]);

    let image = Image::new().layer(layer()).build();
    let config = image.blobs().last().expect("the configuration comes last").digest();
    let registry = Faulty::serve(&image);
    registry.fail(&config, 100, Fault::Endless);
    // What follows what it should have is not read.
    place.pull(&registry.name()).success();
}

#[test]
fn a_token_has_at_most_1_mib() {
    let place = place("token");
    let registry = Faulty::serve(&image());
    registry.want_tokens(&format!("http://{}/token", registry.address()), 100);
    let token = json!({"token": "x".repeat(2 << 20)}).to_string().into_bytes();
    registry.fail("/token", 100, Fault::Answer(200, String::new(), token));
    refused(&place, &registry, &["token is larger than 1 MiB"]);
}

/// A registry's own words are shown, as much of them as is readable.
#[test]
fn an_error_may_go_on_without_an_end() {
    let place = place("error");
    let registry = Faulty::serve(&image());
    let words = json!({"errors": [{"code": "DENIED", "message": "\x1b[2Jno ".repeat(100_000)}]});
    let words = words.to_string().into_bytes();
    registry.fail("manifests/", 100, Fault::Answer(403, String::new(), words));
    let stderr = place.pull(&registry.name()).failure(125);
    assert!(!stderr.contains('\x1b') && stderr.len() < 4000, "{} bytes", stderr.len());
    place.assert_clean();
}

#[test]
fn an_image_has_at_most_1024_layers() {
    let place = place("layers");
    let with = |count: usize| {
        let image = Image::new().layer(Layer::new().file("f", 0o644, "f"));
        let image = image.edit_config(|config| {
            let diff_id = config["rootfs"]["diff_ids"][0].clone();
            config["rootfs"]["diff_ids"] = vec![diff_id; count].into();
        });
        image.build_with(|manifest| {
            manifest["layers"] = vec![manifest["layers"][0].clone(); count].into();
        })
    };
    refused(&place, &Faulty::serve(&with(1025)), &["1025 layers; at most 1024 are read"]);
    place.pull(&Faulty::serve(&with(1024)).name()).success();
}

/// Four documents may stand between a name and its layers, the manifest included.
#[test]
fn indexes_within_indexes_end() {
    let image = image();
    let above = |below: &Blob| {
        let kind = "application/vnd.oci.image.index.v1+json";
        let mut entry = below.descriptor();
        entry["platform"] = json!({"os": "linux", "architecture": architecture()});
        let index = json!({"schemaVersion": 2, "mediaType": kind, "manifests": [entry]});
        Blob::new(kind, index.to_string())
    };
    for (name, depth) in [("nested-3", 3), ("nested-4", 4)] {
        let place = place(name);
        let registry = Faulty::serve(&image);
        let mut chain = vec![image.root().clone()];
        for _ in 0..depth {
            chain.push(above(chain.last().expect("never empty")));
        }
        answer(&registry, "1", chain.last().expect("never empty"));
        for document in &chain {
            answer(&registry, &document.digest(), document);
        }
        if depth == 3 {
            assert_arrived(&place, place.pull(&registry.name()));
        } else {
            refused(&place, &registry, &["indexes within indexes"]);
        }
    }
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Deeper than any document that is meant: refused, and no stack overflows (SECURITY R16).
#[test]
fn a_deep_document_is_refused() {
    let (place, image) = (place("deep"), image());
    let text = String::from_utf8(image.root().bytes().to_vec()).expect("JSON is UTF-8");
    let deep = format!("{}{}", "[".repeat(1_000_000), "]".repeat(1_000_000));
    let text = text.replacen('{', &format!("{{\"annotations\":{deep},"), 1);
    let manifest = Blob::new(image.root().media_type(), text);
    let registry = Faulty::serve(&image);
    answer(&registry, "1", &manifest);
    answer(&registry, &manifest.digest(), &manifest);
    refused(&place, &registry, &["not a valid manifest", "recursion limit exceeded"]);
}
