//! `shifter run REF CMD…`.

use std::{env, ffi::OsString};

use clap::Args;
use runtime::{
    Config, Options, Reference,
    container::{self, Command, Run},
    host::Host,
    pull,
    report::Report,
    sys::process::reset_sigpipe,
};

use crate::output::{self, Progress, Style};

/// Run a command in an image, here and as yourself.
///
/// The image is pulled if it is neither on this node nor in your store. Home and working directory
/// are the host's; all else is the image's, writable until the command ends.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print what would be done, and do not do it
    #[arg(long)]
    dry_run: bool,
    #[arg(value_name = "REF", help = "The image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]")]
    reference: String,
    /// The command; without one, the image's own
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    reset_sigpipe();
    let reference: Reference = arguments.reference.parse().map_err(|e| Report::from(&e))?;
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let host = Host::probe().map_err(|e| Report::system("look up the calling user", &e))?;
    let mut progress = Progress::new(&reference, Style::for_people());
    let image = pull::ensure(&reference, &config, &mut |event| progress.tell(event))
        .map_err(|e| Report::from(&e).during(format_args!("pull {reference}")))?;
    let run = Run {
        command: Command::Image(arguments.command.clone()),
        script: None,
        options: Options::default(),
    };
    let plan = container::plan(&image, &run, &config, &host, env::vars_os())
        .map_err(|e| Report::from(&e))?;
    if arguments.dry_run {
        output::data(plan.to_string().trim_end());
        return Ok(());
    }
    let error = match plan.build() {
        Ok(container) => container.exec(),
        Err(error) => error,
    };
    Err(Report::from(&error))
}
