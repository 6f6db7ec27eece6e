//! A line of JSON for the site's log about a step on a node: who ran which image, and what that took.
//!
//! The socket is the system log's. No file would do: one that all users append to, any of them can
//! rewrite, while the log's daemon asks the kernel who it was that wrote (unix(7), `SO_PASSCRED`). What
//! that user's own process says is still only what it says.

use std::{
    env,
    os::unix::net::UnixDatagram,
    path::Path,
    process,
    time::{Duration, Instant},
};

use runtime::{Config, Digest, Host, Source, pull::Event, report::Report};
use serde_json::{Map, Value, json};

/// syslog(3): facility user, level info.
const PRIORITY: u8 = 1 << 3 | 6;

/// The line about one step, as it comes to be known.
#[derive(Debug)]
pub(crate) struct StepLog {
    /// Open since before the container: the log's socket need not be in it.
    socket: UnixDatagram,
    line: Map<String, Value>,
    began: Instant,
    bytes: u64,
    fetched: u64,
    is_cached: bool,
}

impl StepLog {
    /// Begins a line, if the site wants any. What cannot be logged is left out: no job fails for it,
    /// and its user could do nothing about it.
    pub(crate) fn begin(
        config: &Config,
        node: &str,
        host: &Host,
        source: &Source,
    ) -> Option<StepLog> {
        let socket = connect(config.step_log.as_deref()?)?;
        let variable = |name| env::var(name).unwrap_or_default();
        let step = env::var("SLURM_STEP_ID").unwrap_or_else(|_| "batch".to_owned());
        let fields = [
            ("event", json!("step")),
            ("cluster", json!(variable("SLURM_CLUSTER_NAME"))),
            ("job", json!(variable("SLURM_JOB_ID"))),
            ("step", json!(step)),
            ("node", json!(node)),
            ("user", json!(host.user)),
            ("uid", json!(host.uid.as_raw())),
            ("image", json!(source.to_string())),
        ];
        let line = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let began = Instant::now();
        Some(StepLog { socket, line, began, bytes: 0, fetched: 0, is_cached: true })
    }

    /// Takes notice of what a pull tells.
    pub(crate) fn hear(&mut self, event: &Event<'_>) {
        if let Event::End(summary) = event {
            self.is_cached = false;
            (self.bytes, self.fetched) = (summary.bytes, summary.fetched);
        }
    }

    /// The image is on this node.
    pub(crate) fn pulled(&mut self, digest: Option<&Digest>) {
        self.set("digest", json!(digest.map(Digest::as_str)));
        self.set("cached", json!(self.is_cached));
        self.set("bytes", json!(self.bytes));
        self.set("fetched", json!(self.fetched));
        self.lap("pull_seconds");
    }

    /// The container is there.
    pub(crate) fn entered(mut self) {
        self.lap("setup_seconds");
        self.send();
    }

    /// It will not be.
    pub(crate) fn failed(mut self, report: &Report) {
        self.set("error", json!(report.line));
        self.send();
    }

    fn lap(&mut self, name: &str) {
        let took = std::mem::replace(&mut self.began, Instant::now()).elapsed();
        let milliseconds = Duration::as_millis(&took) as f64;
        self.set(name, json!(milliseconds / 1000.0));
    }

    fn set(&mut self, name: &str, value: Value) {
        self.line.insert(name.to_owned(), value);
    }

    fn send(self) {
        let line = Value::Object(self.line);
        let message = format!("<{PRIORITY}>shifter[{}]: {line}", process::id());
        // As in `begin`.
        let _ = self.socket.send(message.as_bytes());
    }
}

/// A log that does not read must not hold up a job.
fn connect(path: &Path) -> Option<UnixDatagram> {
    let socket = UnixDatagram::unbound().ok()?;
    socket.set_nonblocking(true).ok()?;
    socket.connect(path).ok()?;
    Some(socket)
}
