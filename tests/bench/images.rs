//! What is pulled, and from where.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use fixtures::{
    Registry, Sandbox, Setup,
    image::{self, Compression, Image},
};
use serde_json::{Value, json};

use crate::setting;

/// An image in a registry.
#[derive(Debug)]
pub(crate) struct Source {
    /// `medium`
    pub(crate) short: String,
    /// How many layers, how big.
    pub(crate) about: String,
    /// Its layers together, packed.
    pub(crate) bytes: u64,
    /// `127.0.0.1:5077/bench/medium`, with plain http. The tag `latest` is an OCI image; `v2s2` has
    /// the same layers under a Docker manifest, unless these are of zstd.
    pub(crate) repository: String,
    /// The same with TLS.
    pub(crate) tls_repository: String,
    /// `http://127.0.0.1:5077/v2/bench/medium/`
    pub(crate) url: String,
    /// What the prototype and the limit take: only images of `BENCH_TOOLS` have it.
    pub(crate) parts: Option<Parts>,
}

/// An image's layers as files.
#[derive(Debug)]
pub(crate) struct Parts {
    /// The layers' list.
    pub(crate) list: PathBuf,
    /// The layers as the registry has them.
    pub(crate) packed: Vec<PathBuf>,
    /// The layers as archives.
    pub(crate) unpacked: Vec<PathBuf>,
}

impl Source {
    pub(crate) fn name(&self) -> String {
        format!("{}:latest", self.repository)
    }

    pub(crate) fn tls_name(&self) -> String {
        format!("{}:latest", self.tls_repository)
    }

    pub(crate) fn is_zstd(&self) -> bool {
        self.short.ends_with("-zst")
    }
}

/// What is made once, and kept: BENCH_DIR.
pub(crate) fn dir() -> PathBuf {
    let dir = PathBuf::from(setting("BENCH_DIR", "target/bench"));
    fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("make {}: {e}", dir.display()));
    dir.canonicalize().expect("it was just made")
}

/// The images, and what serves them.
#[derive(Debug)]
pub(crate) struct Images {
    /// At least one.
    pub(crate) all: Vec<Source>,
    /// BENCH_DIR
    pub(crate) dir: PathBuf,
    /// The program that is the prototype, and measures the limit's stages.
    pub(crate) limits: Option<PathBuf>,
    /// Serves with TLS; and without, where there is no registry.sh.
    registry: Registry,
}

impl Images {
    pub(crate) fn provide(dir: &Path, sandbox: &Sandbox) -> Images {
        let dir = dir.to_path_buf();
        match Path::new(&setting("BENCH_TOOLS", "")).canonicalize() {
            Ok(tools) => Images::from_tools(&tools, dir, sandbox),
            Err(_) => Images::own(dir, sandbox),
        }
    }

    /// What the TLS side's certificate is signed by. Every user may read it.
    pub(crate) fn ca_file(&self) -> PathBuf {
        self.registry.ca_file()
    }

    /// `127.0.0.1:PORT` of the TLS side.
    pub(crate) fn tls_address(&self) -> String {
        self.registry.tls_address()
    }

    fn from_tools(tools: &Path, dir: PathBuf, sandbox: &Sandbox) -> Images {
        let port = setting("BENCH_PORT", "5077");
        let names = setting("BENCH_IMAGES", "small medium");
        let names: Vec<_> = names.split_whitespace().collect();
        assert!(!names.is_empty(), "BENCH_IMAGES names no image");
        let tool = |program: &str, script: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.arg(tools.join(script)).args(args);
            command.env("BENCH_DIR", &dir).env("BENCH_PORT", &port);
            prepare(command, script);
        };
        tool("bash", "registry.sh", &["start"]);
        tool("python3", "make_images.py", &names);
        // The same storage once more: registry.sh's certificate is an authority's, which rustls
        // does not take for a server's.
        let data = Some(dir.join("registry"));
        let registry = Registry::start_with(sandbox, Setup { tls: true, data, ..Setup::default() });

        let describe = |name: &&str| {
            // The user may not be able to go where BENCH_DIR is.
            let text = fs::read(dir.join("oci").join(name).join("layers.json"));
            let text = text.expect("make_images.py wrote the list of layers");
            let list: Vec<Value> = serde_json::from_slice(&text).expect("the list is JSON");
            let sum = |key: &str| list.iter().filter_map(|layer| layer[key].as_u64()).sum::<u64>();
            let (count, raw, bytes) = (list.len(), sum("raw") / 1_000_000, sum("size"));
            let packed = bytes / 1_000_000;
            let plural = if count == 1 { "" } else { "s" };
            let suffix = if name.ends_with("-zst") { "zst" } else { "gz" };
            let files = |folder: &str, suffix: &str| {
                let keys = list.iter().filter_map(|layer| layer["key"].as_str());
                keys.map(|key| dir.join(folder).join(format!("{key}.{suffix}"))).collect()
            };
            Source {
                short: (*name).into(),
                about: format!(
                    "{name}: {count} layer{plural}, {packed} MB packed, {raw} MB unpacked"
                ),
                bytes,
                repository: format!("127.0.0.1:{port}/bench/{name}"),
                tls_repository: format!("{}/bench/{name}", registry.tls_address()),
                url: format!("http://127.0.0.1:{port}/v2/bench/{name}/"),
                parts: Some(Parts {
                    packed: files("blob", suffix),
                    unpacked: files("tar", "tar"),
                    list: sandbox.write(format!("layers-{name}.json"), text),
                }),
            }
        };
        let all = names.iter().map(describe).collect();
        let limits = build_limits(tools, &dir).map(|built| {
            let installed = sandbox.make_dir("tools", 0o755).join("limits");
            fs::copy(&built, &installed).expect("what was built can be copied");
            installed
        });
        Images { all, dir, limits, registry }
    }

    /// An image of our own; no prototype, no limit.
    fn own(dir: PathBuf, sandbox: &Sandbox) -> Images {
        let layout = dir.join("debian");
        if !layout.join("index.json").exists() {
            let root = dir.join("debian.root");
            // What an interrupted run left.
            let _ = fs::remove_dir_all(&root);
            let mut debootstrap = Command::new("debootstrap");
            debootstrap.args(["--variant=minbase", "bookworm"]).arg(&root);
            prepare(debootstrap, "debootstrap");
            let tar = Command::new("tar").arg("-C").arg(&root).args(["-cf", "-", "."]).output();
            let tar = tar.expect("tar is on every Debian");
            assert!(tar.status.success(), "tar: {}", String::from_utf8_lossy(&tar.stderr));
            let archive = tar.stdout;
            let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
            let diff_id = image::digest(&archive);
            Image::new()
                .layer_of(&diff_id, image::gzip(&archive), Compression::Gzip)
                .env(path)
                // Charliecloud wants one.
                .edit_config(|config| config["history"] = json!([{"created_by": "debootstrap"}]))
                .build()
                .write_layout(&layout, "latest");
            fs::remove_dir_all(&root).expect("our own directory can be removed");
        }
        let registry = Registry::start_with(sandbox, Setup { tls: true, ..Setup::default() });
        registry.push_layout("bench/debian:latest", &format!("{}:latest", layout.display()));
        let repository = registry.name("bench/debian");
        let insecure = ["--src-tls-verify=false", "--dest-tls-verify=false", "--format", "v2s2"];
        let (from, to) = (format!("docker://{repository}"), format!("docker://{repository}:v2s2"));
        registry.skopeo_copy(&[insecure.as_slice(), &[&from, &to]].concat()).success();
        let source = Source {
            short: "debian".into(),
            about: "debian: 1 layer, made by debootstrap".into(),
            bytes: 0,
            tls_repository: format!("{}/bench/debian", registry.tls_address()),
            url: format!("http://{}/v2/bench/debian/", registry.address()),
            repository,
            parts: None,
        };
        Images { all: vec![source], dir, limits: None, registry }
    }
}

/// Builds the prototype once; `None` if that fails.
fn build_limits(tools: &Path, dir: &Path) -> Option<PathBuf> {
    let built = dir.join("limits-zlibrs");
    if built.exists() {
        return Some(built);
    }
    // Cargo writes beside the sources.
    let sources = dir.join("limits-src");
    let copied = Command::new("cp").arg("-rT").arg(tools.join("limits")).arg(&sources).status();
    let target = dir.join("target");
    let cargo = Command::new("cargo")
        .args(["build", "--release", "--features", "isal,zlibrs"])
        .current_dir(&sources)
        .env("CARGO_TARGET_DIR", &target)
        .status();
    let done = copied.ok()?.success() && cargo.ok()?.success();
    let copied = done && fs::copy(target.join("release/limits"), &built).is_ok();
    copied.then_some(built)
}

/// Runs a command that makes something for later; it may take long, and says so itself.
fn prepare(mut command: Command, what: &str) {
    eprintln!("bench: {what} …");
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let well = status.as_ref().is_ok_and(|status| status.success());
    assert!(well, "{what}: {status:?}");
}
