//! Where credentials come from. The first place that has some for the registry wins:
//!
//! ```text
//! this run's own          shifter pull --login            never written anywhere
//! own                     shifter login                   ~/.config/shifter/auth.json
//! docker, in this order   what REGISTRY_AUTH_FILE names   skopeo, podman, buildah
//!                         $XDG_RUNTIME_DIR/containers/auth.json
//!                         ~/.config/containers/auth.json
//!                         ~/.docker/config.json           docker, and its helper programs
//! netrc                   ~/.config/enroot/.credentials   enroot
//! ```
//!
//! Nothing is looked for before the registry asks. A place that cannot be used is passed over; only
//! who is refused in the end is told of it.

mod docker;
mod helper;
mod netrc;
pub(super) mod own;

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
};

pub use self::own::FileError;
use crate::{config, login::Login};

/// What proves who somebody is.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    Password(Login),
    /// Stands for a login that happened elsewhere; good for getting tokens only (docker's
    /// `identitytoken`).
    IdentityToken(String),
}

/// What a search has found.
#[derive(Default)]
pub(super) struct Found {
    pub(super) secret: Option<Secret>,
    source: Option<Source>,
    problem: Option<Problem>,
}

/// Where credentials were found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// On the command line of this run.
    Given,
    /// In a file.
    File(PathBuf),
    /// A credential helper gave them: `docker-credential-NAME`.
    Helper(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Given => f.write_str("the given credentials"),
            Source::File(path) => write!(f, "the credentials of {}", shown(path)),
            Source::Helper(program) => write!(f, "the credentials of {program}"),
        }
    }
}

/// Why a place that may have credentials could not be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Our own file, open to others.
    #[error("{} is not used: others than you may read or change it", shown(.0))]
    Exposed(PathBuf),
    /// A file that is there and cannot be read.
    #[error("{}: {why}", shown(.path))]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A helper program.
    #[error("{program}, which {} names: {why}", shown(.path))]
    Helper {
        /// `docker-credential-NAME`
        program: String,
        /// The file that names it.
        path: PathBuf,
        /// What it has answered, or why it has not.
        why: String,
    },
    /// A password that enroot would have a shell find out.
    #[error("the password in {} is a shell expression, which is not evaluated", shown(.0))]
    Expression(PathBuf),
}

/// Why a registry does not let somebody in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It has asked for none, or in no way that is understood.
    #[error("it asks for no login that is understood")]
    Unasked,
    /// There are none.
    #[error("no credentials are stored")]
    NoCredentials,
    /// There are none that can be used.
    #[error("no credentials: {0}")]
    Unusable(Problem),
    /// There are, and they were shown.
    #[error("{0} are not accepted")]
    NotAccepted(Source),
}

impl Found {
    pub(super) fn given(login: Login) -> Found {
        Found::at(Secret::Password(login), Source::Given)
    }

    fn at(secret: Secret, source: Source) -> Found {
        Found { secret: Some(secret), source: Some(source), problem: None }
    }

    /// Why the registry refuses whoever has shown this.
    pub(super) fn refused(&self) -> Refusal {
        match (&self.source, &self.problem) {
            (Some(source), _) => Refusal::NotAccepted(source.clone()),
            (None, Some(problem)) => Refusal::Unusable(problem.clone()),
            (None, None) => Refusal::NoCredentials,
        }
    }
}

/// Looks for credentials, in all places. May run a helper program.
pub(super) fn find(registry: &str, repository: &str) -> Found {
    let mut problem = None;
    for look in places() {
        match look(registry, repository) {
            Ok(Some(found)) => return found,
            Ok(None) => {}
            Err(first) => problem = problem.or(Some(first)),
        }
    }
    Found { problem, ..Found::default() }
}

/// The directory of the user's settings (XDG Base Directory specification).
fn configs() -> Option<PathBuf> {
    let named = env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
    named.filter(|dir| dir.is_absolute()).or_else(|| Some(config::home()?.join(".config")))
}

type Look = Box<dyn Fn(&str, &str) -> Result<Option<Found>, Problem>>;

fn places() -> impl Iterator<Item = Look> {
    let var = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let configs = configs();
    let below = |path: &str| configs.as_ref().map(|dir| dir.join(path));
    let docker = var("DOCKER_CONFIG").or_else(|| Some(config::home()?.join(".docker")));
    let enroot = var("ENROOT_CONFIG_PATH").or_else(|| below("enroot"));
    let dockers = [
        var("REGISTRY_AUTH_FILE"),
        var("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        below("containers/auth.json"),
        docker.map(|dir| dir.join("config.json")),
    ];
    let own = own::path().map(|path| -> Look {
        Box::new(move |registry, repository| {
            let Some(bytes) = own::read(&path)? else { return Ok(None) };
            docker::look(&path, &bytes, registry, repository)
        })
    });
    let dockers = dockers.into_iter().flatten().map(|path| -> Look {
        Box::new(move |registry, repository| {
            let Some(bytes) = read(&path)? else { return Ok(None) };
            docker::look(&path, &bytes, registry, repository)
        })
    });
    let enroot = enroot.map(|dir| dir.join(".credentials")).map(|path| -> Look {
        Box::new(move |registry, _| {
            let Some(bytes) = read(&path)? else { return Ok(None) };
            netrc::look(&path, &bytes, registry)
        })
    });
    own.into_iter().chain(dockers).chain(enroot)
}

/// Reads a file that need not be there.
fn read(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(e) => Err(Problem::unreadable(path, &crate::report::chain(&e))),
    }
}

impl Problem {
    fn unreadable(path: &Path, why: &str) -> Problem {
        Problem::Unreadable { path: path.to_owned(), why: why.to_owned() }
    }
}

/// A path as its owner would write it.
pub(crate) fn shown(path: &Path) -> String {
    let home = config::home().filter(|home| home.parent().is_some());
    match home.and_then(|home| path.strip_prefix(home).ok().map(Path::to_owned)) {
        Some(below) => format!("~/{}", below.display()),
        None => path.display().to_string(),
    }
}
