//! Which jobs are over, as Slurm says.
//!
//! Containers of a job go when it is over, and nobody tells a node's users when that is: between two
//! steps no process of a job need be there. So Slurm is asked, by whoever comes next and finds such
//! containers; where it does not answer, they stay.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeSet,
    env,
    io::Read as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

/// Longest wait for an answer: the one who asks is about to run something.
const PATIENCE: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(10);

/// Returns the numbers of the caller's jobs that are queued or run; `None` if Slurm cannot be asked.
pub fn alive() -> Option<BTreeSet<u32>> {
    let mut squeue = Command::new("squeue");
    // What of these is set for people would hide jobs.
    let own = |name: &str| name.starts_with("SQUEUE_") || name == "SLURM_CLUSTERS";
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter(|name| own(name)).for_each(|name| _ = squeue.env_remove(name));
    let user = format!("--user={}", nix::unistd::getuid());
    squeue.args(["--noheader", "--format=%A", &user]);
    squeue.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    answer(squeue, PATIENCE)?.lines().map(|line| line.trim().parse().ok()).collect()
}

/// What a program prints, if it ends well, and in time.
fn answer(mut program: Command, patience: Duration) -> Option<String> {
    let mut child = program.spawn().ok()?;
    let mut stdout = child.stdout.take()?;
    let read = move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).is_ok().then_some(text)
    };
    // A job may be allowed no more threads.
    let reader = thread::Builder::new().spawn(read);
    let started = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Some(status),
            Ok(None) if reader.is_ok() && started.elapsed() < patience => thread::sleep(TICK),
            _ => {
                // It may have ended by now.
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    // No thread may be left: the one who asks is about to move into a namespace.
    let text = reader.ok()?.join().ok().flatten();
    text.filter(|_| status.is_some_and(|status| status.success()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(script: &str) -> Option<String> {
        let mut sh = Command::new("sh");
        sh.args(["-c", script]).stdout(Stdio::piped());
        answer(sh, Duration::from_millis(300))
    }

    #[test]
    fn only_an_answer_is_one() {
        assert_eq!(says("echo 17"), Some("17\n".to_owned()));
        assert_eq!(says("echo 17; exit 1"), None);
        assert_eq!(says("echo 17; exec sleep 30"), None);
        assert_eq!(answer(Command::new("/no/such/program"), PATIENCE), None);
        let long = says("i=0; while [ $i -lt 30000 ]; do echo $i; i=$((i + 1)); done");
        assert!(long.is_none_or(|text| text.lines().count() == 30000));
    }
}
