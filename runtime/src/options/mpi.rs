//! Which MPI, as people name it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::ParseError;

/// Whose MPI a program in a container gets.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Mpi {
    /// The host's in the place of the image's, where the two are one to a program.
    #[default]
    Auto,
    /// The image's.
    Off,
    /// The host's of this name, or none at all.
    Named(String),
}

impl FromStr for Mpi {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Mpi, ParseError> {
        match text {
            "auto" => Ok(Mpi::Auto),
            "off" | "none" => Ok(Mpi::Off),
            name if is_stack_name(name) => Ok(Mpi::Named(name.to_owned())),
            _ => Err(ParseError::new("MPI", text, "expected auto, off, or the name of a stack")),
        }
    }
}

impl fmt::Display for Mpi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Mpi::Auto => "auto",
            Mpi::Off => "off",
            Mpi::Named(name) => name,
        })
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
        for text in ["auto", "off", "cray", "mpich-5.0_2"] {
            assert_eq!(text.parse::<Mpi>().unwrap().to_string(), text);
        }
        assert_eq!("none".parse::<Mpi>().unwrap(), Mpi::Off);
        for text in ["", "../x", "-a", "a b", "a/b", &"a".repeat(65)] {
            assert!(text.parse::<Mpi>().is_err(), "{text:?}");
        }
    }
}
