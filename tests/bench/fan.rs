//! One image onto many nodes, which are this machine's namespaces.

use std::{fs, process::Command, time::Instant};

use fixtures::{Cluster, Registry, image, run};

use crate::meter::Bench;

/// Layers of so many bytes each, which do not get smaller when they are packed.
const LAYERS: u8 = 12;
const LAYER: usize = 4 << 20;
const NODES: [usize; 4] = [1, 2, 8, 32];

impl Bench {
    /// Steps on more and more nodes that lack their image: until the last task has ended, and what
    /// the registry was asked.
    pub(crate) fn fan(&mut self, rounds: usize) -> bool {
        let registry = Registry::start(&self.sandbox);
        registry.push("fan:1", &picture().build());
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

fn picture() -> image::Image {
    (0..LAYERS).fold(image::busybox(), |image, layer| {
        // xorshift64.
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ u64::from(layer + 1);
        let noise = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()
        });
        let noise: Vec<u8> = noise.take(LAYER / 8).flatten().collect();
        image.layer(image::Layer::new().file(&format!("noise-{layer}"), 0o644, noise))
    })
}
