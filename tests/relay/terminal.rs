//! salloc's shell on a node, in a container, by somebody at a terminal.

use std::{
    fs::File,
    io::{Read, Write},
    os::fd::AsFd,
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    fcntl::{FcntlArg, FdFlag, OFlag, fcntl},
    pty::{Winsize, openpty},
};

use fixtures::{eventually, need};

use crate::site;

/// What the terminal shows.
struct Screen {
    master: File,
    seen: String,
}

impl Screen {
    fn type_keys(&mut self, keys: &str) {
        self.master.write_all(keys.as_bytes()).expect("the terminal is there");
    }

    /// Reads until this is shown, and forgets what came before.
    #[track_caller]
    fn expect(&mut self, text: &str) {
        let started = Instant::now();
        loop {
            if let Some(at) = self.seen.find(text) {
                self.seen.drain(..at + text.len());
                return;
            }
            assert!(started.elapsed() < Duration::from_secs(60), "no {text:?} in {:?}", self.seen);
            if !self.show() {
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }

    /// Takes what there is to be shown, and tells whether there was something.
    fn show(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let Ok(count) = self.master.read(&mut bytes) else { return false };
        self.seen.push_str(&String::from_utf8_lossy(&bytes[..count]));
        true
    }
}

#[test]
fn a_command_sits_at_the_terminal_of_its_caller() {
    need!(root, slurm, registry, busybox, userns);
    let site = site();
    site.set_probe(
        "trap 'echo interrupted; exit 4' INT\n\
         test -t 0 && test -t 1 && test -t 2 && echo at `tty` `stty size`\n\
         read a; echo got $a; while :; do sleep 0.05; done",
    );
    let step = "\"--interactive --preserve-env --pty sh -i\"";
    site.cluster.set("InteractiveStepOptions", step);
    site.cluster.reconfigure();

    let size = Winsize { ws_row: 30, ws_col: 101, ws_xpixel: 0, ws_ypixel: 0 };
    let pty = openpty(&size, None).expect("a terminal");
    for fd in [&pty.master, &pty.slave] {
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).expect("a flag of our own");
    }
    fcntl(&pty.master, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("a flag of our own");
    let mut salloc = site.client("setsid", &["--ctty", "--wait", "salloc", &site.option()]);
    let stream = || Stdio::from(pty.slave.as_fd().try_clone_to_owned().expect("a descriptor"));
    salloc.stdin(stream()).stdout(stream()).stderr(stream());
    let mut salloc = salloc.spawn().expect("start salloc");
    drop(pty.slave);
    let mut screen = Screen { master: pty.master.into(), seen: String::new() };
    screen.expect("$ ");
    screen.type_keys("probe\r");
    screen.expect("at /dev/pts/");
    screen.expect("30 101");
    screen.type_keys("word\r");
    screen.expect("got word");
    // Both stop, and both go on.
    screen.type_keys("\x1a");
    screen.expect("Stopped");
    screen.type_keys("echo the shell $((1+1))\r");
    screen.expect("the shell 2");
    screen.type_keys("fg\r");
    screen.expect("probe");
    screen.type_keys("\x03");
    screen.expect("interrupted");
    screen.type_keys("echo status $?\r");
    screen.expect("status 4");
    // It would read what is typed next.
    screen.type_keys("srun -Q head -1 /etc/os-release </dev/null\r");
    screen.expect("shifter demo image");
    screen.type_keys("exit\r");
    let ended = eventually(Duration::from_secs(60), "salloc's end", || {
        screen.show();
        salloc.try_wait().expect("it is a child")
    });
    assert!(ended.success(), "{}", screen.seen);
    site.assert_nothing_left();
    site.cluster.unset("InteractiveStepOptions");
    site.cluster.reconfigure();
}
