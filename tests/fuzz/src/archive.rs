//! Tar archives in the making.

use tar::Header;

pub const BLOCK: usize = 512;

/// An archive.
#[derive(Debug, Clone, Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    /// Adds entries in the notation of the runtime's own tests: `d` directory, `f` file
    /// (`f PATH=CONTENT`), `l` symbolic link (`l PATH -> TARGET`), `h` hard link, `p` fifo,
    /// `c` device; `:MODE` after a path.
    pub fn notation(mut self, layer: &str) -> Tar {
        for entry in layer.split(';').map(str::trim).filter(|entry| !entry.is_empty()) {
            let (kind, rest) = entry.split_once(' ').expect("a type and a path");
            let (path, value) = match kind {
                "f" => rest.split_once('=').unwrap_or((rest, "")),
                "l" | "h" => rest.split_once(" -> ").expect("a link and its target"),
                _ => (rest, ""),
            };
            let (path, mode) = path.split_once(':').unwrap_or((path, ""));
            let mode = u32::from_str_radix(mode, 8).unwrap_or(0o755);
            let flag = match kind {
                "d" => b'5',
                "f" => b'0',
                "l" => b'2',
                "h" => b'1',
                "p" => b'6',
                "c" => b'3',
                other => panic!("type {other}"),
            };
            self = match flag {
                b'0' => self.entry(flag, path, "", mode, value.as_bytes()),
                _ => self.entry(flag, path, value, mode, b""),
            };
        }
        self
    }

    /// Adds an entry, with GNU's long names where it takes them.
    pub fn entry(self, flag: u8, name: &str, link: &str, mode: u32, content: &[u8]) -> Tar {
        let mut tar = self;
        for (flag, long) in [(b'L', name), (b'K', link)] {
            if long.len() > 100 {
                tar = tar.raw(flag, "././@LongLink", "", long.as_bytes(), |_| {});
            }
        }
        tar.raw(flag, name, link, content, |header| header.set_mode(mode))
    }

    /// Adds a header that something is done to before its checksum is made, and its data.
    pub fn raw(
        mut self,
        flag: u8,
        name: &str,
        link: &str,
        content: &[u8],
        change: impl FnOnce(&mut Header),
    ) -> Tar {
        let mut header = Header::new_gnu();
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, name), (&mut old.linkname, link)] {
            let text = &text.as_bytes()[..text.len().min(100)];
            field[..text.len()].copy_from_slice(text);
        }
        old.linkflag = [flag];
        header.set_mode(0o644);
        header.set_mtime(1_000_000);
        header.set_size(content.len() as u64);
        change(&mut header);
        header.set_cksum();
        self.0.extend_from_slice(header.as_bytes());
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// Adds PAX records for the next entry.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Tar {
        self.raw(b'x', "pax", "", &pax(records), |_| {})
    }

    /// The archive with its end.
    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

/// `LENGTH KEY=VALUE\n` records; the length counts itself.
pub fn pax(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let length = (1..).find(|n| rest + n.to_string().len() == *n).expect("a length fits");
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    content
}

/// One kind of archive each: what tools write, and what attackers have written.
pub fn samples() -> Vec<(Vec<u8>, bool)> {
    let tar = || Tar::default();
    let good = [
        tar().notation(
            "d etc; f etc/hostname:644=node; f bin/sh:4755=elf; l lib -> usr/lib; h sh -> bin/sh",
        ),
        tar().notation("f .wh.etc; f opaque/.wh..wh..opq; f lower/.wh.f; f .wh..wh.plnk/1=x"),
        tar().notation(
            "d lower:0; f lower/new=1; d closed:555; f closed/f=1; p fifo:622; c dev/null",
        ),
        tar().notation("f out/secret=gone; f up/f=gone; f cwd/secret=gone; h stolen -> out/secret"),
        tar().notation("l a -> b; l b -> /x; f a/f=1; l x/up -> ../../outside; f x/up/f=2"),
        tar().notation("f ../outside/f=1; f /proc/self/cwd/outside/f=1; f x/../../../outside/f=1"),
        tar().notation("h g -> lower/f; h k -> usr/lib/later; f usr/lib/later=2; h z -> g"),
        tar().notation("f f=1; f f=2; d f; f f/g=3; l f -> g; f f=4; h f -> f"),
        tar().notation("d lower; l lower -> ../outside; f lower/secret=1"),
        tar().entry(b'0', &"long/".repeat(30), "", 0o644, b"").entry(
            b'2',
            "l",
            &"../".repeat(60),
            0o777,
            b"",
        ),
        tar()
            .pax(&[("path", b"d/e"), ("mtime", b"-1.5"), ("size", b"3")])
            .entry(b'0', "x", "", 0o600, b"abc"),
        tar()
            .pax(&[("linkpath", b"lower/f"), ("comment", b"\n=\0")])
            .entry(b'1', "x", "y", 0o600, b""),
        tar()
            .pax(&[
                ("SCHILY.xattr.user.a", b"b\n\0"),
                ("SCHILY.xattr.user.overlay.opaque", b"y"),
                ("SCHILY.xattr.security.capability", b"x"),
            ])
            .entry(b'0', "x", "", 0o4755, b"1")
            .pax(&[("SCHILY.xattr.user.d", b"v")])
            .entry(b'5', "lower", "", 0o1777, b""),
        tar()
            .raw(b'g', "pax_global_header", "", &pax(&[("comment", b"commit")]), |_| {})
            .notation("f f=1"),
        tar()
            .raw(b'7', "contiguous", "", b"x", |_| {})
            .raw(0, "old/", "", b"", |_| {})
            .raw(b'V', "label", "", b"", |_| {})
            .raw(b'D', "dump", "", b"names", |_| {}),
        tar().raw(b'0', "big", "", b"1", |header| {
            header.as_old_mut().size = [0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
            header.as_old_mut().mtime = [0xff; 12];
        }),
        tar().raw(b'0', "ustar", "", b"1", |header| {
            let gnu = header.as_gnu_mut().expect("made as one");
            (gnu.magic, gnu.version) = (*b"ustar\0", *b"00");
            let ustar = header.as_ustar_mut().expect("made one");
            ustar.prefix[..4].copy_from_slice(b"deep");
        }),
        sparse_gnu(),
        tar()
            .pax(&[
                ("GNU.sparse.size", b"1024"),
                ("GNU.sparse.numblocks", b"1"),
                ("GNU.sparse.offset", b"512"),
                ("GNU.sparse.numbytes", b"3"),
            ])
            .entry(b'0', "sparse", "", 0o644, b"abc"),
        tar()
            .pax(&[
                ("GNU.sparse.size", b"1024"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.numblocks", b"2"),
                ("GNU.sparse.map", b"0,1,512,2"),
            ])
            .entry(b'0', "GNUSparseFile.1/s", "", 0o644, b"abc"),
        tar()
            .pax(&[
                ("GNU.sparse.major", b"1"),
                ("GNU.sparse.minor", b"0"),
                ("GNU.sparse.name", b"s"),
                ("GNU.sparse.realsize", b"1024"),
            ])
            .entry(b'0', "GNUSparseFile.1/s", "", 0o644, &sparse_map()),
    ];
    let other = [
        tar().notation("f /=1"),
        tar().notation("f .wh...=1; h r -> /"),
        tar().notation("f f=1; f f/g=2; h d -> lower"),
        tar().pax(&[("path", b"a")]).pax(&[("path", b"b")]).notation("f f"),
        tar().raw(b'0', "f", "", b"", |header| header.set_size(1 << 40)),
    ];
    let good = good.into_iter().map(|tar| (tar.end(), true));
    good.chain(other.into_iter().map(|tar| (tar.end(), false))).collect()
}

/// GNU's own form: four parts of the map in the header, and the last one in a block behind it.
fn sparse_gnu() -> Tar {
    let octal = |number: usize| <[u8; 12]>::try_from(format!("{number:011o}\0").as_bytes());
    let octal = |number| octal(number).expect("twelve digits");
    let mut more = [octal(4 * BLOCK), octal(1)].concat();
    more.resize(BLOCK, 0);
    more.extend_from_slice(b"abcde");
    Tar::default().raw(b'S', "sparse", "", &more, |header| {
        header.set_size(5);
        let gnu = header.as_gnu_mut().expect("made as one");
        for (part, number) in gnu.sparse.iter_mut().zip(0..) {
            (part.offset, part.numbytes) = (octal(number * BLOCK), octal(1));
        }
        gnu.isextended = [1];
        gnu.realsize = octal(4 * BLOCK + 1);
    })
}

/// PAX 1.0: the map is the first block of the data.
fn sparse_map() -> Vec<u8> {
    let mut data = b"1\n512\n3\n".to_vec();
    data.resize(BLOCK, 0);
    data.extend_from_slice(b"abc");
    data
}

/// What stands in archives and means something.
pub const WORDS: [&[u8]; 45] = [
    b".wh.",
    b".wh..wh..opq",
    b".wh..wh.plnk",
    b"../",
    b"..",
    b"/",
    b"./",
    b"//",
    b"lower",
    b"lower/f",
    b"lower/sub",
    b"out",
    b"up",
    b"abs",
    b"cwd",
    b"loop",
    b"file",
    b"usr/lib",
    b"lib",
    b"secret",
    b"outside",
    b"../outside",
    b"/proc/self/cwd/outside",
    b"/proc/self/root",
    b"ustar\0",
    b"ustar  \0",
    b"SCHILY.xattr.user.a",
    b"SCHILY.xattr.user.overlay.opaque",
    b"path",
    b"linkpath",
    b"size",
    b"mtime",
    b"GNU.sparse.map",
    b"GNU.sparse.name",
    b"GNU.sparse.major",
    b"GNU.sparse.minor",
    b"GNU.sparse.size",
    b"GNU.sparse.realsize",
    b"GNU.sparse.numblocks",
    b"GNU.sparse.offset",
    b"GNU.sparse.numbytes",
    b"11 path=a/b\n",
    b"././@LongLink",
    b"00000000000",
    b"77777777777",
];
