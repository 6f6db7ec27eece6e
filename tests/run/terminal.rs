//! A terminal of the command's own, and signals.

use std::{
    fs::File,
    io::{BufRead, BufReader, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::{CommandExt, ExitStatusExt},
    },
    process::{Child, ExitStatus, Stdio},
    time::Duration,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::Pid,
};

use fixtures::{eventually, need};
use runtime::sys::pty;

use crate::SITE;

/// `shifter run -it` of a script, by somebody at a terminal.
struct Sitting {
    child: Child,
    master: BufReader<File>,
    slave: OwnedFd,
}

impl Sitting {
    fn new(script: &str) -> Sitting {
        let size = Winsize { ws_row: 30, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
        let pty = openpty(&size, None).expect("a terminal");
        for fd in [&pty.master, &pty.slave] {
            fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a flag of our own");
        }
        let image = SITE.registry.name("busybox:1");
        let mut command = SITE.user.command(&SITE.sandbox, "setsid");
        command.args(["--ctty", "shifter", "run", "-it", &image, "sh", "-c", script]);
        let stream = || Stdio::from(pty.slave.try_clone().expect("a descriptor"));
        command.stdin(stream()).stdout(stream()).stderr(stream());
        let child = command.spawn().expect("start shifter");
        Sitting { child, master: BufReader::new(pty.master.into()), slave: pty.slave }
    }

    /// Reads until the line, whatever comes before it.
    #[track_caller]
    fn expect(&mut self, expected: &str) {
        let mut seen = String::new();
        while self.master.read_line(&mut seen).expect("the terminal is there") > 0 {
            if seen.trim_end().ends_with(expected) {
                return;
            }
        }
        panic!("no {expected:?} in {seen:?}");
    }

    fn type_keys(&mut self, keys: &[u8]) {
        self.master.get_mut().write_all(keys).expect("the terminal is there");
    }

    fn wait(mut self) -> ExitStatus {
        self.child.wait().expect("it ends")
    }
}

#[test]
fn somebody_at_a_terminal_sits_at_the_programs() {
    need!(root, registry, busybox, userns);
    SITE.busybox(&["true"]).success();
    let script = "trap 'echo resized; stty size' WINCH; trap 'echo interrupted' INT; stty size; \
                  test -t 0 && test -t 1 && test -t 2 && tty && echo ready; read -r a; echo \"got $a\"; \
                  while ! read -r b; do :; done; echo \"and $b\"; exit 7";
    let mut sitting = Sitting::new(script);
    sitting.expect("30 101");
    sitting.expect("ready");
    sitting.type_keys(b"word\r");
    sitting.expect("got word");
    // Ctrl-C is the program's to see, and not the end of who relays.
    sitting.type_keys(b"\x03");
    sitting.expect("interrupted");
    let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
    pty::set_size(sitting.slave.as_fd(), &size).expect("a terminal");
    sitting.expect("24 80");
    sitting.type_keys(b"more\r");
    sitting.expect("and more");
    // Of its own side, the end of the session leaves nothing to be asked.
    let master = sitting.master.get_ref().try_clone().expect("a descriptor");
    assert_eq!(sitting.wait().code(), Some(7));
    let modes = tcgetattr(&master).expect("a terminal");
    assert!(modes.local_flags.contains(LocalFlags::ICANON | LocalFlags::ECHO), "it stays raw");
}

#[test]
fn a_terminal_is_there_without_one_outside() {
    need!(root, registry, busybox, userns);
    let script = "test -t 0 && test -t 1 && test -t 2 && echo yes";
    assert_eq!(SITE.with(&["-t"], &["sh", "-c", script]).success(), "yes\r\n");
    let image = SITE.registry.name("busybox:1");
    for (input, expected) in [("a\n", "a\r\na\r\n"), ("no end", "no endno end"), ("", "")] {
        let mut command = SITE.command(&["-t", &image, "cat"]);
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start shifter");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("write");
        let output = child.wait_with_output().expect("wait");
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    }
    // All of what is said comes out, also at the end.
    let script = "i=0; while [ $i -lt 5000 ]; do echo line $i; i=$((i+1)); done";
    let said = SITE.with(&["-t"], &["sh", "-c", script]).success();
    assert!(said.lines().count() == 5000 && said.ends_with("line 4999\r\n"), "{}", said.len());
}

#[test]
fn who_relays_ends_as_the_program_does() {
    need!(root, registry, busybox, userns);
    assert_eq!(SITE.with(&["-t"], &["sh", "-c", "exit 42"]).code, 42);
    assert_eq!(SITE.with(&["-t"], &["sh", "-c", "kill -TERM $$"]).code, 128 + 15);
    let outcome = SITE.with(&["-t"], &["nonsense"]);
    assert!(outcome.code == 127 && outcome.stdout.contains("\"nonsense\""), "{outcome}");
    let outcome = SITE.with(&["-t", "-w", "/no/such"], &["true"]);
    assert!(outcome.code == 125 && outcome.stdout.contains("/no/such"), "{outcome}");
}

#[test]
fn signals_reach_the_program() {
    need!(root, registry, busybox, userns);
    let image = SITE.registry.name("busybox:1");
    let script = "trap 'echo usr1' USR1; trap 'echo int; exit 3' INT; echo ready; \
                  while :; do sleep 0.05; done";
    for options in [&[][..], &["-t"]] {
        let mut command = SITE.command(&[options, &[&image, "sh", "-c", script]].concat());
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("start shifter");
        let pid = Pid::from_raw(child.id() as i32);
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let mut next = || lines.next().and_then(Result::ok).unwrap_or_default().trim().to_owned();
        assert_eq!(next(), "ready");
        kill(pid, Signal::SIGUSR1).expect("it is there");
        assert_eq!(next(), "usr1", "{options:?}");
        kill(pid, Signal::SIGINT).expect("it is there");
        assert_eq!(next(), "int", "{options:?}");
        assert_eq!(child.wait().expect("it ends").code(), Some(3), "{options:?}");

        let mut command =
            SITE.command(&[options, &[&image, "sh", "-c", "echo in; exec cat"]].concat());
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut child = command.spawn().expect("start shifter");
        // Not what ends it: waiting for it would close this.
        let _stdin = child.stdin.take();
        let mut byte = [0];
        child.stdout.as_mut().expect("piped").read_exact(&mut byte).expect("it is in");
        kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM).expect("it is there");
        assert_eq!(child.wait().expect("it ends").signal(), Some(15), "{options:?}");
    }
    // Nothing of it stays when the one who relays is killed.
    let mut command = SITE.command(&["-t", &image, "sh", "-c", "echo $$; exec sleep 1000"]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().expect("start shifter");
    let mut line = String::new();
    BufReader::new(child.stdout.take().expect("piped")).read_line(&mut line).expect("read");
    let inner: i32 = line.trim().parse().expect("a number");
    child.kill().expect("it is there");
    child.wait().expect("it ends");
    eventually(Duration::from_secs(10), "the program is gone", || {
        kill(Pid::from_raw(inner), None).is_err().then_some(())
    });
}
