//! The plugin, loaded and called by a Slurm that is none: `abi/host.c`.
//!
//! What Slurm itself makes of it is for the tests on a real one; here are all the cases that take
//! a particular release, a broken installation or a panic. Each is a whole transcript: what the
//! plugin logged, what each hook returned, and what it left behind.
//!
//! Before: `cargo build -p shifter-spank`, and for the panics a copy with `--features faults` as
//! `../faults/libshifter_spank.so` beside it.

#[path = "abi/options.rs"]
mod options;
#[path = "abi/panics.rs"]
mod panics;

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::LazyLock,
};

/// A launcher that is there.
const LAUNCHER: &str = "plugstack=shifter=/bin/true";
const ALPINE: &str = r#"env=SLURM_SPANK_SHIFTER_REQUEST={"container":"alpine:3"}"#;

/// What differs between the programs that load the plugin.
#[derive(Clone, Copy)]
enum Slurm {
    /// Up to 23.02.
    Old,
    /// 23.11 and later: has `spank_prepend_task_argv`.
    New,
    /// A client that does not let plugins at its options.
    Hidden,
}

struct Host {
    slurm: Slurm,
    plugin: PathBuf,
    words: Vec<String>,
    env: Vec<(&'static str, String)>,
    dir: Option<String>,
}

impl Host {
    fn new(slurm: Slurm, words: &[&str]) -> Host {
        let words = words.iter().map(|word| word.to_string()).collect();
        Host { slurm, plugin: built("libshifter_spank.so"), words, env: Vec::new(), dir: None }
    }

    /// An srun of 24.11 that is done with its options.
    fn client(words: &[&str]) -> Host {
        let before = ["api=42", "context=local", "init"].iter();
        Host::new(Slurm::New, &before.chain(words).copied().collect::<Vec<_>>())
            .then("init_post_opt")
    }

    /// The same of sbatch or salloc.
    fn submitter(words: &[&str]) -> Host {
        let mut host = Host::client(words);
        host.words[1] = "context=allocator".to_owned();
        host
    }

    /// A task about to run `./app -x` on node n17.
    fn task(slurm: Slurm, words: &[&str]) -> Host {
        let before = ["context=remote", "init", "init_post_opt", "env=SLURMD_NODENAME=n17"].iter();
        Host::new(slurm, &before.chain(words).copied().collect::<Vec<_>>())
            .then("arg=./app")
            .then("arg=-x")
            .then("task_init")
    }

    fn then(mut self, word: &str) -> Host {
        self.words.push(word.to_owned());
        self
    }

    fn env(mut self, name: &'static str, value: &str) -> Host {
        self.env.push((name, value.to_owned()));
        self
    }

    fn within(mut self, dir: &str) -> Host {
        self.dir = Some(dir.to_owned());
        self
    }

    fn faults(mut self) -> Host {
        self.plugin = built("../faults/libshifter_spank.so");
        self
    }

    /// Returns all that was printed, then the exit status if it is not 0. The process's number
    /// is PID, and where a panic came from is left out.
    fn run(&self) -> String {
        let child = Command::new(host(self.slurm))
            .arg(&self.plugin)
            .args(&self.words)
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .current_dir(self.dir.as_deref().unwrap_or("."))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the host can be run");
        let pid = format!("\"pid\":{}", child.id());
        let output = child.wait_with_output().expect("its output can be read");
        let text = String::from_utf8([output.stdout, output.stderr].concat()).expect("UTF-8");
        let lines = text.lines().filter(|line| !line.starts_with("debug: shifter: panicked at"));
        let mut text: String = lines.map(|line| line.replace(&pid, "\"pid\":PID") + "\n").collect();
        if !output.status.success() {
            text += &format!("{}\n", output.status);
        }
        text
    }
}

/// Finds what cargo has built beside this test: `target/release/deps/abi-…`.
fn built(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let path = test.ancestors().nth(2).expect("target/release/deps").join(name);
    assert!(path.exists(), "{} is missing: make build faults", path.display());
    path
}

/// Compiles the host, as Slurm's programs are: with all their symbols for plugins to see.
fn host(slurm: Slurm) -> &'static Path {
    fn compile(name: &str, flags: &[&str]) -> PathBuf {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/abi/host.c");
        let gcc = Command::new("gcc")
            .args(["-rdynamic", "-o"])
            .arg(&path)
            .arg(source)
            .args(flags)
            .status();
        assert!(gcc.expect("gcc can be run").success(), "{source} does not compile");
        path
    }
    static OLD: LazyLock<PathBuf> = LazyLock::new(|| compile("old", &[]));
    static NEW: LazyLock<PathBuf> = LazyLock::new(|| compile("new", &["-DPREPEND"]));
    static HIDDEN: LazyLock<PathBuf> = LazyLock::new(|| compile("hidden", &["-DHIDDEN"]));
    match slurm {
        Slurm::Old => &OLD,
        Slurm::New => &NEW,
        Slurm::Hidden => &HIDDEN,
    }
}

fn binutil(program: &str, flag: &[&str]) -> String {
    let output = Command::new(program).args(flag).arg(built("libshifter_spank.so")).output();
    String::from_utf8(output.expect("binutils are installed").stdout).expect("ASCII")
}

#[track_caller]
fn prints(host: Host, transcript: &str) {
    assert_eq!(host.run(), transcript);
}

// What the dynamic linker and Slurm's loader see.

#[test]
fn each_release_is_told_its_own() {
    for (api, version) in [
        (36, "140b00"),
        (37, "150800"),
        (38, "160500"),
        (39, "170200"),
        (40, "170b00"),
        (41, "180500"),
        (42, "180b00"),
        (43, "190500"),
        (44, "190b00"),
        (45, "1a0500"),
        (46, "1a0b00"),
    ] {
        let text = Host::new(Slurm::Old, &[&format!("api={api}")]).run();
        assert_eq!(text, format!("shifter spank {version} 3012\n"), "interface {api}");
    }
}

#[test]
fn a_release_not_known_is_noted_by_slurmd_alone() {
    let slurmd = ["api=46", "context=slurmd", "init"];
    let note =
        "info: shifter: Slurm interface 46 is newer than this plugin; its release is a guess";
    prints(Host::new(Slurm::New, &slurmd), &format!("{note}\ninit: 0\n"));
    prints(Host::new(Slurm::New, &["api=46", "context=remote", "init"]), "init: 0\n");
}

#[test]
fn only_the_hooks_in_use_are_exported() {
    let text = binutil("nm", &["-D", "--defined-only"]);
    let mut symbols: Vec<_> = text.lines().filter_map(|l| l.split_whitespace().nth(2)).collect();
    symbols.sort_unstable();
    assert_eq!(
        symbols,
        [
            "plugin_name",
            "plugin_type",
            "plugin_version",
            "slurm_spank_init",
            "slurm_spank_init_failure_mode",
            "slurm_spank_init_post_opt",
            "slurm_spank_task_init",
        ]
    );
}

#[test]
fn nothing_that_a_release_lacks_is_needed_to_load() {
    let dynamic = binutil("readelf", &["-d"]);
    assert!(!dynamic.contains("NOW"), "symbols are bound when loaded:\n{dynamic}");
    let undefined = binutil("nm", &["-D", "--undefined-only"]);
    for symbol in ["spank_prepend_task_argv", "slurm_option_", "slurm_api_version", " opt"] {
        assert!(!undefined.contains(symbol), "{symbol} is linked, not looked up");
    }
}

/// The host without `spank_prepend_task_argv` has what every release has, and nothing else.
#[test]
fn every_symbol_that_it_links_is_in_every_release() {
    let host = Host::new(Slurm::Old, &["api=38"]).env("LD_BIND_NOW", "1");
    prints(host, "shifter spank 160500 3012\n");
}

// The client side.

#[test]
fn an_image_is_taken_over_from_slurm() {
    let request = r#"SLURM_SPANK_SHIFTER_REQUEST={"container":"docker.io/nvidia/cuda:12.4"}"#;
    prints(
        Host::client(&["builtin=nvidia/cuda:12.4"]),
        &format!("init: 0\ninit_post_opt: 0\n{request}\n"),
    );
}

#[test]
fn what_an_environment_file_says_is_carried() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("env.toml");
    let text = "image = 'alpine:3'\nworkdir = '/$WHERE'\n[annotations]\ncom.hooks.x = '1'";
    std::fs::write(&file, text).expect("a file");
    let file = file.canonicalize().expect("it is there");
    let file = file.to_str().expect("UTF-8");
    let request = format!(
        r#"{{"container":"docker.io/library/alpine:3","options":{{"workdir":"/there"}},"file":"{file}"}}"#
    );
    let host = Host::client(&[&format!("builtin={file}")]).env("HOME", "/nowhere");
    prints(
        host.env("WHERE", "there"),
        &format!(
            "init: 0\ninfo: shifter: {file}:4: annotation com.hooks.x is not acted on\n\
             init_post_opt: 0\nSLURM_SPANK_SHIFTER_REQUEST={request}\n"
        ),
    );
    // An srun in the job takes all of it, and the file is not read again.
    let inner = Host::client(&[]).env("SLURM_JOB_ID", "7");
    prints(
        inner.env("SLURM_SPANK_SHIFTER_REQUEST", &request),
        &format!("init: 0\ninit_post_opt: 0\nSLURM_SPANK_SHIFTER_REQUEST={request}\n"),
    );
    is_refused(
        Host::client(&[&format!("builtin={file}")]).env("HOME", "/nowhere"),
        &format!(
            "--container: read environment {file}:2: variable WHERE is not set; \
             set it, or write ${{WHERE:-DEFAULT}}"
        ),
    );
}

#[test]
fn sbatch_and_salloc_carry_it_past_export() {
    let request = r#"SHIFTER_REQUEST={"container":"docker.io/library/alpine:3"}"#;
    prints(
        Host::submitter(&["builtin=alpine:3"]),
        &format!("init: 0\njob control: {request}\ninit_post_opt: 0\nSLURM_SPANK_{request}\n"),
    );
}

#[test]
fn no_container_is_said_too() {
    let none = "SLURM_SPANK_SHIFTER_REQUEST=none\n";
    prints(Host::client(&[]), &format!("init: 0\ninit_post_opt: 0\n{none}"));
    prints(Host::client(&["builtin=none"]), &format!("init: 0\ninit_post_opt: 0\n{none}"));
    prints(
        Host::submitter(&[]),
        &format!("init: 0\njob control: SHIFTER_REQUEST=none\ninit_post_opt: 0\n{none}"),
    );
}

#[test]
fn an_outer_jobs_slurm_container_is_forgotten() {
    let request = r#"SLURM_SPANK_SHIFTER_REQUEST={"container":"docker.io/library/b:latest"}"#;
    prints(
        Host::client(&["builtin=b"]).env("SLURM_CONTAINER", "a"),
        &format!("init: 0\ninit_post_opt: 0\n{request}\n"),
    );
}

#[test]
fn an_srun_in_a_job_takes_the_jobs_container() {
    let job = |words: &[&str]| {
        Host::client(words)
            .env("SLURM_JOB_ID", "7")
            .env("SLURM_SPANK_SHIFTER_REQUEST", r#"{"container":"alpine:3"}"#)
    };
    let ran = "init: 0\ninit_post_opt: 0\nSLURM_SPANK_SHIFTER_REQUEST=";
    let alpine = "\"container\":\"docker.io/library/alpine:3\"";
    prints(job(&[]), &format!("{ran}{{{alpine}}}\n"));
    prints(job(&["builtin=none"]), &format!("{ran}none\n"));
    prints(
        job(&["builtin=b"]),
        &format!("{ran}{{\"container\":\"docker.io/library/b:latest\"}}\n"),
    );
    prints(job(&["multi-prog"]), &format!("{ran}{{{alpine},\"multi_prog\":true}}\n"));
}

#[test]
fn a_new_job_takes_nobodys_container() {
    let stale = r#"{"container":"alpine:3"}"#;
    let none = "SLURM_SPANK_SHIFTER_REQUEST=none\n";
    prints(
        Host::client(&[]).env("SLURM_SPANK_SHIFTER_REQUEST", stale),
        &format!("init: 0\ninit_post_opt: 0\n{none}"),
    );
    prints(
        Host::submitter(&[]).env("SLURM_JOB_ID", "7").env("SLURM_SPANK_SHIFTER_REQUEST", stale),
        &format!("init: 0\njob control: SHIFTER_REQUEST=none\ninit_post_opt: 0\n{none}"),
    );
}

#[test]
fn a_bundle_is_left_to_slurm() {
    let bundle = tempfile::tempdir().expect("a directory");
    std::fs::write(bundle.path().join("config.json"), "{}").expect("a bundle");
    let bundle = bundle.path().to_str().expect("UTF-8");
    prints(
        Host::client(&[&format!("builtin={bundle}")]),
        &format!(
            "init: 0\ninit_post_opt: 0\nbuiltin: {bundle}\nSLURM_CONTAINER={bundle}\n\
             SLURM_SPANK_SHIFTER_REQUEST=none\n"
        ),
    );
}

/// Asserts that the job is refused for `why`, and could not run if it were submitted.
#[track_caller]
fn is_refused(host: Host, why: &str) {
    let text = host.run();
    let errors: Vec<_> = text.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors, [format!("error: shifter: {why}")], "{text}");
    assert!(text.contains("\ninit_post_opt: -1\n"), "submitted all the same:\n{text}");
    assert!(
        text.contains("\nSLURM_SPANK_SHIFTER_REQUEST=refused\n"),
        "would run on the bare host under `optional`:\n{text}"
    );
}

#[test]
fn what_is_no_image_is_refused_before_the_job_exists() {
    let write = "; write --container=[REGISTRY/]NAME[:TAG], or --container=none for no container";
    for (value, why) in [
        (
            "Nvidia/cuda",
            "image reference \"Nvidia/cuda\": repository must be lower-case (position 0)",
        ),
        (
            "a\nb",
            "image reference \"a\\nb\": repository \"a\\nb\" has a bad component; \
                  components are a-z 0-9 joined by . _ __ or -",
        ),
    ] {
        is_refused(Host::client(&[&format!("builtin={value}")]), &format!("{why}{write}"));
    }
    let empty = "--container is empty; name an image, or say --container=none for no container";
    is_refused(Host::client(&["builtin="]), empty);
    is_refused(Host::submitter(&["builtin="]), empty);
}

#[test]
fn an_image_that_lies_in_a_file_is_taken_over_by_its_absolute_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let dir = dir.path().canonicalize().expect("it is there");
    let make = |name: &str, content: &str| {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().expect("in a directory")).expect("made");
        std::fs::write(&path, content).expect("written");
    };
    make("x.sqsh", "hsqs");
    make("layout/oci-layout", "{}");
    make("rootfs/bin/sh", "");
    let dir = dir.to_str().expect("UTF-8");
    for (typed, prefix, path) in [
        ("x.sqsh", "", "/x.sqsh"),
        ("./x.sqsh", "", "/x.sqsh"),
        ("~/x.sqsh", "", "/x.sqsh"),
        ("rootfs/", "", "/rootfs"),
        ("./layout:1", "", "/layout:1"),
        ("oci:layout:1", "oci:", "/layout:1"),
    ] {
        let host = Host::client(&[&format!("builtin={typed}")]).env("HOME", dir).within(dir);
        let request = format!("{{\"container\":\"{prefix}{dir}{path}\"}}");
        prints(
            host,
            &format!("init: 0\ninit_post_opt: 0\nSLURM_SPANK_SHIFTER_REQUEST={request}\n"),
        );
    }
    // What does not lie here may be a typing error.
    for path in ["./bundle", "/not/to/be/seen/here", "oci:/not/to/be/seen/here:1"] {
        let shown = path.trim_start_matches("oci:").replace("./", &format!("{dir}/"));
        is_refused(
            Host::client(&[&format!("builtin={path}")]).within(dir),
            &format!(
                "--container: open {shown}: no such file or directory; it has to be seen where the \
                 job is submitted: what only nodes have is for `shifter run` in the job"
            ),
        );
    }
    is_refused(
        Host::client(&["builtin=/etc/passwd"]),
        "--container: /etc/passwd: neither an image nor an archive of a root file system; name what \
         docker, podman or skopeo have saved, a tar archive or a directory of a root file system, \
         or a squashfs",
    );
    is_refused(
        Host::client(&["builtin=docker-daemon:x"]),
        "--container: image \"docker-daemon:x\": docker's daemon is not asked for images; \
         save it (docker save IMAGE >image.tar) and name ./image.tar",
    );
}

#[test]
fn a_broken_request_around_it_is_refused() {
    is_refused(
        Host::client(&[]).env("SLURM_JOBID", "7").env("SLURM_SPANK_SHIFTER_REQUEST", "{"),
        "the job's container, SLURM_SPANK_SHIFTER_REQUEST in the environment: \
         read the job's container request: not understood: EOF while parsing an object at line 1 column 1; \
         unset the variable, or name an image with --container",
    );
}

#[test]
fn a_mistake_in_plugstack_conf_is_told_to_jobs_with_containers_alone() {
    let why = "plugstack.conf: unknown argument \"shiftr=/x\"; \
               the plugin takes shifter=PATH, config=PATH and prefix=WORD (tell the administrator)";
    is_refused(Host::client(&["plugstack=shiftr=/x", "builtin=alpine"]), why);
    let none = "SLURM_SPANK_SHIFTER_REQUEST=none\n";
    for words in [&["plugstack=shiftr=/x"][..], &["plugstack=shiftr=/x", "builtin=none"][..]] {
        prints(Host::client(words), &format!("init: 0\ninit_post_opt: 0\n{none}"));
    }
}

#[test]
fn a_client_that_hides_its_options_is_not_trusted_with_an_image() {
    let client = |words: &[&str]| {
        let words: Vec<_> = ["init"].iter().chain(words).copied().collect();
        Host::new(Slurm::Hidden, &words).then("init_post_opt")
    };
    is_refused(
        client(&["builtin=alpine"]),
        "--container=alpine: cannot be taken over from this Slurm, which hides its options from \
         plugins; leave it out and use `shifter run` in the job",
    );
    prints(client(&[]), "init: 0\ninit_post_opt: 0\nSLURM_SPANK_SHIFTER_REQUEST=none\n");
}

#[test]
fn an_option_that_slurm_keeps_is_refused() {
    is_refused(
        Host::client(&["stuck", "builtin=alpine"]),
        "--container=alpine: cannot be taken over: Slurm does not let go of its own option",
    );
}

#[test]
fn components_of_a_heterogeneous_job_share_one_container() {
    let ran = "init: 0\ninit_post_opt: 0\ninit_post_opt: 0\nSLURM_SPANK_SHIFTER_REQUEST=";
    let host = Host::client(&["builtin=a"]).then("builtin=a").then("init_post_opt");
    prints(host, &format!("{ran}{{\"container\":\"docker.io/library/a:latest\"}}\n"));
    let second = Host::client(&["builtin=a"]).then("no-builtin").then("init_post_opt").run();
    let why = "error: shifter: the components of a heterogeneous job differ in --container; \
               name one image, or none, for all of them, and options once\ninit_post_opt: -1\n\
               SLURM_SPANK_SHIFTER_REQUEST=refused\n";
    assert!(second.ends_with(why), "one component would lose its container:\n{second}");
}

#[test]
fn before_21_08_the_option_is_the_plugins_own() {
    let old = |words: &[&str]| {
        let words: Vec<_> = ["api=36", "init"].iter().chain(words).copied().collect();
        Host::new(Slurm::Old, &words).then("init_post_opt")
    };
    let ran = "init: 0\ninit_post_opt: 0\n";
    let request = |image| {
        format!("SLURM_SPANK_SHIFTER_REQUEST={{\"container\":\"docker.io/library/{image}\"}}\n")
    };
    prints(old(&["typed=container=alpine:3"]), &format!("{ran}{}", request("alpine:3")));
    prints(old(&[]).env("SRUN_CONTAINER", "a"), &format!("{ran}{}", request("a:latest")));
    prints(old(&[]), &format!("{ran}SLURM_SPANK_SHIFTER_REQUEST=none\n"));
}

// The node side.

#[test]
fn root_hooks_do_nothing() {
    prints(
        Host::new(Slurm::New, &["context=remote", "plugstack=nonsense", ALPINE])
            .then("init")
            .then("init_post_opt"),
        "init: 0\ninit_post_opt: 0\n\
         task env: SLURM_SPANK_SHIFTER_REQUEST={\"container\":\"alpine:3\"}\n",
    );
}

#[test]
fn a_task_without_a_container_is_left_alone() {
    let node = "init: 0\ninit_post_opt: 0\ntask_init: 0\ntask env: SLURMD_NODENAME=n17\n";
    let argv = "task argv: ./app -x\n";
    let broken = ["plugstack=nonsense", "plugstack=shifter=/nonexistent"];
    prints(Host::task(Slurm::Old, &broken), &format!("{node}{argv}"));
    for none in ["none", ""] {
        let none = format!("SLURM_SPANK_SHIFTER_REQUEST={none}");
        let host = Host::task(Slurm::New, &broken);
        let words = [vec![format!("env={none}")], host.words.clone()].concat();
        let text = Host { words, ..host }.run();
        assert!(text.contains("task_init: 0\n") && text.ends_with(argv), "{text}");
    }
}

const TASK: &str = "init: 0\ninit_post_opt: 0\ntask_init: 0\ntask env: SLURMD_NODENAME=n17\n\
                    task env: SLURM_SPANK_SHIFTER_REQUEST={\"container\":\"alpine:3\"}\n";

#[test]
fn from_23_11_the_launcher_is_prepended() {
    let expected = "task env: SHIFTER_TASK={\"pid\":PID,\"batch\":false}\n\
                    task argv: /bin/true launch -- ./app -x\n";
    prints(Host::task(Slurm::New, &[ALPINE, LAUNCHER]), &format!("{TASK}{expected}"));
    let stale = Host::task(Slurm::New, &[ALPINE, "env=SHIFTER_TASK_ARGV0=x", LAUNCHER]);
    prints(stale, &format!("{TASK}{expected}"));
}

#[test]
fn before_23_11_the_launcher_replaces_the_command() {
    prints(
        Host::task(Slurm::Old, &[ALPINE, LAUNCHER]),
        &format!(
            "{TASK}task env: SHIFTER_TASK={{\"pid\":PID,\"batch\":false}}\n\
             task env: SHIFTER_TASK_ARGV0=./app\ntask argv: /bin/true -x\n"
        ),
    );
}

#[test]
fn the_batch_script_is_told_apart() {
    let host = Host::task(Slurm::New, &[ALPINE, LAUNCHER, "step=0xfffffffb"]);
    assert!(host.run().contains("\"batch\":true"), "the script would not be bound");
}

#[test]
fn a_script_runs_on_the_host_if_its_job_says_so() {
    let carrier = r#"{"container":"a","asked":{"batch":"host"}}"#;
    let env = format!("env=SLURM_SPANK_SHIFTER_REQUEST={carrier}");
    let kept = format!("task env: SLURM_SPANK_SHIFTER_REQUEST={carrier}\n");
    for step in ["step=0xfffffffb", "step=0xfffffffa"] {
        let text = Host::task(Slurm::New, &[&env, LAUNCHER, step]).run();
        assert!(text.ends_with(&format!("{kept}task argv: ./app -x\n")), "{text}");
    }
    let text = Host::task(Slurm::New, &[&env, LAUNCHER, "step=0"]).run();
    assert!(text.ends_with("task argv: /bin/true launch -- ./app -x\n"), "{text}");
}

#[test]
fn plugstack_conf_says_which_settings_count() {
    let host = Host::task(Slurm::New, &[ALPINE, LAUNCHER, "plugstack=config=/etc/site.toml"]);
    assert!(host.run().contains("\"config\":\"/etc/site.toml\""));
}

#[test]
fn multi_prog_needs_23_11() {
    let env = r#"env=SLURM_SPANK_SHIFTER_REQUEST={"container":"alpine:3","multi_prog":true}"#;
    let new = Host::task(Slurm::New, &[env, LAUNCHER]).run();
    assert!(new.ends_with("task argv: /bin/true launch -- ./app -x\n"), "{new}");
    prints(
        Host::task(Slurm::Old, &[env, LAUNCHER]),
        "init: 0\ninit_post_opt: 0\nshifter: n17: srun --multi-prog --container: this Slurm does \
         not let a plugin at the programs' commands (23.11 does); run them as separate steps\n\
         exit status: 125\n",
    );
}

/// Asserts that the task ends, with this one line.
#[track_caller]
fn ends(host: Host, line: &str) {
    prints(host, &format!("init: 0\ninit_post_opt: 0\n{line}exit status: 125\n"));
}

#[test]
fn whatever_is_wrong_the_task_does_not_run_on_the_bare_host() {
    let missing = |path: &str, errno: &str| {
        format!(
            "shifter: n17: container launcher {path}: {errno}; install it, or say where it is by \
             shifter=PATH in plugstack.conf (tell the administrator)\n"
        )
    };
    for (path, errno) in [
        ("/nonexistent/shifter", "No such file or directory"),
        ("/etc/passwd", "Permission denied"),
        ("/usr", "Is a directory"),
    ] {
        let plugstack = format!("plugstack=shifter={path}");
        ends(Host::task(Slurm::New, &[ALPINE, &plugstack]), &missing(path, errno));
    }
    ends(
        Host::task(Slurm::New, &[ALPINE, LAUNCHER, "plugstack=nonsense"]),
        "shifter: n17: plugstack.conf: unknown argument \"nonsense\"; \
         the plugin takes shifter=PATH, config=PATH and prefix=WORD (tell the administrator)\n",
    );
    for (carrier, why) in [
        ("refused", "--container was refused when the job was submitted"),
        ("{", "not understood: EOF while parsing an object at line 1 column 1; submit the job"),
        (
            "{\"container\":\"A\"}",
            "image reference \"A\": repository must be lower-case (position 0)",
        ),
    ] {
        let text = Host::task(
            Slurm::New,
            &[&format!("env=SLURM_SPANK_SHIFTER_REQUEST={carrier}"), LAUNCHER],
        )
        .run();
        assert!(text.contains(why) && text.ends_with("exit status: 125\n"), "{text}");
    }
    let no_command = ["context=remote", "env=SLURMD_NODENAME=n17", ALPINE, LAUNCHER];
    prints(
        Host::new(Slurm::Old, &no_command).then("task_init"),
        "shifter: n17: put /bin/true before the command: Slurm shows no command\n\
         exit status: 125\n",
    );
}

#[test]
fn one_task_of_a_node_speaks_for_all() {
    let multi_prog =
        r#"env=SLURM_SPANK_SHIFTER_REQUEST={"container":"alpine:3","multi_prog":true}"#;
    for broken in [[ALPINE, "plugstack=shifter=/nonexistent"], [multi_prog, LAUNCHER]] {
        ends(Host::task(Slurm::Old, &[&broken[..], &["task=1"]].concat()), "");
    }
}

// Panics.
