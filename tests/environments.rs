//! Environment files: what they say together, and running in what they say, by an ordinary user.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use fixtures::{Outcome, Registry, Sandbox, User, image, need, place::assert_says, run};

struct Site {
    sandbox: Sandbox,
    registry: Registry,
    user: User,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let registry = Registry::start(&sandbox);
    registry.push("busybox:1", &image::busybox().build());
    Site { sandbox, registry, user: User::ordinary() }
});

impl Site {
    /// A directory with these files; `IMAGE` in them stands for busybox.
    fn dir(&self, name: &str, files: &[(&str, &str)]) -> PathBuf {
        let dir = self.sandbox.make_dir(format!("env-{name}"), 0o777);
        for (name, text) in files {
            let path = dir.join(name);
            self.sandbox.make_dir(path.parent().expect("in the directory"), 0o777);
            self.sandbox.write(path, text.replace("IMAGE", &self.registry.name("busybox:1")));
        }
        dir
    }

    fn command(&self, dir: &Path, args: &[&str]) -> Command {
        let mut command = self.user.command(&self.sandbox, "shifter");
        command.args(args).current_dir(dir);
        command
    }

    fn shifter(&self, dir: &Path, args: &[&str]) -> Outcome {
        run(self.command(dir, args))
    }
}

fn without_comments(text: &str) -> String {
    text.lines()
        .map(|line| line.split("  # ").next().unwrap_or_default().to_owned() + "\n")
        .collect()
}

#[test]
fn a_command_runs_in_what_a_file_says() {
    need!(root, registry, busybox, userns);
    let dir = SITE.dir(
        "run",
        &[
            (
                "job/env.toml",
                "base = '../base.toml'\nmounts = ['./data:/data:ro', '$SCRATCH:/scratch']\n\
                 workdir = '/data'",
            ),
            ("base.toml", "image = 'IMAGE'\nmounts = ['~:/own']\nworkdir = '/'"),
            ("job/data/file", "of the host's\n"),
            ("scratch/keep", ""),
        ],
    );
    let scratch = dir.join("scratch");
    let from = |cwd: &Path, file: &str, command: &[&str]| {
        let mut shifter = SITE.command(cwd, &[&["run", file], command].concat());
        shifter.env("SCRATCH", &scratch);
        run(shifter)
    };
    let work = dir.join("job");
    assert_eq!(from(&work, "./env.toml", &["cat", "file"]).success(), "of the host's\n");
    assert_eq!(from(&work, "env.toml", &["pwd"]).success(), "/data\n");
    let script = "cat /etc/os-release; echo x > /scratch/new; ls -d /own/. && ! touch /data/new";
    let absolute = work.join("env.toml").to_string_lossy().into_owned();
    let said = from(Path::new("/"), &absolute, &["sh", "-c", script]).success();
    assert_eq!(said, format!("{}/own/.\n", image::OS_RELEASE));
    assert_eq!(fs::read_to_string(scratch.join("new")).ok().as_deref(), Some("x\n"));
    let plan = from(&work, "../job/env.toml", &["true"]);
    plan.success();
    let plan = run({
        let mut shifter = SITE.command(&work, &["run", "--dry-run", "env.toml", "true"]);
        shifter.env("SCRATCH", &scratch);
        shifter
    });
    let mount = format!("mount    /scratch from {}\n", scratch.display());
    assert!(plan.stdout.contains(&mount), "{plan}");
}

#[test]
fn what_is_rendered_is_a_file_that_says_the_same() {
    need!(root, registry, busybox);
    let dir = SITE.dir(
        "render",
        &[
            (
                "env.toml",
                "base = ['./base.toml', 'tools']\nmounts = ['./data:/data:ro']\n\
                 [env]\nNOTE = '$$5 for $LOGNAME \"here\"'\nDEBUG = ''\n",
            ),
            ("base.toml", "\nimage = 'ubuntu:24.04'\nwritable = false\n[env]\nDEBUG = '1'"),
            ("names/tools.toml", "mounts = ['/opt:/opt/host']\nentrypoint = ['/bin/sh', '-c']"),
        ],
    );
    let render = |dir: &Path, args: &[&str]| {
        let mut shifter = SITE.command(dir, &[&["render"], args].concat());
        shifter.env("SHIFTER_ENV_PATH", dir.join("names")).env("LOGNAME", "ada");
        run(shifter).success()
    };
    let text = render(&dir, &["env.toml"]);
    let here = dir.display();
    let expected = format!(
        r#"image = "docker.io/library/ubuntu:24.04"  # {here}/base.toml:2
mounts = [
    "/opt:/opt/host",  # {here}/names/tools.toml:1
    "{here}/data:/data:ro",  # {here}/env.toml:2
]
entrypoint = ["/bin/sh", "-c"]  # {here}/names/tools.toml:2
writable = false  # {here}/base.toml:3

[env]
DEBUG = ""  # {here}/env.toml:5
NOTE = "$$5 for ada \"here\""  # {here}/env.toml:4
"#
    );
    assert_eq!(text, expected);
    let elsewhere = SITE.dir("render-again", &[("env.toml", &text)]);
    let again = render(&elsewhere, &["./env.toml"]);
    assert_eq!(without_comments(&again), without_comments(&text));

    let json = render(&dir, &["--json", "env.toml"]);
    let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(json["mounts"][0]["value"], "/opt:/opt/host");
    assert_eq!(json["env"]["DEBUG"]["value"], "");
    let origin = &json["entrypoint"]["origin"];
    assert_eq!(
        (&origin["file"], origin["line"].as_u64()),
        (&format!("{here}/names/tools.toml").into(), Some(2))
    );
}

#[test]
fn names_without_a_path_are_searched_for() {
    need!(root, registry, busybox);
    let named = |name: &str| format!("image = '{name}'");
    let dir = SITE.dir("names", &[("env.toml", "base = 'x'")]);
    let home = dir.join("home");
    let places = ["own", "home/.config/shifter/env", "home/.edf", "site"];
    let image = || {
        let mut shifter = SITE.command(&dir, &["render", "env.toml"]);
        let config = SITE
            .sandbox
            .write(dir.join("shifter.toml"), format!("env_path = [{:?}]", dir.join("site")));
        shifter.env("HOME", &home).env("SHIFTER_CONFIG", config);
        shifter.env("SHIFTER_ENV_PATH", format!("/nowhere:{}", dir.join("own").display()));
        run(shifter)
    };
    // The user's settings stand for the site's, whose turn would be the last.
    let stderr = image().failure(125);
    let searched = ["own", "site", "home/.config/shifter/env", "home/.edf"]
        .map(|place| dir.join(place).display().to_string());
    assert_says(
        &stderr,
        &[
            "env.toml:1 → \"x\": not in /nowhere, ",
            &searched.join(", "),
            "name a file in one of these",
        ],
    );
    for place in places {
        SITE.dir("names", &[(&format!("{place}/y.toml"), &named("y"))]);
    }
    assert_says(&image().failure(125), &["\"x\": not in", "did you mean y?"]);
    for place in ["home/.edf", "home/.config/shifter/env", "site", "own"] {
        let text = named(&place.replace(['/', '.'], ""));
        SITE.dir("names", &[(&format!("{place}/x.toml"), &text)]);
        let rendered = image().success();
        assert!(
            rendered.contains(&dir.join(place).join("x.toml:1").display().to_string()),
            "{rendered}"
        );
    }
    // EDF's own variable takes the place of ~/.edf.
    let mut shifter = SITE.command(&dir, &["render", "only"]);
    SITE.dir("names", &[("edf/only.toml", &named("edf"))]);
    shifter.env("EDF_PATH", format!("/nowhere:{}", dir.join("edf").display()));
    assert!(run(shifter).success().starts_with("image = \"docker.io/library/edf:latest\""));
}

/// `shifter run NAME` is an image, whatever files there are.
#[test]
fn a_word_without_toml_is_an_image() {
    need!(root, registry, busybox, userns);
    let dir = SITE.dir("word", &[("missing.toml", "image = 'IMAGE'"), ("missing", "")]);
    let name = SITE.registry.name("missing");
    let mut shifter = SITE.command(&dir, &["run", &name, "true"]);
    shifter.env("SHIFTER_ENV_PATH", &dir);
    let outcome = run(shifter);
    assert!(outcome.clone().failure(125).contains("check the name and the tag"), "{outcome}");
}

#[test]
fn what_is_wrong_is_told_before_anything_is_pulled() {
    need!(root, registry, busybox);
    let dir = SITE.dir(
        "wrong",
        &[
            ("typo.toml", "image = 'IMAGE'\nmount = ['/a']"),
            ("unset.toml", "image = 'IMAGE'\n\nworkdir = '/x/$NO_SUCH_THING'"),
            ("none.toml", "workdir = '/'"),
            ("loop.toml", "base = './loop.toml'"),
            ("name.toml", "image = 'Bad/Name'"),
            ("escape.toml", "image = 'IMAGE'\n\"a\\u001b[2J\\u202e\" = 1"),
        ],
    );
    for (file, says) in [
        ("gone.toml", &["read environment", "/gone.toml: no such file or directory; "][..]),
        ("typo.toml", &["/typo.toml:2: unknown key mount; did you mean mounts?"]),
        ("unset.toml", &["/unset.toml:3: variable NO_SUCH_THING is not set; set it, or write ${"]),
        ("none.toml", &["/none.toml: neither it nor a base names an image; say image = "]),
        ("loop.toml", &["/loop.toml:1 → ", "/loop.toml: it is a base of itself; take one"]),
        ("name.toml", &["/name.toml:1: image reference \"Bad/Name\": repository must be"]),
        ("escape.toml", &["/escape.toml:2: unknown key a\\u{1b}[2J\\u{202e}; the keys are"]),
    ] {
        for verb in ["run", "render"] {
            let outcome = SITE.shifter(&dir, &[verb, &format!("./{file}")]);
            assert!(outcome.stdout.is_empty(), "{outcome}");
            assert_says(&outcome.failure(125), says);
        }
    }
}

#[test]
fn what_fails_later_is_told_with_the_line_that_asks_for_it() {
    need!(root, registry, busybox, userns);
    let dir = SITE.dir(
        "later",
        &[
            ("base.toml", "image = 'IMAGE'\n\nmounts = [\n    '/no/such/dir:/x',\n]"),
            ("mount.toml", "base = './base.toml'"),
            ("workdir.toml", "image = 'IMAGE'\nworkdir = '/no/such/dir'"),
        ],
    );
    for (file, says) in [
        ("mount.toml", ["/base.toml:4: mount /no/such/dir → /x: ", "no such file or directory"]),
        ("workdir.toml", ["/workdir.toml:2: enter working directory /no/such/dir", "no such file"]),
    ] {
        let stderr = SITE.shifter(&dir, &["run", file, "true"]).failure(125);
        let last = stderr.lines().last().unwrap_or_default();
        assert!(says.iter().all(|part| last.contains(part)), "{stderr}");
    }
}

#[test]
fn annotations_that_nothing_is_done_for_are_said_once() {
    need!(root, registry, busybox, userns);
    let text = "image = 'IMAGE'\n[annotations]\ncom.hooks.cxi.enabled = 'true'\n\
                com.hooks.ssh.enabled = 'true'\norg.note = 'x'";
    let quiet = "image = 'IMAGE'\n[annotations.com.hooks.cxi]\nenabled = 'false'";
    let dir = SITE.dir("annotations", &[("env.toml", text), ("quiet.toml", quiet)]);
    for (verb, file, lines) in
        [("render", "env.toml", 1), ("run", "env.toml", 1), ("render", "quiet.toml", 0)]
    {
        let outcome = match verb {
            "run" => SITE.shifter(&dir, &[verb, file, "true"]),
            _ => SITE.shifter(&dir, &[verb, file]),
        };
        outcome.clone().success();
        let says = "annotation com.hooks.cxi.enabled (and 1 more) is not acted on";
        assert_eq!(outcome.stderr.matches(says).count(), lines, "{outcome}");
    }
}
