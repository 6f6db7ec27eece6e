//! Rounds of commands, and what each took.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    thread,
    time::{Duration, Instant},
};

use fixtures::{Outcome, Sandbox, User, run_within};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

use crate::report::Report;

/// A pull of the biggest image by the slowest tool ends well before.
pub(crate) const LIMIT: Duration = Duration::from_secs(1800);

/// What all measurements share.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) sandbox: Sandbox,
    pub(crate) report: Report,
    pub(crate) user: User,
    /// This program, where the user can run it.
    pub(crate) meter: PathBuf,
}

/// A command and who runs it.
#[derive(Debug)]
pub(crate) struct Step {
    pub(crate) user: User,
    pub(crate) command: Command,
}

impl Step {
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Step {
        self.command.env(name, value);
        self
    }

    /// Runs it in this directory.
    pub(crate) fn within(mut self, dir: &Path) -> Step {
        self.command.current_dir(dir);
        self
    }
}

/// What is measured together: the first row is what the others are compared to.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) title: String,
    pub(crate) rounds: usize,
    pub(crate) unit: Unit,
    pub(crate) rows: Vec<Row>,
    /// What to say below it, a line each.
    pub(crate) notes: Vec<String>,
}

/// A command to be measured.
#[derive(Debug)]
pub(crate) struct Row {
    name: String,
    /// One; or the stages that no pull can do without, whose CPU time counts together.
    steps: Vec<Step>,
    /// What makes the next run like the first: removed before and after each.
    fresh: Vec<PathBuf>,
    /// In how many rounds it takes part; without this, in all.
    rounds: Option<usize>,
    /// Its failure is not ours.
    peer: bool,
    /// What time is divided by.
    count: f64,
}

impl Row {
    pub(crate) fn new(name: impl Into<String>, step: Step) -> Row {
        Row::stages(name, vec![step])
    }

    /// The limit: no machine does these stages faster than all of its cores at work all the time.
    pub(crate) fn stages(name: impl Into<String>, steps: Vec<Step>) -> Row {
        let name = name.into();
        Row { name, steps, fresh: Vec::new(), rounds: None, peer: false, count: 1.0 }
    }

    pub(crate) fn fresh(mut self, paths: &[&PathBuf]) -> Row {
        self.fresh = paths.iter().map(|&path| path.clone()).collect();
        self
    }

    pub(crate) fn peer(mut self, rounds: usize) -> Row {
        (self.peer, self.rounds) = (true, Some(rounds));
        self
    }

    /// Says how many things one run does: time is shown for one of them.
    pub(crate) fn count(mut self, count: usize) -> Row {
        self.count = count as f64;
        self
    }

    /// Removes what the last run left. What cannot be removed would spoil the next run, and hold
    /// memory.
    fn clear(&self) -> Result<(), String> {
        for path in &self.fresh {
            match fs::remove_dir_all(path) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(format!("remove {}: {e}", path.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Unit {
    Seconds,
    Milliseconds,
    Microseconds,
}

/// One run.
#[derive(Debug, Clone, Copy)]
struct Sample {
    /// Seconds from start to end.
    wall: f64,
    /// Seconds of processor time, of the command and all of its descendants that were waited for.
    cpu: f64,
    /// The largest of these processes at its largest, in MB.
    rss: f64,
}

impl Bench {
    pub(crate) fn new() -> Bench {
        let sandbox = Sandbox::new().with_programs();
        let meter = sandbox.prefix().join("bin/bench-meter");
        let this = env::current_exe().expect("/proc is mounted");
        fs::copy(this, &meter).expect("this program can be copied");
        Bench { sandbox, user: User::ordinary(), meter, report: Report::default() }
    }

    pub(crate) fn step(&self, program: &str, args: &[&str]) -> Step {
        self.step_as(&self.user, program, args)
    }

    pub(crate) fn step_as(&self, user: &User, program: &str, args: &[&str]) -> Step {
        let mut command = user.command(&self.sandbox, program);
        command.args(args);
        Step { user: user.clone(), command }
    }

    /// Runs a step to its end, unmeasured; says why if it fails.
    pub(crate) fn prepare(&self, step: Step) -> Result<String, String> {
        let outcome = run_within(step.command, LIMIT);
        if outcome.code == 0 { Ok(outcome.stdout) } else { Err(why(&outcome)) }
    }

    /// Measures the rows and reports them. Returns whether all of ours succeeded.
    pub(crate) fn table(&mut self, table: &Table) -> bool {
        let Table { title, rounds, unit, rows, notes } = table;
        eprintln!("bench: {title}, {rounds} rounds …");
        let mut samples: Vec<Result<Vec<Sample>, String>> = vec![Ok(Vec::new()); rows.len()];
        // Round 0 finds the programs and libraries on disk; it does not count. Who takes part only
        // once has them to load, which is nothing beside what takes so long.
        for round in 0..=*rounds {
            for (row, samples) in rows.iter().zip(&mut samples) {
                let part = row.rounds.unwrap_or(*rounds).min(*rounds);
                let Ok(measured) = samples else { continue };
                if round > part || (round == 0 && part == 1) {
                    continue;
                }
                match self.sample(row) {
                    Ok(_) if round == 0 => {}
                    Ok(sample) => measured.push(sample),
                    Err(why) => *samples = Err(why),
                }
            }
        }

        let (scale, name) = match unit {
            Unit::Seconds => (1.0, "s"),
            Unit::Milliseconds => (1e3, "ms"),
            Unit::Microseconds => (1e6, "µs"),
        };
        let mut text = format!(
            "### {title}\n\n| medians | n | wall {name} | ratio | CPU {name} | ratio | RSS MB |\n\
             |---|--:|--:|--:|--:|--:|--:|\n"
        );
        let reference = samples.first().and_then(|samples| samples.as_ref().ok());
        for (row, samples) in rows.iter().zip(&samples) {
            text += &match samples {
                Err(why) => format!("| {} | | failed: {why} | | | | |\n", row.name),
                Ok(samples) => {
                    let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
                    let ratio = |value: fn(&Sample) -> f64| match reference {
                        None => String::new(),
                        Some(reference) => {
                            // Both begin in round 1.
                            let pairs = samples.iter().zip(reference);
                            let ratios = pairs.map(|(one, other)| value(one) / value(other));
                            format!("{:.2}", median(ratios))
                        }
                    };
                    format!(
                        "| {} | {} | {:.2} | {} | {:.2} | {} | {:.0} |\n",
                        row.name,
                        samples.len(),
                        of(|s| s.wall) * scale,
                        ratio(|s| s.wall),
                        of(|s| s.cpu) * scale,
                        ratio(|s| s.cpu),
                        of(|s| s.rss)
                    )
                }
            };
        }
        text += "\n";
        for note in notes {
            text += &format!("{note}\n\n");
        }
        self.report.add(&text);
        rows.iter().zip(&samples).all(|(row, samples)| row.peer || samples.is_ok())
    }

    /// Runs a row once.
    fn sample(&self, row: &Row) -> Result<Sample, String> {
        row.clear()?;
        let steps = row.steps.iter().map(|step| self.meter(step));
        let samples: Result<Vec<_>, _> = steps.collect();
        row.clear()?;
        let mut sample = match *samples? {
            [one] => one,
            ref stages => {
                let cpu = stages.iter().map(|stage| stage.cpu).sum();
                let rss = stages.iter().map(|stage| stage.rss).fold(0.0, f64::max);
                Sample { wall: cpu / cores() as f64, cpu, rss }
            }
        };
        sample.wall /= row.count;
        sample.cpu /= row.count;
        Ok(sample)
    }

    /// Runs a step under the meter, as its user.
    fn meter(&self, step: &Step) -> Result<Sample, String> {
        let limit = LIMIT.as_secs().to_string();
        let mut meter = step.user.command(&self.sandbox, "timeout");
        meter.args(["--kill-after=10", &limit]).arg(&self.meter).arg("--measure");
        meter.arg(step.command.get_program()).args(step.command.get_args());
        if let Some(dir) = step.command.get_current_dir() {
            meter.current_dir(dir);
        }
        meter.envs(step.command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let outcome = run_within(meter, LIMIT + Duration::from_secs(60));
        match outcome.code {
            0 => {}
            124 | 137 => return Err(format!("not done within {limit} s")),
            _ => return Err(why(&outcome)),
        }
        let result: Value = serde_json::from_str(&outcome.stdout)
            .map_err(|e| format!("the meter said {:?}: {e}", outcome.stdout))?;
        let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
        Ok(Sample { wall: number("wall"), cpu: number("cpu"), rss: number("rss") })
    }
}

/// Why a command failed, for a cell of a table.
pub(crate) fn why(outcome: &Outcome) -> String {
    let mut lines = outcome.stderr.lines().filter(|line| !line.trim().is_empty());
    let error = lines.clone().find(|line| line.starts_with("error"));
    let line = error.or_else(|| lines.next_back()).unwrap_or_default();
    let text: String = line.trim().chars().take(200).collect();
    format!("exit status {}: {}", outcome.code, text.replace('|', "\\|"))
}

pub(crate) fn cores() -> usize {
    thread::available_parallelism().map_or(1, usize::from)
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => values[n / 2],
        n => (values[n / 2 - 1] + values[n / 2]) / 2.0,
    }
}

/// The meter: a process that has no other child than the measured command, so that the kernel's
/// account of its children is that of the command.
pub(crate) fn measure(words: &[OsString]) -> ExitCode {
    let [program, args @ ..] = words else { return ExitCode::from(2) };
    let mut command = Command::new(program);
    command.args(args).stdout(Stdio::null());
    let started = Instant::now();
    let status = command.status();
    let wall = started.elapsed().as_secs_f64();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => return ExitCode::from(status.code().map_or(255, |code| code as u8)),
        Err(e) => {
            eprintln!("{}: {e}", program.display());
            return ExitCode::from(127);
        }
    }
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("its arguments are valid");
    let seconds =
        |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    let cpu = seconds(usage.user_time()) + seconds(usage.system_time());
    let result = json!({"wall": wall, "cpu": cpu, "rss": usage.max_rss() as f64 / 1024.0});
    let written = writeln!(io::stdout(), "{result}");
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
