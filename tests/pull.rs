//! `shifter pull` against a real registry: what arrives, what is refused, what is left behind.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use fixtures::{
    Fault, Faulty, Place, Registry, Sandbox, Setup,
    image::{self, Compression, Image, Layer},
    need,
    place::{assert_says, list},
    run,
};

struct Site {
    sandbox: Sandbox,
    registry: Registry,
}

/// One registry for all tests of this file; each test has images of its own.
static SITE: LazyLock<Site> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let registry = Registry::start(&sandbox);
    Site { sandbox, registry }
});

impl Site {
    /// A user's place in the sandbox that no other test uses.
    fn place(&self, name: &str) -> Place {
        Place::new(&self.sandbox, name)
    }
}

/// Three layers, each packed in another way, that add, replace and remove.
///
/// No two are alike: what one test damages in the registry is nobody else's.
fn layered() -> Image {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed).to_string();
    let base = Layer::new()
        .file("base", 0o644, &count)
        .dir("etc", 0o755)
        .file("etc/version", 0o644, "1")
        .file("etc/removed", 0o644, "x")
        .dir("opaque", 0o755)
        .file("opaque/old", 0o644, "x")
        .dir("usr", 0o755)
        .dir("usr/lib", 0o755)
        .symlink("lib", "usr/lib");
    let middle = Layer::new()
        .file("middle", 0o644, &count)
        .file("etc/version", 0o600, "2")
        .whiteout("etc/removed")
        .opaque("opaque")
        .file("opaque/new", 0o644, "x");
    let top = Layer::new()
        .file("top", 0o644, &count)
        .file("lib/through", 0o644, "link")
        .hardlink("etc/same", "etc/version");
    Image::new()
        .layer_as(base, Compression::Gzip)
        .layer_as(middle, Compression::Zstd)
        .layer_as(top, Compression::None)
}

fn assert_layered(place: &Place) {
    assert_eq!(place.read("etc/version"), "2");
    assert_eq!(place.read("etc/same"), "2");
    assert_eq!(place.read("usr/lib/through"), "link");
    assert_eq!(list(&place.rootfs().join("etc")), ["same", "version"]);
    assert_eq!(list(&place.rootfs().join("opaque")), ["new"]);
}

#[test]
fn an_image_arrives_in_the_store_and_on_the_node() {
    need!(root, registry);
    let place = SITE.place("arrives");
    let digest = SITE.registry.push("arrives:1", &layered().build());
    let name = SITE.registry.name("arrives:1");
    let stdout = place.pull(&name).success();
    assert_eq!(stdout, format!("{name}@{digest}\n"));
    assert_layered(&place);
    assert_eq!(list(&place.store), ["blobs", "index.json", "locks", "oci-layout", "partial"]);
    assert_eq!(list(&place.store.join("blobs/sha256")).len(), 5);
    assert!(list(&place.node.join("partial")).is_empty());
}

#[test]
fn dockers_manifests_are_as_good() {
    need!(root, registry);
    let place = SITE.place("docker");
    let image = Image::new().docker().layer(Layer::new().file("a", 0o644, "docker"));
    SITE.registry.push("docker:1", &image.build());
    place.pull(&SITE.registry.name("docker:1")).success();
    assert_eq!(place.read("a"), "docker");
}

#[test]
fn an_index_gives_this_machines_image() {
    need!(root, registry);
    let place = SITE.place("index");
    let image =
        |arch: &str| Image::new().architecture(arch).layer(Layer::new().file("arch", 0o644, arch));
    let here = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let index = image::index(&[image("s390x"), image(here)]);
    let registry = Registry::start(&SITE.sandbox);
    let digest = registry.push("index:1", &index);
    let name = registry.name("index:1");
    place.pull(&name).success();
    assert_eq!(place.read("arch"), here);
    // Pinned to the index's digest, it is the image that is here.
    registry.stop();
    let pinned = format!("{}@{digest}", registry.name("index"));
    place.shifter(&["run", "--dry-run", &pinned, "true"]).success();

    let other = SITE.place("index-other");
    SITE.registry.push("index:2", &image::index(&[image("s390x"), image("ppc64le")]));
    let stderr = other.pull(&SITE.registry.name("index:2")).failure(125);
    assert_says(&stderr, &["pull ", "no image for linux/", "linux/s390x, linux/ppc64le"]);
    other.assert_clean();
}

#[test]
fn other_tools_read_the_store() {
    need!(root, registry, skopeo, umoci);
    let place = SITE.place("tools");
    let image = Image::new()
        .layer(Layer::new().dir("etc", 0o755).file("etc/version", 0o644, "1"))
        .layer(Layer::new().file("etc/version", 0o644, "2"));
    SITE.registry.push("tools:1", &image.build());
    let name = SITE.registry.name("tools:1");
    place.shifter(&["pull", "--to", "store", &name]).success();
    assert!(list(&place.node).is_empty(), "--to store expanded something");
    let layout = format!("oci:{}:{name}", place.store.display());
    let inspected = run(place.command("skopeo", &["inspect", &layout])).success();
    assert!(inspected.contains("\"Layers\""), "{inspected}");
    // umoci takes no name with a slash or colon: give it one.
    let plain = place.store.with_file_name("plain");
    let copy = format!("oci:{}:x", plain.display());
    run(place.command("skopeo", &["copy", "-q", &layout, &copy])).success();
    let bundle = place.store.with_file_name("bundle");
    let image = format!("{}:x", plain.display());
    let args = ["unpack", "--rootless", "--image", &image, &bundle.display().to_string()];
    run(place.command("umoci", &args)).success();
    assert_eq!(fs::read_to_string(bundle.join("rootfs/etc/version")).ok().as_deref(), Some("2"));
}

#[test]
fn a_stored_image_needs_no_registry() {
    need!(root, registry);
    let place = SITE.place("stored");
    let registry = Registry::start(&SITE.sandbox);
    registry.push("stored:1", &layered().build());
    let name = registry.name("stored:1");
    place.shifter(&["pull", "--to", "store", &name]).success();
    registry.stop();
    place.shifter(&["run", "--dry-run", &name, "true"]).success();
    assert_layered(&place);
}

#[test]
fn a_stored_layer_that_the_disk_has_damaged_is_pulled_again() {
    need!(root, registry);
    let place = SITE.place("rotten");
    let built = layered().build();
    SITE.registry.push("rotten:1", &built);
    let name = SITE.registry.name("rotten:1");
    place.shifter(&["pull", "--to", "store", &name]).success();
    let layer = &built.blobs()[0];
    let path = place.store.join("blobs/sha256").join(&layer.digest()[7..]);
    let mut bytes = layer.bytes().to_vec();
    bytes[30] ^= 1;
    fs::write(&path, bytes).expect("damage a blob");
    place.shifter(&["run", "--dry-run", &name, "true"]).success();
    assert_layered(&place);
}

#[test]
fn an_unchanged_image_costs_one_question() {
    need!(root, registry);
    let place = SITE.place("unchanged");
    SITE.registry.push("unchanged:1", &layered().build());
    let name = SITE.registry.name("unchanged:1");
    place.pull(&name).success();
    // The registry writes its log when it has answered, and a little later: manifest,
    // configuration, three layers.
    let fetched = || SITE.registry.accesses_to("unchanged");
    fixtures::eventually(Duration::from_secs(10), "five fetches in the log", || {
        (fetched().iter().filter(|a| a.method == "GET").count() == 5).then_some(())
    });
    let before = fetched().len();
    let again = place.pull(&name);
    assert!(again.stderr.contains("is up to date"), "{again}");
    again.success();
    let asked = fixtures::eventually(Duration::from_secs(10), "a question in the log", || {
        let asked = fetched().split_off(before);
        asked.iter().any(|a| a.path.contains("manifests")).then_some(asked)
    });
    let about_images: Vec<_> = asked.iter().filter(|a| a.path.contains("manifests")).collect();
    assert_eq!(about_images.len(), 1, "{asked:?}");
    assert_eq!(about_images[0].method, "HEAD");
}

#[test]
fn a_tag_that_moved_is_followed() {
    need!(root, registry);
    let place = SITE.place("moved");
    let image = |text: &str| Image::new().layer(Layer::new().file("a", 0o644, text)).build();
    let name = SITE.registry.name("moved:1");
    SITE.registry.push("moved:1", &image("old"));
    place.shifter(&["pull", "--to", "store", &name]).success();
    SITE.registry.push("moved:1", &image("new"));
    place.pull(&name).success();
    assert_eq!(place.read("a"), "new");
}

/// SECURITY R14.
#[test]
fn every_damaged_blob_is_noticed() {
    need!(root, registry);
    let built = layered().build();
    SITE.registry.push("damaged:1", &built);
    let name = SITE.registry.name("damaged:1");
    let manifest = built.root().digest();
    for blob in built.blobs().iter().chain(built.manifests()) {
        let digest = blob.digest();
        let place = SITE.place(&format!("damaged-{}", &digest[7..15]));
        let _damage = SITE.registry.corrupt(&digest);
        let outcome = place.pull(&name);
        if digest == manifest {
            // This registry notices by itself that a manifest is damaged, and serves none.
            outcome.failure(125);
        } else {
            let stderr = outcome.failure(125);
            assert_says(&stderr, &["pull ", &name, "sent other content", &digest, "try again"]);
        }
        place.assert_clean();
    }
    let place = SITE.place("undamaged");
    place.pull(&name).success();
    assert_layered(&place);
}

/// SECURITY R14, R25.
#[test]
fn a_blob_of_another_length_is_noticed() {
    need!(root, registry);
    let built = layered().build();
    SITE.registry.push("short:1", &built);
    let layer = built.blobs().iter().find(|b| b.media_type().ends_with("gzip")).expect("gzip");
    let place = SITE.place("short");
    let _damage = SITE.registry.truncate(&layer.digest(), layer.bytes().len() as u64 - 1);
    let stderr = place.pull(&SITE.registry.name("short:1")).failure(125);
    assert_says(&stderr, &["layer", &layer.digest(), "expected", "bytes"]);
    place.assert_clean();
}

/// An image whose manifest has been edited after the fact.
fn push_edited(name: &str, image: &Image, edit: impl FnOnce(&mut serde_json::Value)) {
    SITE.registry.push(name, &image.build_with(edit));
}

/// SECURITY R14.
#[test]
fn sizes_that_the_manifest_gets_wrong_are_noticed() {
    need!(root, registry);
    for by in [1i64, -1] {
        let place = SITE.place(&format!("size{by}"));
        let name = format!("size:{}", by + 2);
        push_edited(&name, &layered(), |manifest| {
            let size = manifest["layers"][0]["size"].as_i64().expect("a size");
            manifest["layers"][0]["size"] = (size + by).into();
        });
        let stderr = place.pull(&SITE.registry.name(&name)).failure(125);
        assert_says(&stderr, &["layer sha256:", "expected"]);
        place.assert_clean();
    }
}

/// SECURITY R14: diff_ids.
#[test]
fn content_that_is_not_what_the_configuration_says_is_noticed() {
    need!(root, registry);
    let place = SITE.place("diffid");
    let wrong = image::digest(b"something else");
    let bytes = image::gzip(&Layer::new().file("a", 0o644, "a").to_tar());
    let image = Image::new().layer_of(&wrong, bytes, Compression::Gzip);
    SITE.registry.push("diffid:1", &image.build());
    let config = SITE.sandbox.write("diffid.toml", "check_diff_ids = true");
    let mut command = place.command("shifter", &["pull", &SITE.registry.name("diffid:1")]);
    command.env("SHIFTER_CONFIG", config);
    let stderr = run(command).failure(125);
    assert_says(&stderr, &["uncompressed content", &wrong, "damaged"]);
    place.assert_clean();
}

/// SECURITY R15.
#[test]
fn images_of_other_kinds_are_refused_by_name() {
    need!(root, registry);
    let place = SITE.place("kinds");
    let kind = "application/vnd.example.model.layer.v1.tar";
    push_edited("kinds:1", &layered(), |manifest| manifest["layers"][0]["mediaType"] = kind.into());
    let stderr = place.pull(&SITE.registry.name("kinds:1")).failure(125);
    assert_says(&stderr, &["layer type", kind, "not supported"]);
    place.assert_clean();
}

#[test]
fn what_is_not_there_is_said() {
    need!(root, registry);
    SITE.registry.push("there:1", &layered().build());
    for image in ["there:2", "nowhere:1"] {
        let place = SITE.place(&format!("absent-{}", &image[..5]));
        let name = SITE.registry.name(image);
        let stderr = place.pull(&name).failure(125);
        assert_says(&stderr, &["pull ", &name, "has no image", "check the name and the tag"]);
        place.assert_clean();
    }
}

#[test]
fn a_registry_that_is_not_there_is_said() {
    need!(root);
    let place = SITE.place("unreachable");
    for (name, cause) in [
        ("127.0.0.1:1/x:1", "connection refused"),
        ("no-such-host.invalid/x:1", "no-such-host.invalid"),
    ] {
        let stderr = place.pull(name).failure(125).to_lowercase();
        assert_says(&stderr, &["pull ", "cannot reach registry", cause, "check its name"]);
        place.assert_clean();
    }
}

#[test]
fn a_private_registry_wants_a_login() {
    need!(root, registry, htpasswd);
    let sandbox = &SITE.sandbox;
    let credentials = Some(("alice".to_owned(), "se:cret".to_owned()));
    let registry = Registry::start_with(sandbox, Setup { credentials, ..Setup::default() });
    registry.push("private:1", &layered().build());
    let name = registry.name("private:1");

    let place = SITE.place("private");
    let stderr = place.pull(&name).failure(125);
    assert_says(&stderr, &["refuses access to private", "no credentials are stored", "log in"]);
    place.assert_clean();

    let login = |password: &str| {
        use base64::{Engine as _, engine::general_purpose::STANDARD};
        let auth = STANDARD.encode(format!("alice:{password}"));
        let file = serde_json::json!({"auths": {registry.address(): {"auth": auth}}});
        sandbox.write(format!("auth-{}.json", password.len()), file.to_string())
    };
    let pull = |auth: PathBuf| {
        let mut command = place.command("shifter", &["pull", &name]);
        command.env("REGISTRY_AUTH_FILE", auth);
        run(command)
    };
    let stderr = pull(login("wrong")).failure(125);
    assert_says(&stderr, &["the credentials of ", "auth-5.json are not accepted", "log in"]);
    assert!(!stderr.contains("wrong"), "a password is in the message: {stderr}");
    place.assert_clean();
    pull(login("se:cret")).success();
    assert_layered(&place);
}

#[test]
fn a_private_authority_is_trusted_where_the_site_says_so() {
    need!(root, registry, openssl);
    let registry = Registry::start_with(&SITE.sandbox, Setup { tls: true, ..Setup::default() });
    registry.push("tls:1", &layered().build());
    let name = format!("{}/tls:1", registry.tls_address());
    let place = SITE.place("tls");
    let stderr = place.pull(&name).failure(125);
    assert_says(&stderr, &["cannot reach registry", "certificate", "private CA", "shifter.toml"]);
    let config = SITE.sandbox.write(
        "tls.toml",
        format!(
            "[[registry]]\nhost = {:?}\nca_file = {:?}\n",
            registry.tls_address(),
            registry.ca_file()
        ),
    );
    let mut command = place.command("shifter", &["pull", &name]);
    command.env("SHIFTER_CONFIG", config);
    run(command).success();
    assert_layered(&place);
}

#[test]
fn a_wrong_command_line_is_not_a_failed_pull() {
    need!(root);
    let place = SITE.place("usage");
    let stderr = place.pull("Nvidia/cuda").failure(2);
    assert_says(&stderr, &["\"Nvidia/cuda\"", "lower-case (position 0)", "write [REGISTRY/]"]);
    place.shifter(&["pull"]).failure(2);
    assert!(list(&place.node).is_empty() && list(&place.store).is_empty());
}

#[test]
fn a_node_directory_that_cannot_be_used_is_said() {
    need!(root, registry);
    SITE.registry.push("nodedir:1", &layered().build());
    let name = SITE.registry.name("nodedir:1");
    let mut place = SITE.place("nodedir");
    place.node = SITE.sandbox.make_dir("pull/nodedir-readonly", 0o555).join("node");
    let stderr = place.pull(&name).failure(125);
    let node = place.node.display().to_string();
    assert_says(
        &stderr,
        &["create node directory", &node, "permission denied", "SHIFTER_NODE_DIR"],
    );
    place.node = SITE.sandbox.make_dir("pull/nodedir-foreign", 0o777);
    let stderr = place.pull(&name).failure(125);
    assert_says(&stderr, &["open node directory", "belongs to another user"]);
    place.assert_clean();
}

/// A small tmpfs that the user may write to, unmounted in the end.
struct SmallTmpfs(PathBuf);

impl SmallTmpfs {
    fn mount(path: PathBuf, limit: &str) -> SmallTmpfs {
        let mut command = Command::new("mount");
        let options = format!("{limit},mode=0777");
        command.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&path);
        run(command).success();
        SmallTmpfs(path)
    }
}

impl Drop for SmallTmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// SECURITY R27.
#[test]
fn a_full_node_directory_is_said_and_left_empty() {
    need!(root, registry);
    // Small when packed: only the writing itself shows that it does not fit.
    let zeros = Layer::new().file("zeros", 0o644, vec![0; 8 << 20]);
    SITE.registry.push("full:late", &Image::new().layer(zeros).build());
    // Too big even when packed: refused before the first byte.
    let noise: Vec<u8> =
        (0..8u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let noise = Layer::new().file("noise", 0o644, noise);
    SITE.registry.push("full:early", &Image::new().layer_as(noise, Compression::None).build());
    // Room enough, and too many files.
    let many = (0..40).fold(Layer::new(), |layer, n| layer.file(&format!("d/{n}"), 0o644, ""));
    SITE.registry.push("full:files", &Image::new().layer(many).build());
    for (image, limit, says) in [
        // What was free was not enough for the part that had come.
        ("full:late", "size=2m", " MB, 2.1 MB are free"),
        ("full:early", "size=2m", "needs more than 8.4 MB, 2.1 MB are free"),
        ("full:files", "nr_inodes=40", "takes no more files"),
    ] {
        let mut place = SITE.place(&image.replace(':', "-"));
        let dir = SITE.sandbox.make_dir(format!("pull/tmpfs-{}", &image[5..]), 0o777);
        let tmpfs = SmallTmpfs::mount(dir, limit);
        place.node = tmpfs.0.join("node");
        let name = SITE.registry.name(image);
        let stderr = place.shifter(&["pull", "--to", "node", &name]).failure(125);
        let node = place.node.display().to_string();
        assert_says(&stderr, &["pull ", &node, "is full", says, "SHIFTER_NODE_DIR"]);
        place.assert_clean();
    }
}

#[test]
fn a_node_directory_without_a_limit_is_not_full() {
    need!(root, registry);
    SITE.registry.push("unlimited:1", &layered().build());
    let mut place = SITE.place("unlimited");
    let tmpfs = SmallTmpfs::mount(SITE.sandbox.make_dir("pull/tmpfs-unlimited", 0o777), "size=0");
    place.node = tmpfs.0.join("node");
    place.pull(&SITE.registry.name("unlimited:1")).success();
    assert_layered(&place);
}

/// SECURITY R27.
#[test]
fn a_full_node_directory_ends_the_download() {
    need!(root);
    let mut place = SITE.place("full-ends");
    let tmpfs = SmallTmpfs::mount(SITE.sandbox.make_dir("pull/tmpfs-ends", 0o777), "size=2m");
    place.node = tmpfs.0.join("node");
    // Full after the first kilobytes; the rest comes so slowly that it would take minutes.
    let noise: Vec<u8> =
        (0..1u32 << 17).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let layer = Layer::new().file("zeros", 0o644, vec![0; 8 << 20]).file("noise", 0o644, noise);
    let image = Image::new().layer(layer).build();
    let registry = Faulty::serve(&image);
    registry.fail("blobs/", 1, Fault::Cut(20_000)).fail("blobs/", 1000, Fault::Cut(1000));
    let outcome = place.shifter(&["pull", "--to", "node", &registry.name()]);
    assert!(outcome.wall < Duration::from_secs(10), "it went on for nothing: {outcome}");
    assert_says(&outcome.failure(125), &["is full", "SHIFTER_NODE_DIR"]);
    place.assert_clean();
}

#[test]
fn a_node_directory_that_takes_no_more_files_is_said() {
    need!(root, registry);
    SITE.registry.push("inodes:1", &layered().build());
    let mut place = SITE.place("inodes");
    let options = "size=2m,nr_inodes=12";
    let tmpfs = SmallTmpfs::mount(SITE.sandbox.make_dir("pull/tmpfs-inodes", 0o777), options);
    place.node = tmpfs.0.join("node");
    let stderr = place.pull(&SITE.registry.name("inodes:1")).failure(125);
    let node = place.node.display().to_string();
    assert_says(&stderr, &[&node, "takes no more files", "SHIFTER_NODE_DIR"]);
    assert!(!stderr.contains("SHIFTER_STORE"), "{stderr}");
    place.assert_clean();
}

#[test]
fn a_store_that_cannot_be_written_to_is_said_and_left_as_it_was() {
    need!(root, registry);
    let noise: Vec<u8> =
        (0..1u32 << 20).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let noise = Layer::new().file("noise", 0o644, noise);
    SITE.registry.push("store:1", &Image::new().layer_as(noise, Compression::None).build());
    let name = SITE.registry.name("store:1");
    let mut place = SITE.place("store-full");
    let tmpfs = SmallTmpfs::mount(SITE.sandbox.make_dir("pull/tmpfs-store", 0o777), "size=2m");
    place.store = tmpfs.0.join("store");
    let store = place.store.display().to_string();
    let stderr = place.pull(&name).failure(125);
    let says = "is full: the image needs more than 4.2 MB, 2.1 MB are free";
    assert_says(&stderr, &[&store, says, "or set SHIFTER_STORE"]);
    place.assert_clean();

    let mut remount = Command::new("mount");
    remount.args(["-o", "remount,ro"]).arg(&tmpfs.0);
    run(remount).success();
    let stderr = place.pull(&name).failure(125);
    assert_says(&stderr, &["create ", &store, "read-only file system", "set SHIFTER_STORE"]);
    place.assert_clean();
}

#[test]
fn many_pulls_of_one_image_are_one() {
    need!(root, registry);
    let place = SITE.place("many");
    let built = layered().build();
    SITE.registry.push("many:1", &built);
    let name = SITE.registry.name("many:1");
    let runs: Vec<_> = (0..6)
        .map(|_| {
            let mut command = place.command("shifter", &["pull", "--to", "node", &name]);
            command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::piped());
            command.spawn().expect("start shifter")
        })
        .collect();
    for run in runs {
        let output = run.wait_with_output().expect("wait");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_layered(&place);
    let layer = built.blobs()[0].digest();
    let fetched = fixtures::eventually(Duration::from_secs(10), "a fetch in the log", || {
        let accesses = SITE.registry.accesses_to("many");
        let gets = accesses.iter().filter(|a| a.method == "GET" && a.path.contains(&layer));
        Some(gets.count()).filter(|count| *count > 0)
    });
    assert_eq!(fetched, 1, "one image, fetched {fetched} times");
}

#[test]
fn an_interrupted_pull_leaves_nothing() {
    need!(root, registry);
    let place = SITE.place("interrupted");
    let files = (0..2000)
        .fold(Layer::new(), |layer, n| layer.file(&format!("f{n}"), 0o644, vec![n as u8; 20_000]));
    SITE.registry.push("interrupted:1", &Image::new().layer(files).build());
    let name = SITE.registry.name("interrupted:1");
    let mut child = place.command("shifter", &["pull", &name]).spawn().expect("start shifter");
    let partial = place.node.join("partial");
    fixtures::eventually(Duration::from_secs(20), "a pull in the middle", || {
        // A layer's own folder: before that, documents come, and a signal simply ends it.
        list(&partial).iter().any(|tree| partial.join(tree).join("0").is_dir()).then_some(())
    });
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("kill");
    let status = child.wait().expect("wait");
    // It may have been quicker than the signal.
    if !status.success() {
        assert_eq!(status.code(), Some(128 + 15));
        place.assert_clean();
    }
}

/// SECURITY R26.
#[test]
fn a_killed_pull_is_cleaned_up_by_the_next() {
    need!(root, registry);
    let place = SITE.place("killed");
    let built = layered().build();
    SITE.registry.push("killed:1", &built);
    let name = SITE.registry.name("killed:1");
    place.shifter(&["pull", "--to", "node", &name]).success();
    // What kill -9 in the middle of another image leaves behind.
    let dead = place.node.join("partial").join(&image::digest(b"dead")[7..]);
    let mut mkdir = place.user.command(&SITE.sandbox, "mkdir");
    mkdir.args(["-p", "-m", "0555"]).arg(dead.join("0/etc"));
    run(mkdir).success();
    SITE.registry.push("killed:2", &Image::new().layer(Layer::new().file("b", 0o644, "b")).build());
    place.shifter(&["pull", "--to", "node", &SITE.registry.name("killed:2")]).success();
    assert!(list(&place.node.join("partial")).is_empty(), "a dead pull's files stay");
}
