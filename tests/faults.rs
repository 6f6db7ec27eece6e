//! `shifter pull` against a registry and a network that misbehave: either the right tree, or one
//! clear line and nothing left behind.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::PathBuf,
    process::Child,
    sync::LazyLock,
    time::Duration,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fixtures::{
    Fault, Faulty, Outcome, Place, Registry, Sandbox, Setup, eventually,
    image::{self, Compression, Image, Layer},
    need,
    place::{assert_says, list},
    run,
    sample::{assert_arrived, big, image},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

fn place(name: &str) -> Place {
    Place::new(&SANDBOX, name)
}

/// A place whose user gives up soon.
fn hasty(name: &str) -> Place {
    place(name).with_config("[network]\ntries = 3\n")
}

/// Credentials for a registry, as a user's login leaves them.
fn login(registry: &Faulty) -> PathBuf {
    let auth = BASE64_STANDARD.encode("alice:se:cret");
    let file = serde_json::json!({"auths": {registry.address(): {"auth": auth}}});
    SANDBOX.write(format!("auth-{}.json", registry.address()), file.to_string())
}

fn pull_as(place: &Place, registry: &Faulty, login: PathBuf) -> Outcome {
    let mut command = place.command("shifter", &["pull", &registry.name()]);
    command.env("REGISTRY_AUTH_FILE", login);
    run(command)
}

#[test]
fn a_broken_download_goes_on_where_it_broke() {
    for (name, fault) in [("cut", Fault::Cut(1000)), ("no-length", Fault::NoLength(1000))] {
        let (place, image) = (place(name), image());
        let registry = Faulty::serve(&image);
        registry.fail(&big(&image), 2, fault);
        assert_arrived(&place, place.pull(&registry.name()));
        let requests = registry.requests();
        let ranges = requests.iter().filter(|r| r.line.contains(&big(&image)));
        let ranges: Vec<_> = ranges.map(|request| request.range.as_deref()).collect();
        assert_eq!(ranges, [None, Some("bytes=1000-"), Some("bytes=2000-")]);
    }
}

#[test]
fn a_registry_without_ranges_sends_it_again() {
    let (place, image) = (place("ignore-range"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Cut(100_000)).fail(&big(&image), 1, Fault::IgnoreRange);
    assert_arrived(&place, place.pull(&registry.name()));
}

#[test]
fn a_range_may_begin_too_early_but_not_too_late() {
    let image = image();
    for (name, by) in [("early", -500), ("late", 500)] {
        let place = place(&format!("range-{name}"));
        let registry = Faulty::serve(&image);
        registry.fail(&big(&image), 1, Fault::Cut(1000));
        registry.fail(&big(&image), 1, Fault::ShiftRange(by));
        let outcome = place.pull(&registry.name());
        if by < 0 {
            assert_arrived(&place, outcome);
        } else {
            let stderr = outcome.failure(125);
            assert_says(&stderr, &["asked for bytes from 1000, got them from 1500"]);
            place.assert_clean();
        }
    }
}

#[test]
fn a_download_that_never_gets_further_is_given_up() {
    let (place, image) = (hasty("no-progress"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Cut(1000)).fail(&big(&image), 100, Fault::Cut(0));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["cannot reach registry", &registry.address()]);
    place.assert_clean();
}

#[test]
fn whoever_hangs_up_is_called_again() {
    for part in ["HEAD /v2/x/manifests", "GET /v2/x/manifests", "blobs/"] {
        let place = place(&format!("hang-up-{}", part.len()));
        let registry = Faulty::serve(&image());
        registry.fail(part, 2, Fault::HangUp);
        assert_arrived(&place, place.pull(&registry.name()));
    }
}

#[test]
fn a_manifest_that_was_cut_off_is_asked_for_again() {
    for (name, fault) in [("length", Fault::Cut(100)), ("no-length", Fault::NoLength(100))] {
        let place = place(&format!("cut-manifest-{name}"));
        let registry = Faulty::serve(&image());
        registry.fail("GET /v2/x/manifests", 1, fault);
        assert_arrived(&place, place.pull(&registry.name()));
    }
}

#[test]
fn a_busy_registry_is_asked_again_when_it_says_so() {
    let place = place("busy");
    let registry = Faulty::serve(&image());
    let busy = |status| Fault::Answer(status, "Retry-After: 1\r\n".into(), Vec::new());
    registry.fail("HEAD /v2/x/manifests", 1, busy(429)).fail("blobs/", 1, busy(503));
    let outcome = place.pull(&registry.name());
    assert!(outcome.wall > Duration::from_secs(2), "it was not waited for: {outcome}");
    assert_arrived(&place, outcome);
}

#[test]
fn a_registry_that_wants_to_be_left_alone_for_hours_is() {
    let place = place("hours");
    let registry = Faulty::serve(&image());
    let body = br#"{"errors":[{"code":"TOOMANYREQUESTS","message":"pull limit reached"}]}"#;
    let limit = Fault::Answer(429, "Retry-After: 21600\r\n".into(), body.to_vec());
    registry.fail("GET /v2/x/manifests", 100, limit);
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["429 Too Many Requests", "pull limit reached", "in 21600 s"]);
    assert_eq!(registry.count("GET /v2/x/manifests"), 1);
    place.assert_clean();
}

#[test]
fn a_broken_registry_is_said() {
    let place = hasty("broken");
    let registry = Faulty::serve(&image());
    registry.fail("blobs/", 100, Fault::status(502));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["answered 502 Bad Gateway to blob sha256:", "try again later"]);
    place.assert_clean();
}

#[test]
fn a_web_page_is_no_manifest() {
    let place = place("portal");
    let registry = Faulty::serve(&image());
    let page = |status| {
        let html = b"<html>Please log in to the guest network</html>".to_vec();
        Fault::Answer(status, "Content-Type: text/html; charset=utf-8\r\n".into(), html)
    };
    registry.fail("/v2/x/", 100, page(200));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &[&registry.address(), "text/html", "not a manifest"]);
    place.assert_clean();
}

#[test]
fn a_digest_need_not_be_in_the_header() {
    let place = place("no-digest");
    let registry = Faulty::serve(&image());
    registry.fail("manifests/", 100, Fault::NoDigest);
    assert_arrived(&place, place.pull(&registry.name()));
}

#[test]
fn other_content_is_noticed() {
    let (place, image) = (place("other"), image());
    let registry = Faulty::serve(&image);
    let mut bytes = image.blobs()[0].bytes().to_vec();
    bytes.reverse();
    registry.fail(&big(&image), 100, Fault::Answer(200, String::new(), bytes));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["layer: ", "sent other content", &image.blobs()[0].digest()]);
    place.assert_clean();
}

#[test]
fn a_layer_that_begins_byte_by_byte_is_the_same_layer() {
    let place = place("trickle");
    let registry = Faulty::serve(&image());
    registry.fail("blobs/", 100, Fault::Trickle);
    assert_arrived(&place, place.pull(&registry.name()));
}

#[test]
fn a_layer_that_the_registry_lost_is_said() {
    let (place, image) = (place("lost"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 100, Fault::status(404));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["answered 404 Not Found", &image.blobs()[0].digest()]);
    assert!(!stderr.contains("check the name"), "the name is right: {stderr}");
    place.assert_clean();
}

#[test]
fn a_token_that_expires_is_renewed() {
    for uses in [2, 3] {
        let (place, image) = (place(&format!("token-{uses}")), image());
        let registry = Faulty::serve(&image);
        registry.want_tokens(&format!("http://{}/token", registry.address()), uses);
        registry.fail(&big(&image), 1, Fault::Cut(1000));
        assert_arrived(&place, place.pull(&registry.name()));
        assert!(registry.count("/token?service=x&scope=repository%3Ax%3Apull") >= 2);
    }
}

#[test]
fn a_token_server_in_trouble_is_asked_again() {
    let place = place("token-trouble");
    let registry = Faulty::serve(&image());
    registry.want_tokens(&format!("http://{}/token", registry.address()), 100);
    registry.fail("/token", 1, Fault::status(503)).fail("/token", 1, Fault::HangUp);
    registry.fail("/token", 1, Fault::Cut(5));
    assert_arrived(&place, place.pull(&registry.name()));
}

#[test]
fn a_broken_token_server_is_no_question_of_login() {
    let place = hasty("token-broken");
    let (registry, server) = (Faulty::serve(&image()), Faulty::serve(&image()));
    registry.want_tokens(&format!("http://{}/token", server.address()), 100);
    server.fail("/token", 100, Fault::status(503));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &[&server.address(), "answered 503", "token", "try again later"]);
    assert!(!stderr.contains("log in"), "{stderr}");

    registry.want_tokens("http://127.0.0.1:1/token", 100);
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["cannot reach", "127.0.0.1:1:", "connection refused"]);
    place.assert_clean();
}

#[test]
fn a_refused_login_is_said() {
    let place = place("refused");
    let registry = Faulty::serve(&image());
    registry.want_tokens(&format!("http://{}/token", registry.address()), 100);
    registry.fail("/token", 100, Fault::status(401));
    let stderr = pull_as(&place, &registry, login(&registry)).failure(125);
    assert_says(&stderr, &["refuses access to x", "are not accepted", "log in"]);
    assert!(!stderr.contains("se:cret"), "{stderr}");
    place.assert_clean();
}

#[test]
fn credentials_stay_with_their_registry() {
    let place = place("elsewhere");
    let (registry, store) = (Faulty::serve(&image()), Faulty::serve(&image()));
    registry.want_tokens(&format!("http://{}/token", registry.address()), 100);
    registry.fail("blobs/", 100, Fault::Redirect(format!("http://{}{{path}}", store.address())));
    assert_arrived(&place, pull_as(&place, &registry, login(&registry)));
    let told: Vec<_> = store.requests().into_iter().filter_map(|r| r.authorization).collect();
    assert!(told.is_empty(), "another host was shown {told:?}");
    let told = registry.requests().into_iter().filter_map(|r| r.authorization);
    assert!(told.count() >= 3, "the registry was shown nothing");
}

/// CVE-2020-15157: whoever stores the blobs asks for a login, and names himself as the place.
#[test]
fn whoever_stores_the_blobs_cannot_ask_for_credentials() {
    for scheme in ["Bearer", "Basic"] {
        let place = hasty(&format!("phish-{scheme}"));
        let (registry, thief) = (Faulty::serve(&image()), Faulty::serve(&image()));
        let realm = format!("{scheme} realm=\"http://{}/token\"", thief.address());
        let challenge = format!("WWW-Authenticate: {realm}\r\n");
        registry.fail("blobs/", 9, Fault::Redirect(format!("http://{}{{path}}", thief.address())));
        thief.fail("blobs/", 9, Fault::Answer(401, challenge, Vec::new()));
        let stderr = pull_as(&place, &registry, login(&registry)).failure(125);
        assert_eq!(thief.count("/token"), 0, "a stranger's realm was asked for a token");
        assert!(thief.requests().iter().all(|request| request.authorization.is_none()));
        assert!(registry.requests().iter().all(|request| request.authorization.is_none()));
        assert_says(&stderr, &[&thief.address(), "answered 401 Unauthorized to blob sha256:"]);
        place.assert_clean();
    }
}

#[test]
fn redirects_that_lead_nowhere_are_said() {
    for (name, target, cause) in [
        ("loop", "http://{registry}{path}", "more than 5 redirects"),
        ("nowhere", "", "redirect"),
        (
            "refused",
            "http://127.0.0.1:1/{path}",
            "127.0.0.1:1, to which it redirects: connection refused",
        ),
        ("file", "file:///etc/passwd", "no place that can be followed"),
    ] {
        let place = hasty(&format!("redirect-{name}"));
        let registry = Faulty::serve(&image());
        let target = target.replace("{registry}", &registry.address());
        registry.fail("blobs/", 100, Fault::Redirect(target));
        let stderr = place.pull(&registry.name()).failure(125);
        assert_says(&stderr, &[&registry.address(), cause]);
        place.assert_clean();
    }
}

fn start(place: &Place, args: &[&str]) -> Child {
    let mut command = place.command("shifter", args);
    command.stderr(std::process::Stdio::null()).spawn().expect("start shifter")
}

#[test]
fn a_signal_ends_a_pull_that_waits_for_a_silent_registry() {
    for (part, bytes) in [("HEAD ", 0), ("manifests/sha256:", 9), ("blobs/", 0), ("blobs/", 9)] {
        let place = place(&format!("silent-{}-{bytes}", part.len()));
        let registry = Faulty::serve(&image());
        registry.fail(part, 100, Fault::Stall(bytes));
        let mut pull = start(&place, &["pull", &registry.name()]);
        eventually(Duration::from_secs(20), "a request", || {
            (registry.count(part) > 0).then_some(())
        });
        kill(Pid::from_raw(pull.id().cast_signed()), Signal::SIGTERM).expect("kill");
        let status = eventually(Duration::from_secs(3), "the pull to end", || {
            pull.try_wait().expect("wait")
        });
        // Before the layers there is nothing to clean up, and the signal takes its course.
        assert_eq!(status.code().or(status.signal().map(|n| 128 + n)), Some(128 + 15));
        place.assert_clean();
    }
}

#[test]
fn a_pull_that_was_killed_is_done_by_the_next() {
    let (place, image) = (place("killed"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Stall(100_000));
    let mut pull = start(&place, &["pull", &registry.name()]);
    let node = place.node.join("partial");
    eventually(Duration::from_secs(20), "a tree in the making", || {
        (registry.count(&big(&image)) > 0 && !list(&node).is_empty()).then_some(())
    });
    pull.kill().expect("kill");
    pull.wait().expect("wait");
    place.pull(&registry.name()).success();
    assert_eq!(place.read("etc/version"), "1");
    assert!(list(&node).is_empty(), "a dead pull's files stay in memory");
}

#[test]
fn layers_that_are_empty_repeated_or_absent_are_layers() {
    let twice = Layer::new().dir("etc", 0o755).file("etc/version", 0o644, "1");
    let twice = || Layer::new().raw(&twice.to_tar());
    let nothing = image::digest(b"");
    for (name, image) in [
        ("none", Image::new()),
        ("empty", Image::new().layer(Layer::new()).layer_of(&nothing, vec![], Compression::None)),
        ("twice", Image::new().layer(twice()).layer(twice())),
    ] {
        let place = place(&format!("odd-{name}"));
        let registry = Faulty::serve(&image.build());
        place.pull(&registry.name()).success();
        let expected: &[&str] = if name == "twice" { &["etc"] } else { &[] };
        assert_eq!(list(&place.rootfs()), expected);
        place.assert_nothing_partial();
    }
}

#[test]
fn first_pulls_at_the_same_time_all_have_their_name() {
    let place = place("first");
    let registry = Faulty::serve(&image());
    let names: Vec<_> = (0..12).map(|n| format!("{}/x{n}:1", registry.address())).collect();
    let pulls: Vec<_> =
        names.iter().map(|name| start(&place, &["pull", "--to", "store", name])).collect();
    for mut pull in pulls {
        assert!(pull.wait().expect("wait").success());
    }
    let index = fs::read_to_string(place.store.join("index.json")).expect("an index");
    for name in &names {
        assert!(index.contains(&format!("\"{name}\"")), "{name} is lost: {index}");
    }
    place.assert_nothing_partial();
}

#[test]
fn the_umask_is_the_users_and_not_the_images() {
    let image = Image::new().layer(Layer::new().dir("open", 0o777).file("open/f", 0o666, "x"));
    let registry = Faulty::serve(&image.build());
    for umask in ["000", "077"] {
        let place = place(&format!("umask-{umask}"));
        let script = format!("umask {umask}; exec shifter pull {}", registry.name());
        run(place.command("sh", &["-c", &script])).success();
        let mode = |path: PathBuf| {
            let metadata = fs::metadata(&path);
            let metadata = metadata.unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            metadata.permissions().mode() & 0o7777
        };
        assert_eq!(mode(place.rootfs().join("open")), 0o777);
        assert_eq!(mode(place.rootfs().join("open/f")), 0o666);
        assert_eq!(mode(place.store.clone()), 0o700);
        assert_eq!(mode(place.store.join("index.json")), 0o600);
    }
}

#[test]
fn relative_directories_are_where_the_user_stands() {
    let place = place("relative");
    let registry = Faulty::serve(&image());
    let mut command = place.command("shifter", &["pull", &registry.name()]);
    command.env("SHIFTER_STORE", "store").env("SHIFTER_NODE_DIR", "node");
    command.current_dir(place.store.parent().expect("it is in a directory"));
    assert_arrived(&place, run(command));
}

#[test]
fn settings_that_would_do_nothing_are_refused() {
    let place = place("settings");
    for (name, text, problem) in [
        ("store", "store = \"images\"", "store is not an absolute path"),
        ("url", "[[registry]]\nhost = \"https://r.example.com\"", "not HOST or HOST:PORT"),
        ("alias", "[[registry]]\nhost = \"index.docker.io\"", "not HOST or HOST:PORT"),
    ] {
        let config = SANDBOX.write(format!("settings-{name}.toml"), text);
        let mut command = place.command("shifter", &["pull", "127.0.0.1:1/x"]);
        command.env("SHIFTER_CONFIG", &config);
        let stderr = run(command).failure(125);
        assert_says(&stderr, &[&config.display().to_string(), problem, "correct it"]);
    }
}

#[test]
fn progress_makes_room_for_the_message() {
    let (place, image) = (place("terminal"), image());
    let registry = Faulty::serve(&image);
    registry.fail(&big(&image), 1, Fault::Cut(1000));
    registry.fail(&big(&image), 1, Fault::ShiftRange(500));
    let pull = format!("shifter pull {}", registry.name());
    let mut script = place.command("script", &["-qec", &pull, "/dev/null"]);
    script.env("TERM", "xterm");
    let shown = run(script);
    assert!(shown.stdout.contains(" %  "), "no progress: {shown}");
    assert!(shown.stdout.contains("\x1b[Jshifter: pull "), "one line in two: {shown}");
}

#[test]
fn a_plain_registry_may_use_servers_that_speak_tls() {
    need!(root, registry, openssl);
    let place = place("tls");
    let secure = Registry::start_with(&SANDBOX, Setup { tls: true, ..Setup::default() });
    secure.push("x:1", &image());
    let registry = Faulty::serve(&image());
    let target = format!("https://{}{{path}}", secure.tls_address());
    registry.fail("blobs/", 100, Fault::Redirect(target));
    let stderr = place.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["certificate", "private CA"]);
    let config = format!(
        "[[registry]]\nhost = {:?}\nplain_http = true\nca_file = {:?}\n",
        registry.address(),
        secure.ca_file()
    );
    let config = SANDBOX.write("tls.toml", config);
    let pull = || {
        let mut command = place.command("shifter", &["pull", &registry.name()]);
        command.env("SHIFTER_CONFIG", &config);
        run(command)
    };
    assert_arrived(&place, pull());
    // It has no tokens, but it is understood.
    registry.want_tokens(&format!("https://{}/token", secure.tls_address()), 100);
    let stderr = pull().failure(125);
    assert_says(&stderr, &["refuses access"]);
}
