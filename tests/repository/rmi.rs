//! What goes with a name, and what stays.

use fixtures::{Fault, Faulty, need, place::assert_says};

use crate::{Running, SITE, blobs, hex, listed, names, small, trees};

#[test]
fn what_others_need_stays() {
    need!(root, registry);
    let place = SITE.place("rmi");
    let (one, digest) = SITE.push("rmi/one:1", &small("one", 100_000));
    let (two, _) = SITE.push("rmi/two:1", &small("two", 100_000));
    place.pull(&one).success();
    let before = blobs(&place);
    place.pull(&two).success();
    assert_eq!((blobs(&place).len(), trees(&place).len()), (7, 2));
    let outcome = place.shifter(&["rmi", &two]);
    assert!(outcome.stderr.contains("of memory on this node"), "{outcome}");
    assert!(outcome.success().starts_with(&format!("{two}@sha256:")));
    assert_eq!((blobs(&place), trees(&place)), (before, vec![hex(&digest).to_owned()]));
    place.shifter(&["rmi", &digest]).success();
    assert!(blobs(&place).is_empty() && trees(&place).is_empty());
    place.assert_nothing_partial();
    assert_eq!(names(&place, &[]).len(), 0);
}

#[test]
fn an_image_goes_by_its_digest_with_care() {
    need!(root, registry);
    let place = SITE.place("digest");
    let image = small("digest", 0);
    let (one, digest) = SITE.push("digest:1", &image);
    let (two, _) = SITE.push("digest:2", &image);
    for name in [&one, &two] {
        place.pull(name).success();
    }
    let prefix = &hex(&digest)[..6];
    let stderr = place.shifter(&["rmi", prefix]).failure(125);
    assert_says(&stderr, &["several names", &one, &two, "--force"]);
    assert_eq!(names(&place, &[]), [one.clone(), two.clone()]);
    // By one of its names: the other keeps all of it.
    place.shifter(&["rmi", &one]).success();
    assert_eq!((blobs(&place).len(), trees(&place).len()), (4, 1));
    place.pull(&one).success();
    let gone = place.shifter(&["rmi", "--force", prefix]).success();
    assert_eq!(gone, format!("{one}@{digest}\n{two}@{digest}\n"));
    assert!(blobs(&place).is_empty() && trees(&place).is_empty());
}

#[test]
fn who_errs_is_told_what_is_there() {
    need!(root, registry);
    let place = SITE.place("errs");
    let (name, _) = SITE.push("errs/image:1", &small("errs", 0));
    place.pull(&name).success();
    let with = |name: &str| SITE.registry.name(name);
    for (typed, code, says) in [
        (with("errs/imaeg:1"), 125, "did you mean "),
        (with("errs/image:2"), 125, "did you mean "),
        ("nothing/like/it".to_owned(), 125, "shifter images lists"),
        ("abcdef012345".to_owned(), 125, "shifter images lists"),
        ("Upper".to_owned(), 2, "lower-case"),
    ] {
        let stderr = place.shifter(&["rmi", &typed]).failure(code);
        assert_says(&stderr, &["remove: ", &typed, says]);
    }
    // All that can be done is done.
    let outcome = place.shifter(&["rmi", "nothing", &name, "nothing/else"]);
    assert_eq!(outcome.stderr.lines().count(), 3, "{outcome}");
    outcome.failure(125);
    assert_eq!(names(&place, &[]).len(), 0);
}

#[test]
fn a_container_that_runs_keeps_its_image() {
    need!(root, registry, userns);
    let place = SITE.place("running");
    let (name, digest) = SITE.busybox("running:1");
    let running = Running::start(&place, &name);
    let node = listed(&place, &["--node"]);
    assert_eq!(node[0]["process"], running.pid(), "{node:?}");
    place.pull(&name).success();
    let outcome = place.shifter(&["rmi", &name]);
    assert!(outcome.stderr.contains(&format!("process {} uses it", running.pid())), "{outcome}");
    outcome.success();
    assert!(blobs(&place).is_empty());
    assert_eq!(trees(&place), [hex(&digest)]);
    let stderr = place.shifter(&["prune"]).stderr;
    assert!(stderr.contains("stays on this node"), "{stderr}");
    assert_eq!(trees(&place), [hex(&digest)], "it runs, and its files are gone");
    drop(running);
    place.shifter(&["prune"]).success();
    assert!(trees(&place).is_empty());
}

#[test]
fn a_program_that_hides_keeps_its_image_too() {
    need!(root, registry, userns);
    let place = SITE.place("hiding");
    let (name, _) = SITE.push("hiding:1", &{
        // The kernel lets nobody look at a program that its user may not read.
        let busybox = std::fs::read(fixtures::need::find("busybox").expect("busybox"));
        let layer = fixtures::image::Layer::new().dir("hidden", 0o755).file(
            "hidden/tail",
            0o111,
            busybox.expect("readable"),
        );
        fixtures::image::busybox().layer(layer)
    });
    place.pull(&name).success();
    let running = Running::with(&place, &name, "/hidden/tail -f /dev/null &");
    let pid = running.pid();
    drop(running);
    // The shell is gone; what it began lives on, and /proc/PID belongs to root.
    let stderr = place.shifter(&["prune"]).stderr;
    let hidden = children_named(&place, "tail");
    for pid in &hidden {
        let _ = nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(*pid),
            nix::sys::signal::Signal::SIGKILL,
        );
    }
    assert_eq!(hidden.len(), 1, "after {pid}");
    assert!(stderr.contains("stays on this node"), "{stderr}");
    assert_eq!(trees(&place).len(), 1);
}

/// The user's processes of this name.
fn children_named(place: &fixtures::Place, name: &str) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").expect("/proc").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter(|pid| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.starts_with(&format!("Name:\t{name}\n"))
            && status.contains(&format!("Uid:\t{}\t", place.user.uid))
    })
    .collect()
}

#[test]
fn a_pull_keeps_what_it_needs() {
    need!(root, registry);
    let place = SITE.place("pulling").with_config("[network]\nidle_timeout = 3\n");
    let (shared, _) = SITE.push("pulling:1", &small("shared", 200_000));
    place.shifter(&["pull", "--to", "store", &shared]).success();
    // Of an image that shares a layer, the other one does not come.
    let image = small("slow", 200_000).build();
    let slow = Faulty::serve(&image);
    let own = image.blobs()[1].digest();
    slow.fail(&own, 1, Fault::Stall(10));
    let pull = std::thread::spawn({
        let (place, name) = (place.clone(), slow.name());
        move || place.shifter(&["pull", "--to", "store", &name])
    });
    fixtures::eventually(std::time::Duration::from_secs(20), "the layer is asked for", || {
        (slow.count(&own) > 0).then_some(())
    });
    place.shifter(&["rmi", &shared]).success();
    place.shifter(&["prune"]).success();
    assert_eq!(blobs(&place).len(), 1, "the layer that the pull has found");
    pull.join().expect("no panic").success();
    assert_eq!(listed(&place, &[])[0]["state"], "complete");
}
