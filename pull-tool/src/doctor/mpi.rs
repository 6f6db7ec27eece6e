//! `shifter doctor --mpi REF`: whose MPI an image's programs get, and why.

use runtime::{
    Config, container,
    environment_file::Environment,
    inject::mpi::{Error, Explanation, InImage, OnHost},
    options::Stack,
    report::Report,
};

use super::{Finding, State, Who};
use crate::{
    environment,
    image::{self, Wanted},
};

const IMAGES: &str = "image's MPI";
const HOSTS: &str = "host's MPI";
const DECISION: &str = "decision";

/// Looks into an image, which is pulled if it is not here.
pub(super) fn check(name: &str) -> Result<Vec<Finding>, Report> {
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let environment = environment::of(name, &config)?;
    let environment = environment.as_ref();
    environment.iter().for_each(|environment| environment::say_unheeded(environment));
    let source = environment::image(name, environment)?;
    let options = environment.map(Environment::options).unwrap_or_default();
    let image = image::ensure(Wanted::new(&source, &options, &config))?;
    let explained = container::explain_mpi(&image, &options, &config);
    let explained = explained.map_err(|e| environment::blame(&e, environment))?;

    let mut findings = vec![Finding::new("image", State::Works, source.to_string())];
    findings.extend(explained.image.iter().map(in_image));
    if explained.image.is_empty() {
        let says = "none is found by its linker, nor in the directories of mpi.search";
        let remedy = "if there is one, name its directory in mpi.search";
        findings.push(Finding::new(IMAGES, State::Absent, says).mend(Who::User, remedy));
    }
    let asked = options.mpi.as_ref().unwrap_or(&config.mpi.mode);
    let has_mpi = !explained.image.is_empty();
    findings.extend(explained.host.iter().map(|stack| on_host(stack, has_mpi)));
    if explained.host.is_empty() {
        let says = "the settings describe none ([[mpi.stack]])";
        findings.push(Finding::new(HOSTS, State::Absent, says));
    }
    findings.extend(decision(&explained, &asked.stack));
    findings.extend(wireup(&explained));
    Ok(findings)
}

fn in_image(found: &InImage) -> Finding {
    let mut says = format!("{}: {}, for {}", found.path.display(), found.family, found.language);
    if let Some(functions) = found.functions {
        says += &format!(", {functions} functions");
    }
    Finding::new(IMAGES, State::Works, says)
}

/// What stands against it, or what would be put where.
fn on_host(stack: &OnHost, has_mpi: bool) -> Finding {
    let libs: Vec<_> = stack.libs.iter().map(|lib| lib.display().to_string()).collect();
    let says = format!("{}: {}", stack.name, libs.join(", "));
    match &stack.verdict {
        Ok(verdict) if verdict.warnings.is_empty() => {
            Finding::new(HOSTS, State::Works, format!("{says}; it fits"))
        }
        Ok(verdict) => {
            let says = format!("{says}; it fits, but: {}", verdict.warnings.join("; "));
            Finding::new(HOSTS, State::Limited, says)
        }
        // Without one in the image, each would say the same.
        Err(_) if !has_mpi => Finding::new(HOSTS, State::Absent, says),
        // Another image's, which is no fault of this one.
        Err(error @ Error::OtherFamily { .. }) => {
            let report = Report::from(error);
            Finding { remedy: None, ..Finding::failed(HOSTS, State::Absent, Who::User, &report) }
        }
        Err(error) => against(HOSTS, State::Limited, error),
    }
}

/// What stands against an MPI of the host's.
fn against(what: &'static str, state: State, error: &Error) -> Finding {
    match error {
        Error::NoLibrary { .. } | Error::MissingLibrary { .. } | Error::NoFamily { .. } => {
            Finding::new(what, state, error.to_string())
                .mend(Who::Admin, "correct that [[mpi.stack]] of the settings")
        }
        _ => Finding::failed(what, state, Who::User, &Report::from(error)),
    }
}

fn decision(explained: &Explanation, asked: &Stack) -> Vec<Finding> {
    let why = match asked {
        Stack::Auto => "as mpi is auto",
        Stack::Off => "as mpi is off",
        Stack::Named(_) => "as mpi names it",
    };
    let own =
        |why: &str| vec![Finding::new(DECISION, State::Works, format!("the image's own, {why}"))];
    match explained.chosen() {
        Some(OnHost { name, verdict: Ok(verdict), .. }) => {
            let says = [format!("the host's {name}, {why}")];
            let says = says.iter().chain(&verdict.told);
            says.map(|says| Finding::new(DECISION, State::Works, says.clone())).collect()
        }
        Some(OnHost { verdict: Err(error), .. }) => {
            vec![against(DECISION, State::Fails, error)]
        }
        None if explained.image.is_empty() => {
            vec![Finding::new(DECISION, State::Absent, "the image has no MPI that is known")]
        }
        None if *asked == Stack::Off => own(why),
        None if explained.host.is_empty() => own("as the host has none"),
        None => own("as none of the host's fits"),
    }
}

/// How ranks are started: as the MPI that they get wants it.
fn wireup(explained: &Explanation) -> Vec<Finding> {
    let chosen = explained.chosen().and_then(|stack| stack.verdict.as_ref().ok());
    let started = |found: &InImage| {
        let own = found.srun?;
        let hosts = chosen.filter(|verdict| verdict.families.contains(&found.family));
        let srun = hosts.map_or(own, |verdict| verdict.srun);
        let says = format!("programs of {}: {srun}", found.path.display());
        Some(Finding::new("wire-up", State::Works, says))
    };
    explained.image.iter().filter_map(started).collect()
}
