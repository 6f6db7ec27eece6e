//! What becomes of a step when its leader has trouble.

use std::{
    process::{Child, Stdio},
    time::Duration,
};

use fixtures::{Fault, Faulty, eventually};
use nix::sys::signal::{Signal, kill};

use super::*;

pub(super) const LIMIT: Duration = Duration::from_secs(100);

/// How a child has ended, and what it said.
pub(super) fn end(child: Child) -> (Option<i32>, String) {
    let output = child.wait_with_output().expect("srun can be waited for");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

pub(super) fn start(mut srun: Command) -> Child {
    srun.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    srun.spawn().expect("srun can be started")
}

#[test]
fn all_nodes_fail_with_the_leaders_error() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for way in WAYS {
        let registry = Faulty::serve(&layers(&format!("bad-{way}")).build());
        registry.fail("blobs", usize::MAX, Fault::status(403));
        let outcome = run(site.srun(way, NODES, &registry.name(), &["true"]));
        let said = outcome.failure(125);
        let line = |node: usize| {
            let prefix = format!("shifter: n{node}: pull ");
            said.lines().find_map(|line| line.strip_prefix(&prefix).map(str::to_owned))
        };
        let lines: Vec<_> = (1..=NODES).map(line).collect();
        assert!(lines[0].as_ref().is_some_and(|line| line.contains("refuses access")), "{said}");
        assert!(lines.iter().all(|line| *line == lines[0]), "{said}");
        let asked = registry.count("blobs");
        assert!(asked <= 6, "{asked} requests: followers have asked too");
        site.cluster.wait_idle();
        assert_eq!(site.left_on_nodes(), "");
    }
}

/// Killed without a word, in the middle of a layer: on another machine only its silence tells.
#[test]
fn a_leader_that_dies_is_succeeded() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    // Both at once: each takes as long as one has to be silent.
    let steps = WAYS.map(|way| {
        let registry = Faulty::serve(&layers(&format!("dead-{way}")).build());
        registry.fail("blobs", 12, Fault::Slow(10_000));
        let step = start(site.srun(way, NODES, &registry.name(), &["--no-kill", "true"]));
        (way, registry, step)
    });
    for (_, registry, _) in &steps {
        eventually(LIMIT, "layers to be asked for", || {
            (registry.count("blobs") >= 3).then_some(())
        });
    }
    std::thread::sleep(Duration::from_millis(500));
    site.launchers("n1").into_iter().for_each(|pid| _ = kill(pid, Signal::SIGKILL));
    for (way, registry, step) in steps {
        let (code, said) = end(step);
        assert!(said.contains("pulled "), "{way}: {said}");
        for node in 2..=NODES {
            assert!(!said.contains(&format!("n{node}: task")), "{way}: {said}");
        }
        assert_eq!(code, Some(137), "{way}: only the first node's tasks have died: {said}");
        let asked = registry.count("blobs");
        assert!(asked <= 20, "{way}: {asked} requests: several nodes have pulled");
    }
    site.cluster.wait_idle();
    run(site.srun("none", NODES, &site.image("after"), &["true"])).success();
    assert_eq!(site.left_on_nodes(), "");
}

#[test]
fn a_step_that_is_cancelled_leaves_nothing() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for way in WAYS {
        let registry = Faulty::serve(&layers(&format!("stop-{way}")).build());
        registry.fail("blobs", usize::MAX, Fault::Slow(2_000));
        let here = site.image(&format!("here-{way}"));
        run(site.srun(way, NODES, &here, &["true"])).success();
        let step = start(site.srun(way, NODES, &registry.name(), &["true"]));
        eventually(LIMIT, "layers to be asked for", || {
            (registry.count("blobs") >= 3).then_some(())
        });
        std::thread::sleep(Duration::from_millis(1500));
        let began = std::time::Instant::now();
        site.cluster.run_as_admin("scancel", &["--user", &site.user.name]).success();
        let (code, said) = end(step);
        assert_ne!(code, Some(0), "{said}");
        site.cluster.wait_idle();
        assert!(began.elapsed() < Duration::from_secs(10), "it stops in {:?}", began.elapsed());
        // It was killed: the next step removes what it could not, and even one that has nothing to bring
        // removes what was sent.
        run(site.srun(way, NODES, &here, &["true"])).success();
        let left = site.left_on_nodes();
        assert!(!left.contains(".shifter"), "{way}: {left}");
        run(site.srun(way, NODES, &site.image(&format!("next-{way}")), &["true"])).success();
        assert_eq!(site.left_on_nodes(), "", "{way}");
    }
}

/// One that is too small for the image, one that is full, and one that may not be made.
#[test]
fn a_store_that_takes_nothing_is_done_without() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let full = full_store(&site.sandbox);
    let mut make = site.user.command(&site.sandbox, "mkdir");
    make.arg("-p")
        .args(["blobs/sha256", "partial", "locks"].map(|dir| full.join("store").join(dir)));
    run(make).success();
    assert!(fs::write(full.join("rest"), vec![7; 400 << 10]).is_err(), "there is room left");
    let closed = site.sandbox.make_dir("closed", 0o755);
    let stores = [
        (small_store(&site.sandbox), "is full"),
        (full, "No space left"),
        (closed, "Permission denied"),
    ];
    for (number, (dir, why)) in stores.iter().enumerate() {
        let mut srun = site.srun("store", 2, &site.image(&format!("no-room-{number}")), &["true"]);
        srun.env("SHIFTER_STORE", dir.join("store"));
        let outcome = run(srun);
        assert_eq!(outcome.code, 0, "{outcome}");
        assert!(outcome.stderr.to_lowercase().contains(&why.to_lowercase()), "{outcome}");
        assert!(outcome.stderr.contains("each node pulls for itself"), "{outcome}");
    }
}
