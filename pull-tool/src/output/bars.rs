//! How far a pull is, in a few lines that fit the terminal: pure text.

use std::time::Duration;

use runtime::pull::{Flight, bytes};

/// More bars than this nobody looks at.
const MAX_BARS: usize = 8;
/// Narrower than this, a bar shows less than a percentage does.
const MIN_BAR: usize = 8;

/// All layers together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Total {
    /// Bytes read.
    pub(super) done: u64,
    /// Bytes in all.
    pub(super) size: u64,
    /// Bytes per second, lately.
    pub(super) rate: f64,
}

/// One line for each layer in flight, as far as there is room, and one for all together. None is
/// as wide as the terminal: some begin a new line in the last column.
pub(super) fn lines(
    layers: &[Flight<'_>],
    total: Total,
    width: usize,
    height: usize,
) -> Vec<String> {
    let width = width.saturating_sub(1);
    let room = MAX_BARS.min(height.saturating_sub(3));
    let shown = if layers.len() > room { room.saturating_sub(1) } else { layers.len() };
    let mut lines: Vec<_> = layers[..shown].iter().map(|layer| bar(layer, width)).collect();
    if shown < layers.len() && room > 0 {
        lines.push(format!("and {} more", layers.len() - shown));
    }
    lines.push(total.line());
    lines.iter_mut().for_each(|line| line.truncate(width)); // all of it is ASCII
    lines
}

fn bar(layer: &Flight<'_>, width: usize) -> String {
    let name = &layer.digest.hex()[..12];
    let percent = percent(layer.bytes, layer.size);
    let amount = format!("{} of {}", bytes(layer.bytes), bytes(layer.size));
    let frame = name.len() + "  []  ".len() + "999.9 MB of 999.9 MB".len();
    match width.checked_sub(frame).filter(|room| *room >= MIN_BAR) {
        Some(room) => {
            let room = room.min(50);
            let full = (room as u64 * percent / 100) as usize;
            format!("{name}  [{}{}]  {amount}", "=".repeat(full), " ".repeat(room - full))
        }
        None => format!("{name} {percent:>3} %"),
    }
}

impl Total {
    fn line(&self) -> String {
        let Total { done, size, rate } = *self;
        let mut line = format!("{:>3} %  {} of {}", percent(done, size), bytes(done), bytes(size));
        if rate >= 1.0 {
            let left = size.saturating_sub(done) as f64 / rate;
            let left = time(Duration::from_secs_f64(left.min(1e6)));
            line += &format!("  {}/s  {left} left", bytes(rate as u64));
        }
        line
    }
}

fn percent(done: u64, size: u64) -> u64 {
    if size == 0 { 100 } else { (u128::from(done) * 100 / u128::from(size)).min(100) as u64 }
}

fn time(left: Duration) -> String {
    match left.as_secs() {
        seconds @ 0..60 => format!("{seconds} s"),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use runtime::Digest;

    use super::*;

    const TOTAL: Total = Total { done: 3_100_000_000, size: 5_900_000_000, rate: 210e6 };

    fn flights(digest: &Digest, count: usize) -> Vec<Flight<'_>> {
        (0..count).map(|number| Flight { number, digest, bytes: 25, size: 100 }).collect()
    }

    #[test]
    fn a_bar_shows_its_share() {
        let digest = Digest::of(b"");
        let lines = lines(&flights(&digest, 1), TOTAL, 60, 24);
        assert_eq!(lines[0], "e3b0c44298fc  [=====                ]  25 B of 100 B");
        assert_eq!(lines[1], " 52 %  3.1 GB of 5.9 GB  210 MB/s  13 s left");
    }

    #[test]
    fn every_window_is_large_enough() {
        let digest = Digest::of(b"");
        for layers in [0, 1, 8, 9, 32, 128] {
            for width in 0..200 {
                for height in 0..60 {
                    let lines = lines(&flights(&digest, layers), TOTAL, width, height);
                    assert!(lines.iter().all(|line| line.len() <= width.saturating_sub(1)));
                    assert!(lines.len() <= height.saturating_sub(2).max(1), "{width}x{height}");
                    assert!(lines.len() <= MAX_BARS + 1);
                }
            }
        }
    }

    #[test]
    fn layers_without_a_bar_are_counted() {
        let digest = Digest::of(b"");
        let lines = lines(&flights(&digest, 32), TOTAL, 80, 24);
        assert_eq!((lines.len(), lines[7].as_str()), (9, "and 25 more"));
    }

    #[test]
    fn narrow_windows_have_percentages() {
        let digest = Digest::of(b"");
        assert_eq!(lines(&flights(&digest, 1), TOTAL, 20, 24)[0], "e3b0c44298fc  25 %");
    }
}
