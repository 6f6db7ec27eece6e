//! What a site's administrator installs, upgrades and removes: `make install`, and packages for
//! Debian and RPM, each in a root of its own.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use fixtures::{Outcome, Sandbox, need, programs, run};

const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// Runs `make TARGET` on what has been built, with its output below the sandbox.
fn make(sandbox: &Sandbox, args: &[&str]) -> Outcome {
    let mut make = Command::new("make");
    make.args(["--old-file=build", "--no-print-directory", "-C", CHECKOUT]).args(args);
    make.arg(format!("TARGET={}", sandbox.dir().join("target").display()));
    make.arg(format!("RELEASE={}", programs().display()));
    make.envs([("DEBFULLNAME", "Site"), ("DEBEMAIL", "site@example.org")]);
    // What is in the package matters here, not its size.
    make.envs([("DPKG_DEB_COMPRESSOR_TYPE", "gzip"), ("DPKG_DEB_COMPRESSOR_LEVEL", "1")]);
    run(make)
}

/// Runs a program with these arguments, and the root's directory where they say `ROOT`.
fn tool(root: &Path, program: &str, args: &[&str]) -> Outcome {
    let root = root.to_str().expect("the sandbox's path is plain");
    let mut command = Command::new(program);
    command.args(args.iter().map(|arg| arg.replace("ROOT", root)));
    run(command)
}

/// The only file of this kind in a directory.
fn package(dir: PathBuf, extension: &str) -> String {
    let entries = fs::read_dir(&dir).unwrap_or_else(|e| panic!("read {}: {e}", dir.display()));
    let mut found = entries.flatten().map(|entry| entry.path());
    let path = found.find(|path| path.extension().is_some_and(|found| found == extension));
    path.unwrap_or_else(|| panic!("no package in {}", dir.display())).display().to_string()
}

/// Holds what is installed in a root against what an administrator needs; `lib` is where plugins are.
fn assert_installed(root: &Path, prefix: &str, lib: &str) {
    for program in ["shifter", "shifter-pull"] {
        let path = root.join(&prefix[1..]).join("bin").join(program);
        let said = tool(root, &path.display().to_string(), &["--version"]).success();
        assert_eq!(said.trim(), format!("{program} {}", env!("CARGO_PKG_VERSION")));
        assert_eq!(fs::metadata(&path).expect("it has run").mode() & 0o7777, 0o755, "{program}");
    }
    let read = |path: &str| {
        let path = root.join(path);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("read {}: {e}", path.display()))
    };
    // The line that Slurm is given names files that are there.
    let share = format!("{}/share", &prefix[1..]);
    let line = read(&format!("{share}/shifter/plugstack.conf"));
    let line = line.lines().last().expect("a line");
    assert_eq!(line, format!("required {lib}/slurm/shifter.so shifter={prefix}/bin/shifter"));
    assert!(root.join(&lib[1..]).join("slurm/shifter.so").exists());
    // Every setting of the site's file is one that its user added.
    let site = read("etc/shifter/shifter.toml");
    assert!(site.lines().all(|line| line.starts_with('#')), "{site}");
    assert!(site.contains(&format!("{prefix}/share/shifter/shifter.toml")), "{site}");
    assert!(read(&format!("{share}/shifter/shifter.toml")).contains("\nmax_expansion = "));
    let profile = read(&format!("{share}/shifter/apparmor"));
    assert!(profile.contains(&format!("profile shifter {prefix}/bin/shifter{{,-pull}} ")));
    // Shells look for a command's completion by its name.
    for (file, says) in [
        ("bash-completion/completions/shifter", "complete -F _shifter "),
        ("bash-completion/completions/shifter-pull", " shifter-pull\n"),
        ("zsh/site-functions/_shifter", "#compdef shifter\n"),
        ("zsh/site-functions/_shifter-pull", "#compdef shifter-pull\n"),
        ("fish/vendor_completions.d/shifter.fish", "complete -c shifter "),
        ("fish/vendor_completions.d/shifter-pull.fish", "complete -c shifter-pull "),
    ] {
        let text = read(&format!("{share}/{file}"));
        let is_zsh = file.starts_with("zsh");
        let found = if is_zsh { text.starts_with(says) } else { text.contains(says) };
        assert!(found, "{file}: {text}");
    }
}

#[test]
fn make_install_keeps_what_is_in_use_and_uninstall_the_sites_settings() {
    let sandbox = Sandbox::new();
    let root = sandbox.dir().join("root");
    let destination = format!("DESTDIR={}", root.display());
    make(&sandbox, &["install", &destination]).success();
    assert_installed(&root, "/usr/local", "/usr/local/lib");

    // Whoever has a file open keeps it as it is; the site's settings stay as they are.
    let plugin = root.join("usr/local/lib/slurm/shifter.so");
    let settings = sandbox.write(root.join("etc/shifter/shifter.toml"), "max_expansion = 7\n");
    let (open, before) =
        (fs::File::open(&plugin), fs::metadata(&plugin).expect("it is there").ino());
    make(&sandbox, &["install", &destination]).success();
    let kept = open.and_then(|file| file.metadata()).expect("it is still open");
    assert_eq!((kept.ino(), kept.nlink()), (before, 0));
    assert_ne!(fs::metadata(&plugin).expect("it is there").ino(), before);
    assert_eq!(fs::read_to_string(&settings).expect("settings"), "max_expansion = 7\n");

    let said = make(&sandbox, &["uninstall", &destination]).success();
    assert!(said.contains("plugstack.conf names /usr/local/lib/slurm/shifter.so"), "{said}");
    let left = files(&root);
    assert_eq!(left, ["etc/shifter/shifter.toml"], "what was not removed");
}

#[test]
fn a_debian_package_goes_on_and_off_and_leaves_settings_to_the_site() {
    need!(root, deb);
    let sandbox = Sandbox::new();
    make(&sandbox, &["deb"]).success();
    let deb = package(sandbox.dir().join("target/deb"), "deb");
    let control = tool(sandbox.dir(), "dpkg-deb", &["--field", &deb]).success();
    for says in ["Depends: libc6 (>= ", "ca-certificates", "Recommends: squashfs-tools, squashfuse"]
    {
        assert!(control.contains(says), "no {says:?} in {control}");
    }

    let root = sandbox.make_dir("root", 0o755);
    for dir in ["updates", "info", "triggers"] {
        sandbox.make_dir(root.join("var/lib/dpkg").join(dir), 0o755);
    }
    sandbox.write(root.join("var/lib/dpkg/status"), "");
    let dpkg = |args: &[&str]| {
        let all = ["--root=ROOT", "--log=ROOT/log", "--force-depends", "--force-confdef"];
        tool(&root, "dpkg", &[&all, args].concat()).success()
    };
    dpkg(&["--install", &deb]);
    assert_installed(&root, "/usr", "/usr/lib");

    let settings = sandbox.write(root.join("etc/shifter/shifter.toml"), "max_expansion = 7\n");
    dpkg(&["--install", &deb]);
    dpkg(&["--remove", "shifter"]);
    assert_eq!(fs::read_to_string(&settings).expect("a conffile"), "max_expansion = 7\n");
    assert!(!root.join("usr").exists(), "{:?}", files(&root));
    dpkg(&["--purge", "shifter"]);
    assert!(!root.join("etc").exists(), "{:?}", files(&root));
}

#[test]
fn an_rpm_package_goes_on_and_off_and_leaves_settings_to_the_site() {
    need!(root, rpm);
    let sandbox = Sandbox::new();
    make(&sandbox, &["rpm"]).success();
    let package = package(sandbox.dir().join("target/rpm"), "rpm");
    let root = sandbox.make_dir("root", 0o755);
    let rpm = |args: &[&str]| {
        let all = ["--root=ROOT", "--dbpath=/var/lib/rpm", "--nodeps"];
        tool(&root, "rpm", &[&all, args].concat())
    };
    rpm(&["--install", &package]).success();
    let lib = run({
        let mut rpm = Command::new("rpm");
        rpm.args(["--eval", "%_libdir"]);
        rpm
    });
    assert_installed(&root, "/usr", lib.success().trim());

    let settings = sandbox.write(root.join("etc/shifter/shifter.toml"), "max_expansion = 7\n");
    rpm(&["--reinstall", &package]).success();
    assert_eq!(fs::read_to_string(&settings).expect("settings"), "max_expansion = 7\n");
    rpm(&["--erase", "shifter"]).success();
    let left: Vec<_> = files(&root).into_iter().filter(|path| !path.starts_with("var/")).collect();
    assert_eq!(left, ["etc/shifter/shifter.toml.rpmsave"], "what was not removed");
}

/// All files below a directory.
fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).unwrap_or_else(|e| panic!("read {}: {e}", dir.display())) {
            let path = entry.expect("an entry").path();
            match path.is_dir() && !path.is_symlink() {
                true => dirs.push(path),
                false => {
                    let path = path.strip_prefix(root).expect("it is below").display().to_string();
                    found.push(path);
                }
            }
        }
    }
    found.sort();
    found
}
