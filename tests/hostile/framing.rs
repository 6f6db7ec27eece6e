//! Archives that one reader takes for something else than another: sizes, extended headers, ends.

use super::*;
use fixtures::image::gzip;
use tar::Header;

/// A file whose content is one digit.
fn f() -> Entry<'static> {
    Entry { name: b"f", content: b"1", ..Entry::default() }
}

/// An image of that file, with another header.
fn spoilt(spoil: impl FnOnce(&mut Header)) -> Image {
    of(Layer::new().spoilt(&f(), spoil))
}

/// An image of that file, with another size in its header.
fn sized(field: [u8; 12]) -> Image {
    spoilt(|header| header.as_old_mut().size = field)
}

/// An image of that file, with these records before it.
fn with(pax: &[(&str, &[u8])]) -> Image {
    of(Layer::new().entry(&Entry { pax, ..f() }))
}

/// Eight exbibytes but one byte, in base 256.
const HUGE: [u8; 12] = *b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff";

/// These extended headers, and then a file.
fn headers(headers: &[(u8, &[u8])]) -> Image {
    let add = |layer: Layer, (kind, content): &(u8, &[u8])| {
        let kind = EntryType::new(*kind);
        layer.entry(&Entry { kind, name: b"header", content, ..Entry::default() })
    };
    of(headers.iter().fold(Layer::new(), add).file("a", 0o644, "A"))
}

/// SECURITY R9, R10.
#[test]
fn sizes_hide_no_entries() {
    check("sizes", |_| {
        // The data of `f`, whose size by the PAX record is two blocks, is an entry itself to those
        // who go by the header.
        let evil = Layer::new().file("evil", 0o644, "X").to_tar();
        let smuggle = |pax: &[(&str, &[u8])], content: &[u8], size: u64| {
            let entry = Entry { name: b"f", content, pax, ..Entry::default() };
            let layer = Layer::new().spoilt(&entry, |header| header.set_size(size));
            of(layer.file("a", 0o644, "A").file("f", 0o644, "F"))
        };
        let two_blocks: &[(&str, &[u8])] = &[("size", b"1024")];
        let without_data = |kind: EntryType, size: u64| {
            let entry = Entry { name: b"x", kind, link: b"a", ..Entry::default() };
            let layer = Layer::new().file("a", 0o644, "A");
            let layer = layer.spoilt(&entry, |header| header.set_size(size));
            of(layer.file("b", 0o644, "B"))
        };
        let (both, short) = ("f a=A; f f=F", "f: the archive ends in the middle");
        vec![
            Case("PAX alone (CVE-2025-62518)", smuggle(two_blocks, &evil[..1024], 0), Gives(both)),
            Case("both (CVE-2026-33055)", smuggle(two_blocks, &evil[..1024], 512), Gives(both)),
            Case("the header's is huge", smuggle(two_blocks, &evil[..1024], 1 << 32), Gives(both)),
            Case("PAX says nothing", smuggle(&[("size", b"0")], b"", 1024), Gives(both)),
            Case(
                "of a directory",
                without_data(EntryType::Directory, 512),
                Gives("f a=A; f b=B; d x"),
            ),
            Case(
                "of a link",
                without_data(EntryType::Symlink, 512),
                Gives("f a=A; f b=B; l x -> a"),
            ),
            Case(
                "of a hard link",
                without_data(EntryType::Link, 1024),
                Gives("f a=A; f b=B; h x -> a"),
            ),
            Case("of a pipe", without_data(EntryType::Fifo, 1 << 33), Gives("f a=A; f b=B; p x")),
            Case("of a device", without_data(EntryType::Char, 512), Gives("f a=A; f b=B")),
            Case("negative", sized([0xff; 12]), Refused(0, "f: a negative size")),
            Case("negative, PAX", with(&[("size", b"-1")]), Refused(0, "f: a negative size")),
            Case(
                "beyond 64 bits",
                sized(*b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
                Refused(0, "size"),
            ),
            Case(
                "beyond 64 bits, PAX",
                with(&[("size", b"99999999999999999999")]),
                Refused(0, "PAX size"),
            ),
            Case("8 EiB", sized(HUGE), Refused(0, ": f: ")),
            Case("8 EiB, PAX", with(&[("size", b"9223372036854775807")]), Refused(0, ": f: ")),
            Case("700 MiB that do not come", spoilt(|h| h.set_size(700 << 20)), Refused(0, short)),
            Case("no number", sized(*b"00000000009\0"), Refused(0, "size")),
            Case(
                "no number, mode",
                spoilt(|h| h.as_old_mut().mode = *b"rwxr-xr-"),
                Refused(0, "f: mode"),
            ),
            Case("no number, time", with(&[("mtime", b"now")]), Refused(0, "PAX mtime")),
        ]
    });
}

/// SECURITY R7, R9, R10.
#[test]
fn extended_headers_are_of_one_meaning() {
    check("headers", |_| {
        let (x, y): (&[u8], &[u8]) = (b"10 path=x\n", b"10 path=y\n");
        let record = "a malformed PAX record";
        let big = vec![b'x'; 2 << 20];
        let more = "an extended header of more than 1 MiB";
        let claimed = Entry { name: b"x", kind: EntryType::XHeader, ..Entry::default() };
        let claimed = Layer::new().spoilt(&claimed, |header| header.as_old_mut().size = HUGE);
        let xattrs: &[(&str, &[u8])] = &[
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.user.overlay.whiteout", b"y"),
            ("SCHILY.xattr.user.fuseoverlayfs.opaque", b"y"),
            ("SCHILY.xattr.security.capability", b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"),
            ("SCHILY.xattr.system.posix_acl_access", b"\x02\0\0\0"),
        ];
        vec![
            Case("one", headers(&[(b'x', x)]), Gives("f x=A")),
            Case("global", headers(&[(b'g', x)]), Gives("f a=A")),
            Case(
                "global, between",
                headers(&[(b'x', x), (b'g', y)]),
                Refused(0, "a global header between"),
            ),
            Case("PAX and GNU", headers(&[(b'x', x), (b'L', b"x\0")]), Gives("f x=A")),
            Case(
                "PAX or GNU",
                headers(&[(b'x', x), (b'L', b"y\0")]),
                Refused(0, "two different names"),
            ),
            Case(
                "GNU or PAX",
                headers(&[(b'L', b"y\0"), (b'x', x)]),
                Refused(0, "two different names"),
            ),
            Case(
                "two of PAX",
                headers(&[(b'x', x), (b'x', y)]),
                Refused(0, "two extended headers"),
            ),
            Case(
                "two of GNU",
                headers(&[(b'L', b"x"), (b'L', b"y")]),
                Refused(0, "two extended headers"),
            ),
            Case(
                "no entry",
                of(Layer::new().entry(&Entry {
                    kind: EntryType::XHeader,
                    name: b"x",
                    content: x,
                    ..Entry::default()
                })),
                Refused(0, "an extended header without an entry"),
            ),
            Case("a record too long", headers(&[(b'x', b"99 path=x\n")]), Refused(0, record)),
            Case("a record too short", headers(&[(b'x', b"5 path=x\n")]), Refused(0, record)),
            Case("a record of nothing", headers(&[(b'x', b"0 path=x\n")]), Refused(0, record)),
            Case("a record of -1", headers(&[(b'x', b"-1 path=x\n")]), Refused(0, record)),
            Case(
                "a record beyond 64 bits",
                headers(&[(b'x', b"99999999999999999999 path=x\n")]),
                Refused(0, record),
            ),
            Case("2 MiB of PAX", headers(&[(b'x', &big)]), Refused(0, more)),
            Case("2 MiB of GNU name", headers(&[(b'L', &big)]), Refused(0, more)),
            Case("2 MiB of GNU link", headers(&[(b'K', &big)]), Refused(0, more)),
            Case("8 EiB of PAX", of(claimed), Refused(0, more)),
            Case(
                "attributes that the kernel would believe",
                of(Layer::new().entry(&Entry { pax: xattrs, ..f() }).entry(&Entry {
                    pax: xattrs,
                    kind: EntryType::Directory,
                    name: b"d",
                    ..Entry::default()
                })),
                Gives("f f=1; d d"),
            ),
        ]
    });
}

/// SECURITY R10, R11.
#[test]
fn an_archive_is_whole_or_refused() {
    check("archives", |table| {
        // A header, and two blocks of data.
        let whole = Layer::new().file("a", 0o644, [b'A'; 600]).to_tar();
        let cut = |at: usize| of_bytes(&whole[..at]);
        let sound = || Layer::new().file("a", 0o644, "A");
        let mut wrong = sound().to_tar();
        wrong[0] = b'b';
        let checksum = "a header whose checksum is wrong";
        let ends = "a: the archive ends in the middle";
        vec![
            Case("checksum", of_bytes(gzip(&wrong)), Refused(0, checksum)),
            Case(
                "checksum of the second",
                of(sound().raw(&wrong)),
                Refused(0, "a: a header whose"),
            ),
            Case("no archive", of_bytes(gzip(&[7; 2000])), Refused(0, checksum)),
            Case(
                "no archive, a word",
                of_bytes(*b"not an archive"),
                Refused(0, "ends in the middle"),
            ),
            Case("cut in a header", cut(100), Refused(0, "the archive ends in the middle")),
            Case("cut in the data", cut(600), Refused(0, ends)),
            Case("cut in the padding", cut(1500), Refused(0, ends)),
            Case(
                "cut in a header, later",
                of_bytes(&sound().file("b", 0o644, "").to_tar()[..1100]),
                Refused(0, ends),
            ),
            Case(
                "an entry after zeros",
                of(sound().raw(&[0; 512]).file("b", 0o644, "")),
                Refused(0, "a: a header after a zero block"),
            ),
            // The end need not be there, and what follows it is nothing.
            Case("no end", of_bytes(&sound().to_tar()[..1024]), Gives("f a=A")),
            Case("half an end", of_bytes(&sound().to_tar()[..1536]), Gives("f a=A")),
            Case(
                "an archive after it",
                of(sound().raw(&[0; 1024]).file("evil", 0o644, "X")),
                Gives("f a=A"),
            ),
            Case(
                "garbage after it",
                of_bytes([&sound().to_tar()[..], b"garbage"].concat()),
                Gives("f a=A"),
            ),
            Case("nothing", of_bytes(*b""), Gives("")),
            Case(
                "other kinds",
                {
                    let kinds = [b'V', b'M', b'D', b'?', 0xff];
                    of(kinds.iter().fold(sound(), |layer, kind| {
                        layer.entry(&Entry {
                            kind: EntryType::new(*kind),
                            name: b"b",
                            content: b"12",
                            ..Entry::default()
                        })
                    }))
                },
                Gives("f a=A"),
            ),
            Case("an old directory", table.image(["d d/"]), Gives("d d")),
        ]
    });
}
