//! Runs a command in a directory as if that were an image's tree. For tests and measurements; the
//! real thing is `shifter run`.
//!
//! ```text
//! enter [--config JSON] [--workdir DIR] [--script FILE] [--mount SPEC]… [--step | --dry-run]
//!       NODE_DIR ROOTFS [COMMAND…]
//! ```

#![forbid(unsafe_code)]
#![allow(clippy::print_stderr, clippy::print_stdout)]

use std::{
    env,
    error::Error,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use runtime::{
    Config, Digest, Host, Image, Options,
    container::{self, Command, Plan, Run, join},
    image::Form,
    report::chain,
    sys::process::reset_signals,
};

fn main() -> ExitCode {
    reset_signals();
    let (plan, node_dir, mode) = match prepared() {
        Ok(prepared) => prepared,
        Err(e) => {
            eprintln!("enter: {}", chain(&*e));
            return ExitCode::from(2);
        }
    };
    if mode == Mode::DryRun {
        print!("{plan}");
        return ExitCode::SUCCESS;
    }
    let error = run(&plan, &node_dir, mode);
    eprintln!("enter: {}", chain(&error));
    ExitCode::from(error.exit_code())
}

/// Returns only if the program could not be started.
fn run(plan: &Plan, node_dir: &Path, mode: Mode) -> container::Error {
    let entered = match mode {
        Mode::Step => {
            let key = join::Key::of_this_task(|name| env::var_os(name));
            join::Step::open(node_dir, &key).and_then(|mut step| step.enter(plan))
        }
        _ => plan.build(),
    };
    entered.map_or_else(|e| e, container::Container::exec)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Alone,
    Step,
    DryRun,
}

fn prepared() -> Result<(Plan, PathBuf, Mode), Box<dyn Error>> {
    let mut args = env::args_os().skip(1).peekable();
    let mut run = Run {
        command: Command::Image(vec![]),
        script: None,
        relay: None,
        options: Options::default(),
    };
    let mut mode = Mode::Alone;
    let mut config = r#"{"architecture":"amd64","os":"linux"}"#.to_owned();
    while let Some(flag) = args.next_if(|arg| arg.as_encoded_bytes().starts_with(b"--")) {
        let mut value = || args.next().ok_or("an option lacks its value");
        match flag.to_str().unwrap_or_default() {
            "--step" => mode = Mode::Step,
            "--dry-run" => mode = Mode::DryRun,
            "--config" => config = value()?.into_string().map_err(|_| "not text")?,
            "--workdir" => run.options.workdir = Some(value()?.into()),
            "--script" => run.script = Some(value()?.into()),
            "--mount" => {
                run.options.mounts.push(value()?.into_string().map_err(|_| "not text")?.parse()?);
            }
            other => return Err(format!("no option {other}").into()),
        }
    }
    let node_dir = PathBuf::from(args.next().ok_or("no NODE_DIR")?);
    let rootfs = PathBuf::from(args.next().ok_or("no ROOTFS")?);
    let command: Vec<OsString> = args.collect();
    if !command.is_empty() {
        run.command = Command::Given(command);
    }
    let image = Image {
        source: "test".parse()?,
        digest: Digest::of(b"test"),
        config: serde_json::from_str(&config)?,
        rootfs,
        form: Form::Tree,
        hold: Default::default(),
    };
    let config = Config::parse(&format!("store = \"/none\"\nnode_dir = {node_dir:?}"))?;
    let plan = container::plan(&image, &run, &config, &Host::probe()?, env::vars_os())?;
    Ok((plan, node_dir, mode))
}
