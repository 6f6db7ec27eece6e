//! `shifter rmi REF…`.

use clap::Args;
use runtime::{
    Config, Source,
    report::Report,
    repository::{Names, Removed, Repository},
};

use crate::{
    image,
    output::{self, table},
};

/// Remove images from your store and from this node.
///
/// What other images need as well stays. A container that runs keeps its image: on this node it goes
/// with a later `shifter prune`. Prints the names that are gone.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Remove an image by its digest though it has several names
    #[arg(long, short)]
    force: bool,
    #[arg(
        required = true,
        value_name = "REF",
        help = "The image: its name, its digest, or the first digits (6 or more) of that"
    )]
    references: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let repository = Repository::open(&config).map_err(|e| Report::from(&e))?;
    let names = if arguments.force { Names::All } else { Names::One };
    let mut failed: Option<Report> = None;
    for reference in &arguments.references {
        match repository.remove(&image::name_of(reference), names) {
            Ok(removed) => tell(reference, &removed),
            Err(error) => {
                let report = Report::from(&error).during("remove");
                output::talk(None, &report.line);
                failed.get_or_insert(report.said());
            }
        }
    }
    failed.map_or(Ok(()), Err)
}

fn tell(reference: &str, removed: &Removed) {
    for name in &removed.names {
        output::data(&output::name_with_digest(name, &removed.digest));
    }
    if removed.names.is_empty() {
        output::data(removed.digest.as_str());
    }
    let mut text = match image::typed(reference) {
        Ok(Source::OnDisk(_)) => format!("removed what was expanded of {reference}"),
        _ => format!("removed {reference}"),
    };
    match (removed.stored, removed.memory) {
        (0, 0) => text += "; nothing came free",
        (stored, 0) => text += &format!("; {} came free", table::size(stored)),
        (0, memory) => text += &format!("; {} of memory came free", table::size(memory)),
        (stored, memory) => {
            let (stored, memory) = (table::size(stored), table::size(memory));
            text += &format!("; {stored} came free, and {memory} of memory on this node");
        }
    }
    if let Some(user) = removed.user {
        text += &format!("; {user} uses it on this node, where it stays until shifter prune");
    }
    if let Some(site) = &removed.site {
        text += &format!("; the site's, in {}, stays", site.display());
    }
    output::talk(None, &runtime::report::printable(&text));
}
