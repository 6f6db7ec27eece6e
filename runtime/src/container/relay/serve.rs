//! The process that stays on the host, and one for each call.

use std::{
    convert::Infallible,
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            ffi::{OsStrExt as _, OsStringExt as _},
            fs::MetadataExt as _,
            net::UnixStream,
        },
    },
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    poll::{PollFd, PollFlags, PollTimeout, poll},
    sys::{
        prctl::set_name,
        signal::{SigSet, Signal, kill},
        signalfd::{SfdFlags, SignalFd},
        socket::{getsockopt, sockopt::PeerCredentials},
        stat::{Mode, umask},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{
        Pid, dup2_stderr, dup2_stdin, dup2_stdout, execve, getpgid, getsid, getuid, setpgid, setsid,
    },
};

use super::{Error, Relay, call::Call};
use crate::{
    container::join::say_once,
    environment,
    report::{Report, printable},
    sys::process::{Fork, close_all_but, fork, quit, set_limit, set_signals},
};

/// Why a call is not answered any more.
const EXIT_ENDED: i32 = 1;

/// Listens until the script has ended.
pub(super) fn run(
    relay: &Relay,
    script: &OwnedFd,
    given: &[(OsString, OsString)],
) -> io::Result<()> {
    // What is sent to all of a step, or a group, is not for this one: nor is it for commands to begin
    // with what it ignores, so nothing is ignored.
    SigSet::all().thread_set_mask()?;
    setpgid(Pid::from_raw(0), Pid::from_raw(0))?;
    // Who waits for the end of a pipe, or for a lock, need not wait for this.
    let null = File::options().read(true).write(true).open("/dev/null")?;
    dup2_stdin(&null)?;
    dup2_stdout(&null)?;
    dup2_stderr(&null)?;
    close_all_but(&[relay.listener.as_fd(), relay.step.as_fd(), script.as_fd()])?;
    std::env::set_current_dir("/")?;
    set_name(c"shifter-relay")?;
    let ended = ends_of_children()?;
    loop {
        let mut wanted = [script.as_fd(), relay.listener.as_fd(), ended.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        wait(&mut wanted)?;
        let [is_over, is_called, has_ended] = wanted.map(|fd| fd.any() == Some(true));
        if is_over {
            return Ok(());
        }
        if has_ended {
            while ended.read_signal()?.is_some() {}
            while matches!(
                waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)),
                Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..))
            ) {}
        }
        if is_called {
            // One who has gone again, or whom there is no process for, finds out by the socket's end.
            let Ok((socket, _)) = relay.listener.accept() else { continue };
            if let Ok(Fork::Child) = fork() {
                let _ = answer(relay, script, given, socket);
                quit(EXIT_ENDED)
            }
        }
    }
}

/// Runs what is called, and says how it has ended.
fn answer(
    relay: &Relay,
    script: &OwnedFd,
    given: &[(OsString, OsString)],
    mut socket: UnixStream,
) -> io::Result<()> {
    let peer = getsockopt(&socket, PeerCredentials)?;
    if peer.uid() != getuid().as_raw() {
        return Ok(());
    }
    let caller = Pid::from_raw(peer.pid());
    let mut call = Call::read(&mut socket)?;
    // Another session's group is not to be entered: a caller by setsid(1) has no terminal to share.
    let group = match getsid(Some(caller))? == getsid(None)? {
        true => Some(getpgid(Some(caller))?),
        false => None,
    };
    let env = environment::outside(&relay.env, given, std::mem::take(&mut call.env));
    let ended = ends_of_children()?;
    let child = match fork()? {
        Fork::Parent(child) => child,
        Fork::Child => {
            let Err(error) = execute(relay, call, env.into_iter().collect(), group);
            let code = match &error {
                Error::Unknown { .. } => 127,
                _ => 126,
            };
            // To the caller's standard error, which is this process's by now.
            let _ = writeln!(io::stderr(), "shifter: {}", Report::from(&error).line);
            quit(code)
        }
    };
    // The caller's streams are the command's alone: who reads from them waits for its end.
    drop(call);
    loop {
        let mut wanted = [socket.as_fd(), ended.as_fd(), script.as_fd()]
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN));
        wait(&mut wanted)?;
        let [has_word, has_ended, is_over] = wanted.map(|fd| fd.any() == Some(true));
        if has_ended {
            while ended.read_signal()?.is_some() {}
            let status = match waitpid(child, Some(WaitPidFlag::WNOHANG))? {
                WaitStatus::Exited(_, code) => [0, code as u32],
                WaitStatus::Signaled(_, signal, _) => [1, signal as u32],
                _ => continue,
            };
            return say(&mut socket, status);
        }
        let mut word = [0; 2];
        match has_word.then(|| socket.read_exact(&mut word)) {
            None if !is_over => {}
            Some(Ok(())) => {
                // A terminal has told the command as well, if it is in the caller's group.
                let is_told = word[1] != 0 && group.is_some();
                let signal = Signal::try_from(i32::from(word[0])).ok().filter(|_| !is_told);
                // It may have ended just now.
                signal.map(|signal| kill(child, signal));
            }
            // The caller is gone, or the script: as if a terminal were.
            _ => {
                for signal in [Signal::SIGHUP, Signal::SIGCONT, Signal::SIGTERM] {
                    let _ = kill(child, signal);
                }
                return say(&mut socket, [1, Signal::SIGHUP as u32]);
            }
        }
    }
}

fn say(socket: &mut UnixStream, [kind, value]: [u32; 2]) -> io::Result<()> {
    socket.write_all(&[kind.to_ne_bytes(), value.to_ne_bytes()].concat())
}

/// Becomes the command.
fn execute(
    relay: &Relay,
    call: Call,
    mut env: Vec<(OsString, OsString)>,
    group: Option<Pid>,
) -> Result<Infallible, Error> {
    let start = |op| move |e: Errno| Error::Start { op, source: e.into() };
    let own = Pid::from_raw(0);
    // A group may have ended, its caller with it.
    if group.is_none_or(|group| setpgid(own, group).is_err()) {
        setsid().map_err(start("begin a session"))?;
    }
    let null = File::options().read(true).write(true).open("/dev/null");
    let null = OwnedFd::from(null.map_err(|source| Error::Start { op: "open /dev/null", source })?);
    let stream = |n: usize| call.streams[n].as_ref().unwrap_or(&null);
    dup2_stdin(stream(0)).map_err(start("pass on standard input"))?;
    dup2_stdout(stream(1)).map_err(start("pass on standard output"))?;
    dup2_stderr(stream(2)).map_err(start("pass on standard error"))?;

    let name = call.name().to_owned();
    let known = relay.commands.iter().find(|(known, _)| **known == *name);
    let (_, path) = known.ok_or_else(|| Error::Unknown { name: name.clone() })?;
    let cwd = enter_directory(&call, &relay.env);
    // Everybody has a `/`: standing there is no choice. Nor is standing where nothing is any more.
    let is_nowhere = call.cwd.as_os_str().is_empty() || call.cwd == Path::new("/");
    if cwd != call.cwd && !is_nowhere {
        let there = printable(&cwd.to_string_lossy());
        let line = format!(
            "shifter: {}: {} is the container's own: on the host, it starts in {there}",
            name.display(),
            printable(&call.cwd.to_string_lossy()),
        );
        if say_once(&relay.step, &line) {
            // A caller without a standard error has not asked.
            let _ = writeln!(io::stderr(), "{line}");
        }
    }
    env.push(("PWD".into(), cwd.into()));
    let argv: Vec<CString> = call.argv.iter().map(|text| c_string(text)).collect();
    let vars: Vec<CString> =
        env.iter().map(|(name, value)| c_string(&joined(name, value))).collect();
    let program = c_string(path.as_os_str());
    umask(Mode::from_bits_truncate(call.umask));
    for (number, limit) in (0..).zip(call.limits) {
        set_limit(number, limit);
    }
    set_signals(call.ignored, call.blocked);
    let Err(errno) = execve(&program, &argv, &vars);
    Err(Error::Execute { path: path.clone(), source: errno.into() })
}

/// Goes where the caller stands, if that is the same directory on the host; else where the job was
/// submitted. Returns where it is.
fn enter_directory(call: &Call, env: &[(OsString, OsString)]) -> PathBuf {
    let is_same = |path: &Path| {
        let here = fs::metadata(path).ok()?;
        let there = File::from(call.directory.as_ref()?.try_clone().ok()?).metadata().ok()?;
        Some((here.dev(), here.ino()) == (there.dev(), there.ino()))
    };
    let submit = env.iter().find(|(name, _)| name == "SLURM_SUBMIT_DIR").map(|(_, dir)| dir.into());
    let same = Some(call.cwd.clone()).filter(|path| is_same(path) == Some(true));
    let home = crate::config::home();
    for dir in [same, submit, home].into_iter().flatten() {
        if std::env::set_current_dir(&dir).is_ok() {
            return dir;
        }
    }
    "/".into()
}

/// Tells of children that have ended.
fn ends_of_children() -> nix::Result<SignalFd> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGCHLD);
    SignalFd::with_flags(&ends, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)
}

fn wait(wanted: &mut [PollFd<'_>]) -> nix::Result<()> {
    match poll(wanted, PollTimeout::NONE) {
        Err(Errno::EINTR) => Ok(()),
        other => other.map(drop),
    }
}

fn joined(name: &OsStr, value: &OsStr) -> OsString {
    OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat())
}

fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).expect("what was read ends at a NUL")
}
