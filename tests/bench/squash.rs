//! Images as one file: what writing one takes, how a container starts from it, how it is read.

use std::{fs, path::PathBuf};

use fixtures::need;

use crate::{
    images::Source,
    meter::{Bench, Row, Step, Table, Unit},
};

impl Bench {
    /// Writing, starting and reading an image that is a squashfs.
    pub(crate) fn squash(&mut self, image: &Source, rounds: usize) -> bool {
        let met = [need::squashfs(), need::fuse()].into_iter().find_map(Result::err);
        let pulled = match met {
            Some(why) => Err(why),
            None => self.prepare(self.step("shifter", &["pull", "--squashfs", &image.name()])),
        };
        let said =
            pulled.and_then(|_| self.prepare(self.step("shifter", &["inspect", &image.name()])));
        let found: Option<serde_json::Value> =
            said.as_ref().ok().and_then(|said| serde_json::from_str(said).ok());
        let text = |pointer| found.as_ref()?.pointer(pointer)?.as_str().map(PathBuf::from);
        let (Some(file), Some(tree)) =
            (text("/stores/0/squashfs/path"), text("/node/0/path").map(|path| path.join("rootfs")))
        else {
            let why = said.err().unwrap_or_else(|| "the squashfs is not there".to_owned());
            self.report.add(&format!("Cannot write {} as a squashfs: {why}\n\n", image.short));
            return false;
        };
        let mut well = self.writing_squashfs(image, &file, &tree, rounds);
        well &= self.reading_squashfs(image, rounds);
        well &= self.starting_squashfs(image, &file, rounds);
        well
    }

    fn writing_squashfs(
        &mut self,
        image: &Source,
        file: &PathBuf,
        tree: &PathBuf,
        rounds: usize,
    ) -> bool {
        let dir = self.by_hand().with_file_name("squash");
        let mut sizes = Vec::new();
        let mut rows = Vec::new();
        for (name, options) in [
            ("zstd 1, as Shifter does", "-comp zstd -Xcompression-level 1 -mem 512M"),
            ("lz4", "-comp lz4"),
            ("not compressed", "-noI -noD -noF -noX"),
        ] {
            let script = format!(
                "mkdir -p $DIR && mksquashfs $TREE $DIR/x -no-progress -quiet {options} >&2 && \
                 stat -c %s $DIR/x"
            );
            let step = || {
                let step = self.step("sh", &["-c", &script]);
                step.env("DIR", &dir).env("TREE", tree)
            };
            if let Ok(size) = self.prepare(step()) {
                let bytes = size.trim().parse::<f64>().unwrap_or_default();
                sizes.push(format!("{name}: {:.0} MB", bytes / 1e6));
            }
            let _ = fs::remove_dir_all(&dir);
            rows.push(Row::new(name, step()).fresh(&[&dir]));
        }
        let size = fs::metadata(file).map_or(0.0, |file| file.len() as f64 / 1e6);
        let notes = vec![format!("Sizes: {}; Shifter's own: {size:.0} MB", sizes.join(", "))];
        let title = format!("Squashfs: writing the tree of {}", image.about);
        self.table(&Table { title, rounds, unit: Unit::Seconds, rows, notes })
    }

    /// All of the file is in the host's page cache; nothing is in that of the container's mount, until
    /// it is read a second time.
    fn reading_squashfs(&mut self, image: &Source, rounds: usize) -> bool {
        const ALL: &str = "tar -c --one-file-system --exclude=./proc -C / -f - . | cat >/dev/null";
        let twice = format!("{ALL}; {ALL}");
        let run = |how: &str, script: &str| self.from(image, how, &["sh", "-c", script]);
        let rows = vec![
            Row::new("expanded", run("expand", ALL)),
            Row::new("mounted", run("mount", ALL)),
            Row::new("expanded, twice", run("expand", &twice)),
            Row::new("mounted, twice", run("mount", &twice)),
        ];
        let title = format!("Squashfs: reading every file of {}", image.about);
        self.table(&Table { title, rounds, unit: Unit::Seconds, rows, notes: Vec::new() })
    }

    fn starting_squashfs(&mut self, image: &Source, file: &PathBuf, rounds: usize) -> bool {
        let (dir, node) = (self.by_hand(), self.sandbox.node_dir(&self.user));
        let run = |how| self.from(image, how, &["/bin/true"]);
        let is_there = vec![
            Row::new("shifter run, expanded before", run("expand")),
            Row::new("shifter run, mounted", run("mount")),
        ];
        let unsquash = self.step("sh", &["-c", "unsquashfs -quiet -no-progress -d $DIR $FILE >&2"]);
        let unsquash = unsquash.env("DIR", &dir).env("FILE", file);
        let is_new = vec![
            Row::new("shifter run, expanded from layers", run("expand")).fresh(&[&node]),
            Row::new("unsquashfs alone", unsquash).fresh(&[&dir]),
            Row::new("shifter run, mounted", run("mount")).fresh(&[&node]),
        ];
        let mut table = |rows, rounds, unit, what: &str| {
            let title = format!("Squashfs: starting /bin/true in {}, {what}", image.about);
            self.table(&Table { title, rounds, unit, rows, notes: Vec::new() })
        };
        let well = table(is_there, rounds * 10, Unit::Milliseconds, "all of it there");
        table(is_new, rounds, Unit::Seconds, "on a new node") && well
    }

    fn from(&self, image: &Source, how: &str, words: &[&str]) -> Step {
        let step = self.step("shifter", &[&["run", &image.name()], words].concat());
        step.env("SHIFTER_SQUASHFS_RUN", how)
    }
}
