//! What a site says of GPUs: `[gpu]`.

use std::path::PathBuf;

use serde::Deserialize;

use crate::options::{self, CdiName};

/// How containers get the GPUs of a job, and what is of use with them.
#[derive(Debug, Clone)]
pub struct Gpu {
    /// Where nothing else is asked for.
    pub mode: options::Gpu,
    /// Directories of the Container Device Interface; what a later one says counts.
    pub cdi_dirs: Vec<PathBuf>,
    /// What `all` means; empty: all that this node has.
    pub devices: Vec<CdiName>,
    /// The tree that NVIDIA's driver was installed in.
    pub driver_root: PathBuf,
    /// Which of the driver's libraries are mounted.
    pub capabilities: Vec<Capability>,
    /// Hooks of CDI files that are passed over, by name.
    pub ignore_hooks: Vec<String>,
}

/// What a program wants of NVIDIA's driver, as in `NVIDIA_DRIVER_CAPABILITIES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Capability {
    /// CUDA and OpenCL.
    Compute,
    /// `nvidia-smi` and NVML.
    Utility,
    /// Encoding, decoding, optical flow.
    Video,
    /// OpenGL, Vulkan, OptiX.
    Graphics,
    /// A screen.
    Display,
    /// DLSS and its kin.
    Ngx,
    /// All of them.
    All,
}

impl Capability {
    const NAMES: [(&str, Capability); 7] = [
        ("compute", Capability::Compute),
        ("utility", Capability::Utility),
        ("video", Capability::Video),
        ("graphics", Capability::Graphics),
        ("display", Capability::Display),
        ("ngx", Capability::Ngx),
        ("all", Capability::All),
    ];
}

/// `[gpu]` as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Group {
    mode: String,
    cdi_dirs: Vec<PathBuf>,
    devices: Vec<String>,
    driver_root: PathBuf,
    capabilities: Vec<String>,
    ignore_hooks: Vec<String>,
}

impl Default for Group {
    fn default() -> Group {
        Group {
            mode: "auto".to_owned(),
            cdi_dirs: ["/etc/cdi", "/var/run/cdi"].map(PathBuf::from).into(),
            devices: Vec::new(),
            driver_root: "/".into(),
            capabilities: ["compute", "utility"].map(str::to_owned).into(),
            ignore_hooks: Vec::new(),
        }
    }
}

impl Group {
    /// What it means; else which key is wrong, and how.
    pub(super) fn read(&self) -> Result<Gpu, (&'static str, String)> {
        let at = |key: &'static str| move |e: options::ParseError| (key, e.to_string());
        let paths = self.cdi_dirs.iter().map(|dir| ("gpu.cdi_dirs", dir));
        for (key, path) in paths.chain([("gpu.driver_root", &self.driver_root)]) {
            if path.is_relative() {
                return Err((key, format!("{path:?} is not an absolute path")));
            }
        }
        let capability = |name: &String| {
            let known = Capability::NAMES.iter().find(|(known, _)| known == name);
            known.map(|(_, capability)| *capability).ok_or_else(|| {
                let known = Capability::NAMES.map(|(name, _)| name).join(", ");
                ("gpu.capabilities", format!("{name:?} is none of {known}"))
            })
        };
        let devices = self.devices.iter().map(|name| name.parse());
        Ok(Gpu {
            mode: self.mode.parse().map_err(at("gpu.mode"))?,
            cdi_dirs: self.cdi_dirs.clone(),
            devices: devices.collect::<Result<_, _>>().map_err(at("gpu.devices"))?,
            driver_root: self.driver_root.clone(),
            capabilities: self.capabilities.iter().map(capability).collect::<Result<_, _>>()?,
            ignore_hooks: self.ignore_hooks.clone(),
        })
    }
}
