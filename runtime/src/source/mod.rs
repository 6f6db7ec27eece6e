//! What an image is named by where it is to be run: its name in a registry, or a path.
//!
//! | as typed | what it is |
//! |---|---|
//! | `ubuntu:24.04`, `docker://…` | the name of an image in a registry ([`Reference`]) |
//! | `./x.sqsh`, `/x.tar`, `~/layout:NAME`, `rootfs/`, `x.sqsh` | what lies there, whatever it is |
//! | `oci:DIR`, `oci-archive:FILE`, `docker-archive:FILE` | what lies there, if it is that; `:NAME` may follow |
//!
//! A path is made absolute where it is typed. What lies there is told by its content, and looked at
//! twice: where a job is submitted, for a typing error to be told at once, and where it runs.
//! Both a path and the name after it may hold colons: what there is decides.

#![forbid(unsafe_code)]

mod kind;

use std::{
    ffi::OsStr,
    fmt, fs, io,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

pub use self::kind::Foreign;
#[cfg(feature = "pull")]
pub(crate) use self::kind::Packing;
pub(crate) use self::kind::{Kind, of};
use crate::{
    options,
    reference::{self, Reference},
};

/// What an image is named by where it is to be run.
///
/// ```
/// use std::path::Path;
/// use runtime::Source;
/// let typed = |text| Source::typed(text, Some(Path::new("/data")), None).unwrap().to_string();
/// assert_eq!(typed("ubuntu"), "docker.io/library/ubuntu:latest");
/// assert_eq!(typed("./x.sqsh"), "/data/x.sqsh");
/// assert_eq!(typed("oci:layout:1.0"), "oci:/data/layout:1.0");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Source {
    /// An image in a registry, which may be in a store as well.
    Registry(Reference),
    /// An image in a file or directory.
    OnDisk(OnDisk),
}

/// An image in a file or directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OnDisk {
    form: Option<Form>,
    /// Absolute; the name of one of several images may follow after a colon.
    path: String,
}

/// What a prefix says that a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Layout,
    OciArchive,
    DockerArchive,
}

/// The prefixes, as skopeo, podman and apptainer have them.
const FORMS: [(&str, Form); 3] = [
    ("oci:", Form::Layout),
    ("oci-archive:", Form::OciArchive),
    ("docker-archive:", Form::DockerArchive),
];

/// Prefixes of other tools, what they stand for, and what to do instead.
const OTHERS: [(&[&str], &str, &str); 5] = [
    (
        &["docker-daemon:", "dockerd://"],
        "docker's daemon is not asked for images",
        "save it (docker save IMAGE >image.tar) and name ./image.tar",
    ),
    (
        &["containers-storage:", "podman://"],
        "podman's own store is not read",
        "save it (podman save IMAGE >image.tar) and name ./image.tar",
    ),
    (
        &["dir:"],
        "a directory of skopeo's is not read",
        "name a root file system by its path alone, or copy: skopeo copy dir:… oci:…",
    ),
    (
        &["library://", "shub://", "oras://", "sif:"],
        "images of Singularity or Apptainer (SIF) are not read",
        "unpack it (apptainer build --sandbox DIR IMAGE) and name ./DIR",
    ),
    (&["file:/"], "a URL is not a path", "name the path alone"),
];

/// How names end that are files without a path before them: nobody has such a repository.
const SUFFIXES: [&str; 11] = [
    ".sqsh",
    ".sqfs",
    ".squashfs",
    ".sif",
    ".tar",
    ".tar.gz",
    ".tgz",
    ".tar.xz",
    ".tar.bz2",
    ".tar.zst",
    ".tar.zstd",
];

/// Why a text names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Not a name, and nothing like a path.
    #[error(transparent)]
    Reference(#[from] reference::ParseError),
    /// What other tools read.
    #[error("image {text:?}: {problem}")]
    Other {
        /// As it was typed.
        text: String,
        /// Why not here.
        problem: &'static str,
        /// What to do instead.
        remedy: &'static str,
    },
    /// A path that leads nowhere.
    #[error("image {text:?}: {problem}")]
    Path {
        /// As it was typed.
        text: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

/// Why there is no image where a path leads.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Neither an image nor a root file system.
    #[error("{file}: {what}")]
    Foreign {
        /// The file.
        file: String,
        /// What it is.
        what: Foreign,
    },
    /// An image, and not what the prefix says.
    #[error("{file}: it is no {form}")]
    OtherForm {
        /// The file.
        file: String,
        /// What it should be.
        form: &'static str,
    },
    /// The system's answer.
    #[error("open {}", path.display())]
    Open {
        /// What was tried to be opened.
        path: PathBuf,
        /// Its answer.
        source: io::Error,
    },
}

impl Source {
    /// Reads what somebody has typed who stands in `cwd` and has `home`.
    pub fn typed(
        text: &str,
        cwd: Option<&Path>,
        home: Option<&Path>,
    ) -> Result<Source, ParseError> {
        if let Some((_, problem, remedy)) =
            OTHERS.iter().find(|(prefixes, ..)| prefixes.iter().any(|p| text.starts_with(p)))
        {
            return Err(ParseError::Other { text: text.to_owned(), problem, remedy });
        }
        let prefixed = FORMS
            .iter()
            .find_map(|(prefix, form)| text.strip_prefix(prefix).map(|path| (Some(*form), path)));
        let (form, path) = match prefixed {
            Some(prefixed) => prefixed,
            None if is_path(text) => (None, text),
            None => return Ok(Source::Registry(text.parse()?)),
        };
        let refuse = |problem| ParseError::Path { text: text.to_owned(), problem };
        if path.is_empty() {
            return Err(refuse("it names no path"));
        }
        let path = options::absolute(path, cwd, home).map_err(refuse)?;
        // Without what says nothing: the same path by another spelling is the same image.
        let path: PathBuf = Path::new(&path).components().collect();
        let path = path.into_os_string().into_string().expect("it was text before");
        Ok(Source::OnDisk(OnDisk { form, path }))
    }
}

/// Whether a text without a prefix is a path: it looks like one, or nothing else would be called so.
fn is_path(text: &str) -> bool {
    let has_suffix = || SUFFIXES.iter().any(|suffix| text.ends_with(suffix));
    let has_more = || text.contains([':', '@', '#']);
    text.starts_with(['/', '.', '~']) || text.ends_with('/') || has_suffix() && !has_more()
}

/// Reads what [`Source`] displays: no path is relative.
impl FromStr for Source {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Source, ParseError> {
        match Source::typed(text, Some(Path::new("/")), None)? {
            Source::OnDisk(place) if place.to_string() != text => {
                let problem = "it is not an absolute path";
                Err(ParseError::Path { text: text.to_owned(), problem })
            }
            source => Ok(source),
        }
    }
}

impl TryFrom<String> for Source {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Source, ParseError> {
        text.parse()
    }
}

impl From<Source> for String {
    fn from(source: Source) -> String {
        source.to_string()
    }
}

impl From<Reference> for Source {
    fn from(reference: Reference) -> Source {
        Source::Registry(reference)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Registry(reference) => reference.fmt(f),
            Source::OnDisk(place) => place.fmt(f),
        }
    }
}

impl fmt::Display for OnDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let prefix = FORMS.iter().find(|(_, form)| Some(*form) == self.form);
        write!(f, "{}{}", prefix.map_or("", |(prefix, _)| prefix), self.path)
    }
}

impl OnDisk {
    /// Looks whether there is something that can be run, as far as that is told by a glance.
    pub fn check(&self) -> Result<(), Error> {
        self.find().map(|_| ())
    }

    /// Finds what there is: the path, the name of one of its images, and what it is.
    pub(crate) fn find(&self) -> Result<(PathBuf, Option<String>, Kind), Error> {
        let (path, name) = split(Path::new(&self.path))?;
        let kind = of(&path)?;
        let has_form = match (self.form, kind) {
            (None, _) | (Some(Form::Layout), Kind::Layout) => true,
            // Which archive it is, is seen when all of it has been read.
            (Some(Form::OciArchive | Form::DockerArchive), Kind::Tar(_)) => true,
            (Some(_), _) => false,
        };
        let form = self.form.filter(|_| !has_form);
        form.map_or(Ok((path.clone(), name, kind)), |form| Err(form.refuse(&path)))
    }

    /// What it has to be.
    #[cfg(feature = "pull")]
    pub(crate) fn form(&self) -> Option<Form> {
        self.form
    }
}

impl Form {
    /// Says of a file that it is not of this form.
    pub(crate) fn refuse(self, path: &Path) -> Error {
        let form = match self {
            Form::Layout => "OCI image layout",
            Form::OciArchive => "OCI archive",
            Form::DockerArchive => "archive of docker's",
        };
        Error::OtherForm { file: path.display().to_string(), form }
    }
}

/// Takes `FILE:NAME` apart, where `FILE` is there.
pub(crate) fn split(from: &Path) -> Result<(PathBuf, Option<String>), Error> {
    let bytes = from.as_os_str().as_bytes();
    let colons = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':');
    let ends = [bytes.len()].into_iter().chain(colons.map(|(at, _)| at));
    let mut candidates = ends.map(|end| (Path::new(OsStr::from_bytes(&bytes[..end])), end));
    let found = candidates.find(|(path, _)| fs::metadata(path).is_ok());
    let (path, end) = found.unwrap_or((from, bytes.len()));
    let name = bytes.get(end + 1..).map(|name| String::from_utf8_lossy(name).into_owned());
    let failed = |source| Error::Open { path: path.to_owned(), source };
    let kind = fs::metadata(path).map_err(failed)?.file_type();
    if kind.is_socket() || kind.is_char_device() || kind.is_block_device() || kind.is_fifo() {
        return Err(failed(io::Error::other("neither a file nor a directory")));
    }
    Ok((path.to_owned(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(text: &str) -> Result<String, ParseError> {
        let (cwd, home) = (Path::new("/data/dir"), Path::new("/home/ada"));
        Source::typed(text, Some(cwd), Some(home)).map(|source| source.to_string())
    }

    #[test]
    fn what_is_typed_is_a_name_or_a_path() {
        for (text, meant) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("docker://oci:1", "docker.io/library/oci:1"),
            ("a.b:5000/x.sqsh", "a.b:5000/x.sqsh:latest"),
            ("team/rootfs", "docker.io/team/rootfs:latest"),
            ("./x.sqsh", "/data/dir/x.sqsh"),
            ("x.sqsh", "/data/dir/x.sqsh"),
            ("team/X.tar.gz", "/data/dir/team/X.tar.gz"),
            ("rootfs/", "/data/dir/rootfs"),
            (".", "/data/dir"),
            ("..", "/data"),
            ("../x.tar:a:1", "/data/x.tar:a:1"),
            ("~/x.sqfs", "/home/ada/x.sqfs"),
            ("~", "/home/ada"),
            ("/a//b/./c/", "/a/b/c"),
            ("oci:layout", "oci:/data/dir/layout"),
            ("oci:../layout:team/app:1", "oci:/data/layout:team/app:1"),
            ("oci-archive:~/x.tar", "oci-archive:/home/ada/x.tar"),
            ("docker-archive:/x.tar:app:1", "docker-archive:/x.tar:app:1"),
            ("docker-archive:///x.tar", "docker-archive:/x.tar"),
        ] {
            assert_eq!(typed(text).as_deref(), Ok(meant), "{text}");
            assert_eq!(typed(meant).as_deref(), Ok(meant), "{meant}");
            let read: Source = meant.parse().expect(meant);
            assert_eq!(read.to_string(), meant);
        }
    }

    #[test]
    fn what_other_tools_read_is_told_what_to_do() {
        for (text, problem) in [
            ("docker-daemon:a:1", "docker's daemon is not asked"),
            ("dockerd://a", "docker's daemon is not asked"),
            ("containers-storage:a", "podman's own store"),
            ("podman://a", "podman's own store"),
            ("dir:x", "a directory of skopeo's"),
            ("library://a/b", "Singularity or Apptainer"),
            ("shub://a/b", "Singularity or Apptainer"),
            ("oras://a/b", "Singularity or Apptainer"),
            ("file:///x.sqsh", "a URL is not a path"),
            ("http://x/y", "scheme \"http\" is not supported"),
            ("oci:", "it names no path"),
            ("~bob/x.sqsh", "only your own home"),
            ("A", "repository must be lower-case"),
            ("", "empty"),
        ] {
            let error = typed(text).expect_err(text).to_string();
            assert!(error.contains(problem), "{text}: {error}");
        }
    }

    #[test]
    fn what_is_carried_is_absolute() {
        for text in ["./x", "x.sqsh", "oci:x", "~/x", "/a/"] {
            assert!(text.parse::<Source>().is_err(), "{text}");
        }
    }

    #[test]
    fn names_after_a_colon_are_told_from_paths_with_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a:1"), "hsqs").expect("write");
        fs::write(path("b"), "hsqs").expect("write");
        for (text, file, name) in
            [("a:1", "a:1", None), ("a:1:x", "a:1", Some("x")), ("b:x:1", "b", Some("x:1"))]
        {
            let found = split(&path(text)).expect(text);
            assert_eq!(found, (path(file), name.map(str::to_owned)), "{text}");
        }
        let error = split(&path("c:1")).expect_err("nothing").to_string();
        assert!(error.ends_with("/c:1"), "{error}");
    }

    #[test]
    fn a_prefix_is_held_against_what_there_is() {
        let dir = tempfile::tempdir().expect("tempdir");
        let make = |name: &str, content: &[u8]| fs::write(dir.path().join(name), content);
        make("x.sqsh", b"hsqs").expect("write");
        make("x.tar.gz", b"\x1f\x8b").expect("write");
        make("oci-layout", b"{}").expect("write");
        for (prefix, name, is_it) in [
            ("", "x.sqsh", true),
            ("oci:", "", true),
            ("oci-archive:", "x.tar.gz", true),
            ("docker-archive:", "x.tar.gz", true),
            ("oci:", "x.sqsh", false),
            ("oci:", "x.tar.gz", false),
            ("docker-archive:", "x.sqsh", false),
            ("oci-archive:", "", false),
        ] {
            let text = format!("{prefix}{}", dir.path().join(name).display());
            let Ok(Source::OnDisk(place)) = Source::typed(&text, None, None) else {
                panic!("{text} is a path")
            };
            let checked = place.check().map_err(|error| error.to_string());
            assert_eq!(checked.is_ok(), is_it, "{text}: {checked:?}");
            assert!(is_it || checked.is_err_and(|error| error.contains("it is no ")), "{text}");
        }
    }
}
