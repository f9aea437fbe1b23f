//! What machines images are for.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What an image runs on; the system is always Linux.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, `arm`, ...
    pub arch: String,
    /// `v7`, or empty.
    pub variant: String,
}

impl Platform {
    /// From the words of OCI or of `uname -m`.
    pub fn new(arch: &str, variant: &str) -> Self {
        let (arch, variant) = match (arch, variant) {
            ("x86_64" | "x86-64", v) => ("amd64", v),
            ("aarch64", v) => ("arm64", v),
            ("armhf" | "armv7l", "") => ("arm", "v7"),
            ("armel" | "armv6l", "") => ("arm", "v6"),
            other => other,
        };
        Self {
            arch: arch.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// Which instruction set of its kind: 0 without one. A variant left out
    /// means the one that containerd assumes.
    fn level(&self) -> Option<u32> {
        match (self.variant.strip_prefix('v'), self.arch.as_str()) {
            (_, "arm") if self.variant.is_empty() => Some(7),
            (_, "arm64") if self.variant.is_empty() => Some(8),
            (_, "amd64") if self.variant.is_empty() => Some(1),
            _ if self.variant.is_empty() => Some(0),
            (Some(number), _) => number.parse().ok(),
            (None, _) => None,
        }
    }

    /// How well an image for `self` runs on `machine`: `None` when it does not,
    /// else the higher the better.
    pub fn suits(&self, machine: &Platform) -> Option<u32> {
        if self.arch != machine.arch {
            return None;
        }
        match (self.level(), machine.level()) {
            (Some(image), Some(has)) if image <= has => Some(image),
            (None, None) if self.variant == machine.variant => Some(0),
            _ => None,
        }
    }
}

/// `linux/arm/v7`.
impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.arch)?;
        match self.variant.as_str() {
            "" => Ok(()),
            variant => write!(f, "/{variant}"),
        }
    }
}

impl FromStr for Platform {
    type Err = String;

    /// Takes `linux/arm64`, `linux/arm/v7` and `arm64`.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split('/').collect();
        let word = |part: &&str| {
            !part.is_empty()
                && part.len() <= 32
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        match parts.as_slice() {
            parts if !parts.iter().all(word) => {}
            ["linux", arch] | [arch] if *arch != "linux" => return Ok(Self::new(arch, "")),
            ["linux", arch, variant] => return Ok(Self::new(arch, variant)),
            _ => {}
        }
        let shown: String = text.chars().take(60).collect();
        Err(format!(
            "'{shown}' is not a platform; write one as in linux/arm64 or linux/arm/v7"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_suit_machines_of_their_kind_and_not_newer() {
        let p = Platform::new;
        for (image, device, suits) in [
            (p("amd64", ""), p("amd64", ""), Some(1)),
            (p("amd64", "v3"), p("amd64", ""), None),
            (p("amd64", ""), p("x86_64", ""), Some(1)),
            (p("amd64", ""), p("amd64", "v3"), Some(1)),
            (p("arm64", ""), p("arm64", "v8"), Some(8)),
            (p("arm64", "v8"), p("aarch64", ""), Some(8)),
            (p("arm64", "v8"), p("arm64", ""), Some(8)),
            (p("arm", "v6"), p("arm", "v7"), Some(6)),
            (p("arm", "v7"), p("armv7l", ""), Some(7)),
            (p("arm", "v7"), p("arm", "v6"), None),
            (p("arm", "v6"), p("arm", "v5"), None),
            (p("arm", "v7"), p("arm64", "v8"), None),
            (p("ppc64le", "odd"), p("ppc64le", "odd"), Some(0)),
        ] {
            assert_eq!(image.suits(&device), suits, "{image} on {device}");
        }
    }

    #[test]
    fn platforms_are_read_as_people_write_them() {
        let shown = |text: &str| text.parse::<Platform>().map(|p| p.to_string());
        assert_eq!(shown("arm64").as_deref(), Ok("linux/arm64"));
        assert_eq!(shown("linux/arm/v7").as_deref(), Ok("linux/arm/v7"));
        for bad in [
            "",
            "linux",
            "windows/amd64",
            "linux/",
            "a/b/c/d",
            "li nux/arm",
        ] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
