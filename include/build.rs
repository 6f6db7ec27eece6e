//! Turns `slurm_extra.h` into Rust.

use std::{env, path::PathBuf};

fn main() {
    let header = "slurm_extra.h";
    println!("cargo:rerun-if-changed={header}");
    let bindings = bindgen::Builder::default()
        .header(header)
        .allowlist_file(format!(".*{header}"))
        .layout_tests(false)
        .generate()
        .expect("slurm_extra.h is plain C; is libclang installed?");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    bindings.write_to_file(out.join("slurm_extra.rs")).expect("OUT_DIR can be written");
}
