//! What a process inherits without wanting it.

use std::mem::MaybeUninit;

use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

/// Kernel signals run from 1 to 64 on every architecture that Slurm runs on (signal(7)).
const LAST_SIGNAL: libc::c_int = 64;

/// Restores every signal's default action and unblocks all.
///
/// Rust programs start with `SIGPIPE` ignored, and some slurmstepd releases leave others ignored or
/// blocked; both survive `execve`. Meant for the first lines of `main`: it also takes away the
/// message that Rust prints on a stack overflow.
pub fn reset_signals() {
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: all zeroes is a valid `struct sigaction`: SIG_DFL, no flags, an empty mask.
        let default: libc::sigaction = unsafe { MaybeUninit::zeroed().assume_init() };
        // SAFETY: `default` outlives the call; no handler is installed, so nothing can run in a
        // signal's context. SIGKILL, SIGSTOP and libc's own two refuse with EINVAL, which is
        // right: they cannot have been changed.
        unsafe { libc::sigaction(signal, &raw const default, std::ptr::null_mut()) };
    }
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None)
        .expect("SIG_SETMASK and an empty set are valid arguments");
}
