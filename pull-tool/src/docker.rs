//! What somebody who knows docker types here, and what to do instead.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use runtime::report::Report;

const NETWORK: &str = "network and names are the host's; leave it out";
const RIGHTS: &str =
    "inside you have your own rights and no more; --remap-root is enough for package managers";
const LIMITS: &str = "limits are the job's; leave it out, and ask Slurm for what you need";
const RECORDS: &str = "nothing keeps records of containers; leave it out";
const SIGNALS: &str = "signals reach the program itself; leave it out";
const SYSTEM: &str =
    "processes, shared memory and the kernel's settings are the host's; leave it out";

/// Docker's flags that are not ours.
const FLAGS: [(&[&str], &str); 19] = [
    (
        &["-d", "--detach", "--restart"],
        "a container lasts as long as its command; put & after it, or submit it with sbatch",
    ),
    (
        &["-p", "-P", "--publish", "--publish-all", "--expose"],
        "the network is the host's: what listens inside can be reached as it is; leave it out",
    ),
    (
        &[
            "--network",
            "--net",
            "--network-alias",
            "--dns",
            "--dns-search",
            "--dns-option",
            "--add-host",
            "--hostname",
            "--domainname",
            "--ip",
            "--ip6",
            "--link",
            "--mac-address",
        ],
        NETWORK,
    ),
    (&["--privileged", "--cap-add", "--cap-drop", "--security-opt", "--userns"], RIGHTS),
    (&["-u", "--user"], "inside you are who you are; to be root there, say --remap-root"),
    (&["--group-add"], "you are in the groups that you are in; leave it out"),
    (
        &[
            "-m",
            "-c",
            "--memory",
            "--memory-swap",
            "--memory-reservation",
            "--cpus",
            "--cpu-shares",
            "--cpuset-cpus",
            "--cpuset-mems",
            "--pids-limit",
            "--blkio-weight",
            "--oom-kill-disable",
            "--oom-score-adj",
        ],
        LIMITS,
    ),
    (&["--ulimit"], "limits are the shell's; leave it out, and say ulimit before"),
    (&["--shm-size"], "/dev/shm is the host's, as large as that is; leave it out"),
    (&["--ipc", "--pid", "--uts", "--cgroupns", "--cgroup-parent", "--sysctl"], SYSTEM),
    (&["--pull"], "an image is pulled if it is not here; for a newer one, say shifter pull before"),
    (&["--platform"], "an image for another machine does not run here; leave it out"),
    (
        &[
            "-l",
            "--label",
            "--label-file",
            "--annotation",
            "--cidfile",
            "--log-driver",
            "--log-opt",
        ],
        RECORDS,
    ),
    (&["--init"], "no process but yours is in a container; leave it out"),
    (&["-a", "--attach"], "input and output are yours anyway; leave it out"),
    (&["--sig-proxy", "--stop-signal", "--stop-timeout", "--detach-keys"], SIGNALS),
    (
        &["--volumes-from", "--volume-driver", "--storage-opt"],
        "there are no volumes; mount a directory with --volume",
    ),
    (&["--runtime", "--isolation", "--use-api-socket"], "there is no daemon; leave it out"),
    (
        &["--no-healthcheck", "--health-cmd", "--health-interval"],
        "nobody asks how a container does; leave it out",
    ),
];

/// Words an error of the command line, if it is about a flag of docker's.
pub(crate) fn explain(error: &clap::Error) -> Option<Report> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else { return None };
    if error.kind() != ErrorKind::UnknownArgument {
        return None;
    }
    let flag = flag.split('=').next().unwrap_or_default();
    let remedy = FLAGS.iter().find(|(flags, _)| flags.contains(&flag))?.1;
    Some(Report::usage(&format!("run {flag}: not an option here"), remedy))
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::Arguments;

    #[test]
    fn flags_of_dockers_are_explained_unless_they_are_ours() {
        for (flags, remedy) in FLAGS {
            for flag in flags {
                let error = Arguments::try_parse_from(["shifter", "run", flag, "x", "image"]);
                let report = explain(&error.expect_err(flag)).expect(flag);
                assert!(report.line.contains(flag) && report.line.ends_with(remedy), "{report}");
                assert_eq!(report.exit, 2);
            }
        }
        let run = Arguments::command();
        let run = run.find_subcommand("run").expect("a verb");
        for flag in
            ["volume", "env", "workdir", "tty", "interactive", "rm", "name", "device", "gpus"]
        {
            assert!(run.get_arguments().any(|a| a.get_long() == Some(flag)), "no --{flag}");
        }
        for args in [["shifter", "run", "--bogus", "x"], ["shifter", "pull", "--quite", "x"]] {
            assert_eq!(explain(&Arguments::try_parse_from(args).expect_err("wrong")), None);
        }
    }

    #[test]
    fn what_is_glued_to_a_flag_does_not_hide_it() {
        for flag in ["-p8080:80", "-itd", "--network=host", "--shm-size=1g"] {
            let error = Arguments::try_parse_from(["shifter", "run", flag, "image"]);
            assert!(explain(&error.expect_err(flag)).is_some(), "{flag}");
        }
    }
}
