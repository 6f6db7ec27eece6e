//! What else Slurm does with tasks, done in an image.

use super::*;

#[test]
fn programs_of_a_multi_prog_step_run_in_it() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let programs = "0 sh -c 'cat /etc/os-release'\n1 echo one %t\n";
    let file = site.sandbox.write(site.sandbox.shared().join("programs"), programs);
    let file = file.to_string_lossy().into_owned();
    let outcome = site.srun(&["-n2", "--multi-prog", &file]);
    let release = run(site.client("srun", &["--version"])).success();
    // Only from 23.11 on does Slurm let a plugin at these commands.
    if ["22.", "23.02"].iter().any(|old| release.contains(old)) {
        let stderr = outcome.failure(125);
        let said = own_lines(&stderr);
        assert!(said.len() == 1 && said[0].contains("run them as separate steps"), "{stderr}");
        return;
    }
    let out = outcome.success();
    assert!(out.contains(image::OS_RELEASE) && out.contains("one 1\n"), "{out}");
}

#[test]
fn components_of_a_heterogeneous_job_share_one_image() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let option = site.option();
    let show = ["sh", "-c", "id -u; head -1 /etc/os-release"];
    let component = [&["-n1", &option], &show[..]].concat();
    let both = [&["-Q", "--container-remap-root"], &component[..], &[":"], &component].concat();
    let out = run(site.client("srun", &both)).success();
    let first = image::OS_RELEASE.lines().next().expect("a line");
    let count = |text: &str| out.lines().filter(|line| *line == text).count();
    assert_eq!((count("0"), count(first)), (2, 2), "{out}");
    let differ = [&component[..], &[":", "-n1", "true"]].concat();
    let refused = run(site.client("srun", &differ));
    assert!(refused.stderr.contains("components of a heterogeneous job differ"), "{refused}");
    site.assert_unharmed();
}

#[test]
fn the_jobs_of_an_array_run_in_it() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let dir = site.shared("array");
    let output = format!("--output={}/%a", dir.display());
    let script = "#!/bin/sh\n#SBATCH --array=1-3\n#SBATCH --container-name=lab\n\
                  ls /kept; touch /kept; echo $SLURM_ARRAY_TASK_ID; head -1 /etc/os-release\n";
    let script = site.sandbox.write(dir.join("job.sh"), script);
    let args = ["--wait", &output, &site.option(), &*script.to_string_lossy()];
    run(site.client("sbatch", &args)).success();
    let first = image::OS_RELEASE.lines().next().expect("a line");
    for number in 1..=3 {
        let said = fs::read_to_string(dir.join(number.to_string())).expect("its output");
        // Each is a job of its own, and so is its container.
        assert!(said.ends_with(&format!("{number}\n{first}\n")), "{said}");
        assert!(said.contains("/kept: No such file"), "{said}");
    }
    site.assert_unharmed();
}

#[test]
fn a_terminal_reaches_the_program() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let srun = format!("srun -Q --pty {} sh -c 'tty; head -1 /etc/os-release'", site.option());
    let out = run(site.client("script", &["-qec", &srun, "/dev/null"])).success();
    let first = image::OS_RELEASE.lines().next().expect("a line");
    assert!(out.contains("/dev/pts/") && out.contains(first), "{out}");
}

#[test]
fn many_tasks_of_a_node_cost_one_pull() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    site.registry.push("many:1", &with_file("many", "many\n"));
    site.registry.clear_accesses();
    let option = format!("--container={}", site.registry.name("many:1"));
    let args = ["-N1", "-n64", "--overcommit", &option, "cat", "/many"];
    let outcome = run(site.client("srun", &args));
    assert_eq!(outcome.clone().success(), "many\n".repeat(64));
    assert_eq!(outcome.stderr.matches(" pulled ").count(), 1, "{outcome}");
    let mut blobs: Vec<_> = site.registry.accesses_to("many").into_iter().map(|a| a.path).collect();
    blobs.retain(|path| path.contains("/blobs/"));
    let all = blobs.len();
    blobs.sort();
    blobs.dedup();
    assert_eq!(all, blobs.len(), "something was read twice");
    site.assert_unharmed();
}
