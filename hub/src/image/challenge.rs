//! `WWW-Authenticate` headers (RFC 9110, 11.6.1).

/// One way to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Challenge {
    /// `Basic`, `Bearer`.
    pub scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter's value; names in small letters.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters
            .iter()
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The challenges of one header. What cannot be read is left out.
pub fn parse_challenges(header: &str) -> Vec<Challenge> {
    let mut out: Vec<Challenge> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        if end == 0 {
            return out;
        }
        let (word, after) = rest.split_at(end);
        let after = after.trim_start_matches([' ', '\t']);
        let Some(value) = after.strip_prefix('=') else {
            // No '=': the word is a scheme.
            out.push(Challenge {
                scheme: word.to_owned(),
                parameters: Vec::new(),
            });
            rest = after;
            continue;
        };
        let value = value.trim_start_matches([' ', '\t']);
        let (value, after) = match value.strip_prefix('"') {
            Some(quoted) => unquote(quoted),
            None => {
                let end = value.find([' ', '\t', ',']).unwrap_or(value.len());
                (value[..end].to_owned(), &value[end..])
            }
        };
        if let Some(challenge) = out.last_mut() {
            challenge
                .parameters
                .push((word.to_ascii_lowercase(), value));
        }
        rest = after;
    }
}

/// A quoted string up to its closing quote, and what follows.
fn unquote(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_what_registries_send() {
        let header = r#"Bearer realm="https://auth.example/token?a=b",service="registry, \"one\"" , scope="repository:a/b:pull,push", Basic realm=plain"#;
        let challenges = parse_challenges(header);
        assert_eq!(challenges.len(), 2);
        assert_eq!(challenges[0].scheme, "Bearer");
        assert_eq!(
            challenges[0].parameter("realm"),
            Some("https://auth.example/token?a=b")
        );
        assert_eq!(
            challenges[0].parameter("service"),
            Some("registry, \"one\"")
        );
        assert_eq!(
            challenges[0].parameter("scope"),
            Some("repository:a/b:pull,push")
        );
        assert_eq!(challenges[1].parameter("realm"), Some("plain"));
        assert!(parse_challenges("").is_empty());
    }

    proptest! {
        #[test]
        fn ends_for_any_text(text in "\\PC{0,80}|[a-z=\", \\\\]{0,80}") {
            let _ = parse_challenges(&text);
        }
    }
}
