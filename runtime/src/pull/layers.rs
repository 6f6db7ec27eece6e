//! All layers of an image: read side by side, merged in order.

use std::{
    collections::HashMap,
    ops::Range,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread::{self, Scope},
    time::{Duration, Instant},
};

use super::{
    Error, Event, Pull, TICK, cores,
    event::{Flight, Summary, Troubles},
    stream::{self, Finished, Job, Meter, Source},
};
use crate::{
    digest::Digest,
    documents::Documents,
    layer::{self, Expanded, Limits},
    oci::Descriptor,
    store::{Limit, Node, Stage, Store},
    sys::interrupt::Caught,
};

/// Layers that are read at once where processors are not what limits them: each has a connection
/// of its own, and far registries give each connection only so much.
const MAX_CONNECTIONS: usize = 8;
/// Layers that are read at once on a node of many cores. Each has its buffers, and more would not
/// be faster: the biggest layer takes as long as it takes.
const MAX_LAYERS: usize = 16;
/// Layers of at most so many compressed bytes take less time to read than to ask for: they are read
/// beside the others, several at once.
const SMALL: u64 = 256 << 10;
/// Memory that a pull leaves free, in bytes.
const RESERVE: u64 = 64 << 20;
/// Bytes that a layer may hold however few it was packed into.
const UNSUSPICIOUS: u64 = 1 << 30;
/// How many bytes it writes at least and at most before it looks at its memory again.
const MIN_UNWATCHED: u64 = 8 << 20;
const MAX_UNWATCHED: u64 = 256 << 20;
/// So many ticks in a row all layers wait for the network before another one is begun.
const HUNGRY_TICKS: u32 = 3;

impl Pull<'_> {
    /// Reads all layers once: into the store where they are to be kept, into a tree if there is a
    /// stage for one.
    pub(super) fn layers(
        &self,
        documents: &Documents,
        stage: Option<&Stage<'_>>,
        caught: &Caught,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let jobs = self.jobs(documents, stage)?;
        let bytes = jobs.iter().map(|job| job.layer.size).sum();
        tell(Event::Begin { digest: &documents.digest, layers: jobs.len(), bytes });
        let mut merge = stage.map(|stage| Merge::new(stage, documents)).transpose()?;
        let mut summary = Summary::default();
        let node = self.node.as_ref().filter(|_| stage.is_some());
        let shared = Shared::new(jobs.len(), node, self.remote.troubles.clone());
        thread::scope(|scope| {
            let mut team = Team::start(scope, &jobs, &shared);
            let result = team.collect(caught, &mut |finished| {
                let Some(finished) = finished else {
                    self.remote.troubles.tell(tell);
                    tell_progress(&jobs, tell);
                    return Ok(());
                };
                summary.add(&finished.told);
                tell(Event::Layer(&finished.told));
                match (&mut merge, finished.expanded) {
                    (Some(merge), Some(expanded)) => merge.add(finished.told.number, expanded),
                    _ => Ok(()),
                }
            });
            self.remote.troubles.tell(tell);
            tell_progress(&jobs, tell);
            result.inspect_err(|_| shared.cancel())
        })?;
        if let Some(merge) = merge {
            let (time, tree) = merge.finish()?;
            (summary.merge, summary.tree) = (time, Some(tree));
        }
        // Soon signals have their own effect again; one that came meanwhile is not lost.
        if let Some(signal) = caught.signal() {
            return Err(Error::Interrupted(signal));
        }
        summary.total = shared.epoch.elapsed();
        tell(Event::End(&summary));
        Ok(())
    }

    /// One job for each layer that is missing somewhere, the biggest first: then the last ones to
    /// end are small.
    fn jobs<'b>(
        &'b self,
        documents: &'b Documents,
        stage: Option<&'b Stage<'b>>,
    ) -> Result<Vec<Job<'b>>, Error> {
        let blobs = self.store.as_ref().map(Store::blobs);
        let kept = self.kept(documents).map(Store::blobs).or(self.outbox.as_ref());
        let mut jobs: Vec<Job<'_>> = Vec::new();
        for (number, layer) in documents.manifest.layers.iter().enumerate() {
            let again = |job: &Job<'_>| job.layer.digest == layer.digest;
            let own = blobs.and_then(|blobs| blobs.find(layer));
            if stage.is_none() && (own.is_some() || jobs.iter().any(again)) {
                continue;
            }
            let awaited = || self.feed.clone();
            let shared = || self.shared().find_map(|store| store.blobs().find(layer));
            let (source, keep) = if let Some(path) = own {
                (Source::Store(path), None)
            } else if let Some(extent) = self.files.get(&layer.digest) {
                (Source::File(extent.clone()), kept)
            } else if let Some(path) = shared() {
                (Source::Store(path), kept)
            } else if let Some(feed) = awaited() {
                (Source::Awaited(feed), kept)
            } else {
                let connected = self.remote.get()?;
                let handle = connected.executor.handle().clone();
                (Source::Registry(connected.registry.clone(), handle), kept)
            };
            let diff_id = &documents.config.rootfs.diff_ids[number];
            // An uncompressed layer is its own content, whose digest is checked already.
            let check = self.check_diff_ids && *diff_id != layer.digest;
            let diff_id = check.then_some(diff_id);
            let limits = limits(layer.size, self.config.max_expansion);
            let (meter, look_into) = (Meter::default(), self.check_archives);
            jobs.push(Job {
                number,
                layer,
                diff_id,
                source,
                keep,
                stage,
                look_into,
                limits,
                meter,
            });
        }
        jobs.sort_by_key(|job| std::cmp::Reverse(job.layer.size));
        Ok(jobs)
    }
}

/// What a layer of so many compressed bytes may hold (SECURITY R9).
pub(crate) fn limits(size: u64, max_expansion: u64) -> Limits {
    let limits = Limits::default();
    match max_expansion {
        0 => limits,
        times => Limits { bytes: size.saturating_mul(times).max(UNSUSPICIOUS), ..limits },
    }
}

fn tell_progress(jobs: &[Job<'_>], tell: &mut dyn FnMut(Event<'_>)) {
    let received = |job: &Job<'_>| job.meter.received.load(Ordering::Relaxed);
    let active = jobs.iter().filter(|job| job.meter.active.load(Ordering::Relaxed));
    let layers: Vec<_> = active
        .map(|job| Flight {
            number: job.number,
            digest: &job.layer.digest,
            bytes: received(job),
            size: job.layer.size,
        })
        .collect();
    tell(Event::Progress { bytes: jobs.iter().map(received).sum(), layers: &layers });
}

/// The threads that read layers: each takes the next job until there is none.
struct Team<'scope, 'env, 'a> {
    scope: &'scope Scope<'scope, 'env>,
    jobs: &'scope [Job<'a>],
    shared: &'scope Shared<'scope>,
    done: mpsc::Sender<Result<Finished, Error>>,
    results: mpsc::Receiver<Result<Finished, Error>>,
    workers: usize,
    /// For so many ticks, all have been waiting for the network.
    hungry: u32,
}

impl<'scope, 'env, 'a> Team<'scope, 'env, 'a> {
    fn start(
        scope: &'scope Scope<'scope, 'env>,
        jobs: &'scope [Job<'a>],
        shared: &'scope Shared<'scope>,
    ) -> Team<'scope, 'env, 'a> {
        let (done, results) = mpsc::channel();
        let mut team = Team { scope, jobs, shared, done, results, workers: 0, hungry: 0 };
        for _ in 0..jobs.len().min(cores().clamp(2, MAX_LAYERS)) {
            team.add();
        }
        let small = jobs.iter().filter(|job| job.layer.size <= SMALL).count();
        for _ in team.workers..MAX_CONNECTIONS.min(small) {
            team.work(true);
        }
        team
    }

    fn add(&mut self) {
        self.work(false);
        self.workers += 1;
    }

    /// Begins a thread that reads one layer after the other.
    fn work(&self, only_small: bool) {
        let (done, jobs, shared) = (self.done.clone(), self.jobs, self.shared);
        self.scope.spawn(move || {
            while let Some(job) = shared.next(jobs, only_small) {
                if done.send(stream::run(job, shared)).is_err() {
                    break;
                }
            }
        });
    }

    /// Passes on the layers as they are done, and ends with the first thing that goes wrong. `pass`
    /// is also called at every tick, with nothing.
    fn collect(
        &mut self,
        caught: &Caught,
        pass: &mut dyn FnMut(Option<Finished>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut left = self.jobs.len();
        let mut told = Instant::now();
        while left > 0 {
            if let Some(signal) = caught.signal() {
                return Err(Error::Interrupted(signal));
            }
            match self.results.recv_timeout(TICK) {
                // The layer that failed says why, if it has not yet.
                Ok(Err(Error::Cancelled)) | Err(_) => {}
                Ok(finished) => {
                    pass(Some(finished?))?;
                    left -= 1;
                }
            }
            if told.elapsed() >= TICK {
                told = Instant::now();
                pass(None)?;
                self.feed();
            }
        }
        Ok(())
    }

    /// Begins another layer when the network gives those that are begun less than they could take.
    fn feed(&mut self) {
        let mut active = self.jobs.iter().map(|job| &job.meter);
        let mut active = active.by_ref().filter(|meter| meter.active.load(Ordering::Relaxed));
        let starving = active.all(|meter| meter.hungry.load(Ordering::Relaxed));
        self.hungry = if starving { self.hungry + 1 } else { 0 };
        if self.hungry >= HUNGRY_TICKS && self.workers < self.jobs.len().min(MAX_CONNECTIONS) {
            self.hungry = 0;
            self.add();
        }
    }
}

/// The tree in the making, and the layers that came too early for it.
struct Merge<'a> {
    stage: &'a Stage<'a>,
    layers: &'a [Descriptor],
    image: &'a Digest,
    tree: layer::Tree,
    waiting: HashMap<usize, Expanded>,
    next: usize,
    time: Duration,
}

impl<'a> Merge<'a> {
    fn new(stage: &'a Stage<'a>, documents: &'a Documents) -> Result<Merge<'a>, Error> {
        let tree = layer::Tree::new(stage.rootfs()?);
        let (layers, image) = (documents.manifest.layers.as_slice(), &documents.digest);
        let (waiting, next, time) = (HashMap::new(), 0, Duration::ZERO);
        Ok(Merge { stage, layers, image, tree, waiting, next, time })
    }

    /// Merges a layer when its turn comes: layers come in any order and are merged in theirs.
    fn add(&mut self, number: usize, expanded: Expanded) -> Result<(), Error> {
        let began = Instant::now();
        self.waiting.insert(number, expanded);
        while let Some(expanded) = self.waiting.remove(&self.next) {
            let name = self.next.to_string();
            let folder = self.stage.open(&name)?;
            let digest = || self.layers[self.next].digest.clone();
            let merged = self.tree.merge(folder, expanded);
            merged.map_err(|source| Error::Layer { digest: digest(), source })?;
            self.stage.remove(&name)?;
            self.next += 1;
        }
        self.time += began.elapsed();
        Ok(())
    }

    /// Returns what making the tree has taken, and what was made.
    fn finish(self) -> Result<(Duration, layer::Summary), Error> {
        let began = Instant::now();
        let finished = self.tree.finish();
        let tree =
            finished.map_err(|source| Error::Layer { digest: self.image.clone(), source })?;
        Ok((self.time + began.elapsed(), tree))
    }
}

/// What the threads of one pull share.
pub(super) struct Shared<'a> {
    /// Where a tree grows, if one does.
    node: Option<&'a Node>,
    /// Bytes that may be written to it before its memory is looked at.
    unwatched: Mutex<u64>,
    /// When the layers began.
    pub(super) epoch: Instant,
    /// What is to be told.
    pub(super) troubles: Troubles,
    /// The jobs that nobody has taken yet.
    left: Mutex<Range<usize>>,
    cancelled: AtomicBool,
    /// Downloads that would otherwise wait for a silent network before they notice.
    downloads: Mutex<Vec<tokio::task::AbortHandle>>,
}

impl<'a> Shared<'a> {
    fn new(jobs: usize, node: Option<&'a Node>, troubles: Troubles) -> Shared<'a> {
        Shared {
            node,
            unwatched: Mutex::new(0),
            troubles,
            epoch: Instant::now(),
            left: Mutex::new(0..jobs),
            cancelled: AtomicBool::new(false),
            downloads: Mutex::default(),
        }
    }

    /// The next layer: the biggest that is left, or the smallest, if that is a small one.
    fn next<'b, 'c>(&self, jobs: &'b [Job<'c>], only_small: bool) -> Option<&'b Job<'c>> {
        if self.is_cancelled() {
            return None;
        }
        let mut left = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        if !only_small {
            return left.next().map(|number| &jobs[number]);
        }
        let last = &jobs[left.clone().next_back()?];
        let is_small = last.layer.size <= SMALL;
        is_small.then(|| left.next_back()).flatten().map(|number| &jobs[number])
    }

    /// Whether the rest is not worth it any more.
    pub(super) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Takes note of bytes that are about to be written to the tree, and stops in time: a process
    /// that takes more memory than its job has is killed without a word, and the job with it.
    ///
    /// All writers wait while one looks: reading a control group's account may take milliseconds,
    /// in which the others would write all that is left.
    pub(super) fn grow(&self, bytes: usize) -> Result<(), Error> {
        let Some(node) = self.node else { return Ok(()) };
        let mut unwatched = self.unwatched.lock().unwrap_or_else(PoisonError::into_inner);
        *unwatched = unwatched.saturating_sub(bytes as u64);
        if *unwatched > 0 {
            return Ok(());
        }
        let room = node.room()?;
        if room.limit != Limit::FileSystem && room.free < RESERVE {
            return Err(Error::Full);
        }
        // Others write, too: the less is left, the sooner it is looked at again.
        *unwatched = (room.free.saturating_sub(RESERVE) / 4).clamp(MIN_UNWATCHED, MAX_UNWATCHED);
        Ok(())
    }

    /// Notes a download, to be ended with the others.
    pub(super) fn started(&self, download: tokio::task::AbortHandle) {
        self.downloads().push(download);
        if self.is_cancelled() {
            self.cancel();
        }
    }

    /// Ends what is under way.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
        for download in self.downloads().drain(..) {
            download.abort();
        }
    }

    fn downloads(&self) -> MutexGuard<'_, Vec<tokio::task::AbortHandle>> {
        self.downloads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
