//! A few kilobytes that would fill the node.

use super::*;
use fixtures::image::{gzip, zstd};

/// Zeros that a piece of a bomb inflates to, in bytes.
const PIECE: usize = 64 << 20;
/// What a small layer may hold, in bytes.
const ALLOWED: usize = 1 << 30;

/// These bytes, and then zeros: more than a layer may hold.
fn bomb(pack: fn(&[u8]) -> Vec<u8>, begin: &[u8]) -> Image {
    let zeros = pack(&vec![0; PIECE]);
    let mut packed = pack(begin);
    for _ in 0..=ALLOWED / PIECE {
        packed.extend_from_slice(&zeros);
    }
    of_bytes(packed)
}

/// The header of an entry that claims so many bytes.
fn header(kind: EntryType, size: u64) -> Vec<u8> {
    let entry = Entry { name: b"big", kind, ..Entry::default() };
    Layer::new().spoilt(&entry, |header| header.set_size(size)).to_tar()[..512].to_vec()
}

/// SECURITY R9.
#[test]
fn a_layer_grows_to_what_its_size_allows() {
    check("bombs", |_| {
        let big = 1_200_000_000;
        let file = header(EntryType::Regular, big);
        let sound = Layer::new().file("a", 0o644, "A").to_tar();
        let says = "big: the uncompressed layer has more than 1073741824 bytes";
        let metadata: Vec<u8> = header(EntryType::XGlobalHeader, 1 << 20);
        let globals = [metadata, vec![b' '; 1 << 20]].concat();
        vec![
            Case("gzip", bomb(gzip, &file), Refused(0, says)),
            Case("zstd", bomb(zstd, &file), Refused(0, says)),
            Case(
                "what is passed over",
                bomb(zstd, &header(EntryType::new(b'V'), big)),
                Refused(0, says),
            ),
            Case("after the end", bomb(zstd, &sound), Refused(0, "a: the uncompressed layer has")),
            Case(
                "after the end, gzip",
                bomb(gzip, &sound),
                Refused(0, "it looks like a decompress"),
            ),
            Case(
                "many headers",
                of_bytes(zstd(&globals).repeat(1 + ALLOWED / globals.len())),
                Refused(0, "more than 1073741824 bytes"),
            ),
            Case("a claim and nothing else", of_bytes(zstd(&file)), Refused(0, says)),
        ]
    });
}

/// Whoever trusts the image can say so; and what is only well compressed is no bomb.
#[test]
fn zeros_alone_are_no_bomb() {
    need!(root, registry);
    let size = 192 << 20;
    let file = header(EntryType::Regular, size as u64);
    let packed = [gzip(&file), gzip(&vec![0; PIECE]).repeat(size / PIECE)].concat();
    assert!(packed.len() * 200 < size, "packed in {} bytes", packed.len());
    SITE.registry.push("zeros:1", &of_bytes(packed).build());
    let place = Place::new(&SITE.sandbox, "zeros");
    place.shifter(&["pull", "--to", "node", &SITE.registry.name("zeros:1")]).success();
    let meta = place.rootfs().join("big").metadata().expect("the file");
    assert_eq!(meta.len(), size as u64);

    let more = bomb(zstd, &header(EntryType::Regular, (ALLOWED + PIECE) as u64)).build();
    SITE.registry.push("zeros:2", &more);
    let place = Place::new(&SITE.sandbox, "zeros-2").with_config("max_expansion = 100000");
    place.shifter(&["pull", "--to", "node", &SITE.registry.name("zeros:2")]).success();
    fs::remove_dir_all(&place.node).expect("it takes memory");
}
