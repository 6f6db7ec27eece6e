//! A terminal of the program's own.
//!
//! ```text
//! our terminal ── stdin ──► parent ── keys ──► pty ──► child: builds the container, is the program
//!              ◄─ stdout ── (relays) ◄─ text ──
//! ```
//!
//! Our terminal passes keys on as they are typed, so that Ctrl-C and Ctrl-Z are for the one inside
//! to understand. The parent passes on its size and the signals that somebody sends, and ends as the
//! child does.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process,
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, OFlag, fcntl},
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, SigmaskHow, Signal, kill, raise},
        signalfd::{SfdFlags, SignalFd},
        termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, read, write},
};

use super::{Error, io_error};
use crate::sys::{
    process::{Fork, end_by, fork, is_ignored, reset_sigchld},
    pty,
};

/// What is typed to say that nothing more comes (termios(3), VEOF, as every terminal begins).
const END_OF_FILE: u8 = 4;

/// Sent to us, and meant for the program.
pub(super) const PASSED_ON: [Signal; 6] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGQUIT,
    Signal::SIGHUP,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
];

/// Gives what follows a terminal of its own. Returns in another process, which has it; the calling
/// one relays, ends as that one does, and does not return.
pub fn begin() -> Result<(), Error> {
    let failed = |op| move |e: io::Error| io_error(op, "a terminal")(e);
    let stdin = io::stdin();
    // Whoever watches may sit at one stream alone: `shifter run -t … | tee log`.
    let ours = tcgetattr(&stdin).ok();
    let (master, slave) = pty::open(ours.as_ref()).map_err(failed("open"))?;
    pass_size(&master);

    reset_sigchld();
    let mut signals = SigSet::empty();
    // What the parent of all this chose to ignore stays ignored (nohup).
    signals.extend(PASSED_ON.into_iter().filter(|signal| !is_ignored(*signal)));
    signals.extend([Signal::SIGCHLD, Signal::SIGWINCH, Signal::SIGTSTP]);
    let before = signals
        .thread_swap_mask(SigmaskHow::SIG_BLOCK)
        .map_err(|e| failed("block signals for")(e.into()))?;
    match fork().map_err(failed("start a process in"))? {
        Fork::Child => {
            before.thread_set_mask().map_err(|e| failed("unblock signals for")(e.into()))?;
            drop(master);
            pty::enter(&slave).map_err(failed("enter"))
        }
        Fork::Parent(child) => {
            drop(slave);
            let raw = ours.map(Raw::begin);
            let ended = relay(child, &master, &signals, raw.as_ref());
            drop(raw);
            match ended.map_err(failed("relay"))? {
                WaitStatus::Exited(_, code) => process::exit(code),
                WaitStatus::Signaled(_, signal, _) => end_by(signal),
                other => unreachable!("waited for an end, got {other:?}"),
            }
        }
    }
}

/// While it lives, our terminal hands on what is typed.
struct Raw {
    before: Termios,
    raw: Termios,
}

impl Raw {
    fn begin(before: Termios) -> Raw {
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        let this = Raw { before, raw };
        this.set(&this.raw);
        this
    }

    fn set(&self, modes: &Termios) {
        // A terminal that has gone away needs no modes.
        let _ = tcsetattr(io::stdin(), SetArg::TCSADRAIN, modes);
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        self.set(&self.before);
    }
}

/// Copies the size of our terminal, if there is one.
fn pass_size(master: &OwnedFd) {
    let ours = pty::size(io::stdin()).or_else(|_| pty::size(io::stdout()));
    if let Ok(size) = ours.or_else(|_| pty::size(io::stderr())) {
        // The terminal is as large as it was, then.
        let _ = pty::set_size(master, &size);
    }
}

/// Copies both ways until the child has ended and all that it said is out.
fn relay(
    child: Pid,
    master: &OwnedFd,
    signals: &SigSet,
    raw: Option<&Raw>,
) -> io::Result<WaitStatus> {
    let signals = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
    // A program that does not read must not keep us from what it writes.
    let flags = OFlag::from_bits_retain(fcntl(master, FcntlArg::F_GETFL)?) | OFlag::O_NONBLOCK;
    fcntl(master, FcntlArg::F_SETFL(flags))?;
    let (stdin, stdout) = (io::stdin(), io::stdout());
    let (mut typed, mut is_open) = (Typed::default(), true);
    loop {
        let mut wanted = vec![PollFd::new(signals.as_fd(), PollFlags::POLLIN)];
        if is_open {
            let mut flags = PollFlags::POLLIN;
            flags.set(PollFlags::POLLOUT, !typed.pending.is_empty());
            wanted.push(PollFd::new(master.as_fd(), flags));
            if !typed.is_over && typed.pending.is_empty() {
                wanted.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
            }
        }
        match poll(&mut wanted, PollTimeout::NONE) {
            Err(Errno::EINTR) => continue,
            other => other?,
        };
        let is_ready = |n: usize| wanted.get(n).is_some_and(|fd| fd.any() == Some(true));
        let (text_came, keys_came) = (is_ready(1), is_ready(2));
        if text_came {
            is_open = copy_out(master, stdout.as_fd())?;
        }
        if keys_came {
            typed.read(stdin.as_fd());
        }
        typed.pass(master);
        while let Some(info) = signals.read_signal()? {
            match Signal::try_from(info.ssi_signo as i32) {
                Ok(Signal::SIGCHLD) => {
                    let status = waitpid(child, Some(WaitPidFlag::WNOHANG))?;
                    if matches!(status, WaitStatus::Exited(..) | WaitStatus::Signaled(..)) {
                        // Others may still have the terminal; they are not waited for.
                        while is_open && has_text(master)? {
                            is_open = copy_out(master, stdout.as_fd())?;
                        }
                        return Ok(status);
                    }
                }
                Ok(Signal::SIGWINCH) => pass_size(master),
                Ok(Signal::SIGTSTP) => stop(raw, master),
                // It may have ended just now.
                Ok(other) => drop(kill(child, other)),
                Err(_) => {}
            }
        }
    }
}

/// Whether there is something to be read at once.
fn has_text(master: &OwnedFd) -> nix::Result<bool> {
    let mut wanted = [PollFd::new(master.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut wanted, PollTimeout::ZERO)? > 0)
}

/// Copies what the program has written. Tells whether more can come: once nobody has the terminal
/// any more, reading from it fails.
fn copy_out(master: &OwnedFd, stdout: BorrowedFd<'_>) -> nix::Result<bool> {
    let mut text = [0; 16384];
    let mut left = match read(master, &mut text) {
        Ok(0) | Err(Errno::EIO) => return Ok(false),
        Ok(count) => &text[..count],
        Err(Errno::EAGAIN | Errno::EINTR) => return Ok(true),
        Err(e) => return Err(e),
    };
    while !left.is_empty() {
        match write(stdout, left) {
            Ok(count) => left = &left[count..],
            // Whoever shares this stream has made it so.
            Err(Errno::EAGAIN) => {
                poll(&mut [PollFd::new(stdout, PollFlags::POLLOUT)], PollTimeout::NONE)?;
            }
            Err(Errno::EINTR) => {}
            Err(e) => return Err(e),
        }
    }
    Ok(true)
}

/// What has been typed and not been passed on.
#[derive(Default)]
struct Typed {
    pending: Vec<u8>,
    is_over: bool,
    is_in_line: bool,
}

impl Typed {
    /// Takes what there is. The end of a pipe or file becomes what one types to say so.
    fn read(&mut self, stdin: BorrowedFd<'_>) {
        let mut keys = [0; 4096];
        match read(stdin, &mut keys) {
            Ok(0) => {
                self.is_over = true;
                // In a line, the first one only sends off what there is of it.
                self.pending.extend(vec![END_OF_FILE; if self.is_in_line { 2 } else { 1 }]);
            }
            Ok(count) => {
                self.pending.extend(&keys[..count]);
                self.is_in_line = !matches!(keys[count - 1], b'\n' | b'\r');
            }
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            // Our terminal has gone away; SIGHUP tells the program.
            Err(_) => self.is_over = true,
        }
    }

    /// Passes on what the other side takes.
    fn pass(&mut self, master: &OwnedFd) {
        if self.pending.is_empty() {
            return;
        }
        match write(master, &self.pending) {
            Ok(count) => drop(self.pending.drain(..count)),
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => self.pending.clear(),
        }
    }
}

/// Stops as a job of a shell does, and goes on when it is told to.
fn stop(raw: Option<&Raw>, master: &OwnedFd) {
    raw.inspect(|raw| raw.set(&raw.before));
    // Nothing refuses this signal.
    let _ = raise(Signal::SIGSTOP);
    raw.inspect(|raw| raw.set(&raw.raw));
    pass_size(master);
}
