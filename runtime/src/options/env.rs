//! Variables as people write them, one by one and in files.

use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};

use super::{ParseError, mount::comma_separated};
use crate::report::printable;

/// A variable: `NAME=VALUE`, `NAME` for the caller's own value, or `NAME-` for none.
///
/// ```
/// use runtime::options::EnvSpec;
///
/// let caller = EnvSpec::Inherit { name: "LD_LIBRARY_PATH".into() };
/// assert_eq!("LD_LIBRARY_PATH".parse::<EnvSpec>()?, caller);
/// assert_eq!("DEBUG-".parse::<EnvSpec>()?, EnvSpec::Unset { name: "DEBUG".into() });
/// # Ok::<(), runtime::options::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum EnvSpec {
    /// This value, whatever the image and the caller say.
    Set {
        /// Which variable.
        name: String,
        /// Its value.
        value: String,
    },
    /// The caller's value, if there is one, instead of the image's; even one that points into the
    /// host's file tree.
    Inherit {
        /// Which variable.
        name: String,
    },
    /// No such variable, whoever sets it.
    Unset {
        /// Which variable.
        name: String,
    },
}

impl EnvSpec {
    /// The variable that this is about.
    pub fn name(&self) -> &str {
        match self {
            EnvSpec::Set { name, .. } | EnvSpec::Inherit { name } | EnvSpec::Unset { name } => name,
        }
    }
}

impl FromStr for EnvSpec {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<EnvSpec, ParseError> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let refuse = |problem| Err(ParseError::new("variable", text, problem));
        if text.contains('\0') {
            return refuse("it holds a NUL byte");
        }
        if name.is_empty() || name == "-" {
            return refuse("it has no name");
        }
        if name.contains(char::is_whitespace) {
            return refuse("a name has no blanks");
        }
        let name = name.to_owned();
        Ok(match (value, name.strip_suffix('-')) {
            (Some(value), _) => EnvSpec::Set { name, value: value.to_owned() },
            (None, Some(name)) => EnvSpec::Unset { name: name.to_owned() },
            (None, None) => EnvSpec::Inherit { name },
        })
    }
}

impl fmt::Display for EnvSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EnvSpec::Set { name, value } => write!(f, "{name}={value}"),
            EnvSpec::Inherit { name } => f.write_str(name),
            EnvSpec::Unset { name } => write!(f, "{name}-"),
        }
    }
}

/// Takes a list of variables apart: commas are between them, or in one that is in quotes. What follows
/// a comma in a value that is not would be taken for a name; most are none.
pub(super) fn split(text: &str) -> Result<Vec<String>, ParseError> {
    let refuse = |problem| ParseError::new("variables", text, problem);
    let specs = comma_separated(text).map_err(refuse)?;
    let is_name = |spec: &String| {
        let name = spec.strip_suffix('-').unwrap_or(spec);
        !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
    };
    match specs.iter().skip(1).all(|spec| spec.contains('=') || is_name(spec)) {
        true => Ok(specs),
        false => Err(refuse("a value with a comma takes quotes around it all: \"NAME=A,B\"")),
    }
}

/// Why a file of variables cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum EnvFileError {
    /// It is not there, or not to be had, or not text.
    #[error("read variables from {}", printable(&path.to_string_lossy()))]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// One of its lines is no variable.
    #[error("{}:{line}", printable(&path.to_string_lossy()))]
    Line {
        /// Which file.
        path: PathBuf,
        /// Which line, the first being 1.
        line: usize,
        /// What is wrong with it.
        source: ParseError,
    },
}

/// Reads a file of variables as docker's `--env-file` does: a variable a line, the value as it
/// stands; lines that are empty or begin with `#` say nothing.
pub fn read_env_file(path: &Path) -> Result<Vec<EnvSpec>, EnvFileError> {
    let text = fs::read_to_string(path)
        .map_err(|source| EnvFileError::Read { path: path.to_owned(), source })?;
    let lines = text.strip_prefix('\u{feff}').unwrap_or(&text).lines().map(str::trim_start);
    let lines = lines.enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
    let read = |(number, line): (usize, &str)| {
        let broken =
            |source| EnvFileError::Line { path: path.to_owned(), line: number + 1, source };
        line.parse().map_err(broken)
    };
    lines.map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_is_read_or_refused() {
        for (text, says) in [
            ("", "no name"),
            ("=1", "no name"),
            ("-", "no name"),
            ("A B", "blanks"),
            ("A=\0", "NUL"),
        ] {
            let error = text.parse::<EnvSpec>().expect_err(text).to_string();
            assert!(error.contains(says), "{text:?}: {error}");
        }
        for text in ["A=", "A==b\n ", "A", "A-", "A-=1", "BASH_FUNC_x%%=() { :; }"] {
            assert_eq!(text.parse::<EnvSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_file_of_variables_is_dockers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("env");
        fs::write(&path, "\u{feff}# a comment\n\n  A=1 # no comment \nB=\"x\"\r\nC\n").unwrap();
        let read: Vec<_> = read_env_file(&path).unwrap().iter().map(EnvSpec::to_string).collect();
        assert_eq!(read, ["A=1 # no comment ", "B=\"x\"", "C"]);
        fs::write(&path, "A=1\n\nB C=2\n").unwrap();
        let error = read_env_file(&path).unwrap_err();
        assert!(error.to_string().ends_with("env:3"), "{error}");
        fs::write(&path, b"A=\xff\n").unwrap();
        assert!(matches!(read_env_file(&path), Err(EnvFileError::Read { .. })));
        assert!(matches!(read_env_file(&dir.path().join("no")), Err(EnvFileError::Read { .. })));
    }
}
