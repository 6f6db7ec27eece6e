//! What of the host's Slurm scripts in containers may use: `[relay]`.

use serde::Deserialize;

/// Which commands of the host's a job's script, or salloc's shell, has in its container.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Relay {
    /// Whether it has any.
    pub enabled: bool,
    /// Their names.
    pub commands: Vec<String>,
}

impl Default for Relay {
    fn default() -> Relay {
        let commands = [
            "sacct", "salloc", "sattach", "sbatch", "sbcast", "scancel", "scontrol", "sinfo",
            "sprio", "squeue", "sreport", "srun", "sshare", "sstat", "strigger",
        ];
        Relay { enabled: true, commands: commands.map(str::to_owned).into() }
    }
}

impl Relay {
    pub(super) fn problem(&self) -> Option<String> {
        let is_name = |name: &str| {
            !name.is_empty() && name != "." && name != ".." && !name.contains(['/', '\0'])
        };
        let odd = self.commands.iter().find(|name| !is_name(name))?;
        Some(format!("relay.commands: {odd:?} is not the name of a command"))
    }
}
