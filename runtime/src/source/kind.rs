//! What a file is, by its content.

use std::{
    fmt, fs,
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use super::Error;
use crate::oci::Compression;

/// What can be run, or imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An OCI image layout.
    Layout,
    /// Any other directory.
    Tree,
    /// A tar archive of whatever.
    Tar(Packing),
    /// A squashfs file.
    Squashfs,
}

/// How an archive is packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    /// In a way that layers have.
    Oci(Compression),
    Xz,
    Bzip2,
}

impl Packing {
    /// By the first bytes.
    pub(crate) fn sniff(head: &[u8]) -> Packing {
        match head {
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Packing::Xz,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Packing::Bzip2,
            _ => Packing::Oci(Compression::sniff(head)),
        }
    }
}

/// What is no image, and may be taken for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Foreign {
    /// Nothing.
    Empty,
    /// A recipe.
    Dockerfile,
    /// Singularity's and Apptainer's own format.
    Sif,
    /// What runc and Slurm's own `--container` take.
    Bundle,
    /// skopeo's `dir:`.
    SkopeoDir,
    /// A docker archive that was unpacked.
    Unpacked,
    /// A zip archive.
    Zip,
    /// A disk's or file system's image.
    Disk,
    /// A program.
    Program,
    /// Nothing known.
    Unknown,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Foreign::Empty => "it is empty",
            Foreign::Dockerfile => "a Dockerfile, which says how an image is built, and is none",
            Foreign::Sif => "an image of Singularity or Apptainer (SIF), which is not read",
            Foreign::Bundle => "an OCI bundle: its root file system is in rootfs/",
            Foreign::SkopeoDir => "a directory of skopeo's (dir:), which is not read",
            Foreign::Unpacked => "an unpacked image archive",
            Foreign::Zip => "a zip archive, and no image",
            Foreign::Disk => "the image of a disk or file system, which is not read",
            Foreign::Program => "a program, and no image",
            Foreign::Unknown => "neither an image nor an archive of a root file system",
        })
    }
}

/// Bytes that tell.
const HEAD: u64 = 64 << 10;

/// Looks at what there is.
pub(crate) fn of(path: &Path) -> Result<Kind, Error> {
    let foreign = |what| Error::Foreign { file: path.display().to_string(), what };
    let failed = |source: io::Error| Error::Open { path: path.to_owned(), source };
    if path.is_dir() {
        let has = |name: &str| path.join(name).exists();
        return match () {
            () if has("oci-layout") => Ok(Kind::Layout),
            () if has("config.json") && has("rootfs") => Err(foreign(Foreign::Bundle)),
            () if has("manifest.json") && has("version") => Err(foreign(Foreign::SkopeoDir)),
            () if has("manifest.json") => Err(foreign(Foreign::Unpacked)),
            () => match fs::read_dir(path).map_err(failed)?.next() {
                Some(_) => Ok(Kind::Tree),
                None => Err(foreign(Foreign::Empty)),
            },
        };
    }
    let mut head = Vec::new();
    // The name may be a fifo's by now, which would be waited for.
    let mut options = fs::File::options();
    let file = options.read(true).custom_flags(libc::O_NONBLOCK).open(path);
    file.and_then(|file| file.take(HEAD).read_to_end(&mut head)).map_err(failed)?;
    of_head(&head).map_err(foreign)
}

fn of_head(head: &[u8]) -> Result<Kind, Foreign> {
    let at = |offset: usize, magic: &[u8]| {
        head.get(offset..).is_some_and(|rest| rest.starts_with(magic))
    };
    match Packing::sniff(head) {
        Packing::Oci(Compression::None) => {}
        packing => return Ok(Kind::Tar(packing)),
    }
    match () {
        () if head.is_empty() => Err(Foreign::Empty),
        () if at(0, b"hsqs") => Ok(Kind::Squashfs),
        () if at(32, b"SIF_MAGIC") => Err(Foreign::Sif),
        () if is_tar(head) => Ok(Kind::Tar(Packing::Oci(Compression::None))),
        () if at(0, b"PK\x03\x04") => Err(Foreign::Zip),
        () if at(0, b"\x7fELF") => Err(Foreign::Program),
        // ext2 to ext4, EROFS, ISO 9660, qcow2
        () if at(1080, b"\x53\xef") || at(1024, b"\xe2\xe1\xf5\xe0") => Err(Foreign::Disk),
        () if at(32769, b"CD001") || at(0, b"QFI\xfb") => Err(Foreign::Disk),
        () if is_dockerfile(head) => Err(Foreign::Dockerfile),
        () => Err(Foreign::Unknown),
    }
}

/// Whether the first block is a header: one of POSIX' or GNU's says so, older ones have nothing but
/// their checksum. An archive may hold nothing.
fn is_tar(head: &[u8]) -> bool {
    let Some(block) = head.get(..512) else { return false };
    if block.iter().all(|byte| *byte == 0) {
        return true;
    }
    let text = String::from_utf8_lossy(&block[148..156]);
    let claimed = u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok();
    let sum = |bytes: &[u8]| bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    let blanks = 8 * u64::from(b' ');
    block[257..].starts_with(b"ustar")
        || claimed == Some(sum(&block[..148]) + sum(&block[156..]) + blanks)
}

/// Whether it is text of which the first instruction is one that a Dockerfile begins with.
fn is_dockerfile(head: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(head.get(..4096).unwrap_or(head)) else { return false };
    let mut lines = text.lines().map(str::trim);
    let first = lines.find(|line| !line.is_empty() && !line.starts_with('#'));
    let word = first.and_then(|line| line.split_whitespace().next()).unwrap_or_default();
    word.eq_ignore_ascii_case("from") || word.eq_ignore_ascii_case("arg")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_tells_what_a_file_is() {
        let mut ustar = vec![b'x'; 512];
        ustar[257..262].copy_from_slice(b"ustar");
        let mut old = tar::Header::new_old();
        old.set_size(0);
        old.set_cksum();
        let mut ext4 = vec![1; 2048];
        ext4[1080..1082].copy_from_slice(b"\x53\xef");
        let sif = [&b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC"[..], &[0; 90]].concat();
        let tar = Kind::Tar(Packing::Oci(Compression::None));
        for (head, kind) in [
            (&ustar[..], Ok(tar)),
            (old.as_bytes(), Ok(tar)),
            (&[0; 1024], Ok(tar)),
            (b"\x1f\x8b\x08", Ok(Kind::Tar(Packing::Oci(Compression::Gzip)))),
            (b"\x28\xb5\x2f\xfd", Ok(Kind::Tar(Packing::Oci(Compression::Zstd)))),
            (b"\xfd7zXZ\0", Ok(Kind::Tar(Packing::Xz))),
            (b"BZh9", Ok(Kind::Tar(Packing::Bzip2))),
            (b"hsqs\x01", Ok(Kind::Squashfs)),
            (b"", Err(Foreign::Empty)),
            (b"# x\n\nFROM debian\n", Err(Foreign::Dockerfile)),
            (b"ARG V=1\nfrom x:$V\n", Err(Foreign::Dockerfile)),
            (b"from here on\xff", Err(Foreign::Unknown)),
            (&sif, Err(Foreign::Sif)),
            (&ext4, Err(Foreign::Disk)),
            (b"PK\x03\x04", Err(Foreign::Zip)),
            (b"\x7fELF", Err(Foreign::Program)),
            (b"hello", Err(Foreign::Unknown)),
        ] {
            assert_eq!(of_head(head), kind, "{:?}", String::from_utf8_lossy(head));
        }
    }
}
