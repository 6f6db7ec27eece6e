//! One image onto many nodes, which are this machine's namespaces.

use std::{fs, process::Command, time::Instant};

use fixtures::{Cluster, Links, Registry, Setup, image, need, run};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{meter::Bench, setting};

/// Layers of so many bytes each, which do not get smaller when they are packed.
const LAYERS: u8 = 12;
const LAYER: usize = 4 << 20;
const NODES: [usize; 4] = [1, 2, 8, 32];

/// Where links are what limits, and not this machine's cores: in Mbit/s.
const LINKS: Links = Links { node: 20, registry: 200 };
const SMALL_LAYER: usize = 1 << 20;

impl Bench {
    /// Steps on more and more nodes that lack their image: until the last task has ended, and what
    /// the registry was asked.
    pub(crate) fn fan(&mut self, rounds: usize) -> bool {
        let registry = Registry::start(&self.sandbox);
        registry.push("fan:1", &picture(LAYER).build());
        let own = self.sandbox.node_dir(&self.user);
        let own = own.parent().expect("it is one of several users'");
        let most = NODES[NODES.len() - 1];
        let cluster = Cluster::start_apart(&self.sandbox, most, &[], own).with_plugin();
        let mut text = format!(
            "### A step on nodes that lack its image ({LAYERS} layers of {} MB; all nodes are this \
             machine's {} cores; {rounds} rounds, medians)\n\n\
             | nodes | way | s | s, a node more | reads of layers | of documents |\n\
             |--:|---|--:|--:|--:|--:|\n",
            LAYER >> 20,
            std::thread::available_parallelism().map_or(1, usize::from),
        );
        let container = format!("--container={}", registry.name("fan:1"));
        let mut well = true;
        for way in ["store", "broadcast", "none"] {
            let mut alone = None;
            for nodes in NODES {
                let (mut times, mut asked) = (Vec::new(), (0, 0));
                for _ in 0..rounds {
                    self.forget(&cluster, most);
                    registry.clear_accesses();
                    let mut srun = cluster.command(&self.user, "srun");
                    srun.env("SHIFTER_FAN_OUT", way).arg(format!("--nodes={nodes}"));
                    srun.args(["--ntasks-per-node=1", &container, "true"]);
                    let began = Instant::now();
                    well &= run(srun).code == 0;
                    times.push(began.elapsed().as_secs_f64());
                    let reads = registry.accesses_to("fan");
                    let is_layer = |path: &str| path.contains("/blobs/");
                    asked.0 = reads.iter().filter(|read| is_layer(&read.path)).count();
                    asked.1 = reads.len() - asked.0;
                }
                times.sort_by(f64::total_cmp);
                let time = times[times.len() / 2];
                let one = *alone.get_or_insert(time);
                let more = match nodes {
                    1 => String::new(),
                    nodes => format!("{:.3}", (time - one) / (nodes - 1) as f64),
                };
                let (layers, documents) = asked;
                text +=
                    &format!("| {nodes} | {way} | {time:.2} | {more} | {layers} | {documents} |\n");
            }
        }
        self.report.add(&text);
        well
    }

    /// The same where each node has a link of its own.
    pub(crate) fn links(&mut self, rounds: usize) -> bool {
        if let Err(why) = need::links() {
            self.report
                .add(&format!("### A step on nodes with links of their own\n\nNot here: {why}\n"));
            return false;
        }
        let own = self.sandbox.node_dir(&self.user);
        let own = own.parent().expect("it is one of several users'");
        let most = NODES[NODES.len() - 1];
        let cluster = Cluster::start_linked(&self.sandbox, most, own, LINKS).with_plugin();
        let setup = Setup { host: Some(cluster.host()), ..Setup::default() };
        let registry = Registry::start_with(&self.sandbox, setup);
        registry.push("fan:1", &picture(SMALL_LAYER).build());
        let config = fs::read_to_string(self.sandbox.config()).unwrap_or_default();
        let settings =
            format!("[[registry]]\nhost = \"{}\"\nplain_http = true\n", registry.address());
        self.sandbox.write(self.sandbox.config(), format!("{config}\n{settings}"));
        let mut text = format!(
            "### A step on nodes with links of their own ({LAYERS} layers of {} MB; links of {} Mbit/s, \
             the registry's of {}; {rounds} rounds, medians)\n\n\
             | nodes | way | s | of one node | read of the registry, MB | requests | \
             received, MB: the leader | another, at most | sent, MB: the leader | another, at most |\n\
             |--:|---|--:|--:|--:|--:|--:|--:|--:|--:|\n",
            SMALL_LAYER >> 20,
            LINKS.node,
            LINKS.registry,
        );
        let container = format!("--container={}", registry.name("fan:1"));
        let ways = setting("BENCH_WAYS", "store broadcast none");
        let mut well = true;
        for way in ways.split_whitespace() {
            let mut alone = None;
            for nodes in NODES {
                let mut times = Vec::new();
                let mut last = (0, 0, Vec::new());
                for _ in 0..rounds {
                    self.forget(&cluster, most);
                    registry.clear_accesses();
                    let traffic = || (1..=most).map(|node| cluster.bytes(node)).collect::<Vec<_>>();
                    let before = traffic();
                    let mut srun = cluster.command(&self.user, "srun");
                    srun.env("SHIFTER_FAN_OUT", way).arg(format!("--nodes={nodes}"));
                    srun.arg(format!("--nodelist=n[1-{nodes}]"));
                    srun.args(["--ntasks-per-node=1", &container, "true"]);
                    let began = Instant::now();
                    well &= run(srun).code == 0;
                    times.push(began.elapsed().as_secs_f64());
                    let reads = registry.accesses_to("fan");
                    let bytes: u64 = reads.iter().map(|read| read.bytes).sum();
                    let pairs = before.iter().zip(traffic());
                    let moved = pairs.map(|(a, b)| (b.0 - a.0, b.1 - a.1)).collect();
                    last = (bytes, reads.len(), moved);
                }
                times.sort_by(f64::total_cmp);
                let time = times[times.len() / 2];
                let one = *alone.get_or_insert(time);
                let (bytes, requests, moved) = last;
                let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
                let others = moved.get(1..nodes).unwrap_or_default();
                let most = |of: &dyn Fn(&(u64, u64)) -> u64| {
                    others.iter().map(of).max().map(mb).unwrap_or_default()
                };
                text += &format!(
                    "| {nodes} | {way} | {time:.2} | {:.2} | {} | {requests} | {} | {} | {} | {} |\n",
                    time / one,
                    mb(bytes),
                    mb(moved[0].0),
                    most(&|moved| moved.0),
                    mb(moved[0].1),
                    most(&|moved| moved.1),
                );
            }
        }
        self.report.add(&text);
        for layer in [SMALL_LAYER, LAYER] {
            registry.push("fan:1", &picture(layer).build());
            well &= self.operations(&cluster, &container);
        }
        well
    }

    /// What a follower asks of the file system that the store is on.
    fn operations(&mut self, cluster: &Cluster, container: &str) -> bool {
        let trace = self.sandbox.dir().join("trace");
        let all = self.sandbox.processes();
        let is_slurmd = |line: &&String| line.contains("/slurmd -D") && line.ends_with("-N n2");
        let slurmd = all.iter().filter(is_slurmd).find(|line| !line.contains("unshare"));
        let Some(pid) = slurmd.and_then(|line| line.split(' ').next()) else { return false };
        let mut strace = Command::new("strace");
        strace.args(["-f", "-y", "-qq", "-e", "trace=%file,read,pread64,getdents64,fstat,flock"]);
        let strace = strace.arg("-o").arg(&trace).args(["-p", pid]).spawn();
        let Ok(mut strace) = strace else { return false };
        self.forget(cluster, NODES[NODES.len() - 1]);
        let mut srun = cluster.command(&self.user, "srun");
        srun.env("SHIFTER_FAN_OUT", "store").args(["--nodelist=n[1-2]", "--ntasks-per-node=1"]);
        let began = Instant::now();
        srun.args([container, "true"]);
        let outcome = run(srun);
        let time = began.elapsed().as_secs_f64();
        // It lets slurmd go on.
        let _ = kill(Pid::from_raw(strace.id().cast_signed()), Signal::SIGINT);
        let _ = strace.wait();
        let text = fs::read_to_string(&trace).unwrap_or_default();
        let store = self.sandbox.store(&self.user).display().to_string();
        let calls: Vec<_> = text.lines().filter(|line| line.contains(&store)).collect();
        let count = |names: &[&str], part: &str| {
            let is_it = |line: &&&str| {
                let call = line.split_whitespace().nth(1).unwrap_or_default();
                names.iter().any(|name| call.starts_with(&format!("{name}(")))
                    && line.contains(part)
            };
            calls.iter().filter(is_it).count()
        };
        let stats =
            ["stat", "statx", "newfstatat", "lstat", "fstat", "access", "faccessat2", "readlink"];
        let opens = count(&["openat", "open"], "");
        let lease = count(&["openat", "open"], "/locks/lead-");
        self.report.add(&format!(
            "A follower's operations in the store, in {time:.1} s: {opens} opens ({lease} of the leader's \
             lease, {} of layers), {} looks at names and attributes, {} reads ({} of layers), {} of \
             directories' lists, {} locks; {} in all\n",
            count(&["openat", "open"], "/partial/") + count(&["openat", "open"], "/blobs/sha256/"),
            count(&stats, ""),
            count(&["read", "pread64"], ""),
            count(&["read", "pread64"], "/partial/") + count(&["read", "pread64"], "/blobs/sha256/"),
            count(&["getdents64"], ""),
            count(&["flock"], ""),
            calls.len(),
        ));
        if outcome.code != 0 {
            eprintln!("bench: {outcome}");
        }
        outcome.code == 0
    }

    /// Removes the image from all nodes and from the store.
    fn forget(&self, cluster: &Cluster, nodes: usize) {
        let mut srun = cluster.command(&self.user, "srun");
        let node = self.sandbox.node_dir(&self.user).display().to_string();
        srun.arg(format!("--nodes={nodes}")).args(["--ntasks-per-node=1", "rm", "-rf", &node]);
        run(srun).success();
        // It need not be there.
        let _ = fs::remove_dir_all(self.sandbox.store(&self.user));
        let mut sync = Command::new("sync");
        sync.arg("-f").arg(self.sandbox.dir());
        run(sync).success();
    }
}

fn picture(layer_size: usize) -> image::Image {
    (0..LAYERS).fold(image::busybox(), |image, layer| {
        // xorshift64.
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ u64::from(layer + 1);
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let noise: Vec<u8> = noise.take(layer_size / 8).flatten().collect();
        image.layer(image::Layer::new().file(&format!("noise-{layer}"), 0o644, noise))
    })
}
