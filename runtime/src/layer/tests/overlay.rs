//! The same tree by overlayfs, where that can give it: each layer in a directory of its own, with
//! overlayfs' marks for what it takes away, as containerd and podman unpack them.

use std::{cell::Cell, panic::resume_unwind, thread};

use nix::{
    mount::{MsFlags, mount},
    sched::{CloneFlags, unshare},
    sys::stat::{Mode, SFlag, mknod},
};
use proptest::strategy::Strategy;

use super::{
    model::{Meaning, clean, meaning},
    peers::{is_met, orderly, same_facts},
    stacks::{for_each, odd, tars},
    *,
};
use crate::sys::xattr::fsetxattr;

/// overlayfs' marks take root: device nodes, and attributes that are named trusted.
fn may_mount() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let answer = if root { mounted(&[], |_| ()) } else { Err("not root".into()) };
    is_met("overlayfs", answer)
}

/// Looks at layers, the lowest first, as one tree. Only one thread ever sees the mount.
fn mounted<T: Send>(layers: &[Site], look: impl FnOnce(&Path) -> T + Send) -> Result<T, String> {
    let place = Site::new();
    let merged = place.base.path().join("merged");
    fs::create_dir(&merged).unwrap();
    let mut dirs: Vec<_> = layers.iter().rev().map(Site::root).collect();
    // It wants two, and nothing on top of them where there is nothing to write.
    dirs.extend([place.root(), place.base.path().join("outside/sub")]);
    fs::remove_file(place.base.path().join("outside/sub/f")).unwrap();
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.to_str().unwrap()).collect();
    let options = format!("lowerdir={}", dirs.join(":"));
    let look = || {
        let (none, no) = (None::<&str>, MsFlags::empty());
        unshare(CloneFlags::CLONE_NEWNS)
            .and_then(|()| mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none))
            .and_then(|()| mount(none, &merged, Some("overlay"), no, Some(&*options)))
            .map_err(|error| error.to_string())?;
        Ok(look(&merged))
    };
    thread::scope(|scope| scope.spawn(look).join()).unwrap_or_else(|panic| resume_unwind(panic))
}

/// Each layer in its own directory. A directory that a layer does not declare is as the lower
/// layers have it: of two directories overlayfs shows the upper one's metadata.
fn unpack(stack: &[Vec<Entry>]) -> Result<Vec<Site>, Error> {
    let mut layers = Vec::new();
    for (index, (entries, tar)) in stack.iter().zip(tars(stack)).enumerate() {
        let site = Site::new();
        site.apply(&[tar])?;
        for entry in entries {
            match meaning(&clean(&entry.name)) {
                Ok(Meaning::Whiteout(path)) => {
                    let path = path_in(&site.root(), &path);
                    fs::create_dir_all(path.parent().expect("it is below the root")).unwrap();
                    // What the layer brings stays.
                    if path.symlink_metadata().is_err() {
                        mknod(&path, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
                    }
                }
                Ok(Meaning::Opaque(path)) => {
                    let path = path_in(&site.root(), &path);
                    fs::create_dir_all(&path).unwrap();
                    let dir = File::open(&path).unwrap();
                    fsetxattr(&dir, c"trusted.overlay.opaque", b"y").unwrap();
                }
                _ => {}
            }
        }
        let mut lower = stack[..index].to_vec();
        let hides = |entry: &&Entry| !matches!(meaning(&clean(&entry.name)), Ok(Meaning::Entry));
        lower.push(entries.iter().filter(hides).cloned().collect());
        let lower = model::apply(&lower).expect("the lower layers, without what goes");
        let alone = model::apply(&stack[index..=index]).expect("it was expanded");
        for fact in lower.facts().iter().filter(|fact| lower.dir(&clean(&fact.path)).is_some()) {
            let path = site.root().canonicalize().unwrap().join(name::os(&fact.path));
            let declared = alone.facts().iter().any(|f| f.path == fact.path && f.meta.is_some());
            let is_dir =
                path.is_dir() && path.canonicalize().is_ok_and(|true_path| true_path == path);
            if let Some(meta) = &fact.meta
                && is_dir
                && !declared
            {
                fs::set_permissions(&path, Permissions::from_mode(meta.mode)).unwrap();
            }
        }
        layers.push(site);
    }
    Ok(layers)
}

fn path_in(root: &Path, path: &[Vec<u8>]) -> PathBuf {
    path.iter().fold(root.to_path_buf(), |path, component| path.join(name::os(component)))
}

/// Leaves what a layer's own directory can say: see [`overlayfs_gives_another_tree`] for the rest.
fn sayable(stack: Vec<Vec<Entry>>) -> Vec<Vec<Entry>> {
    let mut said: Vec<Vec<Entry>> = Vec::new();
    for mut layer in orderly(stack) {
        let Ok(lower) = model::apply(&said) else { unreachable!("{said:?}") };
        let all = layer.clone();
        let own = |path: &[Vec<u8>]| {
            all.iter().find(|entry| clean(&entry.name) == path).map(|entry| &entry.kind)
        };
        let in_opaque = |path: &[Vec<u8>]| {
            all.iter().any(|entry| match meaning(&clean(&entry.name)) {
                Ok(Meaning::Opaque(dir)) => path.starts_with(&dir) && path != dir,
                _ => false,
            })
        };
        layer.retain(|entry| {
            let path = clean(&entry.name);
            let is_leaf = |dir: &[Vec<u8>]| lower.get(dir).is_some() && lower.dir(dir).is_none();
            let through = (1..path.len())
                .any(|end| is_leaf(&path[..end]) && own(&path[..end]) != Some(&Kind::Directory));
            let alone = match (&entry.kind, meaning(&path)) {
                (_, Ok(Meaning::Whiteout(path))) => {
                    // Else overlayfs lists a name that cannot be looked at.
                    !in_opaque(&path)
                        && lower.get(&path).is_some()
                        && !all.iter().any(|entry| clean(&entry.name).starts_with(&path))
                }
                (_, Ok(Meaning::Opaque(path))) => {
                    let kept = matches!(own(&path), None | Some(Kind::Directory));
                    let (root, is_dir) = (path.is_empty(), lower.dir(&path).is_some());
                    !root && is_dir && kept && !in_opaque(&path)
                }
                _ => true,
            };
            !through && alone
        });
        let left = layer.clone();
        layer.retain(|entry| match &entry.kind {
            Kind::HardLink(to) => left.iter().any(|entry| {
                let linked = matches!(entry.kind, Kind::File(_) | Kind::Fifo);
                linked && clean(&entry.name) == clean(to)
            }),
            _ => true,
        });
        said.push(layer);
        if model::apply(&said).is_err() {
            said.pop();
        }
    }
    said
}

#[test]
fn overlayfs_gives_the_same_tree() {
    if !may_mount() {
        return;
    }
    let good = Cell::new(0);
    for_each(500, odd().prop_map(sayable), |stack| {
        let site = Site::new();
        site.apply(&tars(stack)).map_err(|error| error.to_string())?;
        let layers = unpack(stack).map_err(|error| error.to_string())?;
        let ours = tell(&site.root());
        mounted(&layers, |merged| {
            let theirs = tell(merged);
            if ours != theirs {
                return Err(format!("ours   {ours:?}\ntheirs {theirs:?}"));
            }
            same_facts(&site.root(), merged)
        })??;
        good.set(good.get() + usize::from(ours.len() > 2 && stack.len() > 1));
        Ok(())
    });
    assert!(good.get() > 100, "only {} trees were worth it", good.get());
}

/// Where a layer in a directory of its own cannot say what it says in an image.
#[test]
fn overlayfs_gives_another_tree() {
    if !may_mount() {
        return;
    }
    for (why, layers, ours, theirs) in [
        (
            "a file below a lower link: its directory hides the link",
            ["d usr; d usr/lib; f usr/lib/one=1; l lib -> usr/lib", "f lib/two=2"],
            "l lib -> usr/lib; d usr; d usr/lib; f usr/lib/one=1; f usr/lib/two=2",
            "d lib; f lib/two=2; d usr; d usr/lib; f usr/lib/one=1",
        ),
        (
            "a hard link to a lower layer's file: it is not in the directory",
            ["f a=1", "h b -> a"],
            "f a=1; h b -> a",
            "ERROR",
        ),
        (
            "a directory that goes and comes again: its name cannot say both",
            ["d d; f d/old=1", "f .wh.d; d d; f d/new=2"],
            "d d; f d/new=2",
            "d d; f d/new=2; f d/old=1",
        ),
        (
            "opaque in the root: the kernel does not look for that mark there",
            ["d d; f d/x=1; f y=1", "f .wh..wh..opq; f z=2"],
            "f z=2",
            "d d; f d/x=1; f y=1; f z=2",
        ),
    ] {
        let stack = layers.map(entries);
        let site = Site::new();
        site.apply(&tars(&stack)).expect(why);
        assert_eq!(tell(&site.root()).join("; "), ours, "ours: {why}");
        let told = match unpack(&stack) {
            Ok(layers) => mounted(&layers, tell).expect("overlayfs").join("; "),
            Err(_) => "ERROR".into(),
        };
        assert_eq!(told, theirs, "overlayfs': {why}");
    }
}
