//! A file on its way to its final name.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, SystemTime},
};

use nix::unistd::Pid;

use super::{Error, lease::Dead, owner::Owner};
use crate::sys::process::is_there;

/// For so long nobody on another node has written to what is still being written: a download that
/// stands still is given up much earlier.
pub(super) const OTHERS_SILENCE: Duration = Duration::from_secs(600);
/// What is not worth being kept, in bytes: it comes again as fast as it is found.
const MIN_LEFT: u64 = 1 << 20;

/// A file in `partial/` that is to get another name: `STEM.PLACE.PID.COUNT`. Dropped, it leaves
/// nothing.
#[derive(Debug)]
pub struct Draft {
    file: File,
    path: PathBuf,
    name: PathBuf,
    begun: u64,
    done: bool,
}

impl Draft {
    /// Begins a file in `partial` that is to become `name`.
    pub(super) fn create(partial: &Path, name: &Path) -> Result<Draft, Error> {
        let _others_wait = birth();
        loop {
            let path = fresh_path(partial, name);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            match options.open(&path) {
                Ok(file) => return Ok(Draft::of(file, path, name, 0)),
                // A dead process of the same number.
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(Error::new("create", path, e)),
            }
        }
    }

    /// Goes on with what a process that is gone has left of `name`, if there is something, of at
    /// most `size` bytes. Those of `dead` are gone for sure.
    pub(super) fn adopt(partial: &Path, name: &Path, size: u64, dead: &[Dead]) -> Option<Draft> {
        let _others_wait = birth();
        let stem = format!("{}.", name.file_name()?.to_str()?);
        let entries = fs::read_dir(partial).ok()?.flatten();
        let mut left = entries.filter(|e| e.file_name().to_string_lossy().starts_with(&stem));
        left.find_map(|entry| {
            let file = OpenOptions::new().read(true).write(true).open(entry.path()).ok()?;
            let (owner, length) = (entry.file_name(), file.metadata().ok()?.len());
            let owner = owner.to_string_lossy();
            let is_orphan = || dead.iter().any(|dead| dead.has_written(&owner));
            if length > size || !(is_orphan() || is_abandoned(&owner, &file)) {
                return None;
            }
            let path = fresh_path(partial, name);
            // Of several who try, one finds it there.
            fs::rename(entry.path(), &path).ok()?;
            Some(Draft::of(file, path, name, length))
        })
    }

    fn of(file: File, path: PathBuf, name: &Path, begun: u64) -> Draft {
        // Tells others on this node that somebody is at it. Where there are no locks, they go by
        // the process's number and by time.
        let _ = file.try_lock();
        Draft { file, path, name: name.to_owned(), begun, done: false }
    }

    /// Where it is until then.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it another name to get.
    pub(super) fn renamed(mut self, name: &Path) -> Draft {
        self.name = name.to_owned();
        self
    }

    /// How many bytes were there from the beginning. They are to be read before anything is
    /// written; writing goes on behind them.
    pub fn begun(&self) -> u64 {
        self.begun
    }

    /// Makes the file visible. Only for content that has been verified.
    pub fn commit(mut self) -> Result<(), Error> {
        // Before the rename: else a crash can leave an empty file under a valid digest, on
        // filesystems that allocate late. NFS and Lustre report a full quota only here.
        self.file.sync_all().map_err(|e| Error::new("write", &self.path, e))?;
        fs::rename(&self.path, &self.name).map_err(|e| Error::new("write", &self.name, e))?;
        self.done = true;
        Ok(())
    }

    /// Writes out what another program has written to it.
    pub(super) fn sync(&self) -> Result<(), Error> {
        self.file.sync_all().map_err(|e| Error::new("write", &self.path, e))
    }

    /// Takes all of a small file.
    pub(super) fn with(mut self, bytes: &[u8]) -> Result<Draft, Error> {
        self.file.write_all(bytes).map_err(|e| self.error(e))?;
        Ok(self)
    }

    /// Leaves what is there for another process to adopt.
    pub fn leave(mut self) {
        self.done = self.file.metadata().is_ok_and(|file| file.len() >= MIN_LEFT);
    }

    /// Words the failure of a read or write.
    pub fn error(&self, source: io::Error) -> Error {
        Error::new("write", &self.path, source)
    }
}

impl Read for Draft {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.file.read(buf)
    }
}

impl Write for Draft {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.file.write(buf)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.done {
            // Best effort: what stays in partial/ is removed by a later run.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Held while a draft gets its file and its lock: one without a lock is taken for abandoned by the
/// other threads of this process.
fn birth() -> MutexGuard<'static, ()> {
    static BIRTH: Mutex<()> = Mutex::new(());
    BIRTH.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that nobody else has: on another node of a shared filesystem a process may have the same
/// number, and a dead one may have had it here.
pub(super) fn fresh_path(partial: &Path, name: &Path) -> PathBuf {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let stem = name.file_name().expect("made by joining a name").display();
    let Owner { place, pid, .. } = Owner::own();
    partial.join(format!("{stem}.{place}.{pid}.{}", COUNT.fetch_add(1, Ordering::Relaxed)))
}

impl Dead {
    /// Whether the draft of this name was this process's.
    fn has_written(&self, draft: &str) -> bool {
        let mut parts = draft.rsplit('.').skip(1);
        let pid = parts.next().and_then(|pid| pid.parse().ok());
        pid == Some(self.pid) && parts.next() == Some(&self.place)
    }
}

/// Whether the process that was writing a draft of this name is gone, or has left it.
fn is_abandoned(name: &str, file: &File) -> bool {
    let lock = file.try_lock();
    match (&lock, writer(name)) {
        (Err(TryLockError::WouldBlock), _) => false,
        (_, Some(pid)) => lock.is_ok() && (pid == Pid::this() || !is_there(pid, None)),
        (_, None) => {
            let modified = file.metadata().and_then(|file| file.modified()).ok();
            let silence = modified.and_then(|at| SystemTime::now().duration_since(at).ok());
            silence.is_some_and(|silence| silence > OTHERS_SILENCE)
        }
    }
}

/// The writer of the draft of this name, if it was a process of this machine since it was started.
fn writer(name: &str) -> Option<Pid> {
    let mut parts = name.rsplit('.').skip(1);
    let (pid, place) = (parts.next()?.parse().ok()?, parts.next()?);
    (place == Owner::own().place).then_some(Pid::from_raw(pid))
}

/// The stem of drafts that get no name: an archive while it is unpacked.
pub(super) const SPOOL: &str = "spool";

/// Whether a process of this node has left a draft of this name and size that nobody will adopt.
pub(super) fn is_litter(name: &str, size: u64) -> bool {
    let is_useful = size >= MIN_LEFT && !name.starts_with(SPOOL);
    !is_useful && writer(name).is_some_and(|pid| !is_there(pid, None))
}

/// Whether the draft of this name is a process's of this node.
pub(super) fn is_here(name: &str) -> bool {
    writer(name).is_some()
}

/// Whether a process of this node may still be writing the draft of this name.
pub(super) fn is_being_written(name: &str) -> bool {
    writer(name).is_some_and(|pid| is_there(pid, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Content that is worth keeping.
    fn content() -> Vec<u8> {
        vec![7; MIN_LEFT as usize]
    }

    /// What a process that is gone has left: a draft under a number that no process has.
    fn leave(partial: &Path, name: &Path, place: &str) -> PathBuf {
        let mut draft = Draft::create(partial, name).expect("create");
        draft.write_all(&content()).expect("write");
        let stem = name.file_name().expect("a name").to_str().expect("text");
        let path = partial.join(format!("{stem}.{place}.{}.0", i32::MAX));
        fs::rename(&draft.path, &path).expect("rename");
        draft.leave();
        path
    }

    #[test]
    fn what_a_dead_process_left_is_gone_on_with_by_one() {
        let dir = tempfile::tempdir().expect("tempdir");
        let name = dir.path().join("blob");
        leave(dir.path(), &name, &Owner::own().place);
        let mut draft = Draft::adopt(dir.path(), &name, u64::MAX, &[]).expect("something to adopt");
        assert!(Draft::adopt(dir.path(), &name, u64::MAX, &[]).is_none(), "two have the same file");
        assert_eq!(draft.begun(), MIN_LEFT);
        let mut begun = vec![0; MIN_LEFT as usize];
        draft.read_exact(&mut begun).expect("read");
        draft.write_all(b"end").expect("write");
        draft.commit().expect("commit");
        assert_eq!(fs::read(&name).expect("read"), [content(), b"end".to_vec()].concat());
    }

    #[test]
    fn what_may_still_be_written_is_left_alone() {
        let dir = tempfile::tempdir().expect("tempdir");
        let name = dir.path().join("blob");
        let mut own = Draft::create(dir.path(), &name).expect("create");
        own.write_all(&content()).expect("write");
        assert!(Draft::adopt(dir.path(), &name, u64::MAX, &[]).is_none(), "a living process's");
        own.leave();
        drop(Draft::adopt(dir.path(), &name, u64::MAX, &[]).expect("it was left"));
        leave(dir.path(), &name, "anothernode");
        assert!(Draft::adopt(dir.path(), &name, u64::MAX, &[]).is_none(), "written a moment ago");
        let writer = |pid| Dead { place: "anothernode".to_owned(), pid };
        assert!(Draft::adopt(dir.path(), &name, u64::MAX, &[writer(1)]).is_none(), "another's");
        let known = Draft::adopt(dir.path(), &name, u64::MAX, &[writer(i32::MAX)]);
        drop(known.expect("its writer is known to be gone"));
        let foreign = leave(dir.path(), &name, "anothernode");
        let long_ago = SystemTime::now() - 2 * OTHERS_SILENCE;
        let file = File::options().write(true).open(&foreign).expect("open");
        file.set_modified(long_ago).expect("set time");
        assert!(Draft::adopt(dir.path(), &name, 5, &[]).is_none(), "longer than it should be");
        assert!(Draft::adopt(dir.path(), &name, u64::MAX, &[]).is_some(), "left long ago");
    }

    #[test]
    fn little_is_not_left() {
        let dir = tempfile::tempdir().expect("tempdir");
        let mut draft = Draft::create(dir.path(), &dir.path().join("blob")).expect("create");
        draft.write_all(b"little").expect("write");
        draft.leave();
        assert_eq!(fs::read_dir(dir.path()).expect("list").count(), 0);
    }
}
