//! Which node this is, of how many.

use std::time::Duration;

use crate::registry::chance;

/// So long after its own start a node waits for a leader that may have started later, at least; and so
/// much longer at most.
const PATIENCE: Duration = Duration::from_millis(500);
/// In a fleet of so many nodes, each says what it waits for.
const ALL_SPEAK: u32 = 16;
/// A broadcast takes a while to be seen.
const MIN_PATIENCE: Duration = Duration::from_secs(1);
const MAX_PATIENCE: Duration = Duration::from_secs(5);

/// The nodes of a Slurm step, and which of them this process is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// The step, as no other one is called: `17.0`, or `17.0r1` of a job that was queued again.
    pub(super) step: String,
    /// As sbcast knows it; none for a job's script.
    pub(super) number_of_step: Option<String>,
    /// This node's name.
    pub(super) node: String,
    /// This node's number among them.
    pub(super) number: u32,
    /// Their names, as Slurm lists them.
    pub(super) list: Option<String>,
    /// How many there are.
    pub(super) nodes: u32,
    /// It is one of several components of a heterogeneous job.
    pub(super) is_component: bool,
}

impl Fleet {
    /// The step that the calling process is a task of; `None` if no other node takes part in its job.
    ///
    /// A job's script runs on one node, but its steps will run on the others too.
    pub fn of_this_task(env: impl Fn(&str) -> Option<String>) -> Option<Fleet> {
        let number = |name| env(name)?.parse::<u32>().ok();
        let job = number("SLURM_JOB_ID")?;
        let is_step = |step: &u32| *step < FIRST_SPECIAL_STEP;
        let step = number("SLURM_STEP_ID").filter(is_step);
        let nodes = match step {
            Some(_) => number("SLURM_STEP_NUM_NODES"),
            None => number("SLURM_JOB_NUM_NODES"),
        };
        let nodes = nodes.filter(|nodes| *nodes > 1)?;
        let name = step.map(|step| format!("{job}.{step}"));
        let restart = number("SLURM_RESTART_COUNT").filter(|count| *count > 0);
        let restart = restart.map(|count| format!("r{count}")).unwrap_or_default();
        Some(Fleet {
            step: format!("{}{restart}", name.clone().unwrap_or_else(|| format!("{job}.batch"))),
            number_of_step: name,
            node: env("SLURMD_NODENAME").unwrap_or_else(|| "another node".to_owned()),
            number: number("SLURM_NODEID").unwrap_or(0),
            list: env("SLURM_STEP_NODELIST").filter(|_| step.is_some()),
            nodes,
            is_component: env("SLURM_HET_SIZE").is_some(),
        })
    }

    /// Whether this is the first of the nodes.
    pub fn is_first(&self) -> bool {
        self.number == 0
    }

    /// Whether this node says what it waits for. Of many it is enough if one does.
    pub(super) fn speaks_for_followers(&self) -> bool {
        self.nodes <= ALL_SPEAK || self.number == 1
    }

    /// How long this node looks for a leader before it becomes one. Node 0 does not look; of the others
    /// few are early, whatever their number: the first of them is seen by the rest before they are.
    pub(super) fn patience(&self) -> Duration {
        if self.number == 0 {
            return Duration::ZERO;
        }
        let span = Duration::from_millis(50) * self.nodes;
        let span = span.clamp(MIN_PATIENCE, MAX_PATIENCE);
        PATIENCE + span.mul_f64(late(chance(), self.nodes))
    }
}

/// The first of the numbers that are no step's (slurm.h, `SLURM_MAX_NORMAL_STEP_ID`).
const FIRST_SPECIAL_STEP: u32 = 0xffff_fff0;

/// Timers of which about one in `nodes` is early: 1 + log(chance) / log(nodes), not below 0. Multicast
/// protocols keep many receivers from answering at once like this (Nonnenmacher and Biersack, "Scalable
/// Feedback for Large Groups", 1999).
fn late(chance: f64, nodes: u32) -> f64 {
    (1.0 + chance.max(f64::MIN_POSITIVE).ln() / f64::from(nodes.max(2)).ln()).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fleet(variables: &[(&str, &str)]) -> Option<Fleet> {
        let find = |name: &str| variables.iter().find(|(known, _)| *known == name);
        Fleet::of_this_task(|name| find(name).map(|(_, value)| (*value).to_owned()))
    }

    #[test]
    fn a_step_on_several_nodes_is_a_fleet() {
        let step = [
            ("SLURM_JOB_ID", "17"),
            ("SLURM_STEP_ID", "2"),
            ("SLURM_STEP_NUM_NODES", "3"),
            ("SLURM_NODEID", "1"),
            ("SLURMD_NODENAME", "n2"),
        ];
        let known = fleet(&step).expect("three nodes");
        assert_eq!((known.step.as_str(), known.number, known.nodes), ("17.2", 1, 3));
        let again = fleet(&[&step[..], &[("SLURM_RESTART_COUNT", "1")]].concat());
        assert_eq!(
            again.expect("three nodes").step,
            "17.2r1",
            "what was said before is not for it"
        );
        let alone = fleet(&[("SLURM_STEP_NUM_NODES", "1"), ("SLURM_STEP_ID", "0"), step[0]]);
        assert_eq!(alone, None);
        assert_eq!(fleet(&[]), None);
    }

    #[test]
    fn a_jobs_script_brings_the_image_for_its_steps() {
        for step in [None, Some(("SLURM_STEP_ID", "4294967290"))] {
            let mut variables = vec![("SLURM_JOB_ID", "17"), ("SLURM_JOB_NUM_NODES", "2")];
            variables.extend(step);
            let known = fleet(&variables).expect("two nodes");
            assert_eq!((known.number_of_step, known.number), (None, 0));
        }
    }

    #[test]
    fn few_nodes_are_early() {
        let nodes = 1000;
        let early = (0..nodes).filter(|n| late(f64::from(*n) / 1000.0, nodes) < 0.1).count();
        assert!((1..20).contains(&early), "{early} of {nodes} would lead");
        assert!(late(1.0, nodes) <= 1.0 && late(0.0, nodes) == 0.0);
    }
}
