//! An environment as a file that says the same, and as JSON.

use std::{collections::BTreeMap, fmt};

use serde_json::{Map, Value, json};

use super::{Environment, Origin, Said, expand::escape};
use crate::{
    options::{Access, Entrypoint, Home, Ids},
    report::{is_unprintable, printable},
};

/// A file of its own: it has no bases, and what a variable stood for is written out. Behind each
/// value is where it was said.
impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        line(f, "image", &self.image, |image| quoted(&image.to_string()))?;
        list(f, "mounts", &self.mounts)?;
        list(f, "devices", &self.devices)?;
        if let Some(gpu) = &self.gpu {
            line(f, "gpu", gpu, |gpu| quoted(&gpu.to_string()))?;
        }
        if let Some(mpi) = &self.mpi {
            line(f, "mpi", mpi, |mpi| quoted(&mpi.to_string()))?;
        }
        if let Some(workdir) = &self.workdir {
            line(f, "workdir", workdir, |dir| quoted(&dir.to_string_lossy()))?;
        }
        if let Some(entrypoint) = &self.entrypoint {
            line(f, "entrypoint", entrypoint, |entrypoint| match entrypoint {
                Entrypoint::Image => "true".to_owned(),
                Entrypoint::Off => "false".to_owned(),
                Entrypoint::Given(words) => {
                    let words: Vec<_> = words.iter().map(|word| quoted(word)).collect();
                    format!("[{}]", words.join(", "))
                }
            })?;
        }
        for (key, switch) in self.switches() {
            line(f, key, &switch, bool::to_string)?;
        }
        if let Some(name) = &self.name {
            line(f, "name", name, |name| quoted(&name.to_string()))?;
        }
        table(f, "env", &self.env)?;
        table(f, "annotations", &self.annotations)
    }
}

impl Environment {
    /// The same for programs: each value with its origin.
    pub fn to_json(&self) -> Value {
        fn said<T>(said: &Said<T>, value: impl Into<Value>) -> Value {
            let Origin { path, line } = &said.origin;
            let value: Value = value.into();
            json!({"value": value, "origin": {"file": path.to_string_lossy(), "line": line}})
        }
        fn list<T: fmt::Display>(list: &[Said<T>]) -> Value {
            list.iter().map(|one| said(one, one.value.to_string())).collect()
        }
        let mut json = Map::new();
        let mut put = |key: &str, value| json.insert(key.to_owned(), value);
        put("image", said(&self.image, self.image.value.to_string()));
        put("mounts", list(&self.mounts));
        put("devices", list(&self.devices));
        if let Some(gpu) = &self.gpu {
            put("gpu", said(gpu, gpu.value.to_string()));
        }
        if let Some(mpi) = &self.mpi {
            put("mpi", said(mpi, mpi.value.to_string()));
        }
        if let Some(dir) = &self.workdir {
            put("workdir", said(dir, dir.value.to_string_lossy()));
        }
        if let Some(entrypoint) = &self.entrypoint {
            let value = match &entrypoint.value {
                Entrypoint::Image => json!(true),
                Entrypoint::Off => json!(false),
                Entrypoint::Given(words) => json!(words),
            };
            put("entrypoint", said(entrypoint, value));
        }
        for (key, switch) in self.switches() {
            put(key, said(&switch, switch.value));
        }
        if let Some(name) = &self.name {
            put("name", said(name, name.value.to_string()));
        }
        for (key, table) in [("env", &self.env), ("annotations", &self.annotations)] {
            let entries = table.iter();
            let entries = entries.map(|(name, one)| (name.clone(), said(one, one.value.as_str())));
            put(key, Value::Object(entries.collect()));
        }
        Value::Object(json)
    }

    /// What is said in true or false.
    fn switches(&self) -> impl Iterator<Item = (&'static str, Said<bool>)> {
        fn switch<T: PartialEq>(
            key: &'static str,
            said: Option<&Said<T>>,
            on: T,
        ) -> Option<(&'static str, Said<bool>)> {
            said.map(|said| (key, Said { value: said.value == on, origin: said.origin.clone() }))
        }
        [
            switch("writable", self.root.as_ref(), Access::ReadWrite),
            switch("home", self.home.as_ref(), Home::Mounted),
            switch("remap_root", self.ids.as_ref(), Ids::Root),
        ]
        .into_iter()
        .flatten()
    }
}

fn line<T>(
    f: &mut fmt::Formatter<'_>,
    key: &str,
    said: &Said<T>,
    value: impl FnOnce(&T) -> String,
) -> fmt::Result {
    writeln!(f, "{key} = {}{}", value(&said.value), Behind(&said.origin))
}

fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, key: &str, list: &[Said<T>]) -> fmt::Result {
    if list.is_empty() {
        return Ok(());
    }
    writeln!(f, "{key} = [")?;
    for said in list {
        let value = quoted(&said.value.to_string());
        writeln!(f, "    {value},{}", Behind(&said.origin))?;
    }
    f.write_str("]\n")
}

fn table(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    table: &BTreeMap<String, Said<String>>,
) -> fmt::Result {
    if table.is_empty() {
        return Ok(());
    }
    writeln!(f, "\n[{name}]")?;
    for (key, said) in table {
        let is_bare = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
        let key = match !key.is_empty() && key.bytes().all(is_bare) {
            true => key.clone(),
            false => basic(key),
        };
        line(f, &key, said, |text| quoted(text))?;
    }
    Ok(())
}

/// A comment that says where.
struct Behind<'a>(&'a Origin);

impl fmt::Display for Behind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  # {}", printable(&self.0.to_string()))
    }
}

/// A value as a file has to say it.
fn quoted(text: &str) -> String {
    basic(&escape(text))
}

/// TOML's basic string, in which nothing can drive a terminal (SECURITY R17).
fn basic(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if is_unprintable(c) => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
