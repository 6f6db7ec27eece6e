//! `shifter render FILE`.

use clap::Args;
use runtime::{Config, report::Report};

use crate::{environment, output};

/// Show what an environment file and its bases say together.
///
/// Prints one file that says the same: without bases, with variables written out, and with the line
/// that each value comes from behind it.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print JSON: each value with its file and line
    #[arg(long)]
    json: bool,
    #[arg(value_name = "FILE", help = "Its path, or the name of one in a directory of env_path")]
    file: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let environment = environment::load(&arguments.file, &config)?;
    environment::say_unheeded(&environment);
    output::data(&match arguments.json {
        true => environment.to_json().to_string(),
        false => environment.to_string().trim_end().to_owned(),
    });
    Ok(())
}
