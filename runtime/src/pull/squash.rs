//! The image as one file in the store, besides its layers.

use super::{Error, Event, Pull};
use crate::{
    documents::Documents,
    squashfs,
    store::{Draft, Store},
    sys::interrupt::Caught,
};

impl Pull<'_> {
    /// The store that is to have the image as one file, and does not.
    pub(super) fn lacks_squashfs(&self, documents: &Documents) -> Option<&Store> {
        let is_wanted = |_: &&Store| self.config.squashfs.write;
        let store = self.kept(documents).filter(is_wanted)?;
        store.squashfs(&documents.digest).is_none().then_some(store)
    }

    /// Writes the image, which is in the store and on the node, as one file. Returns false if another
    /// process has removed something of it.
    pub(super) fn squash(
        &self,
        documents: &Documents,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, Error> {
        let (Some(store), Some(node)) = (self.lacks_squashfs(documents), &self.node) else {
            return Ok(true);
        };
        let image = &documents.digest;
        let _lease = store.lock_squashfs(image, || tell(Event::Waiting))?;
        if store.squashfs(image).is_some() {
            return Ok(true);
        }
        let Some((tree, _hold)) = node.hold(image).map_err(Error::Node)? else {
            return Ok(false);
        };
        let caught = Caught::install();
        let draft = store.spool()?;
        let tell = |bytes| tell(Event::Squashing { bytes });
        squashfs::write(&tree, draft.path(), &caught, tell).map_err(|e| blame(e, &draft))?;
        Ok(store.admit_squashfs(image, draft)?)
    }
}

/// A full store is named as such, and a signal is as of any other part of a pull.
fn blame(error: squashfs::Error, draft: &Draft) -> Error {
    match error {
        squashfs::Error::Full(source) => draft.error(source).into(),
        squashfs::Error::Interrupted(signal) => Error::Interrupted(signal),
        error => Error::Squash(error),
    }
}
