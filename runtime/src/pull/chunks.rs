//! A layer's compressed bytes: from the registry or the store, and into the store.

use std::{
    fs::File,
    io::{self, Read, Write as _},
    path::PathBuf,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use bytes::Bytes;

use super::{
    Error, Extent,
    event::{self, Span, Stopwatch},
    fan::Feed,
    layers::Shared,
    stream::{BUFFER, BUFFERS, Job, Source},
};
use crate::{
    digest::Hasher,
    registry,
    store::{self, Draft},
};

/// Reads a layer's compressed bytes. Their end is reported only when size and digest are right.
///
/// Dropped before that, it leaves what has come in the store, for the next pull to go on with.
pub(super) struct Chunks<'a> {
    job: &'a Job<'a>,
    shared: &'a Shared<'a>,
    from: From,
    keep: Option<Draft>,
    /// Of the stage that these bytes are for, which runs in this thread.
    pub(super) clock: Stopwatch,
    download: Span,
    fetched: u64,
    ended: bool,
}

enum From {
    Registry(tokio::sync::mpsc::Receiver<Piece>),
    /// What an earlier pull has left; the registry has the rest. So many bytes of it were read.
    Begun(Hasher, u64),
    Store(PathBuf, File, Hasher),
    /// A file that another node brings, of which there may be more to come.
    Awaited(Arriving, Arc<Feed>, Hasher),
    /// A part of a file of the user's.
    File(Extent, io::Take<File>, Hasher),
}

/// A layer that another node brings.
struct Arriving {
    path: PathBuf,
    file: File,
    /// Bytes that were read.
    position: u64,
}

/// What a download hands over.
enum Piece {
    Bytes(Bytes),
    /// The verified end.
    End(Span),
    Failed(registry::Error),
}

impl<'a> Chunks<'a> {
    pub(super) fn start(job: &'a Job<'a>, shared: &'a Shared<'a>) -> Result<Chunks<'a>, Error> {
        let clock = Stopwatch::start(shared.epoch);
        let keep = job.keep.map(|blobs| match &job.source {
            Source::Registry(..) => blobs.writer(job.layer),
            // It is here whole, in another store.
            Source::Store(_) | Source::File(_) | Source::Awaited(_) => blobs.copier(job.layer),
        });
        let keep = keep.transpose()?;
        let from = match &job.source {
            Source::Store(path) => {
                let file = File::open(path).map_err(|e| store::Error::new("open", path, e))?;
                From::Store(path.clone(), file, Hasher::new())
            }
            Source::Awaited(feed) => {
                let (path, file) = feed.open(job.layer, &|| shared.is_cancelled())?;
                From::Awaited(Arriving { path, file, position: 0 }, feed.clone(), Hasher::new())
            }
            Source::File(extent) => From::File(extent.clone(), extent.open()?, Hasher::new()),
            Source::Registry(..) => match &keep {
                Some(keep) if keep.begun() > 0 => From::Begun(Hasher::new(), 0),
                _ => From::Registry(fetch(job, shared, Hasher::new(), 0)),
            },
        };
        let (download, fetched) = (Span::default(), 0);
        Ok(Chunks { job, shared, from, keep, clock, download, fetched, ended: false })
    }

    /// Returns the next bytes, or `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if self.ended {
            return Ok(None);
        }
        if self.shared.is_cancelled() {
            return Err(Error::Cancelled);
        }
        let chunk = self.read()?;
        match &chunk {
            Some(chunk) => {
                self.job.meter.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            }
            None => {
                self.ended = true;
                if let Some(keep) = self.keep.take() {
                    keep.commit()?;
                }
            }
        }
        Ok(chunk)
    }

    /// What there is to tell of the layer, once its end was reached.
    pub(super) fn account(&self) -> event::Layer {
        event::Layer {
            number: self.job.number,
            digest: self.job.layer.digest.clone(),
            bytes: self.job.layer.size,
            fetched: self.fetched,
            start: self.clock.start_time(),
            download: self.download,
            inflate: None,
            write: None,
        }
    }

    fn read(&mut self) -> Result<Option<Bytes>, Error> {
        match &mut self.from {
            From::Registry(_) => self.receive(),
            From::Begun(..) => match self.own_work(Chunks::read_begun)? {
                Some(chunk) => Ok(Some(chunk)),
                None => self.receive(),
            },
            From::Store(..) => self.own_work(Chunks::read_stored),
            From::File(..) => self.own_work(Chunks::read_file),
            From::Awaited(..) => self.own_work(Chunks::read_awaited),
        }
    }

    /// Counts what is done here as the download, which has no thread of its own.
    fn own_work<T>(&mut self, work: impl FnOnce(&mut Self) -> T) -> T {
        let began = Instant::now();
        let done = work(self);
        let time = began.elapsed();
        self.clock.waited(time);
        self.download.busy += time;
        self.download.end = self.clock.stop().end;
        done
    }

    fn receive(&mut self) -> Result<Option<Bytes>, Error> {
        let From::Registry(pieces) = &mut self.from else { return Ok(None) };
        let hungry = &self.job.meter.hungry;
        hungry.store(true, Ordering::Relaxed);
        let piece = self.clock.wait(|| pieces.blocking_recv());
        hungry.store(false, Ordering::Relaxed);
        match piece {
            Some(Piece::Bytes(chunk)) => {
                self.fetched += chunk.len() as u64;
                self.keep(&chunk)?;
                Ok(Some(chunk))
            }
            Some(Piece::End(span)) => {
                self.download.end = span.end;
                self.download.busy += span.busy;
                Ok(None)
            }
            Some(Piece::Failed(error)) => {
                if error.is_other_content() {
                    self.keep = None;
                }
                Err(error.into())
            }
            // A channel that closes without an end was cancelled.
            None => Err(Error::Cancelled),
        }
    }

    /// Writes to where the layer is kept, if it is.
    fn keep(&mut self, chunk: &Bytes) -> Result<(), Error> {
        if let Some(keep) = &mut self.keep
            && let Err(error) = keep.write_all(chunk)
        {
            let error = keep.error(error);
            self.keep = None;
            return Err(error.into());
        }
        Ok(())
    }

    /// The next of the bytes that an earlier pull has left. They are as good as any other: the
    /// digest covers them.
    fn read_begun(&mut self) -> Result<Option<Bytes>, Error> {
        let From::Begun(hasher, position) = &mut self.from else { return Ok(None) };
        let keep = self.keep.as_mut().expect("it is what was begun");
        let left = keep.begun() - *position;
        let chunk = read_some(keep, left).map_err(|error| keep.error(error))?;
        if chunk.is_empty() {
            let hasher = std::mem::take(hasher);
            self.from = From::Registry(fetch(self.job, self.shared, hasher, *position));
            return Ok(None);
        }
        hasher.update(&chunk);
        *position += chunk.len() as u64;
        Ok(Some(chunk))
    }

    fn read_stored(&mut self) -> Result<Option<Bytes>, Error> {
        let From::Store(path, file, hasher) = &mut self.from else { return Ok(None) };
        let chunk = read_some(file, u64::MAX);
        let chunk = chunk.map_err(|error| store::Error::new("read", &*path, error))?;
        if !chunk.is_empty() {
            hasher.update(&chunk);
            self.keep(&chunk)?;
            return Ok(Some(chunk));
        }
        let got = std::mem::take(hasher).finish();
        if got != self.job.layer.digest {
            self.keep = None;
            return Err(Error::StoredBlob { path: path.clone(), got });
        }
        Ok(None)
    }
}

impl Chunks<'_> {
    fn read_awaited(&mut self) -> Result<Option<Bytes>, Error> {
        let From::Awaited(layer, feed, hasher) = &mut self.from else { return Ok(None) };
        let size = self.job.layer.size;
        let failed = |error| store::Error::new("read", &layer.path, error);
        let chunk = loop {
            let chunk = read_some(&mut layer.file, size - layer.position).map_err(failed)?;
            if !chunk.is_empty() || layer.position == size {
                break chunk;
            }
            feed.more(&|| self.shared.is_cancelled())?;
        };
        if !chunk.is_empty() {
            hasher.update(&chunk);
            layer.position += chunk.len() as u64;
            feed.spent(&layer.path, &layer.file, layer.position, size);
            self.keep(&chunk)?;
            return Ok(Some(chunk));
        }
        let (got, path) = (std::mem::take(hasher).finish(), layer.path.clone());
        match got == self.job.layer.digest {
            true => Ok(None),
            false => Err(Error::StoredBlob { path, got }),
        }
    }

    fn read_file(&mut self) -> Result<Option<Bytes>, Error> {
        let From::File(extent, file, hasher) = &mut self.from else { return Ok(None) };
        let chunk = read_some(file, u64::MAX);
        let chunk = chunk.map_err(|error| store::Error::new("read", &extent.path, error))?;
        if !chunk.is_empty() {
            hasher.update(&chunk);
            self.fetched += chunk.len() as u64;
            self.keep(&chunk)?;
            return Ok(Some(chunk));
        }
        let got = std::mem::take(hasher).finish();
        if got != self.job.layer.digest {
            let (digest, path) = (self.job.layer.digest.clone(), extent.path.clone());
            self.keep = None;
            return Err(Error::Content { digest, path, got });
        }
        Ok(None)
    }
}

impl Drop for Chunks<'_> {
    fn drop(&mut self) {
        if let Some(keep) = self.keep.take() {
            keep.leave();
        }
    }
}

/// Starts to fetch what follows the first `position` bytes of a layer, which `hasher` has seen.
fn fetch(
    job: &Job<'_>,
    shared: &Shared<'_>,
    hasher: Hasher,
    position: u64,
) -> tokio::sync::mpsc::Receiver<Piece> {
    let (sender, receiver) = tokio::sync::mpsc::channel(BUFFERS);
    let Source::Registry(registry, handle) = &job.source else { return receiver };
    let (registry, layer, epoch) = (registry.clone(), job.layer.clone(), shared.epoch);
    let download = handle.spawn(async move {
        let mut clock = Stopwatch::start(epoch);
        let mut blob = registry.blob("layer", &layer).after(position, hasher);
        loop {
            let piece = match blob.chunk().await {
                Ok(Some(chunk)) => Piece::Bytes(chunk),
                Ok(None) => Piece::End(clock.stop()),
                Err(error) => Piece::Failed(error),
            };
            let last = !matches!(piece, Piece::Bytes(_));
            let began = Instant::now();
            let sent = sender.send(piece).await;
            clock.waited(began.elapsed());
            if sent.is_err() || last {
                break;
            }
        }
    });
    shared.started(download.abort_handle());
    receiver
}

/// At most a buffer full, and at most `limit` bytes; nothing at the end.
fn read_some(file: &mut impl Read, limit: u64) -> io::Result<Bytes> {
    let mut buffer = vec![0; BUFFER.min(usize::try_from(limit).unwrap_or(BUFFER))];
    let read = loop {
        match file.read(&mut buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    buffer.truncate(read);
    Ok(buffer.into())
}
