//! A site whose jobs have a `/tmp` and a `/dev/shm` of their own (job_container/tmpfs).

use std::{
    fs::{File, Permissions},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    process::{Child, Stdio},
    time::Duration,
};

use fixtures::{eventually, image, need};

use super::*;

/// What jobs see, and where Slurm has what is private. Not in the sandbox: that is in `/tmp`.
struct Base(tempfile::TempDir);

impl Base {
    fn new() -> Base {
        let made = tempfile::Builder::new().prefix("shifter-test.").tempdir_in("/var/tmp");
        let base = Base(made.expect("a directory in /var/tmp"));
        for (name, mode) in [("", 0o755), ("jobs", 0o755), ("shared", 0o1777)] {
            let dir = base.path().join(name);
            fs::create_dir_all(&dir).expect("a directory");
            fs::set_permissions(&dir, Permissions::from_mode(mode)).expect("a mode");
        }
        base
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// What is mounted there.
    fn mounts(&self) -> Vec<PathBuf> {
        let mounts = fs::read_to_string("/proc/self/mounts").expect("/proc is mounted");
        let targets = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
        targets.filter(|target| target.starts_with(self.path())).collect()
    }

    /// As by default in `/dev/shm`, but nobody else's.
    fn node_dir(&self) -> PathBuf {
        Path::new("/dev/shm").join(self.path().file_name().expect("it has a name"))
    }
}

impl Drop for Base {
    fn drop(&mut self) {
        // Jobs that were killed with their node have left theirs, and slurmd its own.
        for mount in self.mounts().iter().rev() {
            let mut umount = Command::new("umount");
            umount.arg("-l").arg(mount);
            run(umount);
        }
    }
}

/// A cluster of one node, with the programs where its jobs see them.
fn cluster(site: &Site, base: &Base) -> Cluster {
    let cluster = Cluster::start(&site.sandbox, 1);
    let launcher = base.path().join("shifter");
    for program in ["shifter", "shifter-pull"] {
        let from = site.sandbox.prefix().join("bin").join(program);
        fs::copy(from, base.path().join(program)).expect("a copy");
    }
    let settings = base.path().join("shifter.toml");
    fs::write(&settings, format!("node_dir = {:?}\n", base.node_dir())).expect("a file");
    let plugin = site.sandbox.prefix().join("lib/slurm/shifter.so");
    let (plugin, launcher, settings) = (plugin.display(), launcher.display(), settings.display());
    cluster.set_plugstack(&[&format!("required {plugin} shifter={launcher} config={settings}")]);
    let conf = format!("AutoBasePath=true\nBasePath={}/jobs\n", base.path().display());
    site.sandbox.write(cluster.slurm_conf().with_file_name("job_container.conf"), conf);
    cluster.set("JobContainerType", "job_container/tmpfs");
    cluster.set("PrologFlags", "Contain");
    cluster.restart();
    cluster
}

#[test]
fn jobs_with_a_dev_shm_of_their_own_have_their_images_there() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let base = Base::new();
    let cluster = cluster(&site, &base);
    // Not every place that tests run in lets Slurm mount what it wants to.
    let plain = cluster.srun(&site.user, &["true"]);
    let works =
        if plain.code == 0 { Ok(()) } else { Err(format!("{plain}\n{}", cluster.slurmd_log(1))) };
    if !need::is_met("job_container/tmpfs", works) {
        return;
    }
    let shared = base.path().join("shared");
    let own = base.node_dir();
    let client = |program: &str| {
        let mut client = cluster.command(&site.user, program);
        // The site's settings say it.
        client.env_remove("SHIFTER_NODE_DIR").env_remove("SHIFTER_STORE");
        client.env_remove("SHIFTER_CONFIG").arg(site.option());
        client
    };

    // Each looks at what is there before it writes, and again when both are there.
    let script = format!(
        "ls /tmp /dev/shm; touch /tmp/mine /dev/shm/mine {0}/$0\n\
         while [ ! -e {0}/go ]; do sleep 0.1; done\n\
         head -1 /etc/os-release; ls /tmp",
        shared.display()
    );
    let start = |name: &str| -> Child {
        let said = File::create(shared.join(format!("{name}.out"))).expect("a file");
        let mut srun = client("srun");
        srun.arg(format!("--container-mounts={}", shared.display()));
        srun.args(["sh", "-c", &script, name]).stdin(Stdio::null());
        srun.stdout(said.try_clone().expect("a file")).stderr(said);
        let child = srun.spawn().expect("srun starts");
        eventually(Duration::from_secs(60), "the script", || {
            shared.join(name).exists().then_some(())
        });
        child
    };
    let jobs = ["one", "two"].map(|name| (name, start(name)));
    assert!(!own.exists(), "the image is in everybody's /dev/shm");
    assert!(!Path::new("/tmp/mine").exists(), "the job's /tmp is everybody's");
    fs::write(shared.join("go"), "").expect("a file");
    let first = image::OS_RELEASE.lines().next().expect("a line");
    for (name, mut job) in jobs {
        let status = job.wait().expect("it is our child");
        let said = fs::read_to_string(shared.join(format!("{name}.out"))).unwrap_or_default();
        assert!(status.success(), "{said}");
        assert_eq!(said.matches(" pulled ").count(), 1, "each has an image of its own: {said}");
        assert_eq!(said.matches("mine").count(), 1, "the other job's file is there: {said}");
        assert!(said.contains(first), "{said}");
    }
    // What one step has pulled, the next one finds: it is the job's.
    let mut salloc = client("salloc");
    salloc.args(["-Q", "sh", "-c", "srun true; srun true"]);
    let outcome = run(salloc);
    assert_eq!((outcome.code, outcome.stderr.matches(" pulled ").count()), (0, 1), "{outcome}");
    cluster.wait_idle();
    eventually(Duration::from_secs(10), "the end of the jobs' memory", || {
        (!base.mounts().iter().any(|mount| mount.ends_with(".ns"))).then_some(())
    });
    assert!(!own.exists(), "something is in everybody's /dev/shm");
}
