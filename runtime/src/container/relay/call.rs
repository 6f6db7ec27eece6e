//! What a caller says of itself.

use std::{
    ffi::{OsStr, OsString},
    io::{self, Read as _},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt as _, net::UnixStream},
    },
    path::PathBuf,
};

use crate::sys::pass;

/// As the caller has them (`sys/caller`, `Head`), all of them words of eight bytes.
const MAGIC: u64 = u64::from_ne_bytes(*b"shifter1");
const LIMITS: usize = 16;
const WORDS: usize = 8 + 2 * LIMITS;
/// The kernel executes nothing with more than 6 MiB of arguments and variables (execve(2)).
const MAX_LENGTH: u64 = 16 << 20;

/// A call from inside.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) argv: Vec<OsString>,
    pub(super) env: Vec<(OsString, OsString)>,
    /// Where the caller stands, as it is called there; the directory itself, if it could be opened.
    pub(super) cwd: PathBuf,
    pub(super) directory: Option<OwnedFd>,
    /// Standard input, output and error, as far as they are open.
    pub(super) streams: [Option<OwnedFd>; 3],
    pub(super) umask: u32,
    pub(super) ignored: u64,
    pub(super) blocked: u64,
    pub(super) limits: [[u64; 2]; LIMITS],
}

impl Call {
    /// Reads a call. What is none is an error, which nobody need be told: it is not our program.
    pub(super) fn read(socket: &mut UnixStream) -> io::Result<Call> {
        let odd = || io::Error::from(io::ErrorKind::InvalidData);
        let mut head = [0; WORDS * 8];
        let (count, fds) = pass::receive_with(socket, &mut head)?;
        socket.read_exact(&mut head[count..])?;
        let mut words = head
            .chunks_exact(8)
            .map(|word| u64::from_ne_bytes(word.try_into().expect("chunks of eight bytes")));
        let mut word = || words.next().ok_or_else(odd);
        if word()? != MAGIC {
            return Err(odd());
        }
        let (umask, ignored, blocked, descriptors) = (word()?, word()?, word()?, word()?);
        let (arguments, variables, length) = (word()?, word()?, word()?);
        let mut limits = [[0; 2]; LIMITS];
        for limit in &mut limits {
            *limit = [word()?, word()?];
        }
        if length > MAX_LENGTH {
            return Err(odd());
        }
        let mut fds = fds.into_iter();
        let mut descriptor =
            |bit: u32| (descriptors & (1 << bit) != 0_u64).then(|| fds.next()).flatten();
        let streams = [descriptor(0), descriptor(1), descriptor(2)];
        let directory = descriptor(3);

        let mut text = Vec::new();
        socket.take(length).read_to_end(&mut text)?;
        if text.len() as u64 != length || text.pop() != Some(0) {
            return Err(odd());
        }
        let mut strings = text.split(|byte| *byte == 0).map(OsStr::from_bytes);
        let mut take = |count: u64| -> io::Result<Vec<OsString>> {
            let strings: Vec<_> =
                strings.by_ref().take(count as usize).map(OsStr::to_owned).collect();
            (strings.len() as u64 == count).then_some(strings).ok_or_else(odd)
        };
        let cwd = take(1)?.remove(0).into();
        let argv = take(arguments)?;
        // A variable without a value is none (environ(7)).
        let env = take(variables)?.iter().filter_map(|entry| variable(entry)).collect();
        if argv.is_empty() {
            return Err(odd());
        }
        let umask = umask as u32 & 0o777;
        Ok(Call { argv, env, cwd, directory, streams, umask, ignored, blocked, limits })
    }

    /// The name that it is called by.
    pub(super) fn name(&self) -> &OsStr {
        let first = self.argv.first().map(|name| name.as_bytes()).unwrap_or_default();
        OsStr::from_bytes(first.rsplit(|byte| *byte == b'/').next().unwrap_or_default())
    }
}

fn variable(entry: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = entry.as_bytes();
    let end = bytes.iter().position(|byte| *byte == b'=').filter(|end| *end > 0)?;
    let (name, value) = (OsStr::from_bytes(&bytes[..end]), OsStr::from_bytes(&bytes[end + 1..]));
    Some((name.to_owned(), value.to_owned()))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// What a caller without descriptors says.
    fn message(magic: u64, arguments: u64, variables: u64, length: u64, text: &[u8]) -> Vec<u8> {
        let mut words = [0; WORDS];
        words[..8].copy_from_slice(&[magic, 0o27, 0, 0, 0, arguments, variables, length]);
        [&words.map(u64::to_ne_bytes).concat(), text].concat()
    }

    fn read(message: &[u8]) -> io::Result<Call> {
        let (mut near, mut far) = UnixStream::pair()?;
        near.write_all(message)?;
        drop(near);
        Call::read(&mut far)
    }

    #[test]
    fn a_call_is_what_was_said() {
        let text = b"/home\0/.shifter/bin/srun\0\xff\0A=b=c\0=odd\0odd\0";
        let call = read(&message(MAGIC, 2, 3, text.len() as u64, text)).expect("a call");
        assert_eq!((call.name(), &call.cwd), (OsStr::new("srun"), &PathBuf::from("/home")));
        assert_eq!(call.argv, ["/.shifter/bin/srun".as_ref(), OsStr::from_bytes(b"\xff")]);
        assert_eq!(call.env, [("A".into(), "b=c".into())]);
        assert_eq!(call.umask, 0o27);
        assert!(call.streams.iter().all(Option::is_none) && call.directory.is_none());
    }

    #[test]
    fn what_is_no_call_is_refused() {
        let text = b"/\0srun\0";
        for (label, message) in [
            ("nothing", Vec::new()),
            ("half a head", message(MAGIC, 1, 0, 7, text)[..100].to_vec()),
            ("another program's", message(1, 1, 0, 7, text)),
            ("too long", message(MAGIC, 1, 0, MAX_LENGTH + 1, text)),
            ("fewer strings than said", message(MAGIC, 1 << 40, 0, 7, text)),
            ("fewer bytes than said", message(MAGIC, 1, 0, 1000, text)),
            ("no directory", message(MAGIC, 0, 0, 0, b"")),
        ] {
            assert!(read(&message).is_err(), "{label}");
        }
    }
}
