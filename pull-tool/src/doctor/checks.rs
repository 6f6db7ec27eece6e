//! What containers need: namespaces, places on disk, registries.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, DirBuilder},
    io::Read as _,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::{
    sys::statfs::{FsType, TMPFS_MAGIC, statfs},
    unistd::{AccessFlags, access},
};
use runtime::{
    Config, Digest, Host, Image, Options,
    config::Network,
    container::{self, Run},
    image::Form,
    oci::ImageConfig,
    options::Gpu,
    programs::{self, SHIFTER},
    pull::bytes,
    registry,
    report::Report,
    store::{Limit, Node, Room, Store},
};

use super::{Finding, State, Who};

/// An image of less is hardly worth a pull.
const LITTLE: u64 = 2 << 30;
/// File systems of many nodes (statfs(2), and their own headers): thousands of small files on one
/// are slow for all.
const SHARED: &[(i64, &str)] = &[
    (0x6969, "NFS"),
    (0x0bd0_0bd0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x00c3_6400, "CephFS"),
];

pub(super) fn all(config: &Config) -> Vec<Finding> {
    let node = Node::open(&config.node_dir);
    let mut findings = vec![containers(node.as_ref().ok()), node_dir(config, &node), store(config)];
    findings.extend(config.shared_stores.iter().map(|path| shared_store(path)));
    findings.extend(registries(config));
    findings
}

/// Builds a container in a process of its own: entering one is for good.
fn containers(node: Option<&Node>) -> Finding {
    const WHAT: &str = "containers";
    let dir = match node {
        Some(node) => node.path().join("partial"),
        None => env::temp_dir(),
    };
    let rootfs = dir.join(format!("doctor.{}", std::process::id()));
    let made = DirBuilder::new().mode(0o700).create(&rootfs);
    let made = made.map_err(|e| Report::system(&format!("make {}", rootfs.display()), &e));
    let outcome = made.and_then(|()| {
        let program = programs::path(SHIFTER).unwrap_or_else(|_| SHIFTER.into());
        let mut build = Command::new(&program);
        build.args(["doctor", "--build"]).arg(&rootfs);
        let outcome = build.stdin(Stdio::null()).stdout(Stdio::null()).output();
        outcome.map_err(|e| Report::system(&format!("start {}", program.display()), &e))
    });
    // It was made to be removed.
    let _ = fs::remove_dir(&rootfs);
    match outcome {
        Err(report) => Finding::new(WHAT, State::Fails, format!("cannot be tried: {report}")),
        Ok(outcome) if outcome.status.success() => {
            Finding::new(WHAT, State::Works, "user and mount namespaces, overlay")
        }
        Ok(outcome) => {
            let text = String::from_utf8_lossy(&outcome.stderr);
            let line = text.lines().last().unwrap_or("no answer");
            let line = line.strip_prefix("shifter: ").unwrap_or(line).to_owned();
            Finding::failed(WHAT, State::Fails, Who::Admin, &Report { line, exit: 0 })
        }
    }
}

/// The other side of [`containers`].
pub(super) fn build(rootfs: &Path) -> Result<(), Report> {
    let config = Config::load().or_else(|_| Config::parse("")).map_err(|e| Report::from(&e))?;
    let host = Host::probe().map_err(|e| Report::system("look up the calling user", &e))?;
    let image = Image {
        source: "doctor".parse().map_err(|e| Report::from(&e))?,
        digest: Digest::of(b""),
        config: ImageConfig::default(),
        rootfs: rootfs.to_owned(),
        form: Form::Tree,
        hold: Default::default(),
    };
    let run = Run {
        command: container::Command::Given(vec!["true".into()]),
        script: None,
        relay: None,
        // Of GPUs, another check tells.
        options: Options { gpu: Some(Gpu::Nothing), ..Options::default() },
    };
    // What a site mounts may be missing: containers say so when it matters.
    let config = Config { mounts: Vec::new(), ..config };
    let plan = container::plan(&image, &run, &config, &host, env::vars_os());
    let built = plan.and_then(|plan| plan.build().map(drop));
    built.map_err(|e| Report::from(&e))
}

fn node_dir(config: &Config, node: &Result<Node, runtime::store::Error>) -> Finding {
    const WHAT: &str = "node directory";
    let path = config.node_dir.display();
    let room = node
        .as_ref()
        .map_err(Report::from)
        .and_then(|node| node.room().map_err(|e| Report::from(&e)));
    let room = match room {
        Ok(room) => room,
        Err(report) => return Finding::failed(WHAT, State::Fails, Who::User, &report),
    };
    let whose = match room.limit {
        Limit::FileSystem => String::new(),
        Limit::Job(limit) => format!(" of the job's {} of memory", bytes(limit)),
        Limit::Node(limit) => format!(" of the node's {} of memory", bytes(limit)),
    };
    let says = format!("{path}: {}{whose} free", bytes(room.free));
    let is_memory =
        statfs(&config.node_dir).is_ok_and(|stat| stat.filesystem_type() == TMPFS_MAGIC);
    if room.free < LITTLE {
        let remedy = match room.limit {
            Limit::Job(_) => "ask for more memory (--mem)",
            _ => "remove images there, or set SHIFTER_NODE_DIR to another place",
        };
        return Finding::new(WHAT, State::Limited, says).mend(Who::User, remedy);
    }
    if !is_memory {
        let remedy = "set SHIFTER_NODE_DIR to a directory on a tmpfs";
        let says = format!("{says}; it is no tmpfs, and slower");
        return Finding::new(WHAT, State::Limited, says).mend(Who::User, remedy);
    }
    Finding::new(WHAT, State::Works, says)
}

fn store(config: &Config) -> Finding {
    const WHAT: &str = "image store";
    // It may not have been made yet.
    let there = config.store.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let path = config.store.display();
    if let Err(errno) = access(there, AccessFlags::W_OK | AccessFlags::X_OK) {
        let says = format!("{path}: {}: {}", there.display(), errno.desc().to_lowercase());
        let remedy = "set SHIFTER_STORE to a directory that you can write to";
        return Finding::new(WHAT, State::Fails, says).mend(Who::User, remedy);
    }
    let kind = statfs(there).map(|stat| stat.filesystem_type());
    let shared = SHARED.iter().find(|(magic, _)| kind == Ok(FsType(*magic as _)));
    let on = shared.map(|(_, name)| format!(", on {name}")).unwrap_or_default();
    let free = Room::of(there).map(|room| room.free);
    let says = match &free {
        Ok(free) => format!("{path}: {} free{on}", bytes(*free)),
        Err(_) => format!("{path}{on}"),
    };
    match free.as_ref().is_ok_and(|free| *free < LITTLE) {
        true => Finding::new(WHAT, State::Limited, says)
            .mend(Who::User, "free space there, or set SHIFTER_STORE to another place"),
        false => Finding::new(WHAT, State::Works, says),
    }
}

fn shared_store(path: &Path) -> Finding {
    const WHAT: &str = "shared store";
    let shown = path.display();
    let Some(store) = Store::open(path) else {
        let says = format!("{shown}: no image store that you can read");
        let remedy = "make it, or remove it from shared_stores";
        return Finding::new(WHAT, State::Limited, says).mend(Who::Admin, remedy);
    };
    // Any name will do: the index is read.
    match "doctor".parse().map(|name| store.find(&name)) {
        Ok(Err(error)) => Finding::failed(WHAT, State::Limited, Who::Admin, &Report::from(&error)),
        _ => Finding::new(WHAT, State::Works, shown.to_string()),
    }
}

/// The default registry, and those that the settings name, mirrors included.
fn registries(config: &Config) -> Vec<Finding> {
    let named = config.registries.iter().flat_map(|registry| {
        let mirrors = registry.mirrors.iter().map(|mirror| mirror.host.clone());
        mirrors.chain([registry.host.clone()])
    });
    let hosts: BTreeSet<String> = named.chain(["docker.io".to_owned()]).collect();
    let network =
        Network { tries: 1, give_up_after: 10, connect_timeout: 5, ..config.network.clone() };
    let config = Config { network, login: None, ..config.clone() };
    let ask = |host: String| {
        let config = config.clone();
        std::thread::spawn(move || {
            let answer = registry::ping(&host, &config).map_err(|error| Report::from(&error));
            (host, answer)
        })
    };
    // Who waits for one need not wait for the other.
    let asked: Vec<_> = hosts.into_iter().map(ask).collect();
    let answers = asked.into_iter().filter_map(|thread| thread.join().ok());
    answers
        .map(|(host, answer)| match answer {
            Ok(true) => Finding::new("registry", State::Works, host),
            Ok(false) => {
                Finding::new("registry", State::Works, format!("{host}: asks who you are"))
            }
            Err(report) => Finding::failed("registry", State::Limited, Who::User, &report),
        })
        .collect()
}

/// Finds a program as a shell does.
pub(super) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    let mut found = env::split_paths(&path).map(|dir| dir.join(name));
    found.find(|path| access(path, AccessFlags::X_OK).is_ok() && path.is_file())
}

/// Whether a file holds these bytes; it may be large.
pub(super) fn find_bytes(path: &Path, bytes: &[u8]) -> std::io::Result<Option<String>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(64 << 20).read_to_end(&mut content)?;
    let at = content.windows(bytes.len()).position(|window| window == bytes);
    Ok(at.map(|at| {
        let rest = &content[at + bytes.len()..];
        let end = rest.iter().position(|b| !b.is_ascii_graphic()).unwrap_or(rest.len());
        String::from_utf8_lossy(&rest[..end]).into_owned()
    }))
}
