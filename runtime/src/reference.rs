//! Image names, as users type them.
//!
//! Docker's rules (distribution/reference): the first component is a registry if it holds a `.` or
//! a `:` or is `localhost`; else the registry is Docker Hub, where a single component lives in
//! `library/`. Also taken: a `docker://` prefix, and enroot's `REGISTRY#REPOSITORY`.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use crate::digest::Digest;

/// The registry of names that do not say one.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// Longest name, in bytes, without its digest.
const MAX_NAME: usize = 512;

/// A registry, a repository in it, and a tag or a digest.
///
/// ```
/// use runtime::Reference;
/// let reference: Reference = "nvidia/cuda:12.4".parse().unwrap();
/// assert_eq!(reference.to_string(), "docker.io/nvidia/cuda:12.4");
/// let reference: Reference = "docker://ubuntu".parse().unwrap();
/// assert_eq!(reference.to_string(), "docker.io/library/ubuntu:latest");
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a name is not an image reference.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("image reference {text:?}: {problem}")]
pub struct ParseError {
    text: String,
    problem: Problem,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
enum Problem {
    #[error("empty")]
    Empty,
    #[error("longer than {MAX_NAME} bytes")]
    TooLong,
    #[error("a path is not an image name; name an image in a registry")]
    Path,
    #[error("scheme {0:?} is not supported; only docker://")]
    Scheme(String),
    #[error("registry {0:?} is not HOST or HOST:PORT")]
    Registry(String),
    #[error("repository is empty")]
    NoRepository,
    #[error("repository must be lower-case (position {0})")]
    UpperCase(usize),
    #[error("repository {0:?} has a bad component; components are a-z 0-9 joined by . _ __ or -")]
    Component(String),
    #[error("tag {0:?} is not 1 to 128 of A-Z a-z 0-9 _ . -")]
    Tag(String),
    #[error("{0}")]
    Digest(#[from] crate::digest::ParseError),
}

impl Reference {
    /// The registry's host, with its port if the name gave one: `docker.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository in the registry: `library/ubuntu`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, unless the name has a digest only.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The same repository's image of this digest.
    pub fn pinned(&self, digest: Digest) -> Reference {
        Reference { digest: Some(digest), ..self.clone() }
    }

    /// The digest, if the name pins one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }
}

impl FromStr for Reference {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Reference, ParseError> {
        parse(text).map_err(|problem| ParseError { text: text.to_owned(), problem })
    }
}

/// The full canonical name, with a tag or digest always present.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A host's bare name before a slash would be read as a part of the repository.
        let joint = if is_registry(&self.registry) { '/' } else { '#' };
        write!(f, "{}{joint}{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Result<Reference, Problem> {
    let name = match text.split_once("://") {
        Some(("docker", rest)) => rest,
        Some((scheme, _)) => return Err(Problem::Scheme(scheme.to_owned())),
        None => text,
    };
    if name.is_empty() {
        return Err(Problem::Empty);
    }
    if name.starts_with(['/', '.', '~']) {
        return Err(Problem::Path);
    }
    let (name, digest) = match name.split_once('@') {
        Some((name, digest)) => (name, Some(Digest::parse(digest)?)),
        None => (name, None),
    };
    if name.len() > MAX_NAME {
        return Err(Problem::TooLong);
    }
    let (registry, rest) = split_registry(name)?;
    let (repository, tag) = match rest.rsplit_once(':') {
        Some((repository, tag)) => (repository, Some(check_tag(tag)?.to_owned())),
        None => (rest, None),
    };
    check_repository(repository)?;
    let repository = match registry {
        DEFAULT_REGISTRY if !repository.contains('/') => format!("library/{repository}"),
        _ => repository.to_owned(),
    };
    let tag = tag.or_else(|| digest.is_none().then(|| "latest".to_owned()));
    // With what was added to it, too, a name has to be one that can be read again.
    let length =
        registry.len() + 1 + repository.len() + tag.as_ref().map_or(0, |tag| 1 + tag.len());
    if length > MAX_NAME {
        return Err(Problem::TooLong);
    }
    Ok(Reference { registry: registry.to_owned(), repository, tag, digest })
}

fn split_registry(name: &str) -> Result<(&str, &str), Problem> {
    let (registry, rest) = if let Some((registry, rest)) = name.split_once('#') {
        (registry, rest)
    } else {
        match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => (DEFAULT_REGISTRY, name),
        }
    };
    match registry {
        // All three are Docker Hub; one spelling keeps one image one image.
        "index.docker.io" | "registry-1.docker.io" => Ok((DEFAULT_REGISTRY, rest)),
        _ => Ok((check_registry(registry)?, rest)),
    }
}

/// Whether what stands before the first slash is a registry.
fn is_registry(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost"
}

/// Takes what a URL takes for the same host and port. A last label that is a number makes an address
/// of a host there: `0x7f.1` is 127.0.0.1 (WHATWG URL, "host parsing").
fn check_registry(registry: &str) -> Result<&str, Problem> {
    let bad = || Problem::Registry(registry.to_owned());
    let (host, port) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (registry, None),
    };
    let is_port = |port: &str| port.parse::<u16>().is_ok_and(|number| number.to_string() == port);
    if !port.is_none_or(is_port) {
        return Err(bad());
    }
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().map(|_| registry).map_err(|_| bad());
    }
    let is_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    let last = host.rsplit('.').next().unwrap_or(host);
    let is_number = last.bytes().all(|b| b.is_ascii_digit())
        || last
            .strip_prefix("0x")
            .or(last.strip_prefix("0X"))
            .is_some_and(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    let is_host = match is_number {
        true => host.parse::<Ipv4Addr>().is_ok(),
        false => host.split('.').all(is_label),
    };
    if is_host { Ok(registry) } else { Err(bad()) }
}

fn check_repository(repository: &str) -> Result<(), Problem> {
    if repository.is_empty() {
        return Err(Problem::NoRepository);
    }
    if let Some(position) = repository.find(|c: char| c.is_ascii_uppercase()) {
        return Err(Problem::UpperCase(position));
    }
    match repository.split('/').find(|component| !is_component(component)) {
        Some(component) => Err(Problem::Component(component.to_owned())),
        None => Ok(()),
    }
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*` (distribution specification, "Pulling manifests").
fn is_component(component: &str) -> bool {
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().is_some_and(alnum) && bytes.last().is_some_and(alnum);
    ends && bytes
        .split(alnum)
        .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

fn check_tag(tag: &str) -> Result<&str, Problem> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let ok = (1..=128).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if ok { Ok(tag) } else { Err(Problem::Tag(tag.to_owned())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_become_canonical() {
        for (typed, canonical) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("alpine:3.20", "docker.io/library/alpine:3.20"),
            ("nvidia/cuda:12.4", "docker.io/nvidia/cuda:12.4"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest"),
            ("docker://ghcr.io/a/b/c:v1", "ghcr.io/a/b/c:v1"),
            ("nvcr.io#nvidia/pytorch:24.05-py3", "nvcr.io/nvidia/pytorch:24.05-py3"),
            ("node1#x", "node1#x:latest"),
            ("127.0.0.1:5000/x", "127.0.0.1:5000/x:latest"),
            ("localhost/x", "localhost/x:latest"),
            ("[::1]:5000/x:1", "[::1]:5000/x:1"),
            ("a__b/c-d.e_f", "docker.io/a__b/c-d.e_f:latest"),
        ] {
            let parsed: Result<Reference, _> = typed.parse();
            assert_eq!(parsed.map(|r| r.to_string()).as_deref(), Ok(canonical), "{typed}");
            let again: Result<Reference, _> = canonical.parse();
            assert_eq!(again.map(|r| r.to_string()).as_deref(), Ok(canonical), "{canonical}");
        }
    }

    #[test]
    fn a_digest_stands_for_itself() {
        let pinned: Reference = format!("alpine@{D}").parse().expect("pinned");
        assert_eq!((pinned.tag(), pinned.digest().map(Digest::as_str)), (None, Some(D)));
        let both: Reference = format!("alpine:3@{D}").parse().expect("both");
        assert_eq!(both.to_string(), format!("docker.io/library/alpine:3@{D}"));
    }

    #[test]
    fn the_longest_name_can_be_read_again() {
        let pinned = format!("{}@{D}", "a/".repeat(250) + "b");
        let parsed: Reference = pinned.parse().expect("not too long");
        assert_eq!(parsed.to_string().parse(), Ok(parsed));
        let error = "a/".repeat(250).parse::<Reference>().expect_err("bad component");
        assert!(!error.to_string().contains("longer"), "{error}");
        for name in ["a/".repeat(250) + "b", "a".repeat(513)] {
            let error = name.parse::<Reference>().expect_err("too long");
            assert!(error.to_string().contains("longer than 512 bytes"), "{error}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (typed, problem) in [
            ("", "empty"),
            ("Nvidia/cuda", "repository must be lower-case (position 0)"),
            ("a:b:c", "bad component"),
            ("alpine:", "tag \"\""),
            ("alpine:-x", "tag \"-x\""),
            ("a//b", "bad component"),
            ("a/../b", "bad component"),
            ("a b", "bad component"),
            ("./x.sqsh", "a path is not an image name"),
            ("/opt/bundle", "a path is not an image name"),
            ("http://x/y", "scheme \"http\""),
            ("x.io:port/y", "not HOST or HOST:PORT"),
            ("x.io:+80/y", "not HOST or HOST:PORT"),
            ("x.io:080/y", "not HOST or HOST:PORT"),
            ("0x7f.1/y", "not HOST or HOST:PORT"),
            ("127.1/y", "not HOST or HOST:PORT"),
            ("a.1.2.3.4:5000/y", "not HOST or HOST:PORT"),
            ("[::1]x/y", "not HOST or HOST:PORT"),
            ("alpine@sha256:12", "64 lower-case hexadecimal digits"),
            ("a\nb", "bad component"),
        ] {
            let error = typed.parse::<Reference>().expect_err(typed).to_string();
            assert!(error.contains(problem), "{typed}: {error}");
        }
    }
}
