//! `--signal`: the warning before a job's time is over.
//!
//! Slurm looks at its clock every half minute, and rather gives it too early: a job of one minute that
//! asks for 20 seconds gets it when it has run for 10 to 40, and by then everybody listens.

use std::process::Stdio;

use fixtures::{eventually, need};

use super::*;

const TIME: &str = "--time=1";

/// Whoever hears the signal says so and ends with this status.
fn listen(who: &str, status: i32) -> String {
    format!("trap 'echo {who} heard; exit {status}' USR1; while :; do sleep 0.1; done")
}

#[test]
fn a_warning_reaches_whom_it_is_for_and_nobody_else() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    let option = site.option();
    let mut srun = site.client("srun", &["-Q", "-n2", TIME, "--signal=USR1@20", &option]);
    srun.args(["sh", "-c", &listen("task", 3)]);
    srun.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let srun = srun.spawn().expect("srun starts");

    // All steps, but not the script, which is told of it only when its step has ended.
    let script = format!(
        "#!/bin/sh\ntrap 'echo script heard' USR1\nsrun -Q sh -c \"{}\"; echo step ended: $?\n",
        listen("step", 4)
    );
    let args = [&*option, TIME, "--signal=USR1@20"];
    let steps = site.cluster.sbatch(&site.user, &args, &script);
    // The script, but not its steps.
    let script =
        format!("#!/bin/sh\nsrun -Q sh -c \"{}\" &\n{}", listen("step", 4), listen("script", 5));
    let args = [&*option, TIME, "--signal=B:USR1@20"];
    let batch = site.cluster.sbatch(&site.user, &args, &script);

    for (job, exit, expected) in
        [(steps, "0:0", "step heard\nstep ended: 4\n"), (batch, "5:0", "script heard\n")]
    {
        let ended = site.cluster.wait_job(job);
        let said = site.cluster.job_output(job);
        // Slurm and shells tell of signals, too.
        let words = |line: &&str| line.contains("heard") || line.contains("ended:");
        let heard: String = said.lines().filter(words).map(|line| format!("{line}\n")).collect();
        assert_eq!((&*ended.exit_code, &*heard), (exit, expected), "{ended:?}: {said}");
    }
    let outcome = srun.wait_with_output().expect("it is our child");
    let heard = String::from_utf8_lossy(&outcome.stdout);
    assert_eq!((outcome.status.code(), &*heard), (Some(3), "task heard\ntask heard\n"));
    site.cluster.wait_idle();
    eventually(Duration::from_secs(10), "the end of all processes", || {
        site.tasks().is_empty().then_some(())
    });
}
