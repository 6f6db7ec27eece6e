//! `shifter images`, `rmi`, `prune` and `inspect`: what is here, and what goes.

mod crowd;
mod images;
mod inspect;
mod prune;
mod quota;
mod rmi;
mod tools;

use std::{
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use fixtures::{
    Place, Registry, Sandbox, eventually,
    image::{self, Image, Layer},
    place::list,
};
use serde_json::{Value, json};

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

    /// A working image that no other test has.
    fn busybox(&self, name: &str) -> (String, String) {
        let own = Layer::new().file("own", 0o644, name);
        self.push(name, &image::busybox().layer(own))
    }
}

/// An image of a layer that is all its own, and one of so many bytes that it shares with others.
fn small(text: &str, shared: usize) -> Image {
    Image::new()
        .layer(Layer::new().file("shared", 0o644, vec![b'x'; shared]))
        .layer(Layer::new().file("own", 0o644, text))
}

/// Built at this time.
fn built(image: Image, time: &str) -> Image {
    image.edit_config(|config| config["created"] = json!(time))
}

/// What `shifter images --json` prints.
#[track_caller]
fn listed(place: &Place, args: &[&str]) -> Vec<Value> {
    let text = place.shifter(&[&["images", "--json"], args].concat()).success();
    serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

/// Names in the list, in its order.
#[track_caller]
fn names(place: &Place, args: &[&str]) -> Vec<String> {
    let name = |image: &Value| image["reference"].as_str().unwrap_or("-").to_owned();
    listed(place, args).iter().map(name).collect()
}

fn blobs(place: &Place) -> Vec<String> {
    list(&place.store.join("blobs/sha256"))
}

fn trees(place: &Place) -> Vec<String> {
    list(&place.node.join("trees"))
}

fn hex(digest: &str) -> &str {
    digest.strip_prefix("sha256:").expect("a digest")
}

/// Says that an image was last used so many hours ago.
fn age(place: &Place, digest: &str, hours: u64) {
    let then = SystemTime::now() - Duration::from_secs(hours * 3600);
    let tree = place.node.join("trees").join(hex(digest)).join("names");
    for path in [place.store.join("blobs/sha256").join(hex(digest)), tree] {
        if let Ok(file) = std::fs::File::open(path) {
            file.set_modified(then).expect("root may");
        }
    }
}

/// A container that runs until it is dropped.
struct Running(Child, PathBuf);

impl Running {
    fn start(place: &Place, name: &str) -> Running {
        Running::with(place, name, "")
    }

    /// The container's shell does this first.
    fn with(place: &Place, name: &str, first: &str) -> Running {
        let flag = place.store.with_file_name(format!("running-{}", trees(place).len()));
        let script = format!("{first} : > {}; exec sleep 60", flag.display());
        let bind = flag.parent().expect("a directory").to_owned();
        let mut command: Command = place.command("shifter", &["run", name, "sh", "-c", &script]);
        command.current_dir(&bind).stdin(Stdio::null());
        let child = command.spawn().expect("shifter starts");
        eventually(Duration::from_secs(60), "the container", || flag.exists().then_some(()));
        Running(child, flag)
    }

    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
        let _ = std::fs::remove_file(&self.1);
    }
}
