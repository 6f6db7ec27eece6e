//! What can be wrong: said once a node, with the exit status that is promised, and without harm to the
//! node or to who did nothing wrong.

use std::path::Path;

use super::*;

/// Eight tasks on two nodes.
const MANY: [&str; 2] = ["-N2", "--ntasks-per-node=4"];

#[test]
fn what_a_node_lacks_is_said_once_a_node() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    for (option, says) in [
        (
            "--container-mounts=/no/such/dir:/x",
            "mount /no/such/dir → /x: no such file or directory; make it first, or check its name",
        ),
        ("--container-workdir=/no/such/dir", "name one that is in the image, or mount one there"),
    ] {
        let stderr = site.srun(&[&MANY[..], &[option, "true"]].concat()).failure(125);
        let said = own_lines(&stderr);
        assert_eq!(said.len(), 2, "two nodes, {} messages: {stderr}", said.len());
        for node in ["n1", "n2"] {
            let mut of_node =
                said.iter().filter(|line| line.contains(&format!("shifter: {node}: ")));
            let line = of_node.next().unwrap_or_else(|| panic!("{node} says nothing: {stderr}"));
            assert!(line.to_lowercase().contains(says), "no {says:?} in {stderr}");
        }
        let job = site.cluster.sbatch(&site.user, &[&site.option(), option], "#!/bin/sh\ntrue\n");
        let ended = site.cluster.wait_job(job);
        assert_eq!((ended.state.as_str(), ended.exit_code.as_str()), ("FAILED", "125:0"));
        assert_eq!(own_lines(&site.cluster.job_output(job)).len(), 1);
    }
    site.assert_unharmed();
}

#[test]
fn wrong_use_is_refused_before_the_job_is_queued() {
    need!(root, slurm);
    let site = site();
    let before = site.cluster.slurmctld_log().matches("sched: _slurm_rpc").count();
    for (args, says) in [
        (
            &["--container-mounts=/a"][..],
            "--container-mounts is for a container, and none is asked for; add --container=IMAGE",
        ),
        (&["--container=a", "--container-mounts=a:b"], "the target must be an absolute path"),
        (&["--container=a", "--container-workdir=x"], "it must be an absolute path"),
        (&["--container=a", "--container-name=../x"], "it must begin with a letter or a digit"),
        (&["--container=a", "--shifter=b"], "are two; say one of them"),
        (&["--shifter=Bad/Name"], "write --shifter=[REGISTRY/]NAME[:TAG]"),
    ] {
        for (program, job) in [("srun", "true"), ("sbatch", "--wrap=true"), ("salloc", "true")] {
            let refused = run(site.client(program, &[args, &[job]].concat()));
            assert_ne!(refused.code, 0, "{program}: {refused}");
            let said = own_lines(&refused.stderr);
            assert!(
                said.len() == 1 && said[0].contains(says),
                "{program}: no {says:?} in {refused}"
            );
        }
    }
    let refused = run(site.client("srun", &["--container=a", "--container-batch=host", "true"]));
    assert!(refused.stderr.contains("an srun has no script"), "{refused}");
    let after = site.cluster.slurmctld_log().matches("sched: _slurm_rpc").count();
    assert_eq!(before, after, "a refused job was queued");
}

/// The plugin is required on every node: what is wrong with it must hurt nobody else.
#[test]
fn a_broken_installation_is_for_jobs_with_containers_alone() {
    need!(root, slurm, registry, busybox);
    let site = site();
    let line = site.cluster.plugin_line();
    let bin = format!("shifter={}", site.sandbox.prefix().join("bin/shifter").display());
    let config = format!("config={}", site.sandbox.config().display());
    for (what, line, settings, says) in [
        ("launcher", line.replace(&bin, "shifter=/no/such"), "", "container launcher /no/such"),
        ("settings", line.clone(), "stoer = '/x'\n", "did you mean store?"),
        ("absent settings", line.replace(&config, "config=/no/such.toml"), "", "/no/such.toml"),
        ("plugstack", format!("{line} shiftr=/x"), "", "unknown argument \"shiftr=/x\""),
    ] {
        site.configure(settings);
        site.cluster.set_plugstack(&[&line]);
        let marker = site.sandbox.shared().join(format!("broken-{}", what.replace(' ', "-")));
        let touch = format!("#!/bin/sh\ntouch {}\n", marker.display());
        let stderr = site.srun(&[&MANY[..], &["touch"], &[&*marker.to_string_lossy()]].concat());
        assert_ne!(stderr.code, 0, "{what}: {stderr}");
        let said = own_lines(&stderr.stderr);
        assert!((1..=2).contains(&said.len()), "{what}: {stderr}");
        assert!(said.iter().all(|line| line.contains(says)), "{what}: no {says:?} in {stderr}");
        let submitted = site.cluster.submit(&site.user, &[&site.option()], &touch);
        if submitted.code == 0 {
            let job = submitted.success().trim().parse().expect("a job's number");
            let ended = site.cluster.wait_job(job);
            assert_eq!((&*ended.state, &*ended.exit_code), ("FAILED", "125:0"), "{what}");
        }
        assert!(!marker.exists(), "{what}: IT RAN ON THE BARE HOST");
        assert_eq!(run(site.client("srun", &["echo", "x"])).stderr, "", "{what}");
        let other = site.cluster.sbatch(&site.user, &[], "#!/bin/sh\nsrun true\n");
        assert_eq!(site.cluster.wait_job(other).state, "COMPLETED", "{what}");
        site.cluster.wait_idle();
    }
    site.configure("");
    site.assert_unharmed();
}

/// Compiles the stub where there is a compiler; the Debian of another Slurm takes it from there.
fn pyxis_stub(site: &Site) -> PathBuf {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pyxis-stub.so");
    if need::gcc().is_ok() {
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/slurm_options/pyxis_stub.c");
        let mut gcc = Command::new("gcc");
        gcc.args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&built).arg(source);
        run(gcc).success();
    }
    let stub = site.sandbox.prefix().join("lib/slurm/pyxis-stub.so");
    fs::copy(&built, &stub).expect("the stub");
    stub
}

/// Two plugins, one name: Slurm gives it to the first, and says so.
#[test]
fn a_plugin_with_the_same_options_leaves_us_the_rest() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let stub = pyxis_stub(&site);
    let (stub, own) = (format!("required {}", stub.display()), site.cluster.plugin_line());
    let mounts = site.shared("both");
    site.sandbox.write(mounts.join("file"), "mounted\n");
    let mounts = format!("{}:/m", mounts.display());
    let show = ["sh", "-c", "cat /m/file; id -u"];
    let uid = site.user.uid;
    for first in ["stub", "own"] {
        let lines = if first == "stub" { [&*stub, &*own] } else { [&*own, &*stub] };
        site.cluster.set_plugstack(&lines);
        let option = format!("--container-mounts={mounts}");
        let outcome = site.srun(&[&[&*option, "--container-remap-root"], &show[..]].concat());
        // -Q hides that Slurm says "provided by both".
        if first == "own" {
            assert_eq!(outcome.clone().success(), "mounted\n0\n", "{first}");
        } else {
            let got = outcome.stderr.contains("pyxis-stub: container-mounts=");
            assert!(got, "the stub was first, and did not get its option: {outcome}");
        }
        // What the other one has is said by variables, and what it does not have as usual.
        let mut srun = site.client("srun", &["-Q", &site.option(), "--container-refresh"]);
        srun.env("SHIFTER_CONTAINER_MOUNTS", &mounts).env("SHIFTER_CONTAINER_REMAP_ROOT", "no");
        srun.args(show);
        assert_eq!(run(srun).success(), format!("mounted\n{uid}\n"), "{first}");
        let script = "#!/bin/sh\nsrun -Q cat /etc/os-release\n";
        let job = [&*site.option(), "--container-batch=host"];
        assert!(site.sbatch(&job, script).ends_with(image::OS_RELEASE), "{first}");
    }
    // With a prefix of our own both have all of theirs, and nobody is told anything.
    site.cluster.set_plugstack(&[&stub, &format!("{own} prefix=shifter")]);
    let args = [&*site.option(), &format!("--shifter-mounts={mounts}"), "--no-shifter-mount-home"];
    run(site.client("srun", &["-Q", &site.option(), "true"])).success();
    let outcome = run(site.client("srun", &[&args[..], &show].concat()));
    assert_eq!(
        (&*outcome.stdout, &*outcome.stderr),
        (&*format!("mounted\n{uid}\n"), ""),
        "{outcome}"
    );
    let outcome = run(site.client("srun", &["--container-workdir=/x", "true"]));
    assert_eq!(outcome.stderr, "pyxis-stub: container-workdir=/x\n");
    site.assert_unharmed();
}
