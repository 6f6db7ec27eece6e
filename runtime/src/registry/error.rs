//! Why a registry did not give what was asked of it.

use std::{fmt, time::Duration};

use reqwest::StatusCode;

use super::{credentials::Refusal, fault::Fault, retry::History};
use crate::digest::Digest;

/// Why a registry did not give what was asked of it. The subject (which image) is the caller's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer at all.
    #[error("cannot reach registry {registry}: {fault}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// What happened on the way.
        fault: Fault,
    },
    /// 401 or 403, after trying what credentials there are.
    #[error("registry {registry} refuses access to {repository}: {refusal}")]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// The repository asked for.
        repository: String,
        /// Whether credentials were found, and where.
        refusal: Refusal,
    },
    /// 404.
    #[error("registry {registry} has no {what}")]
    NotFound {
        /// Host and port.
        registry: String,
        /// The manifest or blob.
        what: String,
    },
    /// Any other refusal.
    #[error("registry {registry} answered {status} to {what}{}", colon(.message))]
    Status {
        /// Host and port.
        registry: String,
        /// The HTTP status.
        status: StatusCode,
        /// The manifest or blob.
        what: String,
        /// The registry's own words, made printable.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// A refusal by a server that the registry redirects to: the URL may have expired.
    #[error(
        "server {server}, to which registry {registry} redirects, answered {status} to {what}{}",
        colon(.message)
    )]
    Elsewhere {
        /// The registry's host and port.
        registry: String,
        /// The other host, and port.
        server: Box<str>,
        /// The HTTP status.
        status: StatusCode,
        /// The manifest or blob.
        what: Box<str>,
        /// The server's own words, made printable.
        message: Box<str>,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Other bytes than the digest promised.
    #[error("{what}: registry {registry} sent other content: expected {expected}, got {got}")]
    Digest {
        /// Host and port.
        registry: String,
        /// manifest, configuration or layer.
        what: &'static str,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// A different length than the descriptor promised.
    #[error("{what} {digest}: expected {expected} bytes, registry {registry} sent {got}")]
    Size {
        /// Host and port.
        registry: String,
        /// manifest, configuration or layer.
        what: &'static str,
        /// Which.
        digest: Digest,
        /// Bytes by the descriptor.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// An answer that the protocol does not allow.
    #[error("registry {registry}: {problem}")]
    Protocol {
        /// Host and port.
        registry: String,
        /// What is wrong with it.
        problem: String,
    },
    /// What might have passed, and did not.
    #[error("{}", gave_up(.last, .history))]
    GaveUp {
        /// All that went wrong, the last error included.
        history: History,
        /// How it ended.
        last: Box<Error>,
    },
    /// Neither the mirrors nor the registry itself.
    #[error("{origin}, after {mirrors}")]
    NoMirror {
        /// What the mirrors said.
        mirrors: String,
        /// The registry's own error.
        origin: Box<Error>,
    },
}

impl Error {
    /// The error that ended it, without what led to it.
    pub fn root(&self) -> &Error {
        match self {
            Error::GaveUp { last: root, .. } | Error::NoMirror { origin: root, .. } => root.root(),
            root => root,
        }
    }

    /// Whether other bytes came than the descriptor promised. A body that ends early time and again,
    /// until that is given up, is the network's.
    pub fn is_other_content(&self) -> bool {
        match self {
            Error::Digest { .. } | Error::Size { .. } => true,
            Error::NoMirror { origin, .. } => origin.is_other_content(),
            _ => false,
        }
    }

    /// Whether another try may help.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Error::Unreachable { fault, .. } => !fault.is_final(),
            Error::Status { status, .. } => is_transient(*status),
            // The registry may have a new URL, or another server.
            Error::Elsewhere { .. } => true,
            _ => false,
        }
    }

    /// Whether it is the answer to the question, and not a trouble on the way to one.
    pub fn is_final(&self) -> bool {
        matches!(self.root(), Error::NotFound { .. } | Error::Unauthorized { .. })
    }

    /// How long the other end wants to be left alone.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Error::Status { retry_after, .. } | Error::Elsewhere { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }

    /// The status of an answer that had one of no further meaning.
    pub(super) fn status(&self) -> Option<StatusCode> {
        match self.root() {
            Error::Status { status, .. } | Error::Elsewhere { status, .. } => Some(*status),
            Error::NotFound { .. } => Some(StatusCode::NOT_FOUND),
            _ => None,
        }
    }

    /// What happened in a few words, of which "registry X" is the subject or the place.
    pub(super) fn brief(&self) -> String {
        match self.root() {
            Error::Unreachable { fault, .. } => fault.to_string(),
            Error::Unauthorized { .. } => "refused access".to_owned(),
            Error::NotFound { .. } => format!("answered {}", StatusCode::NOT_FOUND),
            Error::Status { status, .. } => format!("answered {status}"),
            Error::Elsewhere { server, status, .. } => {
                format!("redirected to {server}, which answered {status}")
            }
            Error::Digest { .. } => "sent other content".to_owned(),
            Error::Size { expected, got, .. } => format!("sent {got} bytes of {expected}"),
            Error::Protocol { problem, .. } => problem.clone(),
            Error::GaveUp { .. } | Error::NoMirror { .. } => unreachable!("they are no roots"),
        }
    }

    /// [`Error::brief`] with its subject or place in front.
    pub(super) fn brief_of(&self, host: impl fmt::Display) -> String {
        let brief = self.brief();
        let is_verb = ["answered ", "sent ", "refused ", "redirected "];
        let joint = if is_verb.iter().any(|verb| brief.starts_with(verb)) { "" } else { ":" };
        format!("{host}{joint} {brief}")
    }
}

/// Whether a registry that answers this may answer otherwise a little later.
pub(super) fn is_transient(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

fn gave_up(last: &Error, history: &History) -> String {
    match last {
        Error::Unreachable { registry, .. } => {
            format!("cannot reach registry {registry}: {history}: {}", history.troubles())
        }
        last if history.is_varied() => format!("{last}: {history}: {}", history.troubles()),
        last => format!("{last}: {history}"),
    }
}

fn colon(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}
