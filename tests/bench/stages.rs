//! What `shifter pull --json` says of a pull's stages.

use serde_json::Value;

/// How long everything in a pull took; seconds since it began.
#[derive(Debug)]
pub(crate) struct Stages {
    /// As the user named it.
    pub(crate) image: String,
    /// All layers together, packed.
    pub(crate) bytes: f64,
    /// In the order of their starts.
    pub(crate) layers: Vec<Layer>,
    /// When everything was done.
    pub(crate) total: f64,
    /// How long the layers' merging took, at the very end.
    pub(crate) merge: f64,
}

/// A layer's way from the registry to its files.
#[derive(Debug)]
pub(crate) struct Layer {
    pub(crate) number: u64,
    pub(crate) digest: String,
    pub(crate) bytes: f64,
    /// `registry`, or where else it came from.
    pub(crate) from: String,
    pub(crate) start: f64,
    /// Those that there were.
    pub(crate) stages: Vec<Stage>,
}

/// A stage works from the layer's start to its own end, but for the time it waits for another.
#[derive(Debug)]
pub(crate) struct Stage {
    /// One of [`Stage::NAMES`].
    pub(crate) name: &'static str,
    pub(crate) end: f64,
    pub(crate) busy: f64,
}

impl Stage {
    pub(crate) const NAMES: [&str; 3] = ["download", "inflate", "write"];
}

impl Stages {
    /// Reads a pull's events, one a line. Those that are not about stages are passed over.
    pub(crate) fn read(lines: &str) -> Result<Stages, String> {
        let mut image = None;
        let mut layers = Vec::new();
        for line in lines.lines() {
            let event: Value =
                serde_json::from_str(line).map_err(|e| format!("not an event: {line}: {e}"))?;
            match event["event"].as_str() {
                Some("begin") => image = Some(text(&event, "image")?),
                Some("layer") => layers.push(Layer::read(&event)?),
                Some("end") => {
                    layers.sort_by(|a, b| a.start.total_cmp(&b.start));
                    let seconds = &event["seconds"];
                    return Ok(Stages {
                        image: image.ok_or("a pull ends that has not begun")?,
                        bytes: number(&event, "bytes")?,
                        layers,
                        total: number(seconds, "total")?,
                        merge: number(seconds, "merge")?,
                    });
                }
                _ => {}
            }
        }
        Err("the pull has no end".into())
    }

    /// How long a stage was busy in all layers together.
    pub(crate) fn busy(&self, name: &str) -> f64 {
        let stages = self.layers.iter().flat_map(|layer| &layer.stages);
        stages.filter(|stage| stage.name == name).map(|stage| stage.busy).sum()
    }
}

impl Layer {
    fn read(event: &Value) -> Result<Layer, String> {
        let mut stages = Vec::new();
        for name in Stage::NAMES {
            let stage = &event[name];
            if stage.is_object() {
                let (end, busy) = (number(stage, "end")?, number(stage, "busy")?);
                stages.push(Stage { name, end, busy });
            }
        }
        Ok(Layer {
            number: event["number"].as_u64().ok_or_else(|| format!("no number in {event}"))?,
            digest: text(event, "digest")?,
            bytes: number(event, "bytes")?,
            from: text(event, "from")?,
            start: number(event, "start")?,
            stages,
        })
    }
}

fn text(event: &Value, key: &str) -> Result<String, String> {
    let text = event[key].as_str().ok_or_else(|| format!("no {key} in {event}"))?;
    Ok(text.into())
}

fn number(event: &Value, key: &str) -> Result<f64, String> {
    event[key].as_f64().ok_or_else(|| format!("no {key} in {event}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// The second layer starts first, and is only stored.
    pub(crate) const PULL: &str = r#"
{"event":"waiting"}
{"event":"begin","image":"127.0.0.1:5000/a<b>&\"c\":1","digest":"sha256:00","layers":2,"bytes":31000000}
{"event":"progress","bytes":1000}
{"event":"layer","number":1,"digest":"sha256:bb","bytes":2000000,"from":"store","start":0.001,"download":{"end":0.02,"busy":0.01}}
{"event":"layer","number":0,"digest":"sha256:aa","bytes":29000000,"from":"registry","start":0.012,"download":{"end":1.20,"busy":0.41},"inflate":{"end":1.22,"busy":0.93},"write":{"end":1.24,"busy":0.70}}
{"event":"end","digest":"sha256:00","unchanged":false,"bytes":31000000,"seconds":{"total":1.63,"download":0.42,"inflate":0.93,"write":0.70,"merge":0.05}}
"#;

    #[test]
    fn a_pull_is_read_in_order_of_start() {
        let stages = Stages::read(PULL.trim()).expect("a whole pull");
        assert_eq!(stages.layers.iter().map(|l| l.number).collect::<Vec<_>>(), [1, 0]);
        assert_eq!(stages.layers.iter().map(|l| l.stages.len()).collect::<Vec<_>>(), [1, 3]);
        assert_eq!((stages.total, stages.merge), (1.63, 0.05));
        assert!((stages.busy("download") - 0.42).abs() < 1e-9);
    }

    #[test]
    fn what_is_missing_is_said() {
        let cut = PULL.trim().rsplit_once('\n').expect("many lines").0;
        assert_eq!(Stages::read(cut).expect_err("cut"), "the pull has no end");
        let odd = PULL.trim().replace("\"merge\"", "\"merging\"");
        let error = Stages::read(&odd).expect_err("no merge");
        assert!(error.starts_with("no merge in {"), "{error}");
        assert!(Stages::read("pulling …").expect_err("prose").starts_with("not an event: pulling"));
    }
}
