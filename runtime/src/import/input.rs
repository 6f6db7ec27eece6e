//! What was named on the command line.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt as _, fs::FileTypeExt as _},
    path::{Path, PathBuf},
};

use super::Error;
use crate::pull::Extent;

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
    /// Finds `FILE`, or `FILE:NAME`: both may hold colons, and what there is decides.
    pub(super) fn find(from: &Path) -> Result<Input, Error> {
        let bytes = from.as_os_str().as_bytes();
        if bytes == b"-" {
            let (path, shown) = (PathBuf::new(), "standard input".to_owned());
            return Ok(Input { path, name: None, shown, is_stdin: true });
        }
        let colons = bytes.iter().enumerate().filter(|(_, byte)| **byte == b':');
        let ends = [bytes.len()].into_iter().chain(colons.map(|(at, _)| at));
        let mut candidates = ends.map(|end| (Path::new(OsStr::from_bytes(&bytes[..end])), end));
        let found = candidates.find(|(path, _)| fs::metadata(path).is_ok());
        let (path, end) = found.unwrap_or((from, bytes.len()));
        let name = bytes.get(end + 1..).map(|name| String::from_utf8_lossy(name).into_owned());
        let metadata = fs::metadata(path);
        let metadata = metadata.map_err(|source| failed("open", path)(source))?;
        let kind = metadata.file_type();
        if kind.is_socket() || kind.is_char_device() || kind.is_block_device() || kind.is_fifo() {
            let source = io::Error::other("neither a file nor a directory");
            return Err(failed("open", path)(source));
        }
        let shown = path.display().to_string();
        Ok(Input { path: path.to_owned(), name, shown, is_stdin: false })
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
