//! The site's file, and the user's over it.

#![no_main]

use std::{env, fs, path::PathBuf, sync::OnceLock};

use fuzz::{Seed, assert_printable, offer, scratch, texts};
use libfuzzer_sys::fuzz_target;
use runtime::{
    Config,
    config::{self, DEFAULTS},
    options::MountSpec,
    registry::Registry,
    report::{Report, chain},
};
use url::Url;

fuzz_target!(init: { files(); offer(seeds(), &WORDS, take) }, |data: &[u8]| {
    take(data);
});

const WORDS: [&[u8]; 40] = [
    BETWEEN.as_bytes(),
    b"shared_stores = [",
    b"max_expansion = ",
    b"locked = [",
    b"[network]\n",
    b"[[registry]]\n",
    b"store = ",
    b"node_dir = ",
    b"check_diff_ids = true",
    b"mounts = [",
    b"tries = ",
    b"give_up_after = ",
    b"connect_timeout = ",
    b"idle_timeout = ",
    b"min_rate = ",
    b"min_rate_window = ",
    b"max_retry_after = ",
    b"host = ",
    b"plain_http = true",
    b"ca_file = ",
    b"client_cert = ",
    b"client_key = ",
    b"mirrors = [",
    b"https://",
    b"http://",
    b"{user}",
    b"{uid}",
    b":ro",
    b":rw",
    b"/..",
    b"\"\"\"",
    b"'''",
    b"\\u0000",
    b"\\u001b",
    b"86400",
    b"9223372036854775807",
    b"0x10",
    b"[::1]:5000",
    b"127.0.0.1",
    b"localhost",
];

/// What is between the site's file and the user's.
const BETWEEN: &str = "\n%%\n";

/// The site's file and the user's.
fn files() -> &'static [PathBuf; 2] {
    static FILES: OnceLock<[PathBuf; 2]> = OnceLock::new();
    FILES.get_or_init(|| {
        let dir = scratch();
        let files = ["site.toml", "user.toml"].map(|name| dir.join(name));
        for (name, _) in env::vars_os() {
            let is_ours = name.to_string_lossy().starts_with("SHIFTER_");
            // SAFETY: this is the first thing that the program does; there is no other thread.
            unsafe { is_ours.then(|| env::remove_var(&name)) };
        }
        // SAFETY: as above.
        unsafe { env::set_var("SHIFTER_CONFIG", &files[1]) };
        files
    })
}

fn read(text: &str) -> Result<Config, config::Error> {
    let Some((site, user)) = text.split_once(BETWEEN) else { return Config::parse(text) };
    for (path, text) in files().iter().zip([site, user]) {
        fs::write(path, text).expect("write a file");
    }
    Config::load_from(&files()[0])
}

fn seeds() -> Vec<Seed> {
    let all: String = DEFAULTS
        .lines()
        .map(|line| match line.strip_prefix("# ") {
            Some(key) if key.contains(" = ") || key.starts_with("[[") => key,
            _ => line,
        })
        .filter(|line| !line.starts_with('#'))
        .flat_map(|line| [line, "\n"])
        .collect();
    let mut seeds = texts(
        true,
        [
            DEFAULTS,
            &all,
            "",
            "store = '/s/{user}/{uid}'\nmounts = ['/a', '/b:/c:ro', \"/d:/e:rw\"]",
            "[network]\ntries = 1\nmin_rate = 0\nmax_retry_after = 0",
            "[[registry]]\nhost = '[::1]:5000'\nplain_http = true\n[[registry]]\nhost = 'node1'",
            "mounts = ['/a']\nlocked = ['store', 'network']\n[[registry]]\nhost = 'r.io'\n%%\nmounts = ['/b']
                max_expansion = 0\nshared_stores = ['/s']\n[[registry]]\nhost = 'r.io'\nplain_http = true",
            "[[registry]]\nhost = 'r.io'\nmirrors = ['http://m.io:80/hub/', 'n:5000']\nca_file = 'x'",
        ],
    );
    seeds.extend(texts(
        false,
        [
            "stor = 1",
            "locked = ['store']\n%%\nstore = '/x'",
            "[network]\ntries = 0",
            "[[registry]]\nhost = 'a b'",
        ],
    ));
    seeds
}

fn take(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let config = match read(text) {
        Ok(config) => config,
        Err(error) => {
            assert_printable(&Report::from(&error).line);
            return false;
        }
    };
    assert!(config.store.is_absolute() && config.node_dir.is_absolute(), "{config:?}");
    let network = &config.network;
    assert!((1..=1000).contains(&network.tries), "{network:?}");
    for time in [network.budget(), network.connect(), network.idle(), network.window()] {
        assert!((1..=86400).contains(&time.as_secs()), "{network:?}");
    }
    assert!(network.longest_hold().as_secs() <= 86400, "{network:?}");
    for mount in &config.mounts {
        match mount.parse::<MountSpec>() {
            Ok(spec) => assert_eq!(spec.to_string().parse(), Ok(spec), "{mount:?}"),
            Err(error) => assert_printable(&chain(&error)),
        }
    }
    for registry in &config.registries {
        registry_holds(registry, &config);
    }
    true
}

fn registry_holds(registry: &config::Registry, config: &Config) {
    let host = &registry.host;
    assert_eq!(registry.client_cert.is_some(), registry.client_key.is_some(), "{host}");
    let name = format!("{host}#some/image:tag").parse().expect("a host as in image names");
    drop(Registry::connect(&name, config));
    for mirror in &registry.mirrors {
        let path = match mirror.prefix.as_str() {
            "" => "/v2/some/image/".to_owned(),
            prefix => format!("/v2/{prefix}/some/image/"),
        };
        let url = Url::parse(&format!("https://{}{path}", mirror.host));
        let url = url.unwrap_or_else(|error| panic!("{mirror:?}: {error}"));
        assert_eq!(url.path(), path, "{mirror:?}");
        assert!(url.username().is_empty() && url.password().is_none(), "{mirror:?}");
        assert!(url.query().is_none() && url.fragment().is_none(), "{mirror:?}");
    }
}
