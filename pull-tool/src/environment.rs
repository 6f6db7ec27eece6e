//! Environment files, as the verbs take them.

use std::env;

use runtime::{
    Config, Digest, Options, Source,
    container::Error,
    environment_file::{self, Environment},
    inject,
    kept::Record,
    report::Report,
    request::Request,
};

use crate::{image, output};

/// Reads an environment file for the caller.
pub(crate) fn load(name: &str, config: &Config) -> Result<Environment, Report> {
    let environment = Environment::load(name, &config.env_path, &|name| env::var_os(name));
    environment.map_err(|e| Report::from(&e))
}

/// Tells what an environment file says in vain.
pub(crate) fn say_unheeded(environment: &Environment) {
    if let Some(unheeded) = environment.unheeded() {
        output::talk(None, &unheeded);
    }
}

/// The same where an image may be named as well; `None` if one is.
pub(crate) fn of(name: &str, config: &Config) -> Result<Option<Environment>, Report> {
    environment_file::is_path(name).then(|| load(name, config)).transpose()
}

/// The image that is named, or that an environment file names.
pub(crate) fn image(name: &str, environment: Option<&Environment>) -> Result<Source, Report> {
    match environment {
        None => image::typed(name),
        Some(environment) => Ok(environment.image.value.clone()),
    }
}

/// Says what failed, and which line has asked for it.
pub(crate) fn blame(error: &Error, environment: Option<&Environment>) -> Report {
    let origin = environment.and_then(|environment| match error {
        Error::Mount { from, to, .. } => environment.mount(from, to),
        Error::NoDevice { path, .. } => environment.device(path),
        Error::Inject(
            inject::Error::Unknown { name, .. } | inject::Error::Conflict { name, .. },
        ) => environment.gpu(Some(name)).or_else(|| environment.gpu(None)),
        Error::Inject(_) => environment.gpu(None),
        Error::Workdir { .. } => environment.workdir.as_ref().map(|dir| &dir.origin),
        _ => None,
    });
    let report = Report::from(error);
    match origin {
        Some(origin) => report.during(origin),
        None => report,
    }
}

/// The same on a node, where no more than the file's path is known; and options may have asked for it.
pub(crate) fn blame_file(error: &Error, request: &Request) -> Report {
    let typed = &request.asked.options;
    let is_files = match error {
        Error::Mount { .. } => typed.mounts.is_empty(),
        Error::Workdir { .. } => typed.workdir.is_none(),
        Error::NoDevice { .. } | Error::Inject(_) => true,
        _ => false,
    };
    let report = Report::from(error);
    match request.file.as_ref().filter(|_| is_files) {
        Some(file) => report.during(file),
        None => report,
    }
}

/// A container that stays was made from one image, though the tag may have moved since.
pub(crate) fn known(source: &Source, options: &Options, config: &Config) -> Option<Digest> {
    let record = options.name.as_ref().and_then(|name| Record::of(&config.node_dir, name))?;
    (record.reference == source.to_string()).then_some(record.digest)
}
