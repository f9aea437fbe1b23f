//! Image names in manifests: [`Reference`] says what is one, and here are the
//! mistakes that people make in manifests.

use crate::image::reference::Reference;

/// Why a text is not an image name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {remedy}")]
pub struct ReferenceError {
    /// What is wrong with it.
    pub what: &'static str,
    /// What to do.
    pub remedy: &'static str,
}

/// Checks that `text` names an image: `[host[:port]/]path[:tag][@digest]`.
pub fn check_reference(text: &str) -> Result<(), ReferenceError> {
    let wrong = |what, remedy| Err(ReferenceError { what, remedy });
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return wrong("it has white space in it", "remove it");
    }
    if text.contains("${") || text.contains("{{") {
        return wrong(
            "variables are not put in here",
            "write the name out, or run envsubst first",
        );
    }
    match text.parse::<Reference>() {
        Ok(_) => Ok(()),
        Err(error) => match error.problem.split_once("; ") {
            Some((what, remedy)) => wrong(what, remedy),
            None => wrong("it is not well formed", error.problem),
        },
    }
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
