//! What the site says on the plugin's line in plugstack.conf.
//!
//! ```text
//! required /usr/lib64/slurm/shifter.so shifter=/usr/bin/shifter config=/etc/shifter/shifter.toml
//! ```
//!
//! The line is read when a job asks for a container and not before: a typing error in it is told to
//! those jobs and disturbs no other.

use std::path::PathBuf;

/// The program that is put in front of a task's command.
const DEFAULT_LAUNCHER: &str = "/usr/bin/shifter";

/// The plugin's own settings; the launcher has its own file.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `shifter=PATH`: the launcher.
    pub(crate) launcher: PathBuf,
    /// `config=PATH`: the site's file for the launcher, where it is not the usual one.
    pub(crate) config: Option<PathBuf>,
}

/// What is wrong with the line.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum Error {
    #[error(
        "plugstack.conf: unknown argument {0:?}; \
         the plugin takes shifter=PATH and config=PATH (tell the administrator)"
    )]
    Unknown(String),
    #[error("plugstack.conf: {0}: not an absolute path (tell the administrator)")]
    Relative(String),
}

impl Settings {
    /// Reads the plugin's arguments.
    pub(crate) fn parse(args: &[&str]) -> Result<Settings, Error> {
        let mut settings = Settings { launcher: DEFAULT_LAUNCHER.into(), config: None };
        for arg in args {
            let absolute = |path: &str| match path.starts_with('/') {
                true => Ok(PathBuf::from(path)),
                false => Err(Error::Relative((*arg).to_owned())),
            };
            match arg.split_once('=') {
                Some(("shifter", path)) => settings.launcher = absolute(path)?,
                Some(("config", path)) => settings.config = Some(absolute(path)?),
                Some(("fault", _)) if cfg!(feature = "faults") => {}
                _ => return Err(Error::Unknown((*arg).to_owned())),
            }
        }
        Ok(settings)
    }
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
    }

    #[test]
    fn both_paths_are_read() {
        let settings = Settings::parse(&["shifter=/opt/s", "config=/etc/s=1.toml"]);
        let config = Some("/etc/s=1.toml".into());
        assert_eq!(settings, Ok(Settings { launcher: "/opt/s".into(), config }));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (arg, problem) in [
            ("shifter", "unknown argument \"shifter\""),
            ("Shifter=/x", "unknown argument \"Shifter=/x\""),
            ("shifter=bin/shifter", "shifter=bin/shifter: not an absolute path"),
            ("config=", "config=: not an absolute path"),
        ] {
            let error = Settings::parse(&[arg]).expect_err(arg).to_string();
            assert!(error.contains(problem), "{arg}: {error}");
        }
    }
}
