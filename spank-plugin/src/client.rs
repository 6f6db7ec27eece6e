//! In srun, sbatch and salloc: takes `--container` over, and writes the request.
//!
//! | `--container=` | | Slurm's option | request |
//! |---|---|---|---|
//! | an image's name | checked; refused here if it is none | cleared | the image |
//! | a path of an image, absolute or not | looked at; refused here if there is none | cleared | the image |
//! | an environment file | read; refused here if it cannot be | cleared | what it says |
//! | `none` | | cleared | none |
//! | not given | srun in a job: the job's request; else `SHIFTER_CONTAINER` | | that, or none |
//! | absolute path of an OCI bundle | Slurm's own business | left | none |
//!
//! `--shifter=` is the same by another name. Options besides lie over the job's, in an srun that names
//! its own image too, or where the job has no container over the variables that stand for them; and
//! all of these over what an environment file says.
//!
//! The request is always written, since the environment may hold that of a job around this one.

use std::{
    env,
    error::Error,
    ffi::{CStr, OsString},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use runtime::{
    Config, Source,
    environment_file::{self, Environment, Origin},
    options::{Asked, Batch, Caller, ContainerName},
    reference,
    report::{Report, chain},
    request::{self, NO_REQUEST, REQUEST_JOB_CONTROL_VAR, REQUEST_VAR, Request},
    source::{self, ParseError},
};
use slurm_spank::Context;
use slurm_sys::ClientOptions;

use crate::{
    exports::Hook,
    log,
    options::{self, CONTAINER, SHIFTER, Typed},
    resolve,
    settings::{self, Settings},
};

/// Slurm's names for its own option, and for the variable that it sets from it.
const BUILTIN: &CStr = c"container";
const BUILTIN_VAR: &str = "SLURM_CONTAINER";
/// The option that takes its place.
const PLACE: &str = "--container";
/// Names the image of jobs that name none.
const DEFAULT_VAR: &str = "SHIFTER_CONTAINER";

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
    #[error("{0} is empty; name an image, or say {0}=none for no container")]
    Empty(&'static str),
    #[error("{}={:?}: not UTF-8; image names are ASCII", .0.place, .0.value)]
    Encoding(Named),
    #[error("{1}; write {0}=[REGISTRY/]NAME[:TAG], or {0}=none for no container")]
    Image(&'static str, reference::ParseError),
    /// A path, or something like it, with the remedy.
    #[error("{0}: {1}")]
    Source(&'static str, String),
    #[error(
        "{0}: {1}; it has to be seen where the job is submitted: \
         what only nodes have is for `shifter run` in the job"
    )]
    NotHere(&'static str, String),
    /// All of it in one line: file, line, remedy.
    #[error("{0}: {1}")]
    Environment(&'static str, String),
    #[error(
        "{0}: what is asked for takes {1} bytes, and a job can carry {MAX_CARRIER}; shorten it, or \
         use `shifter run` in the job"
    )]
    TooLarge(&'static str, usize),
    #[error("--container={0:?} and --shifter={1:?} are two; say one of them")]
    Two(OsString, OsString),
    #[error("--{0} is for a container, and none is asked for; add --container=IMAGE")]
    NoContainer(String),
    #[error("--{0} is not for OCI bundles, which Slurm runs itself; leave it out")]
    Bundle(String),
    #[error("container name {0}: a container is its job's own; leave out what is behind the name")]
    JobsName(ContainerName),
    #[error(
        "--{0}-save is for what runs in a container, and the job's script runs on the host; give it to \
         an srun in the script"
    )]
    NothingToSave(String),
    #[error("--{0}-batch is for sbatch and salloc: an srun has no script; leave it out")]
    NoScript(String),
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
         name one image, or none, for all of them, and options once"
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
    options::forget_handed_on(hook);
    options::register(hook);
    lock(&CLIENT).get_or_insert(Client { inherited: inherited(hook), written: None });
    Ok(())
}

/// After options were read, before the job is made of them; once per component of a heterogeneous
/// job.
pub(crate) fn post_opt(hook: &mut Hook<'_>) -> Result<(), Box<dyn Error>> {
    let builtin = hook.client_options();
    let named = named(hook, builtin.as_ref());
    // An earlier component has written over the variable, so what counts is what init saw.
    let inherited = match lock(&CLIENT).as_ref() {
        Some(client) => client.inherited.clone(),
        None => inherited(hook),
    };
    let is_request = |carrier: &OsString| carrier != NO_REQUEST;
    hook.asked = match &named {
        Some(named) => !named.is_left_to_slurm(),
        None => inherited.as_ref().is_some_and(is_request),
    } || options::is_any_typed()
        || earlier_asked();

    if let Some((container, shifter)) = two_names(hook, builtin.as_ref()) {
        return Err(Refusal::Two(container, shifter).into());
    }
    let wish = Wish { named, inherited: inherited.filter(is_request) };
    let multi_prog = builtin.as_ref().is_some_and(|options| options.is_set(c"multi-prog"));
    let carrier = wish.carrier(hook, multi_prog)?;
    if carrier != NO_REQUEST {
        settings::trip(&hook.args(), "post_opt");
        Settings::parse(&hook.handle.plugin_argv()?)?;
    }
    if wish.named.as_ref().is_some_and(|named| !named.is_left_to_slurm()) {
        clear_builtin(hook, builtin.as_ref())?;
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

/// An image, an environment file, or `none`; and where it was said.
#[derive(Debug, Clone)]
struct Named {
    /// An option with its dashes, or a variable.
    place: &'static str,
    value: OsString,
}

impl Named {
    /// Tells whether this is what Slurm's own `--container` is for: the absolute path of a directory
    /// with a `config.json`. One that only the nodes have is not known from a typing error, and that
    /// would make a Slurm without oci.conf run the command on the bare host: it is refused.
    fn is_left_to_slurm(&self) -> bool {
        let path = Path::new(&self.value);
        self.place == PLACE
            && path.is_absolute()
            && path.is_dir()
            && !matches!(path.join("config.json").try_exists(), Ok(false))
    }

    /// Tells whether this asks for no container.
    fn is_none(&self) -> bool {
        self.value == NO_REQUEST
    }

    /// Returns the request for it.
    fn request(&self, config: &Config) -> Result<Request, Refusal> {
        match self.value.to_str() {
            None => Err(Refusal::Encoding(self.clone())),
            Some("") => Err(Refusal::Empty(self.place)),
            Some(file) if environment_file::is_path(file) => {
                read(self.place, file, &config.env_path)
            }
            Some(name) => Ok(Request::of_image(image(self.place, name)?)),
        }
    }
}

/// What the user wants.
struct Wish {
    /// What is said here and now.
    named: Option<Named>,
    /// The request of the job that this srun is in.
    inherited: Option<OsString>,
}

impl Wish {
    /// Checks the wish, and puts it as the request that says it.
    fn carrier(&self, hook: &Hook<'_>, multi_prog: bool) -> Result<String, Box<dyn Error>> {
        let caller = Caller::of_this_process();
        let args = hook.args();
        let prefix = settings::prefix(&args);
        let typed = options::typed(&caller, prefix)?;
        let place = self.named.as_ref().map_or(PLACE, |named| named.place);
        let request = match &self.named {
            Some(named) if named.is_none() => return Ok(NO_REQUEST.to_owned()),
            Some(named) if named.is_left_to_slurm() => return typed.none_or(Refusal::Bundle),
            Some(named) => {
                let config = config(hook)?;
                let request = named.request(&config)?;
                let base = match self.inherited() {
                    Ok(Some(job)) => job.asked.for_another_image(),
                    _ => options::defaults(&caller)?,
                };
                let asked = typed.asked.over(base);
                let batch = asked.batch.unwrap_or(config.container_batch);
                Request { asked: Asked { batch: is_said(batch), ..asked }, ..request }
            }
            None => match self.inherited().map_err(Refusal::Inherited)? {
                None => return typed.none_or(Refusal::NoContainer),
                Some(job) => {
                    // Found out for the job, unless a step wants it found in another way.
                    let digest = job.digest.clone().filter(|_| typed.asked.tag.is_none());
                    Request { asked: typed.asked.over(job.asked.clone()), digest, ..job }
                }
            },
        };
        if hook.is_srun() && typed.is_about_script {
            return Err(Refusal::NoScript(prefix.to_owned()).into());
        }
        if !hook.is_srun()
            && request.asked.batch == Some(Batch::Host)
            && request.asked.options.save.is_some()
        {
            return Err(Refusal::NothingToSave(prefix.to_owned()).into());
        }
        if let Some(name) = request.asked.options.name.as_ref().filter(|name| name.job().is_some())
        {
            return Err(Refusal::JobsName(name.clone()).into());
        }
        let request = self.resolved(hook, request)?;
        // Whether this srun is a --multi-prog one is no matter of the job's that it is in.
        let carrier = Request { multi_prog, ..request }.to_carrier();
        if carrier.len() > MAX_CARRIER {
            return Err(Refusal::TooLarge(place, carrier.len()).into());
        }
        Ok(carrier)
    }

    /// Adds what the image's name stands for, unless that is known or cannot be.
    fn resolved(&self, hook: &Hook<'_>, request: Request) -> Result<Request, Box<dyn Error>> {
        let tag = request.asked.tag;
        let Source::Registry(reference) = &request.container else { return Ok(request) };
        if request.digest.is_some()
            || reference.digest().is_some()
            || !config(hook)?.resolve_on_submit
        {
            return Ok(request);
        }
        let settings = Settings::parse(&hook.handle.plugin_argv()?)?;
        let place = self.named.as_ref().map_or(PLACE, |named| named.place);
        let digest = resolve::resolve(reference, tag, &settings);
        let digest = digest.map_err(|why| Refusal::Source(place, why))?;
        Ok(Request { digest, ..request })
    }

    fn inherited(&self) -> Result<Option<Request>, request::Error> {
        let Some(carrier) = &self.inherited else { return Ok(None) };
        let job = Request::from_carrier(&carrier.to_string_lossy())?;
        Ok(job.map(|job| Request { asked: job.asked.for_steps(), ..job }))
    }
}

impl Typed {
    /// No container goes with no options.
    fn none_or(self, refusal: fn(String) -> Refusal) -> Result<String, Box<dyn Error>> {
        match self.first {
            None => Ok(NO_REQUEST.to_owned()),
            Some(option) => Err(refusal(option).into()),
        }
    }
}

/// What goes without saying is not carried.
fn is_said(batch: Batch) -> Option<Batch> {
    (batch != Batch::Container).then_some(batch)
}

/// Reads an environment file here, where the user is told what is wrong with it; nodes never see it.
fn read(place: &'static str, file: &str, dirs: &[PathBuf]) -> Result<Request, Refusal> {
    let refuse = |report: Report| Refusal::Environment(place, report.line);
    let environment = Environment::load(file, dirs, &|name| env::var_os(name));
    let environment = environment.map_err(|e| refuse(Report::from(&e)))?;
    if let Some(unheeded) = environment.unheeded() {
        log::notice(&unheeded);
    }
    look(place, &environment.image.value, Some(&environment.image.origin))?;
    Ok(environment.request())
}

/// Reads an image's name or path, as the user has typed it here.
fn image(place: &'static str, text: &str) -> Result<Source, Refusal> {
    let (cwd, home) = (env::current_dir().ok(), runtime::config::home());
    let source = Source::typed(text, cwd.as_deref(), home.as_deref());
    let source = source.map_err(|error| match error {
        ParseError::Reference(error) => Refusal::Image(place, error),
        other => Refusal::Source(place, Report::from(&other).line),
    })?;
    look(place, &source, None)?;
    Ok(source)
}

/// Looks for what the nodes are to run. A typing error is told here, before the job waits in a queue.
fn look(place: &'static str, source: &Source, origin: Option<&Origin>) -> Result<(), Refusal> {
    let Source::OnDisk(file) = source else { return Ok(()) };
    file.check().map_err(|error| {
        let report = Report::from(&error);
        let line = origin.map_or(report.clone(), |origin| report.during(origin)).line;
        match error {
            source::Error::Open { .. } => Refusal::NotHere(place, line),
            _ => Refusal::Source(place, line),
        }
    })
}

/// Reads the settings, as the node will.
fn config(hook: &Hook<'_>) -> Result<Config, Box<dyn Error>> {
    let config = match Settings::parse(&hook.handle.plugin_argv()?)?.config {
        Some(site) => Config::load_from(&site),
        None => Config::load(),
    };
    Ok(config.map_err(|e| Report::from(&e).line)?)
}

/// Returns what the user has named, in whichever way.
fn named(hook: &Hook<'_>, builtin: Option<&ClientOptions>) -> Option<Named> {
    let by_option = container(hook, builtin).map(|value| Named { place: PLACE, value });
    let by_alias = || SHIFTER.value(&hook.handle).map(|value| Named { place: "--shifter", value });
    // Of an srun in a job the job has said what there is to say.
    let is_new = || !hook.is_srun() || !is_in_job();
    let by_default = || {
        let value = env::var_os(DEFAULT_VAR).filter(|value| !value.is_empty() && is_new())?;
        Some(Named { place: DEFAULT_VAR, value })
    };
    by_option.or_else(by_alias).or_else(by_default)
}

/// Returns the value of `--container`, from the command line or from Slurm's variables for it.
fn container(hook: &Hook<'_>, builtin: Option<&ClientOptions>) -> Option<OsString> {
    let value = match builtin {
        Some(options) => options.get(BUILTIN),
        // Where Slurm's options are out of reach this still tells the value, since init has
        // unset it.
        None => env::var_os(BUILTIN_VAR),
    };
    value.or_else(|| CONTAINER.value(&hook.handle))
}

/// Returns both names of the image, if they differ.
fn two_names(hook: &Hook<'_>, builtin: Option<&ClientOptions>) -> Option<(OsString, OsString)> {
    let both = container(hook, builtin).zip(SHIFTER.value(&hook.handle));
    both.filter(|(container, shifter)| container != shifter)
}

/// Makes Slurm's option as if never given: the job's description is made of it after this.
fn clear_builtin(hook: &Hook<'_>, builtin: Option<&ClientOptions>) -> Result<(), Refusal> {
    let has_option = env::var_os(BUILTIN_VAR);
    match (builtin, has_option) {
        (Some(options), _) => {
            if let Some(value) = options.get(BUILTIN)
                && !options.reset(BUILTIN)
            {
                return Err(Refusal::NotCleared(value.to_string_lossy().into_owned()));
            }
        }
        (None, Some(value)) => {
            return Err(Refusal::Hidden(value.to_string_lossy().into_owned()));
        }
        (None, None) => {}
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
    env::var_os(REQUEST_VAR).filter(|_| hook.is_srun() && is_in_job())
}

fn is_in_job() -> bool {
    ["SLURM_JOB_ID", "SLURM_JOBID"].iter().any(|name| env::var_os(name).is_some())
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A hook that panicked has left it as it was.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Hook<'_> {
    fn is_srun(&self) -> bool {
        matches!(self.handle.context(), Ok(Context::Local))
    }
}
