//! What fails in the network half: registries, the store, pulls, imports.

use std::io;

use super::{EXIT_RUNTIME, EXIT_USAGE, Report, chain, printable, squashfs_remedy};

impl From<&crate::registry::LoginError> for Report {
    fn from(error: &crate::registry::LoginError) -> Report {
        use crate::registry::LoginError;
        match error {
            LoginError::Registry(cause) => Report::runtime(error, &registry_remedy(cause)),
            LoginError::Refused { .. } => Report::runtime(error, "check the name and the password"),
            LoginError::File(cause) => cause.into(),
            LoginError::Threads(_) => Report::runtime(error, ""),
        }
    }
}

impl From<&crate::registry::FileError> for Report {
    fn from(error: &crate::registry::FileError) -> Report {
        use crate::registry::FileError as Error;
        let remedy = match error {
            Error::NoPlace => "set XDG_CONFIG_HOME",
            Error::Syntax(_) => "correct or remove the file",
            Error::Io { source, .. } if crate::sys::is_full(source) => "free space there",
            Error::Io { .. } => "",
        };
        Report::runtime(error, remedy)
    }
}

impl From<&crate::store::Error> for Report {
    fn from(error: &crate::store::Error) -> Report {
        use io::ErrorKind::{AlreadyExists, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
        let remedy = match error.source.kind() {
            _ if error.op.ends_with("node directory") => node_remedy(error),
            _ if error.op == "remove container" => "",
            _ if error.is_no_space() => return no_space(error),
            AlreadyExists | NotADirectory | PermissionDenied | ReadOnlyFilesystem => {
                "set SHIFTER_STORE to a directory that you can write to"
            }
            _ => "",
        };
        Report::runtime(error, remedy)
    }
}

/// Whose limit it is that was reached.
fn no_space(error: &crate::store::Error) -> Report {
    let (place, disk) = (error.place().display(), error.mount_point());
    let limit = match error.source.kind() {
        io::ErrorKind::QuotaExceeded => format!("your quota on {} is used up", disk.display()),
        _ => format!("{} is full", disk.display()),
    };
    let remedy =
        "remove images (shifter rmi, shifter prune), or set SHIFTER_STORE to another place";
    Report::line(&format!("write {place}: {limit}"), remedy, EXIT_RUNTIME)
}

impl From<&crate::repository::Error> for Report {
    fn from(error: &crate::repository::Error) -> Report {
        use crate::repository::Error;
        let remedy = match error {
            Error::Name(error) => return error.into(),
            Error::Store(error) => return error.into(),
            Error::Unknown { meant: Some(meant), .. } => format!("did you mean {meant}?"),
            Error::Unknown { .. } => "shifter images lists what there is".to_owned(),
            Error::Absent { name: Some(name), .. } => format!("shifter pull {name}"),
            Error::Absent { .. } => "shifter images lists what there is".to_owned(),
            Error::NoDocument { .. } => "pull it again".to_owned(),
            Error::Ambiguous { .. } => "give more digits".to_owned(),
            Error::Several { .. } => "remove one by its name, or all by --force".to_owned(),
            Error::Site { .. } => "only an administrator can remove it".to_owned(),
        };
        Report::runtime(error, &remedy)
    }
}

impl From<&crate::repository::FilterError> for Report {
    fn from(error: &crate::repository::FilterError) -> Report {
        use crate::repository::FilterError as Error;
        let remedy = match error {
            Error::Key { meant: Some(meant), .. } => format!("did you mean {meant}?"),
            Error::Key { .. } | Error::Syntax(_) => format!("the keys are {}", Error::keys()),
            Error::Pattern { .. } => "escape it as [[]".to_owned(),
        };
        Report { exit: EXIT_USAGE, ..Report::runtime(error, &remedy) }
    }
}

fn node_remedy(error: &crate::store::Error) -> &'static str {
    match error.is_no_space() {
        true => "remove images there (shifter prune --node), or set SHIFTER_NODE_DIR",
        false => "set SHIFTER_NODE_DIR to a directory of your own with mode 0700, on a tmpfs",
    }
}

impl From<&crate::pull::Error> for Report {
    fn from(error: &crate::pull::Error) -> Report {
        use crate::pull::Error;
        match error {
            Error::Registry(error) => Report::runtime(error, &registry_remedy(error)),
            Error::Store(error) => error.into(),
            Error::Node(error) => Report::runtime(error, node_remedy(error)),
            Error::NoSpace { setting, .. } => {
                Report::runtime(error, &format!("remove images there, or set {setting}"))
            }
            Error::NoFiles { .. } => {
                Report::runtime(error, "remove images there, or set SHIFTER_NODE_DIR")
            }
            Error::NoMemory { whose, .. } => {
                let more =
                    if *whose == "the job" { "ask for more (--mem)" } else { "use another node" };
                Report::runtime(error, &format!("{more}, or remove images from SHIFTER_NODE_DIR"))
            }
            Error::StoredBlob { .. } => Report::runtime(error, "remove that file and pull again"),
            Error::Removed { .. } => Report::runtime(error, "pull again when that has ended"),
            Error::Squash(cause) => Report::runtime(error, &squashfs_remedy(cause)),
            Error::Foreign { .. } => Report::runtime(
                error,
                "write one of your own (shifter pull --squashfs), or let it be expanded: set \
                 SHIFTER_SQUASHFS_RUN=auto",
            ),
            Error::Document(crate::oci::Error::Size { .. })
            | Error::DiffId { .. }
            | Error::Inflate { .. }
            | Error::Layer { source: crate::layer::Error::Malformed { .. }, .. } => {
                Report::runtime(
                    error,
                    "the image in the registry is damaged; ask whoever pushed it to push it again",
                )
            }
            Error::Layer { source: crate::layer::Error::TooBig { .. }, .. } => Report::runtime(
                error,
                "it looks like a decompression bomb; if you trust the image, raise max_expansion in shifter.toml",
            ),
            Error::Document(crate::oci::Error::NoPlatform { .. }) => {
                Report::runtime(error, "choose an image that is built for it")
            }
            Error::Interrupted(signal) => {
                // As a shell reports it: 128 and the signal's number.
                Report::line(&chain(error), "", 128u8.wrapping_add(*signal as u8))
            }
            Error::Content { .. } => Report::runtime(error, "make the archive again"),
            Error::Elsewhere(failure) => {
                Report { line: printable(&failure.line), exit: failure.exit }
            }
            Error::Document(_)
            | Error::Layer { .. }
            | Error::Nowhere
            | Error::Orphaned
            | Error::Cancelled
            | Error::Full
            | Error::Threads(_) => Report::runtime(error, ""),
        }
    }
}

impl From<&crate::import::Error> for Report {
    fn from(error: &crate::import::Error) -> Report {
        use crate::{import::Error, layer, oci, pull};
        const AGAIN: &str = "make the archive again, or copy it again";
        let remedy = match error {
            Error::Source(error) => return error.into(),
            Error::HasConfig { .. } => {
                let remedy = "leave --env, --workdir, --entrypoint and --cmd out";
                return Report { exit: EXIT_USAGE, ..Report::runtime(error, remedy) };
            }
            Error::Several { .. } | Error::NoSuchName { .. } => "name one of them: FILE:NAME",
            Error::NoProgram { source, package, .. } => {
                return match source.kind() {
                    io::ErrorKind::NotFound => {
                        Report::runtime(error, &format!("install {package}"))
                    }
                    _ => Report::runtime(error, ""),
                };
            }
            Error::System { source, .. } if crate::sys::is_full(source) => {
                "free memory there, or set SHIFTER_NODE_DIR to another place"
            }
            Error::Document { source: oci::Error::NoPlatform { .. }, .. } => {
                "choose another with --platform, or an image that is built for this machine"
            }
            Error::Missing { .. }
            | Error::Damaged { .. }
            | Error::Inflate { .. }
            | Error::Archive { source: layer::Error::Malformed { .. }, .. }
            | Error::Pull(
                pull::Error::DiffId { .. }
                | pull::Error::Inflate { .. }
                | pull::Error::Layer { source: layer::Error::Malformed { .. }, .. },
            )
            | Error::Document { source: crate::oci::Error::Size { .. }, .. } => AGAIN,
            Error::Pull(error) => return error.into(),
            Error::System { .. }
            | Error::Program { .. }
            | Error::Archive { .. }
            | Error::Document { .. } => "",
        };
        Report::runtime(error, remedy)
    }
}

fn registry_remedy(error: &crate::registry::Error) -> String {
    use crate::registry::{Error, Kind, Problem, Refusal, Source};
    match error.root() {
        Error::Unreachable { registry, fault } => match fault.kind() {
            Kind::UnknownAuthority => format!(
                "if it has a private CA, name its ca_file in the [[registry]] {registry} of shifter.toml"
            ),
            Kind::NotTls => format!(
                "if it speaks plain http, say plain_http = true in the [[registry]] {registry} of shifter.toml"
            ),
            Kind::NoHost => "check its name".to_owned(),
            Kind::ClientCertificate => format!(
                "name your client_cert and client_key in the [[registry]] {registry} of shifter.toml"
            ),
            Kind::ProxySettings => "check the proxy settings".to_owned(),
            Kind::Passing => "check its name, the network and the proxy settings".to_owned(),
            Kind::Final => String::new(),
        },
        Error::Unauthorized { registry, refusal, .. } => match refusal {
            Refusal::NotAccepted(Source::Given) => "check them, and the name".to_owned(),
            Refusal::NotAccepted(_) => {
                format!("check the name, or log in anew: shifter login {registry}")
            }
            Refusal::NoCredentials => {
                format!("check the name, or log in: shifter login {registry}")
            }
            Refusal::Unusable(Problem::Exposed(path)) => {
                format!("chmod 600 {}, or log in anew: shifter login {registry}", path.display())
            }
            Refusal::Unusable(_) => format!("correct that, or log in: shifter login {registry}"),
            Refusal::Unasked => String::new(),
        },
        Error::NotFound { .. } => "check the name and the tag".to_owned(),
        Error::Digest { .. } | Error::Size { .. } => {
            "try again; if it stays so, the copy in the registry or a proxy is damaged".to_owned()
        }
        Error::Status { retry_after: Some(wait), .. } => {
            format!("try again in {} s", wait.as_secs())
        }
        Error::Status { status, .. } if status.as_u16() == 407 => {
            "check the proxy settings".to_owned()
        }
        Error::Status { status, .. } if status.is_server_error() || status.as_u16() == 429 => {
            "try again later".to_owned()
        }
        Error::Elsewhere { .. } => "try again later".to_owned(),
        _ => String::new(),
    }
}
