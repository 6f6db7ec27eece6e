//! Columns for people, and for awk.

use runtime::report::printable;

/// Lines of a table: each column is as wide as what it holds, and two blanks part them.
pub(crate) fn lines(header: &[&str], rows: &[Vec<String>]) -> Vec<String> {
    let header = header.iter().map(|cell| (*cell).to_owned()).collect();
    let rows: Vec<Vec<String>> = [header].iter().chain(rows).map(|row| cells(row)).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        let cells = rows.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// What is not there is a dash: no column is ever empty.
fn cells(row: &[String]) -> Vec<String> {
    let cell = |text: &String| if text.is_empty() { "-".to_owned() } else { printable(text) };
    row.iter().map(cell).collect()
}

/// A size of three digits, decimal, as registries count.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        // What rounds to four digits belongs to the next unit.
        if value < 999.5 {
            let decimals = match value {
                _ if unit == "B" => 0,
                value if value < 9.995 => 2,
                value if value < 99.95 => 1,
                _ => 0,
            };
            return format!("{value:.decimals$} {unit}");
        }
        value /= 1000.0;
    }
    format!("{value:.2} TB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (1_910_000, "1.91 MB"),
            (9_996_000, "10.0 MB"),
            (123_456_789, "123 MB"),
            (999_700_000, "1.00 GB"),
            (2_500_000_000_000, "2.50 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn columns_are_as_wide_as_what_they_hold() {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        let rows = [row(["x\u{1b}", "", "naïve"]), row(["y", "long text", "z"])];
        assert_eq!(
            lines(&["A", "B", "C"], &rows),
            ["A        B          C", "x\\u{1b}  -          naïve", "y        long text  z"]
        );
    }
}
