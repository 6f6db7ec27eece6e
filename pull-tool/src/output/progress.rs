//! A pull, or an import, as it happens: bars on a terminal, else lines, or JSON.

use std::{
    env, fmt,
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use runtime::{
    Reference,
    pull::{Event, Layer, Pulled, Span, Summary, bytes},
    report::printable,
};
use serde_json::{Value, json};
use terminal_size::{Height, Width, terminal_size_of};

use super::{
    bars::{self, Total},
    data, talk,
};

/// Where there are no bars, how often a long pull says how far it is.
const REMINDER: Duration = Duration::from_secs(10);
/// How fast the rate that is shown follows the one that is.
const SMOOTHING: Duration = Duration::from_secs(2);

/// For whom it is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Style {
    /// For somebody who watches a terminal.
    Bars,
    /// For a log. Where it happens, if there may be several such.
    Lines(Option<String>),
    /// For a program, on stdout.
    Json,
    /// For nobody.
    Quiet,
}

impl Style {
    /// Bars where somebody can see them.
    pub(crate) fn for_people() -> Style {
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb");
        match std::io::stderr().is_terminal() && !dumb {
            true => Style::Bars,
            false => Style::Lines(None),
        }
    }
}

/// What is going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verb {
    Pull,
    Import,
    Expand,
}

impl Verb {
    fn going_on(self) -> &'static str {
        match self {
            Verb::Pull => "pulling",
            Verb::Import => "importing",
            Verb::Expand => "expanding",
        }
    }

    fn done(self) -> &'static str {
        match self {
            Verb::Pull => "pulled",
            Verb::Import => "imported",
            Verb::Expand => "expanded",
        }
    }

    /// What the first stage of a layer is.
    fn first_stage(self) -> &'static str {
        match self {
            Verb::Pull => "download",
            Verb::Import | Verb::Expand => "read",
        }
    }

    /// Where layers come from that were not in the store.
    fn from(self) -> &'static str {
        match self {
            Verb::Pull => "registry",
            Verb::Import | Verb::Expand => "file",
        }
    }
}

/// Tells of one pull.
#[derive(Debug)]
pub(crate) struct Progress {
    verb: Verb,
    image: String,
    style: Style,
    /// As much of the image's digest as people compare.
    digest: String,
    /// Lines of bars on the terminal that are to be rewritten.
    drawn: usize,
    began: Instant,
    /// When progress was last taken notice of, and what it was.
    last: (Instant, u64),
    reminded: Instant,
    rate: Option<f64>,
    total: u64,
    /// The node that is waited for.
    leader: Option<String>,
    /// Other nodes say so.
    is_told: bool,
    summary: Option<Summary>,
}

impl Progress {
    pub(crate) fn new(image: impl fmt::Display, style: Style) -> Progress {
        let now = Instant::now();
        Progress {
            verb: Verb::Pull,
            image: printable(&image.to_string()),
            style,
            digest: String::new(),
            drawn: 0,
            began: now,
            last: (now, 0),
            reminded: now,
            rate: None,
            total: 0,
            leader: None,
            is_told: false,
            summary: None,
        }
    }

    /// The same for an import.
    pub(crate) fn of_import(image: impl fmt::Display, style: Style) -> Progress {
        let mut progress = Progress::new(image, style);
        progress.verb = Verb::Import;
        progress
    }

    /// The same for an image that is run from its file.
    pub(crate) fn of_file(image: impl fmt::Display, style: Style) -> Progress {
        let mut progress = Progress::new(image, style);
        progress.verb = Verb::Expand;
        progress
    }

    /// Takes what [`runtime::pull`] tells.
    pub(crate) fn tell(&mut self, event: Event<'_>) {
        if let Event::Begin { digest, bytes, .. } = event {
            let now = Instant::now();
            self.digest = digest.hex()[..15].to_owned();
            (self.began, self.last, self.reminded, self.total) = (now, (now, 0), now, bytes);
        }
        if let Event::End(summary) = &event {
            self.summary = Some(**summary);
        }
        match self.style {
            Style::Quiet => {}
            Style::Json => self.tell_program(&event),
            Style::Bars | Style::Lines(_) => self.tell_person(&event),
        }
    }

    /// Ends it: says what there is now, on stdout.
    pub(crate) fn finish(mut self, reference: &Reference, pulled: &Pulled) {
        self.wipe();
        let name = match reference.digest() {
            Some(_) => reference.to_string(),
            None => format!("{reference}@{}", pulled.digest),
        };
        if self.style == Style::Json {
            let summary = self.summary.unwrap_or_default();
            data(&end(&name, pulled, &summary).to_string());
            return;
        }
        if pulled.unchanged && self.style != Style::Quiet {
            self.say(&format!("{} is up to date", self.image));
        }
        data(&name);
    }

    fn tell_program(&self, event: &Event<'_>) {
        let line = match event {
            Event::Reading { what, bytes } => {
                json!({"event": "reading", "file": what, "bytes": bytes})
            }
            Event::Squashing { bytes } => json!({"event": "squashing", "bytes": bytes}),
            Event::Waiting => json!({"event": "waiting"}),
            Event::Leading => json!({"event": "leading"}),
            Event::Following { node, bytes, total, .. } => {
                json!({"event": "following", "node": node, "bytes": bytes, "total": total})
            }
            Event::Begin { digest, layers, bytes } => json!({
                "event": "begin",
                "image": self.image,
                "digest": digest.as_str(),
                "layers": layers,
                "bytes": bytes,
            }),
            Event::Progress { bytes, .. } => {
                json!({"event": "progress", "bytes": bytes, "seconds": seconds(self.began.elapsed())})
            }
            Event::Trouble(trouble) => json!({"event": "trouble", "message": trouble}),
            Event::Layer(layer) => layer_line(layer, self.verb.from()),
            // With the image's name, in the end.
            Event::End(_) => return,
        };
        data(&line.to_string());
    }

    fn tell_person(&mut self, event: &Event<'_>) {
        let going_on = self.verb.going_on();
        match event {
            Event::Reading { what, bytes: read } => {
                self.remind(&format!("reading {}: {}", printable(what), bytes(*read)));
            }
            Event::Squashing { bytes: written } => {
                let line = format!("writing {} as a squashfs: {}", self.image, bytes(*written));
                self.remind(&line);
            }
            Event::Waiting => {
                let text = format!("waiting for another process that is {going_on}");
                self.say(&format!("{text} {}", self.image));
            }
            Event::Leading => self.leader = None,
            Event::Following { node, bytes: done, total, is_told } => {
                self.is_told = *is_told;
                let node = printable(node);
                let is_new = self.leader.as_ref() != Some(&node);
                self.leader = Some(node);
                if !is_told && (is_new || self.reminded.elapsed() >= REMINDER) {
                    self.reminded = Instant::now();
                    self.say(&self.following(*done, *total));
                }
            }
            // Said already; the leader says the rest.
            Event::Begin { .. } | Event::End(_) if self.leader.is_some() => {}
            Event::Begin { layers, bytes: total, .. } => {
                let plural = if *layers == 1 { "" } else { "s" };
                let what = format!("{layers} layer{plural}, {}", bytes(*total));
                self.say(&format!("{going_on} {}: {what}", self.image));
            }
            Event::Progress { bytes: done, layers } => {
                self.measure(*done);
                let rate = self.rate.unwrap_or_default();
                let total = Total { done: *done, size: self.total, rate };
                if self.style == Style::Bars {
                    let size = terminal_size_of(std::io::stderr());
                    let (Width(width), Height(height)) = size.unwrap_or((Width(80), Height(24)));
                    self.draw(&bars::lines(layers, total, width.into(), height.into()));
                } else if self.reminded.elapsed() >= REMINDER {
                    self.reminded = Instant::now();
                    if self.leader.is_some() {
                        if self.is_told {
                            return;
                        }
                        return self.say(&self.following(*done, self.total));
                    }
                    let how_far = format!("{} of {}", bytes(*done), bytes(self.total));
                    let rate = bytes(rate as u64);
                    self.say(&format!("{going_on} {}: {how_far}, {rate}/s", self.image));
                }
            }
            Event::Trouble(trouble) => self.say(&printable(trouble)),
            Event::Layer(_) => {}
            Event::End(summary) => {
                let (account, digest) = (account(summary, self.verb), &self.digest);
                let done = self.verb.done();
                self.say(&format!("{done} {}: {account}; sha256:{digest}", self.image));
            }
        }
    }

    /// `waiting for n1: pulling alpine:3, 1.2 MB of 3.4 MB`
    fn following(&self, done: u64, total: u64) -> String {
        let (leader, image) = (self.leader.as_deref().unwrap_or_default(), &self.image);
        let how_far = match total {
            0 => String::new(),
            total => format!(", {} of {}", bytes(done), bytes(total)),
        };
        format!("waiting for {leader}: pulling {image}{how_far}")
    }

    /// Says how far something is that has no end yet: one line that changes, or one now and then.
    fn remind(&mut self, line: &str) {
        if self.style == Style::Bars {
            let width = terminal_size_of(std::io::stderr()).map_or(80, |(Width(w), _)| w);
            self.draw(&[line.chars().take(usize::from(width).saturating_sub(1)).collect()]);
        } else if self.reminded.elapsed() >= REMINDER {
            self.reminded = Instant::now();
            self.say(line);
        }
    }

    /// Says a line, above the bars.
    fn say(&mut self, line: &str) {
        self.wipe();
        let node = match &self.style {
            Style::Lines(node) => node.as_deref(),
            _ => None,
        };
        talk(node, line);
    }

    fn measure(&mut self, done: u64) {
        let (at, before) = self.last;
        let time = at.elapsed().as_secs_f64();
        if time <= 0.0 {
            return;
        }
        let now = done.saturating_sub(before) as f64 / time;
        let weight = 1.0 - (-time / SMOOTHING.as_secs_f64()).exp();
        self.rate = Some(self.rate.map_or(now, |rate| rate + (now - rate) * weight));
        self.last = (Instant::now(), done);
    }

    /// Puts these lines where the last ones are, by one write: nothing flickers.
    fn draw(&mut self, lines: &[String]) {
        let mut text = self.back();
        text.extend(lines.iter().flat_map(|line| [line, "\n"]));
        self.drawn = lines.len();
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    fn wipe(&mut self) {
        if self.drawn > 0 {
            let _ = std::io::stderr().write_all(self.back().as_bytes());
            self.drawn = 0;
        }
    }

    /// Moves to the first line of the bars, and clears from there on (ECMA-48: CUU, ED).
    fn back(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r\x1b[J"),
        }
    }
}

/// A pull that fails leaves its place to the message.
impl Drop for Progress {
    fn drop(&mut self) {
        self.wipe();
    }
}

/// `379 MB in 1.4 s (271 MB/s); download 0.3 s, inflate 1.6 s, write 0.7 s, merge 0.0 s`
fn account(summary: &Summary, verb: Verb) -> String {
    let total = summary.total.as_secs_f64();
    let rate = bytes((summary.bytes as f64 / total.max(1e-3)) as u64);
    let mut text = format!("{} in {total:.1} s ({rate}/s)", bytes(summary.bytes));
    let stored = summary.bytes - summary.fetched.min(summary.bytes);
    // What an import has packed itself, it reads from there.
    if stored > 0 && verb == Verb::Pull {
        text += &format!(", {} of it from the store", bytes(stored));
    }
    let stages = [
        (verb.first_stage(), summary.download),
        ("inflate", summary.inflate),
        ("write", summary.write),
        ("merge", summary.merge),
    ];
    // Another program did all of it at once.
    if stages.iter().all(|(_, time)| time.is_zero()) {
        return text;
    }
    let stages = stages.map(|(name, time)| format!("{name} {:.1} s", time.as_secs_f64()));
    text + "; " + &stages.join(", ") + &left_out(summary)
}

/// What the layers hold and the tree does not.
fn left_out(summary: &Summary) -> String {
    let tree = summary.tree.unwrap_or_default();
    let parts = [("devices", tree.skipped), ("extended attributes", tree.dropped_xattrs)];
    let parts = parts.iter().filter(|(_, count)| *count > 0);
    let parts: Vec<_> = parts.map(|(what, count)| format!("{count} {what}")).collect();
    if parts.is_empty() { String::new() } else { format!("; left out: {}", parts.join(", ")) }
}

fn layer_line(layer: &Layer, elsewhere: &str) -> Value {
    let from = if layer.fetched > 0 || layer.bytes == 0 { elsewhere } else { "store" };
    let mut line = json!({
        "event": "layer",
        "number": layer.number,
        "digest": layer.digest.as_str(),
        "bytes": layer.bytes,
        "from": from,
        "fetched": layer.fetched,
        "start": seconds(layer.start),
        "download": span(&layer.download),
    });
    for (name, stage) in [("inflate", &layer.inflate), ("write", &layer.write)] {
        if let Some(stage) = stage {
            line[name] = span(stage);
        }
    }
    line
}

fn end(name: &str, pulled: &Pulled, summary: &Summary) -> Value {
    let mut line = json!({
        "event": "end",
        "image": name,
        "digest": pulled.digest.as_str(),
        "unchanged": pulled.unchanged,
        "bytes": summary.bytes,
        "fetched": summary.fetched,
        "seconds": {
            "total": seconds(summary.total),
            "download": seconds(summary.download),
            "inflate": seconds(summary.inflate),
            "write": seconds(summary.write),
            "merge": seconds(summary.merge),
        },
    });
    if let Some(tree) = &summary.tree {
        line["tree"] = json!({
            "files": tree.files,
            "directories": tree.directories,
            "symlinks": tree.symlinks,
            "hard_links": tree.hard_links,
            "bytes": tree.bytes,
            "skipped": tree.skipped,
            "dropped_xattrs": tree.dropped_xattrs,
        });
    }
    line
}

fn span(span: &Span) -> Value {
    json!({"end": seconds(span.end), "busy": seconds(span.busy)})
}

/// To the microsecond: more digits say nothing.
fn seconds(time: Duration) -> f64 {
    time.as_micros() as f64 / 1e6
}
