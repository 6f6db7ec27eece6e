//! Pulls that were stopped, pulls side by side, and pulls that do not fit: what has come is used,
//! and nothing is left for ever.

use std::{
    fs::{self, File},
    os::unix::fs::{FileExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::LazyLock,
    thread,
    time::Duration,
};

use fixtures::{
    Fault, Faulty, Place, Sandbox, eventually,
    image::{Built, Compression, Image, Layer},
    need,
    place::{assert_says, list},
    run,
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

fn place(name: &str) -> Place {
    Place::new(&SANDBOX, name)
}

/// Bytes that do not compress, others for each seed.
fn noise(seed: u32, length: usize) -> Vec<u8> {
    let word = |n: u32| (n ^ seed.rotate_left(16)).wrapping_mul(2_654_435_761).to_le_bytes();
    (0..(length / 4) as u32).flat_map(word).collect()
}

/// A layer of 3 MB, and a small one.
fn image() -> Built {
    Image::new()
        .layer_as(Layer::new().file("noise", 0o644, noise(1, 3 << 20)), Compression::None)
        .layer(Layer::new().file("version", 0o644, "1"))
        .build()
}

fn big(image: &Built) -> String {
    format!("blobs/{}", image.blobs()[0].digest())
}

fn small(image: &Built) -> String {
    format!("blobs/{}", image.blobs()[1].digest())
}

/// What was asked for of the big layer, from which byte on.
fn ranges(registry: &Faulty, image: &Built) -> Vec<Option<String>> {
    let requests = registry.requests().into_iter().filter(|r| r.line.contains(&big(image)));
    requests.map(|request| request.range).collect()
}

#[track_caller]
fn assert_arrived(place: &Place) {
    assert_eq!(place.read("version"), "1");
    let arrived = fs::read(place.rootfs().join("noise")).expect("the big layer's file");
    assert!(arrived == noise(1, 3 << 20), "other content arrived");
    place.assert_nothing_partial();
    place.assert_nothing_kept();
}

fn start(place: &Place, args: &[&str]) -> Child {
    let mut command = place.command("shifter", args);
    command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start shifter")
}

/// Bytes of the big layer that lie in the store.
fn begun(place: &Place, image: &Built) -> u64 {
    let stem = format!("{}.", &image.blobs()[0].digest()[7..]);
    let partial = place.store.join("partial");
    let names = list(&partial);
    let drafts = names.iter().filter(|n| n.starts_with(&stem));
    drafts.filter_map(|name| fs::metadata(partial.join(name)).ok()).map(|file| file.len()).sum()
}

#[test]
fn what_was_given_up_goes_on_where_it_ended() {
    let (place, image) = (place("given-up"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Cut(2 << 20)).fail(&big(&image), 100, Fault::Cut(0));
    let stderr = place.pull(&registry.name()).failure(125);
    assert!(stderr.contains("gave up after"), "{stderr}");
    place.assert_clean();
    assert_eq!(begun(&place, &image), 2 << 20);
    let before = (registry.count(&small(&image)), ranges(&registry, &image).len());

    let registry = Faulty::serve(&image);
    place.pull(&registry.name()).success();
    assert_arrived(&place);
    assert_eq!(before.0, 1);
    assert_eq!(registry.count(&small(&image)), 0, "a whole layer was fetched again");
    assert_eq!(ranges(&registry, &image), [Some(format!("bytes={}-", 2 << 20))]);
}

#[test]
fn what_was_killed_goes_on_where_it_ended() {
    for signal in ["KILL", "TERM"] {
        let (place, image) = (place(&format!("killed-{signal}")), image());
        let registry = Faulty::serve(&image);
        registry.fail(&big(&image), 1, Fault::Stall(2 << 20));
        let mut pull = start(&place, &["pull", &registry.name()]);
        eventually(Duration::from_secs(20), "most of the layer", || {
            (begun(&place, &image) == 2 << 20).then_some(())
        });
        let mut kill = Command::new("kill");
        kill.args(["-s", signal, &pull.id().to_string()]);
        run(kill).success();
        pull.wait().expect("wait");
        place.pull(&registry.name()).success();
        assert_arrived(&place);
        assert_eq!(ranges(&registry, &image), [None, Some(format!("bytes={}-", 2 << 20))]);
    }
}

/// SECURITY R26.
#[test]
fn what_was_killed_at_any_moment_leaves_nothing_that_stays() {
    let place = place("moments");
    let image = (0..6)
        .fold(Image::new(), |image, n| {
            let layer = Layer::new().file(&format!("f{n}"), 0o644, noise(n, 2 << 20));
            image.layer_as(layer, Compression::None)
        })
        .build();
    let registry = Faulty::serve(&image);
    for moment in 0..25 {
        let mut pull = start(&place, &["pull", &registry.name()]);
        thread::sleep(Duration::from_millis(3 * moment));
        // It may have been quicker.
        let _ = pull.kill();
        pull.wait().expect("wait");
        for tree in list(&place.node.join("trees")) {
            let rootfs = place.node.join("trees").join(tree).join("rootfs");
            assert_eq!(list(&rootfs).len(), 6, "an image is there, and not whole");
        }
    }
    place.pull(&registry.name()).success();
    assert_eq!(fs::read(place.rootfs().join("f5")).expect("a file").len(), 2 << 20);
    place.assert_nothing_partial();
    place.assert_nothing_kept();
}

#[test]
fn what_was_begun_and_damaged_is_read_anew() {
    let (place, image) = (place("damaged"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Cut(2 << 20)).fail(&big(&image), 100, Fault::Cut(0));
    place.pull(&registry.name()).failure(125);
    let partial = place.store.join("partial");
    let is_draft = |name: &String| name.contains('.');
    let draft = list(&partial).into_iter().find(is_draft).expect("what was begun");
    let file = File::options().write(true).open(partial.join(draft)).expect("open");
    file.write_at(b"damage", 1 << 20).expect("write");
    let registry = Faulty::serve(&image);
    let outcome = place.pull(&registry.name());
    assert!(outcome.stderr.contains("sent other content"), "{outcome}");
    outcome.success();
    assert_arrived(&place);
    assert_eq!(ranges(&registry, &image), [Some(format!("bytes={}-", 2 << 20)), None]);
}

#[test]
fn a_layer_that_was_damaged_on_its_way_once_is_read_again() {
    for to in ["node", "store", "both"] {
        let (place, image) = (place(&format!("once-{to}")), image());
        let registry = Faulty::serve(&image);
        let mut bytes = image.blobs()[0].bytes().to_vec();
        bytes[1 << 20] ^= 1;
        registry.fail(&big(&image), 1, Fault::Answer(200, String::new(), bytes));
        let outcome = place.shifter(&["pull", "--to", to, &registry.name()]);
        assert!(outcome.stderr.contains("sent other content"), "{outcome}");
        outcome.success();
        assert_eq!(registry.count(&big(&image)), 2);
        if to != "store" {
            assert_arrived(&place);
        }
    }
}

#[test]
fn what_is_always_damaged_is_not_kept() {
    let (place, image) = (place("always"), image());
    let registry = Faulty::serve(&image);
    let mut bytes = image.blobs()[0].bytes().to_vec();
    bytes[1 << 20] ^= 1;
    registry.fail(&big(&image), 100, Fault::Answer(200, String::new(), bytes));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["layer: ", "sent other content", "damaged"]);
    assert_eq!(registry.count(&big(&image)), 3);
    place.assert_clean();
    place.assert_nothing_kept();
}

/// Many at once, of one user, on one node.
#[track_caller]
fn assert_one_download(name: &str, count: usize, to: &str) {
    let (place, image) = (place(name), image());
    let registry = Faulty::serve(&image);
    let pull = |_| start(&place, &["pull", "--to", to, &registry.name()]);
    let pulls: Vec<_> = (0..count).map(pull).collect();
    for mut pull in pulls {
        assert!(pull.wait().expect("wait").success());
    }
    assert_eq!(registry.count(&big(&image)), 1, "{count} pulls downloaded more than once");
    if to == "store" {
        return place.assert_nothing_kept();
    }
    assert_eq!(registry.count("GET /v2/x/manifests"), 1, "each asked for the manifest");
    assert_arrived(&place);
}

#[test]
fn two_pulls_at_once_are_one_download() {
    assert_one_download("two", 2, "both");
}

#[test]
fn ten_pulls_at_once_are_one_download() {
    assert_one_download("ten", 10, "node");
    assert_one_download("ten-stored", 10, "store");
}

#[test]
fn a_hundred_pulls_at_once_are_one_download() {
    assert_one_download("hundred", 100, "both");
}

#[test]
fn a_layer_that_is_there_twice_is_stored_once() {
    let place = place("twice");
    let layer = || Layer::new().file("a", 0o644, "a");
    let image = Image::new().layer(layer()).layer(layer()).build();
    let registry = Faulty::serve(&image);
    place.shifter(&["pull", "--to", "store", &registry.name()]).success();
    assert_eq!(registry.count(&format!("blobs/{}", image.blobs()[0].digest())), 1);
    place.shifter(&["pull", "--to", "node", &registry.name()]).success();
    assert_eq!(place.read("a"), "a");
}

#[test]
fn a_thousand_layers_need_no_thousand_files() {
    let place = place("thousand");
    let image = (0..1000).fold(Image::new(), |image, n| {
        let layer = Layer::new().file(&format!("f{n}"), 0o644, format!("{n}"));
        image.layer_as(layer, Compression::None)
    });
    let registry = Faulty::serve(&image.build());
    let script = format!("ulimit -n 256; exec shifter pull --to node {}", registry.name());
    run(place.command("sh", &["-c", &script])).success();
    assert_eq!(place.read("f999"), "999");
    assert_eq!(list(&place.rootfs()).len(), 1000);
}

/// A control group with a limit to its memory, removed in the end.
struct Group(PathBuf);

impl Group {
    fn new(name: &str, limit: u64) -> Option<Group> {
        // Version 1 where it has the controller, else version 2.
        let v1 = Path::new("/sys/fs/cgroup/memory");
        let (root, file) = match v1.is_dir() {
            true => (v1, "memory.limit_in_bytes"),
            false => (Path::new("/sys/fs/cgroup"), "memory.max"),
        };
        let path = root.join(format!("shifter-test-{name}-{}", std::process::id()));
        fs::create_dir(&path).ok()?;
        let group = Group(path);
        fs::write(group.0.join(file), limit.to_string()).ok()?;
        Some(group)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// SECURITY R27: memory is space, too.
#[test]
fn a_job_with_too_little_memory_is_told_and_not_killed() {
    need!(root);
    let limit = 400 << 20;
    let Some(group) = Group::new("pull", limit) else {
        need::is_met("memory control groups", Err("none can be made here".into()));
        return;
    };
    let enter = group.0.join("cgroup.procs").display().to_string();
    let zeros = vec![0; 64 << 20];
    let many = (0..16).fold(Image::new(), |image, n| {
        image.layer_as(Layer::new().file(&format!("zeros{n}"), 0o644, &zeros), Compression::Zstd)
    });
    let registry = Faulty::serve(&many.build());
    let mut place = place("memory");
    // On a tmpfs, which is what is charged to the group.
    let memory = tempfile::tempdir_in("/dev/shm").expect("a tmpfs");
    fs::set_permissions(memory.path(), fs::Permissions::from_mode(0o777)).expect("chmod");
    place.node = memory.path().join("node");
    // Root enters the group, and goes on as the user.
    let pull = place.command("shifter", &["pull", "--to", "node", &registry.name()]);
    let mut command = Command::new("sh");
    command.args(["-c", "echo $$ >\"$0\" && exec \"$@\"", &enter]);
    let user = &place.user;
    command.args(["setpriv", "--reuid", &user.uid.to_string(), "--regid", &user.gid.to_string()]);
    command.args(["--clear-groups", "--"]).arg(SANDBOX.prefix().join("bin/shifter"));
    command.args(pull.get_args());
    command.envs(pull.get_envs().filter_map(|(name, value)| Some((name, value?))));
    let stderr = run(command).failure(125);
    assert_says(&stderr, &["the job has 419 MB of memory", "the image needs more than", "--mem"]);
    place.assert_clean();
}
