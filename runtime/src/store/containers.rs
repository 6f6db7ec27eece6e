//! Containers that keep what is written in them: what is there, and how it goes.

use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::Path,
    process,
};

use super::{Error, Node};
use crate::{
    Digest,
    kept::{self, Record},
    layer,
    options::{ContainerName, Job},
};

/// A container that stays on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// What it is called.
    pub name: ContainerName,
    /// The name of its image, as it was asked for.
    pub reference: String,
    /// Which image that was.
    pub digest: Digest,
    /// Whether a process is in it.
    pub is_running: bool,
}

impl Node {
    /// All containers that stay here, sorted by name. One that was never built is not among them.
    pub fn containers(&self) -> Result<Vec<Container>, Error> {
        let dir = kept::all(self.path());
        let entries = match fs::read_dir(&dir) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|e| Error::new("list containers in", &dir, e))?,
        };
        let names = entries.flatten().filter_map(|e| e.file_name().to_str()?.parse().ok());
        let known = names.filter_map(|name: ContainerName| {
            let record = Record::of(self.path(), &name)?;
            let is_running = record.is_running(self.path(), &name);
            Some(Container { name, reference: record.reference, digest: record.digest, is_running })
        });
        let mut containers: Vec<_> = known.collect();
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    /// Removes a container and all that was written in it, unless a process is in it or about to be.
    /// Tells whether there was one.
    pub fn remove_container(&self, name: &ContainerName) -> Result<bool, Error> {
        let path = kept::place(self.path(), name);
        let failed = |e: io::Error| Error::new("remove container", &path, e);
        self.sweep_containers();
        let file = match OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path.join(kept::LOCK))
        {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            file => file.map_err(failed)?,
        };
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => {
                return Err(failed(io::Error::other("somebody is about to run in it")));
            }
            Err(TryLockError::Error(e)) => return Err(failed(e)),
            Ok(()) => {}
        }
        // Whoever had the lock may have removed it.
        if !is_same(&file, &path.join(kept::LOCK)) {
            return Ok(false);
        }
        if Record::of(self.path(), name).is_some_and(|record| record.is_running(self.path(), name))
        {
            return Err(failed(io::Error::other("a process runs in it")));
        }
        // From here on it is gone, though its files go one after the other.
        let doomed = format!(".{name}.{}", process::id());
        let all = File::open(kept::all(self.path())).map_err(failed)?;
        fs::rename(&path, kept::all(self.path()).join(&doomed)).map_err(failed)?;
        layer::remove_tree(all.as_fd(), doomed.as_ref()).map_err(failed)?;
        Ok(true)
    }

    /// The containers of jobs that are over, by their names. `own` is the job that asks, if one does:
    /// what it wrote before it was queued again is over, too. `alive` says which jobs are not, and is
    /// called only if there are containers of others.
    pub fn ended_containers(
        &self,
        own: Option<Job>,
        alive: impl FnOnce() -> Option<BTreeSet<u32>>,
    ) -> Vec<ContainerName> {
        let entries = fs::read_dir(kept::all(self.path())).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let of_jobs = names.filter_map(|name: ContainerName| Some((name.job()?, name)));
        let is_own = |job: &Job| own.is_some_and(|own| own.id == job.id);
        let (mut ended, others): (Vec<_>, Vec<_>) = of_jobs.partition(|(job, _)| is_own(job));
        ended.retain(|(job, _)| own.is_some_and(|own| *job < own));
        if !others.is_empty()
            && let Some(alive) = alive()
        {
            ended.extend(others.into_iter().filter(|(job, _)| !alive.contains(&job.id)));
        }
        ended.sort();
        ended.into_iter().map(|(_, name)| name).collect()
    }

    /// Removes what those have left who died while they removed. Best effort: nothing depends on it.
    fn sweep_containers(&self) {
        let all = kept::all(self.path());
        let (Ok(entries), Ok(dir)) = (fs::read_dir(&all), File::open(&all)) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let text = name.to_string_lossy();
            let pid = text.strip_prefix('.').and_then(|rest| rest.rsplit_once('.')?.1.parse().ok());
            let Some(pid) = pid.map(nix::unistd::Pid::from_raw) else { continue };
            if nix::sys::signal::kill(pid, None) == Err(nix::errno::Errno::ESRCH) {
                let _ = layer::remove_tree(dir.as_fd(), &name);
            }
        }
    }
}

fn is_same(file: &File, path: &Path) -> bool {
    let (Ok(file), Ok(path)) = (file.metadata(), fs::symlink_metadata(path)) else { return false };
    (file.dev(), file.ino()) == (path.dev(), path.ino())
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::Options;

    #[test]
    fn a_container_goes_with_all_that_is_in_it() {
        let dir = tempfile::tempdir().expect("tempdir");
        let node = Node::open(&dir.path().join("node")).expect("node");
        let name: ContainerName = "one".parse().expect("a name");
        assert_eq!(node.containers().expect("none"), []);
        assert!(!node.remove_container(&name).expect("none"));

        let path = kept::place(node.path(), &name);
        fs::create_dir_all(path.join("upper/closed/dir")).expect("files");
        fs::create_dir(path.with_file_name(format!(".two.{}", i32::MAX))).expect("leftover");
        fs::set_permissions(path.join("upper/closed"), fs::Permissions::from_mode(0o000))
            .expect("chmod");
        // It exists from when its record does.
        assert_eq!(node.containers().expect("not yet"), []);
        let record = Record {
            reference: "busybox".into(),
            digest: Digest::of(b""),
            options: Options::default(),
            namespaces: None,
        };
        record.write(File::open(&path).expect("open")).expect("record");
        let found = node.containers().expect("one");
        assert_eq!(found.len(), 1);
        assert_eq!((&found[0].name, found[0].is_running), (&name, false));

        let lock = File::create(path.join(kept::LOCK)).expect("lock");
        lock.lock().expect("lock");
        let error = crate::report::chain(&node.remove_container(&name).expect_err("locked"));
        assert!(error.ends_with("one: somebody is about to run in it"), "{error}");
        drop(lock);
        assert!(node.remove_container(&name).expect("removed"));
        assert_eq!(node.containers().expect("none"), []);
        assert_eq!(fs::read_dir(kept::all(node.path())).expect("list").count(), 0, "files stay");
    }

    #[test]
    fn a_container_of_a_job_goes_with_the_job() {
        let dir = tempfile::tempdir().expect("tempdir");
        let node = Node::open(&dir.path().join("node")).expect("node");
        let asked = Cell::new(0);
        let remove = |own: Option<Job>, alive: Option<&[u32]>| {
            let ended = node.ended_containers(own, || {
                asked.set(asked.get() + 1);
                alive.map(|alive| alive.iter().copied().collect())
            });
            ended.iter().for_each(|name| assert!(node.remove_container(name).expect("removed")));
            ended.iter().map(ContainerName::to_string).collect::<Vec<_>>()
        };
        let make = |names: &[&str]| {
            for name in names {
                fs::create_dir_all(kept::all(node.path()).join(name).join("upper")).expect(name);
            }
        };
        let own = Some(Job { id: 17, restart: 1 });
        make(&["lab", "a@17.1", "b@17.1"]);
        assert!(remove(own, Some(&[])).is_empty(), "what is nobody's or the job's own is gone");
        assert_eq!(asked.get(), 0, "Slurm was asked in vain");
        make(&["a@17", "a@17.2"]);
        assert_eq!(remove(own, Some(&[])), ["a@17"]);
        make(&["x@3", "x@4", "y@4.2"]);
        assert!(
            remove(own, None).is_empty(),
            "gone, though nobody knows whether the jobs are over"
        );
        assert_eq!(remove(own, Some(&[3, 17])), ["x@4", "y@4.2"]);
        assert_eq!(remove(None, Some(&[])), ["x@3", "a@17.1", "b@17.1", "a@17.2"]);
        assert!(kept::all(node.path()).join("lab").exists());
    }
}
