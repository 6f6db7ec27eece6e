//! What is called `srun` in a container: asks the relay outside ([`container::relay`]) to run the host's,
//! and ends as that one does.
//!
//! It has to run in every image, also in one with another libc, or none, or no file but a program. So
//! it is a program for the kernel alone: static, of a few kilobytes, without libc, allocator, threads
//! or panics. `build.rs` compiles it and `shifter` carries it.
//!
//! [`container::relay`]: ../../container/relay/mod.rs

#![no_std]
#![no_main]

mod kernel;

use core::{
    ffi::{CStr, c_char},
    ptr,
};

use kernel::{Fd, SIGNALFD_INFO};

/// Where the relay listens (`container::relay`, `SOCKET`).
const SOCKET: &[u8] = b"/.shifter/relay/socket\0";
/// First word of all that is said: both sides are of the same build.
const MAGIC: u64 = u64::from_ne_bytes(*b"shifter1");
/// Meant for the command: HUP, INT, QUIT, USR1, USR2, TERM. What stops and continues a job is sent to all
/// of it by the terminal or the shell, the command included.
const PASSED_ON: [u32; 6] = [1, 2, 3, 10, 12, 15];
/// Who is sent a signal by its terminal, is sent it with all of its group (siginfo, `SI_KERNEL`).
const BY_KERNEL: u32 = 0x80;
/// Exit status of a failure of ours.
const EXIT_RUNTIME: i32 = 125;

/// The first message: followed by directory, arguments and variables, each with a NUL at its end.
/// `container::relay::call` reads it.
#[repr(C)]
struct Head {
    magic: u64,
    umask: u64,
    /// Signals that were ignored, and blocked, when this program began.
    ignored: u64,
    blocked: u64,
    /// Which descriptors come along: standard ones, and the working directory.
    descriptors: u64,
    arguments: u64,
    variables: u64,
    /// Bytes that follow.
    length: u64,
    limits: [[u64; 2]; kernel::LIMITS],
}

/// Begins here; `stack` is what the kernel has put there: argc, argv, NULL, envp, NULL.
extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: the kernel has laid it out so (ELF ABI, "process initialization").
    let (argv, envp) = unsafe {
        let argv = stack.add(1).cast::<*const c_char>();
        (argv, argv.add(*stack + 1))
    };
    let (argv, envp) = (Strings(argv), Strings(envp));
    let name = base_name(argv.clone().next().unwrap_or(b""));
    match call(argv, envp) {
        Ok(status) => end(status),
        Err(why) => {
            let (mut line, mut end) = ([0; 512], 0);
            for part in [b"shifter: ", name, b": ", why, b"\n"] {
                for (to, from) in line.iter_mut().skip(end).zip(part) {
                    *to = *from;
                }
                end += part.len();
            }
            // Nobody is left to tell that this is closed.
            let _ = kernel::write(&Fd(2), line.get(..end).unwrap_or(&line));
            kernel::exit(EXIT_RUNTIME)
        }
    }
}

/// How the command has ended.
enum Status {
    Exited(u32),
    Signaled(u32),
}

const NOBODY: &[u8] =
    b"nobody on the host answers: the script or shell that this container was made for \
has ended; run it in a script or shell of the job's";
const CUT_OFF: &[u8] =
    b"cut off from the host: the process of shifter's that runs it there was killed";

/// Has the command run.
fn call(argv: Strings, envp: Strings) -> Result<Status, &'static [u8]> {
    // Before others take the numbers of those that are closed.
    let standard = [0, 1, 2].map(|fd| kernel::is_open(&Fd(fd)));
    let ignored = kernel::ignored();
    let passed_on = PASSED_ON.iter().map(|n| 1 << (n - 1)).sum::<u64>() & !ignored;
    let blocked = kernel::block(passed_on);
    let signals = kernel::signalfd(passed_on).map_err(|_| &b"out of file descriptors"[..])?;
    let socket = kernel::connect(SOCKET).map_err(|_| NOBODY)?;
    let caller = Caller { argv, envp, standard, ignored, blocked };
    caller.send(&socket).map_err(|_| CUT_OFF)?;
    loop {
        let (answer, signal) = kernel::wait(&socket, &signals);
        if signal {
            let mut info = [0_u32; SIGNALFD_INFO / 4];
            if kernel::read(&signals, kernel::bytes_mut(&mut info)) == Ok(SIGNALFD_INFO) {
                let by_group = u8::from(info[2] == BY_KERNEL);
                // If it has ended just now, its status is there.
                let _ = kernel::send(&socket, &[info[0] as u8, by_group], &[]);
            }
        }
        if answer {
            let mut status = [0_u32; 2];
            return match kernel::read(&socket, kernel::bytes_mut(&mut status)) {
                Ok(8) if status[0] == 0 => Ok(Status::Exited(status[1])),
                Ok(8) => Ok(Status::Signaled(status[1])),
                _ => Err(CUT_OFF),
            };
        }
    }
}

/// All that makes a command this one's.
struct Caller {
    argv: Strings,
    envp: Strings,
    /// Which of the first three descriptors are open.
    standard: [bool; 3],
    ignored: u64,
    blocked: u64,
}

impl Caller {
    fn send(self, socket: &Fd) -> Result<(), ()> {
        let Caller { argv, envp, standard, ignored, blocked } = self;
        let mut buffer = [0; 4096];
        // Of a directory that is gone, or is too deep, there is nothing to be said.
        let cwd = kernel::getcwd(&mut buffer).unwrap_or(b"\0");
        let directory = kernel::open_directory(b".\0");
        let (mut fds, mut count, mut descriptors) = ([0_i32; 4], 0, 0_u64);
        let standard = (0..).zip(standard).filter(|(_, is_open)| *is_open).map(|(fd, _)| (fd, fd));
        for (bit, fd) in standard.chain(directory.iter().map(|fd| (3, fd.0))) {
            if let Some(place) = fds.get_mut(count) {
                *place = fd;
            }
            (count, descriptors) = (count + 1, descriptors | 1 << bit);
        }
        let length = |strings: &Strings| strings.clone().map(|s| s.len() as u64 + 1).sum::<u64>();
        let head = Head {
            magic: MAGIC,
            umask: kernel::umask().into(),
            ignored,
            blocked,
            descriptors,
            arguments: argv.clone().count() as u64,
            variables: envp.clone().count() as u64,
            length: cwd.len() as u64 + length(&argv) + length(&envp),
            limits: kernel::limits(),
        };
        kernel::send(socket, kernel::bytes(&head), fds.get(..count).unwrap_or(&[]))?;
        kernel::send(socket, cwd, &[])?;
        // The kernel has put them one behind the other: most often it is one piece.
        let mut piece: &[u8] = &[];
        for string in argv.chain(envp) {
            // SAFETY: a C string ends with the NUL behind it.
            let whole = unsafe { core::slice::from_raw_parts(string.as_ptr(), string.len() + 1) };
            if ptr::eq(piece.as_ptr_range().end, whole.as_ptr()) {
                let length = piece.len() + whole.len();
                // SAFETY: both are parts of what the kernel has put onto the stack, without a gap.
                piece = unsafe { core::slice::from_raw_parts(piece.as_ptr(), length) };
            } else {
                kernel::send(socket, piece, &[])?;
                piece = whole;
            }
        }
        kernel::send(socket, piece, &[])
    }
}

/// Ends as the command has.
fn end(status: Status) -> ! {
    match status {
        Status::Exited(code) => kernel::exit(code as i32),
        Status::Signaled(signal) => kernel::end_by(signal),
    }
}

fn base_name(path: &[u8]) -> &[u8] {
    path.rsplit(|byte| *byte == b'/').next().unwrap_or(path)
}

/// C strings up to a NULL, as arguments and variables are passed.
#[derive(Clone)]
struct Strings(*const *const c_char);

impl Iterator for Strings {
    type Item = &'static [u8];

    fn next(&mut self) -> Option<&'static [u8]> {
        // SAFETY: the list ends with a NULL, behind which it is not read; what it holds stays as long as
        // the process does.
        unsafe {
            if (*self.0).is_null() {
                return None;
            }
            let string = CStr::from_ptr(*self.0);
            self.0 = self.0.add(1);
            Some(string.to_bytes())
        }
    }
}
