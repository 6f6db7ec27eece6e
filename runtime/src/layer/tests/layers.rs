//! What layers do to a tree, rule by rule.

use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

use super::*;

fn check(label: &str, layers: &[&str], expected: &str) {
    let site = Site::new();
    let said: Vec<_> = layers.iter().map(|notation| entries(notation)).collect();
    let layers: Vec<Tar> = layers.iter().map(|notation| layer(notation)).collect();
    let result = site.apply(&layers);
    let meant = model::apply(&said).map(|tree| tree.tell());
    match expected.strip_prefix("ERROR ") {
        Some(part) => {
            let error = result.expect_err(label).to_string();
            assert!(error.contains(part), "{label}: {error}");
            assert!(meant.is_err(), "{label}: the model: {meant:?}");
        }
        None => {
            result.expect(label);
            let expected: Vec<_> = expected.split(';').map(str::trim).collect();
            let expected: Vec<_> = expected.into_iter().filter(|e| !e.is_empty()).collect();
            assert_eq!(tell(&site.root()), expected, "{label}");
            assert_eq!(meant.expect(label), expected, "{label}: the model");
        }
    }
}

/// SECURITY section 5; R2 to R8.
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
            "a link of its own that leads out of what is not there",
            &["l y -> a/../x; f y/z=1"],
            "d x; f x/z=1; l y -> a/../x",
        ),
        (
            "a link of its own that leads out of a lower link",
            &["d e; d e/f; l d -> e/f", "l d/a -> ../x; f d/a/y=1"],
            "ERROR d: a link that another one leads out of",
        ),
        (
            "a link of its own that leads out of a directory that takes a lower link's place",
            &["d e; d e/f; l d -> e/f", "d d; l d/a -> ../x; f d/a/y=1"],
            "d d; l d/a -> ../x; d e; d e/f; d x; f x/y=1",
        ),
        (
            "a link of its own that leads out of a lower directory",
            &["d d", "l d/a -> ../x; f d/a/y=1"],
            "d d; l d/a -> ../x; d x; f x/y=1",
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
        (
            "directory cache through what was not there, R3",
            &["l c -> a/d/..; l c/d -> /z/y; f c/f=1"],
            "d a; l a/d -> /z/y; l c -> a/d/..; d z; f z/f=1",
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
        (
            "hard link to what lay below a replaced directory",
            &["f d/x=1", "f d=2; h h -> d/x"],
            "ERROR h: a hard link to a file that does not",
        ),
        ("whiteout below a replaced directory", &["f d/x=1", "f d=2; f d/.wh.x"], "f d=2"),
        (
            "hard link to the lower link that leads to it",
            &["l c -> /t", "h c/y -> c"],
            "l c -> /t; d t; l t/y -> /t",
        ),
        (
            "hard link in place of its target's directory",
            &["f a/x=1; h a -> a/x"],
            "ERROR a: a hard link to a file that does not",
        ),
        (
            "hard link to a directory that nobody declared",
            &["f a/x=1; h b -> a"],
            "ERROR b: a hard link to a directory",
        ),
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
        (
            "opaque through a lower link that leads out of what is not there",
            &["l y -> a/../x; f x/z=1", "f y/.wh..wh..opq"],
            "d x; l y -> a/../x",
        ),
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
        (
            "whiteouts, the upper one first",
            &["d e; f e/x=1; l d -> e", "f d/.wh.x; f .wh.d"],
            "d e; f e/x=1",
        ),
        (
            "opaque below a whiteout",
            &["d e; f e/x=1; l d -> e", "f d/y=2; f d/.wh..wh..opq; f .wh.d"],
            "d d; f d/y=2; d e; f e/x=1",
        ),
        ("whiteout in a layer below", &["f .wh.a; f b/.wh..wh..opq", "f a=1"], "f a=1"),
        ("whiteout of what comes again", &["f a=1", "f .wh.a", "f a=3"], "f a=3"),
        ("an empty layer", &["f a=1", "", "f b=2"], "f a=1; f b=2"),
    ] {
        check(label, layers, tree);
    }
}

/// Two names of one layer that are the same by a link of a lower one: which came later is not known
/// when they meet. What needs no order is done, all else is refused; never is one silently lost.
#[test]
fn names_that_meet_through_a_lower_link_are_not_lost() {
    let refused = |name: &str| format!("ERROR {name}: {MET}");
    let lower = "d usr; d usr/lib; f usr/lib/old=0; l lib -> usr/lib; l also -> /lib";
    let around = "l also -> /lib; l lib -> usr/lib; d usr; d usr/lib";
    for (label, layer, tree) in [
        ("files", "f usr/lib/f=1; f lib/f=2", refused("lib/f")),
        ("files, the other way around", "f lib/f=1; f usr/lib/f=2", refused("lib/f")),
        ("both through links", "f lib/f=1; f also/f=2", String::new()),
        ("both through links, over a lower file", "f lib/old=1; f also/old=2", String::new()),
        ("a directory and a file", "f usr/lib/f/x=1; f lib/f=2", refused("lib/f")),
        ("a file and a directory", "f usr/lib/f=1; f lib/f/x=2", refused("lib/f")),
        ("a link and a directory", "l usr/lib/f -> q; f lib/f/x=2", refused("lib/f")),
        (
            "different files",
            "f usr/lib/f=1; f lib/g=2; f also/h=3",
            format!("{around}; f usr/lib/f=1; f usr/lib/g=2; f usr/lib/h=3; f usr/lib/old=0"),
        ),
        (
            "directories become one",
            "f usr/lib/d/f=1; f lib/d/g=2; d also/d/e; d lib/d/e/h",
            format!(
                "{around}; d usr/lib/d; d usr/lib/d/e; d usr/lib/d/e/h; f usr/lib/d/f=1; \
                 f usr/lib/d/g=2; f usr/lib/old=0"
            ),
        ),
        (
            "of two descriptions the last counts",
            "d usr/lib/d:700; d lib/d:711; d also/d:751",
            format!("{around}; d usr/lib/d:751; f usr/lib/old=0"),
        ),
        (
            "of two descriptions the last counts, the other way around",
            "d also/d:751; d lib/d:711; d usr/lib/d:700",
            format!("{around}; d usr/lib/d:700; f usr/lib/old=0"),
        ),
    ] {
        let tree = if tree.is_empty() { format!("ERROR {MET}") } else { tree };
        check(label, &[lower, layer], &tree);
    }
    for (label, layer) in [
        ("a file in place of the directory that a link leads to", "f up/t=1; f a/x=2"),
        ("a file in place of the link that leads", "f up/a=1; f a/x=2"),
        ("a hard link, before its target, in place of its own way", "h up/up -> x; f x=1"),
        ("a link where a directory is made for another", "l up/n -> t; f far/x=2"),
    ] {
        let lower = "d t; l a -> t; l up -> /; l far -> n/m";
        check(label, &[lower, layer], &format!("ERROR {MET}"));
    }
}

/// NFS does not know RENAME_NOREPLACE.
#[test]
fn nothing_is_replaced_where_the_file_system_cannot_see_to_it() {
    let site = Site::new();
    site.apply(&[layer("f from/new=1; f from/file=2; d from/dir; f to/file=3; f to/dir=4")])
        .expect("a layer");
    let open = |name| OwnedFd::from(File::open(site.root().join(name)).unwrap());
    let (from, to) = (open("from"), open("to"));
    for (name, moved) in [(c"new", Ok(true)), (c"file", Ok(false)), (c"dir", Ok(false))] {
        assert_eq!(merge::look_and_move(&from, &to, name), moved, "{name:?}");
    }
    assert_eq!(merge::look_and_move(&from, &to, c"none"), Err(Errno::ENOENT));
    let left = "d from; d from/dir; f from/file=2; d to; f to/dir=4; f to/file=3; f to/new=1";
    assert_eq!(tell(&site.root()).join("; "), left);
}

/// What a layer says of a directory takes the place of what was known of it, as umoci and
/// containerd have it.
#[test]
fn a_directory_declared_again_has_its_own_attributes() {
    let site = Site::new();
    if !stacks::keeps_xattrs(&site.root()) {
        return;
    }
    let dir = |tar: &mut Tar, names: &[&str]| {
        let records = names.iter().map(|name| (*name, &b"x"[..])).collect::<Vec<_>>();
        if !records.is_empty() {
            tar.pax(&records);
        }
        tar.item(&Item { kind: b'5', name: b"d", mode: 0o755, ..Item::default() });
    };
    let [a, b] = ["SCHILY.xattr.user.a", "SCHILY.xattr.user.b"];
    for (layers, left) in [
        (&[&[&[a][..]][..], &[&[b]]][..], &["user.b"][..]),
        (&[&[&[a]], &[&[]]], &[]),
        (&[&[&[a], &[b]]], &["user.b"]),
        (&[&[&[a], &[]]], &[]),
        (&[&[&[a]], &[]], &["user.a"]),
        (&[&[&[]], &[&[a]], &[&[], &[a, b]]], &["user.a", "user.b"]),
    ] {
        let layers = layers.iter().map(|entries| {
            let mut tar = Tar::default();
            entries.iter().for_each(|names| dir(&mut tar, names));
            tar.end().clone()
        });
        let site = Site::new();
        site.apply(&layers.collect::<Vec<_>>()).expect("the layers");
        let found = stacks::xattrs_of(&File::open(site.root().join("d")).unwrap());
        assert_eq!(found.keys().collect::<Vec<_>>(), left);
    }
}

/// SECURITY R1, R2: by no name and no link, of this layer or of a lower one.
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

/// SECURITY R5, R8; the root stays a directory (CVE-2021-29136).
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

/// SECURITY R4; section 5, "mtime before 1970".
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

/// SECURITY R7.
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

/// SECURITY section 5, "Names are bytes".
#[test]
fn names_are_bytes() {
    let mut tar = Tar::default();
    tar.item(&Item { name: b"caf\xe9/\n\xff", content: b"x", ..Item::default() }).end();
    let site = Site::new();
    site.apply(&[tar]).expect("bytes");
    let name = std::ffi::OsString::from_vec(b"caf\xe9/\n\xff".to_vec());
    assert_eq!(fs::read(site.root().join(name)).unwrap(), b"x");
}

/// SECURITY R1, R9: longer than PATH_MAX, and not without an end (CVE-2025-4517).
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

/// SECURITY section 6: what a stale staging directory may hold.
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

/// Links that go up and down as often as may be, at a deep place. Were each step up a path, these
/// would be a million names to look up for each entry: hundreds of times the work of the way down,
/// on any machine.
#[test]
fn links_that_go_up_and_down_cost_steps_and_not_paths() {
    let deep = "d/".repeat(4_000);
    let work = |link: &str| {
        let mut tar = Tar::default();
        let name = format!("{deep}l");
        tar.item(&Item {
            kind: b'2',
            name: name.as_bytes(),
            link: link.as_bytes(),
            ..Item::default()
        });
        for n in 0..50 {
            // Each in a directory of its own: the last one is not looked for again.
            tar.item(&Item { name: format!("{deep}l/{n}/f").as_bytes(), ..Item::default() });
        }
        tar.end();
        let site = Site::new();
        let own_time = || clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock");
        let began = own_time();
        let summary = site.apply(&[tar]).expect("files behind a link");
        assert_eq!((summary.directories, summary.symlinks, summary.files), (4_050, 1, 50));
        Duration::from(own_time() - began)
    };
    let (still, up_and_down) = (work("."), work(&"../d/".repeat(250)));
    assert!(
        up_and_down < 4 * still,
        "each step up is looked for from the root: {up_and_down:?} and not {still:?}"
    );
}
