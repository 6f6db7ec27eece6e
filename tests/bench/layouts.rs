//! How layers may lie on a node: each in a directory of its own below an overlay, or as one tree.
//!
//! ```text
//! apart    directories written side by side; overlayfs puts them together at every start
//! one      one tree, written layer by layer
//! merged   directories written side by side, then made one tree by rename: what Shifter does
//! ```
//!
//! For `apart` whiteouts would have to be made as overlayfs wants them; for `one`, to be carried out
//! when they come. Neither is done here: in time and space they are nothing beside the files.

use std::{
    ffi::OsString,
    fs::{self, File},
    io::BufReader,
    os::fd::AsFd as _,
    path::Path,
    process::ExitCode,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

use runtime::layer::{Expanded, Limits, Tree, expand, remove_tree};

use crate::{
    images::Source,
    meter::{Bench, Row, Step, Table, Unit, cores},
};

/// What makes this program write a layout, and no measurement.
pub(crate) const WRITE: &str = "--write-layout";

impl Bench {
    /// Writing, starting in and searching each layout of an image.
    pub(crate) fn layouts(&mut self, image: &Source, rounds: usize) -> bool {
        let Some(parts) = &image.parts else { return true };
        // The user reads them, wherever they lie.
        let copy = self.sandbox.make_dir("layers", 0o755);
        let layers = parts.unpacked.iter().enumerate().map(|(index, layer)| {
            let to = copy.join(index.to_string());
            fs::copy(layer, &to).unwrap_or_else(|e| panic!("copy {}: {e}", layer.display()));
            to.to_string_lossy().into_owned()
        });
        let layers: Vec<_> = layers.collect();
        let dir = self.by_hand();
        let rows = ["merged", "one", "apart"].map(|layout| {
            let about = match layout {
                "merged" => format!("side by side on {} cores, then merged by rename", cores()),
                "one" => "one tree, layer by layer".to_owned(),
                _ => format!("a directory each, side by side on {} cores", cores()),
            };
            Row::new(about, self.writing(layout, &layers)).fresh(&[&dir])
        });
        let rows = rows.into();
        let title = format!("Layouts: writing the uncompressed layers of {}", image.about);
        let mut well =
            self.table(&Table { title, rounds, unit: Unit::Seconds, rows, notes: Vec::new() });

        for layout in ["merged", "apart"] {
            if let Err(why) = self.prepare(self.writing(layout, &layers)) {
                self.report.add(&format!("Cannot write the layout {layout}: {why}\n\n"));
                return false;
            }
        }
        let sizes = self.prepare(self.step("du", &["-sk", "merged", "apart"]).within(&dir));
        let below = below(parts.unpacked.len());
        for (what, command) in [
            ("starting /bin/true", "exec chroot m /bin/true"),
            ("looking at every file", "exec find m -xdev -size -1 -name none"),
            (
                "reading every file",
                "exec tar -c --one-file-system --exclude=./proc -f - m | cat >/dev/null",
            ),
        ] {
            let row = |about: &str, lower: &str| {
                let mount = format!(
                    "mkdir -p m u w && mount -t tmpfs t u && mkdir u/u u/w && mount -t overlay o \
                     -o userxattr,lowerdir={lower},upperdir=u/u,workdir=u/w m && {command}"
                );
                let step = self.step("unshare", &["-rm", "sh", "-c", &mount]).within(&dir);
                Row::new(about, step)
            };
            let rows = vec![
                row("overlay on the merged tree", "merged/rootfs"),
                row(&format!("overlay on {} directories", parts.unpacked.len()), &below),
            ];
            let notes = match (&sizes, what) {
                (Ok(sizes), "starting /bin/true") => {
                    let sizes: Vec<_> = sizes.split_whitespace().collect();
                    vec![format!("Memory, in kB (du): {}", sizes.join(" "))]
                }
                _ => Vec::new(),
            };
            let title = format!("Layouts: {what} of {}", image.short);
            let rounds = if what.starts_with("starting") { rounds * 10 } else { rounds };
            well &= self.table(&Table { title, rounds, unit: Unit::Milliseconds, rows, notes });
        }
        let _ = fs::remove_dir_all(&dir);
        well
    }

    fn writing(&self, layout: &str, layers: &[String]) -> Step {
        let to = self.by_hand().join(layout);
        let mut step = self.step(&self.meter.to_string_lossy(), &[WRITE, layout]);
        step.command.arg(to).args(layers);
        step
    }
}

/// The option of overlayfs: the topmost comes first.
fn below(layers: usize) -> String {
    let names: Vec<_> = (0..layers).rev().map(|layer| format!("apart/{layer}")).collect();
    names.join(":")
}

/// Writes a layout; the words are its name, where to, and the layers' archives.
pub(crate) fn write(words: &[OsString]) -> ExitCode {
    let [layout, dir, layers @ ..] = words else { return ExitCode::from(2) };
    let dir = Path::new(dir);
    fs::create_dir_all(dir).expect("a place for the layout");
    match layout.to_str() {
        Some("one") => {
            let root = folder(dir, "rootfs");
            for layer in layers {
                expand_file(Path::new(layer), &root);
            }
        }
        Some("apart") => drop(side_by_side(layers, dir)),
        Some("merged") => {
            let mut tree = Tree::new(folder(dir, "rootfs").into());
            for (index, layer) in side_by_side(layers, dir).into_iter().enumerate() {
                let staging = File::open(dir.join(index.to_string())).expect("it was just made");
                tree.merge(&staging, layer).expect("the layers fit together");
                let name = index.to_string();
                let parent = File::open(dir).expect("it was just made");
                remove_tree(parent.as_fd(), name.as_ref()).expect("it is ours");
            }
            tree.finish().expect("the tree is ours");
        }
        _ => return ExitCode::from(2),
    }
    ExitCode::SUCCESS
}

fn side_by_side(layers: &[OsString], dir: &Path) -> Vec<Expanded> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut done = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(layer) = layers.get(index) else { return done };
            done.push((index, expand_file(Path::new(layer), &folder(dir, &index.to_string()))));
        }
    };
    let mut all = thread::scope(|scope| {
        let workers: Vec<_> = (0..cores()).map(|_| scope.spawn(work)).collect();
        let done = workers.into_iter().map(|worker| worker.join().expect("a layer is written"));
        done.flatten().collect::<Vec<_>>()
    });
    all.sort_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, layer)| layer).collect()
}

fn folder(dir: &Path, name: &str) -> File {
    fs::create_dir(dir.join(name)).expect("it is not there yet");
    File::open(dir.join(name)).expect("it was just made")
}

fn expand_file(layer: &Path, to: &File) -> Expanded {
    let stream = BufReader::with_capacity(256 << 10, File::open(layer).expect("a layer"));
    expand(stream, to.as_fd(), &Limits::default()).expect("a good layer")
}
