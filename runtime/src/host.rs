//! Who calls, and where: facts of the host, asked for once and before anything of an image can
//! answer in its place.

#![forbid(unsafe_code)]

use std::{
    env, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use nix::unistd::{Gid, Group, Uid, User, getgid, getgroups, getuid};

/// Files whose content a container shares with its host, by default.
const SHARED_FILES: [&str; 3] = ["/etc/hosts", "/etc/resolv.conf", "/etc/localtime"];

/// The calling user and the host, as they are outside of any container.
#[derive(Debug, Clone)]
pub struct Host {
    /// The caller; also the caller's number inside.
    pub uid: Uid,
    /// The caller's primary group.
    pub gid: Gid,
    /// The caller's name.
    pub user: String,
    /// The caller's home directory, if it is one: it exists and belongs to the caller.
    pub home: Option<PathBuf>,
    /// The caller's login shell.
    pub shell: PathBuf,
    /// All of the caller's groups with their names, the primary one first.
    pub groups: Vec<(Gid, String)>,
    /// Where the caller stands; absent if that has been removed.
    pub cwd: Option<PathBuf>,
    /// Name resolution and time zone of this host: path and content of what exists.
    pub files: Vec<(PathBuf, Vec<u8>)>,
}

impl Host {
    /// Asks the system. Must run before the container is entered: the name service loads its
    /// libraries at run time, and inside they would be the image's (SECURITY R18).
    pub fn probe() -> io::Result<Host> {
        let (uid, gid) = (getuid(), getgid());
        // A caller without an entry, or a name service that is down, is no reason to fail: the
        // numbers are what counts.
        let entry = User::from_uid(uid).ok().flatten();
        let from_env = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let home = match &entry {
            Some(user) => Some(user.dir.clone()),
            None => from_env("HOME").map(PathBuf::from),
        };
        let (user, shell) = match entry {
            Some(user) => (user.name, user.shell),
            None => {
                let user = from_env("USER").and_then(|name| name.into_string().ok());
                (user.unwrap_or_else(|| "user".to_owned()), PathBuf::new())
            }
        };
        let mut gids = vec![gid];
        gids.extend(getgroups()?.into_iter().filter(|&other| other != gid));
        Ok(Host {
            uid,
            gid,
            user,
            home: home.filter(|home| is_home(home, uid)),
            shell,
            groups: gids.into_iter().map(|gid| (gid, group_name(gid))).collect(),
            cwd: env::current_dir().ok(),
            files: SHARED_FILES
                .iter()
                .filter_map(|path| Some((PathBuf::from(path), fs::read(path).ok()?)))
                .collect(),
        })
    }
}

/// System accounts have homes such as `/`, `/bin` and `/nonexistent`; those are not meant to be
/// seen in a container.
fn is_home(path: &Path, uid: Uid) -> bool {
    path.is_absolute()
        && path.parent().is_some()
        && fs::metadata(path).is_ok_and(|meta| meta.is_dir() && meta.uid() == uid.as_raw())
}

fn group_name(gid: Gid) -> String {
    match Group::from_gid(gid) {
        Ok(Some(group)) => group.name,
        _ => format!("g{gid}"),
    }
}
