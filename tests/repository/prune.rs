//! What goes when nobody needs it, or has used it for long.

use std::fs;

use fixtures::{
    need,
    place::{assert_says, list},
};
use serde_json::Value;

use crate::{SITE, age, blobs, listed, names, small, trees};

#[test]
fn what_nobody_needs_goes() {
    need!(root, registry);
    let place = SITE.place("prune");
    let (name, _) = SITE.push("prune:1", &small("before", 50_000));
    place.pull(&name).success();
    // The name moves on: what it meant before is nobody's.
    SITE.push("prune:1", &small("after", 50_000));
    place.pull(&name).success();
    let partial = place.store.join("partial");
    let hex = "0".repeat(64);
    fs::write(partial.join(&hex), vec![0; 1 << 20]).expect("a layer whose image never came");
    fs::write(partial.join(format!("{hex}.x.1.0")), "x").expect("another node's, being written");
    assert_eq!((blobs(&place).len(), trees(&place).len()), (7, 2));
    let stderr = place.shifter(&["prune", "--dry-run"]).stderr;
    assert!(stderr.contains("would free 1.0"), "{stderr}");
    assert_eq!((blobs(&place).len(), trees(&place).len()), (7, 2), "a dry run removes");
    let said: Value =
        serde_json::from_str(&place.shifter(&["prune", "--json"]).success()).expect("JSON");
    assert_eq!((&said["files"], &said["done"]), (&4.into(), &true.into()));
    assert_eq!(said["trees"].as_array().expect("trees").len(), 2);
    assert_eq!((blobs(&place).len(), trees(&place).len()), (4, 0));
    assert_eq!(list(&partial), [format!("{hex}.x.1.0")]);
    assert_eq!(listed(&place, &[])[0]["state"], "complete");
    assert_says(&place.shifter(&["prune"]).stderr, &["nothing to remove"]);
}

#[test]
fn what_was_not_used_for_long_goes() {
    need!(root, registry);
    let place = SITE.place("older");
    let images = ["one", "two", "three"].map(|tag| {
        let (name, digest) = SITE.push(&format!("older:{tag}"), &small(tag, 0));
        place.pull(&name).success();
        (name, digest)
    });
    for ((_, digest), hours) in images.iter().zip([100, 30, 1]) {
        age(&place, digest, hours);
    }
    let gone = place.shifter(&["prune", "--older-than", "3d"]).success();
    assert_eq!(gone, format!("{}@{}\n", images[0].0, images[0].1));
    assert_eq!((trees(&place).len(), names(&place, &[]).len()), (2, 2));
    // This node only.
    place.shifter(&["prune", "--node", "--older-than", "1d"]).success();
    assert_eq!((trees(&place).len(), names(&place, &[]).len()), (1, 2));
    // As much as there is room for.
    let gone = place.shifter(&["prune", "--dry-run", "--max-size", "1B"]).success();
    assert_eq!(gone.lines().count(), 2);
    let file = |blob: &String| fs::metadata(place.store.join("blobs/sha256").join(blob));
    let bytes: u64 = blobs(&place).iter().map(|blob| file(blob).expect("a blob").len()).sum();
    let most = (bytes - 1).to_string();
    let gone = place.shifter(&["prune", "--max-size", &most]).success();
    assert!(gone.starts_with(&images[1].0), "not the one that was used last: {gone}");
    assert_eq!(names(&place, &[]), [images[2].0.clone()]);
    for (args, says) in [
        (&["prune", "--older-than", "soon"][..], "12h, 7d"),
        (&["prune", "--max-size", "much"], "20GB"),
    ] {
        assert_says(&place.shifter(args).failure(2), &[says, "not understood"]);
    }
}

#[test]
fn containers_with_a_name_go_if_that_is_said() {
    need!(root, registry, busybox, userns);
    let place = SITE.place("containers");
    let (name, _) = SITE.busybox("containers:1");
    let run = |script: &str| place.shifter(&["run", "--name", "lab", &name, "sh", "-c", script]);
    run("echo kept > /new").success();
    let prune = |options: &[&str], says: &str| {
        let stderr = place.shifter(&[&["prune", "--node"], options].concat()).stderr;
        assert!(stderr.contains(says), "no {says:?} in {stderr}");
    };
    prune(&[], "container lab stays on this node: it may be wanted; --containers removes it");
    assert_eq!(run("cat /new").success(), "kept\n");
    prune(&["--containers", "--dry-run"], "would remove from this node: container lab");
    assert_eq!(run("cat /new").success(), "kept\n");
    prune(&["--containers"], "removed from this node: container lab");
    assert_ne!(run("cat /new").code, 0, "what was written stays");
}
