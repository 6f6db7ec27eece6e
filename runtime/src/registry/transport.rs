//! One request to a registry: its URL, its tries, and what the answer means.

use std::{
    error::Error as _,
    fmt, fs,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use reqwest::{
    Certificate, Client, ClientBuilder, Method, Response, StatusCode, Url,
    header::{ACCEPT_ENCODING, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER},
    redirect,
};
use tokio::sync::OnceCell;

use super::{Error, auth::Auth};
use crate::{
    config::{self, Config},
    reference::{DEFAULT_REGISTRY, Reference},
    report::printable,
};

/// Tries of one request, the first included.
pub(super) const MAX_TRIES: u32 = 4;
/// The longest wait that is waited; who asks for more is left alone.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// Time to reach the registry.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Longest silence in the middle of an answer.
const IDLE_TIMEOUT: Duration = Duration::from_secs(45);
/// Largest error body that is looked at, in bytes.
const MAX_ERROR_BODY: usize = 64 << 10;

/// What happened on the way to a registry.
#[derive(Debug)]
pub struct Fault(reqwest::Error);

impl From<reqwest::Error> for Fault {
    fn from(error: reqwest::Error) -> Fault {
        Fault(error)
    }
}

impl Fault {
    /// Whether the other end could not be shown to be who it should be, or could not speak TLS.
    pub fn is_tls(&self) -> bool {
        self.causes().any(|cause| {
            let text = cause.to_string();
            text.contains("certificate") || text.contains("corrupt message")
        })
    }

    /// What another try would not change: certificates, redirects.
    pub(super) fn is_hopeless(&self) -> bool {
        self.0.is_redirect() || self.0.is_builder() || self.is_tls()
    }

    fn causes(&self) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
        let mut next = self.0.source();
        std::iter::from_fn(move || {
            let cause = next?;
            next = cause.source();
            Some(cause)
        })
    }
}

/// The innermost cause, which is the one that says something.
impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_timeout() {
            return f.write_str("no answer in time");
        }
        let text = match self.causes().last() {
            Some(cause) => cause.to_string(),
            None => self.0.to_string(),
        };
        // rustls names its own types.
        f.write_str(&match text.as_str() {
            t if t.contains("CaUsedAsEndEntity") => {
                "its certificate is an authority's (CA:TRUE), not a server's".into()
            }
            t if t.contains("UnknownIssuer") => "its certificate is of an unknown authority".into(),
            t => printable(t.split(" (os error").next().unwrap_or(t)).to_lowercase(),
        })
    }
}

/// A connection pool to one registry, for one repository.
#[derive(Debug)]
pub(super) struct Transport {
    http: Client,
    /// For a plain registry whose blobs lie where TLS is spoken.
    secure: OnceCell<Client>,
    settings: Option<config::Registry>,
    base: Url,
    registry: String,
    repository: String,
    auth: Auth,
}

impl Transport {
    pub(super) async fn connect(
        reference: &Reference,
        config: &Config,
    ) -> Result<Transport, Error> {
        let registry = reference.registry();
        let settings = config.registries.iter().find(|r| r.host == registry);
        // docker.io is a name for people; the API lives elsewhere.
        let host = if registry == DEFAULT_REGISTRY { "registry-1.docker.io" } else { registry };
        let url = |scheme: &str| {
            let text = format!("{scheme}://{host}/v2/{}/", reference.repository());
            Url::parse(&text).map_err(|e| Error::Protocol {
                registry: registry.to_owned(),
                problem: format!("not a host: {e}"),
            })
        };
        let plain = match settings {
            Some(settings) if settings.plain_http => true,
            _ => is_loopback(host) && speaks_plain(&plain_client(registry)?, url("http")?).await,
        };
        let http = if plain { plain_client(registry)? } else { tls_client(registry, settings)? };
        let base = url(if plain { "http" } else { "https" })?;
        let auth = Auth::new(registry, reference.repository(), plain, config.login.as_ref());
        Ok(Transport {
            http,
            secure: OnceCell::new(),
            settings: settings.cloned(),
            base,
            registry: registry.to_owned(),
            repository: reference.repository().to_owned(),
            auth,
        })
    }

    pub(super) fn name(&self) -> &str {
        &self.registry
    }

    /// Sends a request until it succeeds or is hopeless. `path` is below the repository.
    pub(super) async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Response, Error> {
        let url = self.base.join(path).map_err(|e| Error::Protocol {
            registry: self.registry.clone(),
            problem: format!("not a path: {e}"),
        })?;
        let mut challenged = false;
        let mut tries = 1;
        loop {
            let mut request = self.http.request(method.clone(), url.clone());
            for (name, value) in headers {
                request = request.header(name, value);
            }
            let (request, proof) = self.auth.apply(request);
            let answer = match request.send().await {
                Ok(response) if response.status().is_redirection() => {
                    self.follow_to_tls(&response, &method, headers).await?
                }
                answer => answer,
            };
            let wait = match answer {
                Ok(response) if response.status().is_success() => return Ok(response),
                Ok(response)
                    if response.status() == StatusCode::UNAUTHORIZED
                        && !challenged
                        && self.is_own(&response) =>
                {
                    // Also in the middle of a pull: tokens live for minutes, pulls may not.
                    challenged = true;
                    self.auth.answer(self, &response, proof).await?;
                    continue;
                }
                Ok(response) if is_transient(response.status()) && tries < MAX_TRIES => {
                    match retry_after(response.headers()) {
                        Some(wait) if wait > MAX_RETRY_AFTER => {
                            return Err(self.refusal(path, response).await);
                        }
                        wait => wait.unwrap_or_else(|| backoff(tries)),
                    }
                }
                Ok(response) => return Err(self.refusal(path, response).await),
                Err(error) => match Fault::from(error) {
                    fault if tries < MAX_TRIES && !fault.is_hopeless() => backoff(tries),
                    fault => return Err(self.unreachable(fault)),
                },
            };
            tokio::time::sleep(wait).await;
            tries += 1;
            challenged = false; // a token may have expired while this waited
        }
    }

    /// Goes where a plain registry points to and only TLS is spoken; without credentials, which are
    /// the registry's (SECURITY R24).
    async fn follow_to_tls(
        &self,
        response: &Response,
        method: &Method,
        headers: &[(HeaderName, HeaderValue)],
    ) -> Result<Result<Response, reqwest::Error>, Error> {
        let target = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let url = target.and_then(|target| response.url().join(target).ok());
        let url = url.filter(|url| url.scheme() == "https").ok_or_else(|| Error::Protocol {
            registry: self.registry.clone(),
            problem: "redirected to no place that can be followed".to_owned(),
        })?;
        let mut request = self.client(&url).await?.request(method.clone(), url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        Ok(request.send().await)
    }

    /// The client that can speak to `url`.
    pub(super) async fn client(&self, url: &Url) -> Result<&Client, Error> {
        if self.base.scheme() == "https" || url.scheme() != "https" {
            return Ok(&self.http);
        }
        let make = async || tls_client(&self.registry, self.settings.as_ref());
        self.secure.get_or_try_init(make).await
    }

    /// A client for `url` that follows no redirects.
    pub(super) fn direct_client(&self, url: &Url) -> Result<Client, Error> {
        let builder = match url.scheme() {
            "https" => tls_builder(&self.registry, self.settings.as_ref())?,
            _ => client(&self.registry).tls_certs_only([]),
        };
        build(&self.registry, builder.redirect(redirect::Policy::none()))
    }

    /// Whether the registry has asked who is there.
    pub(super) fn was_asked(&self) -> bool {
        self.auth.was_asked()
    }

    /// Whether it is the registry that answered, and not whom it redirected to: a stranger's
    /// challenge is no reason to show credentials to anybody (CVE-2020-15157, SECURITY R24).
    fn is_own(&self, response: &Response) -> bool {
        response.url().origin() == self.base.origin()
    }

    /// Reads on in an answer's body.
    pub(super) async fn chunk(&self, response: &mut Response) -> Result<Option<Bytes>, Error> {
        response.chunk().await.map_err(|error| self.unreachable(error.into()))
    }

    fn unreachable(&self, fault: Fault) -> Error {
        Error::Unreachable { registry: self.registry.clone(), fault }
    }

    async fn refusal(&self, path: &str, response: Response) -> Error {
        let status = response.status();
        let is_own = self.is_own(&response);
        let registry = if is_own { self.registry.clone() } else { authority(response.url()) };
        let what = match path.split_once('/') {
            Some(("manifests", name)) if name.starts_with("sha256:") => {
                format!("manifest {name} in {}", self.repository)
            }
            Some(("manifests", tag)) => format!("image {}:{tag}", self.repository),
            Some(("", _)) => "its first question".to_owned(),
            Some((_, digest)) => format!("blob {digest} in {}", self.repository),
            None => path.to_owned(),
        };
        match status {
            // What a manifest names and is not there is nothing that another name would help.
            StatusCode::NOT_FOUND if path.starts_with("manifests/") => {
                Error::NotFound { registry, what }
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if is_own => self.auth.refusal(),
            _ => {
                let retry_after = retry_after(response.headers());
                let message = own_words(response).await;
                Error::Status { registry, status, what, message, retry_after }
            }
        }
    }
}

/// Speaks http only, and so has no use for the system's certificates: reading them takes longer
/// than asking a registry on this machine for a digest.
fn plain_client(registry: &str) -> Result<Client, Error> {
    let stop_at_tls = redirect::Policy::custom(|attempt| match attempt.url().scheme() {
        "https" => attempt.stop(),
        _ => follow(attempt),
    });
    build(registry, client(registry).tls_certs_only([]).redirect(stop_at_tls))
}

fn tls_client(registry: &str, settings: Option<&config::Registry>) -> Result<Client, Error> {
    build(registry, tls_builder(registry, settings)?)
}

fn tls_builder(
    registry: &str,
    settings: Option<&config::Registry>,
) -> Result<ClientBuilder, Error> {
    let mut builder = client(registry).redirect(redirect::Policy::custom(follow));
    if let Some(path) = settings.and_then(|settings| settings.ca_file.as_deref()) {
        let problem = |error: &dyn fmt::Display| Error::Protocol {
            registry: registry.to_owned(),
            problem: format!("ca_file {}: {error}", path.display()),
        };
        let pem = fs::read(path).map_err(|e| problem(&e))?;
        let certificates = Certificate::from_pem_bundle(&pem).map_err(|e| problem(&e))?;
        builder = builder.tls_certs_merge(certificates);
    }
    Ok(builder)
}

fn client(registry: &str) -> ClientBuilder {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let builder = Client::builder()
        .user_agent(concat!("shifter/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .http1_only()
        .referer(false)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(IDLE_TIMEOUT);
    if is_loopback(registry) { builder.no_proxy() } else { builder }
}

fn build(registry: &str, builder: ClientBuilder) -> Result<Client, Error> {
    builder.build().map_err(|error| Error::Protocol {
        registry: registry.to_owned(),
        problem: Fault(error).to_string(),
    })
}

/// Follows redirects to object stores, but never from TLS to plain text (SECURITY R24). reqwest
/// drops the credentials wherever host or port change.
fn follow(attempt: redirect::Attempt<'_>) -> redirect::Action {
    let downgraded = attempt.url().scheme() != "https"
        && attempt.previous().iter().any(|url| url.scheme() == "https");
    if attempt.previous().len() > 5 {
        attempt.error("more than 5 redirects")
    } else if downgraded {
        attempt.error("redirected from https to http")
    } else {
        attempt.follow()
    }
}

/// As in docker, a registry on this machine may speak plain http without being configured.
fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A server that speaks TLS answers a plain request with 400, or not in HTTP. Where nobody answers
/// at all, the request that follows says so.
async fn speaks_plain(http: &Client, url: Url) -> bool {
    match http.head(url).send().await {
        Ok(response) => response.status() != StatusCode::BAD_REQUEST,
        Err(error) => error.is_connect() || error.is_timeout(),
    }
}

/// Host and port, as in image names.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
}

pub(super) fn is_transient(status: StatusCode) -> bool {
    status.is_server_error()
        || matches!(status, StatusCode::REQUEST_TIMEOUT | StatusCode::TOO_MANY_REQUESTS)
}

/// Seconds or a date (RFC 9110, 10.2.3).
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let value = headers.get(RETRY_AFTER)?.to_str().ok()?;
    let wait = match value.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(value).ok()?.duration_since(SystemTime::now()).ok()?,
    };
    Some(wait)
}

/// Doubles from 200 ms, and spreads by up to a half: many nodes start at the same moment.
fn backoff(tries: u32) -> Duration {
    let base = Duration::from_millis(200) * 2u32.pow(tries.min(6) - 1);
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    base.mul_f64(1.0 + f64::from(clock.subsec_nanos() % 1000) / 2000.0)
}

/// Waits before what broke is taken up again.
pub(super) async fn pause(breaks: u32) {
    tokio::time::sleep(backoff(breaks)).await;
}

/// The first error of a registry's JSON (distribution specification, "Error Codes").
pub(super) async fn own_words(mut response: Response) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ERROR_BODY {
            break;
        }
    }
    let parsed: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
    let first = &parsed["errors"][0];
    let words = first["message"].as_str().or(first["code"].as_str()).unwrap_or_default();
    printable(&words.chars().take(200).collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_in_every_spelling() {
        for yes in ["127.0.0.1:5000", "127.1.2.3", "localhost", "localhost:5000", "[::1]:5000"] {
            assert!(is_loopback(yes), "{yes}");
        }
        for no in ["docker.io", "10.0.0.1:5000", "localhost.example.com", "[::2]:5000"] {
            assert!(!is_loopback(no), "{no}");
        }
    }

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
        assert_eq!(wait("soon"), None);
    }
}
