//! What Slurm sees of the plugin, and all that is unsafe about it.
//!
//! slurm-spank's macro would export every hook there is, which costs a process per job for prolog
//! and epilog, and a `plugin_version` fixed when the plugin is built. So the symbols are made here,
//! and its handle is used as it is. Its option callback keeps one value of an option, where a list
//! may be given in parts. Its tracing subscriber is left out: it would read `RUST_LOG` in daemons
//! that run as root, and log where no user looks.

#![allow(unsafe_code, non_upper_case_globals)]

use std::{
    any::Any,
    env,
    error::Error,
    ffi::{CStr, CString, OsStr, OsString, c_char, c_int},
    marker::PhantomData,
    os::unix::ffi::OsStrExt,
    panic::{self, AssertUnwindSafe},
    ptr::{self, NonNull},
    sync::{
        Mutex, MutexGuard, Once, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use slurm_spank::{
    Context, Plugin, SpankHandle, init_spank_handle, spank_callback_with_globals, spank_sys,
};
use slurm_sys::{ClientOptions, PrependTaskArgv};

use crate::{client, log, options, release, task};

/// Slurm's name for the plugin, in its logs and in the variables that it makes for our options.
#[unsafe(no_mangle)]
static plugin_name: [u8; 8] = *b"shifter\0";

/// What kind of plugin this is.
#[unsafe(no_mangle)]
static plugin_type: [u8; 6] = *b"spank\0";

/// For `shifter doctor`, which reads this file and cannot load it.
#[used]
static MARK: &str = concat!("shifter-spank version ", env!("CARGO_PKG_VERSION"), "\n");

/// The release that the plugin is for: whichever loads it. Slurm reads it after `dlopen`, and so
/// after [`fill_in_version`].
#[unsafe(no_mangle)]
static plugin_version: AtomicU32 = AtomicU32::new(0);

/// Should `slurm_spank_init` fail after all, the job fails and not the node (25.05 and later).
#[unsafe(no_mangle)]
static slurm_spank_init_failure_mode: c_int = slurm_sys::ESPANK_JOB_FAILURE as c_int;

/// Runs when the plugin is loaded, before Slurm looks at any of its symbols.
#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = fill_in_version;

extern "C" fn fill_in_version() {
    if let Some(api) = slurm_sys::api_version() {
        plugin_version.store(release::version_number(api), Ordering::Relaxed);
    }
}

/// Called when the plugin is loaded: in clients before options are read, in slurmd, in slurmstepd.
///
/// # Safety
///
/// For Slurm alone to call.
#[unsafe(no_mangle)]
unsafe extern "C" fn slurm_spank_init(
    spank: spank_sys::spank_t,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let body: Body = |hook| match hook.handle.context()? {
        Context::Local | Context::Allocator => client::init(hook),
        Context::Remote => {
            options::register(hook);
            Ok(())
        }
        Context::Slurmd => {
            note_release();
            Ok(())
        }
        _ => Ok(()),
    };
    // SAFETY: these are the arguments that Slurm called with.
    unsafe { run(spank, argc, argv, body, client::refuse) }
}

/// Called when options have been read.
///
/// # Safety
///
/// For Slurm alone to call.
#[unsafe(no_mangle)]
unsafe extern "C" fn slurm_spank_init_post_opt(
    spank: spank_sys::spank_t,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    let body: Body = |hook| match hook.handle.context()? {
        Context::Local | Context::Allocator => client::post_opt(hook),
        _ => Ok(()),
    };
    // SAFETY: these are the arguments that Slurm called with.
    unsafe { run(spank, argc, argv, body, client::refuse) }
}

/// Called in each task's process, as the user, just before its command.
///
/// # Safety
///
/// For Slurm alone to call.
#[unsafe(no_mangle)]
unsafe extern "C" fn slurm_spank_task_init(
    spank: spank_sys::spank_t,
    argc: c_int,
    argv: *const *const c_char,
) -> c_int {
    // SAFETY: these are the arguments that Slurm called with.
    unsafe { run(spank, argc, argv, task::init, task::fail) }
}

/// What a hook does.
type Body = fn(&mut Hook<'_>) -> Result<(), Box<dyn Error>>;
/// What it does if it cannot, and a container is asked for.
type Refuse = fn(&Hook<'_>, &str);

/// Runs a hook, and turns whatever becomes of it into what Slurm understands: 0, or -1, the one
/// value that every release takes for a failure.
///
/// # Safety
///
/// The arguments are those that Slurm called the hook with.
unsafe fn run(
    spank: spank_sys::spank_t,
    argc: c_int,
    argv: *const *const c_char,
    body: Body,
    refuse: Refuse,
) -> c_int {
    silence_panics();
    spank_callback_with_globals::<Globals, _>(move |_, options, _| {
        let handle = init_spank_handle(spank, argc, argv, options);
        let mut hook = Hook { handle, spank, asked: false, speaks: true };
        // Caught here and not by slurm-spank, whose option callback, called later from C, would
        // find its locks poisoned, panic in turn, and abort the process.
        let why = match panic::catch_unwind(AssertUnwindSafe(|| body(&mut hook))) {
            Ok(Ok(())) => return Ok(()),
            Ok(Err(error)) => error.to_string(),
            Err(payload) => {
                hook.speaks = true;
                format!("internal error: {}", panic_text(payload.as_ref()))
            }
        };
        if !hook.asked {
            client::pass_over(&why);
            return Ok(());
        }
        refuse(&hook, &why);
        Err(why.into())
    })
}

/// Keeps panics from writing to the user's terminal; [`run`] says what happened.
fn silence_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        panic::set_hook(Box::new(|panic| log::debug(&panic.to_string().replace('\n', " "))));
    });
}

fn panic_text(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or("panic")
}

/// Says once, in slurmd's log, if this Slurm is newer than the plugin.
fn note_release() {
    if let Some(api) = slurm_sys::api_version().filter(|api| release::is_guess(*api)) {
        log::notice(&format!(
            "Slurm interface {api} is newer than this plugin; its release is a guess"
        ));
    }
}

/// The type that slurm-spank keeps its globals by. Nothing of it is used.
#[derive(Default)]
struct Globals;

// SAFETY: the trait asks for care in hooks that run in a forked child. None of its hooks is ever
// called, and those above make no threads. Overriding the two methods leaves tracing out.
unsafe impl Plugin for Globals {
    fn setup(&mut self, _: &mut SpankHandle<'_>) -> Result<(), Box<dyn Error>> {
        Ok(())
    }

    fn report_error(&self, _: &mut SpankHandle<'_>, _: &dyn Error) {}
}

/// The options, by the numbers that Slurm knows them by.
static OPTIONS: Mutex<Vec<&'static str>> = Mutex::new(Vec::new());
/// What was typed, in its order.
static TYPED: Mutex<Vec<Typed>> = Mutex::new(Vec::new());

/// An option that was typed, and its value if it takes one.
type Typed = (&'static str, Option<OsString>);

/// Called for each of our options: by clients that find them on the command line, and by slurmstepd,
/// which is root, and has no use for what users type.
unsafe extern "C" fn note_option(number: c_int, value: *const c_char, remote: c_int) -> c_int {
    if remote != 0 {
        return 0;
    }
    // SAFETY: Slurm passes a C string, or NULL where there is no value.
    let value = (!value.is_null()).then(|| unsafe { CStr::from_ptr(value) });
    let value = value.map(|value| OsStr::from_bytes(value.to_bytes()).to_owned());
    let name = usize::try_from(number).ok().and_then(|number| lock(&OPTIONS).get(number).copied());
    lock(&TYPED).extend(name.map(|name| (name, value)));
    0
}

/// Returns the options that were typed so far.
pub(crate) fn typed() -> Vec<Typed> {
    lock(&TYPED).clone()
}

/// Nobody waits here: hooks and callbacks run one after the other. One that panicked has left it as it
/// was.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One call of a hook.
pub(crate) struct Hook<'a> {
    /// Slurm's side of it.
    pub(crate) handle: SpankHandle<'a>,
    spank: spank_sys::spank_t,
    /// A container is asked for: from here on errors count.
    pub(crate) asked: bool,
    /// Errors are this process's to tell; of a node's many tasks one is enough.
    pub(crate) speaks: bool,
}

impl Hook<'_> {
    /// Returns the plugin's arguments in plugstack.conf; none if they are not UTF-8.
    pub(crate) fn args(&self) -> Vec<&str> {
        self.handle.plugin_argv().unwrap_or_default()
    }

    /// Gives Slurm an option, which is `key` to us. `arg` is what stands for its value, if it takes
    /// one. The error is Slurm's number.
    pub(crate) fn register_option(
        &self,
        key: &'static str,
        name: &str,
        arg: Option<&str>,
        help: &str,
    ) -> Result<(), u32> {
        let c_string = |text: &str| CString::new(text).expect("a text of this program's");
        let (c_name, arg, help) = (c_string(name), arg.map(c_string), c_string(help));
        let mut options = lock(&OPTIONS);
        let mut option = spank_sys::spank_option {
            name: c_name.as_ptr(),
            arginfo: arg.as_ref().map_or(ptr::null(), |arg| arg.as_ptr()),
            usage: help.as_ptr(),
            has_arg: arg.is_some().into(),
            val: options.len().try_into().expect("a handful of options"),
            cb: Some(note_option),
        };
        // SAFETY: the handle is the one of this call, and Slurm copies the option.
        match unsafe { spank_sys::spank_option_register(self.spank, &raw mut option) } {
            spank_sys::ESPANK_SUCCESS => {
                options.push(key);
                Ok(())
            }
            error => Err(error),
        }
    }

    /// Returns a variable of the task's environment.
    ///
    /// Looked up in the array, not by `spank_getenv`, whose error numbers depend on the release.
    pub(crate) fn task_var(&self, name: &str) -> Option<OsString> {
        let env = self.handle.job_env_os().ok()?;
        let value = env.iter().find_map(|var| {
            let rest = var.as_bytes().strip_prefix(name.as_bytes())?;
            rest.strip_prefix(b"=")
        })?;
        Some(OsStr::from_bytes(value).to_owned())
    }

    /// Returns the client's own options; `None` where this Slurm hides them.
    pub(crate) fn client_options(&self) -> Option<ClientOptions> {
        match self.handle.context() {
            // SAFETY: these contexts are srun, sbatch and salloc, each in a hook that runs before
            // it makes threads.
            Ok(Context::Local | Context::Allocator) => unsafe { ClientOptions::find() },
            _ => None,
        }
    }

    /// Sets a variable of the client that this is running in.
    pub(crate) fn set_client_var(&self, name: &str, value: &str) {
        // SAFETY: clients read and parse everything in one thread, and themselves call setenv
        // around these hooks.
        unsafe { env::set_var(name, value) }
    }

    /// Unsets a variable of the client that this is running in.
    pub(crate) fn unset_client_var(&self, name: &str) {
        // SAFETY: as in `set_client_var`.
        unsafe { env::remove_var(name) }
    }

    /// Puts words in front of the task's command. The error is Slurm's number.
    pub(crate) fn prepend(&self, with: &PrependTaskArgv, words: &[CString]) -> Result<(), u32> {
        // SAFETY: the handle is the one of this call.
        unsafe { with.call(self.spank.cast(), words) }
    }

    /// Returns the first word of the task's command, to be read and replaced; `None` if Slurm
    /// has no command to show.
    pub(crate) fn command(&self) -> Option<Command<'_>> {
        let (mut argc, mut argv): (c_int, *mut *mut c_char) = (0, ptr::null_mut());
        // SAFETY: for this item Slurm writes an int and a char ** (slurm/spank.h).
        let rc = unsafe {
            let item = spank_sys::spank_item_S_JOB_ARGV;
            spank_sys::spank_get_item(self.spank, item, &raw mut argc, &raw mut argv)
        };
        let word = NonNull::new(argv).filter(|_| rc == spank_sys::ESPANK_SUCCESS && argc > 0)?;
        // SAFETY: the array has `argc` words, at least one.
        (!unsafe { *word.as_ptr() }.is_null()).then_some(Command { word, hook: PhantomData })
    }
}

/// The first word of the task's command, in the array that the task is executed with.
pub(crate) struct Command<'a> {
    word: NonNull<*mut c_char>,
    hook: PhantomData<&'a ()>,
}

impl Command<'_> {
    /// Returns the word.
    pub(crate) fn name(&self) -> OsString {
        // SAFETY: it was found to be a C string, and nothing else runs in this process.
        let name = unsafe { CStr::from_ptr(*self.word.as_ptr()) };
        OsStr::from_bytes(name.to_bytes()).to_owned()
    }

    /// Puts another in its place.
    pub(crate) fn replace(self, name: CString) {
        // SAFETY: the slot is Slurm's, which only reads it from here on; both strings live until
        // the process turns into the command.
        unsafe { *self.word.as_ptr() = name.into_raw() }
    }
}

/// Ends this process, a task's, as a container that did not come to be.
pub(crate) fn exit_task() -> ! {
    // SAFETY: no cleanup is due: this is a child of slurmstepd's, and what its parent registered to
    // be done at exit is the parent's to do.
    unsafe { libc::_exit(125) }
}
