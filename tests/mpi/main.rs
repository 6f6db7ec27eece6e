//! Programs of real MPIs, of their packages, in an image: that they find one another under Slurm,
//! and run with the host's MPI where it fits.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
    time::Duration,
};

use fixtures::{
    Cache, Cluster, Outcome, Place, Registry, Sandbox, Setup, User, need, place::assert_says, run,
    run_within,
};

/// Far more than building takes on a slow machine with a slow network.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);
const NODES: usize = 2;

struct Site {
    sandbox: Sandbox,
    cluster: Cluster,
    registry: Registry,
    /// MPIs as a site has them: `mpich5`, `mpich3`.
    host: PathBuf,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let made = images(&sandbox);
    let data = Some(made.join("registry"));
    let registry = Registry::start_with(&sandbox, Setup { data, ..Setup::default() });
    // Not everybody may go where the tests were built.
    let host = sandbox.dir().join("host");
    let mut copy = Command::new("cp");
    copy.arg("-r").arg(made.join("host")).arg(&host);
    run(copy).success();
    // PMIx has directories in it that are named by the step: nodes on one machine must not share it.
    let tmp = sandbox.make_dir("tmp", 0o1777);
    for node in 1..=NODES {
        sandbox.make_dir(tmp.join(format!("n{node}")), 0o1777);
    }
    let tmp = format!("{}/%n", tmp.display());
    let cluster = Cluster::start_with(&sandbox, NODES, &[("TmpFS", &tmp)]).with_plugin();
    Site { sandbox, cluster, registry, host }
});

const FILES: [(&str, &str); 5] = [
    ("recipe.sh", include_str!("recipe.sh")),
    ("hello.c", include_str!("hello.c")),
    ("hello.cc", include_str!("hello.cc")),
    ("hello.f90", include_str!("hello.f90")),
    ("dlopen.c", include_str!("dlopen.c")),
];

fn cache() -> Cache {
    Cache::new(env!("CARGO_TARGET_TMPDIR"), "mpi", &FILES.map(|(_, text)| text))
}

/// The directory with what a registry serves, and with the host's MPIs.
fn images(sandbox: &Sandbox) -> PathBuf {
    cache().get(|dir| {
        for (name, text) in FILES {
            fs::write(dir.join(name), text).expect("the directory is this test's");
        }
        // However it ends, nothing stays mounted.
        let mut recipe = Command::new("unshare");
        recipe.args(["--mount", "bash"]).arg(dir.join("recipe.sh")).arg(dir);
        run_within(recipe, BUILD_LIMIT).success();
        let data = Some(dir.join("registry"));
        let registry = Registry::start_with(sandbox, Setup { data, ..Setup::default() });
        for image in ["mpi", "openmpi", "bullseye"] {
            let layout = format!("{}:{image}", dir.join("oci").display());
            registry.push_layout(&format!("{image}:1"), &layout);
        }
        for made in ["bundle", "old", "oci", "wheels"] {
            fs::remove_dir_all(dir.join(made)).expect("the recipe made it");
        }
    })
}

fn can_be_made() -> Result<(), String> {
    if cache().is_made() { Ok(()) } else { need::mpi() }
}

macro_rules! site {
    () => {{
        fixtures::need!(root, slurm, registry, userns);
        if !fixtures::need::is_met("MPIs", $crate::can_be_made()) {
            return;
        }
        &*$crate::SITE
    }};
}

mod alone;
mod doctor;
mod front_ends;
mod glibc;

impl Site {
    /// Two ranks on one node, or on two.
    fn hello(&self, nodes: usize, mpi: &str, program: &str) -> Outcome {
        run(self.hello_command(nodes, mpi, program))
    }

    fn hello_command(&self, nodes: usize, mpi: &str, program: &str) -> Command {
        let image = format!("--container={}", self.registry.name("mpi:1"));
        let mut srun = self.cluster.command(&User::ordinary(), "srun");
        srun.args(["-Q", "-n2", &format!("-N{nodes}"), &format!("--mpi={mpi}"), &image]);
        srun.arg(format!("/opt/hello/{program}"));
        if nodes > 1 {
            // The nodes of this cluster are one machine, which UCX and Open MPI find out: they would
            // use its memory, where only ranks of one node are in one container.
            srun.env("UCX_TLS", "tcp,self").env("OMPI_MCA_btl", "tcp,self");
        }
        srun
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
    let own = |line: &&str| line.contains("pull") || line.contains("if a Fortran program");
    let foreign = outcome.stderr.lines().filter(|line| !own(line));
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
    // UCX of Debian's MPICH, told to leave memory alone, sometimes does not come to an end in
    // MPI_Finalize: on the bare host, too.
    for (program, mpi, library) in &PROGRAMS[1..] {
        assert_met(&site.hello(NODES, mpi, program), library);
    }
}

// ---- the host's MPI

impl Site {
    /// A stack of the settings: a library of the host's.
    fn stack(name: &str, lib: &Path) -> String {
        format!("[[mpi.stack]]\nname = {name:?}\nlibs = [{:?}]\n", lib.display().to_string())
    }

    fn mpich(&self, version: u32) -> String {
        let lib = self.host.join(format!("mpich{version}/lib/libmpi.so.12"));
        Site::stack(&format!("mpich{version}"), &lib)
    }

    fn place(&self, name: &str, config: &str) -> Place {
        // One tree of the image is enough for all of them.
        let mut place = Place::new(&self.sandbox, name).with_config(config);
        place.node = self.sandbox.node_dir(&place.user);
        place
    }

    /// Runs a program of the image by hand: one rank.
    fn run(&self, place: &Place, flags: &[&str], image: &str, program: &[&str]) -> Outcome {
        let image = self.registry.name(image);
        place.shifter(&[&["run", "--no-home"], flags, &[&image], program].concat())
    }
}

#[test]
fn whatever_way_a_program_finds_its_mpi_it_is_the_hosts() {
    let site = site!();
    let place = site.place("finds", &site.mpich(5));
    let host = site.host.join("mpich5/lib/libmpi.so.12");
    for program in ["mpich", "mpich5", "rpath"] {
        let program = format!("/opt/hello/{program}");
        let outcome = site.run(&place, &[], "mpi:1", &[&program]);
        let expected = format!("rank 0/1 sum=1 left=0 lib={} ", host.display());
        assert!(outcome.clone().success().starts_with(&expected), "{outcome}");
    }
    for library in ["libmpich.so.12", "/opt/mpich5/lib/libmpi.so.12"] {
        let outcome = site.run(&place, &[], "mpi:1", &["/opt/hello/dlopen", library]);
        let expected = format!("lib={} ", host.display());
        assert!(outcome.clone().success().starts_with(&expected), "{outcome}");
    }
    // What has another ABI stays.
    let outcome = site.run(&place, &[], "mpi:1", &["/opt/hello/dlopen", "libmpi.so.40"]);
    assert!(outcome.clone().success().contains("version=Open MPI v4"), "{outcome}");
    let outcome = site.run(&place, &["--mpi=off"], "mpi:1", &["/opt/hello/mpich5"]);
    assert!(outcome.clone().success().contains("lib=/opt/mpich5/lib/libmpi.so.12"), "{outcome}");
    let plan = site.run(&place, &["--dry-run"], "mpi:1", &["/opt/hello/mpich"]).success();
    assert!(plan.contains("in the place of the image's /opt/mpich5/lib/libmpi.so.12"), "{plan}");
}

#[test]
fn programs_of_the_standard_abi_run_with_a_host_that_has_it() {
    let site = site!();
    let lib = site.host.join("mpich5/lib/libmpi_abi.so.1");
    let place = site.place("standard", &Site::stack("standard", &lib));
    let outcome = site.run(&place, &["--mpi=standard"], "mpi:1", &["/opt/hello/abi"]);
    assert!(outcome.clone().success().contains(&format!("lib={} ", lib.display())), "{outcome}");
}

#[test]
fn ranks_meet_with_the_hosts_mpi() {
    let site = site!();
    let config = site.sandbox.write(site.sandbox.dir().join("mpi.toml"), site.mpich(5));
    let library = site.host.join("mpich5/lib/libmpi.so.12");
    for nodes in [1, NODES] {
        let mut srun = site.hello_command(nodes, "pmi2", "mpich");
        srun.env("SHIFTER_CONFIG", &config);
        assert_met(&run(srun), &library.display().to_string());
    }
}

#[test]
fn what_does_not_fit_is_said() {
    let site = site!();
    let hello = ["/opt/hello/mpich"];
    // An older MPICH lacks functions: it runs, and says so; or it is not to.
    let place = site.place("older", &site.mpich(3));
    let outcome = site.run(&place, &[], "mpi:1", &hello);
    assert!(outcome.clone().success().contains("version=MPICH Version:\t3.4"), "{outcome}");
    assert_says(&outcome.stderr, &["mpich3", "it lacks ", "libmpich.so.12.2.2 (MPI_"]);
    let strict = format!("{}check = \"strict\"\n", site.mpich(3));
    let place = site.place("strict", &strict);
    let outcome = site.run(&place, &[], "mpi:1", &hello);
    assert!(outcome.clone().success().contains("lib=/lib/x86_64-linux-gnu/libmpich"), "{outcome}");
    assert_says(&outcome.stderr, &["it lacks ", "; the image's own runs"]);
    let stderr = site.run(&place, &["--mpi=mpich3"], "mpi:1", &hello).failure(125);
    assert_says(&stderr, &["it lacks ", "use an image with an older MPI"]);

    let place = site.place("refused", &site.mpich(5));
    for (flag, image, says) in [
        ("--mpi=cray", "mpi:1", &["\"cray\": not known; there are mpich5"][..]),
        (
            "--mpi=mpich5",
            "openmpi:1",
            &["it has MPICH's ABI", "libmpi.so.40", "has Open MPI's ABI", "--mpi=off"],
        ),
    ] {
        let stderr = site.run(&place, &[flag], image, &["/opt/hello/openmpi"]).failure(125);
        assert_says(&stderr, says);
    }
    let missing = site.host.join("nowhere/libmpi.so.12");
    let place = site.place("missing", &Site::stack("gone", &missing));
    let outcome = site.run(&place, &[], "mpi:1", &hello);
    assert!(outcome.clone().success().contains("lib=/lib/x86_64"), "{outcome}");
    assert_says(&outcome.stderr, &["nowhere/libmpi.so.12", "missing", "the image's own runs"]);
}
