//! Links out of the tree, and entries that go through them, be they of an earlier entry or of an
//! earlier layer.

use super::*;

/// SECURITY R1, R3, R4, R6.
#[test]
fn symbolic_links_lead_nowhere_but_into_the_tree() {
    check("links", |table| {
        vec![
            Case(
                "absolute, then through it",
                table.image(["l e -> /HOME; f e/secret=X; d e/sub:0"]),
                Gives("l e -> /HOME; f HOME/secret=X; d HOME/sub"),
            ),
            Case(
                "upwards, then through it",
                table.image(["l e -> UP; f e/secret=X; d e/sub:0"]),
                Gives("l e -> ../../../../home; f home/secret=X; d home/sub"),
            ),
            Case(
                "absolute, of a lower layer",
                table.image(["l e -> /HOME", "f e/secret=X; d e/sub:0"]),
                Gives("l e -> /HOME; f HOME/secret=X; d HOME/sub"),
            ),
            Case(
                "upwards, of a lower layer",
                table.image(["d a; l a/e -> UP", "f a/e/secret=X; d a/e/sub:0"]),
                Gives("l a/e -> ../../../../home; f home/secret=X; d home/sub"),
            ),
            Case(
                "of a lower layer, met in the middle one",
                table.image(["l e -> /HOME", "d e/sub:0", "f e/sub/f=X"]),
                Gives("l e -> /HOME; f HOME/sub/f=X"),
            ),
            Case(
                "two, each inside by its letters (CVE-2026-26960)",
                table.image(["d a; l a/b -> ..; l c -> a/b/..; f c/home/x=X"]),
                Gives("l a/b -> ..; l c -> a/b/..; f home/x=X"),
            ),
            Case(
                "a directory that became a link (CVE-2021-32803)",
                table.image(["d a; f a/1=1; l a -> /HOME; f a/2=2"]),
                Gives("l a -> /HOME; f HOME/2=2"),
            ),
            Case(
                "a link that became another",
                table.image(["l a -> b; f a/1=1; l a -> /HOME; f a/secret=2"]),
                Gives("l a -> /HOME; f b/1=1; f HOME/secret=2"),
            ),
            Case("the last name", table.image(["l e -> /HOME/secret; f e=X"]), Gives("f e=X")),
            Case("the lower name", table.image(["l e -> /HOME/secret", "f e=X"]), Gives("f e=X")),
            Case("a pipe over it", table.image(["l e -> /HOME/secret", "p e"]), Gives("p e")),
            Case(
                "a directory's mode through it (CVE-2021-32760)",
                table.image(["l e -> /HOME; d e:0", "d e:777"]),
                Gives("d e"),
            ),
            Case("a lower one", table.image(["l e -> /HOME", "d e:0"]), Gives("d e")),
            Case(
                "by /proc",
                table.image([
                    "l c -> /proc/self/cwd; f c/secret=X",
                    "l r -> /proc/self/root; f r/HOME/secret=X",
                    "l d -> /proc/self/fd/3; f d/x=X",
                ]),
                Gives(
                    "l c -> /proc/self/cwd; f proc/self/cwd/secret=X; \
                     l r -> /proc/self/root; f proc/self/root\
                     /HOME/secret=X; \
                     l d -> /proc/self/fd/3; f proc/self/fd/3/x=X",
                ),
            ),
            Case(
                "in a circle",
                table.image(["l a -> b; l b -> a; f a/x=X"]),
                Refused(0, "a/x: its directory leads through too many symbolic links"),
            ),
            Case(
                "in a circle of two layers",
                table.image(["l a -> b", "l b -> a", "d a/x/y"]),
                Refused(2, "a: its directory leads through too many symbolic links"),
            ),
            Case(
                "below a file",
                table.image(["f a=X; f a/b=Y"]),
                Refused(0, "a/b: lies below something that is not a directory"),
            ),
            Case(
                "below a lower file",
                table.image(["f a=X", "f a/b=Y"]),
                Refused(1, "a: lies below something that is not a directory"),
            ),
            Case(
                "below a link to a pipe",
                table.image(["p a; l b -> a; f b/c=Y"]),
                Refused(0, "b/c: lies below something that is not a directory"),
            ),
            Case(
                "devices, and what is below",
                table.image(["c dev/mem; b dev/sda; f dev/null=X"]),
                Gives("f dev/null=X"),
            ),
        ]
    });
}

/// SECURITY R5.
#[test]
fn hard_links_name_only_what_is_in_the_tree() {
    check("hard-links", |table| {
        let none = "h: a hard link to a file that does not exist";
        let directory = "h: a hard link to a directory";
        vec![
            Case("absolute", table.image(["h h -> /HOME/secret"]), Refused(0, none)),
            Case("upwards", table.image(["h h -> UP/secret"]), Refused(0, none)),
            Case("of an upper layer", table.image(["f a=X", "h h -> UP/secret"]), Refused(1, none)),
            Case(
                "through a link",
                table.image(["l e -> /HOME; h h -> e/secret"]),
                Refused(0, none),
            ),
            Case("a lower link", table.image(["l e -> UP", "h h -> e/secret"]), Refused(1, none)),
            Case("by /proc", table.image(["l e -> /proc/self/cwd; h h -> e/f"]), Refused(0, none)),
            Case(
                "through a link, and replaced",
                table.image(["l e -> /HOME; h h -> e/secret; f h=X"]),
                Gives("l e -> /HOME; f h=X"),
            ),
            Case(
                "to a link, then written to",
                table.image(["l e -> /HOME/secret; h h -> e; f h=X", "f e=Y"]),
                Gives("f e=Y; f h=X"),
            ),
            Case(
                "to a lower link, then through it",
                table.image(["l e -> /HOME", "h h -> e", "f h/x=X"]),
                Gives("l e -> /HOME; h h -> e; f HOME/x=X"),
            ),
            Case(
                "to the root",
                table.image(["h h -> .."]),
                Refused(0, "h: a hard link to the root"),
            ),
            Case("to a directory", table.image(["d d; h h -> d"]), Refused(0, directory)),
            Case("to a lower directory", table.image(["d d", "h h -> d"]), Refused(1, directory)),
            Case("to itself", table.image(["h h -> h"]), Refused(0, none)),
            Case(
                "to a lower file, with entries below",
                table.image(["f a=X", "h h -> a; f h/x=Y"]),
                Refused(1, "h: a hard link with entries below it"),
            ),
        ]
    });
}
