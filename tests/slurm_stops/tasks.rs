//! What else is done with tasks: input, labels, scripts around them.

use fixtures::need;

use super::*;

#[test]
fn input_and_labels_are_as_without_a_container() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let sh = |script: &str| run(site.client("sh", &["-c", script]));
    let option = site.option();
    let cat = format!("echo hello | srun -Q -N1 -n2 --label {option} cat");
    let mut lines: Vec<_> = sh(&cat).success().lines().map(str::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["0: hello", "1: hello"]);
    // Only one of them gets it.
    let one = format!("echo hello | srun -Q -N1 -n2 --input=1 --label {option} cat");
    assert_eq!(sh(&one).success(), "1: hello\n");
    // Nothing of it is lost on the way, though the image comes first.
    let much = format!("seq 100000 | srun -Q -n1 {option} sh -c 'wc -l; cat | wc -c'");
    assert_eq!(sh(&much).success().split_whitespace().next(), Some("100000"));
    let none = format!("srun -Q -n1 --input=none {option} cat");
    assert_eq!(sh(&none).success(), "");
}

/// They are the site's and the user's, who know the node and not the image.
#[test]
fn scripts_around_a_task_run_on_the_host() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let dir = site.sandbox.make_dir(site.sandbox.shared().join("around"), 0o777);
    let prolog = "#!/bin/bash\n. /etc/os-release; echo export BEFORE=$ID; echo print said before\n";
    let epilog = format!("#!/bin/bash\n. /etc/os-release; echo $ID >{}/after\n", dir.display());
    let prolog = site.sandbox.write_script(dir.join("prolog"), prolog);
    let epilog = site.sandbox.write_script(dir.join("epilog"), epilog);
    let prolog = format!("--task-prolog={}", prolog.display());
    let epilog = format!("--task-epilog={}", epilog.display());
    let args =
        ["-Q", &*prolog, &epilog, &site.option(), "sh", "-c", "echo $BEFORE; cat /etc/os-release"];
    let said = site.srun(&args).success();
    let host = fs::read_to_string("/etc/os-release").expect("os-release");
    let id = host.lines().find_map(|line| line.strip_prefix("ID=")).expect("ID");
    assert_eq!(said, format!("said before\n{id}\n{}", image::OS_RELEASE));
    let after = fs::read_to_string(dir.join("after")).expect("the epilog has run");
    assert_eq!(after.trim(), id);
}

#[test]
fn a_job_with_an_environment_of_a_files_is_in_its_image() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let file = site.sandbox.write(site.sandbox.shared().join("exported"), "FROM=file\0");
    let export = format!("--export-file={}", file.display());
    let script = "#!/bin/sh\nhead -1 /etc/os-release; echo from $FROM\n";
    let job = site.cluster.sbatch(&site.user, &[&export, &site.option()], script);
    let ended = site.cluster.wait_job(job);
    let said = site.cluster.job_output(job);
    let first = image::OS_RELEASE.lines().next().expect("a line");
    assert_eq!(ended.state, "COMPLETED", "{said}");
    assert!(said.ends_with(&format!("{first}\nfrom file\n")), "{said}");
}
