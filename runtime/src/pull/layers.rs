//! All layers of an image: read side by side, merged in order.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use super::{
    Error, Event, Pull, cores,
    documents::Documents,
    stream::{self, Job, Source},
};
use crate::{
    digest::Digest,
    layer::{self, Expanded},
    store::{Stage, Store},
    sys::interrupt::Caught,
};

/// How often progress is told and interruption looked for.
const TICK: Duration = Duration::from_millis(100);

/// A layer that is done: its place in the manifest, and what was expanded, if anything was to be.
type Done = (usize, Result<Option<Expanded>, Error>);

impl Pull<'_> {
    /// Reads all layers once: into the store where they are to be kept, into a tree if there is a
    /// stage for one.
    pub(super) fn layers(
        &self,
        documents: &Documents,
        stage: Option<&Stage>,
        caught: &Caught,
        tell: &mut dyn FnMut(Event),
    ) -> Result<(), Error> {
        let manifest = &documents.manifest;
        tell(Event::Begin { layers: manifest.layers.len(), bytes: manifest.download_size() });
        let jobs = self.jobs(documents, stage)?;
        let mut merge = stage.map(Merge::new).transpose()?;
        let shared = Shared::default();
        let check_diff_ids = self.config.check_diff_ids;
        thread::scope(|scope| {
            let (done, results) = mpsc::channel();
            for _ in 0..jobs.len().min(cores().max(2)) {
                let (done, jobs, shared) = (done.clone(), &jobs, &shared);
                scope.spawn(move || work(jobs, check_diff_ids, shared, &done));
            }
            drop(done);
            let result = collect(&results, caught, &shared, &mut |layer| {
                if let (Some(merge), Some((number, expanded))) = (&mut merge, layer) {
                    merge.add(&jobs, number, expanded)?;
                }
                tell(Event::Progress(shared.received.load(Ordering::Relaxed)));
                Ok(())
            });
            result.inspect_err(|_| shared.cancel())
        })?;
        if let Some(merge) = merge {
            merge.finish(&documents.digest)?;
        }
        // Soon signals have their own effect again; one that came meanwhile is not lost.
        if let Some(signal) = caught.signal() {
            return Err(Error::Interrupted(signal));
        }
        tell(Event::End);
        Ok(())
    }

    /// One job for each layer that is missing somewhere, the biggest first: then the last ones to
    /// end are small.
    fn jobs<'b>(
        &'b self,
        documents: &'b Documents,
        stage: Option<&Stage>,
    ) -> Result<Vec<Job<'b>>, Error> {
        let blobs = self.store.as_ref().map(Store::blobs);
        let mut jobs = Vec::new();
        for (number, layer) in documents.manifest.layers.iter().enumerate() {
            let (source, keep) = match blobs.and_then(|blobs| blobs.find(layer)) {
                Some(_) if stage.is_none() => continue,
                Some(path) => (Source::Store(path), None),
                None => {
                    let connected = self.remote.get()?;
                    let handle = connected.executor.handle().clone();
                    let source = Source::Registry(connected.registry.clone(), handle);
                    (source, blobs.filter(|_| self.keep))
                }
            };
            let folder = stage.map(|stage| stage.create(&number.to_string())).transpose()?;
            let diff_id = &documents.config.rootfs.diff_ids[number];
            jobs.push(Job { number, layer, diff_id, source, keep, folder });
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(job.layer.size));
        Ok(jobs)
    }
}

/// One thread's part: the next job, until there is none.
fn work(jobs: &[Job<'_>], check_diff_ids: bool, shared: &Shared, done: &mpsc::Sender<Done>) {
    while let Some(job) = shared.next(jobs) {
        let result = stream::run(job, check_diff_ids, shared);
        if done.send((job.number, result)).is_err() {
            break;
        }
    }
}

/// Passes on the layers that the threads have expanded, and ends with the first thing that goes
/// wrong. `pass` is also called in between, with nothing.
fn collect(
    results: &mpsc::Receiver<Done>,
    caught: &Caught,
    shared: &Shared,
    pass: &mut dyn FnMut(Option<(usize, Expanded)>) -> Result<(), Error>,
) -> Result<(), Error> {
    loop {
        if let Some(signal) = caught.signal() {
            return Err(Error::Interrupted(signal));
        }
        match results.recv_timeout(TICK) {
            Ok((number, Ok(expanded))) => pass(expanded.map(|expanded| (number, expanded)))?,
            // The layer that failed says why, if it has not yet.
            Ok((_, Err(Error::Cancelled))) => {}
            Ok((_, Err(error))) => return Err(error),
            Err(mpsc::RecvTimeoutError::Timeout) => pass(None)?,
            Err(mpsc::RecvTimeoutError::Disconnected) if shared.is_cancelled() => {
                return Err(Error::Cancelled);
            }
            Err(mpsc::RecvTimeoutError::Disconnected) => return Ok(()),
        }
    }
}

/// The tree in the making, and the layers that came too early for it.
struct Merge<'a> {
    stage: &'a Stage,
    tree: layer::Tree,
    waiting: HashMap<usize, Expanded>,
    next: usize,
}

impl<'a> Merge<'a> {
    fn new(stage: &'a Stage) -> Result<Merge<'a>, Error> {
        let tree = layer::Tree::new(stage.rootfs()?);
        Ok(Merge { stage, tree, waiting: HashMap::new(), next: 0 })
    }

    /// Merges a layer when its turn comes: layers come in any order and are merged in theirs.
    fn add(&mut self, jobs: &[Job<'_>], number: usize, expanded: Expanded) -> Result<(), Error> {
        self.waiting.insert(number, expanded);
        while let Some(expanded) = self.waiting.remove(&self.next) {
            let job = jobs.iter().find(|job| job.number == self.next).expect("a job's number");
            let folder = job.folder.as_ref().expect("made with the stage");
            self.tree
                .merge(folder, expanded)
                .map_err(|source| Error::Layer { digest: job.layer.digest.clone(), source })?;
            self.stage.remove(&self.next.to_string())?;
            self.next += 1;
        }
        Ok(())
    }

    fn finish(self, image: &Digest) -> Result<(), Error> {
        let finished = self.tree.finish();
        finished.map_err(|source| Error::Layer { digest: image.clone(), source })?;
        Ok(())
    }
}

/// What the threads of one pull share.
#[derive(Default)]
pub(super) struct Shared {
    next: AtomicUsize,
    /// Compressed bytes read so far.
    pub(super) received: AtomicU64,
    cancelled: AtomicBool,
    /// Downloads that would otherwise wait for a silent network before they notice.
    downloads: Mutex<Vec<tokio::task::AbortHandle>>,
}

impl Shared {
    fn next<'a, 'b>(&self, jobs: &'a [Job<'b>]) -> Option<&'a Job<'b>> {
        if self.is_cancelled() {
            return None;
        }
        jobs.get(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// Whether the rest is not worth it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Notes a download, to be ended with the others.
    pub(super) fn started(&self, download: tokio::task::AbortHandle) {
        self.downloads.lock().unwrap_or_else(PoisonError::into_inner).push(download);
        if self.is_cancelled() {
            self.cancel();
        }
    }

    /// Ends what is under way.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        for download in self.downloads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            download.abort();
        }
    }
}
