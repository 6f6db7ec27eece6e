//! The unsafe fence: system calls that no dependency wraps, and those whose flags are a matter of
//! safety. Everything outside this folder is safe Rust.

#![allow(unsafe_code)]

pub mod beneath;
pub mod interrupt;
#[cfg(all(feature = "isal", target_arch = "x86_64"))]
pub mod isal;
pub mod mount;
pub mod process;
pub mod xattr;
