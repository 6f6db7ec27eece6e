//! What goes wrong fails the task, or the job before it is queued, and nothing else.

use super::*;

/// Our failure must end the task, on the node and not on the host, and leave the node as it was.
#[track_caller]
fn assert_fails_safe(
    site: &Site,
    client: &Cluster,
    what: &str,
    says: &str,
    env: Option<(&str, &str)>,
) {
    let marker = site.file(&format!("ran-on-host-{what}"));
    let option = site.option();
    let mut srun = client.command(&site.user, "srun");
    if env.is_none() {
        srun.arg(&option);
    }
    srun.args(["-n2", "touch"]).arg(&marker).envs(env);
    let outcome = run(srun);
    assert_eq!(outcome.code, 125, "{what}: {outcome}");
    assert!(own_lines(&outcome.stderr).iter().any(|line| line.contains(says)), "{what}: {outcome}");
    assert!(!marker.exists(), "{what}: THE COMMAND RAN ON THE BARE HOST: {outcome}");
    if env.is_none() {
        let script = format!("#!/bin/sh\ntouch {}\n", marker.display());
        let job = client.sbatch(&site.user, &[&option], &script);
        let ended = site.cluster.wait_job(job);
        assert_eq!((ended.state.as_str(), ended.exit_code.as_str()), ("FAILED", "125:0"), "{what}");
        assert!(!marker.exists(), "{what}: THE SCRIPT RAN ON THE BARE HOST");
    }
    site.assert_unharmed();
}

#[test]
fn a_missing_launcher_fails_the_task_and_nothing_else() {
    need!(root, slurm, registry, busybox);
    let site = site();
    let line = site.cluster.plugin_line();
    let bin = format!("shifter={}", site.sandbox.prefix().join("bin/shifter").display());
    assert!(line.contains(&bin), "{line}");
    site.cluster.set_plugstack(&[&line.replace(&bin, "shifter=/no/such/shifter")]);
    assert_fails_safe(&site, &site.cluster, "launcher", "/no/such/shifter", None);
    // Who asks for nothing does not notice.
    site.srun(&["true"]).success();
}

#[test]
fn a_broken_carrier_fails_the_task_and_nothing_else() {
    need!(root, slurm, registry, busybox);
    let site = site();
    for (what, carrier) in [
        ("garbage", "{\"container\":"),
        ("name", "{\"container\":\"../../etc\"}"),
        ("unknown", "{\"container\":\"a\",\"future\":1}"),
    ] {
        // A client without the plugin passes the variable on as it is.
        let bare = site.sandbox.write(
            site.cluster.slurm_conf().with_file_name("bare.conf"),
            fs::read_to_string(site.cluster.slurm_conf())
                .expect("slurm.conf")
                .lines()
                .filter(|line| !line.starts_with("PlugStackConfig"))
                .map(|line| format!("{line}\n"))
                .collect::<String>()
                + "PlugStackConfig=/dev/null\n",
        );
        let marker = site.file(&format!("carrier-{what}"));
        let mut srun = site.cluster.command(&site.user, "srun");
        srun.env("SLURM_CONF", bare).env("SLURM_SPANK_SHIFTER_REQUEST", carrier);
        srun.arg("touch").arg(&marker);
        let outcome = run(srun);
        assert_eq!(outcome.code, 125, "{what}: {outcome}");
        assert_eq!(own_lines(&outcome.stderr).len(), 1, "{what}: {outcome}");
        assert!(!marker.exists(), "{what}: THE COMMAND RAN ON THE BARE HOST: {outcome}");
        site.assert_unharmed();
    }
}

#[test]
fn a_panic_fails_the_task_and_nothing_else() {
    need!(root, slurm, registry, busybox);
    let site = site();
    let plugin = site.sandbox.prefix().join("lib/slurm/shifter.so").display().to_string();
    let faults = site.sandbox.prefix().join("lib/slurm/shifter-faults.so").display().to_string();
    let line = site.cluster.plugin_line().replace(&plugin, &faults);
    site.cluster.set_plugstack(&[&format!("{line} fault=task_init")]);
    assert_fails_safe(&site, &site.cluster, "panic", "internal error", None);
    site.srun(&["true"]).success();
    // On the submit side: refused, and not queued.
    site.cluster.set_plugstack(&[&format!("{line} fault=post_opt")]);
    let refused = site.srun(&[&site.option(), "true"]);
    assert_ne!(refused.code, 0, "{refused}");
    site.srun(&["true"]).success();
    // As root in slurmstepd, before anything is known: nobody notices.
    site.cluster.set_plugstack(&[&format!("{line} fault=init")]);
    site.srun(&["true"]).success();
    site.assert_unharmed();
}

#[test]
fn an_image_that_there_is_not_is_refused_before_the_job_is_queued() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let option = format!("--container={}", site.registry.name("no-such-image:1"));
    let stderr = site.srun(&["-N2", &option, "true"]).failure(1);
    assert!(
        stderr.contains("has no image no-such-image:1; check the name and the tag"),
        "{stderr}"
    );
    // Where nobody can tell, the nodes will.
    let option = "--container=127.0.0.1:9/nobody:1";
    let script = "#!/bin/sh\ntouch \"$0.ran\"\n";
    let job = site.cluster.sbatch(&site.user, &[option], script);
    let job = site.cluster.wait_job(job);
    assert_eq!((job.state.as_str(), job.exit_code.as_str()), ("FAILED", "125:0"));
    let said = site.cluster.job_output(job.id);
    assert!(said.contains("cannot reach registry 127.0.0.1:9"), "{said}");
    site.assert_unharmed();
}

#[test]
fn a_pull_that_fails_is_said_once_a_node() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    site.configure("resolve_on_submit = false\n");
    let option = format!("--container={}", site.registry.name("no-such-image:1"));
    let stderr = site.srun(&["-N2", "--ntasks-per-node=4", &option, "true"]).failure(125);
    // One may have waited for the other.
    let is_failure = |line: &&str| line.contains("shifter: ") && !line.contains(": waiting for ");
    let said: Vec<_> = stderr.lines().filter(is_failure).collect();
    assert_eq!(said.len(), 2, "two nodes, {} messages: {stderr}", said.len());
    for node in ["n1", "n2"] {
        assert!(
            said.iter().any(|line| line.contains(&format!("shifter: {node}: pull "))),
            "{stderr}"
        );
    }
    assert!(said[0].contains("check the name and the tag"), "{stderr}");
    site.assert_unharmed();
}
