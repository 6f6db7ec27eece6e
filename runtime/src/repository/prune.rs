//! `shifter prune`: what nobody needs, or has used for long.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, SystemTime},
};

use jiff::{Span, SpanRelativeTo};

use super::{Error, Repository};
use crate::{
    digest::Digest,
    jobs,
    store::{self, Container, Mode, Node, Reach, Removal, Store, Stored, Tree, User},
};

/// Where one looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// In the user's store and on this node.
    Everywhere,
    /// On this node.
    Node,
}

/// Whether containers with a name go, which keep what was written in them. Those of jobs that are over
/// go in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Containers {
    /// None of them.
    Stay,
    /// Those that nobody runs.
    Go,
}

/// What is to go.
#[derive(Debug, Clone, Copy)]
pub struct Criteria {
    /// Images that were not used for so long. Without it, no image of the store goes by its age, and
    /// every tree of the node that nobody uses.
    pub older_than: Option<Duration>,
    /// The images that were not used for longest, until the rest takes so many bytes at most.
    pub max_size: Option<u64>,
    /// Where.
    pub scope: Scope,
    /// Of this node.
    pub containers: Containers,
    /// Whether it is done.
    pub mode: Mode,
}

/// Reads a time as people write it: `12h`, `7d`, `1w 2d`.
pub fn age(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    let time = span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?;
    time.try_into().ok()
}

/// Reads a size as people write it: `20GB`, `1.5 GiB`, bytes.
pub fn size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return None,
    };
    let base: f64 = if unit.contains('i') { 1024.0 } else { 1000.0 };
    let bytes = number.parse::<f64>().ok()? * base.powi(power);
    (unit.len() <= 3 && bytes.is_finite()).then_some(bytes as u64)
}

/// What is gone.
#[derive(Debug, Default)]
pub struct Pruned {
    /// Names of images in the store, and their digests.
    pub names: Vec<(Option<String>, Digest)>,
    /// Files of the store: blobs, and what stopped pulls had left.
    pub files: u64,
    /// Their bytes.
    pub stored: u64,
    /// Trees of this node, and their bytes of memory.
    pub trees: Vec<(Tree, u64)>,
    /// Trees that stay because they are in use.
    pub in_use: Vec<(Tree, User)>,
    /// Names of containers.
    pub containers: Vec<String>,
    /// Containers that stay, and whether somebody runs them.
    pub stay: Vec<Container>,
}

impl Pruned {
    /// Bytes of memory that came free.
    pub fn memory(&self) -> u64 {
        self.trees.iter().map(|(_, bytes)| bytes).sum()
    }
}

impl Repository {
    /// Removes what is to go.
    pub fn prune(&self, criteria: &Criteria) -> Result<Pruned, Error> {
        let mut pruned = Pruned::default();
        if let Some(store) = self.own.as_ref().filter(|_| criteria.scope == Scope::Everywhere) {
            prune_store(store, criteria, &mut pruned)?;
        }
        if let Some(node) = &self.node {
            prune_node(node, criteria, &mut pruned)?;
            prune_containers(node, criteria, &mut pruned)?;
        }
        Ok(pruned)
    }
}

fn prune_store(store: &Store, criteria: &Criteria, pruned: &mut Pruned) -> Result<(), Error> {
    let images = store.images()?;
    let mut goes: BTreeSet<Digest> = BTreeSet::new();
    if let Some(age) = criteria.older_than {
        let old = images.iter().filter(|image| is_older(image.used, age));
        goes.extend(old.map(|image| image.digest.clone()));
    }
    if let Some(most) = criteria.max_size {
        goes.extend(too_many(store, &images, &goes, most)?);
    }
    let freed = store.remove(
        |entry| {
            // Not one that got the name meanwhile.
            let mut same = images.iter().filter(|image| image.entry == *entry);
            same.any(|image| goes.contains(&image.digest))
        },
        Reach::All,
        criteria.mode,
    )?;
    pruned.names = freed
        .names
        .iter()
        .map(|entry| {
            let image = images.iter().find(|image| image.entry == *entry);
            let digest = image.map_or(&entry.target.digest, |image| &image.digest);
            (entry.name.clone(), digest.clone())
        })
        .collect();
    (pruned.files, pruned.stored) = (freed.files, freed.bytes);
    Ok(())
}

/// The images that were not used for longest, without which the others take at most so many bytes.
fn too_many(
    store: &Store,
    images: &[Stored],
    gone: &BTreeSet<Digest>,
    most: u64,
) -> Result<Vec<Digest>, store::Error> {
    let mut last_used: BTreeMap<&Digest, Option<SystemTime>> = BTreeMap::new();
    for image in images.iter().filter(|image| !gone.contains(&image.digest)) {
        last_used.insert(&image.digest, image.used);
    }
    let mut by_age: Vec<_> = last_used.into_iter().collect();
    by_age.sort_by_key(|(digest, used)| (std::cmp::Reverse(*used), *digest));
    let size = |digests: &[(&Digest, Option<SystemTime>)]| {
        let stays = |image: &&Stored| digests.iter().any(|(digest, _)| **digest == image.digest);
        store.size_of(images.iter().filter(stays).map(|image| &image.entry))
    };
    let mut too_many = Vec::new();
    while size(&by_age)? > most
        && let Some((oldest, _)) = by_age.pop()
    {
        too_many.push(oldest.clone());
    }
    Ok(too_many)
}

fn prune_node(node: &Node, criteria: &Criteria, pruned: &mut Pruned) -> Result<(), Error> {
    if criteria.mode == Mode::Do {
        node.clean();
    }
    let mut trees = node.trees()?;
    trees.sort_by_key(|tree| tree.used);
    // The store's limit is none of the node's.
    let most = criteria.max_size.filter(|_| criteria.scope == Scope::Node);
    let mut total: u64 = match most {
        Some(_) => trees.iter().map(Tree::memory).sum(),
        None => 0,
    };
    for tree in trees {
        let goes = match (criteria.older_than, most) {
            (None, None) => true,
            (age, most) => {
                age.is_some_and(|age| is_older(tree.used, age))
                    || most.is_some_and(|most| total > most)
            }
        };
        if !goes {
            continue;
        }
        match node.remove(&tree, criteria.mode)? {
            Removal::Gone(bytes) => {
                total = total.saturating_sub(bytes);
                pruned.trees.push((tree, bytes));
            }
            Removal::InUse(user) => pruned.in_use.push((tree, user)),
        }
    }
    Ok(())
}

fn prune_containers(node: &Node, criteria: &Criteria, pruned: &mut Pruned) -> Result<(), Error> {
    let ended = node.ended_containers(None, jobs::alive);
    for container in node.containers()? {
        let goes = criteria.containers == Containers::Go || ended.contains(&container.name);
        if container.is_running || !goes {
            pruned.stay.push(container);
            continue;
        }
        if criteria.mode == Mode::Do {
            node.remove_container(&container.name)?;
        }
        pruned.containers.push(container.name.to_string());
    }
    Ok(())
}

/// Whether the last use is longer ago. One whose time is not known was not long ago.
fn is_older(used: Option<SystemTime>, age: Duration) -> bool {
    used.and_then(|used| SystemTime::now().duration_since(used).ok())
        .is_some_and(|since| since > age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_sizes_are_read_as_people_write_them() {
        const DAY: u64 = 86400;
        for (text, seconds) in [
            ("30m", Some(1800)),
            ("12h", Some(DAY / 2)),
            ("7d", Some(7 * DAY)),
            ("1w 2d", Some(9 * DAY)),
            ("0s", Some(0)),
            ("1 month", None),
            ("-1d", None),
            ("7", None),
            ("", None),
        ] {
            assert_eq!(age(text).map(|age| age.as_secs()), seconds, "{text}");
        }
        for (text, bytes) in [
            ("20GB", Some(20_000_000_000)),
            ("20 gb", Some(20_000_000_000)),
            ("1.5GiB", Some(3 << 29)),
            ("2k", Some(2000)),
            ("0", Some(0)),
            ("500", Some(500)),
            ("GB", None),
            ("1XB", None),
            ("-1", None),
            ("1.2.3", None),
            ("inf", None),
        ] {
            assert_eq!(size(text), bytes, "{text}");
        }
    }
}
