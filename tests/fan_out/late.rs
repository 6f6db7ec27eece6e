//! Nodes that do not keep pace with the others: nobody waits for one that is slow, and one that is late finds
//! what it needs.

use std::{
    process::Child,
    thread::sleep,
    time::{Duration, Instant},
};

use fixtures::{Fault, Faulty, eventually};
use nix::sys::signal::{Signal, kill};

use super::{trouble::*, *};

/// A step whose nodes write their names into a file when they are done.
struct Roll<'a> {
    site: &'a Site,
    registry: Faulty,
    way: &'static str,
    path: PathBuf,
    /// Nodes begin their tasks when there is a file of this name and the node's.
    gate: PathBuf,
}

impl<'a> Roll<'a> {
    fn new(site: &'a Site, way: &'static str, name: &str) -> Roll<'a> {
        let registry = Faulty::serve(&layers(&format!("{name}-{way}")).build());
        let path = site.sandbox.shared().join(format!("{name}-{way}"));
        let gate = path.with_extension("gate");
        Roll { site, registry, way, path, gate }
    }

    /// Begins on all nodes but these, which [`Roll::let_in`] lets in.
    fn start(&self, late: &[usize]) -> Child {
        let mut srun = self.site.srun(self.way, NODES, &self.registry.name(), &[]);
        let prolog = "#!/bin/sh\ncase \" $LATE \" in *\" $SLURMD_NODENAME \"*)\n\
                      while [ ! -e \"$GATE.$SLURMD_NODENAME\" ]; do sleep 0.05; done ;; esac\n";
        let prolog = self.site.sandbox.write_script("late.sh", prolog);
        let late: Vec<_> = late.iter().map(|node| format!("n{node}")).collect();
        srun.env("LATE", late.join(" ")).env("GATE", &self.gate);
        srun.arg(format!("--task-prolog={}", prolog.display()));
        srun.arg(format!("--container-mounts={}", self.site.sandbox.shared().display()));
        srun.args(["sh", "-c", "echo $SLURMD_NODENAME >>\"$0\""]).arg(&self.path);
        start(srun)
    }

    fn let_in(&self, node: usize) {
        fs::write(self.gate.with_extension(format!("gate.n{node}")), "").expect("write");
    }

    fn wait_for_layers(&self) {
        eventually(LIMIT, "layers to be asked for", || {
            (self.registry.count("blobs") >= 3).then_some(())
        });
    }

    /// Waits until all nodes but these are done.
    fn wait_for_all_but(&self, others: &[usize]) {
        eventually(LIMIT, "the others to be done", || {
            let names = fs::read_to_string(&self.path).unwrap_or_default();
            let done = |node| names.lines().filter(|name| *name == format!("n{node}")).count() == 2;
            (1..=NODES).all(|node| done(node) || others.contains(&node)).then_some(())
        });
    }

    fn signal(&self, node: usize, signal: Signal) {
        let pids = self.site.launchers(&format!("n{node}"));
        assert!(!pids.is_empty(), "n{node} has no launcher");
        pids.into_iter().for_each(|pid| kill(pid, signal).expect("it is there"));
    }

    fn end(&self, step: Child) {
        let (code, said) = end(step);
        assert_eq!(code, Some(0), "{}: {said}", self.way);
        self.wait_for_all_but(&[]);
        let asked = self.registry.count("GET");
        // Manifest, configuration and six layers; where two begin to lead at the same moment, one goes on.
        assert!(asked <= 8 + 4, "{}: {asked} requests: {said}", self.way);
    }
}

#[test]
fn a_follower_that_stands_still_holds_nobody_up() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for way in WAYS {
        let roll = Roll::new(&site, way, "still");
        roll.registry.fail("blobs", 12, Fault::Slow(20_000));
        let step = roll.start(&[]);
        roll.wait_for_layers();
        roll.signal(3, Signal::SIGSTOP);
        roll.wait_for_all_but(&[3]);
        roll.signal(3, Signal::SIGCONT);
        roll.end(step);
        assert_eq!(site.left_on_nodes(), "");
    }
}

/// For longer than half a minute, as a machine may that swaps: it is taken for dead, and comes back.
#[test]
fn a_leader_that_stands_still_is_succeeded() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let steps = WAYS.map(|way| {
        let roll = Roll::new(&site, way, "stopped");
        roll.registry.fail("blobs", 12, Fault::Slow(10_000));
        let step = roll.start(&[]);
        (roll, step)
    });
    steps.iter().for_each(|(roll, _)| roll.wait_for_layers());
    steps[0].0.signal(1, Signal::SIGSTOP);
    let began = Instant::now();
    steps.iter().for_each(|(roll, _)| roll.wait_for_all_but(&[1]));
    assert!(began.elapsed() > Duration::from_secs(25), "they did not wait");
    steps[0].0.signal(1, Signal::SIGCONT);
    for (roll, step) in steps {
        let (code, said) = end(step);
        assert_eq!(code, Some(0), "{said}");
        roll.wait_for_all_but(&[]);
        let asked = roll.registry.count("GET");
        // Once by each of the two.
        assert!(asked <= 2 * 8 + 2, "{asked} requests: {said}");
    }
    assert_eq!(site.left_on_nodes(), "");
}

#[test]
fn a_node_that_comes_late_has_it_from_the_others() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for way in WAYS {
        for late in [4, 1] {
            let roll = Roll::new(&site, way, &format!("half-{late}"));
            roll.registry.fail("blobs", 12, Fault::Slow(20_000));
            let step = roll.start(&[late]);
            roll.wait_for_layers();
            sleep(Duration::from_millis(500));
            roll.let_in(late);
            roll.end(step);
            assert_eq!(site.left_on_nodes(), "", "{way}: {late}");
        }
        // When the others are done, and gone.
        let roll = Roll::new(&site, way, "gone");
        let step = roll.start(&[4]);
        roll.wait_for_all_but(&[4]);
        roll.let_in(4);
        roll.end(step);
        assert_eq!(site.left_on_nodes(), "", "{way}");
    }
}

/// Node 0 of the step lacks the image, and leads; what it sends comes to those that have it, too.
#[test]
fn nothing_stays_where_nobody_wants_it() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let image = site.image("wanted");
    let mut first = site.srun("broadcast", 2, &image, &["true"]);
    first.arg("--exclude=n1,n2");
    run(first).success();
    // It goes while the tasks run.
    let script = "for try in $(seq 300); do ls -A \"$0\" | grep -q ^.shifter || exit 0; sleep 0.1; done; exit 1";
    let node = node_file_system(&site.sandbox, &site.user).display().to_string();
    let mut second = site.srun("broadcast", NODES, &image, &["sh", "-c", script, &node]);
    second.arg(format!("--container-mounts={node}"));
    run(second).success();
    assert_eq!(site.left_on_nodes(), "");
}

/// An empty layer, as docker makes it for each line of a Dockerfile, is in an image again and again.
#[test]
fn a_layer_that_is_there_twice_comes_once() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for way in WAYS {
        let again = || image::Layer::new().file("again", 0o644, vec![7; 1 << 20]);
        let image = layers(&format!("again-{way}")).layer(again()).layer(again()).layer(again());
        let registry = Faulty::serve(&image.build());
        let outcome = run(site.srun(way, NODES, &registry.name(), &["test", "-e", "/again"]));
        assert_eq!(outcome.code, 0, "{outcome}");
        assert!(!outcome.stderr.contains("damaged"), "{outcome}");
        let asked = registry.count("GET");
        assert!(asked <= 11, "{way}: {asked} requests: {outcome}");
        assert_eq!(site.left_on_nodes(), "", "{way}");
    }
}
