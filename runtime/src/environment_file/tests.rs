use std::{ffi::OsString, fs, path::PathBuf};

use super::*;

/// A directory with files in it.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new(files: &[(&str, &str)]) -> Dir {
        let dir = Dir(tempfile::tempdir().unwrap());
        for (name, text) in files {
            dir.write(name, text);
        }
        dir
    }

    fn path(&self) -> PathBuf {
        self.0.path().canonicalize().unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Reads a file of it; bases without a path are searched for in `site`.
    fn load(&self, name: &str) -> Result<Environment, Error> {
        let name = match name.ends_with(".toml") {
            true => self.path().join(name).to_string_lossy().into_owned(),
            false => name.to_owned(),
        };
        Environment::load(&name, &[self.path().join("site"), "/nowhere".into()], &variables)
    }

    /// The message, with `DIR` for where it lies.
    fn error(&self, name: &str) -> String {
        let error = self.load(name).expect_err(name);
        let line = crate::report::Report::from(&error).line;
        line.replace(&*self.path().to_string_lossy(), "DIR")
    }
}

fn variables(name: &str) -> Option<OsString> {
    match name {
        "SCRATCH" => Some("/scratch/ada".into()),
        "EMPTY" => Some("".into()),
        _ => None,
    }
}

/// What one file says that is nobody's base.
fn said(text: &str) -> Environment {
    let dir = Dir::new(&[("env.toml", text)]);
    dir.load("env.toml").unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn texts<T: ToString>(list: &[Said<T>]) -> Vec<String> {
    list.iter().map(|said| said.value.to_string()).collect()
}

/// All that is said, without where.
fn values(environment: &Environment) -> serde_json::Value {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(map) => {
                map.remove("origin");
                map.values_mut().for_each(strip);
            }
            serde_json::Value::Array(list) => list.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut json = environment.to_json();
    strip(&mut json);
    json
}

const ALL: &str = r#"
base_environment = ["./base.toml", "cuda"]
image = "nvcr.io#nvidia/pytorch:24.05-py3"
mounts = ["${SCRATCH}:/scratch:ro", "./data:/data:ro+private", "type=tmpfs,target=/t"]
workdir = "/scratch/$SCRATCH"
entrypoint = ["sh", "-c", "echo $$HOME"]
writable = false
home = false
remap_root = true
devices = ["/dev/fuse", "hpe.com/cxi=all"]
name = "work"
gpu = ["nvidia.com/gpu=0", "amd.com/gpu=${NONE:-all}"]

[env]
PATH = "/opt/bin:${OTHER:-/bin}"
DEBUG = ""
NOTE = "a \"b\" \\ \u0001\u202e漢"
"odd.name" = "1"

[annotations]
com.hooks.cxi.enabled = "true"
[annotations.com.hooks.ssh]
enabled = false
port = 15263
"#;

#[test]
fn all_keys_are_read() {
    let dir = Dir::new(&[
        ("env.toml", ALL),
        ("base.toml", "image = 'a'\n[env]\nDEBUG = '1'\nKEPT = '1'"),
        ("site/cuda.toml", "mounts = ['/sw']\n\n\nwritable = true"),
    ]);
    let read = dir.load("env.toml").unwrap();
    let data = format!("{}/data:/data:ro", dir.path().display());
    assert_eq!(
        texts(&read.mounts),
        ["/sw:/sw", "/scratch/ada:/scratch:ro", &data, "type=tmpfs,target=/t"]
    );
    assert_eq!(read.image.value.to_string(), "nvcr.io/nvidia/pytorch:24.05-py3");
    assert_eq!(
        read.mounts[0].origin.to_string(),
        format!("{}/site/cuda.toml:1", dir.path().display())
    );
    assert_eq!(read.mounts[2].origin.line, 4);
    assert_eq!(read.env["NOTE"].origin.line, 17);
    assert_eq!(read.annotations["com.hooks.ssh.port"].origin.line, 24);

    let options = read.options();
    let json = serde_json::to_value(&options).unwrap();
    let mounts = texts(&read.mounts);
    let expected = serde_json::json!({
        "mounts": mounts,
        "env": ["DEBUG-", "KEPT=1", "NOTE=a \"b\" \\ \u{1}\u{202e}漢", "PATH=/opt/bin:/bin", "odd.name=1"],
        "workdir": "/scratch//scratch/ada",
        "entrypoint": {"given": ["sh", "-c", "echo $HOME"]},
        "root": "ro", "ids": "root", "home": "left-out",
        "devices": ["/dev/fuse:/dev/fuse", "hpe.com/cxi=all"], "name": "work",
        "gpu": "nvidia.com/gpu=0,amd.com/gpu=all",
    });
    assert_eq!(json, expected);
    let request = read.request();
    let carried = Request::from_carrier(&request.to_carrier()).unwrap().unwrap();
    assert_eq!(carried, request);
}

#[test]
fn what_is_rendered_says_the_same() {
    let dir = Dir::new(&[
        ("env.toml", ALL),
        ("base.toml", "image = 'a'\n[env]\nDEBUG = '1'\nKEPT = '1'"),
        ("site/cuda.toml", "mounts = ['/sw']"),
    ]);
    let read = dir.load("env.toml").unwrap();
    let text = read.to_string();
    let here = dir.path().display().to_string();
    for line in [
        format!("    \"/sw:/sw\",  # {here}/site/cuda.toml:1\n"),
        format!("entrypoint = [\"sh\", \"-c\", \"echo $$HOME\"]  # {here}/env.toml:6\n"),
        format!("writable = false  # {here}/env.toml:7\n"),
        format!("DEBUG = \"\"  # {here}/env.toml:16\n"),
        format!("KEPT = \"1\"  # {here}/base.toml:4\n"),
        format!("\"odd.name\" = \"1\"  # {here}/env.toml:18\n"),
        "NOTE = \"a \\\"b\\\" \\\\ \\u0001\\u202E漢\"".to_owned(),
    ] {
        assert!(text.contains(&line), "no {line} in {text}");
    }
    assert!(text.bytes().all(|byte| byte == b'\n' || !byte.is_ascii_control()), "{text:?}");
    // Elsewhere, and where no variable is set.
    let again = Dir::new(&[("a.toml", &text)]).load("a.toml").unwrap();
    assert_eq!(values(&again), values(&read), "{text}");
    let third = Dir::new(&[("a.toml", &again.to_string())]).load("a.toml").unwrap();
    let lines = |text: String| -> Vec<String> {
        text.lines().map(|line| line.split("  # ").next().unwrap().to_owned()).collect()
    };
    assert_eq!(lines(third.to_string()), lines(text));
}

#[test]
fn a_file_goes_over_its_bases_and_later_bases_over_earlier_ones() {
    let dir = Dir::new(&[
        ("a.toml", "base = ['./b.toml', 'c']\nmounts = ['/a']\nworkdir = '/a'\n[env]\nA = 'a'"),
        ("b.toml", "image = 'b'\nmounts = ['/b']\nhome = false\n[env]\nA = 'b'\nB = 'b'\nC = 'b'"),
        ("site/c.toml", "base = '../b.toml'\nimage = 'c'\nmounts = ['/c', '/d']\n[env]\nC = 'c'"),
    ]);
    let read = dir.load("a.toml").unwrap();
    assert_eq!(read.image.value, "c".parse().unwrap());
    // What comes by two ways counts once, where it comes last.
    assert_eq!(texts(&read.mounts), ["/b:/b", "/c:/c", "/d:/d", "/a:/a"]);
    let env: Vec<_> = read.env.iter().map(|(n, said)| format!("{n}={}", said.value)).collect();
    assert_eq!(env, ["A=a", "B=b", "C=c"]);
    assert_eq!(read.home.map(|said| said.value), Some(Home::LeftOut));
    assert_eq!(dir.load("c").unwrap().image.value, "c".parse().unwrap(), "a file by its name");
}

#[test]
fn relative_paths_begin_at_the_file_that_says_them() {
    let dir = Dir::new(&[
        ("x/env.toml", "base = '../y/base.toml'\nmounts = ['data:/data', '../z:/z']"),
        ("y/base.toml", "image = './a.sqsh'\nmounts = ['.:/here']"),
        ("far/y/keep", ""),
    ]);
    let here = dir.path().display().to_string();
    let read = dir.load("x/env.toml").unwrap();
    assert_eq!(read.image.value.to_string(), format!("{here}/y/a.sqsh"));
    let expected =
        [format!("{here}/y:/here"), format!("{here}/x/data:/data"), format!("{here}/z:/z")];
    assert_eq!(texts(&read.mounts), expected);
    // Behind a link, `..` is what it is to the kernel.
    std::os::unix::fs::symlink("far/y", dir.path().join("link")).unwrap();
    dir.write("link/env.toml", "image = 'oci:../a:tag'\nmounts = ['../b:/b', 'c:/c']");
    let read = dir.load("link/env.toml").unwrap();
    assert_eq!(read.image.value.to_string(), format!("oci:{here}/far/a:tag"));
    assert_eq!(texts(&read.mounts)[0], format!("{here}/far/b:/b"));
    assert_eq!(texts(&read.mounts)[1].rsplit('/').next(), Some("c"));
    for image in ["/a/b.sqsh", "oci:/a:b", "docker.io/a/b:1"] {
        assert_eq!(said(&format!("image = '{image}'")).image.value.to_string(), image);
    }
}

#[test]
fn what_is_replaced_need_not_be_expandable() {
    let dir = Dir::new(&[
        ("a.toml", "base = './b.toml'\nworkdir = '/a'\n[env]\nA = ''"),
        ("b.toml", "image = 'b'\nworkdir = '$NONE'\n[env]\nA = '$NONE'"),
    ]);
    assert_eq!(dir.load("a.toml").unwrap().env["A"].value, "");
    assert!(dir.error("b.toml").contains("NONE"));
}

#[test]
fn edfs_defaults_are_not_said() {
    let read = said("image = 'a'\nbase_environment = ''\nworkdir = ''\n[env]\nA = '$EMPTY'");
    assert_eq!(read.workdir, None);
    assert_eq!(read.options().env, [EnvSpec::Unset { name: "A".into() }]);
    for flags in ["rw", "ro", "ro+private", "rbind,ro", "rprivate+rbind", "slave"] {
        let read = said(&format!("image = 'a'\nmounts = ['/a:/b:{flags}']"));
        let expected =
            if flags.contains("ro+") || flags.ends_with("ro") { "/a:/b:ro" } else { "/a:/b" };
        assert_eq!(texts(&read.mounts), [expected], "{flags}");
    }
}

/// In docker's long form of a mount, what looks like a flag is a part of a path.
#[test]
fn colons_in_paths_are_no_flags() {
    for mount in [
        "type=bind,source=/a,target=/c:d:private",
        "type=bind,source=/a:b:c,target=/c",
        r#"type=bind,"source=/a,b:c:ro",target=/c:sqsh"#,
    ] {
        let read = said(&format!("image = 'a'\nmounts = ['{mount}']"));
        assert_eq!(texts(&read.mounts), [mount]);
        assert_eq!(values(&said(&read.to_string())), values(&read), "{read}");
    }
}

#[test]
fn annotations_that_are_orders_are_said_once() {
    for (text, says) in [
        ("org.x = '1'\ncom.hooks.cxi.enabled = 'false'\ncom.hooks.ssh.enabled = false", None),
        (
            "com.hooks.cxi.enabled = 'true'",
            Some("annotation com.hooks.cxi.enabled is not acted on"),
        ),
        (
            "com.hooks.ssh.enabled = true\ncom.hooks.ssh.port = 1\ncom.sarus.x = '1'",
            Some("annotation com.hooks.ssh.enabled (and 2 more) is not acted on"),
        ),
    ] {
        let said = said(&format!("image = 'a'\n[annotations]\n{text}")).unheeded();
        assert_eq!(said.is_some(), says.is_some(), "{said:?}");
        assert!(said.as_deref().unwrap_or_default().contains(says.unwrap_or_default()), "{said:?}");
    }
}

#[test]
fn what_is_wrong_is_told_with_its_line() {
    for (text, says) in [
        ("", "DIR/env.toml: neither it nor a base names an image; say image = "),
        ("image = ''", "neither it nor a base names an image"),
        ("image = 'a'\nmount = []", "DIR/env.toml:2: unknown key mount; did you mean mounts?"),
        (
            "image = 'a'\n\nmpx2 = 1",
            "DIR/env.toml:3: unknown key mpx2; the keys are annotations, base,",
        ),
        ("image = ", "DIR/env.toml:1: "),
        ("image = 'a'\nimage = 'b'", "DIR/env.toml:2: duplicate key"),
        ("image = 1", "DIR/env.toml:1: image: expected text, got a number; correct it"),
        ("image = 'a'\nmounts = '/a'", ":2: mounts: expected a list of texts, got text"),
        (
            "image = 'a'\nmounts = [\n'/a',\n1]",
            ":4: mounts: expected a list of texts, got a number",
        ),
        ("image = 'a'\n[env]\nN = 4", ":3: env.N: expected text in quotes, got a number"),
        ("image = 'a'\nenv = 'N=4'", ":2: env: expected a table of texts, got text"),
        ("image = 'a'\n[env]\n'A=B' = ''", ":3: variable \"A=B\": a name has no ="),
        ("image = 'a'\n[env]\n'A B' = 'x'", ":3: variable \"A B=x\": a name has no blanks"),
        (
            "image = 'a'\n[env]\nA = '$NONE/x'",
            ":3: variable NONE is not set; set it, or write ${NONE:-",
        ),
        (
            "image = 'a'\n[env]\nA = '$(id)'",
            ":3: \"$(id)\" is a command, which is not run; write $$",
        ),
        ("image = 'a'\nwritable = 'no'", ":2: writable: expected true or false, got text"),
        (
            "image = 'a'\nentrypoint = 'sh'",
            ":2: entrypoint: expected true, false or a list of texts",
        ),
        ("image = 'a'\nentrypoint = []", ":2: entrypoint: no words; say false for none"),
        ("image = 'a'\nworkdir = 'x'", ":2: workdir \"x\": it must be an absolute path"),
        (
            "image = 'a'\nmounts = ['/a:b']",
            ":2: mount \"/a:b\": the target must be an absolute path",
        ),
        ("image = 'a'\nmounts = ['/a:/b:rx']", "expected ro or rw"),
        ("image = 'a'\nmounts = ['/a:/b:sqsh']", "squashfs images cannot be mounted"),
        ("image = 'a'\ndevices = ['nvidia.com/gpu=-']", ":2: device \"nvidia.com/gpu=-\""),
        ("image = 'a'\ngpu = 'some'", ":2: GPU \"some\": expected auto, all, none"),
        (
            "image = 'a'\ngpu = true",
            ":2: gpu: expected text, or a list of texts, got true or false",
        ),
        ("image = 'a'\nname = '../x'", ":2: container name \"../x\""),
        ("image = 'A'", ":1: image reference \"A\": repository must be lower-case"),
        ("image = 'a'\nbase = 'x'\nbase_environment = 'x'", "are the same; say one of them"),
        ("image = 'a'\nbase = ['']", "find environment DIR/env.toml:2 → \"\": not in DIR/site"),
        ("image = 'a'\n[annotations]\nx.y = []", ":3: annotations.x.y: expected text, a number"),
    ] {
        let line = Dir::new(&[("env.toml", text)]).error("env.toml");
        assert!(line.contains(says), "{text:?}: no {says:?} in {line}");
        assert!(line.starts_with("read environment DIR") || says.starts_with("find"), "{line}");
    }
    let dir = Dir::new(&[]);
    fs::write(dir.path().join("x.toml"), b"image = 'a'\n# \xff").unwrap();
    assert_eq!(dir.error("x.toml"), "read environment DIR/x.toml:2: not UTF-8; correct it");
    fs::create_dir(dir.path().join("d.toml")).unwrap();
    assert!(dir.error("d.toml").contains("DIR/d.toml: is a directory"), "{}", dir.error("d.toml"));
    nix::unistd::mkfifo(&dir.path().join("f.toml"), nix::sys::stat::Mode::S_IRUSR).unwrap();
    assert!(dir.error("f.toml").contains("DIR/f.toml: not a regular file"));
    fs::write(dir.path().join("big.toml"), vec![b'#'; 2 << 20]).unwrap();
    assert!(dir.error("big.toml").contains("DIR/big.toml: larger than 1 MiB"));
}

#[test]
fn bases_that_cannot_be_had_are_told_with_their_chain() {
    let dir = Dir::new(&[
        ("a.toml", "image = 'a'\nbase = './b.toml'"),
        ("b.toml", "base = ['./c.toml']"),
        ("c.toml", "\nbase = 'cudda'"),
        ("beside.toml", "base = 'c'"),
        ("site/cuda.toml", ""),
        ("gone.toml", "base = './none.toml'"),
        ("loop.toml", "base = './loop2.toml'"),
        ("loop2.toml", "\nbase = './loop.toml'"),
        ("own.toml", "base = './own.toml'"),
    ]);
    for (name, says) in [
        (
            "a.toml",
            "find environment DIR/a.toml:2 → DIR/b.toml:1 → DIR/c.toml:2 → \"cudda\": \
             not in DIR/site, /nowhere; did you mean cuda?",
        ),
        (
            "beside.toml",
            "find environment DIR/beside.toml:1 → \"c\": not in DIR/site, /nowhere; \
             did you mean ./c.toml?",
        ),
        (
            "gone.toml",
            "read environment DIR/gone.toml:1 → DIR/none.toml: no such file or directory; \
             correct the path, or make it readable",
        ),
        (
            "loop.toml",
            "read environment DIR/loop.toml:1 → DIR/loop2.toml:2 → DIR/loop.toml: \
             it is a base of itself; take one of these bases out",
        ),
        (
            "own.toml",
            "read environment DIR/own.toml:1 → DIR/own.toml: it is a base of itself; \
             take one of these bases out",
        ),
        (
            "none.toml",
            "read environment DIR/none.toml: no such file or directory; correct the path, or make it readable",
        ),
    ] {
        assert_eq!(dir.error(name), says);
    }
    let dir = Dir::new(&[("f10.toml", "image = 'a'")]);
    for number in (0..10).rev() {
        let base = format!("base = './f{}.toml'", number + 1);
        dir.write(&format!("f{number}.toml"), &base);
    }
    assert_eq!(dir.load("f1.toml").unwrap().image.value, "a".parse().unwrap(), "ten files");
    let line = dir.error("f0.toml");
    assert!(line.contains("f8.toml:1 → DIR/f9.toml:1 → DIR/f10.toml: more than 10 files inherit"));
    let dir = Dir::new(&[("leaf.toml", "image = 'a'")]);
    let leaves = vec!["'./leaf.toml'"; 100].join(",");
    dir.write("many.toml", &format!("base = [{leaves}]"));
    assert!(dir.error("many.toml").contains("more than 100 files"), "{}", dir.error("many.toml"));
}
