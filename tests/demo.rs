//! `make demo`: what shifter is for, on a cluster of one node that exists only for this.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "it is there to be watched")]

use std::{
    fs,
    process::{Command, ExitCode},
    time::Instant,
};

use fixtures::{
    Cluster, Outcome, Registry, Sandbox, User,
    image::{self, OS_RELEASE},
    need, run,
};

fn main() -> ExitCode {
    for met in [need::root(), need::slurm(), need::registry(), need::busybox()] {
        if let Err(why) = met {
            eprintln!("demo: {why}");
            return ExitCode::FAILURE;
        }
    }

    let started = Instant::now();
    let sandbox = Sandbox::new().with_programs();
    let user = User::ordinary();
    let registry = Registry::start(&sandbox);
    registry.push("demo/busybox:1", &image::busybox().build());
    let cluster = Cluster::start(&sandbox, 1).with_plugin();
    println!(
        "munged, slurmctld, slurmd and a registry with demo/busybox:1 are up after {:.1?}.\n\
         All that follows is run by the ordinary user {}.\n",
        started.elapsed(),
        user.name
    );

    let image = registry.name("demo/busybox:1");
    let container = format!("--container={image}");
    let command = |program: &str, args: &[&str]| {
        let mut command = cluster.command(&user, program);
        command.args(args);
        command
    };
    let host = show("on the node itself", command("srun", &["cat", "/etc/os-release"]));
    let in_image = ["cat", "/etc/os-release"];
    let srun = [&[&*container], in_image.as_slice()].concat();
    let shifter = [&["run", &*image], in_image.as_slice()].concat();
    let contained = [
        show("in the image, pulled by the job", command("srun", &srun)),
        show("again: the node has the image", command("srun", &srun)),
        show("the same without Slurm", command("shifter", &shifter)),
    ];

    let expected = fs::read_to_string("/etc/os-release").unwrap_or_default();
    if host.stdout != expected {
        eprintln!("demo: a job without --container did not run on the host");
        return ExitCode::FAILURE;
    }
    if contained.iter().any(|outcome| outcome.code != 0 || outcome.stdout != OS_RELEASE) {
        eprintln!("demo: a command did not run in the image");
        return ExitCode::FAILURE;
    }
    cluster.wait_idle();
    println!("The host's /etc/os-release and the image's differ, as they should. Cleaning up.");
    ExitCode::SUCCESS
}

/// Runs a command in front of the audience.
fn show(what: &str, command: Command) -> Outcome {
    let outcome = run(command);
    println!("# {what}\n{outcome}\n");
    outcome
}
