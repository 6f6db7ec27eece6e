//! How an image is run, behind its squashfs.
//!
//! ```text
//! squashfs, as long as its superblock says   JSON   its length, u64    "OCICONF1"
//! ```
//!
//! A squashfs is a tree of files and nothing else: the variables, the command and the working
//! directory of an image have no place in it. Whatever reads one goes by the length in its superblock,
//! kernel and tools alike, and minds nothing that comes after; what writes to one, writes over that.
//! The JSON is the `config` of an OCI image configuration (config.md).

use std::{
    fs::File,
    io::{self, Seek as _, SeekFrom, Write as _},
    os::unix::fs::FileExt as _,
};

use crate::oci::RunConfig;

const MAGIC: &[u8; 8] = b"OCICONF1";
/// Length and magic.
const END: u64 = 16;
/// Most bytes of JSON that are read: as many as a manifest may have.
const MAX_LENGTH: u64 = 4 << 20;
/// Where a superblock says how many bytes there are (Documentation/filesystems/squashfs.rst).
const BYTES_USED: u64 = 40;

/// Writes behind a squashfs how it is run.
pub fn append_config(file: &mut File, config: &RunConfig) -> io::Result<()> {
    let text = serde_json::to_vec(config)?;
    file.seek(SeekFrom::End(0))?;
    file.write_all(&[&text[..], &(text.len() as u64).to_le_bytes(), MAGIC].concat())
}

/// Reads how a squashfs is run; `None` where nothing is said. What is no such thing says nothing: the
/// file may be anybody's.
pub fn config(file: &File) -> Option<RunConfig> {
    let size = file.metadata().ok()?.len();
    let at = size.checked_sub(END)?;
    let mut end = [0; END as usize];
    file.read_exact_at(&mut end, at).ok()?;
    let (length, magic) = end.split_first_chunk()?;
    let length = u64::from_le_bytes(*length);
    let begin = at.checked_sub(length).filter(|_| magic == MAGIC && length <= MAX_LENGTH)?;
    let mut used = [0; 8];
    file.read_exact_at(&mut used, BYTES_USED).ok()?;
    if u64::from_le_bytes(used) > begin {
        return None;
    }
    let mut text = vec![0; usize::try_from(length).ok()?];
    file.read_exact_at(&mut text, begin).ok()?;
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file that claims to be a squashfs of so many bytes.
    fn file(used: u64, size: usize) -> File {
        let mut content = vec![0; size];
        content[BYTES_USED as usize..][..8].copy_from_slice(&used.to_le_bytes());
        let mut file = tempfile::tempfile().expect("tempfile");
        file.write_all(&content).expect("write");
        file
    }

    #[test]
    fn what_is_written_behind_is_read() {
        let said = RunConfig { env: vec!["A=b c".into()], ..RunConfig::default() };
        let mut file = file(96, 4096);
        assert_eq!(config(&file), None);
        append_config(&mut file, &said).expect("append");
        assert_eq!(config(&file), Some(said));
    }

    #[test]
    fn nothing_is_believed_that_is_not_behind() {
        let said = RunConfig::default();
        // The end of the file system itself.
        let mut inside = file(4097, 4096);
        append_config(&mut inside, &said).expect("append");
        assert_eq!(config(&inside), None);
        for end in [
            [&u64::MAX.to_le_bytes()[..], MAGIC].concat(),
            [&(5_u64 << 20).to_le_bytes()[..], MAGIC].concat(),
            [&4_u64.to_le_bytes()[..], MAGIC].concat(),
            [&0_u64.to_le_bytes()[..], MAGIC].concat(),
            [&0_u64.to_le_bytes()[..], b"ociconf1"].concat(),
        ] {
            let mut file = file(96, 4096);
            file.write_all(&end).expect("write");
            assert_eq!(config(&file), None, "{end:?}");
        }
        assert_eq!(config(&tempfile::tempfile().expect("tempfile")), None);
    }
}
