//! A registry client: the distribution specification's pull half, and the only async code.
//!
//! ```text
//! Registry ── manifest() ─► bytes + digest        one request, whole, at most 4 MiB
//!     │   └── blob() ─────► Blob ── chunk() ─►    a stream that checks itself, and goes on
//!     │                                           from where it broke
//!     ├─ transport   one registry or mirror: redirects, what an answer means
//!     ├─ retry       try again, wait, or give up: the one place that decides it
//!     ├─ client      whom one trusts, where one follows to
//!     ├─ auth        challenge → token, kept until it is refused
//!     │   └─ challenge     what the registry asks for
//!     ├─ credentials what docker, podman, enroot and `shifter login` leave
//!     ├─ login       asks whether a registry accepts somebody
//!     └─ error fault what went wrong, in words
//! ```
//!
//! Mirrors are asked in their order, and the registry itself last; whatever a mirror fails with, the
//! next is asked. They need not be trusted with content: what comes by digest is checked against it.
//! What a tag stands for is what the first that knows the tag says.
//!
//! HTTP/1.1 with `Accept-Encoding: identity`: several connections are what parallel layers need,
//! and a transparent decoder would break the digest of every gzip blob.

mod auth;
mod blob;
mod challenge;
mod client;
mod credentials;
mod error;
mod fault;
mod login;
mod retry;
mod transport;

use reqwest::{
    Method, Response,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};

pub use self::{
    blob::Blob,
    credentials::{FileError, Problem, Refusal, Source},
    error::Error,
    fault::{Fault, Kind},
    login::{LoginError, Stored, login, logout},
    retry::{History, Tell},
};
use self::{retry::Patience, transport::Transport};
use crate::{
    config::Config,
    digest::Digest,
    oci::{Descriptor, INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT},
    reference::Reference,
};

/// How often a document is fetched again that came with another digest.
const REFETCHES: u32 = 2;

/// One repository in one registry.
#[derive(Debug)]
pub struct Registry {
    mirrors: Vec<Transport>,
    origin: Transport,
}

/// A manifest or index as it came, and its digest.
#[derive(Debug)]
pub struct Fetched {
    /// The document.
    pub bytes: Vec<u8>,
    /// Its digest.
    pub digest: Digest,
    /// What the registry called it.
    pub content_type: Option<String>,
}

impl Registry {
    /// Prepares to talk to the registry of `reference`. Nothing is sent yet.
    pub fn connect(reference: &Reference, config: &Config) -> Registry {
        let settings = config.registries.iter().find(|r| r.host == reference.registry());
        let mirrors = settings.map(|settings| settings.mirrors.as_slice()).unwrap_or_default();
        let mirror = |mirror| Transport::mirror(mirror, reference, config);
        Registry {
            mirrors: mirrors.iter().map(mirror).collect(),
            origin: Transport::registry(reference, config),
        }
    }

    /// Names who is told of every trouble that is not the end: what is tried again, and when.
    pub fn telling(mut self, tell: Tell) -> Registry {
        for transport in self.mirrors.iter_mut().chain([&mut self.origin]) {
            transport.set_tell(tell.clone());
        }
        self
    }

    /// Resolves a tag by `HEAD`, which registries do not count against their limits.
    pub async fn resolve(&self, tag: &str) -> Result<Digest, Error> {
        let path = manifest_path(tag);
        let head = async |transport: &Transport| {
            let head = transport.persist(async |patience| {
                transport.attempt(patience, Method::HEAD, &path, &[manifest_accept()]).await
            });
            Ok(content_digest(&head.await?))
        };
        match self.first(head).await? {
            Some(digest) => Ok(digest),
            None => Ok(self.manifest(tag).await?.digest),
        }
    }

    /// Fetches a manifest or index by tag or by digest.
    pub async fn manifest(&self, name: &str) -> Result<Fetched, Error> {
        let path = manifest_path(name);
        let get = async |transport: &Transport| {
            let get = transport.persist(async |patience| {
                let accept = [manifest_accept()];
                let response = transport.attempt(patience, Method::GET, &path, &accept).await?;
                read_manifest(transport, patience, name, response).await
            });
            get.await
        };
        self.refetched(async || self.first(&get).await).await
    }

    /// Fetches a small blob whole: the configuration.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if descriptor.size > MAX_DOCUMENT {
            let problem = format!("configuration is larger than {MAX_DOCUMENT} bytes");
            return Err(self.origin.protocol(problem));
        }
        let get = async || {
            let mut blob = self.blob("configuration", descriptor);
            let mut bytes = Vec::new();
            while let Some(chunk) = blob.chunk().await? {
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        };
        self.refetched(get).await
    }

    /// Starts to fetch a blob; `what` names it in errors.
    pub fn blob<'a>(&'a self, what: &'static str, descriptor: &'a Descriptor) -> Blob<'a> {
        Blob::new(self, what, descriptor)
    }

    /// Fetches again what came with another digest: a cache on the way may hold a bad copy for a
    /// moment only.
    async fn refetched<T>(&self, fetch: impl AsyncFn() -> Result<T, Error>) -> Result<T, Error> {
        let mut tries = 0;
        loop {
            match fetch().await {
                Err(error @ Error::Digest { .. }) if tries < REFETCHES => {
                    tries += 1;
                    self.origin.tell(&format!("{error}; trying again"));
                    tokio::time::sleep(retry::backoff(tries)).await;
                }
                fetched => return fetched,
            }
        }
    }

    /// Asks the mirrors in their order, and then the registry itself.
    async fn first<T>(
        &self,
        ask: impl AsyncFn(&Transport) -> Result<T, Error>,
    ) -> Result<T, Error> {
        for mirror in self.mirrors.iter().filter(|mirror| !mirror.is_down()) {
            match ask(mirror).await {
                Err(error) => mirror.fail(&error),
                answer => return answer,
            }
        }
        ask(&self.origin).await.map_err(|error| self.after_mirrors(error))
    }

    /// The number of the first mirror from `from` on that is not given up; after the last one comes
    /// the registry itself.
    fn next(&self, from: usize) -> usize {
        let up = self.mirrors.iter().skip(from).position(|mirror| !mirror.is_down());
        up.map_or(self.mirrors.len(), |skipped| from + skipped)
    }

    fn at(&self, number: usize) -> &Transport {
        self.mirrors.get(number).unwrap_or(&self.origin)
    }

    /// The registry's error with what the mirrors had failed with: where a site is cut off from the
    /// world, that is the cause.
    fn after_mirrors(&self, error: Error) -> Error {
        let failures: Vec<_> = self.mirrors.iter().filter_map(Transport::failure).collect();
        if failures.is_empty() || matches!(error, Error::Digest { .. } | Error::Size { .. }) {
            return error;
        }
        Error::NoMirror { mirrors: failures.join(" and "), origin: error.into() }
    }
}

async fn read_manifest(
    transport: &Transport,
    patience: &mut Patience<'_>,
    name: &str,
    mut response: Response,
) -> Result<Fetched, Error> {
    let content_type = response
        .headers()
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .map(|value| value.split(';').next().unwrap_or(value).trim().to_owned());
    if content_type.as_deref() == Some("text/html") {
        return Err(transport.protocol("sent a web page (text/html), not a manifest".to_owned()));
    }
    let promised = Digest::parse(name).ok().or_else(|| content_digest(&response));
    let mut bytes = Vec::new();
    while let Some(chunk) = transport.chunk(patience, &mut response).await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() as u64 > MAX_DOCUMENT {
            let problem = format!("manifest is larger than {MAX_DOCUMENT} bytes");
            return Err(transport.protocol(problem));
        }
    }
    let digest = Digest::of(&bytes);
    match promised {
        Some(expected) if expected != digest => Err(Error::Digest {
            registry: transport.name().to_owned(),
            what: "manifest",
            expected,
            got: digest,
        }),
        _ => Ok(Fetched { bytes, digest, content_type }),
    }
}

fn manifest_path(name: &str) -> String {
    format!("manifests/{name}")
}

fn manifest_accept() -> (reqwest::header::HeaderName, HeaderValue) {
    let types = [INDEX_TYPES, MANIFEST_TYPES].concat().join(", ");
    (ACCEPT, HeaderValue::from_str(&types).expect("media types are ASCII"))
}

fn content_digest(response: &Response) -> Option<Digest> {
    let value = response.headers().get("docker-content-digest")?;
    Digest::parse(value.to_str().ok()?).ok()
}
