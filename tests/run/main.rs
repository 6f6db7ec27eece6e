//! `shifter run`, by an ordinary user, of images from a real registry.

mod kept;
mod mounts;
mod options;
mod saved;
mod surroundings;
mod terminal;

use std::{
    fs,
    io::Write as _,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::PathBuf,
    process::{Command, Stdio},
    sync::LazyLock,
};

use nix::unistd::{Gid, chown};

use fixtures::{
    Outcome, Registry, Sandbox, User,
    image::{self, Image, Layer},
    need, run,
};

struct Site {
    sandbox: Sandbox,
    registry: Registry,
    user: User,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let registry = Registry::start(&sandbox);
    registry.push("busybox:1", &image::busybox().build());
    let site = Site { sandbox, registry, user: User::ordinary() };
    // It is started as it lies there, without a registry; images that tests push are brought first.
    let mut pull = site.user.command(&site.sandbox, "shifter-pull");
    pull.arg(site.registry.name("busybox:1"));
    run(pull).success();
    site
});

impl Site {
    fn command(&self, args: &[&str]) -> Command {
        let mut command = self.user.command(&self.sandbox, "shifter");
        command.arg("run").args(args);
        command
    }

    fn busybox(&self, words: &[&str]) -> Outcome {
        let image = self.registry.name("busybox:1");
        run(self.command(&[&[image.as_str()], words].concat()))
    }

    /// A run of the image, with options before its name.
    fn with(&self, options: &[&str], words: &[&str]) -> Outcome {
        let image = self.registry.name("busybox:1");
        run(self.command(&[options, &[image.as_str()], words].concat()))
    }

    fn sh(&self, script: &str) -> Outcome {
        self.busybox(&["sh", "-c", script])
    }

    /// Pushes an image with busybox and more.
    fn push(&self, name: &str, edit: impl FnOnce(Image) -> Image) -> String {
        self.registry.push(name, &edit(image::busybox()).build());
        self.registry.name(name)
    }
}

#[test]
fn a_command_sees_its_image() {
    need!(root, registry, busybox, userns);
    let release = SITE.busybox(&["cat", "/etc/os-release"]).success();
    assert_eq!(release, image::OS_RELEASE);
}

#[test]
fn the_caller_stays_who_he_is() {
    need!(root, registry, busybox, userns);
    let (uid, gid) = (SITE.user.uid, SITE.user.gid);
    assert_eq!(
        SITE.sh("id -u; id -g; id -un; echo $HOME").success(),
        format!("{uid}\n{gid}\n{}\n{}\n", SITE.user.name, SITE.user.home.display())
    );
    let status = SITE.busybox(&["grep", "-E", "NoNewPrivs|CapEff", "/proc/self/status"]).success();
    assert_eq!(status, "CapEff:\t0000000000000000\nNoNewPrivs:\t1\n");
    // A program of the image that would be root's by its mode is nobody's.
    let mounts = SITE.busybox(&["grep", " / ", "/proc/self/mounts"]).success();
    assert!(mounts.contains("nosuid") && mounts.contains("nodev"), "{mounts}");
}

#[test]
fn the_exit_status_is_the_programs() {
    need!(root, registry, busybox, userns);
    for code in [0, 1, 42, 255] {
        assert_eq!(SITE.sh(&format!("exit {code}")).code, code);
    }
    assert_eq!(SITE.sh("kill -TERM $$").code, 128 + 15);
}

#[test]
fn what_is_written_goes_with_the_container() {
    need!(root, registry, busybox, userns);
    let script = "echo x > /new && rm /etc/os-release && cat /new && ls /etc/os-release";
    let outcome = SITE.sh(script);
    assert_eq!((outcome.code, outcome.stdout.as_str()), (1, "x\n"));
    assert_eq!(SITE.sh("ls /new; cat /etc/os-release").stdout, image::OS_RELEASE);
}

#[test]
fn home_and_working_directory_are_the_hosts() {
    need!(root, registry, busybox, userns);
    let work = SITE.sandbox.make_dir("run-work", 0o777);
    let mut command = SITE.command(&[&SITE.registry.name("busybox:1"), "sh", "-c"]);
    command.arg("pwd; echo there > here; touch ~/shifter-run-test").current_dir(&work);
    assert_eq!(run(command).success(), format!("{}\n", work.display()));
    assert_eq!(fs::read_to_string(work.join("here")).ok().as_deref(), Some("there\n"));
    fs::remove_file(SITE.user.home.join("shifter-run-test")).expect("written to home");
    // Where the image has something, it is the image's.
    let mut command = SITE.command(&[&SITE.registry.name("busybox:1"), "ls", "os-release"]);
    command.current_dir("/etc");
    assert_eq!(run(command).success(), "os-release\n");
}

#[test]
fn the_system_is_the_hosts() {
    need!(root, registry, busybox, userns);
    let host_pid = std::process::id();
    SITE.sh(&format!("test -d /proc/{host_pid} && test -c /dev/null && test -d /sys/kernel"))
        .success();
    SITE.sh("echo x > /dev/shm/shifter-run-test && rm /dev/shm/shifter-run-test").success();
    assert_ne!(SITE.sh("echo x > /sys/kernel/x").code, 0);
    let hosts = fs::read_to_string("/etc/hosts").expect("hosts");
    assert_eq!(SITE.busybox(&["cat", "/etc/hosts"]).success(), hosts);
    for ns in ["pid", "net", "ipc", "uts"] {
        let own = fs::read_link(format!("/proc/self/ns/{ns}")).expect("namespace");
        let inside = SITE.busybox(&["readlink", &format!("/proc/self/ns/{ns}")]).success();
        assert_eq!(inside.trim(), own.to_string_lossy(), "{ns} namespace");
    }
}

#[test]
fn the_images_settings_hold() {
    need!(root, registry, busybox, userns);
    let name = SITE.push("settings:1", |image| {
        image
            .env("PATH=/tools:/bin")
            .env("COLOR=image")
            .env("EQUALS=a=b=c")
            .entrypoint(&["/bin/echo", "entry"])
            .cmd(&["cmd"])
            .layer(Layer::new().dir("work", 0o755))
            .working_dir("/work")
    });
    let with = |args: &[&str]| {
        let mut command = SITE.command(&[&[name.as_str()], args].concat());
        command.env("COLOR", "host").env("LD_PRELOAD", "/host.so").env("KEPT", "yes");
        command
    };
    assert_eq!(run(with(&[])).success(), "entry cmd\n");
    assert_eq!(run(with(&["a", "-b"])).success(), "entry a -b\n");

    let name = SITE.push("env:1", |image| {
        image.env("PATH=/tools:/bin").env("COLOR=image").env("EQUALS=a=b=c")
    });
    let mut command = SITE.command(&[&name, "env"]);
    command.env("COLOR", "host").env("LD_PRELOAD", "/host.so").env("KEPT", "yes");
    let env = run(command).success();
    for line in ["PATH=/tools:/bin", "COLOR=image", "EQUALS=a=b=c", "KEPT=yes"] {
        assert!(env.lines().any(|l| l == line), "no {line} in {env}");
    }
    assert!(!env.contains("LD_PRELOAD"), "{env}");
}

#[test]
fn an_image_needs_nothing_in_it_to_start() {
    need!(root, registry, busybox, userns);
    let program =
        fs::read("/bin/busybox").or_else(|_| fs::read("/usr/bin/busybox")).expect("busybox");
    let image = Image::new().layer(Layer::new().file("true", 0o755, program));
    SITE.registry.push("distroless:1", &image.build());
    run(SITE.command(&[&SITE.registry.name("distroless:1"), "/true"])).success();
}

#[test]
fn a_command_that_is_not_there_or_does_not_run() {
    need!(root, registry, busybox, userns);
    let name = SITE.push("broken:1", |image| {
        image.layer(
            Layer::new()
                .file("bin/plain", 0o644, "x")
                .file("bin/other", 0o755, "\x7fELF of another machine")
                .file("bin/script", 0o755, "#!/no/such/interpreter\n"),
        )
    });
    for (word, code, parts) in [
        ("missing", 127, ["\"missing\"", "not found in"]),
        ("/bin/missing", 127, ["\"/bin/missing\"", "not found in"]),
        ("/bin/plain", 126, ["/bin/plain", "permission"]),
        ("/bin/other", 126, ["/bin/other", "another machine"]),
        ("/bin/script", 126, ["/bin/script", "/no/such/interpreter"]),
    ] {
        let outcome = run(SITE.command(&[&name, word]));
        let stderr = outcome.clone().failure(code);
        let last = stderr.lines().last().unwrap_or_default().to_lowercase();
        assert!(last.starts_with("shifter: "), "{outcome}");
        for part in parts {
            assert!(last.contains(&part.to_lowercase()), "no {part:?}: {outcome}");
        }
    }
}

#[test]
fn hostile_links_of_an_image_stay_inside() {
    need!(root, registry, busybox, userns);
    let outside = SITE.sandbox.make_dir("hostile", 0o777);
    let name = SITE.push("hostile:1", |image| {
        image.layer(
            Layer::new()
                .symlink("tmp", &format!("../../..{}", outside.display()))
                .symlink("sys", &outside.to_string_lossy())
                .symlink("home", "/../../../../var/tmp"),
        )
    });
    run(SITE.command(&[&name, "true"])).success();
    assert_eq!(fs::read_dir(&outside).expect("outside").count(), 0, "A FILE OF THE HOST WAS MADE");
}

#[test]
fn user_namespaces_that_are_switched_off_are_named() {
    need!(root, registry, busybox, userns);
    SITE.busybox(&["true"]).success();
    // In a user namespace of its own, the limit is that namespace's; nobody else is touched.
    let image = SITE.registry.name("busybox:1");
    let script =
        format!("echo 0 > /proc/sys/user/max_user_namespaces && exec shifter run {image} true");
    let mut command = SITE.user.command(&SITE.sandbox, "unshare");
    command.args(["-Ur", "sh", "-c", &script]);
    // The store is not ours to find as root of that namespace; it is the same user's.
    let outcome = run(command);
    let stderr = outcome.clone().failure(125);
    assert!(
        stderr.contains("user namespace") && stderr.contains("max_user_namespaces"),
        "{outcome}"
    );
    assert_eq!(stderr.lines().count(), 1, "{outcome}");
}

#[test]
fn standard_input_passes_through_and_may_be_closed() {
    need!(root, registry, busybox, userns);
    let image = SITE.registry.name("busybox:1");
    let mut command = SITE.command(&[&image, "cat"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("start shifter");
    child.stdin.take().expect("piped").write_all(b"through").expect("write");
    assert_eq!(child.wait_with_output().expect("wait").stdout, b"through");
    let mut command = SITE.user.command(&SITE.sandbox, "sh");
    command.args(["-c", &format!("shifter run {image} echo open <&-")]);
    assert_eq!(run(command).success(), "open\n");
}

#[test]
fn what_the_parent_ignores_stays_ignored() {
    need!(root, registry, busybox, userns);
    let image = SITE.registry.name("busybox:1");
    let mut command = SITE.user.command(&SITE.sandbox, "nohup");
    command.args(["shifter", "run", &image, "grep", "SigIgn", "/proc/self/status"]);
    let said = run(command).success();
    let ignored = said.trim().rsplit('\t').next().and_then(|hex| u64::from_str_radix(hex, 16).ok());
    let ignores = |signal: u32| ignored.expect("a mask") & 1 << (signal - 1) != 0;
    assert!(ignores(1), "nohup has no effect: {said}");
    assert!(!ignores(13), "SIGPIPE is Rust's to ignore, not the program's: {said}");
}

#[test]
fn an_image_runs_under_every_group_of_its_user() {
    need!(root, registry, busybox, userns);
    let name = SITE.push("groups:1", |image| image);
    // As after newgrp, or with a node directory where a group shares its files.
    let shared = SITE.sandbox.node_dir(&SITE.user).with_file_name("setgid");
    let shared = SITE.sandbox.make_dir(shared, 0o777);
    chown(&shared, None, Some(Gid::from_raw(60_001))).expect("chown");
    fs::set_permissions(&shared, fs::Permissions::from_mode(0o2777)).expect("chmod");
    for gid in [SITE.user.gid, 60_002, SITE.user.gid] {
        let mut command = SITE.command(&[&name, "sh", "-c", "touch /etc/x && id -g"]);
        command.gid(gid).env("SHIFTER_NODE_DIR", shared.join("node"));
        assert_eq!(run(command).success(), format!("{gid}\n"));
    }
}

#[test]
fn a_dry_run_tells_and_does_not_do() {
    need!(root, registry, busybox, userns);
    let told = SITE.busybox(&["true"]);
    told.success();
    let name = SITE.registry.name("busybox:1");
    let told = run(SITE.command(&["--dry-run", &name, "touch", "/tmp/shifter-dry-run"])).success();
    for part in [name.as_str(), "/proc", "/dev", "touch"] {
        assert!(told.contains(part), "no {part}: {told}");
    }
    assert!(!PathBuf::from("/tmp/shifter-dry-run").exists());
}
