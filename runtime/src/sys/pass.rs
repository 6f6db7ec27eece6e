//! Passing an open descriptor to another process: [`unix(7)`](https://man7.org/linux/man-pages/man7/unix.7.html),
//! `SCM_RIGHTS`.

use std::{
    io::{self, IoSlice, IoSliceMut},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
        unix::net::UnixStream,
    },
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};

/// Sends a descriptor: the other side gets its own.
pub fn send(socket: &UnixStream, fd: impl AsFd) -> io::Result<()> {
    send_all(socket, &[fd.as_fd()])
}

/// Sends several, of which [`receive_with`] takes four at most.
pub fn send_all(socket: &UnixStream, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let (text, rights) = ([IoSlice::new(b"x")], [ControlMessage::ScmRights(&fds)]);
    sendmsg::<()>(socket.as_raw_fd(), &text, &rights, MsgFlags::MSG_NOSIGNAL, None)?;
    Ok(())
}

/// Waits for a descriptor. An error if the other side ends without sending one.
pub fn receive(socket: &UnixStream) -> io::Result<OwnedFd> {
    let (mut byte, mut space) = ([0], cmsg_space!([i32; 1]));
    let mut text = [IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut text, Some(&mut space), flags)?;
    let fd = message.cmsgs()?.find_map(|part| match part {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    });
    let fd = fd.ok_or(io::ErrorKind::UnexpectedEof)?;
    // SAFETY: the kernel has just made it for this process, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits for the beginning of a message, and for the descriptors that come with it, of which there
/// are at most four.
pub fn receive_with(socket: &UnixStream, text: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut space = cmsg_space!([i32; 4]);
    let mut text = [IoSliceMut::new(text)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut text, Some(&mut space), flags)?;
    let mut fds = Vec::new();
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(received) = part {
            // SAFETY: as in `receive`.
            fds.extend(received.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }));
        }
    }
    Ok((message.bytes, fds))
}

#[cfg(test)]
mod tests {
    use std::{
        fs::File,
        io::{Read as _, Write as _, pipe},
    };

    use super::*;

    #[test]
    fn what_is_sent_is_open_on_the_other_side() {
        let (near, far) = UnixStream::pair().expect("pair");
        let (mut end, mut begin) = pipe().expect("pipe");
        send(&near, &end).expect("send");
        let mut received = File::from(receive(&far).expect("receive"));
        begin.write_all(b"text").expect("write");
        let mut text = [0; 4];
        received.read_exact(&mut text).expect("read");
        assert_eq!(&text, b"text");
        drop((near, begin));
        assert_eq!(end.read(&mut text).expect("read"), 0);
        let error = receive(&far).expect_err("nothing was sent");
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
    }
}
