//! `shifter run` of an image that is one file.

use std::{
    fs::{self, File},
    io::Read as _,
    os::unix::fs::FileExt as _,
    process::{Child, Stdio},
    time::Duration,
};

use fixtures::{Outcome, Place, eventually, image, need, place::assert_says, run};
use nix::{
    sys::signal::{Signal, kill},
    unistd::{Gid, Pid, Uid, chown},
};

use crate::{SITE, file, noise, trees};

/// With this setting of `squashfs.run`.
fn with(place: &Place, how: &str, args: &[&str]) -> Outcome {
    let mut command = place.command("shifter", &[&["run"], args].concat());
    command.env("SHIFTER_SQUASHFS_RUN", how);
    run(command)
}

#[test]
fn it_is_read_where_it_lies() {
    need!(root, registry, busybox, squashfs, fuse, userns);
    let (place, image, digest) = SITE.written("lies");
    for how in ["auto", "mount"] {
        let script = "cat /etc/os-release; md5sum < /etc/large; id -u; stat -c %u:%g /bin/busybox";
        let said = with(&place, how, &[&image, "sh", "-c", script]).success();
        let (release, rest) = said.split_at(image::OS_RELEASE.len());
        assert_eq!(release, image::OS_RELEASE);
        let lines: Vec<_> = rest.lines().collect();
        let (uid, gid) = (place.user.uid.to_string(), place.user.gid);
        assert_eq!(&lines[1..], [uid.clone(), format!("{uid}:{gid}")]);
        assert!(trees(&place).is_empty(), "{how} has expanded it");
        SITE.assert_no_server(&digest);
    }
    let plan = with(&place, "mount", &["--dry-run", &image]).success();
    let root = format!("root     {}, mounted by squashfuse_ll, ", file(&place, &digest).display());
    assert!(plan.contains(&root), "{plan}");
    with(&place, "expand", &[&image, "true"]).success();
    assert_eq!(trees(&place).len(), 1);
    // Where it is expanded already, that is quicker.
    let plan = with(&place, "auto", &["--dry-run", &image]).success();
    assert!(plan.contains("/rootfs, changes"), "{plan}");
}

#[test]
fn what_is_written_goes_with_the_container() {
    need!(root, registry, busybox, squashfs, fuse, userns);
    let (place, image, digest) = SITE.written("written");
    let script = "echo more >> /etc/own && cat /etc/own && rm /etc/os-release && mkdir /usr/new \
                  && mv /etc/own /usr/new/ && chmod 700 /var && rm -r /root && ls /usr/new";
    let said = with(&place, "mount", &[&image, "sh", "-c", script]).success();
    assert_eq!(said, "writtenmore\nown\n");
    let said = with(&place, "mount", &[&image, "sh", "-c", "cat /etc/own; ls -d /root"]).success();
    assert_eq!(said, "written/root\n");
    let readonly = ["--readonly", image.as_str(), "sh", "-c", "cat /etc/own; ! echo x > /etc/own"];
    assert_eq!(with(&place, "mount", &readonly).success(), "written");
    SITE.assert_no_server(&digest);
}

#[test]
fn the_exit_status_and_the_streams_are_the_programs() {
    need!(root, registry, busybox, squashfs, fuse, userns);
    let (place, image, digest) = SITE.written("streams");
    // `run` reads standard output to its end: a server that held it would be waited for.
    let outcome = with(&place, "mount", &[&image, "sh", "-c", "echo out; echo err >&2; exit 42"]);
    let said = (outcome.code, outcome.stdout.as_str(), outcome.stderr.as_str());
    assert_eq!(said, (42, "out\n", "err\n"));
    // No child that it has not started.
    let script = "wait; cat /proc/$$/task/$$/children; exec sh -c 'ps -o pid,ppid,args'";
    let said = with(&place, "mount", &[&image, "sh", "-c", script]).success();
    assert!(!said.lines().next().expect("a line").contains("squashfuse"), "{said}");
    let stderr = with(&place, "mount", &[&image, "nowhere"]).failure(127);
    assert_says(&stderr, &["run \"nowhere\": not found in"]);
    SITE.assert_no_server(&digest);
}

/// A container that waits, with what it has not read yet.
struct Running {
    child: Child,
    server: Pid,
}

impl Running {
    fn start(place: &Place, image: &str, digest: &str, script: &str) -> Running {
        let script = format!("echo ready; {script}");
        let mut command = place.command("shifter", &["run", image, "sh", "-c", &script]);
        command.env("SHIFTER_SQUASHFS_RUN", "mount").stdin(Stdio::piped());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.expect("shifter starts");
        let mut ready = [0; 6];
        let stdout = child.stdout.as_mut().expect("a pipe");
        stdout.read_exact(&mut ready).expect("the program begins");
        let server = eventually(Duration::from_secs(60), "the server", || {
            SITE.servers(digest).first().copied().map(Pid::from_raw)
        });
        Running { child, server }
    }

    /// Lets it go on, and returns its status and what it has said.
    fn finish(mut self) -> (Option<i32>, String) {
        drop(self.child.stdin.take());
        let output = self.child.wait_with_output().expect("it ends");
        let said = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8_lossy(&said).into_owned())
    }
}

#[test]
fn signals_are_for_the_program() {
    need!(root, registry, busybox, squashfs, fuse, userns);
    let (place, image, digest) = SITE.written("signals");
    let running =
        Running::start(&place, &image, &digest, "read x; wc -c < /etc/large; cat /etc/own");
    // What scancel sends to all that is in a step, and a terminal to all in front of it.
    for signal in Signal::iterator() {
        let is_final = [Signal::SIGKILL, Signal::SIGSTOP].contains(&signal);
        // A fault is one wherever it comes from.
        let is_fault = [Signal::SIGSEGV, Signal::SIGBUS, Signal::SIGILL, Signal::SIGFPE];
        if !is_final && !is_fault.contains(&signal) {
            kill(running.server, signal).unwrap_or_else(|e| panic!("{signal}: {e}"));
        }
    }
    let (code, said) = running.finish();
    assert_eq!((code, said.as_str()), (Some(0), "1048576\nsignals"));
    SITE.assert_no_server(&digest);
}

#[test]
fn a_server_that_is_killed_is_an_error_and_no_hang() {
    need!(root, registry, busybox, squashfs, fuse, userns);
    let (place, image, digest) = SITE.written("server");
    let running = Running::start(&place, &image, &digest, "read x; cat /etc/large");
    kill(running.server, Signal::SIGKILL).expect("kill");
    let (code, said) = running.finish();
    assert_ne!(code, Some(0));
    // Of cat, or of the shell that cannot read it any more; it may be its own code (SIGBUS).
    let says = ["not connected", "Software caused connection abort", "not found"];
    assert!(code.is_none() || says.iter().any(|part| said.contains(part)), "{said}");
    assert_eq!(with(&place, "mount", &[&image, "cat", "/etc/own"]).success(), "server");
}

#[test]
fn an_image_that_is_removed_runs_on() {
    need!(root, registry, busybox, squashfs, fuse, userns);
    let (place, image, digest) = SITE.written("removed");
    let script = "read x; wc -c < /etc/large; cat /etc/own";
    let running = Running::start(&place, &image, &digest, script);
    place.shifter(&["rmi", &image]).success();
    assert!(!file(&place, &digest).exists());
    let (code, said) = running.finish();
    assert_eq!((code, said.as_str()), (Some(0), "1048576\nremoved"));
    SITE.assert_no_server(&digest);
}

#[test]
fn who_is_killed_leaves_no_server() {
    need!(root, registry, busybox, squashfs, fuse, userns);
    let (place, image, digest) = SITE.written("rank");
    let sleeper = || {
        let processes = SITE.sandbox.processes();
        let line = processes.iter().find(|line| line.ends_with("sleep 60"))?;
        line.split(' ').next()?.parse().ok().map(Pid::from_raw)
    };
    let mut running = Running::start(&place, &image, &digest, "sleep 60 & cat; wait");
    eventually(Duration::from_secs(10), "the other process", sleeper);
    running.child.kill().expect("kill");
    running.child.wait().expect("it ends");
    // The other process of the container is alive, and can read.
    assert_eq!(SITE.servers(&digest).len(), 1);
    let sleeper = sleeper().expect("it sleeps");
    kill(sleeper, Signal::SIGKILL).expect("kill");
    SITE.assert_no_server(&digest);
}

#[test]
fn where_it_cannot_be_mounted_it_is_expanded_or_refused() {
    need!(root, registry, busybox, squashfs, fuse, userns);
    let (place, image, _) = SITE.written("cannot");
    let without = |how: &str| {
        let mut command = place.command("shifter", &["run", &image, "cat", "/etc/own"]);
        command.env("SHIFTER_SQUASHFS_RUN", how);
        command.env("PATH", SITE.sandbox.prefix().join("bin"));
        run(command)
    };
    let stderr = without("mount").failure(125);
    assert_says(
        &stderr,
        &["squashfuse_ll: not found; ask the administrator to install squashfuse"],
    );
    for (flags, problem) in [
        (&["--remap-root"][..], "nothing in it would belong to you"),
        (&["--name", "kept"][..], "a container with a name needs an expanded image"),
    ] {
        let args = [flags, &[image.as_str(), "true"]].concat();
        let stderr = with(&place, "mount", &args).failure(125);
        assert_says(&stderr, &[problem, "set SHIFTER_SQUASHFS_RUN=auto"]);
        assert!(trees(&place).is_empty());
    }
    assert_eq!(without("auto").success(), "cannot");
    assert_eq!(trees(&place).len(), 1);
    place.shifter(&["prune", "--node"]).success();
    let script = "chown 5:5 /etc/own && rm /etc/os-release && cat /etc/own";
    let said = with(&place, "auto", &["--remap-root", &image, "sh", "-c", script]).success();
    assert_eq!((said.as_str(), trees(&place).len()), ("cannot", 1));
}

/// A user namespace knows one user: of another one's files an overlay can copy nothing up.
#[test]
fn anothers_is_expanded() {
    need!(root, registry, busybox, squashfs, fuse, userns);
    let (place, image, digest) = SITE.written("anothers");
    let path = file(&place, &digest);
    chown(&path, None, Some(Gid::from_raw(0))).expect("root may");
    let stderr = with(&place, "mount", &[&image, "true"]).failure(125);
    let says = "it belongs to another user or group; write one of your own";
    assert_says(&stderr, &[&path.display().to_string(), says]);
    let said = with(&place, "auto", &[&image, "sh", "-c", "rm /etc/os-release; cat /etc/own"]);
    assert_eq!((said.success().as_str(), trees(&place).len()), ("anothers", 1));
    let owner = (Some(Uid::from_raw(place.user.uid)), Some(Gid::from_raw(place.user.gid)));
    chown(&path, owner.0, owner.1).expect("root may");
}

#[test]
fn a_damaged_file_is_named() {
    need!(root, registry, busybox, squashfs, fuse, userns);
    let (place, image, digest) = SITE.written("damaged");
    let path = file(&place, &digest);
    let whole = fs::read(&path).expect("read");
    let remedy = "set SHIFTER_SQUASHFS_RUN=expand";
    // Its tables are at its end.
    let cuts = [0, 50, 96, whole.len() / 2, whole.len() - 4096];
    for length in cuts {
        fs::write(&path, &whole[..length]).expect("write");
        let stderr = with(&place, "mount", &[&image, "true"]).failure(125);
        assert_says(&stderr, &[&path.display().to_string(), remedy]);
        SITE.assert_no_server(&digest);
    }
    fs::write(&path, &whole).expect("write");
    let file = File::options().write(true).open(&path).expect("open");
    file.write_all_at(&noise(1 << 20), 4096).expect("write");
    let outcome = with(&place, "mount", &[&image, "sh", "-c", "md5sum /etc/large"]);
    assert_ne!(outcome.code, 0, "{outcome}");
    SITE.assert_no_server(&digest);
}
