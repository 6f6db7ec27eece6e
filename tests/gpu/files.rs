//! CDI files, right and wrong.

use fixtures::need;

use crate::{SITE, driver::VERSION, refused};

#[test]
fn a_file_is_followed() {
    need!(root, registry, busybox, userns, fake_gpu);
    let cdi = SITE.driver.cdi();
    let files = [("0/nvidia.yaml", &*cdi)];
    for (options, gpus) in [
        (&[][..], 2),
        (&["--gpu"], 2),
        (&["--gpu=nvidia.com/gpu=0"], 1),
        (&["--gpu=nvidia.com/gpu=0,nvidia.com/gpu=1"], 2),
        (&["--gpu=none", "--device", "nvidia.com/gpu=1"], 1),
        (&["--gpu", "--read-only", "--remap-root"], 2),
    ] {
        let said = SITE.with_files(&files, options, &["nvidia-smi"]);
        assert_eq!(said.success(), SITE.says(gpus), "{options:?}");
    }
    let script = "echo $NVIDIA_VISIBLE_DEVICES; readlink /usr/lib64/libcuda.so; \
                  readlink /usr/lib64/libcuda.so.1; touch /usr/bin/nvidia-smi 2>/dev/null || echo ro";
    let said = SITE.with_files(&files, &["--gpu"], &["sh", "-c", script]);
    assert_eq!(said.success(), format!("void\nlibcuda.so.1\nlibcuda.so.{VERSION}\nro\n"));
}

#[test]
fn what_is_wrong_is_an_error_for_those_who_asked() {
    need!(root, registry, busybox, userns, fake_gpu);
    let cdi = SITE.driver.cdi();
    let asked = |text: &str, parts: &[&str]| {
        let files = [("0/nvidia.yaml", text)];
        refused(&SITE.with_files(&files, &["--gpu"], &["true"]), 125, parts);
        // Others are told, and run.
        let said = SITE.with_files(&files, &[], &["echo", "runs"]);
        assert_eq!(said.clone().success(), "runs\n", "{said}");
        assert!(said.stderr.contains("left out: ") || said.stderr.is_empty(), "{said}");
        said.stderr
    };
    let library = format!("libcuda.so.{VERSION}");
    let said = asked(
        &cdi.replace(&format!("hostPath: {}", SITE.driver.path("usr/lib64")), "hostPath: /gone"),
        &["mount /gone/", &library, "and 1 more", "nvidia-ctk cdi generate"],
    );
    assert!(said.contains("left out: mount /gone/"), "{said}");
    asked(
        &cdi.replace("- disable-device-node-modification", "- install-driver"),
        &["hook \"install-driver\" is not supported", "gpu.ignore_hooks"],
    );
    asked(
        &cdi.replace("/usr/bin/nvidia-cdi-hook", "/opt/site/hook"),
        &["hook \"hook\" is not supported"],
    );
    let uvm = SITE.driver.path("dev/nvidia-uvm");
    asked(&cdi.replace(&uvm, "/gone/nvidia-uvm"), &["mount /gone/nvidia-uvm", "nvidia-modprobe"]);
    // Nobody describes a GPU, and there is no driver.
    let said = asked(&cdi.replace("kind:", "knid:"), &["this node has none"]);
    assert_eq!(said, "", "on this node there is no GPU that anybody could miss");
    let files = [("0/nvidia.yaml", &*cdi.replace("kind:", "knid:"))];
    let said = SITE.with_files(&files, &["--gpu=nvidia.com/gpu=0"], &["true"]);
    refused(&said, 125, &["nvidia.yaml, line 3: unknown field", "correct that file first"]);
}

#[test]
fn hooks_can_be_passed_over_by_name() {
    need!(root, registry, busybox, userns, fake_gpu);
    let cdi = SITE.driver.cdi().replace("- disable-device-node-modification", "- install-driver");
    let dir = SITE.described(&[("0/nvidia.yaml", &cdi)]);
    let mut command = SITE.command(&["--gpu"], &["nvidia-smi"]);
    command.env("SHIFTER_GPU_CDI_DIRS", dir.join("0"));
    command.env("SHIFTER_GPU_IGNORE_HOOKS", "install-driver");
    assert_eq!(fixtures::run(command).success(), SITE.says(2));
}

#[test]
fn directories_are_read_in_their_order() {
    need!(root, registry, busybox, userns, fake_gpu);
    let cdi = SITE.driver.cdi();
    let later = cdi.replace("NVIDIA_VISIBLE_DEVICES=void", "NVIDIA_VISIBLE_DEVICES=later");
    let script = ["sh", "-c", "echo $NVIDIA_VISIBLE_DEVICES"];
    let broken = ("0/other.yaml", "cdiVersion: [\n");
    let files = [("0/nvidia.yaml", &*cdi), ("1/nvidia.yaml", &*later), broken];
    let said = SITE.with_files(&files, &["--gpu=nvidia.com/gpu=0"], &script);
    assert_eq!(said.clone().success(), "later\n");
    assert!(
        !said.stderr.contains("other.yaml"),
        "another vendor's file is nobody's business: {said}"
    );
    let files = [("0/nvidia.yaml", &*cdi), ("0/again.yaml", &*cdi)];
    let said = SITE.with_files(&files, &["--gpu=nvidia.com/gpu=0"], &script);
    refused(&said, 125, &["both ", "0/again.yaml", "0/nvidia.yaml", "remove it from one"]);
}

#[test]
fn a_file_that_others_can_write_is_refused() {
    need!(root, registry, busybox, userns, fake_gpu);
    let cdi = SITE.driver.cdi();
    let dir = SITE.described(&[("0/nvidia.yaml", &cdi)]);
    let all = std::os::unix::fs::PermissionsExt::from_mode(0o666);
    std::fs::set_permissions(dir.join("0/nvidia.yaml"), all).expect("chmod");
    let mut command = SITE.command(&["--gpu=nvidia.com/gpu=0"], &["true"]);
    command.env("SHIFTER_GPU_CDI_DIRS", dir.join("0")).env("SHIFTER_GPU_DRIVER_ROOT", "/no/such");
    refused(&fixtures::run(command), 125, &["nvidia.yaml", "others can write to it"]);
}

/// Devices and a directory of libraries, as for a network.
#[test]
fn other_vendors_need_no_code() {
    need!(root, registry, busybox, userns, fake_gpu);
    let root = SITE.driver.0.display();
    let cdi = format!(
        r#"{{"cdiVersion":"0.7.0","kind":"hpe.com/cxi","devices":[{{"name":"all",
        "containerEdits":{{"deviceNodes":[{{"path":"/dev/cxi0","hostPath":"{root}/dev/nvidia0"}}],
        "additionalGids":[5]}}}}],"containerEdits":{{"env":["FI_PROVIDER=cxi"],"mounts":[{{
        "hostPath":"{root}/usr/lib64","containerPath":"/opt/net/lib","options":["ro","rbind"]}}],
        "hooks":[{{"hookName":"createContainer","path":"/usr/bin/nvidia-cdi-hook","args":
        ["nvidia-cdi-hook","update-ldcache","--folder","/opt/net/lib"]}}]}}}}"#
    );
    let script = "test -c /dev/cxi0 && echo $FI_PROVIDER && ls /opt/net/lib | wc -l";
    let files = [("1/cxi.json", &*cdi)];
    let said = SITE.with_files(&files, &["--device", "hpe.com/cxi=all"], &["sh", "-c", script]);
    assert_eq!(said.success(), "cxi\n2\n");
    // By the settings, where nobody asks.
    let dir = SITE.described(&files);
    let smi = SITE.driver.path("usr/bin/nvidia-smi");
    let mount = format!("{smi}:/bin/smi");
    let mut command = SITE.command(&["-v", &mount], &["/bin/smi"]);
    command
        .env("SHIFTER_GPU_CDI_DIRS", dir.join("1"))
        .env("SHIFTER_GPU_DEVICES", "hpe.com/cxi=all");
    let said = fixtures::run(command);
    assert!(said.stdout.contains("libcuda=/opt/net/lib/libcuda.so"), "{said}");
}

#[test]
fn memory_can_be_mounted_and_what_takes_privileges_is_named() {
    need!(root, registry, busybox, userns, fake_gpu);
    let root = SITE.driver.0.display();
    let file = |version: &str, edits: &str| {
        format!(
            r#"{{"cdiVersion":"{version}","kind":"site.org/scratch","devices":[{{"name":"all",
            "containerEdits":{{{edits}}}}}]}}"#
        )
    };
    let asked = |text: &str, words: &[&str]| {
        SITE.with_files(&[("0/site.json", text)], &["--device", "site.org/scratch=all"], words)
    };
    let memory = |options: &str| {
        let edits = format!(
            r#""mounts":[{{"hostPath":"{root}/usr/bin","containerPath":"/scratch/own/bin"}},
            {{"hostPath":"tmpfs","containerPath":"/scratch/own","type":"tmpfs","options":[{options}]}}]"#
        );
        file("0.4.0", &edits)
    };
    let script = "echo x >/scratch/own/file && ls /scratch/own /scratch/own/bin && \
                  grep ' /scratch/own ' /proc/mounts | grep -o 'noexec\\|size=1024k\\|mode=700'";
    let options = r#""nosuid","nodev","noexec","size=1m","mode=0700","rprivate""#;
    let said = asked(&memory(options), &["sh", "-c", script]);
    let expected = "/scratch/own:\nbin\nfile\n\n/scratch/own/bin:\nnvidia-smi\n";
    assert_eq!(said.success(), format!("{expected}noexec\nsize=1024k\nmode=700\n"));
    for (option, says) in [
        ("ro", "tmpfs \"/scratch/own\", option \"ro\": it is not supported"),
        ("uid=5", "option \"uid=5\": it is not supported"),
        ("size=half", "option \"size=half\": a size is"),
    ] {
        refused(&asked(&memory(&format!("\"{option}\"")), &["true"]), 125, &["site.json: ", says]);
    }
    for (edits, says) in [
        (r#""intelRdt":{"closID":"x"}"#, "intelRdt cannot be had without privileges"),
        (
            r#""netDevices":[{"hostInterfaceName":"eth7","name":"eth0"}]"#,
            "network interface \"eth7\" cannot be had without privileges",
        ),
        (
            r#""mounts":[{"hostPath":"/dev/sdz","containerPath":"/x","type":"ext4"}]"#,
            "a mount of type \"ext4\" cannot be had",
        ),
    ] {
        refused(&asked(&file("1.1.0", edits), &["true"]), 125, &["site.json: ", says]);
    }
}
