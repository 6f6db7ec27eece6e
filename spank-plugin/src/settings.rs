//! What the site says on the plugin's line in plugstack.conf.
//!
//! ```text
//! required /usr/lib64/slurm/shifter.so shifter=/usr/bin/shifter config=/etc/shifter/shifter.toml
//! ```
//!
//! With `prefix=WORD` options are `--WORD-mounts` and so on, for sites where another plugin has those
//! that begin with `--container-`.
//!
//! The line is read when a job asks for a container and not before: a typing error in it is told to
//! those jobs and disturbs no other.

use std::path::PathBuf;

/// The program that is put in front of a task's command.
const DEFAULT_LAUNCHER: &str = "/usr/bin/shifter";

/// What options begin with, as those of pyxis do.
pub(crate) const DEFAULT_PREFIX: &str = "container";

/// The plugin's own settings; the launcher has its own file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `shifter=PATH`: the launcher.
    pub(crate) launcher: PathBuf,
    /// `prefix=WORD`: what options begin with.
    pub(crate) prefix: String,
    /// `config=PATH`: the site's file for the launcher, where it is not the usual one.
    pub(crate) config: Option<PathBuf>,
}

/// What is wrong with the line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    #[error(
        "plugstack.conf: unknown argument {0:?}; \
         the plugin takes shifter=PATH, config=PATH and prefix=WORD (tell the administrator)"
    )]
    Unknown(String),
    #[error("plugstack.conf: {0}: not a word of small letters (tell the administrator)")]
    Prefix(String),
    #[error("plugstack.conf: {0}: not an absolute path (tell the administrator)")]
    Relative(String),
}

impl Settings {
    /// Reads the plugin's arguments.
    pub(crate) fn parse(args: &[&str]) -> Result<Settings, Error> {
        let (launcher, prefix) = (DEFAULT_LAUNCHER.into(), prefix(args).to_owned());
        let mut settings = Settings { launcher, prefix, config: None };
        for arg in args {
            let absolute = |path: &str| match path.starts_with('/') {
                true => Ok(PathBuf::from(path)),
                false => Err(Error::Relative((*arg).to_owned())),
            };
            match arg.split_once('=') {
                Some(("shifter", path)) => settings.launcher = absolute(path)?,
                Some(("config", path)) => settings.config = Some(absolute(path)?),
                Some(("prefix", word)) if is_word(word) => {}
                Some(("prefix", _)) => return Err(Error::Prefix((*arg).to_owned())),
                Some(("fault", _)) if cfg!(feature = "faults") => {}
                _ => return Err(Error::Unknown((*arg).to_owned())),
            }
        }
        Ok(settings)
    }
}

/// What options begin with: known before it is known whether a job asks for a container.
pub(crate) fn prefix<'a>(args: &[&'a str]) -> &'a str {
    let words = args.iter().rev().filter_map(|arg| arg.strip_prefix("prefix="));
    words.into_iter().find(|word| is_word(word)).unwrap_or(DEFAULT_PREFIX)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_lowercase())
}

/// Panics if this is a test's build and the line says `fault=HOOK`.
pub(crate) fn trip(args: &[&str], hook: &str) {
    if cfg!(feature = "faults") && args.contains(&format!("fault={hook}").as_str()) {
        panic!("fault in {hook}, as plugstack.conf asks");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_may_be_empty() {
        let settings = Settings::parse(&[]).expect("nothing is wrong");
        assert_eq!((settings.launcher.to_str(), settings.config), (Some(DEFAULT_LAUNCHER), None));
        assert_eq!(settings.prefix, "container");
    }

    #[test]
    fn all_that_is_said_is_read() {
        let settings = Settings::parse(&["shifter=/opt/s", "config=/etc/s=1.toml", "prefix=ours"]);
        let (config, prefix) = (Some("/etc/s=1.toml".into()), "ours".to_owned());
        assert_eq!(settings, Ok(Settings { launcher: "/opt/s".into(), prefix, config }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (arg, problem) in [
            ("shifter", "unknown argument \"shifter\""),
            ("Shifter=/x", "unknown argument \"Shifter=/x\""),
            ("shifter=bin/shifter", "shifter=bin/shifter: not an absolute path"),
            ("config=", "config=: not an absolute path"),
            ("prefix=", "prefix=: not a word"),
            ("prefix=A-b", "prefix=A-b: not a word"),
        ] {
            let error = Settings::parse(&[arg]).expect_err(arg).to_string();
            assert!(error.contains(problem), "{arg}: {error}");
        }
    }
}
