//! A fake driver: real libraries, a real program and real devices, none of which is NVIDIA's.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use fixtures::{
    Sandbox,
    image::{Image, Layer},
    need, run,
};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};

/// The driver's version, as in its files' names.
pub(crate) const VERSION: &str = "535.54.03";

/// What the fake devices are: memory devices that nothing else here opens. `full`, `random`.
pub(crate) const MINORS: [u64; 2] = [7, 8];

/// The tree that it is installed in.
#[derive(Debug)]
pub(crate) struct Driver(pub(crate) PathBuf);

impl Driver {
    /// Builds it, with two GPUs.
    pub(crate) fn install(sandbox: &Sandbox) -> Driver {
        let root = sandbox.make_dir("fake-driver", 0o755);
        for (name, text) in [
            ("usr/share/glvnd/egl_vendor.d/10_nvidia.json", "egl\n"),
            ("etc/vulkan/icd.d/nvidia_icd.json", "vulkan\n"),
        ] {
            let path = root.join(name);
            sandbox.make_dir(path.parent().expect("it is in a directory"), 0o755);
            sandbox.write(path, text);
        }
        for dir in ["dev", "usr/lib64", "usr/bin", "compat"] {
            sandbox.make_dir(root.join(dir), 0o755);
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu/fake");
        let compile = |arguments: &[&str], from: &[PathBuf], to: &str| {
            let mut cc = Command::new(need::find("gcc").expect("it was needed"));
            cc.args(["-O1", "-fno-stack-protector", "-o"]).arg(root.join(to)).args(from);
            run({
                cc.args(arguments);
                cc
            })
            .success();
        };
        let source = |name: &str| sources.join(name);
        let cuda = format!("usr/lib64/libcuda.so.{VERSION}");
        let nvml = format!("usr/lib64/libnvidia-ml.so.{VERSION}");
        let library = ["-shared", "-fPIC"];
        let named = |name| [&library[..], &[name]].concat();
        compile(&named("-Wl,-soname,libcuda.so.1"), &[source("cuda.c")], &cuda);
        compile(&named("-Wl,-soname,libnvidia-ml.so.1"), &[source("nvml.c")], &nvml);
        // One that an image brings along, for drivers that are older than it.
        let compat = [&named("-Wl,-soname,libcuda.so.1")[..], &["-DWHO=\"image\""]].concat();
        compile(&compat, &[source("cuda.c")], "compat/libcuda.so.545.23.08");
        let libraries = [source("smi.c"), root.join(&cuda), root.join(&nvml)];
        compile(&["-nostartfiles", "-Wl,--no-as-needed"], &libraries, "usr/bin/nvidia-smi");
        for (name, minor) in
            [("nvidia0", MINORS[0]), ("nvidia1", MINORS[1]), ("nvidiactl", 5), ("nvidia-uvm", 5)]
        {
            let path = root.join("dev").join(name);
            mknod(&path, SFlag::S_IFCHR, Mode::empty(), makedev(1, minor)).expect("make a device");
            let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            fs::set_permissions(&path, all).expect("open a device to all");
        }
        Driver(root)
    }

    /// A file of it.
    pub(crate) fn path(&self, name: &str) -> String {
        self.0.join(name).display().to_string()
    }

    /// How nvidia-ctk would describe it, with both GPUs as `all`.
    pub(crate) fn cdi(&self) -> String {
        let root = self.0.display();
        let node = |name: &str| {
            format!("            - path: /dev/{name}\n              hostPath: {root}/dev/{name}\n")
        };
        let mount = |from: &str| {
            format!(
                "        - hostPath: {root}/{from}\n          containerPath: /{from}\n          \
                 options:\n            - ro\n            - nosuid\n            - nodev\n            \
                 - rbind\n            - rprivate\n"
            )
        };
        let device = |name: &str, nodes: &str| {
            format!("    - name: \"{name}\"\n      containerEdits:\n        deviceNodes:\n{nodes}")
        };
        let hook = |args: &[&str]| {
            let args: String = args.iter().map(|arg| format!("            - {arg}\n")).collect();
            format!(
                "        - hookName: createContainer\n          path: /usr/bin/nvidia-cdi-hook\n          \
                 args:\n            - nvidia-cdi-hook\n{args}          env:\n            \
                 - NVIDIA_CTK_DEBUG=false\n"
            )
        };
        let (zero, one) = (node("nvidia0"), node("nvidia1"));
        let common = [node("nvidiactl"), node("nvidia-uvm")].concat();
        let common =
            common.replace("            -", "        -").replace("              h", "          h");
        let version = format!("--host-driver-version={VERSION}");
        [
            "---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n",
            &device("0", &zero),
            &device("1", &one),
            &device("all", &[zero.clone(), one.clone()].concat()),
            "containerEdits:\n    env:\n        - NVIDIA_VISIBLE_DEVICES=void\n    deviceNodes:\n",
            &common,
            "    hooks:\n",
            &hook(&["create-symlinks", "--link", "libcuda.so.1::/usr/lib64/libcuda.so"]),
            &hook(&["enable-cuda-compat", &version]),
            &hook(&["update-ldcache", "--folder", "/usr/lib64"]),
            &hook(&["disable-device-node-modification"]),
            "    mounts:\n",
            &mount(&format!("usr/lib64/libcuda.so.{VERSION}")),
            &mount(&format!("usr/lib64/libnvidia-ml.so.{VERSION}")),
            &mount("usr/bin/nvidia-smi"),
        ]
        .concat()
    }
}

/// What this machine's programs are linked with: the linker and the C library, at their own paths.
/// An image of Debian's has no more of them, and no directory `/usr/lib64`.
pub(crate) fn glibc(layer: Layer) -> Layer {
    let maps = fs::read_to_string("/proc/self/maps").expect("/proc is mounted");
    let find = |name: &str| {
        let path = maps.split_whitespace().find(|word| word.contains(name));
        PathBuf::from(path.unwrap_or_else(|| panic!("the tests are not linked with {name}")))
    };
    let (linker, libc) = (find("/ld-linux"), find("/libc.so.6"));
    let read = |path: &Path| fs::read(path).expect("read a library");
    let name = |path: &Path| path.file_name().expect("a file").to_string_lossy().into_owned();
    // Where programs say it is.
    let at = match cfg!(target_arch = "x86_64") {
        true => "lib64",
        false => "lib",
    };
    let dir = libc.parent().expect("in a directory").to_string_lossy().replace("/usr/lib", "lib");
    layer.file(&format!("{at}/{}", name(&linker)), 0o755, read(&linker)).file(
        &format!("{}/libc.so.6", dir.trim_start_matches('/')),
        0o755,
        read(&libc),
    )
}

/// An image with a C library, and nothing else: no shell, no `/etc`.
pub(crate) fn distroless() -> Image {
    Image::new().layer(glibc(Layer::new()))
}
