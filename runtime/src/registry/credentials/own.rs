//! What `shifter login` leaves: docker's format, in a file that is its owner's alone.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

use super::{Problem, shown};
use crate::login::{self, Login};

/// Why credentials could not be stored.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// There is no home directory, nor anything in its place.
    #[error("find a place for credentials: neither XDG_CONFIG_HOME nor HOME is set")]
    NoPlace,
    /// The disk.
    #[error("{op} {}", shown(.path))]
    Io {
        /// What was tried.
        op: &'static str,
        /// With what.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// It holds something else than credentials, which must not be lost.
    #[error("read {}: not understood", shown(.0))]
    Syntax(PathBuf),
}

/// Where the file is, or will be.
pub(super) fn path() -> Option<PathBuf> {
    super::configs().map(|dir| dir.join("shifter/auth.json"))
}

/// Reads the file, if there is one. As ssh does with keys, one that others can read is not used:
/// to make it private in silence would hide that it was not.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, Problem> {
    let unreadable = |e: io::Error| Problem::unreadable(path, &crate::report::chain(&e));
    let mut file = match File::open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        file => file.map_err(unreadable)?,
    };
    let metadata = file.metadata().map_err(unreadable)?;
    if metadata.uid() != nix::unistd::geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        return Err(Problem::Exposed(path.to_owned()));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(Some(bytes))
}

/// Stores a login in place of whatever is known of that registry; returns the file's path.
pub(in crate::registry) fn store(login: &Login) -> Result<PathBuf, FileError> {
    let auth = STANDARD.encode(format!("{}:{}", login.user, login.password));
    let entry = json!({ "auth": auth });
    let (path, _) = change(|auths| {
        auths.retain(|key, _| login::registry(key).as_deref() != Ok(&login.registry));
        auths.insert(login.registry.clone(), entry);
        true
    })?;
    Ok(path)
}

/// Removes what is stored for a registry; returns the file's path, and whether there was anything.
pub(in crate::registry) fn remove(registry: &str) -> Result<(PathBuf, bool), FileError> {
    if let Some(path) = path().filter(|path| !path.exists()) {
        return Ok((path, false));
    }
    change(|auths| {
        let before = auths.len();
        auths.retain(|key, _| login::registry(key).as_deref() != Ok(registry));
        auths.len() != before
    })
}

/// Changes the file's entries. What else is in it stays. It is replaced whole, if `edit` says that
/// there is a change.
fn change(
    edit: impl FnOnce(&mut Map<String, Value>) -> bool,
) -> Result<(PathBuf, bool), FileError> {
    let path = path().ok_or(FileError::NoPlace)?;
    let dir = path.parent().expect("a file is in a directory");
    let failed = |op, path: &Path| {
        let path = path.to_owned();
        move |source| FileError::Io { op, path, source }
    };
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(failed("create", dir))?;
    // Two logins at the same moment. Without flock, one may lose its entry; the file stays whole.
    let directory = File::open(dir).map_err(failed("open", dir))?;
    let _ = directory.lock();
    let mut content: Map<String, Value> = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| FileError::Syntax(path.clone()))?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => Map::new(),
        Err(e) => return Err(failed("read", &path)(e)),
    };
    let auths = content.entry("auths").or_insert_with(|| json!({})).as_object_mut();
    let changed = edit(auths.ok_or_else(|| FileError::Syntax(path.clone()))?);
    if changed {
        let bytes = serde_json::to_vec_pretty(&content).expect("JSON serialises");
        replace(&path, &bytes).map_err(failed("write", &path))?;
    }
    Ok((path, changed))
}

/// Puts a file in another's place, readable by its owner only from its first moment on.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension(format!("json.{}", std::process::id()));
    // A dead process of the same number may have left one.
    let _ = fs::remove_file(&partial);
    let write = || {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)
    };
    write().inspect_err(|_| _ = fs::remove_file(&partial))
}
