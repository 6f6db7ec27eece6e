//! One pull for all nodes of a job, on a real Slurm whose nodes have nothing in common but the network
//! and, where that is told, a directory.

use std::{
    fs,
    path::PathBuf,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use fixtures::{Cluster, Outcome, Registry, Sandbox, User, image, need};

const NODES: usize = 4;

/// One cluster for all tests of this file, and one test at a time.
struct Site {
    sandbox: Sandbox,
    registry: Registry,
    cluster: Cluster,
    user: User,
}

static SITE: LazyLock<Mutex<Site>> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let registry = Registry::start(&sandbox);
    let user = User::ordinary();
    let own = node_file_system(&sandbox, &user);
    let cluster = Cluster::start_apart(&sandbox, NODES, &[], &own).with_plugin();
    Mutex::new(Site { sandbox, registry, cluster, user })
});

/// What each node has for itself: where the node directory is.
fn node_file_system(sandbox: &Sandbox, user: &User) -> PathBuf {
    sandbox.node_dir(user).parent().expect("it is one of several users'").to_owned()
}

/// The site, with these settings; nodes and store have nothing that an earlier test left.
fn site(fan_out: &str) -> MutexGuard<'static, Site> {
    let site = SITE.lock().unwrap_or_else(PoisonError::into_inner);
    site.sandbox.write(site.sandbox.config(), format!("fan_out = {fan_out:?}\n"));
    // It need not be there.
    let _ = fs::remove_dir_all(site.sandbox.store(&site.user));
    site.registry.clear_accesses();
    site
}

impl Site {
    /// Pushes an image of several layers that no other test has, and returns its name.
    fn image(&self, name: &str) -> String {
        let mut image = image::busybox();
        for layer in 0..5_u8 {
            let noise: Vec<u8> = (0..300_000_u32)
                .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8 ^ layer ^ name.len() as u8)
                .collect();
            let files = image::Layer::new().file(&format!("{name}-{layer}"), 0o644, noise);
            image = image.layer(files);
        }
        self.registry.push(&format!("{name}:1"), &image.build());
        self.registry.name(&format!("{name}:1"))
    }

    fn srun(&self, nodes: usize, image: &str, command: &[&str]) -> Outcome {
        let (nodes, container) = (format!("--nodes={nodes}"), format!("--container={image}"));
        self.cluster
            .srun(&self.user, &[&["--ntasks-per-node=2", &nodes, &container], command].concat())
    }

    /// How often a blob of a repository was read.
    fn reads(&self, repository: &str) -> Vec<(String, usize)> {
        let mut reads = std::collections::BTreeMap::new();
        for access in self.registry.accesses_to(repository) {
            if access.method == "GET" && access.status < 300 {
                *reads.entry(access.path).or_insert(0) += 1;
            }
        }
        reads.into_iter().collect()
    }

    #[track_caller]
    fn assert_read_once(&self, repository: &str) {
        let reads = self.reads(repository);
        // Manifest, configuration, and the layers.
        assert!(reads.len() >= 8, "{reads:?}");
        for (path, count) in &reads {
            assert_eq!(*count, 1, "{path} was read by several nodes: {reads:?}");
        }
    }

    /// What is on the nodes' own file systems besides the image's tree and the places for others.
    fn left_on_nodes(&self) -> String {
        let script =
            "cd \"$0\" && find . -name '.shifter*' -o -path '*/outbox/*' -o -path '*/partial/*'";
        let node = node_file_system(&self.sandbox, &self.user).display().to_string();
        let nodes = format!("--nodes={NODES}");
        self.cluster.srun(&self.user, &[&nodes, "sh", "-c", script, &node]).success()
    }
}

#[test]
fn a_store_that_all_nodes_see_is_filled_once() {
    need!(root, slurm, registry, busybox, userns);
    let site = site("store");
    let image = site.image("by-store");
    let outcome = site.srun(NODES, &image, &["cat", "/by-store-4", "/by-store-0"]);
    let said = outcome.stderr.clone();
    assert_eq!(outcome.code, 0, "{said}");
    site.assert_read_once("by-store");
    site.cluster.wait_idle();
    assert_eq!(site.left_on_nodes(), "");
}

#[test]
fn without_a_common_directory_it_is_sent_from_node_to_node() {
    need!(root, slurm, registry, busybox, userns);
    let site = site("broadcast");
    let image = site.image("by-broadcast");
    let outcome = site.srun(NODES, &image, &["ls", "/by-broadcast-4"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    eprintln!("{outcome}");
    site.assert_read_once("by-broadcast");
    site.cluster.wait_idle();
    assert_eq!(site.left_on_nodes(), "");
}
