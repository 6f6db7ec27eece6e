//! Steps that are ended from outside, wherever they are at that moment.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use fixtures::{Fault, Faulty, eventually, image, need};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::*;

/// How long Slurm may take to end what it is told to end: KillWait and some. Far less than
/// UnkillableStepTimeout, after which it drains the node.
const END_LIMIT: Duration = Duration::from_secs(12);

/// Where a step is when it is stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// One task reads from a registry that says nothing more, the other waits for it.
    Pull,
    /// Another job of the user's on the same node waits for that.
    Wait,
    /// A file system that is to be mounted does not answer.
    SetUp,
    /// The program runs.
    Run,
}

const PHASES: [Phase; 4] = [Phase::Pull, Phase::Wait, Phase::SetUp, Phase::Run];

/// A file system that answers nobody. It goes with the sandbox.
struct Hung {
    server: Child,
    path: PathBuf,
}

impl Hung {
    fn mount(site: &Site) -> Hung {
        let dir = site.sandbox.make_dir("hung", 0o755);
        let (content, path) = (dir.join("content"), dir.join("mnt"));
        for dir in [&content, &path] {
            site.sandbox.make_dir(dir, 0o755);
        }
        let file = dir.join("image.sqsh");
        let mut make = Command::new("mksquashfs");
        make.arg(&content).arg(&file).args(["-quiet", "-no-progress", "-noappend"]);
        run(make).success();
        let mut serve = Command::new("squashfuse_ll");
        serve.args(["-f", "-o", "allow_other"]).arg(&file).arg(&path).stdout(Stdio::null());
        let server = serve.spawn().expect("squashfuse_ll starts");
        let is_mounted = || fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
        let path_text = path.to_string_lossy().into_owned();
        eventually(Duration::from_secs(10), "the mount", || {
            is_mounted().contains(&path_text).then_some(())
        });
        signal(server.id(), Signal::SIGSTOP);
        Hung { server, path }
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // Whoever waits for an answer gets an error.
        let _ = self.server.kill();
        let _ = self.server.wait();
        let mut umount = Command::new("umount");
        umount.arg("-l").arg(&self.path);
        run(umount).success();
    }
}

fn signal(pid: u32, number: Signal) {
    // Who has ended by then needs none.
    let _ = kill(Pid::from_raw(pid.cast_signed()), number);
}

/// A step in some phase, and the srun that waits for it.
struct Stuck {
    phase: Phase,
    srun: Child,
    said: PathBuf,
}

impl Stuck {
    fn said(&self) -> String {
        fs::read_to_string(&self.said).unwrap_or_default()
    }
}

/// All that a round of stops takes: steps in every phase, of an image that no node has yet.
struct Round {
    name: &'static str,
    registry: Faulty,
    image: String,
    steps: Vec<Stuck>,
    _hung: Hung,
}

impl Round {
    fn begin(site: &Site, name: &'static str, run_script: &str) -> Round {
        let own = image::Layer::new().file("etc/round", 0o644, name);
        let built = image::busybox().layer(own).build();
        let registry = Faulty::serve(&built);
        registry.fail("blobs/", usize::MAX, Fault::Stall(1000));
        let image = format!("{name}:1");
        site.registry.push(&image, &built);
        let hung = Hung::mount(site);
        let mut round = Round { name, registry, image, steps: Vec::new(), _hung: hung };
        for phase in PHASES {
            round.start(site, phase, run_script);
        }
        round
    }

    /// Starts a step and waits until it is where it is to be stopped.
    fn start(&mut self, site: &Site, phase: Phase, run_script: &str) {
        let slow = format!("--container={}", self.registry.name());
        let marker = site.sandbox.shared().join(format!("{}-runs", self.name));
        let script = format!("touch {}; {run_script}", marker.display());
        let hung = format!("--container-mounts={}:/hung", self._hung.path.display());
        let args = match phase {
            Phase::Pull => vec!["-wn1", "-n2", &slow, "true"],
            Phase::Wait => vec!["-wn1", "-n1", &slow, "true"],
            Phase::SetUp => vec!["-wn2", "-n2", &hung, "true"],
            Phase::Run => vec!["-wn3", "-n2", "sh", "-c", &script],
        };
        let said = site.sandbox.shared().join(format!("{}-{phase:?}", self.name));
        let file = File::create(&said).expect("a file in the sandbox");
        let mut srun = site.client("srun", &[&format!("--job-name={phase:?}"), "--mem=100"]);
        if !matches!(phase, Phase::Pull | Phase::Wait) {
            srun.arg(site.option());
        }
        srun.args(args).stdin(Stdio::null());
        srun.stdout(file.try_clone().expect("a file")).stderr(file);
        let srun = srun.spawn().expect("srun starts");
        let stuck = Stuck { phase, srun, said };
        eventually(Duration::from_secs(30), &format!("{phase:?}"), || {
            let is_there = match phase {
                Phase::Pull => self.registry.count("blobs/") > 0,
                Phase::Wait => stuck.said().contains("waiting for another process"),
                Phase::SetUp => site.tasks().iter().any(|task| task.waits_for_fuse()),
                Phase::Run => marker.exists(),
            };
            is_there.then_some(())
        });
        self.steps.push(stuck);
    }

    /// Waits for the end of all of them, and looks at what is left.
    fn end(mut self, site: &Site) -> Vec<(Phase, i32, String)> {
        let began = Instant::now();
        let mut ended = Vec::new();
        for step in &mut self.steps {
            let status = eventually(Duration::from_secs(60), "the end of srun", || {
                step.srun.try_wait().expect("it is our child")
            });
            let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0));
            ended.push((step.phase, code, step.said()));
        }
        site.cluster.wait_idle();
        let took = began.elapsed();
        assert!(took < END_LIMIT, "they took {took:?} to end: {ended:?}");
        let left = site.tasks();
        assert!(left.is_empty(), "{}: processes stay: {left:?}", self.name);
        site.assert_next_job_works(&self.image, self.name);
        ended
    }
}

#[test]
fn a_step_that_is_cancelled_ends_at_once() {
    need!(root, slurm, registry, busybox, squashfs, fuse, userns);
    let site = site();
    let round = Round::begin(&site, "cancelled", "sleep 1000");
    site.scancel(&[]);
    // Who waits may have begun in place of the other before it was ended too.
    let ended = round.end(&site);
    let pull = ended.iter().find(|(phase, ..)| *phase == Phase::Pull);
    let (_, code, said) = pull.expect("there is one");
    assert_eq!(said.matches("interrupted by signal 15").count(), 1, "{said}");
    assert_eq!(*code, 143, "{said}");
}

/// The first asks for the state of the step, the second ends it.
#[test]
fn a_step_whose_srun_is_interrupted_twice_ends() {
    need!(root, slurm, registry, busybox, squashfs, fuse, userns);
    let site = site();
    let round = Round::begin(&site, "interrupted", "sleep 1000");
    for _ in 0..2 {
        round.steps.iter().for_each(|step| signal(step.srun.id(), Signal::SIGINT));
        // Not merged into one, and within the second that srun gives.
        thread::sleep(Duration::from_millis(300));
    }
    for (phase, code, said) in round.end(&site) {
        assert_ne!(code, 0, "{phase:?}: {said}");
    }
}

#[test]
fn a_launcher_that_is_killed_ends_its_task_and_leaves_nothing() {
    need!(root, slurm, registry, busybox, squashfs, fuse, userns);
    let site = site();
    let round = Round::begin(&site, "killed", "sleep 1000");
    // Who waits for one that is killed goes on in its place.
    eventually(Duration::from_secs(20), "the end of all of them", || {
        site.tasks().iter().for_each(|task| signal(task.pid, Signal::SIGKILL));
        site.tasks().is_empty().then_some(())
    });
    for (phase, code, said) in round.end(&site) {
        assert_eq!(code, 137, "{phase:?}: {said}");
    }
}

/// As without a container: who has not begun to listen is ended by it, and the program gets it.
#[test]
fn a_signal_reaches_whoever_is_there() {
    need!(root, slurm, registry, busybox, squashfs, fuse, userns);
    let site = site();
    let listen = "trap 'echo heard; exit 3' USR1; while :; do sleep 0.1; done";
    let round = Round::begin(&site, "signalled", listen);
    site.scancel(&["--signal=USR1"]);
    for (phase, code, said) in round.end(&site) {
        let expected = if phase == Phase::Run { 3 } else { 138 };
        assert_eq!(code, expected, "{phase:?}: {said}");
        assert_eq!(said.contains("heard"), phase == Phase::Run, "{said}");
    }
}

/// Slurm looks at its clock every half minute.
#[test]
fn a_job_whose_time_is_over_ends() {
    need!(root, slurm, registry, busybox, squashfs, fuse, userns);
    let site = site();
    let round = Round::begin(&site, "overdue", "sleep 1000");
    for job in site.jobs() {
        let update = ["update", &format!("JobId={job}"), "TimeLimit=0"];
        site.cluster.run_as_admin("scontrol", &update).success();
    }
    let jobs = site.jobs();
    eventually(Duration::from_secs(60), "the time to be over", || {
        let ends =
            |job: &String| site.cluster.job(job.parse().expect("a number")).state != "RUNNING";
        jobs.iter().all(ends).then_some(())
    });
    for (phase, _, said) in round.end(&site) {
        assert!(said.contains("DUE TO TIME LIMIT"), "{phase:?}: {said}");
    }
}
