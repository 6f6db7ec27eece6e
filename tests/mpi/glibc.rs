//! Images whose C library is older than what the host's MPI was built for.

use std::path::Path;

use fixtures::{need, place::assert_says};

pub(crate) const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
/// Where the host's are inside that lie among its system's libraries.
pub(crate) const PRIVATE: &str = "/run/shifter/mpi/debian";

/// The MPICH of the machine's own distribution, with all of its front ends: its libraries lie among
/// the host's.
pub(crate) fn debian() -> Result<String, String> {
    let libs: Vec<_> = ["libmpich.so.12", "libmpichcxx.so.12", "libmpichfort.so.12"]
        .map(|name| Path::new(LIBRARIES).join(name))
        .into();
    match libs.iter().all(|lib| lib.exists()) {
        true => Ok(format!("[[mpi.stack]]\nname = \"debian\"\nlibs = {libs:?}\n")),
        false => Err("it is missing".into()),
    }
}

/// On the machine's distribution, an image of that one or of a newer one.
#[test]
fn where_the_c_library_is_too_old_it_is_said_and_the_hosts_can_be_had() {
    let site = site!();
    let config = debian();
    if !need::is_met("libmpich12", config.as_ref().map(|_| ()).map_err(Clone::clone)) {
        return;
    }
    let place = site.place("glibc", &config.unwrap());
    let hello = ["/opt/hello/mpich"];
    let stderr = site.run(&place, &["--mpi=debian"], "bullseye:1", &hello).failure(125);
    assert_says(&stderr, &["needs GLIBC_2.", "C library is too old", "--mpi=debian+glibc"]);
    let outcome = site.run(&place, &[], "bullseye:1", &hello);
    let own = "lib=/usr/lib/x86_64-linux-gnu/libmpich.so.12 version=MPICH Version:\t3.4";
    assert!(outcome.clone().success().contains(own), "{outcome}");
    assert_says(&outcome.stderr, &["needs GLIBC_2.", "; the image's own runs"]);

    for flag in ["--mpi=debian+glibc", "--mpi=auto+glibc"] {
        let outcome = site.run(&place, &[flag], "bullseye:1", &hello);
        let hosts = format!("lib={PRIVATE}/libmpich.so.12 ");
        assert!(outcome.clone().success().contains(&hosts), "{outcome}");
    }
    // All that runs on it runs on the host's: a shell, names of users, the names of hosts.
    let script = "ls / | grep opt && id -un && getent hosts localhost && \
                  head -c 9 /lib/x86_64-linux-gnu/libm-2.31.so | wc -c && \
                  ldd --version | head -n 1";
    let all = ["sh", "-c", script];
    let outcome = site.run(&place, &["--mpi=debian+glibc"], "bullseye:1", &all);
    let said = outcome.clone().success();
    assert!(
        said.contains("opt\n") && said.contains("localhost") && said.contains("9\n"),
        "{outcome}"
    );
    let plan =
        site.run(&place, &["--mpi=debian+glibc", "--dry-run"], "bullseye:1", &hello).success();
    assert!(plan.contains("all of its C library in the place of the image's"), "{plan}");
    // What needs nothing of it gets nothing.
    let place = site.place("no-glibc", &site.mpich(5));
    let outcome = site.run(&place, &["--mpi=mpich5+glibc"], "bullseye:1", &hello);
    let host = site.host.join("mpich5/lib/libmpi.so.12");
    assert!(outcome.clone().success().contains(&format!("lib={} ", host.display())), "{outcome}");
    let plan = site.run(&place, &["--mpi=mpich5+glibc", "--dry-run"], "bullseye:1", &hello);
    assert!(!plan.success().contains("C library"));
}

#[test]
fn where_a_c_library_cannot_be_had_it_is_said() {
    let site = site!();
    let place = site.place("musl", &site.mpich(5));
    let stderr = site.run(&place, &["--mpi=off+glibc"], "mpi:1", &["true"]).failure(2);
    assert_says(&stderr, &["MPI \"off+glibc\"", "+glibc behind it"]);
    let stderr = site.run(&place, &["--mpi=cray+glibc"], "mpi:1", &["true"]).failure(125);
    assert_says(&stderr, &["\"cray\": not known; there are mpich5"]);
}
