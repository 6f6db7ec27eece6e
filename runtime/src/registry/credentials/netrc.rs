//! enroot's credentials: `machine HOST login USER password PASSWORD`, as in netrc(5).
//!
//! enroot has a shell evaluate passwords that begin with `$`. Here none is: a file that is read as
//! data must not run anything.

use std::path::Path;

use super::{Found, Problem, Secret, Source};
use crate::login::{Login, hub};

/// Looks for the registry's entry.
pub(super) fn look(path: &Path, bytes: &[u8], registry: &str) -> Result<Option<Found>, Problem> {
    let text = String::from_utf8_lossy(bytes);
    let entries = parse(&text);
    let is_named = |name: &str| hub(name).unwrap_or(name) == registry;
    // netrc knows no ports: a host's entry is for all of them.
    let host = registry.rsplit_once(':').map_or(registry, |(host, _)| host);
    let named = entries.iter().find(|entry| is_named(entry.machine));
    let Some(entry) = named.or_else(|| entries.iter().find(|entry| entry.machine == host)) else {
        return Ok(None);
    };
    let (Some(user), Some(password)) = (&entry.user, &entry.password) else { return Ok(None) };
    if is_expression(password) {
        return Err(Problem::Expression(path.to_owned()));
    }
    let (user, password) = (user.clone(), password.clone());
    let login = Login { registry: registry.to_owned(), user, password };
    Ok(Some(Found::at(Secret::Password(login), Source::File(path.to_owned()))))
}

#[derive(Default)]
struct Entry<'a> {
    machine: &'a str,
    user: Option<String>,
    password: Option<String>,
}

fn parse(text: &str) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    let mut keyword = "";
    for line in text.lines().filter(|line| !line.trim_start().starts_with('#')) {
        let mut rest = line.trim_start();
        while !rest.is_empty() {
            let (word, after) = rest.split_at(rest.find(char::is_whitespace).unwrap_or(rest.len()));
            rest = after.trim_start();
            match std::mem::take(&mut keyword) {
                "machine" => entries.push(Entry { machine: word, ..Entry::default() }),
                "login" => {
                    if let Some(entry) = entries.last_mut() {
                        entry.user = Some(unquote(word));
                    }
                }
                "password" => {
                    if let Some(entry) = entries.last_mut() {
                        entry.password = Some(unquote(word));
                    }
                    if is_expression(word) {
                        break; // it goes on to the end of the line, whatever its words are
                    }
                }
                _ => match word {
                    // An entry for every other host is for no registry.
                    "default" => entries.push(Entry::default()),
                    word => keyword = word,
                },
            }
            if !matches!(keyword, "machine" | "login" | "password") {
                keyword = "";
            }
        }
    }
    entries
}

/// curl, which reads the file for enroot, takes words in quotes.
fn unquote(word: &str) -> String {
    let inner = word.strip_prefix('"').and_then(|word| word.strip_suffix('"'));
    inner.map_or_else(|| word.to_owned(), |inner| inner.replace("\\\"", "\"").replace("\\\\", "\\"))
}

/// Whether enroot or a shell would make something else of it.
fn is_expression(password: &str) -> bool {
    let password = password.trim_start_matches('"');
    let named = |c: char| c.is_ascii_alphabetic() || c == '_' || c == '{';
    let variable = password.strip_prefix('$').is_some_and(|rest| rest.starts_with(named));
    variable || password.contains("$(") || password.contains('`')
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# both are required\n\
        machine nvcr.io login $oauthtoken password key\n\
        machine auth.docker.io\n  login alice\n\tpassword s3\n\
        machine host.example.com login b password p#$1\n\
        machine host.example.com:5000 login c password \"q\\\"\"\n\
        machine aws.example.com login AWS password $(aws ecr machine nvcr.io password x)\n\
        machine var.example.com login v password ${TOKEN}\n\
        machine back.example.com login w password `cat x`\n\
        machine last.example.com password only\n\
        default login d password d\n";

    fn find(registry: &str) -> Result<Option<String>, Problem> {
        let found = look(Path::new("/c"), FILE.as_bytes(), registry)?;
        Ok(found.and_then(|found| match found.secret? {
            Secret::Password(login) => Some(format!("{}:{}", login.user, login.password)),
            Secret::IdentityToken(_) => None,
        }))
    }

    #[test]
    fn an_entry_is_found_by_its_machine() {
        for (registry, expected) in [
            ("nvcr.io", Some("$oauthtoken:key")),
            ("docker.io", Some("alice:s3")),
            ("host.example.com", Some("b:p#$1")),
            ("host.example.com:5000", Some("c:q\"")),
            ("host.example.com:5001", Some("b:p#$1")),
            ("last.example.com", None),
            ("example.com", None),
            ("other.example.com", None),
        ] {
            assert_eq!(find(registry), Ok(expected.map(str::to_owned)), "{registry}");
        }
    }

    #[test]
    fn nothing_is_evaluated() {
        for registry in ["aws.example.com", "var.example.com", "back.example.com"] {
            let problem = find(registry).expect_err(registry);
            assert_eq!(problem, Problem::Expression("/c".into()));
        }
    }
}
