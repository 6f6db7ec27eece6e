//! A folder of content-addressed files.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use super::{Error, draft::Draft, lease::Dead};
use crate::{
    digest::Digest,
    oci::{Descriptor, MAX_DOCUMENT},
};

/// Most documents are shorter than so many bytes, and read at once.
const TYPICAL_DOCUMENT: usize = 16 << 10;

/// `blobs/sha256/` beneath a store, and the `partial/` that feeds it.
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
    partial: PathBuf,
    /// Processes whose drafts nobody writes any more.
    dead: Vec<Dead>,
}

impl Blobs {
    /// The blobs of the store at `root`; nothing is touched.
    pub(super) fn at(root: &Path) -> Blobs {
        Blobs { dir: root.join("blobs/sha256"), partial: root.join("partial"), dead: Vec::new() }
    }

    /// Takes note that nobody writes this process's drafts any more.
    pub(super) fn bury(&mut self, dead: Dead) {
        self.dead.push(dead);
    }

    /// Where a layer lies, if it is here with the size that its descriptor says: among the blobs,
    /// or whole and waiting for its image. Its content was verified before it got its name.
    pub fn find(&self, layer: &Descriptor) -> Option<PathBuf> {
        [&self.dir, &self.partial].into_iter().find_map(|dir| {
            let path = dir.join(layer.digest.hex());
            let metadata = fs::symlink_metadata(&path).ok()?;
            (metadata.is_file() && metadata.len() == layer.size).then_some(path)
        })
    }

    /// Opens a layer that another node has brought, if it is here by now.
    pub(crate) fn open(&self, layer: &Descriptor) -> Option<(PathBuf, File)> {
        // It may be published between the two.
        for _ in 0..2 {
            let Some(path) = self.find(layer) else { continue };
            if let Ok(file) = File::open(&path) {
                return Some((path, file));
            }
        }
        None
    }

    /// Makes an NFS client ask what is new here: it believes for half a minute that a name is not
    /// there which it has asked for in vain, unless it sees another time of the directory's (nfs(5),
    /// "close-to-open").
    pub(crate) fn look_anew(&self) {
        for dir in [&self.partial, &self.dir] {
            drop(File::open(dir));
        }
    }

    /// Whether a layer is among the blobs, of an image that is complete.
    pub fn is_published(&self, layer: &Descriptor) -> bool {
        fs::symlink_metadata(self.path(&layer.digest))
            .is_ok_and(|file| file.is_file() && file.len() == layer.size)
    }

    /// Reads a manifest or configuration, if it is here and still what its name says.
    pub fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.read_document(digest).ok().flatten()
    }

    /// The same, where it matters that a disk which does not answer is not one without the document.
    pub(super) fn read_document(&self, digest: &Digest) -> Result<Option<Vec<u8>>, Error> {
        let path = self.path(digest);
        let read = || -> io::Result<_> {
            let mut bytes = Vec::with_capacity(TYPICAL_DOCUMENT);
            File::open(&path)?.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes)?;
            Ok(Some(bytes).filter(|bytes| Digest::of(bytes) == *digest))
        };
        match read() {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map_err(|e| Error::new("read", &path, e)),
        }
    }

    /// Where a blob lies, or would.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(digest.hex())
    }

    /// What is here, and how long each is.
    pub(super) fn list(&self) -> Result<Vec<(Digest, u64)>, Error> {
        let failed = |e| Error::new("list", &self.dir, e);
        let entries = fs::read_dir(&self.dir).map_err(failed)?;
        let mut blobs = Vec::new();
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = format!("sha256:{}", entry.file_name().to_string_lossy());
            // What has another name is another tool's; what is gone by now is somebody else's work.
            if let (Ok(digest), Ok(metadata)) = (Digest::parse(&name), entry.metadata()) {
                blobs.push((digest, metadata.len()));
            }
        }
        Ok(blobs)
    }

    /// Removes a blob. What is not there is removed already.
    pub(super) fn remove(&self, digest: &Digest) -> Result<(), Error> {
        let path = self.path(digest);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::new("remove", path, e)),
            _ => Ok(()),
        }
    }

    /// Adds a manifest or configuration under its digest.
    pub fn put_document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        if self.document(digest).is_some() {
            return Ok(());
        }
        Draft::create(&self.partial, &self.dir.join(digest.hex()))?.with(bytes)?.commit()
    }

    /// Begins a layer, or goes on with what an earlier pull has left of it. Once committed, it
    /// waits in `partial/` for [`Blobs::publish`].
    pub fn writer(&self, layer: &Descriptor) -> Result<Draft, Error> {
        let name = self.partial.join(layer.digest.hex());
        Draft::adopt(&self.partial, &name, layer.size, &self.dead)
            .map_or_else(|| Draft::create(&self.partial, &name), Ok)
    }

    /// Begins a layer whose bytes are at hand: nothing that was left of it is looked for.
    pub fn copier(&self, layer: &Descriptor) -> Result<Draft, Error> {
        Draft::create(&self.partial, &self.partial.join(layer.digest.hex()))
    }

    /// Takes a file whose content has been found to be this layer, as if it had come by
    /// [`Blobs::writer`]. Returns where it lies.
    pub(crate) fn accept(&self, draft: Draft, layer: &Descriptor) -> Result<PathBuf, Error> {
        if let Some(here) = self.find(layer) {
            return Ok(here);
        }
        let name = self.partial.join(layer.digest.hex());
        draft.renamed(&name).commit()?;
        Ok(name)
    }

    /// Puts layers among the blobs, whose image is complete.
    pub fn publish(&self, layers: &[Descriptor]) -> Result<(), Error> {
        for layer in layers {
            let (from, to) =
                (self.partial.join(layer.digest.hex()), self.dir.join(layer.digest.hex()));
            match fs::rename(&from, &to) {
                // It was there before, or another image that has it was quicker.
                Err(e) if e.kind() == io::ErrorKind::NotFound && to.exists() => {}
                renamed => renamed.map_err(|e| Error::new("publish", &to, e))?,
            }
        }
        sync_dir(&self.dir)
    }

    /// Removes what has come of layers that no image will have.
    pub fn forget(&self, layers: &[Descriptor]) {
        for layer in layers {
            // Best effort: what stays is removed by a later run.
            let name = self.partial.join(layer.digest.hex());
            while let Some(draft) = Draft::adopt(&self.partial, &name, u64::MAX, &self.dead) {
                drop(draft);
            }
            let _ = fs::remove_file(name);
        }
    }
}

/// Makes renames in a directory last (SECURITY R26).
pub(super) fn sync_dir(dir: &Path) -> Result<(), Error> {
    let sync = File::open(dir).and_then(|dir| dir.sync_all());
    sync.map_err(|e| Error::new("write", dir, e))
}
