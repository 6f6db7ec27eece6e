//! Generated stacks of layers, held against the [model].
//!
//! Few names, so that they meet.

use std::cell::Cell;

use proptest::{
    collection::vec,
    prelude::*,
    sample::select,
    test_runner::{RngAlgorithm, TestError, TestRng, TestRunner},
};

use super::{
    model::{Fact, Meta, Refused, Xattrs},
    *,
};

/// Runs `check` on so many stacks, on the same ones each time; or, with `PROPTEST_CASES`, on as many
/// others. A stack that fails is made smaller first.
pub(super) fn for_each(
    cases: u32,
    stacks: impl Strategy<Value = Vec<Vec<Entry>>>,
    check: impl Fn(&[Vec<Entry>]) -> Result<(), String>,
) {
    let mut config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: 50_000,
        ..ProptestConfig::default()
    };
    let mut runner = if std::env::var_os("PROPTEST_CASES").is_some() {
        TestRunner::new(config)
    } else {
        config.cases = cases;
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        TestRunner::new_with_rng(config, rng)
    };
    let check = |stack: Vec<_>| {
        check(&stack).map_err(|why| TestCaseError::fail(format!("{why}{}", shown(&stack))))
    };
    match runner.run(&stacks, check) {
        Ok(()) => {}
        Err(TestError::Fail(reason, _)) => panic!("{reason}"),
        Err(error) => panic!("{error}"),
    }
}

/// Stacks as nobody writes them: any entry anywhere, in any order.
pub(super) fn odd() -> impl Strategy<Value = Vec<Vec<Entry>>> {
    vec(vec(entry(spelled(path())), 1..8), 1..5)
}

fn path() -> impl Strategy<Value = String> {
    let names = || select(&["a", "b", "c", "d"]);
    prop_oneof![
        3 => names().prop_map(String::from),
        4 => (names(), names()).prop_map(|(a, b)| format!("{a}/{b}")),
        2 => (names(), names(), names()).prop_map(|(a, b, c)| format!("{a}/{b}/{c}")),
    ]
}

/// Now and then a name that has to be cleaned.
fn spelled(path: impl Strategy<Value = String>) -> impl Strategy<Value = String> {
    (path, 0..60).prop_map(|(path, spelling)| match spelling {
        0 => format!("./{path}"),
        1 => format!("/{path}"),
        2 => format!("a/../{path}"),
        3 => format!("{path}/"),
        4 => format!("../../{path}"),
        5 => format!("{path}/b/.."),
        6 => format!("//{path}/."),
        7 => format!("../{path}/.."),
        8 => String::from("./"),
        _ => path,
    })
}

fn link_target() -> impl Strategy<Value = String> {
    (path(), 0..12).prop_map(|(path, shape)| match shape {
        0..=3 => path,
        4..=6 => format!("/{path}"),
        7 => format!("../{path}"),
        8 => format!("./{path}/."),
        9 => format!("../../../{path}"),
        10 => format!("{path}/.."),
        _ => String::from("."),
    })
}

fn entry(path: impl Strategy<Value = String>) -> impl Strategy<Value = Entry> {
    let modes = &[0o644, 0o755, 0o755, 0o600, 0o700, 0o500, 0, 0o4755, 0o2755, 0o1777, 0o6777];
    let kind = prop_oneof![
        5 => (0..9u8).prop_map(|content| Kind::File(content.to_string().into())),
        4 => Just(Kind::Directory),
        4 => link_target().prop_map(|to| Kind::Symlink(to.into())),
        3 => spelled(self::path()).prop_map(|to| Kind::HardLink(to.into())),
        1 => Just(Kind::Fifo),
        1 => Just(Kind::Device),
    ];
    let xattrs = prop_oneof![
        4 => Just(Xattrs::new()),
        1 => (select(&["user.a", "user.b"]), 0..3u8)
            .prop_map(|(name, value)| [(name.to_string(), vec![value; 3])].into()),
    ];
    let whiteout = prop_oneof![7 => Just(0), 2 => Just(1), 1 => Just(2)];
    let entry = |(mut path, kind, mode, mtime, xattrs, whiteout): (String, _, _, _, _, _)| {
        match whiteout {
            1 => {
                let start = path.trim_end_matches('/').rfind('/').map_or(0, |slash| slash + 1);
                path.insert_str(start, ".wh.");
            }
            2 => path.push_str("/.wh..wh..opq"),
            _ => {}
        }
        let kind = if whiteout == 0 { kind } else { Kind::File(Vec::new()) };
        Entry { name: path.into(), kind, mode, mtime, xattrs }
    };
    (path, kind, select(modes), 1..2_000_000_000i64, xattrs, whiteout).prop_map(entry)
}

/// Stacks in words: in a message they are what matters.
pub(super) fn shown(stack: &[Vec<Entry>]) -> String {
    let entry = |entry: &Entry| {
        let name = String::from_utf8_lossy(&entry.name);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        match &entry.kind {
            Kind::File(content) => format!("f {name}:{:o}={}", entry.mode, text(content)),
            Kind::Directory => format!("d {name}:{:o}", entry.mode),
            Kind::Symlink(to) => format!("l {name} -> {}", text(to)),
            Kind::HardLink(to) => format!("h {name} -> {}", text(to)),
            Kind::Fifo => format!("p {name}:{:o}", entry.mode),
            Kind::Device => format!("c {name}"),
        }
    };
    let layer = |layer: &Vec<Entry>| layer.iter().map(entry).collect::<Vec<_>>().join("; ");
    stack.iter().map(|entries| format!("\n    {:?},", layer(entries))).collect()
}

pub(super) fn tars(stack: &[Vec<Entry>]) -> Vec<Tar> {
    let tar = |entries: &Vec<Entry>| {
        entries.iter().fold(&mut Tar::default(), |tar, entry| tar.entry(entry)).end().clone()
    };
    stack.iter().map(tar).collect()
}

/// What is on the disk, as the model puts it.
pub(super) fn facts(root: &Path) -> Vec<Fact> {
    fn collect(root: &Path, dir: &Path, seen: &mut HashMap<u64, PathBuf>, facts: &mut Vec<Fact>) {
        let full = root.join(dir);
        let meta = full.symlink_metadata().unwrap();
        let first = seen.entry(meta.ino()).or_insert_with(|| dir.to_path_buf()).clone();
        let bytes = |path: &Path| path.as_os_str().as_encoded_bytes().to_vec();
        let mode = meta.mode() & 0o7777;
        let mut fact = Meta { mode, mtime: meta.mtime(), xattrs: Xattrs::new() };
        if meta.is_dir() || meta.is_file() {
            fact.xattrs = opened(&full, mode, || xattrs_of(&File::open(&full).unwrap()));
        }
        facts.push(Fact { path: bytes(dir), meta: Some(fact), first: bytes(&first) });
        if meta.is_dir() {
            opened(&full, mode, || {
                let names = fs::read_dir(&full).unwrap().map(|entry| entry.unwrap().file_name());
                let mut names: Vec<_> = names.collect();
                names.sort();
                names.iter().for_each(|name| collect(root, &dir.join(name), seen, facts));
            });
        }
    }
    let mut facts = Vec::new();
    collect(root, Path::new(""), &mut HashMap::new(), &mut facts);
    facts
}

pub(super) fn xattrs_of(file: &File) -> Xattrs {
    let names = crate::sys::xattr::flistxattr(file).unwrap_or_default();
    let names = names.split(|b| *b == 0).filter(|name| name.starts_with(b"user."));
    let value = |name: &[u8]| {
        let name = std::ffi::CString::new(name).unwrap();
        let value = crate::sys::xattr::fgetxattr(file, &name).unwrap();
        (name.into_string().unwrap(), value)
    };
    names.map(value).collect()
}

/// What is on the disk, without what the model leaves open: all but the usual mode of a directory
/// that nobody declared, and of the root that too.
fn facts_meant(mut meant: Vec<Fact>, root: &Path) -> [Vec<Fact>; 2] {
    let keeps_xattrs = keeps_xattrs(root);
    let found = facts(root);
    for (meant, found) in meant.iter_mut().zip(&found) {
        let known = found.meta.clone().expect("the disk knows all");
        let mode = if found.path.is_empty() { known.mode } else { 0o755 };
        let open = Meta { mode, mtime: known.mtime, xattrs: Xattrs::new() };
        let meta = meant.meta.get_or_insert(open);
        if !keeps_xattrs {
            meta.xattrs.clear();
        }
    }
    [found, meant]
}

/// Whether the file system takes the attributes of users: tmpfs does since Linux 6.6.
pub(super) fn keeps_xattrs(root: &Path) -> bool {
    let probe = tempfile::tempfile_in(root.parent().unwrap()).unwrap();
    crate::sys::xattr::fsetxattr(&probe, c"user.probe", b"x").is_ok()
}

/// Ours against the model: the same tree, or both refuse.
fn agree(stack: &[Vec<Entry>]) -> Result<Result<(), Refused>, String> {
    let site = Site::new();
    let ours = site.apply(&tars(stack)).map(|_| tell(&site.root()));
    let meant = model::apply(stack);
    match (&meant, &ours) {
        (Ok(tree), Ok(told)) if tree.tell() == *told => {
            let [found, meant] = facts_meant(tree.facts(), &site.root());
            let differs = found.iter().zip(&meant).find(|(found, meant)| found != meant);
            match differs {
                None => Ok(Ok(())),
                Some((found, meant)) => Err(format!("found {found:?}\nmeant {meant:?}")),
            }
        }
        (Err(refused), Err(Error::Refused { .. })) => Ok(Err(*refused)),
        _ => Err(format!("found {ours:?}\nmeant {:?}", meant.map(|tree| tree.tell()))),
    }
}

#[test]
fn stacks_are_what_the_model_says() {
    let good = Cell::new(0);
    for_each(8_000, odd(), |stack| {
        good.set(good.get() + u32::from(agree(stack)?.is_ok()));
        Ok(())
    });
    assert!(good.get() > 1_000, "only {} stacks were good", good.get());
}
