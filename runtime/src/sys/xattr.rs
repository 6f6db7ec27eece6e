//! Extended attributes of an open file. No dependency wraps them.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Sets one attribute: [`fsetxattr(2)`](https://man7.org/linux/man-pages/man2/setxattr.2.html).
pub fn fsetxattr(fd: impl AsFd, name: &CStr, value: &[u8]) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: the fd is borrowed and thus open; `name` ends in NUL; `value` is readable for the
    // length that goes with it. The kernel writes to none of them.
    let rc = unsafe { libc::fsetxattr(fd, name.as_ptr(), value.as_ptr().cast(), value.len(), 0) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Removes one attribute: [`fremovexattr(2)`](https://man7.org/linux/man-pages/man2/removexattr.2.html).
pub fn fremovexattr(fd: impl AsFd, name: &CStr) -> io::Result<()> {
    // SAFETY: as in `fsetxattr`.
    let rc = unsafe { libc::fremovexattr(fd.as_fd().as_raw_fd(), name.as_ptr()) };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Reads one attribute: [`fgetxattr(2)`](https://man7.org/linux/man-pages/man2/getxattr.2.html).
pub fn fgetxattr(fd: impl AsFd, name: &CStr) -> io::Result<Vec<u8>> {
    let fd = fd.as_fd().as_raw_fd();
    grow(|room| {
        // SAFETY: as in `fsetxattr`; the kernel writes at most `room.len()` bytes to `room`, and
        // with a length of 0 none at all.
        unsafe { libc::fgetxattr(fd, name.as_ptr(), room.as_mut_ptr().cast(), room.len()) }
    })
}

/// Reads the names of all attributes, each ended by NUL:
/// [`flistxattr(2)`](https://man7.org/linux/man-pages/man2/listxattr.2.html).
pub fn flistxattr(fd: impl AsFd) -> io::Result<Vec<u8>> {
    let fd = fd.as_fd().as_raw_fd();
    grow(|room| {
        // SAFETY: as in `fgetxattr`.
        unsafe { libc::flistxattr(fd, room.as_mut_ptr().cast(), room.len()) }
    })
}

/// Asks for the size, then for the bytes; again if they grew in between (ERANGE).
fn grow(mut call: impl FnMut(&mut [u8]) -> libc::ssize_t) -> io::Result<Vec<u8>> {
    loop {
        let need = usize::try_from(call(&mut [])).map_err(|_| io::Error::last_os_error())?;
        let mut room = vec![0; need];
        if need == 0 {
            return Ok(room);
        }
        match usize::try_from(call(&mut room)) {
            Ok(got) => {
                room.truncate(got);
                return Ok(room);
            }
            Err(_) => match io::Error::last_os_error() {
                error if error.raw_os_error() == Some(libc::ERANGE) => {}
                error => return Err(error),
            },
        }
    }
}
