//! The two halves of the library meet only at `Image`.

use std::{
    fs,
    path::{Path, PathBuf},
};

fn sources(module: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let file = src.join(format!("{module}.rs"));
    if file.is_file() {
        return vec![file];
    }
    files(&src.join(module))
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let paths = entries.map(|entry| entry.expect("an entry").path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

/// The words of all paths of this crate that a source file names, modules among them.
fn named(source: &Path) -> Vec<String> {
    let text = fs::read_to_string(source).expect("a source file");
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = code.collect::<Vec<_>>().join(" ");
    let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
    let paths = code.split("crate::").skip(1).map(|rest| match rest.starts_with('{') {
        true => rest.split(';').next().unwrap_or_default(),
        false => rest.split(|c| !is_path(c)).next().unwrap_or_default(),
    });
    let words = paths.flat_map(|path| path.split(|c| !is_path(c) || c == ':'));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn assert_does_not_name(modules: &[&str], forbidden: &[&str]) {
    for module in modules {
        for source in sources(module) {
            for name in named(&source) {
                assert!(
                    !forbidden.contains(&name.as_str()),
                    "{} names crate::{name}, of the other half",
                    source.display()
                );
            }
        }
    }
}

const NETWORK: [&str; 8] =
    ["registry", "pull", "layer", "store", "import", "repository", "cached", "documents"];
const KERNEL: [&str; 4] = ["container", "environment", "host", "inject"];

#[test]
fn the_halves_do_not_know_each_other() {
    assert_does_not_name(&NETWORK, &KERNEL);
    assert_does_not_name(&KERNEL, &NETWORK);
}

#[test]
fn the_test_sees_what_it_should() {
    let pull = sources("pull").into_iter().flat_map(|source| named(&source)).collect::<Vec<_>>();
    for module in ["registry", "store", "layer", "oci", "reference"] {
        assert!(pull.iter().any(|name| name == module), "{module} is not in {pull:?}");
    }
}
