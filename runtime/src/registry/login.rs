//! Logging in: whether a registry accepts somebody, and where that is kept.

use std::io;

use reqwest::Method;

use super::{
    Error,
    credentials::{FileError, Refusal, own, shown},
    transport::Transport,
};
use crate::{
    config::Config,
    login::Login,
    reference::{ParseError, Reference},
};

/// Why nobody is logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The registry could not be asked.
    #[error(transparent)]
    Registry(#[from] Error),
    /// It does not accept them.
    #[error("registry {registry} refuses the login: {refusal}")]
    Refused {
        /// Host and port.
        registry: String,
        /// Whether it has seen the credentials.
        refusal: Refusal,
    },
    /// They could not be stored.
    #[error(transparent)]
    File(#[from] FileError),
    /// The executor could not be started.
    #[error("start network threads")]
    Threads(#[source] io::Error),
}

/// A login that is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The file, as its owner would write it.
    pub path: String,
    /// Whether the registry has looked at it: some let everybody in at the door, and ask who is
    /// there for some repositories only.
    pub checked: bool,
}

/// Keeps a login for later pulls, if the registry accepts it.
pub fn login(login: &Login, config: &Config) -> Result<Stored, LoginError> {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let checked = executor.map_err(LoginError::Threads)?.block_on(check(login, config))?;
    let path = own::store(login)?;
    Ok(Stored { path: shown(&path), checked })
}

/// Forgets a login; returns the file that it was to be in, and whether it was there.
pub fn logout(registry: &str) -> Result<(String, bool), FileError> {
    let (path, known) = own::remove(registry)?;
    Ok((shown(&path), known))
}

/// Asks at the API's root, as docker does. Returns whether the registry wanted to know.
async fn check(login: &Login, config: &Config) -> Result<bool, LoginError> {
    let problem = |e: ParseError| Error::Protocol {
        registry: login.registry.clone(),
        problem: e.to_string(),
    };
    // Of all repositories: what is asked is above them.
    let reference: Reference = format!("{}#any", login.registry).parse().map_err(problem)?;
    let config = Config { login: Some(login.clone()), ..config.clone() };
    let transport = Transport::registry(&reference, &config);
    let mut patience = transport.patience();
    let answer = loop {
        match transport.attempt(&mut patience, Method::GET, "/v2/", &[]).await {
            Err(error) => match patience.again(error).await {
                Ok(()) => {}
                Err(error) => break Err(error),
            },
            answer => break answer,
        }
    };
    match answer {
        Ok(_) => Ok(transport.was_asked()),
        Err(Error::Unauthorized { registry, refusal, .. }) => {
            Err(LoginError::Refused { registry, refusal })
        }
        Err(error) => Err(error.into()),
    }
}
