/tmp/h-layer/target-bench/release/deps/filetime-abb67de116011126.d: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/lib.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/mod.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/utimes.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/linux.rs

/tmp/h-layer/target-bench/release/deps/libfiletime-abb67de116011126.rlib: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/lib.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/mod.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/utimes.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/linux.rs

/tmp/h-layer/target-bench/release/deps/libfiletime-abb67de116011126.rmeta: /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/lib.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/mod.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/utimes.rs /root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/linux.rs

/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/lib.rs:
/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/mod.rs:
/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/utimes.rs:
/root/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/filetime-0.2.29/src/unix/linux.rs:
