//! `shifter run REF CMD…`.

use std::{convert::Infallible, env, ffi::OsString};

use clap::Args;
use runtime::{
    Config, Source,
    container::{self, Command, Run, save, terminal},
    environment_file::Environment,
    host::Host,
    options::Gpu,
    report::{Report, printable},
    store::Node,
    sys::process::reset_sigpipe,
};

use crate::{
    become_shifter_pull, environment,
    flags::Flags,
    image::{Bring, Wanted},
    output,
};

/// Run a command in an image, here and as yourself.
///
/// An image of a registry is pulled if it is neither on this node nor in your store. One that lies in
/// a file (a squashfs, an archive, an OCI layout) is expanded on this node once, and again when the
/// file has changed; a directory with a root file system is run where it is. Home and working
/// directory are the host's; all else is the image's, writable until the command ends.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Print what would be done, and do not do it
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    flags: Flags,
    /// Give up what was written under that name before
    #[arg(long, requires = "name", conflicts_with = "dry_run")]
    fresh: bool,
    /// Give the command a terminal of its own
    #[arg(short, long)]
    tty: bool,
    /// Nothing: standard input is the command's anyway
    #[arg(short, long)]
    interactive: bool,
    /// Nothing: a container without a name goes with its command anyway
    #[arg(long)]
    rm: bool,
    #[arg(
        value_name = "REF",
        help = "The image: [REGISTRY/]REPOSITORY[:TAG][@DIGEST]; a file or directory, by its path or as \
                oci:DIR[:NAME], oci-archive:FILE[:NAME] or docker-archive:FILE[:NAME]; or an \
                environment file: ./FILE.toml"
    )]
    image: String,
    /// The command; without one, the image's own
    #[arg(value_name = "CMD", trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments, bring: Bring) -> Result<(), Report> {
    reset_sigpipe();
    // A value that may be left out cannot stand apart: what does is taken for the image.
    if arguments.flags.gpu.is_some() && arguments.image.parse::<Gpu>().is_ok() {
        let image = &arguments.image;
        let remedy = format!("write --gpu={image}");
        return Err(Report::usage(&format!("run --gpu {image}: no image is named"), &remedy));
    }
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let environment = environment::of(&arguments.image, &config)?;
    let environment = environment.as_ref();
    let source = environment::image(&arguments.image, environment)?;
    let host = Host::probe().map_err(|e| Report::system("look up the calling user", &e))?;
    if !bring.is_long && !arguments.flags.may_be_read_again() {
        return Err(become_shifter_pull());
    }
    // Flags win over the file.
    let options = arguments.flags.options(&host)?;
    let options = options.over(environment.map(Environment::options).unwrap_or_default());
    if arguments.rm && options.name.is_some() {
        let remedy = "leave out --rm, or --name";
        return Err(Report::usage("run --rm --name: a container with a name stays", remedy));
    }
    let blame = |error: &container::Error| environment::blame(error, environment);
    if bring.is_long || arguments.fresh {
        container::check(&options, &config).map_err(|e| blame(&e))?;
    }
    if let Some(name) = options.name.as_ref().filter(|_| arguments.fresh) {
        let node = Node::open(&config.node_dir).map_err(|e| Report::from(&e))?;
        node.remove_container(name).map_err(|e| Report::from(&e))?;
    }
    // What must be brought, another program brings, which says this as well.
    let say_unheeded = || environment.iter().for_each(|file| environment::say_unheeded(file));
    if bring.is_long {
        say_unheeded();
    }
    let image = (bring.image)(Wanted::new(&source, &options, &config));
    let image = image.map_err(|report| match environment {
        Some(environment) if matches!(source, Source::OnDisk(_)) => {
            report.during(&environment.image.origin)
        }
        _ => report,
    })?;
    if !bring.is_long {
        say_unheeded();
    }
    let run = Run {
        command: Command::Image(arguments.command.clone()),
        script: None,
        relay: None,
        options,
    };
    let plan = container::plan(&image, &run, &config, &host, env::vars_os());
    let plan = plan.map_err(|e| blame(&e))?;
    plan.warnings().iter().for_each(|line| output::talk(None, &printable(line)));
    if arguments.dry_run {
        let terminal = if arguments.tty { "terminal its own\n" } else { "" };
        output::data(format!("{terminal}{plan}").trim_end());
        return Ok(());
    }
    if arguments.tty {
        terminal::begin().map_err(|e| Report::from(&e))?;
    }
    let run = || {
        let hand = save::begin(&plan, &image, None, &|event| output::tell_saved(None, &event))?;
        let mut container = plan.enter()?;
        hand.map_or(Ok(()), |hand| container.give(hand))?;
        Err(container.exec())
    };
    let Err::<Infallible, _>(error) = run();
    Err(blame(&error))
}
