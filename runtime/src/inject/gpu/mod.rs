//! Which GPUs a container is given, and with what of the host.
//!
//! ```text
//! what is asked for        auto              all                VENDOR/CLASS=NAME, --device
//! described by nobody      nothing           error              error
//! this job has none        nothing           error              error, if it is this one
//! something is missing     left out, said    error              error
//! ```
//!
//! Devices are described by CDI files, and where these know nothing of a vendor, by what is found in
//! the driver's own tree ([`nvidia`], [`amd`]). What a job has is asked of the kernel: a device that
//! its cgroup denies does not open. Slurm's own word counts as well: of a step whose tasks have one
//! GPU each, they share the container that the first has built.

pub mod amd;
mod graphics;
pub mod nvidia;
pub(crate) mod require;

use std::ffi::OsString;

use super::{Error, Found, Injection, access, cdi::Registry};
use crate::{
    Config, Options,
    options::{CdiName, DeviceSpec, Gpu},
    report::Report,
};

/// How many GPUs a step has on this node, the same for all of its tasks.
const STEP_GPUS: &str = "SLURM_GPUS_ON_NODE";

/// Finds what these options and settings ask for on this node. `env` is the caller's environment.
pub fn find(
    options: &Options,
    config: &Config,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Injection, Error> {
    let is_device = |spec: &DeviceSpec| match spec {
        DeviceSpec::Cdi(name) => Some(name.clone()),
        DeviceSpec::Path { .. } => None,
    };
    let devices: Vec<CdiName> = options.devices.iter().filter_map(is_device).collect();
    let asked = options.gpu.as_ref().unwrap_or(&config.gpu.mode);
    if *asked == Gpu::Nothing && devices.is_empty() {
        return Ok(Injection::default());
    }
    let registry = Registry::load(&config.gpu.cdi_dirs);
    let node = Node { registry: &registry, config, env };
    let mut injection = Injection::default();
    match asked {
        Gpu::Nothing => {}
        Gpu::Auto => node.whatever_there_is(&mut injection),
        Gpu::All => {
            let found = node.all();
            if found.told.is_empty() && found.problems.is_empty() {
                return Err(Error::NoGpu { dirs: config.gpu.cdi_dirs.clone() });
            }
            node.insist(found, &mut injection)?;
            node.tell_of_broken_files(&mut injection);
        }
        Gpu::Named(names) => node.insist(node.named(names), &mut injection)?,
    }
    if !devices.is_empty() {
        node.insist(node.named(&devices), &mut injection)?;
    }
    Ok(injection)
}

/// This node, as somebody sees it who asks for GPUs.
struct Node<'a> {
    registry: &'a Registry,
    config: &'a Config,
    env: &'a dyn Fn(&str) -> Option<OsString>,
}

impl Node<'_> {
    /// All that `all` means.
    fn all(&self) -> Found {
        if !self.config.gpu.devices.is_empty() {
            return self.named(&self.config.gpu.devices);
        }
        let kinds = self.registry.kinds().into_iter().filter(|kind| kind.ends_with("/gpu"));
        let names = kinds.flat_map(|kind| {
            let devices = self.registry.devices(kind);
            let devices = if devices.contains(&"all") { vec!["all"] } else { devices };
            devices.into_iter().filter_map(move |name| format!("{kind}={name}").parse().ok())
        });
        let names: Vec<CdiName> = names.collect();
        let mut found = self.registry.resolve(&names, &self.config.gpu.ignore_hooks);
        for kind in [nvidia::KIND, amd::KIND] {
            if !self.registry.kinds().contains(&kind) {
                add(&mut found, self.undescribed(kind, &["all"]).unwrap_or_default());
            }
        }
        found
    }

    fn named(&self, names: &[CdiName]) -> Found {
        let is_described = |name: &&CdiName| {
            let kinds = [nvidia::KIND, amd::KIND];
            self.registry.kinds().contains(&name.kind()) || !kinds.contains(&name.kind())
        };
        let (described, others): (Vec<&CdiName>, Vec<_>) = names.iter().partition(is_described);
        let described: Vec<_> = described.into_iter().cloned().collect();
        let mut found = self.registry.resolve(&described, &self.config.gpu.ignore_hooks);
        for kind in [nvidia::KIND, amd::KIND] {
            let of_kind: Vec<_> = others.iter().filter(|name| name.kind() == kind).collect();
            let Some(first) = of_kind.first() else { continue };
            let devices: Vec<&str> = of_kind.iter().map(|name| name.device()).collect();
            match self.undescribed(kind, &devices) {
                Some(more) => add(&mut found, more),
                // Nor is there a driver: the registry knows how to say so.
                None => add(&mut found, self.registry.resolve(&[(**first).clone()], &[])),
            }
        }
        found
    }

    /// What is found without a description.
    fn undescribed(&self, kind: &str, devices: &[&str]) -> Option<Found> {
        match kind {
            nvidia::KIND => nvidia::find(&self.config.gpu, devices, self.env),
            _ => amd::find("/".as_ref(), devices),
        }
    }

    /// Whether the job has none of these, and why.
    fn refusal(&self, found: &Found) -> Option<Error> {
        let has_some = (self.env)(STEP_GPUS).is_some_and(|value| value != "0" && !value.is_empty());
        access::refusal(&found.gates).filter(|error| {
            !has_some || !matches!(error, Error::NotGranted { .. } | Error::Denied { .. })
        })
    }

    fn insist(&self, found: Found, into: &mut Injection) -> Result<(), Error> {
        if let Some(refusal) = self.refusal(&found) {
            return Err(refusal);
        }
        if let Some(problem) = found.problems.into_iter().next() {
            return Err(problem);
        }
        into.edits.add(found.edits);
        into.told.extend(found.told);
        Ok(())
    }

    fn whatever_there_is(&self, into: &mut Injection) {
        let found = self.all();
        match self.refusal(&found) {
            Some(Error::NotGranted { .. } | Error::Denied { .. }) => return,
            Some(error) => return into.warnings.push(left_out(&error)),
            None => {}
        }
        // A device that is expected on other nodes is nothing to talk about.
        let is_elsewhere =
            |problem: &Error| matches!(problem, Error::Unknown { known, .. } if known.is_empty());
        let problems = found.problems.iter().filter(|problem| !is_elsewhere(problem));
        into.warnings.extend(problems.map(left_out));
        if !found.told.is_empty() {
            self.tell_of_broken_files(into);
        }
        into.edits.add(found.edits);
        into.told.extend(found.told);
    }

    fn tell_of_broken_files(&self, into: &mut Injection) {
        into.warnings.extend(self.registry.broken().iter().map(left_out));
    }
}

fn add(found: &mut Found, more: Found) {
    found.edits.add(more.edits);
    found.gates.extend(more.gates);
    found.problems.extend(more.problems);
    found.told.extend(more.told);
}

fn left_out(error: &Error) -> String {
    format!("left out: {}", Report::from(error).line)
}
