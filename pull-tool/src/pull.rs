//! `shifter pull REF`.

use clap::{Args, ValueEnum};
use runtime::{Config, Reference, pull, report::Report};

use crate::{
    login::Who,
    output::{self, Progress},
};

/// Pull an image from its registry.
///
/// Prints the image's name and digest. An image that is there already costs one question to the
/// registry.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to put it
    #[arg(long, value_enum, default_value_t = To::Both)]
    to: To,
    /// Ask for a name and a password, for this pull alone
    #[arg(long)]
    login: bool,
    #[command(flatten)]
    who: Who,
    #[arg(value_name = "REF", help = "The image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]")]
    reference: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum To {
    /// Your image store, an OCI image layout
    Store,
    /// This node, expanded and ready to run
    Node,
    /// Both, in one pass
    Both,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    let reference: Reference = arguments.reference.parse().map_err(|e| Report::from(&e))?;
    let mut config = Config::load().map_err(|e| Report::from(&e))?;
    if arguments.login || arguments.who.is_given() {
        config.login = Some(arguments.who.ask(reference.registry())?);
    }
    let to = match arguments.to {
        To::Store => pull::To::Store,
        To::Node => pull::To::Node,
        To::Both => pull::To::Both,
    };
    let mut progress = Progress::new(&reference, None);
    let pulled = pull::pull(&reference, to, &config, &mut |event| progress.tell(event))
        .map_err(|e| Report::from(&e).during(format_args!("pull {reference}")))?;
    if pulled.unchanged {
        output::talk(None, &format!("{reference} is up to date"));
    }
    output::data(&match reference.digest() {
        Some(_) => reference.to_string(),
        None => format!("{reference}@{}", pulled.digest),
    });
    Ok(())
}
