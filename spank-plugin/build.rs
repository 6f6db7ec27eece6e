//! How the plugin is linked, which decides whether Slurm can load it.

fn main() {
    // rustc asks for all symbols to be bound at load time. Slurm loads with RTLD_LAZY, and one
    // symbol that an older release lacks must not keep the plugin from loading: srun would die.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,lazy");
    // slurm-spank marks its option callback no_mangle; only our own hooks are Slurm's to see.
    println!("cargo:rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
    println!("cargo:rerun-if-changed=build.rs");
}
