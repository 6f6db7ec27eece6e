//! Images that are run from the file or directory in which they lie.
//!
//! ```text
//! OCI layout             ─ documents ──────────────────────────────────► tree on the node
//! archives, tar archive  ─ noted? ─ no ─ read once ─ documents ────────► tree, and a note
//! squashfs               ─ documents made of what stat(2) says ─ unsquashfs ─► tree
//! directory              ─────────────────────────────────────────────── is the tree
//! ```
//!
//! The store is not filled, and no registry is asked. A file that was read once is known again by
//! what stat(2) says of it, so that the next start takes milliseconds, and a changed one is another
//! image. One process on a node makes a tree, and the others wait for it.

use std::{
    ffi::OsStr,
    fmt,
    fs::{self, File},
    io::{self, Read as _},
    os::{
        fd::AsFd as _,
        unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    },
    path::Path,
    thread::sleep,
    time::{Duration, SystemTime},
};

use nix::{fcntl::OFlag, sys::stat::Mode};

use super::{
    Error, Options,
    input::{Input, failed},
    made, open,
    pack::Workshop,
    squashfs,
};
use crate::{
    cached::{held, on_node},
    config::Config,
    digest::Digest,
    documents::Documents,
    image::{Form, Hold, Image},
    oci::{ImageConfig, Platform, RunConfig},
    pull::{self, Event, To, ensure_local},
    source::{Kind, OnDisk, Source},
    store::Node,
    sys::beneath,
};

/// Where a root file system says which variables its programs have (environment(5), pam_env(8)).
const ENVIRONMENT: &str = "etc/environment";
/// The longest such file that is read, in bytes.
const MAX_ENVIRONMENT: u64 = 1 << 20;
/// A file system's clock does not tick more seldom.
const TICK: Duration = Duration::from_millis(20);

/// Makes sure that an image that lies in a file is on this node, and returns it. `known` is the
/// digest that was found for it before, if it shall be the same image though the file has changed.
pub fn ensure(
    place: &OnDisk,
    known: Option<&Digest>,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Image, Error> {
    let source = Source::OnDisk(place.clone());
    let node = Node::open(&config.node_dir).map_err(pull::Error::Node)?;
    if let Some(digest) = known
        && let Some(image) = on_node(&node, &source, digest).map_err(pull::Error::Node)?
    {
        return Ok(with_environment(image));
    }
    let (path, name, kind) = place.find()?;
    let input = Input::at(path, name);
    let image = match kind {
        Kind::Tree => in_place(source, &input, &node)?,
        Kind::Layout => read(place, &source, &input, config, tell)?,
        Kind::Tar(_) => once(place, &source, &input, &node, config, tell)?,
        Kind::Squashfs => unsquashed(&source, &input, &node, config, tell)?,
    };
    Ok(with_environment(image))
}

/// Finds an image for which [`ensure()`] would have nothing to do. What an OCI layout names is only known by
/// its documents, which are that function's to read.
pub(crate) fn find(place: &OnDisk, known: Option<&Digest>, node: &Node) -> Option<Image> {
    let source = Source::OnDisk(place.clone());
    if let Some(image) = known.and_then(|digest| on_node(node, &source, digest).ok().flatten()) {
        return Some(with_environment(image));
    }
    let (path, name, kind) = place.find().ok()?;
    let input = Input::at(path, name);
    let image = match kind {
        Kind::Tree => in_place(source, &input, node).ok(),
        Kind::Layout => None,
        Kind::Tar(_) => {
            noted(node, &source, &key(&Identity::of(&input.path).ok()?, &source)).ok()?
        }
        Kind::Squashfs => {
            let documents = documents_of(&input, &Identity::of(&input.path).ok()?).ok()?;
            held(node, &source, documents.digest, &documents.config).ok()?
        }
    };
    image.map(with_environment)
}

/// A directory is not copied: it is what lies below the container's own layer.
fn in_place(source: Source, input: &Input, node: &Node) -> Result<Image, Error> {
    let rootfs = fs::canonicalize(&input.path).map_err(failed("open", &input.path))?;
    let own = fs::canonicalize(node.path()).map_err(failed("open", node.path()))?;
    if own.starts_with(&rootfs) {
        // The kernel lays nothing over a directory that holds what is laid over it (EINVAL).
        let problem = format!("{} is in it, where containers are built", own.display());
        return Err(failed("run", &input.path)(io::Error::other(problem)));
    }
    let metadata = fs::metadata(&rootfs).map_err(failed("open", &input.path))?;
    let identity = format!("directory {} {}", metadata.dev(), metadata.ino());
    let (digest, config) = (Digest::of(identity.as_bytes()), ImageConfig::default());
    Ok(Image { source, digest, config, rootfs, form: Form::InPlace, hold: Hold::default() })
}

/// Reads the image's documents, and its layers if they are not here.
fn read(
    place: &OnDisk,
    source: &Source,
    input: &Input,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Image, Error> {
    let options = Options { to: To::Node, platform: Platform::host(), run: RunConfig::default() };
    let workshop = Workshop::open(input, &options, config, tell);
    let local = open(input, place.form(), &workshop)?;
    let (tell, _kept) = workshop.done();
    Ok(ensure_local(local, source, config, tell)?)
}

/// The same for a file that is long: it is read once.
fn once(
    place: &OnDisk,
    source: &Source,
    input: &Input,
    node: &Node,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Image, Error> {
    let identity = Identity::of(&input.path)?;
    let key = key(&identity, source);
    if let Some(image) = noted(node, source, &key)? {
        return Ok(image);
    }
    let _lock = node.lock(&key, || tell(Event::Waiting)).map_err(pull::Error::Node)?;
    if let Some(image) = noted(node, source, &key)? {
        return Ok(image);
    }
    let image = read(place, source, input, config, tell)?;
    identity.check(&input.path)?;
    node.remember(&image.digest, &key);
    Ok(image)
}

/// By what a file that was read is known again.
fn key(identity: &Identity, source: &Source) -> Digest {
    Digest::of(format!("{identity} {source}").as_bytes())
}

/// The image that was read from a file before, if it is still here.
fn noted(node: &Node, source: &Source, key: &Digest) -> Result<Option<Image>, Error> {
    match node.remembered(key) {
        Some(digest) => Ok(on_node(node, source, &digest).map_err(pull::Error::Node)?),
        None => Ok(None),
    }
}

/// A squashfs file is not read to find out what it is called.
fn unsquashed(
    source: &Source,
    input: &Input,
    node: &Node,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Image, Error> {
    let identity = Identity::of(&input.path)?;
    let documents = documents_of(input, &identity)?;
    let digest = documents.digest;
    // Several times, should somebody else remove it as fast as it comes.
    for _ in 0..pull::MAX_BRINGS {
        let image = held(node, source, digest.clone(), &documents.config);
        if let Some(image) = image.map_err(pull::Error::Node)? {
            return Ok(image);
        }
        let lock = node.lock(&digest, || tell(Event::Waiting)).map_err(pull::Error::Node)?;
        if node.tree(&digest).is_some() {
            continue;
        }
        // Where a file is mounted and not unpacked, this is the place.
        let check = || identity.check(&input.path);
        squashfs::expand(input, &digest, node, &lock, check, config, tell)?;
        for (digest, document) in &documents.raw {
            node.blobs().put_document(digest, document).map_err(pull::Error::Node)?;
        }
    }
    Err(pull::Error::Removed { digest }.into())
}

/// The documents of a squashfs file: what stat(2) says of it is enough to name it, and how it is run is
/// written behind it.
fn documents_of(input: &Input, identity: &Identity) -> Result<Documents, Error> {
    let (created, run) = (made::time_of(&input.path, false), squashfs::run_config(input)?);
    Ok(made::nameless(&identity.to_string(), &created, run))
}

/// What tells a file from all others on this node, and from what it was before.
#[derive(Debug, PartialEq, Eq)]
struct Identity {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// Waits until the file is older than its file system's clock can tell: what is written later
    /// gives it another time.
    fn of(path: &Path) -> Result<Identity, Error> {
        loop {
            let metadata = fs::metadata(path).map_err(failed("open", path))?;
            let since = Duration::new(
                metadata.ctime().unsigned_abs(),
                u32::try_from(metadata.ctime_nsec()).unwrap_or(0),
            );
            let age = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH + since);
            // A file of the future is another machine's, whose clock nobody knows here.
            if age.is_ok_and(|age| age < TICK) {
                sleep(TICK);
                continue;
            }
            return Ok(Identity {
                file: (metadata.dev(), metadata.ino()),
                size: metadata.len(),
                modified: (metadata.mtime(), metadata.mtime_nsec()),
                changed: (metadata.ctime(), metadata.ctime_nsec()),
            });
        }
    }

    /// Makes sure that what was read is what there was.
    fn check(&self, path: &Path) -> Result<(), Error> {
        match Identity::of(path)? == *self {
            true => Ok(()),
            false => {
                let source = io::Error::other("it changed while it was read; try again");
                Err(failed("read", path)(source))
            }
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Identity { file: (device, inode), size, modified, changed } = self;
        write!(f, "device {device} inode {inode} size {size} ")?;
        write!(f, "modified {}.{:09} ", modified.0, modified.1)?;
        write!(f, "changed {}.{:09}", changed.0, changed.1)
    }
}

/// Gives an image whose configuration says nothing, as none of a root file system's does, the
/// variables of its `/etc/environment`: enroot writes those of the image there.
fn with_environment(mut image: Image) -> Image {
    if image.config.config == RunConfig::default() {
        image.config.config.env = environment(&image.rootfs);
    }
    image
}

/// What cannot be read says nothing. A fifo there would wait for ever, a link could be anything
/// (SECURITY R18).
fn environment(rootfs: &Path) -> Vec<String> {
    let read = || {
        let root = File::open(rootfs).ok()?;
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let path = Path::new(OsStr::from_bytes(ENVIRONMENT.as_bytes()));
        let file = File::from(beneath::open(root.as_fd(), path, flags, Mode::empty()).ok()?);
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut text = Vec::new();
        file.take(MAX_ENVIRONMENT).read_to_end(&mut text).ok()?;
        Some(variables(&String::from_utf8_lossy(&text)))
    };
    read().unwrap_or_default()
}

/// `NAME=VALUE` a line, as pam_env(8) reads it: perhaps with `export` before it and quotes around the
/// value, and no shell's. What refers to variables of the host's is theirs to say.
fn variables(text: &str) -> Vec<String> {
    let is_name = |name: &str| {
        let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
        name.starts_with(is_letter) && name.chars().all(|c| is_letter(c) || c.is_ascii_digit())
    };
    let line = |line: &str| {
        let line = line.trim();
        let line = line.strip_prefix("export ").map_or(line, str::trim_start);
        let (name, value) = line.split_once('=')?;
        let quoted = ['"', '\''].iter().find_map(|quote| {
            value.strip_prefix(*quote).and_then(|value| value.strip_suffix(*quote))
        });
        let value = quoted.unwrap_or(value);
        (is_name(name) && !value.contains("${") && !value.contains('\0'))
            .then(|| format!("{name}={value}"))
    };
    text.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_read_and_not_evaluated() {
        let text = "# PATH=/no\nPATH=\"/bin:/usr/bin\"\n  export A='b c'\nEMPTY=\n\nX=$(id) `id` $HOME\n\
                    DISPLAY=${DISPLAY}\n=x\nno variable\n1X=1\nQ=\"\nEQUALS=a=b\nB=\"a\" \"b\"\nN=a\0b\n";
        let expected = [
            "PATH=/bin:/usr/bin",
            "A=b c",
            "EMPTY=",
            "X=$(id) `id` $HOME",
            "Q=\"",
            "EQUALS=a=b",
            "B=a\" \"b",
        ];
        assert_eq!(variables(text), expected);
    }

    #[test]
    fn a_file_is_another_when_it_was_written_to() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("file");
        for content in ["a", "b", "c"] {
            fs::write(&path, content).expect("write");
            let identity = Identity::of(&path).expect("it is there");
            identity.check(&path).expect("nobody writes");
            // At once, with the same size and the old time of modification.
            let modified = fs::metadata(&path).and_then(|file| file.modified()).expect("a time");
            fs::write(&path, "x").expect("write");
            let file = File::options().write(true).open(&path).expect("open");
            file.set_modified(modified).expect("set");
            identity.check(&path).expect_err("it is another one");
        }
    }
}
