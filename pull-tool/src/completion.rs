//! `shifter completion SHELL`, and the manual: both from what the command line is made of.

use std::{fs, path::PathBuf};

use clap::{Args, Command, CommandFactory as _, ValueEnum};
use clap_complete::{Shell, generate};
use runtime::report::Report;

use crate::{Arguments as Shifter, PullArguments, output};

/// Print what a shell needs to complete shifter's command lines.
///
/// bash: `source <(shifter completion bash)`; others likewise. An installed shifter has them in
/// their places already.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(value_enum, value_name = "SHELL")]
    shell: For,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum For {
    Bash,
    Zsh,
    Fish,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    let shell = match arguments.shell {
        For::Bash => Shell::Bash,
        For::Zsh => Shell::Zsh,
        For::Fish => Shell::Fish,
    };
    for (name, mut command) in programs() {
        let mut text = Vec::new();
        generate(shell, &mut command, name, &mut text);
        output::data(String::from_utf8_lossy(&text).trim_end());
    }
    Ok(())
}

/// Write the manual's pages into a directory.
#[derive(Debug, Args)]
pub(crate) struct Manual {
    dir: PathBuf,
}

pub(crate) fn manual(arguments: &Manual) -> Result<(), Report> {
    // One page a verb; shifter-pull(1) is that of `shifter pull`.
    let written = fs::create_dir_all(&arguments.dir)
        .and_then(|()| clap_mangen::generate_to(Shifter::command(), &arguments.dir));
    written.map_err(|e| Report::system(&format!("write {}", arguments.dir.display()), &e))
}

fn programs() -> [(&'static str, Command); 2] {
    [("shifter", Shifter::command()), ("shifter-pull", PullArguments::command())]
}
