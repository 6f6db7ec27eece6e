//! By way of a store that all nodes see.
//!
//! The leader has a lease there and notes in it how far it is. Followers read that one file, seldom, and
//! a layer's own when the leader has noted that there is another one: no directory is listed and no
//! lock asked for.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    thread::sleep,
    time::{Duration, Instant},
};

use super::{
    Error, Event, Feed, Layers, Note, Outcome, Pace, Pull, Remote, Store, Wish, failure,
    feed::{Failure, Sight, Standing},
    is_for_all,
};
use crate::{
    digest::Digest,
    oci::{Descriptor, Platform},
    store::{Lease, Sight as Holder, Watch},
};

/// How seldom a follower looks, at most and at least.
const SHORTEST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_secs(5);
/// With many nodes, so much less often for each of them: they ask one file server.
const PER_NODE: Duration = Duration::from_micros(100);
/// How often a leader notes how far it is, unless a layer is complete.
const NOTE_EVERY: Duration = Duration::from_secs(2);
/// How often it notes that.
const NOTE_LAYER_EVERY: Duration = Duration::from_millis(100);

pub(super) fn bring(
    wish: &mut Wish<'_>,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, Error> {
    match try_to_bring(wish, tell) {
        // A home that compute nodes may only read, a quota, a server that is ill.
        Err(error) if is_of_store(&error, &wish.config.store) => {
            tell(Event::Trouble(&format!("{}; each node pulls for itself", Chain(&error))));
            Ok(Outcome::Alone)
        }
        brought => brought,
    }
}

fn try_to_bring(wish: &mut Wish<'_>, tell: &mut dyn FnMut(Event<'_>)) -> Result<Outcome, Error> {
    let (root, key) = (wish.config.store.clone(), wish.key());
    let mut watch = Store::watch(&root, &key);
    let (began, patience) = (Instant::now(), wish.fleet.patience());
    let shortest = SHORTEST.max(PER_NODE * wish.fleet.nodes).min(LONGEST);
    let pace = Pace::new(shortest, LONGEST);
    let mut last = None;
    loop {
        match watch.look()? {
            Holder::Held(text) => {
                let note = serde_json::from_str::<Note>(&text).unwrap_or_default();
                let resolved = note.resolved.as_ref();
                if let Some(resolved) = resolved
                    && let Some(outcome) = follow(wish, resolved, &note, &mut watch, &pace, tell)?
                {
                    return Ok(outcome);
                }
                if last.as_ref() != Some(&note) {
                    note.tell(wish.fleet, tell);
                }
                last = Some(note);
            }
            Holder::Orphaned(process) => {
                wish.dead.push(process);
                continue;
            }
            Holder::Free => {
                // Of one that was there a moment ago, there is an image or a word.
                if let Some(word) = word(wish, &key) {
                    return word;
                }
                let left = last.take();
                let is_left = left.is_some();
                wish.known = wish.known.take().or(left.and_then(|note| note.resolved));
                if is_left && wish.is_here()? {
                    return Ok(wish.known.clone().map_or(Outcome::Alone, Outcome::Here));
                }
                if !wish.dead.is_empty() || began.elapsed() >= patience {
                    let mut store = Store::create(&root)?;
                    wish.dead.iter().for_each(|dead| store.bury(dead.clone()));
                    if let Some(lease) = store.lead(&key)? {
                        return lead(wish, store, &lease, &key, tell);
                    }
                }
            }
        }
        sleep(pace.next());
    }
}

/// What a leader of this step has left when it failed.
fn word(wish: &Wish<'_>, key: &str) -> Option<Result<Outcome, Error>> {
    let word = Store::word(&wish.config.store, key, &wish.fleet.step)?;
    match serde_json::from_str::<Option<Failure>>(&word).ok()? {
        Some(failure) => Some(Err(Error::Elsewhere(failure))),
        None => Some(Ok(Outcome::Alone)),
    }
}

/// Brings the image into the store and onto this node, in one pass.
fn lead(
    wish: &Wish<'_>,
    store: Store,
    lease: &Lease,
    key: &str,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, Error> {
    // Another one may have been the leader before this one became it.
    if let Some(resolved) = wish.known.as_ref().filter(|_| wish.is_here().unwrap_or(false)) {
        return Ok(Outcome::Here(resolved.clone()));
    }
    tell(Event::Leading);
    let mut note = wish.note();
    lease.note(&note.say());
    let brought = lead_alone(wish, store.clone(), lease, &mut note, tell);
    let step = &wish.fleet.step;
    match brought {
        Ok(resolved) => Ok(Outcome::Here(resolved)),
        // Others can do no better there.
        Err(error) if is_of_store(&error, store.path()) => {
            store.leave_word(key, step, "null").ok();
            Err(error)
        }
        Err(error) => {
            if is_for_all(&error) {
                let word = serde_json::to_string(&failure(&error, &wish.fleet.node));
                // Best effort: without a word they find out themselves.
                store.leave_word(key, step, &word.unwrap_or_default()).ok();
            }
            Err(error)
        }
    }
}

fn lead_alone(
    wish: &Wish<'_>,
    store: Store,
    lease: &Lease,
    note: &mut Note,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Digest, Error> {
    let remote = Remote::new(Some(wish.reference), wish.config);
    let documents = wish.pull(&remote)?.documents(wish.known.clone(), &Platform::host(), tell)?;
    for (digest, document) in &documents.raw {
        store.blobs().put_document(digest, document)?;
    }
    *note = note.clone().with(&documents);
    lease.note(&note.say());
    // A tag that a job has filled the store for must not stay what it is now.
    let pinned = wish.reference.pinned(documents.resolved.clone());
    let mut pull = wish.pull(&remote)?;
    (pull.reference, pull.store, pull.keep) = (Some(&pinned), Some(store), true);
    let mut noted = Instant::now();
    pull.bring(&documents, &mut |event| {
        if note.hear(&event) {
            let every = match event {
                Event::Layer(_) => NOTE_LAYER_EVERY,
                _ => NOTE_EVERY,
            };
            if noted.elapsed() >= every {
                noted = Instant::now();
                lease.note(&note.say());
            }
        }
        tell(event);
    })?;
    Ok(documents.resolved)
}

/// Makes this node's tree of the layers that the leader puts into the store. `None` as long as the
/// documents are not there.
fn follow(
    wish: &mut Wish<'_>,
    resolved: &Digest,
    note: &Note,
    watch: &mut Watch,
    pace: &Pace,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Option<Outcome>, Error> {
    let remote = Remote::new(None, wish.config);
    let mut pull: Pull<'_> = wish.pull(&remote)?;
    let Some(store) = pull.store.clone() else { return Ok(None) };
    let Some(documents) = pull.documents_here(resolved) else {
        store.blobs().look_anew();
        return Ok(None);
    };
    note.tell(wish.fleet, tell);
    // A name that is not there yet is not asked for: each time is a request to the file server, and NFS
    // believes in the answer for a while.
    let (blobs, layers) = (store.blobs().clone(), documents.manifest.layers.clone());
    let brought = Arc::new(Mutex::new(Brought { layers: note.done.clone(), all: false }));
    let known = brought.clone();
    let find = move |layer: &Descriptor| {
        let is_there = {
            let known = known.lock().unwrap_or_else(PoisonError::into_inner);
            let mut numbers = (0..layers.len()).filter(|n| layers[*n].digest == layer.digest);
            known.all || numbers.any(|number| known.layers.has(number))
        };
        is_there.then(|| blobs.open(layer)).flatten()
    };
    let feed = Arc::new(Feed::new(Box::new(find)));
    let mut version = 0;
    let mut dead = Vec::new();
    let mut look = || {
        let mut standing = Standing::Going;
        match watch.look() {
            Ok(Holder::Held(text)) => {
                let note = serde_json::from_str::<Note>(&text).unwrap_or_default();
                let mut known = brought.lock().unwrap_or_else(PoisonError::into_inner);
                if note.done != known.layers {
                    (known.layers, version) = (note.done, version + 1);
                    store.blobs().look_anew();
                }
            }
            Ok(Holder::Orphaned(process)) => {
                dead.push(process);
                standing = Standing::Over;
            }
            Ok(Holder::Free) | Err(_) => standing = Standing::Over,
        }
        if standing != Standing::Going {
            // What it has brought last.
            brought.lock().unwrap_or_else(PoisonError::into_inner).all = true;
            store.blobs().look_anew();
            version += 1;
        }
        Sight { standing, version, again: pace.next() }
    };
    let followed = pull.follow(&documents, &feed, &mut look, tell);
    let outcome = match followed {
        Ok(()) => Outcome::Here(documents.resolved.clone()),
        Err(Error::Orphaned) => match word(wish, &wish.key()) {
            Some(word) => word?,
            None => Outcome::Orphaned,
        },
        Err(error @ (Error::StoredBlob { .. } | Error::Store(_))) => {
            tell(Event::Trouble(&format!("{}; pulling it from its registry", Chain(&error))));
            Outcome::Alone
        }
        Err(error) => return Err(error),
    };
    drop(pull);
    wish.dead.extend(dead);
    Ok(Some(outcome))
}

/// What a leader has brought, as far as this node knows.
struct Brought {
    layers: Layers,
    /// It may have brought all.
    all: bool,
}

/// Whether it is the store that does not serve: no room, no right to write, no answer. The image can be had
/// without it.
fn is_of_store(error: &Error, root: &Path) -> bool {
    match error {
        Error::NoSpace { path, .. } => path == root,
        Error::Store(error) => error.path.starts_with(root),
        _ => false,
    }
}

/// An error with its causes.
struct Chain<'a>(&'a Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&crate::report::chain(self.0))
    }
}
