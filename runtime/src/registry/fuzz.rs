//! For tests/fuzz: what is made of text that else only a registry or a user's file brings.

use reqwest::Url;

use super::{
    Refusal,
    challenge::{self, Scheme},
    credentials::{self, Secret},
};

/// What is understood of `WWW-Authenticate` headers.
#[derive(Debug, PartialEq, Eq)]
pub struct Challenge {
    /// It asks for a password, not for a token.
    pub is_basic: bool,
    /// Where tokens are to be had.
    pub realm: Option<Url>,
    /// What to ask for there.
    pub question: Vec<(&'static str, String)>,
}

/// Reads the challenges of an answer's headers.
pub fn challenge(headers: &[&str]) -> Option<Challenge> {
    let chosen = challenge::choose(headers.iter().copied())?;
    let question = chosen.question(chosen.scope());
    Some(Challenge {
        is_basic: chosen.scheme == Scheme::Basic,
        realm: chosen.realm(),
        question: question.map(|(name, value)| (name, value.to_owned())).collect(),
    })
}

/// Looks for credentials in all places: name and password, where they are of that kind, and what
/// somebody is told whom the registry refuses.
pub fn credentials(registry: &str, repository: &str) -> (Option<(String, String)>, Refusal) {
    let found = credentials::find(registry, repository);
    let refusal = found.refused();
    let secret = found.secret.map(|secret| match secret {
        Secret::Password(login) => (login.user, login.password),
        Secret::IdentityToken(token) => (String::new(), token),
    });
    (secret, refusal)
}
