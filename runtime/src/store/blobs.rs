//! A folder of content-addressed files.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use super::Error;
use crate::{
    digest::Digest,
    oci::{Descriptor, MAX_DOCUMENT},
};

/// `blobs/sha256/` beneath a store, and the `partial/` that feeds it.
#[derive(Debug, Clone)]
pub struct Blobs {
    dir: PathBuf,
    partial: PathBuf,
}

impl Blobs {
    /// The blobs of the store at `root`; nothing is touched.
    pub(super) fn at(root: &Path) -> Blobs {
        Blobs { dir: root.join("blobs/sha256"), partial: root.join("partial") }
    }

    /// Where a blob lies, if it is here with the size that its descriptor says. Its content was
    /// verified before it got its name.
    pub fn find(&self, descriptor: &Descriptor) -> Option<PathBuf> {
        let path = self.dir.join(descriptor.digest.hex());
        let metadata = fs::symlink_metadata(&path).ok()?;
        (metadata.is_file() && metadata.len() == descriptor.size).then_some(path)
    }

    /// Reads a manifest or configuration, if it is here and still what its name says.
    pub fn document(&self, digest: &Digest) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        let file = File::open(self.dir.join(digest.hex())).ok()?;
        file.take(MAX_DOCUMENT + 1).read_to_end(&mut bytes).ok()?;
        (Digest::of(&bytes) == *digest).then_some(bytes)
    }

    /// Adds a manifest or configuration under its digest.
    pub fn put_document(&self, digest: &Digest, bytes: &[u8]) -> Result<(), Error> {
        if self.document(digest).is_some() {
            return Ok(());
        }
        let mut writer = self.writer(digest)?;
        writer.write_all(bytes).map_err(|e| Error::new("write", &writer.path, e))?;
        writer.commit()
    }

    /// Begins a blob. What is written becomes visible by [`BlobWriter::commit`], or never.
    pub fn writer(&self, digest: &Digest) -> Result<BlobWriter, Error> {
        BlobWriter::create(&self.partial, &self.dir.join(digest.hex()))
    }
}

/// A file on its way into the store. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    file: File,
    path: PathBuf,
    name: PathBuf,
    done: bool,
}

impl BlobWriter {
    /// Begins a file in `partial` that is to become `name`.
    ///
    /// Its own name is nobody else's: on another node of a shared filesystem a process may have the
    /// same number, and a dead one may have had it here.
    pub(super) fn create(partial: &Path, name: &Path) -> Result<BlobWriter, Error> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let stem = name.file_name().expect("made by joining a name").display();
        loop {
            let count = COUNT.fetch_add(1, Ordering::Relaxed);
            let path = partial.join(format!("{stem}.{}.{count}", std::process::id()));
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => {
                    return Ok(BlobWriter { file, path, name: name.to_owned(), done: false });
                }
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::new("create", path, e)),
            }
        }
    }

    /// Makes the file visible. Only for content that has been verified.
    pub fn commit(mut self) -> Result<(), Error> {
        // Before the rename: else a crash can leave an empty file under a valid digest, on
        // filesystems that allocate late. NFS and Lustre report a full quota only here.
        self.file.sync_all().map_err(|e| Error::new("write", &self.path, e))?;
        fs::rename(&self.path, &self.name).map_err(|e| Error::new("write", &self.name, e))?;
        self.done = true;
        Ok(())
    }

    /// Words the failure of a write.
    pub fn error(&self, source: io::Error) -> Error {
        Error::new("write", &self.path, source)
    }
}

impl Write for BlobWriter {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what stays in partial/ is removed by a later run.
            let _ = fs::remove_file(&self.path);
        }
    }
}
