//! Whether Slurm knows `--container`: its configuration, the plugin, and the program that the
//! plugin starts; and how it wires up MPI.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use nix::unistd::{AccessFlags, access};
use runtime::{
    programs::{self, SHIFTER},
    report::printable,
};

use super::{
    Finding, State, Who,
    checks::{find_bytes, find_program},
};

const WHAT: &str = "Slurm";
/// What the launcher has to say.
const OWN_VERSION: &str = concat!("shifter ", env!("CARGO_PKG_VERSION"));
/// Stands in the plugin, with its version behind it.
const MARK: &[u8] = b"shifter-spank version ";

pub(super) fn check() -> Vec<Finding> {
    let Some(scontrol) = find_program("scontrol") else {
        return vec![Finding::new(WHAT, State::Absent, "not on this machine")];
    };
    let output = Command::new(scontrol).args(["show", "config"]).stdin(Stdio::null()).output();
    let settings = match output {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stderr);
            // It tells first how it looked for its configuration, and last what came of that.
            let says = text.lines().last().unwrap_or("no answer").to_owned();
            let says = format!("scontrol show config: {says}");
            return vec![
                Finding::new(WHAT, State::Limited, says)
                    .mend(Who::Admin, "configure Slurm on this machine, or start its controller"),
            ];
        }
        Err(error) => return vec![Finding::new(WHAT, State::Limited, error.to_string())],
    };
    let value = |name: &str| {
        let line =
            settings.lines().find(|line| line.split('=').next().map(str::trim) == Some(name));
        line.and_then(|line| line.split_once('=')).map(|(_, value)| value.trim().to_owned())
    };
    let version = value("SLURM_VERSION").unwrap_or_default();
    let stack = value("PlugStackConfig").unwrap_or_else(|| "/etc/slurm/plugstack.conf".into());
    let mut findings = vec![Finding::new(WHAT, State::Works, version)];
    findings.push(match Line::find(Path::new(&stack), 0) {
        Some(line) => line.check(),
        None => {
            let says = format!("{stack} does not name the plugin: srun has no --container of ours");
            Finding::new("Slurm plugin", State::Limited, says)
                .mend(Who::Admin, format!("add the line: {}", wanted(programs::path(SHIFTER).ok())))
        }
    });
    findings.push(mpi());
    findings
}

/// The line that plugstack.conf should have, for the program that is asked.
fn wanted(program: Option<PathBuf>) -> String {
    let program = program.unwrap_or_else(|| "/usr/bin/shifter".into());
    let prefix = program.ancestors().nth(2).unwrap_or(Path::new("/usr"));
    let plugin = |lib: &str| prefix.join(lib).join("slurm/shifter.so");
    let plugin = Some(plugin("lib64")).filter(|path| path.exists()).unwrap_or(plugin("lib"));
    format!("required {} shifter={}", plugin.display(), program.display())
}

/// How ranks that Slurm starts find each other: what its `srun --mpi=list` offers.
fn mpi() -> Finding {
    const WHAT: &str = "MPI";
    let Some(srun) = find_program("srun") else {
        return Finding::new(WHAT, State::Absent, "no srun on this machine");
    };
    let output = Command::new(srun).arg("--mpi=list").stdin(Stdio::null()).output();
    let text = match output {
        // Where it prints them has changed.
        Ok(output) if output.status.success() => {
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned())
        }
        Ok(_) => return Finding::new(WHAT, State::Limited, "srun --mpi=list fails"),
        Err(error) => return Finding::new(WHAT, State::Limited, error.to_string()),
    };
    let mut offered: Vec<_> = text.iter().flat_map(|text| text.split_whitespace()).collect();
    offered.retain(|word| word.starts_with("pm") || *word == "cray_shasta");
    offered.sort_unstable();
    offered.dedup();
    match offered.is_empty() {
        true => Finding::new(WHAT, State::Limited, "Slurm has neither pmix nor pmi2")
            .mend(Who::Admin, "install Slurm's plugin for one"),
        false => Finding::new(WHAT, State::Works, format!("srun --mpi={}", offered.join("|"))),
    }
}

/// The plugin's line in plugstack.conf (spank(7), CONFIGURATION).
struct Line {
    required: bool,
    plugin: PathBuf,
    launcher: PathBuf,
}

impl Line {
    fn find(file: &Path, depth: usize) -> Option<Line> {
        let text = std::fs::read_to_string(file).ok()?;
        let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
        lines.filter(|line| !line.trim().is_empty()).find_map(|line| {
            let mut words = line.split_whitespace();
            match (words.next()?, words.next()?) {
                ("include", pattern) if depth < 4 => {
                    included(file, pattern).iter().find_map(|file| Line::find(file, depth + 1))
                }
                (kind, plugin) if Path::new(plugin).file_name()? == "shifter.so" => {
                    let launcher = words.find_map(|word| word.strip_prefix("shifter="));
                    Some(Line {
                        required: kind == "required",
                        plugin: plugin.into(),
                        launcher: launcher.unwrap_or("/usr/bin/shifter").into(),
                    })
                }
                _ => None,
            }
        })
    }

    /// Starts what the plugin starts, and the program that this becomes where an image is not here. `Err` is
    /// what is wrong with them.
    fn try_launcher(&self) -> Result<(), String> {
        let mut command = Command::new(&self.launcher);
        let outcome = command.arg("--version").stdin(Stdio::null()).output();
        let shown = format!("{} --version", self.launcher.display());
        let outcome = outcome.map_err(|error| format!("{shown}: {error}"))?;
        let said = if outcome.status.success() { outcome.stdout } else { outcome.stderr };
        match String::from_utf8_lossy(&said).trim() {
            OWN_VERSION => Ok(()),
            said => Err(format!("{shown}: {}", printable(said))),
        }
    }

    fn check(&self) -> Finding {
        const WHAT: &str = "Slurm plugin";
        let shown = self.plugin.display();
        let ours = env!("CARGO_PKG_VERSION");
        let broken = |says: String, remedy: &str| {
            Finding::new(WHAT, State::Fails, says).mend(Who::Admin, remedy)
        };
        // A plugin without a directory lies in Slurm's PluginDir.
        if self.plugin.is_relative() {
            return Finding::new(WHAT, State::Works, format!("{shown}, not looked at"));
        }
        match find_bytes(&self.plugin, MARK) {
            Err(error) => broken(format!("{shown}: {error}"), "install it on this machine"),
            Ok(None) => broken(format!("{shown}: not shifter's plugin"), "install it again"),
            Ok(Some(version)) if version != ours => broken(
                format!("{shown} is of version {version}, this program of {ours}"),
                "install both of one version",
            ),
            Ok(Some(_)) if access(&self.launcher, AccessFlags::X_OK).is_err() => broken(
                format!("{} is missing, which the plugin starts", self.launcher.display()),
                "install it on this machine, or correct shifter= in plugstack.conf",
            ),
            Ok(Some(version)) => match self.try_launcher() {
                Err(says) => broken(says, "install both programs, of one version, side by side"),
                Ok(()) if !self.required => {
                    let says = format!("{shown} {version} is optional");
                    let remedy = "make it required: a node without it runs jobs on the bare host";
                    Finding::new(WHAT, State::Limited, says).mend(Who::Admin, remedy)
                }
                Ok(()) => Finding::new(WHAT, State::Works, format!("{shown} {version}")),
            },
        }
    }
}

/// The files that an include names: a pattern with stars in its last component.
fn included(file: &Path, pattern: &str) -> Vec<PathBuf> {
    let path = file.parent().unwrap_or(Path::new("/")).join(pattern);
    let (Some(dir), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str()))
    else {
        return Vec::new();
    };
    let parts: Vec<_> = name.split('*').collect();
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<_> = entries
        .filter(|entry| matches(&entry.file_name().to_string_lossy(), &parts))
        .map(|entry| entry.path())
        .collect();
    files.sort();
    files
}

/// Whether a name is these parts, with anything between them.
fn matches(name: &str, parts: &[&str]) -> bool {
    match parts {
        [] => false,
        [whole] => name == *whole,
        [first, middle @ .., last] => {
            let Some(mut rest) = name.strip_prefix(first) else { return false };
            for part in middle {
                match rest.find(part) {
                    Some(at) => rest = &rest[at + part.len()..],
                    None => return false,
                }
            }
            rest.ends_with(last)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_is_read_as_a_shell_does() {
        for (pattern, name, fits) in [
            ("plugstack.conf.d/*.conf", "shifter.conf", true),
            ("*", "any", true),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXc", false),
            ("a.conf", "a.conf", true),
            ("a.conf", "b.conf", false),
            ("aa*aa", "aaa", false),
        ] {
            let name_pattern = pattern.rsplit('/').next().expect("never empty");
            let parts: Vec<_> = name_pattern.split('*').collect();
            assert_eq!(matches(name, &parts), fits, "{pattern} {name}");
        }
    }

    #[test]
    fn the_line_that_is_missing_fits_the_program_that_says_so() {
        let dir = tempfile::tempdir().expect("a directory");
        let (prefix, program) = (dir.path().display(), dir.path().join("bin/shifter"));
        let line = |lib: &str| {
            format!("required {prefix}/{lib}/slurm/shifter.so shifter={prefix}/bin/shifter")
        };
        assert_eq!(wanted(Some(program.clone())), line("lib"));
        std::fs::create_dir_all(dir.path().join("lib64/slurm")).expect("a directory");
        std::fs::write(dir.path().join("lib64/slurm/shifter.so"), "").expect("a file");
        assert_eq!(wanted(Some(program)), line("lib64"));
    }

    #[test]
    fn the_plugins_line_is_found_wherever_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let write = |name: &str, text: &str| {
            std::fs::write(dir.path().join(name), text).expect("a file");
        };
        std::fs::create_dir(dir.path().join("d")).expect("a directory");
        write("plugstack.conf", "# optional /old/shifter.so\noptional x11.so\ninclude d/*.conf\n");
        write("d/a.conf", "include ../plugstack.conf\n");
        write("d/b.conf", "required\t/lib/shifter.so config=/c shifter=/bin/s # ours\n");
        let line = Line::find(&dir.path().join("plugstack.conf"), 0).expect("it is there");
        assert_eq!((line.required, line.launcher.to_str()), (true, Some("/bin/s")));
        assert!(Line::find(&dir.path().join("d/a.conf"), 4).is_none());
    }
}
