//! Layers in a notation of their own, applied to a directory that has something to lose beside it.
//!
//! A layer is a list of entries in a string, separated by `;`, a leading word says the type:
//! `d` directory, `f` file (`f PATH=CONTENT`), `l` symbolic link (`l PATH -> TARGET`), `h` hard
//! link, `p` fifo, `c` device. `:MODE` after a path gives its mode. A tree is told in the same
//! notation, sorted by path.

// In a test a panic is the report.
#![allow(clippy::unwrap_used)]

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File, Permissions},
    io::Read,
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::OsStringExt,
            fs::{FileTypeExt, MetadataExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    process::Command,
};

use ::tar::{EntryType, Header};

use super::*;

/// A tar archive in the making.
#[derive(Clone, Default)]
struct Tar(Vec<u8>);

/// Everything that one entry can say.
struct Item<'a> {
    kind: u8,
    name: &'a [u8],
    link: &'a [u8],
    mode: u32,
    mtime: u64,
    content: &'a [u8],
}

impl Default for Item<'_> {
    fn default() -> Self {
        Item { kind: b'0', name: b"f", link: b"", mode: 0o644, mtime: 1_000_000, content: b"" }
    }
}

impl Tar {
    fn item(&mut self, item: &Item<'_>) -> &mut Tar {
        self.raw(item, |_| {})
    }

    /// An entry whose header is spoilt before its checksum is made.
    fn raw(&mut self, item: &Item<'_>, spoil: impl FnOnce(&mut Header)) -> &mut Tar {
        for (kind, long) in [(b'L', item.name), (b'K', item.link)] {
            if long.len() > 100 {
                self.item(&Item { kind, name: b"././@LongLink", content: long, ..Item::default() });
            }
        }
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        let name = &item.name[..item.name.len().min(100)];
        old.name[..name.len()].copy_from_slice(name);
        let link = &item.link[..item.link.len().min(100)];
        old.linkname[..link.len()].copy_from_slice(link);
        header.as_old_mut().linkflag = [item.kind];
        header.set_mode(item.mode);
        header.set_mtime(item.mtime);
        header.set_size(item.content.len() as u64);
        spoil(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(item.content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    /// PAX records for the next entry.
    fn pax(&mut self, records: &[(&str, &[u8])]) -> &mut Tar {
        let mut content = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            let length = (1..).find(|n| rest + n.to_string().len() == *n).expect("a length fits");
            content.extend_from_slice(format!("{length} {key}=").as_bytes());
            content.extend_from_slice(value);
            content.push(b'\n');
        }
        self.item(&Item { kind: b'x', name: b"pax", content: &content, ..Item::default() })
    }

    fn end(&mut self) -> &mut Tar {
        self.0.resize(self.0.len() + 1024, 0);
        self
    }

    /// Adds the entries of a layer's notation.
    fn notation(&mut self, layer: &str) -> &mut Tar {
        for (index, entry) in layer.split(';').map(str::trim).filter(|e| !e.is_empty()).enumerate()
        {
            let (kind, rest) = entry.split_once(' ').expect("a type and a path");
            let (path, value) = match kind {
                "f" => rest.split_once('=').unwrap_or((rest, "")),
                "l" | "h" => rest.split_once(" -> ").expect("a link and its target"),
                _ => (rest, ""),
            };
            let (path, mode) = path.split_once(':').unwrap_or((path, ""));
            let plain = if kind == "d" { 0o755 } else { 0o644 };
            let (kind, link, content) = match kind {
                "d" => (b'5', "", ""),
                "f" => (b'0', "", value),
                "l" => (b'2', value, ""),
                "h" => (b'1', value, ""),
                "p" => (b'6', "", ""),
                "c" => (b'3', "", ""),
                other => panic!("type {other}"),
            };
            self.item(&Item {
                kind,
                name: path.as_bytes(),
                link: link.as_bytes(),
                mode: u32::from_str_radix(mode, 8).unwrap_or(plain),
                mtime: 1_000_000 + index as u64,
                content: content.as_bytes(),
            });
        }
        self
    }
}

fn layer(notation: &str) -> Tar {
    Tar::default().notation(notation).end().clone()
}

/// A tree between a file that must not be read and a directory that must not be changed.
struct Site {
    base: tempfile::TempDir,
    before: Vec<String>,
}

impl Site {
    fn new() -> Site {
        let base = tempfile::tempdir().expect("a temporary directory");
        let outside = base.path().join("outside");
        fs::create_dir_all(outside.join("sub")).unwrap();
        fs::write(outside.join("secret"), "secret").unwrap();
        fs::write(outside.join("sub/f"), "f").unwrap();
        let before = tell(&outside);
        fs::create_dir(base.path().join("root")).unwrap();
        Site { base, before }
    }

    fn root(&self) -> PathBuf {
        self.base.path().join("root")
    }

    fn expand(&self, index: usize, tar: &[u8]) -> Result<(OwnedFd, Expanded), Error> {
        let staging = self.base.path().join(format!("staging-{index}"));
        fs::create_dir(&staging).unwrap();
        let fd = OwnedFd::from(File::open(&staging).unwrap());
        // A small buffer, so that entries lie across its ends.
        let stream = io::BufReader::with_capacity(700, tar);
        expand(stream, fd.as_fd(), &Limits::default()).map(|expanded| (fd, expanded))
    }

    fn apply(&self, layers: &[Tar]) -> Result<Summary, Error> {
        let result = self.apply_unwatched(layers);
        let now = tell(&self.base.path().join("outside"));
        assert_eq!(now, self.before, "THE HOST WAS CHANGED: a layer got out of its tree");
        result
    }

    fn apply_unwatched(&self, layers: &[Tar]) -> Result<Summary, Error> {
        let mut tree = Tree::new(File::open(self.root()).unwrap().into());
        let mut expanded = Vec::new();
        for (index, tar) in layers.iter().enumerate() {
            expanded.push(self.expand(index, &tar.0)?);
        }
        for (staging, layer) in expanded {
            tree.merge(staging, layer)?;
        }
        tree.finish()
    }
}

impl Drop for Site {
    /// Directories of mode 0000 are beyond what tempfile removes.
    fn drop(&mut self) {
        let base = File::open(self.base.path()).unwrap();
        for entry in fs::read_dir(self.base.path()).unwrap() {
            remove_tree(base.as_fd(), &entry.unwrap().file_name()).expect("remove a tree");
        }
    }
}

/// What a tree looks like, in the notation.
fn tell(root: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    let mut seen = HashMap::new();
    tell_dir(root, Path::new(""), &mut seen, &mut lines);
    lines
}

fn tell_dir(root: &Path, dir: &Path, seen: &mut HashMap<u64, PathBuf>, lines: &mut Vec<String>) {
    let mut names: Vec<_> =
        fs::read_dir(root.join(dir)).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let path = dir.join(name);
        let full = root.join(&path);
        let meta = full.symlink_metadata().unwrap();
        let (kind, mode) = (meta.file_type(), meta.mode() & 0o7777);
        let shown = path.display();
        let with_mode = |plain| {
            if mode == plain { String::new() } else { format!(":{mode:o}") }
        };
        let first = seen.entry(meta.ino()).or_insert_with(|| path.clone());
        if kind.is_symlink() {
            let target = fs::read_link(&full).unwrap();
            lines.push(format!("l {shown} -> {}", target.display()));
        } else if kind.is_dir() {
            lines.push(format!("d {shown}{}", with_mode(0o755)));
            fs::set_permissions(&full, Permissions::from_mode(mode | 0o700)).unwrap();
            tell_dir(root, &path, seen, lines);
            fs::set_permissions(&full, Permissions::from_mode(mode)).unwrap();
        } else if *first != path {
            lines.push(format!("h {shown} -> {}", first.display()));
        } else if kind.is_fifo() {
            lines.push(format!("p {shown}{}", with_mode(0o644)));
        } else {
            fs::set_permissions(&full, Permissions::from_mode(mode | 0o400)).unwrap();
            let content = fs::read(&full).unwrap();
            fs::set_permissions(&full, Permissions::from_mode(mode)).unwrap();
            let content = String::from_utf8_lossy(&content);
            lines.push(format!("f {shown}{}={content}", with_mode(0o644)));
        }
    }
}

fn check(label: &str, layers: &[&str], expected: &str) {
    let site = Site::new();
    let layers: Vec<Tar> = layers.iter().map(|notation| layer(notation)).collect();
    let result = site.apply(&layers);
    match expected.strip_prefix("ERROR ") {
        Some(part) => {
            let error = result.expect_err(label).to_string();
            assert!(error.contains(part), "{label}: {error}");
        }
        None => {
            result.expect(label);
            let expected: Vec<_> = expected.split(';').map(str::trim).collect();
            let expected: Vec<_> = expected.into_iter().filter(|e| !e.is_empty()).collect();
            assert_eq!(tell(&site.root()), expected, "{label}");
        }
    }
}

#[test]
fn layers_give_what_applying_them_in_order_gives() {
    for (label, layers, tree) in [
        // SECURITY.md, section 5, row by row.
        (
            "file below a lower symlink",
            &["d usr; d usr/lib; f usr/lib/one=1; l lib -> usr/lib", "f lib/two=2"][..],
            "l lib -> usr/lib; d usr; d usr/lib; f usr/lib/one=1; f usr/lib/two=2",
        ),
        (
            "file below a lower symlink that leads nowhere yet",
            &["l lib -> /usr/lib", "f lib/two=2"],
            "l lib -> /usr/lib; d usr; d usr/lib; f usr/lib/two=2",
        ),
        ("hard link to a lower layer's file", &["f a=1", "h b -> a"], "f a=1; h b -> a"),
        (
            "hard link through a lower symlink",
            &["d usr; d usr/lib; f usr/lib/a=1; l lib -> usr/lib", "h lib/b -> /lib/a"],
            "l lib -> usr/lib; d usr; d usr/lib; f usr/lib/a=1; h usr/lib/b -> usr/lib/a",
        ),
        (
            "whiteout and re-add of a directory",
            &["d d; f d/old=1; d d/sub; f d/sub/x=1", "f .wh.d; d d; f d/new=2"],
            "d d; f d/new=2",
        ),
        (
            "re-add of a directory and whiteout",
            &["d d; f d/old=1", "d d; f d/new=2; f .wh.d"],
            "d d; f d/new=2",
        ),
        ("an entry, then its whiteout", &["f a=1", "f a=2; f .wh.a"], "f a=2"),
        ("a whiteout, then its entry", &["f a=1", "f .wh.a; f a=2"], "f a=2"),
        ("opaque in /", &["d d; f d/x=1; f y=1", "f .wh..wh..opq; f z=2"], "f z=2"),
        ("opaque, last", &["d d; f d/x=1", "d d; f d/y=2; f d/.wh..wh..opq"], "d d; f d/y=2"),
        ("names with ..", &["f ../../etc/a=1; f x/../../b=2"], "f b=2; d etc; f etc/a=1"),
        ("absolute names", &["f /etc/a=1"], "d etc; f etc/a=1"),
        ("file below a file", &["f a=1; f a/b=2"], "ERROR a/b: lies below something"),
        ("file below a lower file", &["f a=1", "f a/b=2"], "ERROR a: lies below something"),
        ("devices are not made", &["c dev/null; f .wh.x; c dev/zero"], ""),
        ("fifo", &["p run/pipe:600"], "d run; p run/pipe:600"),
        ("a name twice: the last wins", &["f a=1; f a=2"], "f a=2"),
        (
            "directories without rights",
            &["d a:0; f a/b:0=1; d c:500; d c/d:500; f c/d/e=1"],
            "d a:0; f a/b:0=1; d c:500; d c/d:500; f c/d/e=1",
        ),
        // Entries of one layer.
        ("file, then directory", &["f a=1; d a; f a/b=2"], "d a; f a/b=2"),
        ("directory, then file", &["d a; d a/b; f a/b/c=1; f a=2"], "f a=2"),
        ("directory, then link", &["d a; f a/b=1; l a -> c"], "l a -> c"),
        ("link, then directory", &["d c; l a -> c; d a; f a/x=1"], "d a; f a/x=1; d c"),
        ("link, then file", &["f c=1; l a -> c; f a=2"], "f a=2; f c=1"),
        ("directory twice", &["d a:700; f a/b=1; d a:711"], "d a:711; f a/b=1"),
        ("implicit directories", &["f a/b/c=1"], "d a; d a/b; f a/b/c=1"),
        ("implicit, then declared", &["f a/b=1; d a:700"], "d a:700; f a/b=1"),
        ("the root described", &["d ./:711; f a=1"], "f a=1"),
        ("through a link of its own", &["d x; l y -> x; f y/z=1"], "d x; f x/z=1; l y -> x"),
        (
            "a dangling link of its own",
            &["l y -> ../../x/./w; f y/z=1"],
            "d x; d x/w; f x/w/z=1; l y -> ../../x/./w",
        ),
        (
            "directory cache, R3",
            &["d a; f a/1=1; d b; l a -> b; f a/2=2"],
            "l a -> b; d b; f b/2=2",
        ),
        (
            "directory cache through a link, R3",
            &["d b; d c; l a -> b; f a/1=1; l a -> c; f a/2=2"],
            "l a -> c; d b; f b/1=1; d c; f c/2=2",
        ),
        ("hard links", &["f a=1; h b -> a; h c -> ./b"], "f a=1; h b -> a; h c -> a"),
        ("hard link to a symbolic link", &["l a -> x; h b -> a"], "l a -> x; l b -> x"),
        ("hard link over a directory", &["f a=1; d b; f b/c=1; h b -> a"], "f a=1; h b -> a"),
        ("hard link to itself", &["f a=1; h a -> a"], "f a=1"),
        ("hard link, then a file of its name", &["f a=1", "h b -> a; f b=2"], "f a=1; f b=2"),
        ("hard link in a directory that goes", &["f a=1", "h d/b -> a; f d=2"], "f a=1; f d=2"),
        (
            "hard link to a waiting hard link",
            &["f a=1", "h b -> a; h c -> b; f b=2"],
            "f a=1; f b=2; h c -> a",
        ),
        ("hard link to the lower one of two", &["f a=1", "h b -> a; f a=2"], "f a=2; f b=1"),
        ("hard link to the upper one of two", &["f a=1", "f a=2; h b -> a"], "f a=2; h b -> a"),
        (
            "hard link to the upper one, by the lower one's link",
            &["d u; f u/a=1; l v -> u", "f u/a=2; h b -> v/a"],
            "f b=2; d u; h u/a -> b; l v -> u",
        ),
        ("hard link to what the same layer takes away", &["f a=1", "f .wh.a; h b -> a"], "f b=1"),
        (
            "hard link through an own link into a lower directory",
            &["d e; f e/x=1", "l d -> e; h y -> d/x"],
            "l d -> e; d e; f e/x=1; h y -> e/x",
        ),
        ("hard link before its target", &["h b -> a; f a=1"], "f a=1; h b -> a"),
        ("hard link to nothing", &["h b -> a"], "ERROR b: a hard link to a file that does not"),
        ("hard link to a directory", &["d a; h b -> a"], "ERROR b: a hard link to a directory"),
        ("hard link to a lower directory", &["d a", "h b -> a"], "ERROR b: a hard link to a direc"),
        ("hard link to the root", &["h b -> .."], "ERROR b: a hard link to the root"),
        (
            "file below a hard link to a lower file",
            &["f a=1", "h b -> a; f b/c=2"],
            "ERROR b: a hard link with entries below it",
        ),
        // Entries over lower ones.
        ("file over file", &["f a=1", "f a=2"], "f a=2"),
        ("file over a hard link leaves the other", &["f a=1; h b -> a", "f a=2"], "f a=2; f b=1"),
        ("file over directory", &["d a; d a/b; f a/b/c=1", "f a=2"], "f a=2"),
        (
            "link over directory",
            &["d a; f a/b=1; d c", "l a -> c; f a/x=2"],
            "l a -> c; d c; f c/x=2",
        ),
        ("directory over file", &["f a=1", "d a; f a/b=2"], "d a; f a/b=2"),
        (
            "directory over link",
            &["d c; f c/x=1; l a -> c", "d a; f a/b=2"],
            "d a; f a/b=2; d c; f c/x=1",
        ),
        (
            "directory over directory",
            &["d a:700; f a/x=1; d a/s:711", "d a:751; f a/y=2"],
            "d a:751; d a/s:711; f a/x=1; f a/y=2",
        ),
        ("implicit over directory", &["d a:700; f a/x=1", "f a/y=2"], "d a:700; f a/x=1; f a/y=2"),
        (
            "a directory's mode goes with it",
            &["d a:700; d a/b:711", "f a=1", "f a/b/c=1"],
            "ERROR a: lies below",
        ),
        (
            "a directory's mode goes with a whiteout",
            &["d a:700; d a/b:711", "f .wh.a", "f a/b/c=1"],
            "d a; d a/b; f a/b/c=1",
        ),
        (
            "a mode never passes a link, R4",
            &["d a:700; d c:755", "f .wh.a", "l a -> c"],
            "l a -> c; d c",
        ),
        (
            "directories without rights, merged",
            &["d a:0; d a/b:0; f a/b/x=1", "f a/b/y=2", "d a/b:500; f a/.wh.z; f .wh.q"],
            "d a:0; d a/b:500; f a/b/x=1; f a/b/y=2",
        ),
        (
            "a lower link out of a deeper directory",
            &["d a; d a/b; d x; d x/y; l a/b/l -> ../../x", "f a/b/l/y/z=1; d n; f n/m=1"],
            "d a; d a/b; l a/b/l -> ../../x; d n; f n/m=1; d x; d x/y; f x/y/z=1",
        ),
        // Whiteouts.
        ("whiteout of nothing", &["f a=1", "f .wh.b; f c/.wh.d"], "f a=1"),
        ("whiteout of a link, not its target", &["d a; l b -> a", "f .wh.b"], "d a"),
        (
            "whiteout through a lower link",
            &["d a; f a/x=1; f a/y=1; l b -> a", "f b/.wh.x"],
            "d a; f a/y=1; l b -> a",
        ),
        (
            "whiteout below a link that is replaced",
            &["d e; f e/x=1; l d -> e", "d d; f d/.wh.x"],
            "d d; d e; f e/x=1",
        ),
        (
            "opaque where a link is replaced",
            &["d e; f e/x=1; l d -> e", "d d; f d/.wh..wh..opq"],
            "d d; d e; f e/x=1",
        ),
        (
            "opaque through a lower link",
            &["d e; f e/x=1; l d -> e", "f d/.wh..wh..opq"],
            "l d -> e; d e",
        ),
        ("whiteout as a directory", &["f a=1", "d .wh.a"], ""),
        (
            "aufs bookkeeping",
            &["f .wh..wh.plnk/1.2=x; f .wh..wh.aufs; d .wh..wh.orph; f a=1"],
            "f a=1",
        ),
        ("whiteout in a layer below", &["f .wh.a; f b/.wh..wh..opq", "f a=1"], "f a=1"),
        ("whiteout of what comes again", &["f a=1", "f .wh.a", "f a=3"], "f a=3"),
        ("an empty layer", &["f a=1", "", "f b=2"], "f a=1; f b=2"),
    ] {
        check(label, layers, tree);
    }
}

#[test]
fn no_layer_gets_out_of_its_tree() {
    let site = Site::new();
    let outside = site.base.path().join("outside");
    let outside = outside.to_str().unwrap();
    drop(site);
    for (label, layers) in [
        ("..", vec!["f ../outside/secret=X; d ../outside:0; f ../../../../../../tmp/x=X".into()]),
        ("absolute", vec![format!("f {outside}/secret=X; d {outside}:0")]),
        ("link, then through it", vec![format!("l e -> {outside}; f e/secret=X; d e/sub:0")]),
        ("relative link", vec!["l e -> ../outside; f e/secret=X; f e/sub/f=X".into()]),
        ("link of a lower layer", vec![format!("l e -> {outside}"), "f e/secret=X".into()]),
        ("relative link of a lower layer", vec!["l e -> ../outside".into(), "f e/secret=X".into()]),
        ("link at the end", vec![format!("l e -> {outside}/secret; f e=X")]),
        ("link at the end, lower", vec![format!("l e -> {outside}/secret"), "f e=X".into()]),
        ("chmod of a link", vec![format!("l e -> {outside}; d e:0"), "d e:0".into()]),
        ("two links", vec!["d a; l a/b -> ..; l c -> a/b/..; f c/outside/secret=X".into()]),
        ("whiteout through a link", vec![format!("l e -> {outside}"), "f e/.wh.secret".into()]),
        ("opaque through a link", vec!["l e -> ../outside".into(), "f e/.wh..wh..opq".into()]),
        ("whiteout with ..", vec!["f ../outside/.wh.secret; f ../.wh.outside".into()]),
        ("dir over link, whiteout", vec![format!("l e -> {outside}"), "d e; f e/.wh.sub".into()]),
        ("hard link out, replaced", vec!["l e -> ../outside; h s -> e/secret; f s=X".into()]),
        (
            "proc",
            vec!["l e -> /proc/self/cwd; f e/x=X; l r -> /proc/self/root; f r/tmp/x=X".into()],
        ),
    ] {
        let site = Site::new();
        let layers: Vec<Tar> = layers.iter().map(|notation: &String| layer(notation)).collect();
        // Whether it is an error is told elsewhere; `apply` looks at what lies outside.
        let _ = site.apply(&layers);
        let tree = tell(&site.root()).join(";");
        assert!(!tree.contains("=secret"), "{label}: a file from outside came in: {tree}");
    }
}

#[test]
fn what_cannot_be_carried_out_is_refused() {
    for (notation, problem) in [
        ("h b -> /../outside/secret", "does not exist"),
        ("l e -> ../outside; h b -> e/secret", "does not exist"),
        ("f .wh.=", "whiteout of no name"),
        ("f a/.wh..=", "whiteout of no name"),
        ("f .wh...=", "whiteout of no name"),
        ("f .=x", "the root must be"),
        ("l /. -> /tmp", "the root must be"),
        ("l a/.. -> /tmp", "the root must be"),
        ("h / -> /etc/passwd", "the root must be"),
        ("p .", "the root must be"),
        ("l a -> b; l b -> a; f a/x=1", "too many symbolic links"),
        ("l a -> a; f a/x=1", "too many symbolic links"),
        ("p a; f a/x=1", "lies below"),
        ("l a -> b; f b=1; f a/x=1", "lies below"),
    ] {
        let site = Site::new();
        let error = site.apply(&[layer(notation)]).expect_err(notation).to_string();
        assert!(error.contains(problem), "{notation}: {error}");
    }
}

fn content_of(tar: &Tar) -> Result<Vec<String>, Error> {
    let site = Site::new();
    site.apply(std::slice::from_ref(tar))?;
    Ok(tell(&site.root()))
}

fn error_of(tar: &Tar) -> String {
    content_of(tar).expect_err("it must not be taken").to_string()
}

#[test]
fn framing_is_read_as_go_reads_it() {
    let a = || Item { name: b"a", content: b"data", ..Item::default() };
    let b = || Item { name: b"b", content: b"B", ..Item::default() };
    let told = |tar: &Tar| content_of(tar).expect("a good archive").join("; ");

    // PAX size wins over the header's, be that zero or not (CVE-2025-62518, CVE-2026-33055).
    for header_size in [0, 3, 1 << 40] {
        let mut tar = Tar::default();
        tar.pax(&[("size", b"4")]).raw(&a(), |h| h.set_size(header_size)).item(&b()).end();
        assert_eq!(told(&tar), "f a=data; f b=B", "header size {header_size}");
    }
    // What carries no data has none, whatever size it claims.
    for kind in [b'1', b'2', b'3', b'5', b'6'] {
        let mut tar = Tar::default();
        tar.item(&b());
        let item = Item { kind, name: b"x", link: b"b", ..Item::default() };
        tar.raw(&item, |h| h.set_size(512)).item(&a()).end();
        assert!(told(&tar).starts_with("f a=data; f b=B"), "type {}", char::from(kind));
    }
    // Global headers are ignored, size and all.
    let mut tar = Tar::default();
    let global = Item { kind: b'g', name: b"g", content: b"13 path=evil\n", ..Item::default() };
    tar.item(&global).item(&a()).end();
    assert_eq!(told(&tar), "f a=data");
    // Extended headers wait for the next real entry.
    let mut tar = Tar::default();
    let long = "d/".repeat(70) + "f";
    tar.pax(&[("mtime", b"5.5")]);
    tar.item(&Item { name: long.as_bytes(), ..a() }).end();
    let lines = content_of(&tar).expect("long name");
    assert_eq!(lines.last().map(String::as_str), Some(&*format!("f {long}=data")));
    // Two names for one entry are refused unless they are one.
    let mut tar = Tar::default();
    let l = |content| Item { kind: b'L', name: b"L", content, ..Item::default() };
    tar.pax(&[("path", b"x")]).item(&l(b"y\0")).item(&a()).end();
    assert!(error_of(&tar).contains("two different names"));
    let mut tar = Tar::default();
    tar.pax(&[("path", b"y")]).item(&l(b"y\0")).item(&a()).end();
    assert_eq!(told(&tar), "f y=data");
    // Old archives: a file whose name ends in a slash.
    let mut tar = Tar::default();
    tar.item(&Item { kind: 0, name: b"d/", mode: 0o755, ..Item::default() });
    tar.item(&Item { kind: 0, ..a() }).end();
    assert_eq!(told(&tar), "f a=data; d d");
    // The end: missing, half, and followed by what is no entry.
    let mut tar = Tar::default();
    tar.item(&a());
    assert_eq!(told(&tar), "f a=data");
    tar.0.resize(tar.0.len() + 512, 0);
    assert_eq!(told(&tar), "f a=data");
    tar.0.resize(tar.0.len() + 512, 0);
    tar.item(&b()).0.extend_from_slice(b"and garbage");
    assert_eq!(told(&tar), "f a=data");
    assert_eq!(told(&Tar::default()), "");
    // A prefix belongs to the name in ustar headers only.
    let mut tar = Tar::default();
    tar.raw(&a(), |h| {
        let bytes = h.as_mut_bytes();
        bytes[257..265].copy_from_slice(b"ustar\x0000");
        bytes[345..348].copy_from_slice(b"p/q");
    });
    assert_eq!(told(tar.end()), "d p; d p/q; f p/q/a=data");
}

#[test]
fn malformed_archives_are_refused() {
    let a = || Item { name: b"a", content: b"data", ..Item::default() };
    let spoilt = |spoil: &dyn Fn(&mut Header)| {
        let mut tar = Tar::default();
        tar.raw(&a(), |h| spoil(h)).end().clone()
    };
    let with = |kind, content: &[u8]| {
        let mut tar = Tar::default();
        tar.item(&Item { kind, name: b"x", content, ..Item::default() }).item(&a()).end().clone()
    };
    let good = layer("f a=data");
    let cut = |at: usize| Tar(good.0[..at].to_vec());
    let mut checksum = good.clone();
    checksum.0[0] = b'b';
    let mut zero = Tar(vec![0; 512]);
    zero.item(&a());
    let mut twice = Tar::default();
    twice.pax(&[("mtime", b"1")]).pax(&[("mtime", b"1")]).item(&a()).end();
    for (label, tar, problem) in [
        ("cut in a header", cut(100), "ends in the middle"),
        ("cut in the data", cut(514), "ends in the middle"),
        ("cut in the padding", cut(600), "ends in the middle"),
        ("checksum", checksum, "checksum"),
        ("zero block", zero, "after a zero block"),
        ("no archive", Tar(vec![b'x'; 2048]), "checksum"),
        ("bad size", spoilt(&|h| h.as_old_mut().size = *b"00000000009\0"), "size"),
        ("negative size", spoilt(&|h| h.as_old_mut().size = [0xff; 12]), "a negative size"),
        (
            "absurd size",
            spoilt(&|h| h.as_old_mut().size = *b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            "size",
        ),
        (
            "size of 8 EiB",
            spoilt(&|h| h.as_old_mut().size = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),
            "bytes",
        ),
        ("bad mode", spoilt(&|h| h.as_old_mut().mode = *b"rwxr-xr-"), "mode"),
        ("PAX without length", with(b'x', b"path=b\n"), "PAX record"),
        ("PAX too long", with(b'x', b"99 path=b\n"), "PAX record"),
        ("PAX too short", with(b'x', b"8 path=b\n"), "PAX record"),
        ("PAX without line end", with(b'x', b"9 path=bc"), "PAX record"),
        ("PAX without key", with(b'x', b"5 =b\n"), "PAX record"),
        ("PAX negative size", with(b'x', b"11 size=-1\n"), "a negative size"),
        ("PAX bad size", with(b'x', b"11 size=0x\n"), "PAX size"),
        ("PAX bad time", with(b'x', b"13 mtime=1.x\n"), "PAX mtime"),
        ("PAX NUL", with(b'x', b"12 path=b\0c\n"), "NUL"),
        ("PAX twice", twice, "two extended headers"),
        (
            "PAX without entry",
            Tar(with(b'x', b"9 path=b\n").0[..1024].to_vec()),
            "without an entry",
        ),
        ("PAX of 2 MiB", with(b'L', &vec![b'x'; 2 << 20]), "more than 1 MiB"),
        ("long name", with(b'L', &vec![b'x'; 40 << 10]), "too long"),
        (
            "GNU sparse",
            spoilt(&|h| h.set_entry_type(EntryType::GNUSparse)),
            "sparse entries are not",
        ),
        ("PAX sparse", with(b'x', b"22 GNU.sparse.major=1\n"), "sparse entries are not"),
    ] {
        let error = error_of(&tar);
        assert!(error.contains(problem), "{label}: {error}");
    }
    let error = error_of(&layer("h \x1b[2Jx -> nothing"));
    assert!(!error.contains('\x1b'), "a name reached the terminal: {error:?}");
}

#[test]
fn limits_hold() {
    let tar = layer("f a=12345; d b; f c/d/e=1");
    for (bytes, entries, problem) in [
        (5, 9, Some("more than 5 bytes")),
        (6, 5, None),
        (6, 4, Some("more than 4 entries")),
        (6, 2, Some("more than 2 entries")),
        (6, 3, Some("more than 3 entries")),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        let result = expand(&tar.0[..], fd.as_fd(), &Limits { bytes, entries });
        assert_eq!(result.is_ok(), problem.is_none(), "{bytes} {entries}");
        if let (Err(error), Some(problem)) = (result, problem) {
            assert!(error.to_string().contains(problem), "{error}");
        }
    }
    // Directories that are made on the way count as well.
    let dir = tempfile::tempdir().unwrap();
    let deep = layer(&format!("f {}f=1", "d/".repeat(2000)));
    let limits = Limits { bytes: 10, entries: 1000 };
    let fd = File::open(dir.path()).unwrap();
    expand(&deep.0[..], fd.as_fd(), &limits).expect_err("too many directories");
}

#[test]
fn whiteouts_cannot_fill_the_memory() {
    let tar = layer("f .wh.a; f .wh.b; f .wh.c");
    let dir = tempfile::tempdir().unwrap();
    let fd = File::open(dir.path()).unwrap();
    expand(&tar.0[..], fd.as_fd(), &Limits { bytes: 1, entries: 2 }).expect_err("three of two");
}

#[test]
fn the_whole_stream_is_read_and_its_errors_pass() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            let count = room.len().min(self.0);
            room[..count].fill(0);
            self.0 -= count;
            if count == 0 { Err(io::Error::other("digest mismatch")) } else { Ok(count) }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let fd = File::open(dir.path()).unwrap();
    let stream = io::BufReader::new(Broken(1 << 20));
    let error = expand(stream, fd.as_fd(), &Limits::default()).expect_err("digest");
    assert!(matches!(&error, Error::Read(e) if e.to_string() == "digest mismatch"), "{error}");
}

#[test]
fn modes_and_times_are_kept() {
    let mut tar = Tar::default();
    let mtime = |time: &'static [u8]| [("mtime", time)];
    tar.item(&Item { kind: b'5', name: b"d", mode: 0o1777, mtime: 7, ..Item::default() });
    tar.item(&Item { name: b"d/suid", mode: 0o6755, mtime: 8, content: b"x", ..Item::default() });
    tar.item(&Item { name: b"d/open", mode: 0o666, content: b"x", ..Item::default() });
    tar.pax(&mtime(b"12.345678901234"));
    tar.item(&Item { name: b"fine", ..Item::default() });
    tar.pax(&mtime(b"-1.25")).item(&Item { name: b"early", ..Item::default() });
    tar.raw(&Item { name: b"old", ..Item::default() }, |h| h.as_old_mut().mtime = [0xff; 12]);
    tar.item(&Item { kind: b'2', name: b"link", link: b"d", mtime: 9, ..Item::default() });
    tar.item(&Item { kind: b'6', name: b"fifo", mode: 0o622, mtime: 10, ..Item::default() });
    tar.item(&Item { kind: b'5', name: b"./", mode: 0o550, mtime: 11, ..Item::default() }).end();
    let site = Site::new();
    let above = layer("f d/new=1");
    let summary = site.apply(&[tar, above]).expect("both layers");
    assert_eq!((summary.files, summary.directories, summary.symlinks), (7, 3, 1));
    for (name, mode, seconds, nanos) in [
        ("", 0o550, 11, 0),
        ("d", 0o1777, 7, 0),
        ("d/suid", 0o6755, 8, 0),
        ("d/open", 0o666, 1_000_000, 0),
        ("fine", 0o644, 12, 345_678_901),
        ("early", 0o644, -2, 750_000_000),
        ("old", 0o644, -1, 0),
        ("link", 0o777, 9, 0),
        ("fifo", 0o622, 10, 0),
    ] {
        let meta = site.root().join(name).symlink_metadata().unwrap();
        let told = (meta.mode() & 0o7777, meta.mtime(), meta.mtime_nsec());
        assert_eq!(told, (mode, seconds, nanos), "{name}");
    }
}

#[test]
fn only_harmless_attributes_are_set() {
    let attributes = |fd: &File| {
        let names = crate::sys::xattr::flistxattr(fd).unwrap_or_default();
        String::from_utf8_lossy(&names).replace('\0', " ")
    };
    let records: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.user.good", b"a\nb\0c"),
        ("SCHILY.xattr.user.overlay.opaque", b"y"),
        ("SCHILY.xattr.user.fuseoverlayfs.opaque", b"y"),
        ("SCHILY.xattr.security.capability", b"\x01"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
    ];
    let dir = |mode| Item { kind: b'5', name: b"d", mode, ..Item::default() };
    let mut lower = Tar::default();
    lower.item(&dir(0o755)).end();
    let mut upper = Tar::default();
    upper.pax(records).item(&dir(0o555));
    upper.pax(records).item(&Item { name: b"d/f", mode: 0o444, ..Item::default() });
    upper.pax(records).item(&Item { kind: b'2', name: b"l", link: b"d", ..Item::default() }).end();
    let site = Site::new();
    let summary = site.apply(&[lower, upper]).expect("both layers");
    // A file system without user attributes drops one more of each.
    let file = File::open(site.root().join("d/f")).unwrap();
    if attributes(&file).is_empty() {
        assert_eq!(summary.dropped_xattrs, 15);
        return;
    }
    assert_eq!(summary.dropped_xattrs, 4 + 4 + 5);
    assert_eq!(attributes(&file).replace("security.selinux ", ""), "user.good ");
    assert_eq!(crate::sys::xattr::fgetxattr(&file, c"user.good").unwrap(), b"a\nb\0c");
    let dir = File::open(site.root().join("d")).unwrap();
    assert_eq!(attributes(&dir).replace("security.selinux ", ""), "user.good ");
}

#[test]
fn names_are_bytes() {
    let mut tar = Tar::default();
    tar.item(&Item { name: b"caf\xe9/\n\xff", content: b"x", ..Item::default() }).end();
    let site = Site::new();
    site.apply(&[tar]).expect("bytes");
    let name = std::ffi::OsString::from_vec(b"caf\xe9/\n\xff".to_vec());
    assert_eq!(fs::read(site.root().join(name)).unwrap(), b"x");
}

#[test]
fn paths_longer_than_one_system_call_takes_work() {
    let site = Site::new();
    let deep = |top: &str| format!("{top}{}", "/directory-of-some-length".repeat(300));
    let mut tar = Tar::default();
    tar.item(&Item { name: format!("{}/f", deep("a")).as_bytes(), ..Item::default() });
    tar.item(&Item { kind: b'5', name: deep("a").as_bytes(), mode: 0, ..Item::default() }).end();
    let mut over = Tar::default();
    over.item(&Item { name: format!("{}/g", deep("a")).as_bytes(), ..Item::default() });
    over.item(&Item { name: format!("{}/.wh.f", deep("a")).as_bytes(), ..Item::default() }).end();
    site.apply(&[tar, over]).expect("deep layers");
    let fd = File::open(site.root()).unwrap();
    let flags = nix::fcntl::OFlag::O_RDONLY;
    let dir = resolve::open_dir(fd.as_fd(), deep("a").as_bytes(), flags);
    if let Ok(dir) = dir {
        assert!(expand::kind(dir.as_fd(), b"g").is_ok(), "the deep file is missing");
        assert!(expand::kind(dir.as_fd(), b"f").is_err(), "the deep whiteout was lost");
    } else {
        assert!(!nix::unistd::geteuid().is_root(), "the deep directory is missing");
    }
    // Links and descents may not make it longer still without an end.
    let mut tar = Tar::default();
    let up = "d/".repeat(2000);
    for index in 1..=20 {
        let (name, link) = (format!("l{index}"), format!("l{}/{up}", index - 1));
        tar.item(&Item {
            kind: b'2',
            name: name.as_bytes(),
            link: link.as_bytes(),
            ..Item::default()
        });
    }
    tar.item(&Item { name: b"l20/f", ..Item::default() }).end();
    assert!(error_of(&tar).contains("too long"));
}

#[test]
fn trees_that_resist_are_removed() {
    let site = Site::new();
    let base = File::open(site.base.path()).unwrap();
    site.apply(&[layer(
        "d a:0; d a/b:555; f a/b/c:0=1; d a/b/d:0; l a/b/l -> ../../../outside; p a/p; f f=1",
    )])
    .expect("the layer");
    remove_tree(base.as_fd(), "root".as_ref()).expect("remove");
    assert!(!site.root().exists());
    remove_tree(base.as_fd(), "root".as_ref()).expect("what is not there is removed");
    // A link is removed, not what it leads to.
    std::os::unix::fs::symlink("outside", site.root()).unwrap();
    remove_tree(base.as_fd(), "root".as_ref()).expect("remove a link");
    assert!(site.root().symlink_metadata().is_err());
    assert_eq!(tell(&site.base.path().join("outside")), site.before, "THE HOST WAS CHANGED");
    // Deeper than PATH_MAX and than there are descriptors, and broad at the bottom.
    fs::create_dir(site.root()).unwrap();
    let mut at: OwnedFd = File::open(site.root()).unwrap().into();
    for _ in 0..5000 {
        nix::sys::stat::mkdirat(&at, "deep", nix::sys::stat::Mode::S_IRWXU).unwrap();
        let flags = nix::fcntl::OFlag::O_PATH;
        at = resolve::open_child(at.as_fd(), b"deep", flags).unwrap();
    }
    for index in 0..200 {
        let name = format!("{index}");
        nix::sys::stat::mkdirat(&at, name.as_str(), nix::sys::stat::Mode::empty()).unwrap();
    }
    remove_tree(base.as_fd(), "root".as_ref()).expect("remove a deep tree");
    assert!(!site.root().exists());
}

#[test]
fn a_full_file_system_is_told_apart() {
    let full = |errno| failed::<nix::errno::Errno>("write", b"a")(errno).is_no_space();
    assert!(full(nix::errno::Errno::ENOSPC) && full(nix::errno::Errno::EDQUOT));
    assert!(!full(nix::errno::Errno::EIO));
}

/// A small generator of numbers; the same on every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, bound: usize) -> usize {
        // Knuth's MMIX generator; its upper bits are the random ones.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    fn pick<'a>(&mut self, from: &[&'a str]) -> &'a str {
        from[self.below(from.len())]
    }

    fn path(&mut self) -> String {
        let mut path = self.pick(&["a", "b", "c"]).to_owned();
        for _ in 0..self.below(3) {
            path.push('/');
            path.push_str(self.pick(&["x", "y", "z"]));
        }
        path
    }

    /// A layer's notation, written as tools write them: each name once, parents first, nothing
    /// below what is no directory. `removals` are whiteouts and opaque directories.
    fn layer(&mut self, removals: bool) -> String {
        let mut entries: BTreeMap<String, String> = BTreeMap::new();
        for index in 0..1 + self.below(6) {
            let path = self.path();
            let (dir, base) = path.rsplit_once('/').map_or(("", &*path), |(d, b)| (d, b));
            let entry = match self.below(if removals { 12 } else { 9 }) {
                0..=2 => format!("f {path}={index}"),
                3..=4 => format!("d {path}:7{}5", self.below(6)),
                // Each link leads to a directory of its own: two names of one layer that are the
                // same only by a link of a lower one are beyond what the merge can order.
                5..=6 => {
                    let up = "../".repeat(path.matches('/').count());
                    let target = path.replace('/', "");
                    format!("l {path} -> {}t/{target}", self.pick(&["/", &up]))
                }
                // To what comes before it in a layer that has both.
                7 => match self.path() {
                    target if target < path => format!("h {path} -> {target}"),
                    _ => format!("f {path}={index}"),
                },
                8 => format!("p {path}"),
                9..=10 => format!("f {dir}/.wh.{base}"),
                _ => format!("f {path}/.wh..wh..opq"),
            };
            let leaf =
                |entry: &str| entry.starts_with(['f', 'h', 'l', 'p']) && !entry.contains(".wh.");
            let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|r| r.starts_with('/'));
            let clash = entries.iter().any(|(other, its)| {
                *other == path
                    || below(&path, other) && leaf(its)
                    || below(other, &path) && !entry.starts_with('d')
            });
            if !clash {
                entries.insert(path, entry);
            }
        }
        entries.into_values().collect::<Vec<_>>().join("; ")
    }
}

#[test]
fn merging_equals_one_archive_after_the_other() {
    let mut compared = 0;
    for seed in 0..1000 {
        let mut dice = Dice(seed);
        let notations: Vec<_> = (0..2 + dice.below(2)).map(|_| dice.layer(false)).collect();
        let apart: Vec<_> = notations.iter().map(|notation| layer(notation)).collect();
        let mut one = Tar::default();
        for notation in &notations {
            one.notation(notation);
        }
        let (merged, whole) = (Site::new(), Site::new());
        match (merged.apply(&apart), whole.apply(&[one.end().clone()])) {
            (Ok(_), Ok(_)) => {
                let trees = (tell(&merged.root()), tell(&whole.root()));
                assert_eq!(trees.0, trees.1, "seed {seed}: {notations:#?}");
                compared += 1;
            }
            (Err(_), Err(_)) => {}
            // Within one archive a hard link may come before its target, or give way unmade.
            _ if notations.iter().any(|n| n.contains("h ")) => {}
            (apart, whole) => panic!("seed {seed}: {notations:#?}\n{apart:?}\n{whole:?}"),
        }
    }
    assert!(compared > 300, "only {compared} stacks were good");
}

/// Whether a tool is here; if not, says so, or fails where that is asked for.
fn need(tool: &str) -> bool {
    let here = Command::new(tool).arg("--version").output().is_ok();
    let required = std::env::var_os("SHIFTER_TEST_REQUIRE").is_some_and(|value| value == "1");
    assert!(here || !required, "{tool} is required and not installed");
    if !here {
        use std::io::Write;
        writeln!(io::stderr(), "skipped: {tool} is not installed").expect("stderr");
    }
    here
}

/// An OCI image layout with these layers, as umoci reads it.
fn write_layout(dir: &Path, layers: &[Tar]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = crate::Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        serde_json::json!({"digest": digest.as_str(), "size": bytes.len()})
    };
    let typed = |mut blob: serde_json::Value, kind: &str| {
        blob["mediaType"] = format!("application/vnd.oci.image.{kind}").into();
        blob
    };
    let tars: Vec<_> = layers.iter().map(|tar| typed(put(&tar.0), "layer.v1.tar")).collect();
    let diff_ids: Vec<_> = tars.iter().map(|tar| tar["digest"].clone()).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = typed(put(config.to_string().as_bytes()), "config.v1+json");
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": tars,
    });
    let mut manifest = typed(put(manifest.to_string().as_bytes()), "manifest.v1+json");
    manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "t"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

fn umoci(site: &Site, layers: &[Tar]) -> Result<Vec<String>, String> {
    let (layout, bundle) = (site.base.path().join("layout"), site.base.path().join("bundle"));
    write_layout(&layout, layers);
    let image = format!("{}:t", layout.display());
    let output = Command::new("umoci")
        .args(["unpack", "--rootless", "--image", &image])
        .arg(&bundle)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(tell(&bundle.join("rootfs")))
}

#[test]
fn umoci_gives_the_same_tree() {
    if !need("umoci") {
        return;
    }
    let mut compared = 0;
    for seed in 0..100 {
        let mut dice = Dice(seed * 7919 + 1);
        let notations: Vec<_> = (0..2 + dice.below(2)).map(|_| dice.layer(true)).collect();
        let layers: Vec<_> = notations.iter().map(|notation| layer(notation)).collect();
        let site = Site::new();
        match (site.apply(&layers), umoci(&site, &layers)) {
            (Ok(_), Ok(theirs)) => {
                assert_eq!(tell(&site.root()), theirs, "seed {seed}: {notations:#?}");
                compared += 1;
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => panic!("seed {seed}: {notations:#?}\n{ours:?}\n{theirs:?}"),
        }
    }
    assert!(compared > 30, "only {compared} stacks were good");
}
