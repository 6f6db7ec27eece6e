//! `shifter inspect REF`.

use clap::Args;
use runtime::{
    Config, Digest,
    oci::{Document, ImageConfig, Manifest},
    report::Report,
    repository::{Error, Found, Repository, Whose},
};
use serde_json::{Value, json};

use crate::{
    image,
    images::{layer, squashfs, state, tree_as_json},
    output,
};

/// Show all that is known of an image that is here.
///
/// Prints JSON. No registry is asked. The documents come byte for byte, as their digests cover them;
/// on a terminal, what could rewrite it is escaped.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The image's configuration
    #[arg(long, group = "what")]
    config: bool,
    /// The manifest of this platform's image
    #[arg(long, group = "what")]
    manifest: bool,
    /// What the registry has under the name: an index, if the image is one of several platforms'
    #[arg(long, group = "what")]
    raw: bool,
    #[arg(
        value_name = "REF",
        help = "The image: its name, its digest, the first digits (6 or more) of that, or the path of \
                one that was run from there"
    )]
    reference: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Report> {
    let config = Config::load().map_err(|e| Report::from(&e))?;
    let repository = Repository::open(&config).map_err(|e| Report::from(&e))?;
    let found = repository
        .find(&image::name_of(&arguments.reference))
        .map_err(|e| Report::from(&e.to_read()))?;
    let document = |what, digest: &Digest| {
        repository.document(digest).ok_or_else(|| {
            let (text, digest) = (arguments.reference.clone(), digest.clone());
            Report::from(&Error::NoDocument { text, what, digest })
        })
    };
    if arguments.raw {
        let resolved = found.images.iter().find_map(|image| image.stored.entry.resolved.clone());
        let top = resolved.unwrap_or_else(|| found.digest.clone());
        output::document(&document("index", &top)?);
        return Ok(());
    }
    let raw = document("manifest", &found.digest)?;
    if arguments.manifest {
        output::document(&raw);
        return Ok(());
    }
    let manifest = match Document::parse(&raw, None) {
        Ok(Document::Manifest(manifest)) => manifest,
        // A digest of an index's stands for the manifest in it by now.
        Ok(Document::Index(_)) => {
            output::document(&raw);
            return Ok(());
        }
        Err(error) => return Err(Report::from(&runtime::pull::Error::from(error))),
    };
    let raw = document("configuration", &manifest.config.digest)?;
    if arguments.config {
        output::document(&raw);
        return Ok(());
    }
    let config = ImageConfig::parse(&raw, &manifest);
    let config = config.map_err(|e| Report::from(&runtime::pull::Error::from(e)))?;
    let described = describe(&repository, &found, &manifest, &config)?;
    output::json(&described);
    Ok(())
}

fn describe(
    repository: &Repository,
    found: &Found,
    manifest: &Manifest,
    config: &ImageConfig,
) -> Result<Value, Report> {
    let (images, _) = repository.images();
    let same: Vec<_> = images.iter().filter(|image| image.stored.digest == found.digest).collect();
    let mut names: Vec<_> = same.iter().filter_map(|i| i.stored.entry.name.clone()).collect();
    names.extend(found.trees.iter().flat_map(|tree| tree.names.clone()));
    names.sort();
    names.dedup();
    let mut stores: Vec<Value> = Vec::new();
    for image in &same {
        let store = json!({
            "path": image.store.to_string_lossy(),
            "shared": image.whose == Whose::Site,
            "state": state(image.stored.state),
            "squashfs": squashfs(&image.stored),
        });
        if !stores.contains(&store) {
            stores.push(store);
        }
    }
    let users = repository.users(&found.trees).map_err(|e| Report::from(&e))?;
    let trees = found.trees.iter().zip(users);
    let layers =
        manifest.layers.iter().zip(&config.rootfs.diff_ids).map(|(descriptor, diff_id)| {
            let mut value = layer(descriptor);
            value["diff_id"] = json!(diff_id.as_str());
            value
        });
    let resolved = found.images.iter().find_map(|image| image.stored.entry.resolved.as_ref());
    let run = &config.config;
    Ok(json!({
        "names": names,
        "digest": found.digest.as_str(),
        "resolved": resolved.map(Digest::as_str),
        "platform": format!("{}/{}", config.os, config.architecture),
        "created": config.created,
        "env": run.env,
        "entrypoint": run.entrypoint,
        "cmd": run.cmd,
        "workdir": run.working_dir,
        "labels": run.labels,
        "layers": layers.collect::<Vec<_>>(),
        "size": manifest.download_size(),
        "stores": stores,
        "node": trees.map(|(tree, user)| tree_as_json(tree, user)).collect::<Vec<_>>(),
    }))
}
