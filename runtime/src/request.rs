//! What the two sides of the plugin say to each other, and to the launcher.
//!
//! ```text
//! srun, sbatch, salloc          slurmstepd, task_init            shifter launch
//!   Request ── REQUEST_VAR ───────► read, checked
//!                                    Task ── TASK_VAR, ARGV0_VAR ───► read, removed
//! ```
//!
//! Everything travels in the job's environment, which the user can write: nothing here grants
//! anything, and each reader checks what it reads again.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::{
    digest::Digest,
    options::{Asked, Front, Options},
    source::Source,
};

/// Carries the [`Request`]. Names that begin with `SLURM` cross every `--export` mode, and
/// `SLURM_SPANK_` ones are what `spank_job_control_setenv` makes of `SHIFTER_REQUEST`.
pub const REQUEST_VAR: &str = "SLURM_SPANK_SHIFTER_REQUEST";
/// [`REQUEST_VAR`] as `spank_job_control_setenv` wants it.
pub const REQUEST_JOB_CONTROL_VAR: &str = "SHIFTER_REQUEST";
/// The value of [`REQUEST_VAR`] that asks for no container. Always written, so that a request
/// is never inherited by accident.
pub const NO_REQUEST: &str = "none";
/// Carries the [`Task`] from `task_init` to the launcher, which removes it.
pub const TASK_VAR: &str = "SHIFTER_TASK";
/// Carries the command that the launcher took the place of, byte for byte.
pub const ARGV0_VAR: &str = "SHIFTER_TASK_ARGV0";

/// What the user asked for: the carrier's content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// The image that was named, or that the environment file names.
    pub container: Source,
    /// What its name stood for when the job was submitted, if that was found out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digest>,
    /// What the environment file asks for beyond it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub options: Options,
    /// What options ask for. It lies over what the file says, and stays where a step names another
    /// image.
    #[serde(default, skip_serializing_if = "is_default")]
    pub asked: Asked,
    /// The environment file, for messages: nodes need not have it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// `srun --multi-prog`: the task's argv is not the array that older Slurms let a plugin edit.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub multi_prog: bool,
}

/// Why a carrier does not hold a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Not the JSON that a client of this version writes.
    #[error("read the job's container request: not understood")]
    Syntax(#[from] serde_json::Error),
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What the program that can ask registries tells the plugin of a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Resolved {
    /// It stands for this.
    Digest(Digest),
    /// It stands for nothing that the user could have.
    Refused(String),
    /// It could not be found out here.
    Unknown(String),
}

impl Resolved {
    /// Writes it as one line.
    pub fn to_line(&self) -> String {
        serde_json::to_string(self).expect("text always serialises")
    }

    /// Reads what [`Resolved::to_line`] wrote.
    pub fn from_line(line: &[u8]) -> Option<Resolved> {
        serde_json::from_slice(line).ok()
    }
}

impl Request {
    /// Asks for an image and nothing else.
    pub fn of_image(image: Source) -> Request {
        Request {
            container: image,
            digest: None,
            options: Options::default(),
            asked: Asked::default(),
            file: None,
            multi_prog: false,
        }
    }

    /// All that is asked for beyond the image.
    pub fn all_options(&self) -> Options {
        self.asked.options.clone().over(self.options.clone())
    }

    /// Reads a carrier; `None` asks for no container.
    pub fn from_carrier(carrier: &str) -> Result<Option<Request>, Error> {
        if carrier.is_empty() || carrier == NO_REQUEST {
            return Ok(None);
        }
        Ok(Some(serde_json::from_str(carrier)?))
    }

    /// Writes the carrier.
    pub fn to_carrier(&self) -> String {
        serde_json::to_string(self).expect("text and booleans always serialise")
    }
}

/// What `task_init` knows and the launcher needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Task {
    /// The process that `task_init` ran in. The launcher is that process after `execve`; any other
    /// process that sees this variable (TaskProlog) is not meant.
    pub pid: u32,
    /// This is the batch script's own step.
    pub batch: bool,
    /// The site's settings, where its plugstack.conf names another file than the usual one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<PathBuf>,
}

impl Task {
    /// Reads what `task_init` left for this process, if it did.
    pub fn of_this_process() -> Option<Task> {
        let text = std::env::var(TASK_VAR).ok()?;
        let task: Task = serde_json::from_str(&text).ok()?;
        (task.pid == std::process::id()).then_some(task)
    }
}

/// Where what this process does was asked for.
pub(crate) fn front() -> Front {
    Task::of_this_process().map_or(Front::Run, |_| Front::Slurm)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_carrier() {
        for image in ["docker.io/library/alpine:3", "oci:/a:b:1", "/x.sqsh"] {
            let image: Source = image.parse().expect("an image");
            let request = Request { multi_prog: true, ..Request::of_image(image) };
            let read = Request::from_carrier(&request.to_carrier()).expect("valid");
            assert_eq!(read, Some(request));
        }
    }

    #[test]
    fn only_none_and_empty_ask_for_nothing() {
        for carrier in ["", "none"] {
            assert!(Request::from_carrier(carrier).expect(carrier).is_none());
        }
        for carrier in [
            "None",
            "{}",
            "{\"container\":\"A B\"}",
            "{\"container\":\"./a\"}",
            "{\"container\":\"a\",\"x\":1}",
        ] {
            assert!(Request::from_carrier(carrier).is_err(), "{carrier} was accepted");
        }
    }
}
