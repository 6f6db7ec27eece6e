//! Files with holes. SECURITY R13: the right content, or an error.

use std::os::unix::fs::FileExt;

use super::*;

/// As GNU tar writes them, whose formats these are.
#[test]
fn what_gnu_tar_writes_of_holes_comes_out_as_it_was() {
    let source = tempfile::tempdir().unwrap();
    let long = "n/".repeat(60) + "many";
    fs::create_dir_all(source.path().join("n/".repeat(60))).unwrap();
    // Two parts; more than fit in a header and than fit in one block after it; none; data last.
    for (name, size, parts) in [
        ("two", 3 << 20, vec![0, 1 << 20]),
        (&long, 60 << 16, (0..60).map(|n| n << 16).collect()),
        ("only-hole", 1 << 20, vec![]),
        ("to-the-end", (1 << 20) + 4096, vec![1 << 20]),
        ("far", (8 << 30) + 4096, vec![8 << 30]),
        ("plain", 4096, vec![0]),
    ] {
        let file = File::create(source.path().join(name)).unwrap();
        for part in parts {
            file.write_all_at(format!("data at {part}").repeat(80).as_bytes(), part).unwrap();
        }
        file.set_len(size).unwrap();
    }
    for format in
        ["--format=gnu", "--sparse-version=0.0", "--sparse-version=0.1", "--sparse-version=1.0"]
    {
        let mut tar = Command::new("tar");
        tar.args(["--create", "--sparse", "--file=-", "--sort=name"]);
        if format != "--format=gnu" {
            tar.arg("--format=posix");
        }
        let output = tar.arg(format).arg("-C").arg(source.path()).arg(".").output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.stdout.len() < 4 << 20, "{format}: tar found no holes");
        let site = Site::new();
        let summary = site.apply(&[Tar(output.stdout)]).expect(format);
        assert_eq!(summary.files, 6, "{format}");
        for name in ["two", &long, "only-hole", "to-the-end", "far", "plain"] {
            let (ours, theirs) = (site.root().join(name), source.path().join(name));
            let (ours, theirs) = (File::open(ours).unwrap(), File::open(theirs).unwrap());
            let (meta, expected) = (ours.metadata().unwrap(), theirs.metadata().unwrap());
            assert_eq!((meta.len(), meta.mtime()), (expected.len(), expected.mtime()), "{name}");
            // A hole takes no memory.
            assert!(meta.blocks() <= 60 * 2 * 8, "{format}: {name}: {} blocks", meta.blocks());
            let compared = if name == "far" { 8 << 30 } else { 0 };
            let rest = |file: &File| {
                let mut content = vec![0; usize::try_from(expected.len() - compared).unwrap()];
                file.read_exact_at(&mut content, compared).unwrap();
                content
            };
            assert!(rest(&ours) == rest(&theirs), "{format}: {name}: other content");
        }
    }
}

/// An entry of the old GNU format with these parts in its header.
fn gnu(parts: &[(u64, u64)], size: u64, content: &[u8]) -> Tar {
    gnu_raw(size, content, |header| {
        for (place, (offset, length)) in header.sparse.iter_mut().zip(parts) {
            place.offset = *octal(*offset).first_chunk().unwrap();
            place.numbytes = *octal(*length).first_chunk().unwrap();
        }
    })
}

fn gnu_raw(size: u64, content: &[u8], spoil: impl FnOnce(&mut ::tar::GnuHeader)) -> Tar {
    let mut tar = Tar::default();
    let item = Item { kind: b'S', name: b"s", content, ..Item::default() };
    tar.raw(&item, |header| {
        let gnu = header.as_gnu_mut().unwrap();
        gnu.realsize = *octal(size).first_chunk().unwrap();
        spoil(gnu);
    });
    tar.end().clone()
}

fn octal(number: u64) -> Vec<u8> {
    format!("{number:011o}\0").into_bytes()
}

fn pax(records: &[(&str, &[u8])], content: &[u8]) -> Tar {
    let mut tar = Tar::default();
    tar.pax(records).item(&Item { name: b"GNUSparseFile.1/s", content, ..Item::default() });
    tar.end().clone()
}

/// A map of the format 1.0 and the data behind it.
fn one_point_zero(map: &str, realsize: &str, data: &str) -> Tar {
    let mut content = map.as_bytes().to_vec();
    content.resize(content.len().next_multiple_of(512), 0);
    content.extend_from_slice(data.as_bytes());
    let records: [(&str, &[u8]); 4] = [
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"s"),
        ("GNU.sparse.realsize", realsize.as_bytes()),
    ];
    pax(&records, &content)
}

#[test]
fn a_map_says_where_the_data_belongs() {
    let ab = "f s=a\0\0b\0";
    for (label, tar, expected) in [
        ("old", gnu(&[(0, 1), (3, 1)], 5, b"ab"), ab),
        ("old, only a hole", gnu(&[], 3, b""), "f s=\0\0\0"),
        ("old, marked end", gnu(&[(0, 1), (3, 1), (5, 0)], 5, b"ab"), ab),
        ("1.0", one_point_zero("2\n0\n1\n3\n1\n", "5", "ab"), ab),
        ("1.0, only a hole", one_point_zero("0\n", "2", ""), "f s=\0\0"),
        (
            "0.1",
            pax(
                &[
                    ("GNU.sparse.size", b"5"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.name", b"s"),
                    ("GNU.sparse.map", b"0,1,3,1"),
                ],
                b"ab",
            ),
            ab,
        ),
        (
            "0.0",
            pax(
                &[
                    ("path", b"s"),
                    ("GNU.sparse.size", b"5"),
                    ("GNU.sparse.numblocks", b"2"),
                    ("GNU.sparse.offset", b"0"),
                    ("GNU.sparse.numbytes", b"1"),
                    ("GNU.sparse.offset", b"3"),
                    ("GNU.sparse.numbytes", b"1"),
                ],
                b"ab",
            ),
            ab,
        ),
    ] {
        assert_eq!(content_of(&tar).expect(label), [expected], "{label}");
    }
}

#[test]
fn a_map_that_does_not_fit_is_refused() {
    let many = |count: usize| {
        let map: String = (0..count).map(|n| format!("{}\n0\n", n * 2)).collect();
        one_point_zero(&format!("{count}\n{map}"), "9999999", "")
    };
    let records = |more: &[(&'static str, &'static [u8])]| {
        let mut all: Vec<(&str, &[u8])> =
            vec![("GNU.sparse.size", b"5"), ("GNU.sparse.numblocks", b"2")];
        all.extend(more);
        pax(&all, b"ab")
    };
    let map = |map: &'static [u8]| records(&[("GNU.sparse.map", map)]);
    for (label, tar, problem) in [
        ("overlap", gnu(&[(0, 2), (1, 1)], 5, b"abc"), "overlap"),
        ("descending", gnu(&[(3, 1), (0, 1)], 5, b"ab"), "overlap"),
        ("beyond the end", gnu(&[(0, 1), (5, 1)], 5, b"ab"), "shorter"),
        ("less data than parts", gnu(&[(0, 1), (3, 1)], 5, b"a"), "not that of its data"),
        ("more data than parts", gnu(&[(0, 1), (3, 1)], 5, b"abc"), "not that of its data"),
        (
            "overflow",
            one_point_zero("1\n9223372036854775807\n9223372036854775807\n", "5", "ab"),
            "shorter",
        ),
        ("negative", one_point_zero("1\n-1\n1\n", "5", "a"), "map of a sparse"),
        (
            "old, gap in the map",
            gnu_raw(5, b"a", |gnu| gnu.sparse[1].offset[0] = b'1'),
            "map of a sparse",
        ),
        (
            "old, extended without a block",
            {
                let mut tar = gnu_raw(5, b"", |gnu| gnu.isextended[0] = 1);
                tar.0.truncate(512);
                tar
            },
            "ends in the middle",
        ),
        ("old, negative size", gnu_raw(5, b"", |gnu| gnu.realsize = [0xff; 12]), "map of a sparse"),
        (
            "old, without a GNU header",
            {
                let mut tar = Tar::default();
                let item = Item { kind: b'S', name: b"s", ..Item::default() };
                tar.raw(&item, |h| h.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000"));
                tar.end().clone()
            },
            "unknown format",
        ),
        ("1.0, without a map", one_point_zero("", "5", "ab"), "map of a sparse"),
        ("1.0, cut map", one_point_zero("2\n0\n1\n", "5", ""), "map of a sparse"),
        ("1.0, absurd count", one_point_zero("9223372036854775807\n", "5", ""), "map of a sparse"),
        (
            "1.0, a line without end",
            one_point_zero(&"1".repeat(2 << 20), "5", ""),
            "too many parts",
        ),
        ("1.0, no number", one_point_zero("x\n", "5", ""), "map of a sparse"),
        ("1.0, too many", many(200_000), "too many parts"),
        ("1.0, no size", one_point_zero("0\n", "", ""), "map of a sparse"),
        ("0.1, one number too few", map(b"0,1,3"), "map of a sparse"),
        ("0.1, other count", map(b"0,1"), "map of a sparse"),
        ("0.1, words", map(b"0,1,3,x"), "map of a sparse"),
        ("no map at all", records(&[]), "map of a sparse"),
        (
            "0.0, out of turn",
            records(&[
                ("GNU.sparse.offset", b"0"),
                ("GNU.sparse.offset", b"3"),
                ("GNU.sparse.numbytes", b"1"),
                ("GNU.sparse.numbytes", b"1"),
            ]),
            "map of a sparse",
        ),
        ("another version", pax(&[("GNU.sparse.major", b"2")], b"ab"), "unknown format"),
        ("another record", pax(&[("GNU.sparse.name", b"other")], b"ab"), "map of a sparse"),
        (
            "on a directory",
            {
                let mut tar = Tar::default();
                tar.pax(&[("GNU.sparse.size", b"0"), ("GNU.sparse.numblocks", b"0")]);
                tar.item(&Item { kind: b'5', name: b"d", ..Item::default() }).end().clone()
            },
            "and is none",
        ),
        (
            "two maps",
            {
                let mut tar = Tar::default();
                tar.pax(&[("GNU.sparse.size", b"5"), ("GNU.sparse.numblocks", b"0")]);
                tar.0.extend(gnu(&[(0, 1)], 5, b"a").0);
                tar
            },
            "and is none",
        ),
        // CVE-2025-58183: a few bytes that claim to be 8 EiB.
        (
            "beyond any file",
            gnu_raw(0, b"", |gnu| gnu.realsize = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),
            "more than 16 TiB",
        ),
        (
            "beyond any number",
            gnu_raw(0, b"", |gnu| gnu.realsize = *b"\x80\0\0\0\x80\0\0\0\0\0\0\0"),
            "map of a sparse",
        ),
    ] {
        let error = error_of(&tar);
        assert!(error.contains(problem), "{label}: {error}");
    }
}

#[test]
fn many_small_parts_are_counted_as_what_they_take() {
    let map: String = (0..1000).map(|n| format!("{}\n1\n", n << 12)).collect();
    let tar = one_point_zero(&format!("1000\n{map}"), &(1000 << 12).to_string(), &"x".repeat(1000));
    for (bytes, fits) in [(4_000_000, false), (5_000_000, true)] {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let fd = File::open(dir.path()).unwrap();
        let result = expand(&tar.0[..], fd.as_fd(), &Limits { bytes, entries: 9 });
        assert_eq!(result.is_ok(), fits, "{bytes} bytes: {result:?}");
        let blocks = fs::metadata(dir.path().join("s")).map_or(0, |meta| meta.blocks());
        assert!(blocks * 512 <= bytes, "{blocks} blocks are in memory");
    }
}
