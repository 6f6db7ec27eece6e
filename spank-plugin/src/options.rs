//! The options that the plugin gives srun, sbatch and salloc, and what users have made of them.
//!
//! ```text
//! IMAGE      --container=   (Slurm's own since 21.08, see `client`), --shifter=
//! the rest   --container-… (or what else the site says): runtime's table, which `shifter run` has its flags from
//! ```
//!
//! What a task has to know is in the request. slurmstepd is told the names all the same: of an option
//! that it does not know it complains in the administrator's log, once a step. It is given a function
//! that does nothing, so no text of a user's is ever read by a process of root's.
//!
//! Slurm hands what sbatch and salloc were given to every srun in the job, as if typed there: in
//! variables, which are unset before it reads them. The request says it better: the file that was
//! meant may be gone, and relative paths begin elsewhere.

use std::{
    env,
    ffi::{OsStr, OsString},
};

use runtime::options::{Asked, Caller, ParseError, TABLE};
use slurm_spank::{Context, SpankHandle};

use crate::{
    exports::{self, Hook},
    log,
    settings::{self, DEFAULT_PREFIX},
};

/// What Slurm's variables for options of this plugin begin with, in jobs of sbatch and salloc.
const HANDED_ON: &str = "SLURM_SPANK__SLURM_SPANK_OPTION_shifter_";

/// An option that names the image.
#[derive(Debug)]
pub(crate) struct Opt {
    /// Its name, without dashes.
    name: &'static str,
    /// What `--help` says.
    help: &'static str,
    /// The interface (see `release`) from which Slurm has the option itself.
    builtin_since: Option<u32>,
}

const IMAGE: &str = "IMAGE";

/// `--container=IMAGE`.
pub(crate) const CONTAINER: Opt = Opt {
    name: "container",
    help: "run in this container image ([REGISTRY/]NAME[:TAG]), as an environment file says \
           (./FILE.toml), or in none",
    builtin_since: Some(37),
};

/// `--shifter=IMAGE`: Slurm's own salloc has a `--container` only where the site has interactive
/// steps, and refuses it elsewhere before any plugin is asked.
pub(crate) const SHIFTER: Opt = Opt {
    name: "shifter",
    help: "the same as --container, also where salloc does not have that",
    builtin_since: None,
};

const IMAGES: [&Opt; 2] = [&CONTAINER, &SHIFTER];

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

    /// Returns the value of an option that Slurm does not have itself: the last that was typed, or for
    /// one that Slurm would have, of the variable that Slurm has for it.
    pub(crate) fn value(&self, handle: &SpankHandle<'_>) -> Option<OsString> {
        if self.is_builtin() {
            return None;
        }
        let typed = exports::typed().into_iter().rev();
        let typed = typed.filter(|(name, _)| *name == self.name).find_map(|(_, value)| value);
        let name = format!("{}_{}", program(handle), self.name.to_uppercase());
        typed.or_else(|| self.builtin_since.and_then(|_| env::var_os(name)))
    }
}

/// Registers all options that Slurm does not have itself, in clients and slurmstepd.
///
/// One that another plugin has (pyxis calls some by the same names) is lost to whichever comes second
/// in plugstack.conf, which Slurm says and does not tell the plugin. The rest is none the worse.
pub(crate) fn register(hook: &Hook<'_>) {
    let images = IMAGES.iter().filter(|option| !option.is_builtin());
    let images = images.map(|option| (option.name, Some(IMAGE.to_owned()), option.help));
    let rows = TABLE.iter().map(|row| (row.option, row.option_arg(), row.help));
    let args = hook.args();
    let prefix = settings::prefix(&args);
    for (key, arg, help) in images.chain(rows) {
        let name = if key == CONTAINER.name { key.to_owned() } else { shown(key, prefix) };
        if let Err(code) = hook.register_option(key, &name, arg.as_deref(), help) {
            log::debug(&format!("register --{name}: Slurm says error {code}"));
        }
    }
}

/// An option of the table as this site has it.
pub(crate) fn shown(option: &str, prefix: &str) -> String {
    option.replacen(DEFAULT_PREFIX, prefix, 1)
}

/// Unsets what Slurm would take for typed.
pub(crate) fn forget_handed_on(hook: &Hook<'_>) {
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    for name in names.filter(|name| name.starts_with(HANDED_ON)) {
        hook.unset_client_var(&name);
    }
}

/// Why an option's value is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{place}: {problem}")]
    Value { place: String, problem: ParseError },
    #[error("{place}={value:?}: not UTF-8")]
    Encoding { place: String, value: OsString },
}

/// What was typed besides the image.
#[derive(Debug, Default)]
pub(crate) struct Typed {
    /// All of it.
    pub(crate) asked: Asked,
    /// The first of the options, as this site has it.
    pub(crate) first: Option<String>,
    /// One of them is about the job's script.
    pub(crate) is_about_script: bool,
}

/// Tells whether anything of ours was typed.
pub(crate) fn is_any_typed() -> bool {
    !exports::typed().is_empty()
}

/// Reads what was typed: in a script's #SBATCH lines, then on the command line. What is said later
/// goes over what was said before.
pub(crate) fn typed(caller: &Caller, prefix: &str) -> Result<Typed, Error> {
    let mut typed = Typed::default();
    for (name, value) in exports::typed() {
        let Some(row) = TABLE.iter().find(|row| row.option == name) else { continue };
        let option = shown(row.option, prefix);
        let place = format!("--{option}");
        let value = value.unwrap_or_default();
        let asked = row.read_option(text(&place, &value)?, caller);
        let asked = asked.map_err(|problem| Error::Value { place, problem })?;
        typed.is_about_script |= asked.batch.is_some();
        typed.asked = asked.over(typed.asked);
        typed.first.get_or_insert(option);
    }
    Ok(typed)
}

/// Reads the variables that stand for options, except for those that were typed.
pub(crate) fn defaults(caller: &Caller) -> Result<Asked, Error> {
    let typed = exports::typed();
    let is_typed = |variable: &str| {
        let mut same = TABLE.iter().filter(|row| row.variable == variable);
        same.any(|row| typed.iter().any(|(name, _)| *name == row.option))
    };
    let mut asked = Asked::default();
    for row in TABLE.iter().filter(|row| !is_typed(row.variable)) {
        let Some(value) = env::var_os(row.variable) else { continue };
        let place = row.variable.to_owned();
        let read = row.read_variable(text(&place, &value)?, caller);
        if let Some(read) = read.map_err(|problem| Error::Value { place, problem })? {
            asked = read.over(asked);
        }
    }
    Ok(asked)
}

fn text<'a>(place: &str, value: &'a OsStr) -> Result<&'a str, Error> {
    let wrong = || Error::Encoding { place: place.to_owned(), value: value.to_owned() };
    value.to_str().ok_or_else(wrong)
}

/// The client's name, as Slurm's variables for its options begin with it.
fn program(handle: &SpankHandle<'_>) -> &'static str {
    match handle.context() {
        Ok(Context::Local) => "SRUN",
        _ => match env::current_exe() {
            Ok(exe) if exe.ends_with("salloc") => "SALLOC",
            _ => "SBATCH",
        },
    }
}
