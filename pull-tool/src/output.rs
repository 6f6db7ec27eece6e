//! Everything that is printed: data on stdout, talk on stderr, progress only on a terminal.

#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::{
    io::{IsTerminal as _, Write as _},
    panic,
    process::ExitCode,
    time::Instant,
};

use runtime::{
    Reference,
    pull::{Event, bytes},
    report::{EXIT_RUNTIME, Report, printable},
};

/// Prints a line of data.
pub(crate) fn data(line: &str) {
    // A reader that has gone away has had enough.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a line for the person. `node` says where, if there may be several.
pub(crate) fn talk(node: Option<&str>, line: &str) {
    let node = node.map(|node| format!("{}: ", printable(node))).unwrap_or_default();
    let _ = writeln!(std::io::stderr(), "shifter: {node}{line}");
}

/// Ends a verb: says what went wrong, if anything did.
pub(crate) fn exit(result: Result<(), Report>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            talk(None, &report.line);
            ExitCode::from(report.exit)
        }
    }
}

/// Makes a panic a failure as any other: one line, and the exit status of what is ours. Threads that
/// the system does not give are one.
pub(crate) fn report_panics() {
    panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        talk(None, &format!("internal error: {}", printable(text.unwrap_or("panic"))));
        std::process::exit(EXIT_RUNTIME.into());
    }));
}

/// Tells of a pull: a line that is rewritten on a terminal, else one line a phase.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    reference: &'a Reference,
    node: Option<&'a str>,
    terminal: bool,
    /// A line is on the terminal that is to be rewritten.
    open: bool,
    began: Instant,
    total: u64,
}

impl<'a> Progress<'a> {
    /// `node` says where the pull happens, if there may be several.
    pub(crate) fn new(reference: &'a Reference, node: Option<&'a str>) -> Progress<'a> {
        let terminal = node.is_none() && std::io::stderr().is_terminal();
        Progress { reference, node, terminal, open: false, began: Instant::now(), total: 0 }
    }

    /// Takes what [`runtime::pull`] tells.
    pub(crate) fn tell(&mut self, event: Event<'_>) {
        match event {
            Event::Waiting => talk(
                self.node,
                &format!("waiting for another process that is pulling {}", self.reference),
            ),
            Event::Begin { layers, bytes: total, .. } => {
                self.began = Instant::now();
                self.total = total;
                let plural = if layers == 1 { "" } else { "s" };
                talk(
                    self.node,
                    &format!(
                        "pulling {}: {layers} layer{plural}, {}",
                        self.reference,
                        bytes(total)
                    ),
                );
            }
            Event::Progress { bytes: done, .. } if self.terminal && self.total > 0 => {
                let percent = done * 100 / self.total;
                let line = format!("{} of {}, {percent} %", bytes(done), bytes(self.total));
                let _ = write!(std::io::stderr(), "\r{line}\x1b[K");
                self.open = true;
            }
            Event::Progress { .. } | Event::Layer(_) => {}
            Event::Trouble(trouble) => {
                self.wipe();
                talk(self.node, trouble);
            }
            Event::End(_) => {
                self.wipe();
                let seconds = self.began.elapsed().as_secs_f64();
                talk(self.node, &format!("pulled {} in {seconds:.1} s", self.reference));
            }
        }
    }

    fn wipe(&mut self) {
        if std::mem::take(&mut self.open) {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

/// A pull that fails leaves its line to the message.
impl Drop for Progress<'_> {
    fn drop(&mut self) {
        self.wipe();
    }
}
