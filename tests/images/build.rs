//! The images, and what other tools make of them.
//!
//! ```text
//! target/tmp/images/KEY/    made once, and again when the recipe or this file changes
//!   registry/                 what a docker-registry serves: IMAGE:1
//!   IMAGE.PEER.json           the tree that another tool made of it
//! ```

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use fixtures::{Cache, Registry, Sandbox, Setup, User, place::list, run, run_within, tree};

/// Far more than building takes on a slow machine with a slow network.
const BUILD_LIMIT: Duration = Duration::from_secs(1200);

/// The directory with the images, made if it is missing.
pub(crate) fn cached(sandbox: &Sandbox) -> PathBuf {
    let recipe =
        [include_str!("recipe.sh"), include_str!("build.rs"), include_str!("../fixtures/tree.rs")];
    let cache = Cache::new(env!("CARGO_TARGET_TMPDIR"), "images", &recipe);
    cache.get(|dir| build(sandbox, dir))
}

fn build(sandbox: &Sandbox, dir: &Path) {
    // However it ends, nothing stays mounted.
    let mut recipe = Command::new("unshare");
    recipe.args(["--mount", "bash", "-c", include_str!("recipe.sh"), "recipe"]).arg(dir);
    run_within(recipe, BUILD_LIMIT).success();

    let data = Some(dir.join("registry"));
    let registry = Registry::start_with(sandbox, Setup { data, ..Setup::default() });
    let layout = dir.join("oci");
    // The same files, as skopeo packs them; first, or it would take the layers that are there.
    let (from, to) = (format!("oci:{}:stack", layout.display()), registry.name("zstd:1"));
    let zstd = ["--dest-tls-verify=false", "--dest-compress-format", "zstd"];
    registry.skopeo_copy(&[&zstd[..], &[&from, &format!("docker://{to}")]].concat()).success();
    for image in ["base", "plain", "stack", "sparse"] {
        registry.push_layout(&format!("{image}:1"), &format!("{}:{image}", layout.display()));
    }

    for image in ["base", "plain", "stack"] {
        umoci(sandbox, dir, image, &User::current());
    }
    umoci(sandbox, dir, "stack", &User::ordinary());
    buildah(sandbox, dir, "stack");
    write_tree(dir, "sparse.source", &dir.join("sparse"));
    for entry in list(dir) {
        if entry != "registry" && !entry.ends_with(".json") {
            let path = dir.join(entry);
            let removed =
                if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            removed.unwrap_or_else(|e| panic!("remove {}: {e}", path.display()));
        }
    }
}

fn write_tree(dir: &Path, name: &str, root: &Path) {
    let tree = serde_json::to_vec(&tree::read(root)).expect("it is plain data");
    fs::write(dir.join(format!("{name}.json")), tree).expect("the directory is this test's");
}

fn umoci(sandbox: &Sandbox, dir: &Path, image: &str, user: &User) {
    let there = sandbox.make_dir(format!("umoci-{}", user.name), 0o1777);
    let mut layout = dir.join("oci");
    if user.uid != 0 {
        // Not everybody may go where the tests were built.
        let copy = "cp -r \"$1\" \"$2\" && chmod -R a+rX \"$2\"";
        let mut shell = Command::new("sh");
        shell.args(["-c", copy, "sh"]).arg(&layout).arg(there.join("oci"));
        run(shell).success();
        layout = there.join("oci");
    }
    let bundle = there.join("bundle");
    let mut umoci = user.command(sandbox, "umoci");
    umoci.arg("unpack").args((user.uid != 0).then_some("--rootless"));
    umoci.args(["--image", &format!("{}:{image}", layout.display())]).arg(&bundle);
    run(umoci).success();
    let peer = if user.uid == 0 { "root" } else { "user" };
    write_tree(dir, &format!("{image}.umoci-{peer}"), &bundle.join("rootfs"));
    fs::remove_dir_all(&there).expect("it is this test's");
}

/// As containers/storage has it: layers on top of one another, by overlayfs.
fn buildah(sandbox: &Sandbox, dir: &Path, image: &str) {
    let there = sandbox.make_dir("buildah", 0o755);
    let buildah = |args: &[&str]| {
        let mut buildah = User::current().command(sandbox, "buildah");
        buildah.arg("--root").arg(there.join("storage")).arg("--runroot").arg(there.join("run"));
        buildah.args(["--storage-driver", "overlay"]).args(args);
        run(buildah).success().trim().to_owned()
    };
    let source = format!("oci:{}:{image}", dir.join("oci").display());
    let container = buildah(&["from", "--pull-never", &source]);
    let root = buildah(&["mount", &container]);
    write_tree(dir, &format!("{image}.buildah"), Path::new(&root));
    buildah(&["umount", &container]);
}
