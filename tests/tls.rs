//! Registries that speak TLS: whom Shifter trusts, as whom it shows itself, and what it says of those
//! that it does not trust.

use std::{
    io::{Read as _, Write as _},
    net::TcpListener,
    sync::LazyLock,
    thread,
};

use fixtures::{
    Flaw, Place, Registry, Sandbox, Setup,
    image::{Built, Image, Layer},
    need,
    place::assert_says,
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

fn image() -> Built {
    Image::new().layer(Layer::new().file("version", 0o644, "1")).build()
}

/// A place whose site says this of the registry, besides its authority.
fn place(name: &str, registry: &Registry, more: &str) -> Place {
    let (host, ca_file) = (registry.tls_address(), registry.ca_file());
    let settings = format!("[[registry]]\nhost = {host:?}\nca_file = {ca_file:?}\n{more}");
    Place::new(&SANDBOX, name).with_config(&settings)
}

fn serve(setup: Setup) -> (Registry, String) {
    let registry = Registry::start_with(&SANDBOX, Setup { tls: true, ..setup });
    registry.push("x:1", &image());
    let name = format!("{}/x:1", registry.tls_address());
    (registry, name)
}

#[test]
fn what_is_wrong_with_a_certificate_is_said() {
    need!(root, registry, openssl);
    for (flaw, cause) in [
        (Flaw::Expired, "its certificate has expired"),
        (Flaw::OtherName, "its certificate is not for the name"),
    ] {
        let (registry, name) = serve(Setup { flaw, ..Setup::default() });
        let place = place(&format!("flaw-{flaw:?}"), &registry, "");
        let stderr = place.pull(&name).failure(125);
        assert_says(&stderr, &["cannot reach registry", &registry.tls_address(), cause]);
        // Neither would another try help, nor another authority.
        assert!(!stderr.contains("gave up") && !stderr.contains("private CA"), "{stderr}");
        place.assert_clean();
    }
    let (registry, name) = serve(Setup::default());
    let stderr = Place::new(&SANDBOX, "unknown").pull(&name).failure(125);
    let host = registry.tls_address();
    let hint = format!("private CA, name its ca_file in the [[registry]] {host} of shifter.toml");
    assert_says(&stderr, &["its certificate is of an unknown authority", &hint]);
    let known = place("known", &registry, "");
    known.pull(&name).success();
    assert_eq!(known.read("version"), "1");
}

#[test]
fn a_registry_may_want_a_certificate_too() {
    need!(root, registry, openssl);
    let (registry, name) = serve(Setup { client_certificates: true, ..Setup::default() });
    let without = place("anonymous", &registry, "");
    let stderr = without.pull(&name).failure(125);
    assert_says(&stderr, &["cannot reach registry", "it wants a client certificate"]);
    without.assert_clean();

    let (cert, key) = (registry.client_cert(), registry.client_key());
    let shown = format!("client_cert = {cert:?}\nclient_key = {key:?}\n");
    let with = place("identified", &registry, &shown);
    with.pull(&name).success();
    assert_eq!(with.read("version"), "1");

    for (label, more, problem) in [
        ("half", format!("client_cert = {cert:?}\n"), "client_cert and client_key go together"),
        (
            "absent",
            "client_cert = \"/no/cert\"\nclient_key = \"/no/key\"\n".into(),
            "client_cert /no/cert: ",
        ),
        (
            "twice",
            format!("client_cert = {cert:?}\nclient_key = {cert:?}\n"),
            "no certificate and key",
        ),
    ] {
        let stderr = place(label, &registry, &more).pull(&name).failure(125);
        assert_says(&stderr, &[problem]);
    }
}

/// HTTP/2's GOAWAY and its like cannot happen to who does not offer it (RFC 7301).
#[test]
fn only_http_1_is_offered() {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a loopback port is free");
    let address = listener.local_addr().expect("it is bound");
    let server = thread::spawn(move || {
        loop {
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut hello = vec![0; 4096];
            let length = stream.read(&mut hello).expect("a request");
            if hello[0] == 0x16 {
                hello.truncate(length);
                return hello;
            }
            // As servers that speak TLS answer a plain request.
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let place = Place::new(&SANDBOX, "alpn").with_config("[network]\ntries = 1\n");
    place.pull(&format!("{address}/x")).failure(125);
    let hello = server.join().expect("no panic");
    let offers = |protocol: &[u8]| hello.windows(protocol.len()).any(|window| window == protocol);
    assert!(offers(b"\x08http/1.1"), "http/1.1 is not offered");
    assert!(!offers(b"\x02h2"), "h2 is offered");
}
