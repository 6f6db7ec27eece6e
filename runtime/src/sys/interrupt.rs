//! Noticing SIGINT, SIGTERM and SIGHUP, so that a pull can clean up before it ends.

use std::sync::atomic::{AtomicI32, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

static SIGNAL: AtomicI32 = AtomicI32::new(0);

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
            0 => None,
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
