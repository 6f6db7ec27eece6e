//! How much space a tree takes.

use std::{collections::BTreeSet, os::fd::OwnedFd};

use nix::{
    dir::Dir,
    fcntl::{AtFlags, OFlag, openat},
    sys::stat::{FileStat, Mode, SFlag, fstatat},
};

/// Levels that are looked into, with a descriptor each: deeper than any program's files lie.
const LEVELS: usize = 256;

/// Adds up the blocks of all files below `dir`, in bytes. What cannot be looked at counts for
/// nothing.
pub fn measure_tree(dir: OwnedFd) -> u64 {
    measure(dir, 0, &mut BTreeSet::new())
}

fn measure(dir: OwnedFd, level: usize, counted: &mut BTreeSet<u64>) -> u64 {
    let Ok(mut dir) = Dir::from_fd(dir) else { return 0 };
    let names: Vec<_> = dir.iter().flatten().map(|entry| entry.file_name().to_owned()).collect();
    let mut bytes = 0;
    for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        let Ok(stat) = fstatat(&dir, name.as_c_str(), AtFlags::AT_SYMLINK_NOFOLLOW) else {
            continue;
        };
        // A file of several names has its blocks once.
        if stat.st_nlink == 1 || is_directory(&stat) || counted.insert(stat.st_ino) {
            bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * 512;
        }
        if is_directory(&stat) && level < LEVELS {
            let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
            let child = openat(&dir, name.as_c_str(), flags, Mode::empty());
            bytes += child.map_or(0, |child| measure(child, level + 1, counted));
        }
    }
    bytes
}

fn is_directory(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFDIR
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_of_two_names_counts_once() {
        let dir = tempfile::tempdir().expect("tempdir");
        let path = dir.path();
        fs::create_dir(path.join("a")).expect("create");
        fs::write(path.join("a/file"), vec![1; 1 << 20]).expect("write");
        fs::hard_link(path.join("a/file"), path.join("link")).expect("link");
        std::os::unix::fs::symlink("/", path.join("elsewhere")).expect("symlink");
        let bytes = measure_tree(fs::File::open(path).expect("open").into());
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
    }
}
