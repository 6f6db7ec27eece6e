//! What the plugin puts in front of a Slurm task's command.
//!
//! It runs on the node, as the user, in the task's own process and cgroup, after TaskProlog. The
//! first task of a step on a node pulls the image and builds the container, the others join it.
//! Then the process becomes the user's program.

use std::{
    env,
    ffi::OsString,
    path::{Path, PathBuf},
    process::ExitCode,
};

use nix::unistd::gethostname;
use runtime::{
    Config, Image, Options, Source,
    container::{
        self, Command, Plan, Run,
        join::{Failure, Key, Step, tasks_here},
        relay::Relay,
        save::{self, Hand},
    },
    host::Host,
    jobs,
    options::{EnvSpec, Job, Tag},
    report::{EXIT_RUNTIME, Report, printable},
    request::{self, ARGV0_VAR, REQUEST_VAR, Request},
    source::Error as Missing,
    store::Node,
    sys::{
        interrupt::{end_with_parent, is_orphan},
        process::reset_signals,
    },
};

use crate::{
    environment,
    image::{Bring, Wanted},
    output::{self, StepLog},
};

/// The shell that salloc starts on a node (slurm.h, `SLURM_INTERACTIVE_STEP`). As of a batch script, steps
/// that are started from it inherit the request.
const INTERACTIVE_STEP: &str = "4294967290";

/// A Slurm task that wants to be in a container.
#[derive(Debug)]
pub(crate) struct Task {
    batch: bool,
    /// Where the site's settings are, if not where they are by default.
    config: Option<PathBuf>,
    command: Vec<OsString>,
}

impl Task {
    /// Whether the plugin has put this process in front of a task's command, and which.
    pub(crate) fn of_this_process() -> Option<Task> {
        let task = request::Task::of_this_process()?;
        let mut arguments = env::args_os();
        let command = match env::var_os(ARGV0_VAR) {
            // Slurm before 23.11: our path has taken the place of the command's own.
            Some(command) => std::iter::once(command).chain(arguments.skip(1)).collect(),
            // SHIFTER launch -- COMMAND…
            None => {
                arguments.find(|argument| argument == "--");
                arguments.collect()
            }
        };
        Some(Task { batch: task.batch, config: task.config, command })
    }

    /// Runs the command in its container, of an image that comes by `bring`. Returns only if that
    /// fails.
    pub(crate) fn run(self, bring: Bring) -> ExitCode {
        reset_signals();
        // A job that a node has lost runs again elsewhere, and is not to run twice.
        end_with_parent();
        let node = node_name();
        // 32 tasks on a node need not say it 32 times.
        let (report, speaks) = match Setting::find(self.config.as_deref()) {
            // There is nothing yet to agree over, but all of them fail alike.
            Err(report) => (report, is_first_of_node()),
            Ok(setting) => {
                let mut step = None;
                let Err(report) = self.start(&setting, &node, bring, &mut step);
                let speaks = step.is_none_or(|step| step.say_once(&report.line));
                (report, speaks)
            }
        };
        if speaks {
            output::talk(Some(&node), &report.line);
        }
        ExitCode::from(report.exit)
    }

    fn start(
        &self,
        setting: &Setting,
        node: &str,
        bring: Bring,
        opened: &mut Option<Step>,
    ) -> Result<std::convert::Infallible, Report> {
        let Setting { request, config, host, .. } = setting;
        let key = Key::of_this_task(|name| env::var_os(name));
        let step = Step::open(&config.node_dir, &key).map_err(|e| Report::from(&e))?;
        let step = opened.insert(step);
        if let Some(failure) = step.failed() {
            return Err(Report { line: failure.text, exit: failure.code });
        }
        let mut log = None;
        if step.image().is_none() {
            setting.remove_ended();
            log = StepLog::begin(config, node, host, &request.container);
        }
        let blame = |error: &container::Error| environment::blame_file(error, request);
        let checked = match bring.is_long {
            true => container::check(&setting.options, config).map_err(|e| blame(&e)),
            false => Ok(()),
        };
        let image = checked.and_then(|()| setting.image(step, node, bring, &mut log));
        let image = image.inspect_err(|report| {
            step.fail(&Failure { code: report.exit, text: report.line.clone() });
        });
        let entered = image.and_then(|image| {
            if is_orphan() {
                return Err(step_is_over());
            }
            let relay = match self.batch || setting.is_shell {
                true => Relay::open(step, &config.relay, env::vars_os()),
                false => Ok(None),
            };
            let relay = relay.map_err(|e| Report::from(&e))?;
            let run = Run {
                command: Command::Given(self.command.clone()),
                script: self.script(),
                options: setting.options.clone(),
                relay: relay.as_ref().map(Relay::outlet),
            };
            let plan = container::plan(&image, &run, config, host, env::vars_os());
            let plan = plan.map_err(|e| blame(&e))?;
            for line in plan.warnings().iter().map(|line| printable(line)) {
                if step.say_once(&line) {
                    output::talk(Some(node), &line);
                }
            }
            relay.map_or(Ok(()), |relay| relay.start(&plan)).map_err(|e| blame(&e))?;
            let hand = setting.saver(step, &plan, &image, node).map_err(|e| blame(&e))?;
            let mut container = step.enter(&plan).map_err(|e| blame(&e))?;
            hand.map_or(Ok(()), |hand| container.give(hand)).map_err(|e| blame(&e))?;
            if let Some(unwired) = container.unwired() {
                let Report { line, .. } = Report::from(&unwired);
                if step.say_once(&line) {
                    output::talk(Some(node), &line);
                }
            }
            if let Some(log) = log.take() {
                log.entered();
            }
            Err(blame(&container.exec()))
        });
        entered.inspect_err(|report| {
            if let Some(log) = log {
                log.failed(report);
            }
        })
    }

    /// slurmd has put the batch script into its spool directory, which no image has.
    fn script(&self) -> Option<PathBuf> {
        self.command.first().filter(|_| self.batch).map(PathBuf::from)
    }
}

/// What is the same for all tasks of a node.
struct Setting {
    request: Request,
    /// All that is asked for; a container with a name is the job's own.
    options: Options,
    job: Option<Job>,
    /// This is a shell of salloc's on a node.
    is_shell: bool,
    config: Config,
    host: Host,
    node: Node,
}

impl Setting {
    fn find(site: Option<&Path>) -> Result<Setting, Report> {
        let carrier = env::var_os(REQUEST_VAR).unwrap_or_default();
        let request = Request::from_carrier(&carrier.to_string_lossy())
            .map_err(|e| Report::from(&e))?
            .ok_or_else(no_request)?;
        let config = match site {
            Some(site) => Config::load_from(site),
            None => Config::load(),
        };
        let config = config.map_err(|e| Report::from(&e))?;
        let host = Host::probe().map_err(|e| Report::system("look up the calling user", &e))?;
        let node = Node::open(&config.node_dir).map_err(|e| Report::from(&e))?;
        let job = Job::of_this_task(|name| env::var(name).ok());
        let mut options = request.all_options();
        options.name = options.name.map(|name| job.map_or(name.clone(), |job| name.of_job(job)));
        // What several nodes have written is not one container.
        options.save = options.save.filter(|_| is_first_node());
        let is_shell = env::var_os("SLURM_STEP_ID").is_some_and(|id| id == INTERACTIVE_STEP);
        if is_shell {
            options.env.push(EnvSpec::Inherit { name: REQUEST_VAR.to_owned() });
        }
        Ok(Setting { request, options, job, is_shell, config, host, node })
    }

    /// Removes the containers of jobs that are over, and what was sent here for steps that are. Only memory
    /// is at stake: whatever fails is for the next.
    fn remove_ended(&self) {
        self.node.sweep_sent();
        for name in self.node.ended_containers(self.job, jobs::alive) {
            let _ = self.node.remove_container(&name);
        }
    }

    /// If the container is to be saved, and this is the task to do it: returns in the process that becomes
    /// the command.
    fn saver(
        &self,
        step: &Step,
        plan: &Plan,
        image: &Image,
        node: &str,
    ) -> Result<Option<Hand>, container::Error> {
        if self.options.save.is_none() || !step.is_saver() {
            return Ok(None);
        }
        let others = step.others(tasks_here(|name| env::var(name).ok()));
        save::begin(plan, image, Some(others), &|event| output::tell_saved(Some(node), &event))
    }

    /// The step's image. All of its tasks on this node get the one that the first found, though the
    /// tag may move, or the file change; only the first asks the registry, or reads the file.
    fn image(
        &self,
        step: &Step,
        node: &str,
        bring: Bring,
        log: &mut Option<StepLog>,
    ) -> Result<Image, Report> {
        let Setting { request, options, config, .. } = self;
        let source = &request.container;
        let wanted = Wanted::new(source, options, config);
        let image = (bring.image)(Wanted {
            known: step.image().or(wanted.known).or_else(|| request.digest.clone()),
            tag: request.asked.tag.unwrap_or(Tag::Stored),
            node: Some(node),
            hear: Some(&mut |event| log.iter_mut().for_each(|log| log.hear(event))),
            ..wanted
        });
        let image = image.map_err(|report| match source {
            // It was there where the job was submitted.
            Source::OnDisk(place) if matches!(place.check(), Err(Missing::Open { .. })) => {
                report.advise("its path has to lead to it on every node of the job")
            }
            _ => report,
        })?;
        step.set_image(&image.digest);
        if let Some(log) = log {
            log.pulled(image.manifest());
        }
        Ok(image)
    }
}

fn no_request() -> Report {
    Report {
        line: format!(
            "start task: {REQUEST_VAR} names no container; do not unset it in TaskProlog"
        ),
        exit: EXIT_RUNTIME,
    }
}

pub(crate) fn step_is_over() -> Report {
    let line = "start task: slurmstepd has ended, and the step with it".to_owned();
    Report { line, exit: EXIT_RUNTIME }
}

/// Tells whether this is the first of the step's tasks on this node.
fn is_first_of_node() -> bool {
    env::var_os("SLURM_LOCALID").is_none_or(|id| id == "0")
}

/// Tells whether this is the first of the step's nodes.
pub(crate) fn is_first_node() -> bool {
    env::var_os("SLURM_NODEID").is_none_or(|id| id == "0")
}

/// The node's name as Slurm has it.
pub(crate) fn node_name() -> String {
    let name = env::var_os("SLURMD_NODENAME").or_else(|| gethostname().ok());
    name.map_or_else(|| "node".to_owned(), |name| name.to_string_lossy().into_owned())
}
