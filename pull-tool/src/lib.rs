//! The command line: one file a verb, and `output`, which alone formats what is printed.
//!
//! The library behind the two programs `shifter` and `shifter-pull`; everything that they do is in
//! the crate `runtime`.

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

use std::process::ExitCode;

use clap::{Parser, Subcommand};

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

/// `shifter`.
pub fn main() -> ExitCode {
    output::report_panics();
    // In a Slurm task this program stands where the user's command was, with its arguments: they
    // are not for us to read.
    if let Some(task) = launch::Task::of_this_process() {
        return task.run();
    }
    let arguments = Arguments::try_parse().unwrap_or_else(|error| {
        let is_run = std::env::args_os().nth(1).is_some_and(|verb| verb == "run");
        match docker::explain(&error).filter(|_| is_run) {
            Some(report) => output::end(&report),
            None => error.exit(),
        }
    });
    let result = match arguments.verb {
        Verb::Pull(arguments) => pull::run(&arguments),
        Verb::Import(arguments) => import::run(&arguments),
        Verb::Run(arguments) => run::run(&arguments),
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
    };
    output::exit(result)
}

/// `shifter-pull`.
pub fn main_pull() -> ExitCode {
    output::report_panics();
    output::exit(pull::run(&PullArguments::parse().pull))
}
