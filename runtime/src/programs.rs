//! The programs, which lie side by side.

use std::{env, io, path::PathBuf};

/// Starts containers of images that are on the node, and leaves all else to the other.
pub const SHIFTER: &str = "shifter";
/// Has the network half, and whatever a start does not need.
pub const PULL: &str = "shifter-pull";

/// Where one of them is: beside the program that asks, by whatever name that was called. One that a new
/// version has replaced meanwhile finds the new ones.
pub fn path(name: &str) -> io::Result<PathBuf> {
    Ok(env::current_exe()?.with_file_name(name))
}
