//! Noticing SIGINT, SIGTERM and SIGHUP, so that a pull can clean up before it ends; and the end of the
//! process that all is done for.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::{
    sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction},
    unistd::getppid,
};

static SIGNAL: AtomicI32 = AtomicI32::new(0);

/// The parent that this process is not to outlive; 0 if it may outlive any.
static PARENT: AtomicI32 = AtomicI32::new(0);

/// From now on what is noted as a signal comprises the end of this process's parent. (The kernel's own,
/// `PR_SET_PDEATHSIG`, comes with the end of a mere thread of the parent's.)
pub fn end_with_parent() {
    PARENT.store(getppid().as_raw(), Ordering::Relaxed);
}

/// Whether the parent has ended that this process is not to outlive.
pub fn is_orphan() -> bool {
    let parent = PARENT.load(Ordering::Relaxed);
    parent != 0 && getppid().as_raw() != parent
}

const SIGNALS: [Signal; 3] = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP];

/// While it lives, the signals are noted instead of ending the process; then everything is as it
/// was before.
#[derive(Debug)]
pub struct Caught {
    before: Vec<(Signal, SigAction)>,
}

extern "C" fn note(signal: libc::c_int) {
    SIGNAL.store(signal, Ordering::Relaxed);
}

impl Caught {
    /// Begins to note signals.
    pub fn install() -> Caught {
        SIGNAL.store(0, Ordering::Relaxed);
        // What is under way goes on: the signal is looked for between the steps.
        let restart = SaFlags::SA_RESTART;
        let action = SigAction::new(SigHandler::Handler(note), restart, SigSet::empty());
        let mut before = Vec::new();
        for signal in SIGNALS {
            // SAFETY: the handler only stores to an atomic, which is async-signal-safe.
            if let Ok(old) = unsafe { sigaction(signal, &action) } {
                // What the parent chose to ignore stays ignored (nohup).
                if matches!(old.handler(), SigHandler::SigIgn) {
                    // SAFETY: puts back what was there.
                    let _ = unsafe { sigaction(signal, &old) };
                } else {
                    before.push((signal, old));
                }
            }
        }
        Caught { before }
    }

    /// The last signal that came, if one did.
    pub fn signal(&self) -> Option<i32> {
        match SIGNAL.load(Ordering::Relaxed) {
            // As of a terminal that is gone.
            0 => is_orphan().then_some(Signal::SIGHUP as i32),
            signal => Some(signal),
        }
    }
}

impl Drop for Caught {
    fn drop(&mut self) {
        for (signal, old) in &self.before {
            // SAFETY: puts back what was there.
            let _ = unsafe { sigaction(*signal, old) };
        }
    }
}
