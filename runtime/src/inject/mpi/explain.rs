//! The same decision, told instead of done.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use super::{Error, Family, Image, Linker, Wanted, decide, front_ends, wireup::Protocols};
use crate::{
    config::{self, Stack},
    inject::{Tree, elf::Library},
    options,
};

/// What there is to say about the MPIs of an image and of its host.
#[derive(Debug)]
pub struct Explanation {
    /// Those of the image, the one first that its linker finds.
    pub image: Vec<InImage>,
    /// Those of the site, in its order.
    pub host: Vec<OnHost>,
    /// Which of the latter.
    chosen: Option<usize>,
}

impl Explanation {
    /// The MPI of the host's that is used, or stands for an error.
    pub fn chosen(&self) -> Option<&OnHost> {
        self.host.get(self.chosen?)
    }
}

/// A library of an MPI in an image.
#[derive(Debug)]
pub struct InImage {
    /// Inside.
    pub path: PathBuf,
    /// Its binary interface.
    pub family: Family,
    /// The language that it is for.
    pub language: &'static str,
    /// How many functions of MPI it has, if it is for C.
    pub functions: Option<usize>,
    /// How its ranks are started, if it is for C.
    pub srun: Option<&'static str>,
}

/// An MPI of the host's, and what it is to the image.
#[derive(Debug)]
pub struct OnHost {
    /// By which it is asked for.
    pub name: String,
    /// What programs ask for.
    pub libs: Vec<PathBuf>,
    /// What would be put where, and what is to be said of it.
    pub verdict: Result<Verdict, Error>,
}

/// How an MPI of the host's would be used.
#[derive(Debug)]
pub struct Verdict {
    /// A line for each library.
    pub told: Vec<String>,
    /// What the caller should know.
    pub warnings: Vec<String>,
    /// Whose programs get it.
    pub families: BTreeSet<Family>,
    /// How their ranks are started.
    pub srun: &'static str,
}

/// Looks at everything, and tells what [`find`](super::find) would do.
pub(crate) fn explain(
    wanted: Wanted<'_>,
    config: &config::Mpi,
    tree: &Tree<'_>,
) -> Result<Explanation, Error> {
    let image = Image::new(tree, wanted.library_path);
    let copies = image.copies(&config.search);
    let told = |stack: &Stack| {
        let injection = decide(stack, wanted.mpi.c_library, &image, &copies)?;
        let (families, srun) = started(stack)?;
        Ok(Verdict { told: injection.told, warnings: injection.warnings, families, srun })
    };
    let host: Vec<OnHost> = config
        .stacks
        .iter()
        .map(|stack| OnHost {
            name: stack.name.clone(),
            libs: stack.libs.clone(),
            verdict: told(stack),
        })
        .collect();
    let chosen = match &wanted.mpi.stack {
        options::Stack::Off => None,
        options::Stack::Auto => host.iter().position(|stack| stack.verdict.is_ok()),
        options::Stack::Named(name) => {
            super::named(name, config)?;
            host.iter().position(|stack| stack.name == *name)
        }
    };
    let image = copies
        .iter()
        .map(|copy| {
            let is_c = copy.name.is_for_c();
            let symbols = image.symbols(&copy.path).filter(|_| is_c);
            InImage {
                path: copy.path.clone(),
                family: copy.name.family,
                language: copy.name.language.name(),
                functions: symbols.map(|symbols| symbols.mpi().count()),
                srun: is_c.then(|| spoken(copy.name.family, &copy.path, &image).srun()),
            }
        })
        .collect();
    Ok(Explanation { image, host, chosen })
}

/// The families of a stack, and how its ranks are started.
fn started(stack: &Stack) -> Result<(BTreeSet<Family>, &'static str), Error> {
    let closure = Linker::of_host().closure(&stack.name, &stack.libs)?;
    let names = closure.iter().map(|own| own.name.clone()).collect();
    let front_ends = front_ends(stack, &closure)?;
    let families: BTreeSet<Family> = front_ends.iter().map(|(name, _)| name.family).collect();
    let spoken = front_ends.first().map(|(name, own)| {
        let real = own.path.canonicalize().unwrap_or_else(|_| own.path.clone());
        let dir = real.parent().unwrap_or(Path::new("/"));
        Protocols::of(name.family, &names, |plugin| dir.join(plugin).exists())
    });
    Ok((families, spoken.unwrap_or_default().srun()))
}

/// What an image's MPI speaks, as far as it is told by what the library itself asks for.
fn spoken(family: Family, path: &Path, image: &Image<'_>) -> Protocols {
    let library: Option<Library> = image.library(path);
    let names: BTreeSet<String> = library.into_iter().flat_map(|found| found.needed).collect();
    let dir = path.parent().unwrap_or(Path::new("/"));
    Protocols::of(family, &names, |plugin| image.has(&dir.join(plugin)))
}
