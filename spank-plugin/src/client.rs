//! In srun, sbatch and salloc: takes `--container` over, and writes the request.
//!
//! | `--container=` | | Slurm's option | request |
//! |---|---|---|---|
//! | an image | checked; refused here if it is none | cleared | the image |
//! | an environment file | read; refused here if it cannot be | cleared | what it says |
//! | `none` | | cleared | none |
//! | not given | srun in a job: the job's request | | the job's, or none |
//! | absolute path of an OCI bundle | Slurm's own business | left | none |
//!
//! The request is always written, since the environment may hold that of a job around this one.

use std::{
    env,
    error::Error,
    ffi::{CStr, OsStr, OsString},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use runtime::{
    Config,
    environment_file::{self, Environment},
    report::{Report, chain},
    request::{self, NO_REQUEST, REQUEST_JOB_CONTROL_VAR, REQUEST_VAR, Request},
};
use slurm_spank::Context;
use slurm_sys::ClientOptions;

use crate::{
    exports::Hook,
    log,
    options::{self, CONTAINER},
    settings::{self, Settings},
};

/// Slurm's names for its own option, and for the variable that it sets from it.
const BUILTIN: &CStr = c"container";
const BUILTIN_VAR: &str = "SLURM_CONTAINER";

/// Longest request: the kernel takes no longer string into an environment (`MAX_ARG_STRLEN`), name,
/// `=` and NUL included.
const MAX_CARRIER: usize = (128 << 10) - REQUEST_VAR.len() - 2;

/// What a refused job carries. It is no request, so that the job fails on the node should it get
/// there: Slurm takes no notice of a refusal if plugstack.conf says `optional`.
pub(crate) const REFUSED: &str = "refused";

/// What the hooks of one client have to remember.
struct Client {
    /// The request in the environment that the client was started with.
    inherited: Option<OsString>,
    /// The request of an earlier component of a heterogeneous job.
    written: Option<String>,
}

/// Filled by [`init`]; empty if that failed.
static CLIENT: Mutex<Option<Client>> = Mutex::new(None);

/// What has failed before it was known whether a container is asked for. Slurm has not read the
/// user's -v by then, so nobody could be told.
static EARLY_FAILURE: Mutex<String> = Mutex::new(String::new());

/// Why a job is not submitted.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("--container is empty; name an image, or say --container=none for no container")]
    Empty,
    #[error("--container={0:?}: not UTF-8; image names are ASCII")]
    Encoding(OsString),
    #[error(
        "{}; write --container=[REGISTRY/]NAME[:TAG], or --container=none for no container",
        chain(.0)
    )]
    Image(request::Error),
    /// All of it in one line: file, line, remedy.
    #[error("--container: {0}")]
    Environment(String),
    #[error(
        "--container: what the environment file says takes {0} bytes, and a job can carry \
         {MAX_CARRIER}; shorten it, or use `shifter run` in the job"
    )]
    TooLarge(usize),
    #[error(
        "the job's container, {REQUEST_VAR} in the environment: {}; \
         unset the variable, or name an image with --container", chain(.0)
    )]
    Inherited(request::Error),
    #[error(
        "--container={0}: cannot be taken over from this Slurm, which hides its options from \
         plugins; leave it out and use `shifter run` in the job"
    )]
    Hidden(String),
    #[error("--container={0}: cannot be taken over: Slurm does not let go of its own option")]
    NotCleared(String),
    #[error(
        "the components of a heterogeneous job differ in --container; \
         name one image, or none, for all of them"
    )]
    Components,
    #[error("the plugin could not start: {0} (tell the administrator)")]
    NotStarted(String),
}

/// Before options are read.
pub(crate) fn init(hook: &mut Hook<'_>) -> Result<(), Box<dyn Error>> {
    settings::trip(&hook.args(), "init");
    // Slurm sets this if its option is given, unless it is set. What is there now is an outer
    // job's, and would be taken for this one's.
    hook.unset_client_var(BUILTIN_VAR);
    options::register(&mut hook.handle)?;
    lock(&CLIENT).get_or_insert(Client { inherited: inherited(hook), written: None });
    Ok(())
}

/// After options were read, before the job is made of them; once per component of a heterogeneous
/// job.
pub(crate) fn post_opt(hook: &mut Hook<'_>) -> Result<(), Box<dyn Error>> {
    let builtin = hook.client_options();
    let typed = typed(hook, builtin.as_ref());
    let wish = match &typed {
        Some(value) if is_left_to_slurm(value) => Wish::Nothing,
        Some(value) => Wish::Typed(value),
        // An earlier component has written over the variable, so what counts is what init saw.
        None => match lock(&CLIENT).as_ref() {
            Some(client) => client.inherited.clone(),
            None => inherited(hook),
        }
        .map_or(Wish::Nothing, Wish::Inherited),
    };
    hook.asked = wish.is_asked() || earlier_asked();

    let multi_prog = builtin.as_ref().is_some_and(|options| options.is_set(c"multi-prog"));
    let carrier = wish.carrier(multi_prog, || environment_dirs(hook))?;
    if carrier != NO_REQUEST {
        settings::trip(&hook.args(), "post_opt");
        Settings::parse(&hook.handle.plugin_argv()?)?;
    }
    if let Wish::Typed(value) = wish {
        clear_builtin(hook, builtin.as_ref(), value)?;
    }
    remember(&carrier)?;
    write(hook, &carrier)
}

/// Keeps quiet about a failure that is nothing to the job, as far as is known.
pub(crate) fn pass_over(why: &str) {
    log::debug(why);
    *lock(&EARLY_FAILURE) = why.to_owned();
}

/// Tells the user why, and sees to it that the job cannot run on the bare host.
pub(crate) fn refuse(hook: &Hook<'_>, why: &str) {
    log::refusal(why);
    // The refusal has been told; should this fail too, Slurm still has it in the hook's result.
    let _ = write(hook, REFUSED);
}

/// What the user wants, as far as it is ours.
enum Wish<'a> {
    /// No container, or one of Slurm's.
    Nothing,
    /// The request of the job that this srun is in.
    Inherited(OsString),
    /// `--container=` and this.
    Typed(&'a OsStr),
}

impl Wish<'_> {
    /// Tells whether errors count: there is a container, or there was one and is not to be.
    fn is_asked(&self) -> bool {
        match self {
            Wish::Nothing => false,
            Wish::Inherited(carrier) => carrier != NO_REQUEST,
            Wish::Typed(_) => true,
        }
    }

    /// Checks the wish, and puts it as the request that says it. `dirs` is where environment files
    /// are searched for.
    fn carrier(
        &self,
        multi_prog: bool,
        dirs: impl FnOnce() -> Result<Vec<PathBuf>, Box<dyn Error>>,
    ) -> Result<String, Box<dyn Error>> {
        let request = match self {
            Wish::Nothing => None,
            Wish::Inherited(carrier) => {
                let read = Request::from_carrier(&carrier.to_string_lossy());
                read.map_err(Refusal::Inherited)?.map(|(request, _)| request)
            }
            Wish::Typed(value) => match value.to_str() {
                None => return Err(Refusal::Encoding((*value).to_owned()).into()),
                Some("") => return Err(Refusal::Empty.into()),
                Some(NO_REQUEST) => None,
                Some(file) if environment_file::is_path(file) => Some(read(file, &dirs()?)?),
                Some(image) => Some(Request::of_image(image)),
            },
        };
        let Some(request) = request else { return Ok(NO_REQUEST.to_owned()) };
        // Whether this srun is a --multi-prog one is no matter of the job's that it is in.
        let carrier = Request { multi_prog, ..request }.to_carrier();
        if let Err(error) = Request::from_carrier(&carrier) {
            return Err(Refusal::Image(error).into());
        }
        if carrier.len() > MAX_CARRIER {
            return Err(Refusal::TooLarge(carrier.len()).into());
        }
        Ok(carrier)
    }
}

/// Reads an environment file here, where the user is told what is wrong with it; nodes never see it.
fn read(file: &str, dirs: &[PathBuf]) -> Result<Request, Refusal> {
    let refuse = |report: Report| Refusal::Environment(report.line);
    let environment = Environment::load(file, dirs, &|name| env::var_os(name));
    let environment = environment.map_err(|e| refuse(Report::from(&e)))?;
    if let Some(unheeded) = environment.unheeded() {
        log::notice(&unheeded);
    }
    let request = environment.request();
    Request::from_carrier(&request.to_carrier())
        .map_err(|e| refuse(Report::from(&e).during(&environment.image.origin)))?;
    Ok(request)
}

/// Where environment files are searched for, as the settings have it.
fn environment_dirs(hook: &Hook<'_>) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let config = match Settings::parse(&hook.handle.plugin_argv()?)?.config {
        Some(site) => Config::load_from(&site),
        None => Config::load(),
    };
    Ok(config.map_err(|e| Report::from(&e).line)?.env_path)
}

/// Returns what the user gave as `--container`, in whichever way.
fn typed(hook: &Hook<'_>, builtin: Option<&ClientOptions>) -> Option<OsString> {
    let value = match builtin {
        Some(options) => options.get(BUILTIN),
        // Where Slurm's options are out of reach this still tells the value, since init has
        // unset it.
        None => env::var_os(BUILTIN_VAR),
    };
    value.or_else(|| CONTAINER.value(&hook.handle))
}

/// Tells whether a value is what Slurm's own `--container` is for: the absolute path of a directory
/// with a `config.json`. One that only the nodes have is not known from a typing error, and that
/// would make a Slurm without oci.conf run the command on the bare host: it is refused.
fn is_left_to_slurm(value: &OsStr) -> bool {
    let path = Path::new(value);
    path.is_absolute()
        && path.is_dir()
        && !matches!(path.join("config.json").try_exists(), Ok(false))
}

/// Makes Slurm's option as if never given: the job's description is made of it after this.
fn clear_builtin(
    hook: &Hook<'_>,
    builtin: Option<&ClientOptions>,
    value: &OsStr,
) -> Result<(), Refusal> {
    let shown = || value.to_string_lossy().into_owned();
    let has_option = env::var_os(BUILTIN_VAR).is_some();
    match builtin {
        Some(options) if options.get(BUILTIN).is_some() && !options.reset(BUILTIN) => {
            return Err(Refusal::NotCleared(shown()));
        }
        None if has_option => return Err(Refusal::Hidden(shown())),
        _ => {}
    }
    hook.unset_client_var(BUILTIN_VAR);
    Ok(())
}

/// Tells whether an earlier component of a heterogeneous job has a container.
fn earlier_asked() -> bool {
    let client = lock(&CLIENT);
    let written = client.as_ref().and_then(|client| client.written.as_deref());
    written.is_some_and(|carrier| carrier != NO_REQUEST)
}

/// Keeps the components of a heterogeneous job to one request: they share an environment.
fn remember(carrier: &str) -> Result<(), Refusal> {
    let mut client = lock(&CLIENT);
    let Some(client) = client.as_mut() else {
        return match carrier {
            NO_REQUEST => Ok(()),
            _ => Err(Refusal::NotStarted(lock(&EARLY_FAILURE).clone())),
        };
    };
    match client.written.replace(carrier.to_owned()) {
        Some(earlier) if earlier != carrier => Err(Refusal::Components),
        _ => Ok(()),
    }
}

/// Writes the request to where this client's job takes it from.
fn write(hook: &Hook<'_>, carrier: &str) -> Result<(), Box<dyn Error>> {
    hook.set_client_var(REQUEST_VAR, carrier);
    // sbatch and salloc make a variable of this after --export and --export-file have had
    // their say over the environment.
    if !hook.is_srun() {
        hook.handle.job_control_setenv(REQUEST_JOB_CONTROL_VAR, carrier, true)?;
    }
    Ok(())
}

/// Returns the request of the job around: that of an srun in it, salloc's shell included. A new
/// job takes over nobody's.
fn inherited(hook: &Hook<'_>) -> Option<OsString> {
    let in_job = ["SLURM_JOB_ID", "SLURM_JOBID"].iter().any(|name| env::var_os(name).is_some());
    env::var_os(REQUEST_VAR).filter(|_| hook.is_srun() && in_job)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A hook that panicked has left it as it was.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hook<'_> {
    fn is_srun(&self) -> bool {
        matches!(self.handle.context(), Ok(Context::Local))
    }
}
