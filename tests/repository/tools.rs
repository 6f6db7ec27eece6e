//! The store is an OCI image layout: what others make of it, and it of what others write.

use std::fs;

use fixtures::{Place, image::Layer, need, run};
use serde_json::Value;

use crate::{SITE, listed, small};

/// Podman with its files in the sandbox.
fn podman(place: &Place, args: &[&str]) -> std::process::Command {
    let dir = |name: &str| place.store.with_file_name(name).to_string_lossy().into_owned();
    let (root, runroot) = (dir("podman"), dir("podman-run"));
    let own = ["--root", &root, "--runroot", &runroot, "--storage-driver", "vfs"];
    let mut command = place.command("podman", &[&own[..], args].concat());
    command.env("XDG_RUNTIME_DIR", dir("runtime")).env("TMPDIR", dir("."));
    command
}

#[test]
fn others_read_the_store() {
    need!(root, registry, skopeo, umoci);
    let place = SITE.place("others");
    let image = small("others", 1000).layer(Layer::new().whiteout("shared"));
    let (name, digest) = SITE.push("others:1", &image);
    place.shifter(&["pull", "--to", "store", &name]).success();
    let layout = format!("oci:{}:{name}", place.store.display());
    let text = run(place.command("skopeo", &["inspect", &layout])).success();
    let inspected: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(inspected["Digest"], digest.as_str());
    // umoci takes names without slashes and colons only, and by skopeo's it gets one.
    let plain = place.store.with_file_name("plain");
    let copy = format!("oci:{}:x", plain.display());
    run(place.command("skopeo", &["copy", "-q", &layout, &copy])).success();
    let bundle = place.store.with_file_name("bundle");
    let (image, bundle_) = (format!("{}:x", plain.display()), bundle.display().to_string());
    run(place.command("umoci", &["unpack", "--rootless", "--image", &image, &bundle_])).success();
    assert_eq!(fs::read_to_string(bundle.join("rootfs/own")).ok().as_deref(), Some("others"));
    assert!(!bundle.join("rootfs/shared").exists());
}

#[test]
fn podman_reads_the_store() {
    need!(root, registry, podman, skopeo);
    let place = SITE.place("podman");
    let (name, _) = SITE.push("podman:1", &small("podman", 0));
    place.shifter(&["pull", "--to", "store", &name]).success();
    fs::create_dir_all(place.store.with_file_name("runtime")).expect("create");
    let layout = format!("oci:{}:{name}", place.store.display());
    let archive = place.store.with_file_name("archive.tar").display().to_string();
    let to = format!("oci-archive:{archive}");
    run(place.command("skopeo", &["copy", "-q", &layout, &to])).success();
    // As root of the sandbox: an ordinary user needs subordinate ids (newuidmap) for podman.
    let mut load = podman(&place, &["load", "-q", "-i", &archive]);
    let owner = fixtures::User::current();
    std::os::unix::process::CommandExt::uid(&mut load, owner.uid);
    std::os::unix::process::CommandExt::gid(&mut load, owner.gid);
    let loaded = run(load).success();
    assert!(loaded.contains("Loaded image"), "{loaded}");
}

#[test]
fn what_others_write_is_listed_and_stays() {
    need!(root, registry, skopeo);
    let place = SITE.place("written");
    let (name, digest) = SITE.push("written:1", &small("written", 0));
    place.shifter(&["pull", "--to", "store", &name]).success();
    let (from, to) = (format!("oci:{}:{name}", place.store.display()), place.store.display());
    run(place.command("skopeo", &["copy", "-q", &from, &format!("oci:{to}:mine")])).success();
    let images = listed(&place, &[]);
    assert_eq!(images.len(), 2);
    let mine = images.iter().find(|image| image["reference"] == "mine").expect("skopeo's");
    assert_eq!((&mine["digest"], &mine["server"]), (&digest.as_str().into(), &Value::Null));
    place.shifter(&["rmi", &name]).success();
    place.shifter(&["prune"]).success();
    assert_eq!(listed(&place, &[])[0]["state"], "complete");
    place.shifter(&["rmi", "mine"]).success();
    assert_eq!(crate::blobs(&place), Vec::<String>::new());
}

#[test]
fn a_store_that_others_have_made_is_as_good() {
    need!(root, registry, skopeo);
    let place = SITE.place("made");
    let (name, digest) = SITE.push("made:1", &small("made", 0));
    let copy = ["copy", "-q", "--src-tls-verify=false", &format!("docker://{name}")];
    let to = format!("oci:{}:{name}", place.store.display());
    run(place.command("skopeo", &[&copy[..], &[&to]].concat())).success();
    assert_eq!(listed(&place, &[])[0]["digest"], digest);
    place.shifter(&["prune", "--dry-run"]).success();
    place.shifter(&["rmi", &name]).success();
    assert_eq!(crate::blobs(&place), Vec::<String>::new());
}
