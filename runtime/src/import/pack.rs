//! Reading, unpacking and packing, with somebody to tell and a signal to look for.

use std::{
    cell::{Cell, OnceCell, RefCell},
    collections::VecDeque,
    fs::File,
    io::{self, BufReader, Read, Write},
    os::fd::AsFd as _,
    path::PathBuf,
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, poll},
};

use super::{
    Error, Made, Options,
    archive::Hashed,
    input::{Input, failed},
    made,
};
use crate::{
    config::Config,
    digest::Hasher,
    oci::{Compression, RunConfig},
    pull::{self, Event, Extent, To},
    source::Packing,
    store::{Draft, Lease, Store},
    sys::interrupt::Caught,
};

/// The unit in which bytes are read.
pub(super) const BUFFER: usize = 256 << 10;
/// Content of one gzip member, in bytes: all cores work at one layer, each at its own.
const MEMBER: usize = 1 << 20;
/// The fastest that compresses at all. zstd would be smaller in less time, but Debian's umoci of 2023
/// reads no such layer.
const LEVEL: flate2::Compression = flate2::Compression::new(1);
/// How often progress is told.
const TICK: Duration = Duration::from_millis(100);
/// The same, for poll(2).
const TICK_MS: u8 = 100;

type Tell<'a> = &'a mut dyn FnMut(Event<'_>);

/// The standard input. Who sends may be silent for ever: a signal ends the wait.
struct Stdin<'w, 'a> {
    file: File,
    workshop: &'w Workshop<'a>,
}

impl Read for Stdin<'_, '_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut wanted = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut wanted, TICK_MS) {
                Ok(0) | Err(Errno::EINTR) => self.workshop.check().map_err(io::Error::other)?,
                other => return other.map_err(io::Error::from).and_then(|_| self.file.read(buf)),
            }
        }
    }
}

/// All that an import works with.
pub(super) struct Workshop<'a> {
    pub(super) config: &'a Config,
    pub(super) options: &'a Options,
    /// What messages call the input.
    pub(super) shown: String,
    /// Where archives are unpacked, made when the first one is: most need not be.
    store: OnceCell<Store>,
    caught: Caught,
    tell: RefCell<Tell<'a>>,
    kept: RefCell<Kept>,
    told: Cell<Instant>,
    read: Cell<u64>,
}

/// What has to be there until the image is. It goes when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Archives that were unpacked, and layers that were made.
    spools: Vec<Draft>,
    /// Those that are in the store: nobody else knows yet that they are needed.
    pins: Vec<Lease>,
}

impl<'a> Workshop<'a> {
    pub(super) fn open(
        input: &Input,
        options: &'a Options,
        config: &'a Config,
        tell: Tell<'a>,
    ) -> Workshop<'a> {
        Workshop {
            config,
            options,
            shown: input.shown.clone(),
            store: OnceCell::new(),
            caught: Caught::install(),
            tell: RefCell::new(tell),
            kept: RefCell::default(),
            told: Cell::new(Instant::now()),
            read: Cell::new(0),
        }
    }

    /// Gives back what is needed longer.
    pub(super) fn done(self) -> (Tell<'a>, Kept) {
        (self.tell.into_inner(), self.kept.into_inner())
    }

    fn store(&self) -> Result<&Store, Error> {
        if self.store.get().is_none() {
            // It is one thread's: nobody else sets it meanwhile.
            let _ = self.store.set(Store::create(&self.config.store)?);
        }
        Ok(self.store.get().expect("set above"))
    }

    /// The settings of `--env` and its kin are for what has none.
    pub(super) fn refuse_settings(&self, what: &'static str) -> Result<(), Error> {
        match self.options.run == RunConfig::default() {
            true => Ok(()),
            false => Err(Error::HasConfig { file: self.shown.clone(), what }),
        }
    }

    /// Tells what happens.
    pub(super) fn tell(&self, event: Event<'_>) {
        (self.tell.borrow_mut())(event);
    }

    /// Says a line.
    pub(super) fn say(&self, line: &str) {
        self.tell(Event::Trouble(line));
    }

    /// Whether it is time to stop.
    pub(super) fn check(&self) -> Result<(), Error> {
        let signal = self.caught.signal();
        signal.map_or(Ok(()), |signal| Err(pull::Error::Interrupted(signal).into()))
    }

    /// Whether that is why reading failed.
    pub(super) fn interrupted(&self, _error: &io::Error) -> Option<Error> {
        self.check().err()
    }

    /// Brings the standard input into a file: what it is may be written at its end.
    pub(super) fn spool(&self, input: &Input) -> Result<Input, Error> {
        if !input.is_stdin {
            return Ok(input.clone());
        }
        let wrong = |source| Error::System { op: "read", path: "standard input".into(), source };
        let file = io::stdin().as_fd().try_clone_to_owned().map_err(wrong)?;
        let path = self.copy(Stdin { file: file.into(), workshop: self }, wrong)?;
        Ok(Input { path, ..input.clone() })
    }

    /// Unpacks an archive into a file, to find what is in it.
    pub(super) fn unpack(&self, extent: &Extent, packing: Packing) -> Result<PathBuf, Error> {
        let wrong = |source| Error::Inflate { file: self.shown.clone(), source };
        let packed = BufReader::with_capacity(BUFFER, extent.open()?);
        self.copy(decoder(packing, packed).map_err(wrong)?, wrong)
    }

    fn copy(&self, from: impl Read, wrong: impl Fn(io::Error) -> Error) -> Result<PathBuf, Error> {
        let mut spool = self.store()?.spool()?;
        let mut from = Watched::new(from, self);
        let mut buffer = vec![0; BUFFER];
        loop {
            let count = match from.read(&mut buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(self.interrupted(&error).unwrap_or_else(|| wrong(error))),
                Ok(0) => break,
                Ok(count) => count,
            };
            spool.write_all(&buffer[..count]).map_err(|error| spool.error(error))?;
        }
        let path = spool.path().to_owned();
        self.kept.borrow_mut().spools.push(spool);
        Ok(path)
    }

    /// Packs an archive anew, in a way that layers have.
    pub(super) fn repack(&self, extent: &Extent, packing: Packing) -> Result<Made, Error> {
        let wrong = |source: io::Error| {
            let error = Error::Inflate { file: self.shown.clone(), source };
            self.check().err().unwrap_or(error)
        };
        let packed = Watched::new(extent.open()?, self);
        let mut content =
            decoder(packing, BufReader::with_capacity(BUFFER, packed)).map_err(wrong)?;
        let mut buffer = vec![0; BUFFER];
        self.layer(|out| {
            loop {
                match content.read(&mut buffer) {
                    Ok(0) => return Ok(()),
                    Ok(count) => out.put(&buffer[..count])?,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(wrong(error)),
                }
            }
        })
    }

    /// Makes a gzip layer of the archive that `write` writes.
    pub(super) fn layer(
        &self,
        write: impl FnOnce(&mut Packer<'_, 'a>) -> Result<(), Error>,
    ) -> Result<Made, Error> {
        let store = self.store()?;
        let mut spool = store.spool()?;
        let (jobs, queue) = mpsc::channel::<Member>();
        let queue = Mutex::new(queue);
        let workers = thread::available_parallelism().map_or(1, usize::from);
        let (packed, content, size) = thread::scope(|scope| {
            for _ in 0..workers {
                scope.spawn(|| {
                    while let Some(member) = next(&queue) {
                        // Nobody waits for it any more if packing has failed.
                        let _ = member.done.send(compress(&member.content));
                    }
                });
            }
            let mut packer = Packer {
                jobs,
                waiting: VecDeque::new(),
                most: 2 * workers,
                buffer: Vec::with_capacity(MEMBER),
                content: Hasher::new(),
                packed: Hasher::new(),
                size: 0,
                spool: &mut spool,
                workshop: self,
            };
            write(&mut packer)?;
            packer.finish()
        })?;
        let layer = made::descriptor(Compression::Gzip, packed, size);
        let path = match self.options.to {
            To::Node => {
                let path = spool.path().to_owned();
                self.kept.borrow_mut().spools.push(spool);
                path
            }
            To::Store | To::Both => {
                let pin = store.pin(&layer.digest)?;
                self.kept.borrow_mut().pins.push(pin);
                store.blobs().accept(spool, &layer)?
            }
        };
        let extent = Extent { path, offset: 0, size };
        Ok(Made {
            layer,
            diff_id: content,
            created: String::new(),
            extent,
            run: RunConfig::default(),
        })
    }

    /// The digest of a part of a file.
    pub(super) fn digest(&self, extent: &Extent) -> Result<crate::Digest, Error> {
        let mut hashed = Hashed::new(Watched::new(extent.open()?, self));
        if let Err(source) = io::copy(&mut hashed, &mut io::sink()) {
            let error = self.interrupted(&source);
            return Err(error.unwrap_or_else(|| failed("read", &extent.path)(source)));
        }
        Ok(hashed.hasher.take().finish())
    }

    /// Takes note of bytes that were read, tells of them, and looks for a signal.
    pub(super) fn count(&self, bytes: usize) -> Result<(), Error> {
        self.read.set(self.read.get() + bytes as u64);
        if self.told.get().elapsed() >= TICK {
            self.told.set(Instant::now());
            let (what, bytes) = (self.shown.as_str(), self.read.get());
            (self.tell.borrow_mut())(Event::Reading { what, bytes });
        }
        self.check()
    }
}

/// Reads what was packed in any way.
pub(super) fn decoder<'a>(
    packing: Packing,
    packed: impl io::BufRead + 'a,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match packing {
        Packing::Oci(compression) => pull::decoder(compression, packed)?,
        Packing::Xz => Box::new(liblzma::bufread::XzDecoder::new_multi_decoder(packed)),
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(packed)),
    })
}

/// A stream whose bytes are counted, and that ends when a signal comes.
pub(super) struct Watched<'w, 'a, R> {
    stream: R,
    workshop: &'w Workshop<'a>,
}

impl<'w, 'a, R> Watched<'w, 'a, R> {
    pub(super) fn new(stream: R, workshop: &'w Workshop<'a>) -> Watched<'w, 'a, R> {
        Watched { stream, workshop }
    }
}

impl<R: Read> Read for Watched<'_, '_, R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(out)?;
        // Who gets this asks the workshop why.
        self.workshop.count(count).map_err(|_| io::Error::other("a signal"))?;
        Ok(count)
    }
}

/// A part of a layer on its way to one of the threads that pack.
struct Member {
    content: Vec<u8>,
    done: mpsc::Sender<Vec<u8>>,
}

fn next(queue: &Mutex<mpsc::Receiver<Member>>) -> Option<Member> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).recv().ok()
}

fn compress(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::with_capacity(content.len() / 2), LEVEL);
    let written = encoder.write_all(content).and_then(|()| encoder.finish());
    written.expect("writing to memory does not fail")
}

/// Takes a layer's archive and packs it, on all cores.
pub(super) struct Packer<'w, 'a> {
    jobs: mpsc::Sender<Member>,
    /// Members that are being packed, in order.
    waiting: VecDeque<mpsc::Receiver<Vec<u8>>>,
    most: usize,
    buffer: Vec<u8>,
    content: Hasher,
    packed: Hasher,
    size: u64,
    spool: &'w mut Draft,
    workshop: &'w Workshop<'a>,
}

impl Packer<'_, '_> {
    /// Takes the archive's next bytes.
    pub(super) fn put(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.content.update(bytes);
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(MEMBER - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == MEMBER {
                self.hand_over()?;
            }
        }
        Ok(())
    }

    fn hand_over(&mut self) -> Result<(), Error> {
        let content = std::mem::replace(&mut self.buffer, Vec::with_capacity(MEMBER));
        let (done, member) = mpsc::channel();
        self.jobs.send(Member { content, done }).expect("the threads wait for this to be dropped");
        self.waiting.push_back(member);
        if self.waiting.len() > self.most { self.write_one() } else { Ok(()) }
    }

    fn write_one(&mut self) -> Result<(), Error> {
        let Some(member) = self.waiting.pop_front() else { return Ok(()) };
        let packed = member.recv().expect("every member is packed");
        self.packed.update(&packed);
        self.size += packed.len() as u64;
        let written = self.spool.write_all(&packed);
        written.map_err(|error| self.spool.error(error))?;
        self.workshop.check()
    }

    fn finish(mut self) -> Result<(crate::Digest, crate::Digest, u64), Error> {
        if !self.buffer.is_empty() {
            self.hand_over()?;
        }
        while !self.waiting.is_empty() {
            self.write_one()?;
        }
        Ok((self.packed.finish(), self.content.finish(), self.size))
    }
}
