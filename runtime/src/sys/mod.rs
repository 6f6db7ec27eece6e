//! The unsafe fence: system calls that no dependency wraps, and those whose flags are a matter of
//! safety. Everything outside this folder is safe Rust.

#![allow(unsafe_code)]

pub mod beneath;
pub mod confine;
pub mod interrupt;
#[cfg(all(feature = "isal", target_arch = "x86_64"))]
pub mod isal;
pub mod mount;
pub mod pass;
pub mod process;
pub mod pty;
pub mod seccomp;
pub mod xattr;

/// The program that a container has in the place of the host's commands (`caller/`, `build.rs`).
pub const CALLER: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/caller"));

/// Whether an answer of the kernel's means that space, or the caller's quota of it, ran out.
pub fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded)
}
