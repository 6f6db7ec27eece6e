//! `shifter doctor --mpi`: whose MPI it is, and why.

use fixtures::{Outcome, Place, place::assert_says};
use serde_json::Value;

use super::Site;

impl Site {
    fn doctor(&self, place: &Place, image: &str) -> Outcome {
        place.shifter(&["doctor", "--json", "--mpi", &self.registry.name(image)])
    }
}

/// What is said of one thing, in order.
#[track_caller]
fn findings(outcome: &Outcome, what: &str) -> Vec<Value> {
    let all = outcome.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON"));
    let found: Vec<Value> = all.filter(|finding: &Value| finding["what"] == what).collect();
    assert!(!found.is_empty(), "nothing about {what}: {outcome}");
    found
}

#[track_caller]
fn assert_one(outcome: &Outcome, what: &str, state: &str, says: &[&str]) {
    let found = findings(outcome, what);
    let fits = |finding: &&Value| {
        let text = finding["says"].as_str().unwrap_or_default();
        finding["state"] == state && says.iter().all(|part| text.contains(part))
    };
    assert!(found.iter().any(|finding| fits(&finding)), "{what} {state} {says:?}: {outcome}");
}

#[test]
fn the_decision_is_explained() {
    let site = site!();
    let own = "/opt/mpich5/lib/libmpi.so.12";
    let host = site.host.join("mpich5/lib/libmpi.so.12").display().to_string();
    let place = site.place("explains", &format!("{}{}", site.mpich(5), site.mpich(3)));
    let outcome = site.doctor(&place, "mpi:1");
    assert_eq!(outcome.code, 0, "{outcome}");
    assert_one(&outcome, "image's MPI", "works", &[own, "MPICH's ABI, for C, ", " functions"]);
    assert_one(&outcome, "image's MPI", "works", &["libmpichfort.so.12", "for Fortran"]);
    // The wheel has no Fortran.
    let stays = ["mpich5", &host, "it fits, but", "libmpichfort.so.12.2.2, which stays"];
    assert_one(&outcome, "host's MPI", "limited", &stays);
    assert_one(
        &outcome,
        "host's MPI",
        "limited",
        &["mpich3", "it lacks ", "functions of the image's"],
    );
    assert_one(&outcome, "decision", "works", &["the host's mpich5, as mpi is auto"]);
    assert_one(&outcome, "decision", "works", &["in the place of the image's", own]);
    assert_one(&outcome, "wire-up", "works", &[own, "srun --mpi=pmi2"]);
    assert_one(&outcome, "wire-up", "works", &["libmpi.so.40", "srun --mpi=pmix"]);
    // What it says is what is done.
    let plan = site.run(&place, &["--dry-run"], "mpi:1", &["/opt/hello/mpich"]).success();
    let said = findings(&outcome, "decision");
    let lines: Vec<&str> = said[1..].iter().filter_map(|found| found["says"].as_str()).collect();
    assert!(!lines.is_empty() && lines.iter().all(|line| plan.contains(line)), "{lines:?}\n{plan}");

    let text = place.shifter(&["doctor", "--mpi", &site.registry.name("openmpi:1")]).success();
    assert!(text.contains("it has MPICH's ABI, and the image's"), "{text}");
    assert!(text.contains("decision        the image's own, as none of the host's fits"), "{text}");
    let place = site.place(
        "explains-standard",
        &Site::stack("standard", &site.host.join("mpich5/lib/libmpi_abi.so.1")),
    );
    let outcome = site.doctor(&place, "mpi:1");
    assert_one(&outcome, "host's MPI", "works", &["standard: ", "it fits"]);
}

#[test]
fn what_stands_against_it_is_explained() {
    let site = site!();
    let place = site.place("against", &format!("[mpi]\nmode = \"mpich5\"\n{}", site.mpich(5)));
    let outcome = site.doctor(&place, "openmpi:1");
    assert_eq!(outcome.code, 125, "{outcome}");
    assert_one(&outcome, "decision", "fails", &["it has MPICH's ABI", "has Open MPI's ABI"]);
    assert!(findings(&outcome, "decision")[0]["remedy"].is_string(), "{outcome}");
    let place = site.place("against-off", &format!("[mpi]\nmode = \"off\"\n{}", site.mpich(5)));
    let outcome = site.doctor(&place, "mpi:1");
    assert_one(&outcome, "decision", "works", &["the image's own, as mpi is off"]);
    let place = site.place("against-none", "");
    let outcome = site.doctor(&place, "mpi:1");
    assert_one(&outcome, "host's MPI", "absent", &["[[mpi.stack]]"]);
    assert_one(&outcome, "decision", "works", &["the image's own, as the host has none"]);
    // A tree with nothing but an MPI.
    let place = site.place("against-libc", &site.mpich(5));
    let tree = site.host.join("mpich3").display().to_string();
    let outcome = place.shifter(&["doctor", "--json", "--mpi", &tree]);
    let says = ["libfabric.so.1 needs glibc, and the image has none"];
    assert_one(&outcome, "host's MPI", "limited", &says);
    let gone = site.host.join("nowhere/libmpi.so.12");
    let place = site.place("against-gone", &Site::stack("gone", &gone));
    let outcome = site.doctor(&place, "mpi:1");
    assert_one(&outcome, "host's MPI", "limited", &["nowhere/libmpi.so.12: it is missing"]);
    assert_eq!(findings(&outcome, "host's MPI")[0]["who"], "admin", "{outcome}");
    let place = site.place("against-unknown", "[mpi]\nmode = \"cray\"");
    let outcome = site.doctor(&place, "mpi:1");
    assert_says(&outcome.clone().failure(125), &["\"cray\": not known"]);
    assert_eq!(outcome.stdout, "", "{outcome}");
}
