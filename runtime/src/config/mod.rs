//! Settings: the site's file, the user's, the environment.
//!
//! Files are TOML: `/etc/shifter/shifter.toml`, and `~/.config/shifter/shifter.toml` or what
//! `SHIFTER_CONFIG` names. An unknown key is an error: a setting that silently does nothing costs an
//! afternoon. `default.toml` is the documentation of the keys and holds their defaults; how several
//! places make one is told in `layers.rs`.

mod gpu;
mod layers;
mod mpi;
mod relay;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use self::layers::Layers;
use crate::{login::Login, options::Batch, reference::Reference};

pub use gpu::{Capability, Gpu};
pub use layers::{Origin, variable};
pub use mpi::{Mpi, Stack, Strictness};
pub use relay::Relay;

/// Where the site's file is expected; it need not exist.
pub const SITE_PATH: &str = "/etc/shifter/shifter.toml";

/// The settings as a site's file would say them, each with its comment.
pub const DEFAULTS: &str = include_str!("../default.toml");

/// All settings, resolved for the calling user.
#[derive(Debug, Clone)]
pub struct Config {
    /// The user's own OCI image layout.
    pub store: PathBuf,
    /// Image layouts of the site's, which are only read, and searched before the user's own.
    pub shared_stores: Vec<PathBuf>,
    /// Expanded images, on a node-local tmpfs.
    pub node_dir: PathBuf,
    /// Whether layers are also held against the configuration's diff_ids.
    pub check_diff_ids: bool,
    /// How many times its compressed bytes a layer may grow to; 0: any number.
    pub max_expansion: u64,
    /// `SRC[:DST[:ro]]`, mounted in every container; absent sources are passed over.
    pub mounts: Vec<String>,
    /// Directories of environment files, in the order in which they are searched: what variable and
    /// user's file name, the user's own, the site's.
    pub env_path: Vec<PathBuf>,
    /// GPUs, and devices by name.
    pub gpu: Gpu,
    /// Images as single files.
    pub squashfs: Squashfs,
    /// How the nodes of a job share one pull.
    pub fan_out: FanOut,
    /// Whether a tag is resolved where the job is submitted.
    pub resolve_on_submit: bool,
    /// Where a job's script runs, if the job does not say.
    pub container_batch: Batch,
    /// The socket that a line about each step goes to.
    pub step_log: Option<PathBuf>,
    /// The host's MPIs.
    pub mpi: Mpi,
    /// The host's Slurm in scripts that run in containers.
    pub relay: Relay,
    /// How patient one is with the network.
    pub network: Network,
    /// What is special about some registries.
    pub registries: Vec<Registry>,
    /// Who to be at the image's registry in this run; no file says that.
    pub login: Option<Login>,
    /// Where the values come from that are not the defaults, by their keys.
    pub origins: BTreeMap<String, Origin>,
}

/// Images as single files in the store.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Squashfs {
    /// Whether a pull into the store writes one too.
    pub write: bool,
    /// How an image that has one comes onto a node.
    pub run: SquashfsRun,
}

/// How an image that has a squashfs comes onto a node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SquashfsRun {
    /// Mounted where that can be done, else expanded.
    #[default]
    Auto,
    /// Mounted, or not at all.
    Mount,
    /// Expanded into memory, as if it had none.
    Expand,
}

/// How an image comes to the nodes of a job.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FanOut {
    /// Through the store if that lies on a network file system, else by broadcast.
    #[default]
    Auto,
    /// Through the user's store, which all nodes see.
    Store,
    /// By Slurm's broadcast.
    Broadcast,
    /// Each node pulls for itself.
    None,
}

/// How long a registry is waited for; times in seconds.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// Tries of one request, or breaks of one layer, without progress.
    pub tries: u32,
    /// Waiting without progress, after which a request or a layer is given up.
    pub give_up_after: u64,
    /// Longest time to reach a host.
    pub connect_timeout: u64,
    /// Longest silence.
    pub idle_timeout: u64,
    /// Bytes a second that a layer has to come at; 0: any rate will do.
    pub min_rate: u64,
    /// How long it may come more slowly.
    pub min_rate_window: u64,
    /// Longest Retry-After that is waited for.
    pub max_retry_after: u64,
}

impl Default for Network {
    fn default() -> Network {
        Network {
            tries: 6,
            give_up_after: 120,
            connect_timeout: 15,
            idle_timeout: 30,
            min_rate: 1000,
            min_rate_window: 60,
            max_retry_after: 60,
        }
    }
}

impl Network {
    /// [`Network::give_up_after`].
    pub fn budget(&self) -> Duration {
        Duration::from_secs(self.give_up_after)
    }

    /// [`Network::connect_timeout`].
    pub fn connect(&self) -> Duration {
        Duration::from_secs(self.connect_timeout)
    }

    /// [`Network::idle_timeout`].
    pub fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_timeout)
    }

    /// [`Network::min_rate_window`].
    pub fn window(&self) -> Duration {
        Duration::from_secs(self.min_rate_window)
    }

    /// [`Network::max_retry_after`].
    pub fn longest_hold(&self) -> Duration {
        Duration::from_secs(self.max_retry_after)
    }

    fn problem(&self) -> Option<String> {
        if !(1..=1000).contains(&self.tries) {
            return Some("network.tries is not 1 to 1000".to_owned());
        }
        let times = [
            ("give_up_after", self.give_up_after, 1),
            ("connect_timeout", self.connect_timeout, 1),
            ("idle_timeout", self.idle_timeout, 1),
            ("min_rate_window", self.min_rate_window, 1),
            ("max_retry_after", self.max_retry_after, 0),
        ];
        let (key, _, least) = times.iter().find(|(_, n, least)| n < least || *n > DAY)?;
        Some(format!("network.{key} is not {least} to {DAY} seconds"))
    }
}

/// The longest time that can be set, in seconds.
const DAY: u64 = 86400;

/// How to reach one registry.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registry {
    /// `HOST` or `HOST:PORT`, as in image names.
    pub host: String,
    /// Speak http, not https.
    #[serde(default)]
    pub plain_http: bool,
    /// PEM file of certificate authorities to trust besides the system's.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
    /// PEM file of a certificate to show to the registry.
    #[serde(default)]
    pub client_cert: Option<PathBuf>,
    /// PEM file of its key.
    #[serde(default)]
    pub client_key: Option<PathBuf>,
    /// Who has copies, asked in this order before the registry itself.
    #[serde(default)]
    pub mirrors: Vec<Mirror>,
}

impl Registry {
    /// The certificate to show to the registry, and its key.
    pub fn identity(&self) -> Option<(&Path, &Path)> {
        Some((self.client_cert.as_deref()?, self.client_key.as_deref()?))
    }
}

/// A registry with copies of another's images: `[http[s]://]HOST[:PORT][/PREFIX]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Mirror {
    /// `HOST` or `HOST:PORT`.
    pub host: String,
    /// What is put before the repository's name, without a slash at its end; may be empty.
    pub prefix: String,
    /// Whether it speaks http and not https, if it was said.
    pub plain_http: Option<bool>,
}

impl TryFrom<String> for Mirror {
    type Error = String;

    fn try_from(text: String) -> Result<Mirror, String> {
        let (plain_http, rest) = match text.split_once("://") {
            Some(("http", rest)) => (Some(true), rest),
            Some(("https", rest)) => (Some(false), rest),
            Some(_) => return Err(format!("mirror {text:?}: only http:// and https:// are known")),
            None => (None, text.as_str()),
        };
        let rest = rest.trim_end_matches('/');
        let (host, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let name = format!("{host}#{prefix}{}x", if prefix.is_empty() { "" } else { "/" });
        let name: Option<Reference> = name.parse().ok();
        match name.is_some_and(|name| name.registry() == host) {
            true => Ok(Mirror { host: host.to_owned(), prefix: prefix.to_owned(), plain_http }),
            false => Err(format!("mirror {text:?} is not [http[s]://]HOST[:PORT][/PREFIX]")),
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    store: Option<PathBuf>,
    #[serde(default)]
    shared_stores: Vec<PathBuf>,
    node_dir: Option<PathBuf>,
    #[serde(default)]
    check_diff_ids: bool,
    #[serde(default = "max_expansion")]
    max_expansion: u64,
    #[serde(default)]
    mounts: Vec<String>,
    #[serde(default)]
    env_path: Vec<PathBuf>,
    #[serde(default)]
    fan_out: FanOut,
    #[serde(default = "yes")]
    resolve_on_submit: bool,
    #[serde(default = "container_batch")]
    container_batch: Batch,
    step_log: Option<PathBuf>,
    #[serde(default)]
    gpu: gpu::Group,
    #[serde(default)]
    squashfs: Squashfs,
    #[serde(default)]
    mpi: mpi::Group,
    #[serde(default)]
    relay: Relay,
    #[serde(default)]
    network: Network,
    #[serde(default, rename = "registry")]
    registries: Vec<Registry>,
    /// Settings that no later place may change.
    #[serde(default)]
    locked: Vec<String>,
}

fn max_expansion() -> u64 {
    200
}

fn yes() -> bool {
    true
}

fn container_batch() -> Batch {
    Batch::Container
}

impl File {
    fn problem(&self) -> Option<String> {
        let own = [
            ("store", self.store.as_ref()),
            ("node_dir", self.node_dir.as_ref()),
            ("step_log", self.step_log.as_ref()),
        ];
        let shared = self.shared_stores.iter().map(|path| ("shared_stores", Some(path)));
        let searched = self.env_path.iter().map(|path| ("env_path", Some(path)));
        for (key, path) in own.into_iter().chain(shared).chain(searched) {
            if path.is_some_and(|path| path.is_relative()) {
                return Some(format!("{key} is not an absolute path"));
            }
        }
        let is_host = |host: &str| {
            let name: Result<Reference, _> = format!("{host}#x").parse();
            name.is_ok_and(|name| name.registry() == host)
        };
        if let Some(odd) = self.registries.iter().find(|registry| !is_host(&registry.host)) {
            let host = &odd.host;
            return Some(format!("registry {host:?} is not HOST or HOST:PORT as in image names"));
        }
        let is_half =
            |registry: &&Registry| registry.client_cert.is_some() != registry.client_key.is_some();
        if let Some(odd) = self.registries.iter().find(is_half) {
            let host = &odd.host;
            return Some(format!("registry {host:?}: client_cert and client_key go together"));
        }
        self.network.problem().or_else(|| self.relay.problem()).or_else(|| {
            let gpu = self.gpu.read().err();
            let (key, problem) = gpu.or_else(|| self.mpi.read().err())?;
            Some(format!("{key}: {problem}"))
        })
    }
}

/// Why the settings could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("read configuration {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not what it should be.
    #[error("read configuration {}, line {line}: {problem}", path.display())]
    Syntax {
        /// Which.
        path: PathBuf,
        /// Where in it.
        line: usize,
        /// What is wrong.
        problem: String,
        /// The known key that may be meant in the place of an unknown one.
        meant: Option<String>,
    },
    /// A value that would silently do nothing, or something else for each caller.
    #[error("read configuration {place}: {problem}")]
    Value {
        /// A file or a variable.
        place: String,
        /// What is wrong.
        problem: String,
    },
    /// The site has locked it.
    #[error("read configuration {origin}: {key} is locked by {}", site.display())]
    Locked {
        /// The setting.
        key: String,
        /// Who sets it all the same.
        origin: Origin,
        /// The site's file.
        site: PathBuf,
    },
    /// Neither a setting nor a home directory says where images go.
    #[error(
        "find image store: neither SHIFTER_STORE, XDG_DATA_HOME nor HOME is set, and the caller has no home"
    )]
    NoStore,
}

impl Config {
    /// Reads the site's file and the user's, as far as there are any, and the environment.
    pub fn load() -> Result<Config, Error> {
        Config::load_from(Path::new(SITE_PATH))
    }

    /// The same with another file for the site's.
    pub fn load_from(site: &Path) -> Result<Config, Error> {
        let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let named = env("SHIFTER_CONFIG").map(PathBuf::from);
        let own = || {
            let dir = env("XDG_CONFIG_HOME").map(PathBuf::from);
            dir.or_else(|| home().map(|home| home.join(".config")))
                .map(|d| d.join("shifter/shifter.toml"))
        };
        let mut layers = Layers::default();
        layers.add_file(Origin::Site(site.to_owned()), site != Path::new(SITE_PATH))?;
        let is_named = named.is_some();
        if let Some(user) = named.or_else(own) {
            layers.add_file(Origin::User(user), is_named)?;
        }
        layers.add_variables(env)?;
        Config::of(layers)
    }

    /// What a file of this content says, and nothing else.
    pub fn parse(text: &str) -> Result<Config, Error> {
        let mut layers = Layers::default();
        layers.add_text(text, Origin::Site(SITE_PATH.into()))?;
        Config::of(layers)
    }

    fn of(layers: Layers) -> Result<Config, Error> {
        let site_env_path = layers.site_env_path;
        let (merged, origins) = layers.finish();
        let file: File = merged.try_into().expect("each layer was read as one");
        let env = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let store = file
            .store
            .map(|path| for_user(&path))
            .or_else(|| env("XDG_DATA_HOME").map(|dir| PathBuf::from(dir).join("shifter")))
            .or_else(|| home().map(|dir| dir.join(".local/share/shifter")))
            .ok_or(Error::NoStore)?;
        let at_origin = |(key, problem): (&str, String)| {
            let place = origins.get(key).map_or_else(|| key.to_owned(), Origin::to_string);
            Error::Value { place, problem }
        };
        let gpu = file.gpu.read().map_err(at_origin)?;
        let mpi = file.mpi.read().map_err(at_origin)?;
        let uid = nix::unistd::getuid();
        let node_dir = file.node_dir.map(|path| for_user(&path));
        let mut env_path = file.env_path;
        let sites = env_path.split_off(env_path.len() - site_env_path);
        env_path.extend(own_env_path(env));
        env_path.extend(sites);
        Ok(Config {
            store,
            shared_stores: file.shared_stores,
            node_dir: node_dir.unwrap_or_else(|| format!("/dev/shm/shifter-{uid}").into()),
            check_diff_ids: file.check_diff_ids,
            max_expansion: file.max_expansion,
            mounts: file.mounts,
            env_path,
            gpu,
            squashfs: file.squashfs,
            fan_out: file.fan_out,
            resolve_on_submit: file.resolve_on_submit,
            container_batch: file.container_batch,
            step_log: file.step_log,
            mpi,
            relay: file.relay,
            network: file.network,
            registries: file.registries,
            login: None,
            origins,
        })
    }
}

/// Where a user's environment files are; EDF's are among them.
fn own_env_path(env: impl Fn(&str) -> Option<OsString>) -> Vec<PathBuf> {
    let config = env("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| home().map(|home| home.join(".config")));
    let edf = match env("EDF_PATH") {
        Some(dirs) => std::env::split_paths(&dirs).collect(),
        None => home().map(|home| home.join(".edf")).into_iter().collect::<Vec<_>>(),
    };
    config.map(|dir| dir.join("shifter/env")).into_iter().chain(edf).collect()
}

/// The caller's home directory. Under `srun --export=NONE` a task has no `HOME`; the user database
/// still knows.
pub fn home() -> Option<PathBuf> {
    let env = std::env::var_os("HOME").filter(|value| !value.is_empty());
    let entry = || nix::unistd::User::from_uid(nix::unistd::getuid()).ok().flatten();
    env.map(PathBuf::from).or_else(|| entry().map(|user| user.dir))
}

/// Puts the caller's number for `{uid}` and name for `{user}`: a site's file is for all users, a
/// store for one.
fn for_user(path: &Path) -> PathBuf {
    let Some(text) = path.to_str().filter(|text| text.contains('{')) else {
        return path.to_owned();
    };
    let uid = nix::unistd::getuid();
    // Who has no name is known by number.
    let name = nix::unistd::User::from_uid(uid).ok().flatten().map(|user| user.name);
    let uid = uid.to_string();
    text.replace("{user}", name.as_ref().unwrap_or(&uid)).replace("{uid}", &uid).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_defaults_are_the_defaults() {
        let documented: File = toml::from_str(DEFAULTS).expect("default.toml");
        let silent: File = toml::from_str("").expect("empty");
        assert_eq!(format!("{documented:?}"), format!("{silent:?}"));
    }

    #[test]
    fn every_documented_key_is_known() {
        let all: String = DEFAULTS
            .lines()
            .map(|line| match line.strip_prefix("# ") {
                Some(key) if key.contains(" = ") || key.starts_with("[[") => key,
                _ => line,
            })
            .flat_map(|line| [line, "\n"])
            .collect();
        let file: File = toml::from_str(&all).expect(&all);
        assert!(file.store.is_some() && file.node_dir.is_some() && file.registries.len() == 1);
        assert!(!file.shared_stores.is_empty() && !file.locked.is_empty());
    }

    #[test]
    fn a_mirror_is_a_host_and_perhaps_a_prefix() {
        let mirror = |text: &str| Mirror::try_from(text.to_owned());
        let is = |text, host: &str, prefix: &str, plain_http| {
            let expected = Mirror { host: host.into(), prefix: prefix.into(), plain_http };
            assert_eq!(mirror(text), Ok(expected), "{text}");
        };
        is("mirror2:5000", "mirror2:5000", "", None);
        is("https://mirror.site/", "mirror.site", "", Some(false));
        is("http://10.0.0.1:5000/hub/proxy", "10.0.0.1:5000", "hub/proxy", Some(true));
        for odd in
            ["", "ftp://x", "https://", "u:p@mirror.site", "m.site/UP", "m.site/a b", "m?x=1"]
        {
            assert!(mirror(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_with_its_place() {
        let error = toml::from_str::<File>("check_diff_id = true").expect_err("typo");
        assert!(error.to_string().contains("check_diff_id"), "{error}");
    }

    #[test]
    fn a_users_environment_files_go_before_the_sites() {
        let config = Config::parse("store = \"/s\"\nenv_path = [\"/e\", \"/f\"]").expect("good");
        let own = config.env_path.iter().position(|dir| dir.ends_with("shifter/env"));
        assert!(own.is_some_and(|own| own < config.env_path.len() - 2), "{:?}", config.env_path);
        assert!(config.env_path.ends_with(&["/e".into(), "/f".into()]), "{:?}", config.env_path);
        let error = Config::parse("env_path = [\"e\"]").expect_err("relative").to_string();
        assert!(error.contains("env_path is not an absolute path"), "{error}");
    }

    #[test]
    fn a_path_of_the_sites_can_be_each_users_own() {
        let uid = nix::unistd::getuid();
        assert_eq!(for_user(Path::new("/s/{uid}/i")), Path::new(&format!("/s/{uid}/i")));
        assert!(!for_user(Path::new("/s/{user}")).to_string_lossy().contains('{'));
        assert_eq!(for_user(Path::new("/s/images")), Path::new("/s/images"));
    }
}
