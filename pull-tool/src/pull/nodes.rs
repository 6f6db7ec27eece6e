//! `shifter pull --nodes REF`: an image onto all nodes of a job before its steps need it.
//!
//! A step of one task a node does what the launcher of a container's step does: one node pulls, the
//! others have it from there.

use std::{env, os::unix::process::CommandExt as _, process::Command};

use runtime::{
    Config, Options, Reference,
    options::Tag,
    programs::{self, PULL},
    pull,
    report::Report,
    request::{NO_REQUEST, REQUEST_VAR},
    store::Node,
};

use crate::{
    image::{self, Wanted},
    launch::{is_first_node, node_name},
    output,
};

/// What a step takes from the job around it. All else is about other steps: how many tasks they have,
/// and where.
const OF_THE_JOB: [&str; 3] = ["SLURM_CONF", "SLURM_JOB_ID", "SLURM_CLUSTER_NAME"];

/// Becomes the srun that has all nodes of the job bring the image.
pub(super) fn pull(reference: &Reference, quiet: bool) -> Result<(), Report> {
    let usage = |what: &str| {
        let remedy = "type it in a job: salloc -N4 shifter-pull --nodes IMAGE";
        Err(Report::usage(&format!("pull --nodes: {what}"), remedy))
    };
    let (Some(job), Some(nodes)) =
        (env::var_os("SLURM_JOB_ID"), env::var_os("SLURM_JOB_NUM_NODES"))
    else {
        return usage("this is no job of Slurm's");
    };
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let digest = pull::resolve(reference, Tag::Fresh, &config);
    let digest = digest.map_err(|e| Report::from(&e).during(format_args!("pull {reference}")))?;
    let program = programs::path(PULL).map_err(|e| Report::system("find this program", &e))?;
    let mut srun = Command::new("srun");
    let of_others = |name: &str| name.starts_with("SLURM_") && !OF_THE_JOB.contains(&name);
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter(|name| of_others(name)).for_each(|name| _ = srun.env_remove(name));
    srun.env(REQUEST_VAR, NO_REQUEST).arg("--jobid").arg(job);
    srun.arg("--nodes").arg(&nodes).arg("--ntasks").arg(&nodes);
    srun.args(["--ntasks-per-node=1", "--overlap", "--mpi=none", "--input=none"]);
    srun.arg(&program).arg("--in-step").args(quiet.then_some("--quiet"));
    srun.arg(reference.pinned(digest).to_string());
    Err(Report::system("run srun", &srun.exec()))
}

/// What each node of that step does.
pub(super) fn pull_here(reference: &Reference, quiet: bool) -> Result<(), Report> {
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let node = node_name();
    // As a step's first launcher does. Only memory is at stake.
    if let Ok(node) = Node::open(&config.node_dir) {
        node.sweep_sent();
    }
    let (source, options) = (reference.clone().into(), Options::default());
    let wanted = Wanted::new(&source, &options, &config);
    let image = image::ensure(Wanted { node: Some(&node), quiet, ..wanted });
    let image = image.map_err(|report| {
        output::talk(Some(&node), &report.line);
        report.said()
    })?;
    // One node says for all what there is now.
    if is_first_node() {
        output::data(&format!("{}", image.source));
    }
    Ok(())
}
