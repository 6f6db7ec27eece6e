//! From any error to the one line that a user reads, and an exit status.
//!
//! `SUBJECT: CAUSE: CAUSE; REMEDY`. Errors are typed where they happen and say what failed; which
//! remedy is sure to help, and what status the program ends with, is decided here and nowhere else.

#[cfg(feature = "pull")]
mod network;

use std::{error::Error, fmt, io};

use crate::request::front;

/// Exit status of a failure that is ours and not the program's, as in docker.
pub const EXIT_RUNTIME: u8 = 125;
/// Exit status of a command line that is not understood.
pub const EXIT_USAGE: u8 = 2;

/// How an image in a registry is named.
const NAME_SYNTAX: &str = "write [REGISTRY/]REPOSITORY[:TAG][@DIGEST]";

/// What a user is told, and how the program ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// One printable line; empty if it has been said.
    pub line: String,
    /// The exit status.
    pub exit: u8,
}

impl Report {
    /// A failure of ours. `remedy` is empty where none is sure to help.
    fn runtime(what: &(dyn Error + 'static), remedy: &str) -> Report {
        Report::line(&chain(what), remedy, EXIT_RUNTIME)
    }

    fn line(what: &str, remedy: &str, exit: u8) -> Report {
        let joint = if remedy.is_empty() { "" } else { "; " };
        Report { line: printable(&format!("{what}{joint}{remedy}")), exit }
    }

    /// A system call of the program itself that failed.
    pub fn system(op: &str, error: &io::Error) -> Report {
        Report::runtime(error, "").during(op)
    }

    /// A command line that is not understood.
    pub fn usage(what: &str, remedy: &str) -> Report {
        Report::line(what, remedy, EXIT_USAGE)
    }

    /// The same, where the user has been told.
    pub fn said(mut self) -> Report {
        self.line.clear();
        self
    }

    /// Adds what only who asked for it can know to help.
    pub fn advise(mut self, remedy: &str) -> Report {
        self.line = printable(&format!("{}; {remedy}", self.line));
        self
    }

    /// Names what was being done when it failed.
    pub fn during(mut self, what: impl fmt::Display) -> Report {
        self.line = printable(&format!("{what}: {}", self.line));
        self
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.line)
    }
}

impl From<&crate::reference::ParseError> for Report {
    fn from(error: &crate::reference::ParseError) -> Report {
        Report { exit: EXIT_USAGE, ..Report::runtime(error, NAME_SYNTAX) }
    }
}

impl From<&crate::options::ParseError> for Report {
    fn from(error: &crate::options::ParseError) -> Report {
        Report { exit: EXIT_USAGE, ..Report::runtime(error, "") }
    }
}

impl From<&crate::options::EnvFileError> for Report {
    fn from(error: &crate::options::EnvFileError) -> Report {
        Report { exit: EXIT_USAGE, ..Report::runtime(error, "") }
    }
}

impl From<&crate::request::Error> for Report {
    fn from(error: &crate::request::Error) -> Report {
        Report::runtime(error, "use the same release of Shifter on submit and compute nodes")
    }
}

impl From<&crate::config::Error> for Report {
    fn from(error: &crate::config::Error) -> Report {
        use crate::config::{Error, Origin};
        let remedy = match error {
            Error::Read { .. } => "make it readable, or correct SHIFTER_CONFIG",
            Error::Syntax { meant: Some(known), .. } => {
                return Report::runtime(error, &format!("did you mean {known}?"));
            }
            Error::Syntax { .. } | Error::Value { .. } => "correct it",
            Error::Locked { origin: Origin::Variable(_), .. } => "unset it",
            Error::Locked { .. } => "remove it there",
            Error::NoStore => "set SHIFTER_STORE",
        };
        Report::runtime(error, remedy)
    }
}

impl From<&crate::environment_file::Error> for Report {
    fn from(error: &crate::environment_file::Error) -> Report {
        use crate::environment_file::{Error, ExpandError, Problem};
        let remedy = match error {
            Error::Read(..) => "correct the path, or make it readable",
            Error::NotFound { meant: Some(known), .. }
            | Error::Value { problem: Problem::Key { meant: Some(known), .. }, .. } => {
                return Report::runtime(error, &format!("did you mean {known}?"));
            }
            Error::NotFound { .. } => "name a file in one of these, or its path",
            Error::Cycle(_) => "take one of these bases out",
            Error::TooDeep(_) | Error::TooMany(_) => "name fewer bases",
            Error::NoImage(_) => "say image = \"NAME\"",
            Error::Value { problem, .. } => match problem {
                Problem::Key { .. } => {
                    let keys = crate::environment_file::KEYS.join(", ");
                    return Report::runtime(error, &format!("the keys are {keys}"));
                }
                Problem::Expand(ExpandError::Undefined(name)) => {
                    let remedy = format!("set it, or write ${{{name}:-DEFAULT}}");
                    return Report::runtime(error, &remedy);
                }
                Problem::Expand(ExpandError::Command(_) | ExpandError::Syntax(_)) => {
                    "write $$ for a dollar sign"
                }
                Problem::Image(problem) => source_remedy(problem),
                _ => "correct it",
            },
        };
        Report::runtime(error, remedy)
    }
}

impl From<&crate::login::ParseError> for Report {
    fn from(error: &crate::login::ParseError) -> Report {
        let remedy = "name the registry alone: nvcr.io";
        Report { exit: EXIT_USAGE, ..Report::runtime(error, remedy) }
    }
}

impl From<&crate::login::Error> for Report {
    fn from(error: &crate::login::Error) -> Report {
        use crate::login::Error;
        match error {
            Error::NoTerminal => {
                let remedy =
                    "give --username NAME --password-stdin, and the password on standard input";
                Report { exit: EXIT_USAGE, ..Report::runtime(error, remedy) }
            }
            Error::Value { .. } => Report { exit: EXIT_USAGE, ..Report::runtime(error, "") },
            Error::Read(_) => Report::runtime(error, ""),
        }
    }
}

impl From<&crate::inject::Error> for Report {
    fn from(error: &crate::inject::Error) -> Report {
        use crate::inject::Error;
        const GENERATE: &str = "nvidia-ctk cdi generate";
        let remedy = match error {
            Error::File { .. } => "correct it, or write it anew".to_owned(),
            Error::Read { .. } => "make it readable".to_owned(),
            Error::Unknown { broken: Some(_), .. } => "correct that file first".to_owned(),
            Error::Unknown { known, .. } if known.is_empty() => {
                "check its name, or name the directory of its file in gpu.cdi_dirs".to_owned()
            }
            Error::Unknown { .. } => "name one of these".to_owned(),
            Error::Conflict { .. } => "remove it from one of them".to_owned(),
            Error::Missing { path, .. } if path.ends_with("nvidia-uvm") => {
                "an administrator can make it at boot: nvidia-modprobe -u -c=0".to_owned()
            }
            Error::Missing { source, .. } if source.kind() == io::ErrorKind::NotFound => format!(
                "the file is older than the driver? An administrator can write it anew ({GENERATE})"
            ),
            Error::Hook { hook, .. } => {
                format!("if it can be left out, name it in gpu.ignore_hooks: [\"{hook}\"]")
            }
            Error::NoGpu { .. } => {
                let gpu = front().spell("container-gpu");
                format!("run it on a node with GPUs, or leave {gpu} out")
            }
            Error::NoDriver { .. } => {
                "install the driver's libraries, or say where they are in gpu.driver_root"
                    .to_owned()
            }
            Error::NotGranted { .. } => "ask for one: --gres=gpu:1".to_owned(),
            Error::Denied { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                "an administrator has to let you read and write them".to_owned()
            }
            Error::NoDev { .. } => {
                "an administrator has to mount that file system without nodev".to_owned()
            }
            Error::Missing { .. }
            | Error::NoDevice { .. }
            | Error::Unsupported { .. }
            | Error::Denied { .. } => String::new(),
        };
        Report::runtime(error, &remedy)
    }
}

impl From<&crate::container::Error> for Report {
    fn from(error: &crate::container::Error) -> Report {
        use crate::container::{Error, fuse::Lack};
        let remedy = match error {
            Error::Namespace { .. } => "ask the administrator to let users make user namespaces",
            Error::Threads if std::env::var_os("LD_PRELOAD").is_some() => "unset LD_PRELOAD",
            Error::Untrusted { .. } => {
                "set SHIFTER_NODE_DIR to a directory of your own with mode 0700, on a tmpfs"
            }
            Error::NoCommand { .. } => "name one",
            Error::Mount { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "make it first, or check its name"
            }
            Error::Target { source, .. } if source.kind() == io::ErrorKind::Other => {
                "make it there first"
            }
            Error::Workdir { source, .. } if source.kind() == io::ErrorKind::NotFound => {
                "name one that is in the image, or mount one there"
            }
            Error::OtherImage { name, .. } if name.contains('@') => {
                "use another name, or remove it: shifter prune --node --containers"
            }
            Error::OtherImage { .. } => {
                "use another name, or give up what was written in it: --fresh"
            }
            Error::Inject(error) => return error.into(),
            Error::Mpi(error) => return error.into(),
            Error::Lacks { .. } => "end it first, or use another name",
            Error::Squashfs { lack: Some(Lack::Device(_)), .. } => {
                "ask the administrator to open /dev/fuse to users, or let the image be expanded: set \
                 SHIFTER_SQUASHFS_RUN=auto"
            }
            Error::Squashfs { lack: Some(Lack::Program), .. } => {
                "ask the administrator to install squashfuse, or let the image be expanded: set \
                 SHIFTER_SQUASHFS_RUN=auto"
            }
            Error::Squashfs { .. } => "let the image be expanded: set SHIFTER_SQUASHFS_RUN=expand",
            Error::Unserved { .. } => {
                "start it anew; to have it expanded, set SHIFTER_SQUASHFS_RUN=expand"
            }
            Error::Save { source: crate::squashfs::Error::System(source), .. }
                if source.kind() == io::ErrorKind::NotFound =>
            {
                "make that directory first, or check its name"
            }
            Error::Save { source, .. } => {
                return Report::line(&chain(error), &squashfs_remedy(source), error.exit_code());
            }
            Error::Unfit { .. } => "let the image be expanded: set SHIFTER_SQUASHFS_RUN=auto",
            Error::NotFound { .. } => "check its name, or give its path in the image",
            Error::Io { source, .. } if crate::sys::is_full(source) => "free space there",
            Error::Io { op: "look into", .. } => {
                "write it anew (shifter rmi, shifter pull --squashfs), or let the image be expanded: \
                 set SHIFTER_SQUASHFS_RUN=expand"
            }
            _ => "",
        };
        Report::line(&chain(error), remedy, error.exit_code())
    }
}

impl From<&crate::container::relay::Error> for Report {
    fn from(error: &crate::container::relay::Error) -> Report {
        use crate::container::relay::Error;
        let remedy = match error {
            Error::Unknown { .. } => {
                "call it by its own name; which there are, relay.commands says"
            }
            Error::Start { source, .. } if crate::sys::is_full(source) => "free memory there",
            Error::Start { .. } | Error::Execute { .. } => "",
        };
        Report::runtime(error, remedy)
    }
}

impl From<&crate::inject::mpi::Error> for Report {
    fn from(error: &crate::inject::mpi::Error) -> Report {
        use crate::inject::mpi::Error;
        let remedy = match error {
            Error::UnknownStack { known, .. } if known.is_empty() => "leave it out",
            Error::UnknownStack { .. } => "name one of these, or leave it out",
            Error::NoLibrary { .. } | Error::MissingLibrary { .. } | Error::NoFamily { .. } => {
                "an administrator has to correct that [[mpi.stack]]; --mpi=off uses the image's own"
            }
            Error::NoneInImage { .. } => {
                "if it has one, name its directory in mpi.search; if its program is linked \
                 statically, link it with a shared MPI"
            }
            Error::OtherFamily { .. } => {
                "use an image that was built with such an MPI; or --mpi=off, and srun --mpi=pmix or \
                 pmi2 as the image's own wants it"
            }
            Error::Functions { .. } => "use an image with an older MPI, or --mpi=off",
            Error::Glibc { stack, .. } => {
                let remedy = format!(
                    "use an image of a newer distribution, or --mpi={stack}+glibc, which mounts the \
                     host's C library over the image's; --mpi=off uses the image's own MPI"
                );
                return Report::line(&chain(error), &remedy, EXIT_RUNTIME);
            }
            Error::OtherLibc { .. } => {
                "use an image with glibc; --mpi=off uses the image's own MPI"
            }
            Error::NoGlibc { .. } => "use an image of a newer distribution, or --mpi=off",
            Error::Machine { .. } => "--mpi=off uses the image's own",
        };
        Report::line(&chain(error), remedy, EXIT_RUNTIME)
    }
}

impl From<&crate::inject::mpi::Unwired> for Report {
    fn from(unwired: &crate::inject::mpi::Unwired) -> Report {
        Report::line(&chain(unwired), &unwired.remedy(), EXIT_RUNTIME)
    }
}

impl From<&crate::source::ParseError> for Report {
    fn from(error: &crate::source::ParseError) -> Report {
        Report { exit: EXIT_USAGE, ..Report::runtime(error, source_remedy(error)) }
    }
}

fn squashfs_remedy(error: &crate::squashfs::Error) -> String {
    use crate::squashfs::{Error, PACKAGE};
    match error {
        Error::NoProgram => format!("ask the administrator to install {PACKAGE}"),
        Error::NoNamespace => "write it on another one, or ask the administrator".to_owned(),
        Error::Full(_) => "free space there, or name another file".to_owned(),
        Error::Program(_) | Error::System(_) | Error::Interrupted(_) => String::new(),
    }
}

fn source_remedy(error: &crate::source::ParseError) -> &'static str {
    use crate::source::ParseError;
    match error {
        ParseError::Reference(_) => NAME_SYNTAX,
        ParseError::Other { remedy, .. } => remedy,
        ParseError::Path { .. } => "",
    }
}

impl From<&crate::source::Error> for Report {
    fn from(error: &crate::source::Error) -> Report {
        use crate::source::{Error, Foreign};
        let remedy = match error {
            Error::Foreign { what, .. } => match what {
                Foreign::Dockerfile => {
                    "build it (podman build), and name what `podman save` writes"
                }
                Foreign::Sif => "unpack it (apptainer build --sandbox DIR FILE), and name DIR",
                Foreign::Bundle => "name its rootfs/",
                Foreign::SkopeoDir => "copy it to an OCI archive (skopeo copy dir:… oci-archive:…)",
                Foreign::Unpacked => "name the archive itself",
                Foreign::Zip | Foreign::Disk | Foreign::Program | Foreign::Unknown => {
                    "name what docker, podman or skopeo have saved, a tar archive or a \
                     directory of a root file system, or a squashfs"
                }
                Foreign::Empty => "",
            },
            Error::OtherForm { .. } => "name its path alone, and it is taken for what it is",
            Error::Open { .. } => "",
        };
        Report::runtime(error, remedy)
    }
}

/// An error and its causes, each said once.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = words(error);
    let mut next = error.source();
    while let Some(cause) = next {
        let words = words(cause);
        // A transparent error is its own cause.
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

/// One link of the chain; the kernel's reasons without Rust's "(os error N)".
fn words(error: &(dyn Error + 'static)) -> String {
    let errno = error.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error);
    match errno {
        Some(errno) => nix::errno::Errno::from_raw(errno).desc().to_lowercase(),
        // Multi-line accounts, as toml's, in one line.
        None => error.to_string().split_whitespace().collect::<Vec<_>>().join(" "),
    }
}

/// Makes text from outside printable: control and bidirectional formatting characters, which can
/// rewrite a terminal or hide what is said, are escaped (SECURITY R17).
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_unprintable(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Whether a character moves the cursor or changes the order in which others are shown
/// (CVE-2021-42574).
pub(crate) fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
            | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_could_rewrite_a_terminal_is_escaped() {
        assert_eq!(printable("a\x1b[2Jb\u{202e}c\n"), "a\\u{1b}[2Jb\\u{202e}c\\n");
        assert_eq!(printable("a\u{2028}b\u{61c}"), "a\\u{2028}b\\u{61c}");
        assert_eq!(printable("naïve 漢字"), "naïve 漢字");
    }

    #[test]
    fn a_report_names_subject_cause_and_remedy() {
        let error = "A".parse::<crate::Reference>().expect_err("upper case");
        let report = Report::from(&error).during("pull A");
        assert_eq!(report.exit, EXIT_USAGE);
        assert_eq!(
            report.line,
            "pull A: image reference \"A\": repository must be lower-case (position 0); \
             write [REGISTRY/]REPOSITORY[:TAG][@DIGEST]"
        );
    }
}
