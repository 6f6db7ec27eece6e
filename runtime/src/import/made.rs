//! The documents of an image that was none: one layer, and how it is run by what the user says.

use std::{
    collections::HashMap,
    fs,
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::json;

use super::pack::Workshop;
use crate::{
    digest::Digest,
    documents::Documents,
    oci::{Compression, Descriptor, ImageConfig, MANIFEST_TYPES, Manifest, Platform, RunConfig},
    pull::{Extent, Local},
};

pub(super) const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";

/// A layer that is to become an image.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) layer: Descriptor,
    pub(super) diff_id: Digest,
    /// When, by RFC 3339.
    pub(super) created: String,
    pub(super) extent: Extent,
    /// What it says itself of how it is run.
    pub(super) run: RunConfig,
}

/// Describes a layer.
pub(super) fn descriptor(packing: Compression, digest: Digest, size: u64) -> Descriptor {
    let suffix = match packing {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    Descriptor {
        media_type: format!("application/vnd.oci.image.layer.v1.tar{suffix}"),
        digest,
        size,
        platform: None,
        annotations: Default::default(),
    }
}

/// Makes the documents up. The same layer and the same words give the same image.
pub(super) fn image(made: Made, workshop: &Workshop<'_>) -> Local {
    let Platform { architecture, os, .. } = &workshop.options.platform;
    let run = over(&workshop.options.run, made.run);
    let config = json!({
        "created": made.created,
        "architecture": architecture,
        "os": os,
        "config": settings(&run),
        "rootfs": {"type": "layers", "diff_ids": [made.diff_id]},
        "history": [{"created": made.created, "created_by": "shifter import"}],
    });
    let parsed = ImageConfig {
        architecture: architecture.clone(),
        os: os.clone(),
        created: Some(made.created),
        config: run,
        rootfs: crate::oci::RootFs { diff_ids: vec![made.diff_id] },
    };
    let files = HashMap::from([(made.layer.digest.clone(), made.extent)]);
    let documents = documents(config.to_string().into_bytes(), parsed, vec![made.layer]);
    Local { documents, files, check_diff_ids: false }
}

/// What the user says, and else what the file does. As in docker, another entrypoint than the file's takes
/// no arguments from it.
fn over(said: &RunConfig, own: RunConfig) -> RunConfig {
    let words = |said: &Vec<String>, own| if said.is_empty() { own } else { said.clone() };
    let cmd = if said.entrypoint.is_empty() { own.cmd } else { Vec::new() };
    RunConfig {
        env: words(&said.env, own.env),
        entrypoint: words(&said.entrypoint, own.entrypoint),
        cmd: words(&said.cmd, cmd),
        working_dir: match &*said.working_dir {
            "" => own.working_dir,
            dir => dir.to_owned(),
        },
        labels: own.labels,
    }
}

/// The `config` of an image's configuration: nothing is said of what there is none of.
fn settings(run: &RunConfig) -> serde_json::Value {
    let mut settings = json!({});
    if !run.working_dir.is_empty() {
        settings["WorkingDir"] = json!(run.working_dir);
    }
    for (key, words) in [("Env", &run.env), ("Entrypoint", &run.entrypoint), ("Cmd", &run.cmd)] {
        if !words.is_empty() {
            settings[key] = json!(words);
        }
    }
    if !run.labels.is_empty() {
        settings["Labels"] = json!(run.labels);
    }
    settings
}

/// The documents of an image of which no layer is made: all that is known of it is the file that it
/// lies in.
pub(super) fn nameless(file: &str, created: &str, run: RunConfig) -> Documents {
    let Platform { architecture, os, .. } = Platform::host();
    let config = json!({
        "created": created,
        "architecture": architecture,
        "os": os,
        "config": settings(&run),
        "rootfs": {"type": "layers", "diff_ids": []},
        "history": [{"created": created, "created_by": "shifter", "comment": file}],
    });
    let created = Some(created.to_owned());
    let parsed = ImageConfig { architecture, os, created, config: run, ..ImageConfig::default() };
    documents(config.to_string().into_bytes(), parsed, Vec::new())
}

/// The manifest for a configuration and its layers.
pub(super) fn documents(
    raw_config: Vec<u8>,
    config: ImageConfig,
    layers: Vec<Descriptor>,
) -> Documents {
    let config_descriptor = Descriptor {
        media_type: CONFIG_TYPE.to_owned(),
        digest: Digest::of(&raw_config),
        size: raw_config.len() as u64,
        platform: None,
        annotations: Default::default(),
    };
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[0],
        "config": config_descriptor,
        "layers": layers,
    });
    let raw_manifest = manifest.to_string().into_bytes();
    let digest = Digest::of(&raw_manifest);
    let raw = vec![(digest.clone(), raw_manifest), (config_descriptor.digest.clone(), raw_config)];
    let media_type = MANIFEST_TYPES[0].to_owned();
    let manifest = Manifest { media_type, config: config_descriptor, layers };
    Documents { resolved: digest.clone(), digest, manifest, config, raw }
}

/// When a file was changed last, by RFC 3339, so that the same file gives the same image; of what
/// came through a pipe: now.
pub(super) fn time_of(path: &Path, is_stdin: bool) -> String {
    let changed = || fs::metadata(path).ok()?.modified().ok();
    let time = if is_stdin { None } else { changed() };
    rfc3339(time.unwrap_or_else(SystemTime::now))
}

fn rfc3339(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86400, seconds % 86400);
    let is_leap = |year: u64| {
        year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
    };
    let (mut year, mut day) = (1970, days);
    while day >= 365 + u64::from(is_leap(year)) {
        day -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let lengths = [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if day < length {
            break;
        }
        day -= length;
        month += 1;
    }
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year}-{month:02}-{:02}T{hour:02}:{minute:02}:{:02}Z", day + 1, second % 60)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn what_a_file_says_holds_where_the_user_says_nothing() {
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let run = |env, entrypoint, cmd, dir: &str| RunConfig {
            env: words(env),
            entrypoint: words(entrypoint),
            cmd: words(cmd),
            working_dir: dir.to_owned(),
            ..RunConfig::default()
        };
        let own = run(&["A=1"], &["own"], &["own-cmd"], "/own");
        for (said, expected) in [
            (RunConfig::default(), own.clone()),
            (run(&[], &[], &["x"], "/x"), run(&["A=1"], &["own"], &["x"], "/x")),
            (run(&["B=2"], &["x"], &[], ""), run(&["B=2"], &["x"], &[], "/own")),
            (run(&[], &["x"], &["y"], ""), run(&["A=1"], &["x"], &["y"], "/own")),
        ] {
            assert_eq!(over(&said, own.clone()), expected);
        }
    }

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_735_689_599, "2024-12-31T23:59:59Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
