//! `shifter logout REGISTRY`.

use clap::Args;
use runtime::{login, registry, report::Report};

use crate::output;

/// Forget a login that `shifter login` has stored.
///
/// What docker, podman or enroot know of the registry stays where it is.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(help = "The registry, as in image names: nvcr.io", value_name = "REGISTRY")]
    registry: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    let registry = login::registry(&arguments.registry).map_err(|e| Report::from(&e))?;
    let (path, known) = registry::logout(&registry).map_err(|e| Report::from(&e))?;
    output::talk(
        None,
        &match known {
            true => format!("logged out of {registry}; removed from {path}"),
            false => format!("no login for {registry} is stored in {path}"),
        },
    );
    Ok(())
}
