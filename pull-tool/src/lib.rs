//! The command line: one file a verb, and `output`, which alone formats what is printed.
//!
//! The library behind the two programs; everything that they do is in the crate `runtime`.
//!
//! ```text
//! shifter ─┬─ a Slurm task, `run`: the image is here ─► container ─► exec the command
//!          └─ anything else ─► exec shifter-pull, called shifter
//! ```
//!
//! `shifter` starts containers, and is made of no more than that takes: the linker leaves out what its
//! [`main`] does not reach, which is all that has to do with registries and archives. That halves the
//! time in which it starts. `shifter-pull` has everything.

#![forbid(unsafe_code)]

mod completion;
mod docker;
mod doctor;
mod environment;
mod flags;
mod image;
mod images;
mod import;
mod inspect;
mod launch;
mod login;
mod logout;
mod output;
mod prune;
mod pull;
mod render;
mod resolve;
mod rmi;
mod run;
mod terminal;

use std::{
    env,
    ffi::{CString, OsString},
    iter,
    os::unix::ffi::OsStringExt as _,
    path::Path,
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use nix::unistd::execv;
use runtime::{
    programs::{self, PULL, SHIFTER},
    report::Report,
};

const EXIT_STATUS: &str = "\
Exit status: the program's own; 125 if shifter failed, 126 if the command cannot be
executed, 127 if it is not in the image, 2 for a wrong command line.";

/// Container images for HPC: pull them, run programs in them, as an ordinary user.
#[derive(Debug, Parser)]
#[command(name = "shifter", version, after_help = EXIT_STATUS)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Pull(pull::Arguments),
    Import(import::Arguments),
    Run(run::Arguments),
    Render(render::Arguments),
    Images(images::Arguments),
    Inspect(inspect::Arguments),
    Rmi(rmi::Arguments),
    Prune(prune::Arguments),
    Login(login::Arguments),
    Logout(logout::Arguments),
    Doctor(doctor::Arguments),
    Completion(completion::Arguments),
    #[command(hide = true)]
    Resolve(resolve::Arguments),
    #[command(hide = true)]
    Tidy(resolve::Tidy),
    #[command(hide = true)]
    Manual(completion::Manual),
}

#[derive(Debug, Parser)]
#[command(name = "shifter-pull", version, about = "Pull an image from its registry")]
struct PullArguments {
    #[command(flatten)]
    pull: pull::Arguments,
}

/// `shifter run`, alone.
#[derive(Debug, Parser)]
struct RunArguments {
    #[command(flatten)]
    run: run::Arguments,
}

/// `shifter`.
pub fn main() -> ExitCode {
    output::report_panics();
    // In a Slurm task this program stands where the user's command was, with its arguments: they
    // are not for us to read.
    if let Some(task) = launch::Task::of_this_process() {
        return task.run(image::FIND);
    }
    let mut typed = env::args_os().skip(1).peekable();
    if typed.peek().is_some_and(|verb| verb == "run")
        && let Ok(RunArguments { run }) = RunArguments::try_parse_from(typed)
    {
        return output::exit(run::run(&run, image::FIND));
    }
    output::end(&become_shifter_pull())
}

/// Has the other program begin from the start, with the same arguments. Returns only if that fails.
fn become_shifter_pull() -> Report {
    let paths = programs::path(PULL).and_then(|other| Ok((other, programs::path(SHIFTER)?)));
    let (program, name) = match paths {
        Ok(paths) => paths,
        Err(error) => return Report::system("find this program", &error),
    };
    let text = |text: OsString| CString::new(text.into_vec()).expect("the kernel's end in NUL");
    let arguments = iter::once(name.into()).chain(env::args_os().skip(1));
    let arguments: Vec<_> = arguments.map(text).collect();
    // Not as a child's: signals that the caller has blocked stay so.
    let Err(error) = execv(&text(program.clone().into()), &arguments);
    Report::system(&format!("start {}", program.display()), &error.into())
        .advise("it belongs beside shifter, where it is installed")
}

/// `shifter-pull`; and what `shifter` has become, which then is its name.
pub fn main_pull() -> ExitCode {
    output::report_panics();
    let name = env::args_os().next().unwrap_or_default();
    if Path::new(&name).file_name().is_some_and(|name| name == SHIFTER) {
        return all();
    }
    output::exit(pull::run(&PullArguments::parse().pull))
}

fn all() -> ExitCode {
    if let Some(task) = launch::Task::of_this_process() {
        return task.run(image::BRING);
    }
    let arguments = Arguments::try_parse().unwrap_or_else(|error| {
        let is_run = env::args_os().nth(1).is_some_and(|verb| verb == "run");
        match docker::explain(&error).filter(|_| is_run) {
            Some(report) => output::end(&report),
            None => error.exit(),
        }
    });
    output::exit(match arguments.verb {
        Verb::Pull(arguments) => pull::run(&arguments),
        Verb::Import(arguments) => import::run(&arguments),
        Verb::Run(arguments) => run::run(&arguments, image::BRING),
        Verb::Render(arguments) => render::run(&arguments),
        Verb::Images(arguments) => images::run(&arguments),
        Verb::Inspect(arguments) => inspect::run(&arguments),
        Verb::Rmi(arguments) => rmi::run(&arguments),
        Verb::Prune(arguments) => prune::run(&arguments),
        Verb::Login(arguments) => login::run(&arguments),
        Verb::Logout(arguments) => logout::run(&arguments),
        Verb::Doctor(arguments) => doctor::run(&arguments),
        Verb::Completion(arguments) => completion::run(&arguments),
        Verb::Resolve(arguments) => resolve::run(&arguments),
        Verb::Tidy(arguments) => resolve::tidy(&arguments),
        Verb::Manual(arguments) => completion::manual(&arguments),
    })
}
