//! What a registry asks for with a 401: the challenges of its `WWW-Authenticate` headers
//! (RFC 9110, 11.6.1).

use reqwest::{Response, Url, header::WWW_AUTHENTICATE};

/// One challenge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: Scheme,
    parameters: Vec<(String, String)>,
}

/// The schemes that registries use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Basic,
    Bearer,
}

impl Challenge {
    /// The challenge to answer. A token does where there is a choice: it can be had without
    /// credentials, too.
    pub(super) fn of(response: &Response) -> Option<Challenge> {
        let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
        choose(headers.filter_map(|value| value.to_str().ok()))
    }

    fn get(&self, name: &str) -> Option<&str> {
        let found = self.parameters.iter().find(|(n, _)| n == name);
        // nvcr.io and GitLab send scope="" where they mean none.
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    }

    /// Where tokens are to be had, if that is a URL.
    pub(super) fn realm(&self) -> Option<Url> {
        Url::parse(self.get("realm")?).ok()
    }

    /// What the token has to allow, if the registry says.
    pub(super) fn scope(&self) -> Option<&str> {
        self.get("scope")
    }

    /// What to ask for there, as query or form. nvcr.io has no service.
    pub(super) fn question<'a>(
        &'a self,
        scope: Option<&'a str>,
    ) -> impl Iterator<Item = (&'static str, &'a str)> {
        let service = self.get("service").map(|service| ("service", service));
        service.into_iter().chain(scope.map(|scope| ("scope", scope)))
    }
}

pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Challenge> {
    let mut challenges: Vec<_> = headers.flat_map(parse).collect();
    challenges.sort_by_key(|challenge| challenge.scheme == Scheme::Basic);
    challenges.into_iter().next()
}

/// Reads a header's challenges: `SCHEME NAME=VALUE, NAME="VALUE", SCHEME …`. The comma separates
/// parameters and challenges alike; a word without `=` is a scheme, and the parameters after it are
/// its. Schemes that no registry uses are passed over, and whatever follows what is no challenge.
fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut current: Option<Challenge> = None;
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            break;
        }
        let Some(value) = after.trim_start_matches([' ', '\t']).strip_prefix('=') else {
            let scheme = match word.to_ascii_lowercase().as_str() {
                "basic" => Some(Scheme::Basic),
                "bearer" => Some(Scheme::Bearer),
                _ => None,
            };
            challenges.extend(current.take());
            current = scheme.map(|scheme| Challenge { scheme, parameters: Vec::new() });
            rest = after;
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let (value, after) = value.split_at(value.find(',').unwrap_or(value.len()));
                (value.trim_end().to_owned(), after)
            }
        };
        if let Some(challenge) = &mut current {
            challenge.parameters.push((word.to_ascii_lowercase(), value));
        }
        rest = after;
    }
    challenges.extend(current);
    challenges
}

/// Reads a quoted-string after its opening quote; returns it and what follows it. Without a
/// closing quote, it ends with the header.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The token URL that a pull of `a/b` would ask; `Basic`; or `-`.
    fn answer(headers: &[&str]) -> String {
        let Some(challenge) = choose(headers.iter().copied()) else { return "-".into() };
        match (challenge.scheme, challenge.realm()) {
            (Scheme::Basic, _) => "Basic".into(),
            (Scheme::Bearer, None) => "no realm".into(),
            (Scheme::Bearer, Some(mut realm)) => {
                let scope = challenge.scope().unwrap_or("repository:a/b:pull");
                realm.query_pairs_mut().extend_pairs(challenge.question(Some(scope)));
                realm.to_string()
            }
        }
    }

    #[test]
    fn challenges_are_read_as_registries_write_them() {
        const OURS: &str = "scope=repository%3Aa%2Fb%3Apull";
        for (who, headers, expected) in [
            (
                "Docker Hub",
                &[
                    r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/golang:pull""#,
                ][..],
                "https://auth.docker.io/token?service=registry.docker.io&scope=repository%3Alibrary%2Fgolang%3Apull",
            ),
            (
                "nvcr.io",
                &[
                    r#"Bearer realm="https://nvcr.io/proxy_auth",scope="repository:nvidia/k8s-device-plugin:pull""#,
                ],
                "https://nvcr.io/proxy_auth?scope=repository%3Anvidia%2Fk8s-device-plugin%3Apull",
            ),
            (
                "nvcr.io, /v2/",
                &[r#"Bearer realm="https://nvcr.io/proxy_auth",scope="""#],
                &format!("https://nvcr.io/proxy_auth?{OURS}"),
            ),
            (
                "ghcr.io",
                &[
                    r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:ydb-platform/local-ydb:pull""#,
                ],
                "https://ghcr.io/token?service=ghcr.io&scope=repository%3Aydb-platform%2Flocal-ydb%3Apull",
            ),
            (
                "a quote short",
                &[
                    r#"Bearer realm="https://ghcr.io/token",service="ghcr.io",scope="repository:user/image:pull"#,
                ],
                "https://ghcr.io/token?service=ghcr.io&scope=repository%3Auser%2Fimage%3Apull",
            ),
            (
                "quay.io",
                &[r#"Bearer realm="https://quay.io/v2/auth",service="quay.io""#],
                &format!("https://quay.io/v2/auth?service=quay.io&{OURS}"),
            ),
            (
                "registry.gitlab.com",
                &[r#"Bearer realm="https://gitlab.com/jwt/auth",service="container_registry""#],
                &format!("https://gitlab.com/jwt/auth?service=container_registry&{OURS}"),
            ),
            (
                "ECR",
                &[
                    r#"Basic realm="https://111111111111.dkr.ecr.us-east-1.amazonaws.com/",service="ecr.amazonaws.com""#,
                ],
                "Basic",
            ),
            (
                "ECR Public",
                &[
                    r#"Bearer realm="https://public.ecr.aws/token/",service="public.ecr.aws",scope="aws""#,
                ],
                "https://public.ecr.aws/token/?service=public.ecr.aws&scope=aws",
            ),
            (
                "ACR",
                &[
                    r#"Bearer realm="https://contoso.azurecr.io/oauth2/token",service="contoso.azurecr.io""#,
                ],
                &format!(
                    "https://contoso.azurecr.io/oauth2/token?service=contoso.azurecr.io&{OURS}"
                ),
            ),
            (
                "ACR, after a wrong password",
                &[r#"Basic realm="Azure Container Registry""#],
                "Basic",
            ),
            (
                "GCR, unquoted",
                &[r#"Bearer realm="https://gcr.io/v2/token",service=gcr.io"#],
                &format!("https://gcr.io/v2/token?service=gcr.io&{OURS}"),
            ),
            (
                "Artifact Registry",
                &[r#"Bearer realm="https://us-docker.pkg.dev/v2/token""#],
                &format!("https://us-docker.pkg.dev/v2/token?{OURS}"),
            ),
            (
                "Harbor",
                &[
                    r#"Bearer realm="https://harbor.example.com/service/token",service="harbor-registry",scope="repository:library/redis:pull""#,
                ],
                "https://harbor.example.com/service/token?service=harbor-registry&scope=repository%3Alibrary%2Fredis%3Apull",
            ),
            (
                "Gitea",
                &[
                    r#"Bearer realm="https://git.example.com/v2/token",service="container_registry",scope="*""#,
                ],
                "https://git.example.com/v2/token?service=container_registry&scope=*",
            ),
            (
                "an expired token",
                &[
                    r#"Bearer realm="https://authn.nvidia.com/token",service="registry",scope="repository:a/b:pull",error="invalid_token""#,
                ],
                &format!("https://authn.nvidia.com/token?service=registry&{OURS}"),
            ),
            (
                "two in one line",
                &[
                    r#"Basic realm="x", Bearer realm="https://r.example.com/t",service="r, and more""#,
                ],
                &format!("https://r.example.com/t?service=r%2C+and+more&{OURS}"),
            ),
            (
                "two in one line, the other way round",
                &[r#"Bearer realm="https://r.example.com/t" , Basic realm="a \"b\" Bearer c""#],
                &format!("https://r.example.com/t?{OURS}"),
            ),
            (
                "two in two lines, one in a scheme of its own",
                &[
                    "Negotiate YWJj==",
                    "Basic realm=\"x\", charset=UTF-8",
                    "Bearer realm=\"https://r.example.com/t\"",
                ],
                &format!("https://r.example.com/t?{OURS}"),
            ),
            (
                "odd spacing and case",
                &["  bEARER\tRealm = \"https://r.example.com/t?x=1\" ,, SERVICE= r "],
                &format!("https://r.example.com/t?x=1&service=r&{OURS}"),
            ),
            ("a bare scheme", &["basic"], "Basic"),
            ("no place for tokens", &["Bearer service=\"r\""], "no realm"),
            ("none that is known", &["Negotiate", "Digest realm=\"https://r.example.com\""], "-"),
            ("nothing", &["", ",", "=", "\"", "a=\"", "=\"\\"], "-"),
        ] {
            assert_eq!(answer(headers), expected, "{who}");
        }
    }
}
