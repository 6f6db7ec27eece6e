//! `shifter images`.

use std::{io::IsTerminal as _, time::SystemTime};

use clap::Args;
use runtime::{
    Config,
    report::Report,
    repository::{Filter, Listed, Name, Repository, Whose},
    store::{State, Stored, Tree, User},
};
use serde_json::{Value, json};

use crate::output::{self, table};

/// List the images that are here.
///
/// Yours and, marked (site) on a terminal, those that the site has for all. SIZE is what the layers
/// take in the store; it says "incomplete" or "damaged" where something of the image is not as it
/// should be: pull it again.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Show digests whole
    #[arg(long)]
    digests: bool,
    /// Print all that is known, as one JSON array
    #[arg(long)]
    json: bool,
    /// Show some only: reference=GLOB, before=REF or since=REF (by when they were built)
    #[arg(long, short, value_name = "KEY=VALUE", conflicts_with = "node")]
    filter: Vec<String>,
    /// List what is expanded on this node, and the memory that it takes
    #[arg(long)]
    node: bool,
    /// Show images of this name only: alpine, alpine:3, 'ghcr.io/*'
    pattern: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    let filters = arguments.filter.iter().map(|text| text.parse());
    let pattern = arguments.pattern.iter().map(|pattern| Filter::name(pattern));
    let filters: Result<Vec<Filter>, _> = filters.chain(pattern).collect();
    let filters = filters.map_err(|e| Report::from(&e))?;
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let repository = Repository::open(&config).map_err(|e| Report::from(&e))?;
    match arguments.node {
        true => expanded(arguments, &repository, &filters),
        false => stored(arguments, &repository, &filters),
    }
}

fn stored(
    arguments: &Arguments,
    repository: &Repository,
    filters: &[Filter],
) -> Result<(), Report> {
    let (mut images, troubles) = repository.images();
    repository.filter(&mut images, filters).map_err(|e| Report::from(&e))?;
    if arguments.json {
        output::json(&images.iter().map(as_json).collect());
    } else {
        let is_terminal = std::io::stdout().is_terminal();
        let rows: Vec<_> = images.iter().map(|image| row(image, arguments, is_terminal)).collect();
        let header = ["REPOSITORY", "TAG", "DIGEST", "CREATED", "SIZE", "SERVER"];
        table::lines(&header, &rows).iter().for_each(|line| output::data(line));
    }
    // The stores that could be read are listed; that one could not is a failure all the same.
    let mut reports = troubles.iter().map(Report::from).collect::<Vec<_>>();
    let last = reports.pop();
    reports.iter().for_each(|report| output::talk(None, &report.line));
    last.map_or(Ok(()), Err)
}

fn row(image: &Listed, arguments: &Arguments, is_terminal: bool) -> Vec<String> {
    let Name { server, repository, tag } = image.name();
    let created = image.created().map(|at| at.strftime("%Y-%m-%dT%H:%M:%S").to_string());
    let digest = &image.stored.digest;
    let size = match (image.size(), image.stored.state) {
        (Some(bytes), _) => table::size(bytes),
        (None, State::Damaged) => "damaged".to_owned(),
        (None, _) => "incomplete".to_owned(),
    };
    let mut row = vec![
        repository.unwrap_or_default(),
        tag.unwrap_or_default(),
        if arguments.digests { digest.to_string() } else { digest.short().to_owned() },
        created.unwrap_or_default(),
        size,
        server.unwrap_or_default(),
    ];
    // Scripts find six columns.
    if is_terminal && image.whose == Whose::Site {
        row.push("(site)".to_owned());
    }
    row
}

fn as_json(image: &Listed) -> Value {
    let stored = &image.stored;
    let Name { server, repository, tag } = image.name();
    json!({
        "reference": stored.entry.name,
        "server": server,
        "repository": repository,
        "tag": tag,
        "digest": stored.digest.as_str(),
        "resolved": stored.entry.resolved.as_ref().map(|digest| digest.as_str()),
        "platform": stored.config.as_ref().map(|c| format!("{}/{}", c.os, c.architecture)),
        "created": stored.config.as_ref().and_then(|config| config.created.as_ref()),
        "size": stored.manifest.as_ref().map(|manifest| manifest.download_size()),
        "layers": stored.manifest.as_ref().map(|m| m.layers.iter().map(layer).collect::<Vec<_>>()),
        "state": state(stored.state),
        "squashfs": squashfs(stored),
        "store": image.store.to_string_lossy(),
        "shared": image.whose == Whose::Site,
        "last_used": stored.used.and_then(seconds),
    })
}

pub(crate) fn layer(layer: &runtime::oci::Descriptor) -> Value {
    json!({
        "digest": layer.digest.as_str(),
        "size": layer.size,
        "media_type": layer.media_type,
    })
}

/// The image as one file; null if there is none.
pub(crate) fn squashfs(stored: &Stored) -> Option<Value> {
    let file = stored.squashfs.as_ref()?;
    Some(json!({"path": file.path.to_string_lossy(), "size": file.size}))
}

pub(crate) fn state(state: State) -> &'static str {
    match state {
        State::Complete => "complete",
        State::Incomplete => "incomplete",
        State::Damaged => "damaged",
    }
}

/// Since 1970.
pub(crate) fn seconds(time: SystemTime) -> Option<u64> {
    time.duration_since(SystemTime::UNIX_EPOCH).ok().map(|time| time.as_secs())
}

fn expanded(
    arguments: &Arguments,
    repository: &Repository,
    filters: &[Filter],
) -> Result<(), Report> {
    let mut trees = repository.trees().map_err(|e| Report::from(&e))?;
    trees.retain(|tree| filters.iter().all(|filter| filter.lets_pass(&tree.names)));
    let users = repository.users(&trees).map_err(|e| Report::from(&e))?;
    let trees: Vec<_> = trees.iter().zip(users).collect();
    if arguments.json {
        output::json(&trees.iter().map(|(tree, user)| tree_as_json(tree, *user)).collect());
        return Ok(());
    }
    let mut rows: Vec<_> = trees
        .iter()
        .flat_map(|(tree, user)| tree_rows(tree, user.is_some(), arguments.digests))
        .collect();
    rows.sort_by(|a, b| (&a[5], &a[0], &a[1]).cmp(&(&b[5], &b[0], &b[1])));
    let header = ["REPOSITORY", "TAG", "DIGEST", "MEMORY", "USED", "SERVER"];
    table::lines(&header, &rows).iter().for_each(|line| output::data(line));
    Ok(())
}

/// A row for each name; one for a tree without any.
fn tree_rows(tree: &Tree, is_used: bool, whole: bool) -> Vec<Vec<String>> {
    let memory = table::size(tree.memory());
    let digest = if whole { tree.digest.to_string() } else { tree.digest.short().to_owned() };
    let row = |name: Name| {
        let used = if is_used { "yes" } else { "no" };
        vec![
            name.repository.unwrap_or_default(),
            name.tag.unwrap_or_default(),
            digest.clone(),
            memory.clone(),
            used.to_owned(),
            name.server.unwrap_or_default(),
        ]
    };
    match tree.names.is_empty() {
        true => vec![row(Name { server: None, repository: None, tag: None })],
        false => tree.names.iter().map(|name| row(Name::of(name))).collect(),
    }
}

pub(crate) fn tree_as_json(tree: &Tree, user: Option<User>) -> Value {
    let process = match user {
        Some(User::Process(pid)) => Some(pid),
        _ => None,
    };
    json!({
        "names": tree.names,
        "digest": tree.digest.as_str(),
        "memory": tree.memory(),
        "in_use": user.is_some(),
        "process": process,
        "path": tree.path.to_string_lossy(),
        "last_used": tree.used.and_then(seconds),
    })
}
