//! The SPANK plugin that makes `srun --container=IMAGE` work, for every Slurm from 22.05 on.
//!
//! Slurm has a `--container` of its own since 21.08. It takes the path of an OCI bundle, hands
//! anything else to the node, and there the step dies, or runs on the host. So the plugin takes the
//! option over before the job leaves the client, and on the node puts `shifter launch` in front of
//! each task's command. It enters no container itself: it has no network, makes no process, and
//! does nothing as root but name its options.
//!
//! ```text
//! srun, sbatch, salloc                      slurmstepd
//!   init           forget what a parent       init        register options, and nothing else:
//!                  set; register options                  a failure here would drain the node
//!   init_post_opt  --container ours?          task_init   (the user, one process a task)
//!                  clear it, write the ────────────────►  request? launcher before the command,
//!                  request, or refuse                     or one line and exit 125
//! ```
//!
//! Two rules decide every doubt. A job that names no container never notices the plugin, whatever
//! state the rest is in: its errors are then a debug message. A task whose job names one runs in it
//! or not at all: whatever goes wrong, a panic included, ends the task.
//!
//! - `exports`: what Slurm sees, and the plugin's only unsafe code
//! - `client`, `task`: the two sides; [`runtime::request`] is what they say to each other
//! - `options`, `settings`: what users write on the command line, and sites in plugstack.conf
//! - `release`: which Slurm this is; `resolve`: what a name stands for
//! - `log`: everything that is ever printed

mod client;
mod exports;
mod log;
mod options;
mod release;
mod resolve;
mod settings;
mod task;
