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
    fs::File,
    io::{self, BufRead, Read, Write as _},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{Arc, atomic::Ordering, mpsc},
    thread,
};

use bytes::Bytes;

use super::{Error, gzip, layers::Shared};
use crate::{
    digest::{Digest, Hasher},
    layer,
    oci::{Compression, Descriptor},
    registry::{self, Registry},
    store::{self, Blobs},
};

/// The unit in which the stages hand bytes on.
const BUFFER: usize = 256 << 10;
/// Buffers between two stages.
const BUFFERS: usize = 6;
/// What [`Compression::sniff`] looks at, in bytes.
const MAGIC: usize = 4;

/// One layer to read.
pub(super) struct Job<'a> {
    /// Its place in the manifest, lowest is 0.
    pub(super) number: usize,
    pub(super) layer: &'a Descriptor,
    pub(super) diff_id: &'a Digest,
    pub(super) source: Source,
    /// Where the compressed bytes are kept, if they are.
    pub(super) keep: Option<&'a Blobs>,
    /// Where the files go, if they are wanted.
    pub(super) folder: Option<OwnedFd>,
}

/// Where a layer's bytes come from.
pub(super) enum Source {
    Registry(Arc<Registry>, tokio::runtime::Handle),
    Store(PathBuf),
}

/// Reads a layer to its end and checks it. Returns what was expanded, if there is a folder.
pub(super) fn run(
    job: &Job<'_>,
    check_diff_id: bool,
    shared: &Shared,
) -> Result<Option<layer::Expanded>, Error> {
    let mut chunks = Chunks::start(job, shared)?;
    let Some(folder) = &job.folder else {
        while chunks.next()?.is_some() {}
        return Ok(None);
    };
    let (inflated, full) = mpsc::sync_channel(BUFFERS);
    let (empty, recycled) = mpsc::channel();
    for _ in 0..BUFFERS {
        // The receiver is right here.
        let _ = empty.send(Vec::with_capacity(BUFFER));
    }
    thread::scope(|scope| {
        let inflate = scope.spawn(move || inflate(chunks, job, &inflated, &recycled));
        let hasher = check_diff_id.then(Hasher::new);
        let mut tar = Pipe { full, empty, buffer: Vec::new(), position: 0, hasher };
        let expanded = layer::expand(&mut tar, folder.as_fd(), &layer::Limits::default());
        let got = tar.hasher.take().map(Hasher::finish);
        drop(tar); // an inflater that still has something to hand over finds nobody, and ends
        // Nothing that is still to come can explain this better.
        let explained = !matches!(expanded, Ok(_) | Err(layer::Error::Malformed { .. }));
        if explained {
            shared.cancel();
        }
        // Where both failed, the earlier stage knows why.
        let upstream = inflate.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let expanded = match (upstream, expanded) {
            // Unless it was waiting for the network, and has only been told to stop.
            (Err(Some(error)), _) if !(explained && matches!(error, Error::Cancelled)) => {
                return Err(error);
            }
            (_, Err(source)) => {
                return Err(Error::Layer { digest: job.layer.digest.clone(), source });
            }
            (_, Ok(expanded)) => expanded,
        };
        match got {
            Some(got) if got != *job.diff_id => Err(Error::DiffId {
                digest: job.layer.digest.clone(),
                expected: job.diff_id.clone(),
                got,
            }),
            _ => Ok(Some(expanded)),
        }
    })
}

/// The inflating stage. An error of `None` means that the next stage has gone away.
fn inflate(
    chunks: Chunks<'_>,
    job: &Job<'_>,
    inflated: &mpsc::SyncSender<Vec<u8>>,
    recycled: &mpsc::Receiver<Vec<u8>>,
) -> Result<(), Option<Error>> {
    let mut input = ChunkReader { chunks, chunk: Bytes::new(), error: None };
    let copied = copy_inflated(&mut input, inflated, recycled);
    // The reader's own error is typed; through the decoder it came back as mere text.
    if let Some(error) = input.error.take() {
        return Err(Some(error));
    }
    let failure = match copied {
        Ok(true) => return Ok(()),
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
    let mut decoder: Box<dyn Read + '_> = match compression {
        Compression::None => Box::new(&mut *input),
        Compression::Gzip => Box::new(gzip::Reader::new(&mut *input)),
        Compression::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(&mut *input)?),
    };
    loop {
        let Ok(mut buffer) = recycled.recv() else { return Ok(false) };
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
        if inflated.send(buffer).is_err() {
            return Ok(false);
        }
    }
    drop(decoder);
    // Past the decoder's end: the digest covers every byte (SECURITY R11).
    io::copy(input, &mut io::sink())?;
    Ok(true)
}

/// The tar stage's end of the buffers.
struct Pipe {
    full: mpsc::Receiver<Vec<u8>>,
    empty: mpsc::Sender<Vec<u8>>,
    buffer: Vec<u8>,
    position: usize,
    hasher: Option<Hasher>,
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.position == self.buffer.len() {
            // A sender that went away is the end; whether it came too early, it says itself.
            let next = self.full.recv().unwrap_or_default();
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

impl Read for Pipe {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let n = self.fill_buf()?.read(out)?;
        self.consume(n);
        Ok(n)
    }
}

/// A layer's compressed bytes. Their end is reported only when size and digest are right.
struct Chunks<'a> {
    from: From,
    keep: Option<store::BlobWriter>,
    shared: &'a Shared,
    layer: &'a Descriptor,
    ended: bool,
}

enum From {
    Registry(tokio::sync::mpsc::Receiver<Result<Bytes, registry::Error>>),
    Store(PathBuf, File, Option<Hasher>),
}

impl<'a> Chunks<'a> {
    fn start(job: &Job<'a>, shared: &'a Shared) -> Result<Chunks<'a>, Error> {
        let from = match &job.source {
            Source::Store(path) => {
                let file = File::open(path).map_err(|source| store::Error {
                    op: "open",
                    path: path.clone(),
                    source,
                })?;
                From::Store(path.clone(), file, Some(Hasher::new()))
            }
            Source::Registry(registry, handle) => {
                let (sender, receiver) = tokio::sync::mpsc::channel(BUFFERS);
                let (registry, layer) = (registry.clone(), job.layer.clone());
                let download = handle.spawn(async move {
                    let mut blob = registry.blob("layer", &layer);
                    loop {
                        let chunk = match blob.chunk().await {
                            Ok(Some(chunk)) => Ok(chunk),
                            // The empty chunk is the verified end. A channel that closes without
                            // one was cancelled.
                            Ok(None) => Ok(Bytes::new()),
                            Err(error) => Err(error),
                        };
                        let last = !matches!(&chunk, Ok(chunk) if !chunk.is_empty());
                        if sender.send(chunk).await.is_err() || last {
                            break;
                        }
                    }
                });
                shared.started(download.abort_handle());
                From::Registry(receiver)
            }
        };
        let keep = job.keep.map(|blobs| blobs.writer(&job.layer.digest)).transpose()?;
        Ok(Chunks { from, keep, shared, layer: job.layer, ended: false })
    }

    fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        if self.shared.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let chunk = match &mut self.from {
            From::Registry(receiver) => match receiver.blocking_recv() {
                Some(chunk) => chunk?,
                None => return Err(Error::Cancelled),
            },
            From::Store(path, file, hasher) => {
                let mut buffer = vec![0; BUFFER];
                let read = file.read(&mut buffer).map_err(|source| store::Error {
                    op: "read",
                    path: path.clone(),
                    source,
                })?;
                buffer.truncate(read);
                match hasher {
                    Some(hasher) if read > 0 => hasher.update(&buffer),
                    _ => {}
                }
                if read == 0
                    && let Some(got) = hasher.take().map(Hasher::finish)
                    && got != self.layer.digest
                {
                    return Err(Error::StoredBlob { path: path.clone(), got });
                }
                buffer.into()
            }
        };
        if chunk.is_empty() {
            self.ended = true;
            if let Some(keep) = self.keep.take() {
                keep.commit()?;
            }
            return Ok(None);
        }
        if let Some(keep) = &mut self.keep
            && let Err(source) = keep.write_all(&chunk)
        {
            return Err(keep.error(source).into());
        }
        self.shared.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        Ok(Some(chunk))
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
