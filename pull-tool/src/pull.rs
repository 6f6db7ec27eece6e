//! `shifter pull REF`.

mod nodes;

use clap::{Args, ValueEnum};
use runtime::{Config, oci::Platform, pull, report::Report};

use crate::{
    image,
    login::Who,
    output::{self, Progress, Style},
};

/// Pull an image from its registry.
///
/// Prints the image's name and digest. An image that is there already costs one question to the
/// registry. What a stopped pull has read is not read again. Stages work side by side: their times
/// are of all layers together, and add up to more than the whole.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to put it
    #[arg(long, value_enum, default_value_t = To::Both)]
    to: To,
    /// Bring it to all nodes of the job that this is typed in, by one pull
    #[arg(long, conflicts_with_all = ["to", "squashfs", "login", "platform", "json"])]
    nodes: bool,
    /// This is one of those nodes
    #[arg(long, hide = true)]
    in_step: bool,
    /// Also write it to your store as one file, which runs from a parallel file system without being
    /// expanded
    #[arg(long)]
    squashfs: bool,
    /// Ask for a name and a password, for this pull alone
    #[arg(long)]
    login: bool,
    #[command(flatten)]
    who: Who,
    /// Of an image for several machines, the one for this: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// Say nothing but the name, or what went wrong
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Tell all that happens as JSON, one object a line
    #[arg(long)]
    json: bool,
    #[arg(value_name = "REF", help = "The image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]")]
    reference: String,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum To {
    /// Your image store, an OCI image layout
    Store,
    /// This node, expanded and ready to run
    Node,
    /// Both, in one pass
    Both,
}

impl From<To> for pull::To {
    fn from(to: To) -> pull::To {
        match to {
            To::Store => pull::To::Store,
            To::Node => pull::To::Node,
            To::Both => pull::To::Both,
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    match pull(arguments) {
        Err(report) if arguments.json => {
            output::failed_as_json(&report);
            Err(report.said())
        }
        result => result,
    }
}

fn pull(arguments: &Arguments) -> Result<(), Report> {
    let reference = image::in_registry(&arguments.reference, "pull")?;
    match arguments {
        Arguments { nodes: true, .. } => return nodes::pull(&reference, arguments.quiet),
        Arguments { in_step: true, .. } => return nodes::pull_here(&reference, arguments.quiet),
        _ => {}
    }
    let platform = platform(arguments.platform.as_deref())?;
    let mut config = Config::load().map_err(|e| Report::from(&e))?;
    if arguments.login || arguments.who.is_given() {
        config.login = Some(arguments.who.ask(reference.registry())?);
    }
    if arguments.squashfs && matches!(arguments.to, To::Node) {
        let remedy = "leave out --squashfs, or --to node";
        return Err(Report::usage("pull --to node --squashfs: a squashfs lies in a store", remedy));
    }
    config.squashfs.write |= arguments.squashfs;
    let to = arguments.to.into();
    let style = match arguments {
        Arguments { json: true, .. } => Style::Json,
        Arguments { quiet: true, .. } => Style::Quiet,
        _ => Style::for_people(),
    };
    let mut progress = Progress::new(&reference, style);
    let pulled = pull::pull(&reference, to, &platform, &config, &mut |event| progress.tell(event))
        .map_err(|e| Report::from(&e).during(format_args!("pull {reference}")))?;
    progress.finish(&reference, &pulled);
    Ok(())
}

/// The machine that an image is to be for: this one, if none is named.
pub(crate) fn platform(text: Option<&str>) -> Result<Platform, Report> {
    let Some(text) = text else { return Ok(Platform::host()) };
    Platform::parse(text).ok_or_else(|| {
        Report::usage(
            &format!("platform {text:?}: not understood"),
            "write OS/ARCHITECTURE[/VARIANT]",
        )
    })
}
