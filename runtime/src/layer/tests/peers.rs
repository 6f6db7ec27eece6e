//! The same tree by umoci, which applies entry after entry to one tree.

use std::cell::Cell;

use proptest::strategy::Strategy;

use super::{
    model::{Meaning, clean, meaning},
    stacks::{facts, for_each, odd, tars},
    *,
};

/// Whether the machine has what a test needs; if not, says so, or fails where that is asked for.
pub(super) fn is_met(what: &str, answer: Result<(), String>) -> bool {
    let Err(why) = answer else { return true };
    let required = std::env::var_os("SHIFTER_TEST_REQUIRE").is_some_and(|value| value == "1");
    assert!(!required, "{what} is required: {why}");
    use std::io::Write;
    writeln!(io::stderr(), "skipped: needs {what}: {why}").expect("stderr");
    false
}

pub(super) fn need(tool: &str) -> bool {
    let answer = Command::new(tool).arg("--version").output();
    is_met(tool, answer.map(|_| ()).map_err(|error| error.to_string()))
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

pub(super) fn umoci(site: &Site, layers: &[Tar]) -> Result<Vec<String>, String> {
    let (layout, bundle) = (site.base.path().join("layout"), site.base.path().join("bundle"));
    write_layout(&layout, layers);
    let image = format!("{}:t", layout.display());
    // The directories that nobody declares get their mode from the umask there.
    let output = Command::new("sh")
        .args(["-c", "umask 022; exec umoci unpack --rootless --image \"$@\"", "umoci", &image])
        .arg(&bundle)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(tell(&bundle.join("rootfs")))
}

/// The layers as tools write them: each name once, what lies above first, nothing below what is no
/// directory, hard links last.
pub(super) fn orderly(stack: Vec<Vec<Entry>>) -> Vec<Vec<Entry>> {
    stack.into_iter().map(orderly_layer).collect()
}

fn orderly_layer(layer: Vec<Entry>) -> Vec<Entry> {
    let mut sorted = BTreeMap::new();
    let mut entries = BTreeMap::new();
    for mut entry in layer {
        let path = clean(&entry.name);
        match &mut entry.kind {
            Kind::Directory => entry.mode &= !0o2000,
            Kind::Symlink(to) if to.ends_with(b"/..") => to.truncate(to.len() - 3),
            _ => {}
        }
        let (path, rank) = match meaning(&path) {
            Err(_) => continue,
            Ok(Meaning::Whiteout(path)) => (path, 0),
            Ok(Meaning::Opaque(path)) => (path, 2),
            Ok(_) => {
                entries.insert(path.clone(), entry.kind.clone());
                (path, 1)
            }
        };
        let late = match entry.kind {
            _ if rank != 1 => 0,
            Kind::Directory => 0,
            Kind::HardLink(_) => 2,
            _ => 1,
        };
        sorted.retain(|(_, other, its), _| *other != path || *its != rank);
        sorted.insert((late, path, rank), entry);
    }
    let below_other = |path: &[Vec<u8>]| {
        (1..path.len()).any(|end| entries.get(&path[..end]).is_some_and(|k| *k != Kind::Directory))
    };
    sorted.retain(|(_, path, _), entry| {
        let to = match &entry.kind {
            Kind::HardLink(to) => clean(to),
            _ => model::Path::new(),
        };
        let to_link = matches!(entries.get(&to), Some(Kind::HardLink(_)));
        !below_other(path) && !below_other(&to) && !to_link && entry.kind != Kind::Device
    });
    sorted.into_values().collect()
}

/// The same layers, each with its entries in this and in other orders.
fn reordered(stack: &[Vec<Entry>]) -> impl Iterator<Item = Vec<Vec<Entry>>> {
    let backwards = |layer: &Vec<Entry>| layer.iter().rev().cloned().collect::<Vec<_>>();
    let group = |entry: &Entry| match (&entry.kind, meaning(&clean(&entry.name))) {
        (Kind::HardLink(_), _) => 2,
        (Kind::Directory, _) | (_, Ok(Meaning::Whiteout(_) | Meaning::Opaque(_))) => 0,
        _ => 1,
    };
    let files_backwards = move |layer: &Vec<Entry>| {
        let mut layer = layer.clone();
        layer.sort_by_key(group);
        let first = layer.partition_point(|entry| group(entry) == 0);
        let end = layer.partition_point(|entry| group(entry) <= 1);
        layer[first..end].reverse();
        layer
    };
    let upper_first = move |layer: &Vec<Entry>| {
        let mut layer = layer.clone();
        layer.sort_by_key(|entry| (group(entry), clean(&entry.name).len()));
        layer
    };
    let layer = move |layer: &Vec<Entry>, way| match way {
        0 => layer.clone(),
        1 => backwards(layer),
        2 => files_backwards(layer),
        _ => upper_first(layer),
    };
    let ways = 4_usize.pow(stack.len() as u32);
    (1..ways).map(move |way| {
        let digit = |index: usize| way / 4_usize.pow(index as u32) % 4;
        stack.iter().enumerate().map(|(index, entries)| layer(entries, digit(index))).collect()
    })
}

#[test]
fn umoci_gives_the_same_tree() {
    if !need("umoci") {
        return;
    }
    let good = Cell::new(0);
    for_each(200, odd().prop_map(orderly), |stack| {
        let site = Site::new();
        let layers = tars(stack);
        let ours = site.apply(&layers).map(|_| tell(&site.root())).map_err(|e| e.to_string());
        let theirs = umoci(&site, &layers);
        if let (Ok(told), Ok(theirs)) = (&ours, &theirs)
            && told == theirs
        {
            good.set(good.get() + 1);
            return same_facts(&site.root(), &site.base.path().join("bundle/rootfs"));
        }
        // Where links of lower layers make an order count for umoci that does not for ours: it is
        // one of those that are possible, or refused because they differ.
        let mut others = reordered(stack).map(|stack| umoci(&Site::new(), &tars(&stack)));
        let is_explained = match (&ours, &theirs) {
            (Err(_), Err(_)) => true,
            (Ok(_), Err(error)) if error.contains("link: unpriv.link: unpriv.wrap target") => true,
            (Ok(told), _) => others.any(|other| other.is_ok_and(|other| other == *told)),
            (Err(error), _) if error.contains(MET) => true,
            (Err(_), theirs) => others.any(|other| other != *theirs),
        };
        if is_explained { Ok(()) } else { Err(format!("ours   {ours:?}\ntheirs {theirs:?}")) }
    });
    assert!(good.get() > 50, "only {} stacks were good", good.get());
}

/// All that can be known, of all but directories: of their times umoci keeps only some.
pub(super) fn same_facts(ours: &Path, theirs: &Path) -> Result<(), String> {
    let facts = |root: &Path| {
        let mut facts = facts(root);
        facts.retain(|fact| !root.join(name::os(&fact.path)).symlink_metadata().unwrap().is_dir());
        facts
    };
    let (ours, theirs) = (facts(ours), facts(theirs));
    let differs = ours.iter().zip(&theirs).find(|(ours, theirs)| ours != theirs);
    differs.map_or(Ok(()), |(ours, theirs)| Err(format!("ours   {ours:?}\ntheirs {theirs:?}")))
}

/// Where ours is meant to be another tree than umoci's, and why.
#[test]
fn umoci_gives_another_tree_where_that_is_meant() {
    if !need("umoci") {
        return;
    }
    for (why, layers, ours, theirs) in [
        (
            "a device that cannot be made is none; theirs is an empty file",
            &["c a; c b/c"][..],
            "",
            "f a=; d b; f b/c=",
        ),
        (
            "nobody's set-group-ID bit is inherited",
            &["d a:2755; f a/b/c=1"],
            "d a:2755; d a/b; f a/b/c=1",
            "d a:2755; d a/b:2755; f a/b/c=1",
        ),
        (
            "a link cannot lead on from a file, as for the kernel",
            &["f f=1; l a -> f/../d", "f a/x=1"],
            "ERROR",
            "l a -> f/../d; d d; f d/x=1; f f=1",
        ),
        (
            "a whiteout of `..` is an attack; theirs removes the directory above",
            &["f a/b/.wh...="],
            "ERROR",
            "",
        ),
        (
            "aufs' own names say nothing",
            &["f .wh..wh.plnk/1=x; f a=1"],
            "f a=1",
            "d .wh..wh.plnk; f .wh..wh.plnk/1=x; f a=1",
        ),
        (
            "a hard link may come before its target",
            &["h b -> a; f a=1"],
            "f a=1; h b -> a",
            "ERROR",
        ),
        ("a hard link to itself is there already", &["f a=1; h a -> a"], "f a=1", "ERROR"),
        (
            "a hard link is to what lower layers hold, though it goes",
            &["f a=1", "f .wh.a; h b -> a"],
            "f b=1",
            "ERROR",
        ),
        (
            "a directory is declared for what comes before, too",
            &["l a -> t", "f a/x=1; d a"],
            "d a; f a/x=1",
            "d a; d t; f t/x=1",
        ),
        (
            "a whiteout says nothing of what its layer replaces",
            &["d e; f e/x=1; l a -> e", "f a/.wh.x; d a"],
            "d a; d e; f e/x=1",
            "d a; d e",
        ),
        (
            "a whiteout hides for what comes before, too",
            &["l a -> t", "f a/x=1; f .wh.a"],
            "d a; f a/x=1",
            "d t; f t/x=1",
        ),
        (
            "a file goes for what comes before, too",
            &["f a=1", "f a/x=1; f .wh.a"],
            "d a; f a/x=1",
            "ERROR",
        ),
        (
            "a directory that goes leaves no metadata",
            &["d a:700; f a/x=1", "f a/y=1; f .wh.a"],
            "d a; f a/y=1",
            "d a:700; f a/y=1",
        ),
        (
            "what a layer gives up again is not in it",
            &["l a -> t", "f a/x=1; l a -> q"],
            "l a -> q",
            "l a -> q; d t; f t/x=1",
        ),
        (
            "links of lower layers lead through what the layer brings, all of it",
            &["d u; d u/l; l a -> u/l", "f a/x=1; l u -> v"],
            "l a -> u/l; l u -> v; d v; d v/l; f v/l/x=1",
            "l a -> u/l; l u -> v",
        ),
        (
            "a link of its own leads out of a lower one, of which it cannot know",
            &["d e; d e/f; l d -> e/f", "l d/a -> ../x; f d/a/y=1"],
            "ERROR",
            "l d -> e/f; d e; d e/f; l e/f/a -> ../x; d e/x; f e/x/y=1",
        ),
        (
            "two names that are one by a lower link have no order",
            &["l a -> t", "f t/x=1; f a/x=2"],
            "ERROR",
            "l a -> t; d t; f t/x=2",
        ),
        (
            "a link that leads is not replaced by what it leads",
            &["l a -> .", "f a/a=1"],
            "ERROR",
            "f a=1",
        ),
    ] {
        let site = Site::new();
        let layers: Vec<_> = layers.iter().map(|notation| layer(notation)).collect();
        let told = site.apply(&layers).map(|_| tell(&site.root()).join("; "));
        assert_eq!(told.unwrap_or("ERROR".into()), ours, "ours: {why}");
        let told = umoci(&site, &layers).map(|told| told.join("; "));
        assert_eq!(told.unwrap_or("ERROR".into()), theirs, "umoci's: {why}");
    }
}
