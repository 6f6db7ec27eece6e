//! What is done once an image is there: pulls that find nothing new, starts, jobs.

use std::{fs, path::PathBuf};

use fixtures::{Cluster, need};

use crate::{
    images::Source,
    meter::{Bench, Row, Step, Table, Unit},
    peers,
    stages::Stages,
};

impl Bench {
    /// Pulls of an image that is there and has not changed: one question to the registry.
    pub(crate) fn pulls_again(&mut self, image: &Source, rounds: usize) -> bool {
        if !self.warm(image) {
            return false;
        }
        let accept = "Accept: application/vnd.oci.image.manifest.v1+json";
        let url = format!("{}manifests/latest", image.url);
        let curl = self.step("curl", &["-sfI", "-H", accept, &url]);
        let pull = self.step("shifter", &["pull", &image.name()]);
        let rows = vec![Row::new("curl -I of the manifest", curl), Row::new("shifter pull", pull)];
        let title = format!("Pull of an unchanged image ({})", image.about);
        self.table(&Table { title, rounds, unit: Unit::Milliseconds, rows, notes: Vec::new() })
    }

    /// Starts of an image that is expanded already.
    pub(crate) fn starts(&mut self, image: &Source, rounds: usize) -> bool {
        if !self.warm(image) {
            return false;
        }
        let mut rows = Vec::new();
        let mut notes = Vec::new();
        match self.bwrap(image) {
            Ok(bwrap) => rows.push(Row::new("bwrap /bin/true", bwrap).peer(rounds)),
            Err(why) => notes.push(format!("Left out: bwrap: {why}")),
        }
        let shifter = self.step("shifter", &["run", &image.name(), "/bin/true"]);
        rows.push(Row::new("shifter run /bin/true", shifter));
        rows.push(Row::new("/bin/true", self.step("/bin/true", &[])));
        let title = format!("Start in an expanded image ({})", image.about);
        let well = self.table(&Table { title, rounds, unit: Unit::Milliseconds, rows, notes });
        // It takes memory, and need not be there.
        let _ = fs::remove_dir_all(self.bundle());
        well
    }

    /// bubblewrap in the image as umoci expands it.
    fn bwrap(&self, image: &Source) -> Result<Step, String> {
        for program in ["bwrap", "skopeo", "umoci"] {
            need::find(program).ok_or_else(|| format!("{program} is not installed"))?;
        }
        let bundle = self.bundle();
        let unpack = self.step("sh", &["-c", &format!("mkdir $DIR && {}", peers::UNPACK)]);
        self.prepare(unpack.env("DIR", &bundle).env("REPOSITORY", &image.repository))?;
        let root = bundle.join("b/rootfs");
        let binds = ["--proc", "/proc", "--dev-bind", "/dev", "/dev", "/bin/true"];
        let root = root.to_string_lossy();
        Ok(self.step("bwrap", &[["--ro-bind", &*root, "/"].as_slice(), &binds].concat()))
    }

    fn bundle(&self) -> PathBuf {
        self.by_hand().with_file_name("bundle")
    }

    /// Jobs in an image that is expanded already.
    pub(crate) fn jobs(&mut self, image: &Source, rounds: usize) -> bool {
        if !self.warm(image) {
            return false;
        }
        let cluster = Cluster::start(&self.sandbox, 1).with_plugin();
        let srun = |args: &[&str]| {
            let mut command = cluster.command(&self.user, "srun");
            command.args(args);
            Step { user: self.user.clone(), command }
        };
        let container = format!("--container={}", image.name());
        let rows = vec![
            Row::new("srun /bin/true", srun(&["/bin/true"])),
            Row::new("srun --container /bin/true", srun(&[&container, "/bin/true"])),
            Row::new("srun -n64 /bin/true", srun(&["-n64", "-O", "/bin/true"])),
            Row::new(
                "srun -n64 --container /bin/true",
                srun(&["-n64", "-O", &container, "/bin/true"]),
            ),
        ];
        let title =
            format!("Job in an expanded image ({}); CPU and memory are srun's", image.about);
        self.table(&Table { title, rounds, unit: Unit::Milliseconds, rows, notes: Vec::new() })
    }

    /// Draws a pull of an image, stage by stage.
    pub(crate) fn picture(&mut self, image: &Source) -> bool {
        let node = self.sandbox.node_dir(&self.user);
        // It need not be there.
        let _ = fs::remove_dir_all(&node);
        let pull = self.step("shifter", &["pull", "--json", "--to", "node", &image.name()]);
        let stages = self.prepare(pull).and_then(|said| Stages::read(&said));
        // It was there a moment ago.
        let _ = fs::remove_dir_all(&node);
        match stages {
            Ok(stages) => {
                self.report.write("stages.svg", &stages.draw());
                let title = format!("### One pull of {}, stage by stage", image.about);
                self.report.add(&format!("{title}\n\n![stages over time](stages.svg)\n"));
                true
            }
            Err(why) => {
                self.report.add(&format!("No picture of a pull: {why}\n"));
                false
            }
        }
    }

    /// Makes sure that the image is stored and expanded.
    fn warm(&mut self, image: &Source) -> bool {
        let pulled = self.prepare(self.step("shifter", &["pull", &image.name()]));
        if let Err(why) = &pulled {
            self.report.add(&format!("Cannot pull {}: {why}\n\n", image.short));
        }
        pulled.is_ok()
    }
}
