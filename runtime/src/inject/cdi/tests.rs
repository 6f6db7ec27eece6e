use std::os::unix::fs::PermissionsExt;

use super::*;

/// As nvidia-ctk writes it (nvidia-container-toolkit, `cmd/nvidia-ctk/cdi/generate/generate_test.go`),
/// for a driver in another root.
const NVIDIA: &str = include_str!("examples/nvidia.yaml");
const AMD: &str = include_str!("examples/amd.json");
/// What every file needs.
const HEAD: &str = r#""cdiVersion":"0.5.0","kind":"a.com/b""#;

/// Two directories, of which the second counts more.
struct Node(tempfile::TempDir);

impl Node {
    fn new() -> Node {
        let node = Node(tempfile::tempdir().unwrap());
        for dir in node.dirs() {
            fs::create_dir(dir).unwrap();
        }
        node
    }

    fn dirs(&self) -> Vec<PathBuf> {
        ["etc", "run"].map(|name| self.0.path().join(name)).into()
    }

    fn write(&self, name: &str, text: &str) -> &Node {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text.replace("{ROOT}", self.0.path().to_str().unwrap())).unwrap();
        self
    }

    fn load(&self) -> Registry {
        Registry::load(&self.dirs())
    }

    fn resolve(&self, names: &[&str]) -> Found {
        let names: Vec<CdiName> = names.iter().map(|name| name.parse().unwrap()).collect();
        self.load().resolve(&names, &[])
    }

    /// What is wrong with the only file.
    #[track_caller]
    fn problem(&self) -> String {
        let registry = self.load();
        assert_eq!(registry.broken.len(), 1, "{registry:?}");
        registry.broken[0].to_string()
    }
}

fn problems(found: &Found) -> Vec<String> {
    found.problems.iter().map(Error::to_string).collect()
}

#[test]
fn nvidias_file_is_understood() {
    let node = Node::new();
    let lib = "lib/x86_64-linux-gnu";
    node.write("run/nvidia.yaml", NVIDIA)
        .write(&format!("{lib}/libcuda.so.999.88.77"), "")
        .write(&format!("{lib}/vdpau/libvdpau_nvidia.so.999.88.77"), "");
    // Where devices can be made, they are; the form of the file is the same.
    let found = node.resolve(&["nvidia.com/gpu=all"]);
    let edits = &found.edits;
    let targets: Vec<_> = edits.mounts.iter().map(|m| m.target.display().to_string()).collect();
    assert_eq!(targets[0], format!("/{lib}/libcuda.so.999.88.77"));
    assert_eq!(targets[1], format!("/{lib}/vdpau/libvdpau_nvidia.so.999.88.77"));
    assert!(edits.mounts.iter().all(|mount| mount.access == Access::ReadOnly));
    assert_eq!(edits.env[1], ("NVIDIA_VISIBLE_DEVICES".into(), "void".into()));
    assert_eq!(edits.symlinks[0].path, Path::new("/lib/x86_64-linux-gnu/libcuda.so"));
    assert_eq!(edits.ld_dirs.len(), 2);
    assert_eq!(edits.cuda_compat.as_deref(), Some("999.88.77"));
    // Its devices are not there.
    let said = problems(&found);
    assert!(said[0].contains("nvidia.yaml") && said[0].contains("nvidiactl"), "{said:?}");
}

#[test]
fn amds_file_is_understood() {
    let node = Node::new();
    node.write("etc/amd.json", AMD);
    assert!(problems(&node.resolve(&["amd.com/gpu=0"]))[0].contains("/dev/kfd"));
    let text = AMD.replace("{ROOT}/dev/kfd", "/dev/null");
    node.write("etc/amd.json", &text.replace("{ROOT}/dev/dri/renderD128", "/dev/zero"));
    let found = node.resolve(&["amd.com/gpu=0"]);
    assert!(found.problems.is_empty(), "{found:?}");
    assert_eq!(found.edits.devices[1].target, Path::new("/dev/dri/renderD128"));
    assert_eq!(found.told.len(), 1);
    assert_eq!(node.load().kinds(), ["amd.com/gpu"]);
}

#[test]
fn gates_are_the_devices_with_numbers() {
    let paths = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
    let amd = gates(paths(&["/dev/kfd", "/dev/dri/card0", "/dev/dri/renderD128"]));
    assert_eq!(amd, paths(&["/dev/dri/card0", "/dev/dri/renderD128"]));
    assert_eq!(gates(paths(&["/dev/xpmem"])), paths(&["/dev/xpmem"]));
}

fn one(value: &str) -> String {
    format!(
        r#"{{{HEAD},"devices":[{{"name":"x","containerEdits":{{"env":["WHO={value}"]}}}}],
        "containerEdits":{{"env":["ALL={value}"]}}}}"#
    )
}

#[test]
fn the_later_directory_counts_and_two_files_of_one_are_a_conflict() {
    let node = Node::new();
    let env = |found: &Found| -> Vec<_> {
        let env = found.edits.env.iter();
        env.map(|(name, value)| format!("{name}={value}")).collect()
    };
    node.write("etc/a.json", &one("etc"));
    assert_eq!(env(&node.resolve(&["a.com/b=x"])), ["ALL=etc", "WHO=etc"]);
    node.write("run/z.yaml", &one("run"));
    assert_eq!(env(&node.resolve(&["a.com/b=x"])), ["ALL=run", "WHO=run"]);
    // A file of less weight is no rival.
    node.write("etc/b.json", &one("etc"));
    assert_eq!(env(&node.resolve(&["a.com/b=x"])), ["ALL=run", "WHO=run"]);
    node.write("run/y.json", &one("other"));
    let said = problems(&node.resolve(&["a.com/b=x"]));
    let both = said[0].contains("run/y.json") && said[0].contains("run/z.yaml");
    assert!(both && said[0].contains("both"), "{said:?}");
    // What is neither is not read.
    node.write("run/y.json", "").write("run/notes.txt", "x").write("run/deeper/a.json", "{");
    assert_eq!(node.load().broken.len(), 1);
    nix::unistd::mkfifo(&node.0.path().join("run/fifo.yaml"), nix::sys::stat::Mode::S_IRWXU)
        .unwrap();
    assert_eq!(node.load().broken.len(), 2, "a fifo is named, and not waited for");
}

#[test]
fn what_a_file_says_for_all_is_done_once_and_devices_in_order() {
    let node = Node::new();
    let device = |name: &str| {
        format!(
            r#"{{"name":"{name}","containerEdits":{{"env":["D={name}"],
            "deviceNodes":[{{"path":"/dev/b0","hostPath":"/dev/{name}"}}]}}}}"#
        )
    };
    node.write(
        "etc/a.json",
        &format!(
            r#"{{{HEAD},"devices":[{},{}],"containerEdits":{{"env":["E=1"]}}}}"#,
            device("null"),
            device("zero")
        ),
    );
    let found = node.resolve(&["a.com/b=zero", "a.com/b=null"]);
    let names: Vec<_> = found.edits.env.iter().map(|(n, v)| format!("{n}={v}")).collect();
    assert_eq!(names, ["E=1", "D=zero", "D=null"]);
    // One place, one device: the last.
    assert_eq!(found.edits.devices.len(), 1);
    assert_eq!(found.edits.devices[0].source, Path::new("/dev/null"));
    assert_eq!(found.gates, [Path::new("/dev/zero"), Path::new("/dev/null")]);
}

#[test]
fn a_broken_file_hides_no_devices_of_others() {
    let node = Node::new();
    node.write("etc/good.json", &one("good")).write("etc/bad.yaml", "kind: [\n");
    assert!(node.resolve(&["a.com/b=x"]).problems.is_empty());
    // It is told of when it may be the reason.
    let said = problems(&node.resolve(&["other.com/b=x"]));
    assert!(said[0].contains("find device other.com/b=x"), "{said:?}");
    assert!(said[0].contains("bad.yaml"), "{said:?}");
    let said = problems(&node.resolve(&["a.com/b=y"]));
    assert!(said[0].contains("of its kind, there are x"), "{said:?}");
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_line() {
    for (name, text, says) in [
        ("a.json", "{\n\"cdiVersion\": 5}", ", line 2: invalid type"),
        (
            "a.json",
            "{\n\"cdiVersion\": \"0.5.0\",\n\"knid\": \"a/b\"}",
            ", line 3: unknown field `knid`",
        ),
        ("a.yaml", "cdiVersion: 0.5.0\nknid: a/b\n", ", line 2: "),
        ("a.yaml", "cdiVersion: 0.5.0\nkind: a/b\ndevices:\n  - name: 0\n", ", line 4: "),
        ("a.yaml", "a: &a [x]\nb: *a\n", "unknown field"),
        ("a.yaml", "", "unexpected end of input"),
        ("a.json", "{", ", line 1: EOF"),
    ] {
        let node = Node::new();
        let said = node.write(&format!("etc/{name}"), text).problem();
        assert!(said.contains(says) && said.contains(name), "{says:?} is not in: {said}");
        assert!(!said.contains('\n'), "{said:?}");
    }
}

#[test]
fn versions_have_the_fields_that_they_have() {
    let file = |version: &str, kind: &str, name: &str, edits: &str| {
        format!(
            r#"{{"cdiVersion":"{version}","kind":"{kind}",
            "devices":[{{"name":"{name}","containerEdits":{{{edits}}}}}]}}"#
        )
    };
    let env = r#""env":["A=b"]"#;
    let host = r#""deviceNodes":[{"path":"/dev/x","hostPath":"/dev/null"}]"#;
    let mount = r#""mounts":[{"hostPath":"/a","containerPath":"/b","type":"bind"}]"#;
    for (version, kind, name, edits, says) in [
        ("0.3.0", "a/b", "x", env, None),
        ("v0.3.0", "a/b", "x", env, None),
        ("0.3.0", "a/b", "0", env, Some("0.5.0 has")),
        ("0.3.0", "a/b", "x", host, Some("hostPath")),
        ("0.5.0", "a/b", "x", host, None),
        ("0.3.0", "a/b", "x", mount, Some("0.4.0 has")),
        ("0.5.0", "a/b.c", "x", env, Some("dots")),
        ("0.6.0", "a/b", "x", r#""additionalGids":[1]"#, Some("0.7.0 has")),
        ("0.7.0", "a/b", "x", r#""additionalGids":[1]"#, None),
        (
            "1.0.0",
            "a/b",
            "x",
            r#""netDevices":[{"hostInterfaceName":"a","name":"b"}]"#,
            Some("1.1.0"),
        ),
        ("1.1.0", "a/b", "x", r#""intelRdt":{"schemata":["a"]}"#, None),
        ("1.2.0", "a/b", "x", env, Some("\"1.2.0\" is not known")),
        ("0.5.0", "b", "x", env, Some("not VENDOR/CLASS")),
        ("0.5.0", "a/b", "-x", env, Some("no name for a device")),
        ("0.5.0", "a/b", "x", r#""env":["A"]"#, Some("NAME=VALUE")),
        ("0.5.0", "a/b", "x", r#""deviceNodes":[{"path":"dev/x"}]"#, Some("absolute")),
        ("0.5.0", "a/b", "x", r#""deviceNodes":[{"path":"/x","type":"z"}]"#, Some("no type")),
        ("0.5.0", "a/b", "x", r#""env":["A=\u0000"]"#, Some("NUL")),
        (
            "0.5.0",
            "a/b",
            "x",
            r#""mounts":[{"hostPath":"/a","containerPath":"/"}]"#,
            Some("nothing can be mounted over the root"),
        ),
        ("0.5.0", "a/b", "x", r#""deviceNodes":[{"path":"/dev/../x"}]"#, Some("..")),
        ("0.5.0", "a/b", "x", r#""hooks":[{"hookName":"x","path":"/y"}]"#, Some("hooks")),
    ] {
        let node = Node::new();
        node.write("etc/a.json", &file(version, kind, name, edits));
        let registry = node.load();
        let said = registry.broken.first().map(Error::to_string);
        match (says, said) {
            (None, None) => {}
            (Some(says), Some(said)) => assert!(said.contains(says), "{says:?}: {said}"),
            (_, said) => panic!("{version} {edits}: {said:?}"),
        }
    }
}

#[test]
fn what_cannot_be_had_is_a_problem_of_those_who_ask_for_it() {
    let node = Node::new();
    let with = |edits: &str| {
        let version = HEAD.replace("0.5.0", "1.1.0");
        let text = format!(
            r#"{{{version},"devices":[{{"name":"x","containerEdits":{{{edits}}}}},
            {{"name":"y","containerEdits":{{"env":["A=b"]}}}}]}}"#
        );
        node.write("etc/a.json", &text);
        assert!(node.resolve(&["a.com/b=y"]).problems.is_empty(), "{edits}");
        problems(&node.resolve(&["a.com/b=x"])).join("\n")
    };
    let said = with(r#""netDevices":[{"hostInterfaceName":"eth1","name":"b"}]"#);
    assert!(said.contains("network interface \"eth1\""), "{said}");
    assert!(with(r#""intelRdt":{}"#).contains("intelRdt"));
    let said = with(r#""mounts":[{"hostPath":"/dev/b","containerPath":"/b","type":"ext4"}]"#);
    assert!(said.contains("a mount of type \"ext4\""), "{said}");
    let memory = |option: &str| {
        with(&format!(
            r#""mounts":[{{"hostPath":"tmpfs","containerPath":"/b","type":"tmpfs","options":["{option}"]}}]"#
        ))
    };
    assert_eq!(memory("size=1m"), "");
    assert!(memory("ro").contains("tmpfs \"/b\", option \"ro\": it is not supported"));
    assert!(memory("mode=9").contains("option \"mode=9\": "), "{}", memory("mode=9"));
    let said = with(
        r#""mounts":[{"hostPath":"/no/a","containerPath":"/a"},{"hostPath":"/no/b","containerPath":"/b"},
        {"hostPath":"/no/c","containerPath":"/c"}]"#,
    );
    assert!(said.contains("mount /no/a (named in ") && said.contains(") and 2 more"), "{said}");
    let said = with(r#""deviceNodes":[{"path":"/etc"}]"#);
    assert!(said.contains("use /etc") && said.contains("not a device"), "{said}");
    let said = with(r#""hooks":[{"hookName":"prestart","path":"/opt/h","args":["h"]}]"#);
    assert!(said.contains("hook \"h\""), "{said}");
}

/// Whoever can write such a file runs programs as the one who uses it.
#[test]
fn a_file_that_others_can_write_is_not_read() {
    let node = Node::new();
    node.write("etc/a.json", &one("x"));
    let path = node.0.path().join("etc/a.json");
    for (mode, good) in [(0o644, true), (0o600, true), (0o664, false), (0o646, false)] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(node.load().broken.is_empty(), good, "{mode:o}");
    }
    assert!(node.problem().contains("others can write to it"));
}
