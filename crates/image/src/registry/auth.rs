//! `WWW-Authenticate` challenges of registries (RFC 9110 section 11.6.1, distribution token specification).

/// How a registry wants to be convinced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// User name and password with every request.
    Basic,
    /// A token from `realm`.
    Bearer {
        /// URL of the token service.
        realm: String,
        /// Name of the registry as the token service knows it.
        service: Option<String>,
        /// What the token has to allow.
        scope: Option<String>,
    },
}

impl Challenge {
    /// Picks the challenge we can answer best: a bearer token, else basic. `None` when there is neither.
    pub(super) fn choose<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let challenges: Vec<Self> = headers.flat_map(parse).collect();
        let bearer = challenges.iter().find(|challenge| matches!(challenge, Self::Bearer { .. }));
        bearer.or(challenges.first()).cloned()
    }
}

/// Parses one header, which may hold several challenges. What cannot be understood is left out.
fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges = Vec::new();
    let mut current: Option<(String, Vec<(String, String)>)> = None;
    let mut rest = header.trim_start_matches([' ', ',', '\t']);
    while !rest.is_empty() {
        let word_end = rest.find([' ', '=', ',', '\t']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_end);
        if let Some(value_text) = after.strip_prefix('=') {
            let (value, remaining) = take_value(value_text);
            if let Some((_, parameters)) = &mut current {
                parameters.push((word.to_ascii_lowercase(), value));
            }
            rest = remaining;
        } else {
            challenges.extend(current.take().and_then(finish));
            current = Some((word.to_ascii_lowercase(), Vec::new()));
            rest = after;
        }
        rest = rest.trim_start_matches([' ', ',', '\t']);
    }
    challenges.extend(current.and_then(finish));
    challenges
}

/// Takes a token or a quoted string off the front.
fn take_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ' ']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (value.to_owned(), rest);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((position, character)) = characters.next() {
        match character {
            '"' => return (value, quoted.get(position + 1..).unwrap_or_default()),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

fn finish((scheme, parameters): (String, Vec<(String, String)>)) -> Option<Challenge> {
    let get = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
    match scheme.as_str() {
        "basic" => Some(Challenge::Basic),
        "bearer" => {
            Some(Challenge::Bearer { realm: get("realm")?, service: get("service"), scope: get("scope") })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn reads_the_challenge_of_docker_hub() {
        let header = r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/nginx:pull,push""#;
        assert_eq!(
            Challenge::choose([header].into_iter()),
            Some(Challenge::Bearer {
                realm: "https://auth.docker.io/token".into(),
                service: Some("registry.docker.io".into()),
                scope: Some("repository:library/nginx:pull,push".into()),
            })
        );
    }

    #[test]
    fn prefers_a_token_over_a_password() {
        let header = r#"Basic realm="x", BEARER realm=https://t.example"#;
        assert!(matches!(Challenge::choose([header].into_iter()), Some(Challenge::Bearer { .. })));
        assert_eq!(Challenge::choose([r#"basic realm="a, b""#].into_iter()), Some(Challenge::Basic));
        assert_eq!(Challenge::choose(["Negotiate", "Bearer"].into_iter()), None);
    }

    proptest! {
        #[test]
        fn never_panics_and_always_ends(header in "\\PC{0,60}|(Bearer|Basic|=|,|\"|\\\\| |realm){0,20}") {
            let _ = Challenge::choose([header.as_str()].into_iter());
        }
    }
}
