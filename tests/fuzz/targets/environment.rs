//! An environment file, and its bases.

#![no_main]

use std::{env, ffi::OsString, fs, path::PathBuf, sync::OnceLock};

use fuzz::{Seed, assert_printable, offer, scratch, texts};
use libfuzzer_sys::fuzz_target;
use runtime::{
    environment_file::{Environment, Error},
    report::Report,
    request::Request,
};

fuzz_target!(init: { dir(); offer(seeds(), &WORDS, take) }, |data: &[u8]| {
    take(data);
});

const WORDS: [&[u8]; 34] = [
    BETWEEN.as_bytes(),
    b"base = ",
    b"base_environment = [",
    b"'./a.toml'",
    b"'./b.toml'",
    b"'b'",
    b"image = 'a'\n",
    b"mounts = [",
    b"devices = [",
    b"gpu = ",
    b"workdir = ",
    b"entrypoint = ",
    b"writable = ",
    b"home = ",
    b"remap_root = ",
    b"name = ",
    b"[env]\n",
    b"[annotations]\n",
    b"com.hooks.x.enabled = ",
    b"true",
    b"false",
    b"$A",
    b"${A}",
    b"${A:-",
    b"${NONE:-x}",
    b"$$",
    b"$(",
    b"type=tmpfs,target=/t",
    b"type=bind,\"source=/a:b\",target=/c",
    b":ro+private",
    b"/..",
    b"~/",
    b"\\u0000",
    b"\\u001b\\u202e",
];

/// What is between a file and the one that can be its base.
const BETWEEN: &str = "\n%%\n";

/// Where the files are. The caller's home is there too.
fn dir() -> &'static PathBuf {
    static DIR: OnceLock<PathBuf> = OnceLock::new();
    DIR.get_or_init(|| {
        let dir = scratch();
        // SAFETY: this is the first thing that the program does; there is no other thread.
        unsafe { env::set_var("HOME", &dir) };
        dir
    })
}

fn variable(name: &str) -> Option<OsString> {
    match name {
        "A" => Some("a $B \"c\"\n\u{1b}".into()),
        "EMPTY" => Some("".into()),
        "PLAIN" => Some("/x".into()),
        _ => None,
    }
}

fn load(name: &str, text: &str) -> Result<Environment, Error> {
    let path = dir().join(name);
    fs::write(&path, text).expect("write a file");
    let path = path.to_str().expect("its name is text");
    Environment::load(path, std::slice::from_ref(dir()), &variable)
}

fn seeds() -> Vec<Seed> {
    let all = "base = ['./b.toml', 'b']\nimage = 'x.io/a/b:c'\n\
         mounts = ['/a:/b:ro+private', './c:/d', '~/e', 'type=tmpfs,target=/t,tmpfs-size=1m']\n\
         devices = ['/dev/fuse', 'a.com/b=c']\ngpu = ['nvidia.com/gpu=0']\nworkdir = '$PLAIN'\nentrypoint = ['a', '${EMPTY:-b}', '$$']\n\
         writable = false\nhome = false\nremap_root = true\nname = 'n'\n[env]\nX = '$A'\nY = ''\n\
         'odd.\\u0001' = '1'\n[annotations]\ncom.hooks.x.enabled = true\n[annotations.a]\nb = 1.5\n\
         c = 1979-05-27\n%%\nimage = '/x.sqsh'\nentrypoint = true\n[env]\nY = 'y'";
    let mut seeds = texts(
        true,
        [
            all,
            "image = 'a'",
            "image = '~/a.sqsh'\nworkdir = ''\nbase_environment = ''",
            "base = 'b'\n%%\nimage = 'oci:./a:b'\nmounts = [\"type=bind,\\\"source=/a,:b\\\",target=/c\"]",
        ],
    );
    seeds.extend(texts(
        false,
        [
            "",
            "base = './a.toml'",
            "base = 'b'\n%%\nbase = './a.toml'",
            "image = 'a'\nmount = 1",
            "image = 'a'\nworkdir = '$NONE'",
            "image = 'a'\n[env]\nX = '${NONE:-${NONE:-$(x)}}'",
        ],
    ));
    seeds
}

fn take(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let (text, base) = text.split_once(BETWEEN).unwrap_or((text, ""));
    fs::write(dir().join("b.toml"), base).expect("write a file");
    let environment = match load("a.toml", text) {
        Ok(environment) => environment,
        Err(error) => {
            assert_printable(&Report::from(&error).line);
            return false;
        }
    };
    environment.unheeded().iter().for_each(|line| assert_printable(line));
    let rendered = environment.to_string();
    rendered.lines().for_each(assert_printable);
    let again = load("c.toml", &rendered);
    let again = again.unwrap_or_else(|e| panic!("{}: {rendered}", Report::from(&e)));
    assert_eq!(again.image.value, environment.image.value, "{rendered}");
    assert_eq!(again.options(), environment.options(), "{rendered}");
    let annotations = |environment: &Environment| -> Vec<_> {
        let all = environment.annotations.iter();
        all.map(|(name, said)| (name.clone(), said.value.clone())).collect()
    };
    assert_eq!(annotations(&again), annotations(&environment), "{rendered}");
    assert_eq!(again.env.keys().count(), environment.env.keys().count(), "{rendered}");

    let request = environment.request();
    match Request::from_carrier(&request.to_carrier()) {
        Ok(read) => assert_eq!(read.expect("a request"), request),
        Err(error) => panic!("{}: {rendered}", Report::from(&error)),
    }
    true
}
