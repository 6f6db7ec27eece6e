//! One registry or mirror: a request's URL, its tries, and what the answer means.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode, Url,
    header::{HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER},
};
use tokio::sync::OnceCell;

use super::{
    Error,
    auth::Auth,
    client::{self, authority, is_loopback},
    fault::{Fault, proxy_of},
    retry::{Line, Patience, Tell},
};
use crate::{
    config::{self, Config},
    login::Login,
    reference::{DEFAULT_REGISTRY, Reference},
    report::printable,
};

/// How many redirects are followed, one after the other.
const MAX_REDIRECTS: usize = 5;
/// Largest error body that is looked at, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;
/// How long an error's own words are waited for.
const MAX_ERROR_WAIT: Duration = Duration::from_secs(5);
/// How often a server may hang up on the question whether it speaks plain http.
const MAX_HANG_UPS: u32 = 3;
/// How long it is left alone then.
const AFTER_HANG_UP: Duration = Duration::from_millis(100);

/// A connection pool to one registry or mirror, for one repository.
#[derive(Debug)]
pub(super) struct Transport {
    line: Line,
    registry: String,
    repository: String,
    settings: Option<config::Registry>,
    /// The credentials of this run, for whichever registry they are.
    login: Option<Login>,
    /// Whether it speaks http and not TLS, where that is known.
    plain: Option<bool>,
    opened: OnceCell<Opened>,
    /// For a plain registry whose blobs lie where TLS is spoken.
    secure: OnceCell<Client>,
    /// What a mirror failed with last.
    failure: Mutex<Option<String>>,
    /// A mirror that is not asked again.
    down: AtomicBool,
}

/// What is known when it is known whether TLS is spoken.
#[derive(Debug)]
struct Opened {
    http: Client,
    base: Url,
    auth: Auth,
}

impl Transport {
    /// The registry of an image.
    pub(super) fn registry(reference: &Reference, config: &Config) -> Transport {
        let (name, repository) = (reference.registry(), reference.repository());
        let line = Line::new(format!("registry {name}"), &config.network, false);
        Transport::new(line, name, repository, None, config)
    }

    /// A mirror of it.
    pub(super) fn mirror(
        mirror: &config::Mirror,
        reference: &Reference,
        config: &Config,
    ) -> Transport {
        let line = Line::new(format!("mirror {}", mirror.host), &config.network, true);
        let repository = match mirror.prefix.as_str() {
            "" => reference.repository().to_owned(),
            prefix => format!("{prefix}/{}", reference.repository()),
        };
        Transport::new(line, &mirror.host, &repository, mirror.plain_http, config)
    }

    fn new(
        line: Line,
        registry: &str,
        repository: &str,
        plain: Option<bool>,
        config: &Config,
    ) -> Transport {
        let settings = config.registries.iter().find(|r| r.host == registry).cloned();
        let plain = match &settings {
            _ if plain.is_some() => plain,
            Some(settings) if settings.plain_http => Some(true),
            _ if is_loopback(registry) => None,
            _ => Some(false),
        };
        Transport {
            line,
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            settings,
            login: config.login.clone(),
            plain,
            opened: OnceCell::new(),
            secure: OnceCell::new(),
            failure: Mutex::default(),
            down: AtomicBool::new(false),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.registry
    }

    pub(super) fn patience(&self) -> Patience<'_> {
        self.line.patience()
    }

    /// Names who is told of what is tried again.
    pub(super) fn set_tell(&mut self, tell: Tell) {
        self.line.tell = tell;
    }

    /// Notes that a mirror has failed. What it does not have says nothing about the rest.
    pub(super) fn fail(&self, error: &Error) {
        let what = error.brief_of(&self.line.host);
        (self.line.tell)(&format!("{what}; asking the next"));
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(what);
        if error.status() != Some(StatusCode::NOT_FOUND) {
            self.down.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn is_down(&self) -> bool {
        self.down.load(Ordering::Relaxed)
    }

    /// What a mirror failed with last.
    pub(super) fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends a request once. `path` is below the repository.
    pub(super) async fn attempt(
        &self,
        patience: &mut Patience<'_>,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Response, Error> {
        patience.turn().await;
        let Opened { http, base, auth } = self.open(patience).await?;
        let url = base.join(path).map_err(|e| self.protocol(format!("not a path: {e}")))?;
        let mut challenged = false;
        loop {
            let ask = |http: &Client, url: Url| with(http.request(method.clone(), url), headers);
            let (request, proof) = auth.apply(ask(http, url.clone()));
            let answer = patience.wait(request.send()).await;
            let response = answer.map_err(|fault| self.unreachable(fault))?;
            let again = |http: &Client, url: Url| match url.origin() == base.origin() {
                true => auth.apply(ask(http, url)).0,
                // Credentials are the registry's (SECURITY R24).
                false => ask(http, url),
            };
            let response = self.follow(patience, response, again).await?;
            if response.status().is_success() {
                return Ok(response);
            }
            let is_own = response.url().origin() == base.origin();
            // A stranger's challenge is no reason to show credentials to anybody (CVE-2020-15157,
            // SECURITY R24).
            if response.status() != StatusCode::UNAUTHORIZED || challenged || !is_own {
                return Err(self.refusal(auth, path, response, is_own).await);
            }
            // Also in the middle of a pull: tokens live for minutes, pulls may not.
            challenged = true;
            auth.answer(self, patience, &response, proof).await?;
        }
    }

    /// Finds out whether the registry speaks TLS.
    async fn open(&self, patience: &mut Patience<'_>) -> Result<&Opened, Error> {
        let open = async || {
            let plain = match self.plain {
                Some(plain) => plain,
                None => self.speaks_plain(patience).await?,
            };
            let connect = self.line.limits.connect();
            let http = match plain {
                true => client::plain(&self.registry, connect)?,
                false => client::tls(&self.registry, connect, self.settings.as_ref())?,
            };
            let auth = Auth::new(&self.registry, &self.repository, plain, self.login.as_ref());
            Ok(Opened { http, base: self.base(plain)?, auth })
        };
        self.opened.get_or_try_init(open).await
    }

    fn base(&self, plain: bool) -> Result<Url, Error> {
        let scheme = if plain { "http" } else { "https" };
        // docker.io is a name for people; the API lives elsewhere.
        let host = match self.registry.as_str() {
            DEFAULT_REGISTRY => "registry-1.docker.io",
            host => host,
        };
        Url::parse(&format!("{scheme}://{host}/v2/{}/", self.repository))
            .map_err(|e| self.protocol(format!("not a host: {e}")))
    }

    /// Asks in plain http. A server that speaks TLS answers that with 400, or not in HTTP, or hangs
    /// up; but a plain one that is in trouble may hang up, too.
    async fn speaks_plain(&self, patience: &mut Patience<'_>) -> Result<bool, Error> {
        let http = client::plain(&self.registry, self.line.limits.connect())?;
        let base = self.base(true)?;
        for _ in 0..MAX_HANG_UPS {
            let answer = async { Ok(http.head(base.clone()).send().await) };
            match patience.wait(answer).await.map_err(|fault| self.unreachable(fault))? {
                Ok(response) => return Ok(response.status() != StatusCode::BAD_REQUEST),
                Err(error) if error.is_connect() || error.is_timeout() => {
                    return Err(self.unreachable(error.into()));
                }
                Err(_) => tokio::time::sleep(AFTER_HANG_UP).await,
            }
        }
        Ok(false)
    }

    /// Follows an answer's redirects, to object stores mostly, with requests that `ask` makes; but
    /// never from TLS to plain text (SECURITY R24).
    pub(super) async fn follow(
        &self,
        patience: &mut Patience<'_>,
        mut response: Response,
        ask: impl Fn(&Client, Url) -> RequestBuilder,
    ) -> Result<Response, Error> {
        for _ in 0..=MAX_REDIRECTS {
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let url = target.and_then(|target| response.url().join(target).ok());
            let url =
                url.filter(|url| matches!(url.scheme(), "http" | "https")).ok_or_else(|| {
                    self.protocol("redirects to no place that can be followed".into())
                })?;
            if url.scheme() == "http" && response.url().scheme() == "https" {
                return Err(self.protocol("redirects from https to http".to_owned()));
            }
            let answer = patience.wait(ask(self.client(&url).await?, url.clone()).send()).await;
            response = answer.map_err(|fault| self.unreachable_at(&url, fault))?;
        }
        Err(self.protocol(format!("more than {MAX_REDIRECTS} redirects")))
    }

    /// The client that can speak to `url`. Only an opened transport has one.
    pub(super) async fn client(&self, url: &Url) -> Result<&Client, Error> {
        let opened = self.opened.get().expect("a request was sent before this");
        if opened.base.scheme() == "https" || url.scheme() != "https" {
            return Ok(&opened.http);
        }
        let connect = self.line.limits.connect();
        let make = async || client::tls(&self.registry, connect, self.settings.as_ref());
        self.secure.get_or_try_init(make).await
    }

    /// Whether the registry has asked who is there.
    pub(super) fn was_asked(&self) -> bool {
        self.opened.get().is_some_and(|opened| opened.auth.was_asked())
    }

    /// Reads on in an answer's body.
    pub(super) async fn chunk(
        &self,
        patience: &mut Patience<'_>,
        response: &mut Response,
    ) -> Result<Option<Bytes>, Error> {
        let answer = patience.wait(response.chunk()).await;
        answer.map_err(|fault| self.unreachable_at(response.url(), fault))
    }

    /// Names another host as the place of the fault, where it is one.
    fn unreachable_at(&self, url: &Url, fault: Fault) -> Error {
        let is_own = self.opened.get().is_none_or(|opened| opened.base.origin() == url.origin());
        self.unreachable(if is_own { fault } else { fault.at(&authority(url)) })
    }

    pub(super) fn unreachable(&self, fault: Fault) -> Error {
        Error::Unreachable { registry: self.registry.clone(), fault }
    }

    pub(super) fn protocol(&self, problem: String) -> Error {
        Error::Protocol { registry: self.registry.clone(), problem }
    }

    async fn refusal(&self, auth: &Auth, path: &str, response: Response, is_own: bool) -> Error {
        let status = response.status();
        let registry = self.registry.clone();
        let what = match path.split_once('/') {
            Some(("manifests", name)) if name.starts_with("sha256:") => {
                format!("manifest {name} in {}", self.repository)
            }
            Some(("manifests", tag)) => format!("image {}:{tag}", self.repository),
            Some(("", _)) => "its first question".to_owned(),
            Some((_, digest)) => format!("blob {digest} in {}", self.repository),
            None => path.to_owned(),
        };
        let retry_after = retry_after(response.headers());
        let server = authority(response.url());
        let proxy = proxy_of(response.url());
        match status {
            // What a manifest names and is not there is nothing that another name would help.
            StatusCode::NOT_FOUND if is_own && path.starts_with("manifests/") => {
                Error::NotFound { registry, what }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_own => auth.refusal(),
            _ if is_own => {
                // Which of the two it was that answered cannot be told.
                let registry = proxy
                    .map_or(registry.clone(), |proxy| format!("{registry}, or proxy {proxy},"));
                let message = own_words(response).await;
                Error::Status { registry, status, what, message, retry_after }
            }
            _ => {
                let message = own_words(response).await;
                Error::Elsewhere {
                    registry,
                    server: server.into(),
                    status,
                    what: what.into(),
                    message: message.into(),
                    retry_after,
                }
            }
        }
    }
}

fn with(request: RequestBuilder, headers: &[(HeaderName, HeaderValue)]) -> RequestBuilder {
    headers.iter().fold(request, |request, (name, value)| request.header(name, value))
}

/// Seconds or a date (RFC 9110, 10.2.3). What is neither, or over, says nothing.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok()?,
    };
    Some(wait)
}

/// The first error of a registry's JSON (distribution specification, "Error Codes").
pub(super) async fn own_words(mut response: Response) -> String {
    let mut body = Vec::new();
    let read = async {
        while let Ok(Some(chunk)) = response.chunk().await {
            body.extend_from_slice(&chunk);
            if body.len() > MAX_ERROR_BODY {
                break;
            }
        }
    };
    // What has come by then is all that is looked at.
    let _ = tokio::time::timeout(MAX_ERROR_WAIT, read).await;
    let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let first = &parsed["errors"][0];
    let words = first["message"].as_str().or(first["code"].as_str()).unwrap_or_default();
    printable(&words.chars().take(200).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_read_in_both_forms() {
        let wait = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, HeaderValue::from_str(value).expect("ASCII"));
            retry_after(&headers)
        };
        assert_eq!(wait("2"), Some(Duration::from_secs(2)));
        assert_eq!(wait("86400"), Some(Duration::from_secs(86400)));
        let soon = httpdate::fmt_http_date(SystemTime::now() + Duration::from_secs(30));
        assert!(wait(&soon).is_some_and(|w| w > Duration::from_secs(20)), "{soon}");
        let over = httpdate::fmt_http_date(SystemTime::now() - Duration::from_secs(30));
        for nothing in ["soon", "-5", "1.5", "", over.as_str()] {
            assert_eq!(wait(nothing), None, "{nothing:?}");
        }
    }
}
