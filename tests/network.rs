//! The registry client on a network that breaks: what is tried again, what is waited for, when it is
//! given up, and what is said then.

use std::{
    sync::{Arc, LazyLock, Mutex},
    time::{Duration, SystemTime},
};

use fixtures::{
    Fault, Faulty, Place, Sandbox, eventually,
    image::{Built, Image, Layer},
    place::assert_says,
    sample::{assert_arrived, big, image},
};
use runtime::{
    Config, Digest, Reference,
    oci::Descriptor,
    registry::{Error, Registry},
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

/// Little patience: the same in seconds instead of minutes.
const HASTY: &str = "[network]\ntries = 3\ngive_up_after = 6\nidle_timeout = 1\nmax_retry_after = 5\n\
                     min_rate_window = 2\n";

fn hasty(name: &str) -> Place {
    Place::new(&SANDBOX, name).with_config(HASTY)
}

/// The ranges that were asked for of the big layer.
fn ranges(registry: &Faulty, image: &Built) -> Vec<Option<String>> {
    let requests = registry.requests().into_iter();
    requests.filter(|r| r.line.contains(&big(image))).map(|request| request.range).collect()
}

#[test]
fn a_reset_connection_is_taken_up_again() {
    for (name, part, fault) in [
        ("resolve", "HEAD /v2/x/manifests", Fault::Reset(None)),
        ("manifest", "GET /v2/x/manifests", Fault::Reset(Some(10))),
        ("blob", "blobs/", Fault::Reset(None)),
        ("body", "blobs/", Fault::Reset(Some(1000))),
    ] {
        let place = hasty(&format!("reset-{name}"));
        let registry = Faulty::serve(&image());
        registry.fail(part, 2, fault);
        assert_arrived(&place, place.pull(&registry.name()));
    }
}

#[test]
fn a_body_that_is_reset_goes_on_where_it_broke() {
    let (place, image) = (hasty("resume"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Reset(Some(1000)));
    assert_arrived(&place, place.pull(&registry.name()));
    assert_eq!(ranges(&registry, &image), [None, Some("bytes=1000-".to_owned())]);
}

#[test]
fn silence_is_waited_for_only_so_long() {
    for (name, part, fault) in [
        ("probe", "HEAD /v2/x/", Fault::Silence),
        ("head", "HEAD /v2/x/manifests", Fault::Silence),
        ("body", "blobs/", Fault::Stall(1000)),
    ] {
        let place = hasty(&format!("silence-{name}"));
        let registry = Faulty::serve(&image());
        registry.fail(part, 1, fault);
        assert_arrived(&place, place.pull(&registry.name()));
    }
}

#[test]
fn a_registry_that_stays_silent_is_given_up_in_time() {
    for (name, part) in [("all", "/v2/"), ("layers", "blobs/")] {
        let place = Place::new(&SANDBOX, &format!("silent-{name}"));
        let place =
            place.with_config("[network]\ngive_up_after = 4\nidle_timeout = 2\ntries = 1000\n");
        let registry = Faulty::serve(&image());
        registry.fail(part, 1000, Fault::Silence);
        let outcome = place.pull(&registry.name());
        // One patience for all: the probe is not counted apart, nor is each try.
        assert!(outcome.wall < Duration::from_secs(30), "it was waited for too long: {outcome}");
        let stderr = outcome.failure(125);
        let address = registry.address();
        assert_says(
            &stderr,
            &["cannot reach registry", &address, "gave up after", "no answer in time"],
        );
        place.assert_clean();
    }
}

#[test]
fn a_layer_that_only_trickles_is_taken_up_anew_or_given_up() {
    let (place, image) = (hasty("slow-once"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Slow(10));
    assert_arrived(&place, place.pull(&registry.name()));
    let ranges = ranges(&registry, &image);
    assert!(matches!(ranges.as_slice(), [None, Some(_)]), "{ranges:?}");

    let place = hasty("slow");
    registry.fail(&big(&image), 100, Fault::Slow(10));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["gave up after", "slower than 1000 bytes a second"]);
    place.assert_clean();
}

#[test]
fn a_site_may_take_any_rate() {
    let place = Place::new(&SANDBOX, "any-rate")
        .with_config("[network]\nmin_rate = 0\nmin_rate_window = 1\ntries = 1\n");
    let image = Image::new().layer(Layer::new().file("f", 0o644, "x")).build();
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Slow(4));
    place.pull(&registry.name()).success();
    assert_eq!(place.read("f"), "x");
}

#[test]
fn what_was_tried_in_vain_is_said_in_one_line() {
    let (place, registry) = (hasty("history"), Faulty::serve(&image()));
    registry.fail("HEAD /v2/x/manifests", 1, Fault::HangUp);
    registry.fail("HEAD /v2/x/manifests", 100, Fault::status(503));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(
        &stderr,
        &[
            "answered 503 Service Unavailable to image x:1: gave up after 3 tries in",
            ": 1 x it hung up, 2 x answered 503 Service Unavailable; try again later",
        ],
    );
    assert_eq!(registry.count("HEAD /v2/x/manifests"), 3);

    let stderr = hasty("refused").pull("127.0.0.1:1/x").failure(125);
    let cause = "cannot reach registry 127.0.0.1:1: gave up after 3 tries in";
    assert_says(&stderr, &[cause, " s: connection refused; check"]);
}

#[test]
fn retry_after_is_taken_as_it_is_written() {
    let date = |seconds: u64| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
        http_date(now.as_secs() + seconds)
    };
    for (name, value) in [
        ("seconds", "1".to_owned()),
        ("date", date(2)),
        ("past", http_date(1)),
        ("negative", "-5".to_owned()),
        ("garbage", "in a moment".to_owned()),
        ("nothing", String::new()),
    ] {
        let (place, registry) = (hasty(&format!("retry-{name}")), Faulty::serve(&image()));
        let busy = Fault::Answer(429, format!("Retry-After: {value}\r\n"), Vec::new());
        registry.fail("manifests/", 1, busy.clone()).fail("blobs/", 1, busy);
        assert_arrived(&place, place.pull(&registry.name()));
    }
    for (name, value) in [("long", "6".to_owned()), ("far", date(86400))] {
        let (place, registry) = (hasty(&format!("retry-{name}")), Faulty::serve(&image()));
        let busy = Fault::Answer(503, format!("Retry-After: {value}\r\n"), Vec::new());
        registry.fail("HEAD /v2/x/manifests", 100, busy);
        let stderr = place.pull(&registry.name()).failure(125);
        assert_says(&stderr, &["answered 503", "; try again in "]);
        assert_eq!(registry.count("HEAD /v2/x/manifests"), 1, "it was to be left alone");
    }
}

/// IMF-fixdate of seconds since 1970 (RFC 9110, 5.6.7).
fn http_date(seconds: u64) -> String {
    let mut date = std::process::Command::new("date");
    date.args(["-u", "+%a, %d %b %Y %H:%M:%S GMT", "-d", &format!("@{seconds}")]);
    let date = date.env("LC_ALL", "C").output().expect("date");
    String::from_utf8(date.stdout).expect("ASCII").trim().to_owned()
}

#[test]
fn only_the_descriptor_says_how_long_a_layer_is() {
    for (name, fault) in [
        ("endless", Fault::Endless),
        ("chunked", Fault::Chunked),
        ("http10", Fault::Http10),
        ("long", Fault::Length(10)),
        ("short", Fault::Length(-10)),
    ] {
        let place = hasty(&format!("length-{name}"));
        let image = image();
        let registry = Faulty::serve(&image);
        for blob in image.blobs() {
            registry.fail(&format!("blobs/{}", blob.digest()), 1, fault.clone());
        }
        assert_arrived(&place, place.pull(&registry.name()));
    }
}

#[test]
fn a_refused_range_is_asked_for_whole_and_once() {
    let (place, image) = (hasty("416"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Cut(1000)).fail(&big(&image), 1, Fault::status(416));
    assert_arrived(&place, place.pull(&registry.name()));
    assert_eq!(ranges(&registry, &image), [None, Some("bytes=1000-".to_owned()), None]);

    let place = hasty("416-short");
    registry.fail(&big(&image), 1, Fault::Cut(1000)).fail(&big(&image), 1, Fault::status(416));
    registry.fail(&big(&image), 1, Fault::NoLength(1000));
    let stderr = place.pull(&registry.name()).failure(125);
    let sent = format!("registry {} sent 1000", registry.address());
    assert_says(&stderr, &["layer sha256:", "expected", &sent]);
    assert_eq!(ranges(&registry, &image).len(), 6);
    place.assert_clean();
}

#[test]
fn a_range_of_something_else_is_no_part_of_a_layer() {
    let (place, image) = (hasty("total"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Cut(1000)).fail(&big(&image), 1, Fault::Total(5));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["layer sha256:", "expected", "sent 5;"]);
    place.assert_clean();
}

#[test]
fn an_expired_url_is_asked_for_anew() {
    let (place, image) = (hasty("signed"), image());
    let (registry, store) = (Faulty::serve(&image), Faulty::serve(&image));
    let signed = format!("http://{}{{path}}?signature={{n}}", store.address());
    registry.fail("blobs/", 1000, Fault::Redirect(signed));
    store.fail(&big(&image), 1, Fault::Cut(1000)).fail(&big(&image), 1, Fault::status(403));
    assert_arrived(&place, place.pull(&registry.name()));
    let requests = store.requests().into_iter().filter(|r| r.line.contains(&big(&image)));
    let lines: Vec<_> = requests.map(|request| request.line).collect();
    assert!(lines.len() == 3 && lines[1] != lines[2], "the same URL again: {lines:?}");
    let range = Some("bytes=1000-".to_owned());
    assert_eq!(ranges(&store, &image), [None, range.clone(), range]);

    for status in [403, 404, 410] {
        let place = hasty(&format!("signed-{status}"));
        let store = Faulty::serve(&image);
        let registry = Faulty::serve(&image);
        let signed = format!("http://{}{{path}}?signature={{n}}", store.address());
        registry.fail("blobs/", 1000, Fault::Redirect(signed));
        store.fail("blobs/", 1000, Fault::status(status));
        let stderr = place.pull(&registry.name()).failure(125);
        let (from, to) = (registry.address(), store.address());
        let said = format!("server {to}, to which registry {from} redirects, answered {status}");
        assert_says(&stderr, &[&said, "gave up after 3 tries", "try again later"]);
        assert!(!stderr.contains("signature"), "{stderr}");
        place.assert_clean();
    }
}

#[test]
fn a_document_that_comes_damaged_is_fetched_again_twice() {
    let image = image();
    let config = |registry: &Faulty| {
        let requests = registry.requests().into_iter().map(|request| request.line);
        let layers: Vec<_> = image.blobs().iter().take(2).map(|blob| blob.digest()).collect();
        let is_config = |line: &String| {
            line.contains("blobs/") && !layers.iter().any(|layer| line.contains(layer))
        };
        requests.filter(is_config).count()
    };
    let damaged = || {
        let kind = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";
        Fault::Answer(200, kind.to_owned(), b"{\"other\": 1}".to_vec())
    };
    let place = hasty("damaged-manifest");
    let registry = Faulty::serve(&image);
    registry.fail("manifests/sha256:", 2, damaged());
    assert_arrived(&place, place.pull(&registry.name()));

    let place = hasty("damaged-manifest-for-ever");
    let registry = Faulty::serve(&image);
    registry.fail("manifests/sha256:", 100, damaged());
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["manifest: registry", &registry.address(), "sent other content"]);
    assert_eq!(registry.count("manifests/sha256:"), 3);

    let place = hasty("damaged-config");
    let registry = Faulty::serve(&image);
    let document = image.blobs().last().expect("a configuration");
    let mut bytes = document.bytes().to_vec();
    bytes.reverse();
    let damaged = Fault::Answer(200, String::new(), bytes);
    registry.fail(&format!("blobs/{}", document.digest()), 2, damaged);
    assert_arrived(&place, place.pull(&registry.name()));
    assert_eq!(config(&registry), 3);
}

#[test]
fn a_plain_registry_that_hangs_up_is_not_taken_for_one_with_tls() {
    let (place, registry) = (hasty("probe"), Faulty::serve(&image()));
    registry.fail("HEAD /v2/x/", 1, Fault::HangUp).fail("HEAD /v2/x/", 1, Fault::Reset(None));
    assert_arrived(&place, place.pull(&registry.name()));
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    for (text, problem) in [
        ("tries = 0", "network.tries is not 1 to 1000"),
        ("idle_timeout = 0", "network.idle_timeout is not 1 to 86400 seconds"),
        ("give_up_after = 100000", "network.give_up_after is not 1 to 86400 seconds"),
        ("attempts = 3", "line 2: unknown field `attempts`, expected one of"),
    ] {
        let place = Place::new(&SANDBOX, "limits").with_config(&format!("[network]\n{text}\n"));
        let stderr = place.pull("127.0.0.1:1/x").failure(125);
        assert_says(&stderr, &["read configuration", problem, "correct it"]);
    }
}

/// The client itself, and what it tells.
struct Client {
    registry: Arc<Registry>,
    told: Arc<Mutex<Vec<String>>>,
    executor: tokio::runtime::Runtime,
}

impl Client {
    fn new(registry: &Faulty) -> Client {
        let config = Config::parse("store = \"/nowhere\"\n[network]\ntries = 3").expect("settings");
        let reference: Reference = registry.name().parse().expect("a name");
        let told = Arc::<Mutex<Vec<String>>>::default();
        let hear = told.clone();
        let tell = move |text: &str| hear.lock().expect("nobody panics").push(text.to_owned());
        let executor = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        Client {
            registry: Registry::connect(&reference, &config).telling(Arc::new(tell)).into(),
            told,
            executor: executor.expect("an executor"),
        }
    }

    fn told(&self) -> Vec<String> {
        self.told.lock().expect("nobody panics").clone()
    }

    fn blob(&self, descriptor: &Descriptor) -> Result<Vec<u8>, Error> {
        self.executor.block_on(async {
            let mut blob = self.registry.blob("layer", descriptor);
            let mut bytes = Vec::new();
            while let Some(chunk) = blob.chunk().await? {
                bytes.extend_from_slice(&chunk);
            }
            Ok(bytes)
        })
    }
}

fn descriptor(blob: &fixtures::image::Blob) -> Descriptor {
    Descriptor {
        media_type: blob.media_type().to_owned(),
        digest: Digest::parse(&blob.digest()).expect("a digest"),
        size: blob.bytes().len() as u64,
        platform: None,
        annotations: Default::default(),
    }
}

#[test]
fn who_waits_is_told() {
    let registry = Faulty::serve(&image());
    registry.fail("HEAD /v2/x/manifests", 1, Fault::status(503));
    registry.fail("HEAD /v2/x/manifests", 1, Fault::HangUp);
    let client = Client::new(&registry);
    client.executor.block_on(client.registry.resolve("1")).expect("a digest");
    let told = client.told();
    let host = format!("registry {}", registry.address());
    assert_eq!(told.len(), 2, "{told:?}");
    let busy = format!("{host} answered 503 Service Unavailable; trying again in ");
    assert!(told[0].starts_with(&busy) && told[0].ends_with(" s"), "{told:?}");
    assert!(told[1].starts_with(&format!("{host}: it hung up; trying again in ")), "{told:?}");
}

#[test]
fn a_host_that_wants_to_be_left_alone_is_by_all_requests() {
    let image = image();
    let registry = Faulty::serve(&image);
    let client = Client::new(&registry);
    client.executor.block_on(client.registry.resolve("1")).expect("a digest");
    let busy = Fault::Answer(429, "Retry-After: 2\r\n".into(), Vec::new());
    registry.fail("HEAD /v2/x/manifests", 1, busy);
    let asked = registry.requests().len();
    let layer = descriptor(&image.blobs()[0]);
    let refused = client.registry.clone();
    let refused = client.executor.spawn(async move { refused.resolve("1").await });
    eventually(Duration::from_secs(20), "the refusal", || client.told().pop());
    assert_eq!(client.blob(&layer).expect("the layer"), image.blobs()[0].bytes());
    client.executor.block_on(refused).expect("no panic").expect("a digest");
    let requests = &registry.requests()[asked..];
    assert_eq!(requests.len(), 3, "{requests:?}");
    for later in &requests[1..] {
        let waited = later.at.duration_since(requests[0].at);
        assert!(waited >= Duration::from_secs(2), "{} after {waited:?}", later.line);
    }
}

#[test]
fn a_layer_of_other_content_is_an_error_and_the_next_download_begins_anew() {
    let image = image();
    let registry = Faulty::serve(&image);
    let client = Client::new(&registry);
    let layer = descriptor(&image.blobs()[0]);
    let mut bytes = image.blobs()[0].bytes().to_vec();
    bytes.reverse();
    registry.fail(&big(&image), 1, Fault::Answer(200, String::new(), bytes));
    let error = client.blob(&layer).expect_err("other content");
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    assert_eq!(client.blob(&layer).expect("the layer"), image.blobs()[0].bytes());
    assert_eq!(ranges(&registry, &image), [None, None]);
}
