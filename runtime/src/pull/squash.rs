//! From an image's tree to one file in the store, by `mksquashfs`.
//!
//! zstd at level 1 on all cores: of a gigabyte, that is seconds, and about as small as the layers are.
//! No library does as well. `backhand` (0.25) writes by one thread, takes a fifth more time where there
//! are two cores, and knows neither hard links nor extended attributes.
//!
//! The same tree becomes the same bytes, whoever writes it when: but for the owner, who is the caller
//! for all files.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
};

use nix::{
    sys::memfd::{MFdFlags, memfd_create},
    unistd::{getegid, geteuid},
};

use super::{Documents, Error, Event, Pull, TICK};
use crate::{
    store::{Draft, Store},
    sys::{
        confine::{Identity, confine},
        interrupt::Caught,
    },
};

const PROGRAM: &str = "mksquashfs";
const PACKAGE: &str = "squashfs-tools";
/// The first bytes of every squashfs (Documentation/filesystems/squashfs.rst).
const MAGIC: &[u8; 4] = b"hsqs";
/// Megabytes that the program keeps blocks in. Without a word it takes a quarter of the machine.
const MEMORY: &str = "512M";

impl Pull<'_> {
    /// The store that is to have the image as one file, and does not.
    pub(super) fn lacks_squashfs(&self, documents: &Documents) -> Option<&Store> {
        let is_wanted = |_: &&Store| self.config.squashfs.write;
        let store = self.kept(documents).filter(is_wanted)?;
        store.squashfs(&documents.digest).is_none().then_some(store)
    }

    /// Writes the image, which is in the store and on the node, as one file. Returns false if another
    /// process has removed something of it.
    pub(super) fn squash(
        &self,
        documents: &Documents,
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<bool, Error> {
        let (Some(store), Some(node)) = (self.lacks_squashfs(documents), &self.node) else {
            return Ok(true);
        };
        let image = &documents.digest;
        let _lease = store.lock_squashfs(image, || tell(Event::Waiting))?;
        if store.squashfs(image).is_some() {
            return Ok(true);
        }
        let Some((tree, _hold)) = node.hold(image).map_err(Error::Node)? else {
            return Ok(false);
        };
        let caught = Caught::install();
        let draft = store.spool()?;
        write(&tree, &draft, &caught, tell)?;
        Ok(store.admit_squashfs(image, draft)?)
    }
}

fn write(
    tree: &Path,
    draft: &Draft,
    caught: &Caught,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<(), Error> {
    let failed = |source| Error::Squash { source };
    // What it says is of any length, and read when it is done.
    let said = memfd_create(c"said", MFdFlags::MFD_CLOEXEC).map_err(|e| failed(e.into()))?;
    let mut said = File::from(said);
    let mut command = Command::new(PROGRAM);
    command
        .arg(tree)
        .arg(draft.path())
        .args(["-noappend", "-no-recovery", "-no-progress", "-quiet", "-exit-on-error"])
        .args(["-comp", "zstd", "-Xcompression-level", "1", "-mem", MEMORY])
        .args(["-xattrs", "-mkfs-time", "0"])
        // As root of a namespace it reads what its owner may not: /etc/shadow of some distributions
        // has no mode at all. Whose the files are is said here.
        .args(["-force-uid", &geteuid().to_string(), "-force-gid", &getegid().to_string()])
        // It is another word for -mkfs-time, and the two do not go together.
        .env_remove("SOURCE_DATE_EPOCH")
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().map_err(failed)?);
    let place = draft.path().parent().expect("made by joining a name");
    confine(&mut command, place, Identity::Root).map_err(failed)?;
    let child = command.spawn().map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT) => Error::NoProgram { program: PROGRAM, package: PACKAGE },
        // ENOSPC is of a limit: user.max_user_namespaces.
        Some(libc::EPERM | libc::ENOSPC) => Error::NoNamespace,
        _ => failed(source),
    })?;
    let status = watch(child, draft, caught, tell)?;
    let mut text = String::new();
    let read = said.rewind().and_then(|()| said.read_to_string(&mut text));
    read.map_err(failed)?;
    judge(status, &text, draft)
}

/// Waits for the program to end; ends it when a signal comes.
fn watch(
    mut child: Child,
    draft: &Draft,
    caught: &Caught,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<ExitStatus, Error> {
    loop {
        if let Some(status) = child.try_wait().map_err(|source| Error::Squash { source })? {
            return Ok(status);
        }
        if let Some(signal) = caught.signal() {
            // It may have ended by itself; either way it is gone.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Interrupted(signal));
        }
        let bytes = fs::metadata(draft.path()).map_or(0, |file| file.len());
        tell(Event::Squashing { bytes });
        sleep(TICK);
    }
}

/// Whether there is a squashfs now; else why not, in our words where there are some.
fn judge(status: ExitStatus, said: &str, draft: &Draft) -> Result<(), Error> {
    use io::ErrorKind::{QuotaExceeded, StorageFull};
    let has = |errno: nix::errno::Errno| said.contains(errno.desc());
    if has(nix::errno::Errno::ENOSPC) {
        return Err(draft.error(StorageFull.into()).into());
    }
    if has(nix::errno::Errno::EDQUOT) {
        return Err(draft.error(QuotaExceeded.into()).into());
    }
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    let mut magic = [0; MAGIC.len()];
    let begins = File::open(draft.path()).and_then(|mut file| file.read_exact(&mut magic));
    let said = match (status.success(), begins) {
        (true, Ok(())) if magic == *MAGIC => return Ok(()),
        (true, _) => "it has written no squashfs".to_owned(),
        (false, _) => line.map_or_else(|| status.to_string(), str::to_owned),
    };
    Err(Error::Program { program: PROGRAM, said })
}
