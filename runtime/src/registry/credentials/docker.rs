//! Docker's config.json, and the auth.json of podman and skopeo, which is its child
//! (containers-auth.json(5)).

use std::{collections::BTreeMap, path::Path};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use super::{Found, Problem, Secret, Source, helper};
use crate::{
    login::{Login, host_of, hub},
    reference::DEFAULT_REGISTRY,
};

/// What docker calls its own registry, towards helpers too.
const HUB_KEY: &str = "https://index.docker.io/v1/";

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
    #[serde(default)]
    cred_helpers: BTreeMap<String, String>,
    creds_store: Option<String>,
}

/// One without a secret is a note that a helper program has it.
#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
    identitytoken: Option<String>,
}

/// Looks for credentials in a file of this format.
pub(super) fn look(
    path: &Path,
    bytes: &[u8],
    registry: &str,
    repository: &str,
) -> Result<Option<Found>, Problem> {
    // serde_json's own words may hold a secret: it quotes what it did not expect.
    let bad = |e: serde_json::Error| {
        Problem::unreadable(
            path,
            &format!("not understood (line {}, column {})", e.line(), e.column()),
        )
    };
    let file: File = serde_json::from_slice(bytes).map_err(bad)?;
    let ask = |name: &str, server: &str| helper::ask(path, name, server, registry);
    // A helper that is named for the registry is asked instead of looking here.
    let named = file.cred_helpers.iter().find(|(key, _)| canonical(key) == registry);
    if let Some((key, name)) = named.filter(|(_, name)| !name.is_empty()) {
        return ask(name, key);
    }
    if let Some(entry) = file.entry(registry, repository) {
        let secret = entry.secret(registry).ok_or_else(|| {
            Problem::unreadable(path, &format!("its entry for {registry} is not understood"))
        })?;
        return Ok(Some(Found::at(secret, Source::File(path.to_owned()))));
    }
    match file.creds_store.as_deref().filter(|name| !name.is_empty()) {
        Some(name) => ask(name, if registry == DEFAULT_REGISTRY { HUB_KEY } else { registry }),
        None => Ok(None),
    }
}

impl File {
    /// The entry for the longest part of `registry/repository` that has one.
    fn entry(&self, registry: &str, repository: &str) -> Option<&Entry> {
        let name = format!("{registry}/{repository}");
        let ends = name.rmatch_indices('/').map(|(at, _)| at);
        [name.len()].into_iter().chain(ends).find_map(|end| {
            let mut entries = self.auths.iter().filter(|(_, entry)| entry.has_secret());
            entries.find(|(key, _)| canonical(key) == name[..end]).map(|(_, entry)| entry)
        })
    }
}

/// A key as podman writes it: `HOST` or `HOST/PATH`. Docker writes hosts, and URLs of an API's
/// root: `https://index.docker.io/v1/`.
fn canonical(key: &str) -> String {
    let host = host_of(key);
    let path = match key.contains("://") {
        true => "",
        false => key.strip_prefix(host).unwrap_or_default().trim_end_matches('/'),
    };
    let path = if matches!(path, "/v1" | "/v2") { "" } else { path };
    format!("{}{path}", hub(host).unwrap_or(host))
}

impl Entry {
    fn has_secret(&self) -> bool {
        [&self.auth, &self.identitytoken].into_iter().flatten().any(|secret| !secret.is_empty())
    }

    fn secret(&self, registry: &str) -> Option<Secret> {
        if let Some(token) = self.identitytoken.as_ref().filter(|token| !token.is_empty()) {
            return Some(Secret::IdentityToken(token.clone()));
        }
        let decoded = STANDARD.decode(self.auth.as_deref()?).ok()?;
        let (user, password) = str::from_utf8(&decoded).ok()?.split_once(':')?;
        let (user, password) = (user.to_owned(), password.to_owned());
        Some(Secret::Password(Login { registry: registry.to_owned(), user, password }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(file: &str, name: &str) -> Result<Option<String>, Problem> {
        let (registry, repository) = name.split_once('/').expect("a name");
        let found = look(Path::new("/f"), file.as_bytes(), registry, repository)?;
        Ok(found.and_then(|found| found.secret).map(|secret| match secret {
            Secret::Password(login) => format!("{}:{}", login.user, login.password),
            Secret::IdentityToken(token) => format!("<token>{token}"),
        }))
    }

    #[test]
    fn an_entry_is_found_under_the_names_that_tools_write() {
        let file = r#"{"auths":{"docker.io":{},"https://index.docker.io/v1/":{"auth":"YTpiOmM="},
            "nvcr.io":{"auth":"JG9hdXRodG9rZW46a2V5"},"empty.io":{},"https://old.io/v2/":{"auth":"YTpi"},
            "id.io":{"auth":"MDA6","identitytoken":"eyJ"}},"credHelpers":{"nvcr.io":""}}"#;
        for (name, expected) in [
            ("docker.io/library/x", Some("a:b:c")),
            ("nvcr.io/nvidia/x", Some("$oauthtoken:key")),
            ("old.io/x", Some("a:b")),
            ("id.io/x", Some("<token>eyJ")),
            ("empty.io/x", None),
            ("evil.nvcr.io/x", None),
            ("nvcr.io:5000/x", None),
        ] {
            assert_eq!(find(file, name), Ok(expected.map(str::to_owned)), "{name}");
        }
    }

    #[test]
    fn the_longest_name_that_has_an_entry_wins() {
        // "r", "foo", "bar", "image", each with the password p.
        let file = r#"{"auths":{"r.local":{"auth":"cjpw"},"r.local/foo/":{"auth":"Zm9vOnA="},
            "r.local/foo/bar":{},"r.local/foo/bar/image":{"auth":"aW1hZ2U6cA=="}}}"#;
        for (name, user) in [
            ("r.local/foo/bar/image", "image"),
            ("r.local/foo/bar/images", "foo"),
            ("r.local/foo/bar", "foo"),
            ("r.local/foobar", "r"),
            ("r.local/other", "r"),
        ] {
            assert_eq!(find(file, name), Ok(Some(format!("{user}:p"))), "{name}");
        }
        assert_eq!(find(r#"{"auths":{"r.local/foo":{"auth":"Zm9vOnA="}}}"#, "r.local/x"), Ok(None));
    }

    #[test]
    fn what_is_not_understood_is_said_without_its_content() {
        for (file, why) in [
            (r#"{"auths":{"r.io":"SECRET"}}"#, "/f: not understood (line 1, column 25)"),
            (
                r#"{"auths":{"r.io":{"auth":"SECRET!"}}}"#,
                "/f: its entry for r.io is not understood",
            ),
            (r#"{"auths":{"r.io":{"auth":"YWJj"}}}"#, "/f: its entry for r.io is not understood"),
        ] {
            let problem = find(file, "r.io/x").expect_err(file);
            assert_eq!(problem.to_string(), why);
        }
    }
}
