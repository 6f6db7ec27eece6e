//! `/etc/passwd` and `/etc/group` as the caller needs them: the image's own lines, and above them
//! the caller's, so that every lookup of the caller's numbers has an answer.
//!
//! The image's files are hostile input. They are parsed by hand, never by the name service, and
//! what the host says is made fit for the format: a `:` or a newline in a home directory would
//! write fields and lines of its own (cri-o CVE-2022-4318; SECURITY R18, R20).

use std::{
    fs::File,
    io::{self, Read},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use nix::{fcntl::OFlag, sys::stat::Mode, unistd::Gid};

use crate::{Host, sys::beneath};

/// Who there is.
pub(super) const PASSWD: &str = "/etc/passwd";
/// Which groups there are.
pub(super) const GROUP: &str = "/etc/group";
/// Both of them.
pub(super) const FILES: [&str; 2] = [PASSWD, GROUP];

/// Largest identity file that is read from an image, in bytes.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// What `/etc/nsswitch.conf` says inside: the files that were just made sane, and name servers.
/// An image's own may name services whose daemons and libraries are on no compute node.
pub(super) const NSSWITCH: &str = "\
passwd: files
group: files
shadow: files
hosts: files dns
networks: files
protocols: files
services: files
ethers: files
rpc: files
";

/// Reads a small file of an image; empty if there is no such regular file. A fifo there would wait
/// for ever (CVE-2024-9676), a link at the end could be anything.
pub(super) fn read(root: BorrowedFd<'_>, path: &str) -> io::Result<Vec<u8>> {
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let Ok(fd) = beneath::open(root, Path::new(path), flags, Mode::empty()) else {
        // Missing, a link, not ours to read: whatever it is, it says nothing about users.
        return Ok(Vec::new());
    };
    let file = File::from(fd);
    let meta = file.metadata()?;
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Ok(Vec::new());
    }
    // Room for the end as well, or it is looked for in small steps.
    let mut content = Vec::with_capacity(meta.len() as usize + 1);
    file.take(MAX_FILE).read_to_end(&mut content)?;
    Ok(content)
}

/// Whether the image has something at `path`.
pub(super) fn exists(root: impl AsFd, path: &Path) -> bool {
    beneath::open(root.as_fd(), path, OFlag::O_PATH, Mode::empty()).is_ok()
}

/// The image's users below the caller.
pub(super) fn passwd(image: &[u8], host: &Host, home: &Path, shell: &Path) -> Vec<u8> {
    let (uid, name) = (host.uid.to_string(), field(host.user.as_bytes()));
    let mut file = join(&[
        &name,
        b"x",
        uid.as_bytes(),
        host.gid.to_string().as_bytes(),
        &name,
        &field(home.as_os_str().as_bytes()),
        &field(shell.as_os_str().as_bytes()),
    ]);
    append_others(&mut file, image, |line_name, number| {
        line_name == name || number == uid.as_bytes()
    });
    file
}

/// The image's groups below the caller's.
pub(super) fn group(image: &[u8], host: &Host) -> Vec<u8> {
    let user = field(host.user.as_bytes());
    let mut file = Vec::new();
    let groups: Vec<(Vec<u8>, String)> = host
        .groups
        .iter()
        .map(|(gid, name)| (field(name.as_bytes()), Gid::to_string(gid)))
        .collect();
    for (name, gid) in &groups {
        file.extend(join(&[name, b"x", gid.as_bytes(), &user]));
    }
    append_others(&mut file, image, |line_name, number| {
        groups.iter().any(|(name, gid)| line_name == name || number == gid.as_bytes())
    });
    file
}

/// What has become of `image` by what was done to our file: `ours` before, `there` after. The caller's
/// lines are not in it, and those are that gave way to them.
pub(super) fn without(there: &[u8], ours: &[u8], image: &[u8]) -> Vec<u8> {
    let split = |file| {
        let lines = <[u8]>::split(file, |&byte| byte == b'\n');
        lines.filter(|line| !line.is_empty()).collect::<Vec<_>>()
    };
    let (there, ours, image) = (split(there), split(ours), split(image));
    let kept = image.iter().filter(|line| !ours.contains(line) || there.contains(line));
    let new = there.iter().filter(|line| !ours.contains(line));
    kept.chain(new).flat_map(|line| [line, &b"\n"[..]].concat()).collect()
}

/// Copies the lines of `image` whose first and third field are not `taken`.
fn append_others(file: &mut Vec<u8>, image: &[u8], taken: impl Fn(&[u8], &[u8]) -> bool) {
    for line in image.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let mut fields = line.split(|&byte| byte == b':');
        let (name, number) = (fields.next().unwrap_or_default(), fields.nth(1).unwrap_or_default());
        if !taken(name, number) {
            file.extend_from_slice(line);
            file.push(b'\n');
        }
    }
}

fn join(fields: &[&[u8]]) -> Vec<u8> {
    let mut line = fields.join(&b':');
    line.push(b'\n');
    line
}

/// A value that is one field and no more.
fn field(value: &[u8]) -> Vec<u8> {
    value
        .iter()
        .map(|&byte| if byte == b':' || byte.is_ascii_control() { b'_' } else { byte })
        .collect()
}

#[cfg(test)]
mod tests {
    use nix::unistd::Uid;

    use super::*;

    fn host() -> Host {
        Host {
            uid: Uid::from_raw(1234),
            gid: Gid::from_raw(100),
            user: "ada".into(),
            home: None,
            shell: "/bin/zsh".into(),
            groups: vec![
                (Gid::from_raw(100), "users".into()),
                (Gid::from_raw(7000), "proj:x\n".into()),
            ],
            cwd: None,
            files: vec![],
        }
    }

    #[test]
    fn the_caller_comes_first_and_replaces_namesakes() {
        let image = b"root:x:0:0::/root:/bin/sh\nada:x:33:33::/:/bin/false\n\
                      web:x:1234:1::/:/x\n\nodd line\nlast:x:9:9::/:/x";
        let text = passwd(image, &host(), Path::new("/home/ada"), Path::new("/bin/sh"));
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "ada:x:1234:100:ada:/home/ada:/bin/sh\nroot:x:0:0::/root:/bin/sh\nodd line\n\
             last:x:9:9::/:/x\n"
        );
    }

    #[test]
    fn groups_are_the_callers_then_the_images() {
        let text = group(b"root:x:0:\nusers:x:985:\nvideo:x:7000:\nusr:x:100:\n", &host());
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "users:x:100:ada\nproj_x_:x:7000:ada\nroot:x:0:\n"
        );
    }

    #[test]
    fn a_home_cannot_write_a_line_of_its_own() {
        let home = Path::new("/h\nroot::0:0::/:/bin/sh");
        let text = passwd(b"", &host(), home, Path::new("/bin/sh"));
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.lines().count(), 1, "a home directory added a user: {text}");
        assert_eq!(text.matches(':').count(), 6, "a home directory added a field: {text}");
    }

    #[test]
    fn only_small_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let root = File::open(dir.path()).unwrap();
        let read = |path| read(root.as_fd(), path).unwrap();
        std::fs::write(dir.path().join("big"), vec![b'a'; MAX_FILE as usize + 1]).unwrap();
        std::fs::write(dir.path().join("good"), "a:b").unwrap();
        std::os::unix::fs::symlink("/good", dir.path().join("link")).unwrap();
        nix::unistd::mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        assert_eq!(read("/good"), b"a:b");
        for path in ["/big", "/link", "/fifo", "/none", "/"] {
            assert_eq!(read(path), b"", "{path} was read");
        }
    }
}
