//! GPUs and fabric. All of `/dev` is there in a container, so what is asked is whether the caller
//! may use it, and for GPUs what else a container is given.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use nix::unistd::{AccessFlags, access};
use runtime::{
    Config, Options,
    inject::{self, Edits, Injection},
    options::Gpu,
    report::Report,
};

use super::{Finding, State, Who};

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let root = Path::new("/");
    let mut findings = gpus(root);
    findings.extend(injection(config));
    findings.push(fabric(root));
    findings
}

/// What `--gpu` would give a container here, and who says so.
fn injection(config: &Config) -> Vec<Finding> {
    const WHAT: &str = "GPU injection";
    let options = Options { gpu: Some(Gpu::All), ..Options::default() };
    let found = inject::find(&options, config, &|name| env::var_os(name));
    let Injection { edits, told, warnings, .. } = match found {
        Ok(injection) => injection,
        Err(inject::Error::NoGpu { .. }) => {
            return vec![Finding::new(WHAT, State::Absent, "no GPU that is known on this node")];
        }
        Err(error) => {
            let who = match error {
                inject::Error::NotGranted { .. } => Who::User,
                _ => Who::Admin,
            };
            return vec![Finding::failed(WHAT, State::Limited, who, &Report::from(&error))];
        }
    };
    let unless = match config.gpu.mode {
        Gpu::Nothing => "; with --gpu only (gpu.mode is none)",
        _ => "",
    };
    let says = format!("{}: {}{unless}", told.join("; "), summary(&edits));
    let mut findings = vec![Finding::new(WHAT, State::Works, says)];
    findings.extend(warnings.iter().map(|line| match line.split_once("; ") {
        Some((says, remedy)) => Finding::new(WHAT, State::Limited, says).mend(Who::Admin, remedy),
        None => Finding::new(WHAT, State::Limited, line.as_str()),
    }));
    findings
}

fn summary(edits: &Edits) -> String {
    let is_library = |path: &Path| path.to_string_lossy().contains(".so");
    let libraries = edits.mounts.iter().filter(|mount| is_library(&mount.target)).count();
    let others = edits.mounts.len() - libraries;
    let mut parts = vec![count(edits.devices.len())];
    match libraries {
        0 => parts.push("libraries are the image's".to_owned()),
        1 => parts.push("1 library".to_owned()),
        many => parts.push(format!("{many} libraries")),
    }
    if others > 0 {
        parts.push(format!("{others} other file{}", if others == 1 { "" } else { "s" }));
    }
    parts.join(", ")
}

/// The drivers' own accounts below `root`: `/proc/driver/nvidia` (NVIDIA driver README, "The /proc
/// interface"), and the kernel's compute device of AMD.
fn gpus(root: &Path) -> Vec<Finding> {
    const WHAT: &str = "GPU";
    let found: Vec<_> = [nvidia(root), amd(root)].into_iter().flatten().collect();
    if found.is_empty() {
        return vec![Finding::new(WHAT, State::Absent, "no driver of NVIDIA or AMD on this node")];
    }
    let finding = |(name, devices): (String, Vec<PathBuf>)| match devices.as_slice() {
        [] => Finding::new(WHAT, State::Limited, format!("{name}, but no device in /dev"))
            .mend(Who::Admin, "load the driver's modules and make its devices"),
        devices => match locked(devices) {
            Some(device) => no_access(WHAT, device),
            None => Finding::new(WHAT, State::Works, name),
        },
    };
    found.into_iter().map(finding).collect()
}

fn nvidia(root: &Path) -> Option<(String, Vec<PathBuf>)> {
    let driver = root.join("proc/driver/nvidia");
    let text = fs::read_to_string(driver.join("version")).ok()?;
    // NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_numeric());
    let version = text.split_whitespace().find(is_version).unwrap_or("of unknown version");
    let gpus = fs::read_dir(driver.join("gpus")).map_or(0, Iterator::count);
    let devices = devices(&root.join("dev"), "nvidia");
    Some((format!("NVIDIA driver {version}, {}", count(gpus)), devices))
}

fn amd(root: &Path) -> Option<(String, Vec<PathBuf>)> {
    let compute = root.join("dev/kfd");
    let gpus = devices(&root.join("dev/dri"), "renderD");
    let is_loaded = root.join("sys/module/amdgpu").exists();
    (is_loaded && compute.exists()).then(|| {
        let name = format!("AMD driver, {}", count(gpus.len()));
        (name, [compute].into_iter().chain(gpus).collect())
    })
}

/// What is faster than a socket: InfiniBand and its kin by verbs, HPE Slingshot.
fn fabric(root: &Path) -> Finding {
    const WHAT: &str = "fabric";
    let kinds = [("InfiniBand or RoCE", "dev/infiniband", "uverbs"), ("Slingshot", "dev", "cxi")];
    let found = kinds.map(|(name, dir, prefix)| (name, devices(&root.join(dir), prefix)));
    let found: Vec<_> = found.into_iter().filter(|(_, devices)| !devices.is_empty()).collect();
    if let Some(device) = found.iter().find_map(|(_, devices)| locked(devices)) {
        return no_access(WHAT, device);
    }
    let names: Vec<_> =
        found.iter().map(|(name, all)| format!("{name}, {}", count(all.len()))).collect();
    match names.is_empty() {
        true => Finding::new(WHAT, State::Absent, "no devices of one on this node"),
        false => Finding::new(WHAT, State::Works, names.join("; ")),
    }
}

/// The devices of a folder whose names are this and a number.
fn devices(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let is_one = |name: &str| {
        let number = name.strip_prefix(prefix);
        number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let mut found: Vec<_> = entries
        .filter(|entry| entry.file_name().to_str().is_some_and(is_one))
        .map(|entry| entry.path())
        .collect();
    found.sort();
    found
}

/// The first that the caller may not use.
fn locked(devices: &[PathBuf]) -> Option<&Path> {
    let rights = AccessFlags::R_OK | AccessFlags::W_OK;
    devices.iter().map(PathBuf::as_path).find(|device| access(*device, rights).is_err())
}

fn no_access(what: &'static str, device: &Path) -> Finding {
    Finding::new(what, State::Limited, format!("{} is not yours to open", device.display()))
        .mend(Who::Admin, "let users read and write it; in a job, ask for it (--gres)")
}

fn count(devices: usize) -> String {
    format!("{devices} device{}", if devices == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree that looks as a node's does: there is no driver to ask where this is tested.
    fn mock_node(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        for (path, content) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("below the root")).expect("a directory");
            fs::write(path, content).expect("a file");
        }
        dir
    }

    fn said(findings: &[Finding]) -> Vec<(State, &str)> {
        findings.iter().map(|finding| (finding.state, finding.says.as_str())).collect()
    }

    #[test]
    fn gpus_of_a_mock_node_are_counted() {
        const VERSION: &str =
            "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5";
        let none = mock_node(&[]);
        assert_eq!(said(&gpus(none.path()))[0].0, State::Absent);
        assert_eq!(fabric(none.path()).state, State::Absent);
        let both = mock_node(&[
            ("proc/driver/nvidia/version", VERSION),
            ("proc/driver/nvidia/gpus/0000:01:00.0/information", ""),
            ("proc/driver/nvidia/gpus/0000:02:00.0/information", ""),
            ("dev/nvidia0", ""),
            ("dev/nvidia1", ""),
            ("dev/nvidiactl", ""),
            ("dev/kfd", ""),
            ("dev/dri/renderD128", ""),
            ("sys/module/amdgpu/version", ""),
            ("dev/infiniband/uverbs0", ""),
            ("dev/cxi0", ""),
        ]);
        assert_eq!(
            said(&gpus(both.path())),
            [
                (State::Works, "NVIDIA driver 550.54.15, 2 devices"),
                (State::Works, "AMD driver, 1 device"),
            ]
        );
        let fabric = fabric(both.path());
        assert_eq!(fabric.says, "InfiniBand or RoCE, 1 device; Slingshot, 1 device");
        let bare = mock_node(&[("proc/driver/nvidia/version", VERSION)]);
        let found = gpus(bare.path());
        assert_eq!(found[0].state, State::Limited);
        assert!(found[0].says.contains("no device in /dev"), "{}", found[0].says);
    }
}
