//! Layers in a notation of their own, applied to a directory that has something to lose beside it.
//!
//! A layer is a list of entries in a string, separated by `;`, a leading word says the type:
//! `d` directory, `f` file (`f PATH=CONTENT`), `l` symbolic link (`l PATH -> TARGET`), `h` hard
//! link, `p` fifo, `c` device. `:MODE` after a path gives its mode. A tree is told in the same
//! notation, sorted by path.

// In a test a panic is the report.
#![allow(clippy::unwrap_used)]

mod archives;
mod dialects;
mod layers;
mod model;
mod overlay;
mod peers;
mod sparse;
mod stacks;

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

use ::tar::Header;

use self::model::{Entry, Kind};
use super::*;

/// Of names of one layer that are one by a link of a lower one.
const MET: &str = "leads through a link of a lower layer to another entry of its own layer";

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

    fn entry(&mut self, entry: &Entry) -> &mut Tar {
        let (kind, link, content): (_, &[u8], &[u8]) = match &entry.kind {
            Kind::File(content) => (b'0', b"", content),
            Kind::HardLink(to) => (b'1', to, b""),
            Kind::Symlink(to) => (b'2', to, b""),
            Kind::Device => (b'3', b"", b""),
            Kind::Directory => (b'5', b"", b""),
            Kind::Fifo => (b'6', b"", b""),
        };
        if !entry.xattrs.is_empty() {
            let names: Vec<_> = entry.xattrs.keys().map(|k| format!("SCHILY.xattr.{k}")).collect();
            let values = entry.xattrs.values().map(Vec::as_slice);
            self.pax(&names.iter().map(String::as_str).zip(values).collect::<Vec<_>>());
        }
        self.item(&Item {
            kind,
            name: &entry.name,
            link,
            mode: entry.mode,
            mtime: u64::try_from(entry.mtime).expect("a time after 1970"),
            content,
        })
    }

    /// Adds the entries of a layer's notation.
    fn notation(&mut self, layer: &str) -> &mut Tar {
        entries(layer).iter().fold(self, |tar, entry| tar.entry(entry))
    }
}

/// The entries of a layer's notation.
fn entries(layer: &str) -> Vec<Entry> {
    let said = layer.split(';').map(str::trim).filter(|entry| !entry.is_empty());
    let entry = |(index, said): (usize, &str)| {
        let (kind, rest) = said.split_once(' ').expect("a type and a path");
        let (path, value) = match kind {
            "f" => rest.split_once('=').unwrap_or((rest, "")),
            "l" | "h" => rest.split_once(" -> ").expect("a link and its target"),
            _ => (rest, ""),
        };
        let (path, mode) = path.split_once(':').unwrap_or((path, ""));
        let plain = if kind == "d" { 0o755 } else { 0o644 };
        Entry {
            name: path.into(),
            kind: match kind {
                "d" => Kind::Directory,
                "f" => Kind::File(value.into()),
                "l" => Kind::Symlink(value.into()),
                "h" => Kind::HardLink(value.into()),
                "p" => Kind::Fifo,
                "c" => Kind::Device,
                other => panic!("type {other}"),
            },
            mode: u32::from_str_radix(mode, 8).unwrap_or(plain),
            mtime: 1_000_000 + (said.len() * 100 + index) as i64,
            xattrs: Default::default(),
        }
    };
    said.enumerate().map(entry).collect()
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
        // Where layers are expanded in earnest, too; on a disk this takes ten times as long.
        let base = match std::env::var_os("TMPDIR") {
            None => tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()),
            Some(_) => tempfile::tempdir(),
        };
        let base = base.expect("a temporary directory");
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
            opened(&full, mode, || tell_dir(root, &path, seen, lines));
        } else if *first != path {
            lines.push(format!("h {shown} -> {}", first.display()));
        } else if kind.is_fifo() {
            lines.push(format!("p {shown}{}", with_mode(0o644)));
        } else {
            let content = opened(&full, mode, || fs::read(&full).unwrap());
            let content = String::from_utf8_lossy(&content);
            lines.push(format!("f {shown}{}={content}", with_mode(0o644)));
        }
    }
}

/// The times of all but directories: of those, peers keep only some.
fn times(root: &Path, dir: &Path, told: &mut BTreeMap<PathBuf, i64>) {
    for entry in fs::read_dir(root.join(dir)).unwrap() {
        let path = dir.join(entry.unwrap().file_name());
        let meta = root.join(&path).symlink_metadata().unwrap();
        if meta.is_dir() {
            times(root, &path, told);
        } else {
            told.insert(path, meta.mtime());
        }
    }
}

/// Looks at a file or directory that its owner may not be allowed to read. Root always is, and in
/// an overlay a change of mode is a copy.
fn opened<T>(path: &Path, mode: u32, look: impl FnOnce() -> T) -> T {
    if mode & 0o700 == 0o700 || nix::unistd::geteuid().is_root() {
        return look();
    }
    fs::set_permissions(path, Permissions::from_mode(mode | 0o700)).unwrap();
    let seen = look();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    seen
}

fn content_of(tar: &Tar) -> Result<Vec<String>, Error> {
    let site = Site::new();
    site.apply(std::slice::from_ref(tar))?;
    Ok(tell(&site.root()))
}

fn error_of(tar: &Tar) -> String {
    content_of(tar).expect_err("it must not be taken").to_string()
}
