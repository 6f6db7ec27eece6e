//! One layer, in one pass.
//!
//! ```text
//! network threads      thread: inflate               thread: tar
//! socket ─► sha256 ─►  [blob in the store], inflate ─► [diff_id], files
//! ```
//!
//! Stages are joined by a few recycled buffers each, so that memory does not depend on the layer,
//! and one big layer keeps more than one core busy.

use std::{
    io::{self, BufRead, Read},
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::Instant,
};

use bytes::Bytes;

use super::{
    Error, Extent,
    chunks::Chunks,
    event::{self, Stopwatch},
    fan::Feed,
    gzip,
    layers::Shared,
};
use crate::{
    digest::{Digest, Hasher},
    layer,
    oci::{Compression, Descriptor},
    registry::Registry,
    store::{Blobs, Stage},
};

/// The unit in which the stages hand bytes on.
pub(super) const BUFFER: usize = 256 << 10;
/// Buffers between two stages.
pub(super) const BUFFERS: usize = 6;
/// What [`Compression::sniff`] looks at, in bytes.
const MAGIC: usize = 4;
/// How often a layer is read that comes with another digest than it should have: once it may have
/// been damaged on its way, not always.
const MAX_READS: u32 = 3;

/// One layer to read.
pub(super) struct Job<'a> {
    /// Its place in the manifest, lowest is 0.
    pub(super) number: usize,
    pub(super) layer: &'a Descriptor,
    /// What the uncompressed bytes are held against, if they are.
    pub(super) diff_id: Option<&'a Digest>,
    pub(super) source: Source,
    /// Where the compressed bytes are kept, if they are.
    pub(super) keep: Option<&'a Blobs>,
    /// Where the files go, if they are wanted.
    pub(super) stage: Option<&'a Stage<'a>>,
    /// Whether it is read as an archive even if they are not.
    pub(super) look_into: bool,
    pub(super) limits: layer::Limits,
    pub(super) meter: Meter,
}

/// Where a layer's bytes come from.
pub(super) enum Source {
    Registry(Arc<Registry>, tokio::runtime::Handle),
    Store(PathBuf),
    File(Extent),
    /// Another node, which brings it for all.
    Awaited(Arc<Feed>),
}

/// How far a layer is, for others to see.
#[derive(Debug, Default)]
pub(super) struct Meter {
    /// Being read right now.
    pub(super) active: AtomicBool,
    /// Compressed bytes read so far.
    pub(super) received: AtomicU64,
    /// Waiting for the registry right now.
    pub(super) hungry: AtomicBool,
}

/// A layer that is done.
pub(super) struct Finished {
    /// What is to be merged, if anything was to be expanded.
    pub(super) expanded: Option<layer::Expanded>,
    pub(super) told: event::Layer,
}

/// Reads a layer to its end and checks it.
pub(super) fn run(job: &Job<'_>, shared: &Shared<'_>) -> Result<Finished, Error> {
    let mut reads = 1;
    loop {
        job.meter.active.store(true, Ordering::Relaxed);
        let result = read(job, shared);
        job.meter.active.store(false, Ordering::Relaxed);
        match result {
            Err(error) if error.is_other_content() && reads < MAX_READS => {
                shared.troubles.add(format!("{error}; trying again"));
                job.meter.received.store(0, Ordering::Relaxed);
                reads += 1;
            }
            result => return result,
        }
    }
}

fn read(job: &Job<'_>, shared: &Shared<'_>) -> Result<Finished, Error> {
    let mut chunks = Chunks::start(job, shared)?;
    let folder = match job.stage {
        Some(stage) => Some(stage.create(&job.number.to_string())?),
        None if job.look_into => None,
        None => {
            while chunks.next()?.is_some() {}
            return Ok(Finished { expanded: None, told: chunks.account() });
        }
    };
    let (inflated, full) = mpsc::sync_channel(BUFFERS);
    let (empty, recycled) = mpsc::channel();
    for _ in 0..BUFFERS {
        // The receiver is right here.
        let _ = empty.send(Vec::with_capacity(BUFFER));
    }
    thread::scope(|scope| {
        let inflate = scope.spawn(move || inflate(chunks, job, &inflated, &recycled));
        let hasher = job.diff_id.map(|_| Hasher::new());
        let clock = Stopwatch::start(shared.epoch);
        let buffer = Vec::new();
        let mut tar = Pipe { shared, full, empty, buffer, position: 0, hasher, clock, error: None };
        let expanded = match &folder {
            Some(folder) => layer::expand(&mut tar, folder.as_fd(), &job.limits).map(Some),
            None => layer::list(&mut tar, &job.limits, |_| {}).map(|()| None),
        };
        let got = tar.hasher.take().map(Hasher::finish);
        let (write, no_room) = (tar.clock.stop(), tar.error.take());
        drop(tar); // an inflater that still has something to hand over finds nobody, and ends
        // Nothing that is still to come can explain this better.
        let explained =
            no_room.is_some() || !matches!(expanded, Ok(_) | Err(layer::Error::Malformed { .. }));
        if explained {
            shared.cancel();
        }
        // Where both failed, the earlier stage knows why.
        let upstream = inflate.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        if let Some(error) = no_room {
            return Err(error);
        }
        let (mut told, expanded) = match (upstream, expanded) {
            // Unless it was waiting for the network, and has only been told to stop.
            (Err(Some(error)), _) if !(explained && matches!(error, Error::Cancelled)) => {
                return Err(error);
            }
            (Ok(told), Ok(expanded)) => (told, expanded),
            (_, Err(source)) => {
                return Err(Error::Layer { digest: job.layer.digest.clone(), source });
            }
            // Only a tar stage that failed makes the other one stop without an error.
            (Err(error), Ok(_)) => return Err(error.unwrap_or(Error::Cancelled)),
        };
        told.write = Some(write);
        match (got, job.diff_id) {
            (Some(got), Some(expected)) if got != *expected => Err(Error::DiffId {
                digest: job.layer.digest.clone(),
                expected: expected.clone(),
                got,
            }),
            _ => Ok(Finished { expanded, told }),
        }
    })
}

/// The inflating stage. An error of `None` means that the next stage has gone away.
fn inflate(
    chunks: Chunks<'_>,
    job: &Job<'_>,
    inflated: &mpsc::SyncSender<Vec<u8>>,
    recycled: &mpsc::Receiver<Vec<u8>>,
) -> Result<event::Layer, Option<Error>> {
    let mut input = ChunkReader { chunks, chunk: Bytes::new(), error: None };
    let copied = copy_inflated(&mut input, inflated, recycled);
    // The reader's own error is typed; through the decoder it came back as mere text.
    if let Some(error) = input.error.take() {
        return Err(Some(error));
    }
    let failure = match copied {
        Ok(true) => {
            let mut told = input.chunks.account();
            told.inflate = Some(input.chunks.clock.stop());
            return Ok(told);
        }
        Ok(false) => None,
        Err(source) => Some(Error::Inflate { digest: job.layer.digest.clone(), source }),
    };
    // What does not decode is mostly a layer that was damaged on its way: if the rest shows that
    // the bytes are not the right ones, that is the error.
    loop {
        match input.chunks.next() {
            Ok(Some(_)) => {}
            Ok(None) | Err(Error::Cancelled) => return Err(failure),
            Err(error) => return Err(Some(error)),
        }
    }
}

/// Returns false if nobody takes the bytes any more.
fn copy_inflated(
    input: &mut ChunkReader<'_>,
    inflated: &mpsc::SyncSender<Vec<u8>>,
    recycled: &mpsc::Receiver<Vec<u8>>,
) -> io::Result<bool> {
    let compression = Compression::sniff(input.head()?);
    let mut others = Stopwatch::start(Instant::now());
    let mut decoder = decoder(compression, &mut *input)?;
    loop {
        let Ok(mut buffer) = others.wait(|| recycled.recv()) else { return Ok(false) };
        buffer.resize(BUFFER, 0);
        let mut filled = 0;
        while filled < BUFFER {
            match decoder.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        buffer.truncate(filled);
        if filled == 0 {
            break;
        }
        if others.wait(|| inflated.send(buffer)).is_err() {
            return Ok(false);
        }
    }
    drop(decoder);
    // Past the decoder's end: the digest covers every byte (SECURITY R11).
    io::copy(input, &mut io::sink())?;
    input.chunks.clock.waited(others.waiting());
    Ok(true)
}

/// Reads what was packed.
pub(crate) fn decoder<'a>(
    compression: Compression,
    packed: impl BufRead + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(packed),
        Compression::Gzip => Box::new(gzip::Reader::new(packed)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
    })
}

/// The tar stage's end of the buffers.
struct Pipe<'a> {
    shared: &'a Shared<'a>,
    full: mpsc::Receiver<Vec<u8>>,
    empty: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
    position: usize,
    hasher: Option<Hasher>,
    clock: Stopwatch,
    /// Why there is no room for more.
    error: Option<Error>,
}

impl BufRead for Pipe<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.buffer.len() {
            // A sender that went away is the end; whether it came too early, it says itself.
            let next = self.clock.wait(|| self.full.recv()).unwrap_or_default();
            if let Err(error) = self.shared.grow(next.len()) {
                self.error = Some(error);
                return Err(io::Error::other("see Pipe::error"));
            }
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&next);
            }
            let used = std::mem::replace(&mut self.buffer, next);
            self.position = 0;
            let _ = self.empty.send(used);
        }
        Ok(&self.buffer[self.position..])
    }

    fn consume(&mut self, n: usize) {
        self.position += n;
    }
}

impl Read for Pipe<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

/// [`Chunks`] as a reader for the decoders. Its typed error waits in `error`.
struct ChunkReader<'a> {
    chunks: Chunks<'a>,
    chunk: Bytes,
    error: Option<Error>,
}

impl ChunkReader<'_> {
    /// The first bytes, enough for any magic number: a network may begin with a single byte.
    fn head(&mut self) -> io::Result<&[u8]> {
        let mut head = Vec::new();
        while head.len() < MAGIC && !self.fill_buf()?.is_empty() {
            head.extend_from_slice(&std::mem::take(&mut self.chunk));
        }
        self.chunk = head.into();
        Ok(&self.chunk)
    }
}

impl BufRead for ChunkReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.chunk.is_empty() && self.error.is_none() {
            match self.chunks.next() {
                Ok(chunk) => self.chunk = chunk.unwrap_or_default(),
                Err(error) => {
                    self.error = Some(error);
                }
            }
        }
        match &self.error {
            Some(_) => Err(io::Error::other("see ChunkReader::error")),
            None => Ok(&self.chunk),
        }
    }

    fn consume(&mut self, n: usize) {
        bytes::Buf::advance(&mut self.chunk, n);
    }
}

impl Read for ChunkReader<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(out)?;
        self.consume(n);
        Ok(n)
    }
}
