//! Odd headers, one by one and in pairs, as umoci reads them: by Go's archive/tar, which docker,
//! containerd, podman and most scanners use as well. SECURITY R10: whatever both take is the same
//! tree.

use super::{peers::umoci, *};

/// What becomes of an entry, what is odd about it, and how it is written under a name of its own.
type Dialect = (Agreed, &'static str, fn(&mut Tar, &str));

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Agreed {
    /// Both take it, and see the same.
    Both,
    /// Both refuse it.
    Neither,
    /// We refuse it, since other readers than Go's see something else.
    Theirs,
    /// umoci refuses it, for a reason that others do not have.
    Ours,
}
use Agreed::{Both, Neither, Ours, Theirs};

fn file(tar: &mut Tar, name: &str, spoil: impl FnOnce(&mut Header)) {
    let item = Item { name: name.as_bytes(), content: b"data", ..Item::default() };
    tar.raw(&item, spoil);
}

fn ustar(header: &mut Header) {
    header.as_mut_bytes()[257..265].copy_from_slice(b"ustar\x0000");
}

fn v7(header: &mut Header) {
    header.as_mut_bytes()[257..].fill(0);
}

fn pax(tar: &mut Tar, name: &str, records: &[(&str, &[u8])]) {
    tar.pax(records);
    file(tar, name, |_| {});
}

/// A PAX header of these very bytes.
fn raw_pax(tar: &mut Tar, name: &str, content: &[u8]) {
    tar.item(&Item { kind: b'x', name: b"pax", content, ..Item::default() });
    file(tar, name, |_| {});
}

fn empty(tar: &mut Tar, name: &str, kind: u8, size: u64) {
    let item = Item { kind, name: name.as_bytes(), link: b"to", ..Item::default() };
    tar.raw(&item, |header| header.set_size(size));
}

const DIALECTS: &[Dialect] = &[
    (Both, "ustar", |t, n| file(t, n, ustar)),
    (Both, "v7", |t, n| file(t, n, v7)),
    (Both, "ustar with a prefix", |t, n| {
        file(t, n, |h| {
            ustar(h);
            h.as_mut_bytes()[345..348].copy_from_slice(b"p/q");
        });
    }),
    (Both, "GNU with times where ustar has a prefix", |t, n| {
        file(t, n, |h| h.as_mut_bytes()[345..357].copy_from_slice(b"00000000001\0"))
    }),
    (Both, "v7 with rubbish where ustar has a prefix", |t, n| {
        file(t, n, |h| {
            v7(h);
            h.as_mut_bytes()[345..348].copy_from_slice(b"p/q");
        });
    }),
    (Both, "star with a short prefix", |t, n| {
        file(t, n, |h| {
            ustar(h);
            h.as_mut_bytes()[345..348].copy_from_slice(b"p/q");
            h.as_mut_bytes()[476..500].copy_from_slice(b"00000000001\x0000000000001\0");
            h.as_mut_bytes()[508..512].copy_from_slice(b"tar\0");
        });
    }),
    (Both, "a name that fills its field", |t, n| file(t, &format!("{n:x<100}"), |_| {})),
    (Both, "PAX path", |t, n| pax(t, "y", &[("path", n.as_bytes())])),
    (Both, "PAX path twice", |t, n| pax(t, "y", &[("path", b"no"), ("path", n.as_bytes())])),
    (Both, "PAX empty path", |t, n| pax(t, n, &[("path", b"")])),
    (Both, "PAX path and an empty one", |t, n| pax(t, n, &[("path", b"no"), ("path", b"")])),
    (Neither, "PAX NUL in path", |t, n| pax(t, n, &[("path", b"a\0b")])),
    (Both, "PAX NUL in another", |t, n| pax(t, n, &[("comment", b"a\0b")])),
    (Neither, "PAX NUL in a key", |t, n| pax(t, n, &[("com\0ment", b"ab")])),
    (Both, "PAX without records", |t, n| raw_pax(t, n, b"")),
    (Neither, "PAX cut", |t, n| raw_pax(t, n, b"10 path=a")),
    (Neither, "PAX without =", |t, n| raw_pax(t, n, b"8 pathx\n")),
    (Neither, "PAX of zeros", |t, n| raw_pax(t, n, &[0; 512])),
    (Both, "PAX length with zeros", |t, n| raw_pax(t, n, b"000011 a=b\n")),
    (Theirs, "PAX length with +", |t, n| raw_pax(t, n, b"+7 a=b\n")),
    (Neither, "PAX length with -", |t, n| raw_pax(t, n, b"-7 a=b\n")),
    (Both, "PAX = in the value", |t, n| raw_pax(t, n, b"11 a=b=c=d\n")),
    (Both, "PAX size", |t, n| pax(t, n, &[("size", b"4")])),
    (Both, "PAX size with zeros", |t, n| pax(t, n, &[("size", b"0004")])),
    (Neither, "PAX size with a blank", |t, n| pax(t, n, &[("size", b" 4")])),
    (Theirs, "PAX size with +", |t, n| pax(t, n, &[("size", b"+4")])),
    (Neither, "PAX size 0x4", |t, n| pax(t, n, &[("size", b"0x4")])),
    (Neither, "PAX size 4.0", |t, n| pax(t, n, &[("size", b"4.0")])),
    (Neither, "PAX size -0", |t, n| pax(t, n, &[("size", b"-4")])),
    (Both, "PAX empty size", |t, n| pax(t, n, &[("size", b"")])),
    (Both, "PAX size, another in the header", |t, n| {
        t.pax(&[("size", b"4")]);
        file(t, n, |h| h.set_size(0));
    }),
    (Both, "PAX size for a directory", |t, n| {
        t.pax(&[("size", b"512")]);
        empty(t, n, b'5', 0);
    }),
    (Both, "PAX mtime", |t, n| pax(t, n, &[("mtime", b"12.5")])),
    (Both, "PAX mtime 12.", |t, n| pax(t, n, &[("mtime", b"12.")])),
    (Neither, "PAX mtime .5", |t, n| pax(t, n, &[("mtime", b".5")])),
    (Both, "PAX mtime -1.5", |t, n| pax(t, n, &[("mtime", b"-1.5")])),
    (Both, "PAX mtime -0.5", |t, n| pax(t, n, &[("mtime", b"-0.5")])),
    (Neither, "PAX mtime 1e3", |t, n| pax(t, n, &[("mtime", b"1e3")])),
    (Both, "PAX empty mtime", |t, n| pax(t, n, &[("mtime", b"")])),
    (Ours, "PAX bad atime", |t, n| pax(t, n, &[("atime", b"x")])),
    (Both, "PAX uid", |t, n| pax(t, n, &[("uid", b"77777777777")])),
    (Ours, "PAX bad uid", |t, n| pax(t, n, &[("uid", b"x")])),
    (Both, "PAX linkpath", |t, n| {
        t.pax(&[("linkpath", b"else")]);
        empty(t, n, b'2', 0);
    }),
    (Theirs, "PAX twice", |t, n| {
        t.pax(&[("mtime", b"1")]);
        pax(t, n, &[("mtime", b"2")]);
    }),
    (Both, "GNU name", |t, n| {
        t.item(&Item { kind: b'L', name: b"L", content: n.as_bytes(), ..Item::default() });
        file(t, "y", |_| {});
    }),
    (Both, "GNU name, then PAX", |t, n| {
        t.item(&Item { kind: b'L', name: b"L", content: n.as_bytes(), ..Item::default() });
        pax(t, "y", &[("mtime", b"5")]);
    }),
    (Both, "PAX, then GNU name", |t, n| {
        t.pax(&[("mtime", b"5")]);
        t.item(&Item { kind: b'L', name: b"L", content: n.as_bytes(), ..Item::default() });
        file(t, "y", |_| {});
    }),
    (Theirs, "GNU and PAX names, two", |t, n| {
        t.item(&Item { kind: b'L', name: b"L", content: n.as_bytes(), ..Item::default() });
        pax(t, "y", &[("path", b"z")]);
    }),
    (Theirs, "GNU name twice", |t, n| {
        t.item(&Item { kind: b'L', name: b"L", content: b"z", ..Item::default() });
        t.item(&Item { kind: b'L', name: b"L", content: n.as_bytes(), ..Item::default() });
        file(t, "y", |_| {});
    }),
    (Both, "GNU link name", |t, n| {
        t.item(&Item { kind: b'K', name: b"K", content: b"else\0", ..Item::default() });
        empty(t, n, b'2', 0);
    }),
    (Both, "GNU name, empty", |t, n| {
        t.item(&Item { kind: b'L', name: b"L", content: b"\0", ..Item::default() });
        file(t, n, |_| {});
    }),
    (Both, "type NUL", |t, n| file(t, n, |h| h.as_old_mut().linkflag = [0])),
    (Both, "type NUL, a slash", |t, n| empty(t, &format!("{n}/"), 0, 0)),
    (Both, "type 0, a slash", |t, n| empty(t, &format!("{n}/"), b'0', 0)),
    (Ours, "contiguous", |t, n| file(t, n, |h| h.as_old_mut().linkflag = [b'7'])),
    (Both, "hard link that claims data", |t, n| {
        file(t, "to", |_| {});
        empty(t, n, b'1', 512);
    }),
    (Both, "symbolic link that claims data", |t, n| empty(t, n, b'2', 512)),
    (Both, "directory that claims data", |t, n| empty(t, n, b'5', 512)),
    (Both, "fifo that claims data", |t, n| empty(t, n, b'6', 512)),
    (Ours, "vendor's type", |t, n| file(t, n, |h| h.as_old_mut().linkflag = [b'A'])),
    (Ours, "volume label", |t, n| empty(t, n, b'V', 0)),
    (Ours, "global header", |t, n| {
        t.item(&Item { kind: b'g', name: b"g", content: b"9 path=x\n", ..Item::default() });
        file(t, n, |_| {});
    }),
    (Both, "size in blanks", |t, n| file(t, n, |h| h.as_old_mut().size = *b"          4 ")),
    (Both, "size without end", |t, n| file(t, n, |h| h.as_old_mut().size = *b"000000000004")),
    (Both, "size in base 256", |t, n| {
        file(t, n, |h| h.as_old_mut().size = *b"\x80\0\0\0\0\0\0\0\0\0\0\x04");
    }),
    (Both, "no size", |t, n| {
        let item = Item { name: n.as_bytes(), ..Item::default() };
        t.raw(&item, |h| h.as_old_mut().size = [0; 12]);
    }),
    (Both, "size with rubbish behind it", |t, n| {
        file(t, n, |h| h.as_old_mut().size = *b"00000000004\0")
    }),
    (Both, "size, NUL, rubbish", |t, n| file(t, n, |h| h.as_old_mut().size = *b"4\0rubbish\0\0\0")),
    (Neither, "size with a blank within", |t, n| {
        file(t, n, |h| h.as_old_mut().size = *b"0000 000004\0")
    }),
    (Both, "mode with the file's type", |t, n| file(t, n, |h| h.as_old_mut().mode = *b"0100640\0")),
    (Both, "mode in base 256", |t, n| {
        file(t, n, |h| h.as_old_mut().mode = *b"\x80\0\0\0\0\0\x01\xa0")
    }),
    (Both, "no mode", |t, n| file(t, n, |h| h.as_old_mut().mode = [0; 8])),
    (Both, "time before 1970", |t, n| file(t, n, |h| h.as_old_mut().mtime = [0xff; 12])),
    (Both, "no time", |t, n| file(t, n, |h| h.as_old_mut().mtime = [0; 12])),
    (Ours, "bad uid", |t, n| file(t, n, |h| h.as_old_mut().uid = *b"rubbish\0")),
];

/// The archive, of a layer or of none.
fn write(dialects: &[&Dialect]) -> Tar {
    let mut tar = Tar::default();
    for (index, dialect) in dialects.iter().enumerate() {
        let (_, _, write) = dialect;
        write(&mut tar, &format!("e{index}"));
    }
    tar.end().clone()
}

/// Compares what both make of an archive; returns who takes it.
fn compare(dialects: &[&Dialect]) -> Agreed {
    let tar = write(dialects);
    let labels: Vec<_> = dialects.iter().map(|(_, label, _)| *label).collect();
    let site = Site::new();
    match (site.apply(std::slice::from_ref(&tar)), umoci(&site, &[tar])) {
        (Ok(_), Ok(theirs)) => {
            assert_eq!(tell(&site.root()), theirs, "{labels:?}");
            let (mut ours, mut theirs) = (BTreeMap::new(), BTreeMap::new());
            times(&site.root(), Path::new(""), &mut ours);
            times(&site.base.path().join("bundle/rootfs"), Path::new(""), &mut theirs);
            assert_eq!(ours, theirs, "{labels:?}: times");
            Both
        }
        (Ok(_), Err(_)) => Ours,
        (Err(_), Ok(_)) => Theirs,
        (Err(_), Err(_)) => Neither,
    }
}

#[test]
fn odd_headers_are_read_as_go_reads_them() {
    if !peers::need("umoci") {
        return;
    }
    let mut wrong = Vec::new();
    for dialect in DIALECTS {
        let agreed = compare(&[dialect]);
        if agreed != dialect.0 {
            wrong.push((dialect.1, agreed));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // What one leaves behind must not change what the next one is.
    let good: Vec<_> = DIALECTS.iter().filter(|(agreed, ..)| *agreed == Both).collect();
    assert_eq!(compare(&good), Both);
    for (index, one) in good.iter().enumerate() {
        let others = good[index..].iter().flat_map(|other| [*one, *other]);
        assert_eq!(compare(&others.collect::<Vec<_>>()), Both, "{}", one.1);
    }
}
