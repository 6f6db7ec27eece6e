//! What a run asks for beyond its image, whoever says it: the flags of `shifter run`, a file that
//! describes an environment, or the options of `srun`, which travel as JSON.
//!
//! ```text
//! flags, file, carrier ── parse ──► Options ── over ──► Options ── container::plan ──► Plan
//! ```
//!
//! Each value is read once, here, and is then a type that cannot hold anything else. Written out
//! again it is the text that people write. Sources of mounts are absolute in it: the text may be
//! read on another node.

#![forbid(unsafe_code)]

mod device;
mod env;
mod mount;
mod mpi;
mod table;

use std::{borrow::Cow, fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

pub use device::{CdiName, DeviceSpec, Gpu};
pub(crate) use device::{is_cdi_device, is_cdi_kind};
pub use env::{EnvFileError, EnvSpec, read_env_file};
pub use mount::{Access, Bind, Exec, MountSpec, Tmpfs};
pub(crate) use mount::{Known, absolute, check_target};
pub(crate) use mpi::is_stack_name;
pub use mpi::{CLibrary, Mpi, Stack};
pub use table::{Asked, Batch, Caller, Flag, Front, Read, Row, TABLE, Tag, Takes};

/// Longest name of a container, in bytes: it becomes a file name.
const MAX_NAME: usize = 64;

/// What one run asks for; `None` and empty lists where nothing is said.
///
/// ```
/// use runtime::options::{Access, Options};
///
/// let file = Options { mounts: vec!["/scratch".parse()?], ..Options::default() };
/// let flags = Options { root: Some(Access::ReadOnly), ..Options::default() };
/// let options = flags.over(file);
/// assert_eq!(serde_json::to_string(&options)?, r#"{"mounts":["/scratch:/scratch"],"root":"ro"}"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Options {
    /// Mounted after all that is mounted anyway: in this order, but no directory after what lies in
    /// it. The sources must exist.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mounts: Vec<MountSpec>,
    /// Variables; they win over all others.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<EnvSpec>,
    /// Where to start. Absolute, and must exist inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<PathBuf>,
    /// What goes before the command.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Entrypoint>,
    /// Whether the image's tree can be written to, in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root: Option<Access>,
    /// Who the caller is inside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ids: Option<Ids>,
    /// Whether the caller's home directory is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub home: Option<Home>,
    /// Devices that must be there, or be there under another name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub devices: Vec<DeviceSpec>,
    /// Which GPUs; where nothing is said, the settings decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// Whose MPI; where nothing is said, the settings decide.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mpi: Option<Mpi>,
    /// The container that keeps what is written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<ContainerName>,
    /// The file that the container becomes when its command has ended. Absolute.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub save: Option<PathBuf>,
}

impl Options {
    /// Lays these options over others: single values replace theirs, a variable the one of its
    /// name, and lists follow theirs, without what both say.
    #[must_use]
    pub fn over(self, base: Options) -> Options {
        let is_said = |env: &EnvSpec| self.env.iter().any(|own| own.name() == env.name());
        let env = base.env.into_iter().filter(|env| !is_said(env));
        let mut mounts = base.mounts;
        mounts.retain(|mount| !self.mounts.contains(mount));
        let mut devices = base.devices;
        devices.retain(|device| !self.devices.contains(device));
        Options {
            env: env.chain(self.env.iter().cloned()).collect(),
            mounts: [mounts, self.mounts].concat(),
            workdir: self.workdir.or(base.workdir),
            entrypoint: self.entrypoint.or(base.entrypoint),
            root: self.root.or(base.root),
            ids: self.ids.or(base.ids),
            home: self.home.or(base.home),
            devices: [devices, self.devices].concat(),
            gpu: self.gpu.or(base.gpu),
            mpi: self.mpi.or(base.mpi),
            name: self.name.or(base.name),
            save: self.save.or(base.save),
        }
    }
}

/// Reads what somebody types as `--entrypoint`: a command without arguments, nothing for none, or as
/// in podman a JSON list of words.
impl FromStr for Entrypoint {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Entrypoint, ParseError> {
        let refuse = |problem| Err(ParseError::new("entrypoint", text, problem));
        if text.contains('\0') {
            return refuse("it holds a NUL byte");
        }
        if text.is_empty() {
            return Ok(Entrypoint::Off);
        }
        if !text.starts_with('[') {
            return Ok(Entrypoint::Given(vec![text.to_owned()]));
        }
        match serde_json::from_str::<Vec<String>>(text) {
            Ok(words) if words.is_empty() => Ok(Entrypoint::Off),
            Ok(words) => Ok(Entrypoint::Given(words)),
            Err(_) => refuse("what begins with [ must be a JSON list of strings"),
        }
    }
}

/// Reads a working directory.
pub fn workdir(text: &str) -> Result<PathBuf, ParseError> {
    match PathBuf::from(text) {
        path if text.contains('\0') || !path.is_absolute() => {
            Err(ParseError::new("working directory", text, "it must be an absolute path"))
        }
        path => Ok(path),
    }
}

/// Why a text is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?}: {problem}")]
pub struct ParseError {
    what: &'static str,
    text: String,
    problem: Cow<'static, str>,
}

impl ParseError {
    fn new(what: &'static str, text: &str, problem: impl Into<Cow<'static, str>>) -> ParseError {
        ParseError { what, text: text.to_owned(), problem: problem.into() }
    }
}

/// Derives the conversions that serde goes through from `FromStr` and `Display`.
macro_rules! as_text {
    ($($type:ty),*) => {$(
        impl TryFrom<String> for $type {
            type Error = ParseError;

            fn try_from(text: String) -> Result<$type, ParseError> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }
    )*};
}
as_text!(MountSpec, EnvSpec, DeviceSpec, CdiName, Gpu, Mpi, ContainerName);

/// What goes before the command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Entrypoint {
    /// The image's own.
    Image,
    /// Nothing, and without a command there is none: the image's `Cmd` goes with its entrypoint.
    Off,
    /// These words. The image's `Cmd` were arguments of another program, and is left out.
    Given(Vec<String>),
}

/// Who the caller is inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ids {
    /// The same numbers as on the host.
    Own,
    /// User and group 0, who seems to own what it is given: package managers want it so.
    Root,
}

/// Whether the caller's home directory is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Home {
    /// At the path that it has on the host.
    Mounted,
    /// Not there. The working directory is, though it may lie in it.
    LeftOut,
}

/// The name of a container that stays: letters, digits, `_`, `.` and `-`, as in docker. One of a job has
/// `@` and the job behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerName(String);

/// A job, as far as it has containers: its number, and if it was queued again, for which time. What it
/// wrote before that is not its to find.
///
/// ```
/// use runtime::options::{ContainerName, Job};
///
/// let name: ContainerName = "lab".parse()?;
/// let job = Job { id: 17, restart: 1 };
/// assert_eq!(name.of_job(job).as_str(), "lab@17.1");
/// assert_eq!("lab@17.1".parse::<ContainerName>()?.job(), Some(job));
/// # Ok::<(), runtime::options::ParseError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Job {
    /// Slurm's number for it.
    pub id: u32,
    /// How often it was queued again.
    pub restart: u32,
}

impl Job {
    /// The job that a task is of, by its environment; `None` if there is none.
    pub fn of_this_task(env: impl Fn(&str) -> Option<String>) -> Option<Job> {
        let number = |name| env(name)?.parse().ok();
        let restart = number("SLURM_RESTART_COUNT").unwrap_or(0);
        Some(Job { id: number("SLURM_JOB_ID")?, restart })
    }
}

impl FromStr for Job {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Job, Self::Err> {
        let (id, restart) = text.split_once('.').unwrap_or((text, "0"));
        Ok(Job { id: id.parse()?, restart: restart.parse()? })
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.restart {
            0 => write!(f, "{}", self.id),
            restart => write!(f, "{}.{restart}", self.id),
        }
    }
}

impl ContainerName {
    /// The name, fit to be a file's.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The container of this name that a job has for itself. One that is a job's already stays so.
    #[must_use]
    pub fn of_job(&self, job: Job) -> ContainerName {
        match self.job() {
            Some(_) => self.clone(),
            None => ContainerName(format!("{self}@{job}")),
        }
    }

    /// The job whose container it is, if it is one's.
    pub fn job(&self) -> Option<Job> {
        self.0.split_once('@')?.1.parse().ok()
    }
}

impl FromStr for ContainerName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<ContainerName, ParseError> {
        let refuse = |problem: String| Err(ParseError::new("container name", text, problem));
        if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            return refuse("it must begin with a letter or a digit".to_owned());
        }
        let (name, job) = text.split_once('@').map_or((text, None), |(n, job)| (n, Some(job)));
        if name.contains(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c))) {
            return refuse("it may hold letters, digits, _, . and -".to_owned());
        }
        if name.len() > MAX_NAME {
            return refuse(format!("it may have {MAX_NAME} characters at most"));
        }
        match job.map(str::parse::<Job>) {
            None => Ok(ContainerName(text.to_owned())),
            Some(Ok(job)) => Ok(ContainerName(format!("{name}@{job}"))),
            Some(Err(_)) => refuse("behind @ comes the number of a job".to_owned()),
        }
    }
}

impl fmt::Display for ContainerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_later_wins() {
        let base = Options {
            mounts: vec!["/a".parse().unwrap()],
            env: vec!["A=1".parse().unwrap(), "B=1".parse().unwrap()],
            workdir: Some("/a".into()),
            home: Some(Home::LeftOut),
            ..Options::default()
        };
        let over = Options {
            mounts: vec!["/b".parse().unwrap()],
            env: vec!["A-".parse().unwrap(), "C".parse().unwrap()],
            workdir: Some("/b".into()),
            ids: Some(Ids::Root),
            ..Options::default()
        };
        let both = over.over(base.clone());
        let json = r#"{"mounts":["/a:/a","/b:/b"],"env":["B=1","A-","C"],"workdir":"/b","ids":"root","home":"left-out"}"#;
        assert_eq!(serde_json::to_string(&both).unwrap(), json);
        assert_eq!(serde_json::from_str::<Options>(json).unwrap(), both);
        assert_eq!(Options::default().over(base.clone()), base);
        assert_eq!(base.clone().over(Options::default()), base);
    }

    #[test]
    fn all_that_can_be_said_survives_json() {
        let options = Options {
            mounts: vec!["/a:/b:ro".parse().unwrap(), MountSpec::tmpfs("/c:size=1m").unwrap()],
            env: vec!["A==\n".parse().unwrap()],
            workdir: Some("/".into()),
            entrypoint: Some(Entrypoint::Given(vec!["a b".into()])),
            root: Some(Access::ReadOnly),
            ids: Some(Ids::Own),
            home: Some(Home::Mounted),
            devices: ["/dev/fuse:/dev/other", "a.com/b=c"].map(|text| text.parse().unwrap()).into(),
            gpu: Some("nvidia.com/gpu=0,nvidia.com/gpu=1".parse().unwrap()),
            mpi: Some("cray+glibc".parse().unwrap()),
            name: Some("a.B-1_".parse().unwrap()),
            save: Some("/a b.sqsh".into()),
        };
        let json = serde_json::to_string(&options).unwrap();
        assert_eq!(serde_json::from_str::<Options>(&json).unwrap(), options, "{json}");
        assert_eq!(serde_json::from_str::<Options>("{}").unwrap(), Options::default());
        for json in
            [r#"{"mount":[]}"#, r#"{"mounts":["a"]}"#, r#"{"name":"../x"}"#, r#"{"gpu":"x"}"#]
        {
            assert!(serde_json::from_str::<Options>(json).is_err(), "{json} was accepted");
        }
    }

    #[test]
    fn values_are_read_or_refused() {
        fn problem<T: FromStr<Err = ParseError> + fmt::Debug>(text: &str) -> String {
            text.parse::<T>().expect_err(text).to_string()
        }
        for (text, says) in
            [("", "no name"), ("=1", "no name"), ("-", "no name"), ("A B", "blanks")]
        {
            assert!(problem::<EnvSpec>(text).contains(says), "{text:?}");
        }
        assert!(problem::<EnvSpec>("A=\0").contains("NUL"));
        for (text, says) in [
            ("nvidia.com/gpu=", "a device's name"),
            ("dev/null", "absolute"),
            ("/dev/null:x", "absolute"),
            ("/dev/null:/x:r", "leave it out"),
            ("/dev/../x", ".."),
            ("/a:/b:rwm:c", "PATH[:TARGET]"),
        ] {
            assert!(problem::<DeviceSpec>(text).contains(says), "{}", problem::<DeviceSpec>(text));
        }
        let long = "a".repeat(65);
        for name in
            ["", ".", "..", "-a", "a/b", "a\n", "ü", &long, "a@", "a@x", "a@1.", "@1", "a@1@2"]
        {
            assert!(name.parse::<ContainerName>().is_err(), "{name:?} is a name");
        }
        let name: ContainerName = "a@007.0".parse().expect("a job's");
        assert_eq!((name.as_str(), name.job()), ("a@7", Some(Job { id: 7, restart: 0 })));
        assert_eq!(name.of_job(Job { id: 8, restart: 0 }), name);
    }
}
