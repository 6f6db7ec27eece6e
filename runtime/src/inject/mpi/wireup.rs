//! Whether a program's ranks will find one another: what its MPI asks by, and what the step has.
//!
//! `srun --mpi` wires up its tasks by PMI (1 and 2: a descriptor, `PMI_FD`) or by PMIx (a server's
//! address). An MPI that does not know the one that is there says nothing: each rank is number 0 of
//! 1, and a job of hours computes the same thing as often as it has ranks. Seen from inside, just
//! before the program starts, it can be told: which MPI its linker will load, and what is in its
//! environment. Where that is not certain, nothing is said.

use std::{
    collections::BTreeSet,
    ffi::{OsStr, OsString},
    fmt,
    path::{Path, PathBuf},
};

use super::{
    Family, NAMES,
    closure::{Linker, is_glibc},
};
use crate::inject::{Plain, elf::Library};

/// How many tasks the step has. A batch script, which is none, has no such variable.
const TASKS_VAR: &str = "SLURM_STEP_NUM_TASKS";
/// The descriptor at which slurmstepd answers to PMI (`--mpi=pmi2`).
const PMI_VARS: [&str; 2] = ["PMI_FD", "PMI_PORT"];
/// Tells a client of PMIx which job it is in.
const PMIX_VAR: &str = "PMIX_NAMESPACE";
/// Another way: Cray's launcher, or a library that the program opens by this name.
const OTHER_VARS: [&str; 4] =
    ["PALS_APID", "PMI_CONTROL_PORT", "I_MPI_PMI_LIBRARY", "OMPI_COMM_WORLD_SIZE"];
/// Slurm's own client of PMI-1 asks srun, whatever `--mpi` says; Cray's asks Cray's launcher.
const OTHER_CLIENT: &str = "libpmi.so.0";
/// More than any program has.
const MAX_LIBRARIES: usize = 512;
/// Where an Open MPI keeps its plugins, seen from its library; Debian's have a version.
const PLUGIN_DIRS: [&str; 3] = ["openmpi", "openmpi3", "openmpi/lib/openmpi3"];
/// Those of Open MPI 4 that know PMI-1 and PMI-2.
const PMI_PLUGINS: [&str; 2] = ["mca_pmix_s1.so", "mca_pmix_s2.so"];

/// By what ranks find one another.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Protocols {
    pub(super) pmi: bool,
    pub(super) pmix: bool,
}

impl Protocols {
    /// What an MPI speaks that lies at `path`, and whose libraries are linked with `names`.
    pub(super) fn of(family: Family, names: &BTreeSet<String>, has: impl Fn(&str) -> bool) -> Self {
        let linked = |start: &str| names.iter().any(|name| name.starts_with(start));
        match family {
            Family::Mpich => Protocols { pmi: true, pmix: linked("libpmix.so") },
            // Whose it is, its name does not say.
            Family::Standard => Protocols { pmi: true, pmix: true },
            Family::OpenMpi => {
                let mut plugins = PLUGIN_DIRS.iter().flat_map(|dir| {
                    PMI_PLUGINS.iter().map(move |plugin| format!("{dir}/{plugin}"))
                });
                let pmi = linked("libpmi.so") || linked("libpmi2.so");
                Protocols { pmi: pmi || plugins.any(|plugin| has(&plugin)), pmix: true }
            }
        }
    }

    /// What to write for `srun --mpi`.
    pub(super) fn srun(self) -> &'static str {
        match (self.pmi, self.pmix) {
            (true, true) => "srun --mpi=pmi2 or --mpi=pmix",
            (_, true) => "srun --mpi=pmix",
            _ => "srun --mpi=pmi2",
        }
    }
}

impl fmt::Display for Protocols {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.pmi, self.pmix) {
            (true, true) => "PMI and PMIx",
            (true, false) => "PMI",
            (false, true) => "PMIx",
            (false, false) => "neither PMI nor PMIx",
        })
    }
}

/// A program whose ranks will not find one another.
#[derive(Debug, thiserror::Error)]
#[error(
    "start {tasks} ranks of {}: they will not find one another, each is alone: {} speaks {spoken}, \
     and the step has {offered}",
    Plain(program),
    Plain(library)
)]
pub struct Unwired {
    program: PathBuf,
    library: PathBuf,
    tasks: u32,
    spoken: Protocols,
    offered: Protocols,
}

impl Unwired {
    /// How to start it instead.
    pub(crate) fn remedy(&self) -> String {
        format!("use {}", self.spoken.srun())
    }
}

/// Looks at the program at `path` as this process's linker will, in this environment.
pub(crate) fn check(path: &Path, env: &[(OsString, OsString)]) -> Option<Unwired> {
    let variable = |name: &str| env.iter().find(|(other, _)| other == name).map(|(_, value)| value);
    let tasks = variable(TASKS_VAR)?.to_str()?.parse().ok().filter(|tasks| *tasks > 1)?;
    let has = |names: &[&str]| names.iter().any(|name| variable(name).is_some());
    if has(&OTHER_VARS) {
        return None;
    }
    let offered = Protocols { pmi: has(&PMI_VARS), pmix: has(&[PMIX_VAR]) };
    if offered.pmi && offered.pmix {
        return None;
    }
    let library_path = variable("LD_LIBRARY_PATH").map(OsString::as_os_str).unwrap_or_default();
    let loaded = Loaded::by(path, library_path)?;
    let (family, library) = loaded.mpi?;
    if loaded.names.contains(OTHER_CLIENT) {
        return None;
    }
    let real = library.canonicalize().unwrap_or_else(|_| library.clone());
    let beside = |plugin: &str| real.parent().is_some_and(|dir| dir.join(plugin).exists());
    let spoken = Protocols::of(family, &loaded.names, beside);
    let is_met = spoken.pmi && offered.pmi || spoken.pmix && offered.pmix;
    (!is_met).then(|| Unwired { program: path.into(), library, tasks, spoken, offered })
}

/// What a program loads, the C library's parts left out.
struct Loaded {
    /// File names of all.
    names: BTreeSet<String>,
    /// The first MPI for C among them.
    mpi: Option<(Family, PathBuf)>,
}

impl Loaded {
    /// `None` if it is linked statically, or no program of this machine.
    fn by(program: &Path, library_path: &OsStr) -> Option<Loaded> {
        let own = Library::open(program)?;
        let mut loaded = Loaded { names: BTreeSet::new(), mpi: None };
        if own.needed.iter().all(|name| is_glibc(name)) {
            return Some(loaded);
        }
        let linker = Linker::with_path(&library_path.to_string_lossy());
        let mut waiting = vec![vec![(program.to_path_buf(), own)]];
        // As the linker does, those first that the program itself asks for.
        let mut at = 0;
        while at < waiting.len() && waiting.len() < MAX_LIBRARIES {
            let chain = waiting[at].clone();
            at += 1;
            let Some((_, asking)) = chain.last() else { continue };
            for name in &asking.needed {
                let file = name.rsplit('/').next().unwrap_or(name);
                // A shim has the name of what it leads to.
                if is_glibc(file) || (!loaded.names.insert(file.to_owned()) && file == name) {
                    continue;
                }
                let Some((path, library)) = linker.find(name, &chain, asking.flags) else {
                    continue;
                };
                let known = NAMES.iter().find(|known| known.soname == file && known.is_for_c());
                if let Some(known) = known.filter(|_| loaded.mpi.is_none() || file != name) {
                    loaded.mpi = Some((known.family, path.clone()));
                }
                let mut chain = chain.clone();
                chain.push((path, library));
                waiting.push(chain);
            }
        }
        Some(loaded)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn what_an_mpi_speaks_is_told_by_what_it_is_linked_with() {
        let spoken = |family, libraries: &[&str], plugins: &[&str]| {
            let has = |plugin: &str| plugins.contains(&plugin);
            Protocols::of(family, &names(libraries), has).to_string()
        };
        for (family, libraries, plugins, says) in [
            (Family::Mpich, &["libmpi.so.12", "libucp.so.0"][..], &[][..], "PMI"),
            (Family::Mpich, &["libmpi.so.12", "libpmix.so.2"], &[], "PMI and PMIx"),
            (Family::OpenMpi, &["libmpi.so.40", "libopen-pal.so.80", "libpmix.so.2"], &[], "PMIx"),
            (Family::OpenMpi, &["libmpi.so.40", "libopen-rte.so.40"], &[], "PMIx"),
            (Family::OpenMpi, &["libmpi.so.40"], &["openmpi/mca_pmix_s2.so"], "PMI and PMIx"),
            (Family::OpenMpi, &["libmpi.so.40", "libpmi2.so.0"], &[], "PMI and PMIx"),
        ] {
            assert_eq!(spoken(family, libraries, plugins), says, "{libraries:?}");
        }
    }

    #[test]
    fn a_program_without_mpi_is_none_of_its_business() {
        let env = [(TASKS_VAR.into(), "2".into())];
        assert!(check(Path::new("/proc/self/exe"), &env).is_none());
        assert!(check(Path::new("/etc/passwd"), &env).is_none());
        let loaded = Loaded::by(Path::new("/proc/self/exe"), OsStr::new("")).unwrap();
        assert!(loaded.names.contains("libgcc_s.so.1"), "{:?}", loaded.names);
        assert!(loaded.mpi.is_none());
    }
}
