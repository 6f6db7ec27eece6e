//! The unsafe fence: system calls that no dependency wraps, and those whose flags are a matter of
//! safety. Everything outside this folder is safe Rust.

#![allow(unsafe_code)]

pub mod beneath;
pub mod interrupt;
pub mod mount;
pub mod process;
pub mod xattr;
