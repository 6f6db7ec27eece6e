//! What is an archive, and what is none.

use super::*;

/// SECURITY R10, R11.
#[test]
fn framing_is_read_as_go_reads_it() {
    let a = || Item { name: b"a", content: b"data", ..Item::default() };
    let b = || Item { name: b"b", content: b"B", ..Item::default() };
    let told = |tar: &Tar| content_of(tar).expect("a good archive").join("; ");

    // PAX size wins over the header's, be that zero or not (CVE-2025-62518, CVE-2026-33055).
    for header_size in [0, 3, 1 << 40] {
        let mut tar = Tar::default();
        tar.pax(&[("size", b"4")]).raw(&a(), |h| h.set_size(header_size)).item(&b()).end();
        assert_eq!(told(&tar), "f a=data; f b=B", "header size {header_size}");
    }
    // What carries no data has none, whatever size it claims.
    for kind in [b'1', b'2', b'3', b'5', b'6'] {
        let mut tar = Tar::default();
        tar.item(&b());
        let item = Item { kind, name: b"x", link: b"b", ..Item::default() };
        tar.raw(&item, |h| h.set_size(512)).item(&a()).end();
        assert!(told(&tar).starts_with("f a=data; f b=B"), "type {}", char::from(kind));
    }
    // Global headers are ignored, size and all.
    let mut tar = Tar::default();
    let global = Item { kind: b'g', name: b"g", content: b"13 path=evil\n", ..Item::default() };
    tar.item(&global).item(&a()).end();
    assert_eq!(told(&tar), "f a=data");
    // Extended headers wait for the next real entry.
    let mut tar = Tar::default();
    let long = "d/".repeat(70) + "f";
    tar.pax(&[("mtime", b"5.5")]);
    tar.item(&Item { name: long.as_bytes(), ..a() }).end();
    let lines = content_of(&tar).expect("long name");
    assert_eq!(lines.last().map(String::as_str), Some(&*format!("f {long}=data")));
    // Two names for one entry are refused unless they are one.
    let mut tar = Tar::default();
    let l = |content| Item { kind: b'L', name: b"L", content, ..Item::default() };
    tar.pax(&[("path", b"x")]).item(&l(b"y\0")).item(&a()).end();
    assert!(error_of(&tar).contains("two different names"));
    let mut tar = Tar::default();
    tar.pax(&[("path", b"y")]).item(&l(b"y\0")).item(&a()).end();
    assert_eq!(told(&tar), "f y=data");
    // Old archives: a file whose name ends in a slash.
    let mut tar = Tar::default();
    tar.item(&Item { kind: 0, name: b"d/", mode: 0o755, ..Item::default() });
    tar.item(&Item { kind: 0, ..a() }).end();
    assert_eq!(told(&tar), "f a=data; d d");
    // The end: missing, half, and followed by what is no entry.
    let mut tar = Tar::default();
    tar.item(&a());
    assert_eq!(told(&tar), "f a=data");
    tar.0.resize(tar.0.len() + 512, 0);
    assert_eq!(told(&tar), "f a=data");
    tar.0.resize(tar.0.len() + 512, 0);
    tar.item(&b()).0.extend_from_slice(b"and garbage");
    assert_eq!(told(&tar), "f a=data");
    assert_eq!(told(&Tar::default()), "");
    // A prefix belongs to the name in ustar headers only.
    let mut tar = Tar::default();
    tar.raw(&a(), |h| {
        let bytes = h.as_mut_bytes();
        bytes[257..265].copy_from_slice(b"ustar\x0000");
        bytes[345..348].copy_from_slice(b"p/q");
    });
    assert_eq!(told(tar.end()), "d p; d p/q; f p/q/a=data");
}

/// SECURITY R10: malformed is an error, not skipped; R9: extended headers end at 1 MiB.
#[test]
fn malformed_archives_are_refused() {
    let a = || Item { name: b"a", content: b"data", ..Item::default() };
    let spoilt = |spoil: &dyn Fn(&mut Header)| {
        let mut tar = Tar::default();
        tar.raw(&a(), |h| spoil(h)).end().clone()
    };
    let with = |kind, content: &[u8]| {
        let mut tar = Tar::default();
        tar.item(&Item { kind, name: b"x", content, ..Item::default() }).item(&a()).end().clone()
    };
    let good = layer("f a=data");
    let cut = |at: usize| Tar(good.0[..at].to_vec());
    let mut checksum = good.clone();
    checksum.0[0] = b'b';
    let mut zero = Tar(vec![0; 512]);
    zero.item(&a());
    let mut twice = Tar::default();
    twice.pax(&[("mtime", b"1")]).pax(&[("mtime", b"1")]).item(&a()).end();
    for (label, tar, problem) in [
        ("cut in a header", cut(100), "ends in the middle"),
        ("cut in the data", cut(514), "ends in the middle"),
        ("cut in the padding", cut(600), "ends in the middle"),
        ("checksum", checksum, "checksum"),
        ("zero block", zero, "after a zero block"),
        ("no archive", Tar(vec![b'x'; 2048]), "checksum"),
        ("bad size", spoilt(&|h| h.as_old_mut().size = *b"00000000009\0"), "size"),
        ("negative size", spoilt(&|h| h.as_old_mut().size = [0xff; 12]), "a negative size"),
        (
            "absurd size",
            spoilt(&|h| h.as_old_mut().size = *b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
            "size",
        ),
        (
            "size of 8 EiB",
            spoilt(&|h| h.as_old_mut().size = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff"),
            "bytes",
        ),
        ("bad mode", spoilt(&|h| h.as_old_mut().mode = *b"rwxr-xr-"), "mode"),
        ("PAX without length", with(b'x', b"path=b\n"), "PAX record"),
        ("PAX too long", with(b'x', b"99 path=b\n"), "PAX record"),
        ("PAX too short", with(b'x', b"8 path=b\n"), "PAX record"),
        ("PAX without line end", with(b'x', b"9 path=bc"), "PAX record"),
        ("PAX without key", with(b'x', b"5 =b\n"), "PAX record"),
        ("PAX negative size", with(b'x', b"11 size=-1\n"), "a negative size"),
        ("PAX bad size", with(b'x', b"11 size=0x\n"), "PAX size"),
        ("PAX bad time", with(b'x', b"13 mtime=1.x\n"), "PAX mtime"),
        ("PAX NUL", with(b'x', b"12 path=b\0c\n"), "NUL"),
        ("PAX twice", twice, "two extended headers"),
        (
            "PAX without entry",
            Tar(with(b'x', b"9 path=b\n").0[..1024].to_vec()),
            "without an entry",
        ),
        ("PAX of 2 MiB", with(b'L', &vec![b'x'; 2 << 20]), "more than 1 MiB"),
        (
            "PAX of 8 EiB",
            {
                let mut tar = Tar::default();
                let item = Item { kind: b'x', name: b"x", ..Item::default() };
                tar.raw(&item, |h| h.set_size(i64::MAX as u64)).item(&a()).end().clone()
            },
            "more than 1 MiB",
        ),
        ("long name", with(b'L', &vec![b'x'; 40 << 10]), "too long"),
    ] {
        let error = error_of(&tar);
        assert!(error.contains(problem), "{label}: {error}");
    }
    let error = error_of(&layer("h \x1b[2Jx -> nothing"));
    assert!(!error.contains('\x1b'), "a name reached the terminal: {error:?}");
}

/// SECURITY R9: bytes and entries.
#[test]
fn limits_hold() {
    let with = |tar: &Tar, limits| {
        let dir = tempfile::tempdir().unwrap();
        let fd = File::open(dir.path()).unwrap();
        expand(&tar.0[..], fd.as_fd(), &limits).map_err(|error| error.to_string())
    };
    let bytes = |tar: &Tar, bytes| with(tar, Limits { bytes, entries: 9 });
    let tar = layer("f a=12345; d b; f c/d/e=1");
    for (entries, problem) in [
        (5, None),
        (4, Some("c/d/e: the layer has more than 4 entries")),
        (2, Some("c/d/e: the layer has more than 2 entries")),
        (1, Some("b: the layer has more than 1 entries")),
    ] {
        let result = with(&tar, Limits { bytes: 1 << 20, entries });
        assert_eq!(result.err().as_deref(), problem, "{entries} entries");
    }
    // Five headers and files, two zero blocks. Everything counts: it all takes time to inflate.
    let length = tar.0.len() as u64;
    bytes(&tar, length).expect("just enough");
    bytes(&tar, length - 1).expect_err("one byte too many");
    // Before anything is read: the size that an entry claims.
    let mut claims = Tar::default();
    let item = Item { name: b"big", ..Item::default() };
    claims.raw(&item, |header| header.set_size(1 << 40));
    let error = bytes(&claims, 1 << 20).expect_err("a big file");
    assert_eq!(error, "big: the uncompressed layer has more than 1048576 bytes");
    for kind in [b'g', b'V'] {
        let mut tar = Tar::default();
        tar.raw(&Item { kind, name: b"x", ..Item::default() }, |h| h.set_size(1 << 30));
        let error = bytes(&tar, 1 << 20).expect_err("a big header");
        assert!(error.contains("more than 1048576 bytes"), "{error}");
    }
    // What follows the archive counts as well.
    let mut tail = layer("f a=1");
    tail.0.resize(1 << 20, 0);
    bytes(&tail, 1 << 20).expect("just enough");
    bytes(&tail, (1 << 20) - 1).expect_err("zeros without an end");
    // Directories that are made on the way count as well.
    let dir = tempfile::tempdir().unwrap();
    let deep = layer(&format!("f {}f=1", "d/".repeat(2000)));
    let limits = Limits { bytes: 1 << 20, entries: 1000 };
    let fd = File::open(dir.path()).unwrap();
    expand(&deep.0[..], fd.as_fd(), &limits).expect_err("too many directories");
}

/// SECURITY R9: what leaves no file counts as well.
#[test]
fn whiteouts_cannot_fill_the_memory() {
    let tar = layer("f .wh.a; f .wh.b; f .wh.c");
    let dir = tempfile::tempdir().unwrap();
    let fd = File::open(dir.path()).unwrap();
    expand(&tar.0[..], fd.as_fd(), &Limits { bytes: 1 << 20, entries: 2 })
        .expect_err("three of two");
}

/// SECURITY R11.
#[test]
fn the_whole_stream_is_read_and_its_errors_pass() {
    struct Broken(usize);
    impl Read for Broken {
        fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
            let count = room.len().min(self.0);
            room[..count].fill(0);
            self.0 -= count;
            if count == 0 { Err(io::Error::other("digest mismatch")) } else { Ok(count) }
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let fd = File::open(dir.path()).unwrap();
    let stream = io::BufReader::new(Broken(1 << 20));
    let error = expand(stream, fd.as_fd(), &Limits::default()).expect_err("digest");
    assert!(matches!(&error, Error::Read(e) if e.to_string() == "digest mismatch"), "{error}");
}

/// SECURITY R27.
#[test]
fn a_full_file_system_is_told_apart() {
    let full = |errno| failed::<nix::errno::Errno>("write", b"a")(errno).is_no_space();
    assert!(full(nix::errno::Errno::ENOSPC) && full(nix::errno::Errno::EDQUOT));
    assert!(!full(nix::errno::Errno::EIO));
}

/// SECURITY R29, in small.
#[test]
fn spoilt_archives_do_no_harm() {
    let mut good = Tar::default();
    good.pax(&[("mtime", b"1.5"), ("SCHILY.xattr.user.a", b"b"), ("path", b"d/e")]);
    good.notation("f x=1").notation("d d; f d/f=12; l l -> d; h h -> d/f; p p; f d/.wh.x; f l/y=2");
    good.item(&Item { name: "n/".repeat(80).as_bytes(), kind: b'5', ..Item::default() }).end();
    // Knuth's MMIX generator, the same numbers on every run; its upper bits are the random ones.
    let mut state = 1_u64;
    let mut below = |bound: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % bound
    };
    let mut taken = 0;
    for _ in 0..500 {
        let mut tar = good.clone();
        for _ in 0..1 + below(3) {
            let at = below(tar.0.len());
            tar.0[at] = [0, 1, b'0', b'7', b'/', b'.', b' ', b'x', 0x80, 0xff][below(10)];
            // A checksum that holds lets the change through to what it is meant for.
            let block = at / 512 * 512;
            let mut header = Header::from_byte_slice(&tar.0[block..block + 512]).clone();
            if header.as_ustar().is_some() || header.as_gnu().is_some() {
                header.set_cksum();
                tar.0[block..block + 512].copy_from_slice(header.as_bytes());
            }
        }
        taken += u32::from(Site::new().apply(&[layer("d x; l d -> x"), tar]).is_ok());
    }
    assert!(taken > 50, "only {taken} were taken: the changes are too coarse");
}

/// Layers are expanded on threads, and merged on another.
#[test]
fn layers_cross_threads() {
    fn crosses<T: Send>() {}
    crosses::<Expanded>();
    crosses::<Tree>();
    crosses::<Error>();
}
