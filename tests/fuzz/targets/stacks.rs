//! Stacks of layers, held against the model of the runtime's own tests.

#![no_main]

use std::{
    collections::HashMap,
    ffi::CString,
    fs::{self, File, Permissions},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::OnceLock,
};

use fuzz::{
    Dice, Seed,
    archive::Tar,
    offer,
    site::{ROOT, STAGING, directory, with_trees},
};
use libfuzzer_sys::{
    arbitrary::{Result as Drawn, Unstructured},
    fuzz_target,
};
use runtime::{
    layer::{Error, Limits, Tree, expand},
    sys::xattr::{fgetxattr, flistxattr, fsetxattr},
};

use self::model::{Entry, Fact, Kind, Meta, Xattrs};

#[allow(dead_code)]
#[path = "../../../runtime/src/layer/tests/model.rs"]
mod model;

fuzz_target!(init: offer(seeds(), &[], take), |data: &[u8]| {
    take(data);
});

/// Any bytes are a stack; of these some are good ones.
fn seeds() -> Vec<Seed> {
    let mut dice = Dice::new(1);
    let mut bytes = |length| (0..length).map(|_| dice.below(256) as u8).collect::<Vec<_>>();
    (0..200).map(|number| (bytes(20 + number), false)).collect()
}

fn take(data: &[u8]) -> bool {
    let Ok(stack) = stack(&mut Unstructured::new(data)) else { return false };
    let (ours, found) = with_trees(stack.len(), |base| {
        let ours = apply(base, &stack);
        let found = ours.is_ok().then(|| facts(base));
        (ours, found)
    });
    let shown = || stack.iter().map(|layer| format!("\n{layer:?}")).collect::<String>();
    match (model::apply(&stack), ours) {
        (Ok(tree), Ok(())) => {
            let found = found.expect("it was looked at");
            let meant = meant(tree.facts(), &found);
            for (found, meant) in found.iter().zip(&meant) {
                assert_eq!(found, meant, "{}", shown());
            }
            assert_eq!(found.len(), meant.len(), "{}", shown());
            true
        }
        (Err(_), Err(Error::Refused { .. })) => false,
        (meant, ours) => {
            let meant = meant.map(|tree| tree.tell());
            panic!("ours: {ours:?}\nmeant: {meant:?}{}", shown())
        }
    }
}

fn apply(base: BorrowedFd<'_>, stack: &[Vec<Entry>]) -> Result<(), Error> {
    let mut tree = Tree::new(directory(base, ROOT));
    let mut expanded = Vec::new();
    for (layer, name) in stack.iter().zip(STAGING) {
        let staging = directory(base, name);
        let layer = expand(&tar(layer)[..], staging.as_fd(), &Limits::default())?;
        expanded.push((staging, layer));
    }
    for (staging, layer) in expanded {
        tree.merge(staging, layer)?;
    }
    tree.finish().map(|_| ())
}

fn tar(layer: &[Entry]) -> Vec<u8> {
    let add = |tar: Tar, entry: &Entry| {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("letters");
        let (flag, link, content) = match &entry.kind {
            Kind::File(content) => (b'0', String::new(), content.as_slice()),
            Kind::Directory => (b'5', String::new(), &[][..]),
            Kind::Symlink(to) => (b'2', text(to), &[][..]),
            Kind::HardLink(to) => (b'1', text(to), &[][..]),
            Kind::Fifo => (b'6', String::new(), &[][..]),
            Kind::Device => (b'3', String::new(), &[][..]),
        };
        let records = entry.xattrs.iter();
        let records = records.map(|(name, value)| (format!("SCHILY.xattr.{name}"), value));
        let records: Vec<_> = records.collect();
        let records: Vec<_> =
            records.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let tar = if records.is_empty() { tar } else { tar.pax(&records) };
        tar.raw(flag, &text(&entry.name), &link, content, |header| {
            header.set_mode(entry.mode);
            header.set_mtime(entry.mtime as u64);
        })
    };
    layer.iter().fold(Tar::default(), add).end()
}

/// What is on the disk, as the model puts it.
fn facts(base: BorrowedFd<'_>) -> Vec<Fact> {
    let root = PathBuf::from(format!("/proc/self/fd/{}/{ROOT}", base.as_raw_fd()));
    let mut facts = Vec::new();
    collect(&root, Path::new(""), &mut HashMap::new(), &mut facts);
    facts
}

fn collect(root: &Path, path: &Path, seen: &mut HashMap<u64, PathBuf>, facts: &mut Vec<Fact>) {
    let full = root.join(path);
    let told = full.symlink_metadata().expect("look at what is there");
    let first = seen.entry(told.ino()).or_insert_with(|| path.to_path_buf()).clone();
    let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
    let mode = told.mode() & 0o7777;
    let mut meta = Meta { mode, mtime: told.mtime(), xattrs: Xattrs::new() };
    if told.is_dir() || told.is_file() {
        // The tree is removed next: nobody misses the mode that it has had.
        let open = Permissions::from_mode(mode | 0o700);
        fs::set_permissions(&full, open).expect("make it readable");
        meta.xattrs = xattrs(&File::open(&full).expect("it is readable"));
    }
    facts.push(Fact { path: bytes(path), meta: Some(meta), first: bytes(&first) });
    if told.is_dir() {
        let names = fs::read_dir(&full).expect("it is readable");
        let names = names.map(|entry| entry.expect("it is readable").file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names.iter().for_each(|name| collect(root, &path.join(name), seen, facts));
    }
    // Of a file that has several names, the mode is looked at under each.
    if told.is_file() {
        fs::set_permissions(&full, Permissions::from_mode(mode)).expect("as it was");
    }
}

fn xattrs(file: &File) -> Xattrs {
    let names = flistxattr(file).unwrap_or_default();
    let names = names.split(|byte| *byte == 0).filter(|name| name.starts_with(b"user."));
    let one = |name: &[u8]| {
        let name = CString::new(name).expect("split at zeros");
        let value = fgetxattr(file, &name).expect("it is listed");
        (name.into_string().expect("letters"), value)
    };
    names.map(one).collect()
}

/// What is meant, without what the model leaves open: all but the usual mode of a directory that
/// nobody declared, and of the root that too.
fn meant(mut meant: Vec<Fact>, found: &[Fact]) -> Vec<Fact> {
    for (meant, found) in meant.iter_mut().zip(found) {
        let known = found.meta.clone().expect("the disk knows all");
        let mode = if found.path.is_empty() { known.mode } else { 0o755 };
        let open = Meta { mode, mtime: known.mtime, xattrs: Xattrs::new() };
        let meta = meant.meta.get_or_insert(open);
        if !keeps_xattrs() {
            meta.xattrs.clear();
        }
    }
    meant
}

/// Whether the file system takes the attributes of users: tmpfs does since Linux 6.6.
fn keeps_xattrs() -> bool {
    static KEEPS: OnceLock<bool> = OnceLock::new();
    *KEEPS.get_or_init(|| {
        let probe = File::create("probe").expect("make a file");
        fs::remove_file("probe").expect("remove a file");
        fsetxattr(&probe, c"user.probe", b"x").is_ok()
    })
}

fn stack(bytes: &mut Unstructured<'_>) -> Drawn<Vec<Vec<Entry>>> {
    let mut stack = Vec::new();
    for _ in 0..bytes.int_in_range(1..=STAGING.len())? {
        let mut layer = Vec::new();
        for _ in 0..bytes.int_in_range(1..=10)? {
            layer.push(entry(bytes)?);
        }
        stack.push(layer);
    }
    Ok(stack)
}

/// Few names, so that they meet.
fn path(bytes: &mut Unstructured<'_>) -> Drawn<String> {
    let mut path = String::from(*bytes.choose(&["", "", "", "", "", "./", "/", "../", "a/../"])?);
    for index in 0..bytes.int_in_range(1..=4)? {
        path.push_str(if index == 0 { "" } else { "/" });
        path.push_str(bytes.choose(&["a", "a", "b", "b", "c", "c", "d", "..", "."])?);
    }
    path.push_str(bytes.choose(&["", "", "", "", "", "/", "/.", "/.."])?);
    Ok(path)
}

fn entry(bytes: &mut Unstructured<'_>) -> Drawn<Entry> {
    let mut name = path(bytes)?;
    let kind = match bytes.int_in_range(0..=15)? {
        0..=3 => Kind::File(vec![b'0' + bytes.int_in_range(0..=9)?]),
        4..=6 => Kind::Directory,
        7 | 8 => Kind::Symlink(path(bytes)?.into()),
        9 => Kind::Symlink(format!("/{}", path(bytes)?).into()),
        10 | 11 => Kind::HardLink(path(bytes)?.into()),
        12 => Kind::Fifo,
        13 => Kind::Device,
        14 => {
            let start = name.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1);
            name.insert_str(start, ".wh.");
            Kind::File(Vec::new())
        }
        _ => {
            name.push_str("/.wh..wh..opq");
            Kind::File(Vec::new())
        }
    };
    let mode = *bytes.choose(&[0o644, 0o755, 0o755, 0o600, 0o500, 0, 0o4755, 0o2755, 0o1777])?;
    let mtime = i64::from(bytes.arbitrary::<u8>()?) + 1;
    let mut xattrs = Xattrs::new();
    if bytes.ratio(1, 5)? {
        xattrs.insert((*bytes.choose(&["user.a", "user.b"])?).to_owned(), vec![mtime as u8]);
    }
    Ok(Entry { name: name.into(), kind, mode, mtime, xattrs })
}
