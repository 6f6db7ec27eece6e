//! AMD's GPUs without a CDI file: their devices. All that their programs load, ROCm, is in images.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::super::{Device, Edits, Error, Found};
use crate::options::CdiName;

/// The kind by which AMD's own tool names them.
pub const KIND: &str = "amd.com/gpu";
/// AMD's number on the PCI bus.
const VENDOR: &str = "0x1002";

/// The devices below `root`: those asked for by number, in the order of their nodes, or `all`. `None`
/// without the driver.
pub(crate) fn find(root: &Path, devices: &[&str]) -> Option<Found> {
    let compute = root.join("dev/kfd");
    let nodes: Vec<PathBuf> = nodes(root);
    if !compute.exists() || nodes.is_empty() {
        return None;
    }
    let mut found = Found::default();
    let mut wanted: Vec<PathBuf> = Vec::new();
    for device in devices {
        match (*device, device.parse().ok().and_then(|number: usize| nodes.get(number))) {
            ("all", _) => wanted.extend(nodes.clone()),
            (_, Some(node)) => wanted.push(node.clone()),
            (_, None) => found.problems.extend(unknown(device, nodes.len())),
        }
    }
    wanted.sort();
    wanted.dedup();
    let same = |source: PathBuf| {
        let target = Path::new("/").join(source.strip_prefix(root).unwrap_or(&source));
        Device { source, target }
    };
    found.told.push(format!("{KIND}={}, AMD's driver", devices.join(",")));
    let all = [compute].into_iter().chain(wanted.clone());
    found.edits = Edits { devices: all.map(same).collect(), ..Edits::default() };
    found.gates = wanted;
    Some(found)
}

/// `/dev/dri/renderD*` of AMD's GPUs.
fn nodes(root: &Path) -> Vec<PathBuf> {
    let is_amds = |name: &str| {
        let vendor = root.join("sys/class/drm").join(name).join("device/vendor");
        name.starts_with("renderD")
            && fs::read_to_string(vendor).is_ok_and(|vendor| vendor.trim() == VENDOR)
    };
    let entries = fs::read_dir(root.join("dev/dri")).into_iter().flatten().flatten();
    let found = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_amds));
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// The same as for a device that a file would describe.
pub(super) fn unknown_of(kind: &str, device: &str, count: usize) -> Option<Error> {
    let name: CdiName = format!("{kind}={device}").parse().ok()?;
    let known = (0..count).map(|number| number.to_string()).chain(["all".to_owned()]).collect();
    Some(Error::Unknown { name, known, dirs: Vec::new(), broken: None })
}

fn unknown(device: &str, count: usize) -> Option<Error> {
    unknown_of(KIND, device, count)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree that looks as a node's does: there is no such GPU where this is tested.
    #[test]
    fn devices_of_a_mock_node() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        assert!(find(dir.path(), &["all"]).is_none());
        write("dev/kfd", "");
        for (number, vendor) in [(128, VENDOR), (129, "0x8086"), (130, VENDOR)] {
            write(&format!("dev/dri/renderD{number}"), "");
            write(&format!("sys/class/drm/renderD{number}/device/vendor"), &format!("{vendor}\n"));
        }
        let targets = |found: &Found| -> Vec<String> {
            found.edits.devices.iter().map(|d| d.target.display().to_string()).collect()
        };
        let all = find(dir.path(), &["all"]).unwrap();
        assert_eq!(targets(&all), ["/dev/kfd", "/dev/dri/renderD128", "/dev/dri/renderD130"]);
        assert_eq!(all.gates.len(), 2);
        let one = find(dir.path(), &["1"]).unwrap();
        assert_eq!(targets(&one), ["/dev/kfd", "/dev/dri/renderD130"]);
        let none = find(dir.path(), &["2"]).unwrap();
        assert!(
            none.problems[0].to_string().contains("there are 0, 1, all"),
            "{:?}",
            none.problems
        );
    }
}
