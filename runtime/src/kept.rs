//! Containers with a name, which keep on this node what is written in them.
//!
//! ```text
//! <node_dir>/containers/<name>/   0700
//!   lock           held by who looks, until it has entered or removed; the kernel drops it at death
//!   record         JSON: see [`Record`]
//!   upper/ work/   overlayfs': what was written
//! <node_dir>/containers/.<name>.<pid>   one that is being removed
//! ```
//!
//! A container runs as long as some process is in its namespaces, whoever started that: no process
//! of ours waits for it. The kernel gives the numbers of namespaces out again as soon as they are free,
//! so that another container may soon have those that one had. What only one has is its root, whose
//! overlay is mounted from a name that `source` makes.

#![forbid(unsafe_code)]

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{fd::AsFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process,
};

use nix::{
    fcntl::{OFlag, openat, renameat},
    sys::stat::{Mode, fstat},
};
use serde::{Deserialize, Serialize};

use crate::{
    Digest, Options,
    options::{Access, ContainerName, Front, Home, Ids},
};

/// The file that is locked; a step's directory has one too.
pub(crate) const LOCK: &str = "lock";
/// What was written.
pub(crate) const UPPER: &str = "upper";
/// Overlayfs' own.
pub(crate) const WORK: &str = "work";

const RECORD: &str = "record";

/// Where all of them are.
pub(crate) fn all(node_dir: &Path) -> PathBuf {
    node_dir.join("containers")
}

/// Where one of them is.
pub(crate) fn place(node_dir: &Path, name: &ContainerName) -> PathBuf {
    all(node_dir).join(name.as_str())
}

/// What the root of the container in this directory is mounted from: the image that lies below, and the
/// directory, which no other container has as long as this one exists. It is seen in mountinfo.
pub(crate) fn source(image: &Digest, dir: impl AsFd) -> io::Result<String> {
    let dir = fstat(dir)?;
    Ok(format!("{image}/{:x}:{}", dir.st_dev, dir.st_ino))
}

/// What is known of a container that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The image's name, as it was asked for first.
    pub reference: String,
    /// Which image that was. Another one below what was written would be a mixture.
    pub digest: Digest,
    /// What was asked for when the container was built last: it cannot change while it runs.
    pub options: Options,
    /// What the container runs in, if it does; absent before it is built first.
    pub namespaces: Option<Namespaces>,
}

impl Record {
    /// Reads the record of the container in this directory; `None` if there is none.
    pub(crate) fn read(dir: impl AsFd) -> Option<Record> {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mut file = File::from(openat(dir, RECORD, flags, Mode::empty()).ok()?);
        let mut text = String::new();
        file.read_to_string(&mut text).ok()?;
        serde_json::from_str(&text).ok()
    }

    /// Reads the record of the container with this name; `None` if there is none.
    pub fn of(node_dir: &Path, name: &ContainerName) -> Option<Record> {
        Record::read(File::open(place(node_dir, name)).ok()?)
    }

    /// Writes the record: readers see the old one or the new one.
    pub(crate) fn write(&self, dir: impl AsFd) -> io::Result<()> {
        let text = serde_json::to_string(self).expect("text and numbers always serialise");
        let new = format!("{RECORD}.new");
        let flags = OFlag::O_WRONLY
            | OFlag::O_CREAT
            | OFlag::O_TRUNC
            | OFlag::O_NOFOLLOW
            | OFlag::O_CLOEXEC;
        let mode = Mode::from_bits_retain(0o600);
        File::from(openat(&dir, new.as_str(), flags, mode)?).write_all(text.as_bytes())?;
        Ok(renameat(&dir, new.as_str(), &dir, RECORD)?)
    }

    /// The user and the mount namespace of the container in this directory, by way of any other process
    /// that is in them; `None` if it does not run.
    pub(crate) fn running(&self, dir: impl AsFd) -> Option<(File, File)> {
        self.namespaces?.open(&source(&self.digest, dir).ok()?)
    }

    /// Whether somebody is in the container with this name, and record.
    pub fn is_running(&self, node_dir: &Path, name: &ContainerName) -> bool {
        let dir = File::open(place(node_dir, name)).ok();
        dir.is_some_and(|dir| self.running(dir).is_some())
    }

    /// What of `options` a container that runs does not have, in the words of who asks for it.
    pub(crate) fn lacks(&self, options: &Options, front: Front) -> Option<String> {
        let has = &self.options;
        if let Some(mount) = options.mounts.iter().find(|mount| !has.mounts.contains(mount)) {
            return Some(format!("without the mount {:?}", mount.to_string()));
        }
        if let Some(device) = options.devices.iter().find(|device| !has.devices.contains(device)) {
            return Some(format!("without the device {:?}", device.to_string()));
        }
        if let Some(gpu) = options.gpu.as_ref().filter(|gpu| Some(*gpu) != has.gpu.as_ref()) {
            return Some(format!("without {}={gpu}", front.spell("container-gpu")));
        }
        let ids = |options: &Options| options.ids.unwrap_or(Ids::Own);
        let said = |with: &str, option: &str| Some(format!("{with} {}", front.spell(option)));
        match (ids(has), ids(options)) {
            (Ids::Own, Ids::Root) => return said("without", "container-remap-root"),
            (Ids::Root, Ids::Own) => return said("with", "container-remap-root"),
            _ => {}
        }
        let root = |options: &Options| options.root.unwrap_or(Access::ReadWrite);
        match options.root.map(|_| (root(has), root(options))) {
            Some((Access::ReadWrite, Access::ReadOnly)) => {
                return said("without", "container-readonly");
            }
            Some((Access::ReadOnly, Access::ReadWrite)) => {
                return said("with", "container-readonly");
            }
            _ => {}
        }
        let home = |options: &Options| options.home.unwrap_or(Home::Mounted);
        match options.home.map(|_| (home(has), home(options))) {
            Some((Home::Mounted, Home::LeftOut)) => {
                return said("without", "no-container-mount-home");
            }
            Some((Home::LeftOut, Home::Mounted)) => return said("with", "no-container-mount-home"),
            _ => {}
        }
        None
    }
}

/// The user and the mount namespace of a container, by their numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespaces {
    user: u64,
    mount: u64,
}

impl Namespaces {
    /// Those of the calling process.
    pub(crate) fn own() -> io::Result<Namespaces> {
        let inode = |path: &str| Ok::<_, io::Error>(fs::metadata(path)?.ino());
        Ok(Namespaces { user: inode("/proc/self/ns/user")?, mount: inode("/proc/self/ns/mnt")? })
    }

    /// Opens both, by way of any process that is in them, in a root that is mounted from `source`;
    /// `None` if there is none.
    fn open(&self, source: &str) -> Option<(File, File)> {
        let processes = fs::read_dir("/proc").ok()?.flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| *pid != process::id()).find_map(|pid| self.open_of(pid, source))
    }

    fn open_of(&self, pid: u32, source: &str) -> Option<(File, File)> {
        let open = |name: &str, inode: u64| {
            let path = format!("/proc/{pid}/ns/{name}");
            // A glance first: of most processes, nothing else is ours to see.
            if fs::metadata(&path).ok()?.ino() != inode {
                return None;
            }
            let file = File::open(path).ok()?;
            (file.metadata().ok()?.ino() == inode).then_some(file)
        };
        let found = (open("user", self.user)?, open("mnt", self.mount)?);
        let mounts = fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
        mounts.lines().any(|line| is_root_from(line, source)).then_some(found)
    }
}

/// Whether this line of mountinfo tells of a root directory that is an overlay from `source` (proc(5)).
fn is_root_from(line: &str, source: &str) -> bool {
    let root = line.split(' ').nth(4) == Some("/");
    let from = line.split_once(" - overlay ").and_then(|(_, rest)| rest.split(' ').next());
    root && from == Some(source)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(options: Options) -> Record {
        Record {
            reference: "a".to_owned(),
            digest: Digest::of(b""),
            options,
            namespaces: Namespaces::own().ok(),
        }
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        assert_eq!(Record::read(&fd), None);
        let record = record(Options { ids: Some(Ids::Root), ..Options::default() });
        record.write(&fd).unwrap();
        record.write(&fd).unwrap();
        assert_eq!(Record::read(&fd), Some(record));
        fs::write(dir.path().join(RECORD), "{").unwrap();
        assert_eq!(Record::read(&fd), None);
    }

    #[test]
    fn what_runs_has_what_it_was_built_with() {
        let options = |mounts: &[&str], ids| Options {
            mounts: mounts.iter().map(|spec| spec.parse().unwrap()).collect(),
            ids,
            ..Options::default()
        };
        let has = record(options(&["/a", "/b:/c"], None));
        let root = |access| Options { root: Some(access), ..Options::default() };
        let home = |home| Options { home: Some(home), ..Options::default() };
        for (asked, lacks) in [
            (options(&[], None), None),
            (options(&["/b:/c"], Some(Ids::Own)), None),
            (root(Access::ReadWrite), None),
            (home(Home::Mounted), None),
            (options(&["/b:/d"], None), Some("without the mount \"/b:/d\"")),
            (options(&[], Some(Ids::Root)), Some("without --remap-root")),
            (root(Access::ReadOnly), Some("without --readonly")),
            (home(Home::LeftOut), Some("without --no-home")),
        ] {
            assert_eq!(has.lacks(&asked, Front::Run).as_deref(), lacks);
        }
        let said = |has: Options, asked| record(has).lacks(&asked, Front::Slurm);
        let all = Options { gpu: "all".parse().ok(), ..Options::default() };
        for (has, asked, lacks) in [
            (root(Access::ReadOnly), root(Access::ReadWrite), "with --container-readonly"),
            (home(Home::LeftOut), home(Home::Mounted), "with --no-container-mount-home"),
            (options(&[], Some(Ids::Root)), Options::default(), "with --container-remap-root"),
            (Options::default(), all, "without --container-gpu=all"),
        ] {
            assert_eq!(said(has, asked).as_deref(), Some(lacks));
        }
    }

    #[test]
    fn a_process_in_namespaces_of_the_same_numbers_may_be_in_another_container() {
        let own = Namespaces::own().unwrap();
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = mounts.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
        let source = root
            .unwrap()
            .split_once(" - overlay ")
            .map_or("x", |(_, rest)| rest.split(' ').next().expect("a source"));
        let is_overlay = source != "x";
        // This process does not count, but the one that started it is there too.
        assert_eq!(own.open(source).is_some(), is_overlay);
        assert!(own.open("sha256:0/1:2").is_none());
        assert!(Namespaces { mount: 1, ..own }.open(source).is_none());
        assert!(Namespaces { user: 1, ..own }.open(source).is_none());
        let line = |root, kind, source| {
            format!("44 42 0:53 / {root} rw,nosuid,nodev - {kind} {source} rw,lowerdir=x")
        };
        assert!(is_root_from(&line("/", "overlay", "sha256:0/1:2"), "sha256:0/1:2"));
        for (root, kind, source) in [
            ("/a", "overlay", "sha256:0/1:2"),
            ("/", "tmpfs", "sha256:0/1:2"),
            ("/", "overlay", "sha256:0"),
            ("/", "overlay", "sha256:0/1:23"),
        ] {
            assert!(!is_root_from(&line(root, kind, source), "sha256:0/1:2"));
        }
    }
}
