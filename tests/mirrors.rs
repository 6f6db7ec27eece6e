//! Other ways to a registry: mirrors, and forward proxies.

use std::{fs, sync::LazyLock};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fixtures::{
    Fault, Faulty, Outcome, Place, Registry, Sandbox, Setup, Tunnel,
    image::{Built, Image, Layer},
    need,
    place::assert_says,
    run,
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

fn image() -> Built {
    let noise: Vec<u8> =
        (0..1u32 << 14).flat_map(|n| n.wrapping_mul(0x9e37_79b1).to_le_bytes()).collect();
    Image::new().layer(Layer::new().file("version", 0o644, "1").file("noise", 0o644, noise)).build()
}

/// The path of the layer.
fn layer(image: &Built) -> String {
    format!("blobs/{}", image.blobs()[0].digest())
}

/// A place where a registry has these mirrors.
fn place(name: &str, registry: &Faulty, mirrors: &[&str]) -> Place {
    Place::new(&SANDBOX, name).with_config(&format!(
        "[network]\ntries = 2\nidle_timeout = 1\n[[registry]]\nhost = {:?}\nmirrors = {mirrors:?}\n",
        registry.address()
    ))
}

#[track_caller]
fn assert_arrived(place: &Place, outcome: Outcome) {
    outcome.success();
    assert_eq!(place.read("version"), "1");
    place.assert_nothing_partial();
}

#[test]
fn mirrors_are_asked_in_their_order_and_the_registry_last() {
    let image = image();
    let serve = || Faulty::serve(&image);
    let (registry, empty, busy, silent, lost) = (serve(), serve(), serve(), serve(), serve());
    let (closed, liar, good) = (serve(), serve(), serve());
    empty.fail("/v2/", 1000, Fault::status(404));
    busy.fail("/v2/x/", 1000, Fault::status(503));
    silent.fail("/v2/", 1000, Fault::Silence);
    closed.fail("/v2/", 1000, Fault::status(403));
    let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n".to_owned();
    liar.fail("GET /v2/x/manifests/", 1000, Fault::Answer(200, kind, b"{}".to_vec()));
    lost.fail(&layer(&image), 1000, Fault::status(404));
    let all = [&empty, &busy, &silent, &closed, &liar, &lost, &good].map(Faulty::address);
    let mirrors: Vec<_> =
        ["127.0.0.1:1"].into_iter().chain(all.iter().map(String::as_str)).collect();
    let place = place("order", &registry, &mirrors);
    assert_arrived(&place, place.pull(&registry.name()));
    assert!(registry.requests().is_empty(), "{:?}", registry.requests());
    assert_eq!(lost.count(&layer(&image)), 1, "what a mirror has not is asked for elsewhere");
    assert!(good.count(&layer(&image)) == 1 && good.count("manifests/") == 0);
    // One that failed is left alone; one without a tag may have what is asked for by digest.
    assert_eq!((busy.count("GET "), closed.count("GET "), liar.count("blobs/")), (0, 0, 0));
    assert!(empty.count("GET ") > 0);
}

#[test]
fn a_layer_goes_on_at_the_next_mirror_where_it_broke_at_the_last() {
    let image = image();
    let (registry, first, second) =
        (Faulty::serve(&image), Faulty::serve(&image), Faulty::serve(&image));
    first.fail(&layer(&image), 1, Fault::Cut(1000)).fail(&layer(&image), 1000, Fault::HangUp);
    second.fail(&layer(&image), 1, Fault::Cut(1000)).fail(&layer(&image), 1000, Fault::status(500));
    let place = place("resume", &registry, &[&first.address(), &second.address()]);
    assert_arrived(&place, place.pull(&registry.name()));
    let range = |registry: &Faulty| {
        let requests = registry.requests().into_iter();
        let mut ranges = requests.filter(|r| r.line.contains(&layer(&image))).map(|r| r.range);
        ranges.next().expect("it was asked")
    };
    assert_eq!(range(&second).as_deref(), Some("bytes=1000-"));
    assert_eq!(range(&registry).as_deref(), Some("bytes=2000-"));
}

#[test]
fn a_mirror_sees_no_credentials_but_its_own() {
    let image = image();
    let (registry, mirror, other) =
        (Faulty::serve(&image), Faulty::serve(&image), Faulty::serve(&image));
    for faulty in [&registry, &mirror, &other] {
        faulty.want_tokens(&format!("http://{}/token", faulty.address()), 1000);
    }
    // It takes nobody, and so all three are asked for a token.
    mirror.fail("/token", 1000, Fault::status(401));
    other.fail("/token", 1000, Fault::status(401));
    let basic = |user: &str| BASE64_STANDARD.encode(format!("{user}:secret"));
    let auths = serde_json::json!({"auths": {
        registry.address(): {"auth": basic("alice")}, other.address(): {"auth": basic("bob")},
    }});
    let login = SANDBOX.write("mirror-auth.json", auths.to_string());
    let place = place("credentials", &registry, &[&mirror.address(), &other.address()]);
    let mut command = place.command("shifter", &["pull", &registry.name()]);
    command.env("REGISTRY_AUTH_FILE", login);
    assert_arrived(&place, run(command));
    let shown = |faulty: &Faulty| -> Vec<_> {
        let requests = faulty.requests().into_iter().filter(|r| r.line.contains("/token"));
        requests.map(|request| request.authorization).collect()
    };
    assert_eq!(shown(&mirror), [None]);
    assert_eq!(shown(&other), [Some(format!("Basic {}", basic("bob")))]);
    assert_eq!(shown(&registry), [Some(format!("Basic {}", basic("alice")))]);
}

#[test]
fn a_mirror_may_keep_its_copies_below_a_name() {
    let (registry, mirror) = (Faulty::serve(&image()), Faulty::serve(&image()));
    let place = place("prefix", &registry, &[&format!("http://{}/hub/cache/", mirror.address())]);
    assert_arrived(&place, place.pull(&registry.name()));
    let requests = mirror.requests();
    let below = |line: &str| line.contains(" /v2/hub/cache/x/");
    assert!(!requests.is_empty() && requests.iter().all(|r| below(&r.line)), "{requests:?}");
    assert!(registry.requests().is_empty());
}

#[test]
fn where_nobody_has_it_all_that_were_asked_are_named() {
    let (registry, mirror) = (Faulty::serve(&image()), Faulty::serve(&image()));
    registry.fail("/v2/x/", 1000, Fault::HangUp);
    mirror.fail("/v2/x/", 1000, Fault::status(404));
    let place = place("nobody", &registry, &[&mirror.address(), "http://127.0.0.1:1"]);
    let stderr = place.pull(&registry.name()).failure(125);
    let of_mirror = format!("after mirror {} answered 404 Not Found", mirror.address());
    let parts = [
        "cannot reach registry",
        &registry.address(),
        &of_mirror,
        "127.0.0.1:1: connection refused",
    ];
    assert_says(&stderr, &parts);
    place.assert_clean();
}

#[test]
fn settings_of_a_mirror_are_checked() {
    let registry = Faulty::serve(&image());
    for odd in ["ftp://m.example.com", "https://user:secret@m.example.com", "m.example.com/UPPER"] {
        let place = place("settings", &registry, &[odd]);
        let stderr = place.pull(&registry.name()).failure(125);
        assert_says(&stderr, &["read configuration", "mirror", odd, "; correct it"]);
    }
}

/// A registry that has no address, but in the mind of a proxy.
const NOWHERE: &str = "registry.invalid";

fn pull_by(place: &Place, name: &str, variables: &[(&str, &str)]) -> Outcome {
    let mut command = place.command("shifter", &["pull", name]);
    command.envs(variables.iter().copied());
    run(command)
}

fn plain(name: &str) -> Place {
    let settings =
        format!("[network]\ntries = 2\n[[registry]]\nhost = {NOWHERE:?}\nplain_http = true\n");
    Place::new(&SANDBOX, name).with_config(&settings)
}

#[test]
fn a_plain_registry_is_reached_by_the_proxy_of_the_environment() {
    let name = format!("{NOWHERE}/x:1");
    for variable in ["http_proxy", "HTTP_PROXY"] {
        let (place, proxy) = (plain(variable), Faulty::serve(&image()));
        let url = format!("http://alice:secret@{}", proxy.address());
        assert_arrived(&place, pull_by(&place, &name, &[(variable, &url)]));
        let basic = format!("Basic {}", BASE64_STANDARD.encode("alice:secret"));
        for request in proxy.requests() {
            assert!(request.line.contains(" http://registry.invalid/v2/x/"), "{request:?}");
            assert_eq!(request.proxy_authorization.as_ref(), Some(&basic));
            assert_eq!(request.authorization, None);
        }
    }
    // A registry on this machine, and one that the site excepts, are not the proxy's business.
    let registry = Faulty::serve(&image());
    let place = place("direct", &registry, &[]);
    let dead = ("http_proxy", "http://127.0.0.1:1");
    assert_arrived(&place, pull_by(&place, &registry.name(), &[dead]));
    for variable in ["NO_PROXY", "no_proxy"] {
        let place = plain(&format!("except-{variable}"));
        let stderr = pull_by(&place, &name, &[dead, (variable, ".invalid")]).failure(125);
        assert_says(&stderr, &["cannot reach registry registry.invalid", "host registry.invalid"]);
        assert!(!stderr.contains("127.0.0.1"), "{stderr}");
    }
}

#[test]
fn a_proxy_that_fails_is_named_and_its_password_is_not() {
    let name = format!("{NOWHERE}/x:1");
    let proxy = Faulty::serve(&image());
    proxy.fail("GET ", 1000, Fault::status(407)).fail("HEAD ", 1000, Fault::status(407));
    let address = proxy.address();
    let dead = "http://alice:secret@127.0.0.1:1".to_owned();
    let live = format!("http://alice:secret@{address}");
    let refused = "proxy 127.0.0.1:1: connection refused; check".to_owned();
    let nobody = "http://alice:secret@no-such-proxy.invalid:3128".to_owned();
    for (at, (place, variable, url, cause)) in [
        (plain("proxy-dead"), "http_proxy", &dead, refused.as_str()),
        (Place::new(&SANDBOX, "proxy-dead-tls"), "https_proxy", &dead, &refused),
        (plain("proxy-nowhere"), "http_proxy", &nobody, "host no-such-proxy.invalid"),
        (plain("proxy-407"), "http_proxy", &live, &format!("or proxy {address}, answered 407")),
    ]
    .into_iter()
    .enumerate()
    {
        let stderr = pull_by(&place, &name, &[(variable, url)]).failure(125);
        assert_says(&stderr, &["registry registry.invalid", cause, "proxy settings"]);
        assert!(!stderr.contains("secret"), "{at}: {stderr}");
        place.assert_clean();
    }
    for (status, cause) in
        [(407, "it wants a password"), (502, "would not connect to the registry")]
    {
        let proxy = Faulty::serve(&image());
        proxy.fail("CONNECT registry.invalid:443", 1000, Fault::status(status));
        let place = Place::new(&SANDBOX, &format!("connect-{status}"));
        let place = place.with_config("[network]\ntries = 2\n");
        let url = format!("http://alice:secret@{}", proxy.address());
        let stderr = pull_by(&place, &name, &[("https_proxy", &url)]).failure(125);
        let by = format!("proxy {}: ", proxy.address());
        assert_says(&stderr, &["cannot reach registry registry.invalid: ", &by, cause]);
        assert!(!stderr.contains("secret"), "{stderr}");
        place.assert_clean();
    }
}

#[test]
fn a_registry_with_tls_is_reached_through_the_proxy() {
    need!(root, registry, openssl);
    let secure = Registry::start_with(&SANDBOX, Setup { tls: true, ..Setup::default() });
    secure.push("x:1", &image());
    let tunnel = Tunnel::to(&secure.tls_address());
    let url = format!("http://alice:secret@{}", tunnel.address());
    let ca_file = secure.ca_file();
    for variable in ["https_proxy", "HTTPS_PROXY"] {
        let place = Place::new(&SANDBOX, variable)
            .with_config(&format!("[[registry]]\nhost = {NOWHERE:?}\nca_file = {ca_file:?}\n"));
        let outcome = pull_by(&place, &format!("{NOWHERE}/x:1"), &[(variable, &url)]);
        assert_arrived(&place, outcome);
    }
    let basic = BASE64_STANDARD.encode("alice:secret");
    for head in tunnel.heads() {
        let head = head.to_lowercase();
        assert!(head.starts_with("connect registry.invalid:443 http/1.1"), "{head}");
        assert!(head.contains(&format!("proxy-authorization: basic {}", basic.to_lowercase())));
    }
    assert!(fs::exists(ca_file).expect("it can be looked at"));
}

#[test]
fn a_registry_behind_the_proxy_that_speaks_no_tls_is_said_to() {
    let registry = Faulty::serve(&image());
    let tunnel = Tunnel::to(&registry.address());
    let place = Place::new(&SANDBOX, "no-tls");
    let url = format!("http://{}", tunnel.address());
    let stderr = pull_by(&place, &format!("{NOWHERE}/x:1"), &[("https_proxy", &url)]).failure(125);
    let hint = "say plain_http = true in the [[registry]] registry.invalid of shifter.toml";
    assert_says(&stderr, &["cannot reach registry registry.invalid: it does not speak TLS", hint]);
    assert!(!stderr.contains("gave up"), "no other try can help: {stderr}");
}
