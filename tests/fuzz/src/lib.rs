//! What the fuzz targets share.
//!
//! A target is a program of `targets/`: seeds, a dictionary, and a function that takes bytes, asserts
//! what must hold whatever they are, and says whether they were understood.

pub mod archive;
pub mod mutate;
pub mod site;

use std::{
    env, fs,
    hash::{DefaultHasher, Hash, Hasher},
    path::PathBuf,
    process,
};

/// Names the directory that a target writes its seeds to instead of running.
pub const SEEDS_VAR: &str = "FUZZ_SEEDS";

/// Bytes to begin with, and whether they have to be understood.
pub type Seed = (Vec<u8>, bool);

/// Writes seeds and dictionary, `seeds/` and `words`, to where [`SEEDS_VAR`] says, and ends the
/// program; without it does nothing. Seeds that are not taken as they are meant would steer nothing,
/// so they are tried first.
pub fn offer(seeds: Vec<Seed>, words: &[&[u8]], take: impl Fn(&[u8]) -> bool) {
    let Some(dir) = env::var_os(SEEDS_VAR).map(PathBuf::from) else { return };
    fs::create_dir_all(dir.join("seeds")).expect("make a directory for seeds");
    for (number, (seed, good)) in seeds.iter().enumerate() {
        assert!(take(seed) || !good, "seed {number} was not understood");
        fs::write(dir.join(format!("seeds/{number}")), seed).expect("write a seed");
    }
    let words = words.iter().map(|word| format!("\"{}\"\n", escaped(word)));
    fs::write(dir.join("words"), words.collect::<String>()).expect("write the dictionary");
    process::exit(0);
}

/// As libFuzzer's dictionaries want it.
fn escaped(word: &[u8]) -> String {
    let plain = |byte: u8| (byte.is_ascii_graphic() || byte == b' ') && !b"\"\\".contains(&byte);
    let one = |&byte: &u8| match plain(byte) {
        true => char::from(byte).to_string(),
        false => format!("\\x{byte:02x}"),
    };
    word.iter().map(one).collect()
}

/// Seeds of text.
pub fn texts<T: AsRef<str>>(good: bool, texts: impl IntoIterator<Item = T>) -> Vec<Seed> {
    texts.into_iter().map(|text| (text.as_ref().as_bytes().to_vec(), good)).collect()
}

/// Nothing in a message may move a cursor or hide what is said (SECURITY R17).
#[track_caller]
pub fn assert_printable(message: &str) {
    let odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}'
                | '\u{2028}' | '\u{2029}' | '\u{2066}'..='\u{2069}')
    };
    assert!(!message.contains(odd), "a message can drive a terminal: {message:?}");
}

/// A number that depends on the input and on nothing else: for choices that are to be the same when
/// the input is tried again.
pub fn die(input: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    input.hash(&mut hasher);
    hasher.finish()
}

/// Numbers that one number begins (xorshift).
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// Begins with any number.
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }

    /// One of several.
    pub fn choose<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// Makes a directory for this process alone, on a tmpfs. `run.sh` removes it: libFuzzer leaves no
/// time for that.
pub fn scratch() -> PathBuf {
    let above = env::var_os("TMPDIR").map_or_else(|| "/dev/shm".into(), PathBuf::from);
    let path = above.join(format!("fuzz-{}", process::id()));
    fs::create_dir(&path).expect("make a scratch directory");
    path
}
