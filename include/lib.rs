//! Declarations of Slurm that slurm-spank lacks, and the lookups that make them usable.
//!
//! One plugin serves every release, and is loaded by srun, sbatch, salloc, slurmd and slurmstepd
//! alike. Which functions there are is known only then, so all of them are asked for by name; what
//! is missing is a `None`, not a plugin that does not load.
//!
//! - [`api_version`] and [`ClientOptions`] are what the client side needs,
//! - [`PrependTaskArgv`] is for the task side,
//! - [`ffi`] is `slurm_extra.h`, which says where each item comes from.

#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString, OsStr, OsString, c_void},
    fmt,
    os::unix::ffi::OsStrExt,
    ptr::NonNull,
};

/// `slurm_extra.h`, as bindgen reads it.
#[allow(missing_docs, missing_debug_implementations, non_camel_case_types, non_snake_case)]
pub mod ffi {
    include!(concat!(env!("OUT_DIR"), "/slurm_extra.rs"));
}

pub use ffi::{ESPANK_JOB_FAILURE, SLURM_BATCH_SCRIPT, SLURM_EXTERN_CONT, SLURM_INTERACTIVE_STEP};

/// Looks a symbol up in the program and the libraries that it was started with.
fn symbol(name: &CStr) -> Option<NonNull<c_void>> {
    // SAFETY: the name is a C string, and a lookup changes nothing.
    NonNull::new(unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) })
}

/// Looks up `$name` as the function type `$type` of [`ffi`].
macro_rules! function {
    ($name:literal, $type:ty) => {
        symbol($name).and_then(|address| {
            // SAFETY: the symbol of this name has this type in every release that has it
            // (slurm_extra.h), and an address that is not null is a function pointer's `Some`.
            unsafe { std::mem::transmute::<NonNull<c_void>, $type>(address) }
        })
    };
}

/// Returns the number of the running Slurm's programming interface: 38 for 22.05, one more for
/// each release since.
pub fn api_version() -> Option<u32> {
    let version = function!(c"slurm_api_version", ffi::slurm_api_version_f)?;
    // SAFETY: it takes nothing and returns a constant.
    u32::try_from(unsafe { version() } >> 16).ok()
}

/// Slurm's own options of the srun, sbatch or salloc that this is running in.
pub struct ClientOptions {
    opt: NonNull<ffi::slurm_opt>,
    get:
        unsafe extern "C" fn(*mut ffi::slurm_opt, *const std::ffi::c_char) -> *mut std::ffi::c_char,
    reset: unsafe extern "C" fn(*mut ffi::slurm_opt, *const std::ffi::c_char) -> bool,
    isset: unsafe extern "C" fn(*mut ffi::slurm_opt, *const std::ffi::c_char) -> bool,
}

impl ClientOptions {
    /// Finds them; `None` in any other program, or should a release hide them.
    ///
    /// # Safety
    ///
    /// In a program that is not srun, sbatch or salloc `opt` may be the name of anything. Options
    /// are there to be read once Slurm has parsed them, and nothing else may be at them meanwhile:
    /// both are so in `slurm_spank_init_post_opt` of the contexts local and allocator.
    pub unsafe fn find() -> Option<ClientOptions> {
        Some(ClientOptions {
            opt: symbol(c"opt")?.cast(),
            get: function!(c"slurm_option_get", ffi::slurm_option_get_f)?,
            reset: function!(c"slurm_option_reset", ffi::slurm_option_reset_f)?,
            isset: function!(c"slurm_option_isset", ffi::slurm_option_isset_f)?,
        })
    }

    /// Returns an option's value, if it was given and takes one.
    pub fn get(&self, name: &CStr) -> Option<OsString> {
        // SAFETY: `opt` is what the function is for, as promised to `find`.
        let value = NonNull::new(unsafe { (self.get)(self.opt.as_ptr(), name.as_ptr()) })?;
        // SAFETY: what is not null is a C string of our own. It is left to the process's end:
        // a few bytes, against relying on Slurm's allocator being one and the same.
        let value = unsafe { CStr::from_ptr(value.as_ptr()) };
        Some(OsStr::from_bytes(value.to_bytes()).to_owned())
    }

    /// Makes an option as if never given; false if Slurm has none of that name.
    pub fn reset(&self, name: &CStr) -> bool {
        // SAFETY: as in `get`.
        unsafe { (self.reset)(self.opt.as_ptr(), name.as_ptr()) }
    }

    /// Tells whether an option was given.
    pub fn is_set(&self, name: &CStr) -> bool {
        // SAFETY: as in `get`.
        unsafe { (self.isset)(self.opt.as_ptr(), name.as_ptr()) }
    }
}

impl fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientOptions").finish_non_exhaustive()
    }
}

/// `spank_prepend_task_argv`, which Slurm has since 23.11.
#[derive(Debug)]
pub struct PrependTaskArgv(
    unsafe extern "C" fn(
        *mut ffi::spank_handle,
        std::ffi::c_int,
        *mut *const std::ffi::c_char,
    ) -> std::ffi::c_uint,
);

impl PrependTaskArgv {
    /// Finds it; `None` before 23.11.
    pub fn find() -> Option<PrependTaskArgv> {
        function!(c"spank_prepend_task_argv", ffi::spank_prepend_task_argv_f).map(PrependTaskArgv)
    }

    /// Puts `words` in front of the task's command; the error is Slurm's number.
    ///
    /// # Safety
    ///
    /// `spank` is the handle that Slurm called the running hook with.
    pub unsafe fn call(&self, spank: *mut ffi::spank_handle, words: &[CString]) -> Result<(), u32> {
        let mut argv: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
        let argc = argv.len().try_into().expect("a handful of words");
        // SAFETY: the array has `argc` C strings, which Slurm copies; the handle is the caller's
        // promise.
        match unsafe { (self.0)(spank, argc, argv.as_mut_ptr()) } {
            0 => Ok(()),
            error => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_without_slurm_has_none_of_it() {
        assert_eq!(api_version(), None);
        assert!(PrependTaskArgv::find().is_none());
    }
}
