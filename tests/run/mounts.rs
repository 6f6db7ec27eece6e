//! What is mounted where somebody asks for it.

use std::fs;

use fixtures::{image::Layer, need, run};

use crate::SITE;

/// A directory of the user's, with a file in it.
fn source(name: &str) -> std::path::PathBuf {
    let dir = SITE.sandbox.make_dir(format!("mounts-{name}"), 0o777);
    SITE.sandbox.write(dir.join("file"), "of the host\n");
    dir
}

#[test]
fn files_and_directories_are_mounted_where_they_are_asked_for() {
    need!(root, registry, busybox, userns);
    let dir = source("plain");
    let (dir, file) = (dir.display().to_string(), dir.join("file").display().to_string());
    let volume = |spec: &str, script: &str| {
        SITE.with(&["-v", spec, "--tmpfs", "/empty"], &["sh", "-c", script])
    };
    let said = volume(&format!("{dir}:/new/place"), "cat /new/place/file; echo x > /new/place/new");
    assert_eq!(said.success(), "of the host\n");
    assert_eq!(fs::read_to_string(source("plain").join("new")).ok().as_deref(), Some("x\n"));
    volume(&dir, &format!("cat {file}")).success();
    let said = volume(&format!("{file}:/etc/os-release:ro"), "cat /etc/os-release");
    assert_eq!(said.success(), "of the host\n");
    assert_ne!(volume(&format!("{file}:/f:ro"), "echo x > /f").code, 0);
    assert_ne!(volume(&format!("type=bind,src={dir},dst=/d,ro"), "echo x > /d/file").code, 0);
    assert_eq!(fs::read_to_string(&file).ok().as_deref(), Some("of the host\n"));
    // One over the other, in whichever order: no directory hides what is asked for in it.
    let other = source("other");
    fs::create_dir_all(other.join("in")).expect("a mount point");
    let specs = [format!("{dir}:/a/in:ro"), format!("{}:/a", other.display())];
    for (first, last) in [(0, 1), (1, 0)] {
        let options = ["--mount", &specs[first], "-v", &specs[last]];
        let said = SITE.with(&options, &["sh", "-c", "touch /a/ok && touch /a/in/file"]);
        assert!(said.code != 0 && said.stderr.contains("in/file"), "{said}");
    }
}

#[test]
fn a_source_may_be_relative_or_begin_at_home() {
    need!(root, registry, busybox, userns);
    let dir = source("relative");
    let image = SITE.registry.name("busybox:1");
    for spec in [".:/there", "../mounts-relative:/there", "file:/there/file"] {
        let mut command = SITE.command(&["-v", spec, &image, "cat", "/there/file"]);
        command.current_dir(&dir);
        assert_eq!(run(command).success(), "of the host\n", "{spec}");
    }
    let name = "shifter-run-mounts";
    fs::write(SITE.user.home.join(name), "at home\n").expect("write to home");
    let said = SITE.with(&["-v", &format!("~/{name}:/there")], &["cat", "/there"]);
    fs::remove_file(SITE.user.home.join(name)).expect("it was written");
    assert_eq!(said.success(), "at home\n");
}

#[test]
fn what_cannot_be_mounted_is_named_before_anything_is_done() {
    need!(root, registry, busybox, userns);
    let dir = source("refused").display().to_string();
    for (options, code, parts) in [
        (["-v", "/no/such/thing:/x"], 125, ["/no/such/thing", "no such file"]),
        (["-v", "data:/x"], 125, ["/data", "make it first"]),
        (["-v", &format!("{dir}:x")], 2, ["target", "absolute"]),
        (["-v", &format!("{dir}:/a/../b")], 2, ["a/../b", ".."]),
        (["-v", &format!("{dir}:/")], 2, ["mount", "over the root"]),
        (["-v", &format!("{dir}:/x:rx")], 2, [":rx", "ro or rw"]),
        (["--mount", "type=volume,src=x,dst=/x"], 2, ["volume", "bind a directory"]),
        (["--tmpfs", "/x:size=much"], 2, ["size=much", "number of bytes"]),
        (["--device", "/dev/no-such-device"], 125, ["/dev/no-such-device", "no such file"]),
        (["--device", "/etc/passwd"], 125, ["/etc/passwd", "not a device"]),
        (["--device", "a.com/b=0"], 125, ["find device a.com/b=0", "gpu.cdi_dirs"]),
    ] {
        // Nobody has such an image: this is found out first.
        let outcome = run(SITE.command(&[&options[..], &["localhost:1/none", "true"]].concat()));
        let stderr = outcome.clone().failure(code);
        assert!(stderr.starts_with("shifter: ") && stderr.lines().count() == 1, "{outcome}");
        assert!(parts.iter().all(|part| stderr.contains(part)), "{parts:?}: {outcome}");
    }
    // A place that would have to be made on the host is not made.
    let outcome = SITE.with(&["-v", &dir, "-v", &format!("/etc:{dir}/new")], &["true"]);
    assert!(outcome.clone().failure(125).contains("directory of the host"), "{outcome}");
    assert!(!source("refused").join("new").exists(), "A DIRECTORY WAS MADE ON THE HOST");
}

/// SECURITY R19.
#[test]
fn a_target_goes_through_links_of_the_image_and_never_out_of_it() {
    need!(root, registry, busybox, userns);
    let (dir, outside) = (source("links"), source("outside"));
    let name = SITE.push("links:1", |image| {
        image.layer(
            Layer::new()
                .dir("run", 0o755)
                .dir("var", 0o755)
                .symlink("var/run", "/run")
                .symlink("data", "/run")
                .symlink("escape", &format!("../../../..{}", outside.display()))
                .file("plain", 0o644, "a file\n"),
        )
    });
    for (target, readonly) in [("/var/run/deep/x", true), ("/data", false), ("/plain", false)] {
        let spec = format!("{}:{target}", dir.display());
        let options: &[&str] = if readonly { &["--readonly"] } else { &[] };
        let script = format!("cat {target}/file; ls -d /run/deep/x");
        let words = [&["-v", &spec], options, &[&name, "sh", "-c", &script]].concat();
        let said = run(SITE.command(&words));
        assert!(said.stdout.starts_with("of the host\n"), "{said}");
        assert_eq!(said.stdout.contains("/run/deep/x"), readonly, "{said}");
    }
    // It leads to the host's /tmp, which is there inside as well.
    let spec = format!("{}:/escape/new", dir.display());
    let stderr = run(SITE.command(&["-v", &spec, &name, "true"])).failure(125);
    assert!(stderr.contains("would lie in a directory of the host"), "{stderr}");
    assert!(!outside.join("new").exists(), "A DIRECTORY OF THE HOST WAS MADE");
    // The same over the link itself: what it points to stays as it is.
    let spec = format!("{}:/escape", dir.display());
    run(SITE.command(&["-v", &spec, &name, "touch", "/escape/mine"])).success();
    assert!(dir.join("mine").exists() && !outside.join("mine").exists(), "A LINK WAS FOLLOWED");
}

/// SECURITY R22.
#[test]
fn memory_is_as_large_as_it_is_asked_for_and_gives_no_rights() {
    need!(root, registry, busybox, userns);
    let dir = source("memory").display().to_string();
    let script = "grep ' /t ' /proc/mounts; stat -c %a /t; cat /t/in/side/file; \
                  dd if=/dev/zero of=/t/big bs=1M count=3";
    let inner = format!("{dir}:/t/in/side");
    let options = ["--tmpfs", "/t:size=2m,mode=0750,noexec", "-v", &inner];
    let said = SITE.with(&options, &["sh", "-c", script]);
    for part in ["nosuid", "nodev", "noexec", "size=2048k", "\n750\n", "of the host"] {
        assert!(said.stdout.contains(part), "no {part:?}: {said}");
    }
    assert!(said.clone().failure(1).contains("No space left"), "{said}");
    SITE.with(&["--tmpfs", "/t"], &["sh", "-c", "cp /bin/busybox /t/true && /t/true"]).success();
}

#[test]
fn devices_are_there_or_it_is_an_error() {
    need!(root, registry, busybox, userns);
    let said = SITE.with(
        &["--device", "/dev/zero", "--device", "/dev/null:/other:rwm"],
        &["sh", "-c", "test -c /dev/zero && test -c /other && echo x > /other"],
    );
    said.success();
}
