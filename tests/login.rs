//! Who is shown to a registry, where that comes from, and who else must not see it.

use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use fixtures::{
    Fault, Faulty, Outcome, Place, Registry, Sandbox, Setup,
    image::{Built, Image, Layer},
    need,
    place::assert_says,
    run,
};

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

/// A user's place, with settings and credentials of its own.
struct Desk {
    place: Place,
    dir: PathBuf,
}

impl Desk {
    fn new(name: &str) -> Desk {
        let place = Place::new(&SANDBOX, &format!("login-{name}"));
        let dir = place.store.with_file_name("home");
        let desk = Desk { place, dir };
        desk.shell("mkdir -p $HOME/bin $HOME/.docker").success();
        desk
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.place.command(program, args);
        let path = self.dir.join("bin").into_os_string().into_string().expect("UTF-8");
        command.env("PATH", format!("{path}:{}/bin:/usr/bin:/bin", SANDBOX.prefix().display()));
        command.env("HOME", &self.dir);
        command
    }

    /// Runs a line of shell as the user.
    #[track_caller]
    fn shell(&self, line: &str) -> Outcome {
        run(self.command("sh", &["-c", line]))
    }

    /// Writes one of the user's own files.
    fn write(&self, path: &str, content: &str) {
        let source = SANDBOX.write(self.dir.with_file_name("source"), content);
        self.shell(&format!("cp {} $HOME/{path}", source.display())).success();
    }

    /// A file in docker's format, for one registry.
    fn write_auth(&self, path: &str, key: &str, auth: &str) {
        let auth = BASE64_STANDARD.encode(auth);
        self.write(path, &serde_json::json!({"auths": {key: {"auth": auth}}}).to_string());
    }

    /// Makes `docker-credential-NAME`.
    fn write_helper(&self, name: &str, script: &str) {
        let path = format!("bin/docker-credential-{name}");
        self.write(&path, &format!("#!/bin/sh\n{script}\n"));
        self.shell(&format!("chmod 755 $HOME/{path}")).success();
    }

    #[track_caller]
    fn pull(&self, name: &str) -> Outcome {
        run(self.command("shifter", &["pull", name]))
    }

    /// Runs `shifter` with a password on standard input.
    #[track_caller]
    fn shifter_with(&self, password: &str, args: &str) -> Outcome {
        self.write("password", &format!("{password}\n"));
        self.shell(&format!("shifter {args} < $HOME/password"))
    }

    fn own(&self) -> PathBuf {
        self.dir.join(".config/shifter/auth.json")
    }

    fn read(&self, path: &str) -> String {
        let path = self.dir.join(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
    }
}

fn image() -> Built {
    Image::new().layer(Layer::new().file("a", 0o644, "a")).build()
}

fn mode(path: &Path) -> u32 {
    let metadata = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    metadata.permissions().mode() & 0o7777
}

/// A registry that wants alice, with the password `se:cret`.
fn private_registry() -> Registry {
    let credentials = Some(("alice".to_owned(), "se:cret".to_owned()));
    let registry = Registry::start_with(&SANDBOX, Setup { credentials, ..Setup::default() });
    registry.push("private:1", &image());
    registry
}

/// A registry that wants tokens, and gives them to anybody.
fn token_registry() -> Faulty {
    let registry = Faulty::serve(&image());
    registry.want_tokens(&format!("http://{}/token", registry.address()), 100);
    registry
}

/// What was shown to the token server.
fn shown(registry: &Faulty) -> Vec<Option<String>> {
    let asked = registry.requests().into_iter().filter(|request| request.line.contains("/token"));
    asked.map(|request| request.authorization).collect()
}

fn basic(pair: &str) -> Option<String> {
    Some(format!("Basic {}", BASE64_STANDARD.encode(pair)))
}

#[test]
fn a_login_lasts_until_the_logout() {
    need!(root, registry, htpasswd);
    let (desk, registry) = (Desk::new("lasts"), private_registry());
    let (address, name) = (registry.address(), registry.name("private:1"));
    let login = format!("login --username alice --password-stdin {address}");

    let stderr = desk.shifter_with("wrong", &login).failure(125);
    assert_says(&stderr, &["refuses the login", "the given credentials are not accepted"]);
    assert!(!stderr.contains("wrong"), "a password is in the message: {stderr}");
    assert!(!desk.own().exists(), "a refused login is stored");

    let outcome = desk.shifter_with("se:cret", &login);
    assert_says(&outcome.stderr, &["logged in", "~/.config/shifter/auth.json", "not encrypted"]);
    outcome.success();
    assert_eq!(mode(&desk.own()), 0o600);
    assert_eq!(mode(desk.own().parent().expect("a directory")), 0o700);
    desk.pull(&name).success();

    let outcome = desk.shell(&format!("shifter logout http://{address}/v2/"));
    assert_says(&outcome.stderr, &["logged out of", &address, "~/.config/shifter/auth.json"]);
    outcome.success();
    assert!(!desk.read(".config/shifter/auth.json").contains(&address), "it is still there");
    let stderr = desk.pull(&name).failure(125);
    let remedy = format!("log in: shifter login {address}");
    assert_says(&stderr, &["no credentials are stored", &remedy]);
    let outcome = desk.shell(&format!("shifter logout {address}"));
    assert_says(&outcome.stderr, &["no login for", &address]);
    outcome.success();
}

#[test]
fn a_login_leaves_the_others_alone() {
    need!(root, registry, htpasswd);
    let (desk, registry) = (Desk::new("others"), private_registry());
    desk.shell("mkdir -p -m 700 $HOME/.config/shifter").success();
    let before = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"YTpi"},"r.io":{"auth":"Yzpk"}},
        "credHelpers":{"gcr.io":"gcloud"}}"#;
    desk.write(".config/shifter/auth.json", before);
    let login = format!("login --username alice --password-stdin {}", registry.address());
    desk.shifter_with("se:cret", &login).success();
    desk.shell("shifter logout docker.io").success();
    let after = desk.read(".config/shifter/auth.json");
    let after: serde_json::Value = serde_json::from_str(&after).expect("JSON");
    let keys: Vec<_> = after["auths"].as_object().expect("entries").keys().collect();
    assert_eq!(keys, [&registry.address(), "r.io"]);
    assert_eq!(after["credHelpers"]["gcr.io"], "gcloud");
    assert_eq!(mode(&desk.own()), 0o600, "what others could read, they still can");

    desk.write(".config/shifter/auth.json", "{\"auths\": \"Yzpk\"}");
    let stderr = desk.shifter_with("se:cret", &login).failure(125);
    assert_says(&stderr, &["auth.json: not understood", "correct or remove the file"]);
    assert!(desk.read(".config/shifter/auth.json").contains("Yzpk"), "it is lost");
}

#[test]
fn a_file_that_others_can_read_is_not_used() {
    need!(root, registry, htpasswd);
    let (desk, registry) = (Desk::new("exposed"), private_registry());
    let login = format!("login --username alice --password-stdin {}", registry.address());
    desk.shifter_with("se:cret", &login).success();
    desk.shell("chmod 640 $HOME/.config/shifter/auth.json").success();
    let name = registry.name("private:1");
    let stderr = desk.pull(&name).failure(125);
    assert_says(&stderr, &["~/.config/shifter/auth.json is not used", "others", "chmod 600 "]);
    desk.shell("chmod 600 $HOME/.config/shifter/auth.json").success();
    desk.pull(&name).success();
}

#[test]
fn a_login_is_for_no_repository() {
    need!(root);
    let (desk, registry) = (Desk::new("scope"), token_registry());
    // ghcr.io's challenge at the root names an example.
    let challenge = format!(
        "WWW-Authenticate: Bearer realm=\"http://{}/token\",service=\"x\",scope=\"repository:user/image:pull\"\r\n",
        registry.address()
    );
    registry.fail("GET /v2/", 1, Fault::Answer(401, challenge, Vec::new()));
    let login = format!("login -u alice --password-stdin {}", registry.address());
    desk.shifter_with("se:cret", &login).success();
    assert_eq!(registry.count("/token?service=x"), 1);
    assert_eq!(registry.count("scope="), 0, "{:?}", registry.requests());
    assert_eq!(shown(&registry), [basic("alice:se:cret")]);

    let open = Faulty::serve(&image());
    let login = format!("login -u alice --password-stdin {}", open.address());
    let outcome = desk.shifter_with("se:cret", &login);
    assert_says(&outcome.stderr, &["logged in", "did not ask", "not checked"]);
    outcome.success();
    assert!(open.requests().iter().all(|request| request.authorization.is_none()));
}

#[test]
fn a_login_can_be_for_one_pull() {
    need!(root, registry, htpasswd);
    let (desk, registry) = (Desk::new("once"), private_registry());
    let name = registry.name("private:1");
    desk.write_auth(".docker/config.json", &registry.address(), "alice:stale");
    let stderr = desk.pull(&name).failure(125);
    assert_says(&stderr, &["the credentials of ~/.docker/config.json are not accepted", "log in"]);
    assert!(!stderr.contains("stale"), "{stderr}");
    let pull = format!("pull --username alice --password-stdin {name}");
    desk.shifter_with("se:cret", &pull).success();
    let stderr = desk.shifter_with("wrong", &pull).failure(125);
    assert_says(&stderr, &["the given credentials are not accepted", "check them"]);
    desk.pull(&name).failure(125);
    assert!(!desk.own().exists(), "it is stored");
}

#[test]
fn nobody_is_asked_where_there_is_nobody() {
    need!(root);
    let desk = Desk::new("nobody");
    for line in ["shifter login 127.0.0.1:1", "shifter pull --login 127.0.0.1:1/x"] {
        let stderr = desk.shell(&format!("exec setsid --wait {line}")).failure(2);
        assert_says(&stderr, &["login 127.0.0.1:1: ", "no terminal", "--password-stdin"]);
    }
    let stderr = desk.shifter_with("", "login -u alice --password-stdin 127.0.0.1:1").failure(2);
    assert_says(&stderr, &["the password is empty"]);
    let stderr = desk.shifter_with("x", "login -u a:b --password-stdin 127.0.0.1:1").failure(2);
    assert_says(&stderr, &["the user name has a colon"]);
    let stderr = desk.shifter_with("x", "login -u a --password-stdin nvcr.io/nvidia").failure(2);
    assert_says(&stderr, &["\"nvcr.io/nvidia\"", "name the registry alone"]);
    desk.shifter_with("x", "login --password-stdin nvcr.io").failure(2);
}

/// A person at a terminal of its own: answers each question when it comes.
fn at_terminal(desk: &Desk, line: &str, answers: &[(&str, &str)]) -> (i32, String) {
    let mut script = desk.command("timeout", &["120", "script", "-qec", line, "/dev/null"]);
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut script = script.spawn().unwrap_or_else(|e| panic!("start script: {e}"));
    let mut keyboard = script.stdin.take().expect("piped");
    let mut screen = script.stdout.take().expect("piped");
    let mut seen = Vec::new();
    for (question, answer) in answers {
        let asked = seen.len();
        while !String::from_utf8_lossy(&seen[asked..]).contains(question) {
            let mut byte = [0];
            let got = screen.read(&mut byte).expect("the screen can be read");
            assert!(got == 1, "no {question:?} in {:?}", String::from_utf8_lossy(&seen));
            seen.push(byte[0]);
        }
        keyboard.write_all(answer.as_bytes()).expect("the keyboard can be typed on");
    }
    screen.read_to_end(&mut seen).expect("the screen can be read");
    drop(keyboard);
    let status = script.wait().expect("script ends");
    (status.code().unwrap_or(-1), String::from_utf8_lossy(&seen).into_owned())
}

#[test]
fn a_password_is_asked_for_unseen() {
    need!(root, registry, htpasswd);
    let (desk, registry) = (Desk::new("terminal"), private_registry());
    let answers = [("Username", "alice\n"), ("Password", "se:cret\n")];
    let line = format!("shifter login {}; echo status $?; stty", registry.address());
    let (_, seen) = at_terminal(&desk, &line, &answers);
    assert!(seen.contains("logged in") && seen.contains("status 0"), "{seen}");
    assert!(seen.contains("alice") && !seen.contains("se:cret"), "{seen}");
    assert!(!seen.contains("-echo"), "the terminal stays silent: {seen}");
    desk.pull(&registry.name("private:1")).success();

    let desk = Desk::new("terminal-pull");
    let line = format!("shifter pull --login {}", registry.name("private:1"));
    let (code, seen) = at_terminal(&desk, &line, &answers);
    assert_eq!(code, 0, "{seen}");
    assert!(!seen.contains("se:cret"), "{seen}");
    assert!(!desk.own().exists(), "it is stored");
}

#[test]
fn an_interrupted_question_leaves_the_terminal_as_it_was() {
    need!(root);
    let desk = Desk::new("interrupt");
    let line = "trap : INT; shifter login -u alice 127.0.0.1:1; echo status $?; stty";
    let (_, seen) = at_terminal(&desk, line, &[("Password", "se:cr\x03")]);
    assert!(seen.contains("status 130"), "{seen}");
    assert!(!seen.contains("-echo") && !seen.contains("se:cr"), "{seen}");
}

#[test]
fn a_helper_program_is_asked_when_the_registry_asks() {
    need!(root);
    let desk = Desk::new("helper");
    desk.write_helper(
        "fake",
        r#"tr '\0' '\n' < /proc/$$/cmdline > $HOME/cmdline
        tr '\0' '\n' < /proc/$$/environ > $HOME/environ
        { printf '%s ' "$1"; cat; } > $HOME/asked
        echo "{\"ServerURL\":\"x\",\"Username\":\"alice\",\"Secret\":\"se:cret\"}""#,
    );
    let registry = Faulty::serve(&image());
    let config = |helpers| {
        let file = serde_json::json!({"auths": {"r.io": {"auth": "YTpvdGhlci1zZWNyZXQ="}}});
        let mut file = file.as_object().expect("an object").clone();
        file.extend(serde_json::Map::from_iter([helpers]));
        serde_json::Value::from(file).to_string()
    };
    let named = ("credHelpers".to_owned(), serde_json::json!({registry.address(): "fake"}));
    desk.write(".docker/config.json", &config(named));
    desk.pull(&registry.name()).success();
    assert!(!desk.dir.join("asked").exists(), "nobody asked for a login");

    registry.want_tokens(&format!("http://{}/token", registry.address()), 1);
    let outcome = desk.pull(&registry.name());
    assert!(!outcome.stderr.contains("se:cret"), "{outcome}");
    outcome.success();
    assert_eq!(desk.read("asked"), format!("get {}", registry.address()));
    assert_eq!(shown(&registry), [basic("alice:se:cret")]);
    for dump in ["cmdline", "environ"] {
        let dump = desk.read(dump);
        assert!(dump.contains("HOME=") || dump.contains("get"), "{dump}");
        assert!(!dump.contains("secret") && !dump.contains("YTpvd"), "{dump}");
    }

    // Docker's way for all registries, and Azure's kind of secret.
    let registry = token_registry();
    let store = ("credsStore".to_owned(), "token".into());
    desk.write(".docker/config.json", &config(store));
    desk.write_helper("token", "echo '{\"Username\":\"<token>\",\"Secret\":\"identity\"}'");
    desk.pull(&registry.name()).success();
    assert_eq!(registry.count("POST /token"), 1, "{:?}", registry.requests());
}

#[test]
fn a_helper_program_in_trouble_is_named_to_who_is_refused() {
    need!(root);
    let desk = Desk::new("trouble");
    desk.write_helper("locked", "echo 'the keychain is locked'; exit 1");
    desk.write_helper("empty", "echo 'credentials not found in native keychain'; exit 1");
    for (name, why) in [
        ("gone", "docker-credential-gone, which ~/.docker/config.json names: not found in PATH"),
        ("locked", "docker-credential-locked, which ~/.docker/config.json names: the keychain is"),
        ("../../bin/x", "names: no program's name"),
        ("empty", "no credentials are stored"),
    ] {
        desk.write(".docker/config.json", &serde_json::json!({"credsStore": name}).to_string());
        let registry = token_registry();
        // Anonymous tokens are given here: nobody needs the helper.
        desk.pull(&registry.name()).success();
        registry.fail("/token", 100, Fault::status(401));
        let other = Desk { place: Place::new(&SANDBOX, "login-other"), dir: desk.dir.clone() };
        let stderr = other.pull(&registry.name()).failure(125);
        assert_says(&stderr, &["refuses access to x", why, "shifter login"]);
    }
}

#[test]
fn an_identity_token_is_exchanged_and_goes_nowhere_else() {
    need!(root);
    let (desk, registry) = (Desk::new("identity"), token_registry());
    let entry = serde_json::json!({"auth": "MDA6", "identitytoken": "long+lived&token"});
    let file = serde_json::json!({"auths": {registry.address(): entry}});
    desk.write(".docker/config.json", &file.to_string());
    desk.pull(&registry.name()).success();
    let requests = registry.requests();
    let (asked, rest): (Vec<_>, Vec<_>) =
        requests.iter().partition(|request| request.line.contains("/token"));
    assert_eq!(asked.len(), 1, "{requests:?}");
    assert_eq!(asked[0].line, "POST /token");
    assert_eq!(asked[0].authorization, None);
    assert_eq!(
        asked[0].body,
        "grant_type=refresh_token&client_id=shifter&service=x&scope=repository%3Ax%3Apull\
         &refresh_token=long%2Blived%26token"
    );
    assert!(rest.iter().all(|request| !format!("{request:?}").contains("lived")), "{rest:?}");

    // A redirect that keeps method and body takes the token along.
    let (registry, thief) = (token_registry(), Faulty::serve(&image()));
    let file = serde_json::json!({"auths": {registry.address(): entry}});
    desk.write(".docker/config.json", &file.to_string());
    registry.fail("/token", 9, Fault::Redirect(format!("http://{}/token", thief.address())));
    let stderr = desk.pull(&registry.name()).failure(125);
    assert_says(&stderr, &["the credentials of ~/.docker/config.json are not accepted"]);
    assert!(thief.requests().is_empty(), "{:?}", thief.requests());
}

#[test]
fn the_first_place_that_has_credentials_wins() {
    need!(root);
    let (desk, registry) = (Desk::new("order"), token_registry());
    let (address, home) = (registry.address(), desk.dir.display().to_string());
    desk.shell("mkdir -p $HOME/.config/containers $HOME/.config/enroot $HOME/run/containers")
        .success();
    desk.shell("mkdir -p -m 700 $HOME/.config/shifter").success();
    let netrc = "machine x login y password z\nmachine 127.0.0.1 login f password p\n";
    desk.write(".config/enroot/.credentials", netrc);
    let mut expected = vec![basic("f:p")];
    // From the last to the first: each goes before what was there.
    for (user, path) in [
        ("e", ".docker/config.json"),
        ("d", ".config/containers/auth.json"),
        ("c", "run/containers/auth.json"),
        ("b", "named.json"),
        ("a", ".config/shifter/auth.json"),
    ] {
        pull_with_all_set(&desk, &registry, &home);
        desk.write_auth(path, &address, &format!("{user}:p"));
        desk.shell(&format!("chmod 600 $HOME/{path}")).success();
        expected.push(basic(&format!("{user}:p")));
    }
    pull_with_all_set(&desk, &registry, &home);
    assert_eq!(shown(&registry), expected);
}

fn pull_with_all_set(desk: &Desk, registry: &Faulty, home: &str) {
    let mut pull = desk.command("shifter", &["pull", &registry.name()]);
    pull.env("REGISTRY_AUTH_FILE", format!("{home}/named.json"));
    pull.env("XDG_RUNTIME_DIR", format!("{home}/run"));
    run(pull).success();
}

#[test]
fn the_longest_key_wins() {
    need!(root);
    let (desk, registry) = (Desk::new("keys"), token_registry());
    let address = registry.address();
    let auth =
        |user: &str| serde_json::json!({"auth": BASE64_STANDARD.encode(format!("{user}:p"))});
    let file = serde_json::json!({"auths": {
        &address: auth("host"), format!("{address}/a"): auth("a"), format!("{address}/a/b"): auth("b"),
    }});
    desk.write(".docker/config.json", &file.to_string());
    for repository in ["x", "a/x", "a/b", "a/bc"] {
        desk.pull(&format!("{address}/{repository}:1")).success();
    }
    assert_eq!(shown(&registry), ["host:p", "a:p", "b:p", "a:p"].map(basic));
}

#[test]
fn enroots_passwords_are_not_evaluated() {
    need!(root);
    let (desk, registry) = (Desk::new("netrc"), token_registry());
    let file = "machine 127.0.0.1 login alice password $(touch $HOME/evaluated; echo p)\n";
    desk.write("credentials", file);
    desk.shell("mkdir $HOME/enroot && mv $HOME/credentials $HOME/enroot/.credentials").success();
    registry.fail("/token", 100, Fault::status(401));
    let mut pull = desk.command("shifter", &["pull", &registry.name()]);
    pull.env("ENROOT_CONFIG_PATH", desk.dir.join("enroot"));
    let stderr = run(pull).failure(125);
    assert_says(&stderr, &["~/enroot/.credentials is a shell expression", "shifter login"]);
    assert!(!desk.dir.join("evaluated").exists(), "a password was evaluated");
    assert_eq!(shown(&registry), [None]);
}

/// nvcr.io names another realm for a token that has expired, which has none for anonymous callers;
/// Harbor asks for Basic then.
#[test]
fn a_token_is_renewed_where_the_first_one_was() {
    need!(root);
    for (name, challenge) in [
        ("nvcr", "Bearer realm=\"http://127.0.0.1:1/token\",error=\"invalid_token\""),
        ("harbor", "Basic realm=\"harbor\""),
    ] {
        let (desk, registry) = (Desk::new(&format!("renew-{name}")), token_registry());
        let answer = format!("WWW-Authenticate: {challenge}\r\n");
        registry.fail("blobs/", 1, Fault::Answer(401, answer, Vec::new()));
        desk.pull(&registry.name()).success();
        assert_eq!(shown(&registry), [None, None], "{:?}", registry.requests());
    }
}
