//! What users get wrong: told once a node, whoever of many tasks is the first; nothing else happens.

use fixtures::{Fault, Faulty, image, need};

use super::*;

/// Nobody sees before the job runs that the image cannot be had.
fn registry_without_layers() -> (Faulty, String) {
    let registry = Faulty::serve(&image::Image::new().layer(image::Layer::new()).build());
    registry.fail("blobs/", usize::MAX, Fault::status(404));
    let option = format!("--container={}", registry.name());
    (registry, option)
}

#[test]
fn a_mistake_is_told_once_a_node() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let (_lost, lost) = registry_without_layers();
    let option = site.option();
    for (args, code, says) in [
        (vec![&*option, "no-such-command"], 127, "run \"no-such-command\": not found"),
        (vec![&option, "/etc/passwd"], 126, "run /etc/passwd: permission denied"),
        (vec![&option, "--container-workdir=/no/such", "true"], 125, "/no/such"),
        (vec![&option, "--container-mounts=/no/such:/x", "true"], 125, "mount /no/such → /x"),
        (vec![&lost, "true"], 125, "404"),
    ] {
        // All of them die at once, and join and leave each other's container meanwhile.
        let many = ["-wn[1-2]", "-N2", "-n48", "--overcommit"];
        let outcome = site.srun(&[&many, &args[..]].concat());
        let is_news =
            |line: &str| [" pulling ", " pulled ", " waiting "].iter().any(|w| line.contains(w));
        let own = outcome.stderr.lines().filter(|line| line.contains("shifter: "));
        let said: Vec<_> = own.filter(|line| !is_news(line)).collect();
        assert_eq!((outcome.code, said.len()), (code, 2), "{outcome}");
        for node in ["n1", "n2"] {
            let line = said.iter().find(|line| line.contains(&format!("shifter: {node}: ")));
            assert!(line.is_some_and(|line| line.contains(says)), "{node}: {outcome}");
        }
    }
    site.cluster.wait_idle();
}

/// A job is not put back into the queue, nor held there, for what its user got wrong.
#[test]
fn a_job_that_cannot_start_has_failed() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let (_lost, lost) = registry_without_layers();
    let option = site.option();
    for (args, exit) in
        [(vec![&*lost], "125:0"), (vec![&option, "--container-mounts=/no/such:/x"], "125:0")]
    {
        let args = [&args[..], &["--requeue", "-N2"]].concat();
        let job = site.cluster.sbatch(&site.user, &args, "#!/bin/sh\necho on the host\n");
        let ended = site.cluster.wait_job(job);
        let said = site.cluster.job_output(job);
        assert_eq!((&*ended.state, &*ended.exit_code), ("FAILED", exit), "{ended:?}: {said}");
        assert_eq!(said.matches("shifter: ").count(), 1, "{said}");
    }
    site.cluster.wait_idle();
}
