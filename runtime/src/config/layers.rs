//! Settings from several places, the later over the earlier.
//!
//! ```text
//! defaults < site's file < user's file < environment < flags
//! ```
//!
//! Values replace one another; lists that add something (`mounts`, `shared_stores`) are joined, the
//! earlier first, but a search path (`env_path`) the later; a `[[registry]]` replaces another one of
//! the same host. What the site's file names
//! in `locked` no later place may set: that is an error, since a setting that silently does nothing
//! costs an afternoon.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
};

use toml::{Table, Value};

use super::{Error, File};
use crate::suggest;

/// How a variable's text is read.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Text,
    Bool,
    Number,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// Separated by commas.
    List,
    /// Separated by colons, as in PATH; what a later place says is searched first.
    Path,
}

/// All settings that are one value, or a list of texts. The environment knows each as `SHIFTER_` and
/// its name in capitals, `_` for a dot.
const KEYS: &[(&str, Kind)] = &[
    ("store", Kind::Text),
    ("shared_stores", Kind::List),
    ("node_dir", Kind::Text),
    ("check_diff_ids", Kind::Bool),
    ("max_expansion", Kind::Number),
    ("mounts", Kind::List),
    ("env_path", Kind::Path),
    ("fan_out", Kind::Choice(&["auto", "store", "broadcast", "none"])),
    ("resolve_on_submit", Kind::Bool),
    ("container_batch", Kind::Choice(&["container", "host"])),
    ("step_log", Kind::Text),
    ("gpu.mode", Kind::Text),
    ("gpu.cdi_dirs", Kind::List),
    ("gpu.devices", Kind::List),
    ("gpu.driver_root", Kind::Text),
    ("gpu.capabilities", Kind::List),
    ("gpu.ignore_hooks", Kind::List),
    ("squashfs.write", Kind::Bool),
    ("squashfs.run", Kind::Choice(&["auto", "mount", "expand"])),
    ("mpi.mode", Kind::Text),
    ("mpi.search", Kind::List),
    ("relay.enabled", Kind::Bool),
    ("relay.commands", Kind::List),
    ("network.tries", Kind::Number),
    ("network.give_up_after", Kind::Number),
    ("network.connect_timeout", Kind::Number),
    ("network.idle_timeout", Kind::Number),
    ("network.min_rate", Kind::Number),
    ("network.min_rate_window", Kind::Number),
    ("network.max_retry_after", Kind::Number),
];

/// Where a value comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The site's file.
    Site(PathBuf),
    /// The user's file.
    User(PathBuf),
    /// This variable.
    Variable(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Site(path) | Origin::User(path) => write!(f, "{}", path.display()),
            Origin::Variable(name) => f.write_str(name),
        }
    }
}

/// What the places read so far say together.
#[derive(Debug, Default)]
pub(super) struct Layers {
    merged: Table,
    origins: BTreeMap<String, Origin>,
    /// How many of the directories in `env_path` are the site's; they are the last.
    pub(super) site_env_path: usize,
    /// Keys that may not be set any more, and the file that says so.
    locked: Vec<String>,
    site: PathBuf,
}

impl Layers {
    /// Adds a file; `required` says that it has to be there.
    pub(super) fn add_file(&mut self, origin: Origin, required: bool) -> Result<(), Error> {
        let (Origin::Site(path) | Origin::User(path)) = &origin else { return Ok(()) };
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound && !required => return Ok(()),
            Err(source) => return Err(Error::Read { path: path.clone(), source }),
        };
        self.add_text(&text, origin)
    }

    /// Adds the content of a file.
    pub(super) fn add_text(&mut self, text: &str, origin: Origin) -> Result<(), Error> {
        let (Origin::Site(path) | Origin::User(path)) = &origin else { return Ok(()) };
        let syntax = |error| syntax(path, text, &error);
        let value = |problem| Error::Value { place: path.display().to_string(), problem };
        let file: File = toml::from_str(text).map_err(syntax)?;
        file.problem().map_or(Ok(()), |problem| Err(value(problem)))?;
        if matches!(origin, Origin::Site(_)) {
            self.site_env_path += file.env_path.len();
        }
        let mut table: Table = toml::from_str(text).map_err(syntax)?;
        if table.remove("locked").is_some() {
            let Origin::Site(site) = &origin else {
                return Err(value("only the site's file can lock settings".to_owned()));
            };
            if let Some(unknown) = file.locked.iter().find(|key| !is_known(key)) {
                return Err(value(format!("locked: {unknown:?} is no setting")));
            }
            let site = site.clone();
            self.add(table, &origin)?;
            (self.locked, self.site) = (file.locked, site);
            return Ok(());
        }
        self.add(table, &origin)
    }

    /// Adds what the environment says.
    pub(super) fn add_variables(
        &mut self,
        env: impl Fn(&str) -> Option<OsString>,
    ) -> Result<(), Error> {
        for (key, kind) in KEYS {
            let name = variable(key);
            let Some(text) = env(&name).filter(|text| !text.is_empty()) else { continue };
            let value = text.to_str().and_then(|text| kind.read(text)).ok_or_else(|| {
                let problem = format!("{text:?} is not {}", kind.name());
                Error::Value { place: name.clone(), problem }
            })?;
            let mut table = Table::new();
            match key.split_once('.') {
                Some((group, key)) => {
                    let group_table = [(key.to_owned(), value)].into_iter().collect();
                    table.insert(group.to_owned(), Value::Table(group_table));
                }
                None => _ = table.insert((*key).to_owned(), value),
            }
            self.add(table, &Origin::Variable(name))?;
        }
        Ok(())
    }

    /// All of it, and where each value comes from.
    pub(super) fn finish(self) -> (Table, BTreeMap<String, Origin>) {
        (self.merged, self.origins)
    }

    fn add(&mut self, table: Table, origin: &Origin) -> Result<(), Error> {
        for (key, value) in table {
            match value {
                Value::Table(group) => {
                    for (name, value) in group {
                        let into =
                            self.merged.entry(key.clone()).or_insert_with(|| Table::new().into());
                        let path = format!("{key}.{name}");
                        check_lock(&self.locked, &self.site, &path, origin)?;
                        if let Some(into) = into.as_table_mut() {
                            set(into, &name, value);
                        }
                        self.origins.insert(path, origin.clone());
                    }
                }
                value => {
                    check_lock(&self.locked, &self.site, &key, origin)?;
                    set(&mut self.merged, &key, value);
                    self.origins.insert(key, origin.clone());
                }
            }
        }
        Ok(())
    }
}

impl Kind {
    fn read(self, text: &str) -> Option<Value> {
        Some(match self {
            Kind::Text => text.into(),
            Kind::Bool => text.parse::<bool>().ok()?.into(),
            Kind::Number => text.parse::<u32>().ok().map(i64::from)?.into(),
            Kind::Choice(words) => (*words.iter().find(|word| **word == text)?).into(),
            Kind::List | Kind::Path => {
                let joint = if matches!(self, Kind::Path) { ':' } else { ',' };
                let texts = text.split(joint).map(str::trim).filter(|text| !text.is_empty());
                Value::Array(texts.map(Value::from).collect())
            }
        })
    }

    fn name(self) -> String {
        match self {
            Kind::Text | Kind::List | Kind::Path => "text".to_owned(),
            Kind::Bool => "true or false".to_owned(),
            Kind::Number => "a number".to_owned(),
            Kind::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }
}

fn syntax(path: &Path, text: &str, error: &toml::de::Error) -> Error {
    let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
    let line = 1 + before.matches('\n').count();
    let meant = suggest::field(error.message()).map(str::to_owned);
    // Who is told what was meant need not read all that it could have been.
    let all = error.message();
    let part = all.split_once(", expected").map_or(all, |(unknown, _)| unknown);
    let problem = if meant.is_some() { part } else { all }.replace('\n', " ");
    Error::Syntax { path: path.to_owned(), line, problem, meant }
}

/// The variable that sets a key.
pub fn variable(key: &str) -> String {
    format!("SHIFTER_{}", key.to_uppercase().replace('.', "_"))
}

/// Whether a key, or a group of keys, exists.
fn is_known(key: &str) -> bool {
    let is_group = |(known, _): &(&str, Kind)| known.split_once('.').is_some_and(|(g, _)| g == key);
    ["registry", "mpi.stack"].contains(&key)
        || KEYS.iter().any(|known| known.0 == key || is_group(known))
}

fn check_lock(locked: &[String], site: &Path, key: &str, origin: &Origin) -> Result<(), Error> {
    let group = key.split_once('.').map_or(key, |(group, _)| group);
    match locked.iter().any(|lock| lock == key || lock == group) {
        true => {
            Err(Error::Locked { key: key.to_owned(), origin: origin.clone(), site: site.into() })
        }
        false => Ok(()),
    }
}

fn set(table: &mut Table, key: &str, value: Value) {
    let (Some(Value::Array(before)), Value::Array(more)) = (table.get_mut(key), &value) else {
        table.insert(key.to_owned(), value);
        return;
    };
    if KEYS.iter().any(|(name, kind)| *name == key && matches!(kind, Kind::Path)) {
        before.splice(..0, more.iter().cloned());
        return;
    }
    // A [[registry]] is known by its host, an [[mpi.stack]] by its name.
    let host = |entry: &Value| entry.get("host").or_else(|| entry.get("name")).cloned();
    before.retain(|old| host(old).is_none() || !more.iter().any(|new| host(new) == host(old)));
    before.extend(more.iter().cloned());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn site() -> Origin {
        Origin::Site("/etc/site".into())
    }

    fn user() -> Origin {
        Origin::User("/home/user".into())
    }

    fn layers(texts: &[(&str, Origin)], env: &[(&str, &str)]) -> Result<Layers, Error> {
        let mut layers = Layers::default();
        for (text, origin) in texts {
            layers.add_text(text, origin.clone())?;
        }
        let find = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| v.into());
        layers.add_variables(find)?;
        Ok(layers)
    }

    #[test]
    fn later_places_win_and_lists_grow() {
        let site_text = "store = \"/a\"\nmounts = [\"/x\"]\nenv_path = [\"/e\"]\n[network]\ntries = 2\nmin_rate = 7\n\
             [[registry]]\nhost = \"h\"\nplain_http = true\n[[registry]]\nhost = \"i\"";
        let user_text = "store = \"/b\"\nmounts = [\"/y\"]\nenv_path = [\"/f\"]\n[network]\ntries = 3\n\
             [[registry]]\nhost = \"h\"";
        let env = [
            ("SHIFTER_NETWORK_TRIES", "4"),
            ("SHIFTER_MOUNTS", "/z, /w:/v:ro"),
            ("SHIFTER_ENV_PATH", "/g:/h"),
        ];
        let layers = layers(&[(site_text, site()), (user_text, user())], &env).expect("all known");
        let (merged, origins) = layers.finish();
        let file: File = merged.try_into().expect("each was");
        assert_eq!(file.store.as_deref(), Some("/b".as_ref()));
        assert_eq!(file.mounts, ["/x", "/y", "/z", "/w:/v:ro"]);
        assert_eq!(file.env_path, ["/g", "/h", "/f", "/e"].map(PathBuf::from));
        assert_eq!((file.network.tries, file.network.min_rate), (4, 7));
        let hosts: Vec<_> = file.registries.iter().map(|r| (&*r.host, r.plain_http)).collect();
        assert_eq!(hosts, [("i", false), ("h", false)]);
        assert_eq!(origins["store"], user());
        assert_eq!(origins["network.min_rate"], site());
        assert_eq!(origins["network.tries"].to_string(), "SHIFTER_NETWORK_TRIES");
    }

    #[test]
    fn what_the_site_locks_stays() {
        let text = "locked = [\"store\", \"network\"]\nstore = \"/a\"";
        let error = |later: &str, env: &[(&str, &str)]| {
            let layers = layers(&[(text, site()), (later, user())], env);
            layers.expect_err("it is locked").to_string()
        };
        let says = error("store = \"/b\"", &[]);
        assert_eq!(says, "read configuration /home/user: store is locked by /etc/site");
        let says = error("[network]\ntries = 1", &[]);
        assert_eq!(says, "read configuration /home/user: network.tries is locked by /etc/site");
        let says = error("", &[("SHIFTER_STORE", "/b")]);
        assert_eq!(says, "read configuration SHIFTER_STORE: store is locked by /etc/site");
        layers(&[(text, site()), ("node_dir = \"/n\"", user())], &[]).expect("another key");
        for (text, origin) in [("locked = [\"stor\"]", site()), ("locked = [\"store\"]", user())] {
            assert!(layers(&[(text, origin)], &[]).is_err(), "{text}");
        }
    }

    #[test]
    fn a_variable_is_read_as_its_setting_is() {
        for (name, good, bad) in [
            ("SHIFTER_CHECK_DIFF_IDS", "true", "maybe"),
            ("SHIFTER_NETWORK_MIN_RATE", "0", "-1"),
            ("SHIFTER_SQUASHFS_RUN", "mount", "fuse"),
            ("SHIFTER_CONTAINER_BATCH", "host", "Host"),
        ] {
            layers(&[], &[(name, good)]).expect(name);
            layers(&[], &[(name, "")]).expect("as if it were not set");
            let error = layers(&[], &[(name, bad)]).expect_err(name).to_string();
            assert!(error.contains(name) && error.contains(bad), "{error}");
        }
    }

    /// One at a time, each is a setting; together they are all.
    #[test]
    fn all_settings_have_a_variable() {
        let (mut layers, mut names) = (Layers::default(), Vec::new());
        for (key, _) in KEYS {
            names.push(variable(key));
            let one = |name: &str| (name == variable(key)).then(|| "1".into());
            let other = |text: &'static str| {
                move |name: &str| (name == variable(key)).then(|| OsString::from(text))
            };
            let added = layers.add_variables(one);
            let added = added.or_else(|_| layers.add_variables(other("true")));
            let added = added.or_else(|_| layers.add_variables(other("auto")));
            added.or_else(|_| layers.add_variables(other("host"))).expect(key);
        }
        let (merged, origins) = layers.finish();
        let _: File = merged.try_into().expect("all are known");
        assert_eq!(origins.len(), KEYS.len());
        let documented = super::super::DEFAULTS;
        for (key, _) in KEYS {
            let name = key.rsplit('.').next().expect("never empty");
            let line = documented
                .lines()
                .any(|l| l.trim_start_matches("# ").starts_with(&format!("{name} = ")));
            assert!(line, "{key} is not documented");
        }
    }
}
