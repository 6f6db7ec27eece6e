//! Flags as those know them who come from docker.

use std::fs;

use fixtures::{image::Layer, need, run};

use crate::SITE;

#[test]
fn variables_come_from_flags_files_and_the_caller() {
    need!(root, registry, busybox, userns);
    let file = SITE.sandbox.write("vars.env", "# said once\nFILE=f # all of it\nA=file\n\nMINE\n");
    let name = SITE.push("vars:1", |image| image.env("A=image").env("MINE=image").env("GONE=1"));
    let file = file.display().to_string();
    let options = ["--env-file", &file, "-e", "A=flag", "-e", "GONE-", "--env", "LD_LIBRARY_PATH"];
    let mut command = SITE.command(&[&options[..], &["-e", "HOME=/h", &name, "env"]].concat());
    command.env("MINE", "caller").env("LD_LIBRARY_PATH", "/mine").env("A", "caller");
    let env = run(command).success();
    for line in ["A=flag", "FILE=f # all of it", "MINE=caller", "LD_LIBRARY_PATH=/mine", "HOME=/h"]
    {
        assert!(env.lines().any(|l| l == line), "no {line} in {env}");
    }
    assert!(!env.contains("GONE"), "{env}");
    // What the caller does not have is the image's.
    let said = run(SITE.command(&["-e", "MINE", &name, "sh", "-c", "echo $MINE"]));
    assert_eq!(said.success(), "image\n");

    // A pipe says it once, to whichever program asks first.
    let fresh = SITE.push("piped:1", |image| image.env("A=image"));
    for name in [&name, &fresh, &SITE.registry.name("busybox:1")] {
        let mut command = SITE.user.command(&SITE.sandbox, "bash");
        command.args(["-c", "shifter run --env-file <(echo A=piped) $0 sh -c 'echo $A'", name]);
        assert_eq!(run(command).success(), "piped\n", "{name}");
    }

    let broken = SITE.sandbox.write("broken.env", "A=1\nB C=2\n").display().to_string();
    let stderr = SITE.with(&["--env-file", &broken], &["true"]).failure(2);
    assert!(stderr.contains("broken.env:2") && stderr.contains("blanks"), "{stderr}");
    let stderr = SITE.with(&["--env-file", "/no/such.env"], &["true"]).failure(2);
    assert!(stderr.contains("/no/such.env: no such file"), "{stderr}");
}

#[test]
fn the_entrypoint_can_be_another_or_none() {
    need!(root, registry, busybox, userns);
    let name = SITE.push("entry:1", |image| image.entrypoint(&["/bin/echo", "own"]).cmd(&["cmd"]));
    for (options, words, said) in [
        (&[][..], &[][..], "own cmd\n"),
        (&["--entrypoint", "echo"], &["a"], "a\n"),
        (&["--entrypoint", r#"["echo","-n"]"#], &["a"], "a"),
        (&["--entrypoint", "pwd", "-w", "/etc"], &[], "/etc\n"),
        (&["--entrypoint", ""], &["echo", "b"], "b\n"),
    ] {
        let outcome = run(SITE.command(&[options, &[name.as_str()], words].concat()));
        assert_eq!(outcome.success(), said, "{options:?}");
    }
    // As in docker, the image's arguments go with its entrypoint.
    let stderr = run(SITE.command(&["--entrypoint=", &name])).failure(125);
    assert!(stderr.contains("names no command"), "{stderr}");
}

#[test]
fn a_working_directory_is_there_or_it_is_an_error() {
    need!(root, registry, busybox, userns);
    assert_eq!(SITE.with(&["-w", "/bin"], &["pwd"]).success(), "/bin\n");
    let stderr = SITE.with(&["--workdir", "/no/such"], &["pwd"]).failure(125);
    assert!(stderr.contains("/no/such") && stderr.contains("mount one there"), "{stderr}");
    let stderr = SITE.with(&["-w", "bin"], &["pwd"]).failure(2);
    assert!(stderr.contains("absolute"), "{stderr}");
    // SECURITY R21: /proc leads out of a container, and is not taken.
    let stderr = SITE.with(&["-w", "/proc/self/fd/3"], &["pwd"]).failure(125);
    assert!(stderr.contains("/proc/self/fd/3"), "{stderr}");
}

#[test]
fn a_read_only_root_takes_mounts_and_no_writes() {
    need!(root, registry, busybox, userns);
    let script = "touch /new || touch /etc/os-release || echo $?; touch /mem/ok && echo memory; \
                  touch ~/shifter-readonly && rm ~/shifter-readonly && echo home";
    let said = SITE.with(&["--read-only", "--tmpfs", "/mem"], &["sh", "-c", script]);
    assert_eq!(said.clone().success(), "1\nmemory\nhome\n", "{said}");
}

/// SECURITY R20, R23.
#[test]
fn who_is_root_inside_has_no_more_rights_than_before() {
    need!(root, registry, busybox, userns);
    let root = |script: &str| SITE.with(&["--remap-root"], &["sh", "-c", script]);
    let said = root("id -u; id -g; id -un; stat -c %u /; grep -c : /etc/passwd");
    assert!(said.clone().success().starts_with("0\n0\nroot\n0\n"), "{said}");
    // Ownership is given away as often as one likes, and stays.
    let script = "touch /f && chown 33:44 /f && chgrp 7 /f && stat -c %u:%g /f; \
                  cd /tmp && mkdir shifter-root && chown 1:1 shifter-root && rmdir shifter-root";
    assert_eq!(root(script).success(), "0:0\n");
    let said =
        root("touch ~/shifter-root && chmod 4755 ~/shifter-root && chown 0:0 ~/shifter-root");
    said.success();
    let made = fs::symlink_metadata(SITE.user.home.join("shifter-root")).expect("it was made");
    fs::remove_file(SITE.user.home.join("shifter-root")).expect("it was made");
    let owner = std::os::unix::fs::MetadataExt::uid(&made);
    assert_eq!(owner, SITE.user.uid, "A FILE OF ROOT'S WAS MADE ON THE HOST");
    for path in ["/etc/shadow", "/proc/1/environ"] {
        let said = SITE
            .with(&["--remap-root", "-v", "/etc:/host"], &["cat", &path.replace("/etc", "/host")]);
        assert_ne!(said.code, 0, "{path} COULD BE READ: {said}");
    }
    assert_ne!(root("mknod /null c 1 3").code, 0, "a device was made");
    let said = root("grep NoNewPrivs /proc/self/status; grep Seccomp: /proc/self/status");
    assert_eq!(said.success(), "NoNewPrivs:\t1\nSeccomp:\t2\n");
    let said = SITE.sh("grep Seccomp: /proc/self/status; touch /f; chown 33 /f");
    assert_eq!(said.stdout, "Seccomp:\t0\n", "a filter where nobody asked for one");
    assert_ne!(said.code, 0, "a lie where nobody asked for one");
}

#[test]
fn home_can_be_left_out_or_replaced() {
    need!(root, registry, busybox, userns);
    let home = SITE.user.home.display().to_string();
    let said = SITE.with(&["--no-home"], &["sh", "-c", "echo $HOME; ls -d \"$0\"", &home]);
    assert_eq!((said.code, said.stdout.as_str()), (1, "/\n"), "{said}");
    let other = SITE.sandbox.make_dir("other-home", 0o777);
    let spec = format!("{}:{home}", other.display());
    let said = SITE.with(&["-v", &spec], &["sh", "-c", "echo $HOME; touch ~/here"]);
    assert_eq!(said.success(), format!("{home}\n"));
    assert!(other.join("here").exists());
}

#[test]
fn habits_of_dockers_are_met_or_explained() {
    need!(root, registry, busybox, userns);
    assert_eq!(SITE.with(&["--rm", "-i"], &["echo", "-d"]).success(), "-d\n");
    for (options, says) in [
        (&["-d"][..], "sbatch"),
        (&["-p8080:80"], "network is the host's"),
        (&["--privileged"], "--remap-root"),
        (&["-u", "1000"], "--remap-root"),
        (&["--network=host"], "leave it out"),
        (&["--rm", "--name", "x"], "leave out --rm, or --name"),
    ] {
        let outcome = SITE.with(options, &["true"]);
        let stderr = outcome.clone().failure(2);
        assert!(stderr.contains(says) && stderr.lines().count() == 1, "{says:?}: {outcome}");
    }
}

#[test]
fn a_dry_run_shows_all_that_was_asked_for() {
    need!(root, registry, busybox, userns);
    SITE.busybox(&["true"]).success();
    let options = [
        "--dry-run",
        "-t",
        "--name",
        "planned",
        "--readonly",
        "--remap-root",
        "--no-home",
        "-e",
        "A=b",
        "-w",
        "/w",
        "--tmpfs",
        "/t:size=1k",
        "-v",
        "/etc:/e:ro",
        "--device",
        "/dev/null:/n",
    ];
    let told = SITE.with(&options, &["x"]).success();
    for line in [
        "terminal its own",
        "name     planned, what is written in it is in ",
        "memory   /t, 1024 bytes at most",
        "mount    /e from /etc, read-only",
        "mount    /n from /dev/null",
        "env      A=b",
        "workdir  /w",
        "command  x",
    ] {
        assert!(told.lines().any(|l| l.starts_with(line)), "no {line:?} in: {told}");
    }
    assert!(told.contains("ids      root, uid") && told.contains("rootfs, read-only\n"), "{told}");
    assert!(!told.contains(&SITE.user.home.display().to_string()), "{told}");
    let place = SITE.sandbox.node_dir(&SITE.user).join("containers/planned");
    assert!(!place.exists(), "a dry run has made something");
}

#[test]
fn a_site_without_a_shell_runs_with_every_option() {
    need!(root, registry, busybox, userns);
    let program = fs::read("/bin/busybox").expect("busybox");
    let image = fixtures::image::Image::new().layer(Layer::new().file("ls", 0o755, program));
    SITE.registry.push("bare:1", &image.build());
    let options = ["--readonly", "--remap-root", "--tmpfs", "/run/x", "-v", "/etc:/a/b", "-t"];
    let name = SITE.registry.name("bare:1");
    run(SITE.command(&[&options[..], &[&name, "/ls", "/a/b/passwd"]].concat())).success();
}
