//! What no image needs any more.
//!
//! Names go first, then the blobs that nothing named leads to: who dies in between leaves blobs that
//! nobody needs, never a name without its blobs. All of it happens under the index's lease, and
//! what pullers have said they need stays ([`Store::lock_image`]).
//!
//! Other tools know nothing of leases. What one of them has put into the store and not named yet goes.

use std::{collections::BTreeSet, fs, io, path::PathBuf, time::SystemTime};

use serde_json::Value;

use super::{
    Entry, Error, Store,
    draft::{OTHERS_SILENCE, is_being_written, is_here},
    index::Index,
    lease,
    owner::Owner,
};
use crate::{
    digest::Digest,
    oci::{INDEX_TYPES, MAX_DOCUMENT},
};

/// How deep documents are followed: further than any image is nested.
const MAX_DEPTH: usize = 8;

/// Whether something is done, or it is only found out what would be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Done.
    Do,
    /// Found out.
    Pretend,
}

/// How far one looks for what is not needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// What the names that go have needed.
    Theirs,
    /// Everything in the store that nobody needs.
    All,
}

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Freed {
    /// Names that are gone.
    pub names: Vec<Entry>,
    /// Files that are gone.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

impl Store {
    /// Takes names away, and what is needed by none of those that stay.
    pub fn remove(
        &self,
        goes: impl Fn(&Entry) -> bool,
        reach: Reach,
        mode: Mode,
    ) -> Result<Freed, Error> {
        if mode == Mode::Pretend {
            let mut index = self.read_index()?;
            let names: Vec<_> = index.entries().filter(&goes).collect();
            let candidates = self.candidates(&names, reach)?;
            index.retain(|entry| !goes(entry));
            let needed = self.needed(&index)?;
            return self.sweep_up(names, &candidates, &needed, reach, mode);
        }
        let mut lease = self.lock()?;
        let names: Vec<_> = self.read_index()?.entries().filter(&goes).collect();
        let candidates = self.candidates(&names, reach)?;
        if !names.is_empty()
            && let Err(error) = self.edit(&mut lease, |index| index.retain(|entry| !goes(entry)))
        {
            if !error.is_no_space() {
                return Err(error);
            }
            // A full disk has no room for the new index either. What goes anyway makes some; who dies
            // now leaves names of incomplete images.
            let mut index = self.read_index()?;
            index.retain(|entry| !goes(entry));
            let needed = self.needed(&index)?;
            let freed = self.sweep_up(names, &candidates, &needed, reach, mode)?;
            self.edit(&mut lease, |index| index.retain(|entry| !goes(entry)))?;
            return Ok(freed);
        }
        // Read anew: if the lease was lost meanwhile, so may have been what was known.
        let needed = self.needed(&self.read_index()?)?;
        self.sweep_up(names, &candidates, &needed, reach, mode)
    }

    /// How many bytes images take, together: what they share is counted once.
    pub fn size_of<'a>(&self, targets: impl IntoIterator<Item = &'a Entry>) -> Result<u64, Error> {
        let mut needed = BTreeSet::new();
        for entry in targets {
            self.add_needed(entry, &mut needed)?;
        }
        let files = needed.iter().flat_map(|digest| self.files_of(digest));
        Ok(files.filter_map(|path| fs::metadata(path).ok()).map(|metadata| metadata.len()).sum())
    }

    /// Where what has this digest lies, or would: the blob, and if it is a manifest, the image as one
    /// file.
    fn files_of(&self, digest: &Digest) -> [PathBuf; 2] {
        [self.blobs().path(digest), self.squashfs_path(digest)]
    }

    fn candidates(&self, names: &[Entry], reach: Reach) -> Result<BTreeSet<Digest>, Error> {
        let mut candidates = BTreeSet::new();
        match reach {
            Reach::All => {
                candidates.extend(self.blobs().list()?.into_iter().map(|(blob, _)| blob));
                candidates.extend(self.squashfs_list());
            }
            Reach::Theirs => {
                for entry in names {
                    self.add_needed(entry, &mut candidates)?;
                }
            }
        }
        Ok(candidates)
    }

    /// All that the names of an index lead to, and what pullers need.
    fn needed(&self, index: &Index) -> Result<BTreeSet<Digest>, Error> {
        let mut needed: BTreeSet<_> =
            lease::pins(&self.locks(), Owner::own()).into_iter().collect();
        for entry in index.entries() {
            self.add_needed(&entry, &mut needed)?;
        }
        Ok(needed)
    }

    fn add_needed(&self, entry: &Entry, needed: &mut BTreeSet<Digest>) -> Result<(), Error> {
        self.follow(&entry.target.digest, needed, MAX_DEPTH, &|_| true)?;
        // Of the index that the registry gave for the name, no other machine's images.
        let is_index = |media_type: &str| INDEX_TYPES.contains(&media_type);
        match &entry.resolved {
            Some(resolved) => self.follow(resolved, needed, MAX_DEPTH, &is_index),
            None => Ok(()),
        }
    }

    /// Adds a document and all that it names, by whatever keys: artifacts that are no images, too.
    fn follow(
        &self,
        digest: &Digest,
        needed: &mut BTreeSet<Digest>,
        depth: usize,
        wanted: &dyn Fn(&str) -> bool,
    ) -> Result<(), Error> {
        if depth == 0 || !needed.insert(digest.clone()) {
            return Ok(());
        }
        // What is missing or damaged names nothing. What cannot be read is an error: on a disk that
        // does not answer, nothing is removed.
        let Some(bytes) = self.blobs().read_document(digest)? else { return Ok(()) };
        let document = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        let mut values = vec![&document];
        while let Some(value) = values.pop() {
            let named = value["digest"].as_str().and_then(|text| Digest::parse(text).ok());
            let media_type = value["mediaType"].as_str().unwrap_or_default();
            if let Some(named) = named.filter(|_| wanted(media_type)) {
                let is_document = media_type.contains("manifest") || media_type.contains("index");
                if is_document && value["size"].as_u64().is_some_and(|size| size <= MAX_DOCUMENT) {
                    self.follow(&named, needed, depth - 1, wanted)?;
                } else {
                    needed.insert(named);
                }
            }
            match value {
                Value::Array(items) => values.extend(items),
                Value::Object(members) => values.extend(members.values()),
                _ => {}
            }
        }
        Ok(())
    }

    fn sweep_up(
        &self,
        names: Vec<Entry>,
        candidates: &BTreeSet<Digest>,
        needed: &BTreeSet<Digest>,
        reach: Reach,
        mode: Mode,
    ) -> Result<Freed, Error> {
        let mut freed = Freed { names, files: 0, bytes: 0 };
        for path in candidates.difference(needed).flat_map(|digest| self.files_of(digest)) {
            let Ok(metadata) = fs::metadata(&path) else { continue };
            if mode == Mode::Do {
                // What is not there is removed already.
                match fs::remove_file(&path) {
                    Err(e) if e.kind() != io::ErrorKind::NotFound => {
                        return Err(Error::new("remove", path, e));
                    }
                    _ => {}
                }
            }
            freed.files += 1;
            freed.bytes += metadata.len();
        }
        if reach == Reach::All {
            self.sweep_partial(needed, mode, &mut freed)?;
        }
        Ok(freed)
    }

    /// Removes what stopped pulls have left, unless somebody is at it.
    fn sweep_partial(
        &self,
        needed: &BTreeSet<Digest>,
        mode: Mode,
        freed: &mut Freed,
    ) -> Result<(), Error> {
        let partial = self.partial();
        let failed = |e| Error::new("list", &partial, e);
        let entries = match fs::read_dir(&partial) {
            // In a store that another tool has made.
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            entries => entries.map_err(failed)?,
        };
        for entry in entries {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let stem = name.split('.').next().unwrap_or_default();
            let digest = Digest::parse(&format!("sha256:{stem}")).ok();
            let Ok(metadata) = entry.metadata() else { continue };
            let age =
                metadata.modified().ok().and_then(|at| SystemTime::now().duration_since(at).ok());
            let may_be_written = match name.contains('.') {
                // A layer that is whole.
                false => false,
                true if is_here(&name) => is_being_written(&name),
                true => age.is_none_or(|age| age < OTHERS_SILENCE),
            };
            let is_needed = digest.is_some_and(|digest| needed.contains(&digest));
            if may_be_written || is_needed || !metadata.is_file() {
                continue;
            }
            if mode == Mode::Do && fs::remove_file(entry.path()).is_err() {
                continue;
            }
            freed.files += 1;
            freed.bytes += metadata.len();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{
        oci::{Descriptor, MANIFEST_TYPES},
        reference::Reference,
    };

    fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
        Descriptor {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            platform: None,
            annotations: BTreeMap::new(),
        }
    }

    fn put(store: &Store, media_type: &str, bytes: &[u8]) -> Descriptor {
        store.blobs().put_document(&Digest::of(bytes), bytes).expect("put");
        descriptor(media_type, bytes)
    }

    /// An image of one shared layer and one of its own, out of an index.
    fn image(store: &Store, name: &str) -> Descriptor {
        let json = |descriptor: &Descriptor| serde_json::to_string(descriptor).expect("json");
        let layers = ["shared", name].map(|text| json(&put(store, "layer", text.as_bytes())));
        let config = put(store, "config", format!("config of {name}").as_bytes());
        let manifest = format!(r#"{{"config":{},"layers":[{}]}}"#, json(&config), layers.join(","));
        let manifest = put(store, MANIFEST_TYPES[0], manifest.as_bytes());
        let other = descriptor(MANIFEST_TYPES[0], b"another machine's");
        let index = format!(r#"{{"manifests":[{},{}]}}"#, json(&manifest), json(&other));
        let index = put(store, INDEX_TYPES[0], index.as_bytes());
        let name: Reference = name.parse().expect("a name");
        store.tag(&name, manifest.clone(), &index.digest).expect("tag");
        manifest
    }

    fn blobs(store: &Store) -> usize {
        store.blobs().list().expect("list").len()
    }

    fn named(name: &str) -> impl Fn(&Entry) -> bool {
        move |entry| entry.reference().is_some_and(|name_| name_.repository().ends_with(name))
    }

    #[test]
    fn what_others_need_stays_and_nothing_else() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::create(dir.path()).expect("create");
        image(&store, "one");
        let before = blobs(&store);
        image(&store, "two");
        let would = store.remove(named("two"), Reach::Theirs, Mode::Pretend).expect("pretend");
        let freed = store.remove(named("two"), Reach::Theirs, Mode::Do).expect("remove");
        assert_eq!(would, freed, "it was to be something else");
        assert_eq!((freed.names.len(), freed.files), (1, 4));
        assert_eq!(blobs(&store), before);
        assert_eq!(store.remove(|_| false, Reach::All, Mode::Do).expect("prune").files, 0);
        assert_eq!(store.remove(named("one"), Reach::Theirs, Mode::Do).expect("remove").files, 5);
        assert_eq!(blobs(&store), 0);
    }

    #[test]
    fn what_a_puller_needs_stays_until_it_is_done() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::create(dir.path()).expect("create");
        let manifest = image(&store, "one");
        let shared = Digest::of(b"shared");
        let lease = store.lock_image(&manifest.digest, &[&shared], || {}).expect("lease");
        std::fs::write(store.partial().join(shared.hex()), "shared").expect("write");
        let freed = store.remove(named("one"), Reach::All, Mode::Do).expect("remove");
        assert_eq!((freed.files, blobs(&store)), (4, 1));
        drop(lease);
        let freed = store.remove(|_| false, Reach::All, Mode::Do).expect("prune");
        assert_eq!((freed.files, blobs(&store)), (2, 0), "the blob, and the layer in partial/");
    }

    #[test]
    fn a_layer_of_which_no_image_is_known_yet_stays_while_it_is_pinned() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::create(dir.path()).expect("create");
        let layer = descriptor("layer", b"made");
        let pin = store.pin(&layer.digest).expect("pin");
        let other = store.pin(&layer.digest).expect("nobody waits for a pin");
        let spool = store.spool().expect("spool").with(b"made").expect("write");
        let path = store.blobs().accept(spool, &layer).expect("accept");
        drop(other);
        store.remove(|_| false, Reach::All, Mode::Do).expect("prune");
        assert!(path.exists(), "pruned under the hands of who has made it");
        drop(pin);
        store.remove(|_| false, Reach::All, Mode::Do).expect("prune");
        assert!(!path.exists());
    }

    #[test]
    fn nothing_goes_from_a_disk_that_does_not_answer() {
        let dir = tempfile::tempdir().expect("tempdir");
        let store = Store::create(dir.path()).expect("create");
        let manifest = image(&store, "one");
        // A directory in its place: reading it is an error, as of a disk.
        std::fs::remove_file(store.blobs().path(&manifest.digest)).expect("remove");
        std::fs::create_dir(store.blobs().path(&manifest.digest)).expect("create");
        let before = blobs(&store);
        store.remove(|_| false, Reach::All, Mode::Do).expect_err("unreadable");
        assert_eq!(blobs(&store), before);
    }
}
