//! A tar archive that may hold images: what is where in it.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    fs,
    io::{self, BufRead, BufReader, Read},
    path::PathBuf,
    rc::Rc,
};

use super::{
    Error, Made,
    input::{Input, failed},
    made,
    pack::{BUFFER, Watched, Workshop, decoder},
};
use crate::{
    digest::{Digest, Hasher},
    layer::{self, Item, Limits},
    oci::{Compression, MAX_DOCUMENT, RunConfig},
    pull::Extent,
    source::{Form, Packing},
};

/// Names that are remembered: those of the 1024 layers that an image may have, several times over.
/// What has more is a root file system.
const MAX_NAMES: usize = 20_000;
/// Links from name to name that are followed: docker save wrote one for a layer that it had already.
const MAX_LINKS: usize = 8;

/// What stands under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    File {
        offset: u64,
        size: u64,
    },
    Link(Vec<u8>),
    Other,
    /// Two readers may take two different ones.
    Twice,
}

type Index = BTreeMap<Vec<u8>, Entry>;

/// An archive that was read once, to its end.
#[derive(Debug)]
pub(super) struct Scan {
    packing: Packing,
    packed: Digest,
    content: Digest,
    /// The documents that tell an image from a file system, if they are small enough to be that.
    index: Index,
    extent: Extent,
}

/// Reads all of an archive.
pub(super) fn scan(
    extent: &Extent,
    packing: Packing,
    workshop: &Workshop<'_>,
) -> Result<Scan, Error> {
    let packed = Hashed::new(Watched::new(extent.open()?, workshop));
    let packed_digest = packed.hasher.clone();
    let mut packed = BufReader::with_capacity(BUFFER, packed);
    let mut index = Index::new();
    let listed = (|| {
        let input: Box<dyn Read + '_> = decoder(packing, &mut packed)?;
        // What is not packed is its own content.
        let hashed = Hashed::new(input);
        let content_digest = hashed.hasher.clone();
        let position = Rc::new(Cell::new(0));
        let stream = BufReader::with_capacity(BUFFER, hashed);
        let stream = Counted { stream, position: position.clone() };
        let limits = limits(extent.size, workshop.config.max_expansion);
        let listed = layer::list(stream, &limits, |item| note(&mut index, &item, position.get()));
        Ok::<_, io::Error>(listed.map(|()| content_digest.take().finish()))
    })();
    let file = workshop.shown.clone();
    let content = match listed {
        Ok(Ok(content)) => content,
        Ok(Err(layer::Error::Read(source))) | Err(source) => {
            return Err(match workshop.interrupted(&source) {
                Some(error) => error,
                None if packing == Packing::Oci(Compression::None) => {
                    failed("read", &extent.path)(source)
                }
                None => Error::Inflate { file, source },
            });
        }
        Ok(Err(source)) => return Err(Error::Archive { file, source }),
    };
    // Past the decoder's end: the digest covers every byte (SECURITY R11).
    if let Err(source) = io::copy(&mut packed, &mut io::sink()) {
        let error = workshop.interrupted(&source);
        return Err(error.unwrap_or_else(|| failed("read", &extent.path)(source)));
    }
    let packed = packed_digest.take().finish();
    Ok(Scan { packing, packed, content, index, extent: extent.clone() })
}

/// As a pull limits a layer of that size.
pub(super) fn limits(size: u64, max_expansion: u64) -> Limits {
    crate::pull::limits(size, max_expansion)
}

fn note(index: &mut Index, item: &Item<'_>, offset: u64) {
    let (name, entry) = match item {
        Item::File { name, size } => (*name, Entry::File { offset, size: *size }),
        Item::Link { name, target } => (*name, Entry::Link(target.to_vec())),
        Item::Other { name } => (*name, Entry::Other),
    };
    let has_room = index.len() < MAX_NAMES;
    match index.get_mut(name) {
        // Directories come as often as they like.
        Some(Entry::Other) if entry == Entry::Other => {}
        Some(before) => *before = Entry::Twice,
        None if has_room => _ = index.insert(name.to_vec(), entry),
        None => {}
    }
}

impl Scan {
    /// Whether it holds images. A root file system may have a file of that name.
    pub(super) fn form(&self, input: &Input) -> Result<Option<Form>, Error> {
        let has = |name: &str| self.index.contains_key(name.as_bytes());
        if has("oci-layout") && has("index.json") {
            return Ok(Some(Form::OciArchive));
        }
        let is_docker = has("manifest.json") && !has("bin") && !has("usr") && !has("etc");
        if is_docker {
            return Ok(Some(Form::DockerArchive));
        }
        if self.index.is_empty() {
            return Err(Error::empty(&input.shown));
        }
        Ok(None)
    }

    /// Makes it one whose files can be read where they are.
    pub(super) fn into_place(self, input: &Input, workshop: &Workshop<'_>) -> Result<Place, Error> {
        let file = match self.packing {
            Packing::Oci(Compression::None) => input.path.clone(),
            packing => workshop.unpack(&self.extent, packing)?,
        };
        Ok(Place::Tar { file, index: self.index })
    }

    /// Takes the archive itself for a layer.
    pub(super) fn into_layer(self, input: &Input, workshop: &Workshop<'_>) -> Result<Made, Error> {
        let created = made::time_of(&input.path, input.is_stdin);
        let (digest, diff_id) = (self.packed, self.content);
        match self.packing {
            Packing::Oci(packing) => {
                let layer = made::descriptor(packing, digest.clone(), self.extent.size);
                let (extent, run) = (self.extent, RunConfig::default());
                Ok(Made { layer, diff_id, created, extent, run })
            }
            packing => {
                let made = workshop.repack(&self.extent, packing)?;
                if made.diff_id != diff_id {
                    let what = "its content".to_owned();
                    return Err(super::other_content(&input.shown, what, &diff_id, &made.diff_id));
                }
                Ok(Made { created, ..made })
            }
        }
    }
}

/// Where an image's files are.
#[derive(Debug)]
pub(super) enum Place {
    Dir(PathBuf),
    Tar { file: PathBuf, index: Index },
}

impl Place {
    /// Where a file lies. Names are those that a document may hold.
    pub(super) fn find(&self, name: &str, input: &Input) -> Result<Option<Extent>, Error> {
        match self {
            Place::Dir(dir) => {
                let path = dir.join(name);
                // Layouts that share their blobs link to them.
                let metadata = match fs::metadata(&path) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                    other => other.map_err(failed("open", &path))?,
                };
                let file = metadata.is_file();
                Ok(file.then_some(Extent { path, offset: 0, size: metadata.len() }))
            }
            Place::Tar { file, index } => {
                let mut name = name.as_bytes().to_vec();
                for _ in 0..MAX_LINKS {
                    match index.get(&name) {
                        Some(Entry::File { offset, size }) => {
                            let (path, offset, size) = (file.clone(), *offset, *size);
                            return Ok(Some(Extent { path, offset, size }));
                        }
                        Some(Entry::Link(target)) => name.clone_from(target),
                        Some(Entry::Twice) => {
                            let what = String::from_utf8_lossy(&name).into_owned();
                            let problem = "the archive has it twice".to_owned();
                            return Err(Error::Damaged {
                                file: input.shown.clone(),
                                what,
                                problem,
                            });
                        }
                        Some(Entry::Other) | None => return Ok(None),
                    }
                }
                Ok(None)
            }
        }
    }

    /// Reads a document (SECURITY R16).
    pub(super) fn read(&self, name: &str, input: &Input) -> Result<Option<Vec<u8>>, Error> {
        let Some(extent) = self.find(name, input)? else { return Ok(None) };
        if extent.size > MAX_DOCUMENT {
            let problem = format!("a document of {} bytes; {MAX_DOCUMENT} are read", extent.size);
            let (file, what) = (input.shown.clone(), name.to_owned());
            return Err(Error::Damaged { file, what, problem });
        }
        let mut bytes = Vec::new();
        let read = extent.open()?.read_to_end(&mut bytes);
        read.map_err(failed("read", &extent.path))?;
        Ok(Some(bytes))
    }
}

/// Hashes what is read.
pub(super) struct Hashed<R> {
    stream: R,
    pub(super) hasher: Rc<RefCell<Hasher>>,
}

impl<R> Hashed<R> {
    pub(super) fn new(stream: R) -> Hashed<R> {
        Hashed { stream, hasher: Rc::default() }
    }
}

impl<R: Read> Read for Hashed<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = loop {
            match self.stream.read(out) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.hasher.borrow_mut().update(&out[..count]);
        Ok(count)
    }
}

/// Counts what is used.
struct Counted<R> {
    stream: R,
    position: Rc<Cell<u64>>,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let count = self.stream.read(out)?;
        self.position.set(self.position.get() + count as u64);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.stream.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.stream.consume(count);
        self.position.set(self.position.get() + count as u64);
    }
}
