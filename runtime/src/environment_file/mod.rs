//! Environment files: an image and how to run in it, written down once.
//!
//! ```toml
//! base = "cuda"                            # another environment file
//! image = "nvcr.io/nvidia/pytorch:24.05-py3"
//! mounts = ["${SCRATCH}:/scratch", "./data:/data:ro"]
//! workdir = "/scratch/${USER}"
//!
//! [env]
//! OMP_NUM_THREADS = "8"
//! ```
//!
//! The keys that CSCS's Environment Definition Files (EDF) have mean what they mean there, so that
//! a file can serve both. Read on the submit side, or by `shifter run`; nodes never see it.
//!
//! ```text
//! name ─ search ─► path ─ read ─► text ─ file ─► File, with the line of each value
//!                    ▲                            │ bases
//!                    └────────────────────────────┤
//!                                                 └─ add ─► File ─ resolve ─► Environment
//! ```
//!
//! - Bases count in their order, the file itself last. Single values replace one another, lists are
//!   joined, tables merged.
//! - Variables are the caller's, and expanded last: what was replaced need not be expandable.
//! - Relative paths (image, bases, sources of mounts) begin at the file that says them.
//! - Unlike in EDF an unknown key is an error: a key that silently does nothing costs an afternoon.

#![forbid(unsafe_code)]

mod expand;
mod file;
mod render;
mod resolve;
mod search;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use self::file::File;
use crate::{
    options::{
        Access, CdiName, ContainerName, DeviceSpec, Entrypoint, EnvSpec, Gpu, Home, Ids, MountSpec,
        Mpi, Options,
    },
    report::printable,
    request::Request,
    source::{self, Source},
};

pub(crate) use self::file::KEYS;
pub use self::{
    expand::{ExpandError, Variables},
    search::is_path,
};

/// How many files may inherit from one another in a row, as in EDF.
const MAX_DEPTH: usize = 10;
/// How many files may come together. Each may have several bases.
const MAX_FILES: usize = 100;

/// A value, and where it was said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Said<T> {
    /// The value.
    pub value: T,
    /// Where.
    pub origin: Origin,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// The file, by its absolute path.
    pub path: Arc<Path>,
    /// Counted from 1.
    pub line: usize,
}

/// What a file and its bases say together, for this caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Environment {
    /// The file that was asked for.
    pub path: PathBuf,
    /// The image, by its name or its path.
    pub image: Said<Source>,
    /// In the order in which they are mounted.
    pub mounts: Vec<Said<MountSpec>>,
    /// By their names; an empty value takes a variable away.
    pub env: BTreeMap<String, Said<String>>,
    /// Where to start.
    pub workdir: Option<Said<PathBuf>>,
    /// What goes before the command.
    pub entrypoint: Option<Said<Entrypoint>>,
    /// `writable`.
    pub root: Option<Said<Access>>,
    /// `home`.
    pub home: Option<Said<Home>>,
    /// `remap_root`.
    pub ids: Option<Said<Ids>>,
    /// Devices of the host's.
    pub devices: Vec<Said<DeviceSpec>>,
    /// Which GPUs.
    pub gpu: Option<Said<Gpu>>,
    /// Whose MPI.
    pub mpi: Option<Said<Mpi>>,
    /// The container's name.
    pub name: Option<Said<ContainerName>>,
    /// By their names, with dots where tables were nested. Kept, and not acted on.
    pub annotations: BTreeMap<String, Said<String>>,
}

/// Why there is no environment.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read environment {0}")]
    Read(Chain, #[source] io::Error),
    /// No directory has a file of this name.
    #[error("find environment {chain}: not in {}", list(.dirs))]
    NotFound {
        /// Who asks for it.
        chain: Chain,
        /// Where it was searched for.
        dirs: Vec<PathBuf>,
        /// What may be meant.
        meant: Option<String>,
    },
    /// A file that is its own base, by way of others or not.
    #[error("read environment {0}: it is a base of itself")]
    Cycle(Chain),
    /// Nobody means this.
    #[error("read environment {0}: more than {MAX_DEPTH} files inherit from one another")]
    TooDeep(Chain),
    /// Nor this.
    #[error("read environment {0}: more than {MAX_FILES} files")]
    TooMany(Chain),
    /// What a line says is not what it should be.
    #[error("read environment {origin}: {problem}")]
    Value {
        /// Which line.
        origin: Origin,
        /// What is wrong with it.
        #[source]
        problem: Problem,
    },
    /// There is nothing to run in.
    #[error("read environment {}: neither it nor a base names an image", .0.display())]
    NoImage(PathBuf),
}

/// What can be wrong with a line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// Not TOML.
    #[error("{0}")]
    Syntax(String),
    /// Not text at all.
    #[error("not UTF-8")]
    NotText,
    /// No such key.
    #[error("unknown key {name}")]
    Key {
        /// Which.
        name: String,
        /// The known one that may be meant.
        meant: Option<String>,
    },
    /// Another type than the key's.
    #[error("{name}: expected {expected}, got {got}")]
    Type {
        /// The key.
        name: String,
        /// Its type.
        expected: &'static str,
        /// What is there.
        got: &'static str,
    },
    /// One key, and EDF's name for the same.
    #[error("base and base_environment are the same; say one of them")]
    TwoBases,
    /// A list without words.
    #[error("entrypoint: no words; say false for none")]
    NoWords,
    /// A variable or what looks like one.
    #[error(transparent)]
    Expand(#[from] ExpandError),
    /// Relative to a directory that is not there.
    #[error("{path:?}")]
    Above {
        /// As written.
        path: String,
        /// Why.
        source: io::Error,
    },
    /// Relative to nowhere.
    #[error("~ is nowhere: HOME is not set, and the caller has no home")]
    NoHome,
    /// It begins at a directory whose name is not text.
    #[error("{0:?}: its directory's name is not UTF-8")]
    Encoding(String),
    /// An image's name that is none.
    #[error(transparent)]
    Image(#[from] source::ParseError),
    /// What is written there is none of what it should be.
    #[error("{0}")]
    Spec(String),
}

/// From the file that was asked for, by way of its bases, to the last one.
#[derive(Debug, Clone)]
pub struct Chain {
    bases: Vec<Origin>,
    last: String,
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.bases.iter().try_for_each(|base| write!(f, "{base} → "))?;
        f.write_str(&self.last)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.path.display(), self.line)
    }
}

impl Environment {
    /// Reads a file and its bases. `name` is a path, or the name of a file in one of `dirs`.
    pub fn load(
        name: &str,
        dirs: &[PathBuf],
        variables: Variables<'_>,
    ) -> Result<Environment, Error> {
        let mut reader = Reader { dirs, variables, above: Vec::new(), left: MAX_FILES };
        let path = match search::is_base_path(name) {
            true => std::path::absolute(name).map_err(|e| Error::Read(reader.chain(name), e))?,
            false => reader.find(name, None)?,
        };
        let (path, file) = reader.read(&path)?;
        resolve::resolve(file, path, variables)
    }

    /// What it asks for beyond its image.
    pub fn options(&self) -> Options {
        fn values<T: Clone>(list: &[Said<T>]) -> Vec<T> {
            list.iter().map(|said| said.value.clone()).collect()
        }
        fn value<T: Clone>(said: Option<&Said<T>>) -> Option<T> {
            said.map(|said| said.value.clone())
        }
        let env = self.env.iter().map(|(name, said)| match said.value.as_str() {
            "" => EnvSpec::Unset { name: name.clone() },
            text => EnvSpec::Set { name: name.clone(), value: text.to_owned() },
        });
        Options {
            mounts: values(&self.mounts),
            env: env.collect(),
            workdir: value(self.workdir.as_ref()),
            entrypoint: value(self.entrypoint.as_ref()),
            root: value(self.root.as_ref()),
            ids: value(self.ids.as_ref()),
            home: value(self.home.as_ref()),
            devices: values(&self.devices),
            gpu: value(self.gpu.as_ref()),
            mpi: value(self.mpi.as_ref()),
            name: value(self.name.as_ref()),
            // What a file says holds for all that use it.
            save: None,
        }
    }

    /// What a job that runs in it carries.
    pub fn request(&self) -> Request {
        Request {
            options: self.options(),
            file: Some(self.path.to_string_lossy().into_owned()),
            ..Request::of_image(self.image.value.clone())
        }
    }

    /// The line that asks for a mount.
    pub fn mount(&self, from: &Path, to: &Path) -> Option<&Origin> {
        let is_meant = |spec: &MountSpec| match spec {
            MountSpec::Bind(bind) => {
                Path::new(&bind.source) == from && Path::new(&bind.target) == to
            }
            MountSpec::Tmpfs(_) => false,
        };
        self.mounts.iter().find(|said| is_meant(&said.value)).map(|said| &said.origin)
    }

    /// The line that asks for a device.
    pub fn device(&self, path: &Path) -> Option<&Origin> {
        let is_meant = |said: &&Said<DeviceSpec>| match &said.value {
            DeviceSpec::Path { source, .. } => Path::new(source) == path,
            DeviceSpec::Cdi(_) => false,
        };
        self.devices.iter().find(is_meant).map(|said| &said.origin)
    }

    /// The line that asks for a device, or a GPU, by this name of the Container Device Interface; the
    /// line that asks for GPUs, where it was not by name.
    pub fn gpu(&self, name: Option<&CdiName>) -> Option<&Origin> {
        let gpu = self.gpu.as_ref().filter(|said| match (&said.value, name) {
            (Gpu::Named(names), Some(name)) => names.contains(name),
            (Gpu::Named(_), None) => true,
            _ => name.is_none(),
        });
        let is_meant = |said: &&Said<DeviceSpec>| match &said.value {
            DeviceSpec::Cdi(own) => Some(own) == name,
            DeviceSpec::Path { .. } => false,
        };
        let device = || self.devices.iter().find(is_meant).map(|said| &said.origin);
        gpu.map(|said| &said.origin).or_else(device)
    }

    /// Says which annotations ask for something that is not done here; `None` if none does. Those of
    /// EDF's hooks are orders, unless they switch one off; all others are remarks.
    pub fn unheeded(&self) -> Option<String> {
        let is_order = |(name, said): &(&String, &Said<String>)| {
            let hook = ["com.hooks.", "com.sarus."].iter().any(|hooks| name.starts_with(hooks));
            hook && !(name.ends_with(".enabled") && said.value == "false")
        };
        let mut orders = self.annotations.iter().filter(is_order);
        let (name, said) = orders.next()?;
        let more = match orders.count() {
            0 => String::new(),
            more => format!(" (and {more} more)"),
        };
        let line = format!("{}: annotation {name}{more} is not acted on", said.origin);
        Some(printable(&line))
    }
}

/// Reads files and their bases.
struct Reader<'a> {
    dirs: &'a [PathBuf],
    variables: Variables<'a>,
    /// The files that are being read, with the line that names the next one.
    above: Vec<(PathBuf, Origin)>,
    left: usize,
}

impl Reader<'_> {
    fn chain(&self, last: impl Into<String>) -> Chain {
        let bases = self.above.iter().map(|(_, origin)| origin.clone()).collect();
        Chain { bases, last: last.into() }
    }

    /// All that a file and its bases say, and where it is.
    fn read(&mut self, path: &Path) -> Result<(PathBuf, File), Error> {
        let refuse = |reader: &Self, error| Error::Read(reader.chain(shown(path)), error);
        let path = &search::without_parents(path).map_err(|e| refuse(self, e))?;
        let chain = |reader: &Self| reader.chain(shown(path));
        // The same file by whichever path.
        let identity = path.canonicalize().map_err(|e| Error::Read(chain(self), e))?;
        if self.above.iter().any(|(above, _)| *above == identity) {
            return Err(Error::Cycle(chain(self)));
        }
        if self.above.len() >= MAX_DEPTH {
            return Err(Error::TooDeep(chain(self)));
        }
        self.left = self.left.checked_sub(1).ok_or_else(|| Error::TooMany(chain(self)))?;
        let bytes = search::read(path).map_err(|e| Error::Read(chain(self), e))?;
        let text = String::from_utf8(bytes).map_err(|error| not_text(path, &error))?;
        let mut file = File::parse(&text, path)?;

        let dir = path.parent().unwrap_or(Path::new("/"));
        let mut whole = File::default();
        for Said { value, origin } in std::mem::take(&mut file.bases) {
            let refuse = |problem| Error::Value { origin: origin.clone(), problem };
            let name = expand::expand(&value, self.variables).map_err(|e| refuse(e.into()))?;
            self.above.push((identity.clone(), origin.clone()));
            let base = match search::is_base_path(&name) {
                true => search::absolute(&name, dir).map_err(refuse)?.into(),
                false => self.find(&name, Some(dir))?,
            };
            whole.add(self.read(&base)?.1);
            self.above.pop();
        }
        whole.add(file);
        Ok((path.clone(), whole))
    }

    fn find(&self, name: &str, beside: Option<&Path>) -> Result<PathBuf, Error> {
        search::find(name, self.dirs).ok_or_else(|| Error::NotFound {
            chain: self.chain(format!("{name:?}")),
            dirs: self.dirs.to_owned(),
            meant: search::nearest(name, self.dirs, beside),
        })
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

fn not_text(path: &Path, error: &std::string::FromUtf8Error) -> Error {
    let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
    let line = 1 + good.iter().filter(|byte| **byte == b'\n').count();
    Error::Value { origin: Origin { path: path.into(), line }, problem: Problem::NotText }
}

fn list(dirs: &[PathBuf]) -> String {
    let dirs: Vec<_> = dirs.iter().map(|dir| dir.display().to_string()).collect();
    dirs.join(", ")
}
