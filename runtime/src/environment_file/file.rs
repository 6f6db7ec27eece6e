//! One file: what it says, line by line, and nothing yet of what that means.

use std::{borrow::Cow, collections::BTreeMap, path::Path, sync::Arc};

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use super::{Error, Origin, Problem, Said};
use crate::suggest;

/// All that a file can say.
pub(crate) const KEYS: [&str; 15] = [
    "annotations",
    "base",
    "base_environment",
    "devices",
    "entrypoint",
    "env",
    "gpu",
    "home",
    "image",
    "mounts",
    "mpi",
    "name",
    "remap_root",
    "workdir",
    "writable",
];

/// What one file says, or several that were merged.
#[derive(Debug, Default)]
pub(super) struct File {
    /// By name or path, in the order in which they count.
    pub(super) bases: Vec<Said<String>>,
    pub(super) image: Option<Said<String>>,
    pub(super) mounts: Vec<Said<String>>,
    pub(super) env: BTreeMap<String, Said<String>>,
    pub(super) workdir: Option<Said<String>>,
    pub(super) entrypoint: Option<Said<Entry>>,
    pub(super) writable: Option<Said<bool>>,
    pub(super) home: Option<Said<bool>>,
    pub(super) remap_root: Option<Said<bool>>,
    pub(super) devices: Vec<Said<String>>,
    /// Names, or a word.
    pub(super) gpu: Option<Said<Vec<String>>>,
    pub(super) mpi: Option<Said<String>>,
    pub(super) name: Option<Said<String>>,
    /// Nested tables are names with dots.
    pub(super) annotations: BTreeMap<String, Said<String>>,
}

/// `entrypoint`: EDF's switch, or words.
#[derive(Debug)]
pub(super) enum Entry {
    Switch(bool),
    Words(Vec<String>),
}

impl File {
    /// Reads a file's text.
    pub(super) fn parse(text: &str, path: &Path) -> Result<File, Error> {
        let place = Place { path: path.into(), lines: line_starts(text) };
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(text.len(), |span| span.start);
            let problem = Problem::Syntax(error.message().replace('\n', " "));
            Error::Value { origin: place.origin(at), problem }
        })?;
        let mut file = File::default();
        for (key, value) in table.get_ref() {
            file.take(&place, key, value)?;
        }
        Ok(file)
    }

    fn take(&mut self, place: &Place, key: &Key<'_>, value: &Value<'_>) -> Result<(), Error> {
        let name = key.get_ref().as_ref();
        let entry = Entries { place, name };
        match name {
            "base" | "base_environment" => {
                let bases = match value.get_ref() {
                    // EDF's default.
                    DeValue::String(name) if name.is_empty() => Vec::new(),
                    DeValue::String(_) => vec![entry.text(value)?],
                    _ => entry.texts(value, "text, or a list of texts")?,
                };
                if !self.bases.is_empty() {
                    return Err(entry.refuse(key, Problem::TwoBases));
                }
                self.bases = bases;
            }
            "image" => self.image = Some(entry.text(value)?),
            "mounts" => self.mounts = entry.texts(value, "a list of texts")?,
            "env" => self.env = entry.variables(value)?,
            "workdir" => self.workdir = Some(entry.text(value)?),
            "entrypoint" => self.entrypoint = Some(entry.entrypoint(value)?),
            "writable" => self.writable = Some(entry.switch(value)?),
            "home" => self.home = Some(entry.switch(value)?),
            "remap_root" => self.remap_root = Some(entry.switch(value)?),
            "devices" => self.devices = entry.texts(value, "a list of texts")?,
            "gpu" => self.gpu = Some(entry.word_or_texts(value)?),
            "mpi" => self.mpi = Some(entry.text(value)?),
            "name" => self.name = Some(entry.text(value)?),
            "annotations" => self.annotations = entry.annotations(value)?,
            _ => {
                let meant = suggest::nearest(name, KEYS).map(str::to_owned);
                return Err(entry.refuse(key, Problem::Key { name: name.to_owned(), meant }));
            }
        }
        Ok(())
    }

    /// Puts a file over its bases: single values replace theirs, lists come after theirs, tables
    /// are merged.
    pub(super) fn add(&mut self, file: File) {
        fn replace<T>(old: &mut Option<T>, new: Option<T>) {
            *old = new.or(old.take());
        }
        replace(&mut self.image, file.image);
        replace(&mut self.workdir, file.workdir);
        replace(&mut self.entrypoint, file.entrypoint);
        replace(&mut self.writable, file.writable);
        replace(&mut self.home, file.home);
        replace(&mut self.remap_root, file.remap_root);
        replace(&mut self.gpu, file.gpu);
        replace(&mut self.mpi, file.mpi);
        replace(&mut self.name, file.name);
        self.mounts.extend(file.mounts);
        self.devices.extend(file.devices);
        self.env.extend(file.env);
        self.annotations.extend(file.annotations);
    }
}

type Key<'t> = Spanned<Cow<'t, str>>;
type Value<'t> = Spanned<DeValue<'t>>;

/// A text's file, and where its lines begin.
struct Place {
    path: Arc<Path>,
    lines: Vec<usize>,
}

impl Place {
    fn origin(&self, at: usize) -> Origin {
        let line = self.lines.partition_point(|start| *start <= at);
        Origin { path: self.path.clone(), line }
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
    std::iter::once(0).chain(breaks.map(|(at, _)| at + 1)).collect()
}

/// Reads the values of one key.
struct Entries<'a> {
    place: &'a Place,
    name: &'a str,
}

impl Entries<'_> {
    fn said<T, S>(&self, at: &Spanned<S>, value: T) -> Said<T> {
        Said { value, origin: self.place.origin(at.span().start) }
    }

    fn refuse<S>(&self, at: &Spanned<S>, problem: Problem) -> Error {
        Error::Value { origin: self.place.origin(at.span().start), problem }
    }

    fn mismatch(&self, value: &Value<'_>, name: &str, expected: &'static str) -> Error {
        let got = match value.get_ref() {
            DeValue::Array(_) => "a list",
            DeValue::Table(_) => "a table",
            DeValue::Boolean(_) => "true or false",
            DeValue::Integer(_) | DeValue::Float(_) => "a number",
            DeValue::Datetime(_) => "a date",
            DeValue::String(_) => "text",
        };
        self.refuse(value, Problem::Type { name: name.to_owned(), expected, got })
    }

    fn text(&self, value: &Value<'_>) -> Result<Said<String>, Error> {
        self.text_of(value, self.name, "text")
    }

    fn text_of(
        &self,
        value: &Value<'_>,
        name: &str,
        expected: &'static str,
    ) -> Result<Said<String>, Error> {
        match value.get_ref() {
            DeValue::String(text) => Ok(self.said(value, text.clone().into_owned())),
            _ => Err(self.mismatch(value, name, expected)),
        }
    }

    fn switch(&self, value: &Value<'_>) -> Result<Said<bool>, Error> {
        match value.get_ref() {
            DeValue::Boolean(switch) => Ok(self.said(value, *switch)),
            _ => Err(self.mismatch(value, self.name, "true or false")),
        }
    }

    fn texts(&self, value: &Value<'_>, expected: &'static str) -> Result<Vec<Said<String>>, Error> {
        match value.get_ref() {
            DeValue::Array(texts) => {
                texts.iter().map(|text| self.text_of(text, self.name, expected)).collect()
            }
            _ => Err(self.mismatch(value, self.name, expected)),
        }
    }

    fn word_or_texts(&self, value: &Value<'_>) -> Result<Said<Vec<String>>, Error> {
        let texts = match value.get_ref() {
            DeValue::String(_) => vec![self.text(value)?],
            _ => self.texts(value, "text, or a list of texts")?,
        };
        Ok(self.said(value, texts.into_iter().map(|text| text.value).collect()))
    }

    fn entrypoint(&self, value: &Value<'_>) -> Result<Said<Entry>, Error> {
        let expected = "true, false or a list of texts";
        let entry = match value.get_ref() {
            DeValue::Boolean(switch) => Entry::Switch(*switch),
            DeValue::Array(words) if words.is_empty() => {
                return Err(self.refuse(value, Problem::NoWords));
            }
            _ => {
                let words = self.texts(value, expected)?;
                Entry::Words(words.into_iter().map(|word| word.value).collect())
            }
        };
        Ok(self.said(value, entry))
    }

    fn variables(&self, value: &Value<'_>) -> Result<BTreeMap<String, Said<String>>, Error> {
        let DeValue::Table(table) = value.get_ref() else {
            return Err(self.mismatch(value, self.name, "a table of texts"));
        };
        let one = |(name, value): (&Key<'_>, &Value<'_>)| {
            let path = format!("{}.{}", self.name, name.get_ref());
            let text = self.text_of(value, &path, "text in quotes")?;
            Ok((name.get_ref().clone().into_owned(), text))
        };
        table.iter().map(one).collect()
    }

    fn annotations(&self, value: &Value<'_>) -> Result<BTreeMap<String, Said<String>>, Error> {
        let mut flat = BTreeMap::new();
        let DeValue::Table(_) = value.get_ref() else {
            return Err(self.mismatch(value, self.name, "a table"));
        };
        self.flatten(value, "", &mut flat)?;
        Ok(flat)
    }

    /// As deep as TOML's own reader goes, which has a limit.
    fn flatten(
        &self,
        value: &Value<'_>,
        name: &str,
        into: &mut BTreeMap<String, Said<String>>,
    ) -> Result<(), Error> {
        let text = match value.get_ref() {
            DeValue::Table(table) => {
                let joint = if name.is_empty() { "" } else { "." };
                for (key, value) in table {
                    self.flatten(value, &format!("{name}{joint}{}", key.get_ref()), into)?;
                }
                return Ok(());
            }
            DeValue::String(text) => text.clone().into_owned(),
            DeValue::Boolean(switch) => switch.to_string(),
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            DeValue::Datetime(date) => date.to_string(),
            DeValue::Array(_) => {
                let name = format!("{}.{name}", self.name);
                return Err(self.mismatch(value, &name, "text, a number, true or false"));
            }
        };
        into.insert(name.to_owned(), self.said(value, text));
        Ok(())
    }
}
