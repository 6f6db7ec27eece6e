//! `shifter rmi`: a name goes, and what only it needed.

use std::collections::BTreeSet;

use super::{Error, Found, Repository, Whose};
use crate::{
    digest::Digest,
    store::{self, Mode, Reach, Removal, Store, User},
};

/// How many names may go at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names {
    /// One.
    One,
    /// All that an image has.
    All,
}

/// What became of an image.
#[derive(Debug)]
pub struct Removed {
    /// Its digest.
    pub digest: Digest,
    /// The names that are gone.
    pub names: BTreeSet<String>,
    /// Bytes that came free in the store.
    pub stored: u64,
    /// Bytes of memory that came free on this node.
    pub memory: u64,
    /// Who still uses it on this node: there it stays.
    pub user: Option<User>,
    /// The site's image of the same name, which stays.
    pub site: Option<std::path::PathBuf>,
}

impl Repository {
    /// Takes an image's name away; its blobs and its tree, if nothing else needs them.
    pub fn remove(&self, text: &str, at_most: Names) -> Result<Removed, Error> {
        let found = self.find(text)?;
        let site = found.images.iter().find(|image| image.whose == Whose::Site);
        let is_own = found.images.iter().any(|image| image.whose == Whose::Own);
        if let Some(image) = site.filter(|_| !is_own) {
            let name = image.stored.entry.name.clone().unwrap_or_else(|| text.to_owned());
            return Err(Error::Site { name, path: image.store.clone() });
        }
        if at_most == Names::One && found.names.len() > 1 {
            let names = found.names.into_iter().collect();
            return Err(Error::Several { text: text.to_owned(), names });
        }
        let stored = match &self.own {
            Some(store) if is_own => remove_from(store, &found)?,
            _ => 0,
        };
        let (memory, user) = self.remove_trees(&found)?;
        let site = site.map(|image| image.store.clone());
        Ok(Removed { digest: found.digest, names: found.names, stored, memory, user, site })
    }

    /// Takes the names from the image's trees, and removes those that nothing names any more.
    fn remove_trees(&self, found: &Found) -> Result<(u64, Option<User>), Error> {
        let Some(node) = &self.node else { return Ok((0, None)) };
        let has = |store: &Store| {
            let images = store.images().unwrap_or_default();
            images.iter().any(|image| image.digest == found.digest)
        };
        let is_stored = self.own.iter().chain(&self.shared).any(has);
        let (mut memory, mut user) = (0, None);
        for tree in &found.trees {
            node.forget(tree, &found.names)?;
            let is_named = tree.names.iter().any(|name| !found.names.contains(name));
            if is_stored || (is_named && !found.by_digest) {
                continue;
            }
            match node.remove(tree, Mode::Do)? {
                Removal::Gone(bytes) => memory += bytes,
                Removal::InUse(by) => user = Some(by),
            }
        }
        Ok((memory, user))
    }
}

fn remove_from(store: &Store, found: &Found) -> Result<u64, store::Error> {
    let entries: Vec<_> = found
        .images
        .iter()
        .filter(|image| image.whose == Whose::Own)
        .map(|image| &image.stored.entry)
        .collect();
    Ok(store.remove(|entry| entries.contains(&entry), Reach::Theirs, Mode::Do)?.bytes)
}
