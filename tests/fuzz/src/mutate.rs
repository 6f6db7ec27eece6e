//! Changes to archives that leave them archives.
//!
//! Of the bytes of an archive, most changes break a checksum or move what follows off its block, and
//! all that is tested then is that. So half of the changes are made to one field, one entry or one
//! entry's data, and checksums are made to hold again.

use tar::Header;

use crate::{
    Dice,
    archive::{BLOCK, WORDS},
};

/// Where the fields of a header lie.
const FIELDS: [(usize, usize); 9] = [
    (0, 100),   // name
    (100, 8),   // mode
    (124, 12),  // size
    (136, 12),  // mtime
    (156, 1),   // type
    (157, 100), // link
    (257, 8),   // magic
    (345, 155), // prefix, or GNU's sparse map
    (482, 30),  // its end
];
const FLAGS: &[u8] = b"\x000123456 7SxgLKVD";

/// Changes `data`, of which `size` bytes are in use, to at most `room` bytes; `plain` is libFuzzer's
/// own change. Returns the new size.
pub fn archive(
    data: &mut [u8],
    size: usize,
    room: usize,
    seed: u32,
    plain: impl Fn(&mut [u8], usize, usize) -> usize,
) -> usize {
    let mut dice = Dice::new(u64::from(seed));
    let room = room.min(data.len());
    let entries = entries(&data[..size]);
    let size = match dice.below(8) {
        0 | 1 => plain(data, size, room),
        _ if entries.is_empty() => plain(data, size, room),
        2 => shuffle(data, size, room, &entries, &mut dice),
        3 => content(data, size, room, &entries, &mut dice, plain),
        _ => {
            for _ in 0..=dice.below(3) {
                field(data, dice.choose(&entries).0, &mut dice, &plain);
            }
            size
        }
    };
    // Now and then one that is wrong has to be seen.
    if dice.below(16) > 0 {
        for (header, _) in self::entries(&data[..size]) {
            let block = &mut data[header..header + BLOCK];
            let mut header = Header::from_byte_slice(block).clone();
            header.set_cksum();
            block.copy_from_slice(header.as_bytes());
        }
    }
    size
}

/// Where entries begin, and where the next would: by what their headers say, roughly.
fn entries(data: &[u8]) -> Vec<(usize, usize)> {
    let (mut entries, mut at) = (Vec::new(), 0);
    while let Some(block) = data.get(at..at + BLOCK) {
        if block == [0; BLOCK] {
            break;
        }
        let header = Header::from_byte_slice(block);
        let bare = matches!(block[156], b'1'..=b'6');
        let length = if bare { 0 } else { claimed(header) };
        let end = (at + BLOCK + length.min(data.len()).next_multiple_of(BLOCK)).min(data.len());
        entries.push((at, end));
        at = end;
    }
    entries
}

/// How much data a header says that there is.
fn claimed(header: &Header) -> usize {
    header.entry_size().ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(0)
}

/// Drops, doubles or moves an entry.
fn shuffle(
    data: &mut [u8],
    size: usize,
    room: usize,
    entries: &[(usize, usize)],
    dice: &mut Dice,
) -> usize {
    let &(from, end) = dice.choose(entries);
    let &(to, _) = dice.choose(entries);
    let entry = data[from..end].to_vec();
    let mut all = data[..size].to_vec();
    let drops = dice.below(3);
    if drops != 0 {
        all.drain(from..end);
    }
    if drops != 1 {
        let to = if drops != 0 && to > from { to - entry.len().min(to) } else { to };
        all.splice(to..to, entry);
    }
    let size = all.len().min(room);
    data[..size].copy_from_slice(&all[..size]);
    size
}

/// Changes an entry's data, and its size to what it then is.
fn content(
    data: &mut [u8],
    size: usize,
    room: usize,
    entries: &[(usize, usize)],
    dice: &mut Dice,
    plain: impl Fn(&mut [u8], usize, usize) -> usize,
) -> usize {
    let &(at, end) = dice.choose(entries);
    let mut header = Header::from_byte_slice(&data[at..at + BLOCK]).clone();
    let mut body = data[at + BLOCK..end].to_vec();
    let old = claimed(&header).min(body.len());
    body.resize(old + 100, 0);
    let new = plain(&mut body, old, old + 100);
    body.truncate(new);
    // Records count themselves: one of a line is made to do so.
    if header.as_bytes()[156] == b'x' && dice.below(2) == 0 {
        body = records(&body);
    }
    header.set_size(body.len() as u64);
    body.resize(body.len().next_multiple_of(BLOCK), 0);
    let mut all = data[..size].to_vec();
    all.splice(at + BLOCK..end, body);
    all[at..at + BLOCK].copy_from_slice(header.as_bytes());
    let size = all.len().min(room);
    data[..size].copy_from_slice(&all[..size]);
    size
}

/// Makes the lengths of PAX records hold.
fn records(body: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    for line in body.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
        let pair = line.splitn(2, |&byte| byte == b' ').nth(1).unwrap_or(line);
        let rest = pair.len() + 2;
        let length = (1..).find(|n| rest + n.to_string().len() == *n).expect("a length fits");
        all.extend_from_slice(format!("{length} ").as_bytes());
        all.extend_from_slice(pair);
        all.push(b'\n');
    }
    all
}

/// Changes one field of the header at `at`.
fn field(
    data: &mut [u8],
    at: usize,
    dice: &mut Dice,
    plain: &impl Fn(&mut [u8], usize, usize) -> usize,
) {
    let &(offset, length) = dice.choose(&FIELDS);
    let field = &mut data[at + offset..at + offset + length];
    match dice.below(4) {
        _ if offset == 156 => field[0] = *dice.choose(FLAGS),
        0 => {
            let used = field.iter().position(|&byte| byte == 0).unwrap_or(length);
            let used = plain(field, used, length);
            field[used..].fill(0);
        }
        // A word in front of what is there, or in its place.
        choice => {
            let mut text = dice.choose(&WORDS).to_vec();
            if choice == 1 {
                text.push(b'/');
                text.extend(field.iter().take_while(|&&byte| byte != 0));
            }
            text.resize(length, 0);
            field.copy_from_slice(&text);
        }
    }
}
