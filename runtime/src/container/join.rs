//! The ranks of one step on one node share one container.
//!
//! MPI's shared memory (CMA, XPMEM, `/proc/<pid>/fd`) works between processes of one user
//! namespace and aborts between two. So the first rank builds, and each later one enters the
//! namespaces of a rank that is alive. No process of ours holds them: when the last rank is gone,
//! so are they.
//!
//! ```text
//! <node_dir>/steps/<job>.<step>-<parent's pid>-<its start>/      0700
//!   lock        held by the first rank from open to entered; the kernel drops it at death
//!   ranks       "pid user-ns mount-ns", a line for each rank that is in
//!   image       the digest that the image's name stood for when the first rank asked
//!   saver       made by the rank that saves the container: "pid user-ns mount-ns", and as which
//!               descriptors that process has them open
//!   failed      exit status and text of what failed for the whole step
//!   said-…      a message that one rank of this node has printed
//! ```
//!
//! All ranks of a step on a node are children of one slurmstepd, which makes the directory's name
//! unique for ever: job numbers come again, and a requeued job keeps its own. A directory whose
//! slurmstepd is gone is removed by whichever step comes next.

use std::{
    ffi::OsString,
    fmt,
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    fcntl::{Flock, FlockArg, OFlag, open, openat},
    sched::{CloneFlags, setns},
    sys::stat::Mode,
    unistd::{Pid, getppid},
};

use super::{Container, Error, Plan, enter, io_error};
use crate::{
    Digest,
    kept::LOCK,
    sys::process::{is_there, start_time},
};

/// How long a rank that cannot be looked at may stay so. In the middle of `execve` a process
/// belongs to nobody for a moment (ptrace(2), "dumpable").
const EXEC_WINDOW: Duration = Duration::from_millis(20);

/// The file that all ranks write to.
const RANKS: &str = "ranks";
/// The file of the rank that saves the container.
const SAVER: &str = "saver";

/// For so long after a rank has ended others are still expected that have not begun. One that cannot
/// begin never does.
const LATENESS: Duration = Duration::from_secs(10);

/// Tells one step on this node from every other, of the past as well.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of the step that the calling process is a task of.
    pub fn of_this_task(env: impl Fn(&str) -> Option<OsString>) -> Key {
        let parent = getppid();
        let text = |name| env(name).map(|value| value.to_string_lossy().into_owned());
        // Under hidepid the parent cannot be looked at; a restart is then told by its number.
        let start = start_time(parent).map(|time| time.to_string()).unwrap_or_else(|| {
            format!("r{}", text("SLURM_RESTART_COUNT").unwrap_or_else(|| "0".into()))
        });
        let (job, step) = (text("SLURM_JOB_ID"), text("SLURM_STEP_ID"));
        let step = step.unwrap_or_else(|| "batch".into());
        Key::new(&format!("{}.{step}", job.unwrap_or_default()), parent, &start)
    }

    fn new(step: &str, parent: Pid, start: &str) -> Key {
        // The environment is the user's to write, and this becomes a file name.
        let is_odd = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_');
        Key(format!("{}-{parent}-{}", step.replace(is_odd, "_"), start.replace(is_odd, "_")))
    }

    /// Whether the slurmstepd that this key names is there.
    fn is_alive(&self) -> bool {
        let mut fields = self.0.rsplitn(3, '-');
        let (start, parent) = (fields.next(), fields.next().and_then(|pid| pid.parse().ok()));
        let (Some(start), Some(parent)) = (start, parent.map(Pid::from_raw)) else {
            return false;
        };
        match start.parse() {
            Ok(time) => is_there(parent, Some(time)),
            Err(_) => start.starts_with('r') && is_there(parent, None),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What failed for every rank of a step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What the ranks exit with.
    pub code: u8,
    /// What one of them has printed.
    pub text: String,
}

/// A step on this node, as one of its ranks sees it.
#[derive(Debug)]
pub struct Step {
    path: PathBuf,
    dir: OwnedFd,
    lock: Option<Flock<File>>,
}

impl Step {
    /// Opens the step's directory and waits for its lock, which the first rank holds until it has
    /// entered the container. Those that come after that need none: 64 of them find out side by side
    /// what each has to.
    pub fn open(node_dir: &Path, key: &Key) -> Result<Step, Error> {
        let steps = node_dir.join("steps");
        enter::own_directory(node_dir)?;
        enter::own_directory(&steps)?;
        remove_stale(&steps);
        let path = steps.join(&key.0);
        enter::own_directory(&path)?;

        let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let dir = open(&path, flags, Mode::empty())
            .map_err(|e| io_error("open directory", &path)(e.into()))?;
        let lock = lock(&dir, &path)?;
        let step = Step { path, dir, lock: Some(lock) };
        let is_built = step.living()?.is_some();
        Ok(if is_built { Step { lock: None, ..step } } else { step })
    }

    /// What an earlier rank found to be wrong for all, if anything. It has been printed.
    pub fn failed(&self) -> Option<Failure> {
        let mut content = String::new();
        self.file("failed", OFlag::O_RDONLY).ok()?.read_to_string(&mut content).ok()?;
        let (code, text) = content.split_once('\n')?;
        Some(Failure { code: code.parse().ok()?, text: text.to_owned() })
    }

    /// Leaves word for the ranks that wait: they need not try.
    pub fn fail(&self, failure: &Failure) {
        // Where this cannot be written, the others find out by themselves.
        let _ = self
            .file("failed", OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC)
            .and_then(|mut file| write!(file, "{}\n{}", failure.code, failure.text));
    }

    /// The digest of the image that the first rank found.
    pub fn image(&self) -> Option<Digest> {
        let mut content = String::new();
        self.file("image", OFlag::O_RDONLY).ok()?.read_to_string(&mut content).ok()?;
        Digest::parse(&content).ok()
    }

    /// Tells the ranks that wait which image it is.
    pub fn set_image(&self, digest: &Digest) {
        // Where this cannot be written, the others find out by themselves.
        let _ = self
            .file("image", OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_TRUNC)
            .and_then(|mut file| file.write_all(digest.as_str().as_bytes()));
    }

    /// Whether this rank is the one that prints `text`, of all on this node.
    pub fn say_once(&self, text: &str) -> bool {
        say_once(&self.dir, text)
    }

    /// Whether this rank is the one that saves the container, of all on this node.
    pub fn is_saver(&self) -> bool {
        self.file(SAVER, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL).is_ok()
    }

    /// The ranks of the step on this node, of which there are to be `tasks`.
    pub fn others(&self, tasks: usize) -> Others {
        Others { ranks: self.path.join(RANKS), saver: self.path.join(SAVER), tasks }
    }

    /// Another descriptor of the step's directory.
    pub(super) fn directory(&self) -> io::Result<OwnedFd> {
        self.dir.try_clone()
    }

    /// Enters the step's container: joins it by way of a rank that is in, or of who saves it, or builds
    /// it. Lets the next rank go on after that; on an error that waits until `self` is dropped, or the
    /// process ends.
    pub fn enter<'p>(&mut self, plan: &'p Plan) -> Result<Container<'p>, Error> {
        let ranks = self
            .file(RANKS, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_APPEND)
            .map_err(io_error("open list of ranks of", &plan.node_dir))?;
        let mut is_in = self.join()?;
        if !is_in && self.lock.is_none() {
            // They were there, and have ended.
            self.lock = Some(lock(&self.dir, &self.path)?);
            is_in = self.join()?;
        }
        let container = if is_in { Container::of(plan) } else { plan.enter()? };
        register(ranks).map_err(io_error("write list of ranks of", &plan.node_dir))?;
        self.lock = None;
        Ok(container)
    }

    /// Joins the container, if there is one.
    fn join(&self) -> Result<bool, Error> {
        let Some((user, mount)) = self.living()? else { return Ok(false) };
        enter_namespaces(&user, &mount)
            .map_err(|e| io_error("join namespaces of a rank in", &self.path)(e.into()))?;
        Ok(true)
    }

    /// The container's user and mount namespace, by way of the first rank that is alive, or of who keeps
    /// them open to save it. A rank that lives and cannot be looked at made itself so (prctl(2),
    /// `PR_SET_DUMPABLE`); MPI cannot reach it either, so nothing is lost by building anew.
    fn living(&self) -> Result<Option<(File, File)>, Error> {
        let lines = |name| -> Result<String, Error> {
            let mut lines = String::new();
            match self.file(name, OFlag::O_RDONLY) {
                Ok(mut file) => file.read_to_string(&mut lines),
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(lines),
                Err(e) => Err(e),
            }
            .map_err(io_error("read", self.path.join(name)))?;
            Ok(lines)
        };
        let ranks = lines(RANKS)?;
        let found = ranks.lines().filter_map(Rank::parse).find_map(|rank| rank.namespaces());
        match found {
            Some(found) => Ok(Some(found)),
            None => Ok(lines(SAVER)?.lines().find_map(kept_open)),
        }
    }

    fn file(&self, name: &str, flags: OFlag) -> io::Result<File> {
        file(&self.dir, name, flags)
    }
}

/// The ranks of a step on this node, for who waits for all of them.
#[derive(Debug)]
pub struct Others {
    ranks: PathBuf,
    saver: PathBuf,
    tasks: usize,
}

impl Others {
    /// Lets ranks that come later join by way of the calling process, for as long as that has these
    /// namespaces open: the container's user and mount namespace.
    pub(super) fn keep_open(&self, namespaces: &[File; 2]) -> io::Result<()> {
        let [user, mount] = namespaces;
        let (user_number, mount_number) = (user.metadata()?.ino(), mount.metadata()?.ino());
        let (pid, user, mount) = (std::process::id(), user.as_raw_fd(), mount.as_raw_fd());
        fs::write(&self.saver, format!("{pid} {user_number} {mount_number} {user} {mount}\n"))
    }

    /// Whether some of them still run, or are yet to begin. The first has ended at `since`.
    pub(super) fn are_there(&self, since: Instant) -> bool {
        // What cannot be read is nobody's list.
        let lines = fs::read_to_string(&self.ranks).unwrap_or_default();
        let ranks: Vec<_> = lines.lines().filter_map(Rank::parse).collect();
        let is_late = ranks.len() < self.tasks && since.elapsed() < LATENESS;
        is_late || ranks.iter().any(|rank| rank.namespaces().is_some())
    }
}

/// How many tasks a step has on this node; 1 for a job's script (srun(1), SLURM_STEP_TASKS_PER_NODE:
/// `2(x3),1`).
pub fn tasks_here(env: impl Fn(&str) -> Option<String>) -> usize {
    let is_step = env("SLURM_STEP_ID").is_some();
    let counts = env("SLURM_STEP_TASKS_PER_NODE").filter(|_| is_step).unwrap_or_default();
    let mut node: usize = env("SLURM_NODEID").and_then(|id| id.parse().ok()).unwrap_or(0);
    for part in counts.split(',') {
        let (tasks, nodes) = part.split_once("(x").unwrap_or((part, "1"));
        let (tasks, nodes) = (tasks.parse(), nodes.trim_end_matches(')').parse::<usize>());
        let (Ok(tasks), Ok(nodes)) = (tasks, nodes) else { return 1 };
        match node.checked_sub(nodes) {
            None => return tasks,
            Some(rest) => node = rest,
        }
    }
    1
}

/// Whether the calling process is the one that prints `text`, of all that ask in this directory.
pub(super) fn say_once(dir: &OwnedFd, text: &str) -> bool {
    let name = format!("said-{}", Digest::of(text.as_bytes()).short());
    let made = file(dir, &name, OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL);
    // Said twice is better than not at all.
    !made.is_err_and(|e| e.kind() == io::ErrorKind::AlreadyExists)
}

fn file(dir: &OwnedFd, name: &str, flags: OFlag) -> io::Result<File> {
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(dir, name, flags, Mode::from_bits_retain(0o600))?.into())
}

/// Waits for the lock of a directory that several processes use.
pub(super) fn lock(dir: &OwnedFd, path: &Path) -> Result<Flock<File>, Error> {
    let path = path.join(LOCK);
    let mut file =
        file(dir, LOCK, OFlag::O_RDWR | OFlag::O_CREAT).map_err(io_error("open", &path))?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusive) {
            Ok(lock) => return Ok(lock),
            Err((again, Errno::EINTR)) => file = again,
            Err((_, e)) => return Err(io_error("lock", path)(e.into())),
        }
    }
}

/// Moves the calling process into namespaces that others are in.
pub(super) fn enter_namespaces(user: &File, mount: &File) -> Result<(), Errno> {
    // setns(2): the user namespace comes first, it gives the right to the other.
    enter::retry_while_reaped(|| setns(user, CloneFlags::CLONE_NEWUSER))?;
    setns(mount, CloneFlags::CLONE_NEWNS)
}

/// Opens the namespaces that a process keeps open; `None` if it is gone.
fn kept_open(line: &str) -> Option<(File, File)> {
    let mut numbers = line.split(' ').map(str::parse::<u64>);
    let mut next = || numbers.next()?.ok();
    let (pid, user, mount) = (next()?, next()?, next()?);
    let mut open = |number: u64| {
        let file = File::open(format!("/proc/{pid}/fd/{}", next()?)).ok()?;
        (file.metadata().ok()?.ino() == number).then_some(file)
    };
    Some((open(user)?, open(mount)?))
}

/// A rank that has entered, and the namespaces that it entered.
struct Rank {
    pid: u32,
    user: u64,
    mount: u64,
}

impl Rank {
    fn parse(line: &str) -> Option<Rank> {
        let mut numbers = line.split(' ');
        let rank = Rank {
            pid: numbers.next()?.parse().ok()?,
            user: numbers.next()?.parse().ok()?,
            mount: numbers.next()?.parse().ok()?,
        };
        numbers.next().is_none().then_some(rank)
    }

    /// Opens both namespaces; `None` if this rank is gone, whoever may have its number now.
    fn namespaces(&self) -> Option<(File, File)> {
        let start = Instant::now();
        let open = |name: &str, inode: u64| -> io::Result<Option<File>> {
            let file = File::open(format!("/proc/{}/ns/{name}", self.pid))?;
            Ok((file.metadata()?.ino() == inode).then_some(file))
        };
        loop {
            match (open("user", self.user), open("mnt", self.mount)) {
                (Ok(user), Ok(mount)) => return user.zip(mount),
                (Err(e), _) | (_, Err(e))
                    if e.kind() == io::ErrorKind::PermissionDenied
                        && start.elapsed() < EXEC_WINDOW =>
                {
                    sleep(Duration::from_millis(1));
                }
                _ => return None,
            }
        }
    }
}

/// Adds the calling process, in one write: readers see whole lines.
fn register(mut ranks: File) -> io::Result<()> {
    let inode =
        |name: &str| Ok::<_, io::Error>(fs::metadata(format!("/proc/self/ns/{name}"))?.ino());
    let line = format!("{} {} {}\n", std::process::id(), inode("user")?, inode("mnt")?);
    ranks.write_all(line.as_bytes())
}

/// Removes what steps have left behind. Only memory is at stake: whatever fails is for the next.
fn remove_stale(steps: &Path) {
    let Ok(entries) = fs::read_dir(steps) else { return };
    for entry in entries.flatten() {
        let key = Key(entry.file_name().to_string_lossy().into_owned());
        if !key.is_alive() {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn this_process() -> Key {
        let pid = Pid::this();
        Key::new("7.0", pid, &start_time(pid).expect("own /proc entry").to_string())
    }

    #[test]
    fn a_key_is_a_file_name_whatever_the_environment_says() {
        for (job, step, expected) in [
            (Some("17"), Some("0"), "17.0-"),
            (Some("17"), None, "17.batch-"),
            (Some("../../x"), Some("a/b-c"), ".._.._x.a_b_c-"),
            (None, None, ".batch-"),
        ] {
            let key = Key::of_this_task(|name| match name {
                "SLURM_JOB_ID" => job.map(OsString::from),
                "SLURM_STEP_ID" => step.map(OsString::from),
                _ => None,
            });
            assert!(key.0.starts_with(expected), "{key}");
            assert!(key.is_alive(), "{key}: the parent of this test is there");
        }
    }

    #[test]
    fn a_step_is_stale_when_its_parent_is_gone() {
        let start: u64 = start_time(Pid::this()).expect("own /proc entry");
        for (name, alive) in [
            (this_process().0, true),
            (Key::new("7.0", Pid::this(), &(start + 1).to_string()).0, false),
            (Key::new("7.0", Pid::this(), "r0").0, true),
            (Key::new("7.0", Pid::from_raw(i32::MAX), "1").0, false),
            (Key::new("7.0", Pid::from_raw(i32::MAX), "r0").0, false),
            ("rubbish".to_owned(), false),
        ] {
            assert_eq!(Key(name.clone()).is_alive(), alive, "{name}");
        }
    }

    #[test]
    fn stale_directories_go_and_others_stay() {
        let node_dir = tempfile::tempdir().unwrap();
        let stale = node_dir.path().join("steps/7.0-2147483647-1");
        drop(Step::open(node_dir.path(), &this_process()).unwrap());
        fs::create_dir(&stale).unwrap();
        fs::write(stale.join("ranks"), "").unwrap();
        drop(Step::open(node_dir.path(), &Key::new("8.0", Pid::this(), "r0")).unwrap());
        assert!(!stale.exists());
        assert_eq!(fs::read_dir(node_dir.path().join("steps")).unwrap().count(), 2);
    }

    #[test]
    fn a_failure_and_a_message_are_for_all_ranks() {
        let node_dir = tempfile::tempdir().unwrap();
        let step = Step::open(node_dir.path(), &this_process()).unwrap();
        assert_eq!(step.failed(), None);
        assert!(step.say_once("a: b"));
        let failure = Failure { code: 125, text: "one\ntwo".into() };
        step.fail(&failure);
        drop(step);
        let step = Step::open(node_dir.path(), &this_process()).unwrap();
        assert_eq!(step.failed(), Some(failure));
        assert!(!step.say_once("a: b"), "every rank would print the same message");
        assert!(step.say_once("c"));
    }

    #[test]
    fn a_dead_rank_or_another_process_is_not_joined() {
        let own = |name: &str| fs::metadata(format!("/proc/self/ns/{name}")).unwrap().ino();
        let pid = std::process::id();
        for (rank, found) in [
            (Rank { pid, user: own("user"), mount: own("mnt") }, true),
            (Rank { pid, user: own("user"), mount: 1 }, false),
            (Rank { pid, user: 1, mount: own("mnt") }, false),
            (Rank { pid: i32::MAX as u32, user: own("user"), mount: own("mnt") }, false),
        ] {
            assert_eq!(rank.namespaces().is_some(), found);
        }
        assert!(Rank::parse("1 2").is_none() && Rank::parse("1 2 3 4").is_none());
    }

    #[test]
    fn the_tasks_of_a_node_are_counted() {
        for (counts, node, tasks) in [
            ("4", "0", 4),
            ("2(x3),1", "0", 2),
            ("2(x3),1", "2", 2),
            ("2(x3),1", "3", 1),
            ("2(x3),1", "4", 1),
            ("", "0", 1),
            ("x(x)", "0", 1),
        ] {
            let all = [
                ("SLURM_STEP_ID", "0"),
                ("SLURM_STEP_TASKS_PER_NODE", counts),
                ("SLURM_NODEID", node),
            ];
            let of = |variables: &[(&str, &str)]| {
                let find = |name: &str| variables.iter().find(|(other, _)| *other == name);
                tasks_here(|name| find(name).map(|(_, value)| (*value).to_owned()))
            };
            assert_eq!(of(&all), tasks, "{counts} {node}");
            assert_eq!(of(&all[1..]), 1, "a script is one");
        }
    }

    #[test]
    fn ranks_are_there_until_they_end() {
        let node_dir = tempfile::tempdir().unwrap();
        let step = Step::open(node_dir.path(), &this_process()).unwrap();
        let (now, late) = (Instant::now(), Instant::now().checked_sub(LATENESS));
        let late = late.expect("the machine runs longer than that");
        assert!(step.others(1).are_there(now), "it has not begun");
        assert!(!step.others(1).are_there(late), "it never will");
        let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_APPEND;
        writeln!(step.file(RANKS, flags).unwrap(), "{} 1 1", i32::MAX).unwrap();
        assert!(!step.others(1).are_there(now));
        register(step.file(RANKS, flags).unwrap()).unwrap();
        assert!(step.others(2).are_there(late), "this one runs");
        assert!(step.is_saver() && !step.is_saver());
        assert!(step.living().unwrap().is_some());
    }

    #[test]
    fn a_container_is_joined_though_all_ranks_have_ended() {
        let node_dir = tempfile::tempdir().unwrap();
        let step = Step::open(node_dir.path(), &this_process()).unwrap();
        assert!(step.is_saver() && step.living().unwrap().is_none());
        let namespaces =
            ["user", "mnt"].map(|ns| File::open(format!("/proc/self/ns/{ns}")).unwrap());
        step.others(1).keep_open(&namespaces).unwrap();
        let (user, mount) = step.living().unwrap().expect("it is kept open");
        let number = |file: &File| file.metadata().unwrap().ino();
        assert_eq!([&user, &mount].map(number), namespaces.each_ref().map(number));
        drop(step);
        let late = Step::open(node_dir.path(), &this_process()).unwrap();
        assert!(late.lock.is_none() && late.living().unwrap().is_some());
        drop(namespaces);
        assert!(late.living().unwrap().is_none());
    }

    #[test]
    fn another_users_directory_is_refused() {
        let node_dir = tempfile::tempdir().unwrap();
        let (open, link) = (node_dir.path().join("open"), node_dir.path().join("link"));
        fs::create_dir(&open).unwrap();
        std::os::unix::fs::symlink(&open, &link).unwrap();
        fs::set_permissions(&open, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        for (dir, problem) in [(&open, "others can write"), (&link, "not a directory")] {
            let error = Step::open(dir, &this_process()).expect_err(problem).to_string();
            assert!(error.contains(problem), "{error}");
        }
    }
}
