//! Image names: `nginx`, `nginx:1.27`, `registry.example:5000/team/web@sha256:…`.
//!
//! Source: the reference grammar of the distribution project
//! (`distribution/reference`), which Docker and Kubernetes use.

/// Longest name without tag and digest, in bytes.
const MAX_NAME_BYTES: usize = 255;
/// Longest tag, in bytes.
const MAX_TAG_BYTES: usize = 128;

/// Why a text is not an image name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {remedy}")]
pub struct ReferenceError {
    /// What is wrong with it.
    pub what: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

fn wrong<T>(what: &'static str, remedy: &'static str) -> Result<T, ReferenceError> {
    Err(ReferenceError { what, remedy })
}

/// Checks that `text` names an image: `[host[:port]/]path[:tag][@digest]`.
pub fn check_reference(text: &str) -> Result<(), ReferenceError> {
    if text.is_empty() {
        return wrong("it is empty", "name an image, as in nginx:1.27");
    }
    if text.contains("://") {
        return wrong("it is an address", "leave out the part up to ://");
    }
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return wrong("it has white space in it", "remove it");
    }
    if text.contains("${") || text.contains("{{") {
        return wrong(
            "variables are not put in here",
            "write the name out, or run envsubst first",
        );
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (text, None),
    };
    if let Some(digest) = digest
        && digest.parse::<skerry_wire::Digest>().is_err()
    {
        return wrong(
            "the part after '@' is not a digest",
            "write sha256: and 64 hexadecimal digits",
        );
    }
    // A colon before the last slash belongs to a port.
    let after_slash = rest.rfind('/').map_or(0, |at| at + 1);
    let (name, tag) = match rest[after_slash..].find(':') {
        Some(at) => {
            let at = after_slash + at;
            (&rest[..at], Some(&rest[at + 1..]))
        }
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    check_name(name)
}

fn check_tag(tag: &str) -> Result<(), ReferenceError> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    if tag.is_empty() {
        return wrong(
            "the tag after ':' is missing",
            "write one, or remove the ':'",
        );
    }
    if tag.len() > MAX_TAG_BYTES || tag.starts_with(['.', '-']) || !tag.bytes().all(inner) {
        return wrong(
            "the tag is not well formed",
            "use up to 128 letters, digits, '_', '.' and '-', not starting with '.' or '-'",
        );
    }
    Ok(())
}

fn check_name(name: &str) -> Result<(), ReferenceError> {
    if name.len() > MAX_NAME_BYTES {
        return wrong("it has more than 255 characters", "shorten it");
    }
    let (host, path) = match name.split_once('/') {
        Some((first, path)) if is_host(first) => (Some(first), path),
        _ => (None, name),
    };
    if let Some(host) = host {
        check_host(host)?;
    }
    for part in path.split('/') {
        if part.is_empty() {
            return wrong(
                "a part between slashes is empty",
                "write registry/path/name:tag",
            );
        }
        if part.contains(|c: char| c.is_ascii_uppercase()) {
            return wrong("it has capital letters", "write it in small letters");
        }
        if !is_component(part) {
            return wrong(
                "it is not well formed",
                "use a-z, 0-9, and '.', '_' or '-' between them",
            );
        }
    }
    Ok(())
}

/// What Docker takes for a host instead of a part of the path.
fn is_host(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.starts_with('[')
}

fn check_host(host: &str) -> Result<(), ReferenceError> {
    let remedy = "write it as in registry.example:5000/name";
    let (name, port) = match host.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, after)) => {
                if address.parse::<std::net::Ipv6Addr>().is_err() {
                    return wrong("the registry's address is not well formed", remedy);
                }
                ("", after)
            }
            None => return wrong("the registry's address has no ']'", remedy),
        },
        None => match host.find(':') {
            Some(at) => host.split_at(at),
            None => (host, ""),
        },
    };
    let port_ok = port.is_empty()
        || port
            .strip_prefix(':')
            .is_some_and(|p| p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok());
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    let label =
        |l: &str| !l.is_empty() && l.bytes().all(inner) && !l.starts_with('-') && !l.ends_with('-');
    if !port_ok {
        return wrong("the registry's port is not a number", remedy);
    }
    if !host.starts_with('[') && !name.split('.').all(label) {
        return wrong("the registry's name is not well formed", remedy);
    }
    Ok(())
}

/// `[a-z0-9]+` groups with one of `.`, `_`, `__` or any number of `-` between.
fn is_component(part: &str) -> bool {
    let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let edges = bytes.first().is_some_and(|b| alphanumeric(*b))
        && bytes.last().is_some_and(|b| alphanumeric(*b));
    let separators_ok = part
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
    edges && separators_ok
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_what_docker_takes() {
        let digest = format!("a/b@sha256:{}", "0".repeat(64));
        for good in [
            "nginx",
            "nginx:1.27",
            "library/nginx",
            "localhost/app:dev",
            "registry.example:5000/team/web-app_1:v1.0-rc.1",
            "127.0.0.1:5000/a",
            "[::1]:5000/a",
            "a__b/c--d",
            "Registry.Example/a",
            &digest,
        ] {
            assert_eq!(check_reference(good), Ok(()), "{good}");
        }
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
            "nginx@sha256:12",
            "-a",
            "a-",
            "a..b",
            "a.example:port/x",
            "a.example:99999/x",
            "[::1/x",
            "[zz]/x",
            "nginx:${TAG}",
            "a.-b.c/x",
            "ü",
            ":1",
            "@",
        ] {
            assert!(check_reference(bad).is_err(), "{bad}");
        }
    }
}
