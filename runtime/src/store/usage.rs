//! Which trees of a node are the lower layers of containers that run.
//!
//! The overlay of a container is mounted from the digest of its image (`container::enter`), and
//! mountinfo of each of its processes shows that: `… - overlay sha256:HEX rw,…` (proc(5)). Whoever
//! is only about to mount it holds a shared lock on `locks/HEX` (see [`Hold`](crate::image::Hold)).
//! So who has that lock for himself, and finds no process, may take the tree away.
//!
//! A program may forbid that it is looked at (prctl(2), `PR_SET_DUMPABLE`). All of a container's
//! processes have `no_new_privs`, for good; one of the user's that has it and cannot be looked at may
//! be in any container. Processes of another pid namespace are not seen.

use std::{collections::BTreeMap, fs, io};

use nix::unistd::getuid;

use crate::digest::Digest;

/// The containers of the calling user on this node.
#[derive(Debug, Default)]
pub(super) struct Usage {
    /// One process for each image that is in use.
    images: BTreeMap<Digest, u32>,
    /// A process that may be in a container and does not let itself be looked at.
    unknown: Option<u32>,
}

impl Usage {
    /// Looks at all processes of the user.
    pub(super) fn scan() -> Usage {
        let mut usage = Usage::default();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                usage.add(pid);
            }
        }
        usage
    }

    fn add(&mut self, pid: u32) {
        let read = |file: &str| fs::read_to_string(format!("/proc/{pid}/{file}"));
        // A process that is not dumpable belongs to root, by the owner of its directory.
        let Ok(status) = read("status") else { return };
        let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name));
        let uid = field("Uid:").and_then(|ids| ids.split_whitespace().next());
        if uid != Some(&getuid().to_string()) {
            return;
        }
        match read("mountinfo") {
            Ok(mounts) => {
                self.images.extend(mounts.lines().filter_map(image).map(|image| (image, pid)));
            }
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied => {
                let has_no_new_privs = field("NoNewPrivs:").is_some_and(|set| set.trim() == "1");
                self.unknown = self.unknown.or(has_no_new_privs.then_some(pid));
            }
            // It has ended.
            Err(_) => {}
        }
    }

    /// A process that uses the image, or may use it.
    pub(super) fn of(&self, image: &Digest) -> Option<u32> {
        self.images.get(image).copied().or(self.unknown)
    }
}

/// The image that an overlay of this line is mounted from.
fn image(line: &str) -> Option<Digest> {
    let mut fields = line.split_once(" - ")?.1.split(' ');
    if fields.next()? != "overlay" {
        return None;
    }
    // Behind a slash is which container it is (`kept::source`).
    Digest::parse(fields.next()?.split('/').next()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_containers_root_tells_its_image() {
        let digest = Digest::of(b"");
        let line = |kind: &str, source: &str| {
            format!(
                "44 42 0:53 / / rw,nosuid,nodev shared:1 master:2 - {kind} {source} rw,lowerdir=x"
            )
        };
        assert_eq!(image(&line("overlay", digest.as_str())), Some(digest.clone()));
        let named = format!("{digest}/1a:2");
        assert_eq!(image(&line("overlay", &named)), Some(digest.clone()));
        assert_eq!(image(&line("overlay", "overlay")), None);
        assert_eq!(image(&line("tmpfs", digest.as_str())), None);
        assert_eq!(image(""), None);
    }
}
