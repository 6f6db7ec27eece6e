//! What people and programs see of a pull.

use std::{process::Stdio, sync::LazyLock};

use fixtures::{
    Faulty, Outcome, Place, Sandbox,
    image::{self, Entry, Image, Layer},
    place::assert_says,
    run,
};
use serde_json::Value;
use tar::EntryType;

static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::new().with_programs());

fn place(name: &str) -> Place {
    Place::new(&SANDBOX, name)
}

fn layers(count: usize) -> Image {
    (0..count).fold(Image::new(), |image, n| {
        image.layer(Layer::new().file(&format!("f{n}"), 0o644, format!("{n}")))
    })
}

/// Runs a command line on a terminal of that size.
fn on_terminal(place: &Place, columns: u16, rows: u16, line: &str) -> Outcome {
    let line = format!("stty cols {columns} rows {rows}; exec {line}");
    let mut command = place.command("script", &["-qec", &line, "/dev/null"]);
    command.env("TERM", "xterm");
    run(command)
}

/// What a terminal shows in the end of what was written to it; enough of one for what is used.
fn screen(written: &str) -> Vec<String> {
    let (mut lines, mut row) = (vec![String::new()], 0_usize);
    let mut rest = written.chars();
    while let Some(c) = rest.next() {
        match c {
            '\r' => {}
            '\n' => {
                row += 1;
                lines.resize(lines.len().max(row + 1), String::new());
            }
            '\x1b' => {
                let sequence: String =
                    rest.by_ref().skip(1).take_while(|c| !c.is_ascii_alphabetic()).collect();
                // take_while has eaten the letter: only "up N" has a number here.
                match sequence.parse::<usize>() {
                    Ok(up) => row -= up,
                    Err(_) => {
                        lines.truncate(row);
                        lines.push(String::new());
                    }
                }
            }
            c => lines[row].push(c),
        }
    }
    lines.retain(|line| !line.is_empty());
    lines
}

#[test]
fn bars_leave_nothing_but_the_account() {
    for (columns, rows) in [(80, 24), (20, 24), (200, 3), (80, 1)] {
        let place = place(&format!("bars-{columns}-{rows}"));
        let registry = Faulty::serve(&layers(40).build());
        // Slow enough for some ticks.
        registry.fail("blobs/", 40, fixtures::Fault::Trickle);
        let line = format!("shifter pull --to node {}", registry.name());
        let shown = on_terminal(&place, columns, rows, &line);
        assert_eq!(shown.code, 0, "{shown}");
        assert!(shown.stdout.contains("\x1b["), "no bars: {shown}");
        let drawn = shown.stdout.split("\x1b[J").skip(1);
        for lines in drawn.map(|part| part.split("\x1b[").next().unwrap_or_default()) {
            let bars =
                lines.lines().filter(|line| !line.contains("shifter") && !line.contains('@'));
            for line in bars {
                assert!(line.trim_end().len() < usize::from(columns), "too wide: {line:?}");
            }
        }
        let left = screen(&shown.stdout);
        assert_eq!(left.len(), 3, "{left:?}");
        assert!(left[0].contains("pulling ") && left[1].contains("pulled "), "{left:?}");
        assert!(left[2].contains("@sha256:"), "{left:?}");
    }
}

#[test]
fn a_dumb_terminal_and_a_log_have_plain_lines() {
    let registry = Faulty::serve(&layers(3).build());
    let on_dumb = place("dumb");
    let line = format!("TERM=dumb shifter pull {}", registry.name());
    let shown = run(on_dumb.command("script", &["-qec", &line, "/dev/null"]));
    assert_eq!(shown.code, 0, "{shown}");
    assert!(!shown.stdout.contains('\x1b'), "{shown}");
    let in_log = place("log").pull(&registry.name());
    let lines: Vec<_> = in_log.stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{in_log}");
    assert!(lines[0].contains(": 3 layers, "), "{in_log}");
    for part in [" B in ", "/s); download ", ", inflate ", ", write ", ", merge ", "; sha256:"] {
        assert!(lines[1].contains(part), "no {part:?}: {in_log}");
    }
}

#[test]
fn quiet_is_quiet_until_it_fails() {
    let place = place("quiet");
    let registry = Faulty::serve(&layers(1).build());
    let name = registry.name();
    for _ in 0..2 {
        let outcome = place.shifter(&["pull", "--quiet", &name]);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (0, ""), "{outcome}");
        assert!(outcome.stdout.starts_with(&format!("{name}@sha256:")), "{outcome}");
    }
    let stderr = place.shifter(&["pull", "-q", "127.0.0.1:1/x"]).failure(125);
    assert!(stderr.contains("connection refused"), "{stderr}");
}

fn events(outcome: &Outcome) -> Vec<Value> {
    assert_eq!(outcome.stderr, "", "{outcome}");
    let lines = outcome.stdout.lines();
    lines.map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

#[test]
fn programs_are_told_all_of_it() {
    let place = place("json");
    let image = layers(5).build();
    let registry = Faulty::serve(&image);
    registry.fail("manifests/", 1, fixtures::Fault::status(503));
    let pull = |to: &str| place.shifter(&["pull", "--json", "--to", to, &registry.name()]);
    let told = events(&pull("store"));
    let of = |kind: &str| told.iter().filter(|event| event["event"] == kind).collect::<Vec<_>>();
    assert_eq!(told[0]["event"], "trouble", "{told:?}");
    assert!(told[0]["message"].as_str().is_some_and(|text| text.contains("503")), "{told:?}");
    let begin = of("begin")[0];
    assert_eq!(
        (begin["layers"].as_u64(), begin["digest"].as_str()),
        (Some(5), Some(image.root().digest().as_str()))
    );
    let mut numbers: Vec<_> =
        of("layer").iter().filter_map(|layer| layer["number"].as_u64()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, [0, 1, 2, 3, 4]);
    for layer in of("layer") {
        assert_eq!((&layer["from"], &layer["fetched"]), (&"registry".into(), &layer["bytes"]));
        assert!(layer["inflate"].is_null() && layer["write"].is_null(), "only stored: {layer}");
        assert!(layer["download"]["end"].as_f64() >= layer["start"].as_f64(), "{layer}");
    }
    let end = told.last().expect("it ends");
    assert_eq!(
        (&end["event"], &end["unchanged"], &end["bytes"]),
        (&"end".into(), &false.into(), &begin["bytes"])
    );

    let told = events(&pull("node"));
    let layer = told.iter().find(|event| event["event"] == "layer").expect("a layer");
    assert_eq!((layer["from"].as_str(), layer["fetched"].as_u64()), (Some("store"), Some(0)));
    assert!(
        layer["write"]["busy"].as_f64().is_some() && layer["inflate"]["end"].as_f64().is_some()
    );

    let told = events(&pull("both"));
    assert_eq!((told.len(), &told[0]["unchanged"]), (1, &true.into()));
}

#[test]
fn programs_are_told_of_failure() {
    let place = place("json-failure");
    let outcome = place.shifter(&["pull", "--json", "127.0.0.1:1/x"]);
    assert_eq!(outcome.code, 125, "{outcome}");
    let told = events(&outcome);
    let error = told.last().expect("it is told");
    assert_eq!((&error["event"], &error["exit"]), (&"error".into(), &125.into()));
    assert!(error["message"].as_str().is_some_and(|text| text.contains("cannot reach registry")));
}

#[test]
fn nobody_who_listens_is_no_reason_to_stop() {
    let place = place("deaf");
    let registry = Faulty::serve(&layers(3).build());
    let script = format!("shifter pull --json {} | true; exit ${{PIPESTATUS[0]}}", registry.name());
    let mut command = place.command("bash", &["-c", &script]);
    command.stderr(Stdio::null());
    assert_eq!(run(command).code, 0);
    assert_eq!(place.read("f2"), "2");
}

#[test]
fn another_machines_image_is_pulled_where_it_is_asked_for() {
    let place = place("platform");
    let host = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };
    let other = if host == "amd64" { "arm64" } else { "amd64" };
    let named = |name: &str| {
        let layer = Layer::new().file("machine", 0o644, name);
        Image::new().layer(layer).architecture(name)
    };
    let registry = Faulty::serve(&image::index(&[named(host), named(other)]));
    let name = registry.name();
    let platform = format!("linux/{other}");
    place.shifter(&["pull", "--platform", &platform, &name]).success();
    assert_eq!(place.read("machine"), other);
    let stderr = place.shifter(&["pull", "--platform", "linux/s390x", &name]).failure(125);
    assert_says(
        &stderr,
        &["no image for linux/s390x; it has", &format!("linux/{host}"), &platform],
    );
    let stderr = place.shifter(&["pull", "--platform", other, &name]).failure(2);
    assert_says(&stderr, &["platform", "not understood", "write OS/ARCHITECTURE[/VARIANT]"]);
}

/// SECURITY R6, R7: devices and privileged attributes are left out, and one can know.
#[test]
fn what_is_left_out_is_counted() {
    let place = place("left-out");
    let pax: &[(&str, &[u8])] = &[
        ("SCHILY.xattr.security.capability", b"\x01\0\0\x02"),
        ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
    ];
    let device = |name: &'static [u8], kind| Entry { name, kind, ..Entry::default() };
    let layer = Layer::new()
        .dir("bin", 0o755)
        .entry(&Entry { name: b"bin/ping", mode: 0o755, content: b"#!", pax, ..Entry::default() })
        .symlink("ping", "bin/ping")
        .hardlink("bin/ping4", "bin/ping")
        .entry(&device(b"null", EntryType::Char))
        .entry(&device(b"sda", EntryType::Block))
        .entry(&device(b"pipe", EntryType::Fifo));
    let registry = Faulty::serve(&Image::new().layer(layer).build());
    let shown = place.pull(&registry.name());
    assert!(shown.stderr.contains("; left out: 2 devices, 2 extended attributes; sha"), "{shown}");
    let rootfs = place.rootfs();
    for (name, is_there) in [("null", false), ("sda", false), ("pipe", true), ("bin/ping4", true)] {
        assert_eq!(rootfs.join(name).symlink_metadata().is_ok(), is_there, "{name}");
    }

    std::fs::remove_dir_all(&place.node).expect("remove the tree");
    let told = events(&place.shifter(&["pull", "--json", &registry.name()]));
    let tree = &told.last().expect("it ends")["tree"];
    for (what, count) in
        [("files", 2), ("directories", 1), ("symlinks", 1), ("hard_links", 1), ("skipped", 2)]
    {
        assert_eq!(tree[what], count, "{what}: {tree}");
    }
    assert_eq!((&tree["bytes"], &tree["dropped_xattrs"]), (&2.into(), &2.into()), "{tree}");
}
