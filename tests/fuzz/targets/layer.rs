//! A layer over another one, in a tree that has something to lose beside it.

#![no_main]

use std::{
    io::BufReader,
    os::fd::{AsFd, BorrowedFd},
    sync::LazyLock,
};

use fuzz::{
    archive::{Tar, WORDS, samples},
    assert_printable, die, mutate, offer,
    site::{ROOT, STAGING, directory, look, names, with_trees},
};
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};
use nix::sys::stat::{SFlag, fstat};
use runtime::{
    layer::{Error, Limits, Tree, expand},
    report::chain,
};

fuzz_target!(init: offer(samples(), &WORDS, take), |data: &[u8]| {
    take(data);
});

fuzz_mutator!(|data: &mut [u8], size: usize, room: usize, seed: u32| {
    mutate::archive(data, size, room, seed, fuzzer_mutate)
});

const LIMITS: Limits = Limits { bytes: 32 << 10, entries: 48 };
/// Something of every kind, and links to what lies outside of the tree.
static LOWER: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let lower = "d lower; f lower/f=1; f lower/sub/g=2; f usr/lib/a=3; l lib -> usr/lib;
        l out -> ../outside; l up -> ../../outside; l abs -> /outside; l loop -> loop;
        l cwd -> /proc/self/cwd/outside; l file -> ../outside/secret; h hard -> lower/f;
        d closed:0; d ro:555; p fifo";
    Tar::default().notation(lower).end()
});

fn take(data: &[u8]) -> bool {
    let result = with_trees(2, |base| apply(base, data));
    if let Err(error) = &result {
        assert_printable(&chain(error));
    }
    result.is_ok()
}

fn apply(base: BorrowedFd<'_>, data: &[u8]) -> Result<(), Error> {
    let mut tree = Tree::new(directory(base, ROOT));
    let staging = directory(base, STAGING[0]);
    let layer = expand(&LOWER[..], staging.as_fd(), &Limits::default())?;
    tree.merge(staging, layer)?;

    let staging = directory(base, STAGING[1]);
    // Entries lie across the ends of the buffer, each time elsewhere.
    let stream = BufReader::with_capacity(1 + die(data) as usize % 1500, data);
    let layer = expand(stream, staging.as_fd(), &LIMITS);
    let mut held = Held::default();
    held.count(staging.as_fd(), fstat(&staging).expect("look at it").st_dev);
    assert!(held.entries <= LIMITS.entries, "{} entries", held.entries);
    let pages = LIMITS.bytes + LIMITS.entries * 4096;
    assert!(held.bytes <= pages, "{} bytes", held.bytes);
    let layer = layer?;
    let told = layer.summary();
    assert!(told.bytes <= LIMITS.bytes, "{told:?}");
    tree.merge(staging, layer)?;
    tree.finish().map(|_| ())
}

/// What lies in a directory.
#[derive(Debug, Default)]
struct Held {
    entries: u64,
    bytes: u64,
    files: Vec<u64>,
}

impl Held {
    fn count(&mut self, dir: BorrowedFd<'_>, device: u64) {
        for name in names(dir, ".") {
            self.entries += 1;
            let stat = look(dir, name.as_os_str());
            assert_eq!(stat.st_dev, device, "{name:?} is another file system's");
            match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
                SFlag::S_IFDIR => self.count(directory(dir, &name).as_fd(), device),
                SFlag::S_IFREG if !self.files.contains(&stat.st_ino) => {
                    // Holes are not there; of the rest, whole pages are.
                    self.bytes += stat.st_blocks as u64 * 512;
                    self.files.push(stat.st_ino);
                }
                SFlag::S_IFREG | SFlag::S_IFLNK | SFlag::S_IFIFO => {}
                other => panic!("{name:?} is a {other:?}"),
            }
        }
    }
}
