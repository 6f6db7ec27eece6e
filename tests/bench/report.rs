//! Where the numbers go: to stdout, and to a file that says on what machine they were taken.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::meter::cores;

/// What has been reported so far.
#[derive(Debug, Default)]
pub(crate) struct Report {
    dir: PathBuf,
    text: String,
}

impl Report {
    /// Begins the report in `results` of this directory.
    pub(crate) fn begin(dir: &Path, rounds: usize) -> Report {
        let dir = dir.join("results");
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("make {}: {e}", dir.display()));
        let mut report = Report { dir, text: String::new() };
        report.add(&format!(
            "# How long shifter takes, beside others\n\n{}; rounds of pulls: {rounds}.\n\n\
             A ratio is the median of the ratios to the first row in the same round. CPU is that of \
             all processes of the command, RSS the largest one's. Pulls go from a registry on this \
             machine, which takes its share of the cores, to a tmpfs. The limit is the CPU time of a \
             pull's stages, each measured by itself and from file to file, shared out to all \
             cores.\n\n",
            machine()
        ));
        report
    }

    /// Adds some Markdown. What was added is on disk even if the program ends early.
    pub(crate) fn add(&mut self, text: &str) {
        print!("{text}");
        self.text += text;
        self.write("bench.md", &self.text);
    }

    /// Writes a file of its own; returns where.
    pub(crate) fn write(&self, name: &str, content: &str) -> PathBuf {
        let path = self.dir.join(name);
        fs::write(&path, content).unwrap_or_else(|e| panic!("write {}: {e}", path.display()));
        path
    }

    /// Says where the report is.
    pub(crate) fn end(&self) {
        eprintln!("bench: written to {}", self.dir.display());
    }
}

/// The machine, the time and the commit.
fn machine() -> String {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let field = |text: String, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key).map(str::to_owned));
        line.map(|line| line.trim_start_matches([' ', '\t', ':']).to_owned()).unwrap_or_default()
    };
    let memory = field(file("/proc/meminfo"), "MemTotal");
    let memory = memory.trim_end_matches(" kB").parse().unwrap_or(0.0) / 1_048_576.0;
    format!(
        "{} cores ({}), {memory:.0} GB of memory, Linux {}, load {} at the start; {}, commit {}",
        cores(),
        field(file("/proc/cpuinfo"), "model name"),
        file("/proc/sys/kernel/osrelease").trim(),
        file("/proc/loadavg").split(' ').next().unwrap_or_default(),
        says("date", &["-u", "+%F %R UTC"]),
        says("git", &["describe", "--always", "--dirty"]),
    )
}

/// What a program prints; `unknown` if it cannot.
fn says(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().ok();
    let text = output.filter(|output| output.status.success());
    let text = text.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.unwrap_or_else(|| "unknown".into())
}
