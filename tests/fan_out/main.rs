//! One pull for all nodes of a job, on a real Slurm whose nodes have nothing in common but the network
//! and, where that is told, a directory.

mod kills;
mod late;
mod links;
mod trouble;

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{LazyLock, Mutex, MutexGuard, PoisonError},
};

use fixtures::{Cluster, Registry, Sandbox, User, image, need, run};
use nix::unistd::Pid;

const WAYS: [&str; 2] = ["store", "broadcast"];

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
    for dir in [small_store(&sandbox), full_store(&sandbox)] {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=300k,mode=1777", "small"]);
        mount.arg(sandbox.make_dir(dir, 0o755));
        run(mount).success();
    }
    let cluster = Cluster::start_apart(&sandbox, NODES, &[], &own).with_plugin();
    Mutex::new(Site { sandbox, registry, cluster, user })
});

/// A file system that all nodes see, and that no image has room in.
fn small_store(sandbox: &Sandbox) -> PathBuf {
    sandbox.dir().join("small")
}

/// One in which there is room for nothing, once it is filled.
fn full_store(sandbox: &Sandbox) -> PathBuf {
    sandbox.dir().join("full")
}

/// What each node has for itself: where the node directory is.
fn node_file_system(sandbox: &Sandbox, user: &User) -> PathBuf {
    sandbox.node_dir(user).parent().expect("it is one of several users'").to_owned()
}

/// The site; the store has nothing that an earlier test left.
fn site() -> MutexGuard<'static, Site> {
    let site = SITE.lock().unwrap_or_else(PoisonError::into_inner);
    // It need not be there.
    let _ = fs::remove_dir_all(site.sandbox.store(&site.user));
    site.registry.clear_accesses();
    site
}

/// An image of several layers, by a name that is in their content.
fn layers(name: &str) -> image::Image {
    let mut image = image::busybox();
    for layer in 0..5_u8 {
        // xorshift64: what does not get smaller when it is packed.
        let mut state = 0x9e37_79b9_7f4a_7c15 ^ u64::from(layer + 1);
        let noise: Vec<u8> = std::iter::repeat_with(|| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8
        })
        .take(300_000)
        .collect();
        let files = image::Layer::new().file(&format!("{name}-{layer}"), 0o644, noise);
        image = image.layer(files);
    }
    image
}

impl Site {
    /// Pushes an image of several layers that no other test has, and returns its name.
    fn image(&self, name: &str) -> String {
        self.registry.push(&format!("{name}:1"), &layers(name).build());
        self.registry.name(&format!("{name}:1"))
    }

    /// `srun` on so many nodes, two tasks each, by this way.
    fn srun(&self, fan_out: &str, nodes: usize, image: &str, command: &[&str]) -> Command {
        let mut srun = self.cluster.command(&self.user, "srun");
        srun.env("SHIFTER_FAN_OUT", fan_out).arg("--ntasks-per-node=2");
        srun.arg(format!("--nodes={nodes}")).arg(format!("--container={image}")).args(command);
        srun
    }

    /// The launchers that run on a node.
    fn launchers(&self, node: &str) -> Vec<Pid> {
        let dir = self.sandbox.prefix().join("bin");
        // One becomes the other.
        let programs = ["shifter", "shifter-pull"].map(|program| dir.join(program));
        let entries = fs::read_dir("/proc").expect("/proc is mounted").flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let name = format!("SLURMD_NODENAME={node}").into_bytes();
        let is_it = |pid: &i32| {
            let proc = PathBuf::from(format!("/proc/{pid}"));
            let environment = fs::read(proc.join("environ")).unwrap_or_default();
            fs::read_link(proc.join("exe")).is_ok_and(|exe| programs.contains(&exe))
                && environment.split(|byte| *byte == 0).any(|variable| variable == name)
        };
        pids.filter(is_it).map(Pid::from_raw).collect()
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
        // Manifest, configuration, and the layers; one may be in the store, of another image.
        assert!(reads.len() >= 7, "{reads:?}");
        for (path, count) in &reads {
            assert_eq!(*count, 1, "{path} was read by several nodes: {reads:?}");
        }
    }

    /// What is on the nodes' own file systems besides the image's tree and the places for others.
    fn left_on_nodes(&self) -> String {
        let script = "cd \"$0\" && find . \\( -name '.shifter*' -o -path '*/outbox/*' -o \
                      -path '*/partial/*' \\) -print -prune";
        let node = node_file_system(&self.sandbox, &self.user).display().to_string();
        let nodes = format!("--nodes={NODES}");
        self.cluster.srun(&self.user, &[&nodes, "sh", "-c", script, &node]).success()
    }
}

#[test]
fn one_node_asks_the_registry_and_all_have_the_image() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for way in WAYS {
        let image = site.image(&format!("by-{way}"));
        let outcome = run(site.srun(way, NODES, &image, &["ls", &format!("/by-{way}-4")]));
        let said = outcome.stderr.clone();
        assert_eq!(outcome.success().lines().count(), 2 * NODES);
        assert!(said.contains("n1: pulled "), "{said}");
        // Who comes when all is there waits for nobody.
        assert!(said.matches(": waiting for n1: pulling ").count() < NODES, "{said}");
        site.assert_read_once(&format!("by-{way}"));
        assert_eq!(site.left_on_nodes(), "");
    }
}

#[test]
fn a_step_on_more_nodes_has_it_from_where_it_is() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for way in WAYS {
        let image = site.image(&format!("more-{way}"));
        run(site.srun(way, 2, &image, &["true"])).success();
        site.registry.clear_accesses();
        run(site.srun(way, NODES, &image, &["true"])).success();
        let reads: usize = site.reads(&format!("more-{way}")).iter().map(|(_, count)| count).sum();
        match way {
            "store" => assert_eq!(reads, 0),
            // Who has the tree has no layers any more; one of the others pulls for the rest. Two may begin
            // at the same moment: then both ask for the manifest and the configuration.
            _ => assert!((7..=8 + 2).contains(&reads), "{:?}", site.reads("more-broadcast")),
        }
        assert_eq!(site.left_on_nodes(), "");
    }
}

#[test]
fn a_jobs_script_brings_the_image_for_its_steps() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let image = site.image("script");
    let container = format!("--container={image}");
    let args = [&container, "--nodes=3", "--export=ALL,SHIFTER_FAN_OUT=store"];
    let job = site.cluster.sbatch(&site.user, &args, "#!/bin/sh\ntest -e /script-4\n");
    assert_eq!(site.cluster.wait_job(job).state, "COMPLETED", "{}", site.cluster.job_output(job));
    run(site.srun("store", 3, &image, &["true"])).success();
    site.assert_read_once("script");
}

#[test]
fn an_image_is_brought_to_a_job_beforehand() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let image = site.image("before");
    let program = site.sandbox.prefix().join("bin/shifter-pull");
    let pull = |nodes: bool| {
        let mut command = match nodes {
            true => site.cluster.command(&site.user, "salloc"),
            false => site.cluster.command(&site.user, &program.to_string_lossy()),
        };
        if nodes {
            command.args(["--quiet", &format!("--nodes={NODES}")]).arg(&program);
        }
        command.env("SHIFTER_FAN_OUT", "broadcast").args(["--nodes", &image]);
        run(command)
    };
    let said = pull(false).failure(2);
    assert!(said.contains("salloc -N4 shifter-pull --nodes IMAGE"), "{said}");
    let name = pull(true).success();
    assert!(name.starts_with(&format!("{image}@sha256:")) && name.lines().count() == 1, "{name}");
    site.assert_read_once("before");
    site.registry.clear_accesses();
    let outcome = run(site.srun("broadcast", NODES, &image, &["true"]));
    assert_eq!((outcome.code, site.reads("before")), (0, vec![]), "{outcome}");
    assert_eq!(site.left_on_nodes(), "");
}
