//! Whether the calling process may use a device.

use std::{
    io,
    path::{Path, PathBuf},
};

use nix::{
    errno::Errno,
    sys::statvfs::{FsFlags, statvfs},
    unistd::{AccessFlags, access},
};

use super::Error;

/// Why a device does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denial {
    /// It is not there.
    Absent,
    /// The cgroup of the process has other devices.
    Cgroup,
    /// Owner and mode.
    Mode(Errno),
    /// The mount that it is on: the kernel opens no device there, whatever its mode.
    NoDev,
}

/// Asks without opening: some drivers do work at the first open. The device cgroup answers as it
/// would then, by `EPERM`, where the modes would say `EACCES`.
pub(crate) fn check(device: &Path) -> Result<(), Denial> {
    match access(device, AccessFlags::R_OK | AccessFlags::W_OK) {
        Err(Errno::ENOENT | Errno::ENOTDIR) => Err(Denial::Absent),
        Err(Errno::EPERM) => Err(Denial::Cgroup),
        Err(errno) => Err(Denial::Mode(errno)),
        // access(2) knows nothing of it.
        Ok(()) if is_nodev(device) => Err(Denial::NoDev),
        Ok(()) => Ok(()),
    }
}

/// Whether devices on the mount that this is on do not open.
pub(crate) fn is_nodev(device: &Path) -> bool {
    statvfs(device).is_ok_and(|stat| stat.flags().contains(FsFlags::ST_NODEV))
}

/// Why none of the devices that tell jobs apart can be used; `None` if one can.
pub(super) fn refusal(gates: &[PathBuf]) -> Option<Error> {
    let checked: Vec<_> = gates.iter().map(|device| (device, check(device))).collect();
    if checked.is_empty() || checked.iter().any(|(_, answer)| answer.is_ok()) {
        return None;
    }
    let denied = |is: &dyn Fn(Denial) -> bool| -> Vec<PathBuf> {
        let all = checked.iter().filter(|(_, answer)| answer.is_err_and(is));
        all.map(|(device, _)| device.to_path_buf()).collect()
    };
    if let Some(path) = denied(&|denial| denial == Denial::NoDev).into_iter().next() {
        return Some(Error::NoDev { path });
    }
    let devices = denied(&|denial| denial == Denial::Cgroup);
    if !devices.is_empty() {
        return Some(Error::NotGranted { devices });
    }
    let errno = checked.iter().find_map(|(_, answer)| match answer {
        Err(Denial::Mode(errno)) => Some(*errno),
        _ => None,
    });
    let source: io::Error = errno.unwrap_or(Errno::ENOENT).into();
    Some(Error::Denied { devices: gates.to_vec(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_there_and_opens_or_it_does_not() {
        assert_eq!(check(Path::new("/dev/null")), Ok(()));
        assert_eq!(check(Path::new("/dev/no-such-device")), Err(Denial::Absent));
        assert!(refusal(&["/dev/no-such-device".into(), "/dev/null".into()]).is_none());
        assert!(refusal(&[]).is_none(), "what has no devices of its own is everybody's");
        let refused = refusal(&["/dev/no-such-device".into()]).unwrap();
        assert!(matches!(refused, Error::Denied { .. }), "{refused}");
    }
}
