//! Real images: Debian, Python, numpy and an MPI from their packages, in layers by real writers, are
//! on a node what other tools make of them, name by name. Where the trees are to differ, a rule says
//! so, and why; a rule that explains nothing is an error as well.

mod build;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Read,
    os::unix::fs::MetadataExt,
    path::PathBuf,
    sync::LazyLock,
};

use fixtures::{
    Place, Registry, Sandbox, Setup, User,
    image::digest,
    need,
    place::list,
    run,
    tree::{self, Item, Tree},
};

struct Images {
    sandbox: Sandbox,
    registry: Registry,
    dir: PathBuf,
}

static IMAGES: LazyLock<Images> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let dir = build::cached(&sandbox);
    let data = Some(dir.join("registry"));
    let registry = Registry::start_with(&sandbox, Setup { data, ..Setup::default() });
    Images { sandbox, registry, dir }
});

// ---- how they are compared

/// Where our tree differs from a peer's.
#[derive(Debug)]
struct Difference<'a> {
    path: &'a str,
    /// `absent`: we have no such name. `added`: they have none. Else, what is different about it;
    /// of an extended attribute, its name.
    what: &'a str,
    ours: Option<&'a Item>,
    theirs: Option<&'a Item>,
}

fn differences<'a>(ours: &'a Tree, theirs: &'a Tree) -> Vec<Difference<'a>> {
    let paths: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let mut found = Vec::new();
    for path in paths {
        let (ours, theirs) = (ours.get(path), theirs.get(path));
        let mut add = |what| found.push(Difference { path, what, ours, theirs });
        let (Some(a), Some(b)) = (ours, theirs) else {
            add(if ours.is_none() { "absent" } else { "added" });
            continue;
        };
        for (what, equal) in [
            ("kind", a.kind == b.kind),
            ("mode", a.mode == b.mode),
            ("time", a.mtime == b.mtime),
            ("content", a.content == b.content),
            ("names", a.same_as == b.same_as),
        ] {
            if !equal {
                add(what);
            }
        }
        let names: BTreeSet<_> = a.xattrs.keys().chain(b.xattrs.keys()).collect();
        let differs = |name: &&String| a.xattrs.get(*name) != b.xattrs.get(*name);
        names.into_iter().filter(differs).for_each(|name| add(name));
    }
    found
}

impl Difference<'_> {
    /// They have this kind of thing where we have nothing.
    fn lacks(&self, kind: char) -> bool {
        self.what == "absent" && self.theirs.is_some_and(|item| item.kind == kind)
    }
}

/// A difference that is meant to be. The owner is none of them: all is the user's own, and that is
/// looked at by itself.
struct Rule {
    /// What it is, and why it is right.
    why: &'static str,
    explains: fn(&Difference<'_>) -> bool,
}

const DEVICES: Rule = Rule {
    why: "devices are not made (SECURITY R6): a container has the node's own /dev",
    explains: |found| found.lacks('c') || found.lacks('b'),
};
const NO_DEVICES: Rule = Rule {
    why: "who is not root cannot make devices: umoci puts an empty file in the place of each",
    explains: |found| {
        let is_device = found.path.starts_with("dev/") || found.path.ends_with("/zero");
        let is_empty = found.theirs.is_some_and(|item| item.content.starts_with("0 "));
        found.lacks('f') && is_device && is_empty
    },
};
const CAPABILITIES: Rule = Rule {
    why: "file capabilities are not set (SECURITY R7): they would be rights on the node",
    explains: |found| {
        let set = found.ours.is_some_and(|item| item.xattrs.contains_key(found.what));
        found.what == "security.capability" && !set
    },
};
const BOOKKEEPING: Rule = Rule {
    why: "umoci notes the owner that it could not set; the layers in the store have it",
    explains: |found| found.what == "user.rootlesscontainers",
};
const EPOCH: Rule = Rule {
    why: "containers/storage knows no time before 1970",
    explains: |found| {
        let ours = found.ours.is_some_and(|item| item.mtime < 0);
        found.what == "time" && ours && found.theirs.is_some_and(|item| item.mtime == 0)
    },
};
const UPPER_DIRECTORIES: Rule = Rule {
    why: "a directory that an upper layer changes and does not describe gets in overlayfs, where \
          that layer has to make it anew, the time of the unpacking; here it keeps its own",
    explains: |found| {
        let is_directory = found.ours.is_some_and(|item| item.kind == 'd');
        let is_later = found.ours.map(|item| item.mtime) < found.theirs.map(|item| item.mtime);
        found.what == "time" && is_directory && is_later
    },
};
const OVERLAY_ROOT: Rule = Rule {
    why: "containers/storage gives the root of every container its own mode",
    explains: |found| found.path == "." && found.what == "mode",
};
const NO_ROOT: Rule = Rule {
    why: "a root that no layer describes is closed to others, as what holds it is",
    explains: |found| {
        let closed = found.ours.is_some_and(|item| item.mode == 0o700);
        found.path == "." && closed && matches!(found.what, "mode" | "time")
    },
};

impl Images {
    fn place(&self, name: &str) -> Place {
        Place::new(&self.sandbox, name)
    }

    fn name(&self, image: &str) -> String {
        self.registry.name(&format!("{image}:1"))
    }

    /// What another tool made of an image.
    fn peer(&self, name: &str) -> Tree {
        let tree = fs::read(self.dir.join(format!("{name}.json"))).expect("it was built");
        serde_json::from_slice(&tree).expect("this test wrote it")
    }
}

/// All differences are explained, and every rule explains some.
#[track_caller]
fn assert_same(ours: &Tree, peer: &str, rules: &[Rule]) {
    let theirs = IMAGES.peer(peer);
    let mut used = vec![0; rules.len()];
    let mut unexplained = Vec::new();
    for found in differences(ours, &theirs) {
        match rules.iter().position(|rule| (rule.explains)(&found)) {
            Some(rule) => used[rule] += 1,
            None => unexplained.push(format!("{found:?}")),
        }
    }
    let count = unexplained.len();
    unexplained.truncate(20);
    assert!(count == 0, "{peer}: {count} differences:\n{}", unexplained.join("\n"));
    let idle: Vec<_> =
        rules.iter().zip(used).filter(|(_, used)| *used == 0).map(|(rule, _)| rule.why).collect();
    assert!(idle.is_empty(), "{peer}: nothing is explained by: {}", idle.join("; "));
}

/// Pulls an image to the node, as an ordinary user.
#[track_caller]
fn pull(place: &Place, image: &str) -> Tree {
    run(place.command("shifter-pull", &["--to", "node", &IMAGES.name(image)])).success();
    let tree = tree::read(&place.rootfs());
    let strangers = tree.iter().filter(|(_, item)| item.owner != (place.user.uid, place.user.gid));
    assert_eq!(strangers.count(), 0, "not all is the user's own");
    let markers = tree.keys().filter(|path| path.split('/').any(|name| name.starts_with(".wh.")));
    assert_eq!(markers.count(), 0, "whiteouts are in the tree");
    tree
}

// ---- the images

#[test]
fn a_debootstrapped_debian_is_what_umoci_makes_of_it() {
    need!(root, registry, umoci, writers);
    let tree = pull(&IMAGES.place("base"), "base");
    assert!(tree.len() > 5000, "that is no Debian: {} names", tree.len());
    assert_same(&tree, "base.umoci-root", &[DEVICES]);
}

/// Layers that are not compressed, with opaque directories.
#[test]
fn layers_of_buildah_are_what_umoci_makes_of_them() {
    need!(root, registry, umoci, writers);
    let place = IMAGES.place("plain");
    let tree = pull(&place, "plain");
    assert_same(&tree, "plain.umoci-root", &[DEVICES]);
    // What makes the image worth its time is in it.
    let kind = |path: &str| tree.get(path).map(|item| item.kind);
    assert_eq!(kind("usr/share/perl5/again/file"), Some('f'), "opaque and filled again");
    assert_eq!(kind("usr/share/perl5/Debconf"), None, "opaque");
    assert_eq!(kind("usr/share/zoneinfo"), Some('l'), "a directory that became a link");
    assert_eq!(kind("etc/skel"), Some('f'), "a directory that became a file");
    assert_eq!(kind("etc/motd"), Some('d'), "a file that became a directory");
    let entries = |marker| layers(&place, "plain", |path, _| path.ends_with(marker));
    assert_eq!(entries("perl5/.wh..wh..opq"), 1);
    assert_eq!(entries("share/.wh.doc"), 1);
}

#[test]
fn a_stack_of_many_writers_is_what_other_tools_make_of_it() {
    need!(root, registry, umoci, writers);
    let tree = pull(&IMAGES.place("stack"), "stack");
    assert_same(&tree, "stack.umoci-root", &[DEVICES, CAPABILITIES]);
    assert_same(&tree, "stack.umoci-user", &[NO_DEVICES, BOOKKEEPING]);
    let rules = [DEVICES, CAPABILITIES, EPOCH, UPPER_DIRECTORIES, OVERLAY_ROOT];
    assert_same(&tree, "stack.buildah", &rules);
    for writer in ["pax", "bsd", "tarfile"] {
        let item = &tree[&format!("opt/{writer}/bin/tool")];
        assert_eq!(item.xattrs.get("user.color").map(String::as_str), Some("0x626c7565"));
    }
}

/// By the compressor that skopeo has, which is not the one that we have.
#[test]
fn the_same_stack_in_zstd_is_the_same_tree() {
    need!(root, registry, umoci, writers);
    let place = IMAGES.place("zstd");
    assert_same(&pull(&place, "zstd"), "stack.umoci-root", &[DEVICES, CAPABILITIES]);
    let types: BTreeSet<_> = manifest(&place, "zstd").into_iter().map(|layer| layer.0).collect();
    assert!(types.contains("application/vnd.oci.image.layer.v1.tar+zstd"), "{types:?}");
}

#[test]
fn files_with_holes_are_what_they_were_and_have_holes() {
    need!(root, registry, umoci, writers);
    let place = IMAGES.place("sparse");
    let tree = pull(&place, "sparse");
    assert_same(&tree, "sparse.source", &[NO_ROOT]);
    for format in ["gnu", "pax-0.0", "pax-0.1", "pax-1.0", "bsd"] {
        for (name, most) in
            [("nothing", 0), ("end", 8 << 10), ("begin", 8 << 10), ("many", 1 << 20)]
        {
            let file = place.rootfs().join(format).join(name);
            let metadata = file.symlink_metadata().expect("it was compared");
            let (taken, size) = (metadata.blocks() * 512, metadata.len());
            assert!(taken <= most, "{format}/{name}: {taken} bytes on disk for {size}");
        }
    }
}

// ---- owners

/// The layers of a stored image, from the lowest: media type, and the file that holds it.
fn manifest(place: &Place, image: &str) -> Vec<(String, PathBuf)> {
    run(place.command("shifter-pull", &["--to", "store", &IMAGES.name(image)])).success();
    let blobs = place.store.join("blobs/sha256");
    let read = |name: &str| fs::read(blobs.join(name)).expect("it is in the store");
    let mut found = Vec::new();
    for name in list(&blobs) {
        let Ok(document) = serde_json::from_slice::<serde_json::Value>(&read(&name)) else {
            continue;
        };
        for layer in document["layers"].as_array().into_iter().flatten() {
            let word = |key: &str| layer[key].as_str().expect("a descriptor has it").to_owned();
            let path = blobs.join(&word("digest")["sha256:".len()..]);
            found.push((word("mediaType"), path));
        }
    }
    found
}

/// How many entries of a stored image's layers answer yes.
fn layers(place: &Place, image: &str, mut ask: impl FnMut(&str, &tar::Header) -> bool) -> usize {
    let mut count = 0;
    for (kind, path) in manifest(place, image) {
        let bytes = fs::read(&path).expect("a layer is in the store");
        let name = path.file_name().expect("it has one").to_string_lossy();
        assert_eq!(digest(&bytes), format!("sha256:{name}"), "the store changed a layer");
        let content: Box<dyn Read> = match kind.ends_with("gzip") {
            true => Box::new(flate2::read::MultiGzDecoder::new(&*bytes)),
            false => Box::new(&*bytes),
        };
        let mut archive = tar::Archive::new(content);
        for entry in archive.entries().expect("a layer is an archive") {
            let entry = entry.expect("it is sound");
            let path = entry.path_bytes();
            count += usize::from(ask(&String::from_utf8_lossy(&path), entry.header()));
        }
    }
    count
}

/// On the node all is the user's own: nobody else's files could be made. Who owned what is kept in
/// the store, where the layers are byte for byte what came.
#[test]
fn the_store_keeps_the_owners_that_a_node_cannot_have() {
    need!(root, registry, umoci, writers);
    let mut owners = BTreeMap::new();
    layers(&IMAGES.place("owners"), "stack", |path, header| {
        let number = |value: std::io::Result<u64>| value.expect("a number");
        let path = path.trim_start_matches("./").to_owned();
        owners.insert(path, (number(header.uid()), number(header.gid())));
        false
    });
    for writer in ["gnu", "pax", "bsd", "tarfile"] {
        assert_eq!(owners[&format!("opt/{writer}/bin/tool")], (1000, 1001), "{writer}");
        // Too large for seven octal digits.
        assert_eq!(owners[&format!("opt/{writer}/closed")], (3_000_000, 3_000_001), "{writer}");
    }
    assert_eq!(owners["etc/shadow"].0, 0);
    assert_ne!(owners["etc/shadow"].1, 0, "shadow is a group of its own");
}

/// SECURITY R22: they would run as whoever pulled the image.
#[test]
fn set_user_id_programs_are_kept_and_nobody_else_gets_at_them() {
    need!(root, registry, umoci, writers);
    let place = IMAGES.place("setuid");
    let tree = pull(&place, "base");
    let programs: Vec<_> = tree.iter().filter(|(_, item)| item.mode & 0o6000 != 0).collect();
    let of_kind = |kind| programs.iter().filter(|(_, item)| item.kind == kind).count();
    assert!(of_kind('f') >= 5 && of_kind('d') >= 1, "Debian has more: {programs:?}");
    let id = u32::from(u16::MAX) - 1;
    let nobody = User { name: "nobody".into(), uid: id, gid: id, home: "/".into() };
    for (path, _) in programs {
        let file = place.rootfs().join(path);
        let mut stat = nobody.command(&IMAGES.sandbox, "stat");
        stat.arg(&file);
        assert!(run(stat).failure(1).contains("Permission denied"), "others reach {path}");
        run(place.command("stat", &[&file.display().to_string()])).success();
    }
}

// ---- at work

#[test]
fn python_numpy_and_mpi_run() {
    need!(root, registry, umoci, writers, userns);
    let place = IMAGES.place("work");
    let name = IMAGES.name("stack");
    let shifter = |command: &[&str]| place.shifter(&[&["run", &name][..], command].concat());
    let sum = "import numpy; print(numpy.arange(6).reshape(2, 3).sum(axis=0))";
    assert_eq!(shifter(&["python3", "-c", sum]).success(), "[3 5 7]\n");
    // Python takes a .pyc file only if it knows the time of its source.
    let stale = "import importlib.util as u, numpy, os, struct
source, cached = numpy.__spec__.origin, numpy.__spec__.cached
print(struct.unpack('<I', open(cached, 'rb').read()[8:12])[0] == int(os.stat(source).st_mtime))";
    assert_eq!(shifter(&["python3", "-c", stale]).success(), "True\n");
    // On a busy machine this mpiexec writes to a proxy that has ended, and ends by SIGPIPE: 9 of 550 times on
    // the host, 16 of 1100 in containers.
    let ranks = ["mpiexec", "-n", "2", "sh", "-c", "echo rank $PMI_RANK of $PMI_SIZE"];
    let mut tries = (0..5).map(|_| shifter(&ranks));
    let said = tries.find(|said| said.code != 128 + 13).expect("not each time");
    let mut ranks: Vec<_> = said.stdout.lines().collect();
    ranks.sort_unstable();
    assert_eq!(ranks, ["rank 0 of 2", "rank 1 of 2"], "{said}");
}

/// In a Debian as it is: files of several owners, a script that makes a user, and apt, which becomes
/// another user.
#[test]
fn packages_of_several_owners_are_installed_by_who_is_root_inside() {
    need!(root, registry, umoci, writers, userns);
    let place = IMAGES.place("packages");
    let name = IMAGES.name("base");
    let dir = IMAGES.sandbox.make_dir("packages", 0o755);
    let script = "cd \"$1\" && mkdir -p owners/DEBIAN owners/opt/owners && cd owners &&
printf '%s\\n' 'Package: owners' 'Version: 1' 'Architecture: all' 'Maintainer: a <a@b>' \
    'Description: of several' > DEBIAN/control &&
printf '#!/bin/sh\\nset -e\\nuseradd -r -u 432 many\\nchown many:many /opt/owners/33\\n' > DEBIAN/postinst &&
chmod 755 DEBIAN/postinst && cd opt/owners && touch 0 33 65534 &&
chown 33:42 33 && chown 65534:0 65534 && chmod 2755 . && cd ../../.. && dpkg-deb -b owners owners.deb";
    let mut build = std::process::Command::new("sh");
    build.args(["-c", script, "sh"]).arg(&dir);
    run(build).success();

    let volume = format!("{}:/packages:ro", dir.display());
    let inside = |options: &[&str], script: &str| {
        let words = [&["run", "-v", &volume], options, &[&name, "sh", "-c", script]];
        place.shifter(&words.concat())
    };
    let said = inside(&[], "dpkg -i /packages/owners.deb");
    assert!(said.code != 0 && said.stderr.contains("superuser"), "{said}");
    let install = "dpkg -i /packages/owners.deb >&2 && dpkg --verify owners && \
                   apt-get remove -qq -y owners >&2 && userdel many && \
                   apt-get install -qq -y /packages/owners.deb >&2 && \
                   dpkg-query -W owners && id -un many && stat -c %u:%a /opt/owners/33";
    let said = inside(&["--remap-root", "--name", "packages"], install);
    assert_eq!(said.clone().success(), "owners\t1\nmany\n0:644\n", "{said}");
    // With a name, it is installed for the next time, and so is its user.
    let said = inside(&["--name", "packages"], "dpkg-query -W owners && id -un many");
    assert_eq!(said.success(), "owners\t1\nmany\n");
}
