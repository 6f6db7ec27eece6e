//! What a run asks for, as flags: docker's, as far as there is something behind them.

use std::path::PathBuf;

use clap::Args;
use runtime::{
    Host, Options,
    options::{self, Access, Gpu, Home, Ids, MountSpec, read_env_file},
    report::Report,
};

/// The flags that describe a container.
#[derive(Debug, Args)]
pub(crate) struct Flags {
    /// Mount a file or directory of the host, also as type=bind,source=…,target=…,readonly; without
    /// DST at the same path [alias: --mount]
    #[arg(short, long, alias = "mount", value_name = "SRC[:DST[:ro]]")]
    volume: Vec<String>,
    /// Mount memory there
    #[arg(long, value_name = "DST[:size=SIZE,mode=MODE,noexec]")]
    tmpfs: Vec<String>,
    /// Set a variable; without a value, let yours win over the image's; NAME- removes it
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Set variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<PathBuf>,
    /// Start there
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// Run this instead of the image's entrypoint; "" for none
    #[arg(long, value_name = "CMD")]
    entrypoint: Option<String>,
    /// Let nothing be written to the image's tree [alias: --read-only]
    #[arg(long, alias = "read-only")]
    readonly: bool,
    /// Be root inside, whom everything seems to belong to: for apt, dpkg, dnf
    #[arg(long)]
    remap_root: bool,
    /// Leave out your home directory
    #[arg(long)]
    no_home: bool,
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
    /// Keep what is written, on this node, for the next run of that name; who comes while it runs
    /// joins it
    #[arg(long)]
    name: Option<String>,
}

impl Flags {
    /// The options that these flags stand for.
    pub(crate) fn options(&self, host: &Host) -> Result<Options, Report> {
        let usage = |e: options::ParseError| Report::from(&e);
        let (cwd, home) = (host.cwd.as_deref(), host.home.as_deref());
        let tmpfs = self.tmpfs.iter().map(|text| MountSpec::tmpfs(text));
        let volumes = self.volume.iter().map(|text| MountSpec::typed(text, cwd, home));
        let mut files = Options::default();
        for file in &self.env_file {
            let env = read_env_file(file).map_err(|e| Report::from(&e))?;
            files = Options { env, ..Options::default() }.over(files);
        }
        let mut flags = Options {
            mounts: tmpfs.chain(volumes).collect::<Result<_, _>>().map_err(usage)?,
            workdir: self.workdir.as_deref().map(options::workdir).transpose().map_err(usage)?,
            entrypoint: self.entrypoint.as_deref().map(str::parse).transpose().map_err(usage)?,
            root: self.readonly.then_some(Access::ReadOnly),
            ids: self.remap_root.then_some(Ids::Root),
            home: self.no_home.then_some(Home::LeftOut),
            gpu: match &self.gpus {
                Some(gpus) => Some(Gpu::of_dockers(gpus).map_err(usage)?),
                None => self.gpu.as_deref().map(str::parse).transpose().map_err(usage)?,
            },
            name: self.name.as_deref().map(str::parse).transpose().map_err(usage)?,
            ..Options::default()
        };
        for text in &self.env {
            let env = vec![text.parse().map_err(usage)?];
            flags = Options { env, ..Options::default() }.over(flags);
        }
        for text in &self.device {
            flags.devices.push(text.parse().map_err(usage)?);
        }
        Ok(flags.over(files))
    }
}
