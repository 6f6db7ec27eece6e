//! The last step: from inside the container to the user's program.

use std::{
    convert::Infallible,
    env,
    ffi::{CString, OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::AsFd,
        unix::{
            ffi::{OsStrExt, OsStringExt},
            fs::{OpenOptionsExt, PermissionsExt},
        },
    },
    path::{Path, PathBuf},
    slice,
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open},
    sys::{prctl::set_no_new_privs, stat::Mode},
    unistd::{execve, fchdir, getcwd},
};

use super::{Error, Plain, Plan, Workdir, io_error};
use crate::{
    inject::mpi::{self, Unwired},
    options::Ids,
    sys::{beneath, seccomp::pretend_ownership},
};

/// Changes directory, gives up privileges for good, and becomes the program.
pub(super) fn exec(plan: &Plan) -> Result<Infallible, Error> {
    let cwd = enter_workdir(plan)?;
    // What the image says in `setuid` bits means nothing here, nor to anything that is started.
    set_no_new_privs().map_err(|e| io_error("set no_new_privs of", "this process")(e.into()))?;
    let path = find(plan)?;
    if plan.options.ids == Some(Ids::Root) {
        pretend_ownership().map_err(io_error("install a seccomp filter in", "this process"))?;
    }
    let argv: Vec<CString> = plan.argv.iter().map(|arg| c_string(arg)).collect();
    // POSIX has the starter of a program say where it starts; shells believe it if it is true.
    let pwd = (OsString::from("PWD"), cwd.into_os_string());
    let vars = plan.env.iter().filter(|(name, _)| name != "PWD").chain([&pwd]);
    let vars: Vec<CString> = vars.map(|(name, value)| c_string(&variable(name, value))).collect();
    let Err(errno) = execve(&c_string(path.as_os_str()), &argv, &vars);
    Err(not_executable(plan, &path, errno))
}

/// Looks at the program that [`exec`] would start. What fails here fails there, and is said then.
pub(super) fn unwired(plan: &Plan) -> Option<Unwired> {
    enter_workdir(plan).ok()?;
    mpi::unwired(&find(plan).ok()?, &plan.env)
}

/// Starts where the plan says, and makes sure that this is inside. By way of `/proc`, a path in a
/// container can lead out of it (runc CVE-2024-21626; SECURITY R21).
fn enter_workdir(plan: &Plan) -> Result<PathBuf, Error> {
    let root = open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(|e| io_error("open", "/")(e.into()))?;
    let enter = |path: &Path| {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let dir = beneath::open(root.as_fd(), path, flags, Mode::empty())?;
        fchdir(dir)?;
        match getcwd()? {
            cwd if cwd.is_absolute() => Ok(cwd),
            _ => Err(io::Error::other("it lies outside of the container")),
        }
    };
    let candidates = match &plan.workdir {
        Workdir::Exactly(path) => slice::from_ref(path),
        Workdir::FirstOf(paths) => paths,
    };
    let mut refused = None;
    for path in candidates {
        match enter(path) {
            Ok(cwd) => return Ok(cwd),
            Err(e) => refused = Some((path.clone(), e)),
        }
    }
    let (path, source) = refused.expect("a plan names at least one directory");
    Err(Error::Workdir { path, image: plan.image.to_string(), source })
}

/// Finds the command as a shell does: along the container's `PATH`, unless its name has a slash.
fn find(plan: &Plan) -> Result<PathBuf, Error> {
    let name = &plan.argv[0];
    let not_found =
        |searched| Error::NotFound { name: name.clone(), image: plan.image.to_string(), searched };
    if name.as_bytes().contains(&b'/') {
        let path = PathBuf::from(name);
        return match fs::metadata(&path) {
            Ok(_) => Ok(path),
            Err(e) if is_unserved(&e) => Err(unserved(plan)),
            Err(_) => Err(not_found(String::new())),
        };
    }
    let path = plan.env.iter().find(|(name, _)| name == "PATH").map(|(_, path)| path.as_os_str());
    let path = path.unwrap_or_default();
    let mut refused = None;
    // An empty name is looked for nowhere: with each directory it would name the directory.
    for dir in env::split_paths(path).filter(|_| !name.is_empty()) {
        let file = dir.join(name);
        let meta = match fs::metadata(&file) {
            Ok(meta) => meta,
            Err(e) if is_unserved(&e) => return Err(unserved(plan)),
            Err(_) => continue,
        };
        if meta.is_file() && meta.permissions().mode() & 0o111 != 0 {
            return Ok(file);
        }
        refused.get_or_insert(file);
    }
    match refused {
        Some(file) => Err(not_executable(plan, &file, Errno::EACCES)),
        None => Err(not_found(format!(" (PATH {})", Plain(path)))),
    }
}

/// Whether it is FUSE's answer where its server has ended (fuse_dev_release in the kernel's sources).
fn is_unserved(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOTCONN | libc::ECONNABORTED))
}

fn unserved(plan: &Plan) -> Error {
    Error::Unserved { name: plan.argv[0].clone(), image: plan.image.to_string() }
}

/// Says why `execve` failed. Its `ENOENT` is about the interpreter, once the file itself is known
/// to be there, and its `ENOEXEC` about the file's first bytes.
fn not_executable(plan: &Plan, path: &Path, errno: Errno) -> Error {
    let head = head(path);
    let cause = match errno {
        Errno::ENOENT => match interpreter(&head) {
            Some(interpreter) => {
                format!("its interpreter {interpreter:?} is not in {}", plan.image)
            }
            None => format!("its dynamic linker is not in {}", plan.image),
        },
        Errno::ENOEXEC if head.starts_with(b"\x7fELF") => {
            format!("it is a program for another machine than {}", env::consts::ARCH)
        }
        Errno::ENOEXEC => "neither a program nor a script that begins with #!".to_owned(),
        Errno::EACCES if path.is_dir() => "it is a directory".to_owned(),
        other => other.desc().to_lowercase(),
    };
    Error::NotExecutable { path: path.to_owned(), cause }
}

/// The first bytes of a file; none if it is not one.
fn head(path: &Path) -> Vec<u8> {
    let nonblock = OFlag::O_NONBLOCK.bits();
    let Ok(file) = File::options().read(true).custom_flags(nonblock).open(path) else {
        return Vec::new();
    };
    let mut head = Vec::new();
    // What cannot be read says nothing, and the errno stands.
    let _ = file.take(256).read_to_end(&mut head);
    head
}

fn interpreter(head: &[u8]) -> Option<String> {
    let line = head.strip_prefix(b"#!")?.split(|&byte| byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    Some(line.split_whitespace().next()?.to_owned())
}

fn variable(name: &OsStr, value: &OsStr) -> OsString {
    OsString::from_vec([name.as_bytes(), b"=", value.as_bytes()].concat())
}

fn c_string(text: &OsStr) -> CString {
    CString::new(text.as_bytes()).expect("a plan holds no NUL, and no path has one")
}
