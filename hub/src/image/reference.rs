//! Image names, read as Docker reads them: `nginx`, `nginx:1.27`,
//! `registry.example:5000/team/web:v1@sha256:…`.
//!
//! Source: the grammar of `distribution/reference`, and its rules for
//! "familiar" names: a first component with a dot or colon, or `localhost`, is
//! a registry; without one the name is on the default registry, and there
//! without a slash in `library/`.

use skerry_wire::Digest;
use std::fmt;
use std::str::FromStr;

/// The registry of names that name none.
pub const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag of names that have neither tag nor digest.
pub const DEFAULT_TAG: &str = "latest";
/// Longest registry and path together, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// Why a text is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not an image name: {problem}")]
pub struct ReferenceError {
    /// The text, cut to 120 characters.
    pub text: String,
    /// What is wrong with it and what to write.
    pub problem: &'static str,
}

/// An image's name in full. Two names are equal when they mean the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    registry: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// `docker.io`, `registry.example:5000`: lower case.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// `library/nginx`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag; absent only when there is a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, which is what counts when there is one.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// As people write it: without what is the default.
    pub fn familiar(&self) -> String {
        let mut out = String::new();
        match (self.registry.as_str(), self.path.strip_prefix("library/")) {
            (DEFAULT_REGISTRY, Some(short)) if !short.contains('/') => out.push_str(short),
            (DEFAULT_REGISTRY, _) => out.push_str(&self.path),
            _ => {
                out.push_str(&self.registry);
                out.push('/');
                out.push_str(&self.path);
            }
        }
        match (&self.tag, &self.digest) {
            (Some(tag), None) if tag == DEFAULT_TAG => {}
            _ => self.push_version(&mut out),
        }
        out
    }

    fn push_version(&self, out: &mut String) {
        if let Some(tag) = &self.tag {
            out.push(':');
            out.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            out.push('@');
            out.push_str(&digest.to_string());
        }
    }
}

/// In full: `docker.io/library/nginx:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut version = String::new();
        self.push_version(&mut version);
        write!(f, "{}/{}{version}", self.registry, self.path)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|problem| wrong(text, problem))
    }
}

fn wrong(text: &str, problem: &'static str) -> ReferenceError {
    ReferenceError {
        text: text.chars().take(120).collect(),
        problem,
    }
}

fn parse(text: &str) -> Result<Reference, &'static str> {
    if text.is_empty() {
        return Err("it is empty; write one as in nginx:1.27");
    }
    if text.contains("://") {
        return Err("it is an address; leave out the part up to ://");
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => {
            let digest = digest.parse::<Digest>();
            (
                rest,
                Some(digest.map_err(|_| "after '@' comes sha256: and 64 hexadecimal digits")?),
            )
        }
        None => (text, None),
    };
    // A colon before the last slash belongs to a port.
    let last = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[last..].split_once(':') {
        Some((_, tag)) => (&rest[..rest.len() - tag.len() - 1], Some(tag)),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, path) = match name.split_once('/') {
        Some((first, path)) if first.contains(['.', ':', '[']) || first == "localhost" => {
            check_registry(first)?;
            (canonical_registry(first), path.to_owned())
        }
        _ => (DEFAULT_REGISTRY.to_owned(), name.to_owned()),
    };
    let path = match registry.as_str() {
        DEFAULT_REGISTRY if !path.contains('/') => format!("library/{path}"),
        _ => path,
    };
    if registry.len() + 1 + path.len() > MAX_NAME_BYTES {
        return Err("it is longer than 255 characters");
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("it has capital letters; write it in small letters");
    }
    if !path.split('/').all(is_component) {
        return Err("use a-z and 0-9, with single '.', '_' or '-' between, and '/' between parts");
    }
    let tag = match (tag, &digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference {
        registry,
        path,
        tag,
        digest,
    })
}

/// The default registry has had other names.
fn canonical_registry(name: &str) -> String {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY.to_owned(),
        _ => name,
    }
}

fn check_tag(tag: &str) -> Result<(), &'static str> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let first = tag.bytes().next().is_some_and(word);
    let all = tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    match first && all && tag.len() <= MAX_TAG_BYTES {
        true => Ok(()),
        false => Err("the tag has 1 to 128 letters, digits, '_', '.' or '-', not '.' or '-' first"),
    }
}

fn check_registry(text: &str) -> Result<(), &'static str> {
    let wrong = "write the registry as in registry.example:5000";
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or(wrong)?;
            address.parse::<std::net::Ipv6Addr>().map_err(|_| wrong)?;
            (None, port)
        }
        None => match text.find(':') {
            Some(at) => (Some(&text[..at]), &text[at..]),
            None => (Some(text), ""),
        },
    };
    if !port.is_empty() {
        let digits = port.strip_prefix(':').ok_or(wrong)?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit());
        if !plain || digits.parse::<u16>().is_err() {
            return Err("the registry's port is a number up to 65535");
        }
    }
    let label = |l: &str| {
        let inner = l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        inner && !l.is_empty() && !l.starts_with('-') && !l.ends_with('-')
    };
    match host.is_none_or(|host| host.split('.').all(label)) {
        true => Ok(()),
        false => Err(wrong),
    }
}

/// `[a-z0-9]+`, joined by `.`, `_`, `__` or any number of `-`.
fn is_component(part: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let separator = |s: &str| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-');
    part.starts_with(word) && part.ends_with(word) && part.split(word).all(separator)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_mean_what_they_mean_to_docker() {
        let sha = format!("sha256:{}", "ab".repeat(32));
        for (text, full, familiar) in [
            ("nginx", "docker.io/library/nginx:latest", "nginx"),
            ("nginx:1.27", "docker.io/library/nginx:1.27", "nginx:1.27"),
            ("team/web", "docker.io/team/web:latest", "team/web"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx"),
            (
                "index.docker.io/library/nginx:1",
                "docker.io/library/nginx:1",
                "nginx:1",
            ),
            ("localhost/app", "localhost/app:latest", "localhost/app"),
            (
                "127.0.0.1:5000/a:b",
                "127.0.0.1:5000/a:b",
                "127.0.0.1:5000/a:b",
            ),
            ("[::1]:5000/a", "[::1]:5000/a:latest", "[::1]:5000/a"),
            (
                "Registry.Example/a__b/c--d",
                "registry.example/a__b/c--d:latest",
                "registry.example/a__b/c--d",
            ),
            (
                &format!("nginx@{sha}"),
                &format!("docker.io/library/nginx@{sha}"),
                &format!("nginx@{sha}"),
            ),
            (
                &format!("r.example:1/n:t@{sha}"),
                &format!("r.example:1/n:t@{sha}"),
                &format!("r.example:1/n:t@{sha}"),
            ),
        ] {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full);
            assert_eq!(reference.familiar(), familiar);
            assert_eq!(full.parse::<Reference>().as_ref(), Ok(&reference));
            assert_eq!(familiar.parse::<Reference>(), Ok(reference));
        }
    }

    #[test]
    fn what_is_no_name_is_refused() {
        for bad in [
            "",
            "Nginx",
            "nginx:",
            "nginx:a b",
            "https://nginx",
            "a//b",
            "/a",
            "a/",
            "a:b:c",
            "..",
            "../a",
            "a/../b",
            "nginx@sha256:12",
            "-a",
            "a-",
            "a..b",
            "a.example:port/x",
            "a.example:99999/x",
            "a.example:+5/x",
            "[::1/x",
            "[zz]/x",
            "a.-b.c/x",
            "ü",
            ":1",
            "@",
            "a___b",
            "a\n",
            "a b",
            "r.example/",
            ".example/a",
            &"a".repeat(300),
            &format!("a:{}", "b".repeat(129)),
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn parsing_ends_and_what_it_takes_it_reads_again(text in "[a-zA-Z0-9._:/@\\[\\]-]{0,60}|\\PC{0,40}") {
            if let Ok(reference) = text.parse::<Reference>() {
                prop_assert_eq!(reference.to_string().parse::<Reference>(), Ok(reference.clone()));
                prop_assert_eq!(reference.familiar().parse::<Reference>(), Ok(reference));
            }
        }
    }
}
