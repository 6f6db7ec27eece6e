//! A registry client: the distribution specification's pull half, and the only async code.
//!
//! ```text
//! Registry ── manifest() ─► bytes + digest        one request, whole, at most 4 MiB
//!     │   └── blob() ─────► Blob ── chunk() ─►    a stream that checks itself, and goes on
//!     │                                           from where it broke
//!     ├─ transport   one registry or mirror: redirects, what an answer means
//!     ├─ retry       try again, wait, or give up: the one place that decides it
//!     ├─ route       who is asked next where there are mirrors
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
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzz;
mod login;
mod retry;
mod route;
mod transport;

use reqwest::{
    Method, Response,
    header::{ACCEPT, CONTENT_TYPE, HeaderValue},
};

pub(crate) use self::retry::chance;
pub use self::{
    blob::Blob,
    credentials::{FileError, Problem, Refusal, Source},
    error::Error,
    fault::{Fault, Kind},
    login::{LoginError, Stored, login, logout, ping},
    retry::{History, Tell},
};
use self::{route::Route, transport::Transport};
use crate::{
    config::Config,
    digest::Digest,
    oci::{Descriptor, INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT},
    reference::Reference,
};

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
        let mut route = Route::new(self);
        let response = loop {
            match ask(&mut route, Method::HEAD, tag).await {
                Err(error) => route.again(error).await?,
                Ok(response) => break response,
            }
        };
        match content_digest(&response) {
            Some(digest) => Ok(digest),
            None => Ok(self.manifest(tag).await?.digest),
        }
    }

    /// Fetches a manifest or index by tag or by digest.
    pub async fn manifest(&self, name: &str) -> Result<Fetched, Error> {
        let mut route = Route::new(self);
        loop {
            match read_manifest(&mut route, name).await {
                Err(error) => route.again(error).await?,
                fetched => return fetched,
            }
        }
    }

    /// Fetches a small blob whole: the configuration.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if descriptor.size > MAX_DOCUMENT {
            let problem = format!("configuration is larger than {MAX_DOCUMENT} bytes");
            return Err(self.origin.protocol(problem));
        }
        let mut patience = self.origin.patience();
        loop {
            match self.blob("configuration", descriptor).whole().await {
                Err(error @ Error::Digest { .. }) => patience.again(error).await?,
                read => return read,
            }
        }
    }

    /// Starts to fetch a blob; `what` names it in errors.
    pub fn blob<'a>(&'a self, what: &'static str, descriptor: &'a Descriptor) -> Blob<'a> {
        Blob::new(self, what, descriptor)
    }
}

/// Asks once for what describes an image.
async fn ask(route: &mut Route<'_>, method: Method, name: &str) -> Result<Response, Error> {
    let types = [INDEX_TYPES, MANIFEST_TYPES].concat().join(", ");
    let types = HeaderValue::from_str(&types).expect("media types are ASCII");
    let (transport, path) = (route.transport(), format!("manifests/{name}"));
    transport.attempt(&mut route.patience, method, &path, &[(ACCEPT, types)]).await
}

async fn read_manifest(route: &mut Route<'_>, name: &str) -> Result<Fetched, Error> {
    let transport = route.transport();
    let mut response = ask(route, Method::GET, name).await?;
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
    while let Some(chunk) = transport.chunk(&mut route.patience, &mut response).await? {
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

fn content_digest(response: &Response) -> Option<Digest> {
    let value = response.headers().get("docker-content-digest")?;
    Digest::parse(value.to_str().ok()?).ok()
}
