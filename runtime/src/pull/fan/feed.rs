//! What a follower sees of its leader: one thread looks, the threads that read layers wait for what it
//! sees.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::fcntl::{FallocateFlags, fallocate};
use serde::{Deserialize, Serialize};

use crate::oci::Descriptor;

use super::super::{Error, stream::BUFFER};

/// How often who waits looks whether the pull was given up.
const TICK: Duration = Duration::from_millis(100);

/// How much of a layer is given back at once.
const HOLE: u64 = 8 << 20;

/// Why a leader brings nothing, in the words in which it says so itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The node's name.
    pub node: String,
    /// One line.
    pub line: String,
    /// The exit status that goes with it.
    pub exit: u8,
}

/// How a leader stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// It brings layers.
    Going,
    /// It brings nothing any more: it is done, or gone.
    Over,
    /// It cannot bring anything to others.
    Alone,
    /// It has failed.
    Failed(Failure),
}

/// One look at a leader.
#[derive(Debug)]
pub(super) struct Sight {
    pub(super) standing: Standing,
    /// Another number than before: there is something new.
    pub(super) version: u64,
    /// When to look again.
    pub(super) again: Duration,
}

/// Finds a layer, as far as it is here.
type Find = dyn Fn(&Descriptor) -> Option<(PathBuf, File)> + Send + Sync;

/// The layers that a leader brings.
pub(in super::super) struct Feed {
    find: Box<Find>,
    /// Whether a layer is nobody else's, and goes as it is read.
    passing: bool,
    seen: Mutex<Seen>,
    changed: Condvar,
}

struct Seen {
    standing: Standing,
    version: u64,
    stopped: bool,
    /// Layers that have come and gone.
    spent: Vec<PathBuf>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").finish_non_exhaustive()
    }
}

impl Feed {
    pub(super) fn new(find: Box<Find>) -> Feed {
        let seen = Mutex::new(Seen {
            standing: Standing::Going,
            version: 0,
            stopped: false,
            spent: Vec::new(),
        });
        Feed { find, passing: false, seen, changed: Condvar::new() }
    }

    /// The same of layers that are for this node alone.
    pub(super) fn passing(find: Box<Find>) -> Feed {
        Feed { passing: true, ..Feed::new(find) }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks until it is stopped, or there is nothing more to see.
    pub(super) fn watch(&self, look: &mut dyn FnMut() -> Sight) {
        loop {
            let sight = look();
            let mut seen = self.seen();
            seen.version = sight.version;
            let is_last = sight.standing != Standing::Going;
            seen.standing = sight.standing;
            self.changed.notify_all();
            if is_last {
                return;
            }
            let until_stopped = |seen: &mut Seen| !seen.stopped;
            let waited = self.changed.wait_timeout_while(seen, sight.again, until_stopped);
            if waited.unwrap_or_else(PoisonError::into_inner).0.stopped {
                return;
            }
        }
    }

    /// Ends [`Feed::watch`].
    pub(super) fn stop(&self) {
        self.seen().stopped = true;
        self.changed.notify_all();
    }

    /// Waits for a layer, and opens it; its end may still be to come.
    pub(in super::super) fn open(
        &self,
        layer: &Descriptor,
        is_cancelled: &dyn Fn() -> bool,
    ) -> Result<(PathBuf, File), Error> {
        let mut looked_at = None;
        loop {
            let (version, standing) = {
                let seen = self.seen();
                (seen.version, seen.standing.clone())
            };
            if looked_at != Some(version) || standing != Standing::Going {
                looked_at = Some(version);
                if let Some(found) = (self.find)(layer) {
                    return Ok(found);
                }
            }
            self.check(&standing)?;
            self.pause(version, is_cancelled)?;
        }
    }

    /// Waits for more of a layer that is still growing.
    pub(in super::super) fn more(&self, is_cancelled: &dyn Fn() -> bool) -> Result<(), Error> {
        let (version, standing) = {
            let seen = self.seen();
            (seen.version, seen.standing.clone())
        };
        self.check(&standing)?;
        self.pause(version, is_cancelled)
    }

    /// Gives back the memory of what was read of a layer up to `position`, and its name at the end.
    pub(in super::super) fn spent(&self, layer: &Path, file: &File, position: u64, size: u64) {
        if !self.passing {
            return;
        }
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        // Best effort: all of it goes with the name.
        if position % HOLE < BUFFER as u64 {
            let _ = fallocate(file, flags, 0, i64::try_from(position).unwrap_or(0).max(1));
        }
        if position == size {
            self.seen().spent.push(layer.to_owned());
            let _ = fs::remove_file(layer);
        }
    }

    /// Whether there is no way from the leader to this node.
    pub(super) fn is_cut_off(&self) -> bool {
        self.seen().standing == Standing::Alone
    }

    /// Whether all of a layer was read.
    pub(super) fn is_spent(&self, layer: &Path) -> bool {
        self.seen().spent.iter().any(|spent| spent == layer)
    }

    fn check(&self, standing: &Standing) -> Result<(), Error> {
        match standing {
            Standing::Going => Ok(()),
            Standing::Over | Standing::Alone => Err(Error::Orphaned),
            Standing::Failed(failure) => Err(Error::Elsewhere(failure.clone())),
        }
    }

    /// Waits until there is something new.
    fn pause(&self, version: u64, is_cancelled: &dyn Fn() -> bool) -> Result<(), Error> {
        let is_same = |seen: &mut Seen| seen.version == version && seen.standing == Standing::Going;
        let mut seen = self.seen();
        while is_same(&mut seen) {
            if is_cancelled() {
                return Err(Error::Cancelled);
            }
            let waited = self.changed.wait_timeout_while(seen, TICK, is_same);
            seen = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        Ok(())
    }
}
