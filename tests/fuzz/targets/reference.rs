//! Image names.

#![no_main]

use fuzz::{Seed, assert_printable, offer, texts};
use libfuzzer_sys::fuzz_target;
use runtime::{Digest, Reference, report::Report};
use url::{Host, Url};

fuzz_target!(init: offer(seeds(), &WORDS, take), |data: &[u8]| {
    take(data);
});

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const WORDS: [&[u8]; 14] = [
    b"docker://",
    b"docker.io/",
    b"index.docker.io/",
    b"library/",
    b"localhost",
    b"127.0.0.1:5000/",
    b"[::1]:5000/",
    b":latest",
    b"@sha256:",
    DIGEST.as_bytes(),
    b"#",
    b"/../",
    b"%2e%2e",
    b"0x7f.1",
];

fn seeds() -> Vec<Seed> {
    let mut seeds = texts(
        true,
        [
            "alpine",
            "alpine:3.20",
            "nvidia/cuda:12.4",
            "docker://ghcr.io/a/b/c:v1",
            "nvcr.io#nvidia/pytorch:24.05-py3",
            "node1#x",
            "127.0.0.1:5000/x",
            "[::1]:5000/x:1",
            "a__b/c-d.e_f",
            "index.docker.io/library/alpine",
            &format!("alpine:3@{DIGEST}"),
            &format!("registry.example.com:443/a/b@{DIGEST}"),
        ],
    );
    seeds.extend(texts(false, ["", "/x", "a/../b", "A/b", "a:b:c", "x.io:port/y", "http://x/y"]));
    seeds
}

fn take(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let name: Reference = match text.parse() {
        Ok(name) => name,
        Err(error) => {
            assert_printable(&Report::from(&error).line);
            return false;
        }
    };
    let shown = name.to_string();
    assert_eq!(shown.parse().as_ref(), Ok(&name), "{text:?} is shown as {shown:?}");
    assert!(shown.is_ascii(), "{shown:?}");
    assert!(name.tag().is_some() || name.digest().is_some(), "{shown} names nothing");
    if let Some(digest) = name.digest() {
        assert_eq!(Digest::parse(digest.as_str()).as_ref(), Ok(digest));
    }
    let pinned = name.pinned(Digest::of(b""));
    assert_eq!(pinned.to_string().parse(), Ok(pinned));
    for part in name.repository().split('/').chain(name.tag()) {
        assert!(!matches!(part, "" | "." | "..") && !part.contains('/'), "{shown}: {part:?}");
    }

    // As the client asks: what the name says is where the request goes, and nowhere else.
    let path = format!("/v2/{}/", name.repository());
    let base = Url::parse(&format!("https://{}{path}", name.registry()));
    let Ok(base) = base else {
        // Whether such a label stands for letters is known only to who knows them all.
        assert!(name.registry().to_ascii_lowercase().contains("xn--"), "{shown}: {base:?}");
        return true;
    };
    assert!(is_same_place(&base, name.registry()), "{shown} goes to {base}");
    assert_eq!(base.path(), path);
    assert!(base.username().is_empty() && base.password().is_none(), "{shown}: {base}");
    if let Some(tag) = name.tag() {
        let url = base.join(&format!("manifests/{tag}")).expect("a path");
        assert_eq!(url.path(), format!("{path}manifests/{tag}"));
        assert!(url.query().is_none() && url.fragment().is_none(), "{shown}: {url}");
    }
    true
}

/// Whether a URL leads to the host and port of a name. Of an IPv6 address there are many spellings.
fn is_same_place(url: &Url, registry: &str) -> bool {
    let port = url.port_or_known_default().expect("https has one");
    let (host, asked) = match registry.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, port.parse()),
        _ => (registry, Ok(443)),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let is_host = match (url.host(), address) {
        (Some(Host::Ipv6(host)), Some(address)) => address.parse() == Ok(host),
        (Some(Host::Ipv4(number)), None) => number.to_string() == host,
        (Some(Host::Domain(name)), None) => name.eq_ignore_ascii_case(host),
        _ => false,
    };
    is_host && asked == Ok(port)
}
