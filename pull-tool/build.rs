//! Links the compiler's unwinder into the programs: as a shared library it would be the only one that they
//! load beside libc's, and that takes a twentieth of the time in which a container starts.

#![allow(clippy::print_stdout)]

use std::{env, fs, path::PathBuf, process::Command};

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CC");
    // Another machine's compiler may know other places. Without all this the programs work as well.
    if env::var("HOST") != env::var("TARGET")
        || env::var("CARGO_CFG_TARGET_ENV").as_deref() != Ok("gnu")
    {
        return;
    }
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let archive = |name: &str| {
        let answer =
            Command::new(&compiler).arg(format!("-print-file-name={name}")).output().ok()?;
        let path = PathBuf::from(String::from_utf8(answer.stdout).ok()?.trim());
        (path.is_absolute() && path.is_file()).then_some(path)
    };
    let (Some(unwinder), Some(rest)) = (archive("libgcc_eh.a"), archive("libgcc.a")) else {
        return;
    };
    // rustc asks for libgcc_s, by name; the linker takes what it comes across first.
    let dir = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    let script = format!("GROUP({} {})\n", unwinder.display(), rest.display());
    if fs::write(dir.join("libgcc_s.so"), script).is_ok() {
        println!("cargo:rustc-link-search=native={}", dir.display());
    }
}
