//! Images that are run from the file or directory in which they lie, made by other tools.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use fixtures::{
    Outcome, Place, Sandbox, User, eventually,
    image::{self, Compression, Image, Layer},
    need,
    place::{assert_says, list},
    run,
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

/// A directory of this test's own, and a place.
fn site(name: &str) -> (PathBuf, Place) {
    let dir = SANDBOX.make_dir(format!("files/{name}"), 0o777);
    (dir, Place::new(&SANDBOX, name))
}

/// Runs a command in an image, from the directory.
fn shifter_run(place: &Place, dir: &Path, args: &[&str]) -> Outcome {
    let mut command = place.command("shifter", &[&["run"], args].concat());
    command.current_dir(dir);
    run(command)
}

fn sh(script: &str, dir: &Path) {
    let mut sh = Command::new("sh");
    sh.args(["-ec", script]).current_dir(dir);
    run(sh).success();
}

fn skopeo(args: &[&str]) {
    let mut skopeo = User::current().command(&SANDBOX, "skopeo");
    skopeo.args(["copy", "--quiet", "--insecure-policy"]).args(args);
    run(skopeo).success();
}

/// Two layers, packed in two ways, and how to run them.
fn layered(word: &str) -> Image {
    let above = Layer::new().file("etc/word", 0o644, word).whiteout("etc/os-release");
    image::busybox()
        .layer_as(above, Compression::None)
        .env("COLOR=blue")
        .entrypoint(&["/bin/sh", "-c"])
        .cmd(&["cat /etc/word; echo $COLOR; test ! -e /etc/os-release"])
}

/// A root file system that root has made, as enroot leaves it.
fn rootfs(dir: &Path) -> PathBuf {
    let root = dir.join("rootfs");
    for part in ["bin", "etc", "usr/share"] {
        fs::create_dir_all(root.join(part)).expect("make");
    }
    fs::copy(need::find("busybox").expect("busybox"), root.join("bin/busybox")).expect("copy");
    for name in ["sh", "cat", "env", "id", "ls", "rm", "touch", "true"] {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("link");
    }
    fs::write(root.join("etc/word"), "one\n").expect("write");
    let environment = "PATH=\"/bin\"\nCOLOR=$(touch /tmp/shifter-evaluated) red\n# X=1\n";
    fs::write(root.join("etc/environment"), environment).expect("write");
    fs::write(root.join("etc/rc"), "exec touch /tmp/shifter-evaluated\n").expect("write");
    root
}

const SQUASH: &str = "mksquashfs rootfs image.sqsh -quiet -no-progress -noappend -all-root";

/// Nothing of it is in the store, and nothing half made anywhere.
#[track_caller]
fn assert_only_on_node(place: &Place, trees: usize) {
    assert_eq!(list(&place.node.join("trees")).len(), trees);
    place.assert_nothing_partial();
    place.assert_nothing_kept();
    assert!(list(&place.store.join("blobs/sha256")).is_empty(), "the store was filled");
}

#[test]
fn a_squashfs_is_expanded_once() {
    need!(root, squashfs, busybox, userns);
    let (dir, place) = site("squashfs");
    let root = rootfs(&dir);
    sh(SQUASH, &dir);
    let script = ["sh", "-c", "cat /etc/word; echo $COLOR; id -u; touch /etc/new /usr/x"];
    let expected = format!("one\n$(touch /tmp/shifter-evaluated) red\n{}\n", place.user.uid);
    let first = shifter_run(&place, &dir, &[&["./image.sqsh"], &script[..]].concat());
    assert_eq!(first.stderr.matches("expanding").count(), 1, "{first}");
    assert_eq!(first.success(), expected);
    // By whichever path: it is the same file.
    for name in ["image.sqsh", "../squashfs/image.sqsh", &dir.join("image.sqsh").to_string_lossy()]
    {
        let again = shifter_run(&place, &dir, &[&[name], &script[..]].concat());
        assert_eq!((again.stderr.as_str(), again.stdout.as_str()), ("", &*expected), "{name}");
    }
    assert!(!Path::new("/tmp/shifter-evaluated").exists(), "A LINE OF THE IMAGE WAS EVALUATED");
    assert_only_on_node(&place, 1);
    assert!(!place.store.exists(), "nobody needs a store");

    // What is in the file now is what runs.
    fs::write(root.join("etc/word"), "two\n").expect("write");
    sh(SQUASH, &dir);
    let changed = shifter_run(&place, &dir, &["./image.sqsh", "cat", "/etc/word"]);
    assert_eq!(changed.success(), "two\n");
    assert_only_on_node(&place, 2);
    let images = place.shifter(&["images", "--node"]).success();
    assert_eq!(images.matches("/squashfs/image.sqsh").count(), 1, "{images}");
    let path = dir.join("image.sqsh");
    let known = place.shifter(&["inspect", &path.to_string_lossy()]).success();
    assert!(known.contains("/squashfs/image.sqsh") && known.contains("\"node\""), "{known}");
    place.shifter(&["prune", "--node"]).success();
    assert_only_on_node(&place, 0);
    assert!(path.exists(), "THE USER'S FILE WAS REMOVED");
}

#[test]
fn archives_of_other_tools_are_read_once() {
    need!(root, skopeo, podman, busybox, userns);
    let (dir, _) = site("archives");
    layered("one").build().write_layout(&dir.join("layout"), "1");
    let to = |kind: &str, file: &str| format!("{kind}:{}", dir.join(file).display());
    skopeo(&[&to("oci", "layout:1"), &to("docker-archive", "docker.tar:team/app:1")]);
    skopeo(&[&to("oci", "layout:1"), &to("oci-archive", "oci.tar:1")]);
    let podman = "podman --root $PWD/root --runroot $PWD/run --storage-driver vfs";
    sh(
        &format!(
            "{podman} load -qi docker.tar; {podman} save -qo podman.tar localhost/team/app:1 || \
             {podman} save -qo podman.tar team/app:1
             gzip -k docker.tar; xz -k oci.tar"
        ),
        &dir,
    );
    for (number, source) in [
        "./docker.tar",
        "docker-archive:docker.tar:team/app:1",
        "podman.tar",
        "docker.tar.gz",
        "oci-archive:oci.tar",
        "oci-archive:./oci.tar.xz:1",
        "./layout",
        "oci:layout:1",
    ]
    .iter()
    .enumerate()
    {
        let place = Place::new(&SANDBOX, &format!("archives-{number}"));
        let first = shifter_run(&place, &dir, &[source]);
        assert!(first.stderr.contains("expanding "), "{source}: {first}");
        assert_eq!(first.success(), "oneblue\n", "{source}");
        let again = shifter_run(&place, &dir, &[source, "echo $0"]);
        assert_eq!((again.stdout.as_str(), again.stderr.as_str()), ("/bin/sh\n", ""), "{source}");
        assert_only_on_node(&place, 1);
    }
    // The same image from two files is there once.
    sh("tar -C layout -cf same.tar .", &dir);
    let place = Place::new(&SANDBOX, "archives-same");
    for source in ["same.tar", "./layout"] {
        shifter_run(&place, &dir, &[source]).success();
    }
    assert_only_on_node(&place, 1);

    layered("two").build().write_layout(&dir.join("layout2"), "1");
    fs::remove_file(dir.join("docker.tar")).expect("remove");
    skopeo(&[&to("oci", "layout2:1"), &to("docker-archive", "docker.tar:team/app:1")]);
    assert_eq!(shifter_run(&place, &dir, &["docker.tar"]).success(), "twoblue\n");
}

#[test]
fn tar_archives_of_root_file_systems_run_however_they_are_packed() {
    need!(root, busybox, userns);
    let (dir, place) = site("tarballs");
    rootfs(&dir);
    sh("tar -C rootfs -cf plain . && for z in gzip bzip2 xz zstd; do $z <plain >$z; done", &dir);
    for packing in ["plain", "gzip", "bzip2", "xz", "zstd"] {
        let file = format!("./{packing}");
        let said = shifter_run(&place, &dir, &[&file, "sh", "-c", "cat /etc/word; echo $PATH"]);
        assert_eq!(said.success(), "one\n/bin\n", "{packing}");
        let again = shifter_run(&place, &dir, &[&file, "true"]);
        assert_eq!((again.code, again.stderr.as_str()), (0, ""), "{packing}");
        place.assert_nothing_partial();
        place.assert_nothing_kept();
    }
    // Nothing says what to run.
    assert_says(&shifter_run(&place, &dir, &["./plain"]).failure(125), &["names no command"]);
}

#[test]
fn a_directory_is_run_where_it_is() {
    need!(root, busybox, userns);
    let (dir, place) = site("directory");
    let root = rootfs(&dir);
    let user = &place.user;
    let script = "cat /etc/word; rm /etc/word; echo new >/etc/word; cat /etc/word /etc/passwd";
    let run = |args: &[&str]| shifter_run(&place, &dir, &[args, &["sh", "-c", script]].concat());
    let before = fs::read_to_string(root.join("etc/word")).expect("read");
    for is_own in [false, true] {
        if is_own {
            sh(&format!("chown -R {}:{} rootfs", user.uid, user.gid), &dir);
        }
        for name in ["./rootfs", "rootfs/", &*root.to_string_lossy()] {
            let said = run(&[name]);
            assert_eq!(said.stderr, "", "{said}");
            let said = said.success();
            assert!(said.starts_with("one\nnew\n") && said.contains(&user.name), "{said}");
        }
        let said = run(&["--remap-root", "./rootfs"]).success();
        assert!(said.starts_with("one\nnew\nroot:x:0:0:"), "{said}");
        // To what is the caller's, everything can be done.
        let touched = shifter_run(&place, &dir, &["./rootfs", "touch", "/usr/share/x"]);
        assert_eq!(touched.code == 0, is_own, "{touched}");
        // What is written in a container with a name stays there, and nowhere else.
        let name = format!("kept-{is_own}");
        let named = |word: &str| {
            let args = ["--name", &name, "./rootfs", "sh", "-c", word];
            shifter_run(&place, &dir, &args)
        };
        named("echo kept >/etc/kept").success();
        assert_eq!(named("cat /etc/kept").success(), "kept\n");
    }
    assert_eq!(fs::read_to_string(root.join("etc/word")).expect("read"), before);
    assert!(!root.join("etc/kept").exists() && !root.join("home").exists(), "WRITTEN TO");
    assert_only_on_node(&place, 0);
    let planned = shifter_run(&place, &dir, &["--dry-run", "./rootfs", "true"]).success();
    assert!(planned.contains(&format!("root     {}, ", root.display())), "{planned}");
    assert!(!planned.contains("sha256:"), "it has no digest: {planned}");
}

#[test]
fn an_environment_file_names_what_lies_beside_it() {
    need!(root, squashfs, busybox, userns);
    let (dir, place) = site("environment");
    rootfs(&dir);
    sh(SQUASH, &dir);
    let elsewhere = SANDBOX.make_dir(dir.join("elsewhere"), 0o777);
    for image in ["./image.sqsh", "image.sqsh", "./rootfs", "~/no/../../../etc"] {
        let file = SANDBOX.write(dir.join("env.toml"), format!("\nimage = '{image}'\n"));
        let args = [&*file.to_string_lossy(), "cat", "/etc/word"];
        let said = shifter_run(&place, &elsewhere, &args);
        if image.starts_with('~') {
            let stderr = said.failure(125);
            assert_says(&stderr, &["env.toml:2: open ", "no such file"]);
        } else {
            assert_eq!(said.success(), "one\n", "{image}");
        }
    }
}

#[test]
fn what_cannot_be_run_is_told_in_one_line() {
    need!(root, skopeo, squashfs, busybox, userns);
    let (dir, place) = site("wrong");
    rootfs(&dir);
    sh(SQUASH, &dir);
    layered("one").build().write_layout(&dir.join("layout"), "1");
    let to = |kind: &str, file: &str| format!("{kind}:{}", dir.join(file).display());
    skopeo(&[&to("oci", "layout:1"), &to("docker-archive", "docker.tar:team/app:1")]);
    fs::write(dir.join("text"), "hello\n").expect("write");
    fs::write(dir.join("cut.sqsh"), &fs::read(dir.join("image.sqsh")).expect("read")[..3000])
        .expect("write");
    for file in ["closed.sqsh", "text.sqsh"] {
        fs::write(dir.join(file), "hello\n").expect("write");
    }
    fs::set_permissions(dir.join("closed.sqsh"), fs::Permissions::from_mode(0o600)).expect("chmod");
    fs::create_dir_all(dir.join("bundle/rootfs")).expect("make");
    fs::write(dir.join("bundle/config.json"), "{}").expect("write");
    fs::create_dir(dir.join("empty")).expect("make");
    for (source, code, parts) in [
        ("./missing.sqsh", 125, &["open /", "missing.sqsh: no such file"][..]),
        ("oci:missing:1", 125, &["/missing:1: no such file"]),
        ("./closed.sqsh", 125, &["closed.sqsh: permission denied"]),
        ("./text", 125, &["text: neither an image nor an archive", "docker, podman or skopeo"]),
        ("text.sqsh", 125, &["neither an image nor"]),
        ("./cut.sqsh", 125, &["unsquashfs ", "cut.sqsh: "]),
        ("./bundle", 125, &["an OCI bundle", "name its rootfs/"]),
        ("./empty", 125, &["it is empty"]),
        ("/", 125, &["run /: ", "/wrong/node is in it"]),
        ("./docker.tar:other", 125, &["no image \"other\" in it", "team/app:1", "FILE:NAME"]),
        ("oci:layout:2", 125, &["no image \"2\" in it; it has 1"]),
        ("oci:docker.tar", 125, &["docker.tar: it is no OCI image layout", "its path alone"]),
        ("oci-archive:docker.tar", 125, &["it is no OCI archive"]),
        ("docker-archive:image.sqsh", 125, &["it is no archive of docker's"]),
        ("docker-daemon:x:1", 2, &["docker's daemon is not asked", "docker save"]),
        ("containers-storage:x", 2, &["podman's own store", "podman save"]),
        ("library://x", 2, &["SIF", "apptainer build --sandbox"]),
        ("dir:layout", 2, &["skopeo's", "path alone"]),
    ] {
        let stderr = shifter_run(&place, &dir, &[source, "true"]).failure(code);
        assert_says(&stderr, parts);
        assert_only_on_node(&place, 0);
    }
    for verb in ["pull", "rmi", "inspect"] {
        let mut command = place.command("shifter", &[verb, "./image.sqsh"]);
        command.current_dir(&dir);
        let outcome = run(command);
        let says: &[&str] = match verb {
            "pull" => &["pull ./image.sqsh: it is in no registry", "shifter import FILE NAME"],
            _ => &["/wrong/image.sqsh: neither in your store", "nor on this node"],
        };
        assert_says(&outcome.clone().failure(if verb == "pull" { 2 } else { 125 }), says);
    }
}

/// A squashfs that takes a while.
fn large(dir: &Path) {
    rootfs(dir);
    sh(&format!("head -c 150000000 /dev/urandom >rootfs/etc/big; {SQUASH} -noI -noD -noF"), dir);
}

fn start(place: &Place, dir: &Path, args: &[&str]) -> Child {
    let mut command = place.command("shifter", &[&["run"], args].concat());
    command.current_dir(dir).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("start")
}

#[test]
fn of_many_who_start_at_once_one_expands() {
    need!(root, squashfs, skopeo, busybox, userns);
    let (dir, place) = site("crowd");
    large(&dir);
    layered("one").build().write_layout(&dir.join("layout"), "1");
    let to = |kind: &str, file: &str| format!("{kind}:{}", dir.join(file).display());
    skopeo(&[&to("oci", "layout:1"), &to("docker-archive", "docker.tar:team/app:1")]);
    for (number, image) in ["./image.sqsh", "./docker.tar"].iter().enumerate() {
        let args = ["--entrypoint=", image, "cat", "/etc/word"];
        let starts: Vec<_> = (0..10).map(|_| start(&place, &dir, &args)).collect();
        let mut expanded = 0;
        for child in starts {
            let output = child.wait_with_output().expect("wait");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.stdout.starts_with(b"one"), "{said}");
            expanded += said.matches("expanded").count();
        }
        assert_eq!(expanded, 1, "{image}");
        assert_only_on_node(&place, number + 1);
    }
}

#[test]
fn who_is_stopped_in_the_middle_leaves_nothing_in_the_way() {
    need!(root, squashfs, busybox, userns);
    let (dir, place) = site("stopped");
    large(&dir);
    let partial = place.node.join("partial");
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let child = start(&place, &dir, &["./image.sqsh", "true"]);
        let begun = || {
            list(&partial)
                .iter()
                .any(|name| partial.join(name).join("rootfs").exists())
                .then_some(())
        };
        eventually(Duration::from_secs(10), "the expansion", begun);
        kill(Pid::from_raw(child.id() as i32), signal).expect("it is there");
        let ended = child.wait_with_output().expect("wait");
        if signal == Signal::SIGTERM {
            assert_eq!(ended.status.code(), Some(128 + 15));
            assert_only_on_node(&place, 0);
        }
        // Nor does the other program go on.
        eventually(Duration::from_secs(10), "the end of unsquashfs", || {
            let processes = fs::read_dir("/proc").expect("list").flatten();
            let is_ours = |path: PathBuf| {
                let line = fs::read(path.join("cmdline")).unwrap_or_default();
                let line = String::from_utf8_lossy(&line).into_owned();
                line.starts_with("unsquashfs") && line.contains(&*dir.to_string_lossy())
            };
            (!processes.into_iter().any(|entry| is_ours(entry.path()))).then_some(())
        });
        assert!(list(&place.node.join("trees")).is_empty(), "half an image after {signal}");
    }
    shifter_run(&place, &dir, &["./image.sqsh", "cat", "/etc/word"]).success();
    assert_only_on_node(&place, 1);
}

#[test]
fn what_does_not_fit_is_told_and_leaves_nothing() {
    need!(root, squashfs, busybox, userns);
    let (dir, place) = site("full");
    large(&dir);
    // A node directory of its own, in a namespace that goes with the command.
    let script = format!(
        "mount -t tmpfs -o size=$1 none {0} && mkdir -m 700 {0}/node && \
         SHIFTER_NODE_DIR={0}/node shifter run ./image.sqsh true; \
         code=$?; find {0}/node/partial {0}/node/trees -mindepth 1 | head -3; exit $code",
        SANDBOX.make_dir(dir.join("small"), 0o777).display()
    );
    for size in ["100m", "140m"] {
        let mut command = place.command("unshare", &["-Urm", "sh", "-c", &script, "sh", size]);
        command.current_dir(&dir);
        let outcome = run(command);
        assert_eq!(outcome.stdout, "", "something is left: {outcome}");
        let stderr = outcome.failure(125);
        assert_says(
            &stderr,
            &["/small/node is full: the image needs more than", "SHIFTER_NODE_DIR"],
        );
    }
}
