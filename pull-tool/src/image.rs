//! Images that are to be run, whatever they are named by.

use std::env;

use nix::{
    sched::{CpuSet, sched_getaffinity, sched_setaffinity},
    unistd::Pid,
};
use runtime::{
    Config, Digest, Image, Options, Reference, Source, cached,
    config::SquashfsRun,
    container::fuse,
    import,
    options::Tag,
    pull::{self, Event, Fleet},
    report::Report,
    sys::{interrupt::is_orphan, process::use_all_cores},
};

use crate::{
    become_shifter_pull, environment,
    launch::step_is_over,
    output::{Progress, Style},
};

/// Reads what was typed in the working directory.
pub(crate) fn typed(text: &str) -> Result<Source, Report> {
    let (cwd, home) = (env::current_dir().ok(), runtime::config::home());
    Source::typed(text, cwd.as_deref(), home.as_deref()).map_err(|e| Report::from(&e))
}

/// Reads what can be nothing but the name of an image in a registry, to do `verb`.
pub(crate) fn in_registry(text: &str, verb: &str) -> Result<Reference, Report> {
    match typed(text)? {
        Source::Registry(reference) => Ok(reference),
        Source::OnDisk(_) => {
            let remedy =
                "run it as it is (shifter run), or give it a name: shifter import FILE NAME";
            Err(Report::usage(&format!("{verb} {text}: it is in no registry"), remedy))
        }
    }
}

/// Reads what was typed for an image that may be here already: a path is absolute in its name.
pub(crate) fn name_of(text: &str) -> String {
    match typed(text) {
        Ok(Source::OnDisk(place)) => place.to_string(),
        // What else it may be, is told by what there is.
        _ => text.to_owned(),
    }
}

/// An image that is wanted on this node.
pub(crate) struct Wanted<'a> {
    pub(crate) source: &'a Source,
    /// The digest that it was found to have before, if it shall be the same one.
    pub(crate) known: Option<Digest>,
    pub(crate) tag: Tag,
    /// What the container is to be that is built on it.
    pub(crate) options: &'a Options,
    pub(crate) config: &'a Config,
    /// The node, in a task of Slurm's: others of its step want the image too.
    pub(crate) node: Option<&'a str>,
    /// Nobody is told what happens.
    pub(crate) quiet: bool,
    /// Who is told besides the user.
    pub(crate) hear: Option<&'a mut dyn FnMut(&Event<'_>)>,
}

impl<'a> Wanted<'a> {
    /// By somebody at a terminal.
    pub(crate) fn new(source: &'a Source, options: &'a Options, config: &'a Config) -> Wanted<'a> {
        let known = environment::known(source, options, config);
        let (tag, node, quiet, hear) = (Tag::Stored, None, false, None);
        Wanted { source, known, tag, options, config, node, quiet, hear }
    }
}

/// How a program comes by an image.
#[derive(Clone, Copy)]
pub(crate) struct Bring {
    /// It may take long, and what would make it vain is better known before.
    pub(crate) is_long: bool,
    pub(crate) image: fn(Wanted<'_>) -> Result<Image, Report>,
}

/// Pulls it, or expands it.
pub(crate) const BRING: Bring = Bring { is_long: true, image: ensure };
/// Leaves that to the other program.
pub(crate) const FIND: Bring = Bring { is_long: false, image: here };

/// Makes sure that an image is on this node, and returns it.
pub(crate) fn ensure(wanted: Wanted<'_>) -> Result<Image, Report> {
    let Wanted { source, known, tag, options, config, node, quiet, mut hear } = wanted;
    let mut config = config.clone();
    config.squashfs.run = fuse::choose(config.squashfs.run, options);
    let _all_cores = node.map(|_| Affinity::widen());
    let style = match node {
        _ if quiet => Style::Quiet,
        Some(node) => Style::Lines(Some(node.to_owned())),
        None => Style::for_people(),
    };
    match source {
        Source::Registry(reference) => {
            let pinned = match known {
                Some(digest) => reference.pinned(digest),
                None => reference.clone(),
            };
            let mut progress = Progress::new(source, style);
            let mut tell = |event: Event<'_>| {
                hear.iter_mut().for_each(|hear| hear(&event));
                progress.tell(event);
            };
            let fleet = node.and_then(|_| Fleet::of_this_task(|name| env::var(name).ok()));
            let image = pull::ensure_in(fleet.as_ref(), &pinned, tag, &config, &mut tell)
                .map_err(|e| Report::from(&e).during(format_args!("pull {reference}")))?;
            // Messages name it as the user did.
            Ok(Image { source: source.clone(), ..image })
        }
        Source::OnDisk(place) => {
            let mut progress = Progress::of_file(source, style);
            let mut tell = |event: Event<'_>| {
                hear.iter_mut().for_each(|hear| hear(&event));
                progress.tell(event);
            };
            let image = import::ensure(place, known.as_ref(), &config, &mut tell);
            image.map_err(|e| Report::from(&e))
        }
    }
}

/// Returns an image that is on this node already. For any other this process becomes the program that
/// can bring it.
fn here(wanted: Wanted<'_>) -> Result<Image, Report> {
    let Wanted { source, known, tag, options, config, .. } = wanted;
    let may_mount = || fuse::choose(SquashfsRun::Auto, options) == SquashfsRun::Auto;
    let image = cached::find(source, known.as_ref(), tag, config, &may_mount);
    image.ok_or_else(|| match is_orphan() {
        // The other program would take whoever is its parent then for the one that it must not outlive.
        true => step_is_over(),
        false => become_shifter_pull(),
    })
}

/// Slurm binds a task to its cores; a pull for the whole node takes all that the step has. The
/// binding comes back when this is dropped.
struct Affinity(Option<CpuSet>);

impl Affinity {
    fn widen() -> Affinity {
        let own = sched_getaffinity(Pid::from_raw(0)).ok();
        use_all_cores();
        Affinity(own)
    }
}

impl Drop for Affinity {
    fn drop(&mut self) {
        if let Some(own) = &self.0 {
            let _ = sched_setaffinity(Pid::from_raw(0), own);
        }
    }
}
