//! From what files say to what it means here: variables, paths, types.

use std::{
    collections::HashSet,
    fmt::Display,
    path::{Path, PathBuf},
    str::FromStr,
};

use super::{
    Environment, Error, Problem, Said,
    expand::{Variables, expand},
    file::{Entry, File},
};
use crate::{
    config,
    options::{Access, Entrypoint, EnvSpec, Gpu, Home, Ids, MountSpec},
    source::Source,
};

/// All of it. `path` is the file that was asked for.
pub(super) fn resolve(
    file: File,
    path: PathBuf,
    variables: Variables<'_>,
) -> Result<Environment, Error> {
    let text = |said: Said<String>| said.map(|text, _| Ok(expand(&text, variables)?));
    let image = file.image.map(text).transpose()?.filter(|image| !image.value.is_empty());
    let image = image.ok_or_else(|| Error::NoImage(path.clone()))?;
    // As in EDF: an empty one is the image's.
    let workdir = file.workdir.map(text).transpose()?.filter(|dir| !dir.value.is_empty());
    let mounts = each(file.mounts, |spec, dir| mount(&expand(&spec, variables)?, dir));
    let devices = each(file.devices, |spec, _| parse(&expand(&spec, variables)?));
    let env = file.env.into_iter().map(|(name, said)| {
        let value = said.map(|value, _| variable(&name, expand(&value, variables)?))?;
        Ok((name, value))
    });
    let annotations = file.annotations.into_iter().map(|(name, said)| Ok((name, text(said)?)));
    Ok(Environment {
        path,
        image: image.map(|image, dir| self::image(&image, dir))?,
        mounts: last_of_each(mounts?),
        env: env.collect::<Result<_, Error>>()?,
        workdir: workdir.map(|dir| dir.map(|dir, _| self::workdir(&dir))).transpose()?,
        entrypoint: file
            .entrypoint
            .map(|said| said.map(|entry, _| entrypoint(entry, variables)))
            .transpose()?,
        root: switch(file.writable, Access::ReadWrite, Access::ReadOnly),
        home: switch(file.home, Home::Mounted, Home::LeftOut),
        ids: switch(file.remap_root, Ids::Root, Ids::Own),
        devices: last_of_each(devices?),
        gpu: file.gpu.map(|said| said.map(|words, _| gpu(&words, variables))).transpose()?,
        mpi: file
            .mpi
            .map(|said| said.map(|mpi, _| parse(&expand(&mpi, variables)?)))
            .transpose()?,
        name: file
            .name
            .map(|said| said.map(|name, _| parse(&expand(&name, variables)?)))
            .transpose()?,
        annotations: annotations.collect::<Result<_, Error>>()?,
    })
}

impl<T> Said<T> {
    /// Makes something of the value, which was said in a file of this directory.
    fn map<U>(self, make: impl FnOnce(T, &Path) -> Result<U, Problem>) -> Result<Said<U>, Error> {
        let Said { value, origin } = self;
        let dir = origin.path.parent().unwrap_or(Path::new("/"));
        match make(value, dir) {
            Ok(value) => Ok(Said { value, origin }),
            Err(problem) => Err(Error::Value { origin, problem }),
        }
    }
}

fn each<T>(
    list: Vec<Said<String>>,
    make: impl Fn(String, &Path) -> Result<T, Problem>,
) -> Result<Vec<Said<T>>, Error> {
    list.into_iter().map(|said| said.map(&make)).collect()
}

/// A file that is a base by two ways says everything twice.
fn last_of_each<T: Display>(list: Vec<Said<T>>) -> Vec<Said<T>> {
    let mut seen = HashSet::new();
    let last = list.into_iter().rev().filter(|said| seen.insert(said.value.to_string()));
    let mut kept: Vec<_> = last.collect();
    kept.reverse();
    kept
}

fn parse<T: FromStr<Err: Display>>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|error: T::Err| Problem::Spec(error.to_string()))
}

fn image(text: &str, dir: &Path) -> Result<Source, Problem> {
    Ok(Source::typed(text, Some(&above(text, dir)), config::home().as_deref())?)
}

/// Where a path begins. What `..` leaves is another directory than it reads like where that is
/// behind a link.
fn above(path: &str, dir: &Path) -> PathBuf {
    match path.contains("..").then(|| dir.canonicalize()) {
        Some(Ok(real)) => real,
        _ => dir.to_owned(),
    }
}

/// `SOURCE[:TARGET[:FLAGS]]`, or docker's long form.
fn mount(spec: &str, dir: &Path) -> Result<MountSpec, Problem> {
    let flags = spec.splitn(3, ':').nth(2).unwrap_or_default();
    if !spec.contains('=') && flags.split(['+', ',']).any(|flag| flag == "sqsh") {
        let problem = format!("mount {spec:?}: squashfs images cannot be mounted");
        return Err(Problem::Spec(problem));
    }
    MountSpec::typed(spec, Some(&above(spec, dir)), config::home().as_deref())
        .map_err(|error| Problem::Spec(error.to_string()))
}

/// A variable's value; an empty one takes the variable away, as in EDF.
fn variable(name: &str, value: String) -> Result<String, Problem> {
    if name.contains('=') {
        return Err(Problem::Spec(format!("variable {name:?}: a name has no =")));
    }
    let _: EnvSpec = parse(&format!("{name}={value}"))?;
    Ok(value)
}

fn workdir(text: &str) -> Result<PathBuf, Problem> {
    match text.starts_with('/') {
        true => Ok(text.into()),
        false => Err(Problem::Spec(format!("workdir {text:?}: it must be an absolute path"))),
    }
}

/// An empty list is none.
fn gpu(words: &[String], variables: Variables<'_>) -> Result<Gpu, Problem> {
    let words = words.iter().map(|word| expand(word, variables));
    match words.collect::<Result<Vec<_>, _>>()?.as_slice() {
        [] => Ok(Gpu::Nothing),
        words => parse(&words.join(",")),
    }
}

fn entrypoint(entry: Entry, variables: Variables<'_>) -> Result<Entrypoint, Problem> {
    Ok(match entry {
        Entry::Switch(true) => Entrypoint::Image,
        Entry::Switch(false) => Entrypoint::Off,
        Entry::Words(words) => {
            let words = words.iter().map(|word| expand(word, variables));
            Entrypoint::Given(words.collect::<Result<_, _>>()?)
        }
    })
}

fn switch<T>(said: Option<Said<bool>>, on: T, off: T) -> Option<Said<T>> {
    said.map(|said| Said { value: if said.value { on } else { off }, origin: said.origin })
}
