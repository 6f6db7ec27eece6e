//! In slurmstepd, in each task's process and already the user: puts the launcher in front of the
//! task's command.
//!
//! From 23.11 on Slurm does that itself, `--multi-prog` included:
//! ```text
//! ./app -x   →   /usr/bin/shifter launch -- ./app -x
//! ```
//! Before, the array that Slurm shows is the one that it executes, unless there is one for each
//! program. Its first word is replaced, and travels in the environment:
//! ```text
//! ./app -x   →   /usr/bin/shifter -x         SHIFTER_TASK_ARGV0=./app
//! ```
//! Either way `SHIFTER_TASK` tells the launcher that it is the task's process, by its number.
//!
//! Signals are as Slurm left them, some ignored or blocked: the launcher puts them right.

use std::{
    error::Error,
    ffi::{CString, OsString},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access, gethostname},
};
use runtime::{
    options::Batch,
    report::chain,
    request::{self, ARGV0_VAR, REQUEST_VAR, Request, TASK_VAR, Task},
};
use slurm_sys::PrependTaskArgv;

use crate::{
    client,
    exports::{Hook, exit_task},
    log,
    settings::{self, Settings},
};

/// Put the user's libraries into every program (ld.so(8)).
const PRELOADS: [&str; 2] = ["LD_PRELOAD", "LD_AUDIT"];

/// Why a task does not run.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{REQUEST_VAR} in the job's environment: {}; submit the job again", chain(.0))]
    Request(request::Error),
    #[error("--container was refused when the job was submitted, and the reason told there")]
    Refused,
    #[error(
        "container launcher {}: {}; install it, or say where it is by shifter=PATH in \
         plugstack.conf (tell the administrator)", .0.display(), .1.desc()
    )]
    Launcher(PathBuf, Errno),
    #[error(
        "srun --multi-prog --container: this Slurm does not let a plugin at the programs' \
         commands (23.11 does); run them as separate steps"
    )]
    MultiProg,
    #[error("put {} before the command: Slurm says error {code}", launcher.display())]
    Prepend { launcher: PathBuf, code: u32 },
    #[error("put {} before the command: Slurm shows no command", .0.display())]
    NoCommand(PathBuf),
}

/// Just before the task's command.
pub(crate) fn init(hook: &mut Hook<'_>) -> Result<(), Box<dyn Error>> {
    let Some(carrier) = hook.task_var(REQUEST_VAR) else { return Ok(()) };
    hook.asked = true;

    // What can be wrong here is wrong for every task of the node.
    hook.speaks = hook.handle.task_id().map_or(true, |id| id == 0);
    if carrier == client::REFUSED {
        return Err(Failure::Refused.into());
    }
    let read = Request::from_carrier(&carrier.to_string_lossy()).map_err(Failure::Request)?;
    let Some(request) = read else { return Ok(()) };
    let step = hook.handle.job_stepid()?;
    // Its steps find the request in the environment, which stays as it is.
    if request.asked.batch == Some(Batch::Host) && is_script(step) {
        return Ok(());
    }
    settings::trip(&hook.args(), "task_init");
    let settings = Settings::parse(&hook.handle.plugin_argv()?)?;
    check_launcher(&settings.launcher)?;
    let prepend = PrependTaskArgv::find();
    if request.multi_prog && prepend.is_none() {
        return Err(Failure::MultiProg.into());
    }
    hook.speaks = true;

    write_variables(hook, &settings, step == slurm_sys::SLURM_BATCH_SCRIPT)?;
    match prepend {
        Some(prepend) => prepend_launcher(hook, &prepend, &settings.launcher),
        None => replace_command(hook, &settings.launcher),
    }
}

/// Tells whether this is the job's script, or salloc's shell.
fn is_script(step: u32) -> bool {
    [slurm_sys::SLURM_BATCH_SCRIPT, slurm_sys::SLURM_INTERACTIVE_STEP].contains(&step)
}

/// Ends the task, with one line if it is this process's to say it.
pub(crate) fn fail(hook: &Hook<'_>, why: &str) {
    if hook.speaks {
        log::failure(&node(hook).to_string_lossy(), why);
    }
    exit_task()
}

/// Looks now, when it can still be said well.
fn check_launcher(launcher: &Path) -> Result<(), Failure> {
    let failure = |errno| Failure::Launcher(launcher.to_owned(), errno);
    match launcher.is_dir() {
        true => Err(failure(Errno::EISDIR)),
        false => access(launcher, AccessFlags::X_OK).map_err(failure),
    }
}

/// Writes what the launcher has to know.
fn write_variables(
    hook: &Hook<'_>,
    settings: &Settings,
    batch: bool,
) -> Result<(), Box<dyn Error>> {
    let task = Task { pid: std::process::id(), batch, config: settings.config.clone() };
    hook.handle.setenv(TASK_VAR, serde_json::to_string(&task)?, true)?;
    // An outer job's, if there is one; written below where it is this task's.
    hook.handle.unsetenv(ARGV0_VAR)?;
    // The launcher lets none of these into a container. They are not for itself either: a library
    // that starts a thread in it keeps it out of the namespaces.
    for name in PRELOADS {
        hook.handle.unsetenv(name)?;
    }
    Ok(())
}

/// 23.11 and later.
fn prepend_launcher(
    hook: &Hook<'_>,
    prepend: &PrependTaskArgv,
    launcher: &Path,
) -> Result<(), Box<dyn Error>> {
    let name = CString::new(launcher.as_os_str().as_bytes())?;
    let failure = |code| Failure::Prepend { launcher: launcher.to_owned(), code };
    Ok(hook.prepend(prepend, &[name, c"launch".into(), c"--".into()]).map_err(failure)?)
}

/// Before 23.11.
fn replace_command(hook: &Hook<'_>, launcher: &Path) -> Result<(), Box<dyn Error>> {
    let name = CString::new(launcher.as_os_str().as_bytes())?;
    let command = hook.command().ok_or_else(|| Failure::NoCommand(launcher.to_owned()))?;
    hook.handle.setenv(ARGV0_VAR, command.name(), true)?;
    command.replace(name);
    Ok(())
}

/// Slurm's name for the node, which is the one that users know.
fn node(hook: &Hook<'_>) -> OsString {
    let name = hook.task_var("SLURMD_NODENAME");
    name.or_else(|| gethostname().ok()).unwrap_or_else(|| "this node".into())
}
