//! Files of the Container Device Interface, and what the linker's cache and libraries look like.

#![no_main]

use std::{fs, path::PathBuf, sync::OnceLock};

use fuzz::{Seed, assert_printable, offer, scratch, texts};
use libfuzzer_sys::fuzz_target;
use runtime::{
    Config, Options,
    inject::{self, cdi::Registry, elf::Library, ldcache::Cache},
    options::{DeviceSpec, Gpu},
    report::Report,
};

fuzz_target!(init: { dir(); offer(seeds(), &WORDS, take) }, |data: &[u8]| {
    take(data);
});

const WORDS: [&[u8]; 30] = [
    b"cdiVersion: 0.5.0\n",
    b"\"cdiVersion\":\"1.1.0\",",
    b"kind: nvidia.com/gpu\n",
    b"devices:\n",
    b"containerEdits:\n",
    b"- name: all\n",
    b"deviceNodes:\n",
    b"- path: /dev/null\n",
    b"hostPath: /dev/zero\n",
    b"mounts:\n",
    b"containerPath: /x\n",
    b"options: [ro]\n",
    b"type: tmpfs\n",
    b"hooks:\n",
    b"- hookName: createContainer\n",
    b"path: /usr/bin/nvidia-cdi-hook\n",
    b"args: [nvidia-cdi-hook, ",
    b"create-symlinks, --link, a::/b",
    b"update-ldcache, --folder, /x",
    b"enable-cuda-compat, --host-driver-version=1.2",
    b"additionalGids: [1]\n",
    b"intelRdt: {}\n",
    b"netDevices:\n",
    b"&a ",
    b"*a",
    b"<<: *a\n",
    b"!!binary ",
    b"--- \n",
    b"glibc-ld.so.cache1.1",
    b"\x7fELF\x02\x01\x01",
];

/// Where the file is, in both of its forms.
fn dir() -> &'static PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(scratch)
}

fn seeds() -> Vec<Seed> {
    let nvidia = include_str!("../../../runtime/src/inject/cdi/examples/nvidia.yaml");
    let amd = include_str!("../../../runtime/src/inject/cdi/examples/amd.json");
    let small = "cdiVersion: 1.1.0\nkind: a.com/b.c\nannotations: {a: b}\ndevices:\n\
                 - name: x\n  containerEdits:\n    env: [A=b]\n    additionalGids: [5]\n\
                 \x20   deviceNodes:\n    - {path: /dev/null, type: c, permissions: rwm}\n\
                 \x20   netDevices: [{hostInterfaceName: a, name: b}]\n\
                 \x20   intelRdt: {closID: a, schemata: [x]}\n";
    let rooted = |text: &str| text.replace("{ROOT}", "/opt");
    let mut seeds = texts(true, [small.to_owned(), rooted(nvidia), rooted(amd)]);
    seeds.extend(texts(false, ["", "a: &a [*a]", "kind: 0", "{\"cdiVersion\": 1}"]));
    let mut cache = Cache::default();
    cache.put([inject::ldcache::Entry {
        name: "libcuda.so.1".into(),
        path: "/x".into(),
        flags: 0x303,
        hwcap: 0,
    }]);
    seeds.push((cache.to_bytes(), false));
    if let Ok(own) = fs::read("/proc/self/exe") {
        seeds.push((own[..own.len().min(2048)].to_vec(), false));
    }
    seeds
}

fn take(data: &[u8]) -> bool {
    if let Some(cache) = Cache::parse(data) {
        let again = Cache::parse(&cache.to_bytes()).expect("what is written is read");
        assert_eq!(again.entries().len(), cache.entries().len());
        assert_eq!(Cache::parse(&again.to_bytes()), Some(again));
    }
    let mut understood = false;
    for (name, other) in [("a.yaml", "a.json"), ("a.json", "a.yaml")] {
        // There may be none.
        let _ = fs::remove_file(dir().join(other));
        fs::write(dir().join(name), data).expect("write a file");
        if data.starts_with(b"\x7fELF") {
            let _ = Library::open(&dir().join(name));
        }
        understood |= inspect();
    }
    understood
}

fn inspect() -> bool {
    let registry = Registry::load(std::slice::from_ref(dir()));
    for error in registry.broken() {
        let line = Report::from(error).line;
        assert_printable(&line);
        assert!(line.len() < 8192, "a line is a page: {line}");
    }
    let config = format!("store = '/s'\n[gpu]\ncdi_dirs = [{:?}]\ndriver_root = '/no/such'", dir());
    let config = Config::parse(&config).expect("good settings");
    let mut understood = false;
    for kind in registry.kinds() {
        for device in registry.devices(kind) {
            understood = true;
            let name = format!("{kind}={device}").parse().expect("names of a file are names");
            let options = Options {
                gpu: Some(Gpu::Nothing),
                devices: vec![DeviceSpec::Cdi(name)],
                ..Options::default()
            };
            match inject::find(&options, &config, &|_| None) {
                Err(error) => assert_printable(&Report::from(&error).line),
                Ok(injection) => {
                    let edits = injection.edits;
                    let paths = edits.mounts.iter().map(|mount| &mount.target);
                    let paths = paths.chain(edits.devices.iter().map(|device| &device.target));
                    let mut paths = paths.chain(edits.symlinks.iter().map(|link| &link.path));
                    assert!(paths.all(|path| path.is_absolute() && path.parent().is_some()));
                }
            }
            // Who has not asked is never refused.
            inject::find(&Options::default(), &config, &|_| None).expect("nobody has asked");
        }
    }
    understood
}
