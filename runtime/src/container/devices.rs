//! The host's `/dev`, as a container sees it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Mount, Presence};
use crate::{
    inject::Link,
    options::{Access, Exec, Tmpfs},
};

const DEV: &str = "/dev";

/// All of the host's, as it is; or, where something is to be added to it that the host does not have,
/// a directory of our own with all of it in it.
pub(super) fn mounts(targets: &[&Path]) -> Vec<Mount> {
    let is_added = |path: &&&Path| path.starts_with(DEV) && fs::symlink_metadata(path).is_err();
    let added: Vec<&Path> = targets.iter().filter(is_added).copied().collect();
    if added.is_empty() {
        return vec![whole()];
    }
    let memory = Tmpfs { target: DEV.into(), size: None, mode: Some(0o755), exec: Exec::Allowed };
    let mut mounts = vec![Mount::Tmpfs(memory)];
    add(Path::new(DEV), &added, &mut mounts);
    mounts
}

/// The host's `/dev`.
pub(super) fn whole() -> Mount {
    same(DEV.into(), Presence::Required)
}

/// Adds what the host has in a directory: one by one where something is added.
fn add(dir: &Path, added: &[&Path], mounts: &mut Vec<Mount>) {
    let mut entries: Vec<_> = fs::read_dir(dir).into_iter().flatten().flatten().collect();
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let path = entry.path();
        match fs::read_link(&path) {
            Ok(target) => mounts.push(Mount::Link(Link { path, target })),
            Err(_) if added.iter().any(|target| target.starts_with(&path)) => {
                add(&path, added, mounts);
            }
            Err(_) => mounts.push(same(path, Presence::Optional)),
        }
    }
}

fn same(path: PathBuf, presence: Presence) -> Mount {
    Mount::Bind { source: path.clone(), target: path, access: Access::ReadWrite, presence }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_is_taken_apart_only_for_what_it_lacks() {
        assert_eq!(mounts(&[Path::new("/dev/null"), Path::new("/other/x")]), [whole()]);
        let apart = mounts(&[Path::new("/dev/null"), Path::new("/dev/shm/../no-such-device")]);
        assert!(matches!(&apart[0], Mount::Tmpfs(spec) if spec.target == DEV));
        let has = |path: &str| apart.contains(&same(path.into(), Presence::Optional));
        assert!(has("/dev/null") && has("/dev/pts"), "{apart:?}");
        let is_link =
            |mount: &Mount| matches!(mount, Mount::Link(link) if link.path == Path::new("/dev/fd"));
        assert!(apart.iter().any(is_link), "{apart:?}");
    }
}
