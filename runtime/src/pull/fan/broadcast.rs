//! By way of Slurm's own broadcast, sbcast(1): each file goes from node to node along a tree, as the
//! user, in the job.
//!
//! A file that is sent appears on every node of the step, the sender's too, under one name, which must
//! not be there before (slurmd opens it with `O_EXCL`). So it is made of what nobody else has:
//!
//! ```text
//! <where the node directory is>/.shifter-UID-STEP-KEY-NODE.NONCE.WHAT
//!   WHAT: note-N          what the leader says of itself; the documents come with the first
//!         layer-HEX       a layer; complete when it is as long as the manifest says
//! ```
//!
//! slurmd writes a file block after block, and a layer is read while it comes: what was read of it is
//! given back to the node's memory. The digest decides whether it was the right one. The last that a
//! leader sends is a layer, or why there will be none; who has seen all of them has nothing left to
//! remove.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, mpsc},
    thread::{self, sleep},
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    unistd::{AccessFlags, access},
};

use super::{
    Error, Event, Feed, Fleet, Note, Outcome, Over, Pull, Remote, Wish, failure,
    feed::{Sight, Standing},
    is_for_all,
};
use crate::{
    digest::Digest,
    documents::Documents,
    oci::{Descriptor, Platform},
    programs::{self, SHIFTER},
    registry::chance,
    request::{NO_REQUEST, REQUEST_VAR},
    store::{Blobs, Node, Store, sent},
    sys::{
        interrupt::Caught,
        process::{close_inherited, end_with_parent},
    },
};

/// Slurm's program.
const PROGRAM: &str = "sbcast";
/// Bytes that it sends at once. Its own choice, half a megabyte, costs a round through the whole tree
/// for each; slurmd takes no more than 64 MB at once.
const BLOCK: &str = "8m";
/// Longest name of a file, in bytes, that is read as a note.
const MAX_NOTE: u64 = 16 << 20;
/// How many nodes sbcast itself sends to at most, and as it says. slurmd sends on to as many as it has
/// below it, up to TreeWidth of slurm.conf, and the leader's is one of them.
const MAX_WIDTH: f64 = 8.0;
/// How often a follower looks: into its own memory.
const LOOK: Duration = Duration::from_millis(25);
/// How often a leader that has no layer to send says how far it is.
const NOTE_EVERY: Duration = Duration::from_secs(5);
/// How long one waits at most for the note of another one that has begun at the same moment.
const MAX_RIVALRY: Duration = Duration::from_secs(2);
/// A leader of which nothing was heard for so long is gone.
const SILENCE: Duration = Duration::from_secs(30);

/// Whether sbcast is there, and knows this step.
pub(super) fn is_possible(fleet: &Fleet) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    let is_there = |dir: PathBuf| access(&dir.join(PROGRAM), AccessFlags::X_OK).is_ok();
    fleet.number_of_step.is_some() && !fleet.is_component && env::split_paths(&path).any(is_there)
}

pub(super) fn bring(
    wish: &mut Wish<'_>,
    inbox: &Inbox,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, Error> {
    let (began, patience) = (Instant::now(), wish.fleet.patience());
    loop {
        let leaders = inbox.look();
        if let Some(leader) = leaders.into_iter().find(|leader| leader.note.is_some()) {
            return follow(wish, inbox, leader, tell);
        }
        if began.elapsed() >= patience {
            return lead(wish, inbox, tell);
        }
        sleep(LOOK.mul_f64(0.5 + chance()));
    }
}

/// Where files that are sent come to.
pub(super) struct Inbox {
    dir: PathBuf,
    prefix: String,
    /// Tells others on this node that somebody is here who removes them.
    lock: Option<File>,
}

/// A leader, as far as this node has heard of it.
struct Leader {
    /// What its files' names begin with.
    name: String,
    /// The first note, with documents, and the last one.
    note: Option<Note>,
    last: Option<Note>,
    /// Layers, and how much of them there is.
    layers: BTreeMap<String, u64>,
}

impl Inbox {
    pub(super) fn of(wish: &Wish<'_>) -> Result<Inbox, Error> {
        let node = Node::open(&wish.config.node_dir).map_err(Error::Node)?;
        let (dir, prefix) = (sent::place(&node), sent::prefix(&wish.fleet.step, &wish.key()));
        let lock = sent::lock(&dir, &prefix);
        Ok(Inbox { dir, prefix, lock })
    }

    fn files(&self) -> Vec<(String, PathBuf, u64)> {
        sent::files(&self.dir, &self.prefix)
    }

    /// Who leads: the one with the lowest number first.
    fn look(&self) -> Vec<Leader> {
        let mut leaders: BTreeMap<String, Leader> = BTreeMap::new();
        let mut notes: BTreeMap<String, BTreeMap<u64, PathBuf>> = BTreeMap::new();
        for (name, path, size) in self.files() {
            let Some((leader, what)) = name.rsplit_once('.') else { continue };
            let entry = leaders.entry(leader.to_owned()).or_insert_with(|| Leader {
                name: leader.to_owned(),
                note: None,
                last: None,
                layers: BTreeMap::new(),
            });
            if let Some(hex) = what.strip_prefix("layer-") {
                entry.layers.insert(hex.to_owned(), size);
            } else if let Some(number) = what.strip_prefix("note-").and_then(|n| n.parse().ok()) {
                notes.entry(leader.to_owned()).or_default().insert(number, path);
            }
        }
        for (leader, notes) in notes {
            let read = |path: &PathBuf| {
                let is_small = fs::metadata(path).ok()?.len() < MAX_NOTE;
                let text = is_small.then(|| fs::read(path).ok()).flatten()?;
                // One that is still coming is no JSON yet.
                serde_json::from_slice::<Note>(&text).ok()
            };
            if let Some(entry) = leaders.get_mut(&leader) {
                entry.note = notes.get(&0).and_then(read);
                entry.last = notes.values().rev().find_map(read);
            }
        }
        let mut leaders: Vec<_> = leaders.into_values().collect();
        leaders.sort_by_key(|leader| leader.note.as_ref().map_or(u32::MAX, |note| note.number));
        leaders
    }
}

/// Removes what was sent to this node under names that begin with `prefix`, unless somebody waits for it, or
/// may come late: nobody was here yet, and the image is not.
pub(super) fn tidy(node: &Path, prefix: &str, image: &Digest) {
    let Some(node) = Node::existing(node).ok().flatten() else { return };
    let dir = sent::place(&node);
    if !sent::is_wanted(&dir, prefix).unwrap_or(node.tree(image).is_none()) {
        sent::remove(&dir, prefix);
    }
}

/// Has [`tidy`] run on all nodes of the step: those that have the image get what is sent too, and there it
/// would stay. If node 0 leads, few have it, or none: nobody waits for that, and it ends with the step. Best
/// effort: otherwise it is swept by the user's next step there.
fn tidy_everywhere(wish: &Wish<'_>, inbox: &Inbox, image: &Digest) {
    let fleet = wish.fleet;
    let (Some(job), Ok(program)) = (fleet.step.split('.').next(), programs::path(SHIFTER)) else {
        return;
    };
    // This process will be the user's program, which knows nothing of a child.
    let mut srun = Command::new("sh");
    let background = if fleet.is_first() { " &" } else { "" };
    srun.arg("-c").arg(format!("timeout 30 \"$@\"{background}")).args(["sh", "srun"]);
    let own = |name: &str| ["PATH", "HOME", "SLURM_CONF"].contains(&name);
    let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter(|name| !own(name)).for_each(|name| _ = srun.env_remove(name));
    srun.env(REQUEST_VAR, NO_REQUEST).arg(format!("--jobid={job}")).args(["--overlap", "--quiet"]);
    srun.args(fleet.list.iter().map(|list| format!("--nodelist={list}")));
    srun.arg(format!("--nodes={}", fleet.nodes)).arg(format!("--ntasks={}", fleet.nodes));
    srun.args(["--ntasks-per-node=1", "--mpi=none", "--gres=none", "--export=NONE"]);
    srun.args(["--input=none", "--output=none", "--error=none", "--chdir=/", "--job-name=tidy"]);
    srun.arg(program).arg("tidy").arg(&wish.config.node_dir).arg(&inbox.prefix);
    srun.arg(image.to_string());
    srun.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    close_inherited(&mut srun);
    let _ = srun.status();
}

/// Where a leader's layer comes to.
fn layer_in(dir: &Path, leader: &str, layer: &Descriptor) -> PathBuf {
    dir.join(format!("{leader}.layer-{}", layer.digest.hex()))
}

impl Drop for Inbox {
    fn drop(&mut self) {
        if let Some(lock) = self.lock.take()
            && (lock.unlock().is_ok() && lock.try_lock().is_ok())
        {
            // The last of this node's: whoever has sent something, nobody here wants it any more.
            sent::remove(&self.dir, &self.prefix);
        }
    }
}

/// Makes this node's tree of the layers that the leader sends.
fn follow(
    wish: &mut Wish<'_>,
    inbox: &Inbox,
    leader: Leader,
    tell: &mut dyn FnMut(Event<'_>),
) -> Result<Outcome, Error> {
    let note = leader.note.clone().unwrap_or_default();
    let gone = Received { inbox, leader: &leader.name };
    note.tell(wish.fleet, tell);
    if let Some(failure) = note.failure {
        return Err(Error::Elsewhere(failure));
    }
    let remote = Remote::new(None, wish.config);
    let mut pull = wish.pull(&remote)?;
    let node = pull.node.clone().expect("opened with it");
    for (digest, document) in note.unpack() {
        node.blobs().put_document(&digest, &document).map_err(Error::Node)?;
    }
    let resolved =
        note.resolved.filter(|resolved| wish.known.as_ref().is_none_or(|d| d == resolved));
    let Some(documents) = resolved.and_then(|resolved| pull.documents_here(&resolved)) else {
        tell(Event::Trouble("what another node has sent describes no image; pulling it here"));
        return Ok(Outcome::Alone);
    };
    let (dir, name) = (inbox.dir.clone(), leader.name.clone());
    let find = move |layer: &Descriptor| {
        let path = layer_in(&dir, &name, layer);
        // What was read of it is taken out of it.
        let file = File::options().read(true).write(true).open(&path);
        file.ok().map(|file| (path, file))
    };
    let feed = Arc::new(Feed::passing(Box::new(find)));
    let mut ears = Ears::new(inbox, &leader.name);
    let outcome = match pull.follow(&documents, &feed, &mut || ears.listen(), tell) {
        Ok(()) => Outcome::Here(documents.resolved.clone()),
        Err(Error::Orphaned) if feed.is_cut_off() => Outcome::Alone,
        Err(Error::Orphaned) => Outcome::Orphaned,
        Err(Error::StoredBlob { .. } | Error::Store(_)) => {
            tell(Event::Trouble("what another node has sent is damaged; pulling it here"));
            Outcome::Alone
        }
        Err(error) => return Err(error),
    };
    if matches!(outcome, Outcome::Here(_)) {
        gone.wait(&documents, &feed, &mut ears);
    }
    Ok(outcome)
}

/// Notices what comes.
struct Ears<'a> {
    inbox: &'a Inbox,
    leader: &'a str,
    heard: BTreeMap<String, u64>,
    at: Instant,
    version: u64,
}

impl<'a> Ears<'a> {
    fn new(inbox: &'a Inbox, leader: &'a str) -> Ears<'a> {
        Ears { inbox, leader, heard: BTreeMap::new(), at: Instant::now(), version: 0 }
    }

    fn listen(&mut self) -> Sight {
        let prefix = format!("{}.", self.leader);
        let files = self.inbox.files().into_iter().filter(|(name, ..)| name.starts_with(&prefix));
        let mut is_news = false;
        let mut is_there = false;
        let mut standing = Standing::Going;
        for (name, path, size) in files {
            is_there = true;
            let is_new = self.heard.insert(name.clone(), size) != Some(size);
            is_news |= is_new;
            if is_new && name.contains(".note-") {
                let note = fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok());
                match note {
                    Some(Note { failure: Some(failure), .. }) => {
                        standing = Standing::Failed(failure);
                    }
                    Some(Note { over: Some(Over::Alone), .. }) => standing = Standing::Alone,
                    Some(Note { over: Some(Over::Other), .. }) => standing = Standing::Over,
                    _ => {}
                }
            }
        }
        if is_news {
            (self.at, self.version) = (Instant::now(), self.version + 1);
        } else if !is_there || self.at.elapsed() > SILENCE {
            // Who shares this directory with the leader sees it tidy up.
            standing = Standing::Over;
        }
        Sight { standing, version: self.version, again: LOOK }
    }

    /// Whether all of a layer has come.
    fn has(&self, layer: &Descriptor) -> bool {
        let name = format!("{}.layer-{}", self.leader, layer.digest.hex());
        self.heard.get(&name).is_some_and(|size| *size >= layer.size)
    }
}

/// Removes what a leader has sent, in the end.
struct Received<'a> {
    inbox: &'a Inbox,
    leader: &'a str,
}

impl Received<'_> {
    /// Waits for layers that were not needed, but are on their way.
    fn wait(&self, documents: &Documents, feed: &Feed, ears: &mut Ears<'_>) {
        let is_spent = |layer| feed.is_spent(&layer_in(&self.inbox.dir, self.leader, layer));
        let layers = &documents.manifest.layers;
        let all = |ears: &Ears<'_>| layers.iter().all(|layer| is_spent(layer) || ears.has(layer));
        while !all(ears) && ears.listen().standing == Standing::Going {
            sleep(LOOK);
        }
    }
}

impl Drop for Received<'_> {
    fn drop(&mut self) {
        sent::remove(&self.inbox.dir, &format!("{}.", self.leader));
    }
}

/// Pulls the image onto this node, and sends its layers as they are complete.
fn lead(wish: &Wish<'_>, inbox: &Inbox, tell: &mut dyn FnMut(Event<'_>)) -> Result<Outcome, Error> {
    tell(Event::Leading);
    let nonce = format!("{:08x}", (chance() * f64::from(u32::MAX)) as u32);
    let name = format!("{}{}.{nonce}", inbox.prefix, wish.fleet.number);
    let _own_copies = Received { inbox, leader: &name };
    let remote = Remote::new(Some(wish.reference), wish.config);
    let mut pull = wish.pull(&remote)?;
    let node = pull.node.clone().expect("opened with it");
    let outbox = node.outbox().map_err(Error::Node)?;
    let (dir, at) = (&inbox.dir, None);
    let mut sender = Sender { wish, dir, name: &name, outbox: outbox.path(), notes: 0, at };
    let caught = Caught::install();
    let documents = match pull.documents(wish.known.clone(), &Platform::host(), tell) {
        Ok(documents) => documents,
        Err(error) => return Err(sender.give_up(error, &caught)),
    };
    let mut note = wish.note().with(&documents);
    note.pack(&documents);
    // Another one may have begun while this one asked.
    let rivals = || inbox.look().into_iter().filter_map(|leader| leader.note);
    if rivals().next().is_some() {
        return Ok(Outcome::Orphaned);
    }
    let began = Instant::now();
    match sender.note(&note, &caught) {
        Ok(()) => {}
        Err(Stopped::Signal(signal)) => return Err(Error::Interrupted(signal)),
        // Several nodes are one machine, which needs the image once.
        Err(Stopped::Failed(why)) if why.ends_with(Errno::EEXIST.desc()) => {
            return Ok(Outcome::Alone);
        }
        Err(why) => {
            tell(Event::Trouble(&format!("{why}; each node pulls for itself")));
            sender.part(Over::Alone, &caught);
            return Ok(Outcome::Alone);
        }
    }
    note.documents.clear();
    // Or at the same moment: then the lower number counts. What was sent while this was, takes about as
    // long, and is there when both look.
    if !wish.fleet.is_first() {
        sleep(began.elapsed().min(MAX_RIVALRY));
    }
    let rival = rivals().map(|note| note.number);
    if rival.min().is_some_and(|number| number < wish.fleet.number) {
        sender.part(Over::Other, &caught);
        return Ok(Outcome::Orphaned);
    }
    pull.outbox = Some(outbox.blobs().clone());
    let find = finder(&pull);
    let (queue, queued) = mpsc::channel::<Result<Descriptor, Note>>();
    let layers = &documents.manifest.layers;
    let (brought, sent) = thread::scope(|scope| {
        let sender = &mut sender;
        let caught = &caught;
        let sending = scope.spawn(move || sender.serve(&queued, &find, caught));
        let mut said = Instant::now();
        let brought = pull.bring(&documents, &mut |event| {
            let is_news = note.hear(&event);
            // Nobody is there to hear it if it has failed.
            if let Event::Layer(told) = &event {
                _ = queue.send(Ok(layers[told.number].clone()));
                said = Instant::now();
            } else if is_news && said.elapsed() >= NOTE_EVERY {
                _ = queue.send(Err(note.clone()));
                said = Instant::now();
            }
            tell(event);
        });
        drop(queue);
        let sent = sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        (brought, sent)
    });
    match (brought, sent) {
        (Err(error), _) => Err(sender.give_up(error, &caught)),
        (Ok(_), Err(Stopped::Signal(signal))) => Err(Error::Interrupted(signal)),
        (Ok(_), Err(Stopped::Failed(why))) => {
            tell(Event::Trouble(&format!("{why}; the other nodes pull for themselves")));
            sender.part(Over::Alone, &caught);
            Ok(Outcome::Here(documents.resolved))
        }
        (Ok(_), Ok(()) | Err(Stopped::TakenForDead)) => {
            tidy_everywhere(wish, inbox, &documents.digest);
            Ok(Outcome::Here(documents.resolved))
        }
    }
}

/// Where the leader's layers lie.
fn finder(pull: &Pull<'_>) -> impl Fn(&Descriptor) -> Option<PathBuf> + Send + use<> {
    let stores = pull.shared().chain(&pull.store).map(|store: &Store| store.blobs().clone());
    let blobs: Vec<Blobs> = pull.outbox.iter().cloned().chain(stores).collect();
    move |layer| blobs.iter().find_map(|blobs| blobs.find(layer))
}

/// Why something was not sent.
enum Stopped {
    Signal(i32),
    Failed(String),
    /// This machine has stood still, and others go on without it.
    TakenForDead,
}

impl std::fmt::Display for Stopped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Stopped::Signal(signal) => write!(f, "interrupted by signal {signal}"),
            Stopped::Failed(why) => f.write_str(why),
            Stopped::TakenForDead => f.write_str("nothing was sent for too long"),
        }
    }
}

/// To how many nodes of so many sbcast sends: then as many are below each, and the leader's link carries the
/// least. With sbcast's own choice it would be 15 times the image for 16 nodes or 32, and is 7 and 11 times.
fn width(nodes: u32) -> u32 {
    f64::from(nodes).sqrt().ceil().clamp(2.0, MAX_WIDTH) as u32
}

/// Sends files, one after the other.
struct Sender<'a> {
    wish: &'a Wish<'a>,
    dir: &'a Path,
    name: &'a str,
    outbox: &'a Path,
    notes: u32,
    /// When others have heard last of this leader.
    at: Option<Instant>,
}

impl Sender<'_> {
    /// Sends what is queued, until no more will be.
    fn serve(
        &mut self,
        queue: &mpsc::Receiver<Result<Descriptor, Note>>,
        find: &dyn Fn(&Descriptor) -> Option<PathBuf>,
        caught: &Caught,
    ) -> Result<(), Stopped> {
        let mut sent = BTreeSet::new();
        for what in queue {
            match what {
                Err(note) => self.note(&note, caught)?,
                Ok(layer) => {
                    let hex = layer.digest.hex().to_owned();
                    let Some(path) = find(&layer).filter(|_| sent.insert(hex.clone())) else {
                        continue;
                    };
                    self.send(&path, &format!("layer-{hex}"), caught)?;
                    if path.starts_with(self.outbox) {
                        // Memory, here.
                        let _ = fs::remove_file(path);
                    }
                }
            }
        }
        Ok(())
    }

    fn note(&mut self, note: &Note, caught: &Caught) -> Result<(), Stopped> {
        let path = self.outbox.join("note");
        let written = fs::write(&path, note.say());
        written.map_err(|e| Stopped::Failed(format!("write {}: {e}", path.display())))?;
        let number = self.notes;
        self.notes += 1;
        self.send(&path, &format!("note-{number}"), caught)
    }

    /// Tells the others why there is no image.
    fn give_up(&mut self, error: Error, caught: &Caught) -> Error {
        if is_for_all(&error) {
            let failure = Some(failure(&error, &self.wish.fleet.node));
            // Best effort: who hears nothing finds out.
            let _ = self.note(&Note { failure, ..self.wish.note() }, caught);
        }
        error
    }

    /// Tells the others that nothing more will come: they would wait for a silence. Of a step's nodes one may
    /// be down, and sbcast stops at the first block that does not reach all, but the rest has that.
    fn part(&mut self, over: Over, caught: &Caught) {
        // Best effort: it need not reach all.
        let _ = self.note(&Note { over: Some(over), ..self.wish.note() }, caught);
    }

    fn send(&mut self, path: &Path, what: &str, caught: &Caught) -> Result<(), Stopped> {
        // Nobody would remove it where all are done.
        if self.at.is_some_and(|at| at.elapsed() > SILENCE) {
            return Err(Stopped::TakenForDead);
        }
        let sent = self.send_anyway(path, what, caught);
        self.at = Some(Instant::now());
        sent
    }

    fn send_anyway(&self, path: &Path, what: &str, caught: &Caught) -> Result<(), Stopped> {
        let to = self.dir.join(format!("{}.{what}", self.name));
        let failed = |why: &str| Stopped::Failed(format!("{PROGRAM}: {why}"));
        let mut command = Command::new(PROGRAM);
        // What is set for people would have it compress, or overwrite.
        let names = env::vars_os().filter_map(|(name, _)| name.into_string().ok());
        names
            .filter(|name| name.starts_with("SBCAST_"))
            .for_each(|name| _ = command.env_remove(name));
        let step = self.wish.fleet.number_of_step.as_deref().unwrap_or_default();
        command
            .arg("--jobid")
            .arg(step)
            .arg("--compress=none")
            .arg("--size")
            .arg(BLOCK)
            .arg(format!("--fanout={}", width(self.wish.fleet.nodes)));
        command
            .arg(path)
            .arg(&to)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        end_with_parent(&mut command);
        let mut child = command.spawn().map_err(|e| failed(&e.to_string()))?;
        let status = loop {
            if let Some(signal) = caught.signal() {
                // It may have ended by itself; either way it is gone.
                let _ = child.kill();
                let _ = child.wait();
                return Err(Stopped::Signal(signal));
            }
            match child.try_wait().map_err(|e| failed(&e.to_string()))? {
                Some(status) => break status,
                None => sleep(Duration::from_millis(5)),
            }
        };
        // It was sent to this node too.
        if what.starts_with("layer-") {
            let _ = fs::remove_file(&to);
        }
        if status.success() {
            return Ok(());
        }
        let mut said = String::new();
        if let Some(mut stderr) = child.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut stderr, &mut said);
        }
        let line = said.lines().map(str::trim).find(|line| !line.is_empty());
        let line =
            line.map(|line| line.trim_start_matches("sbcast: ").trim_start_matches("error: "));
        Err(failed(line.unwrap_or(&status.to_string())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_callers_own_files_are_looked_at() {
        let dir = tempfile::tempdir().expect("tempdir");
        let (dir_path, prefix) = (dir.path().to_owned(), ".shifter-0-1.0-k-".to_owned());
        let inbox = Inbox { dir: dir_path, prefix, lock: None };
        let name = |what: &str| dir.path().join(format!(".shifter-0-1.0-k-{what}"));
        let note = |number| Note { number, ..Note::default() }.say();
        fs::write(name("7.aa.note-0"), note(7)).expect("write");
        fs::write(name("7.aa.note-1"), "{\"node\":").expect("write");
        fs::write(name("3.bb.note-0"), note(3)).expect("write");
        fs::write(name("3.bb.layer-00"), "half").expect("write");
        std::os::unix::fs::symlink(name("3.bb.note-0"), name("1.cc.note-0")).expect("symlink");
        let leaders = inbox.look();
        let numbers: Vec<_> =
            leaders.iter().map(|leader| leader.note.clone().map(|n| n.number)).collect();
        assert_eq!(numbers, [Some(3), Some(7)], "a link, or a note that is not all there, counts");
        assert_eq!(leaders[0].layers.get("00"), Some(&4));
        drop(Received { inbox: &inbox, leader: &leaders[0].name });
        assert_eq!(inbox.look().len(), 1, "only its own files go");
    }
}
