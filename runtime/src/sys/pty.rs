//! Pseudoterminals ([`pty(7)`](https://man7.org/linux/man-pages/man7/pty.7.html)).

use std::{
    io,
    os::fd::{AsFd, AsRawFd, OwnedFd},
};

use nix::{
    errno::Errno,
    fcntl::{FcntlArg, FdFlag, fcntl},
    pty::{Winsize, openpty},
    sys::termios::Termios,
    unistd::{dup2_stderr, dup2_stdin, dup2_stdout, setsid},
};

/// Opens a terminal: the side of who watches, and the side of who works.
pub fn open(modes: Option<&Termios>) -> io::Result<(OwnedFd, OwnedFd)> {
    let pty = openpty(None, modes)?;
    for fd in [&pty.master, &pty.slave] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    }
    Ok((pty.master, pty.slave))
}

/// Makes a terminal the one of the calling process, in a session of its own: it reads from it,
/// writes to it, and gets its signals.
pub fn enter(terminal: impl AsFd) -> io::Result<()> {
    setsid()?;
    // SAFETY: the descriptor is open, and the argument of this call is a number.
    let done = unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSCTTY, 0) };
    Errno::result(done)?;
    dup2_stdin(&terminal)?;
    dup2_stdout(&terminal)?;
    dup2_stderr(&terminal)?;
    Ok(())
}

/// How large a terminal is; an error if it is none.
pub fn size(terminal: impl AsFd) -> io::Result<Winsize> {
    let mut size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and the kernel writes one `struct winsize`.
    let done =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) };
    Errno::result(done)?;
    Ok(size)
}

/// Says how large a terminal is. Who works in it is told by `SIGWINCH`.
pub fn set_size(terminal: impl AsFd, size: &Winsize) -> io::Result<()> {
    // SAFETY: the descriptor is open, and the kernel reads one `struct winsize`.
    let done =
        unsafe { libc::ioctl(terminal.as_fd().as_raw_fd(), libc::TIOCSWINSZ, &raw const *size) };
    Errno::result(done)?;
    Ok(())
}
