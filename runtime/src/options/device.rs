//! Devices and GPUs as people name them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{ParseError, mount};

/// The longest name of the Container Device Interface, in bytes. None comes near it.
const MAX_CDI_NAME: usize = 255;
const GPU_KINDS: &str =
    "expected auto, all, none, or names as nvidia.com/gpu=0, separated by commas";

/// A device of the host: `PATH[:TARGET]`, or a name of the Container Device Interface. The host's
/// `/dev` is there as a whole; what a path adds is that the device must be there, or is there under
/// another name.
///
/// ```
/// use runtime::options::DeviceSpec;
///
/// assert!(matches!("/dev/fuse".parse()?, DeviceSpec::Path { .. }));
/// assert!(matches!("nvidia.com/gpu=all".parse()?, DeviceSpec::Cdi(_)));
/// # Ok::<(), runtime::options::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum DeviceSpec {
    /// A device, or a directory of some.
    Path {
        /// On the host.
        source: String,
        /// Inside.
        target: String,
    },
    /// What the node's CDI files say of it.
    Cdi(CdiName),
}

impl FromStr for DeviceSpec {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<DeviceSpec, ParseError> {
        let refuse = |problem: &'static str| Err(ParseError::new("device", text, problem));
        if !text.starts_with('/') && text.contains('/') && text.contains('=') {
            return Ok(DeviceSpec::Cdi(text.parse()?));
        }
        let mut fields = text.split(':');
        let source = fields.next().unwrap_or_default();
        let target = fields.next().unwrap_or(source);
        match fields.next() {
            None | Some("rw" | "rwm") => {}
            Some(_) => {
                return refuse("what may be done with it is the host's to say; leave it out");
            }
        }
        if fields.next().is_some() || text.contains('\0') {
            return refuse("expected PATH[:TARGET]");
        }
        mount::check_path(source)
            .and_then(|()| mount::check_target(target))
            .map_or_else(refuse, |()| {
                Ok(DeviceSpec::Path { source: source.to_owned(), target: target.to_owned() })
            })
    }
}

impl fmt::Display for DeviceSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceSpec::Path { source, target } => write!(f, "{source}:{target}"),
            DeviceSpec::Cdi(name) => name.fmt(f),
        }
    }
}

/// A device by its qualified name, `VENDOR/CLASS=NAME` (CDI SPEC.md, "Kind" and "Device").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CdiName {
    text: String,
    /// Where the kind ends.
    kind: usize,
}

impl CdiName {
    /// `VENDOR/CLASS`.
    pub fn kind(&self) -> &str {
        &self.text[..self.kind]
    }

    /// What stands behind the `=`.
    pub fn device(&self) -> &str {
        &self.text[self.kind + 1..]
    }
}

impl FromStr for CdiName {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<CdiName, ParseError> {
        let refuse = |problem| Err(ParseError::new("device", text, problem));
        if text.len() > MAX_CDI_NAME {
            return refuse("it is too long");
        }
        let Some((kind, device)) = text.split_once('=') else {
            return refuse("expected VENDOR/CLASS=NAME");
        };
        if !is_cdi_kind(kind) {
            return refuse("what stands before the = must be VENDOR/CLASS");
        }
        if !is_cdi_device(device) {
            return refuse("a device's name has letters, digits, and _-.: between them");
        }
        Ok(CdiName { text: text.to_owned(), kind: kind.len() })
    }
}

impl fmt::Display for CdiName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether this is a kind of the Container Device Interface: `nvidia.com/gpu`.
pub(crate) fn is_cdi_kind(kind: &str) -> bool {
    let is_word = |word: &str, inner: &str| {
        word.starts_with(|c: char| c.is_ascii_alphabetic())
            && word.ends_with(|c: char| c.is_ascii_alphanumeric())
            && word.chars().all(|c| c.is_ascii_alphanumeric() || inner.contains(c))
    };
    kind.split_once('/')
        .is_some_and(|(vendor, class)| is_word(vendor, "_-.") && is_word(class, "_-."))
}

/// Whether this is a name that a device of such a kind may have.
pub(crate) fn is_cdi_device(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.:".contains(c))
}

/// Which GPUs a container is given, with what their programs need of the host.
///
/// ```
/// use runtime::options::Gpu;
///
/// assert_eq!("auto".parse::<Gpu>()?, Gpu::Auto);
/// let Gpu::Named(names) = "nvidia.com/gpu=0,nvidia.com/gpu=1".parse()? else { panic!() };
/// assert_eq!(names[1].device(), "1");
/// # Ok::<(), runtime::options::ParseError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Gpu {
    /// All that the job was given, if it was given any; never a reason to fail.
    Auto,
    /// All that the job was given; none is an error.
    All,
    /// None: programs find no driver.
    Nothing,
    /// These, by name.
    Named(Vec<CdiName>),
}

impl FromStr for Gpu {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Gpu, ParseError> {
        match text {
            "auto" => Ok(Gpu::Auto),
            "all" => Ok(Gpu::All),
            "none" => Ok(Gpu::Nothing),
            _ if text.contains('/') => Ok(Gpu::Named(
                text.split(',').map(|name| name.trim().parse()).collect::<Result<_, _>>()?,
            )),
            _ => Err(ParseError::new("GPU", text, GPU_KINDS)),
        }
    }
}

impl Gpu {
    /// Reads what docker's `--gpus` says. Of a number, Slurm is the one to ask.
    pub fn of_dockers(text: &str) -> Result<Gpu, ParseError> {
        match text.trim_matches('"') {
            "all" | "-1" => Ok(Gpu::All),
            "0" => Ok(Gpu::Nothing),
            _ => Err(ParseError::new(
                "GPU",
                text,
                "which and how many is for Slurm to say (--gres=gpu:1); \
                 here, say --gpu for all that the job has, or --gpu=nvidia.com/gpu=0",
            )),
        }
    }
}

impl fmt::Display for Gpu {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Gpu::Auto => f.write_str("auto"),
            Gpu::All => f.write_str("all"),
            Gpu::Nothing => f.write_str("none"),
            Gpu::Named(names) => {
                let names: Vec<_> = names.iter().map(CdiName::to_string).collect();
                f.write_str(&names.join(","))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_qualified_or_refused() {
        for name in ["nvidia.com/gpu=0", "nvidia.com/gpu=0:1", "hpe.com/cxi=all", "a/b.c=GPU-1-x"] {
            let read: CdiName = name.parse().unwrap();
            assert_eq!(format!("{}={}", read.kind(), read.device()), name);
        }
        for name in ["gpu=0", "/gpu=0", "a/=0", "a/b=", "a/b=-x", "1a/b=0", "a/b/c=0", "a/b=x y"] {
            assert!(name.parse::<CdiName>().is_err(), "{name} is a name");
        }
    }

    #[test]
    fn gpus_are_read_as_they_are_written() {
        for text in ["auto", "all", "none", "nvidia.com/gpu=0,amd.com/gpu=all"] {
            assert_eq!(text.parse::<Gpu>().unwrap().to_string(), text);
        }
        for (text, says) in
            [("", "expected auto"), ("2", "expected auto"), ("a/b", "VENDOR"), ("a/b=0,", "VENDOR")]
        {
            let problem = text.parse::<Gpu>().expect_err(text).to_string();
            assert!(problem.contains(says), "{problem}");
        }
        assert_eq!(Gpu::of_dockers("all").unwrap(), Gpu::All);
        for text in ["2", "device=0", "\"device=0,1\"", "capabilities=utility"] {
            let problem = Gpu::of_dockers(text).expect_err(text).to_string();
            assert!(problem.contains("--gres=gpu:1"), "{problem}");
        }
    }
}
