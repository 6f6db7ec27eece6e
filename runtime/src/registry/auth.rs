//! How a registry is shown who asks: Basic, or a bearer token from the realm that it names
//! (distribution's "Token Authentication Specification").

use std::sync::{Mutex, MutexGuard, PoisonError};

use reqwest::{Client, RequestBuilder, Response, Url, header::WWW_AUTHENTICATE};
use serde::Deserialize;

use super::{
    Error,
    credentials::Credentials,
    transport::{MAX_TRIES, Transport, authority, is_transient, own_words, pause},
};

/// Largest token answer that is read, in bytes (SECURITY R16).
const MAX_TOKEN: usize = 1 << 20;

/// What goes into the Authorization header.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Proof {
    Basic(Credentials),
    Bearer(String),
}

/// The state of one repository's authentication.
pub(super) struct Auth {
    registry: String,
    repository: String,
    /// The registry itself speaks plain http, by the site's will.
    plain: bool,
    credentials: Option<Credentials>,
    proof: Mutex<Option<Proof>>,
    /// Only one request fetches a token; the others wait for it.
    refresh: tokio::sync::Mutex<()>,
}

/// Secrets do not belong in logs.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Auth {
    pub(super) fn new(registry: &str, repository: &str, plain: bool) -> Auth {
        Auth {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            plain,
            credentials: Credentials::find(registry),
            proof: Mutex::new(None),
            refresh: tokio::sync::Mutex::new(()),
        }
    }

    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.is_some()
    }

    /// Adds what the registry has asked for so far, and returns it.
    pub(super) fn apply(&self, request: RequestBuilder) -> (RequestBuilder, Option<Proof>) {
        let proof = self.proof().clone();
        let request = match &proof {
            Some(Proof::Basic(c)) => request.basic_auth(&c.user, Some(&c.password)),
            Some(Proof::Bearer(token)) => request.bearer_auth(token),
            None => request,
        };
        (request, proof)
    }

    /// Answers a 401 to a request that carried `refused`. When this returns, another try is worth
    /// it; whether it is accepted, the registry will say.
    pub(super) async fn answer(
        &self,
        transport: &Transport,
        response: &Response,
        refused: Option<Proof>,
    ) -> Result<(), Error> {
        let _single = self.refresh.lock().await;
        if *self.proof() != refused {
            return Ok(()); // another request got a new one while this one waited
        }
        let challenges: Vec<_> = response
            .headers()
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .filter_map(Challenge::parse)
            .collect();
        let bearer = challenges.iter().find(|c| c.scheme == "bearer");
        let basic = challenges.iter().any(|c| c.scheme == "basic");
        let proof = match (bearer, &self.credentials) {
            (Some(challenge), _) => Some(Proof::Bearer(self.token(transport, challenge).await?)),
            (None, Some(credentials)) if basic => Some(Proof::Basic(credentials.clone())),
            _ => None,
        };
        *self.proof() = proof;
        Ok(())
    }

    async fn token(&self, transport: &Transport, challenge: &Challenge) -> Result<String, Error> {
        let realm = challenge.get("realm").and_then(|realm| Url::parse(realm).ok());
        let mut url = realm.ok_or_else(|| self.problem("its token realm is no URL"))?;
        // The credentials go there: in plain text only where the registry itself is plain (R24).
        if url.scheme() != "https" && !(self.plain && url.scheme() == "http") {
            return Err(self.problem("its token realm is not https"));
        }
        {
            let mut query = url.query_pairs_mut();
            if let Some(service) = challenge.get("service") {
                query.append_pair("service", service);
            }
            query.append_pair("scope", &format!("repository:{}:pull", self.repository));
        }
        let mut tries = 1;
        loop {
            match self.ask(transport.client(&url).await?, &url).await {
                Err(error) if tries < MAX_TRIES && error.is_passing() => pause(tries).await,
                answer => return answer,
            }
            tries += 1;
        }
    }

    /// Asks for a token once. A token server may have trouble of its own, which is no refusal.
    async fn ask(&self, http: &Client, url: &Url) -> Result<String, Error> {
        let server = authority(url);
        let mut request = http.get(url.clone());
        if let Some(credentials) = &self.credentials {
            request = request.basic_auth(&credentials.user, Some(&credentials.password));
        }
        let unreachable = |error: reqwest::Error| Error::Unreachable {
            registry: server.clone(),
            fault: error.into(),
        };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        if is_transient(status) {
            return Err(Error::Status {
                registry: server,
                status,
                what: format!("the request for a token for {}", self.repository),
                retry_after: None,
                message: own_words(response).await,
            });
        }
        if !status.is_success() {
            return Err(Error::Unauthorized {
                registry: self.registry.clone(),
                repository: self.repository.clone(),
                known: self.has_credentials(),
            });
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_TOKEN {
                return Err(self.problem("its token is larger than 1 MiB"));
            }
        }
        let answer: Token = serde_json::from_slice(&body).unwrap_or_default();
        answer
            .token
            .or(answer.access_token)
            .ok_or_else(|| self.problem("its token server sent no token"))
    }

    fn problem(&self, problem: &str) -> Error {
        Error::Protocol { registry: self.registry.clone(), problem: problem.to_owned() }
    }

    fn proof(&self) -> MutexGuard<'_, Option<Proof>> {
        // The value is replaced whole: a panic elsewhere cannot leave it half made.
        self.proof.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Default, Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

/// One challenge of a `WWW-Authenticate` header (RFC 9110, 11.6.1).
struct Challenge {
    scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    fn parse(header: &str) -> Option<Challenge> {
        let header = header.trim();
        let (scheme, mut rest) = header.split_once(' ').unwrap_or((header, ""));
        let mut parameters = Vec::new();
        while let Some((name, after)) = rest.split_once('=') {
            let name = name.trim_matches([' ', ',']).to_ascii_lowercase();
            let (value, next) = match after.strip_prefix('"') {
                Some(quoted) => unquote(quoted)?,
                None => match after.split_once(',') {
                    Some((value, next)) => (value.trim().to_owned(), next),
                    None => (after.trim().to_owned(), ""),
                },
            };
            parameters.push((name, value));
            rest = next;
        }
        Some(Challenge { scheme: scheme.to_ascii_lowercase(), parameters })
    }

    fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// Reads a quoted-string after its opening quote; returns it and what follows it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        let header = r#"Bearer realm="https://auth.example.com/token",service="registry",scope="repository:a/b:pull,push""#;
        let challenge = Challenge::parse(header).expect("a challenge");
        assert_eq!(challenge.scheme, "bearer");
        assert_eq!(challenge.get("realm"), Some("https://auth.example.com/token"));
        assert_eq!(challenge.get("scope"), Some("repository:a/b:pull,push"));
        let basic = Challenge::parse("Basic realm=\"a \\\"b\\\"\", charset=UTF-8").expect("basic");
        assert_eq!((basic.scheme.as_str(), basic.get("realm")), ("basic", Some("a \"b\"")));
        assert_eq!(basic.get("charset"), Some("UTF-8"));
        assert!(Challenge::parse("Bearer realm=\"unfinished").is_none());
    }
}
