//! Real containers, without privileges: a tree with busybox in it, entered by the `enter` example
//! as root and as an ordinary user.
//!
//! A host that gives no user namespaces skips these tests and says why;
//! `SHIFTER_TEST_REQUIRE=1` turns that into a failure.

#![allow(clippy::unwrap_used, clippy::print_stderr)]

use std::{
    fs::{self, Permissions},
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{PermissionsExt, chown, symlink},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

use tempfile::TempDir;

const BUSYBOX: &str = "/bin/busybox";
const APPLETS: [&str; 11] =
    ["cat", "env", "grep", "id", "ls", "pwd", "rm", "sh", "stat", "touch", "true"];

/// An image's tree and a node directory, both of one user's.
struct Site {
    dir: TempDir,
    uid: u32,
}

/// A site for each user that can be tried, or the reason why there is none.
fn sites() -> Vec<Site> {
    let require = std::env::var_os("SHIFTER_TEST_REQUIRE").is_some_and(|value| value == "1");
    let skip = |reason: &str| {
        assert!(!require, "SHIFTER_TEST_REQUIRE=1, and {reason}");
        eprintln!("skipped: {reason}");
        Vec::new()
    };
    if !Path::new(BUSYBOX).exists() {
        return skip("there is no /bin/busybox (package busybox-static)");
    }
    let own = nix::unistd::getuid().as_raw();
    let uids = if own == 0 { vec![0, 1234] } else { vec![own] };
    let sites: Vec<Site> = uids.into_iter().map(Site::new).collect();
    for site in &sites {
        let output = site.run(&[], &["true"]);
        if output.code == 125 && output.stderr.contains("create user namespace") {
            return skip(&output.stderr);
        }
        assert_eq!((output.code, output.stderr.as_str()), (0, ""), "uid {}", site.uid);
    }
    sites
}

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Outcome {
        let text = |bytes| String::from_utf8_lossy(bytes).trim_end().to_owned();
        Outcome {
            code: output.status.code().unwrap_or(-1),
            stdout: text(&output.stdout),
            stderr: text(&output.stderr),
        }
    }
}

impl Site {
    fn new(uid: u32) -> Site {
        let site = Site { dir: TempDir::new().unwrap(), uid };
        fs::create_dir(site.path("node")).unwrap();
        fs::set_permissions(site.path("node"), Permissions::from_mode(0o700)).unwrap();
        fs::create_dir_all(site.path("rootfs/bin")).unwrap();
        fs::copy(BUSYBOX, site.path("rootfs/bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", site.path("rootfs/bin").join(applet)).unwrap();
        }
        // The build directory may be closed to the user. Copied by another process: this one's may be
        // inherited, open for writing, by a child of another test, and then it cannot be executed.
        let copied = Command::new("cp").arg(enter_example()).arg(site.path("enter")).status();
        assert!(copied.unwrap().success());
        site.hand_over();
        site
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Gives all that has been made so far to the user.
    fn hand_over(&self) {
        fn walk(path: &Path, uid: u32) {
            std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
            if path.symlink_metadata().unwrap().is_dir() {
                fs::read_dir(path).unwrap().for_each(|entry| walk(&entry.unwrap().path(), uid));
            }
        }
        if nix::unistd::getuid().is_root() {
            walk(self.dir.path(), self.uid);
        }
    }

    /// A file or link in the image.
    fn put(&self, path: &str, content: &str) -> &Site {
        let path = self.path("rootfs").join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix("-> ") {
            Some(target) => symlink(target, path).unwrap(),
            None => fs::write(path, content).unwrap(),
        }
        self.hand_over();
        self
    }

    fn command(&self, flags: &[&str], argv: &[&str]) -> Command {
        let mut command = self.as_user(&self.path("enter"));
        command.args(flags).arg(self.path("node")).arg(self.path("rootfs")).args(argv);
        command
    }

    fn as_user(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env_clear().stdin(Stdio::null());
        if nix::unistd::getuid().is_root() {
            command.uid(self.uid).gid(self.uid);
        }
        command
    }

    fn run(&self, flags: &[&str], argv: &[&str]) -> Outcome {
        self.command(flags, argv).output().unwrap().into()
    }

    fn sh(&self, script: &str) -> Outcome {
        self.run(&[], &["sh", "-c", script])
    }
}

/// Cargo builds examples with the tests, and beside them.
fn enter_example() -> PathBuf {
    let tests = std::env::current_exe().unwrap();
    let example = tests.parent().unwrap().parent().unwrap().join("examples/enter");
    assert!(example.exists(), "{} is not built: cargo build --examples", example.display());
    example
}

#[test]
fn the_program_runs_as_the_caller_and_its_status_is_ours() {
    for site in sites() {
        let seen = site.sh("id -u; id -g; pwd; exit 7");
        assert_eq!(seen.code, 7, "{}", seen.stderr);
        assert_eq!(seen.stdout, format!("{0}\n{0}\n/", site.uid));
    }
}

#[test]
fn the_hosts_proc_sys_and_dev_are_there() {
    for site in sites() {
        let seen =
            site.sh("stat -c %d /dev/shm; grep -c . /proc/self/status >/dev/null && echo proc; \
             test -c /dev/null && : >/dev/null && echo dev; \
             test -d /sys/kernel && grep -q ' /sys sysfs ro' /proc/mounts && echo sys; \
             grep ' /sys' /proc/mounts | grep -c ' rw,'");
        let shm = std::os::unix::fs::MetadataExt::dev(&fs::metadata("/dev/shm").unwrap());
        assert_eq!(seen.stdout, format!("{shm}\nproc\ndev\nsys\n0"), "{}", seen.stderr);
    }
}

#[test]
fn the_program_starts_clean() {
    for site in sites() {
        let seen = site.sh("grep -E '^(NoNewPrivs|SigIgn|SigBlk)' /proc/self/status; \
             grep '^sha256:.* / overlay ' /proc/mounts | grep -c nosuid,nodev");
        let zero = "0000000000000000";
        let expected = format!("SigBlk:\t{zero}\nSigIgn:\t{zero}\nNoNewPrivs:\t1\n1");
        let sorted = |text: &str| {
            let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
            lines.sort();
            lines
        };
        assert_eq!(sorted(&seen.stdout), sorted(&expected), "{}", seen.stderr);
    }
}

#[test]
fn inherited_descriptors_cross_and_none_of_ours_do() {
    for site in sites() {
        let list = "ls /proc/self/fd";
        let outside: Outcome =
            site.as_user(Path::new(BUSYBOX)).args(["sh", "-c", list]).output().unwrap().into();
        assert_eq!(site.sh(list).stdout, outside.stdout, "a descriptor leaked or was closed");
        let enter = site.command(&[], &["sh", "-c", "cat <&9"]);
        let mut shell = site.as_user(Path::new(BUSYBOX));
        shell.args(["sh", "-c", "exec 9</etc/hostname; exec \"$@\"", "sh"]);
        shell.arg(enter.get_program()).args(enter.get_args());
        let seen: Outcome = shell.output().unwrap().into();
        assert_eq!(seen.stdout, fs::read_to_string("/etc/hostname").unwrap().trim_end());
    }
}

#[test]
fn what_a_container_writes_never_reaches_the_image() {
    for site in sites() {
        let before = fs::read(site.path("rootfs/bin/busybox")).unwrap();
        let seen = site.sh("echo x >/new && rm /bin/ls && echo x >>/bin/busybox; echo x >/bin/cat");
        assert!(!site.path("rootfs/new").exists(), "THE IMAGE WAS WRITTEN TO: {}", seen.stderr);
        assert!(site.path("rootfs/bin/ls").exists(), "THE IMAGE LOST A FILE");
        assert_eq!(fs::read(site.path("rootfs/bin/busybox")).unwrap(), before);
        let names = fs::read_dir(site.path("rootfs")).unwrap().count();
        assert_eq!(names, 1, "mount points were made in the image itself");
    }
}

#[test]
fn the_caller_has_a_name_inside() {
    for site in sites() {
        site.put("etc/passwd", "root:x:0:0::/root:/bin/sh\nweb:x:33:33::/:/bin/false\n");
        let seen = site.sh("id -un; grep -c ^web: /etc/passwd; cat /etc/resolv.conf");
        let mut lines = seen.stdout.lines();
        let name = if site.uid == 0 { "root" } else { "user" };
        assert_eq!((lines.next(), lines.next()), (Some(name), Some("1")), "{}", seen.stderr);
        let resolv = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        assert_eq!(lines.collect::<Vec<_>>().join("\n"), resolv.trim_end());
    }
}

#[test]
fn an_image_of_one_file_runs() {
    for site in sites() {
        fs::remove_dir_all(site.path("rootfs/bin")).unwrap();
        fs::copy(BUSYBOX, site.path("rootfs/busybox")).unwrap();
        site.hand_over();
        let config = r#"{"config":{"Entrypoint":["/busybox"],"Cmd":["cat","/etc/nsswitch.conf"]}}"#;
        let seen = site.run(&["--config", config], &[]);
        assert_eq!(seen.code, 0, "{}", seen.stderr);
        assert!(seen.stdout.starts_with("passwd: files\n"));
    }
}

#[test]
fn an_image_without_write_permission_runs() {
    for site in sites() {
        site.put("etc/os-release", "ID=x\n").put("proc/.keep", "");
        for dir in ["rootfs/etc", "rootfs/bin", "rootfs/proc", "rootfs"] {
            fs::set_permissions(site.path(dir), Permissions::from_mode(0o555)).unwrap();
        }
        let seen = site.sh("cat /etc/os-release && id -un && touch /x");
        assert_eq!((seen.code, seen.stderr.as_str()), (0, ""));
        fs::set_permissions(site.path("rootfs"), Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn hostile_trees_stay_in_their_place() {
    let up = "-> ../../../../../../../../../..";
    for site in sites() {
        let victim = site.path("victim");
        fs::create_dir(&victim).unwrap();
        for name in ["passwd", "keep"] {
            fs::write(victim.join(name), "precious").unwrap();
        }
        let to_victim = format!("-> {}", victim.display());
        let victim_above = format!("{up}{}", victim.display());
        for (path, content) in [
            ("etc", to_victim.as_str()),
            ("etc", victim_above.as_str()),
            ("etc", "-> /etc"),
            ("etc", "-> /proc/self/cwd"),
            ("etc", "a file"),
            ("etc/passwd", to_victim.as_str()),
            ("etc/group", "-> /etc/group"),
            ("etc/hosts/a/directory", "with something in it"),
            ("proc", to_victim.as_str()),
            ("proc", "-> /sys"),
            ("proc", "a file"),
            ("sys", "-> proc"),
            ("dev", victim_above.as_str()),
            ("dev", "-> dev"),
            ("dev/shm", to_victim.as_str()),
            ("tmp", up),
            ("tmp", to_victim.as_str()),
        ] {
            let label = format!("/{path} {content}");
            let _ = fs::remove_file(site.path("rootfs").join(path));
            site.put(path, content);
            let seen = site.sh("test -d /proc/self && test -c /dev/null && test -f /etc/passwd");
            // A directory that is not empty is not thrown away: that is an error, and a clear one.
            if path.starts_with("etc/hosts") {
                assert_eq!(seen.code, 125, "{label}");
                assert!(seen.stderr.contains("make mount point /etc/hosts in"), "{}", seen.stderr);
            } else {
                assert_eq!((seen.code, seen.stderr.as_str()), (0, ""), "{label}");
            }
            for name in ["passwd", "keep"] {
                let content = fs::read_to_string(victim.join(name)).unwrap_or_default();
                assert_eq!(content, "precious", "{label}: HOST PATH WAS CHANGED");
            }
            assert_eq!(fs::read_dir(&victim).unwrap().count(), 2, "{label}: HOST PATH WAS FILLED");
            let top = path.split('/').next().unwrap();
            let top = site.path("rootfs").join(top);
            fs::remove_file(&top).or_else(|_| fs::remove_dir_all(&top)).unwrap();
        }
    }
}

#[test]
fn a_fifo_for_a_user_list_does_not_hang() {
    for site in sites() {
        fs::create_dir(site.path("rootfs/etc")).unwrap();
        for name in ["passwd", "group", "hosts"] {
            let path = site.path("rootfs/etc").join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        }
        site.hand_over();
        let seen = site.sh("test -f /etc/passwd && id -un");
        assert_eq!(seen.code, 0, "{}", seen.stderr);
    }
}

#[test]
fn a_command_that_cannot_run_says_why() {
    for site in sites() {
        let mut foreign = fs::read(BUSYBOX).unwrap();
        foreign[18] ^= 0x55; // e_machine
        fs::write(site.path("rootfs/bin/foreign"), foreign).unwrap();
        site.put("bin/plain", "echo").put("bin/script", "#!/usr/bin/python9 -u\n");
        site.put("bin/text", "echo").put("data/x", "");
        for name in ["foreign", "script", "text"] {
            let path = site.path("rootfs/bin").join(name);
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
        for (command, code, message) in [
            ("nonesuch", 127, "run \"nonesuch\": not found in docker.io/library/test:latest (PATH"),
            ("/no/such", 127, "run \"/no/such\": not found in docker.io/library/test:latest"),
            ("", 127, "run \"\": not found"),
            ("plain", 126, "run /bin/plain: permission denied"),
            ("/bin/plain", 126, "run /bin/plain: permission denied"),
            ("/data", 126, "run /data: it is a directory"),
            ("foreign", 126, "run /bin/foreign: it is a program for another machine"),
            ("script", 126, "its interpreter \"/usr/bin/python9\" is not in"),
            ("text", 126, "neither a program nor a script"),
        ] {
            let seen = site.run(&[], &[command]);
            assert_eq!(seen.code, code, "{command:?}: {}", seen.stderr);
            assert!(seen.stderr.contains(message), "{command:?}: {}", seen.stderr);
        }
        let seen = site.run(&[], &[]);
        assert!(seen.stderr.contains("the image names no command"), "{}", seen.stderr);
    }
}

#[test]
fn the_working_directory_comes_along_unless_the_image_has_it() {
    for site in sites() {
        // Beside /tmp and the home, which are there anyway.
        let Ok(host_dir) = TempDir::new_in("/var/tmp") else { continue };
        let cwd = host_dir.path();
        fs::write(cwd.join("input"), "data").unwrap();
        chown(cwd, Some(site.uid), Some(site.uid)).unwrap();
        let at = |flags: &[&str], argv: &[&str]| -> Outcome {
            site.command(flags, argv).current_dir(cwd).output().unwrap().into()
        };
        let seen = at(&[], &["sh", "-c", "pwd; echo $PWD; cat input"]);
        assert_eq!(seen.stdout, format!("{0}\n{0}\ndata", cwd.display()), "{}", seen.stderr);

        let config = r#"{"config":{"WorkingDir":"/bin"}}"#;
        assert_eq!(site.run(&["--config", config], &["pwd"]).stdout, "/bin");
        assert_eq!(at(&["--config", config, "--workdir", "/proc"], &["pwd"]).stdout, "/proc");
        for workdir in ["/none", "/bin/sh", "/proc/1/root", "/proc/self/cwd"] {
            let seen = at(&["--workdir", workdir], &["pwd"]);
            let message = format!("enter working directory {workdir} in ");
            assert_eq!(seen.code, 125, "{workdir}: {}", seen.stdout);
            assert!(seen.stderr.contains(&message), "{}", seen.stderr);
        }

        let inside = cwd.strip_prefix("/").unwrap().join("of-the-image");
        site.put(inside.to_str().unwrap(), "");
        let seen = at(&[], &["sh", "-c", "pwd; ls"]);
        assert_eq!(seen.stdout, format!("{}\nof-the-image", cwd.display()), "{}", seen.stderr);
    }
}

#[test]
fn mounts_land_inside_whatever_links_lead_there() {
    for site in sites() {
        fs::create_dir(site.path("data")).unwrap();
        fs::write(site.path("data/x"), "here").unwrap();
        site.put("up", "-> ../../../../..").put("opt/in", "-> /srv").put("srv/y", "");
        let source = site.path("data").display().to_string();
        for target in ["/a/b/c", "/up/deep", "/opt/in/z", "/opt/in", "/bin/sh/../../q", "/tmp/.."] {
            let seen = site.run(
                &["--mount", &format!("{source}:{target}:ro")],
                &["sh", "-c", &format!("cat {target}/x; touch {target}/w 2>/dev/null && echo rw")],
            );
            if target.contains("..") {
                assert!(seen.stderr.contains("a path with .. in it"), "{}", seen.stderr);
            } else {
                assert_eq!(seen.stdout, "here", "{target}: {}", seen.stderr);
            }
        }
        assert!(!Path::new("/deep").exists() && !site.path("rootfs/srv/z").exists());
        let seen = site.run(&["--mount", "/no/such:/x"], &["true"]);
        assert!(seen.stderr.contains("mount /no/such → /x: no such file"), "{}", seen.stderr);
        // Nothing is made in what is the host's.
        let nowhere = format!("{source}:/tmp/shifter-no-such-dir/x");
        let seen = site.run(&["--mount", &nowhere], &["true"]);
        assert!(seen.stderr.contains("directory of the host"), "{}", seen.stderr);
        assert!(!Path::new("/tmp/shifter-no-such-dir").exists(), "HOST PATH WAS CHANGED");
    }
}

#[test]
fn a_batch_script_is_seen_under_its_own_path() {
    for site in sites() {
        let Ok(spool) = TempDir::new_in("/var/tmp") else { continue };
        let script = spool.path().join("job00017/slurm_script");
        fs::create_dir(script.parent().unwrap()).unwrap();
        fs::write(&script, "#!/bin/sh\necho $0 $SLURM_SPANK_SHIFTER_REQUEST $1\n").unwrap();
        for path in [spool.path(), script.parent().unwrap(), &script] {
            fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
            chown(path, Some(site.uid), Some(site.uid)).unwrap();
        }
        let name = script.to_str().unwrap();
        let mut command = site.command(&["--script", name], &[name, "a"]);
        let seen: Outcome =
            command.env("SLURM_SPANK_SHIFTER_REQUEST", "{}").output().unwrap().into();
        assert_eq!(seen.stdout, format!("{name} {{}} a"), "{}", seen.stderr);
    }
}

#[test]
fn disabled_user_namespaces_are_named() {
    for site in sites() {
        let enter = site.command(&[], &["true"]);
        let mut nested = site.as_user(Path::new("/usr/bin/unshare"));
        nested.args(["-Ur", "/bin/sh", "-c"]);
        nested.arg("echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"").arg("sh");
        nested.arg(enter.get_program()).args(enter.get_args());
        let seen: Outcome = nested.output().unwrap().into();
        assert_eq!(seen.code, 125, "{}", seen.stderr);
        assert_eq!(
            seen.stderr,
            "enter: create user namespace: they are disabled on this host \
             (user.max_user_namespaces = 0)"
        );
    }
}

/// A rank that says where it is and stays until told to go.
struct Rank(Child);

impl Rank {
    fn start(site: &Site, step: &str) -> Rank {
        let script = "stat -L -c %i /proc/self/ns/user /proc/self/ns/mnt | tr '\\n' ' '; \
                      touch /seen-$SLURM_PROCID; echo in; read x; ls / | grep -c seen-";
        let mut command = site.command(&["--step"], &["busybox", "sh", "-c", script]);
        command.env("SLURM_JOB_ID", "17").env("SLURM_STEP_ID", step);
        command.env("SLURM_PROCID", unique().to_string());
        Rank(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let mut stdout = BufReader::with_capacity(1, self.0.stdout.as_mut().unwrap());
        stdout.read_line(&mut line).unwrap();
        line
    }

    fn leave(mut self) -> String {
        self.0.stdin.take().unwrap().write_all(b"go\n").unwrap();
        let last = self.line();
        assert!(self.0.wait().unwrap().success());
        last
    }
}

fn unique() -> usize {
    use std::sync::atomic::{AtomicUsize, Ordering};
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

#[test]
fn the_ranks_of_a_step_share_one_container() {
    for site in sites() {
        site.put("bin/tr", "-> busybox");
        let mut ranks: Vec<Rank> = (0..8).map(|_| Rank::start(&site, "0")).collect();
        let lines: Vec<String> = ranks.iter_mut().map(Rank::line).collect();
        assert!(lines[0].ends_with("in\n"), "{:?}", lines[0]);
        assert!(lines.iter().all(|line| *line == lines[0]), "MPI would abort: {lines:?}");

        let mut other = Rank::start(&site, "1");
        assert_ne!(other.line(), lines[0], "two steps share a container");
        assert_eq!(other.leave(), "1\n");

        // The first one's end is nobody else's.
        assert_eq!(ranks.remove(0).leave(), "8\n");
        let mut late = Rank::start(&site, "0");
        assert_eq!(late.line(), lines[0], "a late rank was left alone");
        assert_eq!(late.leave(), "9\n");
        ranks.into_iter().for_each(|rank| assert_eq!(rank.leave(), "9\n"));

        let mut next = Rank::start(&site, "0");
        next.line();
        assert_eq!(next.leave(), "1\n", "nobody is left to join: a new container");
    }
}
