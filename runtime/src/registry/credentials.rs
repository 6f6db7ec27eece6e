//! Passwords where `docker login`, `podman login` and `skopeo login` leave them.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;

use crate::reference::DEFAULT_REGISTRY;

/// A user and a password for one registry. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Credentials {
    pub(super) user: String,
    pub(super) password: String,
}

#[derive(Deserialize)]
struct AuthFile {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    auth: Option<String>,
}

impl Credentials {
    /// Looks through the files in the order in which skopeo and podman do; the first hit wins.
    pub(super) fn find(registry: &str) -> Option<Credentials> {
        files().into_iter().find_map(|path| {
            // A file that is absent or not readable holds nothing for us; that access is refused
            // for want of credentials is said by the one who is refused.
            Credentials::in_file(&fs::read(path).ok()?, registry)
        })
    }

    fn in_file(bytes: &[u8], registry: &str) -> Option<Credentials> {
        let file: AuthFile = serde_json::from_slice(bytes).ok()?;
        let mut names = vec![registry];
        if registry == DEFAULT_REGISTRY {
            names.extend(["index.docker.io", "registry-1.docker.io"]);
        }
        // One without a secret is a note that a helper program has it; another name may have one.
        let mut entries = file.auths.iter().filter(|(key, _)| names.contains(&host_of(key)));
        let auth = entries.find_map(|(_, entry)| entry.auth.as_deref())?;
        let decoded = STANDARD.decode(auth).ok()?;
        let (user, password) = str::from_utf8(&decoded).ok()?.split_once(':')?;
        Some(Credentials { user: user.to_owned(), password: password.to_owned() })
    }
}

/// Keys are hosts, or URLs as docker wrote them: `https://index.docker.io/v1/`.
fn host_of(key: &str) -> &str {
    let key = key.split_once("://").map_or(key, |(_, rest)| rest);
    key.split('/').next().unwrap_or(key)
}

fn files() -> Vec<PathBuf> {
    let var = |name: &str| env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    let docker = var("DOCKER_CONFIG").or_else(|| Some(var("HOME")?.join(".docker")));
    [
        var("REGISTRY_AUTH_FILE"),
        var("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")),
        docker.map(|dir| dir.join("config.json")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_found_under_the_names_that_tools_write() {
        let file = br#"{"auths":{"docker.io":{},"https://index.docker.io/v1/":{"auth":"YTpiOmM="},
            "nvcr.io":{"auth":"JG9hdXRodG9rZW46a2V5"},"empty.io":{}},"credsStore":"x"}"#;
        let find = |registry| Credentials::in_file(file, registry).map(|c| (c.user, c.password));
        assert_eq!(find("docker.io"), Some(("a".into(), "b:c".into())));
        assert_eq!(find("nvcr.io"), Some(("$oauthtoken".into(), "key".into())));
        assert_eq!(find("empty.io"), None);
        assert_eq!(find("evil.nvcr.io"), None);
    }
}
