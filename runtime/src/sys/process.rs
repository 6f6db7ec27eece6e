//! How a process begins and ends, what it inherits without wanting it, and what tells it from the next
//! of its number.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::process::CommandExt as _,
    },
    process::{self, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sched::{CpuSet, sched_setaffinity},
    sys::{
        prctl::set_pdeathsig,
        resource::{Resource, setrlimit},
        signal::{SigHandler, SigSet, SigmaskHow, Signal, kill, raise, signal, sigprocmask},
        wait::waitpid,
    },
    unistd::{ForkResult, Pid, getpid, getppid},
};

/// Kernel signals run from 1 to 64 on every architecture that Slurm runs on (signal(7)).
const LAST_SIGNAL: libc::c_int = 64;

/// How long threads that have ended are waited for.
const REAPING: Duration = Duration::from_secs(1);

/// `sizeof(sigset_t)` of the kernel's, in bytes.
const SIGSET_SIZE: usize = 8;

/// Restores the default action of `SIGPIPE`, which Rust programs start with ignored. What else the
/// parent chose to ignore stays ignored (nohup).
pub fn reset_sigpipe() {
    // SAFETY: the default action runs no code of ours.
    unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) }.expect("SIGPIPE can be changed");
}

/// Restores every signal's default action and unblocks all.
///
/// Rust programs start with `SIGPIPE` ignored, and some slurmstepd releases leave others ignored or
/// blocked; both survive `execve`. Meant for the first lines of `main`: it also takes away the
/// message that Rust prints on a stack overflow.
pub fn reset_signals() {
    // SIG_DFL, no flags, no restorer, an empty mask: in every architecture's layout it is zeroes.
    let default = [0_u64; 8];
    for signal in 1..=LAST_SIGNAL {
        // Not libc's sigaction(3): that refuses the two signals which it keeps to itself, and they
        // too can come ignored from a parent.
        // SAFETY: `default` outlives the call and is larger than any kernel's `struct sigaction`;
        // nothing is written back, and no handler is installed that could run. SIGKILL and SIGSTOP
        // refuse with EINVAL, which is right: they cannot have been changed.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SIGSET_SIZE,
            )
        };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .expect("SIG_SETMASK and an empty set are valid arguments");
}

/// Restores the default action of `SIGCHLD`: where it comes ignored from a parent, nobody learns how a
/// child has ended (wait(2)).
pub fn reset_sigchld() {
    // SAFETY: the default action runs no code of ours.
    unsafe { signal(Signal::SIGCHLD, SigHandler::SigDfl) }.expect("SIGCHLD can be changed");
}

/// Which of two processes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fork {
    /// The one that there was, and the number of the other.
    Parent(Pid),
    /// The new one.
    Child,
}

/// Splits the calling process, which must have one thread, in two. Threads that were joined a moment
/// ago may still be on the kernel's books; they are waited for.
pub fn fork() -> io::Result<Fork> {
    let start = Instant::now();
    while fs::read_dir("/proc/self/task")?.count() != 1 {
        if start.elapsed() > REAPING {
            return Err(io::Error::other("the process has more than one thread"));
        }
        sleep(Duration::from_millis(1));
    }
    // SAFETY: this is the only thread, so no lock is held that nobody is left to open.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => Ok(Fork::Parent(child)),
        ForkResult::Child => Ok(Fork::Child),
    }
}

/// Which of two processes this is, that have nothing to do with each other any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one that there was.
    Near,
    /// The new one. It is the child of whoever takes orphans, and ends by `execve` or [`quit`].
    Far,
}

/// Splits off a process that is nobody's child here: no wait(2) of a program that this one becomes
/// will ever find it. As [`fork`], for a process of one thread.
pub fn detach() -> io::Result<Side> {
    match fork()? {
        Fork::Parent(child) => {
            // Where somebody ignores SIGCHLD there is nothing to wait for (wait(2)).
            while waitpid(child, None) == Err(Errno::EINTR) {}
            Ok(Side::Near)
        }
        Fork::Child => match fork() {
            Ok(Fork::Child) => Ok(Side::Far),
            _ => quit(0),
        },
    }
}

/// Ends at once. What the process that this one was split off from wants to write or to clean up at
/// its end is not done twice.
pub fn quit(code: i32) -> ! {
    // SAFETY: it touches nothing of this process's.
    unsafe { libc::_exit(code) }
}

/// Ignores every signal that can be ignored, and those that follow `execve` do too.
pub fn ignore_signals() {
    // SIG_IGN is the first word; what follows is as in `reset_signals`.
    let mut ignored = [0_u64; 8];
    ignored[0] = libc::SIG_IGN as u64;
    for signal in (1..=LAST_SIGNAL).filter(|signal| *signal != libc::SIGCHLD) {
        // SAFETY: as in `reset_signals`. A fault of the program's own still ends it: the kernel lets
        // nobody ignore that (force_sig in its sources).
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                ignored.as_ptr(),
                std::ptr::null_mut::<u64>(),
                SIGSET_SIZE,
            )
        };
    }
}

/// Takes all cores that the calling process may have, whichever it was bound to.
pub fn use_all_cores() {
    let mut all = CpuSet::new();
    for core in 0..CpuSet::count() {
        // Below the count, every number is valid.
        let _ = all.set(core);
    }
    // The kernel cuts this down to the step's cpuset. Where it refuses, it is slower.
    let _ = sched_setaffinity(Pid::from_raw(0), &all);
}

/// Has a program end with the thread that starts it, however that ends (prctl(2),
/// `PR_SET_PDEATHSIG`).
pub fn end_with_parent(command: &mut Command) {
    let parent = getpid();
    let bind = move || {
        set_pdeathsig(Signal::SIGKILL)?;
        match getppid() == parent {
            true => Ok(()),
            false => Err(Errno::ESRCH.into()),
        }
    };
    // SAFETY: between fork and exec only one thread is there, and what runs in it are system calls.
    unsafe { command.pre_exec(bind) };
}

/// Keeps all descriptors but the first three from the next program
/// ([`close_range(2)`](https://man7.org/linux/man-pages/man2/close_range.2.html), Linux 5.11).
pub fn hide_descriptors() -> io::Result<()> {
    let flags = libc::CLOSE_RANGE_CLOEXEC;
    // SAFETY: no descriptor is closed before `execve`, when nobody is left to use it.
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, flags) };
    Errno::result(done)?;
    Ok(())
}

/// Has a program begin with the first three descriptors only.
pub fn close_inherited(command: &mut Command) {
    // SAFETY: between fork and exec only one thread is there, and what runs in it is one system call.
    unsafe { command.pre_exec(hide_descriptors) };
}

/// Closes all descriptors but the first three and these. What owned the others must not be used, nor
/// dropped, from here on: for a process that was split off, and leaves that to the other.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut kept: Vec<_> = kept.iter().map(|fd| fd.as_raw_fd().unsigned_abs()).collect();
    kept.sort_unstable();
    let close = |first: u32, last: u32| {
        if first > last {
            return Ok(());
        }
        // SAFETY: who calls does not use them.
        let done = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
        Errno::result(done).map(drop)
    };
    let mut first = 3;
    for fd in kept.into_iter().filter(|fd| *fd >= 3) {
        close(first, fd - 1)?;
        first = fd + 1;
    }
    Ok(close(first, libc::c_uint::MAX)?)
}

/// A descriptor of a process, which can be read from once that has ended
/// ([`pidfd_open(2)`](https://man7.org/linux/man-pages/man2/pidfd_open.2.html), Linux 5.3).
pub fn pidfd_open(pid: Pid) -> io::Result<OwnedFd> {
    // SAFETY: nothing is pointed to.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) })?;
    // SAFETY: the call returned a new descriptor that nothing else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Takes over how another process has its signals: sets with a bit for each.
pub fn set_signals(ignored: u64, blocked: u64) {
    let mut action = [0_u64; 8];
    action[0] = libc::SIG_IGN as u64;
    let is_ignored = |signal: &libc::c_int| ignored & (1 << (signal - 1)) != 0;
    for signal in (1..=LAST_SIGNAL).filter(is_ignored) {
        let action = action.as_ptr();
        let nothing = std::ptr::null_mut::<u64>();
        // SAFETY: as in `reset_signals`.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, action, nothing, SIGSET_SIZE) };
    }
    let (set, nothing) = (&raw const blocked, std::ptr::null_mut::<u64>());
    // SAFETY: the kernel reads a set of signals of that size.
    unsafe {
        libc::syscall(libc::SYS_rt_sigprocmask, libc::SIG_SETMASK, set, nothing, SIGSET_SIZE)
    };
}

/// Sets a limit by its number (getrlimit(2)); what the caller may not have it does not get.
pub fn set_limit(number: u32, [soft, hard]: [u64; 2]) {
    let limit = libc::rlimit64 { rlim_cur: soft, rlim_max: hard };
    // SAFETY: the kernel reads one `struct rlimit64`, and refuses numbers that it does not know.
    unsafe { libc::syscall(libc::SYS_prlimit64, 0, number, &raw const limit, 0_usize) };
}

/// Tells whether a signal is ignored.
pub fn is_ignored(number: Signal) -> bool {
    let mut action = [0_u64; 8];
    // SAFETY: `action` is larger than any kernel's `struct sigaction`, and the handler is the first
    // word of it on every architecture that is not MIPS; nothing is changed.
    let done = unsafe {
        libc::syscall(
            libc::SYS_rt_sigaction,
            number as libc::c_int,
            std::ptr::null::<u64>(),
            action.as_mut_ptr(),
            SIGSET_SIZE,
        )
    };
    done == 0 && action[0] as libc::sighandler_t == libc::SIG_IGN
}

/// Ends by a signal, as another process has, and without a dump of memory that is not its own.
pub fn end_by(number: Signal) -> ! {
    // Where this is refused, there is a dump more.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    // SAFETY: the default action runs no code of ours.
    let _ = unsafe { signal(number, SigHandler::SigDfl) };
    let mut set = SigSet::empty();
    set.add(number);
    let _ = set.thread_unblock();
    let _ = raise(number);
    // It is one that ends nobody: as a shell says it.
    process::exit(128 + number as i32)
}

/// When a process started, in ticks since boot (proc_pid_stat(5), field 22).
pub fn start_time(pid: Pid) -> Option<u64> {
    Stat::read(pid).map(|stat| stat.start)
}

/// Whether the process of this number is there that started at that time; with `None`, any. Others
/// count as there that cannot be looked at (hidepid).
///
/// A process that has ended keeps its number until its parent asks how. Where processes that nobody
/// waits for are nobody's business, as in containers without an init, that is for ever.
pub fn is_there(pid: Pid, start: Option<u64>) -> bool {
    match Stat::read(pid) {
        Some(stat) => !stat.has_ended && start.is_none_or(|start| start == stat.start),
        // kill(2) tells of every process.
        None => kill(pid, None) != Err(Errno::ESRCH),
    }
}

/// What `/proc` says of a process.
struct Stat {
    has_ended: bool,
    start: u64,
}

impl Stat {
    fn read(pid: Pid) -> Option<Stat> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name of the program, in parentheses and of any content.
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        // The first thread alone can end before the others.
        let threads: u32 = fields.get(17)?.parse().ok()?;
        let has_ended = matches!(*fields.first()?, "Z" | "X") && threads <= 1;
        Some(Stat { has_ended, start: fields.get(19)?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    #[test]
    fn a_process_that_has_ended_is_not_there_though_it_has_its_number() {
        let mut child = process::Command::new("sh")
            .args(["-c", "read x"])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let pid = Pid::from_raw(child.id().cast_signed());
        let start = start_time(pid);
        assert!(start.is_some() && is_there(pid, start) && is_there(pid, None));
        assert!(!is_there(pid, start.map(|start| start + 1)));
        drop(child.stdin.take());
        // It ends, and is not waited for.
        while is_there(pid, start) {
            sleep(Duration::from_millis(1));
        }
        assert_eq!(start_time(pid), start, "it has its number for as long as nobody waits for it");
        child.wait().unwrap();
        assert!(!is_there(pid, None));
    }
}
