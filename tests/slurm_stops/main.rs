//! Jobs that are stopped, fail, or come by the hundred: whatever happens to them, the nodes, the queue
//! and the next job are as if nothing had been.

mod arrays;
mod clock;
mod failures;
mod nodes;
mod private;
mod stops;
mod tasks;

use std::{
    fs,
    ops::Deref,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
    sync::{LazyLock, Mutex, MutexGuard},
    time::Duration,
};

use fixtures::{Cluster, eventually, image, run, site};

struct Site(fixtures::Site);

const NODES: usize = 4;

static SITE: LazyLock<Mutex<Site>> = LazyLock::new(|| {
    let site = fixtures::Site::start(NODES);
    // The nodes are one machine. So each has a directory of its own for images, as real ones do.
    let base = site.sandbox.node_dir(&site.user);
    site.sandbox.make_dir(&base, 0o1777);
    let prolog =
        format!("#!/bin/sh\necho export SHIFTER_NODE_DIR={}/$SLURMD_NODENAME\n", base.display());
    site.cluster.set_task_prolog(Some(&prolog));
    Mutex::new(Site(site))
});

fn site() -> MutexGuard<'static, Site> {
    let site = site::lock(&SITE);
    // A failed test's.
    if !site.jobs().is_empty() {
        site.scancel(&[]);
        site.cluster.wait_idle();
    }
    site
}

impl Deref for Site {
    type Target = fixtures::Site;

    fn deref(&self) -> &fixtures::Site {
        &self.0
    }
}

/// A process of the user's.
#[derive(Debug)]
struct Task {
    pid: u32,
    #[expect(dead_code, reason = "for the messages of assertions")]
    command: String,
}

impl Task {
    fn is_on(&self, node: usize) -> bool {
        let environment = fs::read(format!("/proc/{}/environ", self.pid)).unwrap_or_default();
        let name = format!("SLURMD_NODENAME=n{node}");
        environment.split(|&byte| byte == 0).any(|variable| variable == name.as_bytes())
    }

    fn waits_for_fuse(&self) -> bool {
        let wchan = fs::read_to_string(format!("/proc/{}/wchan", self.pid)).unwrap_or_default();
        wchan.contains("request_wait") || wchan.contains("fuse")
    }
}

impl Site {
    /// What the user runs on the nodes.
    fn tasks(&self) -> Vec<Task> {
        let parse = |line: String| {
            let (pid, command) = line.split_once(' ')?;
            let pid: u32 = pid.parse().ok()?;
            let is_users = fs::metadata(format!("/proc/{pid}")).ok()?.uid() == self.user.uid;
            let is_client =
                ["srun", "sbatch", "salloc"].iter().any(|name| command.starts_with(name));
            let is_empty = command.is_empty();
            (is_users && !is_client && !is_empty).then(|| Task { pid, command: command.to_owned() })
        };
        self.sandbox.processes().into_iter().filter_map(parse).collect()
    }

    fn node_dir(&self, node: usize) -> PathBuf {
        self.sandbox.node_dir(&self.user).join(format!("n{node}"))
    }

    /// The image is there at once, and whole; and with that all is gone that others have left.
    #[track_caller]
    fn assert_next_job_works(&self, image: &str, content: &str) {
        // Slurm calls a node idle a moment before its steps' daemons have ended.
        eventually(Duration::from_secs(10), "the end of slurmstepd", || {
            let processes = self.sandbox.processes();
            (!processes.iter().any(|line| line.contains("slurmstepd"))).then_some(())
        });
        let option = format!("--container={}", self.registry.name(image));
        let outcome =
            self.srun(&["-N4", "-n4", &option, "sh", "-c", "cat /etc/round; ls / | wc -l"]);
        let line = outcome.clone().success();
        let lines: Vec<_> = line.lines().collect();
        assert!(
            lines.len() == 4 && lines.iter().all(|line| line.starts_with(content)),
            "{outcome}"
        );
        self.cluster.wait_idle();
        for node in 1..=NODES {
            for (name, at_most) in [("partial", 0), ("steps", 1), ("containers", 0)] {
                let left = entries(&self.node_dir(node).join(name));
                assert!(left.len() <= at_most, "n{node}: {name} has {left:?}");
            }
        }
    }

    /// The numbers of the user's jobs.
    fn jobs(&self) -> Vec<String> {
        let jobs = self.cluster.run_as_admin("squeue", &["--noheader", "--format=%A"]).success();
        jobs.lines().map(str::to_owned).collect()
    }

    /// Cancels the user's jobs, or sends them a signal.
    fn scancel(&self, args: &[&str]) {
        let user = format!("--user={}", self.user.name);
        run(self.client("scancel", &[args, &[&user]].concat())).success();
    }
}

fn entries(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}
