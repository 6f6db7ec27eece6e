//! HTTP clients: whom they trust, and who they say they are. They follow no redirects by themselves.

use std::{fmt, fs, net::IpAddr, path::Path, time::Duration};

use reqwest::{
    Certificate, Client, ClientBuilder, Identity, Url,
    header::{ACCEPT_ENCODING, HeaderMap, HeaderValue},
    redirect,
};

use super::{Error, fault::Fault};
use crate::config;

/// Speaks http only, and so has no use for the system's certificates: reading them takes longer
/// than asking a registry on this machine for a digest.
pub(super) fn plain(registry: &str, connect: Duration) -> Result<Client, Error> {
    build(registry, client(registry, connect).tls_certs_only([]))
}

/// Speaks TLS, as the site's file says.
pub(super) fn tls(
    registry: &str,
    connect: Duration,
    settings: Option<&config::Registry>,
) -> Result<Client, Error> {
    let mut builder = client(registry, connect);
    let problem = |key: &str, path: &Path, error: &dyn fmt::Display| Error::Protocol {
        registry: registry.to_owned(),
        problem: format!("{key} {}: {error}", path.display()),
    };
    let read = |key, path: &Path| fs::read(path).map_err(|e| problem(key, path, &e));
    if let Some(path) = settings.and_then(|settings| settings.ca_file.as_deref()) {
        let certificates = Certificate::from_pem_bundle(&read("ca_file", path)?)
            .map_err(|e| problem("ca_file", path, &e))?;
        builder = builder.tls_certs_merge(certificates);
    }
    let identity = settings.and_then(|settings| settings.identity());
    if let Some((certificate, key)) = identity {
        let pem = [read("client_cert", certificate)?, read("client_key", key)?].join(&b'\n');
        let identity = Identity::from_pem(&pem)
            .map_err(|_| problem("client_cert", certificate, &"no certificate and key in PEM"))?;
        builder = builder.identity(identity);
    }
    build(registry, builder)
}

fn client(registry: &str, connect: Duration) -> ClientBuilder {
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let builder = Client::builder()
        .user_agent(concat!("shifter/", env!("CARGO_PKG_VERSION")))
        .default_headers(headers)
        .http1_only()
        .redirect(redirect::Policy::none())
        .connect_timeout(connect);
    if is_loopback(registry) { builder.no_proxy() } else { builder }
}

fn build(registry: &str, builder: ClientBuilder) -> Result<Client, Error> {
    builder.build().map_err(|error| Error::Protocol {
        registry: registry.to_owned(),
        problem: Fault::from(error).to_string(),
    })
}

/// As in docker, a registry on this machine may speak plain http without being configured.
pub(super) fn is_loopback(registry: &str) -> bool {
    let host = match registry.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|b| b.is_ascii_digit()) => host,
        _ => registry,
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Host and port, as in image names.
pub(super) fn authority(url: &Url) -> String {
    let host = url.host_str().unwrap_or_default();
    url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}"))
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
}
