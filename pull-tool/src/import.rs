//! `shifter import FILE REF`.

use std::path::PathBuf;

use clap::Args;
use runtime::{Config, Reference, import, oci::RunConfig, report::Report};

use crate::{
    output::{self, Progress, Style},
    pull::{self, To},
};

/// Import an image that is in no registry: an archive, a directory, a squashfs.
///
/// Reads what docker save, podman save and skopeo write (docker-archive, oci-archive, oci), and root
/// file systems: tar archives (gzip, zstd, xz, bzip2, or not packed), directories and squashfs files.
/// What it is, is told by its content. The image gets the name REF, as if it had been pulled, and
/// what had the name loses it. Prints the name and the digest.
///
/// Of a root file system, owners, devices and sockets are left out. With --to store, archives are
/// read and checked, but not expanded.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Where to put it
    #[arg(long, value_enum, default_value_t = To::Both)]
    to: To,
    /// Of an image for several machines, the one for this: OS/ARCHITECTURE[/VARIANT]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<String>,
    /// A variable that a root file system's programs get; may be given several times
    #[arg(long, value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// Where a root file system's programs start
    #[arg(long, value_name = "DIR")]
    workdir: Option<String>,
    /// A root file system's program; in words, or as a JSON list
    #[arg(long, value_name = "COMMAND")]
    entrypoint: Option<String>,
    /// Its arguments where none are given, or the program; likewise
    #[arg(long, value_name = "COMMAND")]
    cmd: Option<String>,
    /// Say nothing but the name, or what went wrong
    #[arg(long, short, conflicts_with = "json")]
    quiet: bool,
    /// Tell all that happens as JSON, one object a line
    #[arg(long)]
    json: bool,
    #[arg(
        value_name = "FILE",
        help = "A file or directory; FILE:NAME, one of its images; or - for standard input"
    )]
    file: PathBuf,
    #[arg(value_name = "REF", help = "The image's name to be: [REGISTRY/]REPOSITORY[:TAG]")]
    reference: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    match import(arguments) {
        Err(report) if arguments.json => {
            output::failed_as_json(&report);
            Err(report.said())
        }
        result => result,
    }
}

fn import(arguments: &Arguments) -> Result<(), Report> {
    let reference: Reference = arguments.reference.parse().map_err(|e| Report::from(&e))?;
    if reference.digest().is_some() {
        return Err(Report::usage(
            &format!("import {reference}: an imported image gets the digest that it has"),
            "name it without one",
        ));
    }
    let options = import::Options {
        to: arguments.to.into(),
        platform: pull::platform(arguments.platform.as_deref())?,
        run: arguments.settings()?,
    };
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let style = match arguments {
        Arguments { json: true, .. } => Style::Json,
        Arguments { quiet: true, .. } => Style::Quiet,
        _ => Style::for_people(),
    };
    let mut progress = Progress::of_import(&reference, style);
    let mut tell = |event: runtime::pull::Event<'_>| progress.tell(event);
    let imported = import::import(&arguments.file, &reference, &options, &config, &mut tell)
        .map_err(|e| Report::from(&e).during("import"))?;
    progress.finish(&reference, &imported);
    Ok(())
}

impl Arguments {
    /// How it is to be run.
    fn settings(&self) -> Result<RunConfig, Report> {
        if let Some(odd) = self.env.iter().find(|env| env.find('=').is_none_or(|at| at == 0)) {
            return Err(Report::usage(&format!("--env {odd:?}: no value"), "write NAME=VALUE"));
        }
        if let Some(dir) = self.workdir.as_ref().filter(|dir| !dir.starts_with('/')) {
            let problem = format!("--workdir {dir:?}: not an absolute path");
            return Err(Report::usage(&problem, "write it from / on"));
        }
        Ok(RunConfig {
            env: self.env.clone(),
            working_dir: self.workdir.clone().unwrap_or_default(),
            entrypoint: words("--entrypoint", self.entrypoint.as_deref())?,
            cmd: words("--cmd", self.cmd.as_deref())?,
            ..RunConfig::default()
        })
    }
}

/// A command as people write it: words, or a JSON list where a word holds a blank. No shell reads it.
fn words(option: &str, text: Option<&str>) -> Result<Vec<String>, Report> {
    let text = text.unwrap_or_default().trim();
    if !text.starts_with('[') {
        return Ok(text.split_whitespace().map(str::to_owned).collect());
    }
    serde_json::from_str(text).map_err(|_| {
        let problem = format!("{option} {text:?}: not a JSON list of strings");
        Report::usage(&problem, "write [\"PROGRAM\", \"ARGUMENT\"]")
    })
}
