//! Ranks that do not find one another: it is said before they start, and only then.

use fixtures::{User, place::assert_says, run};

use super::{NODES, Site};

impl Site {
    fn said(&self, nodes: usize, mpi: &str, program: &str) -> Vec<String> {
        let outcome = run(self.hello_command(nodes, mpi, program));
        let said = outcome.stderr.lines().filter(|line| line.contains("find one another"));
        said.map(str::to_owned).collect()
    }
}

/// By MPIs that run all the same: others end in `MPI_Init`, which their steps take long to do.
#[test]
fn ranks_that_will_be_alone_are_told_so_once_a_node() {
    let site = site!();
    let said = site.said(NODES, "none", "mpich");
    assert_eq!(said.len(), NODES, "not once a node: {said:?}");
    let library = "/lib/x86_64-linux-gnu/libmpich.so.12";
    for (program, mpi, says) in [
        ("mpich", "none", &["2 ranks of /opt/hello/mpich", library, "speaks PMI,", "neither"][..]),
        ("mpich", "pmix", &["speaks PMI,", "the step has PMIx; use srun --mpi=pmi2"]),
        ("openmpi5", "pmi2", &["/opt/openmpi5/lib/libmpi.so.40 speaks PMIx", "--mpi=pmix"]),
    ] {
        let said = site.said(1, mpi, program);
        assert_eq!(said.len(), 1, "{program} with --mpi={mpi}: {said:?}");
        assert_says(&said[0], says);
    }
}

#[test]
fn nothing_is_said_of_what_has_no_mpi_or_is_one_rank() {
    let site = site!();
    // `dlopen` is linked with the C library alone.
    assert_eq!(site.said(1, "none", "dlopen"), [""; 0]);
    assert_eq!(site.said(1, "none", "../../bin/true"), [""; 0]);
    let image = format!("--container={}", site.registry.name("mpi:1"));
    let mut one = site.cluster.command(&User::ordinary(), "srun");
    one.args(["-Q", "-n1", "--mpi=none", &image, "/opt/hello/mpich"]);
    let outcome = run(one);
    assert!(outcome.clone().success().starts_with("rank 0/1 "), "{outcome}");
    assert!(!outcome.stderr.contains("find one another"), "{outcome}");
}
