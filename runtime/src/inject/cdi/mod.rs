//! The Container Device Interface: files in which a vendor's tool or an administrator says what a
//! container needs for a device ([SPEC.md](https://github.com/cncf-tags/container-device-interface),
//! version 1.1.0).
//!
//! ```text
//! /etc/cdi/*.json, *.yaml        what an administrator has written
//! /var/run/cdi/*.json, *.yaml    what this node's driver is, since it was booted
//! ```
//!
//! - A device is named `VENDOR/CLASS=NAME`. What a later directory says of it replaces what an earlier
//!   one says; two files of one directory that describe it take it from one another.
//! - A file that cannot be read hides its own devices and no others: it is told of when one is
//!   searched for in vain.
//! - A file is as good as those who can write it: what is mounted runs as the caller.
//! - Hooks are not run ([`Error::Hook`]); those of NVIDIA's tool are known and done.

mod hooks;
mod spec;
#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io::{self, Read},
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::{Path, PathBuf},
};

use self::spec::{ContainerEdits, Spec};
use super::{Bind, Device, Edits, Error, Found};
use crate::options::{Access, CdiName, Known, Tmpfs};

/// The files of a node.
#[derive(Debug, Default)]
pub struct Registry {
    dirs: Vec<PathBuf>,
    files: Vec<Loaded>,
    broken: Vec<Error>,
}

#[derive(Debug)]
struct Loaded {
    path: PathBuf,
    /// Which of the directories; the last counts most.
    priority: usize,
    spec: Spec,
}

impl Registry {
    /// Reads all files of these directories, as far as there are any.
    pub fn load(dirs: &[PathBuf]) -> Registry {
        let mut registry = Registry { dirs: dirs.to_vec(), ..Registry::default() };
        for (priority, dir) in dirs.iter().enumerate() {
            let mut paths: Vec<PathBuf> = match fs::read_dir(dir) {
                Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => {
                    registry.broken.push(Error::Read { path: dir.clone(), source });
                    continue;
                }
            };
            paths.sort();
            let is_one = |path: &PathBuf| {
                path.extension().is_some_and(|kind| kind == "json" || kind == "yaml")
            };
            for path in paths.into_iter().filter(is_one) {
                match read(&path).and_then(|text| Spec::parse(&text, &path)) {
                    Ok(spec) => registry.files.push(Loaded { path, priority, spec }),
                    Err(error) => registry.broken.push(error),
                }
            }
        }
        registry
    }

    /// The files that cannot be used.
    pub fn broken(&self) -> &[Error] {
        &self.broken
    }

    /// All kinds that are described, in order.
    pub fn kinds(&self) -> Vec<&str> {
        let mut kinds: Vec<_> = self.files.iter().map(|file| &*file.spec.kind).collect();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// The names of a kind's devices, in order.
    pub fn devices(&self, kind: &str) -> Vec<&str> {
        let files = self.files.iter().filter(|file| file.spec.kind == kind);
        let devices = files.flat_map(|file| &file.spec.devices);
        let mut names: Vec<_> = devices.map(|device| &*device.name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The file that describes a device, and which of its devices that is.
    fn find(&self, name: &CdiName) -> Result<(&Loaded, &spec::Device), Error> {
        let of = |file: &'_ Loaded| file.spec.kind == name.kind();
        let mut best: Option<(&Loaded, &spec::Device)> = None;
        let mut rival: Option<&Loaded> = None;
        for file in self.files.iter().filter(|file| of(file)) {
            let Some(device) = file.spec.devices.iter().find(|d| d.name == name.device()) else {
                continue;
            };
            rival = best.map(|(file, _)| file).filter(|best| best.priority == file.priority);
            best = Some((file, device));
        }
        match (best, rival) {
            (Some((file, _)), Some(rival)) => Err(Error::Conflict {
                name: name.clone(),
                one: rival.path.clone(),
                other: file.path.clone(),
            }),
            (Some(found), None) => Ok(found),
            (None, _) => Err(Error::Unknown {
                name: name.clone(),
                known: self.devices(name.kind()).into_iter().map(str::to_owned).collect(),
                dirs: self.dirs.clone(),
                broken: self.broken.first().map(|e| crate::report::chain(e)),
            }),
        }
    }

    /// What these devices need: what a file says for all of its devices once, then what it says of
    /// each, in the order in which they are asked for.
    pub(super) fn resolve(&self, names: &[CdiName], ignored: &[String]) -> Found {
        let mut found = Found::default();
        let mut used: Vec<&Path> = Vec::new();
        for name in names {
            let (file, device) = match self.find(name) {
                Ok(one) => one,
                Err(error) => {
                    found.problems.push(error);
                    continue;
                }
            };
            let mut add = |edits| {
                let (edits, problems) = read_edits(edits, &file.path, ignored);
                let sources: Vec<_> = edits.devices.iter().map(|d| d.source.clone()).collect();
                found.edits.add(edits);
                merge(&mut found.problems, problems);
                sources
            };
            if !used.contains(&&*file.path) {
                used.push(&file.path);
                add(&file.spec.container_edits);
            }
            found.gates.extend(gates(add(&device.container_edits)));
            found.told.push(format!("{name}, as {} says", super::Plain(&file.path)));
        }
        found.edits.mounts.sort_by_key(|mount| mount.target.components().count());
        found
    }
}

/// Reads a file that only its owner can write, who is the caller or root: whatever is in it, the
/// caller's programs load.
fn read(path: &Path) -> Result<String, Error> {
    let failed = |source| Error::Read { path: path.to_owned(), source };
    let refuse = |problem: &str| Error::File {
        path: path.to_owned(),
        line: None,
        problem: problem.to_owned(),
    };
    // Opened without a look before, a fifo would wait for ever.
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(refuse("it is not a file"));
    }
    let file = File::open(path).map_err(failed)?;
    let meta = file.metadata().map_err(failed)?;
    if ![0, nix::unistd::getuid().as_raw()].contains(&meta.uid()) {
        return Err(refuse("it belongs neither to root nor to you"));
    }
    if meta.mode() & 0o022 != 0 {
        return Err(refuse("others can write to it"));
    }
    if meta.len() > spec::MAX_FILE {
        return Err(refuse("it is too large"));
    }
    let mut text = String::new();
    file.take(spec::MAX_FILE).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// What one list of edits means on this node, and what is wrong with it.
fn read_edits(edits: &ContainerEdits, by: &Path, ignored: &[String]) -> (Edits, Vec<Error>) {
    let (mut made, mut problems) = (Edits::default(), Vec::new());
    let missing = |path: &str, source| Error::Missing {
        path: path.into(),
        by: by.to_owned(),
        more: 0,
        source,
    };
    for variable in &edits.env {
        if let Some((name, value)) = variable.split_once('=') {
            made.env.push((name.to_owned(), value.to_owned()));
        }
    }
    for node in &edits.device_nodes {
        let source = node.host_path.as_deref().filter(|path| !path.is_empty());
        let source = source.unwrap_or(&node.path);
        match fs::metadata(source).map(|meta| meta.file_type()) {
            Ok(kind) if kind.is_char_device() || kind.is_block_device() || kind.is_fifo() => {
                made.devices.push(Device { source: source.into(), target: (&node.path).into() });
            }
            Ok(_) => problems.push(Error::NoDevice { path: source.into(), by: by.to_owned() }),
            Err(e) => problems.push(missing(source, e)),
        }
    }
    for mount in &edits.mounts {
        if mount.kind.as_deref() == Some("tmpfs") {
            match memory(mount, by) {
                Ok(memory) => made.tmpfs.push(memory),
                Err(error) => problems.push(error),
            }
            continue;
        }
        if !mount.is_bind() {
            let what = format!("a mount of type {:?}", mount.kind.as_deref().unwrap_or_default());
            problems.push(Error::Unsupported { what, by: by.to_owned() });
            continue;
        }
        let is_readonly = mount.options.iter().any(|option| option == "ro");
        let access = if is_readonly { Access::ReadOnly } else { Access::ReadWrite };
        let target = (&mount.container_path).into();
        match fs::metadata(&mount.host_path) {
            Ok(_) => {
                made.mounts.push(Bind { source: (&mount.host_path).into(), target, access });
            }
            Err(e) => problems.push(missing(&mount.host_path, e)),
        }
    }
    for hook in &edits.hooks {
        match hooks::edits(hook, by, ignored) {
            Ok(more) => made.add(more),
            Err(error) => problems.push(error),
        }
    }
    if edits.intel_rdt.is_some() {
        problems.push(Error::Unsupported { what: "intelRdt".to_owned(), by: by.to_owned() });
    }
    for device in &edits.net_devices {
        let what = format!("network interface {:?}", device.host_interface_name);
        problems.push(Error::Unsupported { what, by: by.to_owned() });
    }
    (made, problems)
}

/// A mount of memory, by the options of tmpfs(5).
fn memory(mount: &spec::Mount, by: &Path) -> Result<Tmpfs, Error> {
    let mut memory = Tmpfs::at(&mount.container_path);
    // How mounts travel is the container's matter, and when files were read nobody asks.
    let idle = |option: &&String| {
        let known =
            ["private", "rprivate", "slave", "rslave", "noatime", "relatime", "strictatime"];
        !known.contains(&&***option) && !option.is_empty()
    };
    for option in mount.options.iter().filter(idle) {
        let problem = match memory.set(option) {
            Ok(Known::Yes) => continue,
            Ok(Known::No) => "it is not supported",
            Err(problem) => problem,
        };
        let problem = format!("tmpfs {:?}, option {option:?}: {problem}", mount.container_path);
        return Err(Error::File { path: by.to_owned(), line: None, problem });
    }
    Ok(memory)
}

/// Adds problems, those that a driver that was replaced makes as one.
fn merge(problems: &mut Vec<Error>, more: Vec<Error>) {
    for problem in more {
        let known = problems.iter_mut().find_map(|known| match (known, &problem) {
            (
                Error::Missing { by, more, path, .. },
                Error::Missing { by: other, path: new, .. },
            ) if by == other && path != new => Some(more),
            _ => None,
        });
        match known {
            Some(more) => *more += 1,
            None => problems.push(problem),
        }
    }
}

/// Those devices by which one job's share is told from another's: they are numbered (`nvidia0`,
/// `renderD128`), and others (`kfd`) are everybody's. Without such, all are.
fn gates(devices: Vec<PathBuf>) -> Vec<PathBuf> {
    let is_numbered = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.ends_with(|c: char| c.is_ascii_digit())
    };
    match devices.iter().any(is_numbered) {
        true => devices.into_iter().filter(is_numbered).collect(),
        false => devices,
    }
}
