//! Programs that do not ask for the C library alone: of Fortran, C++ and Python.

use std::{fs, path::Path};

use fixtures::{Outcome, Place, User, need, run};

use super::{
    Site,
    glibc::{LIBRARIES, PRIVATE, debian},
};

impl Site {
    /// One rank with the host's MPI, whatever C library that takes.
    fn front_end(&self, place: &Place, stack: &str, program: &str) -> Outcome {
        let flag = format!("--mpi={stack}+glibc");
        self.run(place, &[&flag], "mpi:1", &[&format!("/opt/hello/{program}")])
    }
}

/// Whether this is the Debian that the image is made of.
fn is_image_release() -> bool {
    let release = fs::read_to_string("/etc/os-release").expect("every system has it");
    release.contains("VERSION_ID=\"12\"")
}

#[track_caller]
fn assert_loads(outcome: &Outcome, dir: &str, libraries: &[&str]) {
    let said = outcome.clone().success();
    assert!(said.starts_with("rank 0/1 sum=1 "), "{outcome}");
    for library in libraries {
        let path = format!("loads {dir}/{library}");
        assert!(said.lines().any(|line| line.starts_with(&path)), "{path}:\n{outcome}");
    }
}

/// Of the machine's own release: UCX among the system's libraries finds its plugins in the image's.
#[test]
fn fortran_and_cxx_run_with_the_hosts_front_ends() {
    let site = site!();
    let config = debian();
    if !need::is_met("libmpich12", config.as_ref().map(|_| ()).map_err(Clone::clone))
        || !is_image_release()
    {
        return;
    }
    let place = site.place("front-ends", &config.unwrap());
    for (program, front_end) in [("fortran", "libmpichfort"), ("cxx", "libmpichcxx")] {
        let own = site.run(&place, &["--mpi=off"], "mpi:1", &[&format!("/opt/hello/{program}")]);
        assert_loads(&own, LIBRARIES, &[front_end, "libmpich.so"]);
        assert!(!own.stdout.contains(PRIVATE), "{own}");
        let hosts = site.front_end(&place, "debian", program);
        assert_loads(&hosts, PRIVATE, &[front_end, "libmpich.so"]);
    }
}

/// Open MPI's is bound to plugins of the same version: what is mounted here is the same as the
/// image's, and lies elsewhere. A newer Debian's is not.
#[test]
fn each_module_of_open_mpi_is_led_to_its_own_library() {
    let site = site!();
    let names = [
        "libmpi.so.40",
        "libmpi_mpifh.so.40",
        "libmpi_usempi_ignore_tkr.so.40",
        "libmpi_usempif08.so.40",
    ];
    let libs: Vec<_> = names.map(|name| Path::new(LIBRARIES).join(name)).into();
    if !is_image_release() {
        return;
    }
    let stack = format!("[[mpi.stack]]\nname = \"debian\"\nlibs = {libs:?}\n");
    let config = site.sandbox.write(site.sandbox.dir().join("open-mpi.toml"), stack);
    for (program, libraries) in [
        ("usempi", &["libmpi_mpifh.so.40", "libmpi.so.40"][..]),
        ("usempif08", &["libmpi_usempif08.so.40", "libmpi_mpifh.so.40", "libmpi.so.40"]),
    ] {
        // Alone it would start a daemon, which no image here has.
        let image = format!("--container={}", site.registry.name("mpi:1"));
        let mut srun = site.cluster.command(&User::ordinary(), "srun");
        srun.args(["-Q", "-n1", "--mpi=pmix", "--container-mpi=debian", &image]);
        srun.arg(format!("/opt/hello/{program}")).env("SHIFTER_CONFIG", &config);
        assert_loads(&run(srun), PRIVATE, libraries);
    }
}

const MPI4PY: &str = "from mpi4py import MPI; import array; \
    a, b = array.array('d', [MPI.COMM_WORLD.rank + 1.0]), array.array('d', [0.0]); \
    MPI.COMM_WORLD.Allreduce(a, b); \
    print('sum', b[0], MPI.Get_library_version().split('\\n')[0]); \
    print({line.split()[-1] for line in open('/proc/self/maps') if '/libmpi' in line})";

/// The wheel opens the library that it is told, or finds.
#[test]
fn python_runs_with_the_hosts_mpi() {
    let site = site!();
    let place = site.place("mpi4py", &site.mpich(5));
    let host = site.host.join("mpich5/lib/libmpi.so.12").display().to_string();
    let python = |flags: &[&str], library: &str| {
        let library = format!("--env=MPI4PY_LIBMPI={library}");
        let flags = [flags, &["--env=PYTHONPATH=/opt/mpi4py", &library]].concat();
        site.run(&place, &flags, "mpi:1", &["python3", "-c", MPI4PY])
    };
    let own = "/opt/mpich5/lib/libmpi.so.12";
    let outcome = python(&["--mpi=off"], own);
    let said = outcome.clone().success();
    assert!(said.contains("sum 1.0 MPICH Version") && said.contains(own), "{outcome}");
    assert!(!said.contains(&host), "{outcome}");
    for library in [own, "libmpich.so.12"] {
        let outcome = python(&[], library);
        let said = outcome.clone().success();
        assert!(said.contains("sum 1.0 MPICH Version") && said.contains(&host), "{outcome}");
    }
}
