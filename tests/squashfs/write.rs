//! `shifter pull --squashfs`, and what becomes of the file.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use fixtures::{
    eventually,
    image::{Image, Layer},
    need,
    place::{assert_says, list},
    run,
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{SITE, assert_nothing_begun, file, inspect, noise, parent, trees};

#[test]
fn a_pull_writes_one_file() {
    need!(root, registry, squashfs, userns);
    let layer = Layer::new()
        .dir("etc", 0o755)
        .dir("closed", 0o000)
        .file("etc/shadow", 0o000, "nobody may read it")
        .file("etc/setuid", 0o4755, "x")
        .hardlink("etc/second", "etc/setuid")
        .symlink("etc/link", "setuid");
    let (image, digest) = SITE.push("write:1", &Image::new().layer(layer));
    let place = SITE.place("write");
    let said = place.shifter(&["pull", "--squashfs", "--to", "store", &image]).success();
    assert_eq!(said, format!("{image}@{digest}\n"));
    // It was expanded to be written, and takes no memory any more.
    assert!(trees(&place).is_empty());
    assert_nothing_begun(&place);
    let path = file(&place, &digest);
    let metadata = fs::metadata(&path).expect("the file");
    assert_eq!(metadata.mode() & 0o777, 0o600);
    let mut list = Command::new("unsquashfs");
    let listed = run({
        list.args(["-lln"]).arg(&path);
        list
    })
    .success();
    let (uid, gid) = (place.user.uid, place.user.gid);
    for (mode, name) in [
        ("d---------", "/closed"),
        ("----------", "/etc/shadow"),
        ("-rwsr-xr-x", "/etc/setuid"),
        ("-rwsr-xr-x", "/etc/second"),
        ("lrwxrwxrwx", "/etc/link -> setuid"),
    ] {
        let is_it = |line: &&str| {
            let owner = format!("{mode} {uid}/{gid} ");
            line.starts_with(&owner) && line.ends_with(&format!("squashfs-root{name}"))
        };
        assert!(listed.lines().any(|line| is_it(&line)), "{mode} {name}: {listed}");
    }
    // All of them are root's to unpack, hard links included.
    let out = place.store.with_file_name("out");
    let mut unpack = Command::new("unsquashfs");
    unpack.args(["-quiet", "-no-progress", "-dest"]).arg(&out).arg(&path);
    run(unpack).success();
    let secret = fs::read_to_string(out.join("etc/shadow")).expect("read");
    assert_eq!(secret, "nobody may read it");
    assert_eq!(fs::metadata(out.join("etc/second")).expect("stat").nlink(), 2);

    let shown = inspect(&place, &image)["stores"][0]["squashfs"].clone();
    assert_eq!(shown["path"].as_str(), path.to_str());
    assert_eq!(shown["size"].as_u64(), Some(metadata.len()));
    // Once is enough.
    let again = place.shifter(&["pull", "--squashfs", "--to", "store", &image]);
    assert!(again.stderr.contains("is up to date"), "{again}");
    assert_eq!(fs::metadata(&path).expect("the file").ino(), metadata.ino());
}

/// By setting, and elsewhere, and after other pulls.
#[test]
fn the_same_image_is_the_same_file() {
    need!(root, registry, squashfs, userns);
    // A root that no layer says anything of has the time at which it was made.
    let layer = Layer::new().dir(".", 0o755);
    let layer = layer.file("a", 0o644, "a").file("b", 0o644, noise(300_000));
    let (image, digest) = SITE.push("same:1", &Image::new().layer(layer));
    let one = SITE.place("same-one").with_config("[squashfs]\nwrite = true\n");
    one.pull(&image).success();
    assert_eq!(trees(&one).len(), 1, "what was asked for stays expanded");
    let two = SITE.place("same-two");
    std::thread::sleep(std::time::Duration::from_millis(1100));
    two.pull(&image).success();
    assert!(!file(&two, &digest).exists(), "nobody has asked for it");
    let mut second = two.command("shifter-pull", &["--squashfs", &image]);
    second.env("SOURCE_DATE_EPOCH", "12345");
    run(second).success();
    let read = |place| fs::read(file(place, &digest)).expect("the file");
    assert!(read(&one) == read(&two), "they differ");
    let stderr = two.shifter(&["pull", "--squashfs", "--to", "node", &image]).failure(2);
    assert_says(&stderr, &["--to node --squashfs", "leave out"]);
}

#[test]
fn it_goes_with_its_image() {
    need!(root, registry, squashfs, userns);
    let place = SITE.place("goes");
    let layer = |text: &str| Image::new().layer(Layer::new().file("x", 0o644, text));
    let (image, digest) = SITE.push("goes:1", &layer("one"));
    let pull = || place.shifter(&["pull", "--squashfs", "--to", "store", &image]).success();
    pull();
    place.shifter(&["rmi", &image]).success();
    assert!(list(parent(&file(&place, &digest))).is_empty());
    // Whatever the way in which the image has gone: another tool knows nothing of it.
    pull();
    let hex = digest.strip_prefix("sha256:").expect("a digest");
    let index = place.store.join("index.json");
    fs::write(&index, "{\"schemaVersion\":2,\"manifests\":[]}").expect("write");
    fs::remove_file(place.store.join("blobs/sha256").join(hex)).expect("remove");
    place.shifter(&["prune"]).success();
    assert!(list(parent(&file(&place, &digest))).is_empty());
    // It counts.
    pull();
    let size = fs::metadata(file(&place, &digest)).expect("the file").len();
    let most = format!("{size}B");
    let gone = place.shifter(&["prune", "--max-size", &most]).success();
    assert_eq!(gone, format!("{image}@{digest}\n"));
    assert!(list(parent(&file(&place, &digest))).is_empty());
    assert_nothing_begun(&place);
}

#[test]
fn many_at_once_write_one() {
    need!(root, registry, squashfs, userns);
    let place = SITE.place("many");
    let layer = Layer::new().file("x", 0o644, noise(8 << 20));
    let (image, digest) = SITE.push("many:1", &Image::new().layer(layer));
    thread::scope(|scope| {
        for _ in 0..5 {
            let args = ["pull", "--squashfs", "--to", "store", image.as_str()];
            let command = place.command("shifter", &args);
            scope.spawn(|| run(command).success());
        }
    });
    assert!(file(&place, &digest).exists());
    assert!(trees(&place).is_empty(), "{:?}", trees(&place));
    assert_nothing_begun(&place);
}

#[test]
fn who_is_killed_leaves_nothing() {
    need!(root, registry, squashfs, userns);
    let place = SITE.place("killed");
    let layer = Layer::new().file("x", 0o644, noise(48 << 20));
    let (image, digest) = SITE.push("killed:1", &Image::new().layer(layer));
    let args = ["pull", "--squashfs", "--to", "store", image.as_str()];
    for signal in [Signal::SIGKILL, Signal::SIGTERM] {
        let mut child = place
            .command("shifter", &args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("shifter starts");
        let partial = place.store.join("partial");
        let begun = || list(&partial).iter().any(|name| name.starts_with("spool")).then_some(());
        eventually(Duration::from_secs(60), "a squashfs that is being written", begun);
        kill(Pid::from_raw(child.id().cast_signed()), signal).expect("kill");
        child.wait().expect("it ends");
        assert!(!file(&place, &digest).exists(), "half of a file is visible");
        let writers = || {
            let processes = SITE.sandbox.processes();
            (!processes.iter().any(|line| line.contains("mksquashfs"))).then_some(())
        };
        eventually(Duration::from_secs(10), "the writer's end", writers);
    }
    place.shifter(&args).success();
    assert!(file(&place, &digest).exists());
    assert_nothing_begun(&place);
}

#[test]
fn what_is_missing_is_named() {
    need!(root, registry, userns);
    let place = SITE.place("missing");
    let (image, digest) =
        SITE.push("missing:1", &Image::new().layer(Layer::new().file("x", 0o644, "x")));
    let args = ["pull", "--squashfs", "--to", "store", image.as_str()];
    let mut without = place.command("shifter", &args);
    without.env("PATH", SITE.sandbox.prefix().join("bin"));
    let stderr = run(without).failure(125);
    let says = "write squashfs: mksquashfs: not found; ask the administrator to install";
    assert_says(&stderr, &[&image, says, "squashfs-tools"]);
    let mut nested = place.command("unshare", &["-Ur", "sh", "-c"]);
    nested.arg(format!(
        "echo 0 >/proc/sys/user/max_user_namespaces && exec shifter {}",
        args.join(" ")
    ));
    let says =
        "write squashfs: users can make no user namespaces on this host; write it on another";
    assert_says(&run(nested).failure(125), &[&image, says]);
    // The rest is there, and nothing else.
    assert_eq!(inspect(&place, &image)["stores"][0]["state"], "complete");
    assert!(!file(&place, &digest).exists() && trees(&place).is_empty());
    assert_nothing_begun(&place);
}

#[test]
fn a_full_disk_is_one() {
    need!(root, registry, squashfs, userns);
    let mut place = SITE.place("full");
    let mount = place.store.with_file_name("mount");
    fs::create_dir(&mount).expect("mkdir");
    let mut tmpfs = Command::new("mount");
    tmpfs.args(["-t", "tmpfs", "-o", "size=6m,mode=1777", "tmpfs"]).arg(&mount);
    run(tmpfs).success();
    place.store = mount.join("store");
    let layer = Layer::new().file("x", 0o644, noise(4 << 20));
    let (image, digest) = SITE.push("full:1", &Image::new().layer(layer));
    let outcome = place.shifter(&["pull", "--squashfs", "--to", "store", &image]);
    let (is_there, left) = (file(&place, &digest).exists(), list(&place.store.join("partial")));
    let state = inspect(&place, &image)["stores"][0]["state"].clone();
    let mut umount = Command::new("umount");
    umount.arg(&mount);
    run(umount).success();
    let stderr = outcome.failure(125);
    assert_says(&stderr, &[&image, &format!("{} is full; remove images", mount.display())]);
    assert_eq!((is_there, state.as_str()), (false, Some("complete")));
    assert!(left.is_empty(), "{left:?}");
}
