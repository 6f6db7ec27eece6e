//! Compiles what runs in containers: a program for the kernel alone, which no profile of cargo's
//! describes. See `src/sys/caller/main.rs`.

use std::{env, path::PathBuf, process::Command};

const SOURCES: [&str; 2] = ["src/sys/caller/main.rs", "src/sys/caller/kernel.rs"];

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    for source in SOURCES {
        println!("cargo::rerun-if-changed={source}");
    }
    let var = |name: &str| env::var(name).unwrap_or_else(|e| panic!("{name}: {e}"));
    let out = PathBuf::from(var("OUT_DIR")).join("caller");
    let mut rustc = Command::new(var("RUSTC"));
    rustc.args(["--edition", "2024", "--crate-name", "caller", "--crate-type", "bin"]);
    rustc.args(["--target", &var("TARGET")]);
    for option in
        ["opt-level=s", "panic=abort", "relocation-model=static", "strip=symbols", "lto=fat"]
    {
        rustc.args(["-C", option]);
    }
    for argument in ["-nostartfiles", "-nodefaultlibs", "-static", "-no-pie"] {
        rustc.args(["-C", &format!("link-arg={argument}")]);
    }
    if let Ok(linker) = env::var("RUSTC_LINKER") {
        rustc.args(["-C", &format!("linker={linker}")]);
    }
    let status = rustc.arg("-o").arg(&out).arg(SOURCES[0]).status();
    let done = status.as_ref().is_ok_and(|status| status.success());
    assert!(done, "compile {}: {status:?}", SOURCES[0]);
}
