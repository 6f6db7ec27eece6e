//! A container that becomes a file when its command has ended.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use fixtures::{Outcome, eventually, image::Layer, need, run};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::SITE;

/// Where a test saves to: a directory with nothing else in it.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let dir = SITE.sandbox.shared().join(name);
        Place(SITE.sandbox.make_dir(dir, 0o777))
    }

    fn file(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("it was made").flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn save(file: &str, options: &[&str], script: &str) -> Outcome {
    SITE.with(&[&["--save", file], options].concat(), &["sh", "-c", script])
}

/// A run that is to be saved, and has said `in`.
fn begun(options: &[&str], script: &str) -> Child {
    let image = SITE.registry.name("busybox:1");
    let words = [options, &[&*image, "sh", "-c", script]].concat();
    let mut command = SITE.command(&words);
    let mut child = command.stdout(Stdio::piped()).spawn().expect("start shifter");
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().expect("piped")).read_line(&mut line).expect("read");
    assert_eq!(line, "in\n");
    child
}

fn pid(child: &Child) -> Pid {
    Pid::from_raw(child.id().cast_signed())
}

/// What a squashfs has: a line for each file, of its mode, its size and its name.
fn list(file: &str) -> Vec<String> {
    let mut unsquashfs = Command::new("unsquashfs");
    unsquashfs.args(["-lls", file]);
    let lines = run(unsquashfs).success();
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().collect();
        let is_dir = words.first()?.starts_with('d');
        let size = if is_dir { "" } else { words.get(2)? };
        Some([words[0], size, words.get(5..)?.join(" ").as_str()].join(" "))
    };
    lines.lines().filter_map(line).collect()
}

#[track_caller]
fn assert_same(one: &str, other: &str) {
    let (one, other) = (list(one), list(other));
    let lacks = |a: &[String], b: &[String]| -> Vec<String> {
        b.iter().filter(|line| !a.contains(line)).cloned().collect()
    };
    assert_eq!((lacks(&other, &one), lacks(&one, &other)), (vec![], vec![]));
}

#[test]
fn a_file_is_the_image_with_what_was_changed() {
    need!(root, registry, busybox, userns, squashfs);
    let place = Place::new("changed");
    let (file, again) = (place.file("a b.sqsh"), place.file("again.sqsh"));
    let image = SITE.push("said:1", |image| {
        let layer = Layer::new().file("etc/passwd", 0o640, "root:x:0:0::/root:/bin/sh\n");
        let layer = layer.symlink("etc/localtime", "nowhere").dir("empty", 0o700);
        let image = image.layer(layer).env("SAID=by the image").working_dir("/empty");
        image.entrypoint(&["/bin/sh", "-c"]).cmd(&["echo $SAID; pwd"])
    });
    let script = "echo new >/new; rm /etc/os-release; chmod 711 /empty; ln -s x /link; \
                  echo ada:x:9:9::/:/bin/sh >>/etc/passwd; exit 3";
    let command = ["--save", &file, &image, script];
    let stderr = run(SITE.command(&command)).failure(3);
    let last = stderr.lines().last().expect("a line");
    assert!(last.starts_with("shifter: saved ") && last.contains("a b.sqsh, "), "{stderr}");

    let script = "cat /new /etc/passwd; stat -c %a /empty; readlink /link; \
                  ls /etc/os-release; echo $SAID; pwd";
    // Who stands in / has not chosen a directory.
    let from_root = |words: &[&str]| {
        let mut command = SITE.command(words);
        command.current_dir("/");
        run(command)
    };
    let said = from_root(&[&file, script]);
    assert!(said.stdout.starts_with("new\n"), "{said}");
    let user = format!("{}:", SITE.user.name);
    let lines: Vec<_> = said.stdout.lines().skip(1).filter(|l| !l.starts_with(&user)).collect();
    let expected =
        ["root:x:0:0::/root:/bin/sh", "ada:x:9:9::/:/bin/sh", "711", "x", "by the image", "/empty"];
    assert_eq!(lines, expected, "{said}");
    // Its own command, if none is given; what is saved of it is the same again.
    assert_eq!(from_root(&[&file]).success(), "by the image\n/empty\n");
    run(SITE.command(&["--save", &again, &file, "true"])).success();
    assert_same(&again, &file);
    let has = |what: &str| list(&file).iter().any(|line| line.contains(what));
    assert!(has("etc/localtime -> nowhere") && !has(&SITE.user.name), "{:?}", list(&file));
    assert_eq!(place.names(), ["a b.sqsh", "again.sqsh"]);
    // As an image in the store, too.
    let mut import = SITE.user.command(&SITE.sandbox, "shifter");
    import.args(["import", &file, "saved:1"]);
    run(import).success();
    assert_eq!(from_root(&["saved:1"]).success(), "by the image\n/empty\n");
}

#[test]
fn what_nobody_has_changed_is_the_image() {
    need!(root, registry, busybox, userns, squashfs);
    let place = Place::new("unchanged");
    let image = SITE.push("plain:1", |image| {
        let layer = Layer::new().dir("", 0o755).dir("mnt", 0o755);
        image.layer(layer.file("etc/group", 0o604, "root:x:0:\n"))
    });
    let mut pull = SITE.user.command(&SITE.sandbox, "shifter");
    pull.args(["pull", "--squashfs", &image]);
    run(pull).success();
    let mut stored = Command::new("find");
    stored.arg(SITE.sandbox.store(&SITE.user)).args(["-name", "*.sqfs"]);
    let stored = run(stored).success();
    let file = place.file("x.sqsh");
    let home = format!("{}:/made/deep/in:ro", SITE.sandbox.shared().display());
    // The container has host files, a user, mount points, and a command's shell that reads them.
    let options = ["--save", &file, "-v", &home, "-v", "/etc/hostname:/mnt/file", "--tmpfs", "/t"];
    let words = [&options[..], &[&image, "sh", "-c", "id -un; cat /etc/hosts; ls /made/deep/in"]];
    run(SITE.command(&words.concat())).success();
    assert_same(&file, stored.trim());
}

#[test]
fn a_container_with_a_name_is_saved_as_it_is() {
    need!(root, registry, busybox, userns, squashfs);
    let place = Place::new("named");
    let (file, other) = (place.file("x.sqsh"), place.file("y.sqsh"));
    SITE.with(&["--name", "saved"], &["sh", "-c", "echo one >/one"]).success();
    save(&file, &["--name", "saved"], "echo two >/two").success();
    let both = ["sh", "-c", "cat /one /two"];
    assert_eq!(run(SITE.command(&[&[&*file], &both[..]].concat())).success(), "one\ntwo\n");
    assert_eq!(SITE.with(&["--name", "saved"], &both).success(), "one\ntwo\n");
    // While somebody is in it, who keeps what he needs.
    let mut first = begun(&["--name", "saved"], "echo in; read x");
    save(&other, &["--name", "saved"], "true").success();
    assert_eq!(SITE.with(&["--name", "saved"], &["id", "-un"]).success().trim(), SITE.user.name);
    kill(pid(&first), Signal::SIGKILL).expect("kill");
    first.wait().expect("it ends");
    assert_eq!(run(SITE.command(&[&[&*other], &both[..]].concat())).success(), "one\ntwo\n");
}

#[test]
fn root_inside_has_made_it() {
    need!(root, registry, busybox, userns, squashfs);
    let file = Place::new("as-root").file("x.sqsh");
    let script = "chown 7:7 /etc/os-release; echo eve:x:7:7::/:/bin/sh >>/etc/passwd; \
                  touch /r; chmod 600 /r";
    save(&file, &["--remap-root"], script).success();
    let said = run(SITE.command(&[&file, "sh", "-c", "grep -c ^eve: /etc/passwd; ls -l /r"]));
    let said = said.success();
    assert!(said.starts_with("1\n-rw-------"), "{said}");
}

#[test]
fn who_is_stopped_saves_nothing() {
    need!(root, registry, busybox, userns, squashfs);
    let place = Place::new("stopped");
    let file = place.file("x.sqsh");
    // To the program, by way of who waits for it.
    for (script, signal, ends) in [
        ("echo in; exec sleep 60", Signal::SIGTERM, Err(Signal::SIGTERM)),
        ("trap 'exit 5' TERM; echo in; sleep 60 & wait", Signal::SIGTERM, Ok(5)),
        ("echo in; exec sleep 60", Signal::SIGINT, Err(Signal::SIGINT)),
    ] {
        let mut child = begun(&["--save", &file], script);
        kill(pid(&child), signal).expect("kill");
        let status = child.wait().expect("it ends");
        match ends {
            Ok(code) => assert_eq!(status.code(), Some(code)),
            Err(signal) => assert_eq!(status.signal(), Some(signal as i32)),
        }
        assert!(place.names().is_empty(), "{:?}", place.names());
    }
    let said = save(&file, &[], "kill -9 $$").stderr;
    assert!(said.contains("save ") && said.contains("was ended by SIGKILL"), "{said}");
    let said = SITE.with(&["--save", &file], &["nowhere"]).failure(127);
    assert!(!said.contains("save"), "{said}");
    assert!(place.names().is_empty(), "{:?}", place.names());
    // Signals that a program lives with.
    let mut child = begun(&["--save", &file], "trap 'exit 4' INT; echo in; sleep 60 & wait");
    kill(pid(&child), Signal::SIGINT).expect("kill");
    assert_eq!(child.wait().expect("it ends").code(), Some(4));
    assert_eq!(place.names(), ["x.sqsh"]);
}

#[test]
fn a_job_of_a_shell_stops_and_goes_on() {
    need!(root, registry, busybox, userns, squashfs);
    let file = Place::new("job").file("x.sqsh");
    let mut child = begun(&["--save", &file], "echo in; kill -STOP $$; exit 6");
    let state = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", child.id())).expect("it is there");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T')).then_some(())
    };
    eventually(Duration::from_secs(20), "it to stop", state);
    kill(pid(&child), Signal::SIGCONT).expect("kill");
    assert_eq!(child.wait().expect("it ends").code(), Some(6));
    assert!(fs::exists(&file).expect("stat"));
}

#[test]
fn who_is_stopped_in_the_middle_leaves_nothing() {
    need!(root, registry, busybox, userns, squashfs);
    let place = Place::new("middle");
    let file = place.file("x.sqsh");
    fs::write(&file, "as it was").expect("write");
    let big = "echo in; head -c 150000000 /dev/urandom >/big";
    for (signal, left) in
        [(Signal::SIGTERM, &["x.sqsh"][..]), (Signal::SIGKILL, &["x.sqsh", "x.sqsh.partial"])]
    {
        let mut child = begun(&["--save", &file], big);
        let partial = format!("{file}.partial");
        let writes = || fs::metadata(&partial).ok().filter(|file| file.len() > 1 << 20).map(drop);
        eventually(Duration::from_secs(60), "it to be written", writes);
        kill(pid(&child), signal).expect("kill");
        let status = child.wait().expect("it ends");
        let expected = if signal == Signal::SIGKILL { None } else { Some(125) };
        assert_eq!(status.code(), expected);
        assert_eq!(place.names(), left);
        assert_eq!(fs::read_to_string(&file).expect("read"), "as it was");
        let writers = || {
            let processes = SITE.sandbox.processes();
            (!processes.iter().any(|line| line.contains("mksquashfs"))).then_some(())
        };
        eventually(Duration::from_secs(10), "the writer's end", writers);
    }
    save(&file, &[], "true").success();
    assert_eq!(place.names(), ["x.sqsh"]);
    // One at a time.
    let mut other = SITE.user.command(&SITE.sandbox, "flock");
    other.args([&format!("{file}.partial"), "sh", "-c", "echo in; read x"]);
    let mut other =
        other.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("flock starts");
    let mut line = String::new();
    BufReader::new(other.stdout.as_mut().expect("piped")).read_line(&mut line).expect("read");
    let said = save(&file, &[], "true").failure(125);
    assert!(said.contains("another process is writing it"), "{said}");
    drop(other.stdin.take());
    other.wait().expect("it ends");
}

#[test]
fn what_cannot_be_saved_is_told_before_it_runs() {
    need!(root, registry, busybox, userns, squashfs);
    let place = Place::new("mistakes");
    let file = place.file("x.sqsh");
    let directory = place.0.display().to_string();
    let ran = place.file("ran");
    for (file, options, code, says) in [
        (&*place.file("none/x.sqsh"), &[][..], 125, "make that directory first"),
        (&*directory, &[], 125, "it is a directory"),
        (&*format!("{directory}/"), &[], 2, "it is a directory"),
        ("", &[], 2, "no name"),
        ("/etc/x.sqsh", &[], 125, "Permission denied"),
        (&*file, &["--readonly"], 125, "with --readonly, nothing is written"),
    ] {
        let said = save(file, options, &format!("touch {ran}")).failure(code);
        assert!(said.contains(says), "{file:?}: {said}");
    }
    let mut without = SITE.command(&["--save", &file, &SITE.registry.name("busybox:1"), "true"]);
    without.env("PATH", SITE.sandbox.prefix().join("bin"));
    let said = run(without).failure(125);
    assert!(said.contains("mksquashfs: not found; ask the administrator"), "{said}");
    assert!(place.names().is_empty(), "{:?}", place.names());
}

#[test]
fn a_full_disk_is_named_and_is_not_the_commands_fault() {
    need!(root, registry, busybox, userns, squashfs);
    let place = Place::new("full");
    let mount = |args: &[&str]| {
        let mut mount = Command::new(args[0]);
        mount.args(&args[1..]).arg(&place.0);
        run(mount).success();
    };
    mount(&["mount", "-t", "tmpfs", "-o", "size=400k,mode=1777", "small"]);
    let said = save(&place.file("x.sqsh"), &[], "true").failure(125);
    let names = place.names();
    mount(&["umount"]);
    assert!(said.contains("free space there, or name another file"), "{said}");
    assert!(names.is_empty(), "{names:?}");
}
