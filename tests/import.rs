//! `shifter import`: archives that other tools have made, and those that nobody should make.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
    time::Duration,
};

use nix::{
    sys::{
        signal::{Signal, kill},
        stat::{Mode, SFlag, makedev, mknod},
    },
    unistd::{Pid, mkfifo},
};

use fixtures::{
    Outcome, Place, Sandbox, User, eventually,
    image::{self, Compression, Image, Layer, digest, gzip, zstd},
    need,
    place::{assert_says, list},
    run, tree,
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

fn place(name: &str) -> Place {
    Place::new(&SANDBOX, name)
}

/// A directory of this test's own, and a place.
fn site(name: &str) -> (PathBuf, Place) {
    (SANDBOX.make_dir(format!("files/{name}"), 0o755), place(name))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("paths here are text")
}

fn import(place: &Place, file: &Path, name: &str) -> Outcome {
    place.shifter(&["import", text(file), name])
}

/// Two layers, packed in two ways.
fn layered() -> Image {
    let below = Layer::new().file("etc/version", 0o644, "1").file("etc/gone", 0o644, "");
    let above = Layer::new().file("etc/version", 0o644, "2").whiteout("etc/gone");
    Image::new().layer(below).layer_as(above, Compression::None).env("COLOR=blue").cmd(&["/bin/sh"])
}

fn skopeo(args: &[&str]) {
    let mut skopeo = User::current().command(&SANDBOX, "skopeo");
    skopeo.args(["copy", "--quiet", "--insecure-policy"]).args(args);
    run(skopeo).success();
}

fn sh(script: &str, dir: &Path) {
    let mut sh = Command::new("sh");
    sh.args(["-ec", script]).current_dir(dir);
    run(sh).success();
}

/// What is to be there after any import of [`layered`].
#[track_caller]
fn assert_layered(place: &Place, outcome: Outcome, name: &str) {
    let said = outcome.success();
    assert!(said.starts_with(&format!("docker.io/library/{name}@sha256:")), "{said}");
    assert_eq!(place.read("etc/version"), "2");
    assert!(!place.rootfs().join("etc/gone").exists(), "a whiteout was not followed");
    place.assert_nothing_partial();
    place.assert_nothing_kept();
    // Whoever reads OCI layouts reads this one.
    let from = format!("oci:{}:docker.io/library/{name}", place.store.display());
    let mut inspect = User::current().command(&SANDBOX, "skopeo");
    inspect.args(["inspect", "--config", &from]);
    assert!(run(inspect).success().contains("COLOR=blue"));
}

#[test]
fn archives_of_skopeo_are_read() {
    need!(root, skopeo);
    let (dir, _) = site("skopeo");
    layered().build().write_layout(&dir.join("layout"), "1");
    let from = format!("oci:{}:1", dir.join("layout").display());
    let to = |kind: &str, file: &str| format!("{kind}:{}", dir.join(file).display());
    skopeo(&[&from, &(to("docker-archive", "docker.tar") + ":team/app:1")]);
    skopeo(&[&from, &(to("oci-archive", "oci.tar") + ":1")]);
    sh("gzip -k docker.tar; xz -k oci.tar; zstd -q docker.tar", &dir);
    for (number, file) in
        ["layout", "docker.tar", "oci.tar", "docker.tar.gz", "oci.tar.xz", "docker.tar.zst"]
            .iter()
            .enumerate()
    {
        let place = place(&format!("skopeo-{number}"));
        let name = format!("app:{number}");
        assert_layered(&place, import(&place, &dir.join(file), &name), &name);
    }
    // Whatever is in the layout stays as it is, digest and all.
    let place = place("skopeo-digest");
    let said = import(&place, &dir.join("layout"), "same:1").success();
    assert_eq!(said.trim().rsplit('@').next(), Some(&*layered().build().root().digest()));
}

#[test]
fn an_imported_image_runs_without_a_registry() {
    need!(root, skopeo, busybox, userns);
    let (dir, place) = site("runs");
    image::busybox().env("COLOR=blue").build().write_layout(&dir.join("layout"), "1");
    let archive = dir.join("busybox.tar");
    let from = format!("oci:{}:1", dir.join("layout").display());
    skopeo(&[&from, &format!("docker-archive:{}", archive.display())]);
    let name = "registry.invalid/busybox:1";
    // As a script pipes it: the index may come last.
    let mut piped = place.command("sh", &["-c"]);
    piped.arg(format!("cat {} | shifter import --quiet --to store - {name}", archive.display()));
    let outcome = run(piped);
    assert_eq!(outcome.stderr, "", "{outcome}");
    outcome.success();
    assert!(list(&place.node).is_empty(), "--to store has made a tree");
    let said = place.shifter(&["run", name, "sh", "-c", "cat /etc/os-release; echo $COLOR"]);
    assert_eq!(said.success(), format!("{}blue\n", image::OS_RELEASE));
}

#[test]
fn podmans_archives_are_read_and_of_several_images_one_is_named() {
    need!(root, skopeo, podman);
    let (dir, place) = site("podman");
    layered().build().write_layout(&dir.join("one"), "1");
    layered().env("SECOND=1").build().write_layout(&dir.join("two"), "1");
    let podman = |args: &str| {
        sh(
            &format!(
                "podman --root {0}/root --runroot {0}/run --storage-driver vfs {args}",
                text(&dir)
            ),
            &dir,
        );
    };
    for name in ["one", "two"] {
        let archive = format!("docker-archive:{}/{name}.tar", dir.display());
        let from = format!("oci:{}/{name}:1", dir.display());
        skopeo(&[&from, &format!("{archive}:localhost/{name}:1")]);
        podman(&format!("load --quiet -i {name}.tar"));
    }
    podman("save --quiet -o one-podman.tar localhost/one:1");
    podman("save --quiet --format oci-archive -o one-oci.tar localhost/one:1");
    podman("save --quiet -m -o both.tar localhost/one:1 localhost/two:1");
    for (number, file) in ["one-podman.tar", "one-oci.tar"].iter().enumerate() {
        let place = self::place(&format!("podman-{number}"));
        assert_layered(&place, import(&place, &dir.join(file), "one:1"), "one:1");
    }
    let both = dir.join("both.tar");
    let stderr = import(&place, &both, "x").failure(125);
    assert_says(
        &stderr,
        &["both.tar: it holds 2 images", "localhost/one:1, localhost/two:1", "FILE:NAME"],
    );
    let named = |name: &str| PathBuf::from(format!("{}:{name}", both.display()));
    let stderr = import(&place, &named("three"), "x").failure(125);
    assert_says(&stderr, &["no image \"three\"", "localhost/two:1"]);
    place.assert_clean();
    assert_layered(&place, import(&place, &named("localhost/two:1"), "two:1"), "two:1");
}

/// A tree with all that a root file system may hold.
fn rootfs(dir: &Path) -> PathBuf {
    let root = dir.join("rootfs");
    let make = |path: &str| {
        fs::create_dir_all(root.join(path)).expect("the directory is ours");
        root.join(path)
    };
    let etc = make("etc");
    let deep = make(&"directory-of-a-long-name/".repeat(8));
    fs::write(deep.join("file"), "deep").expect("write");
    fs::write(etc.join("motd"), "hello\n").expect("write");
    fs::hard_link(etc.join("motd"), root.join("second")).expect("link");
    std::os::unix::fs::symlink("../".repeat(60) + "etc/motd", root.join("link")).expect("link");
    fs::write(root.join("big"), vec![7; 3_000_001]).expect("write");
    fs::set_permissions(root.join("big"), fs::Permissions::from_mode(0o4711)).expect("chmod");
    fs::write(root.join("old"), "").expect("write");
    sh("touch -d 1960-01-02T03:04:05Z old; setfattr -n user.color -v blue etc/motd || :", &root);
    mkfifo(&root.join("pipe"), Mode::from_bits_truncate(0o640)).expect("mkfifo");
    drop(std::os::unix::net::UnixListener::bind(root.join("socket")).expect("bind"));
    let null = makedev(1, 3);
    mknod(&root.join("null"), SFlag::S_IFCHR, Mode::empty(), null).expect("mknod");
    sh(&format!("chown -R {0}:{1} .", User::ordinary().uid, User::ordinary().gid), &root);
    root
}

/// The tree of the place is that of the directory, without owners, devices and sockets.
#[track_caller]
fn assert_same_tree(place: &Place, root: &Path) {
    // Which the comparison does not know.
    let _ = fs::remove_file(root.join("socket"));
    let (mut expected, mut got) = (tree::read(root), tree::read(&place.rootfs()));
    expected.remove("null");
    if let Some(top) = expected.get(".") {
        let mtime = top.mtime;
        got.entry(".".to_owned()).and_modify(|item| item.mtime = mtime);
    }
    for item in expected.values_mut().chain(got.values_mut()) {
        item.owner = (0, 0);
    }
    // Where the kernel's tmpfs has none of these.
    if got.values().all(|item| item.xattrs.is_empty()) {
        expected.values_mut().for_each(|item| item.xattrs.clear());
    }
    for (name, item) in &expected {
        assert_eq!(got.get(name), Some(item), "{name}");
    }
    assert_eq!(got.len(), expected.len());
}

#[test]
fn a_directory_becomes_an_image_of_the_same_files() {
    need!(root, getfattr, umoci);
    let (dir, place) = site("directory");
    let root = rootfs(&dir);
    let outcome = import(&place, &root, "rootfs:1");
    assert!(outcome.stderr.contains("left out: 1 device, 1 socket"), "{outcome}");
    let first = outcome.success();
    // Before the comparison, which removes the socket and so gives the directory another time.
    let again = import(&place, &root, "rootfs:1");
    assert!(again.stderr.contains("is up to date"), "{again}");
    assert_eq!(again.success(), first, "the same tree gives another image");
    assert_same_tree(&place, &root);
    place.assert_nothing_kept();
    // The oldest of the tools around.
    let mut umoci = User::current().command(&SANDBOX, "umoci");
    let image = format!("{}:docker.io/library/rootfs:1", place.store.display());
    umoci.args(["unpack", "--image", &image]).arg(dir.join("bundle"));
    run(umoci).success();
    assert_eq!(fs::read(dir.join("bundle/rootfs/big")).expect("unpacked"), vec![7; 3_000_001]);
}

#[test]
fn tar_archives_are_read_however_they_are_packed() {
    need!(root, getfattr);
    let (dir, _) = site("tarballs");
    let root = rootfs(&dir);
    sh(
        "tar -C rootfs --xattrs -cf plain . && for z in gzip bzip2 xz zstd; do $z <plain >$z; done",
        &dir,
    );
    for packing in ["plain", "gzip", "bzip2", "xz", "zstd"] {
        let place = place(&format!("tarball-{packing}"));
        let outcome = place.shifter(&["import", text(&dir.join(packing)), "rootfs:1"]);
        outcome.success();
        assert_same_tree(&place, &root);
        place.assert_nothing_kept();
    }
}

#[test]
fn a_squashfs_becomes_an_image_of_the_same_files() {
    need!(root, squashfs, getfattr, userns);
    let (dir, place) = site("squashfs");
    let root = rootfs(&dir);
    // What its owner cannot read is no secret to him.
    fs::write(root.join("closed"), "x").expect("write");
    // The format has 32 bits for a time, without a sign.
    fs::remove_file(root.join("old")).expect("remove");
    sh("chmod 0 rootfs/closed && mksquashfs rootfs image.sqsh -quiet -no-progress", &dir);
    let outcome = import(&place, &dir.join("image.sqsh"), "squashed:1");
    assert!(outcome.stderr.contains("left out: 1 device, 1 socket"), "{outcome}");
    outcome.success();
    sh(&format!("chown {} rootfs/closed", User::ordinary().uid), &dir);
    assert_same_tree(&place, &root);
    place.assert_nothing_kept();
    place.assert_nothing_partial();
    sh("head -c 2000 image.sqsh >cut.sqsh", &dir);
    let stderr = import(&place, &dir.join("cut.sqsh"), "cut:1").failure(125);
    assert_says(&stderr, &["unsquashfs", "cut.sqsh: "]);
    place.assert_nothing_partial();
}

#[test]
fn a_root_file_system_is_run_as_the_user_says() {
    need!(root, busybox, userns);
    let (dir, place) = site("settings");
    let root = dir.join("rootfs");
    fs::create_dir_all(root.join("bin")).expect("make");
    fs::create_dir_all(root.join("work")).expect("make");
    fs::copy(need::find("busybox").expect("busybox"), root.join("bin/busybox")).expect("copy");
    let args = ["import", text(&root), "set:1", "--env", "COLOR=a b", "--env", "X=1=2"];
    let more = [
        "--workdir",
        "/work",
        "--entrypoint",
        "/bin/busybox",
        "--cmd",
        "[\"sh\", \"-c\", \"echo $COLOR $X; pwd\"]",
    ];
    place.shifter(&[&args[..], &more].concat()).success();
    let mut command = place.command("shifter", &["run", "set:1"]);
    command.current_dir("/");
    assert_eq!(run(command).success(), "a b 1=2\n/work\n");
    for (option, value, says) in [
        ("--env", "COLOR", "NAME=VALUE"),
        ("--workdir", "work", "from / on"),
        ("--cmd", "[1]", "JSON list"),
    ] {
        let stderr = place.shifter(&["import", text(&root), "x", option, value]).failure(2);
        assert_says(&stderr, &[option, says]);
    }
    layered().build().write_layout(&dir.join("layout"), "1");
    let layout = dir.join("layout");
    let stderr = place.shifter(&["import", text(&layout), "x", "--env", "A=1"]).failure(2);
    assert_says(&stderr, &["an OCI image layout says itself how it is run", "leave --env"]);
}

#[test]
fn what_is_no_image_is_called_what_it_is() {
    need!(root);
    let (dir, place) = site("foreign");
    let make = |name: &str, content: &[u8]| fs::write(dir.join(name), content).expect("write");
    make("empty", b"");
    make("Dockerfile", b"# syntax=docker/dockerfile:1\nFROM debian:12\n");
    make("image.sif", b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\0");
    make("text", b"hello\n");
    make("archive.zip", b"PK\x03\x04");
    make("nothing.tar", &[0; 1024]);
    make("esc\x1b[2J", b"x");
    for (name, files) in [
        ("bundle", &["config.json", "rootfs/x"][..]),
        ("skopeo", &["manifest.json", "version"]),
        ("unpacked", &["manifest.json"]),
        ("bare", &[]),
    ] {
        fs::create_dir_all(dir.join(name).join("rootfs")).expect("make");
        files.iter().for_each(|file| make(&format!("{name}/{file}"), b""));
    }
    fs::remove_dir(dir.join("bare/rootfs")).expect("remove");
    let _listener = std::os::unix::net::UnixListener::bind(dir.join("socket")).expect("bind");
    for (file, parts) in [
        ("missing", &["missing: no such file"][..]),
        ("empty", &["it is empty"]),
        ("Dockerfile", &["a Dockerfile", "podman build"]),
        ("image.sif", &["SIF", "apptainer build --sandbox"]),
        ("text", &["neither an image nor an archive", "docker, podman or skopeo"]),
        ("archive.zip", &["a zip archive"]),
        ("nothing.tar", &["it is empty"]),
        ("esc\x1b[2J", &["esc\\u{1b}[2J"]),
        ("bundle", &["an OCI bundle", "name its rootfs/"]),
        ("skopeo", &["directory of skopeo's", "oci-archive"]),
        ("unpacked", &["unpacked image archive"]),
        ("bare", &["it is empty"]),
        ("socket", &["neither a file nor a directory"]),
    ] {
        let stderr = import(&place, &dir.join(file), "x").failure(125);
        assert_says(&stderr, &[&["shifter: import: "], parts].concat());
        place.assert_clean();
        place.assert_nothing_kept();
    }
    let pinned = format!("x@{}", digest(b""));
    let stderr = import(&place, &dir.join("empty"), &pinned).failure(2);
    assert_says(&stderr, &["gets the digest that it has"]);
}

/// A docker archive: `manifest.json` last, as docker writes it.
fn docker_archive(config: &str, layers: &[(&str, Vec<u8>)]) -> Layer {
    let name = format!("{}.json", &digest(config.as_bytes())["sha256:".len()..]);
    let names: Vec<_> = layers.iter().map(|(name, _)| *name).collect();
    let archive = layers
        .iter()
        .fold(Layer::new(), |archive, (name, content)| archive.file(name, 0o644, content));
    let manifest = serde_json::json!([{"Config": name, "RepoTags": null, "Layers": names}]);
    archive.file(&name, 0o644, config).file("manifest.json", 0o644, manifest.to_string())
}

fn config(layers: &[&[u8]]) -> String {
    let diff_ids: Vec<_> = layers.iter().map(|layer| digest(layer)).collect();
    serde_json::json!({"os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
}

#[test]
fn layers_of_docker_archives_may_be_packed_or_links() {
    need!(root);
    let (dir, place) = site("docker");
    let layers: Vec<_> =
        ["0", "1", "2"].map(|name| Layer::new().file(name, 0o644, name).to_tar()).to_vec();
    let all: Vec<&[u8]> = layers.iter().map(Vec::as_slice).collect();
    // What docker save wrote of a layer that it had already.
    let manifest = serde_json::json!([{
        "Config": "config.json",
        "RepoTags": ["a:1"],
        "Layers": ["a/layer.tar", "b/layer.tar", "c/layer.tar", "d/layer.tar"],
    }]);
    let archive = Layer::new()
        .symlink("d/layer.tar", "../a/layer.tar")
        .file("./a/layer.tar", 0o644, all[0])
        .file("b/layer.tar", 0o644, gzip(all[1]))
        .file("c/layer.tar", 0o644, zstd(all[2]))
        .file("config.json", 0o644, config(&[all[0], all[1], all[2], all[0]]))
        .file("manifest.json", 0o644, manifest.to_string());
    let file = SANDBOX.write(dir.join("linked.tar"), archive.to_tar());
    import(&place, &file, "a:1").success();
    for name in ["0", "1", "2"] {
        assert_eq!(place.read(name), name);
    }
}

#[test]
fn what_is_damaged_or_missing_is_named_and_nothing_stays() {
    need!(root);
    let (dir, place) = site("damaged");
    let layer = Layer::new().file("f", 0o644, vec![1; 100_000]).to_tar();
    let other = Layer::new().file("f", 0o644, vec![2; 100_000]).to_tar();
    let good = config(&[&layer]);
    let whole = |content: &[u8]| docker_archive(&good, &[("l.tar", content.to_vec())]);
    let wrong_name = serde_json::json!([{
        "Config": format!("{}.json", "0".repeat(64)), "Layers": ["l.tar"],
    }]);
    let not_there = serde_json::json!([{"Config": "c.json", "Layers": ["l.tar"]}]);
    let escaping = Layer::new()
        .file("f", 0o644, "x")
        .symlink("out", "/etc")
        .hardlink("out/link", "nowhere")
        .to_tar();
    for (name, archive, parts) in [
        (
            "other",
            whole(&other).to_tar(),
            &["layer sha256:", "damaged", "make the archive again"][..],
        ),
        ("packed", whole(&gzip(&other)).to_tar(), &["uncompressed content: expected"]),
        ("cut", whole(&layer).to_tar()[..60_000].to_vec(), &["ends in the middle"]),
        ("gzip", gzip(&whole(&layer).to_tar())[..200].to_vec(), &["decompress "]),
        (
            "renamed",
            Layer::new()
                .file("l.tar", 0o644, &layer)
                .file(&format!("{}.json", "0".repeat(64)), 0o644, &good)
                .file("manifest.json", 0o644, wrong_name.to_string())
                .to_tar(),
            &["configuration 0000", "expected sha256:0000"],
        ),
        (
            "missing",
            Layer::new()
                .file("c.json", 0o644, &good)
                .file("manifest.json", 0o644, not_there.to_string())
                .to_tar(),
            &["layer l.tar is missing"],
        ),
        (
            "no-config",
            Layer::new()
                .file("l.tar", 0o644, &layer)
                .file("manifest.json", 0o644, not_there.to_string())
                .to_tar(),
            &["c.json is missing"],
        ),
        (
            "outside",
            Layer::new()
                .symlink("l.tar", "../../../../etc/passwd")
                .file("c.json", 0o644, &good)
                .file("manifest.json", 0o644, not_there.to_string())
                .to_tar(),
            &["layer l.tar is missing"],
        ),
        (
            "twice",
            whole(&layer).file("manifest.json", 0o644, "[]").to_tar(),
            &["manifest.json: the archive has it twice"],
        ),
        (
            "count",
            docker_archive(&config(&[&layer, &other]), &[("l.tar", layer.clone())]).to_tar(),
            &["configuration lists 2 layers, manifest 1"],
        ),
        (
            "json",
            Layer::new().file("manifest.json", 0o644, "{").to_tar(),
            &["not a valid manifest.json"],
        ),
        (
            "refused",
            docker_archive(&config(&[&escaping]), &[("l.tar", escaping.clone())]).to_tar(),
            &["a hard link to a file that does not exist"],
        ),
        (
            "no-tar",
            docker_archive(&config(&[b"x"]), &[("l.tar", b"x".to_vec())]).to_tar(),
            &["layer sha256:"],
        ),
    ] {
        let file = SANDBOX.write(dir.join(name), archive);
        let stderr = import(&place, &file, "x").failure(125);
        assert_says(&stderr, parts);
        place.assert_clean();
        place.assert_nothing_kept();
        // A store alone takes none of it either: but what only the tree can tell.
        if name != "refused" {
            let stderr = place.shifter(&["import", "--to", "store", text(&file), "x"]).failure(125);
            assert_says(&stderr, parts);
            place.assert_clean();
        }
    }
}

#[test]
fn every_blob_of_a_layout_is_checked() {
    need!(root);
    let (dir, place) = site("layout");
    let built = layered().build();
    built.write_layout(&dir, "1");
    for blob in built.digests() {
        let path = dir.join("blobs/sha256").join(&blob["sha256:".len()..]);
        let whole = fs::read(&path).expect("a blob");
        let mut changed = whole.clone();
        let middle = changed.len() / 2;
        changed[middle] ^= 1;
        fs::write(&path, changed).expect("write");
        let stderr = import(&place, &dir, "x").failure(125);
        assert_says(&stderr, &[&blob[7..]]);
        place.assert_clean();
        fs::write(&path, &whole[..whole.len() - 1]).expect("write");
        import(&place, &dir, "x").failure(125);
        fs::remove_file(&path).expect("remove");
        let stderr = import(&place, &dir, "x").failure(125);
        assert_says(&stderr, &[&blob[7..], "is missing"]);
        place.assert_clean();
        place.assert_nothing_kept();
        fs::write(&path, whole).expect("write");
    }
    import(&place, &dir, "x").success();
}

#[test]
fn an_image_for_several_machines_gives_the_one_for_this() {
    need!(root);
    let (dir, place) = site("platforms");
    let other = layered().architecture("s390x").env("OTHER=1");
    image::index(&[other, layered()]).write_layout(&dir, "1");
    import(&place, &dir, "many:1").success();
    let stderr =
        place.shifter(&["import", "--platform", "linux/mips", text(&dir), "x"]).failure(125);
    assert_says(&stderr, &["no image for linux/mips", "linux/s390x", "--platform"]);
    let outcome = place.shifter(&["import", "--json", text(&dir), "many:1"]);
    let last = outcome.success();
    let last: serde_json::Value =
        serde_json::from_str(last.lines().last().expect("a line")).expect("JSON");
    assert_eq!((&last["event"], &last["unchanged"]), (&"end".into(), &true.into()));
}

#[test]
fn an_import_that_is_stopped_leaves_nothing() {
    need!(root);
    let (dir, place) = site("stopped");
    let image = layered();
    image.build().write_layout(&dir, "1");
    import(&place, &dir, "kept:1").success();
    // Somebody who has begun to send, and goes on no more.
    let mut child = place
        .command("shifter", &["import", "-", "x"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("start");
    let mut stdin = child.stdin.take().expect("piped");
    stdin.write_all(&[0; 1000]).expect("write");
    let partial = place.store.join("partial");
    let begun = || list(&partial).iter().any(|name| name.starts_with("spool"));
    eventually(Duration::from_secs(10), "the import", || begun().then_some(()));
    kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it is there");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("read");
    child.wait().expect("wait");
    assert!(said.contains("interrupted by signal 15"), "{said}");
    drop(stdin);
    place.assert_nothing_kept();
    place.assert_nothing_partial();
    // A name that is taken is given anew only by what succeeds.
    assert_eq!(place.read("etc/version"), "2");
}

#[test]
fn a_name_is_taken_over() {
    need!(root);
    let (dir, place) = site("names");
    let make = |content: &str| {
        let file = dir.join(content);
        fs::create_dir_all(&file).expect("make");
        fs::write(file.join("content"), content).expect("write");
        file
    };
    for content in ["one", "two"] {
        import(&place, &make(content), "name:1").success();
    }
    let index = fs::read_to_string(place.store.join("index.json")).expect("an index");
    assert_eq!(index.matches("docker.io/library/name:1").count(), 1, "{index}");
    // A directory that cannot be read is not imported in part.
    let closed = make("closed");
    fs::set_permissions(closed.join("content"), fs::Permissions::from_mode(0o000)).expect("chmod");
    let stderr = import(&place, &closed, "closed:1").failure(125);
    assert_says(&stderr, &["closed/content: permission denied"]);
    fs::write(closed.join("content"), "").expect("root writes");
    fs::rename(closed.join("content"), closed.join(".wh.content")).expect("rename");
    let stderr = import(&place, &closed, "closed:1").failure(125);
    assert_says(&stderr, &[".wh.content", "removes another"]);
    place.assert_nothing_kept();
}
