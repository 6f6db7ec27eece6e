//! Looking into a squashfs without mounting it: a few paths, before a container is built.
//!
//! ```text
//! superblock ─► root inode ─► directory ─► inode … ─► the blocks of a file, and the fragment with its end
//! ```
//!
//! The format is that of Linux' Documentation/filesystems/squashfs.rst, version 4. Only what is asked
//! for is read, a few blocks of 8 kB. The crate that knows it all, `backhand`, begins by reading every
//! inode: that takes longer than it takes to start the container.
//!
//! What is read may be anybody's writing: no length is believed that is not held against a limit.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::unix::{
        ffi::{OsStrExt as _, OsStringExt as _},
        fs::FileExt as _,
    },
    path::{Component, Path, PathBuf},
};

/// Most bytes in a metadata block.
const METADATA: usize = 8192;
/// Most bytes in a block of a file.
const MAX_BLOCK: usize = 1 << 20;
/// Most blocks of a file that is read.
const MAX_BLOCKS: u64 = 1024;
/// Most bytes of a directory that is looked through.
const MAX_DIRECTORY: usize = 64 << 20;
/// As many links as the kernel follows (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// In the length of a metadata block: it is not compressed.
const METADATA_PLAIN: u16 = 1 << 15;
/// In the length of a block of a file: it is not compressed.
const BLOCK_PLAIN: u32 = 1 << 24;
/// A file's end is in no fragment.
const NO_FRAGMENT: u32 = u32::MAX;
/// Fragments that one metadata block tells of.
const FRAGMENTS: u64 = 512;
/// The number of zstd among the compressors.
const ZSTD: u16 = 6;

/// A squashfs, open to be looked into.
#[derive(Debug)]
pub struct Squashfs {
    file: File,
    block: usize,
    root: u64,
    inodes: u64,
    directories: u64,
    fragments: u64,
}

/// What there is under a name.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Inode {
    Directory { block: u32, offset: u16, size: usize },
    File { start: u64, size: u64, fragment: u32, offset: u32, blocks: Vec<u32> },
    Link(PathBuf),
    Other,
}

/// What a path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A directory without anything in it.
    EmptyDirectory,
    /// Any other directory.
    Directory,
    /// Anything else.
    Other,
}

/// Whether a link at the end of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Last {
    Followed,
    Itself,
}

impl Squashfs {
    /// Opens a file, and makes sure that it is one that can be looked into.
    pub fn open(path: &Path) -> io::Result<Squashfs> {
        let file = File::open(path)?;
        let mut head = [0; 96];
        file.read_exact_at(&mut head, 0)?;
        let mut fields = Fields(&head);
        if fields.take(4)? != b"hsqs" {
            return Err(damaged("it is no squashfs"));
        }
        fields.take(8)?;
        let block = fields.u32()? as usize;
        fields.take(4)?;
        let compressor = fields.u16()?;
        fields.take(6)?;
        let version = (fields.u16()?, fields.u16()?);
        let root = fields.u64()?;
        fields.take(24)?;
        let (inodes, directories, fragments) = (fields.u64()?, fields.u64()?, fields.u64()?);
        if version != (4, 0) || compressor != ZSTD {
            let problem = "another kind of squashfs than is written here";
            return Err(io::Error::new(io::ErrorKind::Unsupported, problem));
        }
        if block > MAX_BLOCK {
            return Err(damaged("its blocks are too large"));
        }
        Ok(Squashfs { file, block, root, inodes, directories, fragments })
    }

    /// What `path` leads to; `None` if there is nothing.
    pub fn kind(&self, path: &Path) -> io::Result<Option<Kind>> {
        Ok(self.find(path, Last::Followed)?.map(|inode| match inode {
            // The size counts three more: for `.` and `..`.
            Inode::Directory { size, .. } if size <= 3 => Kind::EmptyDirectory,
            Inode::Directory { .. } => Kind::Directory,
            _ => Kind::Other,
        }))
    }

    /// The path of what is at `path` when its links are followed; `None` if there is nothing.
    pub fn real(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        Ok(self.walk(path, Last::Followed)?.map(|(real, _)| real))
    }

    /// The names in a directory; none if there is none.
    pub fn list(&self, path: &Path) -> io::Result<Vec<OsString>> {
        let Some(directory) = self.find(path, Last::Followed)? else { return Ok(Vec::new()) };
        let mut names = Vec::new();
        self.entries(&directory, |name, _| {
            names.push(OsString::from_vec(name.to_vec()));
            true
        })?;
        Ok(names)
    }

    /// Reads the regular file at `path`, which is not followed if it is a link; empty if there is none,
    /// or one of more than `most` bytes.
    pub fn read(&self, path: &Path, most: u64) -> io::Result<Vec<u8>> {
        match self.find(path, Last::Itself)? {
            Some(Inode::File { start, size, fragment, offset, blocks }) if size <= most => {
                self.content(start, size as usize, &blocks, (fragment, offset as usize))
            }
            _ => Ok(Vec::new()),
        }
    }

    /// Walks as a process would whose root is this: links are followed, and none leads out.
    fn find(&self, path: &Path, last: Last) -> io::Result<Option<Inode>> {
        Ok(self.walk(path, last)?.map(|(_, inode)| inode))
    }

    /// What is at `path`, and where that is when no link is on the way.
    fn walk(&self, path: &Path, last: Last) -> io::Result<Option<(PathBuf, Inode)>> {
        let mut real = PathBuf::from("/");
        let mut walked = vec![self.inode(self.root)?];
        let own = |part: Component<'_>| part.as_os_str().to_owned();
        let mut names: VecDeque<OsString> = path.components().map(own).collect();
        let mut links = 0;
        while let Some(name) = names.pop_front() {
            match name.as_encoded_bytes() {
                b"/" => {
                    walked.truncate(1);
                    real = "/".into();
                }
                b"." => {}
                b".." => {
                    walked.truncate((walked.len() - 1).max(1));
                    real.pop();
                }
                name => {
                    let here = walked.last().expect("the root is never left");
                    let Some(inode) = self.entry(here, name)? else { return Ok(None) };
                    match inode {
                        Inode::Link(target) if !names.is_empty() || last == Last::Followed => {
                            links += 1;
                            if links > MAX_LINKS {
                                return Ok(None);
                            }
                            target.components().rev().for_each(|part| names.push_front(own(part)));
                        }
                        inode => {
                            real.push(OsStr::from_bytes(name));
                            walked.push(inode);
                        }
                    }
                }
            }
        }
        Ok(walked.pop().map(|inode| (real, inode)))
    }

    /// What has this name in a directory.
    fn entry(&self, directory: &Inode, wanted: &[u8]) -> io::Result<Option<Inode>> {
        let mut found = None;
        self.entries(directory, |name, reference| {
            found = (name == wanted).then_some(reference);
            found.is_none()
        })?;
        found.map(|reference| self.inode(reference)).transpose()
    }

    /// Goes through a directory as long as `next` wants more: names, and where their inodes are.
    fn entries(
        &self,
        directory: &Inode,
        mut next: impl FnMut(&[u8], u64) -> bool,
    ) -> io::Result<()> {
        let Inode::Directory { block, offset, size } = directory else { return Ok(()) };
        let length = size.saturating_sub(3);
        if length > MAX_DIRECTORY {
            return Err(damaged("a directory is too large"));
        }
        let at = self.directories.checked_add((*block).into()).ok_or_else(end)?;
        let listing = self.metadata(at, (*offset).into(), length)?;
        let mut fields = Fields(&listing);
        while !fields.0.is_empty() {
            // A header, and so many entries whose inodes lie in one metadata block.
            let (count, start) = (fields.u32()?, fields.u32()?);
            fields.take(4)?;
            for _ in 0..=count {
                let offset = fields.u16()?;
                fields.take(4)?;
                let length = usize::from(fields.u16()?) + 1;
                let name = fields.take(length)?;
                if !next(name, u64::from(start) << 16 | u64::from(offset)) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn inode(&self, reference: u64) -> io::Result<Inode> {
        let at = self.inodes.checked_add(reference >> 16).ok_or_else(end)?;
        let offset = (reference & 0xffff) as usize;
        let read = |bytes: usize| self.metadata(at, offset, bytes);
        let head = read(16)?;
        let kind = Fields(&head).u16()?;
        // The fields behind those that all have.
        let body = |bytes: usize| -> io::Result<Vec<u8>> { Ok(read(16 + bytes)?.split_off(16)) };
        let file = |fixed: usize, start, size: u64, fragment, offset| -> io::Result<Inode> {
            let block = self.block.max(1) as u64;
            // Where there is a fragment, the end is in it.
            let blocks = match fragment {
                NO_FRAGMENT => size.div_ceil(block),
                _ => size / block,
            };
            // Nobody asks for the content of a file that has more.
            let blocks = blocks.min(MAX_BLOCKS) as usize;
            let lengths = body(fixed + 4 * blocks)?.split_off(fixed);
            let blocks = lengths.chunks_exact(4);
            let blocks = blocks.map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
            Ok(Inode::File { start, size, fragment, offset, blocks })
        };
        match kind {
            1 => {
                let body = body(16)?;
                let mut fields = Fields(&body);
                let block = fields.u32()?;
                fields.take(4)?;
                let (size, offset) = (fields.u16()?.into(), fields.u16()?);
                Ok(Inode::Directory { block, offset, size })
            }
            8 => {
                let body = body(24)?;
                let mut fields = Fields(&body);
                fields.take(4)?;
                let (size, block) = (fields.u32()? as usize, fields.u32()?);
                fields.take(6)?;
                Ok(Inode::Directory { block, offset: fields.u16()?, size })
            }
            2 => {
                let body = body(16)?;
                let mut fields = Fields(&body);
                let (start, fragment) = (fields.u32()?.into(), fields.u32()?);
                let (offset, size) = (fields.u32()?, fields.u32()?.into());
                file(16, start, size, fragment, offset)
            }
            9 => {
                let body = body(40)?;
                let mut fields = Fields(&body);
                let (start, size) = (fields.u64()?, fields.u64()?);
                fields.take(12)?;
                let (fragment, offset) = (fields.u32()?, fields.u32()?);
                file(40, start, size, fragment, offset)
            }
            3 | 10 => {
                let length = Fields(&body(8)?[4..]).u32()? as usize;
                if length > libc::PATH_MAX as usize {
                    return Err(damaged("a link is too long"));
                }
                let target = body(8 + length)?.split_off(8);
                Ok(Inode::Link(OsString::from_vec(target).into()))
            }
            _ => Ok(Inode::Other),
        }
    }

    /// The content of a file: whole blocks, and perhaps an end in a fragment.
    fn content(
        &self,
        start: u64,
        size: usize,
        blocks: &[u32],
        (fragment, offset): (u32, usize),
    ) -> io::Result<Vec<u8>> {
        let (mut content, mut at) = (Vec::new(), start);
        for length in blocks {
            let left = size.saturating_sub(content.len());
            let bytes = self.data(at, *length, self.block.min(left))?;
            at = at.checked_add(u64::from(length & !BLOCK_PLAIN)).ok_or_else(end)?;
            content.extend(bytes);
        }
        content.truncate(size);
        let left = size - content.len();
        if left > 0 && fragment != NO_FRAGMENT {
            let (index, place) = (u64::from(fragment) / FRAGMENTS, u64::from(fragment) % FRAGMENTS);
            let mut pointer = [0; 8];
            let table = self.fragments.checked_add(8 * index).ok_or_else(end)?;
            self.file.read_exact_at(&mut pointer, table)?;
            let place = 16 * place as usize;
            let entry = self.metadata(u64::from_le_bytes(pointer), place, 16)?;
            let mut fields = Fields(&entry);
            let bytes = self.data(fields.u64()?, fields.u32()?, self.block)?;
            content.extend(bytes.get(offset..).and_then(|rest| rest.get(..left)).ok_or_else(end)?);
        }
        Ok(content)
    }

    fn data(&self, at: u64, length: u32, most: usize) -> io::Result<Vec<u8>> {
        if length == 0 {
            // A hole.
            return Ok(vec![0; most]);
        }
        let bytes = self.read_at(at, (length & !BLOCK_PLAIN) as usize)?;
        if length & BLOCK_PLAIN != 0 { Ok(bytes) } else { decompress(&bytes, self.block) }
    }

    /// Reads what begins in the metadata block at `at`, and may go on in the next ones.
    fn metadata(&self, mut at: u64, offset: usize, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes: Vec<u8> = Vec::new();
        while bytes.len() < offset + length {
            let mut head = [0; 2];
            self.file.read_exact_at(&mut head, at)?;
            let head = u16::from_le_bytes(head);
            let stored = usize::from(head & !METADATA_PLAIN);
            let block = self.read_at(at.saturating_add(2), stored)?;
            let block =
                if head & METADATA_PLAIN != 0 { block } else { decompress(&block, METADATA)? };
            if block.is_empty() {
                return Err(end());
            }
            bytes.extend(block);
            at = at.checked_add(2 + stored as u64).ok_or_else(end)?;
        }
        bytes.truncate(offset + length);
        Ok(bytes.split_off(offset))
    }

    fn read_at(&self, at: u64, length: usize) -> io::Result<Vec<u8>> {
        if length > MAX_BLOCK {
            return Err(damaged("a block is too large"));
        }
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    }
}

#[cfg(feature = "pull")]
fn decompress(bytes: &[u8], most: usize) -> io::Result<Vec<u8>> {
    zstd::bulk::decompress(bytes, most)
}

/// The SPANK plugin opens no images.
#[cfg(not(feature = "pull"))]
fn decompress(_: &[u8], _: usize) -> io::Result<Vec<u8>> {
    Err(io::ErrorKind::Unsupported.into())
}

fn damaged(problem: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem)
}

fn end() -> io::Error {
    damaged("it ends too early")
}

/// Numbers one after the other, the lowest byte first.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, length: usize) -> io::Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or_else(end)?;
        self.0 = rest;
        Ok(taken)
    }

    fn number<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("as many as were asked for"))
    }

    fn u16(&mut self) -> io::Result<u16> {
        Ok(u16::from_le_bytes(self.number()?))
    }

    fn u32(&mut self) -> io::Result<u32> {
        Ok(u32::from_le_bytes(self.number()?))
    }

    fn u64(&mut self) -> io::Result<u64> {
        Ok(u64::from_le_bytes(self.number()?))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{fs, io::Write as _, os::unix::fs::symlink, process::Command};

    use super::*;

    /// A squashfs of what `fill` puts into a directory; `None` where nothing here can make one.
    pub(crate) fn made(fill: impl Fn(&Path)) -> Option<(tempfile::TempDir, PathBuf)> {
        let dir = tempfile::tempdir().expect("tempdir");
        let (tree, file) = (dir.path().join("tree"), dir.path().join("file.sqfs"));
        fs::create_dir(&tree).expect("mkdir");
        fill(&tree);
        let mut command = Command::new("mksquashfs");
        command.arg(&tree).arg(&file).args(["-comp", "zstd", "-no-progress", "-quiet"]);
        let Err(error) = command.status() else { return Some((dir, file)) };
        let required = std::env::var_os("SHIFTER_TEST_REQUIRE").is_some_and(|value| value == "1");
        assert!(!required, "mksquashfs is required: {error}");
        writeln!(io::stderr(), "skipped: needs mksquashfs: {error}").expect("stderr");
        None
    }

    #[test]
    fn what_was_put_in_is_found() {
        let noise: Vec<u8> = (0..300_000_u32).flat_map(|n| (n * n).to_le_bytes()).collect();
        let Some((_dir, file)) = made(|tree| {
            for dir in ["etc", "usr/bin", "usr/empty", "home/me/src", "many"] {
                fs::create_dir_all(tree.join(dir)).expect("mkdir");
            }
            fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("write");
            fs::write(tree.join("etc/noise"), &noise).expect("write");
            fs::write(tree.join("etc/zeros"), vec![0; 400_000]).expect("write");
            fs::write(tree.join("usr/bin/sh"), "x").expect("write");
            for n in 0..2000 {
                fs::write(tree.join(format!("many/file-with-a-name-{n}")), n.to_string())
                    .expect("write");
            }
            for (target, link) in [
                ("usr/bin", "bin"),
                ("/usr/../../usr/empty", "absolute"),
                ("../../../etc/passwd", "etc/up"),
                ("loop", "loop"),
                ("nowhere", "dangling"),
            ] {
                symlink(target, tree.join(link)).expect("link");
            }
        }) else {
            return;
        };
        let image = Squashfs::open(&file).expect("open");
        let kind = |path: &str| image.kind(Path::new(path)).expect(path);
        for (path, expected) in [
            ("/", Some(Kind::Directory)),
            ("/bin/sh", Some(Kind::Other)),
            ("/bin/bash", None),
            ("/etc/passwd/x", None),
            ("/absolute", Some(Kind::EmptyDirectory)),
            ("/home/me/src", Some(Kind::EmptyDirectory)),
            ("/home/me", Some(Kind::Directory)),
            ("/home/../../bin/../empty", Some(Kind::EmptyDirectory)),
            ("/etc/up", Some(Kind::Other)),
            ("/loop", None),
            ("/dangling", None),
            ("/many/file-with-a-name-1999", Some(Kind::Other)),
        ] {
            assert_eq!(kind(path), expected, "{path}");
        }
        let read = |path: &str| image.read(Path::new(path), 2 << 20).expect(path);
        assert_eq!(read("/etc/passwd"), b"root:x:0:0::/root:/bin/sh\n");
        assert_eq!(read("/etc/noise"), noise);
        assert_eq!(read("/etc/zeros"), vec![0; 400_000]);
        assert_eq!(read("/many/file-with-a-name-77"), b"77");
        let names = image.list(Path::new("/bin/../../etc")).expect("etc");
        assert_eq!(names, ["noise", "passwd", "up", "zeros"]);
        assert_eq!(image.list(Path::new("/many")).expect("many").len(), 2000);
        assert_eq!(read("/etc/up"), b"", "a link at the end is not followed");
        assert_eq!(image.read(Path::new("/etc/passwd"), 5).expect("too long"), b"");
    }

    /// SECURITY R1: whatever it holds, it is refused or read, and takes no more than it says.
    #[test]
    fn damage_is_an_error() {
        let Some((_dir, file)) = made(|tree| {
            fs::create_dir(tree.join("etc")).expect("mkdir");
            fs::write(tree.join("etc/passwd"), "root:x:0:0::/root:/bin/sh\n").expect("write");
        }) else {
            return;
        };
        let whole = fs::read(&file).expect("read");
        let path = file.with_extension("damaged");
        // What follows is padding.
        let end = whole.iter().rposition(|byte| *byte != 0).expect("it is not empty");
        let damaged = File::create(&path).expect("create");
        damaged.write_all_at(&whole, 0).expect("write");
        for at in 0..=end {
            for flip in [0xff, 0x01, 0x80] {
                damaged.write_all_at(&[whole[at] ^ flip], at as u64).expect("write");
                if let Ok(image) = Squashfs::open(&path) {
                    // It does not matter what it says, only that it says it.
                    let _ = image.kind(Path::new("/etc/passwd"));
                    let _ = image.read(Path::new("/etc/passwd"), 1 << 20);
                }
            }
            damaged.write_all_at(&whole[at..=at], at as u64).expect("write");
        }
        fs::write(&path, &whole[..50]).expect("write");
        assert!(Squashfs::open(&path).is_err());
        fs::write(&path, vec![b'x'; 200]).expect("write");
        let error = Squashfs::open(&path).expect_err("no squashfs");
        assert_eq!(error.to_string(), "it is no squashfs");
    }
}
