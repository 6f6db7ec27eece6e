//! Which image somebody means.

use std::collections::BTreeSet;

use super::{Error, Listed, Repository, canonical};
use crate::{digest::Digest, reference::Reference, source::Source, store::Tree, suggest};

/// So many digits of a digest are taken for its beginning.
const MIN_DIGITS: usize = 6;

/// An image in all the places where it is.
#[derive(Debug)]
pub struct Found {
    /// The manifest's digest.
    pub digest: Digest,
    /// Its names by which it was meant; all of them, if it was meant by its digest.
    pub names: BTreeSet<String>,
    /// Where it is stored, the user's own store first, by these names.
    pub images: Vec<Listed>,
    /// Where it is expanded.
    pub trees: Vec<Tree>,
    /// Whether it was meant by its digest alone.
    pub by_digest: bool,
}

/// What somebody has typed.
#[derive(Debug)]
pub(super) enum Wanted {
    /// A name, with or without a digest.
    Name(Reference),
    /// The file or directory that an image was expanded from.
    Path,
    /// The first digits of a digest, or all of them.
    Digits(String),
}

impl Wanted {
    fn matches(&self, text: &str, name: Option<&str>, digests: [Option<&Digest>; 2]) -> bool {
        let mut digests = digests.into_iter().flatten();
        match self {
            Wanted::Digits(digits) => digests.any(|digest| digest.hex().starts_with(digits)),
            Wanted::Path => name == Some(text),
            Wanted::Name(wanted) => name.is_some_and(|name| match wanted.digest() {
                None => name == wanted.to_string() || name == text,
                Some(pinned) => {
                    let is_of = |other: Reference| {
                        other.registry() == wanted.registry()
                            && other.repository() == wanted.repository()
                            && wanted.tag().is_none_or(|tag| other.tag() == Some(tag))
                    };
                    digests.any(|digest| digest == pinned) && canonical(name).is_some_and(is_of)
                }
            }),
        }
    }
}

impl Repository {
    /// Finds an image by a name, a digest, or the beginning of one.
    pub fn find(&self, text: &str) -> Result<Found, Error> {
        let (images, mut troubles) = self.images();
        let trees = self.trees()?;
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_digits = (MIN_DIGITS..=64).contains(&digits.len())
            && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        let name: Result<Reference, _> = text.parse();
        let is_path = matches!(text.parse(), Ok(Source::OnDisk(_)));
        let wanted = [
            is_path.then_some(Wanted::Path),
            // A name that looks like a digest and is there is a name.
            name.clone().ok().filter(|_| !text.starts_with("sha256:")).map(Wanted::Name),
            is_digits.then(|| Wanted::Digits(digits.to_owned())),
        ];
        for wanted in wanted.into_iter().flatten() {
            if let Some(found) = select(text, &wanted, &images, &trees)? {
                return Ok(found);
            }
        }
        // What cannot be read may have it.
        if !troubles.is_empty() {
            return Err(troubles.remove(0).into());
        }
        let reference = match name {
            Ok(name) => Some(name),
            Err(_) if is_digits || is_path => None,
            Err(error) => return Err(error.into()),
        };
        Err(self.unknown(text, reference, &images, &trees))
    }

    fn unknown(
        &self,
        text: &str,
        name: Option<Reference>,
        images: &[Listed],
        trees: &[Tree],
    ) -> Error {
        let names = images.iter().filter_map(|image| image.stored.entry.name.clone());
        let names: BTreeSet<_> = names.chain(trees.iter().flat_map(|t| t.names.clone())).collect();
        let wanted = name.as_ref().map_or_else(|| text.to_owned(), Reference::to_string);
        let near = suggest::nearest(&wanted, names.iter().map(String::as_str));
        // The same repository under another tag is what one forgets most.
        let same = || {
            let name = name.as_ref()?;
            names.iter().map(String::as_str).find(|other| {
                canonical(other).is_some_and(|other| {
                    (other.registry(), other.repository()) == (name.registry(), name.repository())
                })
            })
        };
        let meant = near.or_else(same).map(str::to_owned);
        let place = match self.shared.is_empty() {
            true => format!("your store {}", self.own_path.display()),
            false => format!("your store {}, nor the site's", self.own_path.display()),
        };
        let name = name.map(|name| name.to_string());
        Error::Unknown { text: text.to_owned(), place, meant, name }
    }
}

fn select(
    text: &str,
    wanted: &Wanted,
    images: &[Listed],
    trees: &[Tree],
) -> Result<Option<Found>, Error> {
    let is_wanted = |image: &&Listed| {
        let (entry, digest) = (&image.stored.entry, &image.stored.digest);
        let digests = [Some(digest), entry.resolved.as_ref()];
        wanted.matches(text, entry.name.as_deref(), digests)
    };
    let mut hits: Vec<&Listed> = images.iter().filter(is_wanted).collect();
    let by_digest = matches!(wanted, Wanted::Digits(_));
    let names_of = |tree: &Tree| -> BTreeSet<String> {
        let digest = [Some(&tree.digest), None];
        let is_named = |name: &&String| wanted.matches(text, Some(name.as_str()), digest);
        tree.names.iter().filter(is_named).cloned().collect()
    };
    let is_tree = |tree: &&Tree| match wanted {
        Wanted::Digits(_) => wanted.matches(text, None, [Some(&tree.digest), None]),
        Wanted::Name(_) | Wanted::Path => !names_of(tree).is_empty(),
    };
    let own = hits.iter().map(|image| &image.stored.digest);
    let digests: BTreeSet<_> = own.chain(trees.iter().filter(is_tree).map(|t| &t.digest)).collect();
    // By one name, the user's own store, the site's and the node may have each another image.
    let digest = match wanted {
        Wanted::Digits(_) if digests.len() > 1 => {
            let digests = digests.iter().map(ToString::to_string).collect();
            return Err(Error::Ambiguous { text: text.to_owned(), digests });
        }
        _ => match hits.first().map(|image| &image.stored.digest).or(digests.first().copied()) {
            Some(digest) => digest.clone(),
            None => return Ok(None),
        },
    };
    hits.retain(|image| image.stored.digest == digest);
    let trees: Vec<_> = trees.iter().filter(|tree| tree.digest == digest).cloned().collect();
    let mut names: BTreeSet<_> =
        hits.iter().filter_map(|image| image.stored.entry.name.clone()).collect();
    names.extend(trees.iter().flat_map(names_of));
    let images = hits.into_iter().cloned().collect();
    Ok(Some(Found { digest, names, images, trees, by_digest }))
}
