//! Turns among processes that share a filesystem whose locks cannot be relied on.
//!
//! flock(2) is a no-op between the nodes of some Lustre mounts, an error on others, and lost with
//! the connection on NFS (SECURITY 7). What every shared filesystem does is to give a name to one
//! file only:
//!
//! ```text
//! locks/NAME.PLACE.PID.COUNT   a file of one's own: who one is, and what one needs
//!   │ link(2)
//!   ▼
//! locks/NAME                   the lease: whoever's file has this name, has it
//! ```
//!
//! An answer of link(2) can be lost on NFS, and the call be repeated and fail; the file's own count
//! of names tells (open(2), `O_EXCL`). A thread rewrites the lease every few seconds, and is gone
//! when the lease is dropped. A holder of the same kernel is looked for among its processes, and if
//! it is gone its lease is taken away at once. Of any other, only the rewriting is known: a lease that
//! a waiter has seen unchanged for [`Rules::silence`], by the waiter's own clock, has no holder any
//! more. Clocks of two machines are never compared.
//!
//! A lease is taken away by renaming it, and looking at what was renamed: if that is not what was
//! seen before, it gets its name back, unless a third process has it by then.
//!
//! Two can hold one lease: when a holder stands still for longer than `silence` and then goes on, or
//! a lease was taken away by mistake for that moment. So nothing rests on leases but work: whatever
//! is published is complete and gets its name by rename(2). Two pullers of one image download it
//! twice. Of two writers of the index one name may be lost; a writer makes sure that the lease is
//! still its own right before it renames, so that takes a machine that stands still between the two. A
//! collector that does not see a puller may remove blobs that the puller has found; the puller looks
//! for all of them once more when the image has its name, and what is still missing then is
//! fetched when the image is next used.
//!
//! Who cannot write a lease because space or quota is used up goes on without: else nobody could
//! remove anything from a full disk.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{FileExt as _, MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use super::{Error, draft::fresh_path, owner::Owner};
use crate::{digest::Digest, sys::is_full};

/// Longest lease that is read: the pins of an image with the most layers that there may be.
const MAX_LEASE: u64 = 1 << 20;

/// More than most have.
const USUAL_LEASE: usize = 4 << 10;

/// Longest note, in bytes. It is written in place, so all are as long.
const MAX_NOTE: usize = 2000;

/// How leases are kept, and given up.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// How often a holder rewrites its lease.
    pub(super) beat: Duration,
    /// After so long without a change, the holder is taken for dead by those who cannot ask.
    pub(super) silence: Duration,
}

/// Six beats may be lost; NFS shows another machine's writes seconds late.
pub(super) const RULES: Rules =
    Rules { beat: Duration::from_secs(5), silence: Duration::from_secs(30) };

/// The longest pause between two looks at the lease of a process of this machine, and of another:
/// each look is a request to the file server.
const NEAR_PAUSE: Duration = Duration::from_millis(50);
const FAR_PAUSE: Duration = Duration::from_secs(1);

/// A lease that is held until it is dropped.
#[derive(Debug)]
pub struct Lease {
    /// `None`: there was no room for one.
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    file: File,
    path: PathBuf,
    /// Dropped to end the thread.
    stop: Option<mpsc::Sender<()>>,
    heart: Option<thread::JoinHandle<()>>,
}

impl Lease {
    /// Takes the lease at `path` as soon as nobody else has it. `pins` are what the holder needs
    /// meanwhile. `waiting` is called once, if there is somebody to wait for.
    pub(super) fn claim(
        path: &Path,
        pins: &[&Digest],
        own: &Owner,
        rules: Rules,
        waiting: impl FnOnce(),
    ) -> Result<Lease, Error> {
        let failed = |e| Error::new("create lease", path, e);
        let (unique, file) = match write_own(path, pins, own) {
            Err(e) if is_full(&e) => return Ok(Lease { held: None }),
            written => written.map_err(failed)?,
        };
        let _own = RemovedFile(unique.clone());
        let mut waiting = Some(waiting);
        let mut wait = Wait::default();
        let file = loop {
            match link(&unique, &file, path) {
                Ok(true) => break file,
                Ok(false) => {}
                // A filesystem without links. Until it is written, others see an empty lease, whose
                // holder they do not know.
                Err(e) if has_no_links(&e) => match write(path, pins, own) {
                    Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                    written => break written.map_err(failed)?,
                },
                Err(e) => return Err(failed(e)),
            }
            let seen = match Seen::look(path) {
                Ok(seen) => seen,
                // Given back at this moment.
                Err(e) if is_gone(&e) => continue,
                Err(e) => return Err(failed(e)),
            };
            let is_dead = match seen.owner().and_then(|owner| owner.is_alive(own)) {
                Some(alive) => !alive,
                None => wait.is_over(&seen, rules),
            };
            if is_dead {
                take_away(path, &seen).map_err(failed)?;
                continue;
            }
            if wait.is_long()
                && let Some(tell) = waiting.take()
            {
                tell();
            }
            wait.pause(&seen, own);
        };
        Ok(Lease { held: Some(Held::keep(file, path, rules)) })
    }

    /// Takes the lease at `path` if nobody has it.
    pub(super) fn attempt(path: &Path, own: &Owner, rules: Rules) -> Result<Option<Lease>, Error> {
        let failed = |e| Error::new("create lease", path, e);
        let (unique, file) = write_own(path, &[], own).map_err(failed)?;
        let _own = RemovedFile(unique.clone());
        let file = match link(&unique, &file, path) {
            Ok(true) => file,
            Ok(false) => return Ok(None),
            Err(e) if has_no_links(&e) => match write(path, &[], own) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Ok(None),
                written => written.map_err(failed)?,
            },
            Err(e) => return Err(failed(e)),
        };
        Ok(Some(Lease { held: Some(Held::keep(file, path, rules)) }))
    }

    /// Writes a line into a lease without pins, for [`Watch`] to show; it replaces the last one.
    /// What is longer than [`MAX_NOTE`] is left out.
    pub(crate) fn note(&self, text: &str) {
        let Some(held) = self.held.as_ref().filter(|_| text.len() < MAX_NOTE) else { return };
        let line = format!("{text:<MAX_NOTE$}\n");
        let position = first_line(0).len() + Owner::own().to_string().len() + 1;
        // Best effort: who sees none waits as well.
        let written = held.file.write_all_at(line.as_bytes(), position as u64);
        let _ = written.and_then(|()| held.file.sync_data());
    }

    /// Whether it was not taken away meanwhile.
    pub(super) fn is_held(&self) -> bool {
        self.held.as_ref().is_none_or(Held::is_ours)
    }
}

impl Held {
    fn keep(file: File, path: &Path, rules: Rules) -> Held {
        let (stop, stopped) = mpsc::channel();
        let beating = file.try_clone().and_then(|file| {
            thread::Builder::new().name("lease".to_owned()).spawn(move || {
                let mut beat = 0_u64;
                while stopped.recv_timeout(rules.beat) == Err(RecvTimeoutError::Timeout) {
                    beat += 1;
                    // Where it was taken away there is nothing to be kept. NFS sends it when it
                    // is synced.
                    let beaten = file.write_all_at(first_line(beat).as_bytes(), 0);
                    let _ = beaten.and_then(|()| file.sync_data());
                }
            })
        });
        // Without a thread others wait as long as they wait for a dead holder.
        Held { file, path: path.to_owned(), stop: Some(stop), heart: beating.ok() }
    }

    fn is_ours(&self) -> bool {
        let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let own = self.file.metadata().map(identity).ok();
        own.is_some() && fs::symlink_metadata(&self.path).map(identity).ok() == own
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(heart) = self.heart.take() {
            // It does not panic, and holds nothing that would matter.
            let _ = heart.join();
        }
        if self.is_ours()
            && let Some(seen) = Seen::at(&self.path)
        {
            // Best effort: what stays is taken away as a dead process's.
            let _ = take_away(&self.path, &seen);
        }
    }
}

/// What the holders of all leases in a directory need, but for those who are known to be dead.
pub(super) fn pins(locks: &Path, own: &Owner) -> Vec<Digest> {
    let entries = fs::read_dir(locks).into_iter().flatten().flatten();
    let seen = entries.filter_map(|entry| Seen::at(&entry.path()));
    let alive =
        seen.filter(|seen| seen.owner().and_then(|owner| owner.is_alive(own)).unwrap_or(true));
    alive.flat_map(|seen| seen.pins()).collect()
}

/// Takes all of a process's leases away, which is known to be gone. Best effort: after a silence they
/// are taken anyway.
pub(super) fn take_from(locks: &Path, dead: &Dead) {
    for entry in fs::read_dir(locks).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(seen) = Seen::at(&path) else { continue };
        if seen.owner().is_some_and(|owner| owner.place == dead.place && owner.pid == dead.pid) {
            let _ = take_away(&path, &seen);
        }
    }
}

/// Removes what dead processes of this machine have left. Best effort: nothing depends on it.
pub(super) fn sweep(locks: &Path, own: &Owner) {
    for entry in fs::read_dir(locks).into_iter().flatten().flatten() {
        let path = entry.path();
        let Some(seen) = Seen::at(&path) else { continue };
        if seen.owner().and_then(|owner| owner.is_alive(own)) == Some(false) {
            let _ = take_away(&path, &seen);
        }
    }
}

/// Somebody else's lease, looked at from time to time: for who waits for what its holder does, and not
/// for the lease.
#[derive(Debug)]
pub(crate) struct Watch {
    path: PathBuf,
    wait: Wait,
}

/// What there is to see of a lease.
#[derive(Debug)]
pub(crate) enum Sight {
    /// Nobody has it.
    Free,
    /// Somebody has, and has noted this.
    Held(String),
    /// It was a dead process's, and was taken away.
    Orphaned(Dead),
}

/// A process that is known to be gone, wherever it was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Dead {
    pub(super) place: String,
    pub(super) pid: i32,
}

impl Watch {
    pub(super) fn at(path: PathBuf) -> Watch {
        Watch { path, wait: Wait::default() }
    }

    /// Looks: one file is opened and read.
    pub(crate) fn look(&mut self) -> Result<Sight, Error> {
        let own = Owner::own();
        let seen = match Seen::look(&self.path) {
            Ok(seen) => seen,
            Err(e) if is_gone(&e) => return Ok(Sight::Free),
            Err(e) => return Err(Error::new("read lease", &self.path, e)),
        };
        let is_dead = match seen.owner().and_then(|owner| owner.is_alive(own)) {
            Some(alive) => !alive,
            None => self.wait.is_over(&seen, RULES),
        };
        if is_dead {
            take_away(&self.path, &seen).map_err(|e| Error::new("remove lease", &self.path, e))?;
            let owner = seen.owner();
            let dead = owner.map(|Owner { place, pid, .. }| Dead { place, pid });
            return Ok(dead.map_or(Sight::Free, Sight::Orphaned));
        }
        Ok(Sight::Held(seen.line(2).unwrap_or_default().trim_end().to_owned()))
    }
}

/// A lease as it was at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    file: (u64, u64),
    bytes: Vec<u8>,
}

impl Seen {
    fn look(path: &Path) -> io::Result<Seen> {
        // Opening it is what makes NFS ask the server.
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        // At once, and not byte after byte.
        let mut bytes = Vec::with_capacity(USUAL_LEASE);
        file.take(MAX_LEASE).read_to_end(&mut bytes)?;
        Ok(Seen { file: (metadata.dev(), metadata.ino()), bytes })
    }

    fn at(path: &Path) -> Option<Seen> {
        Seen::look(path).ok()
    }

    fn line(&self, number: usize) -> Option<&str> {
        self.bytes
            .split(|&byte| byte == b'\n')
            .nth(number)
            .and_then(|line| str::from_utf8(line).ok())
    }

    fn owner(&self) -> Option<Owner> {
        Owner::parse(self.line(1)?)
    }

    fn pins(&self) -> Vec<Digest> {
        let lines = self.bytes.split(|&byte| byte == b'\n').skip(2);
        let lines = lines.filter_map(|line| str::from_utf8(line).ok());
        lines.filter_map(|line| Digest::parse(line).ok()).collect()
    }
}

/// How long one has waited, and for whom.
#[derive(Debug, Default)]
struct Wait {
    last: Option<(Seen, Instant)>,
    silent: Duration,
    pauses: u32,
}

impl Wait {
    /// Whether the holder has been silent for too long. Only time in which the lease was really
    /// looked at counts: a waiter that was stopped, or whose file server was away, gives the holder
    /// its time anew.
    fn is_over(&mut self, seen: &Seen, rules: Rules) -> bool {
        match &mut self.last {
            Some((before, at)) if before == seen => {
                self.silent += at.elapsed().min(rules.beat);
                *at = Instant::now();
            }
            last => {
                *last = Some((seen.clone(), Instant::now()));
                self.silent = Duration::ZERO;
            }
        }
        self.silent >= rules.silence
    }

    /// Whether it is worth a word.
    fn is_long(&self) -> bool {
        self.pauses >= 6
    }

    fn pause(&mut self, seen: &Seen, own: &Owner) {
        let is_near = seen.owner().is_some_and(|owner| owner.place == own.place);
        let longest = if is_near { NEAR_PAUSE } else { FAR_PAUSE };
        thread::sleep(Duration::from_millis(1 << self.pauses.min(10)).min(longest));
        self.pauses += 1;
    }
}

/// Gives a lease back to nobody, if it is still the one that was seen.
fn take_away(path: &Path, seen: &Seen) -> io::Result<()> {
    let aside = beside(path);
    match fs::rename(path, &aside) {
        // Somebody else was quicker.
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        renamed => renamed?,
    }
    if Seen::at(&aside).as_ref() != Some(seen) {
        // Somebody else's by now, or its holder lives. If a third one has the name, its holder
        // notices by itself.
        match fs::hard_link(&aside, path) {
            Err(e) if has_no_links(&e) && !path.exists() => return fs::rename(&aside, path),
            _ => {}
        }
    }
    fs::remove_file(&aside)
}

/// Whether the name could be given to the file. The answer is the file's count of names.
fn link(unique: &Path, file: &File, path: &Path) -> io::Result<bool> {
    let linked = fs::hard_link(unique, path);
    match linked {
        Err(e) if has_no_links(&e) => Err(e),
        _ if file.metadata()?.nlink() == 2 => Ok(true),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(e) => Err(e),
        // Linked, and taken away again already.
        Ok(()) => Ok(false),
    }
}

/// Not there any more; NFS says the other of what was opened before.
fn is_gone(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound || error.kind() == io::ErrorKind::StaleNetworkFileHandle
}

/// AFS, FAT and some FUSE filesystems.
fn has_no_links(error: &io::Error) -> bool {
    use nix::libc::{EMLINK, ENOSYS, EOPNOTSUPP, EPERM, EXDEV};
    matches!(error.raw_os_error(), Some(EMLINK | ENOSYS | EOPNOTSUPP | EPERM | EXDEV))
}

/// Writes a file of one's own beside the lease.
fn write_own(path: &Path, pins: &[&Digest], own: &Owner) -> io::Result<(PathBuf, File)> {
    loop {
        let unique = beside(path);
        match write(&unique, pins, own) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            written => return written.map(|file| (unique, file)),
        }
    }
}

fn beside(path: &Path) -> PathBuf {
    fresh_path(path.parent().expect("a lease is in a directory"), path)
}

fn write(path: &Path, pins: &[&Digest], own: &Owner) -> io::Result<File> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let pins: String = pins.iter().map(|pin| format!("{pin}\n")).collect();
    let written = write!(file, "{}{own}\n{pins}", first_line(0)).and_then(|()| file.sync_data());
    // A lease without content is nobody's whom others could ask for.
    written.inspect_err(|_| drop(fs::remove_file(path)))?;
    Ok(file)
}

/// Always as long: it is rewritten in place.
fn first_line(beat: u64) -> String {
    format!("{beat:020}\n")
}

/// Removes a file in the end.
struct RemovedFile(PathBuf);

impl Drop for RemovedFile {
    fn drop(&mut self) {
        // Best effort: what stays is swept as a dead process's.
        let _ = fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Barrier,
        atomic::{AtomicUsize, Ordering},
    };

    use super::*;

    const QUICK: Rules =
        Rules { beat: Duration::from_millis(20), silence: Duration::from_millis(200) };

    fn place() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path().join("name");
        (dir, path)
    }

    fn claim(path: &Path, own: &Owner) -> Lease {
        Lease::claim(path, &[], own, QUICK, || {}).expect("claim")
    }

    /// A process of another machine: its number says nothing here.
    fn elsewhere() -> Owner {
        Owner { place: "another".to_owned(), ..Owner::own().clone() }
    }

    fn left(path: &Path) -> usize {
        fs::read_dir(path.parent().expect("a directory")).expect("list").count()
    }

    #[test]
    fn one_at_a_time_has_it_and_nothing_is_left() {
        let (_dir, path) = place();
        let (holders, barrier) = (AtomicUsize::new(0), Barrier::new(8));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    barrier.wait();
                    for _ in 0..10 {
                        let lease = claim(&path, Owner::own());
                        assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "two have it");
                        assert!(lease.is_held());
                        holders.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(left(&path), 0);
    }

    #[test]
    fn a_dead_process_of_this_machine_is_not_waited_for() {
        let (_dir, path) = place();
        let dead = Owner { pid: i32::MAX, ..Owner::own().clone() };
        let lease = claim(&path, &dead);
        let began = Instant::now();
        let own = Lease::claim(&path, &[], Owner::own(), RULES, || panic!("nobody is there"));
        assert!(began.elapsed() < RULES.silence);
        assert!(own.expect("claim").is_held() && !lease.is_held());
    }

    #[test]
    fn another_machines_process_has_it_as_long_as_it_shows_itself() {
        let (_dir, path) = place();
        let far = claim(&path, &elsewhere());
        thread::scope(|scope| {
            let waiter = scope.spawn(|| drop(claim(&path, Owner::own())));
            thread::sleep(3 * QUICK.silence);
            assert!(!waiter.is_finished(), "taken from a process that lives");
            drop(far);
        });
        assert_eq!(left(&path), 0);
        // One that has died: the file stays as it was.
        drop(write(&path, &[], &elsewhere()).expect("write"));
        let (began, mut told) = (Instant::now(), 0);
        let own = Lease::claim(&path, &[], Owner::own(), QUICK, || told += 1).expect("claim");
        assert!(began.elapsed() >= QUICK.silence && own.is_held());
        assert_eq!(told, 1);
    }

    #[test]
    fn a_waiter_that_stood_still_does_not_count_that_time() {
        let (_dir, path) = place();
        drop(write(&path, &[], &elsewhere()).expect("write"));
        let seen = Seen::at(&path).expect("seen");
        let mut wait = Wait::default();
        assert!(!wait.is_over(&seen, QUICK));
        thread::sleep(2 * QUICK.silence);
        assert!(!wait.is_over(&seen, QUICK), "it was looked at twice only");
    }

    #[test]
    fn what_is_not_as_it_was_seen_is_put_back() {
        let (_dir, path) = place();
        drop(write(&path, &[], &elsewhere()).expect("write"));
        let seen = Seen::at(&path).expect("seen");
        fs::remove_file(&path).expect("remove");
        let own = claim(&path, Owner::own());
        take_away(&path, &seen).expect("take away");
        assert!(own.is_held(), "a lease was taken away for another one");
        assert_eq!(left(&path), 1);
    }

    #[test]
    fn who_lost_it_leaves_the_next_ones_alone() {
        let (_dir, path) = place();
        let lost = claim(&path, Owner::own());
        take_away(&path, &Seen::at(&path).expect("seen")).expect("take away");
        let own = claim(&path, Owner::own());
        assert!(!lost.is_held());
        drop(lost);
        assert!(own.is_held());
    }

    #[test]
    fn pins_are_seen_as_long_as_somebody_may_need_them() {
        let (dir, path) = place();
        let (one, two) = (Digest::of(b"1"), Digest::of(b"2"));
        let lease = Lease::claim(&path, &[&one, &two], Owner::own(), QUICK, || {});
        let pins = || pins(dir.path(), Owner::own());
        assert_eq!(pins(), [one.clone(), two]);
        drop(lease);
        assert_eq!(pins(), []);
        let dead = Owner { pid: i32::MAX, ..Owner::own().clone() };
        drop(write(&path, &[&one], &dead).expect("write"));
        assert_eq!(pins(), []);
        drop(write(&dir.path().join("other"), &[&one], &elsewhere()).expect("write"));
        assert_eq!(pins(), [one]);
        sweep(dir.path(), Owner::own());
        assert_eq!(left(&path), 1, "only the other machine's stays");
    }
}
