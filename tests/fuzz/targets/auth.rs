//! What registries ask for, and the files that have the answer.

#![no_main]

use std::{env, fs, path::PathBuf, sync::OnceLock};

use fuzz::{Seed, assert_printable, offer, scratch};
use libfuzzer_sys::fuzz_target;
use runtime::{
    login,
    registry::fuzz::{Challenge, challenge, credentials},
    report::Report,
};
use serde_json::Value;

fuzz_target!(init: { home(); offer(seeds(), &WORDS, take) }, |data: &[u8]| {
    take(data);
});

const WORDS: [&[u8]; 35] = [
    b"Bearer ",
    b"Basic ",
    b"Negotiate ",
    b"realm=\"",
    b"service=",
    b"scope=\"repository:a/b:pull\"",
    b"https://r.io/token",
    b"\\\"",
    b"{\"auths\":{",
    b"\"credHelpers\":{",
    b"\"credsStore\":\"x\"",
    b"\"auth\":\"YTpi\"",
    b"SECRET",
    b"\"auth\":\"Og==\"",
    b"\"identitytoken\":\"",
    b"\"r.io\":",
    b"\"r.io/a\":",
    b"\"r.io:5000\":",
    b"\"https://index.docker.io/v1/\":",
    b"https://",
    b"/v2/",
    b"machine r.io",
    b"machine auth.docker.io",
    b"machine ",
    b"login ",
    b"password ",
    b"default",
    b"$(",
    b"${A}",
    b"`",
    b"#",
    b"index.docker.io",
    b"registry-1.docker.io",
    b"[::1]:5000",
    b"\xe2\x80\xae",
];
/// Whom files are asked about.
const ASKED: [(&str, &str); 4] =
    [("r.io", "a/b"), ("r.io:5000", "x"), ("docker.io", "library/x"), ("[::1]:5000", "x")];

/// Where all files are looked for; there is no other.
fn home() -> &'static PathBuf {
    static HOME: OnceLock<PathBuf> = OnceLock::new();
    HOME.get_or_init(|| {
        let home = scratch();
        for (name, below) in [
            ("HOME", ""),
            ("REGISTRY_AUTH_FILE", "auth.json"),
            ("ENROOT_CONFIG_PATH", ""),
            ("XDG_CONFIG_HOME", "none"),
            ("XDG_RUNTIME_DIR", "none"),
            ("DOCKER_CONFIG", "none"),
            // No helper program is there to be run.
            ("PATH", "none"),
        ] {
            // SAFETY: this is the first thing that the program does; there is no other thread.
            unsafe { env::set_var(name, home.join(below)) };
        }
        home
    })
}

/// The first byte says what the others are.
fn seeds() -> Vec<Seed> {
    [
        ("w", true, "Bearer realm=\"https://auth.docker.io/token\",service=\"registry.docker.io\",scope=\"repository:library/golang:pull\""),
        ("w", true, "Basic realm=\"a \\\"b\\\" Bearer c\", charset=UTF-8\nBearer realm=\"https://r.io/t?x=1\" ,, SERVICE= r "),
        ("w", true, "Negotiate YWJj==\nbasic"),
        ("w", true, "Bearer realm=\"https://r.io/t\",scope=\"\",service=gcr.io"),
        ("w", false, "Digest realm=\"x\""),
        ("j", true, r#"{"auths":{"r.io":{"auth":"YTpiOmM="},"r.io/a/":{"identitytoken":"eyJ"},"https://r.io:5000/v2/":{"auth":"YTpi"},"[::1]:5000":{"auth":"YTpi"}}}"#),
        ("j", true, r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"}},"credsStore":"","credHelpers":{"r.io":""}}"#),
        ("j", false, r#"{"auths":{"r.io":{"auth":"SECRET!!"}},"credsStore":"x","credHelpers":{"r.io:5000":"a/b"}}"#),
        ("j", false, r#"{"auths":"SECRET!!"}"#),
        ("n", true, "# both\nmachine r.io login $oauthtoken password key\nmachine auth.docker.io\n  login a\n\tpassword \"q\\\"\"\n"),
        ("n", false, "machine r.io login a password $(machine r.io password x)\ndefault login d password d"),
        ("r", true, "https://index.docker.io/v1/"),
        ("r", true, "http://[::1]:5000/v2/"),
        ("r", true, "nvcr.io"),
        ("r", false, "user@nvcr.io/x"),
    ]
    .map(|(kind, good, text)| (format!("{kind}{text}").into_bytes(), good))
    .to_vec()
}

fn take(data: &[u8]) -> bool {
    let Some((kind, rest)) = data.split_first() else { return false };
    match kind {
        b'j' => file("auth.json", rest, |registry, secret, refusal| {
            json_holds(rest, registry, secret, refusal);
        }),
        b'n' => file(".credentials", rest, |_, secret, _| netrc_holds(rest, secret)),
        b'r' => str::from_utf8(rest).is_ok_and(name),
        _ => str::from_utf8(rest).is_ok_and(headers),
    }
}

fn headers(text: &str) -> bool {
    // What a header can hold, as the HTTP library sees to.
    let headers: Vec<_> = text.lines().filter(|line| !line.contains(char::is_control)).collect();
    let Some(told) = challenge(&headers) else { return false };
    // What was understood and is said again, plainly, is the same.
    let quote = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"");
    let scheme = if told.is_basic { "Basic" } else { "Bearer" };
    let realm = told.realm.as_ref().map(|realm| ("realm", realm.as_str().to_owned()));
    let all = realm.iter().chain(&told.question);
    let all: Vec<_> = all.map(|(name, value)| format!("{name}=\"{}\"", quote(value))).collect();
    let again: Option<Challenge> = challenge(&[&format!("{scheme} {}", all.join(","))]);
    assert_eq!(again.as_ref(), Some(&told), "{text:?}");
    true
}

fn name(text: &str) -> bool {
    match login::registry(text) {
        Ok(name) => {
            assert_eq!(login::registry(&name).as_ref(), Ok(&name), "{text:?}");
            true
        }
        Err(error) => {
            assert_printable(&Report::from(&error).line);
            false
        }
    }
}

/// Asks about all of [`ASKED`] while a file has this content.
fn file(at: &str, content: &[u8], holds: impl Fn(&str, Option<&(String, String)>, &str)) -> bool {
    let path = home().join(at);
    fs::write(&path, content).expect("write a file");
    let told = ASKED.map(|(registry, repository)| (registry, credentials(registry, repository)));
    fs::remove_file(&path).expect("remove a file");
    for (registry, (secret, refusal)) in &told {
        let refusal = runtime::report::chain(refusal);
        assert_printable(&refusal);
        holds(registry, secret.as_ref(), &refusal);
    }
    told.iter().any(|(_, (secret, _))| secret.is_some())
}

fn json_holds(content: &[u8], registry: &str, secret: Option<&(String, String)>, refusal: &str) {
    // Another reader may stumble over bytes that the first does not look at.
    let Ok(value) = serde_json::from_slice::<Value>(content) else { return };
    let entries = value["auths"].as_object();
    let entries = || entries.into_iter().flatten();
    if secret.is_some() {
        assert!(entries().any(|(key, _)| key.contains(registry)), "a secret of another registry");
    }
    // Of any other text, the message could have words of its own; and of these, a helper's name.
    let is_marked = |text: &&str| text.contains("SECRET");
    let has_helper = !value["credHelpers"].is_null() || !value["credsStore"].is_null();
    let secrets = entries().flat_map(|(_, entry)| [&entry["auth"], &entry["identitytoken"], entry]);
    for secret in secrets.filter_map(Value::as_str).filter(is_marked) {
        assert!(has_helper || !refusal.contains(secret), "a secret in a message: {refusal}");
    }
}

fn netrc_holds(content: &[u8], secret: Option<&(String, String)>) {
    let Some((user, password)) = secret else { return };
    assert!(!password.starts_with("$(") && !password.contains('`'), "{password:?} is a command");
    // Quotes and what escapes them are the file's own.
    let bare = |text: &str| text.replace(['"', '\\'], "");
    let text = bare(&String::from_utf8_lossy(content));
    for word in [user, password] {
        assert!(text.contains(&bare(word)), "{word:?} is made up");
    }
}
