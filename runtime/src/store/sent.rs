//! What other nodes have sent to this one.
//!
//! slurmd puts it beside the node directory, as the user and under names that begin with
//! `.shifter-UID-STEP-KEY-`. A file of that prefix and [`LOCK`] is locked by whoever is about to take it.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use nix::{
    libc,
    unistd::{AccessFlags, access, geteuid},
};

use super::Node;

const LOCK: &str = "lock";

/// What is younger may be for a task of this node's that has not begun yet.
const YOUNG: Duration = Duration::from_secs(60);

/// Where it comes to on this node, and on others.
pub(crate) fn place(node: &Node) -> PathBuf {
    // A node that has not begun yet has no node directory.
    let above = node.path().parent().filter(|dir| access(*dir, AccessFlags::W_OK).is_ok());
    above.unwrap_or(node.path()).to_owned()
}

/// What the names of all files begin with that are for this image and step.
pub(crate) fn prefix(step: &str, key: &str) -> String {
    format!(".shifter-{}-{step}-{key}-", geteuid())
}

/// Tells others on this node that somebody is here who removes what comes under this prefix. Best effort:
/// what stays is swept later.
pub(crate) fn lock(dir: &Path, prefix: &str) -> Option<File> {
    let mut lock = File::options();
    lock.read(true).write(true).create(true).truncate(false).mode(0o600);
    let lock = lock.custom_flags(libc::O_NOFOLLOW).open(dir.join(format!("{prefix}{LOCK}")));
    lock.ok().filter(|lock| lock.try_lock_shared().is_ok())
}

/// The caller's files in a directory that others may write to, and how long they are.
pub(crate) fn files(dir: &Path, prefix: &str) -> Vec<(String, PathBuf, u64)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let found = entries.filter_map(|entry| {
        let name = entry.file_name().into_string().ok().filter(|name| name.starts_with(prefix))?;
        // Of the entry itself: a symbolic link is none of ours.
        let metadata = entry.metadata().ok()?;
        let is_own = metadata.is_file() && metadata.uid() == geteuid().as_raw();
        is_own.then(|| (name, entry.path(), metadata.len()))
    });
    found.collect()
}

/// Removes what has come under this prefix. Best effort: what stays is swept.
pub(crate) fn remove(dir: &Path, prefix: &str) {
    files(dir, prefix).iter().for_each(|(_, path, _)| _ = fs::remove_file(path));
}

/// Whether somebody is about to take what comes under this prefix; `None` if nobody was ever here.
pub(crate) fn is_wanted(dir: &Path, prefix: &str) -> Option<bool> {
    let lock = dir.join(format!("{prefix}{LOCK}"));
    lock.exists().then(|| is_held(&lock))
}

/// Removes what was sent to this node for a step whose processes were killed, or that has never begun
/// here. Best effort: it is memory, and for the next one.
pub(crate) fn sweep(dir: &Path) {
    let all = files(dir, &format!(".shifter-{}-", geteuid()));
    let locks: BTreeMap<String, bool> = all
        .iter()
        .filter_map(|(name, path, _)| Some((name.strip_suffix(LOCK)?.to_owned(), is_held(path))))
        .collect();
    for (name, path, _) in &all {
        let modified = fs::metadata(path).and_then(|file| file.modified()).ok();
        let age = modified.and_then(|at| at.elapsed().ok()).unwrap_or_default();
        let held =
            locks.iter().find(|(prefix, _)| name.starts_with(*prefix)).map(|(_, held)| *held);
        if !held.unwrap_or(age <= YOUNG) {
            let _ = fs::remove_file(path);
        }
    }
}

fn is_held(lock: &Path) -> bool {
    File::open(lock).is_ok_and(|lock| lock.try_lock().is_err())
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_nobody_will_take_goes() {
        let dir = tempfile::tempdir().expect("tempdir");
        let make = |name: String| {
            let path = dir.path().join(name);
            fs::write(&path, "layer").expect("write");
            path
        };
        let prefixes = ["1.0", "2.0", "3.0"].map(|step| prefix(step, "key"));
        let files = prefixes.clone().map(|prefix| make(format!("{prefix}0.aa.layer-00")));
        let held = lock(dir.path(), &prefixes[0]);
        drop(lock(dir.path(), &prefixes[1]));
        let young = make(format!("{}0.aa.note-0", prefixes[2]));
        let old = File::options().write(true).open(&files[2]).expect("open");
        old.set_modified(SystemTime::now() - 2 * YOUNG).expect("set time");
        let others = make(".shifter-other".to_owned());
        sweep(dir.path());
        let left = |path: &PathBuf| path.exists();
        assert_eq!(files.iter().map(left).collect::<Vec<_>>(), [true, false, false]);
        assert!(
            young.exists() && others.exists() && is_wanted(dir.path(), &prefixes[0]) == Some(true)
        );
        drop(held);
        sweep(dir.path());
        assert!(!files[0].exists() && young.exists());
    }
}
