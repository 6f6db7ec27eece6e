//! What happens on the way to a registry, in words.

use std::{error::Error, fmt};

use hyper_util::client::proxy::matcher::Matcher;
use reqwest::Url;

use super::client::{authority, is_loopback};
use crate::report::printable;

/// What happened on the way to a registry.
#[derive(Debug)]
pub struct Fault {
    kind: Kind,
    text: String,
}

/// What can be done about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// It may pass.
    Passing,
    /// No host has this name.
    NoHost,
    /// The certificate's issuer is not known here.
    UnknownAuthority,
    /// The other end does not speak TLS.
    NotTls,
    /// The registry wants to be shown a certificate, or another one.
    ClientCertificate,
    /// The proxy does not exist, or wants another password.
    ProxySettings,
    /// Anything else that stays as it is: other certificate trouble.
    Final,
}

impl Fault {
    /// Nothing came for longer than one waits.
    pub(super) fn silence() -> Fault {
        Fault { kind: Kind::Passing, text: "no answer in time".to_owned() }
    }

    /// Bytes came at less than so many a second.
    pub(super) fn slow(rate: u64) -> Fault {
        Fault { kind: Kind::Passing, text: format!("slower than {rate} bytes a second") }
    }

    /// Names another host as the place of the fault.
    pub(super) fn at(self, server: &str) -> Fault {
        Fault { text: format!("{server}, to which it redirects: {}", self.text), ..self }
    }

    /// What can be done about it.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Whether another try would change nothing.
    pub(super) fn is_final(&self) -> bool {
        self.kind != Kind::Passing
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<reqwest::Error> for Fault {
    fn from(error: reqwest::Error) -> Fault {
        let texts: Vec<_> = causes(&error).map(ToString::to_string).collect();
        let is_lookup = texts.iter().any(|text| text == "dns error");
        let own = error.to_string();
        // The innermost cause is the one that says something.
        let text = texts.last().unwrap_or(&own);
        let text = text.split(" (os error").next().unwrap_or(text);
        let (mut kind, mut words) = describe(text);
        if error.is_timeout() {
            words = "no answer in time".to_owned();
        } else if error.is_builder() {
            kind = Kind::Final;
        }
        let proxy = error.url().and_then(proxy_of);
        if is_lookup {
            let url = error.url().map(authority).unwrap_or_default();
            (kind, words) = lookup(text, host_of(proxy.as_ref().unwrap_or(&url)));
        }
        if let Some(proxy) = proxy {
            let is_tunnel = texts.iter().any(|text| text.starts_with("tunnel error"));
            let is_plain = error.url().is_some_and(|url| url.scheme() == "http");
            words = match kind {
                _ if is_tunnel || is_plain => {
                    format!("proxy {proxy}: {words}")
                }
                // Which of the two it was cannot be told.
                Kind::Passing => format!("{words} (by proxy {proxy})"),
                _ => words,
            };
            if kind == Kind::NoHost {
                kind = Kind::ProxySettings;
            }
        }
        Fault { kind, text: printable(&words) }
    }
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn Error + 'static)> {
    let mut next = error.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// rustls and hyper name their own types.
fn describe(text: &str) -> (Kind, String) {
    let known = [
        (
            "CaUsedAsEndEntity",
            Kind::UnknownAuthority,
            "its certificate is an authority's (CA:TRUE), not a server's",
        ),
        ("UnknownIssuer", Kind::UnknownAuthority, "its certificate is of an unknown authority"),
        // An authority of that name is known, but it is another one.
        ("BadSignature", Kind::UnknownAuthority, "its certificate is of an unknown authority"),
        ("certificate expired", Kind::Final, "its certificate has expired"),
        ("certificate: Expired", Kind::Final, "its certificate has expired"),
        ("certificate not valid yet", Kind::Final, "its certificate is not valid yet"),
        ("certificate: NotValidYet", Kind::Final, "its certificate is not valid yet"),
        ("NotValidForName", Kind::Final, "its certificate is not for the name that was asked for"),
        ("InvalidContentType", Kind::NotTls, "it does not speak TLS"),
        ("alert: CertificateRequired", Kind::ClientCertificate, "it wants a client certificate"),
        // What Go's servers say for want of one, too.
        (
            "alert: BadCertificate",
            Kind::ClientCertificate,
            "it wants a client certificate, or another one",
        ),
        ("proxy authorization required", Kind::ProxySettings, "it wants a password"),
        ("tunnel error: unsuccessful", Kind::Passing, "it would not connect to the registry"),
        ("connection closed before message completed", Kind::Passing, "it hung up"),
        ("end of file before message length reached", Kind::Passing, "it hung up"),
        ("handshake eof", Kind::Passing, "it hung up"),
    ];
    if let Some((_, kind, words)) = known.iter().find(|(part, ..)| text.contains(part)) {
        return (*kind, (*words).to_owned());
    }
    if let Some((_, name)) = text.split_once("certificate not valid for name") {
        let name = name.split(';').next().unwrap_or(name);
        return (Kind::Final, format!("its certificate is not for the name{name}"));
    }
    let is_final = text.contains("certificate") || text.contains("fatal alert");
    (if is_final { Kind::Final } else { Kind::Passing }, text.to_lowercase())
}

/// The resolver's words (getaddrinfo(3)).
fn lookup(text: &str, host: &str) -> (Kind, String) {
    let reason = text.rsplit(": ").next().unwrap_or(text).to_lowercase();
    match reason.as_str() {
        "name or service not known" | "no address associated with hostname" => {
            (Kind::NoHost, format!("there is no host {host}"))
        }
        reason => (Kind::Passing, format!("cannot look up host {host}: {reason}")),
    }
}

/// The proxy on the way to a URL, without its password. reqwest asks the same code.
pub(super) fn proxy_of(url: &Url) -> Option<String> {
    if is_loopback(&authority(url)) {
        return None;
    }
    let proxy = Matcher::from_system().intercept(&url.as_str().parse().ok()?)?;
    Some(authority(&Url::parse(&proxy.uri().to_string()).ok()?))
}

/// The host of `HOST:PORT`.
fn host_of(authority: &str) -> &str {
    authority.split_once(':').map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_words_become_plain_ones() {
        for (text, kind, words) in [
            (
                "invalid peer certificate: UnknownIssuer",
                Kind::UnknownAuthority,
                "unknown authority",
            ),
            (
                "invalid peer certificate: certificate expired: verification time 2 (UNIX), but …",
                Kind::Final,
                "its certificate has expired",
            ),
            (
                "invalid peer certificate: certificate not valid for name \"a\"; certificate is …",
                Kind::Final,
                "its certificate is not for the name \"a\"",
            ),
            ("received corrupt message of type InvalidContentType", Kind::NotTls, "not speak TLS"),
            ("Connection refused", Kind::Passing, "connection refused"),
            ("invalid peer certificate: BadEncoding", Kind::Final, "badencoding"),
        ] {
            let (got, said) = describe(text);
            assert_eq!(got, kind, "{text}");
            assert!(said.contains(words), "{said}");
        }
        let unknown = "failed to lookup address information: Name or service not known";
        assert_eq!(
            lookup(unknown, "r.invalid"),
            (Kind::NoHost, "there is no host r.invalid".into())
        );
        let busy = "failed to lookup address information: Temporary failure in name resolution";
        assert_eq!(lookup(busy, "r").0, Kind::Passing);
    }
}
