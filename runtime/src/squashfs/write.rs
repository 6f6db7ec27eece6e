//! From a tree to one file, by `mksquashfs`.
//!
//! zstd at level 1 on all cores: of a gigabyte, that is seconds, and about as small as the layers are.
//! No library does as well. `backhand` (0.25) writes by one thread, takes a fifth more time where there
//! are two cores, and knows neither hard links nor extended attributes.
//!
//! The same tree becomes the same bytes, whoever writes it when: but for the owner, who is the caller
//! for all files.

use std::{
    env,
    fs::{self, File},
    io::{self, Read as _, Seek as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread::sleep,
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::memfd::{MFdFlags, memfd_create},
    unistd::{AccessFlags, access, getegid, geteuid},
};

use crate::sys::{
    confine::{Identity, confine},
    interrupt::Caught,
};

/// What writes them.
pub const PROGRAM: &str = "mksquashfs";
/// Debian's package of it, and everybody else's.
pub const PACKAGE: &str = "squashfs-tools";

/// The first bytes of every squashfs (Documentation/filesystems/squashfs.rst).
const MAGIC: &[u8; 4] = b"hsqs";
/// Megabytes that the program keeps blocks in. Without a word it takes a quarter of the machine.
const MEMORY: &str = "512M";
/// How often the program is looked after.
const TICK: Duration = Duration::from_millis(20);

/// Why there is no squashfs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is not there.
    #[error("{PROGRAM}: not found")]
    NoProgram,
    /// The program is not to write anywhere else, and cannot be kept from it.
    #[error("users can make no user namespaces on this host")]
    NoNamespace,
    /// The program failed.
    #[error("{PROGRAM}: {0}")]
    Program(String),
    /// A disk or a quota is full.
    #[error(transparent)]
    Full(io::Error),
    /// The system's answer to what is ours to do.
    #[error(transparent)]
    System(io::Error),
    /// SIGINT, SIGTERM or SIGHUP.
    #[error("stopped by signal {0}")]
    Interrupted(i32),
}

/// Where the program is, on `PATH`.
pub fn find_program() -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut found = env::split_paths(&path).map(|dir| dir.join(PROGRAM));
    found.find(|path| path.is_file() && access(path, AccessFlags::X_OK).is_ok())
}

/// Writes the tree into a file that is there, whatever it holds. Its directory is all that the program
/// can write to. `tell` hears again and again how many bytes the file has.
pub fn write(
    tree: &Path,
    file: &Path,
    caught: &Caught,
    mut tell: impl FnMut(u64),
) -> Result<(), Error> {
    // What it says is of any length, and read when it is done.
    let said = memfd_create(c"said", MFdFlags::MFD_CLOEXEC);
    let mut said = File::from(said.map_err(|e| Error::System(e.into()))?);
    let mut command = Command::new(PROGRAM);
    command
        .arg(tree)
        .arg(file)
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
        .stderr(said.try_clone().map_err(Error::System)?);
    let place = file.parent().expect("made by joining a name");
    confine(&mut command, place, Identity::Root).map_err(Error::System)?;
    let child = command.spawn().map_err(|source| match source.raw_os_error() {
        Some(libc::ENOENT) => Error::NoProgram,
        // ENOSPC is of a limit: user.max_user_namespaces.
        Some(libc::EPERM | libc::ENOSPC) => Error::NoNamespace,
        _ => Error::System(source),
    })?;
    let status = watch(child, file, caught, &mut tell)?;
    let mut text = String::new();
    let read = said.rewind().and_then(|()| said.read_to_string(&mut text));
    read.map_err(Error::System)?;
    judge(status, &text, file)
}

/// Waits for the program to end; ends it when a signal comes.
fn watch(
    mut child: Child,
    file: &Path,
    caught: &Caught,
    tell: &mut dyn FnMut(u64),
) -> Result<ExitStatus, Error> {
    loop {
        let status = child.try_wait().map_err(Error::System)?;
        if let Some(status) = status.filter(|status| status.success() || caught.signal().is_none())
        {
            return Ok(status);
        }
        // What stops a step is sent to both.
        if let Some(signal) = caught.signal() {
            // It may have ended by itself; either way it is gone.
            let _ = child.kill();
            let _ = child.wait();
            return Err(Error::Interrupted(signal));
        }
        tell(fs::metadata(file).map_or(0, |file| file.len()));
        sleep(TICK);
    }
}

/// Whether there is a squashfs now; else why not, in our words where there are some.
fn judge(status: ExitStatus, said: &str, file: &Path) -> Result<(), Error> {
    for errno in [Errno::ENOSPC, Errno::EDQUOT] {
        if said.contains(errno.desc()) {
            return Err(Error::Full(errno.into()));
        }
    }
    let line = said.lines().map(str::trim).find(|line| !line.is_empty());
    let mut magic = [0; MAGIC.len()];
    let begins = File::open(file).and_then(|mut file| file.read_exact(&mut magic));
    let said = match (status.success(), begins) {
        (true, Ok(())) if magic == *MAGIC => return Ok(()),
        (true, _) => "it has written no squashfs".to_owned(),
        (false, _) => line.map_or_else(|| status.to_string(), str::to_owned),
    };
    Err(Error::Program(said))
}
