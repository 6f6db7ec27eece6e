//! What an archive holds, without a file being made.

use std::io::BufRead;

use super::{
    Error, Limits, name,
    tar::{Kind, Reader},
};

/// One entry, as it is told.
#[derive(Debug)]
pub(crate) enum Item<'a> {
    /// A file whose data follows, in one piece.
    File { name: &'a [u8], size: u64 },
    /// A name for another entry, by a link of either kind.
    Link { name: &'a [u8], target: &'a [u8] },
    /// Anything else; sparse files too, whose content is not what follows.
    Other { name: &'a [u8] },
}

/// Reads an archive to its end as strictly as [`super::expand()`] does, and tells each entry when
/// `stream` stands at its data. Names are cleaned, as paths beneath the archive's root.
pub(crate) fn list(
    stream: impl BufRead,
    limits: &Limits,
    mut tell: impl FnMut(Item<'_>),
) -> Result<(), Error> {
    let mut reader = Reader::new(stream, limits);
    let mut count = 0;
    while let Some(entry) = reader.next()? {
        count += 1;
        if count > limits.entries {
            let entry = name::Name::new(&entry.name);
            return Err(Error::TooMany { entry, limit: limits.entries });
        }
        let name = &name::clean(&entry.name);
        match entry.kind {
            Kind::File if entry.sparse.is_none() => tell(Item::File { name, size: entry.size }),
            Kind::Symlink => {
                // From the directory that the link is in; an absolute one from the root.
                let (dir, _) = name::split(name);
                let dir = if entry.link.starts_with(b"/") { b"" } else { dir };
                let target = &name::clean(&[dir, b"/", &entry.link].concat());
                tell(Item::Link { name, target });
            }
            Kind::HardLink => tell(Item::Link { name, target: &name::clean(&entry.link) }),
            _ => tell(Item::Other { name }),
        }
    }
    reader.finish()
}
