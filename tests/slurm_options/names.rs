//! Containers with a name: a job's own, on each of its nodes, as long as it lasts.

use std::time::Duration;

use super::*;

impl Site {
    /// What containers this user has on this node.
    fn containers(&self) -> Vec<String> {
        let dir = self.sandbox.node_dir(&self.user).join("containers");
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

#[test]
fn the_steps_of_a_job_find_what_was_written() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let steps = format!(
        "srun -Q --container-name=lab sh -c 'echo kept >/file'; \
         srun -Q --container-name=lab cat /file; \
         shifter run --name lab@$SLURM_JOB_ID {} cat /file; \
         srun -Q --container-name=other ls /file; srun -Q ls /file; \
         srun -Q --container-readonly --container-name=lab touch /x; \
         echo $SLURM_JOB_ID",
        site.image()
    );
    let outcome = site.salloc(&[&site.option(), "-N1"], &steps);
    let (said, job) = outcome.stdout.trim_end().rsplit_once('\n').expect("lines");
    assert_eq!(said, "kept\nkept", "{outcome}");
    assert_eq!(outcome.stderr.matches("/file: No such file").count(), 2, "{outcome}");
    assert!(outcome.stderr.contains("Read-only"), "{outcome}");
    let names = [format!("lab@{job}"), format!("other@{job}")];
    assert!(names.iter().all(|name| site.containers().contains(name)), "{:?}", site.containers());

    // Another job finds nothing, and what is over goes.
    let outcome = site.srun(&["--container-name=lab", "ls", "/file"]);
    assert!(outcome.stderr.contains("/file: No such file"), "{outcome}");
    assert!(!names.iter().any(|name| site.containers().contains(name)), "{:?}", site.containers());
    // A step without a name would do, and so does whoever makes room.
    assert_eq!(site.containers().len(), 1);
    let pruned = run(site.client("shifter", &["prune", "--node"]));
    assert!(pruned.stderr.contains("removed from this node: container lab@"), "{pruned}");
    assert_eq!(site.containers(), [""; 0], "{pruned}");
    site.assert_unharmed();
}

#[test]
fn a_job_that_lasts_keeps_its_containers() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    // Between its two steps no process of the job is on the node.
    let other = format!(
        "srun -Q --container-name=lab sh -c 'echo kept >/file'; \
         env -u SLURM_JOB_ID -u SLURM_JOBID SQUEUE_STATES=PENDING srun -Q {} true; \
         srun -Q --container-name=lab cat /file",
        site.option()
    );
    let outcome = site.salloc(&[&site.option(), "-N1", "-n1"], &other);
    assert_eq!(outcome.success(), "kept\n");
    site.assert_unharmed();
}

#[test]
fn a_step_joins_the_one_that_runs() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let steps = "srun -Q --overlap --container-name=lab \
                      sh -c 'touch /first; while [ ! -e /second ]; do sleep 0.1; done; readlink /proc/self/ns/mnt' & \
                 srun -Q --overlap --container-name=lab \
                      sh -c 'while [ ! -e /first ]; do sleep 0.1; done; touch /second; readlink /proc/self/ns/mnt'; \
                 wait";
    let said = site.salloc(&[&site.option(), "-N1"], steps).success();
    let namespaces: Vec<_> = said.lines().collect();
    assert_eq!(namespaces.len(), 2, "{said}");
    assert_eq!(namespaces[0], namespaces[1], "they are in two containers");

    // One who wants another container than the one that runs is told so in the words that were typed.
    let steps = "srun -Q --overlap --container-name=lab \
                      sh -c 'touch /first; while [ ! -e /second ]; do sleep 0.1; done' & \
                 srun -Q --overlap --container-name=lab \
                      sh -c 'while [ ! -e /first ]; do sleep 0.1; done'; \
                 srun -Q --overlap --container-name=lab --container-readonly true; \
                 srun -Q --overlap --container-name=lab touch /second; wait";
    let outcome = site.salloc(&[&site.option(), "-N1"], steps);
    let said = own_lines(&outcome.stderr);
    assert_eq!(said.len(), 1, "{outcome}");
    assert!(said[0].contains(": it runs without --container-readonly; end it"), "{outcome}");
    site.assert_unharmed();
}

#[test]
fn a_container_is_made_from_one_image() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    site.registry.push("another:1", &with_file("other", "other\n"));
    let another = site.registry.name("another:1");
    let steps = format!(
        "srun -Q true; srun -Q --container={another} cat /other; \
         srun -Q --container={another} --container-name=lab true"
    );
    let outcome = site.salloc(&[&site.option(), "--container-name=lab", "-N1"], &steps);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (125, "other\n"), "{outcome}");
    let said = own_lines(&outcome.stderr);
    let says = "run container lab@";
    assert!(
        said.len() == 1 && said[0].contains(says) && said[0].contains("made from"),
        "{outcome}"
    );
    assert!(
        said[0].ends_with("use another name, or remove it: shifter prune --node --containers"),
        "{outcome}"
    );
    site.assert_unharmed();
}

/// What a job wrote before it was queued again is not there.
#[test]
fn a_job_that_is_queued_again_begins_anew() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let dir = site.shared("requeue");
    let script = format!(
        "#!/bin/sh\nls /kept; touch /kept\nif [ ! -e {0}/once ]; then touch {0}/once; sleep 60; fi\n",
        dir.display()
    );
    let args = [&*site.option(), "--container-name=lab", "--requeue", "--open-mode=append"];
    let job = site.cluster.sbatch(&site.user, &args, &script);
    fixtures::eventually(Duration::from_secs(30), "the script to be there", || {
        dir.join("once").exists().then_some(())
    });
    assert_eq!(site.containers(), [format!("lab@{job}")]);
    site.cluster.run_as_admin("scontrol", &["requeue", &job.to_string()]).success();
    site.begin_again(job);
    assert_eq!(site.cluster.wait_job(job).state, "COMPLETED", "{}", site.cluster.logs());
    let said = site.cluster.job_output(job);
    assert_eq!(said.matches("/kept: No such file").count(), 2, "{said}");
    assert_eq!(site.containers(), [format!("lab@{job}.1")]);
    site.assert_unharmed();
}
