//! `make bench`: how long shifter takes, beside what else one could do.
//!
//! Commands take turns, round by round (A B C A B C …), so that a machine that gets slower or
//! busier does so for all of them; ratios are taken within a round and then their median. All run
//! as an ordinary user.
//!
//! ```text
//! BENCH_ROUNDS   rounds of pulls (5); starts are measured more often
//! BENCH_IMAGES   which images of BENCH_TOOLS: small medium medium-zst large ("small medium")
//! BENCH_TOOLS    a folder with registry.sh, make_images.py and limits/: images of real software,
//!                and a prototype that pulls in one pass. Without it, a Debian made by debootstrap.
//! BENCH_DIR      what is made once, and kept (target/bench)
//! BENCH_PORT     where registry.sh listens (5077)
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tables on stdout, talk on stderr")]

use std::{
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    time::{Duration, Instant},
};

use fixtures::{
    Cluster, Registry, Sandbox, User,
    image::{self, Compression, Image},
    need, run_within,
};
use nix::sys::resource::{UsageWho, getrusage};
use serde_json::{Value, json};

/// A pull of the biggest image by the slowest tool ends well before.
const LIMIT: Duration = Duration::from_secs(3600);

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().collect();
    if args.get(1).is_some_and(|arg| arg == "--measure") {
        return measure(&args[2..]);
    }
    let needs = [need::root(), need::slurm(), need::registry(), need::skopeo(), need::umoci()];
    for met in needs.into_iter().chain([need::bwrap(), need::userns()]) {
        if let Err(why) = met {
            eprintln!("bench: {why}");
            return ExitCode::FAILURE;
        }
    }
    let rounds = setting("BENCH_ROUNDS", "5");
    let rounds = rounds.parse().unwrap_or_else(|_| panic!("BENCH_ROUNDS={rounds}: not a number"));
    let bench = Bench::new();
    let images = Images::provide(&bench.sandbox);

    let mut well = true;
    for image in &images.all {
        well &= bench.pulls(image, images.prototype.as_deref(), rounds);
    }
    let image = images.all.first().expect("there is an image");
    well &= bench.starts(image, rounds * 10);
    well &= bench.jobs(image, rounds * 4);
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn setting(name: &str, default: &str) -> String {
    env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| default.into())
}

// ---- the images

/// An image in a registry.
struct Source {
    /// `127.0.0.1:5077/bench/medium:latest`
    name: String,
    /// What it is.
    about: String,
    /// What the prototype wants to know: the layers' list, and where the blobs are.
    for_prototype: Option<(PathBuf, String)>,
}

/// The images, and what serves them.
struct Images {
    all: Vec<Source>,
    prototype: Option<PathBuf>,
    _registry: Option<Registry>,
}

impl Images {
    fn provide(sandbox: &Sandbox) -> Images {
        let dir = PathBuf::from(setting("BENCH_DIR", "target/bench"));
        fs::create_dir_all(&dir).unwrap_or_else(|e| panic!("make {}: {e}", dir.display()));
        let dir = dir.canonicalize().expect("it was just made");
        match Path::new(&setting("BENCH_TOOLS", "")).canonicalize() {
            Ok(tools) => Images::from_tools(&tools, &dir, sandbox),
            Err(_) => {
                println!("Without BENCH_TOOLS: one image of our own, and no prototype.\n");
                Images::own(&dir, sandbox)
            }
        }
    }

    fn from_tools(tools: &Path, dir: &Path, sandbox: &Sandbox) -> Images {
        let port = setting("BENCH_PORT", "5077");
        let names = setting("BENCH_IMAGES", "small medium");
        let names: Vec<_> = names.split_whitespace().collect();
        let tool = |program: &str, script: &str, args: &[&str]| {
            let mut command = Command::new(program);
            command.arg(tools.join(script)).args(args);
            command.env("BENCH_DIR", dir).env("BENCH_PORT", &port);
            prepare(command, script);
        };
        tool("bash", "registry.sh", &["start"]);
        tool("python3", "make_images.py", &names);
        let describe = |name: &&str| {
            // The user may not be able to go where BENCH_DIR is.
            let layers = fs::read(dir.join("oci").join(name).join("layers.json"));
            let layers = layers.expect("make_images.py wrote the list of layers");
            let list: Vec<Value> = serde_json::from_slice(&layers).expect("the list is JSON");
            let sum = |key: &str| list.iter().filter_map(|layer| layer[key].as_f64()).sum::<f64>();
            let (count, raw, packed) = (list.len(), sum("raw") / 1e6, sum("size") / 1e6);
            let at = format!("127.0.0.1:{port}");
            Source {
                name: format!("{at}/bench/{name}:latest"),
                about: format!(
                    "{name}: {count} layers, {packed:.0} MB packed, {raw:.0} MB unpacked"
                ),
                for_prototype: Some((
                    sandbox.write(format!("layers-{name}.json"), layers),
                    format!("http://{at}/v2/bench/{name}/blobs/"),
                )),
            }
        };
        let all = names.iter().map(describe).collect();
        let prototype = build_prototype(tools, dir).map(|built| {
            let installed = sandbox.make_dir("tools", 0o755).join("prototype");
            fs::copy(&built, &installed).expect("what was built can be copied");
            installed
        });
        if prototype.is_none() {
            println!("The prototype of {} could not be built: left out.\n", tools.display());
        }
        Images { all, prototype, _registry: None }
    }

    fn own(dir: &Path, sandbox: &Sandbox) -> Images {
        let layout = dir.join("debian");
        if !layout.join("index.json").exists() {
            let root = dir.join("debian.root");
            // What an interrupted run left.
            let _ = fs::remove_dir_all(&root);
            let mut debootstrap = Command::new("debootstrap");
            debootstrap.args(["--variant=minbase", "bookworm"]).arg(&root);
            prepare(debootstrap, "debootstrap");
            let tar = Command::new("tar").arg("-C").arg(&root).args(["-cf", "-", "."]).output();
            let tar = tar.expect("tar is on every Debian");
            assert!(tar.status.success(), "tar: {}", String::from_utf8_lossy(&tar.stderr));
            let archive = tar.stdout;
            let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
            let diff_id = image::digest(&archive);
            Image::new()
                .layer_of(&diff_id, image::gzip(&archive), Compression::Gzip)
                .env(path)
                .build()
                .write_layout(&layout, "1");
            fs::remove_dir_all(&root).expect("our own directory can be removed");
        }
        let registry = Registry::start(sandbox);
        registry.push_layout("bench/debian:1", &format!("{}:1", layout.display()));
        let name = registry.name("bench/debian:1");
        let about = "debian: 1 layer, made by debootstrap".into();
        let all = vec![Source { name, about, for_prototype: None }];
        Images { all, prototype: None, _registry: Some(registry) }
    }
}

/// Builds the prototype once; `None` if that fails.
fn build_prototype(tools: &Path, dir: &Path) -> Option<PathBuf> {
    let built = dir.join("limits-zlibrs");
    if built.exists() {
        return Some(built);
    }
    // Cargo writes beside the sources.
    let sources = dir.join("limits-src");
    let copied = Command::new("cp").arg("-rT").arg(tools.join("limits")).arg(&sources).status();
    let target = dir.join("target");
    let cargo = Command::new("cargo")
        .args(["build", "--release", "--features", "isal,zlibrs"])
        .current_dir(&sources)
        .env("CARGO_TARGET_DIR", &target)
        .status();
    let done = copied.ok()?.success() && cargo.ok()?.success();
    let copied = done && fs::copy(target.join("release/limits"), &built).is_ok();
    copied.then_some(built)
}

/// Runs a command that makes something for later; it may take long, and says so itself.
fn prepare(mut command: Command, what: &str) {
    eprintln!("bench: {what} …");
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let well = status.as_ref().is_ok_and(|status| status.success());
    assert!(well, "{what}: {status:?}");
}

// ---- the measurements

/// What all measurements share.
struct Bench {
    sandbox: Sandbox,
    user: User,
    /// This program, where the user can run it.
    meter: PathBuf,
}

/// A command to be measured.
struct Row {
    name: &'static str,
    command: Command,
    /// What makes the next run like the first: it is removed before each.
    fresh: Option<PathBuf>,
}

impl Bench {
    fn new() -> Bench {
        let sandbox = Sandbox::new().with_programs();
        let meter = sandbox.prefix().join("bin/bench-meter");
        let this = env::current_exe().expect("/proc is mounted");
        fs::copy(this, &meter).expect("this program can be copied");
        Bench { sandbox, user: User::ordinary(), meter }
    }

    fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.user.command(&self.sandbox, program);
        command.args(args);
        command
    }

    /// Pulls of an image that is not there yet, from the registry to files on tmpfs.
    fn pulls(&self, image: &Source, prototype: Option<&Path>, rounds: usize) -> bool {
        let node = self.sandbox.node_dir(&self.user);
        let by_hand = node.with_file_name("by-hand");
        let to = by_hand.to_string_lossy();
        let mut rows = Vec::new();
        if let (Some(prototype), Some((layers, blobs))) = (prototype, &image.for_prototype) {
            let inflate = if image.name.contains("-zst:") { "zstd" } else { "isalraw" };
            let layers = layers.to_string_lossy();
            let args = ["pull", inflate, "2", "2", "times", &*layers, blobs, &*to];
            let command = self.command(&prototype.to_string_lossy(), &args);
            rows.push(Row { name: "one-pass prototype", command, fresh: Some(by_hand.clone()) });
        }
        let script = "mkdir $1 && skopeo copy -q --src-tls-verify=false docker://$0 oci:$1/o:i && \
                      umoci unpack --rootless --image $1/o:i $1/b";
        let skopeo = self.command("sh", &["-c", script, &image.name, &to]);
        rows.push(Row { name: "skopeo copy, umoci unpack", command: skopeo, fresh: Some(by_hand) });
        let pull = self.command("shifter", &["pull", "--to", "node", &image.name]);
        rows.push(Row { name: "shifter pull --to node", command: pull, fresh: Some(node) });

        let title = format!("Pull of {}", image.about);
        self.table(&title, rows, rounds, Unit::Seconds)
    }

    /// Starts of an image that is expanded already.
    fn starts(&self, image: &Source, rounds: usize) -> bool {
        let bundle = self.sandbox.node_dir(&self.user).with_file_name("bundle");
        let root = bundle.join("b/rootfs");
        let script = "mkdir $1 && skopeo copy -q --src-tls-verify=false docker://$0 oci:$1/o:i && \
                      umoci unpack --rootless --image $1/o:i $1/b";
        let unpack = self.command("sh", &["-c", script, &image.name, &bundle.to_string_lossy()]);
        run_within(unpack, LIMIT).success();
        if !self.warm(image) {
            return false;
        }
        let root = root.to_string_lossy();
        let bwrap = ["--ro-bind", &*root, "/", "--proc", "/proc", "--dev-bind", "/dev", "/dev"];
        let bwrap = self.command("bwrap", &[bwrap.as_slice(), &["/bin/true"]].concat());
        let shifter = self.command("shifter", &["run", &image.name, "/bin/true"]);
        let rows = vec![
            Row { name: "bwrap /bin/true", command: bwrap, fresh: None },
            Row { name: "shifter run /bin/true", command: shifter, fresh: None },
            Row { name: "/bin/true", command: self.command("/bin/true", &[]), fresh: None },
        ];
        let title = format!("Start in an expanded image ({})", image.about);
        self.table(&title, rows, rounds, Unit::Milliseconds)
    }

    /// Jobs in an image that is expanded already.
    fn jobs(&self, image: &Source, rounds: usize) -> bool {
        if !self.warm(image) {
            return false;
        }
        let cluster = Cluster::start(&self.sandbox, 1).with_plugin();
        let srun = |args: &[&str]| {
            let mut command = cluster.command(&self.user, "srun");
            command.args(args);
            command
        };
        let container = format!("--container={}", image.name);
        let rows = vec![
            Row { name: "srun /bin/true", command: srun(&["/bin/true"]), fresh: None },
            Row {
                name: "srun --container /bin/true",
                command: srun(&[&container, "/bin/true"]),
                fresh: None,
            },
        ];
        let title =
            format!("Job in an expanded image ({}); CPU and memory are srun's", image.about);
        self.table(&title, rows, rounds, Unit::Milliseconds)
    }

    /// Makes sure that the image is expanded.
    fn warm(&self, image: &Source) -> bool {
        let outcome = run_within(self.command("shifter", &["pull", &image.name]), LIMIT);
        if outcome.code != 0 {
            eprintln!("bench: {outcome}");
        }
        outcome.code == 0
    }

    /// Measures the rows, the first of which is what the others are compared to, and prints them.
    /// Returns whether all succeeded.
    fn table(&self, title: &str, rows: Vec<Row>, rounds: usize, unit: Unit) -> bool {
        eprintln!("bench: {title}, {rounds} rounds …");
        let mut samples: Vec<Result<Vec<Sample>, String>> = vec![Ok(Vec::new()); rows.len()];
        // The first round finds the programs and libraries on disk; it does not count.
        for round in 0..=rounds {
            for (row, samples) in rows.iter().zip(&mut samples) {
                let Ok(measured) = samples else { continue };
                match self.sample(row) {
                    Ok(_) if round == 0 => {}
                    Ok(sample) => measured.push(sample),
                    Err(why) => *samples = Err(why),
                }
            }
        }
        for path in rows.iter().filter_map(|row| row.fresh.as_deref()) {
            // It may be the same for two rows.
            let _ = fs::remove_dir_all(path);
        }

        let (scale, name) = match unit {
            Unit::Seconds => (1.0, "s"),
            Unit::Milliseconds => (1000.0, "ms"),
        };
        println!("### {title}\n");
        println!(
            "| {rounds} rounds, medians | wall {name} | ratio | CPU {name} | ratio | RSS MB |"
        );
        println!("|---|--:|--:|--:|--:|--:|");
        let reference = samples.first().and_then(|samples| samples.as_ref().ok());
        for (row, samples) in rows.iter().zip(&samples) {
            match samples {
                Err(why) => println!("| {} | failed: {why} | | | | |", row.name),
                Ok(samples) => {
                    let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
                    let ratio = |value: fn(&Sample) -> f64| match reference {
                        None => "".into(),
                        Some(reference) => {
                            let pairs = samples.iter().zip(reference);
                            let ratios = pairs.map(|(one, other)| value(one) / value(other));
                            format!("{:.2}", median(ratios))
                        }
                    };
                    println!(
                        "| {} | {:.2} | {} | {:.2} | {} | {:.0} |",
                        row.name,
                        of(|s| s.wall) * scale,
                        ratio(|s| s.wall),
                        of(|s| s.cpu) * scale,
                        ratio(|s| s.cpu),
                        of(|s| s.rss)
                    );
                }
            }
        }
        println!();
        samples.iter().all(Result::is_ok)
    }

    /// Runs a row once, under the meter.
    fn sample(&self, row: &Row) -> Result<Sample, String> {
        if let Some(path) = &row.fresh {
            // It need not be there yet.
            let _ = fs::remove_dir_all(path);
        }
        let program = row.command.get_program().to_string_lossy();
        let args = row.command.get_args().map(|arg| arg.to_string_lossy());
        let words: Vec<_> = [program].into_iter().chain(args).collect();
        let words: Vec<_> = words.iter().map(|word| &**word).collect();
        let mut meter = self.command(&self.meter.to_string_lossy(), &["--measure"]);
        meter.args(words);
        let variables = row.command.get_envs().filter_map(|(key, value)| Some((key, value?)));
        meter.envs(variables);
        let outcome = run_within(meter, LIMIT);
        let said = || outcome.stderr.lines().last().unwrap_or_default().replace('|', "\\|");
        if outcome.code != 0 {
            return Err(format!("exit status {}: {}", outcome.code, said()));
        }
        let result: Value = serde_json::from_str(&outcome.stdout)
            .map_err(|e| format!("the meter said {:?}: {e}", outcome.stdout))?;
        let number = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
        Ok(Sample { wall: number("wall"), cpu: number("cpu"), rss: number("rss") })
    }
}

enum Unit {
    Seconds,
    Milliseconds,
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

fn median(values: impl Iterator<Item = f64>) -> f64 {
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
fn measure(words: &[std::ffi::OsString]) -> ExitCode {
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
    let written = writeln!(std::io::stdout(), "{result}");
    if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
