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

/// Asks a registry whether it is there and speaks the protocol. Returns whether everybody may come
/// in; who may not is let in, or not, by each repository.
pub fn ping(registry: &str, config: &Config) -> Result<bool, LoginError> {
    let executor = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let transport = transport(registry, config)?;
    match executor.map_err(LoginError::Threads)?.block_on(ask(&transport)) {
        Ok(()) => Ok(true),
        Err(Error::Unauthorized { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns whether the registry wanted to know.
async fn check(login: &Login, config: &Config) -> Result<bool, LoginError> {
    let config = Config { login: Some(login.clone()), ..config.clone() };
    let transport = transport(&login.registry, &config)?;
    match ask(&transport).await {
        Ok(()) => Ok(transport.was_asked()),
        Err(Error::Unauthorized { registry, refusal, .. }) => {
            Err(LoginError::Refused { registry, refusal })
        }
        Err(error) => Err(error.into()),
    }
}

fn transport(registry: &str, config: &Config) -> Result<Transport, Error> {
    let problem =
        |e: ParseError| Error::Protocol { registry: registry.to_owned(), problem: e.to_string() };
    // Of all repositories: what is asked is above them.
    let reference: Reference = format!("{registry}#any").parse().map_err(problem)?;
    Ok(Transport::registry(&reference, config))
}

/// Asks at the API's root, as docker does.
async fn ask(transport: &Transport) -> Result<(), Error> {
    let mut patience = transport.patience();
    loop {
        match transport.attempt(&mut patience, Method::GET, "/v2/", &[]).await {
            Err(error) => patience.again(error).await?,
            Ok(_) => return Ok(()),
        }
    }
}
