//! Everything that is printed: data on stdout, talk on stderr, progress only on a terminal.

#![allow(clippy::print_stdout, clippy::print_stderr)]

mod bars;
mod progress;
mod step_log;
pub(crate) mod table;

use std::{
    io::{IsTerminal as _, Write as _},
    panic,
    process::ExitCode,
};

use runtime::{
    Digest, Reference,
    container::save,
    report::{EXIT_RUNTIME, Report, printable},
};

pub(crate) use self::{
    progress::{Progress, Style},
    step_log::StepLog,
};

/// Prints a line of data.
pub(crate) fn data(line: &str) {
    // A reader that has gone away has had enough.
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints a value, so that people can read it too.
pub(crate) fn json(value: &serde_json::Value) {
    data(&serde_json::to_string_pretty(value).expect("plain data serialises"));
}

/// Prints a document of an image as it is. A terminal gets it in lines, without what could rewrite
/// it.
pub(crate) fn document(bytes: &[u8]) {
    let mut stdout = std::io::stdout();
    if stdout.is_terminal() {
        String::from_utf8_lossy(bytes).lines().for_each(|line| data(&printable(line)));
        return;
    }
    let _ = stdout.write_all(bytes);
}

/// A name, and the digest that it stood for: what a name without a tag ends in already.
pub(crate) fn name_with_digest(name: &str, digest: &Digest) -> String {
    let is_pinned = name.parse::<Reference>().is_ok_and(|name| name.digest().is_some());
    let joint = if name.is_empty() { "" } else { "@" };
    printable(&if is_pinned { name.to_owned() } else { format!("{name}{joint}{digest}") })
}

/// Prints a line for the person. `node` says where, if there may be several.
pub(crate) fn talk(node: Option<&str>, line: &str) {
    let node = node.map(|node| format!("{}: ", printable(node))).unwrap_or_default();
    let _ = writeln!(std::io::stderr(), "shifter: {node}{line}");
}

/// Tells what became of a container that is to be saved.
pub(crate) fn tell_saved(node: Option<&str>, event: &save::Event<'_>) {
    use save::Event;
    let line = match event {
        Event::Saving(path) => format!("saving {}", path.display()),
        Event::Saved { path, bytes } => {
            format!("saved {}, {}", path.display(), table::size(*bytes))
        }
        Event::NotSaved(error) => Report::from(*error).line,
    };
    talk(node, &printable(&line));
}

/// Says on stdout what went wrong, for a program.
pub(crate) fn failed_as_json(report: &Report) {
    let line = serde_json::json!({"event": "error", "message": report.line, "exit": report.exit});
    data(&line.to_string());
}

/// Ends a verb: says what went wrong, if anything did.
pub(crate) fn exit(result: Result<(), Report>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            if !report.line.is_empty() {
                talk(None, &report.line);
            }
            ExitCode::from(report.exit)
        }
    }
}

/// Ends the program with what went wrong.
pub(crate) fn end(report: &Report) -> ! {
    talk(None, &report.line);
    std::process::exit(report.exit.into())
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
