//! `--container-save`: what a step has written becomes a file.

use std::{path::Path, time::Duration};

use fixtures::eventually;
use nix::sys::signal::{Signal, kill};

use super::*;

impl Site {
    /// A file to be saved to, in a directory with nothing else in it.
    fn file(&self, test: &str) -> String {
        self.shared(test).join("x.sqsh").display().to_string()
    }

    /// What a command says in an image that is this file.
    fn inside(&self, file: &str, script: &str) -> String {
        let container = format!("--container={file}");
        run(self.client("srun", &["-Q", &container, "sh", "-c", script])).success()
    }
}

fn neighbours(file: &str) -> Vec<String> {
    let dir = Path::new(file).parent().expect("it is in one");
    let entries = fs::read_dir(dir).expect("it was made").flatten();
    entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

fn saved(stderr: &str) -> Vec<&str> {
    stderr.lines().filter(|line| line.contains(" saved ")).collect()
}

#[test]
fn what_all_tasks_of_the_first_node_have_written_is_in_it() {
    need!(root, slurm, registry, busybox, userns, squashfs);
    let site = site();
    let file = site.file("save-all");
    let save = format!("--container-save={file}");
    // The last one comes late, and stays long after the others.
    let script = "test $SLURM_LOCALID = 0 || sleep 1.5; echo $SLURMD_NODENAME >/rank-$SLURM_PROCID";
    let outcome = site.srun(&["-N2", "-n6", "--ntasks-per-node=3", &save, "sh", "-c", script]);
    let stderr = outcome.stderr.clone();
    outcome.success();
    let said = saved(&stderr);
    assert!(said.len() == 1 && said[0].starts_with("shifter: n1: saved "), "{stderr}");
    assert_eq!(neighbours(&file), ["x.sqsh"]);
    let ranks = site.inside(&file, "cat /rank-*; ls /rank-* | wc -l");
    assert_eq!(ranks, "n1\nn1\nn1\n3\n");
    site.assert_unharmed();
}

#[test]
fn a_task_ends_as_its_command_does() {
    need!(root, slurm, registry, busybox, userns, squashfs);
    let site = site();
    let file = site.file("save-status");
    let save = format!("--container-save={file}");
    site.srun(&[&save, "sh", "-c", "echo kept >/x; exit 9"]).failure(9);
    assert_eq!(site.inside(&file, "cat /x"), "kept\n");
    let before = fs::read(&file).expect("it was written");
    let stderr = site.srun(&[&save, "nowhere"]).failure(127);
    assert_eq!(saved(&stderr), Vec::<&str>::new(), "{stderr}");
    let said = site.srun(&[&save, "sh", "-c", "kill -9 $$"]);
    assert!(said.code != 0 && said.stderr.contains("was ended by SIGKILL"), "{said}");
    assert_eq!(fs::read(&file).expect("it is there"), before);
    // A shell at a terminal, which is its session's first process.
    let srun = format!("srun -Q --pty {} {save} sh -c 'tty; echo pty >/x'", site.option());
    let out = run(site.client("script", &["-qec", &srun, "/dev/null"])).success();
    assert!(out.contains("/dev/pts/") && out.contains("saved "), "{out}");
    assert_eq!(site.inside(&file, "cat /x"), "pty\n");
    assert_eq!(neighbours(&file), ["x.sqsh"]);
    site.assert_unharmed();
}

#[test]
fn the_steps_of_a_job_do_not_save_what_its_script_does() {
    need!(root, slurm, registry, busybox, userns, squashfs);
    let site = site();
    let file = site.file("save-script");
    let save = format!("--container-save={file}");
    let script =
        "#!/bin/sh\necho script >/who; srun -Q sh -c 'echo step >/who; ls -l /who'; ls /who\n";
    let said = site.sbatch(&[&site.option(), &save], script);
    assert_eq!(saved(&said).len(), 1, "{said}");
    assert!(said.contains("/who\n"), "{said}");
    assert_eq!(site.inside(&file, "cat /who"), "script\n");
    // By its variable, a step alone; what it goes on with is the job's container of that name.
    let second = site.file("save-step");
    let script = format!(
        "#!/bin/sh\n\
         srun -Q --container-name=lab sh -c 'echo one >/one'\n\
         SHIFTER_CONTAINER_SAVE=/nowhere/x srun -Q --container-name=lab true\n\
         srun -Q --container-name=lab --container-save={second} sh -c 'echo two >/two'\n"
    );
    let said = site.sbatch(&[&site.option(), "--container-batch=host"], &script);
    assert_eq!(saved(&said).len(), 1, "{said}");
    assert_eq!(site.inside(&second, "cat /one /two"), "one\ntwo\n");
    let refused = site.cluster.submit(
        &site.user,
        &[&site.option(), "--container-batch=host", &save],
        "#!/bin/sh\ntrue\n",
    );
    assert!(refused.code != 0 && refused.stderr.contains("give it to an srun"), "{refused}");
    site.assert_unharmed();
}

#[test]
fn a_variable_stands_for_it_where_there_is_no_job() {
    need!(root, slurm, registry, busybox, userns, squashfs);
    let site = site();
    let file = site.file("save-variable");
    let mut srun = site.client("srun", &["-Q", &site.option(), "sh", "-c", "echo var >/x"]);
    srun.env("SHIFTER_CONTAINER_SAVE", &file);
    run(srun).success();
    assert_eq!(site.inside(&file, "cat /x"), "var\n");
    let stderr = site.srun(&["--container-save=/nowhere/x.sqsh", "-n3", "true"]).failure(125);
    let said = own_lines(&stderr);
    assert!(said.len() == 1 && said[0].contains("make that directory first"), "{stderr}");
    site.assert_unharmed();
}

#[test]
fn a_step_that_is_cancelled_saves_nothing() {
    need!(root, slurm, registry, busybox, userns, squashfs);
    let site = site();
    let file = site.file("save-cancel");
    let save = format!("--container-save={file}");
    let begun = site.shared("save-begun");
    // Before it is saved; and while it is.
    for (name, script, is_there) in [
        ("command", format!("touch {}/command; sleep 60", begun.display()), begun.join("command")),
        (
            "writing",
            format!("head -c 150000000 /dev/urandom >/big; touch {}/writing", begun.display()),
            Path::new(&file).with_extension("sqsh.partial"),
        ),
    ] {
        let job = format!("--job-name={name}");
        let args = ["-Q", "-n2", &job, &site.option(), &save, "sh", "-c", &*script];
        let srun = site.client("srun", &args).spawn().expect("srun starts");
        let there = || is_there.exists().then_some(());
        eventually(Duration::from_secs(60), "the step to be so far", there);
        // It is not done before it is told to end.
        for process in site.sandbox.users_of(&is_there) {
            if fs::read_to_string(format!("/proc/{process}/comm"))
                .is_ok_and(|c| c == "mksquashfs\n")
            {
                kill(process, Signal::SIGSTOP).expect("it is there");
            }
        }
        let name = format!("--name={name}");
        site.cluster.run_as_admin("scancel", &[&name]).success();
        let ended = srun.wait_with_output().expect("it ends");
        assert!(!ended.status.success(), "{ended:?}");
        site.cluster.wait_idle();
        assert_eq!(neighbours(&file), Vec::<String>::new());
    }
    site.assert_unharmed();
}
