//! Who calls, and where: facts of the host, asked for once and before anything of an image can
//! answer in its place.

#![forbid(unsafe_code)]

use std::{
    env,
    ffi::OsStr,
    fs, io,
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
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
        let local = Local::read();
        let entry = local.user(uid).or_else(|| {
            let user = User::from_uid(uid).ok().flatten()?;
            Some(Entry { user: user.name, home: user.dir, shell: user.shell })
        });
        let from_env = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        let home = match &entry {
            Some(entry) => Some(entry.home.clone()),
            None => from_env("HOME").map(PathBuf::from),
        };
        let (user, shell) = match entry {
            Some(entry) => (entry.user, entry.shell),
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
            groups: gids.into_iter().map(|gid| (gid, group_name(gid, &local))).collect(),
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

fn group_name(gid: Gid, local: &Local) -> String {
    let from_service = || Group::from_gid(gid).ok().flatten().map(|group| group.name);
    local.group(gid).or_else(from_service).unwrap_or_else(|| format!("g{gid}"))
}

/// What is known of a user.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    user: String,
    home: PathBuf,
    shell: PathBuf,
}

/// The files of this host's accounts, as far as the name service would look into them before all else, and
/// take what it finds (nsswitch.conf(5)). Then its answer is in them, and the service itself, which
/// looks for its daemon four times before it reads them, would be a twentieth of a container's start.
#[derive(Debug, Default)]
struct Local {
    passwd: Vec<u8>,
    group: Vec<u8>,
}

impl Local {
    fn read() -> Local {
        let services = fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
        let read = |database: &str| match is_files_first(&services, database) {
            true => fs::read(Path::new("/etc").join(database)).unwrap_or_default(),
            false => Vec::new(),
        };
        Local { passwd: read("passwd"), group: read("group") }
    }

    fn user(&self, uid: Uid) -> Option<Entry> {
        let [user, .., home, shell] = fields::<7>(&self.passwd, uid.as_raw())?;
        let path = |text| PathBuf::from(OsStr::from_bytes(text));
        let user = String::from_utf8_lossy(user).into_owned();
        Some(Entry { user, home: path(home), shell: path(shell) })
    }

    fn group(&self, gid: Gid) -> Option<String> {
        let [name, ..] = fields::<4>(&self.group, gid.as_raw())?;
        Some(String::from_utf8_lossy(name).into_owned())
    }
}

/// Whether `files` is the first service of a database, and what it finds the last word.
fn is_files_first(services: &str, database: &str) -> bool {
    let lines = services.lines().map(|line| line.split('#').next().unwrap_or_default());
    let found = lines.filter_map(|line| line.trim_start().strip_prefix(database));
    let Some(services) = found.filter_map(|rest| rest.trim_start().strip_prefix(':')).next() else {
        return false;
    };
    let mut services = services.split_whitespace();
    services.next() == Some("files") && services.next().is_none_or(|next| !next.starts_with('['))
}

/// The fields of the first line of passwd(5) or group(5) with this number in its third. Lines that refer to
/// another service are nobody's.
fn fields<const N: usize>(file: &[u8], number: u32) -> Option<[&[u8]; N]> {
    let lines = file.split(|&byte| byte == b'\n');
    let lines = lines.filter(|line| !matches!(line.first(), None | Some(b'+' | b'-' | b'#')));
    let mut lines = lines.map(|line| line.split(|&byte| byte == b':').collect::<Vec<_>>());
    let number = number.to_string();
    let line = lines.find(|fields| fields.get(2) == Some(&number.as_bytes()))?;
    line.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_count_where_they_are_first_and_final() {
        for (services, first) in [
            ("passwd: files", true),
            ("# none\n passwd :\tfiles systemd # [SUCCESS=merge]\npasswd: sss\n", true),
            ("passwd: sss files", false),
            ("passwd: files [SUCCESS=continue] sss", false),
            ("passwd: compat", false),
            ("#passwd: files", false),
            ("passwd_compat: files", false),
            ("passwd:", false),
            ("group: files", false),
            ("", false),
        ] {
            assert_eq!(is_files_first(services, "passwd"), first, "{services}");
        }
    }

    #[test]
    fn an_entry_is_whole_or_the_name_services() {
        let passwd =
            b"#x:x:5:5::/c:/c\n+y:x:5:5::/y:/y\n\nshort:x:6:6\na:x:5:7:A, B:/home/a:/bin/sh\n\
                       b:x:5:5::/b:/b\nc:x:8:8:::\n";
        let local = Local { passwd: passwd.to_vec(), group: b"g:x:5:a,b\nh:x:6\n".to_vec() };
        let entry = |user: &str, home: &str, shell: &str| Entry {
            user: user.to_owned(),
            home: home.into(),
            shell: shell.into(),
        };
        assert_eq!(local.user(5.into()), Some(entry("a", "/home/a", "/bin/sh")));
        assert_eq!(local.user(8.into()), Some(entry("c", "", "")));
        assert_eq!((local.user(6.into()), local.user(9.into())), (None, None));
        assert_eq!((local.group(5.into()), local.group(6.into())), (Some("g".to_owned()), None));
    }

    /// Whatever this host's are like.
    #[test]
    fn the_files_say_what_the_name_service_says() {
        let local = Local::read();
        for number in 0..2000 {
            if let Some(entry) = local.user(number.into()) {
                let user = User::from_uid(number.into()).expect("it answers").expect("it is there");
                assert_eq!(entry, Entry { user: user.name, home: user.dir, shell: user.shell });
            }
            if let Some(name) = local.group(number.into()) {
                let group = Group::from_gid(number.into()).expect("it answers");
                assert_eq!(Some(name), group.map(|group| group.name));
            }
        }
    }
}
