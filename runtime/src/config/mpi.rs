//! What a site says of its MPIs: `[mpi]` and `[[mpi.stack]]`.

use std::{collections::BTreeMap, path::PathBuf};

use serde::Deserialize;

use crate::options::{self, is_stack_name};

/// How containers get the host's MPI.
#[derive(Debug, Clone)]
pub struct Mpi {
    /// Where nothing else is asked for.
    pub mode: options::Mpi,
    /// Directories of images in which MPIs are searched for besides those of their linkers; `*`
    /// stands for a part of a name.
    pub search: Vec<String>,
    /// The host's MPIs, the preferred ones first.
    pub stacks: Vec<Stack>,
}

/// An MPI of the host's.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stack {
    /// By which users ask for it.
    pub name: String,
    /// Its libraries that programs ask for.
    pub libs: Vec<PathBuf>,
    /// Directories that they need at run time, besides those that they lie in.
    #[serde(default)]
    pub mounts: Vec<PathBuf>,
    /// Variables of the container.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// What it means that it lacks functions of the image's MPI.
    #[serde(default)]
    pub check: Strictness,
}

/// What it means that the host's MPI lacks functions of the image's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Strictness {
    /// It is said.
    #[default]
    Warn,
    /// The image's own is used.
    Strict,
    /// Nothing.
    Ignore,
}

/// `[mpi]` as it stands in a file.
#[derive(Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Group {
    mode: String,
    search: Vec<String>,
    #[serde(rename = "stack")]
    stacks: Vec<Stack>,
}

impl Default for Group {
    fn default() -> Group {
        let search = [
            "/usr/local/lib",
            "/usr/local/*/lib",
            "/usr/lib64/*/lib",
            "/opt/*/lib",
            "/opt/*/*/lib",
        ];
        Group {
            mode: "auto".to_owned(),
            search: search.map(str::to_owned).into(),
            stacks: Vec::new(),
        }
    }
}

impl Group {
    /// What it means; else which key is wrong, and how.
    pub(super) fn read(&self) -> Result<Mpi, (&'static str, String)> {
        for stack in &self.stacks {
            let name = &stack.name;
            let fail = |problem: String| Err(("mpi.stack", format!("stack {name:?}: {problem}")));
            if !is_stack_name(name) {
                return fail(
                    "a name is made of letters, digits, _ . and -, and none of auto, off, none"
                        .into(),
                );
            }
            if stack.libs.is_empty() {
                return fail("libs is empty".into());
            }
            let mut paths = stack.libs.iter().chain(&stack.mounts);
            if let Some(path) = paths.find(|path| path.is_relative()) {
                return fail(format!("{path:?} is not an absolute path"));
            }
            if let Some(odd) = stack.env.keys().find(|key| key.is_empty() || key.contains('=')) {
                return fail(format!("{odd:?} is no name of a variable"));
            }
        }
        if let Some(odd) = self.search.iter().find(|dir| !dir.starts_with('/')) {
            return Err(("mpi.search", format!("{odd:?} is not an absolute path")));
        }
        Ok(Mpi {
            mode: self
                .mode
                .parse()
                .map_err(|e: options::ParseError| ("mpi.mode", e.to_string()))?,
            search: self.search.clone(),
            stacks: self.stacks.clone(),
        })
    }
}
