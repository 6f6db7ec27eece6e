//! Nodes that fail in the middle of something, and jobs that begin anew elsewhere or later.

use std::{fs, time::Duration};

use fixtures::{Fault, Faulty, eventually, image, need};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use super::*;

/// A job that is to be done in the end, whatever happens the first time.
struct Job {
    id: u32,
    node: usize,
}

/// Batch jobs in the middle of a pull, and in the middle of their script. Either would never end, the
/// first time.
struct Begun {
    registry: Faulty,
    name: &'static str,
    jobs: Vec<Job>,
}

impl Begun {
    fn on(site: &Site, name: &'static str, pulls: &[usize], runs: &[usize]) -> Begun {
        let own = image::Layer::new().file("etc/round", 0o644, name);
        let built = image::busybox().layer(own).build();
        let registry = Faulty::serve(&built);
        registry.fail("blobs/", usize::MAX, Fault::Stall(1000));
        site.registry.push(&format!("{name}:1"), &built);
        let mut begun = Begun { registry, name, jobs: Vec::new() };
        for &node in pulls {
            let before = begun.registry.count("blobs/");
            let option = format!("--container={}", begun.registry.name());
            begun.submit(site, node, &option, "#!/bin/sh\ncat /etc/round\n");
            eventually(Duration::from_secs(30), &format!("the pull on n{node}"), || {
                (begun.registry.count("blobs/") > before).then_some(())
            });
        }
        for &node in runs {
            let marker = site.sandbox.shared().join(format!("{name}-{node}"));
            let script = format!(
                "#!/bin/sh\n[ -e {0} ] || {{ touch {0}; sleep 1000; }}\necho {name}\n",
                marker.display()
            );
            begun.submit(site, node, &site.option(), &script);
            eventually(Duration::from_secs(30), "the script", || marker.exists().then_some(()));
        }
        begun
    }

    fn submit(&mut self, site: &Site, node: usize, option: &str, script: &str) {
        let on = format!("--nodelist=n{node}");
        let args = [&*on, option, "--requeue", "--open-mode=append"];
        let id = site.cluster.sbatch(&site.user, &args, script);
        self.jobs.push(Job { id, node });
    }

    /// All of them are done, as if nothing had been.
    fn end(self, site: &Site) {
        self.registry.recover();
        for job in &self.jobs {
            site.begin_again(job.id);
            let ended = site.cluster.wait_job(job.id);
            let said = site.cluster.job_output(job.id);
            assert_eq!(ended.state, "COMPLETED", "n{}: {said}", job.node);
            assert!(said.trim_end().ends_with(self.name), "n{}: {said}", job.node);
        }
        site.cluster.wait_idle();
        let left = site.tasks();
        assert!(left.is_empty(), "processes stay: {left:?}");
        site.assert_next_job_works(&format!("{}:1", self.name), self.name);
    }
}

#[test]
fn a_job_that_is_queued_again_is_done() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let begun = Begun::on(&site, "requeued", &[1], &[2]);
    for job in &begun.jobs {
        site.cluster.run_as_admin("scontrol", &["requeue", &job.id.to_string()]).success();
    }
    begun.end(&site);
}

/// On the first two nodes Slurm's daemons are killed, and what they have started stays; on the others
/// all of it, and one of these comes back with nothing in its memory.
#[test]
fn a_node_that_fails_comes_back_as_if_nothing_had_been() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let begun = Begun::on(&site, "failed", &[1, 3, 4], &[2]);
    for node in 1..=NODES {
        site.cluster.kill_node(node);
        let tasks = || site.tasks().into_iter().filter(move |task| task.is_on(node));
        if node == 1 {
            // A pull for a step that is no more ends by itself: the job runs elsewhere by now.
            eventually(Duration::from_secs(10), "the end of the launcher", || {
                tasks().next().is_none().then_some(())
            });
            continue;
        }
        for task in tasks() {
            // It may end by itself.
            let _ = kill(Pid::from_raw(task.pid.cast_signed()), Signal::SIGKILL);
        }
        if node == 4 {
            fs::remove_dir_all(site.node_dir(node)).expect("the node's memory");
        }
    }
    // It would notice by itself, after SlurmdTimeout.
    let down = ["update", "NodeName=n[1-4]", "State=DOWN", "Reason=test"];
    site.cluster.run_as_admin("scontrol", &down).success();
    for node in 1..=NODES {
        site.cluster.start_node(node);
    }
    begun.end(&site);
}
