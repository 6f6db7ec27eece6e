//! Names that lead upwards, to the root itself, or to nothing that a file system takes.

use super::*;

/// SECURITY R1, R2, R17.
#[test]
fn names_stay_in_the_tree() {
    check("names", |table| {
        let of_name = |name: &str| of(Layer::new().file(name, 0o644, "X"));
        let with = |pax: &[(&str, &[u8])]| {
            of(Layer::new().entry(&Entry { name: b"f", pax, ..Entry::default() }))
        };
        let spell = Entry {
            name: b"\x1b[2J\n\xff\\\xe2\x80\xae",
            kind: EntryType::Link,
            link: b"none",
            ..Entry::default()
        };
        let root = "the root must be a directory";
        vec![
            Case("absolute", table.image(["f /HOME/secret=X"]), Gives("f HOME/secret=X")),
            Case("upwards", table.image(["f UP/secret=X"]), Gives("f home/secret=X")),
            Case("down and up", table.image(["f a/../../../../../home/x=X"]), Gives("f home/x=X")),
            Case("dots", table.image(["f //.//a/./b//=X; f ...=Y"]), Gives("f ...=Y; f a/b=X")),
            Case(
                "modes of directories upwards",
                table.image(["d UP:0; d ..:700; d /HOME:777"]),
                Gives("d home; d HOME"),
            ),
            // The root itself (CVE-2021-29136).
            Case("no name", of_name(""), Refused(0, root)),
            Case("the root, a file", of_name("/"), Refused(0, root)),
            Case("the root, a link", table.image(["f a=X; l ./ -> /HOME"]), Refused(0, root)),
            Case("the root by .., a link", table.image(["l a/.. -> /HOME"]), Refused(0, root)),
            Case("the root, a hard link", table.image(["f a=X; h /. -> a"]), Refused(0, root)),
            Case("the root, a pipe", table.image(["p .."]), Refused(0, root)),
            Case("the root, a device", table.image(["c /; f a=X"]), Gives("f a=X")),
            Case("the upper root", table.image(["f a=X", "l /. -> /HOME"]), Refused(1, root)),
            // By its letters it is the link, and not what the link leads to.
            Case(
                "a link's dot",
                table.image(["l a -> ..", "l a/. -> /HOME"]),
                Gives("l a -> /HOME"),
            ),
            Case("a NUL", with(&[("path", b"a\0b")]), Refused(0, "a\\u{0}b: a NUL in a name")),
            Case(
                "a NUL in a link",
                with(&[("linkpath", b"a\0b")]),
                Refused(0, "f: a NUL in a name"),
            ),
            Case("a NUL ends an old name", of_name("a\0/../../x"), Gives("f a=X")),
            Case(
                "bytes that drive a terminal",
                of(Layer::new().entry(&spell)),
                Refused(0, r"\u{1b}[2J\n\xff\\\u{202e}: a hard link to a file that does not exist"),
            ),
            Case("long", of_name(&"x".repeat(256)), Refused(0, "xxx: file name too long")),
            Case("too long", of_name(&"d/".repeat(20_000)), Refused(0, "a name that is too long")),
        ]
    });
}
