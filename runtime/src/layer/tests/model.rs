//! What a stack of layers means, in memory and as simply as it can be said.
//!
//! A layer is read as a whole first: of a name that comes twice the last counts, links that it
//! brings itself are followed. Then it is laid over the tree that the lower layers give: what it
//! takes away goes, what it brings is put where its path leads. A directory that nobody declared
//! may be a link of a lower layer, and is then what that leads to.
//!
//! Whiteouts stand for themselves wherever they come in their layer: they hide what lower layers
//! hold, and never what their own layer brings. Where two names of one layer turn out to be the
//! same by a link of a lower one, nothing says which is meant: directories become one, anything
//! else is refused.
//!
//! Only `std` is used, and no file is touched: a fuzz target can include this file.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

/// One entry of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) mtime: i64,
    pub(crate) xattrs: Xattrs,
}

pub(crate) type Xattrs = BTreeMap<String, Vec<u8>>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File(Vec<u8>),
    Directory,
    Symlink(Vec<u8>),
    HardLink(Vec<u8>),
    Fifo,
    /// Not made: as if it was not there.
    Device,
}

/// Why a stack has no meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refused(pub &'static str);

const NO_DIRECTORY: Refused = Refused("an entry below something that is no directory");
const NO_TARGET: Refused = Refused("a hard link to nothing");
const TO_DIRECTORY: Refused = Refused("a hard link to a directory");
const LOOP: Refused = Refused("more links than the kernel follows");
const MEETS: Refused = Refused("two names of a layer that are one by a link of a lower layer");
const LEFT: Refused = Refused("a link that leads by .. out of a link of a lower layer");
const ROOT: Refused = Refused("the root must be a directory");

/// What is known of one path of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fact {
    pub(crate) path: Vec<u8>,
    /// None: nobody declared this directory.
    pub(crate) meta: Option<Meta>,
    /// The first path of the same inode.
    pub(crate) first: Vec<u8>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Meta {
    pub(crate) mode: u32,
    pub(crate) mtime: i64,
    pub(crate) xattrs: Xattrs,
}

/// A name's components.
pub(crate) type Path = Vec<Vec<u8>>;

/// A tree of directories; hard links are names that share a leaf.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tree {
    root: Dir,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Dir {
    names: BTreeMap<Vec<u8>, Node>,
    /// The last declaration.
    meta: Option<Meta>,
    /// Which layer that is of, and its place in there.
    declared: (usize, usize),
}

#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) what: What,
    /// The layer that brought this name.
    by: usize,
}

#[derive(Debug, Clone)]
pub(crate) enum What {
    Dir(Dir),
    Leaf(Rc<Leaf>),
}

#[derive(Debug)]
pub(crate) struct Leaf {
    kind: Kind,
    meta: Meta,
}

/// Applies the layers in order.
pub(crate) fn apply(layers: &[Vec<Entry>]) -> Result<Tree, Refused> {
    let mut tree = Tree::default();
    for (index, entries) in layers.iter().enumerate() {
        let layer = Layer::read(index + 1, entries)?;
        tree.lay(layer)?;
    }
    Ok(tree)
}

/// `path.Clean` of Go: `..` ends at the root.
pub(crate) fn clean(name: &[u8]) -> Path {
    let mut path = Path::new();
    for component in name.split(|b| *b == b'/') {
        match component {
            b"" | b"." => {}
            b".." => drop(path.pop()),
            _ => path.push(component.to_vec()),
        }
    }
    path
}

/// What a cleaned name stands for (image-spec, layer.md, "Whiteouts").
pub(crate) enum Meaning {
    Entry,
    Whiteout(Path),
    Opaque(Path),
    /// aufs' own.
    Ignored,
}

pub(crate) fn meaning(path: &Path) -> Result<Meaning, Refused> {
    let Some((base, dir)) = path.split_last() else { return Ok(Meaning::Entry) };
    if base == b".wh..wh..opq" {
        return Ok(Meaning::Opaque(dir.to_vec()));
    }
    if path.iter().any(|component| component.starts_with(b".wh..wh.")) {
        return Ok(Meaning::Ignored);
    }
    match base.strip_prefix(b".wh.") {
        None => Ok(Meaning::Entry),
        Some(b"" | b"." | b"..") => Err(Refused("a whiteout of no name")),
        Some(hidden) => Ok(Meaning::Whiteout(child(dir, hidden))),
    }
}

pub(crate) fn child(dir: &[Vec<u8>], base: &[u8]) -> Path {
    let mut path = dir.to_vec();
    path.push(base.to_vec());
    path
}

/// What a walk does about a link: go on with what it says, or end here.
pub(crate) enum Turn {
    Follow,
    End(Refused),
}

impl Tree {
    pub(crate) fn get(&self, path: &[Vec<u8>]) -> Option<&What> {
        self.node(path).map(|node| &node.what)
    }

    fn node(&self, path: &[Vec<u8>]) -> Option<&Node> {
        let (base, dir) = path.split_last()?;
        self.dir(dir)?.names.get(base)
    }

    pub(crate) fn dir(&self, path: &[Vec<u8>]) -> Option<&Dir> {
        path.iter().try_fold(&self.root, |dir, component| match &dir.names.get(component)?.what {
            What::Dir(next) => Some(next),
            What::Leaf(_) => None,
        })
    }

    /// The directory at `path`, made if it is not there.
    pub(crate) fn make(&mut self, path: &[Vec<u8>], by: usize) -> Result<&mut Dir, Refused> {
        path.iter().try_fold(&mut self.root, |dir, component| {
            let new = || Node { what: What::Dir(Dir::default()), by };
            match &mut dir.names.entry(component.clone()).or_insert_with(new).what {
                What::Dir(next) => Ok(next),
                What::Leaf(_) => Err(NO_DIRECTORY),
            }
        })
    }

    pub(crate) fn put(&mut self, path: &[Vec<u8>], node: Node) -> Result<(), Refused> {
        let (base, dir) = path.split_last().ok_or(ROOT)?;
        let by = node.by;
        self.make(dir, by)?.names.insert(base.clone(), node);
        Ok(())
    }

    pub(crate) fn remove(&mut self, path: &[Vec<u8>]) {
        if let Some((base, dir)) = path.split_last()
            && self.dir(dir).is_some()
            && let Ok(dir) = self.make(dir, 0)
        {
            dir.names.remove(base);
        }
    }

    /// Where the directory `path` truly lies, and what links lead out of on the way. They are
    /// followed with the tree as their root; what is not there is taken for a directory.
    pub(crate) fn walk(
        &self,
        path: &[Vec<u8>],
        turn: &mut dyn FnMut(&[Vec<u8>]) -> Turn,
    ) -> Result<(Path, Vec<Path>), Refused> {
        let (mut at, mut left) = (Path::new(), Vec::new());
        let mut ahead: Vec<Vec<u8>> = path.iter().rev().cloned().collect();
        let mut links = 0;
        while let Some(component) = ahead.pop() {
            match &component[..] {
                b"" | b"." => continue,
                b".." => {
                    left.extend((!at.is_empty()).then(|| at.clone()));
                    at.pop();
                    continue;
                }
                _ => at.push(component),
            }
            let Some(What::Leaf(leaf)) = self.get(&at) else { continue };
            let Kind::Symlink(to) = &leaf.kind else { return Err(NO_DIRECTORY) };
            if let Turn::End(refused) = turn(&at) {
                return Err(refused);
            }
            links += 1;
            if links > 40 {
                return Err(LOOP);
            }
            at.pop();
            if to.starts_with(b"/") {
                at.clear();
            }
            ahead.extend(to.split(|b| *b == b'/').rev().map(<[u8]>::to_vec));
        }
        Ok((at, left))
    }

    pub(crate) fn follow(&self, path: &[Vec<u8>]) -> Result<Path, Refused> {
        self.walk(path, &mut |_| Turn::Follow).map(|(at, _)| at)
    }
}

impl Dir {
    pub(crate) fn declare(&mut self, meta: Meta, declared: (usize, usize)) {
        if self.meta.is_none() || self.declared < declared {
            (self.meta, self.declared) = (Some(meta), declared);
        }
    }

    fn holds_of(&self, layer: usize) -> bool {
        self.declared.0 == layer || self.names.values().any(|node| node.is_of(layer))
    }
}

impl Node {
    pub(crate) fn new(what: What, by: usize) -> Node {
        Node { what, by }
    }

    /// Whether it, or anything in it, comes from this layer.
    fn is_of(&self, layer: usize) -> bool {
        self.by == layer || matches!(&self.what, What::Dir(dir) if dir.holds_of(layer))
    }
}

impl What {
    /// None: a directory, a hard link, or nothing.
    pub(crate) fn leaf(entry: &Entry) -> Option<What> {
        match &entry.kind {
            Kind::Directory | Kind::HardLink(_) | Kind::Device => None,
            kind => Some(What::Leaf(Rc::new(Leaf { kind: kind.clone(), meta: Meta::of(entry) }))),
        }
    }
}

impl Meta {
    pub(crate) fn of(entry: &Entry) -> Meta {
        let mut meta =
            Meta { mode: entry.mode & 0o7777, mtime: entry.mtime, xattrs: entry.xattrs.clone() };
        match entry.kind {
            Kind::Symlink(_) => (meta.mode, meta.xattrs) = (0o777, Xattrs::new()),
            // It cannot be opened to set them.
            Kind::Fifo => meta.xattrs.clear(),
            _ => {}
        }
        meta
    }
}

/// A layer by itself.
struct Layer {
    index: usize,
    own: Tree,
    /// What it hides: names, and of directories (true) all that they hold.
    hidden: Vec<(Path, bool)>,
    /// Hard links to what it does not bring itself, with their place in the archive.
    waiting: BTreeMap<Path, (usize, Path)>,
    /// What its links lead out of by `..`.
    left: BTreeSet<Path>,
}

impl Layer {
    fn read(index: usize, entries: &[Entry]) -> Result<Layer, Refused> {
        let (own, hidden, waiting, left) = Default::default();
        let mut layer = Layer { index, own, hidden, waiting, left };
        for (place, entry) in entries.iter().enumerate() {
            layer.take(place, entry)?;
        }
        Ok(layer)
    }

    fn take(&mut self, place: usize, entry: &Entry) -> Result<(), Refused> {
        let path = clean(&entry.name);
        match meaning(&path)? {
            Meaning::Entry if entry.kind == Kind::Device => return Ok(()),
            Meaning::Entry => {}
            Meaning::Ignored => return Ok(()),
            Meaning::Whiteout(path) => {
                let (base, dir) = path.split_last().expect("a whiteout has a name");
                let dir = self.hidden_in(dir)?;
                self.hidden.extend(dir.map(|dir| (child(&dir, base), false)));
                return Ok(());
            }
            Meaning::Opaque(dir) => {
                let dir = self.hidden_in(&dir)?;
                self.hidden.extend(dir.map(|dir| (dir, true)));
                return Ok(());
            }
        }
        let Some((base, dir)) = path.split_last() else {
            if entry.kind != Kind::Directory {
                return Err(ROOT);
            }
            self.own.root.declare(Meta::of(entry), (self.index, place));
            return Ok(());
        };
        let dir = self.find(dir)?;
        self.own.make(&dir, self.index)?;
        let at = child(&dir, base);
        self.waiting.remove(&at);
        match &entry.kind {
            Kind::HardLink(to) => self.hard_link(place, at, &clean(to)),
            Kind::Directory => {
                if self.own.dir(&at).is_none() {
                    self.put(&at, What::Dir(Dir::default()))?;
                }
                let declared = (self.index, place);
                self.own.make(&at, self.index)?.declare(Meta::of(entry), declared);
                Ok(())
            }
            _ => self.put(&at, What::leaf(entry).expect("all other kinds are leaves")),
        }
    }

    fn find(&mut self, dir: &[Vec<u8>]) -> Result<Path, Refused> {
        let (at, left) = self.own.walk(dir, &mut |_| Turn::Follow)?;
        self.left.extend(left);
        Ok(at)
    }

    /// None: this layer has something else there, so there is nothing to hide.
    fn hidden_in(&mut self, dir: &[Vec<u8>]) -> Result<Option<Path>, Refused> {
        match self.find(dir) {
            Err(NO_DIRECTORY) => Ok(None),
            other => other.map(Some),
        }
    }

    fn put(&mut self, at: &Path, what: What) -> Result<(), Refused> {
        self.waiting.retain(|path, _| !path.starts_with(at));
        self.own.put(at, Node::new(what, self.index))
    }

    fn hard_link(&mut self, place: usize, at: Path, to: &Path) -> Result<(), Refused> {
        let (base, dir) = to.split_last().ok_or(TO_DIRECTORY)?;
        let target = child(&self.find(dir)?, base);
        match self.own.get(&target).cloned() {
            Some(What::Dir(dir)) if dir.meta.is_some() => Err(TO_DIRECTORY),
            Some(What::Leaf(_)) if target == at => Ok(()),
            // It would take the place of the directory that its target lies in.
            Some(What::Leaf(_)) if target.starts_with(&at) => Err(NO_TARGET),
            Some(leaf @ What::Leaf(_)) => self.put(&at, leaf),
            // A directory that nobody declared may be a link of a lower layer.
            None | Some(What::Dir(_)) => {
                self.waiting.retain(|path, _| !path.starts_with(&at));
                self.own.remove(&at);
                // To a link that waits itself: both wait for the same.
                let target = self.waiting.get(&target).map_or(target, |(_, first)| first.clone());
                self.waiting.insert(at, (place, target));
                Ok(())
            }
        }
    }

    fn declares(&self, path: &[Vec<u8>]) -> bool {
        self.own.dir(path).is_some_and(|dir| dir.meta.is_some())
    }

    /// All that it brings, parents first.
    fn brings(&self) -> Vec<(Path, What)> {
        fn collect(dir: &Dir, path: &Path, all: &mut Vec<(Path, What)>) {
            for (name, node) in &dir.names {
                let path = child(path, name);
                if let What::Dir(dir) = &node.what {
                    let bare = Dir { names: BTreeMap::new(), ..dir.clone() };
                    all.push((path.clone(), What::Dir(bare)));
                    collect(dir, &path, all);
                } else {
                    all.push((path, node.what.clone()));
                }
            }
        }
        let mut all = Vec::new();
        collect(&self.own.root, &Path::new(), &mut all);
        all
    }
}

impl Tree {
    fn lay(&mut self, mut layer: Layer) -> Result<(), Refused> {
        let later = self.link_to_lower(&mut layer)?;
        self.hide(&layer)?;
        for path in layer.left.iter().filter(|path| !layer.declares(path)) {
            let (base, dir) = path.split_last().expect("nothing leads out of the root");
            let leaf = self.reach(dir, &layer)?.map(|dir| child(&dir, base));
            if let Some(What::Leaf(leaf)) = leaf.and_then(|path| self.get(&path))
                && matches!(leaf.kind, Kind::Symlink(_))
            {
                return Err(LEFT);
            }
        }
        if let Some(meta) = &layer.own.root.meta {
            self.root.declare(meta.clone(), layer.own.root.declared);
        }
        let (mut led, mut known) = (BTreeSet::new(), BTreeMap::new());
        let mut rest = layer.brings();
        for links in 0.. {
            if rest.is_empty() {
                break;
            }
            // Where all of these go is asked before the first of them is put there.
            let mut now = Vec::new();
            for (path, what) in std::mem::take(&mut rest) {
                match self.lead(&layer, &path, &what, links, &mut led, &mut known)? {
                    Some(at) => now.push((at, what)),
                    None => rest.push((path, what)),
                }
            }
            for (at, what) in now {
                self.bring(&at, what, layer.index, &led)?;
            }
        }
        for (at, target) in later {
            self.link_in_tree(&at, &target, layer.index, &led)?;
        }
        Ok(())
    }

    /// A hard link's target is what lower layers hold under its name, as they were: but where the
    /// name leads through a lower link to what this layer brings, it is that. Returns the links
    /// whose targets are not there.
    fn link_to_lower(&self, layer: &mut Layer) -> Result<Vec<(Path, Path)>, Refused> {
        let mut waiting: Vec<_> = std::mem::take(&mut layer.waiting).into_iter().collect();
        waiting.sort_by_key(|(_, (place, _))| *place);
        let mut later = Vec::new();
        for (at, (_, target)) in waiting {
            if layer.own.get(&at).is_some() {
                return Err(NO_DIRECTORY);
            }
            let (base, dir) = target.split_last().expect("a target has a name");
            let found = self.reach(dir, layer)?.and_then(|lower| {
                let place = child(&lower, base);
                let own = layer.own.get(&place).filter(|_| lower != dir);
                own.filter(|what| matches!(what, What::Leaf(_))).or(self.get(&place)).cloned()
            });
            match found {
                Some(What::Dir(_)) => return Err(TO_DIRECTORY),
                Some(leaf) => layer.own.put(&at, Node::new(leaf, layer.index))?,
                None => later.push((at, target)),
            }
        }
        Ok(later)
    }

    /// The directory of the lower layers that a layer means by `path`. None: there is none, or it
    /// is behind a link in whose place the layer declares a directory.
    fn reach(&self, path: &[Vec<u8>], layer: &Layer) -> Result<Option<Path>, Refused> {
        const CUT: Refused = Refused("not this one");
        let mut turn =
            |at: &[Vec<u8>]| if layer.declares(at) { Turn::End(CUT) } else { Turn::Follow };
        match self.walk(path, &mut turn) {
            Err(CUT | NO_DIRECTORY) => Ok(None),
            other => Ok(Some(other?.0).filter(|at| self.dir(at).is_some())),
        }
    }

    fn hide(&mut self, layer: &Layer) -> Result<(), Refused> {
        // What lies above first, wherever it stands in the archive.
        let mut hidden = layer.hidden.clone();
        hidden.sort();
        for (path, opaque) in hidden {
            if opaque {
                if let Some(dir) = self.reach(&path, layer)? {
                    self.make(&dir, 0)?.names.clear();
                }
            } else {
                let (base, dir) = path.split_last().expect("a whiteout has a name");
                if let Some(dir) = self.reach(dir, layer)? {
                    self.remove(&child(&dir, base));
                }
            }
        }
        Ok(())
    }

    /// Where something of a layer belongs, and which links in the place of its directories lead
    /// there. None: more than may be followed already. `known`: where links led that were followed
    /// before; that is not asked again, when the layer may have put something in their way.
    fn lead(
        &self,
        layer: &Layer,
        path: &Path,
        what: &What,
        mut links: usize,
        led: &mut BTreeSet<Path>,
        known: &mut BTreeMap<Path, Path>,
    ) -> Result<Option<Path>, Refused> {
        let (base, dir) = path.split_last().expect("the root is described, not brought");
        let implicit = matches!(what, What::Dir(dir) if dir.meta.is_none());
        let mut at = Path::new();
        let dirs = if implicit { path } else { dir };
        for (index, component) in dirs.iter().enumerate() {
            at.push(component.clone());
            // It takes the place of whatever lower layers have there.
            if layer.declares(&dirs[..=index]) {
                continue;
            }
            if let Some(found) = known.get(&dirs[..=index]) {
                links -= 1;
                at.clone_from(found);
                continue;
            }
            if let Some(Node { what: What::Leaf(leaf), by }) = self.node(&at) {
                if *by == layer.index {
                    return Err(MEETS);
                }
                if !matches!(leaf.kind, Kind::Symlink(_)) {
                    return Err(NO_DIRECTORY);
                }
                if links == 0 {
                    return Ok(None);
                }
                links -= 1;
                led.insert(at.clone());
                at = self.follow(&at)?;
                known.insert(dirs[..=index].to_vec(), at.clone());
            }
        }
        Ok(Some(if implicit { at } else { child(&at, base) }))
    }

    /// Puts something of a layer where it belongs. `led`: links that lead to what the layer brings.
    fn bring(
        &mut self,
        at: &Path,
        what: What,
        by: usize,
        led: &BTreeSet<Path>,
    ) -> Result<(), Refused> {
        let Some((base, dir)) = at.split_last() else { return Ok(()) };
        let in_use = led.range(at.clone()..).next().is_some_and(|link| link.starts_with(at));
        if in_use && !(matches!(what, What::Dir(_)) && self.dir(at).is_some()) {
            return Err(MEETS);
        }
        let names = &mut self.make(dir, by).map_err(|_| MEETS)?.names;
        match (names.get_mut(base), what) {
            (Some(Node { what: What::Dir(there), .. }), What::Dir(new)) => {
                if let Some(meta) = new.meta {
                    there.declare(meta, new.declared);
                }
            }
            (Some(there), _) if there.is_of(by) => return Err(MEETS),
            (_, what) => drop(names.insert(base.clone(), Node { what, by })),
        }
        Ok(())
    }

    fn link_in_tree(
        &mut self,
        at: &Path,
        target: &Path,
        by: usize,
        led: &BTreeSet<Path>,
    ) -> Result<(), Refused> {
        let (base, dir) = target.split_last().expect("a target has a name");
        let target = child(&self.follow(dir)?, base);
        let leaf = match self.get(&target) {
            None => return Err(NO_TARGET),
            Some(What::Dir(_)) => return Err(TO_DIRECTORY),
            Some(leaf) => leaf.clone(),
        };
        let (base, dir) = at.split_last().expect("a hard link has a name");
        let at = child(&self.follow(dir)?, base);
        if target.starts_with(&at) {
            return Err(NO_TARGET);
        }
        self.bring(&at, leaf, by, led)
    }

    /// The tree in the tests' notation.
    pub(crate) fn tell(&self) -> Vec<String> {
        let plain = |what: &str, path: &[u8]| format!("{what} {}", String::from_utf8_lossy(path));
        let told = |fact: Fact, what: &What| {
            let mode = fact.meta.as_ref().map(|meta| meta.mode);
            let with_mode = |what: &str, usual| match mode {
                Some(mode) if mode != usual => format!("{}:{mode:o}", plain(what, &fact.path)),
                _ => plain(what, &fact.path),
            };
            let kind = match what {
                What::Dir(_) => return with_mode("d", 0o755),
                What::Leaf(leaf) => &leaf.kind,
            };
            match kind {
                Kind::Symlink(to) => {
                    format!("{} -> {}", plain("l", &fact.path), String::from_utf8_lossy(to))
                }
                _ if fact.first != fact.path => {
                    let first = String::from_utf8_lossy(&fact.first);
                    format!("{} -> {first}", plain("h", &fact.path))
                }
                Kind::File(content) => {
                    format!("{}={}", with_mode("f", 0o644), String::from_utf8_lossy(content))
                }
                _ => with_mode("p", 0o644),
            }
        };
        let facts = self.facts();
        facts.into_iter().skip(1).zip(self.whats()).map(|(fact, what)| told(fact, what)).collect()
    }

    /// Everything that can be known of the tree; the root comes first.
    pub(crate) fn facts(&self) -> Vec<Fact> {
        fn collect(dir: &Dir, path: &[u8], seen: &mut BTreeMap<*const Leaf, Vec<u8>>) -> Vec<Fact> {
            let mut facts =
                vec![Fact { path: path.to_vec(), meta: dir.meta.clone(), first: path.to_vec() }];
            for (name, node) in &dir.names {
                let mut path = path.to_vec();
                if !path.is_empty() {
                    path.push(b'/');
                }
                path.extend_from_slice(name);
                match &node.what {
                    What::Dir(dir) => facts.extend(collect(dir, &path, seen)),
                    What::Leaf(leaf) => {
                        let first = seen.entry(Rc::as_ptr(leaf)).or_insert_with(|| path.clone());
                        let (first, meta) = (first.clone(), Some(leaf.meta.clone()));
                        facts.push(Fact { path, meta, first });
                    }
                }
            }
            facts
        }
        collect(&self.root, b"", &mut BTreeMap::new())
    }

    /// What the facts are of, without the root.
    fn whats(&self) -> Vec<&What> {
        fn collect<'a>(dir: &'a Dir, whats: &mut Vec<&'a What>) {
            for node in dir.names.values() {
                whats.push(&node.what);
                if let What::Dir(dir) = &node.what {
                    collect(dir, whats);
                }
            }
        }
        let mut whats = Vec::new();
        collect(&self.root, &mut whats);
        whats
    }
}
