//! Launchers that are killed without a word, at every moment of a pull: the other nodes of the step do not
//! mind.

use std::{
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use fixtures::{Fault, Faulty, Outcome, eventually};
use nix::sys::signal::{Signal, kill};

use super::*;

/// Three leaders may die, one after the other, each half a minute before that is known.
const LIMIT: Duration = Duration::from_secs(170);

/// Steps that run at once.
const AT_ONCE: usize = 8;

/// How far a leader is when it dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// It has begun.
    Begun,
    /// It asks what the name stands for.
    Resolving,
    /// No layer is complete.
    Downloading,
    /// All layers but one are.
    LastLayer,
    /// All layers are, a moment ago.
    Complete,
    /// Slurm's program sends for it.
    Sending,
}

/// One step, of one image that nobody else has.
struct Step<'a> {
    site: &'a Site,
    registry: Faulty,
    way: &'static str,
    /// Nodes whose launchers were killed.
    killed: Vec<usize>,
}

impl<'a> Step<'a> {
    fn new(site: &'a Site, way: &'static str, image: &image::Built) -> Step<'a> {
        Step { site, registry: Faulty::serve(image), way, killed: Vec::new() }
    }

    /// Begins: each node says its name in the end.
    fn start(&self) -> thread::JoinHandle<Outcome> {
        let mut srun = self.site.srun(self.way, NODES, &self.registry.name(), &[]);
        srun.args(["--no-kill", "sh", "-c", "echo $SLURMD_NODENAME"]).stdin(Stdio::null());
        thread::spawn(|| fixtures::run_within(srun, LIMIT))
    }

    /// The launchers of this step on a node.
    fn launchers(&self, node: usize) -> Vec<Pid> {
        let name = self.registry.name();
        let all = self.site.launchers(&format!("n{node}"));
        let is_of_it = |pid: &Pid| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            String::from_utf8_lossy(&environment).contains(&name)
        };
        all.into_iter().filter(is_of_it).collect()
    }

    /// The node that asks the registry, which alone takes an event loop.
    fn leader(&self) -> Option<usize> {
        let is_at_it = |pid: Pid| {
            let files = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            let mut targets = files.filter_map(|file| fs::read_link(file.path()).ok());
            targets.any(|target| target.to_string_lossy() == "anon_inode:[eventpoll]")
        };
        (1..=NODES).find(|node| self.launchers(*node).into_iter().any(is_at_it))
    }

    fn kill(&mut self, node: usize) {
        for pid in self.launchers(node) {
            // What it has become meanwhile, or that it has ended, does not matter.
            let _ = kill(pid, Signal::SIGKILL);
            self.killed.push(node);
        }
    }

    /// What went wrong besides what was killed.
    fn trouble(&self, outcome: &Outcome) -> Option<String> {
        let has_run = |node: &usize| {
            let name = format!("n{node}");
            outcome.stdout.lines().filter(|line| *line == name).count() == 2
        };
        let mut alive = (1..=NODES).filter(|node| !self.killed.contains(node));
        let lost: Vec<_> = alive.by_ref().filter(|node| !has_run(node)).collect();
        let said = || {
            format!("{} of {}, killed {:?}: {outcome}", self.way, self.registry.name(), self.killed)
        };
        (!lost.is_empty()).then(|| format!("nodes {lost:?} failed: {}", said()))
    }
}

/// Whether some process sends files for the leader.
fn is_sending(registry: &Faulty) -> bool {
    let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
    let name = registry.name();
    entries.into_iter().any(|entry| {
        fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm == "sbcast\n")
            && fs::read(entry.path().join("environ"))
                .is_ok_and(|bytes| String::from_utf8_lossy(&bytes).contains(&name))
    })
}

/// Kills the leader of a step in this phase.
fn kill_leader(site: &Site, way: &'static str, phase: Phase) -> Result<(), String> {
    let image = layers(&format!("phase-{way}-{phase:?}").to_lowercase()).build();
    let mut step = Step::new(site, way, &image);
    let registry = step.registry.clone();
    let blobs: Vec<_> = image.blobs().iter().map(image::Blob::digest).collect();
    match phase {
        Phase::Resolving => _ = registry.fail("GET /v2/x/manifests", 1, Fault::Silence),
        Phase::Downloading => _ = registry.fail("blobs", 12, Fault::Slow(10_000)),
        Phase::LastLayer => _ = registry.fail(&blobs[3], 1, Fault::Stall(1000)),
        Phase::Begun | Phase::Complete | Phase::Sending => {}
    }
    let running = step.start();
    let blobs_asked = |least: usize| registry.count("blobs") >= least;
    let leader = eventually(LIMIT, "a leader that is that far", || {
        let is_far = match phase {
            Phase::Begun => false,
            Phase::Resolving => registry.count("GET /v2/x/manifests") > 0,
            Phase::Downloading => blobs_asked(3),
            Phase::LastLayer => registry.count(&blobs[3]) > 0,
            // One may be in the store, of another image.
            Phase::Complete => blobs_asked(blobs.len() - 1),
            Phase::Sending => is_sending(&registry),
        };
        if phase == Phase::Begun && !step.launchers(1).is_empty() || running.is_finished() {
            return Some(1);
        }
        is_far.then(|| step.leader()).flatten()
    });
    if phase == Phase::LastLayer {
        // Time enough for the others.
        sleep(Duration::from_millis(700));
    }
    step.kill(leader);
    let outcome = running.join().expect("srun is waited for");
    let may_be_late = matches!(phase, Phase::Begun | Phase::Complete);
    if step.killed.is_empty() && !may_be_late {
        return Err(format!("{phase:?}: {way}: n{leader} was to be killed: {outcome}"));
    }
    if let Some(trouble) = step.trouble(&outcome) {
        return Err(format!("{phase:?}: {trouble}"));
    }
    // Once by who has died, once by its successor.
    let asked = registry.count("GET");
    let most = 2 * (blobs.len() + 1) + NODES;
    let asked_by_all = NODES * (blobs.len() + 1);
    assert!(most < asked_by_all);
    match asked <= most {
        true => Ok(()),
        false => Err(format!("{phase:?}: {way}: {asked} requests: {outcome}")),
    }
}

impl Site {
    /// What the next step of the user leaves of those that were killed.
    fn left(&self, name: &str) -> String {
        self.cluster.wait_idle();
        // What is younger than a minute may be for a task that is late.
        let age = "find \"$0\" -maxdepth 1 -name '.shifter*' -exec touch -d '2 minutes ago' {} +";
        let node = node_file_system(&self.sandbox, &self.user).display().to_string();
        let nodes = format!("--nodes={NODES}");
        self.cluster.srun(&self.user, &[&nodes, "sh", "-c", age, &node]).success();
        for way in WAYS {
            let image = self.image(&format!("{name}-{way}"));
            run(self.srun(way, NODES, &image, &["true"])).success();
        }
        self.cluster.wait_idle();
        let store = self.sandbox.store(&self.user);
        let in_store = ["locks", "partial"].into_iter().flat_map(|dir| {
            let entries = fs::read_dir(store.join(dir)).into_iter().flatten().flatten();
            let paths = entries.map(|entry| format!("{}\n", entry.path().display()));
            // Layers that are whole wait there for who wants their image next.
            paths.filter(move |path| {
                dir == "locks" || path.rsplit('/').next().is_some_and(|name| name.contains('.'))
            })
        });
        in_store.collect::<String>() + &self.left_on_nodes()
    }
}

#[test]
fn a_leader_may_die_at_any_moment() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    use Phase::*;
    let cases = [
        ("store", &[Begun, Resolving, Downloading, LastLayer, Complete][..]),
        ("broadcast", &[Begun, Resolving, Downloading, LastLayer, Complete, Sending]),
    ];
    let cases = cases.iter().flat_map(|(way, phases)| phases.iter().map(|phase| (*way, *phase)));
    let failed: Vec<String> = thread::scope(|scope| {
        let site = &*site;
        let start = |(way, phase)| scope.spawn(move || kill_leader(site, way, phase));
        let cases: Vec<_> = cases.map(start).collect();
        let ends = cases.into_iter().map(|case| case.join().expect("no case panics"));
        ends.filter_map(Result::err).collect()
    });
    assert!(failed.is_empty(), "{}", failed.join("\n"));
    assert_eq!(site.left("phases"), "");
}

/// `KILLS=100 KILLS_SEED=7` has it do more, or the same again as far as that is possible.
#[test]
#[expect(clippy::print_stdout, reason = "what a run of hundreds was")]
fn launchers_may_be_killed_at_random() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let runs = number("KILLS").unwrap_or(6) as usize;
    let seed = number("KILLS_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("KILLS={runs} KILLS_SEED={seed}");
    let (next, killed) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let failed: Vec<String> = thread::scope(|scope| {
        let work = || {
            let mut failed = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= runs {
                    return failed;
                }
                let mut dice = Dice::new(seed, number);
                let (kills, trouble) = killed_at_random(&site, number, &mut dice);
                killed.fetch_add(kills, Ordering::Relaxed);
                failed.extend(trouble.map(|trouble| format!("run {number}: {trouble}")));
            }
        };
        let workers: Vec<_> = (0..AT_ONCE).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no run panics")).collect()
    });
    println!("{runs} steps, {} launchers killed", killed.into_inner());
    assert!(failed.is_empty(), "seed {seed}: {} failed\n{}", failed.len(), failed.join("\n"));
    assert_eq!(site.left("random"), "", "seed {seed}");
}

/// A machine that goes down takes all with it, its memory too. Slurm notices when it is back.
#[test]
fn a_node_may_go_down() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for node in [1, 3] {
        let steps = WAYS.map(|way| {
            let image = layers(&format!("down-{way}-{node}")).build();
            let mut step = Step::new(&site, way, &image);
            step.registry.fail("blobs", 12, Fault::Slow(10_000));
            step.killed.push(node);
            let running = step.start();
            (step, running)
        });
        for (step, _) in &steps {
            eventually(LIMIT, "layers to be asked for", || {
                (step.registry.count("blobs") >= 3).then_some(())
            });
        }
        sleep(Duration::from_millis(500));
        site.cluster.crash_node(node);
        // What slurmctld finds out by itself after SlurmdTimeout.
        let down = [&*format!("nodename=n{node}"), "state=down", "reason=test"];
        site.cluster.run_as_admin("scontrol", &[&["update"][..], &down].concat()).success();
        for (step, running) in steps {
            let outcome = running.join().expect("srun is waited for");
            assert_eq!(step.trouble(&outcome), None);
        }
        site.cluster.start_node(node);
    }
    assert_eq!(site.left("down"), "");
}

fn killed_at_random(site: &Site, number: usize, dice: &mut Dice) -> (usize, Option<String>) {
    let way = WAYS[dice.below(2) as usize];
    let image = layers(&format!("random-{number}")).build();
    let mut step = Step::new(site, way, &image);
    // Whole pulls take two seconds to eight.
    step.registry.fail("blobs", 40, Fault::Slow(8_000 + dice.below(24_000) as usize));
    let mut kills: Vec<(Duration, usize)> = (0..=dice.below(NODES as u64 - 1))
        .map(|_| (Duration::from_millis(dice.below(8_000)), 1 + dice.below(NODES as u64) as usize))
        .collect();
    // The first node is who leads at first.
    kills[0].1 = 1;
    kills.sort();
    let running = step.start();
    eventually(LIMIT, "the step to begin", || {
        let has_begun = (1..=NODES).any(|node| !step.launchers(node).is_empty());
        (has_begun || running.is_finished()).then_some(())
    });
    let began = Instant::now();
    for (after, node) in kills {
        sleep(after.saturating_sub(began.elapsed()));
        step.kill(node);
    }
    let outcome = running.join().expect("srun is waited for");
    (step.killed.len(), step.trouble(&outcome))
}

/// xorshift64.
struct Dice(u64);

impl Dice {
    fn new(seed: u64, number: usize) -> Dice {
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 ^ (seed << 20) ^ number as u64);
        (0..8).for_each(|_| _ = dice.below(1));
        dice
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % limit
    }
}
