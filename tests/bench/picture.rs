//! A pull's stages as an SVG: seconds to the right, a lane for each layer, a bar for each stage.
//! A bar is as strong as the stage is busy: a pale one waits for another.

use std::fmt::Write;

use crate::{
    meter::cores,
    stages::{Layer, Stages},
};

const WIDTH: f64 = 960.0;
const LEFT: f64 = 120.0;
const RIGHT: f64 = 24.0;
const TOP: f64 = 110.0;
/// All lanes together, unless that makes them too thin for their labels.
const LANES: f64 = 560.0;

/// Colours for paper, and for a dark screen.
const STYLE: &str = "
  svg { font-family: sans-serif } .end { text-anchor: end } .middle { text-anchor: middle }
  text { fill: #1f2328 } .ground { fill: #ffffff } .grid { stroke: #d0d7de }
  .total { stroke: #1f2328; stroke-dasharray: 4 3 } .download { fill: #0969da }
  .inflate { fill: #bc4c00 } .write { fill: #1a7f37 } .merge { fill: #8250df }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .ground { fill: #0d1117 } .grid { stroke: #30363d }
    .total { stroke: #e6edf3 } .download { fill: #58a6ff }
    .inflate { fill: #ffa657 } .write { fill: #3fb950 } .merge { fill: #bc8cff }
  }
";

impl Stages {
    /// Draws the picture.
    pub(crate) fn draw(&self) -> String {
        let mut picture = Picture::new(self);
        picture.heading(self);
        picture.grid(self.total);
        for (row, layer) in self.layers.iter().enumerate() {
            picture.lane(row, layer);
        }
        picture.merge(self);
        picture.text + "</svg>\n"
    }
}

struct Picture {
    text: String,
    /// Seconds from the left edge to the right.
    span: f64,
    /// Height of a lane.
    lane: f64,
    /// Where the lanes end: below is the merge's.
    bottom: f64,
}

impl Picture {
    fn new(stages: &Stages) -> Picture {
        let ends = stages.layers.iter().flat_map(|layer| &layer.stages).map(|stage| stage.end);
        let span = ends.fold(stages.total, f64::max).max(1e-3);
        let lane = (LANES / stages.layers.len().max(1) as f64).clamp(9.0, 42.0);
        let bottom = TOP + lane * stages.layers.len() as f64;
        let height = bottom + 60.0;
        let mut picture = Picture { text: String::new(), span, lane, bottom };
        picture.put(format_args!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height:.0}\" \
             font-size=\"12\">\n<style>{STYLE}</style>\n\
             <rect class=\"ground\" width=\"100%\" height=\"100%\"/>"
        ));
        picture
    }

    fn put(&mut self, line: std::fmt::Arguments<'_>) {
        writeln!(self.text, "{line}").expect("a string can be written");
    }

    /// Where a moment is.
    fn x(&self, seconds: f64) -> f64 {
        LEFT + seconds / self.span * (WIDTH - LEFT - RIGHT)
    }

    /// What was pulled, how long each stage worked, and which colour it has.
    fn heading(&mut self, stages: &Stages) {
        let Stages { bytes, layers, total, merge, .. } = stages;
        self.put(format_args!(
            "<text x=\"16\" y=\"26\" font-size=\"16\" font-weight=\"bold\">{}</text>",
            escape(&stages.image)
        ));
        let plural = if layers.len() == 1 { "" } else { "s" };
        self.put(format_args!(
            "<text x=\"16\" y=\"47\">{} layer{plural}, {} in {total:.2} s on {} cores. Time \
             at work:</text>",
            layers.len(),
            megabytes(*bytes),
            cores()
        ));
        let keys = [
            ("download", stages.busy("download")),
            ("inflate", stages.busy("inflate")),
            ("write", stages.busy("write")),
            ("merge", *merge),
        ];
        for (column, (name, busy)) in keys.into_iter().enumerate() {
            let x = 16 + column * 160;
            self.put(format_args!(
                "<rect class=\"{name}\" x=\"{x}\" y=\"59\" width=\"12\" height=\"12\"/>\
                 <text x=\"{}\" y=\"69\">{name}: {busy:.2} s</text>",
                x + 18
            ));
        }
        self.put(format_args!("<text x=\"696\" y=\"69\">busy 0 %</text>"));
        for step in 0..=10 {
            self.put(format_args!(
                "<rect class=\"download\" x=\"{}\" y=\"59\" width=\"12\" height=\"12\" \
                 fill-opacity=\"{:.2}\"/>",
                754 + step * 12,
                opacity(f64::from(step) / 10.0)
            ));
        }
        self.put(format_args!("<text x=\"892\" y=\"69\">100 %</text>"));
    }

    /// Lines at round numbers of seconds, and one at the end.
    fn grid(&mut self, total: f64) {
        self.label(TOP - 13.0, 12.0, "layer · size");
        let step = round_step(self.span / 8.0);
        let floor = self.bottom + 26.0;
        let ticks = (self.span / step * 1.000_001).floor() as u32;
        for tick in 0..=ticks {
            let seconds = f64::from(tick) * step;
            let x = self.x(seconds);
            let digits = (-step.log10().floor()).max(0.0) as usize;
            self.put(format_args!(
                "<line class=\"grid\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{TOP}\" y2=\"{floor:.1}\"/>\
                 <text class=\"middle\" x=\"{x:.1}\" y=\"{:.1}\">{seconds:.digits$} s</text>",
                floor + 16.0
            ));
        }
        let x = self.x(total);
        self.put(format_args!(
            "<line class=\"total\" x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{:.1}\" y2=\"{floor:.1}\"/>\
             <text class=\"end\" x=\"{x:.1}\" y=\"{:.1}\">{total:.2} s</text>",
            TOP - 6.0,
            TOP - 9.0
        ));
    }

    fn lane(&mut self, row: usize, layer: &Layer) {
        let top = TOP + self.lane * row as f64;
        let mut title = format!("layer {}, {}, {} ", layer.number, layer.digest, layer.bytes);
        write!(title, "bytes from {}: {:.3} s", layer.from, layer.start).expect("a string");
        for stage in &layer.stages {
            write!(title, "; {} until {:.3} s, busy {:.3} s", stage.name, stage.end, stage.busy)
                .expect("a string can be written");
        }
        self.put(format_args!("<g><title>{}</title>", escape(&title)));
        let label = format!("{} · {}", layer.number, megabytes(layer.bytes));
        let size = (self.lane - 1.0).min(12.0);
        self.label(top + self.lane / 2.0, size, &label);
        let gap = self.lane * 0.08;
        let height = (self.lane - 2.0 * gap) / 3.0;
        for (place, stage) in layer.stages.iter().enumerate() {
            let y = top + gap + height * place as f64;
            let share = stage.busy / (stage.end - layer.start).max(1e-9);
            self.bar(stage.name, (layer.start, stage.end), (y, height * 0.9), share);
        }
        self.put(format_args!("</g>"));
    }

    fn merge(&mut self, stages: &Stages) {
        let middle = self.bottom + 14.0;
        self.label(middle, 12.0, "merge");
        let times = (stages.total - stages.merge, stages.total);
        self.bar("merge", times, (middle - 6.0, 12.0), 1.0);
    }

    /// A lane's name, left of it.
    fn label(&mut self, middle: f64, size: f64, text: &str) {
        self.put(format_args!(
            "<text class=\"end\" x=\"{:.1}\" y=\"{:.1}\" font-size=\"{size:.1}\">{}</text>",
            LEFT - 8.0,
            middle + size * 0.35,
            escape(text)
        ));
    }

    fn bar(&mut self, class: &str, times: (f64, f64), place: (f64, f64), share: f64) {
        let (x, y, height) = (self.x(times.0), place.0, place.1);
        // What is short is seen too.
        let width = (self.x(times.1) - x).max(1.0);
        self.put(format_args!(
            "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" fill-opacity=\"{:.2}\"/>",
            opacity(share)
        ));
    }
}

/// How strong a bar is. One that waits all the time is seen too.
fn opacity(share: f64) -> f64 {
    0.12 + 0.88 * share.clamp(0.0, 1.0)
}

fn megabytes(bytes: f64) -> String {
    let megabytes = bytes / 1e6;
    if megabytes < 10.0 { format!("{megabytes:.1} MB") } else { format!("{megabytes:.0} MB") }
}

/// The next of 1, 2, 5, 10, 20 … and their fractions.
fn round_step(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let steps = [1.0, 2.0, 5.0].map(|digit| digit * power);
    steps.into_iter().find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// Text as XML can hold it.
fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            c if c.is_control() => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stages::tests::PULL;

    /// Says what is not XML in this: tags that do not match, attributes without quotes, bare `&`.
    fn check_xml(text: &str) -> Result<(), String> {
        let mut open: Vec<&str> = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once('<') {
            check_text(before)?;
            let (tag, after) = after.split_once('>').ok_or("a tag without end")?;
            rest = after;
            if let Some(name) = tag.strip_prefix('/') {
                if open.pop() != Some(name) {
                    return Err(format!("</{name}> closes nothing"));
                }
                continue;
            }
            let (tag, empty) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
            let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            while !attributes.trim().is_empty() {
                let (_, value) = attributes.split_once("=\"").ok_or(format!("<{tag}>"))?;
                let (value, after) = value.split_once('"').ok_or(format!("<{tag}>"))?;
                check_text(value)?;
                attributes = after;
            }
            if !empty {
                open.push(name);
            }
        }
        check_text(rest)?;
        if open.is_empty() { Ok(()) } else { Err(format!("left open: {open:?}")) }
    }

    fn check_text(text: &str) -> Result<(), String> {
        let known = ["amp;", "lt;", "gt;", "quot;"];
        let bare = |part: &&str| !known.iter().any(|entity| part.starts_with(entity));
        match text.split('&').skip(1).find(bare) {
            Some(part) => Err(format!("a bare & before {part:?}")),
            None if text.contains('>') => Err(format!("a bare > in {text:?}")),
            None => Ok(()),
        }
    }

    #[test]
    fn the_check_sees_what_is_wrong() {
        assert_eq!(check_xml("<a b=\"&amp;\"><c/>x</a>"), Ok(()));
        for wrong in ["<a>", "<a></b>", "<a b=c/>", "<a>x & y</a>", "<a>x > y</a>", "<a"] {
            assert!(check_xml(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_picture_is_xml_with_every_layer() {
        let stages = Stages::read(PULL.trim()).expect("a whole pull");
        let picture = stages.draw();
        assert_eq!(check_xml(&picture), Ok(()), "{picture}");
        assert!(picture.contains("a&lt;b&gt;&amp;&quot;c&quot;:1"), "{picture}");
        for label in [">1 · 2.0 MB<", ">0 · 29 MB<", ">merge<", ">1.63 s<", ">2 layers, 31 MB in"]
        {
            assert!(picture.contains(label), "no {label}: {picture}");
        }
        let bars = |class: &str| picture.matches(&format!("<rect class=\"{class}\"")).count();
        // Each has one in the legend; download's is the legend of how busy, too.
        assert_eq!([bars("inflate"), bars("write"), bars("merge")], [2, 2, 2]);
        assert_eq!(bars("download"), 2 + 1 + 11);
    }

    #[test]
    fn many_layers_are_drawn_too_and_none_is_fine() {
        let lines: Vec<_> = PULL.trim().lines().collect();
        let layer = lines[4];
        let layers: Vec<_> =
            (0..128).map(|n| layer.replace("\"number\":0", &format!("\"number\":{n}"))).collect();
        let many = [lines[1], &layers.join("\n"), lines[5]].join("\n");
        let picture = Stages::read(&many).expect("128 layers").draw();
        assert_eq!(check_xml(&picture), Ok(()));
        for number in 0..128 {
            assert!(picture.contains(&format!(">{number} · 29 MB<")), "layer {number}");
        }
        let none = [lines[1], lines[5]].join("\n");
        assert_eq!(check_xml(&Stages::read(&none).expect("no layers").draw()), Ok(()));
    }

    #[test]
    fn the_grid_is_of_round_numbers() {
        for (least, step) in [(0.11, 0.2), (0.3, 0.5), (0.7, 1.0), (1.0, 1.0), (13.0, 20.0)] {
            assert!((round_step(least) - step).abs() < 1e-9, "{least}: {}", round_step(least));
        }
    }
}
