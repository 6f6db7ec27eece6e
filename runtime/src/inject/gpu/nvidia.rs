//! NVIDIA's GPUs without a CDI file: what the driver has installed, found as NVIDIA's own tool finds
//! it (libnvidia-container, `src/nvc_info.c`; nvidia-container-toolkit, `internal/discover`).
//!
//! All libraries of a driver end in its version and lie where its libcuda does. They are mounted at
//! their own paths, which an image may not have; `ld.so.cache` tells its programs. What is in none of
//! the lists below goes along: drivers grow, and one library too many does no harm.

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use super::{
    super::{Bind, Device, Edits, Error, Found, Link, Mask, elf::NATIVE, ldcache::Cache},
    amd, graphics,
};
use crate::{
    config::{Capability, Gpu},
    options::Access,
};

/// The kind by which NVIDIA's own tool names them.
pub const KIND: &str = "nvidia.com/gpu";
/// How the kernel module says whether its users may make devices.
pub(crate) const PARAMS: &str = "/proc/driver/nvidia/params";
const VERSION: &str = "/proc/driver/nvidia/version";
/// Where the multi-process service listens.
const MPS_VAR: &str = "CUDA_MPS_PIPE_DIRECTORY";

/// Libraries by what they are for; those in no list are for all.
const LIBRARIES: [(Capability, &[&str]); 5] = [
    (Capability::Utility, &["libnvidia-ml", "libnvidia-cfg", "libnvidia-nscq"]),
    (
        Capability::Compute,
        &[
            "libcuda",
            "libcudadebugger",
            "libnvidia-opencl",
            "libnvidia-ptxjitcompiler",
            "libnvidia-fatbinaryloader",
            "libnvidia-allocator",
            "libnvidia-compiler",
            "libnvidia-pkcs11",
            "libnvidia-pkcs11-openssl3",
            "libnvidia-nvvm",
            "libnvidia-tileiras",
        ],
    ),
    (
        Capability::Video,
        &["libvdpau_nvidia", "libnvidia-encode", "libnvidia-opticalflow", "libnvcuvid"],
    ),
    (
        Capability::Graphics,
        &[
            "libnvidia-eglcore",
            "libnvidia-glcore",
            "libnvidia-tls",
            "libnvidia-glsi",
            "libnvidia-fbc",
            "libnvidia-ifr",
            "libnvidia-rtcore",
            "libnvoptix",
            "libGLX_nvidia",
            "libEGL_nvidia",
            "libGLESv2_nvidia",
            "libGLESv1_CM_nvidia",
            "libnvidia-glvkspirv",
            "libnvidia-cbl",
            "libnvidia-allocator",
        ],
    ),
    (Capability::Ngx, &["libnvidia-ngx"]),
];
const PROGRAMS: [(Capability, &[&str]); 2] = [
    (
        Capability::Utility,
        &["nvidia-smi", "nvidia-debugdump", "nvidia-persistenced", "nv-fabricmanager"],
    ),
    (
        Capability::Compute,
        &["nvidia-cuda-mps-control", "nvidia-cuda-mps-server", "nvidia-imex", "nvidia-imex-ctl"],
    ),
];
/// Links that programs are built with or ask for, beside those of libraries' own names.
const LINKS: [(&str, &str); 3] = [
    ("libcuda.so", "libcuda.so.1"),
    ("libnvidia-opticalflow.so", "libnvidia-opticalflow.so.1"),
    ("libGLX_indirect.so.0", "libGLX_nvidia.so.0"),
];
/// Daemons of the driver's, by their sockets.
const SOCKETS: [&str; 2] = ["run/nvidia-persistenced/socket", "run/nvidia-fabricmanager/socket"];
/// Where libcuda is if the linker does not know.
const DIRECTORIES: [&str; 8] = [
    "usr/lib64",
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib/x86_64-linux-gnu/nvidia/current",
    "usr/lib/aarch64-linux-gnu/nvidia/current",
    "usr/lib64/nvidia",
    "usr/local/nvidia/lib64",
    "usr/lib",
];
const PROGRAM_DIRECTORIES: [&str; 6] = [
    "usr/bin",
    "usr/sbin",
    "usr/local/bin",
    "opt/bin",
    "usr/lib/nvidia/current",
    "usr/local/nvidia/bin",
];

/// What these devices need, by their minor numbers or `all`; `None` without the driver's devices.
pub(crate) fn find(
    settings: &Gpu,
    devices: &[&str],
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Option<Found> {
    let root = &settings.driver_root;
    // A driver in a tree of its own may have its devices there. First, so that nodes without a GPU need
    // not list their devices at each start.
    let mut places = vec![root.join("dev"), PathBuf::from("/dev")];
    places.dedup();
    let dev = places.into_iter().find(|dev| dev.join("nvidiactl").exists())?;
    let cards = entries(&dev, |name| is_numbered(name, "nvidia"));
    if cards.is_empty() {
        return None;
    }
    let wants = |capability: Capability| {
        settings.capabilities.iter().any(|own| *own == capability || *own == Capability::All)
    };
    let mut found = Found::default();
    for device in devices {
        let card = dev.join(format!("nvidia{device}"));
        match *device {
            "all" => found.gates.extend(cards.clone()),
            _ if cards.contains(&card) => found.gates.push(card),
            _ => found.problems.extend(amd::unknown_of(KIND, device, cards.len())),
        }
    }
    if wants(Capability::Compute) && !dev.join("nvidia-uvm").exists() {
        found.problems.push(Error::Missing {
            path: dev.join("nvidia-uvm"),
            by: VERSION.into(),
            more: 0,
            source: std::io::ErrorKind::NotFound.into(),
        });
    }
    let mut nodes = found.gates.clone();
    nodes.extend(shared_nodes(&dev, wants(Capability::Graphics) || wants(Capability::Display)));
    let at_home = |source: PathBuf| {
        let target = Path::new("/dev").join(source.strip_prefix(&dev).unwrap_or(&source));
        Device { source, target }
    };
    found.edits.devices = nodes.into_iter().map(at_home).collect();
    let Some(driver) = Driver::find(root) else {
        found.problems.push(Error::NoDriver { root: root.clone() });
        return Some(found);
    };
    found.told.push(format!("{KIND}={}, NVIDIA's driver {}", devices.join(","), driver.version));
    found.edits.add(driver.edits(root, &wants));
    found.edits.masks = params(Path::new(PARAMS));
    // What lies in /tmp is there anyway.
    let mps = env(MPS_VAR).map(PathBuf::from).filter(|dir| !dir.starts_with("/tmp"));
    found.edits.mounts.extend(
        mps.filter(|dir| dir.is_absolute() && dir.is_dir()).map(|dir| Bind {
            source: dir.clone(),
            target: dir,
            access: Access::ReadWrite,
        }),
    );
    Some(found)
}

/// Devices that are not one GPU's: control, unified memory, MIG's capabilities, IMEX channels,
/// switches, GPUDirect.
fn shared_nodes(dev: &Path, screens: bool) -> Vec<PathBuf> {
    let control = ["nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "gdrdrv"];
    let screen = Some("nvidia-modeset").filter(|_| screens);
    let named = control.into_iter().chain(screen).map(|name| dev.join(name));
    let mut nodes: Vec<_> = named.filter(|path| path.exists()).collect();
    nodes.extend(entries(dev, |name| {
        is_numbered(name, "nvidia-fs")
            || is_numbered(name, "nvidia-nvswitch")
            || name == "nvidia-nvswitchctl"
    }));
    nodes.extend(entries(&dev.join("nvidia-caps"), |name| is_numbered(name, "nvidia-cap")));
    let channels = dev.join("nvidia-caps-imex-channels");
    nodes.extend(entries(&channels, |name| is_numbered(name, "channel")));
    nodes
}

/// A driver as it was installed.
#[derive(Debug)]
struct Driver {
    /// Where its libraries are.
    dir: PathBuf,
    version: String,
}

impl Driver {
    /// Finds it in a tree.
    fn find(root: &Path) -> Option<Driver> {
        let cache = fs::read(root.join("etc/ld.so.cache")).ok();
        let by_cache = cache.and_then(|file| Cache::parse(&file)).and_then(|cache| {
            let path = cache.find(OsStr::new("libcuda.so.1"), NATIVE)?;
            Some(path.parent()?.strip_prefix("/").ok()?.to_owned())
        });
        let usual = DIRECTORIES.iter().map(PathBuf::from);
        let loaded = loaded_version();
        let drivers: Vec<Driver> = by_cache
            .into_iter()
            .chain(usual)
            .flat_map(|dir| {
                let dir = root.join(dir);
                let versions = entries(&dir, |name| library_version(name, "libcuda").is_some());
                versions.into_iter().filter_map(move |path| {
                    let name = path.file_name()?.to_str()?;
                    let version = library_version(name, "libcuda")?.to_owned();
                    Some(Driver { dir: dir.clone(), version })
                })
            })
            .collect();
        // Of several, the one whose kernel module runs.
        let at = drivers.iter().position(|driver| Some(&driver.version) == loaded.as_ref());
        drivers.into_iter().nth(at.unwrap_or(0))
    }

    fn edits(&self, root: &Path, wants: &dyn Fn(Capability) -> bool) -> Edits {
        let inside =
            |source: &Path| Path::new("/").join(source.strip_prefix(root).unwrap_or(source));
        let bind = |source: PathBuf, access| Bind { target: inside(&source), source, access };
        let is_wanted = |stem: &str, lists: &[(Capability, &[&str])]| {
            let mut lists = lists.iter().filter(|(_, names)| names.contains(&stem)).peekable();
            lists.peek().is_none() || lists.any(|(capability, _)| wants(*capability))
        };
        let mut edits = Edits { cuda_compat: Some(self.version.clone()), ..Edits::default() };
        for dir in [self.dir.clone(), self.dir.join("vdpau")] {
            let libraries = entries(&dir, |name| {
                let stem = name.strip_suffix(&*self.version).and_then(|n| n.strip_suffix(".so."));
                stem.is_some_and(|stem| stem.starts_with("lib") && is_wanted(stem, &LIBRARIES))
            });
            if libraries.is_empty() {
                continue;
            }
            for (link, target) in LINKS {
                let stem = target.split(".so").next().unwrap_or_default();
                let file = dir.join(format!("{stem}.so.{}", self.version));
                if libraries.contains(&file) {
                    let path = inside(&dir).join(link);
                    edits.symlinks.push(Link { path, target: target.into() });
                }
            }
            edits.mounts.extend(libraries.into_iter().map(|path| bind(path, Access::ReadOnly)));
            edits.ld_dirs.push(inside(&dir));
        }
        for name in PROGRAMS.iter().filter(|(c, _)| wants(*c)).flat_map(|(_, names)| *names) {
            let places = PROGRAM_DIRECTORIES.iter().map(|dir| root.join(dir).join(name));
            let found = places.into_iter().find(|path| path.is_file());
            // By way of Debian's alternatives it may lie anywhere: PATH has this place.
            edits.mounts.extend(found.map(|source| Bind {
                source,
                target: Path::new("/usr/bin").join(name),
                access: Access::ReadOnly,
            }));
        }
        if wants(Capability::Graphics) || wants(Capability::Display) {
            edits.add(graphics::edits(root, &self.dir, &self.version));
        }
        let sockets = SOCKETS.iter().map(|path| root.join(path)).filter(|path| path.exists());
        edits.mounts.extend(sockets.map(|path| bind(path, Access::ReadWrite)));
        edits
    }
}

/// The version in a library's name: `535.54.03` of `libcuda.so.535.54.03`.
pub(super) fn library_version<'a>(name: &'a str, stem: &str) -> Option<&'a str> {
    let version = name.strip_prefix(stem)?.strip_prefix(".so.")?;
    let is_version = version.contains('.') && version.starts_with(|c: char| c.is_ascii_digit());
    is_version.then_some(version)
}

/// That of the kernel module: `NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue …`.
fn loaded_version() -> Option<String> {
    let text = fs::read_to_string(VERSION).ok()?;
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_numeric());
    text.lines().next()?.split_whitespace().find(is_version).map(str::to_owned)
}

/// The files of a directory whose names are such, in order.
pub(super) fn entries(dir: &Path, is_one: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let all = fs::read_dir(dir).into_iter().flatten().flatten();
    let found = all.filter(|entry| entry.file_name().to_str().is_some_and(&is_one));
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.path()).collect();
    // nvidia10 comes after nvidia9.
    paths.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    paths
}

fn is_numbered(name: &str, stem: &str) -> bool {
    let number = name.strip_prefix(stem);
    number.is_some_and(|n| !n.is_empty() && n.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Inside, the driver's libraries are not to make devices, which they do by a setuid program.
pub(crate) fn params(path: &Path) -> Vec<Mask> {
    const KEY: &str = "ModifyDeviceFiles: ";
    // Without the module, there is nothing to be masked.
    let Ok(text) = fs::read_to_string(path) else { return Vec::new() };
    let is_on = |line: &str| line.strip_prefix(KEY).is_some_and(|value| value.trim() != "0");
    if !text.lines().any(is_on) {
        return Vec::new();
    }
    let line = |line: &str| match line.starts_with(KEY) {
        true => format!("{KEY}0\n"),
        false => format!("{line}\n"),
    };
    let content: String = text.lines().map(line).collect();
    vec![Mask { path: path.to_owned(), content: content.into_bytes() }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    /// A driver's tree as a package lays it out: there is none where this is tested. Its libraries
    /// are empty, its devices files; `tests/gpu` has real ones.
    fn mock_driver(libraries: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: String| {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        for name in ["nvidia0", "nvidia1", "nvidia10", "nvidiactl", "nvidia-uvm", "nvidia-modeset"]
        {
            write(format!("dev/{name}"));
        }
        write("dev/nvidia-caps/nvidia-cap12".to_owned());
        write("dev/nvidia-caps-imex-channels/channel0".to_owned());
        for name in libraries {
            write(format!("usr/lib64/{name}.so.535.54.03"));
        }
        write("usr/lib64/libc.so.6".to_owned());
        write("usr/bin/nvidia-smi".to_owned());
        write("run/nvidia-persistenced/socket".to_owned());
        dir
    }

    fn found(dir: &Path, capabilities: &str, devices: &[&str]) -> Found {
        let text =
            format!("store = '/s'\n[gpu]\ndriver_root = {dir:?}\ncapabilities = [{capabilities}]");
        find(&Config::parse(&text).unwrap().gpu, devices, &|_| None).unwrap()
    }

    fn targets(found: &Found) -> Vec<&str> {
        found.edits.mounts.iter().map(|mount| mount.target.to_str().unwrap()).collect()
    }

    #[test]
    fn libraries_go_by_what_they_are_for() {
        let names =
            ["libcuda", "libnvidia-ml", "libnvidia-encode", "libGLX_nvidia", "libnvidia-newest"];
        let dir = mock_driver(&names);
        let lib = |name: &str| format!("/usr/lib64/{name}.so.535.54.03");
        let all = found(dir.path(), "'all'", &["all"]);
        assert!(names.iter().all(|name| targets(&all).contains(&&*lib(name))), "{all:?}");
        let both = found(dir.path(), "'compute', 'utility'", &["all"]);
        let smi = "/usr/bin/nvidia-smi".to_owned();
        let socket = "/run/nvidia-persistenced/socket".to_owned();
        let expected =
            [lib("libcuda"), lib("libnvidia-ml"), lib("libnvidia-newest"), smi, socket.clone()];
        assert_eq!(targets(&both), expected);
        let compute = found(dir.path(), "'compute'", &["all"]);
        assert_eq!(targets(&compute), [lib("libcuda"), lib("libnvidia-newest"), socket]);
        assert_eq!(both.edits.cuda_compat.as_deref(), Some("535.54.03"));
        assert_eq!(both.edits.ld_dirs, [Path::new("/usr/lib64")]);
        let link = Link { path: "/usr/lib64/libcuda.so".into(), target: "libcuda.so.1".into() };
        assert_eq!(both.edits.symlinks, [link]);
        assert!(both.problems.is_empty(), "{both:?}");
        assert_eq!(both.told, ["nvidia.com/gpu=all, NVIDIA's driver 535.54.03"]);
    }

    #[test]
    fn devices_are_the_drivers_and_gates_are_cards() {
        let dir = mock_driver(&["libcuda"]);
        let gates = |found: &Found| -> Vec<String> {
            let names = found.gates.iter().map(|path| path.file_name().unwrap());
            names.map(|name| name.to_string_lossy().into_owned()).collect()
        };
        let nodes = |found: &Found| -> Vec<String> {
            found.edits.devices.iter().map(|d| d.target.display().to_string()).collect()
        };
        let all = found(dir.path(), "'compute'", &["all"]);
        assert_eq!(gates(&all), ["nvidia0", "nvidia1", "nvidia10"]);
        for node in ["nvidiactl", "nvidia-caps/nvidia-cap12", "nvidia-caps-imex-channels/channel0"]
        {
            assert!(nodes(&all).contains(&format!("/dev/{node}")), "{node}: {:?}", nodes(&all));
        }
        assert!(!nodes(&all).contains(&"/dev/nvidia-modeset".to_owned()));
        let one = found(dir.path(), "'display'", &["1"]);
        assert_eq!(gates(&one), ["nvidia1"]);
        assert!(nodes(&one).contains(&"/dev/nvidia-modeset".to_owned()));
        assert!(!nodes(&one).contains(&"/dev/nvidia0".to_owned()));
        let none = found(dir.path(), "'compute'", &["7"]);
        assert!(none.problems[0].to_string().contains("nvidia.com/gpu=7"), "{none:?}");
    }

    #[test]
    fn a_driver_that_is_not_whole_is_named() {
        let dir = mock_driver(&["libnvidia-ml"]);
        fs::remove_file(dir.path().join("dev/nvidia-uvm")).unwrap();
        let found = found(dir.path(), "'compute'", &["all"]);
        let problems: Vec<_> = found.problems.iter().map(Error::to_string).collect();
        assert!(problems[0].contains("dev/nvidia-uvm"), "{problems:?}");
        assert!(problems[1].contains("no libcuda.so in"), "{problems:?}");
    }

    #[test]
    fn libraries_are_told_not_to_make_devices() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |text: &str| fs::write(file.path(), text).unwrap();
        write("ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 1\nDeviceFileUID: 0\n");
        let masked = params(file.path());
        let content = String::from_utf8(masked[0].content.clone()).unwrap();
        let expected = "ResmanDebugLevel: 4294967295\nModifyDeviceFiles: 0\nDeviceFileUID: 0\n";
        assert_eq!(content, expected);
        write("ModifyDeviceFiles: 0\n");
        assert!(params(file.path()).is_empty() && params(Path::new("/no/such")).is_empty());
    }
}
