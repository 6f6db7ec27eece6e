//! Images that are to be run, whatever they are named by.

use std::env;

use runtime::{
    Config, Digest, Image, Reference, Source, import,
    options::Tag,
    pull::{self, Event, Fleet},
    report::Report,
};

use crate::output::{Progress, Style};

/// Reads what was typed in the working directory.
pub(crate) fn typed(text: &str) -> Result<Source, Report> {
    let (cwd, home) = (env::current_dir().ok(), runtime::config::home());
    Source::typed(text, cwd.as_deref(), home.as_deref()).map_err(|e| Report::from(&e))
}

/// Reads what can be nothing but the name of an image in a registry, to do `verb`.
pub(crate) fn in_registry(text: &str, verb: &str) -> Result<Reference, Report> {
    match typed(text)? {
        Source::Registry(reference) => Ok(reference),
        Source::OnDisk(_) => {
            let remedy =
                "run it as it is (shifter run), or give it a name: shifter import FILE NAME";
            Err(Report::usage(&format!("{verb} {text}: it is in no registry"), remedy))
        }
    }
}

/// Reads what was typed for an image that may be here already: a path is absolute in its name.
pub(crate) fn name_of(text: &str) -> String {
    match typed(text) {
        Ok(Source::OnDisk(place)) => place.to_string(),
        // What else it may be, is told by what there is.
        _ => text.to_owned(),
    }
}

/// Makes sure that an image is on this node, and returns it. `known` is the digest that it was found
/// to have before, if it shall be the same one; `tag` says whether a tag has to be asked for again.
/// `hear` is told all that happens. The other nodes of `fleet` want it too.
pub(crate) fn ensure(
    source: &Source,
    known: Option<Digest>,
    tag: Option<Tag>,
    fleet: Option<&Fleet>,
    config: &Config,
    style: Style,
    hear: &mut dyn FnMut(&Event<'_>),
) -> Result<Image, Report> {
    match source {
        Source::Registry(reference) => {
            let pinned = match known {
                Some(digest) => reference.pinned(digest),
                None => reference.clone(),
            };
            let mut progress = Progress::new(source, style);
            let mut tell = |event: Event<'_>| {
                hear(&event);
                progress.tell(event);
            };
            let tag = tag.unwrap_or(Tag::Stored);
            let image = pull::ensure_in(fleet, &pinned, tag, config, &mut tell)
                .map_err(|e| Report::from(&e).during(format_args!("pull {reference}")))?;
            // Messages name it as the user did.
            Ok(Image { source: source.clone(), ..image })
        }
        Source::OnDisk(place) => {
            let mut progress = Progress::of_file(source, style);
            let mut tell = |event: Event<'_>| {
                hear(&event);
                progress.tell(event);
            };
            import::ensure(place, known.as_ref(), config, &mut tell).map_err(|e| Report::from(&e))
        }
    }
}
