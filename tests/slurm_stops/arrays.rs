//! Jobs by the hundred.

use std::{collections::BTreeMap, time::Duration};

use fixtures::{eventually, image, need};

use super::*;

const JOBS: usize = 200;

#[test]
fn a_long_array_of_short_jobs_costs_one_pull_a_node() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let own = image::Layer::new().file("etc/round", 0o644, "array");
    site.registry.push("array:1", &image::busybox().layer(own).build());
    site.registry.clear_accesses();
    let option = format!("--container={}", site.registry.name("array:1"));
    let args = [&*option, &format!("--array=1-{JOBS}"), "--output=/dev/null"];
    let job =
        site.cluster.sbatch(&site.user, &args, "#!/bin/sh\n[ \"$(cat /etc/round)\" = array ]\n");
    let states = || {
        let job = format!("--jobs={job}");
        let args = ["--noheader", "--array", "--states=all", "--format=%T", &job];
        let said = site.cluster.run_as_admin("squeue", &args).success();
        let mut states = BTreeMap::new();
        said.lines().for_each(|state| *states.entry(state.to_owned()).or_insert(0) += 1);
        states
    };
    eventually(Duration::from_secs(120), "the end of all jobs", || {
        let going = ["PENDING", "RUNNING", "CONFIGURING", "COMPLETING"];
        (!states().keys().any(|state| going.contains(&&**state))).then_some(())
    });
    assert_eq!(states(), BTreeMap::from([("COMPLETED".to_owned(), JOBS)]));
    let mut reads = BTreeMap::new();
    for access in site.registry.accesses_to("array") {
        if access.method == "GET" && access.path.contains("/blobs/") {
            *reads.entry(access.path).or_insert(0) += 1;
        }
    }
    assert!(!reads.is_empty() && reads.values().all(|&times| times <= NODES), "{reads:?}");
    site.cluster.wait_idle();
    assert!(site.tasks().is_empty(), "processes stay: {:?}", site.tasks());
    site.assert_next_job_works("array:1", "array");
}
