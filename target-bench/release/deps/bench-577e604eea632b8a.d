/tmp/h-layer/target-bench/release/deps/bench-577e604eea632b8a.d: src/main.rs /tmp/h-layer/runtime/src/layer/mod.rs /tmp/h-layer/runtime/src/layer/expand.rs /tmp/h-layer/runtime/src/layer/merge.rs /tmp/h-layer/runtime/src/layer/name.rs /tmp/h-layer/runtime/src/layer/remove.rs /tmp/h-layer/runtime/src/layer/resolve.rs /tmp/h-layer/runtime/src/layer/shadow.rs /tmp/h-layer/runtime/src/layer/tar.rs /tmp/h-layer/runtime/src/sys/xattr.rs

/tmp/h-layer/target-bench/release/deps/bench-577e604eea632b8a: src/main.rs /tmp/h-layer/runtime/src/layer/mod.rs /tmp/h-layer/runtime/src/layer/expand.rs /tmp/h-layer/runtime/src/layer/merge.rs /tmp/h-layer/runtime/src/layer/name.rs /tmp/h-layer/runtime/src/layer/remove.rs /tmp/h-layer/runtime/src/layer/resolve.rs /tmp/h-layer/runtime/src/layer/shadow.rs /tmp/h-layer/runtime/src/layer/tar.rs /tmp/h-layer/runtime/src/sys/xattr.rs

src/main.rs:
/tmp/h-layer/runtime/src/layer/mod.rs:
/tmp/h-layer/runtime/src/layer/expand.rs:
/tmp/h-layer/runtime/src/layer/merge.rs:
/tmp/h-layer/runtime/src/layer/name.rs:
/tmp/h-layer/runtime/src/layer/remove.rs:
/tmp/h-layer/runtime/src/layer/resolve.rs:
/tmp/h-layer/runtime/src/layer/shadow.rs:
/tmp/h-layer/runtime/src/layer/tar.rs:
/tmp/h-layer/runtime/src/sys/xattr.rs:
