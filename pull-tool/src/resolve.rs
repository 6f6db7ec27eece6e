//! Verbs for Shifter itself: what the plugin asks where a job is submitted, and what a leader asks of the
//! other nodes of its step.

use std::path::PathBuf;

use clap::Args;
use runtime::{
    Config, Digest, Reference,
    options::Tag,
    pull::{self, Error},
    report::Report,
    request::Resolved,
};

use crate::output;

/// Longest wait for a registry, in seconds: somebody is waiting for a prompt.
const PATIENCE: u64 = 5;

/// Tell what an image's name stands for now.
///
/// Prints one line of JSON: {"digest": …}, {"refused": why}, where nothing that a node could do would
/// help, or {"unknown": why}.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The site's settings
    #[arg(long, value_name = "FILE")]
    site: Option<PathBuf>,
    /// Whatever a store has under the name
    #[arg(long)]
    fresh: bool,
    #[arg(value_name = "REF")]
    reference: Reference,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    let config = match &arguments.site {
        Some(site) => Config::load_from(site),
        None => Config::load(),
    };
    let mut config = config.map_err(|e| Report::from(&e))?;
    let network = &mut config.network;
    for limit in [
        &mut network.give_up_after,
        &mut network.connect_timeout,
        &mut network.idle_timeout,
        &mut network.max_retry_after,
    ] {
        *limit = (*limit).min(PATIENCE);
    }
    let reference = &arguments.reference;
    let tag = if arguments.fresh { Tag::Fresh } else { Tag::Stored };
    let resolved = match pull::resolve(reference, tag, &config) {
        Ok(digest) => Resolved::Digest(digest),
        Err(error) => {
            let line = Report::from(&error).during(format_args!("pull {reference}")).line;
            match &error {
                Error::Registry(error) if error.is_final() => Resolved::Refused(line),
                _ => Resolved::Unknown(line),
            }
        }
    };
    output::data(&resolved.to_line());
    Ok(())
}

/// Remove what was sent to this node and is not wanted here.
#[derive(Debug, Args)]
pub(crate) struct Tidy {
    /// The node directory
    node: PathBuf,
    /// What the names begin with of what was sent
    prefix: String,
    /// The image that it is of
    image: String,
}

pub(crate) fn tidy(arguments: &Tidy) -> Result<(), Report> {
    // By mistake it must not be somebody's files.
    if let Ok(image) = Digest::parse(&arguments.image)
        && arguments.prefix.starts_with(".shifter-")
    {
        pull::tidy(&arguments.node, &arguments.prefix, &image);
    }
    Ok(())
}
