//! Pulls of an image that is not there yet.

use std::{
    fs,
    path::{Path, PathBuf},
};

use fixtures::{Registry, User, image, need};

use crate::{
    images::{Images, Parts, Source},
    meter::{Bench, Row, Step, Table, Unit, cores},
    number,
};

/// The defaults that the programs under test were built with.
const DEFAULTS: &str = include_str!("../../runtime/src/default.toml");

impl Bench {
    /// From the registry to files on tmpfs, by everything there is.
    pub(crate) fn pulls(&mut self, image: &Source, images: &Images, rounds: usize) -> bool {
        let peer_rounds = if image.short == "large" { 1 } else { rounds };
        let peer_rounds = number("BENCH_PEER_ROUNDS", peer_rounds);
        let mut rows = Vec::new();
        let mut notes = Vec::new();
        match (&images.limits, &image.parts) {
            (Some(limits), Some(parts)) => {
                rows.push(self.prototype(limits, image, parts));
                match self.limit(limits, image, parts) {
                    Ok(limit) => rows.push(limit.peer(peer_rounds)),
                    Err(why) => notes.push(format!("Left out: the limit: {why}")),
                }
            }
            _ => notes.push("Left out: the prototype and the limit: see BENCH_TOOLS".into()),
        }
        rows.extend(self.our_pulls(image, images));
        let (peers, left_out) = self.peers(image, images, peer_rounds);
        rows.extend(peers);
        notes.extend(left_out);
        let title = format!("Pull of {}", image.about);
        self.table(&Table { title, rounds, unit: Unit::Seconds, rows, notes })
    }

    fn our_pulls(&self, image: &Source, images: &Images) -> Vec<Row> {
        let node = self.sandbox.node_dir(&self.user);
        // On tmpfs too: a disk would be what is measured.
        let store = self.by_hand();
        // What the default is not.
        let other = !DEFAULTS.lines().any(|line| line == "check_diff_ids = true");
        let diff_ids = format!("check_diff_ids = {other}");
        let tls = format!(
            "[[registry]]\nhost = {:?}\nca_file = {:?}\n",
            images.tls_address(),
            images.ca_file()
        );
        let config = |name: &str, text: &str| self.sandbox.write(name, text);
        let pull = |to: &str, name: &str| {
            self.step("shifter", &["pull", "--to", to, name]).env("SHIFTER_STORE", &store)
        };
        let name = image.name();
        vec![
            Row::new("shifter pull --to node", pull("node", &name)),
            Row::new("shifter pull --to both", pull("both", &name)),
            Row::new(
                format!("shifter pull --to node, {diff_ids}"),
                pull("node", &name).env("SHIFTER_CONFIG", config("diff-ids.toml", &diff_ids)),
            ),
            Row::new(
                "shifter pull --to node, TLS",
                pull("node", &image.tls_name()).env("SHIFTER_CONFIG", config("tls.toml", &tls)),
            ),
        ]
        .into_iter()
        .map(|row| row.fresh(&[&node, &store]))
        .collect()
    }

    fn prototype(&self, limits: &Path, image: &Source, parts: &Parts) -> Row {
        let to = self.by_hand();
        let blobs = format!("{}blobs/", image.url);
        let (list, to_arg) = (parts.list.to_string_lossy(), to.to_string_lossy());
        let args = ["pull", codec(image), "2", "2", "times", &*list, &blobs, &*to_arg];
        Row::new("one-pass prototype", self.step(&limits.to_string_lossy(), &args)).fresh(&[&to])
    }

    /// Each stage of a pull by itself, on one core. Its input is a file in the page cache, which
    /// takes some time to read that one pass does not need.
    fn limit(&self, limits: &Path, image: &Source, parts: &Parts) -> Result<Row, String> {
        let mut files = parts.packed.iter().chain(&parts.unpacked);
        if let Some(gone) = files.find(|file| !file.exists()) {
            return Err(format!("{} is gone", gone.display()));
        }
        let to = self.by_hand();
        // The files may be where only root can go.
        let stage = |args: &[&str], files: &[PathBuf]| -> Step {
            let mut step = self.step_as(&User::current(), &limits.to_string_lossy(), args);
            step.command.args(files);
            step
        };
        let blobs = format!("{}blobs/", image.url);
        let stages = vec![
            stage(&["get", "1", &parts.list.to_string_lossy(), &blobs], &[]),
            stage(&["sha", "awslc"], &parts.packed),
            stage(&["inflate", codec(image)], &parts.packed),
            stage(&["untar", "times", "1", &to.to_string_lossy()], &parts.unpacked),
        ];
        let name = format!("limit: get, sha256, inflate, untar on {} cores", cores());
        Ok(Row::stages(name, stages).fresh(&[&to]))
    }

    /// What an entry costs should not depend on how many there are, nor on how many layers.
    pub(crate) fn pulls_of_many(&mut self, rounds: usize) -> bool {
        const FEW: usize = 10_240;
        const MANY: usize = 102_400;
        let registry = Registry::start(&self.sandbox);
        let node = self.sandbox.node_dir(&self.user);
        let images = [("few", FEW, 1), ("many", MANY, 1), ("layers", FEW, 128)];
        let rows = images.map(|(tag, files, layers)| {
            let name = format!("bench/files:{tag}");
            eprintln!("bench: an image of {files} files …");
            registry.push(&name, &image::tiny_files(files, layers).build());
            let pull = self.step("shifter", &["pull", "--to", "node", &registry.name(&name)]);
            let plural = if layers == 1 { "" } else { "s" };
            let title = format!("shifter pull: {files} files in {layers} layer{plural}");
            Row::new(title, pull).fresh(&[&node]).count(files)
        });
        let name = registry.name("bench/files:many");
        let notes = vec![self.calls(&name, MANY).unwrap_or_else(|why| format!("Left out: {why}"))];
        let title = "A pull's cost for each of many tiny files".into();
        let rows = rows.into();
        self.table(&Table { title, rounds, unit: Unit::Microseconds, rows, notes })
    }
}

impl Bench {
    /// System calls for each of an image's files.
    fn calls(&self, image: &str, files: usize) -> Result<String, String> {
        need::find("strace").ok_or("strace is not installed")?;
        let counted = self.by_hand().with_file_name("calls");
        let file = counted.to_string_lossy();
        let count = ["-f", "-c", "-U", "calls,name", "-o", &*file];
        let pull = ["shifter", "pull", "--quiet", "--to", "node", image];
        self.prepare(self.step("strace", &[&count[..], &pull].concat()))?;
        // It takes memory, and need not be there.
        let _ = fs::remove_dir_all(self.sandbox.node_dir(&self.user));
        let text = fs::read_to_string(&counted).map_err(|e| format!("read {file}: {e}"))?;
        let calls = text.lines().filter_map(|line| {
            let (calls, name) = line.trim().split_once(' ')?;
            Some((calls.parse::<usize>().ok()?, name.trim()))
        });
        let each = |calls: usize| calls as f64 / files as f64;
        let calls = calls.filter(|(calls, _)| each(*calls) >= 0.005);
        let calls: Vec<_> =
            calls.map(|(calls, name)| format!("{name} {:.2}", each(calls))).collect();
        Ok(format!("System calls for each of {files} files: {}", calls.join(", ")))
    }
}

/// How the prototype calls what inflates the image.
fn codec(image: &Source) -> &'static str {
    if image.is_zstd() { "zstd" } else { "isalraw" }
}
