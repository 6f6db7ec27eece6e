//! System calls, by hand: there is no libc.

use core::{
    arch::{asm, global_asm},
    mem::size_of,
    panic::PanicInfo,
    ptr,
    slice::{from_raw_parts, from_raw_parts_mut},
};

/// A descriptor.
pub(crate) struct Fd(pub(crate) i32);

/// `struct signalfd_siginfo` in bytes: signal, errno, code, and what is of no interest.
pub(crate) const SIGNALFD_INFO: usize = 128;
/// How many limits a process has (getrlimit(2)).
pub(crate) const LIMITS: usize = 16;
/// `sizeof(sigset_t)` of the kernel's.
const SIGSET: usize = 8;

const EINTR: isize = -4;
const AF_UNIX: u16 = 1;
const SOCK_STREAM_CLOEXEC: usize = 1 | 0o2000000;
const O_PATH_DIRECTORY_CLOEXEC: usize = 0o10000000 | DIRECTORY | 0o2000000;
const MSG_NOSIGNAL: usize = 0x4000;
const SCM_RIGHTS: u32 = 1;
const SOL_SOCKET: u32 = 1;
const POLLIN: u16 = 1;

#[cfg(target_arch = "x86_64")]
mod number {
    pub(super) const READ: usize = 0;
    pub(super) const WRITE: usize = 1;
    pub(super) const RT_SIGACTION: usize = 13;
    pub(super) const RT_SIGPROCMASK: usize = 14;
    pub(super) const GETPID: usize = 39;
    pub(super) const SOCKET: usize = 41;
    pub(super) const CONNECT: usize = 42;
    pub(super) const SENDMSG: usize = 46;
    pub(super) const KILL: usize = 62;
    pub(super) const FCNTL: usize = 72;
    pub(super) const GETCWD: usize = 79;
    pub(super) const UMASK: usize = 95;
    pub(super) const EXIT_GROUP: usize = 231;
    pub(super) const OPENAT: usize = 257;
    pub(super) const PPOLL: usize = 271;
    pub(super) const SIGNALFD4: usize = 289;
    pub(super) const PRLIMIT64: usize = 302;
}
#[cfg(target_arch = "aarch64")]
mod number {
    pub(super) const GETCWD: usize = 17;
    pub(super) const FCNTL: usize = 25;
    pub(super) const OPENAT: usize = 56;
    pub(super) const READ: usize = 63;
    pub(super) const WRITE: usize = 64;
    pub(super) const PPOLL: usize = 73;
    pub(super) const SIGNALFD4: usize = 74;
    pub(super) const EXIT_GROUP: usize = 94;
    pub(super) const KILL: usize = 129;
    pub(super) const RT_SIGACTION: usize = 134;
    pub(super) const RT_SIGPROCMASK: usize = 135;
    pub(super) const UMASK: usize = 166;
    pub(super) const GETPID: usize = 172;
    pub(super) const SOCKET: usize = 198;
    pub(super) const CONNECT: usize = 203;
    pub(super) const SENDMSG: usize = 211;
    pub(super) const PRLIMIT64: usize = 261;
}

#[cfg(target_arch = "x86_64")]
const DIRECTORY: usize = 0o200000;
#[cfg(target_arch = "aarch64")]
const DIRECTORY: usize = 0o40000;

// The entry, and what the compiler takes for granted.
#[cfg(target_arch = "x86_64")]
global_asm!(
    ".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call {begin}", "ud2",
    ".globl memcpy", "memcpy:", "mov rax, rdi", "mov rcx, rdx", "rep movsb", "ret",
    ".globl memset", "memset:", "mov r8, rdi", "mov eax, esi", "mov rcx, rdx", "rep stosb",
    "mov rax, r8", "ret",
    ".globl strlen", "strlen:", "mov rax, rdi", "2:", "cmp byte ptr [rax], 0", "je 3f", "inc rax",
    "jmp 2b", "3:", "sub rax, rdi", "ret",
    begin = sym crate::begin,
);
#[cfg(target_arch = "aarch64")]
global_asm!(
    ".globl _start", "_start:", "mov x29, #0", "mov x30, #0", "mov x0, sp", "bl {begin}", "brk #1",
    ".globl memcpy", "memcpy:", "mov x3, x0", "1:", "cbz x2, 2f", "ldrb w4, [x1], #1",
    "strb w4, [x3], #1", "sub x2, x2, #1", "b 1b", "2:", "ret",
    ".globl memset", "memset:", "mov x3, x0", "3:", "cbz x2, 4f", "strb w1, [x3], #1",
    "sub x2, x2, #1", "b 3b", "4:", "ret",
    ".globl strlen", "strlen:", "mov x3, x0", "5:", "ldrb w4, [x3], #1", "cbnz w4, 5b",
    "sub x0, x3, x0", "sub x0, x0, #1", "ret",
    begin = sym crate::begin,
);

/// Nothing here panics; where the compiler does not see that, the program ends.
#[panic_handler]
fn panic(_: &PanicInfo<'_>) -> ! {
    exit(125)
}

/// The ready-made `core` names it, and never calls it: nothing unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// # Safety
///
/// What the arguments point to is as the system call wants it.
unsafe fn syscall(number: usize, arguments: [usize; 5]) -> isize {
    let [a, b, c, d, e] = arguments;
    let result;
    // SAFETY: the registers are those of the kernel's calling convention (syscall(2)).
    #[cfg(target_arch = "x86_64")]
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b,
            in("rdx") c, in("r10") d, in("r8") e, lateout("rcx") _, lateout("r11") _,
            options(nostack));
    }
    // SAFETY: the same.
    #[cfg(target_arch = "aarch64")]
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a as isize => result, in("x1") b,
            in("x2") c, in("x3") d, in("x4") e, options(nostack));
    }
    result
}

/// Calls again where a signal came in between; an error is not looked into.
unsafe fn patient(number: usize, arguments: [usize; 5]) -> Result<usize, ()> {
    loop {
        // SAFETY: the caller's.
        match unsafe { syscall(number, arguments) } {
            EINTR => {}
            result => return usize::try_from(result).map_err(drop),
        }
    }
}

pub(crate) fn exit(code: i32) -> ! {
    loop {
        // SAFETY: nothing is pointed to.
        unsafe { syscall(number::EXIT_GROUP, [code as usize, 0, 0, 0, 0]) };
    }
}

/// Ends by a signal, and without a dump of memory that is not the command's.
pub(crate) fn end_by(signal: u32) -> ! {
    const CORE: usize = 4;
    let (none, default, all) = ([0_u64; 2], [0_u64; 8], u64::MAX);
    // SAFETY: a struct rlimit64 and a set of signals are that long, a struct sigaction is shorter; the
    // kernel writes nothing.
    unsafe {
        syscall(number::PRLIMIT64, [0, CORE, none.as_ptr() as usize, 0, 0]);
        syscall(number::RT_SIGACTION, [signal as usize, default.as_ptr() as usize, 0, SIGSET, 0]);
        syscall(number::RT_SIGPROCMASK, [1, ptr::from_ref(&all) as usize, 0, SIGSET, 0]);
        let own = syscall(number::GETPID, [0; 5]);
        syscall(number::KILL, [own as usize, signal as usize, 0, 0, 0]);
    }
    exit(128 + signal as i32)
}

pub(crate) fn bytes<T>(value: &T) -> &[u8] {
    // SAFETY: it is used for numbers without gaps between them.
    unsafe { from_raw_parts(ptr::from_ref(value).cast(), size_of::<T>()) }
}

pub(crate) fn bytes_mut<const N: usize>(value: &mut [u32; N]) -> &mut [u8] {
    // SAFETY: any bytes are numbers.
    unsafe { from_raw_parts_mut(value.as_mut_ptr().cast(), size_of::<[u32; N]>()) }
}

pub(crate) fn write(fd: &Fd, text: &[u8]) -> Result<usize, ()> {
    // SAFETY: the kernel reads so many bytes.
    unsafe { patient(number::WRITE, [fd.0 as usize, text.as_ptr() as usize, text.len(), 0, 0]) }
}

pub(crate) fn read(fd: &Fd, to: &mut [u8]) -> Result<usize, ()> {
    // SAFETY: the kernel writes so many bytes.
    unsafe { patient(number::READ, [fd.0 as usize, to.as_mut_ptr() as usize, to.len(), 0, 0]) }
}

pub(crate) fn is_open(fd: &Fd) -> bool {
    const GETFD: usize = 1;
    // SAFETY: nothing is pointed to.
    unsafe { syscall(number::FCNTL, [fd.0 as usize, GETFD, 0, 0, 0]) >= 0 }
}

/// Opens a directory, without the right to read it. `path` ends with a NUL.
pub(crate) fn open_directory(path: &[u8]) -> Option<Fd> {
    const AT_FDCWD: usize = -100_isize as usize;
    let arguments = [AT_FDCWD, path.as_ptr() as usize, O_PATH_DIRECTORY_CLOEXEC, 0, 0];
    // SAFETY: the path is a C string.
    let fd = unsafe { patient(number::OPENAT, arguments) };
    fd.ok().map(|fd| Fd(fd as i32))
}

/// The working directory, with the NUL at its end.
pub(crate) fn getcwd(buffer: &mut [u8]) -> Option<&[u8]> {
    let arguments = [buffer.as_mut_ptr() as usize, buffer.len(), 0, 0, 0];
    // SAFETY: the kernel writes so many bytes at most.
    let length = unsafe { patient(number::GETCWD, arguments) };
    buffer.get(..length.ok()?).filter(|path| path.starts_with(b"/"))
}

pub(crate) fn umask() -> u32 {
    // SAFETY: nothing is pointed to.
    unsafe {
        let mask = syscall(number::UMASK, [0o077, 0, 0, 0, 0]) as usize;
        syscall(number::UMASK, [mask, 0, 0, 0, 0]);
        mask as u32
    }
}

pub(crate) fn limits() -> [[u64; 2]; LIMITS] {
    let mut limits = [[u64::MAX; 2]; LIMITS];
    for (number, limit) in limits.iter_mut().enumerate() {
        // SAFETY: the kernel writes a struct rlimit64.
        unsafe { syscall(number::PRLIMIT64, [0, number, 0, limit.as_mut_ptr() as usize, 0]) };
    }
    limits
}

/// The signals that are ignored.
pub(crate) fn ignored() -> u64 {
    const SIG_IGN: u64 = 1;
    let mut ignored = 0;
    for signal in 1..=64_usize {
        let mut action = [0_u64; 8];
        // SAFETY: a struct sigaction is shorter; the handler is its first word.
        let done = unsafe {
            let arguments = [signal, 0, action.as_mut_ptr() as usize, SIGSET, 0];
            syscall(number::RT_SIGACTION, arguments)
        };
        if done == 0 && action[0] == SIG_IGN {
            ignored |= 1 << (signal - 1);
        }
    }
    ignored
}

/// Blocks these signals as well, and returns which were.
pub(crate) fn block(signals: u64) -> u64 {
    let mut before = 0_u64;
    // SAFETY: both are sets of signals.
    unsafe {
        let (more, before) = (ptr::from_ref(&signals), ptr::from_mut(&mut before));
        syscall(number::RT_SIGPROCMASK, [0, more as usize, before as usize, SIGSET, 0]);
    }
    before
}

/// A descriptor that these signals are read from.
pub(crate) fn signalfd(signals: u64) -> Result<Fd, ()> {
    const CLOEXEC: usize = 0o2000000;
    let arguments = [usize::MAX, ptr::from_ref(&signals) as usize, SIGSET, CLOEXEC, 0];
    // SAFETY: it is a set of signals.
    unsafe { patient(number::SIGNALFD4, arguments) }.map(|fd| Fd(fd as i32))
}

/// Connects to a socket; `path` ends with a NUL.
pub(crate) fn connect(path: &[u8]) -> Result<Fd, ()> {
    #[repr(C)]
    struct Address {
        family: u16,
        path: [u8; 108],
    }
    let mut address = Address { family: AF_UNIX, path: [0; 108] };
    for (to, from) in address.path.iter_mut().zip(path) {
        *to = *from;
    }
    let arguments = [AF_UNIX as usize, SOCK_STREAM_CLOEXEC, 0, 0, 0];
    // SAFETY: nothing is pointed to.
    let fd = unsafe { patient(number::SOCKET, arguments) }?;
    let (place, length) = (ptr::from_ref(&address) as usize, size_of::<Address>());
    // SAFETY: it is a struct sockaddr_un.
    unsafe { patient(number::CONNECT, [fd, place, length, 0, 0]) }?;
    Ok(Fd(fd as i32))
}

/// Sends all of this, and descriptors with it.
pub(crate) fn send(socket: &Fd, mut text: &[u8], mut fds: &[i32]) -> Result<(), ()> {
    #[repr(C)]
    struct Control {
        length: usize,
        level: u32,
        kind: u32,
        fds: [i32; 4],
    }
    #[repr(C)]
    struct Message {
        name: usize,
        name_length: usize,
        pieces: *const (usize, usize),
        count: usize,
        control: *const Control,
        control_length: usize,
        flags: usize,
    }
    while !text.is_empty() {
        let mut rights = [0; 4];
        for (to, from) in rights.iter_mut().zip(fds) {
            *to = *from;
        }
        let length = 16 + 4 * fds.len();
        let control = Control { length, level: SOL_SOCKET, kind: SCM_RIGHTS, fds: rights };
        #[repr(C)]
        struct Piece(usize, usize);
        let piece = Piece(text.as_ptr() as usize, text.len());
        let message = Message {
            name: 0,
            name_length: 0,
            pieces: ptr::from_ref(&piece).cast(),
            count: 1,
            control: if fds.is_empty() { ptr::null() } else { &raw const control },
            control_length: if fds.is_empty() { 0 } else { (length + 7) & !7 },
            flags: 0,
        };
        let message = ptr::from_ref(&message) as usize;
        // SAFETY: it is a struct msghdr, and all that it points to is there.
        let sent =
            unsafe { patient(number::SENDMSG, [socket.0 as usize, message, MSG_NOSIGNAL, 0, 0]) }?;
        (text, fds) = (text.get(sent..).unwrap_or(&[]), &[]);
    }
    Ok(())
}

/// Waits until one of both has something to be read.
pub(crate) fn wait(one: &Fd, other: &Fd) -> (bool, bool) {
    #[repr(C)]
    struct Poll {
        fd: i32,
        events: u16,
        revents: u16,
    }
    let mut polls = [one, other].map(|fd| Poll { fd: fd.0, events: POLLIN, revents: 0 });
    // SAFETY: two struct pollfd, no timeout, no set of signals.
    let _ = unsafe { patient(number::PPOLL, [polls.as_mut_ptr() as usize, 2, 0, 0, SIGSET]) };
    (polls[0].revents != 0, polls[1].revents != 0)
}
