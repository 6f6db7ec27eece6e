//! What a pull tells while it works: values, for others to put into words.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use crate::{digest::Digest, layer};

/// Something that happened, told as it happens.
#[derive(Debug)]
pub enum Event<'a> {
    /// A file or directory is being looked through, before it is known what there is to bring;
    /// several times a second.
    Reading {
        /// Which.
        what: &'a str,
        /// Bytes read so far.
        bytes: u64,
    },
    /// Another process is making the same image, and is waited for.
    Waiting,
    /// Another node of the job is pulling the image for all, and is waited for.
    Following {
        /// Its name.
        node: &'a str,
        /// Compressed bytes that it has.
        bytes: u64,
        /// Compressed bytes of the image; 0 if that is not known yet.
        total: u64,
        /// There are so many nodes that it is enough if another one says so.
        is_told: bool,
    },
    /// This node pulls the image for all.
    Leading,
    /// The layers begin.
    Begin {
        /// The image's manifest.
        digest: &'a Digest,
        /// How many layers are to be read.
        layers: usize,
        /// Their compressed size together, in bytes.
        bytes: u64,
    },
    /// How far the layers are; several times a second.
    Progress {
        /// Compressed bytes read so far, of all layers.
        bytes: u64,
        /// The layers that are being read, the earliest begun first.
        layers: &'a [Flight<'a>],
    },
    /// The tree is being written as one file; several times a second.
    Squashing {
        /// Bytes written so far.
        bytes: u64,
    },
    /// Something went wrong and is tried again; or takes long.
    Trouble(&'a str),
    /// One layer is there and verified.
    Layer(&'a Layer),
    /// All layers are there and verified.
    End(&'a Summary),
}

/// A layer that is being read.
#[derive(Debug, Clone, Copy)]
pub struct Flight<'a> {
    /// Its place in the manifest, lowest is 0.
    pub number: usize,
    /// Its digest.
    pub digest: &'a Digest,
    /// Compressed bytes read so far.
    pub bytes: u64,
    /// Compressed bytes in all.
    pub size: u64,
}

/// A layer that was read, and how long its stages took. They overlap.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Its place in the manifest, lowest is 0.
    pub number: usize,
    /// Its digest.
    pub digest: Digest,
    /// Its compressed size in bytes.
    pub bytes: u64,
    /// How many of these came from a registry, or from a file; the rest was in the store.
    pub fetched: u64,
    /// When it began, since [`Event::Begin`].
    pub start: Duration,
    /// From the registry, or from the store: reading and hashing.
    pub download: Span,
    /// Decompressing, and writing to the store; none if it is only stored.
    pub inflate: Option<Span>,
    /// Writing the files.
    pub write: Option<Span>,
}

/// One stage of one layer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Span {
    /// When it ended, since [`Event::Begin`].
    pub end: Duration,
    /// For how long it worked, and did not wait for its neighbours. Waiting for the network is the
    /// work of a download.
    pub busy: Duration,
}

/// A pull that has ended well.
#[derive(Debug, Clone, Copy, Default)]
pub struct Summary {
    /// Compressed bytes of the layers.
    pub bytes: u64,
    /// How many of these came from a registry, or from files.
    pub fetched: u64,
    /// From [`Event::Begin`] to the end.
    pub total: Duration,
    /// Busy time of all layers' downloads together.
    pub download: Duration,
    /// Busy time of all layers' decompression together.
    pub inflate: Duration,
    /// Busy time of all layers' writing together.
    pub write: Duration,
    /// What making one tree of the layers took.
    pub merge: Duration,
    /// What all layers brought, and what of it was left out; none if they are only stored.
    pub tree: Option<layer::Summary>,
}

impl Summary {
    pub(super) fn add(&mut self, layer: &Layer) {
        let busy = |span: Option<Span>| span.map_or(Duration::ZERO, |span| span.busy);
        self.bytes += layer.bytes;
        self.fetched += layer.fetched;
        self.download += layer.download.busy;
        self.inflate += busy(layer.inflate);
        self.write += busy(layer.write);
    }
}

/// Measures one stage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch {
    /// When the pull began.
    epoch: Instant,
    started: Instant,
    waited: Duration,
}

impl Stopwatch {
    pub(super) fn start(epoch: Instant) -> Stopwatch {
        Stopwatch { epoch, started: Instant::now(), waited: Duration::ZERO }
    }

    /// Runs what is no work of this stage.
    pub(super) fn wait<T>(&mut self, other: impl FnOnce() -> T) -> T {
        let began = Instant::now();
        let result = other();
        self.waited += began.elapsed();
        result
    }

    /// Notes a wait that was measured elsewhere.
    pub(super) fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// How long it has waited.
    pub(super) fn waiting(&self) -> Duration {
        self.waited
    }

    /// When the stage began, since the pull did.
    pub(super) fn start_time(&self) -> Duration {
        self.started - self.epoch
    }

    pub(super) fn stop(&self) -> Span {
        let busy = self.started.elapsed().saturating_sub(self.waited);
        Span { end: self.epoch.elapsed(), busy }
    }
}

/// What threads and network tasks have to tell, until the one comes by who can.
#[derive(Debug, Clone, Default)]
pub(super) struct Troubles(Arc<Mutex<Vec<String>>>);

impl Troubles {
    pub(super) fn add(&self, trouble: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(trouble);
    }

    pub(super) fn tell(&self, tell: &mut dyn FnMut(Event<'_>)) {
        let troubles = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        troubles.iter().for_each(|trouble| tell(Event::Trouble(trouble)));
    }
}
