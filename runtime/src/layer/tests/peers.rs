//! The same tree by another way: one archive after the other, and umoci.

use super::*;

/// A small generator of numbers; the same on every run.
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        // Knuth's MMIX generator; its upper bits are the random ones.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    pub(super) fn choose<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn path(&mut self) -> String {
        let mut path = String::from(*self.choose(&["a", "b", "c"]));
        for _ in 0..self.below(3) {
            path.push('/');
            path.push(*self.choose(&['x', 'y', 'z']));
        }
        path
    }

    /// A layer's notation, written as tools write them: each name once, parents first, nothing
    /// below what is no directory. `removals` are whiteouts and opaque directories.
    fn layer(&mut self, removals: bool) -> String {
        let mut entries: BTreeMap<String, String> = BTreeMap::new();
        for index in 0..1 + self.below(6) {
            let path = self.path();
            let (dir, base) = path.rsplit_once('/').map_or(("", &*path), |(d, b)| (d, b));
            let entry = match self.below(if removals { 12 } else { 9 }) {
                0..=2 => format!("f {path}={index}"),
                3..=4 => format!("d {path}:7{}5", self.below(6)),
                // Each link leads to a directory of its own: two names of one layer that are the
                // same only by a link of a lower one are beyond what the merge can order.
                5..=6 => {
                    let up = "../".repeat(path.matches('/').count());
                    let target = path.replace('/', "");
                    format!("l {path} -> {}t/{target}", self.choose(&["/", &up]))
                }
                // To what comes before it in a layer that has both.
                7 => match self.path() {
                    target if target < path => format!("h {path} -> {target}"),
                    _ => format!("f {path}={index}"),
                },
                8 => format!("p {path}"),
                9..=10 => format!("f {dir}/.wh.{base}"),
                _ => format!("f {path}/.wh..wh..opq"),
            };
            let leaf =
                |entry: &str| entry.starts_with(['f', 'h', 'l', 'p']) && !entry.contains(".wh.");
            let below = |a: &str, b: &str| a.strip_prefix(b).is_some_and(|r| r.starts_with('/'));
            let clash = entries.iter().any(|(other, its)| {
                *other == path
                    || below(&path, other) && leaf(its)
                    || below(other, &path) && !entry.starts_with('d')
            });
            if !clash {
                entries.insert(path, entry);
            }
        }
        entries.into_values().collect::<Vec<_>>().join("; ")
    }
}

#[test]
fn merging_equals_one_archive_after_the_other() {
    let mut compared = 0;
    for seed in 0..500 {
        let mut dice = Dice(seed);
        let notations: Vec<_> = (0..2 + dice.below(2)).map(|_| dice.layer(false)).collect();
        let apart: Vec<_> = notations.iter().map(|notation| layer(notation)).collect();
        let mut one = Tar::default();
        for notation in &notations {
            one.notation(notation);
        }
        let (merged, whole) = (Site::new(), Site::new());
        match (merged.apply(&apart), whole.apply(&[one.end().clone()])) {
            (Ok(_), Ok(_)) => {
                let trees = (tell(&merged.root()), tell(&whole.root()));
                assert_eq!(trees.0, trees.1, "seed {seed}: {notations:#?}");
                compared += 1;
            }
            (Err(_), Err(_)) => {}
            // Within one archive a hard link may come before its target, or give way unmade.
            _ if notations.iter().any(|n| n.contains("h ")) => {}
            (apart, whole) => panic!("seed {seed}: {notations:#?}\n{apart:?}\n{whole:?}"),
        }
    }
    assert!(compared > 150, "only {compared} stacks were good");
}

/// Whether a tool is here; if not, says so, or fails where that is asked for.
pub(super) fn need(tool: &str) -> bool {
    let here = Command::new(tool).arg("--version").output().is_ok();
    let required = std::env::var_os("SHIFTER_TEST_REQUIRE").is_some_and(|value| value == "1");
    assert!(here || !required, "{tool} is required and not installed");
    if !here {
        use std::io::Write;
        writeln!(io::stderr(), "skipped: {tool} is not installed").expect("stderr");
    }
    here
}

/// An OCI image layout with these layers, as umoci reads it.
fn write_layout(dir: &Path, layers: &[Tar]) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |bytes: &[u8]| {
        let digest = crate::Digest::of(bytes);
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        serde_json::json!({"digest": digest.as_str(), "size": bytes.len()})
    };
    let typed = |mut blob: serde_json::Value, kind: &str| {
        blob["mediaType"] = format!("application/vnd.oci.image.{kind}").into();
        blob
    };
    let tars: Vec<_> = layers.iter().map(|tar| typed(put(&tar.0), "layer.v1.tar")).collect();
    let diff_ids: Vec<_> = tars.iter().map(|tar| tar["digest"].clone()).collect();
    let config = serde_json::json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = typed(put(config.to_string().as_bytes()), "config.v1+json");
    let manifest = serde_json::json!({
        "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": tars,
    });
    let mut manifest = typed(put(manifest.to_string().as_bytes()), "manifest.v1+json");
    manifest["annotations"] = serde_json::json!({"org.opencontainers.image.ref.name": "t"});
    let index = serde_json::json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

pub(super) fn umoci(site: &Site, layers: &[Tar]) -> Result<Vec<String>, String> {
    let (layout, bundle) = (site.base.path().join("layout"), site.base.path().join("bundle"));
    write_layout(&layout, layers);
    let image = format!("{}:t", layout.display());
    // The directories that nobody declares get their mode from the umask there.
    let output = Command::new("sh")
        .args(["-c", "umask 022; exec umoci unpack --rootless --image \"$@\"", "umoci", &image])
        .arg(&bundle)
        .output()
        .unwrap();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned());
    }
    Ok(tell(&bundle.join("rootfs")))
}

#[test]
fn umoci_gives_the_same_tree() {
    if !need("umoci") {
        return;
    }
    let mut compared = 0;
    for seed in 0..100 {
        let mut dice = Dice(seed * 7919 + 1);
        let notations: Vec<_> = (0..2 + dice.below(2)).map(|_| dice.layer(true)).collect();
        let layers: Vec<_> = notations.iter().map(|notation| layer(notation)).collect();
        let site = Site::new();
        match (site.apply(&layers), umoci(&site, &layers)) {
            (Ok(_), Ok(theirs)) => {
                assert_eq!(tell(&site.root()), theirs, "seed {seed}: {notations:#?}");
                let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
                times(&site.root(), Path::new(""), &mut ours);
                let bundle = site.base.path().join("bundle/rootfs");
                times(&bundle, Path::new(""), &mut theirs);
                assert_eq!(ours, theirs, "seed {seed}: times: {notations:#?}");
                compared += 1;
            }
            (Err(_), Err(_)) => {}
            (ours, theirs) => panic!("seed {seed}: {notations:#?}\n{ours:?}\n{theirs:?}"),
        }
    }
    assert!(compared > 30, "only {compared} stacks were good");
}
