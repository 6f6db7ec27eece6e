//! What a process inherits without wanting it.

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, signal, sigprocmask};

/// Kernel signals run from 1 to 64 on every architecture that Slurm runs on (signal(7)).
const LAST_SIGNAL: libc::c_int = 64;

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
