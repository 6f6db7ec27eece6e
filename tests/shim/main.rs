//! Shims of MPIs for 64-bit Arm: its linker loads them, and what they name.

use std::{fs, path::Path, process::Command};

use fixtures::{Sandbox, need, run};
use runtime::inject::mpi::shim::{Machine, shim};

const COMPILER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";
/// Debian's C library for it, and its linker.
const ROOT: &str = "/usr/aarch64-linux-gnu";

#[test]
fn a_program_for_arm_finds_a_library_through_its_shim() {
    need!(aarch64);
    let sandbox = Sandbox::new();
    let dir = sandbox.make_dir("aarch64", 0o755);
    let (image, host) = (dir.join("image"), dir.join("host"));
    for dir in [&image, &host] {
        fs::create_dir(dir).expect("the sandbox is this test's");
    }
    let source = sandbox.write(dir.join("greet.c"), include_str!("greet.c"));
    let compile = |args: &[&str], out: &Path| {
        let mut gcc = Command::new(COMPILER);
        gcc.args(args).arg("-o").arg(out).arg(&source);
        gcc
    };
    let library = |args: &[&str], out: &Path| {
        let mut gcc = compile(&[&["-shared", "-fPIC", "-DGREETING"], args].concat(), out);
        gcc.arg("-nostdlib");
        run(gcc).success();
    };
    // Linked with the image's, which is then a shim.
    let own = image.join("libmpi.so.12");
    library(&["-Wl,-soname,libmpi.so.12"], &own);
    let program = dir.join("program");
    let mut gcc = compile(&[], &program);
    gcc.arg(&own).arg(format!("-Wl,-rpath,{}", image.display()));
    run(gcc).success();
    let hosts = host.join("libmpi.so.12.1");
    library(&["-Wl,-soname,libmpich_gnu_123.so.12"], &hosts);

    let start = || {
        let mut qemu = Command::new(EMULATOR);
        qemu.args(["-L", ROOT]).arg(&program);
        run(qemu)
    };
    let needed = [hosts.display().to_string()];
    fs::write(&own, shim(Machine::Aarch64, "libmpi.so.12", &needed)).expect("it was just made");
    assert_eq!(start().success(), "42\n");
    // It is by the shim that it is found.
    fs::write(&own, shim(Machine::Aarch64, "libmpi.so.12", &[])).expect("the same");
    let without = start();
    assert!(without.code != 0 && without.stderr.contains("undefined symbol: greet"), "{without}");
}
