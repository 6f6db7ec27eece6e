//! Images that are one file: written by a pull, run by FUSE, gone with their names.

mod run;
mod write;

use std::{
    path::{Path, PathBuf},
    sync::LazyLock,
    time::Duration,
};

use fixtures::{
    Place, Registry, Sandbox, eventually,
    image::{self, Image, Layer},
    place::list,
};
use serde_json::Value;

struct Site {
    sandbox: Sandbox,
    registry: Registry,
}

/// One registry for all tests of this folder; each test has images of its own.
static SITE: LazyLock<Site> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let registry = Registry::start(&sandbox);
    Site { sandbox, registry }
});

impl Site {
    fn place(&self, name: &str) -> Place {
        Place::new(&self.sandbox, name)
    }

    /// Pushes an image, and returns its name and the manifest's digest.
    fn push(&self, name: &str, image: &Image) -> (String, String) {
        let digest = self.registry.push(name, &image.build());
        (self.registry.name(name), digest)
    }

    /// A working image that no other test has, in a place that has it as one file, not expanded.
    fn written(&self, name: &str) -> (Place, String, String) {
        let place = self.place(name);
        let own =
            Layer::new().file("etc/own", 0o644, name).file("etc/large", 0o644, noise(1 << 20));
        let (image, digest) = self.push(&format!("{name}:1"), &image::busybox().layer(own));
        place.shifter(&["pull", "--to", "store", "--squashfs", &image]).success();
        (place, image, digest)
    }

    /// The servers of an image that are alive.
    fn servers(&self, digest: &str) -> Vec<i32> {
        let all = self.sandbox.processes();
        let is_one = |line: &&String| line.contains("squashfuse_ll") && line.contains(digest);
        let number = |line: &String| line.split(' ').next()?.parse().ok();
        all.iter().filter(is_one).filter_map(number).collect()
    }

    /// No server outlives its container.
    #[track_caller]
    fn assert_no_server(&self, digest: &str) {
        eventually(Duration::from_secs(10), "the end of the server", || {
            self.servers(digest).is_empty().then_some(())
        });
    }
}

fn file(place: &Place, digest: &str) -> PathBuf {
    let hex = digest.strip_prefix("sha256:").expect("a digest");
    place.store.join("squashfs").join(format!("{hex}.sqfs"))
}

fn trees(place: &Place) -> Vec<String> {
    list(&place.node.join("trees"))
}

fn inspect(place: &Place, image: &str) -> Value {
    let text = place.shifter(&["inspect", image]).success();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Bytes that no compression makes fewer.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    (0..bytes).map(|_| next()).collect()
}

/// Neither in the store nor on the node is anything half made, of whatever size.
#[track_caller]
fn assert_nothing_begun(place: &Place) {
    for dir in [place.store.join("partial"), place.node.join("partial"), place.store.join("locks")]
    {
        let left = list(&dir);
        assert!(left.is_empty(), "{} has {left:?}", dir.display());
    }
}

fn parent(path: &Path) -> &Path {
    path.parent().expect("it has one")
}
