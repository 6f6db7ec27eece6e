//! What an image is made of.

use std::{
    fs, io,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::Error;
use crate::{pull::Extent, source};

/// A file or directory, and perhaps the name of one of its images.
#[derive(Debug, Clone)]
pub(super) struct Input {
    pub(super) path: PathBuf,
    pub(super) name: Option<String>,
    /// What messages call it.
    pub(super) shown: String,
    /// It is still to come, on the standard input.
    pub(super) is_stdin: bool,
}

impl Input {
    /// Finds `FILE`, or `FILE:NAME`, or takes `-` for the standard input.
    pub(super) fn find(from: &Path) -> Result<Input, Error> {
        if from.as_os_str().as_bytes() == b"-" {
            let (path, shown) = (PathBuf::new(), "standard input".to_owned());
            return Ok(Input { path, name: None, shown, is_stdin: true });
        }
        let (path, name) = source::split(from)?;
        Ok(Input::at(path, name))
    }

    /// What lies there.
    pub(super) fn at(path: PathBuf, name: Option<String>) -> Input {
        Input { shown: path.display().to_string(), path, name, is_stdin: false }
    }

    /// All of the file.
    pub(super) fn whole(&self) -> Result<Extent, Error> {
        let metadata = fs::metadata(&self.path).map_err(failed("open", &self.path))?;
        Ok(Extent { path: self.path.clone(), offset: 0, size: metadata.len() })
    }
}

/// Words the system's answer.
pub(super) fn failed(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::System { op, path, source }
}
