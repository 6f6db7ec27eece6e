//! Whiteouts that would remove more than a lower entry of their own directory.

use super::*;

/// SECURITY R1, R8.
#[test]
fn whiteouts_remove_nothing_but_lower_entries() {
    check("whiteouts", |table| {
        let both = |upper: &str| table.image(["d d; f d/x=1; f f=1", upper]);
        // A lower layer that has a link besides.
        let link = |target: &str, upper: &str| {
            table.image([&format!("d d; f d/x=1; l e -> {target}"), upper])
        };
        let none = "a whiteout of no name";
        let (all, kept) = ("f d/x=1; f f=1", "f d/x=1; l e -> /HOME");
        vec![
            Case("of no name", both("f .wh.="), Refused(1, ".wh.: a whiteout of no name")),
            Case("of no name, deeper", both("f d/.wh.="), Refused(1, "d/.wh.: a whiteout of no")),
            Case("of the directory", both("f d/.wh..="), Refused(1, "d/.wh..: a whiteout of no")),
            Case("of the one above", both("f d/.wh...="), Refused(1, "d/.wh...: a whiteout of no")),
            Case("above the root", both("f .wh...="), Refused(1, ".wh...: a whiteout of no name")),
            Case("above, a directory", both("d d/.wh..."), Refused(1, none)),
            Case("above, a link", both("l d/.wh... -> x"), Refused(1, none)),
            Case("above, a hard link", both("h d/.wh... -> f"), Refused(1, none)),
            Case("above, a device", both("c d/.wh..."), Refused(1, none)),
            Case("above, in a whiteout's directory", both("f .wh.d/.wh...="), Refused(1, none)),
            Case(
                "of names that are almost so",
                table.image(["d d; f ....=1; f d/ =1", "f .wh.....=; f d/.wh. ="]),
                Gives("d d"),
            ),
            Case("upwards", both("f UP/.wh.secret=; f d/../../../.wh.home="), Gives(all)),
            Case("absolute", both("f /HOME/.wh.secret="), Gives(all)),
            Case("opaque upwards", both("f UP/.wh..wh..opq=; f /HOME/.wh..wh..opq="), Gives(all)),
            Case(
                "through a lower link",
                link("/HOME", "f e/.wh.secret=; d e/.wh.sub"),
                Gives(kept),
            ),
            Case(
                "through a lower link upwards",
                link("UP", "f e/.wh.secret=; f e/sub/.wh..wh..opq="),
                Gives("f d/x=1; l e -> ../../../../home"),
            ),
            Case(
                "through a link of its own",
                table.image(["d d; f d/x=1", "l e -> /HOME; f e/.wh.secret=; f e/.wh..wh..opq="]),
                Gives(kept),
            ),
            Case("opaque through a link", link("/HOME", "f e/.wh..wh..opq="), Gives(kept)),
            Case(
                "by /proc",
                link("/proc/self/cwd", "f e/.wh.f="),
                Gives("f d/x=1; l e -> /proc/self/cwd"),
            ),
            // What a link leads to in the tree is the tree's.
            Case("inside", link("/d", "f e/.wh.x="), Gives("d d; l e -> /d")),
            Case("opaque, inside", link("/d", "f e/.wh..wh..opq="), Gives("d d; l e -> /d")),
            Case("of the link itself", link("/HOME", "f .wh.e="), Gives("f d/x=1")),
            Case("of a link inside", link("d", "f .wh.e="), Gives("f d/x=1")),
            Case(
                "where the lower link becomes a directory",
                link("/HOME", "d e; f e/.wh.secret=; f e/.wh..wh..opq="),
                Gives("f d/x=1; d e"),
            ),
            Case("opaque, of the root", both("f n=2; f .wh..wh..opq="), Gives("f n=2")),
            Case(
                "of its own layer's",
                both("f f=2; f .wh.f=; f d/.wh..wh..opq="),
                Gives("d d; f f=2"),
            ),
            // The name removes; what is below it is an entry like any other.
            Case("with entries below", both("d .wh.d; f .wh.d/y=2"), Gives("f .wh.d/y=2; f f=1")),
            Case("of aufs' own", both("f .wh..wh.plnk/1.2=x; f .wh..wh.aufs="), Gives(all)),
        ]
    });
}
