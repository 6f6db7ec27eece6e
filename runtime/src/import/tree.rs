//! From a directory to a layer's archive.
//!
//! All is walked by descriptor, and no link is followed: who else can write there gets nothing into
//! the layer that the caller did not name. Owners are not kept, as in every image here: what is in a
//! container is its caller's.

use std::{
    collections::HashMap,
    ffi::{CStr, CString, OsStr},
    fs::{self, File, Permissions},
    io::{self, Read as _},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{AtFlags, OFlag, open, openat, readlinkat},
    sys::stat::{FileStat, Mode, SFlag, fstat, fstatat},
};
use tar::{EntryType, Header};

use super::{
    Error, Made,
    input::{Input, failed},
    made,
    pack::{BUFFER, Packer, Workshop},
};
use crate::sys::{
    mount::proc_path,
    xattr::{fgetxattr, flistxattr},
};

/// What a header has room for.
const SHORT: usize = 100;
const BLOCK: usize = 512;

/// Whose tree it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The user's: nothing in it is changed.
    User,
    /// Made for this, and removed after: what cannot be read is made readable.
    Us,
}

/// Makes a layer of a directory of the user's.
pub(super) fn pack_path(input: &Input, workshop: &Workshop<'_>) -> Result<Made, Error> {
    let created = made::time_of(&input.path, input.is_stdin);
    Ok(Made { created, ..pack(&input.path, Owner::User, LeftOut::default(), workshop)? })
}

/// Makes a layer of a directory. `left_out` is not in it any more.
pub(super) fn pack(
    path: &Path,
    owner: Owner,
    mut left_out: LeftOut,
    workshop: &Workshop<'_>,
) -> Result<Made, Error> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let root = open(path, flags, Mode::empty()).map_err(|e| failed("open", path)(e.into()))?;
    let stat = fstat(&root).map_err(|e| failed("open", path)(e.into()))?;
    let made = workshop.layer(|out| {
        let mut walk = Walk {
            top: path,
            device: stat.st_dev,
            owner,
            names: HashMap::new(),
            left_out: &mut left_out,
            entries: 0,
            out,
            workshop,
        };
        walk.entry(b"./", &stat, EntryType::Directory, b"", &xattrs(&root), 0)?;
        walk.directory(root, &mut Vec::new())?;
        if walk.entries == 1 {
            return Err(Error::empty(&workshop.shown));
        }
        // Two blocks of zeros end an archive.
        walk.out.put(&[0; 2 * BLOCK])
    })?;
    if let Some(line) = left_out.line() {
        workshop.say(&format!("{}: {line}", workshop.shown));
    }
    Ok(made)
}

/// What an image cannot hold, or nobody could use in it.
#[derive(Debug, Default)]
pub(super) struct LeftOut {
    pub(super) devices: u64,
    pub(super) sockets: u64,
}

impl LeftOut {
    fn line(&self) -> Option<String> {
        let parts = [("device", self.devices), ("socket", self.sockets)];
        let parts = parts.iter().filter(|(_, count)| *count > 0);
        let parts: Vec<_> = parts
            .map(|(what, count)| format!("{count} {what}{}", if *count == 1 { "" } else { "s" }))
            .collect();
        (!parts.is_empty()).then(|| format!("left out: {}", parts.join(", ")))
    }
}

struct Walk<'w, 'p, 'a> {
    top: &'w Path,
    /// Other file systems below are not entered: `/proc` in a chroot that is in use.
    device: u64,
    owner: Owner,
    /// The first name of files that have several.
    names: HashMap<u64, Vec<u8>>,
    left_out: &'w mut LeftOut,
    entries: u64,
    out: &'w mut Packer<'p, 'a>,
    workshop: &'w Workshop<'a>,
}

impl Walk<'_, '_, '_> {
    /// Writes what a directory holds, in the order of the names, so that the same tree gives the
    /// same layer.
    fn directory(&mut self, dir: OwnedFd, path: &mut Vec<u8>) -> Result<(), Error> {
        let mut dir = Dir::from_fd(dir).map_err(|e| self.failed("read", path)(e))?;
        let mut names = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|e| self.failed("read", path)(e))?;
            if !matches!(entry.file_name().to_bytes(), b"." | b"..") {
                names.push(entry.file_name().to_owned());
            }
        }
        names.sort();
        let length = path.len();
        for name in names {
            if length > 0 {
                path.push(b'/');
            }
            path.extend_from_slice(name.to_bytes());
            self.take(dir.as_fd(), &name, path)?;
            path.truncate(length);
        }
        Ok(())
    }

    fn take(&mut self, dir: BorrowedFd<'_>, name: &CStr, path: &mut Vec<u8>) -> Result<(), Error> {
        let stat = fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW)
            .map_err(|e| self.failed("look at", path)(e))?;
        if name.to_bytes().starts_with(b".wh.") {
            // image-spec, layer.md, "Whiteouts"
            let problem = "in a layer, a name that begins with .wh. removes another".to_owned();
            let (file, what) = (self.workshop.shown.clone(), Path::new(OsStr::from_bytes(path)));
            return Err(Error::Damaged { file, what: what.display().to_string(), problem });
        }
        self.workshop.count(0)?;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        if kind != SFlag::S_IFDIR && stat.st_nlink > 1 {
            if let Some(first) = self.names.get(&stat.st_ino).cloned() {
                return self.entry(path, &stat, EntryType::Link, &first, &[], 0);
            }
            self.names.insert(stat.st_ino, path.clone());
        }
        match kind {
            SFlag::S_IFDIR => {
                let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
                let fd = self.open(dir, name, path, &stat, flags)?;
                let slash = [path, &b"/"[..]].concat();
                self.entry(&slash, &stat, EntryType::Directory, b"", &xattrs(&fd), 0)?;
                if stat.st_dev == self.device { self.directory(fd, path) } else { Ok(()) }
            }
            SFlag::S_IFREG => self.file(dir, name, path, &stat),
            SFlag::S_IFLNK => {
                let target = readlinkat(dir, name).map_err(|e| self.failed("read", path)(e))?;
                self.entry(path, &stat, EntryType::Symlink, target.as_bytes(), &[], 0)
            }
            SFlag::S_IFIFO => self.entry(path, &stat, EntryType::Fifo, b"", &[], 0),
            SFlag::S_IFSOCK => {
                self.left_out.sockets += 1;
                Ok(())
            }
            _ => {
                self.left_out.devices += 1;
                Ok(())
            }
        }
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        stat: &FileStat,
    ) -> Result<(), Error> {
        let fd = self.open(dir, name, path, stat, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
        let xattrs = xattrs(&fd);
        let mut file = File::from(fd);
        let size = stat.st_size.unsigned_abs();
        self.entry(path, stat, EntryType::Regular, b"", &xattrs, size)?;
        let (mut left, mut buffer) = (size, vec![0; BUFFER]);
        while left > 0 {
            let most = BUFFER.min(usize::try_from(left).unwrap_or(BUFFER));
            match file.read(&mut buffer[..most]) {
                Ok(0) => return Err(self.changed(path)),
                Ok(count) => {
                    self.out.put(&buffer[..count])?;
                    self.workshop.count(count)?;
                    left -= count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.system("read", path, error)),
            }
        }
        self.out.put(&[0; BLOCK][..(size.wrapping_neg() % BLOCK as u64) as usize])
    }

    /// Opens what was looked at, and nothing else.
    fn open(
        &self,
        dir: BorrowedFd<'_>,
        name: &CStr,
        path: &[u8],
        stat: &FileStat,
        flags: OFlag,
    ) -> Result<OwnedFd, Error> {
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let opened = match openat(dir, name, flags, Mode::empty()) {
            Err(Errno::EACCES) if self.owner == Owner::Us => {
                let handle = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let handle = openat(dir, name, handle, Mode::empty());
                let handle = handle.map_err(|e| self.failed("open", path)(e))?;
                let mode = Permissions::from_mode(stat.st_mode & 0o7777 | 0o700);
                fs::set_permissions(proc_path(handle.as_fd()), mode)
                    .map_err(|error| self.system("set mode of", path, error))?;
                openat(dir, name, flags, Mode::empty())
            }
            other => other,
        };
        let fd = opened.map_err(|e| self.failed("open", path)(e))?;
        let now = fstat(&fd).map_err(|e| self.failed("look at", path)(e))?;
        match (now.st_ino, now.st_dev) == (stat.st_ino, stat.st_dev) {
            true => Ok(fd),
            false => Err(self.changed(path)),
        }
    }

    /// Writes a header, with PAX records before it where it has no room (pax, "Extended Header").
    fn entry(
        &mut self,
        path: &[u8],
        stat: &FileStat,
        kind: EntryType,
        link: &[u8],
        xattrs: &[(CString, Vec<u8>)],
        size: u64,
    ) -> Result<(), Error> {
        self.entries += 1;
        let mut records = Vec::new();
        for (key, value) in [(&b"path"[..], path), (b"linkpath", link)] {
            if value.len() > SHORT {
                record(&mut records, key, value);
            }
        }
        if stat.st_mtime < 0 {
            record(&mut records, b"mtime", stat.st_mtime.to_string().as_bytes());
        }
        for (name, value) in xattrs {
            record(&mut records, &[b"SCHILY.xattr.", name.to_bytes()].concat(), value);
        }
        if !records.is_empty() {
            let header = header(b"pax", EntryType::XHeader, 0o644, 0, b"", records.len() as u64);
            self.out.put(header.as_bytes())?;
            records.resize(records.len().next_multiple_of(BLOCK), 0);
            self.out.put(&records)?;
        }
        let mtime = stat.st_mtime.max(0).unsigned_abs();
        let header = header(path, kind, stat.st_mode & 0o7777, mtime, link, size);
        self.out.put(header.as_bytes())
    }

    fn path(&self, path: &[u8]) -> PathBuf {
        self.top.join(OsStr::from_bytes(path))
    }

    fn failed(&self, op: &'static str, path: &[u8]) -> impl FnOnce(Errno) -> Error + use<> {
        let path = self.path(path);
        move |errno| failed(op, &path)(errno.into())
    }

    fn system(&self, op: &'static str, path: &[u8], error: io::Error) -> Error {
        failed(op, &self.path(path))(error)
    }

    fn changed(&self, path: &[u8]) -> Error {
        self.system("read", path, io::Error::other("it changed while it was read"))
    }
}

fn header(path: &[u8], kind: EntryType, mode: u32, mtime: u64, link: &[u8], size: u64) -> Header {
    let mut header = Header::new_ustar();
    let fields = header.as_ustar_mut().expect("made as one");
    for (field, value) in [(&mut fields.name, path), (&mut fields.linkname, link)] {
        let short = &value[..value.len().min(SHORT)];
        field[..short.len()].copy_from_slice(short);
    }
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(mtime);
    header.set_size(size);
    header.set_cksum();
    header
}

/// `LENGTH KEY=VALUE\n`, where the length counts itself.
fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.extend_from_slice(&[b" ", key, b"=", value, b"\n"].concat());
}

/// The attributes that an image keeps. A file system that has none says so in several ways.
fn xattrs(fd: &OwnedFd) -> Vec<(CString, Vec<u8>)> {
    let names = flistxattr(fd).unwrap_or_default();
    let names = names.split_inclusive(|byte| *byte == 0);
    let names = names.filter_map(|name| CStr::from_bytes_with_nul(name).ok());
    let kept = names.filter(|name| name.to_bytes().starts_with(b"user."));
    kept.filter_map(|name| Some((name.to_owned(), fgetxattr(fd, name).ok()?))).collect()
}
