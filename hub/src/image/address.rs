//! Addresses of registries, and which may be spoken to without TLS.

use ureq::http::Uri;

pub(super) fn authority(uri: &Uri) -> String {
    uri.authority()
        .map(|a| a.as_str().to_ascii_lowercase())
        .unwrap_or_default()
}

pub(super) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost"
        || name
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback())
}

/// A `Location` relative to where it came from (RFC 3986, 5.2, as far as
/// registries use it: whole addresses, `//host/path` and `/path`).
pub(super) fn resolve(base: &Uri, target: &str) -> Option<Uri> {
    let whole = if target.contains("://") {
        target.to_owned()
    } else if let Some(rest) = target.strip_prefix("//") {
        format!("{}://{rest}", base.scheme_str()?)
    } else if target.starts_with('/') {
        format!("{}://{}{target}", base.scheme_str()?, base.authority()?)
    } else {
        return None;
    };
    let uri: Uri = whole.parse().ok()?;
    (matches!(uri.scheme_str(), Some("http" | "https")) && uri.authority().is_some()).then_some(uri)
}

/// Percent-encodes a query value.
pub(super) fn query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte.into())
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_is_spoken_to_in_the_clear() {
        for (host, loopback) in [
            ("localhost:5000", true),
            ("127.0.0.1", true),
            ("[::1]:5000", true),
            ("127.0.0.1.evil.example", false),
            ("registry.example:5000", false),
            ("[::2]", false),
        ] {
            assert_eq!(is_loopback(host), loopback, "{host}");
        }
    }

    #[test]
    fn redirects_are_resolved() {
        let base: Uri = "https://r.example:5000/v2/a/blobs/x".parse().unwrap();
        let to = |target: &str| resolve(&base, target).map(|uri| uri.to_string());
        assert_eq!(to("/x?y").as_deref(), Some("https://r.example:5000/x?y"));
        assert_eq!(
            to("//cdn.example/x").as_deref(),
            Some("https://cdn.example/x")
        );
        assert_eq!(
            to("http://cdn.example/x").as_deref(),
            Some("http://cdn.example/x")
        );
        for bad in ["x", "", "file:///etc/passwd", "ftp://a/b"] {
            assert_eq!(to(bad), None, "{bad}");
        }
        assert_eq!(query("repository:a/b:pull"), "repository%3Aa%2Fb%3Apull");
    }
}
