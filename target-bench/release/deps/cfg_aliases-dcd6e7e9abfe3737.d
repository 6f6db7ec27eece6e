/tmp/h-layer/target-bench/release/deps/cfg_aliases-dcd6e7e9abfe3737.d: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/cfg_aliases-0.2.2/src/lib.rs

/tmp/h-layer/target-bench/release/deps/libcfg_aliases-dcd6e7e9abfe3737.rlib: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/cfg_aliases-0.2.2/src/lib.rs

/tmp/h-layer/target-bench/release/deps/libcfg_aliases-dcd6e7e9abfe3737.rmeta: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/cfg_aliases-0.2.2/src/lib.rs

/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/cfg_aliases-0.2.2/src/lib.rs:
