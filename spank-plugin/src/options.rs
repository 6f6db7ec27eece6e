//! The options that the plugin gives srun, sbatch and salloc: one table.
//!
//! They are registered in the clients alone. On the node Slurm passes over options that it does
//! not know there, so no text of a user's is ever read by a process of root's; what a task has to
//! know is in the request.

use std::{env, ffi::OsString};

use slurm_spank::{Context, SpankError, SpankHandle, SpankOption};

/// An option with a value.
#[derive(Debug)]
pub(crate) struct Opt {
    /// Its name, without dashes.
    pub(crate) name: &'static str,
    /// What stands for the value in `--help`.
    arg: &'static str,
    /// What `--help` says.
    help: &'static str,
    /// Slurm's scheme: `SRUN_`, `SBATCH_` or `SALLOC_` and this stand in for the option.
    env: &'static str,
    /// The interface (see `release`) from which Slurm has the option itself.
    builtin_since: Option<u32>,
}

/// `--container=IMAGE`.
pub(crate) const CONTAINER: Opt = Opt {
    name: "container",
    arg: "IMAGE",
    help: "run in this container image ([REGISTRY/]NAME[:TAG]), as an environment file says \
           (./FILE.toml), or in none",
    env: "CONTAINER",
    builtin_since: Some(37),
};

const OPTIONS: &[Opt] = &[CONTAINER];

impl Opt {
    /// Tells whether Slurm has the option itself: it keeps a plugin's option of the same name off
    /// the command line, and says so in an error message, each time.
    fn is_builtin(&self) -> bool {
        match (self.builtin_since, slurm_sys::api_version()) {
            (Some(since), Some(api)) => api >= since,
            (Some(_), None) => true,
            (None, _) => false,
        }
    }

    /// Returns the value of an option that Slurm does not have itself: from the command line, else
    /// from the environment.
    pub(crate) fn value(&self, handle: &SpankHandle<'_>) -> Option<OsString> {
        if self.is_builtin() {
            return None;
        }
        let typed = handle.get_option_value_os(self.name).map(|value| value.into_owned());
        typed.or_else(|| env::var_os(format!("{}_{}", program(handle), self.env)))
    }
}

/// Registers all options that Slurm does not have itself.
pub(crate) fn register(handle: &mut SpankHandle<'_>) -> Result<(), SpankError> {
    for option in OPTIONS.iter().filter(|option| !option.is_builtin()) {
        let spank = SpankOption::new(option.name).takes_value(option.arg).usage(option.help);
        handle.register_option(spank)?;
    }
    Ok(())
}

/// The client's name, as variables begin with it.
fn program(handle: &SpankHandle<'_>) -> &'static str {
    match handle.context() {
        Ok(Context::Local) => "SRUN",
        _ => match env::current_exe() {
            Ok(exe) if exe.ends_with("salloc") => "SALLOC",
            _ => "SBATCH",
        },
    }
}
