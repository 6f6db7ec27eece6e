//! Whatever the caller's surroundings are like.

use std::{fs, os::unix::fs::symlink, process::Command};

use fixtures::{Outcome, need, place::assert_says, run};

use crate::SITE;

fn shell(script: &str) -> Outcome {
    let image = SITE.registry.name("busybox:1");
    let mut command = SITE.user.command(&SITE.sandbox, "bash");
    command.args(["-c", &script.replace("RUN", &format!("shifter run {image}"))]);
    run(command)
}

#[test]
fn streams_may_be_closed_or_pipes() {
    need!(root, registry, busybox, userns);
    SITE.busybox(&["true"]).success();
    assert_eq!(shell("RUN echo a >&- ; echo $?").stdout, "0\n");
    assert_eq!(shell("RUN true <&- >&- 2>&- ; echo $?").stdout, "0\n");
    assert_eq!(shell("RUN yes | head -n 2; echo ${PIPESTATUS[0]}").stdout, "y\ny\n141\n");
    assert_eq!(shell("trap '' CHLD; RUN sh -c 'exit 3'; echo $?").stdout, "3\n");
    let terminal = "trap '' CHLD; exec env --ignore-signal=CHLD shifter run -t";
    let image = SITE.registry.name("busybox:1");
    assert_eq!(shell(&format!("{terminal} {image} sh -c 'exit 3'")).code, 3);
    assert_eq!(shell("echo through | RUN cat | RUN tr a-z A-Z").success(), "THROUGH\n");
}

#[test]
fn a_working_directory_may_be_gone() {
    need!(root, registry, busybox, userns);
    let dir = SITE.sandbox.make_dir("gone", 0o777);
    let script = format!("mkdir -p {0}/in && cd {0}/in && rmdir {0}/in && RUN pwd", dir.display());
    assert_eq!(shell(&script).success(), "/\n");
    let script = format!("mkdir -p {0}/in && cd {0}/in && rmdir {0}/in && RUN", dir.display());
    let stderr = shell(&script.replace("RUN", "shifter run -v .:/x localhost:1/x")).failure(2);
    assert!(stderr.contains("the working directory is gone"), "{stderr}");
}

#[test]
fn an_environment_may_be_large() {
    need!(root, registry, busybox, userns);
    let script = "for i in $(seq 1500); do export V$i=$(printf %01000d $i); done; \
                  RUN sh -c 'echo ${#V1500}'";
    assert_eq!(shell(script).success(), "1000\n");
}

#[test]
fn only_starts_need_no_other_program() {
    need!(root, registry, busybox, userns);
    let image = SITE.registry.name("busybox:1");
    let dir = SITE.sandbox.make_dir("alone", 0o755);
    let program = SITE.sandbox.prefix().join("bin/shifter");
    fs::copy(&program, dir.join("shifter")).expect("copy");
    symlink(&program, dir.join("link")).expect("link");
    let run_by = |name: &str, args: &[&str]| {
        let mut command: Command = SITE.user.command(&SITE.sandbox, dir.join(name));
        command.args(args);
        run(command)
    };
    assert_eq!(run_by("shifter", &["run", &image, "echo", "here"]).success(), "here\n");
    for args in [&["images"][..], &["run", "localhost:1/x"], &["run", "--bogus"], &["--version"]] {
        let stderr = run_by("shifter", args).failure(125);
        let missing = format!("start {}", dir.join("shifter-pull").display());
        assert_says(&stderr, &[&missing, "no such file or directory", "it belongs beside shifter"]);
    }
    // Beside the program, and not beside its name.
    assert!(run_by("link", &["images"]).success().contains("busybox"));
    assert!(run_by("link", &["--version"]).success().starts_with("shifter "));
}

/// One call that reaches the registries' client brings all of it.
#[test]
fn a_start_carries_nothing_that_pulls() {
    let size = |name: &str| {
        let path = SITE.sandbox.prefix().join("bin").join(name);
        fs::metadata(&path).expect("it is built").len()
    };
    let (starts, pulls) = (size("shifter"), size("shifter-pull"));
    assert!(starts < pulls / 2, "{starts} bytes, and {pulls}");
}
