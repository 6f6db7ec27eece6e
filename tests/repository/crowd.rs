//! Many at once, and some of them dying: a store that is whole in the end.

use std::{fs, process::Stdio, thread, time::Duration};

use fixtures::{Fault, Faulty, eventually, need, place::list, run};

use crate::{SITE, listed, small};

/// Whatever pulls, removals and prunings do to each other, each pull ends well, and what is named
/// is complete to other tools.
#[test]
fn twenty_pulls_and_others_that_remove() {
    need!(root, registry, skopeo, umoci);
    let place = SITE.place("crowd");
    let names: Vec<_> = (0..5)
        .map(|n| SITE.push(&format!("crowd:{n}"), &small(&format!("crowd {n}"), 100_000)).0)
        .collect();
    let unexpected = |stderr: &str| {
        // Another one was quicker, or has the same image in its hands.
        let is_expected = |line: &&str| {
            [
                "neither in your store",
                "removed ",
                "freed ",
                "would ",
                "nothing to remove",
                "did you mean",
            ]
            .iter()
            .any(|part| line.contains(part))
        };
        stderr.lines().find(|line| !is_expected(line)).map(str::to_owned)
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    thread::scope(|scope| {
        let pulls: Vec<_> = (0..20)
            .map(|n| {
                let (place, name) = (&place, &names[n % names.len()]);
                scope.spawn(move || {
                    for _ in 0..2 {
                        place.shifter(&["pull", "--quiet", "--to", "store", name]).success();
                    }
                })
            })
            .collect();
        for name in &names[..2] {
            let (place, done) = (&place, &done);
            scope.spawn(move || {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert_eq!(unexpected(&place.shifter(&["rmi", name]).stderr), None);
                }
            });
        }
        scope.spawn(|| {
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                assert_eq!(unexpected(&place.shifter(&["prune"]).stderr), None);
            }
        });
        let pulls: Vec<_> = pulls.into_iter().map(thread::ScopedJoinHandle::join).collect();
        done.store(true, std::sync::atomic::Ordering::Relaxed);
        assert!(pulls.iter().all(Result::is_ok), "a pull failed");
    });
    let images = listed(&place, &[]);
    assert!(images.len() >= 3, "{images:?}");
    assert!(images.iter().all(|image| image["state"] == "complete"), "{images:?}");
    assert_eq!(list(&place.store.join("locks")), Vec::<String>::new());
    for (number, image) in images.iter().enumerate() {
        let name = image["reference"].as_str().expect("a name");
        let layout = format!("oci:{}:{name}", place.store.display());
        run(place.command("skopeo", &["inspect", &layout])).success();
        let copy = place.store.with_file_name(format!("plain{number}"));
        let to = format!("oci:{}:x", copy.display());
        run(place.command("skopeo", &["copy", "-q", &layout, &to])).success();
        let bundle = place.store.with_file_name(format!("bundle{number}"));
        let (image, bundle) = (format!("{}:x", copy.display()), bundle.display().to_string());
        run(place.command("umoci", &["unpack", "--rootless", "--image", &image, &bundle]))
            .success();
    }
}

/// A puller that is killed holds nobody up.
#[test]
fn who_is_killed_has_no_lease_any_more() {
    need!(root, registry);
    let place = SITE.place("killed");
    let image = small("killed", 100).build();
    let registry = Faulty::serve(&image);
    let layer = image.blobs()[1].digest();
    registry.fail(&layer, 1, Fault::Stall(5));
    let name = registry.name();
    let mut child = place.command("shifter", &["pull", "--to", "store", &name]);
    let mut child = child.stderr(Stdio::null()).spawn().expect("shifter starts");
    let locks = place.store.join("locks");
    eventually(Duration::from_secs(20), "its lease", || {
        (registry.count(&layer) > 0 && !list(&locks).is_empty()).then_some(())
    });
    child.kill().expect("it runs");
    child.wait().expect("it is gone");
    assert_eq!(list(&locks).len(), 1, "SIGKILL leaves the lease");
    let pulled = place.shifter(&["pull", "--to", "store", &name]);
    assert!(pulled.wall < Duration::from_secs(20), "a dead process was waited for: {pulled}");
    pulled.success();
    assert_eq!(list(&locks), Vec::<String>::new());
}

/// To a process with other process numbers, the holder's number says nothing: it is waited for as
/// long as it shows itself.
#[test]
fn another_machines_puller_is_waited_for() {
    need!(root, registry, userns);
    let place = SITE.place("elsewhere").with_config("[network]\nidle_timeout = 4\n");
    let image = small("elsewhere", 100).build();
    let registry = Faulty::serve(&image);
    let layer = image.blobs()[1].digest();
    registry.fail(&layer, 1, Fault::Stall(5));
    let name = registry.name();
    let unshare = ["--user", "--map-root-user", "--mount", "--pid", "--fork", "--mount-proc"];
    let pull = ["shifter", "pull", "--to", "store", &name];
    let mut elsewhere = place.command("unshare", &[&unshare[..], &pull].concat());
    let mut child = elsewhere.stderr(Stdio::null()).spawn().expect("unshare starts");
    eventually(Duration::from_secs(20), "its download", || {
        (registry.count(&layer) > 0).then_some(())
    });
    let here = place.shifter(&["pull", "--to", "store", &name]);
    assert!(here.stderr.contains("waiting for another process"), "{here}");
    here.success();
    assert!(child.wait().expect("it ends").success());
    assert_eq!(registry.count(&format!("blobs/{layer}")), 2, "both downloaded it");
    assert!(fs::read_dir(place.store.join("locks")).expect("locks").next().is_none());
}
