//! Which of the images are listed.

use glob::Pattern;

use super::{Error, Listed, Repository};
use crate::{
    reference::{DEFAULT_REGISTRY, Reference},
    suggest,
};

/// The keys of filters.
const KEYS: [&str; 3] = ["reference", "before", "since"];

/// `KEY=VALUE`, as docker has it.
#[derive(Debug, Clone)]
pub enum Filter {
    /// By name: a pattern as shells have it, in which `*` also stands for slashes.
    Reference(Pattern),
    /// Built before this image.
    Before(String),
    /// Built after this image.
    Since(String),
}

/// Why a filter is none.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Not `KEY=VALUE`.
    #[error("filter {0:?}: it is not KEY=VALUE")]
    Syntax(String),
    /// No such key.
    #[error("filter {text:?}: there is no {key:?}")]
    Key {
        /// All of it.
        text: String,
        /// What stands before the `=`.
        key: String,
        /// What may have been meant.
        meant: Option<&'static str>,
    },
    /// No pattern.
    #[error("pattern {text:?}")]
    Pattern {
        /// All of it.
        text: String,
        /// Why.
        source: glob::PatternError,
    },
}

impl FilterError {
    /// The keys that there are.
    pub fn keys() -> String {
        KEYS.join(", ")
    }
}

impl std::str::FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Filter, FilterError> {
        let (key, value) =
            text.split_once('=').ok_or_else(|| FilterError::Syntax(text.to_owned()))?;
        match key {
            "reference" => Filter::name(value),
            "before" => Ok(Filter::Before(value.to_owned())),
            "since" => Ok(Filter::Since(value.to_owned())),
            _ => {
                let meant = suggest::nearest(key, KEYS);
                Err(FilterError::Key { text: text.to_owned(), key: key.to_owned(), meant })
            }
        }
    }
}

impl Filter {
    /// By name.
    pub fn name(pattern: &str) -> Result<Filter, FilterError> {
        Pattern::new(pattern)
            .map(Filter::Reference)
            .map_err(|source| FilterError::Pattern { text: pattern.to_owned(), source })
    }

    /// Whether one of these names is meant; a filter that does not go by names means all.
    pub fn lets_pass(&self, names: &[String]) -> bool {
        let Filter::Reference(pattern) = self else { return true };
        let mut spellings = names.iter().flat_map(|name| spellings(name));
        spellings.any(|name| pattern.matches(&name))
    }
}

impl Repository {
    /// Leaves of `images` those that all filters let pass.
    pub fn filter(&self, images: &mut Vec<Listed>, filters: &[Filter]) -> Result<(), Error> {
        for filter in filters {
            match filter {
                Filter::Reference(_) => images.retain(|image| {
                    let name = image.stored.entry.name.clone().unwrap_or_default();
                    filter.lets_pass(&[name])
                }),
                Filter::Before(text) | Filter::Since(text) => {
                    let found = self.find(text)?;
                    let pivot = found.images.first().and_then(Listed::created);
                    let is_before = matches!(filter, Filter::Before(_));
                    images.retain(|image| match (image.created(), pivot) {
                        (Some(created), Some(pivot)) if is_before => created < pivot,
                        (Some(created), Some(pivot)) => created > pivot,
                        _ => false,
                    });
                }
            }
        }
        Ok(())
    }
}

/// The ways in which somebody may write a name.
fn spellings(name: &str) -> Vec<String> {
    let Some(reference) = super::canonical(name) else { return vec![name.to_owned()] };
    let repository = reference.repository();
    let mut names = vec![repository.to_owned(), format!("{}/{repository}", reference.registry())];
    if reference.registry() == DEFAULT_REGISTRY {
        names.push(format!("{}/{repository}", super::HUB));
        names.extend(repository.strip_prefix("library/").map(str::to_owned));
    }
    let tag = |reference: &Reference| reference.tag().map(|tag| format!(":{tag}"));
    if let Some(tag) = tag(&reference) {
        let tagged: Vec<_> = names.iter().map(|name| format!("{name}{tag}")).collect();
        names.extend(tagged);
    }
    names.push(name.to_owned());
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_matches_in_every_spelling() {
        for (pattern, name, matches) in [
            ("alpine", "docker.io/library/alpine:3", true),
            ("alpine:3", "docker.io/library/alpine:3", true),
            ("alp*", "docker.io/library/alpine:3", true),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:3", true),
            ("*:3", "docker.io/library/alpine:3", true),
            ("alpine:4", "docker.io/library/alpine:3", false),
            ("pine", "docker.io/library/alpine:3", false),
            ("nvidia/*", "nvcr.io/nvidia/cuda:12", true),
            ("nvcr.io/*", "nvcr.io/nvidia/cuda:12", true),
            ("plain", "plain", true),
        ] {
            let filter = Filter::name(pattern).expect("a pattern");
            assert_eq!(filter.lets_pass(&[name.to_owned()]), matches, "{pattern} of {name}");
        }
    }

    #[test]
    fn who_errs_in_a_key_is_told_what_was_meant() {
        let error = "refernce=x".parse::<Filter>().expect_err("typo");
        assert!(matches!(error, FilterError::Key { meant: Some("reference"), .. }), "{error:?}");
        assert!(matches!("x".parse::<Filter>(), Err(FilterError::Syntax(_))));
        assert!(matches!("reference=[".parse::<Filter>(), Err(FilterError::Pattern { .. })));
    }
}
