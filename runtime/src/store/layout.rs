//! The user's image store: an OCI image layout.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use nix::sys::{stat::futimens, statfs::statfs, time::TimeSpec};

use super::{
    Blobs, Dead, Draft, Entry, Error, Lease, Room, Watch,
    blobs::sync_dir,
    draft::{SPOOL, fresh_path, is_litter},
    index::Index,
    lease::{self, RULES},
    owner::Owner,
};
use crate::{digest::Digest, oci::Descriptor, reference::Reference};

/// What lies in `partial/` longer than this belongs to nobody any more. Compared with the file's
/// own age only; clocks of other nodes may be a few minutes off, not a day.
const STALE: Duration = Duration::from_secs(24 * 3600);

/// NFS, SMB, CIFS, Lustre, GPFS, CephFS, BeeGFS, PanFS, OrangeFS, AFS, 9P, GFS2, OCFS2, by the numbers
/// that their sources give them (linux/magic.h and their own).
const NETWORK_FILE_SYSTEMS: [u32; 14] = [
    0x6969,
    0x517b,
    0xfe53_4d42,
    0xff53_4d42,
    0x0bd0_0bd0,
    0x4750_4653,
    0x00c3_6400,
    0x1983_0326,
    0xaad7_aaea,
    0x2003_0528,
    0x5346_414f,
    0x0102_1997,
    0x0116_1970,
    0x7461_636f,
];

/// How exactly the last use of an image is known.
const HOUR: Duration = Duration::from_secs(3600);

/// A user's image store.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    blobs: Blobs,
}

impl Store {
    /// Opens the store at `root`, if there is one.
    pub fn open(root: &Path) -> Option<Store> {
        root.join("oci-layout").is_file().then(|| Store::at(root))
    }

    /// Opens the store at `root`, and makes it first if need be.
    pub fn create(root: &Path) -> Result<Store, Error> {
        let store = Store::at(root);
        for dir in ["blobs/sha256", "partial", "locks"].map(|dir| root.join(dir)) {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&dir)
                .map_err(|e| Error::new("create", &dir, e))?;
        }
        if Store::open(root).is_none() {
            // Whoever else begins it may be done by now, and have put a name into it.
            let _lock = store.lock()?;
            if Store::open(root).is_some() {
                return Ok(store);
            }
            store.write_index(&Index::new())?;
            store.draft("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?.commit()?;
            sync_dir(root)?;
        }
        store.sweep();
        Ok(store)
    }

    fn at(root: &Path) -> Store {
        Store { root: root.to_owned(), blobs: Blobs::at(root) }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.root
    }

    /// What can still be written here. A quota says nothing before it is reached.
    pub fn room(&self) -> Result<Room, Error> {
        Room::of(&self.root).map_err(|e| Error::new("examine", &self.root, e))
    }

    /// The blobs.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Begins a file for passing use, which goes when it is dropped.
    pub(crate) fn spool(&self) -> Result<Draft, Error> {
        let partial = self.root.join("partial");
        Draft::create(&partial, &partial.join(SPOOL))
    }

    /// The manifest that `reference` names here, if any.
    pub fn find(&self, reference: &Reference) -> Result<Option<Digest>, Error> {
        let index = self.read_index()?;
        let name = reference.to_string();
        let found = index.entries().find(|entry| match reference.digest() {
            Some(pinned) => {
                entry.target.digest == *pinned || entry.resolved.as_ref() == Some(pinned)
            }
            None => entry.name.as_ref() == Some(&name),
        });
        Ok(found.map(|entry| entry.target.digest))
    }

    /// All names of all images here.
    pub fn entries(&self) -> Result<Vec<Entry>, Error> {
        Ok(self.read_index()?.entries().collect())
    }

    /// Whether a manifest has the name `reference` here, given it by [`Store::tag`].
    pub fn has(
        &self,
        reference: &Reference,
        manifest: &Descriptor,
        resolved: &Digest,
    ) -> Result<bool, Error> {
        let name = reference.to_string();
        Ok(self.read_index()?.entries().any(|entry| {
            entry.name.as_ref() == Some(&name)
                && entry.target.digest == manifest.digest
                && entry.resolved.as_ref() == Some(resolved)
        }))
    }

    /// Gives a manifest that is here the name `reference`; what had the name loses it. `resolved`
    /// is the digest that the registry gave for the name.
    pub fn tag(
        &self,
        reference: &Reference,
        manifest: Descriptor,
        resolved: &Digest,
    ) -> Result<(), Error> {
        let mut lease = self.lock()?;
        self.edit(&mut lease, |index| index.name(reference.to_string(), manifest.clone(), resolved))
    }

    /// Puts an image among the others and gives it a name: its documents, and its layers, which
    /// wait in `partial/` or are here. Returns false if one of those is gone; it is to be brought
    /// again. `lease` is that of [`Store::lock`].
    pub fn admit(
        &self,
        mut lease: Lease,
        reference: &Reference,
        manifest: &Descriptor,
        resolved: &Digest,
        documents: &[(Digest, Vec<u8>)],
        layers: &[Descriptor],
    ) -> Result<bool, Error> {
        if !layers.iter().all(|layer| self.blobs.find(layer).is_some()) {
            return Ok(false);
        }
        for (digest, document) in documents {
            self.blobs.put_document(digest, document)?;
        }
        self.blobs.publish(layers)?;
        let name = reference.to_string();
        self.edit(&mut lease, |index| index.name(name.clone(), manifest.clone(), resolved))?;
        self.touch(&manifest.digest);
        // Whoever removes something waits for the lease. If it was lost, it may have happened.
        Ok(layers.iter().all(|layer| self.blobs.find(layer).is_some()))
    }

    /// Changes the index. `lease` is that of [`Store::lock`]; who has lost it begins anew.
    pub(super) fn edit(&self, lease: &mut Lease, change: impl Fn(&mut Index)) -> Result<(), Error> {
        loop {
            let mut index = self.read_index()?;
            change(&mut index);
            let draft = self.draft_index(&index)?;
            if lease.is_held() {
                draft.commit()?;
                return sync_dir(&self.root);
            }
            *lease = self.lock()?;
        }
    }

    /// When an image was last used, or brought.
    pub fn last_used(&self, manifest: &Digest) -> Option<SystemTime> {
        fs::metadata(self.blobs.path(manifest)).and_then(|file| file.modified()).ok()
    }

    /// Takes note that an image is used: its manifest's time of modification says when, to the hour.
    ///
    /// On NFS the time is the server's, the same for all nodes; a node may see an old one for as long
    /// as it keeps attributes (acregmax, a minute), and set it once more. A clock that is off shifts
    /// the hour, nothing else.
    pub fn touch(&self, manifest: &Digest) {
        let age = self.last_used(manifest).and_then(|at| SystemTime::now().duration_since(at).ok());
        if age.is_none_or(|age| age < HOUR) {
            return;
        }
        // Best effort: a store that is only read keeps its times.
        let _ = File::open(self.blobs.path(manifest))
            .map(|file| futimens(file, &TimeSpec::UTIME_OMIT, &TimeSpec::UTIME_NOW));
    }

    /// Becomes the only process that pulls the image `manifest` into this store, until the lease is
    /// dropped. `waiting` is called if another one is at it, before the wait for it.
    ///
    /// Nobody removes `pins` meanwhile, which are all that the image consists of: who removes
    /// something has the index's lease, and looks at the pins when it has it. Once that lease was to
    /// be had here, whoever has it next sees these pins, and what a former one removed is gone.
    pub fn lock_image(
        &self,
        manifest: &Digest,
        pins: &[&Digest],
        waiting: impl FnOnce(),
    ) -> Result<Lease, Error> {
        let lease = self.lease(manifest.hex(), pins, waiting)?;
        drop(self.lock()?);
        Ok(lease)
    }

    /// Whether a directory, or what is there of its path, lies on a file system that several machines
    /// share (statfs(2)). Of FUSE only its own server knows.
    pub(crate) fn is_on_network(path: &Path) -> bool {
        let there = path.ancestors().find_map(|dir| statfs(dir).ok());
        there.is_some_and(|stat| NETWORK_FILE_SYSTEMS.contains(&(stat.filesystem_type().0 as u32)))
    }

    /// The lease of whoever brings the image that is known as `key` for all nodes of a job, if nobody
    /// has it.
    pub(crate) fn lead(&self, key: &str) -> Result<Option<Lease>, Error> {
        Lease::attempt(&self.locks().join(lead(key)), Owner::own(), RULES)
    }

    /// Watches that lease in the store at `root`, which need not be there yet.
    pub(crate) fn watch(root: &Path, key: &str) -> Watch {
        Watch::at(root.join("locks").join(lead(key)))
    }

    /// Leaves word for the other nodes of a job's step.
    pub(crate) fn leave_word(&self, key: &str, step: &str, word: &str) -> Result<(), Error> {
        let path = self.locks().join(word_of(key, step));
        Draft::create(&self.partial(), &path)?.with(word.as_bytes())?.commit()
    }

    /// What was left by [`Store::leave_word`] in the store at `root`.
    pub(crate) fn word(root: &Path, key: &str, step: &str) -> Option<String> {
        fs::read_to_string(root.join("locks").join(word_of(key, step))).ok()
    }

    /// Takes note that a process is gone, and goes on with what it was writing.
    pub(crate) fn bury(&mut self, dead: Dead) {
        lease::take_from(&self.locks(), &dead);
        self.blobs.bury(dead);
    }

    /// Sees to it that nobody removes a layer that comes into `partial/` after this, until the lease
    /// is dropped: of which image it is will be known later.
    pub fn pin(&self, layer: &Digest) -> Result<Lease, Error> {
        let name = fresh_path(&self.locks(), Path::new("pin"));
        let name = name.file_name().and_then(OsStr::to_str).expect("made of text");
        let lease = self.lease(name, &[layer], || {})?;
        // As for an image's lease: who removes something by now has not seen this.
        drop(self.lock()?);
        Ok(lease)
    }

    /// Becomes the only writer of the index, until the lease is dropped.
    pub fn lock(&self) -> Result<Lease, Error> {
        self.lease("index", &[], || {})
    }

    pub(super) fn lease(
        &self,
        name: &str,
        pins: &[&Digest],
        waiting: impl FnOnce(),
    ) -> Result<Lease, Error> {
        // Not in a store that another tool has made, or an earlier release.
        for dir in [self.partial(), self.locks()] {
            match DirBuilder::new().mode(0o700).create(&dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
                    return Err(Error::new("create", dir, e));
                }
                _ => {}
            }
        }
        Lease::claim(&self.locks().join(name), pins, Owner::own(), RULES, waiting)
    }

    /// Where the leases are.
    pub(super) fn locks(&self) -> PathBuf {
        self.root.join("locks")
    }

    /// What is on its way into the store.
    pub(super) fn partial(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(super) fn read_index(&self) -> Result<Index, Error> {
        let path = self.root.join("index.json");
        let read = || -> io::Result<Index> { Ok(serde_json::from_slice(&fs::read(&path)?)?) };
        read().map_err(|e| Error::new("read", &path, e))
    }

    fn write_index(&self, index: &Index) -> Result<(), Error> {
        self.draft_index(index)?.commit()?;
        sync_dir(&self.root)
    }

    fn draft_index(&self, index: &Index) -> Result<Draft, Error> {
        let bytes = serde_json::to_vec_pretty(index).expect("plain data serialises");
        self.draft("index.json", &bytes)
    }

    fn draft(&self, name: &str, bytes: &[u8]) -> Result<Draft, Error> {
        Draft::create(&self.partial(), &self.root.join(name))?.with(bytes)
    }

    /// Removes what dead processes left in `partial/` and nobody will use. Best effort: nothing
    /// depends on it.
    fn sweep(&self) {
        lease::sweep(&self.locks(), Owner::own());
        let entries = [self.partial(), self.locks()].map(fs::read_dir);
        for entry in entries.into_iter().flatten().flatten().flatten() {
            let Ok(metadata) = entry.metadata() else { continue };
            let age =
                metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            let is_litter = is_litter(&entry.file_name().to_string_lossy(), metadata.len());
            if is_litter || age.is_some_and(|age| age > STALE) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

fn lead(key: &str) -> String {
    format!("lead-{key}")
}

fn word_of(key: &str, step: &str) -> String {
    format!("{}-{step}", lead(key))
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Write as _};

    use super::*;

    fn manifest(store: &Store, bytes: &[u8]) -> Descriptor {
        let digest = Digest::of(bytes);
        store.blobs().put_document(&digest, bytes).expect("put");
        Descriptor {
            media_type: crate::oci::MANIFEST_TYPES[0].to_owned(),
            digest,
            size: bytes.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    #[test]
    fn a_name_means_the_manifest_that_it_was_given_last() {
        let dir = tempfile::tempdir().expect("tempdir");
        let root = dir.path().join("a/store");
        let store = Store::create(&root).expect("create");
        let (old, new) = (manifest(&store, b"old"), manifest(&store, b"new"));
        let name: Reference = "alpine:3".parse().expect("name");
        let other: Reference = "ghcr.io/library/alpine:3".parse().expect("name");
        let index = Digest::of(b"index");
        store.tag(&name, old.clone(), &old.digest).expect("tag");
        store.tag(&other, old.clone(), &old.digest).expect("tag");
        store.tag(&name, new.clone(), &index).expect("tag");
        let store = Store::open(&root).expect("open");
        assert_eq!(store.find(&name).expect("find"), Some(new.digest.clone()));
        assert_eq!(store.find(&other).expect("find"), Some(old.digest));
        let pinned: Reference = format!("alpine@{index}").parse().expect("name");
        assert_eq!(store.find(&pinned).expect("find"), Some(new.digest));
        assert_eq!(store.find(&"alpine:4".parse().expect("name")).expect("find"), None);
    }

    #[test]
    fn what_a_dead_process_of_the_same_number_left_is_in_nobodys_way() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::create(dir.path()).expect("create");
        let digest = Digest::of(b"content");
        for count in 0..1000 {
            let left = format!("partial/{}.x.{}.{count}", digest.hex(), std::process::id());
            fs::write(dir.path().join(left), b"half").expect("write");
        }
        store.blobs().put_document(&digest, b"content").expect("put");
        assert_eq!(store.blobs().document(&digest).as_deref(), Some(&b"content"[..]));
    }

    /// SECURITY R26.
    #[test]
    fn a_blob_is_complete_or_absent() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::create(dir.path()).expect("create");
        let descriptor = manifest(&store, b"content");
        assert!(store.blobs().find(&descriptor).is_some());
        let longer = Descriptor { size: 8, ..descriptor.clone() };
        assert!(store.blobs().find(&longer).is_none(), "a blob of another size was taken");
        let absent = Descriptor { digest: Digest::of(b"absent"), size: 6, ..descriptor.clone() };
        let mut writer = store.blobs().writer(&absent).expect("writer");
        writer.write_all(b"abs").expect("write");
        drop(writer);
        assert!(store.blobs().find(&absent).is_none());
        let left = fs::read_dir(dir.path().join("partial")).expect("partial").flatten();
        let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
        assert!(left.is_empty(), "an abandoned blob stays on disk: {left:?}");
    }
}
