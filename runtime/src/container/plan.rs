//! What a container will be, decided before anything is done.

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::FileTypeExt},
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    fcntl::OFlag,
    sys::stat::Mode,
    unistd::{Gid, Uid},
};

use super::{Command, Error, Run, devices, fuse, identity, io_error, named, relay, save};
use crate::{
    Config, Digest, Host, Image, Options, Source,
    environment::{self, DIGEST_VAR, IMAGE_VAR},
    image::Form,
    inject::{
        self, Applied, Injection, Link, access,
        access::Denial,
        gpu::require,
        mpi::{self, Wanted},
    },
    kept::{self, Record},
    options::{Access, Bind, DeviceSpec, Entrypoint, EnvSpec, Home, Ids, MountSpec, Tmpfs},
    report::chain,
    squashfs::{Kind, Squashfs},
    sys::{beneath, mount::proc_path},
};

/// Where Slurm's PMIx server keeps what its clients map; it lies in the spool directory.
const PMIX_DIR_VAR: &str = "PMIX_SERVER_TMPDIR";
/// Every image that has a shell has this one.
const DEFAULT_SHELL: &str = "/bin/sh";

/// Where apt reads its settings.
const APT_SETTINGS: &str = "/etc/apt/apt.conf.d";
/// apt becomes another user to fetch packages, and looks whether it has. There is no other one.
const APT_FILE: (&str, &str) = ("/etc/apt/apt.conf.d/99-shifter", "APT::Sandbox::User \"root\";\n");

/// Whether the source of a mount has to exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Without it there is no container.
    Required,
    /// Passed over if it is not there.
    Optional,
}

/// Something of the host's put into the image's tree.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    /// A file or directory of the host, all mounts below it included.
    Bind {
        /// On the host.
        source: PathBuf,
        /// Inside.
        target: PathBuf,
        /// Whether it can be written to.
        access: Access,
        /// Whether it has to be there.
        presence: Presence,
    },
    /// Memory, as empty as it is new.
    Tmpfs(Tmpfs),
    /// A file of our own making, in the place of the image's.
    File {
        /// Inside.
        target: PathBuf,
        /// All of it.
        content: Vec<u8>,
    },
    /// A program of our own making, in the place of the image's.
    Program {
        /// Inside.
        target: PathBuf,
        /// All of it.
        content: &'static [u8],
    },
    /// A symbolic link of our own making, in the place of what the image has there.
    Link(Link),
    /// A file of the host's that is shown with another content.
    Mask {
        /// Inside.
        target: PathBuf,
        /// All of it.
        content: Vec<u8>,
    },
}

impl Mount {
    /// Where it is inside.
    pub fn target(&self) -> &Path {
        match self {
            Mount::Bind { target, .. }
            | Mount::File { target, .. }
            | Mount::Program { target, .. }
            | Mount::Mask { target, .. }
            | Mount::Link(Link { path: target, .. }) => target,
            Mount::Tmpfs(Tmpfs { target, .. }) => Path::new(target),
        }
    }
}

/// Where the program starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Workdir {
    /// Here or not at all: the user asked for it.
    Exactly(PathBuf),
    /// In the first of these that exists inside.
    FirstOf(Vec<PathBuf>),
}

/// All that is known of a container before it is built.
#[derive(Debug, Clone)]
pub struct Plan {
    pub(super) image: Source,
    pub(super) digest: Digest,
    pub(super) rootfs: PathBuf,
    pub(super) form: Form,
    pub(super) node_dir: PathBuf,
    pub(super) uid: Uid,
    pub(super) gid: Gid,
    pub(super) mounts: Vec<Mount>,
    pub(super) env: Vec<(OsString, OsString)>,
    pub(super) workdir: Workdir,
    pub(super) argv: Vec<OsString>,
    pub(super) options: Options,
    /// Which devices are there beyond those of `/dev`, and who says so.
    pub(super) injected: Vec<String>,
    /// What the caller should know before it starts.
    pub(super) warnings: Vec<String>,
}

impl Plan {
    /// What is missing, though not so that it could not run; a line each.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Looks at the host for what is asked for. [`plan`] does so too; who asks before a long pull hears
/// of it sooner.
pub fn check(options: &Options, config: &Config) -> Result<(), Error> {
    check_paths(options)?;
    save::check(options)?;
    inject::find(options, config, &|name| std::env::var_os(name))?;
    Ok(())
}

fn check_paths(options: &Options) -> Result<(), Error> {
    for spec in &options.mounts {
        if let MountSpec::Bind(Bind { source, target, .. }) = spec {
            fs::metadata(source).map_err(|cause| Error::Mount {
                from: source.into(),
                to: target.into(),
                source: cause,
            })?;
        }
    }
    for device in &options.devices {
        let DeviceSpec::Path { source, .. } = device else { continue };
        let kind = fs::metadata(source).map(|meta| meta.file_type());
        let problem = match kind {
            Ok(kind) if kind.is_dir() => continue,
            Ok(kind) if kind.is_char_device() || kind.is_block_device() => {
                match access::check(source.as_ref()) {
                    Err(Denial::Cgroup) => "the device cgroup of this job denies it".to_owned(),
                    Err(Denial::NoDev) => {
                        "it is on a file system that is mounted with nodev, where none opens".into()
                    }
                    // Some are only to be read.
                    _ => continue,
                }
            }
            Ok(_) => "it is not a device, nor a directory of some".to_owned(),
            Err(e) => chain(&e),
        };
        return Err(Error::NoDevice { path: source.into(), problem });
    }
    Ok(())
}

/// Plans a run of `image`. Reads a few files of its tree, as data, and changes nothing.
pub fn plan(
    image: &Image,
    run: &Run,
    config: &Config,
    host: &Host,
    env: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Plan, Error> {
    check_paths(&run.options)?;
    save::check(&run.options)?;
    let env: Vec<(OsString, OsString)> = env.into_iter().collect();
    let injection = inject::find(&run.options, config, &|wanted| {
        let found = env.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value.clone())
    })?;
    if image.form == Form::Squashfs
        && let Some(problem) = fuse::is_unfit(&run.options)
    {
        return Err(Error::Unfit { path: image.rootfs.clone(), problem });
    }
    let mut upper = None;
    if let Some(name) = &run.options.name
        && let Some(record) = Record::of(&config.node_dir, name)
    {
        named::check_image(&record, name, &image.digest)?;
        upper = File::open(kept::place(&config.node_dir, name).join(kept::UPPER)).ok();
    }
    let facts = Facts::probe(image, host, upper.as_ref(), injection, &run.options, config)?;
    compose(image, run, config, host, env, &facts)
}

/// Tells which MPI a program of this image would get, and why.
pub fn explain_mpi(
    image: &Image,
    options: &Options,
    config: &Config,
) -> Result<mpi::Explanation, Error> {
    let wanted = mpi_wanted(image, options, config);
    let open_failed = io_error("look into", &image.rootfs);
    Ok(match image.form {
        Form::Tree | Form::InPlace => {
            let root = File::open(&image.rootfs).map_err(open_failed)?;
            mpi::explain(wanted, &config.mpi, &inject::Tree::of([&root]))?
        }
        Form::Squashfs => {
            let packed = Squashfs::open(&image.rootfs).map_err(open_failed)?;
            mpi::explain(wanted, &config.mpi, &inject::Tree::packed(&packed))?
        }
    })
}

fn mpi_wanted<'a>(image: &'a Image, options: &'a Options, config: &'a Config) -> Wanted<'a> {
    Wanted {
        mpi: options.mpi.as_ref().unwrap_or(&config.mpi.mode),
        library_path: image.config.config.variable("LD_LIBRARY_PATH").unwrap_or_default(),
    }
}

/// What the tree of an image has to say about a plan.
#[derive(Debug, Default)]
struct Facts {
    /// `/etc/passwd` of the image.
    passwd: Vec<u8>,
    /// `/etc/group` of the image.
    group: Vec<u8>,
    /// The caller's login shell exists in the image.
    has_shell: bool,
    /// The image has apt, and reads its settings where they usually are.
    has_apt: bool,
    /// There is something in the image where the caller stands on the host.
    cwd_is_taken: bool,
    /// Devices of the host's and what goes with them.
    injection: Injection,
    /// What that means for this image.
    applied: Applied,
    /// The host's `/dev`, if not as a whole.
    dev: Vec<Mount>,
}

impl Facts {
    /// What was written in a container before (`upper`) lies over the image: users that a package
    /// has made are there again.
    fn probe(
        image: &Image,
        host: &Host,
        upper: Option<&File>,
        mut injection: Injection,
        options: &Options,
        config: &Config,
    ) -> Result<Facts, Error> {
        let mpi = |tree: &inject::Tree<'_>| {
            Ok(mpi::find(mpi_wanted(image, options, config), &config.mpi, tree)?)
        };
        let facts = match image.form {
            Form::Tree | Form::InPlace => Facts::of_tree(image, host, upper, &mut injection, mpi)?,
            Form::Squashfs => Facts::of_squashfs(&image.rootfs, host, &mut injection, mpi)?,
        };
        let asked = options.devices.iter().filter_map(|device| match device {
            DeviceSpec::Path { target, .. } => Some(Path::new(target)),
            DeviceSpec::Cdi(_) => None,
        });
        let edits = &injection.edits;
        let devices = edits.devices.iter().map(|device| &*device.target);
        let mounted = edits.mounts.iter().map(|mount| &*mount.target);
        let memory = edits.tmpfs.iter().map(|memory| Path::new(&memory.target));
        let targets: Vec<&Path> = devices.chain(mounted).chain(memory).chain(asked).collect();
        let dev = devices::mounts(&targets);
        Ok(Facts { injection, dev, ..facts })
    }

    fn of_tree(
        image: &Image,
        host: &Host,
        upper: Option<&File>,
        injection: &mut Injection,
        mpi: impl Fn(&inject::Tree<'_>) -> Result<Injection, Error>,
    ) -> Result<Facts, Error> {
        let root = File::open(&image.rootfs).map_err(io_error("open image", &image.rootfs))?;
        let read = |path: &str| -> Result<Vec<u8>, Error> {
            for tree in [upper, Some(&root)].into_iter().flatten() {
                let content = identity::read(tree.as_fd(), path)
                    .map_err(io_error("read", image.rootfs.join(&path[1..])))?;
                if !content.is_empty() {
                    return Ok(content);
                }
            }
            Ok(Vec::new())
        };
        let tree = inject::Tree::of(upper.into_iter().chain([&root]));
        injection.add(mpi(&tree)?);
        Ok(Facts {
            applied: inject::apply(&injection.edits, &tree),
            passwd: read(identity::PASSWD)?,
            group: read(identity::GROUP)?,
            has_shell: host.shell.is_absolute() && identity::exists(&root, &host.shell),
            has_apt: identity::exists(&root, Path::new(APT_SETTINGS)),
            cwd_is_taken: host.cwd.as_deref().is_some_and(|cwd| is_taken(&root, cwd)),
            ..Facts::default()
        })
    }

    /// The same of an image that is not mounted yet.
    fn of_squashfs(
        file: &Path,
        host: &Host,
        injection: &mut Injection,
        mpi: impl Fn(&inject::Tree<'_>) -> Result<Injection, Error>,
    ) -> Result<Facts, Error> {
        let image = Squashfs::open(file).map_err(io_error("look into", file))?;
        injection.add(mpi(&inject::Tree::packed(&image))?);
        Facts::read(&image, host, injection).map_err(io_error("look into", file))
    }

    fn read(image: &Squashfs, host: &Host, injection: &Injection) -> io::Result<Facts> {
        let read = |path| image.read(Path::new(path), identity::MAX_FILE);
        let exists = |path: &Path| Ok::<_, io::Error>(image.kind(path)?.is_some());
        let is_taken = |path| {
            let kind = image.kind(path)?;
            Ok::<_, io::Error>(kind.is_some_and(|kind| kind != Kind::EmptyDirectory))
        };
        Ok(Facts {
            applied: inject::apply(&injection.edits, &inject::Tree::packed(image)),
            passwd: read(identity::PASSWD)?,
            group: read(identity::GROUP)?,
            has_shell: host.shell.is_absolute() && exists(&host.shell)?,
            has_apt: exists(Path::new(APT_SETTINGS))?,
            cwd_is_taken: host.cwd.as_deref().map_or(Ok(false), is_taken)?,
            ..Facts::default()
        })
    }
}

/// Whether mounting over `path` would hide something: a file, or a directory that is not empty.
fn is_taken(root: &File, path: &Path) -> bool {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
    match beneath::open(root.as_fd(), path, flags, Mode::empty()) {
        Ok(dir) => {
            let path = proc_path(dir.as_fd());
            // What cannot be listed is not known to be empty.
            fs::read_dir(path).map_or(true, |mut entries| entries.next().is_some())
        }
        Err(e) => e.kind() != io::ErrorKind::NotFound,
    }
}

/// The pure part of [`plan`].
fn compose(
    image: &Image,
    run: &Run,
    config: &Config,
    host: &Host,
    env: Vec<(OsString, OsString)>,
    facts: &Facts,
) -> Result<Plan, Error> {
    let own = &image.config.config;
    let argv = argv(run, &own.entrypoint, &own.cmd);
    if argv.is_empty() {
        return Err(Error::NoCommand { image: image.source.to_string() });
    }
    let pmix_dir = env.iter().find(|(name, _)| name == PMIX_DIR_VAR).map(|(_, dir)| Path::new(dir));
    let binds = binds(run, config, host, facts, pmix_dir)?;

    let is_asked =
        |home: &Path| run.options.mounts.iter().any(|spec| Path::new(target(spec)) == home);
    let home = host.home.clone();
    let home = home.filter(|home| is_same_inside(&binds, home) || is_asked(home));
    let script = run.script.is_some();
    let inherited = inherited(&run.options.env, &env);
    let injected = &facts.injection.edits.env;
    let injected = injected.iter().map(|(name, value)| (name.into(), value.into()));
    let mut env = environment::compose(
        env.into_iter(),
        &own.env,
        if script { environment::Request::Keep } else { environment::Request::Remove },
        |path| is_same_inside(&binds, path),
        injected
            .chain(home.iter().map(|home| ("HOME".into(), home.into())))
            .chain([(IMAGE_VAR.into(), image.source.to_string().into())])
            .chain(image.manifest().map(|digest| (DIGEST_VAR.into(), digest.to_string().into()))),
    );
    put_first(&mut env, "LD_LIBRARY_PATH", &facts.applied.library_path);
    let is_root = run.options.ids == Some(Ids::Root);
    let home = home.unwrap_or_else(|| if is_root { "/root" } else { "/" }.into());
    let shell = if facts.has_shell { host.shell.clone() } else { DEFAULT_SHELL.into() };
    for (name, value) in [("HOME", &home), ("SHELL", &shell)] {
        if !env.iter().any(|(other, _)| other == name) {
            env.push((name.into(), value.into()));
        }
    }
    for (name, value) in inherited {
        env.retain(|(other, _)| *other != name);
        env.extend(value.map(|value| (name, value)));
    }
    if run.relay.is_some() {
        put_first(&mut env, "PATH", &[relay::BIN.into()]);
    }
    env.sort();
    refuse_nul("argument", argv.iter())?;
    refuse_nul("environment", env.iter().flat_map(|(name, value)| [name, value]))?;

    // Files first: a site may mount another over one of them.
    let mut mounts = match is_root {
        true => files(&as_root(host), facts, &home, &shell),
        false => files(host, facts, &home, &shell),
    };
    if is_root && facts.has_apt {
        let (path, text) = APT_FILE;
        mounts.push(Mount::File { target: path.into(), content: text.into() });
    }
    // What somebody mounts where a login shell finds commands hides ours there.
    mounts.extend(run.relay.iter().flat_map(relay::Outlet::mounts));
    mounts.extend(binds);
    let unmet = require::warning(&own.env, &env, &facts.injection, &facts.applied);
    Ok(Plan {
        image: image.source.clone(),
        digest: image.digest.clone(),
        rootfs: image.rootfs.clone(),
        form: image.form,
        node_dir: config.node_dir.clone(),
        uid: host.uid,
        gid: host.gid,
        mounts,
        env,
        workdir: workdir(run, host, &own.working_dir),
        argv,
        options: run.options.clone(),
        injected: facts.injection.told.clone(),
        warnings: [&facts.injection.warnings[..], &facts.applied.warnings, unmet.as_slice()]
            .concat(),
    })
}

/// Lets a list of directories begin with these.
fn put_first(env: &mut Vec<(OsString, OsString)>, name: &str, dirs: &[PathBuf]) {
    if dirs.is_empty() {
        return;
    }
    let at = env.iter().position(|(other, _)| other == name);
    let old = at.map(|at| env.remove(at).1).filter(|old| !old.is_empty());
    let all = dirs.iter().map(|dir| dir.clone().into_os_string()).chain(old);
    env.push((name.into(), all.collect::<Vec<_>>().join(":".as_ref())));
}

/// The command, with what goes before it. As in docker, another entrypoint than the image's takes no
/// arguments from the image.
fn argv(run: &Run, entrypoint: &[String], cmd: &[String]) -> Vec<OsString> {
    let words = |words: &[String]| words.iter().map(OsString::from).collect::<Vec<_>>();
    let (given, by_default) = match &run.command {
        Command::Given(argv) => (argv, Entrypoint::Off),
        Command::Image(args) => (args, Entrypoint::Image),
    };
    let entrypoint = match run.options.entrypoint.as_ref().unwrap_or(&by_default) {
        Entrypoint::Image if given.is_empty() => return [words(entrypoint), words(cmd)].concat(),
        Entrypoint::Image => words(entrypoint),
        Entrypoint::Off => Vec::new(),
        Entrypoint::Given(entrypoint) => words(entrypoint),
    };
    [&entrypoint[..], given].concat()
}

/// The values of the variables that are asked for; none for one that is to go. A caller who has
/// none of that name changes nothing.
fn inherited(
    asked: &[EnvSpec],
    caller: &[(OsString, OsString)],
) -> Vec<(OsString, Option<OsString>)> {
    let value = |spec: &EnvSpec| match spec {
        EnvSpec::Set { value, .. } => Some(Some(value.into())),
        EnvSpec::Unset { .. } => Some(None),
        EnvSpec::Inherit { name } => {
            caller.iter().find(|(other, _)| other == name.as_str()).map(|(_, v)| Some(v.clone()))
        }
    };
    asked.iter().filter_map(|spec| Some((spec.name().into(), value(spec)?))).collect()
}

/// The caller as one who has number 0 inside. Nobody is in another group of that namespace.
fn as_root(host: &Host) -> Host {
    Host {
        uid: Uid::from_raw(0),
        gid: Gid::from_raw(0),
        user: "root".to_owned(),
        groups: vec![(Gid::from_raw(0), "root".to_owned())],
        ..host.clone()
    }
}

/// The host's part of the tree, in the order in which it is mounted.
fn binds(
    run: &Run,
    config: &Config,
    host: &Host,
    facts: &Facts,
    pmix_dir: Option<&Path>,
) -> Result<Vec<Mount>, Error> {
    use self::Presence::*;
    use crate::options::Access::*;
    let bind = |source: &Path, target: &Path, access, presence| Mount::Bind {
        source: source.into(),
        target: target.into(),
        access,
        presence,
    };
    let same = |path: &Path, access, presence| bind(path, path, access, presence);
    let mut mounts = vec![
        same(Path::new("/proc"), ReadWrite, Required),
        same(Path::new("/sys"), ReadOnly, Required),
    ];
    match facts.dev.is_empty() {
        true => mounts.push(devices::whole()),
        false => mounts.extend(facts.dev.iter().cloned()),
    }
    mounts.push(same(Path::new("/tmp"), ReadWrite, Optional));
    // A directory that the image has too stays the image's: who stands in /usr does not mean to
    // run the host's programs.
    let cwd = host.cwd.as_deref().filter(|cwd| *cwd != Path::new("/") && !facts.cwd_is_taken);
    let home = host.home.as_deref();
    let (home, cwd) = match run.options.home {
        Some(Home::LeftOut) => (None, cwd.filter(|cwd| Some(*cwd) != home)),
        _ => (home, cwd),
    };
    for path in [home, cwd, pmix_dir].into_iter().flatten() {
        if path.is_absolute() && !is_same_inside(&mounts, path) {
            mounts.push(same(path, ReadWrite, Optional));
        }
    }
    if let Some(script) = run.script.as_ref().filter(|path| !is_same_inside(&mounts, path)) {
        mounts.push(same(script, ReadOnly, Required));
    }
    let asked = |spec: &MountSpec, presence| match spec {
        MountSpec::Bind(spec) => {
            bind(spec.source.as_ref(), spec.target.as_ref(), spec.access, presence)
        }
        MountSpec::Tmpfs(spec) => Mount::Tmpfs(spec.clone()),
    };
    for spec in &config.mounts {
        mounts.push(asked(&spec.parse()?, Optional));
    }
    let injected = injected(facts, &mounts);
    mounts.extend(injected);
    // A directory would hide what was mounted in it before.
    let mut own: Vec<&MountSpec> = run.options.mounts.iter().collect();
    own.sort_by_key(|spec| Path::new(target(spec)).components().count());
    mounts.extend(own.into_iter().map(|spec| asked(spec, Required)));
    for device in &run.options.devices {
        if let DeviceSpec::Path { source, target } = device {
            mounts.push(bind(source.as_ref(), target.as_ref(), ReadWrite, Required));
        }
    }
    Ok(mounts)
}

/// Devices of the host's and what goes with them, but for what is there already: where a directory
/// of the host's is, as `/dev` is, what it has is at its place. Links come after what they lead to,
/// files of our own last.
fn injected(facts: &Facts, there: &[Mount]) -> Vec<Mount> {
    let (edits, applied) = (&facts.injection.edits, &facts.applied);
    let bind = |source: &Path, target: &Path, access| Mount::Bind {
        source: source.into(),
        target: target.into(),
        access,
        presence: Presence::Required,
    };
    let is_there = |source: &Path, target: &Path| source == target && is_same_inside(there, target);
    let devices = edits.devices.iter().filter(|device| !is_there(&device.source, &device.target));
    let devices = devices.map(|device| bind(&device.source, &device.target, Access::ReadWrite));
    let mounts = edits.mounts.iter().filter(|mount| !is_there(&mount.source, &mount.target));
    let mounts =
        mounts.map(|mount| (&*mount.target, bind(&mount.source, &mount.target, mount.access)));
    let memory = edits.tmpfs.iter();
    let memory = memory.map(|memory| (Path::new(&memory.target), Mount::Tmpfs(memory.clone())));
    let mut mounts: Vec<_> = memory.chain(mounts).collect();
    mounts.sort_by_key(|(target, _)| target.components().count());
    let mounts = mounts.into_iter().map(|(_, mount)| mount);
    let links = applied.links.iter().filter(|link| !is_same_inside(there, &link.path));
    let links = links.map(|link| Mount::Link(link.clone()));
    let files = applied
        .files
        .iter()
        .map(|(target, content)| Mount::File { target: target.clone(), content: content.clone() });
    let masks = edits
        .masks
        .iter()
        .map(|mask| Mount::Mask { target: mask.path.clone(), content: mask.content.clone() });
    devices.chain(mounts).chain(links).chain(files).chain(masks).collect()
}

fn target(spec: &MountSpec) -> &str {
    match spec {
        MountSpec::Bind(Bind { target, .. }) | MountSpec::Tmpfs(Tmpfs { target, .. }) => target,
    }
}

/// The files that are made for the caller.
fn files(host: &Host, facts: &Facts, home: &Path, shell: &Path) -> Vec<Mount> {
    let mut files = host.files.clone();
    files.extend([
        ("/etc/nsswitch.conf".into(), identity::NSSWITCH.into()),
        (identity::PASSWD.into(), identity::passwd(&facts.passwd, host, home, shell)),
        (identity::GROUP.into(), identity::group(&facts.group, host)),
    ]);
    files.into_iter().map(|(target, content)| Mount::File { target, content }).collect()
}

fn workdir(run: &Run, host: &Host, image: &str) -> Workdir {
    if let Some(dir) = &run.options.workdir {
        return Workdir::Exactly(dir.clone());
    }
    // Everybody has a `/`: standing there on the host is no choice.
    let cwd = host.cwd.clone().filter(|cwd| cwd.as_os_str() != "/");
    let image = Some(Path::new("/").join(image)).filter(|dir| dir.as_os_str() != "/");
    Workdir::FirstOf(cwd.into_iter().chain(image).chain(["/".into()]).collect())
}

/// Whether `path` inside is what it is on the host.
fn is_same_inside(mounts: &[Mount], path: &Path) -> bool {
    // The last mount over a path is the one that is seen.
    mounts.iter().rev().find_map(|mount| match mount {
        Mount::Bind { source, target, .. } if path.starts_with(target) => Some(source == target),
        Mount::Tmpfs(Tmpfs { target, .. }) if path.starts_with(target) => Some(false),
        _ => None,
    }) == Some(true)
        && path.components().all(|part| part != Component::ParentDir)
}

fn refuse_nul<'a>(
    what: &'static str,
    texts: impl IntoIterator<Item = &'a OsString>,
) -> Result<(), Error> {
    match texts.into_iter().find(|text| text.as_bytes().contains(&0)) {
        Some(text) => Err(Error::Nul { what, text: text.clone() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
