//! Layers that are made to do harm, through the real command line: each gives the tree that a
//! careful reader of the specification expects, or one line that names the image, the layer and
//! the entry. Nothing outside is changed, and nothing half made is left.
//!
//! What the rules are, `runtime::layer` tells, and its own tests have the finer points. Here is what
//! a user sees of a hostile image, by the kinds of attack in SECURITY.md, 3.1: a table each, and one
//! runner.

mod bombs;
mod framing;
mod links;
mod names;
mod packing;
mod whiteouts;

use std::{fs, path::Path, sync::LazyLock};

use fixtures::{
    Outcome, Place, Registry, Sandbox,
    image::{Compression, Entry, Image, Layer, digest},
    need,
    place::{assert_says, list},
    run,
    tree::{self, Tree},
};
use tar::EntryType;

/// A row of a table: what it is about, the image, and what becomes of it.
struct Case(&'static str, Image, Expect);

enum Expect {
    /// An error about the layer of this number, the lowest is 0, with these words: the entry, as
    /// it is shown, and what is wrong with it.
    Refused(usize, &'static str),
    /// A tree of these files, links and empty directories, in the notation of [`Table::image`]; of
    /// a hard link `h PATH -> FIRST PATH`.
    Gives(&'static str),
}
use Expect::{Gives, Refused};

/// What the rows of a table have in common.
struct Table<'a> {
    /// What must not be touched, for which `HOME` stands in layers and trees. It is here without
    /// its first slash.
    home: &'a str,
}

/// The same place from where layers are expanded, and from the finished tree.
const UP: &str = "../../../../home";

impl Table<'_> {
    /// An image of these layers: `d PATH` is a directory, `f PATH=CONTENT` a file,
    /// `l PATH -> TARGET` and `h PATH -> TARGET` links, symbolic and hard, `p PATH` a pipe, `c PATH`
    /// and `b PATH` devices; `:MODE` after a path is its mode.
    fn image<const N: usize>(&self, layers: [&str; N]) -> Image {
        layers.iter().fold(Image::new(), |image, text| image.layer(self.layer(text)))
    }

    fn layer(&self, text: &str) -> Layer {
        let text = text.replace("HOME", self.home).replace("UP", UP);
        text.split("; ").fold(Layer::new(), |layer, entry| {
            let (kind, rest) = entry.split_once(' ').expect("a kind and a path");
            let separator = if matches!(kind, "l" | "h") { " -> " } else { "=" };
            let (path, value) = rest.split_once(separator).unwrap_or((rest, ""));
            let (path, mode) = path.split_once(':').unwrap_or((path, "755"));
            let (kind, link, content) = match kind {
                "d" => (EntryType::Directory, "", ""),
                "f" => (EntryType::Regular, "", value),
                "l" => (EntryType::Symlink, value, ""),
                "h" => (EntryType::Link, value, ""),
                "p" => (EntryType::Fifo, "", ""),
                "c" => (EntryType::Char, "", ""),
                "b" => (EntryType::Block, "", ""),
                other => panic!("{other} is no kind of entry"),
            };
            layer.entry(&Entry {
                kind,
                name: path.as_bytes(),
                link: link.as_bytes(),
                content: content.as_bytes(),
                mode: u32::from_str_radix(mode, 8).expect("a mode"),
                // Memory.
                device: (1, 1),
                ..Entry::default()
            })
        })
    }
}

/// An image of one layer.
fn of(layer: Layer) -> Image {
    Image::new().layer(layer)
}

/// An image of one layer: these bytes, as they are.
fn of_bytes(bytes: impl Into<Vec<u8>>) -> Image {
    Image::new().layer_of(&digest(b""), bytes.into(), Compression::Gzip)
}

// ---- the runner

struct Site {
    sandbox: Sandbox,
    registry: Registry,
}

/// One registry for all cases; each has an image of its own.
static SITE: LazyLock<Site> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let registry = Registry::start(&sandbox);
    Site { sandbox, registry }
});

/// What the user has to lose, beside the directories of the pull. All of it is the user's own: no
/// mode protects it.
struct Canary {
    home: String,
    before: Tree,
}

impl Canary {
    fn new(place: &Place) -> Canary {
        let home = place.store.with_file_name("home").display().to_string();
        let make = "umask 077; mkdir -p \"$1/store/blobs\" \"$1/sub\" && cd \"$1\" &&
                    echo secret >secret && echo f >sub/f && echo kept >store/blobs/kept";
        run(place.command("sh", &["-c", make, "sh", &home])).success();
        let before = tree::read(Path::new(&home));
        Canary { home, before }
    }

    #[track_caller]
    fn assert_untouched(&self, label: &str) {
        let home = Path::new(&self.home);
        assert_eq!(tree::read(home), self.before, "{label}: THE HOST WAS CHANGED");
        let beside = list(home.parent().expect("it is in a directory"));
        assert_eq!(beside, ["home", "node", "store"], "{label}: THE HOST WAS CHANGED");
    }
}

/// Pulls the images of a table, one after the other into the same place.
fn check(topic: &str, table: impl FnOnce(&Table<'_>) -> Vec<Case>) {
    need!(root, registry, getfattr);
    let place = Place::new(&SITE.sandbox, topic);
    let canary = Canary::new(&place);
    let home = &canary.home[1..];
    for (number, Case(name, image, expect)) in table(&Table { home }).into_iter().enumerate() {
        let (label, image) = (format!("{topic}: {name}"), image.build());
        let reference = format!("{topic}:{number}");
        SITE.registry.push(&reference, &image);
        let reference = SITE.registry.name(&reference);
        let mut pull = place.command("shifter-pull", &[&reference]);
        // Where /proc/self/cwd leads to.
        pull.env("HOME", &canary.home).current_dir(&canary.home);
        let outcome = run(pull);
        canary.assert_untouched(&label);
        match expect {
            Gives(tree) => assert_gives(&label, &place, &outcome, &tree.replace("HOME", home)),
            Refused(layer, says) => {
                let digest = format!("layer {}", image.blobs()[layer].digest());
                assert_refused(&label, &place, &outcome, &[&reference, &digest, says]);
            }
        }
        for dir in [&place.store, &place.node] {
            fs::remove_dir_all(dir).unwrap_or_else(|e| panic!("remove {}: {e}", dir.display()));
        }
    }
}

#[track_caller]
fn assert_gives(label: &str, place: &Place, outcome: &Outcome, tree: &str) {
    assert_eq!(outcome.code, 0, "{label}: {outcome}");
    let mut expected: Vec<_> = tree.split("; ").filter(|line| !line.is_empty()).collect();
    let mut told = tell(&place.rootfs());
    expected.sort_unstable();
    told.sort_unstable();
    assert_eq!(told, expected, "{label}");
    place.assert_nothing_partial();
}

#[track_caller]
fn assert_refused(label: &str, place: &Place, outcome: &Outcome, says: &[&str]) {
    assert_eq!(outcome.code, 125, "{label}: {outcome}");
    assert_eq!(outcome.stdout, "", "{label}");
    for part in says {
        assert!(outcome.stderr.contains(part), "{label}: no {part:?} in: {outcome}");
    }
    assert_says(&outcome.stderr, says);
    let control = |c: char| c != '\n' && c.is_control();
    assert!(!outcome.stderr.contains(control), "{label}: a name reached the terminal: {outcome}");

    place.assert_clean();
    place.assert_nothing_kept();
    // Of the image, the node has its documents alone, and nobody's locks do harm.
    let node = tree::read(&place.node);
    let left = node.iter().filter(|(path, item)| {
        item.kind != 'd' && !path.starts_with("locks/") && !path.starts_with("blobs/sha256/")
    });
    let left: Vec<_> = left.map(|(path, _)| path).collect();
    assert!(left.is_empty(), "{label}: the node directory keeps {left:?}");
    let blobs = list(&place.node.join("blobs/sha256"));
    assert_eq!(blobs.len(), 2, "{label}: more than manifest and configuration: {blobs:?}");
}

/// A tree, in the tables' notation. Of modes only a set-ID bit is told, and all attributes are.
fn tell(root: &Path) -> Vec<String> {
    let tree = tree::read(root);
    let mut lines = Vec::new();
    for (path, item) in tree.iter().filter(|(path, _)| *path != ".") {
        let below = format!("{path}/");
        let is_empty = !tree.range(below.clone()..).any(|(other, _)| other.starts_with(&below));
        let mut line = match (item.kind, &item.same_as) {
            ('d', _) if !is_empty => continue,
            (_, Some(first)) if first != path => format!("h {path} -> {first}"),
            ('f', _) => {
                let content = fs::read(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"));
                format!("f {path}={}", content.escape_ascii())
            }
            ('l', _) => format!("l {path} -> {}", item.content),
            (kind, _) => format!("{kind} {path}"),
        };
        line.extend(item.xattrs.iter().map(|(name, value)| format!(" {name}={value}")));
        lines.push(line);
    }
    lines
}
