//! How much more a tmpfs can take: its own limit, the job's, and the node's memory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use nix::sys::{
    statfs::{FsType, TMPFS_MAGIC, statfs},
    statvfs::statvfs,
};

/// Of a file system without blocks in memory only, statfs(2).
const RAMFS_MAGIC: i64 = 0x8584_58f6;

/// Bytes that can still be written, and by what they are limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes.
    pub free: u64,
    /// What allows no more.
    pub limit: Limit,
}

/// What limits how much can be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// The file system's size.
    FileSystem,
    /// The memory of the job's control group; so many bytes.
    Job(u64),
    /// The node's memory; so many bytes.
    Node(u64),
}

impl Room {
    /// Examines the file system of `path`, and the memory if that is where it keeps its files.
    pub fn of(path: &Path) -> io::Result<Room> {
        let stat = statvfs(path)?;
        // ramfs, or a tmpfs without a limit, tells no size at all.
        let free = match stat.blocks() {
            0 => u64::MAX,
            _ => stat.blocks_available() as u64 * stat.fragment_size() as u64,
        };
        let disk = Room { free, limit: Limit::FileSystem };
        let kind = statfs(path)?.filesystem_type();
        if kind != TMPFS_MAGIC && kind != FsType(RAMFS_MAGIC as _) {
            return Ok(disk);
        }
        let rooms = [Some(disk), job(), memory()].into_iter().flatten();
        Ok(rooms.min_by_key(|room| room.free).unwrap_or(disk))
    }
}

/// What the node has left. Swapped out, a tmpfs is no faster than a disk, but it is there.
fn memory() -> Option<Room> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let get = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name))?;
        let kilobytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
        Some(kilobytes << 10)
    };
    let free = get("MemAvailable:")? + get("SwapFree:").unwrap_or(0);
    Some(Room { free, limit: Limit::Node(get("MemTotal:")?) })
}

/// What the control group of this process has left, or one above it: files on a tmpfs are charged
/// to who writes them, and who goes beyond is killed (kernel documentation, cgroup-v2, "Memory").
fn job() -> Option<Room> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let mounts = fs::read_to_string("/proc/self/mountinfo").ok()?;
    let rooms = groups.lines().filter_map(|line| {
        // NUMBER:CONTROLLERS:PATH (cgroups(7)); no controllers in version 2
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let files = match controllers {
            "" => &V2,
            list if list.split(',').any(|name| name == "memory") => &V1,
            _ => return None,
        };
        let mount = files.mount_point(&mounts)?;
        let group = mount.join(path.trim_start_matches('/'));
        let groups = group.ancestors().take_while(|dir| dir.starts_with(&mount));
        groups.filter_map(|dir| files.room(dir)).min_by_key(|room| room.free)
    });
    rooms.min_by_key(|room| room.free)
}

/// How one version of control groups calls its files.
struct Files {
    kind: &'static str,
    limit: &'static str,
    usage: &'static str,
    /// Lines of `memory.stat`: pages of files on disk, which the kernel can take back.
    cached: [&'static str; 2],
}

const V2: Files = Files {
    kind: "cgroup2",
    limit: "memory.max",
    usage: "memory.current",
    cached: ["active_file ", "inactive_file "],
};

const V1: Files = Files {
    kind: "cgroup",
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cached: ["total_active_file ", "total_inactive_file "],
};

impl Files {
    /// Where this hierarchy is mounted (proc(5), mountinfo).
    fn mount_point(&self, mounts: &str) -> Option<PathBuf> {
        mounts.lines().find_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let mut right = right.split(' ');
            let is_memory = |options: &str| options.split(',').any(|option| option == "memory");
            let fits =
                right.next()? == self.kind && (self.kind == V2.kind || is_memory(right.nth(1)?));
            fits.then(|| left.split(' ').nth(4).map(PathBuf::from))?
        })
    }

    fn room(&self, group: &Path) -> Option<Room> {
        let read = |name: &str| fs::read_to_string(group.join(name)).ok();
        // "max", or a number beyond all memory: no limit.
        let limit: u64 = read(self.limit)?.trim().parse().ok()?;
        let usage: u64 = read(self.usage)?.trim().parse().ok()?;
        let stat = read("memory.stat")?;
        let lines = stat.lines().filter_map(|line| {
            self.cached.iter().find_map(|name| line.strip_prefix(name)?.parse::<u64>().ok())
        });
        let used = usage.saturating_sub(lines.sum());
        Some(Room { free: limit.saturating_sub(used), limit: Limit::Job(limit) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_groups_room_is_its_limit_without_what_can_be_taken_back() {
        let dir = tempfile::tempdir().expect("tempdir");
        let write = |name: &str, text: &str| fs::write(dir.path().join(name), text).expect("write");
        assert_eq!(V2.room(dir.path()), None, "no such controller here");
        write("memory.max", "max\n");
        write("memory.current", "900\n");
        write("memory.stat", "anon 100\nfile 800\ninactive_file 300\nactive_file 200\n");
        assert_eq!(V2.room(dir.path()), None, "no limit");
        write("memory.max", "1000\n");
        let room = V2.room(dir.path());
        assert_eq!(room, Some(Room { free: 600, limit: Limit::Job(1000) }));
        write("memory.current", "2000\n");
        assert_eq!(V2.room(dir.path()).map(|room| room.free), Some(0));
    }

    #[test]
    fn the_hierarchy_with_memory_is_found() {
        let mounts = "\
            30 25 0:26 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
            31 30 0:27 / /sys/fs/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu\n\
            32 30 0:28 / /sys/fs/cgroup/memory rw,relatime shared:9 - cgroup cgroup rw,memory\n\
            33 30 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let found = |files: &Files| files.mount_point(mounts).expect("it is there");
        assert_eq!(found(&V1), Path::new("/sys/fs/cgroup/memory"));
        assert_eq!(found(&V2), Path::new("/sys/fs/cgroup/unified"));
    }
}
