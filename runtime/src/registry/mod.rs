//! A registry client: the distribution specification's pull half, and the only async code.
//!
//! ```text
//! Registry ── manifest() ─► bytes + digest        one request, whole, at most 4 MiB
//!     │   └── blob() ─────► Blob ── chunk() ─►    a stream that checks itself, and goes on
//!     │                                           from where it broke
//!     ├─ transport   one request: tries, waits, redirects, what an answer means
//!     ├─ auth        challenge → token, kept until it is refused
//!     │   └─ challenge     what the registry asks for
//!     └─ credentials what docker, podman, enroot and `shifter login` leave
//! ```
//!
//! HTTP/1.1 with `Accept-Encoding: identity`: several connections are what parallel layers need,
//! and a transparent decoder would break the digest of every gzip blob.

mod auth;
mod challenge;
mod credentials;
mod login;
mod transport;

use std::time::Duration;

use bytes::{Buf as _, Bytes};
use reqwest::{
    Method, Response, StatusCode,
    header::{ACCEPT, CONTENT_RANGE, CONTENT_TYPE, HeaderValue, RANGE},
};

use self::transport::Transport;
pub use self::{
    credentials::{FileError, Problem, Refusal, Source},
    login::{LoginError, Stored, login, logout},
    transport::Fault,
};
use crate::{
    config::Config,
    digest::{Digest, Hasher},
    oci::{Descriptor, INDEX_TYPES, MANIFEST_TYPES, MAX_DOCUMENT},
    reference::Reference,
};

/// How often a blob may break without a byte of progress before it is given up.
const MAX_BREAKS: u32 = 5;

/// Why a registry did not give what was asked of it. The subject (which image) is the caller's.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No answer at all.
    #[error("cannot reach registry {registry}: {fault}")]
    Unreachable {
        /// Host and port.
        registry: String,
        /// What happened on the way.
        fault: Fault,
    },
    /// 401 or 403, after trying what credentials there are.
    #[error("registry {registry} refuses access to {repository}: {refusal}")]
    Unauthorized {
        /// Host and port.
        registry: String,
        /// The repository asked for.
        repository: String,
        /// Whether credentials were found, and where.
        refusal: Refusal,
    },
    /// 404.
    #[error("registry {registry} has no {what}")]
    NotFound {
        /// Host and port.
        registry: String,
        /// The manifest or blob.
        what: String,
    },
    /// Any other refusal.
    #[error("registry {registry} answered {status} to {what}{}", colon(.message))]
    Status {
        /// Host and port.
        registry: String,
        /// The HTTP status.
        status: StatusCode,
        /// The manifest or blob.
        what: String,
        /// The registry's own words, made printable.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// Other bytes than the digest promised.
    #[error("{what}: registry {registry} sent other content: expected {expected}, got {got}")]
    Digest {
        /// Host and port.
        registry: String,
        /// manifest, configuration or layer.
        what: &'static str,
        /// The digest asked for.
        expected: Digest,
        /// The digest of what came.
        got: Digest,
    },
    /// A different length than the descriptor promised.
    #[error("{what} {digest}: expected {expected} bytes, registry {registry} sent {got}")]
    Size {
        /// Host and port.
        registry: String,
        /// manifest, configuration or layer.
        what: &'static str,
        /// Which.
        digest: Digest,
        /// Bytes by the descriptor.
        expected: u64,
        /// Bytes that came.
        got: u64,
    },
    /// An answer that the protocol does not allow.
    #[error("registry {registry}: {problem}")]
    Protocol {
        /// Host and port.
        registry: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl Error {
    /// Whether other bytes came than the digest promised.
    pub fn is_other_content(&self) -> bool {
        matches!(self, Error::Digest { .. } | Error::Size { .. })
    }

    /// Whether another try may help.
    fn is_passing(&self) -> bool {
        match self {
            Error::Unreachable { fault, .. } => !fault.is_hopeless(),
            Error::Status { status, .. } => transport::is_transient(*status),
            _ => false,
        }
    }
}

fn colon(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {message}") }
}

/// One repository in one registry.
#[derive(Debug)]
pub struct Registry {
    transport: Transport,
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
    /// Prepares to talk to the registry of `reference`. Nothing is sent yet, but for a loopback
    /// registry, which is asked whether it speaks TLS.
    pub async fn connect(reference: &Reference, config: &Config) -> Result<Registry, Error> {
        Ok(Registry { transport: Transport::connect(reference, config).await? })
    }

    /// Resolves a tag by `HEAD`, which registries do not count against their limits.
    pub async fn resolve(&self, tag: &str) -> Result<Digest, Error> {
        let response =
            self.transport.send(Method::HEAD, &manifest_path(tag), &[manifest_accept()]).await?;
        match content_digest(&response) {
            Some(digest) => Ok(digest),
            None => Ok(self.manifest(tag).await?.digest),
        }
    }

    /// Fetches a manifest or index by tag or by digest.
    pub async fn manifest(&self, name: &str) -> Result<Fetched, Error> {
        let mut breaks = 0;
        loop {
            let response = self
                .transport
                .send(Method::GET, &manifest_path(name), &[manifest_accept()])
                .await?;
            match self.read_manifest(name, response).await {
                // The body ended early; without a length, that shows in its digest only.
                Err(Error::Unreachable { .. } | Error::Digest { .. }) if breaks < 2 => {
                    breaks += 1;
                    transport::pause(breaks).await;
                }
                read => return read,
            }
        }
    }

    async fn read_manifest(&self, name: &str, mut response: Response) -> Result<Fetched, Error> {
        let content_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|value| value.split(';').next().unwrap_or(value).trim().to_owned());
        if content_type.as_deref() == Some("text/html") {
            let problem = "sent a web page (text/html), not a manifest";
            return Err(self.protocol(problem.to_owned()));
        }
        let promised = Digest::parse(name).ok().or_else(|| content_digest(&response));
        let mut bytes = Vec::new();
        while let Some(chunk) = self.transport.chunk(&mut response).await? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > MAX_DOCUMENT {
                return Err(self.protocol(format!("manifest is larger than {MAX_DOCUMENT} bytes")));
            }
        }
        let digest = Digest::of(&bytes);
        match promised {
            Some(expected) if expected != digest => Err(Error::Digest {
                registry: self.transport.name().to_owned(),
                what: "manifest",
                expected,
                got: digest,
            }),
            _ => Ok(Fetched { bytes, digest, content_type }),
        }
    }

    /// Fetches a small blob whole: the configuration.
    pub async fn document(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        if descriptor.size > MAX_DOCUMENT {
            return Err(self.protocol(format!("configuration is larger than {MAX_DOCUMENT} bytes")));
        }
        let mut blob = self.blob("configuration", descriptor);
        let mut bytes = Vec::new();
        while let Some(chunk) = blob.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Starts to fetch a blob; `what` names it in errors.
    pub fn blob<'a>(&'a self, what: &'static str, descriptor: &'a Descriptor) -> Blob<'a> {
        Blob {
            registry: self,
            what,
            descriptor,
            response: None,
            received: 0,
            surplus: 0,
            hasher: Hasher::new(),
            breaks: 0,
        }
    }

    fn protocol(&self, problem: String) -> Error {
        Error::Protocol { registry: self.transport.name().to_owned(), problem }
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

/// A blob on its way. Whoever reads it to its end without an error has had exactly the bytes of
/// its descriptor; before that, nothing is known about them.
#[derive(Debug)]
pub struct Blob<'a> {
    registry: &'a Registry,
    what: &'static str,
    descriptor: &'a Descriptor,
    response: Option<Response>,
    received: u64,
    /// Bytes still to come that were received before: the server does not know Range.
    surplus: u64,
    hasher: Hasher,
    breaks: u32,
}

impl Blob<'_> {
    /// Goes on after the first `received` bytes, which `hasher` has seen.
    pub fn after(mut self, received: u64, hasher: Hasher) -> Self {
        (self.received, self.hasher) = (received, hasher);
        self
    }

    /// Returns the next bytes, or `None` after the last, when size and digest are right.
    ///
    /// A broken connection is taken up again with a Range request where it broke.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        while self.received < self.descriptor.size {
            let mut response = match self.response.take() {
                Some(response) => response,
                None => self.open().await?,
            };
            match self.registry.transport.chunk(&mut response).await {
                Ok(Some(mut chunk)) => {
                    self.response = Some(response);
                    let known = self.surplus.min(chunk.len() as u64);
                    self.surplus -= known;
                    chunk.advance(known as usize);
                    if chunk.is_empty() {
                        continue;
                    }
                    self.received += chunk.len() as u64;
                    if self.received > self.descriptor.size {
                        return Err(self.wrong_size());
                    }
                    self.hasher.update(&chunk);
                    self.breaks = 0;
                    return Ok(Some(chunk));
                }
                // The body ended early, by error or by a clean close: both happen on real networks.
                end => {
                    self.breaks += 1;
                    if self.breaks > MAX_BREAKS {
                        return Err(end.err().unwrap_or_else(|| self.wrong_size()));
                    }
                    transport::pause(self.breaks).await;
                }
            }
        }
        let got = std::mem::take(&mut self.hasher).finish();
        if got == self.descriptor.digest {
            return Ok(None);
        }
        Err(Error::Digest {
            registry: self.registry.transport.name().to_owned(),
            what: self.what,
            expected: self.descriptor.digest.clone(),
            got,
        })
    }

    /// Requests what is still missing, and passes over what a server without Range sends again.
    async fn open(&mut self) -> Result<Response, Error> {
        self.surplus = 0;
        let transport = &self.registry.transport;
        let path = format!("blobs/{}", self.descriptor.digest);
        if self.received == 0 {
            return transport.send(Method::GET, &path, &[]).await;
        }
        let range =
            HeaderValue::from_str(&format!("bytes={}-", self.received)).expect("a number is ASCII");
        let response = match transport.send(Method::GET, &path, &[(RANGE, range)]).await {
            // There is nothing after what has come: the blob is shorter than it should be.
            Err(Error::Status { status: StatusCode::RANGE_NOT_SATISFIABLE, .. }) => {
                return Err(self.wrong_size());
            }
            answer => answer?,
        };
        let starts_at = match response.status() {
            StatusCode::PARTIAL_CONTENT => range_start(&response).ok_or_else(|| {
                self.registry.protocol("partial content without a valid Content-Range".to_owned())
            })?,
            _ => 0,
        };
        if starts_at > self.received {
            return Err(self.registry.protocol(format!(
                "asked for bytes from {}, got them from {starts_at}",
                self.received
            )));
        }
        self.surplus = self.received - starts_at;
        Ok(response)
    }

    fn wrong_size(&self) -> Error {
        Error::Size {
            registry: self.registry.transport.name().to_owned(),
            what: self.what,
            digest: self.descriptor.digest.clone(),
            expected: self.descriptor.size,
            got: self.received,
        }
    }
}

/// The first byte of `Content-Range: bytes FIRST-LAST/LENGTH` (RFC 9110, 14.4).
fn range_start(response: &Response) -> Option<u64> {
    let value = response.headers().get(CONTENT_RANGE)?.to_str().ok()?;
    value.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}
