//! One pull for all nodes of a job.
//!
//! ```text
//!              ┌─ the user's store, which all nodes see ─┐
//! registry ─► leader                                    followers ─► trees/DIGEST, on each node
//!              └─ Slurm's sbcast, layer after layer ─────┘
//! ```
//!
//! Nobody appoints the leader: it is the first node that lacks the image and finds no leader. Node 0 of
//! the step looks at once, the others a moment later, each at another one. Followers expand each layer
//! as it comes. When the leader fails, they fail with its error; when it dies, one of them goes on. What
//! goes wrong with the way itself is no reason to fail: then each node pulls for itself, as it would
//! without the others.

mod broadcast;
mod feed;
mod fleet;
mod shared;

use std::time::{Duration, Instant};

use base64::Engine as _;
use serde::{Deserialize, Serialize};

use self::broadcast::Inbox;
pub(super) use self::feed::Feed;
pub use self::{feed::Failure, fleet::Fleet};
use super::{Error, Event, Pull, Remote};
use crate::{
    config::{Config, FanOut},
    digest::Digest,
    documents::{self, Documents},
    oci::Platform,
    reference::Reference,
    registry::chance,
    report::Report,
    store::{Dead, Node, Store},
};

/// How often an image is waited for whose leaders die. After that, each node pulls for itself.
const MAX_LEADERS: u32 = 3;
/// Nodes that pull for themselves after all begin within so much time for each of them, and not within
/// more than this.
const SPREAD: Duration = Duration::from_millis(100);
const MAX_SPREAD: Duration = Duration::from_secs(60);

/// What a leader says of itself, again and again.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Note {
    /// The node's name.
    node: String,
    /// Its number in the step.
    number: u32,
    /// What the image's name stands for.
    resolved: Option<Digest>,
    /// Indexes, manifest and configuration, where followers cannot read them: base64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    documents: Vec<String>,
    /// Compressed bytes that it has.
    bytes: u64,
    /// Compressed bytes of the image; 0 as long as that is not known.
    total: u64,
    /// Which layers are complete.
    #[serde(default)]
    done: Layers,
    /// Why there will be none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    failure: Option<Failure>,
    /// It brings nothing to others any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    over: Option<Over>,
}

/// What the others are to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Over {
    /// Each pulls for itself.
    Alone,
    /// Another node leads.
    Other,
}

/// Some of an image's layers: a bit for each, the lowest layer's first, as hexadecimal digits. A note has to
/// be short.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Layers(String);

impl Layers {
    fn add(&mut self, number: usize) {
        let mut digits = std::mem::take(&mut self.0).into_bytes();
        digits.resize(digits.len().max(number / 4 + 1), b'0');
        let digit = self::digit(digits[number / 4]) | 1 << (number % 4);
        digits[number / 4] = b"0123456789abcdef"[usize::from(digit)];
        self.0 = digits.into_iter().map(char::from).collect();
    }

    fn has(&self, number: usize) -> bool {
        let digit = self.0.as_bytes().get(number / 4).map_or(0, |byte| self::digit(*byte));
        digit >> (number % 4) & 1 == 1
    }
}

/// What is none counts for nothing.
fn digit(byte: u8) -> u8 {
    char::from(byte).to_digit(16).map_or(0, |digit| digit as u8)
}

/// How one try to have it from another node has ended.
enum Outcome {
    /// The image is here.
    Here(Digest),
    /// The leader has died, and can be succeeded.
    Orphaned,
    /// It cannot be had like this; why, has been told.
    Alone,
}

/// One image, for one step.
struct Wish<'a> {
    reference: &'a Reference,
    /// What its name stands for, if that is known.
    known: Option<Digest>,
    fleet: &'a Fleet,
    config: &'a Config,
    /// Leaders that are known to be gone.
    dead: Vec<Dead>,
}

/// Has the image brought to this node by way of the others, if it is not here, and returns what its name
/// stands for. `None`: this node has to pull it itself.
pub(super) fn bring(
    reference: &Reference,
    known: Option<Digest>,
    fleet: &Fleet,
    config: &Config,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Option<Digest>, Error> {
    let known = known.or_else(|| reference.digest().cloned());
    let mut wish = Wish { reference, known, fleet, config, dead: Vec::new() };
    if wish.is_here()? {
        return Ok(wish.known);
    }
    let way = match config.fan_out {
        FanOut::Auto if Store::is_on_network(&config.store) => FanOut::Store,
        FanOut::Auto => FanOut::Broadcast,
        way => way,
    };
    let inbox = match way {
        FanOut::Broadcast if broadcast::is_possible(fleet) => Some(Inbox::of(&wish)?),
        _ => None,
    };
    for _ in 0..MAX_LEADERS {
        if wish.is_here()? {
            return Ok(wish.known);
        }
        let outcome = match (way, &inbox) {
            (FanOut::Store, _) => shared::bring(&mut wish, tell)?,
            (_, Some(inbox)) => broadcast::bring(&mut wish, inbox, tell)?,
            _ => return Ok(wish.known),
        };
        match outcome {
            Outcome::Here(resolved) => return Ok(Some(resolved)),
            Outcome::Orphaned => {}
            Outcome::Alone => break,
        }
    }
    let spread = MAX_SPREAD.min(SPREAD * fleet.nodes);
    std::thread::sleep(spread.mul_f64(chance()));
    Ok(wish.known)
}

/// Removes what was sent to this node under names that begin with `prefix`, if `image` is in the node
/// directory and no process of this node is about to take it.
pub fn tidy(node: &std::path::Path, prefix: &str, image: &Digest) {
    broadcast::tidy(node, prefix, image);
}

impl Wish<'_> {
    /// What the image is known by among the nodes of the step.
    fn key(&self) -> String {
        Digest::of(self.reference.to_string().as_bytes()).hex()[..24].to_owned()
    }

    /// A pull that has no leader.
    fn pull<'a>(&'a self, remote: &'a Remote<'a>) -> Result<Pull<'a>, Error> {
        let node = Node::open(&self.config.node_dir).map_err(Error::Node)?;
        Ok(Pull::new(self.config, remote, Store::open(&self.config.store), Some(node)))
    }

    /// Whether the image is on this node, or in a store that this node can read.
    fn is_here(&self) -> Result<bool, Error> {
        let Some(resolved) = &self.known else { return Ok(false) };
        let remote = Remote::new(None, self.config);
        let pull = self.pull(&remote)?;
        let Some(documents) = pull.documents_here(resolved) else { return Ok(false) };
        let node = pull.node.as_ref().expect("opened with it");
        let layers = &documents.manifest.layers;
        let stored = || {
            let mut stores = pull.shared().chain(&pull.store).map(Store::blobs);
            stores.any(|blobs| layers.iter().all(|layer| blobs.find(layer).is_some()))
        };
        Ok(node.tree(&documents.digest).is_some()
            || pull.mountable(&documents)?.is_some()
            || stored())
    }

    fn note(&self) -> Note {
        let Fleet { node, number, .. } = self.fleet;
        Note {
            node: node.clone(),
            number: *number,
            resolved: self.known.clone(),
            ..Note::default()
        }
    }
}

impl Pull<'_> {
    /// The documents of an image, if all of them are on this machine.
    fn documents_here(&self, resolved: &Digest) -> Option<Documents> {
        let stores = self.shared().chain(&self.store).map(Store::blobs);
        let local: Vec<_> = stores.chain(self.node.iter().map(Node::blobs)).collect();
        documents::stored(resolved, &Platform::host(), &local)
    }

    /// Makes the image's tree of what a leader brings.
    fn follow(
        &mut self,
        documents: &Documents,
        feed: &std::sync::Arc<Feed>,
        look: &mut (dyn FnMut() -> feed::Sight + Send),
        tell: &mut dyn FnMut(Event<'_>),
    ) -> Result<(), Error> {
        let node = self.node.clone().expect("opened with it");
        for (digest, document) in &documents.raw {
            node.blobs().put_document(digest, document).map_err(Error::Node)?;
        }
        self.feed = Some(feed.clone());
        let result = std::thread::scope(|scope| {
            scope.spawn(|| feed.watch(look));
            let result = self.bring_whole(documents, tell).map(drop);
            feed.stop();
            result
        });
        self.feed = None;
        result
    }
}

impl Note {
    fn with(mut self, documents: &Documents) -> Note {
        self.resolved = Some(documents.resolved.clone());
        self.total = documents.manifest.download_size();
        self
    }

    /// Takes in what the leader's own pull tells. Returns whether that is news.
    fn hear(&mut self, event: &Event<'_>) -> bool {
        match event {
            Event::Progress { bytes, .. } => self.bytes = *bytes,
            Event::Layer(layer) => self.done.add(layer.number),
            _ => return false,
        }
        true
    }

    fn say(&self) -> String {
        serde_json::to_string(self).expect("text and numbers always serialise")
    }

    fn tell(&self, fleet: &Fleet, tell: &mut dyn FnMut(Event<'_>)) {
        let (node, is_told) = (self.node.as_str(), !fleet.speaks_for_followers());
        tell(Event::Following { node, bytes: self.bytes, total: self.total, is_told });
    }

    /// Whether the documents that came with it are all there, each what its name says.
    fn unpack(&self) -> Vec<(Digest, Vec<u8>)> {
        let decode = |text: &String| base64::prelude::BASE64_STANDARD.decode(text).ok();
        let bytes = self.documents.iter().filter_map(decode);
        bytes.map(|bytes| (Digest::of(&bytes), bytes)).collect()
    }

    fn pack(&mut self, documents: &Documents) {
        let encode =
            |(_, bytes): &(Digest, Vec<u8>)| base64::prelude::BASE64_STANDARD.encode(bytes);
        self.documents = documents.raw.iter().map(encode).collect();
    }
}

/// What is said of an error that all nodes end with.
fn failure(error: &Error, node: &str) -> Failure {
    let Report { line, exit } = Report::from(error);
    Failure { node: node.to_owned(), line, exit }
}

/// Whether the followers cannot do better.
fn is_for_all(error: &Error) -> bool {
    !matches!(error, Error::Interrupted(_) | Error::Cancelled)
}

/// A wait that gets longer: an eighth of what has been waited, so that who waits finds out early
/// enough, and asks often enough only at first. Spread, since all nodes begin at the same moment.
struct Pace {
    began: Instant,
    shortest: Duration,
    longest: Duration,
}

impl Pace {
    fn new(shortest: Duration, longest: Duration) -> Pace {
        Pace { began: Instant::now(), shortest, longest }
    }

    fn next(&self) -> Duration {
        let eighth = self.began.elapsed() / 8;
        eighth.clamp(self.shortest, self.longest).mul_f64(0.75 + chance() / 2.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_says_which_layers_are_complete() {
        let mut layers = Layers::default();
        [9, 0, 2, 9].into_iter().for_each(|number| layers.add(number));
        assert_eq!(layers.0, "502");
        let known: Vec<_> = (0..20).filter(|number| layers.has(*number)).collect();
        assert_eq!(known, [0, 2, 9]);
        assert!(!Layers("zz".to_owned()).has(1), "what another release may say");
    }
}
