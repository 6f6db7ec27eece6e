//! What is told of one image.

use fixtures::{
    image::{Image, Layer, digest, index},
    need,
    place::assert_says,
};
use serde_json::{Value, json};

use crate::{SITE, hex};

fn described() -> Image {
    Image::new()
        .layer(Layer::new().file("a", 0o644, "inspected"))
        .env("A=b")
        .entrypoint(&["/bin/sh", "-c"])
        .cmd(&["true"])
        .working_dir("/work")
        .setting("Labels", json!({"org.example": "x"}))
}

#[test]
fn all_that_is_known_is_told_without_a_registry() {
    need!(root, registry);
    let place = SITE.place("inspect");
    let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = index(&[Image::new().architecture("s390x"), described().architecture(here)]);
    let resolved = SITE.registry.push("inspect:1", &index);
    let name = SITE.registry.name("inspect:1");
    place.pull(&name).success();
    let inspect = |args: &[&str]| place.shifter(&[&["inspect"], args].concat()).success();
    let text = inspect(&[&name]);
    let value: Value = serde_json::from_str(&text).expect("JSON");
    for (key, expected) in [
        ("names", json!([name])),
        ("resolved", json!(resolved)),
        ("platform", json!(format!("linux/{here}"))),
        ("created", json!("2024-01-01T00:00:00Z")),
        ("env", json!(["A=b"])),
        ("entrypoint", json!(["/bin/sh", "-c"])),
        ("cmd", json!(["true"])),
        ("workdir", json!("/work")),
        ("labels", json!({"org.example": "x"})),
        (
            "stores",
            json!([{
                "path": place.store.to_string_lossy(),
                "shared": false,
                "state": "complete",
                "squashfs": null,
            }]),
        ),
    ] {
        assert_eq!(value[key], expected, "{key}");
    }
    assert_eq!(value["node"][0]["in_use"], false);
    // The documents are what their digests cover.
    let manifest = inspect(&["--manifest", &name]);
    assert_eq!(json!(digest(manifest.as_bytes())), value["digest"]);
    assert_eq!(digest(inspect(&["--raw", &name]).as_bytes()), resolved);
    let manifest: Value = serde_json::from_str(&manifest).expect("JSON");
    let config = inspect(&["--config", &name]);
    assert_eq!(json!(digest(config.as_bytes())), manifest["config"]["digest"]);
    // By its digest, the beginning of it, and the index's.
    let whole = value["digest"].as_str().expect("a digest");
    for by in [whole, hex(whole), &hex(whole)[..8], &resolved] {
        assert_eq!(inspect(&[by]), text, "{by}");
    }
    place.shifter(&["inspect", "--raw", "--config", &name]).failure(2);
}

#[test]
fn an_image_of_this_node_is_one_that_is_here() {
    need!(root, registry);
    let place = SITE.place("inspect-node");
    let (name, digest) = SITE.push("inspect-node:1", &described().env("NODE=1"));
    place.shifter(&["pull", "--to", "node", &name]).success();
    let text = place.shifter(&["inspect", &name]).success();
    let value: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&value["stores"], &value["digest"]), (&json!([]), &json!(digest)));
    assert_eq!(value["node"][0]["names"], json!([name]));
    assert!(!place.store.exists(), "a store was made to look into");
    place.shifter(&["rmi", &name]).success();
    assert_eq!(crate::trees(&place), Vec::<String>::new());
}

#[test]
fn what_is_not_here_can_be_pulled() {
    need!(root);
    let place = SITE.place("inspect-none");
    let stderr = place.shifter(&["inspect", "nothing:1"]).failure(125);
    assert_says(
        &stderr,
        &["nothing:1", "neither in your store", "shifter pull docker.io/library/nothing:1"],
    );
    assert!(!place.node.exists(), "a directory was made to look into");
}
