//! One file of the Container Device Interface: its fields, and what it may say in its version.
//!
//! CDI SPEC.md and schema/defs.json, version 1.1.0. As in the Go library that everybody else uses, a
//! field that is not known makes a file unusable, and so does one that its version does not have.

use std::path::Path;

use serde::Deserialize;

use super::super::Error;
use crate::{
    options::{check_target, is_cdi_device, is_cdi_kind},
    report::printable,
};

/// The largest file that is read, in bytes. One with all IMEX channels has some 300 KB.
pub(super) const MAX_FILE: u64 = 8 << 20;

/// Versions of the interface.
const VERSIONS: [&str; 10] =
    ["0.1.0", "0.2.0", "0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// A file.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Spec {
    cdi_version: String,
    pub(super) kind: String,
    #[serde(default)]
    annotations: Option<Annotations>,
    pub(super) devices: Vec<Device>,
    #[serde(default)]
    pub(super) container_edits: ContainerEdits,
}

/// A device of it.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    #[serde(default)]
    annotations: Option<Annotations>,
    pub(super) container_edits: ContainerEdits,
}

/// Remarks, of which nothing here depends.
type Annotations = std::collections::BTreeMap<String, String>;

/// What it does to a container.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(super) struct ContainerEdits {
    pub(super) env: Vec<String>,
    pub(super) device_nodes: Vec<DeviceNode>,
    pub(super) mounts: Vec<Mount>,
    pub(super) hooks: Vec<Hook>,
    /// A process can leave its groups but enter none: whoever needs one is in it.
    #[serde(rename = "additionalGids", alias = "additionalGIDs")]
    additional_gids: Vec<u32>,
    pub(super) intel_rdt: Option<IntelRdt>,
    pub(super) net_devices: Vec<NetDevice>,
}

/// A device's node.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct DeviceNode {
    pub(super) path: String,
    #[serde(default)]
    pub(super) host_path: Option<String>,
    #[serde(rename = "type", default)]
    kind: Option<String>,
    /// For those who make nodes: here, the host's is mounted, with its own numbers and owner.
    #[serde(default)]
    #[allow(dead_code)]
    major: Option<i64>,
    #[serde(default)]
    #[allow(dead_code)]
    minor: Option<i64>,
    #[serde(default)]
    #[allow(dead_code)]
    file_mode: Option<u32>,
    #[serde(default)]
    #[allow(dead_code)]
    uid: Option<u32>,
    #[serde(default)]
    #[allow(dead_code)]
    gid: Option<u32>,
    /// For a cgroup: which is Slurm's.
    #[serde(default)]
    permissions: Option<String>,
}

/// A mount.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Mount {
    pub(super) host_path: String,
    pub(super) container_path: String,
    #[serde(rename = "type", default)]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) options: Vec<String>,
}

/// A program that is to be run.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Hook {
    hook_name: String,
    pub(super) path: String,
    #[serde(default)]
    pub(super) args: Vec<String>,
    #[serde(default)]
    #[allow(dead_code)]
    env: Vec<String>,
    #[serde(default)]
    #[allow(dead_code)]
    timeout: Option<i64>,
}

/// Cache and memory bandwidth.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct IntelRdt {
    #[serde(rename = "closID", default)]
    #[allow(dead_code)]
    clos_id: Option<String>,
    #[serde(rename = "l3CacheSchema", default)]
    #[allow(dead_code)]
    l3_cache_schema: Option<String>,
    #[serde(default)]
    #[allow(dead_code)]
    mem_bw_schema: Option<String>,
    #[serde(default)]
    schemata: Vec<String>,
    #[serde(default)]
    enable_monitoring: Option<bool>,
    /// Gone in 1.1.
    #[serde(rename = "enableCMT", default)]
    #[allow(dead_code)]
    enable_cmt: Option<bool>,
    #[serde(rename = "enableMBM", default)]
    #[allow(dead_code)]
    enable_mbm: Option<bool>,
}

/// A network interface.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct NetDevice {
    pub(super) host_interface_name: String,
    #[allow(dead_code)]
    name: String,
}

impl Spec {
    /// Reads a file's text: JSON by a name in `.json`, else YAML.
    pub(super) fn parse(text: &str, path: &Path) -> Result<Spec, Error> {
        let refuse = |line: Option<u64>, problem: &str| Error::File {
            path: path.to_owned(),
            line,
            problem: printable(problem),
        };
        let spec: Spec = if path.extension().is_some_and(|ext| ext == "json") {
            serde_json::from_str(text).map_err(|error| {
                let all = error.to_string();
                let problem = all.rsplit_once(" at line ").map_or(&*all, |(problem, _)| problem);
                refuse(Some(error.line() as u64), problem)
            })?
        } else {
            yaml(text).map_err(|(line, problem)| refuse(line, &problem))?
        };
        spec.problem().map_or(Ok(spec), |problem| Err(refuse(None, &problem)))
    }

    fn problem(&self) -> Option<String> {
        let stated = self.cdi_version.strip_prefix('v').unwrap_or(&self.cdi_version);
        let rank = |version: &str| VERSIONS.iter().position(|known| *known == version);
        let Some(version) = rank(stated) else {
            return Some(format!("cdiVersion {stated:?} is not known"));
        };
        if !is_cdi_kind(&self.kind) {
            return Some(format!("kind {:?} is not VENDOR/CLASS", self.kind));
        }
        let (field, least) = self.newest();
        if rank(least).is_some_and(|least| version < least) {
            return Some(format!("cdiVersion {stated} has no {field}; {least} has"));
        }
        if self.devices.is_empty() {
            return Some("it describes no device".to_owned());
        }
        let mut names: Vec<&str> = self.devices.iter().map(|device| &*device.name).collect();
        names.sort_unstable();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            return Some(format!("it describes device {:?} twice", twice[0]));
        }
        if let Some(odd) = names.iter().find(|name| !is_cdi_device(name)) {
            return Some(format!("{odd:?} is no name for a device"));
        }
        self.all_edits().find_map(ContainerEdits::problem)
    }

    fn all_edits(&self) -> impl Iterator<Item = &ContainerEdits> {
        let devices = self.devices.iter().map(|device| &device.container_edits);
        devices.chain([&self.container_edits])
    }

    /// The field that came last into the interface, of those that are used, and its version.
    fn newest(&self) -> (&'static str, &'static str) {
        let any = |is: &dyn Fn(&ContainerEdits) -> bool| self.all_edits().any(is);
        let has_rdt = |edits: &ContainerEdits, is: &dyn Fn(&IntelRdt) -> bool| {
            edits.intel_rdt.as_ref().is_some_and(is)
        };
        let is_noted = |notes: &Option<Annotations>| notes.as_ref().is_some_and(|n| !n.is_empty());
        let class = self.kind.split_once('/').map_or("", |(_, class)| class);
        let table: [(bool, &str, &str); 9] = [
            (any(&|e| !e.net_devices.is_empty()), "netDevices", "1.1.0"),
            (
                any(&|e| has_rdt(e, &|r| r.enable_monitoring.is_some() || !r.schemata.is_empty())),
                "intelRdt.schemata or enableMonitoring",
                "1.1.0",
            ),
            (any(&|e| has_rdt(e, &|_| true)), "intelRdt", "0.7.0"),
            (any(&|e| !e.additional_gids.is_empty()), "additionalGids", "0.7.0"),
            (
                is_noted(&self.annotations)
                    || self.devices.iter().any(|d| is_noted(&d.annotations)),
                "annotations",
                "0.6.0",
            ),
            (class.contains('.'), "dots in a class", "0.6.0"),
            (
                any(&|e| e.device_nodes.iter().any(|node| node.host_path.is_some())),
                "hostPath of devices",
                "0.5.0",
            ),
            (
                self.devices.iter().any(|d| !d.name.starts_with(|c: char| c.is_alphabetic())),
                "names of devices that begin with a digit",
                "0.5.0",
            ),
            (any(&|e| e.mounts.iter().any(|m| m.kind.is_some())), "type of mounts", "0.4.0"),
        ];
        table
            .into_iter()
            .find(|(is_used, ..)| *is_used)
            .map_or(("", VERSIONS[0]), |(_, field, version)| (field, version))
    }
}

impl Mount {
    /// Whether it is a file or a directory of the host's.
    pub(super) fn is_bind(&self) -> bool {
        matches!(self.kind.as_deref().unwrap_or_default(), "" | "bind" | "none")
    }
}

impl ContainerEdits {
    fn problem(&self) -> Option<String> {
        const HOOKS: [&str; 6] = [
            "prestart",
            "createRuntime",
            "createContainer",
            "startContainer",
            "poststart",
            "poststop",
        ];
        let is_variable = |env: &&String| env.find('=').is_none_or(|at| at == 0);
        if let Some(odd) = self.env.iter().find(is_variable) {
            return Some(format!("env {odd:?} is not NAME=VALUE"));
        }
        for node in &self.device_nodes {
            let kind = node.kind.as_deref().unwrap_or("c");
            if !["b", "c", "u", "p"].contains(&kind) {
                return Some(format!("device {:?}: {kind:?} is no type of devices", node.path));
            }
            let permissions = node.permissions.as_deref().unwrap_or_default();
            if permissions != "none" && permissions.contains(|c: char| !"rwm".contains(c)) {
                return Some(format!("device {:?}: permissions {permissions:?}", node.path));
            }
        }
        if let Some(odd) = self.hooks.iter().find(|hook| !HOOKS.contains(&&*hook.hook_name)) {
            return Some(format!("{:?} is no name of hooks", odd.hook_name));
        }
        let targets = self.device_nodes.iter().map(|node| &node.path);
        let mut targets = targets.chain(self.mounts.iter().map(|mount| &mount.container_path));
        let refused = targets.find_map(|path| Some((path, check_target(path).err()?)));
        if let Some((path, problem)) = refused {
            return Some(format!("{path:?}: {problem}"));
        }
        let hosts = self.device_nodes.iter().filter_map(|node| node.host_path.as_ref());
        let hooks = self.hooks.iter().map(|hook| &hook.path);
        // A mount of another kind has no source, or one that is no path.
        let binds = self.mounts.iter().filter(|mount| mount.is_bind());
        let mut sources = hosts.chain(hooks).chain(binds.map(|mount| &mount.host_path));
        if let Some(odd) = sources.find(|path| !path.starts_with('/')) {
            return Some(format!("{odd:?} is not an absolute path"));
        }
        let arguments = self.hooks.iter().flat_map(|hook| &hook.args);
        let paths = self.device_nodes.iter().map(|node| &node.path);
        let paths = paths.chain(self.mounts.iter().flat_map(|m| [&m.host_path, &m.container_path]));
        let hosts = self.device_nodes.iter().filter_map(|node| node.host_path.as_ref());
        let mut texts = self.env.iter().chain(arguments).chain(paths).chain(hosts);
        texts.find(|text| text.contains('\0')).map(|text| format!("{text:?} holds a NUL byte"))
    }
}

/// YAML whose texts need not be told from numbers by quotes is not what others read: they make JSON
/// of it first, where `name: 0` is a number and no name.
fn yaml(text: &str) -> Result<Spec, (Option<u64>, String)> {
    let refuse = |error: serde_saphyr::Error| {
        let line = error.location().map(|location| location.line()).filter(|line| *line != 0);
        let all = error.without_snippet().to_string();
        let first = all.lines().next().unwrap_or_default();
        // The place is told by itself.
        let problem = match first.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
            Some((_, problem)) => problem,
            None => first.split(" at line ").next().unwrap_or(first),
        };
        (line, problem.to_owned())
    };
    let options = serde_saphyr::options! { no_schema: true };
    serde_saphyr::from_str_with_options(text, options).map_err(refuse)
}
