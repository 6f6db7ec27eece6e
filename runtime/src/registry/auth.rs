//! How a registry is shown who asks: Basic, or a bearer token from the realm that it names
//! (distribution's "Token Authentication" and "OAuth2 Token Authentication").

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use reqwest::{Client, RequestBuilder, Response, Url, header::CONTENT_TYPE};
use serde::Deserialize;

use super::{
    Error,
    challenge::{Challenge, Scheme},
    client::authority,
    credentials::{self, Found, Refusal, Secret},
    error::is_transient,
    fault::Fault,
    retry::Patience,
    transport::{Transport, own_words, retry_after},
};
use crate::login::Login;

/// Largest token answer that is read, in bytes (SECURITY R16).
const MAX_TOKEN: usize = 1 << 20;

/// What goes into the Authorization header.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Proof {
    Basic(Login),
    Bearer(String),
}

/// The state of one repository's authentication.
pub(super) struct Auth {
    registry: String,
    repository: String,
    /// The registry itself speaks plain http, by the site's will.
    plain: bool,
    given: Option<Login>,
    /// Looked for when the registry first asks: that may start a helper program.
    found: OnceLock<Arc<Found>>,
    proof: Mutex<Option<Proof>>,
    /// The answer to a request without any proof. Later ones are not to be gone by: for a token
    /// that has expired, nvcr.io names a realm that gives none to anonymous callers, and Harbor
    /// asks for Basic. Only one request fetches a token; the others wait for it here.
    challenge: tokio::sync::Mutex<Option<Challenge>>,
}

/// Secrets do not belong in logs.
impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("registry", &self.registry).finish_non_exhaustive()
    }
}

impl Auth {
    /// `given` are the credentials of this run, for whichever registry they are.
    pub(super) fn new(
        registry: &str,
        repository: &str,
        plain: bool,
        given: Option<&Login>,
    ) -> Auth {
        Auth {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            plain,
            given: given.filter(|login| login.registry == registry).cloned(),
            found: OnceLock::new(),
            proof: Mutex::new(None),
            challenge: tokio::sync::Mutex::new(None),
        }
    }

    /// Whether the registry has asked for anything that could be shown.
    pub(super) fn was_asked(&self) -> bool {
        self.proof().is_some()
    }

    /// Adds what the registry has asked for so far, and returns it.
    pub(super) fn apply(&self, request: RequestBuilder) -> (RequestBuilder, Option<Proof>) {
        let proof = self.proof().clone();
        let request = match &proof {
            Some(Proof::Basic(login)) => request.basic_auth(&login.user, Some(&login.password)),
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
        patience: &mut Patience<'_>,
        response: &Response,
        refused: Option<Proof>,
    ) -> Result<(), Error> {
        let mut first = self.challenge.lock().await;
        if *self.proof() != refused {
            return Ok(()); // another request got a new one while this one waited
        }
        if first.is_none() {
            *first = Challenge::of(response);
        }
        let Some(challenge) = &*first else { return Ok(()) };
        let found = self.find().await;
        let proof = match (challenge.scheme, &found.secret) {
            (Scheme::Bearer, secret) => {
                // The API's root is nobody's repository: ghcr.io names an example there.
                let scope = (response.url().path() != "/v2/").then(|| {
                    let ours = || format!("repository:{}:pull", self.repository);
                    challenge.scope().map_or_else(ours, str::to_owned)
                });
                let (scope, secret) = (scope.as_deref(), secret.as_ref());
                let token = self.token(transport, patience, challenge, scope, secret);
                Some(Proof::Bearer(token.await?))
            }
            (Scheme::Basic, Some(Secret::Password(login))) => Some(Proof::Basic(login.clone())),
            (Scheme::Basic, _) => None,
        };
        *self.proof() = proof;
        Ok(())
    }

    async fn find(&self) -> Arc<Found> {
        if let Some(found) = self.found.get() {
            return found.clone();
        }
        let (registry, repository) = (self.registry.clone(), self.repository.clone());
        let found = match self.given.clone() {
            Some(login) => Found::given(login),
            // A helper program may take its time.
            None => {
                let find = move || credentials::find(&registry, &repository);
                tokio::task::spawn_blocking(find).await.expect("the search does not panic")
            }
        };
        self.found.get_or_init(|| Arc::new(found)).clone()
    }

    async fn token(
        &self,
        transport: &Transport,
        patience: &mut Patience<'_>,
        challenge: &Challenge,
        scope: Option<&str>,
        secret: Option<&Secret>,
    ) -> Result<String, Error> {
        let realm = challenge.realm();
        let mut url = realm.ok_or_else(|| self.problem("its token realm is no URL"))?;
        // The credentials go there: in plain text only where the registry itself is plain (R24).
        if url.scheme() != "https" && !(self.plain && url.scheme() == "http") {
            return Err(self.problem("its token realm is not https"));
        }
        let question = challenge.question(scope);
        let request = match secret {
            Some(Secret::IdentityToken(token)) => {
                let mut form = Url::parse("form:").expect("a URL");
                form.query_pairs_mut()
                    .append_pair("grant_type", "refresh_token")
                    .append_pair("client_id", "shifter")
                    .extend_pairs(question)
                    .append_pair("refresh_token", token);
                transport
                    .client(&url)
                    .await?
                    .post(url.clone())
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(form.query().unwrap_or_default().to_owned())
            }
            Some(Secret::Password(login)) => {
                url.query_pairs_mut().extend_pairs(question);
                let request = transport.client(&url).await?.get(url.clone());
                request.basic_auth(&login.user, Some(&login.password))
            }
            None => {
                url.query_pairs_mut().extend_pairs(question);
                transport.client(&url).await?.get(url.clone())
            }
        };
        loop {
            let request = request.try_clone().expect("the body is in memory");
            match self.ask(transport, patience, request, &url, secret).await {
                Err(error) => patience.again(error).await?,
                token => return token,
            }
        }
    }

    /// Asks for a token once. A token server may have trouble of its own, which is no refusal.
    async fn ask(
        &self,
        transport: &Transport,
        patience: &mut Patience<'_>,
        request: RequestBuilder,
        url: &Url,
        secret: Option<&Secret>,
    ) -> Result<String, Error> {
        let server = authority(url);
        let unreachable = |fault: Fault| Error::Unreachable { registry: server.clone(), fault };
        let mut response = patience.wait(request.send()).await.map_err(unreachable)?;
        // A redirect would take the body, and the token in it, to anywhere (R24).
        if !matches!(secret, Some(Secret::IdentityToken(_))) {
            let again = |http: &Client, to: Url| match secret {
                Some(Secret::Password(login)) if to.origin() == url.origin() => {
                    http.get(to).basic_auth(&login.user, Some(&login.password))
                }
                _ => http.get(to),
            };
            response = transport.follow(patience, response, again).await?;
        }
        let status = response.status();
        if is_transient(status) {
            return Err(Error::Status {
                registry: server,
                status,
                what: "the request for a token".to_owned(),
                retry_after: retry_after(response.headers()),
                message: own_words(response).await,
            });
        }
        if !status.is_success() {
            return Err(self.refusal());
        }
        let mut body = Vec::new();
        while let Some(chunk) = patience.wait(response.chunk()).await.map_err(unreachable)? {
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

    /// The registry's last word.
    pub(super) fn refusal(&self) -> Error {
        Error::Unauthorized {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            refusal: self.found.get().map_or(Refusal::Unasked, |found| found.refused()),
        }
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
