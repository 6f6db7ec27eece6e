//! What images want of a driver, and what loaders look for.

use fixtures::{
    image::{self, Layer},
    need, run,
};

use crate::{
    SITE,
    driver::{VERSION, glibc},
};

/// As images of CUDA 12.4 have it, in short. The fake driver has 12.2.
const WANTS: &str = "NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=tesla,driver>=470,driver<471";

#[test]
fn who_wants_a_newer_driver_is_told_and_runs() {
    need!(root, registry, busybox, userns, fake_gpu);
    let push = |name: &str, env: &str, layer: Layer| {
        SITE.registry.push(name, &image::busybox().layer(glibc(layer)).env(env).build());
    };
    push("wants:new", WANTS, Layer::new());
    push("wants:old", "NVIDIA_REQUIRE_CUDA=cuda>=11.0", Layer::new());
    let warning = format!(
        "the image requires cuda>=12.4 … (NVIDIA_REQUIRE_CUDA), and NVIDIA's driver {VERSION} has CUDA \
         12.2: its programs may fail"
    );
    let said_of = |image: &str, options: &[&str]| {
        let said = run(SITE.command_of(image, options, &["nvidia-smi"]));
        assert!(said.clone().success().contains("cuInit=0"), "{said}");
        said.stderr.matches(&warning).count()
    };
    assert_eq!(said_of("wants:new", &[]), 1);
    assert_eq!(said_of("wants:new", &["--gpu"]), 1, "nor is it an error for who has asked");
    assert_eq!(said_of("wants:new", &["-e", "NVIDIA_DISABLE_REQUIRE=1"]), 0);
    assert_eq!(said_of("wants:old", &[]), 0);
    // Of an image without the driver, nobody cares.
    let said = run(SITE.command_of("wants:new", &["--gpu=none"], &["true"]));
    assert!(said.clone().success().is_empty() && !said.stderr.contains("requires"), "{said}");

    // An image that brings a libcuda of its own has what it wants.
    let compat = std::fs::read(SITE.driver.path("compat/libcuda.so.545.23.08")).expect("built");
    let layer = Layer::new()
        .symlink("usr/local/cuda", "cuda-12")
        .file("usr/local/cuda-12/compat/libcuda.so.545.23.08", 0o755, &compat)
        .symlink("usr/local/cuda-12/compat/libcuda.so.1", "libcuda.so.545.23.08");
    push("wants:compat", "NVIDIA_REQUIRE_CUDA=cuda>=12.3", layer);
    assert_eq!(said_of("wants:compat", &[]), 0);
}

#[test]
fn loaders_of_egl_and_vulkan_find_the_driver_where_graphics_are_wanted() {
    need!(root, registry, busybox, userns, fake_gpu);
    let show = "cat /usr/share/glvnd/egl_vendor.d/10_nvidia.json /etc/vulkan/icd.d/nvidia_icd.json";
    let look = |capabilities: &str| {
        let mut command = SITE.command(&["--gpu"], &["sh", "-c", show]);
        run({
            command.env("SHIFTER_GPU_CAPABILITIES", capabilities);
            command
        })
    };
    assert_eq!(look("compute,graphics").success(), "egl\nvulkan\n");
    assert_eq!(look("all").success(), "egl\nvulkan\n");
    let said = look("compute,utility");
    assert!(said.code == 1 && said.stdout.is_empty(), "{said}");
}
