//! What a run asks for, as flags: docker's, as far as there is something behind them.

use std::path::PathBuf;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use runtime::{
    Host, Options,
    options::{self, Asked, Caller, Gpu, MountSpec, TABLE, Takes, read_env_file},
    report::Report,
};

/// The flags that describe a container.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    #[command(flatten)]
    common: Common,
    /// Mount memory there
    #[arg(long, value_name = "DST[:size=SIZE,mode=MODE,noexec]")]
    tmpfs: Vec<String>,
    /// Set variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Run this instead of the image's entrypoint; "" for none
    #[arg(long, value_name = "CMD")]
    entrypoint: Option<String>,
    /// Insist on a device, or have it under another name; or by what CDI files call it:
    /// VENDOR/CLASS=NAME
    #[arg(long, value_name = "PATH[:DST]")]
    device: Vec<String>,
    /// Have GPUs, with their driver: all that the job has, or an error; also auto, none, or
    /// VENDOR/CLASS=NAME,…
    #[arg(
        long,
        value_name = "WHICH",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all"
    )]
    pub(crate) gpu: Option<String>,
    /// What docker calls it
    #[arg(long, hide = true, value_name = "all", conflicts_with = "gpu")]
    gpus: Option<String>,
}

/// Those that srun has as options: the table of both says what they are. What was typed, in the
/// table's order: the row, and the value if it takes one.
#[derive(Debug, Default)]
struct Common(Vec<(usize, String)>);

impl Args for Common {
    fn augment_args(mut command: Command) -> Command {
        for row in TABLE {
            let Some(flag) = &row.flag else { continue };
            let mut help = row.help.to_owned();
            help[..1].make_ascii_uppercase();
            if let Some(alias) = flag.alias {
                help += &format!(" [alias: --{alias}]");
            }
            let arg = Arg::new(flag.long).long(flag.long).short(flag.short).help(help);
            let arg = arg.aliases(flag.alias);
            command = command.arg(match row.takes {
                Takes::Nothing { .. } => arg.action(ArgAction::SetTrue),
                Takes::Value { arg: name, .. } => arg.value_name(name),
                Takes::List { arg: name, .. } => arg.value_name(name).action(ArgAction::Append),
            });
        }
        command
    }

    fn augment_args_for_update(command: Command) -> Command {
        Common::augment_args(command)
    }
}

impl FromArgMatches for Common {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Common, clap::Error> {
        let mut common = Common::default();
        common.update_from_arg_matches(matches)?;
        Ok(common)
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        for (number, row) in TABLE.iter().enumerate() {
            let Some(flag) = &row.flag else { continue };
            match row.takes {
                Takes::Nothing { .. } if matches.get_flag(flag.long) => {
                    self.0.push((number, String::new()));
                }
                Takes::Nothing { .. } => {}
                _ => {
                    let values = matches.get_many::<String>(flag.long).into_iter().flatten();
                    self.0.extend(values.map(|value| (number, value.clone())));
                }
            }
        }
        Ok(())
    }
}

impl Common {
    fn options(&self, caller: &Caller) -> Result<Options, options::ParseError> {
        let mut all = Asked::default();
        for (number, value) in &self.0 {
            all = TABLE[*number].read_flag(value, caller)?.over(all);
        }
        Ok(all.options)
    }
}

impl Flags {
    /// Whether all files that are named here say the same to who reads them next: a pipe does not.
    pub(crate) fn may_be_read_again(&self) -> bool {
        self.env_file.iter().all(|file| file.is_file())
    }

    /// The options that these flags stand for.
    pub(crate) fn options(&self, host: &Host) -> Result<Options, Report> {
        let usage = |e: options::ParseError| Report::from(&e);
        let mut files = Options::default();
        for file in &self.env_file {
            let env = read_env_file(file).map_err(|e| Report::from(&e))?;
            files = Options { env, ..Options::default() }.over(files);
        }
        let tmpfs = self.tmpfs.iter().map(|text| MountSpec::tmpfs(text));
        let devices = self.device.iter().map(|text| text.parse());
        let own = Options {
            mounts: tmpfs.collect::<Result<_, _>>().map_err(usage)?,
            entrypoint: self.entrypoint.as_deref().map(str::parse).transpose().map_err(usage)?,
            devices: devices.collect::<Result<_, _>>().map_err(usage)?,
            gpu: match &self.gpus {
                Some(gpus) => Some(Gpu::of_dockers(gpus).map_err(usage)?),
                None => self.gpu.as_deref().map(str::parse).transpose().map_err(usage)?,
            },
            ..Options::default()
        };
        let caller = Caller { cwd: host.cwd.clone(), home: host.home.clone() };
        Ok(self.common.options(&caller).map_err(usage)?.over(own).over(files))
    }
}
