//! The images that are expanded on a node: their names, their memory, who uses them.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write as _},
    os::fd::AsFd,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::sys::{stat::futimens, time::TimeSpec};
use serde_json::Value;

use super::{Draft, Error, Mode, Node, sent, usage::Usage};
use crate::{digest::Digest, layer, source::Source};

/// The names that a tree was asked for by, one a line; its time of modification is the tree's last
/// use.
const NAMES: &str = "names";
/// The files of the user's that a tree was made of: a digest of what tells each from all others, one
/// a line.
const FILES: &str = "files";
/// How exactly the last use of a tree is known.
const EXACT: Duration = Duration::from_secs(60);

/// An image that is expanded here.
#[derive(Debug, Clone)]
pub struct Tree {
    /// The digest of its manifest.
    pub digest: Digest,
    /// The names by which it was asked for.
    pub names: Vec<String>,
    /// When it was last used, or made.
    pub used: Option<SystemTime>,
    /// Its directory in `trees/`.
    pub path: PathBuf,
}

impl Tree {
    /// The memory that it takes, in bytes.
    pub fn memory(&self) -> u64 {
        File::open(&self.path).map_or(0, |dir| layer::measure_tree(dir.into()))
    }
}

/// Why a tree stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    /// A process in a container of it, or one that does not tell.
    Process(u32),
    /// A container that is being built, or a pull.
    Beginning,
}

impl std::fmt::Display for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            User::Process(pid) => write!(f, "process {pid}"),
            User::Beginning => f.write_str("a pull or a container that begins"),
        }
    }
}

/// What became of a tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// It is gone; so many bytes of memory came free.
    Gone(u64),
    /// It is in use, and stays.
    InUse(User),
}

impl Node {
    /// All images that are here.
    pub fn trees(&self) -> Result<Vec<Tree>, Error> {
        let dir = self.path().join("trees");
        let failed = |e| Error::new("list", &dir, e);
        let mut trees = Vec::new();
        for entry in fs::read_dir(&dir).map_err(failed)? {
            let path = entry.map_err(failed)?.path();
            let hex = path.file_stem().unwrap_or_default().to_string_lossy();
            let Ok(digest) = Digest::parse(&format!("sha256:{hex}")) else { continue };
            let metadata = fs::metadata(path.join(NAMES)).or_else(|_| fs::metadata(&path));
            let used = metadata.and_then(|file| file.modified()).ok();
            trees.push(Tree { digest, names: names(&path), used, path });
        }
        trees.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(trees)
    }

    /// Takes note that the image was asked for by this name, and now. Other images lose the name.
    /// Best effort: it is for people.
    pub fn note(&self, manifest: &Digest, source: &Source) {
        let tree = self.tree_dir(manifest);
        let name = source.to_string();
        let is_pinned =
            matches!(source, Source::Registry(reference) if reference.digest().is_some());
        let file = File::open(tree.join(NAMES)).ok();
        let text = file.as_ref().and_then(|file| io::read_to_string(file).ok()).unwrap_or_default();
        let mut known: Vec<_> = text.lines().map(str::to_owned).collect();
        // A rank of a step asks by the digest that the first rank found for the name.
        let unpinned = name.split('@').next().filter(|_| is_pinned).unwrap_or(&name);
        if known.iter().any(|known| *known == name || known == unpinned) {
            let Some(file) = file else { return };
            let used = file.metadata().and_then(|file| file.modified()).ok();
            let age = used.and_then(|at| SystemTime::now().duration_since(at).ok());
            if age.is_some_and(|age| age > EXACT) {
                let _ = futimens(file, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW);
            }
            return;
        }
        for other in self.trees().into_iter().flatten().filter(|other| other.path != tree) {
            if !is_pinned && other.digest != *manifest {
                let _ = self.forget(&other, &BTreeSet::from([name.clone()]));
            }
        }
        // One name a line.
        if name.contains('\n') {
            return;
        }
        known.push(name);
        // Who was killed in the middle of this has left a file that no making of a tree comes across.
        self.sweep(None);
        let _ = self.write_lines(&tree, NAMES, &known);
    }

    /// Takes note of a file that the tree was made of, so that it need not be read again. Best effort:
    /// of two who do so at once, one may be forgotten.
    pub fn remember(&self, manifest: &Digest, file: &Digest) {
        let tree = self.tree_dir(manifest);
        let mut files = lines(&tree, FILES);
        if !files.iter().any(|known| known == file.as_str()) {
            files.push(file.to_string());
            let _ = self.write_lines(&tree, FILES, &files);
        }
    }

    /// The manifest of the tree that was made of a file, if it is here.
    pub fn remembered(&self, file: &Digest) -> Option<Digest> {
        let mut trees = self.trees().ok()?.into_iter();
        let is_of_it = |tree: &Tree| lines(&tree.path, FILES).iter().any(|f| f == file.as_str());
        trees.find(is_of_it).map(|tree| tree.digest)
    }

    /// Takes names away from a tree.
    pub fn forget(&self, tree: &Tree, gone: &BTreeSet<String>) -> Result<(), Error> {
        let mut names = names(&tree.path);
        let before = names.len();
        names.retain(|name| !gone.contains(name));
        if names.len() == before { Ok(()) } else { self.write_lines(&tree.path, NAMES, &names) }
    }

    fn write_lines(&self, tree: &Path, file: &str, lines: &[String]) -> Result<(), Error> {
        let mut draft = Draft::create(&self.path().join("partial"), &tree.join(file))?;
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        draft.write_all(text.as_bytes()).map_err(|e| draft.error(e))?;
        draft.commit()
    }

    /// Who uses a tree, if somebody does.
    pub fn user(&self, tree: &Tree) -> Result<Option<User>, Error> {
        Ok(self.users(std::slice::from_ref(tree))?.remove(0))
    }

    /// Who uses each of these trees.
    pub fn users(&self, trees: &[Tree]) -> Result<Vec<Option<User>>, Error> {
        let mut users = Vec::new();
        for tree in trees {
            users.push(self.try_lock(&tree.digest)?.is_none().then_some(User::Beginning));
        }
        let usage = Usage::scan();
        for (tree, user) in trees.iter().zip(&mut users) {
            // Of two answers, the one that names the process.
            *user = usage.of(&tree.digest).map(User::Process).or(*user);
        }
        Ok(users)
    }

    /// Removes a tree that nobody uses.
    pub fn remove(&self, tree: &Tree, mode: Mode) -> Result<Removal, Error> {
        // Held to the end: nobody begins to use it, or to make it anew.
        let Some(_lock) = self.try_lock(&tree.digest)? else {
            return Ok(Removal::InUse(User::Beginning));
        };
        if let Some(pid) = Usage::scan().of(&tree.digest) {
            return Ok(Removal::InUse(User::Process(pid)));
        }
        let bytes = tree.memory();
        if mode == Mode::Do {
            self.take_away(tree)?;
        }
        Ok(Removal::Gone(bytes))
    }

    /// Takes an image away that was needed for a moment, unless somebody uses it by now.
    pub(crate) fn remove_image(&self, manifest: &Digest) -> Result<(), Error> {
        let path = self.tree_dir(manifest);
        let trees = self.trees()?;
        let Some(tree) = trees.iter().find(|tree| tree.path == path) else { return Ok(()) };
        self.remove(tree, Mode::Do).map(drop)
    }

    /// Moves a tree aside, so that it is never seen in part, and removes it there. Who dies in
    /// between leaves what the next one removes as the leftover of a pull.
    fn take_away(&self, tree: &Tree) -> Result<(), Error> {
        let partial = self.path().join("partial");
        let parent = File::open(&partial).map_err(|e| Error::new("open", &partial, e))?;
        let aside = partial.join(tree.digest.hex());
        let remove = |name: &str| {
            layer::remove_tree(parent.as_fd(), name.as_ref())
                .map_err(|e| Error::new("remove", partial.join(name), e))
        };
        remove(tree.digest.hex())?;
        fs::rename(&tree.path, &aside).map_err(|e| Error::new("move aside", &tree.path, e))?;
        remove(tree.digest.hex())?;
        let others = self.trees()?;
        if others.iter().all(|other| other.digest != tree.digest) {
            self.forget_documents(&others)?;
        }
        Ok(())
    }

    /// Removes what dead processes left in `partial/`, and what was sent to them.
    pub fn clean(&self) {
        self.sweep(None);
        self.sweep_sent();
    }

    /// Removes what other nodes have sent here for steps that are over, or were killed.
    pub fn sweep_sent(&self) {
        sent::sweep(&sent::place(self));
    }

    /// Removes the documents of images that are not here any more. Whoever is about to bring one
    /// asks for them again.
    fn forget_documents(&self, trees: &[Tree]) -> Result<(), Error> {
        let read = |digest: &Digest| -> Option<Value> {
            serde_json::from_slice(&self.blobs().document(digest)?).ok()
        };
        let parse = |value: &Value| Digest::parse(value["digest"].as_str()?).ok();
        let mut needed: BTreeSet<Digest> = trees.iter().map(|tree| tree.digest.clone()).collect();
        needed.extend(trees.iter().filter_map(|tree| parse(&read(&tree.digest)?["config"])));
        let blobs = self.blobs().list()?;
        // By an index's digest, too, an image is found here.
        let is_needed = |digest: &Digest| {
            needed.contains(digest)
                || read(digest).is_some_and(|index| {
                    let images = index["manifests"].as_array().into_iter().flatten();
                    images.filter_map(parse).any(|image| needed.contains(&image))
                })
        };
        for (digest, _) in blobs {
            if !is_needed(&digest) && self.try_lock(&digest)?.is_some() {
                self.blobs().remove(&digest)?;
            }
        }
        Ok(())
    }
}

fn names(tree: &Path) -> Vec<String> {
    lines(tree, NAMES)
}

fn lines(tree: &Path, file: &str) -> Vec<String> {
    let text = fs::read_to_string(tree.join(file)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
