//! Asking a person, whatever standard input and output are.

use std::{
    fs::{File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::fd::AsFd as _,
};

use nix::{
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        signal::{SigSet, Signal, raise},
        signalfd::{SfdFlags, SignalFd},
        termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr},
    },
};

/// The terminal that controls this process.
#[derive(Debug)]
pub(crate) struct Terminal(File);

impl Terminal {
    /// Opens the terminal, if there is one.
    pub(crate) fn open() -> io::Result<Terminal> {
        OpenOptions::new().read(true).write(true).open("/dev/tty").map(Terminal)
    }

    /// Asks for a line.
    pub(crate) fn ask(&self, question: &str) -> io::Result<String> {
        (&self.0).write_all(question.as_bytes())?;
        self.line()
    }

    /// Asks for a line that nobody is to read over a shoulder. Whatever ends the question, the
    /// terminal shows again what is typed.
    pub(crate) fn ask_secret(&self, question: &str) -> io::Result<String> {
        let mut end = SigSet::empty();
        end.extend([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT]);
        // Ctrl-Z would leave a shell without echo: it has to wait for the answer.
        let mut held = end;
        held.add(Signal::SIGTSTP);
        let before = held.thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_BLOCK)?;
        let answer = self.unseen(question, &end);
        before.thread_set_mask()?;
        match answer? {
            Answer::Line(line) => Ok(line),
            Answer::Signal(signal) => {
                raise(signal)?;
                // It is one that this process ignores.
                Err(io::ErrorKind::Interrupted.into())
            }
        }
    }

    fn unseen(&self, question: &str, end: &SigSet) -> io::Result<Answer> {
        let signals = SignalFd::with_flags(end, SfdFlags::SFD_CLOEXEC)?;
        let _unseen = Unseen::begin(&self.0)?;
        (&self.0).write_all(question.as_bytes())?;
        let mut ready = [
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.0.as_fd(), PollFlags::POLLIN),
        ];
        poll(&mut ready, PollTimeout::NONE)?;
        if ready[0].any() == Some(true)
            && let Some(info) = signals.read_signal()?
            && let Ok(signal) = Signal::try_from(info.ssi_signo as i32)
        {
            return Ok(Answer::Signal(signal));
        }
        // The terminal hands out whole lines.
        self.line().map(Answer::Line)
    }

    fn line(&self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut chunk = [0; 4096];
        while line.last() != Some(&b'\n') {
            match (&self.0).read(&mut chunk)? {
                0 => break,
                n => line.extend_from_slice(&chunk[..n]),
            }
        }
        let line = String::from_utf8(line).map_err(|_| io::ErrorKind::InvalidData)?;
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }
}

enum Answer {
    Line(String),
    Signal(Signal),
}

/// While it lives, the terminal does not show what is typed, but for the line's end.
struct Unseen<'a> {
    terminal: &'a File,
    before: Termios,
}

impl Unseen<'_> {
    fn begin(terminal: &File) -> io::Result<Unseen<'_>> {
        let before = tcgetattr(terminal)?;
        let mut unseen = before.clone();
        unseen.local_flags.remove(LocalFlags::ECHO);
        unseen.local_flags.insert(LocalFlags::ECHONL);
        tcsetattr(terminal, SetArg::TCSADRAIN, &unseen)?;
        Ok(Unseen { terminal, before })
    }
}

impl Drop for Unseen<'_> {
    fn drop(&mut self) {
        // A terminal that has gone away has nothing to restore.
        let _ = tcsetattr(self.terminal, SetArg::TCSADRAIN, &self.before);
    }
}
