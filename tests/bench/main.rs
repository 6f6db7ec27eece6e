//! `make bench`: how long shifter takes, beside what else one could do.
//!
//! Commands take turns, round by round (A B C A B C …), so that a machine that gets slower or
//! busier does so for all of them; ratios are taken within a round and then their median. All run
//! as an ordinary user, but those whose row says root.
//!
//! ```text
//! BENCH_ROUNDS       rounds of pulls (5); starts are measured more often
//! BENCH_TABLES       which tables: pulls again many starts jobs fan links layouts squash
//!                    mpi picture (all)
//! BENCH_PEERS        which peers: skopeo podman ch-image enroot (all that are installed), or none
//! BENCH_PEER_ROUNDS  in how many rounds peers and the limit take part (1 for large, else all)
//! BENCH_WAYS         which ways in the table links ("store broadcast none")
//! BENCH_IMAGES       which images of BENCH_TOOLS: small medium medium-zst large ("small medium")
//! BENCH_TOOLS        a folder with registry.sh, make_images.py and limits/: images of real
//!                    software, and a prototype that pulls in one pass. Without it, a Debian made
//!                    by debootstrap.
//! BENCH_DIR          what is made once, and kept (target/bench); enroot/bin in it is tried too
//! BENCH_PORT         where registry.sh listens (5077)
//! ```
//!
//! The tables go to stdout and to `BENCH_DIR/results/bench.md`; a pull of the biggest image, stage
//! by stage, is drawn in `results/stages.svg`.
//!
//! ```text
//! images    what is pulled, and from where        peers    what others do for it
//! pulls     the tables of pulls                   small    what is done once an image is there
//! meter     rounds, samples, medians              report   where the numbers go
//! stages    what a pull says of its stages        picture  how that looks
//! layouts   what if layers lay otherwise          squash   images as one file
//! mpi       messages between ranks                fan      one image onto many nodes
//! ```

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "tables on stdout, talk on stderr")]

mod fan;
mod images;
mod layouts;
mod meter;
mod mpi;
mod peers;
mod picture;
mod pulls;
mod report;
mod small;
mod squash;
mod stages;

use std::{cell::LazyCell, env, process::ExitCode};

use fixtures::need;

use images::Images;
use meter::Bench;
use report::Report;

fn main() -> ExitCode {
    let args: Vec<_> = env::args_os().collect();
    if args.get(1).is_some_and(|arg| arg == "--measure") {
        return meter::measure(&args[2..]);
    }
    if args.get(1).is_some_and(|arg| arg == layouts::WRITE) {
        return layouts::write(&args[2..]);
    }
    let needs = [need::root(), need::slurm(), need::registry(), need::skopeo(), need::userns()];
    for met in needs {
        if let Err(why) = met {
            eprintln!("bench: {why}");
            return ExitCode::FAILURE;
        }
    }
    let rounds = number("BENCH_ROUNDS", 5);
    let mut bench = Bench::new();
    let dir = images::dir();
    bench.report = Report::begin(&dir, rounds);
    // Not every table takes images, and they take a while.
    let sandbox = bench.sandbox.clone();
    let images = LazyCell::new(|| Images::provide(&dir, &sandbox));
    let first = || images.all.first().expect("there is an image");
    let biggest = || images.all.iter().max_by_key(|image| image.bytes).expect("there is an image");

    let tables = setting(
        "BENCH_TABLES",
        "pulls again many starts jobs fan links layouts squash mpi picture",
    );
    let mut well = true;
    for table in tables.split_whitespace() {
        well &= match table {
            "pulls" => {
                // One that fails is no reason to leave out the others.
                let failed = images.all.iter().filter(|image| !bench.pulls(image, &images, rounds));
                failed.count() == 0
            }
            "again" => bench.pulls_again(first(), rounds * 10),
            "many" => bench.pulls_of_many(rounds),
            "starts" => bench.starts(first(), rounds * 10),
            "jobs" => bench.jobs(first(), rounds * 4),
            "fan" => bench.fan(rounds),
            "links" => bench.links(rounds),
            "layouts" => bench.layouts(biggest(), rounds),
            "squash" => bench.squash(biggest(), rounds),
            "mpi" => bench.mpi(&dir, rounds * 4),
            "picture" => bench.picture(biggest()),
            other => panic!("BENCH_TABLES: {other}: no such table"),
        };
    }
    bench.report.end();
    if well { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn setting(name: &str, default: &str) -> String {
    env::var(name).ok().filter(|value| !value.is_empty()).unwrap_or_else(|| default.into())
}

fn number(name: &str, default: usize) -> usize {
    let value = setting(name, &default.to_string());
    let number = value.parse().ok().filter(|&number| number > 0);
    number.unwrap_or_else(|| panic!("{name}={value}: not a number of rounds"))
}
