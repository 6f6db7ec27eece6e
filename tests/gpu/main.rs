//! GPUs in containers: a fake driver of real libraries and real devices, found by itself and by CDI
//! files, as an ordinary user sees it. What a real one does, `tests/gpu-real` looks at.

mod denied;
mod driver;
mod files;
mod slurm;
mod wishes;

use std::{
    path::PathBuf,
    process::Command,
    sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    },
};

use fixtures::{
    Outcome, Registry, Sandbox, User,
    image::{self, Layer},
    need, run,
};

use self::driver::{Driver, VERSION, distroless, glibc};

struct Site {
    sandbox: Sandbox,
    registry: Registry,
    user: User,
    driver: Driver,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let sandbox = Sandbox::new().with_programs();
    let registry = Registry::start(&sandbox);
    let driver = Driver::install(&sandbox);
    registry.push("glibc:1", &image::busybox().layer(glibc(Layer::new())).build());
    Site { sandbox, registry, user: User::ordinary(), driver }
});

/// Names for directories of tests.
static COUNT: AtomicU32 = AtomicU32::new(0);

impl Site {
    /// `shifter run` where the driver is found by itself.
    fn run(&self, options: &[&str], words: &[&str]) -> Outcome {
        run(self.command(options, words))
    }

    fn command(&self, options: &[&str], words: &[&str]) -> Command {
        self.command_of("glibc:1", options, words)
    }

    fn command_of(&self, image: &str, options: &[&str], words: &[&str]) -> Command {
        let mut command = self.user.command(&self.sandbox, "shifter");
        command.arg("run").args(options).arg(self.registry.name(image)).args(words);
        command.env("SHIFTER_GPU_DRIVER_ROOT", &self.driver.0);
        command.env("SHIFTER_GPU_CDI_DIRS", "/no/such/cdi");
        command
    }

    /// The same where these files describe it; there are two directories, `0/` and `1/`.
    fn described(&self, files: &[(&str, &str)]) -> PathBuf {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = self.sandbox.make_dir(format!("cdi-{number}"), 0o755);
        for name in ["0", "1"] {
            self.sandbox.make_dir(dir.join(name), 0o755);
        }
        for (name, text) in files {
            self.sandbox.write(dir.join(name), text);
        }
        dir
    }

    fn with_files(&self, files: &[(&str, &str)], options: &[&str], words: &[&str]) -> Outcome {
        let dir = self.described(files);
        let mut command = self.command(options, words);
        let dirs = format!("{},{}", dir.join("0").display(), dir.join("1").display());
        command.env("SHIFTER_GPU_CDI_DIRS", dirs).env("SHIFTER_GPU_DRIVER_ROOT", "/no/such/root");
        run(command)
    }

    /// What the fake nvidia-smi says of so many GPUs.
    fn says(&self, gpus: u32) -> String {
        let library = format!("/usr/lib64/libcuda.so.{VERSION}");
        format!("{VERSION} cuInit=0 gpus={gpus} by=driver libcuda={library}\n")
    }
}

#[track_caller]
fn refused(outcome: &Outcome, code: i32, parts: &[&str]) {
    let stderr = outcome.clone().failure(code);
    let lines: Vec<_> = stderr.lines().filter(|line| !line.contains("pulling ")).collect();
    assert_eq!(lines.len(), 1, "not one line: {outcome}");
    for part in parts {
        assert!(lines[0].contains(part), "no {part:?}: {outcome}");
    }
    assert_eq!(outcome.stdout, "", "something has run: {outcome}");
}

#[test]
fn programs_find_the_driver_by_themselves() {
    need!(root, registry, busybox, userns, fake_gpu);
    // Nobody has asked for it.
    assert_eq!(SITE.run(&[], &["nvidia-smi"]).success(), SITE.says(2));
    for options in
        [&["--gpu"][..], &["--gpu=all"], &["--gpu=auto"], &["--gpus", "all"], &["--read-only"]]
    {
        assert_eq!(SITE.run(options, &["nvidia-smi"]).success(), SITE.says(2), "{options:?}");
    }
    let one = SITE.run(&["--gpu=nvidia.com/gpu=1"], &["nvidia-smi"]);
    assert_eq!(one.success(), SITE.says(1), "one of two");
    let none = SITE.run(&["--gpu=none"], &["nvidia-smi"]);
    assert!(none.failure(127).contains("not found"), "nobody wanted it");
}

#[test]
fn an_image_needs_nothing_but_a_c_library() {
    need!(root, registry, busybox, userns, fake_gpu);
    SITE.registry.push("distroless:1", &distroless().build());
    for options in [&["--gpu"][..], &["--gpu", "--read-only"]] {
        let said = run(SITE.command_of("distroless:1", options, &["/usr/bin/nvidia-smi"]));
        assert_eq!(said.success(), SITE.says(2));
    }
}

/// Red Hat's images have these directories, and nobody may write to them.
#[test]
fn directories_that_cannot_be_written_to_take_the_driver() {
    need!(root, registry, busybox, userns, fake_gpu);
    let closed = ["usr/lib64", "usr/bin", "etc/ld.so.conf.d", "etc"];
    let layer = closed.iter().fold(glibc(Layer::new()), |layer, dir| layer.dir(dir, 0o555));
    SITE.registry.push("closed:1", &image::busybox().layer(layer).build());
    for options in [&["--gpu"][..], &["--gpu", "--remap-root"]] {
        let said = run(SITE.command_of("closed:1", options, &["nvidia-smi"]));
        assert_eq!(said.success(), SITE.says(2));
    }
    let said =
        run(SITE.command_of("closed:1", &[], &["cat", "/etc/ld.so.conf.d/000-shifter.conf"]));
    assert_eq!(said.success(), "/usr/lib64\n");
}

#[test]
fn what_an_images_cache_knows_is_still_found() {
    need!(root, registry, busybox, userns, fake_gpu);
    // A library in a place that the linker finds by its cache alone.
    let host = std::fs::read(SITE.driver.0.join(format!("usr/lib64/libnvidia-ml.so.{VERSION}")));
    let layer = glibc(Layer::new().dir("opt", 0o755).dir("opt/own", 0o755));
    let layer = layer.file("opt/own/libcuda.so.1", 0o755, b"an old stub").file(
        "opt/own/libown.so.1",
        0o755,
        host.expect("it was built"),
    );
    let cache = std::fs::read("/etc/ld.so.cache").expect("Debian has one");
    let image =
        image::busybox().layer(layer).layer(Layer::new().file("etc/ld.so.cache", 0o644, cache));
    SITE.registry.push("cached:1", &image.build());
    let said = run(SITE.command_of("cached:1", &["--gpu"], &["nvidia-smi"]));
    assert_eq!(said.success(), SITE.says(2));
    let list = |options: &[&str]| {
        let words = ["sh", "-c", "strings -n 4 /etc/ld.so.cache | sort -u"];
        run(SITE.command_of("cached:1", options, &words)).success()
    };
    let (before, after) = (list(&["--gpu=none"]), list(&["--gpu"]));
    let lost: Vec<_> = before.lines().filter(|line| !after.contains(line)).collect();
    assert!(
        lost.iter().all(|line| line.contains("glibc") || line.contains("ldconfig")),
        "{lost:?}"
    );
    assert!(after.contains("/usr/lib64/libcuda.so.1"), "{after}");
}

#[test]
fn a_newer_libcuda_of_the_images_is_taken_if_it_can_be() {
    need!(root, registry, busybox, userns, fake_gpu);
    let compat = std::fs::read(SITE.driver.path("compat/libcuda.so.545.23.08")).expect("built");
    let image = |version: &str| {
        let layer = glibc(Layer::new())
            .symlink("usr/local/cuda", "cuda-12")
            .file(&format!("usr/local/cuda-12/compat/libcuda.so.{version}"), 0o755, &compat)
            .symlink("usr/local/cuda-12/compat/libcuda.so.1", &format!("libcuda.so.{version}"));
        image::busybox().layer(layer).build()
    };
    for (version, by) in [("545.23.08", "by=image"), ("470.10.1", "by=driver")] {
        let name = format!("compat:{version}");
        SITE.registry.push(&name, &image(version));
        let said = run(SITE.command_of(&name, &["--gpu"], &["nvidia-smi"])).success();
        assert!(said.contains(by) && said.contains("cuInit=0 gpus=2"), "{version}: {said}");
    }
}

#[test]
fn an_image_of_musl_is_warned_of() {
    need!(root, registry, busybox, userns, fake_gpu);
    let layer = Layer::new().dir("lib", 0o755).file("lib/ld-musl-x86_64.so.1", 0o755, "");
    SITE.registry
        .push("musl:1", &image::busybox().layer(layer).env("LD_LIBRARY_PATH=/own").build());
    let said = run(SITE.command_of("musl:1", &["--gpu"], &["sh", "-c", "echo $LD_LIBRARY_PATH"]));
    assert_eq!(said.clone().success(), "/usr/lib64:/own\n");
    assert!(
        said.stderr.contains("musl") && said.stderr.contains("use an image with glibc"),
        "{said}"
    );
}

#[test]
fn variables_of_the_job_stay_as_they_are() {
    need!(root, registry, busybox, userns, fake_gpu);
    let cdi = SITE.driver.cdi().replace(
        "        - NVIDIA_VISIBLE_DEVICES=void\n",
        "        - NVIDIA_VISIBLE_DEVICES=void\n        - CUDA_VISIBLE_DEVICES=9\n        - OTHER=x\n",
    );
    let dir = SITE.described(&[("0/nvidia.yaml", &cdi)]);
    let script = "echo $CUDA_VISIBLE_DEVICES $NVIDIA_VISIBLE_DEVICES $OTHER";
    let mut command = SITE.command(&["--gpu"], &["sh", "-c", script]);
    command.env("SHIFTER_GPU_CDI_DIRS", dir.join("0")).env("CUDA_VISIBLE_DEVICES", "0,1");
    assert_eq!(run(command).success(), "0,1 void x\n");
}

#[test]
fn devices_that_the_host_has_elsewhere_are_added_to_its_dev() {
    need!(root, registry, busybox, userns, fake_gpu);
    let script = "test -c /dev/added && echo x >/dev/added && ls -d /dev/pts /dev/shm && \
                  readlink /dev/stdout && test -w /dev/shm";
    let said = SITE.run(&["--gpu=none", "--device", "/dev/null:/dev/added"], &["sh", "-c", script]);
    assert_eq!(said.success(), "/dev/pts\n/dev/shm\n/proc/self/fd/1\n");
    // Not on the host.
    assert!(!PathBuf::from("/dev/added").exists() && !PathBuf::from("/dev/nvidia0").exists());
}

#[test]
fn a_dry_run_shows_what_would_be_there_and_why() {
    need!(root, registry, busybox, userns, fake_gpu);
    SITE.run(&[], &["true"]).success();
    let told = SITE.run(&["--dry-run", "--gpu"], &["true"]).success();
    let library = SITE.driver.path(&format!("usr/lib64/libcuda.so.{VERSION}"));
    for line in [
        &*format!("devices  nvidia.com/gpu=all, NVIDIA's driver {VERSION}"),
        &format!("mount    /dev/nvidia0 from {}", SITE.driver.path("dev/nvidia0")),
        &format!("mount    /usr/lib64/libcuda.so.{VERSION} from {library}, read-only"),
        &format!("link     /usr/lib64/libcuda.so.1 to libcuda.so.{VERSION}"),
        "link     /usr/lib64/libcuda.so to libcuda.so.1",
        "file     /etc/ld.so.cache (",
    ] {
        assert!(told.lines().any(|l| l.starts_with(line)), "no {line:?} in: {told}");
    }
}

#[test]
fn a_container_with_a_name_finds_the_driver_each_time() {
    need!(root, registry, busybox, userns, fake_gpu);
    let name = ["--name", "gpu-kept"];
    let with = |more: &[&str], words: &[&str]| SITE.run(&[&name[..], more].concat(), words);
    assert_eq!(with(&[], &["nvidia-smi"]).success(), SITE.says(2));
    assert_eq!(with(&[], &["nvidia-smi"]).success(), SITE.says(2));
    let without = with(&["--gpu=none"], &["ls", &format!("/usr/lib64/libcuda.so.{VERSION}")]);
    assert!(without.success().contains("libcuda"), "mount points stay, and are empty");
    assert_eq!(with(&["--gpu"], &["nvidia-smi"]).success(), SITE.says(2));
}

#[test]
fn words_that_are_wrong_are_explained() {
    need!(root, registry, busybox, userns, fake_gpu);
    refused(&SITE.run(&["--gpu=2"], &["true"]), 2, &["GPU \"2\"", "expected auto, all, none"]);
    refused(&SITE.run(&["--gpus", "2"], &["true"]), 2, &["--gres=gpu:1"]);
    refused(&SITE.run(&["--gpu=nvidia.com/gpu=-"], &["true"]), 2, &["nvidia.com/gpu=-"]);
    for word in ["all", "none", "nvidia.com/gpu=0"] {
        let says = format!("write --gpu={word}");
        refused(&SITE.run(&["--gpu", word], &["true"]), 2, &["no image is named", &says]);
    }
    let said = SITE.run(&["--gpu=nvidia.com/gpu=7"], &["true"]);
    refused(&said, 125, &["find device nvidia.com/gpu=7", "there are 0, 1, all"]);
    let said = SITE.run(&["--device", "hpe.com/cxi=0"], &["true"]);
    refused(&said, 125, &["find device hpe.com/cxi=0", "no file in /no/such/cdi"]);
    let mut command = SITE.command(&["--gpu"], &["true"]);
    command.env("SHIFTER_GPU_DRIVER_ROOT", "/no/such/root");
    refused(&run(command), 125, &["this node has none", "/no/such/cdi", "leave --gpu out"]);
    let mut command = SITE.command(&[], &["true"]);
    command.env("SHIFTER_GPU_MODE", "sometimes");
    refused(&run(command), 125, &["SHIFTER_GPU_MODE", "expected auto, all, none"]);
}

#[test]
fn an_environment_file_asks_as_well() {
    need!(root, registry, busybox, userns, fake_gpu);
    let image = SITE.registry.name("glibc:1");
    let write = |name: &str, more: &str| {
        let text = format!("image = {image:?}\n{more}\n");
        SITE.sandbox.write(format!("env-{name}.toml"), text).display().to_string()
    };
    let run_file = |file: &str, words: &[&str]| {
        let mut command = SITE.command(&[], &[]);
        let envs: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command = SITE.user.command(&SITE.sandbox, "shifter");
        command.envs(envs).arg("run").arg(file).args(words);
        run(command)
    };
    let file = write("one", "gpu = [\"nvidia.com/gpu=0\"]");
    assert_eq!(run_file(&file, &["nvidia-smi"]).success(), SITE.says(1));
    let file = write("none", "gpu = \"none\"");
    run_file(&file, &["nvidia-smi"]).failure(127);
    // CSCS's way.
    let file = write("devices", "gpu = []\ndevices = [\"nvidia.com/gpu=all\"]");
    assert_eq!(run_file(&file, &["nvidia-smi"]).success(), SITE.says(2));
    let file = write("wrong", "workdir = \"/\"\ngpu = \"nvidia.com/gpu=9\"");
    refused(&run_file(&file, &["true"]), 125, &["env-wrong.toml:3: find device nvidia.com/gpu=9"]);
    let file = write("odd", "gpu = \"some\"");
    refused(&run_file(&file, &["true"]), 125, &["env-odd.toml:2", "expected auto, all, none"]);
}

#[test]
fn doctor_tells_what_a_container_would_get() {
    need!(root, registry, busybox, userns, fake_gpu);
    let doctor = |env: &[(&str, &str)]| {
        let mut command = SITE.user.command(&SITE.sandbox, "shifter");
        command.arg("doctor").env("SHIFTER_GPU_CDI_DIRS", "/no/such/cdi").envs(env.iter().copied());
        let said = run(command);
        let lines = said.stdout.lines().skip_while(|line| !line.contains("GPU injection"));
        let lines: Vec<_> = lines.take(2).map(str::trim).map(str::to_owned).collect();
        assert_eq!(lines.len(), 2, "{said}");
        lines
    };
    let root = SITE.driver.0.display().to_string();
    let found = doctor(&[("SHIFTER_GPU_DRIVER_ROOT", &root)]);
    let says = format!("nvidia.com/gpu=all, NVIDIA's driver {VERSION}: 4 devices, 2 libraries");
    assert!(found[0].starts_with("ok ") && found[0].contains(&says), "{found:?}");
    let none = doctor(&[("SHIFTER_GPU_DRIVER_ROOT", "/no/such/root")]);
    assert!(none[0].starts_with("- ") && none[0].contains("no GPU that is known"), "{none:?}");
    let cdi = SITE.driver.cdi().replace("- create-symlinks", "- make-coffee");
    let dir = SITE.described(&[("0/nvidia.yaml", &cdi)]).join("0").display().to_string();
    let odd = doctor(&[("SHIFTER_GPU_CDI_DIRS", &dir)]);
    assert!(odd[0].starts_with("limited ") && odd[0].contains("make-coffee"), "{odd:?}");
    assert!(
        odd[1].contains("an administrator can mend it") && odd[1].contains("ignore_hooks"),
        "{odd:?}"
    );
}

/// There is no real one here; what would look at one is kept in order all the same.
#[test]
fn the_script_for_real_gpus_is_in_order() {
    need!(shellcheck, fake_gpu);
    let script = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("gpu-real/run.sh");
    let mut check = Command::new("shellcheck");
    check.arg(&script);
    run(check).success();
    let mut check = Command::new(&script);
    check.arg("--check");
    assert!(run(check).success().contains("in order"));
    // Without a GPU, it says so, and does nothing.
    let mut alone = Command::new(&script);
    alone.env("PATH", format!("{}:/usr/bin:/bin", SITE.sandbox.prefix().join("bin").display()));
    if need::gpu().is_err() {
        assert!(run(alone).failure(2).contains("gpu-real: nvidia-smi"));
    }
}
