//! Containers with a name.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Child, Stdio},
};

use fixtures::{Outcome, need, run};

use crate::SITE;

fn named(name: &str, options: &[&str], script: &str) -> Outcome {
    SITE.with(&[&["--name", name], options].concat(), &["sh", "-c", script])
}

/// A container with a process in it that waits for the end of its input.
fn running(name: &str, options: &[&str]) -> Child {
    let image = SITE.registry.name("busybox:1");
    let words = [&["--name", name], options, &[&image, "sh", "-c", "echo in; cat"]].concat();
    let mut command = SITE.command(&words);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("start shifter");
    let mut line = String::new();
    let stdout = child.stdout.as_mut().expect("piped");
    BufReader::new(stdout).read_line(&mut line).expect("read");
    assert_eq!(line, "in\n");
    child
}

fn end(mut child: Child) {
    child.stdin.take().expect("piped").flush().expect("closed by being dropped");
    assert!(child.wait().expect("wait").success());
}

#[test]
fn what_is_written_is_there_the_next_time() {
    need!(root, registry, busybox, userns);
    let script = "echo kept > /new; rm /etc/os-release; mkdir -p /dir/in; chmod 0 /dir; \
                  echo x:y:77:77::/:/bin/sh >> /etc/passwd";
    named("again", &[], script).success();
    let said = named("again", &[], "cat /new; ls /etc/os-release; grep -c x:y /etc/passwd");
    assert_eq!(said.stdout, "kept\n1\n", "{said}");
    // Nobody else sees it.
    assert_ne!(SITE.sh("cat /new").code, 0);
    assert_ne!(named("another", &[], "cat /new").code, 0);
    // Anew: all of it is gone, what cannot be listed too.
    let said = named("again", &["--fresh"], "cat /new; cat /etc/os-release");
    assert_eq!(said.success(), fixtures::image::OS_RELEASE);
    let containers = SITE.sandbox.node_dir(&SITE.user).join("containers");
    let hidden = fs::read_dir(containers).expect("it was made").flatten();
    let hidden = hidden.filter(|entry| entry.file_name().to_string_lossy().starts_with('.'));
    assert_eq!(hidden.count(), 0, "what was removed is still there");
}

#[test]
fn another_image_under_the_same_name_is_refused() {
    need!(root, registry, busybox, userns);
    named("one-image", &[], "echo kept > /new").success();
    let other = SITE.push("other:1", |image| image.env("OTHER=1"));
    let words = ["--name", "one-image", &other, "cat", "/new"];
    let stderr = run(SITE.command(&words)).failure(125);
    let last = stderr.lines().last().unwrap_or_default();
    assert!(last.contains("busybox:1") && last.contains("--fresh"), "{stderr}");
    // A tag that moves does not take the container away from who has it.
    let name = SITE.push("moves:1", |image| image.env("V=1"));
    let words = ["--name", "moved", &name, "sh", "-c", "echo $V"];
    assert_eq!(run(SITE.command(&words)).success(), "1\n");
    SITE.push("moves:1", |image| image.env("V=2"));
    assert_eq!(run(SITE.command(&words)).success(), "1\n");
    let fresh = [&["--fresh"], &words[..]].concat();
    assert_eq!(run(SITE.command(&fresh)).success(), "2\n");
    for name in ["../x", "", "a b", ".x"] {
        let stderr = named(name, &[], "true").failure(2);
        assert!(stderr.contains("container name"), "{name:?}: {stderr}");
    }
}

#[test]
fn who_comes_while_it_runs_joins() {
    need!(root, registry, busybox, userns);
    let namespaces = "readlink /proc/self/ns/mnt; readlink /proc/self/ns/user";
    let first = running("joined", &["--tmpfs", "/t"]);
    let inside = named("joined", &[], namespaces).success();
    assert_eq!(named("joined", &["--tmpfs", "/t"], namespaces).success(), inside);
    named("joined", &[], "touch /t/from-another; touch /kept").success();
    for (options, says) in [
        (&["--remap-root"][..], "--remap-root"),
        (&["-v", "/etc:/e"], "/etc:/e"),
        (&["--readonly"], "--readonly"),
    ] {
        let stderr = named("joined", options, "true").failure(125);
        assert!(stderr.contains("joined") && stderr.contains(says), "{stderr}");
    }
    let stderr = named("joined", &["--fresh"], "true").failure(125);
    assert!(stderr.contains("a process runs in it"), "{stderr}");
    end(first);
    // What was in memory went with it, and what was written did not.
    let said = named("joined", &["--tmpfs", "/t", "--remap-root"], "ls /t /kept");
    assert_eq!(said.success(), "/kept\n\n/t:\n");
}

/// The process that came first is not the one that keeps it.
#[test]
fn a_container_runs_as_long_as_any_process_is_in_it() {
    need!(root, registry, busybox, userns);
    let first = running("outlived", &[]);
    let inside = named("outlived", &[], "readlink /proc/self/ns/mnt").success();
    let second = running("outlived", &[]);
    end(first);
    assert_eq!(named("outlived", &[], "readlink /proc/self/ns/mnt").success(), inside);
    end(second);
    named("outlived", &["--fresh"], "true").success();
}

#[test]
fn of_many_who_come_at_once_one_builds() {
    need!(root, registry, busybox, userns);
    SITE.busybox(&["true"]).success();
    let all: Vec<Child> = (0..6).map(|_| running("crowd", &[])).collect();
    let inside = |child: &Child| {
        fs::read_link(format!("/proc/{}/ns/mnt", child.id())).expect("root may look")
    };
    assert!(all.iter().all(|child| inside(child) == inside(&all[0])), "not all are in one");
    all.into_iter().for_each(end);
}

#[test]
fn a_container_that_has_taken_over_the_numbers_of_another_is_not_joined() {
    need!(root, registry, busybox, userns);
    let first = running("numbers", &[]);
    named("other-numbers", &[], "echo mine >/mine").success();
    // As if the kernel had given them out again: the record of one has the other's namespaces.
    let record =
        |name: &str| SITE.sandbox.node_dir(&SITE.user).join("containers").join(name).join("record");
    let read = |name| -> serde_json::Value {
        let text = fs::read_to_string(record(name)).expect("a record");
        serde_json::from_str(&text).expect("JSON")
    };
    let (runs, mut ended) = (read("numbers"), read("other-numbers"));
    ended["namespaces"] = runs["namespaces"].clone();
    fs::write(record("other-numbers"), ended.to_string()).expect("write");
    named("other-numbers", &[], "cat /mine && touch /two").success();
    assert_ne!(named("numbers", &[], "cat /mine || cat /two").code, 0);
    end(first);
}
