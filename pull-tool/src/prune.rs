//! `shifter prune`.

use clap::Args;
use runtime::{
    Config,
    report::{Report, printable},
    repository::{Containers, Criteria, Pruned, Repository, Scope, age, size},
    store::{Mode, Tree},
};
use serde_json::json;

use crate::{
    images::tree_as_json,
    output::{self, table},
};

/// Remove what nobody needs, or has used for long.
///
/// Without options: from your store what no image needs and what stopped pulls have left, and from
/// this node all images that no container uses. No image goes from the store but by --older-than and
/// --max-size. Nothing is asked; --dry-run says what would go.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Also images that were not used for so long: 12h, 7d, 2w. On this node, those only
    #[arg(long, value_name = "TIME")]
    older_than: Option<String>,
    /// Also the images that were not used for longest, until the rest fits: 20GB, 500MB
    #[arg(long, value_name = "SIZE")]
    max_size: Option<String>,
    /// On this node only
    #[arg(long)]
    node: bool,
    /// Also containers with a name that nobody runs, and all that was written in them
    #[arg(long)]
    containers: bool,
    /// Say what would be removed, and remove nothing
    #[arg(long)]
    dry_run: bool,
    /// Tell it to a program, as one JSON object
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    let understand = |what: &str, text: &str, remedy: &str| {
        Report::usage(&format!("{what} {text:?}: not understood"), remedy)
    };
    let older_than = arguments.older_than.as_ref().map(|text| {
        age(text).ok_or_else(|| understand("--older-than", text, "write 30m, 12h, 7d or 2w"))
    });
    let max_size = arguments.max_size.as_ref().map(|text| {
        size(text).ok_or_else(|| understand("--max-size", text, "write 500MB, 20GB or 20GiB"))
    });
    let criteria = Criteria {
        older_than: older_than.transpose()?,
        max_size: max_size.transpose()?,
        scope: if arguments.node { Scope::Node } else { Scope::Everywhere },
        containers: if arguments.containers { Containers::Go } else { Containers::Stay },
        mode: if arguments.dry_run { Mode::Pretend } else { Mode::Do },
    };
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let repository = Repository::open(&config).map_err(|e| Report::from(&e))?;
    let pruned = repository.prune(&criteria).map_err(|e| Report::from(&e).during("prune"))?;
    match arguments.json {
        true => output::data(&as_json(&pruned, criteria.mode)),
        false => tell(&pruned, &repository, &criteria),
    }
    Ok(())
}

fn tell(pruned: &Pruned, repository: &Repository, criteria: &Criteria) {
    let (removed, freed) = match criteria.mode {
        Mode::Do => ("removed", "freed"),
        Mode::Pretend => ("would remove", "would free"),
    };
    let say = |text: String| output::talk(None, &printable(&text));
    for (name, digest) in &pruned.names {
        let name = name.as_deref().unwrap_or_default();
        output::data(&output::name_with_digest(name, digest));
    }
    for (tree, bytes) in &pruned.trees {
        let bytes = table::size(*bytes);
        say(format!("{removed} from this node: {}, {bytes} of memory", name_of(tree)));
    }
    for (tree, user) in &pruned.in_use {
        say(format!("{} stays on this node: {user} uses it", name_of(tree)));
    }
    for name in &pruned.containers {
        say(format!("{removed} from this node: container {name}"));
    }
    for container in &pruned.stay {
        let why = match container.is_running {
            true => "somebody runs it",
            false => "it may be wanted; --containers removes it",
        };
        say(format!("container {} stays on this node: {why}", container.name));
    }
    let mut parts = Vec::new();
    if pruned.files > 0 {
        let (place, bytes) = (repository.own_path().display(), table::size(pruned.stored));
        let plural = if pruned.files == 1 { "" } else { "s" };
        parts.push(format!("{bytes} in {place} ({} file{plural})", pruned.files));
    }
    if !pruned.trees.is_empty() {
        parts.push(format!("{} of memory on this node", table::size(pruned.memory())));
    }
    match parts.is_empty() {
        true if !pruned.containers.is_empty() => {}
        true => say("nothing to remove".to_owned()),
        false => say(format!("{freed} {}", parts.join(" and "))),
    }
}

fn name_of(tree: &Tree) -> String {
    match tree.names.is_empty() {
        true => tree.digest.to_string(),
        false => tree.names.join(", "),
    }
}

fn as_json(pruned: &Pruned, mode: Mode) -> String {
    let images = pruned.names.iter();
    let images = images.map(|(name, digest)| json!({"reference": name, "digest": digest.as_str()}));
    let trees = pruned.trees.iter().map(|(tree, bytes)| {
        json!({"names": tree.names, "digest": tree.digest.as_str(), "memory": bytes})
    });
    let in_use = pruned.in_use.iter().map(|(tree, user)| tree_as_json(tree, Some(*user)));
    json!({
        "done": mode == Mode::Do,
        "images": images.collect::<Vec<_>>(),
        "files": pruned.files,
        "bytes": pruned.stored,
        "trees": trees.collect::<Vec<_>>(),
        "memory": pruned.memory(),
        "in_use": in_use.collect::<Vec<_>>(),
        "containers": pruned.containers,
    })
    .to_string()
}
