//! Programs of real MPIs, of their packages, in an image: that they find one another under Slurm.

use std::{path::PathBuf, process::Command, sync::LazyLock, time::Duration};

use fixtures::{Cache, Cluster, Outcome, Registry, Sandbox, Setup, User, need, run, run_within};

/// Far more than building takes on a slow machine with a slow network.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);
const NODES: usize = 2;

struct Site {
    cluster: Cluster,
    registry: Registry,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let data = Some(images(&sandbox).join("registry"));
    let registry = Registry::start_with(&sandbox, Setup { data, ..Setup::default() });
    // PMIx has directories in it that are named by the step: nodes on one machine must not share it.
    let tmp = sandbox.make_dir("tmp", 0o1777);
    for node in 1..=NODES {
        sandbox.make_dir(tmp.join(format!("n{node}")), 0o1777);
    }
    let tmp = format!("{}/%n", tmp.display());
    let cluster = Cluster::start_with(&sandbox, NODES, &[("TmpFS", &tmp)]).with_plugin();
    Site { cluster, registry }
});

fn cache() -> Cache {
    let recipe = [include_str!("recipe.sh"), include_str!("hello.c")];
    Cache::new(env!("CARGO_TARGET_TMPDIR"), "mpi", &recipe)
}

/// The directory with what a registry serves: `mpi:1`.
fn images(sandbox: &Sandbox) -> PathBuf {
    cache().get(|dir| {
        let hello = dir.join("hello.c");
        std::fs::write(&hello, include_str!("hello.c")).expect("the directory is this test's");
        // However it ends, nothing stays mounted.
        let mut recipe = Command::new("unshare");
        recipe.args(["--mount", "bash", "-c", include_str!("recipe.sh"), "recipe"]);
        recipe.arg(dir).arg(hello);
        run_within(recipe, BUILD_LIMIT).success();
        let data = Some(dir.join("registry"));
        let registry = Registry::start_with(sandbox, Setup { data, ..Setup::default() });
        registry.push_layout("mpi:1", &format!("{}:mpi", dir.join("oci").display()));
        for made in ["bundle", "oci"] {
            std::fs::remove_dir_all(dir.join(made)).expect("the recipe made it");
        }
    })
}

fn can_be_made() -> Result<(), String> {
    if cache().is_made() { Ok(()) } else { need::mpi() }
}

macro_rules! site {
    () => {{
        need!(root, slurm, registry, userns);
        if !need::is_met("MPIs", can_be_made()) {
            return;
        }
        &*SITE
    }};
}

impl Site {
    /// Two ranks on one node, or on two.
    fn hello(&self, nodes: usize, mpi: &str, program: &str) -> Outcome {
        let image = format!("--container={}", self.registry.name("mpi:1"));
        let mut srun = self.cluster.command(&User::ordinary(), "srun");
        srun.args(["-Q", "-n2", &format!("-N{nodes}"), &format!("--mpi={mpi}"), &image]);
        srun.arg(format!("/opt/hello/{program}"));
        if nodes > 1 {
            // The nodes of this cluster are one machine, which UCX and Open MPI find out: they would
            // use its memory, where only ranks of one node are in one container.
            srun.env("UCX_TLS", "tcp,self").env("OMPI_MCA_btl", "tcp,self");
        }
        run(srun)
    }
}

/// Programs, how they are wired up, and their libraries.
const PROGRAMS: [(&str, &str, &str); 4] = [
    ("mpich", "pmi2", "/lib/x86_64-linux-gnu/libmpich.so.12"),
    ("mpich5", "pmi2", "/opt/mpich5/lib/libmpi.so.12"),
    ("openmpi", "pmix", "/lib/x86_64-linux-gnu/libmpi.so.40"),
    ("openmpi5", "pmix", "/opt/openmpi5/lib/libmpi.so.40"),
];

/// Both ranks have met, and nobody complains.
#[track_caller]
fn assert_met(outcome: &Outcome, library: &str) {
    let said = outcome.clone().success();
    let mut lines: Vec<_> = said.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 2, "{outcome}");
    for (rank, line) in lines.iter().enumerate() {
        let met = format!("rank {rank}/2 sum=3 left={} lib={library} ", 1 - rank);
        assert!(line.starts_with(&met), "{line:?}: expected {met:?}\n{outcome}");
    }
    let foreign = outcome.stderr.lines().filter(|line| !line.contains("pull"));
    assert_eq!(foreign.count(), 0, "{outcome}");
}

/// The megabyte goes from the memory of one process to the other's, which the kernel allows within
/// one user namespace: these libraries abort where they expect it and cannot.
#[test]
fn ranks_on_a_node_share_memory() {
    let site = site!();
    for (program, mpi, library) in PROGRAMS {
        assert_met(&site.hello(1, mpi, program), library);
    }
}

#[test]
fn ranks_on_nodes_find_one_another() {
    let site = site!();
    for (program, mpi, library) in PROGRAMS {
        assert_met(&site.hello(NODES, mpi, program), library);
    }
}
