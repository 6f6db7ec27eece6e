//! What OpenGL, EGL and Vulkan want besides the libraries of NVIDIA's driver: the files by which their
//! loaders find it (libglvnd, Vulkan-Loader; nvidia-container-toolkit, `internal/discover/graphics.go`).
//! Those of an X server are left out: none runs in a container.

use std::{
    env::consts::ARCH,
    path::{Path, PathBuf},
};

use super::{
    super::{Bind, Edits, Link},
    nvidia::{entries, library_version},
};
use crate::options::Access;

/// Where distributions, and NVIDIA's own installer, have such files.
const DIRECTORIES: [&str; 3] = ["etc", "usr/share", "usr/local/share"];
/// Those that are looked for inside where they are on the host.
const FILES: [&str; 6] = [
    "glvnd/egl_vendor.d/10_nvidia.json",
    "egl/egl_external_platform.d/15_nvidia_gbm.json",
    "egl/egl_external_platform.d/10_nvidia_wayland.json",
    "egl/egl_external_platform.d/20_nvidia_xcb.json",
    "egl/egl_external_platform.d/20_nvidia_xlib.json",
    "nvidia/nvoptix.bin",
];
/// Those of Vulkan, which all of its loaders look for in `/etc`. Packages of RPM put the machine's
/// name into the first.
const VULKAN: [&str; 3] =
    ["icd.d/nvidia_icd.json", "icd.d/nvidia_layers.json", "implicit_layer.d/nvidia_layers.json"];
/// Libraries that have versions of their own.
const LIBRARIES: [&str; 5] = [
    "libnvidia-egl-gbm",
    "libnvidia-egl-wayland",
    "libnvidia-egl-wayland2",
    "libnvidia-egl-xcb",
    "libnvidia-egl-xlib",
];

/// What is mounted beside the libraries of a driver of this version, which lie in `dir`.
pub(super) fn edits(root: &Path, dir: &Path, version: &str) -> Edits {
    let inside = |source: &Path| Path::new("/").join(source.strip_prefix(root).unwrap_or(source));
    let bind = |source: PathBuf, target| Bind { source, target, access: Access::ReadOnly };
    let find = |name: &str| {
        let mut places = DIRECTORIES.iter().map(|dir| root.join(dir).join(name));
        places.find(|path| path.is_file())
    };
    let mut edits = Edits::default();
    let files = FILES.iter().filter_map(|name| find(name));
    edits.mounts.extend(files.map(|source| {
        let target = inside(&source);
        bind(source, target)
    }));
    let of_machine = format!("icd.d/nvidia_icd.{ARCH}.json");
    for name in VULKAN.into_iter().chain([&*of_machine]) {
        let source = find(&format!("vulkan/{name}"));
        // A driver in a tree of its own may have no more than this.
        let source =
            source.or_else(|| Some(root.join("vulkan").join(name)).filter(|p| p.is_file()));
        let target = Path::new("/etc/vulkan").join(name);
        edits.mounts.extend(source.map(|source| bind(source, target)));
    }
    let libraries =
        entries(dir, |name| LIBRARIES.iter().any(|stem| library_version(name, stem).is_some()));
    edits.mounts.extend(libraries.into_iter().map(|source| {
        let target = inside(&source);
        bind(source, target)
    }));
    // libgbm looks for who serves a device by the name of its kernel module.
    for (library, link, target) in [
        ("libnvidia-allocator", "gbm/nvidia-drm_gbm.so", "../libnvidia-allocator.so.1".to_owned()),
        (
            "libnvidia-vulkan-producer",
            "libnvidia-vulkan-producer.so",
            format!("libnvidia-vulkan-producer.so.{version}"),
        ),
    ] {
        if dir.join(format!("{library}.so.{version}")).exists() {
            let path = inside(dir).join(link);
            edits.symlinks.push(Link { path, target: target.into() });
        }
    }
    edits
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn files_are_found_where_packages_put_them() {
        let root = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "").unwrap();
        };
        let found = || edits(root.path(), &root.path().join("usr/lib64"), "535.54.03");
        assert_eq!(found(), Edits::default());

        write("usr/share/glvnd/egl_vendor.d/10_nvidia.json");
        write("etc/egl/egl_external_platform.d/15_nvidia_gbm.json");
        write("usr/share/nvidia/nvoptix.bin");
        write(&format!("usr/share/vulkan/icd.d/nvidia_icd.{ARCH}.json"));
        write("etc/vulkan/implicit_layer.d/nvidia_layers.json");
        write("usr/lib64/libnvidia-egl-gbm.so.1.1.0");
        write("usr/lib64/libnvidia-egl-gbm.so.1");
        write("usr/lib64/libnvidia-allocator.so.535.54.03");
        write("usr/lib64/libnvidia-vulkan-producer.so.535.54.03");
        let edits = found();
        let targets: Vec<_> = edits.mounts.iter().map(|m| m.target.to_str().unwrap()).collect();
        let icd = format!("/etc/vulkan/icd.d/nvidia_icd.{ARCH}.json");
        let expected = [
            "/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
            "/etc/egl/egl_external_platform.d/15_nvidia_gbm.json",
            "/usr/share/nvidia/nvoptix.bin",
            "/etc/vulkan/implicit_layer.d/nvidia_layers.json",
            &icd,
            "/usr/lib64/libnvidia-egl-gbm.so.1.1.0",
        ];
        assert_eq!(targets, expected);
        let links: Vec<_> = edits.symlinks.iter().map(|l| l.path.to_str().unwrap()).collect();
        let expected =
            ["/usr/lib64/gbm/nvidia-drm_gbm.so", "/usr/lib64/libnvidia-vulkan-producer.so"];
        assert_eq!(links, expected);
        // What the administrator has in /etc goes before what a package has.
        write("etc/glvnd/egl_vendor.d/10_nvidia.json");
        assert_eq!(
            found().mounts[0].target.to_str(),
            Some("/etc/glvnd/egl_vendor.d/10_nvidia.json")
        );
        // A tree with nothing but the driver.
        write("vulkan/icd.d/nvidia_icd.json");
        let icd = found().mounts.into_iter().find(|m| m.target.ends_with("icd.d/nvidia_icd.json"));
        assert_eq!(icd.unwrap().source, root.path().join("vulkan/icd.d/nvidia_icd.json"));
    }
}
