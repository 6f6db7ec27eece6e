//! Which MPI, as people name it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::ParseError;

/// Whose MPI a program in a container gets: `auto`, `off`, `cray`, `cray+glibc`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mpi {
    /// Whose.
    pub stack: Stack,
    /// Whose C library, where the host's MPI needs a newer one than the image has.
    pub c_library: CLibrary,
}

/// Which of the host's MPIs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Stack {
    /// The first in the place of the image's, where the two are one to a program.
    #[default]
    Auto,
    /// None: the image's own.
    Off,
    /// That of this name, or none at all.
    Named(String),
}

/// Whose C library a container has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CLibrary {
    /// The image's.
    #[default]
    Image,
    /// The host's, if the image's is too old for the host's MPI.
    Host,
}

/// Behind the name of a stack.
const GLIBC: &str = "+glibc";

impl FromStr for Mpi {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Mpi, ParseError> {
        let (name, c_library) = match text.strip_suffix(GLIBC) {
            Some(name) => (name, CLibrary::Host),
            None => (text, CLibrary::Image),
        };
        let stack = match name {
            "auto" => Stack::Auto,
            "off" | "none" if c_library == CLibrary::Image => Stack::Off,
            name if is_stack_name(name) => Stack::Named(name.to_owned()),
            _ => {
                let problem =
                    "expected auto, off, or the name of a stack, and +glibc behind it if need be";
                return Err(ParseError::new("MPI", text, problem));
            }
        };
        Ok(Mpi { stack, c_library })
    }
}

impl fmt::Display for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.stack {
            Stack::Auto => "auto",
            Stack::Off => "off",
            Stack::Named(name) => name,
        })?;
        f.write_str(if self.c_library == CLibrary::Host { GLIBC } else { "" })
    }
}

/// Whether a site may call an MPI so: it becomes a part of a path.
pub(crate) fn is_stack_name(name: &str) -> bool {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.len() <= 64
        && name.chars().all(is_plain)
        && !["auto", "off", "none"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_or_refused() {
        for text in ["auto", "off", "cray", "mpich-5.0_2", "auto+glibc", "cray+glibc"] {
            assert_eq!(text.parse::<Mpi>().unwrap().to_string(), text);
        }
        assert_eq!("none".parse::<Mpi>().unwrap().stack, Stack::Off);
        for text in [
            "off+glibc",
            "+glibc",
            "cray+",
            "cray+glibc+glibc",
            "",
            "../x",
            "-a",
            "a b",
            "a/b",
            &"a".repeat(65),
        ] {
            assert!(text.parse::<Mpi>().is_err(), "{text:?}");
        }
    }
}
