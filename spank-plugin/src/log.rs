//! Everything that is ever printed.
//!
//! Who reads it depends on where it is said: a client's log is the user's terminal, the one of
//! slurmd and slurmstepd is the administrator's file, and a task's stderr is the user's again.

use std::io::Write;

use slurm_spank::{LogLevel, spank_log};

/// Tells the user at the terminal why the job is not submitted: `srun: error: shifter: …`.
pub(crate) fn refusal(text: &str) {
    spank_log(LogLevel::Error, &format!("shifter: {text}"));
}

/// Tells the user, on the task's stderr, why the task does not run: `shifter: n17: …`.
///
/// Straight to the descriptor: Slurm's log would say it in its own words, some releases in
/// slurmd's file as well.
pub(crate) fn failure(node: &str, text: &str) {
    let line = format!("shifter: {node}: {text}\n");
    // Nobody is left to tell that stderr is closed.
    let _ = std::io::stderr().write_all(line.as_bytes());
}

/// Tells the administrator something worth knowing once.
pub(crate) fn notice(text: &str) {
    spank_log(LogLevel::Info, &format!("shifter: {text}"));
}

/// Tells whoever has asked for debug messages.
pub(crate) fn debug(text: &str) {
    spank_log(LogLevel::Debug, &format!("shifter: {text}"));
}
