//! What a job was not given, and what a node does not let anybody have: real refusals of the kernel.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
};

use fixtures::{Outcome, need, run};

use crate::{SITE, driver::MINORS, refused};

/// The same command by the same user, with root's help before: a shell script that ends in `"$@"`.
fn by_root(script: &str, inner: &Command, arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--mount", "bash", "-euc", script, "bash"]);
    let ids = [SITE.user.uid.to_string(), SITE.user.gid.to_string()];
    command.args(arguments);
    command.args(["setpriv", "--reuid", &ids[0], "--regid", &ids[1], "--clear-groups"]);
    command.arg(inner.get_program()).args(inner.get_args());
    command.env_clear().envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command
}

/// Runs it where these of the fake driver's devices are denied.
fn without(minors: &[u64], options: &[&str], words: &[&str]) -> Outcome {
    without_and(minors, SITE.command(options, words))
}

fn without_and(minors: &[u64], inner: Command) -> Outcome {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let group =
        format!("shifter-gpu-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let deny = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/fake/deny.py");
    let minors: Vec<_> = minors.iter().map(u64::to_string).collect();
    let script = "mount -t cgroup2 none /mnt; deny=$1; group=$2; minors=$3; shift 3; \
                  exec /usr/bin/python3 \"$deny\" \"/mnt/$group\" \"$minors\" \"$@\"";
    run(by_root(script, &inner, &[&deny.to_string_lossy(), &group, &minors.join(",")]))
}

#[test]
fn a_device_cgroup_says_which_gpus_there_are() {
    need!(root, registry, busybox, userns, fake_gpu, device_cgroup);
    let one = without(&MINORS[..1], &["--gpu"], &["nvidia-smi"]);
    assert_eq!(one.success(), SITE.says(1), "all are mounted, one opens");
    // Nobody has asked, and there is nothing to be had.
    let none = without(&MINORS, &[], &["sh", "-c", "nvidia-smi || echo runs without"]);
    assert_eq!(none.clone().success(), "runs without\n", "{none}");
    assert!(!none.stderr.contains("shifter: "), "{none}");
    let parts = ["none is allocated to this job", "dev/nvidia0 and 1 more", "--gres=gpu:1"];
    refused(&without(&MINORS, &["--gpu"], &["true"]), 125, &parts);
    // A task without one, of a step that has some: the others find them in the container.
    let mut task = SITE.command(&["--gpu"], &["nvidia-smi"]);
    task.env("SLURM_GPUS_ON_NODE", "2");
    assert_eq!(without_and(&MINORS, task).success(), SITE.says(0));
    let wrong = without(&MINORS[1..], &["--gpu=nvidia.com/gpu=1"], &["true"]);
    refused(&wrong, 125, &["none is allocated", "dev/nvidia1;"]);
}

#[test]
fn a_device_that_is_asked_for_by_path_has_to_open() {
    need!(root, registry, busybox, userns, fake_gpu, device_cgroup);
    let said = without(&MINORS, &["--gpu=none", "--device", "/dev/full"], &["true"]);
    refused(&said, 125, &["use device /dev/full", "the device cgroup of this job denies it"]);
}

#[test]
fn a_file_system_without_devices_is_named() {
    need!(root, registry, busybox, userns, fake_gpu);
    let dev = SITE.driver.path("dev");
    let script =
        "mount --bind \"$1\" \"$1\"; mount -o remount,bind,nodev \"$1\"; shift; exec \"$@\"";
    let on_nodev = |options: &[&str], words: &[&str]| {
        run(by_root(script, &SITE.command(options, words), &[&dev]))
    };
    refused(&on_nodev(&["--gpu"], &["true"]), 125, &["dev/nvidia0", "mounted with nodev"]);
    let said = on_nodev(&[], &["echo", "runs"]);
    assert_eq!(said.clone().success(), "runs\n");
    assert!(
        said.stderr.contains("left out: use device") && said.stderr.contains("nodev"),
        "{said}"
    );
    let device = format!("{dev}/nvidia1:/dev/x");
    refused(&on_nodev(&["--gpu=none", "--device", &device], &["true"]), 125, &["nodev"]);
}

#[test]
fn devices_of_others_are_not_a_reason_to_fail() {
    need!(root, registry, busybox, userns, fake_gpu);
    let dev = SITE.driver.path("dev");
    let script = "mount -t tmpfs -o mode=755,dev none \"$1\"; mknod -m 600 \"$1/nvidia0\" c 1 7; \
                  mknod -m 666 \"$1/nvidiactl\" c 1 5; mknod -m 666 \"$1/nvidia-uvm\" c 1 5; shift; exec \"$@\"";
    let closed = |options: &[&str], words: &[&str]| {
        run(by_root(script, &SITE.command(options, words), &[&dev]))
    };
    assert_eq!(closed(&[], &["echo", "runs"]).success(), "runs\n");
    let parts = ["dev/nvidia0 may not be opened", "permission denied", "administrator"];
    refused(&closed(&["--gpu"], &["true"]), 125, &parts);
}

/// A node as real ones are: devices in `/dev`, a kernel module in `/proc`.
#[test]
fn a_node_with_devices_at_their_place_needs_no_mounts_for_them() {
    need!(root, registry, busybox, userns, fake_gpu);
    let script = "root=$1; shift; new=$(mktemp -d); mount -t tmpfs -o mode=755,dev none \"$new\"; \
        cp -a /dev/null /dev/zero /dev/full /dev/random /dev/urandom /dev/tty /dev/ptmx /dev/fd \
        /dev/stdin /dev/stdout /dev/stderr \"$new\"; mkdir \"$new/shm\" \"$new/pts\" \"$new/infiniband\"; \
        mount --rbind /dev/shm \"$new/shm\"; mount --rbind /dev/pts \"$new/pts\"; \
        cp -a \"$root\"/dev/* \"$new\"; mknod -m 666 \"$new/infiniband/uverbs0\" c 1 7; \
        mknod -m 666 \"$new/cxi0\" c 1 7; mknod -m 666 \"$new/xpmem\" c 1 7; \
        mount --rbind \"$new\" /dev; mount -t tmpfs none \"$root/dev\"; \
        mount -t tmpfs none /proc/driver; mkdir /proc/driver/nvidia; \
        echo 'NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.54.03  Tue Jun' >/proc/driver/nvidia/version; \
        printf 'ResmanDebugLevel: 4294967295\\nModifyDeviceFiles: 1\\n' >/proc/driver/nvidia/params; \
        exec \"$@\"";
    let root = SITE.driver.0.display().to_string();
    let on_node = |options: &[&str], words: &[&str]| {
        run(by_root(script, &SITE.command(options, words), &[&root]))
    };
    assert_eq!(on_node(&["--gpu"], &["nvidia-smi"]).success(), SITE.says(2));
    let told = on_node(&["--gpu", "--dry-run"], &["true"]).success();
    assert!(told.contains("\nmount    /dev\n") && !told.contains("/dev/nvidia0"), "{told}");
    assert!(told.contains("mask     /proc/driver/nvidia/params"), "{told}");
    // What the driver's libraries read there.
    let said = on_node(&["--gpu"], &["grep", "Modify", "/proc/driver/nvidia/params"]);
    assert_eq!(said.success(), "ModifyDeviceFiles: 0\n");
    let said = on_node(&["--gpu=none"], &["grep", "Modify", "/proc/driver/nvidia/params"]);
    assert_eq!(said.success(), "ModifyDeviceFiles: 1\n");
    // Fabric is there without being asked for, and opens.
    let script =
        "for device in infiniband/uverbs0 cxi0 xpmem; do exec 3<>/dev/$device && echo opens; done";
    assert_eq!(on_node(&[], &["sh", "-c", script]).success(), "opens\nopens\nopens\n");
    let said = on_node(&["--device", "/dev/xpmem"], &["echo", "there"]);
    assert_eq!(said.success(), "there\n");
    assert!(!PathBuf::from("/dev/cxi0").exists(), "the host's own /dev is as it was");
}
