//! `index.json`: which names there are, and of what (image-layout.md).

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{digest::Digest, oci::Descriptor, reference::Reference};

/// The key of a name in index.json (annotations.md). The name is the whole canonical reference,
/// so that images of several registries lie side by side.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The digest that the tag had in the registry: an index's, where the image came out of one.
const RESOLVED: &str = "io.shifter.resolved";

/// The file. What other tools have written into it stays as it is.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Index {
    #[serde(default)]
    manifests: Vec<Value>,
    #[serde(flatten)]
    rest: Map<String, Value>,
}

/// One name of one image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// As it is written. Other tools write any text, or none.
    pub name: Option<String>,
    /// What has the name: a manifest, or another tool's index.
    pub target: Descriptor,
    /// What the registry gave for the name.
    pub resolved: Option<Digest>,
}

impl Entry {
    /// The name, if it is one that Shifter gives.
    pub fn reference(&self) -> Option<Reference> {
        let name = self.name.as_ref()?;
        name.parse().ok().filter(|reference: &Reference| reference.to_string() == *name)
    }

    fn read(value: &Value) -> Option<Entry> {
        let target: Descriptor = serde_json::from_value(value.clone()).ok()?;
        let name = target.annotations.get(REF_NAME).cloned();
        let resolved = target.annotations.get(RESOLVED).and_then(|text| Digest::parse(text).ok());
        Some(Entry { name, target, resolved })
    }
}

impl Index {
    /// One without names.
    pub(super) fn new() -> Index {
        let rest = Map::from_iter([("schemaVersion".to_owned(), json!(2))]);
        Index { manifests: Vec::new(), rest }
    }

    /// All that can be read.
    pub(super) fn entries(&self) -> impl Iterator<Item = Entry> {
        self.manifests.iter().filter_map(Entry::read)
    }

    /// Removes entries; what cannot be read stays.
    pub(super) fn retain(&mut self, keep: impl Fn(&Entry) -> bool) {
        self.manifests.retain(|value| Entry::read(value).is_none_or(|entry| keep(&entry)));
    }

    /// Gives a name to a manifest; what had the name loses it.
    pub(super) fn name(&mut self, name: String, manifest: Descriptor, resolved: &Digest) {
        self.retain(|entry| entry.name.as_ref() != Some(&name));
        let annotations = BTreeMap::from([
            (REF_NAME.to_owned(), name),
            (RESOLVED.to_owned(), resolved.to_string()),
        ]);
        let entry = Descriptor { annotations, ..manifest };
        self.manifests.push(serde_json::to_value(entry).expect("plain data serialises"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_have_written_stays() {
        let hex = "1".repeat(64);
        let text = format!(
            r#"{{"schemaVersion":2,"annotations":{{"x":"y"}},"manifests":[{{"digest":"sha512:1","size":1}},
            {{"mediaType":"m","digest":"sha256:{hex}","size":7,"artifactType":"t",
            "annotations":{{"{REF_NAME}":"plain"}}}}]}}"#
        );
        let mut index: Index = serde_json::from_str(&text).expect("an index");
        let entries: Vec<_> = index.entries().collect();
        assert_eq!(entries.len(), 1, "sha512 is another tool's");
        assert_eq!((entries[0].name.as_deref(), entries[0].reference()), (Some("plain"), None));
        let digest = Digest::of(b"");
        let own = Descriptor { digest: digest.clone(), ..entries[0].target.clone() };
        index.name("docker.io/library/x:1".to_owned(), own, &digest);
        let text = serde_json::to_string(&index).expect("written");
        for part in [r#""annotations":{"x":"y"}"#, "sha512:1", r#""artifactType":"t""#] {
            assert!(text.contains(part), "no {part} in {text}");
        }
        index.retain(|entry| entry.resolved != Some(digest.clone()));
        assert_eq!(index.entries().count(), 1);
    }
}
