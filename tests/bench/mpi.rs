//! Two ranks on a node, on the host and in a container: what a message takes, and how many bytes go by.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use fixtures::{Cluster, run_within};

use crate::meter::{Bench, LIMIT, Step, median, why};

const PROGRAM: &str = include_str!("pingpong.c");
const RECIPE: &str = include_str!("mpi.sh");
/// How much worse a container may be.
const GOAL: f64 = 0.03;

/// What one run said of one size.
#[derive(Debug, Clone, Copy)]
struct Sample {
    bytes: u32,
    /// Microseconds.
    latency: f64,
    /// Megabytes a second.
    bandwidth: f64,
}

impl Sample {
    fn read(line: &str) -> Option<Sample> {
        let mut words = line.split_whitespace();
        let bytes = words.next()?.parse().ok()?;
        let (latency, bandwidth) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Sample { bytes, latency, bandwidth })
    }
}

/// The ways to run it; the first is what the others are compared to.
const ROWS: [&str; 3] = ["on the host", "in a container, its own MPI", "the same, the host's MPI"];

impl Bench {
    /// Latency and bandwidth of MPICH between two ranks on this node.
    pub(crate) fn mpi(&mut self, dir: &Path, rounds: usize) -> bool {
        let measured = self.provide_mpi(dir).and_then(|made| self.measure_mpi(&made, rounds));
        match measured {
            Ok(rounds) => {
                let rows = ["latency, µs", "bandwidth, MB/s"];
                let values: [fn(&Sample) -> f64; 2] = [|s| s.latency, |s| s.bandwidth];
                for (what, value) in rows.into_iter().zip(values) {
                    self.report.add(&table(what, &rounds, value));
                }
                true
            }
            Err(why) => {
                self.report.add(&format!("No table of MPI: {why}\n\n"));
                false
            }
        }
    }

    /// Makes it once, and copies it to where everybody may go.
    fn provide_mpi(&self, dir: &Path) -> Result<PathBuf, String> {
        let made = dir.join("mpi");
        let is_made = fs::read_to_string(made.join("complete")).is_ok_and(|of| of == content());
        if !is_made {
            let fail = |e: std::io::Error| format!("{}: {e}", made.display());
            // It may not be there.
            let _ = fs::remove_dir_all(&made);
            fs::create_dir_all(&made).map_err(fail)?;
            fs::write(made.join("pingpong.c"), PROGRAM).map_err(fail)?;
            let mut recipe = Command::new("bash");
            recipe.args(["-c", RECIPE, "mpi.sh"]).arg(&made);
            let outcome = run_within(recipe, LIMIT);
            if outcome.code != 0 {
                return Err(why(&outcome));
            }
            fs::write(made.join("complete"), content()).map_err(fail)?;
        }
        let place = self.sandbox.dir().join("mpi");
        let mut copy = Command::new("cp");
        copy.args(["-a", "--no-target-directory"]).arg(&made).arg(&place);
        let outcome = run_within(copy, LIMIT);
        if outcome.code == 0 { Ok(place) } else { Err(why(&outcome)) }
    }

    /// All samples, by round and row.
    fn measure_mpi(&self, made: &Path, rounds: usize) -> Result<Vec<[Vec<Sample>; 3]>, String> {
        eprintln!("bench: MPI, {rounds} rounds …");
        let cluster = Cluster::start(&self.sandbox, 1).with_plugin();
        let settings = format!(
            "[[mpi.stack]]\nname = \"host\"\nlibs = [{:?}]\n",
            made.join("host/lib/libmpi.so.12")
        );
        let settings = self.sandbox.write(self.sandbox.dir().join("mpi.toml"), settings);
        let srun = |words: &[&str]| {
            let mut command = cluster.command(&self.user, "srun");
            command.args(["-Q", "-n2", "-N1", "--mpi=pmi2"]).args(words);
            command.env("SHIFTER_CONFIG", &settings);
            Step { user: self.user.clone(), command }
        };
        let host = made.join("host/pingpong");
        let image = format!("--container={}", made.join("image").display());
        let inside = "/opt/mpich/pingpong";
        let sample = |row: usize| {
            let host = host.to_string_lossy();
            let said = self.prepare(match row {
                0 => srun(&[&host]),
                1 => srun(&[&image, "--container-mpi=off", inside]),
                _ => srun(&[&image, "--container-mpi=host", inside]),
            })?;
            let samples: Option<Vec<_>> = said.lines().map(Sample::read).collect();
            samples.filter(|all| !all.is_empty()).ok_or_else(|| format!("it said {said:?}"))
        };
        let round = |_| Ok([sample(0)?, sample(1)?, sample(2)?]);
        let all: Result<Vec<_>, String> = (0..=rounds).map(round).collect();
        // The first is to find all on disk.
        all.map(|mut all| all.split_off(1))
    }
}

/// By what it is made.
fn content() -> String {
    format!("{RECIPE}{PROGRAM}")
}

fn table(what: &str, rounds: &[[Vec<Sample>; 3]], value: fn(&Sample) -> f64) -> String {
    let mut text = format!(
        "### MPI between two ranks of a node: {what}\n\nMPICH 5 by `srun --mpi=pmi2`, a core for each; \
         medians of {} paired runs. The goal is a ratio within {:.0} % of 1.\n\n| bytes |",
        rounds.len(),
        GOAL * 100.0
    );
    for row in ROWS {
        text += &format!(" {row} |");
    }
    text += " ratio | ratio |\n|--:|--:|--:|--:|--:|--:|\n";
    let sizes = rounds.first().map_or(0, |[host, ..]| host.len());
    for size in 0..sizes {
        let of =
            |row: usize| rounds.iter().filter_map(move |round| round[row].get(size)).map(value);
        let ratio = |row| median(of(row).zip(of(0)).map(|(one, host)| one / host));
        let bytes = rounds[0][0][size].bytes;
        text += &format!("| {bytes} |");
        for row in 0..ROWS.len() {
            text += &format!(" {:.2} |", median(of(row)));
        }
        text += &format!(" {:.3} | {:.3} |\n", ratio(1), ratio(2));
    }
    text + "\n"
}
