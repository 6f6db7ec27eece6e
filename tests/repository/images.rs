//! What is listed, and how.

use std::fs;

use fixtures::{need, place::assert_says, run};

use crate::{SITE, age, built, listed, names, small};

#[test]
fn a_line_has_six_columns() {
    need!(root, registry);
    let place = SITE.place("images");
    let header = "REPOSITORY  TAG  DIGEST  CREATED  SIZE  SERVER\n";
    assert_eq!(place.shifter(&["images"]).success(), header, "there is nothing");
    let image = built(small("six", 0), "2017-12-11T18:42:24.5+01:00");
    let (two, digest) = SITE.push("images/b:2", &image);
    let (one, _) = SITE.push("images/b:1", &image);
    for name in [&two, &one] {
        place.shifter(&["pull", "--to", "store", name]).success();
    }
    let text = place.shifter(&["images"]).success();
    let lines: Vec<_> = text.lines().collect();
    let (short, server) = (&digest[7..22], SITE.registry.address());
    let wide: [&str; 6] =
        std::array::from_fn(|n| lines[0].split_whitespace().nth(n).expect("a column"));
    assert_eq!(wide, ["REPOSITORY", "TAG", "DIGEST", "CREATED", "SIZE", "SERVER"]);
    assert_eq!(lines[0].find("SERVER"), lines[1].find(&server), "columns are in line");
    let line = |tag: &str| {
        let size = lines[1].split("  ").filter(|cell| !cell.is_empty()).nth(4).expect("a size");
        format!("images/b    {tag}    {short}  2017-12-11T17:42:24  {}  {server}", size)
    };
    assert_eq!(lines[1..], [line("1"), line("2")], "sorted");
    assert!(place.shifter(&["images", "--digests"]).success().contains(&digest));
}

#[test]
fn programs_are_told_all_of_it() {
    need!(root, registry);
    let place = SITE.place("json");
    let (name, digest) = SITE.push("json:1", &small("json", 5000));
    place.pull(&name).success();
    let images = listed(&place, &[]);
    let image = &images[0];
    for (key, value) in [
        ("reference", name.as_str()),
        ("digest", &digest),
        ("resolved", &digest),
        ("repository", "json"),
        ("tag", "1"),
        ("created", "2024-01-01T00:00:00Z"),
        ("state", "complete"),
        ("store", &place.store.to_string_lossy()),
    ] {
        assert_eq!(image[key], value, "{key}");
    }
    assert_eq!(image["shared"], false);
    assert!(image["platform"].as_str().expect("platform").starts_with("linux/"));
    let layers = image["layers"].as_array().expect("layers");
    let sizes: u64 = layers.iter().map(|layer| layer["size"].as_u64().expect("size")).sum();
    assert_eq!((layers.len(), image["size"].as_u64()), (2, Some(sizes)));

    let node = listed(&place, &["--node"]);
    assert_eq!(node.len(), 1);
    assert_eq!((&node[0]["names"][0], &node[0]["in_use"]), (&name.clone().into(), &false.into()));
    assert!(node[0]["memory"].as_u64().expect("memory") >= 8192);
    let text = place.shifter(&["images", "--node"]).success();
    assert!(text.starts_with("REPOSITORY") && text.contains(&digest[7..22]), "{text}");
}

#[test]
fn what_is_damaged_is_shown_as_that_and_hides_nothing() {
    need!(root, registry);
    let place = SITE.place("damaged");
    let mut blobs = Vec::new();
    for number in 0..5 {
        let (name, digest) =
            SITE.push(&format!("damaged:{number}"), &small(&format!("d{number}"), 0));
        place.shifter(&["pull", "--to", "store", &name]).success();
        let listed = listed(&place, &[&format!("damaged:{number}")]);
        let layer = listed[0]["layers"][1]["digest"].as_str().expect("digest").to_owned();
        blobs.push([digest, layer].map(|d| place.store.join("blobs/sha256").join(&d[7..])));
    }
    fs::remove_file(&blobs[0][0]).expect("the manifest of 0");
    fs::write(&blobs[1][0], "{}").expect("the manifest of 1");
    fs::remove_file(&blobs[2][1]).expect("a layer of 2");
    fs::write(&blobs[3][1], "short").expect("a layer of 3");
    let states: Vec<_> = listed(&place, &[])
        .iter()
        .map(|image| image["state"].as_str().expect("state").to_owned())
        .collect();
    assert_eq!(states, ["incomplete", "damaged", "incomplete", "damaged", "complete"]);
    let text = place.shifter(&["images"]).success();
    assert_eq!(text.matches("incomplete").count(), 2, "{text}");
    assert_eq!(text.matches("damaged  ").count(), 2 + 5, "{text}");
    // A pull mends all of them; two need nothing but the layer.
    for number in 0..4 {
        let name = SITE.registry.name(&format!("damaged:{number}"));
        place.shifter(&["pull", "--to", "store", &name]).success();
    }
    let mended = listed(&place, &[]);
    let complete = mended.iter().filter(|image| image["state"] == "complete");
    assert_eq!(complete.count(), 5, "{mended:?}");

    fs::write(place.store.join("index.json"), "{").expect("write");
    let stderr = place.shifter(&["images"]).failure(125);
    assert_says(&stderr, &["index.json"]);
}

#[test]
fn the_sites_images_are_listed_and_marked_for_people() {
    need!(root, registry);
    let (own, site) = (SITE.place("own"), SITE.place("site"));
    let (yours, _) = SITE.push("shared/yours:1", &small("yours", 0));
    let (theirs, _) = SITE.push("shared/theirs:1", &small("theirs", 0));
    site.shifter(&["pull", "--to", "store", &theirs]).success();
    let own = own.with_config(&format!("shared_stores = [{:?}]", site.store));
    own.shifter(&["pull", "--to", "store", &yours]).success();
    let images = listed(&own, &[]);
    let shared: Vec<_> = images.iter().map(|image| image["shared"].as_bool()).collect();
    assert_eq!(shared, [Some(true), Some(false)]);
    let text = own.shifter(&["images"]).success();
    assert!(!text.contains("(site)"), "a seventh column: {text}");
    // script(1) gives it a terminal.
    let mut script = own.command("script", &["-qec", "shifter images", "/dev/null"]);
    script.env("TERM", "xterm");
    let text = run(script).success();
    let line =
        |name: &str| text.lines().find(|line| line.contains(name)).unwrap_or_default().trim();
    assert!(line("theirs").ends_with("  (site)"), "{text}");
    assert!(!line("yours").contains("(site)"), "{text}");
    // It is not the user's to remove, and not in the way of what is.
    let stderr = own.shifter(&["rmi", &theirs]).failure(125);
    assert_says(&stderr, &[&theirs, "the site's", &*site.store.to_string_lossy(), "administrator"]);
    own.shifter(&["rmi", &yours]).success();
    assert_eq!(names(&own, &[]), [theirs]);
}

#[test]
fn filters_choose_by_name_and_by_age() {
    need!(root, registry);
    let place = SITE.place("filters");
    for (name, time) in [("old:1", "2001"), ("middle:1", "2002"), ("new:1", "2003")] {
        let image = built(small(name, 0), &format!("{time}-01-01T00:00:00Z"));
        let (name, _) = SITE.push(&format!("filters/{name}"), &image);
        place.shifter(&["pull", "--to", "store", &name]).success();
    }
    let name = |part: &str| SITE.registry.name(&format!("filters/{part}:1"));
    let (old, middle, new) = (name("old"), name("middle"), name("new"));
    for (args, expected) in [
        (&["filters/*"][..], &[&middle, &new, &old][..]),
        (&["*/old"], &[&old]),
        (&["filters/new:1"], &[&new]),
        (&["--filter", "reference=*:2"], &[]),
        (&["--filter", &format!("before={middle}")], &[&old]),
        (&["-f", &format!("since={old}")], &[&middle, &new]),
        (&["-f", &format!("since={old}"), "-f", &format!("before={new}")], &[&middle]),
    ] {
        assert_eq!(names(&place, args).iter().collect::<Vec<_>>(), expected, "{args:?}");
    }
    for (filter, code, says) in [
        ("refrence=x", 2, &["\"refrence\"", "did you mean reference?"][..]),
        ("colour=blue", 2, &["reference, before, since"]),
        ("x", 2, &["KEY=VALUE"]),
        ("before=filters/nothing", 125, &["filters/nothing"]),
    ] {
        assert_says(&place.shifter(&["images", "-f", filter]).failure(code), says);
    }
}

#[test]
fn a_use_is_noted_by_the_hour() {
    need!(root, registry, userns);
    let place = SITE.place("used");
    let (name, digest) = SITE.busybox("used:1");
    place.pull(&name).success();
    let used = || listed(&place, &[])[0]["last_used"].as_u64().expect("a time");
    let pulled = used();
    age(&place, &digest, 5);
    assert!(used() <= pulled - 4 * 3600);
    place.shifter(&["run", &name, "true"]).success();
    assert!(used() >= pulled, "it was used a moment ago");
}
