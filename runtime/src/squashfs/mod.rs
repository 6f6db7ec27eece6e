//! Images as one file: looking into one, writing one, and what is written behind one.

#![forbid(unsafe_code)]

mod read;
mod tail;
mod write;

pub use self::{
    read::{Kind, Squashfs},
    tail::{append_config, config},
    write::{Error, PACKAGE, PROGRAM, find_program, write},
};

#[cfg(test)]
pub(crate) use self::read::tests::made;
