//! `shifter doctor`: what works on this node, what does not, and who can mend it.

mod checks;
mod devices;
mod mpi;
mod slurm;
mod squashfs;

use clap::Args;
use runtime::{
    Config,
    config::Origin,
    report::{EXIT_RUNTIME, Report, printable},
};
use serde_json::json;

use crate::output;

/// Look at this node: what works, what does not, and who can mend it.
///
/// Nothing is changed. Ends with status 125 if something does not work that containers need.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Tell it to a program
    #[arg(long)]
    json: bool,
    /// Tell instead which MPI programs of this image get, the image's or the host's, and why
    #[arg(long, value_name = "REF")]
    mpi: Option<String>,
    /// Build a container on an empty directory, and say why if that fails
    #[arg(long, hide = true, value_name = "DIR")]
    build: Option<std::path::PathBuf>,
}

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Works,
    /// Containers run, and something is worse than it could be.
    Limited,
    Fails,
    /// It is not there, and need not be.
    Absent,
}

/// Who can mend something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    User,
    Admin,
}

/// What a check has found.
#[derive(Debug)]
struct Finding {
    what: &'static str,
    state: State,
    says: String,
    remedy: Option<(Who, String)>,
}

impl Finding {
    fn new(what: &'static str, state: State, says: impl Into<String>) -> Finding {
        Finding { what, state, says: says.into(), remedy: None }
    }

    fn mend(self, who: Who, remedy: impl Into<String>) -> Finding {
        Finding { remedy: Some((who, remedy.into())), ..self }
    }

    /// A failure, as it is worded elsewhere: the cause, and after a semicolon the remedy.
    fn failed(what: &'static str, state: State, who: Who, report: &Report) -> Finding {
        match report.line.split_once("; ") {
            Some((says, remedy)) => Finding::new(what, state, says).mend(who, remedy),
            None => Finding::new(what, state, &*report.line),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    if let Some(rootfs) = &arguments.build {
        return checks::build(rootfs);
    }
    if let Some(image) = &arguments.mpi {
        return tell(&mpi::check(image)?, arguments);
    }
    let (mut findings, config) = match Config::load() {
        Ok(config) => (vec![settings(&config)], config),
        Err(error) => {
            let report = Report::from(&error);
            let failed = Finding::failed("settings", State::Fails, Who::User, &report);
            // The rest is looked at all the same.
            (vec![failed], Config::parse("").map_err(|e| Report::from(&e))?)
        }
    };
    findings.extend(checks::all(&config));
    findings.extend(squashfs::check());
    findings.extend(slurm::check());
    findings.extend(devices::check(&config));
    tell(&findings, arguments)
}

fn tell(findings: &[Finding], arguments: &Arguments) -> Result<(), Report> {
    for finding in findings {
        output::data(&if arguments.json { as_json(finding) } else { as_text(finding) });
    }
    match findings.iter().any(|finding| finding.state == State::Fails) {
        true => Err(Report { line: String::new(), exit: EXIT_RUNTIME }),
        false => Ok(()),
    }
}

fn settings(config: &Config) -> Finding {
    let file = |origin: &Origin| match origin {
        Origin::Site(path) => Some(format!("{} (the site's)", path.display())),
        Origin::User(path) => Some(format!("{} (yours)", path.display())),
        Origin::Variable(_) => None,
    };
    let mut files: Vec<_> = config.origins.values().filter_map(file).collect();
    files.sort();
    files.dedup();
    let variables = config.origins.values().filter(|origin| matches!(origin, Origin::Variable(_)));
    files.extend(variables.map(ToString::to_string));
    let says = if files.is_empty() { "the defaults".to_owned() } else { files.join(", ") };
    Finding::new("settings", State::Works, says)
}

fn as_text(finding: &Finding) -> String {
    let mark = match finding.state {
        State::Works => "ok",
        State::Limited => "limited",
        State::Fails => "FAILS",
        State::Absent => "-",
    };
    let mut text = format!("{mark:8}{:16}{}", finding.what, printable(&finding.says));
    if let Some((who, remedy)) = &finding.remedy {
        let who = match who {
            Who::User => "you",
            Who::Admin => "an administrator",
        };
        text += &format!("\n{:24}{who} can mend it: {}", "", printable(remedy));
    }
    text
}

fn as_json(finding: &Finding) -> String {
    let state = match finding.state {
        State::Works => "works",
        State::Limited => "limited",
        State::Fails => "fails",
        State::Absent => "absent",
    };
    let who = finding.remedy.as_ref().map(|(who, _)| match who {
        Who::User => "user",
        Who::Admin => "admin",
    });
    let remedy = finding.remedy.as_ref().map(|(_, remedy)| remedy);
    let (what, says) = (finding.what, &finding.says);
    json!({"what": what, "state": state, "says": says, "who": who, "remedy": remedy}).to_string()
}
