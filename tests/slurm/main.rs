//! `srun --container` and its kin on a real Slurm: munged, slurmctld, two slurmds.

mod failures;

use std::{
    fs,
    process::Command,
    sync::{LazyLock, Mutex, MutexGuard},
    time::Duration,
};

use fixtures::{
    Cluster, Site, eventually, image, need, run,
    site::{self, own_lines},
};

static SITE: LazyLock<Mutex<Site>> = LazyLock::new(|| Mutex::new(Site::start(2)));

fn site() -> MutexGuard<'static, Site> {
    let site = site::lock(&SITE);
    site.cluster.set_plugstack(&[&site.cluster.plugin_line()]);
    site.cluster.set_oci_conf(None);
    site.configure("");
    site
}

/// An oci.conf whose OCI runtime only says that it was Slurm that called it.
const OCI_CONF: &str = "RunTimeQuery=\"true\"\nRunTimeKill=\"true\"\nRunTimeDelete=\"true\"\n\
                        RunTimeRun=\"echo by-slurm\"\n";

#[test]
fn a_task_runs_in_its_image() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let release = site.srun(&[&site.option(), "cat", "/etc/os-release"]).success();
    assert_eq!(release, image::OS_RELEASE);
    // And one that asks for none does not.
    let host = fs::read_to_string("/etc/os-release").expect("os-release");
    assert_eq!(site.srun(&["cat", "/etc/os-release"]).success(), host);
    site.assert_unharmed();
}

#[test]
fn an_oci_conf_on_the_node_changes_nothing() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    site.cluster.set_oci_conf(Some(OCI_CONF));
    let release = site.srun(&[&site.option(), "cat", "/etc/os-release"]).success();
    assert_eq!(release, image::OS_RELEASE);
    let job =
        site.cluster.sbatch(&site.user, &[&site.option()], "#!/bin/sh\ncat /etc/os-release\n");
    assert_eq!(site.cluster.wait_job(job).state, "COMPLETED");
    assert!(site.cluster.job_output(job).ends_with(image::OS_RELEASE));
    site.assert_unharmed();
}

#[test]
fn a_batch_script_runs_in_its_image() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let script = "#!/bin/sh\ncat /etc/os-release\necho args $0 $*\nexit 3\n";
    let job = site.cluster.sbatch(&site.user, &[&site.option()], script);
    let ended = site.cluster.wait_job(job);
    let output = site.cluster.job_output(job);
    assert!(output.contains(image::OS_RELEASE), "{output}");
    assert!(output.contains("slurm_script"), "{output}");
    assert_eq!(ended.exit_code, "3:0");
    let script = format!("#!/bin/sh\n#SBATCH {}\ncat /etc/os-release\n", site.option());
    let job = site.cluster.sbatch(&site.user, &[], &script);
    assert_eq!(site.cluster.wait_job(job).state, "COMPLETED");
    assert!(site.cluster.job_output(job).contains(image::OS_RELEASE));
    // The carrier does not depend on what of the environment is exported.
    let job = site.cluster.sbatch(&site.user, &["--export=NONE", &site.option()], &script);
    assert_eq!(site.cluster.wait_job(job).state, "COMPLETED");
    assert!(site.cluster.job_output(job).contains(image::OS_RELEASE));
    site.assert_unharmed();
}

#[test]
fn a_step_inherits_the_jobs_image_and_can_refuse_it() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let host = fs::read_to_string("/etc/os-release").expect("os-release");
    let salloc = |step: &str| {
        let mut salloc = site.cluster.command(&site.user, "salloc");
        salloc.args(["-Q", &site.option(), "sh", "-c", step]);
        run(salloc)
    };
    assert_eq!(salloc("srun cat /etc/os-release").success(), image::OS_RELEASE);
    assert_eq!(salloc("srun --container=none cat /etc/os-release").success(), host);
    // The other way round: a step asks for what its job does not have.
    let script = format!("#!/bin/sh\nsrun {} cat /etc/os-release\n", site.option());
    let job = site.cluster.sbatch(&site.user, &[], &script);
    assert_eq!(site.cluster.wait_job(job).state, "COMPLETED");
    assert!(site.cluster.job_output(job).ends_with(image::OS_RELEASE));
    site.assert_unharmed();
}

/// Nodes do not read the file: the job carries what it says.
#[test]
fn an_environment_file_is_read_where_the_job_is_submitted() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let dir = site.sandbox.make_dir("environment", 0o777);
    let data = site.sandbox.make_dir(dir.join("data"), 0o755);
    site.sandbox.write(data.join("file"), "from the file\n");
    let image = site.registry.name("busybox:1");
    let write = |name: &str, text: &str| site.sandbox.write(dir.join(name), text);
    write("base.toml", &format!("image = {image:?}\n[annotations]\ncom.hooks.x.enabled = 'true'"));
    write("env.toml", "base = './base.toml'\nmounts = ['./data:/data']\nworkdir = '/data'");
    let client = |program: &str, args: &[&str]| {
        let mut command = site.cluster.command(&site.user, program);
        command.current_dir(&dir).args(args);
        run(command)
    };
    let outcome =
        client("srun", &["-N2", "--container=./env.toml", "cat", "file", "/etc/os-release"]);
    let expected = format!("from the file\n{}", image::OS_RELEASE).repeat(2);
    let mut lines: Vec<_> = outcome.clone().success().lines().map(str::to_owned).collect();
    lines.sort();
    let mut sorted: Vec<_> = expected.lines().map(str::to_owned).collect();
    sorted.sort();
    assert_eq!(lines, sorted, "{outcome}");
    let said = "base.toml:3: annotation com.hooks.x.enabled is not acted on";
    assert_eq!(outcome.stderr.matches(said).count(), 1, "{outcome}");

    // A step inherits all of it, though the file is gone by then.
    write("once.toml", "base = './env.toml'");
    let steps = "rm once.toml; srun -Q cat /data/file; srun -Q --container=./base.toml ls /data";
    let outcome = client("salloc", &["-Q", "--container=once.toml", "sh", "-c", steps]);
    assert_eq!(outcome.stdout, "from the file\n", "{outcome}");
    assert!(
        outcome.stderr.contains("/data: No such file"),
        "another file, another mount: {outcome}"
    );

    write("once.toml", "base = './env.toml'");
    let out = dir.join("out");
    let script = "#!/bin/sh\n#SBATCH --container=./once.toml\npwd\ncat file\n";
    let script = write("job.sh", script);
    let output = format!("--output={}", out.display());
    let script = script.to_string_lossy().into_owned();
    let job = client("sbatch", &["--parsable", "--hold", "--export=NONE", &output, &script]);
    let job: u32 = job.success().trim().parse().expect("a job's number");
    fs::remove_file(dir.join("once.toml")).expect("nobody needs it any more");
    site.cluster.run_as_admin("scontrol", &["release", &job.to_string()]).success();
    site.cluster.wait_job(job);
    let said = fs::read_to_string(&out).unwrap_or_default();
    assert!(said.contains("/data\nfrom the file\n"), "{said}");
    site.assert_unharmed();
}

/// A file or directory is an image wherever one may be named.
#[test]
fn an_image_is_run_from_its_file() {
    need!(root, slurm, skopeo, squashfs, busybox, userns);
    let site = site();
    let dir = site.sandbox.make_dir("source", 0o777);
    image::busybox().build().write_layout(&dir.join("layout"), "1");
    let sh = |script: &str| {
        let mut sh = Command::new("sh");
        sh.args(["-ec", script]).current_dir(&dir);
        run(sh).success();
    };
    sh("mkdir -p rootfs/etc && cp -a $(command -v busybox) rootfs/sh && \
        echo from the tree >rootfs/etc/word && ln -s sh rootfs/cat && \
        mksquashfs rootfs image.sqsh -quiet -no-progress && \
        skopeo copy -q --insecure-policy oci:layout:1 docker-archive:docker.tar:app:1");
    let client = |program: &str, args: &[&str]| {
        let mut command = site.cluster.command(&site.user, program);
        command.current_dir(&dir).args(args);
        run(command)
    };
    let own = |name: &str| format!("--container={}", dir.join(name).display());
    for (option, file, expected) in [
        ("--container=./image.sqsh", "/etc/word", "from the tree\n"),
        (&own("image.sqsh"), "/etc/word", "from the tree\n"),
        ("--container=rootfs/", "/etc/word", "from the tree\n"),
        (&own("rootfs"), "/etc/word", "from the tree\n"),
        ("--container=oci:layout:1", "/etc/os-release", image::OS_RELEASE),
        (&own("layout"), "/etc/os-release", image::OS_RELEASE),
        ("--container=docker-archive:docker.tar", "/etc/os-release", image::OS_RELEASE),
    ] {
        let cat = if expected == image::OS_RELEASE { "/bin/cat" } else { "/cat" };
        let args = ["-N2", "--ntasks-per-node=4", option, cat, file];
        let outcome = client("srun", &args);
        assert!(outcome.stderr.matches("expanded").count() <= 2, "once a node: {outcome}");
        assert_eq!(outcome.success(), expected.repeat(8), "{option}");
    }
    // The two nodes are one machine, with one node directory.
    let script = "#!/sh\n#SBATCH --container=./image.sqsh\n/cat /etc/word\nexit 3\n";
    let script = site.sandbox.write(dir.join("job.sh"), script);
    let output = format!("--output={}", dir.join("out").display());
    let job = client("sbatch", &["--parsable", &output, &script.to_string_lossy()]);
    let job: u32 = job.success().trim().parse().expect("a job's number");
    assert_eq!(site.cluster.wait_job(job).exit_code, "3:0");
    let said = fs::read_to_string(dir.join("out")).unwrap_or_default();
    assert!(said.ends_with("from the tree\n"), "{said}");

    let before = site.cluster.slurmctld_log().matches("sched: _slurm_rpc").count();
    for (option, says) in [
        ("--container=./imagee.sqsh", "imagee.sqsh: no such file"),
        ("--container=/no/such/dir", "open /no/such/dir: no such file"),
        ("--container=./job.sh", "job.sh: neither an image nor an archive"),
        ("--container=oci:image.sqsh", "image.sqsh: it is no OCI image layout"),
        ("--container=library://x", "apptainer build --sandbox"),
    ] {
        let refused = client("srun", &[option, "true"]);
        let said = own_lines(&refused.stderr);
        assert!(refused.code != 0 && said.len() == 1 && said[0].contains(says), "{refused}");
    }
    let after = site.cluster.slurmctld_log().matches("sched: _slurm_rpc").count();
    assert_eq!(before, after, "a refused job was queued");
    // What is gone when the job runs is told by the node, with the path.
    let steps = "rm image.sqsh; srun -n2 /cat /etc/word";
    let outcome = client("salloc", &["-Q", "-n2", "--container=./image.sqsh", "sh", "-c", steps]);
    let said = own_lines(&outcome.stderr);
    assert_eq!((outcome.code, said.len()), (125, 1), "{outcome}");
    assert!(said[0].contains("n1: open ") && said[0].contains("image.sqsh: no such"), "{outcome}");
    assert!(said[0].ends_with("on every node of the job"), "{outcome}");
    site.assert_unharmed();
}

#[test]
fn a_wrong_environment_file_is_refused_before_the_job_is_queued() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let dir = site.sandbox.make_dir("environment-wrong", 0o777);
    let before = site.cluster.slurmctld_log().matches("sched: _slurm_rpc").count();
    let image = site.registry.name("busybox:1");
    let long = "x".repeat(100_000);
    for (text, says) in [
        (
            format!("image = {image:?}\n\nmount = []"),
            "env.toml:3: unknown key mount; did you mean mounts?",
        ),
        (
            "image = 'Bad/Name'".to_owned(),
            "env.toml:1: image reference \"Bad/Name\": repository must",
        ),
        ("base = 'x'".to_owned(), "env.toml:1 → \"x\": not in "),
        (
            format!("image = {image:?}\nworkdir = '$NO_SUCH'"),
            "env.toml:2: variable NO_SUCH is not set",
        ),
        (
            format!("image = {image:?}\n[env]\nA = {long:?}\nB = {long:?}"),
            "and a job can carry 1310",
        ),
    ] {
        site.sandbox.write(dir.join("env.toml"), text);
        for (program, job) in [("srun", "true"), ("sbatch", "--wrap=true")] {
            let mut command = site.cluster.command(&site.user, program);
            command.current_dir(&dir).args(["--container=./env.toml", job]);
            let refused = run(command);
            assert_ne!(refused.code, 0, "{refused}");
            let said = own_lines(&refused.stderr);
            assert_eq!(said.len(), 1, "{refused}");
            assert!(said[0].contains(says), "no {says:?} in {refused}");
        }
    }
    let after = site.cluster.slurmctld_log().matches("sched: _slurm_rpc").count();
    assert_eq!(before, after, "a refused job was queued");
    // What only the node can find out is told with the file that asks for it.
    let text = format!("image = {image:?}\nmounts = ['/no/such/dir:/x']");
    let file = site.sandbox.write(dir.join("env.toml"), text);
    let stderr = site.srun(&[&format!("--container={}", file.display()), "true"]).failure(125);
    let says = format!("shifter: n1: {}: mount /no/such/dir → /x: no such", file.display());
    assert!(stderr.contains(&says), "{stderr}");
    site.assert_unharmed();
}

/// As docs/admin.md says to do it.
#[test]
fn the_example_for_plugstack_conf_d_loads_the_plugin() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let prefix = site.sandbox.prefix().display().to_string();
    let example = include_str!("../../packaging/plugstack.conf")
        .replace("@PLUGIN@", &format!("{prefix}/lib/slurm/shifter.so"))
        .replace("@PREFIX@", &prefix);
    let dir = site.sandbox.make_dir("plugstack.conf.d", 0o755);
    let include = format!("include {}/*.conf", dir.display());
    site.cluster.set_plugstack(&[&include]);
    // Nothing is there yet, which is no error: the package is not what turns it on.
    assert_eq!(site.srun(&["echo", "host"]).success(), "host\n");
    site.sandbox.write(dir.join("shifter.conf"), example);
    let release = site.srun(&[&site.option(), "cat", "/etc/os-release"]).success();
    assert_eq!(release, image::OS_RELEASE);
    site.assert_unharmed();
}

#[test]
fn an_upgrade_harms_no_step_that_runs_and_serves_those_that_start() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let (up, go) = (site.file("upgrade-up"), site.file("upgrade-go"));
    let script = format!(
        "touch {up}; while [ ! -e {go} ]; do sleep 0.05; done; cat /etc/os-release",
        up = up.display(),
        go = go.display()
    );
    let job = site.cluster.sbatch(
        &site.user,
        &[&site.option()],
        &format!("#!/bin/sh\n{script}\nexit 4\n"),
    );
    eventually(Duration::from_secs(30), "the old step to run", || up.exists().then_some(()));

    // As dpkg, rpm and `make install` do it, again and again: a new file in the place of the old.
    // Not by this process: what it forks meanwhile would have the new file open for writing.
    let prefix = site.sandbox.prefix();
    let stop = site.file("upgrade-stop");
    let upgrades = "while [ ! -e \"$0\" ]; do for file in bin/shifter-pull bin/shifter lib/slurm/shifter.so; do \
                    install -m 755 $file $file.new && mv -f $file.new $file || exit; done; \
                    echo upgraded; done";
    let mut shell = Command::new("sh");
    shell.args(["-c", upgrades]).arg(&stop).current_dir(&prefix);
    let (outcomes, upgraded) = std::thread::scope(|scope| {
        let upgraded = scope.spawn(|| run(shell));
        let outcomes =
            [(); 4].map(|()| site.srun(&["-N2", &site.option(), "cat", "/etc/os-release"]));
        fs::write(&stop, "").expect("a file");
        (outcomes, upgraded.join().expect("it does not panic"))
    });
    for outcome in outcomes {
        assert_eq!(outcome.success(), image::OS_RELEASE.repeat(2));
    }
    let count = upgraded.success().lines().count();
    assert!(count > 4, "{count} upgrades while steps started");

    // Who starts now runs the new program; who ran before ends as if nothing had been.
    let mark = site.file("upgrade-new");
    let (old, new) = (prefix.join("bin/shifter"), prefix.join("bin/shifter-new"));
    fs::rename(&old, &new).expect("a file can be renamed");
    let text = format!("#!/bin/sh\n: >{}\nexec {} \"$@\"\n", mark.display(), new.display());
    site.sandbox.write_script(&old, text);
    assert_eq!(site.srun(&[&site.option(), "cat", "/etc/os-release"]).success(), image::OS_RELEASE);
    fs::rename(&new, &old).expect("a file can be renamed");
    assert!(mark.exists(), "the step ran the program that had been replaced");
    fs::write(&go, "").expect("a file");
    assert_eq!(site.cluster.wait_job(job).exit_code, "4:0");
    assert!(site.cluster.job_output(job).ends_with(image::OS_RELEASE));
    site.assert_unharmed();
}

#[test]
fn the_tasks_of_a_node_share_one_container() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let script = "readlink /proc/self/ns/user /proc/self/ns/mnt | tr '\\n' ' '; echo $SLURMD_NODENAME; sleep 1";
    let args = ["-N2", "--ntasks-per-node=3", &site.option(), "sh", "-c", script];
    let out = site.srun(&args).success();
    let own = fs::read_link("/proc/self/ns/user").expect("namespace").display().to_string();
    for node in ["n1", "n2"] {
        let mut of_node: Vec<_> = out.lines().filter(|line| line.ends_with(node)).collect();
        assert_eq!(of_node.len(), 3, "{out}");
        of_node.dedup();
        assert_eq!(of_node.len(), 1, "the tasks of {node} are in different namespaces: {out}");
        assert!(!of_node[0].contains(&own), "a task of {node} is on the host: {out}");
    }
    // They see each other's files.
    let script = "if [ $SLURM_LOCALID = 0 ]; then echo hello > /greeting; sleep 2; \
                  else while [ ! -e /greeting ]; do sleep 0.1; done; cat /greeting; fi";
    let out = site.srun(&["-N1", "-n2", "-t1", &site.option(), "sh", "-c", script]).success();
    assert_eq!(out, "hello\n");
    site.assert_unharmed();
}

#[test]
fn a_task_is_who_and_where_it_was() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let script = "id -u; pwd; env; cat /proc/self/status; ls -l /proc/self/fd";
    let out = site.srun(&[&site.option(), "sh", "-c", script]).success();
    let mut lines = out.lines();
    assert_eq!(lines.next(), Some(site.user.uid.to_string().as_str()));
    assert_eq!(lines.next(), Some(site.user.home.to_string_lossy().as_ref()));
    assert!(out.contains("SLURM_PROCID=0"), "{out}");
    for private in ["SHIFTER_TASK", "SLURM_SPANK_SHIFTER"] {
        assert!(!out.contains(private), "{private} reaches the program: {out}");
    }
    assert!(out.contains("SigBlk:\t0000000000000000"), "{out}");
    assert!(out.contains("SigIgn:\t0000000000000000"), "{out}");
    // Nothing of ours is left open.
    assert!(!out.contains("/steps/") && !out.contains("/locks/"), "{out}");
}

#[test]
fn the_exit_status_is_the_programs() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    site.srun(&[&site.option(), "sh", "-c", "exit 7"]).failure(7);
    let stderr = site.srun(&["-wn1", "-n3", &site.option(), "no-such-command"]).failure(127);
    let said = own_lines(&stderr);
    assert_eq!(said.len(), 1, "three tasks, {} messages: {stderr}", said.len());
    assert!(said[0].contains("n1: ") && said[0].contains("\"no-such-command\""), "{stderr}");
    site.assert_unharmed();
}

#[test]
fn task_prolog_runs_on_the_host() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    // It also calls our program, which must not take it for the task.
    let prolog = "#!/bin/sh\n. /etc/os-release\necho export PROLOG_ON=$ID\n\
                  shifter --version >/dev/null && echo export PROLOG_SHIFTER=works\n";
    site.cluster.set_task_prolog(Some(prolog));
    let env = site.srun(&[&site.option(), "env"]).success();
    site.cluster.set_task_prolog(None);
    let host = fs::read_to_string("/etc/os-release").expect("os-release");
    let id = host.lines().find_map(|line| line.strip_prefix("ID=")).expect("ID");
    assert!(env.contains(&format!("PROLOG_ON={id}\n")), "{env}");
    assert!(env.contains("PROLOG_SHIFTER=works"), "{env}");
}

#[test]
fn a_task_needs_nothing_of_the_users_environment() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for export in ["--export=NONE", "--export=VAR=x"] {
        let out = site.srun(&[export, &site.option(), "sh", "-c", "echo $HOME"]).success();
        assert_eq!(out, format!("{}\n", site.user.home.display()), "{export}");
    }
    // Nor does anything of it get at the launcher.
    let preload = ["--export=ALL,LD_PRELOAD=/no/such.so,LD_AUDIT=/no/such.so", &site.option()];
    let outcome = site.srun(&[&preload[..], &["true"]].concat());
    assert!(!outcome.stderr.contains("no/such.so"), "{outcome}");
    outcome.success();
}

#[test]
fn what_fails_for_the_node_is_said_once_a_node() {
    need!(root, slurm, registry, busybox);
    let site = site();
    let mut srun = site.cluster.command(&site.user, "srun");
    srun.env("SHIFTER_NODE_DIR", "/no/such/dir");
    srun.args(["-N2", "--ntasks-per-node=4", &site.option(), "true"]);
    let stderr = run(srun).failure(125);
    let said = own_lines(&stderr);
    assert_eq!(said.len(), 2, "two nodes, {} messages: {stderr}", said.len());
    assert!(said.iter().all(|line| line.contains("node directory /no/such/dir")), "{stderr}");
    site.assert_unharmed();
}

#[test]
fn an_oci_bundle_is_left_to_slurm() {
    need!(root, slurm);
    let site = site();
    let bundle = site.sandbox.make_dir("bundle", 0o755);
    let config = r#"{"ociVersion":"1.0.0","process":{"args":["x"],"cwd":"/"},"root":{"path":"/"},"mounts":[]}"#;
    site.sandbox.write(bundle.join("config.json"), config);
    let option = format!("--container={}", bundle.display());
    site.cluster.set_oci_conf(Some(OCI_CONF));
    let out = site.srun(&[&option, "hostname"]);
    assert!(out.stdout.contains("by-slurm"), "{out}");
    assert!(own_lines(&out.stderr).is_empty(), "{out}");
}

#[test]
fn a_bad_name_is_refused_before_the_job_is_queued() {
    need!(root, slurm);
    let site = site();
    let before = site.cluster.slurmctld_log().matches("sched: _slurm_rpc").count();
    for refused in [
        site.srun(&["--container=Bad/Name", "true"]),
        site.cluster.submit(&site.user, &["--container=Bad/Name"], "#!/bin/sh\ntrue\n"),
        site.cluster.submit(&site.user, &[], "#!/bin/sh\n#SBATCH --container=Bad/Name\ntrue\n"),
        site.srun(&["--container=", "true"]),
    ] {
        assert_ne!(refused.code, 0, "{refused}");
        let said = own_lines(&refused.stderr);
        assert_eq!(said.len(), 1, "{refused}");
    }
    let stderr = site.srun(&["--container=Bad/Name", "true"]).stderr;
    assert!(stderr.contains("\"Bad/Name\"") && stderr.contains("lower-case"), "{stderr}");
    let after = site.cluster.slurmctld_log().matches("sched: _slurm_rpc").count();
    assert_eq!(before, after, "a refused job was queued");
}

/// The server of a step's image is the step's: it serves all of its ranks, hears no signal of theirs,
/// and ends with the last.
#[test]
fn an_image_that_is_one_file_is_served_as_long_as_the_step() {
    need!(root, slurm, registry, busybox, squashfs, fuse, userns);
    let site = site();
    site.configure("[squashfs]\nrun = \"mount\"\n");
    let own = image::Layer::new().file("etc/own", 0o644, "own\n");
    let digest = site.registry.push("squashed:1", &image::busybox().layer(own).build());
    let name = site.registry.name("squashed:1");
    let mut pull = site.user.command(&site.sandbox, "shifter");
    pull.args(["pull", "--to", "store", "--squashfs", &name]);
    run(pull).success();
    let served = || {
        let processes = site.sandbox.processes();
        let is_server = |line: &String| line.contains("squashfuse_ll") && line.contains(&digest);
        processes.iter().filter(|line| is_server(line)).count()
    };
    let option = format!("--container={name}");
    // Whichever of the two has built the container: in one of these runs it ends first.
    for first in ["0", "1"] {
        let script = format!("[ $SLURM_LOCALID = {first} ] || {{ sleep 1; cat /etc/own; }}");
        let args = ["-N1", "-n2", "--overcommit", &option, "sh", "-c", &script];
        assert_eq!(site.srun(&args).success(), "own\n");
        eventually(Duration::from_secs(10), "its end", || (served() == 0).then_some(()));
    }
    let script = "#!/bin/sh\ntrap 'cat /etc/own; exit 7' USR1\necho ready\n\
                  while :; do sleep 0.1; done\n";
    let job = site.cluster.sbatch(&site.user, &[&option], script);
    let output = site.sandbox.shared().join(format!("job-{job}.out"));
    let said = || fs::read_to_string(&output).unwrap_or_default();
    eventually(Duration::from_secs(60), "the script", || said().contains("ready").then_some(()));
    assert_eq!(served(), 1);
    let mut scancel = site.cluster.command(&site.user, "scancel");
    scancel.args(["--full", "--signal=USR1", &job.to_string()]);
    run(scancel).success();
    assert_eq!(site.cluster.wait_job(job).exit_code, "7:0");
    assert!(said().ends_with("\nown\n"), "{}", said());
    eventually(Duration::from_secs(10), "its end", || (served() == 0).then_some(()));
    // An option of srun's that a mounted one cannot do: then it is expanded.
    site.configure("");
    let root = site.srun(&[&option, "--container-remap-root", "id", "-u"]);
    assert_eq!(root.success(), "0\n");
    site.assert_unharmed();
}
