//! Entering a container that has a name: the namespaces that it runs in, or new ones around what was
//! written in it before. Who comes second waits for the first, and joins ([`crate::kept`]).

use std::{fs::File, os::fd::OwnedFd, path::Path};

use nix::{
    errno::Errno,
    fcntl::{Flock, OFlag, open},
    sys::stat::{Mode, fstat, mkdirat, stat},
};

use super::{Error, Plan, enter, io_error, join};
use crate::{
    Digest,
    kept::{self, Record},
    options::ContainerName,
    request::front,
};

/// Enters the container that the plan names.
pub(super) fn enter(plan: &Plan, name: &ContainerName) -> Result<(), Error> {
    let place = Place::open(&plan.node_dir, name)?;
    let record = Record::read(&place.dir);
    if let Some(record) = &record {
        check_image(record, name, &plan.digest)?;
        if let Some((user, mount)) = record.running(&place.dir) {
            if let Some(lacks) = record.lacks(&plan.options, front()) {
                return Err(Error::Lacks { name: name.to_string(), lacks });
            }
            return join::enter_namespaces(&user, &mount)
                .map_err(|e| io_error("join namespaces of container", name.as_str())(e.into()));
        }
    }
    for dir in [kept::UPPER, kept::WORK] {
        match mkdirat(&place.dir, dir, Mode::from_bits_retain(0o755)) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(e) => return Err(io_error("make directory", place.path.join(dir))(e.into())),
        }
    }
    let mut record = Record {
        reference: record.map_or_else(|| plan.image.to_string(), |record| record.reference),
        digest: plan.digest.clone(),
        options: plan.options.clone(),
        namespaces: None,
    };
    let write = |record: &Record| {
        let path = place.path.join("record");
        record.write(&place.dir).map_err(io_error("write", path))
    };
    // First of all: what is written without a word of which image lies below is of no use.
    write(&record)?;
    enter::build(plan)?;
    record.namespaces =
        Some(kept::Namespaces::own().map_err(io_error("look at namespaces of", "this process"))?);
    write(&record)
}

/// Refuses an image that the container was not made from.
pub(super) fn check_image(
    record: &Record,
    name: &ContainerName,
    digest: &Digest,
) -> Result<(), Error> {
    if record.digest == *digest {
        return Ok(());
    }
    Err(Error::OtherImage {
        name: name.to_string(),
        image: record.reference.clone(),
        digest: record.digest.clone(),
    })
}

/// The directory of a container, and its lock, let go when this is dropped.
struct Place {
    path: std::path::PathBuf,
    dir: OwnedFd,
    _lock: Flock<File>,
}

impl Place {
    fn open(node_dir: &Path, name: &ContainerName) -> Result<Place, Error> {
        let path = kept::place(node_dir, name);
        loop {
            enter::own_directory(node_dir)?;
            enter::own_directory(&kept::all(node_dir))?;
            enter::own_directory(&path)?;
            let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let dir = open(&path, flags, Mode::empty())
                .map_err(|e| io_error("open directory", &path)(e.into()))?;
            let lock = join::lock(&dir, &path)?;
            // Whoever had the lock may have removed the directory.
            let opened = fstat(&dir).map_err(|e| io_error("look at", &path)(e.into()))?;
            if stat(&path).is_ok_and(|there| there.st_ino == opened.st_ino) {
                return Ok(Place { path, dir, _lock: lock });
            }
        }
    }
}
