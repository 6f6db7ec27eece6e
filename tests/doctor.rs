//! `shifter doctor` on nodes that are well, and on nodes that are not.

use std::{process::Command, sync::LazyLock};

use fixtures::{
    Cluster, Faulty, Outcome, Place, Sandbox, User, need, run, run_within, sample::image,
};
use serde_json::Value;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

/// What is said of one thing; of registries, of the one with this name.
#[track_caller]
fn finding(outcome: &Outcome, what: &str, about: &str) -> Value {
    let lines = outcome.stdout.lines();
    let mut all = lines.map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let fits = |finding: &Value| {
        finding["what"] == what && finding["says"].as_str().is_some_and(|s| s.contains(about))
    };
    all.find(fits).unwrap_or_else(|| panic!("nothing about {what} {about:?}: {outcome}"))
}

#[track_caller]
fn assert_is(outcome: &Outcome, what: &str, state: &str, says: &str, who: Option<&str>) {
    let found = finding(outcome, what, says);
    assert_eq!((found["state"].as_str(), found["who"].as_str()), (Some(state), who), "{outcome}");
    assert_eq!(found["remedy"].is_null(), who.is_none(), "{outcome}");
}

#[test]
fn a_node_that_is_well() {
    need!(root, userns);
    let registry = Faulty::serve(&image());
    let place = Place::new(&SANDBOX, "well");
    let place = place.with_config(&format!("[[registry]]\nhost = {:?}\n", registry.address()));
    let outcome = place.shifter(&["doctor", "--json"]);
    assert_eq!(outcome.code, 0, "{outcome}");
    assert_is(&outcome, "settings", "works", "well/shifter.toml (yours)", None);
    assert_is(&outcome, "settings", "works", "SHIFTER_NODE_DIR", None);
    assert_is(&outcome, "containers", "works", "overlay", None);
    assert_is(&outcome, "image store", "works", "well/store", None);
    assert_is(&outcome, "registry", "works", &registry.address(), None);
    // What is there says where; what is not, what that costs.
    for what in ["FUSE", "mksquashfs"] {
        let finding = finding(&outcome, what, "");
        assert!(finding["state"] == "works" || finding["who"] == "admin", "{outcome}");
    }
    let text = place.shifter(&["doctor"]).success();
    assert!(text.contains("ok      containers      user and mount namespaces"), "{text}");
    // It was only a look.
    assert!(!place.store.exists(), "a store was made");
    place.assert_clean();
}

#[test]
fn what_keeps_containers_from_running_is_found() {
    need!(root, userns);
    let place = Place::new(&SANDBOX, "without");
    let mut nested = place.command("unshare", &["-Ur", "sh", "-c"]);
    nested.arg("echo 0 >/proc/sys/user/max_user_namespaces && exec shifter doctor --json");
    let outcome = run(nested);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (125, ""), "{outcome}");
    let says = "they are disabled on this host (user.max_user_namespaces = 0)";
    assert_is(&outcome, "containers", "fails", says, Some("admin"));
}

#[test]
fn what_a_user_can_mend_is_said() {
    let mut place = Place::new(&SANDBOX, "mend").with_config(
        "shared_stores = [\"/nowhere/images\"]\n[[registry]]\nhost = \"127.0.0.1:1\"\n",
    );
    place.node = "/proc/nowhere".into();
    place.store = "/proc/nowhere".into();
    let outcome = place.shifter(&["doctor", "--json"]);
    assert_eq!(outcome.code, 125, "{outcome}");
    assert_is(&outcome, "node directory", "fails", "/proc/nowhere", Some("user"));
    assert_is(&outcome, "image store", "fails", "/proc/nowhere", Some("user"));
    assert_is(&outcome, "shared store", "limited", "/nowhere/images", Some("admin"));
    assert_is(&outcome, "registry", "limited", "127.0.0.1:1", Some("user"));
    let text = place.shifter(&["doctor"]).stdout;
    assert!(text.contains("FAILS   image store"), "{text}");
    assert!(
        text.contains("\n                        you can mend it: set SHIFTER_STORE"),
        "{text}"
    );
}

#[test]
fn settings_that_cannot_be_read_are_found() {
    let place = Place::new(&SANDBOX, "typo").with_config("stroe = \"/x\"");
    let outcome = place.shifter(&["doctor", "--json"]);
    assert_eq!(outcome.code, 125, "{outcome}");
    let found = finding(&outcome, "settings", "stroe");
    assert_eq!(found["remedy"], "did you mean store?");
    finding(&outcome, "containers", "");
}

#[test]
fn slurm_is_looked_at() {
    need!(root, slurm);
    let cluster = Cluster::start(&SANDBOX, 1).with_plugin();
    let user = User::ordinary();
    let doctor = |cluster: &Cluster| {
        let mut command: Command = cluster.command(&user, "shifter");
        command.args(["doctor", "--json"]);
        run_within(command, std::time::Duration::from_secs(60))
    };
    let outcome = doctor(&cluster);
    assert_is(&outcome, "Slurm", "works", ".", None);
    assert_is(&outcome, "Slurm plugin", "works", env!("CARGO_PKG_VERSION"), None);
    assert_is(&outcome, "MPI", "works", "pmi2", None);
    let line = cluster.plugin_line();
    let plugin = line.split_whitespace().nth(1).expect("the plugin");
    let alone = SANDBOX.make_dir("alone", 0o755).join("shifter");
    std::fs::copy(SANDBOX.prefix().join("bin/shifter"), &alone).expect("copy");
    for (line, state, says) in [
        ("# nothing".to_owned(), "limited", "does not name the plugin"),
        (line.replace("required", "optional"), "limited", "is optional"),
        (
            format!("required {plugin} shifter=/nowhere/shifter"),
            "fails",
            "/nowhere/shifter is missing",
        ),
        (
            format!("required {plugin} shifter={}", alone.display()),
            "fails",
            "/alone/shifter-pull: no such file",
        ),
        ("required /nowhere/shifter.so".to_owned(), "fails", "/nowhere/shifter.so"),
    ] {
        cluster.set_plugstack(&[&line]);
        assert_is(&doctor(&cluster), "Slurm plugin", state, says, Some("admin"));
    }
}

#[test]
fn what_an_image_as_one_file_takes() {
    need!(root, squashfs, fuse, userns);
    let place = Place::new(&SANDBOX, "squashfs");
    let place = place.with_config("[[registry]]\nhost = \"127.0.0.1:1\"\n");
    let outcome = place.shifter(&["doctor", "--json"]);
    assert_is(&outcome, "FUSE", "works", "/dev/fuse, /usr/bin/squashfuse_ll", None);
    assert_is(&outcome, "mksquashfs", "works", "/usr/bin/mksquashfs", None);
    let mut without = place.command("shifter", &["doctor", "--json"]);
    without.env("PATH", SANDBOX.prefix().join("bin"));
    let outcome = run(without);
    assert_is(&outcome, "FUSE", "absent", "is expanded into memory", Some("admin"));
    assert_is(&outcome, "mksquashfs", "absent", "no pull can write", Some("admin"));
    // A device that is closed, as where there is no udev.
    let script = "mount -t tmpfs tmpfs /dev && exec shifter doctor --json";
    let nested = run(place.command("unshare", &["-Urm", "sh", "-c", script]));
    let says = "open /dev/fuse: no such file or directory: an image";
    assert_is(&nested, "FUSE", "absent", says, Some("admin"));
}
