//! Which variables a program in a container sees (ARCHITECTURE 6).
//!
//! ```text
//! the job's  <  the image's  <  the scheduler's and this task's own  <  injected
//! ```
//!
//! Later wins. What points into the host's file tree does not cross: it would name files that are
//! not there, or other files than were meant (SECURITY R20). Names and values are bytes.

#![forbid(unsafe_code)]

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    os::unix::ffi::OsStrExt,
    path::Path,
};

use crate::request;

/// What Docker gives an image that names no `PATH` of its own.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Say inside which image it is.
pub(crate) const IMAGE_VAR: &str = "SHIFTER_IMAGE";
pub(crate) const DIGEST_VAR: &str = "SHIFTER_IMAGE_DIGEST";

/// Set by the scheduler or its wire-up for one task: an image's value is another run's.
const SCHEDULER_PREFIXES: [&str; 6] = ["SLURM_", "SLURMD_", "SRUN_", "PMI_", "PMIX_", "PALS_"];
/// Settings of the PMIx library, as good from an image as from anywhere.
const PMIX_SETTINGS: &str = "PMIX_MCA_";
/// Which devices a task was given. An image's value holds where the job has none.
const DEVICE_NAMES: [&str; 6] = [
    "CUDA_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "HIP_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
];

/// Point into the host's file tree, or are code for its shells.
const HOST_PREFIXES: [&str; 8] =
    ["BASH_FUNC_", "CONDA_", "LD_", "LMOD_", "__LMOD_", "__MODULES_", "MODULES_", "_ModuleTable"];
const HOST_NAMES: [&str; 45] = [
    "ACLOCAL_PATH",
    "BASH_ENV",
    "CLASSPATH",
    "CMAKE_PREFIX_PATH",
    "CPATH",
    "CPLUS_INCLUDE_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "C_INCLUDE_PATH",
    "ENV",
    "FPATH",
    "GCONV_PATH",
    "GLIBC_TUNABLES",
    "INFOPATH",
    "JAVA_HOME",
    "LIBRARY_PATH",
    "LOADEDMODULES",
    "LOCPATH",
    "MANPATH",
    "MODULEPATH",
    "MODULESHOME",
    "NLSPATH",
    "NODE_PATH",
    "OLDPWD",
    "OPAL_PREFIX",
    "PATH",
    "PERL5LIB",
    "PERL5OPT",
    "PKG_CONFIG_PATH",
    "PMIX_INSTALL_PREFIX",
    "PWD",
    "PYTHONHOME",
    "PYTHONPATH",
    "PYTHONSTARTUP",
    "ROCM_PATH",
    "RUBYLIB",
    "SHELL",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "TCLLIBPATH",
    "VIRTUAL_ENV",
    "XDG_CONFIG_DIRS",
    "XDG_DATA_DIRS",
    "_",
    "_LMFILES_",
];
/// Name a directory to write in: they cross where that directory does.
const DIRECTORY_NAMES: [&str; 5] = ["HOME", "TMPDIR", "TMP", "TEMP", "XDG_RUNTIME_DIR"];

/// Whether the batch script of a job runs in the container: its steps inherit the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// For every `srun` in the script to find.
    Keep,
    /// A program has no use for it.
    Remove,
}

/// Composes the environment, sorted by name. `is_mounted` tells whether a path of the host is the
/// same inside.
pub fn compose(
    job: impl Iterator<Item = (OsString, OsString)>,
    image: &[String],
    request: Request,
    is_mounted: impl Fn(&Path) -> bool,
    injected: impl IntoIterator<Item = (OsString, OsString)>,
) -> Vec<(OsString, OsString)> {
    let (mut own, mut env) = (BTreeMap::new(), BTreeMap::new());
    for (name, value) in job.filter(|(name, _)| !is_private(name, request)) {
        if is_host_path(&name) || (is_directory(&name) && !is_mounted(Path::new(&value))) {
            continue;
        }
        let place = if is_scheduler(&name) || is_device(&name) { &mut own } else { &mut env };
        place.insert(name, value);
    }
    env.insert("PATH".into(), DEFAULT_PATH.into());
    // image-spec, config.md: "entries are in the format of VARNAME=VARVALUE"; others mean nothing.
    for (name, value) in image.iter().filter_map(|entry| entry.split_once('=')) {
        let name = OsString::from(name);
        let stale = is_scheduler(&name) && !name.as_bytes().starts_with(PMIX_SETTINGS.as_bytes());
        if !name.is_empty() && !stale && !is_private(&name, Request::Remove) {
            env.insert(name, value.into());
        }
    }
    // What a device's description says of a task's share is not this task's.
    let injected: Vec<_> = injected
        .into_iter()
        .filter(|(name, _)| !(is_scheduler(name) || is_device(name)) || !own.contains_key(name))
        .collect();
    env.extend(own);
    env.extend(injected);
    env.into_iter().collect()
}

/// Composes what a command of the host's is given that is called inside: `host` is what the job has
/// outside, `given` what the container began with, `now` what the caller has. What was changed inside
/// crosses; what the image brings does not, nor what points into its tree.
pub fn outside(
    host: &[(OsString, OsString)],
    given: &[(OsString, OsString)],
    now: Vec<(OsString, OsString)>,
) -> BTreeMap<OsString, OsString> {
    let crosses = |name: &OsStr| {
        let is_ours = name == IMAGE_VAR || name == DIGEST_VAR;
        !(is_ours || is_host_path(name) || is_private(name, Request::Keep))
    };
    let host = host.iter().filter(|(name, _)| !is_private(name, Request::Keep));
    let mut env: BTreeMap<_, _> = host.cloned().collect();
    let given: BTreeMap<_, _> = given.iter().map(|(name, value)| (name, value)).collect();
    let now: BTreeMap<_, _> = now.into_iter().collect();
    for (name, value) in given.iter().filter(|(name, _)| crosses(name)) {
        if !now.contains_key(*name) {
            env.remove(*name);
        } else if now.get(*name) != Some(value) {
            env.extend(now.get_key_value(*name).map(|(name, value)| (name.clone(), value.clone())));
        }
    }
    env.extend(now.into_iter().filter(|(name, _)| crosses(name) && !given.contains_key(name)));
    env
}

fn is_private(name: &OsStr, request: Request) -> bool {
    name == request::TASK_VAR
        || name == request::ARGV0_VAR
        || (name == request::REQUEST_VAR && request == Request::Remove)
}

fn is_scheduler(name: &OsStr) -> bool {
    has_prefix(name, &SCHEDULER_PREFIXES)
}

fn is_device(name: &OsStr) -> bool {
    DEVICE_NAMES.iter().any(|other| name == *other)
}

fn is_host_path(name: &OsStr) -> bool {
    has_prefix(name, &HOST_PREFIXES) || HOST_NAMES.iter().any(|other| name == *other)
}

fn is_directory(name: &OsStr) -> bool {
    DIRECTORY_NAMES.iter().any(|other| name == *other)
}

fn has_prefix(name: &OsStr, prefixes: &[&str]) -> bool {
    prefixes.iter().any(|prefix| name.as_bytes().starts_with(prefix.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use super::*;

    fn composed(job: &[(&str, &str)], image: &[&str], request: Request) -> Vec<(String, String)> {
        let job = job.iter().map(|&(name, value)| (name.into(), value.into()));
        let image: Vec<String> = image.iter().map(|&entry| entry.to_owned()).collect();
        let mounted = |path: &Path| path.starts_with("/tmp");
        compose(job, &image, request, mounted, [("HOME".into(), "/home/ada".into())])
            .into_iter()
            .map(|(name, value)| (name.into_string().unwrap(), value.into_string().unwrap()))
            .collect()
    }

    #[test]
    fn later_sources_win() {
        for (label, job, image, name, expected) in [
            ("image over job", &[("LANG", "de")][..], &["LANG=C"][..], "LANG", Some("C")),
            ("job crosses", &[("OMP_NUM_THREADS", "4")], &[], "OMP_NUM_THREADS", Some("4")),
            ("scheduler", &[("SLURM_PROCID", "3")], &["SLURM_PROCID=9"], "SLURM_PROCID", Some("3")),
            ("stale scheduler", &[], &["PMI_RANK=9"], "PMI_RANK", None),
            ("PMIx setting", &[], &["PMIX_MCA_gds=hash"], "PMIX_MCA_gds", Some("hash")),
            (
                "this task's devices",
                &[("CUDA_VISIBLE_DEVICES", "1")],
                &["CUDA_VISIBLE_DEVICES=0"],
                "CUDA_VISIBLE_DEVICES",
                Some("1"),
            ),
            (
                "image's devices",
                &[],
                &["NVIDIA_VISIBLE_DEVICES=all"],
                "NVIDIA_VISIBLE_DEVICES",
                Some("all"),
            ),
            ("injected", &[("HOME", "/x")], &["HOME=/root"], "HOME", Some("/home/ada")),
            ("library path", &[("LD_LIBRARY_PATH", "/opt")], &[], "LD_LIBRARY_PATH", None),
            (
                "image's own",
                &[("LD_LIBRARY_PATH", "/opt")],
                &["LD_LIBRARY_PATH=/usr/l"],
                "LD_LIBRARY_PATH",
                Some("/usr/l"),
            ),
            ("shell function", &[("BASH_FUNC_ml%%", "() { :; }")], &[], "BASH_FUNC_ml%%", None),
            ("host PATH", &[("PATH", "/opt/bin")], &[], "PATH", Some(DEFAULT_PATH)),
            ("image PATH", &[("PATH", "/opt/bin")], &["PATH=/a"], "PATH", Some("/a")),
            ("mounted TMPDIR", &[("TMPDIR", "/tmp/7")], &[], "TMPDIR", Some("/tmp/7")),
            ("absent TMPDIR", &[("TMPDIR", "/local/7")], &[], "TMPDIR", None),
            ("value with =", &[("A", "b=c=d")], &["E=f=g"], "A", Some("b=c=d")),
            ("image value with =", &[], &["E=f=g"], "E", Some("f=g")),
            ("empty value", &[("A", "")], &[], "A", Some("")),
            ("image entry without =", &[("A", "1")], &["A", "=x"], "A", Some("1")),
        ] {
            let env = composed(job, image, Request::Remove);
            let value = env.iter().find(|(other, _)| other == name).map(|(_, value)| &value[..]);
            assert_eq!(value, expected, "{label}");
        }
    }

    #[test]
    fn only_a_batch_script_sees_the_request() {
        let job = [
            (request::REQUEST_VAR, "{}"),
            (request::TASK_VAR, "{}"),
            (request::ARGV0_VAR, "a.out"),
        ];
        for (request, seen) in [(Request::Keep, true), (Request::Remove, false)] {
            let env = composed(&job, &[&format!("{}=x", request::TASK_VAR)], request);
            let has = |name: &str| env.iter().any(|(other, _)| other == name);
            assert_eq!(has(request::REQUEST_VAR), seen);
            assert!(!has(request::TASK_VAR) && !has(request::ARGV0_VAR));
        }
    }

    #[test]
    fn what_was_changed_inside_crosses_to_the_host() {
        let vars = |vars: &[(&str, &str)]| -> Vec<(OsString, OsString)> {
            vars.iter().map(|&(name, value)| (name.into(), value.into())).collect()
        };
        let host = vars(&[
            ("PATH", "/opt/slurm/bin"),
            ("LD_LIBRARY_PATH", "/opt/lib"),
            ("LANG", "de"),
            ("KEPT", "1"),
            ("GONE", "1"),
            ("HOME", "/home/ada"),
            ("SLURM_JOB_ID", "7"),
            (request::REQUEST_VAR, "{}"),
            (request::TASK_VAR, "{}"),
        ]);
        let given = vars(&[
            ("PATH", "/usr/bin"),
            ("LANG", "C"),
            ("CUDA_VERSION", "12"),
            ("KEPT", "1"),
            ("GONE", "1"),
            ("HOME", "/root"),
            ("SLURM_JOB_ID", "7"),
            (IMAGE_VAR, "x"),
            (request::REQUEST_VAR, "{}"),
        ]);
        let mut now = given.clone();
        now.retain(|(name, _)| name != "GONE" && name != "PATH");
        now.extend(vars(&[("PATH", "/x"), ("LD_LIBRARY_PATH", "/in/image"), ("NEW", "2")]));
        let expected = vars(&[
            ("HOME", "/home/ada"),
            ("KEPT", "1"),
            ("LANG", "de"),
            ("LD_LIBRARY_PATH", "/opt/lib"),
            ("NEW", "2"),
            ("PATH", "/opt/slurm/bin"),
            ("SLURM_JOB_ID", "7"),
            (request::REQUEST_VAR, "{}"),
        ]);
        assert_eq!(outside(&host, &given, now).into_iter().collect::<Vec<_>>(), expected);
        let now = vec![("LANG".into(), "fr".into()), (IMAGE_VAR.into(), "y".into())];
        let env = outside(&host, &given, now);
        assert_eq!(env.get(OsStr::new("LANG")), Some(&"fr".into()));
        assert!(!env.contains_key(OsStr::new("SLURM_JOB_ID")), "what was unset inside is back");
        assert!(!env.contains_key(OsStr::new(IMAGE_VAR)));
    }

    #[test]
    fn bytes_that_are_no_text_cross() {
        let odd = OsString::from_vec(b"\xff\xfe".to_vec());
        let job = [(OsString::from("A"), odd.clone())];
        let env = compose(job.into_iter(), &[], Request::Remove, |_| false, []);
        assert!(env.contains(&("A".into(), odd)));
    }
}
