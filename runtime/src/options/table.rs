//! What can be asked for on a command line, in one table: options of `srun`, `sbatch` and `salloc`,
//! the variables that stand for them, and where it is the same, flags of `shifter run`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{
    Access, Entrypoint, EnvSpec, Home, Ids, MountSpec, Options, ParseError, env, mount, workdir,
};

/// What a job asks for by options, beyond its image.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asked {
    /// How to run in it.
    #[serde(skip_serializing_if = "is_default")]
    pub options: Options,
    /// Where the job's script runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub batch: Option<Batch>,
    /// Which image a tag stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tag: Option<Tag>,
}

fn is_default(options: &Options) -> bool {
    *options == Options::default()
}

/// Where the script of a job runs, or salloc's shell on a node. Its steps run in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Batch {
    /// In the container, too.
    Container,
    /// On the host, where `srun` and the site's modules are.
    Host,
}

/// Which image a tag stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Tag {
    /// The one that a store has under the name; the registry is asked if none does.
    Stored,
    /// The one that the registry has now.
    Fresh,
}

impl Asked {
    /// Lays this over what somebody asked for before, as [`Options::over`] does.
    #[must_use]
    pub fn over(self, base: Asked) -> Asked {
        Asked {
            options: self.options.over(base.options),
            batch: self.batch.or(base.batch),
            tag: self.tag.or(base.tag),
        }
    }

    /// What the steps of a job take over from it: of what was asked for its script, not where that is
    /// saved.
    #[must_use]
    pub fn for_steps(mut self) -> Asked {
        self.options.save = None;
        self
    }

    /// The same for a step that names another image than its job: a container of the job's is made
    /// from one image.
    #[must_use]
    pub fn for_another_image(mut self) -> Asked {
        self.options.name = None;
        self
    }
}

/// One thing that can be asked for.
#[derive(Debug)]
pub struct Row {
    /// The option of srun, sbatch and salloc, without dashes.
    pub option: &'static str,
    /// The variable that stands for the option where that is not given.
    pub variable: &'static str,
    /// The flag of `shifter run` that means the same.
    pub flag: Option<Flag>,
    /// What it takes.
    pub takes: Takes,
    /// What it does: one phrase, as it reads in the help of both.
    pub help: &'static str,
}

/// A flag of `shifter run`.
#[derive(Debug)]
pub struct Flag {
    /// Its name, without dashes.
    pub long: &'static str,
    /// One letter for it.
    pub short: Option<char>,
    /// Another name for it.
    pub alias: Option<&'static str>,
}

/// Where things are asked for: what they are called depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// By options of `srun`, `sbatch` and `salloc`.
    Slurm,
    /// By flags of `shifter run`.
    Run,
}

impl Front {
    /// How an option of the table is written there. A flag that is not in the table, as its values
    /// are others, has the option's name.
    pub(crate) fn spell(self, option: &str) -> String {
        let row = TABLE.iter().find(|row| row.option == option);
        let flag = row.and_then(|row| row.flag.as_ref()).map(|flag| flag.long);
        match self {
            Front::Slurm => format!("--{option}"),
            Front::Run => {
                format!("--{}", flag.unwrap_or_else(|| option.trim_start_matches("container-")))
            }
        }
    }
}

/// What an option takes.
#[derive(Debug)]
pub enum Takes {
    /// No value. Its variable is a switch, and stands for it in this position.
    Nothing {
        /// In which.
        on: bool,
        /// What is asked for.
        asked: fn() -> Asked,
    },
    /// One value; of several, the last counts.
    Value {
        /// What stands for it in the help.
        arg: &'static str,
        /// Reads it.
        read: Read,
    },
    /// Any number of values: an option's have commas between them, a flag has one.
    List {
        /// What stands for one in the help.
        arg: &'static str,
        /// Takes an option's apart.
        split: fn(&str) -> Result<Vec<String>, ParseError>,
        /// Reads one.
        read: Read,
    },
}

/// Reads a value.
pub type Read = fn(&str, &Caller) -> Result<Asked, ParseError>;

/// Where the one stands who types.
#[derive(Debug, Clone, Default)]
pub struct Caller {
    /// The working directory.
    pub cwd: Option<PathBuf>,
    /// What `~` stands for.
    pub home: Option<PathBuf>,
}

impl Caller {
    /// The one who has started this process.
    pub fn of_this_process() -> Caller {
        Caller { cwd: std::env::current_dir().ok(), home: crate::config::home() }
    }
}

/// The table.
pub const TABLE: &[Row] = &[
    Row {
        option: "container-mounts",
        variable: "SHIFTER_CONTAINER_MOUNTS",
        flag: Some(Flag { long: "volume", short: Some('v'), alias: Some("mount") }),
        takes: Takes::List { arg: "SRC[:DST[:ro]]", split: mount::split, read: read_mount },
        help: "mount a file or directory of the host, also as type=bind,source=…,target=…,readonly; \
               without DST at the same path",
    },
    Row {
        option: "container-workdir",
        variable: "SHIFTER_CONTAINER_WORKDIR",
        flag: Some(Flag { long: "workdir", short: Some('w'), alias: None }),
        takes: Takes::Value { arg: "DIR", read: read_workdir },
        help: "start there",
    },
    Row {
        option: "container-env",
        variable: "SHIFTER_CONTAINER_ENV",
        flag: Some(Flag { long: "env", short: Some('e'), alias: None }),
        takes: Takes::List { arg: "NAME[=VALUE]", split: env::split, read: read_env },
        help: "set a variable; without a value, let yours win over the image's; NAME- removes it",
    },
    Row {
        option: "container-readonly",
        variable: "SHIFTER_CONTAINER_READONLY",
        flag: Some(Flag { long: "readonly", short: None, alias: Some("read-only") }),
        takes: switch(true, || options(|o| o.root = Some(Access::ReadOnly))),
        help: "let nothing be written to the image's tree",
    },
    Row {
        option: "container-writable",
        variable: "SHIFTER_CONTAINER_READONLY",
        flag: None,
        takes: switch(false, || options(|o| o.root = Some(Access::ReadWrite))),
        help: "let the image's tree be written to, in memory, as it is by default",
    },
    Row {
        option: "container-remap-root",
        variable: "SHIFTER_CONTAINER_REMAP_ROOT",
        flag: Some(Flag { long: "remap-root", short: None, alias: None }),
        takes: switch(true, || options(|o| o.ids = Some(Ids::Root))),
        help: "be root inside, whom everything seems to belong to: for apt, dpkg, dnf",
    },
    Row {
        option: "no-container-remap-root",
        variable: "SHIFTER_CONTAINER_REMAP_ROOT",
        flag: None,
        takes: switch(false, || options(|o| o.ids = Some(Ids::Own))),
        help: "be yourself inside, as you are by default",
    },
    Row {
        option: "container-entrypoint",
        variable: "SHIFTER_CONTAINER_ENTRYPOINT",
        flag: None,
        takes: switch(true, || options(|o| o.entrypoint = Some(Entrypoint::Image))),
        help: "put the image's entrypoint before the command",
    },
    Row {
        option: "no-container-entrypoint",
        variable: "SHIFTER_CONTAINER_ENTRYPOINT",
        flag: None,
        takes: switch(false, || options(|o| o.entrypoint = Some(Entrypoint::Off))),
        help: "run the command as it is, as it is by default",
    },
    Row {
        option: "no-container-mount-home",
        variable: "SHIFTER_CONTAINER_MOUNT_HOME",
        flag: Some(Flag { long: "no-home", short: None, alias: None }),
        takes: switch(false, || options(|o| o.home = Some(Home::LeftOut))),
        help: "leave out your home directory",
    },
    Row {
        option: "container-mount-home",
        variable: "SHIFTER_CONTAINER_MOUNT_HOME",
        flag: None,
        takes: switch(true, || options(|o| o.home = Some(Home::Mounted))),
        help: "have your home directory inside, as you have by default",
    },
    Row {
        option: "container-gpu",
        variable: "SHIFTER_CONTAINER_GPU",
        flag: None,
        takes: Takes::Value { arg: "auto|all|none|NAME", read: read_gpu },
        help: "have the job's GPUs, with their driver: all, or an error; those there are, as by \
               default; none; or VENDOR/CLASS=NAME,…",
    },
    Row {
        option: "container-mpi",
        variable: "SHIFTER_CONTAINER_MPI",
        flag: Some(Flag { long: "mpi", short: None, alias: None }),
        takes: Takes::Value { arg: "auto|off|NAME", read: read_mpi },
        help: "whose MPI runs: the host's where it fits the image's, the image's, or the host's of \
               this name; NAME+glibc: with the host's C library where it needs a newer one",
    },
    Row {
        option: "container-name",
        variable: "SHIFTER_CONTAINER_NAME",
        flag: Some(Flag { long: "name", short: None, alias: None }),
        takes: Takes::Value { arg: "NAME", read: read_name },
        help: "keep what is written, on the node, for the next run of that name, in a job for its \
               next step; who comes while it runs joins it",
    },
    Row {
        option: "container-save",
        variable: "SHIFTER_CONTAINER_SAVE",
        flag: Some(Flag { long: "save", short: None, alias: None }),
        takes: Takes::Value { arg: "FILE", read: read_save },
        help: "write the image with what was changed in it to a squashfs file, when the command has \
               ended; of a step on several nodes, the first one's",
    },
    Row {
        option: "container-batch",
        variable: "SHIFTER_CONTAINER_BATCH",
        flag: None,
        takes: Takes::Value { arg: "container|host", read: read_batch },
        help: "where the job's script runs; its steps run in the container",
    },
    Row {
        option: "container-refresh",
        variable: "SHIFTER_CONTAINER_REFRESH",
        flag: None,
        takes: switch(true, || Asked { tag: Some(Tag::Fresh), ..Asked::default() }),
        help: "ask the registry what the tag stands for now, whatever your store has under it",
    },
    Row {
        option: "no-container-refresh",
        variable: "SHIFTER_CONTAINER_REFRESH",
        flag: None,
        takes: switch(false, || Asked { tag: Some(Tag::Stored), ..Asked::default() }),
        help: "take the image that your store has under the tag, as it is by default",
    },
];

impl Row {
    /// Reads what a flag of `shifter run` is given: one value.
    pub fn read_flag(&self, text: &str, caller: &Caller) -> Result<Asked, ParseError> {
        match self.takes {
            Takes::Nothing { asked, .. } => Ok(asked()),
            Takes::Value { read, .. } | Takes::List { read, .. } => read(text, caller),
        }
    }

    /// Reads what an option of srun is given.
    pub fn read_option(&self, text: &str, caller: &Caller) -> Result<Asked, ParseError> {
        let Takes::List { split, read, .. } = self.takes else {
            return self.read_flag(text, caller);
        };
        let values = split(text)?;
        values.iter().try_fold(Asked::default(), |all, value| Ok(read(value, caller)?.over(all)))
    }

    /// Reads the option's variable; `None` if it does not stand for this option.
    pub fn read_variable(&self, text: &str, caller: &Caller) -> Result<Option<Asked>, ParseError> {
        match self.takes {
            _ if text.is_empty() => Ok(None),
            Takes::Nothing { on, asked } => Ok((read_switch(text)? == on).then(asked)),
            _ => self.read_option(text, caller).map(Some),
        }
    }

    /// What stands for an option's value in its help.
    pub fn option_arg(&self) -> Option<String> {
        match self.takes {
            Takes::Nothing { .. } => None,
            Takes::Value { arg, .. } => Some(arg.to_owned()),
            Takes::List { arg, .. } => Some(format!("{arg},…")),
        }
    }
}

const fn switch(on: bool, asked: fn() -> Asked) -> Takes {
    Takes::Nothing { on, asked }
}

fn options(set: impl FnOnce(&mut Options)) -> Asked {
    let mut asked = Asked::default();
    set(&mut asked.options);
    asked
}

fn read_mount(text: &str, caller: &Caller) -> Result<Asked, ParseError> {
    let spec = MountSpec::typed(text, caller.cwd.as_deref(), caller.home.as_deref())?;
    Ok(options(|o| o.mounts = vec![spec]))
}

fn read_workdir(text: &str, _: &Caller) -> Result<Asked, ParseError> {
    let dir = workdir(text)?;
    Ok(options(|o| o.workdir = Some(dir)))
}

fn read_env(text: &str, _: &Caller) -> Result<Asked, ParseError> {
    let spec: EnvSpec = text.parse()?;
    Ok(options(|o| o.env = vec![spec]))
}

fn read_gpu(text: &str, _: &Caller) -> Result<Asked, ParseError> {
    let gpu = text.parse()?;
    Ok(options(|o| o.gpu = Some(gpu)))
}

fn read_mpi(text: &str, _: &Caller) -> Result<Asked, ParseError> {
    let mpi = text.parse()?;
    Ok(options(|o| o.mpi = Some(mpi)))
}

fn read_name(text: &str, _: &Caller) -> Result<Asked, ParseError> {
    let name = text.parse()?;
    Ok(options(|o| o.name = Some(name)))
}

fn read_save(text: &str, caller: &Caller) -> Result<Asked, ParseError> {
    let refuse = |problem: &'static str| ParseError::new("file to save to", text, problem);
    let path = mount::absolute(text, caller.cwd.as_deref(), caller.home.as_deref());
    let path = path.map_err(refuse)?;
    match text {
        "" => Err(refuse("it has no name")),
        _ if text.contains('\0') => Err(refuse("it holds a NUL byte")),
        _ if text.ends_with('/') => Err(refuse("it is a directory")),
        _ => Ok(options(|o| o.save = Some(path.into()))),
    }
}

fn read_batch(text: &str, _: &Caller) -> Result<Asked, ParseError> {
    let batch = match text {
        "container" => Batch::Container,
        "host" => Batch::Host,
        _ => return Err(ParseError::new("place", text, "expected container or host")),
    };
    Ok(Asked { batch: Some(batch), ..Asked::default() })
}

fn read_switch(text: &str) -> Result<bool, ParseError> {
    match text.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Ok(true),
        "0" | "false" | "no" | "off" => Ok(false),
        _ => Err(ParseError::new("switch", text, "expected true or false")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Caller {
        Caller { cwd: Some("/w".into()), home: Some("/home/ada".into()) }
    }

    fn row(option: &str) -> &'static Row {
        TABLE.iter().find(|row| row.option == option).expect(option)
    }

    fn list(option: &str, text: &str) -> String {
        let options = row(option).read_option(text, &caller()).expect(text).options;
        match option {
            "container-mounts" => serde_json::to_string(&options.mounts),
            _ => serde_json::to_string(&options.env),
        }
        .expect("always serialises")
    }

    #[test]
    fn each_option_has_a_name_and_a_variable_of_its_own() {
        for (number, row) in TABLE.iter().enumerate() {
            assert!(row.option.trim_start_matches("no-").starts_with("container-"), "{row:?}");
            assert!(!TABLE[..number].iter().any(|other| other.option == row.option), "{row:?}");
            let others = TABLE.iter().filter(|other| other.variable == row.variable);
            let positions: Vec<_> = others
                .map(|other| matches!(other.takes, Takes::Nothing { on: true, .. }))
                .collect();
            let expected: &[bool] = match row.takes {
                Takes::Nothing { .. } => &[true, false],
                _ => &[false],
            };
            assert!(
                positions.len() == expected.len()
                    && expected.iter().all(|on| positions.contains(on)),
                "{row:?}"
            );
            let name = row.option.trim_start_matches("no-").replace('-', "_").to_uppercase();
            let is_opposite = row.option == "container-writable";
            assert!(is_opposite || row.variable == format!("SHIFTER_{name}"), "{row:?}");
        }
    }

    #[test]
    fn an_option_is_called_as_where_it_is_typed() {
        for (option, flag) in [
            ("container-mounts", "--volume"),
            ("container-remap-root", "--remap-root"),
            ("no-container-mount-home", "--no-home"),
            ("container-gpu", "--gpu"),
        ] {
            assert_eq!(Front::Run.spell(option), flag);
            assert_eq!(Front::Slurm.spell(option), format!("--{option}"));
        }
    }

    #[test]
    fn lists_are_taken_apart() {
        for (option, text, expected) in [
            ("container-mounts", "/a", r#"["/a:/a"]"#),
            (
                "container-mounts",
                "/a:/b:ro,./c:/d,~/e:/f:ro+rprivate",
                r#"["/a:/b:ro","/w/c:/d","/home/ada/e:/f:ro"]"#,
            ),
            ("container-mounts", "type=bind,source=/a,target=/b", r#"["/a:/b"]"#),
            (
                "container-mounts",
                r#"/a,"type=tmpfs,target=/t,tmpfs-size=1k","/x,y:/z""#,
                r#"["/a:/a","type=tmpfs,target=/t,tmpfs-size=1024","/x,y:/z"]"#,
            ),
            ("container-env", "A=1,B,C-,A=2", r#"["B","C-","A=2"]"#),
            ("container-env", r#""A=1,2",B=x=y"#, r#"["A=1,2","B=x=y"]"#),
        ] {
            assert_eq!(list(option, text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_value_is_said() {
        for (option, text, says) in [
            ("container-mounts", "", "absolute"),
            ("container-mounts", "/a,,/b", "absolute"),
            ("container-mounts", "/a:/b:rx", "ro or rw"),
            ("container-mounts", "\"/a", "not closed"),
            ("container-workdir", "x", "absolute"),
            ("container-env", "A=1,2", "quotes"),
            ("container-env", "", "no name"),
            ("container-name", "a/b", "letters"),
            ("container-save", "", "no name"),
            ("container-save", "a/", "a directory"),
            ("container-batch", "Host", "container or host"),
        ] {
            let error = row(option).read_option(text, &caller()).expect_err(text).to_string();
            assert!(error.contains(says), "{option}={text}: {error}");
        }
    }

    #[test]
    fn a_variable_stands_for_one_option_of_two() {
        for (option, text, stands) in [
            ("container-readonly", "1", true),
            ("container-readonly", "No", false),
            ("container-readonly", "", false),
            ("container-writable", "false", true),
            ("container-writable", "on", false),
            ("no-container-mount-home", "0", true),
            ("container-mount-home", "0", false),
            ("container-workdir", "/x", true),
            ("container-workdir", "", false),
        ] {
            let read = row(option).read_variable(text, &caller()).expect(text);
            assert_eq!(read.is_some(), stands, "{option} {text:?}");
        }
        let error = row("container-readonly").read_variable("maybe", &caller()).unwrap_err();
        assert!(error.to_string().contains("true or false"), "{error}");
    }

    #[test]
    fn all_that_is_asked_for_is_carried() {
        let flag = |option: &str, text: &str| row(option).read_flag(text, &caller()).expect(text);
        let all = TABLE.iter().fold(Asked::default(), |all, row| {
            let text = match row.option {
                "container-name" => "n",
                "container-gpu" => "all",
                "container-mpi" => "off",
                "container-batch" => "host",
                _ => "/x",
            };
            flag(row.option, text).over(all)
        });
        let text = serde_json::to_string(&all).expect("always serialises");
        assert_eq!(serde_json::from_str::<Asked>(&text).expect("it was written so"), all);
        assert!(text.contains(r#""batch":"host","tag":"stored""#), "{text}");
        assert!(serde_json::from_str::<Asked>(r#"{"btach":"host"}"#).is_err());
        assert_eq!(all.clone().for_another_image().options.name, None);
        assert_eq!(all.options.save.as_deref(), Some("/x".as_ref()));
        assert_eq!(all.clone().for_steps().options.save, None);
        assert_eq!(Asked::default().over(all.clone()), all);
    }
}
