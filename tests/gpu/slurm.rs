//! GPUs as Slurm gives them out: real daemons, a real gres.conf, fake devices.

use std::process::Command;

use fixtures::{Cluster, need};

use crate::SITE;

#[test]
fn a_step_gets_its_gpus_without_asking() {
    need!(root, slurm, registry, busybox, userns, fake_gpu);
    let cluster = Cluster::start(&SITE.sandbox, 1).with_plugin();
    let devices = SITE.driver.path("dev/nvidia[0-1]");
    cluster.set_gres(&format!("Name=gpu File={devices}\n"), "gpu:2");
    let driver = SITE.driver.0.display();
    let node_dir = SITE.sandbox.node_dir(&SITE.user);
    SITE.sandbox.write(
        SITE.sandbox.config(),
        format!("node_dir = {node_dir:?}\n[gpu]\ncdi_dirs = []\ndriver_root = \"{driver}\"\n"),
    );
    let option = format!("--container={}", SITE.registry.name("glibc:1"));
    let srun = |args: &[&str]| cluster.srun(&SITE.user, args);
    // Without ConstrainDevices, as here, all devices open; which of them are a task's is in its
    // variables.
    assert_eq!(srun(&["--gres=gpu:1", &option, "nvidia-smi"]).success(), SITE.says(2));
    let show =
        "echo $SLURM_PROCID $CUDA_VISIBLE_DEVICES $SLURM_GPUS_ON_NODE; nvidia-smi >/dev/null";
    let said = srun(&["--gres=gpu:1", &option, "sh", "-c", show]);
    assert_eq!(said.success(), "0 0 1\n");
    // Each task of one container has its own.
    let args = [
        "-n2",
        "--gres=gpu:2",
        "--gpus-per-task=1",
        "--gpu-bind=single:1",
        &option,
        "sh",
        "-c",
        show,
    ];
    let said = srun(&args);
    let mut lines: Vec<_> = said.clone().success().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["0 0 2", "1 1 2"], "{said}");
    // What an environment file asks for is carried to the node.
    let image = SITE.registry.name("glibc:1");
    let file = SITE.sandbox.write("srun-gpu.toml", format!("image = {image:?}\ngpu = \"all\"\n"));
    let option = format!("--container={}", file.display());
    assert_eq!(srun(&["--gres=gpu:2", &option, "nvidia-smi"]).success(), SITE.says(2));
    let file = SITE
        .sandbox
        .write("srun-gpu-9.toml", format!("image = {image:?}\ngpu = \"nvidia.com/gpu=9\"\n"));
    let option = format!("--container={}", file.display());
    let said = srun(&["-n2", "--gres=gpu:2", &option, "true"]);
    let own: Vec<_> = said.stderr.lines().filter(|line| line.contains("find device")).collect();
    assert_eq!(own.len(), 1, "said once for both tasks: {said}");
    assert!(own[0].contains("shifter: n1: ") && own[0].contains("nvidia.com/gpu=9"), "{said}");
    cluster.wait_idle();
}

#[test]
fn a_wrong_word_is_refused_before_the_job_is_queued() {
    need!(root, slurm, registry, busybox, userns, fake_gpu);
    let cluster = Cluster::start(&SITE.sandbox, 1).with_plugin();
    let image = SITE.registry.name("glibc:1");
    let file = SITE.sandbox.write("srun-odd.toml", format!("image = {image:?}\ngpu = \"2\"\n"));
    let option = format!("--container={}", file.display());
    let said = cluster.srun(&SITE.user, &[&option, "true"]);
    assert!(
        said.stderr.contains("srun-odd.toml:2") && said.stderr.contains("expected auto"),
        "{said}"
    );
}

/// Control groups that slurmd makes for its node, and leaves.
struct Groups;

impl Drop for Groups {
    fn drop(&mut self) {
        let mut find = Command::new("find");
        find.args(["/sys/fs/cgroup/devices/slurm_n1", "/sys/fs/cgroup/freezer/slurm_n1"]);
        find.args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]);
        // If steps of a failed test are in them still, they stay.
        let _ = find.status();
    }
}

#[test]
fn with_constrained_devices_a_task_sees_those_that_it_was_given() {
    need!(root, slurm, registry, busybox, userns, fake_gpu, slurm_cgroups);
    let _groups = Groups;
    let settings = [("TaskPlugin", "task/cgroup"), ("ProctrackType", "proctrack/cgroup")];
    let cluster = Cluster::start_with(&SITE.sandbox, 1, &settings).with_plugin();
    cluster.set_cgroup_conf(
        "CgroupPlugin=cgroup/v1\nCgroupMountpoint=/sys/fs/cgroup\nConstrainDevices=yes\n",
    );
    let devices = SITE.driver.path("dev/nvidia[0-1]");
    cluster.set_gres(&format!("Name=gpu File={devices}\n"), "gpu:2");
    // A file of its own: the cluster of another test has one too.
    let (driver, node_dir) = (SITE.driver.0.display(), SITE.sandbox.node_dir(&SITE.user));
    let settings =
        format!("node_dir = {node_dir:?}\n[gpu]\ncdi_dirs = []\ndriver_root = \"{driver}\"\n");
    let config = SITE.sandbox.write("constrained.toml", settings);
    let line = cluster.plugin_line();
    let (line, _) = line.rsplit_once("config=").expect("it names a file");
    cluster.set_plugstack(&[&format!("{line}config={}", config.display())]);

    let image = SITE.registry.name("glibc:1");
    let option = format!("--container={image}");
    let srun = |args: &[&str]| cluster.srun(&SITE.user, args);
    assert_eq!(srun(&["--gres=gpu:1", &option, "nvidia-smi"]).success(), SITE.says(1));
    assert_eq!(srun(&["--gres=gpu:2", &option, "nvidia-smi"]).success(), SITE.says(2));
    // The tasks of one container have one each, whoever has built it. Each waits for the other: where
    // one has ended before the other begins, that builds another.
    let each = ["-n2", "--gres=gpu:2", "--gpus-per-task=1", "--gpu-bind=single:1"];
    let show = "nvidia-smi; echo $CUDA_VISIBLE_DEVICES; readlink /proc/self/ns/mnt; \
                touch /$SLURM_PROCID; until [ -e /0 ] && [ -e /1 ]; do sleep 0.1; done";
    let said = srun(&[&each[..], &[&option, "sh", "-c", show]].concat());
    let lines: Vec<_> = said.stdout.lines().collect();
    let count = |line: &str| lines.iter().filter(|other| **other == line).count();
    assert_eq!((count(SITE.says(1).trim()), count("0")), (2, 2), "{said}");
    let namespaces: Vec<_> = lines.iter().filter(|line| line.starts_with("mnt:")).collect();
    assert!(namespaces.len() == 2 && namespaces[0] == namespaces[1], "{said}");
    // A job without one is a job without the driver, and told so if it has asked.
    let said = srun(&[&option, "sh", "-c", "nvidia-smi || echo none"]);
    assert_eq!(said.success(), "none\n");
    let text = format!("image = {image:?}\ngpu = \"all\"\n");
    let file = SITE.sandbox.write("constrained-all.toml", text);
    let said = srun(&[&format!("--container={}", file.display()), "true"]);
    for part in ["none is allocated to this job", "dev/nvidia0 and 1 more", "--gres=gpu:1"] {
        assert!(said.stderr.contains(part), "no {part:?} in {said}");
    }
    assert_ne!(said.code, 0, "{said}");
    cluster.wait_idle();
}
