//! Who somebody is at a registry.

use std::{fmt, io};

use crate::reference::{DEFAULT_REGISTRY, Reference};

/// A name and a password for one registry. For no other: whoever mirrors it is not shown them.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The registry, as in image names.
    pub registry: String,
    /// The user's name there.
    pub user: String,
    /// The password, or a token that stands for one.
    pub password: String,
}

/// Secrets do not belong in logs.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("registry", &self.registry).finish_non_exhaustive()
    }
}

/// A name that is no registry's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("registry {0:?} is not HOST or HOST:PORT")]
pub struct ParseError(String);

/// Why somebody cannot say who he is.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody can be asked.
    #[error("there is no terminal to ask for name and password")]
    NoTerminal,
    /// Neither a name nor a password.
    #[error("the {what} {problem}")]
    Value {
        /// Which of the two.
        what: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The question or its answer broke off.
    #[error("read name and password")]
    Read(#[from] io::Error),
}

impl Login {
    /// Puts together what somebody has said.
    pub fn new(registry: &str, user: String, password: String) -> Result<Login, Error> {
        for (what, value) in [("user name", &user), ("password", &password)] {
            if value.is_empty() {
                return Err(Error::Value { what, problem: "is empty" });
            }
        }
        if user.contains(':') {
            // RFC 7617: the name ends there.
            return Err(Error::Value { what: "user name", problem: "has a colon" });
        }
        Ok(Login { registry: registry.to_owned(), user, password })
    }
}

/// Reads a registry's name as people and tools write it: also as a URL, and Docker Hub by any of
/// its names.
pub fn registry(text: &str) -> Result<String, ParseError> {
    let host = hub(host_of(text)).unwrap_or(host_of(text));
    let path = text.split_once("://").map_or(text, |(_, rest)| rest).strip_prefix(host_of(text));
    let is_root = matches!(path, Some("" | "/" | "/v1" | "/v1/" | "/v2" | "/v2/"));
    let named: Result<Reference, _> = format!("{host}#x").parse();
    match named {
        Ok(named) if is_root && named.registry() == host => Ok(host.to_owned()),
        _ => Err(ParseError(text.to_owned())),
    }
}

/// `docker.io`, if the host is Docker Hub under any of its names.
pub(crate) fn hub(host: &str) -> Option<&'static str> {
    let names = [DEFAULT_REGISTRY, "index.docker.io", "registry-1.docker.io", "auth.docker.io"];
    names.contains(&host).then_some(DEFAULT_REGISTRY)
}

/// Host and port of a URL or a name.
pub(crate) fn host_of(text: &str) -> &str {
    let text = text.split_once("://").map_or(text, |(_, rest)| rest);
    text.split('/').next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_has_one_name() {
        for (text, name) in [
            ("nvcr.io", "nvcr.io"),
            ("https://nvcr.io/", "nvcr.io"),
            ("127.0.0.1:5000", "127.0.0.1:5000"),
            ("http://[::1]:5000/v2/", "[::1]:5000"),
            ("docker.io", "docker.io"),
            ("index.docker.io", "docker.io"),
            ("https://index.docker.io/v1/", "docker.io"),
        ] {
            assert_eq!(registry(text).as_deref(), Ok(name), "{text}");
        }
        for text in ["", "https://", "nvcr.io/nvidia", "a b", "user@nvcr.io", "nvcr.io:x"] {
            assert!(registry(text).is_err(), "{text:?} was taken for a registry");
        }
    }

    #[test]
    fn a_login_shows_no_secret() {
        let login = Login { registry: "r".into(), user: "alice".into(), password: "pw".into() };
        assert_eq!(format!("{login:?}"), "Login { registry: \"r\", .. }");
    }
}
